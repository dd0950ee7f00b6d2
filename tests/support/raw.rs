//! Launches the test kernels of `kernels/simt/tests`, which no launcher knows, on raw buffers.

use std::sync::Mutex;

use u2pl_engine::Error;
use u2pl_engine::device::gpu::driver::{Driver, Ptr};
use u2pl_engine::device::gpu::kernels::KernelInfo;
use u2pl_engine::device::gpu::simt::{Options, Schedule, SimtDriver};

/// A launch of a test kernel: `x` in, `y` out, two numbers.
pub struct Raw<'a> {
    pub name: &'static str,
    pub threads: u32,
    pub blocks: u32,
    pub shared_bytes: u32,
    pub x: &'a [u8],
    pub y_bytes: usize,
    pub n: u64,
    pub m: u64,
}

/// A report that is not about the launching thread's kernel would be confusing: one at a time.
static ONE: Mutex<()> = Mutex::new(());

impl Raw<'_> {
    /// The bytes of `y` after the launch, which started from zeros, or the report.
    pub fn run(&self, schedule: Schedule, seed: u64, threads: usize) -> Result<Vec<u8>, String> {
        let _one = ONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let driver = SimtDriver::new(Options {
            seed,
            schedule,
            threads,
            ..Options::default()
        })
        .unwrap();
        let x = driver.alloc(self.x.len()).unwrap();
        let y = driver.alloc(self.y_bytes).unwrap();
        driver.upload(x, self.x).unwrap();
        let result = self.launch(&driver, x, y);
        let mut bytes = vec![0; self.y_bytes];
        driver.download(y, &mut bytes).unwrap();
        driver.free(x);
        driver.free(y);
        match result {
            Ok(()) => Ok(bytes),
            Err(Error::Device { problem, .. }) => Err(problem),
            Err(other) => panic!("{other}"),
        }
    }

    fn launch(&self, driver: &SimtDriver, x: Ptr, y: Ptr) -> Result<(), Error> {
        let args = [x.0, y.0, self.n, self.m];
        let info = KernelInfo {
            name: self.name,
            threads: self.threads,
            args_bytes: size_of_val(&args),
            unit: "tests",
        };
        let grid = [self.blocks, 1, 1];
        driver.launch(&info, grid, self.shared_bytes, bytemuck::bytes_of(&args))
    }
}

//! Launches the test kernels of `kernels/simt/tests`, which no launcher knows, on raw buffers.
#![allow(dead_code)] // each test takes what it needs

/// A launch of a test kernel: `x` in, `y` out, two numbers.
#[derive(Clone, Copy)]
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

/// In which order warps run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    Sequential,
    Uniform,
    Pct,
}

/// What a test kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum On {
    /// The PTX machine: what nvcc made of it.
    #[cfg(feature = "ptx")]
    Machine,
    /// The SIMT runtime: its source.
    #[cfg(feature = "simt")]
    Simt,
}

impl On {
    pub const ALL: &[Self] = &[
        #[cfg(feature = "ptx")]
        Self::Machine,
        #[cfg(feature = "simt")]
        Self::Simt,
    ];
}

impl Raw<'_> {
    /// The bytes of `y` after the launch, which started from zeros, or the report.
    pub fn run(&self, on: On, order: Order, seed: u64, threads: usize) -> Result<Vec<u8>, String> {
        match on {
            #[cfg(feature = "ptx")]
            On::Machine => machine::run(self, order, seed, threads),
            #[cfg(feature = "simt")]
            On::Simt => simt::run(self, order, seed, threads),
        }
    }
}

#[cfg(feature = "ptx")]
mod machine {
    use std::sync::OnceLock;

    use u2pl_engine::ptx::{Machine, Module, Options, Schedule};

    use super::{Order, Raw};

    const PTX: [&str; 2] = [
        include_str!(concat!(env!("OUT_DIR"), "/planted.ptx")),
        include_str!(concat!(env!("OUT_DIR"), "/unit.ptx")),
    ];

    fn modules() -> &'static [Module] {
        static MODULES: OnceLock<Vec<Module>> = OnceLock::new();
        MODULES.get_or_init(|| {
            assert!(
                PTX.iter().all(|text| !text.is_empty()),
                "built without nvcc: run scripts/install-nvcc.sh"
            );
            let parsed = PTX.iter().map(|text| Module::parse(text, "tests.ptx"));
            parsed.collect::<Result<_, _>>().unwrap()
        })
    }

    pub fn run(raw: &Raw, order: Order, seed: u64, threads: usize) -> Result<Vec<u8>, String> {
        let machine = Machine::new(Options {
            schedule: match order {
                Order::Sequential => Schedule::Sequential,
                Order::Uniform => Schedule::Uniform,
                Order::Pct => Schedule::Pct,
            },
            seed,
            threads,
            // Enough for every right one; a loop without end is found soon.
            max_instructions: 1 << 18,
            ..Options::default()
        });
        let x = machine.alloc(raw.x.len() as u64, 256).unwrap();
        let y = machine.alloc(raw.y_bytes as u64, 256).unwrap();
        machine.write(x, raw.x).unwrap();
        machine.fill(y, raw.y_bytes as u64, 0).unwrap();
        let has = |module: &&Module| module.entry(raw.name).is_some();
        let module = modules().iter().find(has).expect(raw.name);
        let args = [x, y, raw.n, raw.m];
        let (grid, block) = ([raw.blocks, 1, 1], [raw.threads, 1, 1]);
        let args = bytemuck::bytes_of(&args);
        let launched = machine.launch(module, raw.name, grid, block, raw.shared_bytes, args);
        launched.map_err(|fault| fault.to_string())?;
        let mut bytes = vec![0; raw.y_bytes];
        machine.read(y, &mut bytes).unwrap();
        Ok(bytes)
    }
}

#[cfg(feature = "simt")]
mod simt {
    use std::sync::Mutex;

    use u2pl_engine::Error;
    use u2pl_engine::device::gpu::driver::{Driver, Ptr};
    use u2pl_engine::device::gpu::kernels::KernelInfo;
    use u2pl_engine::device::gpu::simt::{Options, Schedule, SimtDriver};

    use super::{Order, Raw};

    /// A report that is not about the launching thread's kernel would be confusing: one at a time.
    static ONE: Mutex<()> = Mutex::new(());

    pub fn run(raw: &Raw, order: Order, seed: u64, threads: usize) -> Result<Vec<u8>, String> {
        let _one = ONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let driver = SimtDriver::new(Options {
            seed,
            schedule: match order {
                Order::Sequential => Schedule::Sequential,
                Order::Uniform => Schedule::Uniform,
                Order::Pct => Schedule::Pct,
            },
            threads,
            ..Options::default()
        })
        .unwrap();
        let x = driver.alloc(raw.x.len()).unwrap();
        let y = driver.alloc(raw.y_bytes).unwrap();
        driver.upload(x, raw.x).unwrap();
        let result = launch(raw, &driver, x, y);
        let mut bytes = vec![0; raw.y_bytes];
        driver.download(y, &mut bytes).unwrap();
        driver.free(x);
        driver.free(y);
        match result {
            Ok(()) => Ok(bytes),
            Err(Error::Device { problem, .. }) => Err(problem),
            Err(other) => panic!("{other}"),
        }
    }

    fn launch(raw: &Raw, driver: &SimtDriver, x: Ptr, y: Ptr) -> Result<(), Error> {
        let args = [x.0, y.0, raw.n, raw.m];
        let info = KernelInfo {
            name: raw.name,
            threads: raw.threads,
            args_bytes: size_of_val(&args),
            unit: "tests",
        };
        let grid = [raw.blocks, 1, 1];
        driver.launch(&info, grid, raw.shared_bytes, bytemuck::bytes_of(&args))
    }
}

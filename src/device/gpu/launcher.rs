//! What every launcher is made of: one call on one device, its operands checked and addressed, its
//! kernels queued.

use super::driver::{Limits, Ptr};
use super::kernels::{Kernel, Map};
use super::levels::Level;
use super::{GpuDevice, MathMode};
use crate::device::{Call, DType, Shape, View};
use crate::error::{Error, Result};

/// Words of [`Launcher::tickets`]: a conv tile that is cut, or 32 channels, takes one.
pub(super) const TICKETS: usize = 1024;

/// What a launcher works with: one call on one device.
pub(super) struct Launcher<'a> {
    pub(super) device: &'a GpuDevice,
    pub(super) call: &'a Call,
}

impl Launcher<'_> {
    pub(super) fn limits(&self) -> Limits {
        self.device.driver.limits()
    }

    pub(super) fn math(&self) -> MathMode {
        self.device.math
    }

    /// Which kernels the call may use.
    pub(super) fn level(&self) -> Level {
        self.device.level_of(self.call)
    }

    /// The workspace's address and size; its size is what `workspace_bytes` asked for.
    pub(super) fn workspace(&self) -> Result<(Ptr, usize)> {
        match &self.call.workspace {
            Some(view) => Ok((self.device.address(view)?, view.span_bytes())),
            None => Ok((Ptr::NULL, 0)),
        }
    }

    /// Input `i`, which must be there.
    pub(super) fn input(&self, i: usize) -> Result<&View> {
        self.call
            .ins
            .get(i)
            .ok_or_else(|| self.wrong(&format!("input {i} is missing")))
    }

    /// Output `i`, which must be there.
    pub(super) fn output(&self, i: usize) -> Result<&View> {
        self.call
            .outs
            .get(i)
            .ok_or_else(|| self.wrong(&format!("output {i} is missing")))
    }

    /// Address of a view of `dtype`; any layout.
    pub(super) fn ptr(&self, view: &View, dtype: DType) -> Result<Ptr> {
        if view.dtype != dtype {
            return Err(self.wrong(&format!("expected {dtype:?}, got {view:?}")));
        }
        self.device.address(view)
    }

    /// Address of a dense view of `dtype`.
    pub(super) fn dense(&self, view: &View, dtype: DType) -> Result<Ptr> {
        if !view.is_dense() {
            return Err(self.wrong(&format!("expected a dense view, got {view:?}")));
        }
        self.ptr(view, dtype)
    }

    /// Fails unless every view has the shape beside it.
    pub(super) fn want_shapes(&self, wanted: &[(&View, Shape)]) -> Result<()> {
        match wanted.iter().find(|(view, shape)| view.shape != *shape) {
            None => Ok(()),
            Some((view, shape)) => Err(self.wrong(&format!("expected {shape:?}, got {view:?}"))),
        }
    }

    /// A size as the kernels take it.
    pub(super) fn size(&self, n: usize) -> Result<u32> {
        u32::try_from(n).map_err(|_| self.wrong("a dimension over 2^32"))
    }

    /// A view as the kernels' `Map`.
    pub(super) fn map(&self, view: &View) -> Result<Map> {
        let [n, h, w, c] = view.shape;
        Ok(Map {
            data: self.device.address(view)?,
            ld: view.ld as u64,
            n: self.size(n)?,
            h: self.size(h)?,
            w: self.size(w)?,
            c: self.size(c)?,
        })
    }

    /// A small table in device memory, uploaded once per content and kept as long as the device.
    /// The first run of a call makes it, so a recording finds it there.
    pub(super) fn constant<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<Ptr> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut constants = self
            .device
            .constants
            .lock()
            .map_err(|_| Error::internal("poisoned constant table"))?;
        if let Some(ptr) = constants.get(bytes) {
            return Ok(*ptr);
        }
        let ptr = self.device.driver.alloc(bytes.len().max(1))?;
        self.device.driver.upload(ptr, bytes)?;
        constants.insert(bytes.to_vec(), ptr);
        Ok(ptr)
    }

    /// `count` words that are zero whenever no kernel runs: who takes the last ticket puts it back.
    /// Kernels run one after the other, so all share them.
    pub(super) fn tickets(&self, count: usize) -> Result<Ptr> {
        if count > TICKETS {
            return Err(self.wrong(&format!("{count} tickets, of {TICKETS}")));
        }
        self.constant(&[0u32; TICKETS])
    }

    /// Launches `kernel` on `grid` blocks. An empty grid is no launch.
    pub(super) fn launch<A: bytemuck::NoUninit>(
        &self,
        kernel: Kernel<A>,
        grid: [usize; 3],
        shared_bytes: usize,
        args: &A,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let limits = [i32::MAX as usize, 65_535, 65_535];
        let mut blocks = [0u32; 3];
        for ((b, g), limit) in blocks.iter_mut().zip(grid).zip(limits) {
            if g > limit {
                return Err(self.wrong(&format!("{}: grid {grid:?}", kernel.info.name)));
            }
            *b = g as u32;
        }
        // Before it: a kernel that fails is the one that is looked for.
        self.device.levels.note(kernel.info.name);
        self.device.driver.launch(
            &kernel.info,
            blocks,
            shared_bytes as u32,
            bytemuck::bytes_of(args),
        )
    }

    /// Blocks of a grid-stride loop over `items`: enough to fill the machine, no more than work.
    pub(super) fn stride_grid<A>(&self, kernel: &Kernel<A>, items: usize) -> [usize; 3] {
        let full = self.limits().multiprocessors as usize * 16;
        [items.div_ceil(kernel.info.threads as usize).min(full), 1, 1]
    }

    pub(super) fn wrong(&self, problem: &str) -> Error {
        Error::internal(format!("{}: {problem}", self.call.op.name()))
    }
}

//! A host-side bench for unit tests: tensors in an arena, a call, and the bytes that come out.

use std::cell::Cell;

use super::CpuDevice;
use crate::device::philox::Rng;
use crate::device::{ArenaId, Call, DType, Device, Op, Shape, View};

/// A device with one arena to bump-allocate from.
pub(super) struct Bench {
    device: CpuDevice,
    arena: ArenaId,
    used: Cell<usize>,
}

const ARENA_BYTES: usize = 16 << 20;

impl Bench {
    pub(super) fn new(threads: usize) -> Self {
        let device = CpuDevice::new(threads).unwrap();
        let arena = device.alloc(ARENA_BYTES).unwrap();
        let used = Cell::new(0);
        Self {
            device,
            arena,
            used,
        }
    }

    /// A view of fresh memory with `gap` unused elements after each pixel.
    fn view(&self, shape: Shape, gap: usize, dtype: DType) -> View {
        let mut view = View::dense(self.arena, self.used.get(), shape, dtype);
        view.ld += gap;
        // The gap of the last pixel too, so that `wide` fits.
        let bytes = view.pixels() * view.ld * dtype.bytes();
        self.used.set((view.offset + bytes).next_multiple_of(64));
        assert!(self.used.get() <= ARENA_BYTES, "test arena too small");
        view
    }

    /// The same memory with the gaps as channels.
    fn wide(view: &View) -> View {
        let mut wide = *view;
        wide.shape[3] = view.ld;
        wide
    }

    /// A float map, its gaps filled with [`Bench::GAP`].
    pub(super) fn f32(&self, shape: Shape, gap: usize, data: &[f32]) -> View {
        assert_eq!(data.len(), crate::device::elements(shape));
        let view = self.view(shape, gap, DType::F32);
        let mut all = vec![Self::GAP; view.pixels() * view.ld];
        for (row, px) in all.chunks_mut(view.ld).zip(data.chunks(shape[3])) {
            row[..shape[3]].copy_from_slice(px);
        }
        let bytes = bytemuck::cast_slice(&all);
        self.device.write(&Self::wide(&view), bytes).unwrap();
        view
    }

    /// What gaps hold; [`Bench::get`] checks that operations leave it alone.
    pub(super) const GAP: f32 = -777.25;

    /// An output map whose contents (and gaps) start as [`Bench::GAP`].
    pub(super) fn out(&self, shape: Shape, gap: usize) -> View {
        self.f32(shape, gap, &vec![Self::GAP; crate::device::elements(shape)])
    }

    /// A dense byte map.
    pub(super) fn u8(&self, shape: Shape, data: &[u8]) -> View {
        let view = self.view(shape, 0, DType::U8);
        self.device.write(&view, data).unwrap();
        view
    }

    /// A dense word vector.
    pub(super) fn u32(&self, shape: Shape, data: &[u32]) -> View {
        let view = self.view(shape, 0, DType::U32);
        let bytes = bytemuck::cast_slice(data);
        self.device.write(&view, bytes).unwrap();
        view
    }

    /// A float vector.
    pub(super) fn vector(&self, data: &[f32]) -> View {
        self.f32([1, 1, 1, data.len()], 0, data)
    }

    /// Runs and returns what the device said.
    pub(super) fn try_run(
        &self,
        op: Op,
        ins: &[View],
        outs: &[View],
        accumulate: u32,
    ) -> crate::error::Result<()> {
        let (ins, outs) = (ins.to_vec(), outs.to_vec());
        self.device.run(&Call {
            op,
            ins,
            outs,
            accumulate,
            workspace: None,
        })
    }

    /// Runs a call that must succeed.
    pub(super) fn run(&self, op: Op, ins: &[View], outs: &[View]) {
        self.try_run(op, ins, outs, 0).unwrap();
    }

    /// Runs a call that must succeed, adding to the outputs in `accumulate`.
    pub(super) fn add(&self, op: Op, ins: &[View], outs: &[View], accumulate: u32) {
        self.try_run(op, ins, outs, accumulate).unwrap();
    }

    /// A float map's elements, after checking that its gaps are untouched.
    pub(super) fn get(&self, view: &View) -> Vec<f32> {
        let mut all = vec![0f32; view.pixels() * view.ld];
        let bytes = bytemuck::cast_slice_mut(&mut all);
        self.device.read(&Self::wide(view), bytes).unwrap();
        let mut data = Vec::new();
        for row in all.chunks(view.ld) {
            let (px, gap) = row.split_at(view.channels());
            assert!(gap.iter().all(|&g| g == Self::GAP), "wrote into a gap");
            data.extend_from_slice(px);
        }
        data
    }

    /// A dense byte map's elements.
    pub(super) fn get_u8(&self, view: &View) -> Vec<u8> {
        let mut data = vec![0; view.elements()];
        self.device.read(view, &mut data).unwrap();
        data
    }
}

/// `n` reproducible values uniform on [-1, 1).
pub(super) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let rng = Rng::seeded(seed, 0, 0);
    (0..n as u64).map(|i| rng.uniform(i) * 2.0 - 1.0).collect()
}

/// Asserts `|a − b| ≤ tol · max(1, |b|)` element by element.
#[track_caller]
pub(super) fn close(a: &[f32], b: &[f64], tol: f64) {
    assert_eq!(a.len(), b.len());
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        let off = (f64::from(a) - b).abs();
        assert!(off <= tol * b.abs().max(1.0), "element {i}: {a} vs {b}");
    }
}

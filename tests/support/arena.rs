//! A handful of tensors on a device, each in an arena of its own (so that a device which checks
//! bounds checks every tensor's), with optional gaps between pixels so that strided views are
//! exercised.

use u2pl_engine::device::{ArenaId, Call, DType, Device, Op, Shape, View, elements};

/// What the gaps of strided views, and the ends of all tensors, are filled with. An operation
/// that writes outside its view destroys it.
const CANARY: u8 = 0xA5;

/// One tensor to lay out.
#[derive(Clone, Debug)]
pub struct Spec {
    pub shape: Shape,
    pub dtype: DType,
    /// Extra elements between pixels.
    pub gap: usize,
}

impl Spec {
    pub fn dense(shape: Shape, dtype: DType) -> Self {
        Self {
            shape,
            dtype,
            gap: 0,
        }
    }

    fn view(&self, arena: ArenaId, offset: usize) -> View {
        View {
            ld: self.shape[3] + self.gap,
            ..View::dense(arena, offset, self.shape, self.dtype)
        }
    }
}

/// Tensors on a device, freed on drop.
pub struct Tensors<'d> {
    device: &'d dyn Device,
    pub views: Vec<View>,
}

fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

impl<'d> Tensors<'d> {
    /// Allocates and fills everything with the canary.
    pub fn new(device: &'d dyn Device, specs: &[Spec]) -> Self {
        let views = specs.iter().map(|spec| {
            let mut view = spec.view(ArenaId(0), 0);
            // At least one canary byte after every tensor.
            let bytes = align(view.span_bytes() + 1);
            view.arena = device.alloc(bytes).expect("arena");
            let whole = View::dense(view.arena, 0, [1, 1, 1, bytes], DType::U8);
            device
                .write(&whole, &vec![CANARY; bytes])
                .expect("write canary");
            view
        });
        Self {
            views: views.collect(),
            device,
        }
    }

    /// The dense window of raw bytes that covers a view, gaps included.
    fn window(view: &View) -> View {
        View::dense(
            view.arena,
            view.offset,
            [1, 1, 1, view.span_bytes()],
            DType::U8,
        )
    }

    /// Writes packed elements (gaps are left out of `bytes`).
    pub fn write(&self, i: usize, bytes: &[u8]) {
        let view = &self.views[i];
        let size = view.dtype.bytes();
        assert_eq!(bytes.len(), elements(view.shape) * size, "tensor {i}");
        let (row, step) = (view.channels() * size, view.ld * size);
        let mut raw = vec![CANARY; view.span_bytes()];
        for (pixel, from) in bytes.chunks_exact(row).enumerate() {
            raw[pixel * step..pixel * step + row].copy_from_slice(from);
        }
        self.device
            .write(&Self::window(view), &raw)
            .expect("write tensor");
    }

    /// Reads packed elements; fails when the gaps were written to.
    pub fn read(&self, i: usize) -> Vec<u8> {
        let view = &self.views[i];
        let size = view.dtype.bytes();
        let (row, step) = (view.channels() * size, view.ld * size);
        let mut raw = vec![0; view.span_bytes()];
        self.device
            .read(&Self::window(view), &mut raw)
            .expect("read tensor");
        let mut packed = Vec::with_capacity(view.elements() * size);
        for pixel in raw.chunks(step) {
            packed.extend_from_slice(&pixel[..row]);
            assert!(
                pixel[row..].iter().all(|&b| b == CANARY),
                "tensor {i}: written between pixels"
            );
        }
        packed
    }

    /// Fails when anything wrote to the alignment padding between tensors.
    pub fn check_padding(&self) {
        for (i, view) in self.views.iter().enumerate() {
            let end = view.offset + view.span_bytes();
            let window = View::dense(view.arena, end, [1, 1, 1, align(end + 1) - end], DType::U8);
            let mut bytes = vec![0; window.elements()];
            self.device.read(&window, &mut bytes).expect("read padding");
            assert!(
                bytes.iter().all(|&b| b == CANARY),
                "written past the end of tensor {i}"
            );
        }
    }

    /// Runs one operation over tensors by index, with the workspace it asks for.
    pub fn run(&self, op: &Op, ins: &[usize], outs: &[usize], accumulate: u32) {
        let pick = |ids: &[usize]| ids.iter().map(|&i| self.views[i]).collect::<Vec<View>>();
        let (ins, outs) = (pick(ins), pick(outs));
        let bytes = self.device.workspace_bytes(op, &ins, &outs);
        let scratch = (bytes > 0).then(|| self.device.alloc(bytes).expect("workspace"));
        let workspace = scratch.map(|arena| {
            let view = View::dense(arena, 0, [1, 1, 1, bytes.div_ceil(4)], DType::F32);
            // Undefined contents: make them NaN, so that a read of them shows.
            let raw = View::dense(arena, 0, [1, 1, 1, bytes], DType::U8);
            self.device
                .write(&raw, &vec![0xFF; bytes])
                .expect("write workspace");
            if bytes.is_multiple_of(4) { view } else { raw }
        });
        let call = Call {
            op: op.clone(),
            ins,
            outs,
            accumulate,
            workspace,
        };
        let result = self.device.run(&call);
        if let Some(arena) = scratch {
            self.device.free(arena);
        }
        if let Err(error) = result {
            panic!("{}: {error}", op.name());
        }
    }

    /// Convenience for f32 tensors.
    pub fn write_f32(&self, i: usize, values: &[f32]) {
        self.write(i, bytemuck::cast_slice(values));
    }

    /// Convenience for f32 tensors.
    pub fn read_f32(&self, i: usize) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.read(i))
    }
}

impl Drop for Tensors<'_> {
    fn drop(&mut self) {
        for view in &self.views {
            self.device.free(view.arena);
        }
    }
}

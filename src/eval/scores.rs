//! Averaging scores over windows, scales and mirrored copies: a map of C scores a pixel, on the
//! device, that logits of any resolution are added to.

use std::sync::Arc;

use crate::device::{Call, DType, Device, Met, Op, Shape, View};
use crate::graph::exec::{Arena, read_view};
use crate::graph::state::State;
use crate::{Error, Result};

use super::windows::Rect;

/// Scores of one image and how many were added to each pixel.
pub(super) struct ScoreMap {
    device: Arc<dyn Device>,
    arena: Arena,
    layout: State,
    classes: usize,
    size: [usize; 2],
}

impl ScoreMap {
    fn layout([h, w]: [usize; 2], classes: usize) -> State {
        let mut layout = State::new();
        layout.add("scores", [1, h, w, classes], DType::F32);
        layout.add("counts", [1, h, w, 1], DType::F32);
        layout.add("window", [1, 1, 1, 4], DType::U32);
        layout.add("entropy", [1, h, w, 1], DType::F32);
        layout.add("argmax", [1, h, w, 1], DType::U8);
        layout.add("confidence", [1, h, w, 1], DType::F32);
        layout.add("truth", [1, h, w, 1], DType::U8);
        layout.add("confusion", [1, 1, classes, classes], DType::U32);
        layout
    }

    /// Bytes of a map of `size` (height, width).
    pub(super) fn bytes(size: [usize; 2], classes: usize) -> usize {
        Self::layout(size, classes).bytes()
    }

    /// An empty map of `size` (height, width).
    pub(super) fn new(device: Arc<dyn Device>, size: [usize; 2], classes: usize) -> Result<Self> {
        let layout = Self::layout(size, classes);
        let arena = Arena::new(device.clone(), layout.bytes())?;
        Ok(Self {
            device,
            arena,
            layout,
            classes,
            size,
        })
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.size[1]
    }

    /// Rows.
    pub(super) fn height(&self) -> usize {
        self.size[0]
    }

    fn view(&self, name: &str) -> Result<View> {
        self.layout.view(name, self.arena.id())
    }

    fn call(&self, op: Op, ins: Vec<View>, outs: Vec<View>) -> Result<()> {
        call(&self.device, op, ins, outs)
    }

    /// Adds `logits`, upsampled to `window`, or their softmax; mirrored when `flip`.
    pub(super) fn add(&self, logits: View, window: Rect, flip: bool, softmax: bool) -> Result<()> {
        let words = [window.y, window.x, window.height, window.width].map(|n| n as u32);
        let place = self.view("window")?;
        self.device.write(&place, bytemuck::cast_slice(&words))?;
        let outs = vec![self.view("scores")?, self.view("counts")?];
        self.call(Op::AddScores { flip, softmax }, vec![logits, place], outs)
    }

    /// Entropy, argmax and confidence, in the map's arena. `softmax`: probabilities were added.
    pub(super) fn finish(&self, softmax: bool) -> Result<()> {
        let ins = vec![self.view("scores")?, self.view("counts")?];
        let outs = vec![
            self.view("entropy")?,
            self.view("argmax")?,
            self.view("confidence")?,
        ];
        self.call(Op::FinishScores { softmax }, ins, outs)
    }

    /// Entropy, argmax, confidence of the last [`ScoreMap::finish`].
    pub(super) fn maps(&self) -> Result<(Vec<f32>, Vec<u8>, Vec<f32>)> {
        let d = &*self.device;
        Ok((
            read_view(d, &self.view("entropy")?)?,
            read_view(d, &self.view("argmax")?)?,
            read_view(d, &self.view("confidence")?)?,
        ))
    }

    /// The confusion matrix of `truth` (the map's size) and the last argmax.
    pub(super) fn confusion(&self, truth: &[u8], ignore: u8) -> Result<Vec<u32>> {
        let (labels, matrix) = (self.view("truth")?, self.view("confusion")?);
        self.device.write(&labels, truth)?;
        let ins = vec![labels, self.view("argmax")?];
        self.call(Op::LabelConfusion { ignore }, ins, vec![matrix])?;
        read_view(&*self.device, &matrix)
    }

    /// Mean scores within `part`, `[1, height, width, classes]`, on the host.
    pub(super) fn mean(&self, part: Rect) -> Result<Vec<f32>> {
        let scores: Vec<f32> = read_view(&*self.device, &self.view("scores")?)?;
        let counts: Vec<f32> = read_view(&*self.device, &self.view("counts")?)?;
        let [h, w] = self.size;
        if part.y + part.height > h || part.x + part.width > w {
            return Err(Error::internal(format!(
                "{part:?} of a map of {:?}",
                self.size
            )));
        }
        let c = self.classes;
        let mut out = Vec::with_capacity(part.height * part.width * c);
        for y in part.y..part.y + part.height {
            for pixel in y * w + part.x..y * w + part.x + part.width {
                let n = counts[pixel];
                out.extend(scores[pixel * c..][..c].iter().map(|s| s / n));
            }
        }
        Ok(out)
    }
}

/// Runs one operation with scratch of its own.
fn call(device: &Arc<dyn Device>, op: Op, ins: Vec<View>, outs: Vec<View>) -> Result<()> {
    device.meet(&[Met::of(&op, &ins, &outs)])?;
    let bytes = device.workspace_bytes(&op, &ins, &outs);
    let scratch = match bytes {
        0 => None,
        n => Some(Arena::new(device.clone(), n)?),
    };
    let workspace = scratch
        .as_ref()
        .map(|a| View::dense(a.id(), 0, [1, 1, 1, bytes / 4], DType::F32));
    device.run(&Call {
        op,
        ins,
        outs,
        accumulate: 0,
        workspace,
    })
}

/// A tensor of host values in an arena of its own.
pub(super) struct Uploaded {
    _arena: Arena,
    /// Where it is.
    pub(super) view: View,
}

impl Uploaded {
    /// Copies f32 `values` of `shape` to the device.
    pub(super) fn new(device: &Arc<dyn Device>, values: &[f32], shape: Shape) -> Result<Self> {
        let arena = Arena::new(device.clone(), 4 * values.len())?;
        let view = View::dense(arena.id(), 0, shape, DType::F32);
        device.write(&view, bytemuck::cast_slice(values))?;
        Ok(Self {
            _arena: arena,
            view,
        })
    }

    /// Entropy, argmax and confidence of logits, upsampled to `size` (height, width).
    pub(super) fn maps(
        &self,
        device: &Arc<dyn Device>,
        [h, w]: [usize; 2],
    ) -> Result<(Vec<f32>, Vec<u8>, Vec<f32>)> {
        let mut layout = State::new();
        layout.add("entropy", [1, h, w, 1], DType::F32);
        layout.add("argmax", [1, h, w, 1], DType::U8);
        layout.add("confidence", [1, h, w, 1], DType::F32);
        let arena = Arena::new(device.clone(), layout.bytes())?;
        let [entropy, argmax, confidence] =
            ["entropy", "argmax", "confidence"].map(|name| layout.view(name, arena.id()));
        let outs = [entropy?, argmax?, confidence?];
        let op = Op::SoftmaxEntropy { log_eps: 0.0 };
        call(device, op, vec![self.view], outs.to_vec())?;
        Ok((
            read_view(&**device, &outs[0])?,
            read_view(&**device, &outs[1])?,
            read_view(&**device, &outs[2])?,
        ))
    }
}

//! The network as a program that takes images of one size, u8 or f32: normalise, pad, infer, read
//! the result.
//!
//! One program per input size. Programs are kept for the sizes seen last, because a dataset
//! comes in few sizes and a plan and an arena cost time and memory.

mod on_device;

pub use on_device::MapPlaces;

use std::sync::Arc;

use crate::Result;
use crate::config::schema::{Config, Mode};
use crate::device::op::{Augment, Window};
use crate::device::{ArenaId, DType, Device, Met, Op, View};
use crate::graph::exec::Program;
use crate::graph::ops::{BnMode, BnParams};
use crate::graph::params::{Layout, ParamSet};
use crate::graph::plan::Plan;
use crate::graph::{Graph, TensorId};
use crate::model::{self, Want};

use super::windows::{Sample, SampleKind};

/// Programs kept at a time, where nothing else is said.
const KEPT: usize = 8;

/// Memory that kept programs may hold together, bytes; the one in use always may.
const KEPT_BYTES: usize = 4 << 30;

/// Trained values on the device: which arena, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The state arena.
    pub arena: ArenaId,
    /// Offsets of the flat weights and buffers.
    pub set: ParamSet,
}

/// What a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// The logits.
    Logits,
    /// The logits, and from them entropy, argmax and confidence at the input's resolution.
    Maps,
    /// The logits, and from them the confusion matrix against labels at the input's resolution.
    Confusion,
    /// The sum of the encoder's features over the cells of a mask.
    FeatureSum,
    /// The logits, given the mean of the features over a larger image.
    InContext,
}

/// Images, all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub images: usize,
    /// Height and width.
    pub size: [usize; 2],
}

impl Shape {
    /// One image.
    pub(super) fn one(size: [usize; 2]) -> Self {
        Self { images: 1, size }
    }
}

/// The tensors that the host fills.
enum Inputs {
    /// u8 images, labels, and the size of each.
    Bytes {
        images: TensorId,
        labels: TensorId,
        sizes: TensorId,
    },
    /// f32 images, and the mean and one over the deviation of each channel, then zeros and ones.
    Floats {
        images: TensorId,
        constants: [TensorId; 4],
    },
}

impl Inputs {
    fn images(&self) -> TensorId {
        match *self {
            Inputs::Bytes { images, .. } | Inputs::Floats { images, .. } => images,
        }
    }
}

/// A program and the tensors that the host fills and reads.
pub(super) struct Net {
    program: Program,
    inputs: Inputs,
    /// What a tail takes besides: a mask, a context.
    extra: Option<TensorId>,
    logits: Option<TensorId>,
    /// Of the tail, in the order of its operation's outputs.
    results: Vec<TensorId>,
    shape: Shape,
    /// Of the pixels, bytes 0 to 255.
    mean: [f32; 3],
    std: [f32; 3],
}

impl Net {
    /// As [`Net::run`], operation by operation: the first layer with values that are no finite numbers.
    pub(super) fn first_not_finite<T: Sample>(
        &self,
        images: &[&[T]],
        size: [usize; 2],
    ) -> Result<Option<String>> {
        self.fill(images, None, size)?;
        self.program.first_not_finite()
    }

    /// Runs on images of `height` × `width`, at most the program's size (the rest is padded);
    /// without labels every pixel is labelled 0.
    pub(super) fn run<T: Sample>(
        &self,
        images: &[&[T]],
        labels: Option<&[u8]>,
        size: [usize; 2],
    ) -> Result<()> {
        self.fill(images, labels, size)?;
        self.program.run()
    }

    /// Puts in what a run starts from.
    fn fill<T: Sample>(
        &self,
        images: &[&[T]],
        labels: Option<&[u8]>,
        size: [usize; 2],
    ) -> Result<()> {
        let given = (images.len(), 3 * size[0] * size[1]);
        let fits = size[0] <= self.shape.size[0] && size[1] <= self.shape.size[1];
        if !fits || given.0 != self.shape.images || images.iter().any(|i| i.len() != given.1) {
            return Err(crate::Error::internal(format!(
                "{} images of {size:?} for a program of {:?}",
                given.0, self.shape
            )));
        }
        match self.inputs {
            Inputs::Bytes {
                images: pixels,
                labels: at,
                sizes,
            } => {
                let capacity = self.shape.size[0] * self.shape.size[1];
                let mut staged = vec![0u8; 3 * capacity * images.len()];
                for (to, from) in staged.chunks_exact_mut(3 * capacity).zip(images) {
                    to[..given.1].copy_from_slice(bytemuck::try_cast_slice(from).map_err(kind)?);
                }
                self.program.write(pixels, &staged)?;
                // Every time: their memory is others' once they have been read.
                staged.truncate(capacity * images.len());
                staged.fill(0);
                if let Some(labels) = labels {
                    staged[..labels.len()].copy_from_slice(labels);
                }
                self.program.write(at, &staged)?;
                let words = size.map(|n| n as u32).repeat(images.len());
                self.program.write(sizes, &words)?;
            }
            Inputs::Floats {
                images: pixels,
                constants: [mean, scale, zero, one],
            } => {
                let mut staged = Vec::new();
                for image in images {
                    let image = bytemuck::try_cast_slice(image).map_err(kind)?;
                    self.centre(image, size, &mut staged);
                }
                self.program.write(pixels, &staged)?;
                self.program.write(mean, &self.mean.map(|m| m / 255.0))?;
                self.program.write(scale, &self.std.map(|s| 255.0 / s))?;
                self.program.write(zero, &[0f32; 3])?;
                self.program.write(one, &[1f32; 3])?;
            }
        }
        Ok(())
    }

    /// Appends an image in the middle of the program's size, the rest of the colour that is zero
    /// when normalised; the odd row and column of padding come last, as [`Augment`] has them.
    fn centre(&self, image: &[f32], [height, width]: [usize; 2], out: &mut Vec<f32>) {
        let [h, w] = self.shape.size;
        let blank = self.mean.map(|m| m / 255.0);
        let (top, left) = ((h - height) / 2, (w - width) / 2);
        let start = out.len();
        for _ in 0..h * w {
            out.extend(blank);
        }
        for (y, row) in image.chunks_exact(3 * width).enumerate() {
            let at = start + 3 * ((top + y) * w + left);
            out[at..at + row.len()].copy_from_slice(row);
        }
    }

    /// Fills what the tail takes besides the images; before each run.
    pub(super) fn write_extra(&self, values: &[f32]) -> Result<()> {
        let extra = self
            .extra
            .ok_or_else(|| crate::Error::internal("a program without a further input"))?;
        self.program.write(extra, values)
    }

    /// Where the logits of the last run are.
    pub(super) fn logits(&self) -> Result<View> {
        let logits = self
            .logits
            .ok_or_else(|| crate::Error::internal("a program without logits"))?;
        Ok(self.program.view(logits))
    }

    /// Output `i` of the tail's operation.
    pub(super) fn result<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        i: usize,
    ) -> Result<Vec<T>> {
        self.program.read(self.results[i])
    }

    /// Image `image` of output `i`, a map: so that a batch's maps are never there twice.
    pub(super) fn result_of<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        image: usize,
        i: usize,
    ) -> Result<Vec<T>> {
        self.program.read_image(self.results[i], image)
    }
}

fn kind(_: bytemuck::PodCastError) -> crate::Error {
    crate::Error::internal("images of another sample type than the program's")
}

/// What makes two programs different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    weights: Weights,
    shape: Shape,
    sample: SampleKind,
    tail: Tail,
}

/// Builds programs and keeps the last few.
pub(super) struct Networks {
    device: Arc<dyn Device>,
    cfg: Config,
    layout: Layout,
    limit: usize,
    /// Most recently used first.
    kept: Vec<(Key, Net)>,
}

impl Networks {
    pub(super) fn new(device: Arc<dyn Device>, cfg: &Config, layout: Layout) -> Self {
        Self {
            device,
            cfg: cfg.clone(),
            layout,
            limit: KEPT,
            kept: Vec::new(),
        }
    }

    /// Keeps at most `limit` programs, and always the one in use.
    pub(super) fn keep(&mut self, limit: usize) {
        self.limit = limit.max(1);
        self.kept.truncate(self.limit);
    }

    /// The program for images of samples `T` padded to `shape`.
    pub(super) fn get<T: Sample>(
        &mut self,
        weights: Weights,
        shape: Shape,
        tail: Tail,
    ) -> Result<&Net> {
        let key = Key {
            weights,
            shape,
            sample: T::KIND,
            tail,
        };
        match self.kept.iter().position(|(k, _)| *k == key) {
            Some(at) => self.kept[..=at].rotate_right(1),
            None => {
                // Room first, so that the peak is that of what is kept.
                self.kept.truncate(self.limit - 1);
                while self.held() > KEPT_BYTES {
                    self.kept.pop();
                }
                let net = match self.build(&key) {
                    // What is kept is a cache: its memory may be what is missing.
                    Err(crate::Error::Device { .. }) if !self.kept.is_empty() => {
                        self.kept.clear();
                        self.build(&key)?
                    }
                    built => built?,
                };
                self.kept.insert(0, (key, net));
            }
        }
        Ok(&self.kept[0].1)
    }

    /// Bytes of the arena that [`Networks::get`] would allocate.
    pub(super) fn bytes<T: Sample>(
        &mut self,
        set: ParamSet,
        shape: Shape,
        tail: Tail,
    ) -> Result<usize> {
        let mut graph = graph(&self.cfg, &mut self.layout, set, shape, T::KIND, tail)?.graph;
        graph.suit(&*self.device)?;
        Ok(Plan::new(&graph, &*self.device).bytes)
    }

    /// What the device meets in a program with this tail.
    pub(super) fn met(&mut self, set: ParamSet, shape: Shape, tail: Tail) -> Result<Vec<Met>> {
        let kind = SampleKind::Byte;
        match graph(&self.cfg, &mut self.layout, set, shape, kind, tail) {
            Ok(made) => Ok(made.graph.met_on(&*self.device)),
            // Too small a shape for this network: programs of others are met when they are made.
            Err(crate::Error::Input { .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Bytes of the kept programs' arenas.
    pub(super) fn held(&self) -> usize {
        self.kept.iter().map(|(_, n)| n.program.arena_bytes()).sum()
    }

    fn build(&mut self, key: &Key) -> Result<Net> {
        let (set, shape) = (key.weights.set, key.shape);
        let made = graph(
            &self.cfg,
            &mut self.layout,
            set,
            shape,
            key.sample,
            key.tail,
        )?;
        made.bind(&self.cfg, self.device.clone(), key.weights.arena)
    }
}

/// A program before it has memory.
struct NetGraph {
    graph: Graph,
    inputs: Inputs,
    rng: TensorId,
    extra: Option<TensorId>,
    logits: Option<TensorId>,
    results: Vec<TensorId>,
    shape: Shape,
}

impl NetGraph {
    /// Gives it memory.
    fn bind(self, cfg: &Config, device: Arc<dyn Device>, arena: ArenaId) -> Result<Net> {
        let program = Program::new(self.graph, device, arena)?;
        program.write(self.rng, &[0u32; 4])?;
        Ok(Net {
            program,
            inputs: self.inputs,
            extra: self.extra,
            logits: self.logits,
            results: self.results,
            shape: self.shape,
            mean: cfg.data.mean,
            std: cfg.data.std,
        })
    }
}

/// The graph that `infer` runs on an image of `size` (height, width): normalise, network, maps.
///
/// # Errors
/// [`crate::Error::Input`] when the image is too small for the network.
pub fn inference_graph(
    cfg: &Config,
    layout: &mut Layout,
    set: ParamSet,
    size: [usize; 2],
) -> Result<Graph> {
    let (shape, kind) = (Shape::one(size), SampleKind::Byte);
    Ok(graph(cfg, layout, set, shape, kind, Tail::Maps)?.graph)
}

fn graph(
    cfg: &Config,
    layout: &mut Layout,
    set: ParamSet,
    shape: Shape,
    kind: SampleKind,
    tail: Tail,
) -> Result<NetGraph> {
    let mut g = Graph::new();
    // Nothing is drawn: no scale, no flip, no dropout.
    let rng = g.input("rng", [1, 1, 1, 4], DType::U32);
    let (inputs, x, label) = match kind {
        SampleKind::Byte => {
            let (inputs, x, label) = from_bytes(cfg, &mut g, shape, rng);
            (inputs, x, Some(label))
        }
        SampleKind::Float => {
            let (inputs, x) = from_floats(&mut g, shape)?;
            (inputs, x, None)
        }
    };
    let mut ctx = model::Ctx {
        graph: &mut g,
        layout,
        set: ParamSet {
            trainable: false,
            ..set
        },
        train: false,
        rng,
        stream: 0,
    };
    let (model, classes) = (&cfg.model, cfg.data.classes);
    let (mut logits, mut extra, mut results) = (None, None, Vec::new());
    match tail {
        Tail::Logits | Tail::Maps | Tail::Confusion => {
            let want = Want::default();
            logits = Some(model::network(&mut ctx, model, classes, x, want)?.logits);
        }
        Tail::FeatureSum => {
            let features = model::features(&mut ctx, model, x)?;
            let (mask, sum) = feature_sum(&mut g, features);
            (extra, results) = (Some(mask), vec![sum]);
        }
        Tail::InContext => {
            let (found, context) = model::network_in_context(&mut ctx, model, classes, x)?;
            (logits, extra) = (Some(found), Some(context));
        }
    }
    if let Some(logits) = logits {
        g.keep(logits);
        results = add_tail(cfg, &mut g, tail, shape, logits, label)?;
    }
    for &t in &results {
        g.keep(t);
    }
    if let Some(twin) = set.twin(layout) {
        g.lower_to_bf16(&[twin])?;
    }
    Ok(NetGraph {
        graph: g,
        inputs,
        rng,
        extra,
        logits,
        results,
        shape,
    })
}

/// u8 images, each of its own size within `shape`, to normalised ones in the middle of it, and
/// their labels.
fn from_bytes(
    cfg: &Config,
    g: &mut Graph,
    shape: Shape,
    rng: TensorId,
) -> (Inputs, TensorId, TensorId) {
    let (n, [h, w]) = (shape.images, shape.size);
    let images = g.input("images", [n, 1, 1, 3 * h * w], DType::U8);
    let labels = g.input("labels", [n, 1, 1, h * w], DType::U8);
    let sizes = g.input("sizes", [n, 1, 1, 2], DType::U32);
    let x = g.transient("image", [n, h, w, 3], DType::F32);
    let label = g.transient("label", [n, h, w, 1], DType::U8);
    let normalise = Op::Augment(Augment {
        scale: (1.0, 1.0),
        flip: 0.0,
        random_crop: false,
        mean: cfg.data.mean,
        std: cfg.data.std,
        pad_label: match cfg.method.mode {
            Mode::Paper => cfg.data.ignore_index,
            Mode::Released => 0, // method §4 row 10
        },
        stream: 0,
    });
    g.push(
        "normalise",
        normalise,
        vec![images, labels, sizes, rng],
        vec![x, label],
    );
    let inputs = Inputs::Bytes {
        images,
        labels,
        sizes,
    };
    (inputs, x, label)
}

/// f32 images of `shape` to normalised ones: a batch norm with the dataset's statistics.
fn from_floats(g: &mut Graph, shape: Shape) -> Result<(Inputs, TensorId)> {
    let (n, [h, w]) = (shape.images, shape.size);
    let images = g.input("images", [n, h, w, 3], DType::F32);
    let constants =
        ["mean", "scale", "zero", "one"].map(|name| g.input(name, [1, 1, 1, 3], DType::F32));
    let [mean, scale, zero, one] = constants;
    let norm = BnParams {
        gamma: scale,
        beta: zero,
        running_mean: mean,
        running_var: one,
    };
    let mode = BnMode {
        train: false,
        eps: 0.0,
        momentum: 0.0,
        relu: false,
    };
    let x = g.batch_norm("normalise", images, norm, None, mode, None)?;
    Ok((Inputs::Floats { images, constants }, x))
}

/// Per channel the sum of `features` over the cells where the mask, an input of ones and zeros,
/// is one: the gradient of a 1×1 convolution to its weights is that sum.
fn feature_sum(g: &mut Graph, features: TensorId) -> (TensorId, TensorId) {
    let [n, h, w, channels] = g.shape(features);
    let mask = g.input("mask", [n, h, w, 1], DType::F32);
    let sum = g.transient("feature_sum", [1, 1, 1, channels], DType::F32);
    let window = Window {
        stride: 1,
        padding: 0,
        dilation: 1,
    };
    let op = Op::ConvWgrad(window);
    g.push("feature_sum", op, vec![features, mask], vec![sum]);
    (mask, sum)
}

fn add_tail(
    cfg: &Config,
    g: &mut Graph,
    tail: Tail,
    shape: Shape,
    logits: TensorId,
    label: Option<TensorId>,
) -> Result<Vec<TensorId>> {
    let (n, [h, w]) = (shape.images, shape.size);
    Ok(match tail {
        Tail::Logits | Tail::InContext | Tail::FeatureSum => Vec::new(),
        Tail::Maps => {
            let map = |g: &mut Graph, name, dtype| g.transient(name, [n, h, w, 1], dtype);
            let outs = vec![
                map(g, "entropy", DType::F32),
                map(g, "argmax", DType::U8),
                map(g, "confidence", DType::F32),
            ];
            let op = Op::SoftmaxEntropy { log_eps: 0.0 };
            g.push("maps", op, vec![logits], outs.clone());
            outs
        }
        Tail::Confusion => {
            let label = label
                .ok_or_else(|| crate::Error::internal("labels come with images of bytes only"))?;
            let classes = cfg.data.classes;
            let matrix = g.transient("confusion", [1, 1, classes, classes], DType::U32);
            let op = Op::Confusion {
                ignore: cfg.data.ignore_index,
            };
            g.push("confusion", op, vec![logits, label], vec![matrix]);
            vec![matrix]
        }
    })
}

//! The network as a program that takes one u8 image: normalise, pad, infer, read the result.
//!
//! One program per input size. Programs are kept for the sizes seen last, because a dataset
//! comes in few sizes and a plan and an arena cost time and memory.

use std::sync::Arc;

use crate::Result;
use crate::config::schema::{Config, Mode};
use crate::device::op::Augment;
use crate::device::{ArenaId, DType, Device, Op, View};
use crate::graph::exec::Program;
use crate::graph::params::{Layout, ParamSet};
use crate::graph::{Graph, TensorId};
use crate::model::{self, Want};

/// Programs kept at a time.
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

/// What a program computes from the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing: the logits are the result.
    Logits,
    /// Entropy, argmax and confidence at the input's resolution.
    Maps,
    /// The confusion matrix against labels at the input's resolution.
    Confusion,
}

/// A program and the tensors that the host fills and reads.
pub(super) struct Net {
    program: Program,
    images: TensorId,
    labels: TensorId,
    sizes: TensorId,
    logits: TensorId,
    /// Of the tail, in the order of its operation's outputs.
    results: Vec<TensorId>,
    capacity: usize,
}

impl Net {
    /// Runs on an image of `height` × `width`, at most the program's size (the rest is padded);
    /// without labels every pixel is labelled 0.
    pub(super) fn run(
        &self,
        rgb: &[u8],
        labels: Option<&[u8]>,
        height: usize,
        width: usize,
    ) -> Result<()> {
        let mut staged = vec![0u8; 3 * self.capacity];
        staged[..rgb.len()].copy_from_slice(rgb);
        self.program.write(self.images, &staged)?;
        staged.truncate(self.capacity);
        staged.fill(0);
        if let Some(labels) = labels {
            staged[..labels.len()].copy_from_slice(labels);
        }
        self.program.write(self.labels, &staged)?;
        self.program
            .write(self.sizes, &[height as u32, width as u32])?;
        self.program.run()
    }

    /// Where the logits of the last run are.
    pub(super) fn logits(&self) -> View {
        self.program.view(self.logits)
    }

    /// Output `i` of the tail's operation.
    pub(super) fn result<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        i: usize,
    ) -> Result<Vec<T>> {
        self.program.read(self.results[i])
    }
}

/// What makes two programs different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    weights: Weights,
    size: [usize; 2],
    tail: Tail,
}

/// Builds programs and keeps the last few.
pub(super) struct Networks {
    device: Arc<dyn Device>,
    cfg: Config,
    layout: Layout,
    /// Most recently used first.
    kept: Vec<(Key, Net)>,
}

impl Networks {
    pub(super) fn new(device: Arc<dyn Device>, cfg: &Config, layout: Layout) -> Self {
        Self {
            device,
            cfg: cfg.clone(),
            layout,
            kept: Vec::new(),
        }
    }

    /// The program for inputs padded to `size` (height, width).
    pub(super) fn get(&mut self, weights: Weights, size: [usize; 2], tail: Tail) -> Result<&Net> {
        let key = Key {
            weights,
            size,
            tail,
        };
        match self.kept.iter().position(|(k, _)| *k == key) {
            Some(at) => self.kept[..=at].rotate_right(1),
            None => {
                // Room first, so that the peak is that of what is kept.
                self.kept.truncate(KEPT - 1);
                while self.held() > KEPT_BYTES {
                    self.kept.pop();
                }
                let net = match self.build(weights.arena, weights.set, size, tail) {
                    // What is kept is a cache: its memory may be what is missing.
                    Err(crate::Error::Device { .. }) if !self.kept.is_empty() => {
                        self.kept.clear();
                        self.build(weights.arena, weights.set, size, tail)?
                    }
                    built => built?,
                };
                self.kept.insert(0, (key, net));
            }
        }
        Ok(&self.kept[0].1)
    }

    fn held(&self) -> usize {
        self.kept.iter().map(|(_, n)| n.program.arena_bytes()).sum()
    }

    fn build(
        &mut self,
        arena: ArenaId,
        set: ParamSet,
        size: [usize; 2],
        tail: Tail,
    ) -> Result<Net> {
        let made = graph(&self.cfg, &mut self.layout, set, (1, size), tail)?;
        made.bind(self.device.clone(), arena, size)
    }
}

/// The network on several whole images of one size at a time.
pub struct Batched {
    net: Net,
    images: usize,
    size: [usize; 2],
}

impl Batched {
    /// A program for `images` images of `size` (height, width), with the weights that it will
    /// always use.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the images are too small for the network; the device's.
    pub fn new(
        device: Arc<dyn Device>,
        cfg: &Config,
        mut layout: Layout,
        weights: Weights,
        images: usize,
        size: [usize; 2],
    ) -> Result<Self> {
        let made = graph(cfg, &mut layout, weights.set, (images, size), Tail::Maps)?;
        let net = made.bind(device, weights.arena, size)?;
        Ok(Self { net, images, size })
    }

    /// Entropy, class and confidence of every pixel, image after image. `pixels` are u8 RGB,
    /// `[images, height, width, 3]`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] when `pixels` is not of that size; the device's.
    pub fn maps(&self, pixels: &[u8]) -> Result<(Vec<f32>, Vec<u8>, Vec<f32>)> {
        let [h, w] = self.size;
        if pixels.len() != 3 * self.images * h * w {
            return Err(crate::Error::internal(format!(
                "{} bytes for {} images of {h} x {w}",
                pixels.len(),
                self.images
            )));
        }
        let net = &self.net;
        net.program.write(net.images, pixels)?;
        // Every time: their memory is others' once they have been read.
        net.program
            .write(net.labels, &vec![0u8; self.images * h * w])?;
        let sizes = [h as u32, w as u32].repeat(self.images);
        net.program.write(net.sizes, &sizes)?;
        net.program.run()?;
        Ok((net.result(0)?, net.result(1)?, net.result(2)?))
    }

    /// The program, for its plan and its cost.
    pub fn program(&self) -> &Program {
        &self.net.program
    }
}

/// A program before it has memory.
struct NetGraph {
    graph: Graph,
    images: TensorId,
    labels: TensorId,
    sizes: TensorId,
    rng: TensorId,
    logits: TensorId,
    results: Vec<TensorId>,
}

impl NetGraph {
    /// Gives it memory.
    fn bind(self, device: Arc<dyn Device>, arena: ArenaId, [h, w]: [usize; 2]) -> Result<Net> {
        let program = Program::new(self.graph, device, arena)?;
        program.write(self.rng, &[0u32; 4])?;
        Ok(Net {
            program,
            images: self.images,
            labels: self.labels,
            sizes: self.sizes,
            logits: self.logits,
            results: self.results,
            capacity: h * w,
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
    Ok(graph(cfg, layout, set, (1, size), Tail::Maps)?.graph)
}

fn graph(
    cfg: &Config,
    layout: &mut Layout,
    set: ParamSet,
    (n, [h, w]): (usize, [usize; 2]),
    tail: Tail,
) -> Result<NetGraph> {
    let mut g = Graph::new();
    let images = g.input("images", [n, 1, 1, 3 * h * w], DType::U8);
    let labels = g.input("labels", [n, 1, 1, h * w], DType::U8);
    let sizes = g.input("sizes", [n, 1, 1, 2], DType::U32);
    // Nothing is drawn: no scale, no flip, no dropout.
    let rng = g.input("rng", [1, 1, 1, 4], DType::U32);
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
    let (classes, want) = (cfg.data.classes, Want::default());
    let logits = model::network(&mut ctx, &cfg.model, classes, x, want)?.logits;
    g.keep(logits);
    let results = add_tail(cfg, &mut g, tail, logits, label);
    if let Some(twin) = set.twin(layout) {
        g.lower_to_bf16(&[twin])?;
    }
    Ok(NetGraph {
        graph: g,
        images,
        labels,
        sizes,
        rng,
        logits,
        results,
    })
}

fn add_tail(
    cfg: &Config,
    g: &mut Graph,
    tail: Tail,
    logits: TensorId,
    label: TensorId,
) -> Vec<TensorId> {
    let [n, h, w, _] = g.shape(label);
    let results = match tail {
        Tail::Logits => Vec::new(),
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
            let classes = cfg.data.classes;
            let matrix = g.transient("confusion", [1, 1, classes, classes], DType::U32);
            let op = Op::Confusion {
                ignore: cfg.data.ignore_index,
            };
            g.push("confusion", op, vec![logits, label], vec![matrix]);
            vec![matrix]
        }
    };
    for &t in &results {
        g.keep(t);
    }
    results
}

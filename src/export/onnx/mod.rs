//! ONNX: a network for other runtimes.
//!
//! Comes in: a configuration and its trained values. Goes out: a file with one input, `image`
//! `[batch, 3, height, width]`, RGB from 0 to 1, and one output, `logits`
//! `[batch, classes, height, width]`; batch, height and width are free. The picture goes in as it is: the
//! graph resizes it by `data.image_scale` and normalises it, as `infer` does, and the logits have its
//! size. The operators are those of the engine's own inference graph, walked node by node, so the two
//! cannot drift apart. [`left_to_caller`] says what of the configuration is not in the graph; the file's
//! metadata say it too.
//!
//! Maps are NCHW there and NHWC here; weights are K·C·R·S on any disk. A tensor that several
//! operations write a slice of becomes a `Concat` where it is first read. A resize takes its size
//! from another map: sizes are unknown here, but two maps of one size in a graph made for an image
//! whose sides are powers of two in the ratio 2 : 3 come from the same strides.

pub mod schema;

use std::collections::HashMap;

use prost::Message;

use crate::config::Config;
use crate::config::schema::{Protocol, Stem};
use crate::device::{DType, Op};
use crate::graph::params::{Kind, Layout, ParamSet};
use crate::graph::{Graph, Node, TensorId};
use crate::model::{self, Ctx, Want};
use crate::weights::tensor_for_disk;
use crate::{Error, Result};
use schema::{
    Attribute, Dim, Entry, Model, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};

/// Operators of this version are written: the first whose resizes can average what they drop, and that
/// has everything else that is needed.
const OPSET: i64 = 18;
/// Version of the format that came with it.
const IR_VERSION: i64 = 8;
/// Height and width that the graph is walked at.
const SIZE: [usize; 2] = [512, 768];

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// The file's bytes for the network of `cfg` with the flat `weights` and `buffers` of `layout`.
///
/// # Errors
/// [`Error::Input`] for a configuration that is no network; [`Error::Internal`] when the graph holds
/// what has no counterpart.
pub fn encode(cfg: &Config, layout: &Layout, weights: &[f32], buffers: &[f32]) -> Result<Vec<u8>> {
    let mut graph = Graph::new();
    let [h, w] = SIZE;
    let x = graph.input("normalised", [1, h, w, 3], DType::F32);
    let rng = graph.input("rng", [1, 1, 1, 4], DType::U32);
    let mut ctx = Ctx {
        graph: &mut graph,
        layout: &mut layout.clone(),
        set: ParamSet {
            weights: 0,
            buffers: 0,
            copy: None,
            vectors: None,
            trainable: false,
        },
        train: false,
        rng,
        stream: 0,
    };
    let want = Want::default();
    let logits = model::network(&mut ctx, &cfg.model, cfg.data.classes, x, want)?.logits;
    let mut walk = Walk {
        graph: &graph,
        cfg,
        layout,
        values: [weights, buffers],
        out: schema::Graph::default(),
        names: HashMap::new(),
        parts: HashMap::new(),
        sizes: vec![(SIZE, "image".into())],
    };
    walk.normalise(x)?;
    for node in graph.nodes() {
        walk.node(node)?;
    }
    let logits = walk.value(logits)?;
    let size = walk.size_of(SIZE)?;
    walk.resize("logits.upsample", &logits, &size, "logits")?;
    Ok(walk.finish().encode_to_vec())
}

/// What the graph does with a picture before the network, for people.
pub fn inside(cfg: &Config) -> String {
    match cfg.data.image_scale {
        1.0 => "the graph normalises it".into(),
        factor => format!("the graph resizes it by data.image_scale = {factor} and normalises it"),
    }
}

/// What the configuration's way of scoring has besides one look at the whole picture, which is all that
/// the graph does; a phrase each.
pub fn left_to_caller(cfg: &Config) -> Vec<String> {
    let eval = &cfg.eval;
    let mut left = Vec::new();
    if eval.protocol == Protocol::Sliding {
        let [h, w] = eval.crop.unwrap_or(cfg.augment.crop);
        left.push(format!("sliding windows of {w} × {h} (eval.protocol)"));
    }
    if eval.scales != [1.0] {
        left.push(format!(
            "looks at the scales {:?} (eval.scales)",
            eval.scales
        ));
    }
    if eval.flip {
        left.push("a look at the mirrored picture (eval.flip)".into());
    }
    left
}

struct Walk<'a> {
    graph: &'a Graph,
    cfg: &'a Config,
    layout: &'a Layout,
    /// Flat weights and buffers.
    values: [&'a [f32]; 2],
    out: schema::Graph,
    /// Value of each tensor that has one.
    names: HashMap<TensorId, String>,
    /// Slices of a root tensor: first element and value.
    parts: HashMap<TensorId, Vec<(usize, String)>>,
    /// A value for each size of maps seen.
    sizes: Vec<([usize; 2], String)>,
}

impl Walk<'_> {
    fn push(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) {
        self.out.node.push(schema::Node {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_string()],
            name: Some(output.to_string()),
            op_type: Some(op.to_string()),
            attribute,
        });
    }

    /// The picture, resized by `data.image_scale`: a triangle filter as wide as pixels are dropped, sides
    /// rounded, at least one pixel.
    fn scaled_image(&mut self) -> Result<&'static str> {
        let factor = self.cfg.data.image_scale;
        if factor == 1.0 {
            return Ok("image");
        }
        let own = self.size_of(SIZE)?;
        self.floats("image_scale", &[1], &[factor]);
        self.floats("half", &[1], &[0.5]);
        self.floats("one", &[1], &[1.0]);
        let cast = |to: i32| vec![integer("to", i64::from(to))];
        self.push("Cast", &[&own], "scaled.own", cast(FLOAT));
        self.push(
            "Mul",
            &["scaled.own", "image_scale"],
            "scaled.exact",
            Vec::new(),
        );
        self.push("Add", &["scaled.exact", "half"], "scaled.above", Vec::new());
        self.push("Floor", &["scaled.above"], "scaled.rounded", Vec::new());
        self.push(
            "Max",
            &["scaled.rounded", "one"],
            "scaled.least",
            Vec::new(),
        );
        self.push("Cast", &["scaled.least"], "scaled.size", cast(INT64));
        let how = vec![
            string("mode", "linear"),
            string("coordinate_transformation_mode", "half_pixel"),
            integer("antialias", 1),
        ];
        self.resize_as("scaled", "image", "scaled.size", "scaled", how);
        Ok("scaled")
    }

    fn constant(&mut self, name: &str, dims: &[usize], kind: i32, raw: Vec<u8>) {
        if self
            .out
            .initializer
            .iter()
            .any(|t| t.name.as_deref() == Some(name))
        {
            return;
        }
        self.out.initializer.push(Tensor {
            dims: dims.iter().map(|&n| n as i64).collect(),
            data_type: Some(kind),
            name: Some(name.to_string()),
            raw_data: Some(raw),
        });
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, dims, FLOAT, raw);
    }

    fn integers(&mut self, name: &str, values: &[i64]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, &[values.len()], INT64, raw);
    }

    /// `(image − mean/255) · 255/std`, of the resized picture.
    fn normalise(&mut self, x: TensorId) -> Result<()> {
        let data = &self.cfg.data;
        let (mean, scale) = (data.mean.map(|m| m / 255.0), data.std.map(|s| 255.0 / s));
        self.floats("mean", &[1, 3, 1, 1], &mean);
        self.floats("scale", &[1, 3, 1, 1], &scale);
        let image = self.scaled_image()?;
        self.push("Sub", &[image, "mean"], "centred", Vec::new());
        self.push("Mul", &["centred", "scale"], "normalised", Vec::new());
        self.names.insert(x, "normalised".into());
        Ok(())
    }

    /// The value of `t`: a parameter, what an operation made, or its parts side by side.
    fn value(&mut self, t: TensorId) -> Result<String> {
        if let Some(name) = self.names.get(&t) {
            return Ok(name.clone());
        }
        let tensor = self.graph.tensor(t);
        if let Some(spec) = self.layout.get(&tensor.name) {
            let values = self.values[usize::from(spec.kind == Kind::Buffer)];
            let (dims, values) = tensor_for_disk(spec, values)?;
            self.floats(&spec.name, &dims, &values);
            self.names.insert(t, spec.name.clone());
            return Ok(spec.name.clone());
        }
        let name = tensor.name.clone();
        let mut parts = self
            .parts
            .remove(&t)
            .ok_or_else(|| Error::internal(format!("{name} is read before it is written")))?;
        parts.sort();
        let inputs: Vec<&str> = parts.iter().map(|(_, name)| name.as_str()).collect();
        self.push("Concat", &inputs, &name, vec![integer("axis", 1)]);
        self.names.insert(t, name.clone());
        Ok(name)
    }

    /// Says that the operation `name` made `t`, under the name that is returned.
    fn made(&mut self, name: &str, t: TensorId) -> String {
        let value = format!("{name}.out");
        let (root, first, _) = self.graph.root(t);
        if root == t {
            self.names.insert(t, value.clone());
        } else {
            let parts = self.parts.entry(root).or_default();
            parts.push((first, value.clone()));
        }
        let [_, h, w, _] = self.graph.shape(t);
        if !self.sizes.iter().any(|(size, _)| *size == [h, w]) {
            self.sizes.push(([h, w], value.clone()));
        }
        value
    }

    /// Height and width at run time of maps that have `size` here: the value of two integers.
    fn size_of(&mut self, size: [usize; 2]) -> Result<String> {
        let like = self.sizes.iter().find(|(known, _)| *known == size);
        let like = like.map(|(_, name)| name.clone());
        let like = like.ok_or_else(|| Error::internal(format!("no map of size {size:?} yet")))?;
        let (shape, out) = (format!("{like}.shape"), format!("{like}.size"));
        if !self.out.node.iter().any(|n| n.output[0] == out) {
            self.integers("two", &[2]);
            self.integers("four", &[4]);
            self.push("Shape", &[&like], &shape, Vec::new());
            self.push("Slice", &[&shape, "two", "four"], &out, Vec::new());
        }
        Ok(out)
    }

    /// Bilinear, corners aligned, to the `size` of [`Walk::size_of`].
    fn resize(&mut self, name: &str, x: &str, size: &str, out: &str) -> Result<()> {
        let how = vec![
            string("mode", "linear"),
            string("coordinate_transformation_mode", "align_corners"),
        ];
        self.resize_as(name, x, size, out, how);
        Ok(())
    }

    fn resize_as(&mut self, name: &str, x: &str, size: &str, out: &str, how: Vec<Attribute>) {
        self.integers("zero", &[0]);
        self.integers("two", &[2]);
        let [shape, front, sizes] = ["shape", "front", "sizes"].map(|s| format!("{name}.{s}"));
        self.push("Shape", &[x], &shape, Vec::new());
        self.push("Slice", &[&shape, "zero", "two"], &front, Vec::new());
        self.push("Concat", &[&front, size], &sizes, vec![integer("axis", 0)]);
        self.push("Resize", &[x, "", "", &sizes], out, how);
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let name = node.name.as_str();
        let ins = node.ins.iter().map(|&t| self.value(t));
        let ins = ins.collect::<Result<Vec<_>>>()?;
        let ins: Vec<&str> = ins.iter().map(String::as_str).collect();
        match &node.op {
            Op::Conv(window) => {
                let out = self.made(name, node.outs[0]);
                let [_, r, s, _] = self.graph.shape(node.ins[1]);
                let [pad, dilation, stride] = [window.padding, window.dilation, window.stride];
                let attributes = vec![
                    integers("kernel_shape", &[r, s]),
                    integers("pads", &[pad; 4]),
                    integers("dilations", &[dilation; 2]),
                    integers("strides", &[stride; 2]),
                ];
                self.push("Conv", &ins, &out, attributes);
            }
            Op::BatchNormEval { eps, relu } => self.norm(node, &ins, *eps, *relu),
            Op::MaxPool { size, window } => {
                let out = self.made(name, node.outs[0]);
                let ceil = self.cfg.model.stem == Stem::Deep;
                let attributes = vec![
                    integers("kernel_shape", &[*size; 2]),
                    integers("pads", &[window.padding; 4]),
                    integers("strides", &[window.stride; 2]),
                    integer("ceil_mode", i64::from(ceil)),
                ];
                self.push("MaxPool", &ins[..1], &out, attributes);
            }
            Op::GlobalAvgPool => {
                let out = self.made(name, node.outs[0]);
                self.push("GlobalAveragePool", &ins, &out, Vec::new());
            }
            Op::Resize => {
                let [_, h, w, _] = self.graph.shape(node.outs[0]);
                let size = self.size_of([h, w])?;
                let out = self.made(name, node.outs[0]);
                self.resize(name, ins[0], &size, &out)?;
            }
            other => {
                return Err(Error::internal(format!(
                    "{} in {name} has no counterpart in ONNX",
                    other.name()
                )));
            }
        }
        Ok(())
    }

    /// Batch norm, then + residual, then ReLU, as operators of their own.
    fn norm(&mut self, node: &Node, ins: &[&str], eps: f32, relu: bool) {
        let name = node.name.as_str();
        let out = self.made(name, node.outs[0]);
        let steps = ["BatchNormalization", "Add", "Relu"];
        let wanted = [true, ins.len() > 5, relu];
        let last = wanted.iter().rposition(|&w| w).unwrap_or(0);
        let mut x = ins[0].to_string();
        for (i, step) in steps.into_iter().enumerate().filter(|(i, _)| wanted[*i]) {
            let y = match i == last {
                true => out.clone(),
                false => format!("{name}.{}", step.to_lowercase()),
            };
            match i {
                0 => {
                    let inputs = [&x, ins[1], ins[2], ins[3], ins[4]];
                    self.push(step, &inputs, &y, vec![float("epsilon", eps)]);
                }
                1 => self.push(step, &[&x, ins[5]], &y, Vec::new()),
                _ => self.push(step, &[&x], &y, Vec::new()),
            }
            x = y;
        }
    }

    fn finish(mut self) -> Model {
        let classes = self.cfg.data.classes;
        let free = |name: &str| Dim {
            value: None,
            param: Some(name.into()),
        };
        let info = |name: &str, channels: usize, doc: String| ValueInfo {
            name: Some(name.into()),
            kind: Some(Type {
                tensor: Some(TensorType {
                    elem_type: Some(FLOAT),
                    shape: Some(Shape {
                        dim: vec![
                            free("batch"),
                            Dim {
                                value: Some(channels as i64),
                                param: None,
                            },
                            free("height"),
                            free("width"),
                        ],
                    }),
                }),
            }),
            doc_string: Some(doc),
        };
        self.out.name = Some("segmentation".into());
        let input = format!("RGB, 0 to 1, as it is: {}", inside(self.cfg));
        self.out.input = vec![info("image", 3, input)];
        self.out.output = vec![info(
            "logits",
            classes,
            "before softmax, of the image's size".into(),
        )];
        let entry = |key: &str, value: String| Entry {
            key: Some(key.into()),
            value: Some(value),
        };
        let data = &self.cfg.data;
        let three = |v: [f32; 3]| v.map(|x| x.to_string()).join(",");
        let mut metadata = vec![
            entry("classes", classes.to_string()),
            entry("ignore_index", data.ignore_index.to_string()),
            entry("inside", inside(self.cfg)),
            entry("image_scale", data.image_scale.to_string()),
            entry("mean", three(data.mean)),
            entry("std", three(data.std)),
        ];
        let left = left_to_caller(self.cfg);
        if !left.is_empty() {
            metadata.push(entry("left_to_caller", left.join("; ")));
        }
        if !self.cfg.data.class_names.is_empty() {
            metadata.push(entry("class_names", self.cfg.data.class_names.join(",")));
        }
        Model {
            ir_version: Some(IR_VERSION),
            producer_name: Some("u2pl-engine".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            doc_string: None,
            graph: Some(self.out),
            opset_import: vec![OperatorSet {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            metadata_props: metadata,
        }
    }
}

fn attribute(name: &str, kind: i32) -> Attribute {
    Attribute {
        name: Some(name.into()),
        kind: Some(kind),
        ..Attribute::default()
    }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        f: Some(value),
        ..attribute(name, 1)
    }
}

fn integer(name: &str, value: i64) -> Attribute {
    Attribute {
        i: Some(value),
        ..attribute(name, 2)
    }
}

fn string(name: &str, value: &str) -> Attribute {
    Attribute {
        s: Some(value.as_bytes().to_vec()),
        ..attribute(name, 3)
    }
}

fn integers(name: &str, values: &[usize]) -> Attribute {
    Attribute {
        ints: values.iter().map(|&v| v as i64).collect(),
        ..attribute(name, 7)
    }
}

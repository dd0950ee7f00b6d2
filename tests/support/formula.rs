//! Weights by formula and settings of the golden networks (`tests/golden/README.md`).

use serde_json::Value;
use u2pl_engine::config::schema::{Decoder, Encoder, Model, Stem};
use u2pl_engine::device::elements;
use u2pl_engine::device::philox::{Rng, to_unit};
use u2pl_engine::graph::params::{Init, Kind, Layout, Spec};

fn crc32(name: &str) -> u32 {
    !name.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ if c & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

/// `2u − 1` per element, keyed by the name.
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let rng = Rng::seeded(u64::from(crc32(name)), 0, 0);
    let blocks = (0..count.div_ceil(4) as u64).flat_map(|i| rng.block(i));
    let mut values: Vec<f32> = blocks.map(|w| to_unit(w) * 2.0 - 1.0).collect();
    values.truncate(count);
    values
}

/// `[N, C, P]` to `[N, P, C]`.
pub fn channels_last(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let size = channels * pixels;
    for (from, to) in values.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        for (i, &v) in from.iter().enumerate() {
            to[(i % pixels) * channels + i / pixels] = v;
        }
    }
    out
}

/// A parameter or buffer by formula, in this engine's order.
fn formula(spec: &Spec, gain: f64) -> Vec<f32> {
    let u = uniform(&spec.name, elements(spec.shape));
    let [_, r, s, c] = spec.shape;
    let map = |f: &dyn Fn(f32) -> f32| u.iter().map(|&v| f(v)).collect::<Vec<f32>>();
    if spec.name.ends_with(".weight") && !matches!(spec.init, Init::Constant(_)) {
        let scale = (gain * (3.0 / (c * r * s) as f64).sqrt()) as f32;
        return channels_last(&map(&|v| v * scale), c, r * s);
    }
    if spec.name.ends_with(".bn3.weight") {
        return map(&|v| 0.25 * (1.0 + 0.5 * v));
    }
    if spec.name.ends_with("running_var") || spec.name.ends_with("weight") {
        return map(&|v| 1.0 + 0.5 * v);
    }
    map(&|v| 0.1 * v)
}

/// The flat vector of a kind, by formula.
pub fn fill(layout: &Layout, kind: Kind, len: usize, gain: f64) -> Vec<f32> {
    let mut flat = vec![0.0; len];
    for spec in layout.specs().iter().filter(|s| s.kind == kind) {
        let end = spec.offset + elements(spec.shape);
        flat[spec.offset..end].copy_from_slice(&formula(spec, gain));
    }
    flat
}

/// A whole number of a fixture's settings.
pub fn number(value: &Value, key: &str) -> usize {
    value[key].as_u64().expect(key) as usize
}

/// A list of them.
pub fn numbers(value: &Value) -> Vec<usize> {
    let list = value.as_array().expect("a list").iter();
    list.map(|v| v.as_u64().expect("a size") as usize).collect()
}

/// A fixture's network, without dropout.
pub fn config(value: &Value) -> Model {
    Model {
        encoder: match number(value, "depth") {
            18 => Encoder::Resnet18,
            34 => Encoder::Resnet34,
            50 => Encoder::Resnet50,
            101 => Encoder::Resnet101,
            other => panic!("depth {other}"),
        },
        stem: match value["stem"].as_str() {
            Some("deep") => Stem::Deep,
            Some("7x7") => Stem::Conv7,
            other => panic!("stem {other:?}"),
        },
        decoder: match value["decoder"].as_str() {
            Some("deeplabv3") => Decoder::Deeplabv3,
            Some("deeplabv3plus") => Decoder::Deeplabv3plus,
            other => panic!("decoder {other:?}"),
        },
        width: number(value, "width"),
        output_stride: number(value, "output_stride"),
        multi_grid: value["multi_grid"].as_bool().expect("multi_grid"),
        aspp_dilations: numbers(&value["aspp_dilations"]),
        head_width: number(value, "head_width"),
        rep_width: number(value, "rep_width"),
        dropout: 0.0,
        aux: value["aux"].as_bool().expect("aux"),
        ..Model::default()
    }
}

//! Names of cases: short, stable, and enough to tell any two of a table apart.

use super::cases::{Case, Operand};
use crate::device::op::{CeNorm, Window};
use crate::device::{DType, Op, elements};

/// `conv 3x3 d2 256-256 @65 n8`: what, geometry, channels, output grid, images, then whatever is
/// out of the ordinary.
pub(super) fn of(case: &Case) -> String {
    let mut words = vec![case.kind.to_string()];
    match (&case.op, &case.ins[..], &case.outs[..]) {
        (Op::Conv(w), [x, k, ..], [y, ..]) => conv(&mut words, *w, x, k, y),
        (Op::ConvMoments(w), [x, k, ..], [y, ..]) => conv(&mut words, *w, x, k, y),
        (Op::ConvBatchNormEval(n), [x, k, ..], [y, ..]) => conv(&mut words, n.window, x, k, y),
        (Op::ConvDgrad(w), [y, k], [x, ..]) => conv(&mut words, *w, x, k, y),
        (Op::ConvWgrad(w), [x, y], [k, ..]) => conv(&mut words, *w, x, k, y),
        _ => plain(&mut words, case),
    }
    words.extend(attributes(case));
    words.extend(layout(case));
    words.join(" ")
}

/// Numbers the cases that would have the same name.
pub(crate) fn number_repeats(cases: &mut [Case]) {
    for i in 1..cases.len() {
        let (before, rest) = cases.split_at_mut(i);
        let name = &rest[0].name;
        let repeat = |c: &&Case| c.name == *name || c.name.starts_with(&format!("{name} #"));
        let repeats = before.iter().filter(repeat).count();
        if repeats > 0 {
            rest[0].name += &format!(" #{}", repeats + 1);
        }
    }
}

fn conv(words: &mut Vec<String>, window: Window, x: &Operand, k: &Operand, y: &Operand) {
    let [_, r, s, _] = k.shape;
    words.push(format!("{r}x{s}"));
    if window.stride != 1 {
        words.push(format!("s{}", window.stride));
    }
    if window.dilation != 1 {
        words.push(format!("d{}", window.dilation));
    }
    if window.padding != window.dilation * (r - 1) / 2 {
        words.push(format!("p{}", window.padding));
    }
    words.push(format!("{}-{}", x.shape[3], k.shape[0]));
    words.push(format!("@{}", grid(y)));
    words.push(format!("n{}", y.shape[0]));
}

/// By the first input, or the first output where there is none.
fn plain(words: &mut Vec<String>, case: &Case) {
    let (Some(first), Some(out)) = (case.ins.first().or(case.outs.first()), case.outs.first())
    else {
        return;
    };
    let [n, h, w, c] = first.shape;
    if n * h * w == 1 && elements(out.shape) == c {
        words.push(count(c));
        return;
    }
    words.push(count(c));
    let (from, to) = (grid(first), grid(out));
    let is_map = |o: &Operand| o.shape[1] > 1 && o.shape[0] == n;
    match is_map(out) && to != from {
        true => words.push(format!("@{from}-{to}")),
        false => words.push(format!("@{from}")),
    }
    words.push(format!("n{n}"));
}

/// What of the operation changes its work.
fn attributes(case: &Case) -> Vec<String> {
    let mut words: Vec<&str> = Vec::new();
    let operands = case.ins.len();
    match &case.op {
        Op::Conv(_) | Op::ConvMoments(_) if operands > 2 => words.push("bias"),
        Op::ConvBatchNormEval(n) => {
            words.extend(n.bias.then_some("bias"));
            words.extend((operands > 6 + usize::from(n.bias)).then_some("residual"));
            words.extend(n.relu.then_some("relu"));
        }
        Op::ConvWgrad(_) if case.outs.len() > 1 => words.push("bias"),
        Op::BatchNorm { relu, .. } => {
            words.extend((operands > 3).then_some("residual"));
            words.extend(relu.then_some("relu"));
        }
        Op::BatchNormMerge { relu, .. } => {
            words.extend((operands > 4).then_some("residual"));
            words.extend(relu.then_some("relu"));
        }
        Op::BatchNormEval { relu, .. } => {
            words.extend((operands > 5).then_some("residual"));
            words.extend(relu.then_some("relu"));
        }
        Op::BatchNormBackward { relu } => {
            words.extend((case.outs.len() > 3).then_some("residual"));
            words.extend(relu.then_some("relu"));
        }
        Op::CrossEntropy { norm, .. } => {
            words.extend((operands > 2).then_some("ohem"));
            words.extend((*norm == CeNorm::ValidTimesAllOverValid).then_some("scaled"));
        }
        Op::CrossEntropyBackward { .. } if operands > 3 => words.push("ohem"),
        Op::AddScores { flip, softmax } => {
            words.extend(flip.then_some("flip"));
            words.extend(softmax.then_some("softmax"));
        }
        Op::Augment(a) if !a.random_crop => words.push("whole"),
        _ => {}
    }
    words.into_iter().map(String::from).collect()
}

/// Element types, strides and what is added to or overwritten.
fn layout(case: &Case) -> Vec<String> {
    let mut words = Vec::new();
    let types = |o: Option<&Operand>| o.map(|o| o.dtype);
    match (types(case.ins.first()), types(case.outs.first())) {
        (Some(DType::BF16), Some(DType::F32)) => words.push("bf16-f32".into()),
        (Some(DType::F32), Some(DType::BF16)) => words.push("f32-bf16".into()),
        (Some(DType::BF16), _) | (None, Some(DType::BF16)) => words.push("bf16".into()),
        _ => {}
    }
    let lds = |what: &str, operands: &[Operand]| -> Vec<String> {
        let strided = operands.iter().enumerate();
        strided
            .filter(|(_, o)| o.ld != o.shape[3])
            .map(|(i, o)| format!("{what}{i}/{}", o.ld))
            .collect()
    };
    words.extend(lds("in", &case.ins));
    words.extend(lds("out", &case.outs));
    let added = (0..case.outs.len()).filter(|i| case.accumulate >> i & 1 == 1);
    let added: Vec<String> = added.map(|i| i.to_string()).collect();
    if !added.is_empty() {
        words.push(match added == ["0"] {
            true => "add".into(),
            false => format!("add{}", added.join("+")),
        });
    }
    for (out, input) in &case.in_place {
        words.push(match (out, input) {
            (0, 0) => "in-place".into(),
            _ => format!("in-place{out}={input}"),
        });
    }
    words
}

/// `65` for 65 × 65, `48x64` for 48 rows of 64.
fn grid(operand: &Operand) -> String {
    let [_, h, w, _] = operand.shape;
    match h == w {
        true => h.to_string(),
        false => format!("{h}x{w}"),
    }
}

/// Large counts in millions.
fn count(n: usize) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        _ => format!("{:.1}M", n as f64 / 1e6),
    }
}

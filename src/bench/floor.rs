//! The floor of a step: what every call must move and compute, at given ceilings; and the measured
//! time beside it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::ceilings::Ceilings;
use crate::device::gpu::conv_partial_bytes;
use crate::device::{ArenaId, Cost, Op, View};
use crate::graph::Graph;
use crate::{Error, Result};

/// One call of a profile.
#[derive(Clone, Debug, Deserialize)]
struct ProfiledCall {
    op: String,
    layer: String,
    ms: f64,
}

/// What `train --profile` measured of one step, call by call.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    calls: Vec<ProfiledCall>,
}

impl Profile {
    /// Reads `profile.json` of a run folder.
    ///
    /// # Errors
    /// [`Error::Io`] for an unreadable file, [`Error::Input`] for one that is no profile.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the profile", e))?;
        serde_json::from_str(&text).map_err(|e| {
            Error::input(
                path.display().to_string(),
                format!("not a profile: {e}"),
                "write one with `u2pl-engine train --profile`",
            )
        })
    }

    /// Whether its calls are those of `graph`, one by one.
    pub fn is_of(&self, graph: &Graph) -> bool {
        let nodes = graph.nodes().iter().map(|n| (n.op.name(), n.name.as_str()));
        let calls = self.calls.iter().map(|c| (c.op.as_str(), c.layer.as_str()));
        nodes.eq(calls)
    }
}

/// Work, floor and time of a group of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    /// Calls.
    pub calls: usize,
    /// FLOPs and least bytes.
    pub cost: Cost,
    /// Sum of the calls' floors, ms.
    pub floor_ms: f64,
    /// Part of it where FLOPs, not bytes, set the floor, ms.
    pub compute_ms: f64,
    /// Measured, ms.
    pub measured_ms: Option<f64>,
}

impl Floor {
    /// A call of kernels that run one after the other.
    fn add(&mut self, kernels: &[Cost], ceilings: &Ceilings, measured: Option<f64>) {
        self.calls += 1;
        for &cost in kernels {
            let floor = ceilings.floor_ms(cost);
            self.cost.flops += cost.flops;
            self.cost.bytes += cost.bytes;
            self.floor_ms += floor;
            if ceilings.is_compute_bound(cost) {
                self.compute_ms += floor;
            }
        }
        if let Some(ms) = measured {
            *self.measured_ms.get_or_insert(0.0) += ms;
        }
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "flops": self.cost.flops,
            "least_bytes": self.cost.bytes,
            "floor_ms": self.floor_ms,
            "compute_bound_ms": self.compute_ms,
            "measured_ms": self.measured_ms,
        })
    }

    fn line(&self, name: &str, total: &Floor) -> String {
        let measured = match self.measured_ms {
            Some(ms) => format!(" {ms:>11.3} {:>7.2}", ms / self.floor_ms.max(1e-9)),
            None => String::new(),
        };
        format!(
            "  {name:<26} {:>6} {:>11.3} {:>11.1} {:>10.4} {:>6.2}{measured}\n",
            self.calls,
            self.cost.flops / 1e9,
            self.cost.bytes / 1e6,
            self.floor_ms,
            100.0 * self.floor_ms / total.floor_ms.max(1e-12),
        )
    }
}

/// What a call costs, kernel by kernel where one waits for another: a weight gradient in parts writes
/// their sums, and a second kernel reads them all and writes the gradient.
fn kernels(op: &Op, ins: &[View], outs: &[View]) -> Vec<Cost> {
    let cost = op.cost(ins, outs);
    let partials = conv_partial_bytes(op, ins, outs) as f64;
    if partials == 0.0 {
        return vec![cost];
    }
    let written = outs.first().map_or(0.0, |dw| 4.0 * dw.elements() as f64);
    let product = Cost {
        flops: cost.flops,
        bytes: cost.bytes - written + partials,
    };
    let reduce = Cost {
        flops: partials / 4.0,
        bytes: partials + written,
    };
    vec![product, reduce]
}

/// The floor of one program, by operation and by layer, highest first.
#[derive(Clone, Debug)]
pub struct StepFloor {
    program: String,
    /// Everything.
    pub total: Floor,
    /// By kind of operation.
    pub by_op: Vec<(String, Floor)>,
    /// By stage or head.
    pub by_layer: Vec<(String, Floor)>,
}

impl StepFloor {
    /// Of every call of `graph`; `profile`, where it is of this graph, gives the measured column.
    pub fn new(
        program: &str,
        graph: &Graph,
        ceilings: &Ceilings,
        profile: Option<&Profile>,
    ) -> Self {
        let profile = profile.filter(|p| p.is_of(graph));
        let (mut by_op, mut by_layer) = (BTreeMap::new(), BTreeMap::new());
        let mut total = Floor::default();
        for (i, node) in graph.nodes().iter().enumerate() {
            let views = |tensors: &[_]| -> Vec<View> {
                let view = |&t: &_| {
                    let tensor = graph.tensor(t);
                    View::dense(ArenaId(0), 0, tensor.shape, tensor.dtype)
                };
                tensors.iter().map(view).collect()
            };
            let kernels = kernels(&node.op, &views(&node.ins), &views(&node.outs));
            let measured = profile.map(|p| p.calls[i].ms);
            total.add(&kernels, ceilings, measured);
            let op: &mut Floor = by_op.entry(node.op.name().to_string()).or_default();
            op.add(&kernels, ceilings, measured);
            let layer: &mut Floor = by_layer.entry(layer_of(&node.name)).or_default();
            layer.add(&kernels, ceilings, measured);
        }
        Self {
            program: program.into(),
            total,
            by_op: sorted(by_op),
            by_layer: sorted(by_layer),
        }
    }

    /// The numbers.
    pub fn json(&self) -> Value {
        let table = |groups: &[(String, Floor)]| -> Value {
            let rows = groups.iter().map(|(name, f)| (name.clone(), f.json()));
            Value::Object(rows.collect())
        };
        json!({
            "name": self.program,
            "total": self.total.json(),
            "operations": table(&self.by_op),
            "layers": table(&self.by_layer),
        })
    }

    /// Two tables.
    pub fn text(&self, ceilings: &Ceilings) -> String {
        let measured = match self.total.measured_ms {
            Some(_) => format!(" {:>11} {:>7}", "measured ms", "/ floor"),
            None => String::new(),
        };
        let mut text = format!("{}\n", self.program);
        for (what, groups) in [("operation", &self.by_op), ("layer", &self.by_layer)] {
            text += &format!(
                "  {what:<26} {:>6} {:>11} {:>11} {:>10} {:>6}{measured}\n",
                "calls", "GFLOP", "least MB", "floor ms", "%"
            );
            for (name, floor) in groups {
                text += &floor.line(name, &self.total);
            }
            text += &self.total.line("total", &self.total);
            text.push('\n');
        }
        let t = &self.total;
        text + &format!(
            "  all FLOPs at the matrix product's rate {:.2} ms, all bytes at the copy's {:.2} ms;\n  \
             every call at its own roofline {:.2} ms: {:.2} ms set by FLOPs, {:.2} ms by bytes\n\n",
            1e3 * t.cost.flops / ceilings.matmul,
            1e3 * t.cost.bytes / ceilings.copy,
            t.floor_ms,
            t.compute_ms,
            t.floor_ms - t.compute_ms
        )
    }
}

fn sorted(groups: BTreeMap<String, Floor>) -> Vec<(String, Floor)> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(_, a), (_, b)| b.floor_ms.total_cmp(&a.floor_ms));
    groups
}

/// Stage or head that a node belongs to: `encoder.layer3`, `decoder.aspp`, or its own name.
pub fn layer_of(node: &str) -> String {
    let mut parts = node.split('.');
    match (parts.next(), parts.next()) {
        (Some(net @ ("encoder" | "decoder" | "auxor")), Some(part)) => {
            // The stem's convolutions and batch norms are one thing to the reader.
            let stem = net == "encoder" && !part.starts_with("layer");
            format!("{net}.{}", if stem { "stem" } else { part })
        }
        _ => node.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;
    use crate::device::op::Window;

    /// A weight gradient of the last stage at the VOC shape is made in parts, whose sums are written by
    /// one kernel and read by the next; one of few pixels is not.
    #[test]
    fn a_weight_gradient_in_parts_counts_them_twice() {
        let window = Window {
            stride: 1,
            padding: 1,
            dilation: 1,
        };
        let view = |shape, dtype| View::dense(ArenaId(0), 0, shape, dtype);
        let of = |side| {
            let map = view([8, side, side, 512], DType::BF16);
            let dw = view([512, 3, 3, 512], DType::F32);
            let least = Op::ConvWgrad(window).cost(&[map, map], &[dw]);
            (kernels(&Op::ConvWgrad(window), &[map, map], &[dw]), least)
        };
        let dw = 4.0 * 512.0 * 9.0 * 512.0;
        let (parts, least) = of(65);
        let [product, reduce] = parts[..] else {
            panic!("{parts:?}");
        };
        // As kernels/conv_plan.tsv has it.
        let partials = 7.0 * dw;
        assert_eq!(product.flops, least.flops);
        assert_eq!(product.bytes + dw, least.bytes + partials);
        assert_eq!(reduce.bytes, partials + dw);
        let (one, least) = of(4);
        assert_eq!(one, [least]);
    }
}

//! The graph of a step lowered to bf16: which operands become bf16, and which never do.
#![cfg(feature = "cli")]

use u2pl_engine::config::Config;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::{DType, Op};
use u2pl_engine::graph::plan::Plan;
use u2pl_engine::graph::{Graph, Storage};
use u2pl_engine::train::session::Blueprint;

fn graphs(sets: &[&str], map: DType) -> (Vec<Graph>, usize) {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let cfg = Config::demo(&sets).expect("config");
    let blueprint = Blueprint::new(&cfg, 64 * 64, map).expect("blueprint");
    let state = blueprint.state.bytes();
    let graphs = [blueprint.warmup, blueprint.u2pl];
    (
        graphs.into_iter().flatten().map(|(g, _)| g).collect(),
        state,
    )
}

/// Operands that are maps, by the operation set's documentation.
fn maps(op: &Op, ins: usize) -> (Vec<usize>, Vec<usize>) {
    match op {
        Op::BatchNorm { .. } => ((0..ins).filter(|i| *i == 0 || *i == 3).collect(), vec![0]),
        Op::BatchNormEval { .. } => ((0..ins).filter(|i| *i == 0 || *i == 5).collect(), vec![0]),
        Op::BatchNormBackward { .. } => (vec![0, 1, 2], vec![0, 3]),
        Op::Relu | Op::GlobalAvgPool | Op::GlobalAvgPoolBackward => (vec![0], vec![0]),
        Op::ReluBackward => (vec![0, 1], vec![0]),
        Op::Resize | Op::ResizeBackward | Op::MaxPool { .. } => (vec![0], vec![0]),
        Op::MaxPoolBackward { .. } | Op::Dropout2d { .. } => (vec![0], vec![0]),
        _ => (vec![], vec![]),
    }
}

fn check(graph: &Graph) -> usize {
    let mut half = 0;
    for node in graph.nodes() {
        let dtype = |t| graph.tensor(t).dtype;
        let ins: Vec<DType> = node.ins.iter().map(|&t| dtype(t)).collect();
        let outs: Vec<DType> = node.outs.iter().map(|&t| dtype(t)).collect();
        let at = format!("{} in {}: {ins:?} -> {outs:?}", node.op.name(), node.name);
        half += usize::from(outs.contains(&DType::BF16));
        match &node.op {
            Op::Conv(_) | Op::ConvDgrad(_) => {
                assert_eq!(ins[..2], [DType::BF16; 2], "{at}");
                assert!(ins[2..].iter().all(|&d| d == DType::F32), "{at}");
            }
            Op::ConvWgrad(_) => {
                assert_eq!(ins, [DType::BF16; 2], "{at}");
                assert!(outs.iter().all(|&d| d == DType::F32), "{at}");
            }
            Op::SgdEma { .. } => {
                let f32s = [DType::F32; 3];
                assert_eq!(outs, [&f32s[..], &[DType::BF16; 2]].concat(), "{at}");
            }
            Op::Lerp | Op::Copy | Op::Fill { .. } => {}
            op => {
                let (map_ins, map_outs) = maps(op, ins.len());
                let mut types = map_ins
                    .iter()
                    .map(|&i| ins[i])
                    .chain(map_outs.iter().filter_map(|&i| outs.get(i).copied()));
                if let Some(first) = types.next() {
                    assert!(types.all(|d| d == first), "{at}");
                }
                let rest_in = (0..ins.len()).filter(|i| !map_ins.contains(i));
                let rest_out = (0..outs.len()).filter(|i| !map_outs.contains(i));
                let rest = rest_in.map(|i| ins[i]).chain(rest_out.map(|i| outs[i]));
                assert!(rest.into_iter().all(|d| d != DType::BF16), "{at}");
            }
        }
    }
    half
}

#[test]
fn every_operand_of_a_lowered_step_has_the_type_its_operation_takes() {
    for sets in [
        &["train.algorithm=u2pl", "train.warmup_epochs=1"][..],
        &["method.mode=released", "train.warmup_epochs=1"],
        &[
            "model.aux=true",
            "train.loss=ohem",
            "model.encoder=resnet50",
        ],
        &["model.decoder=deeplabv3"],
        &["train.algorithm=supervised"],
    ] {
        let (lowered, _) = graphs(sets, DType::BF16);
        let (plain, _) = graphs(sets, DType::F32);
        for (lowered, plain) in lowered.iter().zip(&plain) {
            assert!(check(lowered) > 20, "{sets:?}: hardly a map became bf16");
            // Nothing but conversions and the weights' copies was added.
            let count = |g: &Graph, copies: bool| {
                let nodes = g.nodes().iter();
                nodes.filter(|n| matches!(n.op, Op::Copy) == copies).count()
            };
            assert_eq!(count(lowered, false), count(plain, false), "{sets:?}");
            assert!(count(lowered, true) > count(plain, true), "{sets:?}");
        }
    }
}

#[test]
fn batch_norm_outputs_are_all_bf16() {
    let (lowered, _) = graphs(&[], DType::BF16);
    for graph in &lowered {
        for node in graph.nodes() {
            if matches!(node.op, Op::BatchNorm { .. } | Op::BatchNormEval { .. }) {
                let out = graph.tensor(node.outs[0]);
                assert_eq!(out.dtype, DType::BF16, "{}", node.name);
                assert!(!matches!(out.storage, Storage::State { .. }));
            }
        }
    }
}

#[test]
fn bf16_takes_less_activation_memory_and_little_more_state() {
    let device = CpuDevice::new(1).expect("cpu");
    let peak = |graphs: &[Graph]| graphs.iter().map(|g| Plan::new(g, &device).bytes).max();
    let (lowered, lowered_state) = graphs(&["augment.crop=[64, 64]"], DType::BF16);
    let (plain, plain_state) = graphs(&["augment.crop=[64, 64]"], DType::F32);
    let (lowered, plain) = (peak(&lowered).expect("plan"), peak(&plain).expect("plan"));
    assert!(lowered * 10 < plain * 8, "{lowered} of {plain}");
    assert!(lowered_state > plain_state);
}

//! The table against the graphs it is taken from, and every case of the smallest one run.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cases::programs;
use super::*;
use crate::device::Device;
use crate::device::cpu::CpuDevice;

fn device() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(1).unwrap())
}

#[test]
fn the_table_covers_every_call_of_every_recipe() {
    for name in Recipe::names() {
        let recipe = Recipe::named(name, &[]).unwrap();
        let cases = table(&recipe, &*device()).unwrap();
        for (program, graph) in programs(&recipe, &*device()).unwrap() {
            let kinds = |names: Vec<&'static str>| names.into_iter().collect::<BTreeSet<_>>();
            let of_graph = kinds(graph.nodes().iter().map(|n| n.op.name()).collect());
            let used = cases.iter().filter(|c| c.count(program) > 0);
            assert_eq!(kinds(used.map(|c| c.kind).collect()), of_graph, "{name}");
            let calls: usize = cases.iter().map(|c| c.count(program)).sum();
            assert_eq!(calls, graph.nodes().len(), "{name}, {program}");
        }
    }
}

#[test]
fn names_are_unique_and_say_what_differs() {
    for recipe in Recipe::names() {
        let recipe = Recipe::named(recipe, &[]).unwrap();
        let cases = table(&recipe, &*device()).unwrap();
        let names: BTreeSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        let numbered: Vec<&&str> = names.iter().filter(|n| n.contains('#')).collect();
        assert!(numbered.is_empty(), "{numbered:?}");
        let again = table(&recipe, &*device()).unwrap();
        assert_eq!(again, cases);
    }
}

#[test]
fn names_are_as_documented() {
    let recipe = Recipe::named("voc", &[]).unwrap();
    let cases = table(&recipe, &*device()).unwrap();
    let case = |name: &str| cases.iter().find(|c| c.name == name);
    let conv = case("conv 3x3 d2 256-256 @65 n8").expect("layer3's convolution");
    // 22 of layer3's 23 blocks are dilated; the student's pass and the teacher's second.
    assert_eq!((conv.count("U2PL step"), conv.count("inference")), (44, 0));
    assert_eq!(
        conv.cost().flops,
        2.0 * 8.0 * 65.0 * 65.0 * 9.0 * 256.0 * 256.0
    );
    for name in [
        "sgd_ema 64.5M",
        "conv_wgrad 3x3 d36 2048-256 @65 n8",
        "batch_norm 256 @65 n8 relu out0/1280",
        "cross_entropy 21 @129 n4 scaled",
        "softmax_entropy 21 @129-513 n4",
    ] {
        assert!(case(name).is_some(), "{name}");
    }
}

#[test]
fn every_case_runs() {
    let device = device();
    let recipe = Recipe::named("tiny", &[]).unwrap();
    for case in table(&recipe, &*device).unwrap() {
        let mut prepared = Prepared::new(&case, &device, 2).unwrap();
        prepared.run().unwrap();
        assert_eq!(prepared.calls().len(), 2, "{}", case.name);
    }
}

#[test]
fn fewer_images_are_less_work_of_the_same_kind() {
    let recipe = Recipe::named("small", &[]).unwrap();
    let device = device();
    for case in table(&recipe, &*device).unwrap() {
        let Some(less) = case.on_images(2) else {
            continue;
        };
        let images = case.ins[0].shape[0] as f64;
        assert_eq!(
            less.cost().flops,
            case.cost().flops * 2.0 / images,
            "{}",
            case.name
        );
        assert!(Prepared::new(&less, &device, 1).is_ok(), "{}", less.name);
    }
}

#[test]
fn copies_exceed_the_cache_or_stay_within_bounds() {
    assert_eq!(copies_to_exceed(100 << 20, 32 << 20, 64), 1);
    let copies = copies_to_exceed(1 << 20, 32 << 20, 1000);
    assert!((copies << 20) > (64 << 20));
    assert_eq!(copies_to_exceed(0, 32 << 20, 64), 64);
}

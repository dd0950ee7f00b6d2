//! From a fixture's JSON to an [`Op`].

use serde_json::Value;
use u2pl_engine::device::Op;
use u2pl_engine::device::op::{
    Augment, CeNorm, InfoNce, MixKind, Partition, SgdGroup, Variant, Window,
};

fn number(call: &Value, key: &str) -> f64 {
    call[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} missing in {call}"))
}

fn float(call: &Value, key: &str) -> f32 {
    number(call, key) as f32
}

fn uint(call: &Value, key: &str) -> usize {
    number(call, key) as usize
}

fn byte(call: &Value, key: &str) -> u8 {
    number(call, key) as u8
}

fn flag(call: &Value, key: &str) -> bool {
    call[key]
        .as_bool()
        .unwrap_or_else(|| panic!("{key} missing in {call}"))
}

fn list<T>(call: &Value, key: &str, item: impl Fn(&Value) -> T) -> Vec<T> {
    let items = call[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} missing in {call}"));
    items.iter().map(item).collect()
}

fn floats<const N: usize>(call: &Value, key: &str) -> [f32; N] {
    let items = list(call, key, |v| v.as_f64().expect("number") as f32);
    items.try_into().expect("length")
}

fn window(call: &Value) -> Window {
    Window {
        stride: uint(call, "stride"),
        padding: uint(call, "padding"),
        dilation: call["dilation"].as_u64().unwrap_or(1) as usize,
    }
}

fn variant(call: &Value) -> Variant {
    match call["variant"].as_str() {
        Some("paper") => Variant::Paper,
        Some("released") => Variant::Released,
        other => panic!("variant {other:?}"),
    }
}

fn mix(call: &Value) -> Op {
    let kind = match call["kind"].as_str() {
        Some("none") => MixKind::None,
        Some("cutmix") => MixKind::CutMix,
        Some("classmix") => MixKind::ClassMix,
        Some("cutout") => MixKind::CutOut,
        other => panic!("mix {other:?}"),
    };
    Op::Mix {
        kind,
        prob: float(call, "prob"),
        ignore: byte(call, "ignore"),
        stream: uint(call, "stream") as u32,
    }
}

fn augment(call: &Value) -> Op {
    let [min, max] = floats(call, "scale");
    Op::Augment(Augment {
        scale: (min, max),
        flip: float(call, "flip"),
        random_crop: flag(call, "random_crop"),
        mean: floats(call, "mean"),
        std: floats(call, "std"),
        pad_label: byte(call, "pad_label"),
        stream: uint(call, "stream") as u32,
    })
}

fn partition(call: &Value) -> Op {
    Op::Partition(Partition {
        variant: variant(call),
        classes: uint(call, "classes"),
        ignore: byte(call, "ignore"),
        delta_p: float(call, "delta_p"),
        low_rank: uint(call, "low_rank") as u32,
        high_rank: uint(call, "high_rank") as u32,
        unlabeled: Default::default(),
    })
}

fn capacities(call: &Value) -> Vec<u32> {
    list(call, "capacities", |v| v.as_u64().expect("capacity") as u32)
}

fn info_nce(call: &Value) -> InfoNce {
    InfoNce {
        variant: variant(call),
        anchors: uint(call, "anchors"),
        negatives: uint(call, "negatives"),
        temperature: float(call, "temperature"),
        capacities: capacities(call),
        stream: uint(call, "stream") as u32,
    }
}

fn ce_norm(call: &Value) -> CeNorm {
    match call["norm"].as_str() {
        Some("valid") => CeNorm::Valid,
        Some("valid_times_all_over_valid") => CeNorm::ValidTimesAllOverValid,
        other => panic!("norm {other:?}"),
    }
}

fn sgd_ema(call: &Value) -> Op {
    let groups = list(call, "groups", |g| SgdGroup {
        start: uint(g, "start"),
        len: uint(g, "len"),
        lr_mult: float(g, "lr_mult"),
        weight_decay: float(g, "weight_decay"),
    });
    Op::SgdEma {
        momentum: float(call, "momentum"),
        groups,
    }
}

/// The operation that a fixture's call names.
pub fn parse(call: &Value) -> Op {
    let name = call["op"].as_str().expect("op name");
    match name {
        "fill" => Op::Fill {
            value: float(call, "value"),
        },
        "copy" => Op::Copy,
        "lerp" => Op::Lerp,
        "augment" => augment(call),
        "mix" => mix(call),
        "conv" => Op::Conv(window(call)),
        "conv_dgrad" => Op::ConvDgrad(window(call)),
        "conv_wgrad" => Op::ConvWgrad(window(call)),
        "batch_norm" => Op::BatchNorm {
            eps: float(call, "eps"),
            momentum: float(call, "momentum"),
            relu: flag(call, "relu"),
        },
        "batch_norm_eval" => Op::BatchNormEval {
            eps: float(call, "eps"),
            relu: flag(call, "relu"),
        },
        "batch_norm_backward" => Op::BatchNormBackward {
            relu: flag(call, "relu"),
        },
        "relu" => Op::Relu,
        "relu_backward" => Op::ReluBackward,
        "max_pool" => Op::MaxPool {
            size: uint(call, "size"),
            window: window(call),
        },
        "max_pool_backward" => Op::MaxPoolBackward {
            size: uint(call, "size"),
            window: window(call),
        },
        "global_avg_pool" => Op::GlobalAvgPool,
        "global_avg_pool_backward" => Op::GlobalAvgPoolBackward,
        "resize" => Op::Resize,
        "resize_backward" => Op::ResizeBackward,
        "dropout2d" => Op::Dropout2d {
            p: float(call, "p"),
            stream: uint(call, "stream") as u32,
        },
        "softmax_entropy" => Op::SoftmaxEntropy {
            log_eps: float(call, "log_eps"),
        },
        "percentile" => Op::Percentile {
            ignore: byte(call, "ignore"),
        },
        "keep_reliable" => Op::KeepReliable {
            ignore: byte(call, "ignore"),
        },
        "cross_entropy" => Op::CrossEntropy {
            ignore: byte(call, "ignore"),
            norm: ce_norm(call),
        },
        "cross_entropy_backward" => Op::CrossEntropyBackward {
            ignore: byte(call, "ignore"),
            weight: float(call, "weight"),
        },
        "target_probability" => Op::TargetProbability {
            ignore: byte(call, "ignore"),
        },
        "ohem_threshold" => Op::OhemThreshold {
            ignore: byte(call, "ignore"),
            thresh: float(call, "thresh"),
            min_kept: uint(call, "min_kept"),
        },
        "partition" => partition(call),
        "compact" => Op::Compact {
            labeled_pixels: uint(call, "labeled_pixels"),
        },
        "memory_bank" => Op::BankPush {
            capacities: capacities(call),
        },
        "prototype" => Op::Prototype,
        "info_nce" => Op::InfoNce(info_nce(call)),
        "info_nce_backward" => Op::InfoNceBackward(info_nce(call), float(call, "weight")),
        "sgd_ema" => sgd_ema(call),
        "confusion" => Op::Confusion {
            ignore: byte(call, "ignore"),
        },
        "label_confusion" => Op::LabelConfusion {
            ignore: byte(call, "ignore"),
        },
        "add_scores" => Op::AddScores {
            flip: flag(call, "flip"),
            softmax: flag(call, "softmax"),
        },
        "finish_scores" => Op::FinishScores {
            softmax: flag(call, "softmax"),
        },
        other => panic!("unknown operation {other}"),
    }
}

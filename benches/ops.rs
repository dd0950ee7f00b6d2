//! Single operations at the shapes of ResNet-50 (output stride 8, crop 257², 4 images) on the CPU,
//! by criterion: `cargo bench --bench ops`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::op::{CeNorm, Window};
use u2pl_engine::device::philox::Rng;
use u2pl_engine::device::{Call, DType, Device, Op, Shape, View, elements};

/// Random data, never zeros: multiplications by zero are no measure.
fn tensor(device: &CpuDevice, shape: Shape, dtype: DType) -> View {
    let count = elements(shape);
    let rng = Rng::seeded(count as u64, 0, 0);
    let bytes: Vec<u8> = match dtype {
        DType::U8 => (0..count as u64).map(|i| rng.below(i, 21) as u8).collect(),
        _ => (0..count as u64)
            .flat_map(|i| (rng.uniform(i) - 0.5).to_le_bytes())
            .collect(),
    };
    let arena = device.alloc(bytes.len()).expect("memory");
    let view = View::dense(arena, 0, shape, dtype);
    device
        .write(&view, &bytes)
        .expect("a view of its own arena");
    view
}

fn case(c: &mut Criterion, device: &CpuDevice, name: &str, op: Op, ins: &[Shape], outs: &[Shape]) {
    // Label maps are the only inputs of one channel at 257² here.
    let dtype = |s: &Shape| {
        if s[1] == 257 && s[3] == 1 {
            DType::U8
        } else {
            DType::F32
        }
    };
    let ins: Vec<View> = ins.iter().map(|s| tensor(device, *s, dtype(s))).collect();
    let outs: Vec<View> = match op {
        Op::SoftmaxEntropy { .. } => vec![
            tensor(device, outs[0], DType::F32),
            tensor(device, outs[0], DType::U8),
            tensor(device, outs[0], DType::F32),
        ],
        _ => outs
            .iter()
            .map(|s| tensor(device, *s, DType::F32))
            .collect(),
    };
    let bytes = device.workspace_bytes(&op, &ins, &outs);
    let workspace = (bytes > 0).then(|| tensor(device, [1, 1, 1, bytes.div_ceil(4)], DType::F32));
    let cost = op.cost(&ins, &outs);
    let call = Call {
        op,
        ins,
        outs,
        accumulate: 0,
        workspace,
    };
    let mut group = c.benchmark_group("cpu");
    // Elements are FLOPs: criterion's Gelem/s reads as GFLOP/s.
    group.throughput(Throughput::Elements(cost.flops as u64));
    group.sample_size(10);
    group.bench_function(name, |b| {
        b.iter(|| device.run(&call).expect("a valid call"))
    });
    group.finish();
    for view in call.ins.iter().chain(&call.outs).chain(&call.workspace) {
        device.free(view.arena);
    }
}

fn operations(c: &mut Criterion) {
    let device = CpuDevice::new(0).expect("threads");
    let map = |channels| [4, 33, 33, channels];
    let window = |padding| Window {
        stride: 1,
        padding,
        dilation: padding.max(1),
    };
    for (name, k, r, ch, pad) in [
        ("3x3 d2 256-256", 256, 3, 256, 2),
        ("1x1 1024-256", 256, 1, 1024, 0),
        ("3x3 d24 2048-256", 256, 3, 2048, 24),
    ] {
        let (w, x, y, win) = ([k, r, r, ch], map(ch), map(k), window(pad));
        case(
            c,
            &device,
            &format!("conv {name}"),
            Op::Conv(win),
            &[x, w],
            &[y],
        );
        case(
            c,
            &device,
            &format!("conv_dgrad {name}"),
            Op::ConvDgrad(win),
            &[y, w],
            &[x],
        );
        case(
            c,
            &device,
            &format!("conv_wgrad {name}"),
            Op::ConvWgrad(win),
            &[x, y],
            &[w],
        );
    }
    let (x, v) = (map(1024), [1, 1, 1, 1024]);
    let bn = Op::BatchNorm {
        eps: 1e-5,
        momentum: 0.1,
        relu: true,
    };
    case(
        c,
        &device,
        "batch_norm 1024",
        bn,
        &[x, v, v],
        &[x, v, v, v, v],
    );
    let bn = Op::BatchNormBackward { relu: true };
    case(
        c,
        &device,
        "batch_norm_backward 1024",
        bn,
        &[x, x, x, v, v, v],
        &[x, v, v],
    );
    let (logits, labels) = ([4, 65, 65, 21], [4, 257, 257, 1]);
    case(
        c,
        &device,
        "softmax_entropy",
        Op::SoftmaxEntropy { log_eps: 0.0 },
        &[logits],
        &[labels],
    );
    let ce = Op::CrossEntropy {
        ignore: 255,
        norm: CeNorm::Valid,
    };
    case(
        c,
        &device,
        "cross_entropy",
        ce,
        &[logits, labels],
        &[[1, 1, 1, 4]],
    );
}

criterion_group!(benches, operations);
criterion_main!(benches);

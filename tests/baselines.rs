//! What U2PL is compared with: pseudo-labels without a threshold, and with a fixed one. Facts that
//! hold whatever the network: the two are one at threshold 0, nothing is learnt at threshold 1, and
//! what is kept in between is what the teacher is sure of.
#![cfg(feature = "cli")]
#![cfg(feature = "cli")]

use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::config::schema::{Algorithm, Encoder, Mix, Mode};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::philox::Rng;
use u2pl_engine::device::{Call, DType, Device, Op, View};
use u2pl_engine::graph::Graph;
use u2pl_engine::graph::exec::{Arena, Program, read_view};
use u2pl_engine::graph::params::ParamSet;
use u2pl_engine::method::diagnostics::Report;
use u2pl_engine::model::{self, Ctx, Want};
use u2pl_engine::train::session::{HostImages, Session};

const CROP: [usize; 2] = [33, 41];
const CLASSES: usize = 4;
const STEPS: usize = 3;

fn config(algorithm: Algorithm, threshold: f32) -> Config {
    let mut cfg = Config::default();
    cfg.data.classes = CLASSES;
    cfg.augment.crop = CROP;
    cfg.augment.mix = Mix::None;
    let m = &mut cfg.model;
    (m.encoder, m.width, m.output_stride) = (Encoder::Resnet18, 8, 16);
    (m.multi_grid, m.dropout) = (false, 0.0);
    (m.head_width, m.rep_width) = (16, 16);
    m.aspp_dilations = vec![1, 2];
    let t = &mut cfg.train;
    (t.algorithm, t.warmup_epochs, t.epochs) = (algorithm, 0, 2);
    (t.batch_labeled, t.batch_unlabeled) = (2, 2);
    (t.lr, t.head_lr_mult) = (0.05, 1.0);
    cfg.method.threshold = threshold;
    (cfg.method.bank_size, cfg.method.bank_background) = (100, 100);
    cfg
}

fn noise(seed: u64) -> Vec<f32> {
    let rng = Rng::seeded(seed, 1, 0);
    let n = 2 * 3 * CROP[0] * CROP[1];
    (0..n as u64).map(|i| 3.0 * rng.uniform(i) - 1.5).collect()
}

fn labels(seed: u64) -> Vec<u8> {
    let rng = Rng::seeded(seed, 2, 0);
    let n = 2 * CROP[0] * CROP[1];
    (0..n as u64)
        .map(|i| rng.below(i / 50, CLASSES as u32) as u8)
        .collect()
}

fn session(cfg: &Config) -> (Session, HostImages) {
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).unwrap());
    let (session, images) = Session::on_inputs(cfg, device, STEPS).unwrap();
    let (weights, buffers) = model::init(session.params(), 7);
    for who in ["student", "teacher"] {
        session.write(&format!("{who}.weights"), &weights).unwrap();
        session.write(&format!("{who}.buffers"), &buffers).unwrap();
    }
    (session, images)
}

fn step(session: &Session, images: &HostImages, i: usize) -> Report {
    let at = images.u2pl.unwrap();
    let (unlabeled, truth) = at.unlabeled.unwrap();
    let mut all = noise(10 + i as u64);
    all.resize(2 * all.len(), f32::NAN);
    session.fill(i, at.all, &all).unwrap();
    session.fill(i, at.labels, &labels(i as u64)).unwrap();
    session.fill(i, unlabeled, &noise(50 + i as u64)).unwrap();
    session.fill(i, truth, &labels(90 + i as u64)).unwrap();
    session.step(i).unwrap();
    session.report(i).unwrap()
}

/// The teacher's class probabilities at full resolution, by operations alone.
fn confidence(session: &Session, cfg: &Config, images: &[f32]) -> Vec<f32> {
    let device = session.device();
    let mut graph = Graph::new();
    let mut params = session.params().clone();
    let x = graph.input("x", [2, CROP[0], CROP[1], 3], DType::F32);
    let rng = session.state().tensor(&mut graph, "rng").unwrap();
    let mut ctx = Ctx {
        graph: &mut graph,
        layout: &mut params,
        set: ParamSet {
            copy: None,
            vectors: None,
            trainable: false,
            ..session.param_set("teacher").unwrap()
        },
        train: false,
        rng,
        stream: 0,
    };
    let net = model::network(&mut ctx, &cfg.model, CLASSES, x, Want::default()).unwrap();
    graph.keep(net.logits);
    let program = Program::new(graph, device.clone(), session.arena()).unwrap();
    program.write(x, images).unwrap();
    program.run().unwrap();
    let pixels = 2 * CROP[0] * CROP[1];
    let arena = Arena::new(device.clone(), 16 * pixels).unwrap();
    let shape = [2, CROP[0], CROP[1], 1];
    let at = |i: usize, dtype| View::dense(arena.id(), 4 * i * pixels, shape, dtype);
    let outs = vec![at(0, DType::F32), at(1, DType::U8), at(2, DType::F32)];
    device
        .run(&Call {
            op: Op::SoftmaxEntropy { log_eps: 0.0 },
            ins: vec![program.view(net.logits)],
            outs: outs.clone(),
            accumulate: 0,
            workspace: None,
        })
        .unwrap();
    read_view(&**device, &outs[2]).unwrap()
}

#[test]
fn threshold_zero_is_no_threshold() {
    let (mean, a) = session(&config(Algorithm::MeanTeacher, 0.95));
    let (fixed, b) = session(&config(Algorithm::FixedThreshold, 0.0));
    for i in 0..STEPS {
        let (x, y) = (step(&mean, &a, i), step(&fixed, &b, i));
        assert_eq!((x.loss.sup, x.loss.unsup), (y.loss.sup, y.loss.unsup));
        assert!(x.loss.unsup.unwrap() > 0.0);
        assert_eq!(x.loss.contrast, None);
        assert_eq!(x.u2pl.unwrap().kept, 1.0);
    }
    for entry in ["student.weights", "teacher.weights", "teacher.buffers"] {
        let (x, y): (Vec<f32>, Vec<f32>) = (mean.read(entry).unwrap(), fixed.read(entry).unwrap());
        assert_eq!(x, y, "{entry}");
    }
}

#[test]
fn threshold_one_keeps_nothing() {
    let (session, images) = session(&config(Algorithm::FixedThreshold, 1.0));
    for i in 0..STEPS {
        let report = step(&session, &images, i);
        assert_eq!(report.loss.unsup, Some(0.0));
        assert_eq!(report.u2pl.unwrap().kept, 0.0);
    }
}

#[test]
fn what_is_kept_is_what_the_teacher_is_sure_of() {
    // The median of the first step's confidences, so that the threshold parts them.
    let cfg = config(Algorithm::FixedThreshold, 0.5);
    let (before, _) = session(&cfg);
    let mut sure = confidence(&before, &cfg, &noise(50));
    sure.sort_by(f32::total_cmp);
    let threshold = 0.5 * (sure[sure.len() / 2] + sure[sure.len() / 2 + 1]);
    let expected = sure.iter().filter(|&&c| c > threshold).count();

    let cfg = config(Algorithm::FixedThreshold, threshold);
    let (session, images) = session(&cfg);
    let report = step(&session, &images, 0);
    let kept = report.u2pl.unwrap().kept;
    let pixels = sure.len() as f32;
    // 1 − c rounds: a pixel on the threshold may fall on either side.
    assert!(
        (kept * pixels - expected as f32).abs() <= 1.0,
        "{kept} {expected}"
    );
    assert!((0.45..0.55).contains(&kept), "{kept}");
    // All pixels divide the loss: it is small where few are kept.
    assert!(report.loss.unsup.unwrap() > 0.0);
}

#[test]
fn modes_without_a_meaning_are_refused() {
    let sets = |list: &[&str]| -> Vec<String> {
        let fixed = [
            "data.kind=shapes",
            "data.classes=6",
            "train.batch_unlabeled=2",
        ];
        fixed.iter().chain(list).map(ToString::to_string).collect()
    };
    for (list, key) in [
        (
            vec!["train.algorithm=mean-teacher", "method.mode=released"],
            "train.algorithm",
        ),
        (
            vec!["train.algorithm=fixed-threshold", "method.teacher_bn=batch"],
            "train.algorithm",
        ),
        (
            vec!["method.mode=released", "method.negative_pixels=all"],
            "method.negative_pixels",
        ),
        (
            vec!["train.algorithm=fixed-threshold", "method.threshold=1.5"],
            "method.threshold",
        ),
    ] {
        let cfg = Config::load(None, &sets(&list));
        let error = match cfg {
            Ok(cfg) => cfg.validate().err(),
            Err(e) => Some(e),
        };
        let error = error.unwrap().to_string();
        assert!(error.contains(key), "{list:?}: {error}");
    }
    assert_eq!(Mode::Paper, Config::default().method.mode);
}

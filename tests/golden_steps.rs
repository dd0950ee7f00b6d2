//! Twenty training steps against PyTorch in double precision (`tests/golden/make_steps.py`):
//! losses, thresholds, counts of every class and the final networks, in both modes.
#![cfg(feature = "cli")]

#[cfg(any(feature = "ptx", feature = "simt"))]
#[path = "support/proof.rs"]
mod proof;
mod support;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use support::formula::{config, fill, number, numbers};
use u2pl_engine::config::Config;
use u2pl_engine::config::schema::{Mix, Mode};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::{DType, Device};
use u2pl_engine::graph::Graph;
use u2pl_engine::graph::exec::Program;
use u2pl_engine::graph::params::{Kind, ParamSet};
use u2pl_engine::method::diagnostics::Report;
use u2pl_engine::model::{self, Ctx, Want};
use u2pl_engine::train::session::{HostImages, Session};
use u2pl_engine::weights::Reader;

/// Largest error of a scalar, relative.
const TOLERANCE: f64 = 1e-5;

/// Largest error of a final logit, absolute.
const LOGITS: f64 = 1e-4;

const CHANNELS: usize = 3;

/// A fixture and the run that it describes.
struct Fixture {
    file: Reader,
    train: Value,
    cfg: Config,
}

impl Fixture {
    fn open(mode: Mode, name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join(format!("tests/golden/steps_{name}.safetensors"));
        let file = Reader::open(&path).expect("golden");
        let json = |key| serde_json::from_str(file.require_meta(key).expect(key)).expect(key);
        let (network, train): (Value, Value) = (json("network"), json("train"));
        let float = |key: &str| train[key].as_f64().expect(key) as f32;
        let capacities = numbers(&train["capacities"]);
        assert!(capacities[2..].iter().all(|&q| q == capacities[1]));

        let mut cfg = Config {
            model: config(&network),
            ..Config::default()
        };
        cfg.data.classes = number(&network, "classes");
        cfg.data.ignore_index = number(&train, "ignore") as u8;
        cfg.augment.crop = [number(&train, "crop"); 2];
        cfg.augment.mix = Mix::None;
        let t = &mut cfg.train;
        t.epochs = number(&train, "epochs");
        t.warmup_epochs = number(&train, "warmup_epochs");
        (t.batch_labeled, t.batch_unlabeled) = (2, 2);
        t.seed = number(&train, "seed") as u64;
        t.lr = float("lr");
        t.head_lr_mult = float("decoder_lr_mult");
        t.momentum = float("momentum");
        t.weight_decay = float("weight_decay");
        let m = &mut cfg.method;
        m.mode = mode;
        m.alpha0 = float("alpha0");
        m.ema = float("ema");
        m.contrast_weight = Some(float("contrast_weight"));
        m.delta_p = float("delta_p");
        m.temperature = float("temperature");
        m.low_rank = Some(number(&train, "low_rank") as u32);
        m.high_rank = Some(number(&train, "high_rank") as u32);
        m.anchors = number(&train, "anchors");
        m.negatives = number(&train, "negatives");
        m.bank_background = capacities[0];
        m.bank_size = capacities[1];
        Self { file, train, cfg }
    }

    fn session(&self, device: Arc<dyn Device>) -> (Session, HostImages) {
        let iters = number(&self.train, "iterations_per_epoch");
        let (session, images) = Session::on_inputs(&self.cfg, device, iters).expect("session");
        let params = session.params();
        let weights = fill(params, Kind::Weight, params.weights_len(), 1.0);
        let buffers = fill(params, Kind::Buffer, params.buffers_len(), 1.0);
        for who in ["student", "teacher"] {
            session.write(&format!("{who}.weights"), &weights).unwrap();
            session.write(&format!("{who}.buffers"), &buffers).unwrap();
        }
        (session, images)
    }

    /// Images or labels `(2i, 2i + 1) mod n` of a list.
    fn pair<T: u2pl_engine::weights::Element + Copy>(&self, name: &str, i: usize) -> Vec<T> {
        let all: Vec<T> = self.file.tensor(name).expect(name);
        let n = self.file.shape(name).expect(name)[0];
        let size = all.len() / n;
        let images = [2 * i, 2 * i + 1].map(|k| &all[k % n * size..][..size]);
        images.concat()
    }

    fn step(&self, session: &Session, images: &HostImages, i: usize) -> Report {
        let labeled = self.pair::<f32>("labeled", i);
        let labels = self.pair::<u8>("label", i);
        if session.schedule().is_warmup(i) {
            session.fill(i, images.warmup.all, &labeled).unwrap();
            session.fill(i, images.warmup.labels, &labels).unwrap();
        } else {
            let at = images.u2pl.expect("a U2PL step");
            let (unlabeled, truth) = at.unlabeled.expect("unlabelled images");
            // The second half is written by the step.
            let mut all = labeled;
            all.resize(2 * all.len(), f32::NAN);
            session.fill(i, at.all, &all).unwrap();
            session.fill(i, at.labels, &labels).unwrap();
            let x = self.pair::<f32>("unlabeled", i);
            session.fill(i, unlabeled, &x).unwrap();
            let unknown = vec![self.cfg.data.ignore_index; x.len() / CHANNELS];
            session.fill(i, truth, &unknown).unwrap();
        }
        session.step(i).expect("step");
        session.report(i).expect("report")
    }

    /// The engine's scalars and counts against what the file says of step `i`.
    fn compare(&self, i: usize, report: &Report) {
        let (mut scalars, mut counts) = (vec![("sup", report.loss.sup)], Vec::new());
        if let Some(u) = &report.u2pl {
            let pixels = 2.0
                * self
                    .cfg
                    .augment
                    .crop
                    .map(|n| n as f32)
                    .iter()
                    .product::<f32>();
            scalars.push(("unsup", report.loss.unsup.expect("unsup")));
            scalars.push(("contrast", report.loss.contrast.expect("contrast")));
            scalars.push(("gamma", u.gamma));
            scalars.push(("alpha", u.alpha));
            counts.push(("kept", vec![(u.kept * pixels).round() as u32]));
            let sum = |a: &[u32], b: &[u32]| a.iter().zip(b).map(|(a, b)| a + b).collect();
            counts.push(("anchors", sum(&u.anchors_labeled, &u.anchors_unlabeled)));
            counts.push((
                "negatives",
                sum(&u.negatives_labeled, &u.negatives_unlabeled),
            ));
            counts.push(("held", u.bank.clone()));
        }
        for (key, got) in scalars {
            let want = self.file.tensor::<f32>(key).expect(key)[i];
            let error = f64::from((got - want).abs()) / f64::from(want.abs().max(1e-3));
            assert!(error <= TOLERANCE, "step {i} {key}: {got}, want {want}");
        }
        for (key, got) in counts {
            let all = self.file.tensor::<u32>(key).expect(key);
            let want = &all[i * got.len()..][..got.len()];
            assert_eq!(got, want, "step {i} {key}");
        }
    }

    /// Logits of the first two labelled images, in evaluation mode.
    fn logits(&self, session: &Session, who: &str) -> Vec<f32> {
        let mut graph = Graph::new();
        let mut params = session.params().clone();
        let [h, w] = self.cfg.augment.crop;
        let x = graph.input("x", [2, h, w, CHANNELS], DType::F32);
        let rng = session.state().tensor(&mut graph, "rng").expect("rng");
        let mut ctx = Ctx {
            graph: &mut graph,
            layout: &mut params,
            set: ParamSet {
                copy: None,
                vectors: None,
                trainable: false,
                ..session.param_set(who).expect(who)
            },
            train: false,
            rng,
            stream: 0,
        };
        let (cfg, classes) = (&self.cfg.model, self.cfg.data.classes);
        let logits = model::network(&mut ctx, cfg, classes, x, Want::default())
            .expect("network")
            .logits;
        graph.keep(logits);
        let program = Program::new(graph, session.device().clone(), session.arena()).unwrap();
        program.write(x, &self.pair::<f32>("labeled", 0)).unwrap();
        program.run().expect("run");
        program.read(logits).expect("logits")
    }
}

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(2).expect("device"))
}

fn agrees(device: Arc<dyn Device>, mode: Mode, name: &str) {
    let fixture = Fixture::open(mode, name);
    let (session, images) = fixture.session(device);
    let total = session.schedule().total();
    assert_eq!(total, fixture.file.shape("sup").expect("sup")[0]);
    for i in 0..total {
        let report = fixture.step(&session, &images, i);
        assert_eq!(report.u2pl.is_none(), session.schedule().is_warmup(i));
        fixture.compare(i, &report);
    }
    for who in ["student", "teacher"] {
        let want: Vec<f32> = fixture.file.tensor(&format!("final_{who}")).expect(who);
        let got = fixture.logits(&session, who);
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(&want) {
            let error = f64::from((g - w).abs());
            assert!(error <= LOGITS, "final {who}: {g}, want {w}");
        }
    }
}

#[test]
fn twenty_steps_of_the_paper_agree_with_pytorch() {
    agrees(cpu(), Mode::Paper, "paper");
}

#[test]
fn twenty_steps_of_the_released_code_agree_with_pytorch() {
    agrees(cpu(), Mode::Released, "released");
}

/// The same steps on the GPU kernels.
#[cfg(any(feature = "ptx", feature = "simt"))]
mod kernels {
    use super::*;
    use u2pl_engine::device::gpu::MathMode;

    fn gpu() -> Arc<dyn Device> {
        Arc::new(proof::device(MathMode::Fp32))
    }

    #[test]
    fn twenty_steps_of_the_paper_agree_with_pytorch() {
        agrees(gpu(), Mode::Paper, "paper");
    }

    #[test]
    fn twenty_steps_of_the_released_code_agree_with_pytorch() {
        agrees(gpu(), Mode::Released, "released");
    }
}

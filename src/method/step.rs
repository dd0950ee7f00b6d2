//! A training step as a graph (method §1 and §4).
//!
//! Comes in: staged images and labels, parameters, the memory bank and a few scalars, all in the
//! state arena. Goes out: updated parameters, teacher and bank, and the small tensors of
//! [`Outputs`] that the host may read. A step is composed from parts; another recipe composes
//! the same parts differently.
//!
//! Order: teacher passes and everything that needs no gradient first, so that the teacher's
//! activations are dead before the student's forward pass begins.

use crate::config::schema::{Algorithm, Config, Mix, Mode, SupLoss, TeacherBn};
use crate::device::op::{Augment, CeNorm, MixKind, Variant};
use crate::device::{DType, Op};
use crate::graph::autodiff::{self, LossTerm};
use crate::graph::params::{Kind, Layout};
use crate::graph::state::State;
use crate::graph::{Graph, TensorId};
use crate::method::schedule::{contrast_weight, teacher_bn};
use crate::method::state::param_set;
use crate::model::{self, Want};
use crate::{Error, Result};

/// Random streams of a step (design §1.5).
pub mod stream {
    /// Weak augmentation of labelled images.
    pub const AUGMENT_LABELED: u32 = 0;
    /// Weak augmentation of unlabelled images.
    pub const AUGMENT_UNLABELED: u32 = 1;
    /// Strong augmentation.
    pub const MIX: u32 = 2;
    /// Anchor draws; negatives use the next one.
    pub const ANCHORS: u32 = 32;
    /// First dropout of the student.
    pub const DROPOUT_STUDENT: u32 = 64;
    /// First dropout of the teacher (train-mode pass of mode `released`).
    pub const DROPOUT_TEACHER: u32 = 128;
}

/// Small tensors of a step that the host may read after it.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Cross-entropy statistics of the labelled images.
    pub sup: Option<TensorId>,
    /// The same of the auxiliary head.
    pub aux: Option<TensorId>,
    /// The same of the pseudo-labelled images; valid = kept pixels.
    pub unsup: Option<TensorId>,
    /// Contrast statistics.
    pub contrast: Option<TensorId>,
    /// `{γ, low, high}`.
    pub thresholds: Option<TensorId>,
    /// Anchor counts `[2, C]`: all, labelled.
    pub anchors: Option<TensorId>,
    /// Negative counts `[2, C]`: all, labelled.
    pub negatives: Option<TensorId>,
    /// Pseudo-labels (row) against the second pass's argmax (column), `[C, C]`.
    pub disagreement: Option<TensorId>,
    /// Ground truth (row) against kept pseudo-labels (column), `[C, C]`.
    pub pseudo: Option<TensorId>,
}

/// Images of a step, however they came to be.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// Normalised images `[B, H, W, 3]`, labelled first; the unlabelled part is written by mixing.
    pub all: TensorId,
    /// Labels of the labelled images `[Bl, H, W, 1]`.
    pub labels: TensorId,
    /// Weakly augmented unlabelled images `[Bu, H, W, 3]` and their ground truth where known.
    pub unlabeled: Option<(TensorId, TensorId)>,
}

/// Everything that shapes a step.
pub struct StepBuilder<'a> {
    pub(super) cfg: &'a Config,
    params: &'a mut Layout,
    pub(super) state: &'a State,
    pub(super) graph: Graph,
    pub(super) rng: TensorId,
    scalars: TensorId,
    pub(super) out: Outputs,
}

impl<'a> StepBuilder<'a> {
    /// A builder over the given parameter and state layouts.
    ///
    /// # Errors
    /// [`Error::Internal`] when the state lacks an entry.
    pub fn new(cfg: &'a Config, params: &'a mut Layout, state: &'a State) -> Result<Self> {
        let mut graph = Graph::new();
        let rng = state.tensor(&mut graph, "rng")?;
        let scalars = state.tensor(&mut graph, "scalars")?;
        let out = Outputs::default();
        Ok(Self {
            cfg,
            params,
            state,
            graph,
            rng,
            scalars,
            out,
        })
    }

    /// A step on labels alone: warm-up, and supervised training. Reads staged images.
    ///
    /// # Errors
    /// [`Error::Input`] when the crop or the batch does not suit the network.
    pub fn warmup(mut self) -> Result<(Graph, Outputs)> {
        let images = self.staged(false)?;
        self.warmup_on(images)
    }

    /// The whole U2PL step. Reads staged images.
    ///
    /// # Errors
    /// [`Error::Input`] when the crop or the batch does not suit the network.
    pub fn u2pl(mut self) -> Result<(Graph, Outputs)> {
        let images = self.staged(true)?;
        self.u2pl_on(images)
    }

    /// As [`StepBuilder::warmup`] or [`StepBuilder::u2pl`] on inputs that the host fills:
    /// normalised images and labels, no augmentation. For exact comparison with other code.
    ///
    /// # Errors
    /// As those.
    pub fn on_inputs(mut self, u2pl: bool) -> Result<(Graph, Outputs, Images)> {
        let [h, w] = self.cfg.augment.crop;
        let (bl, bu) = self.batches(u2pl);
        let all = self.graph.input("images", [bl + bu, h, w, 3], DType::F32);
        let labels = self.graph.input("labels", [bl, h, w, 1], DType::U8);
        let unlabeled = u2pl.then(|| {
            let x = self.graph.input("unlabeled", [bu, h, w, 3], DType::F32);
            let truth = self.graph.input("truth", [bu, h, w, 1], DType::U8);
            (x, truth)
        });
        let images = Images {
            all,
            labels,
            unlabeled,
        };
        let (graph, out) = if u2pl {
            self.u2pl_on(images)?
        } else {
            self.warmup_on(images)?
        };
        Ok((graph, out, images))
    }

    fn batches(&self, u2pl: bool) -> (usize, usize) {
        let train = &self.cfg.train;
        (
            train.batch_labeled,
            if u2pl { train.batch_unlabeled } else { 0 },
        )
    }

    pub(super) fn variant(&self) -> Variant {
        match self.cfg.method.mode {
            Mode::Paper => Variant::Paper,
            Mode::Released => Variant::Released,
        }
    }

    fn scalar(&mut self, index: usize, count: usize) -> Result<TensorId> {
        self.graph.flat_slice(self.scalars, index, [1, 1, 1, count])
    }

    /// Weak augmentation of the staged images.
    fn staged(&mut self, u2pl: bool) -> Result<Images> {
        let [h, w] = self.cfg.augment.crop;
        let (bl, bu) = self.batches(u2pl);
        let all = self
            .graph
            .transient("images", [bl + bu, h, w, 3], DType::F32);
        let labels = self.graph.transient("labels", [bl, h, w, 1], DType::U8);
        let x_l = self.graph.batch_slice(all, 0, bl)?;
        self.augment("labeled", stream::AUGMENT_LABELED, x_l, labels)?;
        let unlabeled = if u2pl {
            let x = self.graph.transient("unlabeled", [bu, h, w, 3], DType::F32);
            let truth = self.graph.transient("truth", [bu, h, w, 1], DType::U8);
            self.augment("unlabeled", stream::AUGMENT_UNLABELED, x, truth)?;
            Some((x, truth))
        } else {
            None
        };
        Ok(Images {
            all,
            labels,
            unlabeled,
        })
    }

    fn augment(&mut self, which: &str, stream: u32, x: TensorId, label: TensorId) -> Result<()> {
        let (cfg, g) = (self.cfg, &mut self.graph);
        let mut ins = Vec::with_capacity(4);
        for part in ["images", "labels", "sizes"] {
            ins.push(self.state.tensor(g, &format!("{which}.{part}"))?);
        }
        ins.push(self.rng);
        let op = Op::Augment(Augment {
            scale: (cfg.augment.scale[0], cfg.augment.scale[1]),
            flip: cfg.augment.flip,
            random_crop: true,
            mean: cfg.data.mean,
            std: cfg.data.std,
            pad_label: match cfg.method.mode {
                Mode::Paper => cfg.data.ignore_index,
                Mode::Released => 0, // method §4 row 10
            },
            stream,
        });
        g.push(which, op, ins, vec![x, label]);
        Ok(())
    }

    fn network(
        &mut self,
        who: &str,
        x: TensorId,
        train: bool,
        want: Want,
    ) -> Result<model::Outputs> {
        let stream = match who {
            "student" => stream::DROPOUT_STUDENT,
            _ => stream::DROPOUT_TEACHER,
        };
        let mut ctx = model::Ctx {
            graph: &mut self.graph,
            layout: self.params,
            set: param_set(self.state, who)?,
            train,
            rng: self.rng,
            stream,
        };
        model::network(&mut ctx, &self.cfg.model, self.cfg.data.classes, x, want)
    }

    fn warmup_on(mut self, images: Images) -> Result<(Graph, Outputs)> {
        let cfg = self.cfg;
        let supervised = cfg.train.algorithm == Algorithm::Supervised;
        let released = cfg.method.mode == Mode::Released && !supervised;
        let want = Want {
            // No loss reads it yet, but its running buffers must be ready for the first U2PL step:
            // the teacher begins as the student and runs in eval mode.
            rep: !supervised && contrast_weight(cfg) != 0.0,
            aux: cfg.model.aux,
            apart: true,
        };
        if released {
            // The released teacher sees the labelled images in train mode: its buffers move.
            self.network("teacher", images.all, true, want)?;
        }
        let student = self.network("student", images.all, true, want)?;
        let mut losses = Vec::new();
        self.supervised_loss(&student, images.labels, &mut losses)?;
        self.update(&losses, teacher_bn(cfg) == TeacherBn::Ema || supervised)?;
        self.finish()
    }

    fn u2pl_on(mut self, images: Images) -> Result<(Graph, Outputs)> {
        let cfg = self.cfg;
        if cfg.train.algorithm != Algorithm::U2pl {
            return self.baseline_on(images);
        }
        let ema_bn = teacher_bn(cfg) == TeacherBn::Ema;
        let contrast = contrast_weight(cfg) != 0.0;
        let (unlabeled, truth) = images
            .unlabeled
            .ok_or_else(|| Error::internal("a U2PL step without images"))?;
        let (bl, bu) = self.batches(true);

        // The teacher begins as the student, buffers included, whoever moves them later.
        self.sync_teacher(cfg.method.mode == Mode::Paper)?;
        let [clean, _] = self.pseudo_labels(unlabeled)?;
        let mixed = self.graph.batch_slice(images.all, bl, bu)?;
        let (label_u, truth) = self.mix(unlabeled, clean, truth, mixed)?;

        let want = Want {
            rep: contrast,
            aux: cfg.model.aux && !ema_bn,
            apart: false,
        };
        let teacher = self.network("teacher", images.all, !ema_bn, want)?;
        let (entropy, kept) = self.reliable(teacher.logits, label_u, truth)?;
        let bank = match teacher.rep {
            Some(rep) if contrast => {
                Some(self.partition(teacher.logits, rep, images.labels, label_u, entropy)?)
            }
            _ => None,
        };

        let want = Want {
            rep: contrast,
            aux: cfg.model.aux,
            apart: false,
        };
        let student = self.network("student", images.all, true, want)?;
        let mut losses = Vec::new();
        self.supervised_loss(&student, images.labels, &mut losses)?;
        let norm = CeNorm::ValidTimesAllOverValid;
        self.unsupervised_loss(student.logits, kept, norm, &mut losses)?;
        if let (Some(bank), Some(rep)) = (bank, student.rep) {
            self.contrast_loss(&bank, rep, &mut losses)?;
        }
        self.update(&losses, ema_bn)?;
        self.finish()
    }

    /// A step on pseudo-labels alone, what U2PL is compared with: all of them, or those above a
    /// fixed threshold.
    fn baseline_on(mut self, images: Images) -> Result<(Graph, Outputs)> {
        let cfg = self.cfg;
        let (unlabeled, truth) = images
            .unlabeled
            .ok_or_else(|| Error::internal("a step on pseudo-labels without images"))?;
        let (bl, bu) = self.batches(true);
        self.sync_teacher(true)?;
        let [clean, confidence] = self.pseudo_labels(unlabeled)?;
        let (label, norm) = match cfg.train.algorithm {
            Algorithm::FixedThreshold => (self.confident(clean, confidence)?, CeNorm::All),
            _ => (clean, CeNorm::Valid),
        };
        let mixed = self.graph.batch_slice(images.all, bl, bu)?;
        let (label_u, truth) = self.mix(unlabeled, label, truth, mixed)?;
        self.out.pseudo = Some(self.label_confusion("pseudo_accuracy", truth, label_u));

        let want = Want {
            rep: false,
            aux: cfg.model.aux,
            apart: false,
        };
        let student = self.network("student", images.all, true, want)?;
        let mut losses = Vec::new();
        self.supervised_loss(&student, images.labels, &mut losses)?;
        self.unsupervised_loss(student.logits, label_u, norm, &mut losses)?;
        self.update(&losses, true)?;
        self.finish()
    }

    /// The labels whose probability exceeds `method.threshold`, ignore elsewhere.
    fn confident(&mut self, label: TensorId, confidence: TensorId) -> Result<TensorId> {
        let shape = self.graph.shape(label);
        let doubt = self.graph.transient("doubt", shape, DType::F32);
        let mut ins = vec![confidence];
        for slot in 7..11 {
            ins.push(self.scalar(slot, 1)?);
        }
        let op = Op::BatchNormEval {
            eps: 0.0,
            relu: false,
        };
        self.graph.push("doubt", op, ins, vec![doubt]);
        let limit = self.scalar(6, 1)?;
        let kept = self.graph.transient("confident", shape, DType::U8);
        let op = Op::KeepReliable {
            ignore: self.cfg.data.ignore_index,
        };
        self.graph
            .push("confident", op, vec![label, doubt, limit], vec![kept]);
        Ok(kept)
    }

    fn finish(mut self) -> Result<(Graph, Outputs)> {
        let out = &self.out;
        let kept = [
            out.sup,
            out.aux,
            out.unsup,
            out.contrast,
            out.thresholds,
            out.anchors,
            out.negatives,
            out.disagreement,
            out.pseudo,
        ];
        for t in kept.into_iter().flatten() {
            self.graph.keep(t);
        }
        self.lower()?;
        Ok((self.graph, self.out))
    }

    /// Maps of bf16, where the state has bf16 copies of the weights.
    fn lower(&mut self) -> Result<()> {
        let mut twins = Vec::new();
        for who in ["student", "teacher"] {
            twins.extend(param_set(self.state, who)?.twin(self.params));
        }
        match twins.is_empty() {
            true => Ok(()),
            false => self.graph.lower_to_bf16(&twins),
        }
    }

    /// Makes the teacher the student where the schedule says so (scalar `sync`).
    fn sync_teacher(&mut self, buffers: bool) -> Result<()> {
        let m = self.scalar(2, 1)?;
        self.lerp("sync", "weights", m)?;
        if buffers {
            self.lerp("sync", "buffers", m)?;
        }
        Ok(())
    }

    fn lerp(&mut self, name: &str, part: &str, m: TensorId) -> Result<()> {
        let g = &mut self.graph;
        let src = self.state.tensor(g, &format!("student.{part}"))?;
        let dst = self.state.tensor(g, &format!("teacher.{part}"))?;
        g.push(name, Op::Lerp, vec![src, m], vec![dst]);
        Ok(())
    }

    /// ŷ before thresholding, argmax of the eval-mode teacher on clean images, and its probability.
    fn pseudo_labels(&mut self, x: TensorId) -> Result<[TensorId; 2]> {
        let logits = self.network("teacher", x, false, Want::default())?.logits;
        let [_, _, label, confidence] = self.softmax_entropy("pseudo_label", logits)?;
        Ok([label, confidence])
    }

    /// `[logits, entropy, argmax, confidence]` at label resolution.
    fn softmax_entropy(&mut self, name: &str, logits: TensorId) -> Result<[TensorId; 4]> {
        let [h, w] = self.cfg.augment.crop;
        let shape = [self.graph.shape(logits)[0], h, w, 1];
        let entropy = self
            .graph
            .transient(format!("{name}.entropy"), shape, DType::F32);
        let argmax = self
            .graph
            .transient(format!("{name}.argmax"), shape, DType::U8);
        let confidence = self
            .graph
            .transient(format!("{name}.confidence"), shape, DType::F32);
        let log_eps = match self.variant() {
            Variant::Paper => 0.0,
            Variant::Released => 1e-10,
        };
        let op = Op::SoftmaxEntropy { log_eps };
        self.graph
            .push(name, op, vec![logits], vec![entropy, argmax, confidence]);
        Ok([logits, entropy, argmax, confidence])
    }

    /// Strong augmentation into `mixed`; the mixed pseudo-labels and ground truth.
    fn mix(
        &mut self,
        x: TensorId,
        label: TensorId,
        truth: TensorId,
        mixed: TensorId,
    ) -> Result<(TensorId, TensorId)> {
        let shape = self.graph.shape(label);
        let label_out = self.graph.transient("mixed.label", shape, DType::U8);
        let truth_out = self.graph.transient("mixed.truth", shape, DType::U8);
        let op = Op::Mix {
            kind: match self.cfg.augment.mix {
                Mix::None => MixKind::None,
                Mix::Cutmix => MixKind::CutMix,
                Mix::Classmix => MixKind::ClassMix,
                Mix::Cutout => MixKind::CutOut,
            },
            prob: self.cfg.augment.mix_prob,
            ignore: self.cfg.data.ignore_index,
            stream: stream::MIX,
        };
        let ins = vec![x, label, truth, self.rng];
        self.graph
            .push("mix", op, ins, vec![mixed, label_out, truth_out]);
        Ok((label_out, truth_out))
    }

    /// Entropy of the teacher on the mixed images, thresholds, and the labels that survive γ.
    fn reliable(
        &mut self,
        logits: TensorId,
        label_u: TensorId,
        truth: TensorId,
    ) -> Result<(TensorId, TensorId)> {
        let ignore = self.cfg.data.ignore_index;
        let (bl, bu) = self.batches(true);
        let logits_u = self.graph.batch_slice(logits, bl, bu)?;
        let [_, entropy, argmax, _] = self.softmax_entropy("reliability", logits_u)?;
        let percents = self.scalar(3, 3)?;
        let thresholds = self.graph.vector("thresholds", 3);
        let op = Op::Percentile { ignore };
        self.graph.push(
            "reliability",
            op,
            vec![entropy, label_u, percents],
            vec![thresholds],
        );
        let gamma = self.graph.flat_slice(thresholds, 0, [1, 1, 1, 1])?;
        let kept = self
            .graph
            .transient("kept", self.graph.shape(label_u), DType::U8);
        let op = Op::KeepReliable { ignore };
        self.graph
            .push("reliability", op, vec![label_u, entropy, gamma], vec![kept]);
        self.out.thresholds = Some(thresholds);
        self.out.disagreement = Some(self.label_confusion("disagreement", label_u, argmax));
        self.out.pseudo = Some(self.label_confusion("pseudo_accuracy", truth, kept));
        Ok((entropy, kept))
    }

    fn label_confusion(&mut self, name: &str, truth: TensorId, label: TensorId) -> TensorId {
        let (c, ignore) = (self.cfg.data.classes, self.cfg.data.ignore_index);
        let matrix = self.graph.transient(name, [1, 1, c, c], DType::U32);
        self.graph.push(
            name,
            Op::LabelConfusion { ignore },
            vec![truth, label],
            vec![matrix],
        );
        matrix
    }

    fn supervised_loss(
        &mut self,
        student: &model::Outputs,
        labels: TensorId,
        losses: &mut Vec<LossTerm>,
    ) -> Result<()> {
        let bl = self.cfg.train.batch_labeled;
        let logits = self.graph.batch_slice(student.logits, 0, bl)?;
        let sup = self.cross_entropy("sup", logits, labels)?;
        losses.push(LossTerm {
            stats: sup,
            weight: 1.0,
        });
        self.out.sup = Some(sup);
        if let Some(aux) = student.aux {
            let aux = self.graph.batch_slice(aux, 0, bl)?;
            let stats = self.cross_entropy("aux", aux, labels)?;
            losses.push(LossTerm {
                stats,
                weight: self.cfg.model.aux_weight,
            });
            self.out.aux = Some(stats);
        }
        Ok(())
    }

    fn cross_entropy(&mut self, name: &str, logits: TensorId, label: TensorId) -> Result<TensorId> {
        let ignore = self.cfg.data.ignore_index;
        let mut ins = vec![logits, label];
        if self.cfg.train.loss == SupLoss::Ohem {
            let shape = self.graph.shape(label);
            let p = self.graph.transient(format!("{name}.p"), shape, DType::F32);
            self.graph
                .push(name, Op::TargetProbability { ignore }, ins.clone(), vec![p]);
            let threshold = self.graph.vector(&format!("{name}.threshold"), 1);
            let op = Op::OhemThreshold {
                ignore,
                thresh: self.cfg.train.ohem_thresh,
                min_kept: self.cfg.train.ohem_min_kept,
            };
            self.graph.push(name, op, vec![p, label], vec![threshold]);
            ins.push(threshold);
        }
        let stats = self.graph.vector(&format!("{name}.stats"), 4);
        let op = Op::CrossEntropy {
            ignore,
            norm: CeNorm::Valid,
        };
        self.graph.push(name, op, ins, vec![stats]);
        Ok(stats)
    }

    fn unsupervised_loss(
        &mut self,
        logits: TensorId,
        kept: TensorId,
        norm: CeNorm,
        losses: &mut Vec<LossTerm>,
    ) -> Result<()> {
        let (bl, bu) = self.batches(true);
        let logits = self.graph.batch_slice(logits, bl, bu)?;
        let stats = self.graph.vector("unsup.stats", 4);
        let op = Op::CrossEntropy {
            ignore: self.cfg.data.ignore_index,
            norm,
        };
        self.graph
            .push("unsup", op, vec![logits, kept], vec![stats]);
        losses.push(LossTerm {
            stats,
            weight: self.cfg.method.unsup_weight,
        });
        self.out.unsup = Some(stats);
        Ok(())
    }

    /// Backward, then SGD and EMA; of one of several micro-batches the gradient alone, into the mean.
    fn update(&mut self, losses: &[LossTerm], ema_buffers: bool) -> Result<()> {
        let len = self.params.weights_len();
        let weights: Vec<_> = self
            .params
            .specs()
            .iter()
            .filter(|s| s.kind == Kind::Weight)
            .map(|s| (s.offset, s.shape))
            .collect();
        let gradient = autodiff::backward(&mut self.graph, losses, len, &weights)?;
        if self.cfg.train.micro_batches > 1 {
            let share = self.scalar(11, 1)?;
            let mean = self.state.tensor(&mut self.graph, "gradients")?;
            let ins = vec![gradient, share];
            self.graph.push("gradients", Op::Lerp, ins, vec![mean]);
            return Ok(());
        }
        self.apply(gradient, ema_buffers)
    }

    /// The update of a step of several micro-batches, after the last: SGD by the mean gradient, EMA.
    ///
    /// # Errors
    /// As [`StepBuilder::warmup`].
    pub fn update_of_mean(mut self) -> Result<Graph> {
        let supervised = self.cfg.train.algorithm == Algorithm::Supervised;
        let ema_buffers = teacher_bn(self.cfg) == TeacherBn::Ema || supervised;
        let gradient = self.state.tensor(&mut self.graph, "gradients")?;
        self.apply(gradient, ema_buffers)?;
        self.lower()?;
        Ok(self.graph)
    }

    fn apply(&mut self, gradient: TensorId, ema_buffers: bool) -> Result<()> {
        let lr = self.scalar(0, 1)?;
        let m = self.scalar(1, 1)?;
        let mut outs = Vec::with_capacity(3);
        for part in ["student.weights", "velocity", "teacher.weights"] {
            outs.push(self.state.tensor(&mut self.graph, part)?);
        }
        let train = &self.cfg.train;
        let groups = model::groups(self.params, train.head_lr_mult, train.weight_decay)?;
        let op = Op::SgdEma {
            momentum: train.momentum,
            groups,
        };
        self.graph.push("sgd", op, vec![gradient, lr, m], outs);
        if ema_buffers {
            self.lerp("ema", "buffers", m)?;
        }
        Ok(())
    }
}

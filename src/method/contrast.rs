//! The contrastive part of a step: who is an anchor, who a negative, and the loss (method §1).

use super::schedule::{bank_capacities, contrast_weight, rank_bounds};
use super::step::{StepBuilder, stream};
use crate::device::op::{InfoNce, Partition, Variant};
use crate::device::{DType, Op};
use crate::graph::TensorId;
use crate::graph::autodiff::LossTerm;
use crate::{Error, Result};

/// The contrast term's operands that exist before the student runs.
pub(super) struct Bank {
    /// `[bank, inv_norm, cursor]`.
    ring: Vec<TensorId>,
    /// List and counts.
    anchors: (TensorId, TensorId),
    /// List and counts.
    positives: (TensorId, TensorId),
    /// Known already in mode `released`.
    prototype: Option<TensorId>,
}

impl StepBuilder<'_> {
    /// Anchor, positive and negative lists, and the negatives pushed to the memory bank.
    pub(super) fn partition(
        &mut self,
        logits: TensorId,
        rep: TensorId,
        labels: TensorId,
        label_u: TensorId,
        entropy: TensorId,
    ) -> Result<Bank> {
        let [b, h, w, c] = self.graph.shape(logits);
        let variant = self.variant();
        let words = [b, h, w, c.div_ceil(32)];
        let masks = ["anchors", "positives", "negatives"]
            .map(|name| self.graph.transient(name, words, DType::U32));
        let (low_rank, high_rank) = rank_bounds(self.cfg);
        let op = Op::Partition(Partition {
            variant,
            classes: c,
            ignore: self.cfg.data.ignore_index,
            delta_p: self.cfg.method.delta_p,
            low_rank,
            high_rank,
            unlabeled: self.cfg.method.negative_pixels,
        });
        let thresholds = self
            .out
            .thresholds
            .ok_or_else(|| Error::internal("no thresholds before partition"))?;
        let ins = vec![logits, labels, label_u, entropy, thresholds];
        self.graph.push("partition", op, ins, masks.to_vec());
        let anchors = self.compact("anchors", masks[0], h * w);
        let positives = match variant {
            Variant::Paper => anchors,
            Variant::Released => self.compact("positives", masks[1], h * w),
        };
        let negatives = self.compact("negatives", masks[2], h * w);
        self.out.anchors = Some(anchors.1);
        self.out.negatives = Some(negatives.1);

        let mut ring = Vec::with_capacity(3);
        for part in ["bank", "bank.inv_norm", "bank.cursor"] {
            ring.push(self.state.tensor(&mut self.graph, part)?);
        }
        let op = Op::BankPush {
            capacities: bank_capacities(self.cfg),
        };
        self.graph.push(
            "bank",
            op,
            vec![rep, negatives.0, negatives.1],
            ring.clone(),
        );
        // Released: the positive is a mean of teacher representations, known already.
        let prototype = (variant == Variant::Released).then(|| self.prototype(rep, positives));
        Ok(Bank {
            ring,
            anchors,
            positives,
            prototype,
        })
    }

    fn compact(&mut self, name: &str, bits: TensorId, map: usize) -> (TensorId, TensorId) {
        let [b, ..] = self.graph.shape(bits);
        let c = self.cfg.data.classes;
        let list = self
            .graph
            .transient(format!("{name}.list"), [1, 1, c, b * map], DType::U32);
        let counts = self
            .graph
            .transient(format!("{name}.counts"), [1, 1, 2, c], DType::U32);
        let labeled_pixels = self.cfg.train.batch_labeled * map;
        self.graph.push(
            name,
            Op::Compact { labeled_pixels },
            vec![bits],
            vec![list, counts],
        );
        (list, counts)
    }

    fn prototype(&mut self, rep: TensorId, (list, counts): (TensorId, TensorId)) -> TensorId {
        let (c, d) = (self.cfg.data.classes, self.graph.shape(rep)[3]);
        let prototype = self.graph.transient("prototype", [1, 1, c, d], DType::F32);
        self.graph.push(
            "prototype",
            Op::Prototype,
            vec![rep, list, counts],
            vec![prototype],
        );
        prototype
    }

    pub(super) fn contrast_loss(
        &mut self,
        bank: &Bank,
        rep: TensorId,
        losses: &mut Vec<LossTerm>,
    ) -> Result<()> {
        let method = &self.cfg.method;
        let op = Op::InfoNce(InfoNce {
            variant: self.variant(),
            anchors: method.anchors,
            negatives: method.negatives,
            temperature: method.temperature,
            capacities: bank_capacities(self.cfg),
            stream: stream::ANCHORS,
        });
        let prototype = match bank.prototype {
            Some(p) => p,
            None => self.prototype(rep, bank.positives),
        };
        let stats = self.graph.vector("contrast.stats", 4);
        let mut ins = vec![
            rep,
            bank.anchors.0,
            bank.anchors.1,
            bank.positives.1,
            prototype,
        ];
        ins.extend(&bank.ring);
        ins.push(self.rng);
        self.graph.push("contrast", op, ins, vec![stats]);
        losses.push(LossTerm {
            stats,
            weight: contrast_weight(self.cfg),
        });
        self.out.contrast = Some(stats);
        Ok(())
    }
}

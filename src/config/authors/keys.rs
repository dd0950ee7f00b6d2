//! Every key of the authors' configurations, what it holds, and the values of one file.

use serde_json::Value;

use super::super::load::nearest;
use super::super::tree::Node;
use crate::Error;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys below it.
    Section,
    /// True or false.
    Switch,
    /// A whole number from 0.
    Count,
    /// A number.
    Number,
    /// Text.
    Text,
    /// A list of so many numbers; 0 = any.
    Numbers(usize),
    /// Three of true or false.
    Switches,
    /// A whole number, or a list of two.
    Size,
}

/// What their code does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is read.
    Read,
    /// It is read, and `False` turns it off.
    Optional,
    /// No line reads it.
    Unread,
    /// The branch `with_AEL` reads it: another method.
    Ael,
}

use Kind::{Count, Number, Numbers, Section, Size, Switch, Switches, Text};
use Role::{Ael, Optional, Read, Unread};

/// The keys, `dataset.train.` and `dataset.val.` written as `dataset.`: either takes what
/// `dataset` itself takes.
#[rustfmt::skip]
const KEYS: &[(&str, Kind, Role)] = &[
    ("dataset", Section, Read),
    ("dataset.type", Text, Read),
    ("dataset.train", Section, Read),
    ("dataset.val", Section, Read),
    ("dataset.data_root", Text, Read),
    ("dataset.data_list", Text, Read),
    ("dataset.flip", Switch, Read),
    ("dataset.GaussianBlur", Switch, Read),
    ("dataset.rand_resize", Numbers(2), Optional),
    ("dataset.rand_rotation", Numbers(2), Optional),
    ("dataset.resize", Numbers(2), Optional),
    ("dataset.crop", Section, Optional),
    ("dataset.crop.type", Text, Read),
    ("dataset.crop.size", Size, Read),
    ("dataset.cutout", Section, Optional),
    ("dataset.cutout.n_holes", Count, Read),
    ("dataset.cutout.length", Count, Read),
    ("dataset.cutmix", Section, Optional),
    ("dataset.cutmix.n_holes", Count, Read),
    ("dataset.cutmix.prop_range", Number, Read),
    ("dataset.batch_size", Count, Read),
    ("dataset.n_sup", Count, Read),
    ("dataset.noise_std", Number, Unread),
    ("dataset.workers", Count, Read),
    ("dataset.mean", Numbers(3), Read),
    ("dataset.std", Numbers(3), Read),
    ("dataset.ignore_label", Count, Read),
    ("dataset.acp", Section, Ael),
    ("dataset.acm", Section, Ael),
    ("trainer", Section, Read),
    ("trainer.epochs", Count, Read),
    ("trainer.start_epochs", Count, Unread),
    ("trainer.eval_on", Switch, Read),
    ("trainer.sup_only_epoch", Count, Read),
    ("trainer.optimizer", Section, Read),
    ("trainer.optimizer.type", Text, Read),
    ("trainer.optimizer.kwargs", Section, Read),
    ("trainer.optimizer.kwargs.lr", Number, Read),
    ("trainer.optimizer.kwargs.momentum", Number, Read),
    ("trainer.optimizer.kwargs.weight_decay", Number, Read),
    ("trainer.optimizer.kwargs.dampening", Number, Read),
    ("trainer.optimizer.kwargs.nesterov", Switch, Read),
    ("trainer.lr_scheduler", Section, Read),
    ("trainer.lr_scheduler.mode", Text, Read),
    ("trainer.lr_scheduler.kwargs", Section, Read),
    ("trainer.lr_scheduler.kwargs.power", Number, Read),
    ("trainer.lr_scheduler.kwargs.milestones", Numbers(0), Read),
    ("trainer.lr_scheduler.kwargs.targetlr", Number, Read),
    ("trainer.unsupervised", Section, Read),
    ("trainer.unsupervised.TTA", Switch, Unread),
    ("trainer.unsupervised.drop_percent", Number, Read),
    ("trainer.unsupervised.apply_aug", Text, Optional),
    ("trainer.unsupervised.loss_weight", Number, Read),
    ("trainer.contrastive", Section, Optional),
    ("trainer.contrastive.negative_high_entropy", Switch, Read),
    ("trainer.contrastive.low_rank", Count, Read),
    ("trainer.contrastive.high_rank", Count, Read),
    ("trainer.contrastive.current_class_threshold", Number, Read),
    ("trainer.contrastive.current_class_negative_threshold", Number, Read),
    ("trainer.contrastive.unsupervised_entropy_ignore", Number, Unread),
    ("trainer.contrastive.low_entropy_threshold", Number, Read),
    ("trainer.contrastive.num_negatives", Count, Read),
    ("trainer.contrastive.num_queries", Count, Read),
    ("trainer.contrastive.temperature", Number, Read),
    ("trainer.contrastive.loss_weight", Number, Read),
    ("trainer.contrastive.binary", Switch, Read),
    ("trainer.contrastive.anchor_ema", Switch, Read),
    ("saver", Section, Read),
    ("saver.auto_resume", Switch, Read),
    ("saver.snapshot_dir", Text, Read),
    ("saver.pretrain", Text, Optional),
    ("criterion", Section, Read),
    ("criterion.threshold", Number, Unread),
    ("criterion.type", Text, Read),
    ("criterion.kwargs", Section, Read),
    ("criterion.kwargs.thresh", Number, Read),
    ("criterion.kwargs.min_kept", Count, Read),
    ("criterion.kwargs.use_weight", Switch, Read),
    ("criterion.cons", Section, Ael),
    ("criterion.contra_weight", Number, Ael),
    ("criterion.consist_weight", Number, Ael),
    ("net", Section, Read),
    ("net.num_classes", Count, Read),
    ("net.sync_bn", Switch, Read),
    ("net.ema_decay", Number, Read),
    ("net.aux_loss", Section, Optional),
    ("net.aux_loss.aux_plane", Count, Read),
    ("net.aux_loss.loss_weight", Number, Read),
    ("net.encoder", Section, Read),
    ("net.encoder.type", Text, Read),
    ("net.encoder.kwargs", Section, Read),
    ("net.encoder.kwargs.multi_grid", Switch, Read),
    ("net.encoder.kwargs.zero_init_residual", Switch, Read),
    ("net.encoder.kwargs.fpn", Switch, Read),
    ("net.encoder.kwargs.replace_stride_with_dilation", Switches, Optional),
    ("net.encoder.kwargs.pretrained", Switch, Read),
    ("net.encoder.kwargs.groups", Count, Read),
    ("net.encoder.kwargs.width_per_group", Count, Read),
    ("net.decoder", Section, Read),
    ("net.decoder.type", Text, Read),
    ("net.decoder.kwargs", Section, Read),
    ("net.decoder.kwargs.inner_planes", Count, Read),
    ("net.decoder.kwargs.dilations", Numbers(0), Read),
    ("net.decoder.kwargs.rep_head", Switch, Read),
    ("sync_bn", Switch, Read),
];

/// Names of the top-level sections; any of them marks a file as the authors'.
pub(super) const SECTIONS: [&str; 5] = ["dataset", "trainer", "net", "criterion", "saver"];

/// One value of the file.
pub(super) struct Entry {
    /// Dotted key as written.
    pub(super) key: String,
    /// Line in the file.
    pub(super) line: u64,
    /// The value, `null` for an optional one that is turned off.
    pub(super) value: Value,
}

/// The values of a file, checked for known keys and right types.
#[derive(Default)]
pub(super) struct Values {
    pub(super) origin: String,
    entries: Vec<Entry>,
    /// Keys that no code reads.
    pub(super) unread: Vec<String>,
}

impl Values {
    /// Flattens `node`; problems go to `errors`.
    pub(super) fn read(origin: &str, node: &Node, errors: &mut Vec<Error>) -> Values {
        let mut values = Values {
            origin: origin.to_string(),
            ..Values::default()
        };
        values.collect(node, "", 1, errors);
        values
    }

    /// `file:line` for messages.
    pub(super) fn at(&self, line: u64) -> String {
        format!("{}:{line}", self.origin)
    }

    /// The value of `key`, unless it is missing or turned off.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.find(key).filter(|e| !e.value.is_null())
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    /// Whether any key lies below `section`.
    pub(super) fn has_section(&self, section: &str) -> bool {
        let below = |e: &Entry| {
            e.key
                .strip_prefix(section)
                .is_some_and(|r| r.starts_with('.'))
        };
        self.entries.iter().any(below)
    }

    /// `key` as `part` (`train` or `val`) of the dataset has it: its own, or the dataset's.
    pub(super) fn of_part(&self, part: &str, key: &str) -> Option<&Entry> {
        let own = self.find(&format!("dataset.{part}.{key}"));
        let shared = || self.find(&format!("dataset.{key}"));
        own.or_else(shared).filter(|e| !e.value.is_null())
    }

    fn collect(&mut self, node: &Node, path: &str, line: u64, errors: &mut Vec<Error>) {
        let known = known(path);
        let kind = known.map_or(Section, |(_, kind, _)| *kind);
        let role = known.map_or(Read, |(_, _, role)| *role);
        if role == Ael {
            errors.push(self.ael(path, line));
            return;
        }
        if role == Unread {
            self.unread.push(path.to_string());
        }
        match node {
            Node::Map(entries) if kind == Section => {
                for (key, line, child) in entries {
                    let path = join(path, key);
                    match known_or_root(&path) {
                        true => self.collect(child, &path, *line, errors),
                        false => errors.push(unknown(self.at(*line), &path)),
                    }
                }
            }
            Node::Map(_) => errors.push(Error::input(
                self.at(line),
                format!("`{path}` is a value, not a section"),
                format!("write {} after the colon", example(kind)),
            )),
            Node::Leaf(value) if role == Optional && is_off(value) => self.keep(path, line, None),
            // `section:` with nothing below it.
            Node::Leaf(Value::Null) if kind == Section => {}
            Node::Leaf(value) => match typed(kind, value) {
                Some(value) => self.keep(path, line, Some(value)),
                None => errors.push(wrong_type(self.at(line), path, kind, value)),
            },
        }
    }

    fn keep(&mut self, path: &str, line: u64, value: Option<Value>) {
        self.entries.push(Entry {
            key: path.to_string(),
            line,
            value: value.unwrap_or(Value::Null),
        });
    }

    fn ael(&self, path: &str, line: u64) -> Error {
        Error::input(
            self.at(line),
            format!("`{path}` belongs to AEL (branch with_AEL), another method"),
            "start from the configuration of branch main, which trains U2PL with CutMix",
        )
    }
}

/// The scope `dataset.train.` or `dataset.val.` taken out.
fn unscoped(path: &str) -> String {
    for scope in ["dataset.train.", "dataset.val."] {
        if let Some(rest) = path.strip_prefix(scope) {
            // A scope holds no scopes and no type of its own.
            if !["type", "train", "val"].contains(&rest) {
                return format!("dataset.{rest}");
            }
        }
    }
    path.to_string()
}

fn known(path: &str) -> Option<&'static (&'static str, Kind, Role)> {
    let path = unscoped(path);
    KEYS.iter().find(|(name, _, _)| *name == path)
}

fn known_or_root(path: &str) -> bool {
    path.is_empty() || known(path).is_some()
}

/// `False`, nothing, 0 or an empty text: what Python takes for no.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || switch(value) == Some(false),
        other => switch(other) == Some(false) || other.as_f64() == Some(0.0),
    }
}

/// A boolean in YAML 1.1's spellings.
fn switch(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// `value` when it is of `kind`, booleans in one spelling.
fn typed(kind: Kind, value: &Value) -> Option<Value> {
    let list = || value.as_array();
    let numbers = |n: usize| {
        list().is_some_and(|l| (n == 0 || l.len() == n) && l.iter().all(Value::is_number))
    };
    let fits = match kind {
        Section => false,
        Switch => return switch(value).map(Value::Bool),
        Switches => {
            let switches: Option<Vec<Value>> =
                list()?.iter().map(|v| switch(v).map(Value::Bool)).collect();
            return switches.filter(|s| s.len() == 3).map(Value::Array);
        }
        Count => value.is_u64(),
        Number => value.is_number(),
        Text => value.is_string(),
        Numbers(n) => numbers(n),
        Size => {
            value.is_u64() || list().is_some_and(|l| l.len() == 2 && l.iter().all(Value::is_u64))
        }
    };
    fits.then(|| value.clone())
}

fn wrong_type(at: String, path: &str, kind: Kind, value: &Value) -> Error {
    let what = match kind {
        Section => "a section",
        Switch => "True or False",
        Switches => "a list of three of True and False",
        Count => "a whole number from 0",
        Number => "a number",
        Text => "text",
        Numbers(2) => "a list of two numbers",
        Numbers(3) => "a list of three numbers",
        Numbers(_) => "a list of numbers",
        Size => "a size in pixels",
    };
    Error::input(
        at,
        format!("`{path}` is {value}, not {what}"),
        match kind {
            Section => "write its keys below it, indented".to_string(),
            _ => format!("write a value such as {}", example(kind)),
        },
    )
}

fn example(kind: Kind) -> &'static str {
    match kind {
        Section => "its keys",
        Switch => "True",
        Switches => "[False, True, True]",
        Count => "4",
        Number => "0.5",
        Text => "'name'",
        Numbers(2) => "[0.5, 2.0]",
        Numbers(3) => "[58.395, 57.12, 57.375]",
        Numbers(_) => "[12, 24, 36]",
        Size => "[513, 513]",
    }
}

/// The error for a key that no table row names: the nearest in its section, or one of that name
/// anywhere.
fn unknown(at: String, path: &str) -> Error {
    let plain = unscoped(path);
    let (section, name) = plain.rsplit_once('.').unwrap_or(("", &plain));
    let parts = || {
        KEYS.iter()
            .map(|(key, _, _)| key.rsplit_once('.').unwrap_or(("", key)))
    };
    let siblings = || parts().filter(|(s, _)| *s == section).map(|(_, n)| n);
    let near = nearest(name, siblings()).map(|n| match path.rsplit_once('.') {
        Some((scope, _)) => join(scope, n),
        None => n.to_string(),
    });
    let anywhere = || {
        let same = |(s, n): (&str, &str)| (n == name).then(|| join(s, n));
        parts().find_map(same)
    };
    let mend = match near.or_else(anywhere) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "known keys here: {}",
            siblings().collect::<Vec<_>>().join(", ")
        ),
    };
    Error::input(
        at,
        format!("unknown key `{path}` in the authors' format"),
        mend,
    )
}

fn join(prefix: &str, key: &str) -> String {
    match prefix {
        "" => key.to_string(),
        prefix => format!("{prefix}.{key}"),
    }
}

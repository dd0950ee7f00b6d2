//! Schedules and numbers derived from the configuration (method §1).

use crate::config::schema::{Algorithm, Config, Mode, TeacherBn};

/// Scalars that change from step to step, in the order of the device vector `scalars`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Base learning rate.
    pub lr: f32,
    /// EMA momentum m after the update; 1 leaves the teacher alone.
    pub ema: f32,
    /// EMA momentum before the step: 0 makes the teacher the student, 1 leaves it alone.
    pub sync: f32,
    /// α_t, percent of unreliable pixels.
    pub alpha: f32,
    /// Doubt (one less the probability) below which a pseudo-label counts at a fixed threshold.
    pub doubt: f32,
}

impl Scalars {
    /// Length of the device vector.
    pub const LEN: usize = 12;

    /// `{lr, ema, sync, 100 − α, α, 100 − α, doubt, −1, 1, 0, 1, k/(k+1)}`, k micro-batches of the
    /// step being done: the percentiles of γ, low and high follow the learning rate and the momenta;
    /// the next four make one less x out of x, as factor, summand, mean and variance; the last is
    /// the share of the gradients so far in the mean.
    pub fn to_device(self, k: usize) -> [f32; Self::LEN] {
        let keep = 100.0 - self.alpha;
        // The teacher becomes the student once a step.
        let sync = if k == 0 { self.sync } else { 1.0 };
        let share = k as f32 / (k + 1) as f32;
        [
            self.lr, self.ema, sync, keep, self.alpha, keep, self.doubt, -1.0, 1.0, 0.0, 1.0, share,
        ]
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Iteration within the epoch, from 0.
    pub iter: usize,
}

/// The schedule of a run.
#[derive(Clone, Debug)]
pub struct Schedule {
    epochs: usize,
    epoch_iters: usize,
    warmup_epochs: usize,
    lr: f32,
    power: f32,
    ema: f32,
    alpha0: f32,
    alpha_fixed: bool,
    doubt: f32,
    algorithm: Algorithm,
    mode: Mode,
}

impl Schedule {
    /// From the configuration and the number of iterations of an epoch.
    pub fn new(cfg: &Config, epoch_iters: usize) -> Self {
        let supervised = cfg.train.algorithm == Algorithm::Supervised;
        Self {
            epochs: cfg.train.epochs,
            epoch_iters,
            warmup_epochs: if supervised {
                cfg.train.epochs
            } else {
                cfg.train.warmup_epochs
            },
            lr: cfg.train.lr,
            power: cfg.train.poly_power,
            ema: cfg.method.ema,
            alpha0: cfg.method.alpha0,
            alpha_fixed: cfg.method.alpha_fixed,
            doubt: 1.0 - cfg.method.threshold,
            algorithm: cfg.train.algorithm,
            mode: cfg.method.mode,
        }
    }

    /// Iterations of the whole run.
    pub fn total(&self) -> usize {
        self.epochs * self.epoch_iters
    }

    /// Iterations on labels alone, from the first on.
    pub fn warmup(&self) -> usize {
        let epochs = self.warmup_epochs.min(self.epochs);
        epochs * self.epoch_iters
    }

    /// Global iteration to epoch and iteration.
    pub fn position(&self, iteration: usize) -> Position {
        Position {
            epoch: iteration / self.epoch_iters,
            iter: iteration % self.epoch_iters,
        }
    }

    /// Whether `iteration` trains on labels alone.
    pub fn is_warmup(&self, iteration: usize) -> bool {
        self.position(iteration).epoch < self.warmup_epochs
    }

    /// The scalars of `iteration`.
    pub fn scalars(&self, iteration: usize) -> Scalars {
        let epoch = self.position(iteration).epoch;
        let left = 1.0 - iteration as f64 / self.total() as f64;
        let lr = f64::from(self.lr) * left.powf(f64::from(self.power));
        let left_epochs = match self.alpha_fixed {
            true => 1.0,
            false => 1.0 - epoch as f64 / self.epochs as f64,
        };
        let alpha = f64::from(self.alpha0) * left_epochs;
        let (ema, sync) = self.teacher(iteration, epoch);
        Scalars {
            lr: lr as f32,
            ema,
            sync,
            alpha: alpha as f32,
            doubt: self.doubt,
        }
    }

    fn teacher(&self, iteration: usize, epoch: usize) -> (f32, f32) {
        if self.algorithm == Algorithm::Supervised {
            return (self.momentum(iteration), 1.0);
        }
        if epoch < self.warmup_epochs {
            // Paper: a teacher that mirrors the student is usable from the first epoch on.
            // Released: the teacher keeps its own initial weights until the first U2PL epoch.
            return (if self.mode == Mode::Paper { 0.0 } else { 1.0 }, 1.0);
        }
        let k = iteration - self.warmup_epochs * self.epoch_iters;
        match self.mode {
            Mode::Paper => (self.momentum(k), if k == 0 { 0.0 } else { 1.0 }),
            // Method §4 row 9: all through the first U2PL epoch teacher and student share storage,
            // so the teacher is the student before and after each update.
            Mode::Released if epoch == self.warmup_epochs => (0.0, 0.0),
            Mode::Released => (self.momentum(k), 1.0),
        }
    }

    /// m = min(1 − 1/(k+1), ema).
    fn momentum(&self, k: usize) -> f32 {
        ((1.0 - 1.0 / (k as f64 + 1.0)) as f32).min(self.ema)
    }
}

/// Rank bounds r_l, r_h of the negatives (method §1).
///
/// The paper's 3 and 20 are meant for 19–21 classes. With fewer, r_l = 3 from 12 classes on, 2
/// from 6 on, else 1, and r_h = min(20, C): unreliable pixels never push away their likeliest
/// classes, and every other class stays a candidate.
pub fn rank_bounds(cfg: &Config) -> (u32, u32) {
    let classes = cfg.data.classes as u32;
    let low = match classes {
        12.. => 3,
        6.. => 2,
        _ => 1,
    };
    let released = cfg.method.mode == Mode::Released;
    let (low, high) = if released {
        (3, 20)
    } else {
        (low, classes.min(20))
    };
    (
        cfg.method.low_rank.unwrap_or(low),
        cfg.method.high_rank.unwrap_or(high),
    )
}

/// λ_c, 0 for algorithms without contrast: the configured weight, or the mode's own. Released divides by the number of processes
/// (method §4 row 7).
pub fn contrast_weight(cfg: &Config) -> f32 {
    if cfg.train.algorithm != Algorithm::U2pl {
        return 0.0;
    }
    match cfg.method.mode {
        Mode::Paper => cfg.method.contrast_weight.unwrap_or(0.1),
        Mode::Released => {
            cfg.method.contrast_weight.unwrap_or(1.0) / cfg.method.world_size.max(1) as f32
        }
    }
}

/// Batch norm of the teacher; mode `released` implies `batch`.
pub fn teacher_bn(cfg: &Config) -> TeacherBn {
    match cfg.method.mode {
        Mode::Released => TeacherBn::Batch,
        Mode::Paper => cfg.method.teacher_bn,
    }
}

/// Capacity of each class's ring.
pub fn bank_capacities(cfg: &Config) -> Vec<u32> {
    let mut capacities = vec![cfg.method.bank_size as u32; cfg.data.classes];
    if let Some(first) = capacities.first_mut() {
        *first = cfg.method.bank_background as u32;
    }
    capacities
}

/// Iterations of an epoch: the longer list decides, the shorter is repeated.
pub fn epoch_iters(cfg: &Config, labeled: usize, unlabeled: usize) -> usize {
    if cfg.train.epoch_iters > 0 {
        return cfg.train.epoch_iters;
    }
    let batch = |each: usize| (each * cfg.train.micro_batches).max(1);
    let per_epoch = match cfg.train.algorithm {
        Algorithm::Supervised => labeled / batch(cfg.train.batch_labeled),
        _ => (unlabeled / batch(cfg.train.batch_unlabeled))
            .max(labeled / batch(cfg.train.batch_labeled)),
    };
    per_epoch.max(1)
}

/// Why the contrast term cannot learn anything under this configuration, if so.
pub fn contrast_is_idle(cfg: &Config) -> Option<String> {
    if contrast_weight(cfg) == 0.0 {
        return None;
    }
    let (low, high) = rank_bounds(cfg);
    let classes = cfg.data.classes as u32;
    if classes < 2 {
        return Some("there is one class only, so nothing is ever a negative".into());
    }
    if cfg.method.mode == Mode::Released && low >= classes.min(high) {
        return Some(format!(
            "method.low_rank = {low} leaves no rank below min(method.high_rank = {high}, \
             data.classes = {classes}); set method.low_rank below that"
        ));
    }
    if cfg.method.mode == Mode::Paper && low == 0 && high == 0 {
        return Some("method.low_rank and method.high_rank are both 0: no negatives".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(mode: Mode) -> Schedule {
        let mut cfg = Config::default();
        cfg.train.epochs = 4;
        cfg.train.lr = 0.1;
        cfg.method.mode = mode;
        Schedule::new(&cfg, 5)
    }

    #[test]
    fn lr_is_poly_over_the_whole_run() {
        let s = schedule(Mode::Paper);
        assert_eq!(s.scalars(0).lr, 0.1);
        let expect = 0.1f64 * (1.0f64 - 10.0 / 20.0).powf(0.9);
        assert!((f64::from(s.scalars(10).lr) - expect).abs() < 1e-8);
    }

    #[test]
    fn alpha_falls_linearly_with_the_epoch() {
        let s = schedule(Mode::Paper);
        let alphas: Vec<f32> = (0..4).map(|e| s.scalars(5 * e).alpha).collect();
        assert_eq!(alphas, [20.0, 15.0, 10.0, 5.0]);
        let mut cfg = Config::default();
        cfg.method.alpha_fixed = true;
        let s = Schedule::new(&cfg, 5);
        assert!((0..80).all(|e| s.scalars(5 * e).alpha == 20.0));
    }

    #[test]
    fn teacher_starts_as_the_student() {
        let paper = schedule(Mode::Paper);
        assert!(paper.is_warmup(4) && !paper.is_warmup(5));
        assert_eq!(paper.scalars(5).sync, 0.0);
        assert_eq!(paper.scalars(6).sync, 1.0);
        let released = schedule(Mode::Released);
        assert_eq!(released.scalars(4).ema, 1.0);
        assert!((5..10).all(|i| released.scalars(i).sync == 0.0));
        assert_eq!(released.scalars(10).sync, 1.0);
        assert!((5..10).all(|i| released.scalars(i).ema == 0.0));
        assert_eq!(paper.scalars(5).ema, 0.0);
        assert_eq!(paper.scalars(6).ema, 0.5);
        assert_eq!(released.scalars(10).ema, 1.0 - 1.0 / 6.0);
    }

    #[test]
    fn rank_bounds_follow_the_class_count() {
        let mut cfg = Config::default();
        for (classes, bounds) in [
            (21, (3, 20)),
            (19, (3, 19)),
            (11, (2, 11)),
            (5, (1, 5)),
            (2, (1, 2)),
        ] {
            cfg.data.classes = classes;
            assert_eq!(rank_bounds(&cfg), bounds);
        }
        cfg.method.mode = Mode::Released;
        assert_eq!(rank_bounds(&cfg), (3, 20));
        assert!(contrast_is_idle(&cfg).is_some());
    }
}

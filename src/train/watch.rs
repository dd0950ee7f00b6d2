//! Notices a contrastive loss that learns nothing, and says why, once.

use crate::config::Config;
use crate::config::schema::Mode;
use crate::method::diagnostics::Report;
use crate::method::schedule::rank_bounds;

/// Logged U2PL steps without a single class in the contrastive loss before it warns.
const PATIENCE: usize = 5;

pub(super) struct ContrastWatch {
    mode: Mode,
    bounds: (u32, u32),
    idle: usize,
    warned: bool,
}

impl ContrastWatch {
    pub(super) fn new(cfg: &Config) -> Self {
        Self {
            mode: cfg.method.mode,
            bounds: rank_bounds(cfg),
            idle: 0,
            warned: false,
        }
    }

    /// Looks at one report; warns after [`PATIENCE`] idle ones.
    pub(super) fn see(&mut self, report: &Report) {
        let Some(u2pl) = report
            .u2pl
            .as_ref()
            .filter(|_| report.loss.contrast.is_some())
        else {
            return;
        };
        if u2pl.contrast_classes > 0 {
            self.idle = 0;
            return;
        }
        self.idle += 1;
        if self.idle < PATIENCE || self.warned {
            return;
        }
        self.warned = true;
        let (low, high) = self.bounds;
        let empty_bank = u2pl.bank.iter().all(|&n| n == 0);
        let reason = match (empty_bank, self.mode) {
            (true, Mode::Released) => format!(
                "no pixel was ever a negative: in mode released a negative of class c must be \
                 pseudo-labelled c by one teacher pass and have rank {low} to {high} in the other"
            ),
            (true, Mode::Paper) => format!(
                "no pixel was ever a negative: no labelled pixel has another class among its {low} \
                 likeliest and no unreliable pixel a class of rank {low} to {high}; check \
                 method.low_rank and method.high_rank"
            ),
            (false, _) => "no class has both an anchor (p > method.delta_p) and negatives in the \
                           memory bank"
                .to_string(),
        };
        tracing::warn!("the contrast term has nothing to learn from: {reason}");
    }
}

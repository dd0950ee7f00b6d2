//! The demo: supervised-only against U2PL on synthetic shapes.

use std::path::Path;

use super::run_dir::sample_path;
use super::sheet::Kind;
use super::{FINAL_PICTURE, Observer, Options, Summary, run, samples};
use crate::config::Config;
use crate::config::schema::Algorithm;
use crate::{Error, Result};

/// Both runs of the demo.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Labelled images only.
    pub supervised: Summary,
    /// With the unlabelled images.
    pub u2pl: Summary,
    /// Predictions of both, side by side.
    pub picture: std::path::PathBuf,
}

/// Trains supervised-only, then U2PL with the same labelled images and iterations, into
/// `supervised/` and `u2pl/` of `options.out`.
///
/// # Errors
/// As [`run`]; resuming and initial weights are refused.
pub fn compare(cfg: &Config, options: &Options, observer: &mut dyn Observer) -> Result<Comparison> {
    if options.resume || options.init.is_some() {
        return Err(Error::input(
            "train",
            "the demo neither resumes nor takes initial weights",
            "name a configuration with --config",
        ));
    }
    refuse_used(&options.out)?;
    let mut one = |algorithm: Algorithm, sub: &str| {
        let mut cfg = cfg.clone();
        cfg.train.algorithm = algorithm;
        if algorithm == Algorithm::Supervised {
            // The same number of iterations, hence of labelled images, as the other run.
            cfg.train.epoch_iters = iterations_of(&cfg);
        }
        let options = Options {
            device: options.device.clone(),
            out: options.out.join(sub),
            init: None,
            resume: false,
            new_data: false,
            max_iters: options.max_iters,
            profile: options.profile,
            check: options.check.clone(),
        };
        run(cfg, &options, observer)
    };
    let supervised = one(Algorithm::Supervised, "supervised")?;
    let u2pl = one(Algorithm::U2pl, "u2pl")?;
    let picture = options.out.join("predictions.png");
    let sample = |run: &Summary| sample_path(&run.out, FINAL_PICTURE);
    let judged = |network| [Kind::Image, Kind::Truth, network];
    samples::join(
        &[
            (&sample(&supervised), &judged(Kind::Student)),
            (&sample(&u2pl), &judged(Kind::Teacher)),
        ],
        &picture,
    )?;
    Ok(Comparison {
        supervised,
        u2pl,
        picture,
    })
}

fn iterations_of(cfg: &Config) -> usize {
    let shapes = &cfg.data.shapes;
    let mut u2pl = cfg.clone();
    u2pl.train.algorithm = Algorithm::U2pl;
    crate::method::schedule::epoch_iters(&u2pl, shapes.labeled, shapes.unlabeled)
}

fn refuse_used(out: &Path) -> Result<()> {
    let used = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(Error::input(
            out.display().to_string(),
            "the run folder exists and is not empty",
            "choose another --out",
        ));
    }
    Ok(())
}

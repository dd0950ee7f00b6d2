//! The demo: supervised-only against U2PL on synthetic shapes.

use std::path::{Path, PathBuf};

use super::run_dir::sample_path;
use super::sheet::Kind;
use super::{FINAL_PICTURE, Observer, Options, Summary, run, samples};
use crate::config::Config;
use crate::config::schema::Algorithm;
use crate::files::write_atomic;
use crate::{Error, Result};

/// Both runs of the demo.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Labelled images only.
    pub supervised: Summary,
    /// With the unlabelled images.
    pub u2pl: Summary,
    /// Predictions of both, side by side.
    pub picture: PathBuf,
}

/// The configuration that the demo in the folder `out` was started with.
pub fn config_path(out: &Path) -> PathBuf {
    out.join("demo.yaml")
}

/// Trains supervised-only, then U2PL with the same labelled images and iterations, into
/// `supervised/` and `u2pl/` of `options.out`. Resuming goes on with the run that was interrupted.
///
/// # Errors
/// As [`run`], naming `options.out` where it can be resumed; initial weights are refused.
pub fn compare(cfg: &Config, options: &Options, observer: &mut dyn Observer) -> Result<Comparison> {
    if options.init.is_some() {
        return Err(Error::input(
            "--init",
            "the demo takes no initial weights",
            "name a configuration with --config",
        ));
    }
    if !options.resume {
        refuse_used(&options.out)?;
        let out = &options.out;
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the run folder", e))?;
        write_atomic(&config_path(out), cfg.to_yaml()?.as_bytes())?;
    }
    let out = &options.out;
    let mut one = |algorithm: Algorithm, sub: &str| {
        let mut cfg = cfg.clone();
        cfg.train.algorithm = algorithm;
        if algorithm == Algorithm::Supervised {
            // The same number of iterations, hence of labelled images, as the other run.
            cfg.train.epoch_iters = iterations_of(&cfg);
        }
        let folder = options.out.join(sub);
        let options = Options {
            device: options.device.clone(),
            resume: options.resume && folder.join("checkpoints").is_dir(),
            out: folder,
            init: None,
            new_data: options.new_data,
            max_iters: options.max_iters,
            profile: options.profile,
            check: options.check.clone(),
        };
        run(cfg, &options, observer).map_err(|e| e.of_run(out))
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
            "choose another --out, or go on with --resume",
        ));
    }
    Ok(())
}

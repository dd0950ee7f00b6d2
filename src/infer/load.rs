//! Weights and the configuration that they belong to, from wherever they were saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Authors, AuthorsOptions, Config};
use crate::device::Device;
use crate::eval::LoadedWeights;
use crate::graph::params::Layout;
use crate::weights::{Prefer, Reader, weights_of};
use crate::{Error, Result, model};

/// A network on a device.
pub struct Network {
    /// Where operations run.
    pub device: Arc<dyn Device>,
    /// The network's configuration.
    pub cfg: Config,
    /// Names and places of its parameters.
    pub layout: Layout,
    /// Their values, on the device.
    pub weights: LoadedWeights,
}

/// The weights in `path`, a file or a run folder, on `device`. The configuration is `config`, that
/// of the run folder, or the one in the file, in this order; `sets` (`key=value`) override it.
///
/// # Errors
/// [`Error::Input`] and [`Error::Io`] when there are no weights, no configuration, or weights of
/// another architecture; the device's.
pub fn open(
    path: &Path,
    config: Option<&Path>,
    sets: &[String],
    prefer: Prefer,
    device: Arc<dyn Device>,
) -> Result<Network> {
    let (file, cfg) = config_of(path, config, sets)?;
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let weights = LoadedWeights::read(&device, &layout, &file, prefer)?;
    Ok(Network {
        device,
        cfg,
        layout,
        weights,
    })
}

/// The file of weights that `path` means, and its configuration, as [`open`] finds them.
///
/// # Errors
/// As [`open`].
pub fn config_of(path: &Path, config: Option<&Path>, sets: &[String]) -> Result<(Reader, Config)> {
    let options = AuthorsOptions::default();
    let (file, cfg, _) = config_with(path, config, sets, options)?;
    Ok((file, cfg))
}

/// As [`config_of`], with a choice for what a configuration in the authors' format leaves open, and
/// with what such a one says besides.
///
/// # Errors
/// As [`open`].
pub fn config_with(
    path: &Path,
    config: Option<&Path>,
    sets: &[String],
    options: AuthorsOptions,
) -> Result<(Reader, Config, Option<Authors>)> {
    let weights = weights_of(path)?;
    let file = Reader::open(&weights)?;
    let beside = run_config(&weights);
    let (cfg, authors) = match (config.or(beside.as_deref()), file.meta("config")) {
        (Some(path), _) => Config::read(Some(path), sets, options)?,
        (None, Some(text)) => {
            let origin = format!("{} (metadata)", weights.display());
            (Config::parse(&origin, text, sets)?, None)
        }
        (None, None) => {
            return Err(Error::input(
                weights.display().to_string(),
                "neither its folder nor the file itself says which configuration it is of",
                "give --config",
            ));
        }
    };
    cfg.validate_for_use()?;
    Ok((file, cfg, authors))
}

/// `RUN/config.yaml` of `RUN/checkpoints/W`, when it is there.
fn run_config(weights: &Path) -> Option<PathBuf> {
    let folder = weights.parent()?;
    let config = folder.parent()?.join("config.yaml");
    (folder.file_name()? == "checkpoints" && config.is_file()).then_some(config)
}

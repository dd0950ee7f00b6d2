//! `u2pl-engine eval`: mIoU of trained weights on a list of images.

use std::path::{Path, PathBuf};

use super::common::{DeviceArgs, Progress, WeightsArgs, emit, emit_json};
use crate::config::Config;
use crate::config::schema::{DataKind, Protocol};
use crate::data::{Dataset, Part};
use crate::eval::Evaluator;
use crate::{Error, Result, model};

/// Scores trained weights on images with masks.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// List of images. Default: data.val of the configuration
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// How images are scored. Default: eval.protocol of the configuration
    #[arg(long, value_name = "PROTOCOL", value_parser = ["whole", "center-crop", "sliding"])]
    protocol: Option<String>,
    /// Image scales whose probabilities are averaged, such as 0.75,1,1.25
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    scales: Vec<f32>,
    /// Average with the mirrored image
    #[arg(long)]
    flip: bool,
    /// Write the numbers as JSON here; - prints them instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    /// The protocol's options as overrides of the configuration, so that they are checked alike.
    fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        if let Some(protocol) = &self.protocol {
            sets.push(format!("eval.protocol={protocol}"));
        }
        if !self.scales.is_empty() {
            sets.push(format!("eval.scales={:?}", self.scales));
        }
        if self.flip {
            sets.push("eval.flip=true".into());
        }
        sets
    }
}

/// Runs the subcommand.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let (file, cfg) = args.weights.open(args.sets())?;
    let dataset = open_dataset(&cfg, args.list.as_deref())?;
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let weights = args.weights.load(&file, &layout, &device)?;
    drop(file);

    let mut evaluator = Evaluator::new(device, &cfg, layout);
    let progress = Progress::new("eval", dataset.len());
    let at = weights.weights();
    let metrics = evaluator.evaluate(at.arena, at.set, &dataset, &mut |done, _| {
        progress.at(done);
    })?;
    drop(progress);

    if let Some(path) = &args.json {
        let mut value = metrics.to_json();
        if let Some(map) = value.as_object_mut() {
            map.insert("images".into(), dataset.len().into());
            map.insert("protocol".into(), protocol_name(cfg.eval.protocol)?);
        }
        emit_json(path, &value)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    emit(&metrics.table(&cfg.data.class_names))
}

fn open_dataset(cfg: &Config, list: Option<&Path>) -> Result<Dataset> {
    match (list, cfg.data.kind) {
        (None, DataKind::Shapes) => {
            // Shapes have classes of their own, which the whole check knows.
            cfg.validate()?;
            Dataset::open(cfg, Part::Val)
        }
        (Some(_), DataKind::Shapes) => Err(Error::input(
            "--list",
            "the configuration's data are synthetic shapes, which have no files",
            "leave --list out, or set data.kind and data.root",
        )),
        (None, _) => Dataset::open(cfg, Part::Val),
        (Some(list), _) => Dataset::from_list(cfg, Part::Val, list),
    }
}

fn protocol_name(protocol: Protocol) -> Result<serde_json::Value> {
    serde_json::to_value(protocol).map_err(|e| Error::internal(e.to_string()))
}

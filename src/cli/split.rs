//! `u2pl-engine split`: which images keep their labels.

use std::path::PathBuf;

use super::common::emit;
use crate::data::split::{Listing, list_images, make_split, read_list, write_split};

/// Draws labelled images: writes labeled.txt and unlabeled.txt for data.labeled and data.unlabeled.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Dataset root: JPEGImages/ + SegmentationClass/ or images/ + masks/. Every image in it takes
    /// part: give --list to keep validation images out
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    data: Option<PathBuf>,
    /// Draw from the lines of this list instead of every image in --data
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Number of images that keep their labels
    #[arg(long, value_name = "N")]
    labeled: usize,
    /// Seed of the draw; with one seed, larger draws contain the smaller ones
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Folder for the two lists, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Listing {
        with_mask,
        without_mask,
    } = match (&args.list, &args.data) {
        (Some(list), _) => Listing {
            with_mask: read_list(list)?,
            without_mask: Vec::new(),
        },
        (None, Some(root)) => list_images(root)?,
        // The parser asks for one of them.
        (None, None) => Listing::default(),
    };
    let (labeled, mut unlabeled) = make_split(&with_mask, args.labeled, args.seed)?;
    if !without_mask.is_empty() {
        unlabeled.extend(without_mask);
        unlabeled.sort_unstable();
    }
    let [of_labeled, of_unlabeled] = write_split(&args.out, &labeled, &unlabeled)?;
    emit(&format!(
        "{} labelled   {}\n{} unlabelled {}\n",
        labeled.len(),
        of_labeled.display(),
        unlabeled.len(),
        of_unlabeled.display()
    ))
}

//! `u2pl-engine split`: which images keep their labels.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::ValueEnum;

use super::common::emit;
use crate::counted::counted;
use crate::data::discover::{discover, layout_of};
use crate::data::list::lines;
use crate::data::mask::MaskRules;
use crate::data::split::{make_balanced_split, make_split, write_lists};
use crate::data::survey::classes_held;
use crate::data::{Sample, list};
use crate::{Error, Result};

/// Draws labelled images: writes labeled.txt and unlabeled.txt for data.labeled and data.unlabeled.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Dataset root: JPEGImages/ + SegmentationClass/, leftImg8bit/ + gtFine/ or images/ + masks/.
    /// Every image in it takes part: keep validation images out with --val or --list
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    data: Option<PathBuf>,
    /// Draw from the lines of this list instead of every image in --data
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Number of images that keep their labels
    #[arg(long, value_name = "N")]
    labeled: usize,
    /// Set so many images with labels apart first, at random, and write val.txt for data.val too
    #[arg(long, value_name = "N")]
    val: Option<usize>,
    /// How images are drawn
    #[arg(long, value_enum, default_value = "random")]
    draw: Draw,
    /// Seed of the draw; with one seed, larger draws contain the smaller ones
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Leave out the comment lines that say how the lists were drawn, for programs that take every
    /// line for an image, such as the authors'
    #[arg(long)]
    plain: bool,
    /// Folder for the lists, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Draw {
    /// Every image alike.
    Random,
    /// By turns for the class that the fewest drawn images hold (reads the masks in --data).
    ClassBalanced,
}

/// What is drawn from.
#[derive(Default)]
struct Pool {
    /// Lines with a mask.
    lines: Vec<String>,
    /// Lines without.
    unlabeled: Vec<String>,
    /// Where they come from, for the header.
    origin: String,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let pool = args.pool()?;
    let (val, rest) = match args.val {
        // A seed of its own: the labelled images are not the ones that come next.
        Some(n) => args.apart(&pool.lines, n)?,
        None => (Vec::new(), pool.lines.clone()),
    };
    let (labeled, mut unlabeled) = match args.draw {
        Draw::Random => make_split(&rest, args.labeled, args.seed)?,
        Draw::ClassBalanced => {
            let classes = args.classes(&rest)?;
            make_balanced_split(&rest, &classes, args.labeled, args.seed)?
        }
    };
    if !pool.unlabeled.is_empty() {
        unlabeled.extend(pool.unlabeled.iter().cloned());
        unlabeled.sort_unstable();
    }
    let header = match args.plain {
        true => String::new(),
        false => args.header(&pool, &rest),
    };
    let mut lists = vec![
        ("labeled.txt", labeled.as_slice()),
        ("unlabeled.txt", unlabeled.as_slice()),
    ];
    if args.val.is_some() {
        lists.push(("val.txt", val.as_slice()));
    }
    let paths = write_lists(&args.out, &lists, &header)?;
    let names = ["labelled  ", "unlabelled", "validation"];
    let rows = names.iter().zip(&lists).zip(&paths);
    let text: String = rows
        .map(|((name, (_, lines)), path)| format!("{} {name} {}\n", lines.len(), path.display()))
        .collect();
    emit(&text)
}

impl Args {
    fn pool(&self) -> Result<Pool> {
        if let Some(list) = &self.list {
            let lines: Vec<String> = lines(list)?.into_iter().map(|(_, line)| line).collect();
            let mut seen = HashMap::new();
            for (number, line) in lines.iter().enumerate() {
                if let Some(first) = seen.insert(line, number) {
                    return Err(Error::input(
                        list.display().to_string(),
                        format!(
                            "names {line} twice (entries {} and {})",
                            first + 1,
                            number + 1
                        ),
                        "leave one of them out: both draws would be the same image",
                    ));
                }
            }
            return Ok(Pool {
                lines,
                unlabeled: Vec::new(),
                origin: list.display().to_string(),
            });
        }
        // The parser asks for one of them.
        let Some(root) = &self.data else {
            return Ok(Pool::default());
        };
        let found = discover(root)?;
        if found.labeled.is_empty() {
            return Err(Error::input(
                root.display().to_string(),
                match found.unlabeled.len() {
                    1 => "its one image has no mask".into(),
                    n => format!("none of {n} images has a mask"),
                },
                "add masks: some images must be labelled",
            ));
        }
        if let Some(first) = found.faults.first() {
            let masks = counted(
                found.faults.len(),
                "mask is no file, its image",
                "masks are no files, their images",
            );
            tracing::warn!("{masks} taken as unlabelled, the first {first}");
        }
        let lines = |list: Vec<(String, Sample)>| list.into_iter().map(|(line, _)| line).collect();
        let mut pool = Pool {
            lines: lines(found.labeled),
            unlabeled: lines(found.unlabeled),
            origin: root.display().to_string(),
        };
        pool.lines.sort_unstable();
        Ok(pool)
    }

    fn apart(&self, lines: &[String], n: usize) -> Result<(Vec<String>, Vec<String>)> {
        if n + self.labeled > lines.len() || n == 0 {
            return Err(Error::input(
                format!("--val {n}"),
                format!(
                    "{}, --labeled takes {}",
                    counted(
                        lines.len(),
                        "image with a label exists",
                        "images with a label exist"
                    ),
                    self.labeled
                ),
                "give at least 1, and together no more than there are",
            ));
        }
        make_split(lines, n, self.seed ^ 0x7A11_DA7E)
    }

    /// The classes that each line's mask holds.
    fn classes(&self, of: &[String]) -> Result<Vec<Vec<u8>>> {
        let root = self.data.as_deref().ok_or_else(|| {
            Error::input(
                "--draw class-balanced",
                "needs the masks",
                "give --data DIR beside --list",
            )
        })?;
        let mut data = layout_of(root)?;
        data.classes = 256;
        let samples = list::samples(&data, of);
        let wanted: Vec<&Sample> = samples.iter().collect();
        classes_held(&wanted, &MaskRules::new(&data), data.ignore_index)
    }

    /// How the lists came to be; no date, so that the same command writes the same bytes.
    fn header(&self, pool: &Pool, rest: &[String]) -> String {
        let draw = match self.draw {
            Draw::Random => "random",
            Draw::ClassBalanced => "class-balanced",
        };
        let without = match pool.unlabeled.len() {
            0 => String::new(),
            n => format!(", {n} without a mask"),
        };
        let val = match self.val {
            Some(n) => format!(", {n} set apart for validation"),
            None => String::new(),
        };
        format!(
            "u2pl-engine {} split of {}\n{} with a label{without}{val}\n\
             {} of {} drawn as labelled: {draw}, seed {}\n",
            env!("CARGO_PKG_VERSION"),
            pool.origin,
            counted(pool.lines.len(), "image", "images"),
            self.labeled,
            rest.len(),
            self.seed
        )
    }
}

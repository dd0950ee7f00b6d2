//! Which networks the cases are taken from.

use crate::config::Config;
use crate::config::schema::{DataKind, Protocol};
use crate::{Error, Result};

/// Text of a recipe, what of it is overridden, and the images of its dataset (height, width).
struct Source {
    name: &'static str,
    yaml: &'static str,
    sets: &'static [&'static str],
    image: [usize; 2],
}

/// Batches are those of one GPU: 4 + 4 for VOC, 2 + 2 for Cityscapes.
const SOURCES: &[Source] = &[
    Source {
        name: "voc",
        yaml: include_str!("../../configs/voc_classic_183.yaml"),
        sets: &["train.batch_labeled=4", "train.batch_unlabeled=4"],
        image: [375, 500],
    },
    Source {
        name: "cityscapes",
        yaml: include_str!("../../configs/cityscapes_186.yaml"),
        sets: &[
            "train.batch_labeled=2",
            "train.batch_unlabeled=2",
            "train.ohem_min_kept=100000",
        ],
        image: [1024, 2048],
    },
    Source {
        name: "small",
        yaml: include_str!("../../configs/camvid_cpu.yaml"),
        sets: &[],
        image: [144, 192],
    },
    Source {
        name: "tiny",
        yaml: include_str!("../../configs/tiny.yaml"),
        sets: &[],
        image: [33, 33],
    },
];

/// A configuration and the size of its images.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `voc`, `cityscapes`, `small`, `tiny`, or the file that it was read from.
    pub name: String,
    /// The configuration.
    pub cfg: Config,
    /// Height and width of an image of the dataset, as decoded and scaled.
    pub image: [usize; 2],
    /// Pixels of the largest image, for which staging is planned.
    pub staged_pixels: usize,
}

impl Recipe {
    /// Names of the built-in recipes.
    pub fn names() -> Vec<&'static str> {
        SOURCES.iter().map(|s| s.name).collect()
    }

    /// The built-in recipe `name`, overlaid with `sets` (`section.key=value`).
    ///
    /// # Errors
    /// [`Error::Input`] for an unknown name or overrides that make no sense.
    pub fn named(name: &str, sets: &[String]) -> Result<Self> {
        let Some(source) = SOURCES.iter().find(|s| s.name == name) else {
            return Err(Error::input(
                format!("--recipe {name}"),
                "no such recipe",
                format!("use one of {}, or --config FILE", Self::names().join(", ")),
            ));
        };
        let own = source.sets.iter().map(ToString::to_string);
        let sets: Vec<String> = own.chain(sets.iter().cloned()).collect();
        let cfg = Config::parse(&format!("built-in recipe {name}"), source.yaml, &sets)?;
        cfg.validate_for_use()?;
        let [h, w] = source.image;
        let staged_pixels = match cfg.data.kind {
            DataKind::Voc if name == "voc" => 500 * 500,
            _ => h * w,
        };
        Ok(Self {
            name: name.into(),
            cfg,
            image: source.image,
            staged_pixels,
        })
    }

    /// The recipe of a configuration; images have the size that is known of the dataset, else
    /// that of the crop. A run looks at its images; a plan must not need them.
    pub fn of_config(name: impl Into<String>, cfg: Config) -> Self {
        let ([h, w], [cap_h, cap_w]) = match cfg.data.kind {
            DataKind::Shapes => ([cfg.data.shapes.size; 2], [cfg.data.shapes.size; 2]),
            DataKind::Voc => ([375, 500], [500, 500]),
            DataKind::Cityscapes => ([1024, 2048], [1024, 2048]),
            DataKind::Folder => (cfg.augment.crop, cfg.augment.crop),
        };
        let side = |n: usize| (n as f32 * cfg.data.image_scale).ceil() as usize;
        Self {
            name: name.into(),
            image: [side(h), side(w)],
            staged_pixels: side(cap_h) * side(cap_w),
            cfg,
        }
    }

    /// Size of the network's input in inference: a window where windows slide, else an image.
    pub fn inference_size(&self) -> [usize; 2] {
        match self.cfg.eval.protocol {
            Protocol::Sliding => self.cfg.eval.crop.unwrap_or(self.cfg.augment.crop),
            Protocol::Whole | Protocol::CenterCrop => self.image,
        }
    }
}

//! The typed configuration of a run: every key, its meaning, unit and default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::device::op::NegativePixels;

/// A whole run. Every key has a default except `data.root` (unneeded for the synthetic shapes).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where images come from.
    pub data: Data,
    /// Random resize, flip, crop, strong augmentation.
    pub augment: Augment,
    /// The network.
    pub model: Model,
    /// Optimisation.
    pub train: Train,
    /// U2PL's own numbers.
    pub method: Method,
    /// Validation.
    pub eval: Eval,
}

/// Layout of a dataset on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// Synthetic textured shapes made on the fly; needs no files.
    #[default]
    Shapes,
    /// `JPEGImages/ID.jpg` + `SegmentationClassAug/ID.png` (or `SegmentationClass`), list lines are ids.
    Voc,
    /// List lines are `leftImg8bit/.../X_leftImg8bit.png`, masks `gtFine/.../X_gtFine_*.png`.
    Cityscapes,
    /// `images/` + `masks/` with equal file stems; list lines are stems or file names.
    Folder,
}

/// How the pixel values of masks encode classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelEncoding {
    /// Pixel value = class index, `ignore_index` = void.
    #[default]
    TrainId,
    /// Cityscapes label ids 0–33, mapped to the 19 train ids on the fly (`*_gtFine_labelIds.png`).
    CityscapesLabelId,
}

/// Whether images are turned by their EXIF orientation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Turned as viewers show them.
    #[default]
    Apply,
    /// The pixels as they are stored.
    Ignore,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Layout.
    pub kind: DataKind,
    /// Root folder of the dataset (`~` is not expanded). Relative paths start at the working folder.
    pub root: PathBuf,
    /// Split list of labelled images, one per line. Relative lists are looked up in the working
    /// folder, then under `root`.
    pub labeled: PathBuf,
    /// Split list of unlabelled images, or a folder: every image in it. Masks, if there are any, are
    /// used for diagnostics only.
    pub unlabeled: PathBuf,
    /// Split list of validation images.
    pub val: PathBuf,
    /// Folder of images under `root`; empty = the layout's own.
    pub image_dir: PathBuf,
    /// Folder of masks under `root`; empty = the layout's own.
    pub mask_dir: PathBuf,
    /// Number of classes C (1–255 less the ignore index).
    pub classes: usize,
    /// Class names for tables; empty = `class 0`…
    pub class_names: Vec<String>,
    /// Label of pixels that count for nothing.
    pub ignore_index: u8,
    /// Encoding of the masks.
    pub encoding: LabelEncoding,
    /// Values of masks that mean another class (or `ignore_index`): `{from: to}`. Values that are
    /// not named stay as they are.
    pub remap: BTreeMap<u8, u8>,
    /// Factor applied to every image and mask right after decoding (1 = none).
    pub image_scale: f32,
    /// Whether images are turned by their EXIF orientation (`apply`) or taken as stored (`ignore`).
    /// Masks have none: they are drawn on what is seen.
    pub exif: Exif,
    /// Share of the unlabelled images that may be unusable (0 to 1): they are skipped with a warning,
    /// others take their places; one more ends the run.
    pub max_bad_unlabeled: f32,
    /// Per-channel mean, RGB 0–255.
    pub mean: [f32; 3],
    /// Per-channel standard deviation, RGB 0–255.
    pub std: [f32; 3],
    /// Decoding threads; 0 = one per core, at most 8.
    pub workers: usize,
    /// Keep decoded images in memory up to this many MiB (0 = never).
    pub cache_mib: usize,
    /// Synthetic shapes: labelled, unlabelled and validation images, and their side in pixels.
    pub shapes: Shapes,
}

/// Size of the synthetic dataset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shapes {
    /// Labelled images.
    pub labeled: usize,
    /// Unlabelled images.
    pub unlabeled: usize,
    /// Validation images.
    pub val: usize,
    /// Image side, pixels.
    pub size: usize,
}

impl Shapes {
    /// Classes of the synthetic dataset: background and five shapes.
    pub const CLASSES: usize = 6;
}

impl Default for Shapes {
    fn default() -> Self {
        Self {
            labeled: 8,
            unlabeled: 120,
            val: 32,
            size: 64,
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self {
            kind: DataKind::Shapes,
            root: PathBuf::new(),
            labeled: PathBuf::new(),
            unlabeled: PathBuf::new(),
            val: PathBuf::new(),
            image_dir: PathBuf::new(),
            mask_dir: PathBuf::new(),
            classes: 6,
            class_names: Vec::new(),
            ignore_index: 255,
            encoding: LabelEncoding::TrainId,
            remap: BTreeMap::new(),
            image_scale: 1.0,
            exif: Exif::Apply,
            max_bad_unlabeled: 0.05,
            mean: [123.675, 116.28, 103.53],
            std: [58.395, 57.12, 57.375],
            workers: 0,
            cache_mib: 1024,
            shapes: Shapes::default(),
        }
    }
}

impl Data {
    /// Name of a class for people.
    pub fn class_name(&self, class: usize) -> String {
        let name = self.class_names.get(class);
        name.map_or_else(|| format!("class {class}"), String::clone)
    }
}

/// Strong augmentation of the unlabelled batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// None.
    None,
    /// A box of half the area from the next image.
    #[default]
    Cutmix,
    /// Half of the classes pasted on the next image.
    Classmix,
    /// A box zeroed and ignored.
    Cutout,
}

/// Augmentation of training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Crop height and width, pixels.
    pub crop: [usize; 2],
    /// Random resize range around 1.
    pub scale: [f32; 2],
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Strong augmentation.
    pub mix: Mix,
    /// Probability per step that the batch is mixed.
    pub mix_prob: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            crop: [513, 513],
            scale: [0.5, 2.0],
            flip: 0.5,
            mix: Mix::Cutmix,
            mix_prob: 0.5,
        }
    }
}

/// Residual network depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// Basic blocks [2, 2, 2, 2].
    Resnet18,
    /// Basic blocks [3, 4, 6, 3].
    Resnet34,
    /// Bottlenecks [3, 4, 6, 3].
    Resnet50,
    /// Bottlenecks [3, 4, 23, 3].
    #[default]
    Resnet101,
    /// Bottlenecks [3, 8, 36, 3].
    Resnet152,
}

/// First layers of the encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// Three 3×3 convolutions, max-pool in ceil mode (the authors').
    #[default]
    Deep,
    /// One 7×7 convolution, max-pool in floor mode (torchvision's).
    #[serde(rename = "7x7")]
    Conv7,
}

/// Segmentation decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// ASPP on layer4, logits at layer4's grid.
    Deeplabv3,
    /// ASPP fused with layer1, logits at layer1's grid.
    #[default]
    Deeplabv3plus,
}

/// The network (method §2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Depth.
    pub encoder: Encoder,
    /// Stem.
    pub stem: Stem,
    /// Channels of layer1's blocks (64 = the standard network); the stem and the other stages scale with it.
    pub width: usize,
    /// 8, 16 or 32: which stages are dilated instead of strided.
    pub output_stride: usize,
    /// Multiply layer4's dilations by (2, 2, 4); needs three blocks in layer4.
    pub multi_grid: bool,
    /// Decoder.
    pub decoder: Decoder,
    /// ASPP dilations.
    pub aspp_dilations: Vec<usize>,
    /// Width of ASPP branches and heads.
    pub head_width: usize,
    /// Width of the representation D.
    pub rep_width: usize,
    /// Dropout2d probability in the heads.
    pub dropout: f32,
    /// Auxiliary head on layer3.
    pub aux: bool,
    /// Weight of the auxiliary loss.
    pub aux_weight: f32,
    /// Batch norm: weight of the new batch in the running buffers.
    pub bn_momentum: f32,
    /// Zero-initialise the last batch norm of each residual block.
    pub zero_init_residual: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            encoder: Encoder::Resnet101,
            stem: Stem::Deep,
            width: 64,
            output_stride: 8,
            multi_grid: true,
            decoder: Decoder::Deeplabv3plus,
            aspp_dilations: vec![12, 24, 36],
            head_width: 256,
            rep_width: 256,
            dropout: 0.1,
            aux: false,
            aux_weight: 0.4,
            bn_momentum: 0.1,
            zero_init_residual: true,
        }
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Labelled images only (with an EMA teacher kept for evaluation).
    Supervised,
    /// U2PL.
    #[default]
    U2pl,
    /// Every pixel of the unlabelled images gets the teacher's class, nothing else: U2PL without
    /// thresholds and contrast.
    MeanTeacher,
    /// The teacher's class where it is more probable than `method.threshold` (FixMatch).
    FixedThreshold,
}

impl Algorithm {
    /// Whether it learns from unlabelled images.
    pub fn uses_unlabeled(self) -> bool {
        self != Algorithm::Supervised
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Supervised => "supervised",
            Algorithm::U2pl => "u2pl",
            Algorithm::MeanTeacher => "mean-teacher",
            Algorithm::FixedThreshold => "fixed-threshold",
        }
    }
}

/// Supervised loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SupLoss {
    /// Mean cross-entropy.
    #[default]
    Ce,
    /// Online hard example mining.
    Ohem,
}

/// What a run does whose losses or weights are no longer numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDivergence {
    /// Ends; the last good checkpoint stays.
    #[default]
    Stop,
    /// Goes back to the last good checkpoint, once, and on from there with a tenth of the learning rate.
    Rollback,
}

/// Optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// What is trained.
    pub algorithm: Algorithm,
    /// Seed of weights, sampling, augmentation, dropout and draws.
    pub seed: u64,
    /// Epochs; an epoch has ⌊max(labelled, unlabelled) / batch⌋ iterations (at least one) unless `epoch_iters` says otherwise.
    pub epochs: usize,
    /// Iterations of an epoch; 0 = from the lists.
    pub epoch_iters: usize,
    /// Labelled images a micro-batch (a step, when it is one).
    pub batch_labeled: usize,
    /// Unlabelled images a micro-batch.
    pub batch_unlabeled: usize,
    /// Micro-batches a step: each goes through the networks alone, with thresholds, losses and batch
    /// norms of its own as a process of several would; the weights move by the mean gradient.
    pub micro_batches: usize,
    /// Epochs on labels alone before U2PL starts.
    pub warmup_epochs: usize,
    /// Base learning rate.
    pub lr: f32,
    /// Factor on the learning rate of everything but the encoder.
    pub head_lr_mult: f32,
    /// SGD momentum.
    pub momentum: f32,
    /// L2 penalty.
    pub weight_decay: f32,
    /// Power of the poly schedule.
    pub poly_power: f32,
    /// Supervised loss.
    pub loss: SupLoss,
    /// OHEM: probability above which a pixel is easy.
    pub ohem_thresh: f32,
    /// OHEM: pixels kept at least.
    pub ohem_min_kept: usize,
    /// Iterations between lines of `metrics.jsonl`.
    pub log_every: usize,
    /// Epochs between validations.
    pub val_every: usize,
    /// Write what a run shows into its folder for TensorBoard too.
    pub tensorboard: bool,
    /// What happens when a loss or a weight is no longer a number.
    pub on_divergence: OnDivergence,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::U2pl,
            seed: 0,
            epochs: 80,
            epoch_iters: 0,
            batch_labeled: 4,
            batch_unlabeled: 4,
            micro_batches: 1,
            warmup_epochs: 1,
            lr: 0.001,
            head_lr_mult: 10.0,
            momentum: 0.9,
            weight_decay: 1e-4,
            poly_power: 0.9,
            loss: SupLoss::Ce,
            ohem_thresh: 0.7,
            ohem_min_kept: 100_000,
            log_every: 10,
            val_every: 1,
            tensorboard: true,
            on_divergence: OnDivergence::Stop,
        }
    }
}

/// Which text the step follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The paper (method §1).
    #[default]
    Paper,
    /// The authors' released code (method §4).
    Released,
}

/// Batch norm of the teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TeacherBn {
    /// Running buffers averaged with the parameters; the teacher always runs in eval mode.
    #[default]
    Ema,
    /// The second teacher pass runs in train mode and moves the buffers (released behaviour).
    Batch,
}

/// U2PL's own numbers (method §1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Method {
    /// Paper or released.
    pub mode: Mode,
    /// Batch norm of the teacher; mode `released` implies `batch`.
    pub teacher_bn: TeacherBn,
    /// Upper bound of the EMA momentum m.
    pub ema: f32,
    /// α_0, percent of unreliable pixels at epoch 0.
    pub alpha0: f32,
    /// α_t stays α_0 instead of falling to 0 at the last epoch.
    pub alpha_fixed: bool,
    /// Algorithm `fixed-threshold`: pseudo-labels are more probable than this.
    pub threshold: f32,
    /// Factor on L_u (on top of λ_u = all/kept).
    pub unsup_weight: f32,
    /// λ_c; null = 0.1 in mode `paper`, 1 in mode `released`.
    pub contrast_weight: Option<f32>,
    /// Number of processes whose effect on the contrast weight mode `released` reproduces (row 7).
    pub world_size: usize,
    /// δ_p.
    pub delta_p: f32,
    /// r_l; null = derived from C (3 from 12 classes on).
    pub low_rank: Option<u32>,
    /// r_h; null = derived from C (20 from 20 classes on).
    pub high_rank: Option<u32>,
    /// Unlabelled pixels that may be negatives: `unreliable` (the method), `reliable`, `all`, or
    /// `labeled` for none of them. Mode `paper` only.
    pub negative_pixels: NegativePixels,
    /// Anchors per class, M.
    pub anchors: usize,
    /// Negatives per anchor, N.
    pub negatives: usize,
    /// τ.
    pub temperature: f32,
    /// Ring capacity of class 0.
    pub bank_background: usize,
    /// Ring capacity of the other classes.
    pub bank_size: usize,
}

impl Default for Method {
    fn default() -> Self {
        Self {
            mode: Mode::Paper,
            teacher_bn: TeacherBn::Ema,
            ema: 0.99,
            alpha0: 20.0,
            alpha_fixed: false,
            threshold: 0.95,
            unsup_weight: 1.0,
            contrast_weight: None,
            world_size: 1,
            delta_p: 0.3,
            low_rank: None,
            high_rank: None,
            negative_pixels: NegativePixels::Unreliable,
            anchors: 256,
            negatives: 50,
            temperature: 0.5,
            bank_background: 50_000,
            bank_size: 30_000,
        }
    }
}

/// How an image of any size is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The whole image at once.
    #[default]
    Whole,
    /// A centre crop of `eval.crop`.
    CenterCrop,
    /// Overlapping windows of `eval.crop`, stride ⌈2/3 · crop⌉.
    Sliding,
}

/// What is averaged where windows overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Logits, as the authors do.
    #[default]
    Logits,
    /// Probabilities.
    Probabilities,
}

/// Validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// Protocol.
    pub protocol: Protocol,
    /// Window or crop height and width; null = the training crop.
    pub crop: Option<[usize; 2]>,
    /// Protocol `sliding`: what is averaged where windows overlap.
    pub average: Average,
    /// Image scales whose scores are averaged.
    pub scales: Vec<f32>,
    /// Average with the mirrored image.
    pub flip: bool,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            protocol: Protocol::Whole,
            crop: None,
            average: Average::Logits,
            scales: vec![1.0],
            flip: false,
        }
    }
}

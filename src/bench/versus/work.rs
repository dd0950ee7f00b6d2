//! What is measured, and how PyTorch and ONNX Runtime are asked for the same.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::Result;
use crate::config::Config;
use crate::config::schema::Encoder;

/// Side of a tile of equal labels, pixels.
pub(super) const TILE: usize = 16;

/// One U2PL training step, mode `paper`, on images in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepWork {
    /// Name in tables.
    pub name: String,
    /// Encoder, output stride 8.
    pub encoder: Encoder,
    /// Side of the crop, pixels.
    pub crop: usize,
    /// Labelled images, and as many unlabelled ones.
    pub batch: usize,
    /// Classes.
    pub classes: usize,
    /// Negatives kept per class.
    pub bank: usize,
}

impl StepWork {
    /// The built-in cases: `train129`, `train257`, and `voc`, the published recipe's step.
    pub fn known() -> Vec<Self> {
        let small = |crop: usize| Self {
            name: format!("train{crop}"),
            encoder: Encoder::Resnet50,
            crop,
            batch: 2,
            classes: 21,
            // The recipe's 30 000 would be 650 MiB of state on every side and hide the rest.
            bank: 3000,
        };
        let voc = Self {
            name: "voc".into(),
            encoder: Encoder::Resnet101,
            crop: 513,
            batch: 4,
            classes: 21,
            bank: 30_000,
        };
        vec![small(129), small(257), voc]
    }

    /// The engine's configuration.
    pub fn config(&self) -> Config {
        let mut cfg = Config::default();
        cfg.data.classes = self.classes;
        cfg.augment.crop = [self.crop; 2];
        cfg.model.encoder = self.encoder;
        cfg.train.batch_labeled = self.batch;
        cfg.train.batch_unlabeled = self.batch;
        cfg.train.warmup_epochs = 0;
        cfg.method.bank_background = self.bank;
        cfg.method.bank_size = self.bank;
        // An untrained network is sure of nothing: at 0.3 the contrast term would have no anchors.
        cfg.method.delta_p = 0.0;
        cfg
    }
}

/// Inference on whole u8 images, from and to the host's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferWork {
    /// Name in tables.
    pub name: String,
    /// Encoder, output stride 8.
    pub encoder: Encoder,
    /// Height and width of an image.
    pub size: [usize; 2],
    /// Images at a time.
    pub batch: usize,
    /// Classes.
    pub classes: usize,
}

impl InferWork {
    /// The built-in cases: `infer` and `infer8`, ResNet-50 on one and on eight images of
    /// 360 × 480; `voc` and `voc8`, ResNet-101 on images of 513 × 513; then each with the other
    /// encoder, its name after the case's.
    pub fn known() -> Vec<Self> {
        let (r50, r101) = (Encoder::Resnet50, Encoder::Resnet101);
        let work = |name: &str, encoder, size, batch| Self {
            name: name.into(),
            encoder,
            size,
            batch,
            classes: 21,
        };
        vec![
            work("infer", r50, [360, 480], 1),
            work("infer8", r50, [360, 480], 8),
            work("voc", r101, [513, 513], 1),
            work("voc8", r101, [513, 513], 8),
            work("infer-r101", r101, [360, 480], 1),
            work("infer8-r101", r101, [360, 480], 8),
            work("voc-r50", r50, [513, 513], 1),
            work("voc8-r50", r50, [513, 513], 8),
        ]
    }

    /// The engine's configuration.
    pub fn config(&self) -> Config {
        let mut cfg = Config::default();
        cfg.data.classes = self.classes;
        cfg.model.encoder = self.encoder;
        cfg
    }
}

/// What a process of the engine is to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// A training step.
    Step(StepWork),
    /// Inference.
    Infer(InferWork),
}

impl Work {
    /// Name in tables.
    pub fn name(&self) -> &str {
        match self {
            Work::Step(w) => &w.name,
            Work::Infer(w) => &w.name,
        }
    }

    /// The peer's variants that compete at it.
    ///
    /// # Errors
    /// [`Error::Input`] for an encoder that the peer does not have.
    pub fn variants(&self, place: &Place) -> Result<Vec<Variant>> {
        match self {
            Work::Step(w) => step_variants(w, place),
            Work::Infer(w) => infer_variants(w, place),
        }
    }
}

/// Where the sides run.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Whether that is a GPU.
    pub cuda: bool,
    /// `fp32`, `tf32` or `bf16`.
    pub precision: String,
    /// CPU threads of each side.
    pub threads: usize,
}

/// Begins the names of PyTorch's variants.
pub(super) const PYTORCH: &str = "PyTorch";

/// Name of ONNX Runtime's variant.
pub(super) const ONNX_RUNTIME: &str = "ONNX Runtime";

/// One way in which a peer does the work.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Name in tables.
    pub name: String,
    /// File of `benches/peers`.
    pub script: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Variant {
    /// `flags`: what sets it apart.
    fn new(name: &str, script: &'static str, place: &Place, flags: &[String]) -> Self {
        let device = if place.cuda { "cuda" } else { "cpu" };
        let mut args = words(&["--device", device, "--threads", &place.threads.to_string()]);
        // The last one counts: a variant may have a precision of its own.
        args.extend(words(&["--precision", &place.precision]));
        args.extend_from_slice(flags);
        Self {
            name: name.into(),
            script,
            args,
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn encoder(encoder: Encoder) -> Result<&'static str> {
    match encoder {
        Encoder::Resnet50 => Ok("resnet50"),
        Encoder::Resnet101 => Ok("resnet101"),
        other => Err(Error::input(
            format!("--encoder {other:?}").to_lowercase(),
            "the peer's network has no such encoder",
            "use resnet50 or resnet101",
        )),
    }
}

fn step_variants(w: &StepWork, place: &Place) -> Result<Vec<Variant>> {
    let [crop, batch, classes, bank] = [w.crop, w.batch, w.classes, w.bank].map(|n| n.to_string());
    let work = [
        "--crop",
        &crop,
        "--batch",
        &batch,
        "--classes",
        &classes,
        "--bank",
        &bank,
        "--encoder",
        encoder(w.encoder)?,
    ];
    let variant = |name: &str, flags: &[&str]| {
        let flags = words(&[&work[..], flags].concat());
        Variant::new(&format!("{PYTORCH} {name}"), "train_step.py", place, &flags)
    };
    let mut variants = vec![variant("nhwc", &["--format", "nhwc"])];
    match place.cuda {
        // As the released code runs on a GPU: f32, whose convolutions PyTorch does in TF32.
        true => {
            variants.push(variant("nhwc compiled", &["--format", "nhwc", "--compile"]));
            let authors = [
                "--style",
                "authors",
                "--format",
                "nchw",
                "--precision",
                "tf32",
            ];
            variants.push(variant("authors' style tf32", &authors));
        }
        false => {
            variants.push(variant("nchw", &["--format", "nchw"]));
            let authors = ["--style", "authors", "--format", "nchw"];
            variants.push(variant("authors' style", &authors));
        }
    }
    Ok(variants)
}

fn infer_variants(w: &InferWork, place: &Place) -> Result<Vec<Variant>> {
    let [height, width, batch, classes] =
        [w.size[0], w.size[1], w.batch, w.classes].map(|n| n.to_string());
    let work = [
        "--height",
        &height,
        "--width",
        &width,
        "--batch",
        &batch,
        "--classes",
        &classes,
        "--encoder",
        encoder(w.encoder)?,
    ];
    let variant = |name: &str, flags: &[&str]| {
        let flags = words(&[&work[..], flags].concat());
        Variant::new(&format!("{PYTORCH} {name}"), "infer.py", place, &flags)
    };
    let mut variants = vec![
        variant("nhwc", &["--format", "nhwc"]),
        variant("nhwc folded", &["--format", "nhwc", "--fold"]),
    ];
    variants.push(match place.cuda {
        true => variant(
            "nhwc folded compiled",
            &["--format", "nhwc", "--fold", "--compile"],
        ),
        false => variant("nchw folded", &["--format", "nchw", "--fold"]),
    });
    let onnx_runtime = Variant::new(ONNX_RUNTIME, "infer_ort.py", place, &words(&work));
    variants.push(onnx_runtime);
    Ok(variants)
}

/// PyTorch's variants for single operations.
pub fn operation_variants(place: &Place) -> Vec<Variant> {
    let mut variants = vec![Variant::new(PYTORCH, "ops.py", place, &[])];
    if place.cuda {
        let name = format!("{PYTORCH} compiled");
        variants.push(Variant::new(&name, "ops.py", place, &words(&["--compile"])));
    }
    variants
}

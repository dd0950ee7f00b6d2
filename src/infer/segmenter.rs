//! A network that other programs call: loaded once, used from any number of threads.
//!
//! Weights lie on the device once. Every call borrows a predictor of its own (programs and their
//! memory) from a pool and gives it back, so as many calls run at once as there are predictors,
//! and a pool that was warmed up allocates nothing.

mod on_device;

pub use on_device::{DeviceMaps, MapTensors};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::image::{Image, Samples};
use super::load::{self, Network};
use crate::config::Config;
use crate::config::schema::Protocol;
use crate::contact::{self, Check};
use crate::data::palette::{Palette, palette};
use crate::device::Device;
use crate::eval::{
    LoadedWeights, Maps, Predictor, Rgb, Sample, SampleKind, Scores, Tiling, Weights,
};
use crate::graph::params::Layout;
use crate::weights::Prefer;
use crate::{Error, Result};

/// How a [`Segmenter`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which network of a checkpoint that holds both.
    pub network: Prefer,
    /// Configuration to use instead of the one saved with the weights.
    pub config: Option<PathBuf>,
    /// Keys of the configuration to override, `key=value`.
    pub sets: Vec<String>,
    /// Sizes at which an image is looked at, as factors; the probabilities are averaged.
    pub scales: Vec<f32>,
    /// Look at the mirrored image, too.
    pub flip: bool,
    /// Look through overlapping windows of this size (height, width), as the sliding protocol of
    /// evaluation does, instead of at the whole image.
    pub windows: Option<[usize; 2]>,
    /// Cut images larger than this up, so that memory does not grow with them.
    pub tiling: Option<Tiling>,
    /// Calls that may run at once.
    pub callers: usize,
    /// Sizes of images that each caller keeps a program for.
    pub shapes: usize,
    /// Name the first layer with values that are no finite numbers, where an image's scores are none.
    pub trace_nan: bool,
    /// How the device's kernels are checked before they are used first: on a GPU that has not passed
    /// before that takes seconds, when the segmenter is made.
    pub check: Check,
}

impl Default for Options {
    /// The teacher on the whole image, once; 16 callers with programs for 8 sizes each.
    fn default() -> Self {
        Self {
            network: Prefer::Teacher,
            config: None,
            sets: Vec::new(),
            scales: vec![1.0],
            flip: false,
            windows: None,
            tiling: None,
            callers: 16,
            shapes: 8,
            trace_nan: false,
            check: Check::default(),
        }
    }
}

/// Images of one batch at most.
pub const MOST_IMAGES: usize = 1 << 16;

/// Rows and columns at most.
const MOST_SIDE: usize = 1 << 24;

/// Pixels of one batch at most, as large as they are looked at: what plans compute with them stays
/// far below 2⁶⁴.
const MOST_PIXELS: f64 = (1u64 << 40) as f64;

/// What a call is about to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputShape {
    /// Images of one batch.
    pub images: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Type of their samples.
    pub samples: SampleKind,
}

impl InputShape {
    /// One image of bytes.
    pub fn bytes(height: usize, width: usize) -> Self {
        Self {
            images: 1,
            height,
            width,
            samples: SampleKind::Byte,
        }
    }

    /// Refuses sizes that no plan can be made for.
    fn check(&self, scales: &[f32]) -> Result<()> {
        let sides = 2..=MOST_SIDE;
        let scale = scales.iter().fold(1.0, |a: f64, &b| a.max(f64::from(b)));
        let pixels = self.images as f64 * self.height as f64 * self.width as f64 * scale * scale;
        if (1..=MOST_IMAGES).contains(&self.images)
            && sides.contains(&self.height)
            && sides.contains(&self.width)
            && pixels <= MOST_PIXELS
        {
            return Ok(());
        }
        let (width, height) = (self.width, self.height);
        Err(Error::input(
            "image",
            format!("a batch of {} at {width} × {height} pixels", self.images),
            format!(
                "give 1 to {MOST_IMAGES} images of 2 to {MOST_SIDE} rows and columns, \
                 at most 2^40 pixels at the largest scale"
            ),
        ))
    }
}

/// What a network says about every pixel of an image, rows from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The most probable class.
    pub classes: Vec<u8>,
    /// Its probability.
    pub confidence: Vec<f32>,
    /// Entropy of the probabilities of all classes, nats: 0 is certain, ln C all alike.
    pub entropy: Vec<f32>,
}

impl Segmentation {
    /// Gives pixels whose class is less probable than `confidence` the class `void`.
    pub fn void_below(&mut self, confidence: f32, void: u8) {
        for (class, &c) in self.classes.iter_mut().zip(&self.confidence) {
            if c < confidence {
                *class = void;
            }
        }
    }
}

impl From<Maps> for Segmentation {
    fn from(maps: Maps) -> Self {
        Self {
            height: maps.height,
            width: maps.width,
            classes: maps.argmax,
            confidence: maps.confidence,
            entropy: maps.entropy,
        }
    }
}

/// A loaded network. `Send` and `Sync`: share it by reference or in an [`Arc`].
pub struct Segmenter {
    device: Arc<dyn Device>,
    cfg: Config,
    layout: Layout,
    weights: LoadedWeights,
    options: Options,
    palette: Palette,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Caller>,
    lent: usize,
}

/// What one call at a time uses.
struct Caller {
    predictor: Predictor,
    /// Shapes that were found to fit the device's memory, latest last.
    fitting: Vec<(InputShape, Wanted)>,
}

impl Segmenter {
    /// Loads the weights in `path`, a file or a run folder of `train`.
    ///
    /// # Errors
    /// [`Error::Input`] and [`Error::Io`] when there are no weights, no configuration, weights of
    /// another architecture, or options that make no sense; the device's.
    pub fn open(path: &Path, device: Arc<dyn Device>, options: Options) -> Result<Self> {
        check(&options)?;
        let (config, sets) = (options.config.as_deref(), &options.sets);
        let network = load::open(path, config, sets, options.network, device)?;
        Self::new(network, options)
    }

    /// Takes a network that is loaded already; `config`, `sets` and `network` of the options are
    /// not looked at.
    ///
    /// # Errors
    /// [`Error::Input`] when the options make no sense; [`Error::Device`] when the device's kernels are
    /// wrong and nothing can take their place.
    pub fn new(network: Network, options: Options) -> Result<Self> {
        check(&options)?;
        let mut cfg = network.cfg;
        cfg.eval.protocol = match options.windows {
            Some(_) => Protocol::Sliding,
            None => Protocol::Whole,
        };
        cfg.eval.crop = options.windows;
        (cfg.eval.scales, cfg.eval.flip) = (options.scales.clone(), options.flip);
        let cfg = super::adapt(&cfg);
        if let Some(tiling) = options.tiling {
            tiling.snapped(cfg.model.output_stride)?;
        }
        contact::introduce(&*network.device, &options.check);
        let segmenter = Self {
            palette: palette(&cfg),
            device: network.device,
            cfg,
            layout: network.layout,
            weights: network.weights,
            options,
            pool: Mutex::default(),
        };
        let set = segmenter.weights.weights().set;
        let met = segmenter.lend()?.caller()?.predictor.met(set, false)?;
        segmenter.device.meet(&met)?;
        Ok(segmenter)
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.cfg.data.classes
    }

    /// Names of the classes; none when the configuration has none.
    pub fn class_names(&self) -> &[String] {
        &self.cfg.data.class_names
    }

    /// Index of pixels without a class (`data.ignore_index`, 255).
    pub fn void(&self) -> u8 {
        self.cfg.data.ignore_index
    }

    /// Colour of each class index, RGB.
    pub fn palette(&self) -> &[[u8; 3]] {
        &self.palette
    }

    /// Where operations run.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes of device memory that the weights take, once for all callers.
    pub fn weights_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of device memory that one caller takes for images of `shape`, besides the weights.
    ///
    /// # Errors
    /// [`Error::Input`] when the images are too small for the network.
    pub fn memory_required(&self, shape: InputShape) -> Result<usize> {
        let mut caller = self.lend()?;
        caller.required(shape, Wanted::Maps)
    }

    /// As [`Segmenter::memory_required`], for [`Segmenter::probabilities`] and [`Segmenter::scores`]
    /// of one image.
    ///
    /// # Errors
    /// As [`Segmenter::memory_required`].
    pub fn scores_memory_required(&self, shape: InputShape) -> Result<usize> {
        let mut caller = self.lend()?;
        caller.required(shape, Wanted::Scores)
    }

    /// Bytes of device memory that idle callers hold for the shapes they keep.
    ///
    /// # Errors
    /// [`Error::Internal`] after a panic in another thread.
    pub fn held_bytes(&self) -> Result<usize> {
        let pool = self.pool()?;
        Ok(pool.idle.iter().map(|c| c.predictor.held_bytes()).sum())
    }

    /// Makes `callers` callers ready for images of `shape`: programs, their memory and, where the
    /// device records, the recording. What is called later with as many threads neither plans nor
    /// allocates on the device.
    ///
    /// # Errors
    /// As [`Segmenter::segment`].
    pub fn warm_up(&self, callers: usize, shape: InputShape) -> Result<()> {
        let lent: Result<Vec<Lent>> = (0..callers).map(|_| self.lend()).collect();
        for mut caller in lent? {
            match shape.samples {
                SampleKind::Byte => caller.warm_up(shape, 127u8)?,
                SampleKind::Float => caller.warm_up(shape, 0.5f32)?,
            }
        }
        Ok(())
    }

    /// Segments one image.
    ///
    /// # Errors
    /// [`Error::Input`] when the image is too small for the network, [`Error::Memory`] when it needs
    /// more than there is, [`Error::Busy`] when all callers are, [`Error::NotFinite`] when the scores of
    /// a pixel are no finite numbers; the device's. The segmenter stays usable.
    pub fn segment(&self, image: &Image) -> Result<Segmentation> {
        let mut found = self.segment_batch(std::slice::from_ref(image))?;
        found
            .pop()
            .ok_or_else(|| Error::internal("an image without a map"))
    }

    /// Segments several images; those of one size and type run as one batch.
    ///
    /// # Errors
    /// As [`Segmenter::segment`].
    pub fn segment_batch(&self, images: &[Image]) -> Result<Vec<Segmentation>> {
        let mut caller = self.lend()?;
        let bytes = images.iter().map(|i| match i.samples() {
            Samples::U8(s) => Some((i, s)),
            Samples::F32(_) => None,
        });
        if let Some(bytes) = bytes.collect::<Option<Vec<_>>>() {
            return caller.maps(&bytes);
        }
        let floats = images.iter().map(|i| match i.samples() {
            Samples::F32(s) => Some((i, s)),
            Samples::U8(_) => None,
        });
        if let Some(floats) = floats.collect::<Option<Vec<_>>>() {
            return caller.maps(&floats);
        }
        drop(caller);
        images.iter().map(|i| self.segment(i)).collect()
    }

    /// Probability of each class at every pixel, `[height, width, classes]`: the softmax of the
    /// upsampled logits, averaged over scales and mirrored looks.
    ///
    /// # Errors
    /// As [`Segmenter::segment`].
    pub fn probabilities(&self, image: &Image) -> Result<Vec<f32>> {
        let mut caller = self.lend()?;
        match image.samples() {
            Samples::U8(s) => caller.probabilities(image, s),
            Samples::F32(s) => caller.probabilities(image, s),
        }
    }

    /// The scores behind [`Segmenter::segment`]'s classes, as [`Predictor::scores`] has them.
    ///
    /// # Errors
    /// As [`Segmenter::segment`].
    pub fn scores(&self, image: &Image) -> Result<Scores> {
        let mut caller = self.lend()?;
        match image.samples() {
            Samples::U8(s) => caller.scores(image, s),
            Samples::F32(s) => caller.scores(image, s),
        }
    }

    fn pool(&self) -> Result<MutexGuard<'_, Pool>> {
        self.pool
            .lock()
            .map_err(|_| Error::internal("poisoned pool of callers"))
    }

    fn lend(&self) -> Result<Lent<'_>> {
        let mut pool = self.pool()?;
        if pool.lent == self.options.callers {
            return Err(Error::Busy { calls: pool.lent });
        }
        let caller = match pool.idle.pop() {
            Some(caller) => caller,
            None => {
                let layout = self.layout.clone();
                let mut predictor = Predictor::new(self.device.clone(), &self.cfg, layout);
                predictor.tile(self.options.tiling)?;
                predictor.keep(self.options.shapes);
                predictor.trace_nan(self.options.trace_nan);
                Caller {
                    predictor,
                    fitting: Vec::new(),
                }
            }
        };
        pool.lent += 1;
        Ok(Lent {
            from: self,
            caller: Some(caller),
        })
    }
}

/// What a call is to answer with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Three maps.
    Maps,
    /// A score for each class and pixel.
    Scores,
}

fn check(options: &Options) -> Result<()> {
    let wrong = |key: &str, problem: String, mend: &str| Err(Error::input(key, problem, mend));
    if options.scales.is_empty() || options.scales.iter().any(|s| !(0.01..=100.0).contains(s)) {
        let problem = format!("{:?} are no factors", options.scales);
        return wrong("scales", problem, "give numbers between 0.01 and 100");
    }
    if let Some([height, width]) = options.windows.filter(|w| w.iter().any(|&n| n < 2)) {
        let problem = format!("{width} × {height} pixels are no window");
        return wrong("windows", problem, "give at least 2 × 2");
    }
    if options.callers == 0 {
        return wrong("callers", "0 can do nothing".into(), "give at least 1");
    }
    if options.shapes == 0 {
        return wrong("shapes", "0 keep nothing".into(), "give at least 1");
    }
    Ok(())
}

/// A caller for the time of one call.
struct Lent<'a> {
    from: &'a Segmenter,
    caller: Option<Caller>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Ok(mut pool) = self.from.pool.lock() {
            pool.lent -= 1;
            pool.idle.extend(self.caller.take());
        }
    }
}

impl Lent<'_> {
    fn caller(&mut self) -> Result<&mut Caller> {
        self.caller
            .as_mut()
            .ok_or_else(|| Error::internal("a caller that was given back"))
    }

    fn required(&mut self, shape: InputShape, wanted: Wanted) -> Result<usize> {
        shape.check(&self.from.options.scales)?;
        match shape.samples {
            SampleKind::Byte => self.required_of::<u8>(shape, wanted),
            SampleKind::Float => self.required_of::<f32>(shape, wanted),
        }
    }

    fn required_of<T: Sample>(&mut self, shape: InputShape, wanted: Wanted) -> Result<usize> {
        let (set, size) = (self.from.weights.weights().set, [shape.height, shape.width]);
        let predictor = &mut self.caller()?.predictor;
        match wanted {
            Wanted::Maps => predictor.memory_required::<T>(set, shape.images, size),
            Wanted::Scores => predictor.scores_required::<T>(set, size),
        }
    }

    /// Refuses what the device has no memory for before anything is allocated: systems that promise
    /// more memory than they have end the process instead.
    fn fits(&mut self, shape: InputShape, wanted: Wanted) -> Result<()> {
        if self.caller()?.fitting.contains(&(shape, wanted)) {
            return Ok(());
        }
        let needed = self.required(shape, wanted)?;
        let limit = self.from.options.shapes;
        // Programs that are kept make room for a new one.
        let held = self.caller()?.predictor.held_bytes();
        let free = self.from.device.free_bytes();
        let there = free.map(|free| free.saturating_add(held));
        if let Some(there) = there.filter(|&there| there < needed) {
            let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
            let mend = match self.from.options.tiling {
                None => "cut it up (tiling), or make it smaller",
                Some(_) => "use smaller tiles, or make it smaller",
            };
            return Err(Error::Memory {
                at: "image".into(),
                problem: format!(
                    "{} of {} × {} pixels need {:.1} GiB, {:.1} are free",
                    shape.images,
                    shape.width,
                    shape.height,
                    gib(needed),
                    gib(there)
                ),
                mend: mend.into(),
            });
        }
        let fitting = &mut self.caller()?.fitting;
        if fitting.len() >= limit {
            fitting.remove(0);
        }
        fitting.push((shape, wanted));
        Ok(())
    }

    fn warm_up<T: Sample>(&mut self, shape: InputShape, grey: T) -> Result<()> {
        self.fits(shape, Wanted::Maps)?;
        let pixels = vec![grey; 3 * shape.height * shape.width];
        let image = Rgb::new(shape.width, shape.height, pixels)?;
        let images = vec![&image; shape.images];
        // The second run records what the first one made.
        for _ in 0..2 {
            self.run(&images)?;
        }
        Ok(())
    }

    fn maps<T: Sample>(&mut self, images: &[(&Image, &[T])]) -> Result<Vec<Segmentation>> {
        let shape = |(image, _): &(&Image, &[T]), images| InputShape {
            images,
            height: image.height(),
            width: image.width(),
            samples: T::KIND,
        };
        let alike = images
            .windows(2)
            .all(|w| shape(&w[0], 1) == shape(&w[1], 1));
        let count = if alike { images.len() } else { 1 };
        for image in images {
            self.fits(shape(image, count), Wanted::Maps)?;
        }
        let copies = images.iter().map(|(image, s)| image.packed_rgb(s));
        let copies = copies.collect::<Result<Vec<_>>>()?;
        let maps = self.run(&copies.iter().collect::<Vec<_>>())?;
        Ok(maps.into_iter().map(Segmentation::from).collect())
    }

    fn run<T: Sample>(&mut self, images: &[&Rgb<T>]) -> Result<Vec<Maps>> {
        let weights = self.from.weights.weights();
        let predictor = &mut self.caller()?.predictor;
        match (predictor.maps_of(weights, images), images) {
            // Of several it is not known which.
            (Err(error), [image]) => Err(predictor.explained(error, weights, image)),
            (maps, _) => maps,
        }
    }

    fn probabilities<T: Sample>(&mut self, image: &Image, samples: &[T]) -> Result<Vec<f32>> {
        let (weights, image) = self.one(image, samples)?;
        self.caller()?.predictor.probabilities(weights, &image)
    }

    fn scores<T: Sample>(&mut self, image: &Image, samples: &[T]) -> Result<Scores> {
        let (weights, image) = self.one(image, samples)?;
        self.caller()?.predictor.scores(weights, &image)
    }

    /// What looks at a single image start with.
    fn one<T: Sample>(&mut self, image: &Image, samples: &[T]) -> Result<(Weights, Rgb<T>)> {
        let shape = InputShape {
            images: 1,
            height: image.height(),
            width: image.width(),
            samples: T::KIND,
        };
        self.fits(shape, Wanted::Scores)?;
        Ok((self.from.weights.weights(), image.packed_rgb(samples)?))
    }
}

//! The way of images from disk to the device: what a number of threads decodes, what staging
//! costs, and how long a step that takes its images at a given rate has to wait for them.
//!
//! The loader is the one that training uses, its cache of decoded images off: every image is read
//! and decoded, as in the first epoch of a dataset that does not fit memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use serde::Serialize;

use super::measure::Spread;
use crate::config::Config;
use crate::config::schema::DataKind;
use crate::data::shapes::{CLASSES, Shapes};
use crate::data::{Dataset, Loader, LoaderSettings, Part, check, pack};
use crate::device::{DType, Device, View};
use crate::files::write_atomic;
use crate::graph::exec::Arena;
use crate::train::session::Staged;
use crate::{Error, Result};

/// Images that are made when there are none.
const MADE: usize = 48;
/// Their width and height: those of PASCAL VOC.
const MADE_SIZE: [usize; 2] = [500, 375];
const MADE_QUALITY: u8 = 90;

/// Where the images come from and how they are asked for.
pub struct Pipeline {
    dataset: Arc<Dataset>,
    /// Pixels of the largest image.
    cap_pixels: usize,
    batch: usize,
    ignore: u8,
    seed: u64,
    /// What the images are, for the reader.
    pub source: String,
    /// Removed on drop.
    _made: Option<Folder>,
}

/// What one number of decoding threads does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Decoding threads.
    pub threads: usize,
    /// Images a second when nothing but decoding is waited for.
    pub sustained: f64,
    /// Milliseconds that a step waits for its images, by step.
    pub wait_ms: Spread,
    /// Waiting in all over the time of the steps in all.
    pub wait_share: f64,
    /// The longest wait.
    pub longest_wait_ms: f64,
    /// Milliseconds of copying a batch into the staging layout.
    pub pack_ms: Spread,
    /// Milliseconds of handing it to the device.
    pub upload_ms: Spread,
    /// Images a second that the simulated run took.
    pub achieved: f64,
}

impl Pipeline {
    /// The training images of `cfg`: the unlabelled ones where there are any, they are more.
    ///
    /// # Errors
    /// Everything wrong with lists and files.
    pub fn of_config(cfg: &Config, batch: usize) -> Result<Self> {
        let found = check(cfg)?;
        let dataset = found.unlabeled.unwrap_or(found.labeled);
        let source = match cfg.data.kind {
            DataKind::Shapes => "synthetic shapes, drawn on the fly".into(),
            _ => cfg.data.root.display().to_string(),
        };
        Ok(Self::new(
            dataset,
            found.train_sizes.pixels,
            batch,
            cfg,
            source,
            None,
        ))
    }

    /// Images made for the purpose: textured shapes of 500 × 375 pixels as JPEG, masks as PNG, in
    /// a temporary folder.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no room for them.
    pub fn made(batch: usize) -> Result<Self> {
        let folder = Folder::new()?;
        let mut cfg = Config::default();
        cfg.data.kind = DataKind::Folder;
        cfg.data.root = folder.0.clone();
        cfg.data.classes = CLASSES;
        let list = folder.0.join("list.txt");
        let bytes = make(&folder.0, &list)?;
        let dataset = Dataset::from_list(&cfg, Part::Labeled, &list)?;
        let [w, h] = MADE_SIZE;
        let source = format!(
            "{MADE} made JPEG files of {w} x {h}, {:.0} kB each, with PNG masks",
            bytes as f64 / 1e3 / MADE as f64
        );
        Ok(Self::new(dataset, w * h, batch, &cfg, source, Some(folder)))
    }

    fn new(
        dataset: Dataset,
        cap_pixels: usize,
        batch: usize,
        cfg: &Config,
        source: String,
        made: Option<Folder>,
    ) -> Self {
        Self {
            source: format!("{} images: {source}", dataset.len()),
            dataset: Arc::new(dataset),
            cap_pixels,
            batch,
            ignore: cfg.data.ignore_index,
            seed: cfg.train.seed,
            _made: made,
        }
    }

    fn loader(&self, threads: usize) -> Result<Loader> {
        let settings = LoaderSettings {
            batch: self.batch,
            seed: self.seed,
            stream: 0,
            workers: threads,
            epoch_len: self.dataset.len().div_ceil(self.batch).max(1),
            cache_mib: 0,
        };
        Loader::new(self.dataset.clone(), settings)
    }

    /// Runs `steps` steps twice: as fast as images come, then as a consumer that takes a batch
    /// every `batch / rate` seconds, packs it, hands it to `device` and is then busy elsewhere.
    ///
    /// # Errors
    /// The first image that cannot be decoded; the device's.
    pub fn run(
        &self,
        device: &Arc<dyn Device>,
        threads: usize,
        steps: usize,
        rate: f64,
    ) -> Result<Outcome> {
        let sustained = self.sustained(threads, steps)?;
        let staging = Staging::new(device, self.batch, self.cap_pixels)?;
        let mut staged = Staged::new(self.batch, self.cap_pixels);
        let mut loader = self.loader(threads)?;
        let busy = Duration::from_secs_f64(self.batch as f64 / rate);
        let (mut waits, mut packs, mut uploads) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = Instant::now();
        // Step 0 waits for the first image ever; it is the run's start, not its pace.
        for step in 0..=steps {
            let begin = Instant::now();
            let batch = loader.next()?;
            let got = Instant::now();
            let Staged {
                images,
                labels,
                sizes,
            } = &mut staged;
            pack(&batch, self.cap_pixels, self.ignore, images, labels, sizes)?;
            let packed = Instant::now();
            staging.upload(&**device, &staged)?;
            let uploaded = Instant::now();
            if step > 0 {
                waits.push(ms(got - begin));
                packs.push(ms(packed - got));
                uploads.push(ms(uploaded - packed));
            } else {
                start = got;
            }
            // The device is busy with the step; the host sleeps or prepares the next one.
            std::thread::sleep(busy.saturating_sub(uploaded - got));
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Outcome {
            threads,
            sustained,
            wait_share: waits.iter().sum::<f64>() / (steps as f64 * ms(busy)),
            longest_wait_ms: waits.iter().copied().fold(0.0, f64::max),
            wait_ms: Spread::of(waits),
            pack_ms: Spread::of(packs),
            upload_ms: Spread::of(uploads),
            achieved: (self.batch * (steps + 1)) as f64 / seconds,
        })
    }

    /// Images a second, as fast as they come.
    fn sustained(&self, threads: usize, steps: usize) -> Result<f64> {
        let mut loader = self.loader(threads)?;
        loader.next()?;
        // What was decoded ahead during the first batch is in the count: few batches of many.
        let start = Instant::now();
        for _ in 0..steps {
            loader.next()?;
        }
        Ok((self.batch * steps) as f64 / start.elapsed().as_secs_f64())
    }
}

/// Where a batch lies on the device.
struct Staging {
    _arena: Arena,
    images: View,
    labels: View,
    sizes: View,
}

impl Staging {
    fn new(device: &Arc<dyn Device>, batch: usize, cap: usize) -> Result<Self> {
        let bytes = [3 * cap * batch, cap * batch, 8 * batch].map(|b| b.next_multiple_of(256));
        let arena = Arena::new(device.clone(), bytes.iter().sum())?;
        let view =
            |offset, width, dtype| View::dense(arena.id(), offset, [batch, 1, 1, width], dtype);
        Ok(Self {
            images: view(0, 3 * cap, DType::U8),
            labels: view(bytes[0], cap, DType::U8),
            sizes: view(bytes[0] + bytes[1], 2, DType::U32),
            _arena: arena,
        })
    }

    fn upload(&self, device: &dyn Device, staged: &Staged) -> Result<()> {
        device.write(&self.images, &staged.images)?;
        device.write(&self.labels, &staged.labels)?;
        device.write(&self.sizes, bytemuck::cast_slice(&staged.sizes))
    }
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// A temporary folder of this process.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let name = format!("u2pl-engine-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for sub in ["images", "masks"] {
            let sub = path.join(sub);
            fs::create_dir_all(&sub).map_err(|e| Error::io(&sub, "make the folder", e))?;
        }
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A temporary folder that stays is the system's to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the images, their masks and the list; the JPEG files' bytes.
fn make(root: &Path, list: &Path) -> Result<usize> {
    let [width, height] = MADE_SIZE;
    let mut cfg = Config::default();
    cfg.data.shapes.size = width;
    cfg.data.shapes.labeled = MADE;
    let shapes = Shapes::new(&cfg, Part::Labeled);
    let (mut lines, mut total) = (String::new(), 0);
    for i in 0..MADE {
        let decoded = shapes.render(i);
        let rgb = &decoded.rgb[..3 * width * height];
        let label = decoded.label.unwrap_or_else(|| vec![0; width * height]);
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, MADE_QUALITY)
            .encode(
                rgb,
                width as u32,
                height as u32,
                image::ExtendedColorType::Rgb8,
            )
            .map_err(|e| Error::internal(format!("cannot encode a JPEG: {e}")))?;
        total += jpeg.len();
        write_atomic(&root.join(format!("images/{i}.jpg")), &jpeg)?;
        let mask = image::GrayImage::from_raw(
            width as u32,
            height as u32,
            label[..width * height].to_vec(),
        );
        let path = root.join(format!("masks/{i}.png"));
        let mask = mask.ok_or_else(|| Error::internal("a mask of another size"))?;
        mask.save(&path)
            .map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
        lines += &format!("{i}\n");
    }
    write_atomic(list, lines.as_bytes())?;
    Ok(total)
}

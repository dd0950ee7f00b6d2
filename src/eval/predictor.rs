//! One image to class maps, by any of the protocols.

use std::sync::Arc;

use super::finite::{check_maps, check_scores};
use super::network::{MapPlaces, Networks, Shape, Tail, Weights};
use super::scores::{ScoreMap, Uploaded};
use super::tiles::{Tiling, on_grid};
use super::windows::{Rect, Rgb, Sample, Sliding, center, cut};
use crate::config::schema::{Average, Config, Decoder, Protocol};
use crate::device::{Device, Met, Strided, elements};
use crate::graph::exec::read_view;
use crate::graph::params::{Layout, ParamSet};
use crate::{Error, Result};

/// What the network says about an image, at the image's resolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Most probable class.
    pub argmax: Vec<u8>,
    /// Entropy of the class probabilities, nats.
    pub entropy: Vec<f32>,
    /// Probability of the most probable class.
    pub confidence: Vec<f32>,
}

/// Scores behind [`Maps`]: `[height, width, classes]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// `[height, width, classes]`.
    pub shape: [usize; 3],
    /// Row-major.
    pub values: Vec<f32>,
    /// Probabilities averaged over scales or mirrored copies; logits otherwise.
    pub probabilities: bool,
}

/// One look at the image: resized by `scale`, perhaps mirrored.
#[derive(Clone, Copy, Debug)]
struct Look {
    scale: f32,
    flip: bool,
}

/// Scores images with given weights. Holds the programs and no weights.
pub struct Predictor {
    pub(super) device: Arc<dyn Device>,
    pub(super) nets: Networks,
    pub(super) protocol: Protocol,
    pub(super) crop: [usize; 2],
    average: Average,
    looks: Vec<Look>,
    pub(super) tiling: Option<Tiling>,
    pub(super) decoder: Decoder,
    /// Output stride of the encoder.
    pub(super) stride: usize,
    pub(super) classes: usize,
    ignore: u8,
    pub(super) trace: bool,
}

/// Scores of an image, wherever they are averaged.
struct Scored {
    map: ScoreMap,
    /// The image within the map.
    image: Rect,
    softmax: bool,
}

impl Predictor {
    /// A predictor for networks of `layout` on `device`, by the protocol of `cfg.eval`.
    pub fn new(device: Arc<dyn Device>, cfg: &Config, layout: Layout) -> Self {
        let eval = &cfg.eval;
        let flips: &[bool] = if eval.flip { &[false, true] } else { &[false] };
        let looks = eval
            .scales
            .iter()
            .flat_map(|&scale| flips.iter().map(move |&flip| Look { scale, flip }));
        Self {
            nets: Networks::new(device.clone(), cfg, layout),
            device,
            protocol: eval.protocol,
            crop: eval.crop.unwrap_or(cfg.augment.crop),
            average: eval.average,
            looks: looks.collect(),
            tiling: None,
            decoder: cfg.model.decoder,
            stride: cfg.model.output_stride,
            classes: cfg.data.classes,
            ignore: cfg.data.ignore_index,
            trace: false,
        }
    }

    /// Cuts images larger than a tile up, where the protocol looks at them as a whole. What comes
    /// out is what the network says of the whole image, its last row and column repeated up to a
    /// multiple of the output stride plus one, except near the borders of tiles that overlap by
    /// less than the network sees.
    ///
    /// # Errors
    /// [`Error::Input`] when tiles are too small or overlap too much.
    pub fn tile(&mut self, tiling: Option<Tiling>) -> Result<()> {
        self.tiling = tiling.map(|t| t.snapped(self.stride)).transpose()?;
        Ok(())
    }

    /// The label that does not count.
    pub fn ignore(&self) -> u8 {
        self.ignore
    }

    /// Keeps at most `limit` programs, one for each size of images.
    pub fn keep(&mut self, limit: usize) {
        self.nets.keep(limit);
    }

    /// Bytes of device memory that kept programs hold.
    pub fn held_bytes(&self) -> usize {
        self.nets.held()
    }

    /// The operations of [`Predictor::maps`] on images of bytes, with `counts` also of
    /// [`Predictor::confusion`]. A device that meets them all at once says what a first contact has to
    /// say before the first image and not at it.
    ///
    /// # Errors
    /// [`Error::Internal`] for a network that cannot be built.
    pub fn met(&mut self, set: ParamSet, counts: bool) -> Result<Vec<Met>> {
        let shape = Shape::one(self.crop);
        let mut met = self.nets.met(set, shape, Tail::Maps)?;
        if counts {
            met.extend(self.nets.met(set, shape, Tail::Confusion)?);
        }
        if !self.is_plain() || self.protocol == Protocol::Sliding {
            let floats = |op| Met { op, half: false };
            met.extend(["add_scores", "finish_scores"].map(floats));
            met.extend(counts.then(|| floats("label_confusion")));
        }
        Ok(met)
    }

    /// Class map, entropy and confidence of `image`. The centre-crop protocol has no answer for
    /// the border, so it is treated as the whole-image one.
    ///
    /// # Errors
    /// [`Error::Input`] when the image is too small for the network; the device's.
    pub fn maps<T: Sample>(&mut self, weights: Weights, image: &Rgb<T>) -> Result<Maps> {
        let mut maps = self.maps_of(weights, &[image])?;
        maps.pop()
            .ok_or_else(|| Error::internal("an image without a map"))
    }

    /// [`Predictor::maps`] of several images, which run as one batch where they are of one size
    /// and looked at once as a whole.
    ///
    /// # Errors
    /// As [`Predictor::maps`].
    pub fn maps_of<T: Sample>(
        &mut self,
        weights: Weights,
        images: &[&Rgb<T>],
    ) -> Result<Vec<Maps>> {
        let Some(first) = images.first() else {
            return Ok(Vec::new());
        };
        let size = [first.height, first.width];
        let alike = images.iter().all(|i| [i.height, i.width] == size);
        if self.is_whole(size) && alike {
            let shape = Shape {
                images: images.len(),
                size,
            };
            let net = self.nets.get::<T>(weights, shape, Tail::Maps)?;
            let pixels: Vec<&[T]> = images.iter().map(|i| &i.pixels[..]).collect();
            net.run(&pixels, None, size)?;
            let maps = |image| {
                check_maps(Maps {
                    width: size[1],
                    height: size[0],
                    entropy: net.result_of(image, 0)?,
                    argmax: net.result_of(image, 1)?,
                    confidence: net.result_of(image, 2)?,
                })
            };
            return (0..images.len()).map(maps).collect();
        }
        let one = |image: &&Rgb<T>| {
            let size = [image.height, image.width];
            if self.is_whole(size) {
                return self.maps(weights, image);
            }
            if self.is_plain() && self.protocol != Protocol::Sliding {
                return self.tiled_maps(weights, image).and_then(check_maps);
            }
            let scored = self.scored(weights, image)?;
            scored.map.finish(scored.softmax)?;
            scored.maps().and_then(check_maps)
        };
        images.iter().map(one).collect()
    }

    /// As [`Predictor::maps_of`], with images and maps in device memory: `image` is `[N, H, W, C]` and
    /// `order` where its red, green and blue are. Work is queued, and nothing waited for.
    ///
    /// # Errors
    /// As [`Predictor::maps`]; [`Error::Input`] for strides that [`Strided::pairs`] does not take,
    /// and where images are resized, mirrored or cut into tiles.
    pub fn maps_on_device<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Strided,
        order: [usize; 3],
        maps: &MapPlaces,
    ) -> Result<()> {
        let [images, height, width, _] = image.shape;
        let size = [height, width];
        if !self.is_whole(size) {
            return Err(Error::input(
                "image",
                "images that are resized, mirrored or cut into tiles pass through the host",
                "use scale 1, no flip and no tiling, or images in host memory",
            ));
        }
        let shape = Shape { images, size };
        let net = self.nets.get::<T>(weights, shape, Tail::Maps)?;
        net.run_on_device(&*self.device, image, order, maps)
    }

    /// The scores that [`Predictor::maps`] decides by: the logits on the network's own grid for
    /// a single look at the whole image, the averaged scores at the image's resolution otherwise.
    ///
    /// # Errors
    /// As [`Predictor::maps`].
    pub fn scores<T: Sample>(&mut self, weights: Weights, image: &Rgb<T>) -> Result<Scores> {
        let size = [image.height, image.width];
        if self.is_whole(size) {
            let net = self.nets.get::<T>(weights, Shape::one(size), Tail::Maps)?;
            net.run(&[&image.pixels], None, size)?;
            let view = net.logits()?;
            let [_, h, w, c] = view.shape;
            let values = read_view(&*self.device, &view)?;
            check_scores(&values, c)?;
            return Ok(Scores {
                shape: [h, w, c],
                values,
                probabilities: false,
            });
        }
        let scored = self.scored(weights, image)?;
        let values = scored.map.mean(scored.image)?;
        check_scores(&values, self.classes)?;
        Ok(Scores {
            shape: [image.height, image.width, self.classes],
            values,
            probabilities: scored.softmax,
        })
    }

    /// Class probabilities of every pixel, `[height, width, classes]`: of one look its softmax, of
    /// several the mean of theirs.
    ///
    /// # Errors
    /// As [`Predictor::maps`].
    pub fn probabilities<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Rgb<T>,
    ) -> Result<Vec<f32>> {
        if self.protocol == Protocol::Sliding && self.is_plain() {
            let scored = self.slide(weights, image)?;
            let mut values = scored.map.mean(scored.image)?;
            check_scores(&values, self.classes)?;
            if !scored.softmax {
                values.chunks_exact_mut(self.classes).for_each(softmax);
            }
            return Ok(values);
        }
        let scored = self.averaged(weights, image, true)?;
        let values = scored.map.mean(scored.image)?;
        check_scores(&values, self.classes)?;
        Ok(values)
    }

    /// Bytes of device memory that [`Predictor::maps_of`] takes for `images` images of `size`
    /// (height, width) and samples `T`, the weights aside: what one look holds at most.
    ///
    /// # Errors
    /// [`Error::Input`] when the images are too small for the network.
    pub fn memory_required<T: Sample>(
        &mut self,
        set: ParamSet,
        images: usize,
        size: [usize; 2],
    ) -> Result<usize> {
        if self.is_whole(size) {
            return self
                .nets
                .bytes::<T>(set, Shape { images, size }, Tail::Maps);
        }
        let (base, _) = self.base(size);
        if self.is_plain() && self.protocol != Protocol::Sliding {
            return Ok(self.looks_required::<T>(set, size)? + base[0] * base[1] * 9);
        }
        self.scores_required::<T>(set, size)
    }

    /// As [`Predictor::memory_required`], of one image for [`Predictor::scores`] and
    /// [`Predictor::probabilities`]: with a score for each class and pixel.
    ///
    /// # Errors
    /// As [`Predictor::memory_required`].
    pub fn scores_required<T: Sample>(&mut self, set: ParamSet, size: [usize; 2]) -> Result<usize> {
        if self.protocol == Protocol::Sliding {
            let padded = [0, 1].map(|i| size[i].max(self.crop[i]));
            let net = self
                .nets
                .bytes::<T>(set, Shape::one(self.crop), Tail::Logits)?;
            return Ok(net + ScoreMap::bytes(padded, self.classes));
        }
        let (base, _) = self.base(size);
        Ok(self.looks_required::<T>(set, size)? + ScoreMap::bytes(base, self.classes))
    }

    /// Bytes of the programs of all looks, and of the logits of one where they are put together.
    fn looks_required<T: Sample>(&mut self, set: ParamSet, size: [usize; 2]) -> Result<usize> {
        let (base, tiled) = self.base(size);
        let (mut most, mut programs) = (0, 0);
        // Looks that see the same size share their programs.
        let mut sizes = Vec::new();
        for scale in self.looks.iter().map(|l| l.scale).collect::<Vec<_>>() {
            let seen = self.seen(base, scale);
            let (size, tails) = match tiled {
                true => {
                    most = most.max(4 * elements(self.logits_shape(seen)));
                    let tile = self.axes(seen)?.map(|a| a.size);
                    (tile, &[Tail::FeatureSum, Tail::InContext][..])
                }
                false => (seen, &[Tail::Logits][..]),
            };
            if sizes.contains(&size) {
                continue;
            }
            for &tail in tails {
                programs += self.nets.bytes::<T>(set, Shape::one(size), tail)?;
            }
            sizes.push(size);
        }
        Ok(programs + most)
    }

    /// The confusion matrix of `image` against `labels` (row = truth, `classes²` entries).
    ///
    /// # Errors
    /// As [`Predictor::maps`]; [`Error::Input`] for a centre crop at several scales or mirrored,
    /// which has no meaning; [`Error::Internal`] when the labels are not of the image's size.
    pub fn confusion(&mut self, weights: Weights, image: &Rgb, labels: &[u8]) -> Result<Vec<u32>> {
        let (height, width) = (image.height, image.width);
        if labels.len() != height * width {
            return Err(Error::internal(format!(
                "{} labels for an image of {width}×{height}",
                labels.len()
            )));
        }
        if self.protocol == Protocol::CenterCrop {
            if !self.is_plain() {
                return Err(Error::input(
                    "eval.protocol",
                    "a centre crop is scored once, without scales or flip",
                    "use protocol whole or sliding, or leave out eval.scales and eval.flip",
                ));
            }
            let rect = center(height, width, self.crop);
            let part = Rgb::new(rect.width, rect.height, cut(&image.pixels, width, 3, rect))?;
            let labels = cut(labels, width, 1, rect);
            return self.confusion_padded(weights, &part, &labels, self.crop);
        }
        if self.is_whole([height, width]) {
            return self.confusion_padded(weights, image, labels, [height, width]);
        }
        let scored = self.scored(weights, image)?;
        scored.map.finish(scored.softmax)?;
        scored.maps().and_then(check_maps)?;
        let truth = scored.truth(labels, self.ignore);
        scored.map.confusion(&truth, self.ignore)
    }

    /// One look at the unscaled image.
    fn is_plain(&self) -> bool {
        matches!(
            self.looks[..],
            [Look {
                scale: 1.0,
                flip: false
            }]
        )
    }

    /// Whether an image of `size` is looked at once and as a whole.
    fn is_whole(&self, size: [usize; 2]) -> bool {
        self.is_plain() && self.protocol != Protocol::Sliding && !self.is_tiled(size)
    }

    /// Whether an image of `size` is cut up.
    fn is_tiled(&self, size: [usize; 2]) -> bool {
        self.protocol != Protocol::Sliding
            && self
                .tiling
                .is_some_and(|t| size.iter().any(|&n| on_grid(n, self.stride) > t.size))
    }

    fn confusion_padded(
        &mut self,
        weights: Weights,
        image: &Rgb,
        labels: &[u8],
        size: [usize; 2],
    ) -> Result<Vec<u32>> {
        let net = self
            .nets
            .get::<u8>(weights, Shape::one(size), Tail::Confusion)?;
        let own = [image.height, image.width];
        net.run(&[&image.pixels[..]], Some(labels), own)?;
        // The matrix leaves pixels without an answer out.
        check_scores(&read_view(&*self.device, &net.logits()?)?, self.classes)?;
        net.result(0)
    }

    /// Scores of every window or look, added up.
    fn scored<T: Sample>(&mut self, weights: Weights, image: &Rgb<T>) -> Result<Scored> {
        if self.is_plain() && self.protocol == Protocol::Sliding {
            return self.slide(weights, image);
        }
        // Logits of different looks differ in scale: probabilities are what can be averaged.
        self.averaged(weights, image, self.looks.len() > 1)
    }

    /// Height and width of what is looked at for an image of `size`, and whether it is cut up: then
    /// it is lengthened to the network's grid.
    pub(super) fn base(&self, size: [usize; 2]) -> ([usize; 2], bool) {
        match self.is_tiled(size) {
            true => (size.map(|n| on_grid(n, self.stride)), true),
            false => (size, false),
        }
    }

    /// Height and width of `base` at `scale`, on the network's grid where it is cut up.
    fn seen(&self, base: [usize; 2], scale: f32) -> [usize; 2] {
        let scaled = base.map(|n| ((n as f32 * scale).round() as usize).max(1));
        match self.is_tiled(base) {
            true if scale != 1.0 => scaled.map(|n| on_grid(n, self.stride)),
            _ => scaled,
        }
    }

    /// Logits, or with `softmax` probabilities, of every look, added up.
    fn averaged<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Rgb<T>,
        softmax: bool,
    ) -> Result<Scored> {
        let (size, tiled) = self.base([image.height, image.width]);
        let extended = tiled.then(|| image.extended(size[0], size[1]));
        let base = extended.as_ref().unwrap_or(image);
        let map = ScoreMap::new(self.device.clone(), size, self.classes)?;
        for look in self.looks.clone() {
            let [height, width] = self.seen(size, look.scale);
            let mut seen = base.resized(height, width)?;
            if look.flip {
                seen = seen.mirrored();
            }
            if self.protocol == Protocol::Sliding {
                let part = self.slide(weights, &seen)?;
                let shape = [1, height, width, self.classes];
                let mean = Uploaded::new(&self.device, &part.map.mean(part.image)?, shape)?;
                let softmax = softmax && !part.softmax;
                map.add(mean.view, base.rect(), look.flip, softmax)?;
            } else if tiled {
                let logits = self.tiled(weights, &seen)?;
                map.add(logits.view, base.rect(), look.flip, softmax)?;
            } else {
                let size = [height, width];
                let net = self
                    .nets
                    .get::<T>(weights, Shape::one(size), Tail::Logits)?;
                net.run(&[&seen.pixels[..]], None, size)?;
                map.add(net.logits()?, base.rect(), look.flip, softmax)?;
            }
        }
        Ok(Scored {
            map,
            image: image.rect(),
            softmax,
        })
    }

    /// Logits or probabilities of overlapping windows, added up.
    fn slide<T: Sample>(&mut self, weights: Weights, image: &Rgb<T>) -> Result<Scored> {
        let sliding = Sliding::new(image.height, image.width, self.crop);
        let map = ScoreMap::new(self.device.clone(), sliding.padded, self.classes)?;
        let shape = Shape::one(self.crop);
        let softmax = self.average == Average::Probabilities;
        let net = self.nets.get::<T>(weights, shape, Tail::Logits)?;
        for (place, shown) in &sliding.windows {
            let part = cut(&image.pixels, image.width, 3, *shown);
            net.run(&[&part[..]], None, [shown.height, shown.width])?;
            map.add(net.logits()?, *place, false, softmax)?;
        }
        Ok(Scored {
            map,
            image: sliding.image,
            softmax,
        })
    }
}

/// Scores to probabilities.
fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - most).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

impl Scored {
    /// Entropy, argmax and confidence of the image alone.
    fn maps(&self) -> Result<Maps> {
        let (entropy, argmax, confidence) = self.map.maps()?;
        let width = self.map.width();
        Ok(Maps {
            width: self.image.width,
            height: self.image.height,
            argmax: cut(&argmax, width, 1, self.image),
            entropy: cut(&entropy, width, 1, self.image),
            confidence: cut(&confidence, width, 1, self.image),
        })
    }

    /// The image's labels on the map, ignore around them.
    fn truth(&self, labels: &[u8], ignore: u8) -> Vec<u8> {
        let width = self.map.width();
        let mut truth = vec![ignore; width * self.map.height()];
        for (i, row) in labels.chunks_exact(self.image.width).enumerate() {
            let start = (self.image.y + i) * width + self.image.x;
            truth[start..start + row.len()].copy_from_slice(row);
        }
        truth
    }
}

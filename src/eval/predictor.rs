//! One image to class maps, by any of the protocols.

use std::sync::Arc;

use super::network::{Networks, Tail, Weights};
use super::scores::{ScoreMap, Uploaded};
use super::windows::{Rect, Rgb, Sliding, center, cut};
use crate::config::schema::{Config, Protocol};
use crate::device::Device;
use crate::graph::exec::read_view;
use crate::graph::params::Layout;
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
    device: Arc<dyn Device>,
    nets: Networks,
    protocol: Protocol,
    crop: [usize; 2],
    looks: Vec<Look>,
    classes: usize,
    ignore: u8,
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
            looks: looks.collect(),
            classes: cfg.data.classes,
            ignore: cfg.data.ignore_index,
        }
    }

    /// Class map, entropy and confidence of `image`. The centre-crop protocol has no answer for
    /// the border, so it is treated as the whole-image one.
    ///
    /// # Errors
    /// [`Error::Input`] when the image is too small for the network; the device's.
    pub fn maps(&mut self, weights: Weights, image: &Rgb) -> Result<Maps> {
        let (height, width) = (image.height, image.width);
        if self.is_plain() && self.protocol != Protocol::Sliding {
            let net = self.nets.get(weights, [height, width], Tail::Maps)?;
            net.run(&image.pixels, None, height, width)?;
            return Ok(Maps {
                width,
                height,
                entropy: net.result(0)?,
                argmax: net.result(1)?,
                confidence: net.result(2)?,
            });
        }
        let scored = self.scored(weights, image)?;
        scored.map.finish(scored.softmax)?;
        scored.maps()
    }

    /// The scores that [`Predictor::maps`] decides by: the logits on the network's own grid for
    /// a single look at the whole image, the averaged scores at the image's resolution otherwise.
    ///
    /// # Errors
    /// As [`Predictor::maps`].
    pub fn scores(&mut self, weights: Weights, image: &Rgb) -> Result<Scores> {
        let (height, width) = (image.height, image.width);
        if self.is_plain() && self.protocol != Protocol::Sliding {
            let net = self.nets.get(weights, [height, width], Tail::Maps)?;
            net.run(&image.pixels, None, height, width)?;
            let view = net.logits();
            let [_, h, w, c] = view.shape;
            return Ok(Scores {
                shape: [h, w, c],
                values: read_view(&*self.device, &view)?,
                probabilities: false,
            });
        }
        let scored = self.scored(weights, image)?;
        Ok(Scores {
            shape: [height, width, self.classes],
            values: scored.map.mean(scored.image)?,
            probabilities: scored.softmax,
        })
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
        if self.is_plain() && self.protocol == Protocol::Whole {
            return self.confusion_padded(weights, image, labels, [height, width]);
        }
        let scored = self.scored(weights, image)?;
        scored.map.finish(scored.softmax)?;
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

    fn confusion_padded(
        &mut self,
        weights: Weights,
        image: &Rgb,
        labels: &[u8],
        size: [usize; 2],
    ) -> Result<Vec<u32>> {
        let net = self.nets.get(weights, size, Tail::Confusion)?;
        net.run(&image.pixels, Some(labels), image.height, image.width)?;
        net.result(0)
    }

    /// Scores of every window or look, added up.
    fn scored(&mut self, weights: Weights, image: &Rgb) -> Result<Scored> {
        if self.is_plain() && self.protocol == Protocol::Sliding {
            return self.slide(weights, image);
        }
        let whole = Rect {
            y: 0,
            x: 0,
            height: image.height,
            width: image.width,
        };
        let map = ScoreMap::new(
            self.device.clone(),
            [image.height, image.width],
            self.classes,
        )?;
        // Logits of different looks differ in scale: probabilities are what can be averaged.
        let softmax = self.looks.len() > 1;
        for look in self.looks.clone() {
            let mut seen = image.scaled(look.scale)?;
            if look.flip {
                seen = seen.mirrored();
            }
            if self.protocol == Protocol::Sliding {
                let part = self.slide(weights, &seen)?;
                let shape = [1, seen.height, seen.width, self.classes];
                let mean = Uploaded::new(&self.device, &part.map.mean(part.image)?, shape)?;
                map.add(mean.view, whole, look.flip, softmax)?;
            } else {
                let size = [seen.height, seen.width];
                let net = self.nets.get(weights, size, Tail::Logits)?;
                net.run(&seen.pixels, None, seen.height, seen.width)?;
                map.add(net.logits(), whole, look.flip, softmax)?;
            }
        }
        Ok(Scored {
            map,
            image: whole,
            softmax,
        })
    }

    /// Logits of overlapping windows, added up.
    fn slide(&mut self, weights: Weights, image: &Rgb) -> Result<Scored> {
        let sliding = Sliding::new(image.height, image.width, self.crop);
        let map = ScoreMap::new(self.device.clone(), sliding.padded, self.classes)?;
        let net = self.nets.get(weights, self.crop, Tail::Logits)?;
        for (place, shown) in &sliding.windows {
            let part = cut(&image.pixels, image.width, 3, *shown);
            net.run(&part, None, shown.height, shown.width)?;
            map.add(net.logits(), *place, false, false)?;
        }
        Ok(Scored {
            map,
            image: sliding.image,
            softmax: false,
        })
    }
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

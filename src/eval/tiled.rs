//! Logits of an image put together from those of tiles, the same as of the whole image.

use super::network::{Shape, Tail, Weights};
use super::predictor::{Maps, Predictor};
use super::scores::Uploaded;
use super::tiles::Axis;
use super::windows::{Rect, Rgb, Sample, cut};
use crate::config::schema::Decoder;
use crate::device::elements;
use crate::graph::exec::read_view;
use crate::{Error, Result};

/// Pixels between two cells of layer1, which DeepLabv3+'s logits lie on.
const LAYER1_STRIDE: usize = 4;

impl Predictor {
    pub(super) fn tiled_maps<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Rgb<T>,
    ) -> Result<Maps> {
        let ([height, width], _) = self.base([image.height, image.width]);
        let logits = self.tiled(weights, &image.extended(height, width))?;
        let (entropy, argmax, confidence) = logits.maps(&self.device, [height, width])?;
        let own = image.rect();
        Ok(Maps {
            width: image.width,
            height: image.height,
            argmax: cut(&argmax, width, 1, own),
            entropy: cut(&entropy, width, 1, own),
            confidence: cut(&confidence, width, 1, own),
        })
    }

    /// Tiles along both sides of an image of `size`, which lies on the network's grid.
    pub(super) fn axes(&self, size: [usize; 2]) -> Result<[Axis; 2]> {
        let tiling = self
            .tiling
            .ok_or_else(|| Error::internal("tiles without a size"))?;
        Ok(size.map(|n| Axis::new(n, tiling, self.stride)))
    }

    /// Pixels between two logits.
    fn logits_stride(&self) -> usize {
        match self.decoder {
            Decoder::Deeplabv3 => self.stride,
            Decoder::Deeplabv3plus => LAYER1_STRIDE,
        }
    }

    /// Shape of the logits of an image of `size`, which lies on the network's grid.
    pub(super) fn logits_shape(&self, size: [usize; 2]) -> [usize; 4] {
        let [h, w] = size.map(|n| (n - 1) / self.logits_stride() + 1);
        [1, h, w, self.classes]
    }

    /// Logits of an image on the network's grid, put together from those of tiles. Every tile is
    /// seen twice: first for the mean of the features over the whole image, which the image-level
    /// branch of the pyramid reads, then for its logits.
    pub(super) fn tiled<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Rgb<T>,
    ) -> Result<Uploaded> {
        let size = [image.height, image.width];
        let [rows, columns] = self.axes(size)?;
        let tile = [rows.size, columns.size];
        let places: Vec<(usize, usize)> = (0..rows.starts.len())
            .flat_map(|i| (0..columns.starts.len()).map(move |j| (i, j)))
            .collect();
        let part = |i: usize, j: usize| {
            let rect = Rect {
                y: rows.starts[i],
                x: columns.starts[j],
                height: tile[0],
                width: tile[1],
            };
            cut(&image.pixels, image.width, 3, rect)
        };

        let (stride, cells) = (self.stride, size.map(|n| (n - 1) / self.stride + 1));
        let net = self
            .nets
            .get::<T>(weights, Shape::one(tile), Tail::FeatureSum)?;
        let mut sums: Vec<f64> = Vec::new();
        for &(i, j) in &places {
            let own =
                |axis: &Axis, k: usize, at: usize| axis.owner(axis.starts[k] + at * stride) == k;
            let [h, w] = tile.map(|n| (n - 1) / stride + 1);
            let mask: Vec<f32> = (0..h * w)
                .map(|at| own(&rows, i, at / w) && own(&columns, j, at % w))
                .map(|own| f32::from(u8::from(own)))
                .collect();
            net.write_extra(&mask)?;
            net.run(&[&part(i, j)[..]], None, tile)?;
            let sum: Vec<f32> = net.result(0)?;
            sums.resize(sum.len(), 0.0);
            sums.iter_mut()
                .zip(sum)
                .for_each(|(s, v)| *s += f64::from(v));
        }
        let count = (cells[0] * cells[1]) as f64;
        let context: Vec<f32> = sums.iter().map(|s| (s / count) as f32).collect();

        let stride = self.logits_stride();
        let shape = self.logits_shape(size);
        let [_, _, width, classes] = shape;
        let mut logits = vec![0.0f32; elements(shape)];
        let device = self.device.clone();
        let net = self
            .nets
            .get::<T>(weights, Shape::one(tile), Tail::InContext)?;
        for &(i, j) in &places {
            net.write_extra(&context)?;
            net.run(&[&part(i, j)[..]], None, tile)?;
            let view = net.logits()?;
            let found: Vec<f32> = read_view(&*device, &view)?;
            let (top, left) = (rows.starts[i] / stride, columns.starts[j] / stride);
            for (y, row) in found.chunks_exact(view.shape[2] * classes).enumerate() {
                let down = rows.weight(i, rows.starts[i] + y * stride);
                for (x, cell) in row.chunks_exact(classes).enumerate() {
                    let share = down * columns.weight(j, columns.starts[j] + x * stride);
                    let to = &mut logits[((top + y) * width + left + x) * classes..][..classes];
                    to.iter_mut().zip(cell).for_each(|(to, v)| *to += share * v);
                }
            }
        }
        Uploaded::new(&self.device, &logits, shape)
    }
}

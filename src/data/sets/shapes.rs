//! The synthetic dataset of the demo: textured shapes on textured backgrounds.
//!
//! Made so that few labels are not enough: hue, lighting, texture, size and rotation vary more
//! than eight images can show. The hues of neighbouring classes overlap, so colour alone does not
//! give a class away, and the clutter has the colours of the shapes. An image is a pure function
//! of (part, index, size).

use super::dataset::Part;
use crate::config::schema::{self, Config};
use crate::data::decode::Decoded;
use crate::device::philox::{Rng, to_below, to_unit};

/// Background and five shapes: disc, square, triangle, ring, cross.
pub const CLASSES: usize = schema::Shapes::CLASSES;

/// Random stream of the first part; the others follow.
const STREAM: u32 = 0x5A9E_0000;

/// How far a shape's hue strays from its class's own; classes are 0.2 apart.
const HUE_SPREAD: f32 = 0.08;

/// One list of synthetic images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    part: Part,
    len: usize,
    size: usize,
    seed: u64,
}

impl Shapes {
    /// The images of `part`. They do not depend on `train.seed`: runs of several seeds are to be
    /// compared on the same images.
    pub fn new(config: &Config, part: Part) -> Self {
        let shapes = &config.data.shapes;
        let len = match part {
            Part::Labeled => shapes.labeled,
            Part::Unlabeled => shapes.unlabeled,
            Part::Val => shapes.val,
        };
        Self {
            part,
            len,
            size: shapes.size,
            seed: 0,
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No images at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Side of every image, pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Name of image `i`.
    pub fn id(&self, i: usize) -> String {
        let part = match self.part {
            Part::Labeled => "labeled",
            Part::Unlabeled => "unlabeled",
            Part::Val => "val",
        };
        format!("{part}_{i:04}")
    }

    /// Image `i` with its label map.
    pub fn render(&self, i: usize) -> Decoded {
        let stream = STREAM + self.part as u32;
        let mut draw = Draw::new(Rng::seeded(self.seed, stream, i as u32));
        Scene::draw(&mut draw).render(self.size, &mut draw)
    }
}

/// Draws one after another.
struct Draw {
    rng: Rng,
    next: u64,
}

impl Draw {
    fn new(rng: Rng) -> Self {
        Self { rng, next: 0 }
    }

    fn word(&mut self) -> u32 {
        let word = self.rng.block(self.next)[0];
        self.next += 1;
        word
    }

    fn below(&mut self, n: u32) -> u32 {
        to_below(self.word(), n)
    }

    /// Uniform on [low, high).
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * to_unit(self.word())
    }
}

/// Fill of an area: a colour, modulated by a pattern.
struct Paint {
    rgb: [f32; 3],
    pattern: u32,
    /// Direction of the pattern, times its frequency (radians over the image side).
    wave: [f32; 2],
    strength: f32,
    phase: f32,
}

impl Paint {
    fn draw(draw: &mut Draw, hue: f32, saturation: (f32, f32), value: (f32, f32)) -> Self {
        let saturation = draw.between(saturation.0, saturation.1);
        let value = draw.between(value.0, value.1);
        let angle = draw.between(0.0, std::f32::consts::TAU);
        let frequency = draw.between(30.0, 90.0);
        Self {
            rgb: hsv(hue, saturation, value),
            pattern: draw.below(3),
            wave: [frequency * angle.cos(), frequency * angle.sin()],
            strength: draw.between(0.1, 0.4),
            phase: draw.between(0.0, std::f32::consts::TAU),
        }
    }

    /// Colour at (x, y) in units of the image side.
    fn at(&self, x: f32, y: f32) -> [f32; 3] {
        let u = self.wave[0] * x + self.wave[1] * y + self.phase;
        let v = self.wave[0] * y - self.wave[1] * x + self.phase;
        let factor = match self.pattern {
            0 => 1.0,
            1 => 1.0 + self.strength * u.sin(),
            _ => 1.0 + self.strength * u.sin() * v.sin(),
        };
        self.rgb.map(|c| c * factor)
    }
}

/// One shape or one piece of clutter.
struct Figure {
    /// 0 = clutter, otherwise the shape's class.
    class: u8,
    center: [f32; 2],
    radius: f32,
    cos: f32,
    sin: f32,
    paint: Paint,
}

impl Figure {
    fn shape(draw: &mut Draw) -> Self {
        let class = 1 + draw.below(CLASSES as u32 - 1);
        let hue = class as f32 / 5.0 + draw.between(-HUE_SPREAD, HUE_SPREAD);
        Self::draw(draw, class as u8, (0.16, 0.3), hue)
    }

    fn clutter(draw: &mut Draw) -> Self {
        let hue = draw.between(0.0, 1.0);
        Self::draw(draw, 0, (0.015, 0.04), hue)
    }

    fn draw(draw: &mut Draw, class: u8, radius: (f32, f32), hue: f32) -> Self {
        let angle = draw.between(0.0, std::f32::consts::TAU);
        let radius = draw.between(radius.0, radius.1);
        Self {
            class,
            center: [draw.between(0.1, 0.9), draw.between(0.1, 0.9)],
            radius,
            cos: angle.cos(),
            sin: angle.sin(),
            paint: Paint::draw(draw, hue, (0.45, 0.9), (0.5, 0.95)),
        }
    }

    /// Is (x, y), in units of the image side, inside?
    fn contains(&self, x: f32, y: f32) -> bool {
        let (dx, dy) = (
            (x - self.center[0]) / self.radius,
            (y - self.center[1]) / self.radius,
        );
        let r2 = dx * dx + dy * dy;
        if r2 > 1.0 {
            return false;
        }
        let (u, v) = (self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx);
        match self.class {
            // Clutter is a short bar.
            0 => v.abs() < 0.5,
            1 => true,
            2 => u.abs().max(v.abs()) < 0.707,
            // Equilateral, corners on the unit circle.
            3 => v > -0.5 && v + 1.732 * u.abs() < 1.0,
            4 => r2 > 0.3,
            _ => u.abs().min(v.abs()) < 0.3 && u.abs().max(v.abs()) < 0.95,
        }
    }
}

/// Everything in one image.
struct Scene {
    background: [Paint; 2],
    /// Wavy border between the two background paints: offset, amplitude, frequency, angle.
    border: [f32; 4],
    /// Clutter first, shapes on top.
    figures: Vec<Figure>,
    /// Brightness: mean, slope in x, slope in y.
    light: [f32; 3],
    /// Colour cast.
    cast: [f32; 3],
    noise: f32,
}

impl Scene {
    fn draw(draw: &mut Draw) -> Self {
        let mut ground = || {
            let hue = draw.between(0.0, 1.0);
            Paint::draw(draw, hue, (0.1, 0.35), (0.2, 0.8))
        };
        let background = [ground(), ground()];
        let border = [
            draw.between(-0.3, 0.3),
            draw.between(0.0, 0.15),
            draw.between(4.0, 14.0),
            draw.between(0.0, std::f32::consts::TAU),
        ];
        let clutter = 4 + draw.below(8);
        let shapes = 2 + draw.below(3);
        let mut figures: Vec<Figure> = (0..clutter).map(|_| Figure::clutter(draw)).collect();
        figures.extend((0..shapes).map(|_| Figure::shape(draw)));
        Self {
            background,
            border,
            figures,
            light: [
                draw.between(0.8, 1.2),
                draw.between(-0.3, 0.3),
                draw.between(-0.3, 0.3),
            ],
            cast: [(); 3].map(|()| draw.between(0.9, 1.1)),
            noise: draw.between(0.01, 0.06),
        }
    }

    fn render(&self, size: usize, draw: &mut Draw) -> Decoded {
        let mut rgb = Vec::with_capacity(3 * size * size);
        let mut label = Vec::with_capacity(size * size);
        for row in 0..size {
            for column in 0..size {
                let x = (column as f32 + 0.5) / size as f32;
                let y = (row as f32 + 0.5) / size as f32;
                let (color, class) = self.at(x, y);
                let light = self.light[0] + self.light[1] * (x - 0.5) + self.light[2] * (y - 0.5);
                for (value, cast) in color.into_iter().zip(self.cast) {
                    let noise = self.noise * (draw.between(-1.0, 1.0) + draw.between(-1.0, 1.0));
                    let value = (value * light * cast + noise).clamp(0.0, 1.0);
                    rgb.push((255.0 * value + 0.5) as u8);
                }
                label.push(class);
            }
        }
        Decoded {
            width: size,
            height: size,
            rgb,
            label: Some(label),
        }
    }

    /// Colour and class of a point.
    fn at(&self, x: f32, y: f32) -> ([f32; 3], u8) {
        match self.figures.iter().rev().find(|f| f.contains(x, y)) {
            Some(figure) => (figure.paint.at(x, y), figure.class),
            None => {
                let [offset, amplitude, frequency, angle] = self.border;
                let (u, v) = (
                    angle.cos() * (x - 0.5) + angle.sin() * (y - 0.5),
                    angle.cos() * (y - 0.5) - angle.sin() * (x - 0.5),
                );
                let side = usize::from(v > offset + amplitude * (frequency * u).sin());
                (self.background[side].at(x, y), 0)
            }
        }
    }
}

/// Hue (wrapped), saturation and value in 0–1 to RGB in 0–1.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|n| {
        let k = (n + hue.rem_euclid(1.0) * 6.0) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(part: Part) -> Shapes {
        Shapes::new(&Config::default(), part)
    }

    #[test]
    fn an_image_depends_on_its_part_and_index_alone() {
        let a = shapes(Part::Labeled);
        assert_eq!(a.render(3), a.render(3));
        assert_ne!(a.render(3), a.render(4));
        assert_ne!(a.render(3), shapes(Part::Val).render(3));
        let mut config = Config::default();
        config.train.seed = 9;
        config.data.shapes.labeled = 99;
        assert_eq!(Shapes::new(&config, Part::Labeled).render(3), a.render(3));
    }

    #[test]
    fn every_class_occurs_and_none_dominates_but_background() {
        let val = shapes(Part::Val);
        let mut counts = [0usize; CLASSES];
        for i in 0..val.len() {
            let image = val.render(i);
            assert_eq!(image.rgb.len(), 3 * val.size() * val.size());
            for class in image.label.unwrap() {
                counts[usize::from(class)] += 1;
            }
        }
        let total: usize = counts.iter().sum();
        assert!(counts[0] > total / 2, "{counts:?}");
        assert!(counts[1..].iter().all(|&c| c > total / 200), "{counts:?}");
    }

    #[test]
    fn hsv_of_the_primaries() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        let [r, g, b] = hsv(1.0 / 3.0, 1.0, 1.0);
        assert!(r.abs() < 1e-5 && g > 0.999 && b.abs() < 1e-5);
        assert_eq!(hsv(0.7, 0.0, 0.5), [0.5; 3]);
    }
}

//! The protocols against each other and against direct computations, on a small random network.

use std::sync::Arc;

use super::windows::cut;
use super::{LoadedWeights, Predictor, Rgb, Sliding};
use crate::config::schema::{Average, Config, Decoder, Encoder, Protocol};
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::philox::Rng;
use crate::model;

const CLASSES: usize = 4;

struct Bench {
    device: Arc<dyn Device>,
    cfg: Config,
}

impl Bench {
    fn new() -> Self {
        let mut cfg = Config::default();
        cfg.data.classes = CLASSES;
        cfg.model.encoder = Encoder::Resnet18;
        cfg.model.decoder = Decoder::Deeplabv3plus;
        cfg.model.width = 8;
        cfg.model.output_stride = 16;
        cfg.model.multi_grid = false;
        cfg.model.aspp_dilations = vec![1, 2, 3];
        cfg.model.head_width = 8;
        cfg.model.rep_width = 8;
        Self {
            device: Arc::new(CpuDevice::new(1).unwrap()),
            cfg,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Config)) -> (Predictor, LoadedWeights) {
        let mut cfg = self.cfg.clone();
        change(&mut cfg);
        let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
        let (weights, buffers) = model::init(&layout, 5);
        let loaded = LoadedWeights::new(&self.device, &layout, &weights, &buffers).unwrap();
        (Predictor::new(self.device.clone(), &cfg, layout), loaded)
    }
}

fn noise(width: usize, height: usize) -> Rgb {
    let rng = Rng::seeded(11, 0, 0);
    // Blocks of 8 pixels, so that classes come in regions.
    let pixel = |i: usize| {
        let (y, x, c) = (i / 3 / width / 8, i / 3 % width / 8, i % 3);
        rng.below((1000 * y + 10 * x + c) as u64, 256) as u8
    };
    Rgb::new(width, height, (0..3 * width * height).map(pixel).collect()).unwrap()
}

fn labels(width: usize, height: usize) -> Vec<u8> {
    let rng = Rng::seeded(12, 0, 0);
    let label = |i| match rng.below(i, CLASSES as u32 + 1) as u8 {
        4 => 255,
        c => c,
    };
    (0..(width * height) as u64).map(label).collect()
}

fn count(truth: &[u8], prediction: &[u8]) -> Vec<u32> {
    let mut matrix = vec![0; CLASSES * CLASSES];
    for (&t, &p) in truth.iter().zip(prediction) {
        if t != 255 {
            matrix[usize::from(t) * CLASSES + usize::from(p)] += 1;
        }
    }
    matrix
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() < 1e-4, "{i}: {a} {b}");
    }
}

/// Bilinear with aligned corners, straight from the definition, in f64.
fn upsample(values: &[f32], [h, w]: [usize; 2], [height, width]: [usize; 2]) -> Vec<f32> {
    let at = |i: usize, from: usize, to: usize| {
        let p = i as f64 * (from - 1) as f64 / (to - 1).max(1) as f64;
        let low = (p as usize).min(from - 1);
        (low, (low + 1).min(from - 1), p - low as f64)
    };
    let mut out = Vec::new();
    for y in 0..height {
        let (y0, y1, fy) = at(y, h, height);
        for x in 0..width {
            let (x0, x1, fx) = at(x, w, width);
            for c in 0..CLASSES {
                let v = |y: usize, x: usize| f64::from(values[(y * w + x) * CLASSES + c]);
                let top = v(y0, x0) * (1.0 - fx) + v(y0, x1) * fx;
                let bottom = v(y1, x0) * (1.0 - fx) + v(y1, x1) * fx;
                out.push((top * (1.0 - fy) + bottom * fy) as f32);
            }
        }
    }
    out
}

#[test]
fn whole_image_confusion_counts_the_map() {
    let bench = Bench::new();
    for scales in [vec![1.0], vec![0.75, 1.0]] {
        for flip in [false, true] {
            let (mut p, w) = bench.with(|c| {
                c.eval.scales = scales.clone();
                c.eval.flip = flip;
            });
            let (image, truth) = (noise(70, 45), labels(70, 45));
            let maps = p.maps(w.weights(), &image).unwrap();
            let matrix = p.confusion(w.weights(), &image, &truth).unwrap();
            assert_eq!(matrix, count(&truth, &maps.argmax), "{scales:?} {flip}");
            assert_eq!(maps.argmax.len(), 70 * 45);
        }
    }
}

#[test]
fn a_window_as_large_as_the_image_is_the_whole_image() {
    let bench = Bench::new();
    let (image, truth) = (noise(61, 50), labels(61, 50));
    let (mut whole, w) = bench.with(|_| {});
    let (mut sliding, v) = bench.with(|c| {
        c.eval.protocol = Protocol::Sliding;
        c.eval.crop = Some([50, 61]);
    });
    let a = whole.maps(w.weights(), &image).unwrap();
    let b = sliding.maps(v.weights(), &image).unwrap();
    close(&a.entropy, &b.entropy);
    close(&a.confidence, &b.confidence);
    assert_eq!(
        whole.confusion(w.weights(), &image, &truth).unwrap(),
        sliding.confusion(v.weights(), &image, &truth).unwrap()
    );
}

#[test]
fn sliding_windows_are_averaged_logits() {
    let (height, width, crop) = (52, 75, [40, 33]);
    let bench = Bench::new();
    let image = noise(width, height);
    let (mut whole, w) = bench.with(|_| {});
    let mut sums = vec![0.0f32; height * width * CLASSES];
    let mut counts = vec![0.0f32; height * width];
    for (place, shown) in Sliding::new(height, width, crop).windows {
        let pixels = cut(&image.pixels, width, 3, shown);
        let part = Rgb::new(shown.width, shown.height, pixels).unwrap();
        let scores = whole.scores(w.weights(), &part).unwrap();
        let [h, w, _] = scores.shape;
        let up = upsample(&scores.values, [h, w], crop);
        for (i, score) in up.chunks(CLASSES).enumerate() {
            let at = (place.y + i / crop[1]) * width + place.x + i % crop[1];
            counts[at] += 1.0;
            for (sum, s) in sums[at * CLASSES..].iter_mut().zip(score) {
                *sum += s;
            }
        }
    }
    let expected: Vec<f32> = (0..sums.len())
        .map(|i| sums[i] / counts[i / CLASSES])
        .collect();

    let (mut sliding, v) = bench.with(|c| {
        c.eval.protocol = Protocol::Sliding;
        c.eval.crop = Some(crop);
    });
    let scores = sliding.scores(v.weights(), &image).unwrap();
    assert_eq!(scores.shape, [height, width, CLASSES]);
    assert!(!scores.probabilities);
    close(&scores.values, &expected);
}

#[test]
fn windows_may_average_probabilities() {
    let crop = [40, 33];
    let image = noise(75, 52);
    let maps = |average, flip| {
        let (mut p, w) = Bench::new().with(|c| {
            c.eval.protocol = Protocol::Sliding;
            c.eval.crop = Some(crop);
            c.eval.average = average;
            c.eval.flip = flip;
        });
        let maps = p.maps(w.weights(), &image).unwrap();
        (maps, p.probabilities(w.weights(), &image).unwrap())
    };
    let (logits, _) = maps(Average::Logits, false);
    for flip in [false, true] {
        let (maps, p) = maps(Average::Probabilities, flip);
        for (i, p) in p.chunks(CLASSES).enumerate() {
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!((p[usize::from(maps.argmax[i])] - maps.confidence[i]).abs() < 1e-6);
        }
        // Where windows overlap the two means differ, in the corner of one window they do not.
        assert_ne!(maps.confidence, logits.confidence);
        if !flip {
            assert!((maps.confidence[0] - logits.confidence[0]).abs() < 1e-6);
        }
    }
}

#[test]
fn an_image_smaller_than_the_window_keeps_its_size() {
    let bench = Bench::new();
    let (mut p, w) = bench.with(|c| {
        c.eval.protocol = Protocol::Sliding;
        c.eval.crop = Some([64, 40]);
    });
    let (image, truth) = (noise(57, 30), labels(57, 30));
    let maps = p.maps(w.weights(), &image).unwrap();
    assert_eq!(
        (maps.width, maps.height, maps.argmax.len()),
        (57, 30, 57 * 30)
    );
    let matrix = p.confusion(w.weights(), &image, &truth).unwrap();
    assert_eq!(matrix, count(&truth, &maps.argmax));
}

#[test]
fn a_centre_crop_scores_the_middle() {
    let bench = Bench::new();
    let (image, truth) = (noise(70, 60), labels(70, 60));
    let (mut center, w) = bench.with(|c| {
        c.eval.protocol = Protocol::CenterCrop;
        c.eval.crop = Some([40, 48]);
    });
    let (mut whole, v) = bench.with(|_| {});
    let rect = super::windows::center(60, 70, [40, 48]);
    let part = Rgb::new(48, 40, cut(&image.pixels, 70, 3, rect)).unwrap();
    let part_truth = cut(&truth, 70, 1, rect);
    assert_eq!(
        center.confusion(w.weights(), &image, &truth).unwrap(),
        whole.confusion(v.weights(), &part, &part_truth).unwrap()
    );
    // Padding is not scored in mode paper.
    let (small, few) = (noise(32, 40), labels(32, 40));
    let matrix = center.confusion(w.weights(), &small, &few).unwrap();
    let counted = few.iter().filter(|&&l| l != 255).count() as u32;
    assert_eq!(matrix.iter().sum::<u32>(), counted);
}

#[test]
fn a_centre_crop_has_no_scales() {
    let (mut p, w) = Bench::new().with(|c| {
        c.eval.protocol = Protocol::CenterCrop;
        c.eval.flip = true;
    });
    let error = p
        .confusion(w.weights(), &noise(32, 32), &labels(32, 32))
        .unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("eval.protocol"), "{error}");
}

#[test]
fn flip_averaging_treats_a_mirrored_image_alike() {
    for protocol in [Protocol::Whole, Protocol::Sliding] {
        let (mut p, w) = Bench::new().with(|c| {
            c.eval.flip = true;
            c.eval.protocol = protocol;
            c.eval.crop = Some([33, 33]);
        });
        let image = noise(49, 33);
        let a = p.maps(w.weights(), &image).unwrap();
        let b = p.maps(w.weights(), &image.mirrored()).unwrap();
        let mirror: Vec<f32> = b
            .entropy
            .chunks(49)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        close(&a.entropy, &mirror);
        assert!(p.scores(w.weights(), &image).unwrap().probabilities);
    }
}

#[test]
fn programs_of_many_sizes_are_dropped_and_rebuilt_alike() {
    let (mut p, w) = Bench::new().with(|_| {});
    let first = p.maps(w.weights(), &noise(33, 33)).unwrap();
    for width in 34..44 {
        p.maps(w.weights(), &noise(width, 33)).unwrap();
    }
    assert_eq!(p.maps(w.weights(), &noise(33, 33)).unwrap(), first);
}

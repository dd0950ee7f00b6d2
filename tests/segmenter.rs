//! The library's door for other programs: the same answers as evaluation, whatever the layout of
//! the caller's memory, the number of threads, or the tiles that an image is cut into.

use std::sync::Arc;

#[path = "support/small.rs"]
mod small;

use small::{CLASSES, config, network, noise};
use u2pl_engine::config::schema::Protocol;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::eval::{Maps, Predictor, Rgb, SampleKind, Tiling};
use u2pl_engine::infer::{
    Channels, Image, InputShape, Options, Samples, Segmentation, Segmenter, Strides,
};

fn cpu(threads: usize) -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(threads).unwrap())
}

fn segmenter(options: Options) -> Segmenter {
    Segmenter::new(network(&config(), cpu(2)), options).unwrap()
}

fn rgb(pixels: &[u8], height: usize, width: usize) -> Image<'_> {
    Image::rgb(Samples::U8(pixels), height, width).unwrap()
}

fn same(found: &Segmentation, maps: &Maps) {
    assert_eq!((found.height, found.width), (maps.height, maps.width));
    assert_eq!(found.classes, maps.argmax);
    assert_eq!(found.entropy, maps.entropy);
    assert_eq!(found.confidence, maps.confidence);
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

#[test]
fn answers_are_those_of_evaluation_bit_for_bit() {
    for (scales, flip) in [
        (vec![1.0], false),
        (vec![1.0], true),
        (vec![0.5, 1.0], false),
    ] {
        let mut cfg = config();
        cfg.eval.protocol = Protocol::Whole;
        cfg.eval.scales = scales.clone();
        cfg.eval.flip = flip;
        let net = network(&cfg, cpu(1));
        let mut predictor = Predictor::new(net.device.clone(), &cfg, net.layout.clone());
        let served = segmenter(Options {
            scales,
            flip,
            ..Options::default()
        });
        for (height, width) in [(45, 70), (64, 33), (45, 70)] {
            let pixels = noise(height, width, 3);
            let image = Rgb::new(width, height, pixels.clone()).unwrap();
            let maps = predictor.maps(net.weights.weights(), &image).unwrap();
            same(
                &served.segment(&rgb(&pixels, height, width)).unwrap(),
                &maps,
            );
        }
    }
}

#[test]
fn weights_come_from_a_file_or_a_run_folder() {
    let run = tempfile::tempdir().unwrap();
    let path = small::run_folder(run.path(), &config());
    let checkpoints = path.parent().unwrap();

    let pixels = noise(40, 48, 1);
    let expected = segmenter(Options::default())
        .segment(&rgb(&pixels, 40, 48))
        .unwrap();
    for place in [run.path(), &path] {
        let served = Segmenter::open(place, cpu(1), Options::default()).unwrap();
        assert_eq!(served.classes(), CLASSES);
        assert_eq!(served.segment(&rgb(&pixels, 40, 48)).unwrap(), expected);
    }
    let none = Segmenter::open(checkpoints, cpu(1), Options::default());
    let error = none.err().unwrap();
    assert!(error.to_string().contains("run folder"), "{error}");
    let wrong = Options {
        sets: vec!["model.encoder=resnet34".into()],
        ..Options::default()
    };
    let error = Segmenter::open(&path, cpu(1), wrong).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("another architecture"),
        "{error}"
    );
}

#[test]
fn a_batch_is_its_images() {
    let served = segmenter(Options::default());
    let all: Vec<Vec<u8>> = (0..3).map(|seed| noise(41, 57, seed)).collect();
    let images: Vec<Image> = all.iter().map(|p| rgb(p, 41, 57)).collect();
    let batch = served.segment_batch(&images).unwrap();
    for (image, found) in images.iter().zip(&batch) {
        let alone = served.segment(image).unwrap();
        assert!(furthest(&alone.entropy, &found.entropy) < 1e-5);
        assert_eq!(alone.classes, found.classes);
    }
    // Of several sizes and types: one by one.
    let floats: Vec<f32> = all[1].iter().map(|&b| f32::from(b) / 255.0).collect();
    let other = noise(33, 49, 9);
    let mixed = [
        images[0],
        rgb(&other, 33, 49),
        Image::rgb(Samples::F32(&floats), 41, 57).unwrap(),
    ];
    let found = served.segment_batch(&mixed).unwrap();
    assert_eq!(found[0], served.segment(&images[0]).unwrap());
    assert_eq!((found[1].height, found[1].width), (33, 49));
    assert!(furthest(&found[2].confidence, &batch[1].confidence) < 1e-4);
    assert!(served.segment_batch(&[]).unwrap().is_empty());
}

#[test]
fn floats_are_bytes_over_255_in_any_layout() {
    let (height, width) = (40, 56);
    let bytes = noise(height, width, 2);
    let mut planes = vec![0f32; bytes.len()];
    for (i, pixel) in bytes.chunks_exact(3).enumerate() {
        for (c, &b) in pixel.iter().enumerate() {
            // BGR planes.
            planes[(2 - c) * height * width + i] = f32::from(b) / 255.0;
        }
    }
    for options in [
        Options::default(),
        Options {
            scales: vec![0.75, 1.0],
            flip: true,
            ..Options::default()
        },
    ] {
        let served = segmenter(options.clone());
        let a = served.segment(&rgb(&bytes, height, width)).unwrap();
        let image = Image::planar(Samples::F32(&planes), height, width, Channels::Bgr).unwrap();
        let b = served.segment(&image).unwrap();
        // A resized byte is rounded, a resized float is not.
        let bound = if options.flip { 2e-2 } else { 1e-4 };
        let apart = furthest(&a.confidence, &b.confidence);
        assert!(apart < bound, "{apart}");
    }
}

#[test]
fn probabilities_agree_with_the_maps() {
    for (scales, flip) in [(vec![1.0], false), (vec![1.0, 1.25], true)] {
        let served = segmenter(Options {
            scales,
            flip,
            ..Options::default()
        });
        let pixels = noise(45, 64, 7);
        let image = rgb(&pixels, 45, 64);
        let found = served.segment(&image).unwrap();
        let p = served.probabilities(&image).unwrap();
        assert_eq!(p.len(), 45 * 64 * CLASSES);
        for (i, p) in p.chunks_exact(CLASSES).enumerate() {
            let sum: f32 = p.iter().sum();
            let entropy: f32 = p.iter().map(|&p| -p * p.max(1e-30).ln()).sum();
            assert!((sum - 1.0).abs() < 1e-4);
            assert!((entropy - found.entropy[i]).abs() < 1e-3);
            assert!((p[usize::from(found.classes[i])] - found.confidence[i]).abs() < 1e-4);
        }
    }
}

/// The network sees 260 pixels to either side; tiles that overlap by more than four times that
/// count only where they see what the whole image shows.
#[test]
fn tiles_make_the_whole_image() {
    for device in [
        cpu(2),
        Arc::new(CpuDevice::with_precision(2, MathMode::Bf16).unwrap()),
    ] {
        let bound = match device.map_dtype() {
            u2pl_engine::device::DType::F32 => 1e-4,
            _ => 5e-2,
        };
        let make = |tiling| {
            let options = Options {
                tiling,
                ..Options::default()
            };
            Segmenter::new(network(&config(), device.clone()), options).unwrap()
        };
        let tiled = make(Some(Tiling {
            size: 3281,
            overlap: 1080,
        }));
        let whole = make(None);
        let (height, width) = (41, 5009);
        let pixels = noise(height, width, 4);
        let a = tiled.segment(&rgb(&pixels, height, width)).unwrap();
        let b = whole.segment(&rgb(&pixels, height, width)).unwrap();
        let apart = furthest(&a.entropy, &b.entropy);
        assert!(apart < bound, "{apart}");
        assert!(furthest(&a.confidence, &b.confidence) < bound);
        // Off the grid an image is the one with its last row and column repeated.
        let inner = 4999;
        let strides = Strides {
            row: 3 * width,
            pixel: 3,
            channel: 1,
        };
        let part = Image::strided(Samples::U8(&pixels), 39, inner, Channels::Rgb, strides).unwrap();
        let extended = {
            let rows = pixels.chunks_exact(3 * width).take(39);
            let rows = rows.flat_map(|r| r[..3 * inner].to_vec()).collect();
            Rgb::new(inner, 39, rows).unwrap().extended(41, 5001)
        };
        let a = tiled.segment(&part).unwrap();
        let b = whole.segment(&rgb(&extended.pixels, 41, 5001)).unwrap();
        assert_eq!((a.height, a.width), (39, inner));
        for y in 0..39 {
            let (a, b) = (
                &a.entropy[y * inner..][..inner],
                &b.entropy[y * 5001..][..inner],
            );
            assert!(furthest(a, b) < bound);
        }
        // Smaller than a tile: nothing is cut.
        let few = noise(48, 70, 5);
        let image = rgb(&few, 48, 70);
        assert_eq!(
            tiled.segment(&image).unwrap(),
            whole.segment(&image).unwrap()
        );
    }
}

#[test]
fn tiles_with_scales_and_flips_are_close_to_the_whole_image() {
    let make = |tiling| {
        segmenter(Options {
            tiling,
            scales: vec![0.5, 1.0],
            flip: true,
            ..Options::default()
        })
    };
    let (height, width) = (57, 5009);
    let pixels = noise(height, width, 6);
    let image = rgb(&pixels, height, width);
    let a = make(Some(Tiling {
        size: 3281,
        overlap: 1080,
    }));
    let a = a.segment(&image).unwrap();
    let b = make(None).segment(&image).unwrap();
    // Half of 5009 is not on the grid: tiles resize to 2505 pixels as it is, 29 rows become 33.
    let differ = a
        .classes
        .iter()
        .zip(&b.classes)
        .filter(|(a, b)| a != b)
        .count();
    assert!(
        differ * 20 < a.classes.len(),
        "{differ} of {}",
        a.classes.len()
    );
}

#[test]
fn many_threads_on_one_network_get_the_single_threads_answers() {
    let served = segmenter(Options::default());
    let images: Vec<Vec<u8>> = (0..8).map(|i| noise(40 + i, 49, i as u64)).collect();
    let expected: Vec<Segmentation> = images
        .iter()
        .enumerate()
        .map(|(i, p)| served.segment(&rgb(p, 40 + i, 49)).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for t in 0..8 {
            let (served, images, expected) = (&served, &images, &expected);
            scope.spawn(move || {
                for k in 0..8 {
                    let i = (t + k) % 8;
                    let found = served.segment(&rgb(&images[i], 40 + i, 49)).unwrap();
                    assert_eq!(found, expected[i], "thread {t}, image {i}");
                }
            });
        }
    });
}

#[test]
fn memory_is_what_was_announced() {
    let served = segmenter(Options::default());
    assert_eq!(served.held_bytes().unwrap(), 0);
    let mut total = 0;
    for (images, samples) in [
        (1, SampleKind::Byte),
        (2, SampleKind::Byte),
        (1, SampleKind::Float),
    ] {
        let shape = InputShape {
            images,
            height: 48,
            width: 65,
            samples,
        };
        total += served.memory_required(shape).unwrap();
        served.warm_up(1, shape).unwrap();
        assert_eq!(served.held_bytes().unwrap(), total);
    }
    assert!(served.weights_bytes() > 100_000);
    // The same again takes nothing.
    let pixels = noise(48, 65, 1);
    served.segment(&rgb(&pixels, 48, 65)).unwrap();
    assert_eq!(served.held_bytes().unwrap(), total);
    served.warm_up(3, InputShape::bytes(48, 65)).unwrap();
    let one = served.memory_required(InputShape::bytes(48, 65)).unwrap();
    assert_eq!(served.held_bytes().unwrap(), total + 2 * one);
}

#[test]
fn memory_for_scores_is_a_program_and_a_score_for_each_class_and_pixel() {
    for flip in [false, true] {
        let served = segmenter(Options {
            flip,
            ..Options::default()
        });
        let announced = served.scores_memory_required(InputShape::bytes(48, 65));
        let pixels = noise(48, 65, 1);
        let scores = served.probabilities(&rgb(&pixels, 48, 65)).unwrap();
        // The program stays, the scores do not: with them counts and room for maps and labels.
        let gone = announced.unwrap() - served.held_bytes().unwrap();
        let least = 4 * scores.len() + 14 * 48 * 65;
        assert!((least..least + 4096).contains(&gone), "{gone} {least}");
    }
}

#[test]
fn what_cannot_be_done_is_said_and_the_rest_goes_on() {
    let served = segmenter(Options {
        callers: 2,
        ..Options::default()
    });
    let busy = served.warm_up(3, InputShape::bytes(40, 40)).unwrap_err();
    assert_eq!(busy.exit_code(), 2);
    assert!(busy.to_string().contains("more callers"), "{busy}");

    // One grey sample seen 2^36 times: too much for any machine's memory.
    let grey = [90u8];
    let nowhere = Strides {
        row: 0,
        pixel: 0,
        channel: 0,
    };
    let huge = Image::strided(
        Samples::U8(&grey),
        1 << 18,
        1 << 18,
        Channels::Gray,
        nowhere,
    )
    .unwrap();
    let error = served.segment(&huge).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("tiling"), "{error}");

    let pixels = noise(40, 40, 1);
    served.segment(&rgb(&pixels, 40, 40)).unwrap();

    for options in [
        Options {
            scales: vec![0.0],
            ..Options::default()
        },
        Options {
            callers: 0,
            ..Options::default()
        },
        Options {
            shapes: 0,
            ..Options::default()
        },
        Options {
            tiling: Some(Tiling::new(20)),
            ..Options::default()
        },
    ] {
        let error = Segmenter::new(network(&config(), cpu(1)), options).err();
        assert_eq!(error.unwrap().exit_code(), 2);
    }
}

#[test]
fn doubtful_pixels_become_void() {
    let served = segmenter(Options::default());
    let pixels = noise(40, 48, 1);
    let mut found = served.segment(&rgb(&pixels, 40, 48)).unwrap();
    let before = found.classes.clone();
    let middle = found.confidence[500];
    found.void_below(middle, 255);
    for (i, &class) in found.classes.iter().enumerate() {
        match found.confidence[i] < middle {
            true => assert_eq!(class, 255),
            false => assert_eq!(class, before[i]),
        }
    }
}

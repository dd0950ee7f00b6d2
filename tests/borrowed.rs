//! Memory that is somebody else's: images and maps at a host's addresses, and DLPack tensors. On the
//! `cpu` and `simt` devices the addresses are this process's, so the whole path runs.

#[path = "support/small.rs"]
mod small;

use std::sync::Arc;

use small::{config, network, noise};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::device::{Borrowed, DType, Device, Strided, Tensor};
use u2pl_engine::eval::Tiling;
use u2pl_engine::infer::{
    Channels, Image, InputShape, MapTensors, Options, Samples, Segmentation, Segmenter, Strides,
};

const H: usize = 37;
const W: usize = 45;

/// The devices that a machine without a GPU has.
#[cfg(not(feature = "simt"))]
fn devices(math: MathMode) -> Vec<Arc<dyn Device>> {
    vec![Arc::new(CpuDevice::with_precision(2, math).unwrap())]
}

#[cfg(feature = "simt")]
fn devices(math: MathMode) -> Vec<Arc<dyn Device>> {
    use u2pl_engine::device::gpu::{GpuDevice, simt};
    let cpu = CpuDevice::with_precision(2, math).unwrap();
    let simt = GpuDevice::simt(simt::Options::default(), math).unwrap();
    vec![Arc::new(cpu), Arc::new(simt)]
}

fn segmenter(device: &Arc<dyn Device>, options: Options) -> Segmenter {
    Segmenter::new(network(&config(), device.clone()), options).unwrap()
}

/// `values` lent to `device` as a packed tensor.
fn lend<T: bytemuck::Pod>(device: &Arc<dyn Device>, values: &mut [T], shape: [usize; 4]) -> Tensor {
    lend_strided(device, values, shape, Strided::packed(shape)).unwrap()
}

fn lend_strided<T: bytemuck::Pod>(
    device: &Arc<dyn Device>,
    values: &mut [T],
    shape: [usize; 4],
    strides: [usize; 4],
) -> u2pl_engine::Result<Tensor> {
    let dtype = match size_of::<T>() {
        1 => DType::U8,
        _ => DType::F32,
    };
    assert!(Strided::span(shape, strides).unwrap() <= values.len());
    let address = values.as_mut_ptr() as u64;
    // SAFETY: the values outlive the tensor in every test, and these devices are done when a call
    // returns.
    unsafe { Tensor::new(device, "tensor", address, dtype, shape, strides) }
}

/// Host memory for the maps of a batch, at odd addresses.
struct Maps {
    images: usize,
    classes: Vec<u8>,
    entropy: Vec<f32>,
    confidence: Vec<f32>,
}

impl Maps {
    fn new(images: usize) -> Self {
        let pixels = images * H * W;
        Self {
            images,
            classes: vec![99; pixels + 1],
            entropy: vec![-9.0; pixels + 1],
            confidence: vec![-9.0; pixels + 1],
        }
    }

    fn lend(&mut self, device: &Arc<dyn Device>) -> [Tensor; 3] {
        let shape = [self.images, H, W, 1];
        [
            lend(device, &mut self.classes[1..], shape),
            lend(device, &mut self.entropy[1..], shape),
            lend(device, &mut self.confidence[1..], shape),
        ]
    }

    /// The same bits as `expected`, and nothing before or after.
    fn are(&self, expected: &[Segmentation], what: &str) {
        assert_eq!(self.classes[0], 99, "{what}");
        assert_eq!(
            (self.entropy[0], self.confidence[0]),
            (-9.0, -9.0),
            "{what}"
        );
        for (i, one) in expected.iter().enumerate() {
            let part = 1 + i * H * W..1 + (i + 1) * H * W;
            assert_eq!(self.classes[part.clone()], one.classes[..], "{what}");
            assert_eq!(self.entropy[part.clone()], one.entropy[..], "{what}");
            assert_eq!(self.confidence[part], one.confidence[..], "{what}");
        }
    }
}

fn map_tensors([classes, entropy, confidence]: &[Tensor; 3]) -> MapTensors<'_> {
    MapTensors {
        classes: Some(classes),
        entropy: Some(entropy),
        confidence: Some(confidence),
    }
}

/// How a host may hold RGB pixels: where channel `c` of pixel (y, x) of image `n` is.
struct Held {
    name: &'static str,
    channels: Channels,
    count: usize,
    strides: [usize; 4],
}

fn layouts() -> Vec<Held> {
    let held = |name, channels, count, strides| Held {
        name,
        channels,
        count,
        strides,
    };
    vec![
        held("packed RGB", Channels::Rgb, 3, [H * W * 3, W * 3, 3, 1]),
        held("BGR", Channels::Bgr, 3, [H * W * 3, W * 3, 3, 1]),
        held("RGBA", Channels::Rgba, 4, [H * W * 4, W * 4, 4, 1]),
        held("BGRA", Channels::Bgra, 4, [H * W * 4, W * 4, 4, 1]),
        held("rows with gaps", Channels::Rgb, 3, [H * 160, 160, 3, 1]),
        held("images with gaps", Channels::Rgb, 3, [9000, W * 3, 3, 1]),
        held("planes", Channels::Rgb, 3, [H * W * 3, W, 1, H * W]),
        held("planes of BGR", Channels::Bgr, 3, [H * W * 3, W, 1, H * W]),
        held("grey", Channels::Gray, 1, [H * W, W, 1, 1]),
    ]
}

fn hold<T: bytemuck::Pod>(held: &Held, images: usize, value: impl Fn(u8) -> T) -> Vec<T> {
    let shape = [images, H, W, held.count];
    let mut memory = vec![T::zeroed(); Strided::span(shape, held.strides).unwrap()];
    for n in 0..images {
        let rgb = noise(H, W, n as u64);
        for (pixel, rgb) in rgb.chunks_exact(3).enumerate() {
            let (y, x) = (pixel / W, pixel % W);
            for c in 0..held.count {
                let [sn, sy, sx, sc] = held.strides;
                let of = match held.channels {
                    Channels::Bgr | Channels::Bgra => [2, 1, 0, 0][c],
                    _ => [0, 1, 2, 0][c],
                };
                memory[n * sn + y * sy + x * sx + c * sc] = value(rgb[of]);
            }
        }
    }
    memory
}

/// What `segment_batch` says of the same memory.
fn by_the_host<'a, T: bytemuck::Pod>(
    segmenter: &Segmenter,
    held: &Held,
    memory: &'a [T],
    images: usize,
    samples: impl Fn(&'a [T]) -> Samples<'a>,
) -> Vec<Segmentation> {
    let [image, row, pixel, channel] = held.strides;
    let strides = Strides {
        row,
        pixel,
        channel,
    };
    let one = |n: usize| {
        let samples = samples(&memory[n * image..]);
        Image::strided(samples, H, W, held.channels, strides).unwrap()
    };
    let all: Vec<Image> = (0..images).map(one).collect();
    segmenter.segment_batch(&all).unwrap()
}

#[test]
fn images_at_an_address_give_the_bits_of_images_on_the_host() {
    for device in devices(MathMode::Fp32) {
        let served = segmenter(&device, Options::default());
        // The kernels on the CPU are slow: all layouts on one device, some on the other.
        let few = device.name() == "simt";
        for held in layouts().iter().step_by(if few { 4 } else { 1 }) {
            for images in [1, 2] {
                let what = format!("{} x{images} on {}", held.name, device.name());
                let shape = [images, H, W, held.count];
                let mut out = Maps::new(images);

                let mut bytes = hold(held, images, |b| b);
                let expected = by_the_host(&served, held, &bytes, images, Samples::U8);
                let image = lend_strided(&device, &mut bytes, shape, held.strides).unwrap();
                let maps = out.lend(&device);
                let given = map_tensors(&maps);
                served
                    .segment_device(&image, held.channels, &given)
                    .unwrap();
                out.are(&expected, &what);

                let mut floats = hold(held, images, |b| f32::from(b) / 255.0);
                let expected = by_the_host(&served, held, &floats, images, Samples::F32);
                let image = lend_strided(&device, &mut floats, shape, held.strides).unwrap();
                let mut out = Maps::new(images);
                let maps = out.lend(&device);
                let given = map_tensors(&maps);
                served
                    .segment_device(&image, held.channels, &given)
                    .unwrap();
                out.are(&expected, &format!("{what}, f32"));
            }
        }
    }
}

#[test]
fn maps_are_written_where_they_are_wanted_and_nowhere_else() {
    for device in devices(MathMode::Bf16) {
        let served = segmenter(&device, Options::default());
        let mut pixels = noise(H, W, 4);
        let expected = Image::rgb(Samples::U8(&pixels), H, W).and_then(|i| served.segment(&i));
        let expected = expected.unwrap();
        let image = lend(&device, &mut pixels, [1, H, W, 3]);
        let mut out = Maps::new(1);
        let maps = out.lend(&device);
        let only = MapTensors {
            entropy: Some(&maps[1]),
            ..MapTensors::default()
        };
        served.segment_device(&image, Channels::Rgb, &only).unwrap();
        assert_eq!(out.entropy[1..], expected.entropy[..]);
        assert!(out.classes.iter().all(|&c| c == 99));
        assert!(out.confidence.iter().all(|&c| c == -9.0));
        // Into a column of a wider map.
        let mut wide = vec![99u8; H * W * 5];
        let strides = [H * W * 5, W * 5, 5, 1];
        let column = lend_strided(&device, &mut wide, [1, H, W, 1], strides).unwrap();
        let only = MapTensors {
            classes: Some(&column),
            ..MapTensors::default()
        };
        served.segment_device(&image, Channels::Rgb, &only).unwrap();
        for (i, pixel) in wide.chunks_exact(5).enumerate() {
            assert_eq!(pixel, [expected.classes[i], 99, 99, 99, 99]);
        }
        // Into memory of the device's own.
        let own = served.segment_to_device(&image, Channels::Rgb).unwrap();
        let mut classes = vec![0; H * W];
        device.read(&own.classes, &mut classes).unwrap();
        assert_eq!(classes, expected.classes);
        assert_eq!(own.entropy.shape, [1, H, W, 1]);
    }
}

/// A warm segmenter takes no more memory for images at addresses than for those of the host.
#[test]
fn nothing_is_allocated_once_a_shape_is_warm() {
    let device = &devices(MathMode::Fp32)[0];
    let served = segmenter(device, Options::default());
    served.warm_up(1, InputShape::bytes(H, W)).unwrap();
    let held = served.held_bytes().unwrap();
    assert_eq!(
        held,
        served.memory_required(InputShape::bytes(H, W)).unwrap()
    );
    let mut pixels = noise(H, W, 1);
    let image = lend(device, &mut pixels, [1, H, W, 3]);
    let next = device.alloc(1).unwrap();
    served
        .segment_device(&image, Channels::Rgb, &MapTensors::default())
        .unwrap();
    assert_eq!(served.held_bytes().unwrap(), held);
    // Arenas are numbered.
    assert_eq!(device.alloc(1).unwrap().0, next.0 + 1);
}

#[test]
fn lent_memory_is_never_freed_and_not_used_once_it_is_taken_back() {
    for device in devices(MathMode::Fp32) {
        let mut values: Vec<u8> = (0..=255).collect();
        let address = values.as_mut_ptr() as u64;
        for round in 0..3 {
            // SAFETY: the values outlive it.
            let lent = unsafe { Borrowed::new(device.clone(), address + 3, 200) }.unwrap();
            assert_eq!(lent.size_bytes(), 200);
            let view = lent.bytes();
            assert_eq!(device.address(&view).unwrap(), address + 3);
            let mut got = vec![0; 200];
            device.read(&view, &mut got).unwrap();
            assert_eq!(got, values[3..203]);
            device.write(&view, &[round; 200]).unwrap();
            // One byte more is not lent.
            let more = u2pl_engine::device::View {
                shape: [1, 1, 1, 201],
                ld: 201,
                ..view
            };
            assert!(device.read(&more, &mut [0; 201]).is_err());
            let shape = [1, 1, 67, 3];
            let strides = Strided::packed(shape);
            let tensor = Tensor::over(lent, "image", DType::U8, shape, strides);
            let line = tensor.err().unwrap().to_string();
            assert!(
                line.contains("takes 201 bytes, and 200 were lent"),
                "{line}"
            );
            // It went with the tensor that it did not become.
            assert!(device.read(&view, &mut got).is_err());
            assert_eq!(values[2..4], [2, round]);
            assert_eq!(values[202..204], [round, 203]);
        }
        for (address, bytes) in [(0, 8), (address, 0), (u64::MAX - 3, 8)] {
            // SAFETY: refused before it is touched.
            let lent = unsafe { Borrowed::new(device.clone(), address, bytes) };
            let line = lent.err().unwrap().to_string();
            assert!(line.contains("are no memory"), "{line}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named_and_the_segmenter_goes_on() {
    for device in devices(MathMode::Fp32) {
        let served = segmenter(&device, Options::default());
        let mut pixels = noise(H, W, 2);
        let mut out = Maps::new(1);
        let refuse =
            |served: &Segmenter, image: &Tensor, channels, maps: &MapTensors, part: &str| {
                let error = served.segment_device(image, channels, maps).unwrap_err();
                let line = error.to_string();
                assert!(line.contains(part), "{part} in: {line}");
                assert_eq!(error.exit_code(), 2, "{line}");
            };
        let nothing = MapTensors::default();
        let rgb = Channels::Rgb;

        let other: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
        let image = lend(&other, &mut pixels, [1, H, W, 3]);
        refuse(
            &served,
            &image,
            rgb,
            &nothing,
            "image: memory that was lent to another device",
        );
        let image = lend(&device, &mut pixels, [1, H, W, 3]);
        refuse(
            &served,
            &image,
            Channels::Rgba,
            &nothing,
            "3 channels, and Rgba has 4",
        );
        let thin = lend(&device, &mut pixels, [1, 1, W, 3]);
        refuse(&served, &thin, rgb, &nothing, "45 × 1 pixels");
        let address = out.entropy.as_mut_ptr() as u64;
        let tensor = |dtype, shape: [usize; 4], strides| {
            // SAFETY: refused, or as in `lend`.
            unsafe { Tensor::new(&device, "image", address, dtype, shape, strides) }
        };
        let small = [1, 8, 8, 3];
        let words = tensor(DType::U32, small, Strided::packed(small)).unwrap();
        refuse(&served, &words, rgb, &nothing, "samples of U32");
        let planes = tensor(DType::F32, small, [400, 10, 1, 100]).unwrap();
        refuse(&served, &planes, rgb, &nothing, "pack its rows");
        for (shape, strides, part) in [
            ([0, 8, 8, 3], [0, 24, 3, 1], "no tensor"),
            ([2, 8, 8, 3], [usize::MAX, 24, 3, 1], "no tensor"),
        ] {
            let line = tensor(DType::F32, shape, strides)
                .err()
                .unwrap()
                .to_string();
            assert!(line.contains(part), "{line}");
        }
        // SAFETY: refused.
        let odd = unsafe {
            let strides = Strided::packed(small);
            Tensor::new(&device, "image", address + 2, DType::F32, small, strides)
        };
        assert!(odd.err().unwrap().to_string().contains("align it"));

        let maps = out.lend(&device);
        let swapped = MapTensors {
            classes: Some(&maps[1]),
            ..nothing
        };
        refuse(&served, &image, rgb, &swapped, "classes: a map of F32");
        let short = lend(&device, &mut pixels, [1, H - 1, W, 1]);
        let short = MapTensors {
            classes: Some(&short),
            ..nothing
        };
        refuse(
            &served,
            &image,
            rgb,
            &short,
            "classes: a map of U8 [1, 36, 45, 1]",
        );
        let [classes, ..] = out.lend(&device);
        let guarded = classes.read_only();
        let guarded = MapTensors {
            classes: Some(&guarded),
            ..nothing
        };
        refuse(&served, &image, rgb, &guarded, "must not be written to");
        for options in [
            Options {
                flip: true,
                ..Options::default()
            },
            Options {
                scales: vec![0.5],
                ..Options::default()
            },
            Options {
                tiling: Some(Tiling {
                    size: 33,
                    overlap: 8,
                }),
                ..Options::default()
            },
        ] {
            let looks = segmenter(&device, options);
            refuse(&looks, &image, rgb, &nothing, "pass through the host");
        }

        let expected = Image::rgb(Samples::U8(&pixels), H, W).and_then(|i| served.segment(&i));
        let maps = out.lend(&device);
        served
            .segment_device(&image, rgb, &map_tensors(&maps))
            .unwrap();
        out.are(&[expected.unwrap()], "after all that");
    }
}

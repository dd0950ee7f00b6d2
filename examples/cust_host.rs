//! A program that does its GPU work through `cust`, and has images that are on the GPU already
//! segmented there: on its own context and stream, from its own buffers into its own buffers.
//!
//! `cust` links to a CUDA installation; without one, `DOCS_RS=1 cargo check --features cust-interop
//! --example cust_host` checks that this compiles.
//!
//! `cargo run --release --features cust-interop --example cust_host -- RUN_FOLDER_OR_WEIGHTS IMAGE`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::schema::Exif;
use u2pl_engine::data::decode_image;
use u2pl_engine::device::gpu::cuda::cust;
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::device::{Borrowed, DType, Device, Strided, Tensor};
use u2pl_engine::infer::{Channels, InputShape, MapTensors, Options, Segmenter};

use cust::memory::{CopyDestination, DeviceBuffer};
use cust::stream::{Stream, StreamFlags};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image] = &arguments[..] else {
        return Err("usage: cust_host RUN_FOLDER_OR_WEIGHTS IMAGE".into());
    };

    // The program's own context and stream.
    let context = cust::quick_init()?;
    let stream = Stream::new(StreamFlags::DEFAULT, None)?;

    // SAFETY: declared after both, so dropped before them, with the segmenter that holds it.
    let device = unsafe { GpuDevice::on_cust(&context, &stream, MathMode::Bf16) }?;
    let device: Arc<dyn Device> = Arc::new(device);
    let segmenter = Segmenter::open(Path::new(weights), device.clone(), Options::default())?;

    let picture = decode_image(Path::new(image), Exif::Apply)?;
    let (height, width) = (picture.height, picture.width);
    // Plans, allocates and records: what follows only queues.
    segmenter.warm_up(1, InputShape::bytes(height, width))?;

    // The program's own buffers. Here the pixels come from a file; a decoder on the GPU would have
    // left them there.
    let pixels = DeviceBuffer::from_slice(&picture.rgb)?;
    let classes = DeviceBuffer::<u8>::zeroed(height * width)?;
    let (rgb, one) = ([1, height, width, 3], [1, height, width, 1]);
    // SAFETY: both buffers are dropped at the end, after the stream was waited for.
    let (image, map) = unsafe {
        (
            Borrowed::cust(device.clone(), &pixels)?,
            Borrowed::cust(device.clone(), &classes)?,
        )
    };
    let image = Tensor::over(image, "image", DType::U8, rgb, Strided::packed(rgb))?;
    let map = Tensor::over(map, "classes", DType::U8, one, Strided::packed(one))?;
    let maps = MapTensors {
        classes: Some(&map),
        ..MapTensors::default()
    };
    segmenter.segment_device(&image, Channels::Rgb, &maps)?;

    // Whatever the program does with the classes on its stream comes after. Here: look at them.
    stream.synchronize()?;
    let mut found = vec![0u8; height * width];
    classes.copy_to(&mut found)?;
    for class in 0..segmenter.classes() {
        let pixels = found.iter().filter(|&&c| usize::from(c) == class).count();
        let share = 100.0 * pixels as f64 / found.len() as f64;
        println!("class {class}: {share:.1} % of the pixels");
    }
    Ok(())
}

//! A program that does its GPU work through cudarc, and has images that are on the GPU already
//! segmented there: on its own context and stream, from its own buffers into its own buffers.
//!
//! `cargo run --release --example cudarc_host -- RUN_FOLDER_OR_WEIGHTS IMAGE`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::schema::Exif;
use u2pl_engine::data::decode_image;
use u2pl_engine::device::gpu::cuda::{self, cudarc};
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::device::{Borrowed, DType, Device, Strided, Tensor};
use u2pl_engine::infer::{Channels, InputShape, MapTensors, Options, Segmenter};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image] = &arguments[..] else {
        return Err("usage: cudarc_host RUN_FOLDER_OR_WEIGHTS IMAGE".into());
    };
    // cudarc panics where there is no driver.
    if let Some(problem) = cuda::describe().unusable {
        return Err(problem.into());
    }

    // The program's own context and stream.
    let context = cudarc::driver::CudaContext::new(0)?;
    let stream = context.new_stream()?;

    // The engine joins in; it keeps both alive, and ends neither.
    let device: Arc<dyn Device> = Arc::new(GpuDevice::on_cudarc(&stream, MathMode::Bf16)?);
    let segmenter = Segmenter::open(Path::new(weights), device.clone(), Options::default())?;

    let picture = decode_image(Path::new(image), Exif::Apply)?;
    let (height, width) = (picture.height, picture.width);
    // Plans, allocates and records: what follows only queues.
    segmenter.warm_up(1, InputShape::bytes(height, width))?;

    // The program's own buffers. Here the pixels come from a file; a decoder on the GPU would have
    // left them there.
    let pixels = stream.clone_htod(&picture.rgb)?;
    let mut classes = stream.alloc_zeros::<u8>(height * width)?;
    {
        // SAFETY: cudarc frees the buffers in the order of its streams, once the guards have told
        // it of this use of them, and nobody else uses them meanwhile.
        let (image, _read) = unsafe { Borrowed::cudarc(device.clone(), &pixels, &stream) }?;
        // SAFETY: as above.
        let (map, _written) = unsafe { Borrowed::cudarc_mut(device, &mut classes, &stream) }?;
        let (rgb, one) = ([1, height, width, 3], [1, height, width, 1]);
        let image = Tensor::over(image, "image", DType::U8, rgb, Strided::packed(rgb))?;
        let map = Tensor::over(map, "classes", DType::U8, one, Strided::packed(one))?;
        let maps = MapTensors {
            classes: Some(&map),
            ..MapTensors::default()
        };
        segmenter.segment_device(&image, Channels::Rgb, &maps)?;
    }

    // Whatever the program does with the classes on its stream comes after. Here: look at them.
    let classes = stream.clone_dtoh(&classes)?;
    for class in 0..segmenter.classes() {
        let pixels = classes.iter().filter(|&&c| usize::from(c) == class).count();
        let share = 100.0 * pixels as f64 / classes.len() as f64;
        println!("class {class}: {share:.1} % of the pixels");
    }
    Ok(())
}

//! Segmenting images that lie in device memory, maps staying there: for hosts that have their pixels
//! on the GPU and want the classes there, on their own stream, without a copy through the host.

use std::sync::Arc;

use super::{InputShape, Segmenter, Wanted};
use crate::device::{DType, Strided, Tensor, View};
use crate::eval::{MapPlaces, SampleKind};
use crate::graph::exec::Arena;
use crate::graph::state::State;
use crate::infer::Channels;
use crate::{Error, Result};

/// Memory for the maps of a batch, `[N, H, W, 1]` each; what is `None` is not wanted.
#[derive(Clone, Copy, Default)]
pub struct MapTensors<'a> {
    /// The most probable class, u8.
    pub classes: Option<&'a Tensor>,
    /// Entropy, f32, nats.
    pub entropy: Option<&'a Tensor>,
    /// Probability of the class, f32.
    pub confidence: Option<&'a Tensor>,
}

/// Maps in memory of the device's own.
#[derive(Clone)]
pub struct DeviceMaps {
    /// The memory.
    pub memory: Arc<Arena>,
    /// The most probable class, u8 `[N, H, W, 1]`.
    pub classes: View,
    /// Entropy, f32 `[N, H, W, 1]`.
    pub entropy: View,
    /// Probability of the class, f32 `[N, H, W, 1]`.
    pub confidence: View,
}

impl Segmenter {
    /// Segments a batch of images, `[N, H, W, C]` of u8 (0 to 255) or f32 (0 to 1) with any strides
    /// that [`Strided::pairs`] takes, into `maps`; `channels` says what the C are. The bits are those
    /// of [`Segmenter::segment_batch`].
    ///
    /// Work is queued on the device's stream and not waited for, once the shape is warm
    /// ([`Segmenter::warm_up`]: the first call of a shape plans and allocates, and where the device
    /// records, the second one records). In stream order: the image is copied in, the network runs
    /// (one graph launch, where the device records), the maps are copied out. So
    ///
    /// - the image must be complete in stream order before the call, and may be overwritten in
    ///   stream order after it; the same goes for the maps' memory;
    /// - their memory must stay allocated until the stream has passed the call: free it in stream
    ///   order, or wait ([`crate::device::Device::wait`], or the stream's own). The [`Tensor`]s may
    ///   be dropped at once;
    /// - the segmenter's memory lives as long as it; dropping it waits.
    ///
    /// On devices of the host (`cpu`, `simt`) the work is over when the call returns.
    ///
    /// Nobody waits for the scores, so nobody refuses those that are no finite numbers: such pixels
    /// have NaN as entropy or confidence, and some class below [`Segmenter::classes`].
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensor: memory that was lent to another device, another type,
    /// shape or order than is wanted, memory that must not be written to; a segmenter that resizes or
    /// mirrors images or cuts them up, which the host does; and as [`Segmenter::segment`].
    /// Nothing is queued then, and the segmenter stays usable.
    pub fn segment_device(
        &self,
        image: &Tensor,
        channels: Channels,
        maps: &MapTensors,
    ) -> Result<()> {
        let shape = self.input_shape(image, channels)?;
        let place = |what, tensor: Option<&Tensor>, dtype| {
            let checked = |tensor| self.output(what, tensor, dtype, shape);
            tensor.map(checked).transpose()
        };
        let places = MapPlaces {
            entropy: place("entropy", maps.entropy, DType::F32)?,
            classes: place("classes", maps.classes, DType::U8)?,
            confidence: place("confidence", maps.confidence, DType::F32)?,
        };
        self.run_on_device(image, channels, shape, &places)
    }

    /// As [`Segmenter::segment_device`], into memory that is allocated for it; that may wait for the
    /// device.
    ///
    /// # Errors
    /// As [`Segmenter::segment_device`].
    pub fn segment_to_device(&self, image: &Tensor, channels: Channels) -> Result<DeviceMaps> {
        let shape = self.input_shape(image, channels)?;
        let map = [shape.images, shape.height, shape.width, 1];
        let mut layout = State::new();
        layout.add("classes", map, DType::U8);
        layout.add("entropy", map, DType::F32);
        layout.add("confidence", map, DType::F32);
        let memory = Arc::new(Arena::new(self.device.clone(), layout.bytes())?);
        let view = |name| layout.view(name, memory.id());
        let maps = DeviceMaps {
            classes: view("classes")?,
            entropy: view("entropy")?,
            confidence: view("confidence")?,
            memory: memory.clone(),
        };
        let places = MapPlaces {
            entropy: Some(maps.entropy.into()),
            classes: Some(maps.classes.into()),
            confidence: Some(maps.confidence.into()),
        };
        self.run_on_device(image, channels, shape, &places)?;
        Ok(maps)
    }

    fn run_on_device(
        &self,
        image: &Tensor,
        channels: Channels,
        shape: InputShape,
        places: &MapPlaces,
    ) -> Result<()> {
        let mut caller = self.lend()?;
        caller.fits(shape, Wanted::Maps)?;
        let (weights, order) = (self.weights.weights(), channels.places());
        let predictor = &mut caller.caller()?.predictor;
        let image = image.strided();
        match shape.samples {
            SampleKind::Byte => predictor.maps_on_device::<u8>(weights, &image, order, places),
            SampleKind::Float => predictor.maps_on_device::<f32>(weights, &image, order, places),
        }
    }

    fn input_shape(&self, image: &Tensor, channels: Channels) -> Result<InputShape> {
        const WHAT: &str = "image";
        self.own(WHAT, image)?;
        let Strided { dtype, shape, .. } = image.strided();
        let samples = match dtype {
            DType::U8 => SampleKind::Byte,
            DType::F32 => SampleKind::Float,
            other => {
                let problem = format!("samples of {other:?}");
                return Err(Error::input(WHAT, problem, "convert it to u8 or f32"));
            }
        };
        let [images, height, width, count] = shape;
        if count != channels.count() {
            let problem = format!(
                "{count} channels, and {channels:?} has {}",
                channels.count()
            );
            return Err(Error::input(WHAT, problem, "say what its channels are"));
        }
        let shape = InputShape {
            images,
            height,
            width,
            samples,
        };
        shape.check(&self.options.scales)?;
        Ok(shape)
    }

    fn output(&self, what: &str, map: &Tensor, dtype: DType, of: InputShape) -> Result<Strided> {
        self.own(what, map)?;
        let place = map.strided();
        let shape = [of.images, of.height, of.width, 1];
        if (place.dtype, place.shape) != (dtype, shape) {
            let problem = format!("a map of {:?} {:?}", place.dtype, place.shape);
            return Err(Error::input(
                what,
                problem,
                format!("give {dtype:?} {shape:?}"),
            ));
        }
        if map.is_read_only() {
            let problem = "memory that must not be written to";
            return Err(Error::input(what, problem, "give memory of its own"));
        }
        Ok(place)
    }

    fn own(&self, what: &str, tensor: &Tensor) -> Result<()> {
        match tensor.memory().is_of(&self.device) {
            true => Ok(()),
            false => Err(Error::input(
                what,
                "memory that was lent to another device",
                "lend it to the segmenter's own",
            )),
        }
    }
}

//! Pictures of the `image` crate, for hosts that have them.

use super::image::{Image, Samples};
use crate::{Error, Result};

impl<'a> TryFrom<&'a image::RgbImage> for Image<'a> {
    type Error = Error;

    fn try_from(image: &'a image::RgbImage) -> Result<Self> {
        let [height, width] = [image.height(), image.width()].map(|n| n as usize);
        Self::rgb(Samples::U8(image.as_raw()), height, width)
    }
}

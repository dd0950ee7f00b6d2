//! Programs whose images come from device memory and whose maps stay there: nothing passes through
//! the host, and nothing is waited for.

use super::{Inputs, Net};
use crate::Result;
use crate::device::{Call, Device, Met, Op, Strided, View};

/// Where the maps of a batch go, `[N, H, W, 1]` each; those that are not wanted are not copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapPlaces {
    /// Entropy, f32.
    pub entropy: Option<Strided>,
    /// Class, u8.
    pub classes: Option<Strided>,
    /// Confidence, f32.
    pub confidence: Option<Strided>,
}

impl Net {
    /// Runs on whole images of the program's size, `places` saying where their red, green and blue
    /// are. The images are copied first and the maps last, so a recording of the program knows no
    /// address but its own.
    pub(in crate::eval) fn run_on_device(
        &self,
        device: &dyn Device,
        images: &Strided,
        places: [usize; 3],
        maps: &MapPlaces,
    ) -> Result<()> {
        let [h, w] = self.shape.size;
        let pixels = View {
            shape: [self.shape.images, h, w, 3],
            ld: 3,
            ..self.program.view(self.inputs.images())
        };
        let taken = images.pairs("image", &pixels, &places)?;
        let kinds = [
            ("entropy", maps.entropy),
            ("classes", maps.classes),
            ("confidence", maps.confidence),
        ];
        let mut given = Vec::new();
        for ((what, place), &result) in kinds.into_iter().zip(&self.results) {
            let Some(place) = place else { continue };
            given.extend(place.pairs(what, &self.program.view(result), &[0])?);
        }
        for (from, to) in taken {
            queue(device, Op::Copy, vec![from], to)?;
        }
        self.fill_constants(device)?;
        self.program.run()?;
        for (to, from) in given {
            queue(device, Op::Copy, vec![from], to)?;
        }
        Ok(())
    }

    /// What [`Net::run`] writes besides the images, every time for the reason given there.
    fn fill_constants(&self, device: &dyn Device) -> Result<()> {
        let fill = |view, value: f32| queue(device, Op::Fill { value }, vec![], view);
        let channel = |view: View, i: usize| View {
            offset: view.offset + i * view.dtype.bytes(),
            shape: [view.shape[0], 1, 1, 1],
            ..view
        };
        match self.inputs {
            Inputs::Bytes { labels, sizes, .. } => {
                fill(self.program.view(labels), 0.0)?;
                let sizes = self.program.view(sizes);
                for (i, side) in self.shape.size.into_iter().enumerate() {
                    fill(channel(sizes, i), side as f32)?;
                }
            }
            Inputs::Floats { constants, .. } => {
                let values = [self.mean.map(|m| m / 255.0), self.std.map(|s| 255.0 / s)];
                for (vector, values) in constants.into_iter().zip(values) {
                    let vector = self.program.view(vector);
                    for (i, value) in values.into_iter().enumerate() {
                        fill(channel(vector, i), value)?;
                    }
                }
                fill(self.program.view(constants[2]), 0.0)?;
                fill(self.program.view(constants[3]), 1.0)?;
            }
        }
        Ok(())
    }
}

/// Runs an operation that takes no scratch.
fn queue(device: &dyn Device, op: Op, ins: Vec<View>, out: View) -> Result<()> {
    device.meet(&[Met::of(&op, &ins, &[out])])?;
    device.run(&Call {
        op,
        ins,
        outs: vec![out],
        accumulate: 0,
        workspace: None,
    })
}

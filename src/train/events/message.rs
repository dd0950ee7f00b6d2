//! The few protocol-buffer messages of an event file, written and read by hand.
//!
//! ```text
//!  Event     1 wall_time: double   2 step: int64   3 file_version: string   5 summary
//!  Summary   1 value, repeated
//!  Value     1 tag: string   2 simple_value: float   4 image   5 histo
//!  Image     1 height   2 width   3 colorspace: int32   4 encoded_image_string: bytes
//!  Histogram 1 min   2 max   3 num   4 sum   5 sum_squares: double
//!            6 bucket_limit   7 bucket: double, packed
//! ```

/// First event of every file.
const VERSION: &str = "brain.Event:2";

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Counts of values in ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// Upper ends of the ranges, ascending; the last is `max`.
    pub limits: Vec<f64>,
    /// Values in each.
    pub counts: Vec<f64>,
}

/// Ranges of a histogram.
const RANGES: usize = 40;

impl Histogram {
    /// Of the finite ones among `values`, in ranges of one width; `None` where there is none.
    pub fn of(values: &[f32]) -> Option<Self> {
        let finite = || {
            values
                .iter()
                .copied()
                .filter(|v| v.is_finite())
                .map(f64::from)
        };
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (v.min(low), v.max(high))
        });
        if min > max {
            return None;
        }
        let ranges = if min == max { 1 } else { RANGES };
        let width = (max - min) / ranges as f64;
        let mut counts = vec![0.0; ranges];
        let (mut sum, mut sum_squares) = (0.0, 0.0);
        for v in finite() {
            // The quotient of a single value's histogram is not a number, and 0 as an index.
            counts[(((v - min) / width) as usize).min(ranges - 1)] += 1.0;
            sum += v;
            sum_squares += v * v;
        }
        let mut limits: Vec<f64> = (1..=ranges).map(|i| min + width * i as f64).collect();
        limits[ranges - 1] = max;
        Some(Self {
            min,
            max,
            sum,
            sum_squares,
            limits,
            counts,
        })
    }
}

/// What an event says under one tag.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// A number.
    Scalar(f32),
    /// An RGB picture.
    Image {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The PNG file.
        png: Vec<u8>,
    },
    /// A distribution.
    Histogram(Histogram),
}

/// An event that starts a file.
pub fn version(wall_time: f64) -> Vec<u8> {
    let mut out = head(wall_time, 0);
    bytes(&mut out, 3, VERSION.as_bytes());
    out
}

/// An event of `step` with values under tags.
pub fn summary(wall_time: f64, step: u64, values: &[(String, Payload)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, payload) in values {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        match payload {
            Payload::Scalar(x) => {
                key(&mut value, 2, FIXED32);
                value.extend(x.to_le_bytes());
            }
            Payload::Image { width, height, png } => {
                let mut image = Vec::with_capacity(png.len() + 32);
                // Colour space 3 is RGB.
                for (field, number) in [(1, u64::from(*height)), (2, u64::from(*width)), (3, 3)] {
                    key(&mut image, field, VARINT);
                    varint(&mut image, number);
                }
                bytes(&mut image, 4, png);
                bytes(&mut value, 4, &image);
            }
            Payload::Histogram(h) => bytes(&mut value, 5, &histogram(h)),
        }
        bytes(&mut summary, 1, &value);
    }
    let mut out = head(wall_time, step);
    bytes(&mut out, 5, &summary);
    out
}

fn head(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = Vec::new();
    double(&mut out, 1, wall_time);
    key(&mut out, 2, VARINT);
    varint(&mut out, step);
    out
}

fn histogram(h: &Histogram) -> Vec<u8> {
    let mut out = Vec::new();
    let count = h.counts.iter().sum();
    for (field, number) in (1..).zip([h.min, h.max, count, h.sum, h.sum_squares]) {
        double(&mut out, field, number);
    }
    for (field, list) in [(6, &h.limits), (7, &h.counts)] {
        let packed: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes(&mut out, field, &packed);
    }
    out
}

fn key(out: &mut Vec<u8>, field: u8, kind: u8) {
    out.push(field << 3 | kind);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn double(out: &mut Vec<u8>, field: u8, number: f64) {
    key(out, field, FIXED64);
    out.extend(number.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    key(out, field, BYTES);
    varint(out, content.len() as u64);
    out.extend(content);
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// An integer.
    Number(u64),
    /// A double.
    Double(f64),
    /// A string, a packed list or a message.
    Bytes(&'a [u8]),
    /// A float.
    Float(f32),
}

/// The fields of a message with their numbers, in order; `None` where it is none.
pub fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message)?;
        let field = match (key & 7) as u8 {
            VARINT => Field::Number(read_varint(&mut message)?),
            FIXED64 => Field::Double(f64::from_le_bytes(take(&mut message, 8)?.try_into().ok()?)),
            FIXED32 => Field::Float(f32::from_le_bytes(take(&mut message, 4)?.try_into().ok()?)),
            BYTES => {
                let length = read_varint(&mut message)?;
                Field::Bytes(take(&mut message, usize::try_from(length).ok()?)?)
            }
            _ => return None,
        };
        found.push((key >> 3, field));
    }
    Some(found)
}

/// The step of an event; `None` where `event` is none.
pub fn step(event: &[u8]) -> Option<u64> {
    let fields = fields(event)?;
    let step = fields.iter().find_map(|field| match field {
        (2, Field::Number(step)) => Some(*step),
        _ => None,
    });
    // Zeros may be left out.
    Some(step.unwrap_or(0))
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(from, 1)?[0];
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_finite_value() {
        let values: Vec<f32> = (0..=100).map(|i| i as f32 / 10.0 - 5.0).collect();
        let h = Histogram::of(&[&values[..], &[f32::NAN, f32::INFINITY]].concat()).unwrap();
        assert_eq!((h.min, h.max), (-5.0, 5.0));
        assert_eq!(h.counts.iter().sum::<f64>(), 101.0);
        assert_eq!((h.limits.len(), h.counts.len()), (RANGES, RANGES));
        assert_eq!(h.limits[RANGES - 1], 5.0);
        assert!((h.sum_squares - 858.5).abs() < 1e-3, "{}", h.sum_squares);
        let one = Histogram::of(&[0.25; 7]).unwrap();
        assert_eq!((one.limits, one.counts), (vec![0.25], vec![7.0]));
        assert_eq!(Histogram::of(&[f32::NAN]), None);
    }

    #[test]
    fn bytes_that_are_no_message_are_no_event() {
        assert_eq!(step(&summary(1.0, 300, &[])), Some(300));
        assert_eq!(step(&[]), Some(0));
        for bad in [
            &[0x10][..],
            &[0x10, 0xFF],
            &[0x0A, 5, 1],
            &[0x0B],
            &[0xFF; 11],
        ] {
            assert_eq!(step(bad), None, "{bad:?}");
        }
    }
}

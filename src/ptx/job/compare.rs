//! What came out against what must.

use half::{bf16, f16};

/// Element types of an expected file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    F64,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
}

const NAMES: [(&str, Dtype, usize); 12] = [
    ("f32", Dtype::F32, 4),
    ("f16", Dtype::F16, 2),
    ("bf16", Dtype::Bf16, 2),
    ("f64", Dtype::F64, 8),
    ("u8", Dtype::U8, 1),
    ("i8", Dtype::I8, 1),
    ("u16", Dtype::U16, 2),
    ("i16", Dtype::I16, 2),
    ("u32", Dtype::U32, 4),
    ("i32", Dtype::I32, 4),
    ("u64", Dtype::U64, 8),
    ("i64", Dtype::I64, 8),
];

impl Dtype {
    /// The type of this name.
    pub fn named(name: &str) -> Option<Dtype> {
        NAMES
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, dtype, _)| *dtype)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        NAMES[self as usize].2
    }

    /// Distance of two elements and magnitude of the second. NaN equals NaN, and is infinitely far
    /// from anything else; so is an infinity from all but itself.
    fn distance(self, got: &[u8], want: &[u8]) -> (f64, f64) {
        if let Some((got, want)) = self.integers(got, want) {
            return (got.abs_diff(want) as f64, want.unsigned_abs() as f64);
        }
        let (got, want) = (self.float(got), self.float(want));
        if got == want || (got.is_nan() && want.is_nan()) {
            return (0.0, want.abs());
        }
        let distance = (got - want).abs();
        (
            if distance.is_nan() {
                f64::INFINITY
            } else {
                distance
            },
            if want.is_finite() { want.abs() } else { 0.0 },
        )
    }

    fn float(self, bytes: &[u8]) -> f64 {
        match self {
            Dtype::F32 => f64::from(f32::from_le_bytes(array(bytes))),
            Dtype::F16 => f16::from_le_bytes(array(bytes)).to_f64(),
            Dtype::Bf16 => bf16::from_le_bytes(array(bytes)).to_f64(),
            _ => f64::from_le_bytes(array(bytes)),
        }
    }

    fn integers(self, got: &[u8], want: &[u8]) -> Option<(i128, i128)> {
        let value = |bytes: &[u8]| -> i128 {
            let unsigned = bytes
                .iter()
                .rev()
                .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
            let empty = 64 - 8 * bytes.len() as u32;
            match self {
                Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => {
                    i128::from((unsigned << empty) as i64 >> empty)
                }
                _ => i128::from(unsigned),
            }
        };
        let float = matches!(self, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64);
        (!float).then(|| (value(got), value(want)))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// One buffer against its expected file.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The buffer's file.
    pub buffer: String,
    /// Element type.
    pub dtype: Dtype,
    /// Elements compared.
    pub elements: usize,
    /// Largest difference; infinite where one is NaN or infinite and the other is not.
    pub worst: f64,
    /// The element that differs most (the first of them).
    pub worst_at: usize,
    /// Elements that differ by more than `atol + rtol·|expected|`.
    pub outside: usize,
    /// Absolute tolerance.
    pub atol: f64,
    /// Relative tolerance.
    pub rtol: f64,
}

impl Verdict {
    /// Compares element by element; both slices have the same length.
    pub fn of(
        buffer: &str,
        dtype: Dtype,
        got: &[u8],
        want: &[u8],
        atol: f64,
        rtol: f64,
    ) -> Verdict {
        let size = dtype.bytes();
        let (mut worst, mut worst_at, mut outside) = (0.0, 0, 0);
        for (i, (got, want)) in got
            .chunks_exact(size)
            .zip(want.chunks_exact(size))
            .enumerate()
        {
            let (distance, magnitude) = dtype.distance(got, want);
            if distance > worst {
                (worst, worst_at) = (distance, i);
            }
            outside += usize::from(distance > atol + rtol * magnitude);
        }
        let (buffer, elements) = (buffer.to_string(), want.len() / size);
        Verdict {
            buffer,
            dtype,
            elements,
            worst,
            worst_at,
            outside,
            atol,
            rtol,
        }
    }

    /// Whether every element is within the tolerance.
    pub fn is_met(&self) -> bool {
        self.outside == 0
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verdict {
            buffer,
            dtype,
            elements,
            worst,
            worst_at,
            outside,
            atol,
            rtol,
        } = self;
        let dtype = dtype.name();
        if self.is_met() {
            return write!(
                f,
                "{buffer}: {elements} {dtype} agree, worst difference {worst:.3e}"
            );
        }
        write!(
            f,
            "{buffer}: {outside} of {elements} {dtype} differ by more than {atol:e} + {rtol:e} of the \
             expected value; worst {worst:.3e} at element {worst_at}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes() {
        for (name, dtype, bytes) in NAMES {
            assert_eq!(
                (Dtype::named(name), dtype.name(), dtype.bytes()),
                (Some(dtype), name, bytes)
            );
        }
        assert_eq!(Dtype::named("fp32"), None);
    }

    #[test]
    fn tolerances() {
        let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (want, got) = (
            bytes(&[1.0, 100.0, f32::NAN]),
            bytes(&[1.5, 101.0, f32::NAN]),
        );
        let verdict = Verdict::of("c", Dtype::F32, &got, &want, 0.5, 0.0);
        assert_eq!(
            (verdict.worst, verdict.worst_at, verdict.outside),
            (1.0, 1, 1)
        );
        assert!(Verdict::of("c", Dtype::F32, &got, &want, 0.5, 0.01).is_met());
        let nan = Verdict::of(
            "c",
            Dtype::F32,
            &bytes(&[f32::NAN]),
            &bytes(&[0.0]),
            1.0,
            1.0,
        );
        assert_eq!((nan.worst, nan.outside), (f64::INFINITY, 1));
        let inf = Verdict::of(
            "c",
            Dtype::F32,
            &bytes(&[0.0]),
            &bytes(&[f32::INFINITY]),
            1.0,
            1.0,
        );
        assert_eq!((inf.worst, inf.outside), (f64::INFINITY, 1));
    }

    #[test]
    fn integers_are_exact() {
        let (a, b) = (u64::MAX.to_le_bytes(), (u64::MAX - 1).to_le_bytes());
        assert_eq!(Verdict::of("n", Dtype::U64, &a, &b, 0.0, 0.0).worst, 1.0);
        assert_eq!(
            Verdict::of("n", Dtype::I8, &[255], &[1], 0.0, 0.0).worst,
            2.0
        );
        assert_eq!(
            Verdict::of("n", Dtype::U8, &[255], &[1], 0.0, 0.0).worst,
            254.0
        );
    }
}

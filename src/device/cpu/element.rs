//! Maps in f32 or bf16 under one piece of code.
//!
//! Every operation computes on rows of f32. A row of an f32 map is handed over as it lies; one of
//! a bf16 map is widened into a scratch row first and, where it is written, rounded back after:
//! arithmetic in f32, one rounding per element written. The scratch stays in the first-level
//! cache, so memory sees two bytes an element.

use bytemuck::Pod;
use half::bf16;

use super::super::DType;
use super::simd::vectorised;

/// Elements that runs of no particular length are handled in.
pub(super) const BLOCK: usize = 512;

/// What a map may consist of.
pub(super) trait Element: Pod + Send + Sync {
    /// Its name at run time.
    const DTYPE: DType;

    /// Scratch for rows of up to `n` elements.
    fn scratch(n: usize) -> Vec<f32>;

    /// The row in f32: itself, or its copy in `scratch`.
    fn read<'a>(row: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32];

    /// Overwrites the row.
    fn write(from: &[f32], row: &mut [Self]);

    /// Lets `f` change the row in f32.
    fn update<R>(row: &mut [Self], scratch: &mut [f32], f: impl FnOnce(&mut [f32]) -> R) -> R;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn scratch(_: usize) -> Vec<f32> {
        Vec::new()
    }

    #[inline(always)]
    fn read<'a>(row: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        row
    }

    #[inline(always)]
    fn write(from: &[f32], row: &mut [f32]) {
        row.copy_from_slice(from);
    }

    #[inline(always)]
    fn update<R>(row: &mut [f32], _: &mut [f32], f: impl FnOnce(&mut [f32]) -> R) -> R {
        f(row)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    fn scratch(n: usize) -> Vec<f32> {
        vec![0.0; n]
    }

    #[inline(always)]
    fn read<'a>(row: &'a [bf16], scratch: &'a mut [f32]) -> &'a [f32] {
        let wide = &mut scratch[..row.len()];
        widen(row, wide);
        wide
    }

    #[inline(always)]
    fn write(from: &[f32], row: &mut [bf16]) {
        round(from, row);
    }

    #[inline(always)]
    fn update<R>(row: &mut [bf16], scratch: &mut [f32], f: impl FnOnce(&mut [f32]) -> R) -> R {
        let wide = &mut scratch[..row.len()];
        widen(row, wide);
        let result = f(wide);
        round(wide, row);
        result
    }
}

/// Runs `$function` with the element type of `$view` as its first generic argument; anything but
/// bf16 counts as f32 and is refused there when it is not.
macro_rules! by_element {
    ($view:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match $view.dtype {
            $crate::device::DType::BF16 => $function::<half::bf16>($($arg),*),
            _ => $function::<f32>($($arg),*),
        }
    };
}
pub(super) use by_element;

vectorised! {
    /// bf16 to f32, exactly.
    pub(super) fn widen(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }

    /// f32 to bf16, nearest even; NaN stays NaN.
    pub(super) fn round(from: &[f32], to: &mut [bf16]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = rounded(from);
        }
    }
}

/// One f32 as the nearest bf16, even of equals; NaN stays NaN.
#[inline(always)]
pub(super) fn rounded(v: f32) -> bf16 {
    let bits = v.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // Adding could carry a NaN's payload away; its quiet bit keeps it one.
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if v.is_nan() { quiet } else { nearest } as u16)
}

/// Lets `f` change a run of any length in f32, block by block.
#[inline(always)]
pub(super) fn lift<T: Element>(out: &mut [T], mut f: impl FnMut(&mut [f32])) {
    if T::DTYPE == DType::F32 {
        return T::update(out, &mut [], f);
    }
    let mut scratch = [0.0; BLOCK];
    for out in out.chunks_mut(BLOCK) {
        T::update(out, &mut scratch, &mut f);
    }
}

/// As [`lift`], beside the matching run of another map.
#[inline(always)]
pub(super) fn lift1<T: Element, A: Element>(
    out: &mut [T],
    a: &[A],
    mut f: impl FnMut(&mut [f32], &[f32]),
) {
    if T::DTYPE == DType::F32 && A::DTYPE == DType::F32 {
        return T::update(out, &mut [], |out| f(out, A::read(a, &mut [])));
    }
    let mut scratch = [[0.0; BLOCK]; 2];
    let [s, t] = &mut scratch;
    for (out, a) in out.chunks_mut(BLOCK).zip(a.chunks(BLOCK)) {
        let a = A::read(a, t);
        T::update(out, s, |out| f(out, a));
    }
}

/// As [`lift`], beside the matching runs of two other maps.
#[inline(always)]
pub(super) fn lift2<T: Element, A: Element, B: Element>(
    out: &mut [T],
    a: &[A],
    b: &[B],
    mut f: impl FnMut(&mut [f32], &[f32], &[f32]),
) {
    if T::DTYPE == DType::F32 && A::DTYPE == DType::F32 && B::DTYPE == DType::F32 {
        return T::update(out, &mut [], |out| {
            f(out, A::read(a, &mut []), B::read(b, &mut []));
        });
    }
    let mut scratch = [[0.0; BLOCK]; 3];
    let [s, t, u] = &mut scratch;
    let inputs = a.chunks(BLOCK).zip(b.chunks(BLOCK));
    for (out, (a, b)) in out.chunks_mut(BLOCK).zip(inputs) {
        let (a, b) = (A::read(a, t), B::read(b, u));
        T::update(out, s, |out| f(out, a, b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bf16 there and back, its neighbours' midpoints, and what the `half` crate says.
    #[test]
    fn rounding_is_nearest_even() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        widen(&all, &mut wide);
        for (half, wide) in all.iter().zip(&wide) {
            assert!(half.to_f32() == *wide || half.is_nan() && wide.is_nan());
        }
        for low in [0u32, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            let between: Vec<f32> = wide
                .iter()
                .map(|v| f32::from_bits(v.to_bits() | low))
                .collect();
            let mut narrow = vec![bf16::ZERO; between.len()];
            round(&between, &mut narrow);
            for (v, got) in between.iter().zip(&narrow) {
                assert_eq!(got.to_bits(), bf16::from_f32(*v).to_bits(), "{v}");
            }
        }
    }

    #[test]
    fn runs_longer_than_a_block_are_handled_whole() {
        let n = 2 * BLOCK + 3;
        let a: Vec<bf16> = (0..n).map(|i| bf16::from_f32((i % 7) as f32)).collect();
        let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32).collect();
        let mut out = vec![bf16::ONE; n];
        lift2(&mut out, &a, &b, |o, a, b| {
            for (o, (a, b)) in o.iter_mut().zip(a.iter().zip(b)) {
                *o += a * b;
            }
        });
        for (i, v) in out.iter().enumerate() {
            assert_eq!(v.to_f32(), 1.0 + ((i % 7) * (i % 5)) as f32);
        }
    }
}

//! A tensor as a view of a storage: offset, sizes and strides, checked when it is made; and its
//! elements in row-major order.

use safetensors::Dtype;

use super::dtype;

/// Dimensions that a tensor may have.
pub(super) const MAX_DIMS: usize = 16;

/// A view of a storage. Every element that it names lies inside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strided {
    /// Which storage.
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements, never negative in PyTorch.
    strides: Vec<usize>,
    /// First element.
    offset: usize,
    /// Elements.
    count: usize,
    /// From the first element to one past the last, in elements.
    span: usize,
}

impl Strided {
    /// A view of `storage`, which holds `room` bytes. What is wrong with it, if it does not fit.
    pub(super) fn new(
        storage: usize,
        room: u64,
        dtype: Dtype,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Self, String> {
        if shape.len() > MAX_DIMS {
            return Err(format!("a tensor of {} dimensions", shape.len()));
        }
        if shape.len() != strides.len() {
            let (n, m) = (shape.len(), strides.len());
            return Err(format!("a tensor of {n} sizes and {m} strides"));
        }
        let Some((count, span)) = extent(&shape, &strides) else {
            return Err(format!("a tensor of impossible size {shape:?}"));
        };
        let size = dtype::bytes(dtype) as u64;
        let end = (offset as u64).checked_add(span as u64);
        let end = end.and_then(|e| e.checked_mul(size));
        // The bytes of the tensor itself must be countable too.
        let own = (count as u64).checked_mul(size);
        match (end, own) {
            (Some(end), Some(_)) if end <= room => Ok(Self {
                storage,
                dtype,
                shape,
                strides,
                offset,
                count,
                span,
            }),
            _ => Err(format!(
                "a tensor of sizes {shape:?}, strides {strides:?} and offset {offset} reaches \
                 beyond its storage of {room} bytes"
            )),
        }
    }

    /// Bytes of all elements.
    pub(super) fn bytes(&self) -> usize {
        self.count * dtype::bytes(self.dtype)
    }

    /// Where its elements lie in the storage: first byte and number of bytes.
    pub(super) fn range(&self) -> (u64, usize) {
        let size = dtype::bytes(self.dtype);
        ((self.offset * size) as u64, self.span * size)
    }

    /// Whether the elements follow one another in row-major order.
    pub(super) fn is_contiguous(&self) -> bool {
        let wanted = row_major(&self.shape);
        let mut dims = self.shape.iter().zip(&self.strides).zip(wanted);
        self.count == 0 || dims.all(|((&size, &stride), wanted)| size == 1 || stride == wanted)
    }

    /// Gathers the elements out of `span`, the bytes of [`Strided::range`], in row-major order.
    pub(super) fn gather(&self, span: &[u8], out: &mut [u8]) {
        let size = dtype::bytes(self.dtype);
        if self.count == 0 {
            return;
        }
        let Some((&inner, outer)) = self.shape.split_last() else {
            out.copy_from_slice(&span[..size]);
            return;
        };
        let step = self.strides[outer.len()];
        let mut index = vec![0; outer.len()];
        for run in out.chunks_exact_mut(inner * size) {
            let at = index.iter().zip(&self.strides).map(|(i, s)| i * s);
            let start: usize = at.sum();
            for (i, element) in run.chunks_exact_mut(size).enumerate() {
                let from = (start + i * step) * size;
                element.copy_from_slice(&span[from..from + size]);
            }
            // The next run: the last index that has not come to its end moves on.
            for (i, &n) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
    }
}

/// Row-major strides of `shape`.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        // Sizes beside a 0 may be anything.
        strides[i - 1] = usize::saturating_mul(strides[i], shape[i].max(1));
    }
    strides
}

/// Elements of a tensor, and elements from its first to one past its last. Sizes beside a 0 must
/// multiply too: what reads the shape later need not look out for them.
fn extent(shape: &[usize], strides: &[usize]) -> Option<(usize, usize)> {
    let mut count = 1usize;
    let mut span = 1usize;
    for (&size, &stride) in shape.iter().zip(strides) {
        let size = size.max(1);
        count = count.checked_mul(size)?;
        span = span.checked_add((size - 1).checked_mul(stride)?)?;
    }
    match shape.contains(&0) {
        true => Some((0, 0)),
        false => Some((count, span)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: usize, shape: &[usize], strides: &[usize]) -> Result<Strided, String> {
        Strided::new(0, 24, Dtype::I16, offset, shape.to_vec(), strides.to_vec())
    }

    fn gathered(view: &Strided) -> Vec<u8> {
        let storage: Vec<u8> = (0..24).collect();
        let (start, len) = view.range();
        let mut out = vec![0; view.bytes()];
        view.gather(&storage[start as usize..start as usize + len], &mut out);
        out
    }

    #[test]
    fn elements_come_in_row_major_order() {
        let plain = view(0, &[3, 4], &[4, 1]).unwrap();
        assert!(plain.is_contiguous());
        assert_eq!(gathered(&plain), (0..24).collect::<Vec<u8>>());
        let turned = view(0, &[4, 3], &[1, 4]).unwrap();
        assert!(!turned.is_contiguous());
        assert_eq!(gathered(&turned)[..8], [0, 1, 8, 9, 16, 17, 2, 3]);
        let spread = view(5, &[2, 3], &[0, 0]).unwrap();
        assert_eq!(gathered(&spread), [10, 11].repeat(6));
        let scalar = view(11, &[], &[]).unwrap();
        assert!(scalar.is_contiguous());
        assert_eq!(gathered(&scalar), [22, 23]);
        assert!(gathered(&view(7, &[2, 0], &[9, 9]).unwrap()).is_empty());
        // A dimension of one element has whatever stride.
        assert!(view(0, &[1, 4], &[999, 1]).unwrap().is_contiguous());
    }

    #[test]
    fn nothing_lies_outside() {
        for (offset, shape, strides) in [
            (1, &[12][..], &[1][..]),
            (0, &[13], &[1]),
            (0, &[2, 2], &[11, 2]),
            (usize::MAX, &[2], &[1]),
            (0, &[2, 2], &[usize::MAX, 1]),
            (0, &[usize::MAX, usize::MAX], &[0, 0]),
            (0, &[usize::MAX], &[0]),
            (0, &[1, 2], &[1]),
            (0, &[0, usize::MAX, usize::MAX], &[1; 3]),
            (0, &[1; 17], &[1; 17]),
            (13, &[0], &[1]),
        ] {
            assert!(view(offset, shape, strides).is_err(), "{shape:?}");
        }
        assert!(view(0, &[2, 2], &[10, 1]).is_ok());
    }
}

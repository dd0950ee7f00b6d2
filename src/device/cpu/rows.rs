//! Operand checks and parallel walks over strided maps, shared by the simple operations.
//!
//! Work is split in chunks whose size depends on the shape alone, so results never depend on the
//! thread count.

use rayon::prelude::*;

use super::super::{Call, Shape, View};
use super::element::Element;
use super::mismatch;
use crate::error::{Error, Result};

/// Elements that one task handles: small enough to stay in a core's own cache.
const TASK_ELEMENTS: usize = 16_384;

/// The first `N` inputs of a call.
pub(super) fn ins<const N: usize>(call: &Call) -> Result<&[View; N]> {
    call.ins.first_chunk().ok_or_else(|| too_few(call, N))
}

/// The first `N` outputs of a call.
pub(super) fn outs<const N: usize>(call: &Call) -> Result<&[View; N]> {
    call.outs.first_chunk().ok_or_else(|| too_few(call, N))
}

fn too_few(call: &Call, need: usize) -> Error {
    let (op, ins, outs) = (call.op.name(), call.ins.len(), call.outs.len());
    Error::internal(format!(
        "{op}: {ins} inputs and {outs} outputs, expected {need}"
    ))
}

/// Fails unless `view` has `shape`.
pub(super) fn want_shape(call: &Call, view: &View, shape: Shape) -> Result<()> {
    if view.shape == shape {
        Ok(())
    } else {
        Err(mismatch(call.op.name(), &format!("{shape:?}"), view))
    }
}

/// Fails unless `view` is a dense vector of `n` elements.
pub(super) fn want_vector(call: &Call, view: &View, n: usize) -> Result<()> {
    if view.elements() == n && view.is_dense() {
        Ok(())
    } else {
        Err(mismatch(
            call.op.name(),
            &format!("a vector of {n} elements"),
            view,
        ))
    }
}

/// Fails when output `out` both shares memory with its input and is added to.
pub(super) fn refuse_accumulate(call: &Call, out: usize, in_place: bool) -> Result<()> {
    if in_place && call.accumulates(out) {
        let op = call.op.name();
        return Err(Error::internal(format!(
            "{op}: output {out} accumulates in place"
        )));
    }
    Ok(())
}

/// Pixels per task for maps of `channels` channels.
pub(super) fn task_pixels(channels: usize) -> usize {
    (TASK_ELEMENTS / channels.max(1)).max(1)
}

/// Channels of pixel `i` of a strided map.
#[inline(always)]
pub(super) fn pixel<'a, T>(data: &'a [T], view: &View, i: usize) -> &'a [T] {
    &data[i * view.ld..][..view.channels()]
}

/// Calls `f(i, channels of pixel i)` for every pixel, in parallel.
pub(super) fn for_pixels<T: Send>(data: &mut [T], view: &View, f: impl Fn(usize, &mut [T]) + Sync) {
    let (ld, c) = (view.ld.max(1), view.channels());
    let n = task_pixels(c);
    data.par_chunks_mut(n * ld)
        .enumerate()
        .for_each(|(task, chunk)| {
            for (i, row) in chunk.chunks_mut(ld).enumerate() {
                f(task * n + i, &mut row[..c]);
            }
        });
}

/// Scratch rows of one task, for the inputs of a pixel.
pub(super) type Scratch<const N: usize> = [Vec<f32>; N];

/// `N` scratch rows for maps of `T` as wide as `view`.
pub(super) fn scratch<T: Element, const N: usize>(view: &View) -> Scratch<N> {
    std::array::from_fn(|_| T::scratch(view.channels()))
}

/// Calls `f(i, channels of pixel i in f32, scratch rows)` for every pixel, in parallel.
pub(super) fn for_rows<T: Element, const N: usize>(
    data: &mut [T],
    view: &View,
    f: impl Fn(usize, &mut [f32], &mut Scratch<N>) + Sync,
) {
    let (ld, c) = (view.ld.max(1), view.channels());
    let n = task_pixels(c);
    data.par_chunks_mut(n * ld)
        .enumerate()
        .for_each(|(task, chunk)| {
            let mut inputs = scratch::<T, N>(view);
            let mut own = T::scratch(c);
            for (i, row) in chunk.chunks_mut(ld).enumerate() {
                T::update(&mut row[..c], &mut own, |row| {
                    f(task * n + i, row, &mut inputs)
                });
            }
        });
}

/// Calls `f` on runs of the map's elements, in parallel: whole tasks when it is dense.
pub(super) fn map<T: Send>(out: &mut [T], ov: &View, f: impl Fn(&mut [T]) + Sync + Send) {
    if ov.is_dense() {
        out.par_chunks_mut(TASK_ELEMENTS).for_each(f);
    } else {
        for_pixels(out, ov, |_, row| f(row));
    }
}

/// Calls `f(out run, a run)` on matching runs of two maps of one shape.
pub(super) fn zip<T: Send, A: Sync>(
    (out, ov): (&mut [T], &View),
    (a, av): (&[A], &View),
    f: impl Fn(&mut [T], &[A]) + Sync,
) {
    if ov.is_dense() && av.is_dense() {
        out.par_chunks_mut(TASK_ELEMENTS)
            .zip(a.par_chunks(TASK_ELEMENTS))
            .for_each(|(o, a)| f(o, a));
    } else {
        for_pixels(out, ov, |i, row| f(row, pixel(a, av, i)));
    }
}

/// Calls `f(out run, a run, b run)` on matching runs of three maps of one shape.
pub(super) fn zip2<T: Send, A: Sync, B: Sync>(
    (out, ov): (&mut [T], &View),
    (a, av): (&[A], &View),
    (b, bv): (&[B], &View),
    f: impl Fn(&mut [T], &[A], &[B]) + Sync,
) {
    if ov.is_dense() && av.is_dense() && bv.is_dense() {
        out.par_chunks_mut(TASK_ELEMENTS)
            .zip(a.par_chunks(TASK_ELEMENTS))
            .zip(b.par_chunks(TASK_ELEMENTS))
            .for_each(|((o, a), b)| f(o, a, b));
    } else {
        for_pixels(out, ov, |i, row| f(row, pixel(a, av, i), pixel(b, bv, i)));
    }
}

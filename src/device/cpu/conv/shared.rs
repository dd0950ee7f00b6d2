//! Memory that the tasks of one call share.

use std::marker::PhantomData;

/// A mutable slice whose disjoint parts several tasks write.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a plain address; those who write through it promise disjointness.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// Address of an element.
    pub(super) fn at(&self, index: usize) -> *mut f32 {
        debug_assert!(index < self.len);
        self.start.wrapping_add(index)
    }

    /// A stretch of the slice.
    ///
    /// # Safety
    /// No other task uses these elements meanwhile.
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.len, "stretch outside the slice");
        // SAFETY: in bounds, and the caller promises that it is not shared.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// One stretch of scratch for each thread of the pool.
pub(super) struct Scratch<'a> {
    all: Shared<'a>,
    each: usize,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(all: &'a mut [f32], each: usize) -> Self {
        Self {
            all: Shared::new(all),
            each,
        }
    }

    /// The calling thread's stretch.
    ///
    /// # Safety
    /// The caller drops it before its thread takes another task: no rayon call in between.
    pub(super) unsafe fn mine(&self) -> &'a mut [f32] {
        let thread = rayon::current_thread_index().unwrap_or(0);
        // SAFETY: threads of a pool have distinct indices.
        unsafe { self.all.slice(thread * self.each, self.each) }
    }
}

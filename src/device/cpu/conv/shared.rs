//! Memory that the tasks of one call share.

use std::marker::PhantomData;

use rayon::prelude::*;

/// A mutable slice whose disjoint parts several tasks write.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a plain address; those who write through it promise disjointness.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// Address of an element.
    pub(super) fn at(&self, index: usize) -> *mut T {
        debug_assert!(index < self.len);
        self.start.wrapping_add(index)
    }

    /// A stretch of the slice.
    ///
    /// # Safety
    /// No other task uses these elements meanwhile.
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
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

    /// Runs tasks `0 .. count`, each with the stretch of the thread that runs it.
    ///
    /// # Safety
    /// `task` makes no rayon call: its thread would take another task, and with it the stretch.
    pub(super) unsafe fn each(&self, count: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
        (0..count).into_par_iter().with_max_len(1).for_each(|i| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            // SAFETY: threads of a pool have distinct indices, and each has one task at a time.
            let mine = unsafe { self.all.slice(thread * self.each, self.each) };
            task(i, mine);
        });
    }
}

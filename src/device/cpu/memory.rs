//! Arenas of the CPU device and typed access to views.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use memmap2::MmapMut;

use super::super::{ArenaId, DType, View, borrowed};
use super::element::Element;
use crate::error::{Error, Result};

/// Memory of an arena.
enum Memory {
    /// An anonymous mapping: zeroed, page-aligned, touched on first use.
    Owned(MmapMut),
    /// Somebody else's, from `base` on.
    Borrowed { base: usize, len: usize },
}

impl Memory {
    fn extent(&self) -> (usize, usize) {
        match self {
            Memory::Owned(map) => (map.as_ptr() as usize, map.len()),
            Memory::Borrowed { base, len } => (*base, *len),
        }
    }
}

/// The arenas of one device.
#[derive(Default)]
pub(super) struct Arenas {
    live: HashMap<u32, Memory>,
    next: u32,
}

impl Arenas {
    pub(super) fn alloc(&mut self, bytes: usize) -> Result<ArenaId> {
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|e| Error::Memory {
            at: "device cpu".into(),
            problem: format!("cannot allocate {bytes} bytes ({e})"),
            mend: "use smaller images, crops or batches, or a machine with more memory".into(),
        })?;
        Ok(self.add(Memory::Owned(map)))
    }

    /// As [`super::Device::adopt`]; the caller keeps the memory as it says there.
    pub(super) fn adopt(&mut self, address: u64, bytes: usize) -> Result<View> {
        let (base, offset) = borrowed::base(address, bytes)?;
        let memory = Memory::Borrowed {
            base: base as usize,
            len: offset + bytes,
        };
        let shape = [1, 1, 1, bytes];
        Ok(View::dense(self.add(memory), offset, shape, DType::U8))
    }

    fn add(&mut self, memory: Memory) -> ArenaId {
        let id = self.next;
        self.next += 1;
        self.live.insert(id, memory);
        ArenaId(id)
    }

    pub(super) fn free(&mut self, arena: ArenaId) {
        self.live.remove(&arena.0);
    }

    /// Pages of the mapping that are in memory, by the kernel's page map.
    pub(super) fn resident_bytes(&self, arena: ArenaId) -> Option<usize> {
        const PAGE: usize = 4096;
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return None;
        }
        let (start, len) = self.live.get(&arena.0)?.extent();
        let (first, count) = (start / PAGE, len.div_ceil(PAGE));
        let mut pagemap = File::open("/proc/self/pagemap").ok()?;
        pagemap.seek(SeekFrom::Start(8 * first as u64)).ok()?;
        let mut entries = vec![0u64; count];
        pagemap
            .read_exact(bytemuck::cast_slice_mut(&mut entries))
            .ok()?;
        // Bit 63: present; bit 62: swapped out.
        Some(PAGE * entries.iter().filter(|&&e| e >> 62 != 0).count())
    }

    /// Base addresses for one call. The caller keeps the arenas alive while it uses them: the
    /// executor owns both the device and the arenas and frees them only between calls.
    pub(super) fn context(&self) -> Ctx {
        let bases = self.live.iter().map(|(&id, m)| (id, m.extent()));
        Ctx {
            bases: bases.collect(),
        }
    }
}

/// Resolves views to slices for the duration of one call.
///
/// Operands of a call do not overlap, except where an operation's documentation allows in-place
/// use; an in-place operation must then go through one mutable slice alone (see [`Ctx::same`]).
pub(super) struct Ctx {
    bases: HashMap<u32, (usize, usize)>,
}

impl Ctx {
    fn resolve(&self, view: &View, dtype: DType) -> Result<*mut u8> {
        let &(base, len) = self
            .bases
            .get(&view.arena.0)
            .ok_or_else(|| Error::internal(format!("no arena {:?}", view.arena)))?;
        let fits = view
            .offset
            .checked_add(view.span_bytes())
            .is_some_and(|end| end <= len);
        if view.dtype != dtype || !fits || !view.offset.is_multiple_of(dtype.bytes()) {
            return Err(Error::internal(format!(
                "view {view:?} does not fit an arena of {len} bytes as {dtype:?}"
            )));
        }
        Ok((base + view.offset) as *mut u8)
    }

    /// The address of a view.
    pub(super) fn address(&self, view: &View) -> Result<u64> {
        Ok(self.resolve(view, view.dtype)? as u64)
    }

    /// The view's elements, gaps of a strided view included (`view.span()` long).
    pub(super) fn f32(&self, view: &View) -> Result<&[f32]> {
        let ptr = self.resolve(view, DType::F32)?;
        // SAFETY: in bounds and aligned (resolve); operands of a call do not overlap.
        Ok(unsafe { std::slice::from_raw_parts(ptr.cast(), view.span()) })
    }

    /// As [`Ctx::f32`], writable.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn f32_mut(&self, view: &View) -> Result<&mut [f32]> {
        let ptr = self.resolve(view, DType::F32)?;
        // SAFETY: as in `f32`; each output of a call is resolved once.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr.cast(), view.span()) })
    }

    /// As [`Ctx::f32`], for a map of either type.
    pub(super) fn map<T: Element>(&self, view: &View) -> Result<&[T]> {
        let ptr = self.resolve(view, T::DTYPE)?;
        // SAFETY: as in `f32`.
        Ok(unsafe { std::slice::from_raw_parts(ptr.cast(), view.span()) })
    }

    /// As [`Ctx::f32_mut`], for a map of either type.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn map_mut<T: Element>(&self, view: &View) -> Result<&mut [T]> {
        let ptr = self.resolve(view, T::DTYPE)?;
        // SAFETY: as in `f32_mut`.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr.cast(), view.span()) })
    }

    /// The view's bytes.
    pub(super) fn u8(&self, view: &View) -> Result<&[u8]> {
        let ptr = self.resolve(view, DType::U8)?;
        // SAFETY: as in `f32`.
        Ok(unsafe { std::slice::from_raw_parts(ptr, view.span()) })
    }

    /// As [`Ctx::u8`], writable.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn u8_mut(&self, view: &View) -> Result<&mut [u8]> {
        let ptr = self.resolve(view, DType::U8)?;
        // SAFETY: as in `f32_mut`.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr, view.span()) })
    }

    /// The view's words.
    pub(super) fn u32(&self, view: &View) -> Result<&[u32]> {
        let ptr = self.resolve(view, DType::U32)?;
        // SAFETY: as in `f32`.
        Ok(unsafe { std::slice::from_raw_parts(ptr.cast(), view.span()) })
    }

    /// As [`Ctx::u32`], writable.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn u32_mut(&self, view: &View) -> Result<&mut [u32]> {
        let ptr = self.resolve(view, DType::U32)?;
        // SAFETY: as in `f32_mut`.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr.cast(), view.span()) })
    }

    /// Whether two views name the same memory (in-place use).
    pub(super) fn same(&self, a: &View, b: &View) -> bool {
        a.arena == b.arena && a.offset == b.offset
    }

    /// The four-word random state.
    pub(super) fn rng_state(&self, view: &View) -> Result<[u32; 4]> {
        let words = self.u32(view)?;
        words
            .first_chunk::<4>()
            .copied()
            .ok_or_else(|| Error::internal("random state has fewer than 4 words"))
    }

    /// Host bytes into a dense view.
    pub(super) fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
        let ptr = self.checked_copy(view, bytes.len())?;
        // SAFETY: the sizes agree (checked_copy) and the host slice is not in an arena.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len()) };
        Ok(())
    }

    /// A dense view to host bytes.
    pub(super) fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
        let ptr = self.checked_copy(view, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(ptr, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn checked_copy(&self, view: &View, len: usize) -> Result<*mut u8> {
        if !view.is_dense() || view.span_bytes() != len {
            return Err(Error::internal(format!(
                "copy of {len} bytes to or from {view:?}"
            )));
        }
        self.resolve(view, view.dtype)
    }
}

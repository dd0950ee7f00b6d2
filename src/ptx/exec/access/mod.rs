//! Loads, stores and atomics, in every state space.

mod atomic;
mod count;
mod global;
mod local;
mod shared;

use super::warp::{ALL, Row, Warp, Wide};
use super::{Common, Stop};
use crate::ptx::memory::{LOCAL_START, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::program::op::{Addr, Base, R, SINK, Space, Ty};
use atomic::waits;
pub use atomic::{atomic, combine};
pub use count::{count_banks, count_sectors};
use global::store_global;
pub use global::{allocation, check_read, load_global, unordered};
use local::{load_local, store_local};
use shared::{load_shared, store_shared};
pub use shared::{shared_address, shared_wrong};

/// The words of up to 32 bytes of each lane.
pub type Words = [Row];

/// The lanes of a mask.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros();
            left &= left - 1;
            lane
        })
    })
}

/// Each lane's address.
#[inline(always)]
pub fn addresses(w: &Warp, common: &Common<'_>, at: Addr) -> Wide {
    let mut out: Wide = [at.offset as u64; 32];
    match at.base {
        Base::None => {}
        Base::R32(r) => {
            // Addresses of 32 bits wrap at 32 bits.
            for (out, base) in out.iter_mut().zip(w.r(common.entry, r)) {
                *out = u64::from(base.wrapping_add(at.offset as u32));
            }
        }
        Base::R64(r) => {
            for (out, base) in out.iter_mut().zip(w.w(common.entry, r)) {
                *out = base.wrapping_add(at.offset as u64);
            }
        }
    }
    out
}

/// The lanes of generic addresses by where they point.
pub struct Windows {
    pub shared: u32,
    pub param: u32,
    pub local: u32,
    pub global: u32,
}

fn windows(addresses: &Wide, active: u32) -> Windows {
    let (mut shared, mut param, mut local) = (0, 0, 0);
    // Most warps have none of these.
    let low = addresses
        .iter()
        .fold(0, |most, address| most | address >> 40);
    if low & 0x7C == 0x7C {
        for lane in lanes(active) {
            let address = addresses[lane as usize];
            let within = |window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
            // A function's parameters live in local memory.
            let own =
                within(PARAM_WINDOW) && address & (WINDOW_BYTES - 1) >= u64::from(LOCAL_START);
            shared |= u32::from(within(SHARED_WINDOW)) << lane;
            local |= u32::from(within(LOCAL_WINDOW) || own) << lane;
            param |= u32::from(within(PARAM_WINDOW) && !own) << lane;
        }
    }
    Windows {
        shared,
        param,
        local,
        global: active & !shared & !param & !local,
    }
}

fn misaligned(lane: u32, what: &str, address: u64, bytes: u32) -> Stop {
    Stop::lane(
        lane,
        format!("{what} {address:#x}, misaligned: not a multiple of {bytes}"),
    )
}

/// An instruction's load.
#[allow(clippy::too_many_arguments)]
pub fn load(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    ty: Ty,
    count: u8,
    d: &[R; 8],
    wide: bool,
    strong: bool,
    at: Addr,
) -> Result<(), Stop> {
    let total = ty.bytes() * u32::from(count);
    // No more rows than the access has words: most have one.
    let (mut one, mut four, mut eight);
    let words: &mut Words = match total {
        0..=4 => {
            one = [[0; 32]];
            &mut one
        }
        5..=16 => {
            four = [[0; 32]; 4];
            &mut four
        }
        _ => {
            eight = [[0; 32]; 8];
            &mut eight
        }
    };
    match space {
        Space::Param if at.base == Base::None => {
            let value = param(common, at.offset as u64, total).map_err(Stop::warp)?;
            for (row, value) in words.iter_mut().zip(value) {
                *row = [value; 32];
            }
        }
        _ => {
            let addresses = addresses(w, common, at);
            fetch(w, common, active, space, addresses, total, strong, words)?;
        }
    }
    let size = ty.bytes();
    for (k, d) in d.iter().enumerate().take(usize::from(count)) {
        if *d == SINK {
            continue;
        }
        if size == 8 {
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = u64::from(words[2 * k][i]) | u64::from(words[2 * k + 1][i]) << 32;
            }
            w.put_wide(*d, &out, active);
            continue;
        }
        let byte = k as u32 * size;
        let row = &words[byte as usize / 4];
        let value = match size {
            4 => *row,
            _ => {
                let (shift, spare) = (8 * (byte % 4), 32 - 8 * size);
                match ty.signed() {
                    true => row.map(|x| ((x >> shift << spare) as i32 >> spare) as u32),
                    false => row.map(|x| x >> shift << spare >> spare),
                }
            }
        };
        match wide {
            false => w.put(*d, &value, active),
            true if ty.signed() => w.put_wide(*d, &value.map(|x| x as i32 as u64), active),
            true => w.put_wide(*d, &value.map(u64::from), active),
        }
    }
    Ok(())
}

/// The words of each lane's access, wherever it points.
#[allow(clippy::too_many_arguments)]
pub fn fetch(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    mut addresses: Wide,
    total: u32,
    strong: bool,
    words: &mut Words,
) -> Result<(), Stop> {
    match space {
        Space::Param => {
            let far = |lane: u32| addresses[lane as usize] >= u64::from(LOCAL_START);
            let local = lanes(active).filter(|l| far(*l)).fold(0, |m, l| m | 1 << l);
            load_local(w, local, &addresses, total, words)?;
            load_param(common, active & !local, &addresses, total, words)
        }
        Space::Local => load_local(w, active, &addresses, total, words),
        Space::Shared => load_shared(w, common, active, &addresses, total, words),
        Space::Global => load_global(w, common, active, &addresses, total, strong, words),
        Space::Generic => {
            let at = windows(&addresses, active);
            for lane in lanes(active & !at.global) {
                addresses[lane as usize] &= WINDOW_BYTES - 1;
            }
            if at.shared != 0 {
                load_shared(w, common, at.shared, &addresses, total, words)?;
            }
            if at.param != 0 {
                load_param(common, at.param, &addresses, total, words)?;
            }
            if at.local != 0 {
                load_local(w, at.local, &addresses, total, words)?;
            }
            match at.global {
                0 => Ok(()),
                global => load_global(w, common, global, &addresses, total, strong, words),
            }
        }
    }
}

/// Bytes of the parameter block as words.
fn param(common: &Common<'_>, offset: u64, total: u32) -> Result<[u32; 8], String> {
    let params = common.launch.params;
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|start| params.get(start..start.checked_add(total as usize)?));
    let Some(bytes) = bytes else {
        return Err(format!(
            "read of parameter byte {offset}, out of bounds: there are {}",
            params.len()
        ));
    };
    let mut out = [0; 8];
    for (i, byte) in bytes.iter().enumerate() {
        out[i / 4] |= u32::from(*byte) << (8 * (i % 4));
    }
    Ok(out)
}

fn load_param(
    common: &Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &mut Words,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(total)) {
            return Err(misaligned(lane, "read of parameter", address, total));
        }
        let value = param(common, address, total).map_err(|what| Stop::lane(lane, what))?;
        for (row, value) in words.iter_mut().zip(value) {
            row[lane as usize] = value;
        }
    }
    Ok(())
}

/// An instruction's store.
#[allow(clippy::too_many_arguments)]
pub fn store(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    ty: Ty,
    count: u8,
    s: &[R; 8],
    wide: bool,
    strong: bool,
    at: Addr,
) -> Result<(), Stop> {
    let size = ty.bytes();
    let total = size * u32::from(count);
    let (mut one, mut four, mut eight);
    let words: &mut Words = match total {
        0..=4 => {
            one = [[0; 32]];
            &mut one
        }
        5..=16 => {
            four = [[0; 32]; 4];
            &mut four
        }
        _ => {
            eight = [[0; 32]; 8];
            &mut eight
        }
    };
    for (k, s) in s.iter().enumerate().take(usize::from(count)) {
        if size == 8 {
            let row = w.w(common.entry, *s);
            for i in 0..32 {
                words[2 * k][i] = row[i] as u32;
                words[2 * k + 1][i] = (row[i] >> 32) as u32;
            }
            continue;
        }
        let row: Row = if wide {
            w.w(common.entry, *s).map(|x| x as u32)
        } else {
            *w.r(common.entry, *s)
        };
        let byte = k as u32 * size;
        let place = &mut words[byte as usize / 4];
        if size == 4 {
            *place = row;
        } else {
            let mask = (1 << (8 * size)) - 1;
            for i in 0..32 {
                place[i] |= (row[i] & mask) << (8 * (byte % 4));
            }
        }
    }
    let addresses = addresses(w, common, at);
    put(w, common, active, space, addresses, total, strong, words)
}

/// Stores the words of each lane, wherever it points.
#[allow(clippy::too_many_arguments)]
pub fn put(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    mut addresses: Wide,
    total: u32,
    strong: bool,
    words: &Words,
) -> Result<(), Stop> {
    match space {
        Space::Shared => store_shared(w, common, active, &addresses, total, words),
        Space::Global => store_global(w, common, active, &addresses, total, strong, words),
        Space::Local => store_local(w, active, &addresses, total, words),
        Space::Param => Err(Stop::warp("a store to a parameter")),
        Space::Generic => {
            let at = windows(&addresses, active);
            if at.param != 0 {
                return Err(Stop::warp("a store to a parameter"));
            }
            for lane in lanes(active & !at.global) {
                addresses[lane as usize] &= WINDOW_BYTES - 1;
            }
            if at.shared != 0 {
                store_shared(w, common, at.shared, &addresses, total, words)?;
            }
            if at.local != 0 {
                store_local(w, at.local, &addresses, total, words)?;
            }
            match at.global {
                0 => Ok(()),
                global => store_global(w, common, global, &addresses, total, strong, words),
            }
        }
    }
}

/// The word with the bytes from `shift` on replaced by the lowest of `value`.
fn replace(old: u32, value: u32, bytes: u32, shift: u32) -> u32 {
    let mask = ((1u64 << (8 * bytes)) - 1) as u32;
    old & !(mask << shift) | (value & mask) << shift
}

/// The mask of every lane, for instructions that the whole warp takes part in.
pub fn whole(w: &Warp, active: u32, what: &str) -> Result<(), Stop> {
    if active == ALL {
        return Ok(());
    }
    let missing = (!active).trailing_zeros();
    Err(Stop::warp(format!(
        "{what} by part of a warp: lane {missing} {}",
        absence(w, missing)
    )))
}

/// Why a lane is not there.
pub fn absence(w: &Warp, lane: u32) -> &'static str {
    if w.born >> lane & 1 == 0 {
        "does not exist"
    } else if w.alive >> lane & 1 == 0 {
        "has exited"
    } else {
        "is elsewhere: the warp has diverged"
    }
}

//! What only sm_90 does: wgmma, mbarriers, bulk copies, and their order with everything else.
//!
//! Asynchronous work has agents of its own in the block's clocks, behind the warps': one for each
//! warpgroup's wgmma, for the bulk stores of a warp, for each mbarrier that copies complete on. An
//! agent's accesses are stamped with its time; waiting teaches a warp that time. So an access that
//! nobody waited for is a data race like any other, and is reported as one.
//!
//! Copies fly until somebody needs them or, in random schedules, until chance lands them: as late
//! as possible shows what was not waited for, early what was reused too soon.

mod bulk;
mod mbarrier;
mod tensormap;
mod wgmma;

use std::collections::BTreeMap;

use super::access::{absence, addresses, whole};
use super::warp::{Status, Warp};
use super::{BlockFault, Common, Next, Stop};
use crate::ptx::memory::clocks::FIRST_COPIER;
use crate::ptx::memory::{SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::options::Schedule;
use crate::ptx::program::hopper::HopperOp;
use crate::ptx::program::op::Addr;

/// Agents of wgmma: one per warpgroup.
const WGMMA_AGENT: usize = FIRST_COPIER;
/// Agents of bulk stores: the warp's number modulo their number. Where two share one, a race may be
/// missed; none is invented.
const STORE_AGENT: usize = WGMMA_AGENT + 8;
const STORE_AGENTS: usize = 8;
/// Agents of mbarriers, in the order of their initialisation; the same holds where they share.
const BARRIER_AGENT: usize = STORE_AGENT + STORE_AGENTS;
const BARRIER_AGENTS: usize = crate::ptx::memory::clocks::AGENTS - BARRIER_AGENT;

/// What a block's asynchronous work is doing.
#[derive(Default)]
pub struct State {
    barriers: BTreeMap<u32, mbarrier::Side>,
    groups: Vec<wgmma::Group>,
    loads: Vec<bulk::Load>,
    stores: bulk::Stores,
    waits: Vec<Option<Wait>>,
    /// A phase completed or a wgmma ran: waiting warps may go on.
    changed: bool,
    /// Nothing else can run.
    idle: bool,
    /// Those that asked have had their turn since a copy landed.
    gave_turn: bool,
    /// Questions after incomplete phases since one completed.
    asked: u32,
    chance: u64,
}

/// One in so many instructions of sm_90 lands a copy, by the block's chance.
const LANDS: [usize; 2] = [4, 64];

/// So many questions in vain, and the phase never completes.
const PATIENCE: u32 = 1 << 20;

/// What a warp waits for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// The phase of this parity of the mbarrier.
    Phase { at: u32, parity: bool },
    /// So many wgmma of its warpgroup.
    Wgmma { count: u64 },
    /// Its turn: it asked for a phase that is not complete, and will ask again.
    Turn,
}

impl State {
    /// Whether waiting warps may have got what they wait for since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether the warp runs an instruction again that it waited in.
    pub fn takes_again(&mut self, warp: usize) -> bool {
        self.waits
            .get_mut(warp)
            .is_some_and(|wait| wait.take().is_some_and(|wait| !matches!(wait, Wait::Turn)))
    }

    fn wait(&mut self, warp: &mut Warp, wait: Wait) {
        let at = warp.index as usize;
        if self.waits.len() <= at {
            self.waits.resize(at + 1, None);
        }
        self.waits[at] = Some(wait);
        warp.status = Status::Blocked;
    }
}

/// A draw below `n`, from the launch's seed and the block.
fn draw(common: &mut Common<'_>, n: usize) -> usize {
    let state = &mut common.hopper.chance;
    if *state == 0 {
        *state = common
            .launch
            .options
            .seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ u64::from(common.block) << 1
            | 1;
    }
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % n.max(1) as u64) as usize
}

/// Executes an instruction of a warp.
pub fn step(
    op: &HopperOp,
    warps: &mut [Warp],
    w: usize,
    common: &mut Common<'_>,
    active: u32,
) -> Result<Next, Stop> {
    // Half of the blocks see their copies early, the others late.
    let options = &common.launch.options;
    let chance = LANDS[((options.seed ^ u64::from(common.block)) % 2) as usize];
    if options.schedule != Schedule::Sequential && draw(common, chance) == 0 {
        bulk::progress(common).map_err(|fault| Stop::warp(fault.what))?;
    }
    let warp = &mut warps[w];
    match op {
        HopperOp::WgmmaFence => {
            whole(warp, active, "wgmma.fence")?;
            wgmma::fence(warp, common)?;
        }
        HopperOp::WgmmaCommit => {
            whole(warp, active, "wgmma.commit_group")?;
            wgmma::commit(warp, common)?;
        }
        HopperOp::WgmmaWait(left) => {
            whole(warp, active, "wgmma.wait_group")?;
            return wgmma::wait(warp, common, *left);
        }
        HopperOp::Wgmma(op) => {
            whole(warp, active, "wgmma.mma_async")?;
            wgmma::issue(warps, w, common, op)?;
        }
        HopperOp::Mbarrier { at, what } => return mbarrier::step(warp, common, active, *at, what),
        HopperOp::PendingCount { d, token } => {
            mbarrier::pending_count(warp, common, active, *d, *token)?
        }
        HopperOp::CpArrive { at, noinc } => {
            mbarrier::copies_arrive(warp, common, active, *at, *noinc)?
        }
        HopperOp::BulkLoad {
            to,
            from,
            bytes,
            barrier,
        } => {
            bulk::load(warp, common, active, *to, *from, *bytes, *barrier)?;
        }
        HopperOp::TensorLoad {
            to,
            map,
            coordinates,
            im2col,
            offsets,
            barrier,
        } => {
            bulk::tensor_load(
                warp,
                common,
                active,
                *to,
                *map,
                coordinates,
                *im2col,
                offsets,
                *barrier,
            )?;
        }
        HopperOp::BulkStore {
            to,
            from,
            bytes,
            reduce,
        } => {
            bulk::store(warp, common, active, *to, *from, *bytes, *reduce)?;
        }
        HopperOp::TensorStore {
            map,
            coordinates,
            from,
            reduce,
        } => {
            bulk::tensor_store(warp, common, active, *map, coordinates, *from, *reduce)?;
        }
        HopperOp::BulkCommit => bulk::commit(warp, common, active),
        HopperOp::BulkWait { left, read } => bulk::wait(warp, common, active, *left, *read)?,
        HopperOp::Elect { d, p, mask } => {
            let mask = warp.r(common.entry, *mask)[active.trailing_zeros() as usize];
            if mask & !active != 0 || mask == 0 {
                let lane = (mask & !active).trailing_zeros().min(31);
                let words = format!(
                    "elect.sync names lane {lane}, which {}",
                    absence(warp, lane)
                );
                return Err(Stop::warp(words));
            }
            let leader = mask.trailing_zeros();
            warp.put(*d, &[leader; 32], active);
            warp.put_pred(*p, 1 << leader, active);
        }
        HopperOp::SetMaxNreg => whole(warp, active, "setmaxnreg")?,
        HopperOp::ProxyFence => common.clocks.fence_proxy(w),
        HopperOp::Nothing => {}
        HopperOp::MapReplace {
            at,
            global,
            field,
            dimension,
            value,
            wide,
        } => {
            let of = tensormap::Replacement {
                at: *at,
                global: *global,
                field: *field,
                dimension: *dimension,
                value: *value,
                wide: *wide,
            };
            tensormap::replace(warp, common, active, &of)?;
        }
        HopperOp::MapPublish { to, from } => {
            tensormap::publish(warp, common, active, *to, *from)?;
        }
        HopperOp::Policy { d } => warp.put_wide(*d, &[0; 32], active),
        HopperOp::Mapa32 { d, a } => {
            let row = *warp.r(common.entry, *a);
            warp.put(*d, &row, active);
        }
        HopperOp::Mapa64 { d, a } => {
            let row = *warp.w(common.entry, *a);
            warp.put_wide(*d, &row, active);
        }
    }
    Ok(Next::On)
}

/// Whether a warp that waits may go on.
pub fn may_go(common: &Common<'_>, warp: &Warp) -> bool {
    let state = &common.hopper;
    match state.waits.get(warp.index as usize).copied().flatten() {
        None => true,
        Some(Wait::Turn) => state.idle,
        Some(Wait::Phase { at, parity }) => mbarrier::is_complete(common, at, parity),
        Some(Wait::Wgmma { count }) => wgmma::performed(common, warp) >= count,
    }
}

/// Nothing can run: those that only asked get their turn, then one copy lands, and so on. False
/// where there is neither.
pub fn relieve(common: &mut Common<'_>) -> Result<bool, BlockFault> {
    let asking = common
        .hopper
        .waits
        .iter()
        .any(|wait| matches!(wait, Some(Wait::Turn)));
    if asking && !common.hopper.gave_turn {
        common.hopper.gave_turn = true;
        common.hopper.idle = true;
        return Ok(true);
    }
    let landed = bulk::progress(common)?;
    common.hopper.gave_turn = !landed;
    common.hopper.idle = asking && !landed;
    Ok(landed || asking)
}

/// What a waiting warp waits for, for a report.
pub fn describe(common: &Common<'_>, warp: &Warp) -> String {
    match common
        .hopper
        .waits
        .get(warp.index as usize)
        .copied()
        .flatten()
    {
        Some(Wait::Phase { at, parity }) => {
            let now = mbarrier::state(common, at).map_or_else(|e| e.to_string(), |b| b.to_string());
            format!(
                "waits for the phase of parity {} of the mbarrier at {at:#x}, which {now}",
                u8::from(parity)
            )
        }
        Some(Wait::Wgmma { .. }) => {
            "waits for a wgmma that other warps of its warpgroup have not issued".into()
        }
        _ => "waits for its turn".into(),
    }
}

/// Words for an agent that is no warp.
pub fn agent(agent: u32) -> String {
    match agent as usize {
        at if at < STORE_AGENT => format!("wgmma of warpgroup {}", at - WGMMA_AGENT.min(at)),
        at if at < BARRIER_AGENT => "a bulk store".into(),
        _ => "a copy that an mbarrier waits for".into(),
    }
}

/// The block ends.
pub fn end(common: &mut Common<'_>) -> Result<(), String> {
    bulk::end(common)?;
    wgmma::end(common)
}

pub use wgmma::touch;

/// One lane's address in shared memory, of a 32-bit or generic address.
fn shared_at(
    warp: &Warp,
    common: &Common<'_>,
    lane: u32,
    what: &str,
    at: Addr,
    bytes: u32,
    align: u32,
) -> Result<u32, Stop> {
    let mut address = addresses(warp, common, at)[lane as usize];
    if address.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES {
        address &= WINDOW_BYTES - 1;
    }
    let at = super::access::shared_address(common, lane, what, address, 1)?;
    if !common.shared.holds(at, bytes) {
        let end = common.shared.end();
        let words = format!(
            "{what} {bytes} bytes at shared address {at:#x}, out of bounds: shared memory ends at {end:#x}"
        );
        return Err(Stop::lane(lane, words));
    }
    if at % align != 0 {
        return Err(Stop::lane(
            lane,
            format!("{what} shared address {at:#x}, misaligned: not a multiple of {align}"),
        ));
    }
    Ok(at)
}

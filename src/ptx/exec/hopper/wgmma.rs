//! wgmma: the four warps of a warpgroup issue together, and nobody touches the registers before the
//! wait.
//!
//! A warp's `wgmma.mma_async` is noted; when the fourth warp has issued it, it runs. What it reads of
//! shared memory counts as read by the warpgroup's agent, until each warp's `wait_group`.

use std::collections::{BTreeMap, VecDeque};

use super::super::access::shared_wrong;
use super::super::warp::{Row, Warp};
use super::super::{Common, Next, Stop};
use super::{WGMMA_AGENT, Wait};
use crate::ptx::memory::clocks::{AGENTS, Vector, join};
use crate::ptx::memory::shared::{Wrong, stamp};
use crate::ptx::program::hopper::{Left, Wgmma};
use crate::ptx::program::op::{Op, R};
use crate::ptx::tensor::descriptor::{Descriptor, Major};

/// A warpgroup's wgmma.
#[derive(Default)]
pub struct Group {
    warps: [PerWarp; 4],
    /// Issued by some, not yet by all four.
    queue: VecDeque<Pending>,
    /// Those that ran.
    performed: u64,
}

#[derive(Default)]
struct PerWarp {
    issued: u64,
    /// What was issued at each commit.
    commits: VecDeque<u64>,
    committed: u64,
    /// Virtual registers that wgmma uses, by number.
    rows: BTreeMap<u32, Use>,
    fenced: bool,
}

/// How wgmma uses a register.
#[derive(Clone, Copy, Default)]
struct Use {
    /// Number + 1 of the wgmma that has it as an accumulator; 0: none.
    sum: u64,
    /// The same as part of A.
    left: u64,
    /// Columns and place of an accumulator: another wgmma of the same shape may go on with it.
    place: (u32, u32),
    /// Touched by another instruction since the last wgmma.fence.
    dirty: bool,
}

struct Pending {
    pc: u32,
    left: Option<u64>,
    right: u64,
    scale_d: bool,
    arrived: u8,
    /// A's registers of each warp.
    registers: [Option<Vec<u32>>; 4],
    seen: Vector,
    fenced: Vector,
}

fn group<'c>(warp: &Warp, common: &'c mut Common<'_>) -> Result<&'c mut Group, Stop> {
    let (index, warps) = (
        warp.index as usize / 4,
        common.launch.block.iter().product::<u32>() / 32,
    );
    if (index as u32 + 1) * 4 > warps {
        return Err(Stop::warp("wgmma needs a warpgroup: 4 whole warps"));
    }
    let groups = &mut common.hopper.groups;
    if groups.len() <= index {
        groups.resize_with(index + 1, Group::default);
    }
    Ok(&mut groups[index])
}

fn own<'c>(warp: &Warp, common: &'c mut Common<'_>) -> Result<&'c mut PerWarp, Stop> {
    Ok(&mut group(warp, common)?.warps[warp.index as usize % 4])
}

/// `wgmma.fence`.
pub fn fence(warp: &Warp, common: &mut Common<'_>) -> Result<(), Stop> {
    let own = own(warp, common)?;
    own.fenced = true;
    own.rows.values_mut().for_each(|row| row.dirty = false);
    Ok(())
}

/// `wgmma.commit_group`.
pub fn commit(warp: &Warp, common: &mut Common<'_>) -> Result<(), Stop> {
    let own = own(warp, common)?;
    own.commits.push_back(own.issued);
    own.committed = own.issued;
    Ok(())
}

/// How many wgmma of the warp's group have run.
pub fn performed(common: &Common<'_>, warp: &Warp) -> u64 {
    common
        .hopper
        .groups
        .get(warp.index as usize / 4)
        .map_or(0, |group| group.performed)
}

/// `wgmma.wait_group`.
pub fn wait(warp: &mut Warp, common: &mut Common<'_>, left: u32) -> Result<Next, Stop> {
    let group = group(warp, common)?;
    let performed = group.performed;
    let own = &mut group.warps[warp.index as usize % 4];
    let Some(last) = own.commits.len().checked_sub(left as usize + 1) else {
        return Ok(Next::On);
    };
    let count = own.commits[last];
    if performed < count {
        common.hopper.wait(warp, Wait::Wgmma { count });
        return Ok(Next::Stay);
    }
    own.commits.drain(..=last);
    for row in own.rows.values_mut() {
        if row.sum <= count {
            row.sum = 0;
        }
        if row.left <= count {
            row.left = 0;
        }
    }
    let seen = &mut common.clocks.seen[warp.index as usize][WGMMA_AGENT + warp.index as usize / 4];
    *seen = (*seen).max(count as u32);
    Ok(Next::On)
}

/// An instruction other than wgmma touches registers that wgmma uses. False where it must wait.
///
/// Triton copies accumulators before it waits for them, and ptxas then waits at the copy. So does
/// the machine; whatever else reads them is reported.
pub fn touch(warp: &mut Warp, common: &mut Common<'_>, pc: u32) -> Result<bool, Stop> {
    let touches = &common.entry.touches[pc as usize];
    if touches.is_empty() {
        return Ok(true);
    }
    let op = &common.entry.code[pc as usize].op;
    let copies = matches!(op, Op::Mov32 { .. } | Op::Unpack32 { .. });
    let groups = &mut common.hopper.groups;
    let Some(group) = groups.get_mut(warp.index as usize / 4) else {
        return Ok(true);
    };
    let performed = group.performed;
    let own = &mut group.warps[warp.index as usize % 4];
    for touch in touches {
        let row = own.rows.entry(touch.register).or_default();
        if copies && !touch.written && row.sum != 0 {
            let count = row.sum;
            if performed < count {
                common.hopper.wait(warp, Wait::Wgmma { count });
                return Ok(false);
            }
            continue;
        }
        if row.sum != 0 {
            let did = if touch.written { "written" } else { "read" };
            return Err(Stop::warp(format!(
                "an accumulator of wgmma is {did} before wgmma.wait_group has waited for it"
            )));
        }
        if row.left != 0 && touch.written {
            return Err(Stop::warp(
                "a register of A is written before wgmma.wait_group has waited for the wgmma that reads it",
            ));
        }
        row.dirty |= touch.written || touch.sum;
    }
    Ok(true)
}

/// A warp issues `wgmma.mma_async`; the fourth of its group runs it.
pub fn issue(
    warps: &mut [Warp],
    w: usize,
    common: &mut Common<'_>,
    op: &Wgmma,
) -> Result<(), Stop> {
    let warp = &warps[w];
    let entry = common.entry;
    let uniform = |row: R, what: &str| {
        let row = warp.w(entry, row);
        match row.iter().all(|value| *value == row[0]) {
            true => Ok(row[0]),
            false => Err(Stop::warp(format!("{what} differs between lanes"))),
        }
    };
    let right = uniform(op.b, "the descriptor of B")?;
    let (left, registers) = match &op.a {
        Left::Shared(row) => (Some(uniform(*row, "the descriptor of A")?), None),
        Left::Registers(rows) => {
            let rows: Vec<Row> = rows.iter().map(|row| *warp.r(entry, *row)).collect();
            (None, Some(op.shape.a_from_registers(&rows)))
        }
    };
    let scale_d = match warp.p(op.scale_d) {
        0 => false,
        u32::MAX => true,
        _ => return Err(Stop::warp("scale-d differs between lanes")),
    };
    let mut knows = common.clocks.seen[w];
    knows[w] = common.clocks.now[w];
    let fenced = common.clocks.fenced[w];
    let pc = warp.pc;
    let group = group(warp, common)?;
    let own = &mut group.warps[w % 4];
    if !own.fenced {
        return Err(Stop::warp(
            "the first wgmma.mma_async has no wgmma.fence before it",
        ));
    }
    let number = own.issued + 1;
    for (i, register) in op.d_registers.iter().enumerate() {
        let used = own.rows.entry(*register).or_default();
        let place = (op.shape.n as u32, i as u32);
        if used.dirty {
            return Err(Stop::warp(
                "an accumulator was touched since the last wgmma.fence",
            ));
        }
        if (used.sum != 0 && used.place != place) || used.left != 0 {
            return Err(Stop::warp(
                "an accumulator is in flight in a wgmma of another shape, or as A",
            ));
        }
        (used.sum, used.place) = (number, place);
    }
    for register in &op.a_registers {
        let used = own.rows.entry(*register).or_default();
        if used.dirty {
            return Err(Stop::warp(
                "a register of A was written since the last wgmma.fence",
            ));
        }
        if used.sum != 0 {
            return Err(Stop::warp("a register of A is an accumulator in flight"));
        }
        used.left = number;
    }
    own.issued = number;
    let at = (number - 1 - group.performed) as usize;
    if at == group.queue.len() {
        let registers = [None, None, None, None];
        group.queue.push_back(Pending {
            pc,
            left,
            right,
            scale_d,
            arrived: 0,
            registers,
            seen: [0; AGENTS],
            fenced: [0; AGENTS],
        });
    }
    let pending = &mut group.queue[at];
    if pending.pc != pc
        || pending.left != left
        || pending.right != right
        || pending.scale_d != scale_d
    {
        return Err(Stop::warp(
            "the warps of a warpgroup issue different wgmma (instruction, descriptors or scale-d)",
        ));
    }
    pending.arrived |= 1 << (w % 4);
    pending.registers[w % 4] = registers;
    join(&mut pending.seen, &knows);
    join(&mut pending.fenced, &fenced);
    if pending.arrived == 15 {
        // Warps issue in order, so the one that all have issued is the first.
        if let Some(pending) = group.queue.pop_front() {
            group.performed += 1;
            let time = group.performed as u32;
            run(warps, w / 4, common, op, pending, time)?;
            common.hopper.changed = true;
        }
    }
    Ok(())
}

fn run(
    warps: &mut [Warp],
    group: usize,
    common: &mut Common<'_>,
    op: &Wgmma,
    pending: Pending,
    time: u32,
) -> Result<(), Stop> {
    let mark = stamp((WGMMA_AGENT + group) as u32, 0, time, pending.pc);
    let k = op.shape.k();
    let b = fetch(
        common,
        op,
        &pending,
        mark,
        "B",
        pending.right,
        op.shape.b_major,
        op.shape.n,
    )?;
    let a = match pending.left {
        Some(bits) => Some(fetch(
            common,
            op,
            &pending,
            mark,
            "A",
            bits,
            op.shape.a_major,
            64,
        )?),
        None => None,
    };
    if !common.launch.options.products {
        return Ok(());
    }
    let model = common.launch.options.mma;
    for (i, warp) in warps[4 * group..4 * group + 4].iter_mut().enumerate() {
        let rows = match (&a, &pending.registers[i]) {
            (Some(a), _) => &a[16 * k * i..][..16 * k],
            (None, Some(registers)) => registers.as_slice(),
            (None, None) => continue,
        };
        let mut d: Vec<Row> = op.d.iter().map(|row| warp.narrow[*row as usize]).collect();
        op.shape.execute(model, rows, &b, pending.scale_d, &mut d);
        for (row, value) in op.d.iter().zip(d) {
            warp.narrow[*row as usize] = value;
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn fetch(
    common: &mut Common<'_>,
    op: &Wgmma,
    pending: &Pending,
    mark: u64,
    name: &str,
    bits: u64,
    major: Major,
    lines: usize,
) -> Result<Vec<u32>, Stop> {
    let descriptor = Descriptor::decode(bits).map_err(|e| Stop::warp(format!("{name}: {e}")))?;
    let result = op.shape.fetch(descriptor, major, lines, |address| {
        // Descriptors have 18 bits of address.
        let address = address & 0x3_FFFF;
        if !common.shared.holds(address, 16) {
            return Err((address, Wrong::Nothing));
        }
        let index = address as usize / 4;
        for word in 0..4 {
            let at = address + 4 * word;
            common
                .shared
                .read_async(at, &pending.seen, &pending.fenced, mark)
                .map_err(|wrong| (at, wrong))?;
        }
        Ok(std::array::from_fn(|i| common.shared.word(index + i)))
    });
    result.map_err(|(at, wrong)| {
        Stop::warp(shared_wrong(
            common,
            &format!("wgmma's read of {name} at"),
            at,
            wrong,
        ))
    })
}

/// The block ends.
pub fn end(common: &Common<'_>) -> Result<(), String> {
    match common
        .hopper
        .groups
        .iter()
        .position(|group| !group.queue.is_empty())
    {
        Some(at) => Err(format!(
            "the block ends while a wgmma of warpgroup {at} has not been issued by all four warps"
        )),
        None => Ok(()),
    }
}

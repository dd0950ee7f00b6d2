//! The CPU in the place of a kernel that failed its check: downloads what a call reads, runs the very
//! call on the CPU device, uploads what it wrote. Correct on any hardware, and slow.

use std::ops::Range;

use super::GpuDevice;
use crate::device::cpu::CpuDevice;
use crate::device::{ALIGN, ArenaId, Call, DType, Device, View};
use crate::error::{Error, Result};

/// Bytes of one arena that a call touches, and where a copy of them lies.
struct Segment {
    arena: ArenaId,
    bytes: Range<usize>,
    /// Offset in the copy; as far off alignment as the original.
    at: usize,
}

/// The segments of `views`, overlapping ones as one, and the size of their copy.
fn segments<'a>(views: impl Iterator<Item = &'a View>) -> (Vec<Segment>, usize) {
    let mut ranges: Vec<(u32, Range<usize>)> = views
        .map(|v| (v.arena.0, v.offset..v.offset + v.span_bytes()))
        .collect();
    ranges.sort_by_key(|(arena, bytes)| (*arena, bytes.start));
    let (mut segments, mut end) = (Vec::<Segment>::new(), 0usize);
    for (arena, bytes) in ranges {
        if let Some(last) = segments.last_mut()
            && last.arena.0 == arena
            && bytes.start <= last.bytes.end
        {
            let longer = bytes.end.saturating_sub(last.bytes.end);
            last.bytes.end += longer;
            end += longer;
            continue;
        }
        let at = end.next_multiple_of(ALIGN) + bytes.start % ALIGN;
        end = at + bytes.len();
        segments.push(Segment {
            arena: ArenaId(arena),
            bytes,
            at,
        });
    }
    (segments, end)
}

/// An arena of the CPU device, freed on drop.
struct Copy<'a> {
    cpu: &'a CpuDevice,
    id: ArenaId,
}

impl<'a> Copy<'a> {
    fn new(cpu: &'a CpuDevice, bytes: usize) -> Result<Self> {
        let id = cpu.alloc(bytes)?;
        Ok(Self { cpu, id })
    }

    fn bytes(&self, at: usize, count: usize) -> View {
        View::dense(self.id, at, [1, 1, 1, count], DType::U8)
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.cpu.free(self.id);
    }
}

/// Runs `call` of `gpu` on `cpu`. Gaps between an output's pixels keep what they hold when the call is
/// run: a stream's order is that of the calls.
pub(super) fn run(gpu: &GpuDevice, cpu: &CpuDevice, call: &Call) -> Result<()> {
    let (segments, bytes) = segments(call.ins.iter().chain(&call.outs));
    let copy = Copy::new(cpu, bytes)?;
    for segment in &segments {
        // Outputs, too: some are added to, and the gaps in them are others'.
        let count = segment.bytes.len();
        if count == 0 {
            continue;
        }
        let mut host = vec![0; count];
        let from = View::dense(
            segment.arena,
            segment.bytes.start,
            [1, 1, 1, count],
            DType::U8,
        );
        gpu.driver.download(gpu.address(&from)?, &mut host)?;
        cpu.write(&copy.bytes(segment.at, count), &host)?;
    }
    let place = |view: &View| {
        let holds = |s: &&Segment| {
            s.arena == view.arena
                && s.bytes.start <= view.offset
                && view.offset + view.span_bytes() <= s.bytes.end
        };
        let segment = segments.iter().find(holds);
        let segment = segment.ok_or_else(|| Error::internal("a view of no segment"))?;
        Ok(View {
            arena: copy.id,
            offset: segment.at + view.offset - segment.bytes.start,
            ..*view
        })
    };
    let ins = call.ins.iter().map(place).collect::<Result<Vec<_>>>()?;
    let outs = call.outs.iter().map(place).collect::<Result<Vec<_>>>()?;
    let scratch_bytes = cpu.workspace_bytes(&call.op, &ins, &outs);
    let scratch = match scratch_bytes {
        0 => None,
        n => Some(Copy::new(cpu, n)?),
    };
    let workspace = scratch.as_ref().map(|s| match scratch_bytes % 4 {
        0 => View::dense(s.id, 0, [1, 1, 1, scratch_bytes / 4], DType::F32),
        _ => s.bytes(0, scratch_bytes),
    });
    cpu.run(&Call {
        op: call.op.clone(),
        ins,
        outs: outs.clone(),
        accumulate: call.accumulate,
        workspace,
    })?;
    for (to, from) in call.outs.iter().zip(&outs) {
        let mut host = vec![0; to.span_bytes()];
        if host.is_empty() {
            continue;
        }
        cpu.read(&copy.bytes(from.offset, host.len()), &mut host)?;
        gpu.driver.upload(gpu.address(to)?, &host)?;
    }
    Ok(())
}

//! Runs a case on a device and compares it with what the CPU gave.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use half::bf16;

use super::layout::{CANARY, Layout, NAN, Side, packed};
use super::oracle::{Expected, expected};
use super::{Case, Tolerance};
use crate::device::cpu::CpuDevice;
use crate::device::philox::Rng;
use crate::device::{ArenaId, Call, DType, Device, View};

/// Bytes after the workspace that must stay as they are.
const GUARD_BYTES: usize = 256;

/// Whether a case passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every element within its tolerance, nothing written elsewhere.
    Pass,
    /// A wrong element, a write out of place, an error or a panic.
    Fail,
}

/// The comparison of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it passed.
    pub verdict: Verdict,
    /// Error of the element that is worst against its tolerance; 0 when all are equal.
    pub error: f64,
    /// What that element may be off by; 0 where equality is asked for.
    pub tolerance: f64,
    /// What went wrong, in one line; empty when nothing did.
    pub message: String,
}

impl Outcome {
    /// A case that could not be compared.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            error: f64::INFINITY,
            tolerance: 0.0,
            message: message.into(),
        }
    }

    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    /// A comparison that found no difference where none is allowed.
    pub fn equal() -> Self {
        Self {
            verdict: Verdict::Pass,
            error: 0.0,
            tolerance: 0.0,
            message: String::new(),
        }
    }

    /// Whether its error is larger against its tolerance; a failure is worse than any pass.
    pub fn worse_than(&self, other: &Self) -> bool {
        let key = |o: &Self| (!o.passed(), rank(o.error, o.tolerance), o.tolerance);
        key(self) > key(other)
    }
}

/// Runs a case on both devices and compares. A panic is a failure of the case.
pub fn run(device: &dyn Device, oracle: &CpuDevice, case: &Case) -> Outcome {
    match guarded(|| expected(oracle, case)) {
        Ok(expected) => check(device, case, &expected),
        Err(problem) => Outcome::failed(format!("the cpu device: {problem}")),
    }
}

/// Runs a case on the device and compares with what is expected.
pub fn check(device: &dyn Device, case: &Case, expected: &Expected) -> Outcome {
    match bits(device, case) {
        Ok(outs) => compare(case, expected, &outs),
        Err(problem) => Outcome::failed(problem),
    }
}

/// Runs a case on the device: the packed bytes of each output, for comparing runs bit by bit.
/// Half of the cases start off alignment.
///
/// # Errors
/// The device's error, a panic or a write out of place, as text.
pub fn bits(device: &dyn Device, case: &Case) -> Result<Vec<Vec<u8>>, String> {
    guarded(|| execute(device, case, Layout::new(case, Side::Device, shift(case))))
}

/// Whether two runs of a case gave the same bits in every element that counts.
pub fn same_bits(case: &Case, expected: &Expected, a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    let outs = case.outs.iter().zip(&expected.defined).zip(a.iter().zip(b));
    outs.into_iter().all(|((operand, ranges), (a, b))| {
        let size = operand.dtype.bytes();
        let bytes = |r: &Range<usize>| r.start * size..r.end * size;
        ranges.iter().map(bytes).all(|r| a[r.clone()] == b[r])
    })
}

fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("no message")))
    })
}

/// Decides how far off alignment the operands of a case start; always the same for a case.
fn shift(case: &Case) -> u64 {
    let name = format!("{} {:?} {}", case.name, case.math, case.shapes());
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    });
    match Rng::seeded(hash, 0, 0).block(0)[0] & 1 {
        0 => 0,
        _ => hash | 1,
    }
}

/// Memory freed when it goes out of use.
struct Arena<'d> {
    device: &'d dyn Device,
    id: ArenaId,
    bytes: usize,
}

impl<'d> Arena<'d> {
    fn new(device: &'d dyn Device, image: &[u8]) -> Result<Self, String> {
        let id = device.alloc(image.len()).map_err(|e| e.to_string())?;
        let arena = Self {
            device,
            id,
            bytes: image.len(),
        };
        device
            .write(&arena.whole(), image)
            .map_err(|e| e.to_string())?;
        Ok(arena)
    }

    fn whole(&self) -> View {
        View::dense(self.id, 0, [1, 1, 1, self.bytes], DType::U8)
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let mut image = vec![0; self.bytes];
        self.device
            .read(&self.whole(), &mut image)
            .map_err(|e| e.to_string())?;
        Ok(image)
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        self.device.free(self.id);
    }
}

/// Runs a case as laid out; the packed bytes of each output.
pub(super) fn execute(
    device: &dyn Device,
    case: &Case,
    mut layout: Layout,
) -> Result<Vec<Vec<u8>>, String> {
    let arena = Arena::new(device, &layout.image)?;
    layout.bind(arena.id);
    let bytes = device.workspace_bytes(&case.op, &layout.ins, &layout.outs);
    // Undefined contents: NaN, so that a read of them shows.
    let mut scratch = vec![NAN; bytes];
    scratch.resize(bytes + GUARD_BYTES, CANARY);
    let scratch = match bytes {
        0 => None,
        _ => Some(Arena::new(device, &scratch)?),
    };
    let workspace = scratch.as_ref().map(|arena| match bytes % 4 {
        0 => View::dense(arena.id, 0, [1, 1, 1, bytes / 4], DType::F32),
        _ => View::dense(arena.id, 0, [1, 1, 1, bytes], DType::U8),
    });
    let call = Call {
        op: case.op.clone(),
        ins: layout.ins.clone(),
        outs: layout.outs.clone(),
        accumulate: case.accumulate,
        workspace,
    };
    device.run(&call).map_err(|e| e.to_string())?;
    let after = arena.read()?;
    layout.untouched(&after)?;
    if let Some(scratch) = scratch
        && scratch.read()?[bytes..].iter().any(|&b| b != CANARY)
    {
        return Err(format!(
            "wrote past the end of the workspace ({bytes} bytes)"
        ));
    }
    Ok(layout.outs.iter().map(|v| packed(v, &after)).collect())
}

/// The element that is worst against its tolerance.
struct Worst {
    error: f64,
    tolerance: f64,
    at: String,
    wrong: usize,
    compared: usize,
}

impl Worst {
    fn see(&mut self, error: f64, tolerance: f64, at: impl FnOnce() -> String) {
        self.compared += 1;
        self.wrong += usize::from(error > tolerance);
        if self.compared == 1 || rank(error, tolerance) > rank(self.error, self.tolerance) {
            (self.error, self.tolerance, self.at) = (error, tolerance, at());
        }
    }
}

/// Orders elements by error over tolerance, then by error.
fn rank(error: f64, tolerance: f64) -> (f64, f64) {
    let ratio = if error == 0.0 { 0.0 } else { error / tolerance };
    (ratio, error)
}

fn compare(case: &Case, expected: &Expected, got: &[Vec<u8>]) -> Outcome {
    let mut worst = Worst {
        error: 0.0,
        tolerance: 0.0,
        at: String::new(),
        wrong: 0,
        compared: 0,
    };
    for (i, operand) in case.outs.iter().enumerate() {
        let one = Output {
            index: i,
            channels: operand.shape[3],
            tolerance: case.tolerance[i],
            ranges: &expected.defined[i],
        };
        let (want, got) = (&expected.outs[i][..], &got[i][..]);
        match operand.dtype {
            DType::F32 => one.floats(cast(got), cast(want), &mut worst),
            DType::BF16 => {
                let got: Vec<bf16> = cast(got);
                let want: Vec<f32> = cast(want);
                let wide = got.into_iter().map(bf16::to_f32).collect();
                let rounded = want.iter().map(|&v| bf16::from_f32(v).to_f32());
                one.floats(wide, rounded.collect(), &mut worst);
            }
            DType::U8 => one.integers(got.to_vec(), want.to_vec(), &mut worst),
            DType::U32 => one.integers::<u32>(cast(got), cast(want), &mut worst),
        }
    }
    let (verdict, message) = match worst.wrong {
        0 => (Verdict::Pass, String::new()),
        n => {
            let text = format!(
                "{n} of {} elements wrong, worst: {}",
                worst.compared, worst.at
            );
            (Verdict::Fail, text)
        }
    };
    Outcome {
        verdict,
        error: worst.error,
        tolerance: worst.tolerance,
        message,
    }
}

fn cast<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// One output being compared.
struct Output<'a> {
    index: usize,
    channels: usize,
    tolerance: Tolerance,
    ranges: &'a [Range<usize>],
}

impl Output<'_> {
    fn floats(&self, got: Vec<f32>, want: Vec<f32>, worst: &mut Worst) {
        for i in self.ranges.iter().cloned().flatten() {
            let (a, b) = (f64::from(got[i]), f64::from(want[i]));
            let allowed = match self.tolerance {
                Tolerance::Exact => 0.0,
                Tolerance::Close { rtol, atol } if b.is_finite() => atol + rtol * b.abs(),
                Tolerance::Close { atol, .. } => atol,
            };
            let error = match (a.is_nan(), b.is_nan()) {
                (true, true) => 0.0,
                (false, false) if a == b => 0.0,
                (false, false) => (a - b).abs(),
                _ => f64::INFINITY,
            };
            worst.see(error, allowed, || self.place(i, got[i], want[i]));
        }
    }

    fn integers<T>(&self, got: Vec<T>, want: Vec<T>, worst: &mut Worst)
    where
        T: Copy + Into<f64> + std::fmt::Display,
    {
        for i in self.ranges.iter().cloned().flatten() {
            let (a, b): (f64, f64) = (got[i].into(), want[i].into());
            let allowed = match self.tolerance {
                Tolerance::Exact => 0.0,
                Tolerance::Close { rtol, atol } => atol + rtol * b,
            };
            worst.see((a - b).abs(), allowed, || self.place(i, got[i], want[i]));
        }
    }

    fn place(&self, i: usize, got: impl std::fmt::Display, want: impl std::fmt::Display) -> String {
        let (pixel, channel) = (i / self.channels.max(1), i % self.channels.max(1));
        format!(
            "output {} pixel {pixel} channel {channel}: {got}, the cpu has {want}",
            self.index
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Math, Operand, cases};
    use super::*;
    use crate::device::Op;
    use crate::error::Result;

    /// The CPU, with a fault after each call.
    struct Faulty<'a> {
        cpu: CpuDevice,
        fault: &'a (dyn Fn(&CpuDevice, &Call) -> Result<()> + Sync),
    }

    impl Device for Faulty<'_> {
        fn name(&self) -> String {
            "faulty".into()
        }
        fn alloc(&self, bytes: usize) -> Result<ArenaId> {
            self.cpu.alloc(bytes)
        }
        fn free_bytes(&self) -> Option<usize> {
            None
        }
        fn resident_bytes(&self, _: ArenaId) -> Option<usize> {
            None
        }
        fn free(&self, arena: ArenaId) {
            self.cpu.free(arena);
        }
        fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
            self.cpu.write(view, bytes)
        }
        fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
            self.cpu.read(view, bytes)
        }
        fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize {
            self.cpu.workspace_bytes(op, ins, outs)
        }
        fn run(&self, call: &Call) -> Result<()> {
            self.cpu.run(call)?;
            (self.fault)(&self.cpu, call)
        }
    }

    fn relu() -> Case {
        Case::new("", Op::Relu)
            .input(Operand::f32([1, 1, 2, 2], &[-1.0, 2.0, 3.0, -4.0]).gap(1))
            .output_with(
                Operand::undefined([1, 1, 2, 2], DType::F32).gap(2),
                Tolerance::Exact,
            )
    }

    fn message(fault: &(dyn Fn(&CpuDevice, &Call) -> Result<()> + Sync)) -> String {
        let cpu = CpuDevice::new(1).unwrap();
        let faulty = Faulty {
            cpu: CpuDevice::new(1).unwrap(),
            fault,
        };
        let outcome = run(&faulty, &cpu, &relu());
        assert!(!outcome.passed());
        outcome.message
    }

    fn poke(cpu: &CpuDevice, view: &View, element: isize) -> Result<()> {
        let offset = view.offset.wrapping_add_signed(element * 4);
        cpu.write(
            &View::dense(view.arena, offset, [1, 1, 1, 1], DType::F32),
            &7f32.to_le_bytes(),
        )
    }

    #[test]
    fn faults_are_named() {
        let wrong = message(&|cpu, call| poke(cpu, &call.outs[0], 5));
        assert!(
            wrong.contains("1 of 4 elements wrong")
                && wrong.contains("output 0 pixel 1 channel 1: 7, the cpu has 0"),
            "{wrong}"
        );
        let gap = message(&|cpu, call| poke(cpu, &call.outs[0], 2));
        assert!(
            gap.contains("output 0, pixel 0 channel 2 (in the gap"),
            "{gap}"
        );
        let input = message(&|cpu, call| poke(cpu, &call.ins[0], 4));
        assert!(input.contains("input 0, pixel 1 channel 1"), "{input}");
        let past = message(&|cpu, call| poke(cpu, &call.outs[0], 7));
        assert!(past.contains("4 bytes past the end of output 0"), "{past}");
        let before = message(&|cpu, call| poke(cpu, &call.ins[0], -17));
        assert!(before.contains("before the first operand"), "{before}");
        let panics = message(&|_, _| panic!("boom"));
        assert_eq!(panics, "panicked: boom");
        let refused = message(&|_, call| Err(crate::Error::internal(call.op.name())));
        assert!(refused.contains("internal error"), "{refused}");
    }

    #[test]
    fn an_output_left_alone_fails_whatever_the_tolerance() {
        let cpu = CpuDevice::new(1).unwrap();
        let case = Case::new("", Op::Relu)
            .input(Operand::vector(&[0.0; 4]))
            .output(
                [1, 1, 1, 4],
                DType::F32,
                Tolerance::Close {
                    rtol: 1.0,
                    atol: 1.0,
                },
            );
        let expected = expected(&cpu, &case).unwrap();
        let layout = Layout::new(&case, Side::Device, 0);
        let untouched = vec![packed(&layout.outs[0], &layout.image)];
        assert!(!compare(&case, &expected, &untouched).passed());
    }

    /// Every case is one that the CPU device accepts, does not depend on its threads, and in bf16
    /// is as near to f32 as the case asks.
    #[test]
    fn the_oracle_runs_every_case() {
        let (one, three) = (CpuDevice::new(1).unwrap(), CpuDevice::new(3).unwrap());
        for case in cases::all(1) {
            let name = format!("{} {} {}", case.family, case.name, case.shapes());
            let want = guarded(|| expected(&one, &case)).unwrap_or_else(|e| panic!("{name}: {e}"));
            if case.math != Math::Tf32 {
                let outcome = check(&three, &case, &want);
                assert!(outcome.passed(), "{name}: {}", outcome.message);
            }
        }
    }
}

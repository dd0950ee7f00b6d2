//! A step, weighed operation by operation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::launch::Launch;
use crate::bench::{Case, Recipe, collect, number_repeats, programs, values};
use crate::device::gpu::ptx::{Edited, PtxDriver, weigh::Log};
use crate::device::gpu::{GpuDevice, MathMode};
use crate::device::{ArenaId, Call as DeviceCall, DType, Device, Op, View, elements};
use crate::graph::Graph;
use crate::ptx::{self, Arch, Checks, Counting};
use crate::{Error, Result};

/// How to weigh.
pub struct Options<'a> {
    /// Kernels of this architecture.
    pub arch: Arch,
    /// Arithmetic.
    pub math: MathMode,
    /// Multiprocessors of the chip: grids that fill it depend on them.
    pub multiprocessors: u32,
    /// Host threads; 0 = every core.
    pub threads: usize,
    /// Only cases for which it is true.
    pub only: &'a (dyn Fn(&Case) -> bool + Sync),
    /// PTX in the place of some units' own.
    pub units: &'a [Edited],
}

/// A node of the step's graph.
#[derive(Clone, Debug)]
pub struct Call {
    /// Index of its case.
    pub case: usize,
    /// Its name: the layer or loss that makes it.
    pub layer: String,
}

/// A step, weighed.
pub struct Weighing {
    /// Name of the recipe.
    pub recipe: String,
    /// Name of the program: `U2PL step`.
    pub program: &'static str,
    /// Architecture of the kernels.
    pub arch: Arch,
    /// Arithmetic.
    pub math: MathMode,
    /// Every distinct operation with its launches.
    pub cases: Vec<(Case, Vec<Launch>)>,
    /// The calls in their order.
    pub calls: Vec<Call>,
}

impl Weighing {
    /// Weighs the step of a recipe.
    ///
    /// # Errors
    /// [`Error::Input`] where the build has no kernels for the architecture or the recipe makes no sense;
    /// [`Error::Device`] for a fault of a kernel.
    pub fn new(recipe: &Recipe, options: &Options) -> Result<Self> {
        let (device, _) = device(options)?;
        let (program, graph) = step(recipe, &device)?;
        let mut cases = Vec::new();
        let places = collect(program, &graph, &device, &mut cases);
        number_repeats(&mut cases);
        let names = graph.nodes().iter().map(|n| n.name.clone());
        let wanted: Vec<bool> = cases.iter().map(|case| (options.only)(case)).collect();
        let calls = places.into_iter().zip(names).filter_map(|(case, layer)| {
            let case = case.filter(|i| wanted[*i])?;
            Some(Call { case, layer })
        });
        let calls = calls.collect();
        drop(device);
        let launches = weigh_all(&cases, &wanted, options)?;
        Ok(Self {
            recipe: recipe.name.clone(),
            program,
            arch: options.arch,
            math: options.math,
            cases: cases.into_iter().zip(launches).collect(),
            calls,
        })
    }
}

/// The program that a run spends its time in.
fn step(recipe: &Recipe, device: &GpuDevice) -> Result<(&'static str, Graph)> {
    let all = programs(recipe, device)?;
    let first = all.into_iter().next();
    first.ok_or_else(|| Error::internal("a recipe without programs"))
}

fn device(options: &Options) -> Result<(GpuDevice, std::sync::Arc<Log>)> {
    let machine = ptx::Options {
        arch: options.arch,
        threads: 1,
        products: false,
        checks: Checks::NONE,
        counting: Counting::Full,
        ..ptx::Options::default()
    };
    let (driver, log) = PtxDriver::weighing(machine, options.multiprocessors, options.units)?;
    Ok((GpuDevice::new(Box::new(driver), options.math), log))
}

/// The launches of every wanted case.
fn weigh_all(cases: &[Case], wanted: &[bool], options: &Options) -> Result<Vec<Vec<Launch>>> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Vec<Launch>>> = Mutex::new(vec![Vec::new(); cases.len()]);
    let work = || -> Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(i) else {
                return Ok(());
            };
            if !wanted[i] {
                continue;
            }
            // A device for each: counts depend on nothing that another case left behind.
            let launches = device(options).and_then(|(device, log)| weigh(case, &device, &log));
            let launches = launches.inspect_err(|_| {
                next.store(cases.len(), Ordering::Relaxed);
            })?;
            if let Ok(mut done) = done.lock() {
                done[i] = launches;
            }
        }
    };
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let panicked = || Err(Error::internal("a thread that weighed panicked"));
        let results = workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| panicked()));
        results.collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    let done = done.into_inner();
    done.map_err(|_| Error::internal("poisoned table of launches"))
}

/// Operations whose work is in their data: every block runs, on the data that `bench` gives it, so that
/// each kernel finds what the one before wrote.
fn follows_data(op: &Op) -> bool {
    matches!(
        op,
        Op::Percentile { .. }
            | Op::OhemThreshold { .. }
            | Op::Partition(_)
            | Op::Compact { .. }
            | Op::BankPush { .. }
            | Op::Prototype
            | Op::InfoNce(_)
            | Op::InfoNceBackward(..)
            | Op::Confusion { .. }
            | Op::LabelConfusion { .. }
            | Op::Mix { .. }
    )
}

/// Operations that do the same whatever is in their maps; the others get data.
fn ignores_data(op: &Op) -> bool {
    matches!(
        op,
        Op::Fill { .. }
            | Op::Copy
            | Op::Lerp
            | Op::Relu
            | Op::ReluBackward
            | Op::Conv(_)
            | Op::ConvBatchNormEval(_)
            | Op::ConvMoments(_)
            | Op::ConvDgrad(_)
            | Op::ConvWgrad(_)
            | Op::BatchNorm { .. }
            | Op::BatchNormMerge { .. }
            | Op::BatchNormEval { .. }
            | Op::BatchNormBackward { .. }
            | Op::GlobalAvgPool
            | Op::GlobalAvgPoolBackward
            | Op::Resize
            | Op::ResizeBackward
            | Op::SgdEma { .. }
    )
}

/// Launches a case once.
fn weigh(case: &Case, device: &GpuDevice, log: &Log) -> Result<Vec<Launch>> {
    let mut memory = Memory::new(device);
    let mut ins = Vec::with_capacity(case.ins.len());
    for operand in &case.ins {
        let arena = memory.operand(operand.span_bytes(), useful(operand))?;
        ins.push(operand.view(arena, 0));
    }
    let mut outs = Vec::with_capacity(case.outs.len());
    for (i, operand) in case.outs.iter().enumerate() {
        let shared = case.in_place.iter().find(|(out, _)| *out == i);
        outs.push(match shared {
            Some((_, input)) => operand.view(ins[*input].arena, 0),
            None => operand.view(memory.operand(operand.span_bytes(), useful(operand))?, 0),
        });
    }
    if !ignores_data(&case.op) {
        let values = values(case);
        for (view, bytes) in ins.iter().zip(&values.ins) {
            write(device, view, bytes)?;
        }
        for (i, (view, bytes)) in outs.iter().zip(&values.outs).enumerate() {
            if !case.in_place.iter().any(|(out, _)| *out == i) {
                write(device, view, bytes)?;
            }
        }
    }
    let scratch = device.workspace_bytes(&case.op, &ins, &outs);
    let workspace = match scratch {
        0 => None,
        bytes => {
            let bytes = bytes.next_multiple_of(4);
            let arena = memory.operand(bytes, bytes as u64)?;
            Some(View::dense(arena, 0, [1, 1, 1, bytes / 4], DType::F32))
        }
    };
    let call = DeviceCall {
        op: case.op.clone(),
        ins,
        outs,
        accumulate: case.accumulate,
        workspace,
    };
    log.run_whole(follows_data(&case.op));
    device.run(&call).map_err(|e| match e {
        Error::Device { device, problem } => Error::Device {
            device,
            problem: format!("{}: {problem}", case.name),
        },
        other => other,
    })?;
    let weighed = log.take()?;
    Ok(weighed
        .iter()
        .map(|w| Launch::new(w, &memory.extents))
        .collect())
}

/// Bytes of an operand without the gaps between its pixels.
fn useful(operand: &crate::bench::Operand) -> u64 {
    (elements(operand.shape) * operand.dtype.bytes()) as u64
}

fn write(device: &GpuDevice, view: &View, bytes: &[u8]) -> Result<()> {
    let dense = View::dense(view.arena, view.offset, [1, 1, 1, view.span()], view.dtype);
    device.write(&dense, bytes)
}

/// An arena for each operand, so that what was touched is known by operand.
struct Memory<'d> {
    device: &'d GpuDevice,
    arenas: Vec<ArenaId>,
    /// Useful bytes by address.
    extents: HashMap<u64, u64>,
}

impl<'d> Memory<'d> {
    fn new(device: &'d GpuDevice) -> Self {
        Self {
            device,
            arenas: Vec::new(),
            extents: HashMap::new(),
        }
    }

    fn operand(&mut self, bytes: usize, useful: u64) -> Result<ArenaId> {
        let arena = self.device.alloc(bytes)?;
        self.arenas.push(arena);
        let all = View::dense(arena, 0, [1, 1, 1, bytes], DType::U8);
        self.extents
            .insert(Device::address(self.device, &all)?, useful);
        Ok(arena)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        for arena in &self.arenas {
            self.device.free(*arena);
        }
    }
}

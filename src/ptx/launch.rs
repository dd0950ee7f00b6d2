//! Launches: what is refused, and blocks over host threads.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::counters::Counters;
use super::exec::{Block, BlockFault, Launch};
use super::memory::blocks::Touched;
use super::memory::shared::MAX_INSTRUCTIONS;
use super::options::{Arch, Options};
use super::problem::Fault;
use super::program::{Entry, Module};
use super::schedule;

/// Most threads of a block, and most blocks along each axis (CUDA C programming guide).
const MAX_THREADS: u64 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_GRID: [u32; 3] = [0x7FFF_FFFF, 65535, 65535];
/// Static shared memory that a kernel may declare.
const MAX_STATIC: u32 = 48 * 1024;

/// Most blocks of a host thread that wait for others while more are started.
const MOST_PARKED: usize = 512;

/// Why a launch cannot be.
pub fn refuse(
    module: &Module,
    entry: &Entry,
    options: &Options,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
    params: usize,
) -> Option<String> {
    let target = module.target();
    let runs = match target {
        Arch::Sm90a => options.arch == Arch::Sm90a,
        _ => options.arch >= target,
    };
    if !runs {
        return Some(format!(
            "compiled for {target}, which {} does not run",
            options.arch
        ));
    }
    let limit = |what: &str, given: [u32; 3], most: [u32; 3]| {
        let outside = given.iter().zip(most).any(|(n, most)| *n == 0 || *n > most);
        outside.then(|| format!("a {what} of {given:?}: each extent is from 1 to {most:?}"))
    };
    if let Some(words) = limit("grid", grid, MAX_GRID).or_else(|| limit("block", block, MAX_BLOCK))
    {
        return Some(words);
    }
    let blocks: u64 = grid.iter().map(|n| u64::from(*n)).product();
    if blocks > u64::from(u32::MAX) {
        return Some(format!(
            "a grid of {blocks} blocks: more than this machine numbers"
        ));
    }
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    if threads > MAX_THREADS {
        return Some(format!(
            "a block of {threads} threads: at most {MAX_THREADS}"
        ));
    }
    if let Some(most) = entry.max_threads {
        let most_threads: u64 = most.iter().map(|n| u64::from(*n)).product();
        if entry.exact_threads && block != most {
            return Some(format!("a block of {block:?}, but .reqntid says {most:?}"));
        }
        if threads > most_threads {
            return Some(format!(
                "a block of {threads} threads, but .maxntid says {most_threads}"
            ));
        }
    }
    if entry.static_shared_bytes > MAX_STATIC {
        return Some(format!(
            "{} bytes of static shared memory: at most {MAX_STATIC}",
            entry.static_shared_bytes
        ));
    }
    let total = u64::from(entry.static_shared_bytes) + u64::from(dynamic);
    if total > u64::from(options.arch.shared_bytes()) {
        return Some(format!(
            "{total} bytes of shared memory ({} static, {dynamic} dynamic): {} has {}",
            entry.static_shared_bytes,
            options.arch,
            options.arch.shared_bytes()
        ));
    }
    if params != entry.param_bytes as usize {
        return Some(format!(
            "{params} bytes of parameters, but the entry has {}",
            entry.param_bytes
        ));
    }
    if entry.code.len() > MAX_INSTRUCTIONS {
        return Some(format!(
            "{} instructions: at most {MAX_INSTRUCTIONS}",
            entry.code.len()
        ));
    }
    None
}

/// Runs these blocks (numbers in the grid).
pub fn run(launch: &Launch<'_>, mut blocks: Vec<u32>) -> Result<Counters, Fault> {
    let options = &launch.options;
    schedule::order(&mut blocks, options.schedule, options.seed);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let threads = threads.min(blocks.len()).max(1);
    let next = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    // The fault of the earliest block in the order: the same whatever the number of threads.
    let first: Mutex<Option<(usize, BlockFault)>> = Mutex::new(None);
    let work = || {
        let mut places: Vec<Block<'_>> = Vec::new();
        // Blocks that wait for others, in turn.
        let mut parked: VecDeque<(usize, usize)> = VecDeque::new();
        let mut free: Vec<usize> = Vec::new();
        let mut rounds = 0u64;
        loop {
            let fresh = match parked.len() < MOST_PARKED {
                true => next.fetch_add(1, Relaxed),
                false => usize::MAX,
            };
            let (i, place) = match blocks.get(fresh) {
                Some(block) => {
                    let place = free.pop().unwrap_or_else(|| {
                        places.push(Block::new(launch));
                        places.len() - 1
                    });
                    places[place].start(*block);
                    (fresh, place)
                }
                None => match parked.pop_front() {
                    Some(parked) if !over.load(Relaxed) => parked,
                    _ => break,
                },
            };
            match places[place].run() {
                Ok(true) => {
                    free.push(place);
                    rounds = 0;
                }
                Ok(false) => {
                    parked.push_back((i, place));
                    rounds += 1;
                    // Whom they all wait for may be on another host thread.
                    if threads > 1 && rounds > parked.len() as u64 {
                        let micros = (rounds / parked.len() as u64).min(1000);
                        std::thread::sleep(std::time::Duration::from_micros(micros));
                    }
                }
                Err(fault) => {
                    // Nothing after it starts, nothing that waits goes on.
                    next.store(blocks.len(), Relaxed);
                    over.store(true, Relaxed);
                    if let Ok(mut first) = first.lock()
                        && first.as_ref().is_none_or(|(at, _)| i < *at)
                    {
                        *first = Some((i, fault));
                    }
                    break;
                }
            }
        }
        let mut all = (Counters::default(), Touched::default());
        for place in places {
            let (counters, touched) = place.finish();
            all.0.add(&counters);
            all.1.join(touched);
        }
        all
    };
    let results: Vec<(Counters, Touched)> = if threads == 1 {
        vec![work()]
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .filter_map(|worker| worker.join().ok())
                .collect()
        })
    };
    let complete = results.len() == threads;
    if let Some((i, fault)) = first.into_inner().ok().flatten() {
        let block = blocks[i];
        let [x, y, _] = launch.grid;
        let inst = fault.pc.and_then(|pc| launch.entry.code.get(pc as usize));
        return Err(Fault {
            kernel: launch.entry.name.clone(),
            block: Some([block % x, block / x % y, block / x / y]),
            thread: fault.thread,
            at: inst.map(|inst| launch.module.at(inst)).unwrap_or_default(),
            what: fault.what,
            refused: false,
        });
    }
    if !complete {
        return Err(Fault {
            kernel: launch.entry.name.clone(),
            block: None,
            thread: None,
            at: String::new(),
            what: "the machine itself failed (see above)".into(),
            refused: false,
        });
    }
    let mut sum = Counters::default();
    let mut touched = Touched::default();
    for (counters, part) in results {
        sum.add(&counters);
        touched.join(part);
    }
    sum.regions = touched.regions(launch.memory);
    sum.distinct_read_bytes = sum.regions.iter().map(|r| r.read_bytes).sum();
    sum.distinct_written_bytes = sum.regions.iter().map(|r| r.written_bytes).sum();
    Ok(sum)
}

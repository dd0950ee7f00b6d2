//! A test of the tests: each bug class, planted once in a copy of a small correct kernel
//! (`kernels/simt/tests/planted.cu`), is reported by the PTX machine and by the SIMT runtime.
//! `cargo test --features ptx,simt --test planted -- --nocapture` prints what they say.
#![cfg(any(feature = "ptx", feature = "simt"))]

#[path = "support/raw.rs"]
mod raw;

use raw::{On, Order, Raw};

const SEEDS: std::ops::Range<u64> = 0..20;

/// How a bug shows.
#[derive(Clone, Copy)]
enum Shows {
    /// Not at all: the kernel is right.
    Passes,
    /// Under every schedule and seed, as a report with this text.
    Report(&'static str),
    /// As wrong numbers under every schedule and seed.
    Wrong,
    /// As numbers that some seeds of the PCT schedule get wrong.
    DependsOnSeed,
    /// It cannot be written for this one.
    CannotBe,
}
use Shows::{CannotBe, DependsOnSeed, Passes, Report, Wrong};

struct Planted {
    name: &'static str,
    what: &'static str,
    simt: Shows,
    machine: Shows,
}

impl Planted {
    /// Both show it, each in words of its own.
    const fn new(name: &'static str, what: &'static str, simt: Shows, machine: Shows) -> Self {
        Self {
            name,
            what,
            simt,
            machine,
        }
    }

    fn shows(&self, on: On) -> Shows {
        match on {
            #[cfg(feature = "ptx")]
            On::Machine => self.machine,
            #[cfg(feature = "simt")]
            On::Simt => self.simt,
        }
    }
}

/// Both show it alike.
const fn planted(name: &'static str, what: &'static str, shows: Shows) -> Planted {
    Planted::new(name, what, shows, shows)
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect()
}

/// Runs each kernel under every schedule and compares with `expected`.
fn check(launch: &Raw, expected: &[u8], list: &[Planted]) {
    for bug in list {
        for on in On::ALL {
            check_on(*on, launch, expected, bug);
        }
    }
}

fn check_on(on: On, launch: &Raw, expected: &[u8], bug: &Planted) {
    let launch = Raw {
        name: bug.name,
        ..*launch
    };
    let shows = bug.shows(on);
    if matches!(shows, CannotBe) {
        return;
    }
    let mut reports = Vec::new();
    let (mut right, mut wrong) = (0, 0);
    let orders = [Order::Sequential, Order::Uniform, Order::Pct];
    for order in orders {
        for seed in SEEDS {
            // The same kernel, one host thread and two.
            match launch.run(on, order, seed, 1 + seed as usize % 2) {
                Ok(y) if y == expected => right += usize::from(order == Order::Pct),
                Ok(_) => wrong += usize::from(order == Order::Pct),
                Err(report) => reports.push(report),
            }
        }
    }
    let runs = orders.len() * SEEDS.count();
    let first = reports.first().map_or("", String::as_str);
    let context = format!(
        "{on:?}, {}: {} reports, {right} right, {wrong} wrong: {first}",
        bug.name,
        reports.len()
    );
    match shows {
        Passes => assert!(reports.is_empty() && wrong == 0, "{context}"),
        Report(text) => {
            assert_eq!(reports.len(), runs, "{context}");
            for report in &reports {
                assert!(report.contains(text), "{context}\n{report}");
                assert!(report.contains(bug.name), "{report}");
            }
        }
        Wrong => assert!(reports.is_empty() && right == 0, "{context}"),
        DependsOnSeed => assert!(reports.is_empty() && wrong > 0, "{context}"),
        CannotBe => {}
    }
    let says = match shows {
        Report(_) => first.to_string(),
        _ => format!("PCT: {wrong} of {} seeds wrong", right + wrong),
    };
    println!("| {} | {on:?} | {says} |", bug.what);
}

#[test]
fn barriers_and_masks() {
    let (rows, columns) = (5, 200);
    let x = floats(rows * columns);
    let sums: Vec<f32> = x.chunks(columns).map(|row| row.iter().sum()).collect();
    let launch = Raw {
        name: "",
        threads: 128,
        blocks: 1,
        shared_bytes: 0,
        x: bytemuck::cast_slice(&x),
        y_bytes: rows * 4,
        n: rows as u64,
        m: columns as u64,
    };
    let list = [
        planted("planted_row_sums", "(row sums, correct)", Passes),
        Planted::new(
            "planted_no_trailing_barrier",
            "missing trailing __syncthreads",
            DependsOnSeed,
            Report("data race: "),
        ),
        planted(
            "planted_divergent_barrier",
            "a barrier that some threads skip",
            Report("divergent barrier"),
        ),
        planted(
            "planted_exit_before_barrier",
            "threads exit before a barrier",
            Report("divergent barrier"),
        ),
        Planted::new(
            "planted_two_barriers",
            "threads at two different barriers",
            Report("divergent barrier: thread"),
            Report("divergent barrier: thread"),
        ),
        Planted::new(
            "planted_exited_lane",
            "mask names an exited lane",
            Report("exited"),
            Report("names lane 24, which is elsewhere"),
        ),
        Planted::new(
            "planted_diverged_lane",
            "mask names a diverged lane",
            Report("diverged"),
            Report("names lane 16, which is elsewhere"),
        ),
        planted(
            "planted_not_in_mask",
            "caller not in its mask",
            Report("does not name the calling lane"),
        ),
        Planted::new(
            "planted_different_masks",
            "lanes of one collective with different masks",
            Report("wait with mask"),
            Report("lanes wait with masks that differ"),
        ),
        Planted::new(
            "planted_different_collectives",
            "lanes at different collectives",
            Report("diverged warp"),
            Report("the warp has diverged"),
        ),
    ];
    check(&launch, bytemuck::cast_slice(&sums), &list);
}

#[test]
fn asynchronous_copies() {
    let tiles = 5;
    let x = floats(tiles * 512);
    let mut y = x.clone();
    y.chunks_mut(512).for_each(<[f32]>::reverse);
    let launch = Raw {
        name: "",
        threads: 128,
        blocks: 1,
        shared_bytes: 0,
        x: bytemuck::cast_slice(&x),
        y_bytes: y.len() * 4,
        n: tiles as u64,
        m: 0,
    };
    let list = [
        planted("planted_staged_copy", "(staged copy, correct)", Passes),
        Planted::new(
            "planted_wrong_wait",
            "wrong cp.async wait count",
            Report("not waited for"),
            Report("has not been waited for"),
        ),
        Planted::new(
            "planted_no_wait",
            "cp.async never waited for",
            Report("not waited for"),
            Report("has not been waited for"),
        ),
        Planted::new(
            "planted_no_commit",
            "cp.async never committed",
            Report("never committed"),
            Report("has not been waited for"),
        ),
        Planted::new(
            "planted_no_barrier_after_wait",
            "no barrier after the wait",
            DependsOnSeed,
            Report("read of shared address"),
        ),
    ];
    check(&launch, bytemuck::cast_slice(&y), &list);
}

#[test]
fn addresses() {
    // The end of 7 x 9 floats is 4 bytes from the guard page; that of 64 x 9 floats is at it.
    for rows in [7, 64] {
        let x = floats(rows * 9);
        let y: Vec<f32> = x.iter().map(|v| 2.0 * v).collect();
        let launch = Raw {
            name: "",
            threads: 64,
            blocks: 2,
            shared_bytes: 0,
            x: bytemuck::cast_slice(&x),
            y_bytes: y.len() * 4,
            n: rows as u64,
            m: 9,
        };
        let list = [
            planted("planted_twice", "(elementwise, correct)", Passes),
            planted(
                "planted_off_by_one",
                "off-by-one tail",
                Report("out of bounds"),
            ),
            planted(
                "planted_null_write",
                "write through a null pointer",
                Report("a null pointer"),
            ),
            planted(
                "planted_misaligned",
                "misaligned 16-byte access",
                Report("misaligned"),
            ),
        ];
        check(&launch, bytemuck::cast_slice(&y), &list);
        let swapped = [planted(
            "planted_swapped_arguments",
            "swapped arguments",
            if rows < 9 {
                Report("out of bounds")
            } else {
                Wrong
            },
        )];
        check(&launch, bytemuck::cast_slice(&y), &swapped);
    }
}

#[test]
fn shared_memory() {
    let rounds = 3;
    let x = floats(rounds * 64);
    let y: Vec<f32> = (0..x.len()).map(|i| x[i] + x[i ^ 1]).collect();
    let launch = Raw {
        name: "",
        threads: 64,
        blocks: 1,
        shared_bytes: 0,
        x: bytemuck::cast_slice(&x),
        y_bytes: y.len() * 4,
        n: rounds as u64,
        m: 0,
    };
    let list = [
        planted("planted_neighbours", "(warp exchange, correct)", Passes),
        Planted::new(
            "planted_no_syncwarp",
            "missing __syncwarp",
            DependsOnSeed,
            Report("data race: "),
        ),
        Planted::new(
            "planted_unwritten_shared",
            "read of unwritten shared memory (NaN)",
            Wrong,
            Report("which nobody wrote"),
        ),
        Planted::new(
            "planted_static_overrun",
            "write past a static shared array",
            Report("out of bounds of shared memory, after `cell`"),
            Report("out of bounds: byte 260 of"),
        ),
    ];
    check(&launch, bytemuck::cast_slice(&y), &list);

    let launch = Raw {
        shared_bytes: 64 * 4,
        n: 64,
        m: 1,
        y_bytes: 64 * 4,
        ..launch
    };
    let list = [
        planted("planted_dynamic_copy", "(dynamic shared, correct)", Passes),
        Planted::new(
            "planted_dynamic_overrun",
            "write past the dynamic shared memory",
            Report("out of bounds of the 256 bytes of dynamic shared memory"),
            Report("byte 256 of dynamic shared memory, which has 256"),
        ),
    ];
    check(&launch, bytemuck::cast_slice(&x[..64]), &list);

    for (shared_bytes, m, simt, machine) in [
        // Far past it: the guard page.
        (
            256,
            4096,
            "shared memory",
            "dynamic shared memory, which has 256",
        ),
        (240 * 1024, 0, "more than 232448", "sm_90a has 232448"),
    ] {
        let name = "planted_dynamic_overrun";
        let what = if m == 0 {
            "too much dynamic shared memory"
        } else {
            "write far past the dynamic shared memory"
        };
        let launch = Raw {
            shared_bytes,
            m,
            ..launch
        };
        check(
            &launch,
            &[],
            &[Planted::new(name, what, Report(simt), Report(machine))],
        );
    }
    let launch = Raw {
        threads: 32,
        shared_bytes: 190_000,
        ..launch
    };
    let list = [
        Planted::new(
            "planted_static_too_large",
            "too much static shared memory",
            Report("static shared memory with `large`, more than 49152"),
            Report("49156 bytes of static shared memory: at most 49152"),
        ),
        Planted::new(
            "planted_both_too_large",
            "too much static and dynamic shared memory",
            Report("more than 232448"),
            Report("sm_90a has 232448"),
        ),
    ];
    check(&launch, &[], &list);
}

#[test]
fn matrices_blocks_and_stacks() {
    let launch = Raw {
        name: "",
        threads: 32,
        blocks: 1,
        shared_bytes: 0,
        x: &[0; 4],
        y_bytes: 32 * 4,
        n: 1000,
        m: 0,
    };
    let list = [
        Planted::new(
            "planted_half_warp_mma",
            "mma by half a warp",
            Report("exited"),
            Report("mma.sync by part of a warp"),
        ),
        Planted::new(
            "planted_misaligned_row",
            "misaligned ldmatrix row",
            Report("misaligned ldmatrix"),
            Report("misaligned: not a multiple of 16"),
        ),
        Planted::new(
            "planted_recursion",
            "stack overflow",
            Report("stack overflow"),
            CannotBe,
        ),
    ];
    check(&launch, &[], &list);
    let blocks: Vec<i32> = (1..=32).collect();
    let launch = Raw {
        blocks: 32,
        ..launch
    };
    let list = [Planted::new(
        "planted_block_order",
        "counting on an order of blocks",
        DependsOnSeed,
        Report("data race between blocks"),
    )];
    check(&launch, bytemuck::cast_slice(&blocks), &list);
}

#[test]
fn spinning_on_another_block() {
    let launch = Raw {
        name: "planted_spin",
        threads: 32,
        blocks: 2,
        shared_bytes: 0,
        x: &[0; 4],
        y_bytes: 4,
        n: 0,
        m: 0,
    };
    for on in On::ALL {
        let ran = launch.run(*on, Order::Sequential, 0, 1);
        match on {
            // A GPU has room for both blocks at once, and so has the machine.
            #[cfg(feature = "ptx")]
            On::Machine => {
                assert_eq!(ran.as_deref(), Ok(&[1, 0, 0, 0][..]));
                println!("| waiting for another block | {on:?} | it comes |");
            }
            #[cfg(feature = "simt")]
            On::Simt => {
                let report = ran.expect_err("the second block never runs");
                assert!(report.contains("spin on another block"), "{report}");
                println!("| waiting for another block | {on:?} | {report} |");
            }
        }
    }
}

/// Both go on after a report, and says where: kernel, block, thread, file and line.
#[test]
fn a_report_says_where() {
    let x = floats(64 * 9);
    let launch = Raw {
        name: "planted_off_by_one",
        threads: 64,
        blocks: 2,
        shared_bytes: 0,
        x: bytemuck::cast_slice(&x),
        y_bytes: x.len() * 4,
        n: 64,
        m: 9,
    };
    for on in On::ALL {
        let report = launch.run(*on, Order::Pct, 3, 2).expect_err("a bug");
        for part in [
            "kernel planted_off_by_one, block (",
            "thread ",
            "lane ",
            "kernels/simt/tests/planted.cu:",
            "out of bounds: byte 2304 of an allocation of 2304",
        ] {
            assert!(report.contains(part), "no `{part}` in: {report}");
        }
        let launch = Raw {
            name: "planted_twice",
            ..launch
        };
        assert!(launch.run(*on, Order::Pct, 3, 2).is_ok());
    }
}

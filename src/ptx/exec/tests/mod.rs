//! A table of instructions: PTX with inputs in, exact bits out. Every lane runs; lane 5 is looked at
//! unless a case says otherwise.

mod arithmetic;
mod calls;
mod matrices;
mod memory;
mod refusals;

use crate::ptx::{Checks, Fault, Machine, Module, Options, Schedule};

/// A kernel of one warp (or `threads`) around a body. `%r1`–`%r4` (`%rd1`–`%rd4`, `%f`, `%p`, `%rs`
/// likewise by name) are free; `%r0` is the thread, `%rd0` the address of its 8 bytes of output.
fn kernel(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
         .visible .entry k(.param .u64 out, .param .u64 in, .param .u32 n)\n{{\n\
         .reg .pred %p<10>; .reg .b16 %rs<20>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %fd<9>;\n\
         .shared .align 16 .b8 cell[1024];\n\
         mov.u32 %r0, %tid.x; ld.param.u64 %rd0, [out]; mad.wide.u32 %rd0, %r0, 8, %rd0; ld.param.u64 %rd19, [in];\n\
         {body}\nret;\n}}\n"
    )
}

fn run_as(body: &str, threads: u32, schedule: Schedule, checks: Checks) -> Result<Vec<u64>, Fault> {
    let module = Module::parse(&kernel(body), "test.ptx").unwrap();
    let options = Options {
        schedule,
        checks,
        threads: 1,
        max_instructions: 100_000,
        ..Options::default()
    };
    let machine = Machine::new(options);
    let out = machine.alloc(8 * u64::from(threads), 16).unwrap();
    machine.fill(out, 8 * u64::from(threads), 0).unwrap();
    let input = machine.alloc(1024, 16).unwrap();
    let bytes: Vec<u8> = (0..1024u32).map(|i| (i * 7 + 3) as u8).collect();
    machine.write(input, &bytes).unwrap();
    let mut params = [out.to_le_bytes(), input.to_le_bytes()].concat();
    params.extend(7u32.to_le_bytes());
    machine.launch(&module, "k", [1, 1, 1], [threads, 1, 1], 2048, &params)?;
    let mut bytes = vec![0; 8 * threads as usize];
    machine.read(out, &mut bytes).unwrap();
    Ok(bytes
        .as_chunks()
        .0
        .iter()
        .map(|c| u64::from_le_bytes(*c))
        .collect())
}

fn run(body: &str) -> Vec<u64> {
    run_as(body, 32, Schedule::Sequential, Checks::ALL)
        .unwrap_or_else(|fault| panic!("{body}\n{fault}"))
}

fn fault(body: &str) -> String {
    match run_as(body, 64, Schedule::Sequential, Checks::ALL) {
        Ok(_) => panic!("no fault: {body}"),
        Err(fault) => fault.to_string(),
    }
}

/// Runs each line with its result in `%r1` and compares lane 5's.
fn narrow(cases: &[(&str, u32)]) {
    for (body, expected) in cases {
        let got = run(&format!("{body}\nst.global.u32 [%rd0], %r1;"))[5] as u32;
        assert_eq!(got, *expected, "{body}: {got:#x} instead of {expected:#x}");
    }
}

/// The same with `%rd1`.
fn wide(cases: &[(&str, u64)]) {
    for (body, expected) in cases {
        let got = run(&format!("{body}\nst.global.u64 [%rd0], %rd1;"))[5];
        assert_eq!(got, *expected, "{body}: {got:#x} instead of {expected:#x}");
    }
}

/// The same with `%f1`.
fn float(cases: &[(&str, u32)]) {
    for (body, expected) in cases {
        let got = run(&format!("{body}\nst.global.f32 [%rd0], %f1;"))[5] as u32;
        assert_eq!(got, *expected, "{body}: {got:#x} instead of {expected:#x}");
    }
}

/// The same with `%p1`.
fn predicate(cases: &[(&str, bool)]) {
    for (body, expected) in cases {
        let got = run(&format!(
            "{body}\nselp.u32 %r1, 1, 0, %p1; st.global.u32 [%rd0], %r1;"
        ))[5];
        assert_eq!(got != 0, *expected, "{body}");
    }
}

#[test]
fn lanes_together() {
    narrow(&[
        ("shfl.sync.bfly.b32 %r1|%p1, %r0, 1, 31, -1;", 4),
        ("shfl.sync.down.b32 %r1|%p1, %r0, 4, 31, -1;", 9),
        ("shfl.sync.down.b32 %r1, %r0, 28, 31, -1;", 5),
        ("shfl.sync.up.b32 %r1, %r0, 2, 0, -1;", 3),
        ("shfl.sync.up.b32 %r1, %r0, 9, 0, -1;", 5),
        ("shfl.sync.idx.b32 %r1, %r0, 31, 31, -1;", 31),
        // Segments of eight lanes.
        ("shfl.sync.idx.b32 %r1, %r0, 1, 0x181F, -1;", 1),
        (
            "setp.lt.u32 %p1, %r0, 3; vote.sync.ballot.b32 %r1, %p1, -1;",
            7,
        ),
        ("redux.sync.add.u32 %r1, %r0, -1;", 496),
        ("redux.sync.max.s32 %r1, %r0, -1;", 31),
        (
            "and.b32 %r2, %r0, 3; match.any.sync.b32 %r1, %r2, -1;",
            0x2222_2222,
        ),
        ("activemask.b32 %r1;", u32::MAX),
        // Two halves, each with its own mask.
        (
            "setp.lt.u32 %p1, %r0, 16; selp.b32 %r2, 0xFFFF, 0xFFFF0000, %p1; redux.sync.min.u32 %r1, %r0, %r2;",
            0,
        ),
        // Lanes come apart and meet again.
        (
            "setp.lt.u32 %p1, %r0, 16; @%p1 bra A; mov.u32 %r1, 1; bra B; A: mov.u32 %r1, 2; B: shfl.sync.idx.b32 %r1, %r1, 20, 31, -1;",
            1,
        ),
        // A loop of as many rounds as the lane's number.
        (
            "mov.u32 %r1, 0; mov.u32 %r2, 0; L: setp.ge.u32 %p1, %r2, %r0; @%p1 bra E; add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1; bra.uni L; E: add.u32 %r1, %r1, 100;",
            110,
        ),
    ]);
}

#[test]
fn the_seed_decides_the_order() {
    // Warps append to a list: the order that they came in.
    let body = "mov.u32 %r2, cell; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; \
        atom.shared.add.u32 %r3, [%r2], 1; cvt.u64.u32 %rd1, %r3; st.global.u64 [%rd0], %rd1;";
    let run = |schedule| run_as(body, 256, schedule, Checks::ALL).unwrap();
    // The warp that completes the barrier runs on, then the others in order.
    let ascending: Vec<u64> = (32..256).chain(0..32).collect();
    assert_eq!(run(Schedule::Sequential), ascending);
    for schedule in [Schedule::Uniform, Schedule::Pct] {
        let got = run(schedule);
        assert_ne!(got, ascending);
        assert_eq!(got, run(schedule));
    }
}

//! A table of instructions: PTX with inputs in, exact bits out. Every lane runs; lane 5 is looked at
//! unless a case says otherwise.

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
fn integers_of_32_bits() {
    narrow(&[
        ("add.s32 %r1, %r0, -7;", -2i32 as u32),
        ("sub.s32 %r1, %r0, 7;", -2i32 as u32),
        ("mul.lo.s32 %r1, %r0, 0x40000001;", 0x4000_0005),
        ("mul.hi.u32 %r1, %r0, 0xFFFFFFFF;", 4),
        ("mul.hi.s32 %r1, %r0, -1;", u32::MAX),
        ("mad.lo.s32 %r1, %r0, %r0, -26;", u32::MAX),
        ("mov.u32 %r2, 7; div.u32 %r1, %r2, %r0;", 1),
        ("mov.u32 %r2, -7; div.s32 %r1, %r2, 2;", -3i32 as u32),
        ("mov.u32 %r2, -7; rem.s32 %r1, %r2, 2;", -1i32 as u32),
        ("rem.u32 %r1, %r0, 3;", 2),
        ("mov.u32 %r2, 0; div.u32 %r1, %r0, %r2;", u32::MAX),
        ("min.s32 %r1, %r0, -1;", u32::MAX),
        ("min.u32 %r1, %r0, -1;", 5),
        ("max.s32 %r1, %r0, -1;", 5),
        ("max.u32 %r1, %r0, -1;", u32::MAX),
        ("neg.s32 %r1, %r0;", -5i32 as u32),
        ("abs.s32 %r1, -5;", 5),
        ("not.b32 %r1, %r0;", !5),
        ("and.b32 %r1, %r0, 4;", 4),
        ("or.b32 %r1, %r0, 2;", 7),
        ("xor.b32 %r1, %r0, 1;", 4),
        ("shl.b32 %r1, %r0, 31;", 0x8000_0000),
        ("shl.b32 %r1, %r0, 32;", 0),
        ("shr.u32 %r1, -1, 33;", 0),
        ("shr.s32 %r1, -8, 1;", -4i32 as u32),
        ("shr.s32 %r1, -8, 40;", u32::MAX),
        ("popc.b32 %r1, -1;", 32),
        ("clz.b32 %r1, %r0;", 29),
        ("brev.b32 %r1, %r0;", 0xA000_0000),
        ("bfind.u32 %r1, %r0;", 2),
        ("bfind.u32 %r1, 0;", u32::MAX),
        ("bfind.shiftamt.u32 %r1, %r0;", 29),
        ("bfind.s32 %r1, -1;", u32::MAX),
        ("bfi.b32 %r1, %r0, 0, 4, 2;", 0x10),
        ("bfi.b32 %r1, -1, 0, 28, 9;", 0xF000_0000),
        ("bfi.b32 %r1, -1, 7, 0, 0;", 7),
        ("bfe.u32 %r1, 0xABCD, 4, 8;", 0xBC),
        ("bfe.s32 %r1, 0xABCD, 4, 8;", 0xFFFF_FFBC),
        ("bfe.s32 %r1, 0x80000000, 28, 32;", 0xFFFF_FFF8),
        ("lop3.b32 %r1, 0xF0, 0xCC, 0xAA, 0x80;", 0x80),
        ("lop3.b32 %r1, 0xF0, 0xCC, 0xAA, 0x96;", 0x96),
        ("prmt.b32 %r1, 0x33221100, 0x77665544, 0x7531;", 0x7755_3311),
        ("prmt.b32 %r1, 0x80, 0, 0x4448;", 0xFF),
        ("shf.l.wrap.b32 %r1, 0x80000000, 1, 1;", 3),
        ("shf.r.clamp.b32 %r1, 1, 2, 40;", 2),
        ("sad.u32 %r1, %r0, 9, 100;", 104),
        ("dp4a.u32.u32 %r1, 0x01020304, 0x01010101, 10;", 20),
        ("szext.clamp.s32 %r1, 0xF, 4;", u32::MAX),
        ("bmsk.clamp.b32 %r1, 4, 8;", 0xFF0),
        ("mul.wide.u16 %r1, %rs1, %rs2;", 0),
        (
            "cvt.u16.u32 %rs1, 0x1FFFF; mul.wide.u16 %r1, %rs1, 2;",
            0x1FFFE,
        ),
        (
            "mov.b32 {%rs1, %rs2}, 0x12345678; mov.b32 %r1, {%rs2, %rs1};",
            0x5678_1234,
        ),
        ("mov.u32 %r1, %laneid;", 5),
        ("mov.u32 %r1, %ntid.x;", 32),
        ("mov.u32 %r1, %lanemask_lt;", 31),
        ("ld.param.u32 %r1, [n];", 7),
        ("mov.b64 %rd1, n; ld.param.u32 %r1, [%rd1];", 7),
        ("selp.b32 %r1, 3, 4, %p1;", 4),
        ("slct.s32.s32 %r1, 3, 4, -1;", 4),
        ("{ .reg .b32 %t; mov.u32 %t, 9; add.u32 %r1, %t, 1; }", 10),
    ]);
}

#[test]
fn integers_of_64_bits() {
    wide(&[
        ("cvt.u64.u32 %rd1, %r0; add.s64 %rd1, %rd1, -6;", u64::MAX),
        ("mul.wide.u32 %rd1, %r0, 0xFFFFFFFF;", 5 * 0xFFFF_FFFF),
        ("mul.wide.s32 %rd1, %r0, -1;", -5i64 as u64),
        (
            "mov.u64 %rd2, 3; mad.wide.s32 %rd1, %r0, -1, %rd2;",
            -2i64 as u64,
        ),
        (
            "mov.u64 %rd2, -1; mul.hi.u64 %rd1, %rd2, %rd2;",
            u64::MAX - 1,
        ),
        ("mov.u64 %rd2, 1; shl.b64 %rd1, %rd2, 63;", 1 << 63),
        ("mov.u64 %rd2, 1; shl.b64 %rd1, %rd2, 64;", 0),
        ("mov.u64 %rd2, -8; shr.s64 %rd1, %rd2, 70;", u64::MAX),
        ("mov.u64 %rd2, -8; shr.u64 %rd1, %rd2, 60;", 15),
        ("mov.u64 %rd2, 100; div.u64 %rd1, %rd2, 7;", 14),
        ("mov.u64 %rd2, 100; rem.u64 %rd1, %rd2, 7;", 2),
        ("mov.u64 %rd2, 9; min.u64 %rd1, %rd2, -1;", 9),
        ("mov.u64 %rd2, 9; min.s64 %rd1, %rd2, -1;", u64::MAX),
        ("mov.b64 %rd1, {%r0, 1};", 0x1_0000_0005),
        ("cvt.s64.s32 %rd1, -2;", -2i64 as u64),
        ("mov.u64 %rd2, 0; not.b64 %rd1, %rd2;", u64::MAX),
        ("ld.global.u32 %rd1, [%rd19];", 0x1811_0A03),
        ("ld.global.s8 %rd1, [%rd19+20];", 0x8Fu8 as i8 as u64),
    ]);
}

#[test]
fn floats_round_as_they_say() {
    let bits = f32::to_bits;
    float(&[
        ("add.rn.f32 %f1, 0f3F800000, 0f33800000;", bits(1.0)),
        ("add.rp.f32 %f1, 0f3F800000, 0f33800000;", bits(1.0) + 1),
        ("add.rz.f32 %f1, 0fBF800000, 0fB3800000;", bits(-1.0)),
        ("add.rm.f32 %f1, 0fBF800000, 0fB3800000;", bits(-1.0) + 1),
        ("add.rm.f32 %f1, 0f3F800000, 0fBF800000;", 0x8000_0000),
        ("mul.rz.f32 %f1, 0f3F800001, 0f3F800001;", 0x3F80_0002),
        ("mul.rp.f32 %f1, 0f3F800001, 0f3F800001;", 0x3F80_0003),
        (
            "fma.rn.f32 %f1, 0f3F800001, 0f3F800001, 0fBF800002;",
            bits(2f32.powi(-46)),
        ),
        (
            "fma.rm.f32 %f1, 0f3F800001, 0f3F800001, 0f00000000;",
            0x3F80_0002,
        ),
        (
            "fma.rn.f32 %f1, 0f7F800000, 0f00000000, 0f3F800000;",
            0x7FFF_FFFF,
        ),
        ("sub.rn.f32 %f1, 0f7F800000, 0f7F800000;", 0x7FFF_FFFF),
        ("div.rn.f32 %f1, 0f3F800000, 0f40400000;", bits(1.0 / 3.0)),
        ("rcp.rn.f32 %f1, 0f40400000;", bits(1.0 / 3.0)),
        ("sqrt.rn.f32 %f1, 0f40000000;", bits(2f32.sqrt())),
        ("ex2.approx.ftz.f32 %f1, 0f40400000;", bits(8.0)),
        ("lg2.approx.f32 %f1, 0f41000000;", bits(3.0)),
        ("mul.ftz.f32 %f1, 0f00800000, 0f3F000000;", 0),
        ("mul.f32 %f1, 0f00800000, 0f3F000000;", 0x0040_0000),
        ("add.sat.f32 %f1, 0f3F800000, 0f3F800000;", bits(1.0)),
        ("add.sat.f32 %f1, 0f7FC00000, 0f3F800000;", 0),
        ("max.f32 %f1, 0f7FC00000, 0f3F800000;", bits(1.0)),
        ("max.NaN.f32 %f1, 0f7FC00000, 0f3F800000;", 0x7FFF_FFFF),
        ("min.f32 %f1, 0f00000000, 0f80000000;", 0x8000_0000),
        ("neg.f32 %f1, 0f00000000;", 0x8000_0000),
        ("abs.f32 %f1, 0fBF800000;", bits(1.0)),
        ("cvt.rn.f32.u32 %f1, 0x1000001;", bits(16_777_216.0)),
        ("cvt.rp.f32.u32 %f1, 0x1000001;", bits(16_777_218.0)),
        ("cvt.rn.f32.s32 %f1, -3;", bits(-3.0)),
        ("cvt.sat.f32.f32 %f1, 0f40000000;", bits(1.0)),
        ("mov.b16 %rs1, 0x3FC0; cvt.f32.bf16 %f1, %rs1;", bits(1.5)),
        ("cvt.rni.f32.f32 %f1, 0f40200000;", bits(2.0)),
        (
            "mov.f64 %fd1, 0d3FF0000000000001; cvt.rn.f32.f64 %f1, %fd1;",
            bits(1.0),
        ),
    ]);
    narrow(&[
        ("cvt.rna.tf32.f32 %r1, 0f3F801000;", 0x3F80_2000),
        ("cvt.rzi.u32.f32 %r1, 0fBF800000;", 0),
        ("cvt.rzi.s32.f32 %r1, 0fC0200000;", -2i32 as u32),
        ("cvt.rni.s32.f32 %r1, 0f40200000;", 2),
        ("cvt.rzi.u32.f32 %r1, 0f7FC00000;", 0),
        ("cvt.rzi.s32.f32 %r1, 0f7F800000;", i32::MAX as u32),
        (
            "mov.f32 %f2, 0f3F808000; cvt.rn.bf16.f32 %rs1, %f2; cvt.u32.u16 %r1, %rs1;",
            0x3F80,
        ),
        (
            "mov.f32 %f2, 0f3F818000; cvt.rn.bf16.f32 %rs1, %f2; cvt.u32.u16 %r1, %rs1;",
            0x3F82,
        ),
        (
            "cvt.rn.bf16x2.f32 %r1, 0f40000000, 0f3F800000;",
            0x4000_3F80,
        ),
        ("cvt.rn.f16x2.f32 %r1, 0f40000000, 0f3F800000;", 0x4000_3C00),
        (
            "fma.rn.bf16x2 %r1, 0x3F803F80, 0x40004000, 0x3F803F80;",
            0x4040_4040,
        ),
        ("add.rn.f16x2 %r1, 0x3C003C00, 0x3C004000;", 0x4000_4200),
        ("mul.rn.bf16x2 %r1, 0x40004000, 0x40004000;", 0x4080_4080),
    ]);
    wide(&[
        (
            "mov.f64 %fd1, 0d3FF8000000000000; cvt.rmi.f64.f64 %fd2, %fd1; mov.b64 %rd1, %fd2;",
            1f64.to_bits(),
        ),
        (
            "mov.f64 %fd1, 0d4008000000000000; rcp.rn.f64 %fd2, %fd1; mov.b64 %rd1, %fd2;",
            (1.0 / 3f64).to_bits(),
        ),
        (
            "mov.f64 %fd1, 0dC004000000000000; cvt.rzi.s64.f64 %rd1, %fd1;",
            -2i64 as u64,
        ),
    ]);
}

#[test]
fn comparisons_and_predicates() {
    predicate(&[
        ("setp.lt.s32 %p1, %r0, -1;", false),
        ("setp.lt.u32 %p1, %r0, -1;", true),
        ("setp.eq.s64 %p1, %rd19, %rd19;", true),
        ("setp.ne.f32 %p1, 0f7FC00000, 0f3F800000;", false),
        ("setp.neu.f32 %p1, 0f7FC00000, 0f3F800000;", true),
        ("setp.geu.f32 %p1, 0f7FC00000, 0f3F800000;", true),
        ("setp.nan.f32 %p1, 0f7FC00000, 0f7FC00000;", true),
        ("setp.num.f32 %p1, 0f7FC00000, 0f3F800000;", false),
        ("setp.eq.s16 %p1, -1, 0xFFFF;", true),
        ("setp.eq.and.s32 %p1, %r0, 5, %p2;", false),
        ("setp.eq.or.s32 %p2|%p1, %r0, 5, !%p3;", true),
        ("setp.eq.s32 %p2, %r0, 5; not.pred %p1, %p2;", false),
        ("mov.pred %p2, 1; xor.pred %p1, %p2, %p3;", true),
        ("vote.sync.any.pred %p1, %p2, -1;", false),
        (
            "setp.eq.s32 %p2, %r0, 9; vote.sync.uni.pred %p1, %p2, -1;",
            false,
        ),
        (
            "setp.ge.s32 %p2, %r0, 0; vote.sync.all.pred %p1, %p2, -1;",
            true,
        ),
    ]);
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
fn memory_of_every_kind() {
    narrow(&[
        (
            "ld.global.nc.v4.u32 {%r2, %r3, %r1, %r4}, [%rd19];",
            0x5049_423B,
        ),
        (
            "ld.global.v4.u8 {%rs1, %rs2, %rs3, %rs4}, [%rd19]; cvt.u32.u16 %r1, %rs3;",
            0x11,
        ),
        (
            "mov.u32 %r2, cell; shl.b32 %r3, %r0, 2; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r0; ld.shared.u32 %r1, [%r2];",
            5,
        ),
        (
            "mov.u32 %r2, dyn; shl.b32 %r3, %r0, 1; add.u32 %r2, %r2, %r3; cvt.u16.u32 %rs1, %r0; st.shared.u16 [%r2], %rs1; bar.warp.sync -1; xor.b32 %r4, %r3, 2; mov.u32 %r5, dyn; add.u32 %r4, %r4, %r5; ld.shared.u16 %r1, [%r4];",
            4,
        ),
        (
            "mov.u64 %rd1, cell; cvta.shared.u64 %rd2, %rd1; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd2, %rd2, %rd3; st.u32 [%rd2], 77; ld.u32 %r1, [%rd2];",
            77,
        ),
        (
            "mov.u32 %r2, cell; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; atom.shared.add.u32 %r3, [%r2], 1; bar.sync 0; ld.shared.u32 %r1, [%r2];",
            32,
        ),
        (
            "atom.global.add.u32 %r2, [%rd19], %r0; bar.warp.sync -1; ld.global.u32 %r1, [%rd19];",
            0x1811_0A03 + 496,
        ),
        ("atom.global.cas.b32 %r1, [%rd19+64], 1, 2;", 0xD8D1_CAC3),
        (
            "mov.u32 %r2, dyn; shl.b32 %r3, %r0, 4; add.u32 %r2, %r2, %r3; mul.wide.u32 %rd1, %r3, 1; add.s64 %rd1, %rd1, %rd19; cp.async.cg.shared.global [%r2], [%rd1], 16, 8; cp.async.commit_group; cp.async.wait_group 0; ld.shared.v4.u32 {%r1, %r3, %r4, %r5}, [%r2]; add.u32 %r1, %r5, 6;",
            6,
        ),
        ("bar.red.popc.u32 %r1, 0, %p1;", 0),
        ("setp.lt.u32 %p1, %r0, 4; bar.red.popc.u32 %r1, 0, %p1;", 4),
    ]);
    wide(&[(
        "atom.global.add.u64 %rd2, [%rd19+8], 1; ld.global.u64 %rd1, [%rd19+8];",
        0x6C65_5E57_5049_423B + 32,
    )]);
}

#[test]
fn matrices_come_and_go() {
    // Row r of the first matrix is in bytes 16 r: lane 5 holds row 1, columns 2 and 3.
    let fill = "mov.u32 %r2, dyn; shl.b32 %r3, %r0, 4; add.u32 %r2, %r2, %r3; shl.b32 %r4, %r0, 16; or.b32 %r4, %r4, %r0; \
        add.u32 %r5, %r4, 0x1000100; st.shared.v4.u32 [%r2], {%r4, %r5, %r4, %r5}; bar.warp.sync -1;";
    narrow(&[
        (
            &format!(
                "{fill} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r1, %r6, %r7, %r8}}, [%r2];"
            ),
            0x0101_0101,
        ),
        (
            &format!(
                "{fill} ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r1, %r6, %r7, %r8}}, [%r2];"
            ),
            0x0003_0002,
        ),
    ]);
    // Rows of ones (bf16) by columns of twos, k = 16, on top of 1.
    let mma = "mov.b32 %r2, 0x3F803F80; mov.b32 %r3, 0x40004000; mov.f32 %f2, 0f3F800000; \
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f3, %f4, %f5}, {%r2, %r2, %r2, %r2}, {%r3, %r3}, {%f2, %f2, %f2, %f2};";
    float(&[(mma, 33f32.to_bits())]);
    // Lane l's A holds its row number: row l / 4 and l / 4 + 8; B is the identity's first column.
    let rows = "shr.u32 %r4, %r0, 2; cvt.rn.f32.u32 %f2, %r4; mov.b32 %r2, %f2; mov.b32 %r3, 0; setp.lt.u32 %p1, %r0, 4; \
        @%p1 mov.b32 %r3, 0f3F800000; mov.f32 %f3, 0f00000000; \
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f4, %f5, %f6}, {%r2, %r2, %r2, %r2}, {%r3, %r3}, {%f3, %f3, %f3, %f3};";
    let got = run(&format!("{rows} st.global.f32 [%rd0], %f1;"));
    // Column 0 belongs to the lanes that are multiples of 4.
    assert_eq!(got[20] as u32, (5.0f32 * 8.0).to_bits());
    assert_eq!(got[21] as u32, 0);
}

#[test]
fn faults_say_what_and_where() {
    for (body, words) in [
        (
            "ld.global.u32 %r1, [%rd19+1024];",
            "out of bounds: byte 1024 of an allocation of 1024",
        ),
        ("ld.global.u32 %r1, [%rd19+2];", "misaligned"),
        (
            "mov.u64 %rd1, 0; st.global.u32 [%rd1], 1;",
            "a null pointer",
        ),
        ("ld.shared.u32 %r1, [cell];", "which nobody wrote"),
        (
            "ld.shared.u32 %r1, [cell+1024];",
            "out of bounds: byte 1024 of cell, which has 1024",
        ),
        (
            "st.shared.u32 [cell], %r0;",
            "data race: write to shared address",
        ),
        (
            "mov.u32 %r2, cell; shl.b32 %r3, %r0, 2; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], 1; xor.b32 %r3, %r3, 4; mov.u32 %r4, cell; add.u32 %r3, %r3, %r4; ld.shared.u32 %r1, [%r3];",
            "data race: read of shared address",
        ),
        (
            "setp.lt.u32 %p1, %r0, 40; @%p1 bar.sync 0;",
            "divergent barrier",
        ),
        (
            "setp.lt.u32 %p1, %r0, 32; @%p1 exit; bar.sync 0;",
            "divergent barrier",
        ),
        (
            "setp.lt.u32 %p1, %r0, 4; @%p1 exit; shfl.sync.idx.b32 %r1, %r0, 0, 31, -1;",
            "names lane 0, which has exited",
        ),
        (
            "shfl.sync.idx.b32 %r1, %r0, 0, 31, 1;",
            "does not name the calling lane",
        ),
        (
            "setp.lt.u32 %p1, %r0, 16; selp.b32 %r2, -1, -2, %p1; redux.sync.add.u32 %r1, %r0, %r2;",
            "mask",
        ),
        (
            "setp.lt.u32 %p1, %r0, 16; @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [dyn];",
            "part of a warp",
        ),
        (
            "mov.u32 %r2, dyn; shl.b32 %r3, %r0, 4; add.u32 %r2, %r2, %r3; cp.async.cg.shared.global [%r2], [%rd19], 16;",
            "a cp.async not committed",
        ),
        (
            "mov.u32 %r2, dyn; shl.b32 %r3, %r0, 4; add.u32 %r2, %r2, %r3; cp.async.cg.shared.global [%r2], [%rd19], 16; cp.async.commit_group; ld.shared.u32 %r1, [%r2];",
            "has not been waited for",
        ),
        (
            "setp.lt.u32 %p1, %r0, 32; selp.b32 %r2, 1, 2, %p1; bar.sync %r2, 64;",
            "deadlock: warp 0 waits at barrier 1 (32 of 64 threads)",
        ),
        ("bar.sync 16;", "there are 16"),
        ("L: bra.uni L;", "more than 100000 warp instructions"),
        ("trap;", "trap"),
    ] {
        let said = fault(body);
        assert!(said.contains(words), "{body}\n{said}");
        assert!(said.starts_with("kernel k, block (0,0,0)"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
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

#[test]
fn what_is_not_known_is_refused_with_its_name_and_line() {
    for (body, words) in [
        ("frobnicate.u32 %r1, %r0;", "`frobnicate.u32` is not known"),
        (
            "add.wibble.s32 %r1, %r0, 1;",
            "`add.wibble.s32` is not known",
        ),
        ("add.cc.u32 %r1, %r0, 1;", "`add.cc.u32` is not known"),
        ("div.rz.f32 %f1, %f2, %f3;", "`div.rz.f32` is not known"),
        ("cvt.f32.f64 %f1, %fd1;", "`cvt.f32.f64` is not known"),
        ("add.s32 %r1, %rd0, 1;", "not a register of at most 32 bits"),
        ("mov.u32 %r1, %clock;", "the register `%clock` is not known"),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("add.s32 %r1;", "operand 2 is missing"),
        ("call.uni f;", "`call.uni` is not known"),
    ] {
        let problem = Module::parse(&kernel(body), "test.ptx")
            .unwrap_err()
            .to_string();
        assert!(
            problem.contains(words) && problem.starts_with("test.ptx:"),
            "{body}\n{problem}"
        );
    }
    let newer = kernel("").replace(".version 9.0", ".version 9.1");
    let problem = Module::parse(&newer, "test.ptx").unwrap_err().to_string();
    assert!(
        problem.contains("PTX version 9.1 is newer than 9.0"),
        "{problem}"
    );
    let other = kernel("").replace("sm_90a", "sm_75");
    let problem = Module::parse(&other, "test.ptx").unwrap_err().to_string();
    assert!(problem.contains("sm_75 is not known"), "{problem}");
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let module = Module::parse(&kernel(""), "test.ptx").unwrap();
    let machine = Machine::new(Options::default());
    let launch = |name: &str, grid, block, shared, bytes: usize| {
        let fault = machine
            .launch(&module, name, grid, block, shared, &vec![0; bytes])
            .unwrap_err();
        assert!(fault.refused);
        fault.to_string()
    };
    let one = [1, 1, 1];
    assert!(launch("none", one, one, 0, 20).contains("no such entry"));
    assert!(launch("k", one, [1025, 1, 1], 0, 20).contains("a block of"));
    assert!(launch("k", [0, 1, 1], one, 0, 20).contains("a grid of"));
    assert!(launch("k", one, one, 232_448, 20).contains("sm_90a has 232448"));
    assert!(launch("k", one, one, 0, 19).contains("19 bytes of parameters, but the entry has 20"));
}

//! Faults, and what is refused before anything runs.

use super::*;

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
fn what_is_not_known_is_refused_with_its_name_and_line() {
    for (body, words) in [
        ("frobnicate.u32 %r1, %r0;", "`frobnicate.u32` is not known"),
        (
            "add.wibble.s32 %r1, %r0, 1;",
            "`add.wibble.s32` is not known",
        ),
        ("add.cc.u16 %rs1, %rs1, 1;", "`add.cc.u16` is not known"),
        ("cvt.f32.f64 %f1, %fd1;", "`cvt.f32.f64` is not known"),
        ("add.s32 %r1, %rd0, 1;", "not a register of at most 32 bits"),
        ("mov.u32 %r1, %pm0;", "the register `%pm0` is not known"),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("add.s32 %r1;", "operand 2 is missing"),
        ("call.uni f;", "`f` is no function"),
        (
            "ld.global.v2.b128 %r1, [%rd0];",
            "`ld.global.v2.b128` is not known",
        ),
        ("{ .local .b8 x[600000]; }", "bytes of local memory"),
        ("add.s32 %r1, {{{{{{%r0}}}}}}, 1;", "nested too deep"),
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
    let other = kernel("").replace("sm_90a", "sm_100");
    let problem = Module::parse(&other, "test.ptx").unwrap_err().to_string();
    assert!(problem.contains("sm_100 is not known"), "{problem}");
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let module = Module::parse(&kernel("mov.u32 %r1, cell;"), "test.ptx").unwrap();
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

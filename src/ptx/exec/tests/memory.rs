//! Memory of every kind.

use super::*;

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
fn atomics_of_other_widths() {
    narrow(&[
        (
            "mov.b16 %rs1, 0x3C00; atom.global.add.noftz.f16 %rs2, [%rd0], %rs1; ld.global.u32 %r1, [%rd0];",
            0x3C00,
        ),
        (
            "mov.b16 %rs1, 0; mov.b16 %rs2, 7; atom.global.cas.b16 %rs3, [%rd0+2], %rs1, %rs2; ld.global.u32 %r1, [%rd0];",
            7 << 16,
        ),
        (
            "mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; red.global.gpu.relaxed.add.v2.f32 [%rd0], {%f1, %f2}; ld.global.u32 %r1, [%rd0+4];",
            2f32.to_bits(),
        ),
        (
            "atom.global.v2.max.noftz.f16x2 {%r2, %r3}, [%rd0], {%r0, 0x3C004000}; ld.global.u32 %r1, [%rd0+4];",
            0x3C00_4000,
        ),
        ("ld.relaxed.gpu.global.u32 %r1, [%rd19];", 0x1811_0A03),
        ("ld.global.gpu.acquire.b32 %r1, [%rd19];", 0x1811_0A03),
    ]);
}

#[test]
fn threads_have_memory_of_their_own() {
    let local = "{ .local .align 8 .b8 depot[40]; .reg .b32 %a<3>; mov.b32 %a0, depot; mad.lo.u32 %a1, %r0, 4, 0; and.b32 %a1, %a1, 12; add.u32 %a1, %a1, %a0;";
    narrow(&[
        (
            &format!("{local} st.local.u32 [%a1], %r0; ld.local.u32 %r1, [depot+4]; }}"),
            5,
        ),
        (
            &format!(
                "{local} st.local.v2.u32 [depot+8], {{%r0, 9}}; ld.local.u32 %r1, [depot+12]; }}"
            ),
            9,
        ),
        (
            &format!(
                "{local} st.local.u8 [depot+3], 0x12; st.local.u32 [depot+4], 1; ld.local.s8 %r1, [depot+3]; }}"
            ),
            0x12,
        ),
        (
            &format!(
                "{local} .reg .b64 %g<3>; mov.b64 %g0, depot; cvta.local.u64 %g1, %g0; st.u32 [%g1+16], %r0; ld.local.u32 %r1, [depot+16]; isspacep.local %p1, %g1; @%p1 add.u32 %r1, %r1, 100; }}"
            ),
            105,
        ),
    ]);
    for (body, words) in [
        (
            "{ .local .b32 x; ld.local.u32 %r1, [x+4]; }",
            "out of bounds: byte 4 of 4",
        ),
        ("{ .local .b64 x; ld.local.u32 %r1, [x+2]; }", "misaligned"),
    ] {
        let said = fault(body);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn modules_have_variables() {
    let module = |body: &str| {
        kernel(body).replace(
            ".visible .entry",
            ".const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000};\n\
             .global .align 8 .u64 there = generic(grid)+4;\n\
             .visible .global .align 4 .b8 grid[8] = {1, 2, 3, 4, 5};\n\
             .global .u32 counter = 5;\n.visible .entry",
        )
    };
    let text = module(
        "ld.const.f32 %f1, [table+8]; cvt.rzi.u32.f32 %r1, %f1; ld.global.u64 %rd1, [there]; ld.u8 %r2, [%rd1]; \
         mad.lo.u32 %r1, %r2, 100, %r1; setp.eq.u32 %p1, %r0, 0; @%p1 atom.global.add.u32 %r3, [counter], 1; \
         ld.const.f32 %f2, [table+12]; cvt.rzi.u32.f32 %r4, %f2; add.u32 %r1, %r1, %r4; st.global.u32 [%rd0], %r1; \
         bar.sync 0; ld.volatile.global.u32 %r5, [counter]; st.global.u32 [%rd0+4], %r5;",
    );
    let module = Module::parse(&text, "test.ptx").unwrap();
    let machine = Machine::new(Options::default());
    let out = machine.alloc(256, 16).unwrap();
    machine.fill(out, 256, 0).unwrap();
    let mut params = [out.to_le_bytes(), out.to_le_bytes()].concat();
    params.extend([0; 4]);
    // What one launch writes the next one finds.
    for counter in [6u64, 7] {
        machine
            .launch(&module, "k", [1; 3], [32, 1, 1], 0, &params)
            .unwrap();
        let mut bytes = [0; 8];
        machine.read(out + 40, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 503 | counter << 32);
    }
}

#[test]
fn bytes_of_a_word_are_told_apart() {
    let run = |body: &str| {
        let text = kernel(&format!(
            "mov.u32 %r2, %ctaid.x; cvt.u64.u32 %rd2, %r2; setp.eq.u32 %p1, %r0, 0; {body}"
        ));
        let module = Module::parse(&text, "test.ptx").unwrap();
        let machine = Machine::new(Options::default());
        let memory = machine.alloc(256, 16).unwrap();
        machine.fill(memory, 256, 0).unwrap();
        let mut params = [memory.to_le_bytes(), memory.to_le_bytes()].concat();
        params.extend([0; 4]);
        machine
            .launch(&module, "k", [2, 1, 1], [32, 1, 1], 0, &params)
            .map(|_| ())
            .map_err(|fault| fault.to_string())
    };
    // Each block its own byte.
    assert_eq!(
        run("add.u64 %rd3, %rd19, %rd2; @%p1 st.global.u8 [%rd3], %r2;"),
        Ok(())
    );
    for body in [
        "@%p1 st.global.u8 [%rd19+1], %r2;",
        "mov.b16 %rs1, 1; @%p1 st.global.u16 [%rd19+2], %rs1;",
        // The first block writes, the second one reads the byte, or the word.
        "setp.eq.and.u32 %p2, %r2, 0, %p1; @%p2 st.global.u8 [%rd19+1], 1; setp.eq.and.u32 %p3, %r2, 1, %p1; @%p3 ld.global.u8 %rs1, [%rd19+1];",
        "setp.eq.and.u32 %p2, %r2, 0, %p1; @%p2 st.global.u8 [%rd19+1], 1; setp.eq.and.u32 %p3, %r2, 1, %p1; @%p3 ld.global.u32 %r3, [%rd19];",
        "setp.eq.and.u32 %p2, %r2, 0, %p1; @%p2 st.global.u8 [%rd19+1], 1; setp.eq.and.u32 %p3, %r2, 1, %p1; @%p3 st.global.u32 [%rd19], 9;",
    ] {
        let said = run(body).unwrap_err();
        assert!(said.contains("data race between blocks"), "{body}\n{said}");
    }
}

#[test]
fn lanes_that_meet_in_part() {
    // Each lane writes a word and reads that of the lane 1, or 16, away.
    let exchange = |masks: &str, distance: u32| {
        format!(
            "mov.u32 %r2, cell; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3; st.shared.u32 [%r4], %r0; \
             setp.lt.u32 %p1, %r0, 16; {masks} bar.warp.sync %r5; xor.b32 %r6, %r3, {}; add.u32 %r6, %r6, %r2; ld.shared.u32 %r1, [%r6];",
            4 * distance
        )
    };
    let halves = "selp.b32 %r5, 0xFFFF, 0xFFFF0000, %p1;";
    let run = |body: &str| {
        run_as(body, 32, Schedule::Sequential, Checks::ALL)
            .map(|_| ())
            .map_err(|fault| fault.to_string())
    };
    assert_eq!(run(&exchange(halves, 1)), Ok(()));
    assert_eq!(run(&exchange("mov.u32 %r5, -1;", 16)), Ok(()));
    let said = run(&exchange(halves, 16)).unwrap_err();
    assert!(said.contains("data race: read of shared address"), "{said}");
    // What a lane learnt in one meeting it passes on in the next.
    let chain = format!(
        "{halves} bar.warp.sync %r5; and.b32 %r7, %r0, 8; setp.eq.u32 %p2, %r7, 0; selp.b32 %r5, 0x00FF00FF, 0xFF00FF00, %p2;"
    );
    assert_eq!(run(&exchange(&chain, 24)), Ok(()));
}

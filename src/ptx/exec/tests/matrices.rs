//! Matrices.

use super::*;

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

/// Every shape of integers and f64, and 8-bit floats: A is one everywhere, B two, on top of three.
#[test]
fn matrices_of_every_type() {
    let ones = |k: u32| 2 * k + 3;
    for (shape, types, a, b, registers) in [
        (
            "m8n8k16",
            "s32.s8.u8.s32",
            0x0101_0101u32,
            0x0202_0202u32,
            [1, 1, 2],
        ),
        (
            "m16n8k16",
            "s32.u8.u8.s32",
            0x0101_0101,
            0x0202_0202,
            [2, 1, 4],
        ),
        (
            "m16n8k32",
            "s32.s8.s8.s32",
            0x0101_0101,
            0x0202_0202,
            [4, 2, 4],
        ),
        (
            "m8n8k32",
            "s32.s4.s4.s32",
            0x1111_1111,
            0x2222_2222,
            [1, 1, 2],
        ),
        (
            "m16n8k64",
            "s32.u4.s4.s32",
            0x1111_1111,
            0x2222_2222,
            [4, 2, 4],
        ),
        (
            "m16n8k32",
            "f32.e4m3.e5m2.f32",
            0x3838_3838,
            0x4040_4040,
            [4, 2, 4],
        ),
    ] {
        let k: u32 = shape.rsplit('k').next().unwrap().parse().unwrap();
        let float = types.starts_with("f32");
        let three = if float { 3f32.to_bits() } else { 3 };
        let list = |name: &str, n: usize| vec![name; n].join(", ");
        let results = ["%r1", "%r5", "%r6", "%r7"][..registers[2]].join(", ");
        let body = format!(
            "mov.b32 %r2, {a:#x}; mov.b32 %r3, {b:#x}; mov.b32 %r4, {three:#x}; \
             mma.sync.aligned.{shape}.row.col.{types} {{{results}}}, {{{}}}, {{{}}}, {{{}}};",
            list("%r2", registers[0]),
            list("%r3", registers[1]),
            list("%r4", registers[2]),
        );
        let want = if float {
            (ones(k) as f32).to_bits()
        } else {
            ones(k)
        };
        narrow(&[(&body, want)]);
    }
    // Negative numbers of 4 bits, and clamped sums.
    narrow(&[
        (
            "mov.b32 %r2, 0xFFFFFFFF; mov.b32 %r3, 0x22222222; mov.b32 %r4, 0; \
             mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%r1, %r5}, {%r2}, {%r3}, {%r4, %r4};",
            -64i32 as u32,
        ),
        (
            "mov.b32 %r2, 0x01010101; mov.b32 %r4, 0x7FFFFFFF; \
             mma.sync.aligned.m8n8k16.row.col.satfinite.s32.s8.s8.s32 {%r1, %r5}, {%r2}, {%r2}, {%r4, %r4};",
            0x7FFF_FFFF,
        ),
    ]);
    for (shape, registers) in [("m8n8k4", [1, 1, 2]), ("m16n8k16", [8, 4, 4])] {
        let k: u32 = shape.rsplit('k').next().unwrap().parse().unwrap();
        let list = |name: &str, n: usize| vec![name; n].join(", ");
        let results = ["%fd4", "%fd5", "%fd6", "%fd7"][..registers[2]].join(", ");
        let body = format!(
            "mov.f64 %fd1, 0d3FF0000000000000; mov.f64 %fd2, 0d4000000000000000; mov.f64 %fd3, 0d4008000000000000; \
             mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {{{results}}}, {{{}}}, {{{}}}, {{{}}}; mov.b64 %rd1, %fd4;",
            list("%fd1", registers[0]),
            list("%fd2", registers[1]),
            list("%fd3", registers[2]),
        );
        wide(&[(&body, f64::from(ones(k)).to_bits())]);
    }
}

/// `wmma`: A times the identity is A, by rows or by columns, in every type.
#[test]
fn matrices_of_wmma() {
    // 16 x 16 halves: element (r, c) is r + c / 16 as f16 would be long to write; small integers do.
    let fill = "mov.u32 %r2, dyn; mad.lo.u32 %r3, %r0, 16, %r2; mov.u32 %r4, 0; \
        F: mad.lo.u32 %r5, %r0, 8, %r4; and.b32 %r5, %r5, 63; cvt.rn.f16.u32 %rs1, %r5; mad.lo.u32 %r6, %r4, 2, %r3; st.shared.b16 [%r6], %rs1; \
        and.b32 %r7, %r4, 15; mad.lo.u32 %r8, %r0, 8, %r4; shr.u32 %r9, %r8, 4; and.b32 %r10, %r8, 15; setp.eq.u32 %p1, %r9, %r10; selp.b16 %rs2, 0x3C00, 0, %p1; st.shared.b16 [%r6+512], %rs2; \
        add.u32 %r4, %r4, 1; setp.lt.u32 %p1, %r4, 8; @%p1 bra F; bar.warp.sync -1; mov.u64 %rd1, dyn; cvta.shared.u64 %rd2, %rd1;";
    let load = |part: &str, layout: &str, at: &str, first: u32| {
        let list: Vec<String> = (0..8).map(|i| format!("%r{}", first + i)).collect();
        format!(
            "wmma.load.{part}.sync.aligned.{layout}.m16n16k16.shared.f16 {{{}}}, [{at}], 16;",
            list.join(", ")
        )
    };
    for layout in ["row", "col"] {
        let body = format!(
            "{fill} {} {} mov.f32 %f1, 0f00000000; \
             wmma.mma.sync.aligned.{layout}.col.m16n16k16.f32.f32 {{%f2, %f3, %f4, %f5, %f6, %f7, %f8, %f9}}, {{%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27}}, \
             {{%r28, %r29, %r30, %r31, %r32, %r33, %r34, %r35}}, {{%f1, %f1, %f1, %f1, %f1, %f1, %f1, %f1}}; \
             wmma.store.d.sync.aligned.row.m16n16k16.f32 [%rd2+1024], {{%f2, %f3, %f4, %f5, %f6, %f7, %f8, %f9}}, 16; \
             bar.warp.sync -1; ld.shared.f32 %f10, [dyn+1160]; cvt.rzi.u32.f32 %r1, %f10;",
            load("a", layout, "dyn", 20),
            load("b", "col", "dyn+512", 28),
        );
        // Float 34 of the result is element (2, 2).
        narrow(&[(&body, 34)]);
        let other = body.replace("dyn+1160", "dyn+1164");
        // Element (2, 3): 35, transposed 3 * 16 + 2.
        narrow(&[(&other, if layout == "row" { 35 } else { 50 })]);
    }
}

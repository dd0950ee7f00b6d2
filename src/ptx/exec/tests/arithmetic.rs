//! Integers, floats, comparisons.

use super::*;

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
fn carries() {
    narrow(&[
        ("add.cc.u32 %r2, -1, 1; addc.u32 %r1, 7, 0;", 8),
        ("add.cc.u32 %r2, 1, 1; addc.u32 %r1, 7, 0;", 7),
        ("sub.cc.u32 %r2, 0, 1; subc.u32 %r1, 7, 0;", 6),
        (
            "sub.cc.u32 %r2, 1, 1; subc.cc.u32 %r3, 0, 0; subc.u32 %r1, 7, 2;",
            5,
        ),
        (
            "mad.lo.cc.u32 %r2, -1, -1, -1; madc.hi.u32 %r1, -1, -1, 5;",
            4,
        ),
        ("add.cc.s32 %r2, -1, 2; madc.lo.u32 %r1, %r0, 3, 0;", 16),
        // The carry of a difference is 1 where nothing is borrowed.
        ("sub.cc.u32 %r2, 5, 3; addc.u32 %r1, 0, 0;", 1),
        ("sub.cc.u32 %r2, 3, 5; addc.u32 %r1, 0, 0;", 0),
        // Only lanes that run write the carry.
        (
            "add.cc.u32 %r2, -1, 1; setp.eq.u32 %p1, %r0, 5; @!%p1 add.cc.u32 %r3, 0, 0; addc.u32 %r1, 0, 0;",
            1,
        ),
    ]);
    wide(&[
        (
            "mov.u64 %rd2, -1; add.cc.u64 %rd3, %rd2, 2; addc.u64 %rd1, %rd2, 0;",
            0,
        ),
        ("mov.u64 %rd2, -1; mad.hi.s64 %rd1, %rd2, 7, 9;", 8),
        ("mov.u64 %rd2, -1; mad.hi.u64 %rd1, %rd2, 7, 9;", 15),
    ]);
}

#[test]
fn bits_that_video_and_hashes_use() {
    narrow(&[
        ("add.s16x2 %r1, 0x7FFFFFFF, 0x00010001;", 0x8000_0000),
        ("min.s16x2 %r1, 0x0001FFFF, 0xFFFF0001;", 0xFFFF_FFFF),
        ("max.u16x2 %r1, 0x0001FFFF, 0xFFFF0001;", 0xFFFF_FFFF),
        ("dp2a.lo.s32.u32 %r1, 0xFFFF0002, 0x09090301, 10;", 9),
        ("dp2a.hi.u32.u32 %r1, 0x00010002, 0x02010000, 0;", 4),
        ("mul24.hi.u32 %r1, 0xFFFFFF, 0xFFFFFF;", 0xFFFF_FE00),
        ("mad24.lo.s32 %r1, 0xFFFFFF, 3, 10;", 7),
        (
            "mad.hi.sat.s32 %r1, 0x40000000, 0x40000000, 0x7FFFFFFF;",
            0x7FFF_FFFF,
        ),
        (
            "mov.b16 %rs1, 3; mov.b16 %rs2, 10; sad.u16 %rs3, %rs1, %rs2, 5; cvt.u32.u16 %r1, %rs3;",
            12,
        ),
        (
            "mov.b16 %rs1, 0x8000; mul.hi.s16 %rs2, %rs1, 4; cvt.s32.s16 %r1, %rs2;",
            -2i32 as u32,
        ),
        ("fns.b32 %r1, 0xB0, 0, 2;", 5),
        ("fns.b32 %r1, 0xB0, 6, -1;", 5),
        ("fns.b32 %r1, 0xB0, 0, 4;", u32::MAX),
        ("cvt.pack.sat.u8.s32.b32 %r1, 300, -5, 0x1234;", 0x1234_FF00),
        ("cvt.pack.sat.s16.s32 %r1, 40000, -40000;", 0x7FFF_8000),
        ("cnot.b32 %r1, 0;", 1),
        (
            "vabsdiff4.u32.u32.u32 %r1, 0x10FF0005, 0x20010305, 0;",
            0x10FE_0300,
        ),
        (
            "vabsdiff4.u32.u32.u32.add %r1, 0x10FF0005, 0x20010305, 7;",
            0x10 + 0xFE + 3 + 7,
        ),
        (
            "vadd2.s32.s32.s32.sat %r1, 0x7FFF8000, 0x0001FFFF, 0;",
            0x7FFF_8000,
        ),
        (
            "vmax4.s32.s32.s32 %r1, 0x7F80FF00, 0x00000001, 0;",
            0x7F00_0001,
        ),
    ]);
}

#[test]
fn halves_and_floats_of_8_bits() {
    narrow(&[
        // 448 is the largest e4m3; 1.0625 is a tie, to even.
        (
            "mov.f32 %f2, 0f44800000; mov.f32 %f3, 0f3F880000; cvt.rn.satfinite.e4m3x2.f32 %rs1, %f2, %f3; cvt.u32.u16 %r1, %rs1;",
            0x7E38,
        ),
        (
            "mov.f32 %f2, 0fC7800000; mov.f32 %f3, 0f37000000; cvt.rn.satfinite.e5m2x2.f32 %rs1, %f2, %f3; cvt.u32.u16 %r1, %rs1;",
            0xFB00,
        ),
        (
            "mov.f32 %f2, 0f7FC00000; mov.f32 %f3, 0fBF800000; cvt.rn.satfinite.relu.e4m3x2.f32 %rs1, %f2, %f3; cvt.u32.u16 %r1, %rs1;",
            0x7F00,
        ),
        (
            "mov.b16 %rs1, 0x017E; cvt.rn.f16x2.e4m3x2 %r1, %rs1;",
            0x1800_5F00,
        ),
        (
            "mov.b16 %rs1, 0xFC3C; cvt.rn.f16x2.e5m2x2 %r1, %rs1;",
            0xFC00_3C00,
        ),
        (
            "mov.b32 %r2, 0x7BFF3C00; cvt.rn.satfinite.e4m3x2.f16x2 %rs1, %r2; cvt.u32.u16 %r1, %rs1;",
            0x7E38,
        ),
        (
            "mov.f32 %f2, 0f7F7FFFFF; cvt.rn.satfinite.f16.f32 %rs1, %f2; cvt.u32.u16 %r1, %rs1;",
            0x7BFF,
        ),
        (
            "mov.f32 %f2, 0f7F7FFFFF; cvt.rna.satfinite.tf32.f32 %r1, %f2;",
            0x7F7F_E000,
        ),
        (
            "set.gt.f16x2.f16x2 %r1, 0x3C00C000, 0x38003800;",
            0x3C00_0000,
        ),
        ("set.le.u32.f16x2 %r1, 0x3C00C000, 0x38003800;", 0x0000_FFFF),
        (
            "setp.lt.f16x2 %p1|%p2, 0x40003C00, 0x3E003E00; selp.u32 %r1, 1, 0, %p1; @%p2 add.u32 %r1, %r1, 2;",
            1,
        ),
        (
            "setp.neu.bf16x2 %p1|%p2, 0x7FC03F80, 0x7FC03F80; selp.u32 %r1, 1, 0, %p1; @%p2 add.u32 %r1, %r1, 2;",
            2,
        ),
        (
            "testp.subnormal.f32 %p1, 0f00000001; selp.u32 %r1, 1, 0, %p1;",
            1,
        ),
        (
            "testp.normal.f32 %p1, 0fBF800000; selp.u32 %r1, 1, 0, %p1;",
            1,
        ),
        (
            "testp.finite.f32 %p1, 0fFF800000; selp.u32 %r1, 1, 0, %p1;",
            0,
        ),
        (
            "mov.f64 %fd1, 0dFFF8000000000000; testp.notanumber.f64 %p1, %fd1; selp.u32 %r1, 1, 0, %p1;",
            1,
        ),
    ]);
}

#[test]
fn f64_rounds_as_it_says() {
    let one = 1f64.to_bits();
    let case = |text: &str| {
        format!(
            "mov.f64 %fd1, 0d3FF0000000000000; mov.f64 %fd2, 0d3C90000000000000; {text}; mov.b64 %rd1, %fd3;"
        )
    };
    let table: Vec<(String, u64)> = [
        ("add.rn.f64 %fd3, %fd1, %fd2", one),
        ("add.rp.f64 %fd3, %fd1, %fd2", one + 1),
        ("sub.rz.f64 %fd3, %fd1, %fd2", one - 1),
        (
            "mov.f64 %fd4, 0d4008000000000000; div.rm.f64 %fd3, %fd1, %fd4",
            (1.0f64 / 3.0).to_bits(),
        ),
        (
            "mov.f64 %fd4, 0d4008000000000000; div.rp.f64 %fd3, %fd1, %fd4",
            (1.0f64 / 3.0).to_bits() + 1,
        ),
        (
            "mov.f64 %fd4, 0d4008000000000000; rcp.rp.f64 %fd3, %fd4",
            (1.0f64 / 3.0).to_bits() + 1,
        ),
        (
            "mov.f64 %fd4, 0d4000000000000000; sqrt.rz.f64 %fd3, %fd4",
            2f64.sqrt().to_bits() - 1,
        ),
        ("fma.rp.f64 %fd3, %fd1, %fd1, %fd2", one + 1),
        ("fma.rm.f64 %fd3, %fd1, %fd1, %fd2", one),
        (
            "mov.f64 %fd4, 0d7FEFFFFFFFFFFFFF; mul.rz.f64 %fd3, %fd4, %fd4",
            f64::MAX.to_bits(),
        ),
        (
            "mov.f64 %fd4, 0d4008000000000000; rcp.approx.ftz.f64 %fd3, %fd4",
            (1.0f64 / 3.0).to_bits() >> 32 << 32,
        ),
        (
            "mov.f64 %fd4, 0d4010000000000000; rsqrt.approx.f64 %fd3, %fd4",
            0.5f64.to_bits(),
        ),
    ]
    .into_iter()
    .map(|(text, bits)| (case(text), bits))
    .collect();
    let table: Vec<(&str, u64)> = table
        .iter()
        .map(|(text, bits)| (text.as_str(), *bits))
        .collect();
    wide(&table);
    float(&[
        (
            "div.rp.f32 %f1, 0f3F800000, 0f40400000;",
            (1.0f32 / 3.0).to_bits(),
        ),
        (
            "div.rm.f32 %f1, 0f3F800000, 0f40400000;",
            (1.0f32 / 3.0).to_bits() - 1,
        ),
        ("rcp.rz.f32 %f1, 0fC0400000;", (-1.0f32 / 3.0).to_bits() - 1),
        ("sqrt.rp.f32 %f1, 0f40000000;", 2f32.sqrt().to_bits() + 1),
        ("sqrt.rm.f32 %f1, 0f40000000;", 2f32.sqrt().to_bits()),
    ]);
}

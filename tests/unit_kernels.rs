//! The pieces that kernels are made of, each against a plain definition: shuffles, votes, barriers,
//! atomics, asynchronous copies, matrix fragments, bf16. The kernels are
//! `kernels/simt/tests/unit.cu`, on the PTX machine and on the SIMT runtime.
#![cfg(any(feature = "ptx", feature = "simt"))]

#[path = "support/raw.rs"]
mod raw;

use raw::{On, Order, Raw};

/// `y` on every device and under every schedule: they must agree.
fn run(launch: &Raw) -> Vec<u8> {
    let first = launch.run(On::ALL[0], Order::Sequential, 0, 1).unwrap();
    for on in On::ALL {
        for (order, seed, threads) in [
            (Order::Sequential, 0, 1),
            (Order::Uniform, 1, 2),
            (Order::Pct, 2, 1),
            (Order::Pct, 3, 2),
        ] {
            let again = launch.run(*on, order, seed, threads).unwrap();
            assert!(again == first, "{}: {on:?}, {order:?} differs", launch.name);
        }
    }
    first
}

fn launch<'a>(name: &'static str, threads: u32, x: &'a [u8], y_words: usize) -> Raw<'a> {
    Raw {
        name,
        threads,
        blocks: 1,
        shared_bytes: 0,
        x,
        y_bytes: y_words * 4,
        n: 0,
        m: 0,
    }
}

/// The warp of thread `t`: its values by lane.
fn warp(x: &[i32], t: usize) -> &[i32] {
    &x[t / 32 * 32..][..32]
}

/// What row `row` of `unit_collectives` holds for thread `t`.
fn collective(x: &[i32], row: usize, t: usize) -> i32 {
    let (w, lane) = (warp(x, t), t % 32);
    let within = |segment: usize, from: isize| {
        let start = (lane / segment * segment) as isize;
        let inside = (start..start + segment as isize).contains(&from);
        if inside { w[from as usize] } else { w[lane] }
    };
    let bits = |f: &dyn Fn(i32) -> bool| {
        (0..32).fold(0u32, |mask, l| mask | u32::from(f(w[l])) << l) as i32
    };
    let fold = |f: fn(i32, i32) -> i32| w[1..].iter().fold(w[0], |a, b| f(a, *b));
    let count = x.iter().filter(|v| *v & 1 == 1).count() as i32;
    match row {
        0 => w[5],
        1 => w[lane * 7 % 32],
        2 => w[lane / 8 * 8 + 3],
        3 => within(32, lane as isize - 3),
        4 => within(8, lane as isize - 3),
        5 => within(32, lane as isize + 5),
        6 => within(16, lane as isize + 5),
        7 => w[lane ^ 9],
        // A lower segment may be read, a higher one may not.
        8 if lane ^ 12 <= lane | 7 => w[lane ^ 12],
        8 => w[lane],
        9 => bits(&|v| v & 1 == 1),
        10 => i32::from(w.contains(&7)),
        11 => i32::from(w.iter().all(|v| *v >= 0)),
        12 => bits(&|v| v % 4 == w[lane] % 4),
        13 => fold(i32::wrapping_add),
        14 => fold(i32::min),
        15 => fold(i32::max),
        16 => fold(|a, b| a & b),
        17 => fold(|a, b| a | b),
        18 => fold(|a, b| a ^ b),
        19 if lane < 16 => w[..16].iter().sum(),
        19 => w[20],
        20 => count,
        21 => i32::from(x.contains(&7)),
        22 => i32::from(x.iter().all(|v| *v >= 0)),
        _ => (w[4] as f32).to_bits() as i32,
    }
}

#[test]
fn collectives() {
    for x in [
        (0..64).map(|i| i * 29 % 64).collect::<Vec<i32>>(),
        (0..64).map(|i| i * 13 % 7 - 3).collect(),
    ] {
        let rows = 24;
        let y = run(&launch(
            "unit_collectives",
            64,
            bytemuck::cast_slice(&x),
            rows * 64,
        ));
        let y: &[i32] = bytemuck::cast_slice(&y);
        for row in 0..rows {
            for t in 0..64 {
                let expected = collective(&x, row, t);
                assert_eq!(y[row * 64 + t], expected, "row {row}, thread {t}");
            }
        }
    }
}

#[test]
fn atomics() {
    let blocks = 8;
    let y = run(&Raw {
        blocks,
        ..launch("unit_atomics", 128, &[0; 4], 18)
    });
    let y: &[u32] = bytemuck::cast_slice(&y);
    let n = blocks * 128;
    let sum = n * (n - 1) / 2;
    assert_eq!(y[..4], [sum, (n - 1).wrapping_neg(), n - 1, u32::MAX]);
    let xor = (0..n).fold(0, |a, b| a ^ b);
    assert_eq!(y[4..8], [n % 100, xor, 2 * n, n.wrapping_neg()]);
    assert_eq!(y[8..10], [0, 2 * n], "64 bits");
    assert_eq!(y[10..], [127 * 64; 8], "in shared memory");
}

fn bf16(v: f32) -> u16 {
    half::bf16::from_f32(v).to_bits()
}

#[test]
fn bf16_fragments_and_product() {
    // Small integers: every sum is exact.
    let a: Vec<f32> = (0..256).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
    let b: Vec<f32> = (0..128).map(|i| (i * 5 % 19) as f32 - 9.0).collect(); // [n][k]
    let x: Vec<u16> = a.iter().chain(&b).map(|v| bf16(*v)).collect();
    let y = run(&launch(
        "unit_matrix_bf16",
        32,
        bytemuck::cast_slice(&x),
        256 + 128,
    ));
    let words: &[u32] = bytemuck::cast_slice(&y);
    let pair = |low: f32, high: f32| u32::from(bf16(low)) | u32::from(bf16(high)) << 16;
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for i in 0..4 {
            let at = (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
            assert_eq!(words[lane * 4 + i], pair(a[at], a[at + 1]), "a[{i}]");
        }
        for i in 0..2 {
            let at = g * 16 + 2 * t + 8 * i;
            let expected = pair(b[at], b[at + 1]);
            assert_eq!(words[128 + lane * 2 + i], expected, "b[{i}]");
            assert_eq!(words[192 + lane * 2 + i], expected, "b[{i}] by .trans");
        }
    }
    let d: &[f32] = bytemuck::cast_slice(&words[256..]);
    for m in 0..16 {
        for n in 0..8 {
            let expected: f32 = (0..16).map(|k| a[m * 16 + k] * b[n * 16 + k]).sum();
            assert_eq!(d[m * 8 + n], expected, "D[{m}][{n}]");
        }
    }
}

#[test]
fn tf32_tile() {
    // 1 + 2^-11 is halfway between two tf32 numbers and rounds away from zero.
    let tie = 1.0 + 2.0f32.powi(-11);
    let x: Vec<f32> = (0..32 * 8 + 8 * 16)
        .map(|i| {
            if i % 5 == 0 {
                tie
            } else {
                (i % 13) as f32 - 6.0
            }
        })
        .collect();
    let round = |v: f32| if v == tie { 1.0 + 2.0f32.powi(-10) } else { v };
    let y = run(&launch(
        "unit_matrix_tf32",
        32,
        bytemuck::cast_slice(&x),
        32 * 16,
    ));
    let d: &[f32] = bytemuck::cast_slice(&y);
    for m in 0..32 {
        for n in 0..16 {
            let product = |k: usize| round(x[m * 8 + k]) * round(x[256 + k * 16 + n]);
            let expected = (0..8).map(product).fold(1.0, |a: f32, b| a + b);
            assert_eq!(d[m * 16 + n], expected, "D[{m}][{n}]");
        }
    }
}

#[test]
fn bf16_rounding() {
    let mut x: Vec<f32> = vec![0.0, -0.0, 1.0, f32::MAX, f32::INFINITY, f32::MIN_POSITIVE];
    x.extend((0..4000u32).map(|i| f32::from_bits(0x3F80_0000 + i * 4091)));
    x.extend([0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 1].map(f32::from_bits));
    x.push(f32::NAN);
    let y = run(&Raw {
        n: x.len() as u64,
        ..launch(
            "unit_bf16",
            64,
            bytemuck::cast_slice(&x),
            x.len().div_ceil(2),
        )
    });
    let y: &[u16] = bytemuck::cast_slice(&y);
    for (v, bits) in x.iter().zip(y) {
        let expected = if v.is_nan() { 0x7FFF } else { bf16(*v) };
        assert_eq!(*bits, expected, "{v}");
    }
}

#[test]
fn asynchronous_copies() {
    let x: Vec<u32> = (0..16).map(|i| i + 0x0101_0100).collect();
    for kept in [0, 4, 8, 12, 16] {
        let y = run(&Raw {
            m: kept as u64,
            ..launch("unit_async_copy", 32, bytemuck::cast_slice(&x), 32)
        });
        let y: &[u32] = bytemuck::cast_slice(&y);
        let mut expected = [0; 32];
        expected[..4].copy_from_slice(&x[..4]);
        expected[8..8 + kept / 4].copy_from_slice(&x[8..8 + kept / 4]);
        assert_eq!(y, expected, "{kept} bytes kept");
    }
}

//! Every pass against a plain f64 loop, on every instruction set of this processor.

use super::super::CpuDevice;
use super::super::memory::Arenas;
use super::*;
use crate::device::{ArenaId, Device, Op};

/// One convolution; `ld` gaps are added to every map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// N, H, W, C.
    x: [usize; 4],
    /// K and the kernel's side.
    k: usize,
    side: usize,
    pub(super) window: Window,
    pub(super) gap: usize,
    bias: bool,
    pub(super) accumulate: bool,
}

impl Case {
    fn weights(&self) -> [usize; 4] {
        [self.k, self.side, self.side, self.x[3]]
    }

    fn y(&self) -> [usize; 4] {
        let Window {
            stride,
            padding,
            dilation,
        } = self.window;
        let size = |n: usize| (n + 2 * padding - dilation * (self.side - 1) - 1) / stride + 1;
        [self.x[0], size(self.x[1]), size(self.x[2]), self.k]
    }

    /// Every (x pixel, tap, y pixel) that meet.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (x, y, w) = (self.x, self.y(), self.window);
        for n in 0..y[0] {
            for oy in 0..y[1] {
                for ox in 0..y[2] {
                    for tap in 0..self.side * self.side {
                        let sy = (oy * w.stride + tap / self.side * w.dilation) as isize;
                        let sx = (ox * w.stride + tap % self.side * w.dilation) as isize;
                        let (sy, sx) = (sy - w.padding as isize, sx - w.padding as isize);
                        let inside = (0..x[1] as isize).contains(&sy);
                        if inside && (0..x[2] as isize).contains(&sx) {
                            let from = (n * x[1] + sy as usize) * x[2] + sx as usize;
                            f(from, tap, (n * y[1] + oy) * y[2] + ox);
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn case(x: [usize; 4], k: usize, side: usize, stride: usize, dilation: usize) -> Case {
    Case {
        x,
        k,
        side,
        window: Window {
            stride,
            padding: dilation * (side - 1) / 2,
            dilation,
        },
        gap: 0,
        bias: false,
        accumulate: false,
    }
}

/// Ragged shapes, each plain and as an accumulating channel slice with a bias.
pub(super) fn cases() -> Vec<Case> {
    let mut plain = vec![
        case([1, 1, 1, 1], 1, 1, 1, 1),
        case([2, 5, 7, 3], 21, 1, 1, 1),
        case([1, 9, 8, 17], 33, 1, 1, 1),
        case([2, 6, 5, 8], 12, 1, 2, 1),
        case([1, 5, 4, 1], 1, 3, 1, 1),
        case([2, 7, 9, 5], 21, 3, 1, 1),
        case([2, 8, 7, 16], 18, 3, 2, 1),
        case([1, 7, 7, 19], 40, 3, 1, 2),
        case([2, 5, 6, 18], 7, 3, 1, 12),
        case([1, 13, 11, 3], 20, 7, 2, 1),
        case([1, 9, 9, 24], 9, 7, 2, 1),
        case([1, 10, 12, 5], 6, 3, 3, 2),
        // Several reduction steps, pixel chunks, segments and stretches of panels.
        case([1, 16, 18, 300], 35, 1, 1, 1),
        case([1, 14, 15, 70], 100, 3, 1, 1),
        case([1, 3, 5, 20], 300, 3, 1, 1),
        // Tiles in every pass, plain and by phases.
        case([1, 14, 15, 130], 130, 3, 1, 1),
        case([1, 16, 16, 130], 130, 3, 1, 2),
        case([2, 36, 33, 9], 70, 3, 2, 1),
        case([1, 4, 4, 290], 210, 1, 1, 1),
        case([2, 40, 40, 20], 24, 1, 1, 1),
        // Tiles: odd maps, one row, one column, dilation near and above the map, segments.
        case([2, 13, 12, 40], 48, 3, 1, 1),
        case([1, 1, 37, 64], 64, 3, 1, 1),
        case([1, 29, 1, 33], 70, 3, 1, 1),
        case([1, 15, 13, 48], 40, 3, 1, 6),
        case([1, 9, 8, 64], 50, 3, 1, 8),
        case([1, 5, 6, 24], 32, 3, 1, 9),
        case([2, 33, 35, 32], 48, 3, 1, 2),
    ];
    let unpadded = Case {
        window: Window {
            stride: 2,
            padding: 0,
            dilation: 2,
        },
        ..case([2, 9, 8, 20], 17, 3, 2, 2)
    };
    plain.push(unpadded);
    let sliced = plain.clone().into_iter().map(|c| Case {
        gap: 5,
        bias: true,
        accumulate: true,
        ..c
    });
    plain.iter().copied().chain(sliced).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pass {
    Forward,
    Dgrad,
    Wgrad,
}

/// Values of a tensor, its gaps included.
pub(super) type Values = Vec<f32>;

fn span([n, h, w, c]: [usize; 4], gap: usize) -> usize {
    (n * h * w - 1) * (c + gap) + c
}

/// Small integers, whose sums are exact in f32, or fractions that round.
fn values(len: usize, seed: u32, exact: bool) -> Values {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if exact {
                (state >> 29) as f32 - 3.0
            } else {
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            }
        })
        .collect()
}

/// The tensors of a case: x, w, bias, y, dx, dw, dbias as they are before the call.
pub(super) struct Tensors {
    pub(super) shapes: [[usize; 4]; 4],
    pub(super) gaps: [usize; 4],
    pub(super) data: [Values; 4],
}

impl Tensors {
    /// x, w, bias, y: whichever the pass writes is an output.
    pub(super) fn new(case: &Case, exact: bool) -> Self {
        let shapes = [case.x, case.weights(), [1, 1, 1, case.k], case.y()];
        let gaps = [case.gap, 0, 0, case.gap];
        let data = std::array::from_fn(|i| values(span(shapes[i], gaps[i]), i as u32 + 1, exact));
        Self { shapes, gaps, data }
    }
}

/// What the pass should leave in the tensors, in f64.
pub(super) fn expected(case: &Case, pass: Pass, t: &Tensors) -> [Vec<f64>; 4] {
    let wide = |i: usize| t.data[i].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let [mut x, mut w, mut bias, mut y] = [wide(0), wide(1), wide(2), wide(3)];
    let (c, k) = (case.x[3], case.k);
    let (x_ld, y_ld) = (c + case.gap, k + case.gap);
    let taps = case.side * case.side;
    let clear = |map: &mut [f64], ld: usize, width: usize| {
        for pixel in map.chunks_mut(ld) {
            pixel[..width].fill(0.0);
        }
    };
    match pass {
        Pass::Forward => {
            for pixel in y.chunks_mut(y_ld) {
                for (v, b) in pixel[..k].iter_mut().zip(&bias) {
                    *v = if case.bias { *b } else { 0.0 };
                }
            }
        }
        Pass::Dgrad if !case.accumulate => clear(&mut x, x_ld, c),
        Pass::Wgrad => {
            if !case.accumulate {
                w.fill(0.0);
                bias.fill(0.0);
            }
            for pixel in y.chunks(y_ld) {
                for (b, v) in bias.iter_mut().zip(&pixel[..k]) {
                    *b += v;
                }
            }
        }
        Pass::Dgrad => {}
    }
    case.each(|from, tap, to| {
        for ik in 0..k {
            for ic in 0..c {
                let (ix, iw, iy) = (from * x_ld + ic, (ik * taps + tap) * c + ic, to * y_ld + ik);
                match pass {
                    Pass::Forward => y[iy] += x[ix] * w[iw],
                    Pass::Dgrad => x[ix] += y[iy] * w[iw],
                    Pass::Wgrad => w[iw] += x[ix] * y[iy],
                }
            }
        }
    });
    if pass == Pass::Wgrad && !case.bias {
        bias = wide(2);
    }
    [x, w, bias, y]
}

/// Builds the call of a pass over tensors at `offsets` of an arena.
pub(super) fn call(case: &Case, pass: Pass, v: &[View; 4]) -> Call {
    let [x, w, bias, y] = *v;
    let (op, ins, outs) = match (pass, case.bias) {
        (Pass::Forward, false) => (Op::Conv(case.window), vec![x, w], vec![y]),
        (Pass::Forward, true) => (Op::Conv(case.window), vec![x, w, bias], vec![y]),
        (Pass::Dgrad, _) => (Op::ConvDgrad(case.window), vec![y, w], vec![x]),
        (Pass::Wgrad, false) => (Op::ConvWgrad(case.window), vec![x, y], vec![w]),
        (Pass::Wgrad, true) => (Op::ConvWgrad(case.window), vec![x, y], vec![w, bias]),
    };
    let accumulate = case.accumulate && pass != Pass::Forward;
    Call {
        op,
        ins,
        outs,
        accumulate: if accumulate { 3 } else { 0 },
        workspace: None,
    }
}

fn views(arena: ArenaId, t: &Tensors) -> ([View; 4], usize) {
    let mut end = 0;
    let views = std::array::from_fn(|i| {
        let mut view = View::dense(arena, end, t.shapes[i], DType::F32);
        view.ld += t.gaps[i];
        end += view.span_bytes();
        view
    });
    (views, end)
}

/// A dense vector over everything a view spans.
fn flat(view: &View) -> View {
    View::dense(view.arena, view.offset, [1, 1, 1, view.span()], DType::F32)
}

/// Runs a pass on one instruction set and returns the tensors after it.
fn run(isa: Isa, threads: usize, case: &Case, pass: Pass, t: &Tensors) -> [Values; 4] {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let (probe, end) = views(ArenaId(0), t);
    let [x, w, _, y] = &probe;
    let elements = match pass {
        Pass::Forward => forward_plan(isa, case.window, x, w, y).workspace(threads),
        Pass::Dgrad => dgrad_plan(isa, case.window, y, w, x).workspace(threads),
        Pass::Wgrad => wgrad_plan(isa, case.window, x, y, w).workspace(threads),
    };
    let mut arenas = Arenas::default();
    let arena = arenas.alloc(end + 4 * elements).unwrap();
    let (views, _) = views(arena, t);
    let cx = arenas.context();
    for (view, data) in views.iter().zip(&t.data) {
        cx.f32_mut(view).unwrap().copy_from_slice(data);
    }
    let mut call = call(case, pass, &views);
    let scratch = View::dense(arena, end, [1, 1, 1, elements], DType::F32);
    // Contents are undefined: whatever is read without being written shows.
    cx.f32_mut(&scratch).unwrap().fill(f32::NAN);
    call.workspace = Some(scratch);
    pool.install(|| match pass {
        Pass::Forward => forward_on(isa, &cx, &call, case.window),
        Pass::Dgrad => dgrad_on(isa, &cx, &call, case.window),
        Pass::Wgrad => wgrad_on(isa, &cx, &call, case.window),
    })
    .unwrap();
    views.map(|view| cx.f32(&view).unwrap().to_vec())
}

/// Small integers: equality with f64, gaps between channel slices untouched.
fn exact(pass: Pass) {
    for case in cases() {
        let t = Tensors::new(&case, true);
        let expected = expected(&case, pass, &t);
        for isa in Isa::available() {
            let found = run(isa, 2, &case, pass, &t);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let same = found.iter().zip(expected).all(|(&f, &e)| f64::from(f) == e);
                assert!(same, "{pass:?} {isa:?} tensor {i} of {case:?}");
            }
        }
    }
}

#[test]
fn forward_equals_f64() {
    exact(Pass::Forward);
}

#[test]
fn dgrad_equals_f64() {
    exact(Pass::Dgrad);
}

#[test]
fn wgrad_equals_f64() {
    exact(Pass::Wgrad);
}

/// By tiles whether or not they are cheaper: equality with f64 on small integers, 1 and 3 threads.
#[test]
fn tiles_equal_f64_where_they_are_not_cheaper() {
    let threads = [1, 3].map(|n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n);
        (n, pool.build().unwrap())
    });
    let mut seen = 0;
    for case in cases() {
        let t = Tensors::new(&case, true);
        let expected =
            [Pass::Forward, Pass::Dgrad, Pass::Wgrad].map(|pass| expected(&case, pass, &t));
        let (v, _) = views(ArenaId(0), &t);
        let plain = geometry(case.window, &v[0], [case.side; 2], &v[3], false);
        let turned = geometry(case.window, &v[0], [case.side; 2], &v[3], true);
        let (Some(plain), Some(turned)) =
            (winograd::Tiles::new(&plain), winograd::Tiles::new(&turned))
        else {
            continue;
        };
        seen += 1;
        let (c, k) = (case.x[3], case.k);
        for isa in Isa::available() {
            let forward = winograd::forward::Plan::of(isa, plain, c, k);
            let dgrad = winograd::forward::Plan::of(isa, turned, k, c);
            let wgrad = winograd::wgrad::Plan::of(isa, plain, c, k);
            for (n, pool) in &threads {
                let mut found = [t.data[3].clone(), t.data[0].clone(), t.data[1].clone()];
                let [y, dx, dw] = &mut found;
                let source = |i: usize| Map {
                    data: &t.data[i],
                    ld: v[i].ld,
                };
                let target = |data, ld, accumulate| Target {
                    data,
                    ld,
                    accumulate,
                    finish: None,
                };
                let (x, dy, add) = (source(0), source(3), case.accumulate);
                let (y, dx) = (target(y, v[3].ld, false), target(dx, v[0].ld, add));
                let dw = target(dw, v[1].ld, add);
                let bias = case.bias.then_some(&t.data[2][..]);
                pool.install(|| {
                    let scratch = |elements| vec![f32::NAN; elements];
                    let mut space = scratch(forward.workspace(*n));
                    forward.run(x, &t.data[1], bias, y, &mut space);
                    let mut space = scratch(dgrad.workspace(*n));
                    dgrad.run(dy, &t.data[1], None, dx, &mut space);
                    let mut space = scratch(wgrad.workspace(*n));
                    wgrad.run(x, dy, dw, &mut space);
                });
                let wanted = [&expected[0][3], &expected[1][0], &expected[2][1]];
                for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                    let same = found.iter().zip(wanted).all(|(&f, &e)| f64::from(f) == e);
                    assert!(same, "pass {i} {isa:?} {n} threads {case:?}");
                }
            }
        }
    }
    assert!(seen > 10, "{seen} cases have tiles");
}

/// The cases hold both ways of every pass.
#[test]
fn plans_choose_both_ways() {
    let isa = Isa::detect();
    let mut ways = [[0; 2]; 3];
    for case in cases() {
        let (v, _) = views(ArenaId(0), &Tensors::new(&case, true));
        let [x, w, _, y] = &v;
        let forward = matches!(forward_plan(isa, case.window, x, w, y), Plan::Tiles(_));
        let dgrad = matches!(dgrad_plan(isa, case.window, y, w, x), Plan::Tiles(_));
        let wgrad = matches!(wgrad_plan(isa, case.window, x, y, w), WgradPlan::Tiles(_));
        for (ways, tiles) in ways.iter_mut().zip([forward, dgrad, wgrad]) {
            ways[usize::from(tiles)] += 1;
        }
    }
    assert!(ways.as_flattened().iter().all(|&n| n > 0), "{ways:?}");
}

/// Through the device, workspace from its own answer: 1 and 3 threads agree bit by bit, and with
/// f64 to rounding.
#[test]
fn thread_count_does_not_change_bits() {
    for case in cases() {
        let t = Tensors::new(&case, false);
        for pass in [Pass::Forward, Pass::Dgrad, Pass::Wgrad] {
            let [one, three] = [1, 3].map(|threads| on_device(threads, &case, pass, &t));
            assert_eq!(bits(&one), bits(&three), "{pass:?} {case:?}");
            let expected = expected(&case, pass, &t);
            for (found, expected) in one.iter().flatten().zip(expected.iter().flatten()) {
                let tolerance = 1e-3 + 1e-5 * expected.abs();
                let close = (f64::from(*found) - expected).abs() < tolerance;
                assert!(close, "{pass:?} {case:?}: {found} is not {expected}");
            }
        }
    }
}

fn bits(tensors: &[Values; 4]) -> Vec<u32> {
    tensors.iter().flatten().map(|v| v.to_bits()).collect()
}

fn on_device(threads: usize, case: &Case, pass: Pass, t: &Tensors) -> [Values; 4] {
    let device = CpuDevice::new(threads).unwrap();
    let (_, end) = views(ArenaId(0), t);
    let (views, _) = views(device.alloc(end).unwrap(), t);
    for (view, data) in views.iter().zip(&t.data) {
        device
            .write(&flat(view), bytemuck::cast_slice(data))
            .unwrap();
    }
    let mut call = call(case, pass, &views);
    let bytes = device.workspace_bytes(&call.op, &call.ins, &call.outs);
    let scratch = device.alloc(bytes).unwrap();
    call.workspace = Some(View::dense(scratch, 0, [1, 1, 1, bytes / 4], DType::F32));
    device.run(&call).unwrap();
    views.map(|view| {
        let mut data = vec![0.0f32; view.span()];
        device
            .read(&flat(&view), bytemuck::cast_slice_mut(&mut data))
            .unwrap();
        data
    })
}

#[test]
fn wrong_operands_are_errors() {
    let case = case([1, 5, 5, 4], 6, 3, 1, 1);
    let t = Tensors::new(&case, true);
    let device = CpuDevice::new(1).unwrap();
    let (_, end) = views(ArenaId(0), &t);
    let (good, _) = views(device.alloc(end).unwrap(), &t);
    let fails = |views: &[View; 4]| device.run(&call(&case, Pass::Forward, views)).is_err();
    // No workspace.
    assert!(fails(&good));
    for (tensor, axis) in [(1, 3), (1, 0), (3, 1), (3, 3)] {
        let mut bad = good;
        bad[tensor].shape[axis] -= 1;
        let message = device
            .run(&call(&case, Pass::Forward, &bad))
            .unwrap_err()
            .to_string();
        assert!(message.contains("conv: expected"), "{message}");
    }
}

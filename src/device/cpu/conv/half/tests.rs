//! Every pass against a plain f64 loop over the bf16 operands, on every path: those of this
//! processor, and the AMX path on emulated tiles.

use super::super::super::memory::Arenas;
use super::super::tests::{Case, Pass, Tensors, call, cases, expected};
use super::*;
use crate::device::ArenaId;

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Dgrad, Pass::Wgrad];

fn paths() -> Vec<Path> {
    let mut paths = Path::available();
    paths.push(Path::Emulated);
    paths
}

/// The tensors of a case, every value a bf16 one.
fn tensors(case: &Case, exact: bool) -> Tensors {
    let mut t = Tensors::new(case, exact);
    for v in t.data.iter_mut().flatten() {
        *v = bf16::from_f32(*v).to_f32();
    }
    t
}

/// x, w, bias, y as a pass with results of type `result` has them.
fn dtypes(pass: Pass, result: DType) -> [DType; 4] {
    let (half, float) = (DType::BF16, DType::F32);
    match pass {
        Pass::Forward => [half, half, float, result],
        Pass::Dgrad => [result, half, float, half],
        Pass::Wgrad => [half, float, float, half],
    }
}

fn views(arena: ArenaId, dtypes: [DType; 4], t: &Tensors) -> ([View; 4], usize) {
    let mut end = 0;
    let views = std::array::from_fn(|i| {
        let mut view = View::dense(arena, end, t.shapes[i], dtypes[i]);
        view.ld += t.gaps[i];
        end += view.span_bytes().next_multiple_of(4);
        view
    });
    (views, end)
}

/// Runs a pass and returns the tensors after it, widened.
fn run(path: Path, threads: usize, case: &Case, pass: Pass, result: DType) -> [Vec<f32>; 4] {
    run_tensors(path, threads, case, pass, result, &tensors(case, false))
}

fn run_tensors(
    path: Path,
    threads: usize,
    case: &Case,
    pass: Pass,
    result: DType,
    t: &Tensors,
) -> [Vec<f32>; 4] {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let dtypes = dtypes(pass, result);
    let (probe, end) = views(ArenaId(0), dtypes, t);
    let probe = call(case, pass, &probe);
    let elements = workspace_on(path, &probe.op, &probe.ins, &probe.outs, threads);
    let mut arenas = Arenas::default();
    let arena = arenas.alloc(end + 4 * elements).unwrap();
    let (views, _) = views(arena, dtypes, t);
    let cx = arenas.context();
    for (view, data) in views.iter().zip(&t.data) {
        match view.dtype {
            DType::BF16 => bf16::write(data, cx.map_mut(view).unwrap()),
            _ => cx.f32_mut(view).unwrap().copy_from_slice(data),
        }
    }
    let mut call = call(case, pass, &views);
    let scratch = View::dense(arena, end, [1, 1, 1, elements], DType::F32);
    // Contents are undefined: whatever is read without being written shows.
    cx.f32_mut(&scratch).unwrap().fill(f32::NAN);
    call.workspace = Some(scratch);
    pool.install(|| run_on(path, &cx, &call, case.window))
        .unwrap();
    views.map(|view| match view.dtype {
        DType::BF16 => {
            let data: &[bf16] = cx.map(&view).unwrap();
            data.iter().map(|v| v.to_f32()).collect()
        }
        _ => cx.f32(&view).unwrap().to_vec(),
    })
}

/// Small integers: the f64 sum, rounded where the result is bf16; gaps between channel slices
/// untouched.
#[test]
fn small_integers_are_exact_on_every_path() {
    for case in cases() {
        for pass in PASSES {
            let t = tensors(&case, true);
            let expected = expected(&case, pass, &t);
            for result in [DType::F32, DType::BF16] {
                for path in paths() {
                    let found = run_tensors(path, 2, &case, pass, result, &t);
                    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let half = dtypes(pass, result)[i] == DType::BF16;
                        let want = |&e: &f64| match half {
                            true => bf16::from_f64(e).to_f32(),
                            false => e as f32,
                        };
                        let same = found.iter().zip(expected).all(|(&f, e)| f == want(e));
                        let name = format!("{pass:?} {path:?} {result:?} tensor {i} of {case:?}");
                        assert!(same, "{name}");
                    }
                }
            }
        }
    }
}

/// Fractions: f64 within the rounding of f32 sums (of up to 2 700 products of numbers below 1),
/// and of the bf16 result; and the same bits from 1 thread and from 3.
#[test]
fn fractions_are_near_and_threads_do_not_change_bits() {
    for case in cases() {
        for pass in PASSES {
            let expected = expected(&case, pass, &tensors(&case, false));
            for path in paths() {
                for result in [DType::F32, DType::BF16] {
                    let name = format!("{pass:?} {path:?} {result:?} {case:?}");
                    let [one, three] =
                        [1, 3].map(|threads| run(path, threads, &case, pass, result));
                    let bits = |t: &[Vec<f32>; 4]| -> Vec<u32> {
                        t.iter().flatten().map(|v| v.to_bits()).collect()
                    };
                    assert_eq!(bits(&one), bits(&three), "{name}");
                    let relative = if result == DType::BF16 {
                        1.0 / 256.0
                    } else {
                        1e-5
                    };
                    let pairs = one.iter().flatten().zip(expected.iter().flatten());
                    for (&found, &expected) in pairs {
                        let error = (f64::from(found) - expected).abs();
                        let close = error <= 1e-4 + relative * expected.abs();
                        assert!(close, "{name}: {found} is not {expected}");
                    }
                }
            }
        }
    }
}

/// Operands of two types are refused.
#[test]
fn mixed_operands_are_errors() {
    let case = cases()[1];
    let t = tensors(&case, true);
    let types = [DType::BF16, DType::F32, DType::F32, DType::BF16];
    let mut arenas = Arenas::default();
    let (_, end) = views(ArenaId(0), types, &t);
    let (views, _) = views(arenas.alloc(end).unwrap(), types, &t);
    let mixed = call(&case, Pass::Forward, &views);
    for path in paths() {
        let result = run_on(path, &arenas.context(), &mixed, case.window);
        let message = result.unwrap_err().to_string();
        assert!(message.contains("conv: expected BF16"), "{message}");
    }
}

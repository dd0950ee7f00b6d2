//! Entropy, percentiles, what to keep of the pseudo-labels, score maps.
//!
//! Argmax, percentiles, kept labels and counts are the CPU's bits. Entropies and confidences differ
//! by the last digits of exp and log.

use crate::device::{DType, Op, Shape};
use crate::selftest::{Case, Data, Operand, Tolerance};

const CLOSE: Tolerance = Tolerance::Close {
    rtol: 1e-5,
    atol: 2e-6,
};

/// (name, logits, label size): every ragged way to upsample, and to shrink.
pub(super) const UPSAMPLINGS: [(&str, Shape, [usize; 2]); 12] = [
    ("ragged", [2, 4, 5, 7], [9, 13]),
    ("one pixel to many", [1, 1, 1, 3], [4, 6]),
    ("many to one pixel", [1, 6, 7, 9], [1, 1]),
    ("the same size", [1, 8, 8, 16], [8, 8]),
    ("one class", [1, 3, 3, 1], [5, 6]),
    ("smaller than the logits", [2, 9, 21, 5], [4, 3]),
    ("255 classes", [1, 3, 2, 255], [7, 5]),
    ("rows over 192 pixels", [1, 3, 65, 5], [3, 257]),
    ("times four", [1, 17, 19, 21], [65, 73]),
    ("a row of 513", [1, 3, 129, 21], [9, 513]),
    ("one column", [2, 5, 1, 4], [17, 1]),
    (
        "columns that do not fit in shared memory",
        [1, 2, 201, 150],
        [3, 40],
    ),
];

fn prediction(case: Case, map: Shape) -> Case {
    case.output(map, DType::F32, CLOSE)
        .output(map, DType::U8, Tolerance::Exact)
        .output(map, DType::F32, CLOSE)
}

fn softmax_entropy(name: &str, logits: Operand, [h, w]: [usize; 2], log_eps: f32) -> Case {
    let map = [logits.shape[0], h, w, 1];
    let case = Case::new(name, Op::SoftmaxEntropy { log_eps }).input(logits);
    prediction(case, map)
}

fn softmax_entropies(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (name, shape, size)) in UPSAMPLINGS.into_iter().enumerate() {
        let n = shape.iter().product();
        let logits = Operand::f32(shape, &d.floats(n, 6.0)).gap(i % 3);
        let log_eps = if i % 4 == 3 { 1e-10 } else { 0.0 };
        cases.push(softmax_entropy(name, logits, size, log_eps));
        // Few levels: ties go to the lower class.
        let logits = Operand::f32(shape, &d.ints(n, 1)).gap(i % 2);
        let name = format!("{name}, ties");
        cases.push(softmax_entropy(&name, logits, size, 1e-10 - log_eps));
    }
    let (shape, size) = ([1, 4, 5, 6], [9, 13]);
    for (name, every, value) in [
        ("a NaN here and there", 17, f32::NAN),
        ("NaN everywhere", 1, f32::NAN),
        ("infinities", 23, f32::INFINITY),
        ("minus infinity", 7, f32::NEG_INFINITY),
        ("far apart", 5, 300.0),
    ] {
        let mut logits = d.floats(120, 2.0);
        logits.iter_mut().step_by(every).for_each(|v| *v = value);
        cases.push(softmax_entropy(
            name,
            Operand::f32(shape, &logits),
            size,
            0.0,
        ));
    }
    cases
}

fn percentile(name: &str, map: Shape, values: &[f32], labels: &[u8], q: &[f32]) -> Case {
    Case::new(name, Op::Percentile { ignore: 255 })
        .input(Operand::f32(map, values))
        .input(Operand::u8(map, labels))
        .input(Operand::vector(q))
        .output([1, 1, 1, q.len()], DType::F32, Tolerance::Exact)
}

fn percentiles(d: &mut Data) -> Vec<Case> {
    let q = [80.0, 20.0, 0.0, 100.0, 37.5, 99.9];
    let many: Vec<f32> = (0..19).map(|i| i as f32 * 7.0 - 13.0).collect();
    let (map, n) = ([2, 9, 13, 1], 234);
    let large = [1, 101, 97, 1];
    let mut special = d.floats(n, 1.0);
    for (i, v) in special.iter_mut().enumerate() {
        match i % 8 {
            0 => *v = 0.0,
            1 => *v = -0.0,
            2 => *v = 1e-42,
            3 => *v = -1e-42,
            _ => {}
        }
    }
    let mut nan = d.floats(n, 1.0);
    nan.iter_mut().step_by(5).for_each(|v| *v = f32::NAN);
    // The NaN that x86 makes of inf − inf has its sign set; it sorts last all the same.
    nan.iter_mut().step_by(7).for_each(|v| *v = -f32::NAN);
    let mut infinite = d.floats(n, 1.0);
    infinite
        .iter_mut()
        .step_by(3)
        .for_each(|v| *v = f32::INFINITY);
    infinite
        .iter_mut()
        .step_by(4)
        .for_each(|v| *v = f32::NEG_INFINITY);
    let mut one = vec![255; n];
    one[77] = 0;
    let some = d.labels(n, 7, 255, 0.2);
    let levels: Vec<f32> = d.ints(101 * 97, 3).iter().map(|v| v / 3.0).collect();
    vec![
        percentile("a fifth ignored", map, &d.uniform(n, 0.0, 3.0), &some, &q),
        percentile("all ignored", map, &d.floats(n, 3.0), &vec![255; n], &q),
        percentile("none ignored", map, &d.floats(n, 3.0), &vec![0; n], &q),
        percentile("one value counts", map, &d.floats(n, 3.0), &one, &q),
        percentile("one value", [1, 1, 1, 1], &[2.5], &[0], &q[..1]),
        percentile("two values", [1, 1, 2, 1], &[2.5, -1.0], &[0, 1], &q),
        percentile("zeros of both signs", map, &special, &some, &q),
        percentile("NaN sorts last", map, &nan, &some, &q),
        percentile("infinities", map, &infinite, &some, &q),
        percentile("equal values", map, &vec![0.7; n], &some, &q),
        percentile(
            "several blocks",
            large,
            &d.uniform(101 * 97, 0.0, 3.04),
            &d.labels(101 * 97, 7, 255, 0.2),
            &q[..3],
        ),
        percentile(
            "few levels",
            large,
            &levels,
            &d.labels(101 * 97, 7, 255, 0.2),
            &q,
        ),
        percentile(
            "nineteen thresholds, some outside 0..100",
            map,
            &d.floats(n, 9.0),
            &some,
            &many,
        ),
    ]
}

fn keep_reliable(name: &str, labels: &[u8], entropy: &[f32], threshold: f32) -> Case {
    let map = [1, 1, labels.len(), 1];
    Case::new(name, Op::KeepReliable { ignore: 255 })
        .input(Operand::u8(map, labels))
        .input(Operand::f32(map, entropy))
        .input(Operand::vector(&[threshold]))
}

fn keeps(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in [1, 3, 4, 7, 1029].into_iter().enumerate() {
        let labels = d.labels(n, 7, 255, 0.1);
        // Few levels, so that some equal the threshold.
        let mut entropy: Vec<f32> = d.ints(n, 4).iter().map(|v| v / 8.0 + 0.5).collect();
        if n > 3 {
            entropy[2] = f32::NAN;
        }
        let threshold = [0.5, 0.75, f32::INFINITY, f32::NAN, 0.5][i];
        let case = |name: &str| keep_reliable(name, &labels, &entropy, threshold);
        let map = [1, 1, n, 1];
        cases.push(case("to another map").output(map, DType::U8, Tolerance::Exact));
        cases.push(case("in place").in_place(0, Tolerance::Exact));
    }
    cases
}

/// A window {y, x, height, width} of a map of `size`, of which some pixels were seen before.
fn add_scores(
    d: &mut Data,
    name: &str,
    logits: Shape,
    window: [u32; 4],
    [h, w]: [usize; 2],
    (flip, softmax): (bool, bool),
) -> Case {
    let classes = logits[3];
    let n = logits.iter().product();
    let scores = Operand::f32([1, h, w, classes], &d.ints(h * w * classes, 3));
    let counts = Operand::f32([1, h, w, 1], &d.ints(h * w, 2));
    let tolerance = if softmax { CLOSE } else { Tolerance::Exact };
    Case::new(name, Op::AddScores { flip, softmax })
        .input(Operand::f32(logits, &d.floats(n, 4.0)).gap(usize::from(flip)))
        .input(Operand::u32([1, 1, 1, 4], &window))
        .output_with(scores.gap(usize::from(softmax) * 2), tolerance)
        .output_with(counts, Tolerance::Exact)
}

fn scores(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for modes in [(false, false), (false, true), (true, false), (true, true)] {
        for (name, logits, window, size) in [
            ("inside the map", [1, 3, 4, 7], [2, 3, 9, 11], [12, 15]),
            ("the whole map", [1, 3, 2, 5], [0, 0, 5, 7], [5, 7]),
            ("one pixel", [1, 3, 4, 6], [4, 2, 1, 1], [5, 7]),
            ("an empty window", [1, 2, 2, 3], [1, 1, 0, 3], [4, 5]),
            ("two runs", [1, 2, 50, 3], [1, 3, 2, 197], [4, 201]),
            ("columns in parts", [1, 2, 101, 150], [0, 1, 2, 30], [3, 32]),
        ] {
            cases.push(add_scores(d, name, logits, window, size, modes));
        }
    }
    for softmax in [false, true] {
        let what = if softmax { "probabilities" } else { "logits" };
        for (name, shape) in [
            ("ragged", [1, 9, 13, 7]),
            ("one pixel", [1, 1, 1, 1]),
            ("several blocks", [1, 17, 19, 21]),
            ("255 classes", [1, 5, 9, 255]),
        ] {
            let n: usize = shape.iter().product();
            let map = [1, shape[1], shape[2], 1];
            let counts: Vec<f32> = d
                .indices(n / shape[3], 4)
                .iter()
                .map(|&v| v as f32)
                .collect();
            let scores = match softmax {
                true => d.uniform(n, 0.0, 2.0 / shape[3] as f32),
                false => d.floats(n, 9.0),
            };
            let name = format!("{name}, {what}");
            let case = Case::new(name, Op::FinishScores { softmax })
                .input(Operand::f32(shape, &scores).gap(2))
                .input(Operand::f32(map, &counts));
            cases.push(prediction(case, map));
        }
        let shape = [1, 3, 5, 6];
        let case = Case::new(
            format!("nothing covered, {what}"),
            Op::FinishScores { softmax },
        )
        .input(Operand::f32(shape, &[0.0; 90]))
        .input(Operand::f32([1, 3, 5, 1], &[0.0; 15]));
        cases.push(prediction(case, [1, 3, 5, 1]));
    }
    cases
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "entropy");
    let families = [softmax_entropies, percentiles, keeps, scores];
    families.iter().flat_map(|cases| cases(&mut d)).collect()
}

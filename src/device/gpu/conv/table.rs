//! What the plans are for every convolution of a U2PL step on the VOC network, as a table in the
//! repository, `kernels/conv_plan.tsv`, with what they are predicted to give.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::plan::{Extent, MapPlan, WgradPlan, wgrad_variant};
use super::tiles::{Product, Variant, shape_in_vectors};
use super::{dgrad_axes, extent, forward_axes, phases};
use crate::config::Config;
use crate::device::gpu::driver::PLANNED_MULTIPROCESSORS;
use crate::device::op::ConvNorm;
use crate::device::{ArenaId, DType, Op, View};
use crate::graph::{Graph, TensorId};
use crate::train::session::Blueprint;

const PRODUCT: Product = Product::Bf16;
const MULTIPROCESSORS: usize = PLANNED_MULTIPROCESSORS as usize;
/// Products a clock of a multiprocessor, as in [`Variant`]'s model.
const RATE: usize = 1300;
const MEND: &str = "U2PL_UPDATE_PLANS=1 cargo test --lib conv_plans rewrites the table";

/// A launch, or a group of them, of one shape.
struct Row {
    calls: usize,
    tile: usize,
    tiles: usize,
    whole: usize,
    parts: usize,
    blocks: usize,
    /// Predicted clocks: as planned, and with the tiles and parts of before (tiles of 128 where
    /// 132 of them exist, nothing cut, weight gradients in ⌈256 / tiles⌉ parts).
    clocks: [usize; 2],
    /// Clocks of the products alone, on all multiprocessors.
    least: usize,
    /// `rows × columns` over what whole tiles on whole multiprocessors cover: the share that
    /// one tile a multiprocessor at a time, none cut, would reach.
    quantisation: f64,
}

fn view(graph: &Graph, t: TensorId) -> View {
    let (_, _, ld) = graph.root(t);
    let tensor = graph.tensor(t);
    View {
        arena: ArenaId(0),
        offset: 0,
        shape: tensor.shape,
        ld,
        dtype: tensor.dtype,
    }
}

fn variant_before(extent: Extent, vectors: bool) -> Variant {
    let blocks = extent.rows.div_ceil(128) * extent.columns.div_ceil(128);
    match vectors {
        false => Variant::Any,
        true if extent.rows > 64 && extent.columns > 64 && blocks >= MULTIPROCESSORS => {
            Variant::Large
        }
        true => Variant::Small,
    }
}

fn quantisation(extent: Extent, side: usize) -> f64 {
    let tiles = extent.rows.div_ceil(side) * extent.columns.div_ceil(side);
    let covered = tiles.div_ceil(MULTIPROCESSORS) * MULTIPROCESSORS * side * side;
    (extent.rows * extent.columns) as f64 / covered as f64
}

fn map_row(vectors: bool, extents: &[Extent], depth: usize) -> Row {
    let plan = |&e: &Extent| MapPlan::new(PRODUCT, MULTIPROCESSORS, vectors, Variant::Large, e);
    let before = |&e: &Extent| {
        MapPlan::uncut(variant_before(e, vectors), PRODUCT, MULTIPROCESSORS, e).clocks
    };
    let first = plan(&extents[0]);
    let products: usize = extents.iter().map(|e| e.rows * e.columns).sum::<usize>() * depth;
    Row {
        calls: 0,
        tile: first.variant.side(),
        tiles: first.tiles,
        whole: first.whole,
        parts: first.parts,
        blocks: extents.iter().map(|e| plan(e).blocks()).sum(),
        clocks: [
            extents.iter().map(|e| plan(e).clocks).sum(),
            extents.iter().map(before).sum(),
        ],
        least: products / extents.len() / (RATE * MULTIPROCESSORS),
        quantisation: quantisation(extents[0], first.variant.side()),
    }
}

fn wgrad_row(dy: &View, dw: &View) -> Row {
    let plan = WgradPlan::new(PRODUCT, MULTIPROCESSORS, Variant::Large, [dy, dw], false);
    let [k, r, s, c] = dw.shape;
    let vectors = [k, c].iter().all(|n| n % 8 == 0);
    let variant = wgrad_variant(vectors, Variant::Large, k, c);
    let side = variant.side();
    let tiles = k.div_ceil(side)
        * match vectors {
            true => r * s * c.div_ceil(side),
            false => (r * s * c).div_ceil(side),
        };
    let steps = dy.pixels().div_ceil(PRODUCT.step());
    let before = 256usize.div_ceil(tiles).min(steps / 8).max(1);
    let clocks_before = variant.clocks(
        PRODUCT,
        MULTIPROCESSORS,
        tiles * before,
        steps.div_ceil(before),
    ) + if before > 1 {
        8 * before * dw.elements() / 2500
    } else {
        0
    };
    let blocks = tiles * plan.parts;
    let waves = blocks.div_ceil(MULTIPROCESSORS) * MULTIPROCESSORS;
    Row {
        calls: 0,
        tile: side,
        tiles,
        whole: 0,
        parts: plan.parts,
        blocks,
        clocks: [plan.clocks, clocks_before],
        least: dw.elements() * dy.pixels() / (RATE * MULTIPROCESSORS),
        quantisation: dw.elements() as f64 / (tiles * side * side) as f64 * blocks as f64
            / waves as f64,
    }
}

/// The convolutions of a step by pass and shape.
fn rows() -> BTreeMap<String, Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/voc_blended_1323.yaml");
    let sets = ["train.batch_labeled=4", "train.batch_unlabeled=4"].map(String::from);
    let cfg = Config::load(Some(path.as_ref()), &sets).expect("config");
    let blueprint = Blueprint::new(&cfg, 500 * 500, DType::BF16).expect("blueprint");
    let (graph, _) = blueprint.u2pl.expect("a U2PL step");
    let mut rows = BTreeMap::new();
    for node in graph.nodes() {
        let (Op::Conv(window)
        | Op::ConvMoments(window)
        | Op::ConvBatchNormEval(ConvNorm { window, .. })
        | Op::ConvDgrad(window)
        | Op::ConvWgrad(window)) = node.op
        else {
            continue;
        };
        let at = |t: &TensorId| view(&graph, *t);
        let (a, b, out) = (at(&node.ins[0]), at(&node.ins[1]), at(&node.outs[0]));
        let vectors = shape_in_vectors(&a) && shape_in_vectors(&b);
        let (pass, [x, w], row) = match node.op {
            Op::ConvDgrad(_) => {
                let extents: Vec<Extent> = phases(window, &out)
                    .map(|p| {
                        let axes = dgrad_axes(window, p, &a, &b, &out);
                        extent(PRODUCT, &a, &out, &axes)
                    })
                    .collect();
                let depth = b.shape[0] * b.shape[1] * b.shape[2];
                ("dgrad", [out, b], map_row(vectors, &extents, depth))
            }
            Op::ConvWgrad(_) => ("wgrad", [a, out], wgrad_row(&b, &out)),
            _ => {
                let e = extent(PRODUCT, &a, &out, &forward_axes(window, &a, &b, &out));
                let depth = b.shape[1] * b.shape[2] * b.shape[3];
                ("forward", [a, b], map_row(vectors, &[e], depth))
            }
        };
        let [n, h, width, c] = x.shape;
        let [k, r, s, _] = w.shape;
        let (stride, dilation) = (window.stride, window.dilation);
        let key = format!("{pass}\t{n}x{h}x{width}\t{c}\t{k}\t{r}x{s}\t{stride}\t{dilation}");
        rows.entry(key).or_insert(row).calls += 1;
    }
    rows
}

fn text() -> String {
    let mut text = String::from(
        "# Plans of the convolutions of a U2PL step on the VOC network (ResNet-101, output stride 8, 513 x 513, \
         4 + 4 images, bf16), planned for 132 multiprocessors.\n\
         # Predicted by the model of src/device/gpu/conv/tiles.rs, not measured on a GPU. share: clocks of the \
         products alone / predicted clocks, as planned and before; quantisation: as in one tile a multiprocessor, none cut.\n\
         pass\tx\tc\tk\ttaps\tstride\tdilation\tcalls\ttile\ttiles\twhole\tparts\tblocks\tshare\tshare_before\tquantisation\n",
    );
    let mut totals = BTreeMap::<&str, [usize; 3]>::new();
    let rows = rows();
    for (key, row) in &rows {
        let percent = |clocks: usize| 100 * row.least / clocks.max(1);
        let [now, before] = row.clocks;
        let _ = writeln!(
            text,
            "{key}\t{}\t{}\t{}\t{}\t{}\t{}\t{}%\t{}%\t{:.0}%",
            row.calls,
            row.tile,
            row.tiles,
            row.whole,
            row.parts,
            row.blocks,
            percent(now),
            percent(before),
            100.0 * row.quantisation
        );
        let pass = key.split('\t').next().unwrap_or_default();
        let total = totals.entry(pass).or_default();
        for (sum, n) in total.iter_mut().zip([row.least, now, before]) {
            *sum += row.calls * n;
        }
    }
    for (pass, [least, now, before]) in totals {
        let _ = writeln!(
            text,
            "# {pass}: {now} clocks predicted, {before} before ({:.2} times), products alone {least}",
            before as f64 / now as f64
        );
    }
    text
}

#[test]
fn conv_plans_are_those_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/conv_plan.tsv");
    let text = text();
    if std::env::var_os("U2PL_UPDATE_PLANS").is_some() {
        std::fs::write(path, &text).expect("kernels/conv_plan.tsv");
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert!(recorded == text, "the plans changed; {MEND}\n{text}");
}

/// The shares that the model of one tile a multiprocessor gives: 33 800 rows × 256 columns are 530
/// tiles in five waves of 132, of which the fifth is two tiles.
#[test]
fn quantisation_is_that_of_whole_waves() {
    let share = |rows, columns| {
        let extent = Extent {
            rows,
            columns,
            steps: 1,
        };
        (100.0 * quantisation(extent, 128)).round()
    };
    assert_eq!(share(8 * 65 * 65, 256), 80.0);
    assert_eq!(share(4 * 65 * 65, 256), 67.0);
    assert_eq!(share(8 * 65 * 65, 2048), 97.0);
}

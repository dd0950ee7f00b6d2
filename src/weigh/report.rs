//! What was weighed, as tables and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::chip::Chip;
use super::launch::{Launch, RESOURCES, Resource};
use super::step::Weighing;
use crate::bench::floor::layer_of;
use crate::ptx::{CLASSES, Class};

/// Launches added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    calls: u64,
    launches: u64,
    instructions: [u64; CLASSES],
    wavefronts: [u64; 2],
    sectors: [u64; 2],
    barriers: u64,
    bytes: u64,
    main_loop: [u64; 2],
    exact: bool,
    /// Seconds of each resource alone.
    times: [f64; RESOURCES],
    /// Seconds of the launches that it binds.
    bound: [f64; RESOURCES],
}

impl Sum {
    fn new() -> Self {
        Self {
            exact: true,
            ..Self::default()
        }
    }

    fn add(&mut self, launch: &Launch, times: &[f64; RESOURCES], calls: u64) {
        self.launches += calls;
        for (sum, n) in self.instructions.iter_mut().zip(launch.instructions) {
            *sum += calls * n;
        }
        let pairs = [
            (
                &mut self.wavefronts,
                launch.wavefronts,
                launch.wavefronts_least,
            ),
            (&mut self.sectors, launch.sectors, launch.sectors_least),
            (
                &mut self.main_loop,
                launch.main_loop.instructions,
                launch.main_loop.tensor,
            ),
        ];
        for (sum, a, b) in pairs {
            sum[0] += calls * a;
            sum[1] += calls * b;
        }
        self.barriers += calls * launch.barriers;
        self.bytes += calls * (launch.read_bytes + launch.written_bytes);
        self.exact &= launch.exact;
        let (binds, seconds) = longest(times);
        self.bound[binds as usize] += calls as f64 * seconds;
        for (sum, time) in self.times.iter_mut().zip(times) {
            *sum += calls as f64 * time;
        }
    }

    /// Every launch at the resource that binds it.
    fn seconds(&self) -> f64 {
        self.bound.iter().sum()
    }

    fn binds(&self) -> Resource {
        longest(&self.bound).0
    }

    fn json(&self) -> Value {
        let by = |values: &[f64; RESOURCES]| -> Value {
            let pairs = Resource::ALL.iter().zip(values);
            Value::Object(
                pairs
                    .map(|(r, s)| (r.name().into(), json!(1e3 * s)))
                    .collect(),
            )
        };
        let classes = CLASS_NAMES.iter().zip(self.instructions);
        let classes = classes.map(|(name, n)| ((*name).to_string(), json!(n)));
        json!({
            "calls": self.calls,
            "launches": self.launches,
            "instructions": Value::Object(classes.collect()),
            "loop_instructions": self.main_loop[0],
            "loop_tensor_instructions": self.main_loop[1],
            "wavefronts": self.wavefronts[0],
            "wavefronts_least": self.wavefronts[1],
            "sectors": self.sectors[0],
            "sectors_least": self.sectors[1],
            "barriers": self.barriers,
            "distinct_bytes": self.bytes,
            "counts_exact": self.exact,
            "predicted_least_ms": by(&self.times),
            "predicted_bound_ms": by(&self.bound),
            "predicted_ms": 1e3 * self.seconds(),
            "binds": self.binds().name(),
        })
    }

    fn line(&self, name: &str, whole: f64) -> String {
        let ratio = |[a, b]: [u64; 2]| match b {
            0 => format!("{:>6}", "-"),
            _ => format!("{:>6.2}", a as f64 / b as f64),
        };
        let total: u64 = self.instructions.iter().sum();
        let mut line = format!(
            "  {name:<34} {:>6} {}{:>8.1} {} {} {} {:>7.2}",
            self.launches,
            if self.exact { ' ' } else { '~' },
            total as f64 / 1e6,
            ratio(self.main_loop),
            ratio(self.wavefronts),
            ratio(self.sectors),
            self.bytes as f64 / 1e9
        );
        for time in self.times {
            line += &format!(" {:>7.3}", 1e3 * time);
        }
        let ms = 1e3 * self.seconds();
        line + &format!(
            " {ms:>8.3} {:>5.1} {}\n",
            100.0 * self.seconds() / whole.max(1e-12),
            self.binds().name()
        )
    }
}

/// Names of the classes, in the order of [`Class::ALL`].
pub(super) const CLASS_NAMES: [&str; CLASSES] = [
    "tensor", "shared", "global", "async", "integer", "float", "control",
];
const _: () = assert!(Class::ALL.len() == CLASS_NAMES.len());

fn longest(times: &[f64; RESOURCES]) -> (Resource, f64) {
    let pairs = Resource::ALL.into_iter().zip(*times);
    pairs
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((Resource::Dram, 0.0))
}

/// Sums of a step on a chip.
struct Sums {
    total: Sum,
    kernels: Vec<(String, Sum)>,
    layers: Vec<(String, Sum)>,
    /// By case and kernel.
    cases: Vec<(String, Sum)>,
    /// Blocks that ran, and all of them, of every distinct launch.
    blocks: [u64; 2],
    /// Launches of less than two microseconds, and their seconds.
    short: (u64, f64),
}

/// A launch of less lasts no longer than the gap behind it.
const SHORT: f64 = 2e-6;

impl Sums {
    fn new(weighing: &Weighing, chip: &Chip) -> Self {
        let times: Vec<Vec<[f64; RESOURCES]>> = weighing
            .cases
            .iter()
            .map(|(_, launches)| launches.iter().map(|l| l.times(chip)).collect())
            .collect();
        let mut total = Sum::new();
        let mut kernels: BTreeMap<String, Sum> = BTreeMap::new();
        let mut layers: BTreeMap<String, Sum> = BTreeMap::new();
        let mut cases: BTreeMap<String, Sum> = BTreeMap::new();
        let mut short = (0, 0.0);
        for call in &weighing.calls {
            let (case, launches) = &weighing.cases[call.case];
            let layer = layers.entry(layer_of(&call.layer)).or_default();
            layer.calls += 1;
            total.calls += 1;
            for (i, (launch, times)) in launches.iter().zip(&times[call.case]).enumerate() {
                layer.add(launch, times, 1);
                total.add(launch, times, 1);
                let kernel = kernels.entry(launch.kernel.into()).or_default();
                kernel.add(launch, times, 1);
                let name = format!("{}\n{i:02} {}", case.name, launch.kernel);
                cases.entry(name).or_default().add(launch, times, 1);
                let (_, seconds) = longest(times);
                if seconds < SHORT {
                    short = (short.0 + 1, short.1 + seconds);
                }
            }
        }
        let all = || weighing.cases.iter().flat_map(|(_, launches)| launches);
        Self {
            total,
            kernels: sorted(kernels),
            layers: sorted(layers),
            cases: sorted(cases),
            blocks: [all().map(|l| l.ran).sum(), all().map(|l| l.blocks).sum()],
            short,
        }
    }
}

fn sorted(sums: BTreeMap<String, Sum>) -> Vec<(String, Sum)> {
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.seconds().total_cmp(&a.seconds()));
    sums
}

/// The tables: kernels, layers, with `each` every operation, and the sum.
pub fn text(weighing: &Weighing, chip: &Chip, each: bool) -> String {
    let sums = Sums::new(weighing, chip);
    let whole = sums.total.seconds();
    let mut text = format!(
        "PREDICTION, nothing here was measured: {}, {}, {}, kernels of {} on one {}\n\
         counted by the PTX machine; {} of {} blocks of the distinct launches ran, ~ where some that did not may differ from those that did\n\
         ms: the least that each resource alone takes; a launch takes the longest of its six; no latencies, no gaps between launches\n\n",
        weighing.recipe,
        weighing.program,
        weighing.math.name(),
        weighing.arch,
        chip.title,
        sums.blocks[0],
        sums.blocks[1],
    );
    let mut groups = vec![("kernel", &sums.kernels), ("layer", &sums.layers)];
    if each {
        groups.push(("operation and kernel", &sums.cases));
    }
    for (what, group) in groups {
        text += &format!(
            "  {what:<34} {:>6} {:>9} {:>6} {:>6} {:>6} {:>7}",
            "runs", "Minstr", "/HMMA", "/waves", "/sect", "GB"
        );
        for resource in Resource::ALL {
            text += &format!(" {:>7}", resource.name());
        }
        text += &format!(" {:>8} {:>5} {}\n", "ms", "%", "binds");
        for (name, sum) in group {
            text += &sum.line(&name.replace('\n', " "), whole);
        }
        text += &sums.total.line("total", whole);
        text.push('\n');
    }
    let bound = Resource::ALL.iter().zip(sums.total.bound);
    let bound: Vec<String> = bound
        .filter(|(_, seconds)| *seconds > 0.0)
        .map(|(resource, seconds)| format!("{} {:.2}", resource.name(), 1e3 * seconds))
        .collect();
    text + &format!(
        "predicted least for a step: {:.2} ms of kernels (ms bound by {}); {} launches, {} of them under {:.0} us, {:.2} ms together\n\
         were no two resources ever busy at once: {:.0} ms\n",
        1e3 * whole,
        bound.join(", "),
        sums.total.launches,
        sums.short.0,
        1e6 * SHORT,
        1e3 * sums.short.1,
        1e3 * sums.total.times.iter().sum::<f64>()
    )
}

/// The numbers.
pub fn json(weighing: &Weighing, chip: &Chip) -> Value {
    let sums = Sums::new(weighing, chip);
    let table = |groups: &[(String, Sum)]| -> Value {
        let rows = groups.iter().map(|(name, sum)| (name.clone(), sum.json()));
        Value::Object(rows.collect())
    };
    let mut operations: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, sum) in &sums.cases {
        let (case, kernel) = name.split_once("\n").unwrap_or((name, ""));
        let mut row = sum.json();
        row["kernel"] = json!(kernel.split_once(' ').map_or("", |(_, kernel)| kernel));
        operations.entry(case).or_default().push(row);
    }
    json!({
        "what": "a prediction from counts; nothing was measured",
        "recipe": weighing.recipe,
        "program": weighing.program,
        "precision": weighing.math.name(),
        "arch": weighing.arch.name(),
        "chip": chip.title,
        "total": sums.total.json(),
        "kernels": table(&sums.kernels),
        "layers": table(&sums.layers),
        "operations": operations,
    })
}

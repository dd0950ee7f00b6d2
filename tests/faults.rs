//! Files that turn out bad while a run goes on. The property: the steps done are on disk, and what is
//! left out is counted.
#![cfg(feature = "cli")]

#[path = "support/small.rs"]
mod small;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Once};

use serde_json::Value;
use tempfile::TempDir;
use u2pl_engine::config::Config;
use u2pl_engine::config::schema::Exif;
use u2pl_engine::data::mask::MaskRules;
use u2pl_engine::data::survey::{Survey, Surveyor, Suspect};
use u2pl_engine::data::{Dataset, Part, check, inject};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::eval::{Evaluator, LoadedWeights, Look};
use u2pl_engine::infer::{self, Input, Segmenter};
use u2pl_engine::method::diagnostics::Report;
use u2pl_engine::train::{self, Observer, Options, Silent, Summary};
use u2pl_engine::weights::Reader;
use u2pl_engine::{Error, model};

/// What happens when a file is read.
#[derive(Clone, Debug)]
enum Fault {
    Error(ErrorKind),
    /// The file ends early.
    Short,
    Panic,
    /// Other bytes come.
    Bytes(Vec<u8>),
}

/// Faults by file: how many reads go well, and what then happens to all.
type Faults = HashMap<PathBuf, (usize, Fault)>;

static FAULTS: LazyLock<Mutex<Faults>> = LazyLock::new(Mutex::default);

fn faults() -> std::sync::MutexGuard<'static, Faults> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| inject(Box::new(read)));
    FAULTS.lock().unwrap_or_else(|e| e.into_inner())
}

fn read(path: &Path, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let fault = {
        let mut faults = FAULTS.lock().unwrap_or_else(|e| e.into_inner());
        match faults.get_mut(path) {
            None => return Ok(bytes),
            Some((good @ 1.., _)) => {
                *good -= 1;
                return Ok(bytes);
            }
            Some((_, fault)) => fault.clone(),
        }
    };
    match fault {
        Fault::Error(kind) => Err(kind.into()),
        Fault::Short => Ok(bytes[..bytes.len() / 2].to_vec()),
        Fault::Panic => panic!("index out of bounds in a decoder"),
        Fault::Bytes(other) => Ok(other),
    }
}

const TINY: &str = "\
data: {kind: folder, classes: 4, cache_mib: 0, workers: 2}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: 4, epoch_iters: 4, warmup_epochs: 1, \
lr: 0.01, log_every: 1, val_every: 2}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
";

/// A folder of images: four labelled, some unlabelled, two for validation.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(unlabeled: usize) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let names = |letter: &str, n: usize| -> Vec<String> {
            (0..n).map(|i| format!("{letter}{i}")).collect()
        };
        for (list, letter, n) in [("l", "l", 4), ("u", "u", unlabeled), ("v", "v", 2)] {
            let names = names(letter, n);
            for (i, name) in names.iter().enumerate() {
                place.put(
                    &place.image(name),
                    &png(&colors(i + letter.len() * 7), true),
                );
                if letter != "u" {
                    place.put(&place.mask(name), &png(&classes(i), false));
                }
            }
            fs::write(place.path(&format!("{list}.txt")), names.join("\n")).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.path(&format!("images/{name}.png"))
    }

    fn mask(&self, name: &str) -> PathBuf {
        self.path(&format!("masks/{name}.png"))
    }

    fn put(&self, path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn config(&self, sets: &[&str]) -> Config {
        let root = self.dir.path().display();
        let mut all = vec![
            format!("data.root={root}"),
            format!("data.labeled={root}/l.txt"),
            format!("data.unlabeled={root}/u.txt"),
            format!("data.val={root}/v.txt"),
        ];
        all.extend(sets.iter().map(ToString::to_string));
        Config::parse("test", TINY, &all).unwrap()
    }

    fn train(
        &self,
        out: &str,
        sets: &[&str],
        resume: bool,
        max_iters: Option<usize>,
        observer: &mut dyn Observer,
    ) -> Result<Summary, Error> {
        let options = Options {
            device: Arc::new(CpuDevice::new(1).unwrap()),
            out: self.path(out),
            init: None,
            resume,
            new_data: false,
            max_iters,
            profile: false,
            check: u2pl_engine::contact::Check::default(),
        };
        train::run(self.config(sets), &options, observer)
    }

    /// The bytes of a run's last checkpoint.
    fn last(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("checkpoints/last.safetensors")).unwrap()
    }

    /// Lines of a run's metrics but those on the machine and the time.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        let lines = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines
            .filter(|l| l.get("machine").is_none() && l.get("end").is_none())
            .collect()
    }

    fn iteration(&self, out: &str) -> usize {
        let path = self.path(out).join("checkpoints/last.safetensors");
        let file = Reader::open(&path).unwrap();
        file.meta("iteration").unwrap().parse().unwrap()
    }
}

const SIDE: (usize, usize) = (40, 36);

fn colors(seed: usize) -> Vec<u8> {
    let value = |i: usize| ((i / 3 % SIDE.0 * (seed + 3) + i / 120 * 5 + i % 3 * 60) % 251) as u8;
    (0..3 * SIDE.0 * SIDE.1).map(value).collect()
}

fn classes(seed: usize) -> Vec<u8> {
    let class = |i: usize| ((i % SIDE.0 / 10 + i / SIDE.0 / 12 + seed) % 4) as u8;
    (0..SIDE.0 * SIDE.1).map(class).collect()
}

fn png(pixels: &[u8], rgb: bool) -> Vec<u8> {
    sized(SIDE, pixels, rgb)
}

fn sized((width, height): (usize, usize), pixels: &[u8], rgb: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(match rgb {
        true => png::ColorType::Rgb,
        false => png::ColorType::Grayscale,
    });
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Does something when so many steps are done.
struct At<F: FnMut()> {
    step: usize,
    act: F,
}

impl<F: FnMut()> Observer for At<F> {
    fn step(&mut self, done: usize, _: f32, _: Option<&Report>) {
        if done == self.step {
            (self.act)();
        }
    }
}

/// The error of a run that saved its steps: it names the file, in one line, with exit code 2.
#[track_caller]
fn saved(result: Result<Summary, Error>, file: &Path) -> usize {
    let error = result.map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    assert!(text.contains(&name), "{text}");
    match error {
        Error::Saved { iteration, .. } => {
            assert!(text.contains("--resume"), "{text}");
            iteration
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_labelled_or_validation_file_that_turns_bad_leaves_the_steps_on_disk() {
    let place = Place::new(6);
    place.train("whole", &[], false, None, &mut Silent).unwrap();
    let bad_class = png(&[7; SIDE.0 * SIDE.1], false);
    let small = sized((20, 20), &[0; 400], false);
    let other = sized((80, 60), &[9; 3 * 80 * 60], true);
    let cases = [
        (
            place.image("l1"),
            3,
            Fault::Error(ErrorKind::PermissionDenied),
        ),
        (place.image("l2"), 2, Fault::Error(ErrorKind::NotFound)),
        (place.image("l0"), 4, Fault::Short),
        (place.image("l3"), 3, Fault::Panic),
        (place.image("l3"), 2, Fault::Bytes(other)),
        // The mask is read once at the start.
        (place.mask("l1"), 3, Fault::Bytes(bad_class.clone())),
        (place.mask("l2"), 4, Fault::Panic),
        (place.mask("l0"), 3, Fault::Bytes(small)),
        (place.mask("l0"), 3, Fault::Bytes(Vec::new())),
        // A validation and its picture read these once each, the start the masks.
        (place.image("v1"), 0, Fault::Short),
        (place.image("v0"), 1, Fault::Panic),
        (place.mask("v1"), 1, Fault::Bytes(bad_class)),
        (place.mask("v0"), 3, Fault::Error(ErrorKind::Other)),
    ];
    for (i, (file, good, fault)) in cases.into_iter().enumerate() {
        let out = format!("run{i}");
        let what = format!("{} {fault:?}", file.display());
        faults().insert(file.clone(), (good, fault));
        let done = saved(place.train(&out, &[], false, None, &mut Silent), &file);
        faults().remove(&file);
        assert!(done > 0, "{what}");
        assert_eq!(place.iteration(&out), done, "{what}");
        // The metrics of those steps are there, and with the file back the run ends as if nothing had
        // happened.
        let steps = |lines: &[Value]| lines.iter().filter(|l| l.get("loss").is_some()).count();
        assert!(steps(&place.metrics(&out)) + 1 >= done, "{what}");
        place.train(&out, &[], true, None, &mut Silent).unwrap();
        // A validation that failed is not made up for: its score, in the header, may differ.
        let whole = place.last("whole");
        assert!(
            place.last(&out).ends_with(&whole[whole.len() / 4..]),
            "{what}"
        );
    }
}

#[test]
fn a_file_that_vanishes_at_a_chosen_step() {
    let place = Place::new(6);
    for (i, (name, step)) in [("l0", 1), ("l2", 5), ("v0", 9)].into_iter().enumerate() {
        let (out, file) = (format!("run{i}"), place.image(name));
        let bytes = fs::read(&file).unwrap();
        let mut gone = At {
            step,
            act: || fs::remove_file(&file).unwrap(),
        };
        let done = saved(place.train(&out, &[], false, None, &mut gone), &file);
        assert!(done >= step, "{name}: {done}");
        assert_eq!(place.iteration(&out), done);
        // Without the file the run is refused, by the name of the line; with it it goes on.
        let error = place.train(&out, &[], true, None, &mut Silent).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        fs::write(&file, bytes).unwrap();
        place.train(&out, &[], true, None, &mut Silent).unwrap();
        assert_eq!(place.iteration(&out), 16);
    }
}

#[test]
fn when_the_checkpoint_cannot_be_written_both_reasons_are_told_and_the_old_one_stays() {
    let place = Place::new(6);
    let file = place.image("l0");
    faults().insert(file.clone(), (2, Fault::Short));
    let folder = place.path("run/checkpoints");
    let aside = place.path("run/aside");
    // As on a disk that is full or gone: nothing can be written there.
    let mut full = At {
        step: 1,
        act: || {
            fs::rename(&folder, &aside).unwrap();
            fs::write(&folder, "no folder").unwrap();
        },
    };
    let error = place.train("run", &[], false, None, &mut full).unwrap_err();
    faults().remove(&file);
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(
        text.contains("l0.png") && text.contains("last.safetensors"),
        "{text}"
    );
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    assert_eq!(place.iteration("run"), 0);
    place.train("run", &[], true, None, &mut Silent).unwrap();
    assert_eq!(place.iteration("run"), 16);
}

/// Makes two of 40 unlabelled images unusable, in ways that only their pixels show.
fn two_bad(place: &Place) -> [PathBuf; 2] {
    let files = [place.image("u7"), place.image("u31")];
    faults().insert(files[0].clone(), (0, Fault::Short));
    faults().insert(files[1].clone(), (0, Fault::Panic));
    files
}

fn skipped(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter_map(|l| l.get("skipped")).collect()
}

/// Steps enough to draw each of 40 unlabelled images.
const LONG: [&str; 3] = [
    "train.epoch_iters=20",
    "train.epochs=3",
    "train.val_every=3",
];

#[test]
fn unusable_unlabelled_images_give_their_places_to_others_the_same_every_time() {
    let place = Place::new(40);
    let bad = two_bad(&place);
    place
        .train("whole", &LONG, false, None, &mut Silent)
        .unwrap();
    let lines = place.metrics("whole");
    let found = skipped(&lines);
    let mut files: Vec<PathBuf> = found
        .iter()
        .map(|s| s["file"].as_str().unwrap().into())
        .collect();
    files.sort();
    let mut expected = bad.to_vec();
    expected.sort();
    assert_eq!(files, expected);
    assert_eq!([&found[0]["images"], &found[1]["images"]], [1, 2]);
    let last = lines.iter().rfind(|l| l.get("loss").is_some()).unwrap();
    assert_eq!(last["unusable"], 2);

    // Neither threads nor memory show, and neither do breaks.
    for (i, sets) in [
        ["data.workers=1", "data.cache_mib=0"],
        ["data.workers=5", "data.cache_mib=9"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("again{i}");
        let sets = [&LONG[..], &sets[..]].concat();
        place.train(&out, &sets, false, None, &mut Silent).unwrap();
        // The header tells of the settings; behind it lie the tensors.
        let whole = place.last("whole");
        assert!(place.last(&out).ends_with(&whole[whole.len() / 4..]));
        assert_eq!(skipped(&place.metrics(&out)), found);
    }
    for stops in [vec![13, 20], vec![30], vec![24, 25, 26, 57]] {
        let out = format!("broken{}", stops.len());
        for (i, stop) in stops.iter().enumerate() {
            place
                .train(&out, &LONG, i > 0, Some(*stop), &mut Silent)
                .unwrap();
        }
        place.train(&out, &LONG, true, None, &mut Silent).unwrap();
        assert!(place.last(&out) == place.last("whole"), "{stops:?}");
        assert_eq!(place.metrics(&out), lines, "{stops:?}");
    }
    for file in bad {
        faults().remove(&file);
    }
}

#[test]
fn one_unusable_image_too_many_ends_the_run_and_its_steps_are_saved() {
    let place = Place::new(40);
    let bad = two_bad(&place);
    for (out, sets, most) in [
        ("none", "data.max_bad_unlabeled=0", "0 are allowed"),
        ("one", "data.max_bad_unlabeled=0.03", "1 are allowed"),
    ] {
        let sets = [&LONG[..], &[sets]].concat();
        let error = place
            .train(out, &sets, false, None, &mut Silent)
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(most) && text.contains("max_bad_unlabeled"),
            "{text}"
        );
        assert!(
            bad.iter().any(|b| text.contains(&b.display().to_string())),
            "{text}"
        );
        let Error::Saved { iteration, .. } = error else {
            panic!("{text}");
        };
        assert!(iteration >= 20);
        assert_eq!(place.iteration(out), iteration);
    }
    // Restored, they count no more, and the runs go on.
    for file in bad {
        faults().remove(&file);
    }
    for (out, share) in [("none", "0"), ("one", "0.03")] {
        let share = format!("data.max_bad_unlabeled={share}");
        let sets = [&LONG[..], &[share.as_str()]].concat();
        place.train(out, &sets, true, None, &mut Silent).unwrap();
        assert_eq!(place.iteration(out), 60);
    }
}

#[test]
fn unlabelled_images_that_are_bad_from_the_start_are_skipped_alike() {
    let place = Place::new(40);
    fs::write(place.image("u3"), b"").unwrap();
    fs::remove_file(place.image("u20")).unwrap();
    let found = check(&place.config(&LONG)).unwrap();
    assert_eq!(found.unusable, [3, 20]);
    place.train("run", &LONG, false, None, &mut Silent).unwrap();
    fs::write(place.image("u5"), b"no image").unwrap();
    let error = check(&place.config(&LONG)).unwrap_err().to_string();
    for says in ["u3.png", "u20.", "u5.png", "3 of 40", "2 are allowed"] {
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn masks_of_unlabelled_images_never_matter() {
    let place = Place::new(8);
    place
        .train("without", &[], false, None, &mut Silent)
        .unwrap();
    let kinds: [(&str, Vec<u8>); 8] = [
        ("another void", png(&[254; SIDE.0 * SIDE.1], false)),
        ("another size", sized((20, 20), &[0; 400], false)),
        ("colours", png(&colors(1), true)),
        ("nothing", Vec::new()),
        ("no PNG", b"II*\0".to_vec()),
        ("cut", png(&classes(3), false)[..60].to_vec()),
        ("cut late", {
            let whole = png(&classes(3), false);
            whole[..whole.len() - 20].to_vec()
        }),
        ("right", png(&classes(3), false)),
    ];
    for (i, (what, bytes)) in kinds.iter().enumerate() {
        for k in 0..8 {
            place.put(&place.mask(&format!("u{k}")), bytes);
        }
        let out = format!("with{i}");
        place.train(&out, &[], false, None, &mut Silent).unwrap();
        assert!(place.last(&out) == place.last("without"), "{what}");
    }
    // One that fails while the run goes on, and one that is a folder.
    faults().insert(place.mask("u1"), (0, Fault::Panic));
    fs::remove_file(place.mask("u2")).unwrap();
    fs::create_dir(place.mask("u2")).unwrap();
    place.train("panic", &[], false, None, &mut Silent).unwrap();
    faults().remove(&place.mask("u1"));
    assert!(place.last("panic") == place.last("without"));
}

#[test]
fn a_bad_file_costs_eval_infer_and_the_check_that_file() {
    for (fault, says) in [
        (Fault::Panic, "decoder failed"),
        (Fault::Short, "truncated or damaged"),
        (Fault::Bytes(b"BM".to_vec()), "neither a JPEG nor a PNG"),
        (Fault::Error(ErrorKind::NotFound), "cannot read the image"),
        (Fault::Error(ErrorKind::Other), "cannot read the image"),
    ] {
        one_bad_file(fault, says);
    }
}

fn one_bad_file(fault: Fault, says: &str) {
    let place = Place::new(2);
    let cfg = place.config(&["data.val=l.txt"]);
    let bad = place.image("l2");
    faults().insert(bad.clone(), (0, fault));

    // eval
    let device: Arc<dyn u2pl_engine::device::Device> = Arc::new(CpuDevice::new(1).unwrap());
    let layout = model::layout(&cfg.model, 4).unwrap();
    let (weights, buffers) = model::init(&layout, 1);
    let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers).unwrap();
    let dataset = Dataset::open(&cfg, Part::Val).unwrap();
    let mut evaluator = Evaluator::new(device.clone(), &cfg, layout);
    let mut seen = Vec::new();
    evaluator
        .each(
            loaded.weights(),
            &dataset,
            Look::Counts,
            &mut |i, scored| {
                seen.push((i, scored.map(|_| ()).map_err(|e| e.to_string())));
                Ok(())
            },
        )
        .unwrap();
    let failed: Vec<_> = seen.iter().filter(|(_, r)| r.is_err()).collect();
    assert_eq!((seen.len(), failed.len(), failed[0].0), (4, 1, 2));
    assert!(failed[0].1.as_ref().unwrap_err().contains("l2.png"));

    // infer
    let small = small::config();
    let segmenter =
        Segmenter::new(small::network(&small, device), infer::Options::default()).unwrap();
    let images: Vec<Input> = ["l0", "l1", "l2", "l3"]
        .iter()
        .map(|name| Input {
            path: place.image(name),
            name: name.into(),
        })
        .collect();
    for batch in [1, 3] {
        let options = infer::files::Options {
            out: place.path(&format!("out{batch}")),
            force: false,
            overlay: false,
            entropy: false,
            logits: false,
            min_confidence: None,
            batch,
            threads: 2,
            exif: Exif::Apply,
        };
        infer::files::prepare(&options, &images).unwrap();
        let mut results = Vec::new();
        infer::files::run(&segmenter, &images, &options, &mut |outcome| {
            results.push(outcome.result.map(|_| ()).map_err(|e| e.to_string()));
        })
        .unwrap();
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3);
        let error = results[2].as_ref().unwrap_err();
        assert!(error.contains("l2.png") && error.contains(says), "{error}");
        for name in ["l0", "l1", "l3"] {
            assert!(options.out.join(format!("masks/{name}.png")).is_file());
        }
    }

    // dataset check
    let rules = MaskRules::new(&cfg.data);
    let samples: Vec<_> = dataset.samples().iter().collect();
    let look = |fast| {
        let with = Surveyor {
            rules: Some(&rules),
            ignore: 255,
            exif: Exif::Apply,
            fast,
            seen: &|| {},
        };
        Survey::of(&samples, with).suspicious
    };
    let found = look(false);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].line.contains("l2.png"), "{found:?}");
    assert_eq!((found[0].sample, found[0].kind), (2, Suspect::Image));
    assert!(look(true).is_empty());
    faults().remove(&bad);
}

#[test]
fn without_a_labelled_pixel_there_is_no_score_and_best_follows_last() {
    let place = Place::new(6);
    for name in ["v0", "v1"] {
        place.put(&place.mask(name), &png(&[255; SIDE.0 * SIDE.1], false));
    }
    let best = place.path("run/checkpoints/best.safetensors");
    let mut before = Vec::new();
    let mut keep = At {
        step: 10,
        act: || before = fs::read(&best).unwrap(),
    };
    let summary = place.train("run", &[], false, None, &mut keep).unwrap();
    assert_eq!((summary.student_miou, summary.teacher_miou), (None, None));
    let lines = place.metrics("run");
    let scores: Vec<&Value> = lines.iter().filter_map(|l| l.get("val")).collect();
    assert_eq!(scores.len(), 2);
    assert!(scores.iter().all(|v| v["miou"].is_null()), "{scores:?}");
    // It was the network of the first validation, and is that of the last.
    let file = Reader::open(&best).unwrap();
    assert_eq!(file.meta("iteration"), Some("16"));
    assert!(!before.is_empty() && before != fs::read(&best).unwrap());
}

#[test]
fn classes_without_a_mask_are_known_before_the_first_step() {
    let place = Place::new(6);
    let absent = |sets: &[&str]| -> [Vec<u8>; 2] {
        let cfg = place.config(sets);
        let found = check(&cfg).unwrap();
        [found.labeled_held, found.val_held].map(|h| h.absent(&cfg.data))
    };
    let none: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    assert_eq!(absent(&[]), none);
    // One class too many.
    assert_eq!(absent(&["data.classes=5"]), [vec![4u8], vec![4]]);
    // A class that is void everywhere, and one that another takes over.
    assert_eq!(absent(&["data.remap={0: 255}"]), [vec![0u8], vec![0]]);
    assert_eq!(absent(&["data.remap={3: 1}"]), [vec![3u8], vec![3]]);
    // A class in the labelled masks alone.
    for name in ["v0", "v1"] {
        let two: Vec<u8> = classes(0).iter().map(|c| c % 2).collect();
        place.put(&place.mask(name), &png(&two, false));
    }
    assert_eq!(absent(&[]), [Vec::<u8>::new(), vec![2, 3]]);
    place
        .train("run", &[], false, Some(2), &mut Silent)
        .unwrap();
    let lines = place.metrics("run");
    assert_eq!(lines[0]["absent"]["val"], serde_json::json!([2, 3]));
}

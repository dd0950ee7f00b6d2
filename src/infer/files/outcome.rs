//! What became of each image, and of all of them together.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::Error;

/// What became of one image.
#[derive(Debug)]
pub struct Outcome {
    /// The image.
    pub path: PathBuf,
    /// What was found in it and written, or why nothing was.
    pub result: Result<Written, Error>,
}

/// What was found in an image and written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The files, each with the folder that says its kind.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Pixels of each class.
    pub pixels: Vec<u64>,
    /// Pixels that were given no class.
    pub void: u64,
    /// Mean over all pixels of the probability of the most probable class.
    pub confidence: f64,
    /// Mean over all pixels of the entropy, nats.
    pub entropy: f64,
    /// Time it took, waiting for its turn not counted.
    pub took: Took,
    /// When its last file was there.
    pub at: Instant,
}

/// Time that an image took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// To be read and decoded.
    pub decode: Duration,
    /// In the network: of the batch that it was in.
    pub network: Duration,
    /// To be drawn, encoded and written.
    pub write: Duration,
}

impl Took {
    /// From the image's file to those of its results.
    pub fn whole(&self) -> Duration {
        self.decode + self.network + self.write
    }
}

impl Outcome {
    /// As an object for programs to read; `classes` are the names of the classes, if they have any.
    pub fn to_json(&self, classes: &[String]) -> Value {
        let path = self.path.display().to_string();
        let written = match &self.result {
            Ok(written) => written,
            Err(error) => return json!({ "path": path, "error": error.to_string() }),
        };
        let all = (written.width * written.height).max(1) as f64;
        let share = |n: u64| n as f64 / all;
        let present = written.pixels.iter().enumerate().filter(|&(_, &n)| n > 0);
        let shares: Vec<Value> = present
            .map(|(class, &n)| {
                let name = classes.get(class);
                json!({ "class": class, "name": name, "share": share(n) })
            })
            .collect();
        let files = written.files.iter();
        let files: Map<String, Value> = files
            .map(|(kind, path)| (kind.to_string(), path.display().to_string().into()))
            .collect();
        json!({
            "path": path,
            "width": written.width,
            "height": written.height,
            "files": files,
            "classes": shares,
            "void": share(written.void),
            "confidence": written.confidence,
            "entropy": written.entropy,
            "ms": ms(written.took.whole()),
            "decode_ms": ms(written.took.decode),
            "network_ms": ms(written.took.network),
            "write_ms": ms(written.took.write),
        })
    }
}

/// A run over images: how many, how fast.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Images that were segmented.
    pub done: usize,
    /// Images that could not be.
    pub failed: usize,
    started: Instant,
    loaded: Instant,
    first: Option<Instant>,
    ended: Instant,
    pixels: u64,
    network: Vec<Duration>,
    whole: Vec<Duration>,
}

impl Summary {
    /// Of a run that was started at `started` and is now ready for its first image.
    pub fn new(started: Instant) -> Self {
        let now = Instant::now();
        Self {
            done: 0,
            failed: 0,
            started,
            loaded: now,
            first: None,
            ended: now,
            pixels: 0,
            network: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Counts an image.
    pub fn add(&mut self, outcome: &Outcome) {
        self.ended = Instant::now();
        let Ok(written) = &outcome.result else {
            self.failed += 1;
            return;
        };
        self.done += 1;
        self.pixels += (written.width * written.height) as u64;
        self.network.push(written.took.network);
        self.whole.push(written.took.whole());
        self.first = Some(self.first.map_or(written.at, |first| first.min(written.at)));
    }

    /// All images, segmented or not.
    pub fn images(&self) -> usize {
        self.done + self.failed
    }

    /// Seconds from the first image's start to the last one's end.
    fn seconds(&self) -> f64 {
        (self.ended - self.loaded).as_secs_f64()
    }

    fn load_seconds(&self) -> f64 {
        (self.loaded - self.started).as_secs_f64()
    }

    /// Seconds from the start of the program to the first image's files.
    fn first_seconds(&self) -> Option<f64> {
        self.first.map(|at| (at - self.started).as_secs_f64())
    }

    fn per_second(&self, count: f64) -> Option<f64> {
        (self.done > 0).then(|| count / self.seconds().max(f64::MIN_POSITIVE))
    }

    /// Images a second.
    fn images_per_second(&self) -> Option<f64> {
        self.per_second(self.done as f64)
    }

    /// Million pixels a second.
    fn megapixels_per_second(&self) -> Option<f64> {
        self.per_second(self.pixels as f64 / 1e6)
    }

    /// As an object for programs to read.
    pub fn to_json(&self) -> Value {
        json!({
            "images": self.images(),
            "failed": self.failed,
            "seconds": self.seconds(),
            "load_seconds": self.load_seconds(),
            "first_result_seconds": self.first_seconds(),
            "images_per_second": self.images_per_second(),
            "megapixels_per_second": self.megapixels_per_second(),
            "network_ms": Percentiles::of(&self.network).map(|p| p.to_json()),
            "image_ms": Percentiles::of(&self.whole).map(|p| p.to_json()),
        })
    }

    /// Lines for people to read; empty when no image was segmented.
    pub fn table(&self) -> String {
        let (Some(network), Some(whole)) =
            (Percentiles::of(&self.network), Percentiles::of(&self.whole))
        else {
            return String::new();
        };
        let rates = [self.images_per_second(), self.megapixels_per_second()];
        let [images, megapixels] = rates.map(|r| r.unwrap_or(0.0));
        format!(
            "{:.3} s for the images: {images:.2} images/s, {megapixels:.2} megapixels/s\n\
             {:.3} s from the start to the first result, {:.3} s of it to load\n\
             {:<26}{:>10} {:>10} {:>10} {:>10}\n{network}\n{whole}\n",
            self.seconds(),
            self.first_seconds().unwrap_or(0.0),
            self.load_seconds(),
            "milliseconds an image",
            "p50",
            "p90",
            "p99",
            "max",
            network = network.line("network"),
            whole = whole.line("decode, network, files"),
        )
    }
}

/// Nearest-rank percentiles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Percentiles {
    p50: Duration,
    p90: Duration,
    p99: Duration,
    max: Duration,
}

impl Percentiles {
    /// Of some times; of none there are none.
    fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max,
        })
    }

    fn to_json(self) -> Value {
        json!({
            "p50": ms(self.p50),
            "p90": ms(self.p90),
            "p99": ms(self.p99),
            "max": ms(self.max),
        })
    }

    fn line(self, name: &str) -> String {
        let [p50, p90, p99, max] = [self.p50, self.p90, self.p99, self.max].map(ms);
        format!("{name:<26}{p50:>10.2} {p90:>10.2} {p99:>10.2} {max:>10.2}")
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(millis: u64) -> Outcome {
        let took = Took {
            decode: Duration::from_millis(1),
            network: Duration::from_millis(millis),
            write: Duration::from_millis(2),
        };
        Outcome {
            path: "a.png".into(),
            result: Ok(Written {
                width: 4,
                height: 2,
                files: vec![("masks", "out/masks/a.png".into())],
                pixels: vec![2, 0, 4],
                void: 2,
                confidence: 0.75,
                entropy: 0.5,
                took,
                at: Instant::now(),
            }),
        }
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = |n: u64| -> Vec<Duration> { (1..=n).map(Duration::from_millis).collect() };
        assert_eq!(Percentiles::of(&[]), None);
        let one = Percentiles::of(&times(1)).unwrap().to_json();
        assert_eq!(one, json!({"p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0}));
        let many = Percentiles::of(&times(200)).unwrap().to_json();
        assert_eq!(
            many,
            json!({"p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0})
        );
    }

    #[test]
    fn shares_are_of_all_pixels_and_classes_that_do_not_occur_are_left_out() {
        let names = ["sky", "road", "car"].map(String::from);
        let json = written(5).to_json(&names);
        assert_eq!(
            json["classes"],
            json!([
                {"class": 0, "name": "sky", "share": 0.25},
                {"class": 2, "name": "car", "share": 0.5},
            ])
        );
        assert_eq!(json["void"], 0.25);
        assert_eq!(json["ms"], 8.0);
        assert_eq!(json["files"]["masks"], "out/masks/a.png");
        assert_eq!(written(5).to_json(&[])["classes"][0]["name"], Value::Null);
        let failed = Outcome {
            path: "b.png".into(),
            result: Err(Error::input("b.png", "is torn", "mend it")),
        };
        let expected = json!({"path": "b.png", "error": "b.png: is torn; mend it"});
        assert_eq!(failed.to_json(&names), expected);
    }

    #[test]
    fn a_summary_counts_images_and_says_nothing_of_speed_when_none_was_done() {
        let mut summary = Summary::new(Instant::now());
        summary.add(&Outcome {
            path: "b.png".into(),
            result: Err(Error::internal("torn")),
        });
        assert_eq!(summary.table(), "");
        assert_eq!(summary.to_json()["images_per_second"], Value::Null);
        for millis in [5, 7, 20] {
            summary.add(&written(millis));
        }
        let json = summary.to_json();
        assert_eq!(
            (json["images"].as_u64(), json["failed"].as_u64()),
            (Some(4), Some(1))
        );
        assert_eq!(json["network_ms"]["p50"], 7.0);
        assert_eq!(json["image_ms"]["max"], 23.0);
        let rates = [&json["images_per_second"], &json["megapixels_per_second"]];
        let [images, megapixels] = rates.map(|r| r.as_f64().unwrap());
        assert!((megapixels / images / 8e-6 - 1.0).abs() < 1e-9);
        assert!(summary.table().contains("p99"), "{}", summary.table());
    }
}

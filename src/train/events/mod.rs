//! TensorBoard event files: scalars, images and histograms of a run.
//!
//! Comes in: numbers, pictures and distributions under tags, step by step. Goes out: one file in
//! the run folder that TensorBoard finds and follows while it grows (`tensorboard --logdir runs`).
//! [`record`] frames, [`message`] encodes; [`EventLog`] is the file.

pub mod message;
pub mod record;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};
pub use message::{Histogram, Payload};
use record::Next;

/// Name of the file in a run folder. TensorBoard takes every file with `tfevents` in its name.
pub const FILE: &str = "events.out.tfevents.u2pl-engine";

/// An event file that grows.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// Opens the event file of the run folder `dir`, or starts it. What it holds of steps after
    /// `iteration`, which will be written again, is cut off, and so is everything from a damaged
    /// record on: readers stop there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or written.
    pub fn open(dir: &Path, iteration: usize) -> Result<Self> {
        let path = dir.join(FILE);
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new()
                .create(true)
                .read(true)
                .append(true)
                .open(&path)?;
            let kept = kept_bytes(&mut BufReader::new(&file), iteration as u64)?;
            file.set_len(kept)?;
            Ok((file, kept))
        };
        let (file, kept) = open().map_err(|e| Error::io(&path, "write the events", e))?;
        let mut log = Self { path, file };
        if kept == 0 {
            log.append(&message::version(now()))?;
        }
        Ok(log)
    }

    /// Appends an event of `step`; none where there are no values.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or gone.
    pub fn write(&mut self, step: usize, values: &[(String, Payload)]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.append(&message::summary(now(), step as u64, values))
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        // In one call: a reader at the same time sees whole records, or an end cut off.
        self.file
            .write_all(&record::frame(event))
            .map_err(|e| Error::io(&self.path, "write the events", e))
    }
}

/// Length of the file up to the first event after `step`, or the first damage.
fn kept_bytes(file: &mut impl std::io::Read, step: u64) -> std::io::Result<u64> {
    let mut kept = 0;
    while let Next::Record(event) = record::next(file)? {
        match message::step(&event) {
            Some(s) if s <= step => kept += record::framed_len(event.len()),
            _ => break,
        }
    }
    Ok(kept)
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::message::{Field, fields};
    use super::*;

    /// Every event: its step and what it says under each tag.
    fn parse(path: &Path) -> Vec<(u64, Vec<(String, Payload)>)> {
        let mut file = BufReader::new(File::open(path).unwrap());
        let mut events = Vec::new();
        loop {
            match record::next(&mut file).unwrap() {
                Next::Record(event) => events.push(parse_event(&event)),
                Next::End => return events,
                Next::Damaged => panic!("damaged after {} events", events.len()),
            }
        }
    }

    fn parse_event(event: &[u8]) -> (u64, Vec<(String, Payload)>) {
        let mut values = Vec::new();
        for field in fields(event).unwrap() {
            let (5, Field::Bytes(summary)) = field else {
                continue;
            };
            for (_, value) in fields(summary).unwrap() {
                let Field::Bytes(value) = value else { panic!() };
                let value = fields(value).unwrap();
                let (1, Field::Bytes(tag)) = value[0] else {
                    panic!()
                };
                let payload = match value[1] {
                    (2, Field::Float(x)) => Payload::Scalar(x),
                    (4, Field::Bytes(image)) => parse_image(image),
                    (5, Field::Bytes(histogram)) => parse_histogram(histogram),
                    other => panic!("{other:?}"),
                };
                values.push((String::from_utf8(tag.to_vec()).unwrap(), payload));
            }
        }
        (message::step(event).unwrap(), values)
    }

    fn parse_image(image: &[u8]) -> Payload {
        let image = fields(image).unwrap();
        let [
            (1, Field::Number(height)),
            (2, Field::Number(width)),
            (3, Field::Number(3)),
            (4, Field::Bytes(png)),
        ] = image[..]
        else {
            panic!("{image:?}")
        };
        Payload::Image {
            width: width as u32,
            height: height as u32,
            png: png.to_vec(),
        }
    }

    fn parse_histogram(histogram: &[u8]) -> Payload {
        let list = fields(histogram).unwrap();
        let number = |i: usize| match list[i].1 {
            Field::Double(x) => x,
            other => panic!("{other:?}"),
        };
        let packed = |i: usize| match list[i].1 {
            Field::Bytes(bytes) => bytes
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect::<Vec<f64>>(),
            other => panic!("{other:?}"),
        };
        let counts = packed(6);
        assert_eq!(number(2), counts.iter().sum::<f64>());
        Payload::Histogram(Histogram {
            min: number(0),
            max: number(1),
            sum: number(3),
            sum_squares: number(4),
            limits: packed(5),
            counts,
        })
    }

    fn scalar(tag: &str, x: f32) -> (String, Payload) {
        (tag.to_string(), Payload::Scalar(x))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(dir.path(), 0).unwrap();
        let first = vec![scalar("loss/sup", 1.5), scalar("val/iou Straße", -0.25)];
        let histogram = Histogram::of(&[1.0, 2.0, 2.0, 4.0]).unwrap();
        let second = vec![
            (
                "samples".to_string(),
                Payload::Image {
                    width: 300,
                    height: 2,
                    png: vec![7; 1000],
                },
            ),
            ("weights".to_string(), Payload::Histogram(histogram)),
        ];
        log.write(1, &first).unwrap();
        log.write(70_000, &second).unwrap();
        log.write(70_001, &[]).unwrap();
        let events = parse(&dir.path().join(FILE));
        assert_eq!(events, [(0, vec![]), (1, first), (70_000, second)]);
    }

    #[test]
    fn going_on_cuts_later_steps_and_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut log = EventLog::open(dir.path(), 0).unwrap();
        for step in [10, 20, 20, 30] {
            log.write(step, &[scalar("x", step as f32)]).unwrap();
        }
        drop(log);
        let steps = |path: &Path| parse(path).iter().map(|e| e.0).collect::<Vec<u64>>();
        drop(EventLog::open(dir.path(), 25).unwrap());
        assert_eq!(steps(&path), [0, 10, 20, 20]);
        // A crash in the middle of a record.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut log = EventLog::open(dir.path(), 25).unwrap();
        log.write(30, &[scalar("x", 30.0)]).unwrap();
        assert_eq!(steps(&path), [0, 10, 20, 30]);
        // A file that is none of ours becomes one.
        std::fs::write(&path, "nonsense").unwrap();
        drop(EventLog::open(dir.path(), 25).unwrap());
        assert_eq!(steps(&path), [0]);
    }
}

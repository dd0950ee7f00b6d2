//! Batches in a fixed order, decoded ahead of time on worker threads.
//!
//! What a step sees is a pure function of (seed, stream, epoch, iteration): the order is drawn by
//! [`epoch_order`], workers only decode, and results are put back in order before they leave. So
//! neither the number of workers nor their timing shows, and a resumed run asks for the batch it
//! stopped at.
//!
//! An image that cannot be used ends the sequence with an error, or, where [`Loader::skip`] allows
//! it, gives its place to another: one drawn from (seed, stream, epoch, place, try), again if that one
//! cannot be used either. Which images are unusable is a matter of the disk, not of what the run has
//! seen of it, so a resumed run draws the same.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::batch::Batch;
use super::dataset::Dataset;
use crate::data::decode::Decoded;
use crate::device::philox::Rng;
use crate::{Error, Result};

/// Batches decoded ahead of the one in use.
const AHEAD: usize = 2;

/// Worker threads when the configuration says "one per core".
const MAX_WORKERS: usize = 8;

/// Tries to replace an image; each meets an unusable one with a probability below one.
const MOST_TRIES: u64 = 1 << 12;

/// Added to the stream of the order: replacements are drawn apart from it.
const REPLACE: u32 = 0x5111_0000;

/// Warnings about single images; further ones are counted.
const SHOWN: usize = 20;

/// How a [`Loader`] goes through its dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderSettings {
    /// Images a batch.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Random stream of the order; another for each loader of a run.
    pub stream: u32,
    /// Decoding threads; 0 = one per core, at most 8.
    pub workers: usize,
    /// Iterations an epoch.
    pub epoch_len: usize,
    /// Decoded images kept in memory, MiB.
    pub cache_mib: usize,
}

/// The first `count` dataset positions of `epoch`: a permutation of `0..n`, followed by further
/// permutations where the list is shorter than the epoch.
///
/// Fisher–Yates with Philox draws of (seed, stream, step = epoch, index = repeat · 2³² + position).
pub fn epoch_order(n: usize, count: usize, seed: u64, stream: u32, epoch: usize) -> Vec<usize> {
    let rng = Rng::seeded(seed, stream, epoch as u32);
    let mut order = Vec::with_capacity(count + n);
    let mut repeat = 0u64;
    while n > 0 && order.len() < count {
        let start = order.len();
        order.extend(0..n);
        for i in (1..n).rev() {
            let j = rng.below(repeat << 32 | i as u64, i as u32 + 1) as usize;
            order.swap(start + i, start + j);
        }
        repeat += 1;
    }
    order.truncate(count);
    order
}

struct Job {
    ticket: u64,
    index: usize,
}

type Done = (u64, Result<Arc<Decoded>>);

/// What a ticket stands for.
#[derive(Clone, Copy)]
struct Place {
    /// Position in the dataset.
    index: usize,
    epoch: usize,
    /// Place in the epoch's order.
    position: usize,
}

/// An image that was found unusable and left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub id: String,
    /// Its file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// Unusable images known so far, it included.
    pub images: usize,
}

/// Which images may be unusable.
struct Skip {
    /// How many.
    most: usize,
    /// Those that are.
    known: BTreeSet<usize>,
    /// Those found since [`Loader::take_skipped`].
    news: Vec<Skipped>,
}

/// An endless sequence of batches.
pub struct Loader {
    settings: LoaderSettings,
    dataset: Arc<Dataset>,
    cache: Arc<Cache>,
    /// Pixels of an image at most.
    most_pixels: usize,
    /// `None`: every image counts.
    skip: Option<Skip>,
    /// `None` once dropping has begun; closing it ends the workers.
    jobs: Option<Sender<Job>>,
    /// The workers' end of `jobs`, kept to empty it when dropping.
    todo: Receiver<Job>,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
    /// Decoded out of turn, by ticket.
    early: HashMap<u64, Result<Arc<Decoded>>>,
    /// Next ticket to hand out, next to deliver.
    issued: u64,
    delivered: u64,
    /// What tickets `delivered..issued` stand for, and where the next comes from.
    pending: VecDeque<Place>,
    epoch: usize,
    position: usize,
    order: Vec<usize>,
}

impl Loader {
    /// Starts the workers; the first batch is that of epoch 0, iteration 0.
    ///
    /// # Errors
    /// [`Error::Internal`] for an empty dataset, an empty batch or an empty epoch, or when no
    /// thread can be started.
    pub fn new(dataset: Arc<Dataset>, settings: LoaderSettings) -> Result<Loader> {
        if dataset.is_empty() || settings.batch == 0 || settings.epoch_len == 0 {
            return Err(Error::internal(format!(
                "a loader of {} images, batches of {}, epochs of {}",
                dataset.len(),
                settings.batch,
                settings.epoch_len
            )));
        }
        let cores = available_parallelism().map_or(1, usize::from);
        let count = match settings.workers {
            0 => cores.min(MAX_WORKERS),
            n => n,
        };
        // Every ticket in flight has a place in both queues, so no side ever blocks the other.
        let window = settings.batch * (AHEAD + 1);
        let (jobs, todo) = bounded::<Job>(window);
        let (results, done) = bounded::<Done>(window);
        let cache = Arc::new(Cache::new(settings.cache_mib));
        let mut workers = Vec::with_capacity(count);
        for i in 0..count {
            let (dataset, cache) = (dataset.clone(), cache.clone());
            let (todo, results) = (todo.clone(), results.clone());
            let worker = Builder::new()
                .name(format!("decode-{i}"))
                .spawn(move || work(&dataset, &cache, &todo, &results))
                .map_err(|e| Error::internal(format!("cannot start a decoding thread: {e}")))?;
            workers.push(worker);
        }
        let mut loader = Loader {
            settings,
            dataset,
            cache,
            most_pixels: usize::MAX,
            skip: None,
            jobs: Some(jobs),
            todo,
            done,
            workers,
            early: HashMap::new(),
            issued: 0,
            delivered: 0,
            pending: VecDeque::new(),
            epoch: 0,
            position: 0,
            order: Vec::new(),
        };
        loader.enter_epoch(0);
        Ok(loader)
    }

    /// Refuses images of more than `pixels` pixels: a file may grow while a run goes on.
    pub fn limit_pixels(&mut self, pixels: usize) {
        self.most_pixels = pixels;
    }

    /// Lets up to `most` images be unusable, `known` among them.
    pub fn skip(&mut self, most: usize, known: &[usize]) {
        self.skip = Some(Skip {
            most,
            known: known.iter().copied().collect(),
            news: Vec::new(),
        });
    }

    /// The images found unusable since the last call.
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        let news = self
            .skip
            .as_mut()
            .map(|skip| std::mem::take(&mut skip.news));
        news.unwrap_or_default()
    }

    /// Unusable images known so far.
    pub fn unusable(&self) -> usize {
        self.skip.as_ref().map_or(0, |skip| skip.known.len())
    }

    /// Makes the next batch that of (`epoch`, `iteration`); what was decoded ahead is dropped.
    ///
    /// # Errors
    /// [`Error::Internal`] when the workers are gone.
    pub fn seek(&mut self, epoch: usize, iteration: usize) -> Result<()> {
        let epoch = epoch + iteration / self.settings.epoch_len;
        let iteration = iteration % self.settings.epoch_len;
        while self.delivered < self.issued {
            // Tickets in flight come back first: their places in the queues must be free again.
            let _stale = self.take_next()?;
        }
        self.enter_epoch(epoch);
        self.position = iteration * self.settings.batch;
        Ok(())
    }

    /// The next batch. Waits for the workers when they are behind.
    ///
    /// # Errors
    /// The first failure of a decoded image in batch order, naming its file; of images that may be
    /// unusable the first that is one too many.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Batch> {
        self.fill()?;
        let count = self.settings.batch;
        let mut images = Vec::with_capacity(count);
        let mut indices = Vec::with_capacity(count);
        for _ in 0..count {
            let (place, image) = self.take_next()?;
            let (index, image) = self.usable(place, image)?;
            images.push(image);
            indices.push(index);
        }
        // Keep the workers busy while the caller uses this batch.
        self.fill()?;
        Ok(Batch { images, indices })
    }

    fn enter_epoch(&mut self, epoch: usize) {
        let LoaderSettings {
            batch,
            seed,
            stream,
            epoch_len,
            ..
        } = self.settings;
        self.order = epoch_order(self.dataset.len(), batch * epoch_len, seed, stream, epoch);
        self.epoch = epoch;
        self.position = 0;
    }

    /// Hands out tickets until the window is full.
    fn fill(&mut self) -> Result<()> {
        let window = (self.settings.batch * (AHEAD + 1)) as u64;
        while self.issued - self.delivered < window {
            if self.position == self.order.len() {
                self.enter_epoch(self.epoch + 1);
            }
            let place = Place {
                index: self.order[self.position],
                epoch: self.epoch,
                position: self.position,
            };
            let job = Job {
                ticket: self.issued,
                index: place.index,
            };
            let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
            if !matches!(sent, Some(Ok(()))) {
                return Err(Error::internal("the decoding threads have ended"));
            }
            self.position += 1;
            self.issued += 1;
            self.pending.push_back(place);
        }
        Ok(())
    }

    /// The image of `place`, or the one that takes it where that may be, and its dataset position.
    fn usable(
        &mut self,
        place: Place,
        image: Result<Arc<Decoded>>,
    ) -> Result<(usize, Arc<Decoded>)> {
        let mut index = place.index;
        let mut image = self.fitting(index, image);
        for attempt in 0..MOST_TRIES {
            let fault = match image {
                Ok(image) => return Ok((index, image)),
                Err(fault) => fault,
            };
            self.leave_out(index, fault)?;
            let stream = self.settings.stream.wrapping_add(REPLACE);
            let rng = Rng::seeded(self.settings.seed, stream, place.epoch as u32);
            let draw = place.position as u64 * MOST_TRIES + attempt;
            index = rng.below(draw, self.dataset.len() as u32) as usize;
            // Usable images may be known to be unusable from an earlier look at the disk: only what
            // it holds now counts.
            image = self.fitting(index, self.cache.decode(&self.dataset, index));
        }
        Err(Error::internal("no usable image was drawn"))
    }

    /// An image that has room.
    fn fitting(&self, index: usize, image: Result<Arc<Decoded>>) -> Result<Arc<Decoded>> {
        let image = image?;
        if image.width * image.height <= self.most_pixels {
            return Ok(image);
        }
        let file = self.dataset.samples().get(index).map(|s| &s.image);
        Err(Error::input(
            file.map_or(String::new(), |f| f.display().to_string()),
            format!(
                "is {} × {} now, more pixels than any image had when the run began",
                image.width, image.height
            ),
            "restore it, or start again",
        ))
    }

    /// Notes that image `index` cannot be used; passes the fault on where it may not be left out.
    fn leave_out(&mut self, index: usize, fault: Error) -> Result<()> {
        let all = self.dataset.len();
        let skip = match &mut self.skip {
            // What the machine lacks is no fault of the image.
            Some(skip) if matches!(fault, Error::Input { .. } | Error::Io { .. }) => skip,
            _ => return Err(fault),
        };
        if !skip.known.insert(index) {
            return Ok(());
        }
        let (images, most) = (skip.known.len(), skip.most);
        if images > most {
            return Err(Error::input(
                "data.max_bad_unlabeled",
                format!(
                    "{images} of {all} unlabelled images cannot be used, {most} are allowed; the last: {fault}"
                ),
                "or raise it",
            ));
        }
        match images {
            ..=SHOWN => {
                tracing::warn!("{fault}; the unlabelled image is skipped ({images} of {all})")
            }
            n if n == SHOWN + 1 => {
                tracing::warn!(
                    "further unlabelled images that are skipped are named in metrics.jsonl"
                );
            }
            _ => {}
        }
        let file = self.dataset.samples().get(index);
        skip.news.push(Skipped {
            id: self.dataset.id(index),
            file: file.map(|s| s.image.clone()).unwrap_or_default(),
            problem: fault.to_string(),
            images,
        });
        Ok(())
    }

    /// The result of the oldest ticket, and what it stands for.
    fn take_next(&mut self) -> Result<(Place, Result<Arc<Decoded>>)> {
        let result = loop {
            if let Some(result) = self.early.remove(&self.delivered) {
                break result;
            }
            let (ticket, result) = self
                .done
                .recv()
                .map_err(|_| Error::internal("the decoding threads have ended"))?;
            self.early.insert(ticket, result);
        };
        self.delivered += 1;
        let place = self
            .pending
            .pop_front()
            .ok_or_else(|| Error::internal("a decoded image that nobody asked for"))?;
        Ok((place, result))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.jobs = None;
        // Abandon what no worker has begun; the results of the rest have room in their queue.
        while self.todo.try_recv().is_ok() {}
        for worker in self.workers.drain(..) {
            // A worker catches panics of its own; there is nothing to report here.
            let _ = worker.join();
        }
    }
}

/// A worker's life: decode until the job queue closes.
fn work(dataset: &Dataset, cache: &Cache, todo: &Receiver<Job>, results: &Sender<Done>) {
    for job in todo {
        // A panic in a codec must not leave the consumer waiting for ever.
        let decoded = catch_unwind(AssertUnwindSafe(|| cache.decode(dataset, job.index)));
        let result = decoded.unwrap_or_else(|_| {
            let id = dataset.id(job.index);
            Err(Error::internal(format!("decoding {id} panicked")))
        });
        if results.send((job.ticket, result)).is_err() {
            return;
        }
    }
}

/// Decoded images up to a number of bytes; the first to come stay.
struct Cache {
    limit: usize,
    held: Mutex<(usize, HashMap<usize, Arc<Decoded>>)>,
}

impl Cache {
    fn new(mib: usize) -> Self {
        Self {
            limit: mib.saturating_mul(1 << 20),
            held: Mutex::default(),
        }
    }

    fn decode(&self, dataset: &Dataset, index: usize) -> Result<Arc<Decoded>> {
        if let Some(image) = self.held().1.get(&index) {
            return Ok(image.clone());
        }
        let image = Arc::new(dataset.decode(index)?);
        let mut held = self.held();
        if held.0 + image.bytes() <= self.limit && !held.1.contains_key(&index) {
            held.0 += image.bytes();
            held.1.insert(index, image.clone());
        }
        Ok(image)
    }

    fn held(&self) -> MutexGuard<'_, (usize, HashMap<usize, Arc<Decoded>>)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_permutations_end_to_end() {
        let order = epoch_order(10, 25, 3, 1, 0);
        for pass in order.chunks(10) {
            let mut seen = pass.to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), pass.len());
        }
        assert_ne!(order[..10], order[10..20]);
        assert_eq!(order, epoch_order(10, 25, 3, 1, 0));
        assert_ne!(order, epoch_order(10, 25, 3, 1, 1));
        assert_ne!(order, epoch_order(10, 25, 3, 2, 0));
        assert_ne!(order, epoch_order(10, 25, 4, 1, 0));
        assert_eq!(order[..7], epoch_order(10, 7, 3, 1, 0));
    }

    #[test]
    fn positions_are_uniform() {
        // 6 permutations of 3, each expected 500 times; 5 sigma is 102.
        let mut counts = HashMap::new();
        for epoch in 0..3000 {
            *counts.entry(epoch_order(3, 3, 1, 0, epoch)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|c| (398..=602).contains(c)),
            "{counts:?}"
        );
    }
}

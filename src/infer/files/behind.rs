//! Work that threads do while the caller goes on. What comes of it is taken in the order in which
//! it was given.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::Scope;

use crate::{Error, Result};

/// Jobs that wait for each thread at most, besides the one it is at.
const WAITING: usize = 1;

/// Threads at work, in turn.
pub(super) struct Behind<J, R> {
    threads: Vec<(SyncSender<J>, Receiver<R>)>,
    given: usize,
    taken: usize,
}

impl<J, R> Behind<J, R> {
    /// Starts `threads` threads that do `work`; they end when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        work: &'scope (impl Fn(J) -> R + Sync),
    ) -> Self
    where
        J: Send + 'scope,
        R: Send + 'scope,
    {
        let threads = (0..threads.max(1)).map(|_| {
            let (give, jobs) = sync_channel(WAITING);
            let (done, take) = channel();
            scope.spawn(move || {
                for job in jobs {
                    if done.send(work(job)).is_err() {
                        break;
                    }
                }
            });
            (give, take)
        });
        Self {
            threads: threads.collect(),
            given: 0,
            taken: 0,
        }
    }

    /// Hands a job over; waits while the thread whose turn it is has enough to do.
    pub(super) fn give(&mut self, job: J) -> Result<()> {
        let turn = self.given % self.threads.len();
        self.given += 1;
        self.threads[turn].0.send(job).map_err(|_| died())
    }

    /// What has come of the next job, if anything has; `wait` until it has. `None` as well when
    /// nothing is left to come.
    pub(super) fn take(&mut self, wait: bool) -> Result<Option<R>> {
        if self.taken == self.given {
            return Ok(None);
        }
        let results = &self.threads[self.taken % self.threads.len()].1;
        let found = match wait {
            true => results.recv().map_err(|_| TryRecvError::Disconnected),
            false => results.try_recv(),
        };
        match found {
            Ok(result) => {
                self.taken += 1;
                Ok(Some(result))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(died()),
        }
    }
}

fn died() -> Error {
    Error::internal("a thread that wrote results died")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_all_of_them() {
        for threads in [0, 1, 3] {
            let work = |i: usize| {
                // The first of each round is the last to be done.
                std::thread::sleep(std::time::Duration::from_millis((7 * i % 3) as u64));
                i * i
            };
            let mut got = Vec::new();
            std::thread::scope(|scope| {
                let mut behind = Behind::start(scope, threads, &work);
                for i in 0..20 {
                    behind.give(i).unwrap();
                    got.extend(behind.take(false).unwrap());
                }
                while let Some(result) = behind.take(true).unwrap() {
                    got.push(result);
                }
                assert_eq!(behind.take(false).unwrap(), None);
            });
            assert_eq!(got, (0..20).map(|i| i * i).collect::<Vec<_>>());
        }
    }
}

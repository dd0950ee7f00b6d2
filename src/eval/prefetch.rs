//! Decoding ahead: items made on threads, taken in order.

use std::sync::mpsc::{Receiver, sync_channel};

use crate::{Error, Result};

/// Items that each thread may be ahead.
const AHEAD: usize = 2;

/// Calls `make(i)` for `i` in `0..count` on `workers` threads, each a few items ahead, and hands
/// the results to `take` in order on the calling thread. Ends at the first error of `take`.
///
/// # Errors
/// The first of `take`.
pub fn ordered<T: Send>(
    count: usize,
    workers: usize,
    make: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let workers = workers.clamp(1, count.max(1));
    std::thread::scope(|scope| {
        // Thread k makes items k, k + workers, …; when `take` fails the receivers are dropped
        // and every thread stops at its next send.
        let queues: Vec<Receiver<T>> = (0..workers)
            .map(|first| {
                let (send, receive) = sync_channel(AHEAD);
                let make = &make;
                scope.spawn(move || {
                    for i in (first..count).step_by(workers) {
                        if send.send(make(i)).is_err() {
                            break;
                        }
                    }
                });
                receive
            })
            .collect();
        for i in 0..count {
            let item = queues[i % workers]
                .recv()
                .map_err(|_| Error::internal("a decoding thread died"))?;
            take(i, item)?;
        }
        Ok(())
    })
}

/// Threads to decode on: `asked`, or one per core and at most 8 for 0.
pub fn workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
        n => n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_all_of_them() {
        for workers in [1, 3, 8] {
            let mut got = Vec::new();
            ordered(
                20,
                workers,
                |i| i * i,
                |i, item| {
                    got.push((i, item));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(got, (0..20).map(|i| (i, i * i)).collect::<Vec<_>>());
        }
        ordered(0, 4, |i| i, |_, _| Err(Error::internal("no item"))).unwrap();
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut taken = 0;
        let end = ordered(
            1000,
            2,
            |i| i,
            |i, _| {
                taken += 1;
                match i {
                    5 => Err(Error::internal("five")),
                    _ => Ok(()),
                }
            },
        );
        assert!(end.unwrap_err().to_string().contains("five"));
        assert_eq!(taken, 6);
    }
}

//! Ctrl-C, requests to terminate and terminals that close, for a run that saves what it has done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use super::common::tell;

/// Signals within this time are one: a terminal, a launcher and a hasty hand each send their own.
const ONE: Duration = Duration::from_secs(2);

/// Exit status of an interrupted program.
const INTERRUPTED: i32 = 130;

/// Set by the first signal, which is acknowledged at once: the run then stops after its step, with a
/// checkpoint. A later one ends the process where it stands.
pub(super) fn stop_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Signals::new([SIGHUP, SIGINT, SIGTERM]).and_then(|signals| {
        let stop = stop.clone();
        let listen = move || listen(signals, &stop);
        thread::Builder::new().name("signals".into()).spawn(listen)
    });
    if let Err(e) = heard {
        tracing::warn!("an interrupt will end the run without a checkpoint ({e})");
    }
    stop
}

fn listen(mut signals: Signals, stop: &AtomicBool) {
    let mut first: Option<Instant> = None;
    for _ in signals.forever() {
        match first {
            None => {
                first = Some(Instant::now());
                stop.store(true, Ordering::Relaxed);
                tell(
                    "stopping after this step, with a checkpoint; interrupt again to stop at once, \
                     without one",
                );
            }
            Some(at) if at.elapsed() < ONE => {}
            Some(_) => {
                tell("stopped at once: what followed the last checkpoint is lost");
                low_level::exit(INTERRUPTED);
            }
        }
    }
}

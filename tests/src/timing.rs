//! What benchmarks make of the times that they have taken.
//! Knows nothing of what was timed.

use std::time::Duration;
use std::time::Instant;

/// How long something takes.
pub fn timed(act: impl FnOnce()) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}

/// The one in the middle.
///
/// # Panics
/// When there is none.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

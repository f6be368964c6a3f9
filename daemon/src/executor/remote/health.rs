//! Whether a cluster is worth asking.
//! Knows nothing of what it would be asked.

use std::time::Duration;
use std::time::Instant;

/// For how long a cluster that could not be reached is left alone: the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A dead one costs one time-out, not one for each command.
#[derive(Default)]
pub(super) struct Health {
    outage: Option<Outage>,
}

/// The cluster could not be reached.
struct Outage {
    retry_at: Instant,
    pause: Duration,
    /// One command is finding out whether it can be reached again.
    probing: bool,
}

impl Health {
    /// Whether one more command may ask the cluster at `now`; else for how long none may. When a pause is over one
    /// command goes ahead, and the others only when it has been answered. Should it never tell, another one goes.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(outage) = &mut self.outage else { return Ok(()) };
        if outage.retry_at > now {
            return Err(outage.retry_at - now);
        }
        outage.probing = true;
        outage.retry_at = now + outage.pause;
        Ok(())
    }

    /// A call failed at `now`. Those that were under way when the outage began do not make it longer.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = match &self.outage {
            None => FIRST_PAUSE,
            Some(outage) if outage.probing => (outage.pause * 2).min(LONGEST_PAUSE),
            Some(_) => return,
        };
        self.outage = Some(Outage { retry_at: now + pause, pause, probing: false });
    }

    pub(super) fn answered(&mut self) {
        self.outage = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_one_command_finds_out() {
        let mut health = Health::default();
        let mut now = Instant::now();
        assert!(health.admit(now).is_ok() && health.admit(now).is_ok());
        // All that were under way fail together: that is one outage.
        for _ in 0..400 {
            health.failed(now);
        }
        assert_eq!(health.admit(now), Err(FIRST_PAUSE));
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let pause = Duration::from_secs(pause);
            assert_eq!(health.admit(now), Err(pause));
            now += pause;
            assert_eq!(health.admit(now), Ok(()));
            assert!(health.admit(now).is_err(), "one at a time");
            health.failed(now);
        }
        now += LONGEST_PAUSE;
        assert_eq!(health.admit(now), Ok(()));
        // The one that went ahead was cancelled.
        now += LONGEST_PAUSE;
        assert_eq!(health.admit(now), Ok(()));
        health.answered();
        assert!(health.admit(now).is_ok() && health.admit(now).is_ok());
    }
}

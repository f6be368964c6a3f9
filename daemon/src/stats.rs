//! Counts what happened to commands: by verdict, by reason, bytes and time.
//! Knows nothing of commands; a summary is recorded when one has ended.

use std::collections::BTreeMap;
use std::io;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde::Serialize;

use crate::reason::Reason;

/// Where the result of a command came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// From the store on this machine.
    HitLocal,
    /// From the cluster's action cache.
    HitRemote,
    /// The cluster ran the command.
    ExecutedRemote,
    /// The launcher ran the command, and its result was to be kept.
    ExecutedLocal,
    /// The twin ran the command.
    Twin,
    /// The launcher became the command; nothing is kept.
    PassedThrough,
}

impl Outcome {
    /// All outcomes, in the order in which they are shown.
    pub const ALL: [Outcome; 6] = [
        Outcome::HitLocal,
        Outcome::HitRemote,
        Outcome::ExecutedRemote,
        Outcome::ExecutedLocal,
        Outcome::Twin,
        Outcome::PassedThrough,
    ];

    /// The stable name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::HitLocal => "hit_local",
            Outcome::HitRemote => "hit_remote",
            Outcome::ExecutedRemote => "executed_remote",
            Outcome::ExecutedLocal => "executed_local",
            Outcome::Twin => "twin",
            Outcome::PassedThrough => "passed_through",
        }
    }
}

/// Bytes moved for commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Sent to the cluster.
    pub uploaded: u64,
    /// Fetched from the cluster.
    pub downloaded: u64,
    /// Written to the store on this machine.
    pub stored: u64,
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, more: Bytes) {
        self.uploaded += more.uploaded;
        self.downloaded += more.downloaded;
        self.stored += more.stored;
    }
}

/// What `farccd stats --json` prints. All numbers since the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Commands that have ended.
    pub commands: u64,
    /// Commands by [`Outcome`]; each name is always there.
    pub by_verdict: BTreeMap<String, u64>,
    /// Commands by the name of their [`Reason`]; hits and remote executions have none.
    pub by_reason: BTreeMap<String, u64>,
    /// Compile commands whose scan was not sure, so that the compiler's own `-M` was asked.
    pub not_sure: u64,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Time in the daemon per command, in microseconds; of the running daemon only.
    pub micros: Micros,
}

/// Percentiles of a duration in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Micros {
    /// Half of the commands took no longer.
    pub p50: u64,
    /// Nine of ten took no longer.
    pub p90: u64,
    /// Ninety-nine of a hundred took no longer.
    pub p99: u64,
}

/// What one command adds.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where the result came from.
    pub outcome: Outcome,
    /// Why it was neither a hit nor remote.
    pub reason: Option<Reason>,
    /// Whether the compiler had to be asked for the inputs.
    pub not_sure: bool,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Time in the daemon, without the wait for a local run.
    pub elapsed: Duration,
}

/// The running counts of a daemon.
pub struct Stats {
    counts: Mutex<Counts>,
}

struct Counts {
    summary: Summary,
    micros: Histogram<u64>,
    changed: bool,
}

/// Longest duration that is told apart from longer ones: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

impl Stats {
    /// Goes on from what was saved at `path`; from zero if nothing was or it cannot be read.
    pub fn load(path: &Path) -> Stats {
        let summary = read(path).unwrap_or_else(Summary::zero);
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, 2)
            .unwrap_or_else(|_| unreachable!("bounds and precision are constants that the crate accepts"));
        Stats { counts: Mutex::new(Counts { summary, micros, changed: false }) }
    }

    /// Counts one command that has ended.
    pub fn record(&self, record: &Record) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = &mut counts.summary;
        summary.commands += 1;
        *summary.by_verdict.entry(record.outcome.name().to_owned()).or_default() += 1;
        if let Some(reason) = &record.reason {
            *summary.by_reason.entry(reason.name().to_owned()).or_default() += 1;
        }
        summary.not_sure += u64::from(record.not_sure);
        summary.bytes += record.bytes;
        let micros = u64::try_from(record.elapsed.as_micros()).unwrap_or(MAX_MICROS);
        counts.micros.saturating_record(micros.clamp(1, MAX_MICROS));
        counts.changed = true;
    }

    /// The counts now.
    pub fn summary(&self) -> Summary {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| counts.micros.value_at_quantile(quantile);
        let micros = Micros { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
        Summary { micros, ..counts.summary.clone() }
    }

    /// Starts again from zero.
    pub fn reset(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.summary = Summary::zero();
        counts.micros.reset();
        counts.changed = true;
    }

    /// Writes the counts to `path` if they changed since the last time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let changed = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut counts.changed)
        };
        if !changed {
            return Ok(());
        }
        let written = self.write(path);
        if written.is_err() {
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).changed = true;
        }
        written
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, &self.summary())?;
        file.persist(path)?;
        Ok(())
    }
}

/// What was saved at `path`, for a command line that meets no daemon.
pub fn read(path: &Path) -> Option<Summary> {
    let mut summary: Summary = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    summary.complete();
    Some(summary)
}

impl Summary {
    /// Nothing counted yet, with every verdict.
    pub fn zero() -> Summary {
        let mut summary = Summary::default();
        summary.complete();
        summary
    }

    /// Readers of the JSON may rely on every verdict being there.
    fn complete(&mut self) {
        for outcome in Outcome::ALL {
            self.by_verdict.entry(outcome.name().to_owned()).or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_a_restart_and_a_reset_clears_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        let stats = Stats::load(&path);
        stats.record(&Record {
            outcome: Outcome::PassedThrough,
            reason: Some(Reason::Link),
            not_sure: true,
            bytes: Bytes { uploaded: 1, downloaded: 2, stored: 3 },
            elapsed: Duration::from_micros(70),
        });
        stats.save(&path).unwrap();
        let summary = Stats::load(&path).summary();
        assert_eq!(summary.commands, 1);
        assert_eq!(summary.by_verdict["passed_through"], 1);
        assert_eq!(summary.by_verdict["hit_local"], 0);
        assert_eq!(summary.by_reason["link"], 1);
        assert_eq!(summary.bytes.stored, 3);
        stats.reset();
        assert_eq!(stats.summary().commands, 0);
    }

    #[test]
    fn a_damaged_file_counts_from_zero() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        std::fs::write(&path, "{\"commands\": \"x").unwrap();
        assert_eq!(Stats::load(&path).summary().commands, 0);
    }
}

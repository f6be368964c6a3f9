//! Counts what happened to commands: by verdict, by kind, by reason, bytes and time.
//! Knows nothing of commands; a summary is recorded when one has ended.

use std::collections::BTreeMap;
use std::io;
use std::io::Write as _;
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

/// What a command makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What compilers make of sources.
    Compile,
    /// A program or a library.
    Link,
    /// An archive, or an object of another object.
    Archive,
    /// Nothing, as far as farcc knows: it asks a compiler about itself, changes a file in place, or is another program.
    Other,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Kind; 4] = [Kind::Compile, Kind::Link, Kind::Archive, Kind::Other];

    /// The stable name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Compile => "compile",
            Kind::Link => "link",
            Kind::Archive => "archive",
            Kind::Other => "other",
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

/// What became of the results of local runs that were offered to the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offers {
    /// The cluster has them.
    pub taken: u64,
    /// It takes none, or not from us.
    pub refused: u64,
    /// They did not get there.
    pub failed: u64,
}

/// What became of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The cluster has it.
    Taken,
    /// It takes none, or not from us.
    Refused,
    /// It did not get there.
    Failed,
}

/// What `farccd stats --json` prints. All numbers since the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Commands that have ended.
    pub commands: u64,
    /// Commands by [`Outcome`]; each name is always there.
    pub by_verdict: BTreeMap<String, u64>,
    /// Commands by [`Kind`], and those by [`Outcome`]; each name is always there.
    pub by_kind: BTreeMap<String, BTreeMap<String, u64>>,
    /// Commands by the name of their [`Reason`]; hits and remote executions have none.
    pub by_reason: BTreeMap<String, u64>,
    /// Compile commands whose scan was not sure, so that the compiler's own `-M` was asked.
    pub not_sure: u64,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Time in the daemon per command, in microseconds; of the running daemon only.
    pub micros: Micros,
    /// How long the commands of the hits ran when their results were made, less what the hits took, in microseconds. Of
    /// [`hits_timed`](Self::hits_timed) alone; below zero where hits are slower than the compiler.
    pub micros_saved: i64,
    /// The hits of which it is known how long the command ran.
    pub hits_timed: u64,
    /// Results of local runs that were offered to the cluster.
    pub offers: Offers,
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
    /// What the command makes.
    pub kind: Kind,
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
    /// How long the command of a hit ran when its result was made, if that is known.
    pub execution: Option<Duration>,
}

/// The running counts of a daemon.
pub struct Stats {
    counts: Mutex<Counts>,
}

struct Counts {
    /// Since the last reset, whichever daemon it was.
    total: Summary,
    /// Since this daemon started.
    session: Summary,
    micros: Histogram<u64>,
    changed: bool,
}

/// Longest duration that is told apart from longer ones: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

impl Stats {
    /// Goes on from what was saved at `path`; from zero if nothing was or it cannot be read.
    pub fn load(path: &Path) -> Stats {
        let total = read(path).unwrap_or_else(Summary::zero);
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, 2)
            .unwrap_or_else(|_| unreachable!("bounds and precision are constants that the crate accepts"));
        Stats { counts: Mutex::new(Counts { total, session: Summary::zero(), micros, changed: false }) }
    }

    /// Counts one command that has ended.
    pub fn record(&self, record: &Record) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.each(|summary| summary.add(record));
        counts.micros.saturating_record(micros(record.elapsed).clamp(1, MAX_MICROS));
    }

    /// Counts a result that was offered to the cluster, for which so many bytes were sent.
    pub fn offered(&self, offer: Offer, sent_bytes: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.each(|summary| {
            summary.bytes.uploaded += sent_bytes;
            match offer {
                Offer::Taken => summary.offers.taken += 1,
                Offer::Refused => summary.offers.refused += 1,
                Offer::Failed => summary.offers.failed += 1,
            }
        });
    }

    /// The counts now.
    pub fn summary(&self) -> Summary {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Summary { micros: counts.percentiles(), ..counts.total.clone() }
    }

    /// The same since this daemon started, whatever was counted or reset besides.
    pub fn session(&self) -> Summary {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Summary { micros: counts.percentiles(), ..counts.session.clone() }
    }

    /// Starts again from zero.
    pub fn reset(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = Summary::zero();
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
        file.write_all(&serde_json::to_vec(&self.summary())?)?;
        file.persist(path)?;
        Ok(())
    }
}

impl Counts {
    fn each(&mut self, count: impl Fn(&mut Summary)) {
        [&mut self.total, &mut self.session].into_iter().for_each(count);
        self.changed = true;
    }

    fn percentiles(&self) -> Micros {
        let at = |quantile| self.micros.value_at_quantile(quantile);
        Micros { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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

    /// All hits.
    pub fn hits(&self) -> u64 {
        let of = |outcome: Outcome| self.by_verdict.get(outcome.name()).copied().unwrap_or_default();
        of(Outcome::HitLocal) + of(Outcome::HitRemote)
    }

    fn add(&mut self, record: &Record) {
        self.commands += 1;
        let of_kind = self.by_kind.entry(record.kind.name().to_owned()).or_default();
        for counts in [&mut self.by_verdict, of_kind] {
            *counts.entry(record.outcome.name().to_owned()).or_default() += 1;
        }
        if let Some(reason) = &record.reason {
            *self.by_reason.entry(reason.name().to_owned()).or_default() += 1;
        }
        self.not_sure += u64::from(record.not_sure);
        self.bytes += record.bytes;
        if let Some(execution) = record.execution {
            let saved = micros(execution).cast_signed().saturating_sub(micros(record.elapsed).cast_signed());
            self.micros_saved = self.micros_saved.saturating_add(saved);
            self.hits_timed += 1;
        }
    }

    /// Readers of the JSON may rely on every verdict and every kind being there.
    fn complete(&mut self) {
        for kind in Kind::ALL {
            self.by_kind.entry(kind.name().to_owned()).or_default();
        }
        for counts in self.by_kind.values_mut().chain([&mut self.by_verdict]) {
            for outcome in Outcome::ALL {
                counts.entry(outcome.name().to_owned()).or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Outcome, reason: Option<Reason>, elapsed: u64, execution: Option<u64>) -> Record {
        let bytes = Bytes { uploaded: 1, downloaded: 2, stored: 3 };
        let (elapsed, execution) = (Duration::from_micros(elapsed), execution.map(Duration::from_micros));
        Record { kind: Kind::Compile, outcome, reason, not_sure: true, bytes, elapsed, execution }
    }

    #[test]
    fn counts_survive_a_restart_and_a_reset_clears_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        let stats = Stats::load(&path);
        stats.record(&record(Outcome::PassedThrough, Some(Reason::Draining), 70, None));
        stats.record(&record(Outcome::HitLocal, None, 70, Some(1070)));
        stats.save(&path).unwrap();
        let again = Stats::load(&path);
        let summary = again.summary();
        assert_eq!(summary.commands, 2);
        assert_eq!(summary.by_verdict["passed_through"], 1);
        assert_eq!(summary.by_verdict["hit_remote"], 0);
        assert_eq!(summary.by_kind["compile"]["passed_through"], 1);
        assert_eq!(summary.by_kind["archive"]["hit_local"], 0);
        assert_eq!(summary.by_reason["draining"], 1);
        assert_eq!(summary.bytes.stored, 6);
        assert_eq!((summary.micros_saved, summary.hits_timed), (1000, 1));
        // A daemon's own are those of no other, and no reset is about them.
        assert_eq!(again.session(), Summary::zero());
        again.record(&record(Outcome::HitRemote, None, 70, None));
        again.reset();
        assert_eq!((again.summary().commands, again.session().commands), (0, 1));
    }

    #[test]
    fn time_saved_is_that_of_hits_whose_time_is_known() {
        let stats = Stats::load(Path::new("/nonexistent"));
        let saved = || (stats.session().micros_saved, stats.session().hits_timed, stats.session().hits());
        stats.record(&record(Outcome::HitLocal, None, 200, Some(1_000)));
        stats.record(&record(Outcome::HitRemote, None, 300, None));
        assert_eq!(saved(), (800, 1, 2));
        // A hit that is slower than the compiler was costs time, and says so.
        stats.record(&record(Outcome::HitRemote, None, 5_000, Some(1_000)));
        assert_eq!(saved(), (-3_200, 2, 3));
        stats.record(&record(Outcome::ExecutedRemote, None, 5_000, None));
        assert_eq!(saved(), (-3_200, 2, 3));
    }

    #[test]
    fn offers_count_what_they_sent() {
        let stats = Stats::load(Path::new("/nonexistent"));
        stats.offered(Offer::Taken, 10);
        stats.offered(Offer::Taken, 0);
        stats.offered(Offer::Refused, 0);
        stats.offered(Offer::Failed, 0);
        assert_eq!(stats.session().offers, Offers { taken: 2, refused: 1, failed: 1 });
        assert_eq!(stats.summary().bytes.uploaded, 10);
    }

    #[test]
    fn a_damaged_file_counts_from_zero() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        std::fs::write(&path, "{\"commands\": \"x").unwrap();
        assert_eq!(Stats::load(&path).summary().commands, 0);
    }
}

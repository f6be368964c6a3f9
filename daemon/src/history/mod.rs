//! Remembers, for each output file, the last two commands that made it, and tells how they differ.
//! Knows nothing of how the records came about.
//!
//! # Layout
//! `ab/<rest>` holds the record of the output whose path has the SHA-256 `ab<rest>`: the digest of the last command, or zeros
//! if that is not known, and an `OutputHistory`. Outputs that are always made together share one file. What is run again
//! without anything being different is only noted in the [journal], which is small and for all.

mod build;
mod difference;
mod journal;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::record::Again;
use farcc_proto::record::CommandRecord;
use farcc_proto::record::OutputHistory;
use farcc_proto::record::Run;
use prost::Message;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_NOW;
use rustix::fs::UTIME_OMIT;

use crate::digest::Digest;
use crate::disk;
use crate::files::Fingerprint;

use journal::Journal;

pub use difference::Basis;
pub use difference::Change;
pub use difference::Comparison;
pub use difference::Difference;

/// The records of one user, one file each in a directory.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
    journal: Arc<Journal>,
    /// By output: what this process has read or written of its record.
    written: Arc<Mutex<HashMap<PathBuf, Written>>>,
}

/// What stands in the record of an output.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// The [command](Made::command) that has made it last.
    command: Digest,
    /// The file: another process puts another one into its place.
    file: Fingerprint,
    /// When this process has read or written it, or said that it is in use.
    used: Instant,
}

/// A command that has made something.
pub struct Made<R> {
    /// Stands for the command and everything that its key was made of. None: that is not known.
    pub command: Option<Digest>,
    /// This run of it.
    pub run: Run,
    /// All of it but the run.
    pub record: R,
}

/// Of so many outputs it is known what was written down. More than builds have; then it is begun anew.
const MOST_WRITTEN: usize = 200_000;

/// A record is said to be in use once in so long, for the oldest are removed.
const USE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
const UNCHANGED: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };

/// What a record begins with.
const COMMAND_BYTES: usize = 32;

impl History {
    /// The records below `directory`, which need not be there yet.
    pub fn new(directory: PathBuf) -> History {
        let journal = Arc::new(Journal::new(&directory));
        History { directory, journal, written: Arc::default() }
    }

    /// Whether all of these outputs (absolute paths) were made by this [command](Made::command) last, by what stands in their
    /// records now.
    pub fn knows(&self, outputs: &[PathBuf], command: Digest) -> bool {
        outputs.iter().all(|output| {
            let Ok(file) = Fingerprint::of(&self.file_of(output)) else { return false };
            let known = self.written().get(output).copied();
            if known.is_some_and(|known| known.command == command && known.file == file) {
                return true;
            }
            if self.command_of(output).is_none_or(|known| known != *command.hash()) {
                return false;
            }
            self.remember(std::slice::from_ref(output), Some(command));
            true
        })
    }

    /// Notes a further run of a command that made all of `outputs` last, as [`knows`](Self::knows) has told.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn again(&self, outputs: &[PathBuf], command: Digest, run: Run) -> io::Result<()> {
        for output in outputs {
            self.use_record(output);
        }
        let outputs = outputs.iter().map(|output| name_of(output).hash().to_vec()).collect();
        let entry = Again { outputs, command: command.hash().to_vec(), run: Some(run) };
        // Without room, what is known becomes older.
        self.journal.append(&entry).map(drop)
    }

    /// Puts what has been `made` before what is known of each of `outputs` (absolute paths); a command that is run again is only
    /// noted.
    ///
    /// # Errors
    /// When a file cannot be written; the first such error, after the others were tried.
    pub fn add(&self, outputs: &[PathBuf], made: Made<impl FnOnce() -> CommandRecord>) -> io::Result<()> {
        let Made { command, run, record } = made;
        let Some((first, others)) = outputs.split_first() else { return Ok(()) };
        if let Some(command) = command.filter(|command| self.knows(outputs, *command)) {
            return self.again(outputs, command, run);
        }
        self.remember(outputs, None);
        let record = CommandRecord { run: Some(run), ..record() };
        let mut last = command.map_or_else(|| vec![0; COMMAND_BYTES], |command| command.hash().to_vec());
        OutputHistory { last: Some(record), previous: None }.encode(&mut last).map_err(io::Error::other)?;
        let before = inode(&self.file_of(first));
        let mut added = self.add_encoded(first, &last);
        for other in others {
            // Outputs that were always made together share their history, and one file is made for all.
            let is_shared = added.is_ok()
                && inode(&self.file_of(other)) == before
                && self.share(&self.file_of(first), &self.file_of(other)).is_ok();
            if !is_shared {
                added = added.and(self.add_encoded(other, &last));
            }
        }
        if added.is_ok() {
            self.remember(outputs, command);
        }
        added
    }

    /// None: nothing is known of them any more.
    fn remember(&self, outputs: &[PathBuf], command: Option<Digest>) {
        let files: Vec<_> =
            outputs.iter().map(|output| Fingerprint::of(&self.file_of(output)).ok()).collect();
        let mut written = self.written();
        if written.len() > MOST_WRITTEN {
            written.clear();
        }
        for (output, file) in outputs.iter().zip(files) {
            match command.zip(file) {
                None => drop(written.remove(output)),
                Some((command, file)) => {
                    written.insert(output.clone(), Written { command, file, used: Instant::now() });
                }
            }
        }
    }

    /// What is hit every day is not the oldest.
    fn use_record(&self, output: &Path) {
        let known = self.written().get(output).copied();
        let Some(Written { command, used, .. }) = known else { return };
        if used.elapsed() > USE_INTERVAL {
            // When it was written tells what it is of.
            let now = Timestamps { last_access: NOW, last_modification: UNCHANGED };
            // Failing to note it only makes the record look older.
            let _ = rustix::fs::utimensat(CWD, self.file_of(output), &now, AtFlags::empty());
            self.remember(&[output.to_owned()], Some(command));
        }
    }

    /// What is in this mutex is valid after every statement.
    fn written(&self) -> MutexGuard<'_, HashMap<PathBuf, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The command with which the record of an output begins.
    fn command_of(&self, output: &Path) -> Option<[u8; COMMAND_BYTES]> {
        let mut command = [0; COMMAND_BYTES];
        File::open(self.file_of(output)).ok()?.read_exact(&mut command).ok()?;
        Some(command)
    }

    fn share(&self, first: &Path, other: &Path) -> io::Result<()> {
        let directory = other.parent().unwrap_or(&self.directory);
        std::fs::create_dir_all(directory)?;
        let link = |path: &Path| std::fs::hard_link(first, path);
        let temporary = tempfile::Builder::new().make_in(directory, link)?.into_temp_path();
        disk::make_way(other);
        temporary.persist(other)?;
        Ok(())
    }

    fn add_encoded(&self, output: &Path, last: &[u8]) -> io::Result<()> {
        let path = self.file_of(output);
        let previous = self.record(output)?.and_then(|(_, history)| history.last);
        // Messages one after the other are one message with the fields of both (Protocol Buffers, "Encoding").
        let mut bytes = last.to_vec();
        bytes.extend(OutputHistory { last: None, previous }.encode_to_vec());
        let directory = path.parent().unwrap_or(&self.directory);
        std::fs::create_dir_all(directory)?;
        if disk::is_scarce(directory) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the file system is nearly full"));
        }
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&bytes)?;
        disk::make_way(&path);
        file.persist(&path)?;
        Ok(())
    }

    /// What is known of `output` (absolute path). A damaged record is none.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn of(&self, output: &Path) -> io::Result<Option<OutputHistory>> {
        let Some((command, history)) = self.record(output)? else { return Ok(None) };
        let name = name_of(output);
        let is_its = |entry: &Again| {
            entry.command == command && entry.outputs.iter().any(|output| *output == *name.hash())
        };
        // One from before the record was made is of a time when the same command had made it, too, and others since.
        let recorded =
            history.last.as_ref().and_then(|last| last.run.as_ref()).map_or(0, |run| run.unix_millis);
        let mut run = None;
        self.journal.visit(|entry| {
            if is_its(&entry) {
                run = entry.run.filter(|run| run.unix_millis >= recorded).or(run.take());
            }
        })?;
        Ok(Some(match run {
            Some(run) => again(history, run),
            None => history,
        }))
    }

    /// The record of an output by itself; a damaged one is none.
    fn record(&self, output: &Path) -> io::Result<Option<([u8; COMMAND_BYTES], OutputHistory)>> {
        match std::fs::read(self.file_of(output)) {
            Ok(bytes) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes records, the oldest first, until they take no more than `max_size_bytes`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn trim(&self, max_size_bytes: u64) -> io::Result<()> {
        let mut records = Vec::new();
        for shard in read_dir(&self.directory)? {
            for record in read_dir(&shard?.path())? {
                let record = record?;
                // What another daemon has just replaced or removed needs no removing.
                let Ok(metadata) = record.metadata() else { continue };
                // Reading it counts as well, where the file system notes that.
                let used = metadata.modified()?.max(metadata.accessed()?);
                records.push((used, metadata.len(), record.path()));
            }
        }
        let mut size_bytes: u64 = records.iter().map(|(_, len, _)| len).sum();
        records.sort();
        for (_, len, path) in records {
            if size_bytes <= max_size_bytes {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                size_bytes -= len;
            }
        }
        Ok(())
    }

    fn file_of(&self, output: &Path) -> PathBuf {
        self.record_of(name_of(output).hash())
    }

    /// The file of the output whose path has this SHA-256.
    fn record_of(&self, name: &[u8]) -> PathBuf {
        let name = name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (shard, rest) = name.split_at_checked(2).unwrap_or((&name, ""));
        self.directory.join(shard).join(rest)
    }
}

fn name_of(output: &Path) -> Digest {
    Digest::of(output.as_os_str().as_bytes())
}

/// The last command, and all; none of a record that is damaged.
fn decode(bytes: &[u8]) -> Option<([u8; COMMAND_BYTES], OutputHistory)> {
    let (command, history) = bytes.split_first_chunk()?;
    Some((*command, OutputHistory::decode(history).ok()?))
}

/// The history after a further run of its last command: the time before it was the same.
fn again(history: OutputHistory, run: Run) -> OutputHistory {
    let OutputHistory { last, .. } = history;
    let now = last.clone().map(|last| CommandRecord { run: Some(run), ..last });
    OutputHistory { last: now, previous: last }
}

/// Which file is at `path`; none if there is none.
fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The entries of a directory; none if it is not there.
fn read_dir(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None.into_iter().flatten())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use farcc_proto::record::ingredient::Kind;

    use super::difference::tests::record;
    use super::*;

    fn add(history: &History, outputs: &[PathBuf], record: CommandRecord) {
        let made = Made { command: None, run: Run::default(), record: || record };
        history.add(outputs, made).unwrap();
    }

    #[test]
    fn a_command_that_is_run_again_is_only_noted() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let outputs = ["/w/a.o", "/w/a.d"].map(PathBuf::from);
        // Whether all of it was written.
        let made = |history: &History, outputs: &[PathBuf], command: &[u8], millis, value: &str| {
            let run = Run { unix_millis: millis, outcome: "hit_local".to_owned(), ..Run::default() };
            let mut whole = false;
            let record = || {
                whole = true;
                record(&[(Kind::Input, "a", value)])
            };
            history.add(outputs, Made { command: Some(Digest::of(command)), run, record }).unwrap();
            whole
        };
        let known = |output: &Path| {
            let OutputHistory { last, previous } = history.of(output).unwrap().unwrap();
            let last = last.unwrap();
            (last.run.as_ref().unwrap().unix_millis, last, previous)
        };
        assert!(made(&history, &outputs, b"one", 1, "1"));
        for millis in [2, 3] {
            assert!(!made(&history, &outputs, b"one", millis, "1"));
            for output in &outputs {
                let (at, last, previous) = known(output);
                assert_eq!(at, millis);
                assert_eq!(Comparison::of(previous.as_ref(), &last).differences, []);
            }
        }
        // Another command, of which nothing is known but itself.
        for millis in [40, 41] {
            let run = Run { unix_millis: millis, ..Run::default() };
            history.add(&outputs, Made { command: None, run, record: CommandRecord::default }).unwrap();
            assert_eq!(known(&outputs[0]).0, millis);
        }
        assert!(!history.knows(&outputs, Digest::of(b"one")));
        assert!(made(&history, &outputs, b"one", 42, "1"));
        assert!(made(&history, &outputs, b"two", 44, "2"));
        let (at, last, previous) = known(&outputs[0]);
        assert_eq!((at, Comparison::of(previous.as_ref(), &last).differences.len()), (44, 1));
        // Another process knows what stands in the files.
        let other = History::new(directory.path().join("history"));
        assert!(!made(&other, &outputs, b"two", 45, "2"));
        assert_eq!(known(&outputs[1]).0, 45);
        assert!(made(&other, &outputs[..1], b"three", 46, "3"));
        // And this one sees that, and what stands in a file that is gone is written anew.
        assert!(made(&history, &outputs, b"two", 47, "2"));
        assert_eq!((known(&outputs[0]).0, known(&outputs[1]).0), (47, 47));
        assert!(std::fs::remove_file(history.file_of(&outputs[1])).is_ok());
        assert!(made(&history, &outputs, b"two", 48, "2"));
        assert!(!made(&history, &outputs, b"two", 49, "2"));
        assert_eq!((known(&outputs[0]).0, known(&outputs[1]).0), (49, 49));
        // What is in use is not the oldest.
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        let old = std::fs::File::open(history.file_of(&outputs[0])).unwrap();
        old.set_times(std::fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago)).unwrap();
        assert!(!made(&history, &outputs, b"two", 50, "2"));
        old.set_times(std::fs::FileTimes::new().set_accessed(long_ago)).unwrap();
        assert!(history.knows(&outputs, Digest::of(b"two")));
        old.set_times(std::fs::FileTimes::new().set_accessed(long_ago)).unwrap();
        let before = Instant::now().checked_sub(2 * USE_INTERVAL);
        if let Some(before) = before {
            history.written().values_mut().for_each(|written| written.used = before);
            history.again(&outputs, Digest::of(b"two"), Run::default()).unwrap();
            let metadata = old.metadata().unwrap();
            assert_eq!(metadata.modified().unwrap(), long_ago);
            assert!(metadata.accessed().unwrap().elapsed().unwrap() < USE_INTERVAL);
        }
        // What is cut off in the middle says less, or nothing.
        let file = history.file_of(&outputs[1]);
        let bytes = std::fs::read(&file).unwrap();
        for length in 0..bytes.len() {
            let _ = decode(&bytes[..length]);
        }
    }

    #[test]
    fn the_oldest_records_are_trimmed() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        history.trim(0).unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        for name in ["old", "new"] {
            add(&history, &[name.into()], record(&[(Kind::Input, "a", "1")]));
        }
        let old = std::fs::File::open(history.file_of(Path::new("old"))).unwrap();
        let age = || {
            let times = std::fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago);
            old.set_times(times).unwrap();
        };
        age();
        let size_bytes = old.metadata().unwrap().len();
        history.trim(2 * size_bytes).unwrap();
        assert!(history.of(Path::new("old")).unwrap().is_some());
        // To read it was to use it.
        age();
        history.trim(2 * size_bytes - 1).unwrap();
        assert!(history.of(Path::new("old")).unwrap().is_none());
        assert!(history.of(Path::new("new")).unwrap().is_some());
    }

    #[test]
    fn the_last_two_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let output = Path::new("/w/a.o");
        assert_eq!(history.of(output).unwrap(), None);
        for value in ["1", "2", "3"] {
            add(&history, &[output.to_owned()], record(&[(Kind::Input, "a", value)]));
        }
        let known = history.of(output).unwrap().unwrap();
        let value = |record: Option<CommandRecord>| record.unwrap().ingredients[0].value.clone();
        assert_eq!((value(known.last), value(known.previous)), (b"3".to_vec(), b"2".to_vec()));
    }

    #[test]
    fn outputs_that_were_made_together_share_a_history() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let [object, depfile] = ["/w/a.o", "/w/a.d"].map(PathBuf::from);
        let made = |outputs: &[&PathBuf], value| {
            let outputs: Vec<_> = outputs.iter().map(|output| (*output).clone()).collect();
            add(&history, &outputs, record(&[(Kind::Input, "a", value)]));
        };
        let known = |output: &Path| {
            let known = history.of(output).unwrap().unwrap();
            let value =
                |record: CommandRecord| String::from_utf8(record.ingredients[0].value.clone()).unwrap();
            (known.last.map(value).unwrap(), known.previous.map(value))
        };
        let is_shared = || inode(&history.file_of(&object)) == inode(&history.file_of(&depfile));
        made(&[&object, &depfile], "1");
        made(&[&object, &depfile], "2");
        assert!(is_shared());
        assert_eq!(known(&depfile), ("2".to_owned(), Some("1".to_owned())));
        // Others made one of them alone.
        made(&[&object], "3");
        assert_eq!(known(&depfile), ("2".to_owned(), Some("1".to_owned())));
        made(&[&object, &depfile], "4");
        assert!(!is_shared());
        assert_eq!(known(&object), ("4".to_owned(), Some("3".to_owned())));
        assert_eq!(known(&depfile), ("4".to_owned(), Some("2".to_owned())));
    }
}

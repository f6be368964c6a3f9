//! Remembers, for each output file, the last two commands that made it, and tells how they differ.
//! Knows nothing of how the records came about.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
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
use std::time::SystemTime;

use farcc_proto::record::CommandRecord;
use farcc_proto::record::Ingredient;
use farcc_proto::record::OutputHistory;
use farcc_proto::record::Run;
use farcc_proto::record::ingredient::Kind;
use prost::Message;

use crate::digest::Digest;
use crate::disk;
use crate::files::Fingerprint;

/// The records of one user, one file each in a directory.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
    /// By output: what this process has written down of it.
    written: Arc<Mutex<HashMap<PathBuf, Written>>>,
}

/// What was written down of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    /// The [command](Made::command).
    command: Digest,
    /// The file as it was left: other processes put others into its place, and inodes are used again.
    file: Fingerprint,
}

/// A command that has made something.
pub struct Made<R> {
    /// Stands for the command and everything that its key was made of. None: that is not known.
    pub command: Option<Digest>,
    /// This run of it.
    pub run: Run,
    /// All of it.
    pub record: R,
}

/// Of so many outputs it is known what was written down. More than builds have; then it is begun anew.
const MOST_WRITTEN: usize = 200_000;

/// A file with more runs is written anew.
const MOST_RECORD_BYTES: u64 = 1 << 20;

impl History {
    /// The records below `directory`, which need not be there yet.
    pub fn new(directory: PathBuf) -> History {
        History { directory, written: Arc::default() }
    }

    /// Puts what has been `made` before what is known of each of `outputs` (absolute paths). A command that is run again is only
    /// appended to: most hits are such.
    ///
    /// # Errors
    /// When a file cannot be written; the first such error, after the others were tried.
    pub fn add(&self, outputs: &[PathBuf], made: Made<impl FnOnce() -> CommandRecord>) -> io::Result<()> {
        let Made { command, run, record } = made;
        let known = self.take(outputs);
        if let Some(command) = command
            && let Some(files) = known.and_then(|known| files_of(&known, command))
            && self.append(outputs, &files, &run)?
        {
            self.remember(outputs, command);
            return Ok(());
        }
        let Some((first, others)) = outputs.split_first() else { return Ok(()) };
        let last = OutputHistory { last: Some(record()), ..OutputHistory::default() }.encode_to_vec();
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
        if let Some(command) = command.filter(|_| added.is_ok()) {
            self.remember(outputs, command);
        }
        added
    }

    /// What this process has written down of all of the outputs, which it forgets; None: of one of them, nothing.
    fn take(&self, outputs: &[PathBuf]) -> Option<Vec<Written>> {
        let mut written = self.written();
        let taken: Vec<_> = outputs.iter().map(|output| written.remove(output)).collect();
        taken.into_iter().collect()
    }

    fn remember(&self, outputs: &[PathBuf], command: Digest) {
        let files: Vec<_> =
            outputs.iter().map(|output| Fingerprint::of(&self.file_of(output)).ok()).collect();
        let mut written = self.written();
        if written.len() > MOST_WRITTEN {
            written.clear();
        }
        for (output, file) in outputs.iter().zip(files) {
            written.extend(file.map(|file| (output.clone(), Written { command, file })));
        }
    }

    /// Appends a run to the records of the outputs, if they are still these files. False: they are not.
    fn append(&self, outputs: &[PathBuf], files: &[Fingerprint], run: &Run) -> io::Result<bool> {
        if disk::is_scarce(&self.directory) {
            return Ok(false);
        }
        let mut open = HashMap::new();
        for (output, file) in outputs.iter().zip(files) {
            let Ok(record) = File::options().append(true).open(self.file_of(output)) else {
                return Ok(false);
            };
            if Fingerprint::of_open(&record)? != *file || file.size_bytes() > MOST_RECORD_BYTES {
                return Ok(false);
            }
            open.entry(file.file_id()).or_insert(record);
        }
        let bytes = OutputHistory { again: vec![run.clone()], ..OutputHistory::default() }.encode_to_vec();
        for mut record in open.into_values() {
            let before = record.metadata()?.len();
            if let Err(error) = record.write_all(&bytes) {
                // Half a run would spoil what stands before it.
                record.set_len(before)?;
                return Err(error);
            }
        }
        Ok(true)
    }

    /// What is in this mutex is valid after every statement.
    fn written(&self) -> MutexGuard<'_, HashMap<PathBuf, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
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
        let previous = self.of(output)?.and_then(|history| history.last);
        // Messages one after the other are one message with the fields of both (Protocol Buffers, "Encoding").
        let mut bytes = last.to_vec();
        bytes.extend(OutputHistory { previous, ..OutputHistory::default() }.encode_to_vec());
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
        match std::fs::read(self.file_of(output)) {
            Ok(bytes) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commands of the last build, the last one first: those that followed each other without a `pause`. Damaged records are
    /// left out. Reads no more records than that.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn last_build(&self, pause: Duration) -> io::Result<Vec<OutputHistory>> {
        let mut records = Vec::new();
        for shard in read_dir(&self.directory)? {
            for record in read_dir(&shard?.path())? {
                let path = record?.path();
                // What has just been replaced or removed has another time, or none.
                let Ok(metadata) = path.metadata() else { continue };
                records.push((metadata.modified()?, (metadata.dev(), metadata.ino()), path));
            }
        }
        records.sort_unstable_by(|one, other| other.cmp(one));
        let (mut files, mut commands) = (HashSet::new(), HashSet::new());
        let mut began = None;
        let mut build = Vec::new();
        for (written, file, path) in records {
            if began.is_some_and(|began| written + pause < began) {
                break;
            }
            // Outputs that were made together share one.
            let bytes = if files.insert(file) { std::fs::read(path).ok() } else { None };
            let history = bytes.and_then(|bytes| decode(&bytes));
            let Some((last, history)) = history.and_then(|history| Some((history.last.clone()?, history)))
            else {
                continue;
            };
            let start = last.unix_millis.saturating_sub(last.whole_micros / 1_000);
            let start = SystemTime::UNIX_EPOCH + Duration::from_millis(start);
            began = Some(began.map_or(start, |began: SystemTime| began.min(start)));
            if commands.insert((last.unix_millis, last.cwd, last.arguments)) {
                build.push(history);
            }
        }
        Ok(build)
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
                records.push((metadata.modified()?, metadata.len(), record.path()));
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
        let name = Digest::of(output.as_os_str().as_bytes()).hex();
        let (shard, rest) = name.split_at(2);
        self.directory.join(shard).join(rest)
    }
}

/// A record in which the last run is `last`; none if it is damaged.
fn decode(bytes: &[u8]) -> Option<OutputHistory> {
    let mut history = OutputHistory::decode(bytes).ok()?;
    if let Some(run) = history.again.pop()
        && let Some(last) = history.last.take()
    {
        let Run { unix_millis, outcome, reason, reason_detail, micros, whole_micros, .. } = run;
        let Run { made_unix_millis, made_micros, made_by, .. } = run;
        let run = CommandRecord {
            unix_millis,
            outcome,
            reason,
            reason_detail,
            micros,
            whole_micros,
            made_unix_millis,
            made_micros,
            made_by,
            ..last.clone()
        };
        // The time before it was the same.
        history = OutputHistory { last: Some(run), previous: Some(last), again: Vec::new() };
    }
    Some(history)
}

/// The files, if all that is written down is of this command.
fn files_of(known: &[Written], command: Digest) -> Option<Vec<Fingerprint>> {
    known.iter().map(|written| (written.command == command).then_some(written.file)).collect()
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

/// One thing in which two commands differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind of thing.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
    /// How it differs.
    pub change: Change,
}

/// How an ingredient differs from the previous time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was not there the previous time.
    Added,
    /// It was there the previous time only.
    Removed,
    /// It has another value: the previous one and the present one.
    Changed(Vec<u8>, Vec<u8>),
}

/// How `last` differs from `previous`; empty when both have the same ingredients.
pub fn differences(previous: &CommandRecord, last: &CommandRecord) -> Vec<Difference> {
    let (previous, last) = (by_name(previous), by_name(last));
    let mut differences = Vec::new();
    for (&(kind, name), &value) in &last {
        let change = match previous.get(&(kind, name)) {
            None => Change::Added,
            Some(&before) if before != value => {
                // The order of arguments matters, a mere shift by an added one does not.
                if kind == Kind::Argument {
                    continue;
                }
                Change::Changed(before.to_owned(), value.to_owned())
            }
            Some(_) => continue,
        };
        differences.push(Difference { kind, name: name.to_owned(), change });
    }
    for &(kind, name) in previous.keys().filter(|key| !last.contains_key(key)) {
        differences.push(Difference { kind, name: name.to_owned(), change: Change::Removed });
    }
    if differences.is_empty() && previous != last {
        let name = b"(order of the arguments)".to_vec();
        differences.push(Difference {
            kind: Kind::Argument,
            name,
            change: Change::Changed(Vec::new(), Vec::new()),
        });
    }
    differences
}

fn by_name(record: &CommandRecord) -> BTreeMap<(Kind, &[u8]), &[u8]> {
    let ingredient = |i: &'_ Ingredient| i.kind();
    record.ingredients.iter().map(|i| ((ingredient(i), &*i.name), &*i.value)).collect()
}

/// A line for people: `header changed: /w/a.h`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Input => "input",
            Kind::Argument => "argument",
            Kind::Variable => "environment variable",
            Kind::Program => "toolchain program",
            Kind::Configuration => "configuration",
            Kind::Unspecified => "ingredient",
        };
        let name = OsStr::from_bytes(&self.name).display();
        match &self.change {
            Change::Added => write!(f, "{kind} added: {name}"),
            Change::Removed => write!(f, "{kind} removed: {name}"),
            Change::Changed(before, now) if self.kind == Kind::Variable => {
                let (before, now) = (OsStr::from_bytes(before), OsStr::from_bytes(now));
                write!(f, "{kind} changed: {name}: {} -> {}", before.display(), now.display())
            }
            Change::Changed(..) => write!(f, "{kind} changed: {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ingredients: &[(Kind, &str, &str)]) -> CommandRecord {
        let ingredients = ingredients.iter().map(|(kind, name, value)| Ingredient {
            kind: (*kind).into(),
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
        });
        CommandRecord { ingredients: ingredients.collect(), ..CommandRecord::default() }
    }

    fn add(history: &History, outputs: &[PathBuf], record: CommandRecord) {
        let made = Made { command: None, run: Run::default(), record: || record };
        history.add(outputs, made).unwrap();
    }

    #[test]
    fn a_command_that_is_run_again_is_only_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let outputs = ["/w/a.o", "/w/a.d"].map(PathBuf::from);
        let made = |history: &History, outputs: &[PathBuf], command: &[u8], millis, value: &str| {
            let mut whole = false;
            let run = Run { unix_millis: millis, outcome: "hit_local".to_owned(), ..Run::default() };
            let record = || {
                whole = true;
                let reason = "no_remote".to_owned();
                CommandRecord { unix_millis: millis, reason, ..record(&[(Kind::Input, "a", value)]) }
            };
            let made = Made { command: Some(Digest::of(command)), run, record };
            history.add(outputs, made).unwrap();
            whole
        };
        let known = |output: &Path| {
            let OutputHistory { last, previous, again } = history.of(output).unwrap().unwrap();
            assert!(again.is_empty());
            (last.unwrap(), previous)
        };
        assert!(made(&history, &outputs, b"one", 1, "1"));
        for millis in [2, 3] {
            assert!(!made(&history, &outputs, b"one", millis, "1"));
            for output in &outputs {
                let (last, previous) = known(output);
                assert_eq!(
                    (last.unix_millis, last.outcome.as_str(), last.reason.as_str()),
                    (millis, "hit_local", "")
                );
                assert_eq!(differences(&previous.unwrap(), &last), []);
            }
        }
        // Another command, of which nothing is known but itself, and another process's.
        for millis in [40, 41] {
            let run = Run { unix_millis: millis, ..Run::default() };
            let record = || CommandRecord { unix_millis: millis, ..CommandRecord::default() };
            history.add(&outputs, Made { command: None, run, record }).unwrap();
        }
        assert!(made(&history, &outputs, b"one", 42, "1"));
        assert!(made(&history, &outputs, b"two", 4, "2"));
        let (last, previous) = known(&outputs[0]);
        assert_eq!((last.unix_millis, differences(&previous.unwrap(), &last).len()), (4, 1));
        let other = History::new(directory.path().join("history"));
        assert!(made(&other, &outputs[..1], b"three", 5, "3"));
        assert!(made(&history, &outputs, b"two", 6, "2"));
        assert_eq!(known(&outputs[0]).0.unix_millis, 6);
        assert!(!made(&history, &outputs, b"two", 7, "2"));
        assert_eq!((known(&outputs[0]).0.unix_millis, known(&outputs[1]).0.unix_millis), (7, 7));
        // What is cut off in the middle says less, or nothing.
        let file = history.file_of(&outputs[1]);
        let bytes = std::fs::read(&file).unwrap();
        for length in 0..bytes.len() {
            let _ = decode(&bytes[..length]);
        }
        assert!(std::fs::remove_file(file).is_ok() && made(&history, &outputs, b"two", 8, "2"));
    }

    fn lines(previous: &CommandRecord, last: &CommandRecord) -> Vec<String> {
        differences(previous, last).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_difference() {
        let previous = record(&[
            (Kind::Input, "/w/a.h", "1"),
            (Kind::Input, "/w/b.h", "1"),
            (Kind::Argument, "-O1", "1"),
            (Kind::Argument, "-c", "2"),
            (Kind::Variable, "CPATH", "/x"),
        ]);
        let last = record(&[
            (Kind::Input, "/w/a.h", "2"),
            (Kind::Input, "/w/c.h", "1"),
            (Kind::Argument, "-c", "1"),
            (Kind::Variable, "CPATH", "/y"),
        ]);
        assert_eq!(
            lines(&previous, &last),
            [
                "input changed: /w/a.h",
                "input added: /w/c.h",
                "environment variable changed: CPATH: /x -> /y",
                "input removed: /w/b.h",
                "argument removed: -O1",
            ]
        );
        assert!(lines(&last, &last).is_empty());
    }

    #[test]
    fn an_order_alone_is_a_difference() {
        let previous = record(&[(Kind::Argument, "-la", "1"), (Kind::Argument, "-lb", "2")]);
        let last = record(&[(Kind::Argument, "-la", "2"), (Kind::Argument, "-lb", "1")]);
        assert_eq!(lines(&previous, &last), ["argument changed: (order of the arguments)"]);
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
        old.set_modified(long_ago).unwrap();
        let size_bytes = old.metadata().unwrap().len();
        history.trim(2 * size_bytes).unwrap();
        assert!(history.of(Path::new("old")).unwrap().is_some());
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
        assert_eq!(known.last, Some(record(&[(Kind::Input, "a", "3")])));
        assert_eq!(known.previous, Some(record(&[(Kind::Input, "a", "2")])));
    }

    #[test]
    fn a_build_is_what_follows_without_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let pause = Duration::from_secs(10);
        assert!(history.last_build(pause).unwrap().is_empty());
        let epoch = SystemTime::UNIX_EPOCH;
        // Name, second in which it ended, seconds that it took.
        for (name, ended, took) in
            [("a", 100, 5), ("before", 50, 1), ("b", 130, 40), ("c", 89, 1), ("d", 139, 1), ("e", 70, 1)]
        {
            let mut made = record(&[]);
            (made.unix_millis, made.whole_micros) = (ended * 1000, took * 1_000_000);
            made.arguments = vec![name.into()];
            let outputs = [format!("/w/{name}.o"), format!("/w/{name}.d")].map(PathBuf::from);
            add(&history, &outputs, made);
            let file = std::fs::File::open(history.file_of(&outputs[0])).unwrap();
            file.set_modified(epoch + Duration::from_millis(ended * 1000 + 2)).unwrap();
        }
        std::fs::write(history.file_of(Path::new("/w/d.o")).with_file_name("damaged"), "?").unwrap();
        let build = history.last_build(pause).unwrap();
        let names =
            build.into_iter().map(|made| String::from_utf8(made.last.unwrap().arguments.remove(0)).unwrap());
        assert_eq!(names.collect::<String>(), "dbac");
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

//! Which commands belong to the last build.
//! Knows nothing of what they say.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use farcc_proto::record::OutputHistory;
use farcc_proto::record::Run;

use crate::history::History;
use crate::history::again;
use crate::history::read_dir;

/// Something that has been made.
struct Event {
    at: SystemTime,
    /// The file that tells of it.
    record: PathBuf,
    /// A further run: of which command.
    again: Option<(Vec<u8>, Run)>,
}

impl History {
    /// The commands of the last build, the last one first: those that followed each other without a `pause`; of those that
    /// made the same, only the last. Damaged records are left out. Reads no more records than that.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn last_build(&self, pause: Duration) -> io::Result<Vec<OutputHistory>> {
        let (mut events, mut files) = (Vec::new(), HashMap::new());
        for shard in read_dir(&self.directory)? {
            for record in read_dir(&shard?.path())? {
                let record = record?.path();
                // What has just been replaced or removed has another time, or none.
                let Ok(metadata) = record.metadata() else { continue };
                // Outputs that were made together share one.
                files.insert(record.clone(), (metadata.dev(), metadata.ino()));
                events.push(Event { at: metadata.modified()?, record, again: None });
            }
        }
        self.journal.visit(|entry| {
            if let (Some(run), Some(output)) = (entry.run, entry.outputs.first()) {
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(run.unix_millis);
                events.push(Event { at, record: self.record_of(output), again: Some((entry.command, run)) });
            }
        })?;
        events.sort_unstable_by_key(|event| std::cmp::Reverse(event.at));
        let mut seen = HashSet::new();
        let mut began = None;
        let mut build = Vec::new();
        for Event { at, record, again: further } in events {
            if began.is_some_and(|began| at + pause < began) {
                break;
            }
            let Some(file) = files.get(&record).filter(|file| !seen.contains(*file)) else { continue };
            let Some((command, history)) =
                std::fs::read(&record).ok().and_then(|bytes| super::decode(&bytes))
            else {
                continue;
            };
            let history = match further {
                Some((other, _)) if other != command => continue,
                Some((_, run)) => again(history, run),
                None => history,
            };
            let Some(run) = history.last.as_ref().and_then(|last| last.run.as_ref()) else { continue };
            seen.insert(*file);
            let start = run.unix_millis.saturating_sub(run.whole_micros / 1_000);
            let start = SystemTime::UNIX_EPOCH + Duration::from_millis(start);
            began = Some(began.map_or(start, |began: SystemTime| began.min(start)));
            build.push(history);
        }
        // A command whose outputs do not share a record is still one.
        let mut commands = HashSet::new();
        build.retain(|history| {
            let last = history.last.as_ref();
            let run = last.and_then(|last| last.run.as_ref()).map(|run| run.unix_millis);
            commands.insert((run, last.map(|last| (last.cwd.clone(), last.arguments.clone()))))
        });
        Ok(build)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farcc_proto::record::CommandRecord;

    use super::*;
    use crate::digest::Digest;
    use crate::history::Made;

    #[test]
    fn a_build_is_what_follows_without_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path().join("history"));
        let pause = Duration::from_secs(10);
        assert!(history.last_build(pause).unwrap().is_empty());
        let names = |history: &History| -> String {
            let build = history.last_build(pause).unwrap();
            build
                .into_iter()
                .map(|made| String::from_utf8(made.last.unwrap().arguments.remove(0)).unwrap())
                .collect()
        };
        // Name, second in which it ended, seconds that it took.
        let add = |name: &str, ended: u64, took: u64| {
            let run = Run { unix_millis: ended * 1000, whole_micros: took * 1_000_000, ..Run::default() };
            let outputs = [format!("/w/{name}.o"), format!("/w/{name}.d")].map(PathBuf::from);
            let command = Digest::of(name.as_bytes());
            let record = || CommandRecord { arguments: vec![name.into()], ..CommandRecord::default() };
            history.add(&outputs, Made { command: Some(command), run, record }).unwrap();
            if ended < 200 {
                let file = std::fs::File::open(history.file_of(&outputs[0])).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(ended * 1000 + 2)).unwrap();
            }
        };
        for (name, ended, took) in
            [("a", 100, 5), ("before", 50, 1), ("b", 130, 40), ("c", 89, 1), ("d", 139, 1), ("e", 70, 1)]
        {
            add(name, ended, took);
        }
        std::fs::write(history.file_of(Path::new("/w/d.o")).with_file_name("damaged"), "?").unwrap();
        assert_eq!(names(&history), "dbac");
        // Hits of commands that are known are commands of the build, each once.
        add("e", 200, 1);
        add("a", 205, 1);
        add("e", 207, 1);
        assert_eq!(names(&history), "ea");
    }
}

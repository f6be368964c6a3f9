//! Remembers whole scans, and takes one from memory while every file in it is as it was and every look-up that
//! failed still fails.
//! Knows nothing of how a unit is scanned.
//!
//! One unit costs one `stat` for each of its files and one for each directory in which it looked in vain. What
//! changed within the clock's granularity of the moment it was looked at is not trusted by its `stat`: files are read
//! again, look-ups made again.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use dashmap::DashMap;
use foldhash::HashMap;

use crate::digest::Digest;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::files::InputFile;
use crate::fitted::fitted;
use crate::preprocessor::Answers;
use crate::preprocessor::DiskSources;
use crate::preprocessor::Predefined;
use crate::preprocessor::Scan;
use crate::preprocessor::ScanError;
use crate::preprocessor::TranslationUnit;
use crate::preprocessor::siblings::MANY_SIBLINGS;
use crate::preprocessor::siblings::open_directory;
use crate::preprocessor::siblings::split;
use crate::preprocessor::summaries::Summaries;
use crate::preprocessor::survey::Evidence;

/// When the scans take more memory than this, all are forgotten: some ten thousand units take a third of it.
const LARGEST_MEMORY_BYTES: usize = 256 << 20;

/// The scans of all units, shared by all connections.
pub struct Memo {
    sources: DiskSources,
    summaries: Summaries,
    scans: DashMap<Digest, Arc<Remembered>>,
    /// About what they take, in bytes.
    size_bytes: AtomicUsize,
}

/// One scan, and what shows that it still holds.
struct Remembered {
    scan: Arc<Scan>,
    directories: Directories,
    evidence: RwLock<Arc<Evidence>>,
    size_bytes: usize,
    /// The key holds their addresses: as long as they live, nothing else has them.
    _compiler: (Arc<Predefined>, Arc<Answers>),
}

impl Memo {
    /// An empty memory over `sources`.
    pub fn new(sources: DiskSources) -> Memo {
        Memo { sources, summaries: Summaries::new(), scans: DashMap::new(), size_bytes: AtomicUsize::new(0) }
    }

    /// The files that `unit` reads, from memory or by scanning it.
    ///
    /// # Errors
    /// See [`scan`](crate::preprocessor::scan); errors are not remembered.
    pub fn scan(&self, unit: &TranslationUnit) -> Result<Arc<Scan>, ScanError> {
        let context = unit.context();
        let key = unit.key(context);
        let remembered = self.scans.get(&key).map(|entry| Arc::clone(&entry));
        if let Some(remembered) = remembered
            && remembered.holds(&self.sources)
        {
            return Ok(Arc::clone(&remembered.scan));
        }
        let started = self.sources.files().now();
        let mut scan = self.summaries.scan_in(context, unit, &self.sources)?;
        let evidence = std::mem::take(&mut scan.evidence).since(started);
        let scan = Arc::new(scan);
        let directories = Directories::of(&scan, started);
        let size_bytes = size_of::<Remembered>()
            + directories.size_bytes()
            + scan.all_files().count() * size_of::<Arc<InputFile>>()
            + scan.failed_lookups.size_bytes()
            + evidence.size_bytes();
        self.remember(
            key,
            Remembered {
                scan: Arc::clone(&scan),
                directories,
                evidence: RwLock::new(Arc::new(evidence)),
                size_bytes,
                _compiler: (Arc::clone(&unit.predefined), Arc::clone(&unit.answers)),
            },
        );
        Ok(scan)
    }

    fn remember(&self, key: Digest, remembered: Remembered) {
        let size = remembered.size_bytes;
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_MEMORY_BYTES {
            self.scans.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(old) = self.scans.insert(key, Arc::new(remembered)) {
            self.size_bytes.fetch_sub(old.size_bytes, Ordering::Relaxed);
        }
    }

    /// The files that the scans were made from.
    pub fn sources(&self) -> &DiskSources {
        &self.sources
    }

    /// How many units are remembered.
    pub fn units(&self) -> usize {
        self.scans.len()
    }

    /// About how much memory the scans and the summaries of headers take, in bytes; the files that they share are
    /// counted with the [sources](DiskSources::size_bytes).
    pub fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed) + self.summaries.size_bytes()
    }
}

impl Remembered {
    fn holds(&self, sources: &DiskSources) -> bool {
        if !self.directories.are_unchanged(&self.scan, sources.files()) {
            return false;
        }
        let evidence = Arc::clone(&self.evidence.read().unwrap_or_else(PoisonError::into_inner));
        let (hold, renewed) = self.scan.failed_lookups.hold(&evidence, sources);
        if let Some(renewed) = renewed {
            *self.evidence.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
        }
        hold
    }
}

/// The files of one scan, those of one directory together.
struct Directories {
    files: Box<[Numbered]>,
    /// Where in these each directory ends.
    ends: Box<[u32]>,
}

/// A file by its number among [all](Scan::all_files), doubled; odd if its `stat` can be trusted.
#[derive(Clone, Copy)]
struct Numbered(u32);

impl Numbered {
    fn new(number: usize, settled: bool) -> Numbered {
        // No unit has so many; one that is not there has changed.
        let doubled = u32::try_from(number).ok().and_then(|number| number.checked_mul(2));
        Numbered(doubled.unwrap_or(u32::MAX - 1) | u32::from(settled))
    }

    /// The file, and whether its `stat` can be trusted.
    fn of(self, scan: &Scan) -> Option<(&Arc<InputFile>, bool)> {
        Some((scan.all_files().nth((self.0 / 2) as usize)?, self.0 % 2 == 1))
    }
}

impl Directories {
    fn of(scan: &Scan, started: SystemTime) -> Directories {
        let mut directories: HashMap<&OsStr, Vec<Numbered>> = HashMap::default();
        for (number, file) in scan.all_files().enumerate() {
            let settled = file.version.fingerprint.is_settled(started);
            directories.entry(split(&file.path).0).or_default().push(Numbered::new(number, settled));
        }
        let mut end = 0;
        let ends = directories.values().map(|files| {
            end += files.len();
            u32::try_from(end).unwrap_or(u32::MAX)
        });
        let ends = fitted(ends.collect());
        Directories { files: fitted(directories.into_values().flatten().collect()), ends }
    }

    fn are_unchanged(&self, scan: &Scan, files: &Files) -> bool {
        let mut start = 0;
        self.ends.iter().all(|&end| {
            let together = self.files.get(start..end as usize);
            start = end as usize;
            together.is_some_and(|together| are_unchanged(together, scan, files))
        })
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.files) + size_of_val(&*self.ends)
    }
}

/// Of files in one directory.
fn are_unchanged(together: &[Numbered], scan: &Scan, files: &Files) -> bool {
    let mut numbered = together.iter().map(|numbered| numbered.of(scan));
    let first = together.first().filter(|_| together.len() >= MANY_SIBLINGS);
    let Some((first, _)) = first.and_then(|first| first.of(scan)) else {
        return numbered.all(|file| file.is_some_and(|(file, settled)| is_unchanged(file, settled, files)));
    };
    let Ok(directory) = open_directory(split(&first.path).0) else { return false };
    numbered.all(|file| match file {
        Some((file, true)) => Fingerprint::below(&directory, split(&file.path).1)
            .is_ok_and(|now| now == file.version.fingerprint),
        Some((file, false)) => is_unchanged(file, false, files),
        None => false,
    })
}

fn is_unchanged(file: &InputFile, settled: bool, files: &Files) -> bool {
    match settled {
        true => Fingerprint::of(&file.path).is_ok_and(|now| now == file.version.fingerprint),
        // It is read again, unless it has been since it settled.
        false => files.version(&file.path).is_ok_and(|now| now == file.version),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;
    use crate::preprocessor::ForcedInclude;
    use crate::preprocessor::MacroOption;
    use crate::preprocessor::tests::Tree;
    use crate::preprocessor::tests::long_after;

    /// A clock so coarse that nothing ever settles.
    fn coarse() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    /// A unit in a scratch directory with the include directories `a` and `b`.
    struct Project {
        tree: Tree,
        memo: Memo,
    }

    impl Project {
        fn new(clock: fn() -> SystemTime, files: &[(&str, &str)]) -> Project {
            let memo = Memo::new(DiskSources::new(Arc::new(Files::with_clock(clock))));
            Project { tree: Tree::new(files), memo }
        }

        fn scan(&self) -> Arc<Scan> {
            self.memo.scan(&self.tree.unit).unwrap()
        }

        /// The names of the files that the unit reads.
        fn names(&self) -> Vec<String> {
            let name =
                |path: PathBuf| path.strip_prefix(self.tree.directory.path()).unwrap().display().to_string();
            self.scan().paths().into_iter().map(name).collect()
        }

        /// Whether a scan is taken from memory.
        fn is_remembered(&self) -> bool {
            let before = self.scan();
            Arc::ptr_eq(&before, &self.scan())
        }
    }

    const ONE_HEADER: &[(&str, &str)] = &[("main.c", "#include <x.h>\n"), ("b/x.h", "int x;\n")];

    #[test]
    fn an_unchanged_unit_is_scanned_once() {
        let project = Project::new(long_after, ONE_HEADER);
        let first = project.scan();
        assert!(Arc::ptr_eq(&first, &project.scan()));
        assert_eq!((project.memo.units(), first.files.len()), (1, 2));
        assert!(project.memo.size_bytes() > 0 && project.memo.sources().size_bytes() > 0);
    }

    #[test]
    fn each_of_many_files_in_each_of_several_directories_counts() {
        let names: Vec<_> = (0..3 * MANY_SIBLINGS).map(|number| format!("{number}.h")).collect();
        // Two directories with many, and one with few.
        let directory = |number: usize| ["b", "b/more", "a"][(number / MANY_SIBLINGS).min(2)];
        let count = 2 * MANY_SIBLINGS + 3;
        let paths: Vec<_> = names
            .iter()
            .enumerate()
            .take(count)
            .map(|(at, name)| format!("{}/{name}", directory(at)))
            .collect();
        let main: String = paths.iter().map(|path| format!("#include \"{path}\"\n")).collect();
        let mut files: Vec<_> = paths.iter().map(|path| (path.as_str(), "\n")).collect();
        files.push(("main.c", &main));
        files.push(("a/other.h", ""));
        for clock in [long_after as fn() -> SystemTime, coarse] {
            let project = Project::new(clock, &files);
            assert!(project.is_remembered());
            for path in &paths {
                let edited = project.tree.directory.path().join(path);
                std::fs::write(&edited, "#include <other.h>\n").unwrap();
                assert!(project.names().iter().any(|name| name.ends_with("other.h")), "{path}");
                std::fs::write(&edited, "\n").unwrap();
                assert_eq!(project.names().len(), 1 + count, "{path}");
            }
        }
    }

    #[test]
    fn a_file_by_its_number_is_that_file() {
        let scan = Project::new(long_after, ONE_HEADER).scan();
        for settled in [false, true] {
            let of = |number| {
                Numbered::new(number, settled).of(&scan).map(|(file, settled)| (Arc::clone(file), settled))
            };
            assert_eq!(of(0), Some((Arc::clone(&scan.files[0]), settled)));
            assert_eq!(of(1), Some((Arc::clone(&scan.files[1]), settled)));
            assert_eq!((of(2), of(usize::MAX)), (None, None));
        }
    }

    #[test]
    fn what_no_other_unit_reads_is_not_kept() {
        let project = Project::new(long_after, ONE_HEADER);
        project.scan();
        assert_eq!(project.memo.sources().stripped_files(), 1, "the header");
        // A unit that includes the source of another one.
        let at = |name: &str| project.tree.directory.path().join(name);
        std::fs::write(at("both.c"), "#include \"main.c\"\n").unwrap();
        let mut both = project.tree.unit.clone();
        both.source = at("both.c");
        project.memo.scan(&both).unwrap();
        assert_eq!(project.memo.sources().stripped_files(), 2);
        std::fs::write(at("main.c"), "\n#include <x.h>\n").unwrap();
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        std::fs::write(at("main.c"), "int main;\n\n").unwrap();
        assert_eq!(project.names(), ["main.c"]);
        assert_eq!(project.memo.scan(&both).unwrap().files.len(), 2);
    }

    #[test]
    fn another_unit_is_another_scan() {
        let mut project = Project::new(long_after, ONE_HEADER);
        let first = project.scan();
        project.tree.unit.macros.push(MacroOption::Define("X".into()));
        assert!(!Arc::ptr_eq(&first, &project.scan()));
        project.tree.unit.macros[0] = MacroOption::Undefine("X".into());
        project.scan();
        project.tree.unit.search_path.user_directories = 1;
        project.scan();
        // Another compiler, perhaps with the same macros.
        project.tree.unit.predefined = Arc::new(Predefined::parse(b""));
        project.scan();
        project.tree.unit.answers = Arc::default();
        project.scan();
        project.tree.unit.forced_includes.push(ForcedInclude::Include("a/other.h".into()));
        project.scan();
        project.tree.unit.forced_includes[0] = ForcedInclude::Macros("a/other.h".into());
        project.scan();
        assert_eq!(project.memo.units(), 8);
        assert!(project.is_remembered());
    }

    #[test]
    fn a_new_header_shadows_an_old_one() {
        let project = Project::new(long_after, ONE_HEADER);
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        project.tree.write("a/x.h", "");
        assert_eq!(project.names(), ["main.c", "a/x.h"]);
        assert!(project.is_remembered());
    }

    #[test]
    fn a_header_is_deleted() {
        let project = Project::new(long_after, &[&[("a/x.h", "")], ONE_HEADER].concat());
        assert_eq!(project.names(), ["main.c", "a/x.h"]);
        std::fs::remove_file(project.tree.at("a/x.h")).unwrap();
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        std::fs::remove_file(project.tree.at("b/x.h")).unwrap();
        assert!(matches!(project.memo.scan(&project.tree.unit), Err(ScanError::Missing { .. })));
        project.tree.write("b/x.h", "");
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
    }

    #[test]
    fn a_generated_header_appears_between_two_compiles() {
        let source = "#if __has_include(\"gen/config.h\")\n#include \"gen/config.h\"\n#endif\n";
        let project = Project::new(long_after, &[("main.c", source)]);
        project.tree.unit.answers.insert("defined(__has_include)".to_owned(), 1);
        assert_eq!(project.names(), ["main.c"]);
        // Its directory first, which is not what was looked for.
        std::fs::create_dir(project.tree.at("a/gen")).unwrap();
        assert_eq!(project.names(), ["main.c"]);
        project.tree.write("a/gen/config.h", "");
        assert_eq!(project.names(), ["main.c", "a/gen/config.h"]);
        project.tree.write("gen/config.h", "");
        assert_eq!(project.names(), ["main.c", "gen/config.h"]);
    }

    #[test]
    fn a_header_of_an_absolute_name_appears() {
        let mut project = Project::new(long_after, &[]);
        let header = project.tree.at("far.h").display().to_string();
        project
            .tree
            .write("main.c", &format!("#if __has_include(\"{header}\")\n#include \"{header}\"\n#endif\n"));
        project.tree.unit.answers =
            Arc::new([("defined(__has_include)".to_owned(), 1)].into_iter().collect());
        assert_eq!(project.names(), ["main.c"]);
        project.tree.write("far.h", "");
        assert_eq!(project.names(), ["main.c", "far.h"]);
    }

    #[test]
    fn a_precompiled_header_appears() {
        let project = Project::new(long_after, ONE_HEADER);
        assert!(project.is_remembered());
        project.tree.write("b/x.h.gch", "");
        let all: Vec<_> = project.scan().all_files().map(|file| file.path.clone()).collect();
        assert!(all.contains(&project.tree.at("b/x.h.gch")), "{all:?}");
        project.tree.write("b/x.h.gch", "made again");
        let digest = |scan: &Scan| scan.precompiled[0].version.digest;
        assert_eq!(digest(&project.scan()), Digest::of(b"made again"));
    }

    #[test]
    fn a_directory_of_precompiled_headers_appears() {
        let project = Project::new(long_after, ONE_HEADER);
        assert!(project.is_remembered());
        std::fs::create_dir(project.tree.at("b/x.h.gch")).unwrap();
        assert!(matches!(project.memo.scan(&project.tree.unit), Err(ScanError::NotSure(_))));
    }

    #[test]
    fn a_file_is_edited_twice_within_the_clocks_granularity() {
        let project = Project::new(coarse, ONE_HEADER);
        project.tree.write("b/y.h", "");
        let stamp = std::fs::metadata(project.tree.at("b/x.h")).unwrap().modified().unwrap();
        let edit = |text: &str| {
            project.tree.write("b/x.h", text);
            let file = std::fs::File::options().write(true).open(project.tree.at("b/x.h")).unwrap();
            file.set_modified(stamp).unwrap();
        };
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        // As long as before, at the same moment.
        edit("#if 1\n");
        edit("#else\n");
        assert!(project.memo.scan(&project.tree.unit).is_err());
        edit("int y;\n");
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        assert!(project.is_remembered(), "what was read again and is the same needs no new scan");
    }

    #[test]
    fn a_directory_that_changes_all_the_time_is_looked_into() {
        let project = Project::new(coarse, ONE_HEADER);
        let first = project.scan();
        project.tree.write("a/main.o", "");
        assert!(Arc::ptr_eq(&first, &project.scan()));
        project.tree.write("a/x.h", "");
        assert_eq!(project.names(), ["main.c", "a/x.h"]);
    }

    #[test]
    fn objects_beside_the_source_do_not_matter() {
        let project = Project::new(long_after, &[("main.c", "#include \"x.h\"\n"), ("b/x.h", "")]);
        let first = project.scan();
        for round in 0..3 {
            project.tree.write(&format!("main{round}.o"), "");
            assert!(Arc::ptr_eq(&first, &project.scan()));
        }
        project.tree.write("x.h", "");
        assert_eq!(project.names(), ["main.c", "x.h"]);
    }

    #[test]
    fn a_symlink_begins_to_lead_somewhere() {
        let project = Project::new(long_after, ONE_HEADER);
        symlink("../elsewhere/x.h", project.tree.at("a/x.h")).unwrap();
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        assert!(project.is_remembered());
        // Nothing changes in the directories that were searched.
        project.tree.write("elsewhere/x.h", "");
        assert_eq!(project.names(), ["main.c", "a/x.h"]);
    }

    #[test]
    fn a_symlinked_directory_is_led_elsewhere() {
        let mut project = Project::new(long_after, ONE_HEADER);
        project.tree.write("one/other.h", "");
        project.tree.write("two/x.h", "");
        symlink("one", project.tree.at("link")).unwrap();
        project.tree.unit.search_path.angle = vec!["link".into(), "b".into()];
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        std::fs::remove_file(project.tree.at("link")).unwrap();
        symlink("two", project.tree.at("link")).unwrap();
        assert_eq!(project.names(), ["main.c", "link/x.h"]);
    }

    #[test]
    fn a_directory_within_a_name_begins_to_lead_somewhere() {
        let project = Project::new(long_after, &[("main.c", "#include <s/x.h>\n"), ("b/s/x.h", "")]);
        symlink("../elsewhere", project.tree.at("a/s")).unwrap();
        assert_eq!(project.names(), ["main.c", "b/s/x.h"]);
        project.tree.write("elsewhere/x.h", "");
        assert_eq!(project.names(), ["main.c", "a/s/x.h"]);
    }

    #[test]
    fn a_directory_takes_the_place_of_a_header_and_the_other_way_round() {
        let project = Project::new(long_after, ONE_HEADER);
        std::fs::create_dir(project.tree.at("a/x.h")).unwrap();
        assert_eq!(project.names(), ["main.c", "b/x.h"]);
        std::fs::remove_dir(project.tree.at("a/x.h")).unwrap();
        project.tree.write("a/x.h", "");
        assert_eq!(project.names(), ["main.c", "a/x.h"]);
    }

    #[test]
    fn an_equal_file_in_its_place_is_another_file() {
        // For `#pragma once` it matters which file it is, not only what is in it.
        let project = Project::new(long_after, ONE_HEADER);
        let first = project.scan();
        project.tree.write("new", "int x;\n");
        std::fs::rename(project.tree.at("new"), project.tree.at("b/x.h")).unwrap();
        assert!(!Arc::ptr_eq(&first, &project.scan()));
    }
}

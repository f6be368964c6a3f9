//! What replaying an included header, with all that it includes, looked at and did: where a unit comes to the header and
//! everything that was looked at is the same, the header need not be replayed.
//! Knows nothing of how it is made, nor of which headers have one.
//!
//! Units of a project begin with the same headers. Of a thousand lines of `#if` and `#define` behind `<string>`,
//! the definitions are left, and the list of files. What a summary was made from is held against the unit
//! completely: every macro that was looked at, each file's version, every search.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::files::InputFile;
use crate::preprocessor::Family;
use crate::preprocessor::Loaded;
use crate::preprocessor::ScanError;
use crate::preprocessor::absence::Listed;
use crate::preprocessor::recording::After;
use crate::preprocessor::recording::Before;
use crate::preprocessor::recording::Event;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::replay::Same;
use crate::preprocessor::search::DirectoryId;
use crate::preprocessor::search::FileId;
use crate::preprocessor::search::Found;
use crate::preprocessor::siblings::Siblings;
use crate::preprocessor::symbol::Symbol;

/// One header under one set of circumstances.
pub(super) struct Summary {
    /// Every macro that was looked at before it was changed, as it was.
    pub(super) before: Box<[Before]>,
    /// Every macro that was changed, as it was in the end; None: undefined.
    pub(super) after: Box<[After]>,
    /// The directories of including files, as spelled.
    pub(super) directories: Box<[Arc<[u8]>]>,
    pub(super) files: Box<[SummaryFile]>,
    /// The files that were come to, in order.
    pub(super) opened: Box<[u32]>,
    pub(super) searches: Box<[Searched]>,
    /// Listings by which names are not in directories of the search path, nor in directories below them.
    pub(super) listed: Box<[Listed]>,
    /// Names that were looked for in vain where no listing tells.
    pub(super) absent: Box<[(Where, Symbol)]>,
    /// What it took of the unit's budget.
    pub(super) cost: usize,
    /// How deep it includes; 0: nothing.
    pub(super) depth: usize,
    /// Which of [`Summary::before`] differed last: it is looked at first, for it may well differ again.
    pub(super) suspect: AtomicUsize,
}

/// A file that was come to or probed.
pub(super) struct SummaryFile {
    pub(super) input: Arc<InputFile>,
    pub(super) spelled: Arc<[u8]>,
    pub(super) directory: Where,
    /// Whether it was to be read once already when it was come to first; None: it was only probed.
    pub(super) came_to: Option<bool>,
    pub(super) replayed: bool,
    /// It is to be read once from then on.
    pub(super) once: bool,
    pub(super) probed: bool,
}

/// A directory, in every unit with the same search path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Where {
    /// One of the search path.
    Fixed(DirectoryId),
    /// One of [`Summary::directories`].
    Own(usize),
}

/// A search, and the number of the file that it ended at.
pub(super) struct Searched {
    pub(super) start: Where,
    pub(super) name: Symbol,
    pub(super) found: Option<(u32, Option<Where>)>,
}

/// A file of a summary in the unit.
enum Place {
    Known(FileId),
    New(Loaded),
}

/// A summary that holds in a unit, with what was found out by that.
pub(super) struct Holding {
    places: Vec<Place>,
    directories: Vec<DirectoryId>,
}

impl Where {
    /// `own`: the summary's own directories.
    fn resolve(self, own: &[DirectoryId]) -> DirectoryId {
        match self {
            Where::Fixed(id) => id,
            Where::Own(number) => own[number],
        }
    }
}

impl Replay<'_> {
    /// Whether replaying the header now would do what `summary` says. But for its budget, nothing of the unit changes by
    /// asking.
    ///
    /// # Errors
    /// [`ScanError::NotSure`]: too much work.
    pub(super) fn holding(&mut self, summary: &Summary) -> Result<Option<Holding>, ScanError> {
        let holding = self.holds(summary);
        if holding.is_none() {
            // What held costs what the replay cost.
            self.spend(summary.before.len() + summary.files.len() + summary.absent.len())?;
        }
        Ok(holding)
    }

    fn holds(&mut self, summary: &Summary) -> Option<Holding> {
        if !self.has_room_for(summary.depth, summary.cost) {
            return None;
        }
        let differs = |(name, state): &Before| !self.macros.is_in_state(*name, state);
        if summary.before.get(summary.suspect.load(Ordering::Relaxed)).is_some_and(differs) {
            return None;
        }
        if let Some(at) = summary.before.iter().position(differs) {
            summary.suspect.store(at, Ordering::Relaxed);
            return None;
        }
        let shown =
            |(directory, below, listing): &Listed| self.search.is_listed_by(*directory, below, listing);
        if !summary.listed.iter().all(shown) {
            return None;
        }
        let mut places = Vec::with_capacity(summary.files.len());
        let mut siblings = Siblings::default();
        for file in &summary.files {
            places.push(self.place(file, &mut siblings)?);
        }
        let directories =
            summary.directories.iter().map(|spelled| self.search.directory_id(spelled)).collect();
        let holding = Holding { places, directories };
        let is_absent = |(directory, name): &(Where, Symbol)| {
            self.search.is_absent(directory.resolve(&holding.directories), *name)
        };
        summary.absent.iter().all(is_absent).then_some(holding)
    }

    /// Where the unit has the file, if it is the same version and in the same state.
    fn place(&mut self, file: &SummaryFile, siblings: &mut Siblings) -> Option<Place> {
        let same = |input: &Arc<InputFile>| Arc::ptr_eq(input, &file.input) || **input == *file.input;
        let known = self.search.known(&file.input.path);
        if self.unit.family == Family::Clang
            && self.search.first_name(&file.input).is_some_and(|first| Some(first) != known)
        {
            // Under which name Clang knows the file, and so where it looks for what it includes, may differ.
            return None;
        }
        let (place, once) = match known {
            Some(id) => {
                let known = self.search.file(id);
                if !same(&known.input) {
                    return None;
                }
                (Place::Known(id), known.once)
            }
            None => {
                let loaded = self.search.look_at(&file.input.path, siblings)?;
                if !same(&loaded.file) {
                    return None;
                }
                (Place::New(loaded), false)
            }
        };
        match file.came_to {
            Some(then) if then != once => None,
            // Another file with the same content may be to be read once.
            Some(false) if self.is_once(&Same::of(self.unit.family, file.input.version)) => None,
            _ => Some(place),
        }
    }

    /// Does what replaying the header would do.
    ///
    /// # Errors
    /// [`ScanError::NotSure`] in one of the files: the summary was made by another family's rules.
    pub(super) fn apply(&mut self, summary: &Summary, holding: Holding) -> Result<(), ScanError> {
        self.spend(summary.cost)?;
        let Holding { places, directories } = holding;
        let directory = |place: Where| place.resolve(&directories);
        let mut ids = Vec::with_capacity(places.len());
        for (file, place) in summary.files.iter().zip(places) {
            ids.push(match place {
                Place::Known(id) => id,
                Place::New(loaded) => {
                    self.search.add(Arc::clone(&file.spelled), directory(file.directory), loaded)
                }
            });
        }
        for search in &summary.searches {
            let found = search
                .found
                .map(|(file, place)| Found { file: ids[file as usize], directory: place.map(directory) });
            let start = directory(search.start);
            self.recording.note(Event::Searched(start, search.name));
            self.search.remember(start, search.name, found);
        }
        for &file in &summary.opened {
            let id = ids[file as usize];
            self.recording.note(Event::Came(id, self.search.file(id).once));
            self.open(id)?;
        }
        for (file, &id) in summary.files.iter().zip(&ids) {
            if file.replayed {
                self.replays(id);
            }
            if file.once {
                self.once(id);
            }
            if file.probed {
                self.probed(id);
            }
        }
        if self.recording.is_on() {
            summary.before.iter().for_each(|(name, _)| self.recording.note(Event::Looked(*name)));
        }
        for (name, definition) in &summary.after {
            let previous = self.macros.set(*name, definition.clone());
            if self.recording.is_on() {
                self.recording.note(Event::Changed(*name, previous));
            }
        }
        Ok(())
    }
}

impl Summary {
    /// How many files it is about.
    pub(super) fn count_files(&self) -> i64 {
        i64::try_from(self.files.len()).unwrap_or(i64::MAX)
    }

    /// About how much memory it takes besides what it shares, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Summary>()
            + size_of_val(&*self.before)
            + size_of_val(&*self.after)
            + size_of_val(&*self.files)
            + size_of_val(&*self.opened)
            + size_of_val(&*self.searches)
            + size_of_val(&*self.listed)
            + size_of_val(&*self.absent)
            + self.directories.iter().map(|directory| 32 + directory.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::path::PathBuf;

    use super::*;
    use crate::files::Files;
    use crate::preprocessor::DiskSources;
    use crate::preprocessor::Language;
    use crate::preprocessor::Scan;
    use crate::preprocessor::Summaries;
    use crate::preprocessor::scan;
    use crate::preprocessor::tests::Tree;
    use crate::preprocessor::tests::long_after;

    /// Units in a scratch directory with the include directories `a` and `b`, which share headers.
    struct Project {
        tree: Tree,
        sources: DiskSources,
        summaries: Summaries,
        units: usize,
    }

    impl Project {
        fn new(files: &[(&str, &str)]) -> Project {
            let mut tree = Tree::new(files);
            tree.unit.search_path.user_directories = 2;
            let sources = DiskSources::new(Arc::new(Files::with_clock(long_after)));
            Project { tree, sources, summaries: Summaries::of_all(), units: 0 }
        }

        /// Scans a new unit with this text, and asserts that it is what a replay of everything finds: the number of
        /// headers that were taken from summaries.
        #[track_caller]
        fn applied(&mut self, text: &str) -> usize {
            self.units += 1;
            let name = format!("unit{}.c", self.units);
            self.tree.write(&name, text);
            self.tree.unit.source = name.into();
            let before = self.summaries.applied();
            let summarized = self.summaries.scan(&self.tree.unit, &self.sources);
            let fresh = DiskSources::new(Arc::new(Files::with_clock(long_after)));
            let replayed = scan(&self.tree.unit, &fresh);
            match (summarized, replayed) {
                (Ok(summarized), Ok(replayed)) => assert_eq!(all_of(&summarized), all_of(&replayed)),
                (Err(summarized), Err(replayed)) => {
                    assert_eq!(summarized.to_string(), replayed.to_string());
                }
                (summarized, replayed) => {
                    panic!("by summaries {:?}, by replaying {:?}", summarized.err(), replayed.err())
                }
            }
            self.summaries.applied() - before
        }
    }

    type Paths = BTreeSet<PathBuf>;

    fn all_of(scan: &Scan) -> (Vec<PathBuf>, Paths, Paths) {
        let probed = scan.probed.iter().map(|file| file.path.clone()).collect();
        (scan.paths(), probed, scan.failed_lookups.paths().collect())
    }

    const INCLUDE: &str = "#include <x.h>\n";

    #[test]
    fn a_header_with_all_it_includes_is_replayed_once() {
        let mut project = Project::new(&[
            ("b/x.h", "#ifndef X\n#define X\n#include \"y.h\"\n#include <z.h>\n#endif\n"),
            ("b/y.h", "#define Y\n#include \"../far.h\"\n"),
            ("far.h", ""),
            ("a/z.h", "#if defined(Y) && __has_include(<other.h>)\n#include <late.h>\n#endif\n"),
            ("b/late.h", ""),
            ("b/more.h", ""),
        ]);
        project.tree.unit.answers.insert("defined(__has_include)".to_owned(), 1);
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
        // What it defines is known after it.
        assert_eq!(project.applied(&format!("{INCLUDE}#ifdef Y\n#include <more.h>\n#endif\n")), 1);
        // It is guarded, and what it opened is opened no more.
        assert_eq!(project.applied(&format!("{INCLUDE}{INCLUDE}#include <z.h>\n")), 2);
    }

    #[test]
    fn macros_that_were_looked_at_decide() {
        let header = "#include <other.h>\n#ifdef A\n#include <y.h>\n#endif\n#undef B\n#define C\n";
        let mut project = Project::new(&[("b/x.h", header), ("b/y.h", "")]);
        let after = "#if defined(B) || !defined(C)\n#error\n#include <y.h>\n#endif\n";
        let text = |before: &str| format!("{before}\n{INCLUDE}{after}");
        assert_eq!(project.applied(&text("")), 0);
        assert_eq!(project.applied(&text("")), 1);
        assert_eq!(project.applied(&text("#define A")), 0);
        assert_eq!(project.applied(&text("#define A")), 1);
        // Another definition may as well mean something else.
        assert_eq!(project.applied(&text("#define A 1")), 0);
        assert_eq!(project.applied(&text("#undef A")), 0);
        // Nobody looked at these.
        assert_eq!(project.applied(&text("#define B 1\n#define C 1\n#define D 1")), 1);
    }

    #[test]
    fn what_is_looked_at_within_a_summary_counts_for_the_one_around_it() {
        let mut project = Project::new(&[
            ("b/x.h", "#include <y.h>\n"),
            ("b/y.h", "#include <other.h>\n#ifdef A\n#include <z.h>\n#endif\n#define B A\n"),
            ("b/z.h", ""),
        ]);
        assert_eq!(project.applied("#include <y.h>\n"), 0);
        assert_eq!(project.applied(INCLUDE), 1, "y.h within x.h");
        assert_eq!(project.applied(INCLUDE), 1, "x.h");
        assert_eq!(project.applied(&format!("#define A\n{INCLUDE}")), 0);
        assert_eq!(project.applied(&format!("{INCLUDE}#if B\n#else\n#include <z.h>\n#endif\n")), 1);
    }

    #[test]
    fn files_that_are_read_once_decide() {
        let mut project = Project::new(&[
            ("b/x.h", "#include <y.h>\n"),
            ("b/y.h", "#pragma once\n#define Y\n"),
            ("b/z.h", ""),
        ]);
        let late = "#ifdef Y\n#include <z.h>\n#endif\n";
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
        let before = format!("#include <y.h>\n#undef Y\n{INCLUDE}{late}");
        assert_eq!(project.applied(&before), 0, "y.h is not entered again");
        assert_eq!(project.applied(&before), 1);
        assert_eq!(project.applied(&format!("{INCLUDE}#undef Y\n#include <y.h>\n{late}")), 1);
    }

    #[test]
    fn a_copy_of_a_file_that_is_read_once_decides() {
        let copy = "#pragma once\n#define Y\n#include <other.h>\n";
        let mut project = Project::new(&[
            ("b/x.h", "#include <y.h>\n#include <z.h>\n"),
            ("b/y.h", copy),
            ("b/z.h", ""),
            ("a/copy.h", copy),
        ]);
        let same_time = std::fs::metadata(project.tree.at("b/y.h")).unwrap().modified().unwrap();
        std::fs::File::open(project.tree.at("a/copy.h")).unwrap().set_modified(same_time).unwrap();
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
        let before = format!("#include <copy.h>\n{INCLUDE}");
        assert_eq!(project.applied(&before), 0);
        assert_eq!(project.applied(&before), 1, "of copy.h, not of x.h");
    }

    #[test]
    fn push_and_pop_within_a_header() {
        let push = "#pragma push_macro(\"A\")\n#undef A\n#include <other.h>\n";
        let mut project = Project::new(&[
            ("b/x.h", &format!("{push}#pragma pop_macro(\"A\")\n")),
            ("b/pushes.h", push),
            ("b/z.h", ""),
        ]);
        let late = "#ifdef A\n#include <z.h>\n#endif\n";
        let text = |header: &str| format!("#define A\n#include <{header}>\n{late}");
        assert_eq!(project.applied(&text("x.h")), 0);
        assert_eq!(project.applied(&text("x.h")), 1);
        assert_eq!(project.applied(&format!("{INCLUDE}{late}")), 0);
        let pops = format!("{}#pragma pop_macro(\"A\")\n{late}", text("pushes.h"));
        assert_eq!(project.applied(&pops), 0);
        assert_eq!(project.applied(&pops), 0, "what it leaves pushed no summary tells");
    }

    #[test]
    fn a_search_that_would_end_elsewhere_now_decides() {
        let mut project =
            Project::new(&[("b/x.h", "#include \"y.h\"\n#include <z.h>\n"), ("a/y.h", ""), ("b/z.h", "")]);
        let applied = |project: &mut Project| [project.applied(INCLUDE), project.applied(INCLUDE)];
        assert_eq!(applied(&mut project), [0, 1]);
        // A header that shadows, in a directory of the search path.
        project.tree.write("a/z.h", "");
        assert_eq!(applied(&mut project), [0, 1]);
        // The same next to the including file.
        project.tree.write("b/y.h", "");
        assert_eq!(applied(&mut project), [0, 1]);
        std::fs::remove_file(project.tree.at("b/y.h")).unwrap();
        std::fs::remove_file(project.tree.at("a/z.h")).unwrap();
        // Listings are known by their content, so that the first summary would hold again.
        assert_eq!(applied(&mut project)[1], 1);
        project.tree.write("b/z.h", "#include <other.h>\n");
        assert_eq!(applied(&mut project), [0, 1], "a file has changed");
        std::fs::remove_file(project.tree.at("b/z.h")).unwrap();
        assert_eq!(applied(&mut project), [0, 0], "a file is gone");
    }

    #[test]
    fn where_a_header_was_found_decides_what_comes_next() {
        let mut project = Project::new(&[
            ("a/x.h", "#include_next <x.h>\n"),
            ("b/x.h", "#include <other.h>\n"),
            ("sub/y.h", "#include \"../a/x.h\"\n"),
        ]);
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
        // Found next to its includer, `a/x.h` goes on at the beginning of the search path.
        project.applied("#include \"a/x.h\"\n");
        project.applied("#include \"sub/y.h\"\n");
        assert_eq!(project.applied("#include \"sub/y.h\"\n"), 1);
        assert_eq!(project.applied(&format!("#include \"sub/y.h\"\n{INCLUDE}")), 2);
    }

    #[test]
    fn what_no_summary_can_tell_is_replayed_each_time() {
        for header in [
            "#include <other.h>\n#if __LINE__ > 1\n#include <y.h>\n#endif\n",
            "#include <other.h>\n#if __COUNTER__ == 0\n#include <y.h>\n#endif\n",
            "#include <other.h>\n#if __has_include(\"/nonexistent/z.h\")\n#endif\n",
            "#import <other.h>\n",
            "#include <other.h>\n__asm__(\".incbin \\\"a/other.h\\\"\");\n",
        ] {
            let mut project = Project::new(&[("b/x.h", header), ("b/y.h", "")]);
            project.tree.unit.answers.insert("defined(__has_include)".to_owned(), 1);
            assert_eq!(project.applied(INCLUDE), 0, "{header}");
            assert_eq!(project.applied(INCLUDE), 0, "{header}");
        }
    }

    #[test]
    fn questions_that_are_open_leave_no_summary() {
        let header = "#include <other.h>\n#if __has_builtin(__builtin_expect)\n#include <y.h>\n#endif\n";
        let mut project = Project::new(&[("b/x.h", header), ("b/y.h", "")]);
        project.tree.unit.answers.insert("defined(__has_builtin)".to_owned(), 1);
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 0);
        project.tree.unit.answers.insert("__has_builtin(__builtin_expect)".to_owned(), 1);
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
    }

    #[test]
    fn an_error_leaves_no_summary() {
        let mut project = Project::new(&[("b/x.h", "#include <other.h>\n#include <nowhere.h>\n")]);
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 0);
        project.tree.write("a/nowhere.h", "");
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
    }

    #[test]
    fn clang_knows_a_file_by_the_name_it_came_to_first() {
        let mut project = Project::new(&[("b/x.h", "#include <y.h>\n"), ("b/y.h", "#include \"z.h\"\n")]);
        project.tree.unit.family = Family::Clang;
        project.tree.write("b/z.h", "");
        project.tree.write("c/z.h", "");
        symlink("../b/y.h", project.tree.at("c/y.h")).unwrap();
        assert_eq!(project.applied(INCLUDE), 0);
        assert_eq!(project.applied(INCLUDE), 1);
        assert_eq!(project.applied(&format!("#include \"c/y.h\"\n{INCLUDE}")), 0);
    }

    #[test]
    fn another_search_path_or_language_is_another_context() {
        let mut project = Project::new(&[("b/x.h", "#include <other.h>\n")]);
        assert_eq!(project.applied(INCLUDE), 0);
        project.tree.unit.search_path.angle.reverse();
        assert_eq!(project.applied(INCLUDE), 0);
        project.tree.unit.language = Language::ObjectiveC;
        assert_eq!(project.applied(INCLUDE), 0);
        project.tree.unit.search_path.angle.reverse();
        project.tree.unit.language = Language::C;
        assert_eq!(project.applied(INCLUDE), 1);
    }

    #[test]
    fn a_summary_does_not_go_deeper_than_the_compiler() {
        let deep = |level: usize| format!("#include <d{}.h>\n", level + 1);
        let mut project = Project::new(&[]);
        for level in 0..150 {
            project.tree.write(&format!("a/d{level}.h"), &deep(level));
        }
        project.tree.write("a/d150.h", "#include <other.h>\n");
        // From here on, it is deeper than GCC's 200 levels.
        project.tree.write("a/far0.h", "#include <far1.h>\n");
        for level in 1..100 {
            project.tree.write(&format!("a/far{level}.h"), &format!("#include <far{}.h>\n", level + 1));
        }
        project.tree.write("a/far100.h", "#include <d0.h>\n");
        assert_eq!(project.applied("#include <d0.h>\n"), 0);
        assert_eq!(project.applied("#include <d0.h>\n"), 1);
        project.applied("#include <far0.h>\n");
        assert!(
            project
                .summaries
                .scan(&project.tree.unit, &project.sources)
                .unwrap_err()
                .to_string()
                .contains("include depth")
        );
        assert_eq!(Path::new("unit3.c"), project.tree.unit.source);
    }
}

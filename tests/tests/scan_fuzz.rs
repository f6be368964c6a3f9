//! The scanner against the compilers' `-M`, over random programs: both must list the same files, neither more nor less.
//! And against itself: whatever is taken from summaries of headers must be what replaying them finds.
//! Knows nothing of how the programs are made.
//!
//! `FARCC_FUZZ_CASES=100000` makes a long run, `FARCC_FUZZ_SEED=7` another one. Many programs are packed into one unit,
//! so that a compiler run costs little for each; one that a compiler rejects, or that differs, is singled out by halves.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use farcc_tests::oracle::Compiler;
use farcc_tests::oracle::Probe;
use farcc_tests::oracle::UnitFlags;
use farcc_tests::preprocessor_program::Features;
use farcc_tests::preprocessor_program::MARKERS;
use farcc_tests::preprocessor_program::NEXT_DIRECTORIES;
use farcc_tests::preprocessor_program::Program;
use farcc_tests::preprocessor_program::SETTING;
use farcc_tests::say;
use farccd::files::Files;
use farccd::preprocessor::DiskSources;
use farccd::preprocessor::Language;
use farccd::preprocessor::MacroOption;
use farccd::preprocessor::Scan;
use farccd::preprocessor::ScanError;
use farccd::preprocessor::Summaries;

/// Programs in one unit.
const PACKED: usize = 60;
/// Programs of a run that nobody asked to be longer, over all compilers and standards.
const DEFAULT_CASES: usize = 2400;
/// The run that every test run repeats, so that a failure is a change's and not chance.
const FIXED_SEED: u64 = 20_240_229;

/// A standard, its language, and what it has.
const MODES: &[(&str, Language, Features)] = &[
    ("-std=gnu17", Language::C, C),
    ("-std=c99", Language::C, C),
    ("-std=gnu2x", Language::C, Features { digit_separators: true, elifdef: true, ..C }),
    ("-std=gnu++17", Language::Cxx, CXX),
    ("-std=c++11", Language::Cxx, Features { digit_separators: false, ..CXX }),
    ("-std=gnu++20", Language::Cxx, Features { va_opt: true, elifdef: true, ..CXX }),
];
const C: Features = Features {
    raw_strings: false,
    digit_separators: false,
    va_opt: false,
    elifdef: false,
    words: false,
    line_comments: true,
};
const CXX: Features = Features { raw_strings: true, digit_separators: true, words: true, ..C };

/// What came of a unit.
enum Outcome {
    Same,
    /// The compiler does not accept it.
    Rejected(String),
    /// The scanner does not follow it.
    NotSure(String),
    Different(String),
}

#[derive(Default)]
struct Tally {
    cases: usize,
    rejected: Vec<String>,
    not_sure: Vec<String>,
    compiler_runs: usize,
    summaries_applied: usize,
}

struct Trial<'a> {
    compiler: &'a Compiler,
    probe: &'a Probe,
    directory: &'a Path,
}

/// What was written a moment ago counts as settled: each unit has its own sources.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn flags(setting: Option<&str>) -> UnitFlags {
    let define = |value: &str| MacroOption::Define(OsString::from(format!("{SETTING}={value}")));
    UnitFlags {
        user: std::iter::once(PathBuf::from(".")).chain(NEXT_DIRECTORIES.iter().map(PathBuf::from)).collect(),
        macros: setting.into_iter().map(define).collect(),
        ..UnitFlags::default()
    }
}

/// All that a scan says, line by line.
fn describe(scan: &anyhow::Result<impl Borrow<Scan>>) -> String {
    let scan = match scan {
        Ok(scan) => scan.borrow(),
        Err(error) => return format!("{error:#}\n"),
    };
    let sorted = |what: &str, paths: BTreeSet<PathBuf>| -> String {
        paths.iter().map(|path| format!("{what} {}\n", path.display())).collect()
    };
    let opened: String = scan.paths().iter().map(|path| format!("opens {}\n", path.display())).collect();
    let probed = scan.probed.iter().map(|file| file.path.clone()).collect();
    let assembled = scan.assembled.iter().map(|file| file.path.clone()).collect();
    opened
        + &sorted("probes", probed)
        + &sorted("assembles", assembled)
        + &sorted("looks in vain for", scan.failed_lookups.paths().collect())
        + &format!("time {} {}\n", scan.uses_time, scan.uses_timestamp)
}

impl Trial<'_> {
    /// Lays the programs and compares, once for each value of the setting: the second scan finds what the first one
    /// remembered of the headers.
    fn run(&self, programs: &[Program], tally: &mut Tally) -> Outcome {
        for program in programs {
            self.lay(program);
        }
        let main: String =
            programs.iter().map(|program| format!("#include \"{}/main.h\"\n", program.name)).collect();
        std::fs::write(self.directory.join("main"), main).unwrap();
        let sources = DiskSources::new(Arc::new(Files::with_clock(long_after)));
        for setting in [None, Some("5")] {
            let flags = flags(setting);
            tally.compiler_runs += 1;
            let listed = match self.compiler.dependencies(self.directory, Path::new("main"), &flags) {
                Ok(listed) => listed,
                Err(error) => return Outcome::Rejected(error.to_string()),
            };
            let unit = self.compiler.unit(self.probe, self.directory, Path::new("main"), &flags);
            let found = match self.compiler.scan(&unit, &sources) {
                Ok(scan) => scan,
                Err(error) => match error.downcast_ref() {
                    Some(ScanError::NotSure(why)) => return Outcome::NotSure(why.clone()),
                    _ => return Outcome::Different(format!("{error:#}")),
                },
            };
            let below = |path: PathBuf| {
                let normal = farccd::paths::lexically_normal(&path);
                normal.strip_prefix(self.directory).ok().map(Path::to_owned)
            };
            let probed = || found.probed.iter().map(|file| file.path.clone());
            let listed: BTreeSet<PathBuf> = listed.into_iter().filter_map(below).collect();
            let opened: BTreeSet<PathBuf> = found.paths().into_iter().filter_map(below).collect();
            let all: BTreeSet<PathBuf> = opened.iter().cloned().chain(probed().filter_map(below)).collect();
            // Clang lists what a `__has_include` found, GCC does not.
            if let Some(missing) = listed.difference(&all).next() {
                return Outcome::Different(format!("{setting:?}: the scan misses {}", missing.display()));
            }
            if let Some(excess) = opened.difference(&listed).next() {
                return Outcome::Different(format!("{setting:?}: the scan has {} besides", excess.display()));
            }
        }
        match self.difference_by_summaries(programs, &sources, tally) {
            None => Outcome::Same,
            Some(what) => Outcome::Different(what),
        }
    }

    /// Scans units of the same headers in other orders and circumstances, by summaries and without.
    fn difference_by_summaries(
        &self,
        programs: &[Program],
        sources: &DiskSources,
        tally: &mut Tally,
    ) -> Option<String> {
        let summaries = Summaries::of_all();
        let every = |step: usize| programs.iter().step_by(step);
        let orders: [(&str, Vec<&Program>); 4] = [
            ("in order", every(1).collect()),
            ("in order again", every(1).collect()),
            ("every other", every(2).collect()),
            ("backwards, twice", every(1).rev().chain(every(3)).collect()),
        ];
        for ((order, programs), setting) in
            orders.iter().flat_map(|order| [None, Some("5"), Some("6")].map(|setting| (order, setting)))
        {
            let name = format!("main {order}");
            let text: String =
                programs.iter().map(|program| format!("#include \"{}/main.h\"\n", program.name)).collect();
            std::fs::write(self.directory.join(&name), text).unwrap();
            let unit = self.compiler.unit(self.probe, self.directory, Path::new(&name), &flags(setting));
            // Learns the compiler's answers, which the second scan has to have.
            let replayed = self.compiler.scan(&unit, sources);
            let summarized = summaries.scan(&unit, sources);
            let (replayed, summarized) =
                (describe(&replayed), describe(&summarized.map_err(anyhow::Error::from)));
            if replayed != summarized {
                let lines = replayed.lines().zip(summarized.lines()).find(|(left, right)| left != right);
                return Some(format!("{order}, {setting:?}: summaries differ from a replay: {lines:?}"));
            }
        }
        tally.summaries_applied += summaries.applied();
        None
    }

    fn lay(&self, program: &Program) {
        let own = self.directory.join(&program.name);
        if std::fs::create_dir(&own).is_ok() {
            for marker in 0..MARKERS {
                std::fs::write(own.join(format!("m{marker}.h")), "").unwrap();
            }
        }
        for directory in NEXT_DIRECTORIES {
            let next = self.directory.join(directory).join(format!("{}_next.h", program.name));
            let _ = std::fs::remove_file(next);
        }
        for (name, text) in &program.files {
            let base = if name.contains('/') { self.directory } else { &own };
            std::fs::write(base.join(name), text).unwrap();
        }
    }

    /// Halves a unit until what is wrong with it is one program's.
    fn check(&self, programs: &[Program], tally: &mut Tally) {
        let outcome = self.run(programs, tally);
        if matches!(outcome, Outcome::Same) {
            return;
        }
        if let (halves, true) = (programs.split_at(programs.len() / 2), programs.len() > 1) {
            self.check(halves.0, tally);
            self.check(halves.1, tally);
            return;
        }
        match outcome {
            Outcome::Same => {}
            Outcome::Rejected(why) => tally.rejected.push(why),
            Outcome::NotSure(why) => tally.not_sure.push(why),
            Outcome::Different(what) => self.report(&programs[0], &what),
        }
    }

    /// Drops lines while the difference stays, and panics with what is left.
    fn report(&self, program: &Program, what: &str) {
        let mut smallest = program.clone();
        let differs = |program: &Program| {
            matches!(self.run(std::slice::from_ref(program), &mut Tally::default()), Outcome::Different(_))
        };
        // The first line tells files apart that are equal otherwise.
        for size in [16, 8, 4, 2, 1, 1] {
            for file in 0..smallest.files.len() {
                let mut at = usize::from(file > 0);
                loop {
                    let lines: Vec<String> =
                        smallest.files[file].1.split_inclusive('\n').map(str::to_owned).collect();
                    if at >= lines.len() {
                        break;
                    }
                    let end = (at + size).min(lines.len());
                    let mut candidate = smallest.clone();
                    candidate.files[file].1 = [&lines[..at], &lines[end..]].concat().concat();
                    if differs(&candidate) {
                        smallest = candidate;
                    } else {
                        at = end;
                    }
                }
            }
        }
        let files: String = smallest
            .files
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| format!("//- {name}\n{text}\n"))
            .collect();
        panic!(
            "{} {:?}, program {}: {what}\n{files}",
            self.compiler.program, self.compiler.flags, program.name
        );
    }
}

fn run(seed: u64, cases: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let compilers: Vec<(Compiler, Features)> = MODES
        .iter()
        .flat_map(|(standard, language, features)| {
            let installed = Compiler::installed(*language, &[standard]);
            installed.into_iter().map(|compiler| (compiler, *features))
        })
        .collect();
    assert!(!compilers.is_empty(), "no compiler is installed");
    let started = Instant::now();
    let mut whole = Tally::default();
    for (compiler, features) in &compilers {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().canonicalize().unwrap();
        for next in NEXT_DIRECTORIES {
            std::fs::create_dir(place.join(next)).unwrap();
        }
        let probe = compiler.probe().unwrap();
        let trial = Trial { compiler, probe: &probe, directory: &place };
        let mut tally = Tally::default();
        while tally.cases < cases / compilers.len() {
            let seeds: Vec<u64> = (0..PACKED).map(|_| rng.u64(..)).collect();
            let random = |(at, seed): (usize, &u64)| Program::random(&format!("p{at}"), *seed, *features);
            let programs: Vec<Program> = seeds.iter().enumerate().map(random).collect();
            trial.check(&programs, &mut tally);
            tally.cases += PACKED;
        }
        let what = format!("{} {:?}", compiler.program, compiler.flags);
        assert!(
            tally.rejected.len() * 20 <= tally.cases,
            "{what}: {} of {} programs are rejected: {:#?}",
            tally.rejected.len(),
            tally.cases,
            tally
                .rejected
                .iter()
                .flat_map(|why| why.lines().find(|line| line.contains("error:")))
                .collect::<Vec<_>>()
        );
        assert!(tally.not_sure.len() * 100 <= tally.cases, "{what}: not sure: {:#?}", tally.not_sure);
        whole.cases += tally.cases;
        whole.rejected.extend(tally.rejected);
        whole.compiler_runs += tally.compiler_runs;
        whole.summaries_applied += tally.summaries_applied;
        whole.not_sure.extend(tally.not_sure);
    }
    assert!(whole.summaries_applied > whole.cases, "{} summaries held", whole.summaries_applied);
    say(&format!(
        "seed {seed}: {} random programs, {} rejected by the compiler, {} not sure; {} compiler runs, {} headers \
         taken from summaries, {:.0} programs a minute",
        whole.cases,
        whole.rejected.len(),
        whole.not_sure.len(),
        whole.compiler_runs,
        whole.summaries_applied,
        whole.cases as f64 / started.elapsed().as_secs_f64() * 60.0,
    ));
}

#[test]
fn random_programs() {
    farcc_tests::prerequisites::require(&["gcc", "g++", "clang"]);
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let cases = number("FARCC_FUZZ_CASES").map_or(DEFAULT_CASES, |cases| usize::try_from(cases).unwrap());
    run(number("FARCC_FUZZ_SEED").unwrap_or(FIXED_SEED), cases);
}

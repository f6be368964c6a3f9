//! The scanner over real projects: for every compile of their builds, what the compiler's own `-M` lists is found,
//! and hardly anything else.
//! Knows nothing of how either comes to its list.
//!
//! A few small projects are the fast tier; `FARCC_TESTS=full` adds the others.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::corpus::CORPUS;
use farcc_tests::corpus::Command;
use farcc_tests::corpus::Corpus;
use farcc_tests::full_tier;
use farcc_tests::project::Compiler;
use farcc_tests::say;
use farccd::compiler::Invocation;
use farccd::compiler::depfile;
use farccd::dispatch::Directories;
use farccd::dispatch::Dispatcher;
use farccd::dispatch::Scanned;
use farccd::reason::Reason;
use farccd::stats::Stats;

/// Of a hundred files that are listed, at most so many are found besides.
const EXCESS_PERCENT: usize = 1;

/// Of a hundred units, at most so many are not understood.
const NOT_SURE_PERCENT: usize = 1;

/// Of a hundred units, at most so many are rejected by the compiler itself: more would be a fault of the corpus.
const REJECTED_PERCENT: usize = 3;

/// What came of one project with one compiler.
#[derive(Default)]
struct Tally {
    units: usize,
    listed: usize,
    missing: Vec<String>,
    excess: Vec<String>,
    not_sure: Vec<String>,
    /// Units that run locally for a reason of the command line: they are not scanned at all.
    passed_through: Vec<String>,
    rejected: Vec<String>,
    asking: Duration,
    scanning: Duration,
}

impl Tally {
    fn row(&self, project: &str, compiler: Compiler) -> String {
        let per_unit = |time: Duration| time.as_secs_f64() * 1000.0 / self.units.max(1) as f64;
        format!(
            "{project:<11} {:<5} {:>4} units {:>6} files {:>3} missing {:>3} excess ({:.2} %) {:>2} not sure \
             {:>2} local {:>2} rejected  -M {:>6.1} ms  scan {:>5.2} ms",
            compiler.c(),
            self.units,
            self.listed,
            self.missing.len(),
            self.excess.len(),
            self.excess.len() as f64 * 100.0 / self.listed.max(1) as f64,
            self.not_sure.len(),
            self.passed_through.len(),
            self.rejected.len(),
            per_unit(self.asking),
            per_unit(self.scanning),
        )
    }

    /// What is against the rules.
    fn failures(&self) -> Vec<String> {
        let mut failures = self.missing.clone();
        let mut at_most = |what: &str, found: &[String], percent: usize, of: usize| {
            if found.len() * 100 > of * percent {
                failures.push(format!("{} {what}, more than {percent} % of {of}", found.len()));
                failures.extend(found.iter().take(10).cloned());
            }
        };
        at_most("files in excess", &self.excess, EXCESS_PERCENT, self.listed);
        at_most("units not sure", &self.not_sure, NOT_SURE_PERCENT, self.units);
        at_most("units passed through", &self.passed_through, NOT_SURE_PERCENT, self.units);
        at_most("units rejected by the compiler", &self.rejected, REJECTED_PERCENT, self.units);
        failures
    }
}

/// The command as one that only lists what it reads: without outputs and depfiles of its own.
fn listing_command(argv: &[OsString]) -> std::process::Command {
    let mut command = std::process::Command::new(&argv[0]);
    let mut words = argv[1..].iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-c" | b"-MD" | b"-MMD" | b"-MP" => {}
            b"-o" | b"-MF" | b"-MT" | b"-MQ" => {
                words.next();
            }
            text if [&b"-MF"[..], b"-MT", b"-MQ", b"-Wp,-M"].iter().any(|flag| text.starts_with(flag)) => {}
            _ => {
                command.arg(word);
            }
        }
    }
    command.arg("-M").env_remove("DEPENDENCIES_OUTPUT");
    command
}

/// Paths without `.` components; what `-M` shortened otherwise is compared as files.
fn normal(cwd: &Path, paths: impl IntoIterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    paths.into_iter().map(|path| cwd.join(path).components().collect()).collect()
}

/// What is in `ours` and not in `theirs`, however it is spelled.
fn only_in(ours: &BTreeSet<PathBuf>, theirs: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let remaining: Vec<&PathBuf> = ours.difference(theirs).collect();
    if remaining.is_empty() {
        return Vec::new();
    }
    let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let theirs: BTreeSet<PathBuf> = theirs.iter().map(canonical).collect();
    remaining.into_iter().filter(|path| !theirs.contains(&canonical(path))).cloned().collect()
}

struct Trial {
    runtime: tokio::runtime::Runtime,
    dispatcher: Dispatcher,
}

impl Trial {
    fn new(state: &Path) -> Trial {
        let at = |name: &str| state.join(name);
        let directories = Directories {
            store: at("store"),
            state: at("state"),
            config_file: at("farcc.toml"),
            environment: Vec::new(),
            has_own_config: false,
        };
        let stats = Arc::new(Stats::load(&at("stats")));
        Trial {
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
            dispatcher: Dispatcher::new(directories, stats),
        }
    }

    fn scan(&self, command: &Command) -> Result<Scanned, Reason> {
        let mut env: Vec<_> = std::env::vars_os().collect();
        env.retain(|(name, _)| name != "DEPENDENCIES_OUTPUT");
        let invocation = Invocation {
            argv: command.argv.clone(),
            cwd: command.cwd.clone(),
            env,
            umask: 0o022,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        };
        self.runtime.block_on(self.dispatcher.scan(&Arc::new(invocation)))
    }

    /// Scans all units, then has the compiler list them, two at a time.
    fn compare(&self, commands: &[Command]) -> Tally {
        let mut tally = Tally { units: commands.len(), ..Tally::default() };
        let started = Instant::now();
        let scans: Vec<_> = commands.iter().map(|command| self.scan(command)).collect();
        tally.scanning = started.elapsed();
        let started = Instant::now();
        let listings = list_all(commands);
        tally.asking = started.elapsed();
        for ((command, scan), listing) in commands.iter().zip(scans).zip(listings) {
            tally.add(command, scan, &listing);
        }
        tally
    }
}

/// Runs all commands as `-M`, on two threads.
fn list_all(commands: &[Command]) -> Vec<Output> {
    let outputs = Mutex::new(BTreeMap::new());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(command) = commands.get(at) else { return };
                    let mut listing = listing_command(&command.argv);
                    let output = listing.current_dir(&command.cwd).output().unwrap();
                    outputs.lock().unwrap().insert(at, output);
                }
            });
        }
    });
    outputs.into_inner().unwrap().into_values().collect()
}

impl Tally {
    fn add(&mut self, command: &Command, scan: Result<Scanned, Reason>, listing: &Output) {
        let what = || {
            let words: Vec<_> = command.argv.iter().map(|word| word.to_string_lossy()).collect();
            format!("{}: {}", command.cwd.display(), words.join(" "))
        };
        if !listing.status.success() {
            let why = String::from_utf8_lossy(&listing.stderr);
            let why = why.lines().find(|line| line.contains("error")).unwrap_or_default().to_owned();
            self.rejected.push(format!("{}: {why}", what()));
            return;
        }
        let parsed = depfile::parse(&listing.stdout).unwrap();
        let listed = normal(&command.cwd, parsed.prerequisites);
        self.listed += listed.len();
        match scan {
            Err(reason) => self.passed_through.push(format!("{}: {reason}", what())),
            Ok(Scanned { not_sure: Some(why), .. }) => self.not_sure.push(format!("{}: {why}", what())),
            Ok(scanned) => {
                let found = normal(&command.cwd, scanned.inputs.iter().map(|input| input.path.clone()));
                let describe = |path: PathBuf| format!("{}: {}", path.display(), what());
                self.missing.extend(only_in(&listed, &found).into_iter().map(describe));
                self.excess.extend(only_in(&found, &listed).into_iter().map(describe));
            }
        }
    }
}

fn check(corpus: &Corpus, compiler: Compiler) -> Option<(Tally, Vec<String>)> {
    let scratch = tempfile::tempdir().unwrap();
    // A compiler spells some paths without their symlinks.
    let place = scratch.path().canonicalize().unwrap();
    let mut commands = corpus.commands(compiler, &place)?;
    // What is not preprocessed reads no headers.
    let is_assembler = |word: &OsString| word.as_bytes().ends_with(b".s");
    commands.retain(|command| !command.argv.iter().any(is_assembler));
    let tally = Trial::new(&place.join("farcc")).compare(&commands);
    say(&tally.row(corpus.name, compiler));
    if std::env::var_os("FARCC_CORPUS").is_some() {
        let notable = [&tally.excess, &tally.not_sure, &tally.passed_through, &tally.rejected];
        notable.into_iter().flat_map(|found| found.iter().take(10)).for_each(|line| say(line));
    }
    let failures = tally.failures();
    let failures = failures.into_iter().map(|failure| format!("{} {}: {failure}", corpus.name, compiler.c()));
    let failures = failures.collect();
    Some((tally, failures))
}

/// `FARCC_CORPUS=name` narrows it to one project, and says more of it.
#[test]
fn every_unit_of_real_projects() {
    farcc_tests::prerequisites::require(&["gcc", "g++", "clang"]);
    let only = std::env::var("FARCC_CORPUS").ok();
    let chosen = CORPUS.iter().filter(|corpus| match &only {
        Some(only) => corpus.name == only,
        None => corpus.small || full_tier(),
    });
    let known = |name: &String| CORPUS.iter().any(|corpus| corpus.name == name);
    assert!(only.iter().all(known), "FARCC_CORPUS names no project: {only:?}");
    let mut failures = Vec::new();
    let mut units = BTreeMap::from([("gcc", 0), ("clang", 0)]);
    let mut projects = BTreeSet::new();
    for corpus in chosen {
        for compiler in [Compiler::Gcc, Compiler::Clang] {
            let Some((tally, failed)) = check(corpus, compiler) else { continue };
            // A build that breaks off early would make the corpus smaller unseen.
            if tally.units < corpus.units {
                failures.push(format!("{} has {} units, not {}", corpus.name, tally.units, corpus.units));
            }
            projects.insert(corpus.name);
            *units.get_mut(compiler.c()).unwrap() += tally.units;
            failures.extend(failed);
        }
    }
    let projects = projects.len();
    say(&format!("{projects} projects, units: {units:?}"));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if full_tier() && only.is_none() && farcc_tests::prerequisites::find_program("apt-get").is_some() {
        assert!(projects >= 10 && units.values().all(|&count| count >= 1500), "{projects} {units:?}");
    }
}

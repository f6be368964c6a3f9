//! How fast the scanner is beside the compilers' own `-M` and beside `clang-scan-deps`, over whole projects.
//!
//! `cargo bench -p farcc-tests --bench scan`. All are interleaved in one run, on one thread, with the files in the page
//! cache, and only ratios mean anything. `-M` runs over a sample of the units, the others over all of them, in a process
//! that has just been started.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::binaries;
use farcc_tests::corpus::CORPUS;
use farcc_tests::corpus::Command;
use farcc_tests::prerequisites;
use farcc_tests::project::Compiler;
use farcc_tests::say;
use farccd::compiler::Invocation;
use farccd::dispatch::Directories;
use farccd::dispatch::Dispatcher;
use farccd::dispatch::dedicate_thread;
use farccd::stats::Stats;

/// In C, then in C++.
const PROJECTS: &[&str] =
    &["git", "redis", "sqlite3", "zstd", "musl", "protobuf", "abseil", "fmtlib", "googletest"];
/// Rounds over a project; each is compared in itself.
const ROUNDS: usize = 5;
/// Units of a round for which the compiler is asked.
const SAMPLE: usize = 12;
/// Scans of one unchanged unit.
const REPEATS: u32 = 300;

fn main() {
    prerequisites::require(&["gcc", "g++"]);
    // One thread, which does everything itself.
    dedicate_thread();
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().canonicalize().unwrap();
    let all = Whole::new(&place.join("whole"));
    // Names of projects, after `--`, narrow it to those.
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &&&str| only.is_empty() || only.iter().any(|only| only == **name);
    for name in PROJECTS.iter().filter(chosen) {
        let corpus = CORPUS.iter().find(|corpus| corpus.name == *name).unwrap();
        let directory = place.join(name);
        std::fs::create_dir(&directory).unwrap();
        let Some(commands) = corpus.commands(Compiler::Gcc, &directory) else { return };
        let project = Project { name, commands, directory };
        project.measure();
        all.scan_again_and_again(&project);
    }
    let memory = all.dispatcher.memory();
    say(&format!(
        "all projects in one process: {} units remembered in {:.1} MB, {} files stripped in {:.1} MB, \
         {:.1} MB resident at most",
        memory.units,
        megabytes(memory.scan_bytes),
        memory.stripped_files,
        megabytes(memory.source_bytes),
        peak_kilobytes() as f64 / 1024.0,
    ));
}

struct Project<'a> {
    name: &'a str,
    commands: Vec<Command>,
    directory: PathBuf,
}

impl Project<'_> {
    /// The same database for all.
    fn write_database(&self) -> PathBuf {
        let entry = |command: &Command| {
            let words: Vec<_> = command.argv.iter().map(|word| word.to_str().unwrap()).collect();
            let is_source = |word: &&&str| Path::new(word).extension().is_some_and(|e| e == "c" || e == "cc");
            let file = words.iter().find(is_source).unwrap_or(&words[words.len() - 1]);
            serde_json::json!({ "directory": command.cwd, "file": file, "arguments": words })
        };
        let database = self.directory.join("compile_commands.json");
        let entries: Vec<_> = self.commands.iter().map(entry).collect();
        std::fs::write(&database, serde_json::to_vec(&entries).unwrap()).unwrap();
        database
    }

    fn measure(&self) {
        let database = self.write_database();
        let units = self.commands.len();
        let state = self.directory.join("state");
        let farccd = || {
            let mut scan = std::process::Command::new(&binaries::binaries().farccd);
            scan.args(["scan", "--jobs", "1", "--compile-commands"]).arg(&database).env("FARCC_DIR", &state);
            scan
        };
        let scan_deps = || {
            let mut scan = std::process::Command::new(scan_deps_program());
            scan.args(["-j", "1"]);
            scan.arg(format!("-compilation-database={}", database.display()));
            scan
        };
        // Whatever is asked of a compiler only once, and the page cache.
        time(&mut farccd());
        let scan_deps_works = time(&mut scan_deps()).1;
        let (mut by_m, mut by_scan_deps) = (Vec::new(), Vec::new());
        let mut figures = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            let started = Instant::now();
            for at in 0..SAMPLE {
                list(&self.commands[(round + at * units / SAMPLE) % units]);
            }
            let m = started.elapsed() / u32::try_from(SAMPLE).unwrap();
            let per_unit = |whole: Duration| whole / u32::try_from(units).unwrap();
            let ours = per_unit(time(&mut farccd()).0);
            let theirs = per_unit(time(&mut scan_deps()).0);
            by_m.push(m.as_secs_f64() / ours.as_secs_f64());
            by_scan_deps.push(theirs.as_secs_f64() / ours.as_secs_f64());
            for (figures, figure) in figures.iter_mut().zip([ours, m, theirs]) {
                figures.push(figure.as_secs_f64() * 1000.0);
            }
        }
        let [ours, m, theirs] = figures.map(median);
        say(&format!(
            "{:<9} {units:>4} units: farccd {ours:.3} ms a unit, gcc -M {m:.1} ms ({:.1} x), \
             clang-scan-deps {theirs:.2} ms ({:.1} x){}",
            self.name,
            median(by_m),
            median(by_scan_deps),
            if scan_deps_works { "" } else { " (it rejects some units)" },
        ));
    }
}

/// Everything in one process that goes on, as in the daemon.
struct Whole {
    runtime: tokio::runtime::Runtime,
    dispatcher: Dispatcher,
}

impl Whole {
    fn new(state: &Path) -> Whole {
        let at = |name: &str| state.join(name);
        let directories = Directories {
            store: at("store"),
            state: at("state"),
            config_file: at("farcc.toml"),
            environment: Vec::new(),
            has_own_config: false,
        };
        let stats = Arc::new(Stats::load(&at("stats")));
        Whole {
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
            dispatcher: Dispatcher::new(directories, stats),
        }
    }

    /// The number of files that a unit reads.
    fn scan(&self, invocation: &Arc<Invocation>) -> usize {
        self.runtime.block_on(self.dispatcher.scan(invocation)).map_or(0, |scanned| scanned.inputs.len())
    }

    /// Scans every unit once, then one with about 250 files many times.
    fn scan_again_and_again(&self, project: &Project) {
        let invocation = |command: &Command| {
            Arc::new(Invocation {
                argv: command.argv.clone(),
                cwd: command.cwd.clone(),
                env: std::env::vars_os().collect(),
                umask: 0o022,
                stdout_is_terminal: false,
                stderr_is_terminal: false,
            })
        };
        let counts = project.commands.iter().map(|command| self.scan(&invocation(command)));
        let counts: Vec<usize> = counts.collect();
        let distance = |at: &usize| counts[*at].abs_diff(250);
        let chosen = (0..counts.len()).min_by_key(distance).unwrap();
        let command = &project.commands[chosen];
        let unit = invocation(command);
        let (mut ratios, mut times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            (0..4).for_each(|_| list(command));
            let m = started.elapsed() / 4;
            let started = Instant::now();
            (0..REPEATS).for_each(|_| assert_eq!(self.scan(&unit), counts[chosen]));
            let ours = started.elapsed() / REPEATS;
            ratios.push(m.as_secs_f64() / ours.as_secs_f64());
            times.push(ours.as_secs_f64() * 1e6);
        }
        say(&format!(
            "{:<9} one unchanged unit of {} files, again: {:.0} us, gcc -M takes {:.0} x as long",
            project.name,
            counts[chosen],
            median(times),
            median(ratios),
        ));
    }
}

/// `clang-scan-deps` as it is called here; where there is none, Debian's is installed.
fn scan_deps_program() -> &'static str {
    let names = ["clang-scan-deps", "clang-scan-deps-19", "clang-scan-deps-16", "clang-scan-deps-14"];
    let asked_for = std::env::var("FARCC_CLANG_SCAN_DEPS").ok().map(|name| &*name.leak());
    let found = names.into_iter().find(|name| prerequisites::find_program(name).is_some());
    asked_for.or(found).unwrap_or_else(|| {
        prerequisites::require(&["clang-scan-deps-14"]);
        "clang-scan-deps-14"
    })
}

/// Runs a compile as `-M`.
fn list(command: &Command) {
    let mut words = command.argv.iter();
    let mut listing = std::process::Command::new(words.next().unwrap());
    while let Some(word) = words.next() {
        match word.to_str().unwrap_or_default() {
            "-c" | "-MD" | "-MMD" | "-MP" => {}
            "-o" | "-MF" | "-MT" | "-MQ" => drop(words.next()),
            _ => drop(listing.arg(word)),
        }
    }
    listing.arg(OsString::from("-M")).current_dir(&command.cwd);
    listing.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
}

/// How long a program runs, and whether it succeeds.
fn time(command: &mut std::process::Command) -> (Duration, bool) {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    (started.elapsed(), status.success())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1048576.0
}

/// The most memory that this process has had, by the kernel's account.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

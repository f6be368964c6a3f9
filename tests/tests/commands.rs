//! Every case of `tests/cases/commands`, with each compiler: run plainly twice, then through farcc without a cluster and
//! with one, cold and warm. What the plain runs agree on, the others must agree with: files, messages, status.
//!
//! Then once more with `paths = "shared"`, warm in another directory than cold: there, what is made must be what the
//! compiler makes either by itself or with `-ffile-prefix-map`, and all else what it makes by itself.
//!
//! That is done with the first variant of each case; `FARCC_ALL_VARIANTS=1` takes all.
//!
//! `FARCC_CASES=word` runs only the cases whose name has that word in it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::command_case::CommandCase;
use farcc_tests::command_case::Expectation;
use farcc_tests::command_case::Step;
use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space;
use farcc_tests::space::Stats;
use farcc_tests::space::TestSpace;

/// A case with one compiler and one variant.
struct Run<'a> {
    case: &'a CommandCase,
    compiler: &'a str,
    variant: &'a str,
    number: usize,
}

/// What a file is: its mode and its bytes, or where a symlink leads.
type Content = (u32, Vec<u8>);

/// All that a run of a case did.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    /// Of each step: status, standard output, standard error.
    steps: Vec<(i32, String, String)>,
    files: BTreeMap<PathBuf, Content>,
    /// Where results are shared, how many commands were hits.
    hits: u64,
}

/// Whether commands go through farcc, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    /// Plain, with the prefix map that sharing adds.
    Mapped,
    WithoutCluster {
        cold: bool,
    },
    WithCluster {
        cold: bool,
    },
    /// Results are shared by checkouts.
    Shared {
        cluster: bool,
    },
}

const THROUGH_FARCC: [Mode; 4] = [
    Mode::WithoutCluster { cold: true },
    Mode::WithoutCluster { cold: false },
    Mode::WithCluster { cold: true },
    Mode::WithCluster { cold: false },
];

/// A client and a cluster that cannot see it.
struct Worker {
    space: TestSpace,
    cluster: ServeProcess,
}

impl Worker {
    fn new(number: usize) -> Worker {
        let space = TestSpace::new(&format!("commands-{number}"));
        let cluster = ServeProcess::start(&space, "serve");
        space.configure("");
        // The first launcher would start it, and not wait for it for ever on a loaded machine.
        space.start_daemon();
        Worker { space, cluster }
    }

    /// Runs all steps in a fresh directory. What is wrong with what was counted goes to `problems`.
    fn observe(&self, run: &Run, mode: Mode, problems: &mut Vec<String>) -> Observed {
        self.observe_in("", run, mode, problems)
    }

    /// The same, in a directory whose name begins with `place`.
    fn observe_in(&self, place: &str, run: &Run, mode: Mode, problems: &mut Vec<String>) -> Observed {
        let directory = self.space.workspace().join(format!("{place}{}-{}", run.case.name, run.number));
        // Results of one mode must not answer another.
        match mode {
            Mode::Plain | Mode::Mapped => {}
            Mode::Shared { cluster } => {
                let address =
                    if cluster { format!("grpc://{}", self.cluster.address()) } else { String::new() };
                self.space.configure(&format!(
                    "[remote]\naddress = \"{address}\"\n[workspace]\nroots = ['{}']\n\
                     [exec]\npaths = \"shared\"\nsalt = \"shared {cluster}\"\n",
                    directory.display()
                ));
            }
            Mode::WithoutCluster { .. } => self.space.configure("[exec]\nsalt = \"without\"\n"),
            Mode::WithCluster { .. } => self.space.configure(&format!(
                "[remote]\naddress = \"grpc://{}\"\n[exec]\nsalt = \"with\"\n",
                self.cluster.address()
            )),
        }
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (path, text) in &run.case.files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (mut steps, mut hits) = (Vec::new(), 0);
        for step in &run.case.steps {
            let counted = !matches!(mode, Mode::Plain | Mode::Mapped) && step.expectation.is_some();
            if counted {
                self.space.reset_stats();
            }
            steps.push(self.run_step(run, step, mode, &directory));
            if let (true, Some(expectation)) = (counted, &step.expectation) {
                let stats = self.counted();
                if matches!(mode, Mode::Shared { .. }) {
                    hits += stats.hits();
                    continue;
                }
                if let Err(problem) = check_counts(expectation, mode, &stats) {
                    problems.push(format!("{mode:?}: {}: {problem}", step.script));
                }
            }
        }
        Observed { steps, files: content(&directory), hits }
    }

    /// What was counted: a moment after the launcher has reported the end of a local run.
    fn counted(&self) -> Stats {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let stats = self.space.stats();
            if stats.commands() > 0 || Instant::now() > deadline {
                return stats;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn run_step(&self, run: &Run, step: &Step, mode: Mode, directory: &Path) -> (i32, String, String) {
        let is_plain = matches!(mode, Mode::Plain | Mode::Mapped) || step.expectation.is_none();
        let launcher = if is_plain { "" } else { "farcc " };
        // Not while a case is set up: there, `$CC` is a program's name.
        let map = match mode {
            Mode::Mapped if step.expectation.is_some() => {
                format!(" -ffile-prefix-map={}=/proc/self/cwd", directory.display())
            }
            _ => String::new(),
        };
        let mut command = self.space.command("sh");
        command.args(["-c", &step.script]).current_dir(directory);
        command.env("CC", format!("{launcher}{}{map}", run.compiler));
        command.env("CXX", format!("{launcher}{}{map}", cxx(run.compiler)));
        command.env("FARCC", launcher.trim_end());
        command.env("V", run.variant).envs(run.case.environment.iter().map(|(name, value)| (name, value)));
        let finished = space::run(&mut command);
        (finished.status, finished.stdout_text(), finished.stderr_text())
    }

    /// All that is wrong with a case.
    fn check(&self, run: &Run) -> Vec<String> {
        let mut problems = Vec::new();
        let first = self.observe(run, Mode::Plain, &mut problems);
        let second = self.observe(run, Mode::Plain, &mut problems);
        for mode in THROUGH_FARCC {
            let observed = self.observe(run, mode, &mut problems);
            for difference in differences(&first, &second, &observed, &run.case.differs) {
                problems.push(format!("{mode:?}: {difference}"));
            }
        }
        problems
    }

    /// All that is wrong with a case whose results are shared, and how many of its commands were hits in another
    /// directory.
    fn check_shared(&self, run: &Run) -> (Vec<String>, u64) {
        let mut problems = Vec::new();
        let first = self.observe(run, Mode::Plain, &mut problems);
        let expected = ["", "a-checkout-in-another-place/"].map(|place| {
            let plain = self.observe_in(place, run, Mode::Plain, &mut problems);
            (place, plain, self.observe_in(place, run, Mode::Mapped, &mut problems))
        });
        let twice = [&first, &expected[0].1];
        let mut hits = 0;
        for cluster in [false, true] {
            for (place, plain, mapped) in &expected {
                let shared = self.observe_in(place, run, Mode::Shared { cluster }, &mut problems);
                hits += shared.hits;
                for difference in shared_differences(run, twice, [plain, mapped], &shared) {
                    problems.push(format!("shared, cluster {cluster}, {place:?}: {difference}"));
                }
            }
        }
        (problems, hits)
    }
}

/// The C++ driver that belongs to a C driver.
fn cxx(compiler: &str) -> String {
    match compiler.strip_prefix("clang") {
        Some(version) => format!("clang++{version}"),
        None => compiler.replacen("gcc", "g++", 1),
    }
}

fn content(directory: &Path) -> BTreeMap<PathBuf, Content> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let bytes = if metadata.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(directory).unwrap().to_owned();
            found.insert(name, (metadata.permissions().mode(), bytes));
        }
    }
    found
}

/// Where `observed` is not what both plain runs are.
fn differences(
    first: &Observed,
    second: &Observed,
    observed: &Observed,
    expected: &[PathBuf],
) -> Vec<String> {
    let mut differences = Vec::new();
    for (at, (expected, found)) in first.steps.iter().zip(&observed.steps).enumerate() {
        let other = &second.steps[at];
        if expected.0 != found.0 {
            differences.push(format!("step {at}: status {} instead of {}", found.0, expected.0));
        }
        for (stream, expected, other, found) in
            [("stdout", &expected.1, &other.1, &found.1), ("stderr", &expected.2, &other.2, &found.2)]
        {
            if expected == other && expected != found {
                differences.push(format!("step {at}: {stream} {found:?} instead of {expected:?}"));
            }
        }
    }
    let paths: BTreeSet<_> = first.files.keys().chain(observed.files.keys()).collect();
    for path in paths {
        match (first.files.get(path), second.files.get(path), observed.files.get(path)) {
            (Some(_), _, None) => differences.push(format!("{} is missing", path.display())),
            (None, None, Some(_)) => differences.push(format!("{} is too much", path.display())),
            (Some(expected), Some(_), Some(found)) if expected.0 != found.0 => {
                differences.push(format!("{}: mode {:o}, not {:o}", path.display(), found.0, expected.0));
            }
            _ if expected.contains(path) => {}
            (Some(expected), Some(other), Some(found)) if expected == other && expected != found => {
                let at = expected.1.iter().zip(&found.1).position(|(a, b)| a != b);
                let (plain, here) = (expected.1.len(), found.1.len());
                let at = at.unwrap_or(plain.min(here));
                let path = path.display();
                differences
                    .push(format!("{path} differs from byte {at} on ({plain} bytes plainly, {here} here)"));
            }
            _ => {}
        }
    }
    differences
}

/// Where `shared` is neither what the compiler makes by itself nor what it makes with a prefix map. What two plain runs do
/// not agree on is passed over.
fn shared_differences(
    run: &Run,
    plain: [&Observed; 2],
    allowed: [&Observed; 2],
    shared: &Observed,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (at, found) in shared.steps.iter().enumerate() {
        let is_steady = plain[0].steps[at] == plain[1].steps[at];
        if is_steady && !allowed.iter().any(|allowed| allowed.steps[at] == *found) {
            differences.push(format!("step {at}: {found:?} instead of {:?}", allowed[0].steps[at]));
        }
    }
    for (path, found) in &shared.files {
        let is_steady = plain[0].files.get(path) == plain[1].files.get(path);
        let is_steady = is_steady && !run.case.differs.contains(path);
        if is_steady && !allowed.iter().any(|allowed| allowed.files.get(path) == Some(found)) {
            differences.push(format!("{} is neither of both", path.display()));
        }
    }
    let missing = allowed[0].files.keys().filter(|path| !shared.files.contains_key(*path));
    differences.extend(missing.map(|path| format!("{} is missing", path.display())));
    differences
}

/// Whether one command was counted as the case expects.
fn check_counts(expectation: &Expectation, mode: Mode, stats: &Stats) -> Result<(), String> {
    let (verdict, reason) = match (expectation, mode) {
        (Expectation::Shared, Mode::WithoutCluster { cold: true }) => {
            ("executed_local", Some("no_remote".to_owned()))
        }
        (Expectation::Shared, Mode::WithCluster { cold: true }) => ("executed_remote", None),
        (Expectation::Here(reason), Mode::WithCluster { cold: true }) => {
            ("executed_local", Some(reason.clone()))
        }
        (Expectation::Here(_), Mode::WithoutCluster { cold: true }) => {
            ("executed_local", Some("no_remote".to_owned()))
        }
        (Expectation::Shared | Expectation::Here(_), _) => ("hit_local", None),
        (Expectation::Fails, Mode::WithCluster { .. }) => {
            ("executed_local", Some("remote_failed".to_owned()))
        }
        (Expectation::Fails, _) => ("executed_local", Some("no_remote".to_owned())),
        (Expectation::Local(reason), _) => ("passed_through", Some(reason.clone())),
    };
    let counted = stats.verdict(verdict) > 0 && stats.verdict(verdict) == stats.commands();
    if !counted || reason.as_ref().is_some_and(|reason| stats.reason(reason) != stats.commands()) {
        return Err(format!("expected {verdict} {}, counted {}", reason.unwrap_or_default(), stats.0));
    }
    Ok(())
}

fn cases() -> Vec<CommandCase> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/commands");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let only = std::env::var("FARCC_CASES").unwrap_or_default();
    let cases = paths.iter().map(|path| CommandCase::read(path).unwrap());
    cases.filter(|case| case.name.contains(&only)).collect()
}

fn is_installed(compiler: &str) -> bool {
    let mut command = Command::new(compiler);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Every case with each installed compiler and each variant.
fn runs(cases: &[CommandCase]) -> Vec<Run<'_>> {
    prerequisites::require(&["gcc", "g++", "clang", "ccache", "ld.lld", "mold"]);
    prerequisites::require(&["dwp", "llvm-ar", "llvm-dwp", "llvm-strip"]);
    prerequisites::require_of_gcc(&["cc1obj"]);
    prerequisites::require_runtime_of_clang();
    let compilers: BTreeSet<&str> =
        cases.iter().flat_map(|case| &case.compilers).map(String::as_str).collect();
    let missing: BTreeSet<&str> = compilers.into_iter().filter(|compiler| !is_installed(compiler)).collect();
    for compiler in &missing {
        skipped("command cases", &format!("{compiler} is not installed"));
    }
    let mut runs = Vec::new();
    for case in cases {
        for compiler in case.compilers.iter().filter(|compiler| !missing.contains(compiler.as_str())) {
            for variant in &case.variants {
                runs.push(Run { case, compiler, variant, number: runs.len() });
            }
        }
    }
    runs
}

/// Checks every run, with a client and a cluster for each processor.
///
/// # Panics
/// When anything is wrong.
fn check_all(runs: &[Run], check: impl Fn(&Worker, &Run) -> Vec<String> + Sync) {
    let next = AtomicUsize::new(0);
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(runs.len());
        for number in 0..workers {
            let (next, problems, check) = (&next, &problems, &check);
            scope.spawn(move || {
                let worker = Worker::new(number);
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = check(&worker, run);
                    if !found.is_empty() {
                        let what = format!("{} {} {}", run.case.name, run.compiler, run.variant);
                        problems.lock().unwrap().push(format!("{what}\n  {}", found.join("\n  ")));
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), runs.len(), problems.join("\n"));
}

#[test]
fn every_case_shared() {
    let cases = cases();
    let mut runs = runs(&cases);
    if std::env::var_os("FARCC_ALL_VARIANTS").is_none() {
        // One variant of each case with each compiler: variants are about flags, and which of them can be shared, the
        // unit tests of the command line show.
        runs.retain(|run| run.variant == run.case.variants[0]);
    }
    let (hits, with_hits) = (AtomicU64::new(0), AtomicU64::new(0));
    check_all(&runs, |worker, run| {
        let (problems, found) = worker.check_shared(run);
        hits.fetch_add(found, Ordering::Relaxed);
        with_hits.fetch_add(u64::from(found > 0), Ordering::Relaxed);
        problems
    });
    let (hits, with_hits) = (hits.into_inner(), with_hits.into_inner());
    say(&format!("{} cases shared: {hits} commands of {with_hits} cases were hits elsewhere", runs.len()));
    assert!(hits > 0 || runs.len() < 20, "nothing was shared");
}

#[test]
fn every_case() {
    let cases = cases();
    let runs = runs(&cases);
    check_all(&runs, Worker::check);
    let mut by_outcome = BTreeMap::<String, usize>::new();
    for run in &runs {
        for expectation in run.case.steps.iter().filter_map(|step| step.expectation.as_ref()) {
            let outcome = match expectation {
                Expectation::Shared => "stored and remote".to_owned(),
                Expectation::Here(reason) => format!("stored here: {reason}"),
                Expectation::Fails => "fails".to_owned(),
                Expectation::Local(reason) => format!("local: {reason}"),
            };
            *by_outcome.entry(outcome).or_default() += 1;
        }
    }
    say(&format!("{} cases in {} files: {by_outcome:?}", runs.len(), cases.len()));
}

//! What holds for the clone as a whole: formatting, the floors, sizes, first lines, licences, and that nothing of
//! any one machine is committed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use farcc_tests::binaries::repository;
use farcc_tests::prerequisites::find_program;
use farcc_tests::skipped;
use farcc_tests::space::run;

/// The floors of `daemon/src`: a module imports only from floors below its own, never a sibling on its own one.
const FLOORS: &[(&str, u8)] = &[
    ("access", 0),
    ("compression", 0),
    ("config", 0),
    ("digest", 0),
    ("disk", 0),
    ("files", 0),
    ("fitted", 0),
    ("listings", 0),
    ("prerequisites", 0),
    ("owner", 0),
    ("paths", 0),
    ("process", 0),
    ("reason", 0),
    ("relocation", 0),
    ("stats", 0),
    ("worker", 0),
    ("history", 1),
    ("linker", 1),
    ("mirror", 1),
    ("preprocessor", 1),
    ("reapi", 1),
    ("store", 1),
    ("compiler", 2),
    ("contents", 2),
    ("action", 3),
    ("executor", 4),
    ("dispatch", 5),
    ("serve", 5),
    ("twin", 5),
    ("server", 6),
    ("status", 6),
    ("cli", 7),
];

/// Floor 0 holds the words that all share, and a few of them are made of each other.
const LOWEST: u8 = 0;

/// No file is longer, in lines without the tests at its foot, but these.
const LONGEST: usize = 600;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[
    ("daemon/src/compiler/flag_table.rs", "a table: one row a flag"),
    (
        "daemon/src/preprocessor/skimmer.rs",
        "one scan over bytes: a function for each thing that can hide a `#`",
    ),
];

/// The files that git knows or would take, relative to the root.
fn committed_files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(repository());
    let listed = run(&mut git).success().stdout_text();
    let files = listed.split_terminator('\0').map(PathBuf::from);
    files.filter(|file| repository().join(file).is_file()).collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let files =
        committed_files().into_iter().filter(|file| file.extension().is_some_and(|suffix| suffix == "rs"));
    files
        .map(|file| {
            let text = std::fs::read_to_string(repository().join(&file)).unwrap();
            (file, text)
        })
        .collect()
}

fn report(what: &str, mut failures: Vec<String>) {
    failures.sort();
    failures.dedup();
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

/// The workspace, what is sent to workers, and what only fuzzers build.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "shim/worker/Cargo.toml", "tests/fuzz/Cargo.toml"];

#[test]
fn code_is_formatted() {
    for manifest in MANIFESTS {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["fmt", "--all", "--check", "--manifest-path", manifest]).current_dir(repository());
        run(&mut cargo).success();
    }
}

/// The modules below `crate::` that a text names, in `use` lists with braces as well.
fn imported_modules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            // `$crate::` and `some_crate::` are other words.
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            if let Some(list) = rest.strip_prefix('{') {
                found.extend(list.split([',', '}']).map(first_word).filter(|word| !word.is_empty()));
            } else {
                found.push(first_word(rest));
            }
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// What is wrong with `module` importing `imported`.
fn import_failure(module: &str, imported: &str) -> Option<String> {
    if module == imported {
        return None;
    }
    match (floor(module), floor(imported)) {
        (None, _) => Some(format!("{module} is on no floor")),
        (_, None) => Some(format!("{module} imports {imported}, which is on no floor")),
        (Some(LOWEST), Some(LOWEST)) => None,
        (Some(own), Some(other)) if other < own => None,
        (Some(own), Some(other)) => {
            Some(format!("{module} (floor {own}) imports {imported} (floor {other})"))
        }
    }
}

#[test]
fn a_module_imports_from_lower_floors_only() {
    let mut failures = Vec::new();
    let mut modules = 0;
    for (file, text) in rust_files() {
        let Ok(inside) = file.strip_prefix("daemon/src") else { continue };
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let module = module.trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        modules += 1;
        let imported = imported_modules(&text);
        // A file without imports must stand in the table as well.
        failures.extend(floor(module).is_none().then(|| format!("{module} is on no floor")));
        let wrong = imported.iter().filter_map(|imported| import_failure(module, imported));
        failures.extend(wrong.map(|failure| format!("{}: {failure}", file.display())));
    }
    assert!(modules > 0);
    report("floors", failures);
}

#[test]
fn the_floor_check_sees_what_it_should() {
    let text = "use crate::digest::Digest;\n// use crate::server;\nuse crate::{store, reapi::cas};\nf(crate::dispatch::g);\n\
                $crate::status!()";
    assert_eq!(imported_modules(text), ["digest", "store", "reapi", "dispatch"]);
    assert!(import_failure("store", "digest").is_none());
    assert!(import_failure("store", "store").is_none());
    assert!(import_failure("store", "reapi").is_some());
    assert!(import_failure("action", "dispatch").is_some());
    assert!(import_failure("action", "unheard_of").is_some());
}

#[test]
fn files_hold_one_noun() {
    let mut failures = Vec::new();
    for (file, text) in rust_files() {
        let code = text.split_once("\n#[cfg(test)]\n").map_or(text.as_str(), |(code, _)| code);
        let lines = code.lines().count();
        let allowed = LONG_FILES.iter().any(|(long, _)| Path::new(long) == file);
        if lines > LONGEST && !allowed {
            failures.push(format!("{} has {lines} lines, more than {LONGEST}", file.display()));
        }
    }
    report("sizes", failures);
}

#[test]
fn files_introduce_themselves() {
    let silent = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    report("files that do not open with //!", silent.map(|(file, _)| file.display().to_string()).collect());
}

/// Each variant of `Reason` is produced by a test: its name occurs under `tests/`, or its variant in the tests
/// at the foot of a file of the daemon.
#[test]
fn each_reason_is_tested() {
    let reason = std::fs::read_to_string(repository().join("daemon/src/reason.rs")).unwrap();
    let names: Vec<(&str, &str)> = reason
        .lines()
        .filter_map(|line| {
            let (variant, name) = line.trim().strip_prefix("Reason::")?.split_once(" => \"")?;
            let variant = variant.split('(').next().unwrap();
            Some((variant, name.trim_end_matches(['"', ','])))
        })
        .collect();
    assert!(names.len() > 20, "the list of reasons was not understood: {names:?}");
    let mut tests = String::new();
    for (file, text) in rust_files() {
        let folders = ["tests", "daemon/tests", "shim/tests"];
        if folders.iter().any(|folder| file.starts_with(folder)) && !file.ends_with("tidy.rs") {
            tests.push_str(&text);
        } else if let Some((_, foot)) = text.split_once("#[cfg(test)]")
            && file != Path::new("daemon/src/reason.rs")
        {
            tests.push_str(foot);
        }
    }
    for file in committed_files() {
        // Cases of tests that are no Rust: compiled sources with their expectations.
        if file.starts_with("tests/cases")
            && let Ok(text) = std::fs::read_to_string(repository().join(&file))
        {
            tests.push_str(&text);
        }
    }
    let untested = names.iter().filter(|(variant, name)| {
        !has_word(&tests, &format!("\"{name}\"")) && !has_word(&tests, &format!("Reason::{variant}"))
    });
    report("reasons that no test names", untested.map(|(_, name)| (*name).to_owned()).collect());
}

/// Whether `word` occurs and does not go on: `Reason::Store` is not `Reason::StorePath`.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let next = text[at + word.len()..].chars().next();
        word.ends_with('"') || !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
    })
}

#[test]
fn nothing_of_one_machine_is_committed() {
    let home = std::env::home_dir().map(|home| home.display().to_string());
    let root = repository().display().to_string();
    // Whoever's home it is, and where this clone happens to lie; `/root` alone is also a word of containers.
    let mut forbidden: Vec<String> = vec!["/home/runner".into(), "/Users/".into(), "/root/.cargo".into()];
    forbidden.extend(home.filter(|home| home.len() > "/root".len()));
    forbidden.push(format!("{root}/"));
    // Where packages come from is the machine's own configuration.
    let hosts =
        ["deb.debian", "archive.ubuntu", "security.debian", "index.crates", "static.crates", "proxy.golang"];
    forbidden.extend(hosts.iter().map(|host| format!("{host}.")));
    let mut failures = Vec::new();
    for file in committed_files() {
        // This file names them; the lock file names the registry's index, as cargo writes it.
        if file.ends_with("tidy.rs") || file.ends_with("Cargo.lock") {
            continue;
        }
        let bytes = std::fs::read(repository().join(&file)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for (number, line) in text.lines().enumerate() {
            let found = forbidden.iter().filter(|word| line.contains(word.as_str()));
            failures.extend(found.map(|word| format!("{}:{}: {word}", file.display(), number + 1)));
        }
    }
    report("paths and hosts", failures);
}

#[test]
fn licences_and_dependencies_are_allowed() {
    let Some(deny) = find_program("cargo-deny") else {
        skipped("licences and bans", "cargo-deny is not installed (`cargo install --locked cargo-deny`)");
        return;
    };
    let check_in = |manifest: &str, what: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(["--manifest-path", manifest]);
        command.args(["--all-features", "--config", "tests/deny.toml", "check", "--hide-inclusion-graph"]);
        // cargo-deny asks cargo for the dependencies: the one that runs the tests.
        command.args(what).env("CARGO", env!("CARGO")).current_dir(repository());
        run(&mut command)
    };
    for manifest in &MANIFESTS[..2] {
        check_in(manifest, &["licenses", "bans", "sources"]).success();
    }
    let check = |what: &[&str]| check_in(MANIFESTS[0], what);
    // The advisories are a repository on the network: where it cannot be had, the rest was checked all the same.
    let finished = check(&["advisories"]);
    if finished.status != 0 {
        let text = finished.stderr_text();
        let unreachable =
            ["failed to fetch", "failed to obtain", "failed to load advisory", "failed to acquire"];
        assert!(unreachable.iter().any(|message| text.contains(message)), "{finished}");
        skipped("advisories", "their database cannot be fetched here");
    }
}

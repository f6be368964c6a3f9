//! How long a warm hit takes, launcher and daemon together, beside ccache, sccache (where it is installed) and starting any process
//! at all; and a first hit after the daemon has been started again.
//!
//! `cargo bench -p farcc-tests --bench hit`. All are interleaved in one run, since machines are noisy, and only ratios of
//! medians mean anything.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::space::TestSpace;
use farcc_tests::timing::median;
use farcc_tests::timing::millis;
use farcc_tests::timing::timed;

/// Rounds of one hit each.
const ROUNDS: usize = 200;
/// Hits at a time, and how many in all, when the machine is busy.
const AT_A_TIME: usize = 8;
const IN_ALL: usize = 400;

/// A unit whose headers are about as many as in a usual C++ program.
const CXX_UNIT: &str = "#include <iostream>\n#include <map>\n#include <regex>\n#include <thread>\n#include <vector>\n\
                        int f(const std::map<int, std::string> &m) { return int(m.size()); }\n";
const C_UNIT: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
                      #include <pthread.h>\n#include <netdb.h>\n#include <sys/socket.h>\n#include <math.h>\n\
                      int f(const char *s) { return (int)strlen(s); }\n";

/// Units that are asked for after a restart.
const UNITS: usize = 30;

fn main() {
    prerequisites::require(&["ccache", "g++", "gcc"]);
    let space = TestSpace::new("bench-hit");
    space.configure("");
    let launcher = std::fs::metadata(&space.binaries().farcc).unwrap().len();
    say(&format!("the launcher has {} KB", launcher / 1000));
    let has_sccache = Command::new("sccache").arg("--version").output().is_ok_and(|run| run.status.success());
    for (language, compiler, file, text) in [("C++", "g++", "a.cc", CXX_UNIT), ("C", "gcc", "b.c", C_UNIT)] {
        let source = space.write(file, text);
        let farcc = space.binaries().farcc.display().to_string();
        let mut rivals = vec![("farcc", compile(Some(&farcc), compiler, &source))];
        rivals.push(("ccache", compile(Some("ccache"), compiler, &source)));
        if has_sccache {
            rivals.push(("sccache", compile(Some("sccache"), compiler, &source)));
        }
        // Two of each: the second is a hit, and whatever is read on a first hit has been.
        for _ in 0..3 {
            rivals.iter().for_each(|(_, words)| run(&space, words));
        }
        rivals.push(("/bin/true", vec!["/bin/true".into()]));
        let before = space.stats();
        let dependencies = std::fs::read_to_string(source.with_extension("farcc.d")).unwrap();
        say(&format!(
            "{language}: {} dependencies",
            dependencies.split_whitespace().skip(1).filter(|word| *word != "\\").count()
        ));
        let mut times = vec![Vec::new(); rivals.len()];
        for _ in 0..ROUNDS {
            for (times, (_, words)) in times.iter_mut().zip(&rivals) {
                times.push(timed(|| run(&space, words)));
            }
        }
        let medians: Vec<_> = times.into_iter().map(|times| millis(median(times))).collect();
        report("one at a time", &rivals, &medians, "ms");
        let mut rates = vec![Vec::new(); rivals.len()];
        for _ in 0..5 {
            for (rates, (_, words)) in rates.iter_mut().zip(&rivals) {
                rates.push(rate(&space, words));
            }
        }
        let rates = rates.into_iter().map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        report(&format!("{AT_A_TIME} at a time"), &rivals, &rates.collect::<Vec<_>>(), "/s");
        let after = space.stats();
        let hits = after.verdict("hit_local") - before.verdict("hit_local");
        assert_eq!(hits, after.commands() - before.commands(), "everything that was timed was a hit");
        after_restart(&space, compiler, file, text);
    }
    if has_sccache {
        let _ = command(&space, &["sccache".into(), "--stop-server".into()]).status();
    }
}

/// A compile of `source` by `launcher`, into an object of its own.
fn compile(launcher: Option<&str>, compiler: &str, source: &Path) -> Vec<OsString> {
    let name = launcher.map_or("plain", |path| path.rsplit('/').next().unwrap());
    let object = source.with_extension(format!("{name}.o"));
    let words =
        [compiler, "-O1", "-g", "-MD", "-c", source.to_str().unwrap(), "-o", object.to_str().unwrap()];
    launcher.iter().chain(&words).map(OsString::from).collect()
}

/// The first hit of each of some units, when the daemon has nothing in memory, beside ccache, which never has.
fn after_restart(space: &TestSpace, compiler: &str, file: &str, text: &str) {
    let farcc = space.binaries().farcc.display().to_string();
    let units: Vec<_> = (0..UNITS)
        .map(|number| {
            let source = space.write(&format!("{number}-{file}"), format!("{text}int unit{number};\n"));
            [Some(farcc.as_str()), Some("ccache")].map(|launcher| compile(launcher, compiler, &source))
        })
        .collect();
    units.iter().flatten().for_each(|words| run(space, words));
    let mut times = [Vec::new(), Vec::new()];
    let mut firsts = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        space.stop_daemon();
        space.start_daemon();
        for (position, unit) in units.iter().enumerate() {
            for ((times, firsts), words) in times.iter_mut().zip(&mut firsts).zip(unit) {
                let took = timed(|| run(space, words));
                times.push(took);
                if position == 0 {
                    firsts.push(took);
                }
            }
        }
    }
    for (what, times) in [("after a restart", times), ("the very first", firsts)] {
        let [ours, theirs] = times.map(|times| millis(median(times)));
        say(&format!(
            "  {what}: farcc {ours:.2} ms, ccache {theirs:.2} ms; farcc/ccache {:.2}",
            ours / theirs
        ));
    }
}

/// The figures of all, and the ratios of ours to the others'.
fn report(what: &str, rivals: &[(&str, Vec<OsString>)], figures: &[f64], unit: &str) {
    let named = || rivals.iter().map(|(name, _)| name).zip(figures);
    let all: Vec<_> = named().map(|(name, figure)| format!("{name} {figure:.2} {unit}")).collect();
    let ratios = named().skip(1).map(|(name, figure)| format!("farcc/{name} {:.2}", figures[0] / figure));
    say(&format!("  {what}: {}; {}", all.join(", "), ratios.collect::<Vec<_>>().join(", ")));
}

fn command(space: &TestSpace, words: &[OsString]) -> Command {
    let mut command = space.command(&words[0]);
    command.args(&words[1..]).env("CCACHE_DIR", space.home().join("ccache"));
    command.env("SCCACHE_DIR", space.home().join("sccache"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(space: &TestSpace, words: &[OsString]) {
    assert!(command(space, words).status().unwrap().success());
}

/// Commands per second with several at a time.
fn rate(space: &TestSpace, words: &[OsString]) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| (0..IN_ALL / AT_A_TIME).for_each(|_| run(space, words)));
        }
    });
    f64::from(u32::try_from(IN_ALL).unwrap()) / started.elapsed().as_secs_f64()
}

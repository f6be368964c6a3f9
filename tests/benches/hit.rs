//! How long a warm hit takes, launcher and daemon together, beside ccache and beside starting any process at all.
//!
//! `cargo bench -p farcc-tests --bench hit`. The three are interleaved in one run, since machines are noisy, and
//! only ratios of medians mean anything.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::space::TestSpace;
use farcc_tests::timing::median;
use farcc_tests::timing::millis;

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

fn main() {
    prerequisites::require(&["ccache", "g++", "gcc"]);
    let space = TestSpace::new("bench-hit");
    space.configure("");
    for (language, compiler, file, text) in [("C++", "g++", "a.cc", CXX_UNIT), ("C", "gcc", "b.c", C_UNIT)] {
        let source = space.write(file, text);
        let compile = |launcher: Option<&str>| {
            let object = format!("{}.o", launcher.map_or("plain", |path| path.rsplit('/').next().unwrap()));
            let words = [compiler, "-O1", "-g", "-MD", "-c", source.to_str().unwrap(), "-o", &object];
            let words: Vec<OsString> = launcher.iter().chain(&words).map(OsString::from).collect();
            words
        };
        let farcc = compile(Some(space.binaries().farcc.to_str().unwrap()));
        let ccache = compile(Some("ccache"));
        let nothing = vec![OsString::from("/bin/true")];
        // Two of each: the second is a hit, and whatever is read on a first hit has been.
        for _ in 0..3 {
            run(&space, &farcc);
            run(&space, &ccache);
        }
        let before = space.stats();
        let dependencies = std::fs::read_to_string(space.workspace().join("farcc.d")).unwrap();
        say(&format!("{language}: {} dependencies", dependencies.split_whitespace().count() - 1));
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (times, words) in times.iter_mut().zip([&farcc, &ccache, &nothing]) {
                let started = Instant::now();
                run(&space, words);
                times.push(started.elapsed());
            }
        }
        let [farcc_time, ccache_time, nothing_time] = times.map(median);
        say(&format!(
            "  one at a time: farcc {:.2} ms, ccache {:.2} ms, /bin/true {:.2} ms; farcc/ccache {:.2}",
            millis(farcc_time),
            millis(ccache_time),
            millis(nothing_time),
            farcc_time.as_secs_f64() / ccache_time.as_secs_f64(),
        ));
        let mut rates: [Vec<f64>; 3] = Default::default();
        for _ in 0..3 {
            for (rates, words) in rates.iter_mut().zip([&farcc, &ccache, &nothing]) {
                rates.push(rate(&space, words));
            }
        }
        let [farcc_rate, ccache_rate, nothing_rate] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        say(&format!(
            "  {AT_A_TIME} at a time: farcc {farcc_rate:.0}/s, ccache {ccache_rate:.0}/s, /bin/true {nothing_rate:.0}/s; \
             farcc/ccache {:.2}, farcc/true {:.2}",
            farcc_rate / ccache_rate,
            farcc_rate / nothing_rate,
        ));
        let after = space.stats();
        let hits = after.verdict("hit_local") - before.verdict("hit_local");
        assert_eq!(hits, after.commands() - before.commands(), "everything that was timed was a hit");
    }
}

fn command(space: &TestSpace, words: &[OsString]) -> Command {
    let mut command = space.command(&words[0]);
    command.args(&words[1..]).env("CCACHE_DIR", space.home().join("ccache"));
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

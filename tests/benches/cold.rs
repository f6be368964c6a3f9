//! What farcc costs where it helps nothing: a build from an empty store, beside the same build without it, alternating; in wall time
//! and in processor time, the daemon's included. Then the same build again, which must be nothing but hits; and what the daemon takes
//! in memory.
//!
//! `cargo bench -p farcc-tests --bench cold [-- ROUNDS]`; with `-- memory`, what the daemon takes when it knows 10,000 units.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::space::TestSpace;
use farcc_tests::timing::median;

const ROUNDS: usize = 5;
const CXX_UNITS: usize = 24;
const C_UNITS: usize = 96;
const MANY: usize = 10_000;
const DIRECTORIES: usize = 100;
const DIRECTORY_HEADERS: usize = 40;
const PROJECT_HEADERS: usize = 960;
/// One in so many of them is in a unit.
const PROJECT_SHARE: usize = 16;

const CXX_HEADERS: &[&str] =
    &["iostream", "map", "regex", "thread", "vector", "unordered_map", "memory", "functional", "sstream"];
const C_HEADERS: &[&str] = &[
    "stdio.h",
    "stdlib.h",
    "string.h",
    "unistd.h",
    "pthread.h",
    "netdb.h",
    "sys/socket.h",
    "math.h",
    "errno.h",
];

/// Some work for the optimiser, other work in each unit.
fn cxx_unit(number: usize) -> String {
    let mut text = String::from("#include \"project.h\"\n");
    CXX_HEADERS.iter().for_each(|name| writeln!(text, "#include <{name}>").unwrap());
    for function in 0..6 {
        writeln!(
            text,
            "std::map<int, std::string> f{number}_{function}(const std::vector<std::string> &in) {{\n  \
             std::map<int, std::string> out;\n  std::unordered_map<std::string, int> seen;\n  \
             for (const auto &word : in) {{ seen[word] += {function}; out[seen[word] + {number}] = word + \"{function}\"; }}\n  \
             std::ostringstream text; for (auto &[key, value] : out) text << key << value;\n  out[0] = text.str();\n  return out;\n}}"
        )
        .unwrap();
    }
    text
}

fn c_unit(number: usize) -> String {
    let mut text = String::from("#include \"project.h\"\n");
    C_HEADERS.iter().for_each(|name| writeln!(text, "#include <{name}>").unwrap());
    for function in 0..30 {
        writeln!(
            text,
            "int g{number}_{function}(const char *s, int n) {{\n  int sum = {function};\n  \
             for (int i = 0; i < n && s[i]; i++) {{ sum = sum * 31 + s[i]; if (sum % 7 == 3) sum ^= (int)strlen(s + i); }}\n  \
             switch (sum & 7) {{ case 1: return abs(sum); case 2: return sum << 1; case 5: return printf(\"%d\\n\", sum); }}\n  \
             return sum + PROJECT;\n}}"
        )
        .unwrap();
    }
    text
}

/// Wall time, and processor time of all.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    processor: Duration,
}

fn main() {
    prerequisites::require(&["gcc", "g++", "make", "bash"]);
    let space = TestSpace::new("bench-cold");
    space.configure("");
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "memory") {
        return memory(&space);
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    lay(&space);
    // What is read for the first time is read from the disk.
    let _ = build(&space, "");
    let (mut plain, mut ours, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut make_plain = || plain.push(build(&space, ""));
        // Who comes second has a warmer machine, or a hotter one.
        if round % 2 == 0 {
            make_plain();
        }
        space.stop_daemon();
        space.empty_farcc_dir();
        space.start_daemon();
        ours.push(build(&space, "farcc "));
        let units = u64::try_from(CXX_UNITS + C_UNITS).unwrap();
        assert_eq!(space.stats().verdict("executed_local"), units);
        again.push(build(&space, "farcc "));
        assert_eq!(space.stats().verdict("hit_local"), units, "the next build is nothing but hits");
        if round % 2 == 1 {
            make_plain();
        }
    }
    let of =
        |costs: &[Cost], part: fn(&Cost) -> Duration| median(costs.iter().map(part).collect()).as_secs_f64();
    for (what, part) in
        [("wall", (|cost| cost.wall) as fn(&Cost) -> Duration), ("processor", |cost| cost.processor)]
    {
        let [plain, ours, again] = [&plain, &ours, &again].map(|costs| of(costs, part));
        say(&format!(
            "{what}: plain {plain:.2} s, farcc {ours:.2} s, farcc again {again:.2} s; farcc/plain {:.3}, again/plain {:.3}",
            ours / plain,
            again / plain
        ));
    }
    let ratios = plain.iter().zip(&ours).map(|(plain, ours)| {
        let ratio = |part: fn(&Cost) -> Duration| part(ours).as_secs_f64() / part(plain).as_secs_f64();
        format!("{:.3}/{:.3}", ratio(|cost| cost.wall), ratio(|cost| cost.processor))
    });
    say(&format!("each round, wall/processor: {}", ratios.collect::<Vec<_>>().join(" ")));
    say(&format!("the daemon takes {} KiB", resident_kib(&space)));
}

fn lay(space: &TestSpace) {
    space.write("project.h", "#define PROJECT 1\n");
    (0..CXX_UNITS).for_each(|number| drop(space.write(&format!("x{number}.cc"), cxx_unit(number))));
    (0..C_UNITS).for_each(|number| drop(space.write(&format!("c{number}.c"), c_unit(number))));
    let objects: Vec<_> = (0..CXX_UNITS)
        .map(|number| format!("x{number}.o"))
        .chain((0..C_UNITS).map(|number| format!("c{number}.o")))
        .collect();
    space.write(
        "Makefile",
        format!(
            "all: {}\n%.o: %.c\n\t$(L)gcc -O2 -g -MD -c $< -o $@\n%.o: %.cc\n\t$(L)g++ -O2 -g -MD -c $< -o $@\n",
            objects.join(" ")
        ),
    );
}

/// From scratch, two at a time.
fn build(space: &TestSpace, launcher: &str) -> Cost {
    space.sh("", "rm -f *.o *.d").success();
    let before = daemon_time(space);
    let started = Instant::now();
    let mut command = space.command("bash");
    let made = farcc_tests::space::run(command.args(["-c", &format!("make -s -j2 L='{launcher}' && times")]))
        .success();
    let wall = started.elapsed();
    // The second line is that of the children: minutes and seconds, of users and system.
    let said = made.stdout_text();
    let children = said.lines().last().unwrap().split_whitespace().map(|time| {
        let (minutes, seconds) = time.strip_suffix('s').unwrap().split_once('m').unwrap();
        Duration::from_secs_f64(60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap())
    });
    let processor = children.sum::<Duration>() + daemon_time(space).saturating_sub(before);
    Cost { wall, processor }
}

/// The processor time of the daemon and of what it has run, so far.
fn daemon_time(space: &TestSpace) -> Duration {
    let Some(pid) = space.daemon() else { return Duration::ZERO };
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // proc_pid_stat(5): utime, stime, cutime, cstime, in ticks of a hundredth of a second.
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

fn resident_kib(space: &TestSpace) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", space.daemon().unwrap().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Small units that include much, so that what is known of them is large beside what they cost. Each reads 216 files: what all
/// units share, what its directory shares, and some of the project's.
fn memory(space: &TestSpace) {
    space.write("project.h", "#define PROJECT 1\n");
    let include = |name: String| format!("#include \"{name}\"\n");
    for number in 0..PROJECT_HEADERS {
        space.write(&format!("project/p{number}.h"), format!("#pragma once\nextern int p{number};\n"));
    }
    for directory in 0..DIRECTORIES {
        for number in 0..DIRECTORY_HEADERS {
            space.write(
                &format!("d{directory}/h{number}.h"),
                format!("#ifndef H_{directory}_{number}\n#define H_{directory}_{number}\nextern int h{number};\n#endif\n"),
            );
        }
    }
    let mut makefile = String::from("all:");
    for number in 0..MANY {
        let name = format!("d{}/c{number}", number % DIRECTORIES);
        let mut text: String = C_HEADERS.iter().map(|name| format!("#include <{name}>\n")).collect();
        text.push_str(&include("project.h".into()));
        text.extend((0..DIRECTORY_HEADERS).map(|header| include(format!("h{header}.h"))));
        text.extend(
            (number % PROJECT_SHARE..PROJECT_HEADERS)
                .step_by(PROJECT_SHARE)
                .map(|header| include(format!("project/p{header}.h"))),
        );
        space.write(&format!("{name}.c"), format!("{text}int v{number} = PROJECT;\n"));
        write!(makefile, " {name}.o").unwrap();
    }
    makefile.push_str("\n%.o: %.c\n\tfarcc gcc -I. -MD -c $< -o $@\n");
    space.write("Makefile", makefile);
    space.start_daemon();
    for _ in 0..2 {
        space.sh("", "make -s -j2").success();
        let rule = fs::read_to_string(space.workspace().join("d0/c0.d")).unwrap();
        let files = rule.split_whitespace().skip(1).filter(|word| *word != "\\").count();
        let stats = space.stats();
        say(&format!(
            "{} commands that read {files} files each, {} hits: the daemon takes {} KiB",
            stats.commands(),
            stats.hits(),
            resident_kib(space)
        ));
        let status = space.farccd(&["status"]).success().stdout_text();
        status.lines().filter(|line| line.starts_with("memory")).for_each(say);
        space.sh("", "find . -name '*.o' -delete").success();
    }
}

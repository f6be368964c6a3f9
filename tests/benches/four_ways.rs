//! One build four ways, with cluster and twin beside each other behind a round trip of 50 ms: all here; compiles and links on the
//! cluster; all other commands on the twin as well; the whole build there. Then its tests, and the build after one edit.
//!
//! `cargo bench --workspace --bench four_ways [-- UNITS]`. Workstation, cluster and twin share this machine's processors, so what the
//! last ways save is not to be seen in the time but in what passes the wire, and in what waits for it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::binaries::repository;
use farcc_tests::generators;
use farcc_tests::proxy::Proxy;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;

const ROUND_TRIP: Duration = Duration::from_millis(50);
const UNITS: usize = 40;
const JOBS: &str = "-j16";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Here,
    Cluster,
    ClusterAndTwin,
    Twin,
}

/// What passes the wire, and how long it takes.
struct Wire<'a> {
    proxies: [&'a Proxy; 2],
}

impl Wire<'_> {
    fn counts(&self) -> [u64; 3] {
        let of = |count: fn(&Proxy) -> u64| self.proxies.iter().map(|proxy| count(proxy)).sum();
        [of(Proxy::bytes_there), of(Proxy::bytes_back), of(Proxy::turns)]
    }

    /// Does something, and says what it took.
    fn measure<T>(&self, way: Way, what: &str, act: impl FnOnce() -> T) -> T {
        let (before, began) = (self.counts(), Instant::now());
        let done = act();
        let took = began.elapsed();
        let after = self.counts();
        let [there, back, turns] = std::array::from_fn(|at| after[at] - before[at]);
        let (there, back) = (there >> 10, back >> 10);
        say(&format!(
            "{way:16?} {what:14} {:6.2} s, {turns:5} turns, {there:6} KiB there, {back:6} KiB back",
            took.as_secs_f64()
        ));
        done
    }
}

fn main() {
    let units = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(UNITS);
    let mut made: Vec<(Way, BTreeMap<String, Vec<u8>>)> = Vec::new();
    // One place for all, so that what names it is the same.
    let space = TestSpace::new("four-ways");
    for way in [Way::Here, Way::Cluster, Way::ClusterAndTwin, Way::Twin] {
        let products = build(&space, way, units);
        if let Some((first, other)) = made.first() {
            for (name, bytes) in &products {
                assert!(other.get(name) == Some(bytes), "{name} differs: {first:?}, {way:?}");
            }
        }
        say(&format!("{way:?}: {} files compared", products.len()));
        made.push((way, products));
    }
}

fn build(space: &TestSpace, way: Way, units: usize) -> BTreeMap<String, Vec<u8>> {
    // Nothing is known from the way before.
    for entry in fs::read_dir(space.workspace()).unwrap().flatten() {
        let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
    }
    let name = format!("{way:?}");
    let cluster = ServeProcess::start(space, &format!("cluster-{name}"));
    let own = space.serve_dir().join(format!("twin-{name}/home/.config/farcc"));
    fs::create_dir_all(&own).unwrap();
    let address = format!("grpc://{}", cluster.address());
    let exec = "[exec]\nroot = \"mirror\"\ntoolchain = \"trusted\"\n";
    fs::write(own.join("farcc.toml"), format!("[remote]\naddress = \"{address}\"\n{exec}")).unwrap();
    let twin = ServeProcess::twin(space, &format!("twin-{name}"), &["--cas", &address]);
    let to_cluster = Proxy::start(cluster.address(), ROUND_TRIP);
    let to_twin = Proxy::start(twin.address(), ROUND_TRIP);
    let wire = Wire { proxies: [&to_cluster, &to_twin] };
    let remote = format!("[remote]\naddress = \"grpc://{}\"\n", to_cluster.host_and_port());
    let other = format!("[twin]\naddress = \"grpc://{}\"\n", to_twin.host_and_port());
    space.configure(&match way {
        Way::Here => String::new(),
        Way::Cluster => remote,
        Way::ClusterAndTwin => remote + &other,
        Way::Twin => other,
    });
    fs::create_dir(space.workspace().join(".git")).unwrap();
    generators::lay(space, units);
    let module = repository().join("cmake/Farcc.cmake");
    let include = format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module.display());
    let mut configure = vec!["cmake", "-S", ".", "-B", "build", "-G", "Ninja"];
    if way != Way::Here {
        configure.push(&include);
    }
    if way != Way::Here {
        space.start_daemon();
    }
    // The compiler's own checks are no part of it.
    space.run("", &configure).success();
    let cmake = ["cmake", "--build", "build", JOBS];
    let ctest = ["ctest", "--test-dir", "build", "--output-on-failure"];
    let run = |words: &[&str]| match way {
        Way::Twin => space.farccd(&[&["twin", "run", "--"], words].concat()).success(),
        _ => space.run("", words).success(),
    };
    let built = wire.measure(way, "build", || run(&cmake));
    if way == Way::Twin {
        say(built.stderr_text().lines().last().unwrap_or_default());
    }
    wire.measure(way, "nothing to do", || run(&cmake));
    let tests: &[&str] = match way {
        Way::ClusterAndTwin => &["farcc", "ctest", "--test-dir", "build", "--output-on-failure"],
        _ => &ctest,
    };
    wire.measure(way, "tests", || run(tests));
    space.write("words.txt", "one two three four\n");
    wire.measure(way, "one edit", || run(&cmake));
    if way != Way::Here {
        space.stop_daemon();
        space.empty_farcc_dir();
    }
    products(space)
}

/// What the build is for, and what its generators have made.
fn products(space: &TestSpace) -> BTreeMap<String, Vec<u8>> {
    let names = [
        "main",
        "tables",
        "libunits.a",
        "words.c",
        "words.h",
        "squares.c",
        "sums.tab.c",
        "sums.lex.c",
        "checked.stamp",
    ];
    let read = |name: &str| (name.to_owned(), fs::read(space.workspace().join("build").join(name)).unwrap());
    names.map(read).into()
}

//! Many workers, far away: hundreds of compiles in flight on a cluster whose actions take a second and no processor, behind
//! a round trip of 50 ms; and what one compile costs on that way, in round trips and bytes.
//!
//! `cargo bench -p farcc-tests --bench far_away [-- IN_FLIGHT…]`. Launchers, daemon, cluster and proxy share this machine's processors, so the
//! rate at which launchers can be started here, without anything else, is printed beside.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::proxy::Proxy;
use farcc_tests::say;
use farcc_tests::space::TestSpace;

/// What each action takes.
const ACTION: Duration = Duration::from_secs(1);
/// What each question to the cluster takes at least.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Headers that each unit includes.
const HEADERS: usize = 250;
/// The rate is that of this time, which begins when all are under way.
const WARM_UP: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(12);
/// Launchers at a time while nothing but their start is measured.
const STARTED_AT_A_TIME: usize = 8;

fn main() {
    prerequisites::require(&["gcc"]);
    let asked: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if asked.is_empty() {
        costs();
    }
    for in_flight in if asked.is_empty() { vec![500, 1000] } else { asked } {
        rate(in_flight);
    }
}

/// A cluster that makes an object of its inputs' bytes.
fn cluster(time: Duration) -> FakeReapi {
    let cluster = FakeReapi::new().action_time(time).trust_inputs().execute(|_, command, inputs| {
        let source = command.arguments.iter().find(|argument| argument.ends_with(".c")).unwrap();
        let outputs = command.output_paths.iter().map(|path| match Path::new(path).extension() {
            Some(extension) if extension == "d" => {
                inputs.output_file(path, format!("x.o: {source}\n").as_bytes(), false)
            }
            _ => inputs.output_file(path, &[source.as_bytes(), &[0; 4096]].concat(), false),
        });
        succeed(outputs.collect())
    });
    cluster.start()
}

/// A space whose units include all headers.
fn space(name: &str, address: &str, jobs: usize) -> TestSpace {
    let space = TestSpace::new(name);
    let mut all = String::new();
    for number in 0..HEADERS {
        space.write(
            &format!("include/h{number}.h"),
            format!("#define H{number} {number}\nextern int h{number};\n"),
        );
        all.push_str(&format!("#include \"h{number}.h\"\n"));
    }
    space.write("include/all.h", all);
    space.configure(&format!("[remote]\naddress = \"grpc://{address}\"\n[exec]\njobs = {jobs}\n"));
    space
}

fn write_unit(space: &TestSpace, unit: usize) {
    space.write(&format!("u{unit}.c"), format!("#include \"all.h\"\nint unit = {unit};\n"));
}

fn compile(space: &TestSpace, unit: usize) {
    let mut command = space.command(&space.binaries().farcc);
    command.args(["gcc", "-Iinclude", "-O2", "-MD", "-c", &format!("u{unit}.c")]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Round trips and bytes of single compiles.
fn costs() {
    let cluster = cluster(Duration::ZERO);
    let proxy = Proxy::start(&cluster.host_and_port(), ROUND_TRIP);
    let space = space("bench-costs", &proxy.host_and_port(), 400);
    for unit in 0..3 {
        write_unit(&space, unit);
    }
    say(&format!("one compile with {} headers, round trip {} ms:", HEADERS + 1, ROUND_TRIP.as_millis()));
    let measure = |what: &str, unit: usize, verdict: &str| {
        let calls = cluster.all_calls();
        let (there, back) = (proxy.bytes_there(), proxy.bytes_back());
        let before = space.stats();
        let started = Instant::now();
        compile(&space, unit);
        let took = started.elapsed();
        let after = space.stats();
        assert_eq!(after.verdict(verdict), before.verdict(verdict) + 1, "{what}: {}", after.0);
        let made: BTreeMap<Rpc, usize> = cluster
            .all_calls()
            .into_iter()
            .map(|(rpc, count)| (rpc, count - calls.get(&rpc).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        say(&format!(
            "  {what:<34} {:>6.1} ms = {:>4.1} round trips, {:>7} bytes there, {:>6} back: {made:?}",
            took.as_secs_f64() * 1000.0,
            took.as_secs_f64() / ROUND_TRIP.as_secs_f64(),
            proxy.bytes_there() - there,
            proxy.bytes_back() - back,
        ));
    };
    measure("cold, first of all", 0, "executed_remote");
    measure("cold, another unit", 1, "executed_remote");
    // What is changed within the clock's granularity is read again, and that is not what is measured.
    std::thread::sleep(Duration::from_millis(50));
    space.write("include/h7.h", "#define H7 70\nextern int h7;\n");
    measure("one header changed", 1, "executed_remote");
    measure("the other with that header", 0, "executed_remote");
    std::fs::remove_dir_all(space.farcc_dir().join("store")).unwrap();
    space.stop_daemon();
    space.sh("", "farccd start").success();
    measure("hit of the cluster, first of all", 1, "hit_remote");
    measure("hit of the cluster", 0, "hit_remote");
    measure("hit on this machine", 0, "hit_local");
}

/// Commands a second with `in_flight` of them at a time.
fn rate(in_flight: usize) {
    let cluster = cluster(ACTION);
    let proxy = Proxy::start(&cluster.host_and_port(), ROUND_TRIP);
    let space = space("bench-rate", &proxy.host_and_port(), in_flight);
    let units = in_flight * usize::try_from((WARM_UP + MEASURED).as_secs() + 2).unwrap();
    for unit in 0..units {
        write_unit(&space, unit);
    }
    compile(&space, 0);
    let (next, done, is_over) = (AtomicUsize::new(1), AtomicUsize::new(0), AtomicBool::new(false));
    let daemon = space.daemon().unwrap().as_raw_nonzero().get();
    let mut measured = None;
    std::thread::scope(|scope| {
        for _ in 0..in_flight {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let unit = next.fetch_add(1, Ordering::Relaxed);
                    assert!(unit < units, "more units than the ideal rate allows");
                    compile(&space, unit);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(WARM_UP);
        let (before, cpu) = (done.load(Ordering::Relaxed), cpu_time(daemon));
        let started = Instant::now();
        std::thread::sleep(MEASURED);
        let count = done.load(Ordering::Relaxed) - before;
        measured = Some((count, started.elapsed(), cpu_time(daemon) - cpu, resident_bytes(daemon)));
        is_over.store(true, Ordering::Relaxed);
    });
    let (count, took, cpu, resident) = measured.unwrap();
    let stats = space.stats();
    if stats.verdict("executed_remote") != stats.commands() {
        let other = (0..units).find_map(|unit| {
            let text = space.sh("", &format!("farccd explain u{unit}.o")).stdout_text();
            (!text.contains("executed remotely")).then_some(text)
        });
        panic!("{}: {}", stats.0, other.unwrap_or_default());
    }
    #[expect(clippy::cast_precision_loss, reason = "they are small")]
    let (count, in_flight_f) = (count as f64, in_flight as f64);
    let rate = count / took.as_secs_f64();
    let ideal = in_flight_f / ACTION.as_secs_f64();
    let with_trip = in_flight_f / (ACTION + ROUND_TRIP).as_secs_f64();
    let starts = starts(&space);
    say(&format!(
        "{in_flight} in flight: {rate:.0}/s; {:.2} of {ideal:.0}/s (actions alone), {:.2} of {with_trip:.0}/s (with one round \
         trip), {:.2} of the {starts:.0}/s at which launchers start here; daemon {:.2} ms of processor a command, {:.0} MB; \
         half of all commands took more than {:.2} s \
         in it; calls a command: {:.2} GetActionResult, {:.2} FindMissing, {:.2} BatchUpdate, {:.2} Write, {:.2} Execute",
        rate / ideal,
        rate / with_trip,
        rate / starts,
        cpu.as_secs_f64() * 1000.0 / count,
        resident as f64 / 1e6,
        stats.median_micros() as f64 / 1e6,
        calls(&cluster, Rpc::GetActionResult, &stats),
        calls(&cluster, Rpc::FindMissingBlobs, &stats),
        calls(&cluster, Rpc::BatchUpdateBlobs, &stats),
        calls(&cluster, Rpc::Write, &stats),
        calls(&cluster, Rpc::Execute, &stats),
    ));
}

#[expect(clippy::cast_precision_loss, reason = "they are small")]
fn calls(cluster: &FakeReapi, rpc: Rpc, stats: &farcc_tests::space::Stats) -> f64 {
    cluster.calls(rpc) as f64 / stats.commands() as f64
}

/// Launchers a second that do nothing but become another program.
fn starts(space: &TestSpace) -> f64 {
    let (count, started) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..STARTED_AT_A_TIME {
            scope.spawn(|| {
                while started.elapsed() < Duration::from_secs(3) {
                    let mut command = space.command(&space.binaries().farcc);
                    command.arg("/bin/true").env("FARCC_DISABLE", "1");
                    assert!(command.output().unwrap().status.success());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let count = count.load(Ordering::Relaxed) as f64;
    count / started.elapsed().as_secs_f64()
}

/// User and system time of a process (`/proc/PID/stat`, proc(5)).
fn cpu_time(process: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

fn resident_bytes(process: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

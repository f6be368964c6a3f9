//! What a faulty cluster does to a command, through the whole product: what it can repair it repairs, and what it
//! returns wrongly is never installed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;
use std::time::Instant;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Options;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farccd::digest::Digest;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

/// What the cluster makes of every source: no compiler does, so it shows who made an object.
const MADE_THERE: &[u8] = b"made by the cluster";
const HEADER: &str = "#define VALUE 1\n";

/// A cluster whose actions all succeed.
fn cluster() -> Options {
    FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c a.h\n", false),
            inputs.output_file("a.o", MADE_THERE, false),
        ])
    })
}

fn space(name: &str, cluster: &FakeReapi) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.write("a.c", "#include \"a.h\"\nint a = VALUE;\n");
    space.write("a.h", HEADER);
    space.configure_remote(&cluster.host_and_port());
    space
}

/// Compiles through farcc, which must succeed, and returns the object.
fn compile(space: &TestSpace) -> Vec<u8> {
    run(space, "farcc gcc -MMD -c a.c").success();
    std::fs::read(space.workspace().join("a.o")).unwrap()
}

fn run(space: &TestSpace, command: &str) -> Finished {
    for output in ["a.o", "a.d"] {
        let _ = std::fs::remove_file(space.workspace().join(output));
    }
    space.sh("", command)
}

/// What the compiler makes by itself.
fn plain(space: &TestSpace) -> Vec<u8> {
    run(space, "gcc -MMD -c a.c").success();
    std::fs::read(space.workspace().join("a.o")).unwrap()
}

/// The command ends with what the compiler makes by itself, now and the next time, for `reason`.
fn assert_compiled_here(space: &TestSpace, reason: &str) {
    let plain = plain(space);
    assert!(compile(space) == plain, "another object: {}", space.stats().0);
    let stats = space.stats();
    assert_eq!((stats.reason(reason), stats.verdict("executed_local")), (1, 1), "{}", stats.0);
    assert!(compile(space) == plain, "another object the second time: {}", space.stats().0);
    assert_eq!(space.stats().verdict("hit_local"), 1, "{}", space.stats().0);
}

#[test]
fn inputs_that_the_cluster_lost_are_sent_again() {
    let cluster = cluster().start();
    let space = space("lost-inputs", &cluster);
    let header = Digest::of(HEADER.as_bytes());
    cluster.claim_present(header);
    assert_eq!(compile(&space), MADE_THERE);
    assert_eq!(cluster.calls(Rpc::Execute), 2);
    assert_eq!(cluster.times_stored(&header), 1);
    assert_eq!(space.stats().verdict("executed_remote"), 1);
}

#[test]
fn a_cached_result_without_its_blobs_is_made_again() {
    let cluster = cluster().start();
    let space = space("lost-outputs", &cluster);
    assert_eq!(compile(&space), MADE_THERE);
    space.empty_farcc_dir();
    cluster.lose_blob(&Digest::of(MADE_THERE));
    assert_eq!(compile(&space), MADE_THERE);
    assert_eq!(cluster.executed().len(), 2);
    let stats = space.stats();
    assert_eq!((stats.verdict("hit_remote"), stats.verdict("executed_remote")), (0, 1), "{}", stats.0);
}

#[test]
fn corrupt_bytes_are_not_installed() {
    let cluster = cluster().start();
    let space = space("corrupt", &cluster);
    cluster.corrupt(Digest::of(MADE_THERE));
    assert_compiled_here(&space, "remote_error");
}

#[test]
fn a_result_without_the_object_is_none() {
    let cluster = FakeReapi::new()
        .execute(|_, _, inputs| succeed(vec![inputs.output_file("a.d", b"a.o: a.c a.h\n", false)]))
        .start();
    let space = space("no-object", &cluster);
    assert_compiled_here(&space, "remote_error");
}

#[test]
fn a_result_without_the_depfile_is_none() {
    let cluster =
        FakeReapi::new().execute(|_, _, inputs| succeed(vec![inputs.output_file("a.o", MADE_THERE, false)]));
    let cluster = cluster.start();
    let space = space("no-depfile", &cluster);
    assert_compiled_here(&space, "remote_error");
}

#[test]
fn a_result_of_other_inputs_than_the_scanned_ones_is_not_kept() {
    for depfile in ["a.o: a.c a.h /usr/include/stdio.h\n", "a.o: a.c \\\n a.h ../elsewhere.h\n", "garbage"] {
        let cluster = FakeReapi::new().execute(move |_, _, inputs| {
            succeed(vec![
                inputs.output_file("a.d", depfile.as_bytes(), false),
                inputs.output_file("a.o", MADE_THERE, false),
            ])
        });
        let cluster = cluster.start();
        let space = space("depfile", &cluster);
        assert_compiled_here(&space, "depfile_disagrees");
    }
}

#[test]
fn a_cached_result_is_audited_too() {
    let cluster = cluster().start();
    let space = space("poisoned", &cluster);
    assert_eq!(compile(&space), MADE_THERE);
    // Somebody with another scanner has put it there.
    let action = cluster.executed()[0];
    let mut result = cluster.action_result(&action).unwrap();
    let depfile = cluster.insert_blob("a.o: a.c a.h /usr/include/stdio.h\n");
    result.output_files.iter_mut().find(|file| file.path == "a.d").unwrap().digest = Some(depfile.into());
    cluster.insert_action_result(action, result);
    space.empty_farcc_dir();
    assert_compiled_here(&space, "depfile_disagrees");
    assert_eq!(cluster.calls(Rpc::Execute), 1);
}

#[test]
fn a_cached_failure_is_no_hit() {
    let cluster = cluster().start();
    let space = space("cached-failure", &cluster);
    assert_eq!(compile(&space), MADE_THERE);
    let action = cluster.executed()[0];
    let mut failure = succeed(Vec::new());
    failure.exit_code = 1;
    cluster.insert_action_result(action, failure);
    space.empty_farcc_dir();
    // The fake answers an execution from its cache as well: with the failure, unless it is asked for another one.
    assert_eq!(compile(&space), MADE_THERE);
    assert_eq!(space.stats().verdict("executed_remote"), 1, "{}", space.stats().0);
    assert_eq!(cluster.executed().len(), 2);
}

#[test]
fn inputs_that_are_missed_without_a_word_are_looked_at_once_more() {
    for code in [Code::Internal, Code::FailedPrecondition] {
        let cluster = cluster().start();
        let space = space("silent-loss", &cluster);
        assert_eq!(compile(&space), MADE_THERE);
        space.write("a.c", "#include \"a.h\"\nint a = VALUE + 1;\n");
        let header = Digest::of(HEADER.as_bytes());
        cluster.lose_blob(&header);
        cluster.end_next_execution_with(Status::new(code, "it cannot be staged"));
        assert_eq!(compile(&space), MADE_THERE, "{code:?}");
        assert!(cluster.blob(&header).is_some());
        assert_eq!(space.stats().verdict("executed_remote"), 2, "{}", space.stats().0);
        // It is looked at once: what is said again is so.
        space.write("a.c", "#include \"a.h\"\nint a = VALUE + 2;\n");
        let executions = cluster.calls(Rpc::Execute);
        for _ in 0..3 {
            cluster.end_next_execution_with(Status::new(code, "it cannot be staged"));
        }
        assert_compiled_here(&space, "remote_error");
        assert_eq!(cluster.calls(Rpc::Execute), executions + 2, "{code:?}");
    }
}

#[test]
fn what_a_server_names_as_wrong_is_not_tried_again() {
    let cluster = cluster().start();
    let space = space("violation", &cluster);
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation("INVALID", "platform", "no such pool");
    let refusal = Status::with_error_details(Code::FailedPrecondition, "no", details);
    cluster.end_next_execution_with(refusal);
    let plain = plain(&space);
    let platform = "FARCC_PLATFORM='{ Pool = \"big\", OS = \"linux\", registry-password = \"hidden\" }'";
    run(&space, &format!("{platform} farcc gcc -MMD -c a.c")).success();
    assert!(std::fs::read(space.workspace().join("a.o")).unwrap() == plain);
    assert_eq!(space.stats().reason("remote_error"), 1, "{}", space.stats().0);
    assert_eq!(cluster.calls(Rpc::Execute), 1);
    let explained = space.sh("", "farccd explain a.o").success().stdout_text();
    for said in
        ["no such pool", "properties asked for: OS = \"linux\", Pool = \"big\", registry-password = \"…\""]
    {
        assert!(explained.contains(said), "{explained}");
    }
}

#[test]
fn a_server_of_an_older_api_is_a_cache() {
    let cluster = cluster().versions((2, 0), (2, 0)).start();
    let space = space("older", &cluster);
    let plain = plain(&space);
    assert!(compile(&space) == plain);
    assert_eq!(space.stats().reason("cache_only"), 1, "{}", space.stats().0);
    assert_eq!(cluster.calls(Rpc::Execute), 0);
    space.sh("", "farccd stop --drain").success();
    space.empty_farcc_dir();
    assert!(compile(&space) == plain);
    assert_eq!(space.stats().verdict("hit_remote"), 1, "{}", space.stats().0);
    let doctor = space.sh("", "farccd doctor").stdout_text();
    assert!(doctor.contains("caches"), "{doctor}");
}

#[test]
fn a_cluster_that_stops_answering_costs_one_command_some_seconds() {
    // Where a command may be when it happens.
    let calls = [Rpc::GetCapabilities, Rpc::GetActionResult, Rpc::FindMissingBlobs, Rpc::Execute];
    std::thread::scope(|scope| {
        for rpc in calls {
            scope.spawn(move || assert_silence_is_cheap(rpc));
        }
    });
}

/// The cluster answers nothing any more when it is asked for `rpc`.
fn assert_silence_is_cheap(rpc: Rpc) {
    let cluster = cluster().start();
    let space = space("silent", &cluster);
    let plain = plain(&space);
    let silent = [
        Rpc::GetCapabilities,
        Rpc::GetActionResult,
        Rpc::FindMissingBlobs,
        Rpc::BatchUpdateBlobs,
        Rpc::Execute,
        Rpc::WaitExecution,
    ];
    cluster.silence_from(rpc, &silent);
    let started = Instant::now();
    assert!(compile(&space) == plain, "{rpc:?}");
    assert!(started.elapsed() < Duration::from_secs(40), "{rpc:?}: {:?}", started.elapsed());
    assert_eq!(space.stats().reason("remote_unavailable"), 1, "{rpc:?}: {}", space.stats().0);
    // Soon after nobody waits for it again: one command finds out, the others do not ask.
    let calls = || cluster.all_calls().values().sum::<usize>();
    let before = calls();
    let started = Instant::now();
    run(&space, "for n in 1 2 3 4; do farcc gcc -DN=$n -MMD -c a.c & done; wait").success();
    assert!(started.elapsed() < Duration::from_secs(30), "{rpc:?}: {:?}", started.elapsed());
    assert!(calls() <= before + 1, "{rpc:?}: {before} calls, then {}", calls());
}

#[test]
fn after_a_miss_inputs_are_sent_while_the_result_is_looked_for() {
    let cluster = cluster().start();
    let space = space("sent-ahead", &cluster);
    let address = cluster.host_and_port();
    space.configure(&format!("[remote]\naddress = \"grpc://{address}\"\ntimeout = \"2s\"\n"));
    assert_eq!(compile(&space), MADE_THERE);
    assert_eq!(cluster.calls(Rpc::BatchUpdateBlobs), 1);
    // Nobody can wait for the answer.
    cluster.silence_from(Rpc::GetActionResult, &[]);
    space.write("a.h", "#define VALUE 2\n");
    assert!(compile(&space) == plain(&space));
    assert_eq!(space.stats().reason("remote_unavailable"), 1, "{}", space.stats().0);
    assert_eq!((cluster.calls(Rpc::BatchUpdateBlobs), cluster.calls(Rpc::Execute)), (2, 1));
    // What was sent is there: with an answer, it is not sent again.
    cluster.silence_from(Rpc::WaitExecution, &[]);
    space.stop_daemon();
    space.write("a.c", "#include \"a.h\"\nint a = 1 + VALUE;\n");
    assert_eq!(compile(&space), MADE_THERE);
    space.write("a.c", "#include \"a.h\"\nint a = 2 + VALUE;\n");
    assert_eq!(compile(&space), MADE_THERE);
    assert_eq!((cluster.calls(Rpc::BatchUpdateBlobs), cluster.calls(Rpc::Execute)), (4, 3));
    assert_eq!(cluster.times_stored(&Digest::of(b"#define VALUE 2\n")), 1);
}

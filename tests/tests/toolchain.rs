//! Workers whose compiler or system headers are not those of this machine (`[exec] toolchain`): what comes out is what the
//! compiler here makes, or the command runs here and the first file that differs is named.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::plain_worker::Abilities;
use farcc_tests::plain_worker::Image;
use farcc_tests::plain_worker::can_be_had;
use farcc_tests::plain_worker::plain_worker_with;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::TestSpace;
use tonic::Code;

const ABILITIES: Abilities = Abilities { namespaces: true, property: false };

/// A directory of the C library's headers that nothing else includes.
const RARE: &str = "/usr/include/scsi";

/// Units that read a common header, a rare one, and none of the C library's.
fn write_units(space: &TestSpace) {
    prerequisites::require(&["gcc", "clang"]);
    space.write("project/common.c", "#include <assert.h>\nvoid f(int x) { assert(x); }\n");
    space.write("project/rare.c", "#include <scsi/scsi.h>\nint command = TEST_UNIT_READY;\n");
    space.write("project/own.c", "int own;\n");
}

const UNITS: &[&str] = &["common", "rare", "own"];

/// Compiles each unit by `launcher` and takes the objects away.
fn compile(space: &TestSpace, launcher: &str, compiler: &str) -> Vec<Vec<u8>> {
    let compile = |unit: &&str| {
        space.sh("project", &format!("{launcher} {compiler} -O2 -c {unit}.c")).success();
        let object = space.workspace().join(format!("project/{unit}.o"));
        let bytes = std::fs::read(&object).unwrap();
        std::fs::remove_file(object).unwrap();
        bytes
    };
    UNITS.iter().map(compile).collect()
}

fn can_run() -> bool {
    if !can_be_had() {
        skipped("workers with another image", "only root can make them");
    }
    can_be_had()
}

/// A space, and a cluster whose workers have `image`.
fn space_with(root: &'static str, image: impl FnOnce(&TestSpace) -> Image) -> (TestSpace, FakeReapi) {
    let space = TestSpace::new("toolchain").with_exec_root(root).with_workers_compared();
    write_units(&space);
    let image = image(&space);
    let cluster = plain_worker_with(&space, ABILITIES, image).start();
    space.configure_remote(&cluster.host_and_port());
    (space, cluster)
}

/// A file that only the server has.
fn of_worker(space: &TestSpace, name: &str, content: &[u8]) -> PathBuf {
    let path = space.serve_dir().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// An `assert.h` with which the units become others.
fn other_header(space: &TestSpace) -> Image {
    let ours = of_worker(space, "assert.h", b"#define assert(x) (*(int *)0 = 1)\n");
    Image { replaced: vec![(ours, "/usr/include/assert.h".into())], ..Image::default() }
}

fn no_rare_headers(_: &TestSpace) -> Image {
    Image { emptied: vec![RARE.into()], ..Image::default() }
}

#[test]
fn a_worker_that_agrees_is_asked_once() {
    if !can_run() {
        return;
    }
    let (space, cluster) = space_with("wrapper", |_| Image::default());
    let plain = compile(&space, "", "gcc");
    assert!(compile(&space, "farcc", "gcc") == plain);
    assert_eq!(space.stats().verdict("executed_remote"), 3, "{}", space.stats().0);
    assert_eq!(cluster.calls(Rpc::Execute), 4);
    // Another compiler has its own files. The next daemon knows of the first.
    space.stop_daemon();
    space.sh("project", "farcc gcc -O1 -c common.c").success();
    assert_eq!(cluster.calls(Rpc::Execute), 5);
    assert!(compile(&space, "farcc", "clang") == compile(&space, "", "clang"));
    assert_eq!(cluster.calls(Rpc::Execute), 5 + 1 + 3);
}

#[test]
fn headers_that_differ_are_sent_where_the_root_allows() {
    if !can_run() {
        return;
    }
    for (image, what) in [(other_header as fn(&TestSpace) -> Image, "other"), (no_rare_headers, "missing")] {
        let (space, cluster) = space_with("wrapper", image);
        for compiler in ["gcc", "clang"] {
            let plain = compile(&space, "", compiler);
            assert!(compile(&space, "farcc", compiler) == plain, "{what} {compiler}");
        }
        let stats = space.stats();
        assert_eq!(stats.verdict("executed_remote"), 6, "{what}: {}", stats.0);
        // Another machine looks the results up, as far as it knows the workers.
        let executed = cluster.calls(Rpc::Execute);
        std::fs::remove_dir_all(space.farcc_dir().join("store")).unwrap();
        space.stop_daemon();
        let plain = compile(&space, "", "gcc");
        assert!(compile(&space, "farcc", "gcc") == plain);
        assert_eq!(space.stats().verdict("hit_remote"), 3, "{what}: {}", space.stats().0);
        assert_eq!(cluster.calls(Rpc::Execute), executed);
    }
}

#[test]
fn units_with_a_header_that_differs_run_here_where_the_root_allows_nothing_else() {
    if !can_run() {
        return;
    }
    let cases = [
        (
            other_header as fn(&TestSpace) -> Image,
            "/usr/include/assert.h is another one on the workers",
            "common",
        ),
        (no_rare_headers, "/usr/include/scsi/scsi.h is missing on the workers", "rare"),
    ];
    for (image, why, unit) in cases {
        let (space, cluster) = space_with("relative", image);
        let plain = compile(&space, "", "gcc");
        assert!(compile(&space, "farcc", "gcc") == plain, "{why}");
        let stats = space.stats();
        assert_eq!(stats.reason("worker_differs"), 1, "{}", stats.0);
        assert_eq!(stats.verdict("executed_remote"), 2, "{}", stats.0);
        // What is below no directory that was listed is asked for by name.
        assert!(cluster.calls(Rpc::Execute) <= 2 + 2, "{}", cluster.calls(Rpc::Execute));
        let explained = space.sh("project", &format!("farccd explain {unit}.o")).success();
        assert!(explained.stdout_text().contains(why), "{}", explained.stdout_text());
    }
}

#[test]
fn another_compiler_on_the_workers_is_used_for_nothing() {
    if !can_run() {
        return;
    }
    let assembler = Path::new("/usr/bin/as").canonicalize().unwrap();
    let (space, cluster) = space_with("wrapper", |space| {
        let mut bytes = std::fs::read(&assembler).unwrap();
        bytes.push(0);
        let other = of_worker(space, "as", &bytes);
        Image { replaced: vec![(other, assembler.clone())], ..Image::default() }
    });
    let plain = compile(&space, "", "gcc");
    assert!(compile(&space, "farcc", "gcc") == plain);
    let stats = space.stats();
    assert_eq!(stats.reason("worker_differs"), 3, "{}", stats.0);
    // It was asked for all, and again for what differs, in case that somebody mended it.
    assert!(cluster.calls(Rpc::Execute) <= 2, "{}", cluster.calls(Rpc::Execute));
    let explained = space.sh("project", "farccd explain own.o").success();
    let why = format!("{} is another one on the workers", assembler.display());
    assert!(explained.stdout_text().contains(&why), "{}", explained.stdout_text());
    // Who knows better may say so.
    space.sh("project", "FARCC_EXEC_TOOLCHAIN=trusted farcc gcc -O1 -c own.c").success();
    assert_eq!(space.stats().verdict("executed_remote"), 1, "{}", space.stats().0);
}

#[test]
fn a_worker_that_does_not_answer_is_not_asked_by_every_command() {
    let space = TestSpace::new("silent-worker").with_workers_compared();
    write_units(&space);
    let cluster = FakeReapi::new().execute(|_, _, _| {
        let mut result = succeed(Vec::new());
        result.exit_code = 126;
        result.stderr_raw = b"cannot execute: required file not found\n".to_vec();
        result
    });
    let cluster = cluster.start();
    space.configure_remote(&cluster.host_and_port());
    let plain = compile(&space, "", "gcc");
    assert!(compile(&space, "farcc", "gcc") == plain);
    assert_eq!(space.stats().reason("worker_differs"), 3, "{}", space.stats().0);
    assert_eq!(cluster.calls(Rpc::Execute), 1);
    let explained = space.sh("project", "farccd explain common.o").success();
    assert!(explained.stdout_text().contains("required file not found"), "{}", explained.stdout_text());
}

#[test]
fn a_cluster_that_refuses_the_question_is_not_asked_by_every_command() {
    for root in ["mirror", "auto"] {
        let space = TestSpace::new("refusing").with_exec_root(root).with_workers_compared();
        write_units(&space);
        let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
        space.configure_remote(&cluster.host_and_port());
        cluster.fail_next(Rpc::Execute, 100, Code::InvalidArgument);
        let plain = compile(&space, "", "gcc");
        assert!(compile(&space, "farcc", "gcc") == plain);
        assert_eq!(space.stats().reason("remote_error"), 3, "{}", space.stats().0);
        assert_eq!(cluster.calls(Rpc::Execute), 1, "{root}");
    }
}

#[test]
fn the_workers_of_serve_agree() {
    let space = TestSpace::new("serve-agrees").with_exec_root("auto").with_workers_compared();
    write_units(&space);
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    let plain = compile(&space, "", "gcc");
    assert!(compile(&space, "farcc", "gcc") == plain);
    assert_eq!(space.stats().verdict("executed_remote"), 3, "{}", space.stats().0);
    // What roots they can do, what they have, and the units.
    assert_eq!(server.executions(), 1 + 1 + 3);
}

#[test]
fn the_doctor_says_what_differs() {
    if !can_run() {
        return;
    }
    let doctor = |space: &TestSpace| {
        let finished = space.sh("project", "farccd doctor");
        let text = finished.stdout_text();
        (finished.status, text.lines().filter(|line| line.contains("workers: gcc")).collect::<String>())
    };
    let (agreeing, _cluster) = space_with("wrapper", |_| Image::default());
    let (status, found) = doctor(&agreeing);
    assert!(status == 0 && found.starts_with("ok") && found.ends_with("system headers agree"), "{found}");
    let (differing, _cluster) = space_with("wrapper", other_header);
    let (status, found) = doctor(&differing);
    assert_ne!(status, 0);
    assert!(found.starts_with("FAIL  workers: gcc: 1 of "), "{found}");
    assert!(
        found.ends_with("system headers differ: /usr/include/assert.h is another one on the workers"),
        "{found}"
    );
}

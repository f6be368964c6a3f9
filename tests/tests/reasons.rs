//! Every reason to run a command here, produced end to end: it is counted, and the command does what the compiler
//! does by itself.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::RunRequest;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use tonic::Code;

/// A command for the shell, in which `$F` is the launcher or nothing, and the reason that is to be counted.
struct Case {
    reason: &'static str,
    configuration: &'static str,
    script: &'static str,
}

const fn case(reason: &'static str, script: &'static str) -> Case {
    Case { reason, configuration: "", script }
}

/// A twin at which nobody listens.
const NO_TWIN: &str = "[twin]\naddress = 'grpc://127.0.0.1:1'\n";

const CASES: &[Case] = &[
    case("not_a_compiler", "$F sh -c 'echo out; echo err >&2; exit 3'"),
    case("link", "$F gcc main.c -o main && ./main"),
    case("archive", "gcc -c a.c && ar rcD libx.a a.o && $F ranlib libx.a"),
    case("information", "$F gcc --version"),
    case("information", "$F gcc -print-prog-name=cc1"),
    case("preprocess", "$F gcc -E -P a.c"),
    case("preprocess", "$F gcc -MM a.c"),
    case("standard_input", "$F gcc -c -x c - -o stdin.o < a.c"),
    case("special_output", "$F gcc -c a.c -MD -MF /dev/null"),
    case("special_output", "ln -s /dev/null link.o; $F gcc -c a.c -o link.o"),
    case("several_sources", "cp a.c b.cc; $F gcc -c a.c b.cc"),
    case("unsupported_language", "echo end > a.f90; $F gcc -c a.f90 2>&1"),
    case("probe", "echo 'int x;' > conftest.c; $F gcc -c conftest.c"),
    case("intermediates", "$F gcc -c a.c -save-temps"),
    case("unsupported_flag", "$F gcc -c a.c -MD -MG"),
    case("unsupported_flag", "$F gcc -c a.c --no-such-flag"),
    case("unsupported_environment", "export GCC_COMPARE_DEBUG=-O1; $F gcc -c a.c"),
    case("response_file", "echo @loop > loop; $F gcc -c a.c @loop"),
    case("time_macro", "echo 'const char *d = __TIME__;' > t.c; $F gcc -c -Wdate-time t.c; rm -f t.o"),
    case(
        "not_sure",
        "printf '#define F \"a.h\\\\\"\"\\n__asm__(\".incbin \\\\\"\" F);\\n' > i.c; $F gcc -c i.c",
    ),
    case("not_sure", "mkdir a.h.gch; $F gcc -c a.c; rmdir a.h.gch"),
    case("modules", "printf 'export module m;\\n' > m.cc; $F clang++ -std=c++20 -c m.cc"),
    case("modules", "printf 'import <x>;\\n' > m.cc; $F g++ -std=c++20 -fmodules-ts -c m.cc"),
    case(
        "wrapper_script",
        "mkdir bin; printf '#!/bin/sh\\nexec gcc $X \"$@\"\\n' > bin/gcc; chmod +x bin/gcc; $F bin/gcc -c a.c",
    ),
    case("toolchain_probe", "ln -s /bin/true cc; $F ./cc -c a.c"),
    case("input_missing", "echo '#include \"nowhere.h\"' > m.c; $F gcc -c m.c"),
    case("input_unreadable", "ln -s round.h round.h; echo '#include \"round.h\"' > r.c; $F gcc -c r.c"),
    case("system_path", "H=$PWD; cd /usr && $F gcc -c \"$H/a.c\" -o \"$H/s.o\""),
    case("unsupported_name", "N=$(printf 'n\\377.c'); cp a.c \"$N\"; $F gcc -c \"$N\" -o n.o"),
    Case {
        reason: "route",
        configuration: "[[route]]\nmatch = '-DHERE\\b'\nto = 'local'\n",
        script: "$F gcc -DHERE -c a.c",
    },
    Case { reason: "configuration", configuration: "[remote]\nadress = 'x'\n", script: "$F gcc -c a.c" },
    case("no_remote", "$F gcc -DNEW -c a.c"),
    Case {
        reason: "remote_unavailable",
        configuration: "[remote]\naddress = 'grpc://127.0.0.1:1'\n",
        script: "$F gcc -DGONE -c a.c",
    },
    Case {
        reason: "toolchain_not_shared",
        configuration: "[remote]\naddress = 'grpc://127.0.0.1:1'\n",
        // A compiler that changed a moment ago is not asked about itself: its stat proves nothing yet.
        script: "cp \"$(readlink -f /usr/bin/clang)\" clang; sleep 1.5; $F ./clang -c a.c",
    },
    Case {
        reason: "big_link",
        configuration: "[remote]\naddress = 'grpc://127.0.0.1:1'\n[link]\nlocal_above = '1 kB'\n",
        script: "gcc -c main.c && $F gcc main.o -o main && ./main",
    },
    Case { reason: "stays_here", configuration: NO_TWIN, script: "mkdir .git; $F touch made" },
    Case {
        reason: "outside_workspace",
        configuration: NO_TWIN,
        script: "mkdir .git; $F /usr/bin/python3 -c pass /etc/hostname",
    },
    Case {
        reason: "twin_unavailable",
        configuration: NO_TWIN,
        script: "mkdir .git; $F /usr/bin/python3 -c pass",
    },
    Case {
        reason: "store",
        configuration: "[cache]\ndir = '/proc/no/such/store'\n",
        script: "$F gcc -c a.c",
    },
];

fn write_sources(space: &TestSpace) {
    let _ = std::fs::remove_dir_all(space.workspace().join("w"));
    space.write("w/a.h", "#define A 1\n");
    space.write("w/a.c", "#include \"a.h\"\nint a(void) { return A; }\n");
    space.write("w/main.c", "int main(void) { return 0; }\n");
}

/// What a directory holds: each file's bytes, each symlink's target.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let bytes = match std::fs::read_link(&path) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) => std::fs::read(&path).unwrap_or_default(),
            };
            (path, bytes)
        })
        .collect()
}

/// Runs a script plainly and through farcc, each in a fresh workspace, and compares all that it does.
fn assert_same(space: &TestSpace, script: &str) {
    let run = |launcher: &str| -> (Finished, BTreeMap<PathBuf, Vec<u8>>) {
        write_sources(space);
        let finished = space.sh("w", &format!("F={launcher}; {script}"));
        (finished, content(&space.workspace().join("w")))
    };
    let (plain, plain_files) = run("");
    let (launched, files) = run("farcc");
    assert_eq!(launched.status, plain.status, "{script}: {launched}");
    assert_eq!(launched.stdout_text(), plain.stdout_text(), "{script}");
    assert_eq!(launched.stderr_text(), plain.stderr_text(), "{script}");
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&files), names(&plain_files), "{script}");
    let differs = files.iter().filter(|(path, bytes)| plain_files[*path] != **bytes).map(|(path, _)| path);
    assert_eq!(differs.collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "{script}");
}

#[test]
fn each_reason_of_a_command_line() {
    prerequisites::require(&["gcc", "clang"]);
    let space = TestSpace::new("reasons");
    for Case { reason, configuration, script } in CASES {
        space.configure(configuration);
        let before = space.stats().reason(reason);
        assert_same(&space, script);
        let stats = space.stats();
        assert!(stats.reason(reason) > before, "{script}: expected {reason}, counted {stats:?}");
    }
}

/// What a cluster does to a compile of `a.c`, with the reason that comes of it.
fn with_cluster(reason: &str, cluster: &FakeReapi) {
    let space = TestSpace::new("reasons-remote");
    space.configure(&format!("[remote]\naddress = '{}'\n", cluster.address()));
    assert_same(&space, "$F gcc -MD -c a.c");
    let stats = space.stats();
    assert_eq!(stats.reason(reason), 1, "{stats:?}");
    assert_eq!(stats.verdict("executed_local"), 1, "{stats:?}");
    assert_eq!(cluster.calls(Rpc::Execute), 1);
}

#[test]
fn remote_failed() {
    let cluster = FakeReapi::new().execute(|_, _, _| {
        let mut result = succeed(Vec::new());
        result.exit_code = 1;
        result
    });
    with_cluster("remote_failed", &cluster.start());
}

#[test]
fn remote_error() {
    with_cluster("remote_error", &FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start());
    let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    cluster.fail_next(Rpc::Execute, 1, Code::InvalidArgument);
    with_cluster("remote_error", &cluster);
}

/// The copy of the command whose results differ.
fn copy(space: &TestSpace) -> PathBuf {
    let mut copies = std::fs::read_dir(space.farcc_dir().join("state/verify")).unwrap();
    copies.next().unwrap().unwrap().path()
}

/// Where a copy has the directory in which the command ran, among `expected`, `here` or `inputs`.
fn below(space: &TestSpace, copy: &Path, name: &str) -> PathBuf {
    copy.join(name).join(space.workspace().strip_prefix("/").unwrap()).join("w")
}

/// What `[exec] verify` finds: a cluster that gives back something else than what is made here.
#[test]
fn verify_differs() {
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c a.h\n", false),
            inputs.output_file("a.o", b"made of something else", false),
        ])
    });
    let cluster = cluster.start();
    let space = TestSpace::new("verify");
    space.configure(&format!("[remote]\naddress = '{}'\n[exec]\nverify = 1.0\n", cluster.address()));
    assert_same(&space, "$F gcc -MD -c a.c");
    let stats = space.stats();
    assert_eq!((stats.reason("verify_differs"), stats.verdict("executed_local")), (1, 1), "{stats:?}");
    let copy = copy(&space);
    let mode = std::fs::metadata(copy.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the script holds the environment");
    let below = |name: &str| below(&space, &copy, name);
    assert_eq!(std::fs::read(below("expected").join("a.o")).unwrap(), b"made of something else");
    assert!(below("here").join("a.o").exists() && below("inputs").join("a.h").exists());
    std::fs::remove_file(space.workspace().join("w/a.o")).unwrap();
    space.run("", &[copy.join("command.sh").to_str().unwrap()]).success();
    let here = std::fs::read(below("here").join("a.o")).unwrap();
    assert!(std::fs::read(space.workspace().join("w/a.o")).unwrap() == here);
    // Nothing is kept of either: the cluster is asked again.
    space.configure(&format!("[remote]\naddress = '{}'\n", cluster.address()));
    space.reset_stats();
    space.sh("w", "farcc gcc -MD -c a.c").success();
    assert_eq!(space.stats().verdict("hit_local"), 0);
}

/// What fails here is no result either, whoever else had one.
#[test]
fn verify_differs_by_failing() {
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c\n", false),
            inputs.output_file("a.o", b"made of nothing", false),
        ])
    });
    let cluster = cluster.start();
    let space = TestSpace::new("verify-fails");
    space.configure(&format!("[remote]\naddress = '{}'\n[exec]\nverify = 1.0\n", cluster.address()));
    space.write("w/a.c", "#error not here\n");
    let failed = space.sh("w", "farcc gcc -MD -c a.c");
    assert_eq!(failed.status, 1, "{failed}");
    // The launcher of a command that failed does not wait until it is counted.
    wait_until("the count", 10, || space.stats().reason("verify_differs") == 1);
    let copy = copy(&space);
    let below = |name: &str| below(&space, &copy, name);
    assert!(below("expected").join("a.o").exists() && !below("here").join("a.o").exists());
}

/// A result that appends rules is not made once more to compare: the compiler would append them again.
#[test]
fn verify_leaves_appended_rules_alone() {
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file(".farcc-appended-rules.d", b"a.o: a.c\n", false),
            inputs.output_file("a.o", b"an object", false),
        ])
    });
    let cluster = cluster.start();
    let space = TestSpace::new("verify-appended");
    space.configure(&format!("[remote]\naddress = '{}'\n[exec]\nverify = 1.0\n", cluster.address()));
    space.write("w/a.c", "int x;\n");
    for _ in 0..2 {
        space.sh("w", "DEPENDENCIES_OUTPUT=rules.d farcc gcc -c a.c").success();
    }
    let rules = std::fs::read_to_string(space.workspace().join("w/rules.d")).unwrap();
    assert_eq!(rules, "a.o: a.c\na.o: a.c\n", "{:?}", space.stats());
}

#[test]
fn verify() {
    let space = TestSpace::new("verify-equal");
    space.configure("");
    write_sources(&space);
    space.sh("w", "farcc gcc -MD -c a.c").success();
    space.configure("[exec]\nverify = 1.0\n");
    space.reset_stats();
    assert_same(&space, "$F gcc -MD -c a.c");
    let stats = space.stats();
    assert_eq!((stats.reason("verify"), stats.hits()), (1, 0), "{stats:?}");
    space.configure("");
    space.reset_stats();
    assert_same(&space, "$F gcc -MD -c a.c");
    assert_eq!(space.stats().verdict("hit_local"), 1, "what was compared stays");
}

#[test]
fn depfile_disagrees() {
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c a.h /usr/include/stdio.h\n", false),
            inputs.output_file("a.o", b"made of something else", false),
        ])
    });
    with_cluster("depfile_disagrees", &cluster.start());
}

#[test]
fn input_changed() {
    let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    let space = TestSpace::new("input-changed");
    space.configure_remote(&cluster.host_and_port());
    write_sources(&space);
    // Scanned before, read for the upload afterwards.
    cluster.delay(Rpc::GetActionResult, Duration::from_secs(2));
    std::thread::scope(|scope| {
        let compile = scope.spawn(|| space.sh("w", "farcc gcc -c a.c").success());
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while cluster.calls(Rpc::GetActionResult) == 0 {
            assert!(std::time::Instant::now() < patience, "the cluster is not asked");
            std::thread::sleep(Duration::from_millis(10));
        }
        space.write("w/a.h", "#define A 2\n");
        compile.join().unwrap();
    });
    let stats = space.stats();
    assert_eq!(stats.reason("input_changed"), 1, "{stats:?}");
    assert_eq!(cluster.calls(Rpc::Execute), 0);
    let object = std::fs::read(space.workspace().join("w/a.o")).unwrap();
    space.sh("w", "gcc -c a.c").success();
    assert!(object == std::fs::read(space.workspace().join("w/a.o")).unwrap());
    // Nothing was kept of it, under either header.
    for value in [1, 2] {
        space.write("w/a.h", format!("#define A {value}\n"));
        space.sh("w", "FARCC_EXEC_STRATEGY=local farcc gcc -c a.c").success();
        assert_eq!(space.stats().hits(), 0);
    }
}

#[test]
fn draining() {
    let cluster = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    let space = TestSpace::new("draining");
    space.configure(&format!("[remote]\naddress = '{}'\n", cluster.address()));
    write_sources(&space);
    space.start_daemon();
    cluster.delay(Rpc::Execute, Duration::from_secs(3));
    let stats = std::thread::scope(|scope| {
        let compile = scope.spawn(|| space.sh("w", "farcc gcc -c a.c"));
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while cluster.calls(Rpc::Execute) == 0 {
            assert!(
                std::time::Instant::now() < patience,
                "nothing is executed: {}",
                space.farccd(&["stats"]).stdout_text()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        // Connected before the daemon began to drain, asked afterwards.
        let mut waiting = connect(&space);
        let stop = scope.spawn(|| space.farccd(&["stop", "--drain"]).success());
        std::thread::sleep(Duration::from_millis(500));
        waiting.send(&Frame::Request(Request::Run(request(farcc::wire::VERSION)))).unwrap();
        let Frame::Reply(Reply::Refused { message }) = waiting.receive().unwrap() else {
            panic!("not refused")
        };
        assert!(message.contains("draining"), "{message}");
        drop(waiting);
        stop.join().unwrap();
        compile.join().unwrap().success();
        space.stats()
    });
    assert_eq!(stats.reason("draining"), 1, "{stats:?}");
    assert!(space.workspace().join("w/a.o").is_file());
}

#[test]
fn version_skew() {
    let space = TestSpace::new("version-skew");
    space.configure("");
    space.start_daemon();
    let mut link = connect(&space);
    link.send(&Frame::Request(Request::Run(request("0.0.0-other")))).unwrap();
    let Frame::Reply(Reply::Refused { message }) = link.receive().unwrap() else { panic!("not refused") };
    assert!(message.contains("0.0.0-other"), "{message}");
    assert_eq!(space.stats().reason("version_skew"), 1);
}

fn connect(space: &TestSpace) -> farcc::link::Link {
    let farcc_dir = space.farcc_dir().into_os_string();
    let places = farcc::places::Places::from_env(&|name| (name == "FARCC_DIR").then(|| farcc_dir.clone()));
    farcc::link::Link::new(farcc::places::connect(&places).unwrap())
}

fn request(version: &str) -> RunRequest {
    RunRequest {
        version: version.to_owned(),
        program: "/usr/bin/gcc".into(),
        argv: vec!["gcc".into(), "-c".into(), "a.c".into()],
        cwd: "/".into(),
        env: Vec::new(),
        umask: 0o022,
        stdin_is_terminal: false,
        stdin_is_fed: false,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
    }
}

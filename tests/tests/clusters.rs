//! What a user configures of a cluster, from the configuration file to the cluster: strategies, digest functions,
//! properties, credentials, and what `farccd doctor` says of it.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use serde_json::Value;

/// A unit whose compile needs its header.
fn write_unit(space: &TestSpace) {
    space.write("a.h", "#define A 1\n");
    space.write("a.c", "#include \"a.h\"\nint a = A;\n");
}

/// Compiles the unit through farcc; the object.
fn compile(space: &TestSpace) -> Vec<u8> {
    let object = space.workspace().join("a.o");
    let _ = std::fs::remove_file(&object);
    space.sh("", "farcc gcc -O2 -c a.c").success();
    std::fs::read(object).unwrap()
}

/// Both by the user's choice and by the cluster's nature: the results of one machine are another's hits.
#[test]
fn a_cluster_that_only_caches_shares_what_was_compiled_here() {
    let executing = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    let caching = FakeReapi::new().start();
    for (cluster, exec) in [(&executing, "strategy = 'cache_only'\nroot = 'relative'"), (&caching, "")] {
        let space = TestSpace::new("caching");
        write_unit(&space);
        space.configure(&format!("[remote]\naddress = '{}'\n[exec]\n{exec}\n", cluster.address()));
        let object = compile(&space);
        assert_eq!(space.stats().reason("cache_only"), 1, "{}", space.stats().0);
        wait_until("the result in the cluster's cache", 20, || cluster.calls(Rpc::UpdateActionResult) == 1);
        space.stop_daemon();
        space.empty_farcc_dir();
        assert_eq!(compile(&space), object);
        assert_eq!(space.stats().verdict("hit_remote"), 1, "{exec}: {}", space.stats().0);
        assert_eq!(cluster.calls(Rpc::Execute), 0);

        // Who may only read leaves nothing there.
        space.sh("", "FARCC_EXEC_UPLOAD_LOCAL_RESULTS=false farcc gcc -O1 -c a.c").success();
        space.stop_daemon();
        assert_eq!(cluster.calls(Rpc::UpdateActionResult), 1);
    }
}

#[test]
fn a_compile_runs_in_every_digest_function() {
    for function in ["sha256", "blake3", "sha1"] {
        let space = TestSpace::new(function);
        let cluster = ServeProcess::start(&space, "cluster");
        write_unit(&space);
        let address = cluster.address();
        space.configure(&format!("[remote]\naddress = 'grpc://{address}'\ndigest_function = '{function}'\n"));
        space.sh("", "gcc -O2 -c a.c -o plain.o").success();
        let plain = std::fs::read(space.workspace().join("plain.o")).unwrap();
        assert!(compile(&space) == plain);
        assert_eq!(space.stats().verdict("executed_remote"), 1, "{function}: {}", space.stats().0);
        // What is kept here does not depend on the cluster's function.
        space.sh("", "FARCC_REMOTE_ADDRESS= farcc gcc -O2 -c a.c").success();
        assert_eq!(space.stats().verdict("hit_local"), 1, "{function}: {}", space.stats().0);
        space.stop_daemon();
        space.empty_farcc_dir();
        assert!(compile(&space) == plain);
        assert_eq!(space.stats().verdict("hit_remote"), 1, "{function}: {}", space.stats().0);
    }
}

#[test]
fn properties_reach_the_action() {
    let space = TestSpace::new("properties");
    write_unit(&space);
    space.configure(
        "[platform]\nOS = 'linux'\nPool = 'any'\n[platform.compile]\nPool = 'small'\n[platform.link]\nOS = 'no'\n\
         [[route]]\nmatch = '-O3'\nto = 'remote'\nplatform = { Pool = 'big' }\n",
    );
    for (flag, pool) in [("-O2", "small"), ("-O3", "big")] {
        let shown = space.farccd(&["action", "--", "gcc", flag, "-c", "a.c"]).success();
        let action: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(action["platform"], serde_json::json!({ "OS": "linux", "Pool": pool }), "{flag}");
    }
}

/// Every file below `directory`.
fn texts(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(texts(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}

#[test]
fn a_secret_is_sent_and_written_nowhere() {
    const SECRET: &str = "hush-7f3a91";
    let cluster = FakeReapi::new().require_header("x-api-key", SECRET).start();
    let space = TestSpace::new("secret");
    write_unit(&space);
    space.configure(&format!(
        "[remote]\naddress = '{}'\nheaders = {{ x-api-key = '$KEY' }}\n",
        cluster.address()
    ));
    let with_key = |script: &str| space.sh("", &format!("export KEY={SECRET} FARCC_LOG=trace; {script}"));
    with_key("farcc gcc -c a.c").success();
    wait_until("the result in the cluster's cache", 20, || cluster.calls(Rpc::UpdateActionResult) == 1);
    let shown = with_key("farccd config; farccd config --json; farccd doctor; farccd action -- gcc -c a.c");
    assert!(shown.stdout_text().contains("x-api-key"), "{shown}");
    assert!(!shown.stdout_text().contains(SECRET) && !shown.stderr_text().contains(SECRET), "{shown}");
    space.stop_daemon();
    let texts = texts(&space.farcc_dir());
    assert!(texts.iter().any(|(name, text)| name.ends_with(".log") && !text.is_empty()));
    for (name, text) in texts {
        assert!(!text.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{name}");
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let space = TestSpace::new("doctor");
    let well = |toml: &str, found: &str| {
        space.configure(toml);
        let finished = space.farccd(&["doctor"]);
        assert_eq!(finished.status, 0, "{finished}");
        assert!(finished.stdout_text().contains(found), "{finished}");
    };
    well("", "none is configured");
    let cluster = ServeProcess::start(&space, "cluster");
    let remote = format!("[remote]\naddress = 'grpc://{}'\n", cluster.address());
    well(&remote, "a trial action ran on worker");
    well(&format!("{remote}digest_function = 'blake3'\n"), "blake3 digests, zstd");
    assert_eq!(cluster.executions(), 2);

    let locked = FakeReapi::new().require_header("x-api-key", "k").start();
    let unable = FakeReapi::new().execute(|_, _, _| succeed(Vec::new())).start();
    for (toml, subject, found, remedy) in [
        ("[remote]\nadress = 'x'\n".to_owned(), "configuration", "adress", "mend it"),
        ("[cache]\ndir = '/proc/none'\n".to_owned(), "store", "/proc/none", "[cache] dir"),
        ("[remote]\naddress = 'grpc://127.0.0.1:1'\n".to_owned(), "cluster", "refused", "address"),
        (format!("[remote]\naddress = '{}'\n", locked.address()), "cluster", "UNAUTHENTICATED", "headers"),
        (
            format!("[remote]\naddress = '{}'\ndigest_function = 'sha1'\n", unable.address()),
            "cluster",
            "sha1",
            "otherwise",
        ),
    ] {
        space.configure(&toml);
        let finished = space.farccd(&["doctor", "--json"]);
        assert_eq!(finished.status, 1, "{toml}: {finished}");
        let findings: Value = serde_json::from_slice(&finished.stdout).unwrap();
        let failed = findings.as_array().unwrap().iter().find(|finding| finding["ok"] == false).unwrap();
        assert_eq!(failed["subject"], subject, "{failed}");
        assert!(failed["found"].as_str().unwrap().contains(found), "{failed}");
        assert!(failed["remedy"].as_str().unwrap().contains(remedy), "{failed}");
    }
}

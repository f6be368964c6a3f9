//! Whole builds with a cluster and a twin beside it: compiles and links go to the one, all other commands to the other, and what
//! the cluster has made does not pass through the workstation on its way to the twin.
//! Workstation, cluster and twin do not see each other's files.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use farcc_tests::binaries::repository;
use farcc_tests::generators;
use farcc_tests::generators::COMPILES;
use farcc_tests::generators::CUSTOM_COMMANDS;
use farcc_tests::generators::LINKS;
use farcc_tests::generators::OUTPUT;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use serde_json::Value;

fn twin_status(space: &TestSpace) -> Value {
    let text = space.farccd(&["twin", "status", "--json"]).success().stdout_text();
    let status: Value = serde_json::from_str(&text).unwrap();
    let workspaces = status["workspaces"].as_array().unwrap();
    assert_eq!(workspaces.len(), 1, "{status}");
    workspaces[0].clone()
}

fn farcc_cmake() -> String {
    repository().join("cmake/Farcc.cmake").display().to_string()
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn generators_and_tests_of_a_cmake_project_run_on_the_twin() {
    for generator in ["Ninja", "Unix Makefiles"] {
        let space = TestSpace::new("twin-cmake");
        let cluster = ServeProcess::start(&space, "cluster");
        let cas = format!("grpc://{}", cluster.address());
        let twin = ServeProcess::twin(&space, "twin", &["--cas", &cas]);
        let (cluster, twin) = (cluster.address(), twin.address());
        space.configure(&format!(
            "[remote]\naddress = \"grpc://{cluster}\"\n[twin]\naddress = \"grpc://{twin}\"\n"
        ));
        generators::lay(&space, 0);
        space.start_daemon();
        let include = format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", farcc_cmake());
        let launcher = format!("-DFARCC_LAUNCHER={}", space.binaries().farcc.display());
        let configure = ["cmake", "-S", ".", "-B", "build", "-G", generator, &include, &launcher];
        space.run("", &configure).success();
        space.reset_stats();
        space.run("", &["cmake", "--build", "build", "-j4"]).success();
        let stats = space.stats();
        let explained = || format!("{generator}: {stats:?}");
        assert_eq!(stats.verdict("twin"), CUSTOM_COMMANDS, "{}", explained());
        assert_eq!(stats.of_kind("compile", "executed_remote"), COMPILES, "{}", explained());
        let linked = ["link", "archive"].map(|kind| stats.of_kind(kind, "executed_remote"));
        assert_eq!(linked.iter().sum::<u64>(), LINKS, "{}", explained());
        let main = space.run("build", &["./main"]).success().stdout_text();
        assert_eq!(main, OUTPUT);

        // The program that the cluster made was run by the twin, and it came from the cluster.
        let status = twin_status(&space);
        let count = |name: &str| status[name].as_u64().unwrap();
        let made = size_of(&space.workspace().join("build/tables"));
        assert!(count("fetched_bytes") >= made, "{status}");
        assert!(
            count("received_bytes") < made,
            "{status}: the workstation sent what the cluster had, {made} bytes"
        );

        // Nothing is left to do.
        let before = space.stats().commands();
        let again = space.run("", &["cmake", "--build", "build", "-j4"]).success();
        assert_eq!(space.stats().commands(), before, "{generator}: {again}");
        // One edit, and only what depends on it is done again.
        space.write("words.txt", "one two three four\n");
        space.run("", &["cmake", "--build", "build", "-j4"]).success();
        assert_eq!(space.run("build", &["./main"]).success().stdout_text(), format!("{OUTPUT}four 9\n"));
        // CMake's Makefiles make what two targets need once for each.
        let again = space.stats().verdict("twin") - CUSTOM_COMMANDS;
        assert!(matches!(again, 2 | 3), "{:?}", space.stats());

        // All tests as one command.
        let twin_before = space.stats().verdict("twin");
        let tests = space.run("build", &["farcc", "ctest", "--output-on-failure"]).success();
        assert!(tests.stdout_text().contains("100% tests passed"), "{tests}");
        assert_eq!(space.stats().verdict("twin"), twin_before + 1, "{:?}", space.stats());
        assert!(space.workspace().join("build/Testing/Temporary/LastTest.log").exists());
    }
}

#[test]
fn recipes_of_a_make_project_run_on_the_twin() {
    let space = TestSpace::new("twin-make");
    let twin = ServeProcess::twin(&space, "twin", &[]);
    space.configure(&format!("[twin]\naddress = \"grpc://{}\"\n", twin.address()));
    std::fs::create_dir(space.workspace().join(".git")).unwrap();
    generators::lay(&space, 0);
    space.start_daemon();
    space.farccd(&["install-links", "links"]).success();
    space.write(
        "Makefile",
        "CC = farcc gcc
VERSION := $(shell echo 7)
all: main report
words.h: words.c
words.c: words.py words.txt
\t/usr/bin/python3 words.py words.txt words.c words.h
words.o: words.c words.h
\t$(CC) -c words.c -o words.o
main: words.o
\t$(CC) -shared words.o -o main
report: main
\t/usr/bin/python3 -c 'import sys; open(\"report\", \"w\").write(sys.argv[1])' version-$(VERSION)
\t@test -s report && echo done
",
    );
    let shell = format!("SHELL={}", space.workspace().join("links/shell/sh").display());
    let make = ["make", "-j2", &shell];
    let first = space.run("", &make).success();
    assert!(first.stdout_text().ends_with("done\n"), "{first}");
    assert_eq!(std::fs::read_to_string(space.workspace().join("report")).unwrap(), "version-7");
    assert_eq!(space.stats().verdict("twin"), 2, "{:?}", space.stats());
    let again = space.run("", &make).success();
    assert!(again.stdout_text().contains("Nothing to be done"), "{again}");
}

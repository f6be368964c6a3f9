//! How the launcher starts: a hit is over before there is a dynamic loader, and all else finds the process as usual.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use farcc_tests::binaries::repository;
use farcc_tests::copy_program;
use farcc_tests::full_tier;
use farcc_tests::prerequisites;
use farcc_tests::skipped;
use farcc_tests::space;
use farcc_tests::space::TestSpace;

#[test]
fn a_hit_ends_before_the_c_library_is_made_ready() {
    prerequisites::require(&["gcc", "strace"]);
    let space = TestSpace::new("few-calls");
    space.configure("");
    space.write("a.c", "int a;\n");
    let compile = ["farcc", "gcc", "-c", "a.c"];
    (0..2).for_each(|_| drop(space.run("", &compile).success()));
    space.run("", &[&["strace", "-o", "calls"], &compile[..]].concat()).success();
    let calls = std::fs::read_to_string(space.workspace().join("calls")).unwrap();
    let names: Vec<_> = calls.lines().filter_map(|line| line.split('(').next()).collect();
    assert_eq!(space.stats().hits(), 2, "{calls}");
    if !cfg!(target_arch = "x86_64") {
        println!("SKIPPED: the launcher is entered by the dynamic loader here");
        return;
    }
    // Neither loader, memory nor thread-local storage was asked for.
    assert!(!calls.contains("ld-linux"), "{calls}");
    assert!(!names.iter().any(|name| ["brk", "mmap", "arch_prctl"].contains(name)), "{calls}");
    assert!(names.len() <= 40, "{} calls: {calls}", names.len());
}

#[test]
fn where_the_dynamic_loader_is_missing_the_launcher_says_so() {
    prerequisites::require(&["unshare"]);
    if !cfg!(target_arch = "x86_64") {
        println!("SKIPPED: the kernel brings in the dynamic loader here");
        return;
    }
    let space = TestSpace::new("no-loader");
    copy_program(&space.binaries().farcc, &space.workspace().join("farcc"));
    let finished = space.sh("", "unshare --user --map-root-user chroot . /farcc /bin/true");
    assert_eq!((finished.status, finished.stdout_text()), (127, String::new()));
    let said = finished.stderr_text();
    assert!(
        said.starts_with("farcc: failed to load /") && said.ends_with(": No such file or directory\n"),
        "{said}"
    );
}

#[test]
fn whoever_starts_the_loader_gets_the_launcher() {
    prerequisites::require(&["gcc", "prlimit"]);
    let loader = std::path::Path::new("/lib64/ld-linux-x86-64.so.2");
    if !cfg!(target_arch = "x86_64") || !loader.exists() {
        return skipped("the launcher by its loader", "there is none for x86-64");
    }
    let space = TestSpace::new("by-loader");
    space.configure("");
    space.write("a.c", "int a;\n");
    let by_loader = |words: &str| {
        let launcher = space.binaries().farcc.display().to_string();
        space.sh("", &format!("{} {launcher} {words}", loader.display()))
    };
    let asked = by_loader("sh -c 'echo works; exit 3'");
    assert_eq!((asked.status, asked.stdout_text().as_str()), (3, "works\n"), "{asked}");
    (0..2).for_each(|_| drop(by_loader("gcc -c a.c").success()));
    assert_eq!(space.stats().hits(), 1);
    // On a small stack.
    for _ in 0..10 {
        assert_eq!(space.sh("", "prlimit --stack=65536 farcc sh -c 'exit 3'").status, 3);
    }
}

#[test]
fn whichever_linker_links_it_the_launcher_works() {
    if !full_tier() || !cfg!(target_arch = "x86_64") {
        return skipped("launchers by other linkers", "set FARCC_TESTS=full");
    }
    prerequisites::require(&["gcc", "ld.bfd", "mold"]);
    let space = TestSpace::new("linkers");
    space.configure("");
    space.write("a.c", "int a;\n");
    let target = space.workspace().join("target");
    for (linker, is_quick) in [("bfd", true), ("gold", false), ("mold", true)] {
        if prerequisites::find_program(&format!("ld.{linker}")).is_none() {
            skipped(linker, "it is no longer part of binutils");
            continue;
        }
        let flags = format!("-Clinker-features=-lld -Clink-arg=-fuse-ld={linker}");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "farcc", "--target-dir"]).arg(&target);
        let built = space::run(cargo.env("RUSTFLAGS", flags).current_dir(repository())).success();
        let launcher = target.join("debug/farcc").display().to_string();
        let is_entered = std::fs::read(&launcher).unwrap().windows(12).any(|bytes| bytes == b"farcc_entry\0");
        assert_eq!(is_entered, is_quick, "{linker}: {built}");
        let compile = [&launcher, "gcc", "-c", "a.c"];
        space.run("", &compile).success();
        let before = space.stats().hits();
        space.run("", &compile).success();
        assert_eq!(space.stats().hits(), before + 1, "{linker}");
        let asked = space.run("", &[&launcher, "sh", "-c", "echo works; exit 3"]);
        assert_eq!((asked.status, asked.stdout_text().as_str()), (3, "works\n"), "{linker}");
    }
}

//! Links and archives beyond what one command shows: what is not sent again, what changes meanwhile, what waits for memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use farcc_tests::plain_worker;
use farcc_tests::plain_worker::Abilities;
use farcc_tests::plain_worker::plain_worker;
use farcc_tests::prerequisites;
use farcc_tests::skipped;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use farccd::digest::Digest;

/// A linker that says when it begins, waits for leave, and is GNU ld otherwise.
const SLOW_LINKER: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    const char *output = "a.out";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--version") || !strcmp(argv[i], "--verbose") || !strcmp(argv[i], "--help")
            || !strcmp(argv[i], "--print-sysroot")) goto run;
        if (!strcmp(argv[i], "-o")) output = argv[i + 1];
    }
    char name[4096];
    snprintf(name, sizeof name, "%s.began", output);
    fclose(fopen(name, "w"));
    snprintf(name, sizeof name, "%s.may-go-on", output);
    while (access(name, F_OK)) usleep(1000);
run:
    execv("/usr/bin/ld.bfd", argv);
    return 127;
}
"#;

/// A space whose links go by way of the slow linker.
fn slow_space(name: &str) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.write("ld.c", SLOW_LINKER);
    space.write("main.c", "int f(void);\nint main(void) { return f(); }\n");
    space.write("f.c", "int f(void) { return 1; }\n");
    space.sh("", "mkdir tools && gcc ld.c -o tools/ld && gcc -c main.c f.c && ar rcsD libf.a f.o").success();
    // A program that changed a moment ago is not asked about itself.
    std::thread::sleep(Duration::from_millis(1200));
    space
}

fn link(space: &TestSpace, output: &str) -> Child {
    let mut launcher = space.command("farcc");
    launcher.args(["gcc", "-Btools/", "main.o", "-L.", "-lf", "-o", output]);
    launcher.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn has_begun(space: &TestSpace, output: &str) -> bool {
    space.workspace().join(format!("{output}.began")).exists()
}

fn go_on(space: &TestSpace, output: &str) {
    space.write(&format!("{output}.may-go-on"), "");
}

fn finish(launcher: Child) {
    let output = launcher.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_library_that_changes_while_it_is_linked_is_no_result() {
    let space = slow_space("links-changing");
    space.configure("");
    let launcher = link(&space, "app");
    wait_until("the linker", 30, || has_begun(&space, "app"));
    space.write("f.c", "int f(void) { return 2; }\n");
    space.sh("", "gcc -c f.c && rm libf.a && ar rcsD libf.a f.o").success();
    go_on(&space, "app");
    finish(launcher);
    assert_eq!(space.sh("", "./app").status, 2);
    wait_until("the count", 10, || space.stats().commands() == 1);
    assert_eq!(space.stats().reason("input_changed"), 1, "{}", space.stats().0);

    // What is there now is linked anew, and is a result.
    space.reset_stats();
    finish(link(&space, "app"));
    wait_until("the count", 10, || space.stats().commands() == 1);
    assert_eq!(space.stats().reason("no_remote"), 1, "{}", space.stats().0);
    space.sh("", "rm app").success();
    finish(link(&space, "app"));
    assert_eq!(space.stats().hits(), 1, "{}", space.stats().0);
    assert_eq!(space.sh("", "./app").status, 2);
}

#[test]
fn heavy_links_wait_for_each_other() {
    let space = slow_space("links-heavy");
    space.configure("[exec]\nlocal_jobs = 4\n[link]\nheavy_above = '1 kB'\nheavy_jobs = 1\n");
    let first = link(&space, "first");
    wait_until("the first linker", 30, || has_begun(&space, "first"));
    let second = link(&space, "second");
    std::thread::sleep(Duration::from_millis(700));
    assert!(!has_begun(&space, "second"));
    go_on(&space, "first");
    finish(first);
    wait_until("the second linker", 30, || has_begun(&space, "second"));
    // One that is killed waits for nobody, and nobody for it.
    go_on(&space, "second");
    finish(second);

    // Where none is heavy, both run.
    space.configure("[exec]\nlocal_jobs = 4\nsalt = 'light'\n[link]\nheavy_above = '0 B'\nheavy_jobs = 1\n");
    let (third, fourth) = (link(&space, "third"), link(&space, "fourth"));
    wait_until("both linkers", 30, || has_begun(&space, "third") && has_begun(&space, "fourth"));
    for (launcher, output) in [(third, "third"), (fourth, "fourth")] {
        go_on(&space, output);
        finish(launcher);
    }
}

fn digest(path: &Path) -> Digest {
    Digest::of(&std::fs::read(path).unwrap())
}

#[test]
fn what_the_cluster_has_made_is_neither_sent_nor_asked_for() {
    let abilities = Abilities { namespaces: true, property: false };
    if !plain_worker::can_be_had() {
        skipped("workers that do not change their root directory", "only root can make them");
        return;
    }
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("links-not-sent").with_exec_root("wrapper");
    let cluster = plain_worker(&space, abilities).start();
    space.configure_remote(&cluster.host_and_port());
    space.write("main.c", "int f(void);\nint main(void) { return f() - 1; }\n");
    space.write("f.c", "int f(void) { return 1; }\n");
    space.sh("", "farcc gcc -c main.c && farcc gcc -c f.c && farcc ar rcs libf.a f.o").success();
    space.sh("", "farcc gcc main.o -L. -lf -o app && ./app").success();
    let stats = space.stats();
    assert_eq!(stats.verdict("executed_remote"), 4, "{}", stats.0);
    for made in ["main.o", "f.o", "libf.a"] {
        let digest = digest(&space.workspace().join(made));
        assert!(!cluster.asked().contains(&digest), "{made} was asked for");
        assert_eq!(cluster.times_stored(&digest), 0, "{made} was sent");
    }
}

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
use farcc_tests::serve_process::ServeProcess;
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

/// What is linked by `command` is what it makes without farcc, whatever it was before.
#[track_caller]
fn assert_as_plain(space: &TestSpace, command: &str) {
    let content = |launcher: &str| {
        let script = command.replace("$F", launcher);
        let finished = space.sh("", &format!("rm -f app; {script}"));
        (finished.status, std::fs::read(space.workspace().join("app")).ok())
    };
    let plain = content("");
    assert!(content("farcc") == plain, "{command}");
}

#[test]
fn whatever_leads_a_driver_to_another_linker_or_library_is_noticed() {
    prerequisites::require(&["gcc", "clang"]);
    let space = TestSpace::new("links-led");
    space.configure("");
    space.write("main.c", "int main(void) { return 0; }\n");
    space.write("q.c", "int q;\n");
    space.sh("", "gcc -c main.c && mkdir bin lq dir && gcc -shared -fPIC q.c -o lq/libqq.so").success();
    space.sh("", "ln -s /usr/bin/ld.bfd bin/ld; ln -s /usr/bin/ld.bfd dir/ld").success();
    space.sh("", "cp \"$(gcc -print-file-name=liblto_plugin.so)\" p.so; touch x").success();
    // A program that changed a moment ago is not asked about itself.
    std::thread::sleep(Duration::from_millis(1200));
    let commands = [
        "PATH=$PWD/bin:$PATH $F gcc main.o -o app",
        "PATH=$PWD/bin:$PATH $F clang main.o -o app",
        "PATH=$PWD/late:$PATH $F clang main.o -o app",
        "$F gcc -Bdir/ main.o -o app",
        "LIBRARY_PATH=$PWD/lp:$PWD/lq $F gcc main.o -Wl,--no-as-needed -lqq -o app",
        "$F gcc -Wl,-plugin,./p.so main.o -o app",
        "$F gcc --sysroot=$PWD/sr -shared -nostartfiles -nodefaultlibs main.o -L lq -lqq -o app",
    ];
    space.sh("", "mkdir late").success();
    for command in commands {
        assert_as_plain(&space, command);
    }
    space.sh("", "ln -sfn /usr/bin/ld.gold bin/ld; ln -s /usr/bin/ld.gold late/ld").success();
    space
        .sh("", "mkdir -p dir/x86_64-linux-gnu/12; ln -s /usr/bin/ld.gold dir/x86_64-linux-gnu/12/ld")
        .success();
    space.sh("", "mkdir lp; gcc -shared -fPIC q.c -Wl,-soname,other.so -o lp/libqq.so").success();
    space.sh("", "gcc -shared -fPIC q.c -o p.so").success();
    space.sh("", "mkdir -p sr/usr/lib; cp lp/libqq.so sr/usr/lib").success();
    for command in commands {
        assert_as_plain(&space, command);
    }
}

/// By its name, a worker would find the image's own.
#[test]
fn a_linker_that_only_this_machine_takes_is_not_asked_of_workers() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("links-own-linker");
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    space.write("main.c", "int main(void) { return 0; }\n");
    space.sh("", "gcc -c main.c && mkdir bin && ln -s /usr/bin/ld.gold bin/ld").success();
    assert_as_plain(&space, "PATH=$PWD/bin:$PATH $F gcc main.o -o app");
    let stats = space.stats();
    assert_eq!(stats.reason("toolchain_not_shared"), 1, "{}", stats.0);
    assert_as_plain(&space, "$F gcc main.o -o app");
    assert_eq!(space.stats().verdict("executed_remote"), 1, "{}", space.stats().0);
}

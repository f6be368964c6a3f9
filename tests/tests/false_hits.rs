//! Results that must not come from the store: what changed since is seen by the compiler, but by no digest that a
//! careless key would have.
//! Knows nothing of how keys are made: each case compiles, changes something, and compares with a plain compile.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;

/// Makes `a.o` by the compile `line` through farcc, and again by the compiler alone: both must be the same.
/// `variables`: assignments as in a shell, for both.
#[track_caller]
fn check(space: &TestSpace, variables: &str, line: &str, what: &str) {
    let made_by = |launcher: &str| {
        space.sh("", &format!("{variables} {launcher} {line}")).success();
        std::fs::read(space.workspace().join("a.o")).unwrap()
    };
    let launched = made_by("farcc");
    assert!(launched == made_by(""), "{variables} {line}: {what}");
}

/// Lets the clocks of file systems move on, so that the next edit shows.
fn later() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn a_file_that_only_the_assembler_reads_changes() {
    prerequisites::require(&["gcc", "clang"]);
    for compiler in ["gcc", "clang"] {
        let space = TestSpace::new("incbin");
        space.configure("");
        space.write("a.c", "__asm__(\".section .rodata\\n.incbin \\\"blob.bin\\\"\\n\");\nint x;\n");
        for content in ["one", "two", "one"] {
            space.write("blob.bin", content);
            later();
            check(&space, "", &format!("{compiler} -c a.c"), content);
        }
        let stats = space.stats();
        assert_eq!((stats.reason("not_sure"), stats.hits()), (0, 1), "{}", stats.0);
        // One that comes first along the assembler's search path.
        space.sh("", "mkdir -p inc; mv blob.bin inc").success();
        check(&space, "", &format!("{compiler} -Iinc -c a.c"), "along the search path");
        space.write("blob.bin", "nearer");
        check(&space, "", &format!("{compiler} -Iinc -c a.c"), "nearer");
        // By a file that the assembler itself includes.
        space.write("a.S", ".include \"b.inc\"\n");
        space.write("b.inc", ".section .rodata\n.incbin \"blob.bin\"\n");
        for content in ["three", "four"] {
            space.write("blob.bin", content);
            later();
            check(&space, "", &format!("{compiler} -c a.S"), content);
        }
        assert_eq!(space.stats().hits(), 1);
    }
}

#[test]
fn a_header_appears_that_an_unsure_scan_only_asked_for() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("has-include");
    space.configure("");
    // The scanner does not follow an assembler's file, and the compiler's -M lists no header that is asked for.
    space.write(
        "a.c",
        "__asm__(\".incbin \" \"\\\"a.c\\\"\");\n#if __has_include(\"x.h\")\nint x;\n#endif\nint y;\n",
    );
    check(&space, "", "gcc -c a.c", "without the header");
    space.write("x.h", "");
    check(&space, "", "gcc -c a.c", "with the header");
}

#[test]
fn a_directory_of_precompiled_headers_appears() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("gch-directory");
    space.configure("");
    space.write("all.h", "#define B 1\n");
    space.write("other/all.h", "#define B 2\n");
    space.write("a.c", "#include \"all.h\"\nint f(void) { return B; }\n");
    check(&space, "", "gcc -c a.c", "from its text");
    space.sh("", "mkdir all.h.gch && gcc -x c-header other/all.h -o all.h.gch/one.gch").success();
    check(&space, "", "gcc -c a.c", "precompiled from another text");
}

#[test]
fn another_program_cuts_the_debug_information_out() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("objcopy");
    space.configure("");
    space.write("a.c", "int x;\n");
    let line = "gcc -g -gsplit-dwarf -c a.c && cat a.dwo >> a.o";
    check(&space, "", line, "the usual one");
    space.write("bin/objcopy", "#!/bin/sh\nobjcopy=$(PATH=/usr/bin command -v objcopy)\n$objcopy \"$@\" && echo more >> \"$(eval echo \\${$#})\"\n");
    space.sh("", "chmod +x bin/objcopy").success();
    later();
    check(&space, "PATH=$PWD/bin:$PATH;", line, "one that does more");
    check(&space, "", line, "the usual one again");
}

#[test]
fn a_file_from_before_is_no_output() {
    prerequisites::require(&["clang"]);
    let space = TestSpace::new("stale-output");
    space.configure("");
    space.write("a.c", "int x;\n");
    space.write("a.dwo", "stale");
    // Without -g there is none.
    space
        .sh("", "farcc clang -gsplit-dwarf -c a.c && rm a.dwo && farcc clang -gsplit-dwarf -c a.c")
        .success();
    assert!(!space.workspace().join("a.dwo").exists());
    let stats = space.stats();
    assert_eq!((stats.reason("store"), stats.hits()), (1, 0), "{stats:?}");
    space.sh("", "farcc clang -gsplit-dwarf -c a.c").success();
    assert_eq!(space.stats().hits(), 1);
}

#[test]
fn counts_of_a_training_run_change() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("gcda");
    space.configure("");
    space.write("a.c", "int f(int n) { return n > 3 ? n * 2 : n; }\nint main(int argc, char **argv) { int s = 0; for (int i = 0; i < 100 * argc; i++) s += f(i); return s == 0; }\n");
    space.sh("", "mkdir real && ln -s real link && mv a.c real").success();
    let train = "gcc -O2 -frandom-seed=1 -fprofile-generate -c a.c && gcc -fprofile-generate a.o -o a && ./a";
    for (round, arguments) in ["", "1 2 3", ""].into_iter().enumerate() {
        space.sh("real", &format!("{train} {arguments}; mkdir -p o; mv a.gcda \"o/$(pwd | sed s/real$/link/ | tr / '#')#a.gcda\"; rm a a.o")).success();
        later();
        let line = "gcc -O2 -frandom-seed=1 -fprofile-use=o -c a.c && cp a.o ..";
        check(&space, "cd link;", line, &format!("round {round}"));
    }
}

#[test]
fn a_file_that_only_messages_show_changes() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("line");
    space.configure("");
    space.write("a.c", "#line 1 \"grammar.y\"\nint f(int x) { int unused; return x; }\n");
    space.write("a.i", "# 1 \"grammar.y\"\nint f(int x) { int unused; return x; }\n");
    for text in ["int f(int x) { int unused; return x; }\n", "rule: other { int unused; }\n"] {
        space.write("grammar.y", text);
        later();
        for source in ["a.c", "a.i"] {
            let plain = space.sh("", &format!("gcc -Wall -c {source}")).success().stderr_text();
            assert!(plain.contains(text.trim_end()), "{plain}");
            let launched = space.sh("", &format!("FARCC_LOG=off farcc gcc -Wall -c {source}")).success();
            assert_eq!(launched.stderr_text(), plain);
        }
    }
}

#[test]
fn a_time_that_no_variable_fixes_passes() {
    prerequisites::require(&["gcc", "clang"]);
    let space = TestSpace::new("time");
    space.configure("");
    let epoch = "SOURCE_DATE_EPOCH=0";
    // GCC takes date and time from the variable, and the age of the file from the file.
    space.write("a.c", "const char *stamp = __TIMESTAMP__;\n");
    for compiler in ["gcc", "clang"] {
        for time in ["2001-01-01", "2002-02-02"] {
            space.sh("", &format!("touch -d {time} a.c")).success();
            check(&space, epoch, &format!("{compiler} -c a.c"), time);
        }
    }
    space.write("a.c", "const char *now = __DATE__ __TIME__;\n");
    let run = |compiler: &str| {
        space.sh("", &format!("{epoch} farcc {compiler} -c a.c")).success();
        let stats = space.stats();
        (stats.reason("time_macro"), stats.hits())
    };
    space.reset_stats();
    assert_eq!(run("gcc"), (0, 0));
    assert_eq!(run("gcc"), (0, 1));
    let version = space.sh("", "clang -dumpversion").success().stdout_text();
    let major: u32 = version.split('.').next().unwrap().parse().unwrap();
    if major < 16 {
        assert_eq!(run("clang"), (1, 1), "Clang {major} does not know SOURCE_DATE_EPOCH");
    }
}

/// A source over which a compiler sits for about a second.
fn slow_source(name: &str) -> String {
    let function = |n| {
        format!("int {name}{n}(int a) {{ for (int i = 0; i < a; i++) a += i * {n} ^ a >> 3; return a; }}\n")
    };
    (0..600).map(function).collect()
}

/// Starts a compile in the background and waits until the compiler itself has been started.
fn start(space: &TestSpace, source: &str) -> Child {
    let audits = space.farcc_dir().join("state/audit");
    let before = entries(&audits);
    let mut command = space.command("farcc");
    command.args(["gcc", "-O2", "-c", source, "-o", "a.o"]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while entries(&audits) <= before {
        assert!(Instant::now() < deadline, "no compile is handed over");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn an_output_becomes_a_device() {
    for (output, compile) in [("a.o", "gcc -c a.c"), ("a.gcno", "gcc --coverage -c a.c")] {
        let space = TestSpace::new("device");
        space.configure("");
        space.write("a.c", "int a;\n");
        // The third is known to come again.
        (0..3).for_each(|_| drop(space.sh("", &format!("farcc {compile}")).success()));
        assert_eq!(space.stats().hits(), 2);
        let device = format!("rm {output}; ln -s /dev/null {output}; farcc {compile}; test -h {output}");
        space.sh("", &device).success();
        assert_eq!((space.stats().hits(), space.stats().reason("special_output")), (2, 1), "{output}");
        space.sh("", &format!("rm {output}; farcc {compile}; test -s {output}")).success();
        assert_eq!(space.stats().hits(), 3, "{output}");
    }
}

#[test]
fn two_commands_make_one_object_at_the_same_time() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("contested");
    space.configure("");
    for name in ["a", "b"] {
        space.write(&format!("{name}.c"), slow_source(name));
    }
    let mut both = [start(&space, "a.c"), start(&space, "b.c")];
    for child in &mut both {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(space.stats().reason("output_contested"), 2);
    for name in ["a", "b"] {
        check(&space, "", &format!("gcc -O2 -c {name}.c -o a.o"), "after both were made at once");
    }
}

#[test]
fn a_launcher_is_killed_while_its_command_runs() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("abandoned");
    space.configure("");
    space.write("a.c", slow_source("a"));
    let mut child = start(&space, "a.c");
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while space.stats().reason("abandoned") != 1 {
        assert!(Instant::now() < deadline, "the command is never counted: {:?}", space.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    check(&space, "", "gcc -O2 -c a.c -o a.o", "after a killed compile");
    assert_eq!(space.stats().hits(), 0);
}

/// The value that `a.o` holds, by way of a program.
fn value_in_object(space: &TestSpace) -> i32 {
    space.sh("", "gcc main.c a.o -o main").success();
    space.run("", &["./main"]).status
}

fn write_values(space: &TestSpace) {
    space.write("main.c", "extern int a;\nint main(void) { return a; }\n");
    space.write("inc/value.h", "#define VALUE 1\n");
    space.write("a.c", "#include \"value.h\"\nint a = VALUE;\n");
}

#[test]
fn times_of_files_lie() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("lying-times");
    space.configure("");
    write_values(&space);
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    // Same size and same time, other content: in the same place, by rename, and by a symlink that leads elsewhere; as fast as
    // it goes, so that many follow each other within one granule of the clock.
    for round in 0..60 {
        let value = 1 + round % 7;
        let at = space.workspace().join("inc/value.h");
        let name =
            if round % 3 == 0 { "inc/value.h".to_owned() } else { format!("inc/value{}.h", round % 5) };
        if round % 3 == 0 {
            let _ = std::fs::remove_file(&at);
        }
        let written = space.write(&name, format!("#define VALUE {value}\n"));
        std::fs::File::options().write(true).open(&written).unwrap().set_modified(long_ago).unwrap();
        match round % 3 {
            1 => std::fs::rename(&written, &at).unwrap(),
            2 => {
                let _ = std::fs::remove_file(&at);
                std::os::unix::fs::symlink(&written, &at).unwrap();
            }
            _ => {}
        }
        // The third time nothing of it is made anew.
        for time in 0..3 {
            space.run("", &["farcc", "gcc", "-Iinc", "-c", "a.c"]).success();
            assert_eq!(value_in_object(&space), value, "round {round}, time {time}");
        }
    }
    let hits = space.stats().hits();
    assert!(hits >= 120, "{hits} hits");
}

#[test]
fn a_directory_is_exchanged_for_another() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("exchanged");
    space.configure("");
    write_values(&space);
    space.write("other/value.h", "#define VALUE 2\n");
    later();
    // Neither file is touched: only the names of their directories change.
    for (round, value) in [1, 2, 1, 2].into_iter().enumerate() {
        for time in 0..3 {
            space.run("", &["farcc", "gcc", "-Iinc", "-c", "a.c"]).success();
            assert_eq!(value_in_object(&space), value, "round {round}, time {time}");
        }
        space.sh("", "mv inc third; mv other inc; mv third other").success();
    }
}

/// GCC names a system header by the shorter of its path and where that leads. `link` makes the one name of the header a symlink
/// to its other name; `$1` has both, as hard links.
const SHORTER_NAME: &str = r#"
cd "$1"
printf '#include <x.h>\nint a(void) { return v(); }\n' > a.c
long=$PWD/a_directory_with_quite_a_long_name
compile() { "$@" gcc -MD -g -c a.c -isystem "$long" -o a.o; }
sleep 1.2
for time in 1 2 3 4; do compile farcc; done
farccd stats --json
rm "$long/x.h"
ln -s ../p/x.h "$long/x.h"
compile farcc
cp a.o launched.o
cp a.d launched.d
compile
cmp a.o launched.o
cmp a.d launched.d
farccd stop
"#;

#[test]
fn a_header_becomes_a_symlink_to_itself() {
    prerequisites::require(&["gcc", "unshare", "mount"]);
    let lay = "mkdir -p lower/p lower/a_directory_with_quite_a_long_name upper work merged
        echo 'static inline int v(void) { return 1; }' > lower/p/x.h
        ln lower/p/x.h lower/a_directory_with_quite_a_long_name/x.h";
    // In a lower layer of an overlay, what becomes of one name does not show in the file.
    let mount = "mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged || exit 77";
    for (what, mount, place) in [("a plain file system", "true", "lower"), ("an overlay", mount, "merged")] {
        let space = TestSpace::new("shorter-name");
        space.configure("");
        space.write("script.sh", format!("set -e\n{lay}\n{mount}\nset -- {place}\n{SHORTER_NAME}"));
        let run = space.run("", &["unshare", "--mount", "--map-root-user", "sh", "script.sh"]);
        if run.status == 77 {
            println!("SKIPPED {what}: this kernel mounts none here");
            continue;
        }
        let text = run.success().stdout_text();
        assert!(text.contains("\"hit_local\": 3"), "{what}: {text}");
    }
}

#[test]
fn the_clock_jumps() {
    prerequisites::require(&["gcc", "faketime"]);
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64"];
    let library = library.map(|directory| format!("{directory}/faketime/libfaketime.so.1"));
    let Some(library) = library.iter().find(|path| Path::new(path).exists()) else {
        panic!("faketime is there, and its library is not where it is expected");
    };
    let space = TestSpace::new("clock");
    space.configure("");
    write_values(&space);
    let offset = space.home().join("offset");
    std::fs::create_dir_all(space.home()).unwrap();
    std::fs::write(&offset, "+0").unwrap();
    let mut daemon = space.command(&space.binaries().farccd);
    daemon.args(["start", "--foreground"]).env("LD_PRELOAD", library);
    daemon.env("FAKETIME_TIMESTAMP_FILE", &offset).env("FAKETIME_NO_CACHE", "1");
    // No kernel lets that one jump.
    daemon.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let daemon = daemon.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Some(u64::from(daemon.id()));
    wait_until("the daemon listens", 20, || space.listener() == pid);
    let mut value = 0;
    let jumps = ["+0", "+1h", "-1h", "-400d", "+400d", "-2s", "+2s", "+0", "+400d"];
    for jump in jumps {
        std::fs::write(&offset, jump).unwrap();
        // What was remembered before the jump, and what is looked at after it.
        for _ in 0..4 {
            value = 1 + value % 7;
            space.write("inc/value.h", format!("#define VALUE {value}\n"));
            for _ in 0..2 {
                space.run("", &["farcc", "gcc", "-Iinc", "-c", "a.c"]).success();
                assert_eq!(value_in_object(&space), value, "{jump}");
            }
        }
    }
    let stats = space.stats();
    assert!(stats.hits() >= 4 * jumps.len() as u64, "{}", stats.0);
    space.farccd(&["explain", "a.o"]).success();
    space.farccd(&["explain", "--last-build"]).success();
    assert_eq!(space.listener(), pid, "another daemon has served these commands");
    space.stop_daemon();
    let ended = daemon.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{}: {log}", ended.status);
    let year = |line: Option<&str>| line.and_then(|line| line.get(..4)).and_then(|year| year.parse().ok());
    let (first, last): (Option<u32>, Option<u32>) = (year(log.lines().next()), year(log.lines().last()));
    assert!(first.is_some() && first < last, "the daemon's clock has not jumped: {log}");
}

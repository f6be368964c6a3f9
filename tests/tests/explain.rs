//! `farccd explain`: each thing that a miss can come from is named, a hit says where it is from, a local run what to do.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use serde_json::Value;

const FIRST: &str = "gcc -Ione -Itwo -c a.c -o a.o";

fn write_unit(space: &TestSpace) {
    space.write("a.c", "#include \"x.h\"\nint a = X;\n");
    space.write("two/x.h", "#define X 1\n");
    fs::create_dir_all(space.workspace().join("one")).unwrap();
}

/// What is said of `a.o` when it is written down that `command` made it, which is so after the command has ended.
fn explained(space: &TestSpace, command: &str) -> (String, Value) {
    let words: Vec<_> = command.split(' ').collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let json = space.farccd(&["explain", "--json", "a.o"]);
        let value: Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        let age = SINCE.with(|since| value["unix_millis"].as_u64().is_some_and(|then| then > since.get()));
        if age && value["arguments"] == serde_json::json!(words) {
            SINCE.with(|since| since.set(value["unix_millis"].as_u64().unwrap()));
            return (space.farccd(&["explain", "a.o"]).success().stdout_text(), value);
        }
        assert!(Instant::now() < deadline, "{json}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

thread_local! {
    /// When the command ended that was explained last.
    static SINCE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn make(space: &TestSpace, variables: &str, command: &str) -> (String, Value) {
    // Two commands do not end in the same millisecond.
    std::thread::sleep(Duration::from_millis(2));
    space.sh("", &format!("{variables} farcc {command}")).success();
    explained(space, command)
}

#[test]
fn every_cause_of_a_miss_is_named() {
    let space = TestSpace::new("explain-causes");
    write_unit(&space);
    space.configure("");
    let workspace = space.workspace().display().to_string();
    let tool = |text: &str| {
        let at = space.workspace().join("tools/as");
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        // What follows the last section of a program is of no use to it.
        let program = [fs::read("/usr/bin/as").unwrap(), text.as_bytes().to_vec()].concat();
        let _ = fs::remove_file(&at);
        fs::write(&at, program).unwrap();
        fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // A program that has just been changed may be changed again without its time telling.
        std::thread::sleep(Duration::from_millis(2100));
    };
    tool("one");
    let (text, _) = make(&space, "", FIRST);
    assert!(text.contains("first time that farcc saw it made"), "{text}");
    let with_tool = "gcc -Btools/ -Ione -Itwo -c a.c -o a.o";
    let flagged = "gcc -DY -Btools/ -Ione -Itwo -c a.c -o a.o";
    let edit: &dyn Fn() = &|| drop(space.write("two/x.h", "#define X 22\n"));
    let appear: &dyn Fn() = &|| drop(space.write("one/x.h", "#define X 333\n"));
    let vanish: &dyn Fn() = &|| fs::remove_file(space.workspace().join("one/x.h")).unwrap();
    let other_tool: &dyn Fn() = &|| tool("another");
    let salt: &dyn Fn() = &|| space.configure("[exec]\nsalt = \"pepper\"\n");
    let nothing: &dyn Fn() = &|| {};
    let two = format!("{workspace}/two/x.h");
    let one = format!("{workspace}/one/x.h");
    for (what, variables, command, expected) in [
        (edit, "", FIRST, vec![format!("input changed: {two}")]),
        (appear, "", FIRST, vec![format!("input added: {one}"), format!("input removed: {two}")]),
        (vanish, "", FIRST, vec![format!("input added: {two}"), format!("input removed: {one}")]),
        (nothing, "", with_tool, vec!["argument added: -Btools/".into()]),
        (other_tool, "", with_tool, vec![format!("toolchain program changed: {workspace}/tools/as")]),
        (nothing, "", flagged, vec!["argument added: -DY".into()]),
        (nothing, "", with_tool, vec!["argument removed: -DY".into()]),
        (nothing, "CPATH=two", with_tool, vec!["environment variable added: CPATH".into()]),
        (nothing, "CPATH=one", with_tool, vec!["environment variable changed: CPATH: two -> one".into()]),
        (salt, "", with_tool, vec!["configuration changed: [exec] salt".into()]),
    ] {
        what();
        let (text, value) = make(&space, variables, command);
        let differences: Vec<_> =
            value["differences"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        for line in &expected {
            assert!(differences.contains(&line.as_str()) && text.contains(line), "{line}: {text}");
        }
        // With the program, what it is made of may differ as well.
        assert!(differences.len() == expected.len() || command == with_tool, "{expected:?}: {text}");
    }
}

#[test]
fn directories_symlinks_and_platforms_are_causes() {
    let space = TestSpace::new("explain-ways");
    write_unit(&space);
    space.configure("");
    let at = |name: &str| space.workspace().join(name);
    let workspace = space.workspace().display().to_string();
    space.write("same/x.h", "#define X 1\n");
    let link = |to: &str| {
        let _ = fs::remove_file(at("link"));
        std::os::unix::fs::symlink(to, at("link")).unwrap();
    };
    link("two");
    let command = "gcc -Ithree -Ilink -Isub -c a.c -o a.o";
    make(&space, "", command);
    let differences = |value: &Value| -> Vec<String> {
        let lines = value["differences"].as_array().unwrap().iter();
        lines.map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    fs::create_dir(at("three")).unwrap();
    let (_, value) = make(&space, "", command);
    let appeared = format!("now on the way to an input: {workspace}/three");
    assert_eq!(differences(&value), [appeared]);
    link("same");
    let (_, value) = make(&space, "", command);
    let moved =
        format!("directory or symlink changed: {workspace}/link: a symlink to two -> a symlink to same");
    assert_eq!(differences(&value), [moved]);
    space.configure("[platform]\nOSFamily = \"Linux\"\n");
    assert_eq!(differences(&make(&space, "", command).1), ["configuration added: OSFamily"]);
    // The same file by another directory's command.
    let absolute = format!("gcc -I{workspace}/two -c {workspace}/a.c -o {workspace}/a.o");
    make(&space, "", &absolute);
    fs::create_dir(at("sub")).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    space.sh("sub", &format!("farcc {absolute}")).success();
    let (_, value) = explained(&space, &absolute);
    let elsewhere = format!("working directory changed: {workspace} -> {workspace}/sub");
    assert_eq!(differences(&value), [elsewhere]);
}

#[test]
fn another_compiler_is_one_cause() {
    prerequisites::require(&["clang", "g++", "script"]);
    let space = TestSpace::new("explain-compiler");
    write_unit(&space);
    space.configure("");
    let differences = |value: &Value| -> Vec<String> {
        let lines = value["differences"].as_array().unwrap().iter();
        lines.map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    let sum_up = || {
        let value = space.farccd(&["explain", "--last-build", "--json"]).success();
        let value: Value = serde_json::from_slice(&value.stdout).unwrap();
        value["misses"].as_array().unwrap().iter().map(|miss| miss["causes"].clone()).collect::<Vec<_>>()
    };
    let point = |to: &str| {
        space.sh("", &format!("mkdir -p bin; ln -sf /usr/bin/{to} bin/cc")).success();
    };
    let command = "bin/cc -Itwo -c a.c -o a.o";
    point("gcc");
    make(&space, "", command);
    point("clang");
    let (_, value) = make(&space, "", command);
    let swapped = &differences(&value)[0];
    assert!(swapped.starts_with("program changed: /usr/bin/"), "{value}");
    assert!(swapped.contains("gcc") && swapped.contains("clang"), "{value}");
    assert!(differences(&value).iter().skip(1).all(|line| line.starts_with("input ")), "{value}");
    assert_eq!(sum_up(), [serde_json::json!([swapped])]);
    // By another name, and with messages in colour.
    make(&space, "", "gcc -Itwo -c a.c -o a.o");
    let (_, value) = make(&space, "", "cc -Itwo -c a.c -o a.o");
    assert_eq!(differences(&value), ["program changed: /usr/bin/gcc -> /usr/bin/cc"]);
    std::thread::sleep(Duration::from_millis(2));
    space.sh("", "TERM=xterm script -qec 'farcc cc -Itwo -c a.c -o a.o' /dev/null < /dev/null").success();
    let (_, value) = explained(&space, "cc -Itwo -c a.c -o a.o");
    assert_eq!(differences(&value), ["configuration added: standard error is a terminal"]);
}

#[test]
fn a_link_names_its_causes() {
    let space = TestSpace::new("explain-links");
    space.configure("");
    space.write("f.c", "int f(void) { return 0; }\n");
    space.write(
        "m.cc",
        "#include <vector>\n#include \"x.h\"\nextern \"C\" int f(void);\nint main() { return f(); }\n",
    );
    space
        .sh(
            "",
            "mkdir l1 l2; touch l1/x.h l2/x.h; gcc -c f.c; ar rc l1/libf.a f.o; cp l1/libf.a l2; ln -s l1 ll",
        )
        .success();
    let workspace = space.workspace().display().to_string();
    let moved = format!("directory or symlink changed: {workspace}/ll: a symlink to l1 -> a symlink to l2");
    for (file, command) in [("m.o", "clang++ -Ill -c m.cc -o m.o"), ("a.out", "g++ m.o -Lll -lf -o a.out")] {
        let differences = || {
            let words: Vec<_> = command.split(' ').collect();
            space.run("", &[&["farcc"], &words[..]].concat()).success();
            wait_until("the record is there", 20, || {
                let value = space.farccd(&["explain", "--json", file]);
                serde_json::from_slice::<Value>(&value.stdout).is_ok_and(|value| value["key"] != "")
            });
            std::thread::sleep(Duration::from_millis(500));
            let value: Value =
                serde_json::from_slice(&space.farccd(&["explain", "--json", file]).success().stdout).unwrap();
            value["differences"].clone()
        };
        space.sh("", "ln -sfn l1 ll").success();
        differences();
        space.sh("", "ln -sfn l2 ll").success();
        assert_eq!(differences(), serde_json::json!([moved]), "{file}");
    }
}

#[test]
fn a_result_that_is_gone_is_no_difference() {
    let space = TestSpace::new("explain-gone");
    write_unit(&space);
    space.configure("");
    make(&space, "", FIRST);
    space.sh("", "farccd cache clear").success();
    let (text, value) = make(&space, "", FIRST);
    assert!(text.contains("nothing differs from the time before"), "{text}");
    assert_eq!(
        (&value["outcome"], &value["differences"]),
        (&"executed_local".into(), &serde_json::json!([]))
    );
    // Nothing is known of what was not looked for, and that is no difference.
    let strange = "gcc -fno-such-thing-at-all -Ione -Itwo -c a.c -o a.o";
    space.sh("", &format!("farcc {strange}; true")).success();
    let (text, _) = explained(&space, strange);
    assert!(text.contains("what differs from the time before in its words:"), "{text}");
    let (text, value) = make(&space, "", FIRST);
    let argument = "argument removed: -fno-such-thing-at-all";
    assert!(text.contains(argument) && value["differences"] == serde_json::json!([argument]), "{text}");
}

#[test]
fn a_hit_says_where_it_is_from_and_a_local_run_what_to_do() {
    let space = TestSpace::new("explain-hits");
    write_unit(&space);
    space.configure("");
    let (text, value) = make(&space, "", FIRST);
    assert!(text.contains("miss: the command ran on this machine (no_remote)"), "{text}");
    assert!(text.contains("what to do: set [remote] address"), "{text}");
    assert!(value["whole_micros"].as_u64() > value["micros"].as_u64(), "{value}");
    let (text, value) = make(&space, "", FIRST);
    assert!(text.contains("hit: the result was in the store on this machine"), "{text}");
    assert!(text.contains("the result was made ") && text.contains(" ago on this machine"), "{text}");
    assert!(value["made_unix_millis"].as_u64() < value["unix_millis"].as_u64(), "{value}");
    assert!(
        value["made_micros"].as_u64() > Some(0) && value["differences"] == serde_json::json!([]),
        "{value}"
    );
    let cluster = ServeProcess::start(&space, "cluster");
    space.configure_remote(cluster.address());
    space.sh("", "farccd cache clear").success();
    let (text, _) = make(&space, "", FIRST);
    assert!(text.contains("miss: the cluster ran the command"), "{text}");
    space.sh("", "farccd cache clear").success();
    let (text, value) = make(&space, "", FIRST);
    assert!(text.contains("hit: the result was in the cluster's action cache"), "{text}");
    assert!(text.contains(&format!("ago by {}", value["made_by"].as_str().unwrap())), "{text}");
    let strange = "gcc -fno-such-thing-at-all -Ione -Itwo -c a.c -o a.o";
    space.sh("", &format!("farcc {strange}; true")).success();
    let (text, value) = explained(&space, strange);
    assert!(text.contains("(unsupported_flag: -fno-such-thing-at-all)"), "{text}");
    assert!(text.contains("what to do: leave the flag out") && value["remedy"].is_string(), "{text}");
}

#[test]
fn the_last_build_is_summed_up() {
    prerequisites::require(&["make"]);
    let space = TestSpace::new("explain-build");
    space.configure("");
    space.start_daemon();
    assert!(space.farccd(&["explain", "--last-build"]).success().stdout_text().contains("no command"));
    for unit in ["a", "b", "c"] {
        let header = if unit == "c" { "" } else { "#include \"x.h\"\n" };
        space.write(&format!("{unit}.c"), format!("{header}int {unit};\n"));
    }
    space.write("x.h", "\n");
    space.write("Makefile", "all: a.o b.o c.o\n%.o: %.c FORCE\n\tfarcc gcc -MD -c $< -o $@\nFORCE:\n");
    let summed = |misses: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let value = space.farccd(&["explain", "--last-build", "--json"]).success();
            let value: Value = serde_json::from_slice(&value.stdout).unwrap();
            let is_there = value["commands"] == 3 && value["misses"].as_array().unwrap().len() == misses;
            assert!(is_there || Instant::now() < deadline, "{value}");
            if is_there {
                return (value, space.farccd(&["explain", "--last-build"]).success().stdout_text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    space.run("", &["make", "-j2"]).success();
    let (value, text) = summed(3);
    assert_eq!(value["causes"][0]["cause"], "this was the first time that farcc saw it made");
    assert_eq!(
        (&value["causes"][0]["misses"], &value["by_verdict"]["executed_local"]),
        (&3.into(), &3.into())
    );
    assert!(
        text.starts_with("3 commands in ")
            && text.contains("3 misses: this was the first time that farcc saw it made"),
        "{text}"
    );
    space.write("x.h", "int x;\n");
    space.run("", &["make", "-j2"]).success();
    let (value, text) = summed(2);
    assert_eq!(value["by_verdict"]["hit_local"], 1, "{value}");
    let header = space.workspace().join("x.h").display().to_string();
    assert!(text.contains(&format!("2 misses: input changed: {header}")), "{text}");
    let misses = value["misses"].as_array().unwrap();
    assert!(misses.iter().all(|miss| miss["file"].as_str().unwrap().ends_with(".o")), "{value}");
    assert!(misses[0]["micros"].as_u64() >= misses[1]["micros"].as_u64(), "{value}");
    space.run("", &["make", "-j2"]).success();
    assert!(summed(0).1.contains("nothing was missed"));
}

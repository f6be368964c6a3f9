//! Whole builds on the twin (`farccd twin run`): its own farccd sends compiles and links to the cluster beside it, most of what is
//! made stays there, and what is asked for comes back. Workstation, cluster and twin do not see each other's files.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use farcc_tests::binaries::repository;
use farcc_tests::certificates::Authority;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;

const CMAKE: &str = r#"
cmake_minimum_required(VERSION 3.15)
project(parts C CXX)
add_custom_command(OUTPUT words.h
  COMMAND /usr/bin/python3 "${CMAKE_SOURCE_DIR}/words.py" "${CMAKE_SOURCE_DIR}/words.txt" words.h
  DEPENDS words.py words.txt VERBATIM)
add_library(parts STATIC one.c two.c)
add_executable(main main.cpp words.h)
target_include_directories(main PRIVATE "${CMAKE_BINARY_DIR}")
target_link_libraries(main PRIVATE parts)
"#;

const WORDS: &str = "import sys
words = open(sys.argv[1]).read().split()
open(sys.argv[2], 'w').write('static const char *const words[] = {' + ', '.join(f'\"{w}\"' for w in words) + '};\\n')
";

const MAIN: &str = r#"
#include <cstdio>
#include "words.h"
extern "C" int one(void), two(void);
int main() {
  for (auto word : words) std::printf("%s ", word);
  std::printf("%d %d\n", one(), two());
}
"#;

/// A workstation, a cluster, and a twin beside that.
struct Place {
    space: TestSpace,
    cluster: ServeProcess,
    twin: ServeProcess,
}

impl Place {
    fn new(name: &str) -> Place {
        prerequisites::require(&["cmake", "ninja", "make", "python3"]);
        let space = TestSpace::new(name);
        let cluster = ServeProcess::start(&space, "cluster");
        let address = format!("grpc://{}", cluster.address());
        // Where the cluster is, the twin knows for itself, and what the workstation says of it is of no use there.
        let own = space.serve_dir().join("twin/home/.config/farcc");
        fs::create_dir_all(&own).unwrap();
        let exec = "[exec]\nroot = \"mirror\"\ntoolchain = \"trusted\"\n";
        fs::write(own.join("farcc.toml"), format!("[remote]\naddress = \"{address}\"\n{exec}")).unwrap();
        let twin = ServeProcess::twin(&space, "twin", &["--cas", &address]);
        let place = Place { space, cluster, twin };
        place.configure();
        place.space.start_daemon();
        place
    }

    fn configure(&self) {
        let twin = self.twin.address();
        self.space.configure(&format!(
            "[twin]\naddress = \"grpc://{twin}\"\n[remote]\naddress = \"grpc://127.0.0.1:1\"\n"
        ));
    }

    fn lay(&self) {
        self.space.write("CMakeLists.txt", CMAKE);
        self.space.write("words.py", WORDS);
        self.space.write("words.txt", "one two\n");
        self.space.write("one.c", "int one(void) { return 1; }\n");
        self.space.write("two.c", "int two(void) { return 2; }\n");
        self.space.write("main.cpp", MAIN);
    }

    fn twin_run(&self, arguments: &[&str]) -> Finished {
        self.space.farccd(&[&["twin", "run"], arguments].concat())
    }

    fn exists(&self, path: &str) -> bool {
        self.space.workspace().join(path).exists()
    }

    /// All files of the workspace below a directory, with the end of their names.
    fn files(&self, below: &str, end: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.space.workspace().join(below)];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else if entry.file_name().to_str().unwrap().ends_with(end) {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

/// The numbers of the line at the end: on the cluster, hits, on the twin itself, files that came back, files that stay.
fn counts(finished: &Finished) -> [u64; 5] {
    let text = finished.stderr_text();
    let line = text
        .lines()
        .find(|line| line.starts_with("farcc: the build ran"))
        .unwrap_or_else(|| panic!("{finished}"));
    let words: Vec<_> = line.split([' ', ';', ',', '(']).filter_map(|word| word.parse().ok()).collect();
    let whole: Vec<u64> = words;
    // The sizes are no whole numbers of bytes, or have their unit behind them.
    let [cluster, hits, there, back, rest @ ..] = &whole[..] else { panic!("{line}") };
    [
        *cluster,
        *hits,
        *there,
        *back,
        *rest.iter().find(|number| line.contains(&format!("{number} stay"))).unwrap(),
    ]
}

#[test]
fn a_cmake_project_is_built_there() {
    for generator in ["Ninja", "Unix Makefiles"] {
        let mut place = Place::new("twin-build");
        place.lay();
        fs::create_dir(place.space.workspace().join(".git")).unwrap();
        let module = repository().join("cmake/Farcc.cmake");
        let include = format!("-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={}", module.display());
        let launcher = format!("-DFARCC_LAUNCHER={}", place.space.binaries().farcc.display());
        place
            .space
            .run("", &["cmake", "-S", ".", "-B", "build", "-G", generator, &include, &launcher])
            .success();
        let build = ["--", "cmake", "--build", "build", "-j4"];
        let first = place.twin_run(&build).success();
        let [cluster, hits, _, back, stay] = counts(&first);
        // Three compiles, an archive, a link.
        assert_eq!((cluster, hits), (5, 0), "{generator}: {first}\n{}", place.cluster.log_text());
        assert!(place.files("build", ".o").is_empty() && stay >= 3 && back >= 2, "{generator}: {first}");
        let main = || place.space.run("build", &["./main"]).success().stdout_text();
        assert_eq!(main(), "one two 1 2\n");
        assert!(place.exists("build/words.h") && place.exists("build/libparts.a"), "{first}");
        assert!(!place.exists("build/.ninja_log"), "{first}");

        // What stays there is of use to the next one.
        let again = place.twin_run(&build).success();
        assert_eq!(counts(&again)[..3], [0, 0, 0], "{generator}: {again}");
        place.space.write("words.txt", "one two three\n");
        let edited = place.twin_run(&build).success();
        assert_eq!(
            (counts(&edited)[0], main()),
            (2, "one two three 1 2\n".to_owned()),
            "{generator}: {edited}"
        );
        // Also when those who know of it have begun anew.
        place.space.stop_daemon();
        place.space.start_daemon();
        let again = place.twin_run(&build).success();
        assert_eq!(counts(&again)[..3], [0, 0, 0], "{generator}: {again}");
        let address = place.twin.address().to_owned();
        place.twin.stop();
        place.twin = ServeProcess::twin(&place.space, "twin", &[]);
        assert_ne!(address, place.twin.address());
        place.configure();
        let again = place.twin_run(&build).success();
        assert_eq!(counts(&again)[..3], [0, 0, 0], "{generator}: {again}");

        // Another command there sees what only the twin has, and what it changes of it comes.
        let script = "import glob; [o] = glob.glob('build/**/one.c.o', recursive=True); open(o + '.size', 'w').write(str(len(open(o, 'rb').read())))";
        place.space.run("", &["farcc", "/usr/bin/python3", "-c", script]).success();
        let sizes = place.files("build", "one.c.o.size");
        assert_eq!(sizes.len(), 1);
        assert!(fs::read_to_string(&sizes[0]).unwrap().parse::<u64>().unwrap() > 500);
        // What is removed here goes there, with all that only the twin has.
        fs::remove_dir_all(place.space.workspace().join("build")).unwrap();
        let gone = place
            .space
            .run("", &["farcc", "/usr/bin/python3", "-c", "import os; assert not os.path.exists('build')"]);
        gone.success();
    }
}

#[test]
fn a_project_can_be_configured_there_too() {
    let place = Place::new("twin-configure");
    place.lay();
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    let launchers = ["C", "CXX"].map(|language| format!("-DCMAKE_{language}_COMPILER_LAUNCHER=farcc"));
    let [c, cxx] = &launchers;
    place.twin_run(&["--quiet", "--", "cmake", "-S", ".", "-B", "build", "-G", "Ninja", c, cxx]).success();
    assert!(place.exists("build/CMakeCache.txt") && place.exists("build/CMakeFiles/rules.ninja"));
    let built = place.twin_run(&["--fetch", "/build/main", "--", "ninja", "-C", "build"]).success();
    assert_eq!(counts(&built)[0], 3, "{built}");
    assert!(place.exists("build/main") && !place.exists("build/libparts.a"), "{built}");
    let nothing = place.twin_run(&["--fetch-nothing", "--", "ninja", "-C", "build", "-t", "clean"]).success();
    // What is here goes when the build removes it; what was never here is not missed.
    assert!(!place.exists("build/main"), "{nothing}");
}

#[test]
fn a_make_project_is_built_there_by_links() {
    let place = Place::new("twin-make-build");
    place.lay();
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    let links = place.space.home().join("links");
    place.space.farccd(&["install-links", links.to_str().unwrap()]).success();
    place.space.write(
        "Makefile",
        "main: main.o one.o two.o\n\tg++ -o $@ $^\nmain.o: main.cpp words.h\n\tg++ -c $<\n\
         words.h: words.txt\n\t/usr/bin/python3 words.py words.txt words.h\n%.o: %.c\n\tgcc -c $<\n",
    );
    let path = format!("{}:{}", links.display(), "/usr/bin:/bin");
    let shell = format!("SHELL={}/shell/sh", links.display());
    let mut command = place.space.command(&place.space.binaries().farccd);
    command.env("PATH", path).args(["twin", "run", "make", "-j3", &shell]);
    let built = farcc_tests::space::run(&mut command).success();
    assert_eq!(counts(&built)[0], 4, "{built}");
    assert_eq!(place.space.run("", &["./main"]).success().stdout_text(), "one two 1 2\n");
    assert!(place.files("", ".o").is_empty(), "{built}");
}

#[test]
fn the_end_of_a_build_is_that_of_its_command() {
    let place = Place::new("twin-build-end");
    let space = &place.space;
    fs::create_dir(space.workspace().join(".git")).unwrap();
    let python = |script: &str| place.twin_run(&["--quiet", "/usr/bin/python3", "-c", script]);
    let failed =
        python("import sys; print('out'); print('err', file=sys.stderr); open('made', 'w'); sys.exit(7)");
    assert_eq!(
        (failed.status, failed.stdout_text(), failed.stderr_text()),
        (7, "out\n".into(), "err\n".into())
    );
    assert!(place.exists("made"));
    let killed = python("import os; os.kill(os.getpid(), 9)");
    assert_eq!(killed.status, 128 + 9, "{killed}");
    // A build that is interrupted has done what it has done.
    let mut command = space.interruptible(&space.binaries().farccd);
    let script = "import time; open('begun', 'w').close(); print('begun', flush=True); time.sleep(600)";
    let mut build = command.args(["twin", "run", "--quiet", "/usr/bin/python3", "-c", script]);
    build = build.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut build = build.spawn().unwrap();
    let mut said = [0; 6];
    std::io::Read::read_exact(build.stdout.as_mut().unwrap(), &mut said).unwrap();
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = build.wait().unwrap();
    let code = std::os::unix::process::ExitStatusExt::signal(&status).or(status.code());
    assert!(matches!(code, Some(2 | 1 | 130)), "{status}");
    assert!(place.exists("begun"));
    // One that nobody waits for any more has not.
    let script = script.replace("begun", "again");
    let mut command = space.command(&space.binaries().farccd);
    let build = command.args(["twin", "run", "--quiet", "/usr/bin/python3", "-c", &script]);
    let mut build = build.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(build.stdout.as_mut().unwrap(), &mut said).unwrap();
    build.kill().unwrap();
    build.wait().unwrap();
    python("import os; assert os.path.exists('begun') and not os.path.exists('again')").success();
}

#[test]
fn a_terminal_is_one_there() {
    prerequisites::require(&["script", "stty"]);
    let place = Place::new("twin-terminal");
    let space = &place.space;
    fs::create_dir(space.workspace().join(".git")).unwrap();
    let farccd = space.binaries().farccd.display().to_string();
    let on_terminal = |before: &str, script: &str, typed: &[&str]| {
        let at = space.write("on-twin.py", script);
        let line =
            format!("{before}; {farccd} twin run --quiet /usr/bin/python3 {}; echo status $?", at.display());
        let mut command = space.command("script");
        let mut child = command
            .args(["-qefc", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (all, shown) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = std::io::Read::read(&mut stdout, &mut bytes) {
                let _ = all.send(String::from_utf8_lossy(&bytes[..read]).into_owned());
            }
        });
        let mut text = String::new();
        for word in typed {
            // What is typed before somebody asks is shown where the local terminal shows it.
            while !text.contains("ready") {
                text += &shown.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{text}"));
            }
            stdin.write_all(word.as_bytes()).unwrap();
        }
        while let Ok(more) = shown.recv_timeout(Duration::from_secs(60)) {
            text += &more;
        }
        child.wait().unwrap();
        text
    };
    let script = "import os, sys
size = os.get_terminal_size(0)
print([os.isatty(fd) for fd in range(3)], size.lines, size.columns, os.environ.get('TERM'))
tty = open('/dev/tty', 'w'); tty.write('by name\\n'); tty.close()
print('ready', flush=True)
print('got', repr(input()))
";
    let shown = on_terminal("stty rows 33 cols 77; export TERM=vt100", script, &["a line\r"]);
    assert!(shown.contains("[True, True, True] 33 77 vt100\r\n"), "{shown}");
    assert!(shown.contains("by name\r\n") && shown.contains("a line\r\ngot 'a line'\r\n"), "{shown}");
    assert!(shown.contains("status 0"), "{shown}");

    // Not a byte of much is lost.
    let shown = on_terminal("true", "for i in range(100000): print(i)\n", &[]);
    let numbers: Vec<usize> = shown.lines().filter_map(|line| line.trim_end().parse().ok()).collect();
    assert!(numbers.iter().copied().eq(0..100_000), "{} numbers: {:.200}", numbers.len(), shown);

    // What interrupts here interrupts there, and the terminal is as it was.
    let script = "import time
try:
    print('ready', flush=True)
    time.sleep(600)
except KeyboardInterrupt: print('interrupted')
";
    let shown = on_terminal("stty -a > before; trap 'stty -a > after' EXIT; trap : INT", script, &["\u{3}"]);
    assert!(shown.contains("interrupted\r\n") && shown.contains("status 0"), "{shown}");
    let modes = |name: &str| fs::read_to_string(space.workspace().join(name)).unwrap();
    assert_eq!(modes("before"), modes("after"));
    // Only standard error is one.
    let script = space
        .write("which.py", "import os; open('which', 'w').write(str([os.isatty(fd) for fd in range(3)]))\n");
    let line = format!("{farccd} twin run --quiet /usr/bin/python3 {} < /dev/null > out", script.display());
    let mut command = space.command("script");
    farcc_tests::space::run(command.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::null())).success();
    assert_eq!(modes("which"), "[False, False, True]");
}

#[test]
fn what_is_removed_and_made_anew_has_nothing_of_before() {
    let place = Place::new("twin-anew");
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    let sh = |script: &str| place.twin_run(&["--quiet", "sh", "-c", script]).success();
    sh("mkdir -p b/d/e && echo 1 > b/d/x && ln -s x b/d/l");
    sh("rm -rf b && mkdir -p b/d/e && echo 2 > b/d/y && ln -s x b/d/l");
    let here = || place.space.sh("", "find b | sort | tr '\\n' ' '").stdout_text();
    assert_eq!(here(), "b b/d b/d/e b/d/l b/d/y ");
    assert_eq!(sh("find b | sort | tr '\\n' ' '").stdout_text(), here());
    let python = "import os, shutil; shutil.rmtree('b'); os.makedirs('b/d/e'); open('b/f', 'w')";
    place.space.run("", &["farcc", "/usr/bin/python3", "-c", python]).success();
    assert_eq!(here(), "b b/d b/d/e b/f ");
    sh("mv b c && mkdir -p b/d && echo 3 > b/d/z");
    assert_eq!(here(), "b b/d b/d/z ");
    assert!(place.exists("c/d/e") && place.exists("c/f"));
}

#[test]
fn what_cannot_be_here_stays_there_and_nothing_else() {
    let place = Place::new("twin-outward");
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    let script =
        "mkdir b && ln -s /opt/sdk b/sdk && mkfifo b/fifo && ln -s ../b/made b/link && echo made > b/made";
    let made = place.twin_run(&["--", "sh", "-c", script]).success();
    assert!(place.exists("b/link") && !place.exists("b/fifo"), "{made}");
    assert!(!fs::exists(place.space.workspace().join("b/sdk")).unwrap(), "{made}");
    let said = made.stderr_text();
    assert!(said.contains("b/sdk") && said.contains("1 more"), "{said}");
    let there =
        place.twin_run(&["--quiet", "--fetch", "*", "sh", "-c", "readlink b/sdk; cat b/link"]).success();
    assert_eq!(there.stdout_text(), "/opt/sdk\nmade\n");
    // A command that is no build is run here then, where it can make it.
    place.space.write("link.py", "import os; os.symlink('/opt/other', 'other')\n");
    place.space.reset_stats();
    let neighbour = "import time; print('begun', flush=True); time.sleep(2); open('beside', 'w')";
    let mut command = place.space.command("farcc");
    let mut beside =
        command.args(["/usr/bin/python3", "-c", neighbour]).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(beside.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    place.space.run("", &["farcc", "/usr/bin/python3", "link.py"]).success();
    // Nobody else loses anything by that.
    assert!(beside.wait().unwrap().success() && place.exists("beside"));
    let stats = place.space.stats();
    assert_eq!((stats.verdict("twin"), stats.reason("twin_lost")), (1, 1), "{stats:?}");
    assert_eq!(fs::read_link(place.space.workspace().join("other")).unwrap(), PathBuf::from("/opt/other"));
}

#[test]
fn who_works_here_meanwhile_loses_nothing_and_nothing_is_left_there() {
    let place = Place::new("twin-meanwhile");
    let space = &place.space;
    fs::create_dir(space.workspace().join(".git")).unwrap();
    let meanwhile = |argv: &[&str], begun: &str, act: &dyn Fn()| {
        let mut command = space.command(&space.binaries().farccd);
        let build =
            command.args(["twin", "run", "--quiet"]).args(argv).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut build = build.spawn().unwrap();
        let mut said = vec![0; begun.len()];
        std::io::Read::read_exact(build.stdout.as_mut().unwrap(), &mut said).unwrap();
        act();
        let output = build.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // A source that is copied there, and edited here.
    space.write("f", "v1");
    let edited = meanwhile(&["sh", "-c", "echo go; sleep 1; cp f g"], "go", &|| drop(space.write("f", "v2")));
    assert_eq!(edited, (Some(0), String::new()));
    let read = |name: &str| fs::read_to_string(space.workspace().join(name)).unwrap();
    assert_eq!((read("f"), read("g")), ("v2".into(), "v1".into()));
    // What was made of the old one is not taken for new; where nothing is edited, it is as young as if it was made here.
    let written = |name: &str| fs::metadata(space.workspace().join(name)).unwrap().modified().unwrap();
    assert!(written("g") < written("f"));
    let before = std::time::SystemTime::now();
    meanwhile(&["sh", "-c", "echo go; sleep 1; cp f g"], "go", &|| {});
    assert!(written("g") > before + Duration::from_millis(900));

    // A conflict: what was kept of that build is of no use to the next one.
    space.write(
        "Makefile",
        "out.txt: objects/a.o\nobjects/a.o: in.txt\n\t@mkdir -p objects; echo go; sleep 1; cp in.txt out.txt; cp in.txt $@\n",
    );
    space.write("in.txt", "one");
    place.twin_run(&["--quiet", "make"]).success();
    assert!(!place.exists("objects/a.o") && read("out.txt") == "one");
    space.write("in.txt", "two");
    let (status, said) = meanwhile(&["make"], "go", &|| drop(space.write("out.txt", "mine")));
    assert!(status == Some(1) && said.contains("twin_conflict"), "{said}");
    assert_eq!(read("out.txt"), "mine");
    let again = place.twin_run(&["--quiet", "make"]).success();
    assert_eq!(read("out.txt"), "two", "{again}");

    // What is removed here while nobody looks goes there as well, whatever is in it.
    space.stop_daemon();
    fs::remove_dir_all(space.workspace().join("objects")).unwrap();
    space.start_daemon();
    place.twin_run(&["--quiet", "test", "!", "-e", "objects"]).success();
    // What was not asked for can be had later.
    place.twin_run(&["--quiet", "--fetch-nothing", "sh", "-c", "echo hi > app"]).success();
    assert!(!place.exists("app"));
    place.twin_run(&["--quiet", "--fetch", "/app", "true"]).success();
    assert_eq!(read("app"), "hi\n");
}

/// Tries what a program of the workspace could try.
const STEAL: &str = r#"
ls /run/farcc
cat SECRETS/*
env
for end in ENDS; do (exec 3<>"/dev/tcp/$end") && echo "reached $end"; done
"#;

/// A compiler that does that first.
const THIEF: &str = r#"
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
  (void)argc;
  (void)!system("/bin/bash WORKSPACE/steal.sh >> WORKSPACE/log 2>&1");
  argv[0] = "/usr/bin/gcc";
  execv(argv[0], argv);
}
"#;

#[test]
fn a_build_uses_the_cluster_and_learns_no_secret_of_it() {
    let space = TestSpace::new("twin-secrets");
    let place = space.serve_dir().join("secrets");
    fs::create_dir_all(&place).unwrap();
    let put = |name: &str, text: &str| {
        fs::write(place.join(name), text).unwrap();
        place.join(name).display().to_string()
    };
    let authority = Authority::new();
    let identity = authority.server(&["127.0.0.1"]);
    let (cert, key) = (put("server.pem", &identity.certificate), put("server.key", &identity.key));
    let (ca, token) = (put("ca.pem", &authority.pem()), put("token", "hush-token\n"));
    let access = ["--tls-cert", &cert, "--tls-key", &key, "--token-file", &token];
    let cluster = ServeProcess::start_with(&space, "cluster", &access);
    let own = space.serve_dir().join("twin/home/.config/farcc");
    fs::create_dir_all(&own).unwrap();
    let address = format!("grpcs://{}", cluster.address());
    let remote = format!(
        "[remote]\naddress = \"{address}\"\ntoken_file = \"{token}\"\ntls = {{ ca_certs = \"{ca}\" }}\n\
         headers = {{ x-other = \"hush-header\" }}\n"
    );
    fs::write(own.join("farcc.toml"), format!("{remote}[exec]\nroot = \"mirror\"\n")).unwrap();
    let twin = ServeProcess::twin(&space, "twin", &["--cas", &address]);
    space.configure(&format!("[twin]\naddress = \"grpc://{}\"\n", twin.address()));
    fs::create_dir(space.workspace().join(".git")).unwrap();
    space.start_daemon();
    let place_of_twin = Place { space, cluster, twin };
    let space = &place_of_twin.space;
    let run = |argv: &[&str]| place_of_twin.twin_run(&[&["--"], argv].concat());

    space.write("one.c", "int one(void) { return 1; }\n");
    let built = run(&["farcc", "gcc", "-c", "one.c", "-o", "one.o"]).success();
    assert_eq!(counts(&built)[0], 1, "{built}\n{}", place_of_twin.twin.log_text());

    // What a compile names, and what its compiler is: neither finds a file, a variable or a connection.
    let files = [&cert, &key, &token, &ca, &own.join("farcc.toml").display().to_string()]
        .map(|file| format!("asm(\".incbin \\\"{file}\\\"\");\n"));
    for file in files {
        space.write("steal.c", &file);
        let stolen = run(&["farcc", "gcc", "-c", "steal.c", "-o", "steal.o"]);
        assert!(stolen.status != 0 && !place_of_twin.exists("steal.o"), "{file}: {stolen}");
    }
    let ends = [place_of_twin.cluster.address(), place_of_twin.twin.address()]
        .map(|address| address.replace(':', "/"))
        .join(" ");
    space.write("steal.sh", STEAL.replace("SECRETS", &place.display().to_string()).replace("ENDS", &ends));
    space.write("thief.c", THIEF.replace("WORKSPACE", &space.workspace().display().to_string()));
    space.sh("", "mkdir tools && gcc -o tools/gcc thief.c").success();
    let stolen = run(&["farcc", "./tools/gcc", "-c", "one.c", "-o", "two.o"]).success();
    let log = fs::read_to_string(space.workspace().join("log")).unwrap_or_default();
    assert!(!log.contains("hush") && !log.contains("reached"), "{stolen}\n{log}");
    // It was in the daemon's cell.
    assert!(log.contains("PATH=") && log.lines().any(|line| line == "cluster"), "{stolen}\n{log}");
}

#[test]
fn what_prevents_a_build_is_said_and_nothing_runs_here() {
    let mut place = Place::new("twin-build-not");
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    let build = ["/usr/bin/python3", "-c", "open('made', 'w')"];
    place.twin.stop();
    let refused = place.twin_run(&build);
    assert!(refused.status == 1 && refused.stderr_text().starts_with("farcc: twin_unavailable"), "{refused}");
    place.space.configure("");
    let refused = place.twin_run(&build);
    assert!(refused.stderr_text().contains("[twin] address is not set"), "{refused}");
    place.configure();
    fs::remove_dir(place.space.workspace().join(".git")).unwrap();
    let refused = place.twin_run(&build);
    assert!(refused.stderr_text().contains("[workspace] roots is empty"), "{refused}");
    assert!(!place.exists("made"));
    assert_eq!(place.twin_run(&[]).status, 2);
}

#[test]
fn the_credentials_for_the_cluster_are_not_the_builds() {
    prerequisites::require(&["python3"]);
    let space = TestSpace::new("twin-secrets");
    fs::create_dir(space.workspace().join(".git")).unwrap();
    let own = space.serve_dir().join("twin/home/.config/farcc");
    fs::create_dir_all(&own).unwrap();
    let token = own.join("token");
    fs::write(&token, "hush").unwrap();
    let config = own.join("farcc.toml");
    let text = format!("[remote]\naddress = \"grpc://127.0.0.1:1\"\ntoken_file = \"{}\"\n", token.display());
    fs::write(&config, text).unwrap();
    let twin = ServeProcess::twin(&space, "twin", &[]);
    space.configure(&format!("[twin]\naddress = \"grpc://{}\"\n", twin.address()));
    space.write("a.c", "int a;\n");
    let script = format!(
        "import os, subprocess
assert not os.path.exists('{}') and not os.path.exists('{}')
assert not any('hush' in value or value.endswith('farcc.toml') for value in os.environ.values()), os.environ
# Its own words about where to go are not heard.
os.environ['FARCC_REMOTE_ADDRESS'] = 'grpc://127.0.0.1:2'
os.environ['FARCC_CONFIG'] = '/nonexistent'
os.environ['FARCC_LOG'] = 'debug'
done = subprocess.run(['farcc', 'gcc', '-c', 'a.c'], stderr=subprocess.PIPE, text=True)
assert done.returncode == 0 and '127.0.0.1:1' in done.stderr and '127.0.0.1:2' not in done.stderr, done
",
        token.display(),
        config.display()
    );
    let ran = space.farccd(&["twin", "run", "/usr/bin/python3", "-c", &script]).success();
    assert_eq!(counts(&ran)[2], 1, "{ran}");
    assert!(space.workspace().join("a.o").exists() || counts(&ran)[4] == 1, "{ran}");
    wait_until("nothing of the build is left", 10, || {
        let builds = space.serve_dir().join("twin/cas/workspaces");
        fs::read_dir(builds).unwrap().flatten().all(|entry| {
            fs::read_dir(entry.path().join("builds")).map_or(true, |mut left| left.next().is_none())
        })
    });
}

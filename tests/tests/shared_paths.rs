//! `[exec] paths = "shared"`: one result for all checkouts, and nothing else differs from what the compiler does by itself.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use serde_json::Value;

const SHARED: &str = "[exec]\npaths = \"shared\"\n";

/// Two checkouts of one project, whose paths are of different lengths, and a client that shares results.
struct Checkouts {
    space: TestSpace,
}

const CHECKOUTS: [&str; 2] = ["one/project", "a/much/longer/way/to/another/project"];

impl Checkouts {
    fn new(name: &str) -> Checkouts {
        let checkouts = Checkouts { space: TestSpace::new(name) };
        checkouts.space.configure(SHARED);
        for checkout in CHECKOUTS {
            std::fs::create_dir_all(checkouts.at(checkout).join(".git")).unwrap();
            std::fs::create_dir_all(checkouts.at(checkout).join("build")).unwrap();
        }
        checkouts.write("include/where.h", "static inline const char *where(void) { return __FILE__; }\n");
        checkouts.write("include/sub/other.h", "#warning \"from a header\"\n");
        checkouts.write(
            "src/main.c",
            "#include \"../include/where.h\"\n#include <sub/other.h>\n#include <stdio.h>\n\
             int main(void) {\n    int unused;\n    puts(where());\n    puts(__FILE__);\n    return 0;\n}\n",
        );
        checkouts
    }

    fn at(&self, checkout: &str) -> PathBuf {
        self.space.workspace().join(checkout)
    }

    /// Writes a file into both; `ROOT` in it becomes the checkout's own path.
    fn write(&self, path: &str, text: &str) {
        for checkout in CHECKOUTS {
            let text = text.replace("ROOT", self.at(checkout).to_str().unwrap());
            self.space.write(&format!("{checkout}/{path}"), text);
        }
    }

    /// Runs a script in a checkout's build directory; `ROOT` is the checkout, `$F` the launcher.
    fn run(&self, checkout: &str, script: &str) -> Finished {
        let root = self.at(checkout);
        let script = format!("F=farcc\n{}", script.replace("ROOT", root.to_str().unwrap()));
        self.space.sh(&format!("{checkout}/build"), &script)
    }

    /// The same without the launcher, and with the maps of which the manual says what they do.
    fn run_mapped(&self, checkout: &str, script: &str) -> Finished {
        let map = format!("$1 -ffile-prefix-map={}=/proc/self/cwd", self.at(checkout).display());
        let words = script.splitn(3, ' ').collect::<Vec<_>>();
        assert_eq!(words[0], "$F", "{script}");
        let mapped = format!("{} {}", map.replace("$1", words[1]), words[2]);
        self.run(checkout, &mapped)
    }

    fn file(&self, checkout: &str, path: &str) -> Vec<u8> {
        std::fs::read(self.at(checkout).join(path)).unwrap()
    }

    fn action(&self, checkout: &str, command: &str) -> Value {
        let printed = self.run(checkout, &format!("farccd action -- {command}")).success();
        serde_json::from_slice(&printed.stdout).unwrap()
    }

    /// Starts from nothing, but the checkouts.
    fn forget(&self, configuration: &str) {
        self.space.stop_daemon();
        self.space.empty_farcc_dir();
        self.space.configure(configuration);
    }

    /// What `farccd explain` says of the paths of a file in a checkout's build directory.
    fn paths(&self, checkout: &str, file: &str) -> String {
        // The daemon writes its history without keeping the build waiting.
        for _ in 0..200 {
            let finished = self.run(checkout, &format!("farccd explain --json {file}"));
            if finished.status == 0 {
                let explained: Value = serde_json::from_slice(&finished.stdout).unwrap();
                return explained["paths"].as_str().unwrap_or_default().to_owned();
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("nothing is known of {file}");
    }
}

const COMMAND: &str =
    "gcc -g -O1 -Wall -IROOT/include -MD -MP -MF main.d -c ROOT/src/main.c -o main.o -MT main.o";

#[test]
fn the_action_is_the_same_from_any_checkout() {
    let checkouts = Checkouts::new("shared-action");
    for command in [COMMAND.to_owned(), COMMAND.replace("gcc", "clang")] {
        let actions = CHECKOUTS.map(|checkout| checkouts.action(checkout, &command));
        assert_eq!(actions[0], actions[1]);
        assert_eq!(actions[0]["working_directory"], "farcc-workspace/0/build");
        let text = actions[0].to_string();
        assert!(!text.contains("project") && text.contains("farcc-workspace/0/src/main.c"), "{text}");
    }
    // On another machine, where other users with other settings are.
    let command = format!("HOME=/nowhere USER=x TMPDIR=/var/tmp EDITOR=ed farccd action -- {COMMAND}");
    let elsewhere = "FARCC_CONFIG=$PWD/config FARCC_DIR=$PWD/other";
    let script = format!("printf '[exec]\\npaths = \"shared\"\\n' > config; {elsewhere} {command}");
    let printed = checkouts.run(CHECKOUTS[1], &script).success();
    let there: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(there["action_digest"], checkouts.action(CHECKOUTS[0], COMMAND)["action_digest"]);
    // And by default, each has its own.
    checkouts.space.configure("");
    let own = CHECKOUTS.map(|checkout| checkouts.action(checkout, COMMAND)["action_digest"].clone());
    assert_ne!(own[0], own[1]);
}

/// Builds the unit in both checkouts, the second time from what the first made, and compares everything with what the
/// compiler makes by itself.
fn assert_shared(checkouts: &Checkouts, compiler: &str, configuration: &str, first: &str, second: &str) {
    let command = format!("$F {}", COMMAND.replace("gcc", compiler));
    checkouts.forget(configuration);
    let mut objects = Vec::new();
    for (checkout, outcome) in CHECKOUTS.into_iter().zip([first, second]) {
        let plain = checkouts.run(checkout, &command.replace("$F ", "")).success();
        let depfile = checkouts.file(checkout, "build/main.d");
        checkouts.run_mapped(checkout, &command).success();
        let mapped = checkouts.file(checkout, "build/main.o");
        checkouts.run(checkout, "rm -f main.o main.d").success();
        if second == "hit_remote" {
            // What the cluster knows is all that is known.
            checkouts.forget(configuration);
        }
        checkouts.space.reset_stats();
        let ours = checkouts.run(checkout, &command).success();
        let stats = checkouts.space.stats();
        assert_eq!(stats.verdict(outcome), 1, "{compiler} {checkout}: {stats:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&ours.stderr), text(&plain.stderr), "{compiler} {checkout}");
        assert_eq!(text(&checkouts.file(checkout, "build/main.d")), text(&depfile), "{compiler} {checkout}");
        let object = checkouts.file(checkout, "build/main.o");
        assert!(object == mapped, "{compiler} {checkout}: it is not what -ffile-prefix-map makes");
        assert!(!text(&object).contains("project"), "{compiler} {checkout}");
        objects.push(object);
    }
    assert!(objects[0] == objects[1]);
}

#[test]
fn what_one_checkout_made_is_a_hit_in_the_other() {
    let checkouts = Checkouts::new("shared-hit");
    for compiler in ["gcc", "clang"] {
        assert_shared(&checkouts, compiler, SHARED, "executed_local", "hit_local");
    }
}

#[test]
fn what_the_cluster_made_for_one_checkout_is_a_hit_in_the_other() {
    let checkouts = Checkouts::new("shared-remote");
    let server = ServeProcess::start(&checkouts.space, "serve");
    let configuration = format!("{SHARED}[remote]\naddress = \"grpc://{}\"\n", server.address());
    for compiler in ["gcc", "clang"] {
        assert_shared(&checkouts, compiler, &configuration, "executed_remote", "hit_remote");
    }
}

/// Errors of the cluster read as those of the compiler here.
#[test]
fn an_error_names_the_files_of_this_checkout() {
    let checkouts = Checkouts::new("shared-error");
    let server = ServeProcess::start(&checkouts.space, "serve");
    let configuration =
        format!("{SHARED}strategy = \"remote\"\n[remote]\naddress = \"grpc://{}\"\n", server.address());
    checkouts.space.configure(&configuration);
    checkouts.write("src/wrong.c", "#include \"../include/where.h\"\nint x = ;\n");
    let command = "gcc -c ROOT/src/wrong.c -o wrong.o";
    let plain = checkouts.run(CHECKOUTS[1], command);
    let ours = checkouts.run(CHECKOUTS[1], &format!("farcc {command}"));
    assert_eq!((ours.status, ours.stderr_text()), (plain.status, plain.stderr_text()));
    assert_eq!(checkouts.space.stats().reason("remote_failed"), 1);
}

#[test]
fn a_debugger_finds_the_sources() {
    prerequisites::require(&["gdb"]);
    let checkouts = Checkouts::new("shared-debugger");
    for checkout in CHECKOUTS {
        let script = format!("farcc {COMMAND} && gcc main.o -o program");
        checkouts.run(checkout, &script).success();
        let root = checkouts.at(checkout);
        let lists = "-ex 'break main' -ex run -ex list -ex 'info source'";
        let text = checkouts.space.sh(checkout, &format!("gdb -nx -batch {lists} build/program")).success();
        let shown = text.stdout_text();
        assert!(shown.contains("int main(void) {") && shown.contains("puts(where());"), "{shown}");
        // From anywhere else, it is told where the workspace is.
        let replaced = format!("-ex 'set substitute-path /proc/self/cwd {}'", root.display());
        let script = format!("cd / && gdb -nx -batch {replaced} {lists} {}/build/program", root.display());
        let shown = checkouts.space.sh("", &script).success().stdout_text();
        assert!(shown.contains("puts(where());"), "{shown}");
        assert!(shown.contains(&format!("Located in {}/src/main.c", root.display())), "{shown}");
    }
    let stats = checkouts.space.stats();
    assert_eq!((stats.verdict("executed_local"), stats.verdict("hit_local")), (1, 1), "{stats:?}");
}

/// What cannot be shared is as it is without sharing, and farcc says why.
#[test]
fn what_names_its_checkout_stays_exact() {
    let checkouts = Checkouts::new("shared-bound");
    checkouts.write("src/plain.c", "int plain(void) { return __LINE__; }\n");
    checkouts.write("config.h", "#define DATA \"ROOT/data\"\n");
    checkouts.write("src/config.c", "#include \"../config.h\"\nconst char *data = DATA;\n");
    checkouts.write("src/unity.c", "#include \"ROOT/src/plain.c\"\n");
    checkouts.write("src/data.c", "const char *data = DATA;\n");
    checkouts.space.write("one/project2/x.h", "#define X 1\n");
    checkouts.space.write("a/much/longer/way/to/another/project2/x.h", "#define X 1\n");
    checkouts.write("src/sibling.c", "#include \"../../project2/x.h\"\nint x = X;\n");
    checkouts.write("src/around.c", "#include \"project/src/plain.c\"\n");
    for checkout in CHECKOUTS {
        symlink("../../project2", checkouts.at(checkout).join("src/outside")).unwrap();
        symlink("project", checkouts.at(checkout).parent().unwrap().join("link")).unwrap();
    }
    checkouts.write("src/alike.c", "#include <x.h>\nint x = X;\n");
    checkouts.write(
        "src/itself.c",
        "#ifndef SELF\n#define SELF\nint x = 1;\n#include __FILE__\n#else\nint y = 1;\n#endif\n",
    );
    checkouts.write(
        "src/composed.c",
        "#define S_(x) #x\n#define S(x) S_(x)\n#ifdef UP\n#define SRC UP/project/src\n#endif\n\
         #if __has_include(S(SRC/plain.c))\nint has = 1;\n#else\nint has = 0;\n#endif\n",
    );
    checkouts.write("src/symlink.c", "#include \"outside/x.h\"\nint x = X;\n");
    let cases = [
        ("config", "", "exact: ROOT/src/../config.h names the workspace"),
        ("unity", "", "exact: ROOT/src/unity.c names the workspace"),
        ("data", "-DDATA='\"ROOT/data\"'", "exact: -DDATA=\"ROOT/data\" names the workspace"),
        ("sibling", "", "exact: ROOT/src/../../project2/x.h leads across the workspace"),
        ("around", "-IROOT/..", "exact: ROOT/../project/src/plain.c leads across the workspace"),
        ("symlink", "", "exact: the symlink ROOT/src/outside leads across the workspace"),
        ("plain", "-O1 -fsanitize=undefined", "exact: -fsanitize=undefined ties what is made to where it is"),
        ("plain", "-gsplit-dwarf", "exact: -gsplit-dwarf ties what is made to where it is"),
        // Prefix maps compare bytes: the map of the workspace is one of what begins alike.
        ("alike", "-I$(cd ROOT/.. && pwd)/project2", "exact: PARENT/project2/x.h leads across the workspace"),
        ("itself", "", "exact: ROOT/src/itself.c is named in some text"),
        ("composed", "-DSRC=ROOT/src", "exact: ROOT/src/plain.c is named in some text"),
        ("composed", "-DUP=PARENT", "exact: ROOT/src/plain.c is named in some text"),
        ("plain", "-isystem ../include", "exact: -isystem ../include ties what is made to where it is"),
        ("plain", "-FROOT/include", "exact: the scanner is not sure of it: -FROOT/include"),
        ("plain", "-O1", "shared"),
    ];
    for (number, (name, flags, why)) in cases.into_iter().enumerate() {
        // What is explained is the last command that made a file, as soon as that is written down.
        let out = format!("out{number}.o");
        let command = format!("gcc -g {flags} -c ROOT/src/{name}.c -o {out}");
        let objects = CHECKOUTS.map(|checkout| {
            let parent = checkouts.at(checkout).parent().unwrap().display().to_string();
            let command = command.replace("PARENT", &parent);
            let expect_exact = why != "shared";
            checkouts.run(checkout, &command).success();
            let plain = checkouts.file(checkout, &format!("build/{out}"));
            checkouts.run(checkout, &format!("rm {out}; $F {command}")).success();
            let ours = checkouts.file(checkout, &format!("build/{out}"));
            assert_eq!(plain == ours, expect_exact, "{command}");
            assert_eq!(
                checkouts.paths(checkout, &out),
                why.replace("ROOT", checkouts.at(checkout).to_str().unwrap()).replace("PARENT", &parent),
                "{command}"
            );
            ours
        });
        assert_eq!(objects[0] == objects[1], why == "shared", "{command}");
    }
    // By another name, debug information names the directory as the user does.
    let script = "cd ROOT/../link/build && $F gcc -g -c ../src/plain.c -o linked.o";
    checkouts.run(CHECKOUTS[0], script).success();
    let paths = checkouts.paths(CHECKOUTS[0], "linked.o");
    assert!(paths.starts_with("exact: PWD is ") && paths.contains("another name"), "{paths}");
    let script = "PWD=/$PWD $F gcc -g -c ../src/plain.c -o slashes.o";
    checkouts.run(CHECKOUTS[0], script).success();
    assert!(checkouts.paths(CHECKOUTS[0], "slashes.o").starts_with("exact: PWD is //"));
}

/// A directory that is no repository has no workspace but the one that is configured.
#[test]
fn the_workspace_is_found_or_configured() {
    let checkouts = Checkouts::new("shared-roots");
    let command = "gcc -g -c ROOT/src/plain.c -o out.o";
    checkouts.write("src/plain.c", "int plain(void) { return __LINE__; }\n");
    let digest = |checkout| checkouts.action(checkout, command)["action_digest"].clone();
    let shared = digest(CHECKOUTS[0]);
    let way = "there is no repository around";
    for checkout in CHECKOUTS {
        std::fs::remove_dir(checkouts.at(checkout).join(".git")).unwrap();
    }
    assert_ne!(digest(CHECKOUTS[0]), digest(CHECKOUTS[1]));
    checkouts.run(CHECKOUTS[0], &format!("$F {command}")).success();
    assert!(checkouts.paths(CHECKOUTS[0], "out.o").contains(way));
    // A submodule belongs to the repository around it.
    checkouts.space.write("one/project/.git", "gitdir: /somewhere/.git/worktrees/x\n");
    checkouts.space.write("one/project/build/.git", "gitdir: ../.git/modules/build\n");
    assert_eq!(digest(CHECKOUTS[0]), shared);
    // What Farcc.cmake notes, and what is configured.
    let roots = |text: &str| checkouts.write("build/.farcc-roots", text);
    roots("ROOT\nROOT/build\n");
    assert_eq!((digest(CHECKOUTS[0]), digest(CHECKOUTS[1])), (shared.clone(), shared.clone()));
    roots("ROOT/src\nROOT/build\n");
    let two = digest(CHECKOUTS[0]);
    assert_ne!(two, shared);
    assert_eq!(two, digest(CHECKOUTS[1]));
    let root = checkouts.at(CHECKOUTS[0]);
    checkouts.space.configure(&format!("{SHARED}[workspace]\nroots = ['{}']\n", root.display()));
    assert_eq!(digest(CHECKOUTS[0]), shared);
    checkouts.space.configure(&format!("{SHARED}[workspace]\nroots = ['{}/none']\n", root.display()));
    assert_ne!(digest(CHECKOUTS[0]), shared);
}

/// What a result must not depend on: how types are named, what stands before a flag's path in a message.
#[test]
fn what_shows_by_the_way() {
    let checkouts = Checkouts::new("shared-shows");
    checkouts.write(
        "src/types.cc",
        "template <class T> constexpr unsigned size() { return sizeof(__PRETTY_FUNCTION__); }\n\
         auto lambda = [] {};\nunsigned length = size<decltype(lambda)>();\n",
    );
    let command = "clang++ -O2 -c ROOT/src/types.cc -o types.o";
    for checkout in CHECKOUTS {
        checkouts.run(checkout, command).success();
        let plain = checkouts.file(checkout, "build/types.o");
        checkouts.run(checkout, &format!("$F {command}")).success();
        assert!(checkouts.file(checkout, "build/types.o") == plain, "{checkout}");
    }
    // A warning of a flag that no compile needs.
    checkouts.write("src/plain.c", "int plain(void) { return __LINE__; }\n");
    let command = "clang -LROOT/lib -c ROOT/src/plain.c -o plain.o";
    for checkout in CHECKOUTS {
        let plain = checkouts.run(checkout, command).success();
        assert!(plain.stderr_text().contains("-L"), "{plain}");
        let ours = checkouts.run(checkout, &format!("$F {command}")).success();
        assert_eq!(ours.stderr_text(), plain.stderr_text());
    }
    let stats = checkouts.space.stats();
    assert_eq!(stats.hits(), 1, "{stats:?}");
    // Clang's assembler would warn of a map.
    checkouts.write("src/a.s", ".text\nnop\n");
    let command = "clang -Werror -fdebug-prefix-map=ROOT=. -c ROOT/src/a.s -o a.o";
    for checkout in CHECKOUTS {
        let plain = checkouts.run(checkout, command);
        let ours = checkouts.run(checkout, &format!("$F {command}"));
        assert_eq!((ours.status, ours.stderr_text()), (plain.status, plain.stderr_text()));
    }
}

/// A path that no map changed is found in the object. The result is not kept, and from then on each checkout has its own.
#[test]
fn path_shown() {
    let checkouts = Checkouts::new("shared-shown");
    checkouts.write("src/a.S", ".text\nnop\n");
    let command = "$F clang -Wa,-gdwarf-5 -c ROOT/src/a.S -o a.o";
    checkouts.run(CHECKOUTS[0], command).success();
    let stats = checkouts.space.stats();
    assert_eq!((stats.reason("path_shown"), stats.verdict("executed_local")), (1, 1), "{stats:?}");
    for checkout in CHECKOUTS {
        let plain = checkouts.make(checkout, &command.replace("$F ", ""), &["a.o"]);
        for verdict in ["executed_local", "hit_local"] {
            checkouts.space.reset_stats();
            assert!(checkouts.make(checkout, command, &["a.o"]) == plain, "{checkout}");
            let stats = checkouts.space.stats();
            assert_eq!((stats.reason("path_shown"), stats.verdict(verdict)), (0, 1), "{stats:?}");
        }
    }
    // Nor is what the cluster made of it.
    let server = ServeProcess::start(&checkouts.space, "serve");
    checkouts.forget(&format!("{SHARED}[remote]\naddress = \"grpc://{}\"\n", server.address()));
    checkouts.space.reset_stats();
    checkouts.run(CHECKOUTS[1], command).success();
    let stats = checkouts.space.stats();
    assert_eq!((stats.reason("path_shown"), stats.verdict("executed_local")), (1, 1), "{stats:?}");
    assert!(Path::new(&checkouts.at(CHECKOUTS[1]).join("build/a.o")).exists());
}

/// Objects and what belongs to them, in both checkouts, by the compiler alone.
fn with_objects(name: &str) -> Checkouts {
    prerequisites::require(&["gcc", "g++", "clang", "ld.gold", "ld.lld", "ld.mold"]);
    let checkouts = Checkouts::new(name);
    checkouts.write("src/lib.c", "int lib(void) { return 1; }\nint hidden(void) { return 2; }\n");
    checkouts.write("src/lib.map", "X_1 { global: lib; local: *; };\n");
    checkouts.write("src/all.map", "X_1 { global: *; };\n");
    checkouts.write("src/script.ld", "SECTIONS { .mine : { *build/lib.o(.text) } } INSERT AFTER .text;\n");
    checkouts.write("src/input.ld", "INPUT(-lm)\n");
    checkouts.write("src/data.bin", "\0data");
    // Linkers warn of it, and say in which file it is used.
    checkouts.write(
        "src/app.c",
        "#include <stdio.h>\nint lib(void);\nint main(void) { char name[L_tmpnam]; return lib() + !tmpnam(name); }\n",
    );
    for checkout in CHECKOUTS {
        let script = "for name in lib app; do gcc -fPIC -c ../src/$name.c; done
            gcc -fPIC -flto -c ../src/lib.c -o lto.o
            gcc -shared lib.o -o libnamed.so -Wl,-soname,libnamed.so
            gcc -shared lib.o -o libnameless.so";
        checkouts.run(checkout, script).success();
    }
    checkouts
}

/// What a command says, and the files that it makes.
type Made = (String, String, Vec<Vec<u8>>);

impl Checkouts {
    /// Runs a command that makes these files in the build directory.
    fn make(&self, checkout: &str, command: &str, outputs: &[&str]) -> Made {
        self.run(checkout, &format!("rm -f {}", outputs.join(" "))).success();
        let finished = self.run(checkout, command).success();
        let files = outputs.iter().map(|output| self.file(checkout, &format!("build/{output}")));
        (finished.stdout_text(), finished.stderr_text(), files.collect())
    }
}

/// Where an argument names files of the workspace, the linker makes the same of it anywhere: all of them are tried.
#[test]
fn links_that_name_the_workspace_are_shared() {
    let checkouts = with_objects("shared-links");
    let server = ServeProcess::start(&checkouts.space, "serve");
    let remote = format!("{SHARED}[remote]\naddress = \"grpc://{}\"\n", server.address());
    let links: &[(&str, &[&str])] = &[
        ("gcc LD -shared -Wl,--version-script,ROOT/src/lib.map lib.o -o out", &["out"]),
        (
            "gcc LD -shared -Wl,--version-script=ROOT/src/lib.map ROOT/build/lib.o -o ROOT/build/out -Wl,-soname,x.so",
            &["out"],
        ),
        ("gcc LD app.o -LROOT/build -lnamed -Wl,-rpath-link,ROOT/build -o out", &["out"]),
        // Its libraries have GNU ld read where the dynamic linker looks.
        ("gcc LD ROOT/build/app.o lib.o -lubsan -Wl,-rpath-link=ROOT/build -o out", &["out"]),
        ("clang LD ROOT/build/app.o ROOT/build/libnamed.so -Xlinker --gc-sections -o out", &["out"]),
        ("gcc LD app.o -Wl,-LROOT/build,-z,now -Wl,-lnamed -Wl,-rpath-link,ROOT,-z,relro -o out", &["out"]),
        ("gcc LD app.o lib.o -o out -Wl,--dependency-file=out.d", &["out", "out.d"]),
        (
            "g++ LD -IROOT/include -ffile-prefix-map=ROOT=. ROOT/build/app.o -x none ROOT/src/../build/lib.o -o out \
             -Xlinker --dependency-file=ROOT/build/out.d -Wl,--build-id=sha1 -Wl,--trace",
            &["out", "out.d"],
        ),
    ];
    let (here, there) = (["executed_local", "hit_local"], ["executed_remote", "hit_remote"]);
    for (configuration, verdicts, linkers) in
        [(SHARED, here, &["bfd", "gold", "lld", "mold"][..]), (&remote, there, &["bfd"])]
    {
        let mut commands = vec![("ar rcsD ROOT/build/out ROOT/build/lib.o app.o".to_owned(), &["out"][..])];
        for linker in linkers {
            let chosen = format!("-fuse-ld={linker}");
            commands.extend(links.iter().map(|(link, outputs)| (link.replace("LD", &chosen), *outputs)));
        }
        checkouts.forget(configuration);
        for (command, outputs) in &commands {
            for (checkout, verdict) in CHECKOUTS.into_iter().zip(verdicts) {
                let plain = checkouts.make(checkout, command, outputs);
                if verdict == "hit_remote" {
                    checkouts.forget(configuration);
                }
                checkouts.space.reset_stats();
                let ours = checkouts.make(checkout, &format!("$F {command}"), outputs);
                let stats = checkouts.space.stats();
                assert_eq!(stats.verdict(verdict), 1, "{command} in {checkout}: {}", stats.0);
                let text = |made: &Made| (made.0.clone(), made.1.clone());
                assert_eq!(text(&ours), text(&plain), "{command} in {checkout}");
                for (output, (ours, plain)) in outputs.iter().zip(ours.2.iter().zip(&plain.2)) {
                    assert!(ours == plain, "{command} in {checkout}: {output} is another");
                }
            }
        }
    }
}

/// Where what is made would show a file's name, or depend on it, each checkout has its own.
#[test]
fn links_that_depend_on_names_stay_exact() {
    let checkouts = with_objects("shared-bound-links");
    let cases = [
        ("gcc app.o lib.o -Wl,-rpath,ROOT/build -o OUT", "ROOT/build may stand in what is made"),
        ("gcc -shared lib.o -Wl,-soname,ROOT/build/x.so -o OUT", "ROOT/build/x.so may stand in what is made"),
        (
            "gcc app.o ROOT/build/lib.o -Wl,-Map=OUT.map -o OUT",
            "an option makes it depend on what files are called",
        ),
        (
            "gcc app.o ROOT/build/lib.o -Wl,--print-map -o OUT",
            "an option makes it depend on what files are called",
        ),
        (
            "gcc app.o lib.o -Wl,-b,binary ROOT/src/data.bin -Wl,-b,elf64-x86-64 -o OUT",
            "ROOT/src/data.bin may stand in what is made",
        ),
        (
            "gcc app.o ROOT/build/libnameless.so -o OUT",
            "ROOT/build/libnameless.so has no soname, so that its path may stand in what is made",
        ),
        (
            "gcc app.o ROOT/build/lib.o -Wl,-T,ROOT/src/script.ld -o OUT",
            "the script ROOT/src/script.ld may choose files by their names",
        ),
        ("gcc app.o ROOT/build/lto.o -o OUT", "code is made of ROOT/build/lto.o, with names of files in it"),
        ("gcc app.o lib.o -Wl,-rpath,ROOT,-z,now -o OUT", "ROOT may stand in what is made"),
        ("gcc app.o lib.o -Wl,-z,now,-RROOT/build -o OUT", "ROOT/build may stand in what is made"),
        ("gcc -shared lib.o -Wl,-hROOT/build/x.so -o OUT", "ROOT/build/x.so may stand in what is made"),
        (
            "gcc -nostdlib -static -no-pie ROOT/build/lib.o -Wl,--oformat=srec -o ROOT/build/OUT",
            "an option makes it depend on what files are called",
        ),
        (
            "gcc app.o ROOT/build/lib.o -Wl,--retain-symbols-file=ROOT/src/script.ld,-T,ROOT/src/script.ld -o OUT",
            "the script ROOT/src/script.ld may choose files by their names",
        ),
        (
            "gcc -fuse-ld=lld ROOT/build/app.o lib.o -Wl,--warn-backrefs,--warn-backrefs-exclude=*/one* -o OUT",
            "an option makes it depend on what files are called",
        ),
        (
            "gcc -fuse-ld=mold -rdynamic app.o lib.o -Wl,--version-script=../src/all.map -o ROOT/build/OUT",
            "ROOT/build/OUT may stand in what is made",
        ),
        ("gcc -shared lib.o -o ROOT/build/OUT", "ROOT/build/OUT may stand in what is made"),
        ("gcc app.o lib.o -BROOT/build -o OUT", "-BROOT/build names the workspace"),
        (
            "gcc app.o lib.o -LPARENT/project2 -LROOT/../project/build -o OUT",
            "-LROOT/../project/build names the workspace",
        ),
        (
            "gcc app.o ROOT/build/lib.o ROOT/src/input.ld -o OUT",
            "the script ROOT/src/input.ld may choose files by their names",
        ),
        (
            "gcc app.o ROOT/build/lib.o ROOT/src/input.ld -Wl,--retain-symbols-file=ROOT/src/input.ld -o OUT",
            "the script ROOT/src/input.ld may choose files by their names",
        ),
        ("gcc app.o lib.o -L/farcc-workspace/0 -o OUT", "-L/farcc-workspace/0 names the workspace"),
        ("objcopy --strip-debug ROOT/build/lib.o OUT", "ROOT/build/lib.o names the workspace"),
        ("ar rcsDT OUT ROOT/build/lib.o", "ROOT/build/lib.o names the workspace"),
    ];
    for (number, (command, why)) in cases.into_iter().enumerate() {
        let out = format!("out{number}");
        for checkout in CHECKOUTS {
            let root = checkouts.at(checkout);
            let parent = root.parent().unwrap().to_str().unwrap();
            let command = command.replace("OUT", &out).replace("PARENT", parent);
            let plain = checkouts.make(checkout, &command, &[&out]);
            let ours = checkouts.make(checkout, &format!("$F {command}"), &[&out]);
            assert!(ours == plain, "{command} in {checkout}");
            let why = why.replace("ROOT", root.to_str().unwrap()).replace("OUT", &out);
            assert_eq!(checkouts.paths(checkout, &out), format!("exact: {why}"), "{command}");
        }
    }
    assert_eq!(checkouts.space.stats().hits(), 0);
}

//! Every way in which absolute paths reach a worker (`[exec] root`), on workers that do not run commands with the input root as
//! their root directory: what comes out is what the compiler here makes, byte for byte.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
use farcc_tests::compare::Judge;
use farcc_tests::compare::linked_to;
use farcc_tests::compare::products;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::full_tier;
use farcc_tests::plain_build::Site;
use farcc_tests::plain_worker::Abilities;
use farcc_tests::plain_worker::can_be_had;
use farcc_tests::plain_worker::plain_worker;
use farcc_tests::prerequisites;
use farcc_tests::project::Compiler;
use farcc_tests::project::FMT_SHARED;
use farcc_tests::project::Project;
use farcc_tests::project::ZLIB_CMAKE;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::TestSpace;
use prost::Message;

const ALL: Abilities = Abilities { namespaces: true, property: true };
const NONE: Abilities = Abilities { namespaces: false, property: false };

/// What the worker is like that a root needs, and no more.
fn abilities(root: &str) -> Abilities {
    Abilities { namespaces: root == "wrapper", property: root == "property" }
}

/// The roots that a worker can do which does not change its root directory.
const ROOTS: &[&str] = &["wrapper", "property", "relative"];

fn can_run() -> bool {
    if !can_be_had() {
        skipped("workers that do not change their root directory", "only root can make them");
    }
    can_be_had()
}

/// A unit with all that shows paths: `__FILE__`, debug information, a warning in a header, a depfile.
fn write_unit(space: &TestSpace) {
    prerequisites::require(&["gcc", "clang", "g++"]);
    space.write(
        "project/include/value.h",
        "static inline int unused(int x) { int y; return 1; }\n#define WHERE __FILE__\n",
    );
    space.write("project/include/system/sys.h", "static inline const char *sys(void) { return __FILE__; }\n");
    space.write(
        "project/src/a.c",
        "#include <assert.h>\n#include <stdio.h>\n#include \"../include/value.h\"\n#include <sys.h>\n\
         const char *where(int x) { assert(x); puts(sys()); return WHERE; }\nstatic const char *file = __FILE__;\n\
         const char *get(void) { return file; }\n",
    );
    space.write(
        "project/src/b.cc",
        "#include <vector>\n#include <string>\n#include \"../include/value.h\"\n#include <sys.h>\n\
         namespace { struct Local { std::vector<std::string> all; }; }\n\
         std::size_t count() { Local local; local.all.push_back(WHERE); auto f = [&] { return local.all.size(); }; return f(); }\n",
    );
    std::fs::create_dir_all(space.workspace().join("project/build/objects")).unwrap();
}

/// Compiles both units and takes what was made away: object, depfile, standard error.
fn compile(space: &TestSpace, launcher: &str, cc: &str, flags: &str) -> Vec<(String, Vec<u8>)> {
    let project = space.workspace().join("project");
    let mut made = Vec::new();
    let compilers = [(cc, "a.c"), (if cc == "gcc" { "g++" } else { "clang++" }, "b.cc")];
    for (compiler, source) in compilers {
        let top = project.display();
        let line = format!(
            "{launcher} {compiler} {flags} -Wall -I{top}/include -isystem {top}/include/system -MD -MT objects/x.o -MF \
             {top}/build/objects/x.d -o objects/x.o -c {top}/src/{source}"
        );
        let finished = space.sh("project/build", &line).success();
        made.push((format!("{compiler} {flags}: messages"), [finished.stdout, finished.stderr].concat()));
        for name in ["x.o", "x.d"] {
            let path = project.join("build/objects").join(name);
            made.push((format!("{compiler} {flags}: {name}"), std::fs::read(&path).unwrap()));
            std::fs::remove_file(path).unwrap();
        }
    }
    made
}

fn assert_same(root: &str, made: &[(String, Vec<u8>)], plain: &[(String, Vec<u8>)]) {
    for ((what, made), (_, plain)) in made.iter().zip(plain) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(4000).collect::<String>();
        assert!(made == plain, "{root}: {what} differs:\n{}\n--- plain\n{}", text(made), text(plain));
    }
}

#[test]
fn what_is_made_with_each_root_is_what_the_compiler_makes_here() {
    if !can_run() {
        return;
    }
    for root in ROOTS {
        let space = TestSpace::new(&format!("root-{root}")).with_exec_root(root);
        write_unit(&space);
        let cluster = plain_worker(&space, abilities(root)).start();
        space.configure_remote(&cluster.host_and_port());
        let flags = ["-O2", "-g -O0", "-g3"];
        let mut units = 0;
        for (cc, flags) in ["gcc", "clang"].iter().flat_map(|cc| flags.iter().map(move |flags| (cc, flags))) {
            let plain = compile(&space, "", cc, flags);
            assert!(String::from_utf8_lossy(&plain[0].1).contains("value.h"), "no warning: {plain:?}");
            assert_same(root, &compile(&space, "farcc", cc, flags), &plain);
            units += 2;
            let stats = space.stats();
            assert_eq!(stats.verdict("executed_remote"), units, "{root} {cc} {flags}: {}", stats.0);
        }
        // Another machine finds the results on the cluster, with the names of here.
        let executed = cluster.calls(Rpc::Execute);
        space.empty_farcc_dir();
        let plain = compile(&space, "", "gcc", "-g -O0");
        assert_same(root, &compile(&space, "farcc", "gcc", "-g -O0"), &plain);
        assert_eq!(space.stats().verdict("hit_remote"), 2, "{root}: {}", space.stats().0);
        assert_same(root, &compile(&space, "farcc", "gcc", "-g -O0"), &plain);
        assert_eq!(space.stats().verdict("hit_local"), 2, "{root}: {}", space.stats().0);
        assert_eq!(cluster.calls(Rpc::Execute), executed);
    }
}

/// The command of the action that ran last.
fn last_command(cluster: &FakeReapi) -> (proto::Action, proto::Command) {
    let action = cluster.blob(cluster.executed().last().unwrap()).unwrap();
    let action = proto::Action::decode(action).unwrap();
    let digest = action.command_digest.as_ref().unwrap();
    let digest = farccd::digest::Digest::try_from(digest).unwrap();
    let command = proto::Command::decode(cluster.blob(&digest).unwrap()).unwrap();
    (action, command)
}

/// The root that an action was sent with.
fn root_of(cluster: &FakeReapi) -> &'static str {
    let (action, command) = last_command(cluster);
    let properties = action.platform.unwrap().properties;
    let has_property = properties.iter().any(|property| property.name == "InputRootAbsolutePath");
    match &command.arguments[0] {
        program if program.starts_with("./farcc-worker") => "wrapper",
        _ if has_property => "property",
        _ if command.arguments.iter().any(|argument| argument.contains(".f/")) => "relative",
        _ => "mirror",
    }
}

#[test]
fn the_workers_are_asked_once_what_they_can_do() {
    if !can_run() {
        return;
    }
    for (abilities, expected, probes) in
        [(ALL, "wrapper", 1), (Abilities { namespaces: false, ..ALL }, "property", 2), (NONE, "relative", 2)]
    {
        let space = TestSpace::new("auto").with_exec_root("auto");
        write_unit(&space);
        let cluster = plain_worker(&space, abilities).start();
        space.configure_remote(&cluster.host_and_port());
        let plain = compile(&space, "", "gcc", "-g");
        assert_same(expected, &compile(&space, "farcc", "gcc", "-g"), &plain);
        assert_eq!(root_of(&cluster), expected, "{abilities:?}");
        assert_eq!(cluster.calls(Rpc::Execute), probes + 2);
        assert_eq!(space.stats().verdict("executed_remote"), 2, "{}", space.stats().0);
        // The next daemon knows it too.
        space.stop_daemon();
        assert_same(expected, &compile(&space, "farcc", "gcc", "-O1"), &compile(&space, "", "gcc", "-O1"));
        assert_eq!(cluster.calls(Rpc::Execute), probes + 4);
    }
}

#[test]
fn a_server_that_changes_its_root_directory_gets_the_tree_as_it_is() {
    let space = TestSpace::new("auto-serve").with_exec_root("auto");
    write_unit(&space);
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    let plain = compile(&space, "", "gcc", "-g");
    assert_same("auto", &compile(&space, "farcc", "gcc", "-g"), &plain);
    assert_eq!(space.stats().verdict("executed_remote"), 2, "{}", space.stats().0);
    let answers: Vec<String> = std::fs::read_dir(space.farcc_dir().join("state/workers/roots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].contains("\"mirror\":true"), "{answers:?}");
    assert_eq!(server.executions(), 3);
}

#[test]
fn a_wrapper_that_cannot_work_is_no_failing_compile() {
    if !can_run() {
        return;
    }
    let space = TestSpace::new("refuted").with_exec_root("wrapper");
    write_unit(&space);
    let cluster = plain_worker(&space, NONE).start();
    space.configure_remote(&cluster.host_and_port());
    let plain = compile(&space, "", "gcc", "-O2");
    assert_same("wrapper", &compile(&space, "farcc", "gcc", "-O2"), &plain);
    let stats = space.stats();
    assert_eq!(stats.reason("remote_error"), 2, "{}", stats.0);
    assert_eq!(stats.reason("remote_failed"), 0, "{}", stats.0);
}

#[test]
fn what_cannot_be_sent_with_a_root_runs_here() {
    if !can_run() {
        return;
    }
    let space = TestSpace::new("impossible").with_exec_root("relative");
    write_unit(&space);
    let cluster = plain_worker(&space, ALL).start();
    space.configure_remote(&cluster.host_and_port());
    let project = space.workspace().join("project");
    let top = project.display();
    space.write("project/named.c", format!("#include \"{top}/include/value.h\"\nint x;\n"));
    space.write("project/plain.c", "int x;\n");
    let mut count = 0;
    for line in [
        format!("gcc -c {top}/named.c"),
        format!("gcc -c -fdebug-prefix-map={top}=. {top}/plain.c"),
        format!("gcc -c -isystem {top}/src/../include {top}/plain.c"),
        format!("gcc -S -o plain.s {top}/plain.c"),
        format!("gcc -c -g -gdwarf-4 {top}/plain.c"),
        format!("gcc -c -I{top}/../../../../../../usr/include {top}/plain.c"),
    ] {
        space.sh("project", &format!("farcc {line}")).success();
        count += 1;
        assert_eq!(space.stats().reason("root_impossible"), count, "{line}: {}", space.stats().0);
    }
    assert_eq!(cluster.calls(Rpc::Execute), 0);
    // The farcc's own link is never taken for another file.
    std::fs::create_dir(project.join(".f")).unwrap();
    std::fs::write(project.join(".f/x.h"), "").unwrap();
    space.write("project/dot.c", "#include \".f/x.h\"\n");
    space.sh("project", "farcc gcc -c dot.c").success();
    assert_eq!(space.stats().reason("root_impossible"), count + 1, "{}", space.stats().0);
}

/// Linkers make the same of files that are named by way of a symlink, and tell their names as they are.
#[test]
fn links_by_relative_paths() {
    if !can_run() {
        return;
    }
    prerequisites::require(&["ld.gold", "ld.lld", "ld.mold"]);
    let space = TestSpace::new("relative-links").with_exec_root("relative");
    let cluster = plain_worker(&space, NONE).start();
    space.configure_remote(&cluster.host_and_port());
    space.write("p/lib.c", "int lib(void) { return 1; }\n");
    space.write("p/app.c", "int lib(void);\nint main(void) { return lib(); }\n");
    space.write("p/lib.map", "X_1 { global: lib; local: *; };\n");
    let script = "gcc -fPIC -c lib.c app.c && gcc -shared lib.o -o libnamed.so -Wl,-soname,libnamed.so
        gcc -shared lib.o -o libnameless.so";
    space.sh("p", script).success();
    let top = space.workspace().join("p");
    let outputs = ["out", "out.d"].map(|name| top.join(name));
    let mut count = 0;
    for linker in ["bfd", "gold", "lld", "mold"] {
        for words in [
            "-shared -Wl,--version-script,TOP/lib.map TOP/lib.o -o out",
            "TOP/app.o -LTOP -lnamed -Xlinker -rpath-link -Xlinker TOP -o TOP/out -Wl,--dependency-file=TOP/out.d",
            "app.o lib.o -o out -Wl,--dependency-file=out.d -Wl,--trace",
        ] {
            let line = format!("gcc -fuse-ld={linker} {}", words.replace("TOP", top.to_str().unwrap()));
            let [plain, ours] = ["", "farcc "].map(|launcher| {
                let run = space.sh("p", &format!("rm -f out out.d && {launcher}{line}")).success();
                let files = outputs.clone().map(|path| std::fs::read(path).unwrap_or_default());
                (run.stdout_text(), run.stderr_text(), files)
            });
            count += 1;
            assert_eq!(space.stats().verdict("executed_remote"), count, "{line}: {}", space.stats().0);
            assert_eq!((&ours.0, &ours.1), (&plain.0, &plain.1), "{line}");
            assert_eq!(String::from_utf8_lossy(&ours.2[1]), String::from_utf8_lossy(&plain.2[1]), "{line}");
            assert!(ours.2[0] == plain.2[0], "{line}: another file");
        }
    }
    let top = top.display();
    for (number, words) in [
        format!("app.o lib.o -Wl,-rpath,{top} -o out"),
        format!("app.o {top}/lib.o -Wl,-Map=out.d -o out"),
        format!("-shared {top}/lib.o -o {top}/out"),
        format!("app.o lib.o -B{top} -o out"),
        format!("app.o {top}/libnameless.so -o out"),
    ]
    .into_iter()
    .enumerate()
    {
        space.sh("p", &format!("farcc gcc {words}")).success();
        assert_eq!(space.stats().reason("root_impossible"), number as u64 + 1, "{words}");
    }
}

/// A whole build with `root`: the objects are those of plain builds, and every compile ran on the cluster.
fn try_project(project: &Project, compiler: Compiler, root: &'static str) {
    let space =
        TestSpace::new(&format!("{root}-{}", project.name)).with_exec_root(root).with_workers_compared();
    let Some(site) = Site::new(&space, project, compiler) else { return };
    let (first, _) = site.plain_build("plain-1");
    let (second, _) = site.plain_build("plain-2");
    let judge = Judge::new(&first, &second);
    let (fake, server);
    if root == "mirror" {
        server = ServeProcess::start(&space, "cluster");
        space.configure_remote(server.address());
    } else {
        fake = plain_worker(&space, abilities(root)).start();
        space.configure_remote(&fake.host_and_port());
    }
    site.lay();
    site.configure(true);
    space.reset_stats();
    let took: Duration = site.build(true);
    let stats = space.stats();
    let made = products(&site.tree());
    let compared = judge.compare(&site.tree());
    let (remote, compiles) = (stats.verdict("executed_remote"), stats.compiles());
    let (name, cc) = (project.name, compiler.c());
    say(&format!(
        "{name:<16} {cc:<5} {root:<8} {:>6.1} s  {compiles:>3} compiles: {remote:>3} remote  {compared}",
        took.as_secs_f64()
    ));
    compared.assert_equal(&format!("{name} with {cc}, root {root}"));
    assert!(compiles > 0, "{}", stats.0);
    // By relative paths, a run path cannot be told.
    let impossible = if root == "relative" { linked_to(&site.tree(), &made) } else { 0 };
    assert_eq!(remote + impossible, compiles, "{root}: {}", stats.0);
    assert_eq!(stats.reason("root_impossible"), impossible, "{root}: {}", stats.0);
    site.test();
    assert!(Path::new(&site.tree()).exists());
}

/// One project with each compiler and each root, and a larger one with the two that any worker can do.
fn try_roots(compiler: Compiler, roots: &[&'static str], in_full_tier: &[(&Project, &'static str)]) {
    if !can_run() {
        return;
    }
    for root in roots {
        try_project(&ZLIB_CMAKE, compiler, root);
    }
    for (project, root) in in_full_tier {
        match full_tier() {
            true => try_project(project, compiler, root),
            false => skipped(&format!("{} with root {root}", project.name), "it is part of FARCC_TESTS=full"),
        }
    }
}

#[test]
fn builds_with_gcc() {
    let larger = [(&FMT_SHARED, "wrapper"), (&ZLIB_CMAKE, "property"), (&ZLIB_CMAKE, "mirror")];
    try_roots(Compiler::Gcc, &["wrapper", "relative"], &larger);
}

#[test]
fn builds_with_clang() {
    let larger = [(&ZLIB_CMAKE, "property"), (&ZLIB_CMAKE, "mirror")];
    try_roots(Compiler::Clang, &["wrapper", "relative"], &larger);
}

//! farcc in the containers of CI systems: the README's recipes as they stand there, and surroundings in which nothing is
//! configured. Each container is a root of its own, in which of this machine there are only `/usr` and the two programs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use farcc_tests::binaries::repository;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::run;

/// The options of `bwrap` for a root with nothing in it but what any image has.
const IMAGE: &[&str] = &[
    "--unshare-all",
    // Servers of tests listen on loopback.
    "--share-net",
    "--die-with-parent",
    "--clearenv",
    "--tmpfs",
    "/",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--ro-bind",
    "/etc/alternatives",
    "/etc/alternatives",
    "--tmpfs",
    "/usr/local",
    "--dev",
    "/dev",
    "--setenv",
    "PATH",
    "/usr/local/bin:/usr/bin:/bin",
];

/// A world-writable directory, as /tmp is.
const TMP: &[&str] = &["--perms", "1777", "--tmpfs", "/tmp"];
const PROC: &[&str] = &["--proc", "/proc"];
/// From here on the root, and whoever it belongs to, can write to what was mounted in it alone.
const READ_ONLY: &[&str] = &["--remount-ro", "/"];

/// Runs a shell script in a new container with `options` besides; `checkout` is its `/builds/project`.
fn container(space: &TestSpace, checkout: &Path, options: &[&[&str]], script: &str) -> Finished {
    prerequisites::require(&["bwrap"]);
    let mut command = Command::new(prerequisites::find_program("bwrap").unwrap());
    command.args(IMAGE).env_clear();
    for program in [&space.binaries().farcc, &space.binaries().farccd] {
        let name = Path::new("/usr/local/bin").join(program.file_name().unwrap());
        command.arg("--ro-bind").arg(program).arg(name);
    }
    command.arg("--bind").arg(checkout).args(["/builds/project", "--chdir", "/builds/project"]);
    command.args(options.concat());
    if !options.iter().any(|options| options.contains(&"--uid")) {
        command.args(["--uid", "0", "--gid", "0"]);
    }
    run(command.args(["timeout", "--kill-after=5", "120", "sh", "-c", script]))
}

/// A new checkout of a project of `units` C++ sources, of which one is the program.
fn checkout(space: &TestSpace, name: &str, units: usize) -> PathBuf {
    let write = |file: &str, text: &str| space.write(&format!("{name}/{file}"), text);
    write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.17)\nproject(sample CXX)\nfile(GLOB sources *.cc)\n\
         add_executable(sample ${sources})\n",
    );
    let mut calls = String::new();
    for unit in 1..units {
        let text = format!(
            "#include <regex>\nint unit{unit}() {{ return std::regex_match(\"a\", std::regex(\"[a-z]\")) * {unit}; }}\n"
        );
        write(&format!("unit{unit}.cc"), &text);
        calls.push_str(&format!(" - unit{unit}()"));
    }
    let declarations: String = (1..units).map(|unit| format!("int unit{unit}();\n")).collect();
    let sum = units * (units - 1) / 2;
    write("main.cc", &format!("{declarations}int main() {{ return {sum}{calls}; }}\n"));
    space.workspace().join(name)
}

/// The section of the README about containers.
fn section() -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("\n## In CI containers\n").unwrap();
    rest.split_once("\n## ").unwrap().0.to_owned()
}

/// Its code block that begins with this line.
fn block(first: &str) -> String {
    let section = section();
    let (_, rest) = section.split_once(first).unwrap_or_else(|| panic!("no block {first:?} in {section}"));
    rest.split_once("\n```").unwrap().0.to_owned()
}

/// How many commands a summary counts under a name.
fn count(summary: &str, name: &str) -> u64 {
    let line = summary.lines().find_map(|line| line.strip_suffix(name)?.trim().parse().ok());
    line.unwrap_or(0)
}

const UNITS: usize = 4;

/// A variable of the CI system.
fn address(server: &ServeProcess) -> String {
    format!("grpc://{}", server.address())
}

#[test]
fn the_recipe_in_the_readme_fills_the_cluster_and_the_next_container_compiles_nothing() {
    prerequisites::require(&["cmake", "make", "g++", "strace"]);
    let space = TestSpace::new("ci-recipe");
    let server = ServeProcess::start(&space, "cluster");
    let variable = ["--setenv", "FARCC_REMOTE_ADDRESS", &address(&server)];
    let recipe = block("```sh\n");
    let in_container = |name: &str| {
        let checkout = checkout(&space, name, UNITS);
        std::fs::write(checkout.join("recipe.sh"), &recipe).unwrap();
        // strace waits for the daemon as well: only the recipe stops it.
        let script = "strace -f --seccomp-bpf -qq -v -s 4096 -e trace=execve -e signal=none -o trace sh -e recipe.sh && build/sample";
        let finished = container(&space, &checkout, &[TMP, PROC, READ_ONLY, &variable], script).success();
        let trace = std::fs::read_to_string(checkout.join("trace")).unwrap();
        (finished.stdout_text(), trace)
    };
    let compiles_of = |trace: &str, source: &str| {
        let is_compile = |line: &&str| line.contains("cc1plus\"") && line.contains(source);
        trace.lines().filter(is_compile).count()
    };
    let units = u64::try_from(UNITS).unwrap();

    let (first, trace) = in_container("first");
    assert_eq!(count(&first, "executed_remote"), units, "{first}");
    // What CMake tries out runs here: so a compiler would be seen.
    assert!(compiles_of(&trace, "CMakeCXXCompilerId.cpp") > 0, "strace saw nothing");

    let executions = server.executions();
    let questions = executions - units;
    let (second, trace) = in_container("second");
    assert_eq!(count(&second, "hit_remote"), units, "{second}");
    assert_eq!(count(&second, "executed_remote") + count(&second, "executed_local"), 0, "{second}");
    for source in ["unit1.cc", "unit2.cc", "unit3.cc", "main.cc"] {
        assert_eq!(compiles_of(&trace, source), 0, "{source} was compiled:\n{second}");
    }
    // A new container knows as little of the workers as the first one did.
    assert!(server.executions() - executions <= questions, "the cluster compiled: {second}");
    // Of every hit the cluster tells how long it took to make. Compiling <regex> takes seconds, which is more than what a
    // new daemon needs to know compilers and workers, for which all hits of so small a project wait.
    let saved = second.lines().find_map(|line| line.strip_prefix("saved: ")).unwrap();
    assert!(saved.ends_with(" of compile time") && !saved.starts_with('-'), "{saved}");
    assert!(second.contains("farccd stopped after "), "{second}");
}

#[test]
fn the_recipes_for_gitlab_and_github_do_the_same() {
    prerequisites::require(&["cmake", "make", "g++"]);
    let space = TestSpace::new("ci-systems");
    let server = ServeProcess::start(&space, "cluster");
    let variable = ["--setenv", "FARCC_REMOTE_ADDRESS", &address(&server)];
    let variables = |block: &str| {
        let lines = block.lines().filter_map(|line| line.trim().strip_suffix(": farcc"));
        lines.map(|name| format!("export {name}=farcc\n")).collect::<String>()
    };
    let gitlab = block("```yaml\n# .gitlab-ci.yml\n");
    let items = gitlab.lines().filter_map(|line| line.trim().strip_prefix("- "));
    let items = items.collect::<Vec<_>>().join("\n");
    // As GitLab's runner does it: one shell for both scripts, the last in a pipe.
    let gitlab_job = format!("{}set -e\n: | eval \"$(cat items)\"\nexit 0\n", variables(&gitlab));

    let github = block("```yaml\n# .github/workflows/build.yml\n");
    let steps = github.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    // Each step is a shell of its own in the same container.
    let steps: String = steps.map(|step| format!("sh -e -c '{step}'\n")).collect();
    let github_job = format!("{}set -e\n{steps}", variables(&github));

    for (name, job) in [("gitlab", gitlab_job), ("github", github_job)] {
        let checkout = checkout(&space, name, UNITS);
        std::fs::write(checkout.join("items"), &items).unwrap();
        let finished = container(&space, &checkout, &[TMP, PROC, READ_ONLY, &variable], &job).success();
        let summary = finished.stdout_text();
        let hits = if name == "gitlab" { "executed_remote" } else { "hit_remote" };
        assert_eq!(count(&summary, hits), u64::try_from(UNITS).unwrap(), "{name}: {finished}");
        assert!(summary.contains("farccd stopped after "), "{name}: {summary}");
    }
    // A failing job fails, and is drained all the same.
    let checkout = checkout(&space, "failing", UNITS);
    std::fs::write(checkout.join("main.cc"), "#error on purpose\n").unwrap();
    let recipe = block("```sh\n");
    let failed =
        container(&space, &checkout, &[TMP, PROC, READ_ONLY, &variable], &format!("set -e\n{recipe}"));
    assert_ne!(failed.status, 0, "{failed}");
    assert!(failed.stdout_text().contains("farccd stopped after "), "{failed}");
}

/// Compiles twice, and shows where farcc keeps things.
const COMPILE_TWICE: &str = "echo 'int a;' >a.c; farcc gcc -c a.c && mv a.o b.o && farcc gcc -c a.c && cmp a.o b.o && \
                             farccd status && farccd stop --drain --summary";

/// That a container with `options` compiles, and that the second compile is a hit; what it printed.
#[track_caller]
fn assert_works(name: &str, options: &[&[&str]]) -> String {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("ci-bare");
    let checkout = checkout(&space, "project", 1);
    let text = container(&space, &checkout, options, COMPILE_TWICE).success().stdout_text();
    assert_eq!((count(&text, "hit_local"), count(&text, "executed_local")), (1, 1), "{name}: {text}");
    text
}

#[test]
fn no_home_and_no_user() {
    let text = assert_works("root", &[TMP, PROC, READ_ONLY]);
    assert!(text.contains("store    /tmp/farcc-0/store\n"), "{text}");
    // What could be planted in /tmp is not read.
    assert!(text.contains("config   /etc/farcc/farcc.toml\n"), "{text}");
    let text =
        assert_works("a user without a name", &[TMP, PROC, READ_ONLY, &["--uid", "12345", "--gid", "12345"]]);
    assert!(text.contains("store    /tmp/farcc-12345/store\n"), "{text}");
}

#[test]
fn a_home_that_is_not_there_read_only_or_not_private() {
    for home in ["/nonexistent", "/usr", "/"] {
        let user =
            ["--uid", "12345", "--setenv", "HOME", home, "--setenv", "XDG_RUNTIME_DIR", "/run/user/12345"];
        let text = assert_works(home, &[TMP, PROC, READ_ONLY, &user]);
        for place in
            ["socket   /tmp/farcc-12345/", "store    /tmp/farcc-12345/", "log      /tmp/farcc-12345/"]
        {
            assert!(text.contains(place), "HOME={home}: {text}");
        }
    }
    // Root could make it, and everything above it.
    let home = ["--setenv", "HOME", "/nonexistent", "--setenv", "XDG_RUNTIME_DIR", "/run/user/0"];
    let text = assert_works("root", &[TMP, PROC, &home]);
    assert!(text.contains("store    /tmp/farcc-0/") && text.contains("socket   /tmp/farcc-0/"), "{text}");
    // One that is there is used.
    let home = ["--tmpfs", "/home/me", "--setenv", "HOME", "/home/me"];
    let text = assert_works("a home", &[TMP, PROC, &home, READ_ONLY]);
    assert!(text.contains("store    /home/me/.cache/farcc\n"), "{text}");
}

#[test]
fn without_tmp_or_proc() {
    let text = assert_works("/var/tmp", &[PROC, &["--perms", "1777", "--tmpfs", "/var/tmp"], READ_ONLY]);
    assert!(text.contains("store    /var/tmp/farcc-"), "{text}");
    assert_works("no /proc", &[TMP, READ_ONLY]);
}

#[test]
fn without_any_place_everything_runs_here_and_the_summary_says_why() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("ci-no-place");
    let checkout = checkout(&space, "project", 1);
    let script = "echo 'int a;' >a.c; farcc gcc -c a.c && test -f a.o && farccd stop --drain --summary; echo status $?";
    let told = |options: &[&[&str]]| {
        let finished = container(&space, &checkout, options, script).success();
        assert!(finished.stderr.is_empty(), "{finished}");
        finished.stdout_text()
    };
    // GCC itself falls back on the working directory.
    let text = told(&[PROC]);
    let remedy = "set FARCC_DIR to a directory that only this user can write to\nstatus 0\n";
    assert!(text.starts_with("no daemon runs: failed to prepare directory /tmp/farcc-0: "), "{text}");
    assert!(text.ends_with(remedy), "{text}");
    // FARCC_DIR is taken at its word.
    let text = told(&[TMP, PROC, &["--setenv", "FARCC_DIR", "/usr/farcc"]]);
    assert!(text.contains("failed to prepare directory /usr/farcc/run: Read-only file system"), "{text}");
}

#[test]
fn what_a_daemon_said_before_it_ended_is_told() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("ci-ended");
    let checkout = checkout(&space, "project", 1);
    let script = "mkdir -p /tmp/f/run && touch /tmp/f/run/slots && echo 'int a;' >a.c && farcc gcc -c a.c && test -f a.o \
                  && farccd stop --drain --summary";
    let variable = ["--setenv", "FARCC_DIR", "/tmp/f"];
    let text = container(&space, &checkout, &[TMP, PROC, &variable], script).success().stdout_text();
    assert!(text.starts_with("no daemon runs: failed to start the daemon: "), "{text}");
    assert!(text.contains("\n  farccd: failed to prepare /tmp/f/run/slots: "), "{text}");
}

#[test]
fn a_directory_that_somebody_else_made_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return farcc_tests::skipped("a directory of another user", "only root can make one");
    }
    prerequisites::require(&["gcc", "setpriv"]);
    let space = TestSpace::new("ci-planted");
    let checkout = checkout(&space, "project", 1);
    std::os::unix::fs::chown(&checkout, Some(4321), Some(4321)).unwrap();
    // Two users need a container that has both, so this one is without a user namespace.
    let tmp = space.workspace().join("tmp");
    std::fs::create_dir_all(tmp.join("farcc-4321/run")).unwrap();
    let planted = tmp.join("farcc-4321");
    for (path, mode) in [(&tmp, 0o1777), (&planted, 0o777)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(prerequisites::find_program("bwrap").unwrap());
    let binaries = space.binaries().directory();
    command.args(["--dev-bind", "/", "/", "--bind"]).arg(&tmp).arg("/tmp");
    // The way to what is built may be closed to others.
    command
        .arg("--ro-bind")
        .arg(binaries)
        .arg("/mnt")
        .arg("--bind")
        .arg(&checkout)
        .arg("/srv")
        .args(["--chdir", "/srv"]);
    command.args(["--clearenv", "--setenv", "PATH", "/mnt:/usr/bin:/bin"]);
    command.args(["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups", "sh", "-c"]);
    let script = "echo 'int a;' >a.c; farcc gcc -c a.c && test -f a.o; farccd stop --summary; farccd stats";
    let finished = run(command.arg(script));
    let refused =
        "prepare directory /tmp/farcc-4321: it belongs to another user; set FARCC_DIR to a directory";
    assert!(finished.stderr_text().contains(refused), "{finished}");
    assert!(!finished.stdout_text().contains("commands"), "{finished}");
    assert!(checkout.join("a.o").is_file());
    let left: Vec<_> = std::fs::read_dir(planted.join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The store shares /tmp with the compiler's own temporary files.
#[test]
fn a_small_tmp_is_left_to_the_compiler() {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new("ci-small");
    let checkout = checkout(&space, "project", 1);
    let tmp = ["--size", "4000000", "--perms", "1777", "--tmpfs", "/tmp"];
    let script =
        "for n in $(seq 60); do echo \"char a$n[200000] = {$n};\" >a$n.c; farcc gcc -c a$n.c || exit; done
        df --output=avail -k /tmp | tail -1; farccd stop --drain --summary";
    let text = container(&space, &checkout, &[&tmp, PROC, READ_ONLY], script).success().stdout_text();
    assert!(text.contains("60 commands"), "{text}");
    let free: u64 = text.lines().next().unwrap().trim().parse().unwrap();
    assert!(free > 200, "{free} KiB are left: {text}");
}

/// A daemon in a container that only the cluster's cache outlives.
fn cache_only(name: &str, cluster: &FakeReapi) -> TestSpace {
    prerequisites::require(&["gcc"]);
    let space = TestSpace::new(name);
    space.configure_remote(&cluster.host_and_port());
    space.write("a.c", "int a;\n");
    space
}

#[test]
fn a_drain_waits_for_results_on_their_way_to_the_cluster() {
    let cluster = FakeReapi::new().start();
    let space = cache_only("ci-drain", &cluster);
    // The question what is missing comes before anything is sent.
    cluster.delay(Rpc::UpdateActionResult, Duration::from_secs(3));
    space.sh("", "farcc gcc -c a.c").success();
    assert_eq!(space.stats().0["offers"]["taken"], 0, "it is on its way");
    let stopped = space.farccd(&["stop", "--drain", "--summary"]).success();
    let text = stopped.stdout_text();
    assert!(stopped.took > Duration::from_secs(1), "{:?}", stopped.took);
    assert!(text.contains("given to the cluster: 1 results; 0 not taken, 0 failed"), "{text}");
    assert!(!text.contains("given up"), "{text}");
    assert!(!text.contains("bytes: 0 B uploaded"), "{text}");
    // Another container has it, and how long it took to make.
    space.empty_farcc_dir();
    space.sh("", "farcc gcc -c a.c").success();
    let stats = space.stats();
    assert_eq!(stats.verdict("hit_remote"), 1, "{}", stats.0);
    assert_eq!(stats.0["hits_timed"], 1, "{}", stats.0);
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let cluster = FakeReapi::new().start();
    let space = cache_only("ci-drain-bounded", &cluster);
    cluster.delay(Rpc::UpdateActionResult, Duration::from_secs(50));
    space.sh("", "farcc gcc -c a.c").success();
    let stopped = space.farccd(&["stop", "--drain", "--timeout", "2s"]).success();
    assert_eq!(
        stopped.stdout_text(),
        "farccd stopped\ngiven up: 1 results that were on their way to the cluster, after 2s\n"
    );
    assert!(stopped.took < Duration::from_secs(12), "{:?}", stopped.took);
    assert_eq!(space.daemon(), None);
}

#[test]
fn a_summary_is_of_one_daemon_and_of_all_its_commands() {
    let cluster = FakeReapi::new().start();
    let space = cache_only("ci-summary", &cluster);
    space.sh("", "farcc gcc -c a.c; farcc gcc a.o -shared -o a.so").success();
    space.farccd(&["stop", "--drain"]).success();
    space.sh("", "farcc gcc -c a.c").success();
    space.reset_stats();
    space.sh("", "farcc gcc -c a.c").success();
    assert_eq!(space.stats().commands(), 1);
    let text = space.farccd(&["stop", "--drain", "--summary"]).success().stdout_text();
    assert_eq!(
        (count(&text, "commands"), count(&text, "hit_local"), count(&text, "link")),
        (2, 2, 0),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.starts_with("saved: ") && line.ends_with(" of compile time")),
        "{text}"
    );
    assert_eq!(space.farccd(&["stop", "--drain", "--summary"]).success().stdout_text(), "no daemon runs\n");
}

#[test]
fn a_hit_of_which_nobody_knows_the_time_saves_none() {
    // A server that drops what it does not know: results without timestamps, as other clients leave them.
    let cluster = FakeReapi::new().execute(|_, _, inputs| {
        farcc_tests::fake_reapi::succeed(vec![
            inputs.output_file("a.d", b"a.o: a.c\n", false),
            inputs.output_file("a.o", b"made there", false),
        ])
    });
    let cluster = cluster.start();
    let space = cache_only("ci-untimed", &cluster);
    space.sh("", "farcc gcc -MMD -c a.c && farcc gcc -MMD -c a.c").success();
    let stats = space.stats();
    assert_eq!((stats.verdict("executed_remote"), stats.hits()), (1, 1), "{}", stats.0);
    assert_eq!((&stats.0["micros_saved"], &stats.0["hits_timed"]), (&0.into(), &0.into()), "{}", stats.0);
    let text = space.farccd(&["stop", "--drain", "--summary"]).success().stdout_text();
    assert!(text.contains("saved: not known: none of 1 hits tells how long its command ran\n"), "{text}");
}

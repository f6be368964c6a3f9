//! A client that others wrote on `farccd serve`: Bazel, part of `FARCC_TESTS=full`.
//!
//! Its own rules for C++ want a download, so the workspace has rules that name the compiler themselves: two compiles,
//! an archive, a link, and a run of what was linked.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use farcc_tests::full_tier;
use farcc_tests::prerequisites;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::run;

/// Rules that compile, archive, link and run.
const BUILD: &str = r#"
[genrule(
    name = "compile_" + name,
    srcs = [name + ".cc", "answer.h"],
    outs = [name + ".o"],
    cmd = "g++ -O1 -c $(location " + name + ".cc) -o $@",
) for name in ["answer", "main"]]

genrule(
    name = "archive",
    srcs = ["answer.o"],
    outs = ["libanswer.a"],
    cmd = "ar crD $@ $<",
)

genrule(
    name = "link",
    srcs = ["main.o", "libanswer.a"],
    outs = ["program"],
    cmd = "g++ $(SRCS) -o $@",
    executable = True,
)

genrule(
    name = "run",
    # As a tool it would be built once more, for the machine that builds.
    srcs = ["question.txt", "program"],
    outs = ["output.txt", "sizes/of/input.txt"],
    cmd = "$(location program) < $(location question.txt) > $(location output.txt) && " +
          "wc -c < $(location question.txt) > $(location sizes/of/input.txt)",
)
"#;

/// The workspace's other files.
const FILES: &[(&str, &str)] = &[
    ("WORKSPACE", ""),
    ("answer.h", "int answer(int question);\n"),
    ("answer.cc", "#include \"answer.h\"\nint answer(int question) { return question * 7; }\n"),
    (
        "main.cc",
        "#include <iostream>\n#include \"answer.h\"\n\
         int main() { int n; std::cin >> n; std::cout << \"it is \" << answer(n) << std::endl; }\n",
    ),
    ("question.txt", "6\n"),
];

/// How many actions that makes.
const ACTIONS: u64 = 5;

/// A Bazel whose own server ends with it.
struct Bazel<'a> {
    space: &'a TestSpace,
    remote: String,
}

impl Bazel<'_> {
    fn command(&self) -> Command {
        let mut command = self.space.command("bazel");
        // Its server would outlive the test otherwise, should the test be killed.
        command.arg("--max_idle_secs=60").current_dir(self.space.workspace().join("bazel"));
        command.arg(format!("--output_user_root={}", self.space.client().join("bazel").display()));
        command
    }

    /// Builds everything on the cluster, locally nothing, and gives what Bazel says.
    fn build(&self) -> Finished {
        let mut command = self.command();
        command.args(["build", "//...", "--spawn_strategy=remote", "--genrule_strategy=remote"]);
        command.args(["--noshow_progress", "--color=no", "--curses=no", "--verbose_failures"]);
        command.args(["--incompatible_strict_action_env", "--remote_timeout=60"]);
        command.arg(format!("--remote_executor={}", self.remote));
        run(&mut command).success()
    }

    fn clean(&self) {
        run(self.command().arg("clean")).success();
    }

    fn outputs(&self) -> std::path::PathBuf {
        self.space.workspace().join("bazel/bazel-bin")
    }
}

impl Drop for Bazel<'_> {
    fn drop(&mut self) {
        run(self.command().arg("shutdown"));
    }
}

fn assert_outputs(directory: &Path) {
    let text = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(text("output.txt"), "it is 42\n");
    assert_eq!(text("sizes/of/input.txt"), "2\n");
    let mut program = Command::new(directory.join("program"));
    let finished = run(program.stdin(std::fs::File::open(directory.join("output.txt")).unwrap()));
    assert_eq!(finished.status, 0, "{finished}");
    for name in ["answer.o", "main.o", "libanswer.a"] {
        assert!(directory.join(name).metadata().unwrap().len() > 0, "{name}");
    }
}

#[test]
fn bazel_builds_on_serve_and_again_from_its_cache() {
    if !full_tier() {
        skipped("Bazel", "it is part of FARCC_TESTS=full");
        return;
    }
    prerequisites::require(&["bazel", "g++"]);
    let space = TestSpace::new("bazel");
    for (name, text) in FILES.iter().chain(&[("BUILD", BUILD)]) {
        space.write(&format!("bazel/{name}"), text);
    }
    let server = ServeProcess::start(&space, "cluster");
    let bazel = Bazel { space: &space, remote: format!("grpc://{}", server.address()) };

    let cold = bazel.build();
    assert_eq!(server.executions(), ACTIONS, "{cold}");
    assert!(cold.stderr_text().contains(&format!("{ACTIONS} remote.")), "{cold}");
    assert_outputs(&bazel.outputs());

    bazel.clean();
    assert!(!bazel.outputs().join("output.txt").exists());
    let warm = bazel.build();
    assert_eq!(server.executions(), ACTIONS, "something ran again: {warm}");
    assert!(warm.stderr_text().contains(&format!("{ACTIONS} remote cache hit")), "{warm}");
    assert_outputs(&bazel.outputs());
    say(&format!(
        "bazel on serve: {ACTIONS} actions: {ACTIONS} executed in {:.1} s, {ACTIONS} cache hits in {:.1} s",
        cold.took.as_secs_f64(),
        warm.took.as_secs_f64(),
    ));

    // A changed header: both compiles, and what follows from them.
    space.write("bazel/answer.h", "int answer(int question); // changed\n");
    let changed = bazel.build();
    let ran = server.executions() - ACTIONS;
    assert!((2..ACTIONS).contains(&ran), "{ran} actions ran: {changed}");
    assert_outputs(&bazel.outputs());
}

//! A worker sees what an Action names and nothing else: an input that is left out fails there. Were it not so,
//! every test with a cluster on the same machine would pass for the wrong reason.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::InputTree;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use farccd::action::Action;
use farccd::action::Circumstances;
use farccd::action::CommandSpec;
use farccd::compiler::ExpectedOutput;
use farccd::compiler::Invocation;
use farccd::compiler::OutputKind;
use farccd::config::Remote;
use farccd::digest::Digest;
use farccd::dispatch::Directories;
use farccd::dispatch::Dispatcher;
use farccd::executor::remote::Fetched;
use farccd::executor::remote::RemoteExecutor;
use farccd::files::InputFile;
use farccd::listings::Listings;
use farccd::reapi::proto;
use farccd::stats::Stats;
use farccd::store::Store;

/// A project whose unit reads two headers, one of them by the other.
fn write_project(space: &TestSpace) -> PathBuf {
    prerequisites::require(&["gcc"]);
    space.write("project/include/value.h", "#define VALUE 7\n");
    space.write("project/a.h", "#include <value.h>\n");
    space.write("project/a.c", "#include \"a.h\"\n#include <stddef.h>\nsize_t a = VALUE;\n");
    space.workspace().join("project")
}

/// The files that farcc's own scan finds.
async fn scan(space: &TestSpace, project: &Path) -> Vec<Arc<InputFile>> {
    let at = |name: &str| space.farcc_dir().join(name);
    let directories = Directories {
        store: at("store"),
        state: at("state"),
        config_file: space.config_file(),
        environment: Vec::new(),
        has_own_config: false,
    };
    let dispatcher = Dispatcher::new(directories, Arc::new(Stats::load(&at("stats"))));
    let invocation = Invocation {
        argv: ["gcc", "-Iinclude", "-c", "a.c"].map(Into::into).to_vec(),
        cwd: project.to_owned(),
        env: vec![("PATH".into(), farcc_tests::space::SYSTEM_PATH.into())],
        umask: 0o022,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
    };
    dispatcher.scan(&Arc::new(invocation)).await.unwrap().inputs
}

/// The compile with exactly these inputs.
fn action(project: &Path, inputs: Vec<Arc<InputFile>>) -> Action {
    let environment =
        [("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("LC_ALL".to_owned(), "C".to_owned())];
    let arguments = ["/usr/bin/gcc", "-Iinclude", "-MMD", "-c", "a.c", "-o", "a.o"];
    let spec = CommandSpec {
        checkout: None,
        speaker: None,
        arguments: arguments.map(Into::into).to_vec(),
        environment: BTreeMap::from(environment),
        cwd: project,
        directories: vec![project.join("include")],
        outputs: vec![
            ExpectedOutput::replacing(OutputKind::Object, project.join("a.o")),
            ExpectedOutput::replacing(OutputKind::Depfile, project.join("a.d")),
        ],
    };
    let circumstances = Circumstances {
        toolchain: Digest::of(b"this machine's"),
        salt: "",
        platform: &BTreeMap::new(),
        timeout: Duration::from_secs(60),
    };
    Action::new(&spec, inputs, &circumstances, &Listings::default()).unwrap()
}

#[test]
fn an_input_that_is_left_out_is_not_there_for_the_worker() {
    let space = TestSpace::new("left-out");
    let project = write_project(&space);
    let server = ServeProcess::start(&space, "cluster");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(assert_needs_every_input(&space, &project, server.address()));
}

async fn assert_needs_every_input(space: &TestSpace, project: &Path, address: &str) {
    let remote = Remote { address: format!("grpc://{address}"), ..Remote::default() };
    let executor = RemoteExecutor::new(&remote, &[]).unwrap();
    let store = Arc::new(Store::open(&space.root().join("results"), 1 << 30).unwrap());
    let inputs = scan(space, project).await;
    let run = async |inputs: Vec<Arc<InputFile>>| -> Fetched {
        let action = executor.remote_action(&Arc::new(action(project, inputs))).await.unwrap();
        executor.execute(&action, "Compile", &store, false, None).await.unwrap()
    };

    let whole = run(inputs.clone()).await;
    let stderr = String::from_utf8_lossy(&whole.result.stderr_raw).into_owned();
    assert_eq!(whole.result.exit_code, 0, "{stderr}");
    let depfile = whole.result.output_files.iter().find(|file| file.path == "a.d").unwrap();
    let depfile = store.read(&Digest::try_from(depfile.digest.as_ref().unwrap()).unwrap()).unwrap().unwrap();
    assert!(String::from_utf8(depfile).unwrap().contains("include/value.h"));

    // The client has every one of them at the path that the compiler looks at.
    for missing in ["include/value.h", "a.h", "a.c"] {
        assert!(project.join(missing).is_file());
        let rest: Vec<_> =
            inputs.iter().filter(|input| input.path != project.join(missing)).cloned().collect();
        assert_eq!(rest.len(), inputs.len() - 1, "{missing} is no input: {inputs:?}");
        let without = run(rest).await;
        let stderr = String::from_utf8_lossy(&without.result.stderr_raw).into_owned();
        assert_ne!(without.result.exit_code, 0, "the worker has seen {missing}");
        assert!(stderr.contains(missing.rsplit('/').next().unwrap()), "{stderr}");
        assert!(stderr.contains("No such file"), "{stderr}");
    }
}

/// Compiles for real what an action's tree holds, without the file `hidden`.
fn compile_without(hidden: &str, command: &proto::Command, inputs: &InputTree) -> proto::ActionResult {
    let root = tempfile::tempdir().unwrap();
    for path in inputs.paths().filter(|path| !path.ends_with(hidden)) {
        let file = root.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, inputs.file(path).unwrap()).unwrap();
    }
    let cwd = root.path().join(&command.working_directory);
    std::fs::create_dir_all(&cwd).unwrap();
    let mut compiler = std::process::Command::new(&command.arguments[0]);
    let variables = command.environment_variables.iter().map(|variable| (&variable.name, &variable.value));
    let output =
        compiler.args(&command.arguments[1..]).env_clear().envs(variables).current_dir(&cwd).output();
    let output = output.unwrap();
    let made = command.output_paths.iter().filter_map(|path| {
        let bytes = std::fs::read(cwd.join(path)).ok()?;
        Some(inputs.output_file(path, &bytes, false))
    });
    let mut result = succeed(made.collect());
    result.exit_code = output.status.code().unwrap();
    result.stderr_raw = output.stderr;
    result
}

#[test]
fn a_file_that_the_worker_lacks_costs_a_local_run_and_nothing_else() {
    for (hidden, expected) in [("nothing", "executed_remote"), ("value.h", "executed_local")] {
        let space = TestSpace::new("lacks");
        let project = write_project(&space);
        let compile = |launcher: &str| {
            let finished = space.sh("project", &format!("{launcher} gcc -Iinclude -MMD -c a.c")).success();
            assert_eq!(finished.stderr_text(), "");
            let outputs = ["a.o", "a.d"].map(|name| std::fs::read(project.join(name)).unwrap());
            ["a.o", "a.d"].iter().for_each(|name| std::fs::remove_file(project.join(name)).unwrap());
            outputs
        };
        let plain = compile("");
        let cluster = FakeReapi::new()
            .execute(move |_, command, inputs| compile_without(hidden, command, inputs))
            .start();
        space.configure_remote(&cluster.host_and_port());
        assert!(compile("farcc") == plain, "{hidden}: {}", space.stats().0);
        let stats = space.stats();
        assert_eq!(stats.verdict(expected), 1, "{hidden}: {}", stats.0);
        assert_eq!(stats.reason("remote_failed"), u64::from(expected == "executed_local"), "{}", stats.0);
        // What was made here is kept, and not made again.
        assert!(compile("farcc") == plain);
        assert_eq!(space.stats().verdict("hit_local"), 1);
        assert_eq!(cluster.calls(Rpc::Execute), 1);
    }
}

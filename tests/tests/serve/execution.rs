//! Actions that the server executes: what they see, what comes back, and that nothing of them stays.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_runs_once_and_is_then_cached() {
    let server = Server::start(2).await;
    let case = compile();
    let result = server.result(&case).await;
    assert_eq!(result.exit_code, 0, "{}", server.stderr(&result).await);
    let [output] = result.output_files.as_slice() else { panic!("{result:?}") };
    assert_eq!(output.path, "out/a.o");
    assert!(!output.is_executable);
    let object = server.download(output.digest.as_ref().unwrap()).await;
    assert!(object.starts_with(b"\x7fELF"));
    // The debug information names the client's directory, as the client's own compiler would.
    assert!(object.windows(9).any(|window| window == b"/home/u/w"));
    server.expect_count("executions", 1).await;

    let again = server.execute(&case).await.unwrap();
    assert!(again.cached_result);
    assert_eq!(again.result.unwrap().output_files, result.output_files);
    server.expect_count("executions", 1).await;
    server.expect_count("cached", 1).await;

    let mut forced = case.clone();
    forced.skip_cache_lookup = true;
    assert!(!server.execute(&forced).await.unwrap().cached_result);
    server.expect_count("executions", 2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undeclared_input_is_not_there() {
    let server = Server::start(2).await;
    let mut case = compile();
    case.tree.directory("home/u/w").files.remove("a.h").unwrap();
    let result = server.result(&case).await;
    assert_eq!(result.exit_code, 1);
    let stderr = server.stderr(&result).await;
    assert!(stderr.contains("a.h: No such file"), "{stderr}");
    assert_eq!(result.output_files, []);
    // A failure is not kept.
    assert!(!server.execute(&case).await.unwrap().cached_result);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_this_machine_is_there_but_its_system() {
    let server = Server::start(2).await;
    // Directories like those in which a client's workspace, home and store lie.
    let workspace = tempfile::tempdir().unwrap();
    std::fs::write(workspace.path().join("secret.h"), "").unwrap();
    let own = server.directory.path().join("store");
    let script = r#"
        for path in "$@"; do if [ -e "$path" ]; then echo "there: $path"; fi; done
        ls -A / | tr '\n' ' '; echo
        cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '
        ls /proc | grep -c '^[0-9]'
        ls -l /proc/self/fd | grep -c -- '->'
        (: > /usr/written) 2>/dev/null && echo "/usr is writable"
        (: > /tmp/written) && echo "/tmp is writable"
        pwd
        id -u
    "#;
    let paths = [workspace.path(), &own, Path::new("/etc/passwd"), Path::new("/root"), Path::new("/var")];
    let mut case = Case::shell(script);
    case.command.arguments.push("sh".to_owned());
    case.command.arguments.extend(paths.map(|path| path.to_str().unwrap().to_owned()));
    let result = server.result(&case).await;
    let stdout = server.stdout(&result).await;
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(!stdout.contains("there: "), "{stdout}");
    for name in lines[0].split_whitespace() {
        let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"];
        assert!(known.contains(&name), "{name} in {stdout}");
    }
    assert_eq!(lines[1], "lo", "no network: {stdout}");
    assert!(lines[2].parse::<u32>().unwrap() <= 6, "only its own processes: {stdout}");
    // 0, 1, 2 and the directory that is listed; and what this test's own parent handed on to every child.
    let expected = 4 + inheritable_descriptors();
    assert_eq!(lines[3], expected.to_string(), "{stdout}");
    assert_eq!(lines[4], "/tmp is writable", "{stdout}");
    assert_eq!(lines[5], "/", "{stdout}");
    server.stop().await;
}

/// How many descriptors above 2 this process leaves open in its children: none was opened by Rust code.
fn inheritable_descriptors() -> usize {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let descriptors = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    descriptors
        .filter(|entry| entry.file_name().to_str().unwrap().parse::<u32>().unwrap() > 2)
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .filter(|text| {
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            u32::from_str_radix(flags.trim(), 8).unwrap() & O_CLOEXEC == 0
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_exactly_the_commands() {
    let server = Server::start(2).await;
    let case = Case::new(&["env"]).env("PWD", "/proc/self/cwd").env("EMPTY", "").env("LINES", "a\nb=c");
    let result = server.result(&case).await;
    let stdout = server.stdout(&result).await;
    assert_eq!(stdout, "PATH=/usr/bin:/bin\nPWD=/proc/self/cwd\nEMPTY=\nLINES=a\nb=c\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tmp_of_the_input_root_is_not_hidden() {
    let server = Server::start(2).await;
    let case = Case::shell("cat a.txt && echo x > /tmp/scratch && cat /tmp/scratch && pwd")
        .file("tmp/workspace/a.txt", "below tmp\n")
        .working_directory("tmp/workspace");
    let result = server.result(&case).await;
    assert_eq!(server.stdout(&result).await, "below tmp\nx\n/tmp/workspace\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_level_directories_are_merged_with_the_systems() {
    let server = Server::start(2).await;
    // As in many a workspace of Bazel: `lib` is the project's, and the machine's libraries are needed too.
    let case = Case::shell("cat lib/a.txt && gcc -x c -o lib/prog prog.c && ./lib/prog && bin/own")
        .file("lib/a.txt", "mine\n")
        .file("prog.c", "#include <stdio.h>\nint main(void) { return puts(\"runs\") < 0; }\n")
        .program("bin/own", "#!/bin/sh\necho own\n")
        .outputs(&["lib", "lib/prog"]);
    let result = server.result(&case).await;
    assert_eq!(server.stdout(&result).await, "mine\nruns\nown\n", "{}", server.stderr(&result).await);
    assert!(result.output_files[0].is_executable);
    // The mounted libraries are not among the outputs.
    let tree = server.download(result.output_directories[0].tree_digest.as_ref().unwrap()).await;
    let root = reapi::Tree::decode(tree.as_slice()).unwrap().root.unwrap();
    let names: Vec<&str> = root.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a.txt", "prog"]);
    assert_eq!(root.directories, []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals() {
    let server = Server::start(2).await;
    for (script, expected) in [("exit 7", 7), ("kill -SEGV $$", 139), ("kill -KILL $$", 137)] {
        let result = server.result(&Case::shell(script)).await;
        assert_eq!(result.exit_code, expected, "{script}");
    }
    let result = server.result(&Case::new(&["no-such-program"])).await;
    assert_eq!(result.exit_code, 127);
    let stdin = server.result(&Case::new(&["cat"])).await;
    assert_eq!(stdin.exit_code, 0, "standard input is empty");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_every_kind() {
    let server = Server::start(2).await;
    let script = "mkdir -p d/sub && echo 1 > d/sub/f && chmod 755 d/sub/f && ln -s sub/f d/link && mkfifo d/pipe \
        && echo 2 > w/secret && chmod 000 w/secret && ln -s /nowhere dangling && ln -s d dir-link \
        && mkdir closed && echo 3 > closed/f && chmod 000 closed && echo 4 > ../up && echo 5 > in/x && chmod 755 in/x";
    let case = Case::shell(script)
        .file("home/u/real/keep", "")
        .symlink("home/u/in", "real")
        .working_directory("home/u")
        .outputs(&["d", "w/secret", "dangling", "dir-link", "in/x", "closed", "../up", "absent"]);
    let result = server.result(&case).await;
    assert_eq!(result.exit_code, 0, "{}", server.stderr(&result).await);
    let files: Vec<(&str, bool)> =
        result.output_files.iter().map(|file| (file.path.as_str(), file.is_executable)).collect();
    assert_eq!(files, [("w/secret", false), ("in/x", true), ("../up", false)]);
    let links: Vec<(&str, &str)> =
        result.output_symlinks.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    assert_eq!(links, [("dangling", "/nowhere"), ("dir-link", "d")]);
    let directories: Vec<&str> = result.output_directories.iter().map(|found| found.path.as_str()).collect();
    assert_eq!(directories, ["d", "closed"]);
    let tree = server.download(result.output_directories[0].tree_digest.as_ref().unwrap()).await;
    let tree = reapi::Tree::decode(tree.as_slice()).unwrap();
    let root = tree.root.unwrap();
    assert_eq!(root.symlinks[0].target, "sub/f");
    assert_eq!(root.directories[0].digest, Some(message(&Digest::of(&tree.children[0].encode_to_vec()))));
    assert!(tree.children[0].files[0].is_executable);
    assert_eq!(server.download(tree.children[0].files[0].digest.as_ref().unwrap()).await, b"1\n");
    server.stop().await;
}

// Clients of REAPI 2.0 send and read the deprecated fields.
#[allow(deprecated)]
#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_older_clients() {
    let server = Server::start(2).await;
    let mut case =
        Case::shell("echo f > out/f && mkdir -p dir && echo g > dir/g && ln -s f out/l && ln -s dir dl");
    case.command.output_files = vec!["out/f".to_owned(), "out/l".to_owned(), "dir".to_owned()];
    case.command.output_directories = vec!["dir".to_owned(), "dl".to_owned(), "out/f".to_owned()];
    let result = server.result(&case).await;
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_directories.len(), 1);
    assert_eq!(result.output_file_symlinks[0].path, "out/l");
    assert_eq!(result.output_directory_symlinks[0].path, "dl");
    assert_eq!(result.output_symlinks, []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_never_come_from_outside() {
    let server = Server::start(2).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let outside = outside.path().to_str().unwrap();
    let up = "../".repeat(40);
    let script = format!("rm -rf out && ln -s {outside} out && ln -s {up}{outside} up && ln -s /etc etc2");
    let case = Case::shell(&script).outputs(&["out/secret", "up/secret", "etc2/passwd"]);
    let result = server.result(&case).await;
    assert_eq!(result.exit_code, 0, "{}", server.stderr(&result).await);
    assert_eq!(result.output_files, []);

    for path in ["../x", "/etc/passwd", "a/../../x", ""] {
        let response = server.execute(&Case::shell("true").outputs(&[path])).await.unwrap();
        let code = response.status.unwrap().code;
        if path.is_empty() {
            assert_eq!(code, 0, "the whole root may be an output");
        } else {
            assert_eq!(code, i32::from(Code::InvalidArgument), "{path}");
        }
    }
    // Parents of outputs are not made outside either.
    let case = Case::shell("true").symlink("link", outside).outputs(&["link/made/by/server"]);
    let response = server.execute(&case).await.unwrap();
    assert_ne!(response.status.unwrap().code, 0);
    assert!(!Path::new(outside).join("made").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_trees_are_refused() {
    let server = Server::start(2).await;
    server.upload(&[b"x".to_vec(), Directory::default().encode_to_vec()]).await;
    let file = |name: &str| FileNode {
        name: name.to_owned(),
        digest: Some(message(&Digest::of(b"x"))),
        ..Default::default()
    };
    let link =
        |name: &str| SymlinkNode { name: name.to_owned(), target: "/tmp".to_owned(), ..Default::default() };
    let child = |name: &str| DirectoryNode { name: name.to_owned(), digest: Some(message(&Digest::empty())) };
    let mut trees: Vec<Directory> = ["", ".", "..", "a/b", "/tmp/x", "a\0b", "../x"]
        .iter()
        .flat_map(|name| {
            [
                Directory { files: vec![file(name)], ..Default::default() },
                Directory { symlinks: vec![link(name)], ..Default::default() },
                Directory { directories: vec![child(name)], ..Default::default() },
            ]
        })
        .collect();
    trees.extend([
        Directory { files: vec![file("b"), file("a")], ..Default::default() },
        Directory { files: vec![file("a"), file("a")], ..Default::default() },
        Directory { files: vec![file("a")], symlinks: vec![link("a")], ..Default::default() },
        // A symlink and a directory of one name would lead whatever is in the directory elsewhere.
        Directory { symlinks: vec![link("a")], directories: vec![child("a")], ..Default::default() },
        Directory { files: vec![FileNode { digest: None, ..file("a") }], ..Default::default() },
        Directory {
            files: vec![FileNode {
                digest: Some(reapi::Digest { hash: "../../x".to_owned(), size_bytes: 1 }),
                ..file("a")
            }],
            ..Default::default()
        },
        Directory { files: vec![file(&"n".repeat(300))], ..Default::default() },
    ]);
    for tree in trees {
        let case = Case { root: Some(tree.clone()), ..Case::shell("true") };
        let response = server.execute(&case).await.unwrap();
        assert_eq!(response.status.unwrap().code, i32::from(Code::InvalidArgument), "{tree:?}");
    }
    server.expect_count("failures", 28).await;
    server.expect_count("executions", 0).await;

    // Twenty directories describe a million million files.
    let mut blobs = vec![Directory { files: vec![file("f")], ..Default::default() }.encode_to_vec()];
    let mut root = Directory::default();
    for _ in 0..40 {
        let digest = Some(message(&Digest::of(blobs.last().unwrap())));
        let names = ["a", "b", "c", "d"].map(ToOwned::to_owned);
        let directories = names.map(|name| DirectoryNode { name, digest: digest.clone() }).into();
        root = Directory { directories, ..Default::default() };
        blobs.push(root.encode_to_vec());
    }
    server.upload(&blobs).await;
    let started = Instant::now();
    let response = server.execute(&Case { root: Some(root.clone()), ..Case::shell("true") }).await.unwrap();
    assert_eq!(response.status.unwrap().code, i32::from(Code::InvalidArgument));
    assert!(started.elapsed() < Duration::from_secs(10));

    // So deep that recursion would overflow the stack.
    let mut blobs = vec![Directory::default().encode_to_vec()];
    for _ in 0..20_000 {
        let digest = Some(message(&Digest::of(blobs.last().unwrap())));
        root = Directory {
            directories: vec![DirectoryNode { name: "d".to_owned(), digest }],
            ..Default::default()
        };
        blobs.push(root.encode_to_vec());
    }
    server.upload(&blobs).await;
    let response = server.execute(&Case { root: Some(root), ..Case::shell("true") }).await.unwrap();
    assert_eq!(response.status.unwrap().code, i32::from(Code::InvalidArgument));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_directory_must_be_in_the_tree() {
    let server = Server::start(2).await;
    let mut case = Case::shell("true").file("a/file", "");
    for (path, code) in [
        ("a", Code::Ok),
        ("nowhere", Code::InvalidArgument),
        ("a/file", Code::InvalidArgument),
        ("..", Code::InvalidArgument),
        ("/a", Code::InvalidArgument),
    ] {
        case.command.working_directory = path.to_owned();
        let status = server.execute(&case).await.unwrap().status.unwrap();
        assert_eq!(status.code, i32::from(code), "{path}: {}", status.message);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_blobs_are_named() {
    let server = Server::start(2).await;
    let case = Case::shell("cat d/a").file("d/a", "content of a").file("d/b", "content of b");
    let mut blobs = case.blobs();
    let all = blobs.clone();
    blobs.retain(|blob| !blob.starts_with(b"content of"));
    server.upload(&blobs).await;
    let stream = server.execution().execute(case.request()).await.unwrap().into_inner();
    let status = finish(stream).await.unwrap().status.unwrap();
    assert_eq!(status.code, i32::from(Code::FailedPrecondition));
    let details = &status.details[0];
    assert_eq!(details.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
    let failure = PreconditionFailure::decode(details.value.as_slice()).unwrap();
    let mut subjects: Vec<&str> =
        failure.violations.iter().map(|violation| violation.subject.as_str()).collect();
    subjects.sort_unstable();
    let mut expected = [b"content of a", b"content of b"].map(|blob| format!("blobs/{}", Digest::of(blob)));
    expected.sort_unstable();
    assert_eq!(subjects, expected);
    assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));

    // With what was named it works.
    server.upload(&all).await;
    assert_eq!(server.result(&case).await.exit_code, 0);

    // Without the action itself the call fails in the same terms.
    let other = Case::shell("never uploaded");
    let error = server.execution().execute(other.request()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let violations = error.get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations[0].r#type, "MISSING");
    assert_eq!(violations[0].subject, format!("blobs/{}", other.digest()));
    server.stop().await;
}

/// Whether a process with `marker` among its arguments is alive on this machine.
fn is_alive(marker: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        command_line.windows(marker.len()).any(|window| window == marker.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_kills_every_descendant() {
    let server = Server::start(2).await;
    let script = "echo printed; echo warned >&2; (setsid sleep 86431 &) ; sleep 86431";
    let case = Case::shell(script).timeout(Duration::from_millis(700)).not_cached();
    let started = Instant::now();
    let response = server.execute(&case).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(response.status.unwrap().code, i32::from(Code::DeadlineExceeded));
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 137);
    assert_eq!(server.stdout(&result).await, "printed\n");
    assert_eq!(server.stderr(&result).await, "warned\n");
    assert!(!is_alive("86431"));

    let too_long = Case::shell("true").timeout(Duration::from_secs(24 * 60 * 60));
    let status = server.execute(&too_long).await.unwrap().status.unwrap();
    assert_eq!(status.code, i32::from(Code::InvalidArgument));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_running_ends_with_it() {
    let server = Server::start(2).await;
    let case = Case::shell("(setsid sleep 86432 >/dev/null 2>&1 &); sleep 0.1; echo done");
    let started = Instant::now();
    let result = server.result(&case).await;
    assert_eq!(server.stdout(&result).await, "done\n");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!is_alive("86432"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_stopped() {
    let server = Server::start(2).await;
    let response = server.execute(&Case::new(&["yes"])).await.unwrap();
    assert_eq!(response.status.unwrap().code, i32::from(Code::ResourceExhausted));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_actions_run_than_are_allowed() {
    let server = Server::start(2).await;
    let mut running = tokio::task::JoinSet::new();
    for index in 0..5 {
        let case = Case::shell(&format!("sleep 0.4; : {index}"));
        server.upload(&case.blobs()).await;
        let mut client = server.execution();
        running.spawn(async move {
            finish(client.execute(case.request()).await.unwrap().into_inner()).await.unwrap().result.unwrap()
        });
    }
    let mut intervals = Vec::new();
    for result in running.join_all().await {
        let metadata = result.execution_metadata.unwrap();
        let nanos = |time: Option<protobuf::Timestamp>| {
            let time = time.unwrap();
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
        };
        intervals.push((nanos(metadata.worker_start_timestamp), nanos(metadata.worker_completed_timestamp)));
    }
    let at_once = |moment| intervals.iter().filter(|(start, end)| *start <= moment && moment < *end).count();
    let most = intervals.iter().map(|(start, _)| at_once(*start)).max().unwrap();
    assert_eq!(most, 2, "{intervals:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_actions_in_flight_are_merged() {
    let server = Server::start(4).await;
    let case = Case::shell("sleep 1; date +%N");
    server.upload(&case.blobs()).await;
    let mut first = server.execution().execute(case.request()).await.unwrap().into_inner();
    let first_operation = first.message().await.unwrap().unwrap();
    assert!(!first_operation.done);
    let second = server.execution().execute(case.request()).await.unwrap().into_inner();
    let wait = reapi::WaitExecutionRequest { name: first_operation.name.clone() };
    let waited = server.execution().wait_execution(wait.clone()).await.unwrap().into_inner();
    // One client goes: the others still get their answer.
    drop(first);
    let (second, waited) = (finish(second).await.unwrap(), finish(waited).await.unwrap());
    assert_eq!(second.result, waited.result);
    assert_eq!(second.result.unwrap().exit_code, 0);
    server.expect_count("executions", 1).await;
    server.expect_count("merged", 1).await;
    // By name it is known a while longer.
    let later = finish(server.execution().wait_execution(wait).await.unwrap().into_inner()).await.unwrap();
    assert_eq!(later.result, waited.result);
    let unknown = reapi::WaitExecutionRequest { name: "operations/unknown".to_owned() };
    assert_eq!(server.execution().wait_execution(unknown).await.unwrap_err().code(), Code::NotFound);

    // What must not be cached is not merged either.
    let apart = case.clone().not_cached();
    server.upload(&apart.blobs()).await;
    let one = server.execution().execute(apart.request()).await.unwrap().into_inner();
    let two = server.execution().execute(apart.request()).await.unwrap().into_inner();
    let (one, two) = tokio::join!(finish(one), finish(two));
    assert_ne!(one.unwrap().result.unwrap().stdout_digest, two.unwrap().result.unwrap().stdout_digest);
    assert!(!server.execute(&apart).await.unwrap().cached_result);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_nobody_waits_for_is_cancelled() {
    let server = Server::start(1).await;
    let case = Case::shell("sleep 86433");
    server.upload(&case.blobs()).await;
    let mut stream = server.execution().execute(case.request()).await.unwrap().into_inner();
    while stage_of(&stream.message().await.unwrap().unwrap()) != Stage::Executing {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_alive("86433"));
    drop(stream);
    server.expect_count("failures", 0).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_alive("86433") {
        assert!(Instant::now() < deadline, "the abandoned command still runs");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Its place is free again.
    assert_eq!(server.result(&Case::shell("true")).await.exit_code, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_leaves_nothing_running() {
    let server = Server::start(1).await;
    let case = Case::shell("sleep 86434");
    server.upload(&case.blobs()).await;
    let mut stream = server.execution().execute(case.request()).await.unwrap().into_inner();
    while stage_of(&stream.message().await.unwrap().unwrap()) != Stage::Executing {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.stop().await;
    assert!(!is_alive("86434"));
}

#[tokio::test(flavor = "multi_thread")]
async fn executables_run_and_symlinks_are_as_given() {
    let server = Server::start(4).await;
    let mut running = tokio::task::JoinSet::new();
    // Several at once, so that a descriptor left open for writing would show as ETXTBSY.
    for index in 0..8 {
        let case = Case::new(&["tools/link"])
            .program("tools/run", &format!("#!/bin/sh\necho ran {index} $(readlink tools/link)\n"))
            .symlink("tools/link", "run");
        server.upload(&case.blobs()).await;
        let mut client = server.execution();
        running.spawn(async move {
            let mut request = case.request();
            request.inline_stdout = true;
            let stream = client.execute(request).await.unwrap().into_inner();
            (index, finish(stream).await.unwrap().result.unwrap())
        });
    }
    for (index, result) in running.join_all().await {
        assert_eq!(String::from_utf8(result.stdout_raw).unwrap(), format!("ran {index} run\n"));
    }
    server.stop().await;
}

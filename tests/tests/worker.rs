//! The program that farcc sends to workers, by itself: as root and as an ordinary user, where the input root is some
//! directory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use farcc_tests::say;
use farcc_tests::skipped;
use farcc_tests::space::Finished;
use farcc_tests::space::run;
use farccd::worker;

/// A user without rights.
const NOBODY: u32 = 65534;

/// An input root, in which the program lies as farcc sends it.
struct Root {
    guard: tempfile::TempDir,
    path: PathBuf,
    user: Option<u32>,
}

impl Root {
    fn new(user: Option<u32>) -> Root {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().canonicalize().unwrap().join("build/root");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(guard.path(), Permissions::from_mode(0o755)).unwrap();
        let root = Root { guard, path, user };
        // By another process: one that a test beside this starts would inherit the file open for writing, and nobody can
        // run it then.
        let bytes = root.guard.path().join("program");
        std::fs::write(&bytes, worker::PROGRAM).unwrap();
        run(Command::new("cp").arg(&bytes).arg(root.path.join("farcc-worker"))).success();
        std::fs::set_permissions(root.path.join("farcc-worker"), Permissions::from_mode(0o755)).unwrap();
        root.own(&root.path);
        root
    }

    fn own(&self, path: &Path) {
        std::os::unix::fs::chown(path, self.user, self.user).unwrap();
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for directory in path.ancestors().skip(1).take_while(|above| above.starts_with(&self.path)) {
            self.own(directory);
        }
        std::fs::write(path, text).unwrap();
    }

    /// The program by its name in the input root, in nothing but the environment that is added.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("./farcc-worker");
        command.args(words).current_dir(&self.path).env_clear().env("PATH", "/usr/bin:/bin");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Finished {
        run(&mut self.command(words))
    }

    /// What a shell script prints that runs in the view of the `binds`, in `cwd`.
    fn shell(&self, binds: &[&str], cwd: &str, script: &str) -> Finished {
        let mut words = vec!["enter", "--cwd", cwd];
        words.extend(binds.iter().flat_map(|bind| ["--bind", bind]));
        words.extend(["--", "/bin/sh", "-c", script, "sh"]);
        self.run(&words)
    }
}

/// Runs `trial` as whoever runs the tests and, where that is root, as an ordinary user as well.
fn for_each_user(trial: fn(&Root)) {
    let mut users = vec![None];
    if rustix::process::geteuid().is_root() {
        users.push(Some(NOBODY));
    }
    for user in users {
        let root = Root::new(user);
        if user.is_some() || !rustix::process::geteuid().is_root() {
            let probe = root.run(&["probe", "--file", "/farcc-worker"]).success().stdout_text();
            if !probe.contains("wrapper=yes") {
                skipped("the view of an ordinary user", &format!("this machine has none for them: {probe}"));
                continue;
            }
        }
        say(&format!("as {user:?}"));
        trial(&root);
    }
}

#[test]
fn the_input_root_stands_at_its_absolute_path() {
    for_each_user(|root| {
        root.write("home/u/project/a.h", "of the input root");
        root.write("home/u/build/x", "");
        symlink("../project/a.h", root.path.join("home/u/build/link")).unwrap();
        let script = "pwd -P; cat /home/u/project/a.h link; echo made > out/a.o; id -u; ls /home /home/u; \
                      test -x /usr/bin/env && test -d /proc/self && test -w /dev/null; exit 7";
        root.write("home/u/build/out/x", "");
        let finished = root.shell(&["/home"], "/home/u/build", script);
        assert_eq!(finished.status, 7, "{finished}");
        let id = root.user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        assert_eq!(
            finished.stdout_text(),
            format!(
                "/home/u/build\nof the input rootof the input root{id}\n/home:\nu\n\n/home/u:\nbuild\nproject\n"
            )
        );
        assert_eq!(std::fs::read(root.path.join("home/u/build/out/a.o")).unwrap(), b"made\n");
    });
}

#[test]
fn what_the_worker_has_does_not_shine_through() {
    for_each_user(|root| {
        let host = tempfile::tempdir().unwrap();
        let host = host.path().canonicalize().unwrap();
        std::fs::set_permissions(&host, Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(host.join("project/sub")).unwrap();
        std::fs::write(host.join("project/undeclared.h"), "").unwrap();
        std::fs::write(host.join("project/sub/undeclared.h"), "").unwrap();
        std::fs::write(host.join("beside"), "").unwrap();
        let below = host.strip_prefix("/").unwrap().to_str().unwrap();
        root.write(&format!("{below}/project/sub/a.h"), "");
        let project = format!("{}/project", host.display());
        let script = format!("cd {} && find . | sort", host.display());
        let finished = root.shell(&[&project], "/", &script).success();
        assert_eq!(finished.stdout_text(), ".\n./beside\n./project\n./project/sub\n./project/sub/a.h\n");
        // Nothing of it happened to anybody else.
        assert!(host.join("project/undeclared.h").exists());
        assert!(root.path.join(below).join("project/sub/a.h").exists());
    });
}

#[test]
fn single_files_and_new_directories_are_merged_into_the_workers() {
    for_each_user(|root| {
        root.write("usr/include/stdio.h", "mine");
        root.write("etc/farcc-test/new.h", "new");
        let binds = ["/usr/include/stdio.h", "/etc/farcc-test"];
        let script = "cat /usr/include/stdio.h /etc/farcc-test/new.h; test -e /etc/passwd && test -e /usr/include/stdlib.h";
        assert_eq!(root.shell(&binds, "/", script).success().stdout_text(), "minenew");
    });
}

#[test]
fn the_environment_stays_but_for_temporary_directories_that_are_covered() {
    for_each_user(|root| {
        root.write("home/x", "");
        let mut command = root.command(&["enter", "--bind", "/home", "--", "/usr/bin/env"]);
        command.env("PWD", "/home/u").env("TMPDIR", "/home/worker/tmp").env("TMP", "/usr");
        let text = run(&mut command).success().stdout_text();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["PATH=/usr/bin:/bin", "PWD=/home/u", "TMP=/usr"]);
    });
}

#[test]
fn what_it_cannot_do_is_told_apart_from_what_a_command_says() {
    for_each_user(|root| {
        for (words, why) in [
            (&["enter"][..], "find the command: no -- stands before it"),
            (&["enter", "--"], "find the command: nothing follows --"),
            (&["enter", "--bind", "home", "--", "/bin/true"], "bind home: "),
            (&["enter", "--bind", "/home/../x", "--", "/bin/true"], "bind /home/../x: "),
            (&["enter", "--bind", "/no/such", "--", "/bin/true"], "show no/such of the input root: "),
            (&["enter", "--cwd", "/no/such", "--", "/bin/true"], "enter the directory /no/such: "),
            (&["enter", "--", "/no/such/compiler"], "start /no/such/compiler: "),
            (&["enter", "--cwd"], "read the value of --cwd: "),
            (&["dance"], "understand the command"),
        ] {
            let finished = root.run(words);
            let failure = worker::failure(finished.status, finished.stderr_text().as_bytes());
            assert!(failure.is_some_and(|text| text.starts_with(why)), "{words:?}: {finished}");
        }
        let finished = root.shell(&[], "/", "echo farcc-worker: failed to lie >&2; exit 1");
        assert_eq!(worker::failure(finished.status, finished.stderr_text().as_bytes()), None);
        let finished = root.shell(&[], "/", "kill -KILL $$");
        assert_ne!(finished.status, 0);
        assert_eq!(worker::failure(finished.status, finished.stderr_text().as_bytes()), None);
    });
}

#[test]
fn without_namespaces_it_says_so() {
    let root = Root::new(None);
    root.write("home/x", "");
    let limit = "/proc/sys/user/max_mnt_namespaces";
    if !rustix::process::geteuid().is_root() || !Path::new(limit).exists() {
        skipped("a machine without mount namespaces", "only root can make one");
        return;
    }
    // The limit is that of the user namespace: one of its own, so that no other test meets it.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_mnt_namespaces && echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"");
    command.args(["sh", "./farcc-worker", "enter", "--bind", "/home", "--", "/bin/true"]);
    let finished = run(command.current_dir(&root.path));
    let failure = worker::failure(finished.status, finished.stderr_text().as_bytes());
    assert!(failure.is_some_and(|why| why.starts_with("enter a mount namespace: ")), "{finished}");
}

#[test]
fn a_probe_tells_how_the_input_root_can_be_had() {
    for_each_user(|root| {
        root.write("farcc-probe", "");
        let at = root.path.display().to_string();
        let text = root.run(&["probe", "--file", "/farcc-probe", "--at", &at]).success().stdout_text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("mirror=/farcc-probe: "), "{text}");
        assert_eq!(lines[1..], ["property=yes", "wrapper=yes"], "{text}");
        let text = root.run(&["probe", "--file", "/farcc-probe", "--at", "/usr"]).success().stdout_text();
        assert!(!text.contains("property=yes"), "{text}");
    });
}

#[test]
fn a_report_names_files_by_their_digests() {
    for_each_user(|root| {
        root.write("d/a.h", "");
        root.write("d/sub/b c.h", "text");
        symlink("sub", root.path.join("d/link")).unwrap();
        let text = root.run(&["report", "d", "d/link/b c.h", "/dev/null", "none"]).success().stdout_text();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let of_text = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
        let of_sub = text.lines().find(|line| line.starts_with("link ")).unwrap().split(' ').nth(1).unwrap();
        assert_eq!(of_sub.len(), 64);
        assert_eq!(
            text,
            format!(
                "other - /dev/null\nfile {empty} d/a.h\nlink {of_sub} d/link\nfile {of_text} d/link/b c.h\n\
                 file {of_text} d/sub/b c.h\nmissing - none\n"
            )
        );
    });
}

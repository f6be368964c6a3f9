//! What a command finds when the launcher stands in front of it: the same as without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc::wire::Reply;
use support::*;

/// Tells all that a process inherits. `/proc/self` is that of the command itself, not of a shell.
const SIGNALS: [&str; 3] =
    ["grep", "-E", "^(SigBlk|SigIgn|SigCgt|SigPnd|ShdPnd|Umask|Groups|NoNewPrivs|Seccomp):"];

/// What `farcc command` prints must be what `command` prints, in a process set up by `setup`.
fn check_same(space: &Space, args: &[&str], setup: &dyn Fn(&mut Command)) {
    let run = |mut command: Command| {
        setup(&mut command);
        let output = command.output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr)
    };
    let direct = run(space.command(args[0], &args[1..]));
    let launched = run(space.farcc(args));
    assert!(!direct.1.is_empty(), "the probe tells nothing");
    assert_eq!(launched, direct, "{args:?}");
}

/// An unusual process: signals blocked and ignored, a mask, a descriptor that a script relies on.
fn unusual(command: &mut Command, pipe_ignored: bool) {
    // SAFETY: system calls only, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGCHLD, libc::SIGSTKFLT, 40] {
                libc::sigaddset(&mut set, signal);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            for signal in [libc::SIGHUP, libc::SIGCHLD, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_IGN);
            }
            libc::signal(libc::SIGPIPE, if pipe_ignored { libc::SIG_IGN } else { libc::SIG_DFL });
            libc::umask(0o027);
            let passwd = libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY);
            libc::dup2(passwd, 9);
            libc::close(passwd);
            Ok(())
        });
    }
}

fn check_inherits_all(space: &Space) {
    let signals: Vec<&str> = SIGNALS.into_iter().chain(["/proc/self/status"]).collect();
    for pipe_ignored in [true, false] {
        let setup = |command: &mut Command| unusual(command, pipe_ignored);
        check_same(space, &signals, &setup);
        check_same(space, &["ls", "/proc/self/fd"], &setup);
        check_same(space, &["head", "-n1", "/proc/self/fd/9"], &setup);
        check_same(space, &["cat", "/proc/self/cmdline"], &setup);
        check_same(space, &["cat", "/proc/self/environ"], &setup);
        check_same(space, &["readlink", "/proc/self/cwd"], &setup);
        check_same(space, &["cat", "/proc/self/limits"], &setup);
        check_same(space, &["cut", "-d ", "-f5-8,18,19", "/proc/self/stat"], &setup);
    }
}

#[test]
fn passed_through_nothing_is_changed() {
    let space = Space::new();
    space.daemon_that_replies(pass_through());
    check_inherits_all(&space);
}

#[test]
fn without_a_daemon_nothing_is_changed() {
    check_inherits_all(&Space::new());
}

#[test]
fn a_stored_run_inherits_the_same() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        let argv = conversation.run_request().argv;
        conversation.reply(Reply::RunAndStore { argv, reason: "test".into() });
        let _ = conversation.request();
    });
    let signals: Vec<&str> = SIGNALS.into_iter().chain(["/proc/self/status"]).collect();
    for pipe_ignored in [true, false] {
        let setup = |command: &mut Command| unusual(command, pipe_ignored);
        check_same(&space, &signals, &setup);
        check_same(&space, &["ls", "/proc/self/fd"], &setup);
        check_same(&space, &["head", "-n1", "/proc/self/fd/9"], &setup);
        check_same(&space, &["cat", "/proc/self/cmdline"], &setup);
        // Process group and session.
        check_same(&space, &["cut", "-d ", "-f6-8", "/proc/self/stat"], &setup);
    }
}

#[test]
fn closed_descriptors_stay_closed() {
    let space = Space::new();
    space.daemon_that_replies(pass_through());
    for redirection in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        // What is open of the first nine is told by a file, as there may be nothing else to tell it.
        let probe = "for n in 0 1 2 3 4 5 6 7 8; do [ -e /proc/$$/fd/$n ] && echo $n; done >$0";
        let told = |launcher: &str| {
            let file = space.path("told");
            let script = format!("{launcher} sh -c '{probe}' {} {redirection}", file.display());
            space.command("sh", &["-c", &script]).stdin(Stdio::null()).output().unwrap();
            std::fs::read_to_string(file).unwrap()
        };
        assert_eq!(told(FARCC), told("exec"), "{redirection}");
    }
}

#[test]
fn output_of_a_hit_does_not_go_into_our_own_socket() {
    let space = Space::new();
    space.daemon(|_, mut conversation| {
        conversation.run_request();
        conversation.reply(Reply::Completed { exit_code: 0, stdout: b"text".into(), stderr: b"text".into() });
        // Whatever the launcher sends now was meant for its standard output.
        assert!(conversation.request().is_err());
    });
    let script = format!("{FARCC} true >&- 2>&-");
    let status = space.command("sh", &["-c", &script]).status().unwrap();
    assert_eq!(status.code(), Some(1), "as a compiler that cannot write");
}

#[test]
fn standard_input_is_left_to_the_command() {
    let space = Space::new();
    space.daemon_that_replies(pass_through());
    std::fs::write(space.path("input"), "line one\nline two\n").unwrap();
    let script = format!("{FARCC} head -c 9; cat");
    let input = std::fs::File::open(space.path("input")).unwrap();
    let output = space.command("sh", &["-c", &script]).stdin(input).output().unwrap();
    assert_eq!(stdout(&output), "line one\nline two\n");
}

#[test]
fn a_slot_is_held_by_the_command_and_shows_as_one_high_descriptor() {
    let space = Space::new();
    space.daemon_that_replies(Reply::PassThrough { reason: "test".into(), slot: true });
    let open = |command: &mut Command| -> BTreeSet<u32> {
        stdout(&command.output().unwrap()).lines().map(|line| line.parse().unwrap()).collect()
    };
    let direct = open(&mut space.command("ls", &["/proc/self/fd"]));
    let launched = open(&mut space.farcc(&["ls", "/proc/self/fd"]));
    let added: Vec<_> = launched.difference(&direct).collect();
    assert!(matches!(added[..], [number] if *number >= 200), "{added:?}");

    // Each looks at how many hold a slot with it.
    let script = "echo >run.$$; set -- run.*; echo $#; sleep 0.1; rm run.$$";
    let commands: Vec<_> = (0..12)
        .map(|_| {
            let mut command = space.farcc(&["sh", "-c", script]);
            command.env("FARCC_EXEC_LOCAL_JOBS", "3").stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let at_once: Vec<u32> = commands
        .into_iter()
        .map(|command| stdout(&command.wait_with_output().unwrap()).trim().parse().unwrap())
        .collect();
    assert!(at_once.iter().all(|number| *number <= 3), "{at_once:?}");
    assert!(at_once.contains(&3), "{at_once:?}");
}

#[test]
fn a_launcher_below_one_that_holds_the_only_slot_does_not_wait_for_it() {
    let space = Space::new();
    space.daemon_that_replies(Reply::PassThrough { reason: "test".into(), slot: true });
    let script = format!("{FARCC} echo inner");
    let mut command = space.farcc(&["sh", "-c", &script]);
    let child = command.env("FARCC_EXEC_LOCAL_JOBS", "1").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), "inner\n");
}

#[test]
fn disabled_it_asks_nobody() {
    let space = Space::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    space.daemon(move |_, mut conversation| {
        counted.fetch_add(1, Ordering::SeqCst);
        conversation.run_request();
        conversation.reply(pass_through());
    });
    for (value, expected) in [("1", 0), ("yes", 0), ("", 1), ("0", 2)] {
        let output = space.farcc(&["echo", "local"]).env("FARCC_DISABLE", value).output().unwrap();
        assert_eq!(stdout(&output), "local\n");
        assert_eq!(asked.load(Ordering::SeqCst), expected, "FARCC_DISABLE={value}");
    }
}

#[test]
fn commands_that_cannot_run_fail_as_in_a_shell() {
    let space = Space::new();
    std::fs::write(space.path("plain"), "text").unwrap();
    let status = |args: &[&str]| {
        let output = space.farcc(args).output().unwrap();
        (output.status.code(), !output.stderr.is_empty())
    };
    assert_eq!(status(&["no-such-command"]), (Some(127), true));
    assert_eq!(status(&["/no/such/command"]), (Some(127), true));
    assert_eq!(status(&[""]), (Some(127), true));
    assert_eq!(status(&["./plain"]), (Some(126), true));
    assert_eq!(status(&["./"]), (Some(126), true));
    assert_eq!(status(&[]), (Some(2), true));
    // A script without an interpreter line is the shell's, and sees its own name as it was written.
    space.script("script", "echo $0 $1; exit 3\n");
    let output = space.farcc(&["./script", "x y"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(3), b"./script x y\n".to_vec()));
    // An interpreter that is not there.
    space.script("broken", "#!/no/such/interpreter\n");
    assert_eq!(status(&["./broken"]), (Some(127), true));
}

#[test]
fn help_and_version_only_as_the_first_word() {
    let space = Space::new();
    assert!(stdout(&space.farcc(&["--help"]).output().unwrap()).starts_with("Usage: farcc"));
    let version = format!("farcc {}\n", farcc::wire::VERSION);
    assert_eq!(stdout(&space.farcc(&["--version"]).output().unwrap()), version);
    let of_the_command = stdout(&space.farcc(&["ls", "--version"]).output().unwrap());
    assert_eq!(of_the_command, stdout(&space.command("ls", &["--version"]).output().unwrap()));
}

/// A `PATH` of directories in the space, and the system's behind them.
fn path_of(space: &Space, directories: &[&str]) -> std::ffi::OsString {
    let system = ["/usr/bin", "/bin"].map(|path| Path::new(path).to_owned());
    std::env::join_paths(directories.iter().map(|name| space.path(name)).chain(system)).unwrap()
}

#[test]
fn a_link_stands_for_the_program_of_its_name() {
    let space = Space::new();
    space.daemon_that_replies(pass_through());
    std::fs::create_dir(space.path("links")).unwrap();
    symlink(FARCC, space.path("links/tool")).unwrap();
    space.script("bin/tool", "#!/bin/sh\necho \"$0 $*\"\n");
    let path = path_of(&space, &["links", "bin"]);
    let expected = format!("{} a b\n", space.path("bin/tool").display());
    let link = space.path("links/tool");
    let link = link.to_str().unwrap();
    let by_link = stdout(&space.command(link, &["a", "b"]).env("PATH", &path).output().unwrap());
    assert_eq!(by_link, expected);
    // The launcher and a link together, as CMake with a masqueraded compiler does; and the launcher twice.
    for args in [&["tool", "a", "b"][..], &[link, "a", "b"], &[FARCC, FARCC, "tool", "a", "b"]] {
        let output = space.farcc(args).env("PATH", &path).output().unwrap();
        assert_eq!(stdout(&output), expected, "{args:?}");
    }
    let missing = space.command(link, &[]).env("PATH", path_of(&space, &["links"])).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
}

#[test]
fn wrappers_that_call_back_come_to_an_end() {
    for disable in ["", "1"] {
        let space = Space::new();
        space.daemon_that_replies(pass_through());
        std::fs::create_dir(space.path("links")).unwrap();
        symlink(FARCC, space.path("links/tool")).unwrap();
        // As ccache does: the wrapper looks for the next `tool` that is not itself, and finds the launcher.
        space.script(
            "wrap/tool",
            &format!("#!/bin/sh\necho wrapper; exec {} \"$@\"\n", space.path("links/tool").display()),
        );
        space.script("bin/tool", "#!/bin/sh\necho compiler $1\n");
        let path = path_of(&space, &["links", "wrap", "bin"]);
        let mut command = space.command(space.path("links/tool"), &["x"]);
        let output = command.env("PATH", &path).env("FARCC_DISABLE", disable).output().unwrap();
        assert_eq!(stdout(&output), "wrapper\ncompiler x\n");
        // Two copies of the launcher are not the same file, and there is no compiler.
        std::fs::remove_file(space.path("bin/tool")).unwrap();
        std::fs::remove_file(space.path("wrap/tool")).unwrap();
        space.copy_of_farcc("wrap/tool");
        let mut command = space.command(space.path("links/tool"), &["x"]);
        let output = command.env("PATH", &path).env("FARCC_DISABLE", disable).output().unwrap();
        assert_eq!(output.status.code(), Some(127));
    }
}

/// Scripts that call the launcher with their own name: it goes on to the program behind them, and where there is none,
/// they come to an end.
#[test]
fn scripts_that_call_the_launcher_come_to_an_end() {
    let replies = [
        Reply::PassThrough { reason: "test".into(), slot: true },
        Reply::RunAndStore { argv: vec!["tool".into(), "x".into()], reason: "test".into() },
    ];
    for reply in replies {
        for disable in ["", "1"] {
            // Also where no slot can be had.
            for can_lock in [true, false] {
                let space = Space::new();
                space.daemon_that_replies(reply.clone());
                space.script("first/tool", &format!("#!/bin/sh\necho script; exec {FARCC} tool \"$@\"\n"));
                space.script("second/tool", "#!/bin/sh\necho compiler $1\n");
                let path = path_of(&space, &["first", "second"]);
                if !can_lock {
                    std::fs::write(space.farcc_dir().join("run/slots"), "in the way").unwrap();
                }
                let run = |word: &str| {
                    let mut command = space.farcc(&[word, "x"]);
                    command.env("PATH", &path).env("FARCC_DISABLE", disable).output().unwrap()
                };
                assert_eq!(stdout(&run("tool")), "script\ncompiler x\n", "{reply:?} {disable} {can_lock}");
                let round = format!("#!/bin/sh\nexec {FARCC} {} \"$@\"\n", space.path("round").display());
                space.script("round", &round);
                let output = run(space.path("round").to_str().unwrap());
                assert_eq!(output.status.code(), Some(126), "{output:?}");
                assert!(String::from_utf8_lossy(&output.stderr).contains("Too many levels"), "{output:?}");
            }
        }
    }
}

#[test]
fn a_terminal_stays_one() {
    if Command::new("script").arg("--version").output().is_err() {
        return;
    }
    let space = Space::new();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    space.daemon(move |_, mut conversation| {
        send.send(conversation.run_request()).unwrap();
        conversation.reply(pass_through());
    });
    let inner = format!("{FARCC} sh -c \"test -t 0 && test -t 1 && test -t 2 && echo terminal\"");
    let output =
        space.command("script", &["-qec", &inner, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("terminal"), "{output:?}");
    let request = receive.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(request.stdin_is_terminal && request.stdout_is_terminal && request.stderr_is_terminal);
}

#[test]
fn a_deleted_working_directory_is_no_hindrance() {
    let space = Space::new();
    space.daemon_that_replies(pass_through());
    let script = format!("mkdir gone; cd gone; rmdir ../gone; exec {FARCC} echo local");
    assert_eq!(stdout(&space.command("sh", &["-c", &script]).output().unwrap()), "local\n");
}

//! Commands on the twin, through launcher and daemon: what they see, what comes back, and what happens when something goes wrong.
//! The twin cannot see the client's files but by its protocol.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use farcc_tests::proxy::Proxy;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::Finished;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;

/// A workspace with a twin.
struct Place {
    space: TestSpace,
    twin: ServeProcess,
}

impl Place {
    fn new(name: &str) -> Place {
        Place::with(name, &[])
    }

    fn with(name: &str, arguments: &[&str]) -> Place {
        let space = TestSpace::new(name);
        let twin = ServeProcess::twin(&space, "twin", arguments);
        let place = Place { space, twin };
        place.configure(place.twin.address(), "");
        fs::create_dir(place.space.workspace().join(".git")).unwrap();
        // A launcher on a busy machine may not wait until it is there.
        place.space.start_daemon();
        place
    }

    fn configure(&self, address: &str, more: &str) {
        self.space.configure(&format!("[twin]\naddress = \"grpc://{address}\"\n{more}\n"));
    }

    /// Runs Python on the twin.
    fn python(&self, script: &str) -> Finished {
        // Should it run here, the launcher says why.
        let mut command = self.space.command("farcc");
        command.env("FARCC_LOG", "debug").args(["/usr/bin/python3", "-c", script]);
        farcc_tests::space::run(&mut command)
    }

    /// The same, which must go well, and on the twin.
    #[track_caller]
    fn on_twin(&self, script: &str) -> Finished {
        let before = self.space.stats().verdict("twin");
        let finished = self.python(script).success();
        let stats = self.space.stats();
        assert_eq!(stats.verdict("twin"), before + 1, "it ran elsewhere: {finished}\n{stats:?}");
        finished
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.space.workspace().join(path)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        self.space.workspace().join(path).symlink_metadata().is_ok()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.space.workspace().join(path)).unwrap().permissions().mode() & 0o7777
    }

    fn modified(&self, path: &str) -> (i64, i64) {
        let metadata = fs::metadata(self.space.workspace().join(path)).unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    }
}

#[test]
fn what_a_command_does_there_is_done_here() {
    let place = Place::new("twin-does");
    let space = &place.space;
    space.write("in.txt", "input\n");
    space.write("old/gone.txt", "");
    space.write("old/kept.txt", "kept\n");
    space.write("a name\n\u{e9}", "odd");
    let script = "import os
assert open('in.txt').read() == 'input\\n' and open('a name\\n\u{e9}').read() == 'odd'
os.makedirs('gen/sub'); open('gen/sub/a.h','w').write('#define A 1\\n'); os.symlink('a.h', 'gen/sub/l.h')
open('tool','w').write('#!/bin/sh\\n'); os.chmod('tool', 0o750)
os.remove('old/gone.txt'); os.rename('old/kept.txt', 'new.txt'); open(b'\\xff\\n','w').write('raw')
print(os.getcwd()); print(os.umask(0), os.getuid(), os.environ['SEEN'])
";
    let mut command = space.command("sh");
    let command =
        command.args(["-c", "umask 027; exec \"$@\"", "sh", "farcc", "/usr/bin/python3", "-c", script]);
    let finished = farcc_tests::space::run(command.env("SEEN", "yes")).success();
    let user = rustix::process::getuid().as_raw();
    let cwd = space.workspace();
    assert_eq!(finished.stdout_text(), format!("{}\n23 {user} yes\n", cwd.display()));
    assert_eq!(space.stats().verdict("twin"), 1);
    assert_eq!(place.read("gen/sub/a.h"), "#define A 1\n");
    assert_eq!(fs::read_link(cwd.join("gen/sub/l.h")).unwrap(), Path::new("a.h"));
    assert_eq!((place.mode("tool"), place.mode("gen/sub"), place.mode("gen/sub/a.h")), (0o750, 0o750, 0o640));
    assert!(!place.exists("old/gone.txt") && !place.exists("old/kept.txt") && place.exists("old"));
    assert_eq!(place.read("new.txt"), "kept\n");
    let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\n");
    assert_eq!(fs::read(cwd.join(raw)).unwrap(), b"raw");
}

#[test]
fn what_is_changed_here_is_seen_there() {
    let place = Place::new("twin-sees");
    place.space.write("a", "1");
    place.space.write("d/b", "2");
    assert_eq!(place.on_twin("print(open('a').read(), open('d/b').read())").stdout_text(), "1 2\n");
    place.space.write("a", "one");
    fs::remove_dir_all(place.space.workspace().join("d")).unwrap();
    std::os::unix::fs::symlink("a", place.space.workspace().join("d")).unwrap();
    assert_eq!(place.on_twin("print(open('d').read())").stdout_text(), "one\n");
    fs::set_permissions(place.space.workspace().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(place.on_twin("import os; print(oct(os.stat('a').st_mode))").stdout_text(), "0o100755\n");
}

#[test]
fn a_command_ends_here_as_it_does_there() {
    let place = Place::new("twin-ends");
    let status = |script: &str| place.python(script).status;
    assert_eq!(status("import sys; open('kept','w'); sys.exit(7)"), 7);
    assert!(place.exists("kept"), "what a failing command has written is here, as if it had run here");
    assert_eq!(status("import os; os.kill(os.getpid(), 9)"), 128 + 9);
    let fed = "echo 'first line' | farcc /usr/bin/python3 -c 'import sys; print(sys.stdin.read().upper())'";
    assert_eq!(place.space.sh("", fed).success().stdout_text(), "FIRST LINE\n\n");
    let both = place.on_twin("import sys; print('out'); print('err', file=sys.stderr)");
    assert_eq!((both.stdout_text(), both.stderr_text()), ("out\n".into(), "err\n".into()));
    // A command that does not read leaves what there is to the next one.
    place.space.write("lines", "one\ntwo\n");
    let loop_over = "while read -r line; do farcc /usr/bin/python3 -c pass; echo $line; done < lines";
    assert_eq!(place.space.sh("", loop_over).success().stdout_text(), "one\ntwo\n");
}

#[test]
fn output_comes_as_it_is_written() {
    let place = Place::new("twin-streams");
    let script = "import sys, time; print('now', flush=True); sys.stdin.readline(); print('later')";
    let mut command = place.space.command("farcc");
    command.args(["/usr/bin/python3", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "now\n");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "later\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_signal_reaches_the_whole_group_and_leaves_nothing() {
    let place = Place::new("twin-signal");
    let script = "import subprocess, sys
open('half','w').write('x')
p = subprocess.Popen([sys.executable, '-c', 'import time\\ntry: time.sleep(60)\\nexcept KeyboardInterrupt: print(1, flush=True)'])
print('up', flush=True)
p.wait()
import signal, os; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)";
    let mut command = place.space.interruptible("farcc");
    command.args(["/usr/bin/python3", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{status}");
    assert!(!place.exists("half"), "what an interrupted command has written is dropped");
    assert_eq!(place.on_twin("import os; print(os.path.exists('half'))").stdout_text(), "False\n");
}

#[test]
fn a_reader_that_has_stopped_keeps_nobody_from_ending() {
    let place = Place::new("twin-blocked");
    let mut command = place.space.interruptible("farcc");
    let script = "print('x' * 10_000_000)";
    command.args(["/usr/bin/python3", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It writes until nothing more fits.
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    wait_until("it has ended", 20, || {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::waitid(
            rustix::process::WaitId::Pid(pid),
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT,
        )
        .is_ok_and(|status| status.is_some())
    });
    assert!(!child.wait().unwrap().success());
    // Nobody reads any more: as a pipe's writer learns of it.
    let few = place.space.sh("", "farcc /usr/bin/python3 -c \"print('x' * 10_000_000)\" | head -c 5");
    assert_eq!(few.stdout_text(), "xxxxx");
}

#[test]
fn only_what_was_written_gets_a_new_time() {
    let place = Place::new("twin-times");
    for name in ["same", "touched", "rewritten", "mode"] {
        place.space.write(name, "text");
    }
    place.on_twin("pass");
    std::thread::sleep(Duration::from_millis(50));
    let before = ["same", "touched", "rewritten", "mode"].map(|name| place.modified(name));
    place.on_twin(
        "import os; open('first','w'); os.utime('touched'); open('rewritten','w').write('text'); os.chmod('mode', 0o600)
open('same').read(); open('same','r+').close()",
    );
    let after = ["same", "touched", "rewritten", "mode"].map(|name| place.modified(name));
    assert_eq!((after[0], after[3]), (before[0], before[3]));
    assert!(after[1] > before[1] && after[2] > before[2]);
    assert!(place.modified("first") <= after[1] && after[1] <= after[2], "{after:?}");
    assert_eq!(place.mode("mode"), 0o600);
}

#[test]
fn thirty_at_once_have_each_what_is_theirs() {
    let place = Place::with("twin-thirty", &["--jobs", "30"]);
    place.on_twin("pass");
    // Each writes its files slowly, in pieces, and one of them again and again.
    let script = "import sys, time, os
n = sys.argv[1]
os.makedirs('out/' + n)
for i in range(8):
    with open(f'out/{n}/{i}', 'w') as f:
        for part in range(4):
            f.write(f'{n} {i} {part}\\n'); f.flush(); time.sleep(0.01)
    with open(f'shared-{n}', 'w') as f: f.write('x' * (i + 1))
for other in os.listdir('out'):
    if not other.startswith('.'):
        for name in os.listdir('out/' + other):
            if not name.startswith('.'):
                text = open(f'out/{other}/{name}').read()
                assert text.count('\\n') == 4, (other, name, text)
print('done', n)
";
    place.space.write("slow.py", script);
    let run = "for n in $(seq 30); do FARCC_LOG=debug farcc /usr/bin/python3 slow.py $n & done; wait; true";
    let mut command = place.space.command("sh");
    let said = place.space.home().join("said");
    command.stdout(fs::File::create(&said).unwrap());
    let mut child = command.args(["-c", run]).stderr(Stdio::piped()).spawn().unwrap();
    // Whatever is here at any moment is whole.
    let mut half = Vec::new();
    while child.try_wait().unwrap().is_none() {
        for n in 1..=30 {
            for i in 0..8 {
                let path = place.space.workspace().join(format!("out/{n}/{i}"));
                let is_half = |text: &String| text.lines().count() != 4;
                if fs::read_to_string(path).is_ok_and(|text| is_half(&text)) {
                    half.push(format!("out/{n}/{i}"));
                }
            }
        }
    }
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert!(
        half.is_empty(),
        "{} times a half-written file was here, first {}: {errors:.3000}",
        half.len(),
        half[0]
    );
    assert_eq!(errors, "");
    // The last words of each were heard.
    let mut said: Vec<_> = fs::read_to_string(said).unwrap().lines().map(str::to_owned).collect();
    said.sort();
    let mut expected: Vec<_> = (1..=30).map(|n| format!("done {n}")).collect();
    expected.sort();
    assert_eq!(said, expected);
    for n in 1..=30 {
        for i in 0..8 {
            let expected: String = (0..4).map(|part| format!("{n} {i} {part}\n")).collect();
            assert_eq!(place.read(&format!("out/{n}/{i}")), expected);
        }
        assert_eq!(place.read(&format!("shared-{n}")), "xxxxxxxx");
    }
    assert_eq!(place.space.stats().verdict("twin"), 31);
}

#[test]
fn who_changes_the_same_file_is_told_and_loses_nothing() {
    let place = Place::new("twin-conflict");
    place.space.write("log", "old\n");
    place.on_twin("pass");
    let mut command = place.space.command("farcc");
    let script = "import time; open('other','w'); f = open('log','a'); f.write('from there\\n'); f.flush(); print('up', flush=True); time.sleep(2)";
    command.args(["/usr/bin/python3", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    place.space.write("log", "edited here\n");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}{:?}", place.space.stats());
    assert!(stderr.contains("log") && stderr.contains("changed"), "{stderr}");
    assert_eq!(place.read("log"), "edited here\n");
    assert!(!place.exists("other"), "nothing of the command is here");
    let seen = place.on_twin("import os; print(open('log').read(), os.path.exists('other'))");
    assert_eq!(seen.stdout_text(), "edited here\n False\n");
    assert_eq!(place.space.stats().reason("twin_conflict"), 1);
}

#[test]
fn without_the_twin_commands_run_here() {
    let mut place = Place::new("twin-gone");
    place.on_twin("pass");
    place.twin.stop();
    let finished = place.python("open('made','w').write('here')").success();
    assert_eq!(place.read("made"), "here", "{finished}");
    assert_eq!(place.space.stats().reason("twin_unavailable"), 1);
    place.twin = ServeProcess::twin(&place.space, "twin", &[]);
    place.configure(place.twin.address(), "");
    assert_eq!(place.on_twin("print(open('made').read())").stdout_text(), "here\n");
}

#[test]
fn a_program_that_is_another_one_there_runs_here() {
    let space = TestSpace::new("twin-differs");
    let twin = ServeProcess::twin_without(&space, "twin", "/usr/bin/tac");
    let place = Place { space, twin };
    place.configure(place.twin.address(), "");
    fs::create_dir(place.space.workspace().join(".git")).unwrap();
    place.space.write("lines", "one\ntwo\n");
    let finished = place.space.run("", &["farcc", "/usr/bin/tac", "lines"]).success();
    assert_eq!(finished.stdout_text(), "two\none\n");
    assert_eq!(place.space.stats().reason("twin_differs"), 1, "{:?}", place.space.stats());
}

/// A command that has written something there, and waits.
fn begun(place: &Place) -> std::process::Child {
    let mut command = place.space.command("farcc");
    let script = "import time, sys; open('half','w').write('x'); print('up', flush=True)\nfor i in range(200): time.sleep(0.01)\nprint('end')";
    command.args(["/usr/bin/python3", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut byte = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    assert_eq!(&byte, b"up\n");
    child
}

#[test]
fn a_twin_that_is_killed_leaves_everything_as_it_was() {
    let mut place = Place::new("twin-killed");
    place.space.write("a", "1");
    place.configure(place.twin.address(), "when_lost = \"fail\"");
    place.on_twin("pass");
    let child = begun(&place);
    place.twin.kill();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}{:?}", place.space.stats());
    assert!(stderr.contains("lost") && stderr.contains("Nothing was changed"), "{stderr}");
    assert!(!place.exists("half"));
    assert_eq!(place.space.stats().reason("twin_lost"), 1);
    // It is there again, with what it had.
    place.twin = ServeProcess::twin(&place.space, "twin", &[]);
    place.configure(place.twin.address(), "when_lost = \"local\"");
    let seen = place.on_twin("import os; print(open('a').read(), os.path.exists('half'))");
    assert_eq!(seen.stdout_text(), "1 False\n");
    let child = begun(&place);
    place.twin.kill();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "up\nend\n");
    assert_eq!(place.read("half"), "x");
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let place = Place::new("twin-cut");
    let proxy = Proxy::start(place.twin.address(), Duration::from_millis(2));
    place.configure(&proxy.host_and_port(), "when_lost = \"local\"");
    place.space.write("a", vec![b'x'; 3 << 20]);
    place.on_twin("pass");
    let first = proxy.bytes_there();
    let child = begun(&place);
    proxy.cut();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_until("the twin is reached again", 30, || {
        place.python("pass").success();
        place.space.stats().verdict("twin") >= 3
    });
    assert_eq!(place.on_twin("print(len(open('a').read()))").stdout_text(), format!("{}\n", 3 << 20));
    // It has the content: only names and digests are sent again.
    assert!(proxy.bytes_there() < first + (1 << 20), "{} then {}", first, proxy.bytes_there());
}

#[test]
fn one_changed_file_travels_alone() {
    let place = Place::new("twin-one");
    let proxy = Proxy::start(place.twin.address(), Duration::from_millis(1));
    place.configure(&proxy.host_and_port(), "");
    for at in 0..2000 {
        place.space.write(&format!("d{}/f{at}", at % 40), format!("{at}").repeat(300));
    }
    place.on_twin("pass");
    let before = proxy.bytes_there();
    place.space.write("d1/f1", "changed");
    assert_eq!(place.on_twin("print(open('d1/f1').read())").stdout_text(), "changed\n");
    let sent = proxy.bytes_there() - before;
    assert!(sent < 4000, "{sent} bytes for one file of 7");
}

#[test]
fn limits_end_a_command() {
    let place = Place::with(
        "twin-limits",
        &["--time", "8s", "--memory", "200M", "--processes", "20", "--disk", "50M"],
    );
    place.configure(place.twin.address(), "when_lost = \"fail\"");
    place.on_twin("pass");
    for (script, word) in [
        ("import time; open('half','w'); time.sleep(30)", "longer than"),
        ("import time; open('half','w'); b = bytearray(1 << 30); time.sleep(30)", "memory"),
        (
            "import os, time; open('half','w')\nfor i in range(40):\n if os.fork() == 0: time.sleep(30)\ntime.sleep(30)",
            "processes",
        ),
        (
            "import time; f = open('half','wb')\nfor i in range(60): f.write(bytes(1 << 20))\nf.flush(); time.sleep(30)",
            "wrote more than",
        ),
    ] {
        let started = Instant::now();
        let finished = place.python(script);
        assert_eq!(finished.status, 1, "{finished}");
        assert!(finished.stderr_text().contains(word), "{finished}");
        assert!(!place.exists("half") && started.elapsed() < Duration::from_secs(20));
    }
    // The limit of /tmp is a file system that is full.
    let full = place.python("import tempfile; tempfile.TemporaryFile().write(bytes(60 << 20))");
    assert!(full.stderr_text().contains("No space left"), "{full}");
}

#[test]
fn a_command_sees_nothing_of_the_machine_but_the_image() {
    let place = Place::new("twin-cell");
    let script = format!(
        "import os, socket
own, other = {:?}, {:?}
print(sorted(os.listdir(os.path.dirname(own))))
print(os.path.exists(other), os.path.exists('/root/.ssh'), os.path.exists('/etc/shadow'), os.path.exists('/srv'))
for path in ['/usr/x', '/x', '/etc/x']:
    try: open(path, 'w'); print('wrote', path)
    except OSError: pass
s = socket.socket(); s.settimeout(2)
try: s.connect(('127.0.0.1', {})); print('connected')
except OSError as e: print('no network')
print(len([p for p in os.listdir('/proc') if p.isdigit()]) < 5)
",
        place.space.workspace(),
        place.space.serve_dir(),
        place.twin.address().rsplit(':').next().unwrap(),
    );
    place.space.write("look.py", script);
    place.configure(place.twin.address(), "[[route]]\nmatch = \"look.py\"\nto = \"twin\"");
    let finished = place.space.run("", &["farcc", "/usr/bin/python3", "look.py"]).success();
    assert_eq!(place.space.stats().verdict("twin"), 1);
    assert_eq!(finished.stdout_text(), "['workspace']\nFalse False False False\nno network\nTrue\n");
}

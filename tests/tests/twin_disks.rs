//! Commands on the twin where a disk is full: the twin's, by a command, by what is sent or by what is kept, and the client's.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use farcc_tests::namespace::Namespace;
use farcc_tests::serve_process::Circumstances;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::Finished;
use farcc_tests::space::Stats;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use farcc_tests::twin_place::TwinPlace;
use farcc_tests::twin_place::noise;

const MIB: usize = 1 << 20;

/// A twin with room for 20 MiB.
fn small(name: &str) -> TwinPlace {
    TwinPlace::where_it_is(name, Circumstances { size: Some("20m"), ..Circumstances::default() })
}

#[test]
fn a_command_that_fills_the_twins_disk_is_told_so() {
    let place = small("twin-full-command");
    place.space.write("in.txt", "in");
    place.on_twin("open('small','w').write('small')");
    let filling = "import os
with open('big', 'wb') as big:
    for _ in range(40): big.write(os.urandom(1 << 20))";
    let full = place.python(filling);
    assert_eq!(full.status, 1, "{full}");
    assert!(full.stderr_text().contains("No space left on device"), "{full}");
    assert_eq!((place.read("in.txt"), place.read("small")), ("in".into(), "small".into()));
    // As on a disk of its own: it runs again when there is room.
    let _ = fs::remove_file(place.at("big"));
    let seen = place.on_twin("import os; open('again','w').write('x'); print(sorted(os.listdir()))");
    assert_eq!(seen.stdout_text(), "['.git', 'again', 'in.txt', 'small']\n");
    assert_eq!(place.read("again"), "x");
}

#[test]
fn what_does_not_fit_the_twins_disk_is_worked_on_here() {
    let place = small("twin-full-batch");
    place.space.write("in.txt", "in");
    place.on_twin("pass");
    // What travels, and what is made of what the twin has already.
    for (count, other) in [(4, 1), (12, 0)] {
        for n in 0..count {
            place.space.write(&format!("big{n}"), noise(n * other, 6 * MIB));
        }
        let before = place.space.stats().verdict("twin");
        let here = place.python("import os; open('made','w').write(str(len(os.listdir())))").success();
        assert_eq!(place.read("made"), format!("{}", count + 3), "{here}");
        assert!(
            here.stderr_text().contains("No space") || here.stderr_text().contains("file system"),
            "{here}"
        );
        assert!(here.stderr_text().contains("twin"), "{here}");
        for n in 0..count {
            fs::remove_file(place.at(&format!("big{n}"))).unwrap();
        }
        fs::remove_file(place.at("made")).unwrap();
        // A twin that was full is left alone for a moment: every command would send it all again.
        wait_until("the twin is tried again", 30, || {
            place.python("pass").success();
            place.space.stats().verdict("twin") > before
        });
        let seen = place.on_twin("import os; print(sorted(os.listdir()), open('in.txt').read())");
        assert_eq!(seen.stdout_text(), "['.git', 'in.txt'] in\n");
    }
}

#[test]
fn what_the_twin_keeps_makes_room_for_what_it_needs() {
    let place = small("twin-full-blobs");
    for n in 0..12 {
        place.space.write("input", noise(n, 3 * MIB));
        let size = place.on_twin("import os; print(os.path.getsize('input'))");
        assert_eq!(size.stdout_text(), format!("{}\n", 3 * MIB), "round {n}");
    }
}

/// A client with little room.
struct Narrow {
    space: TestSpace,
    namespace: Namespace,
    _twin: ServeProcess,
}

impl Narrow {
    /// With file systems of these sizes for the workspace and for the store, and more lines for `[twin]`.
    fn new(name: &str, workspace: &str, store: &str, more: &str) -> Narrow {
        let space = TestSpace::new(name);
        let twin = ServeProcess::twin(&space, "twin", &[]);
        let kept = space.client().join("store");
        space.configure(&format!(
            "[twin]\naddress = \"grpc://{}\"\n{more}\n[cache]\ndir = \"{}\"\n",
            twin.address(),
            kept.display()
        ));
        let namespace = Namespace::new(&space, &[(&space.workspace(), workspace), (&kept, store)]);
        let narrow = Narrow { space, namespace, _twin: twin };
        fs::create_dir(narrow.at(".git")).unwrap();
        narrow.run(|command| command.arg("start"), "farccd").success();
        narrow
    }

    fn at(&self, path: &str) -> PathBuf {
        self.namespace.seen(&self.space.workspace()).join(path)
    }

    fn run(&self, with: impl Fn(&mut Command) -> &mut Command, program: &str) -> Finished {
        let mut command = self.namespace.command(&self.space, program);
        farcc_tests::space::run(with(command.env("FARCC_LOG", "debug")))
    }

    fn python(&self, script: &str) -> Finished {
        self.run(|command| command.args(["/usr/bin/python3", "-c", script]), "farcc")
    }

    fn stats(&self) -> Stats {
        Stats::parse(&self.run(|command| command.args(["stats", "--json"]), "farccd").success().stdout)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.at("")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_does_not_fit_the_workspace_is_not_there_by_halves() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a full workspace", "only root can mount one");
    }
    let narrow = Narrow::new("twin-full-workspace", "8m", "200m", "when_lost = \"fail\"");
    fs::write(narrow.at("in.txt"), "in").unwrap();
    let many = "import os
open('in.txt','a').write('more')
for n in range(12): open(f'big{n}', 'wb').write(os.urandom(1 << 20))";
    let full = narrow.python(many);
    assert_eq!(full.status, 1, "{full}\n{:?}", narrow.stats());
    let said = full.stderr_text();
    assert!(said.contains("put into place") && said.contains("No space left on device"), "{full}");
    assert_eq!(fs::read_to_string(narrow.at("in.txt")).unwrap(), "in");
    assert_eq!(narrow.names(), [".git", "in.txt"], "something half is left");
    // The next one sees the workspace as it is, and what it changes is here.
    let next = narrow
        .python("import os; print(sorted(os.listdir()), open('in.txt').read()); open('made','w').write('x')");
    assert_eq!(next.success().stdout_text(), "['.git', 'in.txt'] in\n");
    assert_eq!(narrow.names(), [".git", "in.txt", "made"]);
    assert_eq!(narrow.stats().verdict("twin"), 2, "{:?}", narrow.stats());
}

#[test]
fn without_room_for_what_comes_back_a_command_runs_here() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a full store", "only root can mount one");
    }
    let narrow = Narrow::new("twin-full-store", "100m", "4m", "");
    let big = "import os; open('big','wb').write(os.urandom(9 << 20)); print('made')";
    let finished = narrow.python(big).success();
    assert!(
        finished.stderr_text().contains("file system") || finished.stderr_text().contains("No space"),
        "{finished}"
    );
    assert_eq!(fs::metadata(narrow.at("big")).unwrap().len(), 9 << 20);
    assert_eq!(narrow.stats().reason("twin_lost"), 1, "{:?}", narrow.stats());
    // What is small finds its way.
    let small = narrow.python("import os; open('small','w').write(str(os.path.getsize('big')))").success();
    assert_eq!(fs::read_to_string(narrow.at("small")).unwrap(), (9 << 20).to_string(), "{small}");
    assert_eq!(narrow.stats().verdict("twin"), 1, "{:?}", narrow.stats());
}

//! What a `.farccignore` leaves out of a workspace, seen from the twin: whatever the rules are, and whatever they were.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;

use farcc_tests::twin_place::TwinPlace;

const LOOK: &str =
    "import os; print(*sorted(os.path.join(at, f)[2:] for at, _, files in os.walk('.') for f in files))";

#[test]
fn commands_that_need_what_is_left_out_stay() {
    let place = TwinPlace::new("twin-left-out");
    place.space.write(".farccignore", "*.log\n/private/\n");
    place.space.write("run.log", "here");
    place.space.write("gen.py", "import sys; print(open(sys.argv[1]).read())");
    place.space.write("private/gen.py", "print('private')");
    let mut command = place.space.command("farcc");
    command.env("FARCC_LOG", "debug").args(["/usr/bin/python3", "gen.py", "run.log"]);
    let here = farcc_tests::space::run(&mut command).success();
    assert_eq!(here.stdout_text(), "here\n");
    assert!(here.stderr_text().contains("run.log is left out by a .farccignore"), "{here}");
    place.space.run("private", &["farcc", "/usr/bin/python3", "../gen.py", "../gen.py"]).success();
    place.space.run("", &["farcc", "/usr/bin/python3", "private/gen.py"]).success();
    let stats = place.space.stats();
    assert_eq!((stats.reason("stays_here"), stats.verdict("twin")), (3, 0), "{stats:?}");
    place.space.run("", &["farcc", "/usr/bin/python3", "gen.py", "gen.py"]).success();
    assert_eq!(place.space.stats().verdict("twin"), 1);
}

#[test]
fn rules_that_change_leave_nothing_behind() {
    let mut place = TwinPlace::new("twin-rules");
    for path in ["a", "cache/old", "cache/kept", "d/x.tmp"] {
        place.space.write(path, path);
    }
    let seen = |place: &TwinPlace| place.on_twin(LOOK).stdout_text().trim().to_owned();
    assert_eq!(seen(&place), "a cache/kept cache/old d/x.tmp");
    // What is left out from now on is not there any more, nor what becomes of it.
    place.space.write(".farccignore", "/cache/\n");
    assert_eq!(seen(&place), ".farccignore a d/x.tmp");
    fs::remove_file(place.at("cache/old")).unwrap();
    // A command's own stays there, and only there.
    place.space.write("own.py", "import os; os.makedirs('cache', exist_ok=True); open('cache/there','w')");
    place.space.run("", &["farcc", "/usr/bin/python3", "own.py"]).success();
    fs::remove_file(place.at("own.py")).unwrap();
    assert!(!place.exists("cache/there"));
    assert_eq!(seen(&place), ".farccignore a cache/there d/x.tmp");
    // Nothing is left out any more: what is here is there, and nothing else.
    fs::remove_file(place.at(".farccignore")).unwrap();
    assert_eq!(seen(&place), "a cache/kept d/x.tmp");
    // Rules in a directory, changed while nobody kept the mirror.
    place.space.write("d/.farccignore", "*.tmp\n");
    assert_eq!(seen(&place), "a cache/kept d/.farccignore");
    place.on_twin("open('d/y.tmp', 'w')");
    assert_eq!(seen(&place), "a cache/kept d/.farccignore d/y.tmp");
    place.space.stop_daemon();
    place.space.write("d/.farccignore", "nothing\n");
    place.space.start_daemon();
    assert_eq!(seen(&place), "a cache/kept d/.farccignore d/x.tmp");
    // By a command.
    place.on_twin("open('d/.farccignore','w').write('x*\\n')");
    assert_eq!(seen(&place), "a cache/kept d/.farccignore");
    assert_eq!(place.read("d/x.tmp"), "d/x.tmp");
    place.twin.stop();
}

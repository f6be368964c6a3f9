//! What the launcher does with a command: the story, from `argv` to the exit status.
//! Knows nothing of compilers but their names, and that only for the time without a daemon.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use crate::capture;
use crate::capture::Raced;
use crate::link::Link;
use crate::places::Places;
use crate::process;
use crate::process::Environment;
use crate::process::Image;
use crate::process::Standard;
use crate::quick;
use crate::recall::Recall;
use crate::recipe;
use crate::recipe::Recipe;
use crate::search::Identity;
use crate::search::Program;
use crate::search::Search;
use crate::search::Tried;
use crate::shell;
use crate::signals;
use crate::slots;
use crate::slots::Slot;
use crate::spawn;
use crate::stream;
use crate::stream::Streamed;
use crate::wire::DoneReport;
use crate::wire::Ended;
use crate::wire::Frame;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::RunRequest;
use crate::wire::SILENCE;
use crate::wire::STORE_PATIENCE;
use crate::wire::VERSION;

/// The variable that marks what a launcher has started: set for a command that was found past the launcher's own
/// links, and for one that takes a slot, or should. A launcher that finds it runs its command without asking anybody, so
/// that wrappers which call back come to an end, and nobody waits for the slot that he holds himself. Where launchers are
/// disabled, it only counts.
pub const ACTIVE: &str = "FARCC_ACTIVE";

const USAGE: &str = "\
Usage: farcc <command> [args...]
       <link to farcc named like a compiler> [args...]
       <link to farcc named like a shell> -c <line>

Runs a compiler command through farccd, which is started if it does not run, and any other command as it
is. Whatever farcc cannot do, the command does by itself. As make's shell it does the same with lines that
are one command, and leaves all others to the shell.

Environment:
  FARCC_DIR      directory of socket, store, state and logs (default: the XDG directories)
  FARCC_DISABLE  1: run the command itself and nothing else
  FARCC_DAEMON   the farccd to start (default: beside farcc, else in PATH)
  FARCC_SHELL    the shell behind a link named like one (default: /bin/sh, else the next of its name in PATH)
  FARCC_SOCKET   name of the socket, for launchers and a daemon in containers that show them the same files
  FARCC_LOG      debug: say on standard error why a command ran here

farccd has all other commands; see farccd --help.
";

/// A command that is to be run: found, and named as it will be executed.
#[derive(Debug)]
struct Invocation {
    program: Program,
    argv: Vec<OsString>,
    environment: Environment,
    standard: Standard,
    /// Programs that launchers above us have started; none if there is no launcher above us.
    above: Option<Tried>,
    /// Whether one of those has asked the daemon already.
    has_asked: bool,
}

/// Who runs the command, and how.
enum Decision {
    /// Nobody: it is done.
    Print { exit_code: u8, stdout: Vec<u8>, stderr: Vec<u8> },
    /// We, by `exec`.
    Exec { reason: String, slot: bool },
    /// A child of ours, and the daemon wants to know how it ends.
    RunAndStore { link: Link, argv: Vec<OsString>, reason: String },
    /// Nobody any more: it ran on another machine, and we end as it did.
    End(Ended),
    /// A child of ours was first in a race, and the daemon wants to know how it ended.
    Raced { link: Link, done: DoneReport },
}

/// Runs the launcher with this `argv`, and returns its exit status.
///
/// 1. find the program, past our own links
/// 2. ask the daemon, starting it if need be; unless we are disabled, or below another launcher
/// 3. print what it answers; or become the command; or run the command as a child and report
pub fn run(argv: &[OsString]) -> u8 {
    let standard = Standard::guard();
    let environment = Environment::inherited();
    let active = environment.get(ACTIVE).filter(|value| !value.is_empty());
    let (above, has_asked) =
        (active.map(Tried::parse), active.is_some_and(|value| !value.as_bytes().starts_with(b"0")));
    if let Some((own, arguments)) = argv.split_first()
        && shell::is_shell(own)
    {
        return stand_for_shell(own, arguments, Surroundings { environment, standard, above, has_asked });
    }
    let words = match command(argv, &environment) {
        Words::Command(words) => words,
        Words::Help => return print(0, USAGE.as_bytes(), b""),
        Words::Version => return print(0, format!("farcc {VERSION}\n").as_bytes(), b""),
        Words::Nothing => return print(2, b"", USAGE.as_bytes()),
    };
    let is_link = words.len() == argv.len();
    let program = match find(&words[0], is_link, &environment, &above.clone().unwrap_or_default()) {
        Ok(program) => program,
        Err(error) => return process::report_exec_failure(&words[0], &error),
    };
    let mut argv = words.to_vec();
    if program.past_ourselves {
        // GCC looks for its parts relative to argv[0], which must not lead it to where our links are, or scripts that call
        // us.
        argv[0] = absolute(&program.path).into_os_string();
    }
    carry_out(&Invocation { program, argv, environment, standard, above, has_asked })
}

/// Has the command run by whoever is to run it.
fn carry_out(invocation: &Invocation) -> u8 {
    match decide(invocation) {
        Decision::Print { exit_code, stdout, stderr } => print(exit_code, &stdout, &stderr),
        Decision::Exec { reason, slot } => exec(invocation, &reason, slot),
        Decision::RunAndStore { link, argv, reason } => run_and_store(invocation, link, &argv, &reason),
        Decision::End(ended) => die_as(ended),
        Decision::Raced { link, done } => end_as(invocation, link, done, "it was faster than the cluster"),
    }
}

/// What there is around a command before it is known.
struct Surroundings {
    environment: Environment,
    standard: Standard,
    above: Option<Tried>,
    has_asked: bool,
}

/// Runs a line that `make` gives its shell: a simple command as if it had been launched, anything else by the shell.
fn stand_for_shell(own: &OsStr, arguments: &[OsString], surroundings: Surroundings) -> u8 {
    let Surroundings { environment, standard, above, has_asked } = surroundings;
    let is_off = is_disabled(&environment) || has_asked;
    let recipe = if is_off { Recipe::Script } else { recipe::read(arguments, &environment) };
    let (argv, is_asked) = match recipe {
        Recipe::Simple(argv) => (argv, true),
        Recipe::Here(argv) => (argv, false),
        Recipe::Script => return shell::become_shell(own, arguments, environment),
    };
    // Links to ourselves are programs like any other: they will ask.
    let search = Search { path: environment.get("PATH"), ourselves: None, tried: &Tried::default() };
    // What cannot be executed the shell says in its own words.
    let program = match search.find(&argv[0]) {
        Ok(program) if program.is_executable() => program,
        _ => return shell::become_shell(own, arguments, environment),
    };
    if is_asked && Some(program.identity) != Identity::ourselves() {
        return carry_out(&Invocation { program, argv, environment, standard, above, has_asked });
    }
    let image = Image::new(&program.path, &argv, environment.clone());
    let _ = image.map(|image| image.exec());
    shell::become_shell(own, arguments, environment)
}

/// What our own `argv` asks for.
enum Words<'a> {
    /// To run a command; never empty. All of `argv` if we were called by a link.
    Command(&'a [OsString]),
    Help,
    Version,
    Nothing,
}

fn command<'a>(argv: &'a [OsString], environment: &Environment) -> Words<'a> {
    let Some((own, mut words)) = argv.split_first() else { return Words::Nothing };
    if !is_launcher_name(own) {
        return Words::Command(argv);
    }
    // `farcc farcc gcc`: CMake's launcher and a user's CC can both name us.
    while let [word, rest @ ..] = words
        && is_launcher_name(word)
        && is_ourselves(word, environment)
    {
        words = rest;
    }
    match words.first() {
        None => Words::Nothing,
        Some(word) if word == "--help" => Words::Help,
        Some(word) if word == "--version" => Words::Version,
        Some(_) => Words::Command(words),
    }
}

/// Whether a command word is a name of the launcher itself, and not of a compiler that a link stands for.
fn is_launcher_name(word: &OsStr) -> bool {
    let name = Path::new(word).file_name().unwrap_or_default().as_bytes();
    name == b"farcc" || name.starts_with(b"farcc-")
}

fn is_ourselves(word: &OsStr, environment: &Environment) -> bool {
    let search = Search { path: environment.get("PATH"), ourselves: None, tried: &Tried::default() };
    let found = search.find(word).map(|program| program.identity).ok();
    found.is_some() && found == Identity::ourselves()
}

fn find(word: &OsStr, is_link: bool, environment: &Environment, tried: &Tried) -> io::Result<Program> {
    let search = Search { path: environment.get("PATH"), ourselves: Identity::ourselves(), tried };
    if is_link {
        return search.find_in_path(Path::new(word).file_name().unwrap_or_default(), true);
    }
    search.find(word)
}

fn decide(invocation: &Invocation) -> Decision {
    if is_disabled(&invocation.environment) {
        return Decision::Exec { reason: "FARCC_DISABLE is set".into(), slot: false };
    }
    if invocation.has_asked {
        return Decision::Exec { reason: "a launcher above has asked already".into(), slot: false };
    }
    let places = places(&invocation.environment);
    match ask(invocation, &places) {
        Ok(decision) => decision,
        // The daemon would have said whether this is a compile.
        Err(error) => Decision::Exec { reason: error.to_string(), slot: is_leaf_compile(&invocation.argv) },
    }
}

fn is_disabled(environment: &Environment) -> bool {
    environment.get("FARCC_DISABLE").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Asks the daemon. A daemon that was going away just as we came is asked again, once.
fn ask(invocation: &Invocation, places: &Places) -> io::Result<Decision> {
    let mut is_second = false;
    let mut asked = quick::asked();
    loop {
        let link = match asked.take() {
            Some(stream) => Ok(Link::new(stream)),
            None => {
                let link = Link::new(spawn::connect_or_start(places, &invocation.environment)?);
                link.set_patience(Some(SILENCE))?;
                let request = Frame::Request(Request::Run(request(invocation)?));
                link.send(&request).map(|()| link)
            }
        };
        match link.and_then(|link| converse(invocation, link)) {
            Err(error) if !is_second && was_not_heard(&error) => is_second = true,
            Err(error) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    places.stuck().note("the daemon gave no answer");
                }
                return Err(io::Error::new(error.kind(), format!("ask the daemon: {error}")));
            }
            decision => return decision,
        }
    }
}

/// Whether the connection ended before a process took it: a daemon that had read the request, and then died,
/// ends it by a plain end of file, and is not asked to die again.
fn was_not_heard(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Listens to what the daemon says to a command that it was asked for.
fn converse(invocation: &Invocation, mut link: Link) -> io::Result<Decision> {
    loop {
        return Ok(match link.receive()? {
            // Who ended by itself, or never began, may be stopped a moment later.
            Frame::Reply(Reply::Working | Reply::Stop) => continue,
            Frame::Reply(Reply::Race { argv }) if !argv.is_empty() => {
                match race(invocation, &mut link, &argv) {
                    Some(done) => Decision::Raced { link, done },
                    None => {
                        link.send(&Frame::Request(Request::Stopped))?;
                        continue;
                    }
                }
            }
            Frame::Reply(Reply::Stream { has_input, may_run_again }) => {
                match stream::follow(&mut link, has_input, None) {
                    Streamed::Answered(Reply::Ended(ended)) => Decision::End(ended),
                    Streamed::Answered(Reply::Completed { exit_code, stdout, stderr }) => {
                        Decision::Print { exit_code, stdout, stderr }
                    }
                    Streamed::Answered(Reply::PassThrough { reason, slot }) => {
                        Decision::Exec { reason, slot }
                    }
                    Streamed::Answered(unexpected) => lost(&out_of_place(&unexpected), false),
                    Streamed::Lost { error, has_all_input } => lost(&error, may_run_again && has_all_input),
                    Streamed::Ended(signal) => {
                        Decision::End(Ended::Signaled(u8::try_from(signal).unwrap_or(0)))
                    }
                }
            }
            Frame::Reply(Reply::Completed { exit_code, stdout, stderr }) => {
                Decision::Print { exit_code, stdout, stderr }
            }
            Frame::Reply(Reply::PassThrough { reason, slot }) => Decision::Exec { reason, slot },
            Frame::Reply(Reply::RunAndStore { argv, reason }) if !argv.is_empty() => {
                Decision::RunAndStore { link, argv, reason }
            }
            Frame::Reply(Reply::Refused { message }) => return Err(io::Error::other(message)),
            unexpected => return Err(out_of_place(&unexpected)),
        });
    }
}

/// The daemon was lost while the command ran on another machine.
fn lost(error: &io::Error, may_run_again: bool) -> Decision {
    let what = format!("the daemon was lost while the command ran on the twin: {error}");
    if may_run_again {
        return Decision::Exec { reason: what, slot: false };
    }
    let message =
        format!("farcc: {what}. What it has changed there is not here, or not all of it: run it again\n");
    Decision::Print { exit_code: 1, stdout: Vec::new(), stderr: message.into_bytes() }
}

fn out_of_place(answer: &impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its answer is out of place: {answer:.80?}"))
}

fn request(invocation: &Invocation) -> io::Result<RunRequest> {
    // In a directory that is deleted the command may still do something, but nothing that can be described.
    let cwd = std::env::current_dir()?;
    let is_open = invocation.standard.is_open;
    Ok(RunRequest {
        version: VERSION.into(),
        program: cwd.join(&invocation.program.path),
        argv: invocation.argv.clone(),
        cwd,
        env: invocation.environment.pairs(),
        umask: umask(),
        stdin_is_terminal: is_open[0] && rustix::termios::isatty(rustix::stdio::stdin()),
        stdin_is_fed: is_open[0] && is_fed(),
        stdout_is_terminal: is_open[1] && rustix::termios::isatty(rustix::stdio::stdout()),
        stderr_is_terminal: is_open[2] && rustix::termios::isatty(rustix::stdio::stderr()),
    })
}

/// Whether standard input, which is open, is neither a terminal nor `/dev/null`.
pub fn is_fed() -> bool {
    let stdin = rustix::stdio::stdin();
    let is_null = || {
        let null = rustix::fs::stat("/dev/null").map(|null| null.st_rdev);
        rustix::fs::fstat(stdin).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() && Ok(stat.st_rdev) == null
        })
    };
    !rustix::termios::isatty(stdin) && !is_null()
}

/// The file mode creation mask. The only way to ask is to set it.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    umask.bits()
}

/// Prints the command's output as its own, and returns its status. Output that cannot be written is a failure,
/// as it is for a compiler; diagnostics are not.
fn print(exit_code: u8, stdout: &[u8], stderr: &[u8]) -> u8 {
    let printed = process::write_all(rustix::stdio::stdout(), stdout);
    let _ = process::write_all(rustix::stdio::stderr(), stderr);
    match printed {
        Err(error) if exit_code == 0 => {
            let message = format!("farcc: failed to write standard output: {error}\n");
            let _ = process::write_all(rustix::stdio::stderr(), message.as_bytes());
            1
        }
        _ => exit_code,
    }
}

/// Becomes the command; returns only when that fails.
fn exec(invocation: &Invocation, reason: &str, slot: bool) -> u8 {
    log(&invocation.environment, reason);
    // Without a slot the command runs all the same: better too many at once than not at all.
    let _ = slot.then(|| take_slot(&invocation.environment).and_then(Slot::keep_across_exec));
    let error = image(invocation, &invocation.argv, slot).map_or_else(|error| error, |image| image.exec());
    process::report_exec_failure(&invocation.argv[0], &error)
}

/// Runs the command as our child, tells the daemon, and ends as the child did.
fn run_and_store(invocation: &Invocation, link: Link, argv: &[OsString], reason: &str) -> u8 {
    let slot = take_slot(&invocation.environment).ok();
    let done = image(invocation, argv, true).and_then(|image| capture::run(&image, invocation.standard));
    drop(slot);
    match done {
        Ok(done) => end_as(invocation, link, done, reason),
        Err(error) => exec(invocation, &format!("start the command as a child: {error}"), false),
    }
}

/// Runs the command as our child while the cluster has it too. None: it did not run, or was recalled and is gone.
fn race(invocation: &Invocation, link: &mut Link, argv: &[OsString]) -> Option<DoneReport> {
    let (directory, count) = slots(&invocation.environment).ok()?;
    // The cluster is at work, so what would have to wait has lost already.
    let _slot = slots::acquire_free(&directory, count).ok()??;
    let image = image(invocation, argv, true).ok()?;
    match capture::race(&image, invocation.standard, &mut Recall::over(link)) {
        Ok(Raced::Ended(done)) => Some(done),
        Ok(Raced::Recalled) | Err(_) => None,
    }
}

/// Tells the daemon how the child ended, and ends in the same way.
fn end_as(invocation: &Invocation, link: Link, done: DoneReport, reason: &str) -> u8 {
    log(&invocation.environment, reason);
    let ended = done.ended;
    report(link, done);
    die_as(ended)
}

fn die_as(ended: Ended) -> u8 {
    match ended {
        Ended::Exited(status) => status,
        Ended::Signaled(signal) => {
            signals::die_by(signal);
            // As a shell tells it.
            128 | signal
        }
    }
}

/// Tells the daemon how the child ended, and waits until it has taken the outputs: what the build does next may
/// change them. A daemon that is gone, or slow, changes nothing for the build.
fn report(mut link: Link, done: DoneReport) {
    let succeeded = done.ended == Ended::Exited(0);
    let deadline = Instant::now() + STORE_PATIENCE;
    if link.send(&Frame::Request(Request::Done(done))).is_err() || !succeeded {
        return;
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(SILENCE);
        // The kernel takes a time-out of zero for none.
        if left.is_zero() || link.set_patience(Some(left)).is_err() {
            return;
        }
        match link.receive() {
            Ok(Frame::Reply(Reply::Working | Reply::Stop)) => {}
            _ => return,
        }
    }
}

fn take_slot(environment: &Environment) -> io::Result<Slot> {
    let (directory, count) = slots(environment)?;
    slots::acquire(&directory, count)
}

/// Where the slots are, and how many.
fn slots(environment: &Environment) -> io::Result<(PathBuf, NonZeroUsize)> {
    let places = places(environment);
    places.prepare_run()?;
    let directory = places.slots();
    let count = slots::count(&directory, environment.get("FARCC_EXEC_LOCAL_JOBS"));
    Ok((directory, count))
}

/// The program with this `argv` and our environment, to which [`ACTIVE`] is added where it is needed.
fn image(invocation: &Invocation, argv: &[OsString], is_leaf: bool) -> io::Result<Image> {
    let Invocation { program, environment, above, has_asked, .. } = invocation;
    let mut environment = environment.clone();
    // Below another launcher each is counted, so that scripts which call each other come to an end.
    let asks = is_leaf || program.past_ourselves || *has_asked;
    if asks || above.is_some() || is_disabled(&environment) {
        let mut tried = above.clone().unwrap_or_default();
        tried.push(program.identity);
        environment = environment.with(ACTIVE, OsStr::new(&tried.value(asks)))?;
    }
    Image::new(&program.path, argv, environment)
}

fn places(environment: &Environment) -> Places {
    Places::from_env(&|name| environment.get(name).map(OsStr::to_owned))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn log(environment: &Environment, reason: &str) {
    if environment.get("FARCC_LOG").is_some_and(|level| level == "debug" || level == "trace") {
        let _ =
            process::write_all(rustix::stdio::stderr(), format!("farcc: ran here: {reason}\n").as_bytes());
    }
}

/// Whether a command surely is one compile, which takes a slot. Judged by name and by `-c` or `-S` alone, for the
/// time without a daemon; all other commands might start others, and wait for them.
fn is_leaf_compile(argv: &[OsString]) -> bool {
    let Some((program, args)) = argv.split_first() else { return false };
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    // `x86_64-linux-gnu-g++-12`: the name proper has a target before it and a version behind it.
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let is_compiler = ["gcc", "g++", "cc", "c++", "clang", "clang++"]
        .contains(&name.rsplit('-').next().unwrap_or_default());
    is_compiler && args.iter().any(|arg| arg == "-c" || arg == "-S")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn leaf_compiles_are_told_by_name_and_flag() {
        for line in
            ["gcc -c a.c", "/usr/bin/x86_64-linux-gnu-g++-12 -O2 -c a.cc", "clang++-14 -S a.cc", "c++ -c x"]
        {
            assert!(is_leaf_compile(&words(line)), "{line}");
        }
        for line in ["gcc a.c", "make -c", "ccache gcc -c a.c", "gcc --version", "sh -c gcc", "gcc-ar -c x"] {
            assert!(!is_leaf_compile(&words(line)), "{line}");
        }
    }

    #[test]
    fn launcher_names() {
        for (word, expected) in [
            ("farcc", true),
            ("/opt/bin/farcc", true),
            ("farcc-1.2", true),
            ("gcc", false),
            ("farccd", false),
            ("", false),
        ] {
            assert_eq!(is_launcher_name(OsStr::new(word)), expected, "{word}");
        }
    }
}

//! `farccd twin run`: a whole build on the twin, shown as if it ran here.
//! Knows nothing of the twin: the daemon speaks with it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use farcc::launch;
use farcc::link::Link;
use farcc::signals::die_by;
use farcc::stream;
use farcc::stream::Streamed;
use farcc::wire::BuildRequest;
use farcc::wire::Ended;
use farcc::wire::Frame;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::RunRequest;
use farcc::wire::SILENCE;
use farcc::wire::VERSION;
use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::OutputModes;
use rustix::termios::Termios;

use crate::cli::Surroundings;
use crate::paths;

/// What comes back unless somebody asks for other files: not objects and what belongs to them, nor what build tools keep for
/// themselves.
const FETCH: &[&str] = &[
    "*",
    "!*.o",
    "!*.obj",
    "!*.lo",
    "!*.o.d",
    "!*.dwo",
    "!*.gcno",
    "!*.gch",
    "!*.pch",
    "!*.pcm",
    "!*.gcm",
    "!.ninja_deps",
    "!.ninja_log",
    "!.deps/",
    "!**/.deps/**",
    "!.libs/",
    "!**/.libs/**",
];

/// More names of the launcher are none that a build uses.
const MOST_LAUNCHERS: usize = 100;

/// So many signs of life, five seconds apart, before somebody is told why nothing else happens.
const SIGNS: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// What comes back of the files that the build makes: a pattern as in .gitignore, relative to the workspace; may be repeated,
    /// the last one that matches decides, and !PATTERN leaves out (default: all but objects, depfiles and what Ninja and libtool
    /// keep for themselves). Files that are here already come back in any case
    #[arg(long, value_name = "PATTERN")]
    fetch: Vec<OsString>,
    /// Let no file come back that is not here already
    #[arg(long, conflicts_with = "fetch")]
    fetch_nothing: bool,
    /// Do not say at the end what was done where
    #[arg(long)]
    quiet: bool,
    /// The build: a command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(surroundings: &Surroundings, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let terminal = Shown::new();
    let request = Request::Build(request(surroundings, args, &terminal));
    let environment = farcc::process::Environment::inherited();
    let connected = farcc::spawn::connect_or_start(&surroundings.places, &environment);
    let mut link = Link::new(connected.context("reach the daemon")?);
    link.set_patience(Some(SILENCE)).context("reach the daemon")?;
    link.send(&Frame::Request(request)).context("ask the daemon")?;
    let mut signs = 0;
    loop {
        let streamed = match link.receive().context("wait for the daemon")? {
            Frame::Reply(Reply::Working) => {
                signs += 1;
                if signs == SIGNS && !args.quiet {
                    say(b"farcc: the twin gets what it does not have of the workspace\n");
                }
                continue;
            }
            Frame::Reply(Reply::Stream { has_input, .. }) => terminal.show(&mut link, has_input),
            Frame::Reply(answer) => Streamed::Answered(answer),
            Frame::Request(_) => bail!("wait for the daemon: its answer is out of place"),
        };
        return end(streamed);
    }
}

/// Ends as the build did.
fn end(streamed: Streamed) -> anyhow::Result<ExitCode> {
    let lost = "What it has changed there is not here, or not all of it: run it again";
    match streamed {
        Streamed::Answered(Reply::Ended(Ended::Exited(status))) => Ok(ExitCode::from(status)),
        Streamed::Answered(Reply::Ended(Ended::Signaled(signal))) => Ok(ended_by(signal)),
        Streamed::Answered(Reply::Completed { exit_code, stderr, .. }) => {
            say(&stderr);
            Ok(ExitCode::from(exit_code))
        }
        Streamed::Answered(Reply::Refused { message: why } | Reply::PassThrough { reason: why, .. }) => {
            bail!("run it on the twin: {why}")
        }
        Streamed::Answered(other) => bail!("run it on the twin: the answer {other:.80?} is out of place"),
        Streamed::Ended(signal) => Ok(ended_by(u8::try_from(signal).unwrap_or(0))),
        Streamed::Lost { error, .. } => bail!("the daemon was lost while the build ran: {error}. {lost}"),
    }
}

fn say(text: &[u8]) {
    // Nobody may want to know.
    let _ = farcc::process::write_all(rustix::stdio::stderr(), text);
}

fn ended_by(signal: u8) -> ExitCode {
    die_by(signal);
    ExitCode::from(128_u8.saturating_add(signal))
}

fn request(surroundings: &Surroundings, args: &RunArgs, terminal: &Shown) -> BuildRequest {
    let launchers = launchers(surroundings);
    let fetch = match (args.fetch_nothing, args.fetch.is_empty()) {
        (true, _) => vec![OsString::from("!*")],
        (false, true) => FETCH.iter().map(OsString::from).collect(),
        (false, false) => args.fetch.clone(),
    };
    let [stdin_is_terminal, stdout_is_terminal, stderr_is_terminal] = terminal.descriptors;
    let run = RunRequest {
        version: VERSION.into(),
        program: args.command.first().map(PathBuf::from).unwrap_or_default(),
        argv: args.command.clone(),
        cwd: surroundings.cwd.clone(),
        env: surroundings.env.clone(),
        umask: launch::umask(),
        stdin_is_terminal,
        stdin_is_fed: terminal.is_fed,
        stdout_is_terminal,
        stderr_is_terminal,
    };
    let window = terminal.window();
    let modules = modules(&run.cwd, &args.command);
    BuildRequest { run, fetch, launchers, modules, window, is_quiet: args.quiet }
}

/// The paths outside of the image under which builds may call the launcher: beside this program, in PATH, and the links that
/// `farccd install-links` makes in directories of PATH.
fn launchers(surroundings: &Surroundings) -> Vec<OsString> {
    let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Ok(own) = std::fs::read_link("/proc/self/exe").map(|program| program.with_file_name("farcc")) else {
        return Vec::new();
    };
    let Some(launcher) = identity(&own) else { return Vec::new() };
    let mut found = vec![own];
    let path = surroundings.variable("PATH").unwrap_or_default();
    let directories = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    // Links that are given to make as its shell lie below those that are for PATH.
    let directories = directories.flat_map(|directory| [directory.join("shell"), directory]);
    for directory in directories.filter(|directory| !paths::is_system(directory)) {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let may_be =
                entry.file_type().is_ok_and(|kind| kind.is_symlink() || entry.file_name() == "farcc");
            if may_be && identity(&path) == Some(launcher) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    found.retain(|path| !paths::is_system(path));
    found.truncate(MOST_LAUNCHERS);
    found.into_iter().map(PathBuf::into_os_string).collect()
}

/// The paths of Farcc.cmake that the command names, or the cache of a build directory which it names or is started in.
fn modules(cwd: &Path, command: &[OsString]) -> Vec<OsString> {
    let mut found = BTreeSet::new();
    let mut note = |text: &[u8]| {
        let values = text.split(|byte| matches!(byte, b'=' | b';' | b'\n'));
        let modules = values.filter(|value| value.starts_with(b"/") && value.ends_with(b"/Farcc.cmake"));
        found.extend(modules.map(|module| OsStr::from_bytes(module).to_owned()));
    };
    let mut directories = vec![cwd.to_owned()];
    for word in command {
        note(word.as_bytes());
        let named = [Some(word.as_bytes()), word.as_bytes().strip_prefix(b"-C")];
        directories.extend(named.into_iter().flatten().map(|name| cwd.join(OsStr::from_bytes(name))));
    }
    for directory in directories {
        // Where there is none, nothing is named.
        note(&std::fs::read(directory.join("CMakeCache.txt")).unwrap_or_default());
    }
    found.into_iter().filter(|module| !paths::is_system(Path::new(module))).collect()
}

/// Our standard descriptors, and what they were like before.
struct Shown {
    /// Which are a terminal that we may use.
    descriptors: [bool; 3],
    /// Whether something can be read from standard input that is none.
    is_fed: bool,
    /// The modes of the terminal that is typed on.
    modes: Option<Termios>,
}

impl Shown {
    fn new() -> Shown {
        let stdin = rustix::stdio::stdin();
        let mut descriptors =
            [stdin, rustix::stdio::stdout(), rustix::stdio::stderr()].map(rustix::termios::isatty);
        // Whoever runs in the background reads nothing.
        let is_ours =
            rustix::termios::tcgetpgrp(stdin).is_ok_and(|group| group == rustix::process::getpgrp());
        descriptors[0] &= is_ours;
        let modes = if descriptors[0] { rustix::termios::tcgetattr(stdin).ok() } else { None };
        descriptors[0] &= modes.is_some();
        Shown { descriptors, is_fed: launch::is_fed(), modes }
    }

    /// Whether all that is shown comes from the build's own terminal.
    fn is_raw(&self) -> bool {
        self.descriptors == [true; 3]
    }

    fn descriptor(&self) -> Option<BorrowedFd<'static>> {
        let all = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        all.into_iter().zip(self.descriptors).find_map(|(fd, is_terminal)| is_terminal.then_some(fd))
    }

    fn window(&self) -> Option<farcc::wire::Window> {
        let descriptor = self.descriptor()?;
        stream::Terminal { descriptor, resume: &|| {} }.window()
    }

    /// Shows what the build says until it ends; the terminal is then as it was.
    fn show(&self, link: &mut Link, has_input: bool) -> Streamed {
        let raw = self.modes.as_ref().map(|modes| {
            let mut raw = modes.clone();
            raw.make_raw();
            // What interrupts, interrupts at once, whatever has become of the twin.
            raw.local_modes |= LocalModes::ISIG;
            if !self.is_raw() {
                // Others write to this terminal as well, and count on it.
                raw.output_modes |= modes.output_modes & OutputModes::OPOST;
            }
            raw
        });
        let set = |modes: Option<&Termios>| -> io::Result<()> {
            let Some(modes) = modes else { return Ok(()) };
            Ok(rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, modes)?)
        };
        // A terminal that refuses shows what is typed twice, and nothing worse.
        let resume = || drop(set(raw.as_ref()));
        resume();
        let terminal = self.descriptor().map(|descriptor| stream::Terminal { descriptor, resume: &resume });
        let streamed = stream::follow(link, has_input, terminal.as_ref());
        let _ = set(self.modes.as_ref());
        streamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_build_reads_the_module() {
        let space = tempfile::tempdir().unwrap();
        let build = space.path().join("build");
        std::fs::create_dir(&build).unwrap();
        let cache = "A:STRING=x\nCMAKE_PROJECT_TOP_LEVEL_INCLUDES:PATH=/a/first.cmake;/opt/f/Farcc.cmake\nB=/o/NoFarcc.cmake\n";
        std::fs::write(build.join("CMakeCache.txt"), cache).unwrap();
        let named = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            modules(space.path(), &words)
        };
        assert_eq!(named(&["cmake", "--build", "build"]), ["/opt/f/Farcc.cmake"]);
        assert_eq!(named(&["ninja", "-Cbuild"]), ["/opt/f/Farcc.cmake"]);
        assert_eq!(
            named(&["cmake", "-B", "new", "-DX=/h/Farcc.cmake", "-DY=/usr/share/Farcc.cmake"]),
            ["/h/Farcc.cmake"]
        );
        assert!(named(&["make"]).is_empty());
    }
}

//! farcc-worker: the program of farcc's that a worker runs. It is sent as an input of the action and named as its first
//! argument.
//! Knows nothing of clusters, nor of compilers; the daemon alone speaks to it.
//!
//! ```text
//! farcc-worker enter [--cwd DIR] [--bind PATH]... -- COMMAND [ARGUMENT]...
//! farcc-worker probe [--at DIR] [--system PATH]
//! farcc-worker report [PATH]...
//! ```
//!
//! The working directory is the input root. `enter` becomes the command where each PATH of the input root stands at its
//! absolute path, `probe` tells how absolute paths can reach a command here, and `report` tells what files hold.

mod enter;
mod probe;
mod report;

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// The status when the program could not do what it was asked: no compiler ends with it. The daemon looks for it together
/// with [`PREFIX`].
const CANNOT: u8 = 121;

/// What its only line on standard error begins with then.
const PREFIX: &str = "farcc-worker: failed to ";

/// Why it cannot, as what follows "failed to".
type Failure = String;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let done = match words.next().as_deref().and_then(OsStr::to_str) {
        Some("enter") => enter(words),
        Some("probe") => probe(words),
        Some("report") => report::report(words),
        _ => Err("understand the command: it is enter, probe or report".to_owned()),
    };
    let done = done.and_then(|text| {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| format!("write to standard output: {error}"))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody reads it, the status still says it.
            let _ = writeln!(std::io::stderr(), "{PREFIX}{failure}");
            ExitCode::from(CANNOT)
        }
    }
}

fn enter(mut words: impl Iterator<Item = OsString>) -> Result<String, Failure> {
    let mut view = enter::View::default();
    let mut cwd = OsString::from("/");
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--cwd") => cwd = value(&word, &mut words)?,
            Some("--bind") => view.bind(&value(&word, &mut words)?)?,
            Some("--") => {
                let command: Vec<OsString> = words.collect();
                return Err(enter::become_command(&view, OsStr::new(&cwd), &command));
            }
            _ => return Err(format!("understand {}", word.display())),
        }
    }
    Err("find the command: no -- stands before it".to_owned())
}

fn probe(mut words: impl Iterator<Item = OsString>) -> Result<String, Failure> {
    let mut asked = probe::Asked::default();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--at") => asked.at = Some(value(&word, &mut words)?.into()),
            Some("--file") => asked.file = Some(value(&word, &mut words)?.into()),
            _ => return Err(format!("understand {}", word.display())),
        }
    }
    probe::probe(&asked)
}

fn value(flag: &OsStr, words: &mut impl Iterator<Item = OsString>) -> Result<OsString, Failure> {
    words.next().ok_or_else(|| format!("read the value of {}: there is none", flag.display()))
}

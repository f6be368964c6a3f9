//! The command line of `farccd`: what each command takes and prints.
//! The commands themselves are done elsewhere; here they are parsed and their answers written.

mod action;
mod cache;
mod config;
mod control;
mod demo;
mod doctor;
mod explain;
mod import;
mod install_links;
mod last_build;
mod scan;
mod serve;
mod start;
mod twin;
mod twin_run;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use farcc::places::Places;

use crate::compiler::Invocation;
use crate::dispatch::Directories;
use crate::dispatch::Dispatcher;
use crate::process::env_value;
use crate::stats::Stats;

/// Remote execution and caching for existing CMake and Make builds: the daemon behind `farcc`.
#[derive(Debug, Parser)]
#[command(name = "farccd", version, arg_required_else_help = true, after_help = ENVIRONMENT_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const ENVIRONMENT_HELP: &str = "Environment:
  FARCC_DIR      one directory for socket, store, state and logs (default: the XDG directories)
  FARCC_CONFIG   the configuration file (default: farcc.toml in the user's configuration directory)
  FARCC_<SECTION>_<KEY>  overrides one key of the configuration, e.g. FARCC_REMOTE_ADDRESS
  FARCC_LOG      what the daemon logs, e.g. info, debug, farccd::dispatch=trace
  FARCC_DISABLE  1: the launcher runs commands itself and nothing else";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the daemon (launchers do it themselves when there is none)
    Start(start::StartArgs),
    /// Stop the daemon; launchers that wait for it run their commands themselves
    Stop(control::StopArgs),
    /// Stop the daemon and start it again
    Restart,
    /// Show whether a daemon runs, and where it keeps things
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what happened to commands: counts by verdict and reason, bytes, times
    Stats {
        /// Print JSON (see the README, "Statistics")
        #[arg(long)]
        json: bool,
        /// Start again from zero, after printing
        #[arg(long)]
        reset: bool,
    },
    /// Print the inputs that the scanner finds; nothing but the compiler's own probes is run
    Scan(scan::ScanArgs),
    /// Print the REAPI Action that would be sent for a compile, as JSON
    Action {
        #[command(flatten)]
        command: CommandWords,
    },
    /// Tell what happened to the command that made a file last, and why; or what made the last build expensive
    Explain(explain::ExplainArgs),
    /// Show the store on this machine, or trim, verify or empty it
    Cache(cache::CacheArgs),
    /// Check configuration, store, compilers and cluster, and say how to mend what is wrong
    Doctor {
        /// Print JSON: a list of {subject, ok, found, remedy}
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration that commands get here, each value with its source
    Config {
        /// Print JSON: {section: {key: {value, source}}}
        #[arg(long)]
        json: bool,
    },
    /// Serve the Remote Execution API from a directory, for a demo, tests or a small team
    Serve(serve::ServeArgs),
    /// The machine on which all other commands run
    #[command(subcommand)]
    Twin(twin::TwinCommand),
    /// Run the command that comes on standard input: the first process of a command on the twin
    #[command(hide = true)]
    TwinInit(twin::InitArgs),
    /// Print the farcc.toml that says what a file of Buck2, Bazel, reclient or recc says
    Import(import::ImportArgs),
    /// Make links named after compilers that lead to farcc, for the front of PATH
    InstallLinks(install_links::InstallLinksArgs),
    /// Build a real C++ project twice through launcher, daemon and a local server, and show what went where
    Demo(demo::DemoArgs),
}

/// A command to look at.
#[derive(Debug, Args)]
struct CommandWords {
    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

/// What this process was started with: the one place where the daemon reads its own surroundings.
struct Surroundings {
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    places: Places,
}

/// Runs `farccd` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell it to when standard error is closed.
            let _ = writeln!(std::io::stderr(), "farccd: failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // It has no surroundings of its own.
    if let Command::TwinInit(args) = &command {
        return twin::init(args);
    }
    let surroundings = Surroundings::of_this_process()?;
    surroundings.places.check_owner()?;
    match command {
        Command::Start(args) => start::start(&surroundings, &args),
        Command::Stop(args) => control::stop(&surroundings, &args),
        Command::Restart => {
            control::stop(&surroundings, &control::StopArgs::for_restart())?;
            start::start(&surroundings, &start::StartArgs::in_background())
        }
        Command::Status { json } => control::status(&surroundings, json),
        Command::Stats { json, reset } => control::stats(&surroundings, json, reset),
        Command::Scan(args) => scan::scan(&surroundings, &args),
        Command::Action { command } => action::action(&surroundings, command.words),
        Command::Cache(args) => cache::cache(&surroundings, &args),
        Command::Explain(args) => explain::explain(&surroundings, &args),
        Command::Doctor { json } => doctor::doctor(&surroundings, json),
        Command::Config { json } => config::config(&surroundings, json),
        Command::Serve(args) => serve::serve(&surroundings, &args),
        Command::Twin(command) => twin::twin(&surroundings, &command),
        Command::TwinInit(args) => twin::init(&args),
        Command::Import(args) => import::import(&surroundings, &args),
        Command::InstallLinks(args) => install_links::install_links(&surroundings, &args),
        Command::Demo(args) => demo::demo(&surroundings, &args),
    }
}

impl Surroundings {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the process's own surroundings")]
    fn of_this_process() -> anyhow::Result<Surroundings> {
        let env: Vec<_> = std::env::vars_os().collect();
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let places = Places::from_env(&|name| env_value(&env, name).map(OsString::from));
        Ok(Surroundings { env, cwd, places })
    }

    fn variable(&self, name: &str) -> Option<&std::ffi::OsStr> {
        env_value(&self.env, name).filter(|value| !value.is_empty())
    }

    fn stats_file(&self) -> PathBuf {
        self.places.state.join("stats.json")
    }

    fn history(&self) -> crate::history::History {
        crate::history::History::new(self.directories().history())
    }

    fn directories(&self) -> Directories {
        Directories {
            store: self.places.store.clone(),
            state: self.places.state.clone(),
            config_file: self.places.config_file.clone(),
            environment: self.env.clone(),
            has_own_config: false,
        }
    }

    /// A dispatcher in this process, for commands that only look.
    fn dispatcher(&self) -> Dispatcher {
        Dispatcher::of_one_moment(self.directories(), Arc::new(Stats::load(&self.stats_file())))
    }

    /// A command as the launcher would send it from here.
    fn invocation(&self, argv: Vec<OsString>, cwd: PathBuf) -> Invocation {
        Invocation {
            argv,
            cwd,
            env: self.env.clone(),
            umask: 0o022,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        }
    }

    /// The command that was typed, whose program must be there.
    fn typed(&self, argv: Vec<OsString>) -> anyhow::Result<Arc<Invocation>> {
        let invocation = self.invocation(argv, self.cwd.clone());
        let name = invocation.argv.first().context("read the command: it is empty")?;
        if invocation.executable().is_none() {
            anyhow::bail!("find {} in PATH", name.display());
        }
        Ok(Arc::new(invocation))
    }
}

/// A runtime with as many threads for work that blocks (files, hashing) as can do something: tokio's 512 would share the
/// processors in slices that are too short.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads((4 * processors).max(32));
    builder.build().context("start the runtime")
}

/// Writes an answer to standard output. A reader that has gone (`| head`) is no error.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write the answer")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    let mut text = serde_json::to_string_pretty(value).context("encode the answer")?;
    text.push('\n');
    print(text)
}

/// A time for people: three digits of it are enough.
fn readable_micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        let readable = [0, 999, 1_000, 9_999, 10_000, 411_647, 1_000_000, 61_250_000].map(readable_micros);
        assert_eq!(readable, ["0 µs", "999 µs", "1.0 ms", "9.9 ms", "10 ms", "411 ms", "1.0 s", "61.2 s"]);
    }
}

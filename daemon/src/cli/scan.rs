//! `farccd scan`: the inputs of one compile, or of every entry of a compilation database.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::ValueEnum;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::runtime;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["compile_commands", "words"])))]
pub(super) struct ScanArgs {
    /// How the inputs of one command are printed
    #[arg(long, value_enum, default_value = "lines", conflicts_with = "compile_commands")]
    format: Format,
    /// Scan every entry of this compilation database; one JSON object a line
    #[arg(long, value_name = "FILE")]
    compile_commands: Option<PathBuf>,
    /// Entries scanned at a time
    #[arg(long, default_value_t = 1, requires = "compile_commands")]
    jobs: usize,
    /// The compile command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// One absolute path a line
    Lines,
    /// A JSON object
    Json,
    /// A Makefile rule
    Make,
}

/// One entry of a compilation database (Clang, "JSON Compilation Database Format Specification").
#[derive(Debug, Deserialize)]
struct Entry {
    directory: PathBuf,
    file: PathBuf,
    command: Option<String>,
    arguments: Option<Vec<String>>,
}

pub(super) fn scan(surroundings: &Surroundings, args: &ScanArgs) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let dispatcher = Arc::new(surroundings.dispatcher());
    if let Some(database) = &args.compile_commands {
        return runtime.block_on(scan_all(surroundings, &dispatcher, database, args.jobs.max(1)));
    }
    let invocation = surroundings.invocation(args.words.clone(), surroundings.cwd.clone())?;
    let scanned = match runtime.block_on(dispatcher.scan(&invocation)) {
        Ok(scanned) => scanned,
        Err(reason) => bail!("scan: the command would run locally: {reason}"),
    };
    match args.format {
        Format::Lines => {
            let lines = scanned.inputs.iter().flat_map(|input| [input.path.as_os_str().as_bytes(), b"\n"]);
            print(lines.collect::<Vec<_>>().concat())
        }
        Format::Json => print_json(&json!({
            "inputs": scanned.inputs.iter().map(|input| json!({
                "path": input.path.to_string_lossy(),
                "digest": input.version.digest.to_string(),
            })).collect::<Vec<_>>(),
            "not_sure": scanned.not_sure,
        })),
        Format::Make => {
            let mut rule = String::from("inputs:");
            for input in &scanned.inputs {
                // Writing to a String cannot fail.
                let _ = write!(
                    rule,
                    " \\\n {}",
                    input.path.to_string_lossy().replace('$', "$$").replace('#', "\\#").replace(' ', "\\ ")
                );
            }
            rule.push('\n');
            print(rule)
        }
    }
}

async fn scan_all(
    surroundings: &Surroundings,
    dispatcher: &Arc<Dispatcher>,
    database: &Path,
    jobs: usize,
) -> anyhow::Result<ExitCode> {
    let text = std::fs::read(database).with_context(|| format!("read {}", database.display()))?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&text).with_context(|| format!("read {}", database.display()))?;
    let scans = entries.into_iter().map(|entry| async move {
        let started = Instant::now();
        let scanned = scan_entry(surroundings, dispatcher, &entry).await;
        (entry, scanned, started.elapsed())
    });
    let mut scans = futures::stream::iter(scans).buffered(jobs);
    while let Some((entry, scanned, elapsed)) = scans.next().await {
        let (inputs, not_sure) = match scanned {
            Ok(scanned) => (scanned.inputs, scanned.not_sure),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let inputs: Vec<_> = inputs.iter().map(|input| input.path.to_string_lossy()).collect();
        let line = json!({
            "file": entry.file,
            "directory": entry.directory,
            "inputs": inputs,
            "not_sure": not_sure,
            "micros": u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        });
        match writeln!(std::io::stdout(), "{line}") {
            // A reader that has gone (`| head`) wants no more.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written.context("write the answer")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn scan_entry(
    surroundings: &Surroundings,
    dispatcher: &Dispatcher,
    entry: &Entry,
) -> Result<Scanned, String> {
    let words = match (&entry.arguments, &entry.command) {
        (Some(arguments), _) => arguments.clone(),
        (None, Some(command)) => shlex::split(command).ok_or("the command has an open quote")?,
        (None, None) => return Err("the entry has neither arguments nor command".to_owned()),
    };
    let words = words.into_iter().map(OsString::from).collect();
    let invocation = surroundings
        .invocation(words, surroundings.cwd.join(&entry.directory))
        .map_err(|error| format!("{error:#}"))?;
    dispatcher.scan(&invocation).await.map_err(|reason| reason.to_string())
}

//! `farccd scan`: the inputs of one compile, or of every entry of a compilation database.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use clap::Args;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::runtime;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::dedicate_thread;

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
    let dispatcher = surroundings.dispatcher();
    if let Some(database) = &args.compile_commands {
        return scan_all(surroundings, &dispatcher, database, args.jobs.max(1));
    }
    let invocation = surroundings.typed(args.words.clone())?;
    let scanned = match runtime()?.block_on(dispatcher.scan(&invocation)) {
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

/// What is printed of one entry.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    directory: &'a Path,
    inputs: Vec<Cow<'a, str>>,
    not_sure: Option<String>,
    micros: u64,
}

/// Lines, each with the number of its entry.
type Lines = Vec<(usize, Vec<u8>)>;

/// How long a line may wait to be printed.
const PATIENCE: Duration = Duration::from_millis(10);

/// Scans all entries on as many threads as `jobs`, and prints what comes of them in their order.
fn scan_all(
    surroundings: &Surroundings,
    dispatcher: &Dispatcher,
    database: &Path,
    jobs: usize,
) -> anyhow::Result<ExitCode> {
    let text = std::fs::read(database).with_context(|| format!("read {}", database.display()))?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&text).with_context(|| format!("read {}", database.display()))?;
    let next = AtomicUsize::new(0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let work = |sender: Sender<Lines>| -> anyhow::Result<()> {
        dedicate_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut lines = Lines::new();
        let mut sent = Instant::now();
        while let Some((at, entry)) = next_of(&entries, &next) {
            lines.push((at, runtime.block_on(scan_entry(surroundings, dispatcher, entry))?));
            // Waking the printing thread for each line takes a third as long as making the line.
            if sent.elapsed() >= PATIENCE {
                sent = Instant::now();
                if sender.send(std::mem::take(&mut lines)).is_err() {
                    return Ok(());
                }
            }
        }
        // A reader that has gone wants no more.
        let _ = sender.send(lines);
        Ok(())
    };
    std::thread::scope(|scope| {
        let printer = scope.spawn(|| print_in_order(receiver));
        let others: Vec<_> = (1..jobs)
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(|| work(sender))
            })
            .collect();
        // This thread has the heap that grows in the largest steps.
        let mut worked = work(sender);
        for thread in others.into_iter().chain([printer]) {
            let outcome = thread.join().unwrap_or_else(|_| Err(anyhow!("scan: a thread panicked")));
            worked = worked.and(outcome);
        }
        worked.map(|()| ExitCode::SUCCESS)
    })
}

fn next_of<'e>(entries: &'e [Entry], next: &AtomicUsize) -> Option<(usize, &'e Entry)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    entries.get(at).map(|entry| (at, entry))
}

/// Takes the receiver with it, so that whoever still sends learns that nobody reads any more.
fn print_in_order(receiver: Receiver<Lines>) -> anyhow::Result<()> {
    let mut waiting = BTreeMap::new();
    let mut expected = 0;
    let mut out = std::io::stdout().lock();
    for (at, line) in receiver.into_iter().flatten() {
        waiting.insert(at, line);
        while let Some(line) = waiting.remove(&expected) {
            expected += 1;
            match out.write_all(&line) {
                // A reader that has gone (`| head`) wants no more.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.context("write the answer")?,
            }
        }
    }
    Ok(())
}

/// The line that is printed of an entry.
async fn scan_entry(
    surroundings: &Surroundings,
    dispatcher: &Dispatcher,
    entry: &Entry,
) -> anyhow::Result<Vec<u8>> {
    let started = Instant::now();
    let (inputs, not_sure) = match find_inputs(surroundings, dispatcher, entry).await {
        Ok(scanned) => (scanned.inputs, scanned.not_sure),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    let line = Line {
        file: &entry.file,
        directory: &entry.directory,
        inputs: inputs.iter().map(|input| input.path.to_string_lossy()).collect(),
        not_sure,
        micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    let mut text = serde_json::to_vec(&line).context("write the answer")?;
    text.push(b'\n');
    Ok(text)
}

async fn find_inputs(
    surroundings: &Surroundings,
    dispatcher: &Dispatcher,
    entry: &Entry,
) -> Result<Scanned, String> {
    let words = match (&entry.arguments, &entry.command) {
        (Some(arguments), _) => arguments.clone(),
        (None, Some(command)) => shlex::split(command).ok_or("the command has an open quote")?,
        (None, None) => return Err("the entry has neither arguments nor command".to_owned()),
    };
    if words.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let words = words.into_iter().map(OsString::from).collect();
    let invocation = Arc::new(surroundings.invocation(words, surroundings.cwd.join(&entry.directory)));
    dispatcher.scan(&invocation).await.map_err(|reason| reason.to_string())
}

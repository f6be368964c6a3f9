//! `farccd stop`, `status`, `stats`: words to a running daemon, and what is known without one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::io::Read;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use bytesize::ByteSize;
use farcc::wire::HEADER_BYTES;
use farcc::wire::Header;
use farcc::wire::Reply;
use farcc::wire::Request;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::server::DaemonStatus;
use crate::stats;
use crate::stats::Summary;

/// How long `stop` waits for the daemon to be gone when it is not to drain.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn stop(surroundings: &Surroundings, drain: bool) -> anyhow::Result<ExitCode> {
    let words: &[&str] = if drain { &["stop", "drain"] } else { &["stop"] };
    if ask(surroundings, words)?.is_none() {
        return print("no daemon runs\n");
    }
    // Its lock is free when it is gone. Commands that are drained take as long as they take.
    let started = Instant::now();
    while surroundings.places.lock_daemon().context("wait for the daemon's end")?.is_none() {
        if !drain && started.elapsed() > STOP_PATIENCE {
            bail!("stop the daemon: it is still there after {STOP_PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    print("farccd stopped\n")
}

pub(super) fn status(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let places = &surroundings.places;
    let daemon: Option<DaemonStatus> = match ask(surroundings, &["status"])? {
        Some(answer) => Some(serde_json::from_slice(&answer).context("read the daemon's status")?),
        None => None,
    };
    if json {
        return print_json(&json!({
            "daemon": daemon,
            "socket": places.run.join(places.socket_name()),
            "store": places.store,
            "state": places.state,
            "log": places.log_file(),
            "config_file": places.config_file,
        }));
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match &daemon {
        None => match places.start_failed().recall() {
            Some(failure) => writeln!(text, "daemon   none runs: failed to {failure}"),
            None => writeln!(text, "daemon   none runs; the next launcher starts one"),
        },
        Some(daemon) => {
            let DaemonStatus { pid, version, uptime_seconds, connections, draining, status_page, memory } =
                daemon;
            let state = if *draining { "draining" } else { "running" };
            writeln!(
                text,
                "daemon   {state}, process {pid}, version {version}, up {}, {} commands under way\n\
                 page     {status_page}\n\
                 memory   {} units in {}, {} source files in {}",
                humantime::format_duration(Duration::from_secs(*uptime_seconds)),
                connections.saturating_sub(1),
                memory.units,
                bytes(memory.scan_bytes),
                memory.stripped_files,
                bytes(memory.source_bytes),
            )
        }
    };
    for (name, path) in [
        ("socket", places.run.join(places.socket_name())),
        ("store", places.store.clone()),
        ("state", places.state.clone()),
        ("log", places.log_file()),
        ("config", places.config_file.clone()),
    ] {
        let _ = writeln!(text, "{name:<8} {}", path.display());
    }
    print(text)
}

fn bytes(count: usize) -> bytesize::ByteSize {
    bytesize::ByteSize::b(u64::try_from(count).unwrap_or(u64::MAX))
}

pub(super) fn stats(surroundings: &Surroundings, json: bool, reset: bool) -> anyhow::Result<ExitCode> {
    let words: &[&str] = if reset { &["stats", "reset"] } else { &["stats"] };
    let summary: Summary = match ask(surroundings, words)? {
        Some(answer) => serde_json::from_slice(&answer).context("read the daemon's counts")?,
        None => {
            let summary = stats::read(&surroundings.stats_file());
            if reset
                && let Err(error) = std::fs::remove_file(surroundings.stats_file())
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error).context("reset the counts");
            }
            summary.unwrap_or_else(Summary::zero)
        }
    };
    if json { print_json(&summary) } else { print(table(&summary)) }
}

/// The counts for people.
pub(super) fn table(summary: &Summary) -> String {
    let mut text = format!("{:>8} commands\n", summary.commands);
    // Writing to a String cannot fail.
    for (name, count) in summary.by_verdict.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "{count:>8}   {name}");
    }
    if !summary.by_reason.is_empty() {
        text.push_str("why here:\n");
        for (name, count) in &summary.by_reason {
            let _ = writeln!(text, "{count:>8}   {name}");
        }
    }
    let size = |bytes| ByteSize::b(bytes).to_string();
    let bytes = summary.bytes;
    let _ = writeln!(
        text,
        "bytes: {} uploaded, {} downloaded, {} stored",
        size(bytes.uploaded),
        size(bytes.downloaded),
        size(bytes.stored)
    );
    let micros = summary.micros;
    let _ = writeln!(
        text,
        "time in the daemon: p50 {}, p90 {}, p99 {}",
        readable_micros(micros.p50),
        readable_micros(micros.p90),
        readable_micros(micros.p99)
    );
    text
}

/// Asks the daemon; none if none runs.
fn ask(surroundings: &Surroundings, words: &[&str]) -> anyhow::Result<Option<Vec<u8>>> {
    let stream = match farcc::places::connect(&surroundings.places) {
        Ok(stream) => stream,
        Err(error) if farcc::spawn::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error).context("reach the daemon"),
    };
    let words = words.iter().map(OsString::from).collect();
    match exchange(stream, &Request::Control { words }).context("talk to the daemon")? {
        Reply::Text(text) => Ok(Some(text)),
        other => bail!("talk to the daemon: it answered {other:?}"),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> anyhow::Result<Reply> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&request.encode()?)?;
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = Header::decode(header)?;
    let mut payload = vec![0; header.payload_bytes];
    stream.read_exact(&mut payload)?;
    Ok(Reply::decode(header.kind, &payload)?)
}

//! `farccd cache`: the store on this machine, as the configuration here names it. Daemons may be at work in it meanwhile.

use std::io::IsTerminal as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use clap::Subcommand;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::config::load;
use crate::store::Store;

/// How often a long look says how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: Option<CacheCommand>,
    /// Print JSON: {directory, results, blobs, size_bytes, max_size_bytes}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Delete what was not used for longest, until the store is below its bound, as daemons do by themselves
    Trim {
        /// Another bound than [cache] max_size, for this once
        #[arg(long, value_name = "SIZE")]
        to: Option<ByteSize>,
    },
    /// Read all that the store holds, and delete what is damaged; what is read during a build is verified in any case
    Verify,
    /// Delete all that the store holds
    Clear,
}

pub(super) fn cache(surroundings: &Surroundings, args: &CacheArgs) -> anyhow::Result<ExitCode> {
    let config = load(&surroundings.env, &surroundings.cwd, &surroundings.places.config_file)?;
    let directory = config.cache.dir.as_ref().unwrap_or(&surroundings.places.store);
    let open =
        |bound: ByteSize| Store::open(directory, bound.as_u64()).context("use the store ([cache] dir)");
    let bound = config.cache.max_size;
    let text = match &args.command {
        None => {
            let stats = open(bound)?.stats()?;
            if args.json {
                return print_json(&json!({
                    "directory": directory.to_string_lossy(),
                    "results": stats.action_results,
                    "blobs": stats.blobs,
                    "size_bytes": stats.size_bytes,
                    "max_size_bytes": bound.as_u64(),
                }));
            }
            let (results, blobs, size) = (stats.action_results, stats.blobs, ByteSize::b(stats.size_bytes));
            format!("{}\n  {results} results, {blobs} files, {size} of {bound}\n", directory.display())
        }
        Some(CacheCommand::Trim { to }) => {
            let trimmed = open(to.unwrap_or(bound))?.trim()?;
            format!("{} files deleted, {}\n", trimmed.entries, ByteSize::b(trimmed.size_bytes))
        }
        Some(CacheCommand::Verify) => {
            let verified = verify(&open(bound)?)?;
            let said = print(format!(
                "{} files are sound, {} were damaged and are deleted, {} cannot be read\n",
                verified.sound, verified.damaged, verified.unreadable
            ))?;
            return Ok(if verified.unreadable > 0 { ExitCode::FAILURE } else { said });
        }
        Some(CacheCommand::Clear) => {
            let store = open(bound)?;
            let stats = store.stats()?;
            store.clear()?;
            let entries = stats.blobs + stats.action_results;
            format!("{entries} files deleted, {}\n", ByteSize::b(stats.size_bytes))
        }
    };
    print(text)
}

/// Says how far it is, where somebody is looking.
fn verify(store: &Store) -> anyhow::Result<crate::store::Verified> {
    let mut terminal = std::io::stderr().lock();
    let is_watched = terminal.is_terminal();
    let (mut files, mut said) = (0_u64, Instant::now());
    let verified = store.verify(|| {
        files += 1;
        if is_watched && said.elapsed() >= PROGRESS {
            said = Instant::now();
            // Nobody is kept from his answer by a terminal that has gone.
            let _ = write!(terminal, "\r{files} files read");
        }
    })?;
    if is_watched {
        let _ = write!(terminal, "\r\x1b[K");
    }
    Ok(verified)
}

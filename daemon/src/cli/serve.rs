//! `farccd serve`: the REAPI server on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use bytesize::ByteSize;
use clap::Args;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::runtime;
use crate::cli::start::log_to_stderr;
use crate::serve;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Loopback address and port to listen at; port 0: any
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8980")]
    listen: SocketAddr,
    /// Where blobs and results are kept and actions run (default: `serve` in the state directory)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Actions at a time (default: one for each processor)
    #[arg(long)]
    jobs: Option<usize>,
    /// What the directory may hold
    #[arg(long, default_value = "20G")]
    max_size: ByteSize,
}

pub(super) fn serve(surroundings: &Surroundings, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr(surroundings);
    if !args.listen.ip().is_loopback() {
        // Whoever reaches the port can run any command.
        bail!("listen at {}: without TLS and a token, serve listens only at loopback", args.listen);
    }
    let directory = match &args.dir {
        Some(directory) => surroundings.cwd.join(directory),
        None => surroundings.places.state.join("serve"),
    };
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let runtime = runtime()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("listen at {}", args.listen))?;
        let address = listener.local_addr().context("read the address")?;
        let mut options = serve::ServeOptions::new(directory, jobs.unwrap_or(1));
        options.max_size_bytes = args.max_size.as_u64();
        let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
        print(format!("listening on {address}\n"))?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve::run(listener, options, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}

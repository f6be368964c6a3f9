//! `farccd start`: the daemon itself, or its start in the background.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use farcc::places::Places;
use rustix::process::Resource;
use rustix::process::getrlimit;
use rustix::process::setrlimit;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tracing_subscriber::EnvFilter;

use crate::cli::Surroundings;
use crate::cli::parse_duration;
use crate::cli::print;
use crate::cli::runtime;
use crate::config::Config;
use crate::config::load;
use crate::dispatch::Directories;
use crate::dispatch::Dispatcher;
use crate::server::Server;
use crate::stats::Stats;
use crate::status::StatusPage;

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Stay in the foreground: for containers and service managers
    #[arg(long)]
    foreground: bool,
    /// Stop when there was no command for so long
    #[arg(long, value_parser = parse_duration, default_value = "3h")]
    idle_timeout: Duration,
    /// Give every command this daemon's own configuration, whatever the command's environment says: for a daemon that has
    /// credentials which its callers must not send elsewhere
    #[arg(long, requires = "foreground")]
    own_config: bool,
    /// Descriptor to which one byte is written when the daemon listens
    #[arg(long, hide = true)]
    ready_fd: Option<RawFd>,
}

impl StartArgs {
    pub(super) fn in_background() -> StartArgs {
        StartArgs {
            foreground: false,
            idle_timeout: Duration::from_secs(3 * 60 * 60),
            own_config: false,
            ready_fd: None,
        }
    }
}

pub(super) fn start(surroundings: &Surroundings, args: &StartArgs) -> anyhow::Result<ExitCode> {
    if !args.foreground {
        let environment = farcc::process::Environment::inherited();
        let idle_timeout = humantime::format_duration(args.idle_timeout).to_string();
        let options = ["--idle-timeout".into(), idle_timeout.into()];
        let stream = farcc::spawn::connect_or_start_with(&surroundings.places, &environment, &options);
        let stream = stream.context("reach the daemon")?;
        let (pid, _) = farcc::process::peer(stream.as_fd()).context("reach the daemon")?;
        return print(format!("farccd runs with process id {pid}\n"));
    }
    log_to_stderr(surroundings);
    let places = &surroundings.places;
    places.prepare().with_context(|| format!("prepare {}", places.run.display()))?;
    let Some(_lock) = lock(places)? else {
        bail!("start: another daemon serves {} already", places.run.display());
    };
    raise_descriptor_limit();
    let runtime = runtime()?;
    let served = runtime.block_on(serve(surroundings, args));
    // A blocked file operation of a dropped command must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

/// How long a daemon that listens no more may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The daemon's lock; none if another daemon serves, or does not end. One that is ending has saved its counts, and is
/// gone, in a moment: whoever started this one has seen that it does not listen any more.
fn lock(places: &Places) -> anyhow::Result<Option<File>> {
    let deadline = Instant::now() + END_PATIENCE;
    loop {
        let lock =
            places.lock_daemon().with_context(|| format!("lock {}", places.daemon_lock().display()))?;
        let is_ending = || farcc::places::connect(places).is_err_and(|error| farcc::spawn::is_absent(&error));
        if lock.is_some() || Instant::now() >= deadline || !is_ending() {
            return Ok(lock);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn serve(surroundings: &Surroundings, args: &StartArgs) -> anyhow::Result<()> {
    let config = load(&surroundings.env, &surroundings.cwd, &surroundings.places.config_file);
    // Whoever's command it was learns it from his own environment; others have another configuration.
    let config = config.unwrap_or_else(|error| {
        tracing::warn!("failed to {error}; this daemon's own settings are the defaults");
        Config::default()
    });
    let stats_file = surroundings.stats_file();
    let stats = Arc::new(Stats::load(&stats_file));
    let status_page = serve_status_page(&config.status.listen, &stats).await;
    let slots = surroundings.places.slots();
    let local_jobs = match NonZeroUsize::new(config.exec.local_jobs) {
        Some(local_jobs) => local_jobs,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    std::fs::create_dir_all(&slots)
        .and_then(|()| farcc::slots::set_count(&slots, local_jobs))
        .with_context(|| format!("prepare {}", slots.display()))?;
    let directories = Directories { has_own_config: args.own_config, ..surroundings.directories() };
    let dispatcher = Dispatcher::new(directories, Arc::clone(&stats));
    let server = Arc::new(Server::new(dispatcher, stats, stats_file, args.idle_timeout, status_page));
    let listener = surroundings.places.bind().context("listen at the socket")?;
    let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
    if let Some(descriptor) = args.ready_fd {
        tell_ready(descriptor)?;
    }
    tracing::info!("farccd {} listens in {}", farcc::wire::VERSION, surroundings.places.run.display());
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(listener, shutdown).await?;
    tracing::info!("farccd stopped");
    Ok(())
}

/// Serves the status page if one is wanted. What `farccd status` is to say of it: where it is, or why it is not.
/// Builds do not need it, so a taken port is no reason for a daemon not to start.
async fn serve_status_page(listen: &str, stats: &Arc<Stats>) -> String {
    if listen.is_empty() {
        return "off ([status] listen is empty)".to_owned();
    }
    match StatusPage::bind(listen).await {
        Ok(page) => {
            let url = page.url();
            tokio::spawn(page.serve(Arc::clone(stats)));
            url
        }
        Err(error) => {
            tracing::warn!("failed to {error:#}");
            format!("off: failed to {error:#}")
        }
    }
}

/// Each launcher that waits takes two descriptors, and shells give 1024: `-j1000` needs more.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("failed to raise the limit of open files: {error}");
    }
}

/// Tells whoever started the daemon that it listens.
#[expect(unsafe_code, reason = "a descriptor that was handed over by number has no safe owner yet")]
fn tell_ready(descriptor: RawFd) -> anyhow::Result<()> {
    let descriptors = std::path::Path::new("/proc/self/fd");
    // Without /proc the launcher's word has to do.
    let is_closed = descriptors.is_dir() && !descriptors.join(descriptor.to_string()).exists();
    if descriptor < 3 || is_closed {
        bail!("use --ready-fd {descriptor}: it is no open descriptor above 2");
    }
    // SAFETY: the descriptor is open, and the one who started this process left it to us alone; nothing here
    // has opened one by this number and kept it, since the kernel would not give out an open one.
    let mut ready = unsafe { File::from_raw_fd(descriptor) };
    ready.write_all(b"\n").context("tell that the daemon is ready")
}

pub(super) fn log_to_stderr(surroundings: &Surroundings) {
    let filter = surroundings.variable("FARCC_LOG").and_then(std::ffi::OsStr::to_str).unwrap_or("info");
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_without_its_status_page_is_a_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let stats = Arc::new(Stats::load(&directory.path().join("stats")));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        assert!(serve_status_page("127.0.0.1:0", &stats).await.starts_with("http://127.0.0.1:"));
        for (listen, said) in [
            (&*taken, "off: failed to listen at 127.0.0.1:"),
            ("0.0.0.0:0", "off: failed to listen at 0.0.0.0:0: [status] listen must be a loopback address"),
            ("nonsense", "off: failed to parse [status] listen"),
            ("", "off ("),
        ] {
            let answer = serve_status_page(listen, &stats).await;
            assert!(answer.starts_with(said), "{listen}: {answer}");
        }
    }
}

//! `farccd twin`: the twin's server, a whole build on the twin, and what the twin does.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use clap::Subcommand;
use farcc_proto::twin as messages;
use serde::Serialize;

use crate::cli::Surroundings;
use crate::cli::parse_duration;
use crate::cli::print;
use crate::cli::print_json;
use crate::cli::readable_micros;
use crate::cli::runtime;
use crate::cli::serve::AccessArgs;
use crate::cli::serve::asked_to_stop;
use crate::cli::start::log_to_stderr;
use crate::cli::twin_run::RunArgs;
use crate::cli::twin_run::run;
use crate::config::Destination;
use crate::config::Twin;
use crate::config::load;
use crate::config::to_file;
use crate::executor::remote::client;
use crate::executor::remote::relayed;
use crate::executor::remote::relays;
use crate::executor::twin::TwinExecutor;
use crate::twin;
use crate::twin::Bounds;
use crate::twin::BuildOptions;
use crate::twin::Cluster;
use crate::twin::TwinOptions;
use crate::twin::Usage;

#[derive(Debug, Subcommand)]
pub(super) enum TwinCommand {
    /// Run a whole build, or anything else, on the twin: as if it ran here, but that its compiles and links go from there to the
    /// cluster beside it, and that most of what it makes stays there
    Run(RunArgs),
    /// Be the twin: keep mirrors of workspaces, and run commands in them
    Serve(Box<ServeArgs>),
    /// Show what the twin of [twin] address does: workspaces, their sizes, commands that run there
    Status {
        /// Print JSON: {version, workspaces: [{roots, is_open, files, size_bytes, idle_millis, running: [{arguments, millis}],
        /// commands, received_bytes, fetched_bytes, sent_bytes}]}
        #[arg(long)]
        json: bool,
    },
}

/// A workspace as `farccd twin status --json` prints it. Names that are no UTF-8 are shown as well as can be.
#[derive(Debug, Serialize)]
struct ShownWorkspace {
    roots: Vec<String>,
    is_open: bool,
    files: u64,
    size_bytes: u64,
    idle_millis: u64,
    running: Vec<ShownCommand>,
    commands: u64,
    received_bytes: u64,
    fetched_bytes: u64,
    sent_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ShownCommand {
    arguments: Vec<String>,
    millis: u64,
}

impl From<&messages::Workspace> for ShownWorkspace {
    fn from(workspace: &messages::Workspace) -> ShownWorkspace {
        let texts =
            |words: &[Vec<u8>]| words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let running = workspace.running.iter();
        let running = running
            .map(|running| ShownCommand { arguments: texts(&running.arguments), millis: running.millis });
        ShownWorkspace {
            roots: texts(&workspace.roots),
            is_open: workspace.is_open,
            files: workspace.files,
            size_bytes: workspace.size_bytes,
            idle_millis: workspace.idle_millis,
            running: running.collect(),
            commands: workspace.commands,
            received_bytes: workspace.received_bytes,
            fetched_bytes: workspace.fetched_bytes,
            sent_bytes: workspace.sent_bytes,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address and port to listen at; port 0: any. Beyond loopback only with TLS, and with --token-file or --tls-client-ca
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8981")]
    listen: SocketAddr,
    /// Where mirrors and blobs are kept (default: `twin` in the state directory); not on an overlay file system
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The cluster's content-addressable storage, from which content is taken before the client is asked. All else about it
    /// (instance name, credentials, TLS) is that of [remote] in this machine's configuration
    #[arg(long, value_name = "ADDR")]
    cas: Option<String>,
    /// Commands at a time (default: two for each processor)
    #[arg(long)]
    jobs: Option<usize>,
    /// What mirrors that nobody uses and blobs may take together
    #[arg(long, default_value = "50G")]
    max_size: ByteSize,
    /// How long a mirror is kept that nobody uses
    #[arg(long, default_value = "14d", value_parser = parse_duration)]
    max_idle: Duration,
    /// Memory that a command's processes may take together (default: three quarters of this machine's)
    #[arg(long)]
    memory: Option<ByteSize>,
    /// Processes that a command may have
    #[arg(long, default_value_t = 10_000)]
    processes: u64,
    /// What a command may write in its workspace, and in /tmp
    #[arg(long, default_value = "20G")]
    disk: ByteSize,
    /// How long a command may take
    #[arg(long, default_value = "6h", value_parser = parse_duration)]
    time: Duration,
    /// Let commands open connections, if their client's configuration asks for it
    #[arg(long)]
    network: bool,
    /// Show commands this directory of the machine, read-only, besides the image (/usr, /lib, ...); may be repeated
    #[arg(long, value_name = "DIR")]
    show: Vec<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

/// What of this process's environment is for the daemons of builds, too.
const DAEMON_VARIABLES: &[&str] = &["FARCC_LOG", "PATH"];

/// The first process of a command on the twin.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[arg(long)]
    processes: u64,
    #[arg(long)]
    memory_bytes: u64,
}

pub(super) fn init(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let InitArgs { processes, memory_bytes } = *args;
    twin::init::run(Usage { processes, memory_bytes }).context("run a command")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn twin(surroundings: &Surroundings, command: &TwinCommand) -> anyhow::Result<ExitCode> {
    match command {
        TwinCommand::Run(args) => run(surroundings, args),
        TwinCommand::Serve(args) => serve(surroundings, args),
        TwinCommand::Status { json } => status(surroundings, *json),
    }
}

/// The twin of this user's configuration.
pub(super) fn executor(surroundings: &Surroundings) -> anyhow::Result<TwinExecutor> {
    let config = load(&surroundings.env, &surroundings.cwd, &surroundings.places.config_file)?;
    anyhow::ensure!(
        config.twin.is_configured(),
        "find the twin: [twin] address is not set in {}",
        surroundings.places.config_file.display()
    );
    // No workspace is opened over it.
    TwinExecutor::new(&config.twin, &surroundings.env, Vec::new())
        .with_context(|| format!("use [twin] address {}", config.twin.address))
}

fn status(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let executor = executor(surroundings)?;
    let (described, status) = runtime()?.block_on(async {
        let described = executor.describe(Vec::new()).await.context("ask the twin")?;
        anyhow::Ok((described, executor.status().await.context("ask the twin")?))
    })?;
    let workspaces: Vec<_> = status.workspaces.iter().map(ShownWorkspace::from).collect();
    if json {
        return print_json(&serde_json::json!({ "version": described.version, "workspaces": workspaces }));
    }
    let mut text = format!("farccd {} with {} workspaces\n", described.version, workspaces.len());
    for workspace in &workspaces {
        text.push_str(&readable(workspace));
    }
    print(text)
}

fn readable(workspace: &ShownWorkspace) -> String {
    let idle = humantime::format_duration(Duration::from_secs(workspace.idle_millis / 1000));
    let size = ByteSize::b(workspace.size_bytes);
    let mut text = format!("{}\n", workspace.roots.join(" "));
    if !workspace.is_open {
        return text + &format!("  {size}, used {idle} ago\n");
    }
    let ShownWorkspace { files, commands, received_bytes, fetched_bytes, sent_bytes, .. } = workspace;
    let [received, fetched, sent] =
        [received_bytes, fetched_bytes, sent_bytes].map(|bytes| ByteSize::b(*bytes));
    text += &format!("  open, {files} entries, {size}, last in step {idle} ago\n");
    text += &format!(
        "  {commands} commands; content: {received} from here, {fetched} from the cluster, {sent} to here\n"
    );
    for running in &workspace.running {
        let time = readable_micros(running.millis.saturating_mul(1000));
        text += &format!("  running for {time}: {}\n", running.arguments.join(" "));
    }
    text
}

fn serve(surroundings: &Surroundings, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr(surroundings);
    let access = args.access.options(surroundings);
    // Before anybody can connect.
    access.check(args.listen)?;
    let directory = match &args.dir {
        Some(directory) => surroundings.cwd.join(directory),
        None => surroundings.places.state.join("twin"),
    };
    let cluster = args.cas.as_deref().map(|address| cluster(surroundings, address)).transpose()?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let build = for_builds(surroundings, directory.join("cluster"))?;
    let options = TwinOptions {
        directory,
        jobs: args.jobs.unwrap_or(2 * processors),
        max_size_bytes: args.max_size.as_u64(),
        max_idle: args.max_idle,
        usage: Usage {
            processes: args.processes,
            memory_bytes: args.memory.map_or_else(most_memory_bytes, |memory| memory.as_u64()),
        },
        temporary_bytes: args.disk.as_u64(),
        bounds: Bounds {
            time: args.time,
            disk_bytes: args.disk.as_u64(),
            allows_network: args.network,
            build,
        },
        shown: args.show.iter().map(|directory| surroundings.cwd.join(directory)).collect(),
        access,
    };
    // While there is one thread: a process that has several may not leave its user namespace.
    twin::may_mount().context("get a mount namespace of its own (are user namespaces allowed?)")?;
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("listen at {}", args.listen))?;
        let address = listener.local_addr().context("read the address")?;
        let shutdown = asked_to_stop()?;
        twin::serve(
            listener,
            options,
            cluster,
            || print(format!("listening on {address}\n")).map(drop),
            shutdown,
        )
        .await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What the daemons of builds get: what this machine's configuration says of clusters and commands, but how this cluster is reached,
/// and who reaches it.
fn for_builds(surroundings: &Surroundings, sockets: PathBuf) -> anyhow::Result<BuildOptions> {
    let Surroundings { env, cwd, places } = surroundings;
    let mut config = load(env, cwd, &places.config_file)?;
    let is_configured = config.remote.is_configured();
    let cluster = is_configured.then(|| relays(&config.remote, env, config.exec.upload_local_results));
    let cluster = cluster.transpose().context("use [remote] of this machine's configuration")?;
    let seen = cluster.as_ref().map(|cluster| cluster.seen_in(Path::new(twin::CLUSTER)));
    config.remote = relayed(&config.remote, seen.unwrap_or_default());
    // The build is on the twin already; its daemon's store has its place, and nobody looks at its page.
    config.twin = Twin::default();
    config.routes.retain(|route| route.to != Destination::Twin);
    config.cache.dir = None;
    config.status.listen = String::new();
    let is_kept = |name: &OsString| DAEMON_VARIABLES.iter().any(|kept| name == kept);
    Ok(BuildOptions {
        environment: env.iter().filter(|(name, _)| is_kept(name)).cloned().collect(),
        configuration: to_file(&config).context("write the configuration of builds")?,
        cluster,
        sockets,
    })
}

fn cluster(surroundings: &Surroundings, address: &str) -> anyhow::Result<Cluster> {
    let mut remote = load(&surroundings.env, &surroundings.cwd, &surroundings.places.config_file)?.remote;
    address.clone_into(&mut remote.cas_address);
    if remote.address.is_empty() {
        address.clone_into(&mut remote.address);
    }
    let client = client(&remote, &surroundings.env).with_context(|| format!("use --cas {address}"))?;
    Ok(Cluster::new(client, remote.instance_name))
}

fn most_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[allow(clippy::useless_conversion, reason = "the field's type differs by architecture")]
    let total = u64::from(info.totalram);
    total.saturating_mul(unit) / 4 * 3
}

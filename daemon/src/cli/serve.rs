//! `farccd serve`: the REAPI server on this machine.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::access::AccessOptions;
use crate::access::TlsFiles;
use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::runtime;
use crate::cli::start::log_to_stderr;
use crate::serve;
use crate::serve::S3Options;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address and port to listen at; port 0: any. Beyond loopback only with TLS, and with --token-file or --tls-client-ca
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
    #[command(flatten)]
    access: AccessArgs,
    /// Keep blobs and results in a bucket, s3://BUCKET or s3://BUCKET/PREFIX, behind the directory. Endpoint, region and
    /// credentials come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, …)
    #[arg(long, value_name = "URL")]
    s3: Option<String>,
    /// Where the bucket is served, where that is not Amazon: https://HOST[:PORT]; http only on this machine
    #[arg(long, value_name = "URL", requires = "s3")]
    s3_endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, value_name = "NAME", requires = "s3")]
    s3_region: Option<String>,
}

/// Who may call.
#[derive(Debug, Args)]
pub(super) struct AccessArgs {
    /// The server's certificate in PEM, and those between it and the clients' root: calls are TLS only
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients must show a certificate that is signed by one of these (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Calls must bring the token in this file, as `authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(super) fn serve(surroundings: &Surroundings, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr(surroundings);
    let access = args.access.options(surroundings);
    // Before anybody can connect.
    access.check(args.listen)?;
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
        options.access = access;
        options.s3 = s3(surroundings, args);
        let shutdown = asked_to_stop()?;
        print(format!("listening on {address}\n"))?;
        serve::run(listener, options, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}

impl AccessArgs {
    /// The same with absolute paths.
    pub(super) fn options(&self, surroundings: &Surroundings) -> AccessOptions {
        let path = |path: &PathBuf| surroundings.cwd.join(path);
        // Each of the two wants the other, as clap has seen.
        let tls = self.tls_cert.iter().zip(&self.tls_key).next();
        AccessOptions {
            tls: tls.map(|(certificate, key)| TlsFiles { certificate: path(certificate), key: path(key) }),
            tls_client_ca: self.tls_client_ca.as_ref().map(path),
            token_file: self.token_file.as_ref().map(path),
        }
    }
}

/// Ready when this process is asked to end.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn s3(surroundings: &Surroundings, args: &ServeArgs) -> Option<S3Options> {
    let text = |text: &std::ffi::OsStr| text.to_str().map(str::to_owned);
    let environment = surroundings.env.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    Some(S3Options {
        url: args.s3.clone()?,
        endpoint: args.s3_endpoint.clone(),
        region: args.s3_region.clone(),
        environment: environment.collect(),
    })
}

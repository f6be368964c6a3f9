//! `farccd demo`: the main job on this machine, live: a real C++ project built through launcher, daemon, a local server and a local
//! twin, with everything in a scratch directory that is removed at the end.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use include_dir::Dir;
use include_dir::include_dir;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::cli::Surroundings;
use crate::cli::control::table;
use crate::cli::print;
use crate::cli::runtime;
use crate::prerequisites;
use crate::process::KillGroup;
use crate::process::Program;
use crate::stats::Summary;

/// The project that is built, as this repository ships it.
static PROJECT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../tests/projects/demo");

/// How CMake learns of the launcher.
static MODULE: &str = include_str!("../../../cmake/Farcc.cmake");

/// The end of what the project's own program prints when it works.
const EXPECTED: &str = "checksum 3685761017";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Commands that ninja starts at a time
    #[arg(long, default_value_t = 4)]
    jobs: usize,
}

/// One build of the demo.
struct Build {
    elapsed: Duration,
    summary: Summary,
}

struct Demo {
    env: Vec<(OsString, OsString)>,
    scratch: PathBuf,
    jobs: usize,
    farccd: PathBuf,
    farcc: PathBuf,
}

pub(super) fn demo(surroundings: &Surroundings, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let farccd = std::fs::read_link("/proc/self/exe").context("find this program")?;
    let farcc = farccd.with_file_name("farcc");
    if !farcc.is_file() {
        bail!("find the launcher: there is no {}; build the whole workspace", farcc.display());
    }
    let scratch =
        tempfile::Builder::new().prefix("farcc-demo-").tempdir().context("make a scratch directory")?;
    let path = scratch.path().canonicalize().context("make a scratch directory")?;
    // Nothing of the user's own farcc: neither its daemon nor its configuration.
    let mut env = surroundings.env.clone();
    env.retain(|(name, _)| !name.as_encoded_bytes().starts_with(b"FARCC_"));
    env.push(("FARCC_DIR".into(), path.join("farcc").into()));
    env.push(("FARCC_CONFIG".into(), path.join("farcc.toml").into()));
    let demo = Demo { env, scratch: path, jobs: args.jobs.max(1), farccd, farcc };
    let runtime = runtime()?;
    let told = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
        let mut hang_up = signal(SignalKind::hangup()).context("wait for signals")?;
        tokio::select! {
            told = demo.run() => told,
            _ = interrupt.recv() => bail!("finish the demo: interrupted"),
            _ = terminate.recv() => bail!("finish the demo: terminated"),
            _ = hang_up.recv() => bail!("finish the demo: the terminal is gone"),
        }
    });
    // The daemon was started by a launcher, so it is nobody's child: it is told to go.
    let stopped = runtime.block_on(demo.farccd(&["stop"]));
    scratch.close().context("remove the scratch directory")?;
    told?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    async fn run(&self) -> anyhow::Result<()> {
        let say = |line: &str| drop(print(format!("-- {line}\n")));
        prerequisites::require(&["bwrap", "cmake", "g++", "ninja"], &self.env, say).await?;
        let source = self.scratch.join("project");
        std::fs::create_dir(&source).context("write the project")?;
        PROJECT.extract(&source).context("write the project")?;
        say(&format!("the project: {} files in {}", count_files(&PROJECT), source.display()));
        std::fs::write(self.scratch.join("Farcc.cmake"), MODULE).context("write Farcc.cmake")?;
        let (server, address) = self.start("serve", &["serve"]).await.context("start the server")?;
        let _server = KillGroup::of(&server);
        let config = format!("[remote]\naddress = \"grpc://{address}\"\n");
        let write = |name: &str, text: &str| std::fs::write(self.scratch.join(name), text);
        // The twin's own, and the workstation's without one.
        for name in ["twin.toml", "farcc.toml"] {
            write(name, &config).context("write the configuration")?;
        }
        say(&format!("a REAPI server that runs each action in a sandbox: grpc://{address}"));
        let cas = format!("grpc://{address}");
        let twin = self.start("twin", &["twin", "serve", "--cas", &cas]).await;
        let _twin = match &twin {
            Ok((twin, address)) => {
                let twin_config = format!("{config}[twin]\naddress = \"grpc://{address}\"\n");
                write("farcc.toml", &twin_config).context("write the configuration")?;
                say(&format!("a twin, which runs all other commands: grpc://{address}"));
                Some(KillGroup::of(twin))
            }
            Err(error) => {
                say(&format!("no twin, so that all other commands run here: failed to {error:#}"));
                None
            }
        };

        say("build 1: everything is new to the cluster");
        let cold = self.build(&source).await?;
        say("build 2: the build directory was removed");
        let warm = self.build(&source).await?;
        say("build 3: as on another machine, with an empty store");
        self.farccd(&["stop"]).await?;
        std::fs::remove_dir_all(self.scratch.join("farcc/store")).context("empty the store")?;
        let shared = self.build(&source).await?;
        say("the program that was built:");
        self.check(&source).await?;
        report(&[("1 cold", &cold), ("2 again", &warm), ("3 other machine", &shared)])?;
        if twin.is_ok() {
            say("build 4: on the twin, terminal and all; the sources are there already");
            self.build_there(&source).await?;
            say("the program that came back:");
            self.check(&source).await?;
        }
        Ok(())
    }

    /// Starts a server of farccd's by these words, with a directory and a log of this name, and learns its address.
    async fn start(&self, name: &str, words: &[&str]) -> anyhow::Result<(Child, String)> {
        let mut args: Vec<_> = words.iter().map(OsString::from).collect();
        args.extend(["--listen", "127.0.0.1:0", "--dir"].map(OsString::from));
        args.push(self.scratch.join(name).into());
        let mut env = self.env.clone();
        env.retain(|(variable, _)| variable != "FARCC_CONFIG");
        let own = self.scratch.join(format!("{name}.toml"));
        if own.is_file() {
            env.push(("FARCC_CONFIG".into(), own.into()));
        }
        let program = Program { path: &self.farccd, args, env, cwd: &self.scratch };
        let log_file = self.scratch.join(format!("{name}.log"));
        let log = std::fs::File::create(&log_file).context("make its log")?;
        let mut child = program
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().context("it has no output")?;
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        tokio::time::timeout(Duration::from_secs(20), lines.read_line(&mut line))
            .await
            .context("it says nothing")??;
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            bail!("{}", std::fs::read_to_string(log_file).unwrap_or_default().trim());
        };
        Ok((child, address.to_owned()))
    }

    /// Configures the project in a fresh build directory.
    async fn configure(&self, source: &Path) -> anyhow::Result<PathBuf> {
        let build = self.scratch.join("build");
        match std::fs::remove_dir_all(&build) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("remove the build directory");
            }
            _ => {}
        }
        let mut configure: Vec<OsString> =
            ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-S"].map(OsString::from).to_vec();
        configure.extend([source.into(), "-B".into(), build.clone().into()]);
        let module = self.scratch.join("Farcc.cmake");
        configure.push(format!("-DCMAKE_PROJECT_INCLUDE_BEFORE={}", module.display()).into());
        configure.push(format!("-DFARCC_LAUNCHER={}", self.farcc.display()).into());
        self.tool("cmake", configure, true).await?;
        Ok(build)
    }

    /// Builds the project on the twin.
    async fn build_there(&self, source: &Path) -> anyhow::Result<()> {
        let build = self.configure(source).await?;
        let jobs = self.jobs.to_string();
        let words = ["twin", "run", "--", "cmake", "--build"].map(OsString::from);
        let rest = [build.clone().into_os_string(), "--parallel".into(), jobs.into()];
        let args = words.into_iter().chain(rest).collect();
        // In the build directory, which knows its workspace.
        let program = Program { path: &self.farccd, args, env: self.env.clone(), cwd: &build };
        let started = Instant::now();
        let mut command = program.command();
        let mut child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("run farccd")?;
        let status = child.wait().await.context("run farccd")?;
        if !status.success() {
            bail!("build the project on the twin: it ended with {status}");
        }
        print(format!("-- built in {:.1} s\n", started.elapsed().as_secs_f64())).map(drop)
    }

    /// Configures and builds the project in a fresh build directory.
    async fn build(&self, source: &Path) -> anyhow::Result<Build> {
        let build = self.configure(source).await?;
        // The configure step's own compiles are not the project's.
        self.farccd(&["stats", "--reset"]).await?;
        let started = Instant::now();
        let jobs = self.jobs.to_string();
        let words = [OsString::from("--build"), build.into(), "--parallel".into(), jobs.into()];
        self.tool("cmake", words.to_vec(), false).await?;
        let elapsed = started.elapsed();
        let json = self.farccd(&["stats", "--json"]).await?;
        let summary: Summary = serde_json::from_slice(&json).context("read the counts")?;
        drop(print(format!("-- built in {:.1} s\n{}", elapsed.as_secs_f64(), table(&summary))));
        Ok(Build { elapsed, summary })
    }

    /// Runs the program that was built.
    async fn check(&self, source: &Path) -> anyhow::Result<()> {
        let program = self.scratch.join("build/tally");
        let args = vec!["--report".into(), source.join("app/report.tally").into()];
        let program = Program { path: &program, args, env: self.env.clone(), cwd: &self.scratch };
        let output =
            program.output(Duration::from_secs(60)).await.context("run the program that was built")?;
        print(&output.stdout)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !stdout.trim_end().ends_with(EXPECTED) {
            bail!("run the program that was built: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs a build tool with its output on ours, or quietly.
    async fn tool(&self, name: &str, args: Vec<OsString>, quiet: bool) -> anyhow::Result<()> {
        let path = prerequisites::find_program(name, &self.env).with_context(|| format!("find {name}"))?;
        let program = Program { path: &path, args, env: self.env.clone(), cwd: &self.scratch };
        let mut command = program.command();
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        if quiet {
            command.stdout(Stdio::null());
        }
        let mut child = command.spawn().with_context(|| format!("run {name}"))?;
        // An interrupted demo leaves no compiler behind that would start the daemon again.
        let _group = KillGroup::of(&child);
        let status = child.wait().await.with_context(|| format!("run {name}"))?;
        if !status.success() {
            bail!("build the project: {name} ended with {status}");
        }
        Ok(())
    }

    async fn farccd(&self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let args = words.iter().map(OsString::from).collect();
        let program = Program { path: &self.farccd, args, env: self.env.clone(), cwd: &self.scratch };
        let output = program.output(Duration::from_secs(60)).await.context("run farccd")?;
        if !output.status.success() {
            bail!("run farccd {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.stdout)
    }
}

fn count_files(directory: &Dir) -> usize {
    directory.files().count() + directory.dirs().map(count_files).sum::<usize>()
}

/// The builds side by side.
fn report(builds: &[(&str, &Build)]) -> anyhow::Result<()> {
    let mut text = format!(
        "\n{:<17}{:>9}{:>14}{:>13}{:>12}{:>14}{:>10}\n",
        "build", "seconds", "ran remotely", "remote hits", "local hits", "ran here", "hit rate"
    );
    for (name, build) in builds {
        let of = |verdict: &str| build.summary.by_verdict.get(verdict).copied().unwrap_or_default();
        let (hits, remote, here) =
            (of("hit_local") + of("hit_remote"), of("executed_remote"), of("executed_local"));
        let compiles = hits + remote + here;
        let rate = hits.saturating_mul(100).checked_div(compiles).unwrap_or(0);
        text.push_str(&format!(
            "{name:<17}{:>9.1}{remote:>14}{:>13}{:>12}{here:>14}{rate:>9}%\n",
            build.elapsed.as_secs_f64(),
            of("hit_remote"),
            of("hit_local"),
        ));
    }
    print(text)?;
    Ok(())
}

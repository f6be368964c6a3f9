//! `farccd install-links`: links named after compilers, archivers and shells that lead to the launcher.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use clap::Args;

use crate::cli::Surroundings;
use crate::cli::print;

/// The names under which builds call compilers and archivers when nothing else is configured.
const PROGRAMS: &[&str] =
    &["cc", "c++", "gcc", "g++", "clang", "clang++", "c89", "c99", "ar", "gcc-ar", "llvm-ar"];

/// Shells for `make SHELL=…`. They lie apart: in PATH, every script would be run by way of them.
const SHELLS: &[&str] = &["sh", "bash"];
const SHELLS_DIRECTORY: &str = "shell";

#[derive(Debug, Args)]
pub(super) struct InstallLinksArgs {
    /// Where the links go; put it in front of PATH
    directory: PathBuf,
    /// Further names, e.g. aarch64-linux-gnu-gcc
    #[arg(long = "name", value_name = "PROGRAM")]
    names: Vec<String>,
}

pub(super) fn install_links(
    surroundings: &Surroundings,
    args: &InstallLinksArgs,
) -> anyhow::Result<ExitCode> {
    let launcher = std::fs::read_link("/proc/self/exe").context("find this program")?.with_file_name("farcc");
    if !launcher.is_file() {
        bail!("find the launcher: there is no {}", launcher.display());
    }
    let directory = surroundings.cwd.join(&args.directory);
    let shells = directory.join(SHELLS_DIRECTORY);
    std::fs::create_dir_all(&shells).with_context(|| format!("create {}", shells.display()))?;
    for name in PROGRAMS.iter().copied().chain(args.names.iter().map(String::as_str)) {
        if name.is_empty() || name.contains('/') || name == SHELLS_DIRECTORY {
            bail!("make a link named {name:?}: it is no name for a program here");
        }
        make_link(&launcher, &directory.join(name))?;
    }
    for name in SHELLS {
        make_link(&launcher, &shells.join(name))?;
    }
    let (launcher, directory) = (launcher.display(), directory.display());
    print(format!("links to {launcher} made; now: export PATH={directory}:$PATH\n"))
}

fn make_link(launcher: &Path, link: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(link) {
        Ok(found) if found.is_symlink() => {
            let target = std::fs::read_link(link).with_context(|| format!("read {}", link.display()))?;
            if target.file_name() != launcher.file_name() {
                bail!("make {}: it is a link to {} already", link.display(), target.display());
            }
            std::fs::remove_file(link).with_context(|| format!("replace {}", link.display()))?;
        }
        Ok(_) => bail!("make {}: it is there already", link.display()),
        Err(_) => {}
    }
    symlink(launcher, link).with_context(|| format!("make {}", link.display()))
}

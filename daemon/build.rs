//! Builds the program that is sent to workers, for the daemon to embed: a static program, whatever this one is linked to.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script has the environment of cargo, and no other way to call it"
)]

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Where its sources are, from this package.
const WORKER: &str = "../shim/worker";

/// Whether a variable of the build around this one is not to reach the build of the program: it would change how that is
/// made, or is about another package. Where packages come from, and which linker is used, is the same for both.
fn is_foreign(name: &str) -> bool {
    let names = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ];
    let groups = ["BUILD", "CFG", "FEATURE", "MANIFEST", "PKG", "PROFILE"];
    let group = name.strip_prefix("CARGO_").and_then(|rest| rest.split('_').next());
    names.contains(&name)
        || group.is_some_and(|group| groups.contains(&group))
        || name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS")
}

fn main() -> Result<(), Box<dyn Error>> {
    let worker = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join(WORKER);
    for source in ["Cargo.toml", "Cargo.lock", "src"] {
        println!("cargo::rerun-if-changed={}", worker.join(source).display());
    }
    let (target, out) = (std::env::var("TARGET")?, PathBuf::from(std::env::var("OUT_DIR")?));
    let directory = out.join("worker");
    let mut cargo = Command::new(std::env::var("CARGO")?);
    // With a target named, the flags are the program's alone.
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", &target, "--target-dir"]);
    cargo.arg(&directory).arg("--manifest-path").arg(worker.join("Cargo.toml"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").env("CARGO_INCREMENTAL", "0");
    let output = cargo.output().map_err(|error| format!("failed to start cargo for {WORKER}: {error}"))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!("failed to build {WORKER} for {target}, statically linked:\n{messages}").into());
    }
    let program = directory.join(&target).join("release/farcc-worker");
    let embedded = out.join("farcc-worker");
    std::fs::copy(&program, &embedded)
        .map_err(|error| format!("failed to copy {}: {error}", program.display()))?;
    // Thirty times its size, and of no use any more. What stays does no harm.
    let _ = std::fs::remove_dir_all(&directory);
    println!("cargo::rustc-env=FARCC_WORKER={}", embedded.display());
    Ok(())
}

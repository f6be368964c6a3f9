//! Has the launcher take GCC's run-time library from an archive. As a shared library it would be loaded, relocated and asked
//! for the processor's features each time that the launcher starts: a quarter of what a start takes.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script has the environment of cargo, and the compiler is its own to ask"
)]

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is_native = std::env::var("HOST")? == std::env::var("TARGET")?;
    // Whoever names another linker may have another C library, too.
    let is_usual = std::env::var_os("RUSTC_LINKER").is_none();
    if !is_native || !is_usual || std::env::var("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    let archives = ["libgcc_eh.a", "libgcc.a"].map(archive);
    let [Some(unwinder), Some(arithmetic)] = archives else { return Ok(()) };
    for archive in [&unwinder, &arithmetic] {
        // Their directory is named after the compiler's version.
        println!("cargo::rerun-if-changed={}", archive.display());
    }
    let directory = PathBuf::from(std::env::var("OUT_DIR")?);
    // What `-lgcc_s` finds first: a linker script (GNU ld manual, "Implicit Linker Scripts"), which gold, lld and mold
    // understand as well.
    let script = format!("GROUP ( \"{}\" \"{}\" )\n", unwinder.display(), arithmetic.display());
    std::fs::write(directory.join("libgcc_s.so"), script)?;
    println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    Ok(())
}

/// The compiler's own archive of this name. None: there is none, or no script could name it.
fn archive(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let is_plain = |path: &Path| !path.to_string_lossy().contains('"');
    (path.is_absolute() && path.is_file() && is_plain(&path)).then_some(path)
}

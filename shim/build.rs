//! Has the launcher take the C library and GCC's run-time library from archives, so that the kernel enters it directly and not by
//! the dynamic loader: then a hit need not even wait for the C library (`src/entry.rs`). Where there are no archives (some
//! distributions have that of the C library in a package of its own), it is linked as programs usually are.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script has the environment of cargo, and the compiler is its own to ask"
)]

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// GCC's run-time library: unwinder and arithmetic.
const RUNTIME: &[&str] = &["libgcc_eh.a", "libgcc.a"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rustc-check-cfg=cfg(farcc_quick)");
    let is_native = std::env::var("HOST")? == std::env::var("TARGET")?;
    // Whoever names another linker may have another C library, too.
    let is_usual = std::env::var_os("RUSTC_LINKER").is_none();
    // Then it is static already.
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    if !is_native || !is_usual || is_static || std::env::var("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    let directory = PathBuf::from(std::env::var("OUT_DIR")?);
    let Some(runtime) = archives(RUNTIME) else { return Ok(()) };
    stand_in(&directory, "libgcc_s.so", &runtime)?;
    println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    let is_known = std::env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64";
    if let (Some(c), Some(m), true) = (archives(&["libc.a"]), archives(&["libm.a"]), is_known) {
        // They need each other.
        stand_in(&directory, "libc.so", &[c, runtime].concat())?;
        stand_in(&directory, "libm.so", &m)?;
        // At a fixed address: nobody has relocated anything when the launcher is entered.
        for argument in ["-static", "-no-pie", "-Wl,--entry=farcc_entry"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
        println!("cargo::rustc-cfg=farcc_quick");
    }
    Ok(())
}

/// Puts what `-l` finds first for a library: a linker script (GNU ld manual, "Implicit Linker Scripts"), which gold, lld and
/// mold understand as well.
fn stand_in(directory: &Path, library: &str, archives: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let quoted: Vec<_> = archives.iter().map(|archive| format!("\"{}\"", archive.display())).collect();
    std::fs::write(directory.join(library), format!("GROUP ( {} )\n", quoted.join(" ")))?;
    for archive in archives {
        // Their directory is named after the compiler's version.
        println!("cargo::rerun-if-changed={}", archive.display());
    }
    Ok(())
}

/// The compiler's own archives of these names. None: one of them is not there, or no script could name it.
fn archives(names: &[&str]) -> Option<Vec<PathBuf>> {
    names.iter().map(|name| find(name)).collect()
}

fn find(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let is_plain = |path: &Path| !path.to_string_lossy().contains('"');
    (path.is_absolute() && path.is_file() && is_plain(&path)).then_some(path)
}

//! Has the launcher entered by the kernel directly and not by the dynamic loader, so that a hit need wait neither for the loader
//! nor for the C library (`src/entry.rs`), and takes GCC's run-time library from archives. Where that is not known to work, it is
//! linked as programs usually are.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script has the environment of cargo, and the compiler is its own to ask"
)]

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use object::read::elf::ElfFile64;
use object::read::elf::ProgramHeader as _;

/// GCC's run-time library: unwinder and arithmetic.
const RUNTIME: &[&str] = &["libgcc_eh.a", "libgcc.a"];

/// At a fixed address: nobody has relocated anything when the launcher is entered.
const WITHOUT_LOADER: &[&str] = &["-no-pie", "-Wl,--no-dynamic-linker"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rustc-check-cfg=cfg(farcc_quick)");
    let is_native = std::env::var("HOST")? == std::env::var("TARGET")?;
    // Whoever names another linker may have another C library, too.
    let is_usual = std::env::var_os("RUSTC_LINKER").is_none();
    // Then it has no loader.
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    if !is_native || !is_usual || is_static || std::env::var("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    if let Some(archives) = RUNTIME.iter().map(|name| find(name)).collect::<Option<Vec<_>>>() {
        let directory = PathBuf::from(std::env::var("OUT_DIR")?);
        stand_in(&directory, "libgcc_s.so", &archives)?;
        println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    }
    let is_known = std::env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64";
    if let Some(interpreter) = interpreter()?.filter(|_| is_known && can_leave_out_the_loader()) {
        for argument in WITHOUT_LOADER.iter().chain(&["-Wl,--entry=farcc_entry"]) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
        println!("cargo::rustc-env=FARCC_INTERPRETER={interpreter}");
        println!("cargo::rustc-cfg=farcc_quick");
    }
    Ok(())
}

/// The dynamic loader that this machine's linker names: that of the build script itself, which was linked by it.
fn interpreter() -> Result<Option<String>, Box<dyn Error>> {
    let program = std::fs::read(std::env::current_exe()?)?;
    let file = ElfFile64::<object::Endianness>::parse(&*program)?;
    for header in file.elf_program_headers() {
        if let Some(name) = header.interpreter(file.endian(), &*program)? {
            return Ok(Some(String::from_utf8(name.to_vec())?));
        }
    }
    Ok(None)
}

/// Whether the linker understands that a dynamic program is to name no loader, which gold does not.
fn can_leave_out_the_loader() -> bool {
    let (Ok(directory), Ok(flags)) = (std::env::var("OUT_DIR"), std::env::var("CARGO_ENCODED_RUSTFLAGS"))
    else {
        return false;
    };
    let source = Path::new(&directory).join("probe.c");
    let mut command = Command::new("cc");
    command.args(WITHOUT_LOADER).arg(&source).arg("-o").arg(source.with_extension("out"));
    // As its own user has chosen one for rustc.
    command.args(flags.split('\x1f').filter_map(|flag| flag.find("-fuse-ld=").and_then(|at| flag.get(at..))));
    std::fs::write(&source, "int main(void) { return 0; }\n").is_ok()
        && command.output().is_ok_and(|finished| finished.status.success())
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

/// The compiler's own archive of this name, if it is there and a script can name it.
fn find(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let is_plain = |path: &Path| !path.to_string_lossy().contains('"');
    (path.is_absolute() && path.is_file() && is_plain(&path)).then_some(path)
}

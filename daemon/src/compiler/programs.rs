//! The files that a compile executes: programs and the shared libraries that each of them loads.
//! Knows nothing of what the programs do.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::probe::TIMEOUT;
use crate::process::Program;
use crate::reason::Reason;

/// Where the files at the beginning of an ELF file say what they need.
const MOST_PROGRAM_HEADERS: u16 = 512;
const MOST_INTERPRETER_BYTES: u64 = 4096;

/// How a program is started.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    /// By the kernel alone.
    Static,
    /// By this dynamic loader.
    Dynamic(PathBuf),
}

/// Refuses a driver that is not itself a compiler: what a script adds to a command may come from anywhere.
///
/// # Errors
/// [`Reason::WrapperScript`]; [`Reason::ToolchainProbe`]: it cannot be read.
pub(super) fn check(program: &Path) -> Result<(), Reason> {
    format(program).map(drop)
}

/// The programs (absolute paths) and the `plugins` that they load, symlinks resolved, and all libraries that the dynamic
/// loader gives them under environment `env`; sorted, each once.
///
/// # Errors
/// [`Reason::ToolchainProbe`] with the program that is missing, is no ELF file, or lacks a library.
pub(super) async fn with_libraries(
    programs: &[PathBuf],
    plugins: &[PathBuf],
    env: &[(OsString, OsString)],
    cwd: &Path,
) -> Result<Vec<PathBuf>, Reason> {
    let mut files = Vec::new();
    for program in programs {
        let program = std::fs::canonicalize(program).map_err(|error| failed(program, &error.to_string()))?;
        if let Format::Dynamic(loader) = format(&program)? {
            files.extend(libraries(&loader, &program, env, cwd).await?);
            // Whoever loads a plugin has this loader.
            for plugin in plugins {
                files.extend(libraries(&loader, plugin, env, cwd).await?);
            }
            files.push(loader);
        }
        files.push(program);
    }
    files.extend_from_slice(plugins);
    for file in &mut files {
        *file = std::fs::canonicalize(&*file).map_err(|error| failed(file, &error.to_string()))?;
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn failed(program: &Path, why: &str) -> Reason {
    Reason::ToolchainProbe(format!("read program {}: {why}", program.display()))
}

/// Asks the loader itself, as `ldd` does: only it knows caches, `DT_RUNPATH` and `LD_LIBRARY_PATH` exactly. It
/// maps the program, but does not run it.
async fn libraries(
    loader: &Path,
    program: &Path,
    env: &[(OsString, OsString)],
    cwd: &Path,
) -> Result<Vec<PathBuf>, Reason> {
    let args = vec!["--list".into(), program.into()];
    let output = Program { path: loader, args, env: env.to_vec(), cwd }
        .output(TIMEOUT)
        .await
        .map_err(|error| failed(program, &error.to_string()))?;
    if !output.status.success() {
        return Err(failed(program, String::from_utf8_lossy(&output.stderr).trim()));
    }
    read_list(&output.stdout).ok_or_else(|| failed(program, "a shared library is not found"))
}

/// Lines of `name => path (address)` and `path (address)`; the kernel's own `linux-vdso.so.1` has no path.
fn read_list(list: &[u8]) -> Option<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in list.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        if line.ends_with(b"not found") {
            return None;
        }
        let start = line.windows(4).position(|window| window == b" => ").map_or(0, |arrow| arrow + 4);
        let end = line.windows(2).rposition(|window| window == b" (").unwrap_or(line.len());
        if let Some(path) = line.get(start..end).filter(|path| path.starts_with(b"/")) {
            libraries.push(PathBuf::from(OsStr::from_bytes(path)));
        }
    }
    Some(libraries)
}

/// Reads the ELF header (System V ABI, "Object Files") as far as `PT_INTERP`.
fn format(program: &Path) -> Result<Format, Reason> {
    let error = |error: std::io::Error| failed(program, &error.to_string());
    let file = File::open(program).map_err(error)?;
    let mut header = Vec::new();
    (&file).take(64).read_to_end(&mut header).map_err(error)?;
    if header.starts_with(b"#!") {
        return Err(Reason::WrapperScript(program.display().to_string()));
    }
    let not_elf = || failed(program, "it is no ELF program of this machine's byte order");
    let is_64 = match header.get(..6) {
        Some(b"\x7fELF\x02\x01") => true,
        Some(b"\x7fELF\x01\x01") => false,
        _ => return Err(not_elf()),
    };
    let layout = if is_64 { &ELF64 } else { &ELF32 };
    let table = layout.word(&header, layout.table).ok_or_else(not_elf)?;
    let size = half(&header, layout.entry_size).ok_or_else(not_elf)?;
    let count = half(&header, layout.entry_count).ok_or_else(not_elf)?.min(MOST_PROGRAM_HEADERS);
    for index in 0..count {
        let mut entry = vec![0; usize::from(size)];
        let place = table.saturating_add(u64::from(index) * u64::from(size));
        file.read_exact_at(&mut entry, place).map_err(error)?;
        // PT_INTERP.
        if entry.starts_with(&3_u32.to_le_bytes()) {
            let place = layout.word(&entry, layout.offset).ok_or_else(not_elf)?;
            let length = layout.word(&entry, layout.length).ok_or_else(not_elf)?;
            let length = usize::try_from(length.min(MOST_INTERPRETER_BYTES)).unwrap_or_default();
            let mut name = vec![0; length];
            file.read_exact_at(&mut name, place).map_err(error)?;
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            return Ok(Format::Dynamic(OsStr::from_bytes(name).into()));
        }
    }
    Ok(Format::Static)
}

/// Where fields stand, in bytes: `e_phoff`, `e_phentsize`, `e_phnum`, `p_offset`, `p_filesz`.
struct Layout {
    word_size: usize,
    table: usize,
    entry_size: usize,
    entry_count: usize,
    offset: usize,
    length: usize,
}

const ELF64: Layout =
    Layout { word_size: 8, table: 32, entry_size: 54, entry_count: 56, offset: 8, length: 32 };
const ELF32: Layout =
    Layout { word_size: 4, table: 28, entry_size: 42, entry_count: 44, offset: 4, length: 16 };

impl Layout {
    fn word(&self, bytes: &[u8], at: usize) -> Option<u64> {
        let mut word = [0; 8];
        word[..self.word_size].copy_from_slice(bytes.get(at..at + self.word_size)?);
        Some(u64::from_le_bytes(word))
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn libraries_are_those_of_the_loader() {
        let gcc = Path::new("/usr/bin/gcc");
        let files = with_libraries(&[gcc.to_owned()], &[], &[], Path::new("/")).await.unwrap();
        assert!(files.contains(&gcc.canonicalize().unwrap()), "{files:?}");
        assert!(files.iter().any(|file| file.to_string_lossy().contains("libc.so")), "{files:?}");
        assert!(files.iter().any(|file| file.to_string_lossy().contains("/ld-")), "{files:?}");
        assert!(files.iter().all(|file| file.canonicalize().unwrap() == *file));
    }

    #[test]
    fn lists_of_libraries() {
        let list = b"\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(read_list(list), Some(vec!["/lib/libc.so.6".into(), "/lib64/ld.so".into()]));
        assert_eq!(read_list(b"\tlibx.so => not found\n"), None);
        // musl names the loader twice.
        assert_eq!(read_list(b"\t/lib/ld-musl.so.1 (0x1)\n"), Some(vec!["/lib/ld-musl.so.1".into()]));
    }

    #[test]
    fn what_is_no_program() {
        let space = tempfile::tempdir().unwrap();
        let path = space.path().join("gcc");
        for content in [
            &b"#!/bin/sh\n"[..],
            b"",
            b"\x7fELF",
            b"\x7fELF\x02\x01",
            &[b"\x7fELF\x02\x01", &[0xff; 58][..]].concat(),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(check(&path).is_err(), "{content:?}");
        }
    }
}

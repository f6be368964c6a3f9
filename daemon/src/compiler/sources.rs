//! What a compile is given and what it makes of it: sources, the stage at which it starts and the one at which it ends.
//! Knows nothing of where it runs, nor of what else it writes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::CommandLine;
use crate::compiler::flag_table::Meaning;
use crate::paths;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::reason::Reason;

/// One source of a compile, and what is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As written.
    pub path: PathBuf,
    /// What is made of it: as written, or its default name, which is relative to the working directory. None: it is
    /// written to `/dev/null`.
    pub object: Option<PathBuf>,
    /// The depfile as written, or the name that the driver derives.
    pub depfile: Option<PathBuf>,
}

/// What a compile makes of each source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// `-c`.
    Object,
    /// `-S`.
    Assembly,
    /// `-E` to a file.
    Preprocessed,
    /// A header, compiled.
    PrecompiledHeader,
}

/// The inputs of a command, all in the same language and form; the forms that GCC's manual, "Options Controlling the
/// Kind of Output", tells apart by suffix or by the last `-x` before them.
pub(super) fn find(
    command_line: &CommandLine,
    default_language: Language,
) -> Result<(Vec<PathBuf>, Language, Form), Reason> {
    let mut chosen: Option<&OsStr> = None;
    let mut sources: Vec<PathBuf> = Vec::new();
    let mut kind = None;
    for argument in &command_line.arguments {
        match argument.meaning {
            Meaning::Language => chosen = Some(argument.value()).filter(|&language| language != "none"),
            Meaning::Input => {
                let path = Path::new(argument.value());
                if path == Path::new("-") || is_device(path) {
                    return Err(Reason::StandardInput);
                }
                let here = match chosen {
                    Some(name) => by_name(name)?,
                    None => by_suffix(path, default_language)?,
                };
                if kind.is_some_and(|kind| kind != here) || sources.iter().any(|other| other == path) {
                    return Err(Reason::SeveralSources);
                }
                kind = Some(here);
                sources.push(path.to_owned());
            }
            _ => {}
        }
    }
    let (language, form) =
        kind.ok_or_else(|| Reason::InputMissing("the command names no source".to_owned()))?;
    Ok((sources, language, form))
}

/// By the value of `-x`.
fn by_name(name: &OsStr) -> Result<(Language, Form), Reason> {
    Ok(match name.as_bytes() {
        b"c" => (Language::C, Form::Source),
        b"c++" => (Language::Cxx, Form::Source),
        b"objective-c" => (Language::ObjectiveC, Form::Source),
        b"objective-c++" => (Language::ObjectiveCxx, Form::Source),
        b"assembler-with-cpp" => (Language::Assembler, Form::Source),
        b"cpp-output" => (Language::C, Form::Preprocessed),
        b"c++-cpp-output" => (Language::Cxx, Form::Preprocessed),
        b"objective-c-cpp-output" => (Language::ObjectiveC, Form::Preprocessed),
        b"objective-c++-cpp-output" => (Language::ObjectiveCxx, Form::Preprocessed),
        b"assembler" => (Language::Assembler, Form::Preprocessed),
        b"c-header" => (Language::C, Form::Header),
        b"c++-header" => (Language::Cxx, Form::Header),
        b"objective-c-header" => (Language::ObjectiveC, Form::Header),
        b"objective-c++-header" => (Language::ObjectiveCxx, Form::Header),
        b"c++-module" | b"c++-system-header" | b"c++-user-header" | b"c++-header-unit-header" => {
            return Err(Reason::Modules(format!("-x {}", name.to_string_lossy())));
        }
        _ => return Err(Reason::UnsupportedLanguage(name.to_string_lossy().into_owned())),
    })
}

fn by_suffix(source: &Path, default_language: Language) -> Result<(Language, Form), Reason> {
    let suffix = source.extension().unwrap_or_default();
    Ok(match suffix.as_bytes() {
        b"c" => (default_language, Form::Source),
        b"cc" | b"cp" | b"cxx" | b"cpp" | b"CPP" | b"c++" | b"C" => (Language::Cxx, Form::Source),
        b"m" => (Language::ObjectiveC, Form::Source),
        b"mm" | b"M" => (Language::ObjectiveCxx, Form::Source),
        b"S" | b"sx" => (Language::Assembler, Form::Source),
        b"i" => (default_language, Form::Preprocessed),
        b"ii" => (Language::Cxx, Form::Preprocessed),
        b"mi" => (Language::ObjectiveC, Form::Preprocessed),
        b"mii" => (Language::ObjectiveCxx, Form::Preprocessed),
        b"s" => (Language::Assembler, Form::Preprocessed),
        b"h" => (default_language, Form::Header),
        b"hh" | b"H" | b"hp" | b"hxx" | b"hpp" | b"HPP" | b"h++" | b"tcc" => (Language::Cxx, Form::Header),
        b"cppm" | b"ccm" | b"cxxm" | b"c++m" | b"ixx" => {
            return Err(Reason::Modules(source.display().to_string()));
        }
        _ => return Err(Reason::UnsupportedLanguage(suffix.to_string_lossy().into_owned())),
    })
}

/// Whether a driver compiles what has such a name.
pub(super) fn is_source(path: &Path) -> bool {
    !matches!(by_suffix(path, Language::C), Err(Reason::UnsupportedLanguage(_)))
}

/// Whether a configure step has written the source to try the compiler out: Autoconf's `conftest`, CMake's scratch
/// directories and compiler identification, Meson's.
pub(super) fn is_probe(cwd: &Path, source: &Path) -> bool {
    if source.file_stem().is_some_and(|stem| stem == "conftest") {
        return true;
    }
    let path = paths::absolute(cwd, source);
    let names: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
    names.windows(2).any(|pair| match pair {
        [b"CMakeFiles", name] => matches!(*name, b"CMakeScratch" | b"CMakeTmp"),
        [b"meson-private", name] => name.starts_with(b"tmp"),
        [_, name] => name.starts_with(b"CompilerId") && names.contains(&&b"CMakeFiles"[..]),
        _ => false,
    })
}

/// Whether a path names what is no regular file on any system.
pub(super) fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

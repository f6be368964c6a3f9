//! A link by a compiler driver: objects, archives and libraries into a program or a shared library.
//! Knows nothing of what the linker finds, nor of where it runs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::CommandLine;
use crate::compiler::Invocation;
use crate::compiler::command_line::Argument;
use crate::compiler::flag_table::Meaning;
use crate::compiler::shape::Shape;
use crate::compiler::sources;
use crate::linker::Flavour;
use crate::reason::Reason;

/// A link that farcc understands as far as the driver goes: the rest says the [`Linker`](crate::compiler::Linker).
#[derive(Debug, Clone)]
pub struct Link {
    /// Absolute path of the driver, symlinks not resolved.
    pub driver: PathBuf,
    /// What is made, as written; `a.out` where nothing is.
    pub output: PathBuf,
    /// The arguments after the program's name, response files expanded.
    pub arguments: Vec<OsString>,
    /// The same, typed.
    pub(super) command_line: CommandLine,
}

/// Variables that bring other inputs or outputs into a linker (GNU ld manual, "Environment Variables"; LLD's and mold's
/// option references).
const UNSUPPORTED_VARIABLES: &[&str] =
    &["GNUTARGET", "LDEMULATION", "LLD_REPRODUCE", "LLD_VERSION", "MOLD_DEBUG", "MOLD_REPRO"];

/// Suffixes of files that a driver compiles before it links, besides those of the languages that farcc knows.
const OTHER_SOURCES: &[&str] = &[
    "F", "F03", "F08", "F90", "F95", "FOR", "FPP", "FTN", "adb", "ads", "bc", "d", "dd", "di", "f", "f03",
    "f08", "f90", "f95", "for", "fpp", "ftn", "go", "ll", "m2", "mod",
];

impl Link {
    /// Reads the command line of a driver that is told neither `-c`, `-S` nor `-E`.
    ///
    /// # Errors
    /// The reason why the command runs locally.
    pub(super) fn read(
        invocation: &Invocation,
        driver: PathBuf,
        command_line: CommandLine,
        output: Option<PathBuf>,
    ) -> Result<Link, Reason> {
        let output = output.unwrap_or_else(|| "a.out".into());
        check_inputs(&command_line)?;
        let inputs = command_line.with(Meaning::Input).map(|input| Path::new(input.value()));
        if let Some(probe) = inputs.chain([&*output]).find(|path| sources::is_probe(&invocation.cwd, path)) {
            return Err(Reason::Probe(probe.display().to_string()));
        }
        let set = |name: &&&str| invocation.variable(name).is_some_and(|value| !value.is_empty());
        if let Some(variable) = UNSUPPORTED_VARIABLES.iter().find(set) {
            return Err(Reason::UnsupportedEnvironment((*variable).to_owned()));
        }
        let link = Link { driver, output, arguments: command_line.words(), command_line };
        for argument in &link.command_line.arguments {
            let understood = match argument.meaning {
                Meaning::Unsupported => false,
                Meaning::Intermediates => return Err(Reason::Intermediates(argument.text())),
                _ if makes_code_otherwise(argument.meaning) => !link.optimises(),
                // What is no directory is the beginning of programs' names.
                Meaning::ProgramDirectory => invocation.cwd.join(argument.value()).is_dir(),
                _ => true,
            };
            if !understood {
                return Err(Reason::UnsupportedFlag(argument.text()));
            }
        }
        Ok(link)
    }

    /// What the driver is asked, so that its answer serves all links that differ in their inputs only.
    pub(super) fn shape(&self) -> Shape {
        Shape::of(&self.command_line)
    }

    /// `-B`.
    pub(super) fn program_directories(&self) -> impl Iterator<Item = &Path> {
        self.command_line.with(Meaning::ProgramDirectory).filter_map(Argument::path)
    }

    /// `--sysroot`.
    pub(super) fn sysroots(&self) -> impl Iterator<Item = &Path> {
        self.command_line.with(Meaning::Sysroot).filter_map(Argument::path)
    }

    /// Whether what the driver answers depends on the working directory.
    pub(super) fn asks_by_relative_paths(&self) -> bool {
        let decides = |argument: &&Argument| {
            matches!(
                argument.meaning,
                Meaning::ProgramDirectory
                    | Meaning::Specs
                    | Meaning::Configuration
                    | Meaning::Sysroot
                    | Meaning::ProbePath
            )
        };
        let paths = self.command_line.arguments.iter().filter(decides).filter_map(Argument::path);
        paths.into_iter().any(Path::is_relative)
    }

    /// The files that the driver itself reads, as written.
    pub fn read_by_driver(&self) -> impl Iterator<Item = PathBuf> {
        let files = [Meaning::Specs, Meaning::Configuration].into_iter();
        files.flat_map(|meaning| self.command_line.with(meaning)).map(|argument| argument.value().into())
    }

    /// Whether code is made at link time because a flag says so.
    fn optimises(&self) -> bool {
        let last = self.command_line.arguments.iter().rfind(|argument| {
            argument.text().strip_prefix("-fno-lto").or(argument.text().strip_prefix("-flto")).is_some()
        });
        last.is_some_and(|argument| !argument.text().starts_with("-fno-lto"))
    }

    /// The flag that must not meet inputs of which code is made at link time: it would ask for further files, or for code of
    /// this machine.
    pub fn asks_more_of_code(&self) -> Option<String> {
        let asks = |argument: &&Argument| {
            makes_code_otherwise(argument.meaning) || argument.meaning == Meaning::Native && !self.optimises()
        };
        self.command_line.arguments.iter().find(asks).map(Argument::text)
    }

    /// Why another machine would make other bytes of it.
    pub fn is_bound_here(&self) -> Option<&'static str> {
        let is_bound = self.optimises() && self.command_line.has(Meaning::Native);
        is_bound.then_some("-march=native where code is made at link time")
    }

    /// What to append to the arguments so that the linker tells in `path` what it has read. What it makes does not change.
    pub fn depfile_arguments(&self, path: &Path) -> [OsString; 2] {
        let mut option = OsString::from("--dependency-file=");
        option.push(path);
        ["-Xlinker".into(), option]
    }

    /// What to append so that messages keep the colours that the user's terminal would have got, and so that all is over when
    /// the driver ends: mold leaves a process behind that tidies up, and holds the streams that are to be kept.
    pub fn additions(&self, invocation: &Invocation, flavour: Flavour) -> Vec<OsString> {
        let capable = invocation.variable("TERM").is_some_and(|term| term != "dumb" && !term.is_empty());
        let is_chosen =
            self.arguments.iter().any(|word| memchr::memmem::find(word.as_bytes(), b"color-").is_some());
        // The others have none.
        let has_colours = matches!(flavour, Flavour::Lld | Flavour::Mold);
        let mut added: Vec<&str> = Vec::new();
        if invocation.stderr_is_terminal && capable && has_colours && !is_chosen {
            added.push("--color-diagnostics=always");
        }
        if flavour == Flavour::Mold {
            added.push("--no-fork");
        }
        added.into_iter().flat_map(|option| ["-Xlinker".into(), option.into()]).collect()
    }
}

/// Whether there is more to a flag, where code is made, than what the linker is told.
fn makes_code_otherwise(meaning: Meaning) -> bool {
    matches!(
        meaning,
        Meaning::Writes(_)
            | Meaning::WritesFile
            | Meaning::CompilationDatabase
            | Meaning::Dump
            | Meaning::Plugin
            | Meaning::PluginArgument
            | Meaning::ProfileUse
            | Meaning::ProfileDirectory
            | Meaning::Recorded
            | Meaning::Xclang
            | Meaning::LlvmOption
            | Meaning::ReadsFile
    )
}

/// Refuses sources: the same command would compile them.
fn check_inputs(command_line: &CommandLine) -> Result<(), Reason> {
    let mut is_language_chosen = false;
    let mut count = 0;
    for argument in &command_line.arguments {
        match argument.meaning {
            Meaning::Language => is_language_chosen = argument.value() != "none",
            Meaning::Input => {
                let path = Path::new(argument.value());
                if path == Path::new("-") || sources::is_device(path) {
                    return Err(Reason::StandardInput);
                }
                let suffix = path.extension().unwrap_or_default();
                let is_source =
                    sources::is_source(path) || OTHER_SOURCES.iter().any(|&other| suffix == other);
                if is_source || is_language_chosen {
                    return Err(Reason::Link(format!("{} is compiled by the same command", path.display())));
                }
                count += 1;
            }
            _ => {}
        }
    }
    match count {
        0 => Err(Reason::InputMissing("the command names no file to link".to_owned())),
        _ => Ok(()),
    }
}

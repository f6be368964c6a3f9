//! The files that a command makes: their names, and how the compiler puts them into place.
//! Knows nothing of what is in them, nor of how they are brought back from a worker.
//!
//! The names are those that GCC 12 ("Options Controlling the Kind of Output", `-dumpbase`) and Clang 14 to 19 give; the
//! differential suite holds them against both.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Archive;
use crate::compiler::CommandLine;
use crate::compiler::Compile;
use crate::compiler::Linker;
use crate::compiler::Product;
use crate::compiler::Source;
use crate::compiler::command_line::Argument;
use crate::compiler::driver_name::ArchiverKind;
use crate::compiler::flag_table::Further;
use crate::compiler::flag_table::Meaning;
use crate::linker::Flavour;
use crate::linker::FurtherOutput;
use crate::linker::LinkLine;
use crate::preprocessor::Family;
use crate::preprocessor::Language;
use crate::reason::Reason;

/// What an output is for; in the order in which outputs are put into place: a build tool that sees the object must
/// find everything else beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    /// The make rules that the command asks for.
    Depfile,
    /// Make rules that only farcc reads, to audit the inputs.
    AuditDepfile,
    /// Whatever else the command's flags ask for: notes for gcov, split debug information, listings.
    Further,
    /// What the command is for.
    Object,
    /// Make rules that an environment variable asks for. After all others, so that no command appends them twice
    /// because something else went wrong.
    AppendedRules,
}

/// A file that a command is expected to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedOutput {
    /// What it is for.
    pub kind: OutputKind,
    /// As written, or as the driver derives it: absolute, or relative to the working directory.
    pub path: PathBuf,
    /// Whether the command can succeed without making it.
    pub is_optional: bool,
    /// What becomes of what is there already.
    pub placement: Placement,
}

/// What becomes of a file that is where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// A new file takes its place, or that of a symlink.
    Replaced,
    /// The same, but an empty file is written to, and a symlink that leads to one or nowhere is followed: GNU's tools
    /// unlink only what they find something in (bfd/cache.c, `bfd_open_file`).
    Unlinked,
    /// It is opened and written anew, so that its mode, its other names and the symlink that leads to it stay.
    Overwritten,
    /// The same, but it gets the mode of a new file.
    Renewed,
    /// What is there stays, and the output follows it.
    Appended,
}

impl ExpectedOutput {
    /// An output that is always made and replaces what is there.
    pub fn replacing(kind: OutputKind, path: PathBuf) -> ExpectedOutput {
        ExpectedOutput { kind, path, is_optional: false, placement: Placement::Replaced }
    }

    /// Rules that follow what is there.
    pub fn appending(path: PathBuf) -> ExpectedOutput {
        let (kind, placement) = (OutputKind::AppendedRules, Placement::Appended);
        ExpectedOutput { kind, path, is_optional: false, placement }
    }

    /// An output that is always made and overwrites what is there.
    pub fn overwriting(kind: OutputKind, path: PathBuf) -> ExpectedOutput {
        ExpectedOutput { kind, path, is_optional: false, placement: Placement::Overwritten }
    }
}

impl Compile {
    /// All files that the compile makes for the user.
    pub fn outputs(&self, family: Family) -> Vec<ExpectedOutput> {
        let mut outputs = Vec::new();
        for source in &self.sources {
            if let Some(depfile) = &source.depfile {
                outputs.push(ExpectedOutput::overwriting(OutputKind::Depfile, depfile.clone()));
            }
            self.further_outputs(source, family, &mut outputs);
            self.main_outputs(source, family, &mut outputs);
        }
        outputs
    }

    fn main_outputs(&self, source: &Source, family: Family, outputs: &mut Vec<ExpectedOutput>) {
        let Some(object) = &source.object else { return };
        let placement = match (family, self.product) {
            // It renames a temporary file.
            (Family::Clang, _) => Placement::Replaced,
            (Family::Gcc, Product::Object) => Placement::Unlinked,
            (Family::Gcc, _) => Placement::Overwritten,
        };
        let made = |path: PathBuf, is_optional| ExpectedOutput {
            kind: OutputKind::Object,
            path,
            is_optional,
            placement,
        };
        let is_named = self.command_line.has(Meaning::Output);
        if family == Family::Clang && self.product == Product::PrecompiledHeader && !is_named {
            // `.gch` before Clang 17, `.pch` since.
            outputs.extend([object.with_extension("pch"), object.clone()].map(|path| made(path, true)));
        } else {
            outputs.push(made(object.clone(), false));
        }
    }

    fn further_outputs(&self, source: &Source, family: Family, outputs: &mut Vec<ExpectedOutput>) {
        let kind = OutputKind::Further;
        for argument in &self.command_line.arguments {
            match argument.meaning {
                Meaning::Writes(further) => {
                    let path = stem(source, family).and_then(|stem| {
                        let suffix = self.suffix(further, source, argument, family)?;
                        Some(with_appended(stem, &suffix))
                    });
                    let Some(path) = path.filter(|path| outputs.iter().all(|other| other.path != *path))
                    else {
                        continue;
                    };
                    // GCC's split debug information is cut out of the object by objcopy, which replaces.
                    let placement = match further == Further::SplitDebug && family == Family::Gcc {
                        true => Placement::Unlinked,
                        false => Placement::Overwritten,
                    };
                    let is_optional =
                        self.product == Product::PrecompiledHeader || is_optional(further, family);
                    outputs.push(ExpectedOutput { kind, path, is_optional, placement });
                }
                Meaning::WritesFile => {
                    let path = PathBuf::from(argument.value());
                    outputs.push(match family {
                        Family::Gcc => ExpectedOutput::overwriting(kind, path),
                        Family::Clang => ExpectedOutput::replacing(kind, path),
                    });
                }
                Meaning::CompilationDatabase => {
                    let path = PathBuf::from(argument.value());
                    // Not every version writes it for assembler text.
                    let is_optional = self.language == Language::Assembler;
                    outputs.push(ExpectedOutput { is_optional, ..ExpectedOutput::overwriting(kind, path) });
                }
                Meaning::AssemblerList if self.product == Product::Object => {
                    let listings = argument.assembler_list().unwrap_or_default().listings;
                    outputs.extend(
                        listings
                            .into_iter()
                            .map(|path| ExpectedOutput::overwriting(kind, PathBuf::from(path))),
                    );
                }
                _ => {}
            }
        }
    }

    /// `-foptimization-record-file=`: the record goes there alone.
    fn names_optimisation_record(&self) -> bool {
        let mut written = self.command_line.with(Meaning::WritesFile);
        written.any(|argument| argument.name == "-foptimization-record-file=")
    }

    /// What is appended to the stem; None: this compiler makes no such file of this product.
    fn suffix(
        &self,
        further: Further,
        source: &Source,
        argument: &Argument,
        family: Family,
    ) -> Option<OsString> {
        let is_made = match self.product {
            Product::Preprocessed => further == Further::TimeTrace,
            // No compiler runs, but objcopy does.
            _ if self.language == Language::Assembler => further == Further::SplitDebug,
            _ => true,
        };
        if !is_made {
            return None;
        }
        let suffix = match further {
            Further::CoverageNotes => ".gcno",
            Further::CoverageCounts if family == Family::Clang => ".gcno",
            Further::StackUsage => ".su",
            Further::CallGraph if family == Family::Gcc => ".ci",
            Further::TimeTrace if family == Family::Clang => ".json",
            Further::SplitDebug if family == Family::Gcc && self.product != Product::Object => return None,
            Further::SplitDebug => ".dwo",
            Further::OptimisationRecord if self.names_optimisation_record() => return None,
            Further::OptimisationRecord if family == Family::Clang => match argument.value().as_bytes() {
                b"" => ".opt.yaml",
                format => {
                    let mut suffix = OsString::from(".opt.");
                    suffix.push(OsStr::from_bytes(format));
                    return Some(suffix);
                }
            },
            Further::OptimisationRecord => {
                let mut suffix = OsString::from(".");
                suffix.push(source.path.extension().unwrap_or_default());
                suffix.push(".opt-record.json.gz");
                return Some(suffix);
            }
            Further::CoverageCounts | Further::CallGraph | Further::TimeTrace => return None,
        };
        Some(suffix.into())
    }
}

fn is_optional(further: Further, family: Family) -> bool {
    match further {
        // Not without `-g`, not with `-flto`.
        Further::SplitDebug => family == Family::Clang,
        // Clang 14 writes notes that nobody asked for, Clang 19 does not.
        Further::CoverageCounts => true,
        _ => false,
    }
}

impl Linker {
    /// All files that a link makes for the user.
    pub fn outputs(&self, line: &LinkLine) -> Vec<ExpectedOutput> {
        let placement = match self.flavour {
            Flavour::Bfd | Flavour::Gold => Placement::Unlinked,
            // It renames a temporary file.
            Flavour::Lld => Placement::Replaced,
            // It writes into the file that is there (mold, `open_or_create_file`).
            Flavour::Mold => Placement::Renewed,
        };
        let binary = |kind, path| ExpectedOutput { placement, ..ExpectedOutput::replacing(kind, path) };
        let mut outputs = vec![binary(OutputKind::Object, line.output().to_owned())];
        for (path, kind) in line.further_outputs() {
            outputs.push(match kind {
                FurtherOutput::Map => ExpectedOutput::overwriting(OutputKind::Further, path),
                FurtherOutput::DependencyFile => ExpectedOutput::overwriting(OutputKind::Depfile, path),
                FurtherOutput::ImportLibrary => binary(OutputKind::Further, path),
            });
        }
        outputs
    }
}

impl Archive {
    /// What the command makes.
    pub fn outputs(&self) -> Vec<ExpectedOutput> {
        let placement = match self.kind {
            ArchiverKind::Dwp | ArchiverKind::LlvmDwp => Placement::Overwritten,
            _ => Placement::Unlinked,
        };
        let made = ExpectedOutput::replacing(OutputKind::Object, self.output.clone());
        vec![ExpectedOutput { placement, ..made }]
    }
}

/// The path that further outputs are named after: that of the object without its suffix, else the source's.
pub(super) fn stem(source: &Source, family: Family) -> Option<PathBuf> {
    match (&source.object, family) {
        (Some(object), Family::Gcc) => Some(object.with_extension("")),
        (Some(object), Family::Clang) => Some(without_suffix(object)),
        (None, Family::Gcc) => {
            Some(PathBuf::from(source.path.file_name().unwrap_or_default()).with_extension(""))
        }
        (None, Family::Clang) => None,
    }
}

/// Without whatever follows the last dot of the base name, even the first: `out/.x` gives `out/`.
fn without_suffix(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let stem = name.iter().rposition(|&byte| byte == b'.').map_or(name, |dot| &name[..dot]);
    match path.parent() {
        Some(parent) if stem.is_empty() => {
            let mut directory = parent.as_os_str().to_owned();
            directory.push(if parent.as_os_str().is_empty() { "" } else { "/" });
            PathBuf::from(directory)
        }
        _ => path.with_file_name(OsStr::from_bytes(stem)),
    }
}

fn with_appended(path: PathBuf, suffix: &OsStr) -> PathBuf {
    let mut name = path.into_os_string();
    name.push(suffix);
    name.into()
}

/// What is made of a source whose output has no name: the source's base name with another suffix, in the working
/// directory; a compiled header lies beside its text.
pub(super) fn default_object(source: &Path, product: Product, command_line: &CommandLine) -> PathBuf {
    let suffix = match (product, command_line.has(Meaning::EmitLlvm)) {
        (Product::PrecompiledHeader, _) => return with_appended(source.to_owned(), OsStr::new(".gch")),
        (Product::Object, true) => "bc",
        (Product::Object, false) => "o",
        (Product::Assembly, true) => "ll",
        (Product::Assembly, false) => "s",
        (Product::Preprocessed, _) => "i",
    };
    with_suffix(source, suffix)
}

fn with_suffix(source: &Path, suffix: &str) -> PathBuf {
    Path::new(source.file_name().unwrap_or_default()).with_extension(suffix)
}

/// The depfile that the command asks for beside `object`, its named output. Where GCC and Clang name it differently
/// (`-Wp,-MD,file` together with `-MF`), or one of them fails (`-MF` without `-MD`), the flag counts as not understood.
pub(super) fn find_depfile(
    command_line: &CommandLine,
    named_object: Option<&Path>,
    source: &Path,
) -> Result<Option<PathBuf>, Reason> {
    let unsupported = |argument: &Argument| Reason::UnsupportedFlag(argument.text());
    let named = command_line.with(Meaning::DepfileName).last();
    let mut listed = None;
    for argument in command_line.with(Meaning::PreprocessorList) {
        if let Some(depfile) = argument.preprocessor_list()?.depfile
            && (listed.replace(depfile).is_some() || named.is_some())
        {
            return Err(unsupported(argument));
        }
    }
    if listed.is_some() {
        return Ok(listed);
    }
    if command_line.has(Meaning::Depfile) {
        return Ok(Some(match (named, named_object) {
            (Some(name), _) => PathBuf::from(name.value()),
            (None, Some(object)) => with_appended(without_suffix(object), OsStr::new(".d")),
            (None, None) => with_suffix(source, "d"),
        }));
    }
    match named.or(command_line.with(Meaning::DepfileContent).next()) {
        Some(argument) => Err(unsupported(argument)),
        None => Ok(None),
    }
}

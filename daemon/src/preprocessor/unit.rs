//! What the scanner must know of a compile: the source, the language, the search path, the macros.
//! Plain values; made from a command line and a probed toolchain on a higher floor.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;

use crate::preprocessor::Predefined;

/// The language of a source, as far as the preprocessor treats it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// C.
    C,
    /// C++.
    Cxx,
    /// Objective-C.
    ObjectiveC,
    /// Objective-C++.
    ObjectiveCxx,
    /// Assembler that is preprocessed (`.S`, `-x assembler-with-cpp`).
    Assembler,
}

impl Language {
    /// Whether the rules of C++ apply.
    pub fn is_cxx(self) -> bool {
        matches!(self, Language::Cxx | Language::ObjectiveCxx)
    }

    /// The name by which drivers know it, the value of `-x`.
    pub fn name(self) -> &'static str {
        match self {
            Language::C => "c",
            Language::Cxx => "c++",
            Language::ObjectiveC => "objective-c",
            Language::ObjectiveCxx => "objective-c++",
            Language::Assembler => "assembler-with-cpp",
        }
    }
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Text for the preprocessor.
    Source,
    /// Text that has been preprocessed, or that never is (`.i`, `.ii`, `.s`): it is read as it stands, and nothing before
    /// it.
    Preprocessed,
    /// A header that is to be compiled by itself. GCC takes no precompiled header for what it includes.
    Header,
}

/// Whose preprocessor is imitated where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// GNU `gcc` and `g++`.
    Gcc,
    /// LLVM `clang` and `clang++`.
    Clang,
}

/// Everything that decides which files a compile reads.
#[derive(Debug, Clone)]
pub struct TranslationUnit {
    /// Absolute working directory of the command.
    pub cwd: PathBuf,
    /// The source as the command line names it.
    pub source: PathBuf,
    /// Language of the source.
    pub language: Language,
    /// What the source is.
    pub form: Form,
    /// Whose rules apply.
    pub family: Family,
    /// Where `#include` looks.
    pub search_path: SearchPath,
    /// Macros of the compiler itself, under this command's flags.
    pub predefined: Arc<Predefined>,
    /// `-D` and `-U`, in command-line order.
    pub macros: Vec<MacroOption>,
    /// `-imacros` and `-include`. GCC manual, "Preprocessor Options": all `-imacros` are processed before all
    /// `-include`.
    pub forced_includes: Vec<ForcedInclude>,
    /// Flags that change how text is read.
    pub lexing: Lexing,
    /// The compiler's answers to `__has_builtin(x)` and its kin.
    pub answers: Arc<Answers>,
}

/// Flags that change how text is read and that no predefined macro tells of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lexing {
    /// `-trigraphs` (true), `-fno-trigraphs` (false); None: as the standard has it.
    pub trigraphs: Option<bool>,
    /// `-fno-operator-names`: in C++, `and` and its kin are ordinary identifiers.
    pub no_operator_names: bool,
}

/// Directories that are searched, in order; each as the command line or the compiler names it, so possibly
/// relative to the working directory, missing, or a symlink. The caller has removed duplicates as GCC and
/// Clang do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// `-iquote`, for `#include "…"` only, after the includer's own directory.
    pub quote: Vec<PathBuf>,
    /// `-I`, `CPATH`, `-isystem`, the built-in directories and `-idirafter`, for both forms.
    pub angle: Vec<PathBuf>,
    /// How many leading entries of `angle` are not system directories (`-I` and `CPATH`).
    pub user_directories: usize,
    /// `--embed-dir`, for `#embed` and `__has_embed`.
    pub embed: Vec<PathBuf>,
    /// Where the assembler looks for what it includes, besides the working directory and the directories above.
    pub assembler: Vec<PathBuf>,
}

/// One `-D` or `-U`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacroOption {
    /// `-D name`, `-D name=value`, `-D 'name(args)=value'`: the text after `-D`.
    Define(OsString),
    /// `-U name`.
    Undefine(OsString),
}

/// A file that is read before the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForcedInclude {
    /// `-include file`: looked for in the working directory, then along the quote search path.
    Include(PathBuf),
    /// `-imacros file`: only its macros remain.
    Macros(PathBuf),
    /// `-Xclang -include -Xclang file`: never a precompiled header in its place.
    Text(PathBuf),
}

/// What one compiler, under one set of flags, answers to preprocessor questions such as
/// `__has_builtin(__builtin_expect)`: the question in canonical spelling, without blanks, and its value.
pub type Answers = DashMap<String, i64>;

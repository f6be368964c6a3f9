//! What every flag of GCC and Clang means to farcc: one row per flag, or per family of flags.
//! Knows nothing of how a command line is read, nor of what is done with the meanings.
//!
//! What is not in the table is unknown, and a compile with an unknown flag runs locally. A flag may be listed
//! as harmless only if it neither reads nor writes a file besides those that a compile has anyway.
//! Sources: the GCC 12 manual, "Option Summary", and what later versions added; the Clang 14 and 19 command line
//! references; `gcc --help=common` and its kin; `clang --help-hidden`.

use std::sync::LazyLock;

use Arity::Either;
use Arity::Exact;
use Arity::Joined;
use Arity::Separate;

/// How a flag takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arity {
    /// No value: the argument is the name.
    Exact,
    /// The value is the rest of the argument, perhaps empty.
    Joined,
    /// The value is the next argument.
    Separate,
    /// The rest of the argument, or, if that is empty, the next one.
    Either,
}

/// Which chain of the include search path a directory joins (GCC manual, "Options for Directory Search").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// `-iquote`.
    Quote,
    /// `-I`.
    Bracket,
    /// `-isystem`.
    System,
    /// `-idirafter`.
    After,
    /// `-iwithprefix`: the directory is appended to the value of `-iprefix`.
    WithPrefix,
    /// `-iwithprefixbefore`.
    WithPrefixBefore,
    /// `--embed-dir`, for `#embed` alone.
    Embed,
}

/// A file that is made beside the object, named after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Further {
    /// `-ftest-coverage`, `--coverage`: `.gcno`.
    CoverageNotes,
    /// `-fprofile-arcs`: some compilers make `.gcno` for it as well.
    CoverageCounts,
    /// `-fstack-usage`: `.su`.
    StackUsage,
    /// `-fcallgraph-info`: `.ci`.
    CallGraph,
    /// `-gsplit-dwarf`: `.dwo`.
    SplitDebug,
    /// `-ftime-trace`: `.json`.
    TimeTrace,
    /// `-fsave-optimization-record`: `.opt.yaml` or `.opt-record.json.gz`.
    OptimisationRecord,
}

/// What a flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An argument that is no flag: an input file, or `-` for standard input.
    Input,
    /// `-c`.
    Compile,
    /// `-S`.
    Assemble,
    /// `-E`.
    Preprocess,
    /// `-M`, `-MM`, `-fsyntax-only`, `--analyze`: nothing is compiled.
    Check,
    /// `-P`, `-C`, `-CC`: what preprocessed text looks like.
    PreprocessedText,
    /// `-d…`: preprocessed text with other lines, assembler text with more comments, or dumps of the compiler's work.
    Dump,
    /// `-save-temps`, `-fdump-…`: files between the source and the object.
    Intermediates,
    /// `-emit-llvm`.
    EmitLlvm,
    /// The compiler tells about itself.
    Information,
    /// `-o`.
    Output,
    /// `-x`.
    Language,
    /// `-D`.
    Define,
    /// `-U`.
    Undefine,
    /// A directory of the include search path.
    Directory(Chain),
    /// `-iprefix`.
    DirectoryPrefix,
    /// `-include`.
    Include,
    /// `-imacros`.
    Macros,
    /// `-MD`, `-MMD`.
    Depfile,
    /// `-MF`.
    DepfileName,
    /// `-MT`, `-MQ`, `-MP`: what the depfile looks like.
    DepfileContent,
    /// `-Wp,…`: a list for the preprocessor.
    PreprocessorList,
    /// `-Wa,…`: a list for the assembler.
    AssemblerList,
    /// `-mllvm`: one argument for LLVM.
    LlvmOption,
    /// `-Xclang`: one argument for Clang's own compiler.
    Xclang,
    /// Changes predefined macros, the built-in search path, or answers to `__has_…`.
    Probe,
    /// The same, and the value is a path.
    ProbePath,
    /// `--sysroot`, `-isysroot`: the same, and it stands for `=` in directories.
    Sysroot,
    /// `-B`: where programs are looked for before all other places.
    ProgramDirectory,
    /// `-specs`: a file by which GCC puts together what its programs are given.
    Specs,
    /// `--config`: a file of further flags for Clang.
    Configuration,
    /// `-F`, `-iframework`: frameworks are looked for there.
    Frameworks,
    /// `-ivfsoverlay`: a file that says which files are seen where.
    Overlay,
    /// `-fmodule-map-file=`: without a flag for modules it is read, and that is all.
    ModuleMap,
    /// `-MJ`: the command line, for a compilation database, in a further file.
    CompilationDatabase,
    /// `-trigraphs` and its kin: they change how text is read, but no macro.
    Trigraphs,
    /// `-fno-operator-names`, likewise.
    OperatorNames,
    /// A further file whose name comes of the object's.
    Writes(Further),
    /// A further file, which the value names.
    WritesFile,
    /// A file that is read, which the value names.
    ReadsFile,
    /// `-fprofile-use` and its kin: the counts of a training run are read.
    ProfileUse,
    /// `-fprofile-dir=`, `-fprofile-generate=`: where such counts are, or come to be.
    ProfileDirectory,
    /// `-fplugin=`.
    Plugin,
    /// `-fplugin-arg-…`.
    PluginArgument,
    /// `-include-pch`.
    IncludePrecompiled,
    /// `-march=native` and its kin: what this machine is.
    Native,
    /// Modules: the command reads or writes what other commands make of their sources.
    Modules,
    /// Chooses whether diagnostics have colours.
    Colour,
    /// Changes code or diagnostics, but nothing that is read or written.
    Neutral,
    /// The same, but its value or its effect is bound to absolute paths.
    Bound,
    /// `-ffile-prefix-map=` and its kin: other names for paths in what is made.
    PrefixMap,
    /// Writes the command line itself into the object, so that nothing may be added to it.
    Recorded,
    /// Has no effect on a compile.
    LinkOnly,
    /// Reads or writes other files, or is not yet understood.
    Unsupported,
}

impl Meaning {
    /// Whether it says what is made and where, so that a question for the inputs goes without it.
    pub(super) fn decides_what_is_made(self) -> bool {
        matches!(
            self,
            Meaning::Compile
                | Meaning::Assemble
                | Meaning::Preprocess
                | Meaning::Output
                | Meaning::Depfile
                | Meaning::DepfileName
                | Meaning::DepfileContent
                | Meaning::Writes(_)
                | Meaning::CompilationDatabase
                | Meaning::WritesFile
        )
    }
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// The flag as typed, without its value.
    pub(super) name: &'static str,
    /// How it takes its value.
    pub(super) arity: Arity,
    /// What it asks for.
    pub(super) meaning: Meaning,
}

const fn row(name: &'static str, arity: Arity, meaning: Meaning) -> Row {
    Row { name, arity, meaning }
}

/// The row for `argument`, a flag: the one with the longest name that fits. `-f…` is looked up in a list of its
/// own.
pub(super) fn find(argument: &[u8]) -> Option<&'static Row> {
    let fits = |row: &&Row| match row.arity {
        Exact | Separate => argument == row.name.as_bytes(),
        Joined | Either => argument.starts_with(row.name.as_bytes()),
    };
    let letter = argument.get(1).copied().unwrap_or_default();
    let found = BY_LETTER[usize::from(letter)].iter().copied().find(fits);
    found.or_else(|| find_feature(argument))
}

/// Whether any flag with one of some meanings has a name that begins so; `-f…` features have none of them.
pub(super) fn any_named(beginning: &str, is_meant: impl Fn(Meaning) -> bool) -> bool {
    ROWS.iter().any(|row| row.name.starts_with(beginning) && is_meant(row.meaning))
}

/// The rows by what follows the dash, the longest names first.
static BY_LETTER: LazyLock<[Vec<&'static Row>; 256]> = LazyLock::new(|| {
    let mut by_letter = [const { Vec::new() }; 256];
    for row in ROWS {
        by_letter[usize::from(row.name.as_bytes()[1])].push(row);
    }
    for rows in &mut by_letter {
        rows.sort_by_key(|row: &&Row| std::cmp::Reverse(row.name.len()));
    }
    by_letter
});

fn find_feature(argument: &[u8]) -> Option<&'static Row> {
    let name = argument.strip_prefix(b"-f")?;
    let positive = name.strip_prefix(b"no-").unwrap_or(name);
    let known = |name: &[u8]| match FEATURES.binary_search_by(|feature| feature.as_bytes().cmp(name)) {
        Ok(_) => true,
        // A name that ends in `=` or `-` is followed by a value; it sorts before the name with a value.
        Err(next) => (0..next)
            .rev()
            .take_while(|&i| FEATURES[i].as_bytes()[0] == name[0])
            .any(|i| FEATURES[i].ends_with(['=', '-']) && name.starts_with(FEATURES[i].as_bytes())),
    };
    if positive.is_empty() || !known(positive) {
        return None;
    }
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| positive.starts_with(prefix.as_bytes()));
    Some(if starts(COLOUR_FEATURES) {
        &FEATURE_COLOUR
    } else if starts(BOUND_FEATURES) {
        &FEATURE_BOUND
    } else if starts(NEUTRAL_FEATURES) {
        &FEATURE_NEUTRAL
    } else {
        &FEATURE_PROBE
    })
}

/// Rows whose value is the rest of an `-f…` argument.
static FEATURE_PROBE: Row = row("-f", Joined, Meaning::Probe);
static FEATURE_NEUTRAL: Row = row("-f", Joined, Meaning::Neutral);
static FEATURE_BOUND: Row = row("-f", Joined, Meaning::Bound);
static FEATURE_COLOUR: Row = row("-f", Joined, Meaning::Colour);

/// Features that decide about colours.
const COLOUR_FEATURES: &[&str] =
    &["diagnostics-color", "color-diagnostics", "ansi-escape-codes", "diagnostics-plain-output"];

/// Features that name paths, or put paths into the object in a way that no prefix map mends.
const BOUND_FEATURES: &[&str] = &[
    "coverage-compilation-dir=",
    "coverage-prefix-map=",
    "debug-compilation-dir=",
    "file-compilation-dir=",
    "lto",
];

/// Features that no macro and no answer depends on, and whose values vary from command to command.
const NEUTRAL_FEATURES: &[&str] = &[
    "caret-diagnostics",
    "crash-diagnostics",
    "diagnostics-",
    "error-limit=",
    "macro-backtrace-limit=",
    "max-errors=",
    "message-length=",
    "random-seed=",
    "show-",
    "tabstop=",
    "use-ld=",
    "working-directory",
];

/// All rows but those for `-f…` features.
static ROWS: &[Row] = &[
    // What is done.
    row("-c", Exact, Meaning::Compile),
    row("-S", Exact, Meaning::Assemble),
    row("-E", Exact, Meaning::Preprocess),
    row("-M", Exact, Meaning::Check),
    row("-MM", Exact, Meaning::Check),
    row("-fsyntax-only", Exact, Meaning::Check),
    row("--analyze", Exact, Meaning::Check),
    row("-o", Either, Meaning::Output),
    row("-x", Either, Meaning::Language),
    // Information.
    row("-###", Exact, Meaning::Information),
    row("-v", Exact, Meaning::Information),
    row("-V", Exact, Meaning::Information),
    row("-Q", Exact, Meaning::Information),
    row("--verbose", Exact, Meaning::Information),
    row("--version", Exact, Meaning::Information),
    row("-version", Exact, Meaning::Information),
    row("--help", Joined, Meaning::Information),
    row("-help", Exact, Meaning::Information),
    row("--target-help", Exact, Meaning::Information),
    row("-dumpversion", Exact, Meaning::Information),
    row("-dumpfullversion", Exact, Meaning::Information),
    row("-dumpmachine", Exact, Meaning::Information),
    row("-dumpspecs", Exact, Meaning::Information),
    row("-print-", Joined, Meaning::Information),
    row("--print-", Joined, Meaning::Information),
    row("--completion=", Joined, Meaning::Information),
    row("--autocomplete=", Joined, Meaning::Information),
    row("-ccc-print-", Joined, Meaning::Information),
    // Macros and include directories.
    row("-D", Either, Meaning::Define),
    row("-U", Either, Meaning::Undefine),
    row("-I", Either, Meaning::Directory(Chain::Bracket)),
    row("-I-", Exact, Meaning::Unsupported),
    row("-iquote", Either, Meaning::Directory(Chain::Quote)),
    row("-isystem", Either, Meaning::Directory(Chain::System)),
    row("-isystem-after", Either, Meaning::Unsupported),
    row("-idirafter", Either, Meaning::Directory(Chain::After)),
    row("-iprefix", Either, Meaning::DirectoryPrefix),
    row("-iwithprefix", Either, Meaning::Directory(Chain::WithPrefix)),
    row("-iwithprefixbefore", Either, Meaning::Directory(Chain::WithPrefixBefore)),
    row("--embed-dir=", Joined, Meaning::Directory(Chain::Embed)),
    row("-iwithsysroot", Either, Meaning::Unsupported),
    row("-include", Either, Meaning::Include),
    row("-include-pch", Separate, Meaning::IncludePrecompiled),
    row("-imacros", Either, Meaning::Macros),
    row("-imultilib", Either, Meaning::Unsupported),
    row("-imultiarch", Either, Meaning::Unsupported),
    row("-iframework", Either, Meaning::Frameworks),
    row("-iframeworkwithsysroot", Either, Meaning::Unsupported),
    row("-iplugindir=", Joined, Meaning::Unsupported),
    row("-ivfsoverlay", Either, Meaning::Overlay),
    row("-ivfsstatcache", Either, Meaning::Unsupported),
    row("-F", Either, Meaning::Frameworks),
    row("-A", Either, Meaning::Unsupported),
    row("-nostdinc", Exact, Meaning::Probe),
    row("-nostdinc++", Exact, Meaning::Probe),
    row("-nostdlibinc", Exact, Meaning::Probe),
    row("-nobuiltininc", Exact, Meaning::Probe),
    row("-undef", Exact, Meaning::Probe),
    row("-trigraphs", Exact, Meaning::Trigraphs),
    row("-ftrigraphs", Exact, Meaning::Trigraphs),
    row("-fno-trigraphs", Exact, Meaning::Trigraphs),
    row("-foperator-names", Exact, Meaning::OperatorNames),
    row("-fno-operator-names", Exact, Meaning::OperatorNames),
    // What the scanner takes for part of an identifier anyway.
    row("-fdollars-in-identifiers", Exact, Meaning::Probe),
    row("-traditional", Exact, Meaning::Unsupported),
    row("-traditional-cpp", Exact, Meaning::Unsupported),
    row("-remap", Exact, Meaning::Unsupported),
    row("-C", Exact, Meaning::PreprocessedText),
    row("-CC", Exact, Meaning::PreprocessedText),
    row("-P", Exact, Meaning::PreprocessedText),
    row("-H", Exact, Meaning::Neutral),
    row("-d", Joined, Meaning::Dump),
    // Depfiles.
    row("-fdeps-", Joined, Meaning::Modules),
    row("-MD", Exact, Meaning::Depfile),
    row("-MMD", Exact, Meaning::Depfile),
    row("-MF", Either, Meaning::DepfileName),
    row("-MT", Either, Meaning::DepfileContent),
    row("-MQ", Either, Meaning::DepfileContent),
    row("-MP", Exact, Meaning::DepfileContent),
    row("-MG", Exact, Meaning::Unsupported),
    row("-MV", Exact, Meaning::DepfileContent),
    row("-MJ", Either, Meaning::CompilationDatabase),
    // For another program.
    row("-Wp,", Joined, Meaning::PreprocessorList),
    row("-Wa,", Joined, Meaning::AssemblerList),
    row("-Wl,", Joined, Meaning::LinkOnly),
    row("-Xlinker", Separate, Meaning::LinkOnly),
    row("-Xpreprocessor", Separate, Meaning::Unsupported),
    row("-Xassembler", Separate, Meaning::Unsupported),
    row("-Xclang", Separate, Meaning::Xclang),
    row("-Xanalyzer", Separate, Meaning::Unsupported),
    row("-Xarch_", Joined, Meaning::Unsupported),
    row("-Xopenmp-target", Separate, Meaning::Unsupported),
    row("-mllvm", Separate, Meaning::LlvmOption),
    // Modules of C++20 and of Clang; `-fno-modules` is what is so anyway.
    row("-fmodules", Exact, Meaning::Modules),
    row("-fmodules-", Joined, Meaning::Modules),
    row("-fcxx-modules", Exact, Meaning::Modules),
    row("-fmodule-", Joined, Meaning::Modules),
    row("-fmodule-map-file=", Joined, Meaning::ModuleMap),
    row("-fprebuilt-module-path", Joined, Meaning::Modules),
    row("-fprebuilt-implicit-modules", Exact, Meaning::Modules),
    row("-fimplicit-modules", Exact, Meaning::Modules),
    row("-fimplicit-module-maps", Exact, Meaning::Modules),
    row("-fmodule-header", Joined, Meaning::Modules),
    row("-fno-modules", Exact, Meaning::Neutral),
    row("-fno-cxx-modules", Exact, Meaning::Neutral),
    row("-fno-implicit-modules", Exact, Meaning::Neutral),
    row("-fno-implicit-module-maps", Exact, Meaning::Neutral),
    row("--precompile", Exact, Meaning::Modules),
    // Language, target, code.
    row("-std=", Joined, Meaning::Probe),
    row("--std=", Joined, Meaning::Probe),
    row("-ansi", Exact, Meaning::Probe),
    row("-stdlib=", Joined, Meaning::Probe),
    row("-O", Joined, Meaning::Probe),
    row("-ObjC", Joined, Meaning::Unsupported),
    row("-m", Joined, Meaning::Probe),
    row("-mllvm=", Joined, Meaning::LlvmOption),
    row("-module", Joined, Meaning::Modules),
    row("-meabi", Separate, Meaning::Unsupported),
    row("-march=native", Exact, Meaning::Native),
    row("-mcpu=native", Exact, Meaning::Native),
    row("-mtune=native", Exact, Meaning::Native),
    row("-mmcu=", Joined, Meaning::Unsupported),
    row("-mthread-model", Separate, Meaning::Probe),
    row("-mlinker-version=", Joined, Meaning::LinkOnly),
    row("-pthread", Exact, Meaning::Probe),
    row("-pthreads", Exact, Meaning::Probe),
    row("-target", Separate, Meaning::Probe),
    row("--target=", Joined, Meaning::Probe),
    row("--driver-mode=", Joined, Meaning::Unsupported),
    row("--no-default-config", Exact, Meaning::Probe),
    row("-regcall4", Exact, Meaning::Probe),
    row("-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang", Exact, Meaning::Neutral),
    row("-arch", Separate, Meaning::Unsupported),
    row("--sysroot", Separate, Meaning::Sysroot),
    row("--sysroot=", Joined, Meaning::Sysroot),
    row("-isysroot", Either, Meaning::Sysroot),
    row("--no-sysroot-suffix", Exact, Meaning::Probe),
    row("--gcc-toolchain=", Joined, Meaning::ProbePath),
    row("--gcc-install-dir=", Joined, Meaning::ProbePath),
    row("-resource-dir", Separate, Meaning::ProbePath),
    row("-resource-dir=", Joined, Meaning::ProbePath),
    row("-B", Either, Meaning::ProgramDirectory),
    row("-no-canonical-prefixes", Exact, Meaning::Probe),
    row("-canonical-prefixes", Exact, Meaning::Probe),
    row("-integrated-as", Exact, Meaning::Probe),
    row("-no-integrated-as", Exact, Meaning::Probe),
    row("--param", Separate, Meaning::Neutral),
    row("--param=", Joined, Meaning::Neutral),
    row("-pipe", Exact, Meaning::Neutral),
    row("-p", Exact, Meaning::Probe),
    row("-pg", Exact, Meaning::Probe),
    row("-Qunused-arguments", Exact, Meaning::Neutral),
    row("-Qn", Exact, Meaning::Neutral),
    row("-Qy", Exact, Meaning::Neutral),
    row("--start-no-unused-arguments", Exact, Meaning::Neutral),
    row("--end-no-unused-arguments", Exact, Meaning::Neutral),
    // Diagnostics.
    row("-w", Exact, Meaning::Neutral),
    row("-W", Joined, Meaning::Neutral),
    row("--no-warnings", Exact, Meaning::Neutral),
    row("--all-warnings", Exact, Meaning::Neutral),
    row("--extra-warnings", Exact, Meaning::Neutral),
    row("--pedantic", Exact, Meaning::Neutral),
    row("--pedantic-errors", Exact, Meaning::Neutral),
    row("--system-header-prefix=", Joined, Meaning::Neutral),
    row("--no-system-header-prefix=", Joined, Meaning::Neutral),
    // With `=` and a name behind them they write a file.
    row("-fopt-info", Exact, Meaning::Neutral),
    row("-fopt-info-all", Exact, Meaning::Neutral),
    row("-fopt-info-inline", Exact, Meaning::Neutral),
    row("-fopt-info-loop", Exact, Meaning::Neutral),
    row("-fopt-info-loop-optimized", Exact, Meaning::Neutral),
    row("-fopt-info-missed", Exact, Meaning::Neutral),
    row("-fopt-info-note", Exact, Meaning::Neutral),
    row("-fopt-info-optimized", Exact, Meaning::Neutral),
    row("-fopt-info-vec", Exact, Meaning::Neutral),
    row("-fopt-info-vec-all", Exact, Meaning::Neutral),
    row("-fopt-info-vec-missed", Exact, Meaning::Neutral),
    row("-fopt-info-vec-optimized", Exact, Meaning::Neutral),
    row("-pedantic", Exact, Meaning::Neutral),
    row("-pedantic-errors", Exact, Meaning::Neutral),
    row("-Rpass", Joined, Meaning::Neutral),
    row("--serialize-diagnostics", Separate, Meaning::WritesFile),
    row("-serialize-diagnostics", Separate, Meaning::WritesFile),
    // Debugging.
    row("-g", Joined, Meaning::Neutral),
    row("-gsplit-dwarf", Exact, Meaning::Writes(Further::SplitDebug)),
    row("-gsplit-dwarf=", Joined, Meaning::Unsupported),
    row("-gsplit-dwarf=split", Exact, Meaning::Writes(Further::SplitDebug)),
    row("-gsplit-dwarf=single", Exact, Meaning::Neutral),
    row("-gmodules", Exact, Meaning::Unsupported),
    row("-gen-", Joined, Meaning::Unsupported),
    row("-gcc-toolchain", Separate, Meaning::Unsupported),
    row("-gcodeview", Joined, Meaning::Unsupported),
    row("-grecord-command-line", Exact, Meaning::Recorded),
    row("-grecord-gcc-switches", Exact, Meaning::Recorded),
    row("-frecord-command-line", Exact, Meaning::Recorded),
    row("-frecord-gcc-switches", Exact, Meaning::Recorded),
    // Accepted and without effect on a compile, or of no more effect than a default that the probe sees.
    row("-l", Either, Meaning::LinkOnly),
    row("-L", Either, Meaning::LinkOnly),
    row("-T", Either, Meaning::LinkOnly),
    row("-u", Separate, Meaning::LinkOnly),
    row("-z", Separate, Meaning::LinkOnly),
    row("-e", Separate, Meaning::LinkOnly),
    row("-s", Exact, Meaning::LinkOnly),
    row("-r", Exact, Meaning::Probe),
    row("-rdynamic", Exact, Meaning::LinkOnly),
    row("-rtlib=", Joined, Meaning::LinkOnly),
    row("-unwindlib=", Joined, Meaning::LinkOnly),
    row("-symbolic", Exact, Meaning::LinkOnly),
    row("-static", Exact, Meaning::Probe),
    row("-static-pie", Exact, Meaning::Probe),
    row("-static-openmp", Exact, Meaning::LinkOnly),
    row("-static-libgcc", Exact, Meaning::LinkOnly),
    row("-static-libstdc++", Exact, Meaning::LinkOnly),
    row("-static-libasan", Exact, Meaning::LinkOnly),
    row("-static-libtsan", Exact, Meaning::LinkOnly),
    row("-static-libubsan", Exact, Meaning::LinkOnly),
    row("-static-libsan", Exact, Meaning::LinkOnly),
    row("-shared-libsan", Exact, Meaning::LinkOnly),
    row("-shared-libasan", Exact, Meaning::LinkOnly),
    row("-shared-libgcc", Exact, Meaning::LinkOnly),
    row("-shared", Exact, Meaning::Probe),
    row("-pie", Exact, Meaning::Probe),
    row("-no-pie", Exact, Meaning::Probe),
    row("-nopie", Exact, Meaning::Probe),
    row("-nostdlib", Exact, Meaning::LinkOnly),
    row("-nostdlib++", Exact, Meaning::LinkOnly),
    row("-nodefaultlibs", Exact, Meaning::LinkOnly),
    row("-nostartfiles", Exact, Meaning::LinkOnly),
    row("-nolibc", Exact, Meaning::LinkOnly),
    // Other files, other outputs, other programs: their arity matters even where they are refused.
    row("-aux-info", Separate, Meaning::WritesFile),
    row("-auxbase", Separate, Meaning::Unsupported),
    row("-dumpbase", Separate, Meaning::Unsupported),
    row("-dumpbase-ext", Separate, Meaning::Unsupported),
    row("-dumpdir", Separate, Meaning::Unsupported),
    row("-save-temps", Joined, Meaning::Intermediates),
    row("--save-temps", Joined, Meaning::Intermediates),
    row("-specs", Separate, Meaning::Specs),
    row("-specs=", Joined, Meaning::Specs),
    row("--specs", Separate, Meaning::Specs),
    row("--specs=", Joined, Meaning::Specs),
    row("-wrapper", Separate, Meaning::Unsupported),
    row("--config", Separate, Meaning::Configuration),
    row("--config=", Joined, Meaning::Configuration),
    row("-working-directory", Separate, Meaning::Unsupported),
    row("-working-directory=", Joined, Meaning::Unsupported),
    row("-obj", Joined, Meaning::Unsupported),
    row("-emit-llvm", Exact, Meaning::EmitLlvm),
    row("--coverage", Exact, Meaning::Writes(Further::CoverageNotes)),
    row("-coverage", Exact, Meaning::Writes(Further::CoverageNotes)),
    row("-time", Joined, Meaning::Unsupported),
    row("-index-store-path", Separate, Meaning::Unsupported),
    row("-fdump-", Joined, Meaning::Intermediates),
    // Further files, named after the object or by the flag.
    row("-ftest-coverage", Exact, Meaning::Writes(Further::CoverageNotes)),
    row("-fprofile-arcs", Exact, Meaning::Writes(Further::CoverageCounts)),
    row("-fstack-usage", Exact, Meaning::Writes(Further::StackUsage)),
    row("-fcallgraph-info", Exact, Meaning::Writes(Further::CallGraph)),
    row("-fcallgraph-info=", Joined, Meaning::Writes(Further::CallGraph)),
    row("-ftime-trace", Exact, Meaning::Writes(Further::TimeTrace)),
    row("-fsave-optimization-record", Exact, Meaning::Writes(Further::OptimisationRecord)),
    row("-fsave-optimization-record=", Joined, Meaning::Writes(Further::OptimisationRecord)),
    // `=list=FILE` reads one.
    row("-fbasic-block-sections=all", Exact, Meaning::Neutral),
    row("-fbasic-block-sections=labels", Exact, Meaning::Neutral),
    row("-fbasic-block-sections=none", Exact, Meaning::Neutral),
    row("-foptimization-record-file=", Joined, Meaning::WritesFile),
    row("-foptimization-record-passes=", Joined, Meaning::Unsupported),
    row("-ftime-trace-granularity=", Joined, Meaning::Neutral),
    // Files that are read besides includes.
    row("-fno-sanitize-ignorelist", Exact, Meaning::Probe),
    row("-fsanitize-ignorelist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-blacklist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-system-ignorelist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-coverage-allowlist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-coverage-whitelist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-coverage-ignorelist=", Joined, Meaning::ReadsFile),
    row("-fsanitize-coverage-blacklist=", Joined, Meaning::ReadsFile),
    row("-frandomize-layout-seed-file=", Joined, Meaning::ReadsFile),
    row("-frandomize-layout-seed=", Joined, Meaning::Neutral),
    // Only the time of the file counts, and only where modules are built.
    row("-fbuild-session-file=", Joined, Meaning::ReadsFile),
    row("-fbuild-session-timestamp=", Joined, Meaning::Neutral),
    row("-fprofile-list=", Joined, Meaning::ReadsFile),
    row("-fprofile-sample-use=", Joined, Meaning::ReadsFile),
    row("-fauto-profile=", Joined, Meaning::ReadsFile),
    row("-fprofile-remapping-file=", Joined, Meaning::ReadsFile),
    row("-fmemory-profile-use=", Joined, Meaning::ReadsFile),
    row("-fexperimental-sanitize-metadata-ignorelist=", Joined, Meaning::ReadsFile),
    row("-fxray-always-instrument=", Joined, Meaning::ReadsFile),
    row("-fxray-never-instrument=", Joined, Meaning::ReadsFile),
    row("-fxray-attr-list=", Joined, Meaning::ReadsFile),
    row("--warning-suppression-mappings=", Joined, Meaning::ReadsFile),
    // A plugin is part of the compiler; what its arguments name, only it knows.
    row("-fplugin=", Joined, Meaning::Plugin),
    row("-fplugin-arg-", Joined, Meaning::PluginArgument),
    // Counts: where the program writes them is in the object, bound to where the object is.
    row("-fprofile-generate", Exact, Meaning::Bound),
    row("-fprofile-generate=", Joined, Meaning::ProfileDirectory),
    row("-fcs-profile-generate", Exact, Meaning::Bound),
    row("-fprofile-instr-generate", Exact, Meaning::Bound),
    row("-fprofile-instr-generate=", Joined, Meaning::Bound),
    row("-fcoverage-mapping", Exact, Meaning::Bound),
    row("-fprofile-update=", Joined, Meaning::Neutral),
    row("-fprofile-values", Exact, Meaning::Neutral),
    row("-fprofile-reorder-functions", Exact, Meaning::Neutral),
    row("-fprofile-correction", Exact, Meaning::Neutral),
    row("-fprofile-partial-training", Exact, Meaning::Neutral),
    row("-fprofile-abs-path", Exact, Meaning::Bound),
    row("-fprofile-prefix-path=", Joined, Meaning::Bound),
    row("-fprofile-prefix-map=", Joined, Meaning::Bound),
    row("-fprofile-filter-files=", Joined, Meaning::Neutral),
    row("-fprofile-exclude-files=", Joined, Meaning::Neutral),
    row("-fprofile-dir=", Joined, Meaning::ProfileDirectory),
    row("-fprofile-use", Exact, Meaning::ProfileUse),
    row("-fprofile-use=", Joined, Meaning::ProfileUse),
    row("-fprofile-instr-use", Exact, Meaning::ProfileUse),
    row("-fprofile-instr-use=", Joined, Meaning::ProfileUse),
    row("-fbranch-probabilities", Exact, Meaning::ProfileUse),
    row("-fdebug-compilation-dir", Separate, Meaning::Bound),
    row("-fdebug-prefix-map=", Joined, Meaning::PrefixMap),
    row("-ffile-prefix-map=", Joined, Meaning::PrefixMap),
    row("-fmacro-prefix-map=", Joined, Meaning::PrefixMap),
    row("-fcanon-prefix-map", Exact, Meaning::Bound),
    row("-fcondition-coverage", Exact, Meaning::Bound),
    row("-fpreprocessed", Exact, Meaning::Unsupported),
    // UTF-8 is what the scanner reads and what needs no conversion tables.
    row("-finput-charset=UTF-8", Exact, Meaning::Neutral),
    row("-finput-charset=utf-8", Exact, Meaning::Neutral),
    row("-fexec-charset=UTF-8", Exact, Meaning::Neutral),
    row("-fexec-charset=utf-8", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=text", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=json", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=json-stderr", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=clang", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=sarif", Exact, Meaning::Neutral),
    row("-fdiagnostics-format=sarif-stderr", Exact, Meaning::Neutral),
];

/// `-Wa,` options that neither read nor write files; each also stands for itself with a value behind it.
pub(super) const ASSEMBLER_OPTIONS: &[&str] = &[
    "--32",
    "--64",
    "--x32",
    "--compress-debug-sections",
    "--divide",
    "--execstack",
    "--fatal-warnings",
    "--gdwarf",
    "--generate-missing-build-notes",
    "--gstabs",
    "--noexecstack",
    "--nocompress-debug-sections",
    "--no-warn",
    "--strip-local-absolute",
    "--warn",
    "-W",
    "-g",
    "-m",
    "-K",
    "-n",
];

/// Beginnings of the names of LLVM's options that neither read nor write files.
pub(super) const LLVM_OPTIONS: &[&str] = &[
    "-align-all-",
    "-disable-",
    "-enable-",
    "-force-vector-",
    "-hot-cold-split",
    "-import-instr-limit",
    "-inline-",
    "-inlinehint-",
    "-jump-table-density",
    "-max-jump-table-size",
    "-min-jump-table-entries",
    "-pgo-warn-",
    "-polly",
    "-unroll-",
    "-vectorize-",
    "-x86-",
];

/// `-Xclang` arguments that neither read nor write files and take no further argument.
pub(super) const XCLANG_OPTIONS: &[&str] = &[
    "-disable-O0-optnone",
    "-fno-pch-timestamp",
    "-disable-lifetime-markers",
    "-disable-llvm-passes",
    "-discard-value-names",
    "-fcolor-diagnostics",
    "-fno-color-diagnostics",
    "-no-opaque-pointers",
    "-opaque-pointers",
    "-fexperimental-assignment-tracking=disabled",
    "-fno-cxx-modules",
];

/// The known harmless `-f` features, positive forms, sorted. A name that ends in `=` or `-` takes a value.
#[rustfmt::skip]
const FEATURES: &[&str] = &[
    "PIC", "PIE", "aapcs-bitfield-load", "aapcs-bitfield-width", "abi-compat-version=", "abi-version",
    "abi-version=", "access-control", "addrsig", "aggressive-loop-optimizations", "align-functions",
    "align-functions=", "align-jumps", "align-jumps=", "align-labels", "align-labels=", "align-loops",
    "align-loops=", "aligned-allocation", "aligned-new", "aligned-new=", "allocation-dce",
    "allow-parameterless-variadic-functions", "allow-store-data-races", "altivec-src-compat=", "analyzer",
    "analyzer-call-summaries", "analyzer-checker=", "analyzer-feasibility", "analyzer-fine-grained",
    "analyzer-show-duplicate-count", "analyzer-state-merge", "analyzer-state-purge",
    "analyzer-transitivity", "analyzer-verbose-edges", "analyzer-verbose-state-changes",
    "analyzer-verbosity=", "ansi-escape-codes", "apple-pragma-pack", "application-extension", "approx-func",
    "asan-shadow-offset=", "asm", "asm-blocks", "associative-math", "assume-nothrow-exception-dtor",
    "assume-sane-operator-new", "assume-sane-operators-new-delete", "assume-unique-vtables", "assumptions",
    "async-exceptions", "asynchronous-unwind-tables", "auto-inc-dec", "autolink", "avoid-store-forwarding",
    "basic-block-address-map", "binutils-version=", "bit-tests", "blocks", "borland-extensions",
    "bracket-depth=", "branch-count-reg", "branch-target-load-optimize", "branch-target-load-optimize2",
    "btr-bb-exclusive", "builtin", "builtin-", "c++-abi=", "c++-static-destructors", "call-saved-",
    "call-used-", "caller-saves", "canonical-system-headers", "caret-diagnostics",
    "caret-diagnostics-max-lines=", "cf-protection", "cf-protection=", "char8_t", "check-data-deps",
    "check-new", "checking", "checking=", "clang-abi-compat=", "code-hoisting", "color-diagnostics",
    "combine-stack-adjustments", "comment-block-commands=", "common", "compare-elim",
    "complete-member-pointers", "concepts", "concepts-diagnostics-depth=", "concepts-ts", "cond-mismatch",
    "conserve-space", "conserve-stack", "constant-cfstrings", "constexpr-backtrace-limit",
    "constexpr-backtrace-limit=", "constexpr-cache-depth=", "constexpr-depth=", "constexpr-fp-except",
    "constexpr-loop-limit=", "constexpr-ops-limit=", "constexpr-steps=", "contract-assumption-mode=",
    "contract-build-level=", "contract-continuation-mode=", "contract-mode=", "contract-role=",
    "contract-semantic=", "contract-strict-declarations=", "contracts", "convergent-functions",
    "coro-aligned-allocation", "coroutines", "coroutines-ts", "coverage-compilation-dir=", "coverage-mcdc",
    "coverage-prefix-map=", "cprop-registers", "crash-diagnostics", "crash-diagnostics-dir=",
    "crash-diagnostics=", "crossjumping", "cse-follow-jumps", "cse-skip-blocks", "cx-fortran-rules",
    "cx-limited-range", "cxx-exceptions", "data-sections", "dce", "debug-compilation-dir=",
    "debug-default-version=", "debug-info-for-profiling", "debug-macro", "debug-prefix-map=",
    "debug-ranges-base-address", "debug-types-section", "declone-ctor-dtor", "declspec", "deduce-init-list",
    "default-inline", "defer-pop", "define-target-os-macros", "delayed-branch", "delayed-template-parsing",
    "delete-dead-exceptions", "delete-null-pointer-checks", "dep-fusion", "devirtualize",
    "devirtualize-at-ltrans", "devirtualize-speculatively", "diagnostics-absolute-paths",
    "diagnostics-color", "diagnostics-color=", "diagnostics-column-origin=", "diagnostics-column-unit=",
    "diagnostics-escape-format=", "diagnostics-fixit-info", "diagnostics-generate-patch",
    "diagnostics-hotness-threshold=", "diagnostics-minimum-margin-width=",
    "diagnostics-misexpect-tolerance=", "diagnostics-parseable-fixits", "diagnostics-path-format=",
    "diagnostics-plain-output", "diagnostics-print-source-range-info", "diagnostics-show-caret",
    "diagnostics-show-category=", "diagnostics-show-context", "diagnostics-show-cwe",
    "diagnostics-show-hotness", "diagnostics-show-inclusion-stack", "diagnostics-show-labels",
    "diagnostics-show-line-numbers", "diagnostics-show-location=", "diagnostics-show-note-include-stack",
    "diagnostics-show-option", "diagnostics-show-path-depths", "diagnostics-show-template-tree",
    "diagnostics-text-art-charset=", "diagnostics-urls=", "direct-access-external-data",
    "disable-block-signature-string", "discard-value-names", "double-square-bracket-attributes", "dse",
    "dwarf-exceptions", "dwarf2-cfi-asm", "early-inlining", "elide-constructors", "elide-type",
    "eliminate-dwarf2-dups", "eliminate-unused-debug-symbols", "eliminate-unused-debug-types",
    "embed-bitcode", "embed-bitcode-marker", "embed-bitcode=", "emit-all-decls", "emit-class-debug-always",
    "emit-compact-unwind-non-canonical", "emit-dwarf-unwind=", "emit-struct-debug-baseonly",
    "emit-struct-debug-detailed=", "emit-struct-debug-reduced", "emulated-tls", "enable-matrix",
    "enforce-eh-specs", "error-limit=", "exceptions", "excess-precision=", "expensive-optimizations",
    "experimental-late-parse-attributes", "experimental-library", "experimental-new-constant-interpreter",
    "experimental-relative-c++-abi-vtables", "experimental-sanitize-metadata=",
    "experimental-strict-floating-point", "ext-numeric-literals", "extend-arguments=",
    "extended-identifiers", "extern-tls-init", "fast-math", "fat-lto-objects", "file-compilation-dir=",
    "file-prefix-map=", "file-reproducible", "fine-grained-bitfield-accesses", "finite-loops",
    "finite-math-only", "fixed-", "fixit-recursive", "float-store", "fold-mem-offsets",
    "fold-simple-inlines", "for-scope", "force-addr", "force-dwarf-frame", "force-emit-vtables",
    "force-enable-int128", "forward-propagate", "fp-contract=", "fp-eval-method=", "fp-exception-behavior=",
    "fp-int-builtin-inexact", "fp-model=", "freestanding", "friend-injection", "function-cse",
    "function-sections", "gcse", "gcse-after-reload", "gcse-las", "gcse-lm", "gcse-sm", "global-isel",
    "gnat-encodings=", "gnu-inline-asm", "gnu-keywords", "gnu-runtime", "gnu-tm", "gnu-unique",
    "gnu89-inline", "gnuc-version=", "graphite", "graphite-identity", "guess-branch-probability",
    "hardcfr-check-exceptions", "hardcfr-check-noreturn-calls=", "hardcfr-check-returning-calls",
    "hardcfr-skip-leaf", "harden-compares", "harden-conditional-branches", "harden-control-flow-redundancy",
    "hardened", "hoist-adjacent-loads", "honor-infinities", "honor-nans", "hosted", "ident",
    "if-conversion", "if-conversion2", "ignore-exceptions", "implement-inlines", "implicit-constexpr",
    "implicit-inline-templates", "implicit-templates", "indirect-inlining", "inhibit-size-directive",
    "inline", "inline-atomics", "inline-functions", "inline-functions-called-once", "inline-hint-functions",
    "inline-limit-", "inline-limit=", "inline-max-stacksize=", "inline-small-functions", "inline-stringops",
    "inline-stringops=", "instrument-function-entry-bare", "instrument-functions",
    "instrument-functions-after-inlining", "instrument-functions-exclude-file-list=",
    "instrument-functions-exclude-function-list=", "integrated-as", "integrated-cc1",
    "integrated-objemitter", "ipa-bit-cp", "ipa-cp", "ipa-cp-alignment", "ipa-cp-clone", "ipa-icf",
    "ipa-icf-functions", "ipa-icf-variables", "ipa-matrix-reorg", "ipa-modref", "ipa-profile", "ipa-pta",
    "ipa-pure-const", "ipa-ra", "ipa-reference", "ipa-reference-addressable", "ipa-sra",
    "ipa-stack-alignment", "ipa-strict-aliasing", "ipa-struct-reorg", "ipa-vrp", "ira-algorithm=",
    "ira-hoist-pressure", "ira-loop-pressure", "ira-region=", "ira-share-save-slots",
    "ira-share-spill-slots", "isolate-erroneous-paths-attribute", "isolate-erroneous-paths-dereference",
    "ivopts", "jmc", "jump-tables", "keep-gc-roots-live", "keep-inline-functions",
    "keep-persistent-storage-variables", "keep-static-consts", "keep-static-functions", "knr-functions",
    "large-source-files", "late-combine-instructions", "lax-vector-conversions", "lax-vector-conversions=",
    "leading-underscore", "legacy-pass-manager", "lifetime-dse", "lifetime-dse=",
    "limit-function-alignment", "live-patching", "live-patching=", "live-range-shrinkage", "loop-block",
    "loop-flatten", "loop-interchange", "loop-nest-optimize", "loop-optimize", "loop-parallelize-all",
    "loop-strip-mine", "loop-unroll-and-jam", "lra-remat", "lto", "lto-compression-level=", "lto-jobs=",
    "lto-odr-type-merging", "lto-partition=", "lto=", "macro-backtrace-limit=", "macro-prefix-map=",
    "math-errno", "max-errors=", "max-include-depth=", "max-tokens=", "max-type-align=", "memory-profile",
    "merge-all-constants", "merge-constants", "merge-debug-strings", "message-length=",
    "min-function-alignment=", "minimize-whitespace", "modulo-sched", "modulo-sched-allow-regmoves",
    "move-loop-invariants", "move-loop-stores", "ms-extensions", "ms-hotpatch", "multiflags",
    "new-alignment=", "new-infallible", "new-inheriting-ctors", "new-ttp-matching", "non-call-exceptions",
    "nonansi-builtins", "nonnull-objects", "nothrow-opt", "objc-arc", "objc-arc-exceptions",
    "objc-avoid-heapify-local-blocks", "objc-encode-cxx-class-template-spec", "objc-exceptions",
    "objc-infer-related-result-type", "objc-runtime=", "objc-weak", "offload-abi=", "omit-frame-pointer",
    "openacc", "openacc-dim=", "openmp", "openmp-assume-no-nested-parallelism",
    "openmp-assume-no-thread-state", "openmp-enable-irbuilder", "openmp-extensions", "openmp-force-usm",
    "openmp-implicit-rpath", "openmp-new-driver", "openmp-simd", "openmp-version=", "openmp=",
    "operator-arrow-depth=", "optimize-register-move", "optimize-sibling-calls", "optimize-strlen",
    "optional-diags", "order-file-instrumentation", "pack-struct", "pack-struct=", "parse-all-comments",
    "partial-inlining", "pascal-strings", "patchable-function-entry=", "pcc-struct-return", "pch-codegen",
    "pch-debuginfo", "pch-instantiate-templates", "peel-loops", "peephole", "peephole2", "permissive",
    "permitted-flt-eval-methods=", "pic", "pie", "plan9-extensions", "plt", "predictive-commoning",
    "prefetch-loop-arrays", "preserve-as-comments", "pretty-templates", "printf-return-value",
    "profile-function-groups=", "profile-info-section", "profile-info-section=", "profile-reproducible=",
    "profile-sample-accurate", "profile-selected-function-group=", "protect-parens",
    "pseudo-probe-for-profiling", "ptrauth-auth-traps", "ptrauth-calls", "ptrauth-indirect-gotos",
    "ptrauth-init-fini", "ptrauth-intrinsics", "ptrauth-returns", "random-seed=", "range-for-ext-temps",
    "reciprocal-math", "ree", "reg-struct-return", "register-global-dtors-with-atexit", "regmove",
    "relaxed-template-template-args", "rename-registers", "reorder-blocks", "reorder-blocks-algorithm=",
    "reorder-blocks-and-partition", "reorder-functions", "require-return-statement", "reroll-loops",
    "rerun-cse-after-loop", "rerun-loop-opt", "reschedule-modulo-scheduled-loops",
    "retain-comments-from-system-headers", "ropi", "rounding-math", "rtlib-add-rpath", "rtlib-defaultlib",
    "rtti", "rtti-data", "rwpi", "safe-buffer-usage-suggestions", "sample-profile-use-profi",
    "sanitize-address-destructor=", "sanitize-address-field-padding=",
    "sanitize-address-globals-dead-stripping", "sanitize-address-outline-instrumentation",
    "sanitize-address-poison-custom-array-cookie", "sanitize-address-use-after-return=",
    "sanitize-address-use-after-scope", "sanitize-address-use-odr-indicator",
    "sanitize-cfi-canonical-jump-tables", "sanitize-cfi-cross-dso",
    "sanitize-cfi-icall-experimental-normalize-integers", "sanitize-cfi-icall-generalize-pointers",
    "sanitize-coverage=", "sanitize-hwaddress-abi=", "sanitize-hwaddress-experimental-aliasing",
    "sanitize-link-runtime", "sanitize-memory-param-retval", "sanitize-memory-track-origins",
    "sanitize-memory-track-origins=", "sanitize-memory-use-after-dtor", "sanitize-memtag-mode=",
    "sanitize-minimal-runtime", "sanitize-recover", "sanitize-recover=", "sanitize-sections=",
    "sanitize-stable-abi", "sanitize-stats", "sanitize-thread-atomics", "sanitize-thread-func-entry-exit",
    "sanitize-thread-memory-access", "sanitize-trap", "sanitize-trap=",
    "sanitize-undefined-strip-path-components=", "sanitize-undefined-trap-on-error", "sanitize=",
    "sched-critical-path-heuristic", "sched-dep-count-heuristic", "sched-group-heuristic",
    "sched-interblock", "sched-last-insn-heuristic", "sched-pressure", "sched-rank-heuristic", "sched-spec",
    "sched-spec-insn-heuristic", "sched-spec-load", "sched-spec-load-dangerous", "sched-stalled-insns",
    "sched-stalled-insns-dep", "sched-stalled-insns-dep=", "sched-stalled-insns=", "sched2-use-superblocks",
    "sched2-use-traces", "schedule-fusion", "schedule-insns", "schedule-insns2", "section-anchors", "see",
    "seh-exceptions", "sel-sched-pipelining", "sel-sched-pipelining-outer-loops",
    "sel-sched-reschedule-pipelined", "selective-scheduling", "selective-scheduling2",
    "semantic-interposition", "separate-named-sections", "short-enums", "short-wchar", "show-column",
    "show-overloads=", "show-skipped-includes", "show-source-location", "shrink-wrap",
    "shrink-wrap-separate", "signaling-nans", "signed-bitfields", "signed-char", "signed-zeros",
    "simd-cost-model=", "single-precision-constant", "sized-deallocation", "sjlj-exceptions",
    "skip-odr-check-in-gmf", "slp-vectorize", "spell-checking", "spell-checking-limit=",
    "split-dwarf-inlining", "split-ivs-in-unroller", "split-ldst", "split-loops", "split-lto-unit",
    "split-machine-functions", "split-paths", "split-stack", "split-wide-types", "split-wide-types-early",
    "ssa-backprop", "ssa-phiopt", "sso-struct=", "stack-check", "stack-check=", "stack-clash-protection",
    "stack-limit", "stack-limit-register=", "stack-limit-symbol=", "stack-protector", "stack-protector-all",
    "stack-protector-explicit", "stack-protector-strong", "stack-reuse=", "stack-size-section",
    "standalone-debug", "stdarg-opt", "store-merging", "strength-reduce", "strict-aliasing", "strict-enums",
    "strict-flex-arrays", "strict-flex-arrays=", "strict-float-cast-overflow", "strict-overflow",
    "strict-prototype", "strict-return", "strict-volatile-bitfields", "strict-vtable-pointers",
    "strong-eval-order", "strong-eval-order=", "strub=", "swift-async-fp=", "sync-libcalls", "tabstop=",
    "template-backtrace-limit=", "template-depth-", "template-depth=", "thread-jumps", "threadsafe-statics",
    "tls-model=", "toplevel-reorder", "tracer", "track-macro-expansion", "track-macro-expansion=",
    "trampolines", "trap-function=", "trapping-math", "trapv", "trapv-handler=", "tree-bit-ccp",
    "tree-builtin-call-dce", "tree-ccp", "tree-ch", "tree-coalesce-inlined-vars", "tree-coalesce-vars",
    "tree-copy-prop", "tree-copyrename", "tree-cselim", "tree-dce", "tree-dominator-opts", "tree-dse",
    "tree-forwprop", "tree-fre", "tree-loop-distribute-patterns", "tree-loop-distribution",
    "tree-loop-if-convert", "tree-loop-if-convert-stores", "tree-loop-im", "tree-loop-ivcanon",
    "tree-loop-linear", "tree-loop-optimize", "tree-loop-vectorize", "tree-lrs", "tree-parallelize-loops=",
    "tree-partial-pre", "tree-phiprop", "tree-pre", "tree-pta", "tree-reassoc", "tree-salias",
    "tree-scev-cprop", "tree-sink", "tree-slp-vectorize", "tree-slsr", "tree-sra", "tree-store-ccp",
    "tree-store-copy-prop", "tree-switch-conversion", "tree-tail-merge", "tree-ter",
    "tree-vect-loop-version", "tree-vectorize", "tree-vectorizer-verbose=", "tree-vrp",
    "trivial-auto-var-init-max-size=", "trivial-auto-var-init-stop-after=", "trivial-auto-var-init=",
    "unconstrained-commons", "unified-lto", "unique-basic-block-section-names",
    "unique-internal-linkage-names", "unique-section-names", "unit-at-a-time", "unreachable-traps",
    "unroll-all-loops", "unroll-completely-grow-size", "unroll-loops", "unsafe-loop-optimizations",
    "unsafe-math-optimizations", "unsigned-bitfields", "unsigned-char", "unswitch-loops", "unwind-tables",
    "use-cxa-atexit", "use-cxa-get-exception-ptr", "use-init-array", "use-ld=", "use-line-directives",
    "use-linker-plugin", "var-tracking", "var-tracking-assignments", "var-tracking-assignments-toggle",
    "var-tracking-uninit", "variable-expansion-in-unroller", "veclib=", "vect-cost-model",
    "vect-cost-model=", "vectorize", "verbose-asm", "verify-intermediate-code", "version-loops-for-strides",
    "virtual-function-elimination", "visibility-dllexport=", "visibility-externs-dllimport=",
    "visibility-externs-nodllstorageclass=", "visibility-from-dllstorageclass",
    "visibility-global-new-delete-hidden", "visibility-global-new-delete=", "visibility-inlines-hidden",
    "visibility-inlines-hidden-static-local-var", "visibility-ms-compat", "visibility-nodllstorageclass=",
    "visibility=", "vpt", "wasm-exceptions", "weak", "web", "whole-program", "whole-program-vtables",
    "working-directory", "wrapv", "wrapv-pointer", "writable-strings", "xl-pragma-pack",
    "xray-always-emit-customevents", "xray-always-emit-typedevents", "xray-function-groups=",
    "xray-function-index", "xray-ignore-loops", "xray-instruction-threshold=", "xray-instrument",
    "xray-instrumentation-bundle=", "xray-link-deps", "xray-modes=", "xray-selected-function-group=", "zee",
    "zero-call-used-regs=", "zero-init-padding-bits=", "zero-initialized-in-bss", "zvector",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(argument: &str) -> Option<Meaning> {
        find(argument.as_bytes()).map(|row| row.meaning)
    }

    #[test]
    fn the_longest_name_wins() {
        for (argument, expected) in [
            ("-I-", Meaning::Unsupported),
            ("-Iinclude", Meaning::Directory(Chain::Bracket)),
            ("-Wp,-MD,a.d", Meaning::PreprocessorList),
            ("-Wpedantic", Meaning::Neutral),
            ("-include", Meaning::Include),
            ("-include-pch", Meaning::IncludePrecompiled),
            ("-iwithprefixbefore", Meaning::Directory(Chain::WithPrefixBefore)),
            ("-march=native", Meaning::Native),
            ("-march=x86-64-v3", Meaning::Probe),
            ("-MMD", Meaning::Depfile),
            ("-g3", Meaning::Neutral),
            ("-gsplit-dwarf=single", Meaning::Neutral),
            ("-static-libgcc", Meaning::LinkOnly),
            ("-std=gnu++20", Meaning::Probe),
            ("-dM", Meaning::Dump),
            ("-print-search-dirs", Meaning::Information),
        ] {
            assert_eq!(meaning(argument), Some(expected), "{argument}");
        }
    }

    #[test]
    fn features_are_known_one_by_one() {
        for (argument, expected) in [
            ("-fPIC", Some(Meaning::Probe)),
            ("-fno-exceptions", Some(Meaning::Probe)),
            ("-fno-builtin-memcpy", Some(Meaning::Probe)),
            ("-fvisibility=hidden", Some(Meaning::Probe)),
            ("-fsanitize=address,undefined", Some(Meaning::Probe)),
            ("-ftemplate-depth-900", Some(Meaning::Probe)),
            ("-fdiagnostics-color=always", Some(Meaning::Colour)),
            ("-fno-color-diagnostics", Some(Meaning::Colour)),
            ("-fdiagnostics-show-option", Some(Meaning::Neutral)),
            ("-frandom-seed=x.c", Some(Meaning::Neutral)),
            ("-ffile-prefix-map=/a=/b", Some(Meaning::PrefixMap)),
            ("-flto=auto", Some(Meaning::Bound)),
            ("-fprofile-use=x", Some(Meaning::ProfileUse)),
            ("-fprofile-arcs", Some(Meaning::Writes(Further::CoverageCounts))),
            ("-fplugin=x.so", Some(Meaning::Plugin)),
            ("-fdump-tree-all", Some(Meaning::Intermediates)),
            ("-fmodules", Some(Meaning::Modules)),
            ("-fmodules-ts", Some(Meaning::Modules)),
            ("-fmodule-file=x", Some(Meaning::Modules)),
            ("-fdeps-format=p1689r5", Some(Meaning::Modules)),
            ("-fdelete-null-pointer-checks", Some(Meaning::Probe)),
            ("-ftime-trace", Some(Meaning::Writes(Further::TimeTrace))),
            ("-fstack-usage", Some(Meaning::Writes(Further::StackUsage))),
            ("-fsave-optimization-record", Some(Meaning::Writes(Further::OptimisationRecord))),
            ("-fcallgraph-info=su", Some(Meaning::Writes(Further::CallGraph))),
            ("-fsanitize-ignorelist=x", Some(Meaning::ReadsFile)),
            ("-fsanitize-coverage-allowlist=x", Some(Meaning::ReadsFile)),
            ("-frandomize-layout-seed-file=x", Some(Meaning::ReadsFile)),
            ("-fdiagnostics-format=sarif-file", None),
            ("-fbasic-block-sections=list=x", None),
            ("-fexec-charset=IBM1047", None),
            ("-frecord-gcc-switches", Some(Meaning::Recorded)),
            ("-fnever-heard-of", None),
            ("-f", None),
            ("-fno-", None),
        ] {
            assert_eq!(meaning(argument), expected, "{argument}");
        }
    }

    #[test]
    fn features_are_sorted_and_unique() {
        assert!(FEATURES.windows(2).all(|pair| pair[0] < pair[1]));
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

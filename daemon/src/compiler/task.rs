//! Decides what a command is: a compile that farcc understands, a link, an archive, or something else.
//! Knows neither compilers' answers nor clusters: only the command line, the environment, and the `stat` of
//! the files that are named.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Archive;
use crate::compiler::CommandLine;
use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Product;
use crate::compiler::Source;
use crate::compiler::command_line::Argument;
use crate::compiler::command_line::ClangOption;
use crate::compiler::driver_name;
use crate::compiler::driver_name::ArchiverKind;
use crate::compiler::driver_name::ProgramKind;
use crate::compiler::flag_table;
use crate::compiler::flag_table::Chain;
use crate::compiler::flag_table::Meaning;
use crate::compiler::outputs;
use crate::compiler::sources;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::reason::Reason;
use crate::stats::Kind;

/// What one command asks for.
#[derive(Debug, Clone)]
pub enum Task {
    /// Sources into objects, or into what else one command makes of each.
    Compile(Box<Compile>),
    /// Objects and libraries into a program or a library.
    Link(Box<Link>),
    /// Objects into an archive, or into another object.
    Archive(Box<Archive>),
    /// No compiler, linker or archiver.
    Other,
    /// A compiler, but with something that farcc does not understand, or that only this machine can do.
    Local(Reason),
}

impl Task {
    /// What the command makes, for the counts. Where it is not understood, its words tell as far as they can.
    pub fn kind(&self, invocation: &Invocation) -> Kind {
        match self {
            Task::Compile(_) => Kind::Compile,
            Task::Link(_) => Kind::Link,
            Task::Archive(_) => Kind::Archive,
            Task::Other | Task::Local(Reason::Information | Reason::Preprocess | Reason::NotACompiler) => {
                Kind::Other
            }
            Task::Local(reason) => kind_by_words(invocation, reason),
        }
    }
}

fn kind_by_words(invocation: &Invocation, reason: &Reason) -> Kind {
    let mut words = invocation.argv.iter();
    let program = words.next().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    match driver_name::kind(&program.to_string_lossy()) {
        ProgramKind::Archiver(ArchiverKind::Ar | ArchiverKind::GccAr) => Kind::Archive,
        // The others change a file in place, unless a flag is not understood.
        ProgramKind::Archiver(_) if matches!(reason, Reason::Archive(_)) => Kind::Other,
        ProgramKind::Archiver(_) => Kind::Archive,
        ProgramKind::OtherLauncher | ProgramKind::Unknown => Kind::Other,
        ProgramKind::Linker => Kind::Link,
        ProgramKind::OtherCompiler | ProgramKind::ModuleScanner => Kind::Compile,
        ProgramKind::DriverC | ProgramKind::DriverCxx => {
            match words.any(|word| ["-c", "-S", "-E"].iter().any(|option| word == option)) {
                true => Kind::Compile,
                false => Kind::Link,
            }
        }
    }
}

/// Variables that add outputs to a compile, edit its command line or bring foreign code into its processes (GCC
/// manual, "Environment Variables Affecting GCC"; Clang's `Driver.cpp` and `driver.cpp`; ld.so(8)).
const UNSUPPORTED_VARIABLES: &[&str] = &[
    "CCC_OVERRIDE_OPTIONS",
    "CC_LOG_DIAGNOSTICS",
    "CC_PRINT_HEADERS",
    "CC_PRINT_INTERNAL_STAT",
    "CC_PRINT_OPTIONS",
    "CC_PRINT_PROC_STAT",
    "CLANG_NO_DEFAULT_CONFIG",
    "GCC_COMPARE_DEBUG",
    "GCC_EXEC_PREFIX",
    "LD_AUDIT",
    "LD_PRELOAD",
    "QA_OVERRIDE_GCC3_OPTIONS",
];

/// Directories in which programs are looked for, as by `-B`.
const PROGRAM_PATH: &str = "COMPILER_PATH";

/// The task that `invocation` asks for.
pub fn classify(invocation: &Invocation) -> Task {
    classify_found(invocation, || invocation.executable())
}

/// The same, where its [executable](Invocation::executable) was looked for already.
pub(super) fn classify_found(invocation: &Invocation, executable: impl FnOnce() -> Option<PathBuf>) -> Task {
    let Some(program) = invocation.argv.first() else { return Task::Other };
    let base_name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    let default_language = match driver_name::kind(&base_name) {
        ProgramKind::DriverC => Language::C,
        ProgramKind::DriverCxx => Language::Cxx,
        ProgramKind::Archiver(kind) => {
            let read = check_environment(invocation).and_then(|()| Archive::read(invocation, kind));
            return read.map_or_else(Task::Local, |archive| Task::Archive(Box::new(archive)));
        }
        ProgramKind::Linker => return Task::Local(Reason::Link("no driver names its inputs".to_owned())),
        ProgramKind::OtherCompiler => {
            return Task::Local(Reason::UnsupportedLanguage(base_name.into_owned()));
        }
        ProgramKind::ModuleScanner => return Task::Local(Reason::Modules(base_name.into_owned())),
        ProgramKind::OtherLauncher => return Task::Local(Reason::NotACompiler),
        ProgramKind::Unknown => return Task::Other,
    };
    classify_driver(invocation, executable, default_language).unwrap_or_else(Task::Local)
}

fn classify_driver(
    invocation: &Invocation,
    executable: impl FnOnce() -> Option<PathBuf>,
    default_language: Language,
) -> Result<Task, Reason> {
    let driver = || {
        let program = invocation.argv[0].to_string_lossy();
        executable().ok_or_else(|| Reason::ToolchainProbe(format!("find {program} in PATH")))
    };
    let command_line = CommandLine::parse(&invocation.argv[1..], &invocation.cwd)?;
    if command_line.arguments.is_empty() || command_line.has(Meaning::Information) {
        return Err(Reason::Information);
    }
    // A command that scans for modules (P1689) preprocesses, too.
    if let Some(argument) = command_line.with(Meaning::Modules).next() {
        return Err(Reason::Modules(argument.text()));
    }
    if command_line.has(Meaning::Check) {
        return Err(Reason::Preprocess);
    }
    let found = sources::find(&command_line, default_language);
    let Some(product) = find_product(&command_line, &found)? else {
        check_environment(invocation)?;
        let (output, driver) = (find_object(&command_line)?, driver()?);
        let link = Link::read(invocation, driver, command_line, output)?;
        check_output(&invocation.cwd, &link.output, Path::new(""))?;
        return Ok(Task::Link(Box::new(link)));
    };
    check_environment(invocation)?;
    if let Some(argument) = command_line.with(Meaning::Intermediates).next() {
        return Err(Reason::Intermediates(argument.text()));
    }
    for argument in &command_line.arguments {
        check_argument(argument, product, &invocation.cwd)?;
    }
    check_directories(&command_line)?;
    let (paths, language, form) = found?;
    if let Some(probe) = paths.iter().find(|path| sources::is_probe(&invocation.cwd, path)) {
        return Err(Reason::Probe(probe.display().to_string()));
    }
    check_clang_options(&command_line, form)?;
    check_together(&command_line, product, form)?;
    let named_object = find_object(&command_line)?;
    let several = paths.len() > 1;
    if several && (named_object.is_some() || command_line.has(Meaning::DepfileName)) {
        return Err(Reason::SeveralSources);
    }
    let mut sources = Vec::new();
    for path in paths {
        let object = match &named_object {
            Some(named) if named == Path::new("/dev/null") => None,
            Some(named) => Some(named.clone()),
            None => Some(outputs::default_object(&path, product, &command_line)),
        };
        let mut depfile = outputs::find_depfile(&command_line, named_object.as_deref(), &path)?;
        if product == Product::Preprocessed && depfile.is_some() && !command_line.has(Meaning::DepfileName) {
            // GCC takes the name of the output for the depfile's.
            return Err(Reason::UnsupportedFlag("-MD without -MF, with -E".to_owned()));
        }
        if form == Form::Preprocessed {
            // What includes nothing depends on nothing, both compilers find.
            depfile = None;
        }
        for output in [&object, &depfile].into_iter().flatten() {
            check_output(&invocation.cwd, output, &path)?;
        }
        if depfile.is_some() && depfile == object {
            return Err(Reason::SpecialOutput);
        }
        sources.push(Source { path, object, depfile });
    }
    let driver = driver()?;
    let arguments = command_line.words();
    let compile = Compile { driver, language, form, product, sources, arguments, command_line };
    Ok(Task::Compile(Box::new(compile)))
}

/// What only together is not understood.
fn check_together(command_line: &CommandLine, product: Product, form: Form) -> Result<(), Reason> {
    let has_name = command_line.has(Meaning::Output);
    let uses_profile = command_line.has(Meaning::ProfileUse);
    for argument in &command_line.arguments {
        let understood = match argument.meaning {
            // Named after the header's text, by some.
            Meaning::Writes(_) => product != Product::PrecompiledHeader || has_name,
            // Counts have other names then.
            Meaning::Bound => !uses_profile || !argument.name.as_bytes().starts_with(b"-fprofile-prefix"),
            // A listing of assembler text shows files that its debug information names.
            Meaning::AssemblerList => {
                let listings = argument.assembler_list().unwrap_or_default();
                form != Form::Preprocessed || !listings.shows_sources
            }
            _ => true,
        };
        if !understood {
            return Err(Reason::UnsupportedFlag(argument.text()));
        }
    }
    Ok(())
}

/// What is made of the sources; None: a program, if anything.
fn find_product(
    command_line: &CommandLine,
    found: &Result<(Vec<PathBuf>, Language, Form), Reason>,
) -> Result<Option<Product>, Reason> {
    let form = found.as_ref().ok().map(|(_, _, form)| *form);
    let assembles = command_line.has(Meaning::Assemble);
    Ok(Some(if command_line.has(Meaning::Preprocess) {
        let output = command_line.with(Meaning::Output).next();
        if output.is_none_or(|output| output.value() == "-") {
            return Err(Reason::Preprocess);
        }
        Product::Preprocessed
    } else if form == Some(Form::Header) && !assembles {
        Product::PrecompiledHeader
    } else if assembles {
        let is_assembler = found.as_ref().is_ok_and(|(_, language, _)| *language == Language::Assembler);
        if command_line.has(Meaning::Compile) || is_assembler || form == Some(Form::Header) {
            return Err(Reason::UnsupportedFlag("-S".to_owned()));
        }
        Product::Assembly
    } else if command_line.has(Meaning::Compile) {
        Product::Object
    } else {
        return Ok(None);
    }))
}

fn check_environment(invocation: &Invocation) -> Result<(), Reason> {
    let unsupported = |name: &OsStr| {
        UNSUPPORTED_VARIABLES.iter().any(|&variable| name == variable)
            || name.as_bytes().starts_with(b"CLANG_CONFIG_FILE_")
    };
    // An empty list brings nothing in.
    let is_empty = |name: &OsStr, value: &OsStr| value.is_empty() && name.as_bytes().starts_with(b"LD_");
    let refused = |name: &OsStr| Reason::UnsupportedEnvironment(name.to_string_lossy().into_owned());
    let mut variables = invocation.env.iter().filter(|(name, value)| !is_empty(name, value));
    if let Some((name, _)) = variables.find(|(name, _)| unsupported(name)) {
        return Err(refused(name));
    }
    // An empty element is the working directory, for some.
    let is_understood = |element: &[u8]| {
        !element.is_empty() && holds_programs_only(&invocation.cwd.join(OsStr::from_bytes(element)))
    };
    match invocation.variable(PROGRAM_PATH).filter(|list| !list.is_empty()) {
        Some(list) if !list.as_bytes().split(|&byte| byte == b':').all(is_understood) => {
            Err(refused(OsStr::new(PROGRAM_PATH)))
        }
        _ => Ok(()),
    }
}

/// Whether one argument, taken by itself, is understood.
fn check_argument(argument: &Argument, product: Product, cwd: &Path) -> Result<(), Reason> {
    let understood = match argument.meaning {
        Meaning::Unsupported => false,
        Meaning::AssemblerList => {
            argument.assembler_list().is_some_and(|list| list.options.into_iter().all(is_assembler_option))
        }
        Meaning::PreprocessorList => return argument.preprocessor_list().map(drop),
        Meaning::Directory(_) | Meaning::Include | Meaning::Macros => !argument.value().is_empty(),
        Meaning::PreprocessedText => product == Product::Preprocessed,
        Meaning::Dump => match product {
            Product::Preprocessed => {
                argument.value().as_bytes().iter().all(|letter| b"DIMNU".contains(letter))
            }
            _ if ["A", "p", "P", "D", "H"].iter().any(|&known| argument.value() == known) => true,
            _ => return Err(Reason::Intermediates(argument.text())),
        },
        // Without a slash it is looked for where the compiler keeps its own.
        Meaning::Plugin => argument.value().as_bytes().contains(&b'/'),
        Meaning::PluginArgument => !argument.value().as_bytes().contains(&b'/'),
        Meaning::LlvmOption => is_llvm_option(argument.value()),
        // What is no directory is the beginning of programs' names.
        Meaning::ProgramDirectory => {
            let directory = cwd.join(argument.value());
            directory.is_dir() && holds_programs_only(&directory)
        }
        // What keeps times out of precompiled headers would show.
        Meaning::CompilationDatabase => product != Product::PrecompiledHeader,
        _ => true,
    };
    if understood { Ok(()) } else { Err(Reason::UnsupportedFlag(argument.text())) }
}

/// Whether a directory in which programs are looked for has nothing else that a compile reads: headers below it would
/// come before all others, and specs bring in flags.
fn holds_programs_only(directory: &Path) -> bool {
    ["include", "specs"].iter().all(|name| !directory.join(name).exists())
}

/// Whether an option of LLVM's own is known to read and write nothing: a number or a switch for an optimisation.
fn is_llvm_option(option: &OsStr) -> bool {
    let text = option.to_string_lossy();
    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit()) || matches!(value, "true" | "false");
    is_plain && flag_table::LLVM_OPTIONS.iter().any(|known| name.starts_with(known))
}

fn check_clang_options(command_line: &CommandLine, form: Form) -> Result<(), Reason> {
    let understood = |option: &ClangOption| match option {
        ClangOption::EmitPrecompiled => form == Form::Header,
        ClangOption::Unknown(_) => false,
        _ => true,
    };
    match command_line.clang_options().into_iter().find(|option| !understood(option)) {
        Some(ClangOption::Unknown(word)) => {
            Err(Reason::UnsupportedFlag(format!("-Xclang {}", word.to_string_lossy())))
        }
        Some(_) => Err(Reason::UnsupportedFlag("-Xclang -emit-pch".to_owned())),
        None => Ok(()),
    }
}

fn is_assembler_option(option: &OsStr) -> bool {
    flag_table::ASSEMBLER_OPTIONS.iter().any(|known| match option.as_bytes().strip_prefix(known.as_bytes()) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"=") || known.len() == 2,
        None => false,
    })
}

/// `=dir` and `$SYSROOT` need a sysroot that the command names, and `-iwithprefix` an `-iprefix` before it: what
/// stands for them otherwise is built into the compiler.
fn check_directories(command_line: &CommandLine) -> Result<(), Reason> {
    let sysroots: Vec<_> = command_line.with(Meaning::Sysroot).collect();
    if let Some(different) = sysroots.iter().find(|sysroot| sysroot.name != sysroots[0].name) {
        // Which of `--sysroot` and `-isysroot` wins depends on the compiler.
        if different.name.as_bytes().starts_with(b"-i") || sysroots[0].name.as_bytes().starts_with(b"-i") {
            return Err(Reason::UnsupportedFlag(different.text()));
        }
    }
    let mut has_prefix = false;
    for argument in &command_line.arguments {
        let understood = match argument.meaning {
            Meaning::DirectoryPrefix => {
                has_prefix = true;
                true
            }
            Meaning::Directory(Chain::WithPrefix | Chain::WithPrefixBefore) => has_prefix,
            Meaning::Directory(Chain::Embed) => true,
            Meaning::Directory(_) => {
                let value = argument.value().as_bytes();
                !(value.starts_with(b"=") || value.starts_with(b"$SYSROOT")) || !sysroots.is_empty()
            }
            _ => true,
        };
        if !understood {
            return Err(Reason::UnsupportedFlag(argument.text()));
        }
    }
    Ok(())
}

fn find_object(command_line: &CommandLine) -> Result<Option<PathBuf>, Reason> {
    let mut outputs = command_line.with(Meaning::Output);
    let object = outputs.next().map(|argument| PathBuf::from(argument.value()));
    match outputs.next() {
        Some(again) => Err(Reason::UnsupportedFlag(format!("{} (the second -o)", again.text()))),
        None => Ok(object),
    }
}

/// What is there and is neither a regular file nor a symlink to one cannot be an output.
fn check_output(cwd: &Path, output: &Path, source: &Path) -> Result<(), Reason> {
    let bytes = output.as_os_str().as_bytes();
    let existing = std::fs::metadata(cwd.join(output));
    let special = bytes.is_empty()
        || bytes == b"-"
        || bytes.ends_with(b"/")
        || sources::is_device(output)
        || output == source
        || existing.is_ok_and(|metadata| !metadata.is_file());
    if special { Err(Reason::SpecialOutput) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::invocation::tests::invocation;

    /// One line that says everything about a task.
    fn describe(task: &Task) -> String {
        match task {
            Task::Compile(compile) => {
                let text = |path: &Option<PathBuf>| {
                    path.as_ref().map_or("-".to_owned(), |path| path.display().to_string())
                };
                let sources = compile.sources.iter().map(|source| {
                    format!("{} {} {}", source.path.display(), text(&source.object), text(&source.depfile))
                });
                let product = match compile.product {
                    Product::Object | Product::Assembly => String::new(),
                    other => format!("{other:?} "),
                };
                format!("{product}{:?} {}", compile.language, sources.collect::<Vec<_>>().join(" "))
            }
            Task::Link(link) => format!("link {}", link.output.display()),
            Task::Archive(archive) => format!("archive {}", archive.output.display()),
            Task::Local(reason) => format!("local {reason}"),
            other => format!("{other:?}"),
        }
    }

    fn check(cases: &[(&str, &str)]) {
        let space = tempfile::tempdir().unwrap();
        for (line, expected) in cases {
            assert_eq!(describe(&classify(&invocation(space.path(), line))), *expected, "{line}");
        }
    }

    #[test]
    fn compiles() {
        check(&[
            ("gcc -c a.c", "C a.c a.o -"),
            ("gcc -c dir/a.b.c", "C dir/a.b.c a.b.o -"),
            ("gcc -c a.c -o out/b.o", "C a.c out/b.o -"),
            ("gcc -c -oout/b.o a.c", "C a.c out/b.o -"),
            ("gcc -S a.c", "C a.c a.s -"),
            ("g++ -c a.c", "Cxx a.c a.o -"),
            ("gcc -c a.cc", "Cxx a.cc a.o -"),
            ("gcc -c a.C", "Cxx a.C a.o -"),
            ("clang -c a.c++", "Cxx a.c++ a.o -"),
            ("gcc -c a.S", "Assembler a.S a.o -"),
            ("gcc -c a.sx", "Assembler a.sx a.o -"),
            ("g++ -c -x c a.cc", "C a.cc a.o -"),
            ("gcc -xc++ -c a.c", "Cxx a.c a.o -"),
            ("gcc -c a.c -x c++", "C a.c a.o -"),
            ("gcc -x c++ -x none -c a.c", "C a.c a.o -"),
            ("gcc -c a.m", "ObjectiveC a.m a.o -"),
            ("clang -c a.mm", "ObjectiveCxx a.mm a.o -"),
            ("gcc -c -x objective-c++ a.cc", "ObjectiveCxx a.cc a.o -"),
            ("gcc -c a.c -trigraphs -fno-operator-names --embed-dir=d", "C a.c a.o -"),
            ("gcc -c -x assembler-with-cpp a.s", "Assembler a.s a.o -"),
            ("/usr/bin/x86_64-linux-gnu-g++-12 -c a.cpp", "Cxx a.cpp a.o -"),
            ("gcc -c a.c b.c", "C a.c a.o - b.c b.o -"),
            ("gcc -c a.c d/b.c -MD", "C a.c a.o a.d d/b.c b.o b.d"),
            ("gcc -c a.c -o /dev/null", "C a.c - -"),
            ("gcc -c a.i -MD", "C a.i a.o -"),
            ("gcc -c a.ii", "Cxx a.ii a.o -"),
            ("gcc -c a.s -MD", "Assembler a.s a.o -"),
            ("gcc -E a.c -o a.i", "Preprocessed C a.c a.i -"),
            ("gcc -E a.c -o a.i -dD -P -MD -MF a.d", "Preprocessed C a.c a.i a.d"),
            ("gcc -x c-header d/a.h", "PrecompiledHeader C d/a.h d/a.h.gch -"),
            ("g++ -c d/a.h -MD", "PrecompiledHeader Cxx d/a.h d/a.h.gch a.d"),
            ("g++ -c -x c++-header a.cxx -o a.pch", "PrecompiledHeader Cxx a.cxx a.pch -"),
            ("clang -c -emit-llvm a.c", "C a.c a.bc -"),
            ("clang -S -emit-llvm a.c", "C a.c a.ll -"),
            ("gcc -c a.c -MD", "C a.c a.o a.d"),
            ("gcc -c s/a.c -MD -MMD", "C s/a.c a.o a.d"),
            ("gcc -c a.c -MD -o out/x.y.o", "C a.c out/x.y.o out/x.y.d"),
            ("gcc -c a.c -MD -o out/x", "C a.c out/x out/x.d"),
            ("gcc -c a.c -MD -o out/.x", "C a.c out/.x out/.d"),
            ("gcc -c a.c -MD -MT x -MP -MF z.d -o b.o", "C a.c b.o z.d"),
            ("gcc -c a.c -MMD -MFz.d", "C a.c a.o z.d"),
            ("gcc -c a.c -MMD -MF y.d -MF z.d", "C a.c a.o z.d"),
            ("gcc -c a.c -Wp,-MMD,.a.o.d -o b.o", "C a.c b.o .a.o.d"),
            ("gcc -c a.c -MD -Wp,-DX,-MD,q.d -o b.o", "C a.c b.o q.d"),
            ("gcc -c a.c -Wp,-D_FORTIFY_SOURCE=2 -Wp,-UX", "C a.c a.o -"),
            ("gcc -c a.c -Wa,--noexecstack,-mrelax-relocations=no -Wl,-z,now", "C a.c a.o -"),
            ("gcc -c a.c -Wa,-Iinc,--noexecstack -Wa,-I,dir", "C a.c a.o -"),
            ("gcc -c a.c -Wa,-I", "local unsupported_flag: -Wa,-I"),
            ("gcc -c a.c -lm -L. -pipe -pthread --param a=1 -w", "C a.c a.o -"),
            ("gcc -c a.c --sysroot=/x -I=/y -isystem $SYSROOT/z", "C a.c a.o -"),
            ("gcc -c a.c -iprefix /x/ -iwithprefix y -iwithprefixbefore z", "C a.c a.o -"),
            ("clang -c a.c -Xclang -disable-llvm-passes --target=aarch64-linux-gnu", "C a.c a.o -"),
        ]);
    }

    #[test]
    fn what_is_not_understood_is_of_the_kind_that_its_words_name() {
        for (line, expected) in [
            ("gcc -c a.c", Kind::Compile),
            ("gcc -c -", Kind::Compile),
            ("gcc -S a.c --no-such-flag", Kind::Compile),
            ("gfortran -c a.f90", Kind::Compile),
            ("gcc a.o -o a", Kind::Link),
            ("gcc a.o -o a -save-temps", Kind::Link),
            ("g++ a.cc -o a", Kind::Link),
            ("ld -r a.o", Kind::Link),
            ("ar rc a.a a.o", Kind::Archive),
            ("objcopy a.o b.o", Kind::Archive),
            ("ar x a.a", Kind::Archive),
            ("ranlib a.a", Kind::Other),
            ("strip a", Kind::Other),
            ("strip -p -o b a", Kind::Archive),
            ("gcc --version", Kind::Other),
            ("gcc -MM a.c", Kind::Other),
            ("ccache gcc -c a.c", Kind::Other),
            ("sh -c true", Kind::Other),
        ] {
            let invocation = invocation(Path::new("/"), line);
            assert_eq!(classify(&invocation).kind(&invocation), expected, "{line}");
        }
    }

    /// Flags as CMake, the Linux kernel, Fedora, Debian and Chromium give them.
    #[test]
    fn the_flags_of_common_builds_are_understood() {
        for flags in [
            "-DNDEBUG -I/b/include -isystem /x -O3 -DNDEBUG -std=gnu++17 -fPIE -flto=auto -fno-fat-lto-objects -MD -MT a.o -MF a.o.d",
            "-g -O2 -ffile-prefix-map=/b=. -fstack-protector-strong -Wformat -Werror=format-security -Wdate-time -D_FORTIFY_SOURCE=2",
            "-O2 -flto=auto -ffat-lto-objects -fexceptions -g -grecord-gcc-switches -pipe -Wall -Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=3 \
             -Wp,-D_GLIBCXX_ASSERTIONS -fstack-protector-strong -m64 -march=x86-64-v2 -mtune=generic -fasynchronous-unwind-tables \
             -fstack-clash-protection -fcf-protection -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer",
            "-Wp,-MMD,k/.a.o.d -nostdinc -Iarch/x86/include -include include/linux/kconfig.h -D__KERNEL__ -fmacro-prefix-map=./= \
             -std=gnu11 -fshort-wchar -funsigned-char -fno-common -fno-PIE -fno-strict-aliasing -mno-sse -mno-80387 -mcmodel=kernel \
             -mskip-rax-setup -mindirect-branch=thunk-extern -fno-jump-tables -mharden-sls=all -fpatchable-function-entry=16,16 \
             -fno-delete-null-pointer-checks -Wno-frame-address --param=allow-store-data-races=0 -ftrivial-auto-var-init=zero \
             -fzero-call-used-regs=used-gpr -falign-functions=16 -fstrict-flex-arrays=3 -fno-stack-check -fconserve-stack \
             -DKBUILD_MODNAME=a -fno-allow-store-data-races -fmin-function-alignment=16 -pg -mrecord-mcount -mfentry",
            "-fvisibility=hidden -fvisibility-inlines-hidden -fcolor-diagnostics -fmerge-all-constants -fcrash-diagnostics-dir=c \
             -ffp-contract=off -fcomplete-member-pointers -m64 -msse3 -ffile-compilation-dir=. -no-canonical-prefixes -fno-rtti \
             -fno-exceptions -nostdinc++ --target=x86_64-linux-gnu --sysroot=../sys -Wno-builtin-macro-redefined -D__DATE__= \
             -fno-math-errno -ftrivial-auto-var-init=pattern -fdiagnostics-show-inclusion-stack -Wthread-safety",
        ] {
            let task = classify(&invocation(
                Path::new("/"),
                &format!("gcc {flags} -o o/a.o -c /s/a.c").replace('\\', ""),
            ));
            assert!(matches!(task, Task::Compile(_)), "{flags}: {}", describe(&task));
        }
    }

    #[test]
    fn not_compiles() {
        check(&[
            ("gcc a.o -o a", "link a"),
            ("gcc a.o libb.so.1.2 -lm", "link a.out"),
            ("gcc a.c b.o -o a", "local link: a.c is compiled by the same command"),
            ("gcc -x c a.o -o a", "local link: a.o is compiled by the same command"),
            ("gcc a.f90 -o a", "local link: a.f90 is compiled by the same command"),
            ("gcc -shared", "local input_missing: the command names no file to link"),
            ("gcc a.o -o /dev/null", "local special_output"),
            ("gcc a.o -save-temps", "local intermediates: -save-temps"),
            ("gcc a.o -flto -gsplit-dwarf", "local unsupported_flag: -gsplit-dwarf"),
            ("gcc a.o -flto -fno-lto -gsplit-dwarf", "link a.out"),
            ("gcc conftest.o -o conftest", "local probe: conftest.o"),
            ("gcc -shared a.o -fplugin=x -o a.so -Wl,-soname,a", "link a.so"),
            ("gcc -Xlinker -c a.o", "link a.out"),
            ("ld -r a.o", "local link: no driver names its inputs"),
            ("ar rcs a.a a.o", "archive a.a"),
            ("x86_64-linux-gnu-gcc-ranlib-12 a.a", "local archive: an archive is given its index in place"),
            ("python3 gen.py", "Other"),
            ("gcc", "local information"),
            ("gcc --version", "local information"),
            ("gcc -v -c a.c", "local information"),
            ("gcc -### -c a.c", "local information"),
            ("gcc -print-prog-name=as", "local information"),
            ("gcc -dumpmachine", "local information"),
            ("g++ -c a.cc -fmodules-ts", "local modules: -fmodules-ts"),
            (
                "g++ -E -x c++ a.cc -MT a.ddi -MD -MF a.d -fmodules-ts -fdeps-file=a.ddi -fdeps-format=p1689r5 -o a.i",
                "local modules: -fmodules-ts",
            ),
            ("clang-scan-deps-19 -format=p1689 -- clang++ -c a.cc", "local modules: clang-scan-deps-19"),
            ("clang++ -std=c++20 --precompile a.cppm -o a.pcm", "local modules: --precompile"),
            ("clang++ -std=c++20 -c a.cppm", "local modules: a.cppm"),
            ("clang++ -std=c++20 -c -x c++-module a.cc", "local modules: -x c++-module"),
            ("clang++ -std=c++20 -c a.cc -fmodule-file=x=x.pcm", "local modules: -fmodule-file=x=x.pcm"),
            ("clang -c a.m -fmodules", "local modules: -fmodules"),
            ("gcc -E a.c", "local preprocess"),
            ("gcc -MM a.c", "local preprocess"),
            ("gcc -M -c a.c", "local preprocess"),
            ("clang --analyze a.c", "local preprocess"),
            ("gcc -fsyntax-only -c a.c", "local preprocess"),
            ("gcc -c -x c -", "local standard_input"),
            ("gcc -c -x c /dev/stdin", "local standard_input"),
            ("gcc -c a.c -o -", "local special_output"),
            ("gcc -c a.c -o a.c", "local special_output"),
            ("gcc -c a.c -o x/", "local special_output"),
            ("gcc -c a.c -o .", "local special_output"),
            ("gcc -c a.c -MD -MF -", "local special_output"),
            ("gcc -c a.c -MD -MF /dev/null", "local special_output"),
            ("gcc -c a.c -MD -o a.d", "local special_output"),
            ("gcc -c conftest.c", "local probe: conftest.c"),
            (
                "gcc -c b/CMakeFiles/CMakeScratch/TryCompile-x/s.c",
                "local probe: b/CMakeFiles/CMakeScratch/TryCompile-x/s.c",
            ),
            ("gcc -c b/meson-private/tmpx/testfile.c", "local probe: b/meson-private/tmpx/testfile.c"),
            ("gcc -c a.c b.cc", "local several_sources"),
            ("gcc -c a.c b.c -o x.o", "local several_sources"),
            ("gcc -c a.c b.c -MD -MF x.d", "local several_sources"),
            ("gcc -c a.c d/a.c a.c", "local several_sources"),
            ("gcc -c a.c b.o", "local unsupported_language: o"),
            ("gcc -c a.c -save-temps", "local intermediates: -save-temps"),
            ("gcc -c a.c -fdump-tree-all", "local intermediates: -fdump-tree-all"),
            ("gcc -c a.c -dx", "local intermediates: -dx"),
            ("gcc -E a.c -o -", "local preprocess"),
            ("gcc -c", "local input_missing: the command names no source"),
            ("gcc -c a.o", "local unsupported_language: o"),
            ("gcc -c -x ada a.c", "local unsupported_language: ada"),
            ("gfortran -c a.f90", "local unsupported_language: gfortran"),
            ("clang-cl /c a.c", "local unsupported_language: clang-cl"),
            ("ccache gcc -c a.c", "local not_a_compiler"),
            ("gcc -c @none a.c", "local response_file: none (No such file or directory (os error 2))"),
            ("nowhere-gcc -c a.c", "local toolchain_probe: find nowhere-gcc in PATH"),
        ]);
    }

    #[test]
    fn unsupported_flags() {
        for flag in [
            "-I-",
            "-gsplit-dwarf=x",
            "-fplugin=x",
            "-Wa,-ag=x",
            "-Wa,--MD,x",
            "-C",
            "-B nowhere",
            "-gen-cdb-fragment-path x",
            "-wrapper x",
            "-Xclang -include-pch",
            "-Xclang -emit-pch",
            "-dumpdir x",
            "-Xclang -load",
            "-Xpreprocessor -DX",
            "-Xassembler x",
            "-MG",
            "-MF x",
            "-MT x",
            "-MP",
            "-Wp,-MD",
            "-Wp,-include,x",
            "-I=/x",
            "-isystem $SYSROOT/x",
            "-iwithprefix x",
            "-mllvm -pass-remarks-output=x",
            "--",
            "-finput-charset=latin1",
            "-never-heard-of",
            "-arch arm64",
            "-emit-ast",
            "-object-file-name=x",
            "-isysroot x --sysroot=y",
        ] {
            let space = tempfile::tempdir().unwrap();
            let found = describe(&classify(&invocation(space.path(), &format!("gcc -c a.c {flag}"))));
            assert!(found.starts_with("local unsupported_flag: "), "{flag}: {found}");
        }
        check(&[
            ("gcc -c a.c -o a.o -o b.o", "local unsupported_flag: -o b.o (the second -o)"),
            ("gcc -c a.c -Wp,-MD,q.d -MF r.d", "local unsupported_flag: -Wp,-MD,q.d"),
            ("gcc -S a.S", "local unsupported_flag: -S"),
            ("gcc -c -S a.c", "local unsupported_flag: -S"),
        ]);
    }

    #[test]
    fn unsupported_environment() {
        for name in ["CCC_OVERRIDE_OPTIONS", "CLANG_CONFIG_FILE_USER_DIR", "LD_PRELOAD"] {
            let mut invocation = invocation(Path::new("/"), "gcc -c a.c");
            invocation.env.push((name.into(), "x".into()));
            assert_eq!(describe(&classify(&invocation)), format!("local unsupported_environment: {name}"));
        }
    }

    #[test]
    fn special_files_are_noticed() {
        let space = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", space.path().join("a.o")).unwrap();
        std::os::unix::fs::symlink("b.o", space.path().join("c.o")).unwrap();
        let task = |line| describe(&classify(&invocation(space.path(), line)));
        assert_eq!(task("gcc -c a.c"), "local special_output");
        assert_eq!(task("gcc -c c.c"), "C c.c c.o -");
    }

    #[test]
    fn response_files_are_part_of_the_command() {
        let space = tempfile::tempdir().unwrap();
        std::fs::write(space.path().join("args"), "-c a.c -o b.o").unwrap();
        let Task::Compile(compile) = classify(&invocation(space.path(), "gcc @args -g")) else { panic!() };
        assert_eq!(compile.arguments, ["-c", "a.c", "-o", "b.o", "-g"]);
    }

    /// The real drivers put the outputs where we say.
    #[test]
    fn output_names_agree_with_the_compilers() {
        for compiler in ["gcc", "clang"] {
            for line in [
                "-c a.b.c",
                "-c sub/../a.b.c -MD",
                "-c a.b.c -MD -o out/x.y.o",
                "-c a.b.c -MD -o out/x",
                "-c a.b.c -MD -o out/.x",
                "-c a.b.c -MMD -MD -o x.o",
                "-S a.b.c -MD",
                "-S a.b.c -MD -o out/x.y",
                "-c a.b.c -Wp,-MD,q.d -o x.o",
                "-c a.b.c -MD -Wp,-MMD,q.d -o x.o",
                "-c a.b.c -MD -MF a.d -MFb.d",
                "-c a.b.c -MP -MD -MQ t -o x.o",
                "-MD -c -x c++ a.b.c -o x.obj",
            ] {
                let space = tempfile::tempdir().unwrap();
                for directory in ["out", "sub"] {
                    std::fs::create_dir(space.path().join(directory)).unwrap();
                }
                std::fs::write(space.path().join("a.b.c"), "int x;\n").unwrap();
                let invocation = invocation(space.path(), &format!("{compiler} {line}"));
                let Task::Compile(compile) = classify(&invocation) else { panic!("{line}") };
                #[expect(clippy::disallowed_methods, reason = "the test itself starts the compiler")]
                let status = std::process::Command::new(&compile.driver)
                    .args(&compile.arguments)
                    .current_dir(space.path())
                    .stderr(std::process::Stdio::null())
                    .status()
                    .unwrap();
                assert!(status.success(), "{compiler} {line}");
                let mut made = Vec::new();
                for directory in [space.path().to_owned(), space.path().join("out")] {
                    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
                    made.extend(entries.filter(|path| path.is_file() && !path.ends_with("a.b.c")));
                }
                let source = &compile.sources[0];
                let files = [&source.object, &source.depfile].into_iter().flatten();
                let mut expected: Vec<_> = files.map(|path| space.path().join(path)).collect();
                made.sort();
                expected.sort();
                assert_eq!(made, expected, "{compiler} {line}");
            }
        }
    }
}

//! Sources into objects: the command, and the variants of it that farcc runs.
//! Knows nothing of where they are run.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compiler::AppendedRules;
use crate::compiler::CommandLine;
use crate::compiler::Invocation;
use crate::compiler::Product;
use crate::compiler::Source;
use crate::compiler::Toolchain;
use crate::compiler::command_line::Argument;
use crate::compiler::command_line::ClangOption;
use crate::compiler::flag_table::Further;
use crate::compiler::flag_table::Meaning;
use crate::compiler::further_flags;
use crate::compiler::outputs;
use crate::compiler::search_path;
use crate::paths;
use crate::preprocessor::Family;
use crate::preprocessor::ForcedInclude;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::preprocessor::Lexing;
use crate::preprocessor::MacroOption;
use crate::preprocessor::TranslationUnit;
use crate::reason::Reason;

/// A compile that farcc understands in full.
#[derive(Debug, Clone)]
pub struct Compile {
    /// Absolute path of the driver, symlinks not resolved.
    pub driver: PathBuf,
    /// Language of the sources.
    pub language: Language,
    /// What the sources are.
    pub form: Form,
    /// What is made of each.
    pub product: Product,
    /// At least one; the first named first.
    pub sources: Vec<Source>,
    /// The arguments after the program's name, response files expanded.
    pub arguments: Vec<OsString>,
    /// The same, typed.
    pub(super) command_line: CommandLine,
}

/// A quarter less than 128 KiB.
const MOST_ARGUMENT_BYTES: usize = 96 * 1024;

/// How the inputs of a compile are held against what the compiler opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// By the depfiles that the command asks for.
    Depfile,
    /// By one that farcc asks for besides.
    AddedDepfile,
    /// By the rules that a variable asks for: a flag that asks for a depfile would keep GCC from making them.
    AppendedRules,
    /// By what the compiler answers to `-M`: an argument that is added would be in the object, stand for several sources,
    /// or be one too many.
    Question,
    /// Not at all: text that includes nothing has no depfile.
    Nothing,
}

impl Compile {
    /// The flags that change predefined macros, the built-in search path, or answers to `__has_…`, in order.
    /// The language is not among them.
    pub fn probe_flags(&self) -> Vec<OsString> {
        let arguments = self.command_line.arguments.iter();
        arguments.filter(|argument| changes_answers(argument.meaning)).flat_map(Argument::words).collect()
    }

    /// Whether a probe flag names a relative path, so that answers hold in one directory only.
    pub(super) fn probes_relative_paths(&self) -> bool {
        let arguments = self.command_line.arguments.iter();
        arguments
            .filter(|argument| changes_answers(argument.meaning))
            .filter_map(Argument::path)
            .any(Path::is_relative)
    }

    /// What the scanner must know. Directories of the search path are looked at, as the compiler does.
    pub fn translation_unit(
        &self,
        source: &Source,
        invocation: &Invocation,
        toolchain: &Toolchain,
    ) -> TranslationUnit {
        let mut search_path = search_path::resolve(self, invocation, toolchain);
        search_path.assembler = self.assembler_directories();
        let mut forced_includes = Vec::new();
        for argument in &self.command_line.arguments {
            match argument.meaning {
                Meaning::Include => forced_includes.push(ForcedInclude::Include(argument.value().into())),
                Meaning::Macros => forced_includes.push(ForcedInclude::Macros(argument.value().into())),
                _ => {}
            }
        }
        // Before all else; where Clang is told of the text as well, that is read again.
        let texts = self.precompiled_headers().into_iter().map(|header| header.with_extension(""));
        forced_includes.splice(..0, texts.map(ForcedInclude::Text));
        for option in self.command_line.clang_options() {
            if let ClangOption::Include(file) = option {
                forced_includes.push(ForcedInclude::Text(file.into()));
            }
        }
        TranslationUnit {
            cwd: invocation.cwd.clone(),
            source: source.path.clone(),
            language: self.language,
            form: self.form,
            family: toolchain.family,
            search_path,
            predefined: Arc::clone(&toolchain.predefined),
            macros: self.macros(),
            forced_includes,
            lexing: self.lexing(),
            answers: Arc::clone(&toolchain.answers),
        }
    }

    /// `-include-pch`.
    fn precompiled_headers(&self) -> Vec<PathBuf> {
        let named = self.command_line.with(Meaning::IncludePrecompiled).map(Argument::value);
        let options = self.command_line.clang_options();
        let handed_on = options.iter().filter_map(|option| match option {
            ClangOption::IncludePrecompiled(file) => Some(*file),
            _ => None,
        });
        named.chain(handed_on).map(PathBuf::from).collect()
    }

    /// The files that the command reads besides its sources and what they include, absolute or relative to the working
    /// directory; whether each must be there.
    pub fn further_inputs(&self, invocation: &Invocation, family: Family) -> Vec<(PathBuf, bool)> {
        let mut inputs: Vec<(PathBuf, bool)> = Vec::new();
        for header in self.precompiled_headers() {
            // What it was made of must be as it was: its text, and the source that CMake has it made of.
            let text = header.with_extension("");
            for suffix in ["c", "cxx", "cpp", "cc", "m", "mm"] {
                let mut source = text.clone().into_os_string();
                source.push(".");
                source.push(suffix);
                inputs.push((source.into(), false));
            }
            inputs.push((header, true));
        }
        let files = [Meaning::ReadsFile, Meaning::Plugin, Meaning::Overlay, Meaning::ModuleMap].into_iter();
        for argument in files.flat_map(|meaning| self.command_line.with(meaning)) {
            inputs.push((argument.value().into(), true));
        }
        for argument in self.command_line.with(Meaning::ProfileUse) {
            let value = argument.value().as_bytes();
            let named = Path::new(OsStr::from_bytes(value));
            match family {
                Family::Clang if value.is_empty() => inputs.push(("default.profdata".into(), true)),
                Family::Clang if invocation.cwd.join(named).is_dir() => {
                    inputs.push((named.join("default.profdata"), true));
                }
                Family::Clang => inputs.push((named.into(), true)),
                Family::Gcc => {
                    let flags = [Meaning::ProfileUse, Meaning::ProfileDirectory].into_iter();
                    let arguments = flags.flat_map(|meaning| self.command_line.with(meaning));
                    let directories: Vec<_> = arguments.map(|argument| Path::new(argument.value())).collect();
                    let logical = invocation.variable("PWD").map(Path::new).filter(|pwd| pwd.is_absolute());
                    for cwd in [Some(invocation.cwd.as_path()), logical].into_iter().flatten() {
                        let stems = self.sources.iter().filter_map(|source| outputs::stem(source, family));
                        let counts = stems.flat_map(|stem| counts_of(cwd, &directories, &stem));
                        inputs.extend(counts.map(|path| (path, false)));
                    }
                    if !value.is_empty() && !invocation.cwd.join(named).is_dir() {
                        inputs.push((named.into(), false));
                    }
                }
            }
        }
        inputs
    }

    /// The flag that brings in more than the scanner can follow, so that the compiler must be asked what it reads.
    pub fn is_beyond_the_scanner(&self) -> Option<String> {
        let is_beyond = |argument: &&Argument| {
            matches!(
                argument.meaning,
                Meaning::Specs
                    | Meaning::Configuration
                    | Meaning::Frameworks
                    | Meaning::Overlay
                    | Meaning::ModuleMap
            )
        };
        self.command_line.arguments.iter().find(is_beyond).map(Argument::text)
    }

    /// `-B`.
    pub(super) fn program_directories(&self) -> impl Iterator<Item = &Path> {
        self.command_line.with(Meaning::ProgramDirectory).filter_map(Argument::path)
    }

    /// `-F`, `-iframework`.
    pub fn frameworks(&self) -> impl Iterator<Item = &Path> {
        self.command_line.with(Meaning::Frameworks).filter_map(Argument::path)
    }

    /// `-ivfsoverlay`.
    pub fn overlays(&self) -> impl Iterator<Item = &Path> {
        self.command_line.with(Meaning::Overlay).filter_map(Argument::path)
    }

    /// Whether the command itself names what brings in further flags: `-specs`, `--config`.
    pub(super) fn names_further_flags(&self) -> bool {
        self.command_line.has(Meaning::Specs) || self.command_line.has(Meaning::Configuration)
    }

    /// Whether all that files bring in which the command names is understood; those that are looked for elsewhere than
    /// where their names lead from `cwd` are not looked at.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`] with the word that is not.
    pub(super) fn check_further_flags(&self, cwd: &Path) -> Result<(), Reason> {
        let files = |meaning| {
            let named = self.command_line.with(meaning).filter_map(Argument::path);
            named.map(|file| cwd.join(file)).filter(|file| file.is_file())
        };
        files(Meaning::Specs).try_for_each(|file| further_flags::check_specs(&file))?;
        files(Meaning::Configuration).try_for_each(|file| further_flags::check_configuration(&file, true))
    }

    /// Whether what the command makes shows its flags.
    fn shows_flags(&self) -> bool {
        self.command_line.has(Meaning::Recorded) || self.command_line.has(Meaning::CompilationDatabase)
    }

    /// `-Wa,-I`.
    fn assembler_directories(&self) -> Vec<PathBuf> {
        let lists = self.command_line.with(Meaning::AssemblerList).filter_map(Argument::assembler_list);
        lists.flat_map(|list| list.directories).map(PathBuf::from).collect()
    }

    /// The last of each kind counts; choosing a standard after them takes trigraphs back.
    fn lexing(&self) -> Lexing {
        let mut lexing = Lexing::default();
        for argument in &self.command_line.arguments {
            let is_negative = argument.name.as_encoded_bytes().starts_with(b"-fno-");
            match argument.meaning {
                Meaning::Trigraphs => lexing.trigraphs = Some(!is_negative),
                Meaning::OperatorNames => lexing.no_operator_names = is_negative,
                Meaning::Probe
                    if argument.name == "-ansi" || argument.name.as_encoded_bytes().ends_with(b"-std=") =>
                {
                    lexing.trigraphs = None;
                }
                _ => {}
            }
        }
        lexing
    }

    /// `-D` and `-U`, in the order in which the preprocessor sees them: both drivers put what `-Wp,` brings
    /// after all others.
    fn macros(&self) -> Vec<MacroOption> {
        let mut macros = Vec::new();
        let mut listed = Vec::new();
        for argument in &self.command_line.arguments {
            match argument.meaning {
                Meaning::Define => macros.push(MacroOption::Define(argument.value().to_owned())),
                Meaning::Undefine => macros.push(MacroOption::Undefine(argument.value().to_owned())),
                // The list was understood when the command was classified.
                Meaning::PreprocessorList => {
                    listed.extend(argument.preprocessor_list().unwrap_or_default().macros);
                }
                _ => {}
            }
        }
        for option in listed {
            let (flag, text) = search_path::split_at_byte(&option, 2);
            macros.push(match flag == "-D" {
                true => MacroOption::Define(text.to_owned()),
                false => MacroOption::Undefine(text.to_owned()),
            });
        }
        macros
    }

    /// What to append to the arguments so that diagnostics keep the colours that the user's terminal would have
    /// got: nothing if it would have got none, or if the command itself decides. `None` if the colours can only be
    /// had from a terminal, because the object would record what is added, or because it would be one word too many.
    ///
    /// GCC's `diagnostic-color.cc` (`should_colorize`, `parse_gcc_colors`): a terminal that is not dumb, and
    /// `GCC_COLORS` not empty.
    pub fn colour_arguments(&self, invocation: &Invocation, family: Family) -> Option<Vec<OsString>> {
        let capable = invocation.variable("TERM").is_some_and(|term| term != "dumb" && !term.is_empty());
        let refused =
            family == Family::Gcc && invocation.variable("GCC_COLORS").is_some_and(|value| value.is_empty());
        if !invocation.stderr_is_terminal || !capable || refused || self.command_line.has(Meaning::Colour) {
            return Some(Vec::new());
        }
        let has_room = !self.shows_flags() && !self.is_long();
        has_room.then(|| vec!["-fdiagnostics-color=always".into()])
    }

    /// How the inputs that were found are held against what the compiler opens. `appended`: what the environment asks
    /// for besides.
    pub fn audit(&self, appended: Option<&AppendedRules>) -> Audit {
        if self.form == Form::Preprocessed {
            Audit::Nothing
        } else if appended.is_some() {
            Audit::AppendedRules
        } else if self.sources.iter().all(|source| source.depfile.is_some()) {
            Audit::Depfile
        } else if self.command_line.has(Meaning::Recorded) || self.sources.len() > 1 || self.is_long() {
            Audit::Question
        } else {
            Audit::AddedDepfile
        }
    }

    /// Whether what is added might be too much. GCC's driver hands all its arguments on in one variable, for which the
    /// kernel has a limit (execve(2), `MAX_ARG_STRLEN`).
    pub(super) fn is_long(&self) -> bool {
        // Each has quotes and a blank around it.
        self.arguments.iter().map(|argument| argument.len() + 3).sum::<usize>() > MOST_ARGUMENT_BYTES
    }

    /// What to append to the arguments so that the compiler writes a depfile to `path`. The object does not change.
    pub fn depfile_arguments(&self, path: &Path) -> [OsString; 3] {
        ["-MD".into(), "-MF".into(), path.into()]
    }

    /// The same command turned into the compiler's own `-M`: all files that it would read, system headers
    /// included, on standard output.
    pub fn dependency_arguments(&self) -> Vec<OsString> {
        let mut words = self.preprocessing_arguments();
        words.push("-M".into());
        words
    }

    /// The same command turned into one that makes the rules which a variable asks for, in `file`, and prints macros.
    pub(super) fn appended_rules_arguments(&self, file: &Path) -> Vec<OsString> {
        let mut words = self.preprocessing_arguments();
        // `-MF` without another flag for depfiles only says where the rules go that the variable asks for.
        words.extend(["-E".into(), "-dM".into(), "-MF".into(), file.into()]);
        words
    }

    /// The command's arguments without all that decides what is made.
    fn preprocessing_arguments(&self) -> Vec<OsString> {
        let mut words = Vec::with_capacity(self.arguments.len());
        for argument in &self.command_line.arguments {
            match argument.meaning {
                meaning if meaning.decides_what_is_made() => {}
                Meaning::PreprocessorList => {
                    words.extend(argument.preprocessor_list().unwrap_or_default().without_depfile());
                }
                _ => words.extend(argument.words()),
            }
        }
        words
    }

    /// What would make other bytes of the command on another machine: the flags stand in what it makes, and there it would
    /// be given others for `-march=native`, in another order.
    pub fn is_bound_here(&self, family: Family) -> Option<&'static str> {
        let shows_flags = |argument: &Argument| {
            matches!(argument.meaning, Meaning::Recorded | Meaning::CompilationDatabase)
                || argument.text() == "-fverbose-asm"
                // GCC names the flags in all debug information, Clang only if it is told to.
                || family == Family::Gcc && argument.name.as_bytes().starts_with(b"-g")
        };
        let is_bound = self.asks_for_native() && self.command_line.arguments.iter().any(shows_flags);
        is_bound.then_some("-march=native where the flags are shown")
    }

    /// Whether the machine itself is the target.
    pub(super) fn asks_for_native(&self) -> bool {
        self.command_line.has(Meaning::Native)
    }

    /// The arguments as they mean the same on every machine: `-march=native` and its kin are replaced by what they stand
    /// for here. GCC's driver puts that before all other flags, too.
    ///
    /// # Errors
    /// [`Reason::UnsupportedFlag`]: the compiler did not tell what one of them stands for.
    pub fn portable_arguments(&self, toolchain: &Toolchain) -> Result<Vec<OsString>, Reason> {
        let native = self.native_arguments(toolchain)?;
        if native.is_empty() {
            return Ok(self.arguments.clone());
        }
        let others =
            self.command_line.arguments.iter().filter(|argument| argument.meaning != Meaning::Native);
        Ok(native.into_iter().chain(others.flat_map(Argument::words)).collect())
    }

    /// What `-march=native` and its kin stand for here; none without such a flag.
    ///
    /// # Errors
    /// See [`portable_arguments`](Compile::portable_arguments).
    pub(super) fn native_arguments(&self, toolchain: &Toolchain) -> Result<Vec<OsString>, Reason> {
        for argument in self.command_line.with(Meaning::Native) {
            let text = argument.text();
            let flag = text.trim_end_matches("native");
            if !toolchain.native.iter().any(|word| word.starts_with(flag)) {
                return Err(Reason::UnsupportedFlag(text));
            }
        }
        let words = if self.asks_for_native() { &toolchain.native[..] } else { &[] };
        Ok(words.iter().map(OsString::from).collect())
    }
}

/// Where GCC may look for the counts of an object (gcc/coverage.cc, `coverage_init`): beside it, or in a directory by its
/// whole path, which is written with `#` for each slash, or below the directory. Which of them and which directory depends
/// on what is absolute and on the order of flags; that all may be taken costs nothing.
fn counts_of(cwd: &Path, directories: &[&Path], stem: &Path) -> Vec<PathBuf> {
    let mut beside = paths::absolute(cwd, stem).into_os_string();
    beside.push(".gcda");
    let mangled: Vec<u8> =
        beside.as_bytes().iter().map(|&byte| if byte == b'/' { b'#' } else { byte }).collect();
    let mut places = Vec::new();
    for directory in directories.iter().filter(|directory| !directory.as_os_str().is_empty()) {
        let mut below = directory.as_os_str().to_owned();
        below.push("/");
        below.push(&beside);
        places.extend([directory.join(OsStr::from_bytes(&mangled)), below.into()]);
    }
    places.push(beside.into());
    places
}

fn changes_answers(meaning: Meaning) -> bool {
    matches!(
        meaning,
        Meaning::Probe
            | Meaning::ProbePath
            | Meaning::Sysroot
            | Meaning::ProgramDirectory
            | Meaning::Specs
            | Meaning::Configuration
            | Meaning::DirectoryPrefix
            | Meaning::Native
            // No answer changes, but a further program is run: objcopy.
            | Meaning::Writes(Further::SplitDebug)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::Task;
    use crate::compiler::classify;
    use crate::compiler::invocation::tests::invocation;
    use crate::process::Program;
    use std::time::Duration;

    fn compile(line: &str) -> Compile {
        match classify(&invocation(Path::new("/nowhere"), line)) {
            Task::Compile(compile) => *compile,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn text(words: &[OsString]) -> String {
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn probe_flags_leave_out_what_does_not_matter() {
        let line = "g++ -O2 -DX -I a -c a.cc -o a.o -std=c++20 -Wall -g -MD -fPIC -m32 -frandom-seed=a -pthread \
                    -fdiagnostics-color -ffile-prefix-map=a=b --sysroot /s -nostdinc++ -target x -x c++";
        assert_eq!(
            text(&compile(line).probe_flags()),
            "-O2 -std=c++20 -fPIC -m32 -pthread --sysroot /s -nostdinc++ -target x"
        );
    }

    #[test]
    fn dependency_arguments_only_list() {
        let line = "gcc -c a.c -o a.o -MD -MT x -MP -O2 -Wp,-MMD,q.d -include b.h";
        assert_eq!(text(&compile(line).dependency_arguments()), "a.c -O2 -include b.h -M");
        assert_eq!(text(&compile("gcc -S a.c -Wp,-DX,-MD,q.d").dependency_arguments()), "a.c -Wp,-DX -M");
    }

    #[test]
    fn macros_of_the_preprocessor_list_come_last() {
        let macros = compile("gcc -c a.c -Wp,-DX=1,-UY -UX -D Y").macros();
        let define = |text: &str| MacroOption::Define(text.into());
        let undefine = |text: &str| MacroOption::Undefine(text.into());
        assert_eq!(macros, [undefine("X"), define("Y"), define("X=1"), undefine("Y")]);
    }

    #[test]
    fn the_last_flag_about_trigraphs_counts() {
        for (flags, expected) in [
            ("", None),
            ("-trigraphs", Some(true)),
            ("-std=gnu99 -trigraphs", Some(true)),
            ("-trigraphs -std=gnu99", None),
            ("-fno-trigraphs -ansi", None),
            ("-ftrigraphs -fno-trigraphs", Some(false)),
        ] {
            assert_eq!(compile(&format!("gcc -c a.c {flags}")).lexing().trigraphs, expected, "{flags}");
        }
        let names = |flags: &str| compile(&format!("gcc -c a.cc {flags}")).lexing().no_operator_names;
        assert!(names("-fno-operator-names") && !names("-fno-operator-names -foperator-names"));
    }

    #[test]
    fn colours_follow_the_terminal() {
        let compile = compile("gcc -c a.c");
        let mut invocation = invocation(Path::new("/"), "gcc -c a.c");
        assert!(compile.colour_arguments(&invocation, Family::Gcc).unwrap().is_empty());
        invocation.stderr_is_terminal = true;
        assert!(compile.colour_arguments(&invocation, Family::Gcc).unwrap().is_empty());
        invocation.env.push(("TERM".into(), "xterm".into()));
        assert_eq!(
            text(&compile.colour_arguments(&invocation, Family::Gcc).unwrap()),
            "-fdiagnostics-color=always"
        );
        invocation.env.push(("GCC_COLORS".into(), "".into()));
        assert!(compile.colour_arguments(&invocation, Family::Gcc).unwrap().is_empty());
        assert_eq!(compile.colour_arguments(&invocation, Family::Clang).unwrap().len(), 1);
        invocation.env.push(("TERM".into(), "dumb".into()));
        assert!(compile.colour_arguments(&invocation, Family::Clang).unwrap().is_empty());
        for chosen in ["-fno-diagnostics-color", "-fdiagnostics-color=auto", "-fcolor-diagnostics"] {
            invocation.env.push(("TERM".into(), "xterm".into()));
            let compile = super::tests::compile(&format!("gcc -c a.c {chosen}"));
            assert!(compile.colour_arguments(&invocation, Family::Clang).unwrap().is_empty(), "{chosen}");
        }
    }

    #[test]
    fn nothing_is_added_to_a_recorded_command() {
        let compile = compile("clang -c a.c -grecord-gcc-switches");
        let mut invocation = invocation(Path::new("/"), "clang");
        assert_eq!(compile.colour_arguments(&invocation, Family::Clang), Some(Vec::new()));
        invocation.stderr_is_terminal = true;
        invocation.env.push(("TERM".into(), "xterm".into()));
        assert_eq!(compile.colour_arguments(&invocation, Family::Clang), None);
        assert_eq!(compile.audit(None), Audit::Question);
    }

    /// What farcc adds to a command must not show in the object.
    #[tokio::test]
    async fn additions_do_not_change_the_object() {
        let space = tempfile::tempdir().unwrap();
        std::fs::write(space.path().join("a.c"), "#include <stdio.h>\nint f(void) { return 1; }\n").unwrap();
        for compiler in ["gcc", "clang"] {
            for flags in ["-g", "-O2 -g3", "-g -gno-record-gcc-switches", "-S", "-flto"] {
                let mut invocation = invocation(space.path(), &format!("{compiler} -c a.c -o a.o {flags}"));
                if flags == "-S" {
                    invocation.argv.retain(|word| word != "-c");
                }
                let Task::Compile(compile) = classify(&invocation) else { panic!() };
                invocation.env.push(("TERM".into(), "xterm".into()));
                invocation.stderr_is_terminal = true;
                let mut changed = compile.arguments.clone();
                changed.extend(compile.colour_arguments(&invocation, Family::Gcc).unwrap());
                changed.extend(compile.depfile_arguments(Path::new("extra.d")));
                assert_eq!(changed.len(), compile.arguments.len() + 4);
                // GCC names LTO sections at random: two plain runs do not agree either.
                if flags == "-flto" && compiler == "gcc" {
                    changed.push("-frandom-seed=1".into());
                }
                let mut plain = compile.arguments.clone();
                if flags == "-flto" && compiler == "gcc" {
                    plain.push("-frandom-seed=1".into());
                }
                let mut objects = Vec::new();
                for args in [plain, changed] {
                    let env = invocation.env.clone();
                    let program = Program { path: &compile.driver, args, env, cwd: space.path() };
                    let output = program.output(Duration::from_secs(60)).await.unwrap();
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    objects.push(std::fs::read(space.path().join("a.o")).unwrap());
                }
                assert!(objects[0] == objects[1], "{compiler} {flags}");
                assert!(std::fs::remove_file(space.path().join("extra.d")).is_ok());
            }
        }
    }
}

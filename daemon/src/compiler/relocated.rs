//! The same compile in an action that names no checkout (`[exec] paths = "shared"`): which commands can be moved, and what
//! becomes of their arguments.
//! Knows nothing of inputs and outputs, nor of what the action is.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Product;
use crate::compiler::Toolchain;
use crate::compiler::command_line::Argument;
use crate::compiler::flag_table::Chain;
use crate::compiler::flag_table::Meaning;
use crate::compiler::search_path;
use crate::preprocessor::Family;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::relocation::Relocation;

/// Since when the compilers have `-ffile-prefix-map`.
const FIRST_GCC: u32 = 8;
const FIRST_CLANG: u32 = 10;

/// Flags that put paths into the object where no prefix map changes them, or that decide by the paths of sources.
const PATHS_IN_OBJECTS: &[&str] = &[
    "-fcontract",
    "-fembed-bitcode",
    "-finstrument-functions-exclude-file-list",
    "-fprofile",
    "-fpseudo-probe-for-profiling",
    "-fsanitize",
    "-funique-internal-linkage-names",
];

/// The same for Clang alone.
const PATHS_IN_CLANGS_OBJECTS: &[&str] = &["-fobjc-runtime", "-fopenmp"];

/// Flags by which messages depend on how long paths are, or how they sort.
const PATHS_IN_MESSAGES: &[&str] = &["-H", "-fmessage-length"];

/// Since when Clang's names of types in signatures go through the prefix maps; versions between are not known.
const FIRST_CLANG_WITH_MAPPED_TYPES: u32 = 19;

/// Variables of directories for which GCC takes the shorter one of a relative and an absolute name.
const SYSTEM_DIRECTORIES: &[&str] = &["C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH"];

impl Compile {
    /// The arguments of the command where the workspace stands as `relocation` says; debug information and `__FILE__`
    /// name it as [`SHOWN`](crate::relocation::SHOWN), as [`prefix_maps`](Compile::prefix_maps) makes a run here do.
    ///
    /// # Errors
    /// Why the command cannot be moved, as a clause.
    pub fn relocated_arguments(
        &self,
        toolchain: &Toolchain,
        invocation: &Invocation,
        relocation: &Relocation,
    ) -> Result<Vec<OsString>, String> {
        self.check_movable(toolchain, invocation)?;
        let maps = self.command_line.with(Meaning::PrefixMap);
        if let Some(argument) = maps.into_iter().find(|map| covers_more(split_map(map.value()).0, relocation))
        {
            return Err(format!("{} maps more than the workspace", argument.text()));
        }
        let mut words = self.native_arguments(toolchain).map_err(|reason| reason.to_string())?;
        words.extend(self.maps(relocation, |root| root.there.as_path()));
        words.extend(self.mapped_arguments(|path| relocation.there(path)));
        let named = self.arguments.iter().find(|word| relocation.is_there_in(word.as_bytes()));
        let named = named.or(words.iter().find(|word| relocation.named_here(word.as_bytes()).is_some()));
        match named {
            Some(word) => Err(format!("{} names the workspace", word.display())),
            None => Ok(words),
        }
    }

    /// Whether prefix maps can keep what the command makes apart from where its files are.
    ///
    /// # Errors
    /// Why they cannot, as a clause.
    pub(super) fn check_movable(&self, toolchain: &Toolchain, invocation: &Invocation) -> Result<(), String> {
        if self.product != Product::Object {
            return Err("what it makes is no object".to_owned());
        }
        let first = if toolchain.family == Family::Gcc { FIRST_GCC } else { FIRST_CLANG };
        if major_version(&toolchain.tools.version).is_none_or(|version| version < first) {
            return Err(format!("{} has no -ffile-prefix-map", toolchain.tools.version));
        }
        if self.is_long() {
            return Err("it is almost too long as it is".to_owned());
        }
        let family = toolchain.family;
        if family == Family::Clang
            && self.language == Language::Assembler
            && self.command_line.arguments.iter().any(|argument| argument.name.as_bytes().starts_with(b"-g"))
        {
            return Err("Clang's assembler maps no paths in debug information".to_owned());
        }
        if family == Family::Clang && self.form == Form::Preprocessed {
            return Err("Clang takes no prefix map for what is preprocessed".to_owned());
        }
        if family == Family::Gcc
            && let Some(variable) = SYSTEM_DIRECTORIES.iter().find(|variable| {
                let value = invocation.variable(variable).unwrap_or(OsStr::new("/"));
                !value.as_bytes().split(|&byte| byte == b':').all(|path| path.starts_with(b"/"))
            })
        {
            return Err(format!("the variable {variable} has a relative path"));
        }
        if let Some(argument) = self.command_line.arguments.iter().find(|argument| is_bound(argument, family))
        {
            return Err(format!("{} ties what is made to where it is", argument.text()));
        }
        Ok(())
    }

    /// Whether this compiler names types by the paths of their sources in `__PRETTY_FUNCTION__`, whatever the prefix maps.
    pub fn shows_paths_of_types(&self, toolchain: &Toolchain) -> bool {
        toolchain.family == Family::Clang
            && matches!(self.language, Language::Cxx | Language::ObjectiveCxx)
            && major_version(&toolchain.tools.version)
                .is_none_or(|version| version < FIRST_CLANG_WITH_MAPPED_TYPES)
    }

    /// What to put before the arguments of a run here, so that the object names the workspace as the action's does.
    pub fn prefix_maps(&self, relocation: &Relocation) -> Vec<OsString> {
        self.maps(relocation, |root| root.here.as_path())
    }

    /// Prefix maps for each directory of the workspace; the user's own for the whole of one stand. Theirs come later, so
    /// that those for parts of one are tried first.
    fn maps(
        &self,
        relocation: &Relocation,
        name: impl Fn(&crate::relocation::Root) -> &Path,
    ) -> Vec<OsString> {
        let mut words = Vec::new();
        for root in relocation.roots() {
            let users = |flag: &str| {
                self.command_line.with(Meaning::PrefixMap).any(|argument| {
                    argument.name == flag && split_map(argument.value()).0 == root.here.as_os_str().as_bytes()
                })
            };
            let in_all = users("-ffile-prefix-map=");
            let needs_debug = !in_all && !users("-fdebug-prefix-map=");
            let needs_macro = !in_all && !users("-fmacro-prefix-map=");
            let flag = match (needs_debug, needs_macro) {
                (true, true) => "-ffile-prefix-map=",
                (true, false) => "-fdebug-prefix-map=",
                (false, true) => "-fmacro-prefix-map=",
                (false, false) => continue,
            };
            let mut word = OsString::from(flag);
            word.push(name(root));
            word.push("=");
            word.push(&root.shown);
            words.push(word);
        }
        words
    }

    /// The arguments with every path in them replaced by what `map` makes of it, without those that ask for this machine.
    /// Paths inside macros stay as they are.
    pub(super) fn mapped_arguments(&self, mut map: impl FnMut(&Path) -> PathBuf) -> Vec<OsString> {
        let mut words = Vec::with_capacity(self.arguments.len());
        for argument in &self.command_line.arguments {
            match (argument.path(), argument.meaning) {
                (Some(path), _) => words.extend(argument.with_value(map(path).into()).words()),
                (None, Meaning::Native) => {}
                (None, Meaning::DepfileContent | Meaning::LinkOnly) if !argument.value().is_empty() => {
                    let target = map(Path::new(argument.value()));
                    words.extend(argument.with_value(target.into()).words());
                }
                (None, Meaning::PrefixMap) => {
                    words.extend(argument.with_value(renamed_map(argument.value(), &mut map)).words());
                }
                (None, Meaning::PreprocessorList) => {
                    let list = argument.preprocessor_list().unwrap_or_default();
                    if let Some(depfile) = &list.depfile {
                        let mut word = OsString::from("-Wp,");
                        word.push(&list.depfile_flag);
                        word.push(",");
                        word.push(map(depfile));
                        words.push(word);
                    }
                    words.extend(list.without_depfile());
                }
                _ => words.extend(argument.words()),
            }
        }
        words
    }
}

/// A prefix map's old name, and the rest from the `=` on. Both compilers take the first one.
pub(super) fn split_map(value: &OsStr) -> (&[u8], &[u8]) {
    let bytes = value.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
    bytes.split_at(at)
}

/// A prefix map with what `rename` makes of its old name.
pub(super) fn renamed_map(value: &OsStr, mut rename: impl FnMut(&Path) -> PathBuf) -> OsString {
    let (from, rest) = split_map(value);
    let mut renamed = rename(Path::new(OsStr::from_bytes(from))).into_os_string();
    renamed.push(OsStr::from_bytes(rest));
    renamed
}

/// Whether a prefix map changes names of the workspace by what stands before them, which is another text in the action. The
/// compilers compare bytes, not components.
fn covers_more(from: &[u8], relocation: &Relocation) -> bool {
    relocation.roots().iter().any(|root| {
        let (here, there) = (root.here.as_os_str().as_bytes(), root.there.as_os_str().as_bytes());
        here.starts_with(from) && here != from || there.starts_with(from)
    })
}

/// Whether an argument ties what the command makes to where it is made.
fn is_bound(argument: &Argument, family: Family) -> bool {
    match argument.meaning {
        // The directory that `=` stands for is a part of the name.
        _ if argument.path().is_some_and(search_path::is_sysroot_relative) => true,
        // GCC's `maybe_shorter_path` (libcpp/files.cc): of the relative and the physical name of a header the shorter one.
        Meaning::Directory(Chain::System | Chain::After) if family == Family::Gcc => {
            Path::new(argument.value()).is_relative()
        }
        // Lines of depfiles are broken at blanks.
        Meaning::DepfileContent => argument.value().as_bytes().iter().any(|byte| b" \t\r\n\\".contains(byte)),
        Meaning::Input
        | Meaning::Compile
        | Meaning::PreprocessedText
        | Meaning::Output
        | Meaning::Language
        | Meaning::Define
        | Meaning::Undefine
        | Meaning::Directory(_)
        | Meaning::Include
        | Meaning::Macros
        | Meaning::Depfile
        | Meaning::DepfileName
        | Meaning::PreprocessorList
        | Meaning::LlvmOption
        | Meaning::Sysroot
        | Meaning::Trigraphs
        | Meaning::OperatorNames
        | Meaning::IncludePrecompiled
        | Meaning::Native
        | Meaning::Colour
        | Meaning::PrefixMap
        | Meaning::LinkOnly => false,
        Meaning::Probe | Meaning::ProbePath | Meaning::Neutral => {
            let text = argument.text();
            let of_clang: &[&str] = if family == Family::Clang { PATHS_IN_CLANGS_OBJECTS } else { &[] };
            let flags = PATHS_IN_OBJECTS.iter().chain(PATHS_IN_MESSAGES).chain(of_clang);
            flags.into_iter().any(|flag| text.starts_with(flag))
        }
        Meaning::AssemblerList => argument.assembler_list().is_none_or(|list| {
            !list.directories.is_empty() || !list.listings.is_empty() || list.shows_sources
        }),
        // Paths inside a list are not mapped, the names of further files stand in the object, and what is not understood
        // may do anything.
        Meaning::Assemble
        | Meaning::Preprocess
        | Meaning::Check
        | Meaning::Dump
        | Meaning::Intermediates
        | Meaning::EmitLlvm
        | Meaning::Information
        | Meaning::DirectoryPrefix
        | Meaning::Xclang
        | Meaning::Writes(_)
        | Meaning::WritesFile
        | Meaning::ReadsFile
        | Meaning::ProfileUse
        | Meaning::ProfileDirectory
        | Meaning::Plugin
        | Meaning::PluginArgument
        | Meaning::ProgramDirectory
        | Meaning::Specs
        | Meaning::Configuration
        | Meaning::Frameworks
        | Meaning::Overlay
        | Meaning::ModuleMap
        | Meaning::CompilationDatabase
        | Meaning::Modules
        | Meaning::Bound
        | Meaning::Recorded
        | Meaning::Unsupported => true,
    }
}

/// `gcc version 12.2.0 (…)` or `… clang version 14.0.6`: the first number.
pub(super) fn major_version(version: &str) -> Option<u32> {
    let number = version.split_once("version ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::Task;
    use crate::compiler::classify;
    use crate::compiler::invocation::tests::invocation;
    use crate::compiler::toolchains::tests::probe;
    use crate::compiler::toolchains::tests::toolchains;

    /// The arguments of `line` in an action of the workspace `/w` and `/b`, and what is put before those of a run here.
    async fn relocated(line: &str) -> (Result<String, String>, String) {
        let space = tempfile::tempdir().unwrap();
        let invocation = invocation(space.path(), line);
        let Task::Compile(compile) = classify(&invocation) else { panic!("no compile: {line}") };
        let toolchain = probe(&toolchains(&space.path().join("records")), space.path(), line).await.unwrap();
        let relocation = Relocation::new(&["/w".into(), "/b".into()]).unwrap();
        let text = |words: Vec<OsString>| {
            words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let words = compile.relocated_arguments(&toolchain, &invocation, &relocation);
        (words.map(text), text(compile.prefix_maps(&relocation)))
    }

    const MAPS: &str = "-ffile-prefix-map=/farcc-workspace/0=/proc/self/cwd \
                        -ffile-prefix-map=/farcc-workspace/1=/proc/self/cwd/../b";

    #[tokio::test]
    async fn every_path_is_moved() {
        let line = "gcc -c /w/a.c -o/b/a.o -I /w/i -isystem/w/s -I../i -I/opt/i -include /w/p.h -Wp,-DX,-MMD,/b/a.d \
                    -MT /b/a.o -O2 -D Y=/x -Wa,--noexecstack -L/w/lib";
        let (there, here) = relocated(line).await;
        let (first, second) = ("/farcc-workspace/0", "/farcc-workspace/1");
        assert_eq!(
            there.unwrap(),
            format!(
                "{MAPS} -c {first}/a.c -o{second}/a.o -I {first}/i -isystem{first}/s -I../i -I/opt/i \
                 -include {first}/p.h -Wp,-MMD,{second}/a.d -Wp,-DX -MT {second}/a.o -O2 -D Y=/x -Wa,--noexecstack -L{first}/lib"
            )
        );
        assert_eq!(here, MAPS.replace(first, "/w").replace(second, "/b"));
    }

    #[tokio::test]
    async fn a_users_own_map_stands() {
        for (users, first) in [
            ("-ffile-prefix-map=/w=.", ""),
            ("-fdebug-prefix-map=/w=.", "-fmacro-prefix-map=/farcc-workspace/0=/proc/self/cwd "),
            ("-fmacro-prefix-map=/w=.", "-fdebug-prefix-map=/farcc-workspace/0=/proc/self/cwd "),
            ("-fmacro-prefix-map=/w=. -fdebug-prefix-map=/w=", ""),
            ("-ffile-prefix-map=/w/sub=x", "-ffile-prefix-map=/farcc-workspace/0=/proc/self/cwd "),
        ] {
            let (there, _) = relocated(&format!("gcc {users} -c a.c")).await;
            let users = users.replace("=/w", "=/farcc-workspace/0");
            let second = MAPS.split(' ').next_back().unwrap();
            assert_eq!(there.unwrap(), format!("{first}{second} {users} -c a.c"));
        }
    }

    #[tokio::test]
    async fn what_names_the_workspace_or_cannot_be_moved() {
        for (line, why) in [
            ("gcc -S a.c", "what it makes is no object"),
            ("gcc -c a.c -DX=\"/w/x\"", "-DX=\"/w/x\" names the workspace"),
            ("gcc -c a.c -DX=/farcc-workspace/0", "-DX=/farcc-workspace/0 names the workspace"),
            ("gcc -c a.c -ffile-prefix-map=/opt=/w", "-ffile-prefix-map=/opt=/w names the workspace"),
            ("gcc -c a.c -fdebug-prefix-map=/=x", "-fdebug-prefix-map=/=x maps more than the workspace"),
            (
                "gcc -c a.c -ffile-prefix-map=/farcc=",
                "-ffile-prefix-map=/farcc= maps more than the workspace",
            ),
            ("gcc -c a.c -isystem inc", "-isystem inc ties what is made to where it is"),
            ("gcc -c a.c -fmessage-length=60", "-fmessage-length=60 ties what is made to where it is"),
            ("gcc -c a.c -H", "-H ties what is made to where it is"),
            ("clang -c a.s", "Clang takes no prefix map for what is preprocessed"),
            ("gcc -c a.c --coverage", "--coverage ties what is made to where it is"),
            ("gcc -c a.c -flto", "-flto ties what is made to where it is"),
            ("gcc -c a.c -g -gsplit-dwarf", "-gsplit-dwarf ties what is made to where it is"),
            ("gcc -c a.c -fsanitize=address", "-fsanitize=address ties what is made to where it is"),
            ("gcc -c a.c -frecord-gcc-switches", "-frecord-gcc-switches ties what is made to where it is"),
            ("gcc -c a.c -Wa,-I/w/i", "-Wa,-I/w/i ties what is made to where it is"),
            ("gcc -c a.c -Wa,-a=a.lst", "-Wa,-a=a.lst ties what is made to where it is"),
            ("gcc --sysroot=/ -c a.c -I=/opt", "-I=/opt ties what is made to where it is"),
            ("clang -c a.c -fopenmp", "-fopenmp ties what is made to where it is"),
            ("clang -c a.S -gdwarf-4", "Clang's assembler maps no paths in debug information"),
        ] {
            assert_eq!(relocated(line).await.0, Err(why.to_owned()), "{line}");
        }
        assert!(relocated("gcc -c a.c -fopenmp").await.0.is_ok());
        assert!(relocated("gcc -c a.s").await.0.is_ok());
        assert!(relocated("clang -c a.c -isystem inc").await.0.is_ok());
        assert!(relocated("gcc -c a.S -g").await.0.is_ok());
        assert!(relocated("gcc -c a.c -fno-sanitize=all -march=native").await.0.is_ok());
    }

    #[test]
    fn versions() {
        assert_eq!(major_version("gcc version 12.2.0 (Debian 12.2.0-14)"), Some(12));
        assert_eq!(major_version("Debian clang version 19.1.7"), Some(19));
        assert_eq!(major_version("something else"), None);
    }
}

//! Works out where a compile's `#include`s look, as the compiler itself would print it with `-v`.
//! Knows nothing of what is in the directories.
//!
//! Sources: GCC's `incpath.cc` (`add_env_var_paths`, `remove_duplicates`, `merge_include_chains`); Clang's
//! `InitHeaderSearch.cpp` (`RemoveDuplicates`, `Realize`) and `CompilerInvocation.cpp`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::compiler::command_line::Argument;
use crate::compiler::flag_table::Chain;
use crate::compiler::flag_table::Meaning;
use crate::preprocessor::Family;
use crate::preprocessor::Language;
use crate::preprocessor::SearchPath;

/// A directory that exists, and its identity.
#[derive(Debug, Clone)]
struct Directory {
    path: PathBuf,
    id: (u64, u64),
    is_system: bool,
}

/// The four chains, in the order in which they are searched.
#[derive(Default)]
struct Chains {
    quote: Vec<Directory>,
    bracket: Vec<Directory>,
    system: Vec<Directory>,
    /// `--embed-dir`: looked through as they are given.
    embed: Vec<PathBuf>,
}

/// The search path of a compile: its flags, its environment and the compiler's built-in directories, without
/// those that are missing and without duplicates.
pub(super) fn resolve(compile: &Compile, invocation: &Invocation, toolchain: &Toolchain) -> SearchPath {
    let chains = collect(compile, invocation, toolchain);
    match toolchain.family {
        Family::Gcc => merge_as_gcc(chains),
        Family::Clang => merge_as_clang(chains),
    }
}

fn collect(compile: &Compile, invocation: &Invocation, toolchain: &Toolchain) -> Chains {
    let flags = Flags::of(compile, toolchain.family);
    let existing = |paths: Vec<PathBuf>, is_system| -> Vec<Directory> {
        let directory = |path: PathBuf| {
            let metadata = std::fs::metadata(invocation.cwd.join(&path)).ok()?;
            let id = (metadata.dev(), metadata.ino());
            metadata.is_dir().then_some(Directory { path, id, is_system })
        };
        paths.into_iter().filter_map(directory).collect()
    };
    let mut bracket = flags.bracket;
    let environment = directories_of(invocation.variable("CPATH"));
    // GCC's driver hands on all `-I` before all other `-i…` flags; Clang's hands on `CPATH` as further `-I`.
    match toolchain.family {
        Family::Gcc => bracket.extend(flags.bracket_prefixed.into_iter().chain(environment)),
        Family::Clang => bracket.extend(environment.into_iter().chain(flags.bracket_prefixed)),
    }
    let mut system = flags.system;
    let variables = match (compile.language, toolchain.family) {
        (Language::C | Language::Assembler, _) => &["C_INCLUDE_PATH"][..],
        (Language::Cxx, _) => &["CPLUS_INCLUDE_PATH"],
        (Language::ObjectiveC, _) => &["OBJC_INCLUDE_PATH"],
        (Language::ObjectiveCxx, Family::Gcc) => &["OBJCPLUS_INCLUDE_PATH"],
        (Language::ObjectiveCxx, Family::Clang) => &["CPLUS_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH"],
    };
    for name in variables {
        system.extend(directories_of(invocation.variable(name)));
    }
    system.extend(toolchain.search_path.angle.iter().cloned());
    system.extend(flags.after);
    let mut quote = flags.quote;
    quote.extend(toolchain.search_path.quote.iter().cloned());
    Chains {
        quote: existing(quote, false),
        bracket: existing(bracket, false),
        system: existing(system, true),
        embed: flags.embed,
    }
}

/// What the flags add to each chain.
#[derive(Default)]
struct Flags {
    quote: Vec<PathBuf>,
    bracket: Vec<PathBuf>,
    bracket_prefixed: Vec<PathBuf>,
    system: Vec<PathBuf>,
    after: Vec<PathBuf>,
    embed: Vec<PathBuf>,
}

impl Flags {
    fn of(compile: &Compile, family: Family) -> Flags {
        let arguments = &compile.command_line.arguments;
        let sysroot = compile.command_line.with(Meaning::Sysroot).last().map(Argument::value);
        let mut flags = Flags::default();
        let mut after = Vec::new();
        let mut prefix = OsStr::new("");
        for argument in arguments {
            let value = argument.value();
            let prefixed = || {
                let mut path = prefix.to_owned();
                path.push(value);
                PathBuf::from(path)
            };
            match argument.meaning {
                Meaning::DirectoryPrefix => prefix = value,
                Meaning::Directory(chain) => match (chain, family) {
                    (Chain::Quote, _) => flags.quote.push(expand(value, sysroot, chain, family)),
                    (Chain::Bracket, _) => flags.bracket.push(expand(value, sysroot, chain, family)),
                    (Chain::System, _) => flags.system.push(expand(value, sysroot, chain, family)),
                    (Chain::After, _) => after.push(expand(value, sysroot, chain, family)),
                    (Chain::WithPrefix, Family::Gcc) => flags.system.push(prefixed()),
                    // Clang adds these before all `-idirafter`.
                    (Chain::WithPrefix, Family::Clang) => flags.after.push(prefixed()),
                    (Chain::Embed, _) => flags.embed.push(value.into()),
                    (Chain::WithPrefixBefore, _) => flags.bracket_prefixed.push(prefixed()),
                },
                _ => {}
            }
        }
        flags.after.extend(after);
        flags
    }
}

/// GCC puts the sysroot in the place of a leading `=` or `$SYSROOT` of any directory; Clang in that of the `=`
/// of `-I=dir` only.
fn expand(value: &OsStr, sysroot: Option<&OsStr>, chain: Chain, family: Family) -> PathBuf {
    let rest = match family {
        Family::Gcc => sysroot_relative(value),
        Family::Clang => value.as_bytes().strip_prefix(b"=").filter(|_| chain == Chain::Bracket),
    };
    match (rest, sysroot) {
        (Some(rest), Some(sysroot)) => {
            let mut path = sysroot.to_owned();
            path.push(OsStr::from_bytes(rest));
            path.into()
        }
        _ => value.into(),
    }
}

fn sysroot_relative(value: &OsStr) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    bytes.strip_prefix(b"=").or_else(|| bytes.strip_prefix(b"$SYSROOT"))
}

/// Whether a directory is written relative to the sysroot: `=dir`, `$SYSROOT/dir`.
pub(super) fn is_sysroot_relative(path: &Path) -> bool {
    sysroot_relative(path.as_os_str()).is_some()
}

/// The text cut in two at byte `at`.
pub(super) fn split_at_byte(text: &OsStr, at: usize) -> (&OsStr, &OsStr) {
    let (head, tail) = text.as_bytes().split_at(at.min(text.len()));
    (OsStr::from_bytes(head), OsStr::from_bytes(tail))
}

/// The elements of a variable such as `CPATH`: an empty one is the working directory, an empty variable none.
fn directories_of(value: Option<&OsStr>) -> Vec<PathBuf> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Vec::new() };
    let element = |bytes: &[u8]| {
        PathBuf::from(if bytes.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(bytes) })
    };
    value.as_bytes().split(|&byte| byte == b':').map(element).collect()
}

fn merge_as_gcc(chains: Chains) -> SearchPath {
    let system = without_repeats(chains.system);
    let bracket = without_duplicates(chains.bracket, &system, &system);
    let quote = without_duplicates(chains.quote, &system, &bracket);
    let user_directories = bracket.len();
    let angle = paths(bracket.into_iter().chain(system));
    SearchPath { quote: paths(quote), angle, user_directories, embed: chains.embed, ..SearchPath::default() }
}

/// Keeps the first of each.
fn without_repeats(chain: Vec<Directory>) -> Vec<Directory> {
    let mut kept: Vec<Directory> = Vec::with_capacity(chain.len());
    for directory in chain {
        if !kept.iter().any(|earlier| earlier.id == directory.id) {
            kept.push(directory);
        }
    }
    kept
}

/// Removes from `chain` what is in `system`, what is in `chain` already, and its last directory if the chain
/// `joined` to it begins with the same.
fn without_duplicates(chain: Vec<Directory>, system: &[Directory], joined: &[Directory]) -> Vec<Directory> {
    let last = chain.len().saturating_sub(1);
    let kept: Vec<Directory> = chain
        .into_iter()
        .enumerate()
        .filter(|(index, directory)| {
            let is_system = system.iter().any(|other| other.id == directory.id);
            let is_joint = *index == last && joined.first().is_some_and(|first| first.id == directory.id);
            !is_system && !is_joint
        })
        .map(|(_, directory)| directory)
        .collect();
    without_repeats(kept)
}

fn merge_as_clang(chains: Chains) -> SearchPath {
    let quote = without_repeats(chains.quote);
    let mut angle: Vec<Directory> = Vec::new();
    for directory in without_repeats(chains.bracket).into_iter().chain(chains.system) {
        match angle.iter().position(|earlier| earlier.id == directory.id) {
            // A user's directory that is a system directory too counts at its later place, as in GCC.
            Some(earlier) if directory.is_system && !angle[earlier].is_system => {
                angle.remove(earlier);
                angle.push(directory);
            }
            Some(_) => {}
            None => angle.push(directory),
        }
    }
    let user_directories = angle.iter().filter(|directory| !directory.is_system).count();
    SearchPath {
        quote: paths(quote),
        angle: paths(angle),
        user_directories,
        embed: chains.embed,
        ..SearchPath::default()
    }
}

fn paths(directories: impl IntoIterator<Item = Directory>) -> Vec<PathBuf> {
    directories.into_iter().map(|directory| directory.path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::invocation::tests::invocation;
    use crate::compiler::toolchains::tests::compile;
    use crate::compiler::toolchains::tests::printed_search_path;
    use crate::compiler::toolchains::tests::toolchains;
    use std::os::unix::fs::symlink;

    /// Whatever flags and variables say, the search path is the one that `-v` prints.
    #[tokio::test]
    async fn search_paths_agree_with_the_compilers() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().canonicalize().unwrap();
        for directory in ["a", "b", "c", "d", "sys/usr/include", "sys/opt"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        symlink("a", root.join("link")).unwrap();
        for file in ["plain", "x.c", "x.cc", "x.S", "x.m", "x.mm"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let toolchains = toolchains(&root.join("records"));
        let flags = [
            "-I a -I b -Ia -I missing -I plain -I link",
            "-I a -isystem b -I b -isystem a -I c",
            "-iquote a -I a -iquote b -I c -iquote c",
            "-iquote c -iquote a -I a",
            "-iquote a -isystem a -iquote a -iquote b",
            "-idirafter a -I a -idirafter b -isystem c -isystem c",
            "-I /usr/include -I a -isystem /usr/include -idirafter /usr/local/include",
            "-isystem /usr/include -iquote /usr/include",
            "-nostdinc -I a -isystem b",
            "--sysroot=sys -I=/opt -isystem =/opt -I a -idirafter =/usr/include -iquote $SYSROOT/opt",
            "-isysroot sys -I=/opt -iquote =/opt",
            "-iprefix ./ -iwithprefix a -iwithprefixbefore b -I c -isystem d -idirafter link",
            "-I a -I . -I ./a/../b -I b",
            "-nostdinc++ -isystem a -I b",
            "-O2 -fPIC -pthread -g -I a",
        ];
        let environments: [&[(&str, &str)]; 4] = [
            &[],
            &[
                ("CPATH", "b:a::c"),
                ("C_INCLUDE_PATH", "d"),
                ("CPLUS_INCLUDE_PATH", "c:d:"),
                ("OBJC_INCLUDE_PATH", "c"),
                ("OBJCPLUS_INCLUDE_PATH", "d:a"),
            ],
            &[("CPATH", ""), ("C_INCLUDE_PATH", ":d"), ("CPLUS_INCLUDE_PATH", "missing")],
            &[("CPATH", "/usr/include:a"), ("C_INCLUDE_PATH", "a:b"), ("CPLUS_INCLUDE_PATH", "a")],
        ];
        // GCC's Objective-C is a package of its own.
        for compiler in [
            "gcc -c x.c",
            "g++ -c x.cc",
            "clang -c x.c",
            "clang++ -c x.cc",
            "gcc -c x.S",
            "clang -c x.m",
            "clang -c x.mm",
        ] {
            for flags in flags {
                // The rules of the variables are the same for every driver of a family.
                let in_full = compiler == "gcc -c x.c" || compiler == "clang++ -c x.cc";
                for environment in &environments[..if in_full { 4 } else { 2 }] {
                    let line = format!("{compiler} {flags}");
                    let mut invocation = invocation(&root, &line);
                    let variables = environment.iter().map(|(name, value)| (name.into(), value.into()));
                    invocation.env.extend(variables);
                    let compile = compile(&invocation);
                    let toolchain = toolchains.probe(&compile, &invocation).await.unwrap();
                    let unit = compile.translation_unit(&compile.sources[0], &invocation, &toolchain);
                    let printed = printed_search_path(&invocation, &compile).await;
                    // Clang prints a directory by the first name under which it met it.
                    let named = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
                        let name = |path: PathBuf| match toolchain.family {
                            Family::Gcc => path,
                            Family::Clang => root.join(path).canonicalize().unwrap(),
                        };
                        paths.into_iter().map(name).collect()
                    };
                    let ours = (named(unit.search_path.quote), named(unit.search_path.angle));
                    assert_eq!(ours, (named(printed.0), named(printed.1)), "{line} {environment:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn user_directories_come_first() {
        let space = tempfile::tempdir().unwrap();
        for directory in ["a", "b", "s"] {
            std::fs::create_dir(space.path().join(directory)).unwrap();
        }
        let toolchains = toolchains(space.path());
        for compiler in ["gcc", "clang"] {
            let invocation =
                invocation(space.path(), &format!("{compiler} -c x.c -I a -I s -isystem s -I b -I none"));
            let compile = compile(&invocation);
            let toolchain = toolchains.probe(&compile, &invocation).await.unwrap();
            let search_path =
                compile.translation_unit(&compile.sources[0], &invocation, &toolchain).search_path;
            assert_eq!(search_path.angle[..3], ["a", "b", "s"].map(PathBuf::from), "{compiler}");
            assert_eq!(search_path.user_directories, 2, "{compiler}");
        }
    }
}

//! One line of a recipe as `make` hands it to its shell, and whether it is a simple command that needs no shell.
//! Knows nothing of daemons. What a shell would do with more than words and quotes it leaves to a shell.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::process::Environment;
use crate::search::Identity;

/// Programs that are done before anybody could answer a question: on the way to another machine they would cost more.
/// For what is no builtin of shells; the daemon goes by the same list.
pub const TRIFLES: &[&str] = &[
    "[",
    "arch",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cmp",
    "comm",
    "cp",
    "cut",
    "date",
    "diff",
    "dirname",
    "echo",
    "egrep",
    "expr",
    "false",
    "fgrep",
    "find",
    "getconf",
    "grep",
    "head",
    "hostname",
    "id",
    "install",
    "install-sh",
    "ln",
    "ls",
    "mkdir",
    "mkinstalldirs",
    "mktemp",
    "mv",
    "nproc",
    "paste",
    "pkg-config",
    "pkgconf",
    "printenv",
    "printf",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "uname",
    "uniq",
    "wc",
    "which",
    "whoami",
    "yes",
];

/// Words that are no programs for one of the shells or another: reserved words and builtins.
const NO_PROGRAMS: &[&str] = &[
    ".",
    ":",
    "[",
    "[[",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "echo",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "print",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "whence",
    "while",
];

/// Programs that make other commands, which come to us by themselves.
const BUILDERS: &[&str] = &["make", "gmake", "bmake", "remake", "ninja", "ninja-build", "samu", "farccd"];

/// Compilers and what belongs to them, by the last part of their names: builds hand them to us by name, or do not want to.
const TOOLCHAIN: &[&str] = &[
    "ar", "as", "c++", "c89", "c99", "cc", "ccache", "clang", "clang++", "cpp", "distcc", "dwp", "farcc",
    "g++", "gcc", "gfortran", "gold", "icecc", "ld", "ld.bfd", "ld.gold", "ld.lld", "ld.mold", "lld", "mold",
    "nm", "nvcc", "objcopy", "ranlib", "rustc", "sccache", "strip", "tcc",
];

/// Whether a program is one of [`TRIFLES`], and not a project's own that has the name of one.
pub fn is_trifle(program: &OsStr) -> bool {
    let directory = Path::new(program).parent().unwrap_or(Path::new(""));
    let is_systems = ["", "/bin", "/usr/bin"].iter().any(|known| directory == Path::new(known));
    is_systems && TRIFLES.iter().any(|known| known.as_bytes() == base_name(program))
}

/// What is to become of what `make` gives its shell.
#[derive(Debug, PartialEq, Eq)]
pub enum Recipe {
    /// A simple command, about which the daemon may be asked.
    Simple(Vec<OsString>),
    /// A simple command that runs here in any case.
    Here(Vec<OsString>),
    /// Something for the shell.
    Script,
}

/// Judges the arguments of the shell, in the `environment` that `make` gave it.
pub fn read(arguments: &[OsString], environment: &Environment) -> Recipe {
    let Some(line) = line(arguments) else { return Recipe::Script };
    let Some(words) = words(line.as_bytes()) else { return Recipe::Script };
    let Some(program) = words.first() else { return Recipe::Script };
    let (name, is_bare) = (base_name(program), !program.as_bytes().contains(&b'/'));
    let is_one_of = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    // `./test` is a program, `test` is none.
    if is_bare && is_one_of(NO_PROGRAMS) || has_functions(environment) {
        return Recipe::Script;
    }
    if is_trifle(program) || is_one_of(BUILDERS) || is_toolchain(name) || is_below_make(environment) {
        return Recipe::Here(words);
    }
    if is_answer() { Recipe::Here(words) } else { Recipe::Simple(words) }
}

/// The text that the shell is to run, if its options change nothing for a simple command.
fn line(arguments: &[OsString]) -> Option<&OsStr> {
    let mut takes_text = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"-o" => {
                let name = rest.next()?;
                ["pipefail", "errexit", "nounset"].iter().find(|known| name == *known)?;
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                let harmless = letters.iter().all(|letter| b"ceu".contains(letter));
                harmless.then_some(())?;
                takes_text |= letters.contains(&b'c');
            }
            // With more arguments than the text, that has parameters.
            _ => return (takes_text && rest.len() == 0).then_some(argument.as_os_str()),
        }
    }
    None
}

/// The words of a simple command; none: a shell would do more with it, or something that depends on the shell.
fn words(line: &[u8]) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = skip_blanks(rest);
        if rest.is_empty() {
            break;
        }
        let word;
        (word, rest) = read_word(rest)?;
        words.push(OsStr::from_bytes(&word).to_owned());
    }
    let first = words.first()?;
    let is_assignment = first.as_bytes().contains(&b'=');
    (!is_assignment && !first.is_empty()).then_some(words)
}

/// Blanks, and line ends that are taken away (POSIX, Shell Command Language, 2.2.1).
fn skip_blanks(mut text: &[u8]) -> &[u8] {
    loop {
        text = match text {
            [b' ' | b'\t', rest @ ..] | [b'\\', b'\n', rest @ ..] => rest,
            _ => return text,
        }
    }
}

/// The word at the beginning of a text, quotes removed, and what is behind it.
fn read_word(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [] | [b' ' | b'\t', ..] => return Some((word, rest)),
            [b'\\', b'\n', behind @ ..] => rest = behind,
            [b'\\', escaped, behind @ ..] if is_quotable(*escaped) => {
                word.push(*escaped);
                rest = behind;
            }
            [b'\'', behind @ ..] => {
                let end = behind.iter().position(|&byte| byte == b'\'')?;
                let (quoted, closing) = behind.split_at(end);
                quoted.iter().all(|&byte| is_quotable(byte)).then_some(())?;
                word.extend_from_slice(quoted);
                rest = closing.get(1..)?;
            }
            [b'"', behind @ ..] => rest = read_double_quoted(behind, &mut word)?,
            // zsh looks for the program behind it.
            [b'=', ..] if rest.len() == text.len() => return None,
            [plain, behind @ ..] if is_plain(*plain) => {
                word.push(*plain);
                rest = behind;
            }
            _ => return None,
        }
    }
}

/// What is behind the closing quote.
fn read_double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'\n', behind @ ..] => rest = behind,
            [b'\\', escaped @ (b'$' | b'`' | b'"' | b'\\'), behind @ ..] => {
                word.push(*escaped);
                rest = behind;
            }
            [b'$' | b'`', ..] => return None,
            [quoted, behind @ ..] if is_quotable(*quoted) => {
                word.push(*quoted);
                rest = behind;
            }
            _ => return None,
        }
    }
}

/// Bytes that mean themselves in every shell, wherever in a word they stand.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./=:,+@%".contains(&byte)
}

/// Bytes that mean themselves between quotes. What is beyond ASCII depends on the locale.
fn is_quotable(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n') || byte.is_ascii_graphic()
}

/// Whether bash would find functions in its environment, or a file to read first: either may stand for any program.
fn has_functions(environment: &Environment) -> bool {
    let is_function = |name: &OsStr| name == "BASH_ENV" || name.as_bytes().starts_with(b"BASH_FUNC_");
    environment.pairs().iter().any(|(name, value)| is_function(name) && !value.is_empty())
}

/// Whether a program is a compiler, linker or archiver: `x86_64-linux-gnu-gcc-12` has a target before it, and a version
/// behind.
fn is_toolchain(name: &[u8]) -> bool {
    let is_version = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let end = name.iter().rposition(|byte| !is_version(byte)).map_or(0, |last| last + 1);
    let is_known = |name: &[u8]| {
        let last = name.rsplit(|&byte| byte == b'-').next().unwrap_or_default();
        TOOLCHAIN.iter().any(|known| known.as_bytes() == last)
    };
    name.starts_with(b"farcc") || is_known(name) || is_known(name.get(..end).unwrap_or_default())
}

/// Whether `make` takes the command for another `make`: it left its job server open for it, as it does for lines with `+`
/// and `$(MAKE)`. (GNU make 4.4 may have a named pipe instead, which all commands find.)
fn is_below_make(environment: &Environment) -> bool {
    let flags = environment.get("MAKEFLAGS").unwrap_or_default().to_string_lossy();
    let mut descriptors = flags.split(' ').filter_map(|flag| {
        let value =
            flag.strip_prefix("--jobserver-auth=").or_else(|| flag.strip_prefix("--jobserver-fds="))?;
        value.split_once(',')
    });
    let is_open = |number: &str| {
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty();
        is_number && descriptor(&format!("/proc/self/fd/{number}")).is_some_and(|it| it.file_type().is_fifo())
    };
    descriptors.next_back().is_some_and(|(read, write)| is_open(read) && is_open(write))
}

/// Whether somebody reads the output as the value of a variable, as `$(shell …)` does: it goes into a pipe, and that is not
/// where `make` itself writes. What a recipe prints goes there, or with `--output-sync` into a file.
fn is_answer() -> bool {
    let Some(own) = descriptor("/proc/self/fd/1").filter(|output| output.file_type().is_fifo()) else {
        return false;
    };
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    let above = descriptor(&format!("/proc/{parent}/fd/1"));
    above.is_none_or(|above| Identity::of(&above) != Identity::of(&own))
}

fn descriptor(path: &str) -> Option<Metadata> {
    std::fs::metadata(path).ok()
}

fn base_name(word: &OsStr) -> &[u8] {
    Path::new(word).file_name().unwrap_or_default().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn options_that_change_nothing() {
        for (words, expected) in [
            (&["-c", "x"][..], Some("x")),
            (&["-ec", "x"], Some("x")),
            (&["-eu", "-o", "pipefail", "-c", "x"], Some("x")),
            (&["-xc", "x"], None),
            (&["-c", "-x", "y"], None),
            (&["-o", "xtrace", "-c", "x"], None),
            (&["-c", "x", "y"], None),
            (&["-c"], None),
            (&["script", "x"], None),
            (&["-e", "script"], None),
            (&["-"], None),
            (&["+c", "x"], None),
            (&[], None),
        ] {
            assert_eq!(line(&arguments(words)), expected.map(OsStr::new), "{words:?}");
        }
    }

    #[test]
    fn simple_commands() {
        for (line, expected) in [
            ("gen a  b\t c", Some("gen|a|b|c")),
            (" gen 'a b' \"c d\" e\\ f ''", Some("gen|a b|c d|e f|")),
            ("gen \\\n  a\\\nb 'c\\\nd'", Some("gen|ab|c\\\nd")),
            ("gen \"a\\\"b\\\\c\\d\" 'e\"f' --x=\"y z\"", Some("gen|a\"b\\c\\d|e\"f|--x=y z")),
            ("'/a b/gen' 'x;y'", Some("/a b/gen|x;y")),
            ("gen a=b -DX=1", Some("gen|a=b|-DX=1")),
            ("A=1 gen", None),
            ("gen $X", None),
            ("gen \"$X\"", None),
            ("gen `x`", None),
            ("gen > out", None),
            ("gen *.c", None),
            ("gen a; gen b", None),
            ("gen a\ngen b", None),
            ("gen a && b", None),
            ("gen # x", None),
            ("gen ~/x", None),
            ("gen {a,b}", None),
            ("! gen", None),
            ("gen 'a", None),
            ("gen a\\", None),
            ("gen =ls", None),
            ("gen \u{e4}", None),
            ("'' a", None),
            ("", None),
        ] {
            let found = words(line.as_bytes());
            let found = found.map(|words| {
                words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join("|")
            });
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn what_runs_here_and_what_is_asked_about() {
        let environment = Environment::of(&[]);
        let judge = |line: &str| match read(&arguments(&["-c", line]), &environment) {
            Recipe::Simple(_) => "asked",
            Recipe::Here(_) => "here",
            Recipe::Script => "script",
        };
        for (line, expected) in [
            ("echo x", "script"),
            ("cd x", "script"),
            ("'exit' 3", "script"),
            ("if", "script"),
            ("touch x", "here"),
            ("/usr/bin/sort x", "here"),
            ("tests/sort x", "asked"),
            ("./test x", "asked"),
            ("/bin/echo x", "here"),
            ("make -C x", "here"),
            ("/usr/bin/gcc -c x.c", "here"),
            ("x86_64-linux-gnu-g++-12 x.cc", "here"),
            ("llvm-ar-14 rc x", "here"),
            ("farcc gcc -c x.c", "here"),
            ("/x/farcc gen", "here"),
        ] {
            assert_eq!(judge(line), expected, "{line}");
        }
        let with_function = Environment::of(&["BASH_FUNC_gen%%=() { :; }"]);
        assert_eq!(read(&arguments(&["-c", "gen x"]), &with_function), Recipe::Script);
    }

    /// Whatever is understood, shells split in the same way.
    #[test]
    fn words_are_those_of_the_shells() {
        let pieces: [&str; 24] = [
            "a", "-DX=1", "'", "\"", " ", "\t", "$", "\\", "`", "#", "~", "*", ";", "'a b'", "\"c  d\"",
            "\\\n", "\n", "\\\"", "\\ ", "''", "%+@,:", "=", "{b,c}", "!",
        ];
        let mut random = 7_u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) as usize
        };
        let mut lines = Vec::new();
        while lines.len() < 300 {
            let line: String = (0..1 + next() % 7).map(|_| pieces[next() % pieces.len()]).collect();
            if let Some(words) = words(format!("x {line}").as_bytes()) {
                lines.push((line, words));
            }
        }
        for shell in ["/bin/sh", "bash"] {
            // One shell for all of them.
            let script: String =
                lines.iter().map(|(line, _)| format!("printf '%s\\0' begin {line}\n")).collect();
            let Ok(printed) = Command::new(shell).args(["-c", &script]).output() else { continue };
            let expected: Vec<u8> = lines
                .iter()
                .flat_map(|(_, words)| {
                    let words = words.iter().skip(1).map(|word| word.as_bytes());
                    std::iter::once(b"begin".as_slice()).chain(words).flat_map(|word| [word, b"\0"].concat())
                })
                .collect();
            assert_eq!(
                String::from_utf8_lossy(&printed.stdout),
                String::from_utf8_lossy(&expected),
                "{shell}"
            );
        }
    }
}

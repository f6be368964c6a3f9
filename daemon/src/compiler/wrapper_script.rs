//! Wrapper scripts in front of a compiler: what one executes in the end, where its text says so in full.
//! Knows nothing of compilers but their names, runs nothing, and remembers nothing: the text decides each time.
//!
//! Understood is a script for `sh` or `bash` of blank lines, comments, `set -e` and one last command
//! `[NAME=VALUE…] [exec] [env NAME=VALUE…] [ccache…] PROGRAM [WORD…] "$@"`, in which nothing is expanded but the
//! script's own directory. All other shell stays with the shell.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compiler::Invocation;
use crate::compiler::Task;
use crate::compiler::classify;
use crate::compiler::driver_name;
use crate::compiler::driver_name::ProgramKind;
use crate::compiler::invocation::find_named;
use crate::compiler::shell_words::Word;
use crate::compiler::shell_words::is_blank;
use crate::compiler::shell_words::is_name;
use crate::compiler::shell_words::trim_blanks;
use crate::compiler::shell_words::words;
use crate::compiler::task::classify_found;
use crate::paths;
use crate::process::env_value;
use crate::reason::Reason;

/// More scripts in a row lead nowhere.
const MOST_SCRIPTS: usize = 8;

/// Longer scripts do more than call a compiler.
const MOST_BYTES: u64 = 64 * 1024;

/// Shells that run a script in the same way, as far as it is understood.
const SHELLS: &[&str] = &["sh", "bash", "dash"];

/// What `set` and the interpreter line may turn on: to end at errors, of which there is none.
const SHELL_OPTIONS: &[&str] = &["-e", "-u", "-eu", "-ue"];

/// Launchers that do with the words behind them what these do, only faster.
const LAUNCHERS: &[&str] = &["farcc", "ccache", "distcc"];

/// Variables by which a shell reads other text than the script's.
const STEERING_VARIABLES: &[&str] = &["BASHOPTS", "BASH_ENV", "SHELLOPTS"];

/// Variables by which ccache takes another compiler than it is given.
const CCACHE_VARIABLES: &[&str] = &["CCACHE_COMPILER", "CCACHE_PATH", "CCACHE_PREFIX"];

/// Variables that mean something to the shell itself, or to the search for the program.
const SHELL_VARIABLES: &[&str] = &["ENV", "IFS", "OLDPWD", "PATH", "POSIXLY_CORRECT", "PWD", "SHLVL", "_"];

/// A script that is not understood.
#[derive(Debug, PartialEq, Eq)]
struct Unclear {
    /// Script, line, and the first thing in it that is not understood.
    what: String,
    /// Whether it leads back to itself: without somebody who counts it might never end.
    is_endless: bool,
}

/// The command that is executed in the end, wrapper scripts expanded, and what it asks for. The command as it was
/// typed, where there is no script, or one that is not understood.
pub fn resolve(invocation: &Arc<Invocation>) -> (Arc<Invocation>, Task) {
    let program = invocation.argv.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let kind = driver_name::kind(&program.to_string_lossy());
    if !matches!(kind, ProgramKind::DriverC | ProgramKind::DriverCxx | ProgramKind::Unknown) {
        return (Arc::clone(invocation), classify(invocation));
    }
    match expand(invocation) {
        Ok(Expanded::Program(found)) => (Arc::clone(invocation), classify_found(invocation, || found)),
        Ok(Expanded::Script(expanded)) => {
            let task = classify(&expanded);
            (Arc::new(expanded), task)
        }
        Err(unclear) => {
            let task = match classify(invocation) {
                Task::Compile(_) => Task::Local(Reason::WrapperScript(unclear.what)),
                // It is counted among the launchers above it only where it takes a slot.
                Task::Other if unclear.is_endless => Task::Local(Reason::WrapperScript(unclear.what)),
                other => other,
            };
            (Arc::clone(invocation), task)
        }
    }
}

/// What a command names.
enum Expanded {
    /// No script: its path, as [`Invocation::executable`] has it.
    Program(Option<PathBuf>),
    /// The command behind all scripts.
    Script(Invocation),
}

fn expand(invocation: &Invocation) -> Result<Expanded, Unclear> {
    let mut first = None;
    let mut seen = Vec::new();
    let mut expanded: Option<Invocation> = None;
    let mut passed_over = None;
    loop {
        let current = expanded.as_ref().unwrap_or(invocation);
        let unclear = |what: String, is_endless| Unclear { what, is_endless };
        let found = find(current, passed_over);
        let Some((named, text)) = found.as_ref().and_then(|(named, path)| Some((named, text_of(path)?)))
        else {
            // A program, or nothing at all: the compiler behind the scripts must be one.
            let Some(mut expanded) = expanded else {
                return Ok(Expanded::Program(found.map(|(_, absolute)| absolute)));
            };
            let program = Path::new(expanded.argv.first().map_or(OsStr::new(""), OsString::as_os_str));
            let kind = driver_name::kind(&program.file_name().unwrap_or_default().to_string_lossy());
            if matches!(kind, ProgramKind::DriverC | ProgramKind::DriverCxx) {
                // Nobody else passes anything over.
                if let (Some(_), Some((_, absolute)), Some(program)) =
                    (passed_over, found, expanded.argv.first_mut())
                {
                    *program = absolute.into();
                }
                return Ok(Expanded::Script(expanded));
            }
            let script: PathBuf = first.unwrap_or_default();
            return Err(unclear(format!("{}: {}", script.display(), program.display()), false));
        };
        let absolute = current.cwd.join(named);
        let identity = identity(&absolute);
        if seen.contains(&identity) || seen.len() >= MOST_SCRIPTS {
            return Err(unclear(format!("{}: it leads back to itself", absolute.display()), true));
        }
        let script = Script { text: &text, name: named, invocation: current };
        let (next, is_farcc) =
            script.command().map_err(|what| unclear(format!("{}: {what}", absolute.display()), false))?;
        seen.push(identity);
        // A launcher below passes over what the launcher above has started.
        passed_over = if is_farcc { seen.first().copied() } else { None };
        first.get_or_insert(absolute);
        expanded = Some(next);
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> Identity {
    std::fs::metadata(path).map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()))
}

/// The program of a command: as `execve` is given it, and absolute.
fn find(invocation: &Invocation, passed_over: Option<Identity>) -> Option<(PathBuf, PathBuf)> {
    let is_wanted = |candidate: &Path| passed_over.is_none_or(|passed| identity(candidate) != passed);
    let named =
        find_named(invocation.argv.first()?, &invocation.cwd, invocation.variable("PATH"), &is_wanted)?;
    let absolute = invocation.cwd.join(&named);
    Some((named, absolute))
}

/// The text of a script; None for all other programs. One that is too long, or cannot be read, is cut short, and so not
/// understood.
fn text_of(program: &Path) -> Option<Vec<u8>> {
    let file = std::fs::File::open(program).ok()?;
    let mut text = vec![0; 2];
    (&file).read_exact(&mut text).ok().filter(|()| text == b"#!")?;
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut text);
    if read.is_err() || text.len() as u64 > MOST_BYTES {
        text.truncate(2);
    }
    Some(text)
}

/// One script, called by one command.
struct Script<'a> {
    text: &'a [u8],
    /// `$0`: the kernel hands the path on that `execve` was given (execve(2), "Interpreter scripts").
    name: &'a Path,
    invocation: &'a Invocation,
}

impl Script<'_> {
    /// The command that it executes, and whether farcc stands before that.
    ///
    /// # Errors
    /// The first thing that is not understood, with its line.
    fn command(&self) -> Result<(Invocation, bool), String> {
        self.check_environment()?;
        let mut lines = self.text.split(|&byte| byte == b'\n').zip(1_usize..);
        let (interpreter, _) = lines.next().unwrap_or_default();
        self.check_interpreter(interpreter)?;
        let asks_dirname = memchr::memmem::find(self.text, b"$(dirname").is_some();
        if asks_dirname && !self.is_systems_own(OsStr::new("dirname")) {
            return Err("another dirname than the system's".to_owned());
        }
        let is_empty = |line: &[u8]| line.is_empty() || line.starts_with(b"#");
        let mut lines =
            lines.map(|(line, number)| (trim_blanks(line), number)).filter(|(line, _)| !is_empty(line));
        loop {
            let (line, number) = lines.next().ok_or_else(|| "it executes nothing".to_owned())?;
            let located = |what: String| format!("line {number}: {what}");
            let words = words(line, self.name).map_err(located)?;
            if is_set(&words) {
                continue;
            }
            let command = self.last_command(&words).map_err(located)?;
            return match lines.next() {
                Some((line, number)) => {
                    Err(format!("line {number}: {}", String::from_utf8_lossy(first_word(line))))
                }
                None => Ok(command),
            };
        }
    }

    fn check_environment(&self) -> Result<(), String> {
        let steers = |name: &OsStr| {
            STEERING_VARIABLES.iter().any(|&steering| name == steering)
                // Functions that bash was handed stand in for programs.
                || name.as_bytes().starts_with(b"BASH_FUNC_")
        };
        let mut steering =
            self.invocation.env.iter().filter(|(name, value)| steers(name) && !value.is_empty());
        if let Some((name, _)) = steering.next() {
            return Err(format!("variable {}", name.to_string_lossy()));
        }
        // Whether a shell hands it on as it is, or without the dots, depends on the shell.
        let has_dots = |pwd: &&OsStr| {
            pwd.as_bytes().split(|&byte| byte == b'/').skip(1).any(|part| matches!(part, b"" | b"." | b".."))
        };
        match self.invocation.variable("PWD").filter(|pwd| *pwd != "/").filter(has_dots) {
            Some(_) => Err("variable PWD".to_owned()),
            None => Ok(()),
        }
    }

    /// `#!/bin/sh`, `#!/bin/bash -e`, `#!/usr/bin/env bash`: all that stands behind the program is one argument.
    fn check_interpreter(&self, line: &[u8]) -> Result<(), String> {
        let unknown = || String::from_utf8_lossy(line).into_owned();
        let line = line.strip_prefix(b"#!").ok_or_else(unknown)?;
        let line = trim_blanks(line);
        let end = line.iter().position(is_blank).unwrap_or(line.len());
        let (program, argument) = (Path::new(OsStr::from_bytes(&line[..end])), trim_blanks(&line[end..]));
        let name = program.file_name().unwrap_or_default();
        let is_shell = |name: &OsStr| SHELLS.iter().any(|&shell| name == shell);
        let is_understood = if name == "env" {
            let argument = OsStr::from_bytes(argument);
            is_shell(argument) && self.is_systems_own(argument)
        } else {
            is_shell(name) && (argument.is_empty() || is_shell_option(argument))
        };
        if is_understood && is_in_system(program) { Ok(()) } else { Err(unknown()) }
    }

    /// Whether the program that `name` means is the system's: what else goes by the name may do anything.
    fn is_systems_own(&self, name: &OsStr) -> bool {
        let path = self.invocation.variable("PATH");
        find_named(name, &self.invocation.cwd, path, &|_| true).is_some_and(|found| is_in_system(&found))
    }

    fn last_command(&self, words: &[Word]) -> Result<(Invocation, bool), String> {
        let mut env = environment_of_shell(self.invocation);
        let mut words = words;
        while let [Word::Text { text, bare }, rest @ ..] = words
            && let Some((name, value)) = assignment(&text[..*bare], text)
        {
            assign(&mut env, name, value)?;
            words = rest;
        }
        if let [Word::Text { text, .. }, rest @ ..] = words
            && text == b"exec"
        {
            words = rest;
        }
        if let [Word::Text { text, .. }, rest @ ..] = words
            && (text == b"env" && self.is_systems_own(OsStr::new("env")) || text == b"/usr/bin/env")
        {
            words = rest;
            while let [Word::Text { text, .. }, rest @ ..] = words
                && let Some((name, value)) = assignment(text, text)
            {
                assign(&mut env, name, value)?;
                words = rest;
            }
        }
        let mut is_farcc = false;
        while let [Word::Text { text, .. }, rest @ ..] = words
            && let name = Path::new(OsStr::from_bytes(text)).file_name().unwrap_or_default()
            && LAUNCHERS.iter().any(|&launcher| name == launcher)
        {
            is_farcc = name == "farcc";
            let mut steering = CCACHE_VARIABLES.iter().filter(|name| env_value(&env, name).is_some());
            if let Some(steering) = steering.next().filter(|_| name == "ccache") {
                return Err(format!("ccache with variable {steering}"));
            }
            words = rest;
        }
        let Some((Word::Arguments, words)) = words.split_last() else {
            return Err("the last word is not \"$@\"".to_owned());
        };
        let mut argv = Vec::with_capacity(words.len() + self.invocation.argv.len());
        for word in words {
            let Word::Text { text, .. } = word else { return Err("more than one \"$@\"".to_owned()) };
            argv.push(OsString::from_vec(text.clone()));
        }
        let is_program = |program: &OsString| {
            !(program.is_empty()
                || program.as_bytes().starts_with(b"-")
                || program.as_bytes().contains(&b'='))
        };
        if !argv.first().is_some_and(is_program) {
            return Err(argv.first().map_or("\"$@\"".into(), |word| word.to_string_lossy().into_owned()));
        }
        argv.extend(self.invocation.argv.iter().skip(1).cloned());
        Ok((Invocation { argv, env, ..self.invocation.clone() }, is_farcc))
    }
}

/// `set -e`, which changes nothing in a script that has one command.
fn is_set(words: &[Word]) -> bool {
    let mut texts = words.iter().map(|word| match word {
        Word::Text { text, .. } => text.as_slice(),
        Word::Arguments => b"\"$@\"",
    });
    words.len() > 1 && texts.next() == Some(b"set") && texts.all(is_shell_option)
}

fn is_shell_option(word: &[u8]) -> bool {
    SHELL_OPTIONS.iter().any(|option| option.as_bytes() == word)
}

fn is_in_system(program: &Path) -> bool {
    paths::is_system(&paths::lexically_normal(program))
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(is_blank).next().unwrap_or_default()
}

/// The environment that a shell hands on: `PWD` is set, and leads to the working directory (POSIX, Shell Command
/// Language, 2.5.3).
fn environment_of_shell(invocation: &Invocation) -> Vec<(OsString, OsString)> {
    let mut env = invocation.env.clone();
    let named = invocation.variable("PWD").map(Path::new).filter(|pwd| pwd.is_absolute());
    if named.is_none_or(|pwd| identity(pwd) != identity(&invocation.cwd)) {
        set(&mut env, "PWD".into(), invocation.cwd.clone().into());
    }
    env
}

/// Name and value of a `NAME=VALUE` whose name and `=` stand in `start`.
fn assignment<'a>(start: &[u8], word: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let equals = start.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (word.get(..equals)?, word.get(equals + 1..)?);
    is_name(name).then_some((name, value))
}

fn assign(env: &mut Vec<(OsString, OsString)>, name: &[u8], value: &[u8]) -> Result<(), String> {
    let name = OsStr::from_bytes(name);
    let lists = [SHELL_VARIABLES, STEERING_VARIABLES];
    let is_refused = lists.iter().any(|list| list.iter().any(|&refused| name == refused))
        || [&b"BASH"[..], b"FARCC_"].iter().any(|prefix| name.as_bytes().starts_with(prefix));
    if is_refused {
        return Err(format!("{}=", name.to_string_lossy()));
    }
    set(env, name.to_owned(), OsStr::from_bytes(value).to_owned());
    Ok(())
}

fn set(env: &mut Vec<(OsString, OsString)>, name: OsString, value: OsString) {
    env.retain(|(known, _)| *known != name);
    env.push((name, value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::invocation::tests::invocation;
    use std::os::unix::fs::PermissionsExt;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            Place(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn script(&self, path: &str, text: &str) {
            let path = self.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        /// What `line` becomes, with `first` before the system's directories in `PATH`.
        fn resolve(&self, first: &str, line: &str) -> (Arc<Invocation>, Task) {
            let mut invocation = invocation(self.path(), line);
            let path = format!("{}/{first}:/usr/bin:/bin", self.path().display());
            set(&mut invocation.env, "PATH".into(), path.into());
            resolve(&Arc::new(invocation))
        }

        /// The same for one script, called as `./my-gcc -c a.c`: the words it becomes, or why it does not.
        fn check(&self, text: &str) -> String {
            self.script("my-gcc", text);
            let (resolved, task) = self.resolve("", "./my-gcc -c a.c");
            match task {
                Task::Compile(_) => resolved.argv.join(OsStr::new(" ")).into_string().unwrap(),
                Task::Local(reason) => reason.to_string().replace(self.path().to_str().unwrap(), "SPACE"),
                other => format!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_scripts_become() {
        let place = Place::new();
        place.script("bin/gcc", "");
        for (text, expected) in [
            ("#!/bin/sh\nexec gcc \"$@\"", "gcc -c a.c"),
            ("#!/bin/sh\nexec gcc -DX -I \"a b\" '-DY=\"z\"' \"$@\"\n", "gcc -DX -I a b -DY=\"z\" -c a.c"),
            ("#! /bin/bash -e\n\n# About: $x `y`\n  set -eu\n\tgcc\t-DX \"$@\"  \n\n#\n", "gcc -DX -c a.c"),
            ("#!/usr/bin/env bash\nexec /usr/bin/gcc ${1+\"$@\"}\n", "/usr/bin/gcc -c a.c"),
            ("#!/usr/bin/env sh\nexec $(dirname \"$0\")/bin/gcc \"$@\"\n", "./bin/gcc -c a.c"),
            ("#!/bin/sh\nexec \"$(dirname \"$0\")\"/bin/gcc \"$@\"\n", "./bin/gcc -c a.c"),
            ("#!/bin/sh\nexec \"$(dirname -- \"$0\")/bin/gcc\" \"$@\"\n", "./bin/gcc -c a.c"),
            ("#!/bin/sh\nexec ${0%/*}/bin/gcc -B${0%/*}/lib \"$@\"\n", "local unsupported"),
            ("#!/bin/sh\nexec \"${0%/*}/bin/gcc\" \"$@\"\n", "./bin/gcc -c a.c"),
            ("#!/bin/sh\nexec ccache gcc \"$@\"\n", "gcc -c a.c"),
            ("#!/bin/sh\nexec farcc distcc /usr/bin/gcc -g \"$@\"\n", "/usr/bin/gcc -g -c a.c"),
            ("#!/bin/sh\nexec env ccache gcc \"$@\"\n", "gcc -c a.c"),
        ] {
            let found = place.check(text);
            if expected == "local unsupported" {
                assert!(found.starts_with("unsupported_flag: -B./lib"), "{text}: {found}");
            } else {
                assert_eq!(found, expected, "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let place = Place::new();
        for (text, expected) in [
            ("#!/bin/sh\nexec gcc $EXTRA \"$@\"\n", "line 2: $EXTRA"),
            ("#!/bin/sh\nexec gcc \"$EXTRA\" \"$@\"\n", "line 2: \"$EXTRA\""),
            ("#!/bin/sh\nexec gcc `cat flags` \"$@\"\n", "line 2: `cat"),
            ("#!/bin/sh\nexec gcc -I~/x \"$@\"\n", "line 2: -I~/x"),
            ("#!/bin/sh\nexec gcc *.c \"$@\"\n", "line 2: *.c"),
            ("#!/bin/sh\nexec gcc {-DA,-DB} \"$@\"\n", "line 2: {-DA,-DB}"),
            ("#!/bin/sh\nexec gcc \\\n -DX \"$@\"\n", "line 2: \\"),
            ("#!/bin/sh\nexec gcc $@\n", "line 2: $@"),
            ("#!/bin/sh\nexec gcc \"$*\"\n", "line 2: \"$*\""),
            ("#!/bin/sh\nexec gcc -DX\n", "line 2: the last word is not \"$@\""),
            ("#!/bin/sh\nexec gcc \"$@\" -DX\n", "line 2: the last word is not \"$@\""),
            ("#!/bin/sh\nexec gcc \"$@\" \"$@\"\n", "line 2: more than one \"$@\""),
            ("#!/bin/sh\nexec gcc \"$@\"; echo x\n", "line 2: \"$@\";"),
            ("#!/bin/sh\nexec gcc \"$@\" && x\n", "line 2: &&"),
            ("#!/bin/sh\nexec gcc \"$@\" 2>log\n", "line 2: 2>log"),
            ("#!/bin/sh\nexec gcc \"$@\"x\n", "line 2: \"$@\"x"),
            ("#!/bin/sh\ngcc \"$@\"\necho done\n", "line 3: echo"),
            ("#!/bin/sh\nif [ -f x ]; then\n", "line 2: ["),
            ("#!/bin/sh\ncase \"$1\" in\n", "line 2: \"$1\""),
            ("#!/bin/sh\ncd /x\nexec gcc \"$@\"\n", "line 2: the last word is not \"$@\""),
            ("#!/bin/sh\nset -x\nexec gcc \"$@\"\n", "line 2: the last word is not \"$@\""),
            ("#!/bin/sh\nexec -a cc gcc \"$@\"\n", "line 2: -a"),
            (
                "#!/bin/sh\nCCACHE_PREFIX=x exec ccache gcc \"$@\"\n",
                "line 2: ccache with variable CCACHE_PREFIX",
            ),
            ("#!/bin/sh\nexec ccache -s \"$@\"\n", "line 2: -s"),
            ("#!/bin/sh\nexec sccache gcc \"$@\"\n", "sccache"),
            ("#!/bin/sh\nexec gcc ${1:+\"$@\"}\n", "line 2: ${1:+\"$@\"}"),
            ("#!/bin/sh\nexec env -i gcc \"$@\"\n", "line 2: -i"),
            ("#!/bin/sh\nexec \"$@\"\n", "line 2: \"$@\""),
            ("#!/bin/sh\nPATH=/x exec gcc \"$@\"\n", "line 2: PATH="),
            ("#!/bin/sh\nexec env FARCC_DISABLE=1 gcc \"$@\"\n", "line 2: FARCC_DISABLE="),
            ("#!/bin/sh\n\"A\"=b exec gcc \"$@\"\n", "line 2: A=b"),
            ("#!/bin/sh\nexec gcc \"$@\"\r\n", "line 2: \"$@\"\r"),
            ("#!/bin/sh\r\nexec gcc \"$@\"\n", "#!/bin/sh\r"),
            ("#!/bin/sh -x\nexec gcc \"$@\"\n", "#!/bin/sh -x"),
            ("#!/usr/bin/env python3\nexec gcc \"$@\"\n", "#!/usr/bin/env python3"),
            ("#!./sh\nexec gcc \"$@\"\n", "#!./sh"),
            ("#!/bin/sh\n", "it executes nothing"),
            ("#!/bin/sh\nexec python3 \"$@\"\n", "python3"),
            ("#!/bin/sh\nexec ./my-gcc \"$@\"\n", "it leads back to itself"),
            ("#!/bin/sh\nexec farcc ./my-gcc \"$@\"\n", "it leads back to itself"),
        ] {
            assert_eq!(place.check(text), format!("wrapper_script: SPACE/./my-gcc: {expected}"), "{text}");
        }
        // Longer than anybody reads.
        let long = format!("#!/bin/sh\n{}exec gcc \"$@\"\n", "# x\n".repeat(40_000));
        assert_eq!(place.check(&long), "wrapper_script: SPACE/./my-gcc: #!");
    }

    #[test]
    fn variables_are_those_that_the_compiler_gets() {
        let place = Place::new();
        place.script("my-gcc", "#!/bin/sh\nA=1 B='x y' exec env A=2 C=\"$(dirname \"$0\")\" gcc \"$@\"\n");
        let (resolved, _) = place.resolve("", "./my-gcc -c a.c");
        let value = |name| resolved.variable(name).map(|value| value.to_str().unwrap());
        assert_eq!([value("A"), value("B"), value("C")], [Some("2"), Some("x y"), Some(".")]);
        assert_eq!(value("PWD"), place.path().to_str());
        for (name, value) in [("BASH_ENV", "x"), ("BASH_FUNC_gcc%%", "() { :; }"), ("PWD", "/a/../b")] {
            let mut steered = invocation(place.path(), "./my-gcc -c a.c");
            set(&mut steered.env, name.into(), value.into());
            let (_, task) = resolve(&Arc::new(steered));
            assert!(matches!(task, Task::Local(Reason::WrapperScript(_))), "{name}: {task:?}");
        }
    }

    #[test]
    fn programs_of_the_system_are_the_systems_own() {
        let place = Place::new();
        for name in ["dirname", "env", "sh"] {
            place.script(&format!("bin/{name}"), "");
        }
        for text in [
            "#!/bin/sh\nexec \"$(dirname \"$0\")/gcc\" \"$@\"\n",
            "#!/bin/sh\nexec env gcc \"$@\"\n",
            "#!/usr/bin/env sh\nexec gcc \"$@\"\n",
        ] {
            place.script("my-gcc", text);
            let (_, task) = place.resolve("bin", "./my-gcc -c a.c");
            assert!(matches!(task, Task::Local(Reason::WrapperScript(_))), "{text}: {task:?}");
        }
    }

    #[test]
    fn scripts_in_a_row() {
        let place = Place::new();
        place.script("bin/gcc", "#!/bin/sh\nexec farcc gcc -DA \"$@\"\n");
        let (resolved, task) = place.resolve("bin", "gcc -c a.c");
        // As the launcher below does, which passes over what the one above has started.
        assert_eq!(resolved.argv, ["/usr/bin/gcc", "-DA", "-c", "a.c"]);
        assert!(matches!(task, Task::Compile(compile) if compile.driver == Path::new("/usr/bin/gcc")));
        place.script("tool", "#!/bin/sh\nexec \"${0%/*}/second\" -D1 \"$@\"\n");
        place.script("second", "#!/bin/sh\nexec g++ -D2 \"$@\"\n");
        let (resolved, task) = place.resolve("", "./tool -c a.c");
        assert_eq!(resolved.argv, ["g++", "-D2", "-D1", "-c", "a.c"]);
        assert!(matches!(task, Task::Compile(compile) if compile.language.name() == "c++"));
        place.script("second", "#!/bin/sh\nexec ./tool \"$@\"\n");
        let (resolved, task) = place.resolve("", "./tool -c a.c");
        assert_eq!(resolved.argv, ["./tool", "-c", "a.c"]);
        assert!(matches!(task, Task::Local(Reason::WrapperScript(_))), "{task:?}");
        for number in 0..20 {
            place.script(&format!("w{number}"), &format!("#!/bin/sh\nexec ./w{} \"$@\"\n", number + 1));
        }
        place.script("w20", "#!/bin/sh\nexec gcc \"$@\"\n");
        let (_, task) = place.resolve("", "./w0 -c a.c");
        assert!(matches!(task, Task::Local(Reason::WrapperScript(_))), "{task:?}");
        let (_, task) = place.resolve("", "./w15 -c a.c");
        assert!(matches!(task, Task::Compile(_)), "{task:?}");
    }

    #[test]
    fn other_programs_are_left_alone() {
        let place = Place::new();
        place.script("configure", "#!/bin/sh\necho hello\n");
        let (_, task) = place.resolve("", "./configure");
        assert!(matches!(task, Task::Other));
        place.script("ar", "#!/bin/sh\nexec gcc \"$@\"\n");
        let (_, task) = place.resolve("", "./ar rc a.a");
        assert!(matches!(task, Task::Archive(_)));
        place.script("g++", "#!/bin/sh\nexec g++ $X \"$@\"\n");
        let (_, task) = place.resolve("", "./g++ a.o -o a");
        assert!(matches!(task, Task::Link(_)));
    }
}

//! Asks a compiler driver about itself and reads what it prints.
//! Knows nothing of what the programs behind it consist of, nor of how long an answer holds.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use crate::compiler::appended_rules;
use crate::preprocessor::Family;
use crate::preprocessor::Language;
use crate::process::Program;
use crate::reason::Reason;

/// How long a compiler may take to tell about itself.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Variables that steer what a compile finds or prints, but are no part of the compiler: the search path that
/// they add is added per command.
const REMOVED_VARIABLES: &[&str] = &[
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "OBJC_INCLUDE_PATH",
    "OBJCPLUS_INCLUDE_PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_MESSAGES",
    "LC_CTYPE",
];

/// Runs a program that is to tell about itself.
///
/// # Errors
/// [`Reason::ToolchainProbe`]: it did not run, or failed.
pub(super) async fn ask(program: Program<'_>) -> Result<Output, Reason> {
    let failed = |why: &str| Reason::ToolchainProbe(format!("ask {}: {why}", program.path.display()));
    let output = program.output(TIMEOUT).await.map_err(|error| failed(&error.to_string()))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(failed(&first_error(&output.stderr))),
    }
}

/// A driver with the flags and surroundings in which it is asked.
pub(super) struct Driver<'a> {
    pub(super) path: &'a Path,
    pub(super) language: Language,
    pub(super) flags: Vec<OsString>,
    pub(super) cwd: &'a Path,
    pub(super) env: Vec<(OsString, OsString)>,
}

/// What a driver told about itself.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) family: Family,
    pub(super) version: String,
    pub(super) target: String,
    /// The output of `-dM -E`.
    pub(super) predefined: String,
    /// Built-in directories of `#include "…"` and of `#include <…>`.
    pub(super) quote: Vec<PathBuf>,
    pub(super) angle: Vec<PathBuf>,
    /// Built-in directories that do not exist.
    pub(super) absent: Vec<PathBuf>,
    /// Programs that a compile runs, as the driver names them: a path, or a name to be found in `PATH`.
    pub(super) programs: Vec<OsString>,
    /// Specs and configuration files that the driver read.
    pub(super) flag_files: Vec<PathBuf>,
    /// Files that its flags bring in by default.
    pub(super) files: Vec<PathBuf>,
    /// Directories whose content decides what the driver chooses.
    pub(super) watched: Vec<PathBuf>,
    /// What stands for `-march=native` and its kin: the flags that say the same on every machine.
    pub(super) native: Vec<String>,
}

/// The environment in which a compiler is asked: the command's own, without what only commands need, and in
/// English.
pub(super) fn environment(env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut env: Vec<_> = env
        .iter()
        .filter(|(name, _)| !REMOVED_VARIABLES.iter().any(|&removed| name == removed))
        // Nothing that farcc asks may stand among the rules.
        .filter(|(name, _)| !appended_rules::VARIABLES.iter().any(|&removed| name == removed))
        .cloned()
        .collect();
    env.push(("LC_ALL".into(), "C".into()));
    // Should the driver be the launcher under another name, it must not come back to the daemon.
    env.push(("FARCC_DISABLE".into(), "1".into()));
    env
}

impl Driver<'_> {
    /// Runs the driver with its flags, then `arguments`.
    pub(super) async fn run(&self, arguments: &[&OsStr]) -> Result<Output, Reason> {
        let mut args = self.flags.clone();
        args.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let program = Program { path: self.path, args, env: self.env.clone(), cwd: self.cwd };
        program
            .output(TIMEOUT)
            .await
            .map_err(|error| Reason::ToolchainProbe(format!("run {}: {error}", self.path.display())))
    }

    /// The value of `-x` for the language.
    pub(super) fn language_name(&self) -> &'static OsStr {
        OsStr::new(self.language.name())
    }

    /// Asks everything.
    pub(super) async fn probe(&self) -> Result<Probe, Reason> {
        let language = self.language_name();
        let [null, x] = ["/dev/null", "-x"].map(OsStr::new);
        let describe = ["-v", "-E", "-dM"].map(OsStr::new);
        let describe = [&describe[..], &[x, language, null]].concat();
        let plan = ["-###", "-c", "-o"].map(OsStr::new);
        let plan = [&plan[..], &[null, x, language, null]].concat();
        let (description, plan) = tokio::join!(self.run(&describe), self.run(&plan));
        let (description, plan) = (description?, plan?);
        for output in [&description, &plan] {
            if !output.status.success() {
                return Err(self.refused(&output.stderr));
            }
        }
        self.read(&description, &plan.stderr)
    }

    fn refused(&self, stderr: &[u8]) -> Reason {
        let text = String::from_utf8_lossy(stderr);
        let error =
            text.lines().find(|line| line.contains("error")).or(text.lines().last()).unwrap_or_default();
        Reason::ToolchainProbe(format!("ask {}: {}", self.path.display(), error.trim()))
    }

    fn read(&self, description: &Output, plan: &[u8]) -> Result<Probe, Reason> {
        let missing =
            |what| Reason::ToolchainProbe(format!("ask {}: it tells no {what}", self.path.display()));
        let predefined =
            String::from_utf8(description.stdout.clone()).map_err(|_| missing("macros in UTF-8"))?;
        let is_defined = |name: &str| {
            let line = format!("#define {name} ");
            predefined.lines().any(|defined| defined.starts_with(&line))
        };
        if !is_defined("__GNUC__") {
            return Err(missing("`__GNUC__`"));
        }
        let family = if is_defined("__clang__") { Family::Clang } else { Family::Gcc };
        let mut probe = Probe {
            family,
            version: String::new(),
            target: String::new(),
            predefined,
            quote: Vec::new(),
            angle: Vec::new(),
            absent: Vec::new(),
            programs: Vec::new(),
            flag_files: Vec::new(),
            files: Vec::new(),
            watched: Vec::new(),
            native: Vec::new(),
        };
        probe.read_description(&description.stderr)?;
        probe.read_plan(plan);
        match (&*probe.version, &*probe.target, probe.programs.is_empty()) {
            ("", _, _) => Err(missing("version")),
            (_, "", _) => Err(missing("target")),
            (_, _, true) => Err(missing("programs")),
            _ => Ok(probe),
        }
    }
}

impl Probe {
    /// What `-v` prints.
    fn read_description(&mut self, stderr: &[u8]) -> Result<(), Reason> {
        let mut list: Option<&mut Vec<PathBuf>> = None;
        let mut has_list = false;
        for line in stderr.split(|&byte| byte == b'\n') {
            let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let after = |prefix: &str| line.strip_prefix(prefix.as_bytes());
            if line == b"#include \"...\" search starts here:" {
                list = Some(&mut self.quote);
            } else if line == b"#include <...> search starts here:" {
                list = Some(&mut self.angle);
            } else if line == b"End of search list." {
                (list, has_list) = (None, true);
            } else if let (Some(list), Some(directory)) = (&mut list, after(" ")) {
                if directory.ends_with(b" (framework directory)") || directory.ends_with(b" (headermap)") {
                    return Err(Reason::ToolchainProbe("read the search path: it has frameworks".to_owned()));
                }
                list.push(path(directory));
            } else if let Some(directory) = after("ignoring nonexistent directory \"") {
                self.absent.extend(directory.strip_suffix(b"\"").map(path));
            } else if let Some(target) = after("Target: ") {
                self.target = String::from_utf8_lossy(target).into_owned();
            } else if let Some(file) = after("Reading specs from ").or(after("Configuration file: ")) {
                self.flag_files.push(path(file));
            } else if let Some(installation) = after("Selected GCC installation: ") {
                // A newer GCC beside this one would be chosen instead.
                self.watched.extend(path(installation).parent().map(Path::to_owned));
            } else if self.version.is_empty() {
                let text = String::from_utf8_lossy(line);
                if text.starts_with("gcc version ") || text.contains("clang version ") {
                    self.version = text.trim().to_owned();
                }
            }
        }
        if has_list {
            Ok(())
        } else {
            Err(Reason::ToolchainProbe("read the search path: none is printed".to_owned()))
        }
    }

    /// What `-###` prints: each command on a line that begins with a blank.
    fn read_plan(&mut self, stderr: &[u8]) {
        for line in stderr.split(|&byte| byte == b'\n') {
            let Some(command) = line.strip_prefix(b" ").filter(|command| !command.starts_with(b"(")) else {
                continue;
            };
            let words = words(command);
            if self.programs.is_empty() {
                self.native = match self.family {
                    Family::Gcc => gcc_native(&words),
                    Family::Clang => clang_native(&words),
                };
            }
            let mut words = words.into_iter();
            self.programs.extend(words.next());
            for word in words {
                if let Some(file) = word.as_bytes().strip_prefix(b"-fsanitize-system-ignorelist=") {
                    self.files.push(OsStr::from_bytes(file).into());
                }
            }
        }
    }
}

/// GCC's driver puts what it found out about this machine right behind the source, and `-quiet` after it.
fn gcc_native(words: &[OsString]) -> Vec<String> {
    let after = words.iter().skip_while(|word| *word != "/dev/null").skip(1);
    after.take_while(|word| *word != "-quiet").map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Clang's driver names the processor, and each feature of it, there or not, for its own compiler.
fn clang_native(words: &[OsString]) -> Vec<String> {
    let mut native = Vec::new();
    for pair in words.windows(2) {
        let value = pair[1].to_string_lossy();
        match pair[0].as_bytes() {
            b"-target-cpu" => native.push(format!("-march={value}")),
            b"-tune-cpu" => native.push(format!("-mtune={value}")),
            b"-target-feature" => {
                native.extend(["-Xclang", "-target-feature", "-Xclang", &value].map(str::to_owned));
            }
            _ => {}
        }
    }
    native
}

/// The first line that tells of an error, else the last line.
pub(super) fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.lines().find(|line| line.contains("error:")).or(text.lines().last());
    error.unwrap_or_default().trim().to_owned()
}

/// The words of a command as drivers print it: quoted by `"` where needed, with backslash before `"`, `\` and
/// `$`.
pub(super) fn words(command: &[u8]) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut in_quotes = false;
    let mut bytes = command.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b' ' if !in_quotes => words.extend(word.take().map(OsString::from_vec)),
            b'"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            b'\\' if in_quotes => word.get_or_insert_default().extend(bytes.next()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(OsString::from_vec));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_commands_are_read() {
        assert_eq!(
            words(br#" "/usr/bin/a b" "-cc1" "-D" "A=\"x y\"" plain"#),
            ["/usr/bin/a b", "-cc1", "-D", "A=\"x y\"", "plain"]
        );
        assert_eq!(words(b"as --64 -o x.o"), ["as", "--64", "-o", "x.o"]);
        assert!(words(b"").is_empty());
    }

    #[test]
    fn the_environment_is_the_commands_own() {
        let env = [("PATH", "/x"), ("CPATH", "/y"), ("LC_ALL", "de_DE"), ("COMPILER_PATH", "/z")];
        let env: Vec<(OsString, OsString)> = env.map(|(name, value)| (name.into(), value.into())).to_vec();
        let names: Vec<_> = environment(&env).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["PATH", "COMPILER_PATH", "LC_ALL", "FARCC_DISABLE"]);
    }
}

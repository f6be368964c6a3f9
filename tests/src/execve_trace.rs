//! Watches which programs a command starts, itself and everything below it, daemons included.
//! Knows nothing of builds; knows which programs compile.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use crate::prerequisites;
use crate::space::Finished;
use crate::space::TestSpace;
use crate::space::run;

/// One successful `execve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The program's path as the kernel got it.
    pub program: PathBuf,
    /// Its arguments, argv\[0\] included; strace's escapes are left as they are.
    pub argv: Vec<String>,
}

/// What kind of work a started program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A compiler, its assembler, or a driver that was told to compile.
    Compile,
    /// A compiler that answers a question about itself: its version, its built-in macros and functions.
    Question,
    /// Anything else: make, the linker, farcc, a driver that only links.
    Other,
}

impl Started {
    /// What this program was started for.
    pub fn work(&self) -> Work {
        let name =
            self.program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // A link with a compiler's name, which leads to the launcher.
        let real = std::fs::canonicalize(&self.program);
        if real.is_ok_and(|real| real.file_name().is_some_and(|name| name == "farcc")) {
            return Work::Other;
        }
        let stage =
            matches!(name.as_str(), "cc1" | "cc1plus" | "cc1obj" | "lto1" | "as") || name.ends_with("-as");
        let driver = !name.starts_with("farcc")
            && ["cc", "c++", "gcc", "g++", "clang", "clang++"].contains(&family(&name));
        if !stage && !driver {
            return Work::Other;
        }
        let has = |flags: &[&str]| self.argv.iter().skip(1).any(|word| flags.contains(&word.as_str()));
        // The built-in macros and search path of a compiler come from preprocessing nothing at all; what
        // `__has_builtin` and its kin are worth, from preprocessing a file of farcc's own.
        let empty_input = has(&["/dev/null", "-"]) && has(&["-E", "-dM", "-M", "-fsyntax-only"]);
        let own_questions = has(&["-E"]) && self.argv.iter().any(|word| is_question_file(word));
        if empty_input
            || own_questions
            || has(&["-###", "-dumpversion", "-dumpmachine", "--version", "-dumpfullversion"])
        {
            return Work::Question;
        }
        if self.argv.iter().any(|word| word.starts_with("-print-") || word.starts_with("--print-")) {
            return Work::Question;
        }
        let is_source = |word: &String| {
            let suffix = word.rsplit_once('.').map_or("", |(_, suffix)| suffix);
            ["c", "cc", "cpp", "cxx", "C", "h", "i", "ii", "s", "S", "m", "mm"].contains(&suffix)
        };
        let compiles = stage || has(&["-c", "-S", "-E", "-cc1", "-cc1as"]) || self.argv.iter().any(is_source);
        match (compiles, self.argv.len()) {
            (true, _) => Work::Compile,
            (false, ..=2) => Work::Question,
            (false, _) => Work::Other,
        }
    }
}

/// Whether this is a file in which farcc asks a compiler about itself. It lies in the daemon's state, where no
/// build has sources.
fn is_question_file(word: &str) -> bool {
    word.rsplit_once("/client/farcc/state/toolchains/")
        .is_some_and(|(_, name)| name.starts_with("questions") && name.ends_with(".h"))
}

/// `gcc` of `x86_64-linux-gnu-gcc-12`.
fn family(name: &str) -> &str {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    name.rsplit('-').next().unwrap_or(name)
}

/// Everything that one command started.
pub struct Trace {
    /// How the command itself ended.
    pub finished: Finished,
    /// In the order in which strace saw them.
    pub started: Vec<Started>,
}

impl Trace {
    /// Those that did a certain kind of work.
    pub fn of(&self, work: Work) -> Vec<&Started> {
        self.started.iter().filter(|started| started.work() == work).collect()
    }

    /// No compiler ran on any source.
    ///
    /// # Panics
    /// Otherwise, with the first few that did.
    #[track_caller]
    pub fn assert_no_compiler_ran(&self) {
        assert!(!self.started.is_empty(), "strace saw nothing");
        let compilers = self.of(Work::Compile);
        let lines: Vec<String> = compilers.iter().take(5).map(|started| started.argv.join(" ")).collect();
        assert!(compilers.is_empty(), "{} compiler processes ran:\n{}", compilers.len(), lines.join("\n"));
    }
}

/// Runs a shell script in `directory` (relative to the workspace) under strace, which follows every process and
/// thus waits for each: a daemon that the script starts must be stopped by the script.
pub fn trace(space: &TestSpace, directory: &str, script: &str) -> Trace {
    prerequisites::require(&["strace"]);
    let log = space.root().join("execve.trace");
    let mut command = space.command("strace");
    // seccomp-bpf: only the traced calls stop a process, so the build is hardly slower. -v: whole argument lists.
    command.args([
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-v",
        "-s",
        "4096",
        "-e",
        "trace=execve,execveat",
        "-e",
        "signal=none",
    ]);
    command.arg("-o").arg(&log).args(["sh", "-c", script]);
    command.current_dir(space.workspace().join(directory));
    let finished = run(&mut command);
    let started = read_log(&log);
    Trace { finished, started }
}

fn read_log(log: &Path) -> Vec<Started> {
    let text = std::fs::read(log).unwrap_or_else(|error| panic!("failed to read {}: {error}", log.display()));
    parse_log(&String::from_utf8_lossy(&text))
}

/// The successful calls in strace's output. A call that was interrupted by another process's line is written in
/// two parts, `<unfinished ...>` and `resumed`.
fn parse_log(text: &str) -> Vec<Started> {
    let mut started = Vec::new();
    let mut unfinished: HashMap<&str, Started> = HashMap::new();
    for line in text.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("execve") {
            let Some(call) = parse_call(rest) else { continue };
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(process, call);
            } else if rest.ends_with("= 0") {
                started.push(call);
            }
        } else if rest.starts_with("<... execve")
            && let Some(call) = unfinished.remove(process)
            && rest.ends_with("= 0")
        {
            started.push(call);
        }
    }
    // Whatever never came back replaced its process while the trace ended: count it rather than miss it.
    started.extend(unfinished.into_values());
    started
}

/// `execve("/bin/sh", ["sh", "-c"], …`, or the same with a directory descriptor before it.
fn parse_call(text: &str) -> Option<Started> {
    let (_, rest) = text.split_once('"')?;
    let (program, rest) = rest.split_once("\", [")?;
    let mut argv = Vec::new();
    let mut rest = rest;
    while let Some(word) = rest.strip_prefix('"') {
        let end = closing_quote(word)?;
        argv.push(word[..end].to_owned());
        // "..." follows a word that was cut.
        rest = word[end + 1..].trim_start_matches('.').trim_start_matches(", ");
    }
    Some(Started { program: program.into(), argv })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(program: &str, words: &str) -> Work {
        Started { program: program.into(), argv: words.split(' ').map(str::to_owned).collect() }.work()
    }

    #[test]
    fn programs_are_told_apart() {
        assert_eq!(work("/usr/lib/gcc/x/12/cc1plus", "cc1plus -quiet a.cc -o /tmp/a.s"), Work::Compile);
        assert_eq!(work("/usr/lib/gcc/x/12/cc1", "cc1 -E -quiet - -dM"), Work::Question);
        assert_eq!(work("/usr/bin/gcc", "gcc -M -x c /dev/null"), Work::Question);
        let questions = "/x/client/farcc/state/toolchains/questionsAb1.h";
        assert_eq!(work("/usr/bin/gcc", &format!("gcc -E -P -w -x c {questions}")), Work::Question);
        assert_eq!(work("/usr/bin/gcc", &format!("gcc -c -x c {questions}")), Work::Compile);
        assert_eq!(work("/usr/bin/gcc", "gcc -E -P /x/client/workspace/questions.h"), Work::Compile);
        assert_eq!(work("/usr/bin/as", "as -o a.o a.s"), Work::Compile);
        assert_eq!(work("/usr/bin/x86_64-linux-gnu-gcc-12", "gcc -c a.c"), Work::Compile);
        assert_eq!(work("/usr/bin/clang-14", "clang -c a.c"), Work::Compile);
        assert_eq!(work("/usr/bin/gcc", "gcc a.o -o a"), Work::Other);
        assert_eq!(work("/usr/bin/gcc", "gcc a.o b.c -o a"), Work::Compile);
        assert_eq!(work("/usr/bin/gcc", "gcc -print-prog-name=as"), Work::Question);
        assert_eq!(work("/usr/bin/gcc", "gcc -v"), Work::Question);
        assert_eq!(work("/x/farcc", "farcc gcc -c a.c"), Work::Other);
        assert_eq!(work("/usr/bin/ccache", "ccache gcc -c a.c"), Work::Other);
        assert_eq!(work("/usr/bin/ld", "ld a.o"), Work::Other);
    }

    #[test]
    fn calls_in_two_parts_are_joined_and_failures_dropped() {
        let log = r#"7 execve("/bin/sh", ["sh", "-c", "say \"x\", [y]"], ["A=1"]) = 0
8 execve("/usr/bin/as", ["as", "a.s"], ["A=1"] <unfinished ...>
9 execve("/sbin/cc", ["cc"], ["A=1"]) = -1 ENOENT (No such file or directory)
8 <... execve resumed>)             = 0
9 execve("/usr/sbin/cc", ["cc"], ["A=1"] <unfinished ...>
9 <... execve resumed>)             = -1 ENOENT (No such file or directory)
"#;
        let started = parse_log(log);
        let programs: Vec<&str> = started.iter().map(|started| started.program.to_str().unwrap()).collect();
        assert_eq!(programs, ["/bin/sh", "/usr/bin/as"]);
        assert_eq!(started[0].argv, ["sh", "-c", r#"say \"x\", [y]"#]);
    }

    #[test]
    fn a_compiler_below_a_background_process_is_seen() {
        let space = TestSpace::new("trace");
        space.write("a.c", "int a;\n");
        let seen = trace(&space, "", "(setsid sh -c 'gcc -c a.c' &) ; wait");
        assert!(seen.of(Work::Compile).iter().any(|started| started.program.ends_with("cc1")));
        let seen = trace(&space, "", "gcc a.o -shared -o a.so; gcc --version; ls");
        seen.assert_no_compiler_ran();
    }
}

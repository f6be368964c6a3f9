//! Case files of the differential suite: a small directory, the commands to run in it, and what is to become of them.
//! Knows nothing of how they are run.
//!
//! ```text
//! # What the case is about.
//! compilers: gcc clang
//! variants: -O0 | -O2 -g
//! env: CPATH=inc
//! setup: mkdir out
//! run: $CC $V -c a.c -o out/a.o
//! expect: shared
//! --- a.c
//! int x;
//! ```
//! `$CC` and `$CXX` are the drivers of each compiler in turn, with the launcher before them or not, `$V` is one variant
//! after the other. `differs: PATH…` lists files that farcc makes otherwise on purpose, which the comment says. What is expected is `shared`, `fails`, `here REASON` or `local REASON`. Each `run` and each `setup` is a line for the shell. Every `expect` belongs to the `run` before it; a
//! `run` without one takes the next.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;

/// What is to become of a command that goes through farcc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// It is stored, taken from the store, and done by the cluster.
    Shared,
    /// It is stored and taken from the store, but the cluster is not asked to do it, for this reason.
    Here(String),
    /// It fails: nothing is stored, and what the cluster says is said again here.
    Fails,
    /// It runs here, for this reason.
    Local(String),
}

/// One line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line.
    pub script: String,
    /// What is to become of the command in it; None: nothing in it goes through farcc.
    pub expectation: Option<Expectation>,
}

/// A case file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandCase {
    /// The file's name without its suffix.
    pub name: String,
    /// C drivers, such as `gcc` and `clang-19`.
    pub compilers: Vec<String>,
    /// What `$V` stands for, one after the other; one that is empty where the case has none.
    pub variants: Vec<String>,
    /// Added to the environment.
    pub environment: Vec<(String, String)>,
    /// Files that farcc makes otherwise on purpose.
    pub differs: Vec<PathBuf>,
    /// In their order.
    pub steps: Vec<Step>,
    /// Paths and texts.
    pub files: Vec<(PathBuf, String)>,
}

impl CommandCase {
    /// Reads the case file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is not understood.
    pub fn read(path: &Path) -> anyhow::Result<CommandCase> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        CommandCase::parse(&name, &text).with_context(|| format!("read {}", path.display()))
    }

    /// From the text of a case file.
    ///
    /// # Errors
    /// A line is not understood, or nothing is run.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<CommandCase> {
        let mut case = CommandCase {
            name: name.to_owned(),
            compilers: vec!["gcc".to_owned(), "clang".to_owned()],
            variants: vec![String::new()],
            environment: Vec::new(),
            differs: Vec::new(),
            steps: Vec::new(),
            files: Vec::new(),
        };
        let (header, files) = match text.find("\n--- ") {
            Some(end) => text.split_at(end + 1),
            None => (text, ""),
        };
        // Steps from here on wait for what is expected of them.
        let mut first_open = 0;
        for line in header.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(':').with_context(|| format!("no key in {line:?}"))?;
            let value = value.trim();
            match key {
                "compilers" => case.compilers = value.split_whitespace().map(str::to_owned).collect(),
                "variants" => case.variants = value.split('|').map(|v| v.trim().to_owned()).collect(),
                "differs" => case.differs = value.split_whitespace().map(PathBuf::from).collect(),
                "env" => {
                    let (name, value) = value.split_once('=').with_context(|| format!("no = in {line:?}"))?;
                    case.environment.push((name.to_owned(), value.to_owned()));
                }
                "setup" => case.steps.push(Step { script: value.to_owned(), expectation: None }),
                "run" => {
                    if !value.contains("$CC") && !value.contains("$CXX") && !value.contains("$FARCC") {
                        bail!("neither $CC nor $CXX nor $FARCC in {line:?}");
                    }
                    let expectation = Some(Expectation::Shared);
                    case.steps.push(Step { script: value.to_owned(), expectation });
                }
                "expect" => {
                    let expectation = match value.split_once(' ') {
                        None if value == "shared" => Expectation::Shared,
                        None if value == "fails" => Expectation::Fails,
                        Some(("here", reason)) => Expectation::Here(reason.to_owned()),
                        Some(("local", reason)) => Expectation::Local(reason.to_owned()),
                        _ => bail!("unknown expectation {value:?}"),
                    };
                    let open = case.steps.get_mut(first_open..).unwrap_or_default();
                    open.iter_mut()
                        .filter(|step| step.expectation.is_some())
                        .for_each(|step| step.expectation = Some(expectation.clone()));
                    first_open = case.steps.len();
                }
                _ => bail!("unknown key {key:?}"),
            }
        }
        if case.steps.get(first_open..).unwrap_or_default().iter().any(|step| step.expectation.is_some()) {
            bail!("a run without an expectation");
        }
        if case.steps.iter().all(|step| step.expectation.is_none()) {
            bail!("nothing is run through farcc");
        }
        for file in files.split("--- ").skip(1) {
            let (path, text) = file.split_once('\n').unwrap_or((file, ""));
            case.files.push((path.trim().into(), text.to_owned()));
        }
        Ok(case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read() {
        let text = "# About.\ncompilers: gcc\nvariants: -O0 | -O2 -g\nenv: A=b=c\nsetup: mkdir out\nrun: $CC $V -c a.c\n\
                    expect: shared\nrun: $CC -E a.c\nrun: $CXX -E b.c\nexpect: local preprocess\n--- a.c\nint x;\n--- d/b.c\n";
        let case = CommandCase::parse("name", text).unwrap();
        assert_eq!(case.compilers, ["gcc"]);
        assert_eq!(case.variants, ["-O0", "-O2 -g"]);
        assert_eq!(case.environment, [("A".to_owned(), "b=c".to_owned())]);
        let local = Some(Expectation::Local("preprocess".to_owned()));
        let expected: Vec<_> = case.steps.iter().map(|step| step.expectation.clone()).collect();
        assert_eq!(expected, [None, Some(Expectation::Shared), local.clone(), local]);
        assert_eq!(case.files, [("a.c".into(), "int x;\n".to_owned()), ("d/b.c".into(), String::new())]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "run: $CC -c a.c\n",
            "run: gcc -c a.c\nexpect: shared\n",
            "run: $CC -c a.c\nexpect: local\n",
            "run: $CC -c a.c\nexpect: remotely\n",
            "setup: true\n",
            "what: is this\n",
            "nothing\n",
        ] {
            assert!(CommandCase::parse("name", text).is_err(), "{text}");
        }
    }
}

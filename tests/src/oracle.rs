//! The installed compilers as judges: what they search, predefine, answer, and list under `-M`.
//! Knows nothing of how the scanner works.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::bail;
use farccd::preprocessor::Answers;
use farccd::preprocessor::Family;
use farccd::preprocessor::ForcedInclude;
use farccd::preprocessor::Language;
use farccd::preprocessor::MacroOption;
use farccd::preprocessor::Predefined;
use farccd::preprocessor::Scan;
use farccd::preprocessor::ScanError;
use farccd::preprocessor::SearchPath;
use farccd::preprocessor::Sources;
use farccd::preprocessor::TranslationUnit;
use farccd::preprocessor::scan;

/// One installed compiler in one language, with flags that change what it predefines.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// Name or path of the driver.
    pub program: String,
    /// Whose rules it follows.
    pub family: Family,
    /// The language that it is asked for by `-x`.
    pub language: Language,
    /// Flags such as `-std=c99`.
    pub flags: Vec<String>,
}

/// What a compiler says of itself under its flags.
#[derive(Debug, Clone)]
pub struct Probe {
    predefined: Arc<Predefined>,
    system_directories: Vec<PathBuf>,
    answers: Arc<Answers>,
}

/// The flags of one unit, in the terms of the scanner and of the command line.
#[derive(Debug, Clone, Default)]
pub struct UnitFlags {
    /// `-iquote`.
    pub quote: Vec<PathBuf>,
    /// `-I`.
    pub user: Vec<PathBuf>,
    /// `-isystem`.
    pub system: Vec<PathBuf>,
    /// `-D` and `-U`.
    pub macros: Vec<MacroOption>,
    /// `-include` and `-imacros`.
    pub forced_includes: Vec<ForcedInclude>,
}

impl Compiler {
    /// The usual compilers of this machine that are there, for `language`.
    pub fn installed(language: Language, flags: &[&str]) -> Vec<Compiler> {
        let candidates = match language {
            Language::Cxx => [("g++", Family::Gcc), ("clang++", Family::Clang)],
            Language::C | Language::Assembler => [("gcc", Family::Gcc), ("clang", Family::Clang)],
        };
        let is_there = |program: &str| {
            Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok()
        };
        candidates
            .into_iter()
            .filter(|(program, _)| is_there(program))
            .map(|(program, family)| Compiler {
                program: program.to_owned(),
                family,
                language,
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            })
            .collect()
    }

    /// The compiler with its flags, ready for more arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).arg("-x").arg(match self.language {
            Language::C => "c",
            Language::Cxx => "c++",
            Language::Assembler => "assembler-with-cpp",
        });
        // Messages and other outputs must not depend on the environment of the test.
        for name in ["CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "DEPENDENCIES_OUTPUT"] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// Asks for predefined macros and built-in directories.
    pub fn probe(&self) -> anyhow::Result<Probe> {
        let output = self.command().args(["-E", "-dM", "-v", "/dev/null"]).output()?;
        if !output.status.success() {
            bail!("{} -dM: {}", self.program, String::from_utf8_lossy(&output.stderr));
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let listed = stderr
            .split_once("#include <...> search starts here:\n")
            .and_then(|(_, rest)| rest.split_once("End of search list."))
            .context("no search list")?;
        Ok(Probe {
            predefined: Arc::new(Predefined::parse(&output.stdout)),
            system_directories: listed.0.lines().map(|line| PathBuf::from(line.trim_start())).collect(),
            answers: Arc::default(),
        })
    }

    /// The unit for `source`, relative to `cwd`.
    pub fn unit(&self, probe: &Probe, cwd: &Path, source: &Path, flags: &UnitFlags) -> TranslationUnit {
        let angle = [&flags.user, &flags.system, &probe.system_directories];
        TranslationUnit {
            cwd: cwd.to_owned(),
            source: source.to_owned(),
            language: self.language,
            family: self.family,
            search_path: SearchPath {
                quote: flags.quote.clone(),
                angle: angle.into_iter().flatten().cloned().collect(),
                user_directories: flags.user.len(),
            },
            predefined: Arc::clone(&probe.predefined),
            macros: flags.macros.clone(),
            forced_includes: flags.forced_includes.clone(),
            answers: Arc::clone(&probe.answers),
        }
    }

    /// What the compiler answers to `questions`, each an `#if` expression. A question that it rejects is 0.
    pub fn answer(&self, questions: &[String], answers: &Answers) -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("questions");
        for question in questions {
            // Values other than 0 and 1 are dates, as of `__has_cpp_attribute`: found by bisection.
            let holds = |condition: String| -> anyhow::Result<bool> {
                std::fs::write(&file, format!("#if {condition}\nfarcc_yes\n#endif\n"))?;
                let output = self.command().args(["-E", "-P"]).arg(&file).output()?;
                Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("farcc_yes"))
            };
            let mut value = i64::from(holds(question.clone())?);
            if value == 1 && !question.starts_with("defined") && holds(format!("{question} > 1"))? {
                let (mut low, mut high) = (1, 1_000_000);
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    if holds(format!("{question} >= {middle}"))? {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                value = low;
            }
            answers.insert(question.clone(), value);
        }
        Ok(())
    }

    /// Scans, and answers the scanner's questions until it has no more.
    pub fn scan(&self, unit: &TranslationUnit, sources: &dyn Sources) -> anyhow::Result<Scan> {
        for _ in 0..50 {
            match scan(unit, sources) {
                Err(ScanError::Unanswered(questions)) => self.answer(&questions, &unit.answers)?,
                result => return Ok(result?),
            }
        }
        bail!("the scanner's questions do not end")
    }

    /// The files of `-M`, absolute as spelled.
    pub fn dependencies(
        &self,
        cwd: &Path,
        source: &Path,
        flags: &UnitFlags,
    ) -> anyhow::Result<BTreeSet<PathBuf>> {
        let output =
            self.command().current_dir(cwd).args(flags.arguments()).arg("-M").arg(source).output()?;
        if !output.status.success() {
            bail!("{} -M: {}", self.program, String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8(output.stdout)?;
        let (_, files) = text.split_once(": ").context("no rule")?;
        Ok(files
            .replace("\\\n", " ")
            .split_ascii_whitespace()
            .map(|file| cwd.join(file))
            // Rust compares paths by components, so that `./a.h` is `a.h`, but a string is wanted, too.
            .map(|file| file.components().collect())
            .collect())
    }
}

impl UnitFlags {
    /// The flags as arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        for (flag, directories) in [("-iquote", &self.quote), ("-I", &self.user), ("-isystem", &self.system)]
        {
            for directory in directories {
                arguments.push(flag.into());
                arguments.push(directory.into());
            }
        }
        for option in &self.macros {
            let (flag, text) = match option {
                MacroOption::Define(text) => ("-D", text),
                MacroOption::Undefine(text) => ("-U", text),
            };
            arguments.push(flag.into());
            arguments.push(text.clone());
        }
        for forced in &self.forced_includes {
            let (flag, file) = match forced {
                ForcedInclude::Include(file) => ("-include", file),
                ForcedInclude::Macros(file) => ("-imacros", file),
            };
            arguments.push(flag.into());
            arguments.push(file.into());
        }
        arguments
    }
}

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
use farccd::preprocessor::Form;
use farccd::preprocessor::Language;
use farccd::preprocessor::Lexing;
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
    /// `--embed-dir`.
    pub embed: Vec<PathBuf>,
    /// `-trigraphs`, `-fno-operator-names`.
    pub lexing: Lexing,
    /// `-include` and `-imacros`.
    pub forced_includes: Vec<ForcedInclude>,
}

impl Compiler {
    /// The usual compilers of this machine that are there, for `language`.
    pub fn installed(language: Language, flags: &[&str]) -> Vec<Compiler> {
        let candidates = match language {
            Language::Cxx | Language::ObjectiveCxx => [("g++", Family::Gcc), ("clang++", Family::Clang)],
            Language::C | Language::ObjectiveC | Language::Assembler => {
                [("gcc", Family::Gcc), ("clang", Family::Clang)]
            }
        };
        candidates
            .into_iter()
            .filter(|(program, _)| is_installed(program, language))
            .map(|(program, family)| Compiler {
                program: program.to_owned(),
                family,
                language,
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            })
            .collect()
    }

    /// One compiler by its name, such as `clang-19`, if it is there.
    pub fn named(program: &str, language: Language, flags: &[&str]) -> Option<Compiler> {
        is_installed(program, language).then(|| Compiler {
            program: program.to_owned(),
            family: if program.contains("clang") { Family::Clang } else { Family::Gcc },
            language,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        })
    }

    /// The compiler with its flags, ready for more arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).arg("-x").arg(self.language.name());
        // Messages and other outputs must not depend on the environment of the test.
        for name in ["CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "DEPENDENCIES_OUTPUT"] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// Asks for predefined macros and built-in directories.
    ///
    /// # Errors
    /// The compiler cannot be run, or its answer is not understood.
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
            form: Form::Source,
            family: self.family,
            search_path: SearchPath {
                quote: flags.quote.clone(),
                angle: angle.into_iter().flatten().cloned().collect(),
                user_directories: flags.user.len(),
                embed: flags.embed.clone(),
                ..SearchPath::default()
            },
            predefined: Arc::clone(&probe.predefined),
            macros: flags.macros.clone(),
            forced_includes: flags.forced_includes.clone(),
            lexing: flags.lexing,
            answers: Arc::clone(&probe.answers),
        }
    }

    /// What the compiler answers to `questions`, each an `#if` expression. A question that it rejects is 0.
    ///
    /// # Errors
    /// The compiler cannot be run.
    pub fn answer(&self, questions: &[String], answers: &Answers) -> anyhow::Result<()> {
        // Values other than 0 and 1 are dates, as of `__has_cpp_attribute`: all are found by bisection at once.
        let mut bounds = vec![(0, 1_000_000); questions.len()];
        let first = self.which_hold(questions.iter().map(|question| format!("({question}) >= 2")))?;
        for (bounds, large) in bounds.iter_mut().zip(&first) {
            *bounds = if *large { (2, bounds.1) } else { (0, 2) };
        }
        while bounds.iter().any(|(low, high)| high - low > 1) {
            let middles: Vec<i64> = bounds.iter().map(|(low, high)| (low + high) / 2).collect();
            let conditions =
                questions.iter().zip(&middles).map(|(question, middle)| format!("({question}) >= {middle}"));
            let hold = self.which_hold(conditions)?;
            for ((bounds, middle), holds) in bounds.iter_mut().zip(middles).zip(hold) {
                if bounds.1 - bounds.0 > 1 {
                    *if holds { &mut bounds.0 } else { &mut bounds.1 } = middle;
                }
            }
        }
        for (question, (value, _)) in questions.iter().zip(bounds) {
            answers.insert(question.clone(), value);
        }
        Ok(())
    }

    /// Which of the conditions are true.
    fn which_hold(&self, conditions: impl Iterator<Item = String>) -> anyhow::Result<Vec<bool>> {
        let mut text = String::new();
        let mut count = 0;
        for condition in conditions {
            text.push_str(&format!("#if {condition}\nfarcc_yes_{count}_\n#endif\n"));
            count += 1;
        }
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("questions");
        std::fs::write(&file, text)?;
        // A rejected condition makes the compiler fail, but it goes on to the next.
        let output = self.command().args(["-E", "-P"]).arg(&file).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok((0..count).map(|index| text.contains(&format!("farcc_yes_{index}_"))).collect())
    }

    /// Scans, and answers the scanner's questions until it has no more.
    ///
    /// # Errors
    /// The scanner's, or the compiler's.
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
    ///
    /// # Errors
    /// The compiler cannot be run or fails.
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
            // Without `.` components, which the two compilers print differently.
            .map(|file| file.components().collect())
            .collect())
    }
}

/// Whether the driver is there, and the compiler proper of the language, which has a package of its own for some.
fn is_installed(program: &str, language: Language) -> bool {
    let mut command = Command::new(program);
    command.args(["-E", "-x", language.name(), "/dev/null"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
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
        for directory in &self.embed {
            let mut flag = OsString::from("--embed-dir=");
            flag.push(directory);
            arguments.push(flag);
        }
        arguments
            .extend(self.lexing.trigraphs.map(|on| if on { "-trigraphs" } else { "-fno-trigraphs" }.into()));
        arguments.extend(self.lexing.no_operator_names.then(|| "-fno-operator-names".into()));
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
                // Of no effect of its own in these tests.
                ForcedInclude::Text(_) => continue,
                ForcedInclude::Include(file) => ("-include", file),
                ForcedInclude::Macros(file) => ("-imacros", file),
            };
            arguments.push(flag.into());
            arguments.push(file.into());
        }
        arguments
    }
}

/// A case file: several small files, and what the scan of the first is to find.
///
/// `//#` lines at the top say how: `flags:` (`-I -iquote -isystem -D -U -include -imacros`, others go to the
/// compiler), `gcc:` and `clang:` (or `expect:` for both) the files that are opened, `probed:` those that only
/// `__has_include` finds, `assembled:` those that the assembler reads, `not_sure:` the reason instead, `compiler:` the
/// only compiler that understands the case. `//- path` begins a file.
#[derive(Debug, Default)]
pub struct Case {
    /// Paths and texts; the first is the source.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// For the scanner and the compiler.
    pub flags: UnitFlags,
    /// For the compiler alone.
    pub compiler_flags: Vec<String>,
    /// What is opened, the source included, by family.
    pub expect: Vec<(Option<Family>, BTreeSet<PathBuf>)>,
    /// What the assembler reads.
    pub assembled: BTreeSet<PathBuf>,
    /// The only compiler that the case is for.
    pub compiler: Option<String>,
    /// What is only probed.
    pub probed: BTreeSet<PathBuf>,
    /// The reason word of the error instead.
    pub not_sure: Option<String>,
}

impl Case {
    /// Reads a case file.
    ///
    /// # Errors
    /// A `//#` line that is not understood.
    pub fn parse(text: &str) -> anyhow::Result<Case> {
        let mut case = Case::default();
        for line in text.split_inclusive('\n') {
            if let Some(path) = line.strip_prefix("//- ") {
                case.files.push((path.trim().into(), Vec::new()));
            } else if let Some((_, text)) = case.files.last_mut() {
                text.extend_from_slice(line.as_bytes());
            } else if let Some(setting) = line.strip_prefix("//# ") {
                let (name, value) = setting.split_once(':').context("no `:`")?;
                let paths = || value.split_whitespace().map(PathBuf::from).collect();
                match name {
                    "flags" => case.set_flags(value)?,
                    "expect" => case.expect.push((None, paths())),
                    "gcc" => case.expect.push((Some(Family::Gcc), paths())),
                    "clang" => case.expect.push((Some(Family::Clang), paths())),
                    "assembled" => case.assembled = paths(),
                    "compiler" => case.compiler = Some(value.trim().to_owned()),
                    "probed" => case.probed = paths(),
                    "not_sure" => case.not_sure = Some(value.trim().to_owned()),
                    _ => bail!("unknown setting {name}"),
                }
            }
        }
        Ok(case)
    }

    fn set_flags(&mut self, text: &str) -> anyhow::Result<()> {
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} without value"));
            match word {
                "-iquote" => self.flags.quote.push(value()?.into()),
                "-isystem" => self.flags.system.push(value()?.into()),
                "-include" => self.flags.forced_includes.push(ForcedInclude::Include(value()?.into())),
                "-imacros" => self.flags.forced_includes.push(ForcedInclude::Macros(value()?.into())),
                "-trigraphs" => self.flags.lexing.trigraphs = Some(true),
                "-fno-operator-names" => self.flags.lexing.no_operator_names = true,
                _ if word.starts_with("--embed-dir=") => {
                    self.flags.embed.push(word["--embed-dir=".len()..].into());
                }
                _ => match word.split_at_checked(2) {
                    Some(("-I", directory)) => self.flags.user.push(directory.into()),
                    Some(("-D", text)) => self.flags.macros.push(MacroOption::Define(text.into())),
                    Some(("-U", text)) => self.flags.macros.push(MacroOption::Undefine(text.into())),
                    _ => self.compiler_flags.push(word.to_owned()),
                },
            }
        }
        Ok(())
    }

    /// What a compiler of `family` opens.
    pub fn expected(&self, family: Family) -> Option<&BTreeSet<PathBuf>> {
        self.expect.iter().find(|(only, _)| only.is_none_or(|only| only == family)).map(|(_, files)| files)
    }

    /// The source.
    ///
    /// # Errors
    /// The case has no files.
    pub fn source(&self) -> anyhow::Result<&Path> {
        self.files.first().map(|(path, _)| path.as_path()).context("a case without files")
    }

    /// Writes the files below `directory`, all with the same time of change.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        for (path, text) in &self.files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().context("no parent")?)?;
            std::fs::write(&path, text)?;
            std::fs::File::options().write(true).open(&path)?.set_modified(std::time::UNIX_EPOCH)?;
        }
        Ok(())
    }
}

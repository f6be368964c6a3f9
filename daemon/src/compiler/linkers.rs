//! Finds the linker behind a driver and what it is told besides the command's own words, asking once for each shape of
//! commands.
//! Knows nothing of the files that are linked.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Tools;
use crate::compiler::further_flags;
use crate::compiler::invocation::find_executable;
use crate::compiler::probe;
use crate::compiler::programs;
use crate::compiler::recollections::Recollection;
use crate::compiler::recollections::Recollections;
use crate::compiler::shape::Shape;
use crate::compiler::tools;
use crate::compiler::tools::Named;
use crate::compiler::tools::ToolsRecord;
use crate::compiler::tools::plugins_of_binutils;
use crate::files::Files;
use crate::linker::Flavour;
use crate::linker::LinkLine;
use crate::process::Program;
use crate::reason::Reason;

/// What is known of how a driver links under one set of flags.
pub struct Linker {
    /// Whose linker it is.
    pub flavour: Flavour,
    /// The programs that a link runs: driver, linker, what they load and what makes code at link time.
    pub tools: Arc<Tools>,
    /// What stands for `=` in directories; empty: nothing.
    pub sysroot: PathBuf,
    /// Where the linker looks after all `-L`, as it says itself.
    pub search_directories: Vec<PathBuf>,
    record: Record,
}

/// All linkers that were met, shared by all connections.
pub struct Linkers {
    files: Arc<Files>,
    known: Recollections<Linker>,
}

/// The form of the record; another one is ignored.
const FORMAT: u32 = 3;

/// A linker as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The first line of what `--version` prints.
    version: String,
    tools: ToolsRecord,
    /// The linker's arguments, with the words of the question.
    plan: Vec<OsString>,
    sysroot: PathBuf,
    search_directories: Vec<PathBuf>,
    reports_inputs: bool,
}

/// Variables that decide what a driver tells its linker, besides those that decide which programs it uses (GCC manual,
/// "Environment Variables Affecting GCC").
const KEY_VARIABLES: &[&str] = &["LIBRARY_PATH", "SOURCE_DATE_EPOCH"];

/// Options by which a linker shows how it was called, with what farcc adds.
const TALKATIVE: &[&str] = &["-v", "-V", "--verbose", "--version"];

/// Programs that GCC's `collect2` takes instead of the linker, if they are there (gcc/collect2.cc, `main`).
const INSTEAD_OF_LINKER: &[&str] = &["real-ld", "collect-ld"];

/// What GCC runs to make code at link time.
const OPTIMISERS: &[&str] = &["lto1", "as"];

impl Linkers {
    /// An empty memory that keeps its records in `directory`, which is made when first needed.
    pub fn new(files: Arc<Files>, directory: PathBuf) -> Linkers {
        Linkers { files, known: Recollections::new(directory) }
    }

    /// The linker of `link`, as it is now, and what it is told.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`]; [`Reason::Link`] with the option that is not understood; [`Reason::Information`].
    pub async fn probe(
        &self,
        link: &Link,
        invocation: &Invocation,
    ) -> Result<(Arc<Linker>, LinkLine), Reason> {
        let shape = link.shape();
        let mut hashed = shape.question.clone();
        for name in KEY_VARIABLES {
            hashed.extend(
                [Some((*name).into()), invocation.variable(name).map(OsStr::to_owned)].into_iter().flatten(),
            );
        }
        let is_relative = link.asks_by_relative_paths()
            || invocation.variable("LIBRARY_PATH").is_some_and(tools::has_relative_element);
        let key = tools::key(&link.driver, "link", &hashed, is_relative, invocation)?;
        let ask = async || self.ask(link, &shape, invocation).await;
        let linker = self.known.recall(key, invocation, &link.driver, &self.files, ask).await?;
        let line = linker.line(link, &shape)?;
        Ok((linker, line))
    }

    async fn ask(&self, link: &Link, shape: &Shape, invocation: &Invocation) -> Result<Linker, Reason> {
        programs::check(&link.driver)?;
        let started = self.files.now();
        let asker =
            Asker { driver: &link.driver, shape, invocation, env: probe::environment(&invocation.env) };
        let answer = asker.plan().await?;
        check_files_of_flags(&answer.flag_files, link, invocation)?;
        let linker = asker.linker(&answer).await?;
        let linker = by_name(linker, invocation);
        let path = find_executable(&linker, &invocation.cwd, invocation.variable("PATH"))
            .ok_or_else(|| Reason::ToolchainProbe(format!("find {} in PATH", linker.to_string_lossy())))?;
        let version = asker.ask(&path, &["--version"]).await?;
        let version = version.lines().next().unwrap_or_default().to_owned();
        let flavour = Flavour::of_version(&version).ok_or_else(|| {
            Reason::ToolchainProbe(format!("know {}, which says {version:?}", path.display()))
        })?;
        let arguments = &answer.plan[1..];
        let line = LinkLine::parse(arguments).map_err(|error| Reason::Link(error.to_string()))?;
        let (mut sysroot, mut search_directories) = (PathBuf::new(), Vec::new());
        if flavour == Flavour::Bfd {
            let emulation = line.emulation().map(|name| ["-m".as_ref(), name]).into_iter().flatten();
            let verbose: Vec<&OsStr> = emulation.chain(["--verbose".as_ref()]).collect();
            search_directories = read_search_directories(&asker.ask(&path, &verbose).await?);
            sysroot = asker.ask(&path, &["--print-sysroot"]).await?.trim().into();
        }
        let reports_inputs = asker.ask(&path, &["--help"]).await?.contains("-dependency-file");
        let mut named = Named {
            version: version.clone(),
            target: answer.target,
            driver: link.driver.clone(),
            programs: vec![by_name(answer.plan[0].clone(), invocation), linker],
            plugins: line.plugins().map(Path::to_owned).collect(),
            files: answer.flag_files,
            absent: Vec::new(),
            watched: answer.watched,
        };
        named.files.extend(plugins_of_binutils(&path, &mut named.watched));
        named.watched.extend(link.program_directories().map(Path::to_owned));
        named.watched.extend(candidates(link, invocation, &named.target));
        let wrappers = arguments.iter().filter_map(|word| word.as_bytes().strip_prefix(b"-plugin-opt="));
        let wrappers = wrappers.filter(|program| program.ends_with(b"/lto-wrapper")).map(OsStr::from_bytes);
        named.programs.extend(wrappers.map(OsStr::to_owned));
        if named.programs.len() > 2 {
            for name in OPTIMISERS {
                let program = asker.program(name).await?;
                let is_there =
                    find_executable(&program, &invocation.cwd, invocation.variable("PATH")).is_some();
                named.programs.extend(is_there.then_some(program));
            }
        }
        let tools = named.survey(&self.files, invocation, &asker.env, started).await?;
        let record = Record {
            format: FORMAT,
            version,
            tools,
            plan: arguments.to_vec(),
            sysroot,
            search_directories,
            reports_inputs,
        };
        Linker::recalled(record)
            .ok_or_else(|| Reason::Internal("a fresh record of a linker is damaged".to_owned()))
    }
}

impl Linker {
    /// Whether it tells what it has read for this link.
    pub fn reports_inputs(&self, line: &LinkLine) -> bool {
        // mold (as of 1.10) writes nothing where it makes a relocatable file.
        self.record.reports_inputs && !(self.flavour == Flavour::Mold && line.is_relocatable())
    }

    /// What it is told for a link of this shape.
    pub(super) fn line(&self, link: &Link, shape: &Shape) -> Result<LinkLine, Reason> {
        let words = shape.fill(&self.record.plan, &link.output);
        let words = words.ok_or_else(|| Reason::Link("the driver's plan is not understood".to_owned()))?;
        let line = LinkLine::parse(&words).map_err(|error| Reason::Link(error.to_string()))?;
        if words.iter().any(|word| TALKATIVE.iter().any(|option| word == option)) {
            return Err(Reason::Information);
        }
        // Of others, neither the content nor the libraries are known.
        let is_planned = |plugin: &Path| self.record.plan.iter().any(|word| word == plugin.as_os_str());
        if let Some(plugin) = line.plugins().find(|plugin| !is_planned(plugin)) {
            return Err(Reason::Link(format!("{} is a plugin", plugin.display())));
        }
        Ok(line)
    }
}

impl Recollection for Linker {
    type Record = Record;

    fn record(&self) -> Record {
        self.record.clone()
    }

    fn recalled(record: Record) -> Option<Linker> {
        if record.format != FORMAT {
            return None;
        }
        Some(Linker {
            flavour: Flavour::of_version(&record.version)?,
            tools: Arc::new(record.tools.tools(Vec::new())?),
            sysroot: record.sysroot.clone(),
            search_directories: record.search_directories.clone(),
            record,
        })
    }

    fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool {
        self.record.tools.holds(cwd, env)
    }
}

/// Who asks a driver and the programs behind it.
struct Asker<'a> {
    driver: &'a Path,
    shape: &'a Shape,
    invocation: &'a Invocation,
    env: Vec<(OsString, OsString)>,
}

/// What a driver would do.
struct Answer {
    /// Its one command.
    plan: Vec<OsString>,
    target: String,
    flag_files: Vec<PathBuf>,
    watched: Vec<PathBuf>,
}

impl Asker<'_> {
    /// The command that the driver would run.
    async fn plan(&self) -> Result<Answer, Reason> {
        let output = self.run(self.driver, [&*self.shape.question, &["-###".into()]].concat()).await?;
        let mut commands = Vec::new();
        let mut answer =
            Answer { plan: Vec::new(), target: String::new(), flag_files: Vec::new(), watched: Vec::new() };
        for line in output.stderr.split(|&byte| byte == b'\n') {
            let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
            let after = |prefix: &str| line.strip_prefix(prefix.as_bytes());
            if let Some(target) = after("Target: ") {
                answer.target = String::from_utf8_lossy(target).into_owned();
            } else if let Some(file) = after("Reading specs from ").or(after("Configuration file: ")) {
                answer.flag_files.push(path(file));
            } else if let Some(installation) = after("Selected GCC installation: ") {
                // A newer GCC beside this one would be chosen instead.
                answer.watched.extend(path(installation).parent().map(Path::to_owned));
            } else if let Some(command) = after(" ").filter(|command| !command.starts_with(b"(")) {
                commands.push(probe::words(command));
            }
        }
        match <[Vec<OsString>; 1]>::try_from(commands) {
            Ok([plan]) if !plan.is_empty() => Ok(Answer { plan, ..answer }),
            Ok(_) => Err(Reason::Link("the driver says nothing of a linker".to_owned())),
            Err(commands) => Err(Reason::Link(format!("the driver would run {} programs", commands.len()))),
        }
    }

    /// The linker as the driver names it: a path, or a name to be found in `PATH`.
    async fn linker(&self, answer: &Answer) -> Result<OsString, Reason> {
        let program = &answer.plan[0];
        if Path::new(program).file_name() != Some(OsStr::new("collect2")) {
            return Ok(program.clone());
        }
        for name in INSTEAD_OF_LINKER {
            let instead = self.program(name).await?;
            if instead.as_bytes().contains(&b'/') {
                return Ok(instead);
            }
        }
        let chosen = answer.plan.iter().rev().find_map(|word| word.as_bytes().strip_prefix(b"-fuse-ld="));
        let mut name = String::from("ld");
        if let Some(chosen) = chosen {
            name.push('.');
            name.push_str(&String::from_utf8_lossy(chosen));
        }
        self.program(&name).await
    }

    /// Where the driver finds a program of its own; the name alone, if that is in `PATH` or nowhere.
    async fn program(&self, name: &str) -> Result<OsString, Reason> {
        let question = OsString::from(format!("-print-prog-name={name}"));
        let output = self.run(self.driver, [&*self.shape.question, &[question]].concat()).await?;
        Ok(OsStr::from_bytes(output.stdout.trim_ascii()).to_owned())
    }

    /// What a linker prints.
    async fn ask(&self, linker: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<String, Reason> {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let output = self.run(linker, arguments).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn run(&self, path: &Path, args: Vec<OsString>) -> Result<std::process::Output, Reason> {
        probe::ask(Program { path, args, env: self.env.clone(), cwd: &self.invocation.cwd }).await
    }
}

/// A program as it would be found along `PATH`, if that is where the driver has found it.
fn by_name(program: OsString, invocation: &Invocation) -> OsString {
    let path = Path::new(&program);
    let name = path.file_name().unwrap_or_default();
    let found = find_executable(name, &invocation.cwd, invocation.variable("PATH"));
    if found.as_deref() == Some(path) { name.to_owned() } else { program }
}

/// Directories that a driver passes on to the linker, or takes programs and files from, if they are there: whether they are,
/// and what is in them, decides its plan.
fn candidates(link: &Link, invocation: &Invocation, target: &str) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    for directory in invocation.directories_of("LIBRARY_PATH") {
        candidates.extend(["", "..", target].map(|below| directory.join(below)));
    }
    for sysroot in link.sysroots() {
        let below = ["", "lib", "lib64", "usr", "usr/lib", "usr/lib64"];
        candidates.extend(below.map(|below| sysroot.join(below)));
    }
    let named = link.program_directories().map(|directory| invocation.cwd.join(directory));
    for directory in named.chain(invocation.directories_of("COMPILER_PATH")) {
        let of_target = directory.join(target);
        let versions = std::fs::read_dir(invocation.cwd.join(&of_target)).into_iter().flatten().flatten();
        candidates.extend(versions.map(|entry| entry.path()).filter(|path| path.is_dir()));
        candidates.push(of_target);
    }
    candidates
}

/// Refuses files of flags that bring in what is not understood.
fn check_files_of_flags(files: &[PathBuf], link: &Link, invocation: &Invocation) -> Result<(), Reason> {
    let named: Vec<_> = link.read_by_driver().map(|file| invocation.cwd.join(file)).collect();
    for file in files {
        let file = invocation.cwd.join(file);
        if named.contains(&file) {
            further_flags::check_specs(&file)?;
        }
    }
    Ok(())
}

/// `SEARCH_DIR("=/usr/lib");`, as `--verbose` prints the built-in script (GNU ld manual, "File Commands").
fn read_search_directories(text: &str) -> Vec<PathBuf> {
    let statements = text.split("SEARCH_DIR(\"").skip(1);
    statements.filter_map(|rest| rest.split_once('"')).map(|(directory, _)| directory.into()).collect()
}

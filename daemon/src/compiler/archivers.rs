//! What archivers are and do by default, each asked once.
//! Knows nothing of the files that they are given.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::compiler::Archive;
use crate::compiler::Invocation;
use crate::compiler::Tools;
use crate::compiler::driver_name;
use crate::compiler::driver_name::ArchiverKind;
use crate::compiler::probe;
use crate::compiler::programs;
use crate::compiler::recollections::Recollection;
use crate::compiler::recollections::Recollections;
use crate::compiler::tools;
use crate::compiler::tools::Named;
use crate::compiler::tools::ToolsRecord;
use crate::compiler::tools::plugins_of_binutils;
use crate::files::Files;
use crate::process::Program;
use crate::reason::Reason;

/// What is known of an archiver.
pub struct Archiver {
    /// The programs that it consists of.
    pub tools: Arc<Tools>,
    record: Record,
}

/// All archivers that were met, shared by all connections.
pub struct Archivers {
    files: Arc<Files>,
    known: Recollections<Archiver>,
}

/// The form of the record; another one is ignored.
const FORMAT: u32 = 3;

/// An archiver as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    tools: ToolsRecord,
    /// Whether it leaves out times and owners unless it is told otherwise.
    is_deterministic: bool,
}

/// What `--help` says of the letter that is in force without being named.
const DETERMINISTIC: &str = "use zero for timestamps and uids/gids (default)";

impl Archivers {
    /// An empty memory that keeps its records in `directory`, which is made when first needed.
    pub fn new(files: Arc<Files>, directory: PathBuf) -> Archivers {
        Archivers { files, known: Recollections::new(directory) }
    }

    /// The archiver of a command, as it is now.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`]; [`Reason::Archive`]: what it makes shows the time.
    pub async fn probe(&self, archive: &Archive, invocation: &Invocation) -> Result<Arc<Archiver>, Reason> {
        let key = tools::key(&archive.program, "archive", &[], false, invocation)?;
        let ask = async || self.ask(archive, invocation).await;
        let archiver = self.known.recall(key, invocation, &archive.program, &self.files, ask).await?;
        match archive.is_deterministic.unwrap_or(archiver.record.is_deterministic) {
            true => Ok(archiver),
            false => Err(Reason::Archive("it shows the times and owners of its members".to_owned())),
        }
    }

    async fn ask(&self, archive: &Archive, invocation: &Invocation) -> Result<Archiver, Reason> {
        programs::check(&archive.program)?;
        let started = self.files.now();
        let env = probe::environment(&invocation.env);
        let cwd = &invocation.cwd;
        let ask = async |path: &Path, argument: &str| -> Result<String, Reason> {
            let args = vec![argument.into()];
            let output = probe::ask(Program { path, args, env: env.clone(), cwd }).await?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&archive.program, "--version").await?;
        // LLVM's tells in the second line.
        let version = version.lines().find(|line| line.contains("GNU") || line.contains("LLVM version"));
        let version = version.ok_or_else(|| {
            Reason::ToolchainProbe(format!("know {}: it tells no version", archive.program.display()))
        })?;
        let help = ask(&archive.program, "--help").await?;
        let mut named =
            Named { version: version.trim().to_owned(), driver: archive.program.clone(), ..Named::default() };
        if archive.kind == ArchiverKind::GccAr {
            let driver = driver_of(&archive.program)?;
            let program = ask(&driver, "-print-prog-name=ar").await?;
            named.programs.push(OsString::from(program.trim()));
            named.plugins.push(ask(&driver, "-print-file-name=liblto_plugin.so").await?.trim().into());
        }
        named.files = plugins_of_binutils(&archive.program, &mut named.watched);
        let tools = named.survey(&self.files, invocation, &env, started).await?;
        let record = Record { format: FORMAT, tools, is_deterministic: help.contains(DETERMINISTIC) };
        Archiver::recalled(record)
            .ok_or_else(|| Reason::Internal("a fresh record of an archiver is damaged".to_owned()))
    }
}

/// `gcc-12` of `gcc-ar-12`, which does for `ar` what the driver does for the linker.
fn driver_of(program: &Path) -> Result<PathBuf, Reason> {
    let unknown = || Reason::ToolchainProbe(format!("find the driver of {}", program.display()));
    let name = program.file_name().unwrap_or_default();
    let at = memchr::memmem::rfind(name.as_bytes(), b"gcc-ar").ok_or_else(unknown)?;
    let name = [&name.as_bytes()[..at], b"gcc", &name.as_bytes()[at + b"gcc-ar".len()..]].concat();
    let driver = program.with_file_name(OsStr::from_bytes(&name));
    let is_driver = driver_name::kind(&String::from_utf8_lossy(&name)) == driver_name::ProgramKind::DriverC;
    if is_driver && driver.is_file() { Ok(driver) } else { Err(unknown()) }
}

impl Recollection for Archiver {
    type Record = Record;

    fn record(&self) -> Record {
        self.record.clone()
    }

    fn recalled(record: Record) -> Option<Archiver> {
        let tools = record.tools.tools(Vec::new()).filter(|_| record.format == FORMAT)?;
        Some(Archiver { tools: Arc::new(tools), record })
    }

    fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool {
        self.record.tools.holds(cwd, env)
    }
}

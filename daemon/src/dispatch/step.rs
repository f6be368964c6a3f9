//! A command that farcc understands in full, with what its programs said of themselves: what the kinds of commands have in
//! common, and what differs.
//! Knows nothing of inputs, actions and results.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::action::ActionError;
use crate::action::Reader;
use crate::compiler::AppendedRules;
use crate::compiler::Archive;
use crate::compiler::Archiver;
use crate::compiler::Audit;
use crate::compiler::Compile;
use crate::compiler::ExpectedOutput;
use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Linker;
use crate::compiler::Product;
use crate::compiler::Task;
use crate::compiler::Toolchain;
use crate::compiler::Tools;
use crate::compiler::depfile::Writer;
use crate::dispatch::Dispatcher;
use crate::dispatch::linking;
use crate::linker::LinkLine;
use crate::paths;
use crate::preprocessor::Family;
use crate::reason::Reason;
use crate::relocation::Relocation;

/// A command, and the programs that do its work.
#[derive(Clone)]
pub(super) enum Step {
    /// Sources into objects.
    Compile { compile: Arc<Compile>, toolchain: Arc<Toolchain> },
    /// Objects into a program or a library; what the linker itself is told.
    Link { link: Arc<Link>, linker: Arc<Linker>, line: Arc<LinkLine> },
    /// Objects into an archive.
    Archive { archive: Arc<Archive>, archiver: Arc<Archiver> },
}

impl Dispatcher {
    /// Finds the programs behind a command.
    ///
    /// # Errors
    /// The reason why it runs locally.
    pub(super) async fn step(&self, task: Task, invocation: &Invocation) -> Result<Step, Reason> {
        match task {
            Task::Compile(compile) => {
                let compile = Arc::new(*compile);
                let toolchain = self.toolchains.probe(&compile, invocation).await?;
                Ok(Step::Compile { compile, toolchain })
            }
            Task::Link(link) => {
                let (linker, line) = self.linkers.probe(&link, invocation).await?;
                Ok(Step::Link { link: Arc::new(*link), linker, line: Arc::new(line) })
            }
            Task::Archive(archive) => {
                let archiver = self.archivers.probe(&archive, invocation).await?;
                Ok(Step::Archive { archive: Arc::new(*archive), archiver })
            }
            Task::Other => Err(Reason::NotACompiler),
            Task::Local(reason) => Err(reason),
        }
    }
}

impl Step {
    /// The word for its kind in `[platform.…]`.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Step::Compile { .. } => "compile",
            Step::Link { .. } => "link",
            Step::Archive { .. } => "archive",
        }
    }

    /// What servers show as the kind of action (REAPI, `RequestMetadata.action_mnemonic`).
    pub(super) fn mnemonic(&self) -> &'static str {
        match self {
            Step::Compile { .. } => "Compile",
            Step::Link { .. } => "Link",
            Step::Archive { .. } => "Archive",
        }
    }

    /// The programs that it runs.
    pub(super) fn tools(&self) -> &Arc<Tools> {
        match self {
            Step::Compile { toolchain, .. } => &toolchain.tools,
            Step::Link { linker, .. } => &linker.tools,
            Step::Archive { archiver, .. } => &archiver.tools,
        }
    }

    /// The program that the command names: absolute, symlinks not resolved.
    pub(super) fn program(&self) -> &Path {
        match self {
            Step::Compile { compile, .. } => &compile.driver,
            Step::Link { link, .. } => &link.driver,
            Step::Archive { archive, .. } => &archive.program,
        }
    }

    /// The arguments after the program's name, response files expanded.
    pub(super) fn arguments(&self) -> &[OsString] {
        match self {
            Step::Compile { compile, .. } => &compile.arguments,
            Step::Link { link, .. } => &link.arguments,
            Step::Archive { archive, .. } => &archive.arguments,
        }
    }

    /// The first thing that it makes, as written.
    pub(super) fn product(&self) -> &Path {
        match self {
            Step::Compile { compile, .. } => {
                let source = &compile.sources[0];
                source.object.as_deref().unwrap_or(&source.path)
            }
            Step::Link { line, .. } => line.output(),
            Step::Archive { archive, .. } => &archive.output,
        }
    }

    /// What it is to its environment.
    pub(super) fn reader(&self) -> Reader {
        match self {
            Step::Compile { .. } => Reader::Compiler,
            Step::Link { .. } | Step::Archive { .. } => Reader::Linker,
        }
    }

    /// Who writes its depfiles.
    pub(super) fn writer(&self) -> Writer {
        match self {
            Step::Compile { toolchain, .. } => Writer::Compiler(toolchain.family),
            Step::Link { .. } | Step::Archive { .. } => Writer::Linker,
        }
    }

    /// The arguments of the action.
    ///
    /// # Errors
    /// [`ActionError::Bound`]: they cannot be moved.
    pub(super) fn arguments_there(
        &self,
        invocation: &Invocation,
        relocation: Option<&Relocation>,
    ) -> Result<Vec<OsString>, ActionError> {
        match (self, relocation) {
            (Step::Compile { compile, toolchain }, Some(relocation)) => {
                compile.relocated_arguments(toolchain, invocation, relocation).map_err(ActionError::Bound)
            }
            (Step::Compile { compile, toolchain }, None) => Ok(compile.portable_arguments(toolchain)?),
            (Step::Link { .. } | Step::Archive { .. }, Some(relocation)) => {
                linking::arguments_there(self, relocation).map_err(ActionError::Bound)
            }
            (Step::Link { .. } | Step::Archive { .. }, None) => Ok(self.arguments().to_vec()),
        }
    }

    /// All that it makes, as written.
    pub(super) fn outputs(&self) -> Vec<ExpectedOutput> {
        match self {
            Step::Compile { compile, toolchain } => compile.outputs(toolchain.family),
            Step::Link { linker, line, .. } => linker.outputs(line),
            Step::Archive { archive, .. } => archive.outputs(),
        }
    }

    /// What it appends to a file that a variable names.
    ///
    /// # Errors
    /// [`Reason::UnsupportedEnvironment`].
    pub(super) fn appended_rules(&self, invocation: &Invocation) -> Result<Option<AppendedRules>, Reason> {
        match self {
            Step::Compile { compile, toolchain } => compile.appended_rules(invocation, toolchain.family),
            Step::Link { .. } | Step::Archive { .. } => Ok(None),
        }
    }

    /// How what was found to be its inputs is held against what its programs open.
    pub(super) fn audit(&self, appended: Option<&AppendedRules>) -> Audit {
        match self {
            Step::Compile { compile, .. } => compile.audit(appended),
            Step::Link { line, .. } if line.depfiles().next().is_some() => Audit::Depfile,
            Step::Link { linker, line, .. } if linker.reports_inputs(line) => Audit::AddedDepfile,
            // An archiver reads what it is given, and cannot tell.
            Step::Link { .. } | Step::Archive { .. } => Audit::Nothing,
        }
    }

    /// The depfiles that the command asks for.
    pub(super) fn depfiles(&self, cwd: &Path) -> Vec<PathBuf> {
        match self {
            Step::Compile { compile, .. } => {
                let depfiles = compile.sources.iter().filter_map(|source| source.depfile.as_ref());
                depfiles.map(|depfile| paths::absolute(cwd, depfile)).collect()
            }
            Step::Link { line, .. } => line.depfiles().map(|depfile| paths::absolute(cwd, depfile)).collect(),
            Step::Archive { .. } => Vec::new(),
        }
    }

    /// What to append to the arguments so that a depfile is written to `path`.
    pub(super) fn depfile_arguments(&self, path: &Path) -> Vec<OsString> {
        match self {
            Step::Compile { compile, .. } => compile.depfile_arguments(path).to_vec(),
            Step::Link { link, .. } => link.depfile_arguments(path).to_vec(),
            Step::Archive { .. } => Vec::new(),
        }
    }

    /// What is added to the command's arguments, wherever it runs: what tells the programs the colours of the user's
    /// terminal, which they do not see, and what keeps Clang from writing into a precompiled header when each file in it
    /// was changed, which is another time on every machine.
    ///
    /// # Errors
    /// [`Reason::UnsupportedFlag`]: nothing can be added.
    pub(super) fn additions(&self, invocation: &Invocation) -> Result<Vec<OsString>, Reason> {
        let (compile, toolchain) = match self {
            Step::Compile { compile, toolchain } => (compile, toolchain),
            Step::Link { link, linker, .. } => return Ok(link.additions(invocation, linker.flavour)),
            Step::Archive { .. } => return Ok(Vec::new()),
        };
        let unknown = || Reason::UnsupportedFlag("recorded switches on a terminal".to_owned());
        let mut added = compile.colour_arguments(invocation, toolchain.family).ok_or_else(unknown)?;
        if compile.product == Product::PrecompiledHeader && toolchain.family == Family::Clang {
            added.extend(["-Xclang", "-fno-pch-timestamp"].map(OsString::from));
        }
        Ok(added)
    }

    /// Why another machine would make other bytes of it.
    pub(super) fn is_bound_here(&self) -> Option<&'static str> {
        match self {
            Step::Compile { compile, toolchain } => compile.is_bound_here(toolchain.family),
            Step::Link { link, .. } => link.is_bound_here(),
            Step::Archive { .. } => None,
        }
    }
}

//! A command that farcc understands in full, with what its programs said of themselves: what the kinds of commands have in
//! common, and what differs.
//! Knows nothing of inputs, actions and results.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compiler::AppendedRules;
use crate::compiler::Audit;
use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Product;
use crate::compiler::Task;
use crate::compiler::Toolchain;
use crate::compiler::Tools;
use crate::dispatch::Dispatcher;
use crate::paths;
use crate::preprocessor::Family;
use crate::reason::Reason;

/// A command, and the programs that do its work.
#[derive(Clone)]
pub(super) enum Step {
    /// Sources into objects.
    Compile { compile: Arc<Compile>, toolchain: Arc<Toolchain> },
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
            Task::Link => Err(Reason::Link),
            Task::Archive => Err(Reason::Archive),
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
        }
    }

    /// The programs that it runs.
    pub(super) fn tools(&self) -> &Arc<Tools> {
        match self {
            Step::Compile { toolchain, .. } => &toolchain.tools,
        }
    }

    /// What it appends to a file that a variable names.
    ///
    /// # Errors
    /// [`Reason::UnsupportedEnvironment`].
    pub(super) fn appended_rules(&self, invocation: &Invocation) -> Result<Option<AppendedRules>, Reason> {
        match self {
            Step::Compile { compile, toolchain } => compile.appended_rules(invocation, toolchain.family),
        }
    }

    /// How what was found to be its inputs is held against what its programs open.
    pub(super) fn audit(&self, appended: Option<&AppendedRules>) -> Audit {
        match self {
            Step::Compile { compile, .. } => compile.audit(appended),
        }
    }

    /// The depfiles that the command asks for.
    pub(super) fn depfiles(&self, cwd: &Path) -> Vec<PathBuf> {
        match self {
            Step::Compile { compile, .. } => {
                let depfiles = compile.sources.iter().filter_map(|source| source.depfile.as_ref());
                depfiles.map(|depfile| paths::absolute(cwd, depfile)).collect()
            }
        }
    }

    /// What to append to the arguments so that a depfile is written to `path`.
    pub(super) fn depfile_arguments(&self, path: &Path) -> Vec<OsString> {
        match self {
            Step::Compile { compile, .. } => compile.depfile_arguments(path).to_vec(),
        }
    }

    /// What is added to the command's arguments, wherever it runs: what tells the compiler the colours of the user's
    /// terminal, which it does not see, and what keeps Clang from writing into a precompiled header when each file in it
    /// was changed, which is another time on every machine.
    ///
    /// # Errors
    /// [`Reason::UnsupportedFlag`]: nothing can be added.
    pub(super) fn additions(&self, invocation: &Invocation) -> Result<Vec<OsString>, Reason> {
        let Step::Compile { compile, toolchain } = self;
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
        }
    }
}

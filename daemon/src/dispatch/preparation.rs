//! From a compile to its Action: inputs, outputs, and what is added to the command line.
//! Knows nothing of results.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::action::APPENDED_NAME;
use crate::action::Action;
use crate::action::ActionError;
use crate::action::Checkout;
use crate::action::Circumstances;
use crate::action::CommandSpec;
use crate::action::LINK;
use crate::action::Reader;
use crate::action::RelativeCommand;
use crate::action::environment;
use crate::compiler::Audit;
use crate::compiler::Compile;
use crate::compiler::ExpectedOutput;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::compiler::Toolchain;
use crate::config::Config;
use crate::config::Paths;
use crate::config::Root;
use crate::config::Workspace;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::in_background;
use crate::dispatch::policy::matching_route;
use crate::dispatch::sharing;
use crate::dispatch::sharing::Mention;
use crate::dispatch::sharing::Sharing;
use crate::dispatch::step::Step;
use crate::listings::Listings;
use crate::paths;
use crate::reason::Reason;
use crate::relocation::Relocation;

/// A command whose key is known.
pub(super) struct Prepared {
    pub(super) action: Arc<Action>,
    pub(super) not_sure: bool,
    /// The execution properties.
    pub(super) platform: BTreeMap<String, String>,
    /// Why it shows which checkout it comes from, though it is to show none.
    pub(super) bound: Option<String>,
    /// The command by relative paths, or why there is none.
    pub(super) relative: Result<RelativeCommand, String>,
}

/// What the name of the depfile that only farcc reads has after the source's.
pub(super) const AUDIT_SUFFIX: &str = ".farcc-audit.d";

impl Dispatcher {
    /// Finds the inputs and builds the Action.
    pub(super) async fn prepare(
        &self,
        config: &Config,
        step: &Step,
        invocation: &Arc<Invocation>,
    ) -> Result<Prepared, Reason> {
        match step {
            Step::Compile { compile, toolchain } => {
                self.prepare_compile(config, step, compile, toolchain, invocation).await
            }
            Step::Link { .. } | Step::Archive { .. } => self.prepare_link(config, step, invocation).await,
        }
    }

    async fn prepare_compile(
        &self,
        config: &Config,
        step: &Step,
        compile: &Arc<Compile>,
        toolchain: &Arc<Toolchain>,
        invocation: &Arc<Invocation>,
    ) -> Result<Prepared, Reason> {
        let scanned = self.find_inputs(compile, invocation, toolchain).await?;
        if scanned.uses_time {
            return Err(Reason::TimeMacro);
        }
        let exec = &config.exec;
        let not_sure = scanned.not_sure.is_some();
        let of_route = matching_route(config, invocation).map(|route| route.platform.clone());
        let platform = config.platform.of(step.class(), &of_route.unwrap_or_default());
        let properties = platform.clone();
        let (salt, timeout) = (exec.salt.clone(), exec.timeout);
        let (shared, sharing) = (exec.paths == Paths::Shared, Arc::clone(&self.sharing));
        let scans = Arc::clone(&self.scans);
        let workspace = config.workspace.clone();
        let wants_relative = matches!(exec.root, Root::Auto | Root::Relative);
        let (step, invocation) = (step.clone(), Arc::clone(invocation));
        let (compile, toolchain) = (Arc::clone(compile), Arc::clone(toolchain));
        let action = in_background(move || {
            let circumstances = Circumstances {
                toolchain: toolchain.tools.identity,
                salt: &salt,
                platform: &platform,
                timeout,
            };
            let subject = Subject {
                step: &step,
                compile: &compile,
                invocation: &invocation,
                toolchain: &toolchain,
                circumstances: &circumstances,
                listings: scans.sources().listings(),
            };
            let mut bound = None;
            let mut relative = Err("it is not asked for".to_owned());
            if shared {
                match subject.shared_action(&scanned, &workspace, &sharing) {
                    Ok(action) => return Ok((action, None, relative)),
                    Err(ActionError::Bound(why)) => bound = Some(why),
                    Err(ActionError::Local(reason)) => return Err(reason),
                }
            }
            if wants_relative {
                relative = subject.relative_command(&scanned, &sharing);
            }
            match subject.action(scanned, None) {
                Ok(action) => Ok((action, bound, relative)),
                Err(ActionError::Local(reason)) => Err(reason),
                Err(ActionError::Bound(why)) => Err(Reason::Internal(why)),
            }
        });
        let (action, bound, relative) = action.await??;
        Ok(Prepared { action: Arc::new(action), not_sure, platform: properties, bound, relative })
    }
}

/// A compile and all that its Action is made of besides its inputs.
struct Subject<'a> {
    step: &'a Step,
    compile: &'a Compile,
    invocation: &'a Invocation,
    toolchain: &'a Toolchain,
    circumstances: &'a Circumstances<'a>,
    listings: &'a Listings,
}

impl Subject<'_> {
    /// The Action that is the same for every checkout.
    ///
    /// # Errors
    /// [`ActionError::Bound`]: there is none.
    fn shared_action(
        &self,
        scanned: &Scanned,
        workspace: &Workspace,
        sharing: &Sharing,
    ) -> Result<Action, ActionError> {
        let relocation = sharing::relocation(workspace, &self.invocation.cwd).map_err(ActionError::Bound)?;
        let bound = |path: &Path, why: &str| Err(ActionError::Bound(format!("{} {why}", path.display())));
        if let Some(not_sure) = &scanned.not_sure {
            return Err(ActionError::Bound(format!("the scanner is not sure of it: {not_sure}")));
        }
        let shows_types = self.compile.shows_paths_of_types(self.toolchain);
        match sharing.check(&scanned.inputs, &relocation, shows_types)? {
            Some((path, Mention::Workspace)) => return bound(&path, "names the workspace"),
            Some((path, Mention::Signature)) => {
                return bound(&path, "has __PRETTY_FUNCTION__, which names paths");
            }
            None => {}
        }
        let mut names = scanned.absolute.iter().map(|name| paths::lexically_normal(name));
        if let Some(name) = names.find(|name| relocation.there(name) != *name) {
            return bound(&name, "is named in some text");
        }
        let checkout = Checkout { relocation: Arc::new(relocation), family: self.toolchain.family };
        self.action(scanned.clone(), Some(checkout))
    }

    /// The command by relative paths, for workers on which no absolute path leads to its files.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    fn relative_command(&self, scanned: &Scanned, sharing: &Sharing) -> Result<RelativeCommand, String> {
        let Subject { step, compile, invocation, toolchain, .. } = *self;
        if let Some(not_sure) = &scanned.not_sure {
            return Err(format!("the scanner is not sure of it: {not_sure}"));
        }
        if let Some(name) = scanned.absolute.iter().find(|name| !paths::is_system(name)) {
            return Err(format!("{} is named in some text", name.display()));
        }
        if compile.shows_paths_of_types(toolchain) {
            // It names no directory that any file could mention.
            let nowhere = Relocation::new(&["/farcc-nowhere".into()])?;
            let found =
                sharing.check(&scanned.inputs, &nowhere, true).map_err(|reason| reason.to_string())?;
            if let Some((path, _)) = found {
                return Err(format!("{} has __PRETTY_FUNCTION__, which names paths", path.display()));
            }
        }
        let appended =
            compile.appended_rules(invocation, toolchain.family).map_err(|reason| reason.to_string())?;
        if let Some(rules) = &appended {
            return Err(format!("{} asks for rules", rules.variable));
        }
        let text = |reason: Reason| reason.to_string();
        let pwd =
            environment(&invocation.env, &invocation.cwd, &[], Reader::Compiler).map_err(text)?.remove("PWD");
        let pwd = pwd.ok_or("the working directory has no name")?;
        let mut arguments = vec![driver_name(&compile.driver, invocation)];
        arguments.extend(compile.relative_arguments(toolchain, invocation, &pwd, LINK)?);
        arguments.extend(step.additions(invocation).map_err(text)?);
        if compile.audit(None) == Audit::AddedDepfile {
            let audit = compile.by_link(LINK, &audit_depfile(compile));
            arguments.extend(compile.depfile_arguments(&audit));
        }
        Ok(RelativeCommand { arguments, family: toolchain.family })
    }

    fn action(&self, scanned: Scanned, checkout: Option<Checkout>) -> Result<Action, ActionError> {
        let Subject { step, compile, invocation, toolchain, circumstances, listings } = *self;
        let relocation = checkout.as_ref().map(|checkout| &*checkout.relocation);
        let driver = driver_name(&compile.driver, invocation);
        if relocation.is_some() && !Path::new(&driver).is_absolute() {
            return Err(ActionError::Bound("the compiler is named from the working directory".to_owned()));
        }
        let mut arguments = vec![driver];
        arguments.extend(match relocation {
            Some(relocation) => {
                compile.relocated_arguments(toolchain, invocation, relocation).map_err(ActionError::Bound)?
            }
            None => compile.portable_arguments(toolchain)?,
        });
        arguments.extend(step.additions(invocation)?);
        let mut outputs = compile.outputs(toolchain.family);
        let appended = compile.appended_rules(invocation, toolchain.family)?;
        if let (Some(rules), Some(_)) = (&appended, relocation) {
            return Err(ActionError::Bound(format!("{} asks for rules", rules.variable)));
        }
        if compile.audit(appended.as_ref()) == Audit::AddedDepfile {
            let audit = audit_depfile(compile);
            let there = relocation.map_or_else(|| audit.clone(), |relocation| relocation.there(&audit));
            arguments.extend(compile.depfile_arguments(&there));
            outputs.push(ExpectedOutput::replacing(OutputKind::AuditDepfile, audit));
        }
        outputs.extend(appended.iter().map(|rules| ExpectedOutput::appending(rules.file.clone())));
        for output in &mut outputs {
            output.path = paths::absolute(&invocation.cwd, &output.path);
        }
        let mut environment =
            environment(&invocation.env, &invocation.cwd, &toolchain.tools.programs, Reader::Compiler)?;
        if let Some(rules) = &appended {
            environment.insert(rules.variable.to_owned(), rules.value(APPENDED_NAME)?);
        }
        let mut directories = scanned.directories;
        directories.extend(environment.get("PWD").map(PathBuf::from));
        if let Some(relocation) = relocation {
            move_environment(&mut environment, &invocation.cwd, relocation)?;
        }
        let cwd = &invocation.cwd;
        let spec = CommandSpec { arguments, environment, cwd, directories, outputs, checkout, speaker: None };
        Action::new(&spec, scanned.inputs, circumstances, listings)
    }
}

/// The depfile that only farcc reads, beside the object.
fn audit_depfile(compile: &Compile) -> PathBuf {
    let named = compile.sources.iter().map(|source| source.object.as_ref().unwrap_or(&source.path));
    let mut audit = named.take(1).cloned().collect::<PathBuf>().into_os_string();
    audit.push(AUDIT_SUFFIX);
    audit.into()
}

/// Gives `PWD` its value in the action; no other variable may name the workspace.
pub(super) fn move_environment(
    environment: &mut BTreeMap<String, String>,
    cwd: &Path,
    relocation: &Relocation,
) -> Result<(), ActionError> {
    for (name, value) in environment {
        if name != "PWD" {
            if relocation.is_named_in(value.as_bytes()) {
                return Err(ActionError::Bound(format!("the variable {name} names the workspace")));
            }
        } else if value.as_bytes() != cwd.as_os_str().as_bytes() {
            return Err(ActionError::Bound(format!("PWD is {value}, another name of the working directory")));
        } else if let Some(there) = relocation.there(cwd).to_str() {
            there.clone_into(value);
        }
    }
    Ok(())
}

/// The name under which a worker, which has the same system directories and no others, runs the driver.
pub(super) fn driver_name(driver: &Path, invocation: &Invocation) -> OsString {
    if !paths::is_system(&paths::lexically_normal(driver)) {
        // A link to a compiler of the image.
        let target = std::fs::canonicalize(driver);
        return target.map_or_else(|_| driver.into(), PathBuf::into_os_string);
    }
    // Clang with -no-canonical-prefixes names its own headers relative to argv[0]. A compiler wrapper by the compiler's name
    // is another program than the driver.
    let named = invocation.argv.first().filter(|program| program.as_encoded_bytes().contains(&b'/'));
    let named = named.filter(|program| invocation.cwd.join(program) == *driver);
    named.map_or_else(|| driver.into(), OsString::clone)
}

/// What the launcher runs: the command as it was typed, and what is added to it.
///
/// # Errors
/// Those of [`Step::additions`].
pub(super) fn argv_here(
    step: &Step,
    executed: &Invocation,
    typed: &Invocation,
    action: &Action,
) -> Result<Vec<OsString>, Reason> {
    let mut argv = typed.argv.clone();
    if let (Some(checkout), Step::Compile { compile, .. }) = (&action.checkout, step) {
        argv.splice(1..1, compile.prefix_maps(&checkout.relocation));
    }
    argv.extend(step.additions(executed)?);
    Ok(argv)
}

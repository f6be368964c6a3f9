//! From a command to its Action: inputs, outputs, and what is added to the command line.
//! Knows nothing of results, nor what the kinds of commands read.

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
use crate::action::RelativeCommand;
use crate::action::Speaker;
use crate::action::environment;
use crate::compiler::Audit;
use crate::compiler::ExpectedOutput;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::compiler::by_link;
use crate::config::Config;
use crate::config::Paths;
use crate::config::Root;
use crate::config::Workspace;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::compiling;
use crate::dispatch::in_background;
use crate::dispatch::linking::Linking;
use crate::dispatch::policy::matching_route;
use crate::dispatch::sharing;
use crate::dispatch::sharing::Sharing;
use crate::dispatch::step::Step;
use crate::linker;
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

/// What the name of the depfile that only farcc reads has after that of what is made.
const AUDIT_SUFFIX: &str = ".farcc-audit.d";

impl Dispatcher {
    /// Builds the Action of a command whose inputs were `read`.
    pub(super) async fn prepare(
        &self,
        config: &Config,
        step: &Step,
        invocation: &Arc<Invocation>,
        read: Scanned,
    ) -> Result<Prepared, Reason> {
        if read.uses_time {
            return Err(Reason::TimeMacro);
        }
        let exec = &config.exec;
        let not_sure = read.not_sure.is_some();
        let platform = platform(config, step, invocation);
        let properties = platform.clone();
        let (salt, timeout) = (exec.salt.clone(), exec.timeout);
        let (shared, sharing) = (exec.paths == Paths::Shared, Arc::clone(&self.sharing));
        let (scans, link_sources) = (Arc::clone(&self.scans), Arc::clone(&self.link_sources));
        let workspace = config.workspace.clone();
        let wants_relative = matches!(exec.root, Root::Auto | Root::Relative);
        let (step, invocation) = (step.clone(), Arc::clone(invocation));
        let action = in_background(move || {
            let toolchain = step.tools().identity;
            let circumstances = Circumstances { toolchain, salt: &salt, platform: &platform, timeout };
            let subject = Subject {
                step: &step,
                invocation: &invocation,
                circumstances: &circumstances,
                listings: scans.sources().listings(),
                sharing: &sharing,
                link_sources: &link_sources,
            };
            let mut bound = None;
            let mut relative = Err("it is not asked for".to_owned());
            if shared {
                match subject.shared_action(&read, &workspace) {
                    Ok(action) if sharing.has_shown(&action.sought.key) => {
                        bound = Some("what it made showed the workspace".to_owned());
                    }
                    Ok(action) => return Ok((action, None, relative)),
                    Err(ActionError::Bound(why)) => bound = Some(why),
                    Err(ActionError::Local(reason)) => return Err(reason),
                }
            }
            if wants_relative {
                relative = subject.relative_command(&read);
            }
            match subject.action(read, None) {
                Ok(action) => Ok((action, bound, relative)),
                Err(ActionError::Local(reason)) => Err(reason),
                Err(ActionError::Bound(why)) => Err(Reason::Internal(why)),
            }
        });
        let (action, bound, relative) = action.await??;
        Ok(Prepared { action: Arc::new(action), not_sure, platform: properties, bound, relative })
    }

    /// What a command reads.
    ///
    /// # Errors
    /// The reason why that is not known.
    pub(super) async fn inputs(&self, step: &Step, invocation: &Arc<Invocation>) -> Result<Scanned, Reason> {
        match step {
            Step::Compile { compile, toolchain } => self.find_inputs(compile, invocation, toolchain).await,
            Step::Link { .. } | Step::Archive { .. } => self.link_inputs(step, invocation).await,
        }
    }
}

/// The execution properties of a command.
pub(super) fn platform(config: &Config, step: &Step, invocation: &Invocation) -> BTreeMap<String, String> {
    let of_route = matching_route(config, invocation).map(|route| route.platform.clone());
    config.platform.of(step.class(), &of_route.unwrap_or_default())
}

/// A command, and all that its Action is made of besides its inputs.
struct Subject<'a> {
    step: &'a Step,
    invocation: &'a Invocation,
    circumstances: &'a Circumstances<'a>,
    listings: &'a Listings,
    sharing: &'a Sharing,
    link_sources: &'a linker::Sources,
}

impl Subject<'_> {
    /// The Action that is the same for every checkout.
    ///
    /// # Errors
    /// [`ActionError::Bound`]: there is none.
    fn shared_action(&self, read: &Scanned, workspace: &Workspace) -> Result<Action, ActionError> {
        let relocation = sharing::relocation(workspace, &self.invocation.cwd).map_err(ActionError::Bound)?;
        self.check_sharing(read, &relocation)?;
        let checkout = Checkout { relocation: Arc::new(relocation), writer: self.step.writer() };
        self.action(read.clone(), Some(checkout))
    }

    /// Says whether what is made shows no checkout.
    fn check_sharing(&self, read: &Scanned, relocation: &Relocation) -> Result<(), ActionError> {
        match self.step {
            Step::Compile { compile, toolchain } => {
                compiling::check_sharing(compile, toolchain, read, relocation, self.sharing)
            }
            Step::Link { .. } | Step::Archive { .. } => {
                self.linking().check_sharing(read, relocation, self.sharing)
            }
        }
    }

    fn linking(&self) -> Linking<'_> {
        Linking { step: self.step, sources: self.link_sources }
    }

    /// The command by relative paths, for workers on which no absolute path leads to its files.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    fn relative_command(&self, read: &Scanned) -> Result<RelativeCommand, String> {
        let Subject { step, invocation, .. } = *self;
        let text = |reason: Reason| reason.to_string();
        let of_command = match step {
            Step::Compile { compile, toolchain } => {
                compiling::relative_arguments(compile, toolchain, invocation, read, self.sharing)?
            }
            Step::Link { .. } | Step::Archive { .. } => self.linking().relative_arguments(read)?,
        };
        let mut arguments = vec![driver_name(step.program(), invocation)];
        arguments.extend(of_command);
        arguments.extend(step.additions(invocation).map_err(text)?);
        if step.audit(None) == Audit::AddedDepfile {
            arguments.extend(step.depfile_arguments(&by_link(LINK, &self.audit_depfile())));
        }
        Ok(RelativeCommand { arguments, writer: step.writer() })
    }

    /// The depfile that only farcc reads, beside what is made.
    fn audit_depfile(&self) -> PathBuf {
        let mut audit = self.step.product().as_os_str().to_owned();
        audit.push(AUDIT_SUFFIX);
        audit.into()
    }

    fn action(&self, read: Scanned, checkout: Option<Checkout>) -> Result<Action, ActionError> {
        let Subject { step, invocation, circumstances, listings, .. } = *self;
        let cwd = &invocation.cwd;
        let relocation = checkout.as_ref().map(|checkout| &*checkout.relocation);
        let program = driver_name(step.program(), invocation);
        if relocation.is_some() && !Path::new(&program).is_absolute() {
            return Err(ActionError::Bound("the program is named from the working directory".to_owned()));
        }
        // Drivers speak of themselves without their directory.
        let named = invocation.argv.first().filter(|_| matches!(step, Step::Archive { .. }));
        let speaker = named.and_then(|named| Speaker::new(named, &program));
        let mut arguments = vec![program];
        arguments.extend(step.arguments_there(invocation, relocation)?);
        arguments.extend(step.additions(invocation)?);
        let mut outputs = step.outputs();
        let appended = step.appended_rules(invocation)?;
        if let (Some(rules), Some(_)) = (&appended, relocation) {
            return Err(ActionError::Bound(format!("{} asks for rules", rules.variable)));
        }
        if step.audit(appended.as_ref()) == Audit::AddedDepfile {
            let audit = self.audit_depfile();
            let there = relocation.map_or_else(|| audit.clone(), |relocation| relocation.there(&audit));
            arguments.extend(step.depfile_arguments(&there));
            outputs.push(ExpectedOutput::replacing(OutputKind::AuditDepfile, audit));
        }
        outputs.extend(appended.iter().map(|rules| ExpectedOutput::appending(rules.file.clone())));
        for output in &mut outputs {
            output.path = paths::absolute(cwd, &output.path);
        }
        let mut environment = environment(&invocation.env, cwd, &step.tools().programs, step.reader())?;
        if let Some(rules) = &appended {
            environment.insert(rules.variable.to_owned(), rules.value(APPENDED_NAME)?);
        }
        let mut directories = read.directories;
        directories.extend(environment.get("PWD").map(PathBuf::from));
        if let Some(relocation) = relocation {
            move_environment(&mut environment, cwd, relocation)?;
        }
        let spec = CommandSpec { arguments, environment, cwd, directories, outputs, checkout, speaker };
        Action::new(&spec, read.inputs, circumstances, listings)
    }
}

/// Gives `PWD` its value in the action; no other variable may name the workspace.
fn move_environment(
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
    if let (Some(checkout), Step::Compile { compile, .. }) = (&action.sought.checkout, step) {
        argv.splice(1..1, compile.prefix_maps(&checkout.relocation));
    }
    argv.extend(step.additions(executed)?);
    Ok(argv)
}

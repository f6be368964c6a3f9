//! From a compile to its Action: inputs, outputs, and what is added to the command line.
//! Knows nothing of results.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::action::Action;
use crate::action::Circumstances;
use crate::action::CommandSpec;
use crate::action::environment;
use crate::compiler::Audit;
use crate::compiler::Compile;
use crate::compiler::ExpectedOutput;

use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::compiler::Product;
use crate::compiler::Toolchain;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::in_background;
use crate::paths;
use crate::preprocessor::Family;
use crate::reason::Reason;

/// A command whose key is known.
pub(super) struct Prepared {
    pub(super) action: Arc<Action>,
    pub(super) not_sure: bool,
}

/// What the name of the depfile that only farcc reads has after the source's.
const AUDIT_SUFFIX: &str = ".farcc-audit.d";

impl Dispatcher {
    /// Finds the inputs and builds the Action.
    pub(super) async fn prepare(
        &self,
        config: &Config,
        compile: &Arc<Compile>,
        invocation: &Arc<Invocation>,
        toolchain: &Arc<Toolchain>,
    ) -> Result<Prepared, Reason> {
        let scanned = self.find_inputs(compile, invocation, toolchain).await?;
        if scanned.uses_time {
            return Err(Reason::TimeMacro);
        }
        let exec = &config.exec;
        let not_sure = scanned.not_sure.is_some();
        let (platform, salt, timeout) = (config.platform.clone(), exec.salt.clone(), exec.timeout);
        let (compile, invocation) = (Arc::clone(compile), Arc::clone(invocation));
        let toolchain = Arc::clone(toolchain);
        let action = in_background(move || {
            let circumstances =
                Circumstances { toolchain: toolchain.identity, salt: &salt, platform: &platform, timeout };
            build_action(&compile, &invocation, &toolchain, scanned, &circumstances)
        });
        Ok(Prepared { action: Arc::new(action.await??), not_sure })
    }
}

fn build_action(
    compile: &Compile,
    invocation: &Invocation,
    toolchain: &Toolchain,
    scanned: Scanned,
    circumstances: &Circumstances,
) -> Result<Action, Reason> {
    let mut arguments = vec![driver_name(compile, invocation)];
    arguments.extend(compile.portable_arguments(toolchain)?);
    arguments.extend(additions(compile, invocation, toolchain)?);
    let mut outputs = compile.outputs(toolchain.family);
    if compile.audit() == Audit::AddedDepfile {
        let named = compile.sources.iter().map(|source| source.object.as_ref().unwrap_or(&source.path));
        let mut audit = named.take(1).cloned().collect::<PathBuf>().into_os_string();
        audit.push(AUDIT_SUFFIX);
        let audit = PathBuf::from(audit);
        arguments.extend(compile.depfile_arguments(&audit));
        outputs.push(ExpectedOutput::replacing(OutputKind::AuditDepfile, audit));
    }
    for output in &mut outputs {
        output.path = paths::absolute(&invocation.cwd, &output.path);
    }
    let in_image = toolchain.programs.iter().filter_map(|(path, _)| path.parent());
    let program_directories: Vec<_> = in_image.map(PathBuf::from).collect();
    let environment = environment(&invocation.env, &invocation.cwd, &program_directories)?;
    let mut directories = scanned.directories;
    directories.extend(environment.get("PWD").map(PathBuf::from));
    let spec = CommandSpec { arguments, environment, cwd: &invocation.cwd, directories, outputs };
    Action::new(&spec, scanned.inputs, circumstances)
}

/// The name under which a worker, which has the same system directories and no others, runs the driver.
fn driver_name(compile: &Compile, invocation: &Invocation) -> OsString {
    let driver = &compile.driver;
    if !paths::is_system(&paths::lexically_normal(driver)) {
        // A link to a compiler of the image.
        let target = std::fs::canonicalize(driver);
        return target.map_or_else(|_| driver.clone().into_os_string(), PathBuf::into_os_string);
    }
    // Clang with -no-canonical-prefixes names its own headers relative to argv[0].
    let named = invocation.argv.first().filter(|program| program.as_encoded_bytes().contains(&b'/'));
    named.map_or_else(|| driver.clone().into_os_string(), OsString::clone)
}

/// What is added to every compile's arguments, wherever it runs: what tells the compiler the colours of the user's
/// terminal, which it does not see, and what keeps Clang from writing into a precompiled header when each file in it was
/// changed, which is another time on every machine.
pub(super) fn additions(
    compile: &Compile,
    invocation: &Invocation,
    toolchain: &Toolchain,
) -> Result<Vec<OsString>, Reason> {
    let unknown = || Reason::UnsupportedFlag("recorded switches on a terminal".to_owned());
    let mut added = compile.colour_arguments(invocation, toolchain.family).ok_or_else(unknown)?;
    if compile.product == Product::PrecompiledHeader && toolchain.family == Family::Clang {
        added.extend(["-Xclang", "-fno-pch-timestamp"].map(OsString::from));
    }
    Ok(added)
}

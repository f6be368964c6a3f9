//! What is particular to compiles when their Action is made: why they cannot be shared, and how they are told in relative
//! paths.
//! Knows nothing of results.

use std::ffi::OsString;
use std::path::Path;

use crate::action::ActionError;
use crate::action::LINK;
use crate::action::Reader;
use crate::action::environment;
use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::dispatch::Scanned;
use crate::dispatch::sharing::Mention;
use crate::dispatch::sharing::Sharing;
use crate::paths;
use crate::reason::Reason;
use crate::relocation::Relocation;

/// Says whether what a compile makes shows no checkout, once its arguments are moved.
///
/// # Errors
/// [`ActionError::Bound`]: it does.
pub(super) fn check_sharing(
    compile: &Compile,
    toolchain: &Toolchain,
    scanned: &Scanned,
    relocation: &Relocation,
    sharing: &Sharing,
) -> Result<(), ActionError> {
    let bound = |path: &Path, why: &str| Err(ActionError::Bound(format!("{} {why}", path.display())));
    if let Some(not_sure) = &scanned.not_sure {
        return Err(ActionError::Bound(format!("the scanner is not sure of it: {not_sure}")));
    }
    match sharing.check(&scanned.inputs, relocation, compile.shows_paths_of_types(toolchain))? {
        Some((path, Mention::Workspace)) => return bound(&path, "names the workspace"),
        Some((path, Mention::Signature)) => {
            return bound(&path, "has __PRETTY_FUNCTION__, which names paths");
        }
        None => {}
    }
    let mut names = scanned.absolute.iter().map(|name| paths::lexically_normal(name));
    match names.find(|name| relocation.there(name) != *name) {
        Some(name) => bound(&name, "is named in some text"),
        None => Ok(()),
    }
}

/// A compile's arguments by relative paths.
///
/// # Errors
/// Why there are none, as a clause.
pub(super) fn relative_arguments(
    compile: &Compile,
    toolchain: &Toolchain,
    invocation: &Invocation,
    scanned: &Scanned,
    sharing: &Sharing,
) -> Result<Vec<OsString>, String> {
    let text = |reason: Reason| reason.to_string();
    if let Some(not_sure) = &scanned.not_sure {
        return Err(format!("the scanner is not sure of it: {not_sure}"));
    }
    if let Some(name) = scanned.absolute.iter().find(|name| !paths::is_system(name)) {
        return Err(format!("{} is named in some text", name.display()));
    }
    if compile.shows_paths_of_types(toolchain) {
        // It names no directory that any file could mention.
        let nowhere = Relocation::new(&["/farcc-nowhere".into()])?;
        let found = sharing.check(&scanned.inputs, &nowhere, true).map_err(|reason| reason.to_string())?;
        if let Some((path, _)) = found {
            return Err(format!("{} has __PRETTY_FUNCTION__, which names paths", path.display()));
        }
    }
    if let Some(rules) = compile.appended_rules(invocation, toolchain.family).map_err(text)? {
        return Err(format!("{} asks for rules", rules.variable));
    }
    let pwd =
        environment(&invocation.env, &invocation.cwd, &[], Reader::Compiler).map_err(text)?.remove("PWD");
    let pwd = pwd.ok_or("the working directory has no name")?;
    compile.relative_arguments(toolchain, invocation, &pwd, LINK)
}

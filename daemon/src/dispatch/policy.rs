//! What the configuration and the toolchain say about where a command may run.
//! Knows nothing of actions and results.

use bytesize::ByteSize;

use crate::action::Action;
use crate::action::worker_path;
use crate::compiler::Invocation;
use crate::compiler::Tools;
use crate::config::Config;
use crate::config::Destination;
use crate::config::Route;
use crate::config::Strategy;
use crate::dispatch::step::Step;
use crate::paths;
use crate::reason::Reason;

/// The reason to stay here that the first matching `[[route]]` gives.
pub(super) fn route(config: &Config, invocation: &Invocation) -> Option<Reason> {
    let route = matching_route(config, invocation)?;
    match route.to {
        Destination::Local => Some(Reason::Route(route.pattern.as_str().to_owned())),
        Destination::Remote | Destination::Twin => None,
    }
}

/// The first `[[route]]` that matches the command.
pub(super) fn matching_route<'a>(config: &'a Config, invocation: &Invocation) -> Option<&'a Route> {
    if config.routes.is_empty() {
        return None;
    }
    let line = invocation.argv.join(std::ffi::OsStr::new(" "));
    config.routes.iter().find(|route| route.pattern.is_match(line.as_encoded_bytes()))
}

/// Whether a size is over a limit of the configuration's, which is off where it is 0.
fn is_above(limit: ByteSize, size_bytes: u64) -> bool {
    limit.as_u64() > 0 && size_bytes > limit.as_u64()
}

/// What the inputs of a link have together, in bytes; None: it is no link.
fn link_bytes(step: &Step, action: &Action) -> Option<u64> {
    let sizes = action.inputs.iter().map(|input| input.version.digest.size_bytes());
    matches!(step, Step::Link { .. }).then(|| sizes.sum())
}

/// Why a link stays here for its size.
pub(super) fn too_big(config: &Config, step: &Step, action: &Action) -> Option<Reason> {
    let size_bytes = link_bytes(step, action).filter(|&size| is_above(config.link.local_above, size))?;
    let size = ByteSize::b(size_bytes);
    Some(Reason::BigLink(format!("{size} of inputs, and [link] local_above is {}", config.link.local_above)))
}

/// Whether a link takes much of this machine's memory.
pub(super) fn is_heavy(config: &Config, step: &Step, action: &Action) -> bool {
    link_bytes(step, action).is_some_and(|size| is_above(config.link.heavy_above, size))
}

/// A program of the toolchain that a worker with the same image would not have, or why it would make other bytes.
pub(super) fn not_shared(config: &Config, step: &Step) -> Option<String> {
    // No worker makes anything: whoever has the result made it with the same programs, by their digests.
    if config.exec.strategy == Strategy::CacheOnly {
        return None;
    }
    let elsewhere = step.tools().programs.iter().find(|(path, _)| !paths::is_system(path));
    let elsewhere = elsewhere.map(|(path, _)| path.display().to_string());
    let elsewhere = elsewhere.or_else(|| named_elsewhere(step.tools()));
    elsewhere.or_else(|| step.is_bound_here().map(str::to_owned))
}

/// A program that this command's `PATH` leads to by a name by which a worker would find another, or none.
fn named_elsewhere(tools: &Tools) -> Option<String> {
    let directories: Vec<_> = worker_path(&tools.programs).collect();
    let finds = |name: &str| {
        let found = directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file())?;
        std::fs::canonicalize(found).ok()
    };
    let name = tools.lookups.iter().find(|(name, target)| finds(name).as_ref() != Some(target));
    let link = || tools.links.iter().find(|(link, _)| !paths::is_system(link));
    name.map(|(name, _)| name.clone()).or_else(|| link().map(|(link, _)| link.display().to_string()))
}

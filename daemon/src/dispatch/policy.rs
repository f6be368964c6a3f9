//! What the configuration and the toolchain say about where a command may run.
//! Knows nothing of actions and results.

use crate::compiler::Invocation;
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
        Destination::Remote => None,
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

/// A program of the toolchain that a worker with the same image would not have, or why it would make other bytes.
pub(super) fn not_shared(config: &Config, step: &Step) -> Option<String> {
    // No worker makes anything: whoever has the result made it with the same programs, by their digests.
    if config.exec.strategy == Strategy::CacheOnly {
        return None;
    }
    let elsewhere = step.tools().programs.iter().find(|(path, _)| !paths::is_system(path));
    let elsewhere = elsewhere.map(|(path, _)| path.display().to_string());
    elsewhere.or_else(|| step.is_bound_here().map(str::to_owned))
}

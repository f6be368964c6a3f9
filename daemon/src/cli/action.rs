//! `farccd action`: the REAPI Action of a compile, as JSON.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;
use serde_json::Value;
use serde_json::json;

use crate::cli::Surroundings;
use crate::cli::print_json;
use crate::cli::runtime;
use crate::digest::Digest;
use crate::paths;

pub(super) fn action(surroundings: &Surroundings, words: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let invocation = surroundings.typed(words)?;
    let action = match runtime()?.block_on(surroundings.dispatcher().action(&invocation)) {
        Ok(action) => action,
        Err(reason) => bail!("build the action: the command would run locally: {reason}"),
    };
    let command = re::Command::decode(&*action.command).context("read the command back")?;
    let message = re::Action::decode(&*action.action).context("read the action back")?;
    let directories: HashMap<_, _> =
        action.input_root.directories.iter().map(|(digest, bytes)| (*digest, bytes.as_slice())).collect();
    let mut tree = Vec::new();
    list(&directories, action.input_root.digest, "", &mut tree)?;
    let in_image =
        action.inputs.iter().filter(|input| paths::is_system(&paths::lexically_normal(&input.path)));
    let variables =
        command.environment_variables.iter().map(|variable| (variable.name.clone(), json!(variable.value)));
    let platform = message.platform.unwrap_or_default().properties;
    print_json(&json!({
        "action_digest": action.digest.to_string(),
        "command_digest": action.command_digest.to_string(),
        "local_key": action.sought.key.to_string(),
        "arguments": command.arguments,
        "environment": variables.collect::<serde_json::Map<_, _>>(),
        "working_directory": command.working_directory,
        "outputs": command.output_paths,
        "platform": platform.into_iter().map(|p| (p.name, json!(p.value))).collect::<serde_json::Map<_, _>>(),
        "timeout_seconds": message.timeout.map(|timeout| timeout.seconds),
        "input_root_digest": action.input_root.digest.to_string(),
        "input_root": tree,
        "inputs_of_the_image": in_image.map(|input| json!({
            "path": input.path.to_string_lossy(),
            "digest": input.version.digest.to_string(),
        })).collect::<Vec<_>>(),
    }))
}

/// Lists a Merkle tree depth first: each entry with its path below the input root.
fn list(
    directories: &HashMap<Digest, &[u8]>,
    digest: Digest,
    path: &str,
    entries: &mut Vec<Value>,
) -> anyhow::Result<()> {
    let bytes = directories.get(&digest).context("read the input tree back: a directory is missing")?;
    let directory = re::Directory::decode(*bytes).context("read the input tree back")?;
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    let text = |digest: Option<&re::Digest>| -> anyhow::Result<Digest> {
        let digest = digest.context("read the input tree back: a digest is missing")?;
        Ok(Digest::try_from(digest)?)
    };
    for file in &directory.files {
        entries.push(json!({
            "path": below(&file.name),
            "digest": text(file.digest.as_ref())?.to_string(),
            "executable": file.is_executable,
        }));
    }
    for symlink in &directory.symlinks {
        entries.push(json!({ "path": below(&symlink.name), "target": symlink.target }));
    }
    if directory.files.is_empty() && directory.symlinks.is_empty() && directory.directories.is_empty() {
        entries.push(json!({ "path": format!("{path}/") }));
    }
    for node in &directory.directories {
        list(directories, text(node.digest.as_ref())?, &below(&node.name), entries)?;
    }
    Ok(())
}

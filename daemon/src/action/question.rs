//! Actions that ask a worker about itself, by the program that is sent along.
//! Knows nothing of what becomes of the answers.

use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::action::Action;
use crate::action::InputRoot;
use crate::action::draft::Draft;
use crate::action::draft::text;
use crate::action::rooted::PROPERTY;
use crate::digest::Digest;
use crate::worker;

/// The action that asks a worker how its commands can find files by their absolute paths. `platform`: as in the actions that
/// it is asked for. `at`: where the input root is asked to stand.
///
/// # Errors
/// None that a caller could mend.
pub fn probe(platform: re::Platform, program: &Path, at: Option<&Path>) -> Result<Action, String> {
    let mut draft = question("probe", platform, program)?;
    draft.command.arguments.extend(["--file".to_owned(), format!("/{}", worker::NAME)]);
    if let Some(at) = at {
        draft.command.arguments.extend(["--at".to_owned(), text(at)?]);
        draft.set_property(PROPERTY, &text(at)?);
    }
    Ok(draft.finished())
}

/// The action that asks a worker what the files at `paths` hold, and those below them. `platform`: as in the actions that it
/// is asked for.
///
/// # Errors
/// A path that REAPI cannot carry.
pub fn report(platform: re::Platform, program: &Path, paths: &[PathBuf]) -> Result<Action, String> {
    let mut draft = question("report", platform, program)?;
    for path in paths {
        draft.command.arguments.push(text(path)?);
    }
    Ok(draft.finished())
}

fn question(what: &str, platform: re::Platform, program: &Path) -> Result<Draft, String> {
    let empty = re::Directory::default().encode_to_vec();
    let digest = Digest::of(&empty);
    let input_root = InputRoot { digest, directories: vec![(digest, empty)], files: Vec::new() };
    let command = re::Command {
        arguments: vec![format!("./{}", worker::NAME), what.to_owned()],
        environment_variables: vec![re::command::EnvironmentVariable {
            name: "PATH".to_owned(),
            value: "/usr/bin:/bin".to_owned(),
        }],
        #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
        platform: Some(platform.clone()),
        ..re::Command::default()
    };
    // What another worker answered is no answer.
    let action = re::Action { platform: Some(platform), do_not_cache: true, ..re::Action::default() };
    let mut draft = Draft { command, action, input_root, outputs: Vec::new() };
    draft.add_program(worker::NAME, program)?;
    Ok(draft)
}

/// The platform that an action asks for.
pub fn platform_of(action: &Action) -> re::Platform {
    let message = re::Action::decode(action.action.as_slice()).unwrap_or_default();
    message.platform.unwrap_or_default()
}

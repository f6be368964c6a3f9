//! From a command and its inputs to a REAPI Action: what is sent to a cluster, and the key of the result.
//! Knows nothing of scanning, nor of clusters; installs and collects the outputs of a command.

mod checkout;
mod draft;
mod environment;
mod execution;
mod input_root;
mod layout;
mod outputs;
mod question;
mod remote_action;
mod rooted;
mod sought;
mod speaker;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use bazel_remote_apis::google::protobuf as google;
use prost::Message;

use crate::compiler::ExpectedOutput;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::files::InputFile;
use crate::listings::Listings;
use crate::reason::Reason;

pub use checkout::Checkout;
pub use environment::Reader;
pub use environment::environment;
pub use environment::logical_directory;
pub use environment::worker_path;
pub use execution::Execution;
pub use execution::executed_here;
pub use input_root::InputRoot;
pub use input_root::InputRootBuilder;
pub use input_root::InputRootError;
pub use input_root::Located;
pub use layout::Layout;
pub use outputs::APPENDED_NAME;
pub use outputs::InstallError;
pub use outputs::Output;
pub use outputs::collect;
pub use outputs::find;
pub use outputs::install;
pub use question::platform_of;
pub use question::probe;
pub use question::report;
pub use remote_action::RemoteAction;
pub use rooted::Brought;
pub use rooted::LINK;
pub use rooted::RelativeCommand;
pub use rooted::Rooted;
pub use sought::Sought;
pub use speaker::Speaker;

/// Part of every key: raised when the same key would mean something else than in an earlier version.
const KEY_VERSION: &[u8] = b"farcc 1";

/// A command as a worker is to run it.
#[derive(Debug, Clone)]
pub struct CommandSpec<'a> {
    /// The argument vector; argv\[0\] is absolute.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Physical working directory.
    pub cwd: &'a Path,
    /// Directories that must exist besides those of the inputs: of the search path, `$PWD`.
    pub directories: Vec<PathBuf>,
    /// What the command makes: kind and path, as opened.
    pub outputs: Vec<ExpectedOutput>,
    /// The checkout, if the action is not to show which one it comes from: arguments and environment are those of the
    /// action already, all else is as on this machine.
    pub checkout: Option<Checkout>,
    /// A program whose messages begin with its name.
    pub speaker: Option<Speaker>,
}

/// What the key depends on besides the command and its inputs.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// Identity of the toolchain: digest over all of its programs.
    pub toolchain: Digest,
    /// `[exec] salt`.
    pub salt: &'a str,
    /// `[platform]`.
    pub platform: &'a BTreeMap<String, String>,
    /// `[exec] timeout`.
    pub timeout: Duration,
}

/// A REAPI Action with all that it refers to.
#[derive(Debug, Clone)]
pub struct Action {
    /// Digest of the encoded `Action` message.
    pub digest: Digest,
    /// How its result is found on this machine, and where it goes.
    pub sought: Arc<Sought>,
    /// The encoded `Action` message.
    pub action: Vec<u8>,
    /// Digest of the encoded `Command` message.
    pub command_digest: Digest,
    /// The encoded `Command` message.
    pub command: Vec<u8>,
    /// The environment in the `Command`.
    pub environment: BTreeMap<String, String>,
    /// The input tree.
    pub input_root: InputRoot,
    /// Every file that the command reads, those of the image included.
    pub inputs: Vec<Arc<InputFile>>,
    /// Those of them that are not in the tree, since they belong to the image.
    pub in_image: Vec<Arc<InputFile>>,
    /// The ways to its files, as they were; none if they cannot be vouched for.
    pub layout: Option<Layout>,
}

/// Why there is no action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionError {
    /// The command can run only here: a path or argument that REAPI cannot carry, a directory that is missing or belongs
    /// to the image.
    Local(Reason),
    /// The action would show which checkout it comes from; the clause says by what. Without a
    /// [`checkout`](CommandSpec::checkout), never.
    Bound(String),
}

impl Action {
    /// Builds the action. `listings`: of the directories of this machine.
    ///
    /// # Errors
    /// See [`ActionError`].
    pub fn new(
        spec: &CommandSpec,
        inputs: Vec<Arc<InputFile>>,
        circumstances: &Circumstances,
        listings: &Listings,
    ) -> Result<Action, ActionError> {
        let mut builder = InputRootBuilder::new(listings);
        let cwd = match builder.add_directory(spec.cwd).map_err(Reason::from)? {
            Located::Here(cwd) => cwd,
            Located::System => return Err(Reason::SystemPath(spec.cwd.display().to_string()).into()),
        };
        let mut in_image = Vec::new();
        for input in &inputs {
            if builder.add_file(&input.path, &input.version).map_err(Reason::from)? == Located::System {
                in_image.push(Arc::clone(input));
            }
        }
        for directory in &spec.directories {
            // A directory that is not there is not there for the compiler either.
            match builder.add_directory(directory) {
                Ok(_) | Err(InputRootError::Io { .. }) => {}
                Err(error) => return Err(Reason::from(error).into()),
            }
        }
        let mut outputs = Vec::new();
        for expected in &spec.outputs {
            outputs.push(Output::locate(&mut builder, &cwd, expected, spec.checkout.as_ref())?);
        }
        let mut working_directory = cwd;
        if let Some(checkout) = &spec.checkout {
            let relocation = &checkout.relocation;
            let paths = inputs.iter().map(|input| &input.path).chain(&spec.directories);
            let paths = paths.chain(outputs.iter().map(|output: &Output| &output.path));
            let mut paths = paths.map(PathBuf::as_path).chain([spec.cwd]);
            if let Some(path) = paths.find(|path| relocation.crosses(path)) {
                return Err(ActionError::Bound(format!("{} leads across the workspace", path.display())));
            }
            builder.relocate(relocation).map_err(|path| {
                ActionError::Bound(format!("the symlink {} leads across the workspace", path.display()))
            })?;
            working_directory = relocation.there(&working_directory).into();
        }
        let layout = builder.layout();
        let input_root = builder.build();
        let platform = platform(circumstances.platform);
        let command = encode_command(spec, &working_directory, &outputs, &platform)?;
        let command_digest = Digest::of(&command);
        let mut action = re::Action {
            command_digest: Some(command_digest.into()),
            input_root_digest: Some(input_root.digest.into()),
            salt: salt(circumstances, &in_image),
            platform: Some(platform),
            ..re::Action::default()
        };
        let key = Digest::of(&action.encode_to_vec());
        action.timeout = Some(duration(circumstances.timeout));
        let action = action.encode_to_vec();
        let digest = Digest::of(&action);
        let (checkout, speaker) = (spec.checkout.clone(), spec.speaker.clone());
        Ok(Action {
            digest,
            sought: Arc::new(Sought { key, outputs, checkout, speaker }),
            action,
            command_digest,
            command,
            environment: spec.environment.clone(),
            input_root,
            inputs,
            in_image,
            layout,
        })
    }
}

fn duration(duration: Duration) -> google::Duration {
    google::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// REAPI's `Platform`: sorted by name, then value, as servers check.
pub fn platform(properties: &BTreeMap<String, String>) -> re::Platform {
    let property = |(name, value): (&String, &String)| re::platform::Property {
        name: name.clone(),
        value: value.clone(),
    };
    re::Platform { properties: properties.iter().map(property).collect() }
}

fn encode_command(
    spec: &CommandSpec,
    cwd: &Path,
    outputs: &[Output],
    platform: &re::Platform,
) -> Result<Vec<u8>, Reason> {
    let mut arguments = Vec::with_capacity(spec.arguments.len());
    for argument in &spec.arguments {
        let text = argument.to_str();
        let text = text.ok_or_else(|| Reason::UnsupportedName(argument.display().to_string()))?;
        arguments.push(text.to_owned());
    }
    let mut output_paths: Vec<_> = outputs.iter().map(|output| output.remote.clone()).collect();
    output_paths.sort();
    output_paths.dedup();
    let variable = |(name, value): (&String, &String)| re::command::EnvironmentVariable {
        name: name.clone(),
        value: value.clone(),
    };
    let working_directory = cwd.strip_prefix("/").unwrap_or(cwd).to_str();
    let command = re::Command {
        arguments,
        environment_variables: spec.environment.iter().map(variable).collect(),
        output_paths,
        working_directory: working_directory.unwrap_or_default().to_owned(),
        // Both here and on the Action: servers differ in which one they read.
        #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
        platform: Some(platform.clone()),
        ..re::Command::default()
    };
    Ok(command.encode_to_vec())
}

/// What changes a result without being in the tree: the toolchain and the files of the image. They enter the
/// digest of the Action through its `salt`.
fn salt(circumstances: &Circumstances, in_image: &[Arc<InputFile>]) -> Vec<u8> {
    let mut hasher = Hasher::new();
    hasher.field(KEY_VERSION);
    hasher.field(circumstances.salt.as_bytes());
    hasher.field(circumstances.toolchain.hash());
    // As they are opened: without `..` two of them could be spelled alike.
    let in_image: BTreeMap<_, _> =
        in_image.iter().map(|input| (input.path.as_path(), input.version.digest)).collect();
    for (path, digest) in in_image {
        hasher.field(path.as_os_str().as_encoded_bytes());
        hasher.field(digest.hash());
    }
    hasher.finish().hash().to_vec()
}

impl From<Reason> for ActionError {
    fn from(reason: Reason) -> ActionError {
        ActionError::Local(reason)
    }
}

impl From<InputRootError> for Reason {
    fn from(error: InputRootError) -> Reason {
        match error {
            InputRootError::Io { path, error } if error.kind() == std::io::ErrorKind::NotFound => {
                Reason::InputMissing(path.display().to_string())
            }
            InputRootError::Io { .. } => Reason::InputUnreadable(error.to_string()),
            InputRootError::NotUtf8(path) | InputRootError::TooDeep(path) => {
                Reason::UnsupportedName(path.display().to_string())
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compiler::OutputKind;
    use crate::files::Files;

    /// The action of compiling `a.c` with a header in a scratch workspace, after `change`.
    fn action(scratch: &Path, change: impl FnOnce(&mut CommandSpec, &mut Circumstances)) -> Action {
        let files = Files::default();
        let no_platform = BTreeMap::new();
        let input = |path: PathBuf| Arc::new(InputFile { version: files.version(&path).unwrap(), path });
        let mut spec = CommandSpec {
            arguments: ["/usr/bin/cc", "-c", "a.c"].map(OsString::from).to_vec(),
            environment: BTreeMap::new(),
            cwd: scratch,
            directories: vec![scratch.join("missing")],
            outputs: vec![ExpectedOutput::replacing(OutputKind::Object, scratch.join("a.o"))],
            checkout: None,
            speaker: None,
        };
        let mut circumstances = Circumstances {
            toolchain: Digest::of(b"toolchain"),
            salt: "",
            platform: &no_platform,
            timeout: Duration::from_secs(1),
        };
        change(&mut spec, &mut circumstances);
        let inputs = vec![input(scratch.join("a.c")), input("/usr/include/stdio.h".into())];
        Action::new(&spec, inputs, &circumstances, &Listings::default()).unwrap()
    }

    /// An action with a few inputs, and the directory that holds them.
    pub(in crate::action) fn an_action() -> (tempfile::TempDir, Action) {
        let (guard, scratch) = scratch();
        let action = action(&scratch, |_, _| {});
        (guard, action)
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::write(path.join("a.c"), "#include <stdio.h>\n").unwrap();
        (directory, path)
    }

    #[test]
    fn everything_that_can_change_the_result_changes_the_key() {
        let (_guard, scratch) = scratch();
        let key = action(&scratch, |_, _| {}).sought.key;
        assert_eq!(action(&scratch, |_, _| {}).sought.key, key);
        let changed = [
            action(&scratch, |spec, _| spec.arguments.push("-O1".into())).sought.key,
            action(&scratch, |spec, _| drop(spec.environment.insert("A".into(), "b".into()))).sought.key,
            action(&scratch, |spec, _| spec.outputs[0].path.set_file_name("b.o")).sought.key,
            action(&scratch, |_, circumstances| circumstances.toolchain = Digest::of(b"other")).sought.key,
            action(&scratch, |_, circumstances| circumstances.salt = "salt").sought.key,
        ];
        assert!(!changed.contains(&key));
    }

    #[test]
    fn the_time_limit_is_in_the_action_but_not_in_the_key() {
        let (_guard, scratch) = scratch();
        let before = action(&scratch, |_, _| {});
        let after = action(&scratch, |_, circumstances| circumstances.timeout = Duration::from_secs(2));
        assert_eq!(before.sought.key, after.sought.key);
        assert_ne!(before.digest, after.digest);
    }

    #[test]
    fn files_of_the_image_are_in_the_key_but_not_sent() {
        let (_guard, scratch) = scratch();
        let action = action(&scratch, |_, _| {});
        assert_eq!(action.input_root.files.len(), 1);
        assert_eq!(action.inputs.len(), 2);
        let header = InputFile {
            path: "/usr/include/stdio.h".into(),
            version: Files::default().version(Path::new("/usr/include/stdio.h")).unwrap(),
        };
        let no_platform = BTreeMap::new();
        let circumstances = Circumstances {
            toolchain: Digest::empty(),
            salt: "",
            platform: &no_platform,
            timeout: Duration::ZERO,
        };
        let mut edited = header.clone();
        edited.version.digest = Digest::of(b"edited");
        assert_ne!(salt(&circumstances, &[header.into()]), salt(&circumstances, &[edited.into()]));
    }

    #[test]
    fn the_working_directory_is_in_the_tree_and_outputs_are_relative_to_it() {
        let (_guard, scratch) = scratch();
        let action = action(&scratch, |_, _| {});
        let command = re::Command::decode(&*action.command).unwrap();
        assert_eq!(Path::new("/").join(&command.working_directory), scratch);
        assert_eq!(command.output_paths, ["a.o"]);
    }
}

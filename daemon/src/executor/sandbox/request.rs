//! An action as the sandbox runs it: checked once, so that no later step meets a path that leaves the root.
//! Knows nothing of files.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2::Action;
use bazel_remote_apis::build::bazel::remote::execution::v2::Command;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::command::OutputDirectoryFormat;

use super::Failure;
use super::SandboxOptions;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::paths;

/// What the client called an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputKind {
    /// `output_paths`: whatever is there.
    Path,
    /// `output_files`, before REAPI 2.1.
    File,
    /// `output_directories`, before REAPI 2.1.
    Directory,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) kind: OutputKind,
    /// As the client wrote it: relative to the working directory.
    pub(super) path: String,
    /// From the root; without `.` and `..`; empty for the root itself.
    pub(super) from_root: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Of all the action's digests.
    pub(super) function: DigestFunction,
    pub(super) input_root: Digest,
    pub(super) arguments: Vec<String>,
    /// Each `NAME=value`.
    pub(super) environment: Vec<String>,
    /// From the root; empty for the root itself.
    pub(super) working_directory: PathBuf,
    pub(super) outputs: Vec<Output>,
    pub(super) format: OutputDirectoryFormat,
    pub(super) timeout: Duration,
}

impl Request {
    pub(super) fn new(
        function: DigestFunction,
        action: &Action,
        command: &Command,
        options: &SandboxOptions,
    ) -> Result<Request, Failure> {
        let input_root = digest(function, action.input_root_digest.as_ref(), "input_root_digest")?;
        let Some(program) = command.arguments.first().filter(|program| !program.is_empty()) else {
            return Err(Failure::invalid("the command has no arguments"));
        };
        if program.contains('=') {
            // `env`, which starts the command, would take it for a variable.
            return Err(Failure::invalid(format!("the program's name {program:?} contains `=`")));
        }
        let mut environment = Vec::new();
        for variable in &command.environment_variables {
            if variable.name.is_empty() || variable.name.contains('=') {
                return Err(Failure::invalid(format!("{:?} is no variable's name", variable.name)));
            }
            environment.push(format!("{}={}", variable.name, variable.value));
        }
        if command.arguments.iter().chain(&environment).any(|text| text.contains('\0')) {
            return Err(Failure::invalid("an argument or variable contains NUL"));
        }
        if let Some(property) = command.output_node_properties.first() {
            // REAPI, `Command.output_node_properties`: what is not known is INVALID_ARGUMENT.
            return Err(Failure::invalid(format!("the node property {property:?} is not supported")));
        }
        let working_directory = inside(Path::new(""), &command.working_directory)?;
        let format = OutputDirectoryFormat::try_from(command.output_directory_format);
        Ok(Request {
            function,
            input_root,
            arguments: command.arguments.clone(),
            environment,
            outputs: outputs(command, &working_directory)?,
            working_directory,
            format: format.map_err(|_| Failure::invalid("the output directory format is not known"))?,
            timeout: timeout(action, options)?,
        })
    }
}

/// The digest in a message's field `name`.
pub(super) fn digest(
    function: DigestFunction,
    message: Option<&DigestMessage>,
    name: &str,
) -> Result<Digest, Failure> {
    let message = message.ok_or_else(|| Failure::invalid(format!("{name} is not set")))?;
    function.read(message).map_err(|error| Failure::invalid(format!("{name}: {error}")))
}

fn timeout(action: &Action, options: &SandboxOptions) -> Result<Duration, Failure> {
    let Some(timeout) = &action.timeout else { return Ok(options.default_timeout) };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(timeout.seconds), u32::try_from(timeout.nanos)) else {
        return Err(Failure::invalid("the timeout is negative"));
    };
    if nanos >= 1_000_000_000 {
        return Err(Failure::invalid("the timeout is no duration"));
    }
    let timeout = Duration::new(seconds, nanos);
    if timeout.is_zero() {
        // proto3 clients cannot tell an empty message from one that was not set.
        return Ok(options.default_timeout);
    }
    if timeout > options.max_timeout {
        // REAPI, `Action.timeout`: above the server's maximum it MUST be rejected.
        let maximum = options.max_timeout;
        return Err(Failure::invalid(format!("the timeout {timeout:?} is above the maximum {maximum:?}")));
    }
    Ok(timeout)
}

// The deprecated fields are what clients before REAPI 2.1 send.
#[allow(deprecated)]
fn outputs(command: &Command, working_directory: &Path) -> Result<Vec<Output>, Failure> {
    let output = |kind: OutputKind| {
        move |path: &String| {
            let from_root = inside(working_directory, path)?;
            Ok(Output { kind, path: path.clone(), from_root })
        }
    };
    if !command.output_paths.is_empty() {
        // REAPI, `Command.output_paths`: the two older lists are then ignored.
        return command.output_paths.iter().map(output(OutputKind::Path)).collect();
    }
    let files = command.output_files.iter().map(output(OutputKind::File));
    files.chain(command.output_directories.iter().map(output(OutputKind::Directory))).collect()
}

/// `path` below `directory` as a path from the root, if it is relative and stays inside.
fn inside(directory: &Path, path: &str) -> Result<PathBuf, Failure> {
    let refused = |problem: &str| Failure::invalid(format!("the path {path:?} {problem}"));
    if path.starts_with('/') {
        return Err(refused("is absolute"));
    }
    if path.contains('\0') {
        return Err(refused("contains NUL"));
    }
    let normal = paths::lexically_normal(&directory.join(path));
    if normal.components().any(|component| component == Component::ParentDir) {
        return Err(refused("leaves the input root"));
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use bazel_remote_apis::build::bazel::remote::execution::v2::command::EnvironmentVariable;
    use bazel_remote_apis::google::protobuf::Duration as DurationMessage;
    use tonic::Code;

    use super::super::to_message;
    use super::*;

    fn request(edit: impl FnOnce(&mut Action, &mut Command)) -> Result<Request, Failure> {
        let mut action =
            Action { input_root_digest: Some(to_message(&Digest::empty())), ..Action::default() };
        let mut command = Command { arguments: vec!["cc".to_owned()], ..Command::default() };
        edit(&mut action, &mut command);
        let options = SandboxOptions {
            scratch: PathBuf::new(),
            jobs: 1,
            default_timeout: Duration::from_secs(10),
            max_timeout: Duration::from_secs(20),
        };
        Request::new(DigestFunction::Sha256, &action, &command, &options)
    }

    // As `outputs`.
    #[allow(deprecated)]
    #[test]
    fn output_paths_stay_inside() {
        let request = request(|_, command| {
            command.working_directory = "home/u".to_owned();
            command.output_paths = vec!["../out/a.o".to_owned(), "b.o".to_owned()];
            command.output_files = vec!["ignored".to_owned()];
        });
        let paths: Vec<PathBuf> =
            request.unwrap().outputs.into_iter().map(|output| output.from_root).collect();
        assert_eq!(paths, [Path::new("home/out/a.o"), Path::new("home/u/b.o")]);
    }

    #[test]
    fn invalid_requests() {
        let output =
            |path: &'static str| request(move |_, command| command.output_paths.push(path.to_owned()));
        let timeout = |seconds, nanos| {
            request(move |action, _| action.timeout = Some(DurationMessage { seconds, nanos }))
        };
        let variable = |name: &'static str| {
            request(move |_, command| {
                let variable = EnvironmentVariable { name: name.to_owned(), value: String::new() };
                command.environment_variables.push(variable);
            })
        };
        let working_directory =
            |path: &'static str| request(move |_, command| command.working_directory = path.to_owned());
        for refused in [
            output("../x"),
            output("/etc/passwd"),
            output("a/../../x"),
            output("a\0b"),
            working_directory("/"),
            working_directory(".."),
            timeout(-1, 0),
            timeout(21, 0),
            timeout(1, 2_000_000_000),
            variable(""),
            variable("A=B"),
            request(|_, command| command.arguments.clear()),
            request(|_, command| command.arguments[0] = "a=b".to_owned()),
            request(|_, command| command.arguments.push("a\0b".to_owned())),
            request(|_, command| command.output_node_properties.push("mtime".to_owned())),
            request(|_, command| command.output_directory_format = 99),
            request(|action, _| action.input_root_digest = None),
        ] {
            assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
        }
        assert_eq!(timeout(0, 5_000_000).unwrap().timeout, Duration::from_millis(5));
        assert_eq!(timeout(0, 0).unwrap().timeout, Duration::from_secs(10));
    }
}

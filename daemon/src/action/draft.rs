//! An action under change: its messages, its input tree and its outputs, before they are encoded again.
//! Knows nothing of why it is changed.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::action::Action;
use crate::action::InputRoot;
use crate::action::Output;
use crate::action::Sought;
use crate::action::rooted::Brought;
use crate::digest::Digest;
use crate::paths;
use crate::worker;

/// Top-level directories in which the worker's own files stay: a temporary directory of the action's, a configuration that
/// programs read. Of the others a worker has nothing that a command could want, once the input root has them.
const MERGED: &[&str] = &["etc", "opt", "run", "tmp", "var"];

/// The parts of an action.
pub(super) struct Draft {
    pub(super) command: re::Command,
    pub(super) action: re::Action,
    pub(super) input_root: InputRoot,
    pub(super) outputs: Vec<Output>,
}

/// Why an action whose own parts are missing cannot be sent: never.
pub(super) const INCOMPLETE: &str = "its input tree is incomplete";

impl Draft {
    pub(super) fn of(action: &Action) -> Result<Draft, String> {
        let broken = |error: prost::DecodeError| format!("its messages cannot be read: {error}");
        Ok(Draft {
            command: re::Command::decode(action.command.as_slice()).map_err(broken)?,
            action: re::Action::decode(action.action.as_slice()).map_err(broken)?,
            input_root: action.input_root.clone(),
            outputs: action.sought.outputs.clone(),
        })
    }

    /// The working directory in the tree, from its root.
    pub(super) fn cwd(&self) -> PathBuf {
        Path::new("/").join(&self.command.working_directory)
    }

    /// The directories that the command works in.
    pub(super) fn needed(&self) -> Vec<PathBuf> {
        let cwd = self.cwd();
        let parent =
            |output: &Output| paths::lexically_normal(&cwd.join(&output.remote)).parent().map(Path::to_owned);
        let mut needed: Vec<PathBuf> = self.outputs.iter().filter_map(parent).collect();
        needed.push(cwd);
        needed
    }

    /// What of the tree is to stand at its absolute path, given its top directory.
    pub(super) fn binds(&self, top: &re::Directory) -> Result<Vec<PathBuf>, String> {
        let needed = self.needed();
        let mut binds = Vec::new();
        for name in names(top) {
            let path = Path::new("/").join(name);
            let is_directory = top.directories.iter().any(|directory| directory.name == name);
            if !is_directory || !MERGED.contains(&name) || needed.contains(&path) {
                binds.push(path);
                continue;
            }
            let directory =
                self.input_root.chain(&path).and_then(|mut chain| chain.pop()).ok_or(INCOMPLETE)?;
            binds.extend(names(&directory).map(|name| path.join(name)));
        }
        Ok(binds)
    }

    /// Adds our own program to the top of the tree.
    pub(super) fn add_program(&mut self, name: &str, program: &Path) -> Result<(), String> {
        let digest = worker::digest();
        let node = re::FileNode {
            name: name.to_owned(),
            digest: Some(digest.into()),
            is_executable: true,
            node_properties: None,
        };
        let edited = self.input_root.edit(Path::new("/"), |directory| {
            directory.files.push(node);
            directory.files.sort_by(|a, b| a.name.cmp(&b.name));
        });
        if !edited {
            return Err(INCOMPLETE.to_owned());
        }
        self.input_root.files.push((digest, program.into()));
        self.action.input_root_digest = Some(self.input_root.digest.into());
        Ok(())
    }

    /// Adds files of this machine's image.
    pub(super) fn bring(&mut self, files: &[Brought]) -> Result<(), String> {
        for file in files {
            let node = re::FileNode {
                name: text(Path::new(file.path.file_name().ok_or(INCOMPLETE)?))?,
                digest: Some(file.digest.into()),
                is_executable: false,
                node_properties: None,
            };
            if !self.input_root.add_file(file.path.parent().ok_or(INCOMPLETE)?, node) {
                return Err(format!("{} cannot be added to the tree", file.path.display()));
            }
            self.input_root.files.push((file.digest, file.path.as_path().into()));
        }
        self.action.input_root_digest = Some(self.input_root.digest.into());
        Ok(())
    }

    /// Sets a platform property, in both messages that have them.
    pub(super) fn set_property(&mut self, name: &str, value: &str) {
        let mut platform = self.action.platform.take().unwrap_or_default();
        platform.properties.retain(|property| property.name != name);
        platform.properties.push(re::platform::Property { name: name.to_owned(), value: value.to_owned() });
        platform.properties.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
        self.action.platform = Some(platform.clone());
        #[expect(deprecated, reason = "servers older than API 2.2 read only this one")]
        {
            self.command.platform = Some(platform);
        }
    }

    /// The messages, encoded.
    pub(super) fn finished(mut self) -> Action {
        let mut output_paths: Vec<_> = self.outputs.iter().map(|output| output.remote.clone()).collect();
        output_paths.sort();
        output_paths.dedup();
        self.command.output_paths = output_paths;
        let command = self.command.encode_to_vec();
        let command_digest = Digest::of(&command);
        self.action.command_digest = Some(command_digest.into());
        let action = self.action.encode_to_vec();
        let digest = Digest::of(&action);
        let variables = self.command.environment_variables;
        Action {
            digest,
            sought: Arc::new(Sought { key: digest, outputs: self.outputs, checkout: None, speaker: None }),
            action,
            command_digest,
            command,
            environment: variables.into_iter().map(|variable| (variable.name, variable.value)).collect(),
            input_root: self.input_root,
            inputs: Vec::new(),
            in_image: Vec::new(),
            layout: None,
        }
    }
}

/// The names in a directory.
pub(super) fn names(directory: &re::Directory) -> impl Iterator<Item = &str> {
    let files = directory.files.iter().map(|node| node.name.as_str());
    let links = directory.symlinks.iter().map(|node| node.name.as_str());
    files.chain(links).chain(directory.directories.iter().map(|node| node.name.as_str()))
}

/// `path` as REAPI carries it.
pub(super) fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::an_action;

    #[test]
    fn directories_that_programs_need_are_merged() {
        let (_guard, action) = an_action();
        let mut draft = Draft::of(&action).unwrap();
        draft.command.working_directory = "home/u".to_owned();
        draft.outputs.clear();
        let node =
            |name: &str, digest: Digest| re::DirectoryNode { name: name.into(), digest: Some(digest.into()) };
        let mut add = |directory: re::Directory| {
            let bytes = directory.encode_to_vec();
            draft.input_root.directories.push((Digest::of(&bytes), bytes.clone()));
            Digest::of(&bytes)
        };
        let empty = add(re::Directory::default());
        let etc = add(re::Directory {
            directories: vec![node("a", empty), node("b", empty)],
            ..Default::default()
        });
        let top =
            re::Directory { directories: vec![node("etc", etc), node("home", empty)], ..Default::default() };
        draft.input_root.digest = add(top.clone());
        let binds = |draft: &Draft| {
            let binds = draft.binds(&top).unwrap();
            binds.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(binds(&draft), ["/etc/a", "/etc/b", "/home"]);
        draft.command.working_directory = "etc".to_owned();
        assert_eq!(binds(&draft), ["/etc", "/home"]);
    }
}

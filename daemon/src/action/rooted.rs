//! An action as workers can run it that do, or do not, run commands with the input root as their root directory (`[exec]
//! root`), and its results with the names that they have here.
//! Knows nothing of clusters. The key of the result is the same whatever the root.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::Message;

use crate::action::Action;
use crate::action::InputRoot;
use crate::action::Output;
use crate::compiler::depfile;
use crate::config::Root;
use crate::digest::Digest;
use crate::paths;
use crate::preprocessor::Family;
use crate::reason::Reason;
use crate::store::Store;
use crate::worker;

/// The platform property by which a worker is asked to put the input root at a path of its own (Goma's, EngFlow's and Google's
/// workers know it).
const PROPERTY: &str = "InputRootAbsolutePath";

/// Top-level directories in which the worker's own files stay: a temporary directory of the action's, a configuration that
/// programs read. Of the others a worker has nothing that a command could want, once the input root has them.
const MERGED: &[&str] = &["etc", "opt", "run", "tmp", "var"];

/// A symlink to the input root, in the working directory. It is shorter than any worker's name of the input root: GCC names a
/// system header by the shorter one of its own name and the physical one (`maybe_shorter_path`, libcpp/files.cc).
pub const LINK: &str = ".f";

/// A command that names all by relative paths.
#[derive(Debug, Clone)]
pub struct RelativeCommand {
    /// The arguments, with [`LINK`] before each path outside the image.
    pub arguments: Vec<OsString>,
    /// Whose depfiles it writes.
    pub family: Family,
}

/// An action as it is sent with one root.
#[derive(Debug, Clone)]
pub struct Rooted {
    /// What is sent. Its key is that of the action which it is made of.
    pub action: Arc<Action>,
    /// Which root it is.
    pub root: Root,
    /// The outputs' names in results, and here.
    names: HashMap<String, String>,
    /// Of a relative one, whose depfiles are translated.
    family: Option<Family>,
    /// The first names of absolute paths in the input tree.
    tops: Vec<String>,
}

/// What a root has of an action to change.
struct Draft {
    command: re::Command,
    action: re::Action,
    input_root: InputRoot,
    outputs: Vec<Output>,
}

impl Rooted {
    /// The action as it is where the input root is the root directory.
    pub fn mirror(action: &Arc<Action>) -> Rooted {
        Rooted {
            action: Arc::clone(action),
            root: Root::Mirror,
            names: HashMap::new(),
            family: None,
            tops: Vec::new(),
        }
    }

    /// The action in which our own `program`, a file on this machine, puts the input root where it belongs before it becomes
    /// the command.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    pub fn wrapper(action: &Arc<Action>, program: &Path) -> Result<Rooted, String> {
        let mut draft = Draft::of(action)?;
        let cwd = draft.cwd();
        let top =
            draft.input_root.chain(Path::new("/")).and_then(|mut chain| chain.pop()).ok_or(INCOMPLETE)?;
        let mut name = worker::NAME.to_owned();
        while names(&top).any(|other| other == name) {
            name.push('_');
        }
        let mut arguments = vec![format!("./{name}"), "enter".to_owned(), "--cwd".to_owned(), text(&cwd)?];
        for bind in draft.binds(&top)? {
            arguments.extend(["--bind".to_owned(), text(&bind)?]);
        }
        arguments.push("--".to_owned());
        arguments.append(&mut draft.command.arguments);
        draft.command.arguments = arguments;
        draft.command.working_directory = String::new();
        for output in &mut draft.outputs {
            let path = paths::lexically_normal(&cwd.join(&output.remote));
            output.remote = text(path.strip_prefix("/").unwrap_or(&path))?;
        }
        draft.add_program(&name, program)?;
        Ok(draft.rooted(action, Root::Wrapper))
    }

    /// The action whose input root is the common directory of all that it has outside the image; the worker is asked to put
    /// it at its path.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    pub fn property(action: &Arc<Action>) -> Result<Rooted, String> {
        let mut draft = Draft::of(action)?;
        let cwd = draft.cwd();
        let needed = draft.needed();
        let mut common = PathBuf::from("/");
        loop {
            let directory =
                draft.input_root.chain(&common).and_then(|mut chain| chain.pop()).ok_or(INCOMPLETE)?;
            match directory.directories.as_slice() {
                [only]
                    if directory.files.is_empty()
                        && directory.symlinks.is_empty()
                        && !needed.contains(&common) =>
                {
                    common.push(&only.name);
                }
                _ => break,
            }
        }
        if common.parent().is_none() {
            return Err("its files have no directory in common but the root".to_owned());
        }
        draft.input_root = draft.input_root.below(&common).ok_or(INCOMPLETE)?;
        draft.action.input_root_digest = Some(draft.input_root.digest.into());
        draft.command.working_directory = text(cwd.strip_prefix(&common).map_err(|_| INCOMPLETE)?)?;
        draft.set_property(PROPERTY, &text(&common)?);
        Ok(draft.rooted(action, Root::Property))
    }

    /// The action of a command that names everything from its working directory, where a symlink leads to the input root.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    pub fn relative(action: &Arc<Action>, relative: &RelativeCommand) -> Result<Rooted, String> {
        if action.checkout.is_some() {
            return Err("[exec] paths = \"shared\" needs the workspace at a path of its own".to_owned());
        }
        let mut draft = Draft::of(action)?;
        let cwd = draft.cwd();
        if let Some(link) = draft.input_root.link_to_system() {
            return Err(format!("the symlink {} leads into the image", link.display()));
        }
        for variable in &mut draft.command.environment_variables {
            match variable.name.as_str() {
                "PATH" => {}
                // It leads the compiler to the working directory, and the prefix map of this name to what it is called.
                "PWD" => crate::relocation::SHOWN.clone_into(&mut variable.value),
                name if variable.value.split(':').any(is_outside) => {
                    return Err(format!("the variable {name} has an absolute path"));
                }
                _ => {}
            }
        }
        draft.command.arguments.clear();
        for argument in &relative.arguments {
            draft.command.arguments.push(text(Path::new(argument))?);
        }
        let top =
            draft.input_root.chain(Path::new("/")).and_then(|mut chain| chain.pop()).ok_or(INCOMPLETE)?;
        let up: PathBuf = cwd.components().skip(1).map(|_| "..").collect();
        let target = if up.as_os_str().is_empty() { ".".to_owned() } else { text(&up)? };
        let mut is_taken = false;
        let edited = draft.input_root.edit(&cwd, |directory| {
            is_taken = names(directory).any(|name| name == LINK);
            directory.symlinks.push(re::SymlinkNode { name: LINK.to_owned(), target, node_properties: None });
            directory.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
        });
        if is_taken || !edited {
            return Err(format!("{} has a file of the name {LINK}", cwd.display()));
        }
        draft.action.input_root_digest = Some(draft.input_root.digest.into());
        let tops = names(&top).map(str::to_owned).collect();
        let rooted = draft.rooted(action, Root::Relative);
        Ok(Rooted { family: Some(relative.family), tops, ..rooted })
    }

    /// Gives a result of the cluster the names that it has here.
    ///
    /// # Errors
    /// When something was made that shows how it was made, or the store fails.
    pub fn result_here(&self, store: &Store, result: &mut re::ActionResult) -> Result<(), Reason> {
        if let Some(family) = self.family {
            self.texts_here(family, store, result)?;
        }
        for file in &mut result.output_files {
            if let Some(name) = self.names.get(&file.path) {
                file.path.clone_from(name);
            }
        }
        result.output_files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// Gives a result of this machine the names that it has on the cluster. False: that cannot be done.
    pub fn result_there(&self, result: &mut re::ActionResult) -> bool {
        if self.family.is_some() {
            return false;
        }
        for file in &mut result.output_files {
            if let Some((there, _)) = self.names.iter().find(|(_, here)| **here == file.path) {
                file.path.clone_from(there);
            }
        }
        result.output_files.sort_by(|a, b| a.path.cmp(&b.path));
        true
    }

    /// Takes [`LINK`] out of depfiles and messages. No other output may show it.
    fn texts_here(&self, family: Family, store: &Store, result: &mut re::ActionResult) -> Result<(), Reason> {
        result.stdout_raw = self.text_here(&result.stdout_raw);
        result.stderr_raw = self.text_here(&result.stderr_raw);
        let failed = |error: &dyn std::fmt::Display| Reason::Store(error.to_string());
        for output in &self.action.outputs {
            let Some(file) = result.output_files.iter_mut().find(|file| file.path == output.remote) else {
                continue;
            };
            let digest = file.digest.as_ref().and_then(|digest| Digest::try_from(digest).ok());
            let Some(digest) = digest else { continue };
            let bytes = store.read(&digest).map_err(|error| failed(&error))?;
            let bytes = bytes.ok_or_else(|| failed(&"an output is gone from the store"))?;
            if output.is_translated() {
                let here = depfile::renamed(&bytes, family, &|name| name_here(name).to_vec());
                file.digest = Some(store.put(&here).map_err(|error| failed(&error))?.into());
            } else if self.text_here(&bytes) != bytes {
                return Err(Reason::PathShown(output.path.display().to_string()));
            }
        }
        Ok(())
    }

    /// `text` with `.f/home/…` as `/home/…`, for the directories of the input tree.
    fn text_here(&self, text: &[u8]) -> Vec<u8> {
        let mut result = Vec::with_capacity(text.len());
        let mut done = 0;
        for at in memchr::memmem::find_iter(text, format!("{LINK}/").as_bytes()) {
            let below = &text[at + LINK.len() + 1..];
            let is_top =
                |top: &String| below.strip_prefix(top.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
            if self.tops.iter().any(is_top) {
                result.extend_from_slice(&text[done..at]);
                done = at + LINK.len();
            }
        }
        result.extend_from_slice(&text[done..]);
        result
    }
}

/// Why an action whose own parts are missing cannot be sent: never.
const INCOMPLETE: &str = "its input tree is incomplete";

impl Draft {
    fn of(action: &Action) -> Result<Draft, String> {
        let broken = |error: prost::DecodeError| format!("its messages cannot be read: {error}");
        Ok(Draft {
            command: re::Command::decode(action.command.as_slice()).map_err(broken)?,
            action: re::Action::decode(action.action.as_slice()).map_err(broken)?,
            input_root: action.input_root.clone(),
            outputs: action.outputs.clone(),
        })
    }

    /// The working directory in the tree, from its root.
    fn cwd(&self) -> PathBuf {
        Path::new("/").join(&self.command.working_directory)
    }

    /// The directories that the command works in.
    fn needed(&self) -> Vec<PathBuf> {
        let cwd = self.cwd();
        let parent =
            |output: &Output| paths::lexically_normal(&cwd.join(&output.remote)).parent().map(Path::to_owned);
        let mut needed: Vec<PathBuf> = self.outputs.iter().filter_map(parent).collect();
        needed.push(cwd);
        needed
    }

    /// What of the tree is to stand at its absolute path, given its top directory.
    fn binds(&self, top: &re::Directory) -> Result<Vec<PathBuf>, String> {
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
    fn add_program(&mut self, name: &str, program: &Path) -> Result<(), String> {
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
        self.input_root.files.push((digest, program.to_owned()));
        self.action.input_root_digest = Some(self.input_root.digest.into());
        Ok(())
    }

    /// Sets a platform property, in both messages that have them.
    fn set_property(&mut self, name: &str, value: &str) {
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
    fn finished(mut self) -> Action {
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
            key: digest,
            action,
            command_digest,
            command,
            environment: variables.into_iter().map(|variable| (variable.name, variable.value)).collect(),
            input_root: self.input_root,
            inputs: Vec::new(),
            outputs: self.outputs,
            checkout: None,
        }
    }

    fn rooted(self, from: &Arc<Action>, root: Root) -> Rooted {
        let pairs = self.outputs.iter().zip(&from.outputs);
        let names = pairs.map(|(there, here)| (there.remote.clone(), here.remote.clone())).collect();
        let sent = self.finished();
        let sent =
            Action { key: from.key, inputs: from.inputs.clone(), checkout: from.checkout.clone(), ..sent };
        Rooted { action: Arc::new(sent), root, names, family: None, tops: Vec::new() }
    }
}

/// The action that asks a worker how its commands can find files by their absolute paths. `platform`: as in the actions that
/// it is asked for. `at`: where the input root is asked to stand.
///
/// # Errors
/// None that a caller could mend.
pub fn probe(platform: Option<re::Platform>, program: &Path, at: Option<&Path>) -> Result<Action, String> {
    let empty = re::Directory::default().encode_to_vec();
    let digest = Digest::of(&empty);
    let input_root = InputRoot { digest, directories: vec![(digest, empty)], files: Vec::new() };
    let platform = platform.unwrap_or_default();
    let command = re::Command {
        arguments: vec![format!("./{}", worker::NAME), "probe".to_owned()],
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
    draft.command.arguments.extend(["--file".to_owned(), format!("/{}", worker::NAME)]);
    if let Some(at) = at {
        draft.command.arguments.extend(["--at".to_owned(), text(at)?]);
        draft.set_property(PROPERTY, &text(at)?);
    }
    Ok(draft.finished())
}

/// The platform that an action asks for.
pub fn platform_of(action: &Action) -> Option<re::Platform> {
    re::Action::decode(action.action.as_slice()).ok()?.platform
}

/// The names in a directory.
fn names(directory: &re::Directory) -> impl Iterator<Item = &str> {
    let files = directory.files.iter().map(|node| node.name.as_str());
    let links = directory.symlinks.iter().map(|node| node.name.as_str());
    files.chain(links).chain(directory.directories.iter().map(|node| node.name.as_str()))
}

/// A file's name of a relative action, as it is here.
fn name_here(name: &[u8]) -> &[u8] {
    match name.strip_prefix(LINK.as_bytes()) {
        Some(below) if below.starts_with(b"/") => below,
        _ => name,
    }
}

/// Whether a path is absolute and of no use to a worker on which it is not mirrored.
fn is_outside(path: &str) -> bool {
    path.starts_with('/') && !paths::is_system(Path::new(path))
}

fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::an_action;

    fn decoded(rooted: &Rooted) -> (re::Command, re::Action) {
        let action = &rooted.action;
        assert_eq!(Digest::of(&action.action), action.digest);
        assert_eq!(Digest::of(&action.command), action.command_digest);
        let message = re::Action::decode(action.action.as_slice()).unwrap();
        assert_eq!(message.command_digest, Some(action.command_digest.into()));
        assert_eq!(message.input_root_digest, Some(action.input_root.digest.into()));
        assert_whole(&action.input_root);
        (re::Command::decode(action.command.as_slice()).unwrap(), message)
    }

    /// Every directory is there, each as often as it is named, and nothing besides.
    fn assert_whole(root: &InputRoot) {
        let mut known: Vec<re::Digest> =
            root.directories.iter().map(|(digest, _)| (*digest).into()).collect();
        let mut pending = vec![re::Digest::from(root.digest)];
        while let Some(digest) = pending.pop() {
            let at = known.iter().position(|known| *known == digest).unwrap();
            known.remove(at);
            let bytes =
                &root.directories.iter().find(|(known, _)| re::Digest::from(*known) == digest).unwrap().1;
            assert_eq!(re::Digest::from(Digest::of(bytes)), digest);
            let directory = re::Directory::decode(bytes.as_slice()).unwrap();
            assert!(directory.files.is_sorted_by(|a, b| a.name < b.name));
            assert!(directory.symlinks.is_sorted_by(|a, b| a.name < b.name));
            pending.extend(directory.directories.into_iter().map(|node| node.digest.unwrap()));
        }
        assert_eq!(known, []);
    }

    fn fixture() -> (tempfile::TempDir, Arc<Action>, PathBuf) {
        let (guard, action) = an_action();
        let command = re::Command::decode(action.command.as_slice()).unwrap();
        (guard, Arc::new(action), Path::new("/").join(command.working_directory))
    }

    #[test]
    fn the_wrapper_is_the_first_argument_and_all_is_named_from_the_top() {
        let (_guard, action, cwd) = fixture();
        let rooted = Rooted::wrapper(&action, Path::new("/program")).unwrap();
        let (command, _) = decoded(&rooted);
        let directory = cwd.to_str().unwrap();
        // The temporary directory itself is the worker's; where it is no `/tmp`, its first component is ours.
        let bind = &command.arguments[5];
        assert!(directory.starts_with(bind.as_str()) && (bind != "/tmp" || directory == "/tmp"), "{bind}");
        assert_eq!(
            command.arguments,
            ["./farcc-worker", "enter", "--cwd", directory, "--bind", bind, "--", "/usr/bin/cc", "-c", "a.c"]
        );
        assert_eq!(command.working_directory, "");
        assert_eq!(command.output_paths, [format!("{}/a.o", &directory[1..])]);
        assert_eq!(rooted.action.key, action.key);
        assert_ne!(rooted.action.digest, action.digest);
        let program = (worker::digest(), PathBuf::from("/program"));
        assert!(rooted.action.input_root.files.contains(&program));
        let top = rooted.action.input_root.chain(Path::new("/")).unwrap();
        assert!(top[0].files.iter().any(|file| file.name == "farcc-worker" && file.is_executable));
    }

    #[test]
    fn results_have_the_names_of_here() {
        let (_guard, action, cwd) = fixture();
        let store = tempfile::tempdir().unwrap();
        let store = Store::open(store.path(), 1 << 20).unwrap();
        let rooted = Rooted::wrapper(&action, Path::new("/program")).unwrap();
        let there = format!("{}/a.o", &cwd.to_str().unwrap()[1..]);
        let file = |path: &str| re::OutputFile { path: path.to_owned(), ..re::OutputFile::default() };
        let result = |path: &str| re::ActionResult { output_files: vec![file(path)], ..Default::default() };
        let mut found = result(&there);
        rooted.result_here(&store, &mut found).unwrap();
        assert_eq!(found, result("a.o"));
        assert!(rooted.result_there(&mut found));
        assert_eq!(found, result(&there));
    }

    #[test]
    fn a_property_names_what_all_files_have_in_common() {
        let (_guard, action, cwd) = fixture();
        let rooted = Rooted::property(&action).unwrap();
        let (command, message) = decoded(&rooted);
        let property =
            re::platform::Property { name: PROPERTY.to_owned(), value: cwd.to_str().unwrap().to_owned() };
        assert_eq!(message.platform.unwrap().properties, [property]);
        assert_eq!(
            (command.working_directory.as_str(), command.output_paths.as_slice()),
            ("", &["a.o".to_owned()][..])
        );
        let mut apart = (*action).clone();
        assert!(apart.input_root.edit(Path::new("/"), |top| {
            top.symlinks.push(re::SymlinkNode {
                name: "x".into(),
                target: "y".into(),
                node_properties: None,
            });
        }));
        assert!(Rooted::property(&Arc::new(apart)).unwrap_err().contains("in common"));
    }

    #[test]
    fn a_relative_command_has_a_link_to_the_top() {
        let (_guard, action, cwd) = fixture();
        let arguments = ["/usr/bin/cc", "-c", ".f/a.c"].map(OsString::from).to_vec();
        let relative = RelativeCommand { arguments, family: Family::Gcc };
        let rooted = Rooted::relative(&action, &relative).unwrap();
        let (command, _) = decoded(&rooted);
        assert_eq!(command.arguments, ["/usr/bin/cc", "-c", ".f/a.c"]);
        assert_eq!(Path::new("/").join(&command.working_directory), cwd);
        let directory = rooted.action.input_root.chain(&cwd).unwrap().pop().unwrap();
        let up = vec![".."; cwd.components().count() - 1].join("/");
        assert_eq!(
            (directory.symlinks[0].name.as_str(), directory.symlinks[0].target.as_str()),
            (LINK, up.as_str())
        );
        // Only the link before what is in the tree is taken out.
        let top = cwd.components().nth(1).unwrap().as_os_str().to_str().unwrap();
        let text = |text: &str| String::from_utf8(rooted.text_here(text.as_bytes())).unwrap();
        assert_eq!(
            text(&format!("In .f/{top}/a.h:1: .f/other x.f/.f/")),
            format!("In /{top}/a.h:1: .f/other x.f/.f/")
        );
        let mut linked = (*action).clone();
        assert!(linked.input_root.edit(&cwd, |directory| {
            let target = format!("{up}/usr/include");
            directory.symlinks.push(re::SymlinkNode { name: "x".into(), target, node_properties: None });
        }));
        assert!(Rooted::relative(&Arc::new(linked), &relative).unwrap_err().contains("leads into the image"));
    }

    #[test]
    fn directories_that_programs_need_are_merged() {
        let (_guard, action, _) = fixture();
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

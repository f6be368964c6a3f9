//! An action as workers can run it that do, or do not, run commands with the input root as their root directory (`[exec]
//! root`), and its results with the names that they have here.
//! Knows nothing of clusters. The key of the result is the same whatever the root.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Action;
use crate::action::Sought;
use crate::action::draft::Draft;
use crate::action::draft::INCOMPLETE;
use crate::action::draft::names;
use crate::action::draft::text;
use crate::compiler::depfile;
use crate::config::Root;
use crate::digest::Digest;
use crate::paths;
use crate::reason::Reason;
use crate::store::Store;
use crate::worker;

/// The platform property by which a worker is asked to put the input root at a path of its own (Goma's, EngFlow's and Google's
/// workers know it).
pub(super) const PROPERTY: &str = "InputRootAbsolutePath";

/// A symlink to the input root, in the working directory. It is shorter than any worker's name of the input root: GCC names a
/// system header by the shorter one of its own name and the physical one (`maybe_shorter_path`, libcpp/files.cc).
pub const LINK: &str = ".f";

/// A command that names all by relative paths.
#[derive(Debug, Clone)]
pub struct RelativeCommand {
    /// The arguments, with [`LINK`] before each path outside the image.
    pub arguments: Vec<OsString>,
    /// Who writes its depfiles.
    pub writer: depfile::Writer,
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
    /// Of a relative one, who writes the depfiles that are translated.
    writer: Option<depfile::Writer>,
    /// The first names of absolute paths in the input tree.
    tops: Vec<String>,
}

/// A file of this machine's image that the worker's lacks or has otherwise, so that it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// Physical path: no component is a symlink.
    pub path: PathBuf,
    /// Of its content.
    pub digest: Digest,
}

impl Rooted {
    fn of(draft: Draft, from: &Arc<Action>, root: Root) -> Rooted {
        let pairs = draft.outputs.iter().zip(&from.sought.outputs);
        let names = pairs.map(|(there, here)| (there.remote.clone(), here.remote.clone())).collect();
        let sent = draft.finished();
        let (inputs, in_image) = (from.inputs.clone(), from.in_image.clone());
        let outputs = sent.sought.outputs.clone();
        let sought =
            Sought { key: from.sought.key, outputs, checkout: from.sought.checkout.clone(), speaker: None };
        let sent = Action { sought: Arc::new(sought), inputs, in_image, ..sent };
        Rooted { action: Arc::new(sent), root, names, writer: None, tops: Vec::new() }
    }

    /// The action as it is where the input root is the root directory.
    pub fn mirror(action: &Arc<Action>) -> Rooted {
        Rooted {
            action: Arc::clone(action),
            root: Root::Mirror,
            names: HashMap::new(),
            writer: None,
            tops: Vec::new(),
        }
    }

    /// The action in which our own `program`, a file on this machine, puts the input root where it belongs before it becomes
    /// the command, and each of the files that are `brought`.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    pub fn wrapper(action: &Arc<Action>, program: &Path, brought: &[Brought]) -> Result<Rooted, String> {
        let mut draft = Draft::of(action)?;
        let cwd = draft.cwd();
        let top =
            draft.input_root.chain(Path::new("/")).and_then(|mut chain| chain.pop()).ok_or(INCOMPLETE)?;
        let mut name = worker::NAME.to_owned();
        while names(&top).any(|other| other == name) {
            name.push('_');
        }
        let mut arguments = vec![format!("./{name}"), "enter".to_owned(), "--cwd".to_owned(), text(&cwd)?];
        let brought_paths = brought.iter().map(|file| file.path.clone());
        for bind in draft.binds(&top)?.into_iter().chain(brought_paths) {
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
        draft.bring(brought)?;
        draft.add_program(&name, program)?;
        Ok(Rooted::of(draft, action, Root::Wrapper))
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
        Ok(Rooted::of(draft, action, Root::Property))
    }

    /// The action of a command that names everything from its working directory, where a symlink leads to the input root.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    pub fn relative(action: &Arc<Action>, relative: &RelativeCommand) -> Result<Rooted, String> {
        if action.sought.checkout.is_some() {
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
        let rooted = Rooted::of(draft, action, Root::Relative);
        Ok(Rooted { writer: Some(relative.writer), tops, ..rooted })
    }

    /// Gives a result of the cluster the names that it has here.
    ///
    /// # Errors
    /// When something was made that shows how it was made, or the store fails.
    pub fn result_here(&self, store: &Store, result: &mut re::ActionResult) -> Result<(), Reason> {
        if let Some(writer) = self.writer {
            self.texts_here(writer, store, result)?;
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
        if self.writer.is_some() {
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
    fn texts_here(
        &self,
        writer: depfile::Writer,
        store: &Store,
        result: &mut re::ActionResult,
    ) -> Result<(), Reason> {
        result.stdout_raw = self.text_here(&result.stdout_raw);
        result.stderr_raw = self.text_here(&result.stderr_raw);
        let failed = |error: &dyn std::fmt::Display| Reason::Store(error.to_string());
        for output in &self.action.sought.outputs {
            let Some(file) = result.output_files.iter_mut().find(|file| file.path == output.remote) else {
                continue;
            };
            let digest = file.digest.as_ref().and_then(|digest| Digest::try_from(digest).ok());
            let Some(digest) = digest else { continue };
            let bytes = store.read(&digest).map_err(|error| failed(&error))?;
            let bytes = bytes.ok_or_else(|| failed(&"an output is gone from the store"))?;
            if output.is_translated() {
                let here = depfile::renamed(&bytes, writer, &|name| name_here(name).to_vec());
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

/// A file's name of a relative action, as it is here. Gold puts the working directory before the names of scripts, as `./`.
fn name_here(name: &[u8]) -> &[u8] {
    match name.strip_prefix(b"./").unwrap_or(name).strip_prefix(LINK.as_bytes()) {
        Some(below) if below.starts_with(b"/") => below,
        _ => name,
    }
}

/// Whether a path is absolute and of no use to a worker on which it is not mirrored.
fn is_outside(path: &str) -> bool {
    path.starts_with('/') && !paths::is_system(Path::new(path))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::action::InputRoot;
    use crate::action::tests::an_action;
    use crate::preprocessor::Family;

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
        let rooted = Rooted::wrapper(&action, Path::new("/program"), &[]).unwrap();
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
        assert_eq!(rooted.action.sought.key, action.sought.key);
        assert_ne!(rooted.action.digest, action.digest);
        let program = (worker::digest(), Arc::from(Path::new("/program")));
        assert!(rooted.action.input_root.files.contains(&program));
        let top = rooted.action.input_root.chain(Path::new("/")).unwrap();
        assert!(top[0].files.iter().any(|file| file.name == "farcc-worker" && file.is_executable));
    }

    #[test]
    fn what_is_brought_stands_in_the_tree_and_is_bound_by_itself() {
        let (_guard, action, _) = fixture();
        let file = |path: &str| Brought { path: path.into(), digest: Digest::of(path.as_bytes()) };
        let brought = ["/usr/include/b/x.h", "/usr/include/a.h", "/usr/include/b/w.h"].map(file);
        let rooted = Rooted::wrapper(&action, Path::new("/program"), &brought).unwrap();
        let (command, _) = decoded(&rooted);
        let binds = command.arguments.iter().filter(|argument| argument.starts_with("/usr/include"));
        assert_eq!(
            binds.collect::<Vec<_>>(),
            ["/usr/include/b/x.h", "/usr/include/a.h", "/usr/include/b/w.h"]
        );
        assert!(!command.arguments.iter().any(|argument| argument == "/usr"));
        let root = &rooted.action.input_root;
        let directory = root.chain(Path::new("/usr/include/b")).unwrap().pop().unwrap();
        assert_eq!(names(&directory).collect::<Vec<_>>(), ["w.h", "x.h"]);
        for file in brought {
            assert!(root.files.contains(&(file.digest, file.path.into())));
        }
    }

    #[test]
    fn results_have_the_names_of_here() {
        let (_guard, action, cwd) = fixture();
        let store = tempfile::tempdir().unwrap();
        let store = Store::open(store.path(), 1 << 20).unwrap();
        let rooted = Rooted::wrapper(&action, Path::new("/program"), &[]).unwrap();
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
        let relative = RelativeCommand { arguments, writer: depfile::Writer::Compiler(Family::Gcc) };
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
}

//! What is particular to links and archives when their Action is made: what they read, why they cannot be shared, and how
//! they are told in relative paths.
//! Knows nothing of results.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::action::ActionError;
use crate::action::LINK;
use crate::compiler::Archive;
use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Linker;
use crate::compiler::by_link;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::in_background;
use crate::dispatch::inputs::version;
use crate::dispatch::sharing::Sharing;
use crate::dispatch::step::Step;
use crate::files::Files;
use crate::files::InputFile;
use crate::linker;
use crate::linker::LinkError;
use crate::linker::LinkLine;
use crate::linker::Renaming;
use crate::linker::Surroundings;
use crate::paths;
use crate::reason::Reason;
use crate::relocation::Relocation;

impl Dispatcher {
    /// What a link or an archive reads.
    pub(super) async fn link_inputs(
        &self,
        step: &Step,
        invocation: &Arc<Invocation>,
    ) -> Result<Scanned, Reason> {
        let (files, sources) = (Arc::clone(&self.files), Arc::clone(&self.link_sources));
        let (step, invocation) = (step.clone(), Arc::clone(invocation));
        in_background(move || {
            let mut scanned = match &step {
                Step::Compile { .. } => return Err(Reason::Internal("a compile is no link".to_owned())),
                Step::Link { link, linker, line } => {
                    inputs_of_link(link, linker, line, &invocation, &sources, &files)?
                }
                Step::Archive { archive, .. } => inputs_of_archive(archive, &invocation, &sources, &files)?,
            };
            for (path, _) in &step.tools().files {
                scanned.inputs.push(Arc::new(version(path.clone(), &files)?));
            }
            Ok(scanned)
        })
        .await?
    }
}

/// A link or an archive whose action is made.
pub(super) struct Linking<'a> {
    pub(super) step: &'a Step,
    pub(super) sources: &'a linker::Sources,
}

impl Linking<'_> {
    /// Says whether what it makes shows no checkout.
    ///
    /// # Errors
    /// [`ActionError::Bound`]: it does.
    pub(super) fn check_sharing(
        &self,
        read: &Scanned,
        relocation: &Relocation,
        sharing: &Sharing,
    ) -> Result<(), ActionError> {
        let names_there = |argument: &&OsString| relocation.is_there_in(argument.as_bytes());
        if let Some(argument) = self.step.arguments().iter().find(names_there) {
            return Err(ActionError::Bound(format!("{} names the workspace", argument.display())));
        }
        let arguments = arguments_there(self.step, relocation).map_err(ActionError::Bound)?;
        self.check(read, &arguments).map_err(ActionError::Bound)?;
        match sharing.check(&read.inputs, relocation, false)? {
            Some((path, _)) => Err(ActionError::Bound(format!("{} names the workspace", path.display()))),
            None => Ok(()),
        }
    }

    /// The arguments by relative paths, for workers on which no absolute one leads to its files.
    ///
    /// # Errors
    /// Why there are none, as a clause.
    pub(super) fn relative_arguments(&self, read: &Scanned) -> Result<Vec<OsString>, String> {
        let rename = |path: &Path| by_link(LINK, path);
        let renaming = Renaming { rename: &rename, is_named_in: &names_outside, what: "an absolute path" };
        let arguments = renamed_arguments(self.step, &renaming)?;
        self.check(read, &arguments)?;
        Ok(arguments)
    }

    /// Refuses what finds files by names that are in others, and, where files get other names among the `arguments`, what among
    /// the inputs makes names matter.
    fn check(&self, read: &Scanned, arguments: &[OsString]) -> Result<(), String> {
        let line = match self.step {
            Step::Archive { archive, .. } if !archive.programs.is_empty() => {
                return Err("it reads what debug information names".to_owned());
            }
            Step::Link { line, .. } if arguments != self.step.arguments() => line,
            _ => return Ok(()),
        };
        let tie = linker::tie(line, &read.inputs, self.sources).map_err(|error| error.to_string())?;
        tie.map_or(Ok(()), Err)
    }
}

/// The arguments of a link or an archive where the workspace stands as `relocation` says.
///
/// # Errors
/// Why there are none, as a clause.
pub(super) fn arguments_there(step: &Step, relocation: &Relocation) -> Result<Vec<OsString>, String> {
    // By a way that the action does not have, nothing is found.
    let rename = |path: &Path| match path.is_absolute() && !relocation.crosses(path) {
        true => relocation.there(path),
        false => path.to_owned(),
    };
    let is_named_in = |word: &OsStr| relocation.named_here(word.as_bytes()).is_some();
    let renaming = Renaming { rename: &rename, is_named_in: &is_named_in, what: "the workspace" };
    renamed_arguments(step, &renaming)
}

fn renamed_arguments(step: &Step, renaming: &Renaming) -> Result<Vec<OsString>, String> {
    match step {
        Step::Link { link, linker, line } => link.renamed_arguments(linker, line, renaming),
        Step::Archive { archive, .. } => archive.renamed_arguments(renaming),
        Step::Compile { .. } => Err("a compile is no link".to_owned()),
    }
}

/// Whether a word has an absolute path in it that leads to none of the image's files: at its beginning, behind a flag of one
/// letter, or behind what separates the parts of a list.
fn names_outside(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let begins = |at: usize| match at.checked_sub(1).map(|before| bytes[before]) {
        None | Some(b'=' | b',' | b':' | b'@') => true,
        Some(_) => at >= 2 && bytes[at - 2] == b'-' && (at == 2 || bytes[at - 3] == b','),
    };
    let paths = memchr::memchr_iter(b'/', bytes).filter(|&at| begins(at)).map(|at| &bytes[at..]);
    let ends = |path: &[u8]| path.iter().position(|byte| b",:".contains(byte)).unwrap_or(path.len());
    paths.into_iter().any(|path| {
        let path = Path::new(OsStr::from_bytes(&path[..ends(path)]));
        !paths::is_system(&paths::lexically_normal(path))
    })
}

fn inputs_of_link(
    link: &Link,
    linker: &Linker,
    line: &LinkLine,
    invocation: &Invocation,
    sources: &linker::Sources,
    files: &Files,
) -> Result<Scanned, Reason> {
    let surroundings = Surroundings {
        cwd: &invocation.cwd,
        flavour: linker.flavour,
        sysroot: &linker.sysroot,
        search_directories: &linker.search_directories,
        library_path: invocation.variable("LD_LIBRARY_PATH"),
        run_path: invocation.variable("LD_RUN_PATH"),
    };
    let mut inputs = linker::resolve(line, &surroundings, sources).map_err(reason)?;
    for file in link.read_by_driver() {
        let path = paths::absolute(&invocation.cwd, &file);
        // The driver looks elsewhere, too: what it found is among its programs' files.
        if path.is_file() {
            inputs.push(Arc::new(version(path, files)?));
        }
    }
    if let Some(flag) = link.asks_more_of_code() {
        for input in inputs.iter().filter(|input| !paths::is_system(&input.path)) {
            if sources.has_intermediate_code(input).map_err(reason)? {
                return Err(Reason::UnsupportedFlag(flag));
            }
        }
    }
    Ok(Scanned { inputs, ..Scanned::default() })
}

fn reason(error: LinkError) -> Reason {
    match error {
        LinkError::Unsupported(_) => Reason::Link(error.to_string()),
        LinkError::Missing(name) => Reason::InputMissing(name),
        LinkError::Unreadable { path, error } => {
            Reason::InputUnreadable(format!("{}: {error}", path.display()))
        }
        LinkError::NotSure(why) => Reason::NotSure(why),
    }
}

fn inputs_of_archive(
    archive: &Archive,
    invocation: &Invocation,
    sources: &linker::Sources,
    files: &Files,
) -> Result<Scanned, Reason> {
    let mut inputs: Vec<Arc<InputFile>> = Vec::with_capacity(archive.inputs.len());
    for input in &archive.inputs {
        let input = version(paths::absolute(&invocation.cwd, input), files)?;
        if archive.is_thin && sources.is_archive(&input).map_err(reason)? {
            return Err(Reason::Archive(format!("{} is an archive, too", input.path.display())));
        }
        inputs.push(Arc::new(input));
    }
    for program in &archive.programs {
        let program = version(paths::absolute(&invocation.cwd, program), files)?;
        for unit in linker::Sources::split_units(&program).map_err(reason)? {
            let candidates = unit.candidates(&invocation.cwd);
            let mut found = candidates.into_iter().filter(|path| path.is_file()).peekable();
            if found.peek().is_none() {
                return Err(Reason::InputMissing(unit.name.display().to_string()));
            }
            for path in found {
                inputs.push(Arc::new(version(path, files)?));
            }
        }
    }
    Ok(Scanned { inputs, ..Scanned::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_found_in_words() {
        for (word, expected) in [
            ("a.o", false),
            ("sub/a.o", false),
            ("../a.o", false),
            ("/home/u/a.o", true),
            ("/usr/lib/crt1.o", false),
            ("/usr/../home/a.o", true),
            ("-L/home/u", true),
            ("-Lsub/dir", false),
            ("-Wl,-rpath,/home/u/lib", true),
            ("-Wl,-z,now,-L/home/u/lib", true),
            ("-Wl,-z,now,-L/usr/lib", false),
            ("-Wl,--defsym=a-b/c", false),
            ("-Wl,-rpath,/usr/lib:/home/u/lib", true),
            ("-Wl,-rpath,$ORIGIN/../lib", false),
            ("-Wl,--version-script=/home/u/a.map", true),
            ("-Wl,-dynamic-linker,/lib64/ld.so", false),
            ("--sysroot=/opt/s", true),
        ] {
            assert_eq!(names_outside(word.as_ref()), expected, "{word}");
        }
    }
}

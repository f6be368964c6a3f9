//! What is particular to links and archives when their Action is made: what they read, why they cannot be shared, and how
//! they are told in relative paths.
//! Knows nothing of results.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::action::ActionError;
use crate::compiler::Archive;
use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Linker;
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

/// Says whether what a link or an archive makes shows no checkout: nothing of it is moved.
///
/// # Errors
/// [`ActionError::Bound`]: it does.
pub(super) fn check_sharing(
    step: &Step,
    invocation: &Invocation,
    read: &Scanned,
    relocation: &Relocation,
    sharing: &Sharing,
) -> Result<(), ActionError> {
    check_untold(step, invocation).map_err(ActionError::Bound)?;
    let names = |argument: &&OsString| relocation.is_named_in(argument.as_bytes());
    if let Some(argument) = step.arguments().iter().find(names) {
        return Err(ActionError::Bound(format!("{} names the workspace", argument.display())));
    }
    match sharing.check(&read.inputs, relocation, false)? {
        Some((path, _)) => Err(ActionError::Bound(format!("{} names the workspace", path.display()))),
        None => Ok(()),
    }
}

/// The arguments as they are, for workers on which no absolute path leads to its files: they must name none.
///
/// # Errors
/// Why there are none, as a clause.
pub(super) fn relative_arguments(step: &Step, invocation: &Invocation) -> Result<Vec<OsString>, String> {
    check_untold(step, invocation)?;
    match step.arguments().iter().find(|argument| names_outside(argument)) {
        Some(argument) => Err(format!("{} names an absolute path", argument.display())),
        None => Ok(step.arguments().to_vec()),
    }
}

/// Refuses what writes down the names of the files that it has read, and what finds files by names that are in others.
fn check_untold(step: &Step, invocation: &Invocation) -> Result<(), String> {
    if !step.depfiles(&invocation.cwd).is_empty() {
        return Err("it tells what it has read".to_owned());
    }
    match step {
        Step::Archive { archive, .. } if !archive.programs.is_empty() => {
            Err("it reads what debug information names".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether a word has an absolute path in it that leads to none of the image's files: at its beginning, behind a flag of one
/// letter, or behind what separates the parts of a list.
fn names_outside(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let begins = |at: usize| match at.checked_sub(1).map(|before| bytes[before]) {
        None | Some(b'=' | b',' | b':' | b'@') => true,
        Some(_) => at == 2 && bytes[0] == b'-',
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

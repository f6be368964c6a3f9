//! A local run at its beginning: what the launcher is to start, and what must be known from before it starts to trust what
//! it leaves.
//! Runs nothing, and does not know how it ends.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Action;
use crate::action::Output;
use crate::action::find;
use crate::compiler::AppendedRules;
use crate::compiler::Audit;
use crate::compiler::Invocation;
use crate::disk;
use crate::dispatch::step::Step;
use crate::files::Fingerprint;

/// A command as the launcher is to run it.
pub(super) struct LocalCommand<'a> {
    /// What it is.
    pub step: &'a Step,
    /// As the launcher sent it.
    pub invocation: &'a Invocation,
    /// Its arguments as the user gave them, with the colours that a terminal would have got.
    pub argv: Vec<OsString>,
    /// What it appends to the file that a variable names.
    pub appended: Option<(AppendedRules, Vec<u8>)>,
}

/// A run that may begin.
pub(super) struct Attempt {
    /// What the launcher is to run.
    pub argv: Vec<OsString>,
    /// How it is known afterwards what was read.
    pub audited: Audited,
    /// What lies where the outputs go.
    pub before: Vec<(PathBuf, Fingerprint)>,
    /// When it may begin.
    pub began: Instant,
}

/// What tells which files the compiler opened.
pub(super) enum Audited {
    /// The user's depfiles.
    Users(Vec<PathBuf>),
    /// One that only farcc asked for, and that is removed again.
    Ours(tempfile::TempPath),
    /// It was asked before the run.
    Before,
    /// The rules that the compiler appends to a file of the user's, where others may stand as well: made before the run.
    Appended(Vec<u8>),
    /// The state directory cannot be written: without an audit, nothing is stored.
    Impossible,
}

impl LocalCommand<'_> {
    /// To be run from now on. Depfiles that no user asked for go to `audit_directory`.
    pub(super) fn attempt(self, action: &Action, audit_directory: &Path) -> Attempt {
        let LocalCommand { step, invocation, mut argv, appended } = self;
        let audited = match step.audit(appended.as_ref().map(|(rules, _)| rules)) {
            Audit::AppendedRules => Audited::Appended(appended.map(|(_, text)| text).unwrap_or_default()),
            // The compiler was asked before the run, or there is nothing to ask.
            Audit::Question | Audit::Nothing => Audited::Before,
            Audit::Depfile => Audited::Users(step.depfiles(&invocation.cwd)),
            Audit::AddedDepfile => match temporary_depfile(audit_directory) {
                Ok(path) => {
                    argv.extend(step.depfile_arguments(&path));
                    Audited::Ours(path)
                }
                Err(error) => {
                    tracing::warn!("failed to make a file in {}: {error}", audit_directory.display());
                    Audited::Impossible
                }
            },
        };
        let lies = |output: &Output| Some((output.path.clone(), Fingerprint::of(&output.path).ok()?));
        let outputs = action.sought.outputs.iter().filter(|output| output.lies_in_place());
        let before = outputs.filter_map(lies).collect();
        Attempt { argv, audited, before, began: Instant::now() }
    }
}

impl Attempt {
    /// After the run was ended before its time and the outputs of `result` are all that is to be there: removes what it alone
    /// has begun.
    pub(super) fn remove_leftovers(&self, action: &Action, result: &re::ActionResult) {
        let outputs = action.sought.outputs.iter().filter(|output| output.lies_in_place());
        for output in outputs.filter(|output| find(result, output).is_none()) {
            if !self.before.iter().any(|(path, _)| *path == output.path) {
                // Seldom it is there at all.
                let _ = std::fs::remove_file(&output.path);
            }
        }
    }
}

/// Whether an installation makes good for whatever a run does to the outputs of `action` that is ended before its time. A
/// driver that is told to end removes what it has begun: a symlink, another name of the file or a mode would be lost.
pub(super) fn may_be_ended(action: &Action, umask: u32) -> bool {
    let us = rustix::process::geteuid().as_raw();
    action.sought.outputs.iter().all(|output| match std::fs::symlink_metadata(&output.path) {
        Ok(metadata) => {
            let is_plain = metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == us;
            is_plain && metadata.mode() & 0o7777 == 0o666 & !umask
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}

fn temporary_depfile(directory: &Path) -> std::io::Result<tempfile::TempPath> {
    std::fs::create_dir_all(directory)?;
    // The compiler would fail where it is full.
    if disk::is_scarce(directory) {
        return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "its file system is nearly full"));
    }
    Ok(tempfile::Builder::new().suffix(".d").tempfile_in(directory)?.into_temp_path())
}

/// No compile takes so long: whoever asked for the depfile was killed.
const OLDEST_DEPFILE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what killed daemons have left in the directory of depfiles that only farcc asked for.
pub(super) fn remove_old_depfiles(directory: &Path) {
    // It may not be there yet.
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > OLDEST_DEPFILE)) {
            // The next time is early enough for what cannot be removed now.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::action::Circumstances;
    use crate::action::CommandSpec;
    use crate::compiler::ExpectedOutput;
    use crate::compiler::OutputKind;
    use crate::digest::Digest;
    use crate::files::Files;
    use crate::files::InputFile;
    use crate::listings::Listings;

    /// The action of compiling `a.c` of `scratch`, as it is prepared at this moment.
    pub(in crate::dispatch) fn prepared(scratch: &Path, outputs: Vec<ExpectedOutput>) -> Action {
        let spec = CommandSpec {
            arguments: vec!["/usr/bin/cc".into()],
            environment: BTreeMap::new(),
            cwd: scratch,
            directories: Vec::new(),
            outputs,
            checkout: None,
            speaker: None,
        };
        let platform = BTreeMap::new();
        let (toolchain, timeout) = (Digest::empty(), Duration::ZERO);
        let circumstances = Circumstances { toolchain, salt: "", platform: &platform, timeout };
        let path = scratch.join("a.c");
        let version = Files::default().version(&path).unwrap();
        let inputs = vec![Arc::new(InputFile { path, version })];
        Action::new(&spec, inputs, &circumstances, &Listings::default()).unwrap()
    }

    /// A compile that makes `a.o`, and may make `a.d`.
    fn action(scratch: &Path) -> Action {
        std::fs::write(scratch.join("a.c"), "int a;").unwrap();
        let depfile = ExpectedOutput::overwriting(OutputKind::Depfile, scratch.join("a.d"));
        let object = ExpectedOutput::replacing(OutputKind::Object, scratch.join("a.o"));
        prepared(scratch, vec![object, ExpectedOutput { is_optional: true, ..depfile }])
    }

    #[test]
    fn what_an_ended_run_alone_has_begun_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().canonicalize().unwrap();
        let action = action(&directory);
        let file = |name: &str| re::OutputFile { path: name.to_owned(), ..re::OutputFile::default() };
        let result = |names: &[&str]| re::ActionResult {
            output_files: names.iter().map(|name| file(name)).collect(),
            ..re::ActionResult::default()
        };
        let depfile = directory.join("a.d");
        for (was_there, is_in_result, stays) in
            [(false, false, false), (true, false, true), (false, true, true)]
        {
            std::fs::write(&depfile, "half of it").unwrap();
            let before = if was_there {
                vec![(depfile.clone(), Fingerprint::of(&depfile).unwrap())]
            } else {
                Vec::new()
            };
            let attempt =
                Attempt { argv: Vec::new(), audited: Audited::Before, before, began: Instant::now() };
            let result = if is_in_result { result(&["a.o", "a.d"]) } else { result(&["a.o"]) };
            attempt.remove_leftovers(&action, &result);
            assert_eq!(depfile.exists(), stays, "{was_there} {is_in_result}");
        }
    }

    #[test]
    fn only_what_an_installation_brings_back_may_be_lost() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().canonicalize().unwrap();
        let action = action(&directory);
        let (object, other) = (directory.join("a.o"), directory.join("other"));
        assert!(may_be_ended(&action, 0o022), "nothing is there");
        let write = |mode| {
            std::fs::write(&object, "older").unwrap();
            std::fs::set_permissions(&object, PermissionsExt::from_mode(mode)).unwrap();
        };
        write(0o644);
        assert!(may_be_ended(&action, 0o022));
        assert!(!may_be_ended(&action, 0o077), "another mode than a new file would get");
        write(0o600);
        assert!(!may_be_ended(&action, 0o022) && may_be_ended(&action, 0o077));
        write(0o644);
        std::fs::hard_link(&object, &other).unwrap();
        assert!(!may_be_ended(&action, 0o022), "a file with two names");
        std::fs::remove_file(&object).unwrap();
        std::os::unix::fs::symlink(&other, &object).unwrap();
        assert!(!may_be_ended(&action, 0o022), "a symlink");
    }
}

//! Results on this machine: a hit in the store, and what a local run leaves for it.
//! Runs nothing: the launcher does.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use tokio::sync::OwnedSemaphorePermit;

use crate::action::Action;
use crate::action::Execution;
use crate::action::InstallError;
use crate::action::Output;
use crate::action::Sought;
use crate::action::collect;
use crate::action::executed_here;
use crate::action::find;
use crate::action::install;
use crate::compiler::Invocation;
use crate::compiler::depfile;
use crate::config::Config;
use crate::digest::Digest;
use crate::dispatch::Directories;
use crate::dispatch::Presence;
use crate::dispatch::Sharing;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::attempt::Attempt;
use crate::dispatch::attempt::Audited;
use crate::dispatch::claims::Claim;
use crate::dispatch::in_background;
use crate::dispatch::verification;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::files::InputFile;
use crate::paths;
use crate::reason::Reason;
use crate::stats::Outcome;
use crate::store::Store;
use crate::store::StoreError;

/// Messages up to this size stand in the result itself; longer ones are blobs.
const INLINE_BYTES: usize = 64 * 1024;

/// How a local run ended, and what it printed.
#[derive(Debug, Clone)]
pub struct LocalRun {
    /// Whether it ended by `exit(0)`.
    pub success: bool,
    /// Everything it wrote to standard output, if that was kept.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error, if that was kept.
    pub stderr: Vec<u8>,
    /// Whether all of both was kept.
    pub captured: bool,
    /// How long it ran, without the wait for a slot; none if that is not known.
    pub took: Option<Duration>,
}

/// What a local run is for.
pub(super) struct Purpose {
    /// The command as the launcher sent it.
    pub invocation: Arc<Invocation>,
    /// Its configuration.
    pub config: Arc<Config>,
    /// Why it runs here.
    pub reason: Reason,
    /// The result that it is to have, if it is run to compare.
    pub expected: Option<re::ActionResult>,
    /// Its share of this machine's memory, if it is a heavy link.
    pub heavy: Option<OwnedSemaphorePermit>,
}

/// A command that the launcher runs, and what is needed to keep its result.
pub struct Pending {
    /// What the launcher is to run.
    pub argv: Vec<OsString>,
    /// Why it runs here.
    pub reason: Reason,
    /// The command as the launcher sent it.
    pub invocation: Arc<Invocation>,
    config: Arc<Config>,
    action: Arc<Action>,
    store: Arc<Store>,
    audited: Audited,
    /// What lay where its outputs go before it ran.
    before: Vec<(PathBuf, Fingerprint)>,
    /// The result that it is to have, if it is run to compare.
    expected: Option<re::ActionResult>,
    /// Where a copy of it goes if it has another.
    verify_directory: PathBuf,
    /// Its outputs are nobody else's meanwhile, or the result is not kept.
    claim: Claim,
    /// Its share of this machine's memory, if it is a heavy link.
    _heavy: Option<OwnedSemaphorePermit>,
    trail: Trail,
    handed_over: Instant,
}

/// The result of a local run that the cluster may want.
pub struct Kept {
    /// The action it is the result of.
    pub action: Arc<Action>,
    /// The result.
    pub result: re::ActionResult,
    /// Where its blobs are.
    pub store: Arc<Store>,
    /// The command's configuration.
    pub config: Arc<Config>,
}

/// Looks for a result and puts its outputs into place; with how long the command ran that made it. None:
/// a miss.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn hit(
    store: &Store,
    sought: &Sought,
    umask: u32,
    presence: &Presence,
    files: &Files,
) -> Result<Option<(Verdict, Option<Execution>)>, StoreError> {
    let Some(result) = store.action_result(&sought.key)? else { return Ok(None) };
    if result.exit_code != 0 {
        return Ok(None);
    }
    let (Some(stdout), Some(stderr)) = (
        message(store, &result.stdout_raw, result.stdout_digest.as_ref())?,
        message(store, &result.stderr_raw, result.stderr_digest.as_ref())?,
    ) else {
        return Ok(None);
    };
    match install(store, sought, &result, umask, &|| presence.is_there(), files) {
        Ok(()) => {
            let (stdout, stderr) = (sought.messages_here(stdout), sought.messages_here(stderr));
            Ok(Some((Verdict::Completed { exit_code: 0, stdout, stderr }, Execution::of(&result))))
        }
        Err(InstallError::Store(error)) => Err(error),
        // Trimmed in part: made again. Or nobody waits, and what is answered does not matter.
        Err(InstallError::Gone(_) | InstallError::NotMade(_) | InstallError::Unwanted) => Ok(None),
    }
}

/// A standard stream of a result: inline, or a blob of the store. None: the blob is gone.
fn message(store: &Store, raw: &[u8], digest: Option<&re::Digest>) -> Result<Option<Vec<u8>>, StoreError> {
    match digest.and_then(|digest| Digest::try_from(digest).ok()) {
        Some(digest) if raw.is_empty() && digest.size_bytes() > 0 => store.read(&digest),
        _ => Ok(Some(raw.to_vec())),
    }
}

impl Pending {
    /// A local run that begins now, or did in a race.
    pub(super) fn new(
        attempt: Attempt,
        purpose: Purpose,
        action: Arc<Action>,
        store: Arc<Store>,
        claim: Claim,
        trail: Trail,
        directories: &Directories,
    ) -> Pending {
        let Attempt { argv, audited, before, began } = attempt;
        let Purpose { invocation, config, reason, expected, heavy } = purpose;
        let verify_directory = directories.verify();
        Pending {
            argv,
            reason,
            invocation,
            config,
            action,
            store,
            audited,
            before,
            expected,
            verify_directory,
            claim,
            _heavy: heavy,
            trail,
            handed_over: began,
        }
    }

    /// Whether the command has succeeded before.
    pub(super) fn expects_success(&self) -> bool {
        self.expected.is_some()
    }

    /// The trail of a command that failed here and had succeeded before.
    pub(super) async fn fails_here(self) -> Trail {
        let Pending { invocation, action, store, expected, verify_directory, .. } = &self;
        let (invocation, action) = (Arc::clone(invocation), Arc::clone(action));
        let (store, expected, directory) =
            (Arc::clone(store), expected.clone().unwrap_or_default(), verify_directory.clone());
        let told = in_background(move || {
            let found = re::ActionResult::default();
            tell_difference("it fails here", &action, &invocation, [&expected, &found], &store, &directory)
        });
        let reason = told.await.unwrap_or_else(|reason| reason);
        self.not_kept(Some(reason))
    }

    /// The launcher has reported: its own work is over.
    pub(super) fn reported(&mut self) {
        self.trail.elsewhere(self.handed_over.elapsed());
    }

    /// The trail of a command whose result is not to be kept, because of `reason` if not because of the run.
    pub(super) fn not_kept(mut self, reason: Option<Reason>) -> Trail {
        self.trail.ended(Outcome::ExecutedLocal, Some(reason.unwrap_or(self.reason)));
        self.trail
    }

    /// Takes the result into the store if it can be trusted. `again`: the same command prepared once more after
    /// the run. `sharing` learns of what shows its checkout. Returns the trail, and what may be offered to the cluster.
    pub(super) async fn keep(
        self,
        run: LocalRun,
        again: Arc<Action>,
        presence: Presence,
        sharing: &Sharing,
    ) -> (Trail, Option<Kept>) {
        let Pending { reason, invocation, config, action, store, audited, before, claim, mut trail, .. } =
            self;
        let (expected, verify_directory) = (self.expected, self.verify_directory);
        let (keeping, into) = (Arc::clone(&action), Arc::clone(&store));
        let kept = in_background(move || {
            check_made(&before)?;
            let current = || is_current(&keeping, &again, &claim, &presence);
            let compare = |found: &re::ActionResult| match &expected {
                Some(expected) => compare(&keeping, &invocation, [expected, found], &into, &verify_directory),
                None => Ok(()),
            };
            keep(&keeping, &invocation.cwd, &into, &audited, &run, &compare, &current)
        });
        match kept.await {
            Ok(Ok(result)) => {
                let sizes = result.output_files.iter().filter_map(|file| file.digest.as_ref());
                trail.bytes.stored +=
                    sizes.map(|digest| u64::try_from(digest.size_bytes).unwrap_or(0)).sum::<u64>();
                // What failed there and succeeded here is no result to share.
                let shareable = matches!(reason, Reason::RemoteError(_) | Reason::CacheOnly | Reason::Raced);
                trail.ended(Outcome::ExecutedLocal, Some(reason));
                (trail, shareable.then_some(Kept { action, result, store, config }))
            }
            Ok(Err(reason)) | Err(reason) => {
                if matches!(reason, Reason::PathShown(_)) {
                    sharing.note_shown(action.sought.key);
                }
                trail.ended(Outcome::ExecutedLocal, Some(reason));
                (trail, None)
            }
        }
    }
}

/// Whether what lies at the outputs is what the command makes of the inputs that are in its key.
fn is_current(before: &Action, again: &Action, claim: &Claim, presence: &Presence) -> Result<(), Reason> {
    if !presence.is_there() {
        return Err(Reason::Abandoned);
    }
    if let Some(path) = claim.contested() {
        return Err(Reason::OutputContested(path.display().to_string()));
    }
    // A file that was changed and changed back has the same bytes as before; the compiler may have seen others.
    if before.sought.key != again.sought.key || before.inputs != again.inputs {
        let same =
            before.inputs.iter().zip(&again.inputs).take_while(|(before, again)| before == again).count();
        let changed = before.inputs.get(same).or(again.inputs.get(same));
        let changed = changed.map(|input| input.path.display().to_string());
        return Err(Reason::InputChanged(changed.unwrap_or_else(|| "the environment".to_owned())));
    }
    Ok(())
}

/// Audits a local run and stores its result under the action's key. `current` is asked when the outputs have been
/// read: only then it is certain that the command's own were.
fn keep(
    action: &Action,
    cwd: &Path,
    store: &Store,
    audited: &Audited,
    run: &LocalRun,
    compare: &dyn Fn(&re::ActionResult) -> Result<(), Reason>,
    current: &dyn Fn() -> Result<(), Reason>,
) -> Result<re::ActionResult, Reason> {
    let depfiles: Vec<&Path> = match audited {
        Audited::Users(paths) => paths.iter().map(PathBuf::as_path).collect(),
        Audited::Ours(path) => vec![path],
        Audited::Before | Audited::Appended(_) => Vec::new(),
        Audited::Impossible => return Err(Reason::Store("write the state directory".to_owned())),
    };
    current()?;
    let mut text = Vec::new();
    for path in depfiles {
        text = std::fs::read(path).map_err(|error| {
            Reason::DepfileDisagrees(format!("{} cannot be read: {error}", path.display()))
        })?;
        audit_depfile(&text, cwd, &action.inputs)?;
    }
    if let Audited::Appended(rules) = audited {
        text.clone_from(rules);
        audit_appended(&text, cwd, &action.inputs)?;
    }
    let failed = |error: StoreError| Reason::Store(error.to_string());
    let mut output_files = collect(store, &action.sought).map_err(failed)?;
    let is_made = |output: &Output| output_files.iter().any(|file| file.path == output.remote);
    let mut expected =
        action.sought.outputs.iter().filter(|output| output.lies_in_place() && !output.is_optional);
    if !expected.all(is_made) {
        // The compiler said success without making what is expected of it: nothing to keep.
        return Err(Reason::Store("find every output of the command".to_owned()));
    }
    // The audited rules are part of the result wherever they are taken from, so that a hit can be audited again.
    if let Some(output) = action.sought.outputs.iter().find(|output| !output.lies_in_place()) {
        let there = action.sought.checkout.as_ref().map(|checkout| checkout.depfile_there(&text));
        let digest = store.put(there.as_deref().unwrap_or(&text)).map_err(failed)?;
        let path = output.remote.clone();
        output_files.push(re::OutputFile { path, digest: Some(digest.into()), ..re::OutputFile::default() });
        output_files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    let execution_metadata = executed_here(run.took, SystemTime::now());
    let mut result = re::ActionResult { output_files, execution_metadata, ..re::ActionResult::default() };
    let (stdout, stderr) =
        (action.sought.messages_there(&run.stdout), action.sought.messages_there(&run.stderr));
    (result.stdout_raw, result.stdout_digest) = keep_message(store, &stdout).map_err(failed)?;
    (result.stderr_raw, result.stderr_digest) = keep_message(store, &stderr).map_err(failed)?;
    check_messages(action, [&stdout, &stderr])?;
    check_outputs(action, store, &result)?;
    current()?;
    compare(&result)?;
    store.put_action_result(&action.sought.key, &result).map_err(failed)?;
    Ok(result)
}

/// Whether every file that lay where an output goes has been written since: else nobody knows who made it.
fn check_made(before: &[(PathBuf, Fingerprint)]) -> Result<(), Reason> {
    let is_untouched =
        |(path, then): &&(PathBuf, Fingerprint)| Fingerprint::of(path).is_ok_and(|now| now == *then);
    match before.iter().find(is_untouched) {
        Some((path, _)) => Err(Reason::Store(format!("tell whether the command wrote {}", path.display()))),
        None => Ok(()),
    }
}

/// Compares what was made here with the result that was known before. Where they differ, neither is to be trusted.
fn compare(
    action: &Action,
    invocation: &Invocation,
    results: [&re::ActionResult; 2],
    store: &Store,
    directory: &Path,
) -> Result<(), Reason> {
    let differences = verification::differences(action, results[0], results[1]);
    if differences.is_empty() {
        return Ok(());
    }
    let what = differences.join(", ");
    Err(tell_difference(&what, action, invocation, results, store, directory))
}

/// Forgets a result that is not what is made here, and lays down a copy of both.
fn tell_difference(
    what: &str,
    action: &Action,
    invocation: &Invocation,
    results: [&re::ActionResult; 2],
    store: &Store,
    directory: &Path,
) -> Reason {
    if let Err(error) = store.remove_action_result(&action.sought.key) {
        tracing::warn!("failed to {error}");
    }
    let copy = match verification::report(directory, action, invocation, results, store) {
        Ok(place) => format!("copied to {}", place.display()),
        Err(error) => format!("no copy of it: {error}"),
    };
    let differs = format!("{what}; {copy}");
    tracing::warn!("verify: a result differs from what is made here: {differs}");
    Reason::VerifyDiffers(differs)
}

/// Checks that what all checkouts may take shows none of them, nor the place of the workspace in actions: where no prefix
/// map helped.
///
/// # Errors
/// [`Reason::PathShown`] with the output that does.
pub(super) fn check_outputs(action: &Action, store: &Store, result: &re::ActionResult) -> Result<(), Reason> {
    let Some(checkout) = &action.sought.checkout else { return Ok(()) };
    for output in action.sought.outputs.iter().filter(|output| !output.is_translated()) {
        let digest = find(result, output).and_then(|file| file.digest.as_ref());
        let Some(digest) = digest.and_then(|digest| Digest::try_from(digest).ok()) else { continue };
        let bytes = store.read(&digest).map_err(|error| Reason::Store(error.to_string()))?;
        if checkout.relocation.is_named_in(&bytes.unwrap_or_default()) {
            return Err(Reason::PathShown(output.path.display().to_string()));
        }
    }
    Ok(())
}

/// The same for messages, translated.
fn check_messages(action: &Action, messages: [&[u8]; 2]) -> Result<(), Reason> {
    let Some(checkout) = &action.sought.checkout else { return Ok(()) };
    match messages.iter().find_map(|message| checkout.relocation.named_here(message)) {
        Some(path) => Err(Reason::PathShown(format!("{} in a message", path.display()))),
        None => Ok(()),
    }
}

fn keep_message(store: &Store, bytes: &[u8]) -> Result<(Vec<u8>, Option<re::Digest>), StoreError> {
    if bytes.len() <= INLINE_BYTES {
        return Ok((bytes.to_vec(), None));
    }
    Ok((Vec::new(), Some(store.put(bytes)?.into())))
}

/// Checks that every file that a depfile names had been found by the scan.
///
/// # Errors
/// [`Reason::DepfileDisagrees`] with the first file that had not, or what is wrong with the depfile.
pub(super) fn audit_depfile(depfile: &[u8], cwd: &Path, inputs: &[Arc<InputFile>]) -> Result<(), Reason> {
    let parsed = depfile::parse(depfile).map_err(|error| Reason::DepfileDisagrees(error.to_string()))?;
    audit(&parsed.prerequisites, cwd, inputs)
}

/// The same for rules that a variable asks for: one without any prerequisite is not even written.
///
/// # Errors
/// As [`audit_depfile`].
pub(super) fn audit_appended(rules: &[u8], cwd: &Path, inputs: &[Arc<InputFile>]) -> Result<(), Reason> {
    if rules.is_empty() { Ok(()) } else { audit_depfile(rules, cwd, inputs) }
}

/// Whether it is an object that a plugin of the linker has made of others, and removed (gcc/lto-wrapper.cc; LLVM's
/// gold-plugin.cpp).
fn is_made_at_link_time(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let endings = [".ltrans.o", ".lto.o", ".debug.temp.o"];
    let is_named = endings.iter().any(|ending| name.ends_with(ending)) || name.starts_with("lto-llvm-");
    is_named && path.symlink_metadata().is_err()
}

/// Checks that every file that the compiler says it opens had been found by the scan.
///
/// # Errors
/// [`Reason::DepfileDisagrees`] with the first file that had not.
pub(super) fn audit(opened: &[PathBuf], cwd: &Path, inputs: &[Arc<InputFile>]) -> Result<(), Reason> {
    let scanned: HashSet<&Path> = inputs.iter().map(|input| input.path.as_path()).collect();
    for prerequisite in opened {
        let path = paths::absolute(cwd, prerequisite);
        if scanned.contains(path.as_path()) || is_made_at_link_time(&path) {
            continue;
        }
        // Compilers shorten some names (`./a.h`), so the file itself decides.
        let read = Fingerprint::of(&path);
        let same = |input: &&Arc<InputFile>| {
            read.as_ref().is_ok_and(|read| read.is_same_file(&input.version.fingerprint))
        };
        if !inputs.iter().any(|input| same(&input)) {
            return Err(Reason::DepfileDisagrees(path.display().to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::ExpectedOutput;
    use crate::compiler::OutputKind;
    use crate::dispatch::attempt;
    use crate::dispatch::claims::Claims;

    fn prepared(scratch: &Path) -> Action {
        let object = ExpectedOutput::replacing(OutputKind::Object, scratch.join("a.o"));
        attempt::tests::prepared(scratch, vec![object])
    }

    #[test]
    fn a_result_is_current_only_while_nothing_moves() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().canonicalize().unwrap();
        std::fs::write(path.join("a.c"), "one").unwrap();
        let claims = Arc::new(Claims::default());
        let claim = claims.claim(vec![path.join("a.o")]);
        let (here, gone) = (Presence::new(|| true), Presence::new(|| false));
        let before = prepared(&path);
        assert_eq!(is_current(&before, &prepared(&path), &claim, &here), Ok(()));
        assert_eq!(is_current(&before, &prepared(&path), &claim, &gone), Err(Reason::Abandoned));
        // Changed and changed back: the bytes are the same, and the compiler may have read others.
        std::fs::write(path.join("a.c"), "two").unwrap();
        std::fs::write(path.join("a.c"), "one").unwrap();
        let again = prepared(&path);
        assert_eq!(before.sought.key, again.sought.key);
        let changed = Reason::InputChanged(path.join("a.c").display().to_string());
        assert_eq!(is_current(&before, &again, &claim, &here), Err(changed));
        let other = claims.claim(vec![path.join("a.o")]);
        let contested = Reason::OutputContested(path.join("a.o").display().to_string());
        assert_eq!(is_current(&before, &prepared(&path), &other, &here), Err(contested));
    }
}

//! Results on this machine: a hit in the store, and what a local run leaves for it.
//! Runs nothing: the launcher does.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Action;
use crate::action::Input;
use crate::action::InstallError;
use crate::action::Output;
use crate::action::OutputKind;
use crate::action::collect;
use crate::action::install;
use crate::compiler::Compile;
use crate::compiler::depfile;
use crate::config::Config;
use crate::digest::Digest;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::in_background;
use crate::files::Fingerprint;
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
}

/// A compile as the launcher is to run it.
pub struct LocalCommand<'a> {
    /// What it is.
    pub compile: &'a Compile,
    /// Its working directory.
    pub cwd: &'a Path,
    /// Its arguments as the user gave them, with the colours that a terminal would have got.
    pub argv: Vec<OsString>,
    /// Why it runs here.
    pub reason: Reason,
    /// Its configuration.
    pub config: Arc<Config>,
}

/// A command that the launcher runs, and what is needed to keep its result.
pub struct Pending {
    /// What the launcher is to run.
    pub argv: Vec<OsString>,
    /// Why it runs here.
    pub reason: Reason,
    /// The command's configuration.
    pub config: Arc<Config>,
    action: Arc<Action>,
    cwd: PathBuf,
    store: Arc<Store>,
    /// The depfile to audit: the user's, or one that only farcc asked for and that is removed again.
    depfile: AuditedDepfile,
    trail: Trail,
    handed_over: Instant,
}

enum AuditedDepfile {
    Users(PathBuf),
    Ours(tempfile::TempPath),
    /// The state directory cannot be written: without an audit, nothing is stored.
    None,
}

/// The result of a local run that the cluster may want.
pub struct Kept {
    /// The action it is the result of.
    pub action: Arc<Action>,
    /// The result.
    pub result: re::ActionResult,
    /// Where its blobs are.
    pub store: Arc<Store>,
}

/// Looks for the result of `key` and puts its outputs into place. None: a miss.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn hit(
    store: &Store,
    key: &Digest,
    outputs: &[Output],
    umask: u32,
) -> Result<Option<Verdict>, StoreError> {
    let Some(result) = store.action_result(key)? else { return Ok(None) };
    if result.exit_code != 0 {
        return Ok(None);
    }
    let (Some(stdout), Some(stderr)) = (
        message(store, &result.stdout_raw, result.stdout_digest.as_ref())?,
        message(store, &result.stderr_raw, result.stderr_digest.as_ref())?,
    ) else {
        return Ok(None);
    };
    match install(store, outputs, &result, umask) {
        Ok(()) => Ok(Some(Verdict::Completed { exit_code: 0, stdout, stderr })),
        Err(InstallError::Store(error)) => Err(error),
        // Trimmed in part: made again.
        Err(InstallError::Gone(_) | InstallError::NotMade(_)) => Ok(None),
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
    /// Prepares a local run. `audit_directory`: where a depfile goes that the user did not ask for.
    pub fn new(
        command: LocalCommand,
        action: Arc<Action>,
        store: Arc<Store>,
        trail: Trail,
        audit_directory: &Path,
    ) -> Pending {
        let LocalCommand { compile, cwd, mut argv, reason, config } = command;
        let depfile = match &compile.depfile {
            Some(depfile) => AuditedDepfile::Users(paths::absolute(cwd, depfile)),
            None => match temporary_depfile(audit_directory) {
                Ok(path) => {
                    argv.extend(compile.depfile_arguments(&path));
                    AuditedDepfile::Ours(path)
                }
                Err(error) => {
                    tracing::warn!("failed to make a file in {}: {error}", audit_directory.display());
                    AuditedDepfile::None
                }
            },
        };
        let handed_over = Instant::now();
        Pending { argv, reason, config, action, cwd: cwd.to_owned(), store, depfile, trail, handed_over }
    }

    /// Takes the result into the store if it can be trusted. Returns the trail, and what may be offered to the
    /// cluster.
    pub async fn finish(self, run: LocalRun) -> (Trail, Option<Kept>) {
        let Pending { reason, action, cwd, store, depfile, mut trail, handed_over, .. } = self;
        trail.elsewhere(handed_over.elapsed());
        if !run.success || !run.captured {
            trail.ended(Outcome::ExecutedLocal, Some(reason));
            return (trail, None);
        }
        let (kept_action, kept_store) = (Arc::clone(&action), Arc::clone(&store));
        match in_background(move || keep(&action, &cwd, &store, &depfile, &run)).await {
            Ok(Ok(result)) => {
                let sizes = result.output_files.iter().filter_map(|file| file.digest.as_ref());
                trail.bytes.stored +=
                    sizes.map(|digest| u64::try_from(digest.size_bytes).unwrap_or(0)).sum::<u64>();
                // What failed there and succeeded here is no result to share.
                let shareable = matches!(reason, Reason::RemoteError(_));
                trail.ended(Outcome::ExecutedLocal, Some(reason));
                let kept = Kept { action: kept_action, result, store: kept_store };
                (trail, shareable.then_some(kept))
            }
            Ok(Err(reason)) | Err(reason) => {
                trail.ended(Outcome::ExecutedLocal, Some(reason));
                (trail, None)
            }
        }
    }

    /// The trail of a command of which no end was reported.
    pub fn abandon(self) -> Trail {
        let mut trail = self.trail;
        trail.elsewhere(self.handed_over.elapsed());
        trail.ended(Outcome::ExecutedLocal, Some(self.reason));
        trail
    }
}

/// Audits a local run and stores its result under the action's key.
fn keep(
    action: &Action,
    cwd: &Path,
    store: &Store,
    depfile: &AuditedDepfile,
    run: &LocalRun,
) -> Result<re::ActionResult, Reason> {
    let path: &Path = match depfile {
        AuditedDepfile::Users(path) => path,
        AuditedDepfile::Ours(path) => path,
        AuditedDepfile::None => return Err(Reason::Store("write the state directory".to_owned())),
    };
    let text = std::fs::read(path)
        .map_err(|error| Reason::DepfileDisagrees(format!("{} cannot be read: {error}", path.display())))?;
    if let Some(path) = changed(&action.inputs) {
        return Err(Reason::InputChanged(path.display().to_string()));
    }
    audit(&text, cwd, &action.inputs)?;
    let failed = |error: StoreError| Reason::Store(error.to_string());
    let mut output_files = collect(store, &action.outputs).map_err(failed)?;
    let expected = action.outputs.iter().filter(|output| output.kind != OutputKind::AuditDepfile);
    if output_files.len() != expected.count() {
        // The compiler said success without making what is expected of it: nothing to keep.
        return Err(Reason::Store("find every output of the command".to_owned()));
    }
    // The audited depfile is part of the result wherever it is taken from, so that a hit can be audited again.
    if let Some(output) = action.outputs.iter().find(|output| output.kind == OutputKind::AuditDepfile) {
        let digest = store.put(&text).map_err(failed)?;
        let path = output.remote.clone();
        output_files.push(re::OutputFile { path, digest: Some(digest.into()), ..re::OutputFile::default() });
        output_files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    let mut result = re::ActionResult { output_files, ..re::ActionResult::default() };
    (result.stdout_raw, result.stdout_digest) = keep_message(store, &run.stdout).map_err(failed)?;
    (result.stderr_raw, result.stderr_digest) = keep_message(store, &run.stderr).map_err(failed)?;
    store.put_action_result(&action.key, &result).map_err(failed)?;
    Ok(result)
}

fn temporary_depfile(directory: &Path) -> std::io::Result<tempfile::TempPath> {
    std::fs::create_dir_all(directory)?;
    Ok(tempfile::Builder::new().suffix(".d").tempfile_in(directory)?.into_temp_path())
}

fn keep_message(store: &Store, bytes: &[u8]) -> Result<(Vec<u8>, Option<re::Digest>), StoreError> {
    if bytes.len() <= INLINE_BYTES {
        return Ok((bytes.to_vec(), None));
    }
    Ok((Vec::new(), Some(store.put(bytes)?.into())))
}

/// The first input that is not what it was when it was scanned.
fn changed(inputs: &[Input]) -> Option<&Path> {
    let now = std::time::SystemTime::now();
    let unchanged = |input: &&Input| match Fingerprint::of(&input.path) {
        Ok(fingerprint) if fingerprint != input.version.fingerprint => same_bytes(input),
        // An edit within the clock's granularity leaves the same stat.
        Ok(fingerprint) if !fingerprint.is_settled(now) => same_bytes(input),
        Ok(_) => true,
        Err(_) => false,
    };
    inputs.iter().find(|input| !unchanged(input)).map(|input| input.path.as_path())
}

/// Whether an input, whose `stat` proves nothing, still has the bytes that were scanned.
fn same_bytes(input: &Input) -> bool {
    let digest = std::fs::File::open(&input.path).and_then(|mut file| Digest::of_reader(&mut file));
    digest.is_ok_and(|digest| digest == input.version.digest)
}

/// Checks that every file that a depfile names had been found by the scan.
///
/// # Errors
/// [`Reason::DepfileDisagrees`] with the first file that had not, or what is wrong with the depfile.
pub(super) fn audit(depfile: &[u8], cwd: &Path, inputs: &[Input]) -> Result<(), Reason> {
    let parsed = depfile::parse(depfile).map_err(|error| Reason::DepfileDisagrees(error.to_string()))?;
    let scanned: HashSet<&Path> = inputs.iter().map(|input| input.path.as_path()).collect();
    for prerequisite in &parsed.prerequisites {
        let path = paths::absolute(cwd, prerequisite);
        if scanned.contains(path.as_path()) {
            continue;
        }
        // Compilers shorten some names (`./a.h`), so the file itself decides.
        let read = Fingerprint::of(&path);
        let same =
            |input: &&Input| read.as_ref().is_ok_and(|read| read.is_same_file(&input.version.fingerprint));
        if !inputs.iter().any(|input| same(&input)) {
            return Err(Reason::DepfileDisagrees(path.display().to_string()));
        }
    }
    Ok(())
}

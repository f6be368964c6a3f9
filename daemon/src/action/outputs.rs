//! The files that a command makes: how a worker names them, how they get from the store to their place and
//! from their place into the store.
//! Knows nothing of who ran the command.

use std::fs::File;
use std::fs::Permissions;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Checkout;
use crate::action::InputRootBuilder;
use crate::action::Located;
use crate::action::Sought;
use crate::compiler::ExpectedOutput;
use crate::compiler::OutputKind;
use crate::compiler::Placement;
use crate::digest::Digest;
use crate::disk;
use crate::files::Files;
use crate::paths;
use crate::reason::Reason;
use crate::store::Store;
use crate::store::StoreError;

/// One file that a command makes, in the tree of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What it is to farcc.
    pub kind: OutputKind,
    /// Absolute path on this machine, as opened.
    pub path: PathBuf,
    /// The same without symlinks on the way to it: where two commands meet that name one file differently.
    pub physical: PathBuf,
    /// Its name in REAPI: relative to the working directory.
    pub remote: String,
    /// Whether the command can succeed without making it.
    pub is_optional: bool,
    /// What becomes of what is there already.
    pub placement: Placement,
}

/// Where a worker writes what is appended to a file here: in the working directory, and without a blank, since the
/// variable that names it ends there.
pub const APPENDED_NAME: &str = ".farcc-appended-rules.d";

/// What is smaller is read again, if anybody wants it within the next second, in less time than watching it takes.
const WORTH_WATCHING_BYTES: u64 = 32 << 10;

/// Why outputs were not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The result does not have an output that the command was to make.
    #[error("install {}: the result does not have it", .0.display())]
    NotMade(PathBuf),
    /// The result names a blob that is in the store no more.
    #[error("install {}: its bytes are gone from the store", .0.display())]
    Gone(PathBuf),
    /// Whoever wanted them has gone.
    #[error("install: nobody waits for the outputs")]
    Unwanted,
    /// The store or the destination failed.
    #[error("install: {0}")]
    Store(#[from] StoreError),
}

impl Output {
    /// Whether a command that ran here has left it at its path, by itself.
    pub fn lies_in_place(&self) -> bool {
        !matches!(self.kind, OutputKind::AuditDepfile | OutputKind::AppendedRules)
    }

    /// Whether it is text that names sources, which is translated where the action names no checkout.
    pub fn is_translated(&self) -> bool {
        matches!(self.kind, OutputKind::Depfile | OutputKind::AuditDepfile)
    }

    /// The output whose path is absolute; its directory joins the input tree. `checkout`: from which the action comes if it
    /// names none.
    ///
    /// # Errors
    /// When it cannot be an output of an action: its directory is missing or part of the image, what is there now or what
    /// a symlink there leads to is no regular file, or its name is not UTF-8. What is appended to a file of the user's is
    /// in the action a file of its own, which is not looked at.
    pub fn locate(
        builder: &mut InputRootBuilder,
        cwd: &Path,
        expected: &ExpectedOutput,
        checkout: Option<&Checkout>,
    ) -> Result<Output, Reason> {
        let path = expected.path.as_path();
        let ExpectedOutput { kind, is_optional, placement, .. } = *expected;
        if placement == Placement::Appended {
            let (path, remote) = (path.to_owned(), APPENDED_NAME.to_owned());
            return Ok(Output { kind, physical: path.clone(), path, remote, is_optional, placement });
        }
        let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let (Some(parent), Some(name), false) = (path.parent(), path.file_name(), special) else {
            return Err(Reason::SpecialOutput);
        };
        let Located::Here(directory) = builder.add_directory(parent)? else {
            return Err(Reason::SystemPath(path.display().to_string()));
        };
        let there = |path: &Path| match checkout {
            Some(checkout) => checkout.relocation.there(path),
            None => path.to_owned(),
        };
        let physical = directory.join(name);
        let remote = paths::relative(&there(cwd), &there(&physical));
        let remote = remote.to_str().ok_or_else(|| Reason::UnsupportedName(path.display().to_string()))?;
        let (path, remote) = (path.to_owned(), remote.to_owned());
        Ok(Output { kind, path, physical, remote, is_optional, placement })
    }
}

/// Puts every output of a `result` into its place, one by one, in the order of their kinds; atomically but where the
/// compiler overwrites as well. `umask` is the user's; `is_wanted` is asked right before each. `files` learns what is where.
///
/// # Errors
/// When an output is missing in the result or the store, cannot be written, or is not wanted any more. Outputs
/// installed before stay.
pub fn install(
    store: &Store,
    sought: &Sought,
    result: &re::ActionResult,
    umask: u32,
    is_wanted: &dyn Fn() -> bool,
    files: &Files,
) -> Result<(), InstallError> {
    let mut in_order: Vec<_> =
        sought.outputs.iter().filter(|output| output.kind != OutputKind::AuditDepfile).collect();
    in_order.sort_by_key(|output| output.kind);
    let mut made = Vec::new();
    for output in in_order {
        let not_made = || InstallError::NotMade(output.path.clone());
        let file = match find(result, output) {
            Some(file) => file,
            None if output.is_optional => continue,
            None => return Err(not_made()),
        };
        let digest = file.digest.as_ref().and_then(|digest| Digest::try_from(digest).ok());
        made.push((output, digest.ok_or_else(not_made)?, file.is_executable));
    }
    for (output, digest, is_executable) in made {
        if !is_wanted() {
            return Err(InstallError::Unwanted);
        }
        let digest = match &sought.checkout {
            Some(checkout) if output.is_translated() => {
                let text = store.read(&digest)?.ok_or_else(|| InstallError::Gone(output.path.clone()))?;
                store.put(&checkout.depfile_here(&text))?
            }
            _ => digest,
        };
        let mode = (if is_executable { 0o777 } else { 0o666 }) & !umask;
        let path = output.path.as_path();
        // Programs can be run in any case (bfd/opncls.c, `_maybe_make_executable`).
        let runnable = |there| there | mode & 0o111;
        let installed = match output.placement {
            Placement::Appended => store.append(&digest, path, mode),
            Placement::Overwritten => overwrite(store, &digest, path, mode, runnable),
            Placement::Renewed => overwrite(store, &digest, path, mode, |_| mode),
            Placement::Unlinked if is_nothing(path) => overwrite(store, &digest, path, mode, runnable),
            Placement::Replaced | Placement::Unlinked => {
                let mut watch = None;
                let whole = &mut |file: &File| {
                    if digest.size_bytes() >= WORTH_WATCHING_BYTES {
                        watch = files.watch(file);
                    }
                    if output.placement == Placement::Unlinked {
                        disk::make_way(path);
                    }
                };
                let installed = store.install_whole(&digest, path, mode, whole);
                if let (Ok(true), Some(watch)) = (&installed, &watch) {
                    files.put(path, digest, watch);
                }
                installed
            }
        };
        if !installed? {
            return Err(InstallError::Gone(output.path.clone()));
        }
    }
    Ok(())
}

/// Writes over a file, which is made with `mode` if it is not there; else its mode is what `renewed` makes of it.
fn overwrite(
    store: &Store,
    digest: &Digest,
    path: &Path,
    mode: u32,
    renewed: impl Fn(u32) -> u32,
) -> Result<bool, StoreError> {
    let written = store.overwrite(digest, path, mode)?;
    if written && let Ok(metadata) = std::fs::metadata(path) {
        let there = metadata.mode() & 0o777;
        let failed = |error| StoreError::new("set the mode of", path, error);
        if renewed(there) != there {
            std::fs::set_permissions(path, Permissions::from_mode(renewed(there))).map_err(failed)?;
        }
    }
    Ok(written)
}

/// Whether an empty file is there, or a symlink that leads to one or nowhere.
fn is_nothing(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => metadata.len() == 0,
        Err(_) => path.is_symlink(),
    }
}

/// The file of `result` that is `output`.
pub fn find<'a>(result: &'a re::ActionResult, output: &Output) -> Option<&'a re::OutputFile> {
    result.output_files.iter().find(|file| file.path == output.remote)
}

/// Takes the outputs that a local run has left into the store. An output that was not made is left out, and
/// so are those that do not lie where they go: [`OutputKind::AuditDepfile`]s and [`OutputKind::AppendedRules`].
///
/// # Errors
/// When one cannot be read or stored.
pub fn collect(store: &Store, sought: &Sought) -> Result<Vec<re::OutputFile>, StoreError> {
    let mut files = Vec::new();
    for output in sought.outputs.iter().filter(|output| output.lies_in_place()) {
        let Ok(metadata) = std::fs::metadata(&output.path) else { continue };
        let mut digest = store.put_file(&output.path)?;
        if let Some(checkout) = &sought.checkout
            && output.is_translated()
            && let Some(text) = store.read(&digest)?
        {
            digest = store.put(&checkout.depfile_there(&text))?;
        }
        files.push(re::OutputFile {
            path: output.remote.clone(),
            digest: Some(digest.into()),
            is_executable: metadata.mode() & 0o100 != 0,
            ..re::OutputFile::default()
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

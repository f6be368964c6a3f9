//! `[exec] verify`: a sample of the commands that have a result already is run here as well, and compared. What a compile
//! reads that no scan and no depfile tells of shows itself in the bytes.
//! Decides nothing about the command: the user gets what was made here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;

use crate::action::Action;
use crate::action::Output;
use crate::action::find;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::digest::Digest;
use crate::paths;
use crate::store::Store;

/// Whether this command is one of the sample; `share` is between 0 and 1.
pub(super) fn is_sampled(share: f64) -> bool {
    if share <= 0.0 {
        return false;
    }
    // 32 random bits, which every float holds exactly: a value below 1.
    let random = u32::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..4].try_into().unwrap_or_default());
    f64::from(random) / (f64::from(u32::MAX) + 1.0) < share
}

/// What `found`, made here, has otherwise than `expected`: outputs by their paths, and messages.
pub(super) fn differences(
    action: &Action,
    expected: &re::ActionResult,
    found: &re::ActionResult,
) -> Vec<String> {
    let digest = |result: &re::ActionResult, output: &Output| {
        find(result, output).and_then(|file| file.digest.clone()).map(|digest| digest.hash)
    };
    let outputs = action.sought.outputs.iter().filter(|output| output.kind != OutputKind::AuditDepfile);
    let differing = outputs.filter(|output| digest(expected, output) != digest(found, output));
    let mut differences: Vec<String> = differing.map(|output| output.path.display().to_string()).collect();
    for (name, expected, found) in [
        (
            "standard output",
            (&expected.stdout_raw, &expected.stdout_digest),
            (&found.stdout_raw, &found.stdout_digest),
        ),
        (
            "standard error",
            (&expected.stderr_raw, &expected.stderr_digest),
            (&found.stderr_raw, &found.stderr_digest),
        ),
    ] {
        if message(expected) != message(found) {
            differences.push(name.to_owned());
        }
    }
    differences
}

/// The digest of a message, wherever it stands.
fn message((raw, digest): (&Vec<u8>, &Option<re::Digest>)) -> Option<Digest> {
    match digest {
        Some(digest) => Digest::try_from(digest).ok(),
        None => Some(Digest::of(raw)),
    }
}

/// Whoever has so many differences needs no further copy to see why, and the copies are theirs to remove.
const MAX_REPORTS: usize = 100;

/// Lays down what is needed to look into a difference, and returns the directory: `inputs`, a tree that repeats the
/// absolute paths of all inputs that no worker has by itself; `expected` and `here`, the outputs; `command.sh`, which runs
/// the command once more, in the workspace as it is by then. Only the user can read it: the environment may hold secrets.
///
/// # Errors
/// When a file cannot be written, or when there are too many copies already.
pub(super) fn report(
    directory: &Path,
    action: &Action,
    invocation: &Invocation,
    results: [&re::ActionResult; 2],
    store: &Store,
) -> io::Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let place = directory.join(action.sought.key.hex());
    if !place.exists() && std::fs::read_dir(directory)?.count() >= MAX_REPORTS {
        return Err(io::Error::other(format!("there are {MAX_REPORTS} in {}", directory.display())));
    }
    std::fs::create_dir_all(&place)?;
    for (path, target) in
        action.inputs.iter().map(|input| (&input.path, below(&place.join("inputs"), &input.path)))
    {
        if !paths::is_system(&paths::lexically_normal(path)) {
            std::fs::create_dir_all(target.parent().unwrap_or(&place))?;
            std::fs::copy(path, target)?;
        }
    }
    for (name, result) in ["expected", "here"].into_iter().zip(results) {
        for output in &action.sought.outputs {
            let digest = find(result, output).and_then(|file| file.digest.as_ref());
            let Some(digest) = digest.and_then(|digest| Digest::try_from(digest).ok()) else { continue };
            let target = below(&place.join(name), &output.path);
            std::fs::create_dir_all(target.parent().unwrap_or(&place))?;
            if let Some(bytes) = store.read(&digest).map_err(io::Error::other)? {
                std::fs::write(target, bytes)?;
            }
        }
    }
    let script = place.join("command.sh");
    std::fs::write(&script, command(invocation))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(place)
}

/// `path` (absolute) below `root`, without `..`.
fn below(root: &Path, path: &Path) -> PathBuf {
    let normal = paths::lexically_normal(path);
    root.join(normal.strip_prefix("/").unwrap_or(&normal))
}

/// A script that runs the command with the environment and in the directory that it had.
fn command(invocation: &Invocation) -> Vec<u8> {
    let mut script = b"#!/bin/sh\ncd ".to_vec();
    script.extend(quoted(invocation.cwd.as_os_str()));
    script.extend_from_slice(b" || exit\nexec env -i FARCC_DISABLE=1");
    for (name, value) in &invocation.env {
        script.extend_from_slice(b" \\\n    ");
        script.extend(quoted(name));
        script.push(b'=');
        script.extend(quoted(value));
    }
    for word in &invocation.argv {
        script.extend_from_slice(b" \\\n    ");
        script.extend(quoted(word));
    }
    script.push(b'\n');
    script
}

fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_share() {
        assert!(!(0..1000).any(|_| is_sampled(0.0)));
        assert!((0..1000).all(|_| is_sampled(1.0)));
        let hits = (0..10_000).filter(|_| is_sampled(0.25)).count();
        assert!((2000..3000).contains(&hits), "{hits}");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted(OsStr::new("a'b $c")), b"'a'\\''b $c'");
    }
}

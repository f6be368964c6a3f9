//! Tells how a command on this worker can find files by their absolute paths.
//! Knows nothing of what will be chosen.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::Failure;
use crate::enter::View;

/// What is asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// A file of the input root, by the absolute path that it is to have, and on no worker by itself.
    pub(crate) file: Option<PathBuf>,
    /// Where the input root was asked to stand.
    pub(crate) at: Option<PathBuf>,
}

/// The answers, one a line, as `name=yes` or `name=` and why not: `mirror` (the input root is the root directory),
/// `property` (it stands where it was asked to stand) and `wrapper` (a view of it can be entered).
///
/// # Errors
/// When the question is not understood.
pub(crate) fn probe(asked: &Asked) -> Result<String, Failure> {
    let Some(file) = &asked.file else { return Err("probe: no --file".to_owned()) };
    let below =
        file.strip_prefix("/").map_err(|_| format!("probe {}: it is not absolute", file.display()))?;
    if !below.exists() {
        return Err(format!("probe {}: it is not in the working directory", file.display()));
    }
    let mut text = String::new();
    let mut answer = |name: &str, answer: Result<(), String>| {
        let answer = answer.map_or_else(|why| why.replace('\n', " "), |()| "yes".to_owned());
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}={answer}");
    };
    answer("mirror", same(below, file));
    if let Some(at) = &asked.at {
        answer("property", same(below, &at.join(below)));
    }
    // Last, for it is not undone. The program is found again by its new name.
    answer("wrapper", enter(below, file));
    Ok(text)
}

fn enter(below: &Path, file: &Path) -> Result<(), String> {
    let identity = identity(below)?;
    let mut view = View::default();
    view.bind(file.as_os_str())?;
    view.enter()?;
    match self::identity(file)? == identity && Path::new("/usr").is_dir() {
        true => Ok(()),
        false => Err("the view shows another file".to_owned()),
    }
}

fn same(one: &Path, other: &Path) -> Result<(), String> {
    match identity(one)? == identity(other)? {
        true => Ok(()),
        false => Err("another file is there".to_owned()),
    }
}

fn identity(path: &Path) -> Result<(u64, u64), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

//! Other people's programs, fetched and built once by the scripts below `tests/cluster/`, at pinned versions.
//! Knows nothing of what the programs do.
//!
//! They are kept in the cache directory of the tests, one directory for each content of the folder that pins them.
//! Without that directory they are made anew.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use farccd::digest::Digest;
use rustix::fs::FlockOperation;

use crate::binaries::repository;
use crate::prerequisites;
use crate::space::run;

/// What `tests/cluster/NAME/build` makes, as a directory of programs: `None`, said visibly, where one of `tools` is
/// not here, or where the script fails, which is what it does without a network.
///
/// # Panics
/// When the cache directory cannot be written.
pub fn programs(name: &str, tools: &[&str]) -> Option<PathBuf> {
    let source = repository().join("tests/cluster").join(name);
    let cache = crate::cache_directory().join("cluster");
    std::fs::create_dir_all(&cache).unwrap();
    let place = cache.join(format!("{name}-{}", key(&source)));
    // Tests that need the same wait for the first of them.
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    if place.is_dir() {
        return Some(place);
    }
    if let Some(tool) = tools.iter().find(|tool| prerequisites::find_program(tool).is_none()) {
        crate::skipped(name, &format!("it is made with {tool}, which is not here"));
        return None;
    }
    crate::say(&format!("{name} is fetched and built, once"));
    let scratch = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&cache).unwrap();
    let mut build = Command::new("nice");
    let built = run(build.args(["-n", "15"]).arg(source.join("build")).arg(scratch.path()));
    if built.status != 0 {
        crate::skipped(name, &format!("it could not be fetched and built: {built}"));
        return None;
    }
    std::fs::rename(scratch.path().join("bin"), &place).unwrap();
    Some(place)
}

/// A name for what the files in `source` pin and for how it is built. Folders in it hold the configuration of
/// running servers, which does not count.
fn key(source: &Path) -> String {
    let entries = std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    let mut text = Vec::new();
    for file in files {
        let content = std::fs::read(&file).unwrap();
        text.extend(format!("{} {}\n", file.file_name().unwrap().display(), content.len()).into_bytes());
        text.extend(content);
    }
    Digest::of(&text).hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_pin_is_another_place() {
        let directory = tempfile::tempdir().unwrap();
        let pin = directory.path().join("go.sum");
        std::fs::write(&pin, "one").unwrap();
        let one = key(directory.path());
        assert_eq!(one, key(directory.path()));
        std::fs::write(&pin, "two").unwrap();
        assert_ne!(one, key(directory.path()));
    }
}

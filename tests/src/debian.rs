//! Fetches the sources of real projects as Debian source packages, through apt and from the machine's own mirror.
//! Knows nothing of how they are built.
//!
//! The machine's configuration is not touched: apt gets its own sources list (the machine's, with `deb` turned
//! into `deb-src`) and its own state directories. What was fetched is kept in the user's cache directory, one
//! directory a version, and used from there without asking the network again.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::FlockOperation;

use crate::prerequisites;
use crate::space::run;

/// The unpacked upstream source of a package, without Debian's patches: `None` where there is no apt, which is
/// said visibly. The tree is shared by all tests: copy it, never build in it.
///
/// # Panics
/// When apt is there and the source cannot be had.
pub fn source(package: &str) -> Option<PathBuf> {
    let cache = crate::cache_directory().join("debian");
    std::fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    if let Some(tree) = cached(&cache, package) {
        return Some(tree);
    }
    if prerequisites::find_program("apt-get").is_none() {
        crate::skipped(package, "its source comes from a Debian mirror, and there is no apt-get here");
        return None;
    }
    prerequisites::require(&["dpkg-source", "bzip2", "patch", "xz"]);
    let apt = Apt::new(&cache);
    apt.update();
    Some(apt.fetch(package))
}

/// The tree of the newest version in the cache. Only whole ones have their final name.
fn cached(cache: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{package}_");
    let mut versions: Vec<PathBuf> = std::fs::read_dir(cache)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    versions.sort_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    versions.pop().map(|version| version.join("source"))
}

/// apt with its own lists, cache and sources.
struct Apt {
    cache: PathBuf,
    directory: PathBuf,
}

impl Apt {
    fn new(cache: &Path) -> Apt {
        let directory = cache.join("apt");
        for part in ["lists/partial", "archives/partial", "sources"] {
            std::fs::create_dir_all(directory.join(part)).unwrap();
        }
        write_source_lists(Path::new("/etc/apt"), &directory.join("sources"));
        Apt { cache: cache.to_owned(), directory }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.directory.join(part).display().to_string();
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", at("sources")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", self.directory.display()),
            // apt's own user may not look into a home directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Fetches the lists of sources. A mirror among them that fails is seen when its package is not found.
    fn update(&self) {
        let finished = run(self.command("apt-get").arg("update"));
        if finished.status != 0 {
            crate::say(&finished.to_string());
        }
    }

    /// Downloads, unpacks and files one package under its version.
    fn fetch(&self, package: &str) -> PathBuf {
        let scratch = tempfile::Builder::new().prefix("fetch-").tempdir_in(&self.cache).unwrap();
        let mut download = self.command("apt-get");
        download.args(["source", "--download-only", package]).current_dir(scratch.path());
        run(&mut download).success();
        let description = only_file_with_suffix(scratch.path(), ".dsc");
        let version = field(&std::fs::read_to_string(&description).unwrap(), "Version")
            .unwrap_or_else(|| panic!("no version in {}", description.display()));
        // The signature was apt's to check; the keyring of a bare machine lacks the maintainer's own key.
        let mut unpack = Command::new("dpkg-source");
        unpack.args(["--no-check", "--skip-patches", "--extract"]).arg(&description).arg("source");
        run(unpack.current_dir(scratch.path())).success();
        let place = self.cache.join(format!("{package}_{}", version.replace('/', "_")));
        std::fs::rename(scratch.keep(), &place).unwrap();
        place.join("source")
    }
}

/// Writes the machine's package sources below `etc_apt` as sources of source packages.
fn write_source_lists(etc_apt: &Path, to: &Path) {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let text = match name.rsplit_once('.') {
            Some((_, "list")) => one_line_sources(&text),
            Some((_, "sources")) => stanza_sources(&text),
            _ => continue,
        };
        std::fs::write(to.join(name), text).unwrap();
    }
}

/// sources.list(5), "ONE-LINE-STYLE FORMAT".
fn one_line_sources(text: &str) -> String {
    let entries = text.lines().filter_map(|line| line.trim().strip_prefix("deb "));
    entries.map(|rest| format!("deb-src {rest}\n")).collect()
}

/// sources.list(5), "DEB822-STYLE FORMAT": the field may list both types already.
fn stanza_sources(text: &str) -> String {
    let line = |line: &str| {
        let is_types = line.to_ascii_lowercase().starts_with("types:");
        if is_types { "Types: deb-src\n".to_owned() } else { format!("{line}\n") }
    };
    text.lines().map(line).collect()
}

fn only_file_with_suffix(directory: &Path, suffix: &str) -> PathBuf {
    let mut files = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    files
        .find(|file| file.to_string_lossy().ends_with(suffix))
        .unwrap_or_else(|| panic!("apt-get left no {suffix} in {}", directory.display()))
}

/// The value of a field of a Debian control file.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_sources_become_source_sources() {
        assert_eq!(
            one_line_sources("# deb x\ndeb [arch=amd64] uri suite main\ndeb-src uri suite main\n"),
            "deb-src [arch=amd64] uri suite main\n"
        );
        assert_eq!(
            stanza_sources("Types: deb deb-src\nURIs: uri\nSuites: a b\n"),
            "Types: deb-src\nURIs: uri\nSuites: a b\n"
        );
    }

    #[test]
    fn a_version_is_read_from_the_description() {
        assert_eq!(field("Format: 3.0\nVersion: 1:1.2-3\n", "Version").as_deref(), Some("1:1.2-3"));
        assert_eq!(field("Format: 3.0\n", "Version"), None);
    }

    #[test]
    fn a_source_is_fetched_once() {
        let Some(tree) = source("zlib") else { return };
        assert!(tree.join("adler32.c").is_file());
        assert_eq!(source("zlib"), Some(tree));
    }
}

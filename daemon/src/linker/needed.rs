//! The libraries that shared libraries need, as GNU ld finds them when it makes a program: it looks for the symbols that a
//! program's libraries leave open. Other linkers do not look.
//! Knows nothing of the inputs that a line names.
//!
//! The order is that of `ldelf_after_open` (GNU ld manual, `-rpath-link`). A library that does not need the C library, or that
//! needs another version of one that is linked, is taken only if there is no better one, so the search goes on behind it.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::HashSet;

use crate::linker::Flavour;
use crate::linker::LinkError;
use crate::linker::Sources;
use crate::linker::file::Kind;
use crate::linker::file::LinkerFile;
use crate::linker::file::SharedLibrary;
use crate::linker::line::Unresolved;
use crate::linker::resolve::Link;

/// More than any program's libraries need.
const MOST_SEARCHES: usize = 1 << 14;

/// Configuration files that include each other.
const MOST_CONFIGURATION_FILES: usize = 256;

/// Adds the libraries that the shared libraries of `link` need, and those that these need.
pub(super) fn follow(link: &mut Link) -> Result<(), LinkError> {
    let line = link.line;
    let is_reported = match line.unresolved {
        Some(Unresolved::Reported) => true,
        Some(Unresolved::Ignored) => false,
        // What a shared library's libraries leave open is the program's affair.
        None => !line.is_shared(),
    };
    let is_wanted = is_reported || line.copies_needed;
    if link.surroundings.flavour != Flavour::Bfd || line.is_relocatable() || !is_wanted {
        return Ok(());
    }
    let mut search =
        Search { seen: HashSet::default(), versions: HashMap::default(), system_directories: None };
    for (path, file) in link.shared.clone() {
        search.note(&path, &file);
    }
    let mut at = 0;
    while let Some((path, file)) = link.shared.get(at).cloned() {
        at += 1;
        let Kind::Shared(library) = &file.kind else { continue };
        for name in &library.needed {
            search.find(link, name, &path, library)?;
        }
    }
    Ok(())
}

struct Search {
    /// What was looked for: a name, and by whom where that matters.
    seen: HashSet<(OsString, Option<OsString>)>,
    /// The names of the libraries that are linked, by their part up to `.so.`.
    versions: HashMap<Vec<u8>, HashSet<OsString>>,
    /// `/etc/ld.so.conf`, once it is read.
    system_directories: Option<Vec<OsString>>,
}

impl Search {
    /// Takes note of a library that is linked.
    fn note(&mut self, path: &Path, file: &LinkerFile) {
        let Kind::Shared(library) = &file.kind else { return };
        let name = library.soname.as_deref().or(path.file_name()).unwrap_or_default();
        self.versions.entry(stem(name).to_owned()).or_default().insert(name.to_owned());
    }

    fn is_linked(&self, name: &OsStr) -> bool {
        self.versions.get(stem(name)).is_some_and(|names| names.contains(name))
    }

    fn find(
        &mut self,
        link: &mut Link,
        name: &OsStr,
        needing: &Path,
        library: &SharedLibrary,
    ) -> Result<(), LinkError> {
        if name.is_empty() || self.is_linked(name) {
            return Ok(());
        }
        let origin = needing.parent().unwrap_or(needing);
        let by = library.run_path.as_ref().map(|path| {
            let mut by = path.clone();
            by.push("\0");
            by.push(origin);
            by
        });
        if !self.seen.insert((name.to_owned(), by)) {
            return Ok(());
        }
        if self.seen.len() > MOST_SEARCHES {
            return Err(LinkError::NotSure("shared libraries need too many others".into()));
        }
        if name.as_bytes().starts_with(b"/") {
            self.try_library(link, Path::new(name))?;
            return Ok(());
        }
        for directory in directories_before_system(link, library, origin) {
            if self.try_library(link, &link.surroundings.cwd.join(directory).join(name))? {
                return Ok(());
            }
        }
        let rest = self.system_directories(link)?.into_iter().map(PathBuf::from);
        let rest: Vec<PathBuf> =
            rest.chain(link.search_path.default_directories().map(Path::to_owned)).collect();
        for directory in rest {
            if self.try_library(link, &link.surroundings.cwd.join(directory).join(name))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Links `path` if a library for this machine is there; whether no other is looked for then.
    fn try_library(&mut self, link: &mut Link, path: &Path) -> Result<bool, LinkError> {
        if !link.sources.is_file(path) {
            return Ok(false);
        }
        let input = link.add(path)?;
        let file = link.sources.read(&input)?;
        let Kind::Shared(library) = &file.kind else { return Ok(false) };
        if link.target.is_some() && file.target != link.target {
            return Ok(false);
        }
        let needs_c = library.needed.is_empty()
            || library.needed.iter().any(|name| name.as_bytes().starts_with(b"libc.so"));
        let is_firm = link.target.is_some() && needs_c && !self.conflicts(library);
        if !link.shared.iter().any(|(other, _)| other == path) {
            self.note(path, &file);
            link.shared.push((path.to_owned(), Arc::clone(&file)));
        }
        Ok(is_firm)
    }

    /// Whether a library needs another version of one that is linked (ldelf_vercheck).
    fn conflicts(&self, library: &SharedLibrary) -> bool {
        let versioned = library
            .needed
            .iter()
            .filter(|name| stem(name).ends_with(b".so.") && !name.as_bytes().contains(&b'/'));
        versioned.into_iter().any(|name| {
            let linked = self.versions.get(stem(name));
            linked.is_some_and(|linked| linked.iter().any(|other| other != name))
        })
    }

    /// The directories of the dynamic linker's configuration, whose files the link reads, too.
    fn system_directories(&mut self, link: &mut Link) -> Result<Vec<OsString>, LinkError> {
        if let Some(known) = &self.system_directories {
            return Ok(known.clone());
        }
        let mut read = Vec::new();
        let mut directories = Vec::new();
        let at = |name: &str| link.search_path.below_sysroot(OsStr::new(name));
        // First below the prefix that the linker was built for, which is mostly this.
        let files = [at("/usr/etc/ld.so.conf"), at("/etc/ld.so.conf")];
        let first = files.into_iter().find(|file| Sources::exists(file));
        let mut waiting: Vec<PathBuf> = first.into_iter().collect();
        while let Some(file) = waiting.pop() {
            if read.contains(&file) {
                continue;
            }
            if read.len() == MOST_CONFIGURATION_FILES {
                return Err(LinkError::NotSure(
                    "the dynamic linker's configuration has too many files".into(),
                ));
            }
            link.add(&file)?;
            let text =
                std::fs::read(&file).map_err(|error| LinkError::Unreadable { path: file.clone(), error })?;
            let mut included = read_configuration(&file, &text, &mut directories)?;
            // They are read in their order, and before what waits.
            included.reverse();
            waiting.extend(included);
            read.push(file);
        }
        let directories: Vec<OsString> =
            directories.iter().map(|directory| with_sysroot(link, directory)).collect();
        self.system_directories = Some(directories.clone());
        Ok(directories)
    }
}

/// A library's name up to and with `.so.`; the whole name if that is not in it.
fn stem(name: &OsStr) -> &[u8] {
    let bytes = name.as_bytes();
    match memchr::memmem::find(bytes, b".so.") {
        Some(at) => &bytes[..at + b".so.".len()],
        None => bytes,
    }
}

/// Where a needed library is looked for before the system's directories.
fn directories_before_system(link: &Link, library: &SharedLibrary, origin: &Path) -> Vec<PathBuf> {
    let line = link.line;
    let is_64 = link.target.is_none_or(|target| target.is_64);
    let mut directories = Vec::new();
    let mut push = |path: &OsStr, is_below_sysroot: bool| {
        for directory in path.as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes) {
            let directory =
                if is_below_sysroot { with_sysroot(link, directory) } else { directory.to_owned() };
            directories.push(PathBuf::from(expand(&directory, origin, is_64)));
        }
    };
    for path in &line.run_path_link {
        push(path, false);
    }
    // What `-R` names and is no file counts as `-rpath`.
    for path in line.run_paths() {
        push(path, true);
    }
    let has_own = !line.run_path_link.is_empty() || line.run_paths().next().is_some();
    if let Some(path) = link.surroundings.run_path.filter(|path| !path.is_empty() && !has_own) {
        push(path, false);
    }
    if let Some(path) = link.surroundings.library_path.filter(|path| !path.is_empty()) {
        push(path, false);
    }
    if let Some(path) = &library.run_path {
        push(path, true);
    }
    directories
}

fn with_sysroot(link: &Link, directory: &OsStr) -> OsString {
    if directory.as_bytes().starts_with(b"/") {
        link.search_path.below_sysroot(directory).into_os_string()
    } else {
        directory.to_owned()
    }
}

/// Replaces `$ORIGIN` and `$LIB`, each to the next slash, braces or not; other tokens stay (ldelf_search_needed).
fn expand(directory: &OsStr, origin: &Path, is_64: bool) -> OsString {
    let parts = directory.as_bytes().split(|byte| *byte == b'/').map(|part| {
        let Some(at) = memchr::memchr(b'$', part) else { return part.to_owned() };
        let (before, token) = part.split_at(at);
        let value: &[u8] = match token {
            b"$ORIGIN" | b"${ORIGIN}" | b"${ORIGIN" | b"$ORIGIN}" => origin.as_os_str().as_bytes(),
            b"$LIB" | b"${LIB}" | b"${LIB" | b"$LIB}" if is_64 => b"lib64",
            b"$LIB" | b"${LIB}" | b"${LIB" | b"$LIB}" => b"lib",
            other => other,
        };
        [before, value].concat()
    });
    let parts: Vec<Vec<u8>> = parts.collect();
    OsStr::from_bytes(&parts.join(&b'/')).to_owned()
}

/// Reads one file of the dynamic linker's configuration; the files that it includes.
fn read_configuration(
    file: &Path,
    text: &[u8],
    directories: &mut Vec<OsString>,
) -> Result<Vec<PathBuf>, LinkError> {
    let mut included = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        match words.next() {
            None => {}
            Some(b"include") => {
                for pattern in words {
                    included.extend(matching(file, Path::new(OsStr::from_bytes(pattern)))?);
                }
            }
            Some(word) => {
                let directory = word.split(|byte| *byte == b'=').next().unwrap_or_default();
                let end = directory.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
                directories.push(OsStr::from_bytes(&directory[..end]).to_owned());
            }
        }
    }
    Ok(included)
}

fn matching(file: &Path, pattern: &Path) -> Result<Vec<PathBuf>, LinkError> {
    let path = file.parent().unwrap_or(file).join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let is_pattern = |text: &OsStr| memchr::memchr2(b'*', b'?', text.as_bytes()).is_some();
    let is_odd = memchr::memchr2(b'[', b'\\', path.as_os_str().as_bytes()).is_some();
    if is_odd || is_pattern(directory.as_os_str()) {
        return Err(LinkError::NotSure(format!("{} includes {}", file.display(), pattern.display())));
    }
    // A directory that is not there has no files.
    Ok(Sources::matching(directory, name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_directories() {
        for (directory, is_64, expected) in [
            ("$ORIGIN", true, "/o"),
            ("${ORIGIN}/../$LIB", true, "/o/../lib64"),
            ("/x/${LIB}", false, "/x/lib"),
            ("$PLATFORM/$x", true, "$PLATFORM/$x"),
            ("", true, ""),
        ] {
            assert_eq!(expand(OsStr::new(directory), Path::new("/o"), is_64), expected, "{directory}");
        }
    }

    #[test]
    fn stems_of_names() {
        for (name, expected) in [("libc.so.6", "libc.so."), ("libx.so", "libx.so"), ("a.so.1.so.2", "a.so.")]
        {
            assert_eq!(stem(OsStr::new(name)), expected.as_bytes(), "{name}");
        }
    }

    #[test]
    fn the_configuration_of_the_dynamic_linker() {
        let root = tempfile::tempdir().unwrap();
        for name in ["more", "more/b.conf", "more/a.conf", "more/.c.conf", "more/d"] {
            let path = root.path().join(name);
            if name == "more" {
                std::fs::create_dir(path).unwrap();
            } else {
                std::fs::write(path, "").unwrap();
            }
        }
        let file = root.path().join("ld.so.conf");
        let read = |text: &str| {
            let mut directories = Vec::new();
            let included = read_configuration(&file, text.as_bytes(), &mut directories);
            included.map(|included| (included, directories))
        };
        let (included, directories) =
            read("# x\n/a/  # y\n /b=libc6\n\ninclude more/*.conf none/*\n").unwrap();
        assert_eq!(included, ["a", "b"].map(|name| root.path().join(format!("more/{name}.conf"))));
        assert_eq!(directories, ["/a", "/b"]);
        assert!(matches!(read("include */x"), Err(LinkError::NotSure(_))));
    }
}

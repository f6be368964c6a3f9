//! Compares the products of builds byte by byte, judged by two plain builds: where those agree with each other,
//! every other build must agree with them; where they do not, nobody can.
//! Knows nothing of how the trees were built.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// What a file of a build tree is, by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A relocatable ELF file.
    Object,
    /// An `ar` archive.
    Archive,
    /// Make rules, by its name.
    Depfile,
    /// What compiles make besides: notes for gcov, split debug information, precompiled headers.
    Further,
    /// An executable or shared library: made here of compared objects.
    Linked,
}

/// The products below `tree`, by path relative to it.
pub fn products(tree: &Path) -> BTreeMap<PathBuf, (Kind, Vec<u8>)> {
    let mut found = BTreeMap::new();
    collect(tree, tree, &mut found);
    found
}

/// How many of the linked files have the name of the tree in them, as CMake's run paths have.
pub fn linked_to(tree: &Path, products: &BTreeMap<PathBuf, (Kind, Vec<u8>)>) -> u64 {
    let name = tree.as_os_str().as_bytes();
    let is_linked_to = |(kind, bytes): &&(Kind, Vec<u8>)| {
        *kind == Kind::Linked && bytes.windows(name.len()).any(|window| window == name)
    };
    products.values().filter(is_linked_to).count() as u64
}

fn collect(tree: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, (Kind, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let file_type = entry.file_type().unwrap();
        if file_type.is_dir() {
            collect(tree, &path, found);
        } else if file_type.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            if let Some(kind) = kind(&path, &bytes) {
                found.insert(path.strip_prefix(tree).unwrap().to_owned(), (kind, bytes));
            }
        }
    }
}

fn kind(path: &Path, bytes: &[u8]) -> Option<Kind> {
    let further = ["gcno", "dwo", "gch", "su"];
    if path.extension().is_some_and(|extension| further.iter().any(|&suffix| extension == suffix)) {
        return Some(Kind::Further);
    }
    // e_type at offset 16, little-endian on the systems that farcc knows: 1 is ET_REL.
    if bytes.starts_with(b"\x7fELF") && bytes.len() > 18 {
        return Some(if bytes[16] == 1 { Kind::Object } else { Kind::Linked });
    }
    if bytes.starts_with(b"!<arch>\n") || bytes.starts_with(b"!<thin>\n") {
        return Some(Kind::Archive);
    }
    path.extension().is_some_and(|extension| extension == "d").then_some(Kind::Depfile)
}

/// What two plain builds gave, and where they agree.
pub struct Judge {
    first: BTreeMap<PathBuf, (Kind, Vec<u8>)>,
    unstable: Vec<PathBuf>,
}

/// How one tree compares.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Objects, archives and depfiles that both plain builds agree on.
    pub compared: usize,
    /// Those of them that are equal here.
    pub equal: usize,
    /// Those compared and those of them that are equal, by kind.
    pub by_kind: BTreeMap<Kind, (usize, usize)>,
    /// What is different, missing or too much here.
    pub differences: Vec<String>,
    /// What the two plain builds do not agree on.
    pub unstable: Vec<PathBuf>,
}

impl Judge {
    /// From two plain builds that were made at the same path.
    pub fn new(first: &Path, second: &Path) -> Judge {
        let (first, second) = (products(first), products(second));
        let mut unstable: Vec<PathBuf> = first
            .iter()
            .filter(|(path, product)| second.get(*path) != Some(product))
            .map(|(p, _)| p.clone())
            .collect();
        unstable.extend(second.keys().filter(|path| !first.contains_key(*path)).cloned());
        Judge { first, unstable }
    }

    /// Compares another build, made at the same path too.
    pub fn compare(&self, tree: &Path) -> Comparison {
        let mut other = products(tree);
        let mut result = Comparison { unstable: self.unstable.clone(), ..Comparison::default() };
        for (path, (kind, bytes)) in &self.first {
            let here = other.remove(path);
            if self.unstable.contains(path) {
                continue;
            }
            result.compared += 1;
            let of_kind = result.by_kind.entry(*kind).or_default();
            of_kind.0 += 1;
            match here {
                None => result.differences.push(format!("{} is missing", path.display())),
                Some((_, theirs)) if theirs == *bytes => {
                    result.equal += 1;
                    of_kind.1 += 1;
                }
                Some((_, theirs)) => {
                    let at = bytes.iter().zip(&theirs).position(|(a, b)| a != b);
                    let at = at.unwrap_or_else(|| bytes.len().min(theirs.len()));
                    let (plain, here) = (bytes.len(), theirs.len());
                    result.differences.push(format!(
                        "{} differs from byte {at} on ({plain} bytes plainly, {here} here)",
                        path.display()
                    ));
                }
            }
        }
        let extra = other.keys().filter(|path| !self.unstable.contains(path));
        result.differences.extend(extra.map(|path| format!("{} is too much", path.display())));
        result
    }
}

impl Comparison {
    /// Nothing differs, and there was something to compare.
    ///
    /// # Panics
    /// Otherwise, with the differences.
    #[track_caller]
    pub fn assert_equal(&self, what: &str) {
        assert!(self.compared > 0, "{what}: nothing was built");
        assert!(self.differences.is_empty(), "{what}:\n{}", self.differences.join("\n"));
    }
}

/// How many are equal of those compared, together and by kind.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} equal", self.equal, self.compared)?;
        for (kind, (compared, equal)) in &self.by_kind {
            let word = match kind {
                Kind::Object => "objects",
                Kind::Archive => "archives",
                Kind::Depfile => "depfiles",
                Kind::Further => "further",
                Kind::Linked => "linked",
            };
            write!(f, ", {equal}/{compared} {word}")?;
        }
        if !self.unstable.is_empty() {
            let paths: Vec<String> = self.unstable.iter().map(|path| path.display().to_string()).collect();
            write!(f, "; plain builds disagree on {}", paths.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        tree
    }

    const OBJECT: &[u8] = b"\x7fELF............\x01\0rest";
    const OTHER: &[u8] = b"\x7fELF............\x01\0ress";

    #[test]
    fn differences_count_where_the_plain_builds_agree() {
        let first = tree(&[("a.o", OBJECT), ("sub/b.o", OBJECT), ("a.d", b"a: b"), ("log.txt", b"1")]);
        let second = tree(&[("a.o", OBJECT), ("sub/b.o", OTHER), ("a.d", b"a: b"), ("log.txt", b"2")]);
        let judge = Judge::new(first.path(), second.path());
        let result = judge.compare(first.path());
        assert_eq!((result.compared, result.equal), (2, 2));
        assert_eq!(result.unstable, [PathBuf::from("sub/b.o")]);
        assert_eq!(
            result.to_string(),
            "2/2 equal, 1/1 objects, 1/1 depfiles; plain builds disagree on sub/b.o"
        );
        result.assert_equal("the first");

        let other = tree(&[("a.o", OTHER), ("sub/b.o", OBJECT), ("c.o", OBJECT)]);
        let result = judge.compare(other.path());
        assert_eq!(
            result.differences,
            ["a.d is missing", "a.o differs from byte 21 on (22 bytes plainly, 22 here)", "c.o is too much"]
        );
    }

    #[test]
    #[should_panic(expected = "nothing was built")]
    fn an_empty_build_is_not_equal() {
        let empty = tree(&[]);
        Judge::new(empty.path(), empty.path()).compare(empty.path()).assert_equal("the empty one");
    }
}

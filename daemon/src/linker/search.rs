//! Where a linker looks for libraries and scripts, and for which machine they must be.
//! Knows nothing of files: these are names and their order.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use foldhash::HashSet;

use crate::linker::Flavour;
use crate::linker::file::Target;
use crate::linker::line::Forms;

/// The directories of a link, in the order in which they are searched.
#[derive(Debug)]
pub(super) struct SearchPath<'a> {
    cwd: &'a Path,
    sysroot: PathBuf,
    directories: Vec<Directory>,
    known: HashSet<Directory>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Directory {
    path: PathBuf,
    /// Not from `-L`: the libraries that libraries need are looked for in these alone.
    is_default: bool,
}

impl<'a> SearchPath<'a> {
    pub(super) fn new(cwd: &'a Path, sysroot: &Path) -> SearchPath<'a> {
        // The root directory changes nothing.
        let is_root = sysroot.components().all(|part| part == std::path::Component::RootDir);
        let sysroot = if is_root { PathBuf::new() } else { cwd.join(sysroot) };
        SearchPath { cwd, sysroot, directories: Vec::new(), known: HashSet::default() }
    }

    /// Adds a directory at the end, if it is not there yet.
    pub(super) fn add(&mut self, name: &OsStr, is_default: bool) {
        let path = self.cwd.join(self.in_sysroot(name).unwrap_or_else(|| name.into()));
        let directory = Directory { path, is_default };
        if self.known.insert(directory.clone()) {
            self.directories.push(directory);
        }
    }

    /// All of them.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|directory| directory.path.clone()).collect()
    }

    /// Those that do not come from `-L`.
    pub(super) fn default_directories(&self) -> impl Iterator<Item = &Path> {
        self.directories
            .iter()
            .filter(|directory| directory.is_default)
            .map(|directory| directory.path.as_path())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.directories.len()
    }

    /// Where the system's own files lie, if elsewhere than in the root directory.
    pub(super) fn sysroot(&self) -> Option<&Path> {
        Some(self.sysroot.as_path()).filter(|sysroot| !sysroot.as_os_str().is_empty())
    }

    /// What a name with `=` or `$SYSROOT` in front stands for; None for other names.
    pub(super) fn in_sysroot(&self, name: &OsStr) -> Option<PathBuf> {
        let bytes = name.as_bytes();
        let rest = bytes.strip_prefix(b"=").or_else(|| bytes.strip_prefix(b"$SYSROOT"))?;
        Some(self.below_sysroot(OsStr::from_bytes(rest)))
    }

    /// The path that follows from the sysroot and `name` one after the other.
    pub(super) fn below_sysroot(&self, name: &OsStr) -> PathBuf {
        let mut path = self.sysroot.clone().into_os_string();
        path.push(name);
        path.into()
    }
}

/// The files that `-l name` may mean in one directory, the preferred first, and whether a linker could pass by the first.
pub(super) fn library_names(name: &OsStr, forms: Forms, flavour: Flavour) -> (Vec<OsString>, bool) {
    if let Some(whole) = name.as_bytes().strip_prefix(b":") {
        return (vec![OsStr::from_bytes(whole).to_owned()], false);
    }
    let with = |suffix: &str| {
        let mut file = OsString::from("lib");
        file.push(name);
        file.push(suffix);
        file
    };
    match forms {
        Forms::SharedUnlessMold if flavour == Flavour::Mold => (vec![with(".so"), with(".a")], true),
        Forms::SharedAndArchive | Forms::SharedUnlessMold => (vec![with(".so"), with(".a")], false),
        Forms::ArchiveOfBfd if flavour != Flavour::Bfd => (vec![with(".so"), with(".a")], true),
        Forms::Archive | Forms::ArchiveOfBfd => (vec![with(".a")], false),
    }
}

/// For which machine an emulation (`-m`) or an output format links; None if it is not known.
pub(super) fn target_named(name: &OsStr) -> Option<Target> {
    let name = name.to_str()?;
    // FreeBSD's and others' variants are for the same machines.
    let plain = [
        "_fbsd",
        "-freebsd",
        "_sol2",
        "-sol2",
        "_cloudabi",
        "-cloudabi",
        "_nacl",
        "-nacl",
        "_lp64",
        "_lp64d",
        "_lp64f",
    ];
    let name = plain.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let (is_64, is_little_endian, machine) = match name {
        "elf_x86_64" | "elf64-x86-64" => (true, true, object::elf::EM_X86_64),
        "elf32_x86_64" | "elf32-x86-64" => (false, true, object::elf::EM_X86_64),
        "elf_i386" | "elf32-i386" => (false, true, object::elf::EM_386),
        "aarch64linux" | "aarch64elf" | "elf64-littleaarch64" => (true, true, object::elf::EM_AARCH64),
        "aarch64linuxb" | "aarch64elfb" | "elf64-bigaarch64" => (true, false, object::elf::EM_AARCH64),
        "armelf_linux_eabi" | "armelf" | "elf32-littlearm" => (false, true, object::elf::EM_ARM),
        "elf64lppc" | "elf64-powerpcle" => (true, true, object::elf::EM_PPC64),
        "elf64ppc" | "elf64-powerpc" => (true, false, object::elf::EM_PPC64),
        "elf32ppc" | "elf32ppclinux" | "elf32-powerpc" => (false, false, object::elf::EM_PPC),
        "elf64lriscv" | "elf64-littleriscv" => (true, true, object::elf::EM_RISCV),
        "elf32lriscv" | "elf32-littleriscv" => (false, true, object::elf::EM_RISCV),
        "elf64_s390" | "elf64-s390" => (true, false, object::elf::EM_S390),
        "elf64loongarch" | "elf64-loongarch" => (true, true, object::elf::EM_LOONGARCH),
        _ => return None,
    };
    Some(Target { is_64, is_little_endian, machine: machine.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_the_sysroot() {
        let mut path = SearchPath::new(Path::new("/w"), Path::new("/sys"));
        for (name, is_default) in
            [("/a", false), ("b", false), ("=/usr/lib", true), ("/a", false), ("$SYSROOT/lib", false)]
        {
            path.add(OsStr::new(name), is_default);
        }
        assert_eq!(path.directories(), ["/a", "/w/b", "/sys/usr/lib", "/sys/lib"].map(PathBuf::from));
        assert_eq!(path.default_directories().collect::<Vec<_>>(), [Path::new("/sys/usr/lib")]);
        let mut path = SearchPath::new(Path::new("/w"), Path::new("/"));
        path.add(OsStr::new("=/usr/lib"), true);
        assert_eq!((path.sysroot(), path.directories()), (None, vec![PathBuf::from("/usr/lib")]));
    }

    #[test]
    fn names_of_libraries() {
        let check = |name: &str, forms, flavour, expected: &[&str]| {
            let (names, _) = library_names(OsStr::new(name), forms, flavour);
            assert_eq!(names, expected.iter().map(OsString::from).collect::<Vec<_>>(), "{name} {forms:?}");
        };
        check("m", Forms::SharedAndArchive, Flavour::Bfd, &["libm.so", "libm.a"]);
        check("m", Forms::Archive, Flavour::Lld, &["libm.a"]);
        check("m", Forms::ArchiveOfBfd, Flavour::Bfd, &["libm.a"]);
        check("m", Forms::ArchiveOfBfd, Flavour::Gold, &["libm.so", "libm.a"]);
        check(":m.o", Forms::Archive, Flavour::Bfd, &["m.o"]);
    }

    #[test]
    fn machines() {
        let x86_64 = target_named(OsStr::new("elf_x86_64")).unwrap();
        assert_eq!(target_named(OsStr::new("elf64-x86-64-freebsd")), Some(x86_64));
        assert_ne!(target_named(OsStr::new("elf32_x86_64")), Some(x86_64));
        assert_eq!(target_named(OsStr::new("elf_pdp11")), None);
    }
}

//! Whether a link makes the same of files that have other names, and its line with those names: for an action in which the
//! workspace lies elsewhere.
//! Knows nothing of why, nor of compiler drivers.
//!
//! A linker writes down what its files hold, not what they are called. Where it does, or chooses by names, is told here, and
//! tried against each linker in the tests.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::files::InputFile;
use crate::linker::LinkError;
use crate::linker::LinkLine;
use crate::linker::Sources;
use crate::linker::file::Kind;
use crate::linker::line::FurtherOutput;
use crate::linker::line::Item;
use crate::paths;

/// Where GNU ld looks for the directories of the libraries that libraries need, and the files that this one includes.
const LIBRARY_CONFIGURATION: &[u8] = b"/etc/ld.so.conf";

/// Other names for files and directories.
pub struct Renaming<'a> {
    /// What a file or directory is called instead; its own name if it keeps that.
    pub rename: &'a dyn Fn(&Path) -> PathBuf,
    /// Whether a text has a name in it that is to be another.
    pub is_named_in: &'a dyn Fn(&OsStr) -> bool,
    /// What such a text names.
    pub what: &'static str,
}

impl LinkLine {
    /// The same line with other names, of which the linker makes the same.
    ///
    /// # Errors
    /// Why it would not, as a clause.
    pub fn renamed(&self, renaming: &Renaming) -> Result<LinkLine, String> {
        let shown = |text: &OsStr| format!("{} may stand in what is made", text.display());
        let is_named = |text: &&OsStr| (renaming.is_named_in)(text);
        let kept = self.run_path.iter().chain(&self.soname).chain(&self.values).chain(&self.emulation);
        let mut kept = kept.map(|text| &**text);
        if let Some(text) = kept.find(is_named) {
            return Err(shown(text));
        }
        let mut searched = self.plugins.iter().chain(&self.sysroot).map(|path| path.as_os_str());
        if let Some(path) = searched.find(is_named) {
            return Err(format!("{} decides where files are found", path.display()));
        }
        let rename = renaming.rename;
        let mut line = self.clone();
        for item in &mut line.items {
            match item {
                // Its symbols have names that are made of the file's (`_binary_…_start`).
                Item::File { path, is_raw: true } if is_named(&path.as_os_str()) => {
                    return Err(shown(path.as_os_str()));
                }
                Item::File { path, .. } | Item::Script(path) | Item::Text(path) | Item::Symbols(path) => {
                    *path = rename(path);
                }
                Item::Directory(directory) => *directory = rename(Path::new(directory)).into(),
                // A run path if it is a directory, and a name behind a colon is looked for in directories.
                Item::SymbolsOrRunPath(name)
                | Item::Library { name, .. }
                | Item::PluginLibrary { name, .. } => {
                    if is_named(&&**name) {
                        return Err(shown(name));
                    }
                }
            }
        }
        for directory in &mut line.run_path_link {
            *directory = rename(Path::new(directory)).into();
        }
        line.output = line.output.as_deref().map(rename);
        // The base of the versions is named after the soname, or else, but for GNU ld, by this (gold/dynobj.cc,
        // `Versions::define_base_version`). Which of the texts is a version script does not matter.
        let is_versioned = self.is_shared() || self.items.iter().any(|item| matches!(item, Item::Text(_)));
        if line.output != self.output && is_versioned && self.soname.is_none() {
            return Err(shown(self.output().as_os_str()));
        }
        for (path, _) in &mut line.further_outputs {
            *path = rename(path);
        }
        let writes_map = self.further_outputs.iter().any(|(_, output)| *output == FurtherOutput::Map);
        if line != *self && (self.minds_names || writes_map) {
            return Err("an option makes it depend on what files are called".to_owned());
        }
        Ok(line)
    }
}

/// What among the files of a link makes their names matter, as a clause. The image's keep theirs.
///
/// # Errors
/// As [`Sources::read`].
pub fn tie(
    line: &LinkLine,
    inputs: &[Arc<InputFile>],
    sources: &Sources,
) -> Result<Option<String>, LinkError> {
    // The scripts that linkers have for the ELF have no patterns that would tell two directories apart; for PE, they sort
    // files by their names.
    let is_elf = |name: &OsStr| [&b"elf"[..], b"aarch64"].iter().any(|elf| name.as_bytes().starts_with(elf));
    if let Some(name) = line.emulation().filter(|name| !is_elf(name)) {
        return Ok(Some(format!("{} may order files by their names", name.display())));
    }
    let minded = |path: &Path| format!("the script {} may choose files by their names", path.display());
    let mut texts = Vec::new();
    for item in &line.items {
        match item {
            Item::Script(path) => return Ok(Some(minded(path))),
            Item::Text(path) => texts.push(path),
            _ => {}
        }
    }
    let is_no_script = |path: &Path| {
        let is_input = |item: &Item| matches!(item, Item::File { path: file, .. } if path.ends_with(file));
        texts.iter().any(|text| path.ends_with(text)) && !line.items.iter().any(is_input)
            || path.as_os_str().as_bytes().starts_with(LIBRARY_CONFIGURATION)
    };
    for input in inputs.iter().filter(|input| !paths::is_system(&input.path) && !is_no_script(&input.path)) {
        let path = input.path.display();
        let file = sources.read(input)?;
        if file.has_intermediate_code {
            return Ok(Some(format!("code is made of {path}, with names of files in it")));
        }
        match &file.kind {
            // `*/sub/*.o(.text)`
            Kind::Script(_) | Kind::LongText => return Ok(Some(minded(&input.path))),
            Kind::Shared(library) if library.soname.is_none() => {
                return Ok(Some(format!("{path} has no soname, so that its path may stand in what is made")));
            }
            Kind::Object
            | Kind::Shared(_)
            | Kind::Archive
            | Kind::ThinArchive(_)
            | Kind::DamagedThinArchive
            | Kind::Bitcode
            | Kind::Other => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn line(text: &str) -> LinkLine {
        LinkLine::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    fn renamed(text: &str) -> Result<LinkLine, String> {
        let rename = |path: &Path| match path.strip_prefix("/w") {
            Ok(below) => Path::new("/there").join(below),
            Err(_) => path.to_owned(),
        };
        let is_named_in = |text: &OsStr| memchr::memmem::find(text.as_bytes(), b"/w").is_some();
        line(text).renamed(&Renaming { rename: &rename, is_named_in: &is_named_in, what: "the workspace" })
    }

    #[test]
    fn files_and_directories_get_other_names() {
        for (here, there) in [
            ("-o /w/app /w/a.o b.o -L/w/lib -lx", "-o /there/app /there/a.o b.o -L/there/lib -lx"),
            (
                "--version-script /w/v.map a.o -soname libx.so",
                "--version-script=/there/v.map a.o -soname libx.so",
            ),
            ("-T /w/x.ld --just-symbols=/w/s a.o", "-T /there/x.ld --just-symbols=/there/s a.o"),
            (
                "--dependency-file=/w/d -rpath-link /w/l a.o",
                "--dependency-file=/there/d -rpath-link /there/l a.o",
            ),
            ("--dynamic-list=/w/d -rpath /opt/lib a.o", "--dynamic-list=/there/d -rpath /opt/lib a.o"),
            ("-shared -o /w/x.so -soname x.so a.o", "-shared -o /there/x.so -h x.so a.o"),
            ("-Map=x.map -rpath $ORIGIN a.o", "-Map=x.map -rpath $ORIGIN a.o"),
        ] {
            assert_eq!(renamed(here), Ok(line(there)), "{here}");
        }
    }

    #[test]
    fn scripts_mind_the_names_of_files() {
        let tied = |text: &str| tie(&line(text), &[], &Sources::new(Arc::default())).unwrap();
        for (text, why) in [
            (
                "-T /usr/lib/ldscripts/x.x a.o",
                "the script /usr/lib/ldscripts/x.x may choose files by their names",
            ),
            ("-m i386pep a.o", "i386pep may order files by their names"),
        ] {
            assert_eq!(tied(text).as_deref(), Some(why), "{text}");
        }
        assert_eq!(tied("-m elf_x86_64 a.o --version-script=x.map"), None);
        assert_eq!(tied("-m aarch64linux a.o"), None);
    }

    #[test]
    fn what_may_stand_in_what_is_made_keeps_its_name() {
        for (text, why) in [
            ("a.o -rpath /w/lib", "/w/lib may stand in what is made"),
            ("a.o -rpath=/opt:/w/lib", "/opt:/w/lib may stand in what is made"),
            ("a.o -R /w/lib", "/w/lib may stand in what is made"),
            ("a.o -soname=/w/libx.so", "/w/libx.so may stand in what is made"),
            ("a.o -h /w/libx.so", "/w/libx.so may stand in what is made"),
            ("a.o -h/w/libx.so", "/w/libx.so may stand in what is made"),
            ("a.o -shared -o /w/x.so", "/w/x.so may stand in what is made"),
            ("a.o --dynamic-linker /w/ld.so", "/w/ld.so may stand in what is made"),
            ("a.o -I/w/ld.so", "/w/ld.so may stand in what is made"),
            ("a.o --package-metadata={\"at\":\"/w\"}", "{\"at\":\"/w\"} may stand in what is made"),
            ("a.o -b binary /w/data", "/w/data may stand in what is made"),
            ("a.o -l:/w/libx.a", ":/w/libx.a may stand in what is made"),
            ("a.o --sysroot=/w/root", "/w/root decides where files are found"),
            ("/w/a.o -Map=x.map", "an option makes it depend on what files are called"),
            ("/w/a.o -Map=-", "an option makes it depend on what files are called"),
            ("/w/a.o -M", "an option makes it depend on what files are called"),
            ("/w/a.o --print-map", "an option makes it depend on what files are called"),
            ("/w/a.o --oformat=srec", "an option makes it depend on what files are called"),
            ("/w/a.o --warn-backrefs-exclude=*/w*", "an option makes it depend on what files are called"),
            ("a.o --version-script=v -o /w/app", "/w/app may stand in what is made"),
            ("/w/a.o --cref", "an option makes it depend on what files are called"),
        ] {
            assert_eq!(renamed(text), Err(why.to_owned()), "{text}");
        }
    }
}

//! Whether a link makes the same of files that have other names, and its line with those names: for an action in which the
//! workspace lies elsewhere.
//! Knows nothing of why, nor of compiler drivers.
//!
//! A linker writes down what its files hold, not what they are called. Where it does, or chooses by names, is told here, and
//! tried against each linker in the tests.

use std::collections::HashSet;
use std::ffi::OsStr;
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
        // Gold gives the library's own version this name (gold/dynobj.cc, `Versions::define_base_version`).
        if line.output != self.output && self.is_shared() && self.soname.is_none() {
            return Err(shown(self.output().as_os_str()));
        }
        for (path, _) in &mut line.further_outputs {
            *path = rename(path);
        }
        if line != *self && self.tells_names() {
            return Err("it tells the names of its files".to_owned());
        }
        Ok(line)
    }

    /// Whether it writes down its files' names in a form that depends on their lengths.
    fn tells_names(&self) -> bool {
        self.prints_map || self.further_outputs.iter().any(|(_, output)| *output == FurtherOutput::Map)
    }
}

/// What among the files of a link makes their names matter, as a clause. The image's keep theirs.
///
/// # Errors
/// As [`Sources::read`].
pub fn tie(
    line: &LinkLine,
    cwd: &Path,
    inputs: &[Arc<InputFile>],
    sources: &Sources,
) -> Result<Option<String>, LinkError> {
    let texts: HashSet<PathBuf> = line
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Text(path) => Some(paths::absolute(cwd, path)),
            _ => None,
        })
        .collect();
    let others = inputs.iter().filter(|input| !paths::is_system(&input.path) && !texts.contains(&input.path));
    for input in others {
        let path = input.path.display();
        let file = sources.read(input)?;
        if file.has_intermediate_code {
            return Ok(Some(format!("code is made of {path}, with names of files in it")));
        }
        match &file.kind {
            // `*/sub/*.o(.text)`
            Kind::Script(_) | Kind::LongText => {
                return Ok(Some(format!("the script {path} may choose files by their names")));
            }
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
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

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
            ("/w/a.o -Map=x.map", "it tells the names of its files"),
            ("/w/a.o -Map=-", "it tells the names of its files"),
            ("/w/a.o -M", "it tells the names of its files"),
            ("/w/a.o --print-map", "it tells the names of its files"),
            ("/w/a.o --cref", "it tells the names of its files"),
        ] {
            assert_eq!(renamed(text), Err(why.to_owned()), "{text}");
        }
    }
}

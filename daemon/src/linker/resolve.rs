//! Finds the files that a link reads: those that it names, those that these name, and those that were looked at on the way.
//! Knows nothing of how options are written, nor of what is in a file beyond its kind.
//!
//! A file that exists where a library is looked for and is passed by, for another machine, is an input too: without it another
//! would be found.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::HashSet;

use crate::files::InputFile;
use crate::linker::Flavour;
use crate::linker::LinkError;
use crate::linker::LinkLine;
use crate::linker::Sources;
use crate::linker::Surroundings;
use crate::linker::file::Kind;
use crate::linker::file::LinkerFile;
use crate::linker::file::Target;
use crate::linker::line::DefaultDirectories;
use crate::linker::line::Forms;
use crate::linker::line::FurtherOutput;
use crate::linker::line::Item;
use crate::linker::needed;
use crate::linker::script::Obstacle;
use crate::linker::script::Script;
use crate::linker::script::Statement;
use crate::linker::search::SearchPath;
use crate::linker::search::library_names;
use crate::linker::search::target_named;

/// Scripts and thin archives within each other: GNU ld allows ten.
const DEEPEST: usize = 16;

/// Thousands of libraries in a hundred directories.
const MOST_LOOKUPS: usize = 1 << 20;

/// More files than any link reads.
const MOST_INPUTS: usize = 1 << 20;

/// The files that a link reads, each path once, absolute and as the linker opens it, in the order in which they are found.
///
/// 1. Directories, scripts and texts of the options, as they stand.
/// 2. The inputs and what they name: members of thin archives, what scripts ask for.
/// 3. What plugins may ask for.
/// 4. For GNU ld, the libraries that the shared libraries need.
///
/// # Errors
/// [`LinkError`] if the link could not find a file, or could read others than are found here.
pub fn resolve(
    line: &LinkLine,
    surroundings: &Surroundings,
    sources: &Sources,
) -> Result<Vec<Arc<InputFile>>, LinkError> {
    let sysroot = line.sysroot.as_deref().unwrap_or(surroundings.sysroot);
    let mut link = Link {
        line,
        surroundings,
        sources,
        search_path: SearchPath::new(surroundings.cwd, sysroot),
        target: line.emulation().and_then(target_named),
        inputs: Vec::new(),
        paths: HashSet::default(),
        open: Vec::new(),
        done: HashSet::default(),
        wanted: Vec::new(),
        lookups: 0,
        shared: Vec::new(),
    };
    link.check_map()?;
    let named = link.read_options()?;
    link.add_default_directories();
    link.find_target(&named);
    for input in named {
        link.named(input)?;
    }
    link.wanted_again()?;
    for item in &line.items {
        if let Item::PluginLibrary { name, forms } = item {
            // Asked for only if there is something to compile, and mostly named on the line as well.
            link.library(name, *forms)?;
        }
    }
    needed::follow(&mut link)?;
    Ok(link.inputs)
}

/// A link as far as it is resolved.
pub(super) struct Link<'a> {
    pub(super) line: &'a LinkLine,
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) sources: &'a Sources,
    pub(super) search_path: SearchPath<'a>,
    /// The machine that is linked for; None if nothing says it.
    pub(super) target: Option<Target>,
    inputs: Vec<Arc<InputFile>>,
    paths: HashSet<PathBuf>,
    /// The scripts and thin archives that are being followed.
    open: Vec<PathBuf>,
    /// Those that have been.
    done: HashSet<PathBuf>,
    /// Libraries that were nowhere: a script may yet add a directory.
    wanted: Vec<(OsString, Forms)>,
    /// How often a name was looked for in a directory.
    lookups: usize,
    /// The shared libraries, in order.
    pub(super) shared: Vec<(PathBuf, Arc<LinkerFile>)>,
}

/// What is opened once all directories are known.
enum Named<'a> {
    File {
        path: &'a Path,
        is_raw: bool,
    },
    Library {
        name: &'a OsStr,
        forms: Forms,
    },
    /// What a script named.
    Statement {
        script: PathBuf,
        name: OsString,
        forms: Forms,
    },
    /// Words of a script that may be files.
    Mentions(Arc<LinkerFile>),
}

/// Whether a linker takes a file that it found on its search path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Taken,
    /// It is for another machine.
    Passed,
    /// It cannot be told: what comes after it counts as well.
    Perhaps,
}

impl<'a> Link<'a> {
    /// A map may be named by its directory alone.
    fn check_map(&self) -> Result<(), LinkError> {
        for (path, output) in self.line.further_outputs() {
            if output == FurtherOutput::Map && Sources::is_directory(&self.surroundings.cwd.join(&path)) {
                return Err(LinkError::Unsupported(format!("-Map={}", path.display())));
            }
        }
        Ok(())
    }

    fn read_options(&mut self) -> Result<Vec<Named<'a>>, LinkError> {
        let line = self.line;
        let mut named = Vec::new();
        // lld and mold know all `-L` before they open anything; the others add directories in the order of the line, those of
        // scripts among them.
        let are_first = matches!(self.surroundings.flavour, Flavour::Lld | Flavour::Mold);
        let directories = || {
            line.items.iter().filter_map(|item| match item {
                Item::Directory(name) => Some(name),
                _ => None,
            })
        };
        if are_first {
            for name in directories() {
                self.search_path.add(name, false);
            }
        }
        for item in &line.items {
            match item {
                Item::Directory(name) => self.search_path.add(name, false),
                Item::File { path, is_raw } => named.push(Named::File { path, is_raw: *is_raw }),
                Item::Library { name, forms } => named.push(Named::Library { name, forms: *forms }),
                Item::Script(path) => {
                    let found = self.find_text(path)?;
                    self.read_script(&found, &mut named, Forms::default())?;
                }
                Item::Text(path) => {
                    let found = self.find_text(path)?;
                    self.add(&found)?;
                }
                Item::Symbols(path) => named.push(Named::File { path, is_raw: false }),
                Item::SymbolsOrRunPath(path) => {
                    if self.sources.is_file(&self.surroundings.cwd.join(path)) {
                        named.push(Named::File { path: Path::new(path), is_raw: false });
                    }
                }
                Item::PluginLibrary { .. } => {}
            }
        }
        Ok(named)
    }

    fn add_default_directories(&mut self) {
        let has_defaults = matches!(self.surroundings.flavour, Flavour::Bfd | Flavour::Gold);
        if has_defaults && self.line.default_directories == DefaultDirectories::Searched {
            for directory in self.surroundings.search_directories {
                self.search_path.add(directory.as_os_str(), true);
            }
            if self.surroundings.flavour == Flavour::Gold {
                // It does not tell them; these are always among them.
                for directory in ["=/lib", "=/usr/lib"] {
                    self.search_path.add(OsStr::new(directory), true);
                }
            }
        }
    }

    /// Without an emulation, the first object says what is linked.
    fn find_target(&mut self, named: &[Named]) {
        for input in named {
            if self.target.is_some() {
                return;
            }
            let Named::File { path, is_raw: false } = input else { continue };
            let path = self.surroundings.cwd.join(path);
            let read = self.sources.version(&path).and_then(|input| self.sources.read(&input));
            // What is wrong with it is said where it is opened.
            if let Ok(file) = read
                && matches!(file.kind, Kind::Object | Kind::Shared(_))
            {
                self.target = file.target;
            }
        }
    }

    fn named(&mut self, input: Named) -> Result<(), LinkError> {
        match input {
            Named::File { path, is_raw: true } => self.add(&self.surroundings.cwd.join(path)).map(|_| ()),
            Named::File { path, is_raw: false } => {
                self.open(&self.surroundings.cwd.join(path), Forms::default())
            }
            Named::Library { name, forms } => self.library_or_later(name, forms),
            Named::Statement { script, name, forms } => self.input_of_script(&script, &name, forms),
            Named::Mentions(file) => match &file.kind {
                Kind::Script(script) => self.mentions(script),
                _ => Ok(()),
            },
        }
    }

    /// Makes `path` (absolute) an input.
    pub(super) fn add(&mut self, path: &Path) -> Result<Arc<InputFile>, LinkError> {
        let input = self.sources.version(path)?;
        if self.paths.insert(path.to_owned()) {
            if self.inputs.len() == MOST_INPUTS {
                return Err(LinkError::NotSure("there are more files than any link reads".into()));
            }
            self.inputs.push(Arc::clone(&input));
        }
        Ok(input)
    }

    /// Makes `path` (absolute) an input, and whatever it names.
    fn open(&mut self, path: &Path, forms: Forms) -> Result<(), LinkError> {
        let input = self.add(path)?;
        let file = self.sources.read(&input)?;
        self.follow(path, &file, forms)
    }

    fn follow(&mut self, path: &Path, file: &Arc<LinkerFile>, forms: Forms) -> Result<(), LinkError> {
        match &file.kind {
            Kind::Object | Kind::Archive => self.dependent(path, file, forms),
            Kind::Bitcode | Kind::Other => Ok(()),
            Kind::Shared(_) => {
                if self.done.insert(path.to_owned()) {
                    self.shared.push((path.to_owned(), Arc::clone(file)));
                }
                Ok(())
            }
            Kind::ThinArchive(members) => self.within(path, |link| link.members(path, members, forms)),
            Kind::DamagedThinArchive => Err(not_sure(path, "is a thin archive that is damaged")),
            Kind::LongText => Err(not_sure(path, "is text that is too long for a script")),
            Kind::Script(script) => self.within(path, |link| {
                let mut named = Vec::new();
                link.statements(path, script, &mut named, forms)?;
                named.into_iter().try_for_each(|input| link.named(input))?;
                link.mentions(script)
            }),
        }
    }

    /// Runs `follow` for a file that names others, once.
    fn within(
        &mut self,
        path: &Path,
        follow: impl FnOnce(&mut Self) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        if self.open.iter().any(|open| open == path) {
            return Err(not_sure(path, "names itself"));
        }
        if self.open.len() == DEEPEST {
            return Err(not_sure(path, "is nested too deeply"));
        }
        if !self.done.insert(path.to_owned()) {
            return Ok(());
        }
        self.open.push(path.to_owned());
        let followed = follow(self);
        self.open.pop();
        followed
    }

    fn members(&mut self, path: &Path, members: &[OsString], forms: Forms) -> Result<(), LinkError> {
        let directory = path.parent().unwrap_or(path);
        members.iter().try_for_each(|member| self.open(&directory.join(member), forms))
    }

    /// The libraries that objects ask for; which members of an archive are linked is not known, so that one is nowhere may not
    /// matter.
    fn dependent(&mut self, path: &Path, file: &LinkerFile, forms: Forms) -> Result<(), LinkError> {
        let is_heeded = self.surroundings.flavour == Flavour::Lld && !file.dependent.is_empty();
        if !is_heeded || !self.done.insert(path.to_owned()) {
            return Ok(());
        }
        if self.open.len() == DEEPEST {
            return Err(not_sure(path, "is nested too deeply"));
        }
        self.open.push(path.to_owned());
        for name in &file.dependent {
            let here = self.surroundings.cwd.join(name);
            if self.library(name, forms)? || self.on_search_path(std::slice::from_ref(name), false, forms)? {
                continue;
            }
            if self.sources.is_file(&here) {
                self.open(&here, forms)?;
            }
        }
        self.open.pop();
        Ok(())
    }

    /// A file that an option or `INCLUDE` names: as it is written, or else on the search path (ldfile_find_command_file).
    fn find_text(&self, name: &Path) -> Result<PathBuf, LinkError> {
        let directories =
            std::iter::once(self.surroundings.cwd.to_owned()).chain(self.search_path.directories());
        let mut paths = directories.map(|directory| directory.join(name));
        let found = paths.find(|path| Sources::exists(path));
        found.ok_or_else(|| LinkError::Missing(name.display().to_string()))
    }

    /// Reads a script for its directories and inputs, which are opened later.
    fn read_script(
        &mut self,
        path: &Path,
        named: &mut Vec<Named<'a>>,
        forms: Forms,
    ) -> Result<(), LinkError> {
        let input = self.add(path)?;
        let file = self.sources.read(&input)?;
        let Kind::Script(script) = &file.kind else {
            return Err(not_sure(path, "is no script"));
        };
        self.within(path, |link| link.statements(path, script, named, forms))?;
        named.push(Named::Mentions(Arc::clone(&file)));
        Ok(())
    }

    fn statements(
        &mut self,
        path: &Path,
        script: &Script,
        named: &mut Vec<Named<'a>>,
        forms: Forms,
    ) -> Result<(), LinkError> {
        match script.obstacle {
            Some(Obstacle::Output) => {
                return Err(LinkError::Unsupported(format!("OUTPUT in {}", path.display())));
            }
            Some(Obstacle::Unfinished) => return Err(not_sure(path, "is a script without an end")),
            None if script.has_line_comments && self.surroundings.flavour == Flavour::Bfd => {
                return Err(not_sure(path, "is a script with a # that GNU ld does not know"));
            }
            None => {}
        }
        for statement in &script.statements {
            match statement {
                Statement::Directory(name) => self.search_path.add(name, true),
                Statement::Include(name) => {
                    let found = self.find_text(Path::new(name))?;
                    self.read_script(&found, named, forms)?;
                }
                Statement::Input(name) => {
                    named.push(Named::Statement { script: path.to_owned(), name: name.clone(), forms });
                }
            }
        }
        Ok(())
    }

    /// GNU ld manual, "Commands Dealing with Files"; where linkers differ in order, all places count.
    fn input_of_script(&mut self, script: &Path, name: &OsStr, forms: Forms) -> Result<(), LinkError> {
        let bytes = name.as_bytes();
        if let Some(library) = bytes.strip_prefix(b"-l") {
            return self.library_or_later(OsStr::from_bytes(library), forms);
        }
        let cwd = self.surroundings.cwd;
        let mut places = Vec::new();
        if let Some(path) = self.search_path.in_sysroot(name) {
            places.push(cwd.join(path));
        } else if bytes.starts_with(b"/") {
            if self.is_in_sysroot(script) {
                places.push(self.search_path.below_sysroot(name));
            }
            places.push(name.into());
        } else {
            places.push(script.parent().unwrap_or(script).join(name));
            places.push(cwd.join(name));
        }
        places.retain(|place| self.sources.is_file(place));
        if bytes.starts_with(b"/") {
            places.truncate(1);
        }
        let (mut is_taken, mut is_found) = (false, false);
        for place in places {
            let choice = self.try_open(&place, forms)?;
            is_taken |= choice == Choice::Taken;
            is_found |= choice != Choice::Passed;
        }
        if !is_taken && !bytes.starts_with(b"/") {
            is_found |= self.on_search_path(&[name.to_owned()], false, forms)?;
        }
        if is_found {
            return Ok(());
        }
        let mut names =
            bytes.split(|byte| *byte == b',').filter(|name| !name.is_empty()).map(OsStr::from_bytes);
        if bytes.contains(&b',') {
            return names.try_for_each(|name| self.input_of_script(script, name, forms));
        }
        Err(LinkError::Missing(name.display().to_string()))
    }

    /// Whether a script's absolute names count from the sysroot (is_sysrooted_pathname).
    fn is_in_sysroot(&self, script: &Path) -> bool {
        let Some(sysroot) = self.search_path.sysroot() else { return false };
        match (sysroot.canonicalize(), script.canonicalize()) {
            (Ok(sysroot), Ok(script)) => script.starts_with(sysroot),
            _ => false,
        }
    }

    /// A plain file name among the sections is opened; most words are none, and what is no object is not followed.
    fn mentions(&mut self, script: &Script) -> Result<(), LinkError> {
        for name in &script.mentions {
            let path = Path::new(name);
            let suffix = path.extension().and_then(OsStr::to_str);
            let is_object = matches!(suffix, Some("o" | "a" | "so" | "lo" | "obj"));
            let here = self.surroundings.cwd.join(path);
            if self.sources.is_file(&here) {
                if is_object {
                    self.open(&here, Forms::default())?;
                } else {
                    self.add(&here)?;
                }
            } else if is_object {
                self.on_search_path(std::slice::from_ref(name), false, Forms::default())?;
            }
        }
        Ok(())
    }

    fn library_or_later(&mut self, name: &OsStr, forms: Forms) -> Result<(), LinkError> {
        if !self.library(name, forms)? {
            self.wanted.push((name.to_owned(), forms));
        }
        Ok(())
    }

    fn wanted_again(&mut self) -> Result<(), LinkError> {
        // What is found now may add directories and want libraries, too.
        let mut searched = 0;
        while !self.wanted.is_empty() && self.search_path.len() != searched {
            searched = self.search_path.len();
            for (name, forms) in std::mem::take(&mut self.wanted) {
                self.library_or_later(&name, forms)?;
            }
        }
        match self.wanted.first() {
            Some((name, _)) => Err(LinkError::Missing(format!("-l{}", name.display()))),
            None => Ok(()),
        }
    }

    /// Looks for `-l name`; whether it is somewhere.
    fn library(&mut self, name: &OsStr, forms: Forms) -> Result<bool, LinkError> {
        let (names, is_open) = library_names(name, forms, self.surroundings.flavour);
        self.on_search_path(&names, is_open, forms)
    }

    fn on_search_path(&mut self, names: &[OsString], is_open: bool, forms: Forms) -> Result<bool, LinkError> {
        self.lookups += names.len() * self.search_path.len();
        if self.lookups > MOST_LOOKUPS {
            return Err(LinkError::NotSure(
                "too many libraries are looked for in too many directories".into(),
            ));
        }
        let mut is_found = false;
        for directory in self.search_path.directories() {
            for name in names {
                let path = directory.join(name);
                if !self.sources.is_file(&path) {
                    continue;
                }
                match self.try_open(&path, forms)? {
                    Choice::Taken if !is_open => return Ok(true),
                    Choice::Taken | Choice::Perhaps => is_found = true,
                    Choice::Passed => {}
                }
            }
        }
        Ok(is_found)
    }

    /// Opens a file that was found, if the linker would take it; an input it is in any case.
    fn try_open(&mut self, path: &Path, forms: Forms) -> Result<Choice, LinkError> {
        let input = self.add(path)?;
        let file = self.sources.read(&input)?;
        let choice = self.choice(path, &file);
        if choice != Choice::Passed {
            self.follow(path, &file, forms)?;
        }
        Ok(choice)
    }

    /// mold takes the first file that a script names for its machine, if it lies at that path.
    fn starts_with_a_file(&self, script: &Script) -> bool {
        let Some(Statement::Input(name)) = script.statements.first() else { return false };
        let is_mold = self.surroundings.flavour == Flavour::Mold;
        is_mold && self.sources.is_file(&self.surroundings.cwd.join(name))
    }

    fn choice(&self, path: &Path, file: &LinkerFile) -> Choice {
        if self.surroundings.flavour == Flavour::Lld {
            // It takes the first that is there, and complains.
            return Choice::Taken;
        }
        let target = match &file.kind {
            Kind::Script(script) => match &script.format {
                Some(format) => match target_named(format) {
                    Some(target) => Some(target),
                    None => return Choice::Perhaps,
                },
                None if self.starts_with_a_file(script) => return Choice::Perhaps,
                None => None,
            },
            Kind::ThinArchive(members) => members.first().and_then(|member| {
                let first = path.parent()?.join(member);
                let input = self.sources.version(&first).ok()?;
                self.sources.read(&input).ok()?.target
            }),
            _ => file.target,
        };
        match (target, self.target) {
            (Some(target), Some(wanted)) if target == wanted => Choice::Taken,
            (Some(_), Some(_)) => Choice::Passed,
            (Some(_), None) => Choice::Perhaps,
            // It does not say for which machine it is, and no linker passes it by for that.
            (None, _) => Choice::Taken,
        }
    }
}

fn not_sure(path: &Path, why: &str) -> LinkError {
    LinkError::NotSure(format!("{} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::Instant;

    use super::*;
    use crate::files::Files;

    const OBJECT_64: &[u8] = b"64-bit";
    const OBJECT_32: &[u8] = b"32-bit";

    /// An ELF header without anything behind it.
    fn object(is_64: bool) -> Vec<u8> {
        let mut header = vec![0; if is_64 { 64 } else { 52 }];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1]);
        header[16..20].copy_from_slice(&[1, 0, if is_64 { 62 } else { 3 }, 0]);
        header[20] = 1;
        header
    }

    struct Case {
        root: tempfile::TempDir,
        flavour: Flavour,
        sources: Sources,
    }

    impl Case {
        fn new(flavour: Flavour, files: &[(&str, &[u8])]) -> Case {
            let root = tempfile::tempdir().unwrap();
            let sources = Sources::new(Arc::new(Files::default()));
            let case = Case { root, flavour, sources };
            for (name, content) in files {
                case.write(name, content);
            }
            case
        }

        fn write(&self, name: &str, content: &[u8]) {
            let path = self.root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content = match content {
                OBJECT_64 => object(true),
                OBJECT_32 => object(false),
                other => other.to_owned(),
            };
            std::fs::write(path, content).unwrap();
        }

        fn resolve(&self, line: &str) -> Result<Vec<Arc<InputFile>>, LinkError> {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let defaults = [PathBuf::from("default")];
            let surroundings = Surroundings {
                cwd: self.root.path(),
                flavour: self.flavour,
                sysroot: Path::new(""),
                search_directories: &defaults,
                library_path: None,
                run_path: None,
            };
            resolve(&LinkLine::parse(&words).unwrap(), &surroundings, &self.sources)
        }

        /// The files that are found, or the error.
        fn found(&self, line: &str) -> String {
            match self.resolve(line) {
                Ok(inputs) => {
                    let below = |input: &Arc<InputFile>| {
                        input.path.strip_prefix(self.root.path()).unwrap().display().to_string()
                    };
                    inputs.iter().map(below).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.to_string().replace(&format!("{}/", self.root.path().display()), ""),
            }
        }
    }

    #[test]
    fn libraries_by_directory_and_form() {
        let files: &[(&str, &[u8])] = &[
            ("m.o", OBJECT_64),
            ("one/libx.a", b"!<arch>\n"),
            ("two/libx.so", OBJECT_64),
            ("two/libx.a", b"!<arch>\n"),
            ("old/libx.so", OBJECT_32),
            ("default/liby.so", OBJECT_64),
        ];
        for (flavour, line, expected) in [
            (Flavour::Bfd, "m.o -lx -Lone -Ltwo", "m.o one/libx.a"),
            (Flavour::Bfd, "m.o -Ltwo -lx -lx m.o", "m.o two/libx.so"),
            (Flavour::Bfd, "m.o -Ltwo -Bstatic -lx", "m.o two/libx.a"),
            (Flavour::Bfd, "m.o -Ltwo -r -lx", "m.o two/libx.a"),
            (Flavour::Gold, "m.o -Ltwo -r -lx", "m.o two/libx.so two/libx.a"),
            (Flavour::Bfd, "m.o -Lold -Ltwo -lx", "m.o old/libx.so two/libx.so"),
            (Flavour::Lld, "m.o -Lold -Ltwo -lx", "m.o old/libx.so"),
            (Flavour::Mold, "m.o -Lold -Ltwo -lx", "m.o old/libx.so two/libx.so"),
            // Nothing says for which machine: whatever may be taken counts.
            (Flavour::Bfd, "-Lold -Ltwo -lx", "old/libx.so two/libx.so two/libx.a"),
            (Flavour::Bfd, "-melf_i386 -Lold -Ltwo -lx", "old/libx.so"),
            (Flavour::Bfd, "m.o -ly", "m.o default/liby.so"),
            (Flavour::Bfd, "m.o -nostdlib -ly", "find -ly"),
            (Flavour::Lld, "m.o -ly", "find -ly"),
            (Flavour::Bfd, "m.o -Ltwo -l:libx.a -lz", "find -lz"),
            (Flavour::Bfd, "m.o -plugin-opt=-pass-through=-lz", "m.o"),
            (Flavour::Bfd, "none.o", "find none.o"),
            (Flavour::Bfd, "-b binary one/libx.a", "one/libx.a"),
            (Flavour::Bfd, "m.o -Map=one", "understand the linker's option -Map=one"),
        ] {
            assert_eq!(Case::new(flavour, files).found(line), expected, "{flavour:?} {line}");
        }
    }

    #[test]
    fn scripts_and_what_they_name() {
        let files: &[(&str, &[u8])] = &[
            ("m.o", OBJECT_64),
            ("n.o", OBJECT_64),
            ("l/libx.a", b"!<arch>\n"),
            ("l/own.o", OBJECT_64),
            ("l/in.ld", b"INPUT(own.o, -lx)"),
            ("l/both.ld", b"INPUT(own.o,n.o)"),
            ("later.ld", b"INPUT(-lx) SEARCH_DIR(l)"),
            ("adds.ld", b"SEARCH_DIR(l)"),
            ("default.ld", b"SECTIONS { .text : { m.o(.text) *(.text) } .x : { absent.o(.x) own.o } }"),
            ("hash.ld", b"# a comment\nINPUT(n.o)"),
            ("output.ld", b"OUTPUT(x)"),
            ("open.ld", b"INPUT(n.o"),
            ("self.ld", b"INCLUDE self.ld"),
            ("a.ld", b"INPUT(b.ld)"),
            ("b.ld", b"INPUT(a.ld)"),
            ("binary.ld", b"INCLUDE m.o"),
            ("l/lib32.so", b"OUTPUT_FORMAT(elf32-i386) INPUT(none.o)"),
            ("v.map", b"{ global: *; };"),
        ];
        for (flavour, line, expected) in [
            (Flavour::Bfd, "m.o l/in.ld -Ll", "m.o l/in.ld l/own.o l/libx.a"),
            (Flavour::Bfd, "l/both.ld", "l/both.ld l/own.o n.o"),
            (Flavour::Bfd, "later.ld m.o", "later.ld l/libx.a m.o"),
            (Flavour::Bfd, "-lx m.o adds.ld", "m.o adds.ld l/libx.a"),
            (Flavour::Bfd, "-T later.ld m.o", "later.ld l/libx.a m.o"),
            (Flavour::Bfd, "-Ll -T in.ld m.o", "l/in.ld l/own.o l/libx.a m.o"),
            (Flavour::Bfd, "-T default.ld n.o -Ll", "default.ld m.o l/own.o n.o"),
            (Flavour::Lld, "hash.ld", "hash.ld n.o"),
            (
                Flavour::Bfd,
                "hash.ld",
                "tell the linker's inputs: hash.ld is a script with a # that GNU ld does not know",
            ),
            (Flavour::Bfd, "output.ld", "understand the linker's option OUTPUT in output.ld"),
            (Flavour::Bfd, "open.ld", "tell the linker's inputs: open.ld is a script without an end"),
            (Flavour::Lld, "self.ld", "tell the linker's inputs: self.ld names itself"),
            (Flavour::Bfd, "a.ld", "tell the linker's inputs: a.ld names itself"),
            (Flavour::Bfd, "binary.ld", "tell the linker's inputs: m.o is no script"),
            (Flavour::Bfd, "m.o -Ll -l32", "find -l32"),
            (Flavour::Bfd, "m.o -shared --version-script=v.map", "v.map m.o"),
            (Flavour::Bfd, "m.o -shared --version-script=none.map", "find none.map"),
            (Flavour::Bfd, "m.o -R n.o -R l", "m.o n.o"),
        ] {
            assert_eq!(Case::new(flavour, files).found(line), expected, "{flavour:?} {line}");
        }
    }

    #[test]
    fn thin_archives_within_each_other() {
        let thin = |name: &str| {
            let table = format!("{name}/\n");
            let header =
                |name: &str, size: usize| format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 0);
            let pad = "\n".repeat(table.len() % 2);
            format!("!<thin>\n{}{table}{pad}{}", header("//", table.len()), header("/0", 1)).into_bytes()
        };
        let case = Case::new(Flavour::Bfd, &[("d/m.o", OBJECT_64)]);
        case.write("d/in.a", &thin("m.o"));
        case.write("out.a", &thin("d/in.a"));
        case.write("loop.a", &thin("loop.a"));
        case.write("gone.a", &thin("none.o"));
        assert_eq!(case.found("out.a"), "out.a d/in.a d/m.o");
        assert_eq!(case.found("loop.a"), "tell the linker's inputs: loop.a names itself");
        assert_eq!(case.found("gone.a"), "find none.o");
    }

    #[test]
    fn hostile_scripts_have_an_answer_soon() {
        let case = Case::new(Flavour::Lld, &[]);
        // Each names the next twice: without a memory, as many readings as a chessboard has grains.
        for level in 0..12 {
            let next = format!("INPUT(s{0}.ld s{0}.ld ./s{0}.ld)", level + 1);
            case.write(&format!("s{level}.ld"), next.as_bytes());
        }
        case.write("s12.ld", b"INPUT(s13.o)");
        case.write("s13.o", OBJECT_64);
        // Words without end, none of which is a file.
        let words: String = (0..100_000).map(|number| format!("w{number}.o ")).collect();
        case.write("words.ld", format!("SECTIONS {{ {words} }}").as_bytes());
        let far = (0..20_000).map(|number| format!("SEARCH_DIR(d{number}) INPUT(-lx{number}) "));
        case.write("far.ld", far.collect::<String>().as_bytes());
        for number in 0..40 {
            case.write(&format!("n{number}.ld"), format!("INPUT(n{}.ld)", number + 1).as_bytes());
        }
        let started = Instant::now();
        assert!(case.found("s0.ld").contains("s13.o"));
        assert_eq!(case.found("words.ld -La -Lb"), "words.ld");
        assert!(case.found("far.ld").starts_with("tell the linker's inputs: too many"));
        assert!(case.found("n0.ld").ends_with("is nested too deeply"));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

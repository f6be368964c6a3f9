//! Which places the words and variables of a command name: the workspace and the image are on the twin as well, all
//! others are only here.
//! Knows nothing of programs.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Invocation;
use crate::dispatch::leaving::left_out::LeftOut;
use crate::dispatch::leaving::script;
use crate::paths;
use crate::process::env_value;
use crate::reason::Reason;

/// Devices that are the same on all machines.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/fd",
];

/// Parts of the image that say something about one machine.
const OF_ONE_MACHINE: &[&str] = &["/dev", "/proc", "/sys"];

/// Lists of directories and files that programs are loaded from, whatever the program.
const SEARCHED: &[&str] = &[
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONPATH",
    "PYTHONHOME",
    "PERL5LIB",
    "RUBYLIB",
    "NODE_PATH",
    "CLASSPATH",
    "QT_PLUGIN_PATH",
];

/// What a command knows, and where the workspace is.
pub(super) struct Whereabouts<'a> {
    pub(super) invocation: &'a Invocation,
    pub(super) roots: &'a [PathBuf],
    pub(super) left_out: RefCell<LeftOut<'a>>,
}

impl Whereabouts<'_> {
    /// # Errors
    /// When the twin has no such working directory, or no such program, although they are in the workspace.
    pub(super) fn check_places(&self) -> Result<(), Reason> {
        let program = self.invocation.executable();
        let program = program.map(|program| paths::lexically_normal(&program));
        let mut left_out = self.left_out.borrow_mut();
        left_out.check(&self.invocation.cwd)?;
        program.map_or(Ok(()), |program| left_out.check(&program))
    }

    /// # Errors
    /// The first place outside of workspace and image that a word names, be it in a response file or by a variable.
    pub(super) fn check_words(&self, words: &[Vec<u8>]) -> Result<(), Reason> {
        // The program itself may be found in PATH, and is checked as such.
        for word in words.iter().skip(1) {
            self.check(word)?;
            // What AUTOMOC and its like are told stands in a file of this name.
            let told = word.ends_with(b"Info.json").then_some(word.as_slice());
            let Some(file) = word.strip_prefix(b"@").or(told) else { continue };
            let file = self.invocation.cwd.join(OsStr::from_bytes(file));
            match script::text(&file) {
                Some(text) => self.check(&text)?,
                // `@` may begin any word.
                None if !file.is_file() => {}
                None => return Err(Reason::ResponseFile(file.display().to_string())),
            }
        }
        Ok(())
    }

    /// # Errors
    /// The first variable by which code from elsewhere would be loaded.
    pub(super) fn check_variables(&self) -> Result<(), Reason> {
        SEARCHED.iter().try_for_each(|name| self.check_variable(name))
    }

    fn check_variable(&self, name: &str) -> Result<(), Reason> {
        let Some(value) = self.invocation.variable(name) else { return Ok(()) };
        let elements = value.as_bytes().split(|byte| b": ".contains(byte));
        match elements.filter_map(|element| self.elsewhere(element)).find(|path| path.exists()) {
            Some(path) => Err(Reason::OutsideWorkspace(format!("{name}={}", path.display()))),
            None => Ok(()),
        }
    }

    /// One word, which may be a whole script: what looks like a path in it is taken for one.
    fn check(&self, word: &[u8]) -> Result<(), Reason> {
        let is_text = word.iter().any(u8::is_ascii_whitespace);
        for piece in word.split(|byte| b" \t\n=:,;'\"()<>|&`[]{}".contains(byte)) {
            // `-I/usr/include`, `-o../x`
            let flagless = match piece {
                [b'-', letter, rest @ ..] if letter.is_ascii_alphabetic() => rest,
                _ => piece,
            };
            if flagless.starts_with(b"~/") || flagless.starts_with(b"$HOME") {
                return Err(Reason::OutsideWorkspace("~".to_owned()));
            }
            if let Some(path) = self.elsewhere(flagless) {
                return Err(Reason::OutsideWorkspace(path.display().to_string()));
            }
            // Of a text, most pieces are no paths at all.
            let path = paths::lexically_normal(&self.invocation.cwd.join(OsStr::from_bytes(flagless)));
            if !flagless.is_empty() && (!is_text || path.symlink_metadata().is_ok()) {
                self.left_out.borrow_mut().check(&path)?;
            }
        }
        for name in word.split(|&byte| byte == b'$').skip(1) {
            let name = name.strip_prefix(b"{").unwrap_or(name);
            let end = name.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            let name = String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]);
            if name != "PATH" && env_value(&self.invocation.env, &name).is_some() {
                self.check_variable(&name)?;
            }
        }
        Ok(())
    }

    /// The path that `text` is, if it lies outside of workspace and image, or leads there by a link.
    fn elsewhere(&self, text: &[u8]) -> Option<PathBuf> {
        let is_upwards = text.starts_with(b"..") && text.get(2).is_none_or(|&byte| byte == b'/');
        let path = paths::lexically_normal(&self.invocation.cwd.join(OsStr::from_bytes(text)));
        if paths::is_below_any(&path, self.roots) {
            // Most words are no files, which is known sooner than where they would lie.
            path.symlink_metadata().ok().filter(|_| !text.is_empty())?;
            let physical = path.canonicalize().ok()?;
            return (!self.is_on_the_twin(&physical)).then_some(path);
        }
        if !text.starts_with(b"/") && !is_upwards || self.is_on_the_twin(&path) {
            return None;
        }
        // `/pattern/` looks like a path, too. One whose first directory is not here leads nowhere.
        let first: PathBuf = path.components().take(2).collect();
        (first != Path::new("/") && first.symlink_metadata().is_ok()).then_some(path)
    }

    fn is_on_the_twin(&self, path: &Path) -> bool {
        let is_shared = paths::is_system(path) && !paths::is_below_any(path, OF_ONE_MACHINE);
        is_shared || paths::is_below_any(path, self.roots) || paths::is_below_any(path, DEVICES)
    }
}

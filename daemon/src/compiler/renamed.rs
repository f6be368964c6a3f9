//! The same link or archive of files that have other names: for an action in which the workspace lies elsewhere.
//! Knows nothing of inputs and outputs, nor of what the action is.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Archive;
use crate::compiler::CommandLine;
use crate::compiler::Link;
use crate::compiler::Linker;
use crate::compiler::command_line::Argument;
use crate::compiler::driver_name::ArchiverKind;
use crate::compiler::flag_table::Meaning;
use crate::compiler::relocated::renamed_map;
use crate::linker::LinkLine;
use crate::linker::Renaming;

impl Link {
    /// The arguments of the command by which the linker is told the same as by `line`, with other names. What it makes of the
    /// files is the same as long as [`tie`](crate::linker::tie) finds nothing in them.
    ///
    /// # Errors
    /// Why there are none, as a clause.
    pub fn renamed_arguments(
        &self,
        linker: &Linker,
        line: &LinkLine,
        renaming: &Renaming,
    ) -> Result<Vec<OsString>, String> {
        let arguments = self.command_line.arguments.iter().map(|argument| renamed(argument, renaming.rename));
        let command_line = CommandLine { arguments: arguments.collect() };
        let arguments = command_line.words();
        check_words(&arguments, renaming)?;
        let expected = line.renamed(renaming)?;
        let output = (renaming.rename)(&self.output);
        let link = Link { driver: self.driver.clone(), output, arguments, command_line };
        // Names are changed where they seem to stand in the command's words: whether they do, the linker's own words show.
        match linker.line(&link, &link.shape()) {
            Ok(line) if line == expected => Ok(link.arguments),
            _ => Err("the linker would be told something else".to_owned()),
        }
    }
}

impl Archive {
    /// The arguments with other names for the files: an archive has only the last parts of its members' names in it.
    ///
    /// # Errors
    /// Why there are none, as a clause.
    pub fn renamed_arguments(&self, renaming: &Renaming) -> Result<Vec<OsString>, String> {
        let is_file = |word: &OsString| {
            let path = Path::new(word);
            self.output == path || self.inputs.iter().any(|input| input == path)
        };
        // A thin one has the ways to its members, and `objcopy` makes symbols of an input's name.
        let can = matches!(self.kind, ArchiverKind::Ar | ArchiverKind::GccAr) && !self.is_thin;
        let rename = |word: &OsString| match can && is_file(word) {
            true => (renaming.rename)(Path::new(word)).into(),
            false => word.clone(),
        };
        let arguments: Vec<OsString> = self.arguments.iter().map(rename).collect();
        check_words(&arguments, renaming)?;
        Ok(arguments)
    }
}

fn check_words(words: &[OsString], renaming: &Renaming) -> Result<(), String> {
    match words.iter().find(|word| (renaming.is_named_in)(word)) {
        Some(word) => Err(format!("{} names {}", word.display(), renaming.what)),
        None => Ok(()),
    }
}

/// The argument with other names where a driver hands them on to the linker, and where they mean nothing for a link.
fn renamed(argument: &Argument, rename: &dyn Fn(&Path) -> PathBuf) -> Argument {
    let value = match argument.meaning {
        Meaning::Input | Meaning::Output | Meaning::Directory(_) | Meaning::Include => {
            rename(Path::new(argument.value())).into()
        }
        Meaning::PrefixMap => renamed_map(argument.value(), rename),
        Meaning::LinkOnly => match argument.name.as_bytes() {
            b"-L" | b"-T" => rename(Path::new(argument.value())).into(),
            b"-Xlinker" => renamed_word(argument.value(), rename),
            b"-Wl," => {
                let words: Vec<_> =
                    argument.list().into_iter().map(|word| renamed_word(word, rename)).collect();
                words.join(OsStr::new(","))
            }
            _ => return argument.clone(),
        },
        _ => return argument.clone(),
    };
    argument.with_value(value)
}

/// A linker's word: a name, `--option=NAME`, or `-XNAME`.
fn renamed_word(word: &OsStr, rename: &dyn Fn(&Path) -> PathBuf) -> OsString {
    let bytes = word.as_bytes();
    let at = match bytes {
        [b'-', _, b'/', ..] => 2,
        [b'-', ..] => memchr::memchr(b'=', bytes).map_or(bytes.len(), |at| at + 1),
        _ => 0,
    };
    let (option, name) = bytes.split_at(at);
    if name.is_empty() {
        return word.to_owned();
    }
    let mut renamed = OsStr::from_bytes(option).to_owned();
    renamed.push(rename(Path::new(OsStr::from_bytes(name))));
    renamed
}

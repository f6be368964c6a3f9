//! A driver's command line, typed: each argument with its value and its meaning, in order.
//! Knows nothing of what the arguments mean together, and looks at no file but response files.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::flag_table;
use crate::compiler::flag_table::Arity;
use crate::compiler::flag_table::Meaning;
use crate::compiler::response_file;
use crate::compiler::search_path;
use crate::reason::Reason;

/// All arguments after the program's name, response files expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub(super) arguments: Vec<Argument>,
}

/// A flag with its value, or an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    /// The flag without its value; empty for an input.
    pub(super) name: OsString,
    /// What the flag applies to, or the input.
    pub(super) value: Option<OsString>,
    /// Whether the value is a word of its own.
    separate: bool,
    /// What the flag asks for.
    pub(super) meaning: Meaning,
}

impl CommandLine {
    /// Reads `words`, the arguments after the program's name, as typed in directory `cwd`.
    ///
    /// # Errors
    /// [`Reason::ResponseFile`]; [`Reason::UnsupportedFlag`] for a flag whose value is missing.
    pub fn parse(words: &[OsString], cwd: &Path) -> Result<CommandLine, Reason> {
        let words = response_file::expand(words, cwd).map_err(Reason::ResponseFile)?;
        let mut arguments = Vec::with_capacity(words.len());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            arguments.push(Argument::parse(word, &mut words)?);
        }
        Ok(CommandLine { arguments })
    }

    /// The words that the driver is given, in order.
    pub fn words(&self) -> Vec<OsString> {
        self.arguments.iter().flat_map(Argument::words).collect()
    }

    /// Whether any argument has this meaning.
    pub(super) fn has(&self, meaning: Meaning) -> bool {
        self.with(meaning).next().is_some()
    }

    /// The arguments with this meaning, in order.
    pub(super) fn with(&self, meaning: Meaning) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(move |argument| argument.meaning == meaning)
    }

    /// What `-Xclang` hands on, in order: a value comes with an `-Xclang` of its own.
    pub(super) fn clang_options(&self) -> Vec<ClangOption<'_>> {
        let mut words = self.with(Meaning::Xclang).map(Argument::value);
        let mut options = Vec::new();
        while let Some(word) = words.next() {
            options.push(match word.as_bytes() {
                b"-emit-pch" => ClangOption::EmitPrecompiled,
                b"-include" => words.next().map_or(ClangOption::Unknown(word), ClangOption::Include),
                b"-include-pch" => {
                    words.next().map_or(ClangOption::Unknown(word), ClangOption::IncludePrecompiled)
                }
                _ if flag_table::XCLANG_OPTIONS.iter().any(|&option| word == option) => ClangOption::Harmless,
                _ => ClangOption::Unknown(word),
            });
        }
        options
    }
}

/// What `-Xclang` hands to Clang's own compiler: a flag with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClangOption<'a> {
    /// Neither reads nor writes files.
    Harmless,
    /// `-emit-pch`.
    EmitPrecompiled,
    /// `-include`.
    Include(&'a OsStr),
    /// `-include-pch`.
    IncludePrecompiled(&'a OsStr),
    /// Not understood.
    Unknown(&'a OsStr),
}

/// A `-Wa,…` argument, taken apart.
#[derive(Debug, Default)]
pub(super) struct AssemblerList<'a> {
    /// Where the assembler looks for files, after the working directory.
    pub(super) directories: Vec<&'a OsStr>,
    /// What `-a…=file` names: the assembler writes a listing there.
    pub(super) listings: Vec<&'a OsStr>,
    /// Whether a listing shows the lines of the sources that debug information names.
    pub(super) shows_sources: bool,
    /// Everything else.
    pub(super) options: Vec<&'a OsStr>,
}

impl Argument {
    fn parse(word: OsString, rest: &mut impl Iterator<Item = OsString>) -> Result<Argument, Reason> {
        let bytes = word.as_bytes();
        if !bytes.starts_with(b"-") || bytes == b"-" {
            let meaning = Meaning::Input;
            return Ok(Argument { name: OsString::new(), value: Some(word), separate: false, meaning });
        }
        let Some(row) = flag_table::find(bytes) else {
            return Ok(Argument { name: word, value: None, separate: false, meaning: Meaning::Unsupported });
        };
        let whole = bytes.len() == row.name.len();
        let separate = match row.arity {
            Arity::Exact => {
                return Ok(Argument { name: word, value: None, separate: false, meaning: row.meaning });
            }
            Arity::Joined => false,
            Arity::Separate => true,
            Arity::Either => whole,
        };
        let value = match separate {
            true => {
                rest.next().ok_or_else(|| Reason::UnsupportedFlag(format!("{} (without value)", row.name)))?
            }
            false => OsStr::from_bytes(&bytes[row.name.len()..]).to_owned(),
        };
        Ok(Argument { name: row.name.into(), value: Some(value), separate, meaning: row.meaning })
    }

    /// The argument as typed: one word, or flag and value.
    pub(super) fn words(&self) -> Vec<OsString> {
        let Some(value) = &self.value else { return vec![self.name.clone()] };
        if self.separate {
            return vec![self.name.clone(), value.clone()];
        }
        let mut word = self.name.clone();
        word.push(value);
        vec![word]
    }

    /// The argument as typed, for messages.
    pub(super) fn text(&self) -> String {
        let words: Vec<_> = self.words().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    /// The value; empty where the flag takes none.
    pub(super) fn value(&self) -> &OsStr {
        self.value.as_deref().unwrap_or_default()
    }

    /// The path that the argument names, if what it names is one: an input, an output or a directory.
    pub(super) fn path(&self) -> Option<&Path> {
        match self.meaning {
            Meaning::Input
            | Meaning::Output
            | Meaning::Directory(_)
            | Meaning::DirectoryPrefix
            | Meaning::Include
            | Meaning::Macros
            | Meaning::DepfileName
            | Meaning::WritesFile
            | Meaning::ReadsFile
            | Meaning::Plugin
            | Meaning::IncludePrecompiled
            | Meaning::ProbePath
            | Meaning::ProgramDirectory
            | Meaning::Specs
            | Meaning::Configuration
            | Meaning::Frameworks
            | Meaning::Overlay
            | Meaning::ModuleMap
            | Meaning::CompilationDatabase
            | Meaning::Sysroot => Some(Path::new(self.value())),
            _ => None,
        }
    }

    /// The same argument with another value.
    pub(super) fn with_value(&self, value: OsString) -> Argument {
        Argument { value: Some(value), ..self.clone() }
    }

    /// The parts of a `-Wp,` or `-Wa,` list.
    pub(super) fn list(&self) -> Vec<&OsStr> {
        self.value().as_bytes().split(|&byte| byte == b',').map(OsStr::from_bytes).collect()
    }

    /// For `-Wa,…`: the directories of its `-I`, and its other options; None: a directory is missing.
    pub(super) fn assembler_list(&self) -> Option<AssemblerList<'_>> {
        let mut list = AssemblerList::default();
        let mut parts = self.list().into_iter();
        while let Some(part) = parts.next() {
            match part.as_bytes().strip_prefix(b"-I") {
                Some(b"") => list.directories.push(parts.next().filter(|part| !part.is_empty())?),
                Some(directory) => list.directories.push(OsStr::from_bytes(directory)),
                None => match listing(part) {
                    Some(file) => {
                        let letters = part.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default();
                        // `-a` alone stands for `-ahls`.
                        list.shows_sources |= letters.len() == 2 || letters[2..].contains(&b'h');
                        list.listings.extend(file);
                    }
                    None => list.options.push(part),
                },
            }
        }
        Some(list)
    }

    /// For `-Wp,…,-MD,file,…`: the depfile, and what is left of the argument without it.
    pub(super) fn preprocessor_list(&self) -> Result<PreprocessorList, Reason> {
        let unsupported = || Reason::UnsupportedFlag(self.text());
        let mut list = PreprocessorList::default();
        let mut parts = self.list().into_iter();
        while let Some(part) = parts.next() {
            let bytes = part.as_bytes();
            if bytes == b"-MD" || bytes == b"-MMD" {
                let file = parts.next().filter(|file| !file.is_empty()).ok_or_else(unsupported)?;
                if list.depfile.replace(PathBuf::from(file)).is_some() {
                    return Err(unsupported());
                }
                list.depfile_flag = part.to_owned();
            } else if (bytes.starts_with(b"-D") || bytes.starts_with(b"-U")) && bytes.len() > 2 {
                list.macros.push(part.to_owned());
            } else {
                return Err(unsupported());
            }
        }
        Ok(list)
    }
}

/// For `-a[cdhlmns…][=file]`: the file, if one is named. Letter `g` adds the time, so that it is not among these (GNU as
/// manual, "Enable Listings").
fn listing(option: &OsStr) -> Option<Option<&OsStr>> {
    let (letters, file) = search_path::split_at_byte(option, 2);
    let rest = file.as_bytes();
    let end = rest.iter().position(|&byte| byte == b'=').unwrap_or(rest.len());
    let is_listing = letters == "-a" && rest[..end].iter().all(|letter| b"cdhlmns".contains(letter));
    is_listing.then(|| rest.get(end + 1..).filter(|file| !file.is_empty()).map(OsStr::from_bytes))
}

/// What `-Wp,` hands to the preprocessor, as far as it is understood.
#[derive(Debug, Default)]
pub(super) struct PreprocessorList {
    /// `-MD,file` or `-MMD,file`.
    pub(super) depfile: Option<PathBuf>,
    /// Which of the two.
    pub(super) depfile_flag: OsString,
    /// `-Dname=value` and `-Uname`, joined.
    pub(super) macros: Vec<OsString>,
}

impl PreprocessorList {
    /// The `-Wp,` argument without the depfile, unless nothing is left of it.
    pub(super) fn without_depfile(&self) -> Option<OsString> {
        if self.macros.is_empty() {
            return None;
        }
        let mut word = b"-Wp".to_vec();
        for option in &self.macros {
            word.push(b',');
            word.extend_from_slice(option.as_bytes());
        }
        Some(OsString::from_vec(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, Reason> {
        let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        CommandLine::parse(&words, Path::new("/"))
    }

    #[test]
    fn words_come_back_as_they_were() {
        for line in [
            "-c -o a.o a.c",
            "-oa.o -I include -Iinclude -isystem/x -isystem y -DA=1 -D B -UC -U D -x c -xc++",
            "-Wall -Wp,-MD,a.d -O2 -g -fPIC --param max=1 --param=x=2 -MF a.d -MFb.d -weird --weirder=x - a.c",
            "--sysroot /x --sysroot=/y -include a.h -imacros b.h -L. -lm -Xlinker -x -T script",
        ] {
            let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(parse(line).unwrap().words(), words, "{line}");
        }
    }

    #[test]
    fn values_are_found_joined_and_separate() {
        let line = parse("-Ia -I b -DX=-c -o -c x.c").unwrap();
        let values: Vec<_> =
            line.with(Meaning::Directory(flag_table::Chain::Bracket)).map(Argument::value).collect();
        assert_eq!(values, ["a", "b"]);
        // `-o` takes what follows, whatever it looks like.
        assert!(!line.has(Meaning::Compile));
        assert_eq!(line.with(Meaning::Output).next().unwrap().value(), "-c");
    }

    #[test]
    fn a_missing_value_is_no_flag() {
        for line in ["-c a.c -o", "-MF", "a.c -include", "--sysroot"] {
            assert!(matches!(parse(line), Err(Reason::UnsupportedFlag(_))), "{line}");
        }
    }
}

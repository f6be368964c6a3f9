//! A linker's arguments, typed and in order.
//! Knows nothing of what the files hold or where libraries are found: no file is looked at.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::linker::LinkError;
use crate::linker::options::Arity;
use crate::linker::options::FLAG_LETTERS;
use crate::linker::options::HARMLESS_PLUGIN_OPTIONS;
use crate::linker::options::LETTERS;
use crate::linker::options::Meaning;
use crate::linker::options::UNSUPPORTED;
use crate::linker::options::is_abbreviation;
use crate::linker::options::long_option;

/// Deeper, a line is no linker's.
const MOST_STATES: usize = 256;

/// A linker's arguments after its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkLine {
    pub(super) items: Vec<Item>,
    pub(super) run_path: Vec<OsString>,
    pub(super) run_path_link: Vec<OsString>,
    pub(super) sysroot: Option<PathBuf>,
    pub(super) default_directories: DefaultDirectories,
    pub(super) unresolved: Option<Unresolved>,
    pub(super) copies_needed: bool,
    pub(super) output: Option<PathBuf>,
    pub(super) further_outputs: Vec<(PathBuf, FurtherOutput)>,
    pub(super) plugins: Vec<PathBuf>,
    pub(super) emulation: Option<OsString>,
    /// `-soname`.
    pub(super) soname: Option<OsString>,
    /// Values that name no files to the linker, but may be names for whoever reads what it makes: `-dynamic-linker`.
    pub(super) values: Vec<OsString>,
    /// Whether an option makes it matter what files are called.
    pub(super) minds_names: bool,
    kind: OutputKind,
    is_static: bool,
}

/// What a linker writes besides its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FurtherOutput {
    /// `-Map`: where everything came to lie.
    Map,
    /// `--out-implib`: a library of the output's symbols.
    ImportLibrary,
    /// `--dependency-file`: the files that were read, as a Makefile's rule.
    DependencyFile,
}

/// One argument that adds files, or places where files are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// An input by its path.
    File { path: PathBuf, is_raw: bool },
    /// An input by its library's name: `-l`.
    Library { name: OsString, forms: Forms },
    /// A library that a plugin may ask for at the end.
    PluginLibrary { name: OsString, forms: Forms },
    /// `-L`.
    Directory(OsString),
    /// `-T`.
    Script(PathBuf),
    /// A text that an option names.
    Text(PathBuf),
    /// `--just-symbols`.
    Symbols(PathBuf),
    /// `-R`.
    SymbolsOrRunPath(OsString),
}

/// In which forms a library is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Forms {
    /// Shared first, in each directory.
    #[default]
    SharedAndArchive,
    /// Archives alone.
    Archive,
    /// Archives for GNU ld, shared libraries as well for others: `-n`, `-N` and `-r`.
    ArchiveOfBfd,
    /// Shared first, but perhaps archives alone for mold: not all its versions heed `--pop-state` in this.
    SharedUnlessMold,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum DefaultDirectories {
    #[default]
    Searched,
    NotSearched,
}

/// What becomes of unresolved symbols in shared libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unresolved {
    Ignored,
    Reported,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum OutputKind {
    #[default]
    Executable,
    Shared,
    Relocatable,
}

impl LinkLine {
    /// Reads the words of a linker's command line after the first.
    ///
    /// # Errors
    /// [`LinkError::Unsupported`] with the option that is not known, or whose effect on files is not.
    pub fn parse(words: &[OsString]) -> Result<LinkLine, LinkError> {
        let mut reader = Reader { words: words.iter(), ..Reader::default() };
        while let Some(word) = reader.words.next() {
            reader.word(word)?;
        }
        let at_the_end = reader.forms;
        let mut line = reader.line;
        for item in &mut line.items {
            // What a plugin adds comes after everything else.
            if let Item::PluginLibrary { forms, .. } = item {
                *forms = at_the_end;
            }
        }
        if line.kind == OutputKind::Relocatable {
            // `-r` counts for the whole line, wherever it stands.
            for item in &mut line.items {
                if let Item::Library { forms, .. } = item
                    && *forms != Forms::Archive
                {
                    *forms = Forms::ArchiveOfBfd;
                }
            }
        }
        Ok(line)
    }

    /// What is made: `-o`, or else `a.out`.
    pub fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new("a.out"))
    }

    /// What else is written. A map on standard output is not among them.
    pub fn further_outputs(&self) -> Vec<(PathBuf, FurtherOutput)> {
        self.further_outputs.clone()
    }

    /// The files in which the linker is to tell what it has read.
    pub fn depfiles(&self) -> impl Iterator<Item = &Path> {
        let outputs = self.further_outputs.iter();
        outputs.filter(|(_, kind)| *kind == FurtherOutput::DependencyFile).map(|(path, _)| path.as_path())
    }

    /// The plugins, which are programs that the linker loads, not inputs.
    pub fn plugins(&self) -> impl Iterator<Item = &Path> {
        self.plugins.iter().map(PathBuf::as_path)
    }

    /// Whether an object file is made that can be linked again: `-r`.
    pub fn is_relocatable(&self) -> bool {
        self.kind == OutputKind::Relocatable
    }

    /// Whether a shared library is made: `-shared`.
    pub fn is_shared(&self) -> bool {
        self.kind == OutputKind::Shared
    }

    /// Whether `-static` was given.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// `-rpath`, and `-R` with whatever it names.
    pub(super) fn run_paths(&self) -> impl Iterator<Item = &OsString> {
        let of_items = self.items.iter().filter_map(|item| match item {
            Item::SymbolsOrRunPath(path) => Some(path),
            _ => None,
        });
        self.run_path.iter().chain(of_items)
    }

    /// The emulation, which says for which machine: `-m`.
    pub fn emulation(&self) -> Option<&OsStr> {
        self.emulation.as_deref()
    }
}

/// The line as far as it is read, and what holds at this point of it.
#[derive(Debug, Default)]
struct Reader<'a> {
    words: std::slice::Iter<'a, OsString>,
    line: LinkLine,
    forms: Forms,
    states: Vec<Forms>,
    is_raw: bool,
}

fn unsupported(word: &OsStr) -> LinkError {
    LinkError::Unsupported(word.to_string_lossy().into_owned())
}

impl Reader<'_> {
    fn word(&mut self, word: &OsStr) -> Result<(), LinkError> {
        match word.as_bytes() {
            // Standard input, the end of options, or a response file, which is expanded before.
            b"" | b"-" | b"--" | [b'@', ..] => Err(unsupported(word)),
            [b'-', b'-', long @ ..] => self.long(word, long, long_option),
            [b'-', b'l', name @ ..] if !name.is_empty() => self.letter_l(word, name),
            [b'-', short @ ..] => self.short(word, short),
            path => {
                let path = PathBuf::from(OsStr::from_bytes(path));
                self.line.items.push(Item::File { path, is_raw: self.is_raw });
                Ok(())
            }
        }
    }

    fn long(
        &mut self,
        word: &OsStr,
        text: &[u8],
        find: impl Fn(&[u8]) -> Option<(Arity, Meaning)>,
    ) -> Result<(), LinkError> {
        let (name, value) = split_at_equals(text);
        let value = value.map(OsStr::from_bytes);
        match (find(name), value) {
            (Some((Arity::Flag, meaning)), None) => self.apply(word, meaning, OsStr::new("")),
            (Some((Arity::Optional, meaning)), value) => self.apply(word, meaning, value.unwrap_or_default()),
            (Some((Arity::Value, meaning)), Some(value)) => self.apply(word, meaning, value),
            (Some((Arity::Value, meaning)), None) => self.with_next_word(word, meaning),
            (Some((Arity::Flag, _)) | None, _) => Err(unsupported(word)),
        }
    }

    /// GNU ld takes `-lthing` for `--library=thing` before anything else; others would see an option in some names.
    fn letter_l(&mut self, word: &OsStr, name: &[u8]) -> Result<(), LinkError> {
        let (whole, _) = split_at_equals(&word.as_bytes()[1..]);
        if long_option(whole).is_some() || is_unsupported(whole) {
            return Err(unsupported(word));
        }
        self.apply(word, Meaning::Library, OsStr::from_bytes(name))
    }

    fn short(&mut self, word: &OsStr, text: &[u8]) -> Result<(), LinkError> {
        let (name, _) = split_at_equals(text);
        // What begins with an `o` needs two dashes: it is `-o` with a name else.
        let is_long = name.len() > 1 && name[0] != b'o' && long_option(name).is_some();
        if is_long {
            return self.long(word, text, long_option);
        }
        let find = |letters: &[(u8, Meaning)]| {
            letters.iter().find(|(letter, _)| *letter == text[0]).map(|(_, meaning)| *meaning)
        };
        match (find(LETTERS), find(FLAG_LETTERS)) {
            (Some(meaning), _) if text.len() == 1 => self.with_next_word(word, meaning),
            // Either an option's name cut short or a letter with its value: it depends on the linker.
            (Some(_), _) if is_abbreviation(name) || long_option(name).is_some() || is_unsupported(name) => {
                Err(unsupported(word))
            }
            (Some(meaning), _) => self.apply(word, meaning, OsStr::from_bytes(&text[1..])),
            (None, Some(Meaning::SmallDataOrShared)) => self.small_data_or_shared(word, &text[1..]),
            (None, Some(meaning)) if text.len() == 1 => self.apply(word, meaning, OsStr::new("")),
            (None, _) => Err(unsupported(word)),
        }
    }

    fn with_next_word(&mut self, word: &OsStr, meaning: Meaning) -> Result<(), LinkError> {
        let value = self.words.next().ok_or_else(|| unsupported(word))?;
        self.apply(word, meaning, value)
    }

    /// GNU ld makes `--shared` of `-G` unless a number follows.
    fn small_data_or_shared(&mut self, word: &OsStr, joined: &[u8]) -> Result<(), LinkError> {
        let is_number = |word: &[u8]| word.first().is_some_and(u8::is_ascii_digit);
        if joined.is_empty() {
            let next = self.words.as_slice().first();
            if next.is_some_and(|next| is_number(next.as_bytes())) {
                self.words.next();
                return Ok(());
            }
            return self.apply(word, Meaning::Shared, OsStr::new(""));
        }
        if is_number(joined) { Ok(()) } else { Err(unsupported(word)) }
    }

    fn apply(&mut self, word: &OsStr, meaning: Meaning, value: &OsStr) -> Result<(), LinkError> {
        let line = &mut self.line;
        match meaning {
            Meaning::Harmless => line.values.extend(Some(value.to_owned()).filter(|value| has_slash(value))),
            Meaning::MindsNames => line.minds_names = true,
            Meaning::Soname => line.soname = Some(value.to_owned()),
            Meaning::Output => line.output = Some(value.into()),
            Meaning::Map => self.map(word, value)?,
            Meaning::ImportLibrary => line.further_outputs.push((value.into(), FurtherOutput::ImportLibrary)),
            Meaning::DependencyFile => {
                line.further_outputs.push((value.into(), FurtherOutput::DependencyFile));
            }
            Meaning::Library => line.items.push(Item::Library { name: value.into(), forms: self.forms }),
            Meaning::LibraryDirectory => line.items.push(Item::Directory(value.into())),
            Meaning::Script => line.items.push(Item::Script(value.into())),
            Meaning::Text => line.items.push(Item::Text(value.into())),
            Meaning::Symbols => line.items.push(Item::Symbols(value.into())),
            Meaning::SymbolsOrRunPath => line.items.push(Item::SymbolsOrRunPath(value.into())),
            Meaning::RunPath => line.run_path.push(value.into()),
            Meaning::RunPathLink => line.run_path_link.push(value.into()),
            Meaning::Sysroot => line.sysroot = Some(value.into()),
            Meaning::NoDefaultDirectories => line.default_directories = DefaultDirectories::NotSearched,
            Meaning::Emulation => line.emulation = Some(value.into()),
            Meaning::Format => self.is_raw = is_raw_format(value),
            Meaning::Plugin => line.plugins.push(value.into()),
            Meaning::PluginOption => self.plugin_option(word, value)?,
            Meaning::Relocatable => line.kind = OutputKind::Relocatable,
            Meaning::Shared if line.kind == OutputKind::Relocatable => {}
            Meaning::Shared => line.kind = OutputKind::Shared,
            Meaning::Static => {
                line.is_static = true;
                self.forms = Forms::Archive;
            }
            Meaning::ArchivesOnly => self.forms = Forms::Archive,
            Meaning::ArchivesAndShared => self.forms = Forms::SharedAndArchive,
            Meaning::NoPaging if self.forms == Forms::Archive => {}
            Meaning::NoPaging => self.forms = Forms::ArchiveOfBfd,
            Meaning::PushState if self.states.len() == MOST_STATES => return Err(unsupported(word)),
            Meaning::PushState => self.states.push(self.forms),
            Meaning::PopState => {
                let popped = self.states.pop().ok_or_else(|| unsupported(word))?;
                let is_other = popped == Forms::SharedAndArchive && self.forms != Forms::SharedAndArchive;
                self.forms = if is_other { Forms::SharedUnlessMold } else { popped };
            }
            Meaning::IgnoreUnresolved => line.unresolved = Some(Unresolved::Ignored),
            Meaning::ReportUnresolved => line.unresolved = Some(Unresolved::Reported),
            Meaning::Unresolved => {
                let ignored =
                    ["ignore-all", "ignore-in-shared-libs"].iter().any(|way| value == OsStr::new(way));
                line.unresolved = Some(if ignored { Unresolved::Ignored } else { Unresolved::Reported });
            }
            Meaning::CopyNeeded => line.copies_needed = true,
            // Read where its letter stands.
            Meaning::SmallDataOrShared => return Err(unsupported(word)),
        }
        Ok(())
    }

    /// GNU ld manual, `-Map`: `-` is standard output, `%` stands for the output, in a directory it is named after it.
    fn map(&mut self, word: &OsStr, value: &OsStr) -> Result<(), LinkError> {
        let bytes = value.as_bytes();
        if bytes.is_empty() || bytes.contains(&b'%') || bytes.ends_with(b"/") {
            return Err(unsupported(word));
        }
        if bytes == b"-" {
            self.line.minds_names = true;
        } else {
            // The last one counts.
            self.line.further_outputs.retain(|(_, output)| *output != FurtherOutput::Map);
            self.line.further_outputs.push((value.into(), FurtherOutput::Map));
        }
        Ok(())
    }

    fn plugin_option(&mut self, word: &OsStr, value: &OsStr) -> Result<(), LinkError> {
        let bytes = value.as_bytes();
        let harmless = |known: &&str| match known.as_bytes() {
            prefix @ [.., b'='] => bytes.starts_with(prefix),
            whole => bytes == whole,
        };
        let after = |prefix: &str| bytes.strip_prefix(prefix.as_bytes()).map(OsStr::from_bytes);
        if HARMLESS_PLUGIN_OPTIONS.iter().any(harmless) {
            return Ok(());
        }
        if let Some(library) = after("-pass-through=-l") {
            self.line.items.push(Item::PluginLibrary { name: library.into(), forms: self.forms });
        } else if let Some(profile) = after("sample-profile=").or_else(|| after("cs-profile-path=")) {
            self.line.items.push(Item::Text(profile.into()));
        } else if Path::new(value).file_name() != Some(OsStr::new("lto-wrapper")) {
            // GCC's first option is the program that its plugin runs; whatever else may name files.
            return Err(unsupported(if value.is_empty() { word } else { value }));
        }
        Ok(())
    }
}

/// Whether a value can have a path in it.
fn has_slash(value: &OsStr) -> bool {
    value.as_bytes().contains(&b'/')
}

/// The formats that are taken as bytes, whatever is in them (GNU ld manual, `-b`).
fn is_raw_format(name: &OsStr) -> bool {
    ["binary", "ihex", "srec", "symbolsrec", "tekhex", "verilog"].iter().any(|raw| name == OsStr::new(raw))
}

fn is_unsupported(name: &[u8]) -> bool {
    UNSUPPORTED.iter().any(|known| known.as_bytes() == name)
}

fn split_at_equals(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', text) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<LinkLine, LinkError> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        LinkLine::parse(&words)
    }

    fn parsed(line: &str) -> LinkLine {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The items in a few letters.
    fn items(line: &str) -> String {
        let words: Vec<String> = parsed(line)
            .items
            .iter()
            .map(|item| match item {
                Item::File { path, is_raw: false } => path.display().to_string(),
                Item::File { path, is_raw: true } => format!("raw:{}", path.display()),
                Item::Library { name, forms: Forms::SharedAndArchive } => format!("so:{}", name.display()),
                Item::Library { name, forms: Forms::Archive } => format!("a:{}", name.display()),
                Item::Library { name, forms: Forms::ArchiveOfBfd } => format!("bfd:{}", name.display()),
                Item::Library { name, forms: Forms::SharedUnlessMold } => {
                    format!("popped:{}", name.display())
                }
                Item::PluginLibrary { name, forms } => format!("plugin:{}:{forms:?}", name.display()),
                Item::Directory(name) => format!("dir:{}", name.display()),
                Item::Script(path) => format!("script:{}", path.display()),
                Item::Text(path) => format!("text:{}", path.display()),
                Item::Symbols(path) => format!("symbols:{}", path.display()),
                Item::SymbolsOrRunPath(path) => format!("R:{}", path.display()),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn inputs_in_order() {
        for (line, expected) in [
            ("a.o -lm -L/x b.o -L y --library=z --library q", "a.o so:m dir:/x b.o dir:y so:z so:q"),
            ("-l:libq.a -l m", "so::libq.a so:m"),
            ("-libs -li -lt", "so:ibs so:i so:t"),
            (
                "-Bstatic -la -Bdynamic -lb -dn -lc -dy -ld -static -le -call_shared -lf",
                "a:a so:b a:c so:d a:e so:f",
            ),
            (
                "--push-state -Bstatic -la --push-state -dy -lb --pop-state -lc --pop-state -ld",
                "a:a so:b a:c popped:d",
            ),
            ("-N -la", "bfd:a"),
            ("-la -r", "bfd:a"),
            ("-r -Bstatic -la", "a:a"),
            ("-b binary x -b default y --format=binary z", "raw:x y raw:z"),
            (
                "-T a.ld -Tb.ld --script=c.ld -script d.ld -dT e.ld",
                "script:a.ld script:b.ld script:c.ld script:d.ld script:e.ld",
            ),
            ("-Ttext 0x10 -Ttext=0x10 -Tbss=1 -Ttext-segment=2 a.o", "a.o"),
            (
                "--version-script=v -version-script w --dynamic-list l --retain-symbols-file=r",
                "text:v text:w text:l text:r",
            ),
            ("-R dir --just-symbols=s -Rdir", "R:dir symbols:s R:dir"),
            ("-e main -emain -u x -ux -y t -znow -z now -O1 -O 2 -h n -hn -melf_i386 a.o", "a.o"),
            ("-dynamic-linker /lib/ld.so -soname n -init i -fini f -Map m -E -export-dynamic a.o", "a.o"),
            ("-( a.o -) --start-group b.o --end-group --start-lib c.o --end-lib", "a.o b.o c.o"),
            ("-plugin-opt=-pass-through=-lc -static", "plugin:c:Archive"),
            ("-plugin-opt -pass-through=-lc -Bstatic -Bdynamic", "plugin:c:SharedAndArchive"),
            ("-plugin-opt=sample-profile=p", "text:p"),
            ("-G 8 a.o -G8 b.o", "a.o b.o"),
        ] {
            assert_eq!(items(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_made() {
        assert_eq!(parsed("x.o").output(), Path::new("a.out"));
        for line in ["-o out", "-oout", "--output=out", "--output out", "-o a -o out"] {
            assert_eq!(parsed(line).output(), Path::new("out"), "{line}");
        }
        let line = parsed("-shared -Map=a.map -Map b.map --out-implib=i --dependency-file d -m elf_x86_64");
        let outputs = [("i", FurtherOutput::ImportLibrary), ("d", FurtherOutput::DependencyFile)];
        let mut expected: Vec<_> = outputs.iter().map(|(path, kind)| (PathBuf::from(path), *kind)).collect();
        expected.insert(0, ("b.map".into(), FurtherOutput::Map));
        assert_eq!(line.further_outputs(), expected);
        assert!(line.is_shared() && !line.is_relocatable() && !line.is_static());
        assert_eq!(line.emulation(), Some(OsStr::new("elf_x86_64")));
        assert!(parsed("-Map=- -M --print-map").further_outputs().is_empty());
        assert!(parsed("-static -pie").is_static() && !parsed("-Bstatic").is_static());
        assert!(parsed("-r").is_relocatable() && parsed("-i -shared").is_relocatable());
        assert!(parsed("-G").is_shared() && parsed("-G a.o").is_shared());
    }

    #[test]
    fn gcc_gives_its_plugin_these() {
        let line = parsed(
            "-plugin /usr/libexec/liblto_plugin.so -plugin-opt=/usr/libexec/lto-wrapper -plugin-opt=-fresolution=/tmp/c.res \
             --eh-frame-hdr -m elf_x86_64 --hash-style=gnu --as-needed -dynamic-linker /lib64/ld.so -pie -z now -o x a.o",
        );
        assert_eq!(line.plugins().collect::<Vec<_>>(), [Path::new("/usr/libexec/liblto_plugin.so")]);
        assert_eq!(line.output(), Path::new("x"));
    }

    #[test]
    fn what_is_not_understood() {
        for line in [
            "@file",
            "-",
            "--",
            "--reproduce=x",
            "--reproduce x",
            "-c script",
            "--mri-script=x",
            "-A arch",
            "--thinlto-cache-dir=d",
            "--save-temps",
            "-plugin-opt=save-temps",
            "-plugin-opt=obj-path=x",
            "-plugin-opt=dwo_dir=x",
            "--lto-obj-path=x",
            "-mllvm -x",
            "--no-such-option",
            "--shared=yes",
            "-o",
            "-Map",
            "-Map=%",
            "-Map=dir/",
            "-omagic",
            "-oformat=x",
            "-output x",
            "-undef x",
            "-library x",
            "-nx",
            "--pop-state",
            "--l x",
            "-Y path",
            "-C dir",
            "-scrip x",
            "--undef x",
            "-plugin-opt=/bin/sh",
            "-lto-O2",
        ] {
            assert!(matches!(parse(line), Err(LinkError::Unsupported(_))), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn no_words_make_it_panic() {
        let mut random = fastrand_like(7);
        let letters = b"-=lLToRrzGdynBstaic.:/@ \xff";
        for _ in 0..20_000 {
            let words: Vec<OsString> = (0..random() % 4)
                .map(|_| {
                    let word: Vec<u8> =
                        (0..random() % 8).map(|_| letters[random() % letters.len()]).collect();
                    OsStr::from_bytes(&word).to_owned()
                })
                .collect();
            let _ = LinkLine::parse(&words);
        }
    }

    /// A linear congruential generator: the same sequence each time.
    fn fastrand_like(seed: u64) -> impl FnMut() -> usize {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap()
        }
    }
}

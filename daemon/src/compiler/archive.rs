//! An archive from its members, and objects made of objects: `ar`, `strip`, `objcopy`, `dwp`, where they make a new file of
//! what the command names.
//! Knows nothing of what is in the files. A file that is changed in place is the command's input as well as its output, and
//! no worker is given leave to write to an input.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Invocation;
use crate::compiler::driver_name::ArchiverKind;
use crate::compiler::response_file;
use crate::compiler::sources;
use crate::reason::Reason;

/// A command that makes a new file of files that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Absolute path of the program, symlinks not resolved.
    pub program: PathBuf,
    /// The arguments after the program's name, response files expanded.
    pub arguments: Vec<OsString>,
    /// What is made, as written.
    pub output: PathBuf,
    /// What is read, as written.
    pub inputs: Vec<PathBuf>,
    /// Those of the inputs whose debug information names further ones, as written.
    pub programs: Vec<PathBuf>,
    /// Whether the archive names its members instead of holding them.
    pub is_thin: bool,
    /// What the command says about the times and owners of members; None: what the archiver was built to do.
    pub(super) is_deterministic: Option<bool>,
    /// Which program it is.
    pub(super) kind: ArchiverKind,
}

/// What an option of `strip` or `objcopy` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Nothing besides the two files is read or written.
    Neutral,
    /// The value is a file that is read.
    Reads,
    /// The value is `section=file`.
    ReadsSection,
    /// `-o` of `strip`.
    Output,
}

/// Options by all their names, whether they have a value, and what they ask for (GNU binutils manual, "objcopy" and
/// "strip"; the same in LLVM's, as far as they have them). What is not here is not understood.
const OPTIONS: &[(&[&str], bool, Meaning)] = &[
    (&["-o"], true, Meaning::Output),
    (&["-D", "--enable-deterministic-archives"], false, Meaning::Neutral),
    (&["-F", "--target"], true, Meaning::Neutral),
    (&["-G", "--keep-global-symbol"], true, Meaning::Neutral),
    (&["-I", "--input-target"], true, Meaning::Neutral),
    (&["-K", "--keep-symbol"], true, Meaning::Neutral),
    (&["-L", "--localize-symbol"], true, Meaning::Neutral),
    (&["-N", "--strip-symbol"], true, Meaning::Neutral),
    (&["-O", "--output-target"], true, Meaning::Neutral),
    (&["-R", "--remove-section"], true, Meaning::Neutral),
    (&["-W", "--weaken-symbol"], true, Meaning::Neutral),
    (&["-X", "--discard-locals"], false, Meaning::Neutral),
    (&["-g", "-S", "-d", "--strip-debug"], false, Meaning::Neutral),
    (&["-j", "--only-section"], true, Meaning::Neutral),
    (&["-s", "--strip-all"], false, Meaning::Neutral),
    (&["-v", "--verbose"], false, Meaning::Neutral),
    (&["-w", "--wildcard"], false, Meaning::Neutral),
    (&["-x", "--discard-all"], false, Meaning::Neutral),
    (&["--add-gnu-debuglink"], true, Meaning::Reads),
    (&["--add-section"], true, Meaning::ReadsSection),
    (&["--add-symbol"], true, Meaning::Neutral),
    (&["--change-addresses"], true, Meaning::Neutral),
    (&["--compress-debug-sections"], false, Meaning::Neutral),
    (&["--decompress-debug-sections"], false, Meaning::Neutral),
    (&["--gap-fill"], true, Meaning::Neutral),
    (&["--globalize-symbol"], true, Meaning::Neutral),
    (&["--globalize-symbols"], true, Meaning::Reads),
    (&["--keep-file-symbols"], false, Meaning::Neutral),
    (&["--keep-global-symbols"], true, Meaning::Reads),
    (&["--keep-section"], true, Meaning::Neutral),
    (&["--keep-symbols"], true, Meaning::Reads),
    (&["--localize-hidden"], false, Meaning::Neutral),
    (&["--localize-symbols"], true, Meaning::Reads),
    (&["--only-keep-debug"], false, Meaning::Neutral),
    (&["--pad-to"], true, Meaning::Neutral),
    (&["--prefix-alloc-sections"], true, Meaning::Neutral),
    (&["--prefix-sections"], true, Meaning::Neutral),
    (&["--prefix-symbols"], true, Meaning::Neutral),
    (&["--redefine-sym"], true, Meaning::Neutral),
    (&["--redefine-syms"], true, Meaning::Reads),
    (&["--rename-section"], true, Meaning::Neutral),
    (&["--set-section-alignment"], true, Meaning::Neutral),
    (&["--set-section-flags"], true, Meaning::Neutral),
    (&["--set-start"], true, Meaning::Neutral),
    (&["--strip-dwo"], false, Meaning::Neutral),
    (&["--strip-symbols"], true, Meaning::Reads),
    (&["--strip-unneeded"], false, Meaning::Neutral),
    (&["--strip-unneeded-symbol"], true, Meaning::Neutral),
    (&["--update-section"], true, Meaning::ReadsSection),
    (&["--weaken"], false, Meaning::Neutral),
    (&["--weaken-symbols"], true, Meaning::Reads),
];

impl Archive {
    /// Reads the command line of a program of this kind.
    ///
    /// # Errors
    /// The reason why the command runs locally.
    pub(super) fn read(invocation: &Invocation, kind: ArchiverKind) -> Result<Archive, Reason> {
        // Options behind the files are files for it.
        if invocation.variable("POSIXLY_CORRECT").is_some() {
            return Err(Reason::UnsupportedEnvironment("POSIXLY_CORRECT".to_owned()));
        }
        let program = invocation.executable().ok_or_else(|| {
            Reason::ToolchainProbe(format!("find {} in PATH", invocation.argv[0].to_string_lossy()))
        })?;
        let arguments =
            response_file::expand(&invocation.argv[1..], &invocation.cwd).map_err(Reason::ResponseFile)?;
        let empty = Archive {
            program,
            arguments: Vec::new(),
            output: PathBuf::new(),
            inputs: Vec::new(),
            programs: Vec::new(),
            is_thin: false,
            is_deterministic: Some(true),
            kind,
        };
        let archive = match kind {
            ArchiverKind::Ar | ArchiverKind::GccAr => empty.of_ar(&arguments)?,
            ArchiverKind::Strip | ArchiverKind::Objcopy => empty.of_objcopy(&arguments)?,
            ArchiverKind::Dwp | ArchiverKind::LlvmDwp => empty.of_dwp(&arguments)?,
            ArchiverKind::Ranlib => {
                return Err(Reason::Archive("an archive is given its index in place".to_owned()));
            }
        };
        let archive = Archive { arguments, ..archive };
        let cwd = &invocation.cwd;
        let probe = archive.inputs.iter().chain([&archive.output]).find(|path| sources::is_probe(cwd, path));
        if let Some(probe) = probe {
            return Err(Reason::Probe(probe.display().to_string()));
        }
        let output = cwd.join(&archive.output);
        if sources::is_device(&archive.output)
            || std::fs::metadata(&output).is_ok_and(|there| !there.is_file())
        {
            return Err(Reason::SpecialOutput);
        }
        if matches!(kind, ArchiverKind::Strip | ArchiverKind::Objcopy) {
            archive.check_mode(invocation)?;
        }
        Ok(archive)
    }

    /// Refuses to add to what is there.
    ///
    /// # Errors
    /// [`Reason::Archive`].
    pub fn check_is_new(&self, cwd: &Path) -> Result<(), Reason> {
        match self.kind {
            ArchiverKind::Ar | ArchiverKind::GccAr if cwd.join(&self.output).symlink_metadata().is_ok() => {
                Err(Reason::Archive(format!("{} is there and is updated", self.output.display())))
            }
            _ => Ok(()),
        }
    }

    /// `ar` with its operation and modifiers (GNU binutils manual, "Controlling ar on the Command Line").
    fn of_ar(self, arguments: &[OsString]) -> Result<Archive, Reason> {
        let not_understood = |word: &OsStr| Reason::Archive(format!("{} is not understood", word.display()));
        let mut words = arguments.iter();
        let mut archive = self;
        let letters = loop {
            let word = words.next().ok_or_else(|| Reason::Archive("no operation is named".to_owned()))?;
            match word.as_bytes() {
                b"--thin" => archive.is_thin = true,
                long if long.starts_with(b"--") => return Err(not_understood(word)),
                letters => break letters.strip_prefix(b"-").unwrap_or(letters),
            }
        };
        let mut operations = 0;
        archive.is_deterministic = None;
        for letter in letters {
            match letter {
                b'q' | b'r' => operations += 1,
                b'D' => archive.is_deterministic = Some(true),
                b'U' => archive.is_deterministic = Some(false),
                b'T' => archive.is_thin = true,
                // Whether it says so, what index it makes, which members of an old archive it replaces.
                b'c' | b's' | b'S' | b'u' | b'v' => {}
                _ => return Err(Reason::Archive(format!("ar {}", String::from_utf8_lossy(letters)))),
            }
        }
        if operations != 1 {
            return Err(Reason::Archive(format!("ar {}", String::from_utf8_lossy(letters))));
        }
        let Some(output) = words.next() else {
            return Err(Reason::Archive("no archive is named".to_owned()));
        };
        archive.output = output.into();
        archive.inputs = words.map(PathBuf::from).collect();
        match archive.inputs.iter().find(|input| input.as_os_str().as_bytes().starts_with(b"-")) {
            Some(option) => Err(not_understood(option.as_os_str())),
            None => Ok(archive),
        }
    }

    /// `strip -o out in`, `objcopy in out`.
    fn of_objcopy(self, arguments: &[OsString]) -> Result<Archive, Reason> {
        let mut archive = self;
        let mut files: Vec<PathBuf> = Vec::new();
        let mut output = None;
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let unsupported = || Reason::UnsupportedFlag(word.to_string_lossy().into_owned());
            if !word.as_bytes().starts_with(b"-") {
                files.push(word.into());
                continue;
            }
            let (value, meaning) = option(word, &mut words).ok_or_else(unsupported)?;
            match meaning {
                Meaning::Neutral => {}
                Meaning::Reads => archive.inputs.push(value.into()),
                Meaning::ReadsSection => {
                    let at =
                        value.as_bytes().iter().position(|&byte| byte == b'=').ok_or_else(unsupported)?;
                    archive.inputs.push(OsStr::from_bytes(&value.as_bytes()[at + 1..]).into());
                }
                Meaning::Output if archive.kind == ArchiverKind::Strip => output = Some(PathBuf::from(value)),
                Meaning::Output => return Err(unsupported()),
            }
        }
        let in_place = || Reason::Archive("a file is changed in place".to_owned());
        if archive.kind == ArchiverKind::Objcopy && files.len() == 2 {
            output = files.pop();
        }
        let ([input], Some(output)) = (files.as_slice(), output) else { return Err(in_place()) };
        if input.extension().is_some_and(|suffix| suffix == "a") {
            return Err(Reason::Archive(format!("{} has members", input.display())));
        }
        if *input == output {
            return Err(in_place());
        }
        archive.inputs.push(input.clone());
        Ok(Archive { output, ..archive })
    }

    /// `dwp -e program -o out`, `dwp a.dwo b.dwo -o out` (GNU gold's `dwp --help`; LLVM command guide, "llvm-dwp").
    fn of_dwp(self, arguments: &[OsString]) -> Result<Archive, Reason> {
        let mut archive = self;
        let mut output = None;
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let unsupported = || Reason::UnsupportedFlag(word.to_string_lossy().into_owned());
            let long: &[(&str, &str)] = match archive.kind {
                ArchiverKind::LlvmDwp => &[("-e", "-e="), ("-o", "-o=")],
                _ => &[("--exec", "--exec="), ("--output", "--output="), ("-e", "-e"), ("-o", "-o")],
            };
            if !word.as_bytes().starts_with(b"-") {
                archive.inputs.push(word.into());
                continue;
            }
            let named = long.iter().find_map(|(name, joined)| {
                let value = match word.as_bytes().strip_prefix(joined.as_bytes()) {
                    Some(value) if !value.is_empty() => OsStr::from_bytes(value),
                    _ if word == name => words.clone().next()?,
                    _ => return None,
                };
                Some((name.trim_start_matches('-').starts_with('e'), word == name, value))
            });
            let (is_program, is_apart, value) = named.ok_or_else(unsupported)?;
            if is_apart {
                words.next();
            }
            if is_program {
                archive.programs.push(value.into());
            } else if output.replace(PathBuf::from(value)).is_some() {
                return Err(unsupported());
            }
        }
        archive.inputs.extend_from_slice(&archive.programs);
        if let (None, ArchiverKind::Dwp, [program]) = (&output, archive.kind, archive.programs.as_slice()) {
            let mut name = program.clone().into_os_string();
            name.push(".dwp");
            output = Some(name.into());
        }
        let Some(output) = output else { return Err(Reason::Archive("no output is named".to_owned())) };
        Ok(Archive { output, ..archive })
    }

    /// What is made has the mode of what it is made of: only those that any new file might have are made elsewhere.
    fn check_mode(&self, invocation: &Invocation) -> Result<(), Reason> {
        let Some(input) = self.inputs.last() else { return Ok(()) };
        let metadata = std::fs::metadata(invocation.cwd.join(input));
        let mode = metadata.map(|metadata| metadata.mode() & 0o7777);
        let new = [0o666, 0o777].map(|mode| mode & !invocation.umask);
        match mode {
            Ok(mode) if !new.contains(&mode) => {
                Err(Reason::Archive(format!("{} has mode {mode:o}", input.display())))
            }
            // Whoever reads it will complain if it is not there.
            _ => Ok(()),
        }
    }
}

/// The value of an option, empty where it has none, and what it asks for. Long ones have it behind `=`, or in the next word.
fn option<'a>(
    word: &'a OsStr,
    rest: &mut impl Iterator<Item = &'a OsString>,
) -> Option<(&'a OsStr, Meaning)> {
    let bytes = word.as_bytes();
    for (names, has_value, meaning) in OPTIONS {
        for name in *names {
            let Some(value) = bytes.strip_prefix(name.as_bytes()) else { continue };
            match (value, has_value) {
                (b"", false) => return Some((OsStr::new(""), *meaning)),
                (b"", true) => return Some((rest.next()?, *meaning)),
                (value, true) if name.starts_with("--") && value.starts_with(b"=") => {
                    return Some((OsStr::from_bytes(&value[1..]), *meaning));
                }
                (value, true) if !name.starts_with("--") => {
                    return Some((OsStr::from_bytes(value), *meaning));
                }
                // `--compress-debug-sections=zlib`.
                (value, false) if name.ends_with("compress-debug-sections") && value.starts_with(b"=") => {
                    return Some((OsStr::new(""), *meaning));
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::compiler::Task;
    use crate::compiler::classify;
    use crate::compiler::invocation::tests::invocation;

    fn check(cases: &[(&str, &str)]) {
        let space = tempfile::tempdir().unwrap();
        std::fs::write(space.path().join("old.a"), "").unwrap();
        std::fs::write(space.path().join("a.o"), "").unwrap();
        for (line, expected) in cases {
            let described = match classify(&invocation(space.path(), line)) {
                Task::Archive(archive) => match archive.check_is_new(space.path()) {
                    Err(reason) => reason.to_string(),
                    Ok(()) => {
                        let inputs: Vec<_> =
                            archive.inputs.iter().map(|path| path.display().to_string()).collect();
                        let thin = if archive.is_thin { "thin " } else { "" };
                        format!("{thin}{} of {}", archive.output.display(), inputs.join(" "))
                    }
                },
                Task::Local(reason) => reason.to_string(),
                other => format!("{other:?}"),
            };
            assert_eq!(described, *expected, "{line}");
        }
    }

    #[test]
    fn new_archives_are_made_of_what_is_named() {
        check(&[
            ("ar qc liba.a a.o b.o", "liba.a of a.o b.o"),
            ("ar -rcs liba.a a.o", "liba.a of a.o"),
            ("llvm-ar rcsD liba.a a.o", "liba.a of a.o"),
            ("ar rcT liba.a a.o", "thin liba.a of a.o"),
            ("ar --thin -rc liba.a a.o", "thin liba.a of a.o"),
            ("ar cru liba.a", "liba.a of "),
            ("ar rc old.a a.o", "archive: old.a is there and is updated"),
            ("ranlib old.a", "archive: an archive is given its index in place"),
            ("ar t old.a", "archive: ar t"),
            ("ar -M", "archive: ar M"),
            ("ar rb x.o liba.a a.o", "archive: ar rb"),
            ("ar --plugin p rc liba.a a.o", "archive: --plugin is not understood"),
            ("ar rc liba.a --output=x a.o", "archive: --output=x is not understood"),
            ("ar", "archive: no operation is named"),
            ("ar rc conftest.a a.o", "probe: conftest.a"),
        ]);
    }

    #[test]
    fn new_objects_are_made_of_objects() {
        check(&[
            ("strip -g -o b.o a.o", "b.o of a.o"),
            ("strip --strip-unneeded a.o -ob.o", "b.o of a.o"),
            ("strip a.o", "archive: a file is changed in place"),
            ("strip -p -o b.o a.o", "unsupported_flag: -p"),
            ("objcopy --only-keep-debug a.o a.debug", "a.debug of a.o"),
            ("objcopy -O binary -j .text a.o a.bin", "a.bin of a.o"),
            (
                "objcopy --add-section .x=x.bin --add-gnu-debuglink=a.debug a.o b.o",
                "b.o of x.bin a.debug a.o",
            ),
            ("objcopy --add-gnu-debuglink=a.debug a.o", "archive: a file is changed in place"),
            ("objcopy a.o a.o", "archive: a file is changed in place"),
            ("objcopy --split-dwo=x a.o b.o", "unsupported_flag: --split-dwo=x"),
        ]);
    }

    #[test]
    fn packages_are_made_of_what_is_named() {
        check(&[
            ("dwp a.dwo b.dwo -o out.dwp", "out.dwp of a.dwo b.dwo"),
            ("dwp -e app", "app.dwp of app"),
            ("dwp --exec app -oout.dwp a.dwo", "out.dwp of a.dwo app"),
            ("dwp --exec=app --output=out.dwp", "out.dwp of app"),
            ("dwp -e=app", "=app.dwp of =app"),
            ("dwp a.dwo", "archive: no output is named"),
            ("dwp --verify-only -e app", "unsupported_flag: --verify-only"),
            ("llvm-dwp -e app -e lib.so -o out.dwp", "out.dwp of app lib.so"),
            ("llvm-dwp -e=app -o=out.dwp", "out.dwp of app"),
            ("llvm-dwp -eapp -o out.dwp", "unsupported_flag: -eapp"),
            ("llvm-dwp -e app", "archive: no output is named"),
            ("llvm-dwp a.dwo -o", "unsupported_flag: -o"),
            ("llvm-dwp a.dwo -o x.dwp -o y.dwp", "unsupported_flag: -o"),
        ]);
    }
}

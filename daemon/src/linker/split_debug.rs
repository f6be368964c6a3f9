//! The files into which debug information of a program was put when it was compiled (`-gsplit-dwarf`): its skeleton units name
//! them (DWARF 5, section 3.1.2 "Skeleton Compilation Unit Entries"; before that, GNU's attributes).
//! Knows nothing of who reads them.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use gimli::AbbreviationsCacheStrategy;
use gimli::Dwarf;
use gimli::EndianSlice;
use gimli::RunTimeEndian;
use object::Object;
use object::ObjectSection;
use object::read::ReadCache;

/// What skeletons take of a very large program, in bytes. With all debug information in it, it names no other files.
const MOST_READ_BYTES: u64 = 256 << 20;

/// Many times what the largest programs take.
const LONGEST: Duration = Duration::from_secs(20);

/// A file with debug information, as a program names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitUnit {
    /// Its name.
    pub name: PathBuf,
    /// Where it was compiled, from which a relative name counts; empty: it does not say.
    pub directory: PathBuf,
}

impl SplitUnit {
    /// The absolute paths at which programs look for it, in order: LLVM's look in the working directory, too (llvm-dwp,
    /// `getDWOFilenames`).
    pub fn candidates(&self, cwd: &Path) -> [PathBuf; 2] {
        [cwd.join(&self.directory).join(&self.name), cwd.join(&self.name)]
    }
}

/// The files that the program names.
///
/// # Errors
/// Why they are not known, as a clause.
pub(super) fn units(file: File) -> Result<Vec<SplitUnit>, String> {
    let started = Instant::now();
    let data = ReadCache::new(file);
    let program = object::File::parse(&data).map_err(|error| error.to_string())?;
    let endian = if program.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let mut left = MOST_READ_BYTES;
    let mut dwarf = Dwarf::load(|id| -> Result<_, String> {
        let section = program.section_by_name(id.name());
        let Some(section) = section.filter(|section| !matches!(section.size(), 0)) else {
            return Ok(EndianSlice::new(&[], endian));
        };
        left = left.checked_sub(section.size()).ok_or("it has more debug information than is read")?;
        if section.compressed_file_range().is_ok_and(|range| range.format != object::CompressionFormat::None)
        {
            return Err("its debug information is compressed".to_owned());
        }
        Ok(EndianSlice::new(section.data().map_err(|error| error.to_string())?, endian))
    })?;
    dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::All);
    let mut found = Vec::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().map_err(|error| error.to_string())? {
        if started.elapsed() > LONGEST {
            return Err("its debug information takes too long to read".to_owned());
        }
        found.extend(split_unit(&dwarf, header).map_err(|error| error.to_string())?);
    }
    Ok(found)
}

type Bytes<'a> = EndianSlice<'a, RunTimeEndian>;

fn split_unit(dwarf: &Dwarf<Bytes>, header: gimli::UnitHeader<Bytes>) -> gimli::Result<Option<SplitUnit>> {
    let unit = dwarf.unit(header)?;
    let Some(name) = unit.dwo_name()? else { return Ok(None) };
    let name = dwarf.attr_string(&unit, name)?;
    let path = |text: Bytes| PathBuf::from(OsStr::from_bytes(text.slice()));
    Ok(Some(SplitUnit { name: path(name), directory: unit.comp_dir.map(path).unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linker::tests::run;

    #[test]
    fn programs_name_what_was_split_off() {
        let space = tempfile::tempdir().unwrap();
        let directory = space.path().canonicalize().unwrap();
        std::fs::create_dir(directory.join("out")).unwrap();
        std::fs::write(directory.join("a.c"), "int a;").unwrap();
        std::fs::write(directory.join("main.c"), "extern int a; int main(void) { return a; }").unwrap();
        for flags in ["gcc -gdwarf-5", "gcc -gdwarf-4", "clang -gdwarf-5", "clang -gdwarf-4"] {
            run(&directory, &format!("{flags} -gsplit-dwarf -c a.c -o out/a.o"));
            run(&directory, &format!("{flags} -gsplit-dwarf -c main.c -o out/main.o"));
            run(&directory, "gcc out/main.o out/a.o -o app");
            let found = units(File::open(directory.join("app")).unwrap()).unwrap();
            let paths: Vec<_> = found.iter().map(|unit| unit.candidates(Path::new("/there"))).collect();
            let expected = ["main", "a"].map(|name| {
                let name = format!("out/{name}.dwo");
                [directory.join(&name), Path::new("/there").join(&name)]
            });
            assert_eq!(paths, expected, "{flags}");
        }
        run(&directory, "gcc -g -c a.c -o whole.o");
        assert_eq!(units(File::open(directory.join("whole.o")).unwrap()).unwrap(), []);
    }

    #[test]
    fn damaged_programs_have_an_answer() {
        let space = tempfile::tempdir().unwrap();
        std::fs::write(space.path().join("main.c"), "int main(void) { return 0; }").unwrap();
        run(space.path(), "gcc -g -gsplit-dwarf -c main.c");
        run(space.path(), "gcc main.o -o app");
        let program = std::fs::read(space.path().join("app")).unwrap();
        let debug = program.windows(8).rposition(|bytes| bytes == b"main.dwo").unwrap();
        for at in (0..program.len()).rev().step_by(7).chain(debug.saturating_sub(300)..debug) {
            let mut damaged = program.clone();
            damaged[at] ^= 0xff;
            let path = space.path().join("damaged");
            std::fs::write(&path, &damaged).unwrap();
            let _ = units(File::open(&path).unwrap());
        }
        for cut in (0..program.len()).step_by(101) {
            let path = space.path().join("cut");
            std::fs::write(&path, &program[..cut]).unwrap();
            let _ = units(File::open(&path).unwrap());
        }
    }
}

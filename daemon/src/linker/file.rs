//! What a file is to a linker: an object, a shared library with the libraries that it needs, an archive, a script.
//! Knows nothing of why it is asked, nor of where other files are looked for.

use std::cell::Cell;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use object::Endian;
use object::Endianness;
use object::FileKind;
use object::archive;
use object::elf;
use object::read::ReadCache;
use object::read::ReadRef;
use object::read::archive::ArchiveFile;
use object::read::elf::FileHeader;
use object::read::elf::SectionHeader;

use crate::linker::script::LONGEST_BYTES;
use crate::linker::script::Script;

/// How much of one file is read at most: many times what the headers of any real one take.
const MOST_READ_BYTES: u64 = 32 << 20;

/// More libraries than the members of one archive ask for.
const MOST_DEPENDENT: usize = 1 << 10;

/// What a file was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkerFile {
    pub(super) kind: Kind,
    /// For which machine; None where the file does not say.
    pub(super) target: Option<Target>,
    /// The libraries that objects ask for (`.deplibs`, LLVM Extensions, "SHT_LLVM_DEPENDENT_LIBRARIES"); only lld heeds them.
    pub(super) dependent: Vec<OsString>,
    /// Whether it has intermediate code, of which a plugin or the linker itself makes the machine's (LTO). If that cannot be
    /// told, it may.
    pub(super) has_intermediate_code: bool,
}

/// For which machine code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) is_64: bool,
    pub(super) is_little_endian: bool,
    /// `e_machine` of an ELF header.
    pub(super) machine: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Shared(SharedLibrary),
    /// An archive that holds its members.
    Archive,
    /// One that names them, each relative to the archive's directory.
    ThinArchive(Vec<OsString>),
    /// One whose members cannot all be told.
    DamagedThinArchive,
    /// LLVM's intermediate code.
    Bitcode,
    Script(Script),
    /// Text that is too long to be read as a script.
    LongText,
    /// Nothing that names other files.
    Other,
}

/// What a shared library says of itself in its dynamic section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SharedLibrary {
    pub(super) soname: Option<OsString>,
    pub(super) needed: Vec<OsString>,
    /// `DT_RUNPATH`, or else `DT_RPATH`: directories with colons between them.
    pub(super) run_path: Option<OsString>,
}

impl LinkerFile {
    /// Reads as much of an open file as it takes.
    ///
    /// # Errors
    /// Whatever `read` answers. That a file is damaged is none.
    pub(super) fn read(mut file: File) -> io::Result<LinkerFile> {
        let mut magic = Vec::with_capacity(8);
        Read::by_ref(&mut file).take(8).read_to_end(&mut magic)?;
        let cache = ReadCache::new(file.try_clone()?);
        let left = Cell::new(MOST_READ_BYTES);
        let data = Bounded { file: &file, cache: &cache, left: &left, range: None };
        let known = match magic.as_slice() {
            [0x7f, b'E', b'L', b'F', ..] => elf(data),
            [b'!', b'<', b'a', b'r', b'c', b'h', b'>', b'\n'] => archive(data)?,
            [b'!', b'<', b't', b'h', b'i', b'n', b'>', b'\n'] => thin_archive(data),
            magic if is_bitcode(magic) => {
                LinkerFile { has_intermediate_code: true, ..LinkerFile::of(Kind::Bitcode) }
            }
            _ => return text(file),
        };
        Ok(known)
    }

    fn of(kind: Kind) -> LinkerFile {
        LinkerFile { kind, target: None, dependent: Vec::new(), has_intermediate_code: false }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let names = |names: &[OsString]| -> usize { names.iter().map(|name| name.len() + 48).sum() };
        size_of::<LinkerFile>()
            + names(&self.dependent)
            + match &self.kind {
                Kind::Shared(library) => {
                    let paths = library.soname.iter().chain(&library.run_path);
                    names(&library.needed) + paths.map(|path| path.len()).sum::<usize>()
                }
                Kind::ThinArchive(members) => names(members),
                Kind::Script(script) => script.size_bytes(),
                Kind::Object
                | Kind::Archive
                | Kind::DamagedThinArchive
                | Kind::Bitcode
                | Kind::LongText
                | Kind::Other => 0,
            }
    }
}

/// A script, if these are letters.
fn text(mut file: File) -> io::Result<LinkerFile> {
    file.rewind()?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(LONGEST_BYTES + 1).read_to_end(&mut bytes)?;
    let kind = if memchr::memchr(0, &bytes).is_some() {
        Kind::Other
    } else if u64::try_from(bytes.len()).is_ok_and(|length| length <= LONGEST_BYTES) {
        Kind::Script(Script::parse(&bytes))
    } else {
        Kind::LongText
    };
    Ok(LinkerFile::of(kind))
}

/// LLVM bitcode file format, "Magic Numbers" and "Bitcode Wrapper Format".
fn is_bitcode(bytes: &[u8]) -> bool {
    matches!(bytes, [b'B', b'C', 0xc0, 0xde, ..] | [0xde, 0xc0, 0x17, 0x0b, ..])
}

fn elf(data: Bounded) -> LinkerFile {
    // A header that cannot be read belongs to an object that no linker takes.
    let damaged = LinkerFile::of(Kind::Other);
    let read = match FileKind::parse(data) {
        Ok(FileKind::Elf64) => elf_of::<elf::FileHeader64<Endianness>>(data),
        Ok(FileKind::Elf32) => elf_of::<elf::FileHeader32<Endianness>>(data),
        Ok(_) | Err(_) => None,
    };
    read.unwrap_or(damaged)
}

fn elf_of<Elf: FileHeader<Endian = Endianness>>(data: Bounded) -> Option<LinkerFile> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let target = Target {
        is_64: header.is_type_64(),
        is_little_endian: endian.is_little_endian(),
        machine: header.e_machine(endian).0,
    };
    let kind = if header.e_type(endian) == elf::ET_DYN {
        // What follows a damaged table is not read by linkers either.
        Kind::Shared(shared_library(header, endian, data).unwrap_or_default())
    } else {
        Kind::Object
    };
    let mut file = LinkerFile { target: Some(target), ..LinkerFile::of(kind) };
    if file.kind == Kind::Object {
        file.dependent = dependent_libraries(header, endian, data).unwrap_or_default();
        file.has_intermediate_code = has_intermediate_code(header, endian, data).unwrap_or(true);
    }
    Some(file)
}

/// By the names of sections: GCC's (gcc/lto-section-names.h), and Clang's under `-ffat-lto-objects`.
fn has_intermediate_code<Elf: FileHeader<Endian = Endianness>>(
    header: &Elf,
    endian: Endianness,
    data: Bounded,
) -> Option<bool> {
    let sections = header.sections(endian, data).ok()?;
    let mut names = sections.iter().map(|section| sections.section_name(endian, section));
    names.try_fold(false, |has, name| {
        let name = name.ok()?;
        Some(has || name.starts_with(b".gnu.lto_") || name == b".llvm.lto")
    })
}

fn dependent_libraries<Elf: FileHeader<Endian = Endianness>>(
    header: &Elf,
    endian: Endianness,
    data: Bounded,
) -> Option<Vec<OsString>> {
    let sections = header.section_headers(endian, data).ok()?;
    let lists =
        sections.iter().filter(|section| section.sh_type(endian) == elf::SHT_LLVM_DEPENDENT_LIBRARIES);
    let texts = lists.filter_map(|section| section.data(endian, data).ok());
    let names = texts.flat_map(|text| text.split(|byte| *byte == 0)).filter(|name| !name.is_empty());
    Some(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

fn shared_library<Elf: FileHeader<Endian = Endianness>>(
    header: &Elf,
    endian: Endianness,
    data: Bounded,
) -> Option<SharedLibrary> {
    let sections = header.section_headers(endian, data).ok()?;
    let dynamic = sections.iter().find(|section| section.sh_type(endian) == elf::SHT_DYNAMIC)?;
    let link = usize::try_from(dynamic.sh_link(endian)).ok()?;
    let strings = sections.get(link)?.strings(endian, data).ok()??;
    let (entries, _) = dynamic.dynamic(endian, data).ok()??;
    let mut library = SharedLibrary::default();
    let mut rpath = None;
    for entry in entries {
        use object::read::elf::Dyn;

        let tag = entry.d_tag(endian);
        if tag == elf::DT_NULL {
            break;
        }
        let is_text = [elf::DT_NEEDED, elf::DT_SONAME, elf::DT_RUNPATH, elf::DT_RPATH].contains(&tag);
        let offset = u32::try_from(entry.d_val(endian).into());
        let Some(text) = offset.ok().filter(|_| is_text).and_then(|offset| strings.get(offset).ok()) else {
            continue;
        };
        let text = OsStr::from_bytes(text).to_owned();
        match tag {
            elf::DT_NEEDED => library.needed.push(text),
            elf::DT_SONAME => library.soname = Some(text),
            elf::DT_RUNPATH => library.run_path = Some(text),
            _ => rpath = Some(text),
        }
    }
    library.run_path = library.run_path.or(rpath);
    Some(library)
}

/// An archive with its members: only their machine matters, and what they ask for.
fn archive(data: Bounded) -> io::Result<LinkerFile> {
    let mut file = LinkerFile::of(Kind::Archive);
    let Ok(archive) = ArchiveFile::parse(data) else { return Ok(file) };
    for member in archive.members().map_while(Result::ok) {
        let (offset, size) = member.file_range();
        let Some(end) = offset.checked_add(size) else { break };
        // Nothing of the members before it is kept in memory.
        let cache = ReadCache::new(data.file.try_clone()?);
        let left = Cell::new(MOST_READ_BYTES);
        let data = Bounded { file: data.file, cache: &cache, left: &left, range: Some((offset, end)) };
        if data.read_bytes_at(0, 4.min(size)).is_ok_and(is_bitcode) {
            file.has_intermediate_code = true;
            continue;
        }
        let member = elf(data);
        file.target = file.target.or(member.target);
        file.has_intermediate_code |= member.has_intermediate_code;
        for name in member.dependent {
            if !file.dependent.contains(&name) && file.dependent.len() < MOST_DEPENDENT {
                file.dependent.push(name);
            }
        }
    }
    Ok(file)
}

fn thin_archive(data: Bounded) -> LinkerFile {
    let members = thin_members(data).or_else(|| names_of_thin_members(data));
    LinkerFile::of(members.map_or(Kind::DamagedThinArchive, Kind::ThinArchive))
}

fn thin_members(data: Bounded) -> Option<Vec<OsString>> {
    let archive = ArchiveFile::parse(data).ok()?;
    let members = archive.members().map(|member| Some(OsStr::from_bytes(member.ok()?.name()).to_owned()));
    let mut members: Vec<OsString> = members.collect::<Option<_>>()?;
    members.dedup();
    Some(members)
}

/// The members by the table of long names, which is all that a thin archive holds: GNU ar writes a member of an archive in
/// a thin archive with a second number behind its name's, which is not in the format otherwise.
fn names_of_thin_members(data: Bounded) -> Option<Vec<OsString>> {
    let mut offset = u64::try_from(archive::THIN_MAGIC.len()).ok()?;
    loop {
        let header = data.read::<archive::Header>(&mut offset).ok()?;
        let size = std::str::from_utf8(&header.size).ok()?.trim_end().parse::<u64>().ok()?;
        if header.terminator != archive::TERMINATOR {
            return None;
        }
        if header.name.starts_with(b"// ") {
            let table = data.read_bytes_at(offset, size).ok()?;
            let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            return lines.map(|line| Some(OsStr::from_bytes(line.strip_suffix(b"/")?).to_owned())).collect();
        }
        // Before it, there are only tables of symbols.
        if !(header.name.starts_with(b"/ ") || header.name.starts_with(b"/SYM64/")) {
            return None;
        }
        offset = offset.checked_add(size)?.checked_add(size & 1)?;
    }
}

/// A file, or a range of it, of which only so much is read.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    file: &'a File,
    cache: &'a ReadCache<File>,
    left: &'a Cell<u64>,
    range: Option<(u64, u64)>,
}

impl Bounded<'_> {
    fn spend(self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }

    /// Where `range` lies in the file.
    fn in_file(self, range: Range<u64>) -> Result<Range<u64>, ()> {
        let Some((start, end)) = self.range else { return Ok(range) };
        let shifted = start.checked_add(range.start).ok_or(())?..start.checked_add(range.end).ok_or(())?;
        if shifted.end <= end { Ok(shifted) } else { Err(()) }
    }
}

impl<'a> ReadRef<'a> for Bounded<'a> {
    fn len(self) -> Result<u64, ()> {
        match self.range {
            Some((start, end)) => end.checked_sub(start).ok_or(()),
            None => self.cache.len(),
        }
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        let range = self.in_file(offset..offset.checked_add(size).ok_or(())?)?;
        self.spend(size)?;
        self.cache.read_bytes_at(range.start, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let range = self.in_file(range)?;
        // As much as the cache looks through.
        self.spend(4096.min(range.end.checked_sub(range.start).ok_or(())?))?;
        self.cache.read_bytes_at_until(range, delimiter)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::linker::tests::run;

    fn read(bytes: &[u8]) -> LinkerFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        LinkerFile::read(file).unwrap()
    }

    /// A shared library for x86-64 with nothing but a section table, a dynamic section and its strings.
    fn shared_library() -> Vec<u8> {
        let strings = b"\0libself.so.1\0libb.so.1\0$ORIGIN/deep\0libc.so.6\0";
        let at = |text: &[u8]| u64::try_from(memchr::memmem::find(strings, text).unwrap()).unwrap();
        let entries = [
            (1, at(b"libb.so.1")),
            (1, at(b"libc.so.6")),
            (14, at(b"libself")),
            (15, at(b"libself")),
            (29, at(b"$ORIGIN")),
            (0, 0),
            (1, at(b"libself")),
        ];
        let dynamic: Vec<u8> = entries
            .iter()
            .flat_map(|(tag, value): &(u64, u64)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
            .collect();
        let section = |kind: u32, offset: usize, size: usize, link: u32, entry: u64| {
            let mut header = Vec::new();
            header.extend([0_u32.to_le_bytes(), kind.to_le_bytes()].concat());
            let numbers = [0, 0, u64::try_from(offset).unwrap(), u64::try_from(size).unwrap()];
            header.extend(numbers.iter().flat_map(|number: &u64| number.to_le_bytes()));
            header.extend([link.to_le_bytes(), 0_u32.to_le_bytes()].concat());
            header.extend([8_u64.to_le_bytes(), entry.to_le_bytes()].concat());
            header
        };
        let (dynamic_at, strings_at) = (64, 64 + dynamic.len());
        let sections_at = strings_at + strings.len();
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([3_u16.to_le_bytes(), 62_u16.to_le_bytes()].concat());
        file.extend(1_u32.to_le_bytes());
        file.extend(
            [0, 0, u64::try_from(sections_at).unwrap()].iter().flat_map(|number: &u64| number.to_le_bytes()),
        );
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 56, 0, 64, 3, 0].iter().flat_map(|number| number.to_le_bytes()));
        file.extend(&dynamic);
        file.extend(strings);
        file.extend(section(0, 0, 0, 0, 0));
        file.extend(section(6, dynamic_at, dynamic.len(), 2, 16));
        file.extend(section(3, strings_at, strings.len(), 0, 0));
        file
    }

    fn archive(magic: &[u8], members: &[(&str, &[u8], bool)]) -> Vec<u8> {
        let mut file = magic.to_vec();
        for (name, content, is_inside) in members {
            file.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, content.len()).into_bytes(),
            );
            if *is_inside {
                file.extend(*content);
                file.extend(vec![b'\n'; content.len() % 2]);
            }
        }
        file
    }

    #[test]
    fn what_a_shared_library_needs() {
        let file = read(&shared_library());
        let names = |names: &[&str]| names.iter().map(OsString::from).collect::<Vec<_>>();
        let expected = SharedLibrary {
            soname: Some("libself.so.1".into()),
            needed: names(&["libb.so.1", "libc.so.6"]),
            run_path: Some("$ORIGIN/deep".into()),
        };
        assert_eq!(file.kind, Kind::Shared(expected));
        let x86_64 = Target { is_64: true, is_little_endian: true, machine: 62 };
        assert_eq!(file.target, Some(x86_64));
        let archived = archive(b"!<arch>\n", &[("note/", b"text", true), ("a.o/", &shared_library(), true)]);
        let archived = read(&archived);
        assert_eq!((archived.kind, archived.target), (Kind::Archive, Some(x86_64)));
    }

    #[test]
    fn members_of_thin_archives() {
        let names = b"dir/a long name.o/\nlib/b.o/\n";
        let table = ("//", names.as_slice(), true);
        let members = Kind::ThinArchive(vec!["dir/a long name.o".into(), "lib/b.o".into()]);
        let whole =
            archive(b"!<thin>\n", &[("/", b"symb", true), table, ("/0", b"", false), ("/19", b"", false)]);
        assert_eq!(read(&whole).kind, members);
        // A member of an archive within: GNU ar writes where it lies, too.
        let nested = archive(b"!<thin>\n", &[table, ("/0", b"", false), ("/19:62", b"", false)]);
        assert_eq!(read(&nested).kind, members);
        // Cut behind the names, and in them.
        assert_eq!(read(&whole[..whole.len() - 7]).kind, members);
        assert_eq!(read(&archive(b"!<thin>\n", &[table])[..80]).kind, Kind::DamagedThinArchive);
    }

    #[test]
    fn by_their_first_bytes() {
        for (bytes, expected) in [
            (b"BC\xc0\xde...".as_slice(), Kind::Bitcode),
            (b"\xde\xc0\x17\x0b...", Kind::Bitcode),
            (b"MZ\0\0", Kind::Other),
            (b"\x7fELF", Kind::Other),
            (b"!<arch>\n", Kind::Archive),
            (b"!<thin>\n", Kind::ThinArchive(Vec::new())),
            (b"", Kind::Script(Script::default())),
        ] {
            assert_eq!(read(bytes).kind, expected, "{bytes:?}");
        }
        let longest = usize::try_from(LONGEST_BYTES).unwrap();
        assert_eq!(read(&vec![b' '; longest + 1]).kind, Kind::LongText);
        assert_eq!(read(&vec![b' '; longest]).kind, Kind::Script(Script::default()));
    }

    #[test]
    fn intermediate_code_is_found_in_objects_and_members() {
        let directory = tempfile::tempdir().unwrap();
        let run = |line: &str| run(directory.path(), line);
        let has = |name: &str| {
            let file = File::open(directory.path().join(name)).unwrap();
            LinkerFile::read(file).unwrap().has_intermediate_code
        };
        std::fs::write(directory.path().join("a.c"), "int a;").unwrap();
        run("gcc -c a.c -o plain.o");
        assert!(!has("plain.o"));
        run("ar rcs plain.a plain.o a.c");
        assert!(!has("plain.a"));
        for flags in ["gcc -flto", "gcc -flto -ffat-lto-objects", "clang -flto", "clang -flto=thin"] {
            run(&format!("{flags} -c a.c -o made.o"));
            assert!(has("made.o"), "{flags}");
            run("ar rcs made.a plain.o made.o a.c");
            assert!(has("made.a"), "{flags}");
            std::fs::remove_file(directory.path().join("made.a")).unwrap();
        }
    }

    #[test]
    fn damaged_files_have_an_answer() {
        let mut state = 3_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let thin =
            archive(b"!<thin>\n", &[("//", b"a.o/\nb.o/\n", true), ("/0", b"", false), ("/5", b"", false)]);
        let seeds = [shared_library(), archive(b"!<arch>\n", &[("a.o/", &shared_library(), true)]), thin];
        for seed in &seeds {
            for cut in 0..seed.len().min(200) {
                read(&seed[..cut]);
            }
            for _ in 0..2_000 {
                let mut damaged = seed.clone();
                for _ in 0..=random(4) {
                    let at = random(damaged.len());
                    damaged[at] = [0, 1, 0x7f, 0xff, b'9'][random(5)];
                }
                read(&damaged);
            }
        }
    }

    #[test]
    fn a_size_is_not_believed() {
        // The dynamic section as large as it can be, in a file with a hole.
        let mut bytes = shared_library();
        let sections_at = bytes.len() - 3 * 64;
        bytes[sections_at + 64 + 32..][..8].copy_from_slice(&(1_u64 << 32).to_le_bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.set_len(1 << 34).unwrap();
        file.rewind().unwrap();
        let started = std::time::Instant::now();
        assert_eq!(LinkerFile::read(file).unwrap().kind, Kind::Shared(SharedLibrary::default()));
        assert!(started.elapsed().as_secs() < 5);
    }
}

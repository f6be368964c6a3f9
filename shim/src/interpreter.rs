//! The dynamic loader, brought in by the launcher itself: what the kernel does for a program that names one (Linux,
//! `fs/binfmt_elf.c`, `load_elf_interp`) before it enters it. So a command for which [`quick`](crate::quick) is enough is over
//! before there is a loader, and all others find the process as if the kernel had done it.
//! Allocates nothing, uses no thread-local storage and no function of the C library: none of that is there yet.

use std::ffi::CStr;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use libc::Elf64_Ehdr;
use libc::Elf64_Phdr;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;

/// More program headers than programs and loaders have.
const MOST_HEADERS: usize = 32;

/// Of this processor's smallest pages; a loader is laid out for larger ones as well.
const PAGE_BYTES: usize = 4096;

const NO_HEADER: Elf64_Phdr = Elf64_Phdr {
    p_type: libc::PT_NULL,
    p_flags: 0,
    p_offset: 0,
    p_vaddr: 0,
    p_paddr: 0,
    p_filesz: 0,
    p_memsz: 0,
    p_align: 0,
};

/// The program headers that the loader is shown: with one that names the loader, which the program's own must not have.
pub type Headers = [Elf64_Phdr; MOST_HEADERS];

/// Headers for [`Interpreter::announce`] to fill in.
pub const NO_HEADERS: Headers = [NO_HEADER; MOST_HEADERS];

/// A loader in memory.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter {
    /// What is added to the addresses that its file has.
    pub base: usize,
    /// Where it is entered.
    pub entry: usize,
}

impl Interpreter {
    /// Brings in the loader at `path`. `room`: for the beginning of the file, since a stack may be small.
    ///
    /// # Errors
    /// The file cannot be read, is no loader for this processor, or there is no memory.
    pub fn load(path: &CStr, room: &mut [u8]) -> Result<Interpreter, Errno> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // It would be closed by the C library's function.
        let file = ManuallyDrop::new(file);
        let loaded = load_from(file.as_fd(), room);
        // SAFETY: it is used no more.
        unsafe { rustix::io::close(file.as_raw_fd()) };
        loaded
    }

    /// Changes the auxiliary vector (System V ABI, "Process Initialization") into what it would be if the kernel had loaded
    /// the loader that `name` names. `entry`: where the program begins for the loader. None, and nothing is changed: there is no place for its
    /// program headers, or one of the values is missing.
    ///
    /// # Safety
    /// `vector` is this process's, up to its `AT_NULL`, and nobody else looks at it; the program is at the addresses that its
    /// file has; `entry` is in it.
    pub unsafe fn announce(
        self,
        vector: *mut [usize; 2],
        entry: usize,
        name: &'static CStr,
        headers: &'static mut Headers,
    ) -> Option<()> {
        let value = |kind: u64| {
            // SAFETY: the caller vouches for the vector, which ends in `AT_NULL`.
            unsafe { value(vector, kind) }
        };
        let (phdr, count) = (value(libc::AT_PHDR)?, value(libc::AT_PHNUM)?);
        let (base, program) = (value(libc::AT_BASE)?, value(libc::AT_ENTRY)?);
        // SAFETY: the kernel says so, and they stay.
        let own = unsafe { std::slice::from_raw_parts(phdr.read() as *const Elf64_Phdr, count.read()) };
        let address = headers.as_ptr() as usize;
        let (interpreter, rest) = headers.split_first_mut()?;
        let bytes = u64::try_from(name.to_bytes_with_nul().len()).ok()?;
        let place = name.as_ptr() as u64;
        *interpreter = Elf64_Phdr {
            p_type: libc::PT_INTERP,
            p_flags: libc::PF_R,
            p_vaddr: place,
            p_paddr: place,
            p_filesz: bytes,
            p_memsz: bytes,
            p_align: 1,
            ..NO_HEADER
        };
        let copied = rest.get_mut(..own.len())?;
        copied.copy_from_slice(own);
        // From where this is said to be, and where it is, the loader reckons where the program is.
        for header in copied.iter_mut().filter(|header| header.p_type == libc::PT_PHDR) {
            (header.p_vaddr, header.p_paddr) = (address as u64, address as u64);
        }
        // SAFETY: all of them were found in the vector.
        unsafe {
            phdr.write(address);
            count.write(own.len() + 1);
            base.write(self.base);
            program.write(entry);
        }
        Some(())
    }
}

/// The place of a value in an auxiliary vector.
///
/// # Safety
/// The vector ends in `AT_NULL`.
unsafe fn value(mut vector: *mut [usize; 2], wanted: u64) -> Option<*mut usize> {
    loop {
        // SAFETY: the caller vouches for the end, which has not come yet.
        let kind = unsafe { (*vector)[0] } as u64;
        if kind == wanted {
            // SAFETY: as above.
            return Some(unsafe { &raw mut (*vector)[1] });
        }
        if kind == libc::AT_NULL {
            return None;
        }
        // SAFETY: as above.
        vector = unsafe { vector.add(1) };
    }
}

fn load_from(file: BorrowedFd<'_>, room: &mut [u8]) -> Result<Interpreter, Errno> {
    let room = room.get_mut(..PAGE_BYTES).ok_or(Errno::NOMEM)?;
    let read = rustix::io::pread(file, &mut *room, 0)?;
    let head = room.get(..read).unwrap_or_default();
    let layout = Layout::read(head).ok_or(Errno::NOEXEC)?;
    // SAFETY: new memory.
    let reserved = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            layout.high - layout.low,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    let base = (reserved as usize).wrapping_sub(layout.low);
    for segment in layout.segments() {
        // SAFETY: memory was reserved for all of them.
        unsafe { segment.map(file, base) }?;
    }
    Ok(Interpreter { base, entry: base.wrapping_add(layout.entry) })
}

/// What a file says of itself that can be loaded at any address.
struct Layout {
    entry: usize,
    /// The addresses from the first page to behind the last.
    low: usize,
    high: usize,
    segments: [Segment; MOST_HEADERS],
    count: usize,
}

impl Layout {
    /// None: these are not the first bytes of such a file for this processor.
    fn read(head: &[u8]) -> Option<Layout> {
        let header = Layout::header(head)?;
        let entry = usize::try_from(header.e_entry).ok()?;
        let mut layout = Layout { entry, low: 0, high: 0, segments: [Segment::NONE; MOST_HEADERS], count: 0 };
        let mut at = usize::try_from(header.e_phoff).ok()?;
        for _ in 0..header.e_phnum {
            // SAFETY: any bytes are such numbers.
            let program_header: Elf64_Phdr = unsafe { structure(head, at) }?;
            if program_header.p_type == libc::PT_LOAD {
                layout.add(Segment::of(&program_header)?)?;
            }
            at = at.checked_add(size_of::<Elf64_Phdr>())?;
        }
        (layout.low..layout.high).contains(&entry).then_some(layout)
    }

    fn header(head: &[u8]) -> Option<Elf64_Ehdr> {
        // SAFETY: any bytes are such numbers.
        let header: Elf64_Ehdr = unsafe { structure(head, 0) }?;
        let identity = [0x7f, b'E', b'L', b'F', libc::ELFCLASS64, libc::ELFDATA2LSB];
        let is_known = header.e_ident.starts_with(&identity)
            && header.e_type == libc::ET_DYN
            && header.e_machine == libc::EM_X86_64
            && usize::from(header.e_phentsize) == size_of::<Elf64_Phdr>();
        is_known.then_some(header)
    }

    /// Segments are in the order of their addresses (System V ABI, "Program Header").
    fn add(&mut self, segment: Segment) -> Option<()> {
        if self.count == 0 {
            self.low = floor(segment.start);
        } else if floor(segment.start) < self.high {
            return None;
        }
        self.high = ceiling(segment.start.checked_add(segment.bytes)?)?;
        *self.segments.get_mut(self.count)? = segment;
        self.count += 1;
        Some(())
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().take(self.count)
    }
}

/// One part of a file that becomes memory; addresses as the file counts them.
#[derive(Clone, Copy)]
struct Segment {
    start: usize,
    /// With what is in memory, zeros at the end included.
    bytes: usize,
    /// Where in the file it begins, and how much of it is there.
    offset: usize,
    bytes_in_file: usize,
    protection: ProtFlags,
}

impl Segment {
    const NONE: Segment =
        Segment { start: 0, bytes: 0, offset: 0, bytes_in_file: 0, protection: ProtFlags::empty() };

    fn of(header: &Elf64_Phdr) -> Option<Segment> {
        let mut protection = ProtFlags::empty();
        protection.set(ProtFlags::READ, header.p_flags & libc::PF_R != 0);
        protection.set(ProtFlags::WRITE, header.p_flags & libc::PF_W != 0);
        protection.set(ProtFlags::EXEC, header.p_flags & libc::PF_X != 0);
        let segment = Segment {
            start: usize::try_from(header.p_vaddr).ok()?,
            bytes: usize::try_from(header.p_memsz).ok()?,
            offset: usize::try_from(header.p_offset).ok()?,
            bytes_in_file: usize::try_from(header.p_filesz).ok()?,
            protection,
        };
        let is_sound = segment.bytes_in_file <= segment.bytes
            && segment.start % PAGE_BYTES == segment.offset % PAGE_BYTES
            && segment.start.checked_add(segment.bytes).is_some()
            && (segment.bytes_in_file == segment.bytes || protection.contains(ProtFlags::WRITE));
        is_sound.then_some(segment)
    }

    /// # Safety
    /// The pages of the segment, with `base` added, are free to be replaced.
    unsafe fn map(&self, file: BorrowedFd<'_>, base: usize) -> Result<(), Errno> {
        let at = |address: usize| base.wrapping_add(address) as *mut c_void;
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
        let (page, within) = (floor(self.start), self.start % PAGE_BYTES);
        let end_of_file = self.start + self.bytes_in_file;
        let mapped =
            if self.bytes_in_file == 0 { page } else { ceiling(end_of_file).ok_or(Errno::NOEXEC)? };
        let end = ceiling(self.start + self.bytes).ok_or(Errno::NOEXEC)?;
        if page < mapped {
            let (bytes, offset) = (within + self.bytes_in_file, (self.offset - within) as u64);
            // SAFETY: the caller vouches for the pages.
            unsafe { rustix::mm::mmap(at(page), bytes, self.protection, fixed, file, offset) }?;
        }
        if self.bytes_in_file < self.bytes {
            let zeros = mapped.saturating_sub(end_of_file);
            // SAFETY: the rest of a page that was mapped just now, and can be written.
            unsafe { at(end_of_file).cast::<u8>().write_bytes(0, zeros) };
        }
        if mapped < end {
            // SAFETY: the caller vouches for the pages.
            unsafe { rustix::mm::mmap_anonymous(at(mapped), end - mapped, self.protection, fixed) }?;
        }
        Ok(())
    }
}

fn floor(address: usize) -> usize {
    address - address % PAGE_BYTES
}

fn ceiling(address: usize) -> Option<usize> {
    address.checked_next_multiple_of(PAGE_BYTES)
}

/// What stands at an offset, if all of it is there.
///
/// # Safety
/// Any bytes make a `T`.
unsafe fn structure<T: Copy>(bytes: &[u8], at: usize) -> Option<T> {
    let place = bytes.get(at..)?.get(..size_of::<T>())?;
    // SAFETY: so many bytes are there, and the caller vouches for their meaning.
    Some(unsafe { place.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const LOADER: &CStr = c"/lib64/ld-linux-x86-64.so.2";

    fn loader() -> Option<Vec<u8>> {
        std::fs::read(LOADER.to_str().unwrap()).ok()
    }

    #[test]
    fn what_is_in_the_file_is_in_memory_and_zeros_behind_it() {
        let Some(content) = loader() else { return };
        let interpreter = Interpreter::load(LOADER, &mut [0; PAGE_BYTES]).unwrap();
        let layout = Layout::read(&content).unwrap();
        assert_eq!(interpreter.entry, interpreter.base + layout.entry);
        let at = |address: usize| (interpreter.base + address) as *const u8;
        assert!(layout.count > 1);
        for segment in layout.segments().filter(|segment| segment.protection.contains(ProtFlags::READ)) {
            // SAFETY: mapped just now, and of no use to anybody else.
            let memory = unsafe { std::slice::from_raw_parts(at(segment.start), segment.bytes) };
            let (filled, zeros) = memory.split_at(segment.bytes_in_file);
            assert!(filled == &content[segment.offset..][..segment.bytes_in_file], "{:#x}", segment.start);
            assert!(zeros.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn no_file_misleads() {
        let load = |path: &CStr| Interpreter::load(path, &mut [0; PAGE_BYTES]).map(|loaded| loaded.base);
        assert_eq!(load(c"/nowhere"), Err(Errno::NOENT));
        assert_eq!(load(c"/"), Err(Errno::ISDIR));
        assert_eq!(load(c"/dev/null"), Err(Errno::NOEXEC));
        let Some(content) = loader() else { return };
        let head = &content[..PAGE_BYTES];
        for length in 0..size_of::<Elf64_Ehdr>() {
            assert!(Layout::read(&head[..length]).is_none());
        }
        // Whatever is wrong, what is left lies within what is reserved for it, in order.
        for at in 0..1024 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut head = head.to_vec();
                head[at] = byte;
                let Some(layout) = Layout::read(&head) else { continue };
                let mut low = layout.low;
                for segment in layout.segments() {
                    assert!(low <= segment.start && segment.bytes_in_file <= segment.bytes);
                    low = ceiling(segment.start + segment.bytes).unwrap();
                }
                assert_eq!(low, layout.high);
            }
        }
    }

    #[test]
    fn too_large_a_loader_is_an_error() {
        let Some(mut content) = loader() else { return };
        // The first segment's size in memory; that it is larger than in the file needs a writable one.
        let table = usize::try_from(Layout::header(&content).unwrap().e_phoff).unwrap();
        let load = (0..).map(|entry| table + entry * size_of::<Elf64_Phdr>());
        let last = load
            .take_while(|at| *at < table + 20 * size_of::<Elf64_Phdr>())
            .filter(|at| content[*at..].starts_with(&libc::PT_LOAD.to_le_bytes()))
            .last()
            .unwrap();
        content[last + 40..][..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ld.so");
        std::fs::write(&path, &content).unwrap();
        assert_eq!(
            load_from(File::open(path).unwrap().as_fd(), &mut [0; PAGE_BYTES]).unwrap_err(),
            Errno::NOMEM
        );
    }

    #[test]
    fn the_loader_is_told_what_the_kernel_would_have_told() {
        let program = |kind, address| Elf64_Phdr { p_type: kind, p_vaddr: address, ..NO_HEADER };
        let own: &'static [Elf64_Phdr] =
            vec![program(libc::PT_PHDR, 0x40_0040), program(libc::PT_LOAD, 0x40_0000)].leak();
        let vector = |count: usize| {
            let number = |kind: u64| usize::try_from(kind).unwrap();
            vec![
                [number(libc::AT_PHDR), own.as_ptr() as usize],
                [number(libc::AT_PAGESZ), 4096],
                [number(libc::AT_PHNUM), count],
                [number(libc::AT_BASE), 0],
                [number(libc::AT_ENTRY), 0x40_1000],
                [number(libc::AT_NULL), 0],
            ]
        };
        let interpreter = Interpreter { base: 0x7000, entry: 0x7100 };
        let headers: &'static mut Headers = Box::leak(Box::new(NO_HEADERS));
        let address = headers.as_ptr() as usize;
        let mut told = vector(own.len());
        // SAFETY: the vector is as it should be, and nothing is entered.
        unsafe { interpreter.announce(told.as_mut_ptr(), 0x40_2000, c"/ld.so", headers) }.unwrap();
        assert_eq!(
            told.iter().map(|[_, value]| *value).collect::<Vec<_>>(),
            [address, 4096, 3, 0x7000, 0x40_2000, 0]
        );
        // SAFETY: they are leaked, and nobody writes them any more.
        let told = unsafe { std::slice::from_raw_parts(address as *const Elf64_Phdr, 3) };
        let kinds: Vec<_> = told.iter().map(|header| header.p_type).collect();
        assert_eq!(kinds, [libc::PT_INTERP, libc::PT_PHDR, libc::PT_LOAD]);
        // SAFETY: it is the name's, which is static.
        assert_eq!(unsafe { CStr::from_ptr(told[0].p_vaddr as *const _) }, c"/ld.so");
        assert_eq!((told[0].p_filesz, told[1].p_vaddr, told[2].p_vaddr), (7, address as u64, 0x40_0000));
        // As many as there is no room for.
        let many: &'static [Elf64_Phdr] = vec![NO_HEADER; MOST_HEADERS].leak();
        let mut told = vector(many.len());
        told[0][1] = many.as_ptr() as usize;
        let headers: &'static mut Headers = Box::leak(Box::new(NO_HEADERS));
        // SAFETY: as above.
        let announced = unsafe { interpreter.announce(told.as_mut_ptr(), 0, c"/ld.so", headers) };
        assert_eq!((announced, told[0][1]), (None, many.as_ptr() as usize));
    }
}

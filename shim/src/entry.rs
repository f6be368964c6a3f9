//! Where the kernel enters the launcher, which names no dynamic loader: before there is one, or a C library, a command that is a
//! hit is answered for ([`farcc::quick`]). For all others the loader is brought in ([`farcc::interpreter`]), which finds the stack as
//! the kernel has left it, and goes on to the C library's own entry.

use std::cell::UnsafeCell;
use std::ffi::CStr;

use farcc::interpreter::Headers;
use farcc::interpreter::Interpreter;
use farcc::interpreter::NO_HEADERS;
use farcc::quick;
use farcc::quick::ROOM_BYTES;
use farcc::quick::Start;
use rustix::io::Errno;

/// The loader that programs have on the machine for which this was built.
const INTERPRETER: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("FARCC_INTERPRETER"), "\0").as_bytes()) {
        Ok(path) => path,
        Err(_) => c"",
    };

const EXIT_GROUP: usize = 231;
const WRITE: usize = 1;

/// As a shell ends when there is no such program.
const NOT_FOUND: usize = 127;

std::arch::global_asm!(
    ".globl farcc_entry",
    ".type farcc_entry, @function",
    "farcc_entry:",
    // Whoever has started the loader, for it to start the launcher, has one: it gives a function to be called at the end, and
    // the kernel none (System V ABI, "Process Initialization").
    "test rdx, rdx",
    "jnz _start",
    "xor ebp, ebp",
    "mov r12, rsp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {enter}",
    "mov rsp, r12",
    "xor edx, edx",
    "jmp rax",
    enter = sym enter,
);

unsafe extern "C" {
    /// The C library's entry (`crt1.o`).
    fn _start();
}

/// What is used once, before there can be a second thread.
struct Once<T>(UnsafeCell<T>);

// SAFETY: only `enter` uses it.
unsafe impl<T> Sync for Once<T> {}

/// Room that nobody has to fill with zeros.
static ROOM: Once<[u8; ROOM_BYTES]> = Once(UnsafeCell::new([0; ROOM_BYTES]));

static HEADERS: Once<Headers> = Once(UnsafeCell::new(NO_HEADERS));

/// Ends the process, or says where it goes on.
unsafe extern "C" fn enter(stack: *const usize) -> usize {
    // SAFETY: the entry has passed on the stack pointer that the kernel gave, and nobody else uses the room.
    let (start, room) = unsafe { (Start::read(stack), &mut *ROOM.0.get()) };
    if let Some(status) = quick::answer(start, room) {
        exit(usize::from(status));
    }
    let interpreter = match Interpreter::load(INTERPRETER, room) {
        Ok(interpreter) => interpreter,
        Err(error) => give_up(why(error)),
    };
    // SAFETY: it is the kernel's vector; `build.rs` has the program linked for fixed addresses; nobody else uses the headers.
    let announced = unsafe {
        interpreter.announce(
            start.auxiliary(),
            _start as *const () as usize,
            INTERPRETER,
            &mut *HEADERS.0.get(),
        )
    };
    if announced.is_none() {
        give_up("it cannot be told of the launcher");
    }
    interpreter.entry
}

/// In the C library's words, which are not there yet.
fn why(error: Errno) -> &'static str {
    match error {
        Errno::NOENT => "No such file or directory",
        Errno::ACCESS => "Permission denied",
        Errno::NOMEM => "Cannot allocate memory",
        Errno::NOEXEC => "Exec format error",
        _ => "it cannot be read",
    }
}

/// Where the kernel would have refused to start the program.
fn give_up(why: &str) -> ! {
    for text in ["farcc: failed to load ", env!("FARCC_INTERPRETER"), ": ", why, "\n"] {
        // SAFETY: the kernel reads a text.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") WRITE => _,
                in("rdi") 2,
                in("rsi") text.as_ptr(),
                in("rdx") text.len(),
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
    }
    exit(NOT_FOUND)
}

/// `exit_group(2)`: the C library has nothing to clean up yet.
fn exit(status: usize) -> ! {
    // SAFETY: it does not return.
    unsafe {
        std::arch::asm!("syscall", in("rax") EXIT_GROUP, in("rdi") status, options(noreturn, nostack));
    }
}

/// What compilers take for granted: the C library's own are not there yet when the launcher is entered.
mod bytes {
    // Hidden, or GNU ld would leave it to the loader to fill in where they are.
    std::arch::global_asm!(
        ".irp name, memcpy, memmove, memset, memcmp, bcmp, strlen",
        ".globl \\name",
        ".hidden \\name",
        ".type \\name, @function",
        ".endr",
        "memcpy: jmp {memcpy}",
        "memmove: jmp {memmove}",
        "memset: jmp {memset}",
        "memcmp: jmp {memcmp}",
        "bcmp: jmp {memcmp}",
        "strlen: jmp {strlen}",
        memcpy = sym memcpy,
        memmove = sym memmove,
        memset = sym memset,
        memcmp = sym memcmp,
        strlen = sym strlen,
    );

    /// # Safety
    /// That of `memcpy(3)`.
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for both; the direction flag is clear (System V ABI).
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") count => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// # Safety
    /// That of `memmove(3)`.
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: copied upwards, no byte is overwritten before it is read.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: copied downwards, the same; the flag is cleared again.
        unsafe {
            std::arch::asm!(
                "std",
                "rep movsb",
                "cld",
                inout("rcx") count => _,
                inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
                options(nostack),
            );
        }
        to
    }

    /// # Safety
    /// That of `memset(3)`.
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the memory.
        unsafe {
            std::arch::asm!(
                "rep stosb",
                inout("rcx") count => _,
                inout("rdi") to => _,
                in("al") byte.to_le_bytes()[0],
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// # Safety
    /// That of `memcmp(3)` and `bcmp(3)`.
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        for at in 0..count {
            // SAFETY: the caller vouches for both; volatile, or the loop would be taken for a call of this function.
            let (one, other) = unsafe { (one.add(at).read_volatile(), other.add(at).read_volatile()) };
            if one != other {
                return i32::from(one) - i32::from(other);
            }
        }
        0
    }

    /// # Safety
    /// That of `strlen(3)`.
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller vouches for a zero at the end.
        while unsafe { text.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }
}

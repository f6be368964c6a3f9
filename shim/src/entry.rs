//! Where the kernel enters the launcher, which is linked statically: before the C library is made ready, a command that is a hit
//! is answered for ([`farcc::quick`]). All others go on to the C library's own entry, with the stack as the kernel left it.

use std::cell::UnsafeCell;

use farcc::quick;
use farcc::quick::ROOM_BYTES;
use farcc::quick::Start;

std::arch::global_asm!(
    ".globl farcc_entry",
    ".type farcc_entry, @function",
    "farcc_entry:",
    "xor ebp, ebp",
    // What the C library's entry looks at: the stack, and the function to be called at the end, of which there is none.
    "mov r12, rsp",
    "mov r13, rdx",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {quick}",
    "mov rsp, r12",
    "mov rdx, r13",
    "jmp _start",
    quick = sym enter,
);

/// Room that nobody has to fill with zeros.
struct Room(UnsafeCell<[u8; ROOM_BYTES]>);

// SAFETY: only `enter` uses it, once, before there can be a second thread.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; ROOM_BYTES]));

/// Ends the process, or returns for the C library to begin.
unsafe extern "C" fn enter(stack: *const usize) {
    // SAFETY: the entry has passed on the stack pointer that the kernel gave, and nobody else uses the room.
    let (start, room) = unsafe { (Start::read(stack), &mut *ROOM.0.get()) };
    if let Some(status) = quick::answer(start, room) {
        exit(status);
    }
}

/// `exit_group(2)`: the C library has nothing to clean up yet.
fn exit(status: u8) -> ! {
    const EXIT_GROUP: usize = 231;
    // SAFETY: it does not return.
    unsafe {
        std::arch::asm!("syscall", in("rax") EXIT_GROUP, in("rdi") usize::from(status), options(noreturn, nostack));
    }
}

/// The C library's own choose between variants by what the processor can do, which is not known yet when the launcher is entered.
mod bytes {
    /// # Safety
    /// That of `memcpy(3)`.
    #[unsafe(no_mangle)]
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
    #[unsafe(no_mangle)]
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
    #[unsafe(no_mangle)]
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
    /// That of `memcmp(3)`.
    #[unsafe(no_mangle)]
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
    /// That of `bcmp(3)`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        // SAFETY: the caller vouches for both.
        unsafe { memcmp(one, other, count) }
    }

    /// # Safety
    /// That of `strlen(3)`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller vouches for a zero at the end.
        while unsafe { text.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }
}

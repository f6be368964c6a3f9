//! The program `farcc`: hands its `argv` to [`farcc::launch`].
//! Has the C library's `main` and not Rust's, which would ignore SIGPIPE and open closed descriptors: what the
//! launcher becomes by `exec` must find everything as it was.

#![no_main]

#[cfg(farcc_quick)]
mod entry;

use std::ffi::CStr;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::os::unix::ffi::OsStrExt;

// SAFETY: this is the one `main` of the program, with the signature that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or_default();
    let argv: Vec<OsString> = (0..count)
        .map(|index| {
            // SAFETY: the C library passes `argc` pointers to strings that live as long as the process.
            let arg = unsafe { CStr::from_ptr(*argv.add(index)) };
            OsStr::from_bytes(arg.to_bytes()).to_owned()
        })
        .collect();
    c_int::from(farcc::launch::run(&argv))
}

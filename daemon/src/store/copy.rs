//! Copies one open file into another, sharing its blocks where the file system can.
//! Knows nothing of stores.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;

use crate::digest::BUFFER_BYTES;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::digest::Hasher;

/// What is not longer is copied faster than blocks are shared: all of it is read in any case, for its digest.
const SMALL_BYTES: u64 = 64 << 10;

/// Fills `to` (empty, open for reading and writing) with at most `most_bytes` of `from` (at its start), and returns the
/// digest of what `to` holds now: `from` may be changing.
pub(super) fn clone_or_copy(
    from: &File,
    most_bytes: u64,
    to: &mut File,
    function: DigestFunction,
) -> io::Result<Digest> {
    let mut hasher = Hasher::of(function);
    if most_bytes > SMALL_BYTES && rustix::fs::ioctl_ficlone(&*to, from).is_ok() {
        to.rewind()?;
        hasher.read(to)?;
        return Ok(hasher.finish());
    }
    let mut from = from.take(most_bytes);
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                hasher.update(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

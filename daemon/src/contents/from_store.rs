//! Content that is in a store, or in another file of the same trees.
//! Knows nothing of how it came there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::Seek as _;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::digest::Digest;
use crate::mirror::Contents;
use crate::mirror::KnownFile;
use crate::mirror::TreePath;
use crate::store::Store;

/// Gives content from a store, or from a file that has it already.
pub struct FromStore<'a> {
    /// Has what was sent.
    pub store: &'a Store,
    /// Where a content is in the trees.
    pub trees: HashMap<Digest, KnownFile>,
}

impl Contents for FromStore<'_> {
    fn stage(
        &self,
        _root: u32,
        path: &TreePath,
        digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
        if let Some(known) = self.trees.get(digest)
            && let Ok(mut from) = known.open()
        {
            io::copy(&mut from, &mut file)?;
            file.rewind()?;
            // It may be written to right now.
            if Digest::of_reader(&mut file)? == *digest {
                return Ok(true);
            }
            file.rewind()?;
            file.set_len(0)?;
        }
        self.store.export(digest, &mut file, path.as_path()).map_err(io::Error::other)
    }
}

//! How much room is left where files are kept, and how much of it is for others: a compiler writes temporary files, and
//! where these share a file system with the store, a store that takes all would make the build fail.
//! Knows nothing of what is kept.

use std::path::Path;

/// What is left to others on a large file system; on a small one it is a quarter.
const MOST_RESERVED_BYTES: u64 = 1 << 30;

/// The room of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What this user may still write, in bytes.
    pub free_bytes: u64,
    /// How much of that is for others.
    pub reserved_bytes: u64,
}

impl Room {
    /// Of the file system that `directory` lies in; none where it does not tell.
    pub fn of(directory: &Path) -> Option<Room> {
        let found = rustix::fs::statvfs(directory).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let total_bytes = Some(bytes(found.f_blocks)).filter(|total| *total > 0)?;
        Some(Room {
            free_bytes: bytes(found.f_bavail),
            reserved_bytes: MOST_RESERVED_BYTES.min(total_bytes / 4),
        })
    }

    /// Whether what is kept ought to become less.
    pub fn is_short(&self) -> bool {
        self.free_bytes < self.reserved_bytes
    }

    /// Whether nothing more may be kept.
    pub fn is_scarce(&self) -> bool {
        self.free_bytes < self.reserved_bytes / 2
    }
}

/// Whether nothing more may be kept in `directory`.
pub fn is_scarce(directory: &Path) -> bool {
    Room::of(directory).is_some_and(|room| room.is_scarce())
}

/// Takes away the file or the symlink that is about to be replaced, as compilers do. A rename over it would have ext4 write the new
/// file to the disk at once (`auto_da_alloc`), for whoever replaces what he cannot make again.
pub fn make_way(path: &Path) {
    // If it cannot be taken away, it cannot be replaced, and that will be said; or it is a directory, which stays.
    let _ = rustix::fs::unlink(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_tells_its_room_or_nothing_is_kept_from_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::of(directory.path()).unwrap();
        assert!(room.reserved_bytes > 0 && room.reserved_bytes <= MOST_RESERVED_BYTES, "{room:?}");
        // One without blocks, and none at all.
        assert_eq!((Room::of(Path::new("/proc")), Room::of(Path::new("/nonexistent"))), (None, None));
        assert!(!is_scarce(Path::new("/proc")));
    }

    #[test]
    fn keeping_ends_before_the_room_does() {
        let room = |free_bytes| Room { free_bytes, reserved_bytes: 100 };
        assert!(!room(100).is_short());
        assert!(room(99).is_short() && !room(50).is_scarce());
        assert!(room(49).is_scarce());
    }
}

//! The runs of commands of which everything else is known: one file to which all daemons of a user append, since most hits are
//! such, and each is to cost one `write`.
//! Knows nothing of what the runs say.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::record::Again;
use prost::Message;
use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::disk;

/// A longer file is put aside, in place of the one that was put aside before: a hundred thousand runs stay.
const MOST_BYTES: u64 = 16 << 20;

/// No entry is longer; what says that it is, is damaged.
const MOST_ENTRY_BYTES: usize = 64 << 10;

/// How often is looked whether the file system has room, and whether the file is still the one in its place.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Length and checksum before each entry.
const HEADER_BYTES: usize = 8;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Clone)]
struct Open {
    /// None: nothing is to be written, or can be.
    file: Option<Arc<File>>,
    looked: Instant,
}

impl Journal {
    /// The journal in `directory`, which need not be there yet.
    pub(super) fn new(directory: &Path) -> Journal {
        Journal { path: directory.join("again"), open: Mutex::new(None) }
    }

    /// Appends an entry; false if there is no room for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn append(&self, entry: &Again) -> io::Result<bool> {
        let Some(file) = self.file()? else { return Ok(false) };
        let payload = entry.encode_to_vec();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let bytes = [&length, &checksum(&payload), &*payload].concat();
        // In one piece, so that those of others come before or after it. A part of it, for want of room, is passed over.
        let written = (&*file).write(&bytes)?;
        if written < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(true)
    }

    /// Shows all entries, the oldest first, but those that were damaged: for whoever asks, for no command that waits.
    ///
    /// # Errors
    /// When a file is there but cannot be read.
    pub(super) fn visit(&self, mut see: impl FnMut(Again)) -> io::Result<()> {
        for path in [self.aside(), self.path.clone()] {
            match std::fs::read(path) {
                Ok(bytes) => decode(&bytes, &mut see),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file to write to, if there is room.
    fn file(&self) -> io::Result<Option<Arc<File>>> {
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(open) = known.filter(|open| open.looked.elapsed() < LOOK_INTERVAL) {
            return Ok(open.file);
        }
        let file = self.look()?;
        let open = Open { file: file.clone(), looked: Instant::now() };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
        Ok(file)
    }

    fn look(&self) -> io::Result<Option<Arc<File>>> {
        let directory = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(directory)?;
        if disk::is_scarce(directory) {
            return Ok(None);
        }
        let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        let file = open()?;
        if file.metadata()?.len() <= MOST_BYTES {
            return Ok(Some(Arc::new(file)));
        }
        // One at a time puts it aside, here and among all daemons: the second would put away the new one.
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && self.is_in_place(&file)?
        {
            std::fs::rename(&self.path, self.aside())?;
        }
        Ok(Some(Arc::new(open()?)))
    }

    fn is_in_place(&self, file: &File) -> io::Result<bool> {
        let (here, there) = (file.metadata()?, std::fs::metadata(&self.path)?);
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }

    fn aside(&self) -> PathBuf {
        self.path.with_extension("before")
    }
}

/// Not against those who mean harm: the file is the user's own.
fn checksum(payload: &[u8]) -> [u8; 4] {
    let digest = Digest::of(payload);
    let mut first = [0; 4];
    first.copy_from_slice(&digest.hash()[..4]);
    first
}

/// Passes over what is no entry.
fn decode(mut bytes: &[u8], see: &mut impl FnMut(Again)) {
    while !bytes.is_empty() {
        let length = match entry(bytes) {
            Some((entry, length)) => {
                see(entry);
                length
            }
            None => 1,
        };
        bytes = &bytes[length..];
    }
}

/// The entry with which the bytes begin, and how long it is.
fn entry(bytes: &[u8]) -> Option<(Again, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (length, sum) = header.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|it| *it <= MOST_ENTRY_BYTES)?;
    let payload = rest.get(..length)?;
    if checksum(payload) != sum {
        return None;
    }
    Some((Again::decode(payload).ok()?, HEADER_BYTES + length))
}

#[cfg(test)]
mod tests {
    use farcc_proto::record::Run;

    use super::*;

    fn again(millis: u64) -> Again {
        let run = Run { unix_millis: millis, ..Run::default() };
        Again { outputs: vec![vec![1; 32]], command: vec![2; 32], run: Some(run) }
    }

    fn millis(journal: &Journal) -> Vec<u64> {
        let mut seen = Vec::new();
        journal.visit(|entry| seen.push(entry.run.unwrap().unix_millis)).unwrap();
        seen
    }

    #[test]
    fn what_is_damaged_hides_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(&directory.path().join("history"));
        assert!(millis(&journal).is_empty());
        for number in 1..=3 {
            assert!(journal.append(&again(number)).unwrap());
        }
        let whole = std::fs::read(&journal.path).unwrap();
        let length = whole.len() / 3;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&journal.path, bytes).unwrap();
            let damaged = u64::try_from(at / length).unwrap() + 1;
            let others: Vec<_> = (1..=3).filter(|number| *number != damaged).collect();
            assert_eq!(millis(&journal), others, "byte {at}");
        }
        // Part of an entry, and whole ones after it.
        std::fs::write(&journal.path, [&whole[..length + 20], &whole].concat()).unwrap();
        assert_eq!(millis(&journal), [1, 1, 2, 3]);
    }

    #[test]
    fn a_long_journal_is_put_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        for number in [1, 2, 3] {
            assert!(journal.append(&again(number)).unwrap());
            let file = OpenOptions::new().append(true).open(&journal.path).unwrap();
            file.set_len(MOST_BYTES + 1).unwrap();
            *journal.open.lock().unwrap() = None;
        }
        assert!(journal.append(&again(4)).unwrap());
        // Zeros are no entries.
        assert_eq!(millis(&journal), [3, 4]);
    }
}

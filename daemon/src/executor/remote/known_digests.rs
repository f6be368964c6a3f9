//! Digests of the same bytes by the function of this machine and by a cluster's.
//! Knows nothing of what the bytes are.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use dashmap::DashMap;

use crate::digest::BUFFER_BYTES;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::digest::Hasher;
use crate::executor::remote::RemoteError;

/// How many pairs are remembered; some 100 MB when full.
const CAPACITY: usize = 500_000;

/// A memory of pairs. What is in it stays true, so that it is only bounded.
#[derive(Default)]
pub(super) struct KnownDigests {
    there: DashMap<(Digest, DigestFunction), Digest>,
    here: DashMap<Digest, Digest>,
}

impl KnownDigests {
    /// The digest by `function` of the bytes that have the digest `here` and stand in the file at `path`, which is read
    /// only where it is not known. Blocks.
    ///
    /// # Errors
    /// [`RemoteError::InputChanged`] when the file has other bytes by now, or cannot be read.
    pub(super) fn of_file(
        &self,
        here: &Digest,
        path: &Path,
        function: DigestFunction,
    ) -> Result<Digest, RemoteError> {
        if here.function() == function {
            return Ok(*here);
        }
        if let Some(there) = self.there.get(&(*here, function)) {
            return Ok(*there);
        }
        let changed = || RemoteError::InputChanged(path.to_owned());
        let (now, there) = both(path, function).map_err(|_| changed())?;
        if now != *here {
            return Err(changed());
        }
        self.learn(now, there);
        Ok(there)
    }

    /// The digest here of a blob that a cluster names `there`, if it is known.
    pub(super) fn here(&self, there: &Digest) -> Option<Digest> {
        match there.function() {
            DigestFunction::Sha256 => Some(*there),
            DigestFunction::Blake3 | DigestFunction::Sha1 => self.here.get(there).map(|here| *here),
        }
    }

    /// Records that both are digests of the same bytes.
    pub(super) fn learn(&self, here: Digest, there: Digest) {
        if here == there {
            return;
        }
        if self.here.len() >= CAPACITY || self.there.len() >= CAPACITY {
            self.here.clear();
            self.there.clear();
        }
        self.there.insert((here, there.function()), there);
        self.here.insert(there, here);
    }
}

/// The digests of a file by SHA-256 and by `function`, of one reading.
fn both(path: &Path, function: DigestFunction) -> io::Result<(Digest, Digest)> {
    let mut file = File::open(path)?;
    let (mut here, mut there) = (Hasher::new(), Hasher::of(function));
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((here.finish(), there.finish())),
            Ok(n) => {
                here.update(&buffer[..n]);
                there.update(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_and_only_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "bytes").unwrap();
        let (known, here) = (KnownDigests::default(), Digest::of(b"bytes"));
        let there = DigestFunction::Blake3.digest(b"bytes");
        assert_eq!(known.here(&there), None);
        assert_eq!(known.of_file(&here, &path, DigestFunction::Blake3).unwrap(), there);
        assert_eq!(known.here(&there), Some(here));
        std::fs::write(&path, "other").unwrap();
        assert_eq!(known.of_file(&here, &path, DigestFunction::Blake3).unwrap(), there);
        let changed = known.of_file(&here, &path, DigestFunction::Sha1);
        assert!(matches!(changed, Err(RemoteError::InputChanged(file)) if file == path));
        std::fs::remove_file(&path).unwrap();
        assert!(known.of_file(&Digest::of(b"new"), &path, DigestFunction::Blake3).is_err());
        assert_eq!(known.of_file(&here, &path, DigestFunction::Sha256).unwrap(), here);
    }
}

//! The resource names of `ByteStream` calls (REAPI, `ContentAddressableStorage`).
//! Pure text.

use crate::digest::Digest;
use crate::digest::DigestFunction;

/// Which blob a name means, and how its bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobName {
    pub(super) digest: Digest,
    pub(super) encoding: Encoding,
}

/// How the bytes of a blob are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they are: `blobs`, and `compressed-blobs/identity`.
    Identity,
    /// As one or more zstd frames: `compressed-blobs/zstd`.
    Zstd,
}

/// Reads `[instance/]blobs/[function/]hash/size`, or `[instance/]compressed-blobs/compressor/…`; else says what is wrong
/// with it.
pub(super) fn read_name(name: &str) -> Result<BlobName, String> {
    match parse(name)? {
        (false, blob) => Ok(blob),
        (true, _) => Err(wrong(name, "is that of an upload, which cannot be read")),
    }
}

/// Reads `[instance/]uploads/id/blobs/[function/]hash/size[/anything]`, or `…/compressed-blobs/compressor/…`; else says
/// what is wrong with it.
pub(super) fn write_name(name: &str) -> Result<BlobName, String> {
    match parse(name)? {
        (true, blob) => Ok(blob),
        (false, _) => Err(wrong(name, "is none for an upload")),
    }
}

/// Whether it is an upload, and of what.
fn parse(name: &str) -> Result<(bool, BlobName), String> {
    let wrong = |problem: &str| wrong(name, problem);
    let segments: Vec<&str> = name.split('/').collect();
    // No segment of an instance name may be one of the words, so the first one ends it.
    let start =
        segments.iter().position(|segment| matches!(*segment, "uploads" | "blobs" | "compressed-blobs"));
    let mut rest = start.and_then(|start| segments.get(start..)).ok_or_else(|| wrong("names no blob"))?;
    let is_write = rest[0] == "uploads";
    if is_write {
        rest = rest.get(2..).filter(|_| !rest[1].is_empty()).ok_or_else(|| wrong("has no upload id"))?;
    }
    let (encoding, mut rest) = match rest {
        ["blobs", rest @ ..] | ["compressed-blobs", "identity", rest @ ..] => (Encoding::Identity, rest),
        ["compressed-blobs", "zstd", rest @ ..] => (Encoding::Zstd, rest),
        ["compressed-blobs", ..] => return Err(wrong("asks for a compression that is not supported")),
        _ => return Err(wrong("names no blob")),
    };
    let mut function = None;
    if let [segment, ..] = rest
        && is_digest_function(segment)
    {
        // Only BLAKE3's must be there; the others' do no harm.
        let spoken = DigestFunction::ALL.into_iter().find(|function| function.name() == *segment);
        function = Some(spoken.ok_or_else(|| wrong("has a digest function that is not supported"))?);
        rest = &rest[1..];
    }
    let [hash, size, metadata @ ..] = rest else { return Err(wrong("has no hash and size")) };
    if !is_write && !metadata.is_empty() {
        return Err(wrong("goes on behind the size"));
    }
    let size_bytes = size.parse::<i64>().ok().and_then(|size| u64::try_from(size).ok());
    let size_bytes = size_bytes.ok_or_else(|| wrong("has no size"))?;
    let function = function.unwrap_or_else(|| inferred_function(hash));
    let digest = function.parse(hash, size_bytes).map_err(|error| error.to_string())?;
    Ok((is_write, BlobName { digest, encoding }))
}

fn wrong(name: &str, problem: &str) -> String {
    format!("the resource name {name:?} {problem}")
}

/// What a hash without a digest function is of: its length tells (REAPI, `Digest functions` of
/// `ContentAddressableStorage` and the field `digest_function` of each request).
pub(super) fn inferred_function(hash: &str) -> DigestFunction {
    if hash.len() == 40 { DigestFunction::Sha1 } else { DigestFunction::Sha256 }
}

/// Whether a segment is a digest function's name rather than a hash: no name is hexadecimal and that long.
fn is_digest_function(segment: &str) -> bool {
    segment.len() < 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(function: DigestFunction, encoding: Encoding) -> BlobName {
        BlobName { digest: function.digest(b"abc"), encoding }
    }

    #[test]
    fn names() {
        let [sha256, blake3, sha1] = DigestFunction::ALL.map(|function| function.digest(b"abc"));
        for (name, function, encoding) in [
            (format!("blobs/{sha256}"), DigestFunction::Sha256, Encoding::Identity),
            (format!("a/b/blobs/{sha256}"), DigestFunction::Sha256, Encoding::Identity),
            (format!("blobs/sha256/{sha256}"), DigestFunction::Sha256, Encoding::Identity),
            (format!("blobs/blake3/{blake3}"), DigestFunction::Blake3, Encoding::Identity),
            (format!("i/blobs/{sha1}"), DigestFunction::Sha1, Encoding::Identity),
            (format!("i/compressed-blobs/identity/{sha256}"), DigestFunction::Sha256, Encoding::Identity),
            (format!("compressed-blobs/zstd/{sha256}"), DigestFunction::Sha256, Encoding::Zstd),
            (format!("i/compressed-blobs/zstd/blake3/{blake3}"), DigestFunction::Blake3, Encoding::Zstd),
        ] {
            assert_eq!(read_name(&name), Ok(blob(function, encoding)), "{name}");
            assert!(write_name(&name).is_err(), "{name}");
        }
        for (name, function, encoding) in [
            (format!("uploads/4c2b/blobs/{sha256}"), DigestFunction::Sha256, Encoding::Identity),
            (format!("a/b/uploads/4c2b/blobs/{sha1}"), DigestFunction::Sha1, Encoding::Identity),
            (format!("a/uploads/blobs/blobs/{sha256}/f.o/x"), DigestFunction::Sha256, Encoding::Identity),
            (format!("uploads/4c2b/blobs/blake3/{blake3}"), DigestFunction::Blake3, Encoding::Identity),
            (format!("uploads/4c2b/compressed-blobs/zstd/{sha1}/x"), DigestFunction::Sha1, Encoding::Zstd),
        ] {
            assert_eq!(write_name(&name), Ok(blob(function, encoding)), "{name}");
            assert!(read_name(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn wrong_names() {
        let digest = Digest::of(b"abc");
        let sha1 = DigestFunction::Sha1.digest(b"abc");
        for name in [
            String::new(),
            "/".to_owned(),
            "uploads".to_owned(),
            "uploads/".to_owned(),
            "uploads/x".to_owned(),
            "blobs".to_owned(),
            format!("{digest}"),
            format!("uploads//blobs/{digest}"),
            format!("uploads/x/{digest}"),
            format!("blobs/{digest}/more"),
            format!("blobs/sha512/{digest}"),
            format!("blobs/blake3/{sha1}"),
            format!("blobs/sha1/{digest}"),
            "compressed-blobs/zstd".to_owned(),
            format!("compressed-blobs/deflate/{digest}"),
            format!("blobs/{}/-1", digest.hex()),
            format!("blobs/{}/99999999999999999999", digest.hex()),
            format!("blobs/{}", digest.hex()),
            format!("blobs/{}/3", digest.hex().to_uppercase()),
        ] {
            assert!(parse(&name).is_err(), "{name}");
        }
    }
}

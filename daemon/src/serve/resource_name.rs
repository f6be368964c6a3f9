//! The resource names of `ByteStream` calls (REAPI, `ContentAddressableStorage`).
//! Pure text.

use crate::digest::Digest;

/// Which blob a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceName {
    /// `[instance/]blobs/[sha256/]hash/size`.
    Read(Digest),
    /// `[instance/]uploads/id/blobs/[sha256/]hash/size[/anything]`.
    Write(Digest),
}

/// Reads a resource name; else says what is wrong with it.
pub(super) fn parse(name: &str) -> Result<ResourceName, String> {
    let wrong = |problem: &str| format!("the resource name {name:?} {problem}");
    let segments: Vec<&str> = name.split('/').collect();
    // No segment of an instance name may be one of the words, so the first one ends it.
    let start =
        segments.iter().position(|segment| matches!(*segment, "uploads" | "blobs" | "compressed-blobs"));
    let mut rest = start.and_then(|start| segments.get(start..)).ok_or_else(|| wrong("names no blob"))?;
    let is_write = rest[0] == "uploads";
    if is_write {
        rest = rest.get(2..).filter(|_| !rest[1].is_empty()).ok_or_else(|| wrong("has no upload id"))?;
    }
    rest = match rest {
        ["blobs", rest @ ..] | ["compressed-blobs", "identity", rest @ ..] => rest,
        ["compressed-blobs", ..] => return Err(wrong("asks for a compression that is not supported")),
        _ => return Err(wrong("names no blob")),
    };
    if let [function, ..] = rest
        && is_digest_function(function)
    {
        if *function != "sha256" {
            return Err(wrong("has a digest function that is not sha256"));
        }
        rest = &rest[1..];
    }
    let [hash, size, metadata @ ..] = rest else { return Err(wrong("has no hash and size")) };
    if !is_write && !metadata.is_empty() {
        return Err(wrong("goes on behind the size"));
    }
    let size_bytes = size.parse::<i64>().ok().and_then(|size| u64::try_from(size).ok());
    let size_bytes = size_bytes.ok_or_else(|| wrong("has no size"))?;
    let digest = Digest::from_hex(hash, size_bytes).map_err(|error| error.to_string())?;
    Ok(if is_write { ResourceName::Write(digest) } else { ResourceName::Read(digest) })
}

/// Whether a segment is a digest function's name rather than a hash: no name is hexadecimal and that long.
fn is_digest_function(segment: &str) -> bool {
    segment.len() < 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = Digest::of(b"abc");
        for name in [
            format!("blobs/{digest}"),
            format!("a/b/blobs/{digest}"),
            format!("blobs/sha256/{digest}"),
            format!("i/compressed-blobs/identity/{digest}"),
        ] {
            assert_eq!(parse(&name), Ok(ResourceName::Read(digest)), "{name}");
        }
        for name in [
            format!("uploads/4c2b/blobs/{digest}"),
            format!("a/b/uploads/4c2b/blobs/{digest}"),
            format!("a/uploads/blobs/blobs/{digest}/file.o/more"),
            format!("uploads/4c2b/blobs/sha256/{digest}"),
        ] {
            assert_eq!(parse(&name), Ok(ResourceName::Write(digest)), "{name}");
        }
    }

    #[test]
    fn wrong_names() {
        let digest = Digest::of(b"abc");
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
            format!("blobs/blake3/{digest}"),
            format!("compressed-blobs/zstd/{digest}"),
            format!("blobs/{}/-1", digest.hex()),
            format!("blobs/{}/99999999999999999999", digest.hex()),
            format!("blobs/{}", digest.hex()),
            format!("blobs/{}/3", digest.hex().to_uppercase()),
        ] {
            assert!(parse(&name).is_err(), "{name}");
        }
    }
}

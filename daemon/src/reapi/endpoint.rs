//! Where a cluster is and how it is spoken to, as a user writes it.
//! Knows nothing of sockets.

use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;

use crate::reapi::error::Error;

/// Words that REAPI forbids as segments of an instance name, because resource names are parsed by them.
const RESERVED_SEGMENTS: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// One address and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `grpc://host:port` (plaintext) or `unix:/path`.
    pub address: String,
    /// The instance on that server; may be empty, may contain slashes.
    pub instance_name: String,
    /// How long one RPC may take, or one step of a stream. Executions have no limit.
    pub timeout: Duration,
    /// How often a failed RPC is tried again.
    pub retries: u32,
}

/// What the address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Plaintext HTTP/2 over TCP; an IPv6 host stands without its brackets.
    Tcp { host: String, port: u16 },
    /// Plaintext HTTP/2 over a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Refuses what cannot work, so that it is said once and early.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.target()?;
        if self.timeout.is_zero() {
            return Err(invalid("use a timeout of zero: every call would fail"));
        }
        let name = &self.instance_name;
        if name.is_empty() {
            return Ok(());
        }
        // REAPI, header comment of `ContentAddressableStorage`: segments are never empty or reserved.
        if let Some(segment) = name.split('/').find(|s| s.is_empty() || RESERVED_SEGMENTS.contains(s)) {
            return Err(invalid(&format!(
                "use instance name {name:?}: it may not have a segment {segment:?}"
            )));
        }
        Ok(())
    }

    /// What the address means.
    pub(super) fn target(&self) -> Result<Target, Error> {
        let address = self.address.as_str();
        if let Some(path) = address.strip_prefix("unix:") {
            // `unix:///path` and `unix:/path` are the same (gRPC name syntax).
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid(&format!("use address {address:?}: no path follows `unix:`")));
            }
            return Ok(Target::Unix(PathBuf::from(path)));
        }
        let Some((scheme, authority)) = address.split_once("://") else {
            return Err(invalid(&format!("use address {address:?}: write grpc://host:port or unix:/path")));
        };
        match scheme {
            "grpc" => parse_authority(authority).ok_or_else(|| {
                invalid(&format!("use address {address:?}: a host, a colon and a port must follow grpc://"))
            }),
            "grpcs" => Err(Error::status(
                Code::Unimplemented,
                format!("use address {address:?}: TLS (grpcs://) is not supported in this version"),
            )),
            _ => Err(invalid(&format!("use address {address:?}: the scheme must be grpc:// or unix:"))),
        }
    }

    /// `{instance}/`, or nothing: how resource names begin.
    pub(super) fn resource_prefix(&self) -> String {
        match self.instance_name.as_str() {
            "" => String::new(),
            name => format!("{name}/"),
        }
    }
}

fn parse_authority(authority: &str) -> Option<Target> {
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    valid.then(|| Target::Tcp { host: bare.unwrap_or(host).to_owned(), port })
}

fn invalid(message: &str) -> Error {
    Error::status(Code::InvalidArgument, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, instance_name: &str) -> Endpoint {
        Endpoint {
            address: address.to_owned(),
            instance_name: instance_name.to_owned(),
            timeout: Duration::from_secs(60),
            retries: 5,
        }
    }

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port });
        for (address, target) in [
            ("grpc://localhost:8980", tcp("localhost", 8980)),
            ("grpc://[::1]:8980/", tcp("::1", 8980)),
            ("unix:/run/re", Ok(Target::Unix("/run/re".into()))),
            ("unix:///run/re", Ok(Target::Unix("/run/re".into()))),
            ("unix:relative", Ok(Target::Unix("relative".into()))),
        ] {
            assert_eq!(endpoint(address, "").target(), target, "{address}");
        }
        for (address, code) in [
            ("grpcs://host:443", Code::Unimplemented),
            ("host:443", Code::InvalidArgument),
            ("", Code::InvalidArgument),
            ("unix:", Code::InvalidArgument),
            ("dns://host:1", Code::InvalidArgument),
            ("grpc://host", Code::InvalidArgument),
            ("grpc://:80", Code::InvalidArgument),
            ("grpc://host:0", Code::InvalidArgument),
            ("grpc://host:99999", Code::InvalidArgument),
            ("grpc://user@host:80", Code::InvalidArgument),
            ("grpc://host:80/path", Code::InvalidArgument),
            ("grpc://a b:80", Code::InvalidArgument),
            ("grpc://[::zz]:80", Code::InvalidArgument),
            ("grpc://::1:80", Code::InvalidArgument),
        ] {
            let error = endpoint(address, "").target().unwrap_err();
            assert_eq!(error.code(), code, "{address}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    }

    #[test]
    fn instance_names() {
        for name in ["", "main", "projects/p/instances/default_instance"] {
            assert_eq!(endpoint("grpc://h:1", name).check(), Ok(()), "{name}");
        }
        for name in ["/", "a/", "/a", "a//b", "a/blobs/b", "uploads"] {
            assert!(endpoint("grpc://h:1", name).check().is_err(), "{name}");
        }
        assert_eq!(endpoint("grpc://h:1", "").resource_prefix(), "");
        assert_eq!(endpoint("grpc://h:1", "a/b").resource_prefix(), "a/b/");
    }
}

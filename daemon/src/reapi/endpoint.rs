//! Where a cluster is and how it is spoken to, as a user writes it.
//! Knows nothing of sockets.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;

use crate::digest::DigestFunction;
use crate::reapi::error::Error;

/// Words that REAPI forbids as segments of an instance name, because resource names are parsed by them.
const RESERVED_SEGMENTS: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];
/// The port of `grpcs://host` without one, as of HTTPS.
const TLS_PORT: u16 = 443;

/// One cluster and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `grpc://host:port` (plaintext), `grpcs://host:port` (TLS) or `unix:/path`.
    pub address: String,
    /// Of the execution service; empty: `address`. Where both are empty nothing is executed.
    pub engine_address: String,
    /// Of the content-addressable storage; empty: `address`.
    pub cas_address: String,
    /// Of the action cache; empty: `address`.
    pub action_cache_address: String,
    /// The instance on that server; may be empty, may contain slashes.
    pub instance_name: String,
    /// How long one RPC may take, or one step of a stream. Executions have no limit.
    pub timeout: Duration,
    /// How often a failed RPC is tried again.
    pub retries: u32,
    /// How digests are computed; none: as the server's capabilities allow.
    pub digest_function: Option<DigestFunction>,
    /// Whether blobs travel compressed where the server can.
    pub compression: bool,
    /// Certificates and keys for `grpcs://`.
    pub tls: Tls,
    /// Sent with every call.
    pub headers: Headers,
    /// Where further headers come from, that change.
    pub credentials: CredentialSource,
}

/// Certificates and keys, all in PEM files. They are read for each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that the server's certificate must come from; none: those that the system trusts.
    pub ca_certs: Option<PathBuf>,
    /// The client's own certificate.
    pub client_cert: Option<PathBuf>,
    /// Its key; none: in the certificate's file.
    pub client_key: Option<PathBuf>,
}

/// Names and values of headers. Values are secrets, which no log shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialSource {
    /// There are none, or they stand in the headers.
    #[default]
    None,
    /// A bearer token in a file, which may be renewed.
    TokenFile(PathBuf),
    /// A program that speaks Bazel's credential-helper protocol.
    Helper {
        /// Absolute path.
        program: PathBuf,
        /// The whole environment that it gets.
        environment: Vec<(OsString, OsString)>,
    },
}

/// One address and what it needs to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// As the user wrote it.
    pub(super) text: String,
    pub(super) tls: Tls,
}

/// What an address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// HTTP/2 over TCP; an IPv6 host stands without its brackets.
    Tcp { host: String, port: u16, tls: bool },
    /// Plaintext HTTP/2 over a Unix socket.
    Unix(PathBuf),
}

impl Default for Endpoint {
    /// No address, and the limits that users get who set none.
    fn default() -> Endpoint {
        Endpoint {
            address: String::new(),
            engine_address: String::new(),
            cas_address: String::new(),
            action_cache_address: String::new(),
            instance_name: String::new(),
            timeout: Duration::from_secs(60),
            retries: 5,
            digest_function: None,
            compression: true,
            tls: Tls::default(),
            headers: Headers::default(),
            credentials: CredentialSource::None,
        }
    }
}

impl Endpoint {
    /// Refuses what cannot work, so that it is said once and early.
    pub(super) fn check(&self) -> Result<(), Error> {
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

    /// The address of the execution service, if there is one.
    pub(super) fn engine(&self) -> Option<Address> {
        let address = self.of(&self.engine_address);
        (!address.text.is_empty()).then_some(address)
    }

    /// The address of the content-addressable storage.
    pub(super) fn cas(&self) -> Address {
        self.of(&self.cas_address)
    }

    /// The address of the action cache; where there is none of its own, it is beside the storage.
    pub(super) fn action_cache(&self) -> Address {
        let address = self.of(&self.action_cache_address);
        if address.text.is_empty() { self.cas() } else { address }
    }

    fn of(&self, address: &str) -> Address {
        let text = if address.is_empty() { self.address.clone() } else { address.to_owned() };
        Address { text, tls: self.tls.clone() }
    }

    /// `{instance}/`, or nothing: how resource names begin.
    pub(super) fn resource_prefix(&self) -> String {
        match self.instance_name.as_str() {
            "" => String::new(),
            name => format!("{name}/"),
        }
    }
}

impl Address {
    /// What the address means.
    pub(super) fn target(&self) -> Result<Target, Error> {
        let address = self.text.as_str();
        if let Some(path) = address.strip_prefix("unix:") {
            // `unix:///path` and `unix:/path` are the same (gRPC name syntax).
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid(&format!("use address {address:?}: no path follows `unix:`")));
            }
            return Ok(Target::Unix(PathBuf::from(path)));
        }
        let Some((scheme, authority)) = address.split_once("://") else {
            let forms = "write grpc://host:port, grpcs://host:port or unix:/path";
            return Err(invalid(&format!("use address {address:?}: {forms}")));
        };
        let parsed = match scheme {
            "grpc" => {
                parse_authority(authority, None).map(|(host, port)| Target::Tcp { host, port, tls: false })
            }
            "grpcs" => parse_authority(authority, Some(TLS_PORT)).map(|(host, port)| Target::Tcp {
                host,
                port,
                tls: true,
            }),
            _ => {
                let schemes = "the scheme must be grpc://, grpcs:// or unix:";
                return Err(invalid(&format!("use address {address:?}: {schemes}")));
            }
        };
        parsed.ok_or_else(|| {
            invalid(&format!("use address {address:?}: a host, a colon and a port must follow {scheme}://"))
        })
    }
}

fn parse_authority(authority: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => default_port?,
    };
    valid.then(|| (bare.unwrap_or(host).to_owned(), port))
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
            ..Endpoint::default()
        }
    }

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port, tls: false });
        let tls = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port, tls: true });
        for (address, target) in [
            ("grpc://localhost:8980", tcp("localhost", 8980)),
            ("grpc://[::1]:8980/", tcp("::1", 8980)),
            ("grpcs://host:8443", tls("host", 8443)),
            ("grpcs://host", tls("host", 443)),
            ("grpcs://[::1]/", tls("::1", 443)),
            ("unix:/run/re", Ok(Target::Unix("/run/re".into()))),
            ("unix:///run/re", Ok(Target::Unix("/run/re".into()))),
            ("unix:relative", Ok(Target::Unix("relative".into()))),
        ] {
            assert_eq!(endpoint(address, "").cas().target(), target, "{address}");
        }
        for (address, code) in [
            ("grpcs://", Code::InvalidArgument),
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
            let error = endpoint(address, "").cas().target().unwrap_err();
            assert_eq!(error.code(), code, "{address}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    }

    #[test]
    fn services_may_have_addresses_of_their_own() {
        let one = endpoint("grpc://a:1", "");
        assert_eq!((one.engine(), one.action_cache()), (Some(one.cas()), one.cas()));
        let split = Endpoint {
            engine_address: "grpc://e:1".to_owned(),
            action_cache_address: "grpc://c:1".to_owned(),
            ..one
        };
        assert_eq!(split.engine().map(|address| address.text).as_deref(), Some("grpc://e:1"));
        assert_eq!(
            (split.cas().text.as_str(), split.action_cache().text.as_str()),
            ("grpc://a:1", "grpc://c:1")
        );
        let cache = Endpoint { cas_address: "grpc://s:1".to_owned(), ..Endpoint::default() };
        assert_eq!((cache.engine(), cache.action_cache().text.as_str()), (None, "grpc://s:1"));
    }

    #[test]
    fn no_log_shows_a_header() {
        let headers = Headers(vec![("x-key".to_owned(), "hush".to_owned())]);
        let endpoint = format!("{:?}", Endpoint { headers, ..Endpoint::default() });
        assert!(endpoint.contains("x-key") && !endpoint.contains("hush"), "{endpoint}");
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

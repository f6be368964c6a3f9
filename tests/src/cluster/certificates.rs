//! An authority of one's own and what it vouches for: a server on loopback and a client.
//! Knows nothing of who uses them.

use std::path::Path;
use std::path::PathBuf;

use crate::certificates::Authority;

/// A server certificate and its key, as PEM files.
#[derive(Debug, Clone, Copy)]
pub struct ServerKeyPair<'a> {
    /// The certificate.
    pub certificate: &'a Path,
    /// The private key.
    pub key: &'a Path,
}

/// PEM files, valid for two days.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate, which clients are to trust.
    pub ca: PathBuf,
    /// The server's, for `localhost` and 127.0.0.1.
    pub server_certificate: PathBuf,
    /// The key that goes with it.
    pub server_key: PathBuf,
    /// A client's.
    pub client_certificate: PathBuf,
    /// The key that goes with it.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes them in `directory/certificates`.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn new(directory: &Path) -> Certificates {
        let place = directory.join("certificates");
        std::fs::create_dir_all(&place).unwrap();
        let authority = Authority::new();
        let (server, client) = (authority.server(&["localhost", "127.0.0.1"]), authority.client());
        let write = |name: &str, pem: &str| {
            let path = place.join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        Certificates {
            ca: write("ca.pem", &authority.pem()),
            server_certificate: write("server.pem", &server.certificate),
            server_key: write("server.key", &server.key),
            client_certificate: write("client.pem", &client.certificate),
            client_key: write("client.key", &client.key),
        }
    }

    /// What a server needs.
    pub fn server(&self) -> ServerKeyPair<'_> {
        ServerKeyPair { certificate: &self.server_certificate, key: &self.server_key }
    }
}

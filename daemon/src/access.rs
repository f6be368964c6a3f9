//! Who may call a server of ours: TLS, clients' certificates, and the bearer token.
//! Knows nothing of the services: what holds for one call holds for all.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::Digest as _;
use sha2::Sha256;
use tonic::Request;
use tonic::Status;
use tonic::transport::Certificate;
use tonic::transport::Identity;
use tonic::transport::Server;
use tonic::transport::ServerTlsConfig;

/// The files that decide who may call. All PEM, but for the token's.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// The server's certificate, with what is between it and the clients' root, and its private key. `None`: no TLS.
    pub tls: Option<TlsFiles>,
    /// Certificates of those who sign clients' certificates; a client without one is refused. Wants TLS.
    pub tls_client_ca: Option<PathBuf>,
    /// Holds the token that each call must bring as `authorization: Bearer …`.
    pub token_file: Option<PathBuf>,
}

/// A certificate and its key; both may be in one file.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// No file of these is larger; a device that never ends is not read for ever.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How long a client may take to greet before its connection is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl AccessOptions {
    /// Refuses an address that others can reach while they need neither token nor certificate: whoever reaches the
    /// port can run commands here. Nor may a token travel where others can read it.
    ///
    /// # Errors
    /// Saying which options are lacking.
    pub fn check(&self, address: SocketAddr) -> anyhow::Result<()> {
        ensure!(
            self.tls.is_some() || self.tls_client_ca.is_none(),
            "check clients' certificates: --tls-client-ca wants --tls-cert and --tls-key"
        );
        if address.ip().is_loopback() {
            return Ok(());
        }
        match (&self.tls, &self.token_file, &self.tls_client_ca) {
            (Some(_), None, None) => bail!(
                "listen at {address}: TLS alone keeps nobody out, and whoever gets in can run commands here. \
                 Add --token-file (a secret that clients send) or --tls-client-ca (clients show a certificate)"
            ),
            (None, Some(_), _) => bail!(
                "listen at {address}: without TLS the token would travel in clear text. \
                 Add --tls-cert and --tls-key, or listen at a loopback address"
            ),
            (None, None, _) => bail!(
                "listen at {address}: whoever reaches the port can run commands here. Beyond loopback, add \
                 --tls-cert and --tls-key, and with them --token-file or --tls-client-ca"
            ),
            (Some(_), _, _) => Ok(()),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Naming the file that cannot be read or does not hold what it should.
    pub fn load(&self) -> anyhow::Result<Access> {
        let mut tls = None;
        if let Some(files) = &self.tls {
            let certificate = read(&files.certificate, "TLS certificate")?;
            certificates(&certificate, &files.certificate)?;
            let key = read(&files.key, "TLS key")?;
            PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| anyhow::anyhow!("{}", Lacking("private key", &error)))
                .with_context(|| format!("read the TLS key {}", files.key.display()))?;
            let mut config = ServerTlsConfig::new()
                .identity(Identity::from_pem(&certificate, &key))
                .timeout(HANDSHAKE_TIMEOUT);
            if let Some(path) = &self.tls_client_ca {
                let roots = read(path, "TLS client CA")?;
                certificates(&roots, path)?;
                config = config.client_ca_root(Certificate::from_pem(roots));
            }
            // Whether certificate and key belong together shows only in a server.
            Server::builder().tls_config(config.clone()).with_context(|| {
                format!("use {} with {}", files.certificate.display(), files.key.display())
            })?;
            tls = Some(config);
        }
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        Ok(Access { tls, token })
    }
}

/// What [`AccessOptions`] name, read and found to fit.
pub struct Access {
    /// How connections are encrypted, if they are.
    pub tls: Option<ServerTlsConfig>,
    token: Option<Token>,
}

impl Access {
    /// Decides on each call, whatever its service.
    pub fn gate(&self) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + use<> {
        let token = self.token.clone();
        move |request| match &token {
            Some(token) => token.check(request),
            None => Ok(request),
        }
    }
}

/// The token's hash: comparing hashes tells by its duration nothing about the token, and no log can show it.
#[derive(Clone)]
struct Token([u8; 32]);

impl Token {
    fn read(path: &Path) -> anyhow::Result<Token> {
        let bytes = read(path, "token")?;
        let token = bytes.trim_ascii();
        // What a header can carry, and what no editor leaves behind by accident.
        ensure!(
            !token.is_empty() && token.iter().all(u8::is_ascii_graphic),
            "read the token {}: it must be one word of visible ASCII characters",
            path.display()
        );
        Ok(Token::of(token))
    }

    fn of(token: &[u8]) -> Token {
        Token(Sha256::digest(token).into())
    }

    fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let refused = |problem: &str| {
            Err(Status::unauthenticated(format!(
                "{problem}: this server wants the header `authorization: Bearer TOKEN`"
            )))
        };
        let Some(header) = request.metadata().get("authorization") else {
            return refused("the call has no token");
        };
        let bytes = header.as_bytes();
        // RFC 7235, 2.1: the scheme's case does not matter.
        let Some((scheme, given)) = bytes.split_at_checked("bearer ".len()) else {
            return refused("the authorization is no bearer token");
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return refused("the authorization is no bearer token");
        }
        if !same(&self.0, &Token::of(given.trim_ascii()).0) {
            return refused("the token is a wrong one");
        }
        Ok(request)
    }
}

/// Whether two hashes are equal, in the same time wherever they differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differing = one.iter().zip(other).fold(0, |bits, (one, other)| bits | (one ^ other));
    std::hint::black_box(differing) == 0
}

fn read(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("read the {what} {}", path.display()))?;
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "read the {what} {}: it is too large", path.display());
    Ok(bytes)
}

/// At least one certificate, and nothing that only looks like one.
fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<()> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let parsed = parsed
        .map_err(|error| anyhow::anyhow!("{}", Lacking("certificate", &error)))
        .with_context(|| format!("read the certificates of {}", path.display()))?;
    ensure!(
        !parsed.is_empty(),
        "read the certificates of {}: there is no PEM section `CERTIFICATE`",
        path.display()
    );
    Ok(())
}

/// Why PEM text was not understood, in words.
struct Lacking<'a>(&'static str, &'a rustls::pki_types::pem::Error);

impl fmt::Display for Lacking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            rustls::pki_types::pem::Error::NoItemsFound => write!(f, "there is no {} in PEM in it", self.0),
            error => write!(f, "it is no proper PEM: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(tls: bool, client_ca: bool, token: bool) -> AccessOptions {
        let path = PathBuf::from("file");
        AccessOptions {
            tls: tls.then(|| TlsFiles { certificate: path.clone(), key: path.clone() }),
            tls_client_ca: client_ca.then(|| path.clone()),
            token_file: token.then_some(path),
        }
    }

    #[test]
    fn beyond_loopback_somebody_must_be_kept_out() {
        for address in ["127.0.0.1:1", "127.7.7.7:0", "[::1]:1"] {
            for (tls, client_ca, token) in
                [(false, false, false), (false, false, true), (true, false, false), (true, true, true)]
            {
                options(tls, client_ca, token).check(address.parse().unwrap()).unwrap();
            }
        }
        for address in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1", "[::ffff:127.0.0.1]:1"] {
            let check =
                |tls, client_ca, token| options(tls, client_ca, token).check(address.parse().unwrap());
            for (tls, client_ca, token, lacking) in [
                (false, false, false, "--tls-cert"),
                (false, false, true, "clear text"),
                (true, false, false, "--token-file"),
                (false, true, true, "--tls-client-ca wants"),
            ] {
                let error = check(tls, client_ca, token).unwrap_err().to_string();
                assert!(error.contains(lacking), "{address} {tls} {client_ca} {token}: {error}");
            }
            check(true, false, true).unwrap();
            check(true, true, false).unwrap();
            check(true, true, true).unwrap();
        }
    }

    #[test]
    fn only_the_token_opens() {
        let token = Token::of(b"s3cret");
        let check = |header: Option<&str>| {
            let mut request = Request::new(());
            if let Some(header) = header {
                request.metadata_mut().insert("authorization", header.parse().unwrap());
            }
            token.check(request).is_ok()
        };
        assert!(check(Some("Bearer s3cret")));
        assert!(check(Some("bearer  s3cret")));
        for header in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
            assert!(!check(Some(header)), "{header}");
        }
        assert!(!check(None));
    }

    #[test]
    fn a_token_is_one_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, " s3cret\n").unwrap();
        assert!(same(&Token::read(&path).unwrap().0, &Token::of(b"s3cret").0));
        for text in ["", "\n", "two words", "s3cr\u{e9}t", "a\nb"] {
            std::fs::write(&path, text).unwrap();
            assert!(Token::read(&path).is_err(), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = Token::read(&path).err().unwrap();
        assert!(format!("{error:#}").contains("token: No such file"), "{error:#}");
    }
}

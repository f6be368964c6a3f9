//! bazel-remote: CAS and action cache without execution, on a disk, compressed there with zstd.
//! Knows nothing of clients.

use std::path::PathBuf;

use crate::cluster::certificates::ServerKeyPair;
use crate::cluster::process::ServerProcess;
use crate::cluster::process::free_address;
use crate::cluster::process::listens;
use crate::cluster::program::programs;
use crate::space::TestSpace;

/// The name that a server with a password expects.
pub const USER: &str = "builder";
/// The password that goes with it.
pub const PASSWORD: &str = "secret";
/// Both as `Authorization: Basic` wants them (RFC 7617).
pub const BASIC_CREDENTIALS: &str = "YnVpbGRlcjpzZWNyZXQ=";
/// The line of a password file for both, in the form that takes no salt.
const PASSWORD_FILE: &str = "builder:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";

/// How clients come in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access<'a> {
    /// With TLS.
    pub tls: Option<ServerKeyPair<'a>>,
    /// With [`USER`] and [`PASSWORD`].
    pub password: bool,
}

/// A running server. Dropping it ends it.
pub struct BazelRemote {
    process: ServerProcess,
    address: String,
    http_address: String,
    store: PathBuf,
}

impl BazelRemote {
    /// Starts one for `space` in `ROOT/serve/NAME`: `None`, said visibly, where it cannot be had. A name used
    /// before means its content is used again.
    ///
    /// # Panics
    /// When it does not come up, or sees the client's files.
    pub fn start(space: &TestSpace, name: &str, access: Access) -> Option<BazelRemote> {
        let programs = programs("bazel-remote", &["go"])?;
        let directory = space.serve_dir().join(name);
        let store = directory.join("store");
        std::fs::create_dir_all(&store).unwrap();
        let (address, http_address) = (free_address(), free_address());
        let mut argv = vec![
            programs.join("bazel-remote").display().to_string(),
            format!("--dir={}", store.display()),
            "--max_size=1".to_owned(),
            "--storage_mode=zstd".to_owned(),
            format!("--grpc_address={address}"),
            format!("--http_address={http_address}"),
        ];
        if let Some(pair) = access.tls {
            argv.push(format!("--tls_cert_file={}", pair.certificate.display()));
            argv.push(format!("--tls_key_file={}", pair.key.display()));
        }
        if access.password {
            let file = directory.join("passwords");
            std::fs::write(&file, PASSWORD_FILE).unwrap();
            argv.push(format!("--htpasswd_file={}", file.display()));
        }
        let mut process = ServerProcess::start(space, "bazel-remote", &directory, &argv);
        process.wait_until_up(|| listens(&address) && listens(&http_address));
        Some(BazelRemote { process, address, http_address, store })
    }

    /// `host:port` of its gRPC services.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` of its HTTP server, which has `/status`.
    pub fn http_address(&self) -> &str {
        &self.http_address
    }

    /// What it said: a line for each call, among other things.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// How many results its action cache has.
    pub fn results(&self) -> usize {
        crate::cluster::files_below(&self.store.join("ac.v2")).len()
    }

    /// Removes every blob behind its back. It goes on claiming to have them, as far as it remembers them.
    pub fn empty_cas(&self) {
        for blob in crate::cluster::files_below(&self.store.join("cas.v2")) {
            // It may have lost it itself.
            let _ = std::fs::remove_file(blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::certificates::Certificates;
    use crate::prerequisites;
    use crate::space::run;

    #[test]
    fn it_asks_for_the_password_over_tls() {
        if !crate::full_tier() {
            crate::skipped("bazel-remote with TLS", "it is part of FARCC_TESTS=full");
            return;
        }
        prerequisites::require(&["curl"]);
        let space = TestSpace::new("bazel-remote-tls");
        let certificates = Certificates::new(&space.serve_dir());
        let access = Access { tls: Some(certificates.server()), password: true };
        let Some(server) = BazelRemote::start(&space, "cache", access) else { return };
        let status = |further: &[&str]| {
            let mut curl = space.command("curl");
            curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
            curl.args(further).arg(format!("https://{}/status", server.http_address()));
            run(&mut curl)
        };
        let ca = certificates.ca.display().to_string();
        // curl(1): 60 is a certificate that nobody vouches for.
        assert_eq!(status(&[]).status, 60);
        assert_eq!(status(&["--cacert", &ca]).stdout_text(), "401");
        let user = format!("{USER}:{PASSWORD}");
        assert_eq!(status(&["--cacert", &ca, "--user", &user]).stdout_text(), "200");
        let header = format!("Authorization: Basic {BASIC_CREDENTIALS}");
        assert_eq!(status(&["--cacert", &ca, "--header", &header]).stdout_text(), "200");
    }
}

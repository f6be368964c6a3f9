//! Builds the programs under test, once, with the profile and the target directory of the tests themselves.
//! Knows nothing of what they do.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The launcher.
    pub farcc: PathBuf,
    /// The daemon.
    pub farccd: PathBuf,
}

impl Binaries {
    /// The directory that holds both.
    pub fn directory(&self) -> &Path {
        self.farcc.parent().unwrap()
    }
}

/// The root of the clone that the tests were built from.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// `farcc` and `farccd`, up to date with the sources. Cargo's own lock orders test processes that ask together.
///
/// # Panics
/// When they do not build.
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(build)
}

fn build() -> Binaries {
    // A test executable lies at TARGET/PROFILE/deps/NAME-HASH.
    let this = std::env::current_exe().unwrap();
    let profile_directory = this.ancestors().nth(2).unwrap();
    let target = profile_directory.parent().unwrap();
    let profile = match profile_directory.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    // The same selection as `cargo test --workspace`: another one would unify features otherwise, and build
    // every dependency a second time. Benchmarks need no optimised tests.
    let tests: &[&str] = if profile == "dev" { &["--tests"] } else { &[] };
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo tells a test about its package: build scripts that look at these variables (ring's) would run again, and
    // all that depends on them would be built anew, each time that the other kind of build comes.
    for (name, _) in std::env::vars_os() {
        let told = |prefix| name.as_encoded_bytes().starts_with(prefix);
        if told(b"CARGO_PKG_".as_slice()) || told(b"CARGO_MANIFEST_".as_slice()) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
        .args(tests)
        .arg("--target-dir")
        .arg(target)
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "failed to build farcc: {}", String::from_utf8_lossy(&output.stderr));
    Binaries { farcc: profile_directory.join("farcc"), farccd: profile_directory.join("farccd") }
}

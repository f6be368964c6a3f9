//! buildbox-casd: CAS, action cache and execution in one server, which runs actions with the input root as root.
//! Knows nothing of clients.

use std::path::Path;
use std::path::PathBuf;

use crate::cluster::files_below;
use crate::cluster::process::ServerProcess;
use crate::cluster::process::free_address;
use crate::cluster::process::listens;
use crate::cluster::program::programs;
use crate::prerequisites;
use crate::space::TestSpace;

/// What of this machine is there for actions: the compilers and what they need. The loader's directories are links
/// into `/usr` on some systems and directories on others.
const SHOWN_TO_ACTIONS: &[&str] = &["/usr", "/bin", "/lib", "/lib64"];

/// A running server. Dropping it ends it.
pub struct Buildbox {
    process: ServerProcess,
    address: String,
    directory: PathBuf,
}

impl Buildbox {
    /// Starts one for `space` in `ROOT/serve/NAME`: `None`, said visibly, where it cannot be had.
    ///
    /// # Panics
    /// When it does not come up, or sees the client's files.
    pub fn start(space: &TestSpace, name: &str) -> Option<Buildbox> {
        Buildbox::start_with(space, name, &[])
    }

    /// The same with more arguments for `buildbox-casd`. A name used before means its content is used again.
    ///
    /// # Panics
    /// When it does not come up, or sees the client's files.
    pub fn start_with(space: &TestSpace, name: &str, arguments: &[&str]) -> Option<Buildbox> {
        if !cfg!(target_arch = "x86_64") {
            crate::skipped("buildbox-casd", "its programs are there for x86-64 only");
            return None;
        }
        let programs = programs("buildbox", &["python3"])?;
        prerequisites::require(&["bwrap"]);
        let directory = space.serve_dir().join(name);
        let store = directory.join("store");
        std::fs::create_dir_all(&store).unwrap();
        let address = free_address();
        let mut argv = vec![
            programs.join("buildbox-casd").display().to_string(),
            format!("--bind={address}"),
            format!("--buildbox-run={}", programs.join("buildbox-run").display()),
        ];
        let shown = SHOWN_TO_ACTIONS.iter().filter(|path| Path::new(path).exists());
        argv.extend(shown.map(|path| format!("--runner-arg=--bind-mount={path}:{path}")));
        argv.extend(arguments.iter().map(|word| (*word).to_owned()));
        argv.push(store.display().to_string());
        let mut process = ServerProcess::start(space, "buildbox-casd", &directory, &argv);
        process.wait_until_up(|| listens(&address));
        Some(Buildbox { process, address, directory })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it said.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// How many results its action cache has.
    pub fn results(&self) -> usize {
        files_below(&self.directory.join("store/actioncache/objects")).len()
    }

    /// Removes every blob that it has, as a server does that is short of space; results in its action cache stay.
    pub fn empty_cas(&self) {
        // Their directories and the empty blob are made when it starts: they are always there.
        for blob in files_below(&self.directory.join("store/cas/objects")) {
            // It may be one that has just got its final name, or lost it.
            if blob.metadata().is_ok_and(|blob| blob.len() > 0) {
                let _ = std::fs::remove_file(blob);
            }
        }
    }
}

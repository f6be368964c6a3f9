//! A workspace whose other commands go to a twin, and what they do there.
//! Knows nothing of what kind of machine the twin is.

use std::fs;
use std::path::PathBuf;

use crate::serve_process::Circumstances;
use crate::serve_process::ServeProcess;
use crate::space::Finished;
use crate::space::TestSpace;

/// The workspace, and its twin.
pub struct TwinPlace {
    /// The client's side.
    pub space: TestSpace,
    /// The other one.
    pub twin: ServeProcess,
}

impl TwinPlace {
    /// With a twin on a machine as usual.
    pub fn new(name: &str) -> TwinPlace {
        TwinPlace::where_it_is(name, Circumstances::default())
    }

    /// With a twin under these circumstances.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn where_it_is(name: &str, circumstances: Circumstances<'_>) -> TwinPlace {
        let space = TestSpace::new(name);
        let twin = ServeProcess::twin_where(&space, "twin", &[], circumstances);
        let place = TwinPlace { space, twin };
        place.configure("");
        fs::create_dir(place.space.workspace().join(".git")).unwrap();
        // A launcher on a busy machine may not wait until it is there.
        place.space.start_daemon();
        place
    }

    /// Has commands go to the twin, with more lines of configuration.
    pub fn configure(&self, more: &str) {
        let address = self.twin.address();
        self.space.configure(&format!("[twin]\naddress = \"grpc://{address}\"\n{more}\n"));
    }

    /// Runs Python on the twin, or, if that cannot be, here: then the launcher says why.
    pub fn python(&self, script: &str) -> Finished {
        let mut command = self.space.command("farcc");
        command.env("FARCC_LOG", "debug").args(["/usr/bin/python3", "-c", script]);
        crate::space::run(&mut command)
    }

    /// The same, which must go well, and on the twin.
    #[track_caller]
    pub fn on_twin(&self, script: &str) -> Finished {
        let before = self.space.stats().verdict("twin");
        let finished = self.python(script).success();
        let stats = self.space.stats();
        assert_eq!(stats.verdict("twin"), before + 1, "it ran elsewhere: {finished}\n{stats:?}");
        finished
    }

    /// Where a path of the workspace is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.space.workspace().join(path)
    }

    /// What a file of the workspace has in it.
    ///
    /// # Panics
    /// When it is not there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }
}

/// Bytes that do not become fewer when they are compressed, other ones for each seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

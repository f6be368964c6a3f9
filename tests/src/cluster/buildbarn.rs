//! Buildbarn: bb_storage, bb_scheduler, and workers of bb_worker and bb_runner, in the plainest configuration that it
//! has. Knows nothing of clients.
//!
//! Actions run in a build directory below the worker's own, without chroot, so that absolute paths of a client mean
//! nothing to them. `tests/cluster/buildbarn/config` is what the programs are told.

use std::path::Path;
use std::path::PathBuf;

use crate::binaries::repository;
use crate::cluster::certificates::ServerKeyPair;
use crate::cluster::process::ServerProcess;
use crate::cluster::process::free_address;
use crate::cluster::process::listens;
use crate::cluster::program::programs;
use crate::space::TestSpace;

/// What clients must put under `[platform]` for these workers.
pub const PLATFORM: &str = "[platform]\nOSFamily = \"linux\"\n";

/// How many workers there are at first; each runs two actions at a time.
const WORKERS: usize = 2;

/// A running cluster. Dropping it ends it.
pub struct Buildbarn<'a> {
    space: &'a TestSpace,
    programs: PathBuf,
    directory: PathBuf,
    address: String,
    tls: Option<ServerKeyPair<'a>>,
    storage: Option<ServerProcess>,
    scheduler: Option<ServerProcess>,
    /// Worker and runner, by the worker's number.
    workers: Vec<Option<[ServerProcess; 2]>>,
}

impl<'a> Buildbarn<'a> {
    /// Starts one for `space` in `ROOT/serve/buildbarn`: `None`, said visibly, where it cannot be had.
    ///
    /// # Panics
    /// When it does not come up, or sees the client's files.
    pub fn start(space: &'a TestSpace) -> Option<Buildbarn<'a>> {
        Buildbarn::start_with(space, None)
    }

    /// The same with TLS towards clients.
    ///
    /// # Panics
    /// When it does not come up, or sees the client's files.
    pub fn start_with(space: &'a TestSpace, tls: Option<ServerKeyPair<'a>>) -> Option<Buildbarn<'a>> {
        let programs = programs("buildbarn", &["go"])?;
        let directory = space.serve_dir().join("buildbarn");
        std::fs::create_dir_all(&directory).unwrap();
        let address = free_address();
        let mut cluster = Buildbarn {
            space,
            programs,
            directory,
            address,
            tls,
            storage: None,
            scheduler: None,
            workers: Vec::new(),
        };
        cluster.start_storage();
        cluster.start_scheduler();
        for worker in 0..WORKERS {
            cluster.start_worker(worker);
        }
        Some(cluster)
    }

    /// `host:port` for clients.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the programs of worker `number` said.
    pub fn worker_log(&self, number: usize) -> String {
        let programs = self.workers[number].iter().flatten();
        programs.map(ServerProcess::log_text).collect()
    }

    /// Ends worker `number` at once, with what it is running.
    pub fn kill_worker(&mut self, number: usize) {
        self.workers[number] = None;
    }

    /// Starts worker `number`, which may have been killed, or is the next new one.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_worker(&mut self, number: usize) {
        let place = self.directory.join(format!("worker-{number}"));
        for part in ["build", "cache"] {
            // What a killed one left is of no use to the next.
            let _ = std::fs::remove_dir_all(place.join(part));
            std::fs::create_dir_all(place.join(part)).unwrap();
        }
        let _ = std::fs::remove_file(place.join("runner"));
        let mut runner = self.start_program("bb_runner", "runner", &place);
        runner.wait_until_up(|| place.join("runner").exists());
        let worker = self.start_program("bb_worker", "worker", &place);
        self.workers.resize_with(self.workers.len().max(number + 1), || None);
        self.workers[number] = Some([worker, runner]);
    }

    /// Ends the scheduler as a crash would, with all that is queued, and starts it again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart_scheduler(&mut self) {
        self.scheduler = None;
        self.start_scheduler();
    }

    /// Ends the storage as a crash would and starts it again, without any blob or result.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart_storage(&mut self) {
        self.storage = None;
        self.start_storage();
    }

    /// Ends all of it at once.
    pub fn stop(&mut self) {
        self.workers.clear();
        (self.scheduler, self.storage) = (None, None);
    }

    fn start_storage(&mut self) {
        let _ = std::fs::remove_file(self.directory.join("storage"));
        let mut storage = self.start_program("bb_storage", "storage", &self.directory);
        storage.wait_until_up(|| listens(&self.address) && self.directory.join("storage").exists());
        self.storage = Some(storage);
    }

    fn start_scheduler(&mut self) {
        let sockets = ["scheduler", "workers"].map(|name| self.directory.join(name));
        for socket in &sockets {
            let _ = std::fs::remove_file(socket);
        }
        let mut scheduler = self.start_program("bb_scheduler", "scheduler", &self.directory);
        scheduler.wait_until_up(|| sockets.iter().all(|socket| socket.exists()));
        self.scheduler = Some(scheduler);
    }

    /// One of Buildbarn's programs with its configuration, which takes what differs from its environment.
    fn start_program(&self, program: &str, configuration: &str, directory: &Path) -> ServerProcess {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let tls = |file: fn(ServerKeyPair<'a>) -> &'a Path| {
            self.tls.map(file).map(|path| path.display().to_string()).unwrap_or_default()
        };
        let variables = [
            ("CLIENTS", self.address.clone()),
            ("STORAGE", at("storage")),
            ("SCHEDULER", at("scheduler")),
            ("WORKERS", at("workers")),
            ("TLS_CERTIFICATE", tls(|pair| pair.certificate)),
            ("TLS_KEY", tls(|pair| pair.key)),
            ("DIRECTORY", directory.display().to_string()),
            ("NAME", directory.file_name().unwrap().display().to_string()),
        ];
        let file = repository().join(format!("tests/cluster/buildbarn/config/{configuration}.jsonnet"));
        let mut argv = vec!["env".to_owned()];
        argv.extend(variables.map(|(name, value)| format!("{name}={value}")));
        argv.push(self.programs.join(program).display().to_string());
        argv.push(file.display().to_string());
        ServerProcess::start(self.space, program, directory, &argv)
    }
}

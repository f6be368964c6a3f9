//! The configuration of one command: a TOML file, the `FARCC_<SECTION>_<KEY>` variables of the command's own
//! environment over it, and defaults under it.
//! Knows the keys and their types; what they do is decided where they are used.

mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use regex::bytes::Regex;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;

pub use load::ConfigError;
pub use load::load;

/// The whole configuration. README, "Configuration", describes every key.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[remote]`: the cluster.
    pub remote: Remote,
    /// `[platform]`: execution properties, verbatim; a REAPI platform is sorted by name, as this map is.
    pub platform: BTreeMap<String, String>,
    /// `[exec]`: where and how commands run.
    pub exec: Exec,
    /// `[workspace]`: what belongs to the project.
    pub workspace: Workspace,
    /// `[[route]]`: rules that send a command elsewhere; the first match wins.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
    /// `[cache]`: the store on this machine.
    pub cache: Cache,
    /// `[status]`: the daemon's status page.
    pub status: Status,
}

/// `[remote]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remote {
    /// `grpc://host:port` or `unix:path`; empty: no cluster.
    pub address: String,
    /// REAPI instance name, the same for all services.
    pub instance_name: String,
    /// How often a call that failed for a passing cause is made again.
    pub retries: u32,
    /// Limit of one RPC; executions have none.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Remote {
    fn default() -> Remote {
        Remote {
            address: String::new(),
            instance_name: String::new(),
            retries: 5,
            timeout: Duration::from_secs(60),
        }
    }
}

/// `[exec]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Where commands run.
    pub strategy: Strategy,
    /// Whose paths stand in what is made.
    pub paths: Paths,
    /// Whether results of the cluster's action cache are taken.
    pub accept_cached: bool,
    /// Whether results of local runs are offered to the cluster's action cache.
    pub upload_local_results: bool,
    /// Commands in flight on the cluster.
    pub jobs: usize,
    /// Compiles at a time on this machine; 0: as many as it has processors.
    pub local_jobs: usize,
    /// Limit of the remote action. Not part of the local key.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Part of every key: another salt is another cache.
    pub salt: String,
    /// Share, from 0 to 1, of the commands with a result that are run here as well, to compare.
    #[serde(deserialize_with = "share")]
    pub verify: f64,
}

impl Default for Exec {
    fn default() -> Exec {
        Exec {
            strategy: Strategy::default(),
            paths: Paths::default(),
            accept_cached: true,
            upload_local_results: true,
            jobs: 400,
            local_jobs: 0,
            timeout: Duration::from_secs(600),
            salt: String::new(),
            verify: 0.0,
        }
    }
}

/// `[exec] strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// On this machine; the cluster is not asked.
    Local,
    /// On the cluster, or the command fails.
    Remote,
    /// On the cluster, else on this machine.
    #[default]
    RemoteLocalFallback,
}

/// `[exec] paths`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// Those of this machine: the bytes of a local compile.
    #[default]
    Exact,
    /// Those of no machine: results are shared by all checkouts.
    Shared,
}

/// `[workspace]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workspace {
    /// Its directories, absolute, with everything below them; empty: those that Farcc.cmake noted, else the repository
    /// around the working directory.
    pub roots: Vec<PathBuf>,
}

/// One `[[route]]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Searched for in the command line: the arguments joined by blanks.
    #[serde(rename = "match", deserialize_with = "regex", serialize_with = "regex_text")]
    pub pattern: Regex,
    /// Where a command that matches goes.
    pub to: Destination,
}

/// `[[route]] to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The way of any command.
    Remote,
    /// The real command on this machine, and nothing is kept.
    Local,
}

/// `[cache]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Directory of the store; absent: below the cache directory of the user (or FARCC_DIR).
    pub dir: Option<PathBuf>,
    /// What the store may hold.
    pub max_size: ByteSize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache { dir: None, max_size: ByteSize::gb(20) }
    }
}

/// `[status]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Status {
    /// `127.0.0.1:port` of the status page, port 0 for any; empty: none. Read when the daemon starts.
    pub listen: String,
}

impl Default for Status {
    fn default() -> Status {
        Status { listen: "127.0.0.1:0".to_owned() }
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(D::Error::custom(format!("{share} is no share: it is from 0 to 1"))),
    }
}

fn regex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    Regex::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn regex_text<S: serde::Serializer>(pattern: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pattern.as_str())
}

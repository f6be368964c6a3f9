//! The configuration of one command: a TOML file, the `FARCC_<SECTION>_<KEY>` variables of the command's own
//! environment over it, and defaults under it.
//! Knows the keys and their types; what they do is decided where they are used.

mod load;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use regex::bytes::Regex;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;

pub use load::ConfigError;
pub use load::Configurations;
pub use load::Source;
pub use load::Sources;
pub use load::load;
pub use load::load_with_sources;
pub use load::to_file;

/// The whole configuration. README, "Configuration", describes every key.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[remote]`: the cluster.
    pub remote: Remote,
    /// `[platform]`: execution properties.
    pub platform: Platform,
    /// `[exec]`: where and how commands run.
    pub exec: Exec,
    /// `[link]`: what large links are spared.
    pub link: Link,
    /// `[workspace]`: what belongs to the project.
    pub workspace: Workspace,
    /// `[twin]`: the machine with a copy of the workspace.
    pub twin: Twin,
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
    /// `grpc://host:port`, `grpcs://host:port` or `unix:path`; empty: no cluster, unless a service has its own.
    pub address: String,
    /// Of the execution service, where it has its own.
    pub engine_address: String,
    /// Of the content-addressable storage, where it has its own.
    pub cas_address: String,
    /// Of the action cache, where it has its own.
    pub action_cache_address: String,
    /// REAPI instance name, the same for all services.
    pub instance_name: String,
    /// Sent with every call: API keys, and what a cluster wants to be told beside the action.
    pub headers: BTreeMap<String, Secret>,
    /// A program that speaks Bazel's credential-helper protocol.
    pub credential_helper: Option<PathBuf>,
    /// A file with a bearer token, which may be renewed.
    pub token_file: Option<PathBuf>,
    /// Certificates and keys for `grpcs://`.
    pub tls: Tls,
    /// How digests are computed for the cluster.
    pub digest_function: DigestChoice,
    /// Whether blobs travel compressed.
    pub compression: Compression,
    /// How often a call that failed for a passing cause is made again.
    pub retries: u32,
    /// Limit of one RPC; executions have none.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Remote {
    /// Whether there is a cluster at all.
    pub fn is_configured(&self) -> bool {
        !self.address.is_empty() || !self.cas_address.is_empty()
    }

    /// The keys that say who calls.
    pub fn access(&self) -> Access<'_> {
        let Remote { headers, credential_helper, token_file, tls, .. } = self;
        Access {
            headers,
            credential_helper: credential_helper.as_deref(),
            token_file: token_file.as_deref(),
            tls,
        }
    }
}

impl Default for Remote {
    fn default() -> Remote {
        Remote {
            address: String::new(),
            engine_address: String::new(),
            cas_address: String::new(),
            action_cache_address: String::new(),
            instance_name: String::new(),
            headers: BTreeMap::new(),
            credential_helper: None,
            token_file: None,
            tls: Tls::default(),
            digest_function: DigestChoice::Auto,
            compression: Compression::Auto,
            retries: 5,
            timeout: Duration::from_secs(60),
        }
    }
}

/// `[twin]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Twin {
    /// `grpc://host:port`, `grpcs://host:port` or `unix:path`; empty: no twin.
    pub address: String,
    /// Sent with every call.
    pub headers: BTreeMap<String, Secret>,
    /// A program that speaks Bazel's credential-helper protocol.
    pub credential_helper: Option<PathBuf>,
    /// A file with a bearer token, which may be renewed.
    pub token_file: Option<PathBuf>,
    /// Certificates and keys for `grpcs://`.
    pub tls: Tls,
    /// Whether commands may open connections, where the twin allows it.
    pub network: bool,
    /// What becomes of a command in whose middle the twin is lost.
    pub when_lost: WhenLost,
    /// Limit of one question; commands have none.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Twin {
    /// Whether there is a twin at all.
    pub fn is_configured(&self) -> bool {
        !self.address.is_empty()
    }

    /// The keys that say who calls.
    pub fn access(&self) -> Access<'_> {
        let Twin { headers, credential_helper, token_file, tls, .. } = self;
        Access {
            headers,
            credential_helper: credential_helper.as_deref(),
            token_file: token_file.as_deref(),
            tls,
        }
    }
}

impl Default for Twin {
    fn default() -> Twin {
        Twin {
            address: String::new(),
            headers: BTreeMap::new(),
            credential_helper: None,
            token_file: None,
            tls: Tls::default(),
            network: false,
            when_lost: WhenLost::default(),
            timeout: Duration::from_secs(60),
        }
    }
}

/// `[twin] when_lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenLost {
    /// It fails.
    Fail,
    /// It is run again on this machine, where nothing of the first run has arrived but what it printed.
    #[default]
    Local,
}

/// The keys of `[remote]` and of `[twin]` that say who calls, and how they are sure of each other.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// `headers`.
    pub headers: &'a BTreeMap<String, Secret>,
    /// `credential_helper`.
    pub credential_helper: Option<&'a Path>,
    /// `token_file`.
    pub token_file: Option<&'a Path>,
    /// `tls`.
    pub tls: &'a Tls,
}

/// `tls` of `[remote]` and of `[twin]`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Authorities that the server's certificate must come from; absent: those that the system trusts.
    pub ca_certs: Option<PathBuf>,
    /// The client's own certificate.
    pub client_cert: Option<PathBuf>,
    /// Its key; absent: in the certificate's file.
    pub client_key: Option<PathBuf>,
}

/// A text that no log and no report shows.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// `[remote] compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// With zstd where the server has it.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// `[remote] digest_function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestChoice {
    /// What the cluster offers, SHA-256 first.
    #[default]
    Auto,
    /// SHA-256.
    Sha256,
    /// BLAKE3.
    Blake3,
    /// SHA-1.
    Sha1,
}

/// `[exec]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Where commands run.
    pub strategy: Strategy,
    /// Whose paths stand in what is made.
    pub paths: Paths,
    /// How absolute paths reach a worker. Not part of the local key.
    pub root: Root,
    /// Where the workers' compilers come from. Not part of the local key.
    pub toolchain: ToolchainSource,
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
            root: Root::default(),
            toolchain: ToolchainSource::default(),
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

/// `[link]`. How large a link is, its inputs say together.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Larger ones run on this machine: their inputs take longer to send than they take to link. 0: none does.
    #[serde(serialize_with = "size_text")]
    pub local_above: ByteSize,
    /// From this size on a link is heavy. 0: none is.
    #[serde(serialize_with = "size_text")]
    pub heavy_above: ByteSize,
    /// Heavy links at a time on this machine, whose memory they share.
    pub heavy_jobs: usize,
}

impl Default for Link {
    fn default() -> Link {
        Link { local_above: ByteSize::b(0), heavy_above: ByteSize::gib(1), heavy_jobs: 2 }
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
    /// On the cluster, and at the same time on this machine where a slot is free; whoever is first counts.
    Racing,
    /// On this machine; the cluster keeps the results.
    CacheOnly,
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

/// `[platform]`: execution properties, verbatim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "BTreeMap<String, Property>", into = "BTreeMap<String, Property>")]
pub struct Platform {
    /// Of every command.
    pub properties: BTreeMap<String, String>,
    /// On top of these, of the commands of one class.
    pub of_class: BTreeMap<String, BTreeMap<String, String>>,
}

/// The tables that `[platform]` may have.
pub const CLASSES: &[&str] = &["compile", "link", "archive"];

/// What stands under a name of `[platform]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
enum Property {
    Value(String),
    Class(BTreeMap<String, String>),
}

impl Platform {
    /// The properties of a command of `class`, sorted by name as a REAPI platform is; `more` stand on top.
    pub fn of(&self, class: &str, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let own = self.of_class.get(class).into_iter().flatten();
        let all = self.properties.iter().chain(own).chain(more);
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl TryFrom<BTreeMap<String, Property>> for Platform {
    type Error = String;

    fn try_from(entries: BTreeMap<String, Property>) -> Result<Platform, String> {
        let mut platform = Platform::default();
        for (name, property) in entries {
            match property {
                Property::Value(value) => drop(platform.properties.insert(name, value)),
                Property::Class(own) if CLASSES.contains(&name.as_str()) => {
                    platform.of_class.insert(name, own);
                }
                Property::Class(_) => {
                    let known = CLASSES.join(", ");
                    return Err(format!("[platform.{name}] is no class of commands: they are {known}"));
                }
            }
        }
        Ok(platform)
    }
}

impl From<Platform> for BTreeMap<String, Property> {
    fn from(platform: Platform) -> BTreeMap<String, Property> {
        let values = platform.properties.into_iter().map(|(name, value)| (name, Property::Value(value)));
        let classes = platform.of_class.into_iter().map(|(name, own)| (name, Property::Class(own)));
        values.chain(classes).collect()
    }
}

/// `[exec] root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The first of the others that the cluster's workers can do: mirror, wrapper, property, relative.
    #[default]
    Auto,
    /// Arguments become relative, and prefix maps keep that out of what is made.
    Relative,
    /// The input tree repeats absolute paths; the worker makes the input root its root directory.
    Mirror,
    /// The worker is asked for a place of the input root, by the platform property `InputRootAbsolutePath`.
    Property,
    /// A program of farcc's puts the input root where it belongs before it becomes the command.
    Wrapper,
}

/// `[exec] toolchain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolchainSource {
    /// From the workers' image; a worker is asked whether compiler and system headers are those of this machine.
    #[default]
    Worker,
    /// From the workers' image; they are taken for those of this machine.
    Trusted,
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
    /// Execution properties on top of those of `[platform]`.
    #[serde(default)]
    pub platform: BTreeMap<String, String>,
}

/// `[[route]] to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The way of any command.
    Remote,
    /// The machine that has a copy of the workspace, be it a compile.
    Twin,
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
    #[serde(serialize_with = "size_text")]
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

/// The size in the largest unit of which it is a multiple: what is read again is the same.
fn size_text<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    let units =
        [(1 << 30, "GiB"), (1_000_000_000, "GB"), (1 << 20, "MiB"), (1_000_000, "MB"), (1 << 10, "KiB")];
    let bytes = size.as_u64();
    let whole = units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (unit, name) = whole.copied().unwrap_or((1, "B"));
    serializer.serialize_str(&format!("{} {name}", bytes / unit))
}

fn regex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    Regex::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn regex_text<S: Serializer>(pattern: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pattern.as_str())
}

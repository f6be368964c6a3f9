//! Reads a configuration file, expands `$VAR`, and lays the environment's overrides over it.
//! Knows nothing of what the keys mean.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use toml::Spanned;
use toml::Table;
use toml::Value;

use crate::config::Access;
use crate::config::Config;
use crate::config::Destination;
use crate::process::env_value;

/// Sections whose keys can be overridden by `FARCC_<SECTION>_<KEY>`. `[platform]` has no fixed keys and is overridden
/// as a whole, by `FARCC_PLATFORM`; `[[route]]` is a list and is not.
const SECTIONS: &[&str] = &["remote", "exec", "link", "workspace", "twin", "cache", "status"];

/// Sections with a table that has keys of its own: `FARCC_REMOTE_TLS_CA_CERTS` is `[remote] tls.ca_certs`.
const WITH_TLS: &[&str] = &["remote", "twin"];

/// Why a configuration cannot be used. The message names file and line, or the variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The configuration that was parsed last, for all commands of a build that have the same.
#[derive(Default)]
pub struct Configurations {
    last: Mutex<Option<Parsed>>,
}

struct Parsed {
    path: PathBuf,
    text: String,
    /// Those that may override something.
    variables: Vec<(OsString, OsString)>,
    config: Arc<Config>,
}

impl Configurations {
    /// Like [`load`], but parses only what is another text than the last one's, or has other variables.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(
        &self,
        env: &[(OsString, OsString)],
        cwd: &Path,
        default_file: &Path,
    ) -> Result<Arc<Config>, ConfigError> {
        let (path, text) = read(env, cwd, default_file)?;
        let may_override = |(name, _): &&(OsString, OsString)| name.as_encoded_bytes().starts_with(b"FARCC_");
        let is_last = |last: &&Parsed| {
            last.path == path
                && last.text == text
                && env.iter().filter(may_override).eq(last.variables.iter())
        };
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last().as_ref().filter(is_last) {
            return Ok(Arc::clone(&last.config));
        }
        let config = Arc::new(parse(&path, &text, env)?.0);
        // Any variable may stand behind a dollar, which has other spellings.
        if !text.contains(['$', '\\']) {
            let variables = env.iter().filter(may_override).cloned().collect();
            *last() = Some(Parsed { path, text, variables, config: Arc::clone(&config) });
        }
        Ok(config)
    }
}

/// The configuration for a command in `cwd` with environment `env`. `default_file` is the file in the user's
/// configuration directory, which `FARCC_CONFIG` replaces; only the latter must exist.
///
/// # Errors
/// When the file cannot be read or parsed, has an unknown key, or names an unset variable; when an override
/// names no key or has the wrong type.
pub fn load(env: &[(OsString, OsString)], cwd: &Path, default_file: &Path) -> Result<Config, ConfigError> {
    load_with_sources(env, cwd, default_file).map(|(config, _)| config)
}

/// Where a value comes from that is no default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The configuration file.
    File(PathBuf),
    /// A variable of the environment; its name.
    Variable(String),
}

/// Where the keys of each section that are not defaults come from, by section and key.
pub type Sources = BTreeMap<(String, String), Source>;

/// Like [`load`], with the sources of what was set.
///
/// # Errors
/// As [`load`].
pub fn load_with_sources(
    env: &[(OsString, OsString)],
    cwd: &Path,
    default_file: &Path,
) -> Result<(Config, Sources), ConfigError> {
    let (path, text) = read(env, cwd, default_file)?;
    parse(&path, &text, env)
}

/// The path of the configuration file, and what stands in it.
fn read(
    env: &[(OsString, OsString)],
    cwd: &Path,
    default_file: &Path,
) -> Result<(PathBuf, String), ConfigError> {
    let named = env_value(env, "FARCC_CONFIG").filter(|path| !path.is_empty());
    let path = named.map_or_else(|| default_file.to_owned(), |named| cwd.join(named));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => String::new(),
        Err(error) => return Err(ConfigError(format!("read {}: {error}", path.display()))),
    };
    Ok((path, text))
}

fn parse(path: &Path, text: &str, env: &[(OsString, OsString)]) -> Result<(Config, Sources), ConfigError> {
    let in_file =
        |problem: &dyn std::fmt::Display| ConfigError(format!("read {}: {problem}", path.display()));
    let mut table: Table = toml::from_str(text).map_err(|error| in_file(&error))?;
    for (_, value) in &mut table {
        expand(value, text, env).map_err(|problem| in_file(&problem))?;
    }
    let expanded = Config::deserialize_table(table.clone());
    if let Err(error) = &expanded {
        // The same error has its line when it comes from the text itself; there, variables are not expanded.
        let in_text = toml::from_str::<Config>(text).err().filter(|same| same.message() == error.message());
        return Err(in_file(in_text.as_ref().unwrap_or(error)));
    }
    let mut sources = Sources::new();
    for (section, value) in &table {
        let keys = value.as_table().map(|keys| keys.keys().cloned().collect()).unwrap_or(vec![String::new()]);
        let of_file = |key| ((section.clone(), key), Source::File(path.to_owned()));
        sources.extend(keys.into_iter().map(of_file));
    }
    for (variable, value) in env {
        let source = || Source::Variable(variable.display().to_string());
        if variable == PLATFORM {
            set_platform(&mut table, value)?;
            sources.retain(|(section, _), _| section != "platform");
            let names = table.get("platform").and_then(Value::as_table).into_iter().flat_map(Table::keys);
            sources.extend(names.map(|name| (("platform".to_owned(), name.clone()), source())));
        }
        if let Some((section, key)) = variable.to_str().and_then(overridden_key) {
            set(&mut table, section, &key, variable, value)?;
            let key = match key.strip_prefix("tls_") {
                Some(_) if WITH_TLS.contains(&section) => "tls".to_owned(),
                _ => key,
            };
            sources.insert((section.to_owned(), key), source());
        }
    }
    let mut config = Config::deserialize_table(table).map_err(|error| in_file(&error))?;
    check(&config)?;
    let twin = sources.get(&("twin".to_owned(), "address".to_owned()));
    if !config.twin.is_configured() && matches!(twin, Some(Source::Variable(_))) {
        // Somebody has turned it off for a while.
        config.routes.retain(|route| route.to != Destination::Twin);
    }
    if let Some(index) = route_to_no_twin(&config) {
        let problem = format!("{}to = \"twin\" needs [twin] address", line_of_route(text, index));
        return Err(in_file(&problem));
    }
    Ok((config, sources))
}

/// The first `[[route]]` to a twin that there is not.
fn route_to_no_twin(config: &Config) -> Option<usize> {
    let to_twin = || config.routes.iter().position(|route| route.to == Destination::Twin);
    if config.twin.is_configured() { None } else { to_twin() }
}

/// `line 3: `, where the `to` of that `[[route]]` stands.
fn line_of_route(text: &str, index: usize) -> String {
    #[derive(Deserialize)]
    struct Routes {
        route: Vec<Route>,
    }
    #[derive(Deserialize)]
    struct Route {
        to: Spanned<String>,
    }
    let routes = toml::from_str::<Routes>(text).ok();
    let before = routes.and_then(|routes| text.get(..routes.route.get(index)?.to.span().start));
    // The text was read as a configuration before; only a message would be shorter.
    before.map_or_else(String::new, |before| format!("line {}: ", before.matches('\n').count() + 1))
}

/// What the types of the keys do not say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let accesses = [("remote", config.remote.access()), ("twin", config.twin.access())];
    let mut named = vec![("[cache] dir".to_owned(), config.cache.dir.as_deref())];
    for (section, Access { credential_helper, token_file, tls, .. }) in accesses {
        if credential_helper.is_some() && token_file.is_some() {
            let problem = format!("use [{section}] credential_helper and token_file: one of them must do");
            return Err(ConfigError(problem));
        }
        if tls.client_key.is_some() && tls.client_cert.is_none() {
            let problem = format!("use [{section}] tls.client_key: it needs tls.client_cert");
            return Err(ConfigError(problem));
        }
        named.extend([
            (format!("[{section}] credential_helper"), credential_helper),
            (format!("[{section}] token_file"), token_file),
            (format!("[{section}] tls.ca_certs"), tls.ca_certs.as_deref()),
            (format!("[{section}] tls.client_cert"), tls.client_cert.as_deref()),
            (format!("[{section}] tls.client_key"), tls.client_key.as_deref()),
        ]);
    }
    let named = named.into_iter().filter_map(|(key, path)| Some((key, path?)));
    let roots = config.workspace.roots.iter().map(|root| ("[workspace] roots".to_owned(), root.as_path()));
    // A daemon has no directory of its own to which they could be relative.
    match named.chain(roots).find(|(_, path)| !path.is_absolute()) {
        Some((key, path)) => Err(ConfigError(format!(
            "use {key} {:?}: it is not absolute; $HOME and other variables are expanded, ~ is not",
            path.display().to_string()
        ))),
        None => Ok(()),
    }
}

impl Config {
    fn deserialize_table(table: Table) -> Result<Config, toml::de::Error> {
        table.try_into()
    }
}

/// `FARCC_REMOTE_ADDRESS` → `("remote", "address")`.
fn overridden_key(variable: &str) -> Option<(&'static str, String)> {
    let rest = variable.strip_prefix("FARCC_")?.to_ascii_lowercase();
    SECTIONS.iter().find_map(|section| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        Some((*section, key.to_owned()))
    })
}

/// Sets one key from a variable. The type is that of the default value: the text is taken as a string where
/// the key is one, else as a TOML value.
fn set(
    table: &mut Table,
    section: &str,
    key: &str,
    variable: &OsStr,
    value: &OsStr,
) -> Result<(), ConfigError> {
    let problem = |problem: &dyn std::fmt::Display| {
        ConfigError(format!("use the variable {}: {problem}", variable.display()))
    };
    let (table, around, section, key) = match key.strip_prefix("tls_") {
        Some(below) if WITH_TLS.contains(&section) => (nested(table, section), Some(section), "tls", below),
        _ => (Some(table), None, section, key),
    };
    let no_section =
        || problem(&format!("[{}] is no section in the configuration file", around.unwrap_or(section)));
    let table = table.ok_or_else(no_section)?;
    let text = value.to_str().ok_or_else(|| problem(&"its value is not UTF-8"))?;
    let Value::Table(entries) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) else {
        return Err(no_section());
    };
    let as_string = Value::String(text.to_owned());
    let literal = toml::from_str::<Table>(&format!("value = {text}")).ok();
    let literal = literal.and_then(|mut parsed| parsed.remove("value"));
    for candidate in literal.into_iter().chain([as_string]) {
        let mut alone = Table::new();
        alone.insert(key.to_owned(), candidate.clone());
        let mut alone: Table = [(section.to_owned(), Value::Table(alone))].into_iter().collect();
        if let Some(around) = around {
            alone = [(around.to_owned(), Value::Table(alone))].into_iter().collect();
        }
        match Config::deserialize_table(alone) {
            Ok(_) => {
                entries.insert(key.to_owned(), candidate);
                return Ok(());
            }
            // What a header says is not shown, not even where it is said wrongly.
            Err(_) if candidate.is_str() && key == "headers" => {
                return Err(problem(&"it is a table of texts, { name = \"value\", … }"));
            }
            Err(error) if candidate.is_str() => return Err(problem(&error.message())),
            Err(_) => {}
        }
    }
    Ok(())
}

/// The table of a section, made where it is not there; none where something else has its name.
fn nested<'a>(table: &'a mut Table, section: &str) -> Option<&'a mut Table> {
    table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
}

/// The variable that replaces `[platform]`: an inline table of TOML, `{ OSFamily = "Linux" }`.
const PLATFORM: &str = "FARCC_PLATFORM";

fn set_platform(table: &mut Table, value: &OsStr) -> Result<(), ConfigError> {
    let problem = |problem: &dyn std::fmt::Display| {
        ConfigError(format!("use the variable {PLATFORM}: {problem}; it is {{ name = \"value\", … }}"))
    };
    let text = value.to_str().ok_or_else(|| problem(&"its value is not UTF-8"))?;
    let alone: Table =
        toml::from_str(&format!("platform = {text}")).map_err(|error| problem(&error.message()))?;
    Config::deserialize_table(alone.clone()).map_err(|error| problem(&error.message()))?;
    table.extend(alone);
    Ok(())
}

/// A file with this configuration. What is secret in it is not in the file.
///
/// # Errors
/// When a value cannot be written.
pub fn to_file(config: &Config) -> Result<String, toml::ser::Error> {
    let mut table = Table::try_from(config)?;
    for (_, value) in &mut table {
        each_string(value, &mut |string| -> Result<(), Infallible> {
            *string = string.replace('$', "$$");
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
    }
    toml::to_string(&table)
}

/// Replaces `$NAME` in every string below `value`.
fn expand(value: &mut Value, text: &str, env: &[(OsString, OsString)]) -> Result<(), String> {
    each_string(value, &mut |string| {
        *string = expand_string(string, text, env)?;
        Ok(())
    })
}

/// Calls `change` with every string below `value` in which `$` begins a name.
fn each_string<E>(value: &mut Value, change: &mut impl FnMut(&mut String) -> Result<(), E>) -> Result<(), E> {
    match value {
        Value::String(string) => change(string)?,
        Value::Array(array) => {
            for value in array {
                each_string(value, change)?;
            }
        }
        // The pattern of a route has `$` for the end of the line.
        Value::Table(table) => {
            for (_, value) in table.iter_mut().filter(|(key, _)| key.as_str() != "match") {
                each_string(value, change)?;
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
    Ok(())
}

fn expand_string(string: &str, text: &str, env: &[(OsString, OsString)]) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = string;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let starts_name = |c: char| c.is_ascii_alphabetic() || c == '_';
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        if !rest.starts_with(starts_name) {
            expanded.push('$');
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(value) = env_value(env, name).and_then(OsStr::to_str) else {
            let line = text.lines().position(|line| line.contains(&format!("${name}"))).map_or(0, |n| n + 1);
            return Err(format!("line {line}: the variable {name} is not set"));
        };
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use expect_test::Expect;
    use expect_test::expect;

    use super::*;
    use crate::config::Strategy;
    use crate::config::WhenLost;

    fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("farcc.toml");
        std::fs::write(&path, text).unwrap();
        let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        load(&env, Path::new("/"), &path)
            .map_err(|error| ConfigError(error.0.replace(&directory.path().display().to_string(), "DIR")))
    }

    #[expect(clippy::needless_pass_by_value, reason = "expect! yields values")]
    fn check_error(text: &str, env: &[(&str, &str)], expected: Expect) {
        expected.assert_eq(&load_text(text, env).unwrap_err().to_string());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = "[remote]\naddress = \"grpc://h:1\"\nretries = 7\ntimeout = \"3m\"\ninstance_name = \"a$$b/$X\"\n\
            tls = { ca_certs = \"/ca\" }\n[platform]\nOS = \"li nux$\"\n[platform.link]\npool = \"$$X\"\n\
            [exec]\nstrategy = \"racing\"\nverify = 0.5\ntimeout = \"90s\"\nsalt = \"$X\"\n[link]\nlocal_above = \"3MiB\"\n\
            [workspace]\nroots = [\"/a\", \"/b c\"]\n[twin]\naddress = \"unix:/t\"\nwhen_lost = \"fail\"\n\
            [[route]]\nmatch = '^protoc$'\nto = \"twin\"\nplatform = { a = \"b\" }\n\
            [[route]]\nmatch = 'x$y'\nto = \"local\"\n[cache]\nmax_size = \"5GB\"\n[status]\nlisten = \"\"\n";
        let first = load_text(text, &[("X", "it is $HOME")]).unwrap();
        assert_eq!(
            (first.remote.instance_name.as_str(), first.exec.salt.as_str()),
            ("a$b/it is $HOME", "it is $HOME")
        );
        let written = to_file(&first).unwrap();
        let again = load_text(&written, &[]).unwrap();
        assert_eq!(format!("{first:?}"), format!("{again:?}"), "{written}");
        let defaults = load_text(&to_file(&Config::default()).unwrap(), &[]).unwrap();
        assert_eq!(format!("{defaults:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn what_is_the_same_is_parsed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("farcc.toml");
        let configurations = Configurations::default();
        let load = |text: &str, env: &[(&str, &str)]| {
            std::fs::write(&path, text).unwrap();
            let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            configurations.load(&env, Path::new("/"), &path).unwrap()
        };
        let first = load("[exec]\njobs = 3\n", &[("A", "1")]);
        assert!(Arc::ptr_eq(&first, &load("[exec]\njobs = 3\n", &[("A", "2")])));
        assert_eq!(load("[exec]\njobs = 3\n", &[("FARCC_EXEC_JOBS", "4")]).exec.jobs, 4);
        assert_eq!(load("[exec]\njobs = 3\n", &[]).exec.jobs, 3);
        assert_eq!(load("[exec]\njobs = 5\n", &[]).exec.jobs, 5);
        for dollar in ["$", "\\u0024"] {
            let text = format!("[exec]\nsalt = \"{dollar}A\"\n");
            assert_eq!(load(&text, &[("A", "1")]).exec.salt, "1");
            assert_eq!(load(&text, &[("A", "2")]).exec.salt, "2");
        }
    }

    #[test]
    fn file_variables_and_overrides() {
        let config = load_text(
            "[remote]\naddress = \"grpc://$HOST:1\"\n[platform]\npool = \"a\"\n[exec]\njobs = 3\ntimeout = \"90s\"\n[[route]]\nmatch = \"x$\"\nto = \"local\"\n",
            &[("HOST", "h"), ("FARCC_EXEC_JOBS", "7"), ("FARCC_EXEC_STRATEGY", "local"), ("FARCC_EXEC_SALT", "12")],
        )
        .unwrap();
        assert_eq!(config.remote.address, "grpc://h:1");
        assert_eq!(config.exec.jobs, 7);
        assert_eq!(config.exec.strategy, Strategy::Local);
        assert_eq!(config.exec.salt, "12");
        assert_eq!(config.exec.timeout.as_secs(), 90);
        assert!(config.routes[0].pattern.is_match(b"gcc x"));
    }

    #[test]
    fn properties_of_classes_and_routes_stand_on_top() {
        let text = "[platform]\nOS = \"linux\"\nlink = \"a property\"\n[platform.compile]\nOS = \"bsd\"\nPool = \"x\"\n[[route]]\nmatch = \"x\"\nto = \"remote\"\nplatform = { Pool = \"big\" }\n";
        let config = load_text(text, &[]).unwrap();
        let none = BTreeMap::new();
        let of = |class: &str, more: &BTreeMap<String, String>| -> Vec<String> {
            let properties = config.platform.of(class, more);
            properties.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        assert_eq!(of("archive", &none), ["OS=linux", "link=a property"]);
        assert_eq!(of("compile", &none), ["OS=bsd", "Pool=x", "link=a property"]);
        assert_eq!(of("compile", &config.routes[0].platform), ["OS=bsd", "Pool=big", "link=a property"]);
        let replaced = load_text(text, &[("FARCC_PLATFORM", "{ Arch = \"arm64\" }")]).unwrap();
        assert_eq!(replaced.platform.of("compile", &none).len(), 1);
        check_error(
            "[platform.compil]\na = \"b\"\n",
            &[],
            expect![[r#"
            read DIR/farcc.toml: TOML parse error at line 1, column 2
              |
            1 | [platform.compil]
              |  ^^^^^^^^
            [platform.compil] is no class of commands: they are compile, link, archive
        "#]],
        );
        check_error(
            "",
            &[("FARCC_PLATFORM", "linux")],
            expect![[
                r#"use the variable FARCC_PLATFORM: string values must be quoted, expected literal string; it is { name = "value", … }"#
            ]],
        );
    }

    #[test]
    fn certificates_and_secrets() {
        let env =
            [("FARCC_REMOTE_TLS_CA_CERTS", "/ca.pem"), ("FARCC_REMOTE_HEADERS", "{ x-key = \"hush\" }")];
        let config = load_text("[remote]\ntls = { client_cert = \"/c.pem\" }\n", &env).unwrap();
        assert_eq!(config.remote.tls.ca_certs.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(config.remote.tls.client_cert.as_deref(), Some(Path::new("/c.pem")));
        assert_eq!(config.remote.headers["x-key"].reveal(), "hush");
        let shown = format!("{config:?}{}", toml::to_string(&config).unwrap());
        assert!(shown.contains("x-key") && !shown.contains("hush"), "{shown}");
        for wrong in ["x-key=hush", "{ x-key = 7, hush = 8 }", "{ x-key = \"hush\""] {
            let error = load_text("", &[("FARCC_REMOTE_HEADERS", wrong)]).unwrap_err().to_string();
            assert!(error.contains("FARCC_REMOTE_HEADERS") && !error.contains("hush"), "{error}");
        }
        check_error(
            "",
            &[("FARCC_REMOTE_TLS_CA", "/ca.pem")],
            expect![
                "use the variable FARCC_REMOTE_TLS_CA: unknown field `ca`, expected one of `ca_certs`, `client_cert`, `client_key`"
            ],
        );
        check_error(
            "[remote]\ntoken_file = \"token\"\n",
            &[],
            expect![[
                r#"use [remote] token_file "token": it is not absolute; $HOME and other variables are expanded, ~ is not"#
            ]],
        );
        check_error(
            "[remote]\ntoken_file = \"/t\"\ncredential_helper = \"/h\"\n",
            &[],
            expect!["use [remote] credential_helper and token_file: one of them must do"],
        );
        check_error(
            "[remote]\ntls = { client_key = \"/k\" }\n",
            &[],
            expect!["use [remote] tls.client_key: it needs tls.client_cert"],
        );
    }

    #[test]
    fn the_twin_is_reached_as_the_cluster_is() {
        let env = [
            ("FARCC_TWIN_TLS_CA_CERTS", "/ca.pem"),
            ("FARCC_TWIN_HEADERS", "{ x-key = \"hush\" }"),
            ("FARCC_TWIN_NETWORK", "true"),
            ("FARCC_TWIN_TIMEOUT", "5s"),
        ];
        let config = load_text("[twin]\naddress = \"unix:/t\"\nwhen_lost = \"fail\"\n", &env).unwrap();
        assert!(config.twin.is_configured() && config.twin.network);
        assert_eq!((config.twin.when_lost, config.twin.timeout.as_secs()), (WhenLost::Fail, 5));
        assert_eq!(config.twin.access().tls.ca_certs.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(config.remote.tls.ca_certs, None);
        assert_eq!(config.twin.access().headers["x-key"].reveal(), "hush");
        assert!(!format!("{config:?}").contains("hush"));
        check_error(
            "[twin]\ntls = { client_key = \"/k\" }\n",
            &[],
            expect!["use [twin] tls.client_key: it needs tls.client_cert"],
        );
        check_error(
            "[twin]\ncredential_helper = \"helper\"\n",
            &[],
            expect![[
                r#"use [twin] credential_helper "helper": it is not absolute; $HOME and other variables are expanded, ~ is not"#
            ]],
        );
        check_error(
            "twin = 1\n",
            &[("FARCC_TWIN_TLS_CA_CERTS", "/ca.pem")],
            expect![[r#"
            read DIR/farcc.toml: TOML parse error at line 1, column 8
              |
            1 | twin = 1
              |        ^
            invalid type: integer `1`, expected struct Twin
        "#]],
        );
    }

    #[test]
    fn a_route_to_the_twin_needs_one() {
        let text = "[[route]]\nmatch = \"a\"\nto = \"local\"\n\n[[route]]\nmatch = \"b\"\nto = \"twin\"\n";
        check_error(text, &[], expect![[r#"read DIR/farcc.toml: line 7: to = "twin" needs [twin] address"#]]);
        check_error(
            "route = [{ match = \"a\", to = \"twin\" }]\n",
            &[],
            expect![[r#"read DIR/farcc.toml: line 1: to = "twin" needs [twin] address"#]],
        );
        let config = load_text(text, &[("FARCC_TWIN_ADDRESS", "grpc://h:1")]).unwrap();
        assert_eq!(config.routes[1].to, Destination::Twin);
        let off =
            load_text(&format!("{text}[twin]\naddress = \"grpc://h:1\"\n"), &[("FARCC_TWIN_ADDRESS", "")]);
        assert_eq!(off.unwrap().routes.len(), 1);
    }

    #[test]
    fn a_missing_default_file_is_no_error_but_a_named_one_is() {
        let (cwd, default) = (Path::new("/nonexistent"), Path::new("/nonexistent/other.toml"));
        assert!(load(&[], cwd, default).is_ok());
        // A relative one is the command's, not the daemon's.
        for named in ["/nonexistent/farcc.toml", "farcc.toml"] {
            let env = [("FARCC_CONFIG".into(), named.into())];
            let error = load(&env, cwd, default).unwrap_err();
            assert!(error.to_string().contains("/nonexistent/farcc.toml"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_line_or_the_variable() {
        check_error(
            "[remote]\nadress = \"x\"\n",
            &[],
            expect![[r#"
                read DIR/farcc.toml: TOML parse error at line 2, column 1
                  |
                2 | adress = "x"
                  | ^^^^^^
                unknown field `adress`, expected one of `address`, `engine_address`, `cas_address`, `action_cache_address`, `instance_name`, `headers`, `credential_helper`, `token_file`, `tls`, `digest_function`, `compression`, `retries`, `timeout`
            "#]],
        );
        check_error(
            "\n[exec]\nsalt = \"$NOPE\"\n",
            &[],
            expect![["read DIR/farcc.toml: line 3: the variable NOPE is not set"]],
        );
        // A variable elsewhere in the file does not cost the line.
        check_error(
            "[exec]\nsalt = \"$SALT\"\njob = 3\n",
            &[("SALT", "s")],
            expect![[r#"
                read DIR/farcc.toml: TOML parse error at line 3, column 1
                  |
                3 | job = 3
                  | ^^^
                unknown field `job`, expected one of `strategy`, `paths`, `root`, `toolchain`, `accept_cached`, `upload_local_results`, `jobs`, `local_jobs`, `timeout`, `salt`, `verify`
            "#]],
        );
        check_error(
            "[cache]\ndir = \"~/cache\"\n",
            &[],
            expect![[
                r#"use [cache] dir "~/cache": it is not absolute; $HOME and other variables are expanded, ~ is not"#
            ]],
        );
        check_error(
            "",
            &[("FARCC_EXEC_JOBS", "many")],
            expect![[r#"use the variable FARCC_EXEC_JOBS: invalid type: string "many", expected usize"#]],
        );
        check_error(
            "[workspace]\nroots = [\"/a\", \"b\"]\n",
            &[],
            expect![[
                r#"use [workspace] roots "b": it is not absolute; $HOME and other variables are expanded, ~ is not"#
            ]],
        );
        check_error(
            "[exec]\nverify = 2.0\n",
            &[],
            expect![[r#"
            read DIR/farcc.toml: TOML parse error at line 2, column 10
              |
            2 | verify = 2.0
              |          ^^^
            2 is no share: it is from 0 to 1
        "#]],
        );
        let share =
            |text, variables: &[(&str, &str)]| load_text(text, variables).unwrap().exec.verify.to_string();
        assert_eq!(share("[exec]\nverify = 1\n", &[]), "1");
        assert_eq!(share("", &[("FARCC_EXEC_VERIFY", "0.25")]), "0.25");
        let roots =
            load_text("", &[("FARCC_WORKSPACE_ROOTS", "[\"/a b\", \"/c\"]")]).unwrap().workspace.roots;
        assert_eq!(roots, [Path::new("/a b"), Path::new("/c")]);
        check_error(
            "",
            &[("FARCC_REMOTE_ADRESS", "x")],
            expect![
                "use the variable FARCC_REMOTE_ADRESS: unknown field `adress`, expected one of `address`, `engine_address`, `cas_address`, `action_cache_address`, `instance_name`, `headers`, `credential_helper`, `token_file`, `tls`, `digest_function`, `compression`, `retries`, `timeout`"
            ],
        );
    }
}

//! `farccd config`: the configuration that a command would get here and now, each value with its source.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use toml::Table;
use toml::Value;

use crate::cli::Surroundings;
use crate::cli::print;
use crate::cli::print_json;
use crate::config::Source;
use crate::config::Sources;
use crate::config::load_with_sources;

pub(super) fn config(surroundings: &Surroundings, json: bool) -> anyhow::Result<ExitCode> {
    let Surroundings { env, cwd, places } = surroundings;
    let (config, sources) = load_with_sources(env, cwd, &places.config_file)?;
    let table = Table::try_from(&config).context("write the configuration")?;
    if json {
        return print_json(&as_json(&table, &sources));
    }
    print(as_toml(&table, &sources))
}

fn source_of(sources: &Sources, section: &str, key: &str) -> String {
    match sources.get(&(section.to_owned(), key.to_owned())) {
        None => "default".to_owned(),
        Some(Source::File(path)) => path.display().to_string(),
        Some(Source::Variable(name)) => format!("${name}"),
    }
}

/// A file that could be used as it is, but for what is hidden.
fn as_toml(table: &Table, sources: &Sources) -> String {
    let mut text = String::new();
    for (section, value) in table {
        match value {
            Value::Table(keys) if !keys.is_empty() => {
                // Writing to a string never fails.
                let _ = writeln!(text, "[{section}]");
                for (key, value) in keys {
                    let key_text = toml_key(key);
                    let _ = writeln!(text, "{key_text} = {value}    # {}", source_of(sources, section, key));
                }
                text.push('\n');
            }
            Value::Array(entries) => {
                for entry in entries.iter().filter_map(Value::as_table) {
                    let _ = writeln!(text, "[[{section}]]    # {}", source_of(sources, section, ""));
                    for (key, value) in entry {
                        let _ = writeln!(text, "{} = {value}", toml_key(key));
                    }
                    text.push('\n');
                }
            }
            _ => {}
        }
    }
    text
}

/// A key as TOML wants it: quoted where it is no bare one.
fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

/// `{section: {key: {"value": …, "source": …}}}`; routes are a list of tables.
fn as_json(table: &Table, sources: &Sources) -> serde_json::Value {
    let sections = table.iter().map(|(section, value)| {
        let value = match value {
            Value::Table(keys) => {
                let keys = keys.iter().map(|(key, value)| {
                    let source = source_of(sources, section, key);
                    (key.clone(), serde_json::json!({ "value": value, "source": source }))
                });
                serde_json::Value::Object(keys.collect())
            }
            other => serde_json::json!(other),
        };
        (section.clone(), value)
    });
    serde_json::Value::Object(sections.collect())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_printed_is_a_configuration_with_sources() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("farcc.toml");
        let text = "[remote]\naddress = \"grpc://h:1\"\nheaders = { x-key = \"hush\" }\n[platform]\n\"a.b\" = \"c\"\n[[route]]\nmatch = \"x\"\nto = \"local\"\n";
        std::fs::write(&file, text).unwrap();
        let env = [("FARCC_EXEC_JOBS", "7"), ("FARCC_REMOTE_TLS_CA_CERTS", "/ca.pem")];
        let env: Vec<(OsString, OsString)> = env.map(|(name, value)| (name.into(), value.into())).to_vec();
        let (config, sources) = load_with_sources(&env, Path::new("/"), &file).unwrap();
        let table = Table::try_from(&config).unwrap();
        let shown = as_toml(&table, &sources);
        let again: crate::config::Config = toml::from_str(&shown).unwrap();
        assert_eq!((again.exec.jobs, again.remote.address.as_str()), (7, "grpc://h:1"));
        assert!(!shown.contains("hush"), "{shown}");
        let shown = shown.replace(&file.display().to_string(), "FILE");
        let set: Vec<&str> = shown.lines().filter(|line| !line.ends_with("# default")).collect();
        expect![[r#"
            [cache]

            [exec]
            jobs = 7    # $FARCC_EXEC_JOBS

            [link]

            [platform]
            "a.b" = "c"    # FILE

            [remote]
            address = "grpc://h:1"    # FILE
            headers = { x-key = "(hidden)" }    # FILE
            tls = { ca_certs = "/ca.pem" }    # $FARCC_REMOTE_TLS_CA_CERTS

            [[route]]    # FILE
            match = "x"
            platform = {}
            to = "local"

            [status]

            [twin]

            [workspace]
        "#]]
        .assert_eq(&set.join("\n"));
        let json = as_json(&table, &sources);
        assert_eq!(json["exec"]["jobs"], serde_json::json!({ "value": 7, "source": "$FARCC_EXEC_JOBS" }));
    }
}

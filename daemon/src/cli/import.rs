//! `farccd import`: the farcc.toml that says what the configuration of another client says.
//! Knows how the kinds of files are told apart; what their keys mean stands with each kind.

mod address;
mod bazel;
mod buck;
mod draft;
mod recc;
mod reclient;
mod syntax;

use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::ValueEnum;

use crate::cli::Surroundings;
use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Place;
use crate::cli::print;

/// No configuration that people write is larger, in bytes.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A .buckconfig, .bazelrc, reproxy.cfg, rewrapper.cfg, recc.conf, or a file of RBE_* or RECC_* variables
    file: PathBuf,
    /// What the file is, where its name and content do not tell
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// A section of a .bazelrc that is taken in, as by Bazel's --config=NAME
    #[arg(long = "bazel-config", value_name = "NAME")]
    bazel_configs: Vec<String>,
}

/// Whose configuration a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Buck2's .buckconfig
    Buck,
    /// Bazel's .bazelrc
    Bazel,
    /// Files of flags of reproxy and rewrapper, or of RBE_* variables
    Reclient,
    /// A recc.conf, or a file of RECC_* variables
    Recc,
}

pub(super) fn import(surroundings: &Surroundings, args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let path = surroundings.cwd.join(&args.file);
    let text = read(&path).with_context(|| format!("read {}", path.display()))?;
    let Some(kind) = args.kind.or_else(|| of_name(&path)).or_else(|| of_content(&text)) else {
        bail!("recognise {}: say what it is by --kind buck, bazel, reclient or recc", path.display());
    };
    if kind != Kind::Bazel && !args.bazel_configs.is_empty() {
        bail!("use --bazel-config: {} is no .bazelrc", path.display());
    }
    let place = Place {
        directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
        search_path: surroundings.variable("PATH").map(Into::into),
    };
    let imported = translate(kind, &text, place, &args.bazel_configs)
        .with_context(|| format!("translate {}", path.display()))?;
    print(imported)
}

/// The farcc.toml of a file's text.
fn translate(kind: Kind, text: &str, place: Place, bazel_configs: &[String]) -> anyhow::Result<String> {
    // Editors of other systems begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut draft = Draft::new(place);
    match kind {
        Kind::Buck => buck::translate(text, &mut draft),
        Kind::Bazel => bazel::translate(text, bazel_configs, &mut draft)?,
        Kind::Reclient => reclient::translate(text, &mut draft),
        Kind::Recc => recc::translate(text, &mut draft),
    }
    Ok(draft.render(kind.origin()))
}

impl Kind {
    fn origin(self) -> &'static str {
        match self {
            Kind::Buck => "a .buckconfig of Buck2",
            Kind::Bazel => "a .bazelrc",
            Kind::Reclient => "flags of reclient",
            Kind::Recc => "settings of recc",
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        bail!("it is larger than {LARGEST} bytes: no configuration is");
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => bail!("it is no text in UTF-8"),
    }
}

fn of_name(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let has = |part: &str| name.contains(part);
    match () {
        () if has("buckconfig") => Some(Kind::Buck),
        () if has("bazelrc") => Some(Kind::Bazel),
        () if has("reproxy") || has("rewrapper") => Some(Kind::Reclient),
        () if has("recc") => Some(Kind::Recc),
        () => None,
    }
}

/// The first line that only one kind has decides.
fn of_content(text: &str) -> Option<Kind> {
    let of_line = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let first = line.split([' ', '\t', ':', '=']).next().unwrap_or_default();
        match first {
            "[buck2_re_client]" => Some(Kind::Buck),
            "build" | "common" | "startup" | "test" | "try-import" if !line.contains(" = ") => {
                Some(Kind::Bazel)
            }
            "service" | "instance" | "exec_strategy" | "platform" | "-service" => Some(Kind::Reclient),
            "server" | "cas_server" | "action_cache_server" => Some(Kind::Recc),
            _ if first.starts_with("RBE_") => Some(Kind::Reclient),
            _ if first.starts_with("RECC_") => Some(Kind::Recc),
            _ => None,
        }
    };
    text.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Instant;

    use expect_test::expect_file;

    use super::*;
    use crate::config;

    const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/import");

    /// Where the files of the cases are said to stand.
    const DIRECTORY: &str = "/src/project";

    fn import_text(kind: Kind, text: &str, configs: &[&str]) -> anyhow::Result<String> {
        let place = Place { directory: DIRECTORY.into(), search_path: Some("/nonexistent:/bin".into()) };
        let configs: Vec<_> = configs.iter().map(ToString::to_string).collect();
        translate(kind, text, place, &configs)
    }

    /// farcc's own reading of a file; every variable is set.
    fn load(text: &str) -> Result<config::Config, config::ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("farcc.toml");
        std::fs::write(&path, text).unwrap();
        let names = text.split('$').skip(1).map(|rest| {
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
        });
        let env: Vec<_> = names.map(|name| (name.into(), "/set".into())).collect();
        config::load(&env, Path::new("/"), &path)
    }

    /// A whole file of `tests/cases/import`, recognised, translated, compared with the one beside it, and loaded.
    fn check(case: &str, kind: Kind, configs: &[&str]) -> config::Config {
        let path = Path::new(CASES).join(case);
        let text = read(&path).unwrap();
        assert!(of_name(&path).is_none_or(|named| named == kind));
        assert_eq!(of_content(&text), Some(kind));
        let imported = import_text(kind, &text, configs).unwrap();
        expect_file![format!("{CASES}/{case}.toml")].assert_eq(&imported);
        load(&imported).unwrap_or_else(|error| panic!("{error}\n{imported}"))
    }

    #[test]
    fn buck_for_buildbuddy() {
        let config = check("buildbuddy.buckconfig", Kind::Buck, &[]);
        // grpc:// with TLS is what Buck2 means.
        assert_eq!(config.remote.address, "grpcs://remote.buildbuddy.io");
        assert_eq!(config.remote.headers["x-buildbuddy-api-key"].reveal(), "/set");
        assert_eq!(config.exec.jobs, 200);
    }

    #[test]
    fn buck_for_engflow_and_nativelink() {
        let config = check("engflow.buckconfig", Kind::Buck, &[]);
        assert_eq!(config.remote.tls.ca_certs.unwrap(), Path::new("/src/project/certs/engflow-ca.pem"));
        let config = check("nativelink.buckconfig", Kind::Buck, &[]);
        assert_eq!(config.remote.address, "grpc://localhost:50052");
        assert_eq!(config.remote.cas_address, "grpc://localhost:50051");
        assert_eq!(config.remote.action_cache_address, "grpc://localhost:50051");
    }

    #[test]
    fn bazel_for_buildbuddy() {
        let config = check("buildbuddy.bazelrc", Kind::Bazel, &["remote"]);
        assert_eq!(config.remote.headers["x-buildbuddy-api-key"].reveal(), "Pj4YOURAPIKEYsTqB");
        assert_eq!(config.platform.properties["OSFamily"], "Linux");
        assert!(!config.exec.accept_cached && !config.exec.upload_local_results);
        assert_eq!(config.remote.retries, 3);
    }

    #[test]
    fn a_section_of_bazel_counts_only_where_it_is_asked_for() {
        let text = "build --remote_cache=grpc://cache:1\nbuild:remote --remote_executor=grpc://engine:1\n";
        let config = |configs: &[&str]| load(&import_text(Kind::Bazel, text, configs).unwrap()).unwrap();
        assert_eq!(config(&[]).remote.address, "grpc://cache:1");
        assert_eq!(config(&[]).exec.strategy, config::Strategy::CacheOnly);
        assert_eq!(config(&["remote"]).remote.address, "grpc://engine:1");
        assert_eq!(config(&["remote"]).remote.cas_address, "grpc://cache:1");
        let error = import_text(Kind::Bazel, text, &["nope"]).unwrap_err().to_string();
        assert_eq!(error, "use --bazel-config nope: the file has no lines for it");
    }

    #[test]
    fn addresses_of_bazel() {
        let address = |raw: &str| {
            let text = format!("build --remote_executor={raw}\n");
            load(&import_text(Kind::Bazel, &text, &[]).unwrap()).unwrap().remote.address
        };
        assert_eq!(address("host:1"), "grpcs://host:1");
        assert_eq!(address("grpc://host"), "grpc://host:80");
        assert_eq!(address("grpcs://user:pw@[::1]:8/path"), "grpcs://[::1]:8");
        assert_eq!(address("unix:///run/s"), "unix:/run/s");
        assert_eq!(address("http://host/cache"), "");
    }

    #[test]
    fn reclient_for_chromium() {
        let config = check("chromium.reproxy.cfg", Kind::Reclient, &[]);
        assert_eq!(config.remote.timeout.as_secs(), 120);
        let config = check("chromium.rewrapper.cfg", Kind::Reclient, &[]);
        assert_eq!(config.platform.properties["label:action_default"], "1");
    }

    #[test]
    fn reclient_by_variables() {
        let path = Path::new(CASES).join("buildbarn.reclient.env");
        let text = read(&path).unwrap();
        assert_eq!(of_content(&text), Some(Kind::Reclient));
        let imported = import_text(Kind::Reclient, &text, &[]).unwrap();
        expect_file![format!("{CASES}/buildbarn.reclient.env.toml")].assert_eq(&imported);
        assert!(!imported.contains("hunter2"), "a secret outside its place");
        assert_eq!(load(&imported).unwrap().exec.strategy, config::Strategy::CacheOnly);
    }

    #[test]
    fn recc_for_buildgrid() {
        let config = check("recc.conf", Kind::Recc, &[]);
        assert_eq!(config.remote.address, "grpc://buildgrid.office:50051");
        assert_eq!(config.remote.cas_address, "grpcs://cas.office:50052");
        assert_eq!(config.platform.of_class["link"]["Pool"], "large memory");
        assert_eq!(config.workspace.roots, [Path::new("/src/project")]);
        let config = check("cache-only.recc.env", Kind::Recc, &[]);
        assert_eq!(config.remote.address, "unix:/run/casd.sock");
        assert!(!config.exec.upload_local_results);
    }

    #[test]
    fn secrets_stand_in_their_place_alone() {
        let secret = "s3cr3t";
        let cases = [
            (Kind::Buck, "[buck2_re_client]\nhttp_headers = x-key: s3cr3t, s3cr3t\ns3cr3t\ns3cr3t! = 1\n"),
            (
                Kind::Bazel,
                "build --remote_header x-key=s3cr3t --remote_header s3cr3t s3cr3t\nbuild 's3cr3t\n",
            ),
            (
                Kind::Bazel,
                "build --remote_header=x-key=s3cr3t --bes_header=a=s3cr3t --credential_helper_s=s3cr3t\n",
            ),
            (Kind::Reclient, "remote_headers=x-key=s3cr3t,s3cr3t\ncredentials_helper_args --t s3cr3t\n"),
            (Kind::Recc, "remote_platform_x-key=s3cr3t\nremote_env_TOKEN=s3cr3t\n\"s3cr3t\n"),
        ];
        for (kind, text) in cases {
            let imported = import_text(kind, text, &[]).unwrap();
            load(&imported).unwrap();
            let echoed: Vec<_> = imported.lines().filter(|line| line.contains(secret)).collect();
            assert_eq!(echoed, ["x-key = \"s3cr3t\""], "{text}{imported}");
        }
    }

    #[test]
    fn only_plain_variables_can_be_written() {
        let text = "instance=${A}-x\nremote_headers=a=${B}c,d=$(e),f=$G\ncache_silo=${H:-i}\n";
        let imported = import_text(Kind::Reclient, text, &[]).unwrap();
        for line in [
            "instance_name = \"$A-x\"",
            "# a = \"${B}c\"",
            "# d = \"$(e)\"",
            "f = \"$G\"",
            "# salt = \"${H:-i}\"",
        ] {
            assert!(imported.lines().any(|printed| printed == line), "{line} is not in\n{imported}");
        }
        load(&imported).unwrap();
        // To Bazel none of them is a variable.
        let text = "build --remote_header=a=$(e) --remote_header=b=$F --remote_header=c=${G}h\n";
        let config = load(&import_text(Kind::Bazel, text, &[]).unwrap()).unwrap();
        let headers: Vec<_> = config.remote.headers.values().map(config::Secret::reveal).collect();
        assert_eq!(headers, ["$(e)", "/set", "${G}h"]);
    }

    #[test]
    fn hostile_files_are_translated_or_refused() {
        let mut circle = String::new();
        for at in 0..300 {
            writeln!(circle, "build:c{at} --config=c{} --config=c{}", at + 1, at + 1).unwrap();
        }
        let deep = format!(
            "[a]\n{}",
            (0..50)
                .map(|n| format!("k{n} = {}\n", format!("$(config a.k{})", n + 1).repeat(9)))
                .collect::<String>()
        );
        let texts = [
            String::new(),
            "\u{202e}\u{7}=\u{1b}[31m\n\"'\\".to_owned(),
            "build --config=a\nbuild:a --config=b --jobs=3\nbuild:b --config=a --remote_executor=grpc://h:1\n".to_owned(),
            format!("build --config=c0\n{circle}"),
            format!("{deep}[buck2_re_client]\naddress = $(config a.k0)\ninstance_name = $(config buck2_re_client.instance_name)\nx = $(config\n"),
            "import \u{1b}]0;x\u{7}\nbuild --remote_header=\nbuild --\nbuild - -j\n:\nbuild: --x\n--remote_header".to_owned(),
            "[\n]\n[a\n=\n = b\n<file:\n\\\n\\".to_owned(),
            "[buck2_re_client]\naddress = ://@:\nhttp_headers = :,a:,:b,é: ü\ntls = maybe\n\\".to_owned(),
            "service=unix:\nplatform==,a=,=b,\u{0}\nrpc_timeouts=default=1e999s\nexec_timeout=9999999999999999h\n".to_owned(),
            "RBE_platform=é\"\n=a=\nserver=€://€\nRECC_=\nremote_platform_[]=x\nremote_platform_[=y\nRECC_REMOTE_PLATFORM_É=\u{85}\n".to_owned(),
            "a=".repeat(200_000),
            "<file:x>\nimport x\nbuild 'x\n".repeat(30_000),
            (0..60_000).map(|n| format!("build --f{n} x{n}\nk{n}=\n")).collect(),
            "\\\n".repeat(300_000),
            "$(config a.b".repeat(30_000),
            format!("[buck2_re_client]\naddress = {}\n", "${".repeat(100_000)),
            format!("{}{}", "build --config=a\n".repeat(19_000), "build:a\n".repeat(80_000)),
            "remote_platform_link=x\nlink_remote_platform_a=y\nremote_platform_link=z\n".to_owned(),
        ];
        for text in &texts {
            for kind in [Kind::Buck, Kind::Bazel, Kind::Reclient, Kind::Recc] {
                let begun = Instant::now();
                let start: String = text.chars().take(200).collect();
                match import_text(kind, text, &[]) {
                    Ok(imported) => {
                        load(&imported)
                            .unwrap_or_else(|error| panic!("{kind:?} {start}: {error}\n{imported}"));
                    }
                    Err(error) => assert!(error.to_string().starts_with("expand --config: "), "{error}"),
                }
                assert!(begun.elapsed().as_secs() < 20, "{kind:?} {start}: {:?}", begun.elapsed());
            }
            of_content(text);
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recc.conf");
        for (bytes, expected) in [
            (b"server=\xff\xfe".to_vec(), "it is no text in UTF-8"),
            (b"\x7fELF\0\0".to_vec(), "it is no text in UTF-8"),
            (vec![b'\n'; (1 << 20) + 1], "it is larger than 1048576 bytes: no configuration is"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn kinds_are_recognised() {
        let names = [
            (".buckconfig.local", Some(Kind::Buck)),
            ("user.bazelrc", Some(Kind::Bazel)),
            ("reproxy_cfg", Some(Kind::Reclient)),
            ("recc.conf", Some(Kind::Recc)),
            ("env", None),
        ];
        for (name, kind) in names {
            assert_eq!(of_name(&Path::new("/recc").join(name)), kind, "{name}");
        }
        let contents = [
            ("# x\n\n[buck2_re_client]\n", Some(Kind::Buck)),
            ("\nbuild:a --b\n", Some(Kind::Bazel)),
            ("export RBE_service=x\n", Some(Kind::Reclient)),
            ("RECC_SERVER=x\n", Some(Kind::Recc)),
            ("hello\n", None),
        ];
        for (text, kind) in contents {
            assert_eq!(of_content(text), kind, "{text}");
        }
    }
}

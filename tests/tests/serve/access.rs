//! Who gets in: TLS, clients' certificates, the bearer token, and addresses that are refused without them.

use std::process::Command as Program;

use farcc_tests::binaries::binaries;
use farcc_tests::certificates::Authority;
use farccd::access::AccessOptions;
use farccd::access::TlsFiles;
use tonic::transport::Certificate;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Endpoint;
use tonic::transport::Identity;

use super::*;

/// The files of one authority's server, and a token.
struct Files {
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { authority: Authority::new(), directory: tempfile::tempdir().unwrap() };
        let server = files.authority.server(&["localhost", "127.0.0.1"]);
        files.write("server.pem", &server.certificate);
        files.write("server.key", &server.key);
        files.write("ca.pem", &files.authority.pem());
        files.write("token", "s3cret-token\n");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn access(&self, client_ca: bool, token: bool) -> AccessOptions {
        AccessOptions {
            tls: Some(TlsFiles { certificate: self.path("server.pem"), key: self.path("server.key") }),
            tls_client_ca: client_ca.then(|| self.path("ca.pem")),
            token_file: token.then(|| self.path("token")),
        }
    }

    /// How a client trusts the server.
    fn trusting(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()))
    }
}

fn shown(identity: &farcc_tests::certificates::Identity) -> Identity {
    Identity::from_pem(&identity.certificate, &identity.key)
}

async fn capabilities_over(endpoint: Endpoint) -> Result<(), String> {
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    let request = reapi::GetCapabilitiesRequest::default();
    let answer = CapabilitiesClient::new(channel).get_capabilities(request).await;
    answer.map(|_| ()).map_err(|status| format!("{status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_keeps_strangers_out() {
    let files = Files::new();
    let server = Server::start_with(1, |options| options.access = files.access(true, false)).await;
    let endpoint = |scheme: &str| Endpoint::from_shared(format!("{scheme}://{}", server.address)).unwrap();
    let over_tls = |tls| capabilities_over(endpoint("https").tls_config(tls).unwrap());

    over_tls(files.trusting().identity(shown(&files.authority.client()))).await.unwrap();
    // Without a certificate, with one of another authority, with a server's: nobody.
    // With TLS 1.3 that is told after the client's handshake, so it may see no more than an end.
    over_tls(files.trusting()).await.unwrap_err();
    over_tls(files.trusting().identity(shown(&Authority::new().client()))).await.unwrap_err();
    over_tls(files.trusting().identity(shown(&files.authority.server(&["x"])))).await.unwrap_err();
    // A client that trusts somebody else, or speaks in clear text, does not get through either.
    let stranger = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(Authority::new().pem()));
    let error = over_tls(stranger.identity(shown(&files.authority.client()))).await.unwrap_err();
    assert!(error.contains("InvalidCertificate"), "{error}");
    capabilities_over(endpoint("http")).await.unwrap_err();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_wants_the_token() {
    let files = Files::new();
    let server = Server::start_with(1, |options| options.access = files.access(false, true)).await;
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let channel = endpoint.tls_config(files.trusting()).unwrap().connect().await.unwrap();
    for (header, is_let_in) in [
        (None, false),
        (Some("Bearer wrong"), false),
        (Some("Basic s3cret-token"), false),
        (Some("Bearer s3cret-token"), true),
        (Some("bearer s3cret-token"), true),
    ] {
        let codes = codes_of_all_services(&channel, header).await;
        for (service, code) in codes {
            assert_eq!(code != Code::Unauthenticated, is_let_in, "{service} {header:?}: {code:?}");
        }
    }
    server.stop().await;
}

/// What each service answers to a call that is well-formed and finds nothing.
async fn codes_of_all_services(channel: &Channel, header: Option<&str>) -> Vec<(&'static str, Code)> {
    let header: Option<tonic::metadata::MetadataValue<_>> = header.map(|header| header.parse().unwrap());
    let with_header = move |mut request: tonic::Request<()>| {
        header.clone().map(|header| request.metadata_mut().insert("authorization", header));
        Ok(request)
    };
    fn code<T>(answer: Result<T, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    let absent = Some(message(&Digest::of(b"absent")));
    let channel = || channel.clone();
    let mut codes = Vec::new();
    let mut capabilities = CapabilitiesClient::with_interceptor(channel(), with_header.clone());
    codes.push((
        "Capabilities",
        code(capabilities.get_capabilities(reapi::GetCapabilitiesRequest::default()).await),
    ));
    let mut storage = ContentAddressableStorageClient::with_interceptor(channel(), with_header.clone());
    let request = reapi::FindMissingBlobsRequest::default();
    codes.push(("ContentAddressableStorage", code(storage.find_missing_blobs(request).await)));
    let mut bytes = ByteStreamClient::with_interceptor(channel(), with_header.clone());
    let resource_name = format!("blobs/{}", Digest::of(b"absent"));
    let request = bytestream::ReadRequest { resource_name, ..Default::default() };
    codes.push(("ByteStream", code(bytes.read(request).await)));
    let mut cache = ActionCacheClient::with_interceptor(channel(), with_header.clone());
    let request = reapi::GetActionResultRequest { action_digest: absent.clone(), ..Default::default() };
    codes.push(("ActionCache", code(cache.get_action_result(request).await)));
    let mut execution = ExecutionClient::with_interceptor(channel(), with_header);
    let request = ExecuteRequest { action_digest: absent, ..Default::default() };
    codes.push(("Execution", code(execution.execute(request).await)));
    codes
}

/// What `farccd serve` says when it refuses to start; it must end by itself.
fn refusal(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Program::new("timeout");
    command.arg("60").arg(&binaries().farccd).arg("serve").args(arguments).arg("--dir").arg(directory.path());
    let output = command.env("FARCC_DIR", directory.path()).output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn beyond_loopback_only_with_tls_and_a_secret() {
    let files = Files::new();
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (cert, key, token, ca) = (path("server.pem"), path("server.key"), path("token"), path("ca.pem"));
    let open = ["--listen", "0.0.0.0:0"];
    for (arguments, said) in [
        (vec![], "whoever reaches the port can run commands here"),
        (vec!["--token-file", &token], "in clear text"),
        (vec!["--tls-cert", &cert, "--tls-key", &key], "Add --token-file"),
        (vec!["--tls-cert", &cert], "--tls-key"),
        (vec!["--tls-client-ca", &ca], "--tls-cert"),
    ] {
        let said_in_fact = refusal(&[&open[..], &arguments].concat());
        assert!(said_in_fact.contains(said), "{arguments:?}: {said_in_fact}");
    }
}

#[test]
fn wrong_files_are_named() {
    let files = Files::new();
    files.write("garbage.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    files.write("empty", "");
    files.write("other.key", &Authority::new().client().key);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("server.pem"), path("server.key"));
    for (cert, key, more, said) in [
        (path("absent"), key.clone(), vec![], "absent: No such file"),
        (cert.clone(), path("absent"), vec![], "absent: No such file"),
        (path("garbage.pem"), key.clone(), vec![], "garbage.pem: it is no proper PEM"),
        (path("empty"), key.clone(), vec![], "empty: there is no PEM section `CERTIFICATE`"),
        (key.clone(), cert.clone(), vec![], "server.key: there is no PEM section `CERTIFICATE`"),
        (cert.clone(), cert.clone(), vec![], "server.pem: there is no private key in PEM in it"),
        (cert.clone(), path("other.key"), vec![], "other.key"),
        (
            cert.clone(),
            key.clone(),
            vec!["--tls-client-ca".to_owned(), path("empty")],
            "there is no PEM section",
        ),
        (cert.clone(), key.clone(), vec!["--token-file".to_owned(), path("empty")], "one word"),
        (cert, key, vec!["--token-file".to_owned(), "/dev/zero".to_owned()], "too large"),
    ] {
        let mut arguments = vec!["--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        arguments.extend(more.iter().map(String::as_str));
        let said_in_fact = refusal(&arguments);
        assert!(said_in_fact.contains(said), "{arguments:?}: {said_in_fact}");
    }
}

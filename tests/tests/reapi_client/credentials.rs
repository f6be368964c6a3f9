//! Who calls: fixed headers, token files, credential helpers.
//! Knows nothing of what is called.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farccd::reapi::Client;
use farccd::reapi::CredentialSource;
use farccd::reapi::Endpoint;
use farccd::reapi::Headers;
use tonic::Code;

use crate::blobs;
use crate::endpoint;
use crate::futures_all;

/// A program that appends a line to `asked` and answers with what `answer` prints.
fn helper(directory: &Path, answer: &str) -> PathBuf {
    let program = directory.join("helper");
    let log = directory.join("asked");
    let script =
        format!("#!/bin/sh\n[ \"$*\" = get ] || exit 9\necho \"$(cat)\" >> {}\n{answer}\n", log.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn by(program: PathBuf) -> CredentialSource {
    CredentialSource::Helper { program, environment: vec![("PATH".into(), "/usr/bin:/bin".into())] }
}

fn questions(directory: &Path) -> Vec<String> {
    let asked = std::fs::read_to_string(directory.join("asked")).unwrap_or_default();
    asked.lines().map(str::to_owned).collect()
}

fn with(server: &FakeReapi, credentials: CredentialSource) -> Client {
    Client::new(Endpoint { credentials, retries: 0, ..endpoint(server) }).unwrap()
}

#[tokio::test]
async fn headers_go_with_every_call() {
    let server = FakeReapi::new().require_header("x-api-key", "hush").start();
    let keyless = with(&server, CredentialSource::None);
    let refused = keyless.upload(blobs(1, 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let calls = server.all_calls().values().sum::<usize>();
    assert_eq!(calls, 1, "what cannot be renewed is not tried again");

    let headers = Headers(vec![("X-Api-Key".to_owned(), "hush".to_owned())]);
    let client = Client::new(Endpoint { headers, ..endpoint(&server) }).unwrap();
    let large = blobs(2, 5 << 20);
    client.upload(large.clone()).await.unwrap();
    client.download(&large[0].digest).await.unwrap();
    client.action_result(&large[0].digest, &[]).await.unwrap();

    for name in ["bad name", "", "x-thing-bin"] {
        let headers = Headers(vec![(name.to_owned(), "v".to_owned())]);
        let unusable = Client::new(Endpoint { headers, ..endpoint(&server) });
        assert_eq!(unusable.err().unwrap().code(), Code::InvalidArgument, "{name:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_renewed_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let server = FakeReapi::new().require_header("authorization", "Bearer new").start();
    let client = with(&server, CredentialSource::TokenFile(token.clone()));
    let missing = client.upload(blobs(1, 10)).await.unwrap_err();
    assert_eq!(missing.code(), Code::Unauthenticated);
    assert!(missing.to_string().contains(&token.display().to_string()), "{missing}");
    std::fs::write(&token, "old\n").unwrap();
    assert_eq!(client.upload(blobs(1, 10)).await.unwrap_err().code(), Code::Unauthenticated);
    std::fs::write(&token, "new\n").unwrap();
    client.upload(blobs(1, 10)).await.unwrap();
}

#[tokio::test]
async fn a_helper_is_asked_once_for_many_calls() {
    let directory = tempfile::tempdir().unwrap();
    let program =
        helper(directory.path(), r#"sleep 0.2; echo '{"headers": {"Authorization": ["Bearer t"]}}'"#);
    let server = FakeReapi::new().require_header("authorization", "Bearer t").start();
    let client = with(&server, by(program));
    for result in futures_all((0..20).map(|number| client.upload(blobs(number, 20)))).await {
        result.unwrap();
    }
    let port = server.port();
    assert_eq!(questions(directory.path()), [format!(r#"{{"uri":"https://127.0.0.1:{port}"}}"#)]);
}

#[tokio::test]
async fn a_helper_is_asked_again_when_its_answer_has_run_out_or_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    // Its second answer is the right one.
    let answer = format!(
        r#"if [ $(wc -l < {}) -gt 1 ]; then t=right; else t=wrong; fi
        echo "{{\"headers\": {{\"Authorization\": [\"Bearer $t\"]}}, \"expires\": \"2999-01-01T00:00:00+02:00\"}}""#,
        directory.path().join("asked").display()
    );
    let program = helper(directory.path(), &answer);
    let server = FakeReapi::new().require_header("authorization", "Bearer right").start();
    let client = with(&server, by(program));
    client.capabilities().await.unwrap();
    client.upload(blobs(1, 10)).await.unwrap();
    assert_eq!(questions(directory.path()).len(), 2);

    let over = tempfile::tempdir().unwrap();
    let program = helper(
        over.path(),
        r#"echo '{"headers": {"Authorization": ["Bearer right"]}, "expires": "2000-01-01T00:00:00Z"}'"#,
    );
    let client = with(&server, by(program));
    client.upload(blobs(1, 30)).await.unwrap();
    assert!(questions(over.path()).len() > 1, "an answer that has run out is no answer for the next call");
}

#[tokio::test]
async fn a_helper_that_fails_is_named_and_its_secrets_are_not() {
    let server = FakeReapi::new().start();
    for (answer, said) in [
        ("echo no keys today >&2; exit 3", "no keys today"),
        ("echo '{\"headers\": \"hush\"'", "no JSON of the protocol"),
        (r#"echo '{"headers": {"bad name": ["hush"]}}'"#, "bad name"),
        (r#"echo '{"headers": {}, "expires": "tomorrow"}'"#, "tomorrow"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program = helper(directory.path(), answer);
        let error = with(&server, by(program)).capabilities().await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        let error = error.to_string();
        assert!(error.contains("helper") && error.contains(said) && !error.contains("hush"), "{error}");
    }
    let nowhere = by("/nonexistent/helper".into());
    let error = with(&server, nowhere).capabilities().await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/helper"), "{error}");
    assert_eq!(server.calls(Rpc::GetCapabilities), 0);
}

//! The client against `farccd serve`, which somebody else might have written: TLS, tokens, zstd, digest functions.
//! Knows nothing of compilers.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use farcc_tests::certificates::Authority;
use farcc_tests::proxy::Proxy;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use farccd::digest::DigestFunction;
use farccd::reapi::Blob;
use farccd::reapi::Client;
use farccd::reapi::Content;
use farccd::reapi::CredentialSource;
use farccd::reapi::Endpoint;
use farccd::reapi::Error;
use farccd::reapi::Tls;
use tonic::Code;

fn blob(function: DigestFunction, bytes: Vec<u8>) -> Blob {
    Blob { digest: function.digest(&bytes), content: Content::Bytes(bytes.into()) }
}

/// One blob for a stream and many for batches, there and back.
async fn move_blobs(client: &Client, function: DigestFunction, seed: &str) -> Result<(), Error> {
    let mut blobs = vec![blob(function, format!("large {seed}; ").repeat(1 << 19).into_bytes())];
    blobs.extend((0..50).map(|n| blob(function, format!("small {seed} {n}; ").repeat(100).into_bytes())));
    let digests: Vec<_> = blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(client.upload(blobs.clone()).await?.sent_blobs, 51);
    client.forget(&digests);
    assert_eq!(client.find_missing(&digests).await?, []);
    let back = client.download_many(&digests).await?;
    for blob in &blobs {
        let Content::Bytes(bytes) = &blob.content else { unreachable!("all are in memory") };
        assert!(back[&blob.digest] == *bytes, "{}", blob.digest);
    }
    Ok(())
}

#[test]
fn blobs_travel_packed_in_every_digest_function() {
    let space = TestSpace::new("packed");
    let server = ServeProcess::start(&space, "cluster");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for function in DigestFunction::ALL {
        for compression in [false, true] {
            let proxy = Proxy::start(server.address(), Duration::ZERO);
            let endpoint = Endpoint {
                address: format!("grpc://{}", proxy.host_and_port()),
                digest_function: Some(function),
                compression,
                ..Endpoint::default()
            };
            runtime.block_on(async {
                let client = Client::new(endpoint).unwrap();
                move_blobs(&client, function, &format!("{compression}")).await.unwrap();
            });
            let (there, back) = (proxy.bytes_there(), proxy.bytes_back());
            let size = 6 << 20;
            match compression {
                true => assert!(there < size / 20 && back < size / 20, "{there} {back}"),
                false => assert!(there > size && back > size, "{there} {back}"),
            }
        }
    }
}

struct Files {
    directory: PathBuf,
}

impl Files {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[test]
fn who_calls_is_shown_by_certificate_and_token() {
    let space = TestSpace::new("tls");
    let files = Files { directory: space.serve_dir() };
    std::fs::create_dir_all(&files.directory).unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server_identity, client_identity) =
        (authority.server(&["localhost", "127.0.0.1"]), authority.client());
    let ca = files.write("ca.pem", &authority.pem());
    let token = files.write("token", "sesame\n");
    let arguments = [
        "--tls-cert".to_owned(),
        files.write("server.pem", &server_identity.certificate),
        "--tls-key".to_owned(),
        files.write("server.key", &server_identity.key),
        "--tls-client-ca".to_owned(),
        ca.clone(),
        "--token-file".to_owned(),
        token.clone(),
    ];
    let server = ServeProcess::start_with(&space, "cluster", &arguments.each_ref().map(String::as_str));
    let (_, port) = server.address().rsplit_once(':').unwrap();

    let one_file =
        files.write("client.pem", &format!("{}{}", client_identity.certificate, client_identity.key));
    let own = files.write("own.pem", &client_identity.certificate);
    let key = files.write("own.key", &client_identity.key);
    let foreign = files.write("foreign.pem", &stranger.pem());
    let empty = files.write("empty.pem", "");
    let wrong_token = files.write("wrong", "sesam");
    let path = |path: &str| Some(PathBuf::from(path));
    let tls = |ca: &str, cert: Option<PathBuf>, key: Option<PathBuf>| Tls {
        ca_certs: path(ca),
        client_cert: cert,
        client_key: key,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let attempt = |tls: Tls, token: &str| {
        let endpoint = Endpoint {
            address: format!("grpcs://localhost:{port}"),
            tls,
            credentials: CredentialSource::TokenFile(Path::new(token).to_owned()),
            retries: 0,
            ..Endpoint::default()
        };
        runtime.block_on(async {
            let client = Client::new(endpoint)?;
            move_blobs(&client, DigestFunction::Sha256, &token.len().to_string()).await
        })
    };
    attempt(tls(&ca, path(&own), path(&key)), &token).unwrap();
    let nobody = attempt(tls(&ca, path(&one_file), None), &wrong_token).unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    assert!(!nobody.to_string().contains("sesam"), "{nobody}");
    assert!(attempt(tls(&ca, None, None), &token).is_err(), "no certificate");
    let untrusted = attempt(tls(&foreign, path(&one_file), None), &token).unwrap_err();
    assert!(untrusted.is_unreachable(), "{untrusted}");
    for (unusable, name) in [
        (tls(&empty, None, None), "empty.pem"),
        (tls("/nonexistent/ca.pem", None, None), "/nonexistent/ca.pem"),
        (tls(&ca, path(&own), None), "own.pem"),
    ] {
        let error = attempt(unusable, &token).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

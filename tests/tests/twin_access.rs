//! Who may call a twin, and which twin is called: TLS, certificates of both sides, and tokens, through launcher and daemon.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use farcc_tests::certificates::Authority;
use farcc_tests::certificates::Identity;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;

/// Writes a file, and returns its path for an argument or a configuration.
fn put(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn put_identity(directory: &Path, name: &str, identity: &Identity) -> (String, String) {
    (
        put(directory, &format!("{name}.pem"), &identity.certificate),
        put(directory, &format!("{name}.key"), &identity.key),
    )
}

#[test]
fn who_knows_who_they_are_work_together_and_others_are_told() {
    let space = TestSpace::new("twin-access");
    fs::create_dir(space.workspace().join(".git")).unwrap();
    let (here, there) = (space.home(), space.serve_dir());
    let (own, foreign) = (Authority::new(), Authority::new());
    let (cert, key) = put_identity(&there, "server", &own.server(&["127.0.0.1"]));
    let (other_cert, other_key) = put_identity(&there, "elsewhere", &own.server(&["twin.example"]));
    let client_ca = put(&there, "clients.pem", &own.pem());
    let token = put(&there, "secret", "right-token\n");
    let server = |name: &str, words: &[&str]| ServeProcess::twin(&space, name, words);
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let with_token = server("token", &[&tls[..], &["--token-file", &token]].concat());
    let mutual = server("mutual", &[&tls[..], &["--tls-client-ca", &client_ca]].concat());
    let elsewhere =
        server("elsewhere", &["--tls-cert", &other_cert, "--tls-key", &other_key, "--token-file", &token]);

    let ca = put(&here, "ca.pem", &own.pem());
    let foreign_ca = put(&here, "foreign-ca.pem", &foreign.pem());
    let (client_cert, client_key) = put_identity(&here, "client", &own.client());
    let (foreign_cert, foreign_key) = put_identity(&here, "foreign", &foreign.client());
    let right = put(&here, "right", "right-token\n");
    let wrong = put(&here, "wrong", "wrong-token\n");
    let absent = here.join("absent").display().to_string();
    let trust = |ca: &str| format!("tls = {{ ca_certs = \"{ca}\" }}\n");
    let show = |cert: &str, key: &str| {
        format!("tls = {{ ca_certs = \"{ca}\", client_cert = \"{cert}\", client_key = \"{key}\" }}\n")
    };
    let token = |file: &str| format!("token_file = \"{file}\"\n");
    space.configure("");
    space.start_daemon();
    let run = |twin: &ServeProcess, scheme: &str, more: &str| {
        space.configure(&format!("[twin]\naddress = \"{scheme}://{}\"\n{more}", twin.address()));
        let before = space.stats().verdict("twin");
        let mut command = space.command("farcc");
        command.env("FARCC_LOG", "debug").args(["/usr/bin/python3", "-c", "print('ran')"]);
        let finished = farcc_tests::space::run(&mut command).success();
        // It runs in any case; if not there, then here.
        assert_eq!(finished.stdout_text(), "ran\n");
        (space.stats().verdict("twin") > before, finished.stderr_text())
    };
    for (twin, more) in [
        (&with_token, trust(&ca) + &token(&right)),
        (&with_token, trust(&ca) + "headers = { authorization = \"Bearer right-token\" }\n"),
        (&mutual, show(&client_cert, &client_key)),
        (&mutual, show(&client_cert, &client_key) + &token(&right)),
    ] {
        let (is_there, said) = run(twin, "grpcs", &more);
        assert!(is_there, "{more}: {said}");
    }
    for (what, twin, scheme, more, expected) in [
        ("another authority", &with_token, "grpcs", trust(&foreign_ca) + &token(&right), "certificate"),
        ("another name", &elsewhere, "grpcs", trust(&ca) + &token(&right), "not valid for name"),
        ("no certificate shown", &mutual, "grpcs", trust(&ca), "want a certificate"),
        (
            "a stranger's certificate",
            &mutual,
            "grpcs",
            show(&foreign_cert, &foreign_key),
            "does it trust the certificate",
        ),
        ("no token", &with_token, "grpcs", trust(&ca), "token"),
        ("another token", &with_token, "grpcs", trust(&ca) + &token(&wrong), "token"),
        ("no file with a token", &with_token, "grpcs", trust(&ca) + &token(&absent), &absent),
        ("no file with a certificate", &with_token, "grpcs", trust(&absent), &absent),
        ("no TLS", &with_token, "grpc", token(&right), "TLS"),
    ] {
        let (is_there, said) = run(twin, scheme, &more);
        assert!(!is_there && said.contains("twin_unavailable"), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
        assert!(!said.contains("right-token") && !said.contains("wrong-token"), "{what}: {said}");
    }
    assert_eq!(space.stats().reason("twin_unavailable"), 9, "{:?}", space.stats());
}

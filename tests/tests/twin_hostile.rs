//! A client that heeds nothing: what it gets from the twin, which is nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use farcc_proto::twin as proto;
use farcc_proto::twin::twin_client::TwinClient;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::space::TestSpace;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Streaming;
use tonic::transport::Channel;

type Sync = (mpsc::Sender<proto::SyncRequest>, Streaming<proto::SyncResponse>);

async fn connect(address: &str) -> TwinClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    TwinClient::new(endpoint.connect().await.unwrap())
}

fn open(roots: &[&str], session: u8) -> proto::sync_request::Request {
    proto::sync_request::Request::Open(proto::Open {
        workspace: roots.join(" ").into_bytes(),
        roots: roots.iter().map(|root| root.as_bytes().to_vec()).collect(),
        session: vec![session; 16],
        digest_function: proto::DigestFunction::Sha256.into(),
        user: 1000,
        group: 1000,
        instance: vec![1],
    })
}

fn change(path: &str, now: Option<proto::change::Now>, rank: u32) -> proto::Change {
    proto::Change { root: 0, path: path.as_bytes().to_vec(), now, rank }
}

fn link(target: &str) -> Option<proto::change::Now> {
    Some(proto::change::Now::Link(proto::Link { target: target.as_bytes().to_vec() }))
}

fn directory() -> Option<proto::change::Now> {
    Some(proto::change::Now::Directory(proto::Directory { mode: 0o755 }))
}

fn file(bytes: &[u8]) -> Option<proto::change::Now> {
    let digest = farccd::digest::Digest::of(bytes);
    let digest = Some(proto::Digest { hash: digest.hash().to_vec(), size_bytes: digest.size_bytes() });
    Some(proto::change::Now::File(proto::File { digest, mode: 0o644 }))
}

fn batch(sequence: u64, is_whole: bool, changes: Vec<proto::Change>) -> proto::sync_request::Request {
    proto::sync_request::Request::Batch(proto::Batch { sequence, is_whole, changes, continues: false })
}

async fn sync(client: &mut TwinClient<Channel>, requests: Vec<proto::sync_request::Request>) -> Sync {
    let (sender, receiver) = mpsc::channel(16);
    let answers = client.sync(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for request in requests {
        sender.send(proto::SyncRequest { request: Some(request) }).await.unwrap();
    }
    (sender, answers)
}

/// How a session ends in which these are said.
async fn ends(address: &str, requests: Vec<proto::sync_request::Request>) -> Code {
    let (_sender, mut answers) = sync(&mut connect(address).await, requests).await;
    let end = async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the session goes on")
}

async fn runs(client: &mut TwinClient<Channel>, start: proto::Start) -> Result<String, Code> {
    let (sender, receiver) = mpsc::channel(16);
    let request = proto::RunRequest { request: Some(proto::run_request::Request::Start(start)) };
    sender.send(request).await.unwrap();
    let mut answers =
        client.run(ReceiverStream::new(receiver)).await.map_err(|status| status.code())?.into_inner();
    let mut said = String::new();
    loop {
        match answers.message().await.map_err(|status| status.code())? {
            Some(proto::RunResponse { response: Some(proto::run_response::Response::Output(output)) }) => {
                said.push_str(&String::from_utf8_lossy(&output.data));
            }
            Some(_) => {}
            None => return Ok(said),
        }
    }
}

fn start(session: u8, script: &str, cwd: &str) -> proto::Start {
    proto::Start {
        session: vec![session; 16],
        after_sequence: 1,
        arguments: ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec()).into(),
        working_directory: cwd.as_bytes().to_vec(),
        ..proto::Start::default()
    }
}

#[test]
fn a_hostile_client_gets_nothing() {
    let space = TestSpace::new("twin-hostile");
    let secret = space.serve_dir().join("secret");
    fs::write(&secret, "secret").unwrap();
    let twin = ServeProcess::twin(&space, "twin", &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(gets_nothing(twin.address(), &secret));
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
}

async fn gets_nothing(address: &str, secret: &Path) {
    for roots in [&["/etc"][..], &["/"], &["/usr/x"], &["relative"], &["/a/../etc"], &["/a", "/a/b"], &[]] {
        assert_eq!(ends(address, vec![open(roots, 1)]).await, Code::InvalidArgument, "{roots:?}");
    }
    let root = || change("", directory(), 0);
    for bad in [
        vec![root(), change("../x", directory(), 0)],
        vec![root(), change("/x", directory(), 0)],
        vec![root(), change("a/../../x", directory(), 0)],
        vec![root(), change("x", link(""), 0)],
        vec![root(), proto::Change { root: 7, ..change("x", directory(), 0) }],
    ] {
        let requests = vec![open(&["/ws"], 2), batch(1, true, bad.clone())];
        assert_eq!(ends(address, requests).await, Code::InvalidArgument, "{bad:?}");
    }
    // A way by a symlink that the same batch makes.
    let by_link = vec![root(), change("l", link("/etc"), 0), change("l/x", directory(), 0)];
    let code = ends(address, vec![open(&["/ws"], 3), batch(1, true, by_link)]).await;
    assert_eq!(code, Code::FailedPrecondition);
    // A content that is another's than its name says.
    let mut client = connect(address).await;
    let changes = vec![root(), change("f", file(b"promised"), 1)];
    let (sender, mut answers) = sync(&mut client, vec![open(&["/ws"], 4), batch(1, true, changes)]).await;
    let digest = match file(b"promised") {
        Some(proto::change::Now::File(file)) => file.digest,
        _ => None,
    };
    let piece = proto::Piece { digest, data: b"delivers".to_vec(), size_bytes: 8, ..proto::Piece::default() };
    sender
        .send(proto::SyncRequest { request: Some(proto::sync_request::Request::Piece(piece)) })
        .await
        .unwrap();
    let mut end = Ok(());
    while end.is_ok() {
        end = answers.message().await.map(|answer| assert!(answer.is_some()));
    }
    assert!(end.is_err());

    // Two workspaces: neither can be reached by way of the other.
    let links =
        vec![root(), change("secret", link(secret.to_str().unwrap()), 0), change("up", link("../.."), 0)];
    let (_one, mut opened) = sync(&mut client, vec![open(&["/one"], 5), batch(1, true, links)]).await;
    let (_two, _) = sync(&mut client, vec![open(&["/two"], 6), batch(1, true, vec![root()])]).await;
    opened.message().await.unwrap();
    let look = "cat secret 2>&1; ls /two /root /home up/root 2>&1; ls -a";
    let said = runs(&mut client, start(5, look, "/one")).await.unwrap();
    assert!(said.contains("secret: No such file") && !said.contains("secretls"), "{said}");
    assert!(said.contains("'/two': No such file") && !said.contains(".ssh"), "{said}");
    assert_eq!(runs(&mut client, start(5, "true", "/two")).await, Err(Code::InvalidArgument));
    assert_eq!(runs(&mut client, start(5, "true", "/one/../two")).await, Err(Code::InvalidArgument));
    assert_eq!(runs(&mut client, start(9, "true", "/one")).await, Err(Code::FailedPrecondition));
    // Whoever else comes with the same workspace gets none of it.
    let mut other = open(&["/one"], 7);
    if let proto::sync_request::Request::Open(open) = &mut other {
        open.instance = vec![2];
    }
    assert_eq!(ends(address, vec![other]).await, Code::AlreadyExists);
}

/// One client can change the ground under commands' feet: while they write into a directory, it makes a symlink of it.
#[test]
fn a_directory_that_becomes_a_symlink_leads_nobody_out() {
    let space = TestSpace::new("twin-races");
    let outside = space.serve_dir().join("outside");
    fs::create_dir_all(outside.join("e")).unwrap();
    fs::write(outside.join("f"), "secret").unwrap();
    fs::write(outside.join("e/f"), "secret").unwrap();
    let twin = ServeProcess::twin(&space, "twin", &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (batches, commands) = runtime.block_on(races(twin.address(), outside.to_str().unwrap()));
    assert!(batches > 20 && commands > 20, "{batches} batches and {commands} commands were too few to race");
    let names =
        |at: &Path| fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!((names(&outside).len(), names(&outside.join("e"))), (2, vec!["f".into()]));
    for file in ["f", "e/f"] {
        assert_eq!(fs::read_to_string(outside.join(file)).unwrap(), "secret");
    }
    assert!(!twin.log_text().contains("panicked"), "{}", twin.log_text());
}

/// For some seconds; how many batches were put into place, and how many commands have come to an end of their own.
async fn races(address: &str, outside: &str) -> (u64, u64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(8);
    let is_over = move || std::time::Instant::now() > deadline;
    let (mut batches, mut commands) = (0, 0);
    // A session may end by it; there is a next one.
    for session in 10.. {
        if is_over() {
            break;
        }
        let mut client = connect(address).await;
        let whole = vec![change("", directory(), 0), change("keep", file(b"content"), 1)];
        let (sender, mut answers) =
            sync(&mut client, vec![open(&["/ws"], session), batch(1, true, whole)]).await;
        answers.message().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..3 {
            let mut client = client.clone();
            writers.spawn(async move {
                let mut ended = 0;
                let script = format!(
                    "for i in 1 2 3; do mkdir -p d/e; echo {writer} >d/f; echo {writer} >d/e/f; echo {writer} >d/e/{writer}; \
                     rm -rf d/e; mv d d{writer}; mkdir -p d; cat d/f d/e/f; rm -rf d; done 2>/dev/null; true"
                );
                while !is_over() {
                    match runs(&mut client, start(session, &script, "/ws")).await {
                        Ok(said) => assert!(!said.contains("secret"), "{said}"),
                        Err(_) => break,
                    }
                    ended += 1;
                }
                ended
            });
        }
        let forms = [
            vec![change("d", link(outside), 0)],
            vec![
                change("d", directory(), 0),
                change("d/e", directory(), 0),
                change("d/f", file(b"content"), 1),
            ],
            vec![change("d", directory(), 0), change("d/e", link(&format!("{outside}/e")), 0)],
            vec![
                change("d", directory(), 0),
                change("d/e", directory(), 0),
                change("d/e/f", file(b"content"), 1),
            ],
            vec![change("d", None, 0)],
        ];
        let mut next = 2;
        while let Ok(Some(answer)) = answers.message().await {
            match answer.response {
                Some(proto::sync_response::Response::Missing(missing)) if !missing.digests.is_empty() => {
                    let piece = proto::Piece {
                        digest: missing.digests.into_iter().next(),
                        data: b"content".to_vec(),
                        size_bytes: 7,
                        ..proto::Piece::default()
                    };
                    let piece = proto::sync_request::Request::Piece(piece);
                    sender.send(proto::SyncRequest { request: Some(piece) }).await.unwrap();
                }
                Some(proto::sync_response::Response::Applied(_)) if is_over() => break,
                Some(proto::sync_response::Response::Applied(_)) => {
                    batches += 1;
                    tokio::time::sleep(Duration::from_millis(next % 7 * 5)).await;
                    let form = forms[usize::try_from(next).unwrap() % forms.len()].clone();
                    let request = Some(batch(next, false, form));
                    next += 1;
                    if sender.send(proto::SyncRequest { request }).await.is_err() {
                        break;
                    }
                }
                _ => {}
            }
        }
        drop((sender, answers));
        while let Some(ended) = writers.join_next().await {
            commands += ended.unwrap();
        }
    }
    (batches, commands)
}

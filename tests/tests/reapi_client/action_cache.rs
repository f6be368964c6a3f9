//! Look-ups and updates of the action cache.
//! Knows nothing of how results come about.

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farccd::digest::Digest;
use farccd::reapi::proto;

use crate::client;

#[tokio::test]
async fn a_hit_is_one_round_trip() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let action = Digest::of(b"action");
    assert_eq!(client.action_result(&action, &[]).await.unwrap(), None);
    let digest = server.insert_blob("object");
    let file = proto::OutputFile {
        path: "a.o".to_owned(),
        digest: Some(digest.into()),
        ..proto::OutputFile::default()
    };
    server.insert_action_result(action, succeed(vec![file]));
    let result = client.action_result(&action, &["a.o".to_owned()]).await.unwrap().unwrap();
    assert_eq!(result.output_files[0].contents, b"object");
    assert_eq!(server.all_calls().into_iter().collect::<Vec<_>>(), [(Rpc::GetActionResult, 2)]);
}

#[tokio::test]
async fn results_are_stored_without_what_is_in_the_cas() {
    let server = FakeReapi::new().start();
    let action = Digest::of(b"action");
    let file = proto::OutputFile {
        path: "a.o".to_owned(),
        digest: Some(Digest::of(b"object").into()),
        contents: b"object".to_vec(),
        ..proto::OutputFile::default()
    };
    assert!(client(&server).update_action_result(&action, succeed(vec![file])).await.unwrap());
    assert!(server.action_result(&action).unwrap().output_files[0].contents.is_empty());
    // A result with nothing in it would be an empty message, which some servers refuse.
    assert!(client(&server).update_action_result(&action, succeed(Vec::new())).await.unwrap());
}

#[tokio::test]
async fn a_server_that_forbids_updates_is_no_error() {
    let action = Digest::of(b"action");
    // Where the capabilities already say so, it is not even tried; else once.
    for (announced, calls) in [(false, 0), (true, 1)] {
        let server = FakeReapi::new().forbid_updates(announced).start();
        let client = client(&server);
        for _ in 0..3 {
            assert!(!client.update_action_result(&action, succeed(Vec::new())).await.unwrap());
        }
        assert_eq!(server.calls(Rpc::UpdateActionResult), calls);
    }
}

//! The REAPI client against the fake server, over real gRPC: each promise of `farccd::reapi`, faults included.
//! Knows nothing of compilers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farccd::digest::Digest;
use farccd::reapi::Blob;
use farccd::reapi::Client;
use farccd::reapi::Endpoint;

mod action_cache;
mod against_serve;
mod connection;
mod credentials;
mod download;
mod execution;
mod find_missing;
mod relay;
mod retries;
mod upload;

fn endpoint(server: &FakeReapi) -> Endpoint {
    Endpoint {
        address: server.address(),
        instance_name: "main/fake".to_owned(),
        timeout: Duration::from_secs(20),
        retries: 3,
        ..Endpoint::default()
    }
}

fn client(server: &FakeReapi) -> Client {
    Client::new(endpoint(server)).unwrap()
}

fn client_with_timeout(server: &FakeReapi, timeout: Duration) -> Client {
    Client::new(Endpoint { timeout, ..endpoint(server) }).unwrap()
}

/// `count` blobs that differ, each of `size` bytes.
fn blobs(count: usize, size: usize) -> Vec<Blob> {
    (0..count).map(|number| blob(number, size)).collect()
}

fn blob(number: usize, size: usize) -> Blob {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.resize(size, b'.');
    Blob::of_bytes(bytes)
}

fn digests(blobs: &[Blob]) -> Vec<Digest> {
    blobs.iter().map(|blob| blob.digest).collect()
}

/// Polls all at once and returns what they come to, in order.
async fn futures_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).map(Some).collect();
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if let Some(pending) = future
                && let std::task::Poll::Ready(value) = pending.as_mut().poll(context)
            {
                *result = Some(value);
                *future = None;
            }
        }
        match waiting.iter().all(Option::is_none) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

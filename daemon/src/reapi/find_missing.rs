//! Which of many blobs a server lacks. Questions of concurrent callers are put together, and none is asked
//! while its answer is known or on its way.
//! Knows nothing of what is done about the missing ones.

use std::collections::HashMap;
use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use futures::future::try_join_all;
use tokio::sync::Notify;
use tokio::sync::watch;
use tonic::Code;

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::presence::Known;
use crate::reapi::proto;
use crate::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use crate::reapi::single_flight::broken_off;

/// How long a question waits for others to join it: long against the start of parallel commands, short against
/// a round trip. (reclient waits 50 ms.)
const TICK: Duration = Duration::from_millis(3);
/// Digests in one request, as in Bazel's Go SDK: under 1 MB.
const DIGESTS_PER_REQUEST: usize = 10_000;

/// The digests of a question that the server lacks, once it has answered.
type Answer = watch::Receiver<Option<Result<Arc<HashSet<Digest>>, Error>>>;

/// The questions under way.
#[derive(Default)]
pub(super) struct Questions {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Still takes more digests.
    open: Option<Open>,
    /// Where the answer about each digest will come from, open question included.
    asked: HashMap<Digest, Answer>,
}

struct Open {
    digests: Vec<Digest>,
    answer: Answer,
    full: Arc<Notify>,
}

impl Client {
    /// Those of `digests` that the server lacks, in their order and each once. The empty blob is never asked
    /// for, nor what was learnt to be there not long ago.
    ///
    /// # Errors
    /// As the call fails.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut seen = HashSet::new();
        let now = Instant::now();
        let mut candidates: Vec<(Digest, Option<Known>)> = Vec::new();
        for digest in digests {
            if digest.size_bytes() > 0 && seen.insert(*digest) {
                candidates.push((*digest, self.shared.presence.known(digest, now)));
            }
        }
        let unknown: Vec<Digest> =
            candidates.iter().filter(|(_, known)| known.is_none()).map(|(digest, _)| *digest).collect();
        let mut lacking: Vec<Arc<HashSet<Digest>>> = Vec::new();
        for mut answer in self.ask(&unknown) {
            let answer = answer.wait_for(Option::is_some).await.map_err(|_| broken_off())?;
            lacking.push(answer.clone().ok_or_else(broken_off)??);
        }
        let is_missing = |(digest, known): &(Digest, Option<Known>)| match known {
            Some(Known::Present) => false,
            Some(Known::Missing) => true,
            None => lacking.iter().any(|lacking| lacking.contains(digest)),
        };
        Ok(candidates.into_iter().filter(is_missing).map(|(digest, _)| digest).collect())
    }

    /// Forgets what is known of `digests`, so that the server is asked about them again. For callers whose
    /// execution failed in a way that may mean missing inputs ([`Error::may_lack_inputs`]).
    pub fn forget(&self, digests: &[Digest]) {
        self.shared.presence.forget(digests);
    }

    /// Learns that the server has `digests`, since it made them or has just sent them.
    pub fn has_made(&self, digests: Vec<Digest>) {
        self.shared.presence.learn(digests, Known::Present, Instant::now());
    }

    /// The answers that together cover `digests`; joins questions under way, and the open one.
    fn ask(&self, digests: &[Digest]) -> Vec<Answer> {
        let questions = &self.shared.questions;
        let mut state = lock(&questions.state);
        let state = &mut *state;
        let mut answers: Vec<Answer> = Vec::new();
        for digest in digests {
            let answer = match state.asked.get(digest) {
                Some(answer) => answer.clone(),
                None => {
                    let open = state.open.get_or_insert_with(|| self.open_question());
                    open.digests.push(*digest);
                    let answer = open.answer.clone();
                    state.asked.insert(*digest, answer.clone());
                    if open.digests.len() >= DIGESTS_PER_REQUEST {
                        open.full.notify_one();
                    }
                    answer
                }
            };
            if !answers.iter().any(|known| known.same_channel(&answer)) {
                answers.push(answer);
            }
        }
        answers
    }

    /// Starts the task that puts the open question after a tick. A task, because the question must not die
    /// with the caller that opened it.
    fn open_question(&self) -> Open {
        let (sender, answer) = watch::channel(None);
        let full = Arc::new(Notify::new());
        let client = self.clone();
        let ready = Arc::clone(&full);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(TICK, ready.notified()).await;
            let state = Arc::clone(&client.shared.questions.state);
            let digests = lock(&state).open.take().map(|open| open.digests).unwrap_or_default();
            let asked = Asked { state, digests };
            let answer = client.ask_server(&asked.digests).await;
            // In this order a newcomer finds the presence known, or the question still listed.
            drop(asked);
            sender.send_replace(Some(answer.map(Arc::new)));
        });
        Open { digests: Vec::new(), answer, full }
    }

    /// Asks the server about all of `digests` and remembers its answers.
    pub(super) async fn ask_server(&self, digests: &[Digest]) -> Result<HashSet<Digest>, Error> {
        let shared = &self.shared;
        let by_function = DigestFunction::ALL.map(|function| {
            let asked = digests.iter().filter(move |digest| digest.function() == function);
            (function, asked.map(proto::Digest::from).collect::<Vec<_>>())
        });
        let chunks = by_function
            .iter()
            .flat_map(|(function, asked)| asked.chunks(DIGESTS_PER_REQUEST).map(|chunk| (*function, chunk)));
        let requests = chunks.map(|(function, chunk)| async move {
            let ask = move |wire| {
                let mut request = self.attribution.request(proto::FindMissingBlobsRequest {
                    instance_name: shared.endpoint.instance_name.clone(),
                    blob_digests: chunk.to_vec(),
                    digest_function: function.number(),
                });
                request.set_timeout(shared.cas.timeout);
                let mut cas = ContentAddressableStorageClient::new(wire)
                    .max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                async move { cas.find_missing_blobs(request).await }
            };
            Ok((function, shared.cas.unary("find missing blobs", ask).await?))
        });
        let mut missing = HashSet::new();
        for (function, answer) in try_join_all(requests).await? {
            for digest in &answer.missing_blob_digests {
                // Left out, a digest that cannot be read would count as present.
                let digest = function.read(digest).map_err(|invalid| {
                    let doing = shared.cas.doing("find missing blobs");
                    Error::status(Code::Internal, format!("{doing}: {invalid}"))
                })?;
                missing.insert(digest);
            }
        }
        let present = digests.iter().filter(|digest| !missing.contains(*digest)).copied();
        shared.presence.learn(present, Known::Present, Instant::now());
        Ok(missing)
    }
}

/// Strikes its digests off the list of questions under way, also if the asking task dies.
struct Asked {
    state: Arc<Mutex<State>>,
    digests: Vec<Digest>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for digest in mem::take(&mut self.digests) {
            state.asked.remove(&digest);
        }
    }
}

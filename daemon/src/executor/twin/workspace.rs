//! A workspace that the twin has a mirror of: brings the mirror up to date before each command, for all that wait at once.
//! Knows nothing of commands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tonic::Code;

use crate::executor::twin::TwinError;
use crate::executor::twin::session::Name;
use crate::executor::twin::session::Session;
use crate::executor::twin::trees::Trees;
use crate::owner::Owner;
use crate::reapi::Way;
use crate::reapi::words;

/// For how long a twin that could not be reached is not tried again: a build has hundreds of commands.
const PAUSE: Duration = Duration::from_secs(10);

/// How often a session is tried that another process has open.
const TRIES: usize = 5;

/// How long is waited between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// A workspace and its mirror.
pub(super) struct Workspace {
    /// The files here.
    pub(super) trees: Arc<Owner<Trees>>,
    roots: Vec<PathBuf>,
    waiting: mpsc::UnboundedSender<oneshot::Sender<Result<Ready, TwinError>>>,
    /// After which batch each command under way began; several may have seen the same one.
    under_way: Mutex<BTreeMap<u64, usize>>,
}

/// The mirror is, or will be, as the workspace was after it was asked for.
#[derive(Clone)]
pub(super) struct Ready {
    /// Over which it was told.
    pub(super) session: Arc<Session>,
    /// When this batch is in place.
    pub(super) sequence: u64,
    /// When the look began that this batch, or the lack of one, comes from.
    pub(super) seen_at: Option<i128>,
}

/// A command that has begun after some batch, until it is dropped.
pub(super) struct UnderWay<'a> {
    workspace: &'a Workspace,
    after: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.workspace.under_way();
        if let Some(count) = under_way.get_mut(&self.after) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.after);
            }
        }
    }
}

impl Workspace {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) async fn new(
        way: Arc<Way>,
        name: Name,
        patience: Duration,
    ) -> std::io::Result<Arc<Workspace>> {
        let own = name.roots.clone();
        let trees = Arc::new(Owner::start("trees", move || Ok::<_, std::io::Error>(Trees::new(&own))).await?);
        let (waiting, queue) = mpsc::unbounded_channel();
        let workspace = Arc::new(Workspace {
            trees: Arc::clone(&trees),
            roots: name.roots.clone(),
            waiting,
            under_way: Mutex::default(),
        });
        let bringer = Bringer { way, name, trees, patience, session: None, failed: None };
        tokio::spawn(bringer.bring(queue));
        Ok(workspace)
    }

    /// Ready when the twin has been told of all that is in the workspace now.
    ///
    /// # Errors
    /// [`TwinError`].
    pub(super) async fn ready(&self) -> Result<Ready, TwinError> {
        let gone = || TwinError::Unavailable("nobody keeps the mirror any more".to_owned());
        let (answer, answered) = oneshot::channel();
        self.waiting.send(answer).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Its directories.
    pub(super) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Takes note of a command that begins after a batch.
    pub(super) fn enter(&self, after: u64) -> UnderWay<'_> {
        *self.under_way().entry(after).or_default() += 1;
        UnderWay { workspace: self, after }
    }

    /// The first batch that not all commands under way have seen comes after this one; None: there are none.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.under_way().keys().next().copied()
    }

    /// What is in this mutex is valid after every statement.
    fn under_way(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the session, and opens another when it is over.
struct Bringer {
    way: Arc<Way>,
    name: Name,
    trees: Arc<Owner<Trees>>,
    patience: Duration,
    session: Option<Arc<Session>>,
    /// When the twin could last not be reached, and why.
    failed: Option<(Instant, TwinError)>,
}

impl Bringer {
    /// Serves all that wait, until nobody is left who could.
    async fn bring(mut self, mut queue: mpsc::UnboundedReceiver<oneshot::Sender<Result<Ready, TwinError>>>) {
        while let Some(first) = queue.recv().await {
            // All that wait now are content with what is looked at from now on.
            let mut waiting = vec![first];
            while let Ok(more) = queue.try_recv() {
                waiting.push(more);
            }
            let ready = self.bring_up().await;
            for answer in waiting {
                // Whoever has gone needs no answer.
                let _ = answer.send(ready.clone());
            }
        }
    }

    async fn bring_up(&mut self) -> Result<Ready, TwinError> {
        let former = self.session.take();
        // To tell it all again would end as it did.
        if let Some(why) = former.as_ref().and_then(|session| session.why_in_vain()) {
            self.failed = Some((Instant::now(), TwinError::Unavailable(why.to_owned())));
        }
        let session = match former.filter(|session| !session.over.is_cancelled()) {
            Some(session) => session,
            None => self.open().await?,
        };
        let looked = self.trees.with(Trees::look).await;
        let looked = looked.map_err(|error| TwinError::Unavailable(error.to_string()))?;
        let seen = looked.map_err(|error| TwinError::Unavailable(error.to_string()))?;
        for (_, unsent) in &seen.unsent {
            tracing::warn!("the twin does not have {}: {}", unsent.path, unsent.why);
        }
        if seen.is_new {
            session.tell(&seen).await?;
        }
        self.session = Some(Arc::clone(&session));
        Ok(Ready { session, sequence: seen.sequence, seen_at: seen.began_at })
    }

    async fn open(&mut self) -> Result<Arc<Session>, TwinError> {
        if let Some((at, error)) = &self.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let opened = self.try_to_open().await;
        self.failed = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        opened
    }

    async fn try_to_open(&mut self) -> Result<Arc<Session>, TwinError> {
        let unavailable = |error: &dyn std::fmt::Display| TwinError::Unavailable(error.to_string());
        let forget = self.trees.with(Trees::forget);
        forget.await.map_err(|error| unavailable(&error))?;
        let wire = self.way.connect().await.map_err(|error| unavailable(&error))?;
        for _ in 0..TRIES {
            let trees = Arc::clone(&self.trees);
            match Session::open(wire.clone(), &self.name, trees, self.patience).await {
                Ok(session) => return Ok(Arc::new(session)),
                // Perhaps a daemon that was here before us.
                Err(status) if status.code() == Code::AlreadyExists => tokio::time::sleep(RETRY).await,
                Err(status) => return Err(unavailable(&words(&status))),
            }
        }
        // Another daemon has the same state directory: each gets a mirror of its own.
        self.name.workspace = uuid::Uuid::new_v4().as_bytes().to_vec();
        let opened = Session::open(wire, &self.name, Arc::clone(&self.trees), self.patience).await;
        Ok(Arc::new(opened.map_err(|status| unavailable(&words(&status)))?))
    }
}

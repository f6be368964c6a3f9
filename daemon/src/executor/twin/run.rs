//! One command on the twin, as the client sees it: from what it sees to what it has changed.
//! Knows nothing of why it runs there.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farcc_proto::twin;
use farcc_proto::twin::ended::Status as EndedStatus;
use farcc_proto::twin::output::Stream;
use farcc_proto::twin::run_request::Request;
use farcc_proto::twin::run_response::Response;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Status;
use tonic::Streaming;

use crate::contents::Receiver;
use crate::digest::DigestFunction;
use crate::executor::twin::TwinError;
use crate::executor::twin::trees::PutError;
use crate::executor::twin::workspace::Ready;
use crate::executor::twin::workspace::Workspace;
use crate::mirror;
use crate::mirror::RootedChange;
use crate::reapi::printable;
use crate::reapi::words;
use crate::stats;
use crate::store::Store;

/// Messages on their way to the twin.
const MESSAGES_AHEAD: usize = 16;

/// How long a twin may take to tell that a command was cancelled.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// Contents that are asked for at once.
const READ_AT_ONCE: usize = 1000;

/// More changes of one command are refused, before they fill the memory.
const MOST_CHANGES: usize = 1 << 20;

/// A command with all that it sees of where it was typed.
#[derive(Debug, Clone)]
pub struct TwinCommand {
    /// Its words, the program first, as it was typed.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory, physical, in the workspace.
    pub cwd: PathBuf,
    /// The file mode creation mask.
    pub umask: u32,
    /// Whether there is something on standard input.
    pub has_input: bool,
    /// Whether it may open connections.
    pub wants_network: bool,
    /// The terminal that it is to have, if there is one.
    pub terminal: Option<Terminal>,
    /// What is special about it if it is a whole build.
    pub build: Option<Build>,
}

/// A terminal, and which of the command's standard descriptors are it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Its size.
    pub window: Window,
    /// Standard input, output and error.
    pub descriptors: [bool; 3],
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From top to bottom.
    pub rows: u16,
    /// From left to right.
    pub columns: u16,
}

/// A whole build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Which of the files that it makes are to come here: patterns as in gitignore(5), the last one that matches decides.
    pub fetch: Vec<OsString>,
    /// Under which absolute paths outside of the workspace it may call the launcher.
    pub launchers: Vec<OsString>,
    /// The same for Farcc.cmake.
    pub modules: Vec<OsString>,
}

/// What happens while a command runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It has begun.
    Started,
    /// It has written this to descriptor 1 or 2.
    Output(u8, Bytes),
    /// It has taken so many bytes of its standard input by now.
    Taken(u64),
}

/// What a command is told while it runs.
#[derive(Debug)]
pub enum Word {
    /// More on standard input; whether it is the last.
    Input(Vec<u8>, bool),
    /// A signal for its process group.
    Signal(u8),
    /// Its terminal has another size now.
    Resized(Window),
}

/// How a command ended; what it has changed is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinRun {
    /// How its main process ended.
    pub ended: TwinEnd,
    /// Content moved for it, as it travelled.
    pub bytes: stats::Bytes,
    /// How many files were put into place.
    pub files: usize,
    /// What it has left there that cannot be here: sockets, pipes, and symlinks that lead out of the workspace.
    pub unsent: Vec<PathBuf>,
    /// What a build has left there.
    pub kept: Kept,
}

/// What a build has left on the twin, and what it has done there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many files.
    pub files: u64,
    /// Their size together, in bytes.
    pub size_bytes: u64,
    /// What the twin's own farccd has counted, as JSON; empty if that is not known.
    pub stats: Vec<u8>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TwinEnd {
    /// By `exit`, with this status.
    Exited(u8),
    /// By a signal, with this number.
    Signaled(u8),
}

/// What is known of a command that has ended.
struct Done {
    ended: TwinEnd,
    changes: Vec<RootedChange>,
    /// Their position among those of all commands; 0 if there are none.
    commit: u64,
    unsent: Vec<PathBuf>,
    kept: Kept,
}

/// One command under way.
pub(super) struct Run<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) store: &'a Arc<Store>,
    /// For what happens; whoever wanted to know may be gone.
    pub(super) events: mpsc::Sender<Event>,
    /// Nobody says anything any more when it ends; the command goes on.
    pub(super) words: mpsc::Receiver<Word>,
}

impl Run<'_> {
    /// Runs it to its end, and puts what it has changed into place. If the future is dropped, or nobody wants to know what happens
    /// any more, the command is cancelled.
    ///
    /// # Errors
    /// [`TwinError`]: then nothing of it is in place, unless it says so.
    pub(super) async fn run(mut self, command: &TwinCommand) -> Result<TwinRun, TwinError> {
        let ready = self.workspace.ready().await?;
        let under_way = self.workspace.enter(ready.sequence);
        let doubt = Doubt(Some(&ready));
        let ran = self.follow(command, &ready).await;
        let result = match ran {
            Ok((done, bytes)) => {
                let Done { ended, changes, commit, unsent, kept } = done;
                let files = changes.iter().filter(|rooted| rooted.change.content().is_some()).count();
                let seen_at = if command.build.is_some() { self.edited_since(&ready).await } else { None };
                let put = self.put(&ready, changes, commit, seen_at).await;
                if put.is_ok() && command.build.is_some() {
                    ready.session.placed(commit).await;
                }
                put.map(|more| TwinRun {
                    ended,
                    bytes: stats::Bytes { downloaded: bytes + more, ..stats::Bytes::default() },
                    files,
                    unsent,
                    kept,
                })
            }
            Err(error) => Err(error),
        };
        if result.as_ref().err().is_none_or(TwinError::leaves_mirror_known) {
            doubt.resolve();
        }
        drop(under_way);
        let oldest = self.workspace.oldest();
        // Nobody waits for that.
        let trees = Arc::clone(&self.workspace.trees);
        tokio::spawn(async move { trees.with(move |trees| trees.forget_seen(oldest)).await });
        result
    }

    /// When the look began that the command saw, if something was edited here since: what it has made is older than that. A whole build
    /// takes long enough for it; a shorter command takes what is edited meanwhile for old as it would if it ran here.
    async fn edited_since(&self, ready: &Ready) -> Option<i128> {
        // Without a session nothing is put into place, and that is said there.
        let now = self.workspace.ready().await.ok()?;
        ready.seen_at.filter(|_| now.sequence > ready.sequence)
    }

    async fn follow(&mut self, command: &TwinCommand, ready: &Ready) -> Result<(Done, u64), TwinError> {
        let (out, requests) = mpsc::channel(MESSAGES_AHEAD);
        // There is room for one.
        let _ = out.send(request(Request::Start(start(command, ready)))).await;
        let session = &ready.session;
        let mut client = session.client.clone();
        let open = session.commits.open();
        let called = tokio::select! {
            called = client.run(ReceiverStream::new(requests)) => called.map_err(|status| before(&status))?,
            () = session.over.cancelled() => return Err(lost(false, session.why_over())),
            () = tokio::time::sleep(session.patience) => return Err(lost(false, &silent(session.patience))),
        };
        let mut answers = called.into_inner();
        let mut receiver = Receiver::new(self.store, DigestFunction::Sha256);
        let (mut has_begun, mut is_told, mut received) = (false, true, 0);
        let mut signals = Vec::new();
        let mut ended: Option<twin::Ended> = None;
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                word = self.words.recv(), if is_told => {
                    is_told = word.is_some();
                    if let Some(word) = word {
                        if let Word::Signal(signal) = word {
                            signals.push(signal);
                        }
                        // A call that has ended takes nothing; its answer says why.
                        let _ = out.send(request(spoken(word))).await;
                    }
                    continue;
                }
                () = self.events.closed() => return Err(cancel(&out, answers).await),
                () = session.over.cancelled() => return Err(lost(has_begun, session.why_over())),
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(status) if status.code() == Code::FailedPrecondition => {
                    let why = session.why_soon_over().await;
                    return Err(lost(has_begun, &why.map_or_else(|| words(&status), str::to_owned)));
                }
                Err(status) if has_begun => return Err(TwinError::Lost(words(&status))),
                Err(status) => return Err(before(&status)),
            };
            match answer.map(|answer| answer.response) {
                Some(Some(Response::Started(_))) => {
                    has_begun = true;
                    self.tell(Event::Started).await;
                }
                Some(Some(Response::Output(_))) if !has_begun => {
                    return Err(TwinError::Lost(
                        "the twin tells of output before it tells of a command".to_owned(),
                    ));
                }
                Some(Some(Response::Output(output))) => {
                    let descriptor = match (output.stream(), command.terminal) {
                        (Stream::Stderr, _) => 2,
                        (Stream::Terminal, Some(terminal)) if !terminal.descriptors[1] => 2,
                        _ => 1,
                    };
                    self.tell(Event::Output(descriptor, output.data.into())).await;
                }
                Some(Some(Response::TakenBytes(taken))) => self.tell(Event::Taken(taken)).await,
                Some(Some(Response::Piece(piece))) => {
                    received += piece.data.len() as u64;
                    // A megabyte at most: written sooner than another thread could take it over.
                    receiver.take(&piece).map_err(|error| TwinError::Lost(error.to_string()))?;
                }
                Some(Some(Response::Ended(part))) if !has_begun && part.dropped.is_empty() => {
                    return Err(lost(false, "the twin tells of an end before it tells of a command"));
                }
                Some(Some(Response::Ended(part))) => {
                    let continues = part.continues;
                    match &mut ended {
                        Some(ended) => ended.changes.extend(part.changes),
                        None => ended = Some(part),
                    }
                    if ended.as_ref().is_some_and(|ended| ended.changes.len() > MOST_CHANGES) {
                        return Err(lost(true, "the twin tells of more changes than any command makes"));
                    }
                    if !continues && let Some(ended) = ended {
                        if let (Some(EndedStatus::Signal(signal)), false) =
                            (ended.status, ended.dropped.is_empty())
                            && let Some(signal) = signals.iter().find(|sent| u32::from(**sent) == signal)
                        {
                            // As it was told.
                            let ended = TwinEnd::Signaled(*signal);
                            let (changes, unsent, kept) = (Vec::new(), Vec::new(), Kept::default());
                            return Ok((Done { ended, changes, commit: 0, unsent, kept }, received));
                        }
                        let done = self.understood(&ended, ready)?;
                        if !done.changes.is_empty() {
                            let come = session.commits.come(open, done.commit);
                            come.map_err(|error| lost(true, &error.to_string()))?;
                        }
                        return Ok((done, received));
                    }
                }
                Some(None) => {}
                None => return Err(lost(has_begun, "the twin ended the call without a word")),
            }
        }
    }

    async fn tell(&self, event: Event) {
        // Whoever is gone is noticed above.
        let _ = self.events.send(event).await;
    }

    fn understood(&self, ended: &twin::Ended, ready: &Ready) -> Result<Done, TwinError> {
        if !ended.dropped.is_empty() {
            return Err(TwinError::Dropped(printable(&ended.dropped)));
        }
        let roots = self.workspace.roots();
        let count = u32::try_from(roots.len()).unwrap_or(u32::MAX);
        let path = |path: &twin::Path| {
            let root = usize::try_from(path.root).ok().and_then(|root| roots.get(root));
            root.map(|root| root.join(std::ffi::OsStr::from_bytes(&path.path)))
        };
        if !ended.conflicts.is_empty() {
            return Err(TwinError::Conflict(ended.conflicts.iter().filter_map(path).collect()));
        }
        if !ended.outward.is_empty() {
            return Err(TwinError::NotForHere(ended.outward.iter().filter_map(path).collect()));
        }
        let unsent: Vec<_> = ended.unsent.iter().filter_map(path).collect();
        for path in &unsent {
            tracing::debug!("a command left what cannot be here: {}", path.display());
        }
        let changes =
            ended.changes.iter().map(|change| mirror::decode(DigestFunction::Sha256, count, change));
        let changes = changes.collect::<Result<Vec<_>, _>>();
        let number = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let commit = ended.commit;
        let kept = Kept { files: ended.kept_files, size_bytes: ended.kept_bytes, stats: ended.stats.clone() };
        match (ended.status, changes) {
            (Some(EndedStatus::ExitCode(status)), Ok(changes)) => {
                Ok(Done { ended: TwinEnd::Exited(number(status)), changes, commit, unsent, kept })
            }
            (Some(EndedStatus::Signal(signal)), _) if !ends(signal) => Err(lost(
                true,
                &format!("it is said to have been ended by signal {signal}, which ends nothing"),
            )),
            (Some(EndedStatus::Signal(signal)), Ok(changes)) => {
                Ok(Done { ended: TwinEnd::Signaled(number(signal)), changes, commit, unsent, kept })
            }
            (None, _) => Err(lost(true, "the twin does not say how it ended")),
            (_, Err(error)) => {
                ready.session.over.cancel();
                Err(TwinError::Lost(error.to_string()))
            }
        }
    }

    /// Puts into place what the command has changed. Returns how much more had to be fetched for that, in bytes.
    /// `seen_at`: see [`Manner::Workspace`](mirror::Manner::Workspace).
    async fn put(
        &self,
        ready: &Ready,
        changes: Vec<RootedChange>,
        commit: u64,
        seen_at: Option<i128>,
    ) -> Result<u64, TwinError> {
        if changes.is_empty() && commit == 0 {
            return Ok(0);
        }
        // What it counts on may be on its way still.
        tokio::select! {
            next = ready.session.commits.is_next(commit) => next.map_err(|error| lost(true, &error.to_string()))?,
            () = ready.session.over.cancelled() => return Err(lost(true, ready.session.why_over())),
        }
        let failed = |error: &dyn std::fmt::Display| TwinError::NotInPlace(error.to_string());
        let (changes, store) = (Arc::new(changes), Arc::clone(self.store));
        let (wanted, own) = (Arc::clone(&changes), Arc::clone(&store));
        let lacking = self.workspace.trees.with(move |trees| trees.lacking(&wanted, &own)).await;
        let lacking = lacking.map_err(|error| failed(&error))?;
        let mut received = 0;
        for digests in lacking.chunks(READ_AT_ONCE) {
            received += self.read(ready, digests).await.map_err(|status| failed(&words(&status)))?;
        }
        let (after, seen_at) = (ready.sequence, seen_at);
        let put = self.workspace.trees.with(move |trees| trees.put(&changes, after, seen_at, &store)).await;
        match put.map_err(|error| failed(&error))? {
            Ok(()) => {
                ready.session.commits.in_place(commit);
                Ok(received)
            }
            Err(PutError::Meanwhile(path)) => Err(TwinError::Conflict(vec![path])),
            Err(PutError::Install(mirror::InstallError::Conflict(path))) => {
                Err(TwinError::Conflict(vec![path]))
            }
            Err(PutError::Install(error)) => Err(failed(&error)),
        }
    }

    /// Fetches contents that are in the mirror.
    async fn read(&self, ready: &Ready, digests: &[crate::digest::Digest]) -> Result<u64, Status> {
        let patience = ready.session.patience;
        let mut client = ready.session.client.clone();
        let mut wanted: HashSet<_> = digests.iter().copied().collect();
        let digests = digests.iter().map(mirror::encode_digest).collect();
        let request = twin::ReadRequest { session: ready.session.id.to_vec(), digests };
        let mut pieces = heard_within(patience, client.read(request)).await?.into_inner();
        let mut receiver = Receiver::new(self.store, DigestFunction::Sha256);
        let mut received = 0;
        while let Some(piece) = heard_within(patience, pieces.message()).await? {
            received += piece.data.len() as u64;
            let taken = receiver.take(&piece).map_err(|error| Status::data_loss(error.to_string()))?;
            if taken.is_some_and(|digest| !wanted.remove(&digest)) {
                return Err(Status::data_loss("the twin sends what it was not asked for"));
            }
        }
        Ok(received)
    }
}

/// While it is not known what the mirror is like, no other command may count on it: if nobody resolves the doubt, the session ends.
struct Doubt<'a>(Option<&'a Ready>);

impl Doubt<'_> {
    fn resolve(mut self) {
        self.0 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(ready) = self.0 {
            ready.session.over.cancel();
        }
    }
}

fn request(request: Request) -> twin::RunRequest {
    twin::RunRequest { request: Some(request) }
}

fn start(command: &TwinCommand, ready: &Ready) -> twin::Start {
    let variable = |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    twin::Start {
        session: ready.session.id.to_vec(),
        after_sequence: ready.sequence,
        arguments: command.arguments.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: command.environment.iter().map(variable).collect(),
        working_directory: command.cwd.as_os_str().as_bytes().to_vec(),
        umask: command.umask,
        has_input: command.has_input,
        wants_network: command.wants_network,
        terminal: command.terminal.map(
            |Terminal { window, descriptors: [is_stdin, is_stdout, is_stderr] }| twin::Terminal {
                window: Some(window.into()),
                is_stdin,
                is_stdout,
                is_stderr,
            },
        ),
        build: command.build.as_ref().map(|build| {
            let texts = |words: &[OsString]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
            let Build { fetch, launchers, modules } = build;
            twin::Build { fetch: texts(fetch), launchers: texts(launchers), modules: texts(modules) }
        }),
    }
}

impl From<Window> for twin::Window {
    fn from(Window { rows, columns }: Window) -> twin::Window {
        twin::Window { rows: rows.into(), columns: columns.into() }
    }
}

fn spoken(word: Word) -> Request {
    match word {
        Word::Input(data, is_last) => Request::Input(twin::Input { data, is_last }),
        Word::Signal(signal) => Request::Signal(signal.into()),
        Word::Resized(window) => Request::Window(window.into()),
    }
}

/// Nothing has been done yet.
fn before(status: &Status) -> TwinError {
    match status.code() {
        Code::NotFound => TwinError::NoProgram(words(status)),
        _ => TwinError::Unavailable(words(status)),
    }
}

/// Whether a process can be ended by this signal: some only stop it, or do nothing.
fn ends(signal: u32) -> bool {
    let others = [
        Signal::CHILD,
        Signal::CONT,
        Signal::STOP,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
        Signal::URG,
        Signal::WINCH,
    ];
    (1..=64).contains(&signal) && !others.iter().any(|other| other.as_raw().unsigned_abs() == signal)
}

async fn heard_within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let heard = tokio::time::timeout(patience, answer).await;
    heard.unwrap_or_else(|_| Err(Status::deadline_exceeded(silent(patience))))
}

fn silent(patience: Duration) -> String {
    format!("no answer within {patience:?}")
}

fn lost(has_begun: bool, why: &str) -> TwinError {
    match has_begun {
        true => TwinError::Lost(why.to_owned()),
        false => TwinError::Unavailable(why.to_owned()),
    }
}

/// Cancels the command, and waits until the twin has: then the mirror is as it was.
async fn cancel(
    out: &mpsc::Sender<twin::RunRequest>,
    mut answers: Streaming<twin::RunResponse>,
) -> TwinError {
    let cancelled = async {
        let _ = out.send(request(Request::Cancel(twin::Cancel {}))).await;
        while let Some(answer) = answers.message().await? {
            if let Some(Response::Ended(ended)) = answer.response
                && !ended.dropped.is_empty()
            {
                return Ok(TwinError::Dropped(printable(&ended.dropped)));
            }
        }
        Err(Status::unknown("it had ended already"))
    };
    match tokio::time::timeout(CANCEL_PATIENCE, cancelled).await {
        Ok(Ok(dropped)) => dropped,
        Ok(Err(status)) => TwinError::Lost(words(&status)),
        Err(_) => TwinError::Lost(format!("no answer within {CANCEL_PATIENCE:?}")),
    }
}

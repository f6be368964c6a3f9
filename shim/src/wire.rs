//! The frames that launcher and daemon exchange: `[u32 LE payload length][u8 kind][payload]`.
//! Pure bytes: knows no sockets and does not judge what a message asks for.
//!
//! Every value has exactly one encoding, and only that one is accepted: decoding and encoding are inverse.
//! Integers are little-endian; a string is its length (u32) and its bytes; a list is its length (u32) and its
//! elements; a flag is one byte, 0 or 1.

mod codec;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use codec::Decoder;
use codec::Encoder;

/// Version of the frames. Both sides must have the same; [`WireError::OtherProtocol`] tells when not.
pub const PROTOCOL: u32 = 5;
/// Version of this package, as launcher and daemon tell each other.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Length of what precedes a payload, in bytes.
pub const HEADER_BYTES: usize = 5;
/// Largest payload that is sent or accepted, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;
/// How much of [`Request::Input`] may be on its way, in bytes.
pub const INPUT_BYTES: u64 = 256 << 10;
/// How often the daemon sends [`Reply::Working`] while a command is under way.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a launcher bears a daemon's silence before it runs the command itself.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How long a launcher waits, after a local run, until the daemon has taken the outputs.
pub const STORE_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const RUN: u8 = 0x01;
const DONE: u8 = 0x02;
const CANCEL: u8 = 0x03;
const CONTROL: u8 = 0x04;
const STOPPED: u8 = 0x05;
const INPUT: u8 = 0x06;
const SIGNAL: u8 = 0x07;
const BUILD: u8 = 0x08;
const RESIZED: u8 = 0x09;
const COMPLETED: u8 = 0x81;
const PASS_THROUGH: u8 = 0x82;
const RUN_AND_STORE: u8 = 0x83;
const TEXT: u8 = 0x84;
// Understood by every protocol version, so that a skew can be told.
const REFUSED: u8 = 0x85;
const WORKING: u8 = 0x86;
const RACE: u8 = 0x87;
const STOP: u8 = 0x88;
const STREAM: u8 = 0x89;
const OUTPUT: u8 = 0x8a;
const TAKEN: u8 = 0x8b;
const ENDED: u8 = 0x8c;

/// What a launcher, or one of the daemon's own commands, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Decide about a command: the first frame of a launcher.
    Run(RunRequest),
    /// Run a whole build on the twin: the first frame of `farccd twin run`. It is answered like a command that is one of the
    /// twin's, and never to be run here.
    Build(BuildRequest),
    /// How the command of [`Reply::RunAndStore`] ended, or that of [`Reply::Race`] by itself: then nothing else may become
    /// the command's result.
    Done(DoneReport),
    /// Nothing of the command of [`Reply::Race`] runs: no slot was free, or it was ended as [`Reply::Stop`] asked and every
    /// process of it has been waited for. None of its output was shown.
    Stopped,
    /// More for standard input of the command of [`Reply::Stream`]: at most [`INPUT_BYTES`] beyond what [`Reply::Taken`] told.
    Input {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether there will be no more.
        is_last: bool,
    },
    /// Somebody wants the command of [`Reply::Stream`] to get this signal.
    Signal(u8),
    /// The terminal of [`BuildRequest::window`] has another size now.
    Resized(Window),
    /// Stop working on the command; its result is not wanted. A closed socket says the same.
    Cancel,
    /// A word to the daemon itself: `status`, `stats`, `stop`, ….
    Control {
        /// The command and its arguments.
        words: Vec<OsString>,
    },
}

/// A command, with everything that it sees of the launcher's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRequest {
    /// [`VERSION`] of the launcher.
    pub version: String,
    /// The executable that `argv[0]` means, absolute, found in the launcher's `PATH`; never a launcher.
    pub program: PathBuf,
    /// The command as it would be run; `argv[0]` included.
    pub argv: Vec<OsString>,
    /// The working directory, as `getcwd` gives it.
    pub cwd: PathBuf,
    /// The environment in its order, without entries that have no `=`.
    pub env: Vec<(OsString, OsString)>,
    /// The file mode creation mask.
    pub umask: u32,
    /// What `isatty` says of descriptor 0.
    pub stdin_is_terminal: bool,
    /// Whether somebody could read something from descriptor 0: it is open, and neither a terminal nor `/dev/null`.
    pub stdin_is_fed: bool,
    /// What `isatty` says of descriptor 1.
    pub stdout_is_terminal: bool,
    /// What `isatty` says of descriptor 2.
    pub stderr_is_terminal: bool,
}

/// A build, and what is special about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The command that builds.
    pub run: RunRequest,
    /// Which of the files that it makes are wanted here: patterns as in gitignore(5), the last one that matches decides.
    pub fetch: Vec<OsString>,
    /// Under which absolute paths the build may call the launcher.
    pub launchers: Vec<OsString>,
    /// Under which absolute paths it may read Farcc.cmake.
    pub modules: Vec<OsString>,
    /// The size of the terminal, if one of the descriptors is one.
    pub window: Option<Window>,
    /// Whether nothing is to be said when it has ended.
    pub is_quiet: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From top to bottom.
    pub rows: u16,
    /// From left to right.
    pub columns: u16,
}

/// How a local run ended, and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoneReport {
    /// How the process ended.
    pub ended: Ended,
    /// Everything it wrote to descriptor 1; empty unless `captured`.
    pub stdout: Vec<u8>,
    /// Everything it wrote to descriptor 2; empty unless `captured`.
    pub stderr: Vec<u8>,
    /// Whether the two are complete. They are not when there was too much to keep, when a descriptor was
    /// closed, or when a process that outlived the command may still write.
    pub captured: bool,
    /// How long the process ran, in microseconds; the wait for a slot is no part of it.
    pub micros: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By `exit`, with this status.
    Exited(u8),
    /// By a signal, with this number.
    Signaled(u8),
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The command's outputs are in place: print this and exit. After [`Request::Done`]: the outputs are
    /// stored, and the fields are without meaning.
    Completed {
        /// Exit status of the command.
        exit_code: u8,
        /// What it wrote to descriptor 1.
        stdout: Vec<u8>,
        /// What it wrote to descriptor 2.
        stderr: Vec<u8>,
    },
    /// Become the command by `exec`; nothing of it is kept.
    PassThrough {
        /// Why, for a human.
        reason: String,
        /// Whether to take one of the machine's [slots](crate::slots) first.
        slot: bool,
    },
    /// Run a command as a child, and tell how it ended by [`Request::Done`]. Takes a slot.
    RunAndStore {
        /// The command: that of the request, possibly with its colours told explicitly. Whatever `argv[0]` is,
        /// the program of the request is executed.
        argv: Vec<OsString>,
        /// Why, for a human.
        reason: String,
    },
    /// Run a command as a child while the cluster has it too, if a slot is free at once. Answered by [`Request::Done`] when it
    /// ends by itself, else by [`Request::Stopped`]; only then there is another reply.
    Race {
        /// The command, as that of [`Reply::RunAndStore`].
        argv: Vec<OsString>,
    },
    /// The cluster was first: end the child of [`Reply::Race`]. Without meaning once that was answered, which may cross it.
    Stop,
    /// The command runs on another machine. What it writes comes by [`Reply::Output`], and after that [`Reply::Ended`], or one of
    /// the other answers if that machine was lost.
    Stream {
        /// Whether it is to be told what comes on standard input.
        has_input: bool,
        /// Whether the command may be run here if the daemon is lost, unless it has got input.
        may_run_again: bool,
    },
    /// The command of [`Reply::Stream`] has written this.
    Output {
        /// The descriptor: 1 or 2.
        descriptor: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// So many bytes of the input were read by the command; at the end perhaps fewer than it was thought.
    Taken(u64),
    /// How the command of [`Reply::Stream`] has ended: all that it has changed is in place.
    Ended(Ended),
    /// The answer to [`Request::Control`].
    Text(Vec<u8>),
    /// The daemon will not take the command: it is stopping, or speaks another protocol.
    Refused {
        /// Why, for a human.
        message: String,
    },
    /// Nothing yet; sent every [`HEARTBEAT`], so that silence means a daemon that is stopped or stuck.
    Working,
}

/// Either direction's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// From the launcher.
    Request(Request),
    /// From the daemon.
    Reply(Reply),
}

/// Why bytes are no frame, or a message cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The frame or a field of it ends early.
    Truncated,
    /// The payload is larger than [`MAX_PAYLOAD_BYTES`]; its length in bytes.
    TooLong(usize),
    /// There is no such kind of frame, or not in this direction.
    UnknownKind(u8),
    /// The launcher speaks another protocol; its version.
    OtherProtocol(u32),
    /// Bytes follow the last field.
    TrailingBytes,
    /// A field has a value that it cannot have.
    InvalidField(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated => f.write_str("the frame ends early"),
            WireError::TooLong(bytes) => {
                write!(f, "a frame of {bytes} bytes is larger than {MAX_PAYLOAD_BYTES}")
            }
            WireError::UnknownKind(kind) => write!(f, "there is no frame of kind {kind:#04x} here"),
            WireError::OtherProtocol(protocol) => {
                write!(f, "the launcher speaks protocol {protocol}, this is protocol {PROTOCOL}")
            }
            WireError::TrailingBytes => f.write_str("bytes follow the last field of the frame"),
            WireError::InvalidField(field) => write!(f, "field {field} is invalid"),
        }
    }
}

impl std::error::Error for WireError {}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The kind of message, for [`Request::decode`] and [`Reply::decode`].
    pub kind: u8,
    /// Length of the payload in bytes, at most [`MAX_PAYLOAD_BYTES`].
    pub payload_bytes: usize,
}

impl Header {
    /// Reads a header, so that the reader knows how much to read next.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Header, WireError> {
        let [a, b, c, d, kind] = bytes;
        let payload_bytes = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(WireError::TooLong(payload_bytes));
        }
        Ok(Header { kind, payload_bytes })
    }
}

impl Frame {
    /// Reads one frame that is exactly `bytes`.
    ///
    /// # Errors
    /// Any [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(WireError::Truncated)?;
        let header = Header::decode(*header)?;
        match payload.len() {
            len if len < header.payload_bytes => Err(WireError::Truncated),
            len if len > header.payload_bytes => Err(WireError::TrailingBytes),
            _ => Frame::from_parts(header.kind, payload),
        }
    }

    /// Reads a message of either direction from its kind and payload.
    ///
    /// # Errors
    /// Any [`WireError`].
    pub fn from_parts(kind: u8, payload: &[u8]) -> Result<Frame, WireError> {
        match Request::decode(kind, payload) {
            Err(WireError::UnknownKind(_)) => Ok(Frame::Reply(Reply::decode(kind, payload)?)),
            request => Ok(Frame::Request(request?)),
        }
    }

    /// The whole frame.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Frame::Request(request) => request.encode(),
            Frame::Reply(reply) => reply.encode(),
        }
    }
}

impl Request {
    /// The whole frame, header included.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Request::Run(run) => {
                let mut to = Encoder::new(RUN);
                run.encode(&mut to);
                to.finish()
            }
            Request::Build(build) => {
                let mut to = Encoder::new(BUILD);
                build.run.encode(&mut to);
                to.list(&build.fetch);
                to.list(&build.launchers);
                to.list(&build.modules);
                to.flag(build.window.is_some());
                if let Some(window) = build.window {
                    window.encode(&mut to);
                }
                to.flag(build.is_quiet);
                to.finish()
            }
            Request::Done(done) => {
                let mut to = Encoder::new(DONE);
                to.ended(done.ended);
                to.bytes(&done.stdout);
                to.bytes(&done.stderr);
                to.flag(done.captured);
                to.u64(done.micros);
                to.finish()
            }
            Request::Stopped => Encoder::new(STOPPED).finish(),
            Request::Input { bytes, is_last } => {
                let mut to = Encoder::new(INPUT);
                to.bytes(bytes);
                to.flag(*is_last);
                to.finish()
            }
            Request::Signal(signal) => {
                let mut to = Encoder::new(SIGNAL);
                to.u8(*signal);
                to.finish()
            }
            Request::Resized(window) => {
                let mut to = Encoder::new(RESIZED);
                window.encode(&mut to);
                to.finish()
            }
            Request::Cancel => Encoder::new(CANCEL).finish(),
            Request::Control { words } => {
                let mut to = Encoder::new(CONTROL);
                to.list(words);
                to.finish()
            }
        }
    }

    /// Reads a request from a frame's kind and payload.
    ///
    /// # Errors
    /// Any [`WireError`]; after [`WireError::OtherProtocol`] the launcher understands [`Reply::Refused`].
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Request, WireError> {
        let mut from = Decoder { rest: payload };
        let request = match kind {
            RUN => Request::Run(RunRequest::decode(&mut from)?),
            BUILD => Request::Build(BuildRequest {
                run: RunRequest::decode(&mut from)?,
                fetch: from.list("fetch")?,
                launchers: from.list("launchers")?,
                modules: from.list("modules")?,
                window: if from.flag("window")? { Some(Window::decode(&mut from)?) } else { None },
                is_quiet: from.flag("is_quiet")?,
            }),
            DONE => Request::Done(DoneReport {
                ended: from.ended()?,
                stdout: from.bytes()?.to_vec(),
                stderr: from.bytes()?.to_vec(),
                captured: from.flag("captured")?,
                micros: from.u64()?,
            }),
            STOPPED => Request::Stopped,
            INPUT => Request::Input { bytes: from.bytes()?.to_vec(), is_last: from.flag("is_last")? },
            SIGNAL => Request::Signal(from.u8()?),
            RESIZED => Request::Resized(Window::decode(&mut from)?),
            CANCEL => Request::Cancel,
            CONTROL => Request::Control { words: from.list("words")? },
            _ => return Err(WireError::UnknownKind(kind)),
        };
        from.finish(request)
    }
}

impl RunRequest {
    fn encode(&self, to: &mut Encoder) {
        to.u32(PROTOCOL);
        to.bytes(self.version.as_bytes());
        to.bytes(self.program.as_os_str().as_bytes());
        to.list(&self.argv);
        to.bytes(self.cwd.as_os_str().as_bytes());
        to.length(self.env.len());
        for (name, value) in &self.env {
            to.bytes(name.as_bytes());
            to.bytes(value.as_bytes());
        }
        to.u32(self.umask);
        to.flag(self.stdin_is_terminal);
        to.flag(self.stdin_is_fed);
        to.flag(self.stdout_is_terminal);
        to.flag(self.stderr_is_terminal);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<RunRequest, WireError> {
        let protocol = from.u32()?;
        if protocol != PROTOCOL {
            return Err(WireError::OtherProtocol(protocol));
        }
        Ok(RunRequest {
            version: from.text("version")?,
            program: from.os_string("program")?.into(),
            argv: from.list("argv")?,
            cwd: from.os_string("cwd")?.into(),
            env: {
                let len = from.length(2)?;
                let mut env = Vec::with_capacity(len);
                for _ in 0..len {
                    env.push((from.os_string("env")?, from.os_string("env")?));
                }
                env
            },
            umask: from.u32()?,
            stdin_is_terminal: from.flag("stdin_is_terminal")?,
            stdin_is_fed: from.flag("stdin_is_fed")?,
            stdout_is_terminal: from.flag("stdout_is_terminal")?,
            stderr_is_terminal: from.flag("stderr_is_terminal")?,
        })
    }
}

impl Window {
    fn encode(self, to: &mut Encoder) {
        to.u16(self.rows);
        to.u16(self.columns);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Window, WireError> {
        Ok(Window { rows: from.u16()?, columns: from.u16()? })
    }
}

impl Reply {
    /// The whole frame, header included.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut to;
        match self {
            Reply::Completed { exit_code, stdout, stderr } => {
                to = Encoder::new(COMPLETED);
                to.u8(*exit_code);
                to.bytes(stdout);
                to.bytes(stderr);
            }
            Reply::PassThrough { reason, slot } => {
                to = Encoder::new(PASS_THROUGH);
                to.bytes(reason.as_bytes());
                to.flag(*slot);
            }
            Reply::RunAndStore { argv, reason } => {
                to = Encoder::new(RUN_AND_STORE);
                to.list(argv);
                to.bytes(reason.as_bytes());
            }
            Reply::Race { argv } => {
                to = Encoder::new(RACE);
                to.list(argv);
            }
            Reply::Stop => to = Encoder::new(STOP),
            Reply::Stream { has_input, may_run_again } => {
                to = Encoder::new(STREAM);
                to.flag(*has_input);
                to.flag(*may_run_again);
            }
            Reply::Output { descriptor, bytes } => {
                to = Encoder::new(OUTPUT);
                to.u8(*descriptor);
                to.bytes(bytes);
            }
            Reply::Taken(bytes) => {
                to = Encoder::new(TAKEN);
                to.u64(*bytes);
            }
            Reply::Ended(ended) => {
                to = Encoder::new(ENDED);
                to.ended(*ended);
            }
            Reply::Text(text) => {
                to = Encoder::new(TEXT);
                to.bytes(text);
            }
            Reply::Refused { message } => {
                to = Encoder::new(REFUSED);
                to.bytes(message.as_bytes());
            }
            Reply::Working => to = Encoder::new(WORKING),
        }
        to.finish()
    }

    /// Reads a reply from a frame's kind and payload.
    ///
    /// # Errors
    /// Any [`WireError`] but `OtherProtocol`.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Reply, WireError> {
        let mut from = Decoder { rest: payload };
        let reply = match kind {
            COMPLETED => Reply::Completed {
                exit_code: from.u8()?,
                stdout: from.bytes()?.to_vec(),
                stderr: from.bytes()?.to_vec(),
            },
            PASS_THROUGH => Reply::PassThrough { reason: from.text("reason")?, slot: from.flag("slot")? },
            RUN_AND_STORE => Reply::RunAndStore { argv: from.list("argv")?, reason: from.text("reason")? },
            RACE => Reply::Race { argv: from.list("argv")? },
            STOP => Reply::Stop,
            STREAM => Reply::Stream {
                has_input: from.flag("has_input")?,
                may_run_again: from.flag("may_run_again")?,
            },
            OUTPUT => match from.u8()? {
                descriptor @ (1 | 2) => Reply::Output { descriptor, bytes: from.bytes()?.to_vec() },
                _ => return Err(WireError::InvalidField("descriptor")),
            },
            TAKEN => Reply::Taken(from.u64()?),
            ENDED => Reply::Ended(from.ended()?),
            TEXT => Reply::Text(from.bytes()?.to_vec()),
            REFUSED => Reply::Refused { message: from.text("message")? },
            WORKING => Reply::Working,
            _ => return Err(WireError::UnknownKind(kind)),
        };
        from.finish(reply)
    }
}

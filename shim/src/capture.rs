//! Runs a command as a child that behaves as if it stood in the launcher's place, and keeps a copy of what it
//! prints.
//! Knows nothing of the daemon that the copy is for.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::pipe::PIPE_BUF;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitOptions;

use crate::process::Image;
use crate::process::Standard;
use crate::signals::Arrival;
use crate::signals::Guard;
use crate::wire::DoneReport;
use crate::wire::Ended;

/// How much of each stream is kept, in bytes; who prints more is not stored.
pub const MAX_KEPT_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 64 * 1024;

/// Runs the program to its end. What it writes to descriptors 1 and 2 is passed on as it comes. Signals that ask
/// the launcher to end go to the child, and how the child ends is what counts.
///
/// # Errors
/// When the child could not be started; nothing has run then.
pub fn run(image: &Image, standard: Standard) -> io::Result<DoneReport> {
    let (mut stdout, stdout_end) = Stream::new(rustix::stdio::stdout(), standard.is_open[1])?;
    let (mut stderr, stderr_end) = Stream::new(rustix::stdio::stderr(), standard.is_open[2])?;
    let signals = Guard::new()?;
    let started = Instant::now();
    let child = image.spawn(
        stdout_end.as_ref().map(AsFd::as_fd),
        stderr_end.as_ref().map(AsFd::as_fd),
        signals.inherited(),
    )?;
    // Only the child may hold them: their end is the end of the stream.
    drop((stdout_end, stderr_end));
    let ended = relay(child, &signals, [&mut stdout, &mut stderr]);
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let captured = stdout.is_complete && stderr.is_complete;
    let kept = |stream: Stream| if captured { stream.kept } else { Vec::new() };
    Ok(DoneReport { ended, stdout: kept(stdout), stderr: kept(stderr), captured, micros })
}

/// Passes output and signals on until the child has ended and nothing of its output is left.
fn relay(child: Pid, signals: &Guard, mut streams: [&mut Stream; 2]) -> Ended {
    let mut ended = None;
    let mut asked_to_end = false;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if let Some(ended) = ended
            && streams.iter().all(|stream| stream.pending.is_empty())
        {
            return ended;
        }
        // A reader that has stopped reading must not keep a launcher alive that was told to end.
        let timeout = (ended.is_some() && asked_to_end).then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut polled = vec![PollFd::from_borrowed_fd(signals.queue(), PollFlags::IN)];
        let [stdout, stderr] = &streams;
        let interests = [stdout.interest(), stderr.interest()];
        polled.extend(interests.iter().flatten().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        // Interrupted, or without memory for a moment.
        let Ok(ready) = rustix::event::poll(&mut polled, timeout.as_ref()) else { continue };
        let mut events = polled.iter().skip(1).map(|fd| !fd.revents().is_empty());
        let is_ready = interests.map(|interest| interest.is_some() && events.next() == Some(true));
        drop(polled);
        if let (0, Some(ended), true) = (ready, ended, asked_to_end) {
            return ended;
        }
        for (stream, is_ready) in streams.iter_mut().zip(is_ready) {
            if is_ready {
                stream.advance(&mut buffer);
            }
        }
        while let Some(arrival) = signals.next() {
            match arrival {
                Arrival::Child => {}
                Arrival::End { signal, reached_group } => {
                    asked_to_end = true;
                    if ended.is_none() && !reached_group {
                        forward(child, signal);
                    }
                }
            }
        }
        if ended.is_none() {
            ended = reap(child);
            if ended.is_some() {
                streams.iter_mut().for_each(|stream| stream.drain(&mut buffer));
            }
        }
    }
}

fn forward(child: Pid, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // The child is not reaped yet, so the number is still its own.
        let _ = rustix::process::kill_process(child, signal);
    }
}

fn reap(child: Pid) -> Option<Ended> {
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    let status = match rustix::process::waitpid(Some(child), WaitOptions::NOHANG) {
        Ok(status) => status?.1,
        Err(rustix::io::Errno::INTR) => return None,
        // Somebody else has waited for it: cannot be, but must not hang.
        Err(_) => return Some(Ended::Exited(1)),
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Some(Ended::Exited(number(status))),
        (None, Some(signal)) => Some(Ended::Signaled(number(signal))),
        (None, None) => None,
    }
}

/// One of the child's two output streams on its way to the launcher's own descriptor.
struct Stream {
    /// Where the child's output comes from; none at its end.
    source: Option<OwnedFd>,
    target: BorrowedFd<'static>,
    /// Read, not yet written.
    pending: Vec<u8>,
    kept: Vec<u8>,
    /// Whether `kept` is all, up to now.
    is_complete: bool,
    /// Whether nothing can be written to the target any more, for another reason than a closed pipe.
    is_discarded: bool,
}

impl Stream {
    /// With the end that the child gets. A descriptor that was closed stays closed.
    fn new(target: BorrowedFd<'static>, is_open: bool) -> io::Result<(Stream, Option<OwnedFd>)> {
        let stream = |source, is_complete| Stream {
            source,
            target,
            pending: Vec::new(),
            kept: Vec::new(),
            is_complete,
            is_discarded: false,
        };
        if !is_open {
            return Ok((stream(None, false), None));
        }
        let (source, child_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Our end only: the child's writes block as they would on any pipe.
        rustix::fs::fcntl_setfl(&source, rustix::fs::OFlags::NONBLOCK)?;
        Ok((stream(Some(source), true), Some(child_end)))
    }

    /// What to wait for: room for what is pending, else more. So a slow reader slows the child down, as it would
    /// without us.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        if !self.pending.is_empty() {
            return Some((self.target, PollFlags::OUT));
        }
        Some((self.source.as_ref()?.as_fd(), PollFlags::IN))
    }

    fn advance(&mut self, buffer: &mut [u8]) {
        if self.pending.is_empty() {
            self.read(buffer);
        } else {
            self.write();
        }
    }

    /// Reads once; false when there is nothing more now.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        let Some(source) = &self.source else { return false };
        match rustix::io::read(source, &mut *buffer) {
            Ok(0) => self.source = None,
            Ok(read) => {
                self.keep(&buffer[..read]);
                if !self.is_discarded {
                    self.pending.extend_from_slice(&buffer[..read]);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return false,
            Err(_) => self.give_up(),
        }
        self.source.is_some()
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_complete && self.kept.len() + bytes.len() <= MAX_KEPT_BYTES {
            self.kept.extend_from_slice(bytes);
        } else {
            self.is_complete = false;
            self.kept = Vec::new();
        }
    }

    fn write(&mut self) {
        // A pipe that is ready has room for this much (pipe(7)), so that the write does not block while the
        // other stream, or a signal, waits.
        let len = self.pending.len().min(PIPE_BUF);
        match rustix::io::write(self.target, &self.pending[..len]) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // Let the child meet the closed pipe itself: by SIGPIPE or EPIPE, as it would have.
            Err(rustix::io::Errno::PIPE) => self.give_up(),
            // A full disk, for one. The child goes on: few compilers look at this.
            Err(_) => {
                self.pending.clear();
                self.is_discarded = true;
            }
        }
    }

    fn give_up(&mut self) {
        self.source = None;
        self.pending.clear();
        self.is_complete = false;
    }

    /// After the child's end: reads what is in the pipe. A process that outlives the child and holds the pipe is
    /// not waited for, as nobody would have waited for it without us.
    fn drain(&mut self, buffer: &mut [u8]) {
        while self.read(buffer) {}
        if self.source.take().is_some() {
            self.is_complete = false;
        }
    }
}

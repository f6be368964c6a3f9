//! Runs a command as a child that behaves as if it stood in the launcher's place, and keeps a copy of what it
//! prints; to its end, or until it is recalled.
//! Knows nothing of the daemon that the copy is for.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
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
use crate::recall::Recall;
use crate::signals::Arrival;
use crate::signals::Guard;
use crate::wire::DoneReport;
use crate::wire::Ended;

/// How much of each stream is kept, in bytes; who prints more is not stored.
pub const MAX_KEPT_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 64 * 1024;

/// How long processes that are told to end may clean up, before they are killed.
const GRACE: Duration = Duration::from_secs(2);
/// How often killed processes are looked at besides.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a child came to its end that may have run for nothing.
#[derive(Debug)]
pub enum Raced {
    /// By itself, or by a signal for the launcher: it is what counts, and its output was passed on.
    Ended(DoneReport),
    /// It was recalled: no process of it is left, and nothing of its output was passed on.
    Recalled,
}

/// Runs the program to its end. What it writes to descriptors 1 and 2 is passed on as it comes. Signals that ask
/// the launcher to end go to the child, and how the child ends is what counts.
///
/// # Errors
/// When the child could not be started; nothing has run then.
pub fn run(image: &Image, standard: Standard) -> io::Result<DoneReport> {
    let mut run = Run::start(image, standard, false)?;
    let ended = loop {
        // Nobody recalls it.
        if let Some(ended) = run.relay(&mut Recall::never()) {
            break ended;
        }
    };
    Ok(run.report(ended))
}

/// The same, unless `recall` ends it: then with all processes that it started, which is why they get a group of their own.
/// What it writes is held back until it has ended by itself. Once it was told to end by a signal for the launcher, it is not
/// recalled any more.
///
/// # Errors
/// The same.
pub fn race(image: &Image, standard: Standard, recall: &mut Recall<'_>) -> io::Result<Raced> {
    if recall.was_given() {
        return Ok(Raced::Recalled);
    }
    let _adopting = Adopting::begin()?;
    let mut run = Run::start(image, standard, true)?;
    Ok(match run.relay(recall) {
        Some(ended) => Raced::Ended(run.report(ended)),
        None => {
            run.stop();
            Raced::Recalled
        }
    })
}

/// While this lives, processes whose parent ends become children of the launcher, so that they can be waited for: a driver
/// that is killed leaves its compiler and its assembler behind.
struct Adopting {
    /// Some containers make the launcher what they would be themselves.
    was: Option<Pid>,
}

impl Adopting {
    fn begin() -> io::Result<Adopting> {
        let was = rustix::process::child_subreaper()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Adopting { was })
    }
}

impl Drop for Adopting {
    fn drop(&mut self) {
        let _ = rustix::process::set_child_subreaper(self.was);
    }
}

/// A child under way.
struct Run {
    child: Pid,
    /// Whether the child leads a process group, which then has no others but those that it started.
    is_leader: bool,
    started: Instant,
    signals: Guard,
    streams: [Stream; 2],
}

impl Run {
    fn start(image: &Image, standard: Standard, is_leader: bool) -> io::Result<Run> {
        let (stdout, stdout_end) = Stream::new(rustix::stdio::stdout(), standard.is_open[1], is_leader)?;
        let (stderr, stderr_end) = Stream::new(rustix::stdio::stderr(), standard.is_open[2], is_leader)?;
        let signals = Guard::new()?;
        let started = Instant::now();
        let child = image.spawn(
            stdout_end.as_ref().map(AsFd::as_fd),
            stderr_end.as_ref().map(AsFd::as_fd),
            signals.inherited(),
            is_leader,
        )?;
        // Only the child may hold its ends of the pipes: their end is the end of the stream.
        Ok(Run { child, is_leader, started, signals, streams: [stdout, stderr] })
    }

    fn report(self, ended: Ended) -> DoneReport {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let captured = self.streams.iter().all(|stream| stream.is_complete);
        let [stdout, stderr] = self.streams.map(|stream| if captured { stream.kept } else { Vec::new() });
        DoneReport { ended, stdout, stderr, captured, micros }
    }

    /// Passes output and signals on until the child has ended and nothing of its output is left. None: it is recalled, and
    /// had not ended.
    fn relay(&mut self, recall: &mut Recall<'_>) -> Option<Ended> {
        let mut ended = None;
        let mut asked_to_end = false;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if ended.is_some() && self.streams.iter().all(|stream| stream.pending.is_empty()) {
                return ended;
            }
            // A reader that has stopped reading must not keep a launcher alive that was told to end.
            let timeout = (ended.is_some() && asked_to_end).then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
            let recallable = ended.is_none() && !asked_to_end;
            let mut polled = vec![PollFd::from_borrowed_fd(self.signals.queue(), PollFlags::IN)];
            let [stdout, stderr] = &self.streams;
            let interests = [stdout.interest(), stderr.interest(), recall.interest().filter(|_| recallable)];
            polled
                .extend(interests.iter().flatten().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
            // Interrupted, or without memory for a moment.
            let Ok(ready) = rustix::event::poll(&mut polled, timeout.as_ref()) else { continue };
            let mut events = polled.iter().skip(1).map(|fd| !fd.revents().is_empty());
            let is_ready = interests.map(|interest| interest.is_some() && events.next() == Some(true));
            drop(polled);
            if ready == 0 && ended.is_some() && asked_to_end {
                return ended;
            }
            for (stream, is_ready) in self.streams.iter_mut().zip(is_ready) {
                if is_ready {
                    stream.advance(&mut buffer);
                }
            }
            while let Some(arrival) = self.signals.next() {
                match arrival {
                    Arrival::Child | Arrival::Terminal => {}
                    Arrival::End { signal, reached_group } => {
                        asked_to_end = true;
                        if ended.is_none() {
                            self.forward(signal, reached_group);
                        }
                    }
                }
            }
            if ended.is_none() {
                ended = reap(self.child);
                if ended.is_some() {
                    self.streams.iter_mut().for_each(|stream| stream.end(&mut buffer));
                } else if is_ready[2] && !asked_to_end && recall.is_given() {
                    return None;
                }
            }
        }
    }

    /// Passes on a signal, which the kernel may have sent to the launcher's process group already.
    fn forward(&self, signal: i32, reached_group: bool) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        // The child is not reaped yet, so the number is still its own, and that of its group.
        if self.is_leader {
            let _ = rustix::process::kill_process_group(self.child, signal);
        } else if !reached_group {
            let _ = rustix::process::kill_process(self.child, signal);
        }
    }

    /// Ends every process of the child's group and waits for them. A signal that asks the launcher to end has its effect on
    /// it after that.
    fn stop(self) {
        let tell = |signal| {
            let _ = rustix::process::kill_process_group(self.child, signal);
        };
        tell(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        let mut is_killed = false;
        let mut arrived = None;
        // Until there is none to wait for, the group has a member, and its number is no other's.
        while !is_group_reaped(self.child) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !is_killed {
                tell(Signal::KILL);
                is_killed = true;
            }
            let pause = if is_killed { LOOK_AGAIN } else { left.min(LOOK_AGAIN) };
            let pause =
                Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: pause.subsec_nanos().into() };
            let mut polled = [PollFd::from_borrowed_fd(self.signals.queue(), PollFlags::IN)];
            let _ = rustix::event::poll(&mut polled, Some(&pause));
            while let Some(arrival) = self.signals.next() {
                if let Arrival::End { signal, .. } = arrival {
                    arrived = arrived.or(Signal::from_named_raw(signal));
                }
            }
        }
        self.signals.hand_back();
        if let Some(signal) = arrived {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        }
    }
}

/// Reaps what has ended of the process group that `leader` led; whether nothing of it is left.
fn is_group_reaped(leader: Pid) -> bool {
    loop {
        match rustix::process::waitpgid(leader, WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
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
    /// Whether nothing is to be written before the child's end.
    is_held: bool,
}

impl Stream {
    /// With the end that the child gets. A descriptor that was closed stays closed.
    fn new(
        target: BorrowedFd<'static>,
        is_open: bool,
        is_held: bool,
    ) -> io::Result<(Stream, Option<OwnedFd>)> {
        let stream = |source, is_complete| Stream {
            source,
            target,
            pending: Vec::new(),
            kept: Vec::new(),
            is_complete,
            is_discarded: false,
            is_held,
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
        if self.is_to_be_written() {
            return Some((self.target, PollFlags::OUT));
        }
        Some((self.source.as_ref()?.as_fd(), PollFlags::IN))
    }

    fn is_to_be_written(&self) -> bool {
        !self.pending.is_empty() && !self.is_held
    }

    fn advance(&mut self, buffer: &mut [u8]) {
        if self.is_to_be_written() {
            self.write();
        } else {
            self.read(buffer);
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

    /// After the child's end: reads what is in the pipe, and holds nothing back. A process that outlives the child and holds
    /// the pipe is not waited for, as nobody would have waited for it without us.
    fn end(&mut self, buffer: &mut [u8]) {
        self.is_held = false;
        while self.read(buffer) {}
        if self.source.take().is_some() {
            self.is_complete = false;
        }
    }
}

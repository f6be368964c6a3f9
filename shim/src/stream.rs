//! A command that runs on another machine, as if it ran here: its output is written as it comes, its input read and sent, and
//! signals that are meant for it are passed on.
//! Knows nothing of that machine: the daemon speaks for it.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;

use crate::link::Link;
use crate::signals::Arrival;
use crate::signals::Guard;
use crate::wire::Frame;
use crate::wire::INPUT_BYTES;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::Window;

/// Read at a time from standard input.
const READ_BYTES: usize = 64 << 10;

/// After so many signals that ask to end, whoever sends them means the launcher: the other machine may be gone.
const MOST_SIGNALS: u32 = 3;

/// Why a command writes to a pipe that nobody reads.
const PIPE_SIGNAL: u8 = 13;

/// The terminal that stands for another machine's.
pub struct Terminal<'a> {
    /// Has its size.
    pub descriptor: BorrowedFd<'a>,
    /// Gives it the modes that it is to have once more: whoever goes on after a stop may find others.
    pub resume: &'a dyn Fn(),
}

impl Terminal<'_> {
    /// How large it is now.
    pub fn window(&self) -> Option<Window> {
        let size = rustix::termios::tcgetwinsize(self.descriptor).ok()?;
        Some(Window { rows: size.ws_row, columns: size.ws_col })
    }
}

/// How it came to an end.
pub enum Streamed {
    /// By this answer of the daemon's.
    Answered(Reply),
    /// Somebody here wants an end at once, by this signal.
    Ended(i32),
    /// The daemon is gone, or says what nobody says.
    Lost {
        /// What happened.
        error: io::Error,
        /// Whether nothing was read from standard input.
        has_all_input: bool,
    },
}

/// Standard input on its way.
struct Input {
    /// Whether there may be more.
    is_open: bool,
    sent: u64,
    taken: u64,
}

impl Input {
    /// Reads once and sends it.
    fn pass_on(&mut self, link: &Link, buffer: &mut [u8]) -> io::Result<()> {
        let room = usize::try_from(INPUT_BYTES - (self.sent - self.taken)).unwrap_or(0);
        let room = room.min(buffer.len());
        let read = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..room]) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
            // Nothing can be read: as if there were nothing.
            Err(_) => 0,
        };
        self.is_open = read > 0;
        self.sent += read as u64;
        tell(link, Request::Input { bytes: buffer[..read].to_vec(), is_last: read == 0 })
    }

    fn has_room(&self) -> bool {
        self.is_open && self.sent - self.taken < INPUT_BYTES
    }

    /// What the command has not read of a file, the next one is to find.
    fn give_back(&self) {
        let unread = i64::try_from(self.sent - self.taken).unwrap_or(0);
        if unread > 0 {
            // A pipe has no way back.
            let _ = rustix::fs::seek(rustix::stdio::stdin(), SeekFrom::Current(-unread));
        }
    }
}

/// Follows the command to its end. There is a `terminal` if the command has one that looks like it.
pub fn follow(link: &mut Link, has_input: bool, terminal: Option<&Terminal<'_>>) -> Streamed {
    let mut input = Input { is_open: has_input, sent: 0, taken: 0 };
    let streamed = relay(link, &mut input, terminal);
    streamed.unwrap_or_else(|error| Streamed::Lost { error, has_all_input: input.sent == 0 })
}

fn relay(link: &mut Link, input: &mut Input, terminal: Option<&Terminal<'_>>) -> io::Result<Streamed> {
    let signals = if terminal.is_some() { Guard::of_terminal()? } else { Guard::new()? };
    let mut relay = Relay { link, signals, terminal, asked: 0 };
    let mut buffer = vec![0; READ_BYTES];
    let mut is_read = [true; 2];
    loop {
        if !relay.link.has_received() {
            let takes_input = input.has_room();
            let mut polled = vec![
                PollFd::from_borrowed_fd(relay.signals.queue(), PollFlags::IN),
                PollFd::from_borrowed_fd(relay.link.stream().as_fd(), PollFlags::IN),
            ];
            if takes_input {
                polled.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
            // Interrupted, or without memory for a moment.
            let Ok(_) = rustix::event::poll(&mut polled, None) else { continue };
            let is_ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(polled);
            if let Some(signal) = relay.heed()? {
                return Ok(Streamed::Ended(signal));
            }
            if takes_input && is_ready[2] {
                input.pass_on(relay.link, &mut buffer)?;
            }
            if !is_ready[1] {
                continue;
            }
        }
        match relay.link.receive()? {
            Frame::Reply(Reply::Working | Reply::Stream { .. }) => {}
            Frame::Reply(Reply::Taken(taken)) => input.taken = taken.min(input.sent),
            Frame::Reply(Reply::Output { descriptor, bytes }) => {
                let (at, target) = match descriptor {
                    1 => (0, rustix::stdio::stdout()),
                    _ => (1, rustix::stdio::stderr()),
                };
                if !is_read[at] {
                    continue;
                }
                match relay.write(target, &bytes)? {
                    Written::All => {}
                    Written::NoMore => is_read[at] = false,
                    Written::Ended(signal) => return Ok(Streamed::Ended(signal)),
                }
            }
            Frame::Reply(answer) => {
                input.give_back();
                return Ok(Streamed::Answered(answer));
            }
            Frame::Request(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Tells the daemon. One that has answered already hears nothing any more: its answer is still to be read, and so is its end if there
/// is none.
fn tell(link: &Link, request: Request) -> io::Result<()> {
    match link.send(&Frame::Request(request)) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

/// What has become of output.
enum Written {
    All,
    /// Nobody reads it any more.
    NoMore,
    /// Somebody here wants an end at once, by this signal.
    Ended(i32),
}

/// The way to the daemon, and what somebody here wants meanwhile.
struct Relay<'a> {
    link: &'a mut Link,
    signals: Guard,
    terminal: Option<&'a Terminal<'a>>,
    /// How often somebody has asked for an end.
    asked: u32,
}

impl Relay<'_> {
    /// Passes on the signals that have come. Returns the one that means the launcher, if there is one.
    fn heed(&mut self) -> io::Result<Option<i32>> {
        while let Some(arrival) = self.signals.next() {
            match (arrival, self.terminal) {
                (Arrival::End { signal, .. }, _) => {
                    self.asked += 1;
                    if self.asked >= MOST_SIGNALS {
                        return Ok(Some(signal));
                    }
                    self.tell(u8::try_from(signal).unwrap_or(0))?;
                }
                (Arrival::Terminal, Some(terminal)) => {
                    (terminal.resume)();
                    if let Some(window) = terminal.window() {
                        tell(self.link, Request::Resized(window))?;
                    }
                }
                (Arrival::Terminal | Arrival::Child, _) => {}
            }
        }
        Ok(None)
    }

    fn tell(&self, signal: u8) -> io::Result<()> {
        tell(self.link, Request::Signal(signal))
    }

    /// Writes as fast as somebody reads, while signals are heeded. A reader that has stopped does not keep a launcher alive that
    /// was told to end.
    fn write(&mut self, target: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<Written> {
        while !bytes.is_empty() {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let patience = (self.asked > 0).then_some(&at_once);
            let mut polled = [
                PollFd::from_borrowed_fd(self.signals.queue(), PollFlags::IN),
                PollFd::from_borrowed_fd(target, PollFlags::OUT),
            ];
            // Interrupted, or without memory for a moment.
            let Ok(_) = rustix::event::poll(&mut polled, patience) else { continue };
            let is_ready = !polled[1].revents().is_empty();
            if let Some(signal) = self.heed()? {
                return Ok(Written::Ended(signal));
            }
            if !is_ready {
                if patience.is_some() {
                    return Ok(Written::NoMore);
                }
                continue;
            }
            // A pipe that is ready has room for this much (pipe(7)).
            match rustix::io::write(target, &bytes[..bytes.len().min(PIPE_BUF)]) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE) => {
                    // As it would have learnt of it here.
                    self.tell(PIPE_SIGNAL)?;
                    return Ok(Written::NoMore);
                }
                // A full disk most programs pass over.
                Err(_) => return Ok(Written::NoMore),
            }
        }
        Ok(Written::All)
    }
}

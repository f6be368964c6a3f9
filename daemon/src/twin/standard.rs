//! A command's standard descriptors, from the twin's side: pipes, or a terminal.
//! Knows nothing of the command, nor of how what it says travels.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use bytes::Buf as _;
use bytes::Bytes;
use farcc_proto::twin;
use rustix::pty::OpenptFlags;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

/// Of what the client sends for standard input, this much may wait for the command.
const MOST_INPUT_BYTES: usize = 1 << 20;

/// Read at a time of what a command says.
const READ_BYTES: usize = 64 << 10;

/// Both ends of the descriptors.
pub(super) struct Standard {
    /// What goes in.
    pub(super) input: Input,
    /// What comes out of descriptors 1 and 2, where they are pipes.
    pub(super) outputs: [Outlet; 2],
    /// What comes out of the terminal.
    pub(super) terminal: Outlet,
    /// This side of the terminal.
    master: Option<OwnedFd>,
}

impl Standard {
    /// With the ends that the command gets.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub(super) fn new(start: &twin::Start) -> io::Result<(Standard, [OwnedFd; 3])> {
        let wanted = start.terminal.unwrap_or_default();
        let (mut master, mut theirs) = (None, None);
        if wanted.is_stdin || wanted.is_stdout || wanted.is_stderr {
            let (ours, slave) = terminal()?;
            (master, theirs) = (Some(ours), Some(slave));
        }
        let slave = |is_it: bool| theirs.as_ref().filter(|_| is_it).map(OwnedFd::try_clone).transpose();
        // For whom it reads and writes, a terminal is like a pipe.
        let end = || master.as_ref().map(OwnedFd::try_clone).transpose();
        let mut input = Input::default();
        let stdin = match (slave(wanted.is_stdin)?, start.has_input) {
            (Some(slave), _) => {
                input.sink = end()?.map(pipe::Sender::from_owned_fd_unchecked).transpose()?;
                slave
            }
            (None, true) => {
                let (theirs, ours) = io::pipe()?;
                input.sink = Some(pipe::Sender::from_owned_fd(ours.into())?);
                input.read_from = Some(OwnedFd::from(theirs.try_clone()?));
                theirs.into()
            }
            (None, false) => File::open("/dev/null")?.into(),
        };
        input.is_complete = input.sink.is_none();
        let output = |slave: Option<OwnedFd>| {
            let Some(slave) = slave else {
                let (ours, theirs) = io::pipe()?;
                let ours = pipe::Receiver::from_owned_fd(ours.into())?;
                return Ok::<_, io::Error>((Outlet::new(Some(ours)), OwnedFd::from(theirs)));
            };
            Ok((Outlet::new(None), slave))
        };
        let (stdout, their_stdout) = output(slave(wanted.is_stdout)?)?;
        let (stderr, their_stderr) = output(slave(wanted.is_stderr)?)?;
        let terminal = Outlet::new(end()?.map(pipe::Receiver::from_owned_fd_unchecked).transpose()?);
        let standard = Standard { input, outputs: [stdout, stderr], terminal, master };
        if let Some(size) = wanted.window {
            standard.resize(size);
        }
        Ok((standard, [stdin, their_stdout, their_stderr]))
    }

    /// Gives the terminal another size, if there is one.
    pub(super) fn resize(&self, size: twin::Window) {
        let Some(master) = &self.master else { return };
        let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = rustix::termios::Winsize {
            ws_row: number(size.rows),
            ws_col: number(size.columns),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A terminal that has hung up has no size.
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Both ends of a new terminal: ours, which does not block, and the command's.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    // Its name means nothing where the command runs.
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok((master, slave))
}

/// Where something comes out.
pub(super) struct Outlet {
    /// None: nothing comes any more.
    source: Option<pipe::Receiver>,
    buffer: Vec<u8>,
}

impl Outlet {
    fn new(source: Option<pipe::Receiver>) -> Outlet {
        let size = if source.is_some() { READ_BYTES } else { 0 };
        Outlet { source, buffer: vec![0; size] }
    }

    /// Whether something may still come.
    pub(super) fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Nobody wants what may still come.
    pub(super) fn close(&mut self) {
        self.source = None;
    }

    /// What comes next; empty at the end. May be dropped and called again.
    pub(super) async fn read(&mut self) -> &[u8] {
        let Some(source) = &mut self.source else { return &[] };
        // A terminal whose other end nobody has any more ends by an error (tty(4)).
        let read = source.read(&mut self.buffer).await;
        match read {
            Ok(read) if read > 0 => &self.buffer[..read],
            _ => {
                self.source = None;
                &[]
            }
        }
    }
}

/// Standard input on its way to the command.
#[derive(Default)]
pub(super) struct Input {
    /// None: it has ended, or nobody reads it.
    sink: Option<pipe::Sender>,
    /// The end that the command reads from: what is in it at the end, nobody has read.
    read_from: Option<OwnedFd>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    is_complete: bool,
    taken_bytes: u64,
}

impl Input {
    /// More of it. `false`: it is more than may come.
    pub(super) fn add(&mut self, input: twin::Input) -> bool {
        self.waiting_bytes += input.data.len();
        if self.is_complete || self.waiting_bytes > MOST_INPUT_BYTES {
            return false;
        }
        self.is_complete = input.is_last;
        self.waiting.push_back(input.data.into());
        true
    }

    /// Whether there is something to [feed](Self::feed).
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How much the command has taken, in bytes.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// How much the command has read, in bytes, once it has ended; None: all that it has taken.
    pub(super) fn read_bytes(&self) -> Option<u64> {
        let unread = rustix::io::ioctl_fionread(self.read_from.as_ref()?.as_fd()).unwrap_or(0);
        (unread > 0).then(|| self.taken_bytes.saturating_sub(unread))
    }

    /// Writes what the command takes; returns how much, in bytes. May be dropped and called again.
    pub(super) async fn feed(&mut self) -> usize {
        let Some(bytes) = self.waiting.front_mut() else { return 0 };
        let written = match &mut self.sink {
            Some(sink) if !bytes.is_empty() => sink.write(bytes).await,
            _ => Ok(bytes.len()),
        };
        let written = written.unwrap_or_else(|_| {
            // Nobody reads it: it is taken all the same, so that the client goes on.
            self.sink = None;
            bytes.len()
        });
        bytes.advance(written);
        if bytes.is_empty() {
            self.waiting.pop_front();
        }
        self.waiting_bytes -= written;
        self.taken_bytes += written as u64;
        if self.is_complete && self.waiting.is_empty() {
            self.sink = None;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::io::Write as _;

    use super::*;

    fn start(terminal: [bool; 3]) -> twin::Start {
        let [is_stdin, is_stdout, is_stderr] = terminal;
        let window = Some(twin::Window { rows: 7, columns: 70_000 });
        let terminal = Some(twin::Terminal { window, is_stdin, is_stdout, is_stderr });
        twin::Start { has_input: true, terminal, ..twin::Start::default() }
    }

    #[tokio::test]
    async fn a_terminal_takes_what_is_typed_and_shows_it() {
        let (mut standard, [stdin, stdout, stderr]) = Standard::new(&start([true, true, false])).unwrap();
        assert!(rustix::termios::isatty(&stdin) && rustix::termios::isatty(&stdout));
        assert!(!rustix::termios::isatty(&stderr) && !standard.outputs[0].is_open());
        let size = rustix::termios::tcgetwinsize(&stdin).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (7, u16::MAX));
        standard.resize(twin::Window { rows: 9, columns: 90 });
        assert_eq!(rustix::termios::tcgetwinsize(&stdout).unwrap().ws_col, 90);

        assert!(standard.input.add(twin::Input { data: b"typed\n".to_vec(), is_last: false }));
        assert_eq!(standard.input.feed().await, 6);
        let mut line = [0; 64];
        let read = File::from(stdin).read(&mut line).unwrap();
        assert_eq!(&line[..read], b"typed\n");
        File::from(stdout).write_all(b"said\n").unwrap();
        let mut shown = Vec::new();
        loop {
            let more = standard.terminal.read().await;
            if more.is_empty() {
                break;
            }
            shown.extend_from_slice(more);
        }
        assert_eq!(String::from_utf8(shown).unwrap(), "typed\r\nsaid\r\n");
        assert!(!standard.terminal.is_open());
        drop(stderr);
        assert_eq!(standard.outputs[1].read().await, b"");
    }

    #[tokio::test]
    async fn what_nobody_has_read_is_told() {
        let (mut standard, [stdin, ..]) = Standard::new(&start([false; 3])).unwrap();
        assert!(standard.input.add(twin::Input { data: b"123456".to_vec(), is_last: true }));
        assert!(!standard.input.add(twin::Input { data: b"more".to_vec(), is_last: true }));
        assert_eq!(standard.input.feed().await, 6);
        File::from(stdin).read_exact(&mut [0; 4]).unwrap();
        assert_eq!((standard.input.taken_bytes(), standard.input.read_bytes()), (6, Some(4)));
    }
}

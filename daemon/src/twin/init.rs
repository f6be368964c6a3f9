//! The first process of a command's PID namespace on the twin (`farccd twin-init`): starts the command, passes signals on to it,
//! watches over what it uses, and tells how it ended. Its own end is the end of all that the command has left running.
//! Knows nothing of mounts and mirrors: whoever starts it has seen to what the command sees.
//!
//! It is asked, and answers, on standard input, a socket: first comes [`Request`] with the command's three standard
//! descriptors, then a byte for each signal. It answers by [`Report`]s. The end of the socket is its end.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::IoSliceMut;
use std::io::Read;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::twin;
use prost::Message as _;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitOptions;

use crate::process::Program;
use crate::process::env_value;

/// How often it looks at what the command uses.
const LOOK: Duration = Duration::from_millis(250);

/// How much the command's processes may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processes at a time.
    pub processes: u64,
    /// Memory that is theirs alone, in bytes.
    pub memory_bytes: u64,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It has begun.
    Started,
    /// It could not be started: the system's error number.
    Failed(i32),
    /// It has ended with this status.
    Exited(u8),
    /// A signal has ended it.
    Signaled(u8),
    /// Its processes were too many.
    TooManyProcesses,
    /// They took too much memory.
    TooMuchMemory,
}

/// Of a report, in bytes: which it is, and its number.
pub const REPORT_BYTES: usize = 5;

impl Report {
    /// As it is sent.
    pub fn encode(self) -> [u8; REPORT_BYTES] {
        let (kind, number) = match self {
            Report::Started => (0, 0),
            Report::Failed(error) => (1, error),
            Report::Exited(status) => (2, i32::from(status)),
            Report::Signaled(signal) => (3, i32::from(signal)),
            Report::TooManyProcesses => (4, 0),
            Report::TooMuchMemory => (5, 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    /// Reads one; None: there is no such report.
    pub fn decode([kind, a, b, c, d]: [u8; REPORT_BYTES]) -> Option<Report> {
        let number = i32::from_le_bytes([a, b, c, d]);
        Some(match kind {
            0 => Report::Started,
            1 => Report::Failed(number),
            2 => Report::Exited(u8::try_from(number).ok()?),
            3 => Report::Signaled(u8::try_from(number).ok()?),
            4 => Report::TooManyProcesses,
            5 => Report::TooMuchMemory,
            _ => return None,
        })
    }
}

/// A command, with the descriptors that it gets.
struct Request {
    start: twin::Start,
    stdio: [OwnedFd; 3],
}

/// Runs the command that comes on standard input to its end. Returns when nobody wants it any more, or it has ended.
///
/// # Errors
/// When what comes is no command, or the kernel refuses what every process may do.
pub fn run(limits: Usage) -> io::Result<()> {
    // What the twin ignores, because of how it was started, commands need not.
    farcc::signals::reset_all();
    let control = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
    let Some(request) = Request::receive(&control)? else { return Ok(()) };
    let answer = |report: Report| (&control).write_all(&report.encode());
    let started = match start(request) {
        Ok(started) => started,
        Err(error) => {
            return answer(Report::Failed(error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error())));
        }
    };
    answer(Report::Started)?;
    // Whatever has lost its parent is ours to wait for.
    let (end, ended) = UnixStream::pair()?;
    let reaper = std::thread::Builder::new().spawn(move || {
        let report = reap_until_end_of(started);
        let _ = (&end).write_all(&report.encode());
    })?;
    if let Some(report) = follow(&control, &ended, limits)? {
        answer(report)?;
    }
    // It has ended, or ends with this process.
    drop(reaper);
    Ok(())
}

impl Request {
    /// None: nobody wants one any more.
    fn receive(control: &UnixStream) -> io::Result<Option<Request>> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut descriptors = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(control, &mut [IoSliceMut::new(&mut length)], &mut descriptors, flags)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let rights = descriptors.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let stdio: Vec<OwnedFd> = rights.flatten().collect();
        let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
        let stdio = stdio.try_into().map_err(|_| invalid("there are no three descriptors"))?;
        (&*control).read_exact(&mut length[received.bytes..])?;
        let mut bytes = Vec::new();
        let length = u64::from(u32::from_le_bytes(length));
        if control.take(length).read_to_end(&mut bytes)? as u64 != length {
            return Ok(None);
        }
        let start = twin::Start::decode(&*bytes).map_err(|_| invalid("it is no command"))?;
        Ok(Some(Request { start, stdio }))
    }
}

fn start(request: Request) -> io::Result<Pid> {
    let Request { start, stdio: [stdin, stdout, stderr] } = request;
    let text = |bytes: Vec<u8>| OsString::from_vec(bytes);
    let mut arguments = start.arguments.into_iter().map(text);
    let name = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
    let env: Vec<_> = start.environment.iter().filter_map(|entry| variable(entry)).collect();
    let cwd = PathBuf::from(text(start.working_directory));
    let path = find(&name, &cwd, env_value(&env, "PATH"))?;
    // A session of its own, whose process group the command shares: a first process is immune to signals that it has not
    // asked for (pid_namespaces(7)), so that the group can be told as a whole.
    rustix::process::setsid()?;
    if let Some(terminal) = [&stdin, &stdout, &stderr].into_iter().find(|fd| rustix::termios::isatty(fd)) {
        // So that what is typed there can interrupt the group.
        rustix::process::ioctl_tiocsctty(terminal)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(start.umask & 0o777));
    let program = Program { path: &path, args: arguments.collect(), env, cwd: &cwd };
    let mut command = program.command().into_std();
    let child = command.arg0(&name).stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
    Ok(Pid::from_child(&child))
}

fn variable(entry: &[u8]) -> Option<(OsString, OsString)> {
    let at = memchr::memchr(b'=', entry)?;
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    (at > 0).then(|| (text(&entry[..at]), text(&entry[at + 1..])))
}

/// The file that a command's first word means (execvp(3)).
fn find(name: &OsStr, cwd: &Path, path: Option<&OsStr>) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(cwd.join(name));
    }
    let directories =
        path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")).as_bytes().split(|&byte| byte == b':');
    let files = directories.map(|directory| cwd.join(OsStr::from_bytes(directory)).join(name));
    let is_executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    files.into_iter().find(is_executable).ok_or_else(|| Errno::NOENT.into())
}

/// Waits for every process until the command has ended.
fn reap_until_end_of(command: Pid) -> Report {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => {
                let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
                match (status.exit_status(), status.terminating_signal()) {
                    (Some(status), _) => return Report::Exited(number(status)),
                    (None, Some(signal)) => return Report::Signaled(number(signal)),
                    (None, None) => {}
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            // There is none: it cannot be.
            Err(error) => return Report::Failed(error.raw_os_error()),
        }
    }
}

/// Passes signals on, and looks at what is used. None: nobody wants the command any more.
fn follow(control: &UnixStream, ended: &UnixStream, limits: Usage) -> io::Result<Option<Report>> {
    let mut next_look = Instant::now() + LOOK;
    loop {
        let left = next_look.saturating_duration_since(Instant::now());
        if left.is_zero() {
            next_look = Instant::now() + LOOK;
            let used = Usage::now();
            if used.processes > limits.processes {
                return Ok(Some(Report::TooManyProcesses));
            }
            if used.memory_bytes > limits.memory_bytes {
                return Ok(Some(Report::TooMuchMemory));
            }
            continue;
        }
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut polled = [
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [has_ended, is_told] = polled.map(|fd| !fd.revents().is_empty());
        if has_ended {
            let mut report = [0; REPORT_BYTES];
            (&*ended).read_exact(&mut report)?;
            return Ok(Report::decode(report));
        }
        if is_told {
            let mut signal = [0];
            if (&*control).read(&mut signal)? == 0 {
                return Ok(None);
            }
            if let Some(signal) = Signal::from_named_raw(i32::from(signal[0])) {
                // Nobody may be left in it.
                let _ = rustix::process::kill_current_process_group(signal);
            }
        }
    }
}

impl Usage {
    /// What the processes of this namespace use, but for this one.
    fn now() -> Usage {
        let mut usage = Usage { processes: 0, memory_bytes: 0 };
        let page_bytes = rustix::param::page_size() as u64;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_process = name.as_bytes().iter().all(u8::is_ascii_digit) && name != "1";
            let mut text = String::new();
            let mut statm = || File::open(entry.path().join("statm"))?.read_to_string(&mut text);
            // One that has ended meanwhile uses nothing.
            if !is_process || statm().is_err() {
                continue;
            }
            // proc_pid_statm(5): size, resident, shared, …, in pages.
            let pages: Vec<u64> = text.split(' ').map_while(|word| word.parse().ok()).collect();
            let own = pages
                .get(1)
                .zip(pages.get(2))
                .map_or(0, |(resident, shared)| resident.saturating_sub(*shared));
            usage.processes += 1;
            usage.memory_bytes += own * page_bytes;
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were() {
        let reports = [
            Report::Started,
            Report::Failed(2),
            Report::Exited(255),
            Report::Signaled(15),
            Report::TooManyProcesses,
            Report::TooMuchMemory,
        ];
        for report in reports {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([6, 0, 0, 0, 0]), None);
        assert_eq!(Report::decode([2, 0, 1, 0, 0]), None);
    }

    #[test]
    fn programs_are_found_as_by_execvp() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        file("one/tool", 0o644);
        let tool = file("two/tool", 0o755);
        let found = |name: &str, path: &str| {
            find(name.as_ref(), directory.path(), Some(path.as_ref())).map_err(|error| error.kind())
        };
        assert_eq!(found("tool", "one:two"), Ok(tool.clone()));
        assert_eq!(found("tool", "one"), Err(io::ErrorKind::NotFound));
        assert_eq!(found("two/tool", ""), Ok(tool));
        assert!(find("sh".as_ref(), directory.path(), None).is_ok());
    }
}

//! Becomes, or starts, another program so that it finds what the launcher found: nothing is added to what it
//! inherits, and nothing is taken away.
//! Knows nothing of which program, or why. `std::process::Command` is no help here: it resets signals.

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::ffi::c_char;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::Pid;
use rustix::process::Signal;

use crate::signals;
use crate::signals::Inherited;

/// Exit status of a shell for a command that is not there (POSIX, Shell Command Language, 2.8.2).
pub const NOT_FOUND: u8 = 127;
/// Exit status of a shell for a command that is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;

/// A descriptor number of a started daemon: where it says that it is ready.
pub const READY_FD: RawFd = 3;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// The environment as `execve` takes it: entries that are no `NAME=value`, and repeated ones, included.
#[derive(Debug, Clone)]
pub struct Environment(Vec<CString>);

impl Environment {
    /// That of this process.
    pub fn inherited() -> Environment {
        let mut entries = Vec::new();
        // SAFETY: nothing in this program changes its environment, so `environ` is the null-terminated list of
        // strings that the kernel made at the start.
        unsafe {
            let mut entry = environ;
            while !entry.is_null() && !(*entry).is_null() {
                entries.push(CStr::from_ptr(*entry).to_owned());
                entry = entry.add(1);
            }
        }
        Environment(entries)
    }

    /// One with these entries.
    #[cfg(test)]
    pub(crate) fn of(entries: &[&str]) -> Environment {
        Environment(entries.iter().filter_map(|entry| CString::new(*entry).ok()).collect())
    }

    /// All entries with a name, in order. As in the C library, a `=` at the start belongs to the name.
    pub fn pairs(&self) -> Vec<(OsString, OsString)> {
        let pairs = self.0.iter().filter_map(|entry| pair(entry.as_bytes()));
        pairs.map(|(name, value)| (OsStr::from_bytes(name).into(), OsStr::from_bytes(value).into())).collect()
    }

    /// The first value of `name`, as `getenv` answers.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find_map(|entry| value_of(entry, name)).map(OsStr::from_bytes)
    }

    /// With `name` having this value and no other.
    ///
    /// # Errors
    /// When the value has a NUL.
    pub fn with(mut self, name: &str, value: &OsStr) -> io::Result<Environment> {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        self.remove(name);
        self.0.push(CString::new(entry)?);
        Ok(self)
    }

    /// Without any value of `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|entry| value_of(entry, name).is_none());
    }
}

/// Name and value of an entry.
pub(crate) fn pair(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = 1 + entry.get(1..)?.iter().position(|byte| *byte == b'=')?;
    Some((entry.get(..equals)?, entry.get(equals + 1..)?))
}

fn value_of<'a>(entry: &'a CStr, name: &str) -> Option<&'a [u8]> {
    entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Everything that `execve` needs, made in advance: between `fork` and `exec` no memory is allocated.
#[derive(Debug)]
pub struct Image {
    path: CString,
    argv: Vec<CString>,
    environment: Environment,
}

impl Image {
    /// To execute the file `path` with this `argv`, `argv[0]` included.
    ///
    /// # Errors
    /// When something has a NUL.
    pub fn new(path: &Path, argv: &[OsString], environment: Environment) -> io::Result<Image> {
        let argv = argv.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<_, _>>()?;
        Ok(Image { path: CString::new(path.as_os_str().as_bytes())?, argv, environment })
    }

    /// Becomes the program. Returns only the error. A file without `#!` is given to the shell, as `execvp` does.
    pub fn exec(&self) -> io::Error {
        Pointers::of(self).exec()
    }

    /// Starts the program as a child in our process group or as the `leader` of its own, which ends when this process does.
    /// Where there is a `stdout` or `stderr`, it becomes that descriptor; all else is inherited.
    ///
    /// # Errors
    /// When there can be no further process. What `exec` fails with, the child reports as a shell would.
    pub fn spawn(
        &self,
        stdout: Option<BorrowedFd<'_>>,
        stderr: Option<BorrowedFd<'_>>,
        inherited: Inherited,
        leader: bool,
    ) -> io::Result<Pid> {
        let pointers = Pointers::of(self);
        let parent = rustix::process::getpid();
        if let Some(child) = fork()? {
            if leader {
                // By both, since either may be asked first; one of them comes too late.
                let _ = rustix::process::setpgid(Some(child), Some(child));
            }
            return Ok(child);
        }
        let setup = || -> rustix::io::Result<()> {
            if leader {
                rustix::process::setpgid(None, None)?;
            }
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            if rustix::process::getppid() != Some(parent) {
                exit_now(NOT_EXECUTABLE);
            }
            if let Some(stdout) = stdout {
                rustix::stdio::dup2_stdout(stdout)?;
            }
            if let Some(stderr) = stderr {
                rustix::stdio::dup2_stderr(stderr)?;
            }
            inherited.restore();
            Ok(())
        };
        let error = match setup() {
            Ok(()) => pointers.exec(),
            Err(error) => error.into(),
        };
        // This child has one thread and never returns to Rust's runtime, so allocating is harmless by now.
        exit_now(report_exec_failure(OsStr::from_bytes(self.path.to_bytes()), &error));
    }

    /// Starts the program as a daemon: in its own session, adopted by init, in `/`, with umask 077, every signal
    /// at its default, standard input from /dev/null, output and errors to `log`, `ready` as [`READY_FD`], and no
    /// other descriptor. Returns when it is on its way.
    ///
    /// # Errors
    /// When there can be no further process or descriptor.
    pub fn spawn_daemon(&self, log: &File, ready: BorrowedFd<'_>) -> io::Result<()> {
        // Above the numbers that they are moved to, so that none overwrites another.
        let above = READY_FD + 1;
        let null = File::open("/dev/null")?;
        let null = rustix::io::fcntl_dupfd_cloexec(&null, above)?;
        let log = rustix::io::fcntl_dupfd_cloexec(log, above)?;
        let ready = rustix::io::fcntl_dupfd_cloexec(ready, above)?;
        let moves = [
            (null.as_raw_fd(), 0),
            (log.as_raw_fd(), 1),
            (log.as_raw_fd(), 2),
            (ready.as_raw_fd(), READY_FD),
        ];
        let pointers = Pointers::of(self);
        if let Some(child) = fork()? {
            // It ends at once. Where SIGCHLD is ignored it cannot be waited for, and need not be.
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
            {}
            return Ok(());
        }
        let _ = rustix::process::setsid();
        // The second child is no session leader, and its parent is gone: nobody needs to wait for it.
        match fork() {
            Ok(None) => {}
            _ => exit_now(0),
        }
        signals::reset_all();
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        for (from, to) in moves {
            // SAFETY: plain system calls on numbers; what stood there before belongs to the parent's copy.
            if unsafe { libc::dup2(from, to) } < 0 {
                exit_now(NOT_EXECUTABLE);
            }
        }
        close_from(above);
        if rustix::process::chdir(c"/").is_err() {
            exit_now(NOT_EXECUTABLE);
        }
        let _ = pointers.exec();
        exit_now(NOT_FOUND);
    }
}

/// The arrays of pointers that `execve` takes; they live as long as the image.
struct Pointers<'a> {
    image: &'a Image,
    argv: Vec<*const c_char>,
    /// The same for `/bin/sh path args…`.
    shell_argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

const SHELL: &CStr = c"/bin/sh";

impl Pointers<'_> {
    fn of(image: &Image) -> Pointers<'_> {
        let list = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
        };
        let argv = list(&image.argv);
        let mut shell_argv = vec![SHELL.as_ptr(), image.path.as_ptr()];
        shell_argv.extend(argv.get(1..).unwrap_or(&[ptr::null()]));
        Pointers { image, argv, shell_argv, environment: list(&image.environment.0) }
    }

    fn exec(&self) -> io::Error {
        // SAFETY: all three are null-terminated lists of C strings that `image` owns.
        unsafe { libc::execve(self.image.path.as_ptr(), self.argv.as_ptr(), self.environment.as_ptr()) };
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOEXEC) {
            // SAFETY: as above.
            unsafe { libc::execve(SHELL.as_ptr(), self.shell_argv.as_ptr(), self.environment.as_ptr()) };
        }
        error
    }
}

/// Says on standard error why `program` could not be executed, and returns the exit status for it.
pub fn report_exec_failure(program: &OsStr, error: &io::Error) -> u8 {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let mut message = b"farcc: ".to_vec();
    message.extend_from_slice(program.as_bytes());
    if missing {
        message.extend_from_slice(b": command not found\n");
    } else {
        let error = error.to_string();
        let plain = error.split(" (os error").next().unwrap_or_default();
        message.extend_from_slice(format!(": {plain}\n").as_bytes());
    }
    let _ = write_all(rustix::stdio::stderr(), &message);
    if missing { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// Writes everything, even to a descriptor that somebody made non-blocking.
///
/// # Errors
/// What `write` answers.
pub fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    let to = to.as_fd();
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut ready = [rustix::event::PollFd::from_borrowed_fd(to, rustix::event::PollFlags::OUT)];
                let _ = rustix::event::poll(&mut ready, None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Which of the standard descriptors were open when the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// Descriptors 0, 1 and 2.
    pub is_open: [bool; 3],
}

impl Standard {
    /// Finds out, and puts something in the place of a closed one, so that no file of ours gets its number. It
    /// vanishes at `exec`, and fails when written to, so it is as good as closed.
    pub fn guard() -> Standard {
        let mut is_open = [true; 3];
        for (number, is_open) in is_open.iter_mut().enumerate() {
            let number = c_int_of(number);
            // SAFETY: asks for the flags of a number; nothing is changed.
            *is_open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
            if !*is_open {
                // SAFETY: the path is a C string. The lowest free number is `number`, all below being open.
                unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
            }
        }
        Standard { is_open }
    }
}

fn c_int_of(number: usize) -> libc::c_int {
    libc::c_int::try_from(number).unwrap_or(libc::c_int::MAX)
}

/// Process and user at the other end of a connected Unix socket; the process is 0 where it has no number here.
///
/// # Errors
/// What `getsockopt` answers.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(i32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or_default();
    // SAFETY: `peer` is `len` bytes long, and any bytes are a valid value of it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok((peer.pid, peer.uid)) } else { Err(io::Error::last_os_error()) }
}

/// Ends the process without running anything.
fn exit_now(status: u8) -> ! {
    // SAFETY: `_exit` takes any number.
    unsafe { libc::_exit(libc::c_int::from(status)) }
}

/// The child's number in the parent, none in the child.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: every caller's child makes system calls only, until it executes a program or ends.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Closes all descriptors from `first` on. Safe between `fork` and `exec`.
fn close_from(first: RawFd) {
    // SAFETY: plain system calls on numbers; nothing of this process is used after them but memory.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) == 0 {
            return;
        }
        // Before Linux 5.9. A table of descriptors that is huge is in use only at its start.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        for number in first..RawFd::try_from(limit.min(1 << 16)).unwrap_or(1 << 16) {
            libc::close(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_keep_what_is_odd() {
        let odd = Environment::of(&["A=1", "junk", "A=2", "=x=y", "B="]);
        assert_eq!(odd.get("A"), Some(OsStr::new("1")));
        assert_eq!(odd.get("junk"), None);
        assert_eq!(odd.get("B"), Some(OsStr::new("")));
        let pairs = [("A", "1"), ("A", "2"), ("=x", "y"), ("B", "")];
        assert_eq!(odd.pairs(), pairs.map(|(name, value)| (name.into(), value.into())));
        let changed = odd.with("A", OsStr::new("3")).unwrap();
        assert_eq!(changed.0, Environment::of(&["junk", "=x=y", "B=", "A=3"]).0);
    }

    #[test]
    fn nul_is_no_argument() {
        assert!(Image::new(Path::new("/bin/true"), &["a\0b".into()], Environment::of(&[])).is_err());
    }

    #[test]
    fn exec_failures_have_a_shell_s_status() {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(report_exec_failure(OsStr::new("test message"), &missing), NOT_FOUND);
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(report_exec_failure(OsStr::new("test message"), &denied), NOT_EXECUTABLE);
    }
}

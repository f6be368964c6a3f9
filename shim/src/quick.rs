//! A command that is a hit, before the C library is made ready: that takes several times as long as asking the daemon. Only the
//! plainest of cases is dealt with here, and whatever is unusual is left to [`launch`](crate::launch), which begins as if nothing had
//! been; if the daemon was asked already, it is given the connection, on which nothing was read.
//! Allocates nothing, uses no thread-local storage and no function of the C library: none of that is there yet.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::Access;
use rustix::fs::FileType;
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;
use rustix::net::sockopt::Timeout;

use crate::places::SEND_PATIENCE;
use crate::places::fnv1a;
use crate::process::pair;
use crate::wire::PROTOCOL;
use crate::wire::SILENCE;
use crate::wire::VERSION;

/// The connection on which the daemon was asked; none below 0.
static ASKED: AtomicI32 = AtomicI32::new(-1);

/// What [`answer`] needs for paths and request. Who has more to say is not in a hurry.
pub const ROOM_BYTES: usize = 128 << 10;

/// As long as paths get.
const PATH_BYTES: usize = 4096;

/// The shortest time that a socket can wait; none at all is for ever.
const NO_TIME: Duration = Duration::from_micros(1);

/// `/dev/null` (Linux, Documentation/admin-guide/devices.txt).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// The answer to a command that is done and has said nothing: its length, its kind, the exit status, two empty texts.
const DONE: [u8; 5] = [9, 0, 0, 0, 0x81];
const DONE_BYTES: usize = DONE.len() + 9;

/// What the kernel leaves on the stack of a new process: words, environment, and what else it has to say.
#[derive(Clone, Copy)]
pub struct Start {
    words: &'static [*const u8],
    environment: &'static [*const u8],
    auxiliary: *mut [usize; 2],
}

impl Start {
    /// Reads the stack of a process that has done nothing yet (System V ABI, "Process Initialization").
    ///
    /// # Safety
    /// `stack` is the stack pointer that the kernel gave.
    pub unsafe fn read(stack: *const usize) -> Start {
        // SAFETY: the kernel has laid out count, words, a null, environment, a null, the vector; all of which stay.
        unsafe {
            let count = *stack;
            let words = stack.add(1).cast::<*const u8>();
            let environment = words.add(count + 1);
            let mut entries = 0;
            while !(*environment.add(entries)).is_null() {
                entries += 1;
            }
            Start {
                words: std::slice::from_raw_parts(words, count),
                environment: std::slice::from_raw_parts(environment, entries),
                auxiliary: environment.add(entries + 1).cast_mut().cast(),
            }
        }
    }

    /// The auxiliary vector: kinds and values, the last of which is `AT_NULL`.
    pub fn auxiliary(&self) -> *mut [usize; 2] {
        self.auxiliary
    }
}

/// The connection on which the command was asked for already, and nothing was read.
pub(crate) fn asked() -> Option<UnixStream> {
    let descriptor = ASKED.swap(-1, Ordering::Relaxed);
    // SAFETY: it was left open for whoever takes it out, and nobody else does.
    (descriptor >= 0).then(|| unsafe { UnixStream::from_raw_fd(descriptor) })
}

/// Has the command answered for, if that is plain. None: somebody has to look at it. `room` holds nothing.
pub fn answer(start: Start, room: &mut [u8]) -> Option<u8> {
    let words = plain_command(start)?;
    let standard = standard()?;
    let (place, room) = room.split_at_mut_checked(PATH_BYTES)?;
    let (cwd, room) = room.split_at_mut_checked(PATH_BYTES)?;
    let program = find(text(*words.first()?), start, place)?;
    let cwd = working_directory(cwd)?;
    let mut request = Request { room, length: 0 };
    request.encode(program, words, cwd, start, standard)?;
    let socket = connect(start)?;
    match request.send(&socket).map_or_else(|unsent| unsent, |()| listen(&socket)) {
        Heard::Done(status) => return Some(status),
        // The daemon knows of the command: whoever goes on must not ask again.
        Heard::Else => ASKED.store(socket.as_raw_fd(), Ordering::Relaxed),
        Heard::Silence => {
            // All the patience that there is was had here.
            let _ = sockopt::set_socket_timeout(&*socket, Timeout::Recv, Some(NO_TIME));
            ASKED.store(socket.as_raw_fd(), Ordering::Relaxed);
        }
        // A daemon that was going away has not taken it.
        Heard::Nobody => close(&socket),
    }
    None
}

/// What came of asking.
enum Heard {
    /// The command is done, with this status, and has said nothing.
    Done(u8),
    /// Something else, which was not taken out.
    Else,
    /// Nothing, for as long as a launcher bears.
    Silence,
    /// The connection ended with the request unread.
    Nobody,
}

impl Heard {
    fn of(error: Errno) -> Heard {
        match error {
            Errno::AGAIN => Heard::Silence,
            Errno::CONNRESET | Errno::PIPE => Heard::Nobody,
            _ => Heard::Else,
        }
    }
}

/// A socket that is not closed by the C library's function, which is not ready.
type Socket = ManuallyDrop<OwnedFd>;

/// The bytes of a string of the kernel's.
fn text(string: *const u8) -> &'static [u8] {
    // SAFETY: the kernel's strings end in a zero, and stay.
    unsafe { CStr::from_ptr(string.cast()) }.to_bytes()
}

/// The command behind `farcc`: no option of ours, no launcher, and nobody who wants it otherwise.
fn plain_command(start: Start) -> Option<&'static [*const u8]> {
    let (own, words) = start.words.split_first()?;
    let name = |path: &'static [u8]| path.rsplit(|byte| *byte == b'/').next();
    if name(text(*own)) != Some(b"farcc") {
        return None;
    }
    let first = text(*words.first()?);
    let is_plain = !first.is_empty() && !first.starts_with(b"-") && !name(first)?.starts_with(b"farcc");
    let steers = |name: &str| variable(start, name).is_some_and(|value| !value.is_empty());
    let is_steered = [crate::launch::ACTIVE, "FARCC_DISABLE", "FARCC_SOCKET"].into_iter().any(steers);
    (is_plain && !is_steered).then_some(words)
}

fn variable(start: Start, name: &str) -> Option<&'static [u8]> {
    let value = |entry: &*const u8| text(*entry).strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    start.environment.iter().find_map(value)
}

/// What is known of descriptors 0 to 2, if all of them are open.
#[derive(Clone, Copy)]
struct Standard {
    are_terminals: [bool; 3],
    stdin_is_null: bool,
}

fn standard() -> Option<Standard> {
    let descriptors = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut standard = Standard { are_terminals: [false; 3], stdin_is_null: false };
    for ((number, descriptor), is_terminal) in
        descriptors.into_iter().enumerate().zip(&mut standard.are_terminals)
    {
        let stat = rustix::fs::fstat(descriptor).ok()?;
        if FileType::from_raw_mode(stat.st_mode).is_char_device() {
            let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            if device == NULL_DEVICE {
                standard.stdin_is_null |= number == 0;
            } else {
                *is_terminal = rustix::termios::isatty(descriptor);
            }
        }
    }
    Some(standard)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// A path for the kernel.
fn path<'a>(room: &'a mut [u8], parts: &[&[u8]]) -> Option<&'a CStr> {
    let mut length = 0;
    for part in parts {
        room.get_mut(length..)?.get_mut(..part.len())?.copy_from_slice(part);
        length += part.len();
    }
    *room.get_mut(length)? = 0;
    CStr::from_bytes_with_nul(room.get(..=length)?).ok()
}

/// The program that `name` means, by its absolute path, as [`Search`](crate::search::Search) finds it where no launcher is
/// in the way.
fn find<'a>(name: &[u8], start: Start, room: &'a mut [u8]) -> Option<&'a [u8]> {
    let own = identity(&rustix::fs::stat(c"/proc/self/exe").ok()?);
    if name.contains(&b'/') {
        let program = path(room, &[name])?;
        let is_plain = name.starts_with(b"/") && identity(&rustix::fs::stat(program).ok()?) != own;
        return is_plain.then(|| program.to_bytes());
    }
    let mut found = None;
    for directory in variable(start, "PATH")?.split(|byte| *byte == b':') {
        let separator: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
        let Ok(stat) = rustix::fs::stat(path(room, &[directory, separator, name])?) else { continue };
        if !directory.starts_with(b"/") || identity(&stat) == own {
            return None;
        }
        if FileType::from_raw_mode(stat.st_mode).is_file()
            && rustix::fs::access(path(room, &[directory, separator, name])?, Access::EXEC_OK).is_ok()
        {
            found = Some((directory, separator));
            break;
        }
    }
    let (directory, separator) = found?;
    path(room, &[directory, separator, name]).map(CStr::to_bytes)
}

/// The working directory, if it has a path.
fn working_directory(room: &mut [u8]) -> Option<&[u8]> {
    let length = getcwd(room)?;
    let cwd = room.get(..length)?.strip_suffix(b"\0")?;
    cwd.starts_with(b"/").then_some(cwd)
}

/// `getcwd(2)`: how many bytes it has written, the zero included.
fn getcwd(room: &mut [u8]) -> Option<usize> {
    const NUMBER: usize = 79;
    // SAFETY: the kernel writes into the room, and no further.
    unsafe { call(NUMBER, [room.as_mut_ptr() as usize, room.len(), 0, 0, 0]) }
}

/// The user at the other end, whose process may have no number here (unix(7), `SO_PEERCRED`).
fn peer(socket: &Socket) -> Option<u32> {
    const NUMBER: usize = 55;
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: 0 };
    let mut length = size_of::<libc::ucred>();
    let (level, option) = (usize::try_from(libc::SOL_SOCKET).ok()?, usize::try_from(libc::SO_PEERCRED).ok()?);
    let descriptor = usize::try_from(socket.as_raw_fd()).ok()?;
    let places = [(&raw mut peer) as usize, (&raw mut length) as usize];
    // SAFETY: the kernel writes a `ucred`, and its length into the first half of the number.
    unsafe { call(NUMBER, [descriptor, level, option, places[0], places[1]]) }.map(|_| peer.uid)
}

/// Asks the kernel. The C library's functions have a place for errors which is not there yet.
///
/// # Safety
/// That of the system call.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 5]) -> Option<usize> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: the caller vouches for the call; the instruction changes two registers besides.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    usize::try_from(result).ok()
}

/// Elsewhere nothing comes here before the C library is there.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn call(_number: usize, _arguments: [usize; 5]) -> Option<usize> {
    None
}

/// The frame of a request.
struct Request<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl Request<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.room.get_mut(self.length..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }

    fn number(&mut self, number: usize) -> Option<()> {
        self.put(&u32::try_from(number).ok()?.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.number(bytes.len())?;
        self.put(bytes)
    }

    /// As [`RunRequest`](crate::wire::RunRequest) is encoded.
    fn encode(
        &mut self,
        program: &[u8],
        words: &[*const u8],
        cwd: &[u8],
        start: Start,
        standard: Standard,
    ) -> Option<()> {
        self.put(&[0, 0, 0, 0, crate::wire::RUN])?;
        self.put(&PROTOCOL.to_le_bytes())?;
        self.bytes(VERSION.as_bytes())?;
        self.bytes(program)?;
        self.number(words.len())?;
        for word in words {
            self.bytes(text(*word))?;
        }
        self.bytes(cwd)?;
        let pairs = || start.environment.iter().filter_map(|entry| pair(text(*entry)));
        self.number(pairs().count())?;
        for (name, value) in pairs() {
            self.bytes(name)?;
            self.bytes(value)?;
        }
        self.put(&crate::launch::umask().to_le_bytes())?;
        let [stdin, stdout, stderr] = standard.are_terminals;
        let is_fed = !stdin && !standard.stdin_is_null;
        self.put(&[stdin, is_fed, stdout, stderr].map(u8::from))?;
        let payload = u32::try_from(self.length.checked_sub(crate::wire::HEADER_BYTES)?).ok()?;
        self.room.get_mut(..4)?.copy_from_slice(&payload.to_le_bytes());
        Some(())
    }

    fn send(&self, socket: &Socket) -> Result<(), Heard> {
        let mut rest = self.room.get(..self.length).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::net::send(&**socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Heard::of(error)),
            }
        }
        Ok(())
    }
}

/// Text of which little is known in advance.
struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.length..).and_then(|rest| rest.get_mut(..text.len()));
        room.ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// A connection to the daemon that [`Places`](crate::places::Places) leads to, if one is there and nothing is wrong with it.
fn connect(start: Start) -> Option<Socket> {
    let uid = rustix::process::geteuid().as_raw();
    let mut temporary = Line { bytes: [0; 128], length: 0 };
    let (directory, below): (&[u8], &[u8]) =
        match (variable(start, "FARCC_DIR"), runtime_directory(start, uid)) {
            (Some(directory), _) if !directory.is_empty() => (directory, b"/run/"),
            (_, Some(directory)) => (directory, b"/farcc/"),
            (_, None) => {
                rustix::fs::access(c"/tmp", Access::WRITE_OK | Access::EXEC_OK).ok()?;
                write!(temporary, "/tmp/farcc-{uid}").ok()?;
                (temporary.bytes.get(..temporary.length)?, b"/")
            }
        };
    let mut name = Line { bytes: [0; 128], length: 0 };
    let namespace = rustix::fs::stat(c"/proc/self/ns/mnt").map_or(0, |found| found.st_ino);
    let (device, inode) = rustix::fs::stat(c"/").map_or((0, 0), |root| identity(&root));
    let machine = fnv1a(rustix::system::uname().nodename().to_bytes());
    write!(name, "{machine:016x}-{uid}-{namespace:x}-{device:x}-{inode:x}").ok()?;
    let name = name.bytes.get(..name.length)?;
    let mut room = [0; 256];
    // Whoever is stuck has left a note, of which only `launch` knows how old it may be.
    let is_absolute = directory.starts_with(b"/");
    let stuck = path(&mut room, &[directory, below, name, b".stuck"])?;
    if !is_absolute || rustix::fs::stat(stuck).err() != Some(Errno::NOENT) {
        return None;
    }
    let address = SocketAddrUnix::new(path(&mut room, &[directory, below, name, b".sock"])?).ok()?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = ManuallyDrop::new(socket.ok()?);
    let reach = || -> Option<bool> {
        sockopt::set_socket_timeout(&*socket, Timeout::Send, Some(SEND_PATIENCE)).ok()?;
        sockopt::set_socket_timeout(&*socket, Timeout::Recv, Some(SILENCE)).ok()?;
        rustix::net::connect(&*socket, &address).ok()?;
        Some(peer(&socket)? == uid)
    };
    if reach() == Some(true) {
        return Some(socket);
    }
    close(&socket);
    None
}

/// `XDG_RUNTIME_DIR`, if that will do.
fn runtime_directory(start: Start, uid: u32) -> Option<&'static [u8]> {
    let directory = variable(start, "XDG_RUNTIME_DIR").filter(|directory| directory.starts_with(b"/"))?;
    let mut room = [0; 256];
    let named = path(&mut room, &[directory])?;
    let stat = rustix::fs::stat(named).ok()?;
    let is_ours = FileType::from_raw_mode(stat.st_mode).is_dir() && stat.st_uid == uid;
    let is_writable = || rustix::fs::access(named, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    (is_ours && is_writable()).then_some(directory)
}

/// Waits for an answer.
fn listen(socket: &Socket) -> Heard {
    let mut answer = [0; DONE_BYTES + 1];
    loop {
        match rustix::net::recv(&**socket, &mut answer, RecvFlags::PEEK) {
            Ok((read, _)) => return status(answer.get(..read)).map_or(Heard::Else, Heard::Done),
            Err(Errno::INTR) => {}
            Err(error) => return Heard::of(error),
        }
    }
}

/// The exit status of a command that is done and has said nothing.
fn status(answer: Option<&[u8]>) -> Option<u8> {
    let (header, payload) = answer?.split_first_chunk::<{ DONE.len() }>()?;
    let (status, texts) = payload.split_first()?;
    (*header == DONE && texts == [0; 8]).then_some(*status)
}

fn close(socket: &Socket) {
    // SAFETY: it is used no more.
    unsafe { rustix::io::close(socket.as_raw_fd()) };
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::process::Environment;
    use crate::wire::RunRequest;

    /// A process that was started so; for as long as the tests run.
    fn start(words: &[&str], environment: &[&str]) -> Start {
        let strings = |texts: &[&str]| -> &'static [*const u8] {
            let strings =
                texts.iter().map(|text| CString::new(*text).unwrap().into_raw().cast_const().cast());
            strings.collect::<Vec<_>>().leak()
        };
        Start { words: strings(words), environment: strings(environment), auxiliary: std::ptr::null_mut() }
    }

    #[test]
    fn what_is_asked_is_what_would_be_asked_otherwise() {
        let environment = ["A=1", "no equals", "=C:=x", "EMPTY=", "A=2", "TWO=a=b"];
        let start = start(&["farcc", "gcc", "-c", "", "a b.c"], &environment);
        let standard = Standard { are_terminals: [false, true, false], stdin_is_null: true };
        let mut room = vec![0xff; 1000];
        let mut request = Request { room: &mut room, length: 0 };
        request.encode(b"/usr/bin/gcc", &start.words[1..], b"/w", start, standard).unwrap();
        let word = |text: &[u8]| OsString::from_vec(text.to_vec());
        let otherwise = RunRequest {
            version: VERSION.into(),
            program: "/usr/bin/gcc".into(),
            argv: [&b"gcc"[..], b"-c", b"", b"a b.c"].map(word).to_vec(),
            cwd: "/w".into(),
            env: Environment::of(&environment).pairs(),
            umask: crate::launch::umask(),
            stdin_is_terminal: false,
            stdin_is_fed: false,
            stdout_is_terminal: true,
            stderr_is_terminal: false,
        };
        let otherwise = crate::wire::Request::Run(otherwise).encode().unwrap();
        assert_eq!(&request.room[..request.length], otherwise);
        // What does not fit is left to others.
        for length in 0..otherwise.len() {
            let mut request = Request { room: &mut vec![0; length], length: 0 };
            let encoded = request.encode(b"/usr/bin/gcc", &start.words[1..], b"/w", start, standard);
            assert_eq!(encoded, None, "{length}");
        }
    }

    #[test]
    fn only_what_is_done_in_silence_is_an_answer() {
        use crate::wire::Reply;
        let read = |reply: Reply| status(Some(&reply.encode().unwrap()));
        let completed = |stdout: &[u8], stderr: &[u8]| Reply::Completed {
            exit_code: 7,
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
        };
        assert_eq!(read(completed(b"", b"")), Some(7));
        for other in [
            completed(b"x", b""),
            completed(b"", b"x"),
            Reply::Working,
            Reply::PassThrough { reason: "x".into(), slot: false },
            Reply::Ended(crate::wire::Ended::Exited(0)),
        ] {
            assert_eq!(read(other.clone()), None, "{other:?}");
        }
        let whole = completed(b"", b"").encode().unwrap();
        for length in 0..whole.len() {
            assert_eq!(status(whole.get(..length)), None);
        }
        assert_eq!(status(Some(&[&whole[..], b"x"].concat())), None);
    }

    #[test]
    fn only_plain_commands_are_dealt_with() {
        let is_plain =
            |words: &[&str], environment: &[&str]| plain_command(start(words, environment)).is_some();
        assert!(is_plain(&["farcc", "gcc"], &["PATH=/bin", "FARCC_DISABLE=", "FARCC_ACTIVE="]));
        assert!(is_plain(&["/opt/bin/farcc", "./tool"], &[]));
        for words in [
            &["farcc"][..],
            &[],
            &["gcc", "-c"],
            &["farcc-gcc", "x"],
            &["farcc", ""],
            &["farcc", "--help"],
            &["farcc", "farcc", "gcc"],
            &["farcc", "/x/farcc-1", "gcc"],
        ] {
            assert!(!is_plain(words, &[]), "{words:?}");
        }
        for variable in ["FARCC_ACTIVE=1", "FARCC_DISABLE=0", "FARCC_SOCKET=x"] {
            assert!(!is_plain(&["farcc", "gcc"], &[variable]), "{variable}");
        }
    }

    #[test]
    fn programs_are_found_as_they_are_otherwise() {
        let mut room = [0; PATH_BYTES];
        let mut found = |name: &str, path: &str| {
            let start = start(&[], &[&format!("PATH={path}")]);
            find(name.as_bytes(), start, &mut room).map(|found| String::from_utf8(found.to_vec()).unwrap())
        };
        assert_eq!(found("sh", "/nowhere:/bin/:/usr/bin").as_deref(), Some("/bin/sh"));
        assert_eq!(found("/bin/sh", "").as_deref(), Some("/bin/sh"));
        // Relative ones, directories, and what is nowhere.
        for (name, path) in
            [("./sh", "/bin"), ("sh", "bin:/bin"), ("bin", "/"), ("sh", "/nowhere"), ("/none", "/bin")]
        {
            let expected = (path == "bin:/bin").then(|| "/bin/sh".to_owned());
            assert_eq!(found(name, path), expected, "{name} {path}");
        }
        let directory = working_directory(&mut room).unwrap().to_vec();
        assert_eq!(directory, std::env::current_dir().unwrap().into_os_string().into_vec());
    }
}

//! Signals of a single-threaded launcher: what it changes for the time of a child, and how it gives it back.
//! Knows nothing of which child, or why it runs.
//!
//! The launcher starts without Rust's runtime, so nothing has touched the dispositions and the mask that it was
//! given: a program that it becomes by `exec` gets exactly those.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use libc::c_int;

/// What somebody sends to make a command end: passed on to the child. Those that whoever started the launcher lets it ignore
/// (`nohup`) end nothing.
const FORWARDED: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// What tells of the terminal. Nobody is ended by them.
const OF_TERMINAL: [c_int; 2] = [libc::SIGWINCH, libc::SIGCONT];

/// The state of a process's signals that a child must find as the launcher did.
#[derive(Clone, Copy)]
pub struct Inherited {
    mask: libc::sigset_t,
    on_pipe: libc::sigaction,
    on_child: libc::sigaction,
}

impl Inherited {
    /// Gives the state to the calling process. Safe between `fork` and `exec`.
    pub fn restore(&self) {
        // SAFETY: the three values came from the kernel by the same calls; these are async-signal-safe.
        unsafe {
            libc::sigaction(libc::SIGPIPE, &self.on_pipe, ptr::null_mut());
            libc::sigaction(libc::SIGCHLD, &self.on_child, ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut());
        }
    }
}

/// A signal that arrived while a child ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// A child changed its state.
    Child,
    /// Somebody wants the command to end, by this signal.
    End {
        /// Number of the signal.
        signal: i32,
        /// Whether the kernel sent it to the whole foreground process group (Ctrl-C), so that the child has it
        /// already.
        reached_group: bool,
    },
    /// The terminal may have another size, or other modes: it was resized, or the launcher was stopped for a while.
    Terminal,
}

/// While this lives, signals that would end the launcher are read from a descriptor, SIGPIPE is an error of
/// `write`, and children can be waited for. Dropping it restores the former state.
pub struct Guard {
    inherited: Inherited,
    queue: OwnedFd,
    hands_back: bool,
}

impl Guard {
    /// Begins.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<Guard> {
        Guard::with(&[])
    }

    /// Begins for whoever shows another machine's terminal.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn of_terminal() -> io::Result<Guard> {
        Guard::with(&OF_TERMINAL)
    }

    fn with(more: &[c_int]) -> io::Result<Guard> {
        let mut blocked = empty_set();
        // SAFETY: `blocked` is an initialised set, and the numbers are signals.
        unsafe {
            libc::sigaddset(&mut blocked, libc::SIGCHLD);
            for signal in FORWARDED.iter().filter(|signal| !is_ignored(**signal)).chain(more) {
                libc::sigaddset(&mut blocked, *signal);
            }
        }
        // SAFETY: the set is initialised; the flags are the documented ones; -1 asks for a new descriptor.
        let queue = unsafe { libc::signalfd(-1, &blocked, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor, and nobody else knows it.
        let queue = unsafe { OwnedFd::from_raw_fd(queue) };
        let mut mask = empty_set();
        // SAFETY: both sets are initialised.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &blocked, &mut mask) };
        let inherited = Inherited {
            mask,
            on_pipe: set_disposition(libc::SIGPIPE, libc::SIG_IGN),
            // An ignored SIGCHLD is inherited too, and would lose the child's status (wait(2)).
            on_child: set_disposition(libc::SIGCHLD, libc::SIG_DFL),
        };
        Ok(Guard { inherited, queue, hands_back: false })
    }

    /// What a child must restore before `exec`.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Readable when [`next`](Guard::next) has something.
    pub fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Ends like a drop, but what arrives for the launcher from now on, and what was not read yet, has its effect on it: the
    /// child that it would have gone to is gone, and is not what counts.
    pub fn hand_back(mut self) {
        self.hands_back = true;
    }

    /// The next signal that has arrived, if any.
    pub fn next(&self) -> Option<Arrival> {
        let mut siginfo = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is `len` bytes long; a signalfd writes whole structures.
        let read = unsafe { libc::read(self.queue.as_raw_fd(), siginfo.as_mut_ptr().cast(), len) };
        if usize::try_from(read) != Ok(len) {
            return None;
        }
        // SAFETY: all of it was written.
        let siginfo = unsafe { siginfo.assume_init() };
        let signal = c_int::try_from(siginfo.ssi_signo).unwrap_or_default();
        Some(match signal {
            libc::SIGCHLD => Arrival::Child,
            signal if OF_TERMINAL.contains(&signal) => Arrival::Terminal,
            signal => Arrival::End { signal, reached_group: siginfo.ssi_code == libc::SI_KERNEL },
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What has been passed on to the child must not end the launcher now.
        while !self.hands_back && self.next().is_some() {}
        self.inherited.restore();
    }
}

/// Ends this process by `signal`, as its child was; returns if the signal does not end a process. Leaves no core:
/// that of the child is the one of interest.
pub fn die_by(signal: u8) {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let signal = c_int::from(signal);
    set_disposition(signal, libc::SIG_DFL);
    let mut set = empty_set();
    // SAFETY: the set is initialised; an invalid number is refused by the kernel, and nothing happens.
    unsafe {
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::raise(signal);
    }
}

/// Every signal at its default, none blocked: what a daemon starts with. Safe between `fork` and `exec`.
pub fn reset_all() {
    for signal in 1..=64 {
        set_disposition(signal, libc::SIG_DFL);
    }
    // SAFETY: the set is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &empty_set(), ptr::null_mut()) };
}

/// While this lives, blocking calls of this thread fail with EINTR at a regular interval.
///
/// A timer of its own and not `alarm`: a pending alarm survives `exec`, and belongs to whoever set it before the
/// launcher started (`perl -e 'alarm 60; exec @ARGV'`).
pub struct Ticks {
    timer: libc::timer_t,
    mask: libc::sigset_t,
}

/// How many threads are interrupted, and what the signal did before: the last one to end puts that back, for what is
/// still to come to another would end the process.
static TICKING: Mutex<(usize, Option<libc::sigaction>)> = Mutex::new((0, None));

/// Unused by Linux itself on the supported architectures.
const TICK: c_int = libc::SIGSTKFLT;

extern "C" fn ignore_tick(_: c_int) {}

impl Ticks {
    /// Begins; the first one comes after `interval`.
    ///
    /// # Errors
    /// When the kernel has no timer left.
    pub fn every(interval: Duration) -> io::Result<Ticks> {
        // SAFETY: an all-zero sigevent is a valid value of a C structure of integers and pointers.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = TICK;
        // SAFETY: a system call without arguments; its result is the number of this thread.
        let this_thread = unsafe { libc::syscall(libc::SYS_gettid) };
        event.sigev_notify_thread_id = c_int::try_from(this_thread).unwrap_or_default();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to live values of the right type.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let handler: extern "C" fn(c_int) = ignore_tick;
        let mut ticking = TICKING.lock().unwrap_or_else(PoisonError::into_inner);
        ticking.0 += 1;
        // No SA_RESTART: the point is to interrupt.
        let former = set_disposition(TICK, handler as libc::sighandler_t);
        ticking.1.get_or_insert(former);
        drop(ticking);
        let (mut set, mut mask) = (empty_set(), empty_set());
        let interval = libc::timespec {
            tv_sec: libc::time_t::try_from(interval.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(interval.subsec_nanos()),
        };
        let times = libc::itimerspec { it_interval: interval, it_value: interval };
        // SAFETY: the sets are initialised, the timer exists, and `times` lives.
        unsafe {
            libc::sigaddset(&mut set, TICK);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, &mut mask);
            libc::timer_settime(timer, 0, &times, ptr::null_mut());
        }
        Ok(Ticks { timer, mask })
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        // SAFETY: the timer exists until here; the other values came from the kernel by the same calls.
        unsafe {
            libc::timer_delete(self.timer);
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut());
        }
        let mut ticking = TICKING.lock().unwrap_or_else(PoisonError::into_inner);
        ticking.0 -= 1;
        if ticking.0 == 0
            && let Some(former) = ticking.1.take()
        {
            // SAFETY: the structure came from the kernel by the same call.
            unsafe { libc::sigaction(TICK, &former, ptr::null_mut()) };
        }
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that it is given.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Sets a disposition without flags, and returns the former one.
fn set_disposition(signal: c_int, handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: an all-zero sigaction is valid: SIG_DFL, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut former = action;
    action.sa_sigaction = handler;
    // SAFETY: both structures live; a number that is no signal, or cannot be caught, changes nothing.
    unsafe { libc::sigaction(signal, &action, &mut former) };
    former
}

/// Whether nothing happens when `signal` arrives.
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: an all-zero sigaction is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it lives, and nothing is set.
    unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_no_arrival() {
        for (handler, expected) in [(libc::SIG_IGN, None), (libc::SIG_DFL, Some(libc::SIGHUP))] {
            let former = set_disposition(libc::SIGHUP, handler);
            let guard = Guard::new().unwrap();
            // SAFETY: it comes to this thread, for which it is ignored, or blocked by the guard.
            unsafe { libc::raise(libc::SIGHUP) };
            let arrived = std::iter::from_fn(|| guard.next()).find_map(|arrival| match arrival {
                Arrival::End { signal, .. } => Some(signal),
                Arrival::Child | Arrival::Terminal => None,
            });
            drop(guard);
            set_disposition(libc::SIGHUP, former.sa_sigaction);
            assert_eq!(arrived, expected);
        }
    }
}

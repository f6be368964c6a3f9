//! What is known of programs by their names: which belong to this machine, which are trifles, which start others.
//! Knows nothing of files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use farcc::recipe::TRIFLES;

/// What a command does, as far as it decides where it may run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Habits<'a> {
    /// Nothing is known of it.
    Unknown,
    /// It does little, and does that here sooner than elsewhere.
    Trifle,
    /// It needs this machine; why.
    Bound(&'static str),
    /// It opens connections.
    Connects,
    /// It starts tests.
    Tests,
    /// It starts the command that begins with this word of its line, the program being word 0.
    Starts(usize),
    /// It is a shell that runs this text.
    Shell(&'a [u8]),
}

/// Programs, and why they stay.
const BOUND: &[(&[&str], &str)] = &[
    (
        &[
            "make",
            "gmake",
            "bmake",
            "ninja",
            "ninja-build",
            "samu",
            "n2",
            "scons",
            "waf",
            "meson",
            "xcodebuild",
            "bazel",
        ],
        "starts commands that go their own ways",
    ),
    (
        &[
            "cargo", "rustup", "go", "npm", "npx", "yarn", "pnpm", "mvn", "gradle", "gradlew", "dotnet",
            "conan", "vcpkg",
        ],
        "keeps packages in the user's home",
    ),
    (&["pip", "pip3", "gem", "bundle", "composer", "rpmbuild", "mock"], "keeps packages in the user's home"),
    (
        &[
            "apt", "apt-get", "dpkg", "yum", "dnf", "rpm", "zypper", "pacman", "apk", "brew", "conda",
            "mamba", "nix", "guix", "snap", "flatpak",
        ],
        "installs for this machine",
    ),
    (
        &["sudo", "su", "doas", "pkexec", "runuser", "fakeroot", "chroot", "unshare", "nsenter", "bwrap"],
        "changes who or where it is",
    ),
    (&["ssh", "scp", "sftp", "rsync", "ssh-keygen", "ssh-add"], "knows the user's hosts and keys"),
    (&["gpg", "gpg2", "gpgv", "signtool", "codesign", "pass", "secret-tool"], "has the user's keys"),
    (
        &["aws", "gcloud", "gsutil", "az", "gh", "glab", "kubectl", "helm", "vault"],
        "has the user's credentials",
    ),
    (
        &["docker", "podman", "buildah", "skopeo", "nerdctl", "docker-compose", "vagrant", "virsh"],
        "talks to a daemon of this machine",
    ),
    (
        &["systemctl", "service", "journalctl", "loginctl", "dbus-send", "busctl", "gdbus", "gsettings"],
        "talks to services of this machine",
    ),
    (
        &[
            "mount", "umount", "losetup", "modprobe", "insmod", "rmmod", "sysctl", "ip", "iptables",
            "ldconfig", "fuser", "lsof",
        ],
        "is about this machine's kernel",
    ),
    (
        &["git", "hg", "svn", "bzr", "fossil", "cvs", "p4", "repo", "jj"],
        "has the repository and the user's credentials",
    ),
    (&["gdb", "lldb", "strace", "ltrace", "perf", "rr", "bpftrace"], "looks into other processes"),
    (&["kill", "pkill", "killall", "ps", "pgrep", "top"], "is about processes of this machine"),
    (
        &["nohup", "setsid", "daemonize", "start-stop-daemon", "screen", "tmux", "at", "batch"],
        "leaves processes behind",
    ),
    // Commands on the twin do not see each other's locks.
    (&["flock", "lockfile"], "holds a lock that commands here wait for"),
    (
        &["xdg-open", "open", "notify-send", "zenity", "vi", "vim", "nano", "emacs", "less", "more", "man"],
        "talks to who sits here",
    ),
    (
        &[
            "configure",
            "config.status",
            "config.guess",
            "autoconf",
            "autoreconf",
            "automake",
            "aclocal",
            "libtoolize",
        ],
        "finds out about this machine",
    ),
    (
        &["libtool", "depcomp", "ccmake", "cmake-gui", "cpack", "farccd"],
        "starts commands that go their own ways",
    ),
];

/// Programs that open connections.
const CONNECTS: &[&str] = &["curl", "wget", "aria2c", "ftp", "nc", "ncat", "telnet", "ping"];

/// Programs that start another: the words before it are options, assignments and numbers.
const STARTERS: &[&str] = &[
    "env",
    "nice",
    "ionice",
    "chrt",
    "taskset",
    "time",
    "timeout",
    "stdbuf",
    "xargs",
    "command",
    "exec",
    "builtin",
    "catchsegv",
    "unbuffer",
    "xvfb-run",
    "valgrind",
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox"];

/// Programs that run a text that they are given.
const INTERPRETERS: &[&str] = &[
    "python", "perl", "ruby", "node", "nodejs", "tclsh", "lua", "php", "Rscript", "julia", "guile", "cmake",
    "m4", "awk", "gawk", "mawk",
];

/// Builtins of shells that do nothing that leaves the shell.
const BUILTINS: &[&str] = &[
    "", "cd", ":", ".", "set", "export", "unset", "readonly", "local", "shift", "return", "break",
    "continue", "exit", "read", "wait", "umask", "true", "false", "type", "hash", "getopts", "let",
    "declare", "typeset", "shopt", "[[",
];

/// Modes of `cmake -E` that do more than a trifle.
const CMAKE_TOOLS: &[&str] = &["tar", "cmake_autogen", "cmake_autorcc"];

/// Scripts of CMake's own, by what their names begin or end with.
const CMAKE_SCRIPTS: &[&str] =
    &["cmake_install.cmake", "cmake_clean.cmake", "cmake_clean_target.cmake", "VerifyGlobs.cmake"];

/// Words by which a text tells that it wants what is only here.
const HISTORY: &[&str] =
    &["git", "hg", "svn", "GIT_EXECUTABLE", "docker", "podman", "sudo", "ssh", "scp", "rsync"];
const DOWNLOADS: &[&str] = &["curl", "wget", "DOWNLOAD", "urlopen", "urlretrieve"];

/// What is known of the program with this base name and these arguments.
pub(super) fn habits<'a>(name: &str, arguments: &'a [Vec<u8>]) -> Habits<'a> {
    let name = without_version(name);
    let is_one_of = |names: &[&str]| names.contains(&name);
    if let Some((_, why)) = BOUND.iter().find(|(names, _)| is_one_of(names)) {
        return Habits::Bound(why);
    }
    if is_one_of(CONNECTS) {
        return Habits::Connects;
    }
    if is_one_of(STARTERS) {
        return Habits::Starts(started(arguments));
    }
    if is_one_of(SHELLS)
        && let Some(text) = shell_text(arguments)
    {
        return Habits::Shell(text);
    }
    // `python3 -m pip`
    let module = arguments.iter().position(|word| word == b"-m").and_then(|at| arguments.get(at + 1));
    let is_module = |names: &[&str]| {
        name == "python" && names.iter().any(|known| module.is_some_and(|module| module == known.as_bytes()))
    };
    if let Some((_, why)) = BOUND.iter().find(|(names, _)| is_module(names)) {
        return Habits::Bound(why);
    }
    match name {
        "cmake" => cmake(arguments),
        "ctest" => ctest(arguments),
        _ => Habits::Unknown,
    }
}

/// What a builtin of shells does; none: it is no builtin.
pub(super) fn builtin(name: &[u8]) -> Option<Habits<'static>> {
    match name {
        b"eval" | b"source" | b"trap" | b"alias" => Some(Habits::Bound("makes commands while it runs")),
        // Without arguments to look at: it may be any file.
        b"." => Some(Habits::Bound("reads commands from a file")),
        _ => BUILTINS.iter().any(|builtin| builtin.as_bytes() == name).then_some(Habits::Trifle),
    }
}

/// Whether a shell starts others by this word without a program of that name.
pub(super) fn is_builtin_starter(word: &[u8]) -> bool {
    matches!(word, b"command" | b"exec" | b"builtin" | b"time")
}

/// Whether the program with this base name runs a text that it is given.
pub(super) fn is_interpreter(name: &str) -> bool {
    let name = without_version(name);
    INTERPRETERS.contains(&name) || SHELLS.contains(&name)
}

/// The first word in a script by which it tells that it wants what is only here.
pub(super) fn named_in(text: &[u8], may_connect: bool) -> Option<&'static str> {
    let downloads = if may_connect { &[] } else { DOWNLOADS };
    HISTORY.iter().chain(downloads).find(|word| has_word(text, word.as_bytes())).copied()
}

fn has_word(text: &[u8], word: &[u8]) -> bool {
    // `git` is none in `.gitignore`, `GIT_EXECUTABLE` is one in `${GIT_EXECUTABLE}`.
    let goes_on = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    memchr::memmem::find_iter(text, word).any(|at| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        !goes_on(before) && !goes_on(text.get(at + word.len()))
    })
}

/// `python3.11` and `gmake-4` are known without their versions.
fn without_version(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let stem = stem.strip_suffix('-').unwrap_or(stem);
    // Names that are known with their numbers, and a name that is nothing but dots.
    let mut lists = BOUND.iter().map(|(names, _)| *names).chain([TRIFLES, INTERPRETERS]);
    if lists.any(|names| names.contains(&name)) || stem.is_empty() { name } else { stem }
}

/// Where the started command begins behind options, assignments and numbers; 0: nowhere.
fn started(arguments: &[Vec<u8>]) -> usize {
    let is_own = |word: &Vec<u8>| {
        word.starts_with(b"-") || word.contains(&b'=') || word.first().is_some_and(u8::is_ascii_digit)
    };
    arguments.iter().position(|word| !is_own(word)).map_or(0, |at| at + 1)
}

/// The text behind `-c`, which may stand in one word with other letters.
fn shell_text(arguments: &[Vec<u8>]) -> Option<&[u8]> {
    let is_option = |word: &&Vec<u8>| word.starts_with(b"-") && !word.starts_with(b"--");
    let options = arguments.iter().take_while(is_option).count();
    let takes_text = arguments.iter().take(options).any(|word| word.contains(&b'c'));
    arguments.get(options).filter(|_| takes_text).map(Vec::as_slice)
}

fn cmake(arguments: &[Vec<u8>]) -> Habits<'_> {
    const OTHERWISE: &str = "starts commands that go their own ways";
    let is = |word: &Vec<u8>, text: &str| word == text.as_bytes();
    if arguments.first().is_some_and(|word| is(word, "-E")) {
        let tool = arguments.get(1).map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
        let started = |skipped: usize| match started(arguments.get(skipped..).unwrap_or_default()) {
            0 => 0,
            at => skipped + at,
        };
        return match tool.as_ref() {
            "env" | "time" => Habits::Starts(started(2)),
            "chdir" => Habits::Starts(started(3)),
            // It starts the linker, and the compiler with what checks its sources.
            "cmake_link_script" | "__run_co_compile" => Habits::Bound(OTHERWISE),
            tool if CMAKE_TOOLS.contains(&tool) => Habits::Unknown,
            _ => Habits::Trifle,
        };
    }
    let Some(at) = arguments.iter().position(|word| is(word, "-P")) else { return Habits::Bound(OTHERWISE) };
    let script = arguments.get(at + 1).map_or(b"".as_slice(), Vec::as_slice);
    let script = Path::new(OsStr::from_bytes(script));
    let name = script.file_name().unwrap_or_default().to_string_lossy();
    // ExternalProject keeps the scripts of its steps in directories of these names.
    let is_step = script.parent().is_some_and(|directory| {
        let directory = directory.file_name().unwrap_or_default().to_string_lossy();
        directory.ends_with("-stamp") || directory == "tmp"
    });
    if is_step || CMAKE_SCRIPTS.contains(&name.as_ref()) {
        return Habits::Bound("runs a script about this machine");
    }
    Habits::Unknown
}

/// Tests may run elsewhere; what a dashboard wants besides (an update, a submission) may not.
fn ctest(arguments: &[Vec<u8>]) -> Habits<'_> {
    const DASHBOARD: &[&str] =
        &["-D", "-M", "-T", "-S", "-SP", "--dashboard", "--submit", "--build-and-test", "--script"];
    let is_dashboard = |word: &Vec<u8>| DASHBOARD.iter().any(|option| option.as_bytes() == word.as_slice());
    match arguments.iter().any(is_dashboard) {
        true => Habits::Bound("updates, builds and submits"),
        false => Habits::Tests,
    }
}

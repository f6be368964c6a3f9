//! The files that a program opens, as strace tells them.
//! Knows nothing of which program it is, nor why it opens them.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

/// The system calls that strace is to write down, as its option `-e` takes them.
pub const TRACED: &str =
    "trace=open,openat,stat,newfstatat,access,faccessat,faccessat2,execve,clone,clone3,fork,vfork";

/// What a program's processes opened, and what they looked for; not what the programs that they started did.
pub struct Trace {
    /// Regular files that were opened to be read, without symlinks.
    pub opened: BTreeSet<PathBuf>,
    /// Whatever was opened or asked for, there or not.
    pub looked_at: BTreeSet<PathBuf>,
}

impl Trace {
    /// Reads what `strace -f -o LOG` wrote; relative paths count from `cwd`.
    pub fn read(log: &Path, cwd: &Path) -> Trace {
        let mut trace = Trace { opened: BTreeSet::new(), looked_at: BTreeSet::new() };
        let mut others: HashSet<String> = HashSet::new();
        let mut unfinished: HashMap<String, String> = HashMap::new();
        let mut started = 0;
        for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
            let Some((pid, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let whole = if let Some(first) = call.strip_suffix(" <unfinished ...>") {
                unfinished.insert(pid.to_owned(), first.to_owned());
                continue;
            } else if let Some(rest) = call.strip_prefix("<... ") {
                let first = unfinished.remove(pid).unwrap_or_default();
                let rest = rest.split_once("resumed>").map_or("", |(_, rest)| rest);
                format!("{first}{rest}")
            } else {
                call.to_owned()
            };
            let Some((head, result)) = whole.rsplit_once(" = ") else { continue };
            let has_succeeded = !result.trim_start().starts_with('-');
            if head.starts_with("execve(") {
                started += usize::from(has_succeeded);
                if has_succeeded && started > 1 {
                    others.insert(pid.to_owned());
                }
            } else if head.starts_with("clone") || head.contains("fork(") {
                if others.contains(pid) {
                    others.insert(result.trim().to_owned());
                }
            } else if !others.contains(pid)
                && let Some(path) = head.split('"').nth(1)
            {
                let path = cwd.join(path);
                let is_read =
                    head.starts_with("open") && !head.contains("O_WRONLY") && !head.contains("O_CREAT");
                if has_succeeded && is_read && path.is_file() {
                    trace.opened.insert(canonical(&path));
                }
                trace.looked_at.insert(canonical(&path));
            }
        }
        trace
    }
}

/// `path` without symlinks, if it leads anywhere.
pub fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

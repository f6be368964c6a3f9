//! The shell that `make` would have without us: the launcher is called by the name of one, and becomes it where a line is
//! for a shell.
//! Knows nothing of what the line says.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::process;
use crate::process::Environment;
use crate::process::Image;
use crate::search::Identity;
use crate::search::Search;
use crate::search::Tried;

/// Shells that the launcher stands in front of when it is called by their names: those that GNU make knows for shells
/// (`is_bourne_compatible_shell`), which it spares the `@` and `-` inside of recipes that are one script.
const SHELLS: &[&str] = &["sh", "bash", "dash", "ksh", "rksh", "zsh", "ash"];

/// What `make` takes for its shell (GNU make manual, "Choosing the Shell").
const DEFAULT: &str = "/bin/sh";

/// Whether the launcher was called by the name of a shell.
pub(crate) fn is_shell(own: &OsStr) -> bool {
    let name = base_name(own);
    name == b"farcc-sh" || SHELLS.iter().any(|shell| shell.as_bytes() == name)
}

/// Becomes the shell that stands behind our `own` name, with these arguments, under its own path: that is in its messages,
/// and is `$0`. Returns only when that fails, with the exit status for it.
pub(crate) fn become_shell(own: &OsStr, arguments: &[OsString], environment: Environment) -> u8 {
    let path = find(own, &environment);
    let argv: Vec<OsString> =
        std::iter::once(path.clone().into_os_string()).chain(arguments.iter().cloned()).collect();
    let error = Image::new(&path, &argv, environment).map_or_else(|error| error, |image| image.exec());
    process::report_exec_failure(path.as_os_str(), &error)
}

/// `FARCC_SHELL`, else the next program of our own name; never ourselves.
fn find(own: &OsStr, environment: &Environment) -> PathBuf {
    let tried = Tried::default();
    let search = Search { path: environment.get("PATH"), ourselves: Identity::ourselves(), tried: &tried };
    let named = |name: &OsStr| search.find(name).ok().map(|program| program.path);
    let users = environment.get("FARCC_SHELL").filter(|shell| !shell.is_empty());
    if let Some(path) = users.and_then(named) {
        return path;
    }
    let name = base_name(own);
    let is_default = name == b"sh" || name == b"farcc-sh";
    let next = || -> io::Result<PathBuf> { Ok(search.find_in_path(OsStr::from_bytes(name), true)?.path) };
    match is_default {
        true => named(OsStr::new(DEFAULT)).unwrap_or_else(|| DEFAULT.into()),
        false => next().unwrap_or_else(|_| DEFAULT.into()),
    }
}

fn base_name(word: &OsStr) -> &[u8] {
    Path::new(word).file_name().unwrap_or_default().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_by_name() {
        for (name, expected) in [
            ("/x/shell/sh", true),
            ("bash", true),
            ("farcc-sh", true),
            ("farcc", false),
            ("gcc", false),
            ("fish", false),
        ] {
            assert_eq!(is_shell(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_shell_behind_a_name() {
        let path = |variables: &[&str], own: &str| find(OsStr::new(own), &Environment::of(variables));
        assert_eq!(path(&["PATH=/nowhere"], "/x/shell/sh"), Path::new("/bin/sh"));
        assert_eq!(path(&["PATH=/nowhere:/usr/bin"], "/x/shell/dash"), Path::new("/usr/bin/dash"));
        assert_eq!(path(&["PATH=/nowhere"], "/x/shell/zsh"), Path::new("/bin/sh"));
        assert_eq!(path(&["PATH=/usr/bin", "FARCC_SHELL=bash"], "sh"), Path::new("/usr/bin/bash"));
        assert_eq!(path(&["PATH=/usr/bin", "FARCC_SHELL="], "farcc-sh"), Path::new("/bin/sh"));
    }
}

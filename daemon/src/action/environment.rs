//! The environment of a remote command: the variables of the user's that can change what a compiler makes.
//! Knows nothing of which command it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::process::env_value;
use crate::reason::Reason;

/// What a command is to its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It reads headers.
    Compiler,
    /// It reads objects and libraries.
    Linker,
}

/// Variables that only a compile reads. GCC manual, "Environment Variables" of the preprocessor; Clang manual,
/// "ENVIRONMENT".
const COMPILE_VARIABLES: &[&str] = &["CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH"];

/// Variables that only a link reads. GCC manual, "Environment Variables Affecting GCC"; GNU ld manual, "Options" and
/// "Environment Variables".
const LINK_VARIABLES: &[&str] = &["COLLECT_NO_DEMANGLE", "LD_RUN_PATH", "LIBRARY_PATH"];

/// Variables that both read. GCC manual, "Environment Variables Affecting GCC"; ld.so(8).
const VARIABLES: &[&str] = &[
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "GCC_COLORS",
    "GCC_EXTRA_DIAGNOSTIC_OUTPUT",
    "GCC_URLS",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LD_LIBRARY_PATH",
    "SOURCE_DATE_EPOCH",
    "TERM_URLS",
];

/// Where a worker looks for programs by their names: where `programs` lie first, since a driver looks there for `as` and
/// `ld`.
pub fn worker_path(programs: &[(PathBuf, Digest)]) -> impl Iterator<Item = &Path> {
    let directories = programs.iter().filter_map(|(program, _)| program.parent());
    directories.chain(["/usr/bin", "/bin"].map(Path::new))
}

/// The environment that `env` comes down to for a `reader` in `cwd` that runs `programs`.
///
/// # Errors
/// When a variable that matters is not UTF-8.
pub fn environment(
    env: &[(OsString, OsString)],
    cwd: &Path,
    programs: &[(PathBuf, Digest)],
    reader: Reader,
) -> Result<BTreeMap<String, String>, Reason> {
    let mut environment = BTreeMap::new();
    let own = match reader {
        Reader::Compiler => COMPILE_VARIABLES,
        Reader::Linker => LINK_VARIABLES,
    };
    for name in own.iter().chain(VARIABLES) {
        if let Some(value) = env_value(env, name) {
            let value = value.to_str().ok_or_else(|| Reason::UnsupportedEnvironment((*name).to_owned()))?;
            environment.insert((*name).to_owned(), value.to_owned());
        }
    }
    let not_utf8 = || Reason::UnsupportedEnvironment("PWD".to_owned());
    // It leads each process somewhere else.
    if env_value(env, "PWD").is_some_and(|pwd| Path::new(pwd).starts_with("/proc")) {
        return Err(not_utf8());
    }
    let pwd = logical_directory(env, cwd).to_str().ok_or_else(not_utf8)?.to_owned();
    environment.insert("PWD".to_owned(), pwd);
    let mut path = Vec::new();
    for directory in worker_path(programs) {
        if let Some(directory) = directory.to_str()
            && !path.contains(&directory)
        {
            path.push(directory);
        }
    }
    environment.insert("PATH".to_owned(), path.join(":"));
    Ok(environment)
}

/// The working directory as the compiler names it in debug information: `$PWD` if that leads to `cwd`
/// (libiberty's `getpwd`, LLVM's `current_path`), else `cwd` itself.
pub fn logical_directory(env: &[(OsString, OsString)], cwd: &Path) -> PathBuf {
    let pwd = env_value(env, "PWD").map(PathBuf::from).filter(|pwd| pwd.is_absolute());
    // Both as the kernel writes it, most of the time.
    let Some(pwd) = pwd.filter(|pwd| pwd.as_os_str() != cwd.as_os_str()) else { return cwd.to_owned() };
    match (Fingerprint::of(&pwd), Fingerprint::of(cwd)) {
        (Ok(a), Ok(b)) if a.is_same_file(&b) => pwd,
        _ => cwd.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(env: &[(&str, &str)], cwd: &Path) -> BTreeMap<String, String> {
        let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let programs = ["/opt/as/bin/as", "/usr/bin/cc"].map(|path| (path.into(), Digest::of(b"")));
        environment(&env, cwd, &programs, Reader::Compiler).unwrap()
    }

    #[test]
    fn only_what_matters_is_passed() {
        let environment = of(&[("HOME", "/h"), ("LANG", "C"), ("CPATH", "/i")], Path::new("/"));
        let names: Vec<_> = environment.keys().map(String::as_str).collect();
        assert_eq!(names, ["CPATH", "LANG", "PATH", "PWD"]);
        assert_eq!(environment["PATH"], "/opt/as/bin:/usr/bin:/bin");
    }

    #[test]
    fn pwd_is_believed_only_if_it_leads_to_the_working_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().canonicalize().unwrap().join("real");
        let link = scratch.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        assert_eq!(of(&[("PWD", &text(&link))], &real)["PWD"], text(&link));
        assert_eq!(of(&[("PWD", "/usr")], &real)["PWD"], text(&real));
        assert_eq!(of(&[], &real)["PWD"], text(&real));
    }
}

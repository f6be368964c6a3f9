//! Why a command ran where it ran: a closed list, counted by `farccd stats` and shown by `farccd explain`.
//! Knows nothing of how the decision was made.

use std::fmt;

/// Why a command was not answered by a hit or by the cluster. Each variant has a test that produces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The command is no compiler, linker or archiver that farcc knows.
    NotACompiler,
    /// A link that is not understood, or that compiles as well; what about it.
    Link(String),
    /// A link that the configuration keeps here for its size; how large its inputs are.
    BigLink(String),
    /// An archiver's command that changes a file in place, or is not understood; what about it.
    Archive(String),
    /// The command only prints about the compiler: `--version`, `-v`, `-print-…`, `-dumpversion`.
    Information,
    /// The command preprocesses only: `-E`, `-M`, `-MM`.
    Preprocess,
    /// The source is read from standard input.
    StandardInput,
    /// The output goes to standard output, or to a file that is no regular one (`/dev/null`, a symlink).
    SpecialOutput,
    /// One command names several sources.
    SeveralSources,
    /// A language that farcc does not know; its name or file suffix.
    UnsupportedLanguage(String),
    /// A flag that is unknown, or whose effect on inputs and outputs is not yet understood; the flag.
    UnsupportedFlag(String),
    /// An environment variable that adds outputs or edits the command line; its name.
    UnsupportedEnvironment(String),
    /// A response file is missing, unreadable or nested too deeply; its path.
    ResponseFile(String),
    /// The command writes what stands between source and object (`-save-temps`, `-fdump-…`), for somebody who looks at
    /// this one compile; the flag.
    Intermediates(String),
    /// A configure step tries the compiler out on a source that it has just written and never writes again: nobody else
    /// would find the result, and it is there sooner than the cluster's answer; the source.
    Probe(String),
    /// `__DATE__`, `__TIME__` or `__TIMESTAMP__` is used, and SOURCE_DATE_EPOCH does not fix what it expands to.
    TimeMacro,
    /// The scanner cannot follow the source, and what the source does there the compiler's `-M` does not list:
    /// the word (`.incbin`, `__has_include`), and the file in which it stands.
    NotSure(String),
    /// The command makes, uses or looks for modules (C++20, Clang's own): what it reads is made by other commands
    /// in an order that only the build knows. The flag or the file.
    Modules(String),
    /// The compiler did not answer the questions about itself; what failed.
    ToolchainProbe(String),
    /// The compiler is a script that does more than call another program with more words: what it adds to a command, and
    /// which compiler it ends in, only it knows; its path, and the first thing in it that is not understood.
    WrapperScript(String),
    /// A source or header is not there: the compiler's own message is wanted; its name.
    InputMissing(String),
    /// An input cannot be read by the daemon; path and cause.
    InputUnreadable(String),
    /// An input changed while the command ran, or between scan and upload; its path.
    InputChanged(String),
    /// Another command made the same output at the same time, so nobody knows whose it is; its path.
    OutputContested(String),
    /// The launcher ended before the outputs could be taken.
    Abandoned,
    /// The compiler read a file that the scan had not listed; its path.
    DepfileDisagrees(String),
    /// The working directory or an output lies where the worker's own system directories are; the path.
    SystemPath(String),
    /// A path or an argument is not UTF-8, which REAPI's messages cannot carry.
    UnsupportedName(String),
    /// The compiler, or a program that it starts, lies outside the image that workers share, or makes other bytes there;
    /// its path, or what makes the difference.
    ToolchainNotShared(String),
    /// A `[[route]]` of the configuration sends the command here; its pattern.
    Route(String),
    /// The command could go to the twin, but needs this machine, or would not be worth the way; what it is.
    StaysHere(String),
    /// The command could go to the twin, but works in, starts or names what is neither in the workspace nor in the image;
    /// the path.
    OutsideWorkspace(String),
    /// The twin cannot be reached, or does not take the command; what it says.
    TwinUnavailable(String),
    /// A program of the image is another one on the twin, or not there; which.
    TwinDiffers(String),
    /// The twin was lost, or ended the command, while it ran there; what is known.
    TwinLost(String),
    /// What the command has changed on the twin was changed by somebody else meanwhile; which files.
    TwinConflict(String),
    /// The configuration cannot be used; why.
    Configuration(String),
    /// `[exec] verify` chose the command: it has a result, and was run here to compare; both are the same.
    Verify,
    /// The same, but what was made here is not what the result has: nothing is kept of either. What differs, and where a
    /// copy lies.
    VerifyDiffers(String),
    /// What was made shows which checkout it comes from, or where the workspace stood, though `[exec] paths = "shared"`
    /// forbids it: it is not kept. Where it is named.
    PathShown(String),
    /// `[exec] strategy = "local"`, or no `[remote] address`, and no stored result.
    NoRemote,
    /// The cluster only keeps results, by `[exec] strategy = "cache_only"` or because it cannot execute, and had none.
    CacheOnly,
    /// By `[exec] strategy = "racing"` the command ran here while the cluster had it, and the local run was first.
    Raced,
    /// The cluster cannot be reached or answers with errors; the error.
    RemoteUnavailable(String),
    /// The cluster ran the command and it failed: done again here for its true messages; the exit status.
    RemoteFailed(i32),
    /// The cluster accepted the command but could not run it, or returned less than was asked; why.
    RemoteError(String),
    /// The command cannot be sent to workers in the way that `[exec] root` asks for; the root, and why.
    RootImpossible(String),
    /// A worker has another compiler, or another system header that the command reads, than this machine; the first one.
    WorkerDiffers(String),
    /// The store could not be read or written; why. The command itself is not affected.
    Store(String),
    /// The daemon is stopping and takes no new work.
    Draining,
    /// The launcher and the daemon are of different versions.
    VersionSkew,
    /// A defect in farcc; what happened.
    Internal(String),
}

impl Reason {
    /// The stable name under which the reason is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::NotACompiler => "not_a_compiler",
            Reason::Link(_) => "link",
            Reason::BigLink(_) => "big_link",
            Reason::Archive(_) => "archive",
            Reason::Information => "information",
            Reason::Preprocess => "preprocess",
            Reason::StandardInput => "standard_input",
            Reason::SpecialOutput => "special_output",
            Reason::SeveralSources => "several_sources",
            Reason::UnsupportedLanguage(_) => "unsupported_language",
            Reason::UnsupportedFlag(_) => "unsupported_flag",
            Reason::UnsupportedEnvironment(_) => "unsupported_environment",
            Reason::ResponseFile(_) => "response_file",
            Reason::Intermediates(_) => "intermediates",
            Reason::Probe(_) => "probe",
            Reason::TimeMacro => "time_macro",
            Reason::NotSure(_) => "not_sure",
            Reason::Modules(_) => "modules",
            Reason::ToolchainProbe(_) => "toolchain_probe",
            Reason::WrapperScript(_) => "wrapper_script",
            Reason::InputMissing(_) => "input_missing",
            Reason::InputUnreadable(_) => "input_unreadable",
            Reason::InputChanged(_) => "input_changed",
            Reason::OutputContested(_) => "output_contested",
            Reason::Abandoned => "abandoned",
            Reason::DepfileDisagrees(_) => "depfile_disagrees",
            Reason::SystemPath(_) => "system_path",
            Reason::UnsupportedName(_) => "unsupported_name",
            Reason::ToolchainNotShared(_) => "toolchain_not_shared",
            Reason::Route(_) => "route",
            Reason::StaysHere(_) => "stays_here",
            Reason::OutsideWorkspace(_) => "outside_workspace",
            Reason::TwinUnavailable(_) => "twin_unavailable",
            Reason::TwinDiffers(_) => "twin_differs",
            Reason::TwinLost(_) => "twin_lost",
            Reason::TwinConflict(_) => "twin_conflict",
            Reason::Configuration(_) => "configuration",
            Reason::Verify => "verify",
            Reason::VerifyDiffers(_) => "verify_differs",
            Reason::PathShown(_) => "path_shown",
            Reason::NoRemote => "no_remote",
            Reason::CacheOnly => "cache_only",
            Reason::Raced => "raced",
            Reason::RemoteUnavailable(_) => "remote_unavailable",
            Reason::RemoteFailed(_) => "remote_failed",
            Reason::RemoteError(_) => "remote_error",
            Reason::RootImpossible(_) => "root_impossible",
            Reason::WorkerDiffers(_) => "worker_differs",
            Reason::Store(_) => "store",
            Reason::Draining => "draining",
            Reason::VersionSkew => "version_skew",
            Reason::Internal(_) => "internal",
        }
    }

    /// What this one command adds to the name: a flag, a path, an error.
    pub fn detail(&self) -> Option<String> {
        match self {
            Reason::Link(detail)
            | Reason::BigLink(detail)
            | Reason::Archive(detail)
            | Reason::UnsupportedLanguage(detail)
            | Reason::UnsupportedFlag(detail)
            | Reason::UnsupportedEnvironment(detail)
            | Reason::ResponseFile(detail)
            | Reason::Intermediates(detail)
            | Reason::Probe(detail)
            | Reason::NotSure(detail)
            | Reason::Modules(detail)
            | Reason::ToolchainProbe(detail)
            | Reason::WrapperScript(detail)
            | Reason::InputMissing(detail)
            | Reason::InputUnreadable(detail)
            | Reason::InputChanged(detail)
            | Reason::OutputContested(detail)
            | Reason::DepfileDisagrees(detail)
            | Reason::SystemPath(detail)
            | Reason::UnsupportedName(detail)
            | Reason::ToolchainNotShared(detail)
            | Reason::Route(detail)
            | Reason::StaysHere(detail)
            | Reason::OutsideWorkspace(detail)
            | Reason::TwinUnavailable(detail)
            | Reason::TwinDiffers(detail)
            | Reason::TwinLost(detail)
            | Reason::TwinConflict(detail)
            | Reason::Configuration(detail)
            | Reason::RemoteUnavailable(detail)
            | Reason::RemoteError(detail)
            | Reason::VerifyDiffers(detail)
            | Reason::PathShown(detail)
            | Reason::RootImpossible(detail)
            | Reason::WorkerDiffers(detail)
            | Reason::Store(detail)
            | Reason::Internal(detail) => Some(detail.clone()),
            Reason::RemoteFailed(status) => Some(format!("exit status {status}")),
            Reason::NotACompiler
            | Reason::Information
            | Reason::Preprocess
            | Reason::StandardInput
            | Reason::SpecialOutput
            | Reason::SeveralSources
            | Reason::TimeMacro
            | Reason::Abandoned
            | Reason::Verify
            | Reason::NoRemote
            | Reason::CacheOnly
            | Reason::Raced
            | Reason::Draining
            | Reason::VersionSkew => None,
        }
    }
}

/// `name`, or `name: detail`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.detail() {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// What can be done so that a command with a reason of this [name](Reason::name) is answered otherwise the next time; None: it is as
/// it should be, or nobody knows the name.
pub fn remedy(name: &str) -> Option<&'static str> {
    Some(match name {
        "link" => "leave the option that is named out, or put up with it: such links run here",
        "big_link" => "raise [link] local_above if the cluster is near",
        "archive" => "remove the archive before it is made (`rm -f` before `ar`), as CMake does",
        "several_sources" => "compile one source a command",
        "standard_input" => "give the compiler a file to read and one to write",
        "special_output" => "give the compiler a regular file to write",
        "unsupported_flag" => "leave the flag out, or report it: farcc does not know what it reads or writes",
        "unsupported_environment" => "unset the variable for the build",
        "response_file" => "look whether the file is there and readable when the command starts",
        "intermediates" => "leave -save-temps and -fdump-… out of builds",
        "time_macro" => {
            "set SOURCE_DATE_EPOCH for the build, or stop using __DATE__, __TIME__ and __TIMESTAMP__"
        }
        "not_sure" => "name the file outright where the source does what is named",
        "modules" => "nothing to do: modules are compiled here",
        "toolchain_probe" => {
            "look at what is named; report a compiler that does not answer as GCC or Clang does"
        }
        "wrapper_script" => "let the script be nothing but variables and `exec COMPILER … \"$@\"`",
        "input_missing" => "let the build make the file before, or correct the include path",
        "input_unreadable" => "give the user of the daemon the right to read the file",
        "input_changed" => "let nothing write to inputs while the build runs: a rule may lack a dependency",
        "output_contested" => "let one rule alone make the file",
        "depfile_disagrees" => "report it with the file that is named: the scanner should have found it",
        "system_path" => "build outside of /usr",
        "unsupported_name" => "rename the file, or leave the argument out: names must be UTF-8",
        "toolchain_not_shared" => {
            "use a compiler below /usr that the workers have, too; `farccd doctor` compares"
        }
        "route" => "change the [[route]] in farcc.toml if this was not meant",
        "outside_workspace" => "name the directory in [workspace] roots if the twin is to have it",
        "twin_unavailable" => "run `farccd doctor`: it says why the twin does not answer",
        "twin_differs" => "install the same packages on the twin as here",
        "twin_lost" => "look at the log of the twin",
        "twin_conflict" => "run it again, and leave the files alone that it writes",
        "configuration" => "correct farcc.toml or the variable; `farccd config` shows what commands get",
        "verify_differs" => "look at both results in the directory that is named",
        "path_shown" => "let the source not show its path, or use paths = \"exact\"",
        "no_remote" => "set [remote] address to have misses run on a cluster",
        "cache_only" => "set [exec] strategy = \"remote_local_fallback\", if the cluster can execute",
        "remote_unavailable" => "run `farccd doctor`: it says why the cluster does not answer",
        "remote_failed" => {
            "if it succeeded here, the worker lacks something: compare its image by `farccd doctor`"
        }
        "remote_error" => "look at the log of the cluster; `farccd doctor` runs a trial there",
        "root_impossible" => "set [exec] root = \"auto\", or another one (README, \"Roots\")",
        "worker_differs" => {
            "install the same packages on the workers as here, or set [exec] toolchain = \"trusted\" if they are"
        }
        "store" => "make room, or mend the permissions of the store; `farccd cache` names it",
        "version_skew" => "run `farccd restart`",
        "internal" => "report it, with the log of the daemon",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These say that all is well.
    const WITHOUT: &[&str] = &[
        "not_a_compiler",
        "information",
        "preprocess",
        "unsupported_language",
        "probe",
        "abandoned",
        "stays_here",
        "verify",
        "raced",
        "draining",
    ];

    #[test]
    fn every_reason_says_what_to_do_or_that_all_is_well() {
        // The arms of `name`.
        let names = include_str!("reason.rs").lines().filter_map(|line| {
            let (_, name) = line.trim().strip_prefix("Reason::")?.split_once(" => \"")?;
            name.strip_suffix("\",")
        });
        let names: Vec<_> = names.collect();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            assert_eq!(remedy(name).is_none(), WITHOUT.contains(&name), "{name}");
        }
        assert_eq!(remedy("what_is_this"), None);
    }
}

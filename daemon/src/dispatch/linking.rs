//! From a link, or an archive, to its Action: inputs, outputs, and what is added to the command line.
//! Knows nothing of results.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::action::Action;
use crate::action::ActionError;
use crate::action::Checkout;
use crate::action::Circumstances;
use crate::action::CommandSpec;
use crate::action::Reader;
use crate::action::RelativeCommand;
use crate::action::Speaker;
use crate::action::environment;
use crate::compiler::Archive;
use crate::compiler::Audit;
use crate::compiler::ExpectedOutput;
use crate::compiler::Invocation;
use crate::compiler::Link;
use crate::compiler::Linker;
use crate::compiler::OutputKind;
use crate::compiler::Placement;
use crate::config::Config;
use crate::config::Paths;
use crate::config::Root;
use crate::config::Workspace;
use crate::dispatch::Dispatcher;
use crate::dispatch::Scanned;
use crate::dispatch::in_background;
use crate::dispatch::inputs::version;
use crate::dispatch::policy::matching_route;
use crate::dispatch::preparation::AUDIT_SUFFIX;
use crate::dispatch::preparation::Prepared;
use crate::dispatch::preparation::driver_name;
use crate::dispatch::preparation::move_environment;
use crate::dispatch::sharing;
use crate::dispatch::sharing::Sharing;
use crate::dispatch::step::Step;
use crate::files::Files;
use crate::files::InputFile;
use crate::linker;
use crate::linker::Flavour;
use crate::linker::FurtherOutput;
use crate::linker::LinkError;
use crate::linker::LinkLine;
use crate::linker::Surroundings;
use crate::listings::Listings;
use crate::paths;
use crate::preprocessor::Family;
use crate::reason::Reason;

/// How an archive begins that names its members, and one that holds them (ar(5)).
const ARCHIVES: [&[u8]; 2] = [b"!<thin>\n", b"!<arch>\n"];

/// What stands in objects of which code is made at link time: names of GCC's sections, the beginning of LLVM's bitcode.
const OPTIMISED: [&[u8]; 2] = [b".gnu.lto_", b"BC\xC0\xDE"];

impl Dispatcher {
    /// Finds the inputs of a link or an archive and builds its Action.
    pub(super) async fn prepare_link(
        &self,
        config: &Config,
        step: &Step,
        invocation: &Arc<Invocation>,
    ) -> Result<Prepared, Reason> {
        let exec = &config.exec;
        let of_route = matching_route(config, invocation).map(|route| route.platform.clone());
        let platform = config.platform.of(step.class(), &of_route.unwrap_or_default());
        let properties = platform.clone();
        let (salt, timeout) = (exec.salt.clone(), exec.timeout);
        let (shared, sharing) = (exec.paths == Paths::Shared, Arc::clone(&self.sharing));
        let workspace = config.workspace.clone();
        let wants_relative = matches!(exec.root, Root::Auto | Root::Relative);
        let read = self.link_inputs(step, invocation).await?;
        let scans = Arc::clone(&self.scans);
        let (step, invocation) = (step.clone(), Arc::clone(invocation));
        let action = in_background(move || {
            let toolchain = step.tools().identity;
            let circumstances = Circumstances { toolchain, salt: &salt, platform: &platform, timeout };
            let listings = scans.sources().listings();
            let subject =
                Subject { step: &step, invocation: &invocation, circumstances: &circumstances, listings };
            let mut bound = None;
            let mut relative = Err("it is not asked for".to_owned());
            if shared {
                match subject.shared_action(&read, &workspace, &sharing) {
                    Ok(action) => return Ok((action, None, relative)),
                    Err(ActionError::Bound(why)) => bound = Some(why),
                    Err(ActionError::Local(reason)) => return Err(reason),
                }
            }
            if wants_relative {
                relative = subject.relative_command();
            }
            match subject.action(read, None) {
                Ok(action) => Ok((action, bound, relative)),
                Err(ActionError::Local(reason)) => Err(reason),
                Err(ActionError::Bound(why)) => Err(Reason::Internal(why)),
            }
        });
        let (action, bound, relative) = action.await??;
        Ok(Prepared { action: Arc::new(action), not_sure: false, platform: properties, bound, relative })
    }

    /// What a link or an archive reads.
    pub(super) async fn link_inputs(
        &self,
        step: &Step,
        invocation: &Arc<Invocation>,
    ) -> Result<Scanned, Reason> {
        let (files, sources) = (Arc::clone(&self.files), Arc::clone(&self.link_sources));
        let (step, invocation) = (step.clone(), Arc::clone(invocation));
        in_background(move || {
            let mut scanned = match &step {
                Step::Compile { .. } => return Err(Reason::Internal("a compile is no link".to_owned())),
                Step::Link { link, linker, line } => {
                    inputs_of_link(link, linker, line, &invocation, &sources, &files)?
                }
                Step::Archive { archive, .. } => inputs_of_archive(archive, &invocation, &files)?,
            };
            for (path, _) in &step.tools().files {
                scanned.inputs.push(Arc::new(version(path.clone(), &files)?));
            }
            Ok(scanned)
        })
        .await?
    }
}

/// A link or an archive, and all that its Action is made of besides its inputs.
struct Subject<'a> {
    step: &'a Step,
    invocation: &'a Invocation,
    circumstances: &'a Circumstances<'a>,
    listings: &'a Listings,
}

impl Subject<'_> {
    /// The Action that is the same for every checkout.
    ///
    /// # Errors
    /// [`ActionError::Bound`]: there is none.
    fn shared_action(
        &self,
        read: &Scanned,
        workspace: &Workspace,
        sharing: &Sharing,
    ) -> Result<Action, ActionError> {
        let relocation = sharing::relocation(workspace, &self.invocation.cwd).map_err(ActionError::Bound)?;
        if !self.step.depfiles(&self.invocation.cwd).is_empty() {
            return Err(ActionError::Bound("it tells what it has read".to_owned()));
        }
        let mut arguments = self.step.arguments().iter();
        if let Some(argument) = arguments.find(|argument| relocation.is_named_in(argument.as_bytes())) {
            return Err(ActionError::Bound(format!("{} names the workspace", argument.display())));
        }
        if let Some((path, _)) = sharing.check(&read.inputs, &relocation, false)? {
            return Err(ActionError::Bound(format!("{} names the workspace", path.display())));
        }
        let checkout = Checkout { relocation: Arc::new(relocation), family: Family::Gcc };
        self.action(read.clone(), Some(checkout))
    }

    /// The command as it is for workers on which no absolute path leads to its files: it must name none.
    ///
    /// # Errors
    /// Why there is none, as a clause.
    fn relative_command(&self) -> Result<RelativeCommand, String> {
        let Subject { step, invocation, .. } = *self;
        if !step.depfiles(&invocation.cwd).is_empty() {
            return Err("it tells what it has read".to_owned());
        }
        if let Some(argument) = step.arguments().iter().find(|argument| names_outside(argument)) {
            return Err(format!("{} names an absolute path", argument.display()));
        }
        let mut arguments = vec![driver_name(step.program(), invocation)];
        arguments.extend_from_slice(step.arguments());
        arguments.extend(step.additions(invocation).map_err(|reason| reason.to_string())?);
        arguments.extend(self.audit_depfile().iter().flat_map(|audit| step.depfile_arguments(audit)));
        Ok(RelativeCommand { arguments, family: Family::Gcc })
    }

    /// The depfile that only farcc reads, beside what is made, if there is one.
    fn audit_depfile(&self) -> Option<PathBuf> {
        let mut audit = self.step.product().as_os_str().to_owned();
        audit.push(AUDIT_SUFFIX);
        (self.step.audit(None) == Audit::AddedDepfile).then(|| audit.into())
    }

    fn action(&self, read: Scanned, checkout: Option<Checkout>) -> Result<Action, ActionError> {
        let Subject { step, invocation, circumstances, listings } = *self;
        let cwd = &invocation.cwd;
        let program = driver_name(step.program(), invocation);
        if checkout.is_some() && !Path::new(&program).is_absolute() {
            return Err(ActionError::Bound("the program is named from the working directory".to_owned()));
        }
        let named = invocation.argv.first().filter(|_| matches!(step, Step::Archive { .. }));
        let speaker = named.and_then(|named| Speaker::new(named, &program));
        let mut arguments = vec![program];
        arguments.extend_from_slice(step.arguments());
        arguments.extend(step.additions(invocation)?);
        let mut outputs = step.outputs();
        if let Some(audit) = self.audit_depfile() {
            arguments.extend(step.depfile_arguments(&audit));
            outputs.push(ExpectedOutput::replacing(OutputKind::AuditDepfile, audit));
        }
        for output in &mut outputs {
            output.path = paths::absolute(cwd, &output.path);
        }
        let programs = &step.tools().programs;
        let mut environment = environment(&invocation.env, cwd, programs, Reader::Linker)?;
        let mut directories = read.directories;
        directories.extend(environment.get("PWD").map(PathBuf::from));
        if let Some(checkout) = &checkout {
            move_environment(&mut environment, cwd, &checkout.relocation)?;
        }
        let spec = CommandSpec { arguments, environment, cwd, directories, outputs, checkout, speaker };
        Action::new(&spec, read.inputs, circumstances, listings)
    }
}

/// Whether a word has an absolute path in it that leads to none of the image's files: at its beginning, behind a flag of one
/// letter, or behind what separates the parts of a list.
fn names_outside(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let begins = |at: usize| match at.checked_sub(1).map(|before| bytes[before]) {
        None | Some(b'=' | b',' | b':' | b'@') => true,
        Some(_) => at == 2 && bytes[0] == b'-',
    };
    let paths = memchr::memchr_iter(b'/', bytes).filter(|&at| begins(at)).map(|at| &bytes[at..]);
    let ends = |path: &[u8]| path.iter().position(|byte| b",:".contains(byte)).unwrap_or(path.len());
    paths.into_iter().any(|path| {
        let path = Path::new(OsStr::from_bytes(&path[..ends(path)]));
        !paths::is_system(&paths::lexically_normal(path))
    })
}

fn inputs_of_link(
    link: &Link,
    linker: &Linker,
    line: &LinkLine,
    invocation: &Invocation,
    sources: &linker::Sources,
    files: &Files,
) -> Result<Scanned, Reason> {
    let surroundings = Surroundings {
        cwd: &invocation.cwd,
        flavour: linker.flavour,
        sysroot: &linker.sysroot,
        search_directories: &linker.search_directories,
        library_path: invocation.variable("LD_LIBRARY_PATH"),
        run_path: invocation.variable("LD_RUN_PATH"),
    };
    let mut inputs = linker::resolve(line, &surroundings, sources).map_err(reason)?;
    for file in link.read_by_driver() {
        let path = paths::absolute(&invocation.cwd, &file);
        // The driver looks elsewhere, too: what it found is among its programs' files.
        if path.is_file() {
            inputs.push(Arc::new(version(path, files)?));
        }
    }
    if let Some(flag) = link.asks_more_of_code() {
        for input in inputs.iter().filter(|input| !paths::is_system(&input.path)) {
            let bytes = std::fs::read(&input.path);
            let bytes = bytes
                .map_err(|error| Reason::InputUnreadable(format!("{}: {error}", input.path.display())))?;
            if OPTIMISED.iter().any(|mark| memchr::memmem::find(&bytes, mark).is_some()) {
                return Err(Reason::UnsupportedFlag(flag));
            }
        }
    }
    Ok(Scanned { inputs, ..Scanned::default() })
}

fn reason(error: LinkError) -> Reason {
    match error {
        LinkError::Unsupported(_) => Reason::Link(error.to_string()),
        LinkError::Missing(name) => Reason::InputMissing(name),
        LinkError::Unreadable { path, error } => {
            Reason::InputUnreadable(format!("{}: {error}", path.display()))
        }
        LinkError::NotSure(why) => Reason::NotSure(why),
    }
}

fn inputs_of_archive(archive: &Archive, invocation: &Invocation, files: &Files) -> Result<Scanned, Reason> {
    let mut inputs: Vec<Arc<InputFile>> = Vec::with_capacity(archive.inputs.len());
    for input in &archive.inputs {
        let input = version(paths::absolute(&invocation.cwd, input), files)?;
        if archive.is_thin && is_archive(&input.path) {
            return Err(Reason::Archive(format!("{} is an archive, too", input.path.display())));
        }
        inputs.push(Arc::new(input));
    }
    Ok(Scanned { inputs, ..Scanned::default() })
}

fn is_archive(path: &Path) -> bool {
    let mut beginning = [0; 8];
    let read =
        std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut beginning));
    read.is_ok() && ARCHIVES.iter().any(|magic| *magic == beginning)
}

/// What a link makes, as written.
pub(super) fn outputs_of_link(line: &LinkLine, flavour: Flavour) -> Vec<ExpectedOutput> {
    let placement = match flavour {
        Flavour::Bfd | Flavour::Gold => Placement::Unlinked,
        // It renames a temporary file.
        Flavour::Lld => Placement::Replaced,
        // It writes into the file that is there.
        Flavour::Mold => Placement::Overwritten,
    };
    let program = ExpectedOutput {
        placement,
        ..ExpectedOutput::replacing(OutputKind::Object, line.output().to_owned())
    };
    let mut outputs = vec![program];
    for (path, kind) in line.further_outputs() {
        outputs.push(match kind {
            FurtherOutput::Map => ExpectedOutput::overwriting(OutputKind::Further, path),
            FurtherOutput::DependencyFile => ExpectedOutput::overwriting(OutputKind::Depfile, path),
            FurtherOutput::ImportLibrary => {
                ExpectedOutput { placement, ..ExpectedOutput::replacing(OutputKind::Further, path) }
            }
        });
    }
    outputs
}

/// What an archive's command makes.
pub(super) fn outputs_of_archive(archive: &Archive) -> Vec<ExpectedOutput> {
    let placement = Placement::Unlinked;
    vec![ExpectedOutput {
        placement,
        ..ExpectedOutput::replacing(OutputKind::Object, archive.output.clone())
    }]
}

/// The depfiles that a link's own options ask for.
pub(super) fn depfiles_of_link(line: &LinkLine) -> impl Iterator<Item = PathBuf> {
    let outputs = line.further_outputs().into_iter();
    outputs.filter(|(_, kind)| *kind == FurtherOutput::DependencyFile).map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_found_in_words() {
        for (word, expected) in [
            ("a.o", false),
            ("sub/a.o", false),
            ("../a.o", false),
            ("/home/u/a.o", true),
            ("/usr/lib/crt1.o", false),
            ("/usr/../home/a.o", true),
            ("-L/home/u", true),
            ("-Lsub/dir", false),
            ("-Wl,-rpath,/home/u/lib", true),
            ("-Wl,-rpath,/usr/lib:/home/u/lib", true),
            ("-Wl,-rpath,$ORIGIN/../lib", false),
            ("-Wl,--version-script=/home/u/a.map", true),
            ("-Wl,-dynamic-linker,/lib64/ld.so", false),
            ("--sysroot=/opt/s", true),
        ] {
            assert_eq!(names_outside(word.as_ref()), expected, "{word}");
        }
    }
}

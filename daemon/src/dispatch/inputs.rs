//! The inputs of a compile: by the scanner, else by the compiler's own `-M`.
//! Knows nothing of what becomes of them.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;

use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::dispatch::Dispatcher;
use crate::dispatch::in_background;
use crate::dispatch::looked_for;
use crate::dispatch::looked_for::Places;
use crate::files::Files;
use crate::files::InputFile;
use crate::paths;
use crate::preprocessor::Family;
use crate::preprocessor::Scan;
use crate::preprocessor::ScanError;
use crate::preprocessor::TranslationUnit;
use crate::reason::Reason;

/// How often a scan is done again with more of the compiler's answers. Each round can uncover questions that
/// the answers before had hidden; real code needs two.
const MAX_ROUNDS: usize = 8;

/// What a compile reads.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// The files, each with the version that was scanned.
    pub inputs: Vec<Arc<InputFile>>,
    /// The search path: directories that must be there even if nothing in them is read.
    pub directories: Vec<PathBuf>,
    /// The names by which some text asks for files by their whole paths; of a unit that only the compiler followed, those
    /// are not known.
    pub absolute: Vec<PathBuf>,
    /// Whether a macro for date or time may be expanded, and nothing fixes its value.
    pub uses_time: bool,
    /// Why the scanner was not sure, so that the compiler was asked.
    pub not_sure: Option<String>,
    /// What all of this follows from; none of a link, nor where the compiler was asked.
    pub(super) origin: Option<Origin>,
}

/// What a compile's inputs follow from: with the same origin it reads the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// Of each source. What is remembered of a scan is the same one for as long as it holds.
    scans: Vec<Arc<Scan>>,
    /// What the flags name.
    further: Vec<Arc<InputFile>>,
}

/// An [`Origin`] that keeps no scan in memory.
#[derive(Debug)]
pub(super) struct RememberedOrigin {
    /// As long as they are held, nothing else has their addresses.
    scans: Vec<Weak<Scan>>,
    further: Vec<Arc<InputFile>>,
}

impl Origin {
    pub(super) fn remembered(&self) -> RememberedOrigin {
        RememberedOrigin {
            scans: self.scans.iter().map(Arc::downgrade).collect(),
            further: self.further.clone(),
        }
    }

    pub(super) fn is(&self, remembered: &RememberedOrigin) -> bool {
        let RememberedOrigin { scans, further } = remembered;
        self.scans.len() == scans.len()
            && self.scans.iter().zip(scans).all(|(scan, known)| Arc::as_ptr(scan) == known.as_ptr())
            && self.further == *further
    }
}

impl Scanned {
    /// Takes what another source of the same command reads as well.
    fn add(&mut self, other: Scanned) {
        if self.inputs.is_empty() {
            *self = other;
            return;
        }
        let known: HashSet<PathBuf> = self.inputs.iter().map(|input| input.path.clone()).collect();
        self.inputs.extend(other.inputs.into_iter().filter(|input| !known.contains(&input.path)));
        self.directories.extend(other.directories);
        self.absolute.extend(other.absolute);
        self.uses_time |= other.uses_time;
        self.origin = self.origin.take().zip(other.origin).map(|(mut origin, other)| {
            origin.scans.extend(other.scans);
            origin.further.extend(other.further);
            origin
        });
    }
}

impl Dispatcher {
    /// Finds everything that a compile reads.
    pub(super) async fn find_inputs(
        &self,
        compile: &Arc<Compile>,
        invocation: &Arc<Invocation>,
        toolchain: &Arc<Toolchain>,
    ) -> Result<Scanned, Reason> {
        let mut all = Scanned::default();
        for at in 0..compile.sources.len() {
            match self.scan_source(compile, at, invocation, toolchain).await? {
                Ok(scanned) => all.add(scanned),
                // `-M` tells of all sources at once.
                Err(not_sure) => {
                    tracing::debug!("not sure of {}: {not_sure}", compile.sources[at].path.display());
                    all = self.ask_compiler(compile, invocation, toolchain, not_sure).await?;
                    break;
                }
            }
        }
        Ok(all)
    }

    /// What one source of a compile reads, or why the scanner is not sure. What the flags name is added to the first.
    async fn scan_source(
        &self,
        compile: &Arc<Compile>,
        at: usize,
        invocation: &Arc<Invocation>,
        toolchain: &Arc<Toolchain>,
    ) -> Result<Result<Scanned, String>, Reason> {
        if let Some(flag) = compile.is_beyond_the_scanner() {
            return Ok(Err(flag));
        }
        for _ in 0..MAX_ROUNDS {
            let scans = Arc::clone(&self.scans);
            let (files, asking, asked) =
                (Arc::clone(&self.files), Arc::clone(compile), Arc::clone(invocation));
            let known = Arc::clone(toolchain);
            let scanned = in_background(move || -> Result<Result<Scanned, ScanError>, Reason> {
                let unit = asking.translation_unit(&asking.sources[at], &asked, &known);
                let scan = match scans.scan(&unit) {
                    Ok(scan) => scan,
                    Err(error) => return Ok(Err(error)),
                };
                // What the assembler reads, no depfile lists: the audit asks only that all that is listed was found.
                let mut inputs: Vec<_> = scan.all_files().cloned().collect();
                let further =
                    if at == 0 { further_inputs(&asking, &asked, &known, &files)? } else { Vec::new() };
                inputs.extend(further.iter().cloned());
                Ok(Ok(Scanned {
                    inputs,
                    directories: search_directories(&unit),
                    absolute: scan.absolute.clone(),
                    uses_time: scan.uses_timestamp || scan.uses_time && !time_is_fixed(&asked, &known),
                    not_sure: None,
                    origin: Some(Origin { scans: vec![scan], further }),
                }))
            });
            let questions = match scanned.await?? {
                Ok(scanned) => return Ok(Ok(scanned)),
                Err(ScanError::Unanswered(questions)) => questions,
                Err(ScanError::NotSure(reason)) => {
                    if let Some(path) = reason.strip_prefix("modules: ") {
                        return Err(Reason::Modules(path.to_owned()));
                    }
                    // Under `-M` the compilers read the header itself, so that it lists no precompiled one.
                    if reason.starts_with("precompiled header: ") {
                        return Err(Reason::NotSure(reason));
                    }
                    return Ok(Err(reason));
                }
                Err(ScanError::Missing { name, .. }) => return Err(Reason::InputMissing(name)),
                Err(ScanError::Unreadable { path, error }) => {
                    return Err(Reason::InputUnreadable(format!("{}: {error}", path.display())));
                }
            };
            let answered = self.toolchains.answer(compile, invocation, toolchain, &questions).await;
            // A question without a value may stand where the other answers lead no compiler
            // (`#ifdef __has_feature` around it): only a round that settles nothing is the last.
            let settled = questions.iter().any(|question| toolchain.answers.contains_key(question));
            if !settled {
                answered?;
            }
        }
        Ok(Err("too many questions".to_owned()))
    }

    async fn ask_compiler(
        &self,
        compile: &Arc<Compile>,
        invocation: &Arc<Invocation>,
        toolchain: &Arc<Toolchain>,
        not_sure: String,
    ) -> Result<Scanned, Reason> {
        let listed = self.toolchains.dependencies(compile, invocation).await?;
        let (files, asking, asked) = (Arc::clone(&self.files), Arc::clone(compile), Arc::clone(invocation));
        let toolchain = Arc::clone(toolchain);
        in_background(move || {
            let unit = asking.translation_unit(&asking.sources[0], &asked, &toolchain);
            let mut inputs = further_inputs(&asking, &asked, &toolchain, &files)?;
            inputs.reserve(listed.len());
            // `-M` does not tell whether a macro for the time is expanded either.
            let time_words = if time_is_fixed(&asked, &toolchain) { TIMESTAMP_WORDS } else { TIME_WORDS };
            let mut uses_time = false;
            let places = places(&asking, &unit);
            let mut looked_for = overlaid(&asking, &asked)?;
            for path in listed {
                let input = version(paths::absolute(&asked.cwd, &path), &files)?;
                let text = text_of(&input)?;
                if let Some(word) = names_any(&text, UNLISTED_WORDS) {
                    return Err(Reason::NotSure(format!("{word} in {}", input.path.display())));
                }
                // Only the scanner sees which of them would be taken.
                if asking.is_beyond_the_scanner().is_some()
                    && let Some(precompiled) = precompiled_beside(&input.path)
                {
                    return Err(Reason::NotSure(format!("precompiled header: {}", precompiled.display())));
                }
                uses_time |= names_any(&text, time_words).is_some();
                let unnamed = || Reason::NotSure(format!("__has_include in {}", input.path.display()));
                looked_for.extend(places.looked_for(&text, &input.path).ok_or_else(unnamed)?);
                inputs.push(Arc::new(input));
            }
            for path in looked_for {
                inputs.push(Arc::new(version(path, &files)?));
            }
            Ok(Scanned {
                inputs,
                directories: search_directories(&unit),
                absolute: Vec::new(),
                uses_time,
                not_sure: Some(not_sure),
                origin: None,
            })
        })
        .await?
    }
}

/// What the command's flags name besides sources and includes.
fn further_inputs(
    compile: &Compile,
    invocation: &Invocation,
    toolchain: &Toolchain,
    files: &Files,
) -> Result<Vec<Arc<InputFile>>, Reason> {
    let mut inputs = Vec::new();
    let of_toolchain = toolchain.tools.files.iter().map(|(path, _)| (path.clone(), true));
    let named = compile.further_inputs(invocation, toolchain.family);
    for (path, is_required) in named.into_iter().chain(of_toolchain) {
        match version(paths::absolute(&invocation.cwd, &path), files) {
            Ok(input) => inputs.push(Arc::new(input)),
            Err(Reason::InputMissing(_)) if !is_required => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(inputs)
}

pub(super) fn version(path: PathBuf, files: &Files) -> Result<InputFile, Reason> {
    match files.version(&path) {
        Ok(version) => Ok(InputFile { path, version }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Reason::InputMissing(path.display().to_string()))
        }
        Err(error) => Err(Reason::InputUnreadable(format!("{}: {error}", path.display()))),
    }
}

/// Where a unit's includes may be.
fn places(compile: &Compile, unit: &TranslationUnit) -> Places {
    let frameworks = compile.frameworks().map(|directory| paths::absolute(&unit.cwd, directory));
    Places { directories: search_directories(unit), frameworks: frameworks.collect() }
}

/// The files that overlays put elsewhere.
fn overlaid(compile: &Compile, invocation: &Invocation) -> Result<Vec<PathBuf>, Reason> {
    let mut files = Vec::new();
    for overlay in compile.overlays() {
        let overlay = paths::absolute(&invocation.cwd, overlay);
        let failed = |error| Reason::InputUnreadable(format!("{}: {error}", overlay.display()));
        let text = std::fs::read(&overlay).map_err(failed)?;
        let directory = overlay.parent().unwrap_or(&invocation.cwd);
        let named = looked_for::overlaid(&text, &invocation.cwd, directory);
        files.extend(named.ok_or_else(|| Reason::NotSure(format!("-ivfsoverlay {}", overlay.display())))?);
    }
    Ok(files)
}

fn search_directories(unit: &TranslationUnit) -> Vec<PathBuf> {
    let path = &unit.search_path;
    let directories = path.quote.iter().chain(&path.angle).chain(&path.embed).chain(&path.assembler);
    directories.map(|directory| paths::absolute(&unit.cwd, directory)).collect()
}

/// Words by which a source depends on files that no compiler lists and that are not looked for: those that the assembler
/// reads, those of which only the age counts.
const UNLISTED_WORDS: &[&str] =
    &[".incbin", ".INCBIN", ".include", ".INCLUDE", "__has_embed", "GCC dependency"];

/// Macros for date and time.
const TIME_WORDS: &[&str] = &["__DATE__", "__TIME__", "__TIMESTAMP__"];
/// The one of them that no variable fixes: it is the time of a file.
const TIMESTAMP_WORDS: &[&str] = &["__TIMESTAMP__"];

/// A precompiled header, or a directory of them, that a compiler might take instead of a header.
fn precompiled_beside(header: &Path) -> Option<PathBuf> {
    let with_suffix = |suffix: &str| {
        let mut path = header.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    [".gch", ".pch"].map(with_suffix).into_iter().find(|path| path.exists())
}

/// The first of `words` that stands in `text`, wherever it stands.
fn names_any(text: &[u8], words: &[&'static str]) -> Option<&'static str> {
    words.iter().copied().find(|word| memchr::memmem::find(text, word.as_bytes()).is_some())
}

fn text_of(input: &InputFile) -> Result<Vec<u8>, Reason> {
    let failed = |error| Reason::InputUnreadable(format!("{}: {error}", input.path.display()));
    std::fs::read(&input.path).map_err(failed)
}

/// Whether SOURCE_DATE_EPOCH fixes what `__DATE__` and `__TIME__` expand to: GCC 7 and later (GCC manual,
/// "Environment Variables Affecting GCC"). Clang before 16 does not know the variable.
fn time_is_fixed(invocation: &Invocation, toolchain: &Toolchain) -> bool {
    let major =
        toolchain.tools.version.strip_prefix("gcc version ").and_then(|version| version.split('.').next());
    let knows_variable = major.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 7);
    toolchain.family == Family::Gcc
        && knows_variable
        && invocation.variable("SOURCE_DATE_EPOCH").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::invocation;
    use crate::dispatch::tests::dispatcher_in;

    /// Scans `source` with GCC, as the first unit that this compiler is met with.
    async fn scan_with_gcc(source: &str) -> Result<Scanned, Reason> {
        let space = tempfile::tempdir().unwrap();
        let at = |name: &str| space.path().join(name);
        std::fs::write(at("a.c"), source).unwrap();
        std::fs::write(at("a.h"), "").unwrap();
        let dispatcher = dispatcher_in(space.path());
        let invocation = invocation(space.path(), "gcc -c a.c");
        dispatcher.scan(&Arc::new(invocation)).await
    }

    #[tokio::test]
    async fn a_question_that_the_compiler_never_reaches_needs_no_answer() {
        // What libstdc++ and fmt do: GCC has no `__has_feature`.
        let source = "#if defined(__has_builtin) && __has_builtin(__builtin_expect)\n#include \"a.h\"\n#endif\n\
                      #ifdef __has_feature\n#if __has_feature(thread_sanitizer)\n#include \"none.h\"\n#endif\n#endif\n";
        let scanned = scan_with_gcc(source).await.unwrap();
        assert_eq!(scanned.not_sure, None);
        assert!(scanned.inputs.iter().any(|input| input.path.ends_with("a.h")));
    }

    #[tokio::test]
    async fn a_question_without_a_value_is_the_compilers_to_complain_about() {
        let source = "#if __has_feature(thread_sanitizer)\n#include \"a.h\"\n#endif\n";
        let scanned = scan_with_gcc(source).await;
        assert!(scanned.is_err(), "{scanned:?}");
    }
}

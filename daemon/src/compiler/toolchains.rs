//! Finds the toolchain behind a command, asking each compiler once: in memory, on disk, else from the compiler.
//! Knows nothing of what the facts are used for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;

use crate::compiler::AppendedRules;
use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::compiler::appended_rules;
use crate::compiler::depfile;
use crate::compiler::further_flags;
use crate::compiler::probe;
use crate::compiler::probe::Driver;
use crate::compiler::probe::Probe;
use crate::compiler::programs;
use crate::compiler::questions;
use crate::compiler::recollections::Recollection;
use crate::compiler::recollections::Recollections;
use crate::compiler::toolchain::FORMAT;
use crate::compiler::toolchain::Record;
use crate::compiler::tools;
use crate::compiler::tools::Named;
use crate::digest::Digest;
use crate::files::Files;
use crate::preprocessor::Family;
use crate::process::Program;
use crate::reason::Reason;

/// All toolchains that were met, shared by all connections.
pub struct Toolchains {
    files: Arc<Files>,
    directory: PathBuf,
    known: Recollections<Toolchain>,
}

impl Toolchains {
    /// An empty memory that keeps its records in `directory`, which is made when first needed.
    pub fn new(files: Arc<Files>, directory: PathBuf) -> Toolchains {
        let known = Recollections::new(directory.clone());
        Toolchains { files, directory, known }
    }

    /// The toolchain that `compile` uses, as it is now: whatever is remembered counts only while every program
    /// behind the driver looks as it did.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`].
    pub async fn probe(&self, compile: &Compile, invocation: &Invocation) -> Result<Arc<Toolchain>, Reason> {
        let key = key(compile, invocation)?;
        let ask = async || self.ask(compile, invocation).await;
        self.known.recall(key, invocation, &compile.driver, &self.files, ask).await
    }

    /// Asks the compiler for the value of each question, in canonical spelling (`__has_builtin(x)`,
    /// `defined(__has_builtin)`), and adds it to the toolchain's answers, here and on disk.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`]: the compiler did not run, or a question has no value; the others are
    /// answered nevertheless.
    pub async fn answer(
        &self,
        compile: &Compile,
        invocation: &Invocation,
        toolchain: &Toolchain,
        questions: &[String],
    ) -> Result<(), Reason> {
        let key = key(compile, invocation)?;
        let ask = async || {
            // Every unit of a build comes with the same questions at the same time: the first asks for all.
            if questions.iter().all(|question| toolchain.answers.contains_key(question)) {
                return Ok(false);
            }
            let failed =
                |error| Reason::ToolchainProbe(format!("make {}: {error}", self.directory.display()));
            std::fs::create_dir_all(&self.directory).map_err(failed)?;
            let driver = driver(compile, invocation);
            questions::ask(&driver, questions, &toolchain.answers, &self.directory).await?;
            Ok(true)
        };
        self.known.extend(key, toolchain, ask).await
    }

    /// All files that the compile reads, source and system headers included, by the compiler's own `-M`.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`] with the compiler's first error: a header is missing, for example.
    pub async fn dependencies(
        &self,
        compile: &Compile,
        invocation: &Invocation,
    ) -> Result<Vec<PathBuf>, Reason> {
        let mut env = invocation.env.clone();
        env.retain(|(name, _)| !appended_rules::VARIABLES.iter().any(|&variable| name == variable));
        env.push(("FARCC_DISABLE".into(), "1".into()));
        let args = compile.dependency_arguments();
        let program = Program { path: &compile.driver, args, env, cwd: &invocation.cwd };
        let output = probe::ask(program).await?;
        let failed = |why: &str| {
            Reason::ToolchainProbe(format!("read what {} -M prints: {why}", compile.driver.display()))
        };
        let depfile = depfile::parse(&output.stdout).map_err(|error| failed(&error.to_string()))?;
        Ok(depfile.prerequisites)
    }

    /// What the compile would append to the file that a variable names.
    ///
    /// # Errors
    /// [`Reason::ToolchainProbe`] with the compiler's first error.
    pub async fn appended_rules(
        &self,
        compile: &Compile,
        invocation: &Invocation,
        rules: &AppendedRules,
    ) -> Result<Vec<u8>, Reason> {
        let failed = |why: &str| {
            Reason::ToolchainProbe(format!("run {} with {}: {why}", compile.driver.display(), rules.variable))
        };
        let io_failed = |error: std::io::Error| failed(&error.to_string());
        std::fs::create_dir_all(&self.directory).map_err(io_failed)?;
        let file = tempfile::Builder::new().suffix(".d").tempfile_in(&self.directory).map_err(io_failed)?;
        let mut env = invocation.env.clone();
        env.retain(|(name, _)| !appended_rules::VARIABLES.iter().any(|&variable| name == variable));
        // Where they go, the arguments say.
        env.push((rules.variable.into(), rules.value("rules")?.into()));
        env.push(("FARCC_DISABLE".into(), "1".into()));
        let args = compile.appended_rules_arguments(file.path());
        let program = Program { path: &compile.driver, args, env, cwd: &invocation.cwd };
        let output = program.output(probe::TIMEOUT).await.map_err(io_failed)?;
        if !output.status.success() {
            return Err(failed(&probe::first_error(&output.stderr)));
        }
        std::fs::read(file.path()).map_err(io_failed)
    }

    async fn ask(&self, compile: &Compile, invocation: &Invocation) -> Result<Toolchain, Reason> {
        programs::check(&compile.driver)?;
        // A flag there might write files beside the user's when the compiler is asked.
        compile.check_further_flags(&invocation.cwd)?;
        let driver = driver(compile, invocation);
        let started = self.files.now();
        let probe = driver.probe().await?;
        let Probe { family, version, target, .. } = &probe;
        let mut watched = probe.watched.clone();
        watched.extend(compile.program_directories().map(Path::to_owned));
        check_program_directories(compile, invocation, target)?;
        if *family == Family::Clang {
            // A configuration file that appears beside it is taken.
            let real = std::fs::canonicalize(&compile.driver).ok();
            let drivers = [Some(&compile.driver), real.as_ref()].into_iter().flatten();
            watched.extend(drivers.filter_map(|driver| driver.parent()).map(Path::to_owned));
        }
        for file in &probe.flag_files {
            let file = invocation.cwd.join(file);
            match family {
                Family::Clang => further_flags::check_configuration(&file, compile.names_further_flags())?,
                // The specs that a compiler always reads are part of it.
                Family::Gcc if compile.names_further_flags() => further_flags::check_specs(&file)?,
                Family::Gcc => {}
            }
        }
        let named = Named {
            version: version.clone(),
            target: target.clone(),
            driver: compile.driver.clone(),
            programs: probe.programs,
            plugins: Vec::new(),
            files: [probe.files, probe.flag_files].concat(),
            absent: probe.absent,
            watched,
        };
        let tools = named.survey(&self.files, invocation, &driver.env, started).await?;
        let record = Record {
            format: FORMAT,
            is_clang: probe.family == Family::Clang,
            tools,
            predefined: probe.predefined,
            quote: probe.quote,
            angle: probe.angle,
            answers: std::collections::BTreeMap::new(),
            native: probe.native,
        };
        let damaged = || Reason::Internal("a fresh toolchain record is damaged".to_owned());
        Toolchain::recalled(record).ok_or_else(damaged)
    }
}

fn driver<'a>(compile: &'a Compile, invocation: &'a Invocation) -> Driver<'a> {
    Driver {
        path: &compile.driver,
        language: compile.language,
        flags: compile.probe_flags(),
        cwd: &invocation.cwd,
        env: probe::environment(&invocation.env),
    }
}

/// What a toolchain depends on, as far as a command shows it.
fn key(compile: &Compile, invocation: &Invocation) -> Result<Digest, Reason> {
    let mut flags = compile.probe_flags();
    if compile.asks_for_native() {
        flags.push(processor().hex().into());
    }
    let is_relative = compile.probes_relative_paths();
    tools::key(&compile.driver, compile.language.name(), &flags, is_relative, invocation)
}

/// What this machine's processor is: records may lie in a home directory that other machines share.
fn processor() -> Digest {
    static PROCESSOR: LazyLock<Digest> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let first = text.split("\n\n").next().unwrap_or_default();
        // What changes from moment to moment tells nothing.
        let lasting = first.lines().filter(|line| !line.contains("MHz") && !line.contains("bogomips"));
        Digest::of(lasting.collect::<Vec<_>>().join("\n").as_bytes())
    });
    *PROCESSOR
}

/// Refuses directories of programs where GCC would look below a directory for its target and version as well: for
/// headers, too.
fn check_program_directories(compile: &Compile, invocation: &Invocation, target: &str) -> Result<(), Reason> {
    let named = compile.program_directories().map(|directory| invocation.cwd.join(directory));
    for directory in named.chain(invocation.directories_of("COMPILER_PATH")) {
        let directory = directory.join(target);
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let is_version = |name: OsString| name.as_bytes().first().is_some_and(u8::is_ascii_digit);
        if entries.flatten().any(|entry| is_version(entry.file_name())) {
            let directory = directory.display();
            return Err(Reason::ToolchainProbe(format!("look through {directory}: it may have headers")));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compiler::Task;
    use crate::compiler::classify;
    use crate::compiler::invocation::tests::invocation;
    use std::os::unix::fs::symlink;
    use std::time::Duration;
    use std::time::SystemTime;

    fn long_after() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    pub(in crate::compiler) fn toolchains(directory: &Path) -> Toolchains {
        Toolchains::new(Arc::new(Files::with_clock(long_after)), directory.to_owned())
    }

    pub(in crate::compiler) fn compile(invocation: &Invocation) -> Compile {
        match classify(invocation) {
            Task::Compile(compile) => *compile,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::compiler) async fn probe(
        toolchains: &Toolchains,
        cwd: &Path,
        line: &str,
    ) -> Result<Arc<Toolchain>, Reason> {
        let invocation = invocation(cwd, line);
        toolchains.probe(&compile(&invocation), &invocation).await
    }

    /// The include directories that the real compiler prints for a command.
    pub(in crate::compiler) async fn printed_search_path(
        invocation: &Invocation,
        compile: &Compile,
    ) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut args = compile.dependency_arguments();
        args.push("-v".into());
        let program =
            Program { path: &compile.driver, args, env: invocation.env.clone(), cwd: &invocation.cwd };
        let output = program.output(probe::TIMEOUT).await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        let section = |from: &str, to: &str| -> Vec<PathBuf> {
            let rest = text.split_once(from).unwrap().1.split_once(to).unwrap().0;
            rest.lines().filter_map(|line| line.strip_prefix(' ')).map(PathBuf::from).collect()
        };
        let (quote, angle) = ("#include \"...\" search starts here:", "#include <...> search starts here:");
        (section(quote, angle), section(angle, "End of search list."))
    }

    #[tokio::test]
    async fn real_compilers_are_known() {
        let space = tempfile::tempdir().unwrap();
        let toolchains = toolchains(space.path());
        let mut identities = std::collections::HashMap::new();
        for (name, family) in
            [("gcc", Family::Gcc), ("g++", Family::Gcc), ("clang", Family::Clang), ("clang++", Family::Clang)]
        {
            let source = if name.ends_with("++") { "a.cc" } else { "a.c" };
            let line = format!("{name} -c {source}");
            let toolchain = probe(&toolchains, space.path(), &line).await.unwrap();
            assert_eq!(toolchain.family, family);
            assert!(toolchain.tools.version.contains("version "), "{}", toolchain.tools.version);
            assert!(toolchain.tools.target.contains("linux"), "{}", toolchain.tools.target);
            assert!(toolchain.tools.programs.len() > 3, "{:?}", toolchain.tools.programs);
            let runs = |name: &str| toolchain.tools.programs.iter().any(|(path, _)| path.ends_with(name));
            let (own, other) = if name == "gcc" { ("cc1", "cc1plus") } else { ("cc1plus", "cc1") };
            assert_eq!((runs(own), runs(other)), (family == Family::Gcc, false), "{name}");
            let invocation = invocation(space.path(), &line);
            std::fs::write(space.path().join(source), "").unwrap();
            let (quote, angle) = printed_search_path(&invocation, &compile(&invocation)).await;
            assert_eq!(
                (&toolchain.search_path.quote, &toolchain.search_path.angle),
                (&quote, &angle),
                "{name}"
            );
            // Asked anew by someone else, the same.
            let again =
                probe(&super::tests::toolchains(&space.path().join("other")), space.path(), &line).await;
            assert_eq!(again.unwrap().tools.identity, toolchain.tools.identity);
            identities.insert(toolchain.tools.identity, name);
        }
        // clang and clang++ are one program; gcc and g++ run different ones.
        assert_eq!(identities.len(), 3, "{identities:?}");
    }

    #[tokio::test]
    async fn records_survive_a_restart() {
        let space = tempfile::tempdir().unwrap();
        let records = space.path().join("records");
        let first = toolchains(&records);
        let toolchain = probe(&first, space.path(), "gcc -c a.c").await.unwrap();
        let command = invocation(space.path(), "gcc -c a.c");
        let question = "__has_builtin(__builtin_expect)".to_owned();
        first
            .answer(&compile(&command), &command, &toolchain, std::slice::from_ref(&question))
            .await
            .unwrap();
        let record = first.known.record_path(key(&compile(&command), &command).unwrap());

        let second = toolchains(&records);
        let loaded = second.known.load(key(&compile(&command), &command).unwrap(), &command).unwrap();
        assert_eq!(loaded.tools.identity, toolchain.tools.identity);
        assert_eq!(loaded.search_path, toolchain.search_path);
        assert_eq!(loaded.answers.get(&question).map(|value| *value), Some(1));
        assert_eq!(loaded.record.predefined, toolchain.record.predefined);

        // A damaged record is no record: the compiler is asked again and the record mended.
        let content = std::fs::read(&record).unwrap();
        let middle = content.len() / 2;
        for damaged in
            [&content[..middle], b"", b"\n{}", &[&content[..middle], b"x", &content[middle + 1..]].concat()]
        {
            std::fs::write(&record, damaged).unwrap();
            let third = toolchains(&records);
            assert!(third.known.load(key(&compile(&command), &command).unwrap(), &command).is_none());
            let mended = probe(&third, space.path(), "gcc -c a.c").await.unwrap();
            assert_eq!(mended.tools.identity, toolchain.tools.identity);
            assert!(third.known.load(key(&compile(&command), &command).unwrap(), &command).is_some());
        }
    }

    #[tokio::test]
    async fn a_replaced_compiler_is_noticed() {
        let space = tempfile::tempdir().unwrap();
        let driver = space.path().join("cc");
        symlink("/usr/bin/gcc", &driver).unwrap();
        let toolchains = toolchains(&space.path().join("records"));
        let line = format!("{} -c a.c", driver.display());
        let before = probe(&toolchains, space.path(), &line).await.unwrap();
        let same = probe(&toolchains, space.path(), &line).await.unwrap();
        assert!(Arc::ptr_eq(&before, &same));
        std::fs::remove_file(&driver).unwrap();
        symlink("/usr/bin/clang", &driver).unwrap();
        let after = probe(&toolchains, space.path(), &line).await.unwrap();
        assert_eq!((before.family, after.family), (Family::Gcc, Family::Clang));
        assert_ne!(before.tools.identity, after.tools.identity);
    }

    #[tokio::test]
    async fn a_link_behind_the_driver_that_leads_elsewhere_is_noticed() {
        let space = tempfile::tempdir().unwrap();
        let bin = space.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let others: Vec<_> = ["one", "two"].iter().map(|name| space.path().join(name)).collect();
        for (other, byte) in others.iter().zip([1, 2]) {
            let mut content = std::fs::read("/usr/bin/as").unwrap();
            content.push(byte);
            std::fs::write(other, content).unwrap();
            std::fs::set_permissions(other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        symlink(&others[0], bin.join("as")).unwrap();
        let toolchains = toolchains(&space.path().join("records"));
        let mut invocation = invocation(space.path(), "/usr/bin/gcc -c a.c");
        invocation.env[0].1 = format!("{}:/usr/bin", bin.display()).into();
        let compile = compile(&invocation);
        let before = toolchains.probe(&compile, &invocation).await.unwrap();
        std::fs::remove_file(bin.join("as")).unwrap();
        symlink(&others[1], bin.join("as")).unwrap();
        let after = toolchains.probe(&compile, &invocation).await.unwrap();
        assert_ne!(before.tools.identity, after.tools.identity);
    }

    #[tokio::test]
    async fn a_changed_program_behind_the_driver_is_noticed() {
        let space = tempfile::tempdir().unwrap();
        let (first, second) = (space.path().join("first"), space.path().join("second"));
        for directory in [&first, &second] {
            std::fs::create_dir(directory).unwrap();
        }
        let toolchains = toolchains(&space.path().join("records"));
        let mut invocation = invocation(space.path(), "/usr/bin/gcc -c a.c");
        invocation.env[0].1 = format!("{}:{}:/usr/bin", first.display(), second.display()).into();
        let compile = compile(&invocation);
        let before = toolchains.probe(&compile, &invocation).await.unwrap();
        // An assembler appears earlier in PATH.
        std::fs::copy("/usr/bin/as", second.join("as")).unwrap();
        let shadowed = toolchains.probe(&compile, &invocation).await.unwrap();
        assert!(
            shadowed.tools.programs.iter().any(|(path, _)| path.ends_with("second/as")),
            "{:?}",
            shadowed.tools.programs
        );
        assert!(!before.tools.programs.iter().any(|(path, _)| path.ends_with("second/as")));
        // It is changed in place.
        let mut content = std::fs::read(second.join("as")).unwrap();
        content.push(0);
        std::fs::write(second.join("as"), content).unwrap();
        let changed = toolchains.probe(&compile, &invocation).await.unwrap();
        assert_ne!(shadowed.tools.identity, changed.tools.identity);
    }

    #[tokio::test]
    async fn a_compiler_changed_just_now_is_not_trusted() {
        let space = tempfile::tempdir().unwrap();
        std::fs::copy("/usr/bin/as", space.path().join("as")).unwrap();
        let toolchains = Toolchains::new(Arc::new(Files::default()), space.path().join("records"));
        let mut invocation = invocation(space.path(), "/usr/bin/gcc -c a.c");
        invocation.env[0].1 = space.path().into();
        let result = toolchains.probe(&compile(&invocation), &invocation).await;
        let Err(Reason::ToolchainProbe(why)) = result else { panic!() };
        assert!(why.contains("just been changed"), "{why}");
    }

    #[tokio::test]
    async fn what_is_no_compiler_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let space = tempfile::tempdir().unwrap();
        let script = space.path().join("gcc");
        std::fs::write(&script, "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/bin/true", space.path().join("cc")).unwrap();
        let toolchains = toolchains(&space.path().join("records"));
        for (line, expected) in [("./cc -c a.c", "tells no `__GNUC__`"), ("gcc -c a.c -std=c++x", "error")] {
            let Err(Reason::ToolchainProbe(why)) = probe(&toolchains, space.path(), line).await else {
                panic!()
            };
            assert!(why.contains(expected), "{line}: {why}");
        }
        let script = probe(&toolchains, space.path(), "./gcc -c a.c").await;
        assert!(matches!(script, Err(Reason::WrapperScript(_))));
    }

    #[tokio::test]
    async fn what_native_stands_for_is_told_or_refused() {
        let space = tempfile::tempdir().unwrap();
        let toolchains = toolchains(&space.path().join("records"));
        for compiler in ["gcc", "clang"] {
            let line = format!("{compiler} -O2 -march=native -mtune=native -c a.c");
            let toolchain = probe(&toolchains, space.path(), &line).await.unwrap();
            let compile = compile(&invocation(space.path(), &line));
            let words = compile.portable_arguments(&toolchain).unwrap();
            let texts: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
            assert!(!texts.iter().any(|word| word.contains("native")), "{texts:?}");
            assert!(
                ["-march=", "-mtune="].iter().all(|flag| texts.iter().any(|word| word.starts_with(flag)))
            );
            assert_eq!(texts[texts.len() - 3..], ["-O2", "-c", "a.c"]);
        }
        // A driver of which farcc does not understand what it says.
        let silent = probe(&toolchains, space.path(), "gcc -c a.c").await.unwrap();
        assert!(silent.native.is_empty(), "{:?}", silent.native);
        let native = compile(&invocation(space.path(), "gcc -march=native -c a.c"));
        let refused = native.portable_arguments(&silent).unwrap_err();
        assert_eq!(refused, Reason::UnsupportedFlag("-march=native".to_owned()));
    }

    #[tokio::test]
    async fn questions_are_answered_as_the_compiler_does() {
        let space = tempfile::tempdir().unwrap();
        let toolchains = toolchains(space.path());
        for (line, expected) in [
            ("g++ -c a.cc -std=c++20", [1, 0, 201907, 1, 0]),
            ("clang++ -c a.cc -std=c++20", [1, 0, 201603, 1, 1]),
        ] {
            let invocation = invocation(space.path(), line);
            let compile = compile(&invocation);
            let toolchain = toolchains.probe(&compile, &invocation).await.unwrap();
            let questions = [
                "__has_builtin(__builtin_expect)",
                "__has_builtin(__builtin_nonsense)",
                "__has_cpp_attribute(nodiscard)",
                "defined(__has_builtin)",
                "defined(__has_feature)",
            ]
            .map(str::to_owned);
            let mut asked = questions.to_vec();
            asked.push("__has_builtin(,".to_owned());
            asked.push("__has_builtin(1+)".to_owned());
            // GCC lacks the name, and does not say that it is worth nothing.
            let of_clang = "__has_feature(thread_sanitizer)".to_owned();
            asked.push(of_clang.clone());
            let result = toolchains.answer(&compile, &invocation, &toolchain, &asked).await;
            // The malformed ones are reported and do not harm the others.
            assert!(matches!(result, Err(Reason::ToolchainProbe(_))), "{result:?}");
            let answer = toolchain.answers.get(&of_clang).map(|value| *value);
            assert_eq!(answer, line.starts_with("clang").then_some(0), "{line}");
            let answers = questions.clone().map(|question| *toolchain.answers.get(&question).unwrap());
            let mut values = answers;
            if line.starts_with("clang") {
                // The attribute's date differs between versions of Clang.
                assert!([201_603, 201_907].contains(&values[2]), "{answers:?}");
                values[2] = 201_603;
            }
            assert_eq!(values, expected, "{line}");
            assert_eq!(toolchains.answer(&compile, &invocation, &toolchain, &questions).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn one_connection_asks_for_all() {
        let space = tempfile::tempdir().unwrap();
        let toolchains = toolchains(space.path());
        let probes = (0..20).map(|_| probe(&toolchains, space.path(), "gcc -c a.c"));
        let all = futures::future::join_all(probes).await;
        let first = all[0].as_ref().unwrap();
        assert!(all.iter().all(|toolchain| Arc::ptr_eq(first, toolchain.as_ref().unwrap())));
    }

    #[tokio::test]
    async fn a_question_of_many_is_asked_once() {
        use std::os::unix::fs::PermissionsExt;
        let space = tempfile::tempdir().unwrap();
        let toolchains = toolchains(&space.path().join("records"));
        let invocation = invocation(space.path(), "gcc -c a.c");
        let mut compile = compile(&invocation);
        let toolchain = toolchains.probe(&compile, &invocation).await.unwrap();
        // From now on somebody counts how often the compiler runs.
        let (counter, runs) = (space.path().join("counter"), space.path().join("runs"));
        std::fs::write(&counter, format!("#!/bin/sh\necho >> {}\nexec gcc \"$@\"\n", runs.display()))
            .unwrap();
        std::fs::set_permissions(&counter, std::fs::Permissions::from_mode(0o755)).unwrap();
        compile.driver = counter;
        let questions = ["__has_builtin(__builtin_expect)".to_owned()];
        let ask = || toolchains.answer(&compile, &invocation, &toolchain, &questions);
        let results = futures::future::join_all((0..20).map(|_| ask())).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 1);
    }
}

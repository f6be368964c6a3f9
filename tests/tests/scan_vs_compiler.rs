//! The scanner against the installed compilers: what `-M` lists must be found; more than that is printed.
//! Knows nothing of how either comes to its list.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use farcc_tests::oracle::Case;
use farcc_tests::oracle::Compiler;
use farcc_tests::oracle::UnitFlags;
use farccd::files::Files;
use farccd::files::InputFile;
use farccd::paths::lexically_normal;
use farccd::preprocessor::DiskSources;
use farccd::preprocessor::Family;
use farccd::preprocessor::Language;
use farccd::preprocessor::MemorySources;
use farccd::preprocessor::Scan;
use farccd::preprocessor::ScanError;
use farccd::preprocessor::SearchPath;
use farccd::preprocessor::Sources;
use farccd::preprocessor::TranslationUnit;

/// Lets files that were written a moment ago count as settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn sources() -> DiskSources {
    DiskSources::new(Arc::new(Files::with_clock(long_after)))
}

fn paths(files: &[Arc<InputFile>]) -> Vec<PathBuf> {
    files.iter().map(|file| file.path.clone()).collect()
}

fn normal(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    files.iter().map(|file| file.components().collect()).collect()
}

/// Compares one scan with `-M`; the number of files that the compiler lists and of those that it does not.
fn compare(what: &str, scanned: &Scan, listed: &BTreeSet<PathBuf>) -> (usize, usize) {
    let probed = normal(&paths(&scanned.probed));
    let scanned = normal(&scanned.paths());
    // Clang lists what a `__has_include` found, GCC does not.
    let missing: Vec<_> = listed.difference(&scanned).filter(|&file| !probed.contains(file)).collect();
    assert!(missing.is_empty(), "{what}: the scan misses {missing:#?}");
    let excess: Vec<_> = scanned.difference(listed).collect();
    println!("{what}: {} files, {} in excess {excess:?}", listed.len(), excess.len());
    (listed.len(), excess.len())
}

fn scan_headers(language: Language, name: &str, flags: &[&str], headers: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let text: String = headers.iter().map(|header| format!("#include <{header}>\n")).collect();
    std::fs::write(directory.path().join(name), text).unwrap();
    let compilers = Compiler::installed(language, flags);
    assert!(!compilers.is_empty(), "no compiler is installed");
    for compiler in compilers {
        let probe = compiler.probe().unwrap();
        let unit_flags = UnitFlags::default();
        let unit = compiler.unit(&probe, directory.path(), Path::new(name), &unit_flags);
        let sources = sources();
        let scanned = compiler.scan(&unit, &sources).unwrap();
        let listed = compiler.dependencies(directory.path(), Path::new(name), &unit_flags).unwrap();
        let what = format!("{} {flags:?} {name}", compiler.program);
        assert!(!scanned.uses_time, "{what}: a system header counts as using the time");
        compare(&what, &scanned, &listed);
        measure(&what, &compiler, directory.path(), &unit, &sources);
    }
}

fn measure(what: &str, compiler: &Compiler, cwd: &Path, unit: &TranslationUnit, warm: &DiskSources) {
    let best = |run: &mut dyn FnMut()| {
        (0..5)
            .map(|_| {
                let started = Instant::now();
                run();
                started.elapsed()
            })
            .min()
            .unwrap_or_default()
    };
    let by_compiler = best(&mut || {
        compiler.dependencies(cwd, &unit.source, &UnitFlags::default()).unwrap();
    });
    let warm = best(&mut || {
        compiler.scan(unit, warm).unwrap();
    });
    let cold = best(&mut || {
        compiler.scan(unit, &sources()).unwrap();
    });
    println!("{what}: -M {by_compiler:?}, scan {warm:?}, scan with an empty cache {cold:?}");
}

const C_HEADERS: &[&str] = &[
    "stdio.h",
    "stdlib.h",
    "string.h",
    "math.h",
    "time.h",
    "errno.h",
    "signal.h",
    "unistd.h",
    "fcntl.h",
    "pthread.h",
    "sys/types.h",
    "sys/stat.h",
    "sys/socket.h",
    "netinet/in.h",
    "arpa/inet.h",
    "netdb.h",
    "sys/mman.h",
    "sys/wait.h",
    "dirent.h",
    "inttypes.h",
    "locale.h",
    "wchar.h",
    "complex.h",
    "tgmath.h",
    "limits.h",
    "float.h",
    "stdatomic.h",
    "linux/fs.h",
    "sys/epoll.h",
    "immintrin.h",
];

const CXX_HEADERS: &[&str] = &[
    "algorithm",
    "any",
    "array",
    "atomic",
    "bitset",
    "chrono",
    "cmath",
    "codecvt",
    "complex",
    "condition_variable",
    "deque",
    "exception",
    "execution",
    "filesystem",
    "forward_list",
    "fstream",
    "functional",
    "future",
    "initializer_list",
    "iomanip",
    "ios",
    "iosfwd",
    "iostream",
    "iterator",
    "limits",
    "list",
    "locale",
    "map",
    "memory",
    "memory_resource",
    "mutex",
    "new",
    "numeric",
    "optional",
    "ostream",
    "queue",
    "random",
    "ratio",
    "regex",
    "scoped_allocator",
    "set",
    "shared_mutex",
    "sstream",
    "stack",
    "stdexcept",
    "streambuf",
    "string",
    "string_view",
    "system_error",
    "thread",
    "tuple",
    "type_traits",
    "typeindex",
    "typeinfo",
    "unordered_map",
    "unordered_set",
    "utility",
    "valarray",
    "variant",
    "vector",
    "cstdio",
    "cstdlib",
    "cstring",
    "cinttypes",
    "cuchar",
];

#[test]
fn libc_headers() {
    for flags in [&[][..], &["-std=c99"], &["-std=gnu2x"], &["-O2", "-D_FORTIFY_SOURCE=2"]] {
        scan_headers(Language::C, "main.c", flags, C_HEADERS);
    }
}

#[test]
fn standard_library_headers() {
    for flags in [&["-std=c++17"][..], &["-std=gnu++20"], &["-std=c++11"], &["-O2", "-pthread"]] {
        let old = flags.contains(&"-std=c++11");
        let headers: Vec<&str> =
            CXX_HEADERS.iter().copied().filter(|&header| !old || header != "execution").collect();
        scan_headers(Language::Cxx, "main.cc", flags, &headers);
    }
}

/// Every installed header by itself. One that the compiler rejects says nothing.
#[test]
#[ignore = "takes minutes: runs each compiler once for each header"]
fn every_installed_header() {
    let directory = tempfile::tempdir().unwrap();
    for (language, name, roots) in [
        (
            Language::C,
            "main.c",
            &["/usr/include", "/usr/include/linux", "/usr/include/x86_64-linux-gnu/sys"][..],
        ),
        (
            Language::Cxx,
            "main.cc",
            &["/usr/include/c++/12", "/usr/include/c++/12/experimental", "/usr/include"],
        ),
    ] {
        for compiler in Compiler::installed(language, &[]) {
            let probe = compiler.probe().unwrap();
            let flags = UnitFlags::default();
            let unit = compiler.unit(&probe, directory.path(), Path::new(name), &flags);
            let sources = sources();
            let (mut headers, mut files, mut excess, mut not_sure) = (0, 0, 0, Vec::new());
            for entry in roots.iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten() {
                let header = entry.unwrap().path();
                if !header.is_file() {
                    continue;
                }
                let text = format!("#include \"{}\"\n", header.display());
                std::fs::write(directory.path().join(name), text).unwrap();
                let scanned = compiler.scan(&unit, &sources);
                let Ok(listed) = compiler.dependencies(directory.path(), Path::new(name), &flags) else {
                    continue;
                };
                headers += 1;
                match scanned {
                    Ok(scanned) => {
                        let (listed, more) = compare(&header.display().to_string(), &scanned, &listed);
                        files += listed;
                        excess += more;
                    }
                    Err(error) => not_sure.push(format!("{}: {error}", header.display())),
                }
            }
            println!(
                "{}: {headers} headers, {files} files, {excess} in excess, not sure {not_sure:#?}",
                compiler.program
            );
            assert!(excess * 100 <= files && not_sure.len() * 100 <= headers, "{}", compiler.program);
        }
    }
}

/// Clang takes the directory of a file from another link to it: the scanner must not guess which.
#[test]
fn one_file_under_two_names() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("main.c", "#include \"a/x.h\"\n#include \"b/x.h\"\n");
    write("a/x.h", "#include \"y.h\"\n");
    write("a/y.h", "");
    write("b/y.h", "");
    std::os::unix::fs::symlink("../a/x.h", directory.path().join("b/x.h")).unwrap();
    for compiler in Compiler::installed(Language::C, &[]) {
        let probe = compiler.probe().unwrap();
        let flags = UnitFlags::default();
        let unit = compiler.unit(&probe, directory.path(), Path::new("main.c"), &flags);
        let listed = compiler.dependencies(directory.path(), Path::new("main.c"), &flags).unwrap();
        match (compiler.family, compiler.scan(&unit, &sources())) {
            (Family::Gcc, scanned) => {
                compare("gcc two names", &scanned.unwrap(), &listed);
            }
            (Family::Clang, Err(error)) => {
                assert!(error.to_string().contains("one file under two names"), "{error}");
            }
            (Family::Clang, Ok(scanned)) => panic!("{scanned:?}"),
        }
    }
}

/// What a header may be called, byte by byte, in both forms of `#include`.
#[test]
fn names_of_any_bytes() {
    let names: &[&[u8]] = &[
        b"a b.h",
        b"a,b.h",
        b"a'b.h",
        b"$a#b.h",
        b"a\\b.h",
        b"a//b.h",
        b"a/*b*/.h",
        b"a%:.h",
        b"-a.h",
        b"..h",
        b"gr\xc3\xbcn.h",
        b"latin\xfcone.h",
    ];
    for compiler in Compiler::installed(Language::C, &[]) {
        let probe = compiler.probe().unwrap();
        for name in names {
            for (open, close) in [(b'"', b'"'), (b'<', b'>')] {
                let directory = tempfile::tempdir().unwrap();
                let header = Path::new("i").join(OsStr::from_bytes(name));
                std::fs::create_dir_all(directory.path().join(&header).parent().unwrap()).unwrap();
                std::fs::write(directory.path().join(&header), "").unwrap();
                let text = [b"#include ", &[open][..], name, &[close], b"\n"].concat();
                std::fs::write(directory.path().join("main.c"), text).unwrap();
                let flags = UnitFlags { user: vec!["i".into()], ..UnitFlags::default() };
                let unit = compiler.unit(&probe, directory.path(), Path::new("main.c"), &flags);
                // How a depfile spells such a name is another matter.
                let mut command = compiler.command();
                command.current_dir(directory.path()).args(flags.arguments()).args(["-E", "main.c"]);
                let opened = command.output().unwrap().status.success();
                let what = format!("{} {}", compiler.program, String::from_utf8_lossy(name));
                match compiler.scan(&unit, &sources()) {
                    Ok(scanned) => {
                        assert!(opened, "{what}: {scanned:?}");
                        let paths = scanned.paths();
                        assert!(paths.iter().any(|path| path.ends_with(&header)), "{what}: {paths:?}");
                    }
                    Err(error) => assert!(!opened, "{what}: {error}"),
                }
            }
        }
    }
}

/// Each case file, with each compiler: in memory against what the case expects, on disk against `-M`.
#[test]
fn cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/scan");
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "{} has too few cases", directory.display());
    let mut probes = std::collections::HashMap::new();
    for path in paths {
        let case = Case::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let language = match path.extension().and_then(|extension| extension.to_str()) {
            Some("c") => Language::C,
            Some("cc") => Language::Cxx,
            Some("m") => Language::ObjectiveC,
            Some("mm") => Language::ObjectiveCxx,
            _ => Language::Assembler,
        };
        let flags: Vec<&str> = case.compiler_flags.iter().map(String::as_str).collect();
        let compilers: Vec<Compiler> = match &case.compiler {
            Some(program) => Compiler::named(program, language, &flags).into_iter().collect(),
            None => Compiler::installed(language, &flags),
        };
        if let Some(program) = &case.compiler
            && compilers.is_empty()
        {
            farcc_tests::skipped(&path.display().to_string(), &format!("{program} is not installed"));
        }
        for compiler in compilers {
            let key = (compiler.program.clone(), language, case.compiler_flags.clone());
            let probe = probes.entry(key).or_insert_with(|| compiler.probe().unwrap());
            let what = format!("{} {}", compiler.program, path.file_name().unwrap().display());
            check_case(&what, &case, &compiler, probe);
        }
    }
}

fn check_case(what: &str, case: &Case, compiler: &Compiler, probe: &farcc_tests::oracle::Probe) {
    // In memory there are no system directories, so nothing is included by itself.
    let files = case.files.iter().map(|(path, text)| (Path::new("/w").join(path), text.clone()));
    let memory = MemorySources::new(files);
    let mut unit = compiler.unit(probe, Path::new("/w"), case.source().unwrap(), &case.flags);
    let own = case.flags.user.len() + case.flags.system.len();
    unit.search_path = SearchPath { angle: unit.search_path.angle[..own].to_vec(), ..unit.search_path };
    let scanned = compiler.scan(&unit, &memory as &dyn Sources);
    if let Some(reason) = &case.not_sure {
        let error = scanned.expect_err(what);
        let Some(ScanError::NotSure(text)) = error.downcast_ref() else { panic!("{what}: {error}") };
        assert!(text.starts_with(reason), "{what}: {text}, expected {reason}");
        return;
    }
    let scanned = scanned.unwrap_or_else(|error| panic!("{what}: {error}"));
    let below = |files: &[PathBuf]| -> BTreeSet<PathBuf> {
        let relative = |file: &PathBuf| lexically_normal(file).strip_prefix("/w").unwrap().to_owned();
        files.iter().map(relative).collect()
    };
    let expected = case.expected(compiler.family).unwrap();
    assert_eq!(&below(&scanned.paths()), expected, "{what}");
    assert_eq!(below(&paths(&scanned.probed)), case.probed, "{what}: probed");
    let assembled: Vec<PathBuf> = scanned.assembled.iter().map(|file| file.path.clone()).collect();
    assert_eq!(below(&assembled), case.assembled, "{what}: assembled");

    let directory = tempfile::tempdir().unwrap();
    case.write(directory.path()).unwrap();
    let unit = compiler.unit(probe, directory.path(), case.source().unwrap(), &case.flags);
    let scanned = compiler.scan(&unit, &sources()).unwrap();
    let listed = compiler.dependencies(directory.path(), case.source().unwrap(), &case.flags).unwrap();
    compare(what, &scanned, &listed);
}

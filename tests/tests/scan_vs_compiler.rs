//! The scanner against the installed compilers: what `-M` lists must be found; more than that is printed.
//! Knows nothing of how either comes to its list.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use farcc_tests::oracle::Compiler;
use farcc_tests::oracle::UnitFlags;
use farccd::files::Files;
use farccd::preprocessor::DiskSources;
use farccd::preprocessor::Language;
use farccd::preprocessor::Scan;

/// Lets files that were written a moment ago count as settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn sources() -> DiskSources {
    DiskSources::new(Arc::new(Files::with_clock(long_after)))
}

fn normal(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    files.iter().map(|file| file.components().collect()).collect()
}

/// Compares one scan with `-M`; the number of files that the compiler lists and of those that it does not.
fn compare(what: &str, scanned: &Scan, listed: &BTreeSet<PathBuf>) -> (usize, usize) {
    let scanned = normal(&scanned.files);
    let missing: Vec<_> = listed.difference(&scanned).collect();
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
        compare(&what, &scanned, &listed);
        measure(&what, &compiler, directory.path(), &unit, &sources);
    }
}

fn measure(
    what: &str,
    compiler: &Compiler,
    cwd: &Path,
    unit: &farccd::preprocessor::TranslationUnit,
    warm: &DiskSources,
) {
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

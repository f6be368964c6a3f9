//! The resolver of links against the installed linkers: what they read must be found; more than that is printed, and few.
//! Knows nothing of how the resolver comes to its list.
//!
//! A stand-in for the linker, which the drivers are led to by `-B`, keeps the words that the linker gets and runs it under
//! strace. What is read is what the linker's own `--dependency-file` lists, and what its process opens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use farcc_tests::open_trace::TRACED;
use farcc_tests::open_trace::Trace;
use farcc_tests::open_trace::canonical;
use farcc_tests::prerequisites::find_program;
use farcc_tests::prerequisites::require;
use farcc_tests::prerequisites::require_runtime_of_clang;
use farcc_tests::skipped;
use farcc_tests::space::Finished;
use farcc_tests::space::run;
use farccd::files::Files;
use farccd::linker::Flavour;
use farccd::linker::LinkError;
use farccd::linker::LinkLine;
use farccd::linker::Sources;
use farccd::linker::Surroundings;
use farccd::linker::resolve;

/// Lets files that were written a moment ago count as settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// One installed linker.
struct Linker {
    program: PathBuf,
    name: &'static str,
    flavour: Flavour,
    search_directories: HashMap<&'static str, Vec<PathBuf>>,
    /// What it opens without inputs: its own libraries, its messages.
    own: BTreeSet<PathBuf>,
}

impl Linker {
    fn installed() -> Vec<Linker> {
        require(&["gcc", "g++", "clang", "strace", "ld.lld", "mold"]);
        require_runtime_of_clang();
        let names = ["ld.bfd", "ld.gold", "ld.lld", "ld.lld-19", "mold"];
        let installed = names.into_iter().filter_map(|name| {
            let program = find_program(name);
            if program.is_none() {
                skipped(name, "this linker is not installed");
            }
            Some(Linker::new(name, program?))
        });
        installed.collect()
    }

    fn new(name: &'static str, program: PathBuf) -> Linker {
        let asked = run(Command::new(&program).arg("--version")).success().stdout_text();
        let flavour = Flavour::of_version(asked.lines().next().unwrap()).unwrap();
        let mut search_directories = HashMap::new();
        if flavour == Flavour::Bfd {
            for emulation in ["elf_x86_64", "elf_i386"] {
                let told = run(Command::new(&program).args(["-m", emulation, "--verbose"])).stdout_text();
                let named = told.split("SEARCH_DIR(\"").skip(1).filter_map(|rest| rest.split('"').next());
                search_directories.insert(emulation, named.map(PathBuf::from).collect());
            }
        }
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut traced = Command::new("strace");
        traced.args(["-f", "-e", TRACED, "-o"]).arg(trace.path()).arg(&program).arg("--version");
        run(&mut traced).success();
        let own = Trace::read(trace.path(), Path::new("/")).opened;
        Linker { program, name, flavour, search_directories, own }
    }
}

/// A small project and how it is linked.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// A shell script; `$CC` is the driver with what leads it to the linker.
    prepare: &'static str,
    /// What follows the driver in the link.
    link: &'static str,
    drivers: &'static [&'static str],
    linkers: &'static [&'static str],
    /// Variables of the link's environment; `PWD/` in a value is the project's directory.
    env: &'static [(&'static str, &'static str)],
    /// Whether the link itself must fail.
    fails: bool,
}

const ALL: &[&str] = &["ld.bfd", "ld.gold", "ld.lld", "ld.lld-19", "mold"];
const BFD: &[&str] = &["ld.bfd"];
const NOT_MOLD: &[&str] = &["ld.bfd", "ld.gold", "ld.lld", "ld.lld-19"];

/// The case that needs the C library for another machine.
const MULTILIB: &str = "32 bits";

const CASE: Case = Case {
    name: "",
    prepare: "",
    link: "",
    drivers: &["gcc", "clang"],
    linkers: ALL,
    env: &[],
    fails: false,
};

/// The project that most cases start from: `main.o` calls `a`, which `a.o` has.
const BASE: &str = "echo 'int a(void); int main(void) { return a(); }' > main.c
    echo 'int a(void) { return 0; }' > a.c
    echo 'int b(void) { return 1; }' > b.c
    echo '{ global: a; local: *; };' > a.map
    echo '{ main; };' > a.list
    for f in main a b; do gcc -fPIC -c $f.c; done
    ar rc liba.a a.o; ar rc libb.a b.o; mkdir -p lib lib/deep out";

/// `liba.so` needs `libb.so.1`, which lies in `lib/deep`.
const NEEDED: &str = "gcc -shared -Wl,-soname,libb.so.1 b.o -o lib/deep/libb.so.1
    echo 'int b(void); int a(void) { return b(); }' > a.c; gcc -fPIC -c a.c; rm liba.a
    gcc -shared a.o lib/deep/libb.so.1 -o lib/liba.so";

fn cases() -> Vec<Case> {
    let case = |name, link| Case { name, link, ..CASE };
    vec![
        case("executable", "main.o a.o"),
        case("archive", "main.o -L. -la"),
        Case { drivers: &["g++", "clang++"], ..case("C++", "main.o a.o -lpthread -lm -ldl") },
        case("shared library", "-shared a.o -o out/libx.so -Wl,--version-script=a.map -Wl,-soname,libx.so"),
        case("dynamic list", "main.o a.o -Wl,--dynamic-list=a.list -Wl,-E"),
        case("static", "-static main.o a.o -lm"),
        // gold makes none.
        Case { linkers: &["ld.bfd", "ld.lld", "ld.lld-19", "mold"], ..case("static pie", "-static-pie main.o a.o") },
        case("relocatable", "-r -nostdlib main.o a.o -o out/x.o"),
        case("map", "main.o a.o -Wl,-Map,out/x.map"),
        case("colon", "main.o -L. -l:liba.a"),
        case("group", "main.o -L. -Wl,--start-group -lb -la -Wl,--end-group"),
        case("whole archive", "main.o -L. -Wl,--whole-archive -la -Wl,--no-whole-archive -lb"),
        Case {
            prepare: "gcc -shared a.o -o liba.so; gcc -shared b.o -o libb.so",
            ..case("static and shared parts", "main.o -L. -Wl,-Bstatic -la -Wl,-Bdynamic -Wl,--as-needed -lb")
        },
        Case {
            // mold 1.10 does not restore this state.
            linkers: NOT_MOLD,
            prepare: "gcc -shared b.o -o libb.so",
            ..case("states", "main.o -L. -Wl,--push-state,-Bstatic -la -Wl,--pop-state -lb")
        },
        Case {
            prepare: "mkdir objects; mv a.o objects; ar rcT lib/libin.a objects/a.o; ar rcT libthin.a lib/libin.a b.o",
            ..case("thin archives", "main.o libthin.a")
        },
        Case {
            prepare: "mkdir objects; mv a.o objects; ar rcT lib/libthin.a objects/a.o",
            ..case("thin archive found", "main.o -Llib -lthin")
        },
        Case {
            prepare: "cp liba.a lib; gcc -shared b.o -o lib/libb.so
                echo 'INPUT(-la AS_NEEDED(-lb))' > lib/libs.so",
            ..case("script as a library", "main.o -Llib -ls")
        },
        Case {
            prepare: "mv liba.a lib; echo 'GROUP ( liba.a )' > lib/libs.so",
            ..case("script beside its file", "main.o -Llib -ls")
        },
        Case {
            // gold heeds SEARCH_DIR only in the script of -T.
            linkers: &["ld.bfd", "ld.lld", "ld.lld-19"],
            prepare: "gcc -shared b.o -o lib/libb.so; mv liba.a lib/libqq.a
                echo '/* x */ SEARCH_DIR(lib) GROUP ( -lqq AS_NEEDED ( lib/libb.so ) )' > in.ld",
            ..case("script as an input", "main.o in.ld")
        },
        Case {
            // gold ends by a segmentation fault.
            linkers: &["ld.bfd", "ld.lld", "ld.lld-19"],
            prepare: "gcc -shared b.o -o lib/libb.so; mv liba.a lib/libqq.a; mkdir scripts
                printf 'INCLUDE more.ld\\nGROUP ( AS_NEEDED ( lib/libb.so ) )' > in.ld
                echo 'SEARCH_DIR(lib) INPUT(-lqq)' > scripts/more.ld",
            ..case("script that includes", "main.o in.ld -Lscripts")
        },
        Case {
            linkers: BFD,
            prepare: "ld.bfd --verbose | sed -e '1,/=====/d' -e '/=====/,$d' > full.ld; echo 'INPUT(a.o)' >> full.ld",
            ..case("whole script", "main.o -Wl,-T,full.ld")
        },
        Case {
            linkers: BFD,
            prepare: "ld.bfd --verbose | sed -e '1,/=====/d' -e '/=====/,$d' -e '/^  \\.text  /{n;s/{/{ a.o(.text)/}' > full.ld
                mkdir scripts; mv full.ld scripts",
            ..case("file among sections", "main.o -Wl,-Lscripts -Wl,-T,full.ld")
        },
        Case {
            linkers: BFD,
            prepare: NEEDED,
            ..case("needed by rpath-link", "main.o -Llib -la -Wl,-rpath-link,lib/deep")
        },
        Case {
            linkers: BFD,
            prepare: NEEDED,
            ..case("needed by rpath", "main.o -Llib -la -Wl,-rpath,$PWD/none:$PWD/lib/deep")
        },
        Case {
            linkers: BFD,
            prepare: NEEDED,
            env: &[("LD_RUN_PATH", "PWD/lib/deep")],
            ..case("needed by LD_RUN_PATH", "main.o -Llib -la")
        },
        Case {
            linkers: BFD,
            prepare: "gcc -shared -Wl,-soname,libb.so.1 b.o -o lib/deep/libb.so.1
                echo 'int b(void); int a(void) { return b(); }' > a.c; gcc -fPIC -c a.c; rm liba.a
                gcc -shared a.o lib/deep/libb.so.1 -Wl,-rpath,'$ORIGIN/deep' -o lib/liba.so",
            ..case("needed by origin", "main.o -Llib -la")
        },
        Case {
            prepare: "gcc -shared -Wl,-soname,libb.so.1 b.o -o lib/deep/libb.so.1
                echo 'int b(void); int a(void) { return b(); }' > a.c; gcc -fPIC -c a.c; rm liba.a
                gcc -shared a.o lib/deep/libb.so.1 -Wl,-rpath,'$ORIGIN/deep' -o lib/liba.so",
            ..case("needed by a shared library", "-shared main.o -Llib -la -o out/libx.so")
        },
        Case {
            linkers: BFD,
            prepare: NEEDED,
            ..case(
                "needed by a strict shared library",
                "-shared main.o -Llib -la -o out/libx.so -Wl,--no-allow-shlib-undefined -Wl,-rpath-link,lib/deep",
            )
        },
        Case {
            linkers: &["ld.gold", "mold"],
            prepare: NEEDED,
            ..case("needed but not looked for", "main.o -Llib -la -Wl,-rpath-link,lib/deep")
        },
        Case {
            prepare: "echo 'int main(void) { return 0; }' > x.c; $CC -O2 -flto -c x.c",
            drivers: &["gcc"],
            linkers: &["ld.bfd", "ld.gold", "mold"],
            ..case("LTO", "-O2 -flto x.o -o out/x")
        },
        Case {
            prepare: "echo 'int main(void) { return 0; }' > x.c; $CC -O2 -flto -c x.c",
            drivers: &["clang"],
            linkers: NOT_MOLD,
            ..case("LTO of LLVM", "-O2 -flto x.o -o out/x")
        },
        Case {
            prepare: "echo 'int main(void) { return 0; }' > x.c; $CC -O2 -flto -ffat-lto-objects -c x.c",
            drivers: &["gcc"],
            linkers: &["ld.bfd", "ld.gold", "mold"],
            ..case("fat LTO", "-O2 -flto x.o -o out/x")
        },
        Case {
            prepare: "echo 'int main(void) { return 0; }' > x.c; $CC -O2 -flto=thin -c x.c",
            drivers: &["clang"],
            linkers: &["ld.bfd", "ld.gold", "ld.lld"],
            ..case("thin LTO", "-O2 -flto=thin x.o -o out/x")
        },
        Case { drivers: &["gcc"], ..case("OpenMP", "-fopenmp main.o a.o") },
        case("address sanitizer", "-fsanitize=address main.o a.o"),
        case("undefined behaviour sanitizer", "-fsanitize=undefined main.o a.o"),
        case("profile", "--coverage main.o a.o"),
        case("collected", "main.o a.o -Wl,--gc-sections,-z,now,-z,relro,-O1,--build-id=sha1"),
        Case {
            linkers: &["ld.gold", "ld.lld", "ld.lld-19", "mold"],
            ..case("folded", "main.o a.o -Wl,--icf=all,--gdb-index")
        },
        Case {
            // lld takes the first one that is there.
            linkers: &["ld.bfd", "ld.gold", "mold"],
            prepare: "echo 'int a(void) { return 2; }' > c.c; gcc -m32 -c c.c; mv liba.a lib/deep; ar rc lib/liba.a c.o",
            ..case("another machine's library first", "main.o -Llib -Llib/deep -la")
        },
        Case {
            linkers: BFD,
            prepare: NEEDED,
            env: &[("LD_LIBRARY_PATH", "PWD/lib/deep")],
            ..case("needed by LD_LIBRARY_PATH", "main.o -Llib -la")
        },
        Case {
            linkers: BFD,
            prepare: "gcc -shared -Wl,-soname,libb.so.1 b.o -o lib/deep/libb.so.1
                echo 'int b(void); int a(void) { return b(); }' > a.c; gcc -fPIC -c a.c; rm liba.a
                gcc -shared a.o lib/deep/libb.so.1 -o lib/liba.so
                mkdir -p sys/etc/more; mv lib/deep sys
                echo 'include more/*.conf' > sys/etc/ld.so.conf; echo /deep > sys/etc/more/a.conf",
            ..case("needed by the configuration", "main.o -Llib -la -Wl,--sysroot=$PWD/sys")
        },
        Case {
            prepare: "mkdir -p sys/lib; mv liba.a sys/lib; echo 'INPUT(/lib/liba.a)' > sys/lib/libs.so",
            drivers: &["gcc"],
            ..case("script in the sysroot", "main.o -Wl,--sysroot=$PWD/sys -Wl,-L=/lib -ls")
        },
        Case {
            prepare: "mv liba.a lib; gcc -shared b.o -o lib/libb.so",
            ..case("directory given later", "main.o -la -lb -Wl,-Llib")
        },
        Case {
            prepare: "echo 'int main(void) { return 0; }' > x.c; gcc -m32 -c x.c",
            drivers: &["gcc"],
            ..case(MULTILIB, "-m32 x.o -lm")
        },
        Case {
            linkers: &["ld.lld", "ld.lld-19"],
            drivers: &["clang"],
            prepare: "mv liba.a lib; sed -i '1i #pragma comment(lib, \"a\")' main.c; $CC -c main.c; ar rc libm.a main.o",
            ..case("library that an object asks for", "-Wl,-u,main libm.a -Llib")
        },
        Case { fails: true, ..case("missing library", "main.o a.o -lno_such_library") },
        // Clang says so itself.
        Case { fails: true, drivers: &["gcc"], ..case("missing file", "main.o no_such_file.o") },
        Case { fails: true, prepare: "head -c 100 liba.a > lib/libt.a", ..case("truncated archive", "main.o lib/libt.a") },
        Case { fails: true, prepare: "head -c 100 a.o > t.o", ..case("truncated object", "main.o t.o") },
        Case { linkers: NOT_MOLD, fails: true, prepare: "echo 'INCLUDE s.ld' > s.ld", ..case("endless script", "main.o a.o s.ld") },
    ]
}

/// How many files a linker read, and how many it did not that were found.
#[derive(Default)]
struct Compared {
    read: u32,
    excess: u32,
}

fn shell(script: &str, directory: &Path, env: &[(&str, &OsStr)]) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(directory).env("LC_ALL", "C");
    for name in ["LD_LIBRARY_PATH", "LD_RUN_PATH", "LIBRARY_PATH"] {
        command.env_remove(name);
    }
    run(command.envs(env.iter().copied()))
}

fn link_and_compare(case: &Case, driver: &str, linker: &Linker) -> Compared {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let project = root.join("project");
    let stand_in = root.join("stand-in");
    for directory in [&project, &stand_in] {
        std::fs::create_dir(directory).unwrap();
    }
    let (words_file, trace_file) = (root.join("words"), root.join("trace"));
    let text = format!(
        "#!/bin/sh\nprintf '%s\\0' \"$@\" > {}\nexec strace -f -e {TRACED} -o {} {} \"$@\" --dependency-file={}\n",
        words_file.display(),
        trace_file.display(),
        linker.program.display(),
        root.join("depfile").display(),
    );
    for name in ["ld", "real-ld"] {
        std::fs::write(stand_in.join(name), &text).unwrap();
        std::fs::set_permissions(stand_in.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let what = format!("{} by {driver} and {}", case.name, linker.name);
    let cc = OsString::from(format!("{driver} -B{}/", stand_in.display()));
    shell(&format!("{BASE}\n{}", case.prepare), &project, &[("CC", &cc)]).success();
    // What a preparation linked is not what is looked at.
    let _ = std::fs::remove_file(&words_file);
    let values: Vec<OsString> = case
        .env
        .iter()
        .map(|(_, value)| value.replace("PWD/", &format!("{}/", project.display())).into())
        .collect();
    let mut env: Vec<(&str, &OsStr)> =
        case.env.iter().zip(&values).map(|((name, _), value)| (*name, value.as_os_str())).collect();
    env.push(("CC", &cc));
    let finished = shell(&format!("$CC {}", case.link), &project, &env);
    assert_eq!(finished.status != 0, case.fails, "{what}: {finished}");
    let words =
        std::fs::read(&words_file).unwrap_or_else(|error| panic!("{what}: no words: {error}: {finished}"));
    let words: Vec<OsString> = words
        .split(|byte| *byte == 0)
        .map(|word| OsStr::from_bytes(word).to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    compare_words(&what, case, &cc, &project, &env, &words);

    let line = LinkLine::parse(&words).unwrap_or_else(|error| panic!("{what}: failed to {error}"));
    let variable = |name: &str| env.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    let no_directories = Vec::new();
    let emulation = line.emulation().unwrap_or_default().to_str().unwrap();
    let surroundings = Surroundings {
        cwd: &project,
        flavour: linker.flavour,
        sysroot: Path::new(""),
        search_directories: linker.search_directories.get(emulation).unwrap_or(&no_directories),
        library_path: variable("LD_LIBRARY_PATH"),
        run_path: variable("LD_RUN_PATH"),
    };
    let sources = Sources::new(Arc::new(Files::with_clock(long_after)));
    let resolved = resolve(&line, &surroundings, &sources);
    if case.fails {
        match resolved {
            Err(LinkError::Missing(_)) => assert!(case.name.starts_with("missing"), "{what}"),
            Err(LinkError::NotSure(_)) => assert_eq!(case.name, "endless script", "{what}"),
            Err(other) => panic!("{what}: failed to {other}"),
            Ok(_) => assert!(case.name.starts_with("truncated"), "{what}: found"),
        }
        return Compared::default();
    }
    let resolved = resolved.unwrap_or_else(|error| panic!("{what}: failed to {error}"));
    let again: Vec<_> = resolve(&line, &surroundings, &sources).unwrap();
    assert_eq!(resolved, again, "{what}: another answer the second time");

    let found: BTreeSet<PathBuf> = resolved.iter().map(|input| canonical(&input.path)).collect();
    let listed = read_depfile(&root.join("depfile"), &project);
    let trace = Trace::read(&trace_file, &project);
    let is_temporary = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        !file.exists()
            || name.starts_with("cc") && file.parent() == Some(&std::env::temp_dir())
            || file.starts_with(project.join("out"))
    };
    let plugins: BTreeSet<PathBuf> = line.plugins().map(canonical).collect();
    let is_own = |file: &Path| {
        linker.own.contains(file)
            || plugins.contains(file)
            || [
                "/usr/share/locale",
                "/usr/lib/locale",
                "/proc",
                "/sys",
                "/dev",
                "/usr/lib/bfd-plugins",
                "/etc/ssl",
            ]
            .iter()
            .any(|own| file.starts_with(own))
            || file.ends_with("gconv-modules.cache")
            || !plugins.is_empty() && is_library_of_plugin(file)
    };
    let read: BTreeSet<&PathBuf> = listed
        .iter()
        .chain(trace.opened.iter().filter(|file| !is_own(file)))
        .filter(|file| !is_temporary(file))
        .collect();
    let missing: Vec<_> = read.iter().filter(|file| !found.contains(**file)).collect();
    assert!(missing.is_empty(), "{what}: misses {missing:#?}\n{words:?}");
    let excess: Vec<PathBuf> = found.iter().filter(|file| !read.contains(file)).cloned().collect();
    for file in &excess {
        // A member of a thin archive that is not wanted, or a file that was only looked at.
        let is_known = case.name.starts_with("thin") || trace.looked_at.contains(file);
        assert!(is_known, "{what}: the linker has nothing to do with {}", file.display());
    }
    assert!(excess.len() <= 3, "{what}: too many in excess: {excess:?}");
    if !excess.is_empty() {
        println!("{what}: in excess {excess:?}");
    }
    Compared { read: u32::try_from(read.len()).unwrap(), excess: u32::try_from(excess.len()).unwrap() }
}

/// LLVM's plugin brings LLVM.
fn is_library_of_plugin(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let brought = [
        "libLLVM",
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libffi",
        "libedit",
        "libz",
        "libtinfo",
        "libxml2",
        "libbsd",
        "libicu",
        "liblzma",
        "libmd.",
        "ld.so.cache",
        "libm.so",
        "libc.so",
    ];
    brought.iter().any(|brought| name.starts_with(brought))
}

/// The files that the linker's own rule lists after its target.
fn read_depfile(depfile: &Path, cwd: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string(depfile).unwrap_or_default();
    let rule = text.replace("\\\n", " ");
    let first = rule.lines().next().unwrap_or_default();
    let Some((_, files)) = first.split_once(": ") else { return BTreeSet::new() };
    files.split_whitespace().map(|file| canonical(&cwd.join(file))).collect()
}

/// The driver must tell by `-###` the words that its linker gets, but for names of temporary files: that is how they are had
/// without a link.
fn compare_words(
    what: &str,
    case: &Case,
    cc: &OsStr,
    project: &Path,
    env: &[(&str, &OsStr)],
    words: &[OsString],
) {
    let told = shell(&format!("{} -### {}", cc.display(), case.link), project, env).stderr_text();
    let last = told.lines().rfind(|line| line.starts_with(' ')).unwrap_or_else(|| panic!("{what}: {told}"));
    let told: Vec<String> = shlex::split(last).unwrap().split_off(1);
    let is_temporary = |word: &str| word.contains("/tmp/") && !word.contains("project");
    let plain = |words: Vec<String>| -> Vec<String> {
        // collect2 keeps what is for itself.
        let words = words.into_iter().filter(|word| {
            !is_temporary(word) && !word.starts_with("-flto") && !word.starts_with("-fuse-ld")
        });
        words.collect()
    };
    let words = words.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
    assert_eq!(plain(told), plain(words), "{what}: the driver tells other words than it gives");
}

fn compare_all(drivers: &[&str]) {
    let linkers = Linker::installed();
    let only = std::env::var("FARCC_LINK_CASE").ok();
    let (mut links, mut read, mut excess) = (0_u32, 0, 0);
    let mut failures = Vec::new();
    for case in cases().into_iter().filter(|case| only.as_ref().is_none_or(|only| case.name == only)) {
        if case.name == MULTILIB && !has_multilib() {
            skipped(MULTILIB, "this machine has no C library for it");
            continue;
        }
        for driver in case.drivers.iter().filter(|driver| drivers.contains(driver)) {
            for linker in linkers.iter().filter(|linker| case.linkers.contains(&linker.name)) {
                match std::panic::catch_unwind(|| link_and_compare(&case, driver, linker)) {
                    Ok(compared) => {
                        links += 1;
                        read += compared.read;
                        excess += compared.excess;
                    }
                    Err(_) => failures.push(format!("{} by {driver} and {}", case.name, linker.name)),
                }
            }
        }
    }
    let share = 100.0 * f64::from(excess) / f64::from(read.max(1));
    let what = drivers.join(", ");
    farcc_tests::say(&format!("{what}: {links} links, {read} files read, {excess} in excess ({share:.2} %)"));
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), links);
    assert!(links > 0);
}

fn has_multilib() -> bool {
    let scratch = tempfile::tempdir().unwrap();
    shell("echo 'int main(void) { return 0; }' > x.c; gcc -m32 x.c", scratch.path(), &[]).status == 0
}

#[test]
fn the_resolver_finds_what_gcc_links() {
    compare_all(&["gcc", "g++"]);
}

#[test]
fn the_resolver_finds_what_clang_links() {
    compare_all(&["clang", "clang++"]);
}

//! What the scanner finds in small trees in memory, and that hostile input ends.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use expect_test::Expect;
use expect_test::expect;

use super::*;
use crate::digest::Digest;
use crate::files::Files;

const GCC_MACROS: &str = "#define __GNUC__ 12\n#define __STDC_HOSTED__ 1\n";

/// A clock by which what was written a moment ago counts as settled.
pub(super) fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// Files on the disk, with a C unit in them that has the include directories `a` and `b`.
pub(super) struct Tree {
    pub(super) directory: tempfile::TempDir,
    pub(super) unit: TranslationUnit,
}

impl Tree {
    /// A tree of these files, by their names.
    pub(super) fn new(files: &[(&str, &str)]) -> Tree {
        let directory = tempfile::tempdir().unwrap();
        let mut unit = unit(Language::C);
        unit.cwd = directory.path().to_owned();
        unit.search_path.angle = vec!["a".into(), "b".into()];
        let tree = Tree { directory, unit };
        // A directory without names tells nothing about its file system.
        for (name, text) in [("a/other.h", ""), ("b/other.h", "")].iter().chain(files) {
            tree.write(name, text);
        }
        tree
    }

    /// The path of a file of the tree.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and makes its directory.
    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), text).unwrap();
    }
}

/// A unit of `/w/main.c` for GCC 12 in its default mode, without a search path.
pub(super) fn unit(language: Language) -> TranslationUnit {
    let standard = match language {
        Language::Cxx | Language::ObjectiveCxx => "#define __cplusplus 201703L\n",
        Language::C | Language::ObjectiveC | Language::Assembler => "#define __STDC_VERSION__ 201710L\n",
    };
    TranslationUnit {
        cwd: PathBuf::from("/w"),
        source: PathBuf::from("main.c"),
        language,
        form: Form::Source,
        family: Family::Gcc,
        search_path: SearchPath::default(),
        predefined: Arc::new(Predefined::parse(format!("{GCC_MACROS}{standard}").as_bytes())),
        macros: Vec::new(),
        forced_includes: Vec::new(),
        lexing: Lexing::default(),
        answers: Arc::default(),
    }
}

/// Files from one text: `//- path` begins a file.
fn tree(fixture: &str) -> MemorySources {
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for line in fixture.split_inclusive('\n') {
        if let Some(path) = line.strip_prefix("//- ") {
            files.push((Path::new("/w").join(path.trim_end()), Vec::new()));
        } else if let Some((_, text)) = files.last_mut() {
            text.extend_from_slice(line.as_bytes());
        }
    }
    MemorySources::new(files)
}

fn describe(result: Result<Scan, ScanError>) -> String {
    match result {
        Ok(scan) => {
            let relative = |file: &PathBuf| file.strip_prefix("/w").unwrap_or(file).display().to_string();
            let names: Vec<_> = scan.paths().iter().map(relative).collect();
            names.join(" ")
        }
        Err(error) => error.to_string(),
    }
}

fn check(language: Language, fixture: &str, directories: &[&str], expected: &Expect) {
    let mut unit = unit(language);
    unit.search_path.angle = directories.iter().map(PathBuf::from).collect();
    unit.search_path.user_directories = directories.len();
    expected.assert_eq(&describe(scan(&unit, &tree(fixture))));
}

fn check_c(fixture: &str, expected: &Expect) {
    check(Language::C, fixture, &[], expected);
}

#[test]
fn include_next_continues_after_the_directory_of_the_current_file() {
    check(
        Language::C,
        "//- main.c\n#include <x.h>\n//- a/x.h\n#include_next <x.h>\n//- b/x.h\n",
        &["a", "b"],
        &expect![["main.c a/x.h b/x.h"]],
    );
}

#[test]
fn files_are_spelled_as_the_compiler_opens_them() {
    let fixture = "//- main.c\n#include \"a/../b/x.h\"\n#include \"/w/b/x.h\"\n//- b/x.h\n#include \"../y.h\"\n//- y.h\n";
    check_c(fixture, &expect![["main.c a/../b/x.h a/../b/../y.h b/x.h b/../y.h"]]);
}

#[test]
fn errors_name_what_and_where() {
    check_c(
        "//- main.c\n#include \"x.h\"\n//- x.h\n#include <y.h>\n",
        &expect![["find y.h, included from /w/x.h"]],
    );
    check_c("//- other.c\n", &expect![["find main.c, included from /w"]]);
    check_c("//- main.c\n#if 1\n", &expect![["follow the preprocessor: unbalanced conditionals: /w/main.c"]]);
    check_c(
        "//- main.c\n#define F(x) x\n#if F(1\n#endif\n",
        &expect![["follow the preprocessor: macro call: unterminated"]],
    );
    check_c(
        "//- main.c\n#ifdef 3\n#endif\n",
        &expect![["follow the preprocessor: malformed conditional: /w/main.c"]],
    );
    check_c("//- main.c\n#foo\n", &expect![["follow the preprocessor: unknown directive: /w/main.c"]]);
    // In a group that is skipped nothing of this matters.
    check_c(
        "//- main.c\n#if 0\n#foo\n#if F(1\n#ifdef 3\n#endif\n#endif\n#include no\n#endif\n",
        &expect![["main.c"]],
    );
}

#[test]
fn line_ends_and_byte_order_marks() {
    check_c(
        "//- main.c\n\u{feff}#include \"x.h\"\r\n#define A \\\r\n  1\r\n#if A\r\n#include \"y.h\"\r\n#endif\r\n//- x.h\n//- y.h\n",
        &expect![["main.c x.h y.h"]],
    );
    check_c("//- main.c\n#include \"x.h\" // no newline\n//- x.h\n#define X", &expect![["main.c x.h"]]);
    let mut clang = unit(Language::C);
    clang.family = Family::Clang;
    let result = describe(scan(&clang, &tree("//- main.c\nint a;\r#include \"x.h\"\n")));
    assert!(result.contains("lone carriage return"), "{result}");
}

#[test]
fn questions_are_collected_over_the_whole_unit() {
    let fixture = "//- main.c\n#if defined(__has_builtin) && __has_builtin( __builtin_expect )\n#define A\n#endif\n\
                   #include \"x.h\"\n//- x.h\n#ifdef __has_attribute\n#if __has_attribute (gnu :: unused)\n\
                   #include \"unused.h\"\n#endif\n#endif\n//- unused.h\n";
    let unit = unit(Language::C);
    let questions = match scan(&unit, &tree(fixture)) {
        Err(ScanError::Unanswered(questions)) => questions,
        other => panic!("{}", describe(other)),
    };
    expect![[r#"
        [
            "defined(__has_builtin)",
            "__has_builtin(__builtin_expect)",
            "defined(__has_attribute)",
            "__has_attribute(gnu::unused)",
        ]
    "#]]
    .assert_debug_eq(&questions);
    for question in questions {
        unit.answers.insert(question, 1);
    }
    assert_eq!(describe(scan(&unit, &tree(fixture))), "main.c x.h unused.h");
    // The unit's own macro of that name comes first.
    check_c(
        "//- main.c\n#define __has_builtin(x) 1\n#if __has_builtin(y)\n#include \"x.h\"\n#endif\n//- x.h\n",
        &expect![["main.c x.h"]],
    );
}

#[test]
fn the_time_of_a_file_is_told_from_that_of_the_compile() {
    let uses = |text: &str| {
        let found = scan(&unit(Language::C), &tree(&format!("//- main.c\n{text}"))).unwrap();
        (found.uses_time, found.uses_timestamp)
    };
    assert_eq!(uses("char *a = __DATE__;\n"), (true, false));
    assert_eq!(uses("char *a = __TIMESTAMP__;\n"), (false, true));
    assert_eq!(uses("char *a = __TIMESTAMP__ __TIME__;\n"), (true, true));
}

#[test]
fn time_macros_count_in_code_only() {
    let uses = |text: &str, defines: &[&str]| {
        let mut unit = unit(Language::C);
        unit.macros = defines.iter().map(|text| MacroOption::Define(OsString::from(text))).collect();
        let found = scan(&unit, &tree(&format!("//- main.c\n{text}"))).unwrap();
        found.uses_time || found.uses_timestamp
    };
    assert!(uses("char *a = __DATE__;\n", &[]));
    assert!(uses("#define A __TIME__\n", &[]));
    assert!(uses("int x; /* */ f(__TIMESTAMP__);", &[]));
    assert!(uses("int a;\n", &["NOW=__TIME__"]));
    assert!(uses("char *a = __DA\\\nTE__;\n", &[]));
    assert!(uses("#define P(a, b) a##b\nchar *a = P(__DA, TE__);\n", &[]));
    assert!(uses("#define P(a, b) a##b\nchar *a = P(__TIMESTAMP, __);\n", &[]));
    assert!(uses("char *a = P(_, _TIME__);\n", &[]));
    assert!(!uses("int __DATE, E___, NICE__, __FILE_TIME__, STAMP__X;\n", &[]));
    assert!(!uses("/* __DATE__ */ // __TIME__\nchar *a = \"__DATE__\"; int x__DATE__;\n", &[]));
    assert!(!uses("int TIMEOUT, __DATE__x;\n", &[]));
    assert!(!uses("char *a = __DATE__;\n", &["__DATE__=\"x\""]));
    assert!(uses("char *a = __DATE__ __TIME__;\n", &["__DATE__=\"x\""]));
}

#[test]
fn failed_lookups_are_listed() {
    let mut unit = unit(Language::C);
    unit.search_path.angle = vec!["a".into(), "/abs".into()];
    unit.search_path.user_directories = 2;
    let found = scan(
        &unit,
        &tree("//- main.c\n#include \"x.h\"\n#include <x.h>\n#if __has_include(<y.h>)\n#endif\n//- a/x.h\n"),
    );
    unit.answers.insert("defined(__has_include)".to_owned(), 1);
    assert!(matches!(found, Err(ScanError::Unanswered(_))));
    let found = scan(
        &unit,
        &tree("//- main.c\n#include \"x.h\"\n#include <x.h>\n#if __has_include(<y.h>)\n#endif\n//- a/x.h\n"),
    )
    .unwrap();
    let failed: BTreeSet<String> =
        found.failed_lookups.paths().map(|path| path.display().to_string()).collect();
    // The first include may be of a precompiled header.
    let expected = ["/abs/y.h", "/w/a/x.h.gch", "/w/a/y.h", "/w/x.h", "/w/x.h.gch"];
    assert_eq!(failed, expected.map(str::to_owned).into());
}

#[test]
fn bare_units_ask_for_has_include() {
    check_c("//- main.c\n#ifdef __has_include\n#endif\n", &expect![["answer defined(__has_include)"]]);
}

#[test]
fn stdc_predef_is_included_by_gcc_alone() {
    let sources = tree("//- main.c\n//- system/stdc-predef.h\n");
    let mut unit = unit(Language::C);
    unit.search_path.angle = vec!["system".into()];
    assert_eq!(describe(scan(&unit, &sources)), "main.c system/stdc-predef.h");
    // -nostdinc -Isystem.
    unit.search_path.user_directories = 1;
    assert_eq!(describe(scan(&unit, &sources)), "main.c");
    unit.search_path.user_directories = 0;
    unit.family = Family::Clang;
    assert_eq!(describe(scan(&unit, &sources)), "main.c");
}

#[test]
fn disk_sources_see_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let mut unit = unit(Language::C);
    unit.cwd = directory.path().to_owned();
    write("main.c", "#include \"a.h\"\n");
    write("a.h", "");
    write("b.h", "");
    // With the true clock the files are too young to be trusted, with the other they are cached.
    for clock in [SystemTime::now, || SystemTime::now() + Duration::from_secs(60)] {
        let files = Arc::new(Files::with_clock(clock));
        let sources = DiskSources::new(Arc::clone(&files));
        let names = |unit: &TranslationUnit| {
            let scan = scan(unit, &sources).unwrap();
            scan.paths()
                .iter()
                .map(|file| file.file_name().unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        write("main.c", "#include \"a.h\"\n");
        assert_eq!(names(&unit), ["main.c", "a.h"]);
        assert_eq!(names(&unit), ["main.c", "a.h"]);
        if files.now() < SystemTime::now() + Duration::from_secs(1) {
            // Same size, perhaps the same tick.
            write("main.c", "#include \"b.h\"\n");
            assert_eq!(names(&unit), ["main.c", "b.h"]);
        }
        write("main.c", "\n#include \"b.h\"\n#include \"a.h\"\n");
        assert_eq!(names(&unit), ["main.c", "b.h", "a.h"]);
    }
}

#[test]
fn disk_sources_tell_missing_from_unreadable() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let sources = DiskSources::new(Arc::new(Files::default()));
    std::fs::create_dir(path("d")).unwrap();
    std::fs::write(path("f"), "").unwrap();
    std::os::unix::fs::symlink("loop", path("loop")).unwrap();
    let load = |name: &str| sources.load(&path(name), Dialect::default());
    assert!(load("none").unwrap().is_none());
    assert!(load("d").unwrap().is_none());
    assert!(load("f/x").unwrap().is_none());
    assert!(load("f").unwrap().is_some());
    assert!(load("loop").is_err());
    let digest =
        |name: &str| sources.version(&path(name)).map(|version| version.map(|version| version.digest));
    assert_eq!(digest("none").unwrap(), None);
    assert_eq!(digest("d").unwrap(), None);
    assert_eq!(digest("f").unwrap(), Some(Digest::empty()));
    assert!(digest("loop").is_err());
    assert!(sources.version(Path::new("/dev/null")).is_err());
    assert!(sources.load(Path::new("/dev/null"), Dialect::default()).is_err());
}

/// A small generator of numbers (xorshift64), so that failures repeat.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    pub(super) fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// Scans one text as C, C++ and assembler, within a time that only a defect exceeds.
fn survives(text: &[u8]) -> String {
    let started = Instant::now();
    let mut last = String::new();
    for language in [Language::C, Language::Cxx, Language::Assembler] {
        for family in [Family::Gcc, Family::Clang] {
            let mut unit = unit(language);
            unit.family = family;
            if family == Family::Clang {
                let macros =
                    format!("{GCC_MACROS}#define __cplusplus 202002L\n#define __STDC_EMBED_FOUND__ 1\n");
                unit.predefined = Arc::new(Predefined::parse(macros.as_bytes()));
            }
            unit.search_path.embed = vec!["a".into()];
            unit.search_path.angle = vec!["".into(), "a".into()];
            let sources =
                MemorySources::new([("/w/main.c".into(), text.to_vec()), ("/w/a/x.h".into(), Vec::new())]);
            last = describe(scan(&unit, &sources));
        }
    }
    let start = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
    if started.elapsed() > Duration::from_secs(1) {
        println!("{start:?} took {:?}: {last}", started.elapsed());
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{start:?} took {:?}", started.elapsed());
    last
}

#[test]
fn hostile_files_end() {
    for text in [
        "#include \"main.c\"\n",
        "#include \"main.c\"\n#include \"main.c\"\n#include \"main.c\"\n",
        "#include __FILE__\n#include __FILE__\n",
        "#define A A A\n#if A\n#endif\n",
        "#define A B B\n#define B A A\n#if A\n#endif\n",
        "#define F(x) x x\n#if F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(F(1\n#endif\n",
        "/* unterminated",
        "#include \"x.h",
        "#include <x.h",
        "#if (",
        "#define",
        "#define F(",
        "#define F(a",
        "#define F(a,a) #",
        "#define F(a) # b",
        "#define F(...) __VA_OPT__(\n#if F(1)\n#endif\n",
        "#define F(...) __VA_OPT__ ( # )\n#if F(1)\n#endif\n",
        "#define A ## b",
        "#if 1 ## 2\n#endif",
        "#define P(a,b) a ## b\n#if P(<,:) P(,) P(+,+) P(\"a,\n#endif",
        "\\",
        "#\\",
        "#include \\\n\\\n\\\n",
        "\"\\",
        "'\\\n",
        "R\"(",
        "R\"aaaaaaaaaaaaaaaaaaaaaaaaaa(x)",
        "#pragma push_macro(\"",
        "#pragma pop_macro(\"X\")\n#pragma once\n#pragma\n",
        "??/\n",
        "%:",
        "%:%:include",
        "/\\\n*",
        "/",
        "#if __has_include(\n#endif",
        "#if __has_include\n#endif",
        "#if __has_attribute(((((\n#endif",
        "#else\n#elif\n#endif\n",
        "#line\n#if __LINE__\n#endif",
        "#if __INCLUDE_LEVEL__ == 0\n#include \"main.c\"\n#endif",
        "#import \"main.c\"\n#import \"a/../main.c\"\n",
    ] {
        survives(text.as_bytes());
    }
    let doubling: String = (0..60).map(|n| format!("#define A{} A{n} A{n}\n", n + 1)).collect();
    assert!(survives(format!("{doubling}#if A60\n#endif\n").as_bytes()).contains("follow"));
    let calls: String = (0..60).map(|n| format!("#define F{}(x) F{n}(x x)\n", n + 1)).collect();
    survives(format!("{calls}#if F60(1)\n#endif\n").as_bytes());
    let chain: String = (0..50_000).map(|n| format!("#define C{} C{n}\n", n + 1)).collect();
    survives(format!("{chain}#define C0 1\n#if C50000\n#include \"x.h\"\n#endif\n").as_bytes());
    survives("#if 1\n".repeat(200_000).as_bytes());
    survives(format!("{}{}", "#if 1\n".repeat(50_000), "#endif\n".repeat(50_000)).as_bytes());
    survives(
        format!("#define F(x) x\n#if {}1{}\n#endif\n", "F(".repeat(20_000), ")".repeat(20_000)).as_bytes(),
    );
    survives("#define X(a) a ## a\n".repeat(10_000).as_bytes());
    survives(format!("#define S(x) #x\n#include S({})\n", "a".repeat(1 << 20)).as_bytes());
    survives(&[b'"'; 100_000]);
    survives("/*".repeat(500_000).as_bytes());
    survives("R\"(".repeat(500_000).as_bytes());
    survives(format!("asm .incbin{}", "R\"(".repeat(300_000)).as_bytes());
    survives(format!("asm(\"{}", ".incbin \\\"".repeat(300_000)).as_bytes());
    survives(".incbin \"x\";".repeat(300_000).as_bytes());
    survives(".include \"main.c\"\n".repeat(30_000).as_bytes());
    survives("asm(\".include \\\"main.c\\\"\");\n".repeat(30_000).as_bytes());
    survives(
        format!("#if {}1{}\n#endif\n", "__has_embed(<x.h> limit(".repeat(20_000), "))".repeat(20_000))
            .as_bytes(),
    );
    survives(
        b"#define F() __has_embed(<x.h> limit(G)) \n#define G F\n#define E\n#if F()\n#elif __has_embed(<x.h> limit(G E ()))\n\
          #endif\n",
    );
    survives("E__".repeat(500_000).as_bytes());
    survives(format!("#embed {}\n", "<x.h> limit(".repeat(50_000)).as_bytes());
    survives("\\\n".repeat(500_000).as_bytes());
    survives("1'".repeat(500_000).as_bytes());
    survives("'a'".repeat(500_000).as_bytes());
    survives(format!("#if {}", "1'".repeat(500_000)).as_bytes());
    survives(format!("#{}{}'", " ".repeat(500_000), "<".repeat(500_000)).as_bytes());
    survives(
        format!("#define F({}z) z\n", (0..50_000).map(|n| format!("a{n},")).collect::<String>()).as_bytes(),
    );
    survives("\\ ".repeat(500_000).as_bytes());
}

#[test]
fn random_files_end() {
    const PIECES: &[&str] = &[
        "#",
        "include",
        "define ",
        "if ",
        "elif ",
        "else",
        "endif",
        "\n",
        "\n#",
        "\\\n",
        "\\",
        " ",
        "\"",
        "'",
        "<",
        ">",
        "(",
        ")",
        ",",
        "...",
        "##",
        "F",
        "A",
        "F(",
        "#define F(x,...) ",
        "#define A ",
        "x",
        "__VA_ARGS__",
        "__VA_OPT__(",
        "/*",
        "*/",
        "//",
        "R\"(",
        ")\"",
        "1",
        "0x",
        "'",
        "??=",
        "%:",
        "\r",
        "\r\n",
        "\u{feff}",
        "defined ",
        "__has_include(",
        "__FILE__",
        "__LINE__",
        "_Pragma(\"once\")",
        "#pragma once\n",
        "#include \"main.c\"\n",
        "#include <x.h>\n",
        "?",
        ":",
        "+",
        "-",
        "&&",
        "||",
        "!",
        "\0",
        "import ",
        "module",
        ".incbin",
        ".incbin \\\"x\\\"",
        "asm(\"",
        "#embed ",
        "__has_embed(",
        "limit(",
        "#if F(A)\n#endif\n",
    ];
    let mut random = Random::new(11);
    for _ in 0..3_000 {
        let length = random.below(60);
        let text: String = (0..length).map(|_| random.pick(PIECES)).collect();
        survives(text.as_bytes());
    }
    for _ in 0..1_000 {
        let length = random.below(200);
        let text: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        survives(&text);
    }
}

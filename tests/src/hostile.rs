//! What hostile input is fed to: each function takes any bytes, and returns whatever they are.
//! Knows nothing of where the bytes come from: the fuzz targets in `tests/fuzz` and a test share it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use farcc_proto::twin;
use farccd::compiler::depfile;
use farccd::digest::DigestFunction;
use farccd::mirror;
use farccd::mirror::RootedChange;
use farccd::preprocessor::Dialect;
use farccd::preprocessor::Family;
use farccd::preprocessor::ForcedInclude;
use farccd::preprocessor::Form;
use farccd::preprocessor::Language;
use farccd::preprocessor::Lexing;
use farccd::preprocessor::MacroOption;
use farccd::preprocessor::MemorySources;
use farccd::preprocessor::Predefined;
use farccd::preprocessor::SearchPath;
use farccd::preprocessor::SourceFile;
use farccd::preprocessor::Summaries;
use farccd::preprocessor::TranslationUnit;
use farccd::preprocessor::scan;
use prost::Message;

/// Languages, families and standards that read text differently.
const MODES: &[(Language, Family, &str)] = &[
    (Language::C, Family::Gcc, "#define __GNUC__ 12\n#define __STDC_VERSION__ 201710L\n"),
    (
        Language::C,
        Family::Clang,
        "#define __clang_major__ 19\n#define __STDC_VERSION__ 202311L\n#define __STDC_EMBED_FOUND__ 1\n",
    ),
    (Language::C, Family::Gcc, "#define __GNUC__ 12\n#define __STRICT_ANSI__ 1\n"),
    (Language::Cxx, Family::Gcc, "#define __GNUC__ 12\n#define __cplusplus 202002L\n"),
    (Language::ObjectiveCxx, Family::Clang, "#define __clang_major__ 14\n#define __cplusplus 201103L\n"),
    (Language::Assembler, Family::Gcc, "#define __GNUC__ 12\n#define __ASSEMBLER__ 1\n"),
];

fn unit(mode: &(Language, Family, &str)) -> TranslationUnit {
    let (language, family, macros) = mode;
    let answers = ["defined(__has_include)", "defined(__has_embed)", "defined(__has_builtin)"];
    TranslationUnit {
        cwd: PathBuf::from("/w"),
        source: PathBuf::from("main.c"),
        language: *language,
        form: Form::Source,
        family: *family,
        lexing: Lexing::default(),
        search_path: SearchPath {
            angle: vec!["a".into(), ".".into()],
            user_directories: 2,
            ..SearchPath::default()
        },
        predefined: Arc::new(Predefined::parse(macros.as_bytes())),
        macros: Vec::new(),
        forced_includes: Vec::new(),
        answers: Arc::new(answers.into_iter().map(|question| (question.to_owned(), 1)).collect()),
    }
}

/// Reads the bytes as changes of a tree, one after another, and then as a path and a symlink's target. What is let through lies
/// below its root, and is the same after another journey.
///
/// # Panics
/// It does not.
pub fn changes(data: &[u8]) {
    let mut left = data;
    let mut messages: Vec<twin::Change> = Vec::new();
    while let Ok(message) = twin::Change::decode_length_delimited(&mut left) {
        messages.push(message);
    }
    let mut pieces = data.splitn(2, |&byte| byte == 1);
    let path = pieces.next().unwrap_or_default().to_vec();
    let target = pieces.next().map(|target| twin::change::Now::Link(twin::Link { target: target.to_vec() }));
    messages.push(twin::Change { root: 1, path, now: target, rank: 0 });
    for message in messages {
        let Ok(read) = mirror::decode(DigestFunction::Sha256, 2, &message) else { continue };
        let root = Path::new("/root");
        let below = read.change.path.below(root);
        let names = below
            .strip_prefix(root)
            .map(|names| names.components().all(|name| matches!(name, Component::Normal(_))));
        assert!(read.root < 2 && names == Ok(true), "{read:?}");
        let again = mirror::encode(std::slice::from_ref(&read)).remove(0);
        let again = mirror::decode(DigestFunction::Sha256, 2, &again).ok();
        let ranked = |mut read: RootedChange| {
            read.change.written = read.change.written.map(|_| 1);
            read
        };
        assert_eq!(again, Some(ranked(read)));
    }
}

/// Strips the bytes as a source file, by the rules of every dialect.
pub fn lexer(data: &[u8]) {
    for mode in MODES {
        let unit = unit(mode);
        let dialect = Dialect::new(unit.language, unit.family, &unit.predefined);
        std::hint::black_box(SourceFile::parse(data, dialect));
    }
}

/// Scans a unit whose files are the pieces of the bytes between `0x01` bytes: the source, two headers, a forced include,
/// and an option `-D`. With summaries of headers it must find the same.
///
/// # Panics
/// It does not.
pub fn directives(data: &[u8]) {
    let mut pieces = data.split(|&byte| byte == 1);
    let names = ["main.c", "h", "a/h", "f"];
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .iter()
        .map(|name| (PathBuf::from("/w").join(name), pieces.next().unwrap_or_default().to_vec()))
        .collect();
    let sources = MemorySources::new(files);
    for mode in MODES {
        let mut unit = unit(mode);
        unit.forced_includes.push(ForcedInclude::Include("f".into()));
        unit.macros.extend(
            pieces.clone().take(3).map(|text| MacroOption::Define(OsString::from_vec(text.to_vec()))),
        );
        let replayed = scan(&unit, &sources);
        let summaries = Summaries::of_all();
        for _ in 0..2 {
            let summarized = summaries.scan(&unit, &sources);
            // Which of two errors comes first is left open, and so is what is too much work.
            if let (Ok(replayed), Ok(summarized)) = (&replayed, &summarized) {
                assert_eq!(replayed.paths(), summarized.paths(), "by summaries other files are found");
            }
        }
    }
}

/// Evaluates the bytes as the expression of an `#if`, beside a few macros.
pub fn expression(data: &[u8]) {
    let line: Vec<u8> =
        data.iter().map(|&byte| if matches!(byte, b'\n' | 1) { b' ' } else { byte }).collect();
    let macros =
        b"#define A 1\n#define F(a, b) (a ## b + A)\n#define V(...) #__VA_ARGS__ F(__VA_ARGS__)\n#if ";
    directives(&[macros, &line[..], b"\n#include \"h\"\n#endif\n"].concat());
}

/// Reads the bytes as a depfile.
pub fn depfile(data: &[u8]) {
    let _ = std::hint::black_box(depfile::parse(data));
}

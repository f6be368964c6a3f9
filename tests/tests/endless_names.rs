//! An endless stream of new names: what the scanner keeps for good has a limit, beyond which it is not sure.
//! A program of its own, since the limit is the process's.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;

use farccd::files::Files;
use farccd::preprocessor::DiskSources;
use farccd::preprocessor::Family;
use farccd::preprocessor::Form;
use farccd::preprocessor::Language;
use farccd::preprocessor::Lexing;
use farccd::preprocessor::Memo;
use farccd::preprocessor::Predefined;
use farccd::preprocessor::ScanError;
use farccd::preprocessor::SearchPath;
use farccd::preprocessor::TranslationUnit;

/// More than the scanner says that it keeps, and less than would be without a limit.
const MOST_BYTES: usize = 300 << 20;

#[test]
fn names_are_kept_up_to_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = TranslationUnit {
        cwd: directory.path().to_owned(),
        source: PathBuf::from("main.c"),
        language: Language::C,
        form: Form::Source,
        family: Family::Clang,
        lexing: Lexing::default(),
        search_path: SearchPath::default(),
        predefined: Arc::new(Predefined::parse(b"#define __STDC_VERSION__ 201710L\n")),
        macros: Vec::new(),
        forced_includes: Vec::new(),
        answers: Arc::default(),
    };
    let memo = Memo::new(DiskSources::new(Arc::new(Files::default())));
    let mut last = None;
    for round in 0..60 {
        let text: String =
            (0..100).map(|n| format!("#ifdef n{round}_{n}{}\n#endif\n", "x".repeat(100_000))).collect();
        std::fs::write(directory.path().join("main.c"), text).unwrap();
        last = Some(memo.scan(&unit));
        assert!(memo.sources().size_bytes() < MOST_BYTES, "round {round}: {}", memo.sources().size_bytes());
    }
    let Some(Err(ScanError::NotSure(why))) = last else { panic!("600 MB of names were kept: {last:?}") };
    assert!(why.contains("names"), "{why}");
}

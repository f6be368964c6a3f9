//! One compiler as it behaves under one set of flags: what it is, what it defines, where it looks.
//! Knows nothing of how the facts were learned or of single commands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::compiler::recollections::Recollection;
use crate::compiler::tools::Tools;
use crate::compiler::tools::ToolsRecord;
use crate::preprocessor::Answers;
use crate::preprocessor::Family;
use crate::preprocessor::Predefined;
use crate::preprocessor::SearchPath;

/// What is known of a compiler under one set of flags.
pub struct Toolchain {
    /// GCC or Clang, by its own macros.
    pub family: Family,
    /// The programs that a compile runs: driver, compiler proper, assembler. The version line is as `-v` prints it, and so
    /// is the target.
    pub tools: Arc<Tools>,
    /// Its own macros.
    pub predefined: Arc<Predefined>,
    /// Its built-in search path, exactly as `-v` prints it.
    pub search_path: SearchPath,
    /// Its answers to `__has_builtin(…)` and its kin, as far as it was asked.
    pub answers: Arc<Answers>,
    /// What stands for `-march=native` and its kin: flags that mean the same on every machine. Without such a flag among
    /// those that it was asked with, nothing of interest.
    pub native: Vec<String>,
    /// What is kept on disk.
    pub(super) record: Record,
}

/// The form of the record; another one is ignored.
pub(super) const FORMAT: u32 = 6;

/// A toolchain as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) is_clang: bool,
    pub(super) tools: ToolsRecord,
    pub(super) predefined: String,
    pub(super) quote: Vec<PathBuf>,
    pub(super) angle: Vec<PathBuf>,
    pub(super) answers: BTreeMap<String, i64>,
    pub(super) native: Vec<String>,
}

impl Recollection for Toolchain {
    type Record = Record;

    fn record(&self) -> Record {
        let answers = self.answers.iter().map(|entry| (entry.key().clone(), *entry.value())).collect();
        Record { answers, ..self.record.clone() }
    }

    fn recalled(record: Record) -> Option<Toolchain> {
        if record.format != FORMAT {
            return None;
        }
        let headers = record.quote.iter().chain(&record.angle).cloned().collect();
        let answers = Answers::new();
        for (question, value) in &record.answers {
            answers.insert(question.clone(), *value);
        }
        Some(Toolchain {
            family: if record.is_clang { Family::Clang } else { Family::Gcc },
            tools: Arc::new(record.tools.tools(headers)?),
            predefined: Arc::new(Predefined::parse(record.predefined.as_bytes())),
            search_path: SearchPath {
                quote: record.quote.clone(),
                angle: record.angle.clone(),
                ..SearchPath::default()
            },
            answers: Arc::new(answers),
            native: record.native.clone(),
            record,
        })
    }

    fn holds(&self, cwd: &Path, env: &[(OsString, OsString)]) -> bool {
        self.record.tools.holds(cwd, env)
    }
}

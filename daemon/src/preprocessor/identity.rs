//! What tells one unit from another, and what many of them have in common.
//! Knows nothing of what is remembered by it.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::digest::Digest;
use crate::digest::Hasher;
use crate::preprocessor::Family;
use crate::preprocessor::ForcedInclude;
use crate::preprocessor::Form;
use crate::preprocessor::Lexing;
use crate::preprocessor::MacroOption;
use crate::preprocessor::SearchPath;
use crate::preprocessor::TranslationUnit;

impl TranslationUnit {
    /// Everything that a scan depends on; `context` is the [`context`](TranslationUnit::context) of the same unit.
    pub(super) fn key(&self, context: Digest) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(Digest::hash(&context));
        hasher.field(self.source.as_os_str().as_bytes());
        number(&mut hasher, self.macros.len());
        for option in &self.macros {
            let (kind, text) = match option {
                MacroOption::Define(text) => (b"D", text),
                MacroOption::Undefine(text) => (b"U", text),
            };
            hasher.field(kind);
            hasher.field(text.as_bytes());
        }
        for include in &self.forced_includes {
            let (kind, file) = match include {
                ForcedInclude::Include(file) => (b"i", file),
                ForcedInclude::Macros(file) => (b"m", file),
                ForcedInclude::Text(file) => (b"t", file),
            };
            hasher.field(kind);
            hasher.field(file.as_os_str().as_bytes());
        }
        hasher.finish()
    }

    /// Everything that many units have in common: all but the source, the macros and what is read before the source. The
    /// compiler's macros and answers are known by their addresses: they are shared by all units of one toolchain, and
    /// replaced as a whole.
    pub(super) fn context(&self) -> Digest {
        let TranslationUnit {
            cwd,
            source: _,
            language,
            form,
            family,
            lexing: Lexing { trigraphs, no_operator_names },
            search_path: SearchPath { quote, angle, user_directories, embed, assembler },
            predefined,
            macros: _,
            forced_includes: _,
            answers,
        } = self;
        let mut hasher = Hasher::new();
        hasher.field(cwd.as_os_str().as_bytes());
        hasher.field(language.name().as_bytes());
        hasher.field(match form {
            Form::Source => b"source",
            Form::Preprocessed => b"preprocessed",
            Form::Header => b"header",
        });
        hasher.field(match family {
            Family::Gcc => b"gcc",
            Family::Clang => b"clang",
        });
        hasher.field(match trigraphs {
            None => b"",
            Some(false) => b"-",
            Some(true) => b"+",
        });
        number(&mut hasher, usize::from(*no_operator_names));
        number(&mut hasher, *user_directories);
        for directories in [quote, angle, embed, assembler] {
            number(&mut hasher, directories.len());
            directories.iter().for_each(|directory| hasher.field(directory.as_os_str().as_bytes()));
        }
        number(&mut hasher, Arc::as_ptr(predefined).addr());
        number(&mut hasher, Arc::as_ptr(answers).addr());
        hasher.finish()
    }
}

fn number(hasher: &mut Hasher, number: usize) {
    hasher.field(&number.to_le_bytes());
}

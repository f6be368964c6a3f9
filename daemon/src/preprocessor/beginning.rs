//! What a unit begins with: the macros and the files that its command line names, and what GCC includes by itself.
//! Knows nothing of how a file is replayed.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::paths;
use crate::preprocessor::Family;
use crate::preprocessor::ForcedInclude;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::preprocessor::MacroOption;
use crate::preprocessor::ScanError;
use crate::preprocessor::SourceFile;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::search::FileId;
use crate::preprocessor::skimmer::time_word;
use crate::preprocessor::source_file::Directive;
use crate::preprocessor::symbol::Symbol;

impl Replay<'_> {
    /// In the order of GCC and Clang: the command line's macros, `-imacros`, what GCC includes by itself,
    /// `-include`, the source.
    pub(super) fn unit(&mut self) -> Result<(), ScanError> {
        let unit = self.unit;
        let Some(source) = self.search.source(&unit.source)? else {
            return Err(ScanError::Missing {
                name: unit.source.display().to_string(),
                from: unit.cwd.clone(),
            });
        };
        self.open(source)?;
        if unit.form != Form::Source && unit.family == Family::Gcc {
            self.search.looks_for_precompiled = false;
        }
        if unit.form == Form::Preprocessed {
            return self.preprocessed(source);
        }
        for option in &unit.macros {
            self.macro_option(option)?;
        }
        self.forced = true;
        for forced in &unit.forced_includes {
            if let ForcedInclude::Macros(path) = forced {
                self.forced_include(path, true)?;
            }
        }
        if self.pre_includes() {
            // What the compiler includes by itself is never a precompiled header, nor in the way of one.
            let looks_for_precompiled = std::mem::take(&mut self.search.looks_for_precompiled);
            let start = self.search.first_angled();
            if let Some(found) = self.search.from(start, Symbol::of(b"stdc-predef.h"))? {
                self.enter(found.file, Some(found), false)?;
                self.run()?;
            }
            self.search.looks_for_precompiled = looks_for_precompiled;
        }
        for forced in &unit.forced_includes {
            match forced {
                ForcedInclude::Include(path) => self.forced_include(path, true)?,
                ForcedInclude::Text(path) => self.forced_include(path, false)?,
                ForcedInclude::Macros(_) => {}
            }
        }
        self.forced = false;
        self.enter(source, None, false)?;
        self.run()
    }

    /// Text that names no other files but those that the assembler reads.
    fn preprocessed(&mut self, source: FileId) -> Result<(), ScanError> {
        if self.unit.language != Language::Assembler {
            self.enter(source, None, false)?;
            return self.run();
        }
        let path = paths::absolute(&self.unit.cwd, &self.unit.source);
        let text = self.search.assembler_text(&path)?;
        for directive in text.iter().flat_map(|source| source.directives()) {
            if let Directive::Assembly(reads) = directive {
                self.assemble(reads)?;
            }
        }
        Ok(())
    }

    /// Whether GCC includes `stdc-predef.h`: when hosted and with its standard directories (gcc/c-family/c-opts.cc,
    /// `push_command_line_include`). Under `-nostdinc` only `-I` directories are left.
    fn pre_includes(&self) -> bool {
        self.unit.family == Family::Gcc
            && self.unit.predefined.integer(Symbol::STDC_HOSTED) != Some(0)
            && self.unit.search_path.angle.len() > self.unit.search_path.user_directories
    }

    fn macro_option(&mut self, option: &MacroOption) -> Result<(), ScanError> {
        let mut text = Vec::new();
        match option {
            MacroOption::Define(definition) => {
                text.extend_from_slice(b"#define ");
                // Both compilers ignore what follows a newline.
                let definition =
                    definition.as_bytes().split(|&byte| byte == b'\n').next().unwrap_or_default();
                match definition.iter().position(|&byte| byte == b'=') {
                    Some(equals) => {
                        text.extend_from_slice(&definition[..equals]);
                        text.push(b' ');
                        text.extend_from_slice(&definition[equals + 1..]);
                    }
                    None => {
                        text.extend_from_slice(definition);
                        text.extend_from_slice(b" 1");
                    }
                }
            }
            MacroOption::Undefine(name) => {
                text.extend_from_slice(b"#undef ");
                text.extend_from_slice(name.as_bytes());
            }
        }
        let line = SourceFile::parse(&text, self.dialect);
        self.time_words |= line.facts().time_words;
        for directive in line.directives() {
            match directive {
                Directive::Define(definition) => {
                    // `-D__DATE__=…`: what the word expands to is then known.
                    self.redefined_time_words |= time_word(definition.name);
                    self.define(definition);
                }
                Directive::Undefine(name) => self.undefine(*name),
                _ => return Err(ScanError::not_sure("macro option", String::from_utf8_lossy(&text))),
            }
        }
        Ok(())
    }

    fn forced_include(&mut self, path: &Path, may_be_precompiled: bool) -> Result<(), ScanError> {
        let name = Symbol::of(path.as_os_str().as_bytes());
        if may_be_precompiled && self.unit.family == Family::Clang {
            self.search.note_precompiled(name.text(), &[".pch", ".gch"])?;
        }
        let directory = self.search.working_directory();
        let found = self.search.from(Some(directory), name)?;
        let Some(found) = found else {
            return Err(ScanError::Missing { name: name.display(), from: self.unit.cwd.clone() });
        };
        self.search.looks_for_precompiled = false;
        self.enter(found.file, Some(found), false)?;
        self.run()
    }
}

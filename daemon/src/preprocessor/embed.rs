//! `#embed` and `__has_embed`: which file, and whether anything of it is left (C23 6.10.4, 6.10.2 p7).
//! Knows nothing of what becomes of the bytes.
//!
//! Clang's `Preprocessor::LookupEmbedFile` and the GCC 15 manual, "--embed-dir", agree on the look-up: `"…"` beside
//! the file, then along `--embed-dir`; `<…>` along `--embed-dir` alone.

use std::sync::Arc;

use crate::files::InputFile;
use crate::preprocessor::ScanError;
use crate::preprocessor::expand::Expansion;
use crate::preprocessor::expand::header_of;
use crate::preprocessor::expression;
use crate::preprocessor::recording::Event;
use crate::preprocessor::replay::INCLUDE_COST;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::search::DirectoryId;
use crate::preprocessor::source_file::Header;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;

/// What `__has_embed` is worth (C23 6.10.2 p7).
const NOT_FOUND: i64 = 0;
const FOUND: i64 = 1;
const EMPTY: i64 = 2;

/// How deep `__has_embed` may stand in limits of `__has_embed`; each level is a recursion.
const DEEPEST: u32 = 4;

impl Replay<'_> {
    /// Whether the compiler knows `#embed`: those that do define what `__has_embed` is worth.
    pub(super) fn knows_embed(&self) -> bool {
        self.unit.predefined.is_defined(Symbol::STDC_EMBED_FOUND)
    }

    /// The file that `header` names for `#embed`.
    pub(super) fn find_embedded(&mut self, header: Header) -> Result<Option<Arc<InputFile>>, ScanError> {
        let (Header::Quoted(name) | Header::Angled(name)) = header else { return Ok(None) };
        self.spend(INCLUDE_COST + self.embedded.len() + self.probed_data.len())?;
        if name.text().is_empty() {
            return Err(ScanError::NotSure("empty file name".to_owned()));
        }
        let mut directories = self.search.embed_directories();
        if matches!(header, Header::Quoted(_)) {
            directories.insert(0, self.own_directory());
        } else if directories.is_empty() {
            // An absolute name is found without any.
            directories.push(self.search.working_directory());
            if !name.text().starts_with(b"/") {
                return Ok(None);
            }
        }
        for directory in directories {
            if let Some(file) = self.search.data(directory, name)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The value of `__has_embed(…)`; its tokens come expanded.
    pub(super) fn has_embed(&mut self, tokens: &[Token]) -> Result<i64, ScanError> {
        self.looked_elsewhere();
        self.recording.note(Event::Unclear);
        let (header, parameters) = header_of(tokens)?;
        let parameters = read_parameters(parameters)?;
        let mut is_empty = false;
        for (name, value) in parameters {
            let name = name.text();
            let name = name.strip_prefix(b"__").and_then(|name| name.strip_suffix(b"__")).unwrap_or(name);
            match name {
                b"limit" => is_empty |= !self.embed_limit(value)?,
                b"prefix" | b"suffix" | b"if_empty" => {}
                // C23 6.10.2 p5: a parameter that is not supported.
                _ => return Ok(NOT_FOUND),
            }
        }
        let Some(file) = self.find_embedded(header)? else { return Ok(NOT_FOUND) };
        is_empty |= file.version.digest.size_bytes() == 0;
        if !self.probed_data.iter().any(|other| other.path == file.path) {
            self.probed_data.push(file);
        }
        Ok(if is_empty { EMPTY } else { FOUND })
    }

    /// The directory of the file that is being replayed.
    fn own_directory(&mut self) -> DirectoryId {
        match self.frames.last() {
            Some(frame) => self.search.file(frame.file).directory,
            None => self.search.working_directory(),
        }
    }

    /// Whether a limit leaves anything. A limit that asks for another one is a recursion.
    fn embed_limit(&mut self, value: &[Token]) -> Result<bool, ScanError> {
        if self.embed_depth == DEEPEST {
            return Err(ScanError::not_sure("#embed", "nested too deeply"));
        }
        self.embed_depth += 1;
        let limit = expression::evaluate(Expansion::new(self, value));
        self.embed_depth -= 1;
        limit
    }

    /// `#embed` itself.
    pub(super) fn embed(&mut self, header: Header) -> Result<(), ScanError> {
        self.recording.note(Event::Unclear);
        let (Header::Quoted(name) | Header::Angled(name)) = header else {
            return Err(self.not_sure_here("#embed"));
        };
        match self.find_embedded(header)? {
            Some(file) => {
                if !self.embedded.iter().any(|other| other.path == file.path) {
                    self.embedded.push(file);
                }
                Ok(())
            }
            None => Err(ScanError::Missing { name: name.display(), from: self.current_path().to_owned() }),
        }
    }
}

/// Each parameter with the tokens between its parentheses (C23 6.10.1, "pp-parameter").
fn read_parameters(mut tokens: &[Token]) -> Result<Vec<(Symbol, &[Token])>, ScanError> {
    // Vendors' parameters may change what is left of the file.
    let unknown = || ScanError::not_sure("#embed", "its parameters");
    let mut parameters = Vec::new();
    while let Some((name, rest)) = tokens.split_first() {
        if name.kind != Kind::Identifier {
            return Err(unknown());
        }
        tokens = rest;
        let mut value = &[][..];
        if rest.first().is_some_and(|token| token.is(Symbol::OPEN)) {
            let mut depth = 0_usize;
            let close = rest.iter().position(|token| {
                depth += usize::from(token.is(Symbol::OPEN));
                depth -= usize::from(token.is(Symbol::CLOSE));
                depth == 0
            });
            let close = close.ok_or_else(unknown)?;
            (value, tokens) = (&rest[1..close], &rest[close + 1..]);
        }
        parameters.push((name.text, value));
    }
    Ok(parameters)
}

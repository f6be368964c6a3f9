//! What names stand for at the point that a unit has reached: macros, the compiler's own names, and those whose value
//! changes from place to place.
//! Knows nothing of files, nor of what is done with the values.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::preprocessor::ScanError;
use crate::preprocessor::SourceFile;
use crate::preprocessor::decision::Circumstances;
use crate::preprocessor::decision::Recalled;
use crate::preprocessor::expand::Expansion;
use crate::preprocessor::expand::is_operator;
use crate::preprocessor::expression;
use crate::preprocessor::macros::Macro;
use crate::preprocessor::recording::Event;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::source_file::Tokens;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;

impl Replay<'_> {
    /// The value of an expression, from memory where it was decided under the same circumstances.
    pub(super) fn decide(
        &mut self,
        source: &SourceFile,
        tokens: Tokens,
        place: u32,
    ) -> Result<bool, ScanError> {
        let family = self.unit.family;
        // Whether `and` is an operator is no circumstance that is noted.
        let decisions = source.decisions(place).filter(|_| !self.unit.lexing.no_operator_names);
        let recalled = decisions.map(|known| known.recall(family, &self.macros, &self.unit.answers));
        if let Some(Recalled::Holds(holds, macros)) = recalled {
            self.spend(macros.len())?;
            if self.recording.is_on() {
                macros.iter().for_each(|(name, _)| self.recording.note(Event::Looked(*name)));
            }
            return Ok(holds);
        }
        if matches!(recalled, Some(Recalled::Nothing)) {
            self.circumstances = Some(Circumstances::default());
        }
        let holds = expression::evaluate(Expansion::new(self, source.tokens(tokens)));
        if let (Some(decisions), Some(circumstances), Ok(holds)) =
            (decisions, self.circumstances.take(), &holds)
        {
            decisions.keep(family, circumstances, *holds);
        }
        holds
    }

    /// The definition of `name`, noted among the circumstances of a condition.
    pub(super) fn macro_of(&mut self, name: Symbol) -> Option<Arc<Macro>> {
        self.recording.note(Event::Looked(name));
        if let Some(circumstances) = &mut self.circumstances {
            circumstances.looked_at_macro(name, self.macros.state(name));
        }
        self.macros.get(name).cloned()
    }

    /// Whether the unit undefined `name` itself, noted likewise.
    pub(super) fn is_undefined(&mut self, name: Symbol) -> bool {
        self.recording.note(Event::Looked(name));
        if let Some(circumstances) = &mut self.circumstances {
            circumstances.looked_at_macro(name, self.macros.state(name));
        }
        self.macros.is_undefined(name)
    }

    /// Notes that a condition depends on what cannot be compared later.
    pub(super) fn looked_elsewhere(&mut self) {
        if let Some(circumstances) = &mut self.circumstances {
            circumstances.looked_elsewhere();
        }
    }

    /// The compiler's answer, or `otherwise` while it is not known.
    pub(super) fn ask(&mut self, question: String, otherwise: i64) -> i64 {
        if let Some(answer) = self.unit.answers.get(&question) {
            if let Some(circumstances) = &mut self.circumstances {
                circumstances.got_answer(&question, *answer);
            }
            return *answer;
        }
        self.looked_elsewhere();
        self.recording.note(Event::Unclear);
        if self.asked.insert(question.clone()) {
            self.questions.push(question);
        }
        otherwise
    }

    /// C: a standard after C17.
    pub(super) fn is_after_c17(&self) -> bool {
        self.unit.predefined.integer(Symbol::STDC_VERSION) > Some(201_710)
    }

    /// What `defined` says of `name`.
    pub(super) fn is_defined(&mut self, name: Symbol) -> bool {
        if self.macro_of(name).is_some() {
            return true;
        }
        match name {
            _ if self.macros.is_undefined(name) => false,
            Symbol::FILE
            | Symbol::LINE_NUMBER
            | Symbol::COUNTER
            | Symbol::INCLUDE_LEVEL
            | Symbol::BASE_FILE
            | Symbol::DATE
            | Symbol::TIME
            | Symbol::TIMESTAMP => true,
            Symbol::FILE_NAME | Symbol::PRAGMA_OPERATOR | Symbol::FLT_EVAL_METHOD => self.ask_defined(name),
            _ => is_operator(name) && self.ask_defined(name),
        }
    }

    /// While the answer is open it is taken for yes, so that one pass finds as many questions as it can.
    fn ask_defined(&mut self, name: Symbol) -> bool {
        self.ask(format!("defined({})", name.display()), 1) != 0
    }

    /// A macro whose value changes from place to place.
    pub(super) fn dynamic_macro(&mut self, name: Symbol) -> Result<Option<Token>, ScanError> {
        let value = self.value_here(name)?;
        // What `__FLT_EVAL_METHOD__` is, the compiler answered: that is noted.
        if value.is_some() && name != Symbol::FLT_EVAL_METHOD {
            self.looked_elsewhere();
            self.recording.note(Event::Unclear);
        }
        Ok(value)
    }

    fn value_here(&mut self, name: Symbol) -> Result<Option<Token>, ScanError> {
        let number = |value: usize| Some(Token::number(Symbol::of(value.to_string().as_bytes())));
        let renumbered = self.frames.last().is_some_and(|frame| frame.renumbered);
        Ok(match name {
            Symbol::LINE_NUMBER if self.line > 0 && !renumbered => number(self.line as usize),
            Symbol::INCLUDE_LEVEL if !self.frames.is_empty() => {
                number(self.frames.len() - 1 + usize::from(self.forced))
            }
            Symbol::FILE if !renumbered => {
                let spelled = self.frames.last().map(|frame| &self.search.file(frame.file).spelled[..]);
                Some(self.string(name, spelled.unwrap_or_default())?)
            }
            Symbol::BASE_FILE => Some(self.string(name, self.unit.source.as_os_str().as_bytes())?),
            Symbol::FLT_EVAL_METHOD if self.is_defined(name) => {
                let value = self.ask(name.display(), 0);
                Some(Token::number(Symbol::of(value.to_string().as_bytes())))
            }
            Symbol::LINE_NUMBER
            | Symbol::INCLUDE_LEVEL
            | Symbol::FILE
            | Symbol::COUNTER
            | Symbol::DATE
            | Symbol::TIME
            | Symbol::TIMESTAMP
            | Symbol::FILE_NAME => return Err(self.not_sure_here("dynamic macro in a directive")),
            _ => None,
        })
    }

    fn string(&self, name: Symbol, text: &[u8]) -> Result<Token, ScanError> {
        if text.iter().any(|byte| matches!(byte, b'"' | b'\\' | b'\n')) {
            return Err(ScanError::not_sure("dynamic macro in a directive", name.display()));
        }
        let quoted = [b"\"", text, b"\""].concat();
        Ok(Token { kind: Kind::String, flags: 0, text: Symbol::of(&quoted) })
    }
}

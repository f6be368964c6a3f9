//! A source file reduced to what decides which files are read: its directives and a few facts.
//! Knows nothing of macros' values or of other files; the same for every unit that reads it in one dialect.

use std::sync::Arc;

use crate::fitted::fitted;
use crate::preprocessor::Dialect;
use crate::preprocessor::assembly::AssemblerRead;
use crate::preprocessor::decision::Decisions;
use crate::preprocessor::macros::Macro;
use crate::preprocessor::skimmer::Part;
use crate::preprocessor::skimmer::Skimmer;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::HeaderNames;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;
use crate::preprocessor::token::is_blank;
use crate::preprocessor::token::lex_line;
use crate::preprocessor::token::lex_token;

/// A stripped file, shared by all units.
#[derive(Debug)]
pub struct SourceFile {
    directives: Box<[Directive]>,
    tokens: Box<[Token]>,
    facts: Facts,
    decisions: Box<[Decisions]>,
    includes: bool,
}

/// What the scanner must know of the lines that are no directives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The macro that, when defined, makes the whole file empty.
    pub(super) guard: Option<Symbol>,
    /// Which of `__DATE__`, `__TIME__` and `__TIMESTAMP__` stand in code or in a macro's body, one bit each.
    pub(super) time_words: u8,
    /// A carriage return that no newline follows: a line's end for Clang, white space for GCC.
    pub(super) lone_carriage_return: bool,
    /// Something that the scanner cannot follow, wherever it stands in the file.
    pub(super) not_sure: Option<&'static str>,
}

/// A stretch of a file's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tokens {
    start: u32,
    end: u32,
}

/// How an included file is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Quoted(Symbol),
    Angled(Symbol),
    Computed(Tokens),
}

/// Which of the including directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Including {
    Include,
    Next,
    Import,
}

/// Where the other parts of a conditional stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Links {
    /// The next `#elif`, `#else` or `#endif` of this conditional; past the last directive if it has none.
    pub(super) next: u32,
    /// Its `#endif`; past the last directive if it has none.
    pub(super) end: u32,
}

/// What a conditional's branch asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its tokens, its line, and the place of its decisions.
    Expression(Tokens, u32, u32),
    Defined(Symbol),
    Undefined(Symbol),
    /// `#else`.
    Always,
    /// A line that a compiler rejects if it gets there.
    Malformed,
}

#[derive(Debug, Clone)]
pub(super) enum Directive {
    /// `#if`, `#ifdef`, `#ifndef`.
    If(Condition, Links),
    /// `#elif`, `#elifdef`, `#elifndef`, `#else`.
    Else(Condition, Links),
    Endif,
    Define(Arc<Macro>),
    Undefine(Symbol),
    Include(Including, Header, u32),
    /// `#embed`; whatever its parameters leave of the file, the compiler reads it.
    Embed(Header, u32),
    PragmaOnce,
    PushMacro(Symbol),
    PopMacro(Symbol),
    /// `#line` and line markers, with the file that they name: `__LINE__` and `__FILE__` are no longer what they were.
    Line(Option<Symbol>),
    /// A line of code, or a macro's body, by which the assembler reads files.
    Assembly(Box<[AssemblerRead]>),
    /// A line of code that declares or imports a module where the language has modules.
    Module,
    /// What the scanner cannot follow, if it is in an active group; a stable reason.
    NotSure(&'static str),
}

impl SourceFile {
    /// Strips `text`.
    pub fn parse(text: &[u8], dialect: Dialect) -> SourceFile {
        let mut skimmer = Skimmer::new(text, dialect);
        let mut builder = Builder::new(dialect);
        while let Some(part) = skimmer.next_part() {
            let line = match part {
                Part::Directive(line) => line,
                Part::Assembly(reads) => {
                    builder.directives.push(Directive::Assembly(reads.into()));
                    continue;
                }
                Part::Module => {
                    builder.directives.push(Directive::Module);
                    continue;
                }
            };
            builder.directive(&line.text, line.number, line.spliced);
            if !line.reads.is_empty() {
                builder.directives.push(Directive::Assembly(line.reads.into()));
            }
            if builder.directives.len() == 1 {
                builder.code_before = line.code_before;
            }
            skimmer.recycle(line.text);
        }
        let (mut facts, code_since_last) = skimmer.finish();
        builder.close();
        if !builder.code_before && !code_since_last {
            facts.guard = builder.guard();
        }
        if builder.unbalanced {
            facts.not_sure.get_or_insert("unbalanced conditionals");
        }
        let Builder { directives, tokens, conditions, .. } = builder;
        let decisions = (0..conditions).map(|_| Decisions::default()).collect();
        let (directives, tokens) = (fitted(directives), fitted(tokens));
        let includes = directives.iter().any(|directive| matches!(directive, Directive::Include(..)));
        SourceFile { directives, tokens, facts, decisions, includes }
    }

    pub(super) fn directives(&self) -> &[Directive] {
        &self.directives
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn tokens(&self, tokens: Tokens) -> &[Token] {
        self.tokens.get(tokens.start as usize..tokens.end as usize).unwrap_or_default()
    }

    /// What is known of a condition's value; the place is that in [`Condition::Expression`].
    pub(super) fn decisions(&self, place: u32) -> Option<&Decisions> {
        self.decisions.get(place as usize)
    }

    /// Whether it includes others.
    pub(super) fn includes(&self) -> bool {
        self.includes
    }

    /// Whether an included file may be looked for next to this one.
    pub(super) fn has_quoted_includes(&self) -> bool {
        let looks_beside = |directive: &Directive| match directive {
            Directive::Include(_, header, _) | Directive::Embed(header, _) => {
                !matches!(header, Header::Angled(_))
            }
            _ => false,
        };
        let asks =
            |token: &Token| token.text == Symbol::HAS_INCLUDE || token.text == Symbol::HAS_INCLUDE_NEXT;
        self.directives.iter().any(looks_beside) || self.tokens.iter().any(asks)
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let bodies: usize = self
            .directives
            .iter()
            .map(|directive| match directive {
                Directive::Define(definition) => 64 + size_of_val(&*definition.body),
                Directive::Assembly(reads) => size_of_val(&**reads),
                _ => 0,
            })
            .sum();
        // A decision is a few names; it comes later, and for most conditions.
        let decisions = self.decisions.len() * (size_of::<Decisions>() + 128);
        size_of::<SourceFile>()
            + bodies
            + decisions
            + size_of_val(&*self.directives)
            + size_of_val(&*self.tokens)
    }
}

/// Collects directives in order and ties the parts of each conditional together.
struct Builder {
    dialect: Dialect,
    directives: Vec<Directive>,
    tokens: Vec<Token>,
    /// For each open conditional, the indices of its parts so far.
    open: Vec<Vec<usize>>,
    code_before: bool,
    unbalanced: bool,
    scratch: Vec<Token>,
    /// How many conditions are expressions.
    conditions: u32,
}

impl Builder {
    fn new(dialect: Dialect) -> Builder {
        Builder {
            dialect,
            directives: Vec::new(),
            tokens: Vec::new(),
            open: Vec::new(),
            code_before: false,
            unbalanced: false,
            scratch: Vec::new(),
            conditions: 0,
        }
    }

    /// One directive; `line` is what follows `#`, without comments and splices.
    fn directive(&mut self, line: &[u8], number: u32, spliced: bool) {
        let Some(start) = line.iter().position(|&byte| !is_blank(byte)) else {
            return; // The null directive.
        };
        let (kind, name, end) = lex_token(line, start, self.dialect);
        let rest = &line[end..];
        let header_names = match name {
            Symbol::INCLUDE | Symbol::INCLUDE_NEXT | Symbol::IMPORT | Symbol::EMBED => HeaderNames::First,
            Symbol::IF | Symbol::ELIF => HeaderNames::AfterHasInclude,
            _ => HeaderNames::Nowhere,
        };
        let lexes = match name {
            Symbol::ERROR | Symbol::WARNING | Symbol::IDENT | Symbol::SCCS | Symbol::ENDIF | Symbol::ELSE => {
                false
            }
            _ => matches!(kind, Kind::Identifier | Kind::Number),
        };
        let mut tokens = std::mem::take(&mut self.scratch);
        tokens.clear();
        if lexes {
            lex_line(rest, self.dialect, header_names, &mut tokens);
        }
        match name {
            // The line's number counts for `__LINE__`; a spliced line has several.
            Symbol::IF | Symbol::ELIF => {
                let number = if spliced { 0 } else { number };
                let condition = Condition::Expression(self.keep(&tokens), number, self.conditions);
                self.conditions += 1;
                self.conditional(name == Symbol::IF, condition);
            }
            Symbol::IFDEF => self.conditional(true, named(&tokens, Condition::Defined)),
            Symbol::IFNDEF => self.conditional(true, named(&tokens, Condition::Undefined)),
            Symbol::ELIFDEF if self.dialect.elifdef => {
                self.conditional(false, named(&tokens, Condition::Defined));
            }
            Symbol::ELIFNDEF if self.dialect.elifdef => {
                self.conditional(false, named(&tokens, Condition::Undefined));
            }
            Symbol::ELSE => self.conditional(false, Condition::Always),
            Symbol::ENDIF => self.endif(),
            _ => {
                if let Some(directive) = self.plain(kind, name, &tokens, rest, number) {
                    self.directives.push(directive);
                }
            }
        }
        self.scratch = tokens;
    }

    /// A directive that is no conditional; None if it does not matter.
    fn plain(
        &mut self,
        kind: Kind,
        name: Symbol,
        tokens: &[Token],
        rest: &[u8],
        number: u32,
    ) -> Option<Directive> {
        let mut including = |including| Directive::Include(including, self.header(tokens, rest), number);
        match name {
            Symbol::DEFINE => Some(match Macro::define(tokens) {
                Some(definition) => Directive::Define(Arc::new(definition)),
                None => Directive::NotSure("malformed #define"),
            }),
            Symbol::UNDEF => Some(match tokens.first() {
                Some(token) if token.kind == Kind::Identifier => Directive::Undefine(token.text),
                _ => Directive::NotSure("malformed #undef"),
            }),
            Symbol::INCLUDE => Some(including(Including::Include)),
            Symbol::INCLUDE_NEXT => Some(including(Including::Next)),
            Symbol::IMPORT => Some(including(Including::Import)),
            Symbol::PRAGMA => pragma(tokens),
            Symbol::LINE => Some(Directive::Line(named_file(tokens))),
            Symbol::EMBED => Some(Directive::Embed(self.header(tokens, rest), number)),
            Symbol::ASSERT | Symbol::UNASSERT => Some(Directive::NotSure("assertion")),
            // What a compiler thinks of them is its own affair: they read nothing and define nothing.
            Symbol::ERROR | Symbol::WARNING | Symbol::IDENT | Symbol::SCCS => None,
            _ if self.dialect.assembler => None,
            // `# 33 "file"`: a line marker.
            _ if kind == Kind::Number => Some(Directive::Line(named_file(tokens))),
            _ => Some(Directive::NotSure("unknown directive")),
        }
    }

    fn header(&mut self, tokens: &[Token], rest: &[u8]) -> Header {
        match tokens.first() {
            Some(Token { kind: Kind::HeaderName, text, .. }) => Header::Angled(*text),
            _ => match quoted_header(rest) {
                Some(name) => Header::Quoted(Symbol::of(name)),
                None => Header::Computed(self.keep(tokens)),
            },
        }
    }

    fn keep(&mut self, tokens: &[Token]) -> Tokens {
        let start = index(self.tokens.len());
        self.tokens.extend_from_slice(tokens);
        Tokens { start, end: index(self.tokens.len()) }
    }

    fn conditional(&mut self, opens: bool, condition: Condition) {
        let at = self.directives.len();
        if opens {
            self.open.push(vec![at]);
            self.directives.push(Directive::If(condition, Links::default()));
        } else if let Some(parts) = self.open.last_mut() {
            // Only `#endif` may follow `#else`.
            if let Some(Directive::Else(Condition::Always, _)) = parts.last().map(|&at| &self.directives[at])
            {
                self.unbalanced = true;
            }
            parts.push(at);
            self.directives.push(Directive::Else(condition, Links::default()));
        } else {
            self.unbalanced = true;
        }
    }

    fn endif(&mut self) {
        match self.open.pop() {
            Some(parts) => {
                let end = self.directives.len();
                self.directives.push(Directive::Endif);
                self.link(&parts, end);
            }
            None => self.unbalanced = true,
        }
    }

    fn link(&mut self, parts: &[usize], end: usize) {
        for (position, &part) in parts.iter().enumerate() {
            let next = parts.get(position + 1).copied().unwrap_or(end);
            if let Directive::If(_, links) | Directive::Else(_, links) = &mut self.directives[part] {
                *links = Links { next: index(next), end: index(end) };
            }
        }
    }

    /// Conditionals that are still open at the end of the file.
    fn close(&mut self) {
        while let Some(parts) = self.open.pop() {
            self.unbalanced = true;
            self.link(&parts, self.directives.len());
        }
    }

    /// The macro that guards the whole file: one conditional, without `#else`, around everything (GCC, "The
    /// Multiple-Include Optimization").
    fn guard(&self) -> Option<Symbol> {
        let Some(Directive::If(condition, links)) = self.directives.first() else { return None };
        if links.next != links.end || links.end as usize + 1 != self.directives.len() {
            return None;
        }
        match *condition {
            Condition::Undefined(name) => Some(name),
            Condition::Expression(tokens, ..) => {
                let tokens = self.tokens.get(tokens.start as usize..tokens.end as usize)?;
                let name = match tokens {
                    [not, defined, name] if not.is(Symbol::NOT) && defined.text == Symbol::DEFINED => name,
                    [not, defined, open, name, close]
                        if not.is(Symbol::NOT)
                            && defined.text == Symbol::DEFINED
                            && open.is(Symbol::OPEN)
                            && close.is(Symbol::CLOSE) =>
                    {
                        name
                    }
                    _ => return None,
                };
                (name.kind == Kind::Identifier).then_some(name.text)
            }
            _ => None,
        }
    }
}

fn named(tokens: &[Token], condition: fn(Symbol) -> Condition) -> Condition {
    match tokens.first() {
        Some(token) if token.kind == Kind::Identifier => condition(token.text),
        _ => Condition::Malformed,
    }
}

/// The name in `"…"` at the start of `rest`. Backslashes in it are ordinary (C17 6.4.7 p3, as GCC reads it).
fn quoted_header(rest: &[u8]) -> Option<&[u8]> {
    let rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
    rest.iter().position(|&byte| byte == b'"').map(|end| &rest[..end])
}

/// The file that a `#line` or a line marker names; not where a macro or an escape stands for it.
fn named_file(tokens: &[Token]) -> Option<Symbol> {
    let string = tokens.iter().find(|token| token.kind == Kind::String)?;
    let name = string.text.text().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    // `<built-in>` is none.
    let is_plain = !name.is_empty() && !name.starts_with(b"<") && !name.contains(&b'\\');
    is_plain.then(|| Symbol::of(name))
}

/// Only a few pragmas matter.
fn pragma(tokens: &[Token]) -> Option<Directive> {
    let name = |token: &Token| match token.kind {
        Kind::String => {
            let text = token.text.text();
            Some(Symbol::of(text.strip_prefix(b"\"")?.strip_suffix(b"\"")?))
        }
        _ => None,
    };
    let argument = || match tokens {
        [_, open, string, ..] if open.is(Symbol::OPEN) => name(string),
        _ => None,
    };
    match tokens {
        [first, ..] if first.text == Symbol::ONCE => Some(Directive::PragmaOnce),
        [first, ..] if first.text == Symbol::PUSH_MACRO => argument().map(Directive::PushMacro),
        [first, ..] if first.text == Symbol::POP_MACRO => argument().map(Directive::PopMacro),
        [first, second, ..] if first.text == Symbol::GCC => match second.text {
            Symbol::DEPENDENCY => Some(Directive::NotSure("#pragma GCC dependency")),
            Symbol::PCH_PREPROCESS => Some(Directive::NotSure("precompiled header")),
            _ => None,
        },
        [first, second, ..] if first.text == Symbol::CLANG && second.text == Symbol::MODULE => {
            Some(Directive::NotSure("modules"))
        }
        _ => None,
    }
}

/// A file of more than 4 G directives does not fit the memory that would hold it.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

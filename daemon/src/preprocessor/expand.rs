//! Macro expansion of a directive's tokens, the way GCC and Clang do it: a macro is disabled while its expansion is
//! being read, and a name met then is painted for good (C17 6.10.3.4 p2).
//! Knows nothing of what the expanded tokens are for.

use std::sync::Arc;

use crate::preprocessor::Family;
use crate::preprocessor::ScanError;
use crate::preprocessor::macros::Macro;
use crate::preprocessor::macros::Parameters;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::source_file::Header;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::symbol::SymbolMap;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;
use crate::preprocessor::token::lex_token;

/// No path has more bytes (`PATH_MAX` of Linux).
const LONGEST_NAME: usize = 4096;

/// How deep arguments may nest in arguments; each level is a recursion.
const DEEPEST: u32 = 100;

/// The expansion of one stretch of tokens, produced one token at a time.
pub(super) struct Expansion<'r, 'a> {
    pub(super) replay: &'r mut Replay<'a>,
    input: &'r [Token],
    at: usize,
    /// Expansions that are being read, innermost last.
    contexts: Vec<Context>,
    /// The macros of `contexts`, and those of the expansions around an argument.
    disabled: SymbolMap<Symbol, ()>,
    depth: u32,
    /// More than zero inside an operand that is not evaluated: the compiler is asked nothing for it.
    pub(super) unevaluated: u32,
}

struct Context {
    tokens: ContextTokens,
    at: usize,
    /// The macro to enable again at the end.
    disables: Option<Symbol>,
    /// The first token's white space.
    lead: u8,
}

enum ContextTokens {
    Body(Arc<Macro>),
    Made(Vec<Token>),
}

impl Context {
    fn next(&mut self) -> Option<Token> {
        let tokens = match &self.tokens {
            ContextTokens::Body(definition) => &definition.body[..],
            ContextTokens::Made(tokens) => tokens,
        };
        let mut token = *tokens.get(self.at)?;
        if self.at == 0 {
            token.flags = token.flags & !Token::SPACE | self.lead;
        }
        self.at += 1;
        Some(token)
    }
}

impl<'r, 'a> Expansion<'r, 'a> {
    pub(super) fn new(replay: &'r mut Replay<'a>, input: &'r [Token]) -> Expansion<'r, 'a> {
        Expansion {
            replay,
            input,
            at: 0,
            contexts: Vec::new(),
            disabled: SymbolMap::default(),
            depth: 0,
            unevaluated: 0,
        }
    }

    /// The next token as it stands.
    pub(super) fn next_unexpanded(&mut self) -> Result<Option<Token>, ScanError> {
        loop {
            let Some(context) = self.contexts.last_mut() else {
                let Some(&token) = self.input.get(self.at) else { return Ok(None) };
                self.at += 1;
                return self.painted(token);
            };
            if let Some(token) = context.next() {
                return self.painted(token);
            }
            if let Some(name) = self.contexts.pop().and_then(|context| context.disables) {
                self.disabled.remove(&name);
            }
        }
    }

    fn painted(&mut self, mut token: Token) -> Result<Option<Token>, ScanError> {
        self.replay.spend(1)?;
        if token.kind == Kind::Identifier
            && !self.disabled.is_empty()
            && self.disabled.contains_key(&token.text)
        {
            token.flags |= Token::PAINTED;
        }
        Ok(Some(token))
    }

    /// The next token, expanded.
    pub(super) fn next(&mut self) -> Result<Option<Token>, ScanError> {
        while let Some(token) = self.next_unexpanded()? {
            if token.kind != Kind::Identifier || token.has(Token::PAINTED) {
                return Ok(Some(token));
            }
            match self.replay.macro_of(token.text) {
                Some(definition) => {
                    if !self.enter(&definition, token)? {
                        return Ok(Some(token));
                    }
                }
                None => return Ok(Some(self.built_in(token)?.unwrap_or(token))),
            }
        }
        Ok(None)
    }

    /// All remaining tokens, expanded.
    fn rest(&mut self) -> Result<Vec<Token>, ScanError> {
        let mut tokens = Vec::new();
        while let Some(token) = self.next()? {
            tokens.push(token);
        }
        Ok(tokens)
    }

    /// Begins to read the expansion of `definition` for `name`. False: it is function-like, and no `(` follows.
    fn enter(&mut self, definition: &Arc<Macro>, name: Token) -> Result<bool, ScanError> {
        let tokens = match definition.parameters {
            None if !definition.pastes => ContextTokens::Body(Arc::clone(definition)),
            None => ContextTokens::Made(self.substitute(definition, &definition.body, &mut Vec::new())?),
            Some(parameters) => {
                let Some(mut arguments) = self.arguments(parameters)? else { return Ok(false) };
                ContextTokens::Made(self.substitute(definition, &definition.body, &mut arguments)?)
            }
        };
        self.disabled.insert(definition.name, ());
        // GCC keeps the white space before an expansion outside of its first token.
        let lead = if self.replay.unit.family == Family::Clang { name.flags & Token::SPACE } else { 0 };
        self.contexts.push(Context { tokens, at: 0, disables: Some(definition.name), lead });
        Ok(true)
    }

    /// The arguments of a call; None if no `(` follows (C17 6.10.3 p10, p11).
    fn arguments(&mut self, parameters: Parameters) -> Result<Option<Vec<Argument>>, ScanError> {
        match self.next_unexpanded()? {
            Some(token) if token.is(Symbol::OPEN) => {}
            Some(token) => {
                let lead = token.flags & Token::SPACE;
                let tokens = ContextTokens::Made(vec![token]);
                self.contexts.push(Context { tokens, at: 0, disables: None, lead });
                return Ok(None);
            }
            None => return Ok(None),
        }
        let mut arguments = vec![Vec::new()];
        let mut depth = 0u32;
        loop {
            let Some(token) = self.next_unexpanded()? else {
                return Err(ScanError::not_sure("macro call", "unterminated"));
            };
            let in_variadic = parameters.variadic && arguments.len() == parameters.count;
            match token.text {
                Symbol::OPEN if token.kind == Kind::Punctuator => depth += 1,
                Symbol::CLOSE if token.kind == Kind::Punctuator => {
                    let Some(outer) = depth.checked_sub(1) else { break };
                    depth = outer;
                }
                Symbol::COMMA if token.kind == Kind::Punctuator && depth == 0 && !in_variadic => {
                    if arguments.len() >= parameters.count {
                        return Err(ScanError::not_sure("macro call", "wrong number of arguments"));
                    }
                    arguments.push(Vec::new());
                    continue;
                }
                _ => {}
            }
            if let Some(last) = arguments.last_mut() {
                last.push(token);
            }
        }
        let lone_and_empty = arguments.len() == 1 && arguments[0].is_empty();
        let omitted = parameters.variadic
            && (arguments.len() < parameters.count || lone_and_empty && !self.keeps_comma_before_nothing());
        if parameters.variadic && arguments.len() + 1 == parameters.count {
            arguments.push(Vec::new());
        }
        let none_given = parameters.count == 0 && lone_and_empty;
        if arguments.len() != parameters.count && !none_given {
            return Err(ScanError::not_sure("macro call", "wrong number of arguments"));
        }
        let last = arguments.len() - 1;
        let argument = |(at, tokens)| Argument { tokens, omitted: omitted && at == last, expanded: None };
        Ok(Some(arguments.into_iter().enumerate().map(argument).collect()))
    }

    /// Whether `()` is one empty argument, rather than none, for a macro with nothing but `...`: strict C does so in
    /// both compilers, strict C++ in GCC alone (libcpp macro.cc, `collect_args`; Clang TokenLexer.cpp,
    /// `MaybeRemoveCommaBeforeVaArgs`).
    fn keeps_comma_before_nothing(&self) -> bool {
        let unit = self.replay.unit;
        let strict = unit.predefined.is_defined(Symbol::STRICT_ANSI);
        let since_c99 =
            unit.predefined.integer(Symbol::STDC_VERSION).is_some_and(|version| version > 199_409);
        strict && (unit.family == Family::Gcc || since_c99)
    }

    /// `body` with its parameters replaced, `#` and `##` carried out (C17 6.10.3.1 to 6.10.3.3).
    fn substitute(
        &mut self,
        definition: &Macro,
        body: &[Token],
        arguments: &mut Vec<Argument>,
    ) -> Result<Vec<Token>, ScanError> {
        let mut out: Vec<Token> = Vec::with_capacity(body.len());
        // Some: `##` stands before the next token; the flag says that its left side is empty.
        let mut paste: Option<bool> = None;
        let mut at = 0;
        while let Some(&token) = body.get(at) {
            at += 1;
            self.replay.spend(1)?;
            let mut pastes_on = token.has(Token::PASTE);
            let operand_of_paste = pastes_on || paste.is_some();
            let argument =
                arguments.get(token.text.number() as usize).filter(|_| token.kind == Kind::Parameter);
            let drops_comma = !pastes_on && argument.is_some_and(|argument| argument.omitted);
            let made;
            let items: &[Token] = match token.kind {
                Kind::Parameter => {
                    let index = token.text.number() as usize;
                    let Some(argument) = arguments.get_mut(index) else {
                        return Err(ScanError::not_sure("macro call", "parameter without argument"));
                    };
                    let items = if token.has(Token::STRINGIFY) {
                        made = vec![self.stringify(&argument.tokens)?];
                        &made[..]
                    } else if operand_of_paste {
                        &argument.tokens
                    } else {
                        self.expanded(argument)?
                    };
                    self.replay.spend(items.len())?;
                    items
                }
                Kind::Identifier if token.text == Symbol::VA_OPT && takes_variadic(definition) => {
                    if token.has(Token::STRINGIFY) {
                        return Err(ScanError::not_sure("macro call", "#__VA_OPT__"));
                    }
                    let (content, end) = va_opt_content(body, at)?;
                    pastes_on = body[end - 1].has(Token::PASTE);
                    at = end;
                    let has_arguments = match arguments.last_mut() {
                        Some(last) => !self.expanded(last)?.is_empty(),
                        None => false,
                    };
                    made = if has_arguments && !content.is_empty() {
                        let mut content = content.to_vec();
                        if let Some(last) = content.last_mut() {
                            last.flags &= !Token::PASTE;
                        }
                        self.nested(|expansion| expansion.substitute(definition, &content, arguments))?
                    } else {
                        Vec::new()
                    };
                    &made
                }
                _ => {
                    made = vec![Token { flags: token.flags & (Token::SPACE | Token::PAINTED), ..token }];
                    &made
                }
            };
            let empty_after_paste = items.is_empty() && paste.is_none_or(|left_empty| left_empty);
            self.append(&mut out, items, paste, token, definition, drops_comma)?;
            paste = pastes_on.then_some(empty_after_paste);
        }
        Ok(out)
    }

    /// Appends what one token of the body became, pasted to what stands there if `##` is between them.
    fn append(
        &mut self,
        out: &mut Vec<Token>,
        items: &[Token],
        paste: Option<bool>,
        token: Token,
        definition: &Macro,
        drops_comma: bool,
    ) -> Result<(), ScanError> {
        let start = out.len();
        match (paste, items.split_first()) {
            (Some(false), first) => {
                let variadic = definition.parameters.filter(|parameters| parameters.variadic);
                let is_variadic = token.kind == Kind::Parameter
                    && variadic
                        .is_some_and(|parameters| token.text.number() as usize + 1 == parameters.count);
                let after_comma = out.last().is_some_and(|left| left.is(Symbol::COMMA));
                match first {
                    // GNU: `, ## __VA_ARGS__` drops the comma if the argument is left out (not if it is empty), else
                    // pastes nothing.
                    None if drops_comma && after_comma => {
                        out.pop();
                    }
                    None => {}
                    Some(_) if is_variadic && after_comma => out.extend_from_slice(items),
                    Some((&right, rest)) => {
                        if let Some(left) = out.pop() {
                            out.push(self.paste(left, right)?);
                        }
                        out.extend_from_slice(rest);
                        return Ok(());
                    }
                }
            }
            _ => out.extend_from_slice(items),
        }
        // Clang gives an argument the white space of its parameter; GCC leaves the argument's own.
        if let Some(first) = out.get_mut(start)
            && (self.replay.unit.family == Family::Clang || token.kind != Kind::Parameter)
        {
            first.flags = first.flags & !Token::SPACE | token.flags & Token::SPACE;
        }
        Ok(())
    }

    /// C17 6.10.3.3 p3: the result must be one token.
    fn paste(&mut self, left: Token, right: Token) -> Result<Token, ScanError> {
        let mut text = Vec::new();
        left.spell(&mut text);
        right.spell(&mut text);
        self.replay.spend_bytes(text.len())?;
        let (kind, symbol, end) = lex_token(&text, 0, self.replay.dialect);
        if end != text.len() || kind == Kind::Other {
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(ScanError::not_sure("pasting", text));
        }
        Ok(Token { kind, flags: left.flags & Token::SPACE, text: symbol })
    }

    /// C17 6.10.3.2 p2.
    fn stringify(&mut self, tokens: &[Token]) -> Result<Token, ScanError> {
        let mut text = vec![b'"'];
        let mut spelling = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            if index > 0 && token.has(Token::SPACE) {
                text.push(b' ');
            }
            spelling.clear();
            token.spell(&mut spelling);
            self.replay.spend_bytes(spelling.len())?;
            let escapes = matches!(token.kind, Kind::String | Kind::Character);
            for &byte in &spelling {
                if escapes && matches!(byte, b'"' | b'\\') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
        }
        text.push(b'"');
        Ok(Token { kind: Kind::String, flags: 0, text: Symbol::of(&text) })
    }

    /// The argument, expanded as if it were the rest of the file (C17 6.10.3.1 p1).
    fn expanded<'t>(&mut self, argument: &'t mut Argument) -> Result<&'t [Token], ScanError> {
        if argument.expanded.is_none() {
            argument.expanded = Some(self.expand(&argument.tokens)?);
        }
        Ok(argument.expanded.as_deref().unwrap_or_default())
    }

    fn expand(&mut self, tokens: &[Token]) -> Result<Vec<Token>, ScanError> {
        self.nested(|outer| {
            let mut inner = Expansion {
                replay: &mut *outer.replay,
                input: tokens,
                at: 0,
                contexts: Vec::new(),
                disabled: std::mem::take(&mut outer.disabled),
                depth: outer.depth,
                unevaluated: outer.unevaluated,
            };
            let expanded = inner.rest();
            outer.disabled = inner.disabled;
            expanded
        })
    }

    fn nested<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, ScanError>) -> Result<T, ScanError> {
        if self.depth == DEEPEST {
            return Err(ScanError::not_sure("macro call", "nested too deeply"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// What a name means that the compiler itself defines without listing it among its macros.
    fn built_in(&mut self, name: Token) -> Result<Option<Token>, ScanError> {
        if !name.text.text().starts_with(b"__") || self.replay.is_undefined(name.text) {
            return Ok(None);
        }
        if let Some(value) = self.replay.dynamic_macro(name.text)? {
            return Ok(Some(Token { flags: name.flags, ..value }));
        }
        if !is_operator(name.text) || !self.replay.is_defined(name.text) {
            return Ok(None);
        }
        let operand = self.operand(name)?;
        // Clang looks for files in operands that are not evaluated, too, and lists them in its depfile.
        let is_look_up =
            matches!(name.text, Symbol::HAS_INCLUDE | Symbol::HAS_INCLUDE_NEXT | Symbol::HAS_EMBED);
        if self.unevaluated > 0 && !(is_look_up && self.replay.unit.family == Family::Clang) {
            return Ok(Some(Token::number(Symbol::ZERO)));
        }
        let value = match name.text {
            Symbol::HAS_INCLUDE | Symbol::HAS_INCLUDE_NEXT => {
                let header = match operand.first() {
                    Some(Token { kind: Kind::HeaderName, text, .. }) => Header::Angled(*text),
                    _ => {
                        let tokens = self.expand(&operand)?;
                        header_of(&tokens)?.0
                    }
                };
                self.replay.has_include(header, name.text == Symbol::HAS_INCLUDE_NEXT)?
            }
            Symbol::HAS_EMBED if self.replay.knows_embed() => {
                let tokens = self.expand(&operand)?;
                self.replay.has_embed(&tokens)?
            }
            Symbol::HAS_EMBED => return Err(ScanError::not_sure("#embed", "__has_embed")),
            _ => {
                // GCC expands every operand, Clang those that name attributes.
                let expands =
                    self.replay.unit.family == Family::Gcc || name.text.text().ends_with(b"attribute");
                let operand = if expands { self.expand(&operand)? } else { operand };
                let mut question = name.text.text().to_vec();
                question.push(b'(');
                for token in &operand {
                    // Few tokens can be many bytes.
                    self.replay.spend_bytes(token.text.text().len())?;
                    token.spell(&mut question);
                }
                question.push(b')');
                self.replay.ask(String::from_utf8_lossy(&question).into_owned(), 0)
            }
        };
        Ok(Some(Token::number(match value {
            0 => Symbol::ZERO,
            1 => Symbol::ONE,
            value => Symbol::of(value.to_string().as_bytes()),
        })))
    }

    /// The tokens between the parentheses that follow an operator.
    fn operand(&mut self, name: Token) -> Result<Vec<Token>, ScanError> {
        let malformed = || ScanError::not_sure("malformed operator", name.text.display());
        if !self.next_unexpanded()?.is_some_and(|token| token.is(Symbol::OPEN)) {
            return Err(malformed());
        }
        let mut operand = Vec::new();
        let mut depth = 0u32;
        loop {
            let token = self.next_unexpanded()?.ok_or_else(malformed)?;
            if token.is(Symbol::OPEN) {
                depth += 1;
            } else if token.is(Symbol::CLOSE) {
                match depth.checked_sub(1) {
                    Some(outer) => depth = outer,
                    None => return Ok(operand),
                }
            }
            operand.push(token);
        }
    }

    /// The header that the remaining tokens name (C17 6.10.2 p4).
    pub(super) fn header(&mut self) -> Result<Header, ScanError> {
        let tokens = self.rest()?;
        let (header, _) = header_of(&tokens)?;
        if let Header::Quoted(name) | Header::Angled(name) = header {
            self.replay.spend_bytes(name.text().len())?;
        }
        Ok(header)
    }
}

/// The header that the first of `tokens` name, and the rest of them. Those between `<` and `>` are spelled out, each
/// blank sequence as one blank, as GCC and Clang do.
pub(super) fn header_of(tokens: &[Token]) -> Result<(Header, &[Token]), ScanError> {
    let malformed = || ScanError::not_sure("computed include", "no header name");
    let (first, rest) = tokens.split_first().ok_or_else(malformed)?;
    match first.kind {
        Kind::HeaderName => return Ok((Header::Angled(first.text), rest)),
        Kind::String => {
            let text = first.text.text();
            let name =
                text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).ok_or_else(malformed)?;
            return Ok((Header::Quoted(Symbol::of(name)), rest));
        }
        _ if first.is(Symbol::LESS) => {}
        _ => return Err(malformed()),
    }
    let mut name = Vec::new();
    for (index, token) in rest.iter().enumerate() {
        if token.is(Symbol::GREATER) {
            return Ok((Header::Angled(Symbol::of(&name)), &rest[index + 1..]));
        }
        if token.has(Token::SPACE) {
            name.push(b' ');
        }
        token.spell(&mut name);
        // Each token may be a megabyte.
        if name.len() > LONGEST_NAME {
            return Err(ScanError::NotSure("file name too long".to_owned()));
        }
    }
    Err(malformed())
}

/// One argument of a call.
struct Argument {
    tokens: Vec<Token>,
    /// The call ends before it, as only a variadic one's may.
    omitted: bool,
    expanded: Option<Vec<Token>>,
}

fn takes_variadic(definition: &Macro) -> bool {
    definition.parameters.is_some_and(|parameters| parameters.variadic)
}

/// The tokens of `__VA_OPT__ ( … )`, whose name stands before `at`, and the position after it (C++20 15.6.1).
fn va_opt_content(body: &[Token], at: usize) -> Result<(&[Token], usize), ScanError> {
    let malformed = || ScanError::not_sure("macro call", "malformed __VA_OPT__");
    if !body.get(at).is_some_and(|token| token.is(Symbol::OPEN)) {
        return Err(malformed());
    }
    let mut depth = 0u32;
    for (index, token) in body.iter().enumerate().skip(at) {
        if token.is(Symbol::OPEN) {
            depth += 1;
        } else if token.is(Symbol::CLOSE) {
            depth -= 1;
            if depth == 0 {
                return Ok((&body[at + 1..index], index + 1));
            }
        }
    }
    Err(malformed())
}

/// Whether `name` is spelled like an operator that asks the compiler about itself.
pub(super) fn is_operator(name: Symbol) -> bool {
    let text = name.text();
    text.starts_with(b"__has_")
        || text.starts_with(b"__is_target_")
        || matches!(text, b"__is_identifier" | b"__building_module")
}

//! Macro definitions, the compiler's own set of them, and the table that a unit's definitions are layered in.
//! Knows nothing of expansion.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use crate::preprocessor::Dialect;
use crate::preprocessor::source_file::Directive;
use crate::preprocessor::source_file::SourceFile;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::symbol::SymbolMap;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;

/// One definition, its body prepared: parameters are references, `#` and `##` are flags of their operands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Macro {
    pub(super) name: Symbol,
    /// None: object-like.
    pub(super) parameters: Option<Parameters>,
    pub(super) body: Box<[Token]>,
    /// Some token of the body has the flag [`Token::PASTE`].
    pub(super) pastes: bool,
}

/// The parameters of a function-like macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameters {
    /// How many, the variadic one included.
    pub(super) count: usize,
    /// The last one takes all further arguments.
    pub(super) variadic: bool,
}

impl Macro {
    /// The definition whose tokens follow `#define`; None if a compiler would reject it (C17 6.10.3).
    pub(super) fn define(tokens: &[Token]) -> Option<Macro> {
        let (name, rest) = tokens.split_first()?;
        if name.kind != Kind::Identifier || name.text == Symbol::DEFINED {
            return None;
        }
        // C17 6.10 p1: the parenthesis of a parameter list follows the name directly.
        let opens = rest.first().is_some_and(|token| token.is(Symbol::OPEN) && !token.has(Token::SPACE));
        let mut names = Vec::new();
        let (parameters, body) = if opens {
            let (parameters, body) = parameter_list(&rest[1..], &mut names)?;
            (Some(parameters), body)
        } else {
            (None, rest)
        };
        let (body, pastes) = prepare_body(body, &names, parameters.is_some())?;
        Some(Macro { name: name.text, parameters, body, pastes })
    }
}

/// More than any real macro has; the names are searched one by one.
const MOST_PARAMETERS: usize = 1024;

/// Reads `a, b, ...)`; the tokens after it are the body.
fn parameter_list<'a>(mut tokens: &'a [Token], names: &mut Vec<Symbol>) -> Option<(Parameters, &'a [Token])> {
    let mut variadic = false;
    if let Some((close, rest)) = tokens.split_first()
        && close.is(Symbol::CLOSE)
    {
        return Some((Parameters { count: 0, variadic }, rest));
    }
    loop {
        let (token, rest) = tokens.split_first()?;
        tokens = rest;
        if token.is(Symbol::ELLIPSIS) {
            names.push(Symbol::VA_ARGS);
            variadic = true;
        } else if token.kind == Kind::Identifier && !names.contains(&token.text) {
            names.push(token.text);
            // GNU: `args...` names the variadic parameter.
            if tokens.first().is_some_and(|token| token.is(Symbol::ELLIPSIS)) {
                tokens = &tokens[1..];
                variadic = true;
            }
        } else {
            return None;
        }
        let (separator, rest) = tokens.split_first()?;
        tokens = rest;
        if separator.is(Symbol::CLOSE) {
            return Some((Parameters { count: names.len(), variadic }, tokens));
        }
        if variadic || !separator.is(Symbol::COMMA) || names.len() == MOST_PARAMETERS {
            return None;
        }
    }
}

/// So many names are searched one by one, faster than by a table.
const FEW_PARAMETERS: usize = 16;

fn prepare_body(tokens: &[Token], names: &[Symbol], function_like: bool) -> Option<(Box<[Token]>, bool)> {
    let mut body: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut pastes = false;
    let mut stringify = false;
    let mut indices: SymbolMap<Symbol, usize> = SymbolMap::default();
    if names.len() > FEW_PARAMETERS {
        // Of two with one name, the first counts.
        indices.extend(names.iter().enumerate().rev().map(|(index, name)| (*name, index)));
    }
    for &token in tokens {
        if token.is(Symbol::HASH_HASH) {
            // C17 6.10.3.3 p1: not at either end of the body.
            body.last_mut()?.flags |= Token::PASTE;
            pastes = true;
            continue;
        }
        if function_like && token.is(Symbol::HASH) && !stringify {
            stringify = true;
            // White space before `#` is white space before the string.
            body.push(token);
            continue;
        }
        let mut token = token;
        let index = match token.kind {
            Kind::Identifier if names.len() <= FEW_PARAMETERS => {
                names.iter().position(|&name| name == token.text)
            }
            Kind::Identifier => indices.get(&token.text).copied(),
            _ => None,
        };
        if let Some(index) = index {
            token.kind = Kind::Parameter;
            token.text = Symbol::from_number(u32::try_from(index).ok()?);
        }
        if stringify {
            stringify = false;
            // C17 6.10.3.2 p1: `#` is followed by a parameter (or, since C23, by __VA_OPT__).
            if index.is_none() && token.text != Symbol::VA_OPT {
                return None;
            }
            let hash = body.pop()?;
            token.flags = (hash.flags & Token::SPACE) | Token::STRINGIFY;
        }
        body.push(token);
    }
    if stringify || body.last().is_some_and(|last| last.has(Token::PASTE)) {
        return None;
    }
    if let Some(first) = body.first_mut() {
        // C17 6.10.3 p7: white space around the body is not part of it.
        first.flags &= !Token::SPACE;
    }
    Some((body.into_boxed_slice(), pastes))
}

/// The compiler's own macros under one set of flags, from the output of `-dM -E`. Shared: a unit's definitions
/// are layered over it.
#[derive(Debug, Default)]
pub struct Predefined {
    macros: SymbolMap<Symbol, Arc<Macro>>,
}

impl Predefined {
    /// Reads `#define` lines; others are skipped.
    pub fn parse(text: &[u8]) -> Predefined {
        let file = SourceFile::parse(text, Dialect::of_predefined());
        let macros = file
            .directives()
            .iter()
            .filter_map(|directive| match directive {
                Directive::Define(definition) => Some((definition.name, Arc::clone(definition))),
                _ => None,
            })
            .collect();
        Predefined { macros }
    }

    pub(super) fn get(&self, name: Symbol) -> Option<&Arc<Macro>> {
        self.macros.get(&name)
    }

    pub(super) fn is_defined(&self, name: Symbol) -> bool {
        self.macros.contains_key(&name)
    }

    /// The value of a macro whose body is one decimal number, as that of `__cplusplus`.
    pub(super) fn integer(&self, name: Symbol) -> Option<u64> {
        let [token] = *self.get(name)?.body else { return None };
        let text = std::str::from_utf8(token.text.text()).ok()?;
        text.trim_end_matches(['L', 'l', 'U', 'u']).parse().ok()
    }
}

/// What one name is at one point of a unit.
#[derive(Debug, Clone)]
pub(super) enum State {
    Defined(Arc<Macro>),
    /// By the unit itself.
    Undefined,
    /// Never defined.
    Absent,
}

/// What a change replaced: nothing, the unit's own definition, or (the inner None) that it was undefined.
pub(super) type Previous = Option<Option<Arc<Macro>>>;

/// The macros that are defined at one point of a unit.
pub(super) struct MacroTable<'a> {
    predefined: &'a Predefined,
    /// What the unit defined or (None) undefined.
    own: SymbolMap<Symbol, Option<Arc<Macro>>>,
    /// `#pragma push_macro`: per name, the states to go back to.
    pushed: SymbolMap<Symbol, Vec<Option<Arc<Macro>>>>,
}

impl<'a> MacroTable<'a> {
    pub(super) fn new(predefined: &'a Predefined) -> MacroTable<'a> {
        // As many as a C library's headers define: growing from nothing takes longer than anything else here.
        let own = SymbolMap::with_capacity_and_hasher(3500, BuildHasherDefault::default());
        MacroTable { predefined, own, pushed: SymbolMap::default() }
    }

    pub(super) fn get(&self, name: Symbol) -> Option<&Arc<Macro>> {
        match self.own.get(&name) {
            Some(own) => own.as_ref(),
            None => self.predefined.get(name),
        }
    }

    pub(super) fn is_defined(&self, name: Symbol) -> bool {
        self.get(name).is_some()
    }

    /// Whether the unit undefined `name` itself: then not even a built-in operator is left.
    pub(super) fn is_undefined(&self, name: Symbol) -> bool {
        self.own.get(&name).is_some_and(Option::is_none)
    }

    pub(super) fn state(&self, name: Symbol) -> State {
        match (self.own.get(&name), self.predefined.get(name)) {
            (Some(Some(definition)), _) | (None, Some(definition)) => State::Defined(Arc::clone(definition)),
            (Some(None), _) => State::Undefined,
            (None, None) => State::Absent,
        }
    }

    /// Whether `name` means the same as in `state`; mostly it is the very same definition.
    pub(super) fn is_in_state(&self, name: Symbol, state: &State) -> bool {
        let same = |known: &Arc<Macro>, now: &Arc<Macro>| Arc::ptr_eq(known, now) || known == now;
        match (self.own.get(&name), state) {
            (Some(Some(now)), State::Defined(known)) => same(known, now),
            (Some(None), State::Undefined) => true,
            (Some(_), _) => false,
            (None, State::Defined(known)) => self.predefined.get(name).is_some_and(|now| same(known, now)),
            (None, State::Absent) => !self.predefined.is_defined(name),
            (None, State::Undefined) => false,
        }
    }

    /// What a name was before a change, of which `previous` is what the change replaced; None: there was no change.
    pub(super) fn state_before(&self, name: Symbol, previous: Option<&Previous>) -> State {
        let predefined = || match self.predefined.get(name) {
            Some(definition) => State::Defined(Arc::clone(definition)),
            None => State::Absent,
        };
        match previous {
            None => self.state(name),
            Some(None) => predefined(),
            Some(Some(Some(definition))) => State::Defined(Arc::clone(definition)),
            Some(Some(None)) => State::Undefined,
        }
    }

    /// Gives a name a definition, or (None) undefines it.
    pub(super) fn set(&mut self, name: Symbol, definition: Option<Arc<Macro>>) -> Previous {
        self.own.insert(name, definition)
    }

    /// `#pragma push_macro("name")`.
    pub(super) fn push(&mut self, name: Symbol) {
        let state = self.get(name).cloned();
        self.pushed.entry(name).or_default().push(state);
    }

    /// `#pragma pop_macro("name")`: what the name was. Without a matching push it does nothing.
    pub(super) fn pop(&mut self, name: Symbol) -> Option<Previous> {
        let state = self.pushed.get_mut(&name).and_then(Vec::pop)?;
        Some(self.own.insert(name, state))
    }
}

//! Which lexical rules a unit's files are read by.
//! Knows nothing of macros or files: a stripped file is cached per content and dialect.

use crate::preprocessor::Family;
use crate::preprocessor::Language;
use crate::preprocessor::Predefined;
use crate::preprocessor::symbol::Symbol;

/// The lexical rules that differ between languages, standards and compilers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dialect {
    /// C++ punctuators.
    pub cxx: bool,
    /// Preprocessed assembler: a `#` line that is no known directive is a comment.
    pub assembler: bool,
    /// `//` opens a comment: everywhere but in strict C90.
    pub line_comments: bool,
    /// `%:` is `#`.
    pub digraphs: bool,
    /// `??=` is `#`, `??/` is a backslash, and so on.
    pub trigraphs: bool,
    /// `R"(…)"`.
    pub raw_strings: bool,
    /// `u8"…"`, `u'…'`, `U'…'`.
    pub unicode_literals: bool,
    /// `1'000`.
    pub digit_separators: bool,
    /// `#elifdef` and `#elifndef` are directives; elsewhere unknown ones, ignored in a skipped group.
    pub elifdef: bool,
}

impl Dialect {
    /// The dialect of a language as the compiler's predefined macros tell of it. GCC 12 libcpp/init.cc,
    /// `lang_flags`, and Clang 14 LangStandards.def are the sources of the rules. Trigraphs: the macros do not
    /// tell of `-trigraphs`, so what decides is strictness (`__STRICT_ANSI__`), as in GCC and Clang by default.
    pub fn new(language: Language, family: Family, predefined: &Predefined) -> Dialect {
        let value = |name| predefined.integer(name).unwrap_or(0);
        let strict = predefined.is_defined(Symbol::STRICT_ANSI);
        let gcc = family == Family::Gcc;
        let elifdef_known = match family {
            Family::Gcc => value(Symbol::GNUC) >= 12,
            Family::Clang => value(Symbol::CLANG_MAJOR) >= 13,
        };
        match language {
            Language::Cxx | Language::ObjectiveCxx => {
                let standard = value(Symbol::CPLUSPLUS);
                Dialect {
                    cxx: true,
                    assembler: false,
                    line_comments: true,
                    digraphs: true,
                    trigraphs: strict && standard < 201_703,
                    raw_strings: standard >= 201_103,
                    unicode_literals: standard >= 201_103,
                    digit_separators: standard >= 201_402,
                    elifdef: elifdef_known && (!gcc || !strict || standard > 202_002),
                }
            }
            Language::C | Language::ObjectiveC => {
                let standard = value(Symbol::STDC_VERSION);
                let c90 = standard <= 199_409;
                Dialect {
                    cxx: false,
                    assembler: false,
                    line_comments: !(strict && c90),
                    digraphs: !(strict && standard == 0),
                    trigraphs: strict && standard < 202_311,
                    raw_strings: gcc && !strict && !c90,
                    unicode_literals: standard >= 201_112 || (gcc && !strict && !c90),
                    digit_separators: standard > 201_710,
                    elifdef: elifdef_known && (!gcc || !strict || standard > 201_710),
                }
            }
            Language::Assembler => Dialect {
                assembler: true,
                line_comments: true,
                elifdef: elifdef_known && !gcc,
                ..Dialect::default()
            },
        }
    }

    /// The rules that compilers print their own macros by.
    pub(super) fn of_predefined() -> Dialect {
        Dialect { cxx: true, unicode_literals: true, ..Dialect::default() }
    }
}

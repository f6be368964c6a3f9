//! What the value of an `#if` expression was decided by, so that the next unit that comes to it under the same
//! circumstances need not evaluate it.
//! Knows nothing of how it was evaluated.
//!
//! Most conditions of a header depend on a few macros that are the same in every unit of a build. A decision holds
//! where all macros that were looked at are defined alike, or not defined alike, and the compiler answered alike.

use std::sync::OnceLock;

use crate::preprocessor::Answers;
use crate::preprocessor::Family;
use crate::preprocessor::macros::MacroTable;
use crate::preprocessor::macros::State;
use crate::preprocessor::symbol::Symbol;

/// More circumstances than this are not worth comparing.
const MOST_CIRCUMSTANCES: usize = 48;

/// Nor is a macro with a longer body, in tokens.
const LONGEST_BODY: usize = 64;

/// One condition's first decision for each family, whose rules differ. Only the first is kept: it holds for nearly
/// all units, and where it does not, the expression is evaluated.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    gcc: OnceLock<Box<Decision>>,
    clang: OnceLock<Box<Decision>>,
}

#[derive(Debug)]
struct Decision {
    macros: Box<[(Symbol, State)]>,
    answers: Box<[(String, i64)]>,
    holds: bool,
}

impl Decisions {
    /// The value of the condition, if it was decided under these circumstances.
    pub(super) fn recall(&self, family: Family, macros: &MacroTable, answers: &Answers) -> Recalled<'_> {
        let Some(decision) = self.of(family).get() else { return Recalled::Nothing };
        let same_answer =
            |(question, value): &(String, i64)| answers.get(question).is_some_and(|now| *now == *value);
        let same_macro = |(name, state): &(Symbol, State)| macros.is_in_state(*name, state);
        match decision.macros.iter().all(same_macro) && decision.answers.iter().all(same_answer) {
            true => Recalled::Holds(decision.holds, &decision.macros),
            false => Recalled::Otherwise,
        }
    }

    /// Keeps a decision, if it is the first.
    pub(super) fn keep(&self, family: Family, circumstances: Circumstances, holds: bool) {
        if circumstances.undecidable {
            return;
        }
        let Circumstances { macros, answers, .. } = circumstances;
        let decision = Decision { macros: macros.into(), answers: answers.into(), holds };
        // Another unit may have been faster.
        let _ = self.of(family).set(Box::new(decision));
    }

    fn of(&self, family: Family) -> &OnceLock<Box<Decision>> {
        match family {
            Family::Gcc => &self.gcc,
            Family::Clang => &self.clang,
        }
    }
}

/// What is known of a condition.
pub(super) enum Recalled<'a> {
    /// Its value under these circumstances, and the macros by which it was decided.
    Holds(bool, &'a [(Symbol, State)]),
    /// Its value under other circumstances only.
    Otherwise,
    /// It has never been decided.
    Nothing,
}

/// What an evaluation looked at.
#[derive(Default)]
pub(super) struct Circumstances {
    macros: Vec<(Symbol, State)>,
    answers: Vec<(String, i64)>,
    /// It looked at something that cannot be compared: a file, a line number, a question that is still open.
    undecidable: bool,
}

impl Circumstances {
    pub(super) fn looked_at_macro(&mut self, name: Symbol, state: State) {
        if self.undecidable || self.macros.iter().any(|(known, _)| *known == name) {
            return;
        }
        let is_long = matches!(&state, State::Defined(definition) if definition.body.len() > LONGEST_BODY);
        self.macros.push((name, state));
        self.undecidable |= is_long || self.macros.len() > MOST_CIRCUMSTANCES;
    }

    pub(super) fn got_answer(&mut self, question: &str, value: i64) {
        if self.undecidable {
            return;
        }
        self.answers.push((question.to_owned(), value));
        self.undecidable |= self.answers.len() > MOST_CIRCUMSTANCES;
    }

    pub(super) fn looked_elsewhere(&mut self) {
        self.undecidable = true;
    }
}

//! How two commands that made the same file differ.
//! Knows nothing of where that is kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use farcc_proto::record::CommandRecord;
use farcc_proto::record::Ingredient;
use farcc_proto::record::ingredient::Kind;

/// One thing in which two commands differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind of thing.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
    /// How it differs.
    pub change: Change,
}

/// How an ingredient differs from the previous time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was not there the previous time.
    Added,
    /// It was there the previous time only.
    Removed,
    /// It has another value: the previous one and the present one.
    Changed(Vec<u8>, Vec<u8>),
}

/// How `last` differs from `previous`; empty when both have the same ingredients.
pub fn differences(previous: &CommandRecord, last: &CommandRecord) -> Vec<Difference> {
    let (previous, last) = (by_name(previous), by_name(last));
    let mut differences = Vec::new();
    for (&(kind, name), &value) in &last {
        let change = match previous.get(&(kind, name)) {
            None => Change::Added,
            Some(&before) if before != value => {
                // The order of arguments matters, a mere shift by an added one does not.
                if kind == Kind::Argument {
                    continue;
                }
                Change::Changed(before.to_owned(), value.to_owned())
            }
            Some(_) => continue,
        };
        differences.push(Difference { kind, name: name.to_owned(), change });
    }
    for &(kind, name) in previous.keys().filter(|key| !last.contains_key(key)) {
        differences.push(Difference { kind, name: name.to_owned(), change: Change::Removed });
    }
    if differences.is_empty() && previous != last {
        let name = b"(order of the arguments)".to_vec();
        differences.push(Difference {
            kind: Kind::Argument,
            name,
            change: Change::Changed(Vec::new(), Vec::new()),
        });
    }
    differences
}

fn by_name(record: &CommandRecord) -> BTreeMap<(Kind, &[u8]), &[u8]> {
    let ingredient = |i: &'_ Ingredient| i.kind();
    record.ingredients.iter().map(|i| ((ingredient(i), &*i.name), &*i.value)).collect()
}

/// A line for people: `header changed: /w/a.h`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Input => "input",
            Kind::Argument => "argument",
            Kind::Variable => "environment variable",
            Kind::Program => "toolchain program",
            Kind::Configuration => "configuration",
            Kind::Unspecified => "ingredient",
        };
        let name = OsStr::from_bytes(&self.name).display();
        match &self.change {
            Change::Added => write!(f, "{kind} added: {name}"),
            Change::Removed => write!(f, "{kind} removed: {name}"),
            Change::Changed(before, now) if self.kind == Kind::Variable => {
                let (before, now) = (OsStr::from_bytes(before), OsStr::from_bytes(now));
                write!(f, "{kind} changed: {name}: {} -> {}", before.display(), now.display())
            }
            Change::Changed(..) => write!(f, "{kind} changed: {name}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::history) fn record(ingredients: &[(Kind, &str, &str)]) -> CommandRecord {
        let ingredients = ingredients.iter().map(|(kind, name, value)| Ingredient {
            kind: (*kind).into(),
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
        });
        CommandRecord { ingredients: ingredients.collect(), ..CommandRecord::default() }
    }

    fn lines(previous: &CommandRecord, last: &CommandRecord) -> Vec<String> {
        differences(previous, last).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_difference() {
        let previous = record(&[
            (Kind::Input, "/w/a.h", "1"),
            (Kind::Input, "/w/b.h", "1"),
            (Kind::Argument, "-O1", "1"),
            (Kind::Argument, "-c", "2"),
            (Kind::Variable, "CPATH", "/x"),
        ]);
        let last = record(&[
            (Kind::Input, "/w/a.h", "2"),
            (Kind::Input, "/w/c.h", "1"),
            (Kind::Argument, "-c", "1"),
            (Kind::Variable, "CPATH", "/y"),
        ]);
        assert_eq!(
            lines(&previous, &last),
            [
                "input changed: /w/a.h",
                "input added: /w/c.h",
                "environment variable changed: CPATH: /x -> /y",
                "input removed: /w/b.h",
                "argument removed: -O1",
            ]
        );
        assert!(lines(&last, &last).is_empty());
    }

    #[test]
    fn an_order_alone_is_a_difference() {
        let previous = record(&[(Kind::Argument, "-la", "1"), (Kind::Argument, "-lb", "2")]);
        let last = record(&[(Kind::Argument, "-la", "2"), (Kind::Argument, "-lb", "1")]);
        assert_eq!(lines(&previous, &last), ["argument changed: (order of the arguments)"]);
    }
}

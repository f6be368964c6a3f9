//! How two commands that made the same file differ.
//! Knows nothing of where that is kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use farcc_proto::record::CommandRecord;
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

/// How a command compares with the one that made the same before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What the comparison rests on.
    pub basis: Basis,
    /// What says most first.
    pub differences: Vec<Difference>,
}

/// What a [`Comparison`] rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Nothing: it was made for the first time.
    First,
    /// The words alone: nobody looked for a result, now or the time before.
    Words {
        /// This time.
        now: bool,
    },
    /// All that the key is made of, which gave the same key.
    SameKey,
    /// All that the key is made of, which gave another one.
    OtherKey,
}

const FIRST: &str = "this was the first time that farcc saw it made";
const NOT_LOOKED_FOR: &str = "the time before, its result was not looked for";
const GONE: &str = "its result was not kept, or is gone";
const NO_RECORD: &str = "its key is another one, by something of which there is no record";

impl Comparison {
    /// Compares the command that made something `last` with the `previous` one.
    pub fn of(previous: Option<&CommandRecord>, last: &CommandRecord) -> Comparison {
        let Some(previous) = previous else {
            return Comparison { basis: Basis::First, differences: Vec::new() };
        };
        if previous.key.is_empty() || last.key.is_empty() {
            let differences = changed_arguments(&typed(previous), &typed(last));
            return Comparison { basis: Basis::Words { now: last.key.is_empty() }, differences };
        }
        let basis = if previous.key == last.key { Basis::SameKey } else { Basis::OtherKey };
        Comparison { basis, differences: differences(previous, last) }
    }

    /// What is said above the differences, or in their stead.
    pub fn headline(&self, is_hit: bool) -> &'static str {
        match (self.basis, self.differences.is_empty()) {
            (Basis::First, _) => FIRST,
            (Basis::Words { now: true }, true) => {
                "its words are those of the time before; what it reads is not known"
            }
            (Basis::Words { now: true }, false) => "what differs from the time before in its words:",
            (Basis::Words { now: false }, true) => NOT_LOOKED_FOR,
            (Basis::Words { now: false }, false) => {
                "the time before, its result was not looked for; what differs in its words:"
            }
            (Basis::SameKey, true) if is_hit => "nothing differs from the time before",
            (Basis::SameKey, true) => {
                "nothing differs from the time before: its result was not kept, or is gone"
            }
            (Basis::SameKey, false) if is_hit => "what differs from the time before, but not in the key:",
            (Basis::SameKey, false) => {
                "its result was not kept, or is gone; what differs from the time before, but not in the key:"
            }
            (Basis::OtherKey, true) => NO_RECORD,
            (Basis::OtherKey, false) => "what differs from the time before:",
        }
    }

    /// The causes of a miss, each a line: what follows from another one is left out.
    pub fn causes(&self) -> Vec<String> {
        let only = match self.basis {
            Basis::First => Some(FIRST),
            Basis::Words { .. } => Some(NOT_LOOKED_FOR),
            Basis::SameKey => Some(GONE),
            Basis::OtherKey => self.differences.is_empty().then_some(NO_RECORD),
        };
        if let Some(only) = only {
            return vec![only.to_owned()];
        }
        // Another compiler has headers and variables of its own.
        let is_another_program = self.differences.iter().any(|difference| difference.kind == Kind::Driver);
        let follows = |kind| is_another_program && matches!(kind, Kind::Input | Kind::Variable);
        let causes = self.differences.iter().filter(|difference| !follows(difference.kind));
        causes.map(ToString::to_string).collect()
    }
}

/// How `last` differs from `previous`, without what merely follows from something else that differs.
fn differences(previous: &CommandRecord, last: &CommandRecord) -> Vec<Difference> {
    let mut differences = changed_arguments(&arguments(previous), &arguments(last));
    let (previous, last) = (by_name(previous), by_name(last));
    for (&(kind, name), &value) in &last {
        let change = match previous.get(&(kind, name)) {
            None => Change::Added,
            Some(&before) if before != value => Change::Changed(before.to_owned(), value.to_owned()),
            Some(_) => continue,
        };
        differences.push(Difference { kind, name: name.to_owned(), change });
    }
    for &(kind, name) in previous.keys().filter(|key| !last.contains_key(key)) {
        differences.push(Difference { kind, name: name.to_owned(), change: Change::Removed });
    }
    let has = |kind| differences.iter().any(|difference| difference.kind == kind);
    let (driver, program, directory) = (has(Kind::Driver), has(Kind::Program), has(Kind::WorkingDirectory));
    differences.retain(|Difference { kind, name, .. }| match (kind, &name[..]) {
        (Kind::Program, _) => !driver,
        // The Action's leads to the programs.
        (Kind::Variable, b"PATH") => !driver && !program,
        (Kind::Variable, b"PWD") => !directory,
        _ => true,
    });
    // With whatever is read comes the way to it.
    let is_mere_way = |difference: &Difference| {
        difference.kind == Kind::Way && !matches!(difference.change, Change::Changed(..))
    };
    if !differences.iter().all(is_mere_way) {
        differences.retain(|difference| !is_mere_way(difference));
    }
    differences.sort_by_key(|difference| weight(difference.kind));
    differences
}

/// What decides about most comes first.
fn weight(kind: Kind) -> usize {
    match kind {
        Kind::Driver => 0,
        Kind::Program => 1,
        Kind::Configuration => 2,
        Kind::Argument => 3,
        Kind::WorkingDirectory => 4,
        Kind::Variable => 5,
        Kind::Input => 6,
        Kind::Way => 7,
        Kind::Unspecified => 8,
    }
}

/// The words behind the program's name.
fn typed(record: &CommandRecord) -> Vec<&[u8]> {
    record.arguments.iter().map(Vec::as_slice).skip(1).collect()
}

/// In order, response files expanded.
fn arguments(record: &CommandRecord) -> Vec<&[u8]> {
    let mut arguments: Vec<_> = record.ingredients.iter().filter(|of| of.kind() == Kind::Argument).collect();
    // Their values are their positions.
    arguments.sort_by_key(|argument| (argument.value.len(), &argument.value));
    arguments.into_iter().map(|argument| &*argument.name).collect()
}

/// By how often each argument is there, and by the order of those that are as often there as before.
fn changed_arguments(before: &[&[u8]], now: &[&[u8]]) -> Vec<Difference> {
    let mut balance: BTreeMap<&[u8], i64> = BTreeMap::new();
    now.iter().for_each(|argument| *balance.entry(argument).or_default() += 1);
    before.iter().for_each(|argument| *balance.entry(argument).or_default() -= 1);
    let changes = balance.iter().filter_map(|(name, balance)| {
        let change = match balance {
            0 => return None,
            1.. => Change::Added,
            _ => Change::Removed,
        };
        Some(Difference { kind: Kind::Argument, name: name.to_vec(), change })
    });
    let mut differences: Vec<_> = changes.collect();
    let kept = |arguments: &[&'_ [u8]]| -> Vec<Vec<u8>> {
        let kept = arguments.iter().filter(|argument| balance.get(*argument) == Some(&0));
        kept.map(|argument| argument.to_vec()).collect()
    };
    if kept(before) != kept(now) {
        let change = Change::Changed(Vec::new(), Vec::new());
        differences.push(Difference {
            kind: Kind::Argument,
            name: b"(order of the arguments)".to_vec(),
            change,
        });
    }
    differences
}

fn by_name(record: &CommandRecord) -> BTreeMap<(Kind, &[u8]), &[u8]> {
    let others = record.ingredients.iter().filter(|ingredient| ingredient.kind() != Kind::Argument);
    others.map(|ingredient| ((ingredient.kind(), &*ingredient.name), &*ingredient.value)).collect()
}

/// A line for people: `input changed: /w/a.h`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Input => "input",
            Kind::Argument => "argument",
            Kind::Variable => "environment variable",
            Kind::Program => "toolchain program",
            Kind::Configuration => "configuration",
            Kind::Way => "directory or symlink",
            Kind::WorkingDirectory => "working directory",
            Kind::Driver => "program",
            Kind::Unspecified => "ingredient",
        };
        let name = OsStr::from_bytes(&self.name).display();
        match &self.change {
            Change::Added if self.kind == Kind::Way => write!(f, "now on the way to an input: {name}"),
            Change::Removed if self.kind == Kind::Way => {
                write!(f, "no longer on the way to an input: {name}")
            }
            Change::Added => write!(f, "{kind} added: {name}"),
            Change::Removed => write!(f, "{kind} removed: {name}"),
            Change::Changed(before, now) => {
                let (before, now) = (OsStr::from_bytes(before).display(), OsStr::from_bytes(now).display());
                match self.kind {
                    Kind::Variable | Kind::Way => write!(f, "{kind} changed: {name}: {before} -> {now}"),
                    Kind::WorkingDirectory | Kind::Driver => write!(f, "{kind} changed: {before} -> {now}"),
                    Kind::Input
                    | Kind::Argument
                    | Kind::Program
                    | Kind::Configuration
                    | Kind::Unspecified => write!(f, "{kind} changed: {name}"),
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use farcc_proto::record::Ingredient;

    use super::*;

    pub(in crate::history) fn record(ingredients: &[(Kind, &str, &str)]) -> CommandRecord {
        let ingredients = ingredients.iter().map(|(kind, name, value)| Ingredient {
            kind: (*kind).into(),
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
        });
        CommandRecord { ingredients: ingredients.collect(), key: "a/1".into(), ..CommandRecord::default() }
    }

    fn compared(previous: &CommandRecord, last: &CommandRecord) -> Comparison {
        Comparison::of(Some(previous), last)
    }

    fn lines(previous: &CommandRecord, last: &CommandRecord) -> Vec<String> {
        compared(previous, last).differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_difference() {
        let previous = record(&[
            (Kind::Input, "/w/a.h", "1"),
            (Kind::Input, "/w/b.h", "1"),
            (Kind::Argument, "-O1", "1"),
            (Kind::Argument, "-c", "2"),
            (Kind::Variable, "CPATH", "/x"),
            (Kind::Program, "/usr/bin/as", "1"),
            (Kind::Configuration, "[exec] salt", ""),
            (Kind::Way, "/w/link", "a symlink to a"),
            (Kind::Way, "/w/one", "nothing"),
            (Kind::WorkingDirectory, "", "/w"),
        ]);
        let last = record(&[
            (Kind::Input, "/w/a.h", "2"),
            (Kind::Input, "/w/two/c.h", "1"),
            (Kind::Argument, "-c", "1"),
            (Kind::Variable, "CPATH", "/y"),
            (Kind::Program, "/usr/bin/as", "2"),
            (Kind::Configuration, "[exec] salt", "pepper"),
            (Kind::Way, "/w/link", "a symlink to b"),
            (Kind::Way, "/w/one", "a directory"),
            (Kind::WorkingDirectory, "", "/w/build"),
        ]);
        assert_eq!(
            lines(&previous, &last),
            [
                "toolchain program changed: /usr/bin/as",
                "configuration changed: [exec] salt",
                "argument removed: -O1",
                "working directory changed: /w -> /w/build",
                "environment variable changed: CPATH: /x -> /y",
                "input changed: /w/a.h",
                "input added: /w/two/c.h",
                "input removed: /w/b.h",
                "directory or symlink changed: /w/link: a symlink to a -> a symlink to b",
                "directory or symlink changed: /w/one: nothing -> a directory",
            ]
        );
        assert!(lines(&last, &last).is_empty());
    }

    #[test]
    fn what_follows_from_another_difference_is_left_out() {
        let gcc = [
            (Kind::Driver, "", "/usr/bin/gcc"),
            (Kind::Program, "/usr/lib/cc1", "1"),
            (Kind::Variable, "PATH", "/usr/bin"),
            (Kind::Variable, "PWD", "/w"),
            (Kind::WorkingDirectory, "", "/w"),
            (Kind::Way, "/w", "a directory"),
        ];
        let changed = |at: &[usize], now: &[(Kind, &str, &str)]| {
            let kept = gcc.iter().enumerate().filter(|(number, _)| !at.contains(number));
            let all: Vec<_> = kept.map(|(_, ingredient)| *ingredient).chain(now.iter().copied()).collect();
            CommandRecord { key: "b/1".into(), ..record(&all) }
        };
        let clang = changed(
            &[0, 1, 2],
            &[
                (Kind::Driver, "", "/usr/bin/clang"),
                (Kind::Program, "/usr/lib/clang", "1"),
                (Kind::Variable, "PATH", "/usr/lib/llvm/bin"),
                (Kind::Input, "/usr/lib/clang/stddef.h", "1"),
                (Kind::Argument, "-g", "1"),
            ],
        );
        let program = "program changed: /usr/bin/gcc -> /usr/bin/clang";
        let (flag, header) = ("argument added: -g", "input added: /usr/lib/clang/stddef.h");
        assert_eq!(lines(&record(&gcc), &clang), [program, flag, header]);
        assert_eq!(compared(&record(&gcc), &clang).causes(), [program, flag]);
        let upgraded = changed(
            &[1, 2],
            &[(Kind::Program, "/usr/lib/cc1", "2"), (Kind::Variable, "PATH", "/usr/bin:/x")],
        );
        assert_eq!(lines(&record(&gcc), &upgraded), ["toolchain program changed: /usr/lib/cc1"]);
        let path = changed(&[2], &[(Kind::Variable, "PATH", "/usr/bin:/x")]);
        assert_eq!(
            lines(&record(&gcc), &path),
            ["environment variable changed: PATH: /usr/bin -> /usr/bin:/x"]
        );
        let elsewhere = changed(
            &[3, 4],
            &[
                (Kind::Variable, "PWD", "/w/b"),
                (Kind::WorkingDirectory, "", "/w/b"),
                (Kind::Way, "/w/b", "a directory"),
            ],
        );
        assert_eq!(lines(&record(&gcc), &elsewhere), ["working directory changed: /w -> /w/b"]);
        let way = changed(&[], &[(Kind::Way, "/w/b", "a directory")]);
        assert_eq!(lines(&record(&gcc), &way), ["now on the way to an input: /w/b"]);
        assert_eq!(lines(&way, &record(&gcc)), ["no longer on the way to an input: /w/b"]);
    }

    #[test]
    fn each_basis_of_a_comparison() {
        let typed = |words: &str, key: &str| CommandRecord {
            arguments: words.split(' ').map(|word| word.as_bytes().to_vec()).collect(),
            key: key.to_owned(),
            ..record(&[(Kind::Input, "/w/a.h", key)])
        };
        let same = "nothing differs from the time before: its result was not kept, or is gone";
        for (previous, last, headline, cause, differences) in [
            (
                typed("gcc -c", ""),
                typed("gcc -c -g", ""),
                "what differs from the time before in its words:",
                None,
                1,
            ),
            (
                typed("gcc -c", "1"),
                typed("cc -c", ""),
                "its words are those of the time before; what it reads is not known",
                None,
                0,
            ),
            (
                typed("gcc -c", ""),
                typed("gcc -g", "1"),
                "the time before, its result was not looked for; what differs in its words:",
                Some(NOT_LOOKED_FOR),
                2,
            ),
            (
                typed("gcc -c", ""),
                typed("gcc -c", "1"),
                "the time before, its result was not looked for",
                Some(NOT_LOOKED_FOR),
                0,
            ),
            (typed("gcc -c", "1"), typed("gcc -c", "1"), same, Some(GONE), 0),
            (
                typed("gcc -c", "1"),
                typed("gcc -c", "2"),
                "what differs from the time before:",
                Some("input changed: /w/a.h"),
                1,
            ),
            (
                CommandRecord { key: "other".into(), ..typed("gcc", "1") },
                typed("gcc", "1"),
                NO_RECORD,
                Some(NO_RECORD),
                0,
            ),
        ] {
            let comparison = compared(&previous, &last);
            assert_eq!((comparison.headline(false), comparison.differences.len()), (headline, differences));
            if let Some(cause) = cause {
                assert_eq!(comparison.causes(), [cause]);
            }
        }
        let (old, new) = (record(&[(Kind::Argument, "-g", "1")]), record(&[]));
        let indifferent = compared(&old, &new);
        assert_eq!(indifferent.headline(true), "what differs from the time before, but not in the key:");
        assert_eq!(indifferent.causes(), [GONE]);
        assert_eq!(compared(&old, &old).headline(true), "nothing differs from the time before");
        let first = Comparison::of(None, &old);
        assert_eq!(first.causes(), [FIRST]);
    }

    fn with_arguments(arguments: &str) -> CommandRecord {
        let positions: Vec<_> = (0..30).map(|position| position.to_string()).collect();
        let arguments = arguments.split(' ').zip(&positions);
        record(
            &arguments.map(|(name, position)| (Kind::Argument, name, position.as_str())).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn each_difference_of_arguments() {
        let order = "argument changed: (order of the arguments)";
        let many = "-a -b -c -d -e -f -g -h -i -j -k -l";
        for (before, now, expected) in [
            ("-la -lb", "-lb -la", vec![order]),
            ("-la -lb", "-lc -la -lb", vec!["argument added: -lc"]),
            ("-la -lb -la", "-la -lb", vec!["argument removed: -la"]),
            ("-la -lb", "-la -lb -la", vec!["argument added: -la"]),
            ("-O1 -la -lb", "-O2 -lb -la", vec!["argument removed: -O1", "argument added: -O2", order]),
            // The tenth position comes behind the second.
            (many, many, vec![]),
            (many, &format!("-x {many}"), vec!["argument added: -x"]),
            (&many.replace("-c", "-cc"), many, vec!["argument added: -c", "argument removed: -cc"]),
        ] {
            assert_eq!(lines(&with_arguments(before), &with_arguments(now)), expected, "{before} / {now}");
        }
    }
}

//! How two commands that made the same file differ.
//! Knows nothing of where that is kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// How `last` differs from `previous`; empty when both have the same ingredients. Of a command for whose result nobody looked, only
/// the words are known.
pub fn differences(previous: &CommandRecord, last: &CommandRecord) -> Vec<Difference> {
    if previous.key.is_empty() || last.key.is_empty() {
        return changed_arguments(&typed(previous), &typed(last));
    }
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
    // With a file comes the way to it.
    let is_input = |difference: &&Difference| difference.kind == Kind::Input;
    let inputs: Vec<Vec<u8>> = differences.iter().filter(is_input).map(|input| input.name.clone()).collect();
    let leads_to =
        |way: &[u8], input: &[u8]| Path::new(OsStr::from_bytes(input)).starts_with(OsStr::from_bytes(way));
    differences.retain(|Difference { kind, name, change }| {
        let is_way = *kind == Kind::Way && !matches!(change, Change::Changed(..));
        !is_way || !inputs.iter().any(|input| leads_to(name, input))
    });
    differences
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

/// A line for people: `header changed: /w/a.h`.
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
            Kind::Unspecified => "ingredient",
        };
        let name = OsStr::from_bytes(&self.name).display();
        match &self.change {
            Change::Added => write!(f, "{kind} added: {name}"),
            Change::Removed => write!(f, "{kind} removed: {name}"),
            Change::Changed(before, now) => {
                let (before, now) = (OsStr::from_bytes(before).display(), OsStr::from_bytes(now).display());
                match self.kind {
                    Kind::Variable | Kind::Way => write!(f, "{kind} changed: {name}: {before} -> {now}"),
                    Kind::WorkingDirectory => write!(f, "{kind} changed: {before} -> {now}"),
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
            (Kind::Way, "/w/two", "a directory"),
            (Kind::Way, "/w/three", "a directory"),
            (Kind::WorkingDirectory, "", "/w/build"),
        ]);
        assert_eq!(
            lines(&previous, &last),
            [
                "argument removed: -O1",
                "input changed: /w/a.h",
                "input added: /w/two/c.h",
                "environment variable changed: CPATH: /x -> /y",
                "toolchain program changed: /usr/bin/as",
                "configuration changed: [exec] salt",
                "directory or symlink changed: /w/link: a symlink to a -> a symlink to b",
                "directory or symlink changed: /w/one: nothing -> a directory",
                "directory or symlink added: /w/three",
                "working directory changed: /w -> /w/build",
                "input removed: /w/b.h",
            ]
        );
        assert!(lines(&last, &last).is_empty());
        let typed = |words: &str, key: &str| CommandRecord {
            arguments: words.split(' ').map(|word| word.as_bytes().to_vec()).collect(),
            key: key.to_owned(),
            ..last.clone()
        };
        let passed_through = typed("gcc -O1 -c", "");
        assert_eq!(lines(&passed_through, &typed("cc -c", "a/1")), ["argument removed: -O1"]);
        assert_eq!(lines(&typed("gcc -c", "a/1"), &passed_through), ["argument added: -O1"]);
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
            (&many.replace("-c", "-cc"), many, vec!["argument added: -c", "argument removed: -cc"]),
        ] {
            assert_eq!(lines(&with_arguments(before), &with_arguments(now)), expected, "{before} / {now}");
        }
    }
}

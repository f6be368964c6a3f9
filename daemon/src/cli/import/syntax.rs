//! What the files of several clients have in common: words in quotes, yes and no, durations, `key=value` lists.
//! Knows no keys.

/// The words of a line, as Bazel and, nearly, a shell split it: quotes of both kinds group, a backslash takes the next
/// character as it is. None where a quote does not close.
pub(super) fn words(line: &str, comment: Comment) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            // In single quotes a shell has no escapes; Bazel has.
            ('\\', open) if open != Some('\'') || comment == Comment::Anywhere => {
                word.get_or_insert_default().extend(characters.next());
            }
            (_, Some(open)) if character == open => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(character),
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() || comment == Comment::Anywhere => break,
            (_, None) if character.is_ascii_whitespace() => words.extend(word.take()),
            (_, None) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Where a `#` that is not quoted begins a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comment {
    /// Within words as well: Bazel (src/main/cpp/util/strings.cc).
    Anywhere,
    /// Only where a word would begin: shells.
    BetweenWords,
}

/// The name and value of `name=value`, blanks around both left out.
pub(super) fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    Some((name.trim(), value.trim()))
}

/// The assignments of a line of a file of variables: `NAME=value`, `export NAME="value" OTHER=value`. None where it is
/// something else.
pub(super) fn variables(line: &str) -> Option<Vec<(String, String)>> {
    let line = line.trim();
    let split = |word: &str| assignment(word).map(|(name, value)| (name.to_owned(), value.to_owned()));
    if let Some(exported) = line.strip_prefix("export ") {
        return words(exported, Comment::BetweenWords)?.iter().map(|word| split(word)).collect();
    }
    let (name, value) = assignment(line)?;
    let value = match value.starts_with(['"', '\'']) {
        false => value.to_owned(),
        true => match words(value, Comment::BetweenWords)?.as_mut_slice() {
            [only] => std::mem::take(only),
            _ => return None,
        },
    };
    Some(vec![(name.to_owned(), value)])
}

/// Yes or no, in the spellings that the clients take.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A duration as Go and Bazel write it (`1h30m`, `1.5s`, `60`: in seconds), as farcc.toml does; none where it is no
/// duration, or is nought.
pub(super) fn duration(text: &str) -> Option<String> {
    let mut rest = text.trim();
    let mut millis = 0.0;
    if let Ok(seconds) = rest.parse::<u32>() {
        rest = "";
        millis = f64::from(seconds) * 1000.0;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        millis += number
            * match &rest[..end] {
                "ms" => 1.0,
                "s" => 1_000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    // A century is as good as for ever.
    let millis = millis.round();
    match millis {
        _ if !(1.0..=3.2e12).contains(&millis) => None,
        _ if millis % 1000.0 == 0.0 => Some(format!("{}s", millis / 1000.0)),
        _ => Some(format!("{millis}ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_quoted() {
        let shell = |line| words(line, Comment::BetweenWords);
        let bazel = |line| words(line, Comment::Anywhere);
        let list = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shell(r#"a "b c"'d "e' f\ g "" # h"#), list(&["a", r#"b cd "e"#, "f g", ""]));
        assert_eq!(shell("a#b"), list(&["a#b"]));
        assert_eq!(bazel("a#b"), list(&["a"]));
        assert_eq!(bazel(r"'a\'b'"), list(&["a'b"]));
        assert_eq!(shell(r"'a\'b"), list(&[r"a\b"]));
        assert_eq!(shell("a 'b"), None);
        assert_eq!(shell("a \\"), list(&["a", ""]));
        assert_eq!(shell(" \t"), list(&[]));
    }

    #[test]
    fn variables_of_shell_files() {
        let found = |line| {
            let pairs = variables(line)?;
            Some(pairs.iter().map(|(name, value)| format!("{name}|{value}")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(found("export A=1 B='x y'  # c").as_deref(), Some("A|1 B|x y"));
        assert_eq!(found("A = b c").as_deref(), Some("A|b c"));
        assert_eq!(found("A=\"b c\" # d").as_deref(), Some("A|b c"));
        assert_eq!(found("A=\"b c"), None);
        assert_eq!(found("set -e"), None);
    }

    #[test]
    fn durations_become_those_of_humantime() {
        let cases = [
            ("60s", Some("60s")),
            ("60", Some("60s")),
            ("1h30m", Some("5400s")),
            ("1.5s", Some("1500ms")),
            ("250ms", Some("250ms")),
            ("0", None),
            ("", None),
            ("-1s", None),
            ("s", None),
            ("5 parsecs", None),
            ("99999999999999999999999999h", None),
            ("1..2s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text).as_deref(), expected, "{text}");
        }
    }
}

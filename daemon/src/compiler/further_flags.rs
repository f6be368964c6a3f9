//! Files that bring further flags into a command: configuration files of Clang and specs of GCC.
//! Knows nothing of how they are found; judges only whether all that they may bring in is understood.

use std::path::Path;

use crate::compiler::flag_table;
use crate::compiler::flag_table::Arity;
use crate::compiler::flag_table::Meaning;
use crate::compiler::flag_table::Row;
use crate::reason::Reason;

/// Whether every flag in a configuration file is understood. Of a file that is always read, only flags are that show in
/// the compiler's answers or do not matter; where the command names it (`is_named`), the compiler is asked for its inputs,
/// and flags that bring in headers are understood as well.
///
/// # Errors
/// [`Reason::ToolchainProbe`] with the word that is not.
pub(super) fn check_configuration(file: &Path, is_named: bool) -> Result<(), Reason> {
    check_words(&read(file)?, is_named).map_err(|why| refused(file, &why))
}

/// Whether all that a specs file may bring in is understood, whatever its conditions choose (GCC manual, "Specifying
/// Subprocesses and the Switches to Pass to Them").
///
/// # Errors
/// [`Reason::ToolchainProbe`] with the word that is not.
pub(super) fn check_specs(file: &Path) -> Result<(), Reason> {
    let text = read(file)?;
    if text.contains("%:getenv") {
        // What a variable brings in is in no key.
        return Err(refused(file, &not_known("%:getenv")));
    }
    check_spec_sections(&text).map_err(|why| refused(file, &why))
}

fn refused(file: &Path, why: &str) -> Reason {
    Reason::ToolchainProbe(format!("read {}: {why}", file.display()))
}

fn read(file: &Path) -> Result<String, Reason> {
    std::fs::read_to_string(file).map_err(|error| refused(file, &error.to_string()))
}

fn not_known(word: &str) -> String {
    format!("what {word} does is not known there")
}

/// Flags that neither write files nor choose what is made; what they let the compiler read shows in its own list.
fn is_listed(row: &Row) -> bool {
    matches!(
        row.meaning,
        Meaning::Probe
            | Meaning::ProbePath
            | Meaning::Sysroot
            | Meaning::Neutral
            | Meaning::LinkOnly
            | Meaning::Define
            | Meaning::Undefine
            | Meaning::Directory(_)
            | Meaning::Include
            | Meaning::Macros
    )
}

/// Words as they stand, blanks between them.
fn check_words(text: &str, is_named: bool) -> Result<(), String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    while let Some(word) = words.next() {
        // Quoted words, and lines that go on, are read by other rules.
        let is_plain = word.starts_with('-') && !word.contains(['\\', '"', '\'']);
        let row = flag_table::find(word.as_bytes()).filter(|_| is_plain);
        let is_understood = row.is_some_and(|row| match is_named {
            true => is_listed(row),
            false => {
                row.arity != Arity::Separate
                    && matches!(
                        row.meaning,
                        Meaning::Probe | Meaning::Neutral | Meaning::LinkOnly | Meaning::Define
                    )
            }
        });
        if !is_understood {
            return Err(not_known(word));
        }
        let has_own_value = row.is_some_and(|row| match row.arity {
            Arity::Separate => true,
            Arity::Either => word.len() == row.name.len(),
            Arity::Exact | Arity::Joined => false,
        });
        if has_own_value {
            let value = words.next().filter(|value| !value.contains(['\\', '"', '\'']));
            value.ok_or_else(|| not_known(word))?;
        }
    }
    Ok(())
}

/// Specs of the link, which no compile uses.
const LINK_SECTIONS: &[&str] = &[
    "endfile",
    "lib",
    "libgcc",
    "link",
    "link_command",
    "link_gcc_c_sequence",
    "link_libgcc",
    "link_ssp",
    "linker",
    "post_link",
    "startfile",
];

fn check_spec_sections(text: &str) -> Result<(), String> {
    let mut is_link = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('*') {
            let name = name.strip_suffix(':').ok_or_else(|| not_known(line))?;
            is_link = LINK_SECTIONS.contains(&name);
        } else if let Some(directive) =
            line.strip_prefix('%').filter(|rest| rest.starts_with(char::is_alphabetic))
        {
            // `%rename old new` gives a spec another name; `%include` reads another file.
            let mut words = directive.split_whitespace();
            let is_rename = words.next() == Some("rename") && words.count() == 2;
            if !is_rename {
                return Err(not_known(line));
            }
        } else if line.starts_with('.') || line.starts_with('@') {
            // Another compiler for files with a suffix.
            return Err(not_known(line));
        } else if !is_link {
            check_spec(line)?;
        }
    }
    Ok(())
}

/// One line of a spec: words, and conditions in braces around them.
fn check_spec(line: &str) -> Result<(), String> {
    // A spec that begins so is added to what there is.
    let line = line.strip_prefix('+').unwrap_or(line);
    let mut waits_for_value = false;
    for word in line.split_whitespace() {
        for piece in pieces(word)? {
            let is_understood = match piece {
                Piece::Condition(name) => !waits_for_value && is_same_everywhere(name),
                Piece::Text(text) if waits_for_value => {
                    waits_for_value = false;
                    !text.starts_with(['-', '%'])
                }
                Piece::Text(text) => match text.strip_prefix('%') {
                    Some(rest) => is_other_spec(rest),
                    None => {
                        let row = flag_table::find(text.as_bytes()).filter(|row| is_listed(row));
                        waits_for_value = row.is_some_and(|row| match row.arity {
                            Arity::Separate => true,
                            Arity::Either => text.len() == row.name.len(),
                            Arity::Exact | Arity::Joined => false,
                        });
                        row.is_some() && text.starts_with('-')
                    }
                },
            };
            if !is_understood {
                return Err(not_known(word));
            }
        }
    }
    if waits_for_value { Err(not_known(line)) } else { Ok(()) }
}

/// What stands in a word of a spec.
enum Piece<'a> {
    /// The name of a flag on which it depends whether other words are there, without its dash.
    Condition(&'a str),
    /// What the command is given.
    Text(&'a str),
}

/// A word such as `%{!fpie:%{pg|p:-fPIE}}`, in which no condition is split at a blank.
fn pieces(word: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = word;
    loop {
        rest = rest.trim_start_matches(['}', ';']);
        if rest.is_empty() {
            return Ok(pieces);
        }
        if let Some(condition) = rest.strip_prefix("%{") {
            let end = condition.find([':', '}']).ok_or_else(|| not_known(word))?;
            let names = condition[..end].split(['|', '&']);
            pieces.extend(names.map(|name| Piece::Condition(name.trim_start_matches('!'))));
            rest = condition[end..].trim_start_matches(':');
            continue;
        }
        let end = rest.find(['}', ';', '{']).unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        // After `;` comes another condition; which, no build was seen to need.
        if after.starts_with([';', '{']) {
            return Err(not_known(word));
        }
        // A brace of a condition that began words before.
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        rest = after;
    }
}

/// Whether a condition is the same when the compiler is asked for its inputs: neither of what is left out of the question
/// nor of what is added, `-M` and `-E`. A name with `*` behind it stands for all that begin so.
fn is_same_everywhere(name: &str) -> bool {
    let plain = name.trim_end_matches('*');
    let is_name = plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=+.".contains(&byte));
    let flag = format!("-{plain}");
    let differs = |meaning: Meaning| meaning.decides_what_is_made() || meaning == Meaning::Check;
    let may_differ = match plain.len() == name.len() {
        true => flag_table::find(flag.as_bytes()).is_some_and(|row| differs(row.meaning)),
        false => flag_table::any_named(&flag, differs),
    };
    is_name && !plain.is_empty() && !may_differ && !plain.starts_with("Wp")
}

/// `%(name)`: another spec, built in or of the same file.
fn is_other_spec(rest: &str) -> bool {
    let name = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        for (text, by_default, named) in [
            ("", true, true),
            ("# -o x\n-O2 -DX=1\n  -Wall -lm\n", true, true),
            ("-fstack-usage\n", false, false),
            ("-isystem /x -I/y", false, true),
            ("--sysroot=/x --target=y", false, true),
            ("-include a.h", false, true),
            ("-isystem", false, false),
            ("-o x", false, false),
            ("-MD", false, false),
            ("@other", false, false),
            ("a.c", false, false),
            ("-DX=\\", false, false),
            ("-isystem '/x", false, false),
            ("-save-temps", false, false),
            ("-fplugin=x.so", false, false),
            ("-never-heard-of", false, false),
        ] {
            assert_eq!(check_words(text, false).is_ok(), by_default, "{text}");
            assert_eq!(check_words(text, true).is_ok(), named, "{text}");
        }
        assert!(check_configuration(Path::new("/nowhere/clang.cfg"), true).is_err());
    }

    #[test]
    fn specs() {
        for text in [
            "",
            "*cc1_options:\n+ %{!r:%{!fpie:%{!fPIE:%{!fpic:%{!fPIC:%{!fno-pic:-fPIE}}}}}}\n",
            "*self_spec:\n+ %{!O:%{!O1:%{!O2:-O0}}}\n*link:\n+ -z now %:anything(x)\n",
            "%rename cpp_unique_options nano_cpp\n\n*cpp_unique_options:\n-isystem =/include/newlib-nano %(nano_cpp)\n",
            "*cpp_unique_options:\n+ -DFROM_SPECS=1 -include b.h\n",
            "*cpp_unique_options:\n+ %{m32|mx32:-DA} %{!m32:-DB -DC}\n",
        ] {
            assert_eq!(check_spec_sections(text), Ok(()), "{text}");
        }
        for text in [
            "%include <other>\n",
            ".c:\nother %i\n",
            "@c:\n%{E:x}\n",
            "*cc1:\n+ -fplugin=x.so\n",
            "*cc1:\n+ -o x\n",
            "*cc1:\n+ -fdump-tree-all\n",
            "*cc1:\n+ %{c:-include x.h}\n",
            "*cc1:\n+ %{M*:-DX}\n",
            "*cc1:\n+ %{MD:-DX}\n",
            "*cc1:\n+ %{o*:-DX}\n",
            "*cc1:\n+ %{*:-DX}\n",
            "*cc1:\n+ %:getenv(X /y)\n",
            "*cc1:\n+ %{m32:-DA;:-DB}\n",
            "*cc1:\n+ x.h\n",
            "*cc1:\n+ -include\n",
            "*cc1:\n+ -include %(x)\n",
            "*cc1:\n+ -include %{m32:x.h}\n",
            "*cpp:\n+ -iprefix x\n",
            "*invoke_as:\n%{!S:-o x}\n",
            "*cc1 \n",
        ] {
            assert!(check_spec_sections(text).is_err(), "{text}");
        }
    }
}

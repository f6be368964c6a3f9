//! Asks a compiler what `__has_builtin(x)` and its kin are worth.
//! Knows nothing of who wants to know.

use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use crate::compiler::probe::Driver;
use crate::preprocessor::Answers;
use crate::reason::Reason;

/// Values are read bit by bit in `#if`s: the one place where every `__has_…` may stand. Attributes are worth
/// dates such as 202311, which have 18 bits.
const BITS: u32 = 31;

/// How many questions one file asks.
const MOST_AT_ONCE: usize = 500;

const MOST_BYTES: usize = 500;

/// What a compiler said to a file of questions, by index.
#[derive(Default)]
struct Said {
    /// The values that are not zero.
    values: HashMap<usize, i64>,
    /// The questions whose name means nothing to this compiler, so that they have no value at all.
    undefined: HashSet<usize>,
}

/// Asks the compiler the questions and adds what it says to `answers`. The file with the questions is made in
/// `directory`.
///
/// # Errors
/// [`Reason::ToolchainProbe`] when the compiler does not run, or with a question that has no value: this compiler
/// lacks the name, or does not understand the rest. All others are answered then too.
pub(super) async fn ask(
    driver: &Driver<'_>,
    questions: &[String],
    answers: &Answers,
    directory: &Path,
) -> Result<(), Reason> {
    let mut new: Vec<&str> = questions.iter().map(String::as_str).collect();
    new.retain(|&question| !answers.contains_key(question));
    new.sort_unstable();
    new.dedup();
    let (askable, refused): (Vec<_>, Vec<_>) = new.into_iter().partition(|question| is_askable(question));
    let mut failure = refused.first().map(|question| not_understood(question));
    for some in askable.chunks(MOST_AT_ONCE) {
        if let Some(said) = said(driver, some, directory).await? {
            failure = record(answers, some, &said).or(failure);
            continue;
        }
        // One malformed question spoils the whole file.
        for question in some {
            match said(driver, &[question], directory).await? {
                Some(said) => failure = record(answers, &[question], &said).or(failure),
                None => failure = failure.or_else(|| Some(not_understood(question))),
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn not_understood(question: &str) -> Reason {
    Reason::ToolchainProbe(format!("ask for the value of {question:?}"))
}

/// `name(…)` on one line. What depends on files is not the compiler's to answer once and for all.
fn is_askable(question: &str) -> bool {
    let Some((name, rest)) = question.split_once('(') else { return false };
    let is_identifier = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty();
    let depends_on_files = name.starts_with("__has_include") || name.starts_with("__has_embed");
    let is_plain =
        question.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && !question.contains('\\');
    is_identifier && !depends_on_files && is_plain && rest.ends_with(')') && question.len() <= MOST_BYTES
}

/// Keeps the values, and returns a complaint about a question that has none.
fn record(answers: &Answers, questions: &[&str], said: &Said) -> Option<Reason> {
    for (index, &question) in questions.iter().enumerate() {
        if !said.undefined.contains(&index) {
            answers.insert(question.to_owned(), said.values.get(&index).copied().unwrap_or(0));
        }
    }
    let undefined = said.undefined.iter().min()?;
    questions.get(*undefined).map(|question| not_understood(question))
}

/// What the compiler says; `None` when it finds an error in the file.
async fn said(driver: &Driver<'_>, questions: &[&str], directory: &Path) -> Result<Option<Said>, Reason> {
    let file = question_file(questions, directory).map_err(|error| {
        Reason::ToolchainProbe(format!("write questions in {}: {error}", directory.display()))
    })?;
    let arguments = [OsStr::new("-E"), OsStr::new("-P"), OsStr::new("-w"), OsStr::new("-x")];
    let arguments = [&arguments[..], &[driver.language_name(), file.path().as_os_str()]].concat();
    let output = driver.run(&arguments).await?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut said = Said::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let word = words.next();
        let Some(index) = number(words.next()).and_then(|index| usize::try_from(index).ok()) else {
            continue;
        };
        if word == Some("farcc_undefined") {
            said.undefined.insert(index);
        } else if word == Some("farcc_answer")
            && let Some(bit) = number(words.next())
            && bit < BITS
        {
            *said.values.entry(index).or_insert(0) |= 1_i64 << bit;
        }
    }
    Ok(Some(said))
}

fn number(word: Option<&str>) -> Option<u32> {
    word?.parse().ok()
}

fn question_file(questions: &[&str], directory: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut text = String::new();
    for (index, question) in questions.iter().enumerate() {
        if question.starts_with("defined(") {
            text.push_str(&format!("#if {question}\nfarcc_answer {index} 0\n#endif\n"));
            continue;
        }
        // Used without being defined, a name is an error that would spoil the file.
        let name = question.split_once('(').map_or(*question, |(name, _)| name);
        text.push_str(&format!("#ifndef {name}\nfarcc_undefined {index}\n#elif ({question}) != 0\n"));
        for bit in 0..BITS {
            text.push_str(&format!(
                "#if ({question}) & {}\nfarcc_answer {index} {bit}\n#endif\n",
                1_u32 << bit
            ));
        }
        text.push_str("#endif\n");
    }
    let mut file = tempfile::Builder::new().prefix("questions").suffix(".h").tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_about_the_compiler_are_asked() {
        for question in
            ["__has_builtin(__builtin_expect)", "defined(__has_feature)", "__has_warning(\"-Wall\")"]
        {
            assert!(is_askable(question), "{question}");
        }
        for question in
            ["", "1", "(x)", "__has_include(<a.h>)", "__has_embed(\"x\")", "f(x)\n#error", "f(x", "é(x)"]
        {
            assert!(!is_askable(question), "{question}");
        }
    }
}

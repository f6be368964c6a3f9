//! What a driver is asked about links: the command with one word in place of each row of inputs, so that one answer serves
//! all links that differ in nothing else.
//! Knows nothing of the driver.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::compiler::CommandLine;
use crate::compiler::flag_table::Meaning;

/// A link without its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The arguments of the question.
    pub(super) question: Vec<OsString>,
    /// What the words of the question that stand for others stand for, in order.
    rows: Vec<Row>,
}

/// Words that follow each other and reach the linker as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Row {
    /// Inputs, and what the driver hands on among them.
    Inputs(Vec<OsString>),
    /// The values of `-L`.
    Directories(Vec<OsString>),
}

/// Stands for what is made.
const OUTPUT: &str = "farcc-output";
/// Begins what stands for directories.
const DIRECTORIES: &str = "-L/farcc-directories-";

/// Stands for the row of inputs at `position`: a file that is there, since drivers look, and whose name has no suffix.
fn inputs_word(position: usize) -> OsString {
    let mut word = String::from("/dev/");
    (0..=position).for_each(|_| word.push_str("./"));
    word.push_str("null");
    word.into()
}

impl Shape {
    /// The shape of the command of a driver.
    pub(super) fn of(command_line: &CommandLine) -> Shape {
        let mut rows: Vec<Row> = Vec::new();
        let mut question = Vec::new();
        let mut has_file = false;
        // Whether the last word of the question stands for the last row.
        let mut is_open = false;
        for argument in &command_line.arguments {
            let words: Vec<OsString> = match (argument.meaning, argument.name.as_bytes()) {
                (Meaning::Input, _) => vec![argument.value().to_owned()],
                (_, b"-Wl,") => argument.list().into_iter().map(OsStr::to_owned).collect(),
                (_, b"-Xlinker") => vec![argument.value().to_owned()],
                (_, b"-L") => {
                    match rows.last_mut() {
                        Some(Row::Directories(row)) if is_open => row.push(argument.value().to_owned()),
                        _ => {
                            question.push(format!("{DIRECTORIES}{}", rows.len()).into());
                            rows.push(Row::Directories(vec![argument.value().to_owned()]));
                        }
                    }
                    is_open = true;
                    continue;
                }
                (Meaning::Output, _) => {
                    question.extend(["-o".into(), OUTPUT.into()]);
                    is_open = false;
                    continue;
                }
                _ => {
                    question.extend(argument.words());
                    is_open = false;
                    continue;
                }
            };
            let is_file = argument.meaning == Meaning::Input;
            match rows.last_mut() {
                Some(Row::Inputs(row)) if is_open => row.extend(words),
                _ => {
                    let mut word = OsString::from("-Wl,");
                    word.push(inputs_word(rows.len()));
                    question.push(word);
                    rows.push(Row::Inputs(words));
                    has_file = false;
                }
            }
            if is_file && !has_file {
                // A driver does more for a file than for an option.
                question.pop();
                question.push(inputs_word(rows.len() - 1));
                has_file = true;
            }
            is_open = true;
        }
        if !command_line.has(Meaning::Output) {
            question.extend(["-o".into(), OUTPUT.into()]);
        }
        Shape { question, rows }
    }

    /// The linker's arguments, by those that the driver has answered. None: the answer does not have each word of the question
    /// once, as it is.
    pub(super) fn fill(&self, answer: &[OsString], output: &Path) -> Option<Vec<OsString>> {
        let mut words = Vec::with_capacity(answer.len());
        let mut used = vec![false; self.rows.len()];
        let mut take = |position: usize| !std::mem::replace(&mut used[position], true);
        let mut outputs = 0;
        for word in answer {
            let directories = word.as_bytes().strip_prefix(DIRECTORIES.as_bytes());
            let directories = directories.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            let inputs = (0..self.rows.len()).find(|&position| *word == inputs_word(position));
            match directories
                .or(inputs)
                .and_then(|position: usize| Some((position, self.rows.get(position)?)))
            {
                Some((position, Row::Inputs(row))) if take(position) => words.extend_from_slice(row),
                Some((position, Row::Directories(row))) if take(position) => {
                    words.extend(row.iter().map(|directory| {
                        let mut word = OsString::from("-L");
                        word.push(directory);
                        word
                    }));
                }
                Some(_) => return None,
                None if *word == OUTPUT => {
                    outputs += 1;
                    words.push(output.into());
                }
                None if mentions(word, OUTPUT) || mentions(word, "/farcc-directories-") => return None,
                None => words.push(word.clone()),
            }
        }
        (outputs == 1 && used.iter().all(|&used| used)).then_some(words)
    }
}

fn mentions(word: &OsStr, text: &str) -> bool {
    memchr::memmem::find(word.as_bytes(), text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(line: &str) -> Shape {
        let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        Shape::of(&CommandLine::parse(&words, Path::new("/")).unwrap())
    }

    fn text(words: &[OsString]) -> String {
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows_of_inputs_are_one_word_each() {
        for (line, question) in [
            ("-O2 a.o b.o -Wl,-z,now c.a -o app", "-O2 /dev/./null -o farcc-output"),
            (
                "a.o -lm b.o -L x -Ly -pthread -L z",
                "/dev/./null -lm /dev/././null -L/farcc-directories-2 -pthread \
               -L/farcc-directories-3 -o farcc-output",
            ),
            (
                "-Wl,-rpath,/x -Xlinker -y -shared a.o -oliba.so",
                "-Wl,/dev/./null -shared /dev/././null -o farcc-output",
            ),
            ("-Wl,--as-needed a.o", "/dev/./null -o farcc-output"),
        ] {
            assert_eq!(text(&shape(line).question), question, "{line}");
        }
        assert_eq!(shape("-O2 a.o -o a").question, shape("-O2 b.o c.o -Wl,-s -o b").question);
    }

    #[test]
    fn an_answer_is_filled_with_what_the_words_stand_for() {
        let shape = shape("a.o -Wl,-z,now b.o -L x -Ly -lm -o app");
        let fill = |answer: &str| {
            let words: Vec<_> = answer.split_whitespace().map(OsString::from).collect();
            shape.fill(&words, Path::new("app")).map(|words| text(&words))
        };
        let answer = "-o farcc-output crt1.o -L/farcc-directories-1 -L/usr/lib /dev/./null -lm -lc";
        assert_eq!(fill(answer).unwrap(), "-o app crt1.o -Lx -Ly -L/usr/lib a.o -z now b.o -lm -lc");
        for incomplete in [
            "-o farcc-output /dev/./null -lm",
            "-o farcc-output /dev/./null /dev/./null -L/farcc-directories-1",
            "-o farcc-output /dev/./null -L/farcc-directories-1 --time-trace=farcc-output.json",
            "/dev/./null -L/farcc-directories-1",
        ] {
            assert_eq!(fill(incomplete), None, "{incomplete}");
        }
    }
}

//! Reads linker scripts for the files that they name.
//! Knows nothing of where those files are looked for, nor of what the rest of a script does.
//!
//! A script's grammar is large, and a few of its words decide about files. So the words are taken one after the other;
//! what is no command that names files is kept as a word, since a plain file name among the sections is opened as well
//! (GNU ld manual, "Input Section Basics").

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Longer files are not read as scripts.
pub(super) const LONGEST_BYTES: u64 = 1 << 20;

/// `AS_NEEDED` within `INPUT` within …
const DEEPEST_LIST: usize = 64;

/// What a script says of files, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) statements: Vec<Statement>,
    /// Words that are plain file names, perhaps, each once.
    pub(super) mentions: Vec<OsString>,
    /// The first word of `OUTPUT_FORMAT`.
    pub(super) format: Option<OsString>,
    /// What cannot be followed, if anything.
    pub(super) obstacle: Option<Obstacle>,
    /// lld and gold skip the rest of a line after `#`, GNU ld only that character.
    pub(super) has_line_comments: bool,
}

/// One command that names a file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// `INPUT`, `GROUP`, `STARTUP`: a file, or with `-l` in front a library.
    Input(OsString),
    /// `SEARCH_DIR`.
    Directory(OsString),
    /// `INCLUDE`: another script, here.
    Include(OsString),
}

/// Why a script cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// `OUTPUT(…)` names what is made.
    Output,
    /// A comment, a quoted name or a list has no end.
    Unfinished,
}

impl Script {
    /// Reads a script; whatever is in it, there is an answer.
    pub(super) fn parse(text: &[u8]) -> Script {
        let mut script = Script::default();
        let mut lexer = Lexer { text, at: 0, has_line_comments: false, is_unfinished: false };
        let mut seen = foldhash::HashSet::default();
        while let Some(token) = lexer.next() {
            let Token::Word { text: word, is_quoted } = token else { continue };
            if is_quoted {
                script.mention(&mut seen, word);
                continue;
            }
            match word {
                b"INPUT" | b"GROUP" | b"STARTUP" => script.list(&mut lexer),
                b"SEARCH_DIR" => script.arguments(&mut lexer, Statement::Directory),
                b"OUTPUT_FORMAT" => script.format(&mut lexer),
                b"OUTPUT" => script.obstacle = Some(Obstacle::Output),
                b"INCLUDE" => match lexer.next() {
                    Some(Token::Word { text: name, .. }) => {
                        script.statements.push(Statement::Include(word_of(name)));
                    }
                    _ => script.obstacle = Some(Obstacle::Unfinished),
                },
                _ => script.mention(&mut seen, word),
            }
        }
        script.has_line_comments = lexer.has_line_comments;
        if lexer.is_unfinished {
            script.obstacle = Some(Obstacle::Unfinished);
        }
        script
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let names = self.statements.iter().map(|statement| match statement {
            Statement::Input(name) | Statement::Directory(name) | Statement::Include(name) => name.len(),
        });
        names.chain(self.mentions.iter().map(|name| name.len())).map(|length| length + 48).sum()
    }

    /// `(a, b AS_NEEDED(c))`.
    fn list(&mut self, lexer: &mut Lexer) {
        let mut depth = 0_usize;
        while let Some(token) = lexer.next() {
            match token {
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::Word { text: b"AS_NEEDED", is_quoted: false } => {}
                Token::Word { text, is_quoted } if depth > 0 => {
                    // Commas may stand between names, and in them.
                    let text = if is_quoted { text } else { without_commas(text) };
                    self.statements.push(Statement::Input(word_of(text)));
                }
                // No list follows: a section may be called INPUT.
                Token::Word { .. } | Token::Other => return,
            }
            if depth == 0 {
                return;
            }
            if depth > DEEPEST_LIST {
                break;
            }
        }
        self.obstacle = Some(Obstacle::Unfinished);
    }

    /// `(name, name, name)`: for the usual order of bytes, big and little endian. The last two are left to be mentions.
    fn format(&mut self, lexer: &mut Lexer) {
        if let (Some(Token::Open), Some(Token::Word { text, .. })) = (lexer.next(), lexer.next()) {
            self.format = Some(word_of(without_commas(text)));
        }
    }

    /// `(directory)`.
    fn arguments(&mut self, lexer: &mut Lexer, statement: impl Fn(OsString) -> Statement) {
        let open = lexer.next();
        let name = lexer.next();
        let close = lexer.next();
        match (open, name, close) {
            (Some(Token::Open), Some(Token::Word { text, .. }), Some(Token::Close)) => {
                self.statements.push(statement(word_of(text)));
            }
            _ => self.obstacle = Some(Obstacle::Unfinished),
        }
    }

    fn mention<'t>(&mut self, seen: &mut foldhash::HashSet<&'t [u8]>, word: &'t [u8]) {
        // Patterns are matched against the inputs that there are, and numbers are none.
        let is_pattern = memchr::memchr3(b'*', b'?', b'[', word).is_some();
        if !is_pattern && word.iter().any(u8::is_ascii_alphabetic) && seen.insert(word) {
            self.mentions.push(word_of(word));
        }
    }
}

fn without_commas(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b',').map_or(0, |last| last + 1);
    &text[..end]
}

fn word_of(text: &[u8]) -> OsString {
    OsString::from_vec(text.to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word {
        text: &'t [u8],
        is_quoted: bool,
    },
    Open,
    Close,
    /// Braces and semicolons.
    Other,
}

/// Splits a script into words. What may stand in a name differs by place; whatever may in any is taken as part of the word.
struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    has_line_comments: bool,
    is_unfinished: bool,
}

impl<'t> Lexer<'t> {
    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            let rest = &self.text[self.at..];
            let first = *rest.first()?;
            match first {
                _ if first.is_ascii_whitespace() || first == 0x0b || first == b',' => self.at += 1,
                // Only where a word could begin: `dir/*.o` is a pattern (ldlex.l).
                b'/' if rest.starts_with(b"/*") => match memchr::memmem::find(&rest[2..], b"*/") {
                    Some(length) => self.at += length + 4,
                    None => return self.unfinished(),
                },
                b'#' => {
                    self.has_line_comments = true;
                    self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                }
                b'"' => {
                    let Some(length) = memchr::memchr(b'"', &rest[1..]) else { return self.unfinished() };
                    self.at += length + 2;
                    return Some(Token::Word { text: &rest[1..=length], is_quoted: true });
                }
                b'(' | b')' | b'{' | b'}' | b';' => {
                    self.at += 1;
                    return Some(match first {
                        b'(' => Token::Open,
                        b')' => Token::Close,
                        _ => Token::Other,
                    });
                }
                _ => {
                    let is_end =
                        |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b || b"(){};\"".contains(byte);
                    let length = rest.iter().position(is_end).unwrap_or(rest.len());
                    self.at += length;
                    return Some(Token::Word { text: &rest[..length], is_quoted: false });
                }
            }
        }
    }

    fn unfinished(&mut self) -> Option<Token<'t>> {
        self.is_unfinished = true;
        self.at = self.text.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use expect_test::Expect;
    use expect_test::expect;

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let script = Script::parse(text.as_bytes());
        let mut words: Vec<String> = script
            .statements
            .iter()
            .map(|statement| match statement {
                Statement::Input(name) => name.display().to_string(),
                Statement::Directory(name) => format!("dir:{}", name.display()),
                Statement::Include(name) => format!("include:{}", name.display()),
            })
            .collect();
        words.extend(script.mentions.iter().map(|name| format!("?{}", name.display())));
        words.extend(script.format.map(|name| format!("={}", name.display())));
        words.extend(script.obstacle.map(|obstacle| format!("{obstacle:?}")));
        expected.assert_eq(&words.join(" "));
    }

    #[test]
    fn libraries_of_the_c_library() {
        check(
            "/* GNU ld script\n   Use the shared library. */\nOUTPUT_FORMAT(elf64-x86-64)\n\
             GROUP ( /lib/libc.so.6 /usr/lib/libc_nonshared.a  AS_NEEDED ( /lib64/ld-linux.so.2 ) )",
            &expect!["/lib/libc.so.6 /usr/lib/libc_nonshared.a /lib64/ld-linux.so.2 =elf64-x86-64"],
        );
        check("INPUT(-lncurses, \"a b.o\" =/lib/x.so)", &expect!["-lncurses a b.o =/lib/x.so"]);
        check("INPUT ( a.o AS_NEEDED(b.so AS_NEEDED(c.so)) d.o ) e", &expect!["a.o b.so c.so d.o ?e"]);
    }

    #[test]
    fn other_commands() {
        check(
            "SEARCH_DIR(\"=/usr/lib\"); SEARCH_DIR(x) STARTUP(crt.o) INCLUDE more.ld INCLUDE \"a b\"",
            &expect!["dir:=/usr/lib dir:x crt.o include:more.ld include:a b"],
        );
        check("OUTPUT(a.out)", &expect!["?a.out Output"]);
    }

    #[test]
    fn sections_may_name_files() {
        check(
            "SECTIONS { .text 0x1000 : { crt.o(.text) *(.text) lib/*.o(.text .rodata) KEEP(*(.x)) /* d.o */ } INCLUDE x.ld }",
            &expect!["include:x.ld ?SECTIONS ?.text ?0x1000 ?crt.o ?.rodata ?KEEP ?.x"],
        );
        check("SECTIONS { INPUT : { a.o } }", &expect!["?SECTIONS ?a.o"]);
    }

    #[test]
    fn what_has_no_end() {
        for text in [
            "INPUT(a.o",
            "/* x",
            "\"x",
            "GROUP(a.o AS_NEEDED(b.o)",
            "INCLUDE",
            "SEARCH_DIR(x",
            "INPUT(((((((",
        ] {
            assert_eq!(Script::parse(text.as_bytes()).obstacle, Some(Obstacle::Unfinished), "{text}");
        }
        let deep = "INPUT".to_owned() + &"(".repeat(1 << 19) + &")".repeat(1 << 19);
        assert_eq!(Script::parse(deep.as_bytes()).obstacle, Some(Obstacle::Unfinished));
        assert!(Script::parse(b"# don't\nINPUT(a)").has_line_comments);
    }

    #[test]
    fn any_bytes_have_an_answer() {
        let pieces: [&[u8]; 16] = [
            b"INPUT",
            b"GROUP",
            b"(",
            b")",
            b"/*",
            b"*/",
            b"\"",
            b"AS_NEEDED",
            b"INCLUDE",
            b" ",
            b"{",
            b"}",
            b"#",
            b"\n",
            b"\xff\0",
            b"a.o",
        ];
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap()
        };
        for _ in 0..20_000 {
            let text: Vec<u8> =
                (0..random() % 40).flat_map(|_| pieces[random() % pieces.len()]).copied().collect();
            let script = Script::parse(&text);
            assert!(script.statements.len() <= text.len());
        }
    }
}

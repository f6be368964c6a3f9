//! Random programs for preprocessors: valid, and so made that `-M` shows which way every conditional went.
//! Knows nothing of compilers or of the scanner.
//!
//! A program is a directory of small headers. Every branch of every conditional includes a marker, an empty file of its
//! own. All names begin with the program's own, so that many programs fit into one unit.

use std::fmt::Write as _;

use fastrand::Rng;

/// Markers that a program may include: `m0.h` to `m63.h`.
pub const MARKERS: usize = 64;
/// Headers besides `main.h`: `h0.h` and so on.
pub const HEADERS: usize = 4;
/// Directories of the search path with a file `NAME_next.h`, from which `#include_next` goes on.
pub const NEXT_DIRECTORIES: &[&str] = &["i0", "i1", "i2"];
/// A macro that whoever compiles the program may define.
pub const SETTING: &str = "fuzz_setting";

/// What the language has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    /// `R"(…)"`.
    pub raw_strings: bool,
    /// `1'000`.
    pub digit_separators: bool,
    /// `__VA_OPT__`.
    pub va_opt: bool,
    /// `#elifdef`.
    pub elifdef: bool,
    /// `and`, `true`.
    pub words: bool,
    /// `//` comments.
    pub line_comments: bool,
}

/// One program: texts by name; the first is `main.h`.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its directory, and the beginning of all its names.
    pub name: String,
    /// Names and texts. Those with a `/` lie in a directory of the search path, all others in the program's own.
    pub files: Vec<(String, String)>,
}

impl Program {
    /// The program of a seed.
    pub fn random(name: &str, seed: u64, features: Features) -> Program {
        let mut writer = Writer {
            rng: Rng::with_seed(seed),
            name,
            features,
            marker: 0,
            depth: 0,
            level: 0,
            elsewhere: false,
        };
        let mut files = vec![("main.h".to_owned(), String::new())];
        for header in (0..HEADERS).rev() {
            // Equal texts are one file to GCC's `#pragma once`, which reads the second one and does not list it.
            let text = format!("/* {header} */{}", writer.header(header));
            files.push((format!("h{header}.h"), text));
        }
        (writer.level, writer.elsewhere) = (HEADERS, true);
        for (at, directory) in NEXT_DIRECTORIES.iter().enumerate() {
            if at > 0 && writer.rng.u8(..4) == 0 {
                continue;
            }
            let mut text = writer.statements(1);
            // The last one has nothing to go on to.
            let _ = write!(
                text,
                "#if __has_include_next(<{name}_next.h>)\n#include_next <{name}_next.h>\n#endif\n{}",
                writer.include_marker()
            );
            files.push((format!("{directory}/{name}_next.h"), text));
        }
        (writer.level, writer.elsewhere) = (0, false);
        files[0].1 = writer.main();
        Program { name: name.to_owned(), files }
    }
}

struct Writer<'a> {
    rng: Rng,
    name: &'a str,
    features: Features,
    marker: usize,
    depth: usize,
    /// Headers of at least this number may be included here.
    level: usize,
    /// The text lies in another directory than the program.
    elsewhere: bool,
}

impl Writer<'_> {
    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    fn pick<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.rng.usize(..choices.len())]
    }

    fn include_marker(&mut self) -> String {
        let marker = self.marker % MARKERS;
        self.marker += 1;
        let name = self.name;
        let target = match self.rng.u32(..8) {
            // What lies elsewhere has no markers beside it.
            _ if self.elsewhere => format!("<{name}/m{marker}.h>"),
            0 => format!("<{name}/m{marker}.h>"),
            1 => format!("{name}_STRING(m{marker}.h)"),
            2 => format!("{name}_ANGLED(m{marker})"),
            3 => format!("\"./m{marker}.h\""),
            4 => format!("\"../{name}/m{marker}.h\" /* {name} */"),
            _ => format!("\"m{marker}.h\""),
        };
        let directive = self.directive("include");
        format!("{directive} {target}\n")
    }

    /// `#word`, in one of its many spellings.
    fn directive(&mut self, word: &str) -> String {
        let hash =
            self.pick(&["#", "#", "#", "#", " # ", "\t#", "%:", "/* # */#/**/ ", "#\\\n", "# /* \n */ "]);
        let mut text = format!("{hash}{word}");
        if self.chance(12) {
            text.insert_str(hash.len() + word.len() / 2, "\\\n");
        }
        text
    }

    /// The macros that every program has: their calls stay valid whatever happens.
    fn main(&mut self) -> String {
        let name = self.name;
        let mut text = format!(
            "#define {name}_STRING(x) {name}_STRING_(x)\n#define {name}_STRING_(x) #x\n\
             #define {name}_ANGLED(x) <{name}/x.h>\n\
             #define {name}_PASTE(a, b) {name}_PASTE_(a, b)\n#define {name}_PASTE_(a, b) a ## b\n\
             #define {name}_FIRST(a, ...) a\n#define {name}_SECOND(a, b, ...) b\n#define {name}_EMPTY\n\
             #define {name}_ALL(...) {name}_FIRST(__VA_ARGS__)\n\
             #define {name}_GNU(a, ...) {name}_SECOND(a, ## __VA_ARGS__, 0, 1)\n\
             #define {name}_CALL(f) f(1, 2, 3)\n#define {name}_NAME {name}_F\n#define {name}_OPEN {name}_F (\n\
             #define {name}_SELF ({name}_SELF + 1)\n#define {name}_X1 {name}_X2 + 1\n#define {name}_X2 {name}_X1 * 2\n"
        );
        if self.features.va_opt {
            let _ = writeln!(text, "#define {name}_OPT(a, ...) (0 __VA_OPT__(+ (a)) + 2)");
        }
        for letter in ["F", "G"] {
            text.push_str(&self.define_function(letter));
        }
        text.push_str(&self.statements(6));
        for header in 0..HEADERS {
            if self.chance(2) {
                let _ = writeln!(text, "{} \"h{header}.h\"", self.directive("include"));
                text.push_str(&self.statements(2));
            }
        }
        if self.chance(3) {
            let _ = writeln!(text, "#include <{name}_next.h>");
        }
        // The last line may have no end, and a byte order mark may be first.
        match self.rng.u32(..10) {
            0 => text.insert(0, '\u{feff}'),
            1 => text = text.replace('\n', "\r\n"),
            2 => text.truncate(text.trim_end().len()),
            _ => {}
        }
        text
    }

    fn header(&mut self, number: usize) -> String {
        self.level = number + 1;
        let name = self.name;
        let body = self.statements(3);
        let guard = format!("{name}_H{number}");
        match self.rng.u32(..7) {
            0 => format!("#pragma once\n{body}"),
            1 => format!("#ifndef {guard}\n#define {guard}\n{body}#endif\n"),
            2 => format!("/* a */\n#if !defined({guard})\n#define {guard} 1\n{body}#endif // b\n"),
            3 => format!(
                "#if !defined {guard}\n#define {guard}\n{body}#else\n{}#endif\n",
                self.include_marker()
            ),
            4 => format!("#ifdef {guard}\n{}#endif\n#define {guard}\n{body}", self.include_marker()),
            5 => format!("int a_{guard};\n#ifndef {guard}\n#define {guard}\n{body}#endif\n"),
            _ => body,
        }
    }

    fn statements(&mut self, most: usize) -> String {
        let count = self.rng.usize(..=most);
        (0..count).map(|_| self.statement()).collect()
    }

    fn statement(&mut self) -> String {
        let name = self.name;
        match self.rng.u32(..22) {
            0..=5 => self.conditional(),
            6 | 7 => self.define_value(),
            8 => self.define_function_again(),
            9 => format!("{} {name}_{}\n", self.directive("undef"), self.value_name()),
            10 => self.include_marker(),
            11 if self.level < HEADERS => {
                let header = self.rng.usize(self.level..HEADERS);
                let word = if self.chance(6) { "import" } else { "include" };
                format!("{} \"h{header}.h\"\n", self.directive(word))
            }
            12 => {
                let value = self.value_name();
                let inner = self.statements(2);
                format!(
                    "#pragma push_macro(\"{name}_{value}\")\n{inner}#pragma pop_macro(\"{name}_{value}\")\n"
                )
            }
            13 => self.has_include(),
            14 if self.depth == 0 => {
                let most = self.rng.u32(2..7);
                format!("#if __INCLUDE_LEVEL__ < {most}\n#include __FILE__\n#endif\n")
            }
            // On a line of its own: which number a spliced line has is not certain.
            15 => format!("#if __LINE__ % 3 {}\n{}#endif\n", self.pick(&["", "== 1"]), self.include_marker()),
            _ => self.noise(),
        }
    }

    /// What must not be taken for directives.
    fn noise(&mut self) -> String {
        let name = self.name;
        let mut lines = vec![
            "char c = '\"'; /*\n#include \"nowhere.h\"\n*/\n".to_owned(),
            "const char *s = \"\\\n#include \\\"nowhere.h\\\"\\\n\";\n".to_owned(),
            format!("int {name}_x; /* // */ int {name}_y; /*/ */\n"),
            "#pragma GCC diagnostic push\n#pragma unknown \"x\" '\n".to_owned(),
            "#if 0\n#include \"nowhere.h\"\n#if nonsense ( ( 'x\n#else\n#endif\nit's\n#elif 1 +\n#endif\n"
                .replace("#elif 1 +\n", ""),
            "#\n# /* nothing */\n".to_owned(),
            // A directive where there are trigraphs, a comment that goes on, and neither elsewhere.
            format!("??=include <{name}/m{}.h>\n", self.rng.usize(..MARKERS)),
            format!("// ??/\n#include <{name}/m{}.h>\n", self.rng.usize(..MARKERS)),
            "int a = 1 <: 0 :> ; // \\\n#include \"nowhere.h\"\n".to_owned(),
        ];
        if !self.features.line_comments {
            lines.retain(|line| !line.contains("//"));
        }
        if self.features.raw_strings {
            lines.push("const char *r = R\"x(\n#include \"nowhere.h\"\n)\" )x\";\n".to_owned());
            lines.push("auto u = u8R\"(\\\n#error\n)\" \"\\\"\";\n".to_owned());
        }
        if self.features.digit_separators {
            lines.push("int d = 1'000 + 0x1'F; char e = 'x';\n".to_owned());
        }
        let at = self.rng.usize(..lines.len());
        lines.swap_remove(at)
    }

    fn conditional(&mut self) -> String {
        if self.depth == 4 {
            return self.include_marker();
        }
        self.depth += 1;
        let name = self.name;
        let mut text = match self.rng.u32(..4) {
            0 => format!("{} {name}_{}\n", self.directive("ifdef"), self.value_name()),
            1 => format!("{} {name}_{}\n", self.directive("ifndef"), self.value_name()),
            _ => format!("{} {}\n", self.directive("if"), self.expression(3)),
        };
        text.push_str(&self.branch());
        for _ in 0..self.rng.usize(..3) {
            let condition = match self.rng.u32(..6) {
                0 if self.features.elifdef => {
                    format!("{} {name}_{}\n", self.directive("elifdef"), self.value_name())
                }
                1 if self.features.elifdef => {
                    format!("{} {name}_{}\n", self.directive("elifndef"), self.value_name())
                }
                _ => format!("{} {}\n", self.directive("elif"), self.expression(2)),
            };
            text.push_str(&condition);
            text.push_str(&self.branch());
        }
        if self.chance(2) {
            let _ = writeln!(text, "{}", self.directive("else"));
            text.push_str(&self.branch());
        }
        let _ = writeln!(text, "{}", self.directive("endif"));
        self.depth -= 1;
        text
    }

    fn branch(&mut self) -> String {
        let marker = self.include_marker();
        let rest = self.statements(2);
        if self.chance(2) { format!("{marker}{rest}") } else { format!("{rest}{marker}") }
    }

    fn value_name(&mut self) -> &'static str {
        const NAMES: &[&str] = &["A", "B", "C", "D", "E"];
        NAMES[self.rng.usize(..NAMES.len())]
    }

    fn define_value(&mut self) -> String {
        let (name, value) = (self.name, self.value_name());
        let body = match self.rng.u32(..5) {
            0 => self.number(),
            1 => format!("({})", self.expression(1)),
            2 => format!("{name}_{}", self.value_name()),
            3 => format!("{} /* {value} */", self.expression(1)),
            _ => format!("{name}_EMPTY {} {name}_EMPTY", self.number()),
        };
        format!("#undef {name}_{value}\n{} {name}_{value} {body}\n", self.directive("define"))
    }

    fn define_function(&mut self, letter: &str) -> String {
        let name = self.name;
        let body = match self.rng.u32(..6) {
            0 => "a + b".to_owned(),
            1 => "((a) * 2 - (b))".to_owned(),
            2 => format!("(a ? b : {name}_{})", self.value_name()),
            3 => format!("({name}_{letter} + (a) + (b))"),
            4 => format!("{name}_FIRST(b, a)"),
            _ => format!("(a {} b)", self.pick(&["<", "==", "&&", "||", "^"])),
        };
        let parameters = if self.chance(3) { "(a, b, ...)" } else { "(a,b, rest...)" };
        format!("#define {name}_{letter}{parameters} {body}\n")
    }

    /// Always with the same number of arguments.
    fn define_function_again(&mut self) -> String {
        let letter = self.pick(&["F", "G"]);
        let definition = self.define_function(letter);
        format!("#undef {}_{letter}\n{definition}", self.name)
    }

    fn has_include(&mut self) -> String {
        let (name, marker) = (self.name, self.rng.usize(..MARKERS + 8));
        let target = match self.rng.u32(..3) {
            0 => format!("<{name}/m{marker}.h>"),
            1 => format!("{name}_STRING(m{marker}.h)"),
            _ => format!("\"m{marker}.h\""),
        };
        let not = self.pick(&["", "!"]);
        let (yes, no) = (self.include_marker(), self.include_marker());
        format!("#if {not}__has_include({target})\n{yes}#else\n{no}#endif\n")
    }

    fn number(&mut self) -> String {
        let value = self.rng.u32(..12);
        let mut numbers = vec![
            value.to_string(),
            format!("{value}u"),
            format!("{value}L"),
            format!("0x{value:X}UL"),
            format!("0{value:o}ll"),
            "'a'".to_owned(),
            "'\\n'".to_owned(),
            "'\\377'".to_owned(),
            "-1".to_owned(),
            "0x7fffffffffffffff".to_owned(),
            "18446744073709551615u".to_owned(),
        ];
        if self.features.digit_separators {
            numbers.push("1'0".to_owned());
            numbers.push("0b1'01".to_owned());
        }
        let at = self.rng.usize(..numbers.len());
        numbers.swap_remove(at)
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.atom();
        }
        let (a, b) = (self.expression(depth - 1), self.expression(depth - 1));
        match self.rng.u32(..14) {
            0 => format!("({a})"),
            1 => format!("!({a})"),
            2 => format!("~ {a}"),
            3 => format!("- ({a})"),
            4 => format!("({a}) / (({b}) * 0 + 3)"),
            5 => format!("({a}) % 5"),
            6 => format!("({a}) {} 3", self.pick(&["<<", ">>"])),
            7 => format!("(({a}) ? {b} : ({a}))"),
            8 if self.features.words => {
                format!("({a}) {} ({b})", self.pick(&["and", "or", "xor", "not_eq", "bitand"]))
            }
            9 => format!("({a}) \\\n + /* + */ ({b})"),
            _ => {
                let operator =
                    self.pick(&["+", "-", "*", "<", ">", "<=", ">=", "==", "!=", "&", "|", "^", "&&", "||"]);
                format!("({a}) {operator} ({b})")
            }
        }
    }

    fn atom(&mut self) -> String {
        let (name, value) = (self.name, self.value_name());
        let number = self.number();
        match self.rng.u32(..24) {
            0..=3 => format!("{name}_{value}"),
            4 => format!("defined {name}_{value}"),
            5 => format!("defined({name}_{value})"),
            6 => format!("{name}_F({number}, {name}_{value})"),
            7 => format!("{name}_G ({name}_F(1, 2), ({number}, 3))"),
            8 => format!("{name}_PASTE({name}_, {value})"),
            9 => format!("{name}_PASTE(1, {name}_PASTE(2, 3))").replace("1, ", &format!("{name}_EMPTY 1, ")),
            10 => format!("{name}_ALL({name}_{value}, 2)"),
            11 => {
                let comma = self.pick(&["", ","]);
                format!("({name}_GNU({name}_{value}{comma}) + 1)")
            }
            12 => format!("{name}_GNU({name}_{value}, {number})"),
            13 => format!("{name}_CALL({name}_F)"),
            14 => format!("{name}_NAME\\\n(4, 5, {number})"),
            15 => format!("{name}_OPEN {number} , 2)"),
            16 => format!("{name}_SELF"),
            17 => format!("({name}_X1)"),
            18 => format!("{name}_EMPTY {number}"),
            19 => SETTING.to_owned(),
            21 if self.features.va_opt => {
                let rest = self.pick(&["", ", 1", ",", ", , "]);
                format!("{name}_OPT(3{rest})")
            }
            22 if self.features.words => self.pick(&["true", "false"]).to_owned(),
            _ => number,
        }
    }
}

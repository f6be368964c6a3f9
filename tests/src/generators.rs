//! A CMake project with generators of every kind: a script, a program of its own, flex and bison; and with tests.
//! Knows nothing of who builds it.

use crate::prerequisites;
use crate::space::TestSpace;

const CMAKE: &str = r#"
cmake_minimum_required(VERSION 3.15)
project(generators C CXX)
enable_testing()

# A script of the project's makes a source and a header.
add_custom_command(OUTPUT words.c words.h
  COMMAND /usr/bin/python3 "${CMAKE_SOURCE_DIR}/words.py" "${CMAKE_SOURCE_DIR}/words.txt" words.c words.h
  DEPENDS words.py words.txt VERBATIM)

# A program of the project's makes another source.
add_executable(tables tables.cpp)
add_custom_command(OUTPUT squares.c COMMAND tables 100 squares.c DEPENDS tables VERBATIM)

# Programs of the machine's make others.
add_custom_command(OUTPUT sums.tab.c sums.tab.h
  COMMAND /usr/bin/bison -d -o sums.tab.c "${CMAKE_SOURCE_DIR}/sums.y" DEPENDS sums.y VERBATIM)
add_custom_command(OUTPUT sums.lex.c
  COMMAND /usr/bin/flex -o sums.lex.c "${CMAKE_SOURCE_DIR}/sums.l" DEPENDS sums.l VERBATIM)

# A step that makes nothing but a stamp.
add_custom_command(OUTPUT checked.stamp
  COMMAND /usr/bin/python3 -c "import sys; open(sys.argv[1], 'w'); assert open(sys.argv[2]).read()" checked.stamp words.h
  DEPENDS words.h VERBATIM)
add_custom_target(check ALL DEPENDS checked.stamp)

add_library(units STATIC first.cpp @UNITS@)
add_executable(main main.cpp words.c squares.c sums.tab.c sums.lex.c)
target_include_directories(main PRIVATE "${CMAKE_BINARY_DIR}")
target_link_libraries(main PRIVATE units)
add_test(NAME runs COMMAND main)
add_test(NAME counts COMMAND /usr/bin/python3 "${CMAKE_SOURCE_DIR}/count.py" "$<TARGET_FILE:main>")
"#;

const WORDS: &str = "import sys
words = open(sys.argv[1]).read().split()
open(sys.argv[2], 'w').write('#include \"words.h\"\\nconst char *const words[] = {' + ', '.join(f'\"{w}\"' for w in words) + '};\\n')
open(sys.argv[3], 'w').write(f'enum {{ WORDS = {len(words)} }};\\nextern const char *const words[];\\n')
";

const TABLES: &str = r#"
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
int main(int, char **argv) {
  std::map<int, int> squares;
  for (int i = 0; i < std::atoi(argv[1]); ++i) squares[i] = i * i;
  std::ofstream out(argv[2]);
  out << "const int squares[] = {";
  for (auto &[root, square] : squares) out << square << ",";
  out << "};\n";
  return std::regex_match("a", std::regex("a")) ? 0 : 1;
}
"#;

const GRAMMAR: &str = r#"
%{
#include <stdio.h>
int yylex(void);
static void yyerror(const char *message) { fprintf(stderr, "%s\n", message); }
int sum;
%}
%token NUMBER
%%
all: terms { sum = $1; };
terms: NUMBER | terms '+' NUMBER { $$ = $1 + $3; };
%%
"#;

const SCANNER: &str = r#"
%option noyywrap nounput noinput
%{
#include <stdlib.h>
#include "sums.tab.h"
%}
%%
[0-9]+ { yylval = atoi(yytext); return NUMBER; }
[+] { return '+'; }
[ \n] ;
%%
int sum_of(const char *text) {
  extern int sum;
  YY_BUFFER_STATE buffer = yy_scan_string(text);
  yyparse();
  yy_delete_buffer(buffer);
  return sum;
}
"#;

const MAIN: &str = r#"
#include <cstdio>
extern "C" {
#include "words.h"
extern const int squares[];
int sum_of(const char *);
}
int units();
int main() {
  for (int i = 0; i < WORDS; ++i) std::printf("%s %d\n", words[i], squares[i]);
  return sum_of("1 + 2 + 39") == 42 && units() >= 0 ? 0 : 1;
}
"#;

const COUNT: &str = "import subprocess, sys
lines = subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout.splitlines()
assert lines == ['one 0', 'two 1', 'three 4'] or len(lines) == 4, lines
";

/// The custom commands of the project: each makes its files once.
pub const CUSTOM_COMMANDS: u64 = 5;

/// Its compiles, without those of the additional units.
pub const COMPILES: u64 = 7;

/// Its links and archives.
pub const LINKS: u64 = 3;

/// What [`MAIN`] prints.
pub const OUTPUT: &str = "one 0\ntwo 1\nthree 4\n";

/// Puts the project into the workspace, with so many units besides.
pub fn lay(space: &TestSpace, units: usize) {
    prerequisites::require(&["cmake", "ninja", "make", "python3", "flex", "bison"]);
    let names: Vec<_> = (0..units).map(|unit| format!("unit{unit}.cpp")).collect();
    space.write("CMakeLists.txt", CMAKE.replace("@UNITS@", &names.join(" ")));
    space.write("words.py", WORDS);
    space.write("words.txt", "one two three\n");
    space.write("tables.cpp", TABLES);
    space.write("sums.y", GRAMMAR);
    space.write("sums.l", SCANNER);
    space.write("main.cpp", MAIN);
    space.write("count.py", COUNT);
    let calls: String = (0..units).map(|unit| format!(" + unit{unit}()")).collect();
    let declared: String = (0..units).map(|unit| format!("int unit{unit}();\n")).collect();
    space.write("first.cpp", format!("{declared}int units() {{ return 0{calls}; }}\n"));
    for (unit, name) in names.iter().enumerate() {
        let text = format!(
            "#include <map>\n#include <regex>\n#include <string>\n\
             int unit{unit}() {{\n  std::map<std::string, int> counts;\n  \
             for (auto word : {{\"a\", \"b{unit}\"}}) ++counts[word];\n  \
             return std::regex_match(\"unit{unit}\", std::regex(\"[a-z]*[0-9]+\")) ? int(counts.size()) : -1;\n}}\n"
        );
        space.write(name, text);
    }
}

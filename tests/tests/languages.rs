//! What a compile can be besides plain C and C++: each kind is compiled by a worker, as the compiler alone does it.
//! Knows nothing of how the inputs are found; a worker has no others.

#![allow(clippy::unwrap_used, clippy::panic)]

use farcc_tests::oracle::Compiler;
use farcc_tests::prerequisites;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::TestSpace;
use farccd::preprocessor::Language;

struct Case {
    compiler: &'static str,
    language: Language,
    files: &'static [(&'static str, &'static str)],
    arguments: &'static str,
}

const CASES: &[Case] = &[
    Case {
        compiler: "gcc",
        language: Language::C,
        files: &[
            ("a.c", "__asm__(\".section .rodata\\n.incbin \\\"blob.bin\\\"\\n.previous\");\n"),
            ("inc/blob.bin", "b"),
        ],
        arguments: "-Iinc a.c",
    },
    Case {
        compiler: "gcc",
        language: Language::Assembler,
        files: &[("a.S", "x: .incbin \"blob.bin\"\n"), ("deep/inc/blob.bin", "b")],
        arguments: "-Wa,-I,deep/inc,--noexecstack a.S",
    },
    Case {
        compiler: "clang",
        language: Language::C,
        files: &[
            ("a.c", "__asm__(\".section .rodata\\n.incbin \\\"blob.bin\\\"\\n.previous\");\n"),
            ("sys/blob.bin", "c"),
        ],
        arguments: "-isystem sys a.c",
    },
    Case {
        compiler: "gcc",
        language: Language::Assembler,
        files: &[
            ("a.S", "#include \"a.h\"\n.include \"b.inc\"\n"),
            ("a.h", ".globl x\n"),
            ("inc/b.inc", "x: .incbin \"blob.bin\"\n"),
            ("blob.bin", "blob"),
        ],
        arguments: "-Iinc a.S",
    },
    Case {
        compiler: "gcc",
        language: Language::ObjectiveC,
        files: &[
            ("a.m", "#import \"a.h\"\n#import \"a.h\"\n@class Foo;\nint x = A;\n"),
            ("a.h", "enum { A };\n"),
        ],
        arguments: "a.m",
    },
    Case {
        compiler: "clang++",
        language: Language::ObjectiveCxx,
        files: &[
            ("a.mm", "#import \"a.h\"\n@class Foo;\nnamespace n { int x = A; }\n"),
            ("a.h", "enum { A };\n"),
        ],
        arguments: "-std=c++17 a.mm",
    },
    Case {
        compiler: "gcc",
        language: Language::C,
        files: &[("a.c", "??=include \"a.h\"\nint x = A;\n"), ("a.h", "enum { A };\n")],
        arguments: "-std=gnu11 -trigraphs a.c",
    },
    Case {
        compiler: "g++",
        language: Language::Cxx,
        files: &[
            ("a.cc", "#define and +\n#if (1 and 1) == 2\n#include \"a.h\"\n#endif\nint x = A;\n"),
            ("a.h", "enum { A };\n"),
        ],
        arguments: "-fno-operator-names a.cc",
    },
    Case {
        compiler: "clang-19",
        language: Language::C,
        files: &[
            ("a.c", "const char x[] = {\n#embed \"b.bin\"\n,\n#embed <c.bin> limit(1)\n};\n"),
            ("b.bin", "b"),
            ("data/c.bin", "cc"),
        ],
        arguments: "-std=c23 --embed-dir=data a.c",
    },
];

/// A shell script that makes `a.c` and what it includes, under names and links that are easily got wrong.
const NAMES: &[&str] = &[
    r#"echo 'enum { A };' > 'b c,d.h'; printf '#include "b c,d.h"\nint x = A;\n' > a.c"#,
    r#"mkdir d; echo 'enum { A };' > d/b.h; printf '#include "d//b.h" // "no.h"\nint x = A;\n' > a.c"#,
    r#"mkdir d; echo 'enum { A };' > 'd/b//c.h' 2>/dev/null; mkdir -p d/b; echo 'enum { A };' > d/b/c.h
       printf '#include <d/b//c.h>/**/\nint x = A;\n' > a.c"#,
    r#"echo 'enum { A };' > 'b\c.h'; printf '#include "b\\c.h"\nint x = A;\n' > a.c"#,
    r#"echo 'enum { A };' > "b'c.h"; printf '#include "b%sc.h"\nint x = A;\n' "'" > a.c"#,
    // A directory of the name is passed over.
    r#"mkdir -p b.h inc; echo 'enum { A };' > inc/b.h; printf '#include "b.h"\nint x = A;\n' > a.c"#,
    // `..` goes up from where the link leads.
    r#"mkdir -p far/away far/b b; ln -s far/away link; echo 'enum { A };' > far/b/b.h; echo 'enum { A = 9 };' > b/b.h
       printf '#include "link/../b/b.h"\nint x = A;\n' > a.c"#,
    // A link that leads nowhere is passed over.
    r#"mkdir inc; ln -s nowhere b.h; echo 'enum { A };' > inc/b.h; printf '#include "b.h"\nint x = A;\n' > a.c"#,
    r#"mkdir -p inc/d; ln -s d inc/e; ln -s ../../t.h inc/d/b.h; echo 'enum { A };' > t.h
       printf '#include <e/b.h>\nint x = A;\n' > a.c"#,
    r#"mkdir inc; ln -s inc/real.c a.c; printf '#include "b.h"\nint x = A;\n' > inc/real.c; echo 'enum { A };' > b.h"#,
];

#[test]
fn each_name_is_compiled_by_a_worker() {
    prerequisites::require(&["gcc", "clang"]);
    let space = TestSpace::new("names");
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    for (index, script) in NAMES.iter().enumerate() {
        let directory = format!("project{index}");
        space.write(&format!("{directory}/unused"), "");
        space.sh(&directory, script).success();
        // Clang writes a backslash in a name into its depfile as a slash, so that the audit disagrees.
        let compilers = if script.contains("b\\c.h") { &["gcc"][..] } else { &["gcc", "clang"] };
        for compiler in compilers {
            let compile = |launcher: &str| {
                space.sh(&directory, &format!("{launcher} {compiler} -I. -Iinc -c a.c -o a.o")).success();
                std::fs::read(space.workspace().join(&directory).join("a.o")).unwrap()
            };
            space.reset_stats();
            let plain = compile("");
            assert!(compile("farcc") == plain, "{compiler} {script}: {}", space.stats().0);
            assert_eq!(
                space.stats().verdict("executed_remote"),
                1,
                "{compiler} {script}: {}",
                space.stats().0
            );
        }
    }
}

#[test]
fn each_kind_is_compiled_by_a_worker() {
    prerequisites::require(&["gcc", "clang"]);
    let space = TestSpace::new("languages");
    let server = ServeProcess::start(&space, "cluster");
    space.configure_remote(server.address());
    for (index, Case { compiler, language, files, arguments }) in CASES.iter().enumerate() {
        if Compiler::named(compiler, *language, &[]).is_none() {
            skipped(arguments, &format!("{compiler} is not installed for {}", language.name()));
            continue;
        }
        let directory = format!("project{index}");
        for (name, text) in *files {
            space.write(&format!("{directory}/{name}"), text);
        }
        let compile = |launcher: &str| {
            space.sh(&directory, &format!("{launcher} {compiler} {arguments} -c -o a.o")).success();
            std::fs::read(space.workspace().join(&directory).join("a.o")).unwrap()
        };
        space.reset_stats();
        let plain = compile("");
        let what = format!("{compiler} {arguments}");
        assert!(compile("farcc") == plain, "{what}: {}", space.stats().0);
        assert_eq!(space.stats().verdict("executed_remote"), 1, "{what}: {}", space.stats().0);
    }
}

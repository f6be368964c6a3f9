//! Hostile input to everything that reads what it did not write: it ends soon, without a panic, on a small stack.
//! Knows nothing of what a right answer would be.
//!
//! `FARCC_FUZZ_CASES=100000` makes a longer run, `FARCC_FUZZ_SEED=7` another one. The fuzz targets in `tests/fuzz` look further.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::twin;
use farcc_proto::twin::change::Now;
use farcc_tests::hostile;
use farcc_tests::say;
use prost::Message;

/// As much as a thread of the daemon that does blocking work has.
const STACK_BYTES: usize = 2 << 20;
/// Far more than an input takes on a busy machine, far less than a build would wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mutated inputs for each target, unless more are asked for.
const DEFAULT_CASES: usize = 300;

type Target = (&'static str, fn(&[u8]));
const TARGETS: &[Target] = &[
    ("lexer", hostile::lexer),
    ("directives", hostile::directives),
    ("expression", hostile::expression),
    ("depfile", hostile::depfile),
    ("changes", hostile::changes),
];

/// Runs a target over inputs on a small stack; how long the slowest took, and which it was.
fn run(target: Target, inputs: Vec<(String, Vec<u8>)>) -> (Duration, String) {
    let work = move || {
        let mut worst = (Duration::ZERO, String::new());
        for (what, input) in inputs {
            let started = Instant::now();
            if std::env::var_os("FARCC_FUZZ_NAMES").is_some() {
                say(&what);
            }
            target.1(&input);
            worst = worst.max((started.elapsed(), what));
        }
        worst
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap()
}

/// Inputs that aim at something: depth, size, growth.
fn nasty() -> Vec<(String, Vec<u8>)> {
    let doubling: String = (1..64).map(|n| format!("#define A{n} A{} A{}\n", n - 1, n - 1)).collect();
    let doubling_calls: String =
        (1..64).map(|n| format!("#define F{n}(x) F{}(x x) F{}(x)\n", n - 1, n - 1)).collect();
    let pasting: String = (1..40).map(|n| format!("#define P{n}(a) P{}(a##a)\n", n - 1)).collect();
    let strings: String = (1..40).map(|n| format!("#define S{n}(a) S{}(#a)\n", n - 1)).collect();
    let parameters: Vec<String> = (0..1 << 16).map(|n| format!("a{n}")).collect();
    let all: &[(&str, String)] = &[
        ("parentheses", format!("#if {}1\n#endif\n", "(".repeat(1_000_000))),
        ("signs", format!("#if {}1\n#endif\n", "-!~".repeat(300_000))),
        ("question marks", format!("#if {}1\n#endif\n", "1?".repeat(300_000))),
        ("nested #if", "#if 1\n".repeat(100_000)),
        ("nested and ended #if", format!("{}{}", "#if 1\n".repeat(100_000), "#endif\n".repeat(100_000))),
        ("#elif", format!("#if 0\n{}#endif\n", "#elif 0\n".repeat(300_000))),
        ("doubling macros", format!("#define A0 1\n{doubling}#if A63\n#endif\n#include A63\n")),
        ("doubling calls", format!("#define F0(x) x\n{doubling_calls}#if F63(1)\n#endif\n")),
        ("pasting", format!("#define P0(a) a\n{pasting}#if P39(x)\n#endif\n")),
        ("stringising", format!("#define S0(a) a\n{strings}#if S39(\"\\\\\")\n#endif\n")),
        (
            "nested calls",
            format!("#define F(x) x\n#if {}1{}\n#endif\n", "F(".repeat(50_000), ")".repeat(50_000)),
        ),
        (
            "parameters",
            format!("#define F({}) 1\n#if F({})\n#endif\n", parameters.join(","), parameters.join(",")),
        ),
        ("arguments", format!("#define F(...) 1\n#if F({})\n#endif\n", parameters.join(","))),
        ("file that includes itself", "#include \"main.c\"\n".repeat(1000)),
        (
            "files that include each other",
            format!("{0}\x01{0}", "#include \"h\"\n#include \"main.c\"\n".repeat(50)),
        ),
        (
            "push_macro",
            format!(
                "#define X 1\n{}",
                "#pragma push_macro(\"X\")\n#pragma pop_macro(\"X\")\n".repeat(50_000)
            ),
        ),
        ("pushes", "#pragma push_macro(\"X\")\n".repeat(100_000)),
        ("one long line", format!("#define A {}\n#if A\n#endif\n", "x ".repeat(3_000_000))),
        (
            "one long name",
            format!("#include \"{}\"\n#ifdef {}\n#endif\n", "x/".repeat(500_000), "y".repeat(1_000_000)),
        ),
        ("splices", format!("#de{}fine A\n", "\\\n".repeat(1_000_000))),
        ("comments", "/**/".repeat(1_000_000)),
        ("stars", format!("/{}", "*".repeat(3_000_000))),
        ("quotes", "\"'".repeat(1_000_000)),
        ("raw strings", "R\"x(".repeat(100_000)),
        ("digit separators", "1'".repeat(1_000_000)),
        ("NULs", "\0".repeat(3_000_000)),
        (
            "definitions",
            (0..200_000).map(|n| format!("#define D{n} D{}\n", n + 1)).collect::<String>()
                + "#if D0\n#endif\n",
        ),
        (
            "long questions",
            format!("#if __has_builtin({})\n#endif\n", format!("{} ", "q".repeat(100_000)).repeat(2000)),
        ),
        ("incbin", "asm(\".incbin \\\"x\\\"\");\n".repeat(50_000)),
        (
            "names in a question",
            format!(
                "#define A {}\n#if __has_builtin({})\n#endif\n",
                "a".repeat(1 << 20),
                "A ".repeat(1 << 12)
            ),
        ),
        (
            "names in a header name",
            format!("#define A {}\n#define L <\n#include L {}>\n", "a".repeat(1 << 20), "A ".repeat(1 << 12)),
        ),
        ("header names without end", format!("#if {}\n#endif\n", "__has_include(<".repeat(100_000))),
        (
            "#elif that decide nothing, again and again",
            format!(
                "#if __INCLUDE_LEVEL__ < 16\n#include \"h\"\n#include \"main.c\"\n#include \"main.c\"\n#endif\n\x01#ifdef X\n{}#endif\n",
                "#elifdef X\n".repeat(20_000)
            ),
        ),
        (
            "a body beside many parameters",
            format!("#define F({}z) {}\n", parameters[..1000].join(",") + ",", "b ".repeat(2_000_000)),
        ),
        ("embed", "#embed \"h\" limit(__has_embed(\"h\"))\n".repeat(50_000)),
    ];
    all.iter().map(|(what, text)| ((*what).to_owned(), text.clone().into_bytes())).collect()
}

/// What is mutated: the cases of the scanner, and changes.
fn corpus() -> Vec<Vec<u8>> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/scan");
    let mut paths: Vec<_> = std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text = |path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        // A file of a case is a piece of the input.
        text.replace("//- ", "\x01//- ").into_bytes()
    };
    paths.into_iter().map(text).chain([changes()]).collect()
}

/// Changes of a tree as they are sent.
fn changes() -> Vec<u8> {
    let digest = Some(twin::Digest { hash: vec![7; 32], size_bytes: 3 });
    let nodes = [
        None,
        Some(Now::Directory(twin::Directory { mode: 0o755 })),
        Some(Now::File(twin::File { digest, mode: 0o644 })),
        Some(Now::Link(twin::Link { target: b"../x".to_vec() })),
    ];
    let paths = ["a", "a/b", "a/b/c.d", "e"].into_iter();
    let messages = paths.zip(nodes).map(|(path, now)| {
        let rank = u32::from(matches!(now, Some(Now::File(_))));
        twin::Change { root: 1, path: path.into(), now, rank }
    });
    messages.flat_map(|message| message.encode_length_delimited_to_vec()).collect()
}

fn mutate(rng: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    const PIECES: &[&[u8]] = &[
        b"\\\n",
        b"??/\n",
        b"/*",
        b"*/",
        b"//",
        b"\"",
        b"'",
        b"R\"(",
        b")\"",
        b"##",
        b"#",
        b"(",
        b")",
        b",",
        b"\n#if ",
        b"\n#endif\n",
        b"\n#include ",
        b"\n#define F(x) ",
        b"__VA_ARGS__",
        b"__VA_OPT__(",
        b"defined ",
        b"__has_include(",
        b"\x01",
        b"\0",
        b"\xff",
        b"\r",
        b"__FILE__",
        b"__LINE__",
        b"\n#elif ",
        b"%:",
        b"18446744073709551616",
        b"_Pragma(",
    ];
    let mut data = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..12) {
        let at = rng.usize(..=data.len());
        match rng.u32(..4) {
            0 => drop(data.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied())),
            1 => {
                let end = (at + rng.usize(..40)).min(data.len());
                drop(data.drain(at..end));
            }
            2 => {
                let other = &corpus[rng.usize(..corpus.len())];
                let from = rng.usize(..=other.len());
                let piece = other[from..(from + rng.usize(..200)).min(other.len())].to_vec();
                drop(data.splice(at..at, piece));
            }
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
        }
    }
    data
}

#[test]
fn nasty_inputs_end() {
    for target in TARGETS {
        let (took, what) = run(*target, nasty());
        say(&format!("{}: the slowest nasty input is {what}, {took:.1?}", target.0));
        assert!(took < PATIENCE, "{}: {what} took {took:?}", target.0);
    }
}

#[test]
fn mutated_inputs_end() {
    let cases = std::env::var("FARCC_FUZZ_CASES").map_or(DEFAULT_CASES, |cases| cases.parse().unwrap());
    let corpus = corpus();
    let seed = std::env::var("FARCC_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(seed);
    for target in TARGETS {
        let inputs = (0..cases).map(|at| (format!("input {at} of seed {seed}"), mutate(&mut rng, &corpus)));
        let (took, what) = run(*target, inputs.collect());
        assert!(took < PATIENCE, "{}: {what} took {took:?}", target.0);
    }
}

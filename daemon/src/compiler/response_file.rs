//! Expands `@file` arguments as the compiler drivers do.
//! Knows nothing of what the arguments mean.
//!
//! The rules are those of libiberty's `expandargv` and `buildargv`, which GCC uses; Clang's own tokenizer
//! follows them. Where the two, or two versions of one, read a file differently (a backslash inside quotes
//! before an ordinary character, an empty quoted argument, a byte order mark), the file is refused: the
//! compiler shall decide.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// libiberty gives up after 2000 expansions; nobody nests nearly so many.
const MOST_EXPANSIONS: usize = 200;

/// All response files of a command together may have so many bytes: the compiler's own program would not be
/// given more by the kernel.
const MOST_BYTES: usize = 16 << 20;

/// How many arguments all files together may yield.
const MOST_ARGUMENTS: usize = 1 << 20;

/// The arguments with each `@file` replaced by what the file holds, again and again. A relative name is
/// relative to `cwd`, nested or not.
///
/// # Errors
/// The name of a file that is missing (GCC then takes the argument literally, as an input that cannot exist),
/// unreadable, too long, nested too deeply, or read differently by different compilers.
pub(super) fn expand(arguments: &[OsString], cwd: &Path) -> Result<Vec<OsString>, String> {
    let mut expanded = Vec::with_capacity(arguments.len());
    let mut rest: Vec<OsString> = arguments.iter().rev().cloned().collect();
    let mut expansions = 0;
    let mut bytes = 0;
    while let Some(argument) = rest.pop() {
        let Some(name) = argument.as_bytes().strip_prefix(b"@").filter(|name| !name.is_empty()) else {
            expanded.push(argument);
            continue;
        };
        let refused = |why: &str| format!("{} ({why})", String::from_utf8_lossy(name));
        expansions += 1;
        if expansions > MOST_EXPANSIONS {
            return Err(refused("nested too deeply"));
        }
        let content =
            read(&cwd.join(OsStr::from_bytes(name))).map_err(|error| refused(&error.to_string()))?;
        bytes += content.len();
        if bytes > MOST_BYTES {
            return Err(refused("too long"));
        }
        let words = split(&content).map_err(refused)?;
        if rest.len() + words.len() + expanded.len() > MOST_ARGUMENTS {
            return Err(refused("too many arguments"));
        }
        rest.extend(words.into_iter().rev());
    }
    Ok(expanded)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    // A pipe would block the daemon, and its content would be lost to the compiler.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Splits as `buildargv`: at blanks, with single quotes, double quotes, and backslash before any byte.
fn split(content: &[u8]) -> Result<Vec<OsString>, &'static str> {
    if content.contains(&0) {
        return Err("holds a NUL byte");
    }
    if content.starts_with(b"\xef\xbb\xbf")
        || content.starts_with(b"\xff\xfe")
        || content.starts_with(b"\xfe\xff")
    {
        return Err("begins with a byte order mark");
    }
    let mut words = Vec::new();
    let mut word = Vec::new();
    let mut in_word = false;
    let mut quote = None;
    let mut bytes = content.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', _) => {
                in_word = true;
                let escaped = bytes.next().ok_or("ends with a backslash")?;
                // Since GCC 15, as in a shell, a backslash is an ordinary character inside single quotes, and
                // inside double quotes before most characters; outside, with a newline it vanishes.
                let certain = match quote {
                    None => escaped != b'\n' && escaped != b'\r',
                    Some(b'"') => matches!(escaped, b'"' | b'\\' | b'$' | b'`'),
                    Some(_) => false,
                };
                if !certain {
                    return Err("has a backslash that compilers read differently");
                }
                word.push(escaped);
            }
            (_, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => word.push(byte),
            (b'"' | b'\'', None) => {
                in_word = true;
                quote = Some(byte);
            }
            (b'\x0b' | b'\x0c', None) => return Err("has a blank that compilers read differently"),
            (b' ' | b'\t' | b'\n' | b'\r', None) => {
                if std::mem::take(&mut in_word) {
                    words.push(complete(&mut word)?);
                }
            }
            (_, None) => {
                in_word = true;
                word.push(byte);
            }
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed");
    }
    if in_word {
        words.push(complete(&mut word)?);
    }
    Ok(words)
}

fn complete(word: &mut Vec<u8>) -> Result<OsString, &'static str> {
    match word.is_empty() {
        // GCC passes an empty argument on, Clang drops it.
        true => Err("has an empty argument"),
        false => Ok(OsString::from_vec(std::mem::take(word))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(content: &str) -> Result<Vec<String>, &'static str> {
        Ok(split(content.as_bytes())?.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    const CASES: &[&str] = &[
        "-DA -DB\n\t-DC",
        r#"-DNAME=\"a\" "-DB=x y" '-DC=x y'"#,
        r#"-DA="x y"z'u v'"#,
        r"-DA=a\ b\\c\'d",
        r#""-DA=\"q\" \\ \$ \`""#,
        "\r\n -DA\t-DB ",
        "-D'A'=1",
    ];

    /// The real driver reads each case too and prints the arguments that it saw.
    #[test]
    fn quoting_agrees_with_the_compilers() {
        let space = tempfile::tempdir().unwrap();
        for case in CASES {
            std::fs::write(space.path().join("args"), case).unwrap();
            let ours = expand(&["@args".into()], space.path()).unwrap();
            crate::prerequisites::tests::require_compilers();
            for compiler in ["/usr/bin/gcc", "/usr/bin/clang"] {
                let defines = |arguments: &[OsString]| {
                    #[expect(clippy::disallowed_methods, reason = "the test itself starts the compiler")]
                    let output = std::process::Command::new(compiler)
                        .args(["-###", "-E", "-x", "c", "/dev/null"])
                        .args(arguments)
                        .current_dir(space.path())
                        .output()
                        .unwrap();
                    let text = String::from_utf8(output.stderr).unwrap();
                    text.lines().filter(|line| line.contains("cc1")).collect::<String>()
                };
                let expanded = defines(&ours);
                assert!(expanded.contains("A"), "{expanded}");
                assert_eq!(defines(&["@args".into()]), expanded, "{compiler}: {case}");
            }
        }
    }

    #[test]
    fn what_compilers_read_differently_is_refused() {
        for case in [r"'a\b'", r#""a\b""#, "a\\\nb", "\"\"", "'a", "a\\", "\u{feff}-DA", "a\0b", "a\x0cb"] {
            assert!(words(case).is_err(), "{case:?}");
        }
        assert_eq!(words(" \n "), Ok(vec![]));
    }

    #[test]
    fn files_nest_but_not_for_ever() {
        let space = tempfile::tempdir().unwrap();
        let expand = |argument: &str| expand(&[argument.into(), "last".into()], space.path());
        std::fs::create_dir(space.path().join("sub")).unwrap();
        std::fs::write(space.path().join("a"), "one @sub/b").unwrap();
        std::fs::write(space.path().join("sub/b"), "two @c").unwrap();
        std::fs::write(space.path().join("c"), "three @").unwrap();
        assert_eq!(expand("@a"), Ok(["one", "two", "three", "@", "last"].map(OsString::from).to_vec()));
        std::fs::write(space.path().join("loop"), "x @loop").unwrap();
        assert_eq!(expand("@loop"), Err("loop (nested too deeply)".to_owned()));
        assert!(expand("@none").unwrap_err().starts_with("none ("));
        assert!(expand("@sub").is_err());
    }
}

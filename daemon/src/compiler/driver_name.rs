//! What kind of program a name stands for: `x86_64-linux-gnu-g++-12` is a C++ compiler driver.
//! Knows nothing of the program itself; the toolchain probe finds out whether the name tells the truth.

/// What a program is, judged by its base name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgramKind {
    /// A GCC or Clang driver that takes a `.c` file for C.
    DriverC,
    /// One that takes it for C++.
    DriverCxx,
    /// `ar` and its kin.
    Archiver(ArchiverKind),
    /// `ld` and its kin.
    Linker,
    /// A compiler, preprocessor or assembler that farcc does not understand.
    OtherCompiler,
    /// `clang-scan-deps`: looks for modules before anything is compiled.
    ModuleScanner,
    /// A launcher like farcc: what follows is a compile that it will handle in its own way.
    OtherLauncher,
    /// Anything else.
    Unknown,
}

/// What an archiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiverKind {
    /// Makes archives of members.
    Ar,
    /// The same by way of `ar`, with the plugin of GCC's link-time optimiser.
    GccAr,
    /// Writes an archive's index.
    Ranlib,
    /// Takes symbols out of objects.
    Strip,
    /// Makes objects of objects.
    Objcopy,
    /// Puts split debug information together.
    Dwp,
    /// LLVM's, which writes its options otherwise.
    LlvmDwp,
}

const KNOWN: &[(&str, ProgramKind)] = &[
    ("gcc", ProgramKind::DriverC),
    ("cc", ProgramKind::DriverC),
    ("c89", ProgramKind::DriverC),
    ("c99", ProgramKind::DriverC),
    ("clang", ProgramKind::DriverC),
    ("g++", ProgramKind::DriverCxx),
    ("c++", ProgramKind::DriverCxx),
    ("clang++", ProgramKind::DriverCxx),
    ("ar", ProgramKind::Archiver(ArchiverKind::Ar)),
    ("ranlib", ProgramKind::Archiver(ArchiverKind::Ranlib)),
    ("gcc-ar", ProgramKind::Archiver(ArchiverKind::GccAr)),
    ("gcc-ranlib", ProgramKind::Archiver(ArchiverKind::Ranlib)),
    ("llvm-ar", ProgramKind::Archiver(ArchiverKind::Ar)),
    ("llvm-ranlib", ProgramKind::Archiver(ArchiverKind::Ranlib)),
    ("strip", ProgramKind::Archiver(ArchiverKind::Strip)),
    ("llvm-strip", ProgramKind::Archiver(ArchiverKind::Strip)),
    ("objcopy", ProgramKind::Archiver(ArchiverKind::Objcopy)),
    ("llvm-objcopy", ProgramKind::Archiver(ArchiverKind::Objcopy)),
    ("dwp", ProgramKind::Archiver(ArchiverKind::Dwp)),
    ("llvm-dwp", ProgramKind::Archiver(ArchiverKind::LlvmDwp)),
    ("ld", ProgramKind::Linker),
    ("ld.bfd", ProgramKind::Linker),
    ("ld.gold", ProgramKind::Linker),
    ("ld.lld", ProgramKind::Linker),
    ("ld.mold", ProgramKind::Linker),
    ("gold", ProgramKind::Linker),
    ("lld", ProgramKind::Linker),
    ("mold", ProgramKind::Linker),
    ("as", ProgramKind::OtherCompiler),
    ("cpp", ProgramKind::OtherCompiler),
    ("clang-cpp", ProgramKind::OtherCompiler),
    ("clang-cl", ProgramKind::OtherCompiler),
    ("clang-scan-deps", ProgramKind::ModuleScanner),
    ("gfortran", ProgramKind::OtherCompiler),
    ("flang", ProgramKind::OtherCompiler),
    ("gccgo", ProgramKind::OtherCompiler),
    ("gdc", ProgramKind::OtherCompiler),
    ("gnatmake", ProgramKind::OtherCompiler),
    ("hipcc", ProgramKind::OtherCompiler),
    ("icc", ProgramKind::OtherCompiler),
    ("icpc", ProgramKind::OtherCompiler),
    ("icpx", ProgramKind::OtherCompiler),
    ("icx", ProgramKind::OtherCompiler),
    ("ifort", ProgramKind::OtherCompiler),
    ("ifx", ProgramKind::OtherCompiler),
    ("nvcc", ProgramKind::OtherCompiler),
    ("rustc", ProgramKind::OtherCompiler),
    ("swiftc", ProgramKind::OtherCompiler),
    ("tcc", ProgramKind::OtherCompiler),
    ("zig", ProgramKind::OtherCompiler),
    ("ccache", ProgramKind::OtherLauncher),
    ("sccache", ProgramKind::OtherLauncher),
    ("distcc", ProgramKind::OtherLauncher),
    ("icecc", ProgramKind::OtherLauncher),
    ("gomacc", ProgramKind::OtherLauncher),
    ("rewrapper", ProgramKind::OtherLauncher),
    ("recc", ProgramKind::OtherLauncher),
];

/// The kind of the program with this base name. A version suffix (`-12`, `-10.3.1`) and a target prefix
/// (`arm-none-eabi-`) are not looked at.
pub(super) fn kind(base_name: &str) -> ProgramKind {
    let name = without_version(base_name);
    let found = KNOWN
        .iter()
        .filter(|(known, _)| name == *known || name.strip_suffix(known).is_some_and(is_target_prefix));
    // `clang-cpp` ends in `cpp` and `gcc-ar` in `ar`: the longest name is the right one.
    found.max_by_key(|(known, _)| known.len()).map_or(ProgramKind::Unknown, |(_, kind)| *kind)
}

/// Whether the base name is that of a compiler's driver, or of a launcher that stands before one.
pub fn is_driver(base_name: &str) -> bool {
    matches!(kind(base_name), ProgramKind::DriverC | ProgramKind::DriverCxx | ProgramKind::OtherLauncher)
}

fn without_version(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, version)) if is_version(version) => stem,
        _ => name,
    }
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// A target triple, at least two parts, each made of what targets are made of: `x86_64-linux-gnu-`,
/// `hppa2.0-linux-`. One part is enough for `musl-gcc`-like names, which are compilers as well.
fn is_target_prefix(prefix: &str) -> bool {
    prefix.strip_suffix('-').is_some_and(|target| {
        !target.is_empty()
            && target.split('-').all(|part| !part.is_empty())
            && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("gcc", ProgramKind::DriverC),
            ("gcc-12", ProgramKind::DriverC),
            ("x86_64-linux-gnu-gcc-12", ProgramKind::DriverC),
            ("arm-none-eabi-gcc-10.3.1", ProgramKind::DriverC),
            ("hppa2.0-unknown-linux-gnu-g++", ProgramKind::DriverCxx),
            ("clang++-14", ProgramKind::DriverCxx),
            ("c++", ProgramKind::DriverCxx),
            ("c99", ProgramKind::DriverC),
            ("gcc-ar-12", ProgramKind::Archiver(ArchiverKind::GccAr)),
            ("x86_64-linux-gnu-gcc-ranlib", ProgramKind::Archiver(ArchiverKind::Ranlib)),
            ("llvm-ar", ProgramKind::Archiver(ArchiverKind::Ar)),
            ("ar", ProgramKind::Archiver(ArchiverKind::Ar)),
            ("x86_64-linux-gnu-ld.gold", ProgramKind::Linker),
            ("clang-cpp-14", ProgramKind::OtherCompiler),
            ("x86_64-linux-gnu-gfortran", ProgramKind::OtherCompiler),
            ("clang-scan-deps-19", ProgramKind::ModuleScanner),
            ("ccache", ProgramKind::OtherLauncher),
            ("gcc-nm", ProgramKind::Unknown),
            ("clang-tidy", ProgramKind::Unknown),
            ("clang-format-14", ProgramKind::Unknown),
            ("tar", ProgramKind::Unknown),
            ("bazgcc", ProgramKind::Unknown),
            ("-gcc", ProgramKind::Unknown),
            ("python3", ProgramKind::Unknown),
            ("12", ProgramKind::Unknown),
            ("", ProgramKind::Unknown),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }
}

//! What the options of GNU ld, gold, lld and mold mean for the files that a link reads and writes: one row an option.
//! Knows nothing of how a link's arguments are put together, nor of any file.
//!
//! What is not in the table is unsupported. An option may be listed as harmless only if it neither reads nor writes a
//! file, nor changes where others are looked for.
//! Sources: `ld --help` and the manual of binutils 2.40, `ld.gold --help`, `ld.lld --help` of LLVM 14 and 19, `mold --help`
//! of 1.10.

use Arity::Flag;
use Arity::Optional;
use Arity::Value;

/// How an option takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arity {
    /// No value.
    Flag,
    /// After `=`, or else the next word.
    Value,
    /// After `=`, or else none.
    Optional,
}

/// What an option means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing for the files.
    Harmless,
    /// `-o`.
    Output,
    /// `-soname`.
    Soname,
    /// What files are called decides what is made or said: `-M`, whose columns depend on their lengths, or patterns of them.
    MindsNames,
    /// `-Map`.
    Map,
    /// `--out-implib`.
    ImportLibrary,
    /// `--dependency-file`.
    DependencyFile,
    /// `-l`.
    Library,
    /// `-L`.
    LibraryDirectory,
    /// `-T`, `-dT`: a linker script.
    Script,
    /// A text that is read where it lies: a version script, a list of symbols, a profile.
    Text,
    /// `--just-symbols`.
    Symbols,
    /// `-R`: as `--just-symbols` for a file, as `-rpath` for a directory.
    SymbolsOrRunPath,
    /// `-rpath`.
    RunPath,
    /// `-rpath-link`.
    RunPathLink,
    /// `--sysroot`.
    Sysroot,
    /// `-nostdlib`: only the directories of the command line are searched.
    NoDefaultDirectories,
    /// `-m`.
    Emulation,
    /// `-b`.
    Format,
    /// `-plugin`.
    Plugin,
    /// `-plugin-opt`.
    PluginOption,
    /// `-r`.
    Relocatable,
    /// `-shared`.
    Shared,
    /// `-static`: as `-Bstatic`, and some linkers take it for the whole link.
    Static,
    /// `-Bstatic`: archives only, from here on.
    ArchivesOnly,
    /// `-Bdynamic`.
    ArchivesAndShared,
    /// `-n`, `-N`: archives only for some linkers.
    NoPaging,
    /// `--push-state`.
    PushState,
    /// `--pop-state`.
    PopState,
    /// Unresolved symbols in shared libraries are ignored: `--allow-shlib-undefined`.
    IgnoreUnresolved,
    /// They are reported: `--no-allow-shlib-undefined`.
    ReportUnresolved,
    /// `--unresolved-symbols=`: either, by its value.
    Unresolved,
    /// `--copy-dt-needed-entries`.
    CopyNeeded,
    /// `-G`: with a number GNU ld's limit for small data, without one `-shared`.
    SmallDataOrShared,
}

/// The options of one dash and one letter, which take the rest of the word as their value, or else the next word.
pub(super) const LETTERS: &[(u8, Meaning)] = &[
    (b'b', Meaning::Format),
    (b'e', Meaning::Harmless),
    (b'f', Meaning::Harmless),
    (b'F', Meaning::Harmless),
    (b'h', Meaning::Soname),
    (b'I', Meaning::Harmless),
    (b'l', Meaning::Library),
    (b'L', Meaning::LibraryDirectory),
    (b'm', Meaning::Emulation),
    (b'o', Meaning::Output),
    (b'O', Meaning::Harmless),
    (b'P', Meaning::Harmless),
    (b'R', Meaning::SymbolsOrRunPath),
    (b'T', Meaning::Script),
    (b'u', Meaning::Harmless),
    (b'y', Meaning::Harmless),
    (b'z', Meaning::Harmless),
];

/// The options of one dash and one letter without a value.
pub(super) const FLAG_LETTERS: &[(u8, Meaning)] = &[
    (b'(', Meaning::Harmless),
    (b')', Meaning::Harmless),
    (b'd', Meaning::Harmless),
    (b'E', Meaning::Harmless),
    (b'g', Meaning::Harmless),
    (b'G', Meaning::SmallDataOrShared),
    (b'i', Meaning::Relocatable),
    (b'M', Meaning::MindsNames),
    (b'n', Meaning::NoPaging),
    (b'N', Meaning::NoPaging),
    (b'p', Meaning::Harmless),
    (b'q', Meaning::Harmless),
    (b'r', Meaning::Relocatable),
    (b's', Meaning::Harmless),
    (b'S', Meaning::Harmless),
    (b't', Meaning::Harmless),
    (b'v', Meaning::Harmless),
    (b'V', Meaning::Harmless),
    (b'w', Meaning::Harmless),
    (b'x', Meaning::Harmless),
    (b'X', Meaning::Harmless),
];

/// The option `name`, written after one or two dashes.
pub(super) fn long_option(name: &[u8]) -> Option<(Arity, Meaning)> {
    let known = LONG.iter().find(|(long, ..)| long.as_bytes() == name);
    let known = known.map(|(_, arity, meaning)| (*arity, *meaning));
    known.or_else(|| {
        HARMLESS_FLAGS.iter().any(|flag| flag.as_bytes() == name).then_some((Flag, Meaning::Harmless))
    })
}

/// Whether `name` is the beginning of an option's name: GNU ld takes it for that option if no other begins so.
pub(super) fn is_abbreviation(name: &[u8]) -> bool {
    let names = LONG.iter().map(|(long, ..)| *long).chain(HARMLESS_FLAGS.iter().chain(UNSUPPORTED).copied());
    name.len() > 1 && names.map(str::as_bytes).any(|long| long != name && long.starts_with(name))
}

const LONG: &[(&str, Arity, Meaning)] = &[
    // What is written.
    ("output", Value, Meaning::Output),
    ("Map", Value, Meaning::Map),
    ("print-map", Flag, Meaning::MindsNames),
    ("cref", Flag, Meaning::MindsNames),
    ("warn-backrefs-exclude", Value, Meaning::MindsNames),
    // A file of S-records begins with its own name (bfd/srec.c, `srec_write_header`).
    ("oformat", Value, Meaning::MindsNames),
    ("out-implib", Value, Meaning::ImportLibrary),
    ("dependency-file", Value, Meaning::DependencyFile),
    // What is read.
    ("library", Value, Meaning::Library),
    ("library-path", Value, Meaning::LibraryDirectory),
    ("script", Value, Meaning::Script),
    ("default-script", Value, Meaning::Script),
    ("dT", Value, Meaning::Script),
    ("just-symbols", Value, Meaning::Symbols),
    ("version-script", Value, Meaning::Text),
    ("dynamic-list", Value, Meaning::Text),
    ("export-dynamic-symbol-list", Value, Meaning::Text),
    ("retain-symbols-file", Value, Meaning::Text),
    ("symbol-ordering-file", Value, Meaning::Text),
    ("section-ordering-file", Value, Meaning::Text),
    ("call-graph-ordering-file", Value, Meaning::Text),
    ("lto-sample-profile", Value, Meaning::Text),
    ("lto-cs-profile-file", Value, Meaning::Text),
    ("in-implib", Value, Meaning::Text),
    ("plugin", Value, Meaning::Plugin),
    ("plugin-opt", Value, Meaning::PluginOption),
    // Where and how it is looked for.
    ("rpath", Value, Meaning::RunPath),
    ("rpath-link", Value, Meaning::RunPathLink),
    ("sysroot", Value, Meaning::Sysroot),
    ("nostdlib", Flag, Meaning::NoDefaultDirectories),
    ("format", Value, Meaning::Format),
    ("Bstatic", Flag, Meaning::ArchivesOnly),
    ("dn", Flag, Meaning::ArchivesOnly),
    ("non_shared", Flag, Meaning::ArchivesOnly),
    ("static", Flag, Meaning::Static),
    ("Bdynamic", Flag, Meaning::ArchivesAndShared),
    ("dy", Flag, Meaning::ArchivesAndShared),
    ("call_shared", Flag, Meaning::ArchivesAndShared),
    ("nmagic", Flag, Meaning::NoPaging),
    ("omagic", Flag, Meaning::NoPaging),
    ("push-state", Flag, Meaning::PushState),
    ("pop-state", Flag, Meaning::PopState),
    // What is made, and what of it asks for the libraries of libraries.
    ("relocatable", Flag, Meaning::Relocatable),
    ("Ur", Flag, Meaning::Relocatable),
    ("shared", Flag, Meaning::Shared),
    ("Bshareable", Flag, Meaning::Shared),
    ("gpsize", Value, Meaning::Harmless),
    ("allow-shlib-undefined", Flag, Meaning::IgnoreUnresolved),
    ("no-allow-shlib-undefined", Flag, Meaning::ReportUnresolved),
    ("unresolved-symbols", Value, Meaning::Unresolved),
    ("copy-dt-needed-entries", Flag, Meaning::CopyNeeded),
    ("add-needed", Flag, Meaning::CopyNeeded),
    // The rest takes a value that names no file.
    ("assert", Value, Meaning::Harmless),
    ("audit", Value, Meaning::Harmless),
    ("auxiliary", Value, Meaning::Harmless),
    ("build-id", Optional, Meaning::Harmless),
    ("build-id-chunk-size-for-treehash", Value, Meaning::Harmless),
    ("build-id-min-file-size-for-treehash", Value, Meaning::Harmless),
    ("call-graph-profile-sort", Optional, Meaning::Harmless),
    ("color-diagnostics", Optional, Meaning::Harmless),
    ("compress-debug-sections", Value, Meaning::Harmless),
    ("compress-sections", Value, Meaning::Harmless),
    ("ctf-share-types", Value, Meaning::Harmless),
    ("defsym", Value, Meaning::Harmless),
    ("demangle", Optional, Meaning::Harmless),
    ("depaudit", Value, Meaning::Harmless),
    ("dynamic-linker", Value, Meaning::Harmless),
    ("entry", Value, Meaning::Harmless),
    ("error-limit", Value, Meaning::Harmless),
    ("exclude-libs", Value, Meaning::Harmless),
    ("export-dynamic-symbol", Value, Meaning::Harmless),
    ("filter", Value, Meaning::Harmless),
    ("fini", Value, Meaning::Harmless),
    ("flto-partition", Value, Meaning::Harmless),
    ("flto", Optional, Meaning::Harmless),
    ("fuse-ld", Value, Meaning::Harmless),
    ("hash-bucket-empty-fraction", Value, Meaning::Harmless),
    ("hash-size", Value, Meaning::Harmless),
    ("hash-style", Value, Meaning::Harmless),
    ("icf", Value, Meaning::Harmless),
    ("icf-iterations", Value, Meaning::Harmless),
    ("ignore-unresolved-symbol", Value, Meaning::Harmless),
    ("image-base", Value, Meaning::Harmless),
    ("init", Value, Meaning::Harmless),
    ("keep-unique", Value, Meaning::Harmless),
    ("lto", Value, Meaning::Harmless),
    ("lto-aa-pipeline", Value, Meaning::Harmless),
    ("lto-newpm-passes", Value, Meaning::Harmless),
    ("lto-partitions", Value, Meaning::Harmless),
    ("max-cache-size", Value, Meaning::Harmless),
    ("orphan-handling", Value, Meaning::Harmless),
    ("pack-dyn-relocs", Value, Meaning::Harmless),
    ("package-metadata", Optional, Meaning::Harmless),
    ("plt-align", Optional, Meaning::Harmless),
    ("power10-stubs", Optional, Meaning::Harmless),
    ("require-defined", Value, Meaning::Harmless),
    ("rosegment-gap", Value, Meaning::Harmless),
    ("rsp-quoting", Value, Meaning::Harmless),
    ("section-start", Value, Meaning::Harmless),
    ("shuffle-sections", Optional, Meaning::Harmless),
    ("soname", Value, Meaning::Soname),
    ("sort-common", Optional, Meaning::Harmless),
    ("sort-section", Value, Meaning::Harmless),
    ("spare-dynamic-tags", Value, Meaning::Harmless),
    ("split-by-file", Optional, Meaning::Harmless),
    ("split-by-reloc", Optional, Meaning::Harmless),
    ("split-stack-adjust-size", Value, Meaning::Harmless),
    ("stub-group-size", Value, Meaning::Harmless),
    ("target2", Value, Meaning::Harmless),
    ("Tbss", Value, Meaning::Harmless),
    ("Tdata", Value, Meaning::Harmless),
    ("thinlto-cache-policy", Value, Meaning::Harmless),
    ("thinlto-jobs", Value, Meaning::Harmless),
    ("thread-count", Value, Meaning::Harmless),
    ("thread-count-initial", Value, Meaning::Harmless),
    ("thread-count-middle", Value, Meaning::Harmless),
    ("thread-count-final", Value, Meaning::Harmless),
    ("threads", Optional, Meaning::Harmless),
    ("Tldata-segment", Value, Meaning::Harmless),
    ("trace-symbol", Value, Meaning::Harmless),
    ("Trodata-segment", Value, Meaning::Harmless),
    ("Ttext", Value, Meaning::Harmless),
    ("Ttext-segment", Value, Meaning::Harmless),
    ("undefined", Value, Meaning::Harmless),
    ("undefined-glob", Value, Meaning::Harmless),
    ("unique", Optional, Meaning::Harmless),
    ("verbose", Optional, Meaning::Harmless),
    ("version-exports-section", Value, Meaning::Harmless),
    ("wrap", Value, Meaning::Harmless),
];

/// The options without a value that mean nothing for the files.
const HARMLESS_FLAGS: &[&str] = &[
    "accept-unknown-input-arch",
    "allow-multiple-definition",
    "android-memtag-heap",
    "android-memtag-stack",
    "apply-dynamic-relocs",
    "as-needed",
    "be8",
    "Bgroup",
    "Bno-symbolic",
    "Bsymbolic",
    "Bsymbolic-functions",
    "Bsymbolic-non-weak",
    "Bsymbolic-non-weak-functions",
    "check-sections",
    "ctf-variables",
    "ctors-in-init-array",
    "dc",
    "debug-names",
    "default-imported-symver",
    "default-symver",
    "define-common",
    "dependent-libraries",
    "detect-odr-violations",
    "disable-multiple-abs-defs",
    "disable-new-dtags",
    "discard-all",
    "discard-locals",
    "discard-none",
    "dp",
    "dynamic-list-cpp-new",
    "dynamic-list-cpp-typeinfo",
    "dynamic-list-data",
    "EB",
    "eh-frame-hdr",
    "EL",
    "emit-relocs",
    "emit-stub-syms",
    "enable-new-dtags",
    "enable-non-contiguous-regions",
    "enable-non-contiguous-regions-warnings",
    "end-group",
    "end-lib",
    "error-unresolved-symbols",
    "execute-only",
    "export-dynamic",
    "fatal-warnings",
    "fat-lto-objects",
    "fix-arm1176",
    "fix-cortex-a53-835769",
    "fix-cortex-a53-843419",
    "fix-cortex-a8",
    "fix-v4bx",
    "fix-v4bx-interworking",
    "force-group-allocation",
    "fork",
    "fortran-common",
    "gc-keep-exported",
    "gc-sections",
    "gdb-index",
    "gnu-unique",
    "ignore-data-address-equality",
    "ignore-function-address-equality",
    "keep-files-mapped",
    "ld-generated-unwind-info",
    "long-plt",
    "lto-CGO0",
    "lto-CGO1",
    "lto-CGO2",
    "lto-CGO3",
    "lto-O0",
    "lto-O1",
    "lto-O2",
    "lto-O3",
    "lto-unique-basic-block-section-names",
    "lto-whole-program-visibility",
    "map-whole-files",
    "merge-exidx-entries",
    "mmap-output-file",
    "no-accept-unknown-input-arch",
    "no-add-needed",
    "no-allow-multiple-definition",
    "no-apply-dynamic-relocs",
    "no-as-needed",
    "no-build-id",
    "no-call-graph-profile-sort",
    "no-check-sections",
    "no-color-diagnostics",
    "no-copy-dt-needed-entries",
    "no-ctf-variables",
    "no-ctors-in-init-array",
    "no-define-common",
    "no-demangle",
    "no-dependent-libraries",
    "no-detect-odr-violations",
    "no-dynamic-linker",
    "no-eh-frame-hdr",
    "no-enum-size-warning",
    "no-execute-only",
    "no-export-dynamic",
    "no-fatal-warnings",
    "no-fix-arm1176",
    "no-fix-cortex-a53-835769",
    "no-fix-cortex-a53-843419",
    "no-fix-cortex-a8",
    "no-fork",
    "no-fortran-common",
    "no-gc-sections",
    "no-gdb-index",
    "no-gnu-unique",
    "no-icf",
    "noinhibit-exec",
    "noinhibit_exec",
    "no-keep-files-mapped",
    "no-keep-memory",
    "no-ld-generated-unwind-info",
    "no-long-plt",
    "no-lto-unique-basic-block-section-names",
    "no-lto-whole-program-visibility",
    "no-map-whole-files",
    "no-merge-exidx-entries",
    "no-mmap-output-file",
    "no-nmagic",
    "no-omagic",
    "no-optimize-bb-jumps",
    "no-pcrel-optimize",
    "no-pic-executable",
    "no-pie",
    "no-posix-fallocate",
    "no-power10-stubs",
    "no-print-gc-sections",
    "no-print-icf-sections",
    "no-print-map-discarded",
    "no-quick-exit",
    "no-relax",
    "no-rosegment",
    "no-strip-discarded",
    "no-text-reorder",
    "no-threads",
    "no-tls-get-addr-optimize",
    "no-tls-optimize",
    "no-toc-optimize",
    "no-toc-sort",
    "no-undefined",
    "no-undefined-version",
    "no-use-android-relr-tags",
    "no-warn-backrefs",
    "no-warn-common",
    "no-warn-execstack",
    "no-warn-ifunc-textrel",
    "no-warn-mismatch",
    "no-warn-rwx-segments",
    "no-warn-search-mismatch",
    "no-warn-symbol-ordering",
    "no-warnings",
    "no-wchar-size-warning",
    "no-whole-archive",
    "optimize-bb-jumps",
    "pcrel-optimize",
    "perf",
    "pic-executable",
    "pic-veneer",
    "pie",
    "posix-fallocate",
    "preread-archive-symbols",
    "print-gc-sections",
    "print-icf-sections",
    "print-map-discarded",
    "print-memory-usage",
    "qmagic",
    "quick-exit",
    "Qy",
    "reduce-memory-overheads",
    "relax",
    "reverse-sections",
    "rosegment",
    "secure-plt",
    "start-group",
    "start-lib",
    "stats",
    "strip-all",
    "strip-debug",
    "strip-debug-gdb",
    "strip-debug-non-line",
    "strip-discarded",
    "strip-lto-sections",
    "target1-abs",
    "target1-rel",
    "text-reorder",
    "tls-get-addr-optimize",
    "tls-optimize",
    "toc-optimize",
    "toc-sort",
    "trace",
    "traditional-format",
    "undefined-version",
    "use-android-relr-tags",
    "use-pipeline-knowledge",
    "vs-diagnostics",
    "warn-alternate-em",
    "warn-backrefs",
    "warn-common",
    "warn-constructors",
    "warn-drop-version",
    "warn-execstack",
    "warn-ifunc-textrel",
    "warn-multiple-gp",
    "warn-once",
    "warn-rwx-segments",
    "warn-search-mismatch",
    "warn-section-align",
    "warn-shared-textrel",
    "warn-symbol-ordering",
    "warn-textrel",
    "warn-unresolved-symbols",
    "weak-unresolved-symbols",
    "whole-archive",
];

/// Options that are known to be unsupported, where a linker that takes one dash before them would be misunderstood: each begins
/// with a letter that is an option with a value.
pub(super) const UNSUPPORTED: &[&str] = &[
    "base_file",
    "embedded-relocs",
    "emit-llvm",
    "error-handling-script",
    "file-alignment",
    "force-exe-suffix",
    "heap",
    "help",
    "load-pass-plugin",
    "lto-basic-block-sections",
    "lto-cs-profile-generate",
    "lto-debug-pass-manager",
    "lto-emit-asm",
    "lto-emit-llvm",
    "lto-obj-path",
    "major-image-version",
    "minor-image-version",
    "mllvm",
    "mri-script",
    "opt-remarks-filename",
    "optimize",
];

/// What the options of a plugin may be, after `-plugin-opt=`, and what it is known to do with them: nothing to files. Of
/// GCC's plugin first, then those of LLVM's, which lld takes as well.
pub(super) const HARMLESS_PLUGIN_OPTIONS: &[&str] = &[
    // The resolution goes into a temporary file of the driver's.
    "-fresolution=",
    "-linker-output-auto-notlto-rel",
    "-linker-output-known",
    "-nop",
    "-sym-style=",
    "-data-sections",
    "-debugger-tune=",
    "-emulated-tls",
    "-float-abi=",
    "-function-sections",
    "-target-abi=",
    "cs-profile-generate",
    "debug-pass-manager",
    "disable-verify",
    "jobs=",
    "legacy-pass-manager",
    "lto-partitions=",
    "mattr=",
    "mcpu=",
    "new-pass-manager",
    "O0",
    "O1",
    "O2",
    "O3",
    "thinlto",
    "whole-program-visibility",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_option_stands_once() {
        let names: Vec<&str> =
            LONG.iter().map(|(name, ..)| *name).chain(HARMLESS_FLAGS.iter().copied()).collect();
        let distinct: HashSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), distinct.len());
        assert!(UNSUPPORTED.iter().all(|name| !distinct.contains(name)));
        assert!(names.iter().all(|name| name.len() > 1 && !name.contains('=') && !name.starts_with('-')));
        let letters: HashSet<u8> = LETTERS.iter().chain(FLAG_LETTERS).map(|(letter, _)| *letter).collect();
        assert_eq!(letters.len(), LETTERS.len() + FLAG_LETTERS.len());
    }

    #[test]
    fn what_writes_or_runs_more_is_not_listed() {
        for name in [
            "reproduce",
            "repro",
            "thinlto-cache-dir",
            "mri-script",
            "lto-obj-path",
            "save-temps",
            "lto-emit-asm",
            "lto-emit-llvm",
            "emit-llvm",
            "print-symbol-counts",
            "print-archive-stats",
            "why-extract",
            "time-trace",
            "error-handling-script",
            "load-pass-plugin",
            "remap-inputs-file",
            "incremental",
            "run",
            "chroot",
            "directory",
            "architecture",
            "mllvm",
            "help",
            "version",
        ] {
            assert_eq!(long_option(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn abbreviations() {
        assert!(is_abbreviation(b"undef") && is_abbreviation(b"undefined"));
        assert!(!is_abbreviation(b"znow") && !is_abbreviation(b"u") && !is_abbreviation(b"Map"));
    }
}

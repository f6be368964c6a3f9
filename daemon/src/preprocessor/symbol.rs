//! Spellings as small numbers: equal spellings are equal symbols, in every file and every unit.
//! Knows nothing of what a spelling means.

use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::LazyLock;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use foldhash::fast::RandomState;

/// An interned spelling. Symbols live as long as the process: the daemon sees the identifiers of the directives
/// of the sources that it compiles, a few megabytes for a large tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Symbol(u32);

impl Symbol {
    /// The symbol of `spelling`.
    pub(super) fn of(spelling: &[u8]) -> Symbol {
        if let Some(symbol) = INTERNER.symbols.get(spelling) {
            return *symbol;
        }
        let size_bytes = spelling.len() + SYMBOL_BYTES;
        if INTERNER.size_bytes.fetch_add(size_bytes, Ordering::Relaxed) > LARGEST_MEMORY_BYTES {
            INTERNER.size_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            INTERNER.is_full.store(true, Ordering::Relaxed);
            return Symbol::EMPTY;
        }
        let spelling: &'static [u8] = Box::leak(spelling.into());
        *INTERNER.symbols.entry(spelling).or_insert_with(|| INTERNER.append(spelling))
    }

    /// The spelling.
    pub(super) fn text(self) -> &'static [u8] {
        let (chunk, offset) = place(self.0);
        INTERNER.chunks[chunk].get().and_then(|chunk| chunk[offset].get()).copied().unwrap_or_default()
    }

    /// Whether some spelling got no symbol of its own: from then on nothing that was read can be trusted.
    pub(super) fn are_exhausted() -> bool {
        INTERNER.is_full.load(Ordering::Relaxed)
    }

    /// About how much memory all symbols take, in bytes.
    pub(super) fn size_bytes() -> usize {
        INTERNER.size_bytes.load(Ordering::Relaxed)
    }

    /// The spelling for messages.
    pub(super) fn display(self) -> String {
        String::from_utf8_lossy(self.text()).into_owned()
    }

    /// A number that identifies the symbol, for the parameter references in macro bodies.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// The inverse of [`number`](Symbol::number); also carries a parameter's index in a macro body.
    pub(super) const fn from_number(number: u32) -> Symbol {
        Symbol(number)
    }
}

impl std::fmt::Debug for Symbol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.display())
    }
}

/// Texts stand in chunks of doubling size that never move, so that reading one takes no lock.
struct Interner {
    symbols: DashMap<&'static [u8], Symbol, RandomState>,
    chunks: [OnceLock<Chunk>; CHUNKS],
    count: AtomicU32,
    /// About what all symbols take, in bytes.
    size_bytes: AtomicUsize,
    is_full: AtomicBool,
}

/// What is beyond is refused: the sources of the largest trees need a tenth of it, and only those who mean harm, or
/// years, make more.
const LARGEST_MEMORY_BYTES: usize = 256 << 20;

/// About what a symbol takes besides its spelling: its places in both directions.
const SYMBOL_BYTES: usize = 64;

type Chunk = Box<[OnceLock<&'static [u8]>]>;

const FIRST_CHUNK_BITS: u32 = 12;
const CHUNKS: usize = 33 - FIRST_CHUNK_BITS as usize;

/// Chunk and offset of a symbol's text. Chunk `k` holds `2^(12+k)` texts.
fn place(number: u32) -> (usize, usize) {
    let shifted = u64::from(number) + (1 << FIRST_CHUNK_BITS);
    let bits = shifted.ilog2();
    let offset = shifted - (1 << bits);
    // Both fit: `bits` is below 33 and `offset` below 2^32.
    ((bits - FIRST_CHUNK_BITS) as usize, usize::try_from(offset).unwrap_or_default())
}

impl Interner {
    fn append(&self, spelling: &'static [u8]) -> Symbol {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (chunk, offset) = place(number);
        let chunk = self.chunks[chunk].get_or_init(|| {
            let size = (1usize << FIRST_CHUNK_BITS) << chunk;
            (0..size).map(|_| OnceLock::new()).collect()
        });
        // Each number is handed out once, so the cell is empty.
        let _ = chunk[offset].set(spelling);
        Symbol(number)
    }
}

static INTERNER: LazyLock<Interner> = LazyLock::new(|| {
    let interner = Interner {
        symbols: DashMap::default(),
        chunks: [const { OnceLock::new() }; CHUNKS],
        count: AtomicU32::new(0),
        size_bytes: AtomicUsize::new(0),
        is_full: AtomicBool::new(false),
    };
    for spelling in KNOWN {
        interner.symbols.insert(spelling.as_bytes(), interner.append(spelling.as_bytes()));
    }
    interner
});

/// Declares the spellings that the preprocessor itself knows, so that they can be compared as constants.
macro_rules! known {
    ($($name:ident = $spelling:literal,)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "a counter, never used as a type")]
        #[allow(clippy::enum_variant_names, reason = "named after the spellings")]
        enum Order { $($name),* }
        impl Symbol {
            $(pub(super) const $name: Symbol = Symbol(Order::$name as u32);)*
        }
        const KNOWN: &[&str] = &[$($spelling),*];
    };
}

known! {
    // Operators and the other punctuators that a directive's meaning can depend on.
    HASH = "#", HASH_HASH = "##", OPEN = "(", CLOSE = ")", COMMA = ",", ELLIPSIS = "...",
    LESS = "<", GREATER = ">", LESS_EQUAL = "<=", GREATER_EQUAL = ">=", EQUAL = "==", NOT_EQUAL = "!=",
    SHIFT_LEFT = "<<", SHIFT_RIGHT = ">>", PLUS = "+", MINUS = "-", STAR = "*", SLASH = "/", PERCENT = "%",
    AND = "&", OR = "|", XOR = "^", AND_AND = "&&", OR_OR = "||", NOT = "!", COMPLEMENT = "~",
    QUESTION = "?", COLON = ":",
    // C++ alternative tokens (C++17 5.5).
    WORD_AND = "and", WORD_OR = "or", WORD_NOT = "not", WORD_BITAND = "bitand", WORD_BITOR = "bitor",
    WORD_XOR = "xor", WORD_COMPL = "compl", WORD_NOT_EQ = "not_eq",
    TRUE = "true", FALSE = "false",
    // Directives.
    IF = "if", IFDEF = "ifdef", IFNDEF = "ifndef", ELIF = "elif", ELIFDEF = "elifdef", ELIFNDEF = "elifndef",
    ELSE = "else", ENDIF = "endif", INCLUDE = "include", INCLUDE_NEXT = "include_next", IMPORT = "import",
    DEFINE = "define", UNDEF = "undef", LINE = "line", ERROR = "error", WARNING = "warning", PRAGMA = "pragma",
    IDENT = "ident", SCCS = "sccs", ASSERT = "assert", UNASSERT = "unassert", EMBED = "embed",
    // Pragmas.
    ONCE = "once", PUSH_MACRO = "push_macro", POP_MACRO = "pop_macro", GCC = "GCC", CLANG = "clang",
    DEPENDENCY = "dependency", PCH_PREPROCESS = "pch_preprocess", MODULE = "module",
    // Names with a meaning of their own.
    DEFINED = "defined", VA_ARGS = "__VA_ARGS__", VA_OPT = "__VA_OPT__",
    FILE = "__FILE__", LINE_NUMBER = "__LINE__", COUNTER = "__COUNTER__", INCLUDE_LEVEL = "__INCLUDE_LEVEL__",
    BASE_FILE = "__BASE_FILE__", FILE_NAME = "__FILE_NAME__",
    DATE = "__DATE__", TIME = "__TIME__", TIMESTAMP = "__TIMESTAMP__", PRAGMA_OPERATOR = "_Pragma",
    FLT_EVAL_METHOD = "__FLT_EVAL_METHOD__",
    HAS_INCLUDE = "__has_include", HAS_INCLUDE_NEXT = "__has_include_next", HAS_EMBED = "__has_embed",
    // Facts of the compiler that decide how text is read.
    STRICT_ANSI = "__STRICT_ANSI__", STDC_VERSION = "__STDC_VERSION__", CPLUSPLUS = "__cplusplus",
    GNUC = "__GNUC__", CLANG_MAJOR = "__clang_major__", STDC_HOSTED = "__STDC_HOSTED__",
    CHAR_UNSIGNED = "__CHAR_UNSIGNED__", WCHAR_UNSIGNED = "__WCHAR_UNSIGNED__",
    CPP_MODULES = "__cpp_modules", STDC_EMBED_FOUND = "__STDC_EMBED_FOUND__",
    ZERO = "0", ONE = "1", EMPTY = "",
}

/// Hashes symbols: they are small dense numbers, so one multiplication spreads them well enough.
#[derive(Default)]
pub(super) struct SymbolHasher(u64);

impl Hasher for SymbolHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The odd constant nearest 2^64 divided by the golden ratio (Knuth, TAOCP 6.4).
        self.0 = (self.0.rotate_left(23) ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 29;
    }
}

/// A map from things made of symbols.
pub(super) type SymbolMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<SymbolHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_spellings_are_equal_symbols() {
        assert_eq!(Symbol::of(b"defined"), Symbol::DEFINED);
        assert_eq!(Symbol::of(b"symbol_test_x"), Symbol::of(b"symbol_test_x"));
        assert_ne!(Symbol::of(b"symbol_test_x"), Symbol::of(b"symbol_test_y"));
        assert_eq!(Symbol::of(b"symbol_test_y").text(), b"symbol_test_y");
        assert_eq!(Symbol::ONE.text(), b"1");
    }

    #[test]
    fn places_cover_every_number() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(4095), (0, 4095));
        assert_eq!(place(4096), (1, 0));
        assert!(place(u32::MAX).0 < CHUNKS);
    }

    #[test]
    fn many_threads_agree() {
        let spellings: Vec<String> = (0..5000).map(|n| format!("thread_test_{n}")).collect();
        let symbols: Vec<Vec<Symbol>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| spellings.iter().map(|s| Symbol::of(s.as_bytes())).collect()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(symbols.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(symbols[0].iter().zip(&spellings).all(|(symbol, text)| symbol.text() == text.as_bytes()));
    }
}

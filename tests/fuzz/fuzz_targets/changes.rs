//! See `farcc_tests::hostile::changes`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| farcc_tests::hostile::changes(data));

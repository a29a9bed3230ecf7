//! libFuzzer target; the body is `bascule_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bascule_fuzz::config(data);
});

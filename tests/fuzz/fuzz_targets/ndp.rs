//! libFuzzer target; the body is `bascule_fuzz::ndp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bascule_fuzz::ndp(data);
});

//! libFuzzer target; the body is `bascule_fuzz::bgp_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bascule_fuzz::bgp_session(data);
});

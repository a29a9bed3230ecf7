//! libFuzzer target; the body is `bascule_fuzz::bgp_decoder`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bascule_fuzz::bgp_decoder(data);
});

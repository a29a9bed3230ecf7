//! libFuzzer target; the body is `bascule_fuzz::vrrp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bascule_fuzz::vrrp(data);
});

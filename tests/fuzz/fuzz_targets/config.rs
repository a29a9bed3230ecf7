//! libFuzzer target; the body is `config` of `src/daemon.rs`.
#![no_main]

#[path = "../src/daemon.rs"]
mod daemon;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    daemon::config(data);
});

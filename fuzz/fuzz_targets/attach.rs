//! The target `attach` of tests/fuzz, led by coverage.
#![no_main]

#[path = "../../tests/fuzz/seeds.rs"]
#[allow(dead_code)]
mod seeds;
#[path = "../../tests/fuzz/targets.rs"]
#[allow(dead_code)]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = targets::attach(bytes);
});

//! The targets of tests/fuzz, led by coverage. Each file of `fuzz_targets` is one of them, by name.

#[path = "../../tests/fuzz/seeds.rs"]
#[allow(dead_code)]
mod seeds;
#[path = "../../tests/fuzz/targets.rs"]
#[allow(dead_code)]
mod targets;

/// The program that gives mutated bytes to a target.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$name(bytes));
    };
}

macro_rules! all {
    ($($name:ident)*) => {
        $(
            /// The target of that name.
            pub fn $name(bytes: &[u8]) {
                let _ = targets::$name(bytes);
            }
        )*
    };
}

all!(nbd wire metadata dump_text config admin http peer attach);

//! The target `dump_text` of tests/fuzz, led by coverage.
#![no_main]

tandem_fuzz::target!(dump_text);

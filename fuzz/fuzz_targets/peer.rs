//! The target `peer` of tests/fuzz, led by coverage.
#![no_main]

tandem_fuzz::target!(peer);

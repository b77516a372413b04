//! Bytes from outside that were mutated: no decoder panics, and what it accepts is inside its
//! bounds.
//!
//! Each target takes any bytes and says in a few words what became of them. The driver mutates
//! what it has, and keeps what leads to words that it has not heard yet. `tests/fuzz/corpus` holds
//! such inputs, and every one that once found a fault; all are run again by each test.
//!
//! `tools/fuzz --seconds 60 wire` runs one target for longer; with `--guided` it is the `fuzz` crate
//! that does, by coverage, with the same targets, seeds and corpus.

mod driver;
mod seeds;
mod targets;

use driver::run;

#[test]
fn nbd() {
    run(("nbd", 5000), &seeds::nbd(), &[b"IHAVEOPT", b"r0", b"base:allocation"], targets::nbd);
}

#[test]
fn wire() {
    run(("wire", 5000), &seeds::wire(), &[], targets::wire);
}

#[test]
fn http() {
    run(("http", 3000), &seeds::http(), &[b"HTTP/1.1", b"\r\n\r\n"], targets::http);
}

#[test]
fn metadata() {
    run(
        ("metadata", 1500),
        &seeds::metadata(),
        &[b"TANDEMSB", b"TdAL", b"TdBM"],
        targets::metadata,
    );
}

#[test]
fn dump_text() {
    run(
        ("dump_text", 1500),
        &seeds::dump_text(),
        &[b"free;", b"unknown", b"18446744073709551615", b"all-set", b"pages", b"4096"],
        targets::dump_text,
    );
}

#[test]
fn config() {
    run(("config", 400), &seeds::config(), seeds::CONFIG_WORDS, targets::config);
}

#[test]
fn admin() {
    run(("admin", 3000), &seeds::admin(), seeds::ADMIN_WORDS, targets::admin);
}

#[test]
fn peer() {
    run(("peer", 200), &tandem::sim::heard(), &[], targets::peer);
}

#[test]
fn attach() {
    run(("attach", 100), &tandem::sim::attached(), &[], targets::attach);
}

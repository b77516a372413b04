//! Values of options, from words.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};

/// A folder, as an absolute path: a process may leave the folder that it was started in, and the paths that
/// it writes down are compared by others.
#[must_use]
pub fn folder() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

/// `yes` or `no`.
pub(super) fn yes_no(word: &str) -> Result<bool, String> {
    match word {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no".to_owned()),
    }
}

/// `90`, `90s`, `10m`, `2h`; a week at most.
pub(super) fn seconds(word: &str) -> Result<u32, String> {
    let (number, unit) = match word.as_bytes().last() {
        Some(b's') => (&word[..word.len() - 1], 1),
        Some(b'm') => (&word[..word.len() - 1], 60),
        Some(b'h') => (&word[..word.len() - 1], 3600),
        _ => (word, 1),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    let fits = seconds.filter(|seconds| (1..=7 * 86_400).contains(seconds));
    fits.ok_or_else(|| "seconds, or a number with s, m or h: 1 s to a week".to_owned())
}

/// Sectors of 512 bytes as bytes; K, M and G count bytes, as for drbdsetup.
pub(super) fn sectors(word: &str) -> Result<u64, String> {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match &word[digits.len()..] {
        "" | "s" | "S" => 512,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err("a number of sectors, or of bytes with K, M or G".to_owned()),
    };
    let number = digits.parse::<u64>().map_err(|error| error.to_string())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

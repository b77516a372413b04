//! Numbers and words for people, and what the manual says of them.

use super::*;
use crate::resource::{DiskState, Reason};

/// The manual.
const MANUAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md"));

/// What stands between backticks in the first cell of each row of tables.
fn explained() -> Vec<&'static str> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn the_document_explains_every_reason_and_every_state_of_a_disk() {
    let explained = explained();
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::None) {
        let word = reason.to_string();
        assert!(explained.contains(&word.as_str()), "reason:{word}");
    }
    for state in DiskState::ALL {
        let word = state.to_string();
        let stands = explained.iter().any(|text| text.split([' ', ':']).any(|part| part == word));
        assert!(stands, "disk:{word}");
    }
}

#[test]
fn sizes_are_rounded_up_in_kib_and_short_for_people() {
    assert_eq!(kib(0), 0);
    assert_eq!(kib(1), 1);
    assert_eq!(kib(4096), 4);
    assert_eq!(human(512), "512 B");
    assert_eq!(human(812 << 20), "812 MiB");
    assert_eq!(human(100 << 30), "100 GiB");
    assert_eq!(human((81 << 30) / 10), "8.1 GiB");
    assert_eq!(human(2 << 20), "2 MiB");
    assert_eq!(human(1000 << 20), "1 GiB");
}

#[test]
fn ages_show_two_units_at_most() {
    let cases =
        [(14, "14 s"), (125, "2 min 5 s"), (2400, "40 min"), (32_400, "9 h"), (518_400, "6 d")];
    for (seconds, text) in cases {
        assert_eq!(age(seconds), text);
    }
}

#[test]
fn percent_keeps_two_digits() {
    assert_eq!(percent(6120), "61.20");
    assert_eq!(percent(7), "0.07");
    assert_eq!(percent(10_000), "100.00");
}

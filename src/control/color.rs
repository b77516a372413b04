//! Colours of `status` on a terminal: green is as it should be, yellow ends by itself or needs a
//! look, red needs a person. The words are the same without them.

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[1;31m";
const END: &str = "\x1b[0m";

/// The text of `status` with its states in colour.
#[must_use]
pub fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for piece in text.split_inclusive([' ', '\n']) {
        let word = piece.trim_end_matches([' ', '\n']);
        match word.split_once(':').and_then(|(key, value)| color(key, value)) {
            Some(color) => {
                out += color;
                out += word;
                out += END;
                out += &piece[word.len()..];
            }
            None => out += piece,
        }
    }
    out
}

fn color(key: &str, value: &str) -> Option<&'static str> {
    match (key, value) {
        ("disk" | "peer-disk", "UpToDate") => Some(GREEN),
        ("disk" | "peer-disk", "Diskless" | "Failed") => Some(RED),
        ("disk" | "peer-disk", _) => Some(YELLOW),
        ("connection", "Connected") | ("replication", "Established") => Some(GREEN),
        ("connection", "StandAlone") => Some(RED),
        ("connection" | "replication" | "done", _) => Some(YELLOW),
        ("suspended" | "blocked" | "resync-suspended", "no") | ("out-of-sync", "0") => None,
        ("resync-suspended" | "out-of-sync", _) => Some(YELLOW),
        ("suspended" | "blocked" | "failed" | "hung" | "path", _) => Some(RED),
        ("reason", "split-brain" | "unrelated-data" | "rolled-back") => Some(RED),
        ("reason" | "config" | "discard-my-data" | "back-in", _) => Some(YELLOW),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{fixtures, status_text};
    use super::*;
    use crate::resource::Reason;

    #[test]
    fn without_its_colours_the_text_is_the_same() {
        for report in [fixtures::healthy(), fixtures::resync_source(), fixtures::split_brain()] {
            let detail = status_text::Detail { verbose: true, statistics: true };
            let plain = status_text::resource(&report, detail);
            let mut stripped = coloured(&plain);
            for code in [GREEN, YELLOW, RED, END] {
                stripped = stripped.replace(code, "");
            }
            assert_eq!(stripped, plain);
        }
    }

    #[test]
    fn what_needs_a_person_is_red() {
        let report = fixtures::refused(Reason::SplitBrain);
        let text = coloured(&status_text::resource(&report, status_text::Detail::default()));
        assert!(text.contains("\x1b[32mdisk:UpToDate\x1b[0m open:yes"), "{text}");
        assert!(text.contains("\x1b[1;31mconnection:StandAlone\x1b[0m"), "{text}");
        assert!(text.contains("\x1b[1;31mreason:split-brain\x1b[0m\n"), "{text}");
    }
}

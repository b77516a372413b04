//! What an attach asks for that finds the device there already, and takes it over.
//!
//! Invariants:
//! - An option that is not given keeps what the device has.
//! - The kernel takes other times while the device is in use. Other connections and another block size it
//!   does not take: they are refused where somebody waits for the answer, and said by a guard of a unit, which
//!   takes the device over all the same: one without a guard loses its I/O with its server.

use std::time::Duration;

use super::{AttachOptions, Record};

/// Times of a device that are to be other ones, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Of a request.
    pub timeout: Option<u64>,
    /// That I/O waits without any server.
    pub dead_conn_timeout: Option<u64>,
}

impl Times {
    /// Whether all stay as they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AttachOptions {
    /// What becomes of these options where a device is taken over: the times that are other ones, and what it
    /// cannot have while it is attached, each with the next step. `timeout`: that of its requests, as far as it
    /// is known.
    #[must_use]
    pub fn changes(&self, record: &Record, timeout: Option<Duration>) -> (Times, Vec<String>) {
        let Record { volume, index, connections, terms, .. } = record;
        let stays = |option: &str, has: String| {
            format!(
                "attached already, as /dev/nbd{index} with {has}, which {option} cannot change while it is \
                 attached: leave {option} out to take it over, or `tandemadm device detach {volume}` first"
            )
        };
        let mut kept = Vec::new();
        if self.connections.is_some_and(|wanted| usize::from(wanted) != *connections) {
            let s = if *connections == 1 { "" } else { "s" };
            kept.push(stays("--connections", format!("{connections} connection{s}")));
        }
        if self.block_size.is_some_and(|wanted| wanted != terms.block) {
            kept.push(stays("--block-size", format!("blocks of {} bytes", terms.block)));
        }
        let has = timeout.map(|time| time.as_secs());
        let dead = Some(record.dead_conn_timeout);
        let other =
            |wanted: Option<u32>, has| wanted.map(u64::from).filter(|one| Some(*one) != has);
        let times = Times {
            timeout: other(self.timeout, has),
            dead_conn_timeout: other(self.dead_conn_timeout, dead),
        };
        (times, kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::a_record as record;
    use crate::attach::parse;

    fn changes(words: &str) -> (Times, Vec<String>) {
        let words = format!("tandem-attach {words} r0");
        let options = parse(words.split_whitespace()).unwrap().options;
        options.changes(&record(), Some(Duration::from_secs(5)))
    }

    #[test]
    fn times_are_changed_where_others_are_given() {
        let times = |timeout, dead_conn_timeout| (Times { timeout, dead_conn_timeout }, Vec::new());
        assert_eq!(changes(""), times(None, None));
        let same = "--timeout 5 --dead-conn-timeout 300 --connections 2 --block-size 512";
        assert_eq!(changes(same), times(None, None));
        assert_eq!(changes("--timeout 2"), times(Some(2), None));
        assert_eq!(changes("--dead-conn-timeout 60"), times(None, Some(60)));
        assert!(changes(same).0.is_empty() && !changes("--timeout 2").0.is_empty());
        let options = parse(["tandem-attach", "--timeout=5", "r0"]).unwrap().options;
        assert_eq!(options.changes(&record(), None), times(Some(5), None), "it is not known");
    }

    #[test]
    fn what_cannot_be_changed_is_named_and_the_times_are_changed_all_the_same() {
        let (times, kept) = changes("--connections 1 --block-size 4096 --timeout 2");
        assert_eq!(times, Times { timeout: Some(2), dead_conn_timeout: None });
        assert_eq!(kept.len(), 2, "{kept:?}");
        let has = [
            "with 2 connections, which --connections cannot",
            "with blocks of 512 bytes, which --block-size cannot",
        ];
        for (text, has) in kept.iter().zip(has) {
            assert!(text.contains(has), "{text}");
            assert!(text.ends_with("or `tandemadm device detach r0/0` first"), "{text}");
        }
    }
}

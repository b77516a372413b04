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
    /// The same options for a guard that has nobody to ask: without what the device cannot have while it is
    /// attached, and what there is to say of that.
    #[must_use]
    pub fn as_far_as_possible(mut self, record: &Record) -> (Self, Vec<String>) {
        let mut said = Vec::new();
        let mut say = |option: &str, has: String| {
            said.push(format!(
                "{option} is not what /dev/nbd{} has, {has}: it will be when it is attached anew",
                record.index
            ));
        };
        if self.connections.is_some_and(|wanted| usize::from(wanted) != record.connections) {
            say("--connections", record.connections.to_string());
            self.connections = None;
        }
        if self.block_size.is_some_and(|wanted| wanted != record.terms.block) {
            say("--block-size", record.terms.block.to_string());
            self.block_size = None;
        }
        (self, said)
    }

    /// What changes of a device that is taken over; `timeout`: that of its requests, as far as it is known.
    ///
    /// # Errors
    /// What cannot be changed while the device is there, and the next step.
    pub fn changes(&self, record: &Record, timeout: Option<Duration>) -> Result<Times, String> {
        let Record { volume, index, connections, terms, .. } = record;
        let refuse = |option: &str, has: String| {
            Err(format!(
                "attached already, as /dev/nbd{index} with {has}, which {option} cannot change while it is \
                 attached: leave {option} out to take it over, or `tandemadm device detach {volume}` first"
            ))
        };
        if self.connections.is_some_and(|wanted| usize::from(wanted) != *connections) {
            let s = if *connections == 1 { "" } else { "s" };
            return refuse("--connections", format!("{connections} connection{s}"));
        }
        if self.block_size.is_some_and(|wanted| wanted != terms.block) {
            return refuse("--block-size", format!("blocks of {} bytes", terms.block));
        }
        let has = timeout.map(|time| time.as_secs());
        let dead = Some(record.dead_conn_timeout);
        let other =
            |wanted: Option<u32>, has| wanted.map(u64::from).filter(|one| Some(*one) != has);
        Ok(Times {
            timeout: other(self.timeout, has),
            dead_conn_timeout: other(self.dead_conn_timeout, dead),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::{Terms, parse};

    fn record() -> Record {
        Record {
            volume: "r0/0".to_owned(),
            index: 3,
            backend: "tandem:r0/0:0000000000000001".to_owned(),
            terms: Terms { size: 1 << 20, flags: 1, block: 512 },
            connections: 2,
            dead_conn_timeout: 300,
            server: "alice:10809".to_owned(),
            lost_at: None,
            refusals: Vec::new(),
            failed: None,
            keepers: Vec::new(),
        }
    }

    fn changes(words: &str) -> Result<Times, String> {
        let words = format!("tandem-attach {words} r0");
        let options = parse(words.split_whitespace()).unwrap().options;
        options.changes(&record(), Some(Duration::from_secs(5)))
    }

    #[test]
    fn times_are_changed_where_others_are_given() {
        let times = |timeout, dead_conn_timeout| Ok(Times { timeout, dead_conn_timeout });
        assert_eq!(changes(""), times(None, None));
        let same = "--timeout 5 --dead-conn-timeout 300 --connections 2 --block-size 512";
        assert_eq!(changes(same), times(None, None));
        assert_eq!(changes("--timeout 2"), times(Some(2), None));
        assert_eq!(changes("--dead-conn-timeout 60"), times(None, Some(60)));
        assert!(changes(same).unwrap().is_empty() && !changes("--timeout 2").unwrap().is_empty());
        let options = parse(["tandem-attach", "--timeout=5", "r0"]).unwrap().options;
        assert_eq!(options.changes(&record(), None), times(Some(5), None), "it is not known");
    }

    #[test]
    fn a_guard_of_a_unit_takes_over_what_it_cannot_change() {
        let words = "tandem-attach --connections 1 --block-size 4096 --timeout 2 r0";
        let options = parse(words.split_whitespace()).unwrap().options;
        let (options, said) = options.as_far_as_possible(&record());
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("--connections is not what /dev/nbd3 has, 2:"), "{said:?}");
        let changes = options.changes(&record(), None);
        assert_eq!(changes, Ok(Times { timeout: Some(2), dead_conn_timeout: None }));
        let same = parse(["tandem-attach", "--connections=2", "r0"]).unwrap().options;
        assert_eq!(same.as_far_as_possible(&record()).1, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_changed_is_refused_by_name() {
        for (words, has) in [
            ("--connections 1", "with 2 connections, which --connections cannot"),
            ("--block-size 4096", "with blocks of 512 bytes, which --block-size cannot"),
        ] {
            let why = changes(words).unwrap_err();
            assert!(why.contains(has), "{why}");
            assert!(why.ends_with("or `tandemadm device detach r0/0` first"), "{why}");
        }
    }
}

//! What a guard writes down of its device in the run folder: for `tandemadm device status`, and
//! for the next guard, which takes the device over by the token.

use serde::{Deserialize, Serialize};

use super::Terms;

/// Who guards a device, as far as it can be known: by a lock that others may not look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Guarded {
    /// This process; 0 if it has not told its number.
    By(u32),
    /// Nobody.
    Nobody,
    /// Whoever asks may not know.
    #[serde(serialize_with = "unknown")]
    Unknown,
}

fn unknown<S: serde::Serializer>(to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str("unknown")
}

impl Guarded {
    /// The guard of a device for people. `none`: what it means that there is none.
    pub(super) fn line(self, none: &str) -> String {
        match self {
            Self::By(guard) => format!("  guard: process {guard}\n"),
            Self::Nobody => format!("  guard: none{none}\n"),
            Self::Unknown => "  guard: unknown; only root may know\n".to_owned(),
        }
    }
}

/// One attached device. The file is `DIR/nbdN.device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `r0/0`.
    pub volume: String,
    /// N of `/dev/nbdN`.
    pub index: u32,
    /// The identifier that the kernel keeps, with the token.
    pub backend: String,
    /// What the kernel was told.
    pub terms: Terms,
    /// Connections.
    pub connections: usize,
    /// Seconds that I/O waits without any server.
    pub dead_conn_timeout: u64,
    /// The server that the kernel got last.
    pub server: String,
    /// Since when there is none: seconds of this boot.
    pub lost_at: Option<u64>,
    /// What each server said last that could not be used.
    pub refusals: Vec<(String, String)>,
    /// Why the device was let go of: its I/O fails.
    #[serde(default)]
    pub failed: Option<String>,
    /// Who had all that was answered, when it was asked last ([`super::Keeper`]).
    #[serde(default)]
    pub keepers: Vec<super::Keeper>,
}

impl Record {
    /// One device for people. `now`: seconds of this boot.
    #[must_use]
    pub fn lines(&self, now: u64, guard: Guarded) -> String {
        let Self { volume, index, server, connections, .. } = self;
        let mut text = format!("{volume} /dev/nbd{index} {} bytes\n", self.terms.size);
        // What was let go of waits no longer.
        let wait = if self.failed.is_some() { 0 } else { self.dead_conn_timeout };
        let lost = self.lost_at.map(|at| (now.saturating_sub(at), wait));
        text += &server_lines(server, *connections, lost, &self.refusals);
        text += &failed_line(self.failed.as_deref());
        text + &guard.line(&format!(
            "; without one a lost server is not replaced: `tandemadm device attach {volume}` starts \
             it, with the same options"
        ))
    }
}

/// The server of a device for people, and what others have said. `lost`: for how many seconds there is
/// none, and how many I/O waits at most.
pub(super) fn server_lines(
    server: &str,
    connections: usize,
    lost: Option<(u64, u64)>,
    refusals: &[(String, String)],
) -> String {
    let mut text = match lost {
        None => {
            let s = if connections == 1 { "" } else { "s" };
            format!("  server: {server}, {connections} connection{s}\n")
        }
        Some((seconds, limit)) => {
            let fate = match limit.checked_sub(seconds) {
                Some(left) if left > 0 => format!("I/O waits, and fails in {left} s"),
                _ => "I/O fails".to_owned(),
            };
            format!("  server: none for {seconds} s (it was {server}); {fate}\n")
        }
    };
    for (server, refusal) in refusals {
        text += &format!("    {server}: {refusal}\n");
    }
    text
}

/// What is to be done with a device that was let go of, for a sentence.
pub const AFTER_LET_GO: &str = "unmount it, have `tandemadm device detach --force` remove what is left of it, attach it \
                                again, and check the file system before it is mounted";

/// Why the device was let go of, and what to do.
pub(super) fn failed_line(why: Option<&str>) -> String {
    why.map_or(String::new(), |why| format!("  let go of, and I/O fails: {why}; {AFTER_LET_GO}\n"))
}

/// A record, for tests.
#[cfg(test)]
pub(crate) fn record() -> Record {
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
        keepers: vec![[7; 16]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_the_server_or_for_how_long_there_is_none() {
        let mut record = record();
        assert_eq!(
            record.lines(1000, Guarded::By(77)),
            "r0/0 /dev/nbd3 1048576 bytes\n  server: alice:10809, 2 connections\n  \
             guard: process 77\n"
        );
        record.lost_at = Some(990);
        record.refusals = vec![("bob:10809".to_owned(), "no".to_owned())];
        assert_eq!(
            record.lines(1000, Guarded::Nobody),
            "r0/0 /dev/nbd3 1048576 bytes\n  server: none for 10 s (it was alice:10809); I/O waits, \
             and fails in 290 s\n    bob:10809: no\n  guard: none; without one a lost server is \
             not replaced: `tandemadm device attach r0/0` starts it, with the same options\n"
        );
        assert!(record.lines(1290, Guarded::By(1)).contains("); I/O fails\n"));
        assert!(record.lines(0, Guarded::By(1)).contains("none for 0 s"));
        record.failed = Some("bob is Primary".to_owned());
        let lines = record.lines(991, Guarded::Nobody);
        assert!(lines.contains("); I/O fails\n"), "{lines}");
        assert!(lines.contains("  let go of, and I/O fails: bob is Primary; unmount"), "{lines}");
        let lines = record.lines(991, Guarded::Unknown);
        assert!(lines.ends_with("  guard: unknown; only root may know\n"), "{lines}");
    }

    #[test]
    fn programs_are_told_a_number_null_or_a_word() {
        let told = |guard: Guarded| serde_json::to_string(&guard).unwrap();
        assert_eq!(told(Guarded::By(77)), "77");
        assert_eq!(told(Guarded::Nobody), "null");
        assert_eq!(told(Guarded::Unknown), "\"unknown\"");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record());
        // One of an older guard.
        let text = text.replace(",\"failed\":null", "");
        let from = text.find(",\"keepers\"").unwrap();
        let older: Record = serde_json::from_str(&(text[..from].to_owned() + "}")).unwrap();
        assert_eq!(older, Record { keepers: Vec::new(), ..record() });
    }
}

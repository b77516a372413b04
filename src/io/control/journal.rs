//! The journal's own protocol: a datagram with fields for each line, so that `journalctl
//! TANDEM_RESOURCE=r0` finds what was said of one resource.
//!
//! Invariants:
//! - It is used only where standard error is the journal: what is redirected stays redirected.
//! - A line that the journal does not take goes to standard error as before.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where systemd-journald takes datagrams.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// 3 error, 4 warning, 6 info, 7 debug.
    pub(super) priority: u8,
    /// Of which it is said; empty: of none.
    pub(super) resource: String,
    /// No line break is in it.
    pub(super) text: String,
}

impl Entry {
    /// As standard error takes it: the priority in front.
    pub(super) fn prefixed(&self) -> String {
        format!("<{}>{}\n", self.priority, self.text)
    }

    /// The datagram: a field a line.
    fn fields(&self) -> String {
        let mut fields = format!(
            "MESSAGE={}\nPRIORITY={}\nSYSLOG_IDENTIFIER=tandemd\n",
            self.text, self.priority
        );
        if self.resource.is_empty() {
            return fields;
        }
        fields += &format!("TANDEM_RESOURCE={}\n", self.resource);
        // `r0/0 bob: text`.
        let whose = self.text.strip_prefix(&self.resource).and_then(|rest| rest.split_once(": "));
        let Some((whose, _)) = whose else { return fields };
        let (volume, peer) = whose.split_once(' ').unwrap_or((whose, ""));
        let volume = volume.strip_prefix('/').unwrap_or_default();
        if !volume.is_empty() && volume.bytes().all(|byte| byte.is_ascii_digit()) {
            fields += &format!("TANDEM_VOLUME={volume}\n");
        }
        if !peer.is_empty() && !peer.contains(' ') {
            fields += &format!("TANDEM_PEER={peer}\n");
        }
        fields
    }
}

/// The journal's end of standard error.
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Where standard error is the journal's. `stream`: `JOURNAL_STREAM`, its device and inode.
    pub(super) fn open(stream: &str, stderr: impl AsFd, socket: &Path) -> Option<Self> {
        if !is_stream(stream, stderr) {
            return None;
        }
        let open = UnixDatagram::unbound()
            .and_then(|datagrams| datagrams.connect(socket).map(|()| datagrams));
        open.ok().map(|socket| Self { socket })
    }

    /// Hands a line over.
    ///
    /// # Errors
    /// The journal is gone, or does not take it.
    pub(super) fn send(&self, entry: &Entry) -> io::Result<()> {
        self.socket.send(entry.fields().as_bytes()).map(|_| ())
    }
}

/// Whether a descriptor is the stream that `JOURNAL_STREAM` names.
pub(super) fn is_stream(stream: &str, descriptor: impl AsFd) -> bool {
    let Ok(found) = nix::sys::stat::fstat(descriptor) else { return false };
    stream.trim() == format!("{}:{}", found.st_dev, found.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(resource: &str, text: &str) -> Entry {
        Entry { priority: 4, resource: resource.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_line_becomes_fields() {
        let common =
            |text: &str| format!("MESSAGE={text}\nPRIORITY=4\nSYSLOG_IDENTIFIER=tandemd\n");
        for (resource, text, more) in [
            ("", "ended", ""),
            ("r0", "r0: up", "TANDEM_RESOURCE=r0\n"),
            ("r0", "r0/12: disk", "TANDEM_RESOURCE=r0\nTANDEM_VOLUME=12\n"),
            ("r0", "r0/0 bob: repl: x", "TANDEM_RESOURCE=r0\nTANDEM_VOLUME=0\nTANDEM_PEER=bob\n"),
            ("r0", "r0 bob: conn", "TANDEM_RESOURCE=r0\nTANDEM_PEER=bob\n"),
            ("r0", "r0 was seen by bob: so", "TANDEM_RESOURCE=r0\n"),
            ("r0", "defect", "TANDEM_RESOURCE=r0\n"),
        ] {
            assert_eq!(entry(resource, text).fields(), common(text) + more);
        }
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journals_and_one_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let stderr = std::fs::File::create(dir.path().join("stderr")).unwrap();
        let found = nix::sys::stat::fstat(&stderr).unwrap();
        let stream = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(Journal::open("8:1", &stderr, &path).is_none());
        assert!(Journal::open("", &stderr, &path).is_none());
        let opened = Journal::open(&stream, &stderr, &path).unwrap();
        opened.send(&entry("r0", "r0: up")).unwrap();
        let mut taken = [0; 512];
        let length = journal.recv(&mut taken).unwrap();
        assert!(taken[..length].ends_with(b"TANDEM_RESOURCE=r0\n"));
        drop(journal);
        assert!(opened.send(&entry("r0", "r0: down")).is_err());
        assert_eq!(entry("r0", "r0: down").prefixed(), "<4>r0: down\n");
    }
}

//! What stands between an administrator and a resource: the command line, the messages of the
//! admin socket, and everything that is printed. Plain functions over plain data; the sockets are
//! in `io::control`.
//!
//! Invariants:
//! - Layout and words are DRBD 9's (`drbdsetup status`, `events2`); what is ours goes to the end of
//!   a line and only while something is abnormal.
//! - Sizes are printed in KiB, rounded up: `out-of-sync` never says less than there is.
//! - Every text is made from a [`Report`], so that it can be tested with one made by hand.

pub mod adjust;
pub mod arguments;
pub mod check;
pub(crate) mod clock;
pub mod color;
pub mod dry_run;
pub mod events;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod generation;
pub mod http;
pub mod metrics;
pub mod protocol;
pub mod resync_order;
pub(crate) mod scope;
pub mod status_json;
pub mod status_text;
pub mod target;
pub mod version;
pub mod why;

use crate::resource::{DiskState, PeerDeviceStatus};

pub use clock::Zone;
pub(crate) use clock::iso;
pub use protocol::{DaemonOrder, Past, Path, Report, Request, Response};

/// How the note of a disk begins that could not be attached.
pub(crate) const ATTACH_FAILED: &str = "attach failed: ";

/// Whether blocks of a volume are out of sync on two good disks and nothing mends it by itself: an
/// online verify has found them.
pub(crate) fn differs(peer: &PeerDeviceStatus) -> bool {
    peer.replication_state.mirrors()
        && peer.peer_disk_state == DiskState::UpToDate
        && peer.out_of_sync > 0
}

/// Bytes as whole KiB, rounded up.
#[must_use]
pub fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}

/// Hundredths of a percent as `61.20`.
#[must_use]
pub fn percent(hundredths: u32) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// `2026-11-25T03:02:11Z` of seconds since 1970: one word.
fn stamp(seconds: u64) -> String {
    iso(seconds).replace(' ', "T") + "Z"
}

/// `yes` or `no`.
#[must_use]
pub fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

/// The order that runs, if it has not ended at once.
#[must_use]
pub fn waiting_order(status: &crate::resource::Status) -> Option<&crate::resource::OrderStatus> {
    status.order.as_ref().filter(|order| order.for_ms >= 1000)
}

/// Bytes for people: three digits and a binary unit (`812 MiB`, `8.1 GiB`).
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let exact = (value - value.round()).abs() < 0.05;
    if exact || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Seconds for people: the two largest units (`40 min`, `2 min 5 s`, `9 h`).
#[must_use]
pub fn age(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, m) if m >= 10 || rest == 0 => format!("{m} min"),
        (0, 0, m) => format!("{m} min {rest} s"),
        (0, h, m) if h >= 10 || m == 0 => format!("{h} h"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) if d >= 10 || h == 0 => format!("{d} d"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests;

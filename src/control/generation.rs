//! `get-gi` and `show-gi`: the generation identifiers of a volume, a line per peer.

use crate::meta::{DeviceFlags, Superblock};
use crate::resource::{ConnectionState, DeviceStatus, DiskState, PeerDeviceStatus, Role};

/// What one line shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Current UUID.
    pub current: u64,
    /// Bitmap UUID toward the peer, 0: none.
    pub bitmap: u64,
    /// The two youngest history UUIDs.
    pub history: [u64; 2],
    /// [`DeviceFlags`].
    pub flags: u32,
    /// The peer is connected (always false for a detached disk).
    pub connected: bool,
    /// The peer's disk is known to be Outdated or worse.
    pub peer_outdated: bool,
    /// Words for people: role, connection, disk.
    pub summary: String,
}

impl Generation {
    /// From the snapshot of an attached disk.
    #[must_use]
    pub fn attached(
        device: &DeviceStatus,
        role: Role,
        connection: ConnectionState,
        peer: Option<&PeerDeviceStatus>,
    ) -> Self {
        let older = |n: usize| device.history.get(n).copied().unwrap_or(0);
        Self {
            current: device.current_uuid,
            bitmap: peer.map_or(0, |peer| peer.bitmap_uuid),
            history: [older(0), older(1)],
            flags: device.flags,
            connected: connection == ConnectionState::Connected,
            peer_outdated: peer.is_some_and(|peer| {
                [DiskState::Inconsistent, DiskState::Outdated].contains(&peer.peer_disk_state)
            }),
            summary: format!("{role}, {connection}, {}", device.disk_state),
        }
    }

    /// From the metadata of a disk that is not attached; `slot` counts the peers from 0.
    #[must_use]
    pub fn detached(superblock: &Superblock, slot: usize) -> Self {
        let flags = superblock.flags;
        let disk = match flags {
            f if f & DeviceFlags::CONSISTENT == 0 => "Inconsistent",
            f if f & DeviceFlags::OUTDATED != 0 || f & DeviceFlags::WAS_UP_TO_DATE == 0 => {
                "Outdated"
            }
            _ => "Consistent",
        };
        Self {
            current: superblock.current_uuid,
            bitmap: superblock.peers.get(slot).map_or(0, |peer| peer.bitmap_uuid),
            history: [superblock.history[0], superblock.history[1]],
            flags,
            connected: false,
            peer_outdated: false,
            summary: format!("detached, {disk}"),
        }
    }

    fn bits(&self) -> [bool; 7] {
        let is = |flag: u32| self.flags & flag != 0;
        [
            is(DeviceFlags::CONSISTENT),
            is(DeviceFlags::WAS_UP_TO_DATE) && !is(DeviceFlags::OUTDATED),
            is(DeviceFlags::PRIMARY_IND),
            self.connected,
            is(DeviceFlags::SURVIVED),
            self.peer_outdated,
            is(DeviceFlags::CLEAN),
        ]
    }

    /// `get-gi`: four identifiers and seven flags, joined by colons, with a line break.
    #[must_use]
    pub fn raw(&self) -> String {
        let [younger, older] = self.history;
        let mut out =
            format!("{:016X}:{:016X}:{younger:016X}:{older:016X}", self.current, self.bitmap);
        for bit in self.bits() {
            out += if bit { ":1" } else { ":0" };
        }
        out + "\n"
    }

    /// `show-gi`: the same with a legend.
    #[must_use]
    pub fn pretty(&self) -> String {
        const HEAD: &str = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
";
        const LEGEND: [&str; 7] = [
            "Data consistency flag",
            "Data was/is currently up-to-date",
            "Node was/is currently primary",
            "Node was/is currently connected",
            "Node outlived its peer, and has flushed",
            "The peer's disk is out-dated or inconsistent",
            "Ended in order, nothing to recover",
        ];
        // Column of the first flag: four identifiers of 16 digits, four colons.
        const FIRST: usize = 4 * 16 + 4;
        let mut out = HEAD.to_owned() + &self.raw();
        let all: Vec<String> = (0..LEGEND.len()).map(|_| "^".to_owned()).collect();
        out += &format!("{}{}\n", " ".repeat(FIRST), all.join(" "));
        for (n, text) in LEGEND.iter().enumerate() {
            let column = FIRST + 2 * n;
            let label = format!("-<  {text}  >--");
            let bars = " |".repeat(LEGEND.len() - n - 1);
            out += &format!("{label:>column$}+{bars}\n");
        }
        out + &format!("\nflags: {}\n", self.summary)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn the_raw_line_has_four_identifiers_and_seven_flags() {
        let report = fixtures::peer_down();
        let device = &report.status.devices[0];
        let connection = &report.status.connections[0];
        let line = Generation::attached(
            device,
            report.status.role,
            connection.connection_state,
            connection.peer_devices.first(),
        );
        assert_eq!(
            line.raw(),
            "5435911CABE7ED03:4DCEBC186434281A:4DCEBC186434281A:0000000000000000:1:1:0:0:0:0:0\n"
        );
        let pretty = line.pretty();
        assert!(pretty.contains(&line.raw()));
        assert!(pretty.ends_with("\nflags: Primary, Connecting, UpToDate\n"));
        let bars: Vec<&str> = pretty.lines().filter(|line| line.contains(">--+")).collect();
        assert_eq!(bars.len(), 7);
        assert_eq!(bars[0].find('+'), Some(68));
        assert_eq!(bars[6].find('+'), Some(80));
    }
}

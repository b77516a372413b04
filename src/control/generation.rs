//! `get-gi` and `show-gi` of an attached disk, a line per peer; in the layout that [`crate::meta`]
//! prints for one that is not attached.

use crate::meta::DeviceFlags;
use crate::resource::{ConnectionState, DeviceStatus, PeerDeviceStatus, Role};

/// What one line shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    current: u64,
    bitmap: u64,
    history: [u64; 2],
    flags: u32,
    all_set: bool,
    summary: String,
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
            all_set: device.size > 0 && peer.is_some_and(|peer| peer.out_of_sync >= device.size),
            summary: format!("{role}, {connection}, {}", device.disk_state),
        }
    }

    fn bits(&self) -> [bool; 7] {
        let is = |flag: u32| self.flags & flag != 0;
        [
            is(DeviceFlags::CONSISTENT),
            is(DeviceFlags::WAS_UP_TO_DATE),
            is(DeviceFlags::PRIMARY_IND),
            is(DeviceFlags::SURVIVED),
            self.all_set,
            is(DeviceFlags::OUTDATED),
            // A crash is seen at the next attach, not while the disk is attached.
            false,
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
            "Node survived the loss of its peer, and has flushed",
            "All bits of the bitmap for this peer are set",
            "Data is known to be Outdated",
            "This node was a crashed primary, and has not seen its peer since",
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

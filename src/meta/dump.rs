//! The metadata as text: `dump-md`, `get-gi`, `show-gi`. The shapes are DRBD's (dump-md of DRBD 9,
//! get-gi and show-gi with DRBD 8.4's seven columns); what DRBD does not have comes in the same
//! style.

use std::fmt::Write as _;

use super::geometry::Geometry;
use super::{BitmapState, DeviceFlags, JUST_CREATED, LoadedMeta, LoadedSlot, PeerSlot, VERSION};

const FLAG_NAMES: [(u32, &str); 15] = [
    (DeviceFlags::CONSISTENT, "consistent"),
    (DeviceFlags::WAS_UP_TO_DATE, "was-up-to-date"),
    (DeviceFlags::PRIMARY_IND, "primary"),
    (DeviceFlags::SURVIVED, "survived"),
    (DeviceFlags::OUTDATED, "outdated"),
    (DeviceFlags::CLEAN, "clean"),
    (DeviceFlags::PREALLOCATED, "preallocated"),
    (DeviceFlags::CREATED_BLANK, "created-blank"),
    (DeviceFlags::SIZE_USED, "size-used"),
    (DeviceFlags::INVALIDATED, "invalidated"),
    (DeviceFlags::VERIFY_MARKS, "verify-marks"),
    (DeviceFlags::LOSS_BITS, "loss-bits"),
    (DeviceFlags::STANDS_IN, "stands-in"),
    (DeviceFlags::IN_DOUBT, "in-doubt"),
    (DeviceFlags::FORCED_BLANK, "forced-blank"),
];

/// Everything that the metadata says, as text. Lines that start with `#` say what follows from
/// other lines; the rest is what [`super::parse_dump`] takes back. Set blocks and hot extents are runs: first,
/// count.
#[must_use]
pub fn dump(meta: &LoadedMeta, geometry: &Geometry) -> String {
    let mut out = String::new();
    write_dump(&mut out, meta, geometry).expect("writing to a string cannot fail");
    out
}

fn write_dump(out: &mut String, meta: &LoadedMeta, geometry: &Geometry) -> std::fmt::Result {
    let superblock = &meta.superblock;
    writeln!(out, "version \"tandem-{VERSION}\";\n")?;
    for note in &meta.notes {
        writeln!(out, "# {note}")?;
    }
    writeln!(out, "# md-size {}", geometry.meta_bytes)?;
    writeln!(out, "# md-offsets {} {}", geometry.superblocks[0], geometry.superblocks[1])?;
    writeln!(out, "# al-offset {}", geometry.al_offset)?;
    writeln!(out, "# bm-offset {}\n", geometry.bitmap_offset)?;
    writeln!(out, "resource {:?};", superblock.resource)?;
    writeln!(out, "volume {};", superblock.volume)?;
    writeln!(out, "node-id {};", superblock.node_id)?;
    writeln!(out, "max-peers {};", superblock.peers.len())?;
    writeln!(out, "device-uuid 0x{:016X};", superblock.device_uuid)?;
    writeln!(out, "sequence {};", superblock.sequence)?;
    writeln!(out, "meta-disk {};", if geometry.external { "external" } else { "internal" })?;
    writeln!(out, "data-size {};", superblock.data_size)?;
    writeln!(out, "effective-size {};", superblock.effective_size)?;
    writeln!(out, "al-block-size {};", superblock.al_block_size)?;
    writeln!(out, "bm-byte-per-bit {};\n", crate::resource::BLOCK_SIZE)?;
    writeln!(out, "current-uuid 0x{:016X};", superblock.current_uuid)?;
    writeln!(out, "flags 0x{:08X}; # {}", superblock.flags, flag_names(superblock.flags))?;
    writeln!(out, "history-uuids {{")?;
    for four in superblock.history.chunks(4) {
        let ids: Vec<String> = four.iter().map(|id| format!("0x{id:016X};")).collect();
        writeln!(out, "    {}", ids.join(" "))?;
    }
    writeln!(out, "}}")?;
    writeln!(out, "number {};", superblock.number)?;
    writeln!(out, "number-with-log {};", optional(meta.number))?;
    writeln!(out, "generation-time {};", superblock.generation_time)?;
    writeln!(out, "generation-node {};", superblock.generation_node)?;
    writeln!(out, "created-time {};", superblock.created_time)?;
    writeln!(out, "created-found {:?};", superblock.created_found)?;
    let boot: String = superblock.boot_id.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "boot-id {boot};")?;
    writeln!(out, "clean-size {};", superblock.clean_size)?;
    writeln!(out, "clean-digest 0x{:08X};\n", superblock.clean_digest)?;
    for (index, (peer, slot)) in superblock.peers.iter().zip(&meta.slots).enumerate() {
        write_slot(out, index, peer, slot)?;
    }
    writeln!(out, "activity-log {{")?;
    for (first, count) in runs(&meta.hot_extents) {
        writeln!(out, "    {first} {count};")?;
    }
    writeln!(out, "}}\n# extents-hot {};", meta.hot_extents.len())
}

fn write_slot(
    out: &mut String,
    index: usize,
    peer: &PeerSlot,
    slot: &LoadedSlot,
) -> std::fmt::Result {
    writeln!(out, "peer[{index}] {{")?;
    match peer.node_id {
        Some(node) => writeln!(out, "    node-id {node};")?,
        None => writeln!(out, "    free;")?,
    }
    writeln!(out, "    device-uuid 0x{:016X};", peer.device_uuid)?;
    writeln!(out, "    bitmap-uuid 0x{:016X};", peer.bitmap_uuid)?;
    let state = match peer.bitmap_state {
        BitmapState::AllClear => "all-clear",
        BitmapState::AllSet => "all-set",
        BitmapState::Pages => "pages",
    };
    writeln!(out, "    bitmap-state {state};")?;
    writeln!(out, "    bitmap-epoch {};", peer.bitmap_epoch)?;
    writeln!(out, "    seen-number {};", peer.seen_number)?;
    writeln!(out, "    seen-number-with-blocks {};", optional(slot.seen_number))?;
    writeln!(out, "    seen-block {};", slot.seen_copy)?;
    if slot.damaged_pages > 0 {
        writeln!(out, "    # damaged-pages {}", slot.damaged_pages)?;
    }
    writeln!(out, "}}\nbitmap[{index}] {{")?;
    let mut set = 0;
    for (first, count) in slot.set.runs() {
        writeln!(out, "    {first} {count};")?;
        set += count;
    }
    writeln!(out, "}}\n# bits-set {set};\n")
}

fn flag_names(flags: u32) -> String {
    let names: Vec<&str> =
        FLAG_NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

fn runs(extents: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &extent in extents {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == extent => *count += 1,
            _ => runs.push((extent, 1)),
        }
    }
    runs
}

/// One line: current, bitmap and two history UUIDs, then seven flags: consistent, was UpToDate, was
/// Primary, survived its peer, all bits set, Outdated, crashed Primary. `slot` counts the
/// superblock's peer slots from 0; one that it does not have has the bitmap UUID 0.
#[must_use]
pub fn get_gi(meta: &LoadedMeta, slot: usize) -> String {
    let superblock = &meta.superblock;
    let peer = superblock.peers.get(slot);
    let has = |bit: u32| u8::from(superblock.flags & bit != 0);
    let all_set = peer.is_some_and(|peer| peer.bitmap_state == BitmapState::AllSet);
    format!(
        "{:016X}:{:016X}:{:016X}:{:016X}:{}:{}:{}:{}:{}:{}:{}",
        superblock.current_uuid,
        peer.map_or(0, |peer| peer.bitmap_uuid),
        superblock.history[0],
        superblock.history[1],
        has(DeviceFlags::CONSISTENT),
        has(DeviceFlags::WAS_UP_TO_DATE),
        has(DeviceFlags::PRIMARY_IND),
        has(DeviceFlags::SURVIVED),
        u8::from(all_set),
        has(DeviceFlags::OUTDATED),
        u8::from(crashed_primary(superblock.flags)),
    )
}

fn crashed_primary(flags: u32) -> bool {
    flags & DeviceFlags::PRIMARY_IND != 0 && flags & DeviceFlags::CLEAN == 0
}

/// The same line with its legend, and what it means.
#[must_use]
pub fn show_gi(meta: &LoadedMeta, slot: usize) -> String {
    let superblock = &meta.superblock;
    let line = get_gi(meta, slot);
    let (role, disk) = (role_word(superblock.flags), disk_word(superblock.flags));
    let clean = superblock.flags & DeviceFlags::CLEAN != 0;
    let state = if clean { "clean" } else { "need apply-al" };
    let size = if superblock.effective_size == 0 {
        "zero size device -- never seen peer yet?".to_owned()
    } else {
        format!("last agreed size: {} bytes", superblock.effective_size)
    };
    let created = if superblock.current_uuid == JUST_CREATED { ", just created" } else { "" };
    let legend = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
";
    let columns = "
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
              -<  Node survived the loss of its peer, and has flushed  >--+ | | |
                       -<  All bits of the bitmap for this peer are set  >--+ | |
                                         -<  Data is known to be Outdated  >--+ |
       -<  This node was a crashed primary, and has not seen its peer since  >--+
";
    format!("{legend}{line}{columns}\nflags: {role}, {disk}{created}\nmeta-data: {state}\n{size}\n")
}

fn role_word(flags: u32) -> &'static str {
    if flags & DeviceFlags::PRIMARY_IND != 0 { "Primary" } else { "Secondary" }
}

fn disk_word(flags: u32) -> &'static str {
    if flags & DeviceFlags::CONSISTENT == 0 {
        "Inconsistent"
    } else if flags & DeviceFlags::OUTDATED != 0 {
        "Outdated"
    } else if flags & DeviceFlags::WAS_UP_TO_DATE != 0
        && flags & DeviceFlags::SURVIVED != 0
        && flags & DeviceFlags::IN_DOUBT == 0
    {
        "UpToDate"
    } else {
        "Consistent"
    }
}

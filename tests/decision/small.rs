//! One side of a handshake in small numbers, and the real thing made of it.

use tandem::meta::{DeviceFlags, HISTORY, JUST_CREATED};
use tandem::resource::*;
use tandem::wire::VolumeInfo;

/// One side in small numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Small {
    /// 0: JUST_CREATED, else a generation.
    pub(crate) current: u8,
    /// 0: empty.
    pub(crate) bitmap: u8,
    /// A set of generations: 2 for generation 1, 4 for 2, 8 for 3.
    pub(crate) history: u8,
    pub(crate) disk: DiskState,
    pub(crate) primary: bool,
    pub(crate) survived: bool,
    pub(crate) crashed: bool,
    pub(crate) invalidated: bool,
    pub(crate) bits: u8,
    /// Of the bits, a verify has set some (1), or all (2).
    pub(crate) marks: u8,
    /// The peer has seen 5 of this disk.
    pub(crate) number: Option<u8>,
    /// The peer remembers another disk.
    pub(crate) replaced: bool,
}

pub(crate) const BASE: Small = Small {
    current: 1,
    bitmap: 0,
    history: 0,
    disk: DiskState::UpToDate,
    primary: false,
    survived: false,
    crashed: false,
    invalidated: false,
    bits: 0,
    marks: 0,
    number: Some(5),
    replaced: false,
};

pub(crate) const DISKS: [DiskState; 4] =
    [DiskState::Inconsistent, DiskState::Outdated, DiskState::Consistent, DiskState::UpToDate];

/// Every second UUID carries the remark in its lowest bit, which must not matter.
pub(crate) fn uuid(n: u8, remark: bool) -> u64 {
    if n == 0 { 0 } else { u64::from(n) << 40 | u64::from(remark) }
}

/// The real thing, for node 0 or 1.
pub(crate) fn real(s: &Small, node: u64) -> VolumeInfo {
    let mut history = [0; HISTORY];
    for n in 1..4u8 {
        if s.history & 1 << n != 0 {
            history[usize::from(n) * 7] = uuid(n, node == 1);
        }
    }
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    VolumeInfo {
        volume: 0,
        disk: s.disk,
        data_size: 1 << 30,
        effective_size: 1 << 30,
        size_used: true,
        logical_block_size: 512,
        device_uuid: if s.replaced { 110 + node } else { 10 + node },
        peer_device_uuid: 11 - node,
        current_uuid: if s.current == 0 { JUST_CREATED } else { uuid(s.current, node == 0) },
        bitmap_uuid: uuid(s.bitmap, s.primary),
        history,
        flags: flag(s.survived, DeviceFlags::SURVIVED)
            | flag(s.invalidated, DeviceFlags::INVALIDATED)
            | flag(s.marks > 0, DeviceFlags::VERIFY_MARKS)
            | flag(s.marks == 1, DeviceFlags::LOSS_BITS),
        crashed_primary: s.crashed,
        bits: u64::from(s.bits),
        number: s.number.map(u64::from),
        seen_number: Some(5),
        created_found: String::new(),
        generation_time: 0,
        alone_time: 0,
        discard_my_data_for: None,
        resize_to: 0,
        assume_clean: false,
    }
}

pub(crate) fn role(s: &Small) -> Role {
    if s.primary { Role::Primary } else { Role::Secondary }
}

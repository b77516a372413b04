//! The ranges of every field. [`decode`](super::decode) lets nothing pass that is out of them.

use super::{
    BITMAP_WORDS_MAX, BODY_MAX, Description, Features, Handshake, Packet, Refused,
    VERIFY_BLOCKS_MAX, VERIFY_DIGESTS_MAX, VolumeInfo,
};
use crate::meta::{COUNTER_MAX, JUST_CREATED};
use crate::resource::{BLOCK_SIZE, DiskState, PAYLOAD_MAX, Role, VolumeNumber, ZEROES_MAX};

/// Most volumes of a resource.
pub const VOLUMES_MAX: usize = 64;
/// Most options in each list of a handshake.
pub const OPTIONS_MAX: usize = 64;
/// The longest text for people, bytes.
pub const TEXT_MAX: usize = 1024;
/// The longest name, value or label, bytes.
const NAME_MAX: usize = 255;
/// The longest name of a resource, bytes (docs/PROTOCOL.md, Features).
const RESOURCE_MAX: usize = 127;
/// Offsets of the kernel's file interface are signed.
const SIZE_MAX: u64 = i64::MAX as u64;
/// Blocks of the largest disk.
const BLOCKS_MAX: u64 = SIZE_MAX / BLOCK_SIZE;
/// The highest node id.
const NODE_MAX: u8 = 31;
/// The only volume number that is none.
const NO_VOLUME: VolumeNumber = VolumeNumber::MAX;

/// A text for people as it may be sent: without control characters (nothing that a peer says may
/// break a line of our log), cut at a character to at most `max` bytes.
#[must_use]
pub fn plain_text(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

/// Whether every field of the packet is in its range. What [`decode`](super::decode) yields is;
/// what is given to [`encode_header`](super::encode_header) must be.
#[must_use]
pub fn check(packet: &Packet) -> bool {
    if volume(packet).is_some_and(|v| v == NO_VOLUME) {
        return false;
    }
    match packet {
        Packet::Features(features) => check_features(features),
        Packet::Handshake(handshake) => check_handshake(handshake),
        Packet::Refused(refused) => check_refused(refused),
        Packet::Bitmap { first_block, words, .. } => {
            first_block.is_multiple_of(64)
                && (1..=BITMAP_WORDS_MAX).contains(&words.len())
                && first_block.saturating_add(64 * words.len() as u64) <= BLOCKS_MAX + 64
        }
        Packet::BitmapEnd { bits, .. } => *bits <= BLOCKS_MAX,
        Packet::Data { offset, length, .. }
        | Packet::ReadRequest { offset, length, .. }
        | Packet::ResyncRequest { offset, length, .. }
        | Packet::DigestRequest { offset, length, .. }
        | Packet::VerifyRequest { offset, length, .. }
        | Packet::Sample { offset, length, .. } => {
            range(*offset, u64::from(*length), u64::from(PAYLOAD_MAX))
        }
        Packet::Zeroes { offset, length, .. } | Packet::HoleRequest { offset, length, .. } => {
            range(*offset, u64::from(*length), ZEROES_MAX)
        }
        Packet::HoleAnswer { length, .. } => {
            whole(u64::from(*length)) && u64::from(*length) <= ZEROES_MAX
        }
        Packet::ReadReply { length, .. } | Packet::ResyncData { length, .. } => {
            range(0, u64::from(*length), u64::from(PAYLOAD_MAX))
        }
        Packet::InSync { offset, length, .. } | Packet::VerifyStart { offset, length, .. } => {
            range(*offset, *length, SIZE_MAX)
        }
        Packet::State { role, disk, .. } => own_role(*role) && own_disk(*disk),
        Packet::VerifyDigests { digests, .. } | Packet::DigestAnswer { digests, .. } => {
            digests.len().is_multiple_of(4) && (1..=VERIFY_DIGESTS_MAX).contains(&digests.len())
        }
        Packet::VerifyResult { differing, .. } => {
            (1..=VERIFY_BLOCKS_MAX / 64).contains(&differing.len())
        }
        Packet::VerifyEnd { position, .. } => {
            position.is_multiple_of(BLOCK_SIZE) && *position <= SIZE_MAX
        }
        Packet::PromoteAnswer { code, .. }
        | Packet::VerifyAnswer { code, .. }
        | Packet::StartResyncAnswer { code, .. } => (-127..=0).contains(code),
        Packet::ResizeAnswer { size, code, .. } => {
            whole(*size) && ((-99..=0).contains(code) || (100..=255).contains(code))
        }
        Packet::Number { number, .. } => *number <= COUNTER_MAX,
        Packet::Leave { kind } => *kind <= 2,
        Packet::NewUuid { uuid, .. } | Packet::NewUuidAck { uuid, .. } => real_uuid(*uuid),
        // 1 is the refusal.
        Packet::ClearBitmap { uuid, .. } => *uuid == 1 || real_uuid(*uuid),
        Packet::Resize { .. }
        | Packet::Adopted { .. }
        | Packet::Opened { .. }
        | Packet::WriteAck { .. }
        | Packet::NegAck { .. }
        | Packet::NoSpace { .. }
        | Packet::LetGo { .. }
        | Packet::TakeBack { .. }
        | Packet::TakenBack { .. }
        | Packet::Flush { .. }
        | Packet::FlushAck { .. }
        | Packet::ReadError { .. }
        | Packet::ResyncZeroes { .. }
        | Packet::ResyncError { .. }
        | Packet::ResyncAck { .. }
        | Packet::ResyncEnd { .. }
        | Packet::ResyncDone { .. }
        | Packet::VerifyError { .. }
        | Packet::PromoteRequest { .. }
        | Packet::StartResync { .. }
        | Packet::HandOver { .. }
        | Packet::HandOverAnswer { .. }
        | Packet::LeaveAnswer
        | Packet::SampleAnswer { .. }
        | Packet::Challenge { .. }
        | Packet::Ping
        | Packet::PingAck => true,
        Packet::Echo { bytes, .. } | Packet::EchoReply { bytes, .. } => {
            (1..=BODY_MAX as usize).contains(&bytes.len())
        }
        Packet::Description(description) => check_description(description),
        Packet::Response { proofs } => (1..=128).contains(&proofs.len()),
    }
}

/// The volume that a packet is about, `None`: the whole connection.
pub(super) fn volume(packet: &Packet) -> Option<VolumeNumber> {
    match packet {
        Packet::Features(_)
        | Packet::Handshake(_)
        | Packet::Refused(_)
        | Packet::Challenge { .. }
        | Packet::Response { .. }
        | Packet::PromoteRequest { .. }
        | Packet::PromoteAnswer { .. }
        | Packet::Leave { .. }
        | Packet::LeaveAnswer
        | Packet::HandOver { .. }
        | Packet::HandOverAnswer { .. }
        | Packet::Ping
        | Packet::PingAck
        | Packet::Echo { .. }
        | Packet::EchoReply { .. }
        | Packet::Description(_) => None,
        Packet::Bitmap { volume, .. }
        | Packet::BitmapEnd { volume, .. }
        | Packet::Adopted { volume }
        | Packet::Opened { volume }
        | Packet::Number { volume, .. }
        | Packet::Data { volume, .. }
        | Packet::Zeroes { volume, .. }
        | Packet::WriteAck { volume, .. }
        | Packet::NegAck { volume, .. }
        | Packet::NoSpace { volume, .. }
        | Packet::LetGo { volume, .. }
        | Packet::TakeBack { volume, .. }
        | Packet::TakenBack { volume, .. }
        | Packet::Flush { volume, .. }
        | Packet::FlushAck { volume, .. }
        | Packet::ReadRequest { volume, .. }
        | Packet::ReadReply { volume, .. }
        | Packet::ReadError { volume, .. }
        | Packet::ResyncRequest { volume, .. }
        | Packet::HoleRequest { volume, .. }
        | Packet::HoleAnswer { volume, .. }
        | Packet::DigestRequest { volume, .. }
        | Packet::DigestAnswer { volume, .. }
        | Packet::ResyncData { volume, .. }
        | Packet::ResyncZeroes { volume, .. }
        | Packet::ResyncError { volume, .. }
        | Packet::ResyncAck { volume, .. }
        | Packet::InSync { volume, .. }
        | Packet::ResyncEnd { volume }
        | Packet::ResyncDone { volume }
        | Packet::VerifyStart { volume, .. }
        | Packet::VerifyAnswer { volume, .. }
        | Packet::VerifyRequest { volume, .. }
        | Packet::VerifyDigests { volume, .. }
        | Packet::VerifyError { volume, .. }
        | Packet::VerifyResult { volume, .. }
        | Packet::VerifyEnd { volume, .. }
        | Packet::State { volume, .. }
        | Packet::NewUuid { volume, .. }
        | Packet::NewUuidAck { volume, .. }
        | Packet::StartResync { volume, .. }
        | Packet::StartResyncAnswer { volume, .. }
        | Packet::Sample { volume, .. }
        | Packet::SampleAnswer { volume, .. }
        | Packet::ClearBitmap { volume, .. }
        | Packet::Resize { volume }
        | Packet::ResizeAnswer { volume, .. } => Some(*volume),
    }
}

/// Whole blocks, not empty, at most `max`, and the end can be addressed.
fn range(offset: u64, length: u64, max: u64) -> bool {
    offset.is_multiple_of(BLOCK_SIZE)
        && length.is_multiple_of(BLOCK_SIZE)
        && length != 0
        && length <= max
        && offset.checked_add(length).is_some_and(|end| end <= SIZE_MAX)
}

/// The lowest bit tells the role in which it was made, and is no part of the identifier.
fn real_uuid(uuid: u64) -> bool {
    uuid & !1 != 0 && uuid & !1 != JUST_CREATED
}

/// A node knows its own role.
fn own_role(role: Role) -> bool {
    role != Role::Unknown
}

/// A node knows its own disk.
fn own_disk(disk: DiskState) -> bool {
    disk != DiskState::DUnknown
}

fn text(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

fn name(name: &str) -> bool {
    !name.is_empty() && text(name, NAME_MAX)
}

fn check_features(f: &Features) -> bool {
    f.version_min != 0
        && f.version_min <= f.version_max
        && f.node_id <= NODE_MAX
        && f.peer_node_id <= NODE_MAX
        && !f.resource.is_empty()
        && text(&f.resource, RESOURCE_MAX)
        && !f.resource.contains('/')
}

fn options(list: &[(String, String)]) -> bool {
    list.len() <= OPTIONS_MAX && list.iter().all(|(n, v)| name(n) && text(v, NAME_MAX))
}

fn check_description(d: &Description) -> bool {
    name(&d.node)
        && text(&d.software, NAME_MAX)
        && options(&d.must_equal)
        && options(&d.should_equal)
}

fn check_handshake(h: &Handshake) -> bool {
    own_role(h.role)
        && u64::from(h.window) >= BLOCK_SIZE
        && options(&h.must_equal)
        && options(&h.should_equal)
        && text(&h.software, NAME_MAX)
        && h.volumes.len() <= VOLUMES_MAX
        && h.volumes.is_sorted_by(|a, b| a.volume < b.volume)
        && h.volumes.iter().all(check_volume)
}

/// Whole blocks.
fn whole(size: u64) -> bool {
    size.is_multiple_of(BLOCK_SIZE) && size <= SIZE_MAX
}

fn check_volume(v: &VolumeInfo) -> bool {
    let diskless = v.disk == DiskState::Diskless;
    let block =
        matches!(v.logical_block_size, 512 | 4096) || (diskless && v.logical_block_size == 0);
    v.volume != NO_VOLUME
        && own_disk(v.disk)
        && whole(v.data_size)
        && whole(v.effective_size)
        && whole(v.resize_to)
        && (v.resize_to != 0 || !v.assume_clean)
        && block
        && (diskless || v.device_uuid != 0)
        && v.bits <= BLOCKS_MAX
        && v.number.max(v.seen_number).is_none_or(|number| number <= COUNTER_MAX)
        && text(&v.created_found, NAME_MAX)
}

fn check_refused(r: &Refused) -> bool {
    name(&r.rule) && text(&r.text, TEXT_MAX)
}

/// The handshake as it may be sent: its texts for people are made plain, whatever they came from.
pub(super) fn plain_handshake(h: &Handshake) -> Handshake {
    let mut h = h.clone();
    h.software = plain_text(&h.software, NAME_MAX);
    for v in &mut h.volumes {
        v.created_found = plain_text(&v.created_found, NAME_MAX);
    }
    h
}

/// The refusal as it may be sent.
pub(super) fn plain_refused(r: &Refused) -> Refused {
    Refused {
        reason: r.reason,
        rule: plain_text(&r.rule, NAME_MAX),
        text: plain_text(&r.text, TEXT_MAX),
    }
}

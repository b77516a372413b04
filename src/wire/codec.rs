//! Packets to bytes and back. docs/PROTOCOL.md draws what stands here.
//!
//! A header is looked at in this order: magic, CRC, type, length, and only then the body is waited
//! for. Fields that have no place of their own in the header borrow one: see `fields` and `decode`,
//! which are each other's mirror.

use bincode::config::{BigEndian, Configuration, Fixint, Limit};

use super::check::{check, plain_handshake, plain_refused, volume};
use super::{
    BODY_MAX, Description, Features, HEADER_SIZE, HandOverOutcome, Handshake, Kind, MAGIC, Packet,
    Refused, Shape, WireError, ZeroMode,
};
use crate::resource::{DiskState, Role, VerifyAlg, VolumeNumber};
use crate::secret::Algorithm;

/// Bytes of the body of Features, in every version.
pub const FEATURES_BODY: u32 = 160;
/// Where the name stands in the body of Features.
const FEATURES_NAME: usize = 12;
/// Bytes kept for the name.
const FEATURES_NAME_SIZE: usize = 128;
/// Where its byte of the role is.
const FEATURES_PRIMARY: usize = FEATURES_NAME + FEATURES_NAME_SIZE;

/// The only flag of most types that have one: FUA, ok, equal, source, done.
const FLAG: u8 = 1;
/// Zeroes: keep the blocks.
const FLAG_NO_HOLE: u8 = 2;

/// StartResync: only the blocks whose bits are set.
const FLAG_MARKED: u8 = 2;
/// DRBD's numbers from here on are positive, those below are negative.
const FAILURES: i32 = 100;

/// Fixed-width big-endian: the bytes of a plain struct. The limit bounds what a decoder reserves.
type BodyConfig = Configuration<BigEndian, Fixint, Limit<{ BODY_MAX as usize }>>;

fn body_config() -> BodyConfig {
    bincode::config::standard()
        .with_big_endian()
        .with_fixed_int_encoding()
        .with_limit::<{ BODY_MAX as usize }>()
}

/// A checked header: magic and CRC fit, the type is known, and `length` is possible for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: Kind,
    flags: u8,
    volume: VolumeNumber,
    sequence: u64,
    offset: u64,
    length: u32,
}

impl Header {
    /// The type of the packet.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of body to read before [`decode`], at most [`BODY_MAX`].
    #[must_use]
    pub fn body_length(&self) -> u32 {
        self.kind.shape().body_length(self.length)
    }

    /// Bytes of payload that follow, for a buffer of the pool; at most 1 MiB. A type has a body or
    /// a payload, never both.
    #[must_use]
    pub fn payload_length(&self) -> u32 {
        if self.kind.shape() == Shape::Payload { self.length } else { 0 }
    }
}

/// The fields of a header that differ from 0.
#[derive(Default)]
struct Fields {
    flags: u8,
    sequence: u64,
    offset: u64,
    length: u32,
}

/// Appends the header and the body of the packet: all but the payload, which the caller sends next.
///
/// The packet's fields are in their ranges ([`check`]); the texts for people in Handshake and
/// Refused are made plain on the way.
pub fn encode_header(packet: &Packet, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEADER_SIZE, 0);
    append_body(packet, out);
    debug_assert!(check_encoded(packet), "a field is out of range: {packet:?}");
    let body = u32::try_from(out.len() - start - HEADER_SIZE).unwrap_or(u32::MAX);
    let fields = fields(packet, body);
    let header = &mut out[start..start + HEADER_SIZE];
    header[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    header[4] = packet.kind() as u8;
    header[5] = fields.flags;
    header[6..8].copy_from_slice(&volume(packet).unwrap_or(0).to_be_bytes());
    header[8..16].copy_from_slice(&fields.sequence.to_be_bytes());
    header[16..24].copy_from_slice(&fields.offset.to_be_bytes());
    header[24..28].copy_from_slice(&fields.length.to_be_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..32].copy_from_slice(&crc.to_be_bytes());
}

/// [`check`], for the packet as its texts are sent.
fn check_encoded(packet: &Packet) -> bool {
    match packet {
        Packet::Handshake(h) => check(&Packet::Handshake(Box::new(plain_handshake(h)))),
        Packet::Refused(r) => check(&Packet::Refused(Box::new(plain_refused(r)))),
        other => check(other),
    }
}

fn append_body(packet: &Packet, out: &mut Vec<u8>) {
    match packet {
        Packet::Features(features) => append_features(features, out),
        Packet::Handshake(handshake) => append_bincode(&plain_handshake(handshake), out),
        Packet::Refused(refused) => append_bincode(&plain_refused(refused), out),
        Packet::Challenge { challenge, .. } => out.extend_from_slice(challenge),
        Packet::Response { proofs: bytes }
        | Packet::Echo { bytes, .. }
        | Packet::EchoReply { bytes, .. } => out.extend_from_slice(bytes),
        Packet::Description(description) => append_bincode(&**description, out),
        Packet::VerifyDigests { digests, .. } | Packet::DigestAnswer { digests, .. } => {
            out.extend_from_slice(digests)
        }
        Packet::Bitmap { words, .. } | Packet::VerifyResult { differing: words, .. } => {
            out.reserve(words.len() * 8);
            out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        }
        Packet::Sample { digest, .. } => out.extend_from_slice(&digest.to_be_bytes()),
        _ => {}
    }
}

fn append_features(f: &Features, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&f.version_min.to_be_bytes());
    out.extend_from_slice(&f.version_max.to_be_bytes());
    out.extend_from_slice(&f.features.to_be_bytes());
    let name = &f.resource.as_bytes()[..f.resource.len().min(FEATURES_NAME_SIZE - 1)];
    let length = u8::try_from(name.len()).unwrap_or(0);
    out.extend_from_slice(&[f.node_id, f.peer_node_id, u8::from(f.dialled), length]);
    out.extend_from_slice(name);
    out.resize(start + FEATURES_PRIMARY, 0);
    out.push(u8::from(f.primary));
    out.extend_from_slice(&f.system);
    out.resize(start + FEATURES_BODY as usize, 0);
}

fn append_bincode(body: &impl bincode::Encode, out: &mut Vec<u8>) {
    let bytes = bincode::encode_to_vec(body, body_config())
        .expect("plain data is encoded into memory, which cannot fail");
    out.extend_from_slice(&bytes);
}

/// Which field of the packet stands where in the header; `body`: bytes of its body.
fn fields(packet: &Packet, body: u32) -> Fields {
    let at = |sequence, offset, length| Fields { sequence, offset, length, flags: 0 };
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    match *packet {
        Packet::Features(_)
        | Packet::Handshake(_)
        | Packet::Refused(_)
        | Packet::Response { .. }
        | Packet::Description(_) => at(0, 0, body),
        Packet::Echo { sequence, .. } | Packet::EchoReply { sequence, .. } => at(sequence, 0, body),
        Packet::Challenge { algorithm, .. } => Fields { flags: algorithm as u8, ..at(0, 0, body) },
        Packet::Bitmap { first_block, .. } => at(0, first_block, body),
        Packet::BitmapEnd { bits, .. } => at(0, bits, 0),
        Packet::Number { number, .. } => at(0, number, 0),
        Packet::Data { sequence, offset, length, fua, .. } => {
            Fields { flags: flag(fua, FLAG), ..at(sequence, offset, length) }
        }
        Packet::Zeroes { sequence, offset, length, mode, fua, .. } => Fields {
            flags: flag(fua, FLAG) | flag(mode == ZeroMode::NoHole, FLAG_NO_HOLE),
            ..at(sequence, offset, length)
        },
        Packet::ReadRequest { sequence, offset, length, .. }
        | Packet::ResyncRequest { sequence, offset, length, .. }
        | Packet::HoleRequest { sequence, offset, length, .. }
        | Packet::VerifyRequest { sequence, offset, length, .. }
        | Packet::Sample { sequence, offset, length, .. } => at(sequence, offset, length),
        Packet::ReadReply { sequence, length, .. }
        | Packet::ResyncData { sequence, length, .. } => at(sequence, 0, length),
        // The length of a packet is that of what follows it.
        Packet::HoleAnswer { sequence, length, .. } => at(sequence, u64::from(length), 0),
        Packet::DigestRequest { sequence, offset, length, alg, .. } => {
            Fields { flags: index(VerifyAlg::ALL, alg), ..at(sequence, offset, length) }
        }
        Packet::FlushAck { sequence, ok, .. } => {
            Fields { flags: flag(ok, FLAG), ..at(sequence, 0, 0) }
        }
        Packet::SampleAnswer { sequence, equal, .. } => {
            Fields { flags: flag(equal, FLAG), ..at(sequence, 0, 0) }
        }
        Packet::WriteAck { sequence, .. }
        | Packet::NegAck { sequence, .. }
        | Packet::NoSpace { sequence, .. }
        | Packet::LetGo { sequence, .. }
        | Packet::TakeBack { sequence, .. }
        | Packet::TakenBack { sequence, .. }
        | Packet::Flush { sequence, .. }
        | Packet::ReadError { sequence, .. }
        | Packet::ResyncZeroes { sequence, .. }
        | Packet::ResyncError { sequence, .. }
        | Packet::ResyncAck { sequence, .. }
        | Packet::VerifyError { sequence, .. }
        | Packet::PromoteRequest { sequence } => at(sequence, 0, 0),
        // 64 bits of length: the place of the sequence, which it has not.
        Packet::InSync { offset, length, .. } => at(length, offset, 0),
        Packet::VerifyStart { offset, length, alg, .. } => {
            Fields { flags: index(VerifyAlg::ALL, alg), ..at(length, offset, 0) }
        }
        Packet::ResizeAnswer { size, code, .. } => {
            let flags = u8::try_from(code.unsigned_abs()).unwrap_or(u8::MAX);
            Fields { flags, ..at(0, size, 0) }
        }
        Packet::VerifyAnswer { code, .. } => {
            let flags = u8::try_from(code.unsigned_abs()).unwrap_or(u8::MAX);
            Fields { flags, ..Fields::default() }
        }
        Packet::VerifyDigests { sequence, .. }
        | Packet::DigestAnswer { sequence, .. }
        | Packet::VerifyResult { sequence, .. } => at(sequence, 0, body),
        Packet::VerifyEnd { position, done, .. } => {
            Fields { flags: flag(done, FLAG), ..at(0, position, 0) }
        }
        Packet::State { role, disk, paused, .. } => {
            let states = index(Role::ALL, role) << 4 | index(DiskState::ALL, disk);
            let flags = states | u8::from(paused) << 6;
            Fields { flags, ..Fields::default() }
        }
        Packet::PromoteAnswer { sequence, code }
        | Packet::StartResyncAnswer { sequence, code, .. } => {
            let flags = u8::try_from(code.unsigned_abs()).unwrap_or(u8::MAX);
            Fields { flags, ..at(sequence, 0, 0) }
        }
        Packet::HandOver { sequence, cancel } => {
            Fields { flags: flag(cancel, FLAG), ..at(sequence, 0, 0) }
        }
        Packet::HandOverAnswer { sequence, outcome } => {
            Fields { flags: index(HandOverOutcome::ALL, outcome), ..at(sequence, 0, 0) }
        }
        Packet::Leave { kind } => Fields { flags: kind, ..Fields::default() },
        Packet::NewUuid { uuid, .. }
        | Packet::NewUuidAck { uuid, .. }
        | Packet::ClearBitmap { uuid, .. } => at(0, uuid, 0),
        Packet::StartResync { sequence, source, marked, .. } => {
            let flags = flag(source, FLAG) | flag(marked, FLAG_MARKED);
            Fields { flags, ..at(sequence, 0, 0) }
        }
        Packet::Adopted { .. }
        | Packet::Opened { .. }
        | Packet::Resize { .. }
        | Packet::ResyncEnd { .. }
        | Packet::ResyncDone { .. }
        | Packet::LeaveAnswer
        | Packet::Ping
        | Packet::PingAck => Fields::default(),
    }
}

fn index<T: PartialEq>(all: &[T], item: T) -> u8 {
    let at = all.iter().position(|x| *x == item);
    at.and_then(|i| u8::try_from(i).ok()).unwrap_or(u8::MAX)
}

/// The header of the next packet.
///
/// # Errors
/// The bytes are not our protocol, or the length is not possible for the type: drop the connection.
pub fn decode_header(bytes: &[u8; HEADER_SIZE]) -> Result<Header, WireError> {
    let u32_at = |i: usize| u32::from_be_bytes([0, 1, 2, 3].map(|j| bytes[i + j]));
    let u64_at = |i: usize| u64::from(u32_at(i)) << 32 | u64::from(u32_at(i + 4));
    let magic = u32_at(0);
    if magic != MAGIC {
        return Err(WireError::Magic(magic));
    }
    if u32_at(28) != crc32fast::hash(&bytes[..28]) {
        return Err(WireError::Crc);
    }
    let kind = Kind::from_number(bytes[4]).ok_or(WireError::Type(bytes[4]))?;
    let length = u32_at(24);
    if !kind.shape().allows(length) {
        return Err(WireError::Length { kind: bytes[4], length });
    }
    Ok(Header {
        kind,
        flags: bytes[5],
        volume: u16::from_be_bytes([bytes[6], bytes[7]]),
        sequence: u64_at(8),
        offset: u64_at(16),
        length,
    })
}

/// The packet of a header and its body ([`Header::body_length`] bytes).
///
/// # Errors
/// A field is out of its range, a field that the type does not use is not 0, or the body does not
/// decode to its last byte: drop the connection.
pub fn decode(header: &Header, body: &[u8]) -> Result<Packet, WireError> {
    let kind = header.kind as u8;
    if body.len() != header.body_length() as usize {
        return Err(WireError::Length { kind, length: u32::try_from(body.len()).unwrap_or(!0) });
    }
    let packet = read(header, body).filter(check).ok_or(WireError::Field(kind))?;
    let fields = fields(&packet, header.body_length());
    let unused_is_zero = fields.flags == header.flags
        && fields.sequence == header.sequence
        && fields.offset == header.offset
        && volume(&packet).unwrap_or(0) == header.volume;
    if unused_is_zero { Ok(packet) } else { Err(WireError::Field(kind)) }
}

/// The packet, with fields that are not checked yet.
fn read(header: &Header, body: &[u8]) -> Option<Packet> {
    let Header { flags, volume, sequence, offset, length, .. } = *header;
    let flag = flags & FLAG != 0;
    Some(match header.kind {
        Kind::Features => Packet::Features(read_features(body)?),
        Kind::Handshake => Packet::Handshake(Box::new(read_bincode::<Handshake>(body)?)),
        Kind::Refused => Packet::Refused(Box::new(read_bincode::<Refused>(body)?)),
        Kind::Challenge => Packet::Challenge {
            algorithm: Algorithm::from_number(flags)?,
            challenge: body.try_into().ok()?,
        },
        Kind::Response => Packet::Response { proofs: body.to_vec() },
        Kind::Bitmap => Packet::Bitmap { volume, first_block: offset, words: read_words(body) },
        Kind::BitmapEnd => Packet::BitmapEnd { volume, bits: offset },
        Kind::Adopted => Packet::Adopted { volume },
        Kind::Opened => Packet::Opened { volume },
        Kind::Number => Packet::Number { volume, number: offset },
        Kind::Data => Packet::Data { volume, sequence, offset, length, fua: flag },
        Kind::Zeroes => {
            let no_hole = flags & FLAG_NO_HOLE != 0;
            let mode = if no_hole { ZeroMode::NoHole } else { ZeroMode::Hole };
            Packet::Zeroes { volume, sequence, offset, length, mode, fua: flag }
        }
        Kind::WriteAck => Packet::WriteAck { volume, sequence },
        Kind::NegAck => Packet::NegAck { volume, sequence },
        Kind::Flush => Packet::Flush { volume, sequence },
        Kind::FlushAck => Packet::FlushAck { volume, sequence, ok: flag },
        Kind::ReadRequest => Packet::ReadRequest { volume, sequence, offset, length },
        Kind::ReadReply => Packet::ReadReply { volume, sequence, length },
        Kind::ReadError => Packet::ReadError { volume, sequence },
        Kind::NoSpace => Packet::NoSpace { volume, sequence },
        Kind::LetGo => Packet::LetGo { volume, sequence },
        Kind::TakeBack => Packet::TakeBack { volume, sequence },
        Kind::TakenBack => Packet::TakenBack { volume, sequence },
        Kind::ResyncRequest => Packet::ResyncRequest { volume, sequence, offset, length },
        Kind::HoleRequest => Packet::HoleRequest { volume, sequence, offset, length },
        Kind::HoleAnswer => {
            let length = u32::try_from(offset).ok()?;
            Packet::HoleAnswer { volume, sequence, length }
        }
        Kind::DigestRequest => {
            let alg = *VerifyAlg::ALL.get(usize::from(flags))?;
            Packet::DigestRequest { volume, sequence, offset, length, alg }
        }
        Kind::DigestAnswer => Packet::DigestAnswer { volume, sequence, digests: body.to_vec() },
        Kind::ResyncData => Packet::ResyncData { volume, sequence, length },
        Kind::ResyncZeroes => Packet::ResyncZeroes { volume, sequence },
        Kind::ResyncError => Packet::ResyncError { volume, sequence },
        Kind::ResyncAck => Packet::ResyncAck { volume, sequence },
        Kind::InSync => Packet::InSync { volume, offset, length: sequence },
        Kind::ResyncEnd => Packet::ResyncEnd { volume },
        Kind::ResyncDone => Packet::ResyncDone { volume },
        Kind::VerifyStart => {
            let alg = *VerifyAlg::ALL.get(usize::from(flags))?;
            Packet::VerifyStart { volume, offset, length: sequence, alg }
        }
        Kind::VerifyAnswer => Packet::VerifyAnswer { volume, code: -i32::from(flags) },
        Kind::VerifyRequest => Packet::VerifyRequest { volume, sequence, offset, length },
        Kind::VerifyDigests => Packet::VerifyDigests { volume, sequence, digests: body.to_vec() },
        Kind::VerifyError => Packet::VerifyError { volume, sequence },
        Kind::VerifyResult => {
            Packet::VerifyResult { volume, sequence, differing: read_words(body) }
        }
        Kind::VerifyEnd => Packet::VerifyEnd { volume, position: offset, done: flag },
        Kind::State => Packet::State {
            volume,
            role: *Role::ALL.get(usize::from(flags >> 4 & !4))?,
            disk: *DiskState::ALL.get(usize::from(flags & 15))?,
            paused: flags & 64 != 0,
        },
        Kind::PromoteRequest => Packet::PromoteRequest { sequence },
        Kind::PromoteAnswer => Packet::PromoteAnswer { sequence, code: -i32::from(flags) },
        Kind::Leave => Packet::Leave { kind: flags },
        Kind::LeaveAnswer => Packet::LeaveAnswer,
        Kind::NewUuid => Packet::NewUuid { volume, uuid: offset },
        Kind::NewUuidAck => Packet::NewUuidAck { volume, uuid: offset },
        Kind::StartResync => {
            let marked = flags & FLAG_MARKED != 0;
            Packet::StartResync { volume, sequence, source: flag, marked }
        }
        Kind::StartResyncAnswer => {
            Packet::StartResyncAnswer { volume, sequence, code: -i32::from(flags) }
        }
        Kind::Sample => {
            let digest = u32::from_be_bytes(body.try_into().ok()?);
            Packet::Sample { volume, sequence, offset, length, digest }
        }
        Kind::SampleAnswer => Packet::SampleAnswer { volume, sequence, equal: flag },
        Kind::ClearBitmap => Packet::ClearBitmap { volume, uuid: offset },
        Kind::Resize => Packet::Resize { volume },
        Kind::ResizeAnswer => {
            let number = i32::from(flags);
            let code = if number < FAILURES { -number } else { number };
            Packet::ResizeAnswer { volume, size: offset, code }
        }
        Kind::HandOver => Packet::HandOver { sequence, cancel: flag },
        Kind::HandOverAnswer => {
            let outcome = *HandOverOutcome::ALL.get(usize::from(flags))?;
            Packet::HandOverAnswer { sequence, outcome }
        }
        Kind::Ping => Packet::Ping,
        Kind::PingAck => Packet::PingAck,
        Kind::Echo => Packet::Echo { sequence, bytes: body.to_vec() },
        Kind::EchoReply => Packet::EchoReply { sequence, bytes: body.to_vec() },
        Kind::Description => Packet::Description(Box::new(read_bincode::<Description>(body)?)),
    })
}

fn read_words(body: &[u8]) -> Vec<u64> {
    let (words, _) = body.as_chunks::<8>();
    words.iter().map(|word| u64::from_be_bytes(*word)).collect()
}

/// What stands behind the role is not looked at: it is the room of later versions.
fn read_features(body: &[u8]) -> Option<Features> {
    let u16_at = |i: usize| Some(u16::from_be_bytes([*body.get(i)?, *body.get(i + 1)?]));
    let features = u32::from(u16_at(4)?) << 16 | u32::from(u16_at(6)?);
    let dialled = match *body.get(10)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let length = usize::from(*body.get(11)?);
    let name = body.get(FEATURES_NAME..FEATURES_NAME + FEATURES_NAME_SIZE)?;
    let resource = std::str::from_utf8(name.get(..length)?).ok()?.to_owned();
    Some(Features {
        version_min: u16_at(0)?,
        version_max: u16_at(2)?,
        features,
        node_id: *body.get(8)?,
        peer_node_id: *body.get(9)?,
        resource,
        dialled,
        primary: *body.get(FEATURES_PRIMARY)? == 1,
        system: *body.get(FEATURES_PRIMARY + 1..)?.first_chunk()?,
    })
}

fn read_bincode<T: bincode::Decode<()>>(body: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(body, body_config()).ok()?;
    (used == body.len()).then_some(value)
}

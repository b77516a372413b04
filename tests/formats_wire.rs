//! The bytes of the peer protocol: golden bytes of every type, round trips, and hostile bytes.

#[path = "formats_wire/limits.rs"]
mod limits;

use proptest::prelude::*;
use tandem::meta::{COUNTER_MAX, HISTORY};
use tandem::resource::{DiskState, PAYLOAD_MAX, Reason, Role, VerifyAlg, ZEROES_MAX};
use tandem::secret::Algorithm;
use tandem::wire::*;

/// A packet of the type, made from numbers: whatever they are, its fields are in their ranges.
/// The match is exhaustive, so that a new type does not compile without a line here.
fn make(kind: Kind, n: [u64; 8], text: &str) -> Packet {
    let volume = (n[0] % 65535) as u16;
    let sequence = n[1];
    let length = (1 + n[3] % u64::from(PAYLOAD_MAX / 4096)) as u32 * 4096;
    let offset = n[2] % (1 << 50) * 4096;
    let flag = n[4].is_multiple_of(2);
    let uuid = n[2] | 1 << 40;
    match kind {
        Kind::Features => Packet::Features(Features {
            version_min: 1 + (n[0] % 100) as u16,
            version_max: 101 + (n[1] % 1000) as u16,
            features: n[2] as u32,
            node_id: (n[3] % 32) as u8,
            peer_node_id: (n[5] % 32) as u8,
            resource: plain_text(&format!("r{text}").replace('/', "_"), 127),
            dialled: flag,
            primary: n[6] % 3 == 1,
            system: (u128::from(n[7]) << 64 | u128::from(n[0])).to_be_bytes(),
        }),
        Kind::Handshake => Packet::Handshake(Box::new(make_handshake(n, text))),
        Kind::Refused => Packet::Refused(Box::new(Refused {
            reason: [Reason::SplitBrain, Reason::None, Reason::ResyncRefused][n[0] as usize % 3],
            rule: "bitmap-both".into(),
            text: plain_text(text, TEXT_MAX),
        })),
        Kind::Challenge => Packet::Challenge {
            algorithm: Algorithm::ALL[(n[0] % 3) as usize],
            challenge: std::array::from_fn(|i| n[i / 4].to_be_bytes()[4 + i % 4]),
        },
        Kind::Response => Packet::Response {
            proofs: (0..[20, 32, 40, 64, 128][(n[0] % 5) as usize])
                .map(|i| n[2].wrapping_mul(i + 1) as u8)
                .collect(),
        },
        Kind::Bitmap => Packet::Bitmap {
            volume,
            first_block: n[1] % (1 << 40) * 64,
            words: (0..1 + n[3] / 17 % 200).map(|i| n[2].wrapping_mul(i + 1)).collect(),
        },
        Kind::BitmapEnd => Packet::BitmapEnd { volume, bits: n[1] % (1 << 40) },
        Kind::Adopted => Packet::Adopted { volume },
        Kind::Opened => Packet::Opened { volume },
        Kind::Number => Packet::Number { volume, number: n[1] % (COUNTER_MAX + 1) },
        Kind::Data => Packet::Data { volume, sequence, offset, length, fua: flag },
        Kind::Zeroes => Packet::Zeroes {
            volume,
            sequence,
            offset,
            length: (1 + n[3] % (ZEROES_MAX / 4096)) as u32 * 4096,
            mode: if n[5].is_multiple_of(2) { ZeroMode::Hole } else { ZeroMode::NoHole },
            fua: flag,
        },
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
        Kind::DigestRequest => {
            let alg = VerifyAlg::ALL[n[5] as usize % 3];
            Packet::DigestRequest { volume, sequence, offset, length, alg }
        }
        Kind::DigestAnswer => Packet::DigestAnswer {
            volume,
            sequence,
            digests: (0..4 * (1 + n[3] % 300 / 40)).map(|i| (n[2] >> (i % 40)) as u8).collect(),
        },
        Kind::HoleAnswer => Packet::HoleAnswer { volume, sequence, length },
        Kind::ResyncData => Packet::ResyncData { volume, sequence, length },
        Kind::ResyncZeroes => Packet::ResyncZeroes { volume, sequence },
        Kind::ResyncError => Packet::ResyncError { volume, sequence },
        Kind::ResyncAck => Packet::ResyncAck { volume, sequence },
        Kind::InSync => Packet::InSync { volume, offset, length: (1 + n[3] % (1 << 48)) * 4096 },
        Kind::ResyncEnd => Packet::ResyncEnd { volume },
        Kind::ResyncDone => Packet::ResyncDone { volume },
        Kind::VerifyStart => Packet::VerifyStart {
            volume,
            offset,
            length: (1 + n[3] % (1 << 48)) * 4096,
            alg: VerifyAlg::ALL[n[5] as usize % 3],
        },
        Kind::VerifyAnswer => Packet::VerifyAnswer { volume, code: -((n[3] % 128) as i32) },
        Kind::VerifyRequest => Packet::VerifyRequest { volume, sequence, offset, length },
        Kind::VerifyDigests => Packet::VerifyDigests {
            volume,
            sequence,
            digests: (0..4 * (1 + n[3] % 300 / 40)).map(|i| (n[2] >> (i % 40)) as u8).collect(),
        },
        Kind::VerifyError => Packet::VerifyError { volume, sequence },
        Kind::VerifyResult => Packet::VerifyResult {
            volume,
            sequence,
            differing: (0..1 + n[3] % 4).map(|i| n[2].wrapping_mul(i + 1)).collect(),
        },
        Kind::VerifyEnd => Packet::VerifyEnd { volume, position: offset, done: flag },
        Kind::State => Packet::State { volume, role: role(n[1]), disk: disk(n[3]), paused: flag },
        Kind::PromoteRequest => Packet::PromoteRequest { sequence },
        Kind::PromoteAnswer => Packet::PromoteAnswer { sequence, code: -((n[3] % 128) as i32) },
        Kind::Leave => Packet::Leave { kind: (n[0] % 3) as u8 },
        Kind::LeaveAnswer => Packet::LeaveAnswer,
        Kind::NewUuid => Packet::NewUuid { volume, uuid },
        Kind::NewUuidAck => Packet::NewUuidAck { volume, uuid },
        Kind::StartResync => {
            let marked = n[5].is_multiple_of(4);
            Packet::StartResync { volume, sequence, source: flag, marked }
        }
        Kind::StartResyncAnswer => {
            Packet::StartResyncAnswer { volume, sequence, code: -((n[3] % 128) as i32) }
        }
        Kind::Sample => {
            Packet::Sample { volume, sequence, offset, length, digest: (n[5] >> 7) as u32 }
        }
        Kind::SampleAnswer => Packet::SampleAnswer { volume, sequence, equal: flag },
        Kind::ClearBitmap => Packet::ClearBitmap { volume, uuid },
        Kind::Resize => Packet::Resize { volume },
        Kind::ResizeAnswer => {
            let number = (n[3] % 256) as i32;
            let code = if number < 100 { -number } else { number };
            Packet::ResizeAnswer { volume, size: offset, code }
        }
        Kind::HandOver => Packet::HandOver { sequence, cancel: flag },
        Kind::HandOverAnswer => {
            let all = HandOverOutcome::ALL;
            Packet::HandOverAnswer { sequence, outcome: all[n[5] as usize % all.len()] }
        }
        Kind::Ping => Packet::Ping,
        Kind::PingAck => Packet::PingAck,
        Kind::Echo => {
            Packet::Echo { sequence, bytes: n[2].to_be_bytes().repeat(1 + n[3] as usize % 4) }
        }
        Kind::EchoReply => Packet::EchoReply { sequence, bytes: n[5].to_be_bytes().to_vec() },
        Kind::Description => Packet::Description(Box::new(Description {
            node: "alice".into(),
            software: plain_text(text, 255),
            must_equal: vec![("protocol".into(), "C".into())],
            should_equal: vec![("timeout".into(), "60".into())],
        })),
    }
}

fn role(n: u64) -> Role {
    if n.is_multiple_of(2) { Role::Secondary } else { Role::Primary }
}

fn disk(n: u64) -> DiskState {
    let known: Vec<_> = DiskState::ALL.iter().filter(|d| **d != DiskState::DUnknown).collect();
    *known[n as usize % known.len()]
}

fn make_handshake(n: [u64; 8], text: &str) -> Handshake {
    let text = plain_text(text, 100);
    Handshake {
        role: role(n[0]),
        window: 4096 + (n[1] % 1_000_000) as u32,
        tie: n[2],
        tentative: n[4].is_multiple_of(2),
        must_equal: vec![("protocol".into(), "C".into())],
        should_equal: (0..n[5] % 4).map(|i| (format!("o{i}"), text.clone())).collect(),
        software: text.clone(),
        volumes: (0..n[6] % 4).map(|i| make_volume(i, n, &text)).collect(),
    }
}

fn make_volume(i: u64, n: [u64; 8], text: &str) -> VolumeInfo {
    let mut history = [0; HISTORY];
    history[(n[1] % 32) as usize] = n[2];
    VolumeInfo {
        volume: (i * 7) as u16,
        disk: disk(n[3].wrapping_add(i)),
        data_size: (1 + n[4] % (1 << 40)) * 4096,
        effective_size: n[5] % (1 << 40) * 4096,
        size_used: n[5].is_multiple_of(2),
        logical_block_size: if n[6].is_multiple_of(2) { 512 } else { 4096 },
        device_uuid: n[7] | 1,
        peer_device_uuid: n[0],
        current_uuid: n[1],
        bitmap_uuid: n[2],
        history,
        flags: n[3] as u32,
        crashed_primary: n[4].is_multiple_of(2),
        bits: n[5] % (1 << 50),
        number: n[6].is_multiple_of(3).then_some(n[6] % (COUNTER_MAX + 1)),
        seen_number: n[7].is_multiple_of(3).then_some(n[7] % (COUNTER_MAX + 1)),
        created_found: text.to_owned(),
        generation_time: n[0],
        alone_time: n[1],
        discard_my_data_for: (i != 1).then_some(n[2]),
        resize_to: n[6] % 3 * (1 + n[4] % (1 << 40)) * 4096,
        assume_clean: n[6] % 3 == 2,
    }
}

fn encode(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(packet, &mut bytes);
    bytes
}

/// All of `bytes` as one packet without its payload.
fn decode_all(bytes: &[u8]) -> Result<Packet, WireError> {
    let (header, body) = bytes.split_first_chunk().expect("a whole header");
    decode(&decode_header(header)?, body)
}

/// Puts the CRC right again after a change in the header.
fn seal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[..28]).to_be_bytes();
    bytes[28..32].copy_from_slice(&crc);
}

/// Hex digits; `00*12` is a run of twelve bytes.
fn unhex(text: &str) -> Vec<u8> {
    let byte = |h: &str| u8::from_str_radix(h, 16).expect("hex");
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if let Some((value, count)) = word.split_once('*') {
            bytes.resize(bytes.len() + count.parse::<usize>().expect("count"), byte(value));
        } else {
            bytes.extend((0..word.len()).step_by(2).map(|i| byte(&word[i..i + 2])));
        }
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const GOLDEN_NUMBERS: [u64; 8] = [
    0x0102,
    0x1112_1314_1516_1718,
    0x0000_0021_2223_2425,
    0x33,
    0x44,
    0x5555_6666,
    0x6061_6263_6465_6667,
    0x7071_7273_7475_7677,
];

/// The bytes of [`make`]`(kind, GOLDEN_NUMBERS, "ö")`. They change with the protocol's version
/// only.
const GOLDEN: &[(&str, &str)] = &[
    (
        "Features",
        "54444d31 0100 0000 0000000000000000 0000000000000000 000000a0 755e90f8 \
         003b02d5222324251306010372c3b6 00*125 01 7071727374757677 0000000000000102 00*3",
    ),
    (
        "Handshake",
        "54444d31 0200 0000 0000000000000000 0000000000000000 000004e6 d6931871 \
         0000000100095d580000002122232425 01000000000000000100000000000000 \
         0870726f746f636f6c00000000000000 01430000000000000002000000000000 \
         00026f300000000000000002c3b60000 0000000000026f310000000000000002 \
         c3b60000000000000002c3b600000000 00000003000000000006000000000004 \
         50000000055556666000010000100070 71727374757677000000000000010211 \
         121314151617180000002122232425 00*195 2122232425 00*59 \
         33010000000055556666000130717273 747576760000000000000002c3b60000 \
         00000000010211121314151617180100 00002122232425000000000004500000 \
         00070000000800000000000450000000 05555666600001000010007071727374 \
         75767700000000000001021112131415 1617180000002122232425 00*195 \
         2122232425 00*59 33010000000055556666000130717273 \
         747576760000000000000002c3b60000 00000000010211121314151617180000 \
         0000000004500000000e000000090000 00000004500000000555566660000100 \
         00100070717273747576770000000000 00010211121314151617180000002122 232425 \
         00*195 2122232425 00*59 33010000000055556666000130717273 \
         747576760000000000000002c3b60000 00000000010211121314151617180100 \
         00002122232425000000000004500000",
    ),
    (
        "Refused",
        "54444d31 0300 0000 0000000000000000 0000000000000000 00000021 36daef41 \
         00000007000000000000000b6269746d 61702d626f74680000000000000002c3 b6",
    ),
    (
        "Challenge",
        "54444d31 0401 0000 0000000000000000 0000000000000000 00000020 ebb60274 \
         00000102151617182223242500000033 00000044555566666465666774757677",
    ),
    (
        "Response",
        "54444d31 0500 0000 0000000000000000 0000000000000000 00000040 bc52ecdf \
         254a6f94b9de03284d7297bce1062b50 759abfe4092e53789dc2e70c31567ba0 \
         c5ea0f34597ea3c8ed12375c81a6cbf0 153a5f84a9cef3183d6287acd1f61b40",
    ),
    (
        "Bitmap",
        "54444d31 0600 0102 0000000000000000 000005054585c600 00000020 8a4e3b6c \
         0000002122232425000000424446484a 0000006366696c6f00000084888c9094",
    ),
    ("BitmapEnd", "54444d31 0700 0102 0000000000000000 0000001415161718 00000000 6f636f5b"),
    ("Adopted", "54444d31 0800 0102 0000000000000000 0000000000000000 00000000 034c0f34"),
    ("Opened", "54444d31 0900 0102 0000000000000000 0000000000000000 00000000 82696a13"),
    ("Number", "54444d31 0a00 0102 0000000000000000 1112131415161718 00000000 f8f34eef"),
    ("Data", "54444d31 1001 0102 1112131415161718 0002122232425000 00034000 5d12f4d7"),
    ("Zeroes", "54444d31 1101 0102 1112131415161718 0002122232425000 00034000 dc3791f0"),
    ("WriteAck", "54444d31 1200 0102 1112131415161718 0000000000000000 00000000 22a759c6"),
    ("NegAck", "54444d31 1300 0102 1112131415161718 0000000000000000 00000000 a3823ce1"),
    ("Flush", "54444d31 1400 0102 1112131415161718 0000000000000000 00000000 929a0b96"),
    ("FlushAck", "54444d31 1501 0102 1112131415161718 0000000000000000 00000000 88cc8465"),
    ("ReadRequest", "54444d31 1600 0102 1112131415161718 0002122232425000 00034000 765c4c53"),
    ("ReadReply", "54444d31 1700 0102 1112131415161718 0000000000000000 00034000 38bb53e2"),
    ("ReadError", "54444d31 1800 0102 1112131415161718 0000000000000000 00000000 2991a977"),
    ("NoSpace", "54444d31 1900 0102 1112131415161718 0000000000000000 00000000 a8b4cc50"),
    ("LetGo", "54444d31 1a00 0102 1112131415161718 0000000000000000 00000000 f0aa6578"),
    ("TakeBack", "54444d31 1b00 0102 1112131415161718 0000000000000000 00000000 718f005f"),
    ("TakenBack", "54444d31 1c00 0102 1112131415161718 0000000000000000 00000000 40973728"),
    ("HoleRequest", "54444d31 1d00 0102 1112131415161718 0002122232425000 00034000 fc4fd9c5"),
    ("HoleAnswer", "54444d31 1e00 0102 1112131415161718 0000000000034000 00000000 a71cebd6"),
    ("DigestRequest", "54444d31 1f02 0102 1112131415161718 0002122232425000 00034000 c8e2c623"),
    ("ResyncRequest", "54444d31 2000 0102 1112131415161718 0002122232425000 00034000 47dc9f44"),
    ("ResyncData", "54444d31 2100 0102 1112131415161718 0000000000000000 00034000 093b80f5"),
    ("ResyncZeroes", "54444d31 2200 0102 1112131415161718 0000000000000000 00000000 a31ad881"),
    ("ResyncError", "54444d31 2300 0102 1112131415161718 0000000000000000 00000000 223fbda6"),
    ("ResyncAck", "54444d31 2400 0102 1112131415161718 0000000000000000 00000000 13278ad1"),
    ("InSync", "54444d31 2500 0102 0000000000034000 0002122232425000 00000000 58b2d196"),
    ("ResyncEnd", "54444d31 2600 0102 0000000000000000 0000000000000000 00000000 9faa9fa0"),
    ("ResyncDone", "54444d31 2700 0102 0000000000000000 0000000000000000 00000000 1e8ffa87"),
    ("VerifyStart", "54444d31 2802 0102 0000000000034000 0002122232425000 00000000 8f0ac5b9"),
    ("VerifyAnswer", "54444d31 2933 0102 0000000000000000 0000000000000000 00000000 09cd2780"),
    ("VerifyRequest", "54444d31 2a00 0102 1112131415161718 0002122232425000 00034000 4cea6ff5"),
    (
        "VerifyDigests",
        "54444d31 2b00 0102 1112131415161718 0000000000000000 00000008 fee9092a \
         2512098442219048",
    ),
    ("VerifyError", "54444d31 2c00 0102 1112131415161718 0000000000000000 00000000 c12ab66f"),
    (
        "VerifyResult",
        "54444d31 2d00 0102 1112131415161718 0000000000000000 00000020 7b61f380 \
         0000002122232425 000000424446484a 0000006366696c6f 00000084888c9094",
    ),
    ("VerifyEnd", "54444d31 2e01 0102 0000000000000000 0002122232425000 00000000 1916335c"),
    (
        "DigestAnswer",
        "54444d31 2f00 0102 1112131415161718 0000000000000000 00000008 97ef9775 \
         2512098442219048",
    ),
    ("State", "54444d31 3056 0102 0000000000000000 0000000000000000 00000000 b98e5fcb"),
    ("PromoteRequest", "54444d31 3100 0000 1112131415161718 0000000000000000 00000000 77836b29"),
    ("PromoteAnswer", "54444d31 3233 0000 1112131415161718 0000000000000000 00000000 5aef71e8"),
    ("Leave", "54444d31 3300 0000 0000000000000000 0000000000000000 00000000 fb0e7e58"),
    ("LeaveAnswer", "54444d31 3400 0000 0000000000000000 0000000000000000 00000000 ca16492f"),
    ("NewUuid", "54444d31 3500 0102 0000000000000000 0000012122232425 00000000 128d1515"),
    ("NewUuidAck", "54444d31 3600 0102 0000000000000000 0000012122232425 00000000 4a93bc3d"),
    ("StartResync", "54444d31 3701 0102 1112131415161718 0000000000000000 00000000 af21b610"),
    (
        "Sample",
        "54444d31 3800 0102 1112131415161718 0002122232425000 00034000 eabadcc7 \
         00aaaacc",
    ),
    ("SampleAnswer", "54444d31 3901 0102 1112131415161718 0000000000000000 00000000 cd11d8fe"),
    ("ClearBitmap", "54444d31 3a00 0102 0000000000000000 0000012122232425 00000000 f1981edc"),
    ("StartResyncAnswer", "54444d31 3b33 0102 1112131415161718 0000000000000000 00000000 fa2b4dcc"),
    ("Resize", "54444d31 3c00 0102 0000000000000000 0000000000000000 00000000 ebf7102c"),
    ("ResizeAnswer", "54444d31 3d33 0102 0000000000000000 0002122232425000 00000000 d062bc74"),
    ("HandOver", "54444d31 3e01 0000 1112131415161718 0000000000000000 00000000 0fe58a34"),
    ("HandOverAnswer", "54444d31 3f03 0000 1112131415161718 0000000000000000 00000000 63563cfa"),
    ("Ping", "54444d31 4000 0000 0000000000000000 0000000000000000 00000000 0471ac82"),
    ("PingAck", "54444d31 4100 0000 0000000000000000 0000000000000000 00000000 8554c9a5"),
    (
        "Echo",
        "54444d31 4200 0000 1112131415161718 0000000000000000 00000020 b392993b \
         00000021222324250000002122232425 00000021222324250000002122232425",
    ),
    (
        "EchoReply",
        "54444d31 4300 0000 1112131415161718 0000000000000000 00000008 070254e6 \
         0000000055556666",
    ),
    (
        "Description",
        "54444d31 4400 0000 0000000000000000 0000000000000000 00000059 7fc0db8d \
         0000000000000005616c696365000000 0000000002c3b6000000000000000100 \
         0000000000000870726f746f636f6c00 00000000000001430000000000000001 \
         000000000000000774696d656f757400 000000000000023630",
    ),
];

#[test]
fn every_type_has_its_golden_bytes() {
    let names: Vec<_> = GOLDEN.iter().map(|(name, _)| *name).collect();
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let mut wrong = String::new();
    for kind in Kind::ALL {
        let packet = make(*kind, GOLDEN_NUMBERS, "\u{f6}");
        assert_eq!(packet.kind(), *kind);
        let bytes = encode(&packet);
        let golden = GOLDEN.iter().find(|(name, _)| *name == kind.name());
        if golden.is_none_or(|(_, golden)| unhex(golden) != bytes) {
            wrong += &format!("    (\"{}\", \"{}\"),\n", kind.name(), hex(&bytes));
        }
        assert_eq!(decode_all(&bytes), Ok(packet));
    }
    assert!(wrong.is_empty(), "other bytes than the golden ones:\n{wrong}");
    assert_eq!(names, kinds);
}

#[test]
fn the_numbers_of_the_types_are_the_documented_ones() {
    let document = include_str!("../docs/PROTOCOL.md");
    for number in 0..=255u8 {
        let Some(kind) = Kind::from_number(number) else { continue };
        assert_eq!(kind as u8, number);
        let row = format!("| {number} | {} |", kind.name());
        assert!(document.contains(&row), "docs/PROTOCOL.md lacks {row}");
    }
}

#[test]
fn features_have_one_size_and_leave_room_for_later_versions() {
    let mut bytes = encode(&make(Kind::Features, GOLDEN_NUMBERS, ""));
    assert_eq!(bytes.len(), HEADER_SIZE + FEATURES_BODY as usize);
    let packet = decode_all(&bytes);
    bytes[HEADER_SIZE + 157..].fill(0xff);
    assert_eq!(decode_all(&bytes), packet, "what a later version adds is not looked at");
}

#[test]
fn the_payload_is_no_part_of_the_body() {
    for kind in Kind::ALL {
        let packet = make(*kind, GOLDEN_NUMBERS, "x");
        let bytes = encode(&packet);
        let header = decode_header(bytes.first_chunk().expect("header")).expect("good");
        assert_eq!(header.kind(), *kind);
        assert_eq!(header.payload_length(), packet.payload_length());
        assert_eq!(header.body_length() as usize, bytes.len() - HEADER_SIZE);
        assert!(header.body_length() <= BODY_MAX);
    }
}

#[test]
fn headers_that_are_not_ours_are_named() {
    let good = encode(&Packet::Ping);
    let refuse = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        decode_all(&bytes).expect_err("must be refused")
    };
    assert_eq!(refuse(&|b| b[0] = b'G'), WireError::Magic(0x4744_4d31));
    assert_eq!(refuse(&|b| b[20] = 1), WireError::Crc);
    let typed = |number| move |b: &mut [u8]| (b[4] = number, seal(b)).1;
    for number in (0..=255).filter(|n| Kind::from_number(*n).is_none()) {
        assert_eq!(refuse(&typed(number)), WireError::Type(number));
    }
    let long = |b: &mut [u8]| (b[27] = 1, seal(b)).1;
    assert_eq!(refuse(&long), WireError::Length { kind: 64, length: 1 });
    for unused in [5, 6, 8, 16] {
        let odd = |b: &mut [u8]| (b[unused] = 1, seal(b)).1;
        assert_eq!(refuse(&odd), WireError::Field(64), "byte {unused}");
    }
}

#[test]
fn lengths_are_bounded_by_the_type_before_anything_is_read() {
    for kind in Kind::ALL {
        let mut bytes = encode(&make(*kind, GOLDEN_NUMBERS, "x"));
        let huge = u32::MAX - 4095;
        bytes[24..28].copy_from_slice(&huge.to_be_bytes());
        seal(&mut bytes);
        let refused = decode_header(bytes.first_chunk().expect("header"));
        assert_eq!(refused, Err(WireError::Length { kind: *kind as u8, length: huge }));
        assert!(!kind.shape().allows(huge));
    }
    assert!(!Kind::Data.shape().allows(0));
    assert!(!Kind::Data.shape().allows(4097));
    assert!(Kind::Data.shape().allows(PAYLOAD_MAX));
    assert!(!Kind::Data.shape().allows(PAYLOAD_MAX + 4096));
    assert!(Kind::Zeroes.shape().allows(ZEROES_MAX as u32));
    assert!(!Kind::Zeroes.shape().allows(ZEROES_MAX as u32 + 4096));
    assert!(Kind::Bitmap.shape().allows(BITMAP_WORDS_MAX as u32 * 8));
    assert!(!Kind::Bitmap.shape().allows(BITMAP_WORDS_MAX as u32 * 8 + 1));
    assert!(!Kind::Bitmap.shape().allows(BITMAP_WORDS_MAX as u32 * 8 + 8));
}

#[test]
fn a_range_that_cannot_be_addressed_is_refused() {
    for kind in
        [Kind::Data, Kind::Zeroes, Kind::ReadRequest, Kind::InSync, Kind::Sample, Kind::VerifyStart]
    {
        for offset in [1, 512, u64::MAX - 4095, i64::MAX as u64 / 4096 * 4096] {
            let mut bytes = encode(&make(kind, GOLDEN_NUMBERS, ""));
            bytes[16..24].copy_from_slice(&offset.to_be_bytes());
            seal(&mut bytes);
            assert_eq!(decode_all(&bytes), Err(WireError::Field(kind as u8)), "{kind:?} {offset}");
        }
    }
}

/// Packets that the codec must not accept, built by changing one field of a good one.
#[test]
fn fields_out_of_range_are_refused() {
    let features = |change: &dyn Fn(&mut Features)| {
        let Packet::Features(mut f) = make(Kind::Features, GOLDEN_NUMBERS, "") else {
            unreachable!()
        };
        change(&mut f);
        assert!(!check(&Packet::Features(f.clone())), "{f:?}");
    };
    features(&|f| f.node_id = 32);
    features(&|f| f.peer_node_id = 255);
    features(&|f| f.version_min = 0);
    features(&|f| f.version_max = 0);
    features(&|f| f.resource = String::new());
    features(&|f| f.resource = "a/b".into());
    features(&|f| f.resource = "a\nb".into());
    features(&|f| f.resource = "r".repeat(128));

    let handshake = |change: &dyn Fn(&mut Handshake)| {
        let Packet::Handshake(mut h) = make(Kind::Handshake, GOLDEN_NUMBERS, "") else {
            unreachable!()
        };
        assert!(h.volumes.len() == 3);
        change(&mut h);
        assert!(!check(&Packet::Handshake(h)));
    };
    handshake(&|h| h.role = Role::Unknown);
    handshake(&|h| h.window = 0);
    handshake(&|h| h.software = "a\x1b[2J".into());
    handshake(&|h| h.must_equal = vec![(String::new(), String::new())]);
    handshake(&|h| h.should_equal = vec![("a".into(), "b".into()); OPTIONS_MAX + 1]);
    handshake(&|h| h.volumes[1].volume = 0);
    handshake(&|h| h.volumes[2].volume = u16::MAX);
    handshake(&|h| h.volumes[0].disk = DiskState::DUnknown);
    handshake(&|h| h.volumes[0].data_size = 4095);
    handshake(&|h| h.volumes[0].effective_size = 1 << 63);
    handshake(&|h| h.volumes[0].logical_block_size = 1024);
    handshake(&|h| h.volumes[0].bits = u64::MAX);
    handshake(&|h| h.volumes[0].number = Some(COUNTER_MAX + 1));
    handshake(&|h| h.volumes[0].seen_number = Some(u64::MAX));
    handshake(&|h| h.volumes[0].created_found = "x".repeat(256));
    handshake(&|h| {
        h.volumes = (0..=VOLUMES_MAX as u16)
            .map(|v| VolumeInfo { volume: v, ..h.volumes[0].clone() })
            .collect();
    });

    assert!(!check(&Packet::Response { proofs: Vec::new() }));
    assert!(!check(&Packet::Response { proofs: vec![0; 129] }));
    assert!(!check(&Packet::Number { volume: 0, number: COUNTER_MAX + 1 }));
    assert!(!check(&Packet::NewUuid { volume: 0, uuid: 0 }));
    assert!(!check(&Packet::ClearBitmap { volume: 0, uuid: 5 }));
    assert!(!check(&Packet::Adopted { volume: u16::MAX }));
    assert!(!check(&Packet::VerifyDigests { volume: 0, sequence: 0, digests: vec![0; 5] }));
    let (volume, sequence, digests) = (0, 0, vec![0; VERIFY_DIGESTS_MAX + 4]);
    assert!(!check(&Packet::VerifyDigests { volume, sequence, digests }));
    assert!(!check(&Packet::VerifyResult { volume, sequence, differing: vec![0; 5] }));
    assert!(!check(&Packet::VerifyEnd { volume, position: 512, done: true }));
    assert!(!check(&Packet::StartResyncAnswer { volume, sequence, code: 1 }));
    assert!(!check(&Packet::Leave { kind: 3 }));
    assert!(!check(&Packet::PromoteAnswer { sequence: 0, code: 1 }));
    let (role, disk) = (Role::Unknown, DiskState::UpToDate);
    assert!(!check(&Packet::State { volume: 0, role, disk, paused: false }));
    assert!(!check(&Packet::Bitmap { volume: 0, first_block: 1, words: vec![0] }));
    assert!(!check(&Packet::Bitmap { volume: 0, first_block: 0, words: vec![] }));
    assert!(!check(&Packet::Bitmap { volume: 0, first_block: !63, words: vec![1] }));
}

#[test]
fn the_largest_handshake_fits_in_a_body() {
    let long = "\u{1f600}".repeat(63);
    let mut handshake = make_handshake(GOLDEN_NUMBERS, "");
    handshake.must_equal = vec![(long.clone(), long.clone()); OPTIONS_MAX];
    handshake.should_equal = handshake.must_equal.clone();
    let volume = VolumeInfo { created_found: long, ..make_volume(0, GOLDEN_NUMBERS, "") };
    handshake.volumes =
        (0..VOLUMES_MAX as u16).map(|v| VolumeInfo { volume: v, ..volume.clone() }).collect();
    let packet = Packet::Handshake(Box::new(handshake));
    let bytes = encode(&packet);
    assert!(bytes.len() <= HEADER_SIZE + BODY_MAX as usize, "{}", bytes.len());
    assert_eq!(decode_all(&bytes), Ok(packet));
}

#[test]
fn a_peculiar_label_never_breaks_a_handshake() {
    let mut handshake = make_handshake(GOLDEN_NUMBERS, "");
    handshake.volumes[0].created_found = format!("ext4 \"a\nb\x07\" {}", "\u{f6}".repeat(200));
    let Ok(Packet::Handshake(got)) = decode_all(&encode(&Packet::Handshake(Box::new(handshake))))
    else {
        panic!("must be accepted")
    };
    assert!(got.volumes[0].created_found.starts_with("ext4 \"a b \" \u{f6}"));
    assert!(got.volumes[0].created_found.len() <= 255);
}

/// A body that claims more than it has does not make the decoder reserve it.
#[test]
fn counts_in_a_body_are_bounded() {
    let bytes = encode(&make(Kind::Handshake, GOLDEN_NUMBERS, "abc"));
    for at in HEADER_SIZE..bytes.len() - 8 {
        for count in [u64::MAX, 1 << 40, 1 << 20, 65_536, 1000] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_be_bytes());
            let _ = decode_all(&bytes);
        }
    }
    for cut in HEADER_SIZE..bytes.len() {
        let mut short = bytes[..cut].to_vec();
        let length = u32::try_from(cut - HEADER_SIZE).expect("small");
        short[24..28].copy_from_slice(&length.to_be_bytes());
        seal(&mut short);
        assert!(decode_all(&short).is_err(), "cut at {cut}");
    }
    let mut long = bytes.clone();
    long.push(0);
    let length = u32::try_from(long.len() - HEADER_SIZE).expect("small");
    long[24..28].copy_from_slice(&length.to_be_bytes());
    seal(&mut long);
    assert_eq!(decode_all(&long), Err(WireError::Field(Kind::Handshake as u8)));
}

fn kinds() -> impl Strategy<Value = Kind> {
    (0..Kind::ALL.len()).prop_map(|i| Kind::ALL[i])
}

proptest! {
    #[test]
    fn packets_survive_the_wire(kind in kinds(), n in any::<[u64; 8]>(), text in ".{0,60}") {
        let packet = make(kind, n, &text);
        prop_assert!(check(&packet));
        prop_assert_eq!(decode_all(&encode(&packet)), Ok(packet));
    }

    #[test]
    fn what_is_decoded_encodes_to_the_same_bytes(
        kind in kinds(),
        n in any::<[u64; 8]>(),
        at in 4usize..400,
        value in any::<u8>(),
    ) {
        let mut bytes = encode(&make(kind, n, "abc"));
        let at = at % bytes.len();
        bytes[at] = value;
        seal(&mut bytes);
        if let Ok(packet) = decode_all(&bytes) {
            let room = kind == Kind::Features && at >= HEADER_SIZE + 12;
            prop_assert!(room || encode(&packet) == bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        header in any::<[u8; 28]>(),
        kind in kinds(),
        body in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        let mut bytes = [0; 32];
        bytes[..28].copy_from_slice(&header);
        let _ = decode_header(&bytes);
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4] = kind as u8;
        let length = u32::try_from(body.len()).expect("small");
        bytes[24..28].copy_from_slice(&length.to_be_bytes());
        seal(&mut bytes);
        if let Ok(header) = decode_header(&bytes) {
            prop_assert!(header.body_length() <= BODY_MAX);
            prop_assert!(header.payload_length() <= PAYLOAD_MAX);
            let _ = decode(&header, &body);
        }
    }
}

//! What a packet may say, up to the last value, and every type by name and not by luck.

use super::*;

/// What a volume of a handshake may say, and what it may not, one field at a time.
#[test]
fn a_volume_is_described_whole_or_refused() {
    let allowed = |change: &dyn Fn(&mut VolumeInfo)| {
        let mut handshake = make_handshake(GOLDEN_NUMBERS, "");
        let volume = &mut handshake.volumes[0];
        (volume.disk, volume.resize_to, volume.assume_clean) = (DiskState::UpToDate, 0, false);
        change(volume);
        check(&Packet::Handshake(Box::new(handshake)))
    };
    assert!(allowed(&|_| ()));
    assert!(!allowed(&|v| v.logical_block_size = 0));
    assert!(!allowed(&|v| v.device_uuid = 0));
    let diskless = |block: u32, device: u64| {
        allowed(&|v| {
            (v.disk, v.logical_block_size, v.device_uuid) = (DiskState::Diskless, block, device);
        })
    };
    assert!(diskless(0, 0) && diskless(512, 1) && !diskless(1024, 0));
    assert!(allowed(&|v| (v.resize_to, v.assume_clean) = (4096, true)));
    assert!(!allowed(&|v| v.assume_clean = true), "of no resize");
}

/// The last value that is allowed, and the one behind it.
#[test]
fn ranges_end_where_they_say() {
    let volume = 1;
    let bitmap =
        |first_block, words| check(&Packet::Bitmap { volume, first_block, words: vec![0; words] });
    let last = (1 << 51) - 64;
    assert!(bitmap(last, 1) && !bitmap(last, 2), "a disk has less than 2^51 blocks");
    assert!(!check(&Packet::VerifyEnd { volume, position: 4097, done: true }));
    let refused = |rule: &str, text: &str| {
        let (rule, text) = (rule.to_owned(), text.to_owned());
        check(&Packet::Refused(Box::new(Refused { reason: Reason::ResyncRefused, rule, text })))
    };
    assert!(refused("r", &"t".repeat(TEXT_MAX)));
    assert!(!refused("", "t") && !refused("r", &"t".repeat(TEXT_MAX + 1)));
    let Packet::Description(good) = make(Kind::Description, GOLDEN_NUMBERS, "a") else {
        unreachable!()
    };
    let long = "x".repeat(256);
    let options = vec![(String::new(), String::new())];
    for bad in [
        Description { node: String::new(), ..*good.clone() },
        Description { software: long, ..*good.clone() },
        Description { must_equal: options.clone(), ..*good.clone() },
        Description { should_equal: options, ..*good.clone() },
    ] {
        assert!(!check(&Packet::Description(Box::new(bad.clone()))), "{bad:?}");
    }
    assert_eq!(plain_text("a\nb\u{f6}c", 5), "a b\u{f6}");
    assert!(!check(&Packet::ResizeAnswer { volume, size: 4097, code: 0 }));
    for longest in [
        Packet::ResizeAnswer { volume, size: 4096, code: 100 },
        Packet::Response { proofs: vec![7; 128] },
        Packet::VerifyDigests { volume, sequence: 1, digests: vec![7; 256 * 64] },
    ] {
        assert_eq!(decode_all(&encode(&longest)), Ok(longest));
    }
}

/// Packets that wait for the socket stand in one buffer.
#[test]
fn packets_are_appended_to_what_is_there() {
    let mut all = Vec::new();
    let mut single = Vec::new();
    for kind in Kind::ALL {
        let packet = make(*kind, GOLDEN_NUMBERS, "abc");
        encode_header(&packet, &mut all);
        single.extend(encode(&packet));
        assert_eq!(packet.volume().unwrap_or(0).to_be_bytes(), encode(&packet)[6..8], "{kind:?}");
    }
    assert_eq!(all, single);
}

/// Not by luck, as below: each type with both values of every flag.
#[test]
fn every_type_survives_the_wire() {
    for kind in Kind::ALL {
        for i in 0..12 {
            let packet = make(*kind, GOLDEN_NUMBERS.map(|n| n.wrapping_add(i)), "abc");
            assert_eq!(decode_all(&encode(&packet)), Ok(packet));
        }
    }
}

//! A row for each rule, then sizes and identifiers. All small states: tests/decision.rs.

use super::*;
use crate::meta::{HISTORY, JUST_CREATED};

/// The UUID that a row calls by a small number; 4 is JUST_CREATED as on the disk.
fn uuid(number: u64) -> u64 {
    match number {
        0 => 0,
        4 => JUST_CREATED,
        n => n << 32,
    }
}

/// A side from words: `c1` current, `b2` bitmap UUID, `h2,3` history, `I` `O` `C` `U` `N` `D` disk
/// (Inconsistent, Outdated, Consistent, UpToDate, Negotiating, Diskless; default U), `P` Primary,
/// `S` SURVIVED, `X` crashed Primary, `+7` seven bits, `n5` number, `s6` number seen of the peer,
/// `d1` device identity, `r2` the peer's as remembered, `inv` invalidated, `ok` flag CONSISTENT,
/// `out` flag OUTDATED, `w` was UpToDate, `m` a verify has set bits, `l` not it alone, `t1` tie,
/// `f` forced while it was blank, `ext4` what create-md has found.
fn side(words: &str, device: u64) -> (VolumeInfo, Role, u64) {
    let mut info = VolumeInfo {
        volume: 0,
        disk: DiskState::UpToDate,
        data_size: 1 << 30,
        effective_size: 1 << 30,
        size_used: true,
        logical_block_size: 512,
        device_uuid: device,
        peer_device_uuid: 0,
        current_uuid: 0,
        bitmap_uuid: 0,
        history: [0; HISTORY],
        flags: 0,
        crashed_primary: false,
        bits: 0,
        number: None,
        seen_number: None,
        created_found: String::new(),
        generation_time: 0,
        alone_time: 0,
        discard_my_data_for: None,
        resize_to: 0,
        assume_clean: false,
    };
    let (mut role, mut tie) = (Role::Secondary, device);
    for word in words.split_whitespace() {
        let (letter, rest) = word.split_at(1);
        let number = rest.parse::<u64>();
        match (letter, number) {
            ("c", Ok(n)) => info.current_uuid = uuid(n),
            ("b", Ok(n)) => info.bitmap_uuid = uuid(n),
            ("h", _) => {
                for (slot, n) in info.history.iter_mut().zip(rest.split(',')) {
                    *slot = uuid(n.parse().expect("a number"));
                }
            }
            ("+", Ok(n)) => info.bits = n,
            ("n", Ok(n)) => info.number = Some(n),
            ("s", Ok(n)) => info.seen_number = Some(n),
            ("d", Ok(n)) => info.device_uuid = n,
            ("r", Ok(n)) => info.peer_device_uuid = n,
            ("t", Ok(n)) => tie = n,
            ("P", _) => role = Role::Primary,
            ("X", _) => info.crashed_primary = true,
            ("S", _) => info.flags |= DeviceFlags::SURVIVED,
            ("m", _) => info.flags |= DeviceFlags::VERIFY_MARKS,
            ("w", _) => info.flags |= DeviceFlags::WAS_UP_TO_DATE,
            ("l", _) => info.flags |= DeviceFlags::LOSS_BITS,
            ("f", _) => info.flags |= DeviceFlags::FORCED_BLANK,
            ("e", _) => info.created_found = word.to_owned(),
            ("i", _) => info.flags |= DeviceFlags::INVALIDATED,
            ("o", _) if rest == "k" => info.flags |= DeviceFlags::CONSISTENT,
            ("o", _) => info.flags |= DeviceFlags::OUTDATED,
            (disk, _) => {
                info.disk = match disk {
                    "I" => DiskState::Inconsistent,
                    "O" => DiskState::Outdated,
                    "C" => DiskState::Consistent,
                    "U" => DiskState::UpToDate,
                    "N" => DiskState::Negotiating,
                    "D" => DiskState::Diskless,
                    other => panic!("what is {other}?"),
                }
            }
        }
    }
    (info, role, tie)
}

fn verdict_of(own: &str, peer: &str) -> Verdict {
    let (own, own_role, own_tie) = side(own, 1);
    let (peer, peer_role, peer_tie) = side(peer, 2);
    let verdict = decide(&own, own_role, own_tie, &peer, peer_role, peer_tie);
    let mirror = decide(&peer, peer_role, peer_tie, &own, own_role, own_tie);
    assert_eq!(mirror, verdict.mirrored());
    verdict
}

/// Own side, peer's side, rule, strategy.
const TABLE: &[(&str, &str, &str, &str)] = &[
    // No disk, no decision; but no client reads into the past.
    ("D", "c1", "diskless", "diskless"),
    ("D", "D", "diskless", "diskless"),
    ("D P c1", "c1", "diskless", "diskless"),
    ("D P c1", "c2 b1", "exposed-data", "refuse"),
    ("D P c1 b2", "c2 b1", "diskless", "diskless"),
    ("D P c1 b2", "c3 b1 h2", "exposed-data", "refuse"),
    ("D P c1", "c3 b2 h1", "exposed-data", "refuse"),
    ("D P c0", "c2", "diskless", "diskless"),
    ("D c1", "c2", "diskless", "diskless"),
    ("D P c2", "c1", "exposed-data", "refuse"),
    ("c1 h3", "D P c2", "exposed-data", "refuse"),
    // Copies.
    ("c1 d7", "c1 d7", "clone", "refuse"),
    ("c4 d7", "c1 d7", "clone", "refuse"),
    // Fresh disks. A fresh disk is not rolled back.
    ("c4 I +9", "c4 I +9", "just-created-both", "no-sync"),
    ("c0 I", "c4 I", "just-created-both", "no-sync"),
    ("c4 I +9", "c1", "just-created-self", "target-set-bitmap"),
    ("c4 I n0", "c1 s9", "just-created-self", "target-set-bitmap"),
    ("c1", "c4 I", "just-created-peer", "source-set-bitmap"),
    // The wrong one of two new disks was forced, alone.
    ("c1 f", "c4 I ext4", "forced-blank-self", "refuse"),
    ("c4 I ext4", "c1 f P", "forced-blank-peer", "refuse"),
    ("c4 I ext4 inv", "c1 f P", "just-created-self", "target-set-bitmap"),
    ("c1 f", "c4 I", "just-created-peer", "source-set-bitmap"),
    ("c1", "c4 I ext4", "just-created-peer", "source-set-bitmap"),
    ("c1 f", "c2 ext4", "unrelated-data", "unrelated-data"),
    // The last Primary's metadata was made anew, perhaps.
    ("c1 C", "c4 I ext4", "unproven-self", "refuse"),
    ("c4 I ext4", "c1 C", "unproven-peer", "refuse"),
    ("c4 I ext4 inv", "c1 C", "just-created-self", "target-set-bitmap"),
    ("c1 C", "c4 I", "just-created-peer", "source-set-bitmap"),
    ("c1 C P", "c4 I ext4", "just-created-peer", "source-set-bitmap"),
    // Set back.
    ("c1 n4 s3", "c1 n3 s5", "rolled-back-self", "refuse"),
    ("c1 n4 s3", "c1 n2 s4", "rolled-back-peer", "refuse"),
    ("c1 n4 s9", "c1 n4 s9", "rolled-back-both", "refuse"),
    ("c1 n4 I inv", "c2 b1 s9", "rolled-back-self", "target-set-bitmap"),
    ("c1 s9", "c1 n4 I inv", "rolled-back-peer", "source-set-bitmap"),
    ("c1 n4 I", "c1 s9", "rolled-back-self", "refuse"),
    ("c1 n4 inv", "c1 s9", "rolled-back-self", "refuse"),
    ("c1 n5", "c1 s5", "both-off", "no-sync"),
    ("c1", "c1 s5", "both-off", "no-sync"),
    ("c1 n1", "c1", "both-off", "no-sync"),
    // A number that was seen of another disk says nothing.
    ("c2 n1", "c1 b2 s9 r7", "bitmap-peer", "target-set-bitmap"),
    // Another disk in its place.
    ("c1", "c1 r7", "replaced-self", "refuse"),
    ("c1 r7", "c1", "replaced-peer", "refuse"),
    ("c1 r7", "c1 r7", "replaced-both", "refuse"),
    ("c1 r2", "c1 r1", "both-off", "no-sync"),
    ("c1 I", "c1 r7", "inconsistent-self", "target-set-bitmap"),
    ("c1 I r7", "c1", "replaced-peer", "refuse"),
    ("c2 b1 r7", "c1", "bitmap-self", "source-set-bitmap"),
    // D1
    ("c1 I", "c1 I", "inconsistent-both", "refuse"),
    ("c1 I", "c1", "inconsistent-self", "target-use-bitmap"),
    ("c1", "c1 I S P", "inconsistent-peer", "source-use-bitmap"),
    ("c1 O", "c1 I", "inconsistent-peer", "source-use-bitmap"),
    // D2
    ("c1 O", "c1 O", "outdated-both", "refuse"),
    ("c1 O", "c1", "outdated-self", "target-use-bitmap"),
    ("c1", "c1 O", "outdated-peer", "source-use-bitmap"),
    ("c1 O S", "c1", "outdated-survivor-self", "refuse"),
    ("c1", "c1 O S", "outdated-survivor-peer", "refuse"),
    ("c1 O S", "c1 S", "outdated-self", "target-use-bitmap"),
    // D3
    ("c1", "c1", "both-off", "no-sync"),
    ("c1 X C", "c1 S", "both-off", "no-sync"),
    ("c1 X P", "c1 X P", "both-off", "no-sync"),
    // Marks of a verify
    ("c1 I +1 m", "c1 I +1 m", "verify-marks", "no-sync"),
    ("c1 I +1 m", "c1 I +1 m l", "inconsistent-both", "refuse"),
    ("c1 I +1 m", "c1 +1 m", "inconsistent-self", "target-use-bitmap"),
    ("c1 +1 m", "c1", "verify-marks", "no-sync"),
    ("c1 S +1 m", "c1 X +1 m", "verify-marks", "no-sync"),
    ("c1 P +1 m", "c1 +1 m", "primary-self", "source-use-bitmap"),
    ("c1 S +1 m", "c1 +1 m l", "survived-self", "source-use-bitmap"),
    ("c1 +1 m", "c1 +1 m l", "equal-bits-peer", "target-use-bitmap"),
    ("c1 +1 m", "c1 +1", "equal-bits-peer", "target-use-bitmap"),
    ("c1 +1 m l", "c1 +1", "verify-marks-tie", "refuse"),
    ("c1 +1", "c1 m l", "equal-bits-self", "source-use-bitmap"),
    // D4
    ("c1 S", "c1 X P +1", "survived-self", "source-use-bitmap"),
    ("c1 X +1", "c1 S", "survived-peer", "target-use-bitmap"),
    // D5
    ("c1 P +1", "c1 P", "both-primary", "split-brain-disconnect"),
    ("c1 P", "c1 X +1", "primary-self", "source-use-bitmap"),
    ("c1 S X +1", "c1 S P", "primary-peer", "target-use-bitmap"),
    // D6, D7
    ("c1 X +1", "c1 +1", "crashed-primary", "source-use-bitmap"),
    ("c1 +1", "c1 X", "crashed-primary", "target-use-bitmap"),
    ("c1 S X", "c1 S +1", "equal-bits-peer", "target-use-bitmap"),
    ("c1 X +1", "c1 X", "equal-bits-self", "source-use-bitmap"),
    ("c1 +1 t9", "c1 +1 t8", "equal-bits-tie", "source-use-bitmap"),
    ("c1 +1 t8", "c1 +1 t9", "equal-bits-tie", "target-use-bitmap"),
    ("c1 +1 t9", "c1 +1 t9", "equal-bits-tie", "target-use-bitmap"),
    // D8
    ("c1", "c2 b1", "bitmap-peer", "target-use-bitmap"),
    ("c2 b1", "c1", "bitmap-self", "source-use-bitmap"),
    ("c1 I", "c2 b1", "bitmap-peer", "target-use-bitmap"),
    ("c2 b1", "c1 b2", "bitmap-crossed", "split-brain-disconnect"),
    ("c2 b1", "c3 b1", "bitmap-both", "split-brain-auto-recover"),
    ("c2 b4", "c3 b4", "unrelated-data", "unrelated-data"),
    ("c1 h3", "c2 h1,3", "history-peer", "target-set-bitmap"),
    ("c2 h1,3", "c1 h3", "history-self", "source-set-bitmap"),
    ("c1 b5", "c2 b3 h1", "history-peer", "target-set-bitmap"),
    ("c1 h3", "c2 h3", "history-both", "split-brain-disconnect"),
    ("c1 b3", "c2 h3", "history-both", "split-brain-disconnect"),
    ("c1 h2", "c2 h1", "history-both", "split-brain-disconnect"),
    ("c1", "c2", "unrelated-data", "unrelated-data"),
    ("c1 h4", "c2 h4", "unrelated-data", "unrelated-data"),
    // Attached while connected: what the metadata says counts.
    ("c1 N", "c1", "inconsistent-self", "target-use-bitmap"),
    ("c1 N ok out", "c1", "outdated-self", "target-use-bitmap"),
    ("c1 N ok", "c1", "both-off", "no-sync"),
];

#[test]
fn the_table() {
    let mut wrong = String::new();
    for (own, peer, rule, strategy) in TABLE {
        let found = verdict_of(own, peer);
        if (found.rule.name(), found.strategy.name()) != (*rule, *strategy) {
            wrong += &format!("{own} / {peer}: {found}, not {strategy} by {rule}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_rule_has_its_row_its_name_and_its_paragraph() {
    let document = include_str!("../../../../docs/GENERATIONS.md");
    for (i, rule) in Rule::ALL.iter().enumerate() {
        assert!(TABLE.iter().any(|row| row.2 == rule.name()), "{rule} has no row");
        assert!(Rule::ALL[..i].iter().all(|other| other.name() != rule.name()));
        assert_eq!(rule.mirrored().mirrored(), *rule);
        assert!(Rule::ALL.contains(&rule.mirrored()));
        assert!(rule.explain().len() > 60 && !rule.explain().contains("  "), "{rule}");
        assert!(document.contains(&format!("`{rule}`")), "docs/GENERATIONS.md lacks {rule}");
    }
}

#[test]
fn the_remark_of_a_uuid_is_no_part_of_it() {
    assert!(same(fresh(77, true), fresh(77, false)));
    assert!(was_primary(fresh(76, true)) && !was_primary(fresh(77, false)));
    for random in [0, 1, 4, 5] {
        assert!(is_real(fresh(random, false)) && is_real(fresh(random, true)), "{random}");
    }
    assert!(is_just_created(JUST_CREATED | 1) && is_empty(1) && !is_empty(JUST_CREATED));
    let (mut own, ..) = side("c1 h2", 1);
    let (mut peer, ..) = side("c2 b1", 2);
    own.current_uuid |= 1;
    let found = decide(&own, Role::Primary, 1, &peer, Role::Secondary, 2);
    assert_eq!(found.to_string(), "uuid_compare()=target-use-bitmap by rule=bitmap-peer");
    peer.bitmap_uuid = own.current_uuid & !1;
    assert_eq!(found, decide(&own, Role::Primary, 1, &peer, Role::Secondary, 2));
}

#[test]
fn the_log_reads_as_drbds() {
    let (own, ..) = side("c2 b1 h3 +7 S", 1);
    let (peer, ..) = side("c1", 2);
    let own = Side { info: &own, role: Role::Primary, tie: 1 };
    let peer = Side { info: &peer, role: Role::Secondary, tie: 2 };
    let found = decide(own.info, own.role, own.tie, peer.info, peer.role, peer.tie);
    let lines = log_lines(&own, &peer, found).join("\n");
    let expected = "drbd_sync_handshake:\n\
        self 0000000200000000:0000000100000000:0000000300000000:0000000000000000 bits:7 flags:8\n\
        peer 0000000100000000:0000000000000000:0000000000000000:0000000000000000 bits:0 flags:0\n\
        uuid_compare()=source-use-bitmap by rule=bitmap-self";
    assert_eq!(lines, expected);
}

#[test]
fn a_refusal_tells_the_peer_why() {
    let refused = verdict_of("c1", "c2").refused().expect("a refusal");
    assert_eq!((refused.reason, refused.rule.as_str()), (Reason::UnrelatedData, "unrelated-data"));
    assert!(refused.text.contains("create-md"));
    assert_eq!(verdict_of("c1", "c1").refused(), None);
    assert_eq!(verdict_of("c2 b1", "c3 b1").refused(), None, "policies are asked first");
}

#[test]
fn a_disk_attached_in_a_session_is_never_the_source() {
    let names = |own, peer| {
        let found = verdict_of(own, peer);
        let restricted = restrict_for_open_session(found, true);
        let seen_by_peer = restrict_for_open_session(found.mirrored(), false);
        assert_eq!(seen_by_peer, restricted.mirrored());
        restricted.strategy.name()
    };
    assert_eq!(names("c1 N ok", "c1"), "target-use-bitmap");
    assert_eq!(names("c1 N ok", "c2 b1"), "target-use-bitmap");
    assert_eq!(names("c4 N", "c1"), "target-set-bitmap");
    assert_eq!(names("c4 N", "c4 I"), "no-sync");
    assert_eq!(names("c2 b1 N ok", "c1"), "refuse");
    assert_eq!(names("c1 N ok S +1", "c1"), "refuse");
    assert_eq!(names("c2 b1 N ok", "c3 b1"), "refuse");
    assert_eq!(names("c1 N ok", "c2"), "unrelated-data");
}

#[test]
fn a_size_in_use_never_shrinks() {
    const G: u64 = 1 << 30;
    let disk = |data_size, effective_size, size_used| {
        let (info, ..) = side("c1", 1);
        let current_uuid = if size_used { info.current_uuid } else { JUST_CREATED };
        VolumeInfo { data_size, effective_size, size_used, current_uuid, ..info }
    };
    let agree = |a: &VolumeInfo, b: &VolumeInfo| {
        let (one, other) = (agree_size(a, b), agree_size(b, a));
        assert_eq!(one, other);
        one.map_err(|refused| refused.text)
    };
    let in_use = disk(9 * G, 8 * G, true);
    assert_eq!(agree(&disk(9 * G, 0, false), &disk(7 * G + 5, 0, false)), Ok(7 * G));
    assert_eq!(agree(&disk(9 * G, 9 * G, false), &disk(7 * G, 7 * G, false)), Ok(7 * G));
    assert_eq!(agree(&in_use, &disk(8 * G, 0, false)), Ok(8 * G));
    assert_eq!(agree(&in_use, &disk(12 * G, 0, false)), Ok(8 * G), "growing is resize");
    assert_eq!(agree(&in_use, &disk(9 * G, 9 * G, true)), Ok(9 * G), "resized while away");
    let text = agree(&in_use, &disk(7 * G, 0, false)).expect_err("too small");
    assert!(text.contains("at least 1073741824 bytes"), "{text}");
    assert!(agree(&disk(100, 0, false), &disk(G, 0, false)).is_err());
    let diskless = VolumeInfo { disk: DiskState::Diskless, ..disk(0, 0, false) };
    assert_eq!(agree(&diskless, &in_use), Ok(8 * G));
    assert_eq!(agree(&diskless, &disk(G, 0, false)), Ok(G));
    assert_eq!(agree(&diskless, &diskless), Ok(0));
}

#[test]
fn a_size_is_in_use_also_where_only_the_disk_says_so() {
    let (info, ..) = side("c1", 1);
    let target = VolumeInfo { size_used: false, ..info.clone() };
    let small = VolumeInfo { current_uuid: JUST_CREATED, data_size: 1 << 29, ..target.clone() };
    assert!(agree_size(&target, &small).is_err(), "it holds a generation of that size");
    let unsized_yet = VolumeInfo { effective_size: 0, ..target };
    assert_eq!(agree_size(&unsized_yet, &small), Ok(1 << 29));
}

#[test]
fn what_a_disk_has_not_had_in_use_grows() {
    const G: u64 = 1 << 30;
    let (info, ..) = side("c1", 1);
    let one = VolumeInfo { data_size: 4 * G, ..info };
    let ordered = VolumeInfo { resize_to: 2 * G, ..one.clone() };
    let both = |a: &VolumeInfo, b: &VolumeInfo| {
        assert_eq!(growth(a, b), growth(b, a));
        growth(a, b)
    };
    let to = |clean| Some(Growth { from: G, to: 2 * G, clean });
    assert_eq!(both(&one, &one), None);
    assert_eq!(both(&ordered, &one), to(false));
    let compared = VolumeInfo { assume_clean: true, ..ordered.clone() };
    assert_eq!(both(&compared, &one), to(true));
    // An order that was cut off between the nodes, and a disk that is not there.
    let grown = VolumeInfo { effective_size: 2 * G, ..one.clone() };
    assert_eq!(both(&one, &grown), to(false));
    assert_eq!(both(&compared, &grown), to(false), "compared for another growth");
    let diskless = VolumeInfo { disk: DiskState::Diskless, effective_size: G / 2, ..one.clone() };
    assert_eq!(both(&ordered, &diskless), to(false));
    let fresh = VolumeInfo { current_uuid: JUST_CREATED, size_used: false, ..diskless };
    let fresh = VolumeInfo { disk: DiskState::Inconsistent, ..fresh };
    assert_eq!(both(&ordered, &fresh), to(false), "only what was in use");
}

#[test]
fn a_growth_has_one_source() {
    // Own and peer, whose disk is being attached, and whether the own blocks are copied.
    let rows = [
        ("c1 P", "c1", (true, false), false),
        ("c1", "c1 P", (false, true), true),
        ("c1 P", "c1 t9", (false, false), true),
        ("c1 t9", "c1 P", (false, false), false),
        ("c1 t9", "c1 t1", (false, false), true),
        ("c1 t1", "c1 t9", (false, false), false),
        ("c1 t9 d1", "c1 t9 d2", (false, false), false),
    ];
    let change: [fn(&mut VolumeInfo); 2] = [|v| v.effective_size *= 2, |v| v.resize_to = 1 << 31];
    for (own, peer, (attaching_own, attaching_peer), expected) in rows {
        let (own, own_role, own_tie) = side(own, 1);
        let (peer, peer_role, peer_tie) = side(peer, 2);
        let grows = |own: &VolumeInfo, peer: &VolumeInfo| {
            let own = Side { info: own, role: own_role, tie: own_tie };
            let peer = Side { info: peer, role: peer_role, tie: peer_tie };
            let (own, peer) = ((&own, attaching_own), (&peer, attaching_peer));
            assert_ne!(grows_from_own(own, peer), grows_from_own(peer, own), "one source");
            grows_from_own(own, peer)
        };
        assert_eq!(grows(&own, &peer), expected);
        // The larger disk, then the one that orders it, go before the tie, and nothing else.
        let by_tie = own_role == peer_role && attaching_own == attaching_peer;
        for change in change {
            let (mut large_own, mut large_peer) = (own.clone(), peer.clone());
            change(&mut large_own);
            change(&mut large_peer);
            assert_eq!(grows(&large_own, &peer), by_tie || expected);
            assert_eq!(grows(&own, &large_peer), !by_tie && expected);
        }
    }
}

#[test]
fn the_larger_logical_block_counts() {
    let (own, ..) = side("c1", 1);
    let peer = VolumeInfo { logical_block_size: 4096, ..own.clone() };
    let diskless = VolumeInfo { logical_block_size: 0, ..own.clone() };
    assert_eq!(agree_block(&own, &peer), 4096);
    assert_eq!(agree_block(&peer, &own), 4096);
    assert_eq!(agree_block(&own, &diskless), 512);
    assert_eq!(agree_block(&diskless, &diskless), 512);
}

#[test]
fn a_whole_disk_is_taken_back_where_the_other_one_is_inconsistent_as_well() {
    use DiskState::{Consistent, Inconsistent, Negotiating, Outdated, UpToDate};
    let rows = [
        ("I inv w", "I inv w", Some(Consistent)),
        ("I inv w S", "I inv w", Some(UpToDate)),
        ("I inv w out S", "I inv w", Some(Outdated)),
        // In mid-resync, or to be repaired.
        ("I inv w", "I", Some(Consistent)),
        ("I inv w", "I m w", Some(Consistent)),
        ("N inv w", "I", Some(Negotiating)),
        ("I inv w ok", "I", Some(Consistent)),
        // It has adopted, or was not given up.
        ("I inv", "I inv w", None),
        ("I w", "I inv w", None),
        ("I", "I", None),
        // The other one is better, or not there.
        ("I inv w", "C", None),
        ("I inv w", "O", None),
        ("I inv w", "D", None),
    ];
    for (own, peer, expected) in rows {
        let (own, ..) = side(&format!("c1 +9 {own}"), 1);
        let (peer, ..) = side(&format!("c1 {peer}"), 2);
        let back = taken_back(&own, &peer);
        assert_eq!(back.as_ref().map(|info| info.disk), expected, "{own:?} {peer:?}");
        let Some(back) = back else { continue };
        assert!(!Side { info: &back, role: Role::Secondary, tie: 0 }.invalidated());
        assert_eq!((back.bits, back.current_uuid), (own.bits, own.current_uuid));
        assert_ne!(back.flags & DeviceFlags::CONSISTENT, 0);
        assert_ne!(own.disk, Consistent);
        assert!(own.disk == Inconsistent || own.disk == Negotiating);
    }
}

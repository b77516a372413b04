//! Golden bytes of every reply, and reads in pieces.

use proptest::prelude::*;

use super::*;
use crate::session::BlockSizes;

const TO: ReplyTo = ReplyTo { cookie: 0x0102_0304_0506_0708, offset: 0x10_0000 };

fn replies(mode: u8) -> Replies {
    Replies::for_session(&SessionParameters {
        export: String::new(),
        structured: mode == 1,
        extended: mode == 2,
        base_allocation: true,
        flags: 0,
        size: 1 << 30,
        client_asked_block_size: false,
        block: BlockSizes::default(),
        device: None,
    })
}

/// What a call writes in each of the three forms, in hexadecimal, blanks ignored.
fn golden(call: impl Fn(&Replies, &mut Vec<u8>), expected: [&str; 3]) {
    for (mode, expected) in expected.into_iter().enumerate() {
        let mut out = Vec::new();
        call(&replies(mode as u8), &mut out);
        let found: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected.split_whitespace().collect::<String>(), "form {mode}");
    }
}

#[test]
fn ok_in_golden_bytes() {
    golden(
        |replies, out| replies.ok(out, TO),
        [
            "67446698 00000000 0102030405060708",
            "668e33ef 0001 0000 0102030405060708 00000000",
            "6e8a278c 0001 0000 0102030405060708 0000000000100000 0000000000000000",
        ],
    );
}

#[test]
fn errors_in_golden_bytes() {
    golden(
        |replies, out| replies.error(out, TO, Errno::ENOSPC, "full"),
        [
            "67446698 0000001c 0102030405060708",
            "668e33ef 0001 8001 0102030405060708 0000000a 0000001c 0004 66756c6c",
            "6e8a278c 0001 8001 0102030405060708 0000000000100000 000000000000000a
             0000001c 0004 66756c6c",
        ],
    );
    golden(
        |replies, out| replies.error_at(out, TO, Errno::EIO, 0x10_0200, "bad"),
        [
            "67446698 00000005 0102030405060708",
            "668e33ef 0001 8002 0102030405060708 00000011 00000005 0003 626164 0000000000100200",
            "6e8a278c 0001 8002 0102030405060708 0000000000100000 0000000000000011
             00000005 0003 626164 0000000000100200",
        ],
    );
}

#[test]
fn a_long_message_is_cut() {
    let mut out = Vec::new();
    replies(1).error(&mut out, TO, Errno::EIO, &"x".repeat(70_000));
    assert_eq!(out.len(), 20 + 6 + 4096);
}

#[test]
fn a_read_in_one_piece_in_golden_bytes() {
    for whole in [false, true] {
        golden(
            |replies, out| {
                let mut read = replies.read(TO, 4096, whole);
                read.data(out, 0x10_0000, 4096).unwrap();
                assert!(read.is_done());
            },
            [
                "67446698 00000000 0102030405060708",
                "668e33ef 0001 0001 0102030405060708 00001008 0000000000100000",
                "6e8a278c 0001 0001 0102030405060708 0000000000100000 0000000000001008
                 0000000000100000",
            ],
        );
    }
}

#[test]
fn structured_pieces_come_in_any_order_and_the_last_is_done() {
    golden(
        |replies, out| {
            let mut read = replies.read(TO, 0x3000, false);
            if read.in_order() {
                return;
            }
            read.data(out, 0x10_2000, 0x1000).unwrap();
            assert_eq!(read.hole(out, 0x10_0000, 0x1000), Ok(0));
            assert_eq!((read.missing(), read.is_done()), (0x1000, false));
            read.data(out, 0x10_1000, 0x1000).unwrap();
        },
        [
            "",
            "668e33ef 0000 0001 0102030405060708 00001008 0000000000102000
             668e33ef 0000 0002 0102030405060708 0000000c 0000000000100000 00001000
             668e33ef 0001 0001 0102030405060708 00001008 0000000000101000",
            "6e8a278c 0000 0001 0102030405060708 0000000000100000 0000000000001008
             0000000000102000
             6e8a278c 0000 0002 0102030405060708 0000000000100000 000000000000000c
             0000000000100000 00001000
             6e8a278c 0001 0001 0102030405060708 0000000000100000 0000000000001008
             0000000000101000",
        ],
    );
}

#[test]
fn in_order_the_first_piece_brings_the_only_header() {
    for (mode, whole) in [(0, false), (0, true), (1, true), (2, true)] {
        let mut read = replies(mode).read(TO, 0x3000, whole);
        let mut out = Vec::new();
        assert!(read.in_order());
        let early = read.data(&mut out, 0x10_1000, 0x1000);
        let expected = 0x10_0000;
        assert_eq!(early, Err(ReplyError::OutOfOrder { offset: 0x10_1000, expected }));
        read.data(&mut out, 0x10_0000, 0x1000).unwrap();
        let header = out.len();
        assert_eq!(header, [16, 28, 40][usize::from(mode)]);
        // A hole in the middle is zeroes from the caller.
        assert_eq!(read.hole(&mut out, 0x10_1000, 0x1000), Ok(0x1000));
        read.data(&mut out, 0x10_2000, 0x1000).unwrap();
        assert_eq!(out.len(), header);
        assert!(read.is_done());
        if mode == 1 {
            assert_eq!(out[4..8], [0, 1, 0, 1], "OFFSET_DATA, done");
            assert_eq!(out[16..20], [0, 0, 0x30, 8], "the length of all pieces");
        }
    }
}

#[test]
fn one_hole_answers_a_whole_read_with_df_but_not_a_simple_one() {
    for (mode, zeroes) in [(0, 4096), (1, 0), (2, 0)] {
        let mut out = Vec::new();
        let mut read = replies(mode).read(TO, 4096, true);
        assert_eq!(read.hole(&mut out, 0x10_0000, 4096), Ok(zeroes));
        assert!(read.is_done());
    }
}

#[test]
fn a_failed_read_ends_with_an_error_or_a_close() {
    for mode in 0..3 {
        for whole in [false, true] {
            let mut out = Vec::new();
            let mut read = replies(mode).read(TO, 0x2000, whole);
            let clean = read.clone().fail(&mut out, Errno::EIO, 0x10_0000, "lost");
            assert_eq!(clean, ReadFailure::Replied);
            assert!(!out.is_empty());

            read.data(&mut out, 0x10_0000, 0x1000).unwrap();
            out.clear();
            let in_order = read.in_order();
            let begun = read.fail(&mut out, Errno::EIO, 0x10_1000, "lost");
            let close = ReadFailure::Close;
            assert_eq!(begun, if in_order { close } else { ReadFailure::Replied });
            assert_eq!(out.is_empty(), in_order);
            if !in_order {
                assert!(read.is_done());
                assert!(read.data(&mut out, 0x10_1000, 0x1000).is_err());
            }
            assert_eq!(read.fail(&mut out, Errno::EIO, 0x10_1000, "again"), close);
        }
    }
}

#[test]
fn a_read_of_nothing_is_a_plain_success() {
    for mode in 0..3 {
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        let mut read = replies(mode).read(TO, 0, false);
        read.empty(&mut out);
        read.empty(&mut out);
        replies(mode).ok(&mut expected, TO);
        assert_eq!((out, read.is_done()), (expected, true));
    }
}

#[test]
fn stray_pieces_are_refused() {
    let mut read = replies(1).read(TO, 0x1000, false);
    for (offset, length) in
        [(0xf_ffff, 1), (0x10_0000, 0x1001), (0x10_0800, 0x801), (u64::MAX, 1), (0x10_0000, 0)]
    {
        let mut out = Vec::new();
        let found = read.data(&mut out, offset, length);
        assert_eq!(found, Err(ReplyError::Stray { offset, length }));
        assert!(read.hole(&mut out, offset, length).is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn block_status_in_golden_bytes() {
    let hole = NBD_STATE_HOLE | NBD_STATE_ZERO;
    let extents = [(0x1000, 0), (0, 3), (0x1000, 0), (0x9000, hole)];
    let extents = extents.map(|(length, flags)| Extent { length, flags });
    golden(
        |replies, out| {
            let found = replies.block_status(out, TO, 0x4000, false, extents);
            let simple = *replies == self::replies(0);
            assert_eq!(found.err(), simple.then_some(ReplyError::NotStructured));
        },
        [
            "",
            "668e33ef 0001 0005 0102030405060708 00000014 00000001
             00002000 00000000 00002000 00000003",
            "6e8a278c 0001 0006 0102030405060708 0000000000100000 0000000000000028
             00000001 00000002
             0000000000002000 0000000000000000 0000000000002000 0000000000000003",
        ],
    );
    golden(
        |replies, out| _ = replies.block_status(out, TO, 0x4000, true, extents),
        [
            "",
            "668e33ef 0001 0005 0102030405060708 0000000c 00000001 00002000 00000000",
            "6e8a278c 0001 0006 0102030405060708 0000000000100000 0000000000000018
             00000001 00000001 0000000000002000 0000000000000000",
        ],
    );
}

#[test]
fn block_status_is_bounded_and_never_empty() {
    let endless = (0_u32..).map(|n| Extent { length: 4096, flags: n & 1 });
    let mut out = Vec::new();
    replies(2).block_status(&mut out, TO, u64::MAX, false, endless).unwrap();
    assert_eq!(out.len(), 32 + 8 + 16 * EXTENT_LIMIT);
    out.clear();
    let nothing = [Extent { length: 0, flags: 3 }];
    let found = replies(1).block_status(&mut out, TO, 4096, false, nothing);
    assert_eq!(found, Err(ReplyError::NoExtent));
    assert!(out.is_empty());
}

proptest! {
    /// However a read is cut, its chunks cover it once and exactly the last is done.
    #[test]
    fn pieces_cover_the_read_once(
        cuts in prop::collection::btree_set(1..10_000_u32, 0..8),
        holes in any::<u16>(),
        mode in 0..3_u8,
        whole in any::<bool>(),
        reverse in any::<bool>(),
    ) {
        let length = 10_000;
        let mut read = replies(mode).read(TO, length, whole);
        let mut edges = vec![0];
        edges.extend(cuts);
        edges.push(length);
        let mut pieces: Vec<(u32, u32)> =
            edges.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect();
        if reverse && !read.in_order() {
            pieces.reverse();
        }
        let last = pieces.len() - 1;
        let mut headers = 0;
        for (index, (start, length)) in pieces.into_iter().enumerate() {
            let mut out = Vec::new();
            let offset = TO.offset + u64::from(start);
            if holes >> index & 1 == 1 {
                read.hole(&mut out, offset, length).unwrap();
            } else {
                read.data(&mut out, offset, length).unwrap();
            }
            headers += usize::from(!out.is_empty());
            prop_assert_eq!(read.is_done(), index == last);
            if mode > 0 && !read.in_order() {
                prop_assert_eq!(out[5] == 1, index == last);
            }
        }
        prop_assert_eq!(headers, if read.in_order() { 1 } else { last + 1 });
    }
}

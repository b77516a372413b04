//! The bytes of the metadata on disk, as docs/ON_DISK.md draws them. A change here is a new layout
//! version: disks that exist must stay readable.

use std::collections::BTreeMap;

use tandem::meta::{
    AlBlock, BitmapPage, BitmapState, DeviceFlags, Geometry, HISTORY, MetaOp, PAGE_WORDS, PeerSlot,
    Placement, SetBlocks, Superblock, VERSION, decode_superblock, encode_superblock, load, stages,
};
use tandem::resource::DiskError;

const DEVICE: u64 = 0x7B6E_C735_A94E_2674;
const DEVICE_LOW: [u8; 4] = [0xA9, 0x4E, 0x26, 0x74];

fn geometry() -> Geometry {
    Geometry::new(Placement::Internal { disk_size: 8 << 20 }, 512, 2, DEVICE).unwrap()
}

/// Pieces one after the other, then zeroes.
fn block(length: usize, pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = pieces.concat();
    bytes.resize(length, 0);
    bytes
}

fn only_write(op: &MetaOp) -> (u64, Vec<u8>) {
    let stages = stages(&geometry(), op);
    assert_eq!(stages.len(), 1);
    let [(offset, bytes)] = stages[0].writes.as_slice() else { panic!("one write") };
    (*offset, bytes.to_vec())
}

fn superblock() -> Superblock {
    let mut history = [0; HISTORY];
    history[0] = 0x4DCE_BC18_6434_281A;
    Superblock {
        sequence: 3,
        device_uuid: DEVICE,
        resource: "r0".into(),
        volume: 7,
        node_id: 1,
        effective_size: 0x40_0000,
        al_block_size: 512,
        data_size: 0x7B_D000,
        current_uuid: 0x5435_911C_ABE7_ED03,
        history,
        flags: DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE | DeviceFlags::SURVIVED,
        number: 41,
        boot_id: std::array::from_fn(|n| n as u8),
        generation_time: 1_795_549_964,
        generation_node: 1,
        created_time: 1_795_549_000,
        created_found: "blank".into(),
        clean_size: 0x7B_D000,
        clean_digest: 0xCAFE_F00D,
        peers: vec![
            PeerSlot {
                node_id: Some(0),
                bitmap_uuid: 0x4DCE_BC18_6434_281A,
                bitmap_state: BitmapState::Pages,
                bitmap_epoch: 9,
                seen_number: 40,
                device_uuid: 0x1122_3344_5566_7788,
            },
            PeerSlot {
                node_id: None,
                bitmap_uuid: 0,
                bitmap_state: BitmapState::AllSet,
                bitmap_epoch: 0,
                seen_number: 0,
                device_uuid: 0,
            },
        ],
    }
}

#[test]
fn places_of_an_internal_layout() {
    let g = geometry();
    assert_eq!(g.data_size, 0x7B_D000);
    assert_eq!((g.bitmap_page_offset(0, 0), g.bitmap_page_offset(1, 0)), (0x7B_D000, 0x7B_E000));
    assert_eq!(g.al_block_offset(0), 0x7B_F000);
    assert_eq!(g.superblocks, [0x7F_F000, 0x7C_0000]);
    assert_eq!((g.seen_offset(0, 0), g.seen_offset(1, 1)), (0x7C_1000, 0x7C_4000));
}

#[test]
fn places_of_an_external_layout() {
    let placement = Placement::External { disk_size: 1 << 30, meta_size: 1 << 20 };
    let g = Geometry::new(placement, 4096, 2, DEVICE).unwrap();
    assert_eq!(g.data_size, 1 << 30);
    assert_eq!(g.superblocks, [0, 0x3_F000]);
    assert_eq!((g.seen_offset(0, 0), g.seen_offset(1, 1)), (0x1000, 0x4000));
    assert_eq!(g.al_block_offset(0), 0x4_0000);
    // 262,144 bits of 4 KiB: 9 pages of 32,512 bits.
    assert_eq!((g.bitmap_page_offset(0, 0), g.bitmap_page_offset(1, 0)), (0x4_1000, 0x4_A000));
    assert_eq!(g.meta_bytes, 0x5_3000);
}

#[test]
fn a_flag_has_its_layout_version_and_one_that_is_not_known_is_refused() {
    // Who adds a flag raises the version: both in this line.
    assert_eq!((VERSION, DeviceFlags::ALL), (3, 0x7FFF));
    let mut block = encode_superblock(&superblock(), 0).to_vec();
    let at = 32 + 8 + 8 + (8 + 2) + 2 + 1 + 8 + 4 + 8 + 8 + 32 * 8;
    assert_eq!(block[at..at + 4], superblock().flags.to_be_bytes());
    for bit in 15..32 {
        let flags = superblock().flags | 1 << bit;
        block[at..at + 4].copy_from_slice(&flags.to_be_bytes());
        let crc = crc32fast::hash(&[&block[..16], &block[20..]].concat());
        block[16..20].copy_from_slice(&crc.to_be_bytes());
        let refused = decode_superblock(&block, 0).expect_err("what it means is not known");
        assert!(refused.to_string().contains("a flag that"), "bit {bit}: {refused}");
    }
}

#[test]
fn bytes_of_the_superblock() {
    let written = stages(&geometry(), &MetaOp::Superblock(Box::new(superblock())));
    let places: Vec<u64> = written.iter().map(|stage| stage.writes[0].0).collect();
    assert_eq!(places, geometry().superblocks, "copy A is durable before copy B is begun");
    for (copy, crc) in [(0u8, 0x9B38_1D45u32), (1, 0x3DA1_0F3B)] {
        let expected = block(
            4096,
            &[
                b"TANDEMSB",
                &[0, 0, 0, 3],
                &[0, 0, 0x01, 0xCA],
                &crc.to_be_bytes(),
                &[0, 0, 0, copy],
                &[0; 8],
                // 32: sequence, device, resource, volume, node
                &[0, 0, 0, 0, 0, 0, 0, 3],
                &DEVICE.to_be_bytes(),
                &[0, 0, 0, 0, 0, 0, 0, 2],
                b"r0",
                &[0, 7],
                &[1],
                // effective size, activity log block, data size
                &[0, 0, 0, 0, 0, 0x40, 0, 0],
                &[0, 0, 2, 0],
                &[0, 0, 0, 0, 0, 0x7B, 0xD0, 0],
                // current, 32 of history
                &0x5435_911C_ABE7_ED03u64.to_be_bytes(),
                &0x4DCE_BC18_6434_281Au64.to_be_bytes(),
                &[0; 31 * 8],
                // flags, number, boot id
                &[0, 0, 0, 0x0B],
                &[0, 0, 0, 0, 0, 0, 0, 41],
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
                // generation: time and node; creation: time and what was found
                &1_795_549_964u64.to_be_bytes(),
                &[1],
                &1_795_549_000u64.to_be_bytes(),
                &[0, 0, 0, 0, 0, 0, 0, 5],
                b"blank",
                // clean end
                &[0, 0, 0, 0, 0, 0x7B, 0xD0, 0],
                &[0xCA, 0xFE, 0xF0, 0x0D],
                // two slots: node, bitmap UUID, state, epoch, seen number, device
                &[0, 0, 0, 0, 0, 0, 0, 2],
                &[1, 0],
                &0x4DCE_BC18_6434_281Au64.to_be_bytes(),
                &[0, 0, 0, 2],
                &[0, 0, 0, 9],
                &[0, 0, 0, 0, 0, 0, 0, 40],
                &0x1122_3344_5566_7788u64.to_be_bytes(),
                &[0],
                &[0; 8],
                &[0, 0, 0, 1],
                &[0; 4 + 8 + 8],
            ],
        );
        let stage = &written[usize::from(copy)];
        assert_eq!(stage.writes[0].1, expected);
        assert_eq!(encode_superblock(&superblock(), copy), expected);
        assert_eq!(decode_superblock(&expected, copy), Ok(superblock()));
    }
}

#[test]
fn bytes_of_an_activity_log_block() {
    let mut words = vec![0; 60];
    words[0] = 5;
    words[59] = 1 << 63;
    let op = MetaOp::ActivityLog { blocks: vec![AlBlock { index: 0, number: 41, words }] };
    let mut expected = block(
        512,
        &[
            b"TdAL",
            &[0x8B, 0x44, 0x0F, 0x96],
            &[0, 0, 0, 0],
            &DEVICE_LOW,
            &[0, 0, 0, 0, 0, 0, 0, 41],
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 5],
        ],
    );
    expected[504] = 0x80;
    assert_eq!(only_write(&op), (0x7B_F000, expected));
}

#[test]
fn bytes_of_a_bitmap_page() {
    let mut words = vec![0; PAGE_WORDS];
    words[0] = 0b1011;
    let pages = vec![BitmapPage { index: 0, words }];
    let expected = block(
        4096,
        &[
            b"TdBM",
            &[0x43, 0xAD, 0x5E, 0xDE],
            &[0, 0, 0, 0],
            &DEVICE_LOW,
            &[0, 0, 0, 9],
            &[0, 0, 0, 1],
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 0x0B],
        ],
    );
    let op = MetaOp::Bitmap { slot: 1, epoch: 9, pages };
    assert_eq!(only_write(&op), (0x7B_E000, expected));
}

#[test]
fn bytes_of_a_seen_number() {
    let expected = block(
        512,
        &[
            b"TdSN",
            &[0x9C, 0x85, 0x86, 0x0D],
            &[0, 0, 0, 1],
            &DEVICE_LOW,
            &[0, 0, 0, 0, 0, 0, 0, 77],
            &[0, 0, 0, 1],
        ],
    );
    let op = MetaOp::SeenNumber { slot: 1, copy: 1, number: 77 };
    assert_eq!(only_write(&op), (0x7C_4000, expected));
}

/// Metadata that was never written but for the superblock: everything may differ, nothing is known.
#[test]
fn zeroes_where_metadata_should_be_count_as_everything_may_differ() {
    let g = geometry();
    let written: BTreeMap<u64, Vec<u8>> = stages(&g, &MetaOp::Superblock(Box::new(superblock())))
        .iter()
        .flat_map(|stage| &stage.writes)
        .map(|(offset, bytes)| (*offset, bytes.to_vec()))
        .collect();
    let mut read = |offset: u64, length: usize| -> Result<Vec<u8>, DiskError> {
        Ok(written.get(&offset).cloned().unwrap_or_else(|| vec![0; length]))
    };
    let meta = load(&g, &mut read, [0; 16]).unwrap();
    assert_eq!(meta.hot_extents, [0, 1]);
    assert_eq!(meta.number, None);
    // Pages have a meaning up to the exported size.
    assert_eq!(meta.slots[0].set, SetBlocks::run(0, superblock().effective_size / 4096));
    assert_eq!(meta.slots[1].set, SetBlocks::run(0, g.blocks()));
    // Its blocks say nothing; what the superblock has seen was seen.
    for (slot, peer) in meta.slots.iter().zip(&meta.superblock.peers) {
        assert_eq!(slot.seen_number, (peer.seen_number > 0).then_some(peer.seen_number));
    }
    assert!(meta.slots.iter().any(|slot| slot.seen_number.is_some()));
    assert_eq!(meta.slots[0].damaged_pages, 1);
    assert_eq!(meta.notes.len(), 2 + 2 * 2);
}

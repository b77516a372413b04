//! The NBD transmission phase with a real daemon: every command with every flag, at the edges of
//! offset and length, in the three forms of replies, while another connection writes.
//!
//! What each row expects is the specification's word (doc/proto.md of the nbd project). A model of
//! the export is kept beside it: what is refused changes nothing, on neither node.

use std::time::Duration;

use nbd::client::{Client, ClientError, Mode};
use nbd::constants::*;
use nbd::{Command, Errno};

use crate::ledger::Ledger;
use crate::load::Load;
use crate::pair::{Node, Pair};

const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];
/// The rows work from here on, the load below.
const START: u64 = 16 << 20;
const MIB_32: u64 = 32 << 20;

const FUA: u16 = NBD_CMD_FLAG_FUA;
const NO_HOLE: u16 = NBD_CMD_FLAG_NO_HOLE;
const DF: u16 = NBD_CMD_FLAG_DF;
const REQ_ONE: u16 = NBD_CMD_FLAG_REQ_ONE;
const FAST_ZERO: u16 = NBD_CMD_FLAG_FAST_ZERO;
const PAYLOAD_LEN: u16 = NBD_CMD_FLAG_PAYLOAD_LEN;
const UNKNOWN_FLAGS: [u16; 3] = [1 << 6, 1 << 9, 1 << 15];

/// The errors in the forms: simple, structured, extended.
type Wants = [Option<Errno>; 3];
const OK: Wants = [None; 3];
const EINVAL: Wants = [Some(Errno::EINVAL); 3];
const ENOSPC: Wants = [Some(Errno::ENOSPC); 3];
/// Not with simple replies.
const CHUNKS_ONLY: Wants = [Some(Errno::EINVAL), None, None];

/// Command, flags, offset, length, and what has to come.
type Row = (Command, u16, u64, u64, Wants);

fn reads(size: u64) -> Vec<Row> {
    let read = |flags, offset, length, wants| (Command::Read, flags, offset, length, wants);
    let too_large = [Some(Errno::EINVAL), Some(Errno::EOVERFLOW), Some(Errno::EOVERFLOW)];
    let mut rows = vec![
        read(0, 0, 0, OK),
        read(0, size, 0, OK),
        read(0, 0, 1, OK),
        read(0, size - 1, 1, OK),
        read(0, size, 1, EINVAL),
        read(0, size - 1, 2, EINVAL),
        read(0, u64::MAX, 1, EINVAL),
        read(0, u64::MAX - 99, 200, EINVAL),
        read(0, 1 << 63, 4096, EINVAL),
        read(0, START + 1, MIB_32, OK),
        read(0, START + 4095, 2, OK),
        read(0, START, MIB_32 + 1, EINVAL),
        read(0, 0, u64::from(u32::MAX), EINVAL),
        read(FUA, START + 511, 1025, OK),
        read(DF, START, 65536, CHUNKS_ONLY),
        read(DF, START + 1, MIB_32, CHUNKS_ONLY),
        read(DF, START, MIB_32 + 1, too_large),
        read(DF | FUA, size - 1, 1, CHUNKS_ONLY),
        read(DF, size, 1, EINVAL),
    ];
    for flag in [NO_HOLE, REQ_ONE, FAST_ZERO, PAYLOAD_LEN].into_iter().chain(UNKNOWN_FLAGS) {
        rows.push(read(flag, START, 4096, EINVAL));
        rows.push(read(flag | FUA, START, 4096, EINVAL));
    }
    rows
}

fn writes(size: u64) -> Vec<Row> {
    let write = |flags, offset, length, wants| (Command::Write, flags, offset, length, wants);
    let mut rows = vec![
        write(0, START, 0, OK),
        write(0, size, 0, OK),
        write(0, START, 1, OK),
        write(0, START + 4095, 2, OK),
        write(0, size - 1, 1, OK),
        write(0, size - 4097, 4097, OK),
        write(FUA, START + 511, 1, OK),
        write(FUA, START + 8192, 4096, OK),
        write(FUA, size - 1, 1, OK),
        write(0, size, 1, ENOSPC),
        write(0, size - 1, 2, ENOSPC),
        write(FUA, u64::MAX, 1, ENOSPC),
        write(0, u64::MAX - 99, 200, ENOSPC),
        write(0, START + 1, MIB_32, OK),
        write(0, START, MIB_32 + 1, EINVAL),
        write(0, START, 2 * MIB_32, EINVAL),
        // With extended headers it belongs there, and the client always sends it.
        write(PAYLOAD_LEN, START, 4096, [Some(Errno::EINVAL), Some(Errno::EINVAL), None]),
    ];
    for flag in [NO_HOLE, DF, REQ_ONE, FAST_ZERO].into_iter().chain(UNKNOWN_FLAGS) {
        rows.push(write(flag, START, 5000, EINVAL));
        rows.push(write(flag | FUA, size, 1, EINVAL));
    }
    rows
}

fn zeroes(size: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for (command, beyond) in [(Command::Trim, EINVAL), (Command::WriteZeroes, ENOSPC)] {
        let mut row = |flags, offset, length, wants| {
            rows.push((command, flags, offset, length, wants));
        };
        row(0, START, 0, OK);
        row(0, size, 0, OK);
        row(0, START + 4095, 2, OK);
        row(0, size - 1, 1, OK);
        row(FUA, START + 1, 70_000, OK);
        row(0, START + (9 << 20), size - START - (9 << 20), OK);
        row(0, size, 1, beyond);
        row(0, size - 1, 2, beyond);
        row(FUA, u64::MAX, 1, beyond);
        row(0, 1, u64::from(u32::MAX), beyond);
        for flag in [DF, REQ_ONE, PAYLOAD_LEN].into_iter().chain(UNKNOWN_FLAGS) {
            row(flag, START, 4096, EINVAL);
        }
    }
    rows.push((Command::Trim, NO_HOLE, START, 4096, EINVAL));
    rows.push((Command::Trim, FAST_ZERO, START, 4096, EINVAL));
    for flags in [NO_HOLE, NO_HOLE | FUA, FAST_ZERO, FAST_ZERO | FUA] {
        rows.push((Command::WriteZeroes, flags, START + (3 << 20) + 5, 1 << 20, OK));
        rows.push((Command::WriteZeroes, flags, size - 1, 2, ENOSPC));
    }
    rows
}

fn others(size: u64) -> Vec<Row> {
    let mut rows = vec![
        (Command::Flush, 0, 0, 0, OK),
        (Command::Flush, FUA, 0, 0, OK),
        (Command::Flush, 0, 1, 0, EINVAL),
        (Command::Flush, 0, 0, 1, EINVAL),
        (Command::Flush, DF, 0, 0, EINVAL),
        (Command::Cache, 0, START, 0, OK),
        (Command::Cache, FUA, 0, size, OK),
        (Command::Cache, 0, size - 1, 1, OK),
        (Command::Cache, 0, size - 1, 2, EINVAL),
        (Command::Cache, 0, u64::MAX, 1, EINVAL),
        (Command::Cache, NO_HOLE, 0, 4096, EINVAL),
        (Command::BlockStatus, 0, 0, size, CHUNKS_ONLY),
        (Command::BlockStatus, REQ_ONE, START + 1, 1, CHUNKS_ONLY),
        (Command::BlockStatus, FUA, size - 1, 1, CHUNKS_ONLY),
        (Command::BlockStatus, 0, 0, 0, EINVAL),
        (Command::BlockStatus, 0, size - 1, 2, EINVAL),
        (Command::BlockStatus, 0, size, 1, EINVAL),
        (Command::BlockStatus, DF, 0, 4096, EINVAL),
        (Command::BlockStatus, PAYLOAD_LEN, 0, 16, EINVAL),
        (Command::Flush, PAYLOAD_LEN, 0, 16, EINVAL),
        (Command::Cache, PAYLOAD_LEN, START, 4096, EINVAL),
    ];
    for code in [8, 9, 77, u16::MAX] {
        let command = Command::Other(code);
        rows.extend([0, FUA, PAYLOAD_LEN, 1 << 15].map(|flags| (command, flags, 0, 512, EINVAL)));
    }
    rows
}

fn open(node: &Node, mode: Mode) -> Client {
    let address = node.nbd_address();
    Client::open(&address, "r0", mode, Duration::from_secs(30)).expect("it serves")
}

/// What the export holds from [`START`] on.
struct Model(Vec<u8>);

impl Model {
    fn set(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset - START).expect("small");
        self.0[at..at + data.len()].copy_from_slice(data);
    }

    fn clear(&mut self, offset: u64, length: u64) {
        let at = usize::try_from(offset - START).expect("small");
        self.0[at..at + usize::try_from(length).expect("small")].fill(0);
    }

    fn at(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(START)?).ok()?;
        self.0.get(at..at + usize::try_from(length).ok()?)
    }

    fn compare(&self, whose: &str, bytes: &[u8]) {
        let at = usize::try_from(START).expect("small");
        assert!(self.0 == bytes[at..at + self.0.len()], "{whose} differ from what was written");
    }
}

fn fill(number: usize, length: u64) -> Vec<u8> {
    let pattern: Vec<u8> = (0..4099).map(|at| ((at + number * 7) % 251) as u8 + 1).collect();
    let length = usize::try_from(length).expect("small");
    let mut data = pattern.repeat(length / pattern.len() + 1);
    data.truncate(length);
    data
}

fn run_row(client: &mut Client, mode: Mode, number: usize, row: &Row, model: &mut Model) {
    let (command, flags, offset, length, wants) = *row;
    let what = format!("{mode:?} row {number}: {command:?} {flags:#x} {offset}+{length}");
    let form = MODES.iter().position(|one| *one == mode).expect("one of them");
    let has_payload =
        command == Command::Write || mode == Mode::Extended && flags & PAYLOAD_LEN != 0;
    let data = if has_payload { fill(number, length) } else { Vec::new() };
    let reply = client
        .send_request(command, flags, offset, length, &data)
        .and_then(|cookie| client.wait(cookie))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = (reply.code != 0).then(|| Errno::from_code(reply.code).expect("a known number"));
    assert_eq!(found, wants[form], "{what}: {}", reply.message);
    assert_eq!(reply.message.is_empty(), found.is_none() || mode == Mode::Simple, "{what}");
    if found.is_some() {
        return;
    }
    match command {
        Command::Write if length > 0 => model.set(offset, &data),
        Command::Trim | Command::WriteZeroes if length > 0 => model.clear(offset, length),
        Command::Read => {
            assert_eq!(reply.data.len() as u64, length, "{what}");
            let known = model.at(offset, length);
            assert!(known.is_none_or(|bytes| bytes == reply.data), "{what}: wrong data");
            let whole = flags & DF == 0 || reply.chunks == 1;
            assert!(whole, "{what}: {} chunks", reply.chunks);
        }
        Command::BlockStatus => {
            let covered: u64 = reply.extents.iter().map(|extent| extent.length).sum();
            assert!(covered > 0 && covered <= length, "{what}: {covered} covered");
            assert!(flags & REQ_ONE == 0 || reply.extents.len() == 1, "{what}");
        }
        _ => {}
    }
}

#[test]
fn every_command_with_every_flag_is_answered_as_the_specification_says() {
    let pair = Pair::in_sync();
    let load = Load::start(pair.alice.client(), Ledger::within(3, 51));
    let size = pair.alice.export_size();
    let mut model = Model(vec![0; usize::try_from(size - START).expect("small")]);
    // Everything is known from the beginning.
    open(&pair.alice, Mode::Simple).write_zeroes(START, size - START, 0).expect("zeroes");
    let rows = [writes(size), reads(size), zeroes(size), others(size)].concat();
    assert!(rows.len() > 100, "{} rows", rows.len());
    for mode in MODES {
        let mut client = open(&pair.alice, mode);
        for (number, row) in rows.iter().enumerate() {
            run_row(&mut client, mode, number, row, &mut model);
        }
        client.flush().expect("a flush");
        client.disconnect().expect("a goodbye");
        wrong_magic_or_too_large_ends_it(&pair.alice, mode);
    }
    load.progress(64);
    let (mut ledger, mut client) = load.stop();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    for node in [&pair.alice, &pair.bob] {
        model.compare(node.name, &node.read_disk(size));
    }
    pair.assert_equal_disks();
}

/// What cannot be followed ends that connection, and no other.
fn wrong_magic_or_too_large_ends_it(node: &Node, mode: Mode) {
    for what in ["magic", "the other header", "too large", "half a header"] {
        let mut client = open(node, mode);
        match what {
            "magic" => client.send_raw(&[0x5a; 32]).expect("it takes bytes"),
            "the other header" => {
                let wrong = match mode {
                    Mode::Extended => NBD_REQUEST_MAGIC,
                    _ => NBD_EXTENDED_REQUEST_MAGIC,
                };
                let mut header = wrong.to_be_bytes().to_vec();
                header.extend_from_slice(&[0; 28]);
                client.send_raw(&header).expect("it takes bytes");
            }
            "too large" => {
                let length = (64 << 20) + 1;
                client.send_request(Command::Write, 0, START, length, &[]).expect("a header");
            }
            _ => {
                client.send_raw(&[0x25, 0x60, 0x95]).expect("it takes bytes");
                let bytes = client.read_raw(0).expect("nothing");
                assert!(bytes.is_empty());
                continue;
            }
        }
        match client.at_end() {
            Ok(ended) => assert!(ended, "{mode:?} {what}: bytes"),
            Err(ClientError::Io(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}");
            }
            Err(error) => panic!("{mode:?} {what}: {error}"),
        }
    }
}

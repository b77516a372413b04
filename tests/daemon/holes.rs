//! Trim and zeroes: space is given back on both nodes or kept on both, as it was asked for, and
//! both read as zeroes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nbd::Errno;
use nbd::client::Client;
use nbd::constants::*;

use crate::disks::Loop;
use crate::pair::Pair;
use crate::plan::Plan;

/// Where it is tried, and how much: whole blocks of any file system.
const OFFSET: u64 = 8 << 20;
const LENGTH: u64 = 8 << 20;
/// What file systems may keep or take for themselves, in 512 bytes.
const SLACK: u64 = 1024;

/// Blocks of 512 bytes that each file takes.
fn used(files: &[PathBuf; 2]) -> [u64; 2] {
    files.each_ref().map(|file| file.metadata().expect("it is there").blocks())
}

fn fill(client: &mut Client) {
    client.write(OFFSET, &[7; LENGTH as usize], 0).expect("a write");
    client.flush().expect("a flush");
}

fn zeroes_on_both(pair: &Pair, client: &mut Client, what: &str) {
    client.flush().expect("a flush");
    let read = client.read(OFFSET, LENGTH as u32).expect("a read");
    assert!(read.iter().all(|byte| *byte == 0), "{what}: not zeroes");
    for node in [&pair.alice, &pair.bob] {
        let disk = node.read_disk(OFFSET + LENGTH);
        let range = &disk[OFFSET as usize..];
        assert!(range.iter().all(|byte| *byte == 0), "{what}: not zeroes on {}", node.name);
    }
}

/// Trim or zeroes with these flags over a range that was written.
fn clear(client: &mut Client, trim: bool, flags: u16) -> Result<(), nbd::client::ClientError> {
    fill(client);
    if trim {
        client.trim(OFFSET, LENGTH, flags)
    } else {
        client.write_zeroes(OFFSET, LENGTH, flags)
    }
}

const FUA: u16 = NBD_CMD_FLAG_FUA;
const NO_HOLE: u16 = NBD_CMD_FLAG_NO_HOLE;
const FAST_ZERO: u16 = NBD_CMD_FLAG_FAST_ZERO;

fn frees_and_keeps(pair: &Pair, files: &[PathBuf; 2]) {
    let mut client = pair.alice.client();
    for (trim, flags) in [(true, 0), (true, FUA), (false, 0), (false, FUA), (false, FAST_ZERO)] {
        let what = format!("trim {trim}, flags {flags:#x}");
        fill(&mut client);
        let before = used(files);
        clear(&mut client, trim, flags).unwrap_or_else(|error| panic!("{what}: {error}"));
        zeroes_on_both(pair, &mut client, &what);
        for (before, after) in before.into_iter().zip(used(files)) {
            let freed = before - after;
            assert!(freed >= LENGTH / 512 - SLACK, "{what}: {freed} blocks freed");
        }
    }
    for flags in [NO_HOLE, NO_HOLE | FUA] {
        fill(&mut client);
        let before = used(files);
        clear(&mut client, false, flags).expect("zeroes");
        let what = format!("NO_HOLE, flags {flags:#x}");
        zeroes_on_both(pair, &mut client, &what);
        for (before, after) in before.into_iter().zip(used(files)) {
            assert!(after + SLACK >= before, "{what}: {before} before, {after} after");
        }
    }
    // Bytes beside the range are as they were.
    fill(&mut client);
    client.trim(OFFSET + 1, LENGTH - 2, 0).expect("a trim");
    let read = client.read(OFFSET, LENGTH as u32).expect("a read");
    assert_eq!((read[0], read[1], read[read.len() - 2], read[read.len() - 1]), (7, 0, 0, 7));
    client.flush().expect("a flush");
    pair.assert_equal_disks();
}

#[test]
fn trim_and_zeroes_free_the_files_of_both_nodes_and_no_hole_keeps_them() {
    let pair = Pair::connected().sync_skipped();
    frees_and_keeps(&pair, &[pair.alice.disk.clone(), pair.bob.disk.clone()]);
}

#[test]
fn trim_and_zeroes_reach_the_discard_of_block_devices() {
    const TEST: &str = "trim_and_zeroes_reach_the_discard_of_block_devices";
    let dir = tempfile::tempdir().expect("a folder");
    let files = ["alice", "bob"].map(|name| dir.path().join(name));
    let Some(one) = Loop::new(TEST, &files[0], "512") else { return };
    let Some(other) = Loop::new(TEST, &files[1], "4096") else { return };
    let pair = Plan::new().disks(&one.0, &other.0).connected().sync_skipped();
    frees_and_keeps(&pair, &files);
}

fn preallocated(dir: &Path) -> Pair {
    let files = ["alice.img", "bob.img"].map(|name| dir.join(name));
    let mut pair = Plan::new().disks(&files[0], &files[1]).blank();
    for node in [&mut pair.alice, &mut pair.bob] {
        node.start();
        node.ok(&["create-md", "--preallocate", "all"]);
        node.ok(&["up", "all"]);
    }
    pair.wait_connected();
    pair.sync_skipped()
}

#[test]
fn a_preallocated_disk_gives_nothing_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let pair = preallocated(dir.path());
    let files = [pair.alice.disk.clone(), pair.bob.disk.clone()];
    let whole = used(&files);
    assert!(whole.iter().all(|blocks| *blocks >= pair.alice.export_size() / 512), "{whole:?}");
    let mut client = pair.alice.client();
    for (trim, flags) in [(true, 0), (false, 0), (false, NO_HOLE), (true, FUA)] {
        clear(&mut client, trim, flags).expect("it is done");
        zeroes_on_both(&pair, &mut client, "preallocated");
        let now = used(&files);
        for (before, after) in whole.into_iter().zip(now) {
            assert!(after + 8 >= before, "trim {trim} {flags:#x}: {whole:?}, then {now:?}");
        }
    }
    // The client chose speed or an error.
    match clear(&mut client, false, FAST_ZERO) {
        Ok(()) => zeroes_on_both(&pair, &mut client, "fast"),
        Err(error) => assert_eq!(error.errno(), Some(Errno::ENOTSUP), "{error}"),
    }
    assert!(used(&files).into_iter().zip(whole).all(|(now, before)| now + 8 >= before));
}

/// What somebody has cut off a file is no hole: who copies by extents would have zeroes there.
#[test]
fn what_was_cut_off_a_backing_file_is_told_as_data() {
    let pair = Pair::in_sync();
    let mut client = pair.alice.client();
    fill(&mut client);
    client.trim(OFFSET + LENGTH, LENGTH, 0).expect("a trim");
    let told = client.block_status(OFFSET, 2 * LENGTH, 0).expect("a status");
    assert!(told.iter().any(|extent| extent.flags != 0), "there is a hole: {told:?}");
    let file = std::fs::File::options().write(true).open(&pair.alice.disk).expect("a disk");
    file.set_len(OFFSET).expect("it is cut");
    let told = client.block_status(OFFSET, 2 * LENGTH, 0).expect("a status");
    assert!(told.iter().all(|extent| extent.flags == 0), "{told:?}");
}

/// tmpfs makes holes, but cannot mark blocks as zero: there zeroes that keep their blocks are written.
#[test]
fn fast_zero_is_refused_where_the_zeroes_would_be_written() {
    let shm = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(shm).expect("a folder");
    let pair = Plan::new()
        .disks(&dir.path().join("alice.img"), &dir.path().join("bob.img"))
        .connected()
        .sync_skipped();
    let mut client = pair.alice.client();
    clear(&mut client, false, FAST_ZERO).expect("a hole");
    zeroes_on_both(&pair, &mut client, "fast");
    clear(&mut client, false, NO_HOLE).expect("zeroes");
    zeroes_on_both(&pair, &mut client, "kept");
    let error = clear(&mut client, false, FAST_ZERO | NO_HOLE).expect_err("that is not fast");
    assert_eq!(error.errno(), Some(Errno::ENOTSUP), "{error}");
    let read = client.read(OFFSET, LENGTH as u32).expect("a read");
    assert!(read.iter().all(|byte| *byte == 7), "refused, nothing changed");
    clear(&mut client, false, FAST_ZERO).expect("a hole");
}

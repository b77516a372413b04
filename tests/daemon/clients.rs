//! The export as clients see it: any byte, trim, zeroes, large requests, and other people's tools.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nbd::constants::NBD_CMD_FLAG_NO_HOLE;

use crate::pair::{Pair, run, text};
use crate::plan::Plan;

/// A file that stands for the export, and random pieces of it.
struct Model {
    bytes: Vec<u8>,
    state: u64,
}

impl Model {
    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    /// A range of up to `longest` bytes.
    fn range(&mut self, longest: u64) -> (u64, u64) {
        let length = 1 + self.random(longest);
        (self.random(self.bytes.len() as u64 - length), length)
    }

    fn compare(&self, what: &str, bytes: &[u8]) {
        let differs = |at: &usize| self.bytes[*at] != bytes[*at];
        let wrong: Vec<usize> = (0..self.bytes.len()).filter(differs).collect();
        assert!(
            wrong.is_empty(),
            "{what}: {} bytes are wrong, {:?} to {:?}",
            wrong.len(),
            wrong.first(),
            wrong.last()
        );
    }

    fn set(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).expect("a small model");
        self.bytes[start..start + data.len()].copy_from_slice(data);
    }
}

#[test]
fn every_byte_can_be_written_trimmed_and_zeroed_and_both_disks_agree() {
    let pair = Pair::in_sync();
    let mut client = pair.alice.client();
    // A corner of the export, so that pieces overlap and share blocks.
    let mut model = Model { bytes: vec![0; 3 << 20], state: 15 };
    for round in 0..600 {
        match round % 6 {
            0 => {
                let (offset, length) = model.range(200_000);
                client.write_zeroes(offset, length, 0).expect("zeroes");
                model.set(offset, &vec![0; usize::try_from(length).expect("it fits")]);
            }
            1 => {
                let (offset, length) = model.range(5000);
                let length32 = u32::try_from(length).expect("it fits");
                let read = client.read(offset, length32).expect("a read");
                let start = usize::try_from(offset).expect("it fits");
                assert!(read == model.bytes[start..start + read.len()], "round {round}");
            }
            _ => {
                let (offset, length) = model.range(9000);
                let byte = (round % 251) as u8 + 1;
                let data = vec![byte; usize::try_from(length).expect("it fits")];
                client.write(offset, &data, 0).expect("a write");
                model.set(offset, &data);
            }
        }
    }
    client.flush().expect("a flush");
    pair.assert_equal_disks();
    model.compare("the peer's disk", &pair.bob.read_disk(3 << 20));
    model.compare("the export", &client.read(0, 3 << 20).expect("a read"));
}

#[test]
fn trim_frees_the_space_of_both_disks_and_reads_as_zeroes() {
    let pair = Pair::in_sync();
    let mut client = pair.alice.client();
    let piece = vec![7; 8 << 20];
    client.write(0, &piece, 0).expect("8 MiB in one request");
    client.flush().expect("a flush");
    let used = |pair: &Pair| {
        [&pair.alice, &pair.bob].map(|node| node.disk.metadata().expect("it is there").blocks())
    };
    let before = used(&pair);
    client.trim(0, 8 << 20, 0).expect("a trim");
    client.flush().expect("a flush");
    let zeroes = client.read(0, 8 << 20).expect("a read");
    assert!(zeroes.iter().all(|byte| *byte == 0));
    let after = used(&pair);
    for (before, after) in before.iter().zip(after) {
        // 512 bytes each; file systems may keep a few.
        assert!(before - after > 15_000, "{before} blocks before, {after} after");
    }
    pair.assert_equal_disks();
}

#[test]
fn zeroes_free_the_space_of_both_disks_unless_the_blocks_must_stay() {
    let pair = Plan::new().calm().in_sync();
    let mut client = pair.alice.client();
    let used = |pair: &Pair| {
        [&pair.alice, &pair.bob].map(|node| node.disk.metadata().expect("it is there").blocks())
    };
    for (flags, frees) in [(NBD_CMD_FLAG_NO_HOLE, false), (0, true)] {
        client.write(0, &vec![7; 8 << 20], 0).expect("8 MiB in one request");
        client.flush().expect("a flush");
        let before = used(&pair);
        client.write_zeroes(0, 8 << 20, flags).expect("zeroes");
        client.flush().expect("a flush");
        let zeroes = client.read(0, 8 << 20).expect("a read");
        assert!(zeroes.iter().all(|byte| *byte == 0));
        for (before, after) in before.iter().zip(used(&pair)) {
            // 512 bytes each; file systems may keep, or need, a few.
            let freed = before.saturating_sub(after);
            assert!(if frees { freed > 15_000 } else { freed < 1000 }, "{before} then {after}");
        }
        pair.assert_equal_disks();
    }
}

#[test]
fn clients_are_named_and_a_second_one_is_told_or_refused() {
    let pair = Plan::new().sections("options { nbd-clients shared; }").in_sync();
    let alice = &pair.alice;
    let socket = alice.run_dir.join("nbd.sock");
    let uri = format!("nbd+unix:///r0?socket={}", text(&socket));
    let _client = alice.client();
    let _same = alice.client_of("r0/0");
    let own = format!("pid {} uid {}", std::process::id(), nix::unistd::getuid());
    let status = alice.status();
    let openers = status["devices"][0]["openers"].as_array().expect("a list");
    assert_eq!(openers.len(), 2, "{openers:?}");
    for one in openers {
        assert!(one["client"].as_str().is_some_and(|name| name.ends_with(&own)), "{one}");
        assert_eq!(one["export"], "r0/0");
        assert!(one["since"].as_u64().is_some_and(|since| since > 1_700_000_000), "{one}");
    }
    let why = alice.ok(&["why", "r0"]);
    assert!(why.contains(&format!("{own} (2 connections) since ")), "{why}");
    assert!(!alice.log_text().contains("has opened it for writing too"), "one identity");

    let write = || run(Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &uri]));
    let said = write();
    assert_eq!(said.code, 0, "{said:?}");
    let log = alice.log_text();
    assert_eq!(log.matches("has opened it for writing too").count(), 1, "{log}");

    // In force for who comes now; who is in stays.
    alice.ok(&["resource-options", "--nbd-clients=exclusive", "r0"]);
    let said = write();
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("nbd-clients is exclusive"), "{said:?}");
    let _third = alice.client();
    assert_eq!(alice.status()["devices"][0]["openers"].as_array().map(Vec::len), Some(3));
    let said = alice.ok(&["-d", "adjust", "r0"]);
    assert_eq!(said, "drbdsetup resource-options r0 --nbd-clients=shared\n");
}

#[test]
fn the_usual_tools_use_the_export() {
    let pair = Pair::in_sync();
    let socket = pair.alice.run_dir.join("nbd.sock");
    let uri = format!("nbd+unix:///r0?socket={}", text(&socket));

    let said = run(Command::new("nbdinfo").args(["--json", &uri]));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains(&format!("\"export-size\": {}", pair.alice.export_size())));

    let mut fio = Command::new("fio");
    // It leaves a file of its own where it runs.
    fio.current_dir(pair.dir.path());
    fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=32"]);
    fio.args(["--size=16M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    let said = run(fio.arg(format!("--uri={uri}")));
    assert_eq!(said.code, 0, "{said:?}");

    let out = pair.dir.path().join("out.img");
    let said = run(Command::new("nbdcopy").args([&uri, text(&out)]));
    assert_eq!(said.code, 0, "{said:?}");
    let copied = std::fs::read(&out).expect("nbdcopy made it");
    assert!(copied == pair.alice.read_disk(pair.alice.export_size()), "a faithful copy");
    let said = run(Command::new("nbdcopy").args(["--flush", text(&out), &uri]));
    assert_eq!(said.code, 0, "{said:?}");
    pair.assert_equal_disks();
}

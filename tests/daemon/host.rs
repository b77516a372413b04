//! What the daemon takes of its host: direct I/O, memory, and how often it knocks at the peer.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nbd::Command;

use crate::ledger::{Burst, Ledger};
use crate::pair::Node;
use crate::plan::Plan;
use crate::qsd::Rig;
use crate::wait::until;

/// The flags of each descriptor that a daemon has of its disk.
fn flags_of_disk(node: &Node) -> Vec<i32> {
    let process = format!("/proc/{}", node.daemon.as_ref().expect("it runs").id());
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("{process}/fd")).expect("it is ours").flatten() {
        if fs::read_link(entry.path()).is_ok_and(|path| path == node.disk) {
            let info = Path::new(&process).join("fdinfo").join(entry.file_name());
            let text = fs::read_to_string(info).expect("it is open");
            let line = text.lines().find_map(|line| line.strip_prefix("flags:"));
            all.push(i32::from_str_radix(line.expect("flags").trim(), 8).expect("octal"));
        }
    }
    all
}

fn is_direct_where_it_can_be(dir: &Path) {
    let dir = tempfile::tempdir_in(dir).expect("a folder");
    let probe = dir.path().join("probe");
    fs::write(&probe, "").expect("a file");
    let can = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&probe).is_ok();
    let disks = ["alice.img", "bob.img"].map(|name| dir.path().join(name));
    let pair = Plan::new().disks(&disks[0], &disks[1]).connected().sync_skipped();
    let mut client = pair.alice.client();
    assert!(Ledger::seeded(80).write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");
    for node in [&pair.alice, &pair.bob] {
        let flags = flags_of_disk(node);
        assert!(!flags.is_empty(), "{} has its disk open", node.name);
        let direct = flags.iter().any(|flags| flags & libc::O_DIRECT != 0);
        assert_eq!(direct, can, "{}: {flags:?} on {}", node.name, dir.path().display());
        if nix::unistd::geteuid().is_root() {
            assert!(kib(node, "VmLck:") > 1000, "{}: its memory is locked", node.name);
        }
    }
    pair.assert_equal_disks();
}

#[test]
fn disks_are_opened_for_direct_io_where_the_file_system_can() {
    is_direct_where_it_can_be(&std::env::temp_dir());
    is_direct_where_it_can_be(Path::new("/dev/shm"));
}

/// Starts anew what [`peak_kib`] tells.
fn forget_peak(node: &Node) {
    let id = node.daemon.as_ref().expect("it runs").id();
    fs::write(format!("/proc/{id}/clear_refs"), "5").expect("it is ours");
}

/// The most memory that a daemon had, KiB.
fn peak_kib(node: &Node) -> u64 {
    kib(node, "VmHWM:")
}

fn kib(node: &Node, what: &str) -> u64 {
    let id = node.daemon.as_ref().expect("it runs").id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it is ours");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("a number");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// 128 writes of 1 MiB are asked for at once, and the peer's disk takes 8 MiB a second.
#[test]
fn a_slow_peer_does_not_cost_memory_and_max_buffers_bounds_what_it_has() {
    const TEST: &str = "a_slow_peer_does_not_cost_memory";
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mut rig) = Rig::new(TEST, dir.path(), "rig") else { return };
    let plan = Plan::new().disks(&dir.path().join("alice.img"), &rig.device);
    // 4 MiB.
    let pair = plan.net("max-buffers 1024;").connected().sync_skipped();
    let mut client = pair.alice.client();
    client.write(0, &vec![1; MIB as usize], 0).expect("a write");
    let nodes = [&pair.alice, &pair.bob];
    let before = nodes.map(|node| {
        forget_peak(node);
        peak_kib(node)
    });
    rig.pace(8 << 20);
    let address = pair.alice.nbd_address();
    let started = Instant::now();
    std::thread::scope(|scope| {
        // The socket takes far less than is sent: each client stands still in the middle.
        for number in 0..8 {
            let address = &address;
            scope.spawn(move || {
                let mode = nbd::client::Mode::Structured;
                let mut client =
                    nbd::client::Client::open(address, "r0", mode, Duration::from_secs(60))
                        .expect("it serves");
                let piece = vec![number as u8 + 1; MIB as usize];
                for n in 0..16 {
                    let offset = (number * 7 + n % 7) * MIB;
                    client.send_request(Command::Write, 0, offset, MIB, &piece).expect("sent");
                }
                for _ in 0..16 {
                    client.read_reply().expect("a reply").ok().expect("no error");
                }
            });
        }
        until("much has been asked for", || (pair.alice.peer_kib("sent") > 8 << 10).then_some(()));
        rig.pace(0);
    });
    assert!(started.elapsed() > Duration::from_millis(500), "the peer was slow");
    let grown = |n: usize| peak_kib(nodes[n]).saturating_sub(before[n]);
    let (own, peer) = (grown(0), grown(1));
    assert!(own < 48 << 10, "alice has taken {own} KiB of the 131,072 asked for");
    assert!(peer < 16 << 10, "bob has taken {peer} KiB; max-buffers is 4,096");
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

/// The test listens where the peer should, and hangs up.
#[test]
fn the_peer_is_dialled_less_and_less_often_up_to_connect_int() {
    let mut pair = Plan::new().net("connect-int 2;").blank();
    let port = TcpListener::bind(("127.0.0.1", pair.bob.port)).expect("the peer's port");
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    pair.alice.ok(&["up", "r0"]);
    let mut times = Vec::new();
    while times.len() < 8 {
        let (socket, _) = port.accept().expect("it dials");
        times.push(Instant::now());
        drop(socket);
    }
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let ceiling = Duration::from_millis(2000);
    // What a busy machine adds.
    let late = Duration::from_millis(600);
    assert!(pauses.iter().all(|pause| *pause <= ceiling + late), "{pauses:?}");
    assert!(pauses[0] < Duration::from_millis(600) + late, "{pauses:?}");
    let last = pauses[pauses.len() - 1];
    assert!(last >= Duration::from_millis(1500), "it has grown: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(300)), "{pauses:?}");
    // The peer itself is met all the same.
    drop(port);
    pair.bob.start();
    pair.bob.ok(&["create-md", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.wait_connected();
}

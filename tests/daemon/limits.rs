//! A host that gives too little: no io_uring, no descriptors, nowhere to log.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::ledger::{Burst, Ledger};
use crate::namespace::skip;
use crate::pair::{Node, Pair, Said, run, text};
use crate::wait::until;

/// Runs a program with io_uring_setup refused by a seccomp filter: the errno, then the program.
const WITHOUT_IO_URING: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def prctl(*arguments):
    if libc.prctl(*arguments) != 0:
        sys.exit('prctl: ' + os.strerror(ctypes.get_errno()))
# Load the number of the system call; io_uring_setup is 425 everywhere: then the errno.
filter = b''.join(struct.pack('HBBI', *one) for one in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x50000 | int(sys.argv[1])),
    (0x06, 0, 0, 0x7fff0000)])
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]
prctl(38, 1, 0, 0, 0)
prctl(22, 2, ctypes.byref(Program(4, filter)), 0, 0)
os.execv(sys.argv[2], sys.argv[2:])
";

fn without_io_uring(node: &Node, errno: i32) -> Said {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_IO_URING, &errno.to_string(), env!("CARGO_BIN_EXE_tandemd")]);
    command.args(["--node", node.name, "--run-dir", text(&node.run_dir)]);
    run(command.arg("-c").arg(&node.config))
}

#[test]
fn forbidden_io_uring_is_refused_at_start_with_the_cause_and_the_cure() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("forbidden_io_uring", "python3 is not installed");
    }
    let pair = Pair::blank();
    for (errno, cause) in [(1, "forbids io_uring"), (38, "has no io_uring")] {
        let said = without_io_uring(&pair.alice, errno);
        assert_eq!(said.code, 20, "{said:?}");
        assert!(said.stderr.contains(cause), "{said:?}");
        assert!(said.stderr.contains("allow io_uring_setup"), "{said:?}");
        assert!(!pair.alice.run_dir.join("control.sock").exists(), "nothing was begun");
    }
}

#[test]
fn a_limit_of_descriptors_that_is_too_low_is_refused_at_start_with_the_cure() {
    let pair = Pair::blank();
    for limit in [6, 9, 20] {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_tandemd"), "--node", "alice"]);
        let said = run(command.args(["--run-dir", text(&pair.alice.run_dir)]));
        assert_eq!(said.code, 20, "{said:?}");
        assert!(said.stderr.contains("LimitNOFILE"), "{said:?}");
    }
}

/// The daemon is started by a shell that runs `script` with the daemon's command line as `$@`.
fn behind(node: &mut Node, script: &str) {
    node.enter = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
}

/// What is written is on both disks, and the peer was never lost.
fn replication_goes_on(pair: &Pair, client: &mut nbd::client::Client, ledger: &mut Ledger) {
    assert!(ledger.write(client, &Burst::Count(300)));
    client.flush().expect("a flush");
    ledger.check(client);
    ledger.check_blocks(&pair.bob.read_disk(client.size()));
    let losses = pair.bob.log_text().matches("conn( Connected -> ").count();
    assert_eq!(losses, 0, "the connection was lost");
}

#[test]
fn out_of_descriptors_new_clients_wait_and_replication_goes_on() {
    let mut pair = Pair::blank();
    behind(&mut pair.alice, "ulimit -n 64; exec \"$@\"");
    let pair = pair.bring_up().sync_from_alice();
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(21);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    // Fewer than there are places, but each takes descriptors.
    let socket = pair.alice.run_dir.join("nbd.sock");
    let crowd: Vec<UnixStream> =
        (0..60).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    until("the lack is logged", || {
        pair.alice.log_text().contains("Too many open files").then_some(())
    });
    replication_goes_on(&pair, &mut client, &mut ledger);
    // Descriptors are kept for whoever looks what is wrong.
    for _ in 0..3 {
        let said = pair.alice.adm(&["--cmd-timeout", "3", "status", "r0"]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    drop(crowd);
    // Everything is there again.
    until("a new client is served", || pair.alice.try_client().ok());
    assert_eq!(pair.alice.connection()["connection-state"], "Connected");
    replication_goes_on(&pair, &mut client, &mut ledger);
}

#[test]
fn a_peer_that_comes_back_while_descriptors_are_out_is_met_and_synced() {
    let mut pair = Pair::blank();
    behind(&mut pair.alice, "ulimit -n 64; exec \"$@\"");
    let mut pair = pair.bring_up().sync_skipped();
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(25);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    pair.bob.kill();
    let socket = pair.alice.run_dir.join("nbd.sock");
    let crowd: Vec<UnixStream> =
        (0..60).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    until("the lack is logged", || {
        pair.alice.log_text().contains("Too many open files").then_some(())
    });
    assert!(ledger.write(&mut client, &Burst::Count(100)), "alone");
    pair.bob.start_up();
    // tandemadm needs a descriptor of alice's, too: bob is asked.
    let met = || pair.bob.connection()["connection-state"] == "Connected";
    until("they meet", || met().then_some(()));
    drop(crowd);
    pair.wait_synced();
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

/// A pair whose alice logs where the shell's words say, under writes, with a peer that goes and
/// comes back, to a clean end.
fn works_without_a_log(redirection: &str) {
    let mut pair = Pair::blank();
    behind(&mut pair.alice, &format!("exec \"$@\" {redirection}"));
    let mut pair = pair.bring_up().sync_from_alice();
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(22);
    replication_goes_on(&pair, &mut client, &mut ledger);
    // Much to say.
    pair.bob.kill();
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    pair.bob.start_up();
    pair.wait_synced();
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.disconnect().expect("a goodbye");
    pair.assert_equal_disks();
    assert!(pair.alice.terminate().success());
    ledger.check_blocks(&pair.bob.read_disk(crate::pair::DISK_SIZE));
}

#[test]
fn a_closed_standard_error_does_not_stop_replication() {
    works_without_a_log("2>&-");
}

#[test]
fn a_full_log_disk_does_not_stop_replication() {
    works_without_a_log("2>/dev/full");
}

#[test]
fn a_full_disk_of_recordings_ends_the_recording_alone() {
    let mut pair = Pair::blank();
    let folder = pair.dir.path().join("record");
    std::fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::symlink("/dev/full", folder.join("r0.record")).expect("a link");
    pair.alice.arguments = vec!["--record".to_owned(), text(&folder).to_owned()];
    let pair = pair.bring_up().sync_from_alice();
    let mut client = pair.alice.client();
    replication_goes_on(&pair, &mut client, &mut Ledger::seeded(23));
    assert!(pair.alice.log_text().contains("the recording"), "it is said");
}

#[test]
fn a_reader_of_the_log_that_goes_away_does_not_stop_replication() {
    let mut pair = Pair::blank();
    let fifo = pair.dir.path().join("log.fifo");
    let said = run(Command::new("mkfifo").arg(&fifo));
    assert_eq!(said.code, 0, "{said:?}");
    behind(&mut pair.alice, &format!("exec \"$@\" 2>{}", text(&fifo)));
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut start = [0; 40];
            File::open(&fifo).and_then(|mut log| log.read_exact(&mut start)).expect("a log");
        }
    });
    let pair = pair.bring_up().sync_from_alice();
    reader.join().expect("the reader has gone");
    let mut client = pair.alice.client();
    replication_goes_on(&pair, &mut client, &mut Ledger::seeded(24));
    client.set_timeout(Duration::from_secs(30)).expect("a timeout");
    client.disconnect().expect("a goodbye");
}

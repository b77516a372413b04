//! The data thread with a state machine of the tests in place of the resource: it does with a disk
//! what clients ask, keeps a log of events, and does to peers what a test says.

mod clients;
mod counts;
mod disks;
mod held;
mod machine;
mod orders;
mod peers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nbd::client::{Address, Client, Mode};
use nbd::{BlockSizes, ExportInfo, Negotiation, SessionParameters, Step};

use self::machine::{Script, Shared, TestCore};
use super::*;
use crate::io::backing::{
    CreateOptions, Identity, MetaDisk, OpenOptions, create_md, host_boot_id, open_disk,
};
use crate::io::peer::SocketBuffers;
use crate::resource::{
    Command, DiskError, LogLevel, NodeId, Op, Options, Payload, ReplyError, RequestId,
    ResourceConfig, Role, SocketId, Tag,
};
use crate::wire::Packet;

/// Bytes of the backing file.
const DISK: u64 = 80 << 20;
/// Nothing in these tests takes longer; a wait that does has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const PAGE_U64: u64 = PAGE as u64;

/// A data thread under test.
struct Node {
    node_id: NodeId,
    handle: Handle,
    script: Shared,
    folder: tempfile::TempDir,
    address: SocketAddr,
    size: u64,
}

fn config(name: &str, node_id: NodeId) -> ResourceConfig {
    ResourceConfig {
        name: name.to_owned(),
        node_id,
        node_name: format!("node{node_id}"),
        peers: Vec::new(),
        volumes: Vec::new(),
        // A test box may be slow: only the test of the gap wants the default.
        options: Options { ping_timeout_ms: 20_000, ..Options::default() },
    }
}

/// An address that nobody listens on, and that no other test of this process was given.
fn free_address(ip: &str) -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}

impl Node {
    fn start(config: ResourceConfig, peers: Vec<(NodeId, SocketAddr)>) -> Self {
        Self::start_with(config, peers, Limits::default())
    }

    fn start_with(
        config: ResourceConfig,
        peers: Vec<(NodeId, SocketAddr)>,
        limits: Limits,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node_id = config.node_id;
        let ip = format!("127.0.0.{}", u32::from(node_id) + 1);
        let address = free_address(&ip);
        let script = Shared::default();
        let shared = Arc::clone(&script);
        let status = Resource::new(config.clone(), 1, Time(0), 0).status(Time(0));
        let setup = Setup {
            config,
            local: address,
            peers,
            buffers: SocketBuffers::default(),
            secrets: None,
            record: Some(folder.path().join("record")),
            seed: 1,
            state_dir: "/nowhere".into(),
            places: Default::default(),
        };
        let handle =
            spawn_core(setup, limits, move |_, _, _| TestCore::new(shared, status)).unwrap();
        Self { node_id, handle, script, folder, address, size: 0 }
    }

    fn with_disk(limits: Limits) -> Self {
        let mut node = Self::start_with(config("r0", 0), Vec::new(), limits);
        node.attach(&MetaDisk::Internal);
        node
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn identity(&self) -> Identity {
        Identity { resource: "r0".to_owned(), node_id: self.node_id, volume: 0 }
    }

    fn open(&self, meta_disk: &MetaDisk) -> Box<OpenDisk> {
        let boot_id = host_boot_id().unwrap();
        let options = OpenOptions { lock_wait: Duration::ZERO, ..OpenOptions::default() };
        Box::new(open_disk(&self.path(), meta_disk, &self.identity(), boot_id, &options).unwrap())
    }

    fn attach(&mut self, meta_disk: &MetaDisk) {
        std::fs::File::create(self.path()).unwrap().set_len(DISK).unwrap();
        let options = CreateOptions {
            force: true,
            max_peers: 1,
            preallocate: false,
            seed: 77 + u64::from(self.node_id),
            wall_clock: 1,
            boot_id: host_boot_id().unwrap(),
            state_dir: self.folder.path().to_owned(),
            lock_wait: Duration::ZERO,
        };
        let report = create_md(&self.path(), meta_disk, &self.identity(), &options).unwrap();
        self.size = report.geometry.data_size;
        let disk = self.open(meta_disk);
        let (reply, answer) = oneshot::channel();
        self.handle.send(Order::Attach { volume: 0, disk, reply }).unwrap();
        answer.blocking_recv().unwrap().unwrap();
    }

    fn order(&self, command: Command) -> AdminResult {
        let (reply, answer) = oneshot::channel();
        self.handle.send(Order::Admin { command, reply }).unwrap();
        answer.blocking_recv().unwrap()
    }

    /// Makes the state machine emit these.
    fn inject(&self, actions: impl IntoIterator<Item = Action>) {
        self.script.0.lock().unwrap().inject.extend(actions);
        self.order(Command::Outdate { volume: 0 }).unwrap();
    }

    /// Returns when the listener is open: it is opened before the first order is taken.
    fn is_listening(&self) {
        self.inject([]);
    }

    /// Lets held requests go on.
    fn release(&self) {
        self.order(Command::Primary { force: None }).unwrap();
    }

    /// Waits until the script is as `done` says, and returns what it says.
    fn wait<T>(&self, what: &str, mut done: impl FnMut(&mut Script) -> Option<T>) -> T {
        let started = Instant::now();
        let mut script = self.script.0.lock().unwrap();
        loop {
            if let Some(found) = done(&mut script) {
                return found;
            }
            let left = PATIENCE.checked_sub(started.elapsed());
            let left = left.unwrap_or_else(|| panic!("{what}: {:?}", script.events));
            script = self.script.1.wait_timeout(script, left).unwrap().0;
        }
    }

    fn wait_event<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        self.wait(what, |script| script.events.iter().find_map(&mut pick))
    }

    fn count(&self, mut which: impl FnMut(&Event) -> bool) -> usize {
        self.script.0.lock().unwrap().events.iter().filter(|event| which(event)).count()
    }

    fn client(&self, mode: Mode) -> Client {
        let path = self.folder.path().join("nbd");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (handle, size) = (self.handle.clone(), self.size);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let parameters = negotiate(&mut stream, size);
            let order = Order::Client {
                fd: stream.into(),
                volume: 0,
                parameters,
                description: "test".to_owned(),
            };
            handle.send(order).unwrap();
        });
        let client = Client::open(&Address::Unix(path), "r0", mode, PATIENCE).unwrap();
        server.join().unwrap();
        client
    }

    fn stop(self) {
        let (reply, answer) = oneshot::channel();
        self.handle.send(Order::Stop { reply }).unwrap();
        answer.blocking_recv().unwrap();
        assert_eq!(self.handle.shared.buffers_left(), 0, "a buffer leaked");
    }
}

fn negotiate(stream: &mut UnixStream, size: u64) -> SessionParameters {
    let mut negotiation = Negotiation::new(vec!["r0".to_owned()]);
    stream.write_all(&Negotiation::greeting()).unwrap();
    loop {
        let mut bytes = vec![0; negotiation.wants()];
        stream.read_exact(&mut bytes).unwrap();
        let mut step = negotiation.feed(&bytes);
        if matches!(step, Step::Lookup { .. }) {
            let description = String::new();
            let block = BlockSizes::default();
            let info =
                ExportInfo { size, read_only: false, description, block, keepers: Vec::new() };
            step = negotiation.answer(Ok(info));
        }
        match step {
            Step::Continue { send } => stream.write_all(&send).unwrap(),
            Step::Enter { send, session } => {
                stream.write_all(&send).unwrap();
                return session;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Bytes that tell where they are.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}

#[test]
fn a_panic_marks_one_resource_failed_and_the_others_go_on() {
    let bad = Node::with_disk(Limits::default());
    let good = Node::with_disk(Limits::default());
    let mut client = bad.client(Mode::Simple);
    let mut other = good.client(Mode::Simple);
    let mut updates = bad.handle.subscribe();
    bad.script.0.lock().unwrap().panic = true;
    assert!(client.flush().is_err(), "its sockets are shut down");
    let status = updates.blocking_recv().unwrap();
    assert!(status.failed.as_ref().unwrap().contains("as the test wishes"));
    assert_eq!(bad.handle.status().failed, status.failed);
    assert_eq!(status.role, crate::resource::Role::Unknown, "it serves nobody");
    let refusal = bad.order(Command::Outdate { volume: 0 }).unwrap_err();
    assert!(refusal.hint.contains("as the test wishes"));
    // The lock stays: nobody may write beside operations that are still under way.
    let options = OpenOptions { lock_wait: Duration::ZERO, ..OpenOptions::default() };
    let boot_id = host_boot_id().unwrap();
    let path = bad.path();
    open_disk(&path, &MetaDisk::Internal, &bad.identity(), boot_id, &options).unwrap_err();
    other.write(0, b"fine", 0).unwrap();
    drop(other);
    bad.stop();
    good.stop();
}

#[test]
fn a_snapshot_is_published_when_the_state_changes() {
    let node = Node::start(config("r0", 0), Vec::new());
    let mut updates = node.handle.subscribe();
    assert_eq!(node.handle.status().role, Role::Secondary);
    node.order(Command::Primary { force: None }).unwrap();
    assert_eq!(updates.blocking_recv().unwrap().role, Role::Primary);
    assert_eq!(node.handle.status().role, Role::Primary);
    let (reply, answer) = oneshot::channel();
    node.handle.send(Order::Statistics { reply }).unwrap();
    assert_eq!(answer.blocking_recv().unwrap().role, Role::Primary);
    let (reply, answer) = oneshot::channel();
    node.handle.send(Order::Export { volume: 3, client: None, device: None, reply }).unwrap();
    assert_eq!(answer.blocking_recv().unwrap(), Err("no such volume".to_owned()));
    let handle = node.handle.clone();
    node.stop();
    let (reply, _) = oneshot::channel();
    assert_eq!(handle.send(Order::Statistics { reply }), Err(crate::io::OrderError::Stopped));
}

#[test]
fn who_has_the_answer_to_an_order_sees_what_it_changed() {
    let node = Node::start(config("r0", 0), Vec::new());
    for round in 0..300 {
        node.order(Command::Primary { force: None }).unwrap();
        assert_eq!(node.handle.status().role, Role::Primary, "round {round}");
        node.order(Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        assert_eq!(node.handle.status().role, Role::Secondary, "round {round}");
    }
    node.stop();
}

#[test]
fn what_was_recorded_is_what_happened() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    client.write(4096, &pattern(1, 4096), 0).unwrap();
    client.disconnect().unwrap();
    node.wait_event("closed", |e| matches!(e, Event::SessionClosed { .. }).then_some(()));
    let path = node.folder.path().join("record");
    let kept = node.folder.path().join("kept");
    let script = Arc::clone(&node.script);
    std::fs::hard_link(&path, &kept).unwrap();
    let Node { handle, folder, .. } = node;
    let (reply, answer) = oneshot::channel();
    handle.send(Order::Stop { reply }).unwrap();
    answer.blocking_recv().unwrap();
    let text = std::fs::read_to_string(kept).unwrap();
    let mut events = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            crate::io::record::Line::Event { event, .. } => events.push(event),
            crate::io::record::Line::Action { .. } | crate::io::record::Line::Start { .. } => {}
        }
    }
    assert_eq!(events, script.0.lock().unwrap().events);
    drop(folder);
}

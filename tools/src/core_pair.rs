//! Two cores, with disks and a network that answer at once: nothing but `Resource::handle` and the
//! draining of its actions costs anything. For what the core costs: `benches/core.rs` takes this file
//! in, and `instructions` counts.

use std::collections::{HashMap, VecDeque};

use tandem::meta::{Geometry, LoadedMeta, LoadedSlot, NewDisk, Placement, SetBlocks, format_new};
use tandem::resource::{
    Action, AttachedDisk, Command, Event, Force, Op, Options, Payload, PeerConfig, RequestId,
    Resource, ResourceConfig, SessionId, SocketId, Time, VolumeConfig,
};

/// Bytes of the disks.
const SIZE: u64 = 1 << 30;

/// Two nodes and what lies between them.
#[derive(Debug)]
pub struct Pair {
    nodes: [Resource; 2],
    queue: VecDeque<(usize, Event)>,
    now: u64,
    sockets: u64,
    peer_of: HashMap<(usize, SocketId), SocketId>,
    slots: u32,
    /// Events that both cores have handled.
    pub events: u64,
    /// Requests of the client that were answered.
    pub replies: u64,
}

fn config(node: u8) -> ResourceConfig {
    let name = |id: u8| ["alice", "bob"][usize::from(id)].to_owned();
    let peer = PeerConfig { node_id: 1 - node, name: name(1 - node), address: "x".into() };
    ResourceConfig {
        name: "r0".into(),
        node_id: node,
        node_name: name(node),
        peers: vec![peer],
        volumes: vec![VolumeConfig { number: 0, minor: 0, disk: "d".into(), disk_options: None }],
        options: Options { c_max_rate: 0, ..Options::default() },
    }
}

/// A disk as create-md leaves it.
fn disk(node: u8) -> AttachedDisk {
    let placement = Placement::Internal { disk_size: SIZE };
    let device_uuid = 100 + u64::from(node);
    let geometry = Geometry::new(placement, 512, 1, device_uuid).expect("there is room");
    let new = NewDisk {
        resource: "r0".into(),
        volume: 0,
        node_id: node,
        created_time: 0,
        found: "blank".into(),
        blank: true,
        preallocated: false,
        boot_id: [0; 16],
    };
    let (superblock, _) = format_new(&geometry, &new).expect("a name and a node id that fit");
    let slot =
        LoadedSlot { set: SetBlocks::new(), damaged_pages: 0, seen_number: Some(0), seen_copy: 0 };
    let data_size = superblock.data_size;
    let meta = LoadedMeta {
        superblock,
        hot_extents: Vec::new(),
        number: Some(0),
        slots: vec![slot],
        written_behind: false,
        same_boot: true,
        notes: Vec::new(),
    };
    AttachedDisk { data_size, logical_block_size: 512, path: "d".into(), meta }
}

impl Pair {
    /// In sync, node 0 is Primary with one client.
    ///
    /// # Panics
    /// If the cores do not come to that.
    #[must_use]
    pub fn in_sync() -> Self {
        let node = |id: u8| Resource::new(config(id), u64::from(id) + 7, Time(1), 0);
        let mut pair = Self {
            nodes: [node(0), node(1)],
            queue: VecDeque::new(),
            now: 1,
            sockets: 1,
            peer_of: HashMap::new(),
            slots: 0,
            events: 0,
            replies: 0,
        };
        for n in 0..2u8 {
            let attach = Command::Attach { volume: 0, disk: Box::new(disk(n)) };
            pair.order(usize::from(n), attach);
            let peer = 1 - n;
            let connect = Command::Connect { peer, discard_my_data: false, tentative: false };
            pair.order(usize::from(n), connect);
        }
        pair.pass(3000);
        pair.order(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: true });
        pair.order(0, Command::Primary { force: None::<Force> });
        let session = SessionId(1);
        pair.event(0, Event::SessionOpened { session, volume: 0, client: "bench".into() });
        assert!(pair.nodes[0].export(0).is_ok(), "the pair is not in sync");
        pair
    }

    fn order(&mut self, n: usize, command: Command) {
        self.event(n, Event::Admin { id: 1, command });
        self.pass(100);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now += 50_000_000;
            for n in 0..2 {
                self.event(n, Event::Timeout);
            }
        }
    }

    /// One event and all that follows from it.
    fn event(&mut self, n: usize, event: Event) {
        self.queue.push_back((n, event));
        while let Some((n, event)) = self.queue.pop_front() {
            self.events += 1;
            self.nodes[n].handle(Time(self.now), event);
            while let Some(action) = self.nodes[n].next_action() {
                self.act(n, action);
            }
        }
    }

    fn payload(&mut self, length: u32) -> Payload {
        self.slots = self.slots.wrapping_add(1);
        Payload { slot: self.slots, generation: 1, offset: 0, length }
    }

    fn act(&mut self, n: usize, action: Action) {
        let done = match action {
            Action::DiskRead { tag, length, .. } => {
                Event::DiskDone { tag, result: Ok(Some(self.payload(length))) }
            }
            Action::DiskWrite { tag, .. }
            | Action::DiskZeroes { tag, .. }
            | Action::DiskFlush { tag, .. } => Event::DiskDone { tag, result: Ok(None) },
            Action::FindHole { tag, .. } => Event::HoleFound { tag, length: 0 },
            Action::Digest { tag, .. } => Event::Digested { tag, digest: 0 },
            Action::Meta { tag, .. } => Event::MetaDone { tag, result: Ok(()) },
            Action::Connect { socket, .. } => {
                let there = SocketId(self.sockets);
                self.sockets += 2;
                self.peer_of.insert((n, socket), there);
                self.peer_of.insert((1 - n, there), socket);
                self.queue.push_back((n, Event::Connected { socket }));
                let peer = u8::try_from(n).expect("0 or 1");
                self.queue.push_back((1 - n, Event::Accepted { peer, socket: there }));
                return;
            }
            Action::Send { socket, packet, payload } => {
                let Some(there) = self.peer_of.get(&(n, socket)).copied() else { return };
                let payload = payload.map(|payload| self.payload(payload.length));
                let event = Event::Packet { socket: there, packet, payload };
                return self.queue.push_back((1 - n, event));
            }
            Action::Authenticate { socket, .. } => Event::Authenticated { socket },
            Action::CloseSocket { socket, .. } => {
                let Some(there) = self.peer_of.remove(&(n, socket)) else { return };
                self.peer_of.remove(&(1 - n, there));
                let error = tandem::resource::SocketError::Closed;
                return self.queue.push_back((1 - n, Event::SocketLost { socket: there, error }));
            }
            Action::Reply { result, .. } => {
                assert!(result.is_ok(), "a write was refused");
                self.replies += 1;
                return;
            }
            _ => return,
        };
        self.queue.push_back((n, done));
    }

    /// A write of 4 KiB by the client, and all that follows from it.
    pub fn write(&mut self, block: u64) {
        let payload = self.payload(4096);
        let op = Op::Write { offset: block * 4096, payload, fua: false };
        self.now += 10_000;
        let (session, request) = (SessionId(1), RequestId(block));
        self.event(0, Event::Request { session, request, volume: 0, op });
    }

    /// A flush by the client, and all that follows from it.
    pub fn flush(&mut self) {
        let (session, request) = (SessionId(1), RequestId(1));
        self.event(0, Event::Request { session, request, volume: 0, op: Op::Flush });
    }
}

//! Two resources on disks that do what a story says (`cache`: and lose what is not durable with the
//! power), and a perfect network, for the stories beside this file.

use std::collections::{BTreeMap, VecDeque};

use super::cache::UnderWay;
use crate::meta::{
    BitmapState, HISTORY, JUST_CREATED, LoadedMeta, LoadedSlot, MetaOp, PeerSlot, Superblock,
};
use crate::resource::*;

pub(crate) const SIZE: u64 = 64 << 20;

#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) blocks: BTreeMap<u64, u64>,
    /// Blocks that only the cache has, with what is below; a loss of power takes them.
    pub(crate) cache: BTreeMap<u64, u64>,
    pub(crate) superblock: Option<Superblock>,
    pub(crate) hot: BTreeMap<u32, Vec<u64>>,
    pub(crate) pages: BTreeMap<u32, Vec<u64>>,
    /// The blocks with the number of the peer.
    pub(crate) seen: [u64; 2],
    /// What an administrator has made it, bytes of data.
    pub(crate) room: u64,
}

pub(crate) struct Node {
    pub(crate) core: Option<Resource>,
    pub(crate) disk: Disk,
    pub(crate) done: VecDeque<Event>,
    pub(crate) values: BTreeMap<u32, (u64, Vec<u64>)>,
    pub(crate) next_slot: u32,
    pub(crate) replies: BTreeMap<u64, Result<Option<u64>, ReplyError>>,
    pub(crate) admin: BTreeMap<u64, AdminResult>,
    pub(crate) sockets: BTreeMap<SocketId, (usize, SocketId)>,
    pub(crate) log: Vec<String>,
    /// The clients were closed because what they had not flushed may be gone.
    pub(crate) lost_caches: usize,
    /// Actions on the disk that fail.
    pub(crate) fail: fn(&Action) -> bool,
    /// Writes that find the disk full.
    pub(crate) full: fn(&Action) -> bool,
    /// Actions on the disk whose completion waits in `stalled`.
    pub(crate) stall: fn(&Action) -> bool,
    pub(crate) stalled: VecDeque<Event>,
    /// What else is under way on it.
    pub(crate) under_way: UnderWay,
    /// Writes under way on the disk: (tag, first byte, end).
    pub(crate) writing: Vec<(Tag, u64, u64)>,
    /// What it sends is kept in `air`.
    pub(crate) mute: bool,
    pub(crate) air: VecDeque<Event>,
    pub(crate) on_io_error: OnIoError,
    /// Its disk has lost power, or failed, since it was attached.
    pub(crate) power_lost: bool,
    /// Handlers that run, with their numbers.
    pub(crate) calls: Vec<(u64, HandlerCall)>,
    /// What it takes for the shared secret.
    pub(crate) secrets: Vec<u8>,
}

pub(crate) struct Pair {
    pub(crate) now: Time,
    pub(crate) nodes: [Node; 2],
    pub(crate) link: bool,
    pub(crate) next: u64,
    pub(crate) accepted: u64,
}

pub(crate) fn superblock(node: u8) -> Superblock {
    Superblock {
        sequence: 1,
        device_uuid: 100 + u64::from(node),
        resource: "r0".into(),
        volume: 0,
        node_id: node,
        effective_size: 0,
        al_block_size: 512,
        data_size: SIZE,
        current_uuid: JUST_CREATED,
        history: [0; HISTORY],
        flags: 0,
        number: 1,
        boot_id: [0; 16],
        generation_time: 0,
        generation_node: 0,
        created_time: 0,
        created_found: "blank".into(),
        clean_size: 0,
        clean_digest: 0,
        peers: vec![PeerSlot {
            node_id: None,
            bitmap_uuid: 0,
            bitmap_state: BitmapState::AllClear,
            bitmap_epoch: 0,
            seen_number: 0,
            device_uuid: 0,
        }],
    }
}

pub(crate) fn config(node: u8) -> ResourceConfig {
    let names = ["alice", "bob"];
    ResourceConfig {
        name: "r0".into(),
        node_id: node,
        node_name: names[node as usize].into(),
        peers: vec![PeerConfig {
            node_id: 1 - node,
            name: names[1 - node as usize].into(),
            address: "x".into(),
        }],
        volumes: vec![VolumeConfig { number: 0, minor: 0, disk: "d".into(), disk_options: None }],
        options: Options { al_extents: 67, c_max_rate: 0, ..Options::default() },
    }
}

impl Pair {
    pub(crate) fn new() -> Self {
        let node = |id: u8| Node {
            core: None,
            disk: Disk { superblock: Some(superblock(id)), ..Disk::default() },
            done: VecDeque::new(),
            values: BTreeMap::new(),
            next_slot: 0,
            replies: BTreeMap::new(),
            admin: BTreeMap::new(),
            sockets: BTreeMap::new(),
            log: Vec::new(),
            lost_caches: 0,
            fail: |_| false,
            full: |_| false,
            stall: |_| false,
            stalled: VecDeque::new(),
            under_way: UnderWay::default(),
            writing: Vec::new(),
            mute: false,
            air: VecDeque::new(),
            on_io_error: OnIoError::Detach,
            power_lost: false,
            calls: Vec::new(),
            secrets: vec![0],
        };
        let mut pair =
            Self { now: Time(1), nodes: [node(0), node(1)], link: true, next: 1, accepted: 1 };
        pair.up(0);
        pair.up(1);
        pair
    }

    pub(crate) fn up(&mut self, n: usize) {
        let id = u8::try_from(n).unwrap();
        let seed = 7 + n as u64 + self.next * 100;
        let mut config = config(id);
        config.options.on_io_error = self.nodes[n].on_io_error;
        self.nodes[n].core = Some(Resource::new(config, seed, self.now, 0));
        self.nodes[n].values.clear();
        self.attach(n).unwrap();
        let peer = 1 - id;
        self.admin(n, Command::Connect { peer, discard_my_data: false, tentative: false }).unwrap();
    }

    /// Its configuration calls the resource so.
    pub(crate) fn rename(&mut self, n: usize, name: &str) {
        if let Some(core) = self.nodes[n].core.as_mut() {
            core.config.name = name.into();
        }
    }

    /// The shell's part of the shared secret, without its packets.
    fn authenticate(&mut self, n: usize, socket: SocketId) {
        let known = |node: &Node| node.secrets.iter().any(|s| self.nodes[n].secrets.contains(s));
        let is_story_s_own = socket.0 > 1000;
        let event = match self.nodes[n].sockets.get(&socket).copied() {
            Some((other, there)) if !known(&self.nodes[other]) => {
                self.nodes[n].sockets.remove(&socket);
                if self.nodes[other].sockets.remove(&there).is_some() {
                    // It is told, or has found the same.
                    let error = SocketError::Secret(crate::secret::SecretError::Wrong);
                    self.nodes[other].done.push_back(Event::SocketLost { socket: there, error });
                }
                let error = SocketError::Secret(crate::secret::SecretError::Wrong);
                Event::SocketLost { socket, error }
            }
            None if !is_story_s_own => return,
            _ => Event::Authenticated { socket },
        };
        self.nodes[n].done.push_front(event);
    }

    pub(crate) fn attach(&mut self, n: usize) -> AdminResult {
        let command = self.attach_command(n);
        self.admin(n, command)
    }

    /// Orders it, and does not wait.
    pub(crate) fn attach_later(&mut self, n: usize) {
        let (command, id) = (self.attach_command(n), self.next);
        self.next += 1;
        self.event(n, Event::Admin { id, command });
    }

    pub(crate) fn attach_command(&mut self, n: usize) -> Command {
        let node = &mut self.nodes[n];
        let superblock = node.disk.superblock.clone().unwrap();
        let mut hot = Vec::new();
        let mut number = superblock.number;
        for (index, words) in &node.disk.hot {
            number = number.max(words[60]);
            for (w, word) in words[..60].iter().enumerate() {
                for bit in 0..64 {
                    if word >> bit & 1 == 1 {
                        hot.push(index * 3840 + u32::try_from(w).unwrap() * 64 + bit);
                    }
                }
            }
        }
        let mut runs = Vec::new();
        for (index, words) in &node.disk.pages {
            for (w, word) in words.iter().enumerate() {
                for bit in 0..64u64 {
                    if word >> bit & 1 == 1 {
                        runs.push((
                            u64::from(*index) * crate::meta::PAGE_BITS + w as u64 * 64 + bit,
                            1,
                        ));
                    }
                }
            }
        }
        let [first, second] = node.disk.seen;
        let seen = first.max(second).max(superblock.peers[0].seen_number);
        let seen_copy = u8::from(second > first);
        let set = runs.into_iter().collect();
        let slot = LoadedSlot { set, damaged_pages: 0, seen_number: Some(seen), seen_copy };
        let meta = LoadedMeta {
            superblock,
            hot_extents: hot,
            number: Some(number),
            slots: vec![slot],
            written_behind: false,
            same_boot: !std::mem::take(&mut node.power_lost),
            notes: Vec::new(),
        };
        let disk = Box::new(AttachedDisk {
            data_size: meta.superblock.data_size,
            logical_block_size: 512,
            path: "d".into(),
            meta,
        });
        Command::Attach { volume: 0, disk }
    }

    /// The process ends, and nothing else.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].core = None;
        self.nodes[n].done.clear();
        self.nodes[n].stalled.clear();
        self.nodes[n].writing.clear();
        self.nodes[n].nobody_hears();
        self.nodes[n].calls.clear();
        self.cut();
    }

    pub(crate) fn cut(&mut self) {
        for n in 0..2 {
            let sockets: Vec<SocketId> = self.nodes[n].sockets.keys().copied().collect();
            self.nodes[n].sockets.clear();
            for socket in sockets {
                let event = Event::SocketLost { socket, error: SocketError::Io(104) };
                self.event(n, event);
            }
        }
    }

    pub(crate) fn event(&mut self, n: usize, event: Event) {
        let now = self.now;
        match &event {
            Event::DiskDone { tag, result } => {
                self.nodes[n].writing.retain(|(writing, ..)| writing != tag);
                self.nodes[n].has_ended(*tag, result.is_ok());
            }
            Event::MetaDone { tag, result } => self.nodes[n].has_ended(*tag, result.is_ok()),
            _ => {}
        }
        let Some(core) = self.nodes[n].core.as_mut() else { return };
        core.handle(now, event);
        while let Some(action) = self.nodes[n].core.as_mut().and_then(Resource::next_action) {
            self.act(n, action);
        }
    }

    pub(crate) fn act(&mut self, n: usize, action: Action) {
        let node = &mut self.nodes[n];
        let (stall, fail) = ((node.stall)(&action), (node.fail)(&action));
        let full = (node.full)(&action);
        let stall = stall && !matches!(action, Action::Authenticate { .. });
        let before = node.done.len();
        match &action {
            Action::DiskWrite { tag, offset, payload, .. } => {
                node.started(*tag, *offset, u64::from(payload.length));
            }
            Action::DiskZeroes { tag, offset, length, .. } => {
                node.started(*tag, *offset, u64::from(*length));
            }
            _ => {}
        }
        match action {
            Action::DiskRead { tag, .. }
            | Action::DiskWrite { tag, .. }
            | Action::DiskZeroes { tag, .. }
            | Action::DiskFlush { tag, .. }
                if fail =>
            {
                node.done.push_back(Event::DiskDone { tag, result: Err(DiskError::Io(5)) });
            }
            Action::DiskWrite { tag, .. } | Action::DiskZeroes { tag, .. } if full => {
                node.done.push_back(Event::DiskDone { tag, result: Err(DiskError::NoSpace) });
            }
            Action::GrowDisk { tag, .. } if fail => {
                let result = Err(DiskError::Io(5));
                node.done.push_back(Event::DiskGrown { tag, result });
            }
            Action::Meta { tag, .. } if fail => {
                node.done.push_back(Event::MetaDone { tag, result: Err(DiskError::Io(5)) });
            }
            action => self.act_well(n, action),
        }
        let node = &mut self.nodes[n];
        if stall && node.done.len() > before {
            node.stalled.extend(node.done.drain(before..));
        }
    }

    fn act_well(&mut self, n: usize, action: Action) {
        let node = &mut self.nodes[n];
        match action {
            Action::DiskRead { tag, offset, length, find_zeroes, .. } => {
                let values: Vec<u64> = (offset / 4096..(offset + u64::from(length)) / 4096)
                    .map(|b| node.disk.blocks.get(&b).copied().unwrap_or(0))
                    .collect();
                let zeroes = find_zeroes && values.iter().all(|value| *value == 0);
                let payload = (!zeroes).then(|| node.payload(length, values));
                node.done.push_back(Event::DiskDone { tag, result: Ok(payload) });
            }
            Action::DiskWrite { tag, offset, payload, fua, .. } => {
                let values = node.values[&payload.slot].1.clone();
                for (i, value) in values.into_iter().enumerate() {
                    node.disk.put(offset / 4096 + i as u64, value, fua);
                }
                node.done.push_back(Event::DiskDone { tag, result: Ok(None) });
            }
            Action::DiskZeroes { tag, offset, length, fua, .. } => {
                for b in offset / 4096..(offset + u64::from(length)) / 4096 {
                    node.disk.zero(b, fua);
                }
                node.done.push_back(Event::DiskDone { tag, result: Ok(None) });
            }
            Action::FindHole { tag, offset, length, .. } => {
                let end = (offset + u64::from(length)) / 4096;
                let mut data = node.disk.blocks.range(offset / 4096..end).map(|(block, _)| *block);
                let found = data.next().unwrap_or(end) * 4096 - offset;
                node.done.push_back(Event::HoleFound { tag, length: found as u32 });
            }
            Action::DiskFlush { tag, .. } => {
                node.flush_begins(tag);
                node.done.push_back(Event::DiskDone { tag, result: Ok(None) });
            }
            Action::Meta { tag, op, .. } => {
                node.metadata_begins(tag, &op);
                match op {
                    MetaOp::Superblock(superblock) => {
                        let old = node.disk.superblock.as_ref();
                        let newer = old.is_none_or(|old| {
                            superblock.sequence > old.sequence
                                && superblock.data_size >= old.data_size
                        });
                        assert!(newer, "a superblock from before the disk has grown");
                        node.disk.superblock = Some(*superblock);
                    }
                    MetaOp::ActivityLog { blocks } => {
                        for block in blocks {
                            let mut words = block.words;
                            words.push(block.number);
                            node.disk.hot.insert(block.index, words);
                        }
                    }
                    MetaOp::Bitmap { pages, .. } => {
                        for page in pages {
                            node.disk.pages.insert(page.index, page.words);
                        }
                    }
                    MetaOp::SeenNumber { copy, number, .. } => {
                        let highest = node.disk.seen.into_iter().max();
                        assert!(Some(number) >= highest, "a number is never forgotten");
                        node.disk.seen[usize::from(copy)] = number;
                    }
                }
                node.done.push_back(Event::MetaDone { tag, result: Ok(()) });
            }
            Action::GrowDisk { tag, .. } => {
                let superblock = node.disk.superblock.as_mut().expect("an attached disk");
                superblock.data_size = superblock.data_size.max(node.disk.room);
                superblock.sequence += crate::meta::MOVE_SEQUENCES;
                let size = superblock.data_size;
                node.done.push_back(Event::DiskGrown { tag, result: Ok(Ok(size)) });
            }
            Action::CloseDisk { superblock, .. } => {
                if let Some(superblock) = superblock {
                    node.disk.superblock = Some(*superblock);
                }
            }
            Action::Connect { socket, .. } => {
                let other = 1 - n;
                if !self.link || self.nodes[other].core.is_none() {
                    let event = Event::SocketLost { socket, error: SocketError::Refused };
                    self.nodes[n].done.push_back(event);
                    return;
                }
                let there = SocketId(self.accepted);
                self.accepted += 2;
                self.nodes[n].sockets.insert(socket, (other, there));
                self.nodes[other].sockets.insert(there, (n, socket));
                self.nodes[n].done.push_back(Event::Connected { socket });
                let peer = u8::try_from(n).unwrap();
                self.nodes[other].done.push_back(Event::Accepted { peer, socket: there });
            }
            Action::Send { socket, packet, payload } => {
                let Some((other, there)) = node.sockets.get(&socket).copied() else { return };
                let values = payload.map(|p| (p.length, node.values[&p.slot].1.clone()));
                assert_eq!(payload.map_or(0, |p| p.length), packet.payload_length(), "{packet:?}");
                assert!(crate::wire::check(&packet), "the codec refuses {packet:?}");
                let mute = node.mute;
                let payload = values.map(|(l, v)| self.nodes[other].payload(l, v));
                let event = Event::Packet { socket: there, packet, payload };
                if mute {
                    self.nodes[n].air.push_back(event);
                } else {
                    self.nodes[other].done.push_back(event);
                }
            }
            Action::Authenticate { socket, .. } => self.authenticate(n, socket),
            Action::CloseSocket { socket, .. } => {
                if let Some((other, there)) = node.sockets.remove(&socket)
                    && self.nodes[other].sockets.remove(&there).is_some()
                {
                    let event = Event::SocketLost { socket: there, error: SocketError::Closed };
                    self.nodes[other].done.push_back(event);
                }
            }
            Action::Digest { tag, payload } => {
                let bytes: Vec<u8> =
                    node.values[&payload.slot].1.iter().flat_map(|v| v.to_be_bytes()).collect();
                let digest = crc32fast::hash(&bytes);
                node.done.push_back(Event::Digested { tag, digest });
            }
            Action::BlockDigests { tag, payload, alg } => {
                let values = &node.values[&payload.slot].1;
                let digests = values.iter().flat_map(|v| alg.digests(&v.to_be_bytes())).collect();
                node.done.push_back(Event::BlocksDigested { tag, digests });
            }
            Action::CloseSessions { lost, .. } => node.lost_caches += usize::from(lost),
            Action::Merge { .. } => {}
            Action::Release(payload) => {
                node.values.remove(&payload.slot).expect("released once");
            }
            Action::Reply { request, result } => {
                let value = result.map(|p| p.map(|p| node.values[&p.slot].1[0]));
                let again = node.replies.insert(request.0, value);
                assert_eq!(again, None, "answered once");
            }
            Action::AdminReply { id, result } => {
                let again = node.admin.insert(id, result);
                assert_eq!(again, None, "answered once");
            }
            Action::RunHandler { number, call } => node.calls.push((number, *call)),
            Action::Log { text, .. } => node.log.push(text),
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..200_000 {
            let mut any = false;
            for n in 0..2 {
                if let Some(event) = self.nodes[n].done.pop_front() {
                    any = true;
                    self.event(n, event);
                }
            }
            if !any {
                return;
            }
        }
        panic!("no quiescence: {:#?}", self.nodes[0].done.front());
    }

    /// Time goes on until `ms` have passed, timers firing.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        self.settle();
        loop {
            let next = self
                .nodes
                .iter()
                .filter_map(|node| node.core.as_ref().and_then(Resource::next_timeout))
                .min();
            match next {
                Some(at) if at <= end => {
                    assert!(at.0 + 10_000_000_000 > self.now.0);
                    self.now = Time(self.now.0.max(at.0) + 1);
                    for n in 0..2 {
                        self.event(n, Event::Timeout);
                    }
                    self.settle();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub(crate) fn admin(&mut self, n: usize, command: Command) -> AdminResult {
        let id = self.next;
        self.next += 1;
        self.event(n, Event::Admin { id, command });
        self.run(50);
        self.nodes[n].admin.remove(&id).expect("answered")
    }

    pub(crate) fn primary(&mut self, n: usize, force: bool) {
        let force = force.then_some(Force::Plain);
        self.admin(n, Command::Primary { force }).unwrap();
        let session = SessionId(n as u64 + 1);
        self.event(n, Event::SessionOpened { session, volume: 0, client: "test".into() });
    }

    pub(crate) fn write(
        &mut self,
        n: usize,
        block: u64,
        value: u64,
    ) -> Result<Option<u64>, ReplyError> {
        let id = self.next;
        self.next += 1;
        let payload = self.nodes[n].payload(4096, vec![value]);
        let op = Op::Write { offset: block * 4096, payload, fua: false };
        self.request(n, id, op)
    }

    /// A write of one block that is not waited for; the number of its reply.
    pub(crate) fn write_later(&mut self, n: usize, block: u64, value: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let payload = self.nodes[n].payload(4096, vec![value]);
        self.request_later(n, id, Op::Write { offset: block * 4096, payload, fua: false });
        id
    }

    /// As `write_later`, and everything happens that needs no time.
    pub(crate) fn start_write(&mut self, n: usize, block: u64, value: u64) -> u64 {
        let id = self.write_later(n, block, value);
        self.settle();
        id
    }

    pub(crate) fn request_later(&mut self, n: usize, id: u64, op: Op) {
        let (session, request) = (SessionId(n as u64 + 1), RequestId(id));
        self.event(n, Event::Request { session, request, volume: 0, op });
    }

    /// An order that is not waited for; its number.
    pub(crate) fn order(&mut self, n: usize, command: Command) -> u64 {
        let id = self.next;
        self.next += 1;
        self.event(n, Event::Admin { id, command });
        self.settle();
        id
    }

    pub(crate) fn core(&self, n: usize) -> &Resource {
        self.nodes[n].core.as_ref().unwrap()
    }

    pub(crate) fn disk(&self, n: usize) -> DiskState {
        self.status(n).devices[0].disk_state
    }

    pub(crate) fn lose_link(&mut self) {
        self.link = false;
        self.cut();
        self.settle();
    }

    /// Both are told to connect again.
    pub(crate) fn connect_both(&mut self) {
        for (n, peer) in [(0, 1), (1, 0)] {
            let connect = Command::Connect { peer, discard_my_data: false, tentative: false };
            self.admin(n, connect).unwrap();
        }
    }

    pub(crate) fn request(&mut self, n: usize, id: u64, op: Op) -> Result<Option<u64>, ReplyError> {
        self.request_later(n, id, op);
        self.run(20);
        self.nodes[n].replies.remove(&id).expect("replied")
    }

    pub(crate) fn status(&self, n: usize) -> Status {
        self.core(n).status(self.now)
    }

    pub(crate) fn synced(&mut self) {
        self.run(30_000);
        for n in 0..2 {
            let status = self.status(n);
            let log = self.nodes[n].log.join("\n");
            assert_eq!(status.devices[0].disk_state, DiskState::UpToDate, "{n}\n{log}");
            let peer = &status.connections[0].peer_devices[0];
            assert_eq!(peer.replication_state, ReplicationState::Established, "{n}\n{log}");
            assert_eq!(peer.out_of_sync, 0, "{n}\n{log}");
            assert!(self.nodes[n].values.is_empty(), "payloads leaked on {n}");
        }
        let data = |n: usize| {
            let blocks = self.status(n).devices[0].size / 4096;
            let blocks = self.nodes[n].disk.blocks.range(..blocks);
            blocks.filter(|(_, v)| **v != 0).map(|(b, v)| (*b, *v)).collect::<Vec<_>>()
        };
        assert_eq!(data(0), data(1));
    }
}

impl Node {
    /// No write starts on a range in which another one is under way: their order is not known.
    fn started(&mut self, tag: Tag, offset: u64, length: u64) {
        let end = offset + length;
        let other = self.writing.iter().find(|(_, s, e)| offset < *e && *s < end);
        assert_eq!(other, None, "a write at {offset} overlaps one under way");
        self.writing.push((tag, offset, end));
    }

    /// What was stalled completes.
    pub(crate) fn unstall(&mut self) {
        self.stall = |_| false;
        let stalled = std::mem::take(&mut self.stalled);
        self.done.extend(stalled);
    }

    pub(crate) fn payload(&mut self, length: u32, values: Vec<u64>) -> Payload {
        self.next_slot += 1;
        self.values.insert(self.next_slot, (u64::from(length), values));
        Payload { slot: self.next_slot, generation: 1, offset: 0, length }
    }
}

impl Pair {
    /// Both start again, and pass errors of their disks on.
    pub(crate) fn pass_errors(&mut self) {
        for n in 0..2 {
            self.kill(n);
            self.nodes[n].on_io_error = OnIoError::PassOn;
        }
        self.up(0);
        self.up(1);
    }
}

pub(crate) fn synced_pair() -> Pair {
    let mut pair = Pair::new();
    pair.run(2000);
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
    pair.primary(0, true);
    assert_eq!(pair.write(0, 5, 55), Ok(None));
    pair.synced();
    pair
}

/// A synced pair whose disk errors are passed on.
pub(crate) fn passing_pair() -> Pair {
    let mut pair = Pair::new();
    pair.pass_errors();
    pair.run(20_000);
    pair.primary(0, true);
    pair.write(0, 5, 55).unwrap();
    pair.synced();
    pair
}

/// Node 0 was frozen as Primary; node 1 was promoted and has written. They cannot meet yet.
pub(crate) fn frozen_pair() -> Pair {
    let mut pair = synced_pair();
    pair.link = false;
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.cut();
    pair.run(1000);
    pair.primary(1, false);
    assert_eq!(pair.write(1, 2, 2), Ok(None));
    pair
}

//! The state machine of the tests.

use super::*;

/// What a test and its state machine share.
#[derive(Default)]
pub(super) struct Script {
    pub(super) events: Vec<Event>,
    /// Actions for the next order.
    pub(super) inject: VecDeque<Action>,
    /// Requests that are kept without an answer while this is set.
    pub(super) hold: bool,
    pub(super) held: Vec<(RequestId, VolumeNumber, Op)>,
    /// Requests that reach this offset fail.
    pub(super) fail_at: Option<u64>,
    /// Where blocks go that the test read by an injected action: its tag is the offset plus 1.
    pub(super) send_to: Option<SocketId>,
    pub(super) panic: bool,
    /// The next event takes so long.
    pub(super) freeze: Option<Duration>,
}

pub(super) type Shared = Arc<(Mutex<Script>, Condvar)>;

enum Then {
    Reply(RequestId, u32, u32),
    Done(RequestId, Option<Payload>),
    Edge(Tag, Payload, bool),
    Nothing,
}

/// A write that waits for its edges.
struct Edges {
    request: RequestId,
    volume: VolumeNumber,
    offset: u64,
    payload: Payload,
    fua: bool,
    missing: u32,
}

pub(super) struct TestCore {
    script: Shared,
    actions: VecDeque<Action>,
    last_tag: u64,
    pending: HashMap<Tag, Then>,
    edges: HashMap<Tag, Edges>,
    status: Status,
    version: u64,
}

impl TestCore {
    pub(super) fn new(script: Shared, status: Status) -> Self {
        Self {
            script,
            actions: VecDeque::new(),
            last_tag: 1 << 32,
            pending: HashMap::new(),
            edges: HashMap::new(),
            status,
            version: 0,
        }
    }

    fn tag(&mut self, then: Then) -> Tag {
        self.last_tag += 1;
        let tag = Tag(self.last_tag);
        self.pending.insert(tag, then);
        tag
    }

    fn request(&mut self, request: RequestId, volume: VolumeNumber, op: Op) {
        let fail_at = self.script.0.lock().unwrap().fail_at;
        let span = match op {
            Op::Read { offset, length } => offset..offset + u64::from(length),
            Op::Write { offset, payload, .. } => offset..offset + u64::from(payload.length),
            Op::Flush => 0..0,
            Op::Zeroes { offset, length, .. } => offset..offset + u64::from(length),
        };
        if fail_at.is_some_and(|at| span.contains(&at)) {
            self.actions.push_back(Action::Reply { request, result: Err(ReplyError::Io) });
            if let Op::Write { payload, .. } = op {
                self.actions.push_back(Action::Release(payload));
            }
            return;
        }
        match op {
            Op::Read { offset, length } => {
                let start = offset / PAGE_U64 * PAGE_U64;
                let hull = (offset + u64::from(length)).next_multiple_of(PAGE_U64) - start;
                let tag = self.tag(Then::Reply(request, (offset - start) as u32, length));
                let length = hull as u32;
                self.actions.push_back(Action::DiskRead {
                    tag,
                    volume,
                    offset: start,
                    length,
                    find_zeroes: false,
                });
            }
            Op::Write { offset, payload, fua } => {
                self.write(request, volume, offset, payload, fua);
            }
            Op::Flush => {
                let tag = self.tag(Then::Done(request, None));
                self.actions.push_back(Action::DiskFlush { tag, volume });
            }
            Op::Zeroes { offset, length, no_hole, fua } => {
                let tag = self.tag(Then::Done(request, None));
                let action = Action::DiskZeroes {
                    tag,
                    volume,
                    offset,
                    length,
                    no_hole,
                    written: false,
                    fua,
                };
                self.actions.push_back(action);
            }
        }
    }

    fn write(
        &mut self,
        request: RequestId,
        volume: VolumeNumber,
        offset: u64,
        payload: Payload,
        fua: bool,
    ) {
        let end = offset + u64::from(payload.length);
        let mut blocks = Vec::new();
        if !offset.is_multiple_of(PAGE_U64) {
            blocks.push((offset / PAGE_U64 * PAGE_U64, true));
        }
        if !end.is_multiple_of(PAGE_U64) {
            blocks.push((end / PAGE_U64 * PAGE_U64, false));
        }
        let tag = self.tag(Then::Nothing);
        let missing = blocks.len() as u32;
        let edges = Edges { request, volume, offset, payload, fua, missing };
        self.edges.insert(tag, edges);
        for (offset, head) in blocks {
            let tag = self.tag(Then::Edge(tag, payload, head));
            let length = PAGE as u32;
            self.actions.push_back(Action::DiskRead {
                tag,
                volume,
                offset,
                length,
                find_zeroes: false,
            });
        }
        self.write_if_whole(tag);
    }

    fn write_if_whole(&mut self, tag: Tag) {
        if self.edges.get(&tag).is_none_or(|edges| edges.missing > 0) {
            return;
        }
        let Some(Edges { request, volume, offset, payload, fua, .. }) = self.edges.remove(&tag)
        else {
            return;
        };
        let (hull, head) = ((payload.offset + payload.length), payload.offset);
        let aligned = Payload { offset: 0, length: hull.next_multiple_of(PAGE as u32), ..payload };
        let tag = self.tag(Then::Done(request, Some(payload)));
        let offset = offset - u64::from(head);
        self.actions.push_back(Action::DiskWrite { tag, volume, offset, payload: aligned, fua });
    }

    fn disk_done(&mut self, tag: Tag, result: Result<Option<Payload>, DiskError>) {
        match (self.pending.remove(&tag).unwrap(), result) {
            (Then::Reply(request, head, length), Ok(Some(payload))) => {
                let part = Payload { offset: payload.offset + head, length, ..payload };
                self.actions.push_back(Action::Reply { request, result: Ok(Some(part)) });
                self.actions.push_back(Action::Release(payload));
            }
            (Then::Edge(write, into, head), Ok(Some(from))) => {
                self.actions.push_back(Action::Merge { into, from, head });
                self.actions.push_back(Action::Release(from));
                self.edges.get_mut(&write).unwrap().missing -= 1;
                self.write_if_whole(write);
            }
            (Then::Done(request, payload), result) => {
                let result = result.map(|_| None).map_err(ReplyError::from);
                self.actions.push_back(Action::Reply { request, result });
                self.actions.extend(payload.map(Action::Release));
            }
            (Then::Reply(request, ..), Err(error)) => {
                self.actions.push_back(Action::Reply { request, result: Err(error.into()) });
            }
            (Then::Nothing, _) => {}
            (_, other) => panic!("unexpected {other:?}"),
        }
    }

    fn admin(&mut self, id: u64, command: Command) {
        let inject: Vec<_> = self.script.0.lock().unwrap().inject.drain(..).collect();
        self.actions.extend(inject);
        match command {
            Command::Primary { .. } => {
                self.status.role = Role::Primary;
                self.version += 1;
                let held = {
                    let mut script = self.script.0.lock().unwrap();
                    script.hold = false;
                    std::mem::take(&mut script.held)
                };
                held.into_iter().for_each(|(r, v, op)| self.request(r, v, op));
            }
            Command::Secondary { .. } => {
                self.status.role = Role::Secondary;
                self.version += 1;
                self.actions.push_back(Action::AdminReply { id, result: Ok(String::new()) });
                // There is more to do after the answer.
                for _ in 0..200 {
                    let text = "demoted".to_owned();
                    self.actions.push_back(Action::Log { level: LogLevel::Debug, text });
                }
                return;
            }
            Command::Detach { volume, .. } => {
                self.actions.push_back(Action::CloseDisk { volume, superblock: None });
            }
            _ => {}
        }
        self.actions.push_back(Action::AdminReply { id, result: Ok(String::new()) });
    }
}

impl Core for TestCore {
    fn handle(&mut self, _: Time, event: Event) {
        let hold = {
            let mut script = self.script.0.lock().unwrap();
            script.events.push(event.clone());
            script.hold
        };
        match event {
            Event::Request { request, volume, op, .. } if hold => {
                self.script.0.lock().unwrap().held.push((request, volume, op));
            }
            Event::Request { request, volume, op, .. } => self.request(request, volume, op),
            Event::DiskDone { tag, result } if self.pending.contains_key(&tag) => {
                self.disk_done(tag, result);
            }
            Event::DiskDone { tag, result: Ok(Some(payload)) } => {
                let send_to = self.script.0.lock().unwrap().send_to;
                if let Some(socket) = send_to {
                    let (offset, length) = (tag.0 - 1, payload.length);
                    let packet =
                        Packet::Data { volume: 0, sequence: 1, offset, length, fua: false };
                    self.actions.push_back(Action::Send { socket, packet, payload: Some(payload) });
                }
                // Before the send is done: the kernel's use outlives it.
                self.actions.push_back(Action::Release(payload));
            }
            Event::Packet {
                packet: Packet::Data { offset, .. }, payload: Some(payload), ..
            } if self.status.role == Role::Primary => {
                let tag = self.tag(Then::Nothing);
                let (volume, fua) = (0, true);
                self.actions.push_back(Action::DiskWrite { tag, volume, offset, payload, fua });
                self.actions.push_back(Action::Release(payload));
            }
            Event::Packet { payload: Some(payload), .. } => {
                self.actions.push_back(Action::Release(payload));
            }
            Event::Admin { id, command } => self.admin(id, command),
            _ => {}
        }
        let freeze = self.script.0.lock().unwrap().freeze.take();
        self.script.1.notify_all();
        if let Some(freeze) = freeze {
            // As a stopped process would.
            let (_hold, never) = std::sync::mpsc::channel::<()>();
            let _ = never.recv_timeout(freeze);
        }
        assert!(!self.script.0.lock().unwrap().panic, "as the test wishes");
    }
    fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn next_timeout(&self) -> Option<Time> {
        None
    }
    fn state_version(&self) -> u64 {
        self.version
    }
    fn status(&self, _: Time) -> Status {
        self.status.clone()
    }
    fn export(&self, volume: VolumeNumber) -> Result<u64, String> {
        if volume == 0 { Ok(DISK) } else { Err("no such volume".to_owned()) }
    }
    fn admits(&self, _: VolumeNumber, _: &str) -> Result<(), String> {
        Ok(())
    }
    fn reads_locally(&self, _: VolumeNumber) -> bool {
        true
    }
}

//! A connection to a peer, and each volume's side of it.
//!
//! Invariants:
//! - `active` is the one socket that the session runs on; the others are attempts or challengers.
//! - `sent` holds every packet that wants an answer, by sequence; on a loss each becomes bits.
//! - A peer's bitmap, bitmap UUID and transfer log live in its own slot.

use std::collections::{BTreeMap, VecDeque};

use crate::resource::data::transfer_log::TransferLog;
use crate::resource::disk::bitmap::Bitmap;
use crate::resource::ids::{NodeId, Payload, SocketId, Time, VolumeNumber};
use crate::resource::options::PeerConfig;
use crate::resource::orders::pause::{Pause, PauseClock};
use crate::resource::peer::fencing::PeerFencing;
use crate::resource::peer::tentative::Tentative;
use crate::resource::sorted::Sorted;
use crate::resource::state::{ConnectionState, DiskState, Reason, ReplicationState, Role};
use crate::resource::status::LastVerify;
use crate::resource::sync::csums::Csums;
use crate::resource::sync::holes::Holes;
use crate::resource::sync::resync_rate::ResyncRate;
use crate::resource::sync::verify::Verify;
use crate::resource::{HandshakeStatus, PAYLOAD_MAX, PeerDeviceMetrics, Then, VerifyAlg};
use crate::wire::{Handshake, VolumeInfo};

/// How far the session with the peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No socket is active.
    #[default]
    Down,
    /// A socket is active, this node is Primary and the peer is not: its handshake is awaited, and
    /// requests go on (alone) meanwhile. The peer says it only when its disk has ended everything.
    Waiting,
    /// A socket is active (or a new handshake was asked for in an open session): requests drain,
    /// the loss sequence ends, then the handshake is sent.
    Quiescing,
    /// The own handshake was sent; the peer's is awaited.
    Handshake,
    /// Both are known and the verdict is being carried out, volume by volume.
    Opening,
    /// Every volume is open.
    Open,
}

impl Stage {
    /// A session goes on: it is open, or drains for a new handshake.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Open | Self::Quiescing)
    }
}

/// A TCP connection, or an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    /// We dialled it.
    pub(crate) dialled: bool,
    /// It is a TCP connection (not only an attempt).
    pub(crate) connected: bool,
    /// The peer's first packet came and fits: it has to prove the secret.
    pub(crate) asked: bool,
    /// And it has, or there is none: it may speak.
    pub(crate) greeted: bool,
    /// And said that the peer is Primary.
    pub(crate) peer_primary: bool,
    /// And that it hands over when it is asked to.
    pub(crate) hands_over: bool,
    /// And that it gives digests to the target of a resync.
    pub(crate) gives_digests: bool,
    /// Since when it is in this phase.
    pub(crate) since: Time,
}

impl Socket {
    /// An attempt, or a connection that has said nothing.
    pub(crate) fn new(dialled: bool, since: Time) -> Self {
        Self {
            dialled,
            connected: false,
            asked: false,
            greeted: false,
            peer_primary: false,
            hands_over: false,
            gives_digests: false,
            since,
        }
    }
}

/// What a sent packet was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SentKind {
    /// A client's write: the request's key.
    Write { key: u64 },
    /// A client's read.
    Read { key: u64 },
    /// An edge of an unaligned write.
    Edge { key: u64, head: bool },
    /// The peer's part of a flush of both disks.
    Flush,
    /// A flush of the peer's disk, as it is to go on alone: nobody waits for the answer.
    Parting,
    /// A block asked of the source.
    Resync,
    /// Leave to verify.
    VerifyStart,
    /// Leave to give a disk up, the own or the peer's.
    StartResync,
    /// A piece of a verify.
    Verify,
    /// Leave to become Primary.
    Promote,
    /// The Primary's role.
    HandOver,
    /// A comparison of a range of both disks.
    Sample,
    /// The new current UUID that the peer stores for a node without a disk.
    NewUuid,
}

/// A packet that wants an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) kind: SentKind,
    pub(crate) volume: VolumeNumber,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Payload bytes, counted against the peer's window.
    pub(crate) bytes: u32,
    pub(crate) at: Time,
    /// The flush epoch that the packet belongs to.
    pub(crate) epoch: u64,
    /// When the peer said last that it waits for space.
    pub(crate) heard: Option<Time>,
    /// It was asked to give the write back.
    pub(crate) recalled: bool,
}

/// A write of the peer on its way to the own disk.
#[derive(Clone, Debug)]
pub(crate) struct PeerWrite {
    pub(crate) connection: usize,
    /// The session that it belongs to; an answer goes only there.
    pub(crate) socket: SocketId,
    pub(crate) volume: VolumeNumber,
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) payload: Option<Payload>,
    pub(crate) no_hole: bool,
    pub(crate) fua: bool,
    /// The number that must be durable before the ack.
    pub(crate) number: u64,
    pub(crate) disk_done: bool,
    pub(crate) failed: bool,
    /// It holds its extents in the activity log (the peer has no disk).
    pub(crate) hot: bool,
    /// It is on its way to the disk.
    pub(crate) started: bool,
    /// If it finds no space now, the disk is let go of.
    pub(crate) last_try: bool,
    /// If it finds no space now, it is given back.
    pub(crate) recalled: bool,
}

/// A piece of resync on the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// A hole is asked for, of any length.
    pub(crate) hole: bool,
    /// The digests of its blocks are asked for.
    pub(crate) digests: Option<VerifyAlg>,
    /// What it counts in what is in flight, bytes: a hole costs little.
    pub(crate) charge: u32,
    /// Of the request, once it was sent.
    pub(crate) sequence: u64,
    pub(crate) requested: Option<Time>,
    /// Since when the hole is being made.
    pub(crate) making: Option<Time>,
}

/// A piece of resync on the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourcePiece {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// Only how much of it is a hole was asked.
    pub(crate) hole: bool,
    /// Only the digests of its blocks were asked for.
    pub(crate) digests: Option<VerifyAlg>,
    /// Its lock, and whether the range is held.
    pub(crate) lock: u64,
    pub(crate) held: bool,
    /// When its data went out; its answer is the peer's since then.
    pub(crate) sent_at: Option<Time>,
}

/// A running resync on the target.
#[derive(Clone, Debug)]
pub(crate) struct SyncTarget {
    /// Which one it is.
    pub(crate) round: u64,
    pub(crate) rate: ResyncRate,
    pub(crate) pauses: PauseClock,
    /// Blocks below were asked for in this pass.
    pub(crate) cursor: u64,
    /// Pieces by lock id (and sequence once sent).
    pub(crate) pieces: BTreeMap<u64, Piece>,
    pub(crate) in_flight: u64,
    /// Whether a hole is asked for next.
    pub(crate) holes: Holes,
    /// Whether the next piece is compared.
    pub(crate) csums: Csums,
    /// Written, not yet flushed: (first block, count).
    pub(crate) unflushed: Vec<(u64, u64)>,
    pub(crate) unflushed_blocks: u64,
    pub(crate) flushing: bool,
    pub(crate) last_flush: Time,
    pub(crate) last_save: Time,
    pub(crate) total: u64,
    /// Bytes that came as zeroes without a payload.
    pub(crate) zeroes: u64,
    /// Bytes of this pass that could not be copied.
    pub(crate) failed: u64,
    /// This pass has copied something.
    pub(crate) copied: bool,
    /// A whole pass has copied nothing: the next begins then.
    pub(crate) retry_at: Option<Time>,
    /// The source has nothing left.
    pub(crate) end_received: bool,
    pub(crate) finishing: bool,
}

/// A running resync on the source.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncSource {
    /// Pieces that the target asked for, by its sequence.
    pub(crate) pieces: BTreeMap<u64, SourcePiece>,
    pub(crate) end_sent: bool,
    pub(crate) total: u64,
    pub(crate) started: Time,
    /// When the bits that the target has cleared were saved last.
    pub(crate) last_save: Time,
    pub(crate) pauses: PauseClock,
    /// Bits at points of time, for the rate: (time, bytes left).
    pub(crate) marks: VecDeque<(Time, u64)>,
}

/// What a verdict asks of this node, for one volume, while a session opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    /// 0: no resync, 1: source, 2: target.
    pub(crate) side: Side,
    /// All bits, not the union.
    pub(crate) full: bool,
    /// The peer's bitmap came whole.
    pub(crate) bits_received: bool,
    /// So far it came up to this block.
    pub(crate) bits_to: u64,
    /// With so many bits set.
    pub(crate) bits: u64,
    /// This node is durably ready.
    pub(crate) own_open: bool,
    /// The peer said so.
    pub(crate) peer_open: bool,
    /// A handler has to allow the resync first.
    pub(crate) asks: bool,
}

/// Which part this node has in a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    /// The disks are equal, or there are not two.
    #[default]
    NoSync,
    /// The peer is brought up to date.
    Source,
    /// This node is brought up to date.
    Target,
}

/// What a bitmap write shall save.
#[derive(Clone, Debug)]
pub(crate) enum Save {
    /// Every page with bits set since it was saved.
    Unsaved,
    /// Also pages with bits cleared since they were saved.
    Stale,
}

/// A bitmap write under way.
#[derive(Clone, Debug)]
pub(crate) struct Saving {
    /// Actions under way.
    pub(crate) operations: usize,
    pub(crate) pages: Vec<u32>,
    /// So many of the pages were given to the disk.
    pub(crate) begun: usize,
    /// Of the pages.
    pub(crate) epoch: u32,
    /// The slot changes to Pages once these are durable, with this epoch.
    pub(crate) new_epoch: Option<u32>,
    pub(crate) then: Vec<Then>,
}

/// One volume's side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct PeerDevice {
    pub(crate) replication: ReplicationState,
    pub(crate) peer_disk: DiskState,
    /// It was UpToDate when it was heard of last, and at most lost since.
    pub(crate) was_whole: bool,
    pub(crate) pause: Pause,
    /// Samples that are being read for the peer.
    pub(crate) samples: u32,
    /// Its reads that are under way on the own disk.
    pub(crate) peer_reads: u32,
    /// The peer gives its disk up for the own one, which stays: its question, by sequence.
    pub(crate) promised: Option<u64>,
    /// The current UUID that it wants stored is being stored.
    pub(crate) storing_uuid: bool,
    pub(crate) bitmap: Bitmap,
    pub(crate) saving: Option<Saving>,
    pub(crate) save_queue: VecDeque<(Save, Vec<Then>)>,
    /// The slot in the superblock, while a disk is attached.
    pub(crate) slot: Option<u8>,
    pub(crate) transfer_log: TransferLog,
    /// What the last handshakes said, the own and the peer's.
    pub(crate) own_info: Option<VolumeInfo>,
    pub(crate) peer_info: Option<VolumeInfo>,
    pub(crate) opening: Opening,
    /// The highest rollback number that was sent in this session.
    pub(crate) sent_number: u64,
    /// The highest number that the peer has shown, in memory and durable.
    pub(crate) seen_number: Option<u64>,
    pub(crate) seen_durable: u64,
    pub(crate) seen_saving: bool,
    pub(crate) seen_copy: u8,
    /// The own and the peer's current UUID when a split brain was found that keeps the nodes apart:
    /// an order to discard the own data is for these. `None`: for whichever meet first.
    pub(crate) split_pair: Option<(u64, u64)>,
    pub(crate) target: Option<SyncTarget>,
    /// Counts them: a flush of an earlier one ends nothing of a later one.
    pub(crate) target_round: u64,
    pub(crate) source: Option<SyncSource>,
    pub(crate) verify: Option<Verify>,
    pub(crate) last_verify: Option<LastVerify>,
    /// Runs of blocks that differ, in the middle of a resync that may clear their bits; a few: they are agreed on soon.
    pub(crate) differing: Vec<(u64, u64)>,
    /// Ranges that a resync or a verify holds (true) or waits for.
    pub(crate) resync_locks: BTreeMap<u64, bool>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) metrics: PeerDeviceMetrics,
    /// Pieces of a resync that the own disk is writing: first byte, bytes.
    pub(crate) target_writes: BTreeMap<u64, (u64, u64)>,
    /// Writes of the peer that wait for one of these; some of them may be gone meanwhile.
    pub(crate) behind_resync: Vec<u64>,
    /// Disk writes for the peer under way on the own disk, resync among them.
    pub(crate) peer_writes: u32,
    /// Writes that wait for space on the peer's disk, by sequence, and since when there are any.
    pub(crate) starved: std::collections::BTreeSet<u64>,
    pub(crate) full_since: Option<Time>,
    /// The peer was told to let go of its disk, by this write.
    pub(crate) let_go: Option<u64>,
    /// A flush for the peer runs; and its sequence, a later one waits.
    pub(crate) peer_flush: Option<u64>,
    pub(crate) peer_flush_waiting: Vec<u64>,
}

impl PeerDevice {
    pub(crate) fn new() -> Self {
        Self {
            replication: ReplicationState::Off,
            peer_disk: DiskState::DUnknown,
            was_whole: false,
            pause: Pause::default(),
            bitmap: Bitmap::new(0),
            saving: None,
            samples: 0,
            peer_reads: 0,
            promised: None,
            storing_uuid: false,
            save_queue: VecDeque::new(),
            slot: None,
            transfer_log: TransferLog::default(),
            own_info: None,
            peer_info: None,
            opening: Opening::default(),
            sent_number: 0,
            seen_number: None,
            seen_durable: 0,
            seen_saving: false,
            seen_copy: 0,
            split_pair: None,
            target: None,
            target_round: 0,
            source: None,
            verify: None,
            last_verify: None,
            differing: Vec::new(),
            resync_locks: BTreeMap::new(),
            received: 0,
            sent: 0,
            metrics: Default::default(),
            target_writes: BTreeMap::new(),
            behind_resync: Vec::new(),
            peer_writes: 0,
            starved: Default::default(),
            full_since: None,
            let_go: None,
            peer_flush: None,
            peer_flush_waiting: Vec::new(),
        }
    }

    /// Writes go to the peer.
    pub(crate) fn replicates(&self) -> bool {
        matches!(
            self.replication,
            ReplicationState::Established
                | ReplicationState::SyncSource
                | ReplicationState::SyncTarget
                | ReplicationState::PausedSyncS
                | ReplicationState::PausedSyncT
                | ReplicationState::VerifyS
                | ReplicationState::VerifyT
        ) && self.peer_disk >= DiskState::Inconsistent
            && self.peer_disk != DiskState::DUnknown
    }

    /// Connected, and neither disk waits for data of the other one.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.replication.mirrors() && self.peer_disk == DiskState::UpToDate
    }

    /// Every bit of the blocks is durable.
    pub(crate) fn saved(&self, first: u64, count: u64) -> bool {
        if !self.bitmap.unsaved_pages_in(first, count).is_empty() {
            return false;
        }
        let Some(saving) = &self.saving else { return true };
        let page = |block: u64| block / crate::meta::PAGE_BITS;
        let (low, high) = (page(first), page(first + count - 1));
        !saving.pages.iter().any(|index| (low..=high).contains(&u64::from(*index)))
    }
}

/// The orderly end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// The own order: requests drain and both disks are flushed first.
    Preparing { id: u64, kind: u8 },
    /// `Leave` was sent.
    Asked { id: u64, kind: u8 },
    /// The peer leaves: requests drain, then both disks are flushed.
    PeerAsked,
}

/// What a node's disk is marked with when a connection ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Survived,
    Outdated,
    /// Neither, as in a session: a Secondary that was left has become Primary since it was marked.
    Unsaid,
}

/// A connection to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: NodeId,
    pub(crate) name: String,
    pub(crate) state: ConnectionState,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) since: Time,
    pub(crate) attempts: u64,
    /// Sessions that were opened since `up`.
    pub(crate) sessions: u64,
    /// `connect --discard-my-data` waits.
    pub(crate) discard_my_data: bool,
    /// `connect --tentative` waits for its verdict.
    pub(crate) tentative: Option<Tentative>,
    /// When a `disconnect --for` is over.
    pub(crate) back_at: Option<Time>,
    pub(crate) sockets: BTreeMap<SocketId, Socket>,
    pub(crate) active: Option<SocketId>,
    pub(crate) challenger: Option<SocketId>,
    /// The handshake that came on the challenger: its peer does not know that it has to wait.
    pub(crate) challenger_handshake: Option<Box<Handshake>>,
    pub(crate) stage: Stage,
    /// Since when the stage holds.
    pub(crate) stage_since: Time,
    /// The peer has asked for a new handshake, or we want one, in an open session.
    pub(crate) backoff_ms: u64,
    pub(crate) next_dial: Option<Time>,
    pub(crate) last_received: Time,
    pub(crate) ping_sent: Option<Time>,
    pub(crate) next_sequence: u64,
    pub(crate) sent: Sorted<u64, Sent>,
    /// The peer's receive window, bytes; and client payload under way in it.
    pub(crate) window: u64,
    pub(crate) in_flight: u64,
    pub(crate) peer_role: Role,
    pub(crate) fencing: PeerFencing,
    pub(crate) tie: u64,
    pub(crate) peer_handshake: Option<Box<Handshake>>,
    /// Of the own bitmap, sent for the opening session and not yet taken by the peer.
    pub(crate) bitmap_packets: usize,
    pub(crate) leaving: Option<Leaving>,
    /// Volumes that the leave waits for; `u32::MAX`: it was answered.
    pub(crate) leave_step: u32,
    /// It was lost while this node left it: nobody has answered.
    pub(crate) left_unanswered: bool,
    /// What the disks are marked with for the leave.
    pub(crate) leave_marked: Option<Mark>,
    /// The peer has asked to leave while this node prepared to: it waits for an answer.
    pub(crate) peer_leaves_too: bool,
    /// The peer that leaves ends: nothing keeps it.
    pub(crate) peer_ends: bool,
    pub(crate) peer_devices: BTreeMap<VolumeNumber, PeerDevice>,
    /// The role when it was known last.
    pub(crate) last_role: Role,
    /// It was Primary since the last handshake: its current UUID may be another than it said there.
    pub(crate) was_primary: bool,
    /// Blocks differ, and what a resync or a handshake goes by does not say so: the session begins anew.
    pub(crate) differs: bool,
    pub(crate) last_handshake: Vec<HandshakeStatus>,
    pub(crate) last_complaint: Option<Time>,
    pub(crate) complaints: u64,
}

impl Connection {
    /// When the oldest packet was sent that the peer still owes an answer to: what ko-count judges.
    pub(crate) fn oldest_unanswered(&self) -> Option<Time> {
        let owed = |sent: &Sent| match sent.kind {
            // Of a resync that is over (a disk is gone) no answer comes.
            SentKind::Resync => {
                let target = self.peer_devices.get(&sent.volume).and_then(|p| p.target.as_ref());
                target.is_some_and(|target| target.pieces.contains_key(&sent.epoch))
            }
            // The order ends by itself; a disk that is given up need not answer for the connection.
            SentKind::StartResync | SentKind::HandOver | SentKind::Parting => false,
            _ => true,
        };
        // In the order of time; who has said meanwhile that it waits for space is heard since then.
        let mut sent: Option<Time> = None;
        for one in self.sent.values().filter(|sent| owed(sent)) {
            let at = one.heard.unwrap_or(one.at);
            sent = Some(sent.map_or(at, |sent| sent.min(at)));
            if one.heard.is_none() {
                break;
            }
        }
        let sources = self.peer_devices.values().filter_map(|peer| peer.source.as_ref());
        let pieces =
            sources.filter_map(|source| source.pieces.values().find_map(|piece| piece.sent_at));
        let verifies = self.peer_devices.values().filter_map(|peer| peer.verify.as_ref());
        let compared = verifies
            .filter(|verify| !verify.source)
            .filter_map(|verify| verify.pieces.values().find_map(|piece| piece.sent_at));
        sent.into_iter().chain(pieces).chain(compared).min()
    }

    pub(crate) fn new(config: &PeerConfig, volumes: &[VolumeNumber]) -> Self {
        Self {
            peer: config.node_id,
            name: config.name.clone(),
            state: ConnectionState::StandAlone,
            reason: Reason::NeverConnected,
            detail: String::new(),
            since: Time::default(),
            attempts: 0,
            sessions: 0,
            discard_my_data: false,
            tentative: None,
            back_at: None,
            sockets: BTreeMap::new(),
            active: None,
            challenger: None,
            challenger_handshake: None,
            stage: Stage::Down,
            stage_since: Time::default(),
            backoff_ms: 0,
            next_dial: None,
            last_received: Time::default(),
            ping_sent: None,
            next_sequence: 1,
            sent: Sorted::default(),
            window: 0,
            in_flight: 0,
            fencing: PeerFencing::default(),
            peer_role: Role::Unknown,
            tie: 0,
            peer_handshake: None,
            bitmap_packets: 0,
            leaving: None,
            leave_step: 0,
            left_unanswered: false,
            leave_marked: None,
            peer_leaves_too: false,
            peer_ends: false,
            peer_devices: volumes.iter().map(|volume| (*volume, PeerDevice::new())).collect(),
            last_role: Role::Unknown,
            was_primary: false,
            differs: false,
            last_handshake: Vec::new(),
            last_complaint: None,
            complaints: 0,
        }
    }

    /// Payload bytes of clients' writes that may be under way: three quarters of the window; the
    /// rest is for resync.
    pub(crate) fn client_window(&self) -> u64 {
        (self.window * 3 / 4).max(u64::from(PAYLOAD_MAX))
    }
}

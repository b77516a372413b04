//! A volume on this node: its disk, its metadata in memory, and the flushes under way.
//!
//! Invariants:
//! - `Backing` exists exactly while a disk is attached (Attaching to Detaching); `outstanding`
//!   counts every disk and metadata action that has not completed, so that a disk is closed only
//!   when it is 0.
//! - One superblock write at a time; a later change waits and is written with the next one.

use std::collections::{BTreeSet, VecDeque};

use crate::meta::{BitmapState, DeviceFlags, Superblock};
use crate::resource::data::activity_log::ActivityLog;
use crate::resource::data::cache::{Cache, Covered};
use crate::resource::data::interval::Intervals;
use crate::resource::disk::came_back::{CameBack, OnlyHung};
use crate::resource::disk::parting::Parting;
use crate::resource::ids::{
    BLOCK_SIZE, NodeId, Payload, RequestId, SessionId, Tag, Time, VolumeNumber,
};
use crate::resource::orders::resize::Growing;
use crate::resource::state::{DiskState, Role};
use crate::resource::{DeviceMetrics, Then};

/// An attached disk.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    /// The superblock as it shall be; what is durable may be older.
    pub(crate) superblock: Superblock,
    /// Bytes that the disk offers.
    pub(crate) data_size: u64,
    /// 512 or 4096.
    pub(crate) logical_block_size: u32,
    /// Hot extents.
    pub(crate) activity_log: ActivityLog,
    /// The rollback number is known (no damaged block at attach).
    pub(crate) number_known: bool,
    /// This disk was a Primary's and its node crashed; no session since.
    pub(crate) crashed: bool,
    /// The superblock write under way, with what follows it.
    pub(crate) saving: Option<(Tag, Vec<Then>)>,
    /// The superblock changed since the write under way started; what follows the next one.
    pub(crate) unsaved: Option<Vec<Then>>,
    /// Disk and metadata actions under way.
    pub(crate) outstanding: u32,
    /// Metadata writes among them, without those that are held back.
    pub(crate) meta_writes: u32,
    /// The disk is asked for more room: metadata writes are held back.
    pub(crate) growing: Option<Growing>,
    /// It has failed, and is to say that the peer goes on.
    pub(crate) parting: Parting,
    /// The disk was given up because it does not answer: nobody waits for what is under way on it.
    pub(crate) abandoned: bool,
    /// It was given up for that alone, now or before it was attached again: nothing has failed on it.
    pub(crate) only_hung: Option<OnlyHung>,
}

impl Backing {
    /// A flag of the superblock.
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.superblock.flags & flag != 0
    }

    /// Sets and clears flags of the superblock in memory. Whoever says whether the disk has survived
    /// says as well that it stands in for nobody, or for whom else, and whether that is in doubt.
    pub(crate) fn flags(&mut self, set: u32, clear: u32) {
        let said = (set | clear) & DeviceFlags::SURVIVED != 0;
        let with_it = DeviceFlags::STANDS_IN | DeviceFlags::IN_DOUBT;
        let clear = if said { clear | with_it } else { clear };
        self.superblock.flags = self.superblock.flags & !clear | set;
    }

    /// Puts an identifier in front of the history; 0 and what stands there already are left out.
    pub(crate) fn remember(&mut self, uuid: u64) {
        self.superblock.remember(uuid);
    }

    /// A superblock is on its way to the disk, or waits to be.
    pub(crate) fn is_saving(&self) -> bool {
        self.saving.is_some() || self.unsaved.is_some()
    }

    /// All blocks may differ from those of the nodes that are meant: they are synced in full when they come
    /// back. In the superblock alone; the caller saves it.
    pub(crate) fn set_all_toward(&mut self, is_meant: impl Fn(NodeId) -> bool) {
        let slots = self.superblock.peers.iter_mut();
        let meant = slots.filter(|slot| slot.node_id.is_some_and(&is_meant));
        for slot in meant.filter(|slot| slot.bitmap_state != BitmapState::AllSet) {
            slot.bitmap_state = BitmapState::AllSet;
            slot.bitmap_epoch = slot.bitmap_epoch.wrapping_add(2);
        }
    }

    /// The slot of a peer, made if there is a free one.
    pub(crate) fn slot(&mut self, peer: NodeId) -> Option<u8> {
        let peers = &mut self.superblock.peers;
        let index = peers
            .iter()
            .position(|slot| slot.node_id == Some(peer))
            .or_else(|| peers.iter().position(|slot| slot.node_id.is_none()))?;
        peers[index].node_id = Some(peer);
        u8::try_from(index).ok()
    }

    /// While connected the remark in the current UUID follows the role (docs/GENERATIONS.md): in a
    /// bitmap UUID it tells later who was Primary when the common generation ended.
    pub(crate) fn mark_role(&mut self, role: Role) {
        if !self.is_just_created() {
            let uuid = &mut self.superblock.current_uuid;
            *uuid = *uuid & !1 | u64::from(role == Role::Primary);
        }
    }

    /// Fresh metadata that no force or session has touched.
    pub(crate) fn is_just_created(&self) -> bool {
        self.superblock.current_uuid == crate::meta::JUST_CREATED
    }

    /// A peer has had all that this disk has, and neither has begun a generation without the other.
    pub(crate) fn shares_its_generation(&self, mut peers: impl Iterator<Item = NodeId>) -> bool {
        peers.any(|peer| {
            let slot = self.superblock.peers.iter().find(|slot| slot.node_id == Some(peer));
            slot.is_some_and(|slot| slot.device_uuid != 0 && slot.bitmap_uuid == 0)
        })
    }

    /// What the flags say of the data (DESIGN 5): after a restart a disk is Consistent, and UpToDate
    /// alone only with SURVIVED.
    pub(crate) fn resting_state(&self) -> DiskState {
        if !self.has(DeviceFlags::CONSISTENT) {
            DiskState::Inconsistent
        } else if self.has(DeviceFlags::OUTDATED) || !self.has(DeviceFlags::WAS_UP_TO_DATE) {
            DiskState::Outdated
        } else if self.has(DeviceFlags::SURVIVED) && !self.has(DeviceFlags::IN_DOUBT) {
            DiskState::UpToDate
        } else {
            DiskState::Consistent
        }
    }
}

/// Where the loss sequence of a volume stands (model.md R2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Loss {
    /// No loss is being dealt with.
    #[default]
    None,
    /// Writes of the lost peer are still under way on the own disk.
    Draining,
    /// The own disk is being flushed.
    Flushing,
    /// SURVIVED is being made durable.
    Marking,
}

/// Whether the clients of a Primary are disconnected when there is a copy to read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CutOff {
    /// Nothing that was answered is missing.
    #[default]
    No,
    /// Unless the copy that comes back says that it has lost nothing.
    Perhaps,
    /// It has said that it has.
    Yes,
}

/// Who waits for a flush: client requests, and what else follows.
pub(crate) type FlushWaiters = (Vec<u64>, Vec<Then>);

/// A flush of both disks under way.
#[derive(Clone, Debug)]
pub(crate) struct Flush {
    /// Writes stamped up to this are covered.
    pub(crate) epoch: u64,
    /// The own disk has not answered.
    pub(crate) local: bool,
    /// Connections (by index, one bit each) that have not answered.
    pub(crate) peers: u32,
    /// A disk failed in it.
    pub(crate) failed: bool,
    /// No write was under way when it began: behind it nothing is in a cache but what was started since.
    pub(crate) covers: Option<Covered>,
    /// Client requests that wait for it.
    pub(crate) requests: Vec<u64>,
    /// What else waits for it.
    pub(crate) then: Vec<Then>,
}

/// A client connection to the volume.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Its number.
    pub(crate) session: SessionId,
    /// Its name, for people.
    pub(crate) name: String,
    /// When it opened the volume, s of the wall clock (display only).
    pub(crate) since: u64,
}

/// Counters of a device, bytes or numbers since `up`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) bm_writes: u64,
    pub(crate) metrics: DeviceMetrics,
}

/// A volume on this node.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) disk: DiskState,
    pub(crate) backing: Option<Backing>,
    /// Exported bytes, 0: not known yet.
    pub(crate) size: u64,
    /// Extents were hot when the disk was attached after a crash: what they hold may differ, and mostly
    /// does not. Until a resync has ended.
    pub(crate) hot_at_attach: bool,
    pub(crate) intervals: Intervals,
    /// Completed writes are stamped with this; a flush of both disks takes it and adds one.
    pub(crate) epoch: u64,
    /// Writes stamped up to this are durable on both disks.
    pub(crate) flushed_epoch: u64,
    /// What may be in the caches of the disks.
    pub(crate) cache: Cache,
    pub(crate) flush: Option<Flush>,
    pub(crate) next_flush: Option<FlushWaiters>,
    /// Lists that are empty again, for those who wait next: two at most.
    pub(crate) spare_waiters: Vec<FlushWaiters>,
    pub(crate) loss: Loss,
    /// Counts losses: a step of an earlier one ends nothing of a later one.
    pub(crate) loss_round: u64,
    /// After the loss sequence a new current UUID is due even without a waiting reply.
    pub(crate) bump_due: bool,
    /// The disk has writes that rest on it alone and were answered to nobody, for their clients were
    /// closed by a gap: no request is admitted until that is recorded, or the peer is back.
    pub(crate) unheard: bool,
    /// A write under way has ended without a yes: a peer's disk may have it, and the own one not. Without the own
    /// disk no client reads at that peer before its generation is a new one, which the own disk does not have.
    pub(crate) doubtful: bool,
    /// Nothing was written alone since this node was promoted: the first such write begins a generation, also
    /// where one was begun before. A Primary without a disk may have read that one here, and must find that
    /// somebody has written since.
    pub(crate) new_stint: bool,
    /// The loss sequence shall set SURVIVED.
    pub(crate) survives: bool,
    /// A new current UUID is being made durable, here or on the peer that has the only disk.
    pub(crate) bumping: bool,
    /// Requests whose reply waits for the loss sequence or the new UUID.
    pub(crate) waiting_alone: VecDeque<u64>,
    /// The peer with the only disk has stored a new current UUID for us (R15).
    pub(crate) peer_keeps_uuid: bool,
    /// The current UUID that clients have seen data of; kept while Diskless.
    pub(crate) exposed_uuid: u64,
    /// Without a disk: the current UUID that a peer was asked to begin, and has not said that it has; 0: none.
    pub(crate) asked_uuid: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) counters: Counters,
    /// The last write that a peer does not have, s of the wall clock (display only).
    pub(crate) alone_time: u64,
    /// Writes that have found no space, clients' and the peer's ([`crate::resource::data::peer_io::PEER_WRITE`]),
    /// until they are tried again.
    pub(crate) no_space: VecDeque<u64>,
    /// When they were tried last.
    pub(crate) no_space_since: Option<Time>,
    /// All that have found none and are not done, also while they are tried again; since when there
    /// are any; and when the peer was told last who waits for them.
    pub(crate) starved: BTreeSet<u64>,
    pub(crate) full_since: Option<Time>,
    pub(crate) space_told: Option<Time>,
    /// They are being tried for the last time, or were, before the disk is let go of.
    pub(crate) last_try: bool,
    /// When the rollback number is to grow: something was written since it did last.
    pub(crate) raise_at: Option<Time>,
    /// The start of its oldest operation, where that takes too long.
    pub(crate) hung_since: Option<Time>,
    /// A flush, or a durable write, of this disk (its device_uuid) has failed while it was UpToDate: what was acknowledged and in its
    /// cache may be gone, and no next sync tells.
    pub(crate) sync_failed: Option<u64>,
    /// The disk that was closed last only hung.
    pub(crate) came_back: Option<CameBack>,
    /// The only copy that clients could reach has failed under a Primary, or went away with its node: what
    /// they had not flushed may be gone when one is back.
    pub(crate) cut_off: CutOff,
    /// This node is Primary, and no good copy can be reached.
    pub(crate) degraded: bool,
    /// What happened to the disk last, for `why`.
    pub(crate) note: String,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self {
            disk: DiskState::Diskless,
            backing: None,
            size: 0,
            hot_at_attach: false,
            intervals: Intervals::default(),
            epoch: 1,
            flushed_epoch: 0,
            cache: Cache::default(),
            flush: None,
            next_flush: None,
            spare_waiters: Vec::new(),
            loss: Loss::None,
            loss_round: 0,
            bump_due: false,
            unheard: false,
            doubtful: false,
            new_stint: false,
            survives: false,
            bumping: false,
            waiting_alone: VecDeque::new(),
            peer_keeps_uuid: false,
            exposed_uuid: 0,
            asked_uuid: 0,
            clients: Vec::new(),
            counters: Counters::default(),
            alone_time: 0,
            no_space: VecDeque::new(),
            no_space_since: None,
            starved: BTreeSet::new(),
            full_since: None,
            space_told: None,
            last_try: false,
            raise_at: None,
            hung_since: None,
            sync_failed: None,
            came_back: None,
            cut_off: CutOff::No,
            degraded: false,
            note: String::new(),
        }
    }

    /// The own disk takes writes: its content is meant to be, or to become, the current one.
    pub(crate) fn writable(&self) -> bool {
        self.backing.is_some()
            && matches!(
                self.disk,
                DiskState::Inconsistent
                    | DiskState::Outdated
                    | DiskState::Consistent
                    | DiskState::UpToDate
            )
    }

    /// There is no disk, or it has failed and is not used any more.
    pub(crate) fn gone(&self) -> bool {
        self.backing.is_none() || self.disk == DiskState::Failed
    }

    /// The disk was given up because it does not answer, and is not closed yet.
    pub(crate) fn abandoned(&self) -> bool {
        self.backing.as_ref().is_some_and(|backing| backing.abandoned)
    }

    /// It has failed, and nothing is waited for but its last mark.
    pub(crate) fn parts(&self) -> bool {
        let parts = |backing: &Backing| backing.parting.is_under_way();
        self.disk == DiskState::Failed && self.backing.as_ref().is_some_and(parts)
    }

    /// What the handshake says of the disk: while it is Negotiating, what its flags say.
    pub(crate) fn asked_state(&self) -> DiskState {
        match &self.backing {
            Some(backing) if self.disk == DiskState::Negotiating => backing.resting_state(),
            _ => self.disk,
        }
    }

    /// The rollback number as it is on the disk, `None` without a disk or after damage.
    pub(crate) fn number(&self) -> Option<u64> {
        let backing = self.backing.as_ref()?;
        backing.number_known.then_some(backing.activity_log.durable_number())
    }

    /// A loss begins, also in the middle of an earlier one: its sequence runs from the start.
    pub(crate) fn begin_loss(&mut self) {
        self.loss = Loss::Draining;
        self.loss_round += 1;
    }

    /// Blocks of the export.
    pub(crate) fn blocks(&self) -> u64 {
        self.size / BLOCK_SIZE
    }
}

/// What a client's request is, and how far it is.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    /// When it came.
    pub(crate) since: Time,
    pub(crate) volume: VolumeNumber,
    pub(crate) kind: RequestKind,
    /// The client's range, bytes.
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) fua: bool,
    pub(crate) payload: Option<Payload>,
    pub(crate) progress: Progress,
    /// It holds its range in `intervals`.
    pub(crate) locked: bool,
    /// It holds its extents in the activity log.
    pub(crate) hot: bool,
    /// The own disk has not answered.
    pub(crate) local_pending: bool,
    /// The own disk has it.
    pub(crate) local_done: bool,
    /// Connections that have not answered, one bit each.
    pub(crate) peers_pending: u32,
    /// Connections whose disk has it.
    pub(crate) peers_done: u32,
    /// Edges of an unaligned write that are being read.
    pub(crate) edges_pending: u8,
    /// No disk could read an edge.
    pub(crate) edge_lost: bool,
    /// The own disk failed it: the peer is asked.
    pub(crate) failed: bool,
    /// A peer has given it back, as it waited for space there: it starts over.
    pub(crate) taken_back: bool,
    /// It was on its way to the disks before, and is held: some may have it.
    pub(crate) begun: bool,
}

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Read,
    Write,
    Flush,
    Zeroes { no_hole: bool },
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// Held back: a handshake, a freeze.
    Held,
    /// Waits for its range.
    Range,
    /// Its edges are being read.
    Edges,
    /// Waits for the activity log.
    Log,
    /// Waits for room in the peer's receive window.
    Window,
    /// On its way to the disks.
    Started,
    /// Done, but the reply waits for the loss sequence or a new current UUID.
    Alone,
}

impl Request {
    /// The range in whole blocks that is locked, written and replicated: (offset, length).
    pub(crate) fn hull(&self) -> (u64, u64) {
        let start = self.offset / BLOCK_SIZE * BLOCK_SIZE;
        let end = (self.offset + u64::from(self.length)).next_multiple_of(BLOCK_SIZE);
        (start, end - start)
    }
}

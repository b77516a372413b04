//! crm-store-uuid on a simulated node: what it asks tandemd, its verbs, and a fence-peer that runs.
//!
//! Invariants:
//! - A fence-peer ends with 4 or 7 only when this node has on its disk a configuration with the mark and an
//!   `admin_epoch` that was raised before; and the peer has both too (4), or is off (7).
//! - Between two steps the whole cluster may change: what ends it is looked at last.

use crate::resource::{ConnectionState, DiskState, HandlerOutcome, Role, Time, VolumeNumber};

use super::super::cluster::Cluster;
use super::{Change, Mark, Pacemaker, SETTLE_MS};

/// What a fence-peer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Looks,
    Marks,
    Outlasts,
    /// It waits for its own disk until then.
    Stores(Time),
    Ends,
}

/// A fence-peer that runs.
#[derive(Clone, Debug)]
pub(super) struct Call {
    life: u64,
    number: u64,
    role: Role,
    /// The peer has been joined since then.
    since: Time,
    /// Killed then.
    until: Time,
    /// It marks nobody any more: a demotion was ordered after it began.
    pub(super) demoted: bool,
    step: Step,
    /// The peer was off when it began to mark it.
    off: bool,
    /// The step is done then.
    at: Time,
    /// What it has raised `admin_epoch` to, and made.
    pub(super) raised: u64,
    pub(super) mark: Option<Mark>,
}

impl Cluster {
    pub(super) fn role(&self, node: usize) -> Option<Role> {
        let n = &self.nodes[node];
        n.is_awake().then(|| n.status.as_ref().map(|status| status.role))?
    }

    pub(super) fn is_connected(&self, node: usize) -> bool {
        let connection = self.nodes[node].connection();
        connection.is_some_and(|c| c.connection_state == ConnectionState::Connected)
    }

    pub(super) fn is_in_sync(&self, node: usize) -> bool {
        self.is_connected(node)
            && (0..self.options.volumes).all(|volume| {
                let n = &self.nodes[node];
                let own = n.device(volume).map(|device| device.disk_state);
                let peers = n.peer_device(volume).map(|peer| peer.peer_disk_state);
                own == Some(DiskState::UpToDate) && peers == Some(DiskState::UpToDate)
            })
    }

    /// Current, bitmap and two of the history, without the lowest bit.
    pub(super) fn generations(&self, node: usize, volume: VolumeNumber) -> Option<[u64; 4]> {
        let block = self.nodes[node].volumes[usize::from(volume)].durable.as_ref()?;
        let bitmap = block.peers.first().map_or(0, |slot| slot.bitmap_uuid);
        Some([block.current_uuid, bitmap, block.history[0], block.history[1]].map(|one| one & !1))
    }

    /// Whether this disk has what the peer's may lack: also what both have acknowledged, and the peer had not
    /// flushed when it was lost. No generation says so.
    pub(super) fn has_more(&self, node: usize, volume: VolumeNumber) -> bool {
        let status = self.nodes[node].status.as_ref();
        let peers = status.and_then(|status| status.connections.first()).map(|c| &c.peer_devices);
        let peer = peers.and_then(|peers| peers.iter().find(|peer| peer.volume == volume));
        peer.is_none_or(|peer| peer.out_of_sync != 0)
    }

    /// Every disk of the node is UpToDate.
    pub(super) fn is_up_to_date(&self, node: usize) -> bool {
        let mut disks = (0..self.options.volumes).map(|volume| self.nodes[node].device(volume));
        disks.all(|device| device.is_some_and(|one| one.disk_state == DiskState::UpToDate))
    }

    // --- crm-store-uuid ------------------------------------------------------------------------------

    /// `stale`: whether the node's own copy says so of its disk; where tandemd does not answer, yes.
    pub(super) fn is_stale(&self, world: &Pacemaker, node: usize) -> bool {
        let Some(mark) = &world.copies[node].marks[node] else {
            return false;
        };
        if self.role(node).is_none() {
            return true;
        }
        let behind = |(volume, from): (VolumeNumber, &u64)| {
            self.generations(node, volume)
                .is_none_or(|[current, _, one, two]| current == *from || ![one, two].contains(from))
        };
        !self.is_in_sync(node) && (0..).zip(&mark.from).any(behind)
    }

    pub(super) fn claim(&self, node: usize) -> Option<Mark> {
        let from = |volume| {
            let [current, bitmap, ..] = self.generations(node, volume)?;
            Some(if bitmap == 0 { current } else { bitmap })
        };
        let from = (0..self.options.volumes).map(from).collect::<Option<_>>()?;
        Some(Mark { by: node, from })
    }

    /// `Action::RunHandler` of fence-peer.
    pub(in crate::sim) fn fence_peer_begins(&mut self, node: usize, number: u64, limit_ms: u64) {
        let Some(mut world) = self.pacemaker.take() else {
            return;
        };
        let stale = self.is_stale(&world, node);
        world.calls[node] = Some(Call {
            life: self.nodes[node].life,
            number,
            role: self.role(node).unwrap_or(Role::Unknown),
            since: self.now,
            // What it found at its start it says at the next look.
            until: if stale { self.now } else { self.now.after_ms(limit_ms) },
            demoted: false,
            step: Step::Looks,
            off: false,
            at: self.now,
            raised: 0,
            mark: None,
        });
        world.marks.refused += u64::from(stale);
        self.pacemaker = Some(world);
    }

    /// One turn of fence-peer; its end.
    pub(super) fn call_goes_on(
        &mut self,
        world: &mut Pacemaker,
        node: usize,
    ) -> Option<(u64, HandlerOutcome)> {
        let mut call = world.calls[node].take()?;
        if self.nodes[node].life != call.life {
            // With tandemd it ends; or finds out, and nobody hears of it.
            return None;
        }
        if self.nodes[node].frozen.is_some() {
            world.calls[node] = Some(call);
            return None;
        }
        let code = if self.is_connected(node)
            || self.role(node) != Some(call.role)
            || call.until <= self.now
        {
            Some(1)
        } else {
            if !world.members[node].joined {
                call.since = self.now;
            }
            if call.at > self.now {
                world.calls[node] = Some(call);
                return None;
            }
            call.at = self.now.after_ms(world.chance.skewed(1, 1_000));
            match self.fence_step(world, node, &mut call) {
                Ok(code) => code,
                // Nobody answers just now: a Primary goes on asking.
                Err(()) if call.role != Role::Primary && world.chance.one_in(2) => Some(1),
                Err(()) => {
                    (call.step, call.since) = (Step::Looks, self.now);
                    None
                }
            }
        };
        match code {
            Some(4) => world.marks.told += 1,
            Some(7) => world.marks.off += 1,
            Some(_) => world.marks.given_up += 1,
            None => world.calls[node] = Some(call.clone()),
        }
        code.map(|code| (call.number, HandlerOutcome::Exited(code)))
    }

    /// It has gone on alone.
    pub(super) fn is_alone(&self, node: usize) -> bool {
        let alone = |volume| self.generations(node, volume).is_some_and(|[_, one, ..]| one != 0);
        (0..self.options.volumes).any(alone)
    }

    /// The peer is off, and has not gone on from what this node has: it has been here since Pacemaker of this
    /// node was started, with what it had; or this node has gone on alone itself, and has done so since.
    fn counts_as_off(&self, world: &Pacemaker, node: usize) -> bool {
        let member = world.members[node];
        let mark = world.copies[node].marks[1 - node].as_ref().filter(|mark| mark.by == node);
        let own = mark.is_some() && mark == self.claim(node).as_ref() && self.is_alone(node);
        member.is_off() && (member.was_joined || own)
    }

    /// A step of fence-peer: how it ends; an error, where what it asked for has not come about.
    fn fence_step(
        &mut self,
        world: &mut Pacemaker,
        node: usize,
        call: &mut Call,
    ) -> Result<Option<i32>, ()> {
        let peer = 1 - node;
        let member = world.members[node];
        if !member.up || world.chance.one_in(40) {
            return Err(());
        }
        // It may have lost what the peer has.
        let has_all = member.joined && world.members[peer].is_up_to_date
            || member.is_off() && world.copies[node].left[peer];
        let better = has_all && !self.is_alone(node);
        if better && call.role == Role::Secondary && !self.is_up_to_date(node) {
            let own = world.copies[node].marks[peer].as_ref().is_some_and(|mark| mark.by == node);
            if own {
                // Nothing has followed it; or neither would be promoted.
                self.write(world, node, Change::Mark { target: peer, mark: None }).ok();
            }
            return Ok(Some(1));
        }
        let off = self.counts_as_off(world, node);
        let settled = self.now.ms_since(call.since) >= SETTLE_MS;
        let here = member.joined && member.quorum && settled;
        match call.step {
            Step::Looks => {
                let hopeless = member.is_pending() || member.is_off() && !off;
                if hopeless && call.role != Role::Primary {
                    return Ok(Some(1));
                }
                if !(off || here) {
                    call.at = self.now;
                    return Ok(None);
                }
                // A peer that is off may have raised it alone before it was fenced.
                let step = if off { 1_000 } else { 1 };
                call.off = off;
                call.raised = (world.copies[node].version.0 / step + 1) * step;
                self.write(world, node, Change::Raise(call.raised))?;
                call.step = Step::Marks;
            }
            Step::Marks => {
                // Under the lock.
                if call.demoted || self.is_stale(world, node) {
                    return Ok(Some(1));
                }
                call.mark = self.claim(node);
                let mark = Some(call.mark.clone().ok_or(())?);
                self.write(world, node, Change::Mark { target: peer, mark })?;
                call.step = Step::Outlasts;
            }
            Step::Outlasts => {
                self.write(world, node, Change::Outlasts { node, value: call.raised })?;
                call.step = Step::Stores(self.now.after_ms(5_000));
            }
            Step::Stores(until) => {
                let stored = &world.disks[node];
                if stored.version.0 >= call.raised && stored.has(node, call) {
                    call.step = Step::Ends;
                } else if until <= self.now {
                    return Err(());
                } else {
                    call.at = self.now;
                }
            }
            Step::Ends if call.off != off => return Err(()),
            Step::Ends if off => return Ok(Some(7)),
            Step::Ends => {
                let answers = here && self.are_linked(world) && world.members[peer].up;
                let told = answers && world.copies[peer].has(node, call);
                return if told { Ok(Some(4)) } else { Err(()) };
            }
        }
        Ok(None)
    }

    /// unfence-peer.
    pub(in crate::sim) fn unfence_peer(&mut self, node: usize) {
        let Some(mut world) = self.pacemaker.take() else {
            return;
        };
        self.forget(&mut world, node);
        self.pacemaker = Some(world);
    }

    /// In sync, what this node has marked is marked no more. Returns whether it is in sync.
    pub(super) fn forget(&mut self, world: &mut Pacemaker, node: usize) -> bool {
        let peer = 1 - node;
        let own = world.copies[node].marks[peer].as_ref().is_some_and(|mark| mark.by == node);
        let in_sync = self.role(node).is_some() && self.is_in_sync(node);
        if in_sync && own {
            // The next look finds what was not done.
            self.write(world, node, Change::Mark { target: peer, mark: None }).ok();
        }
        in_sync
    }
}

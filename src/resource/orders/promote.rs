//! From Secondary to Primary.
//!
//! Invariants (model.md R11, R13):
//! - A promotion without force needs an UpToDate disk here or at a connected peer, and while a
//!   session is open a peer that answers.
//! - PRIMARY_IND is durable before the first client is served.
//! - Force covers no danger that is not named; it makes a fresh current UUID and leaves the old one out of the
//!   history, so that the old partner meets split brain and nobody is overwritten.

use crate::meta::{BLANK, BitmapState, DeviceFlags};
use crate::resource::disk::device::Backing;
use crate::resource::orders::order::{Order, Step, refuse};
use crate::resource::peer::connection::{Connection, SentKind, Stage};
use crate::resource::{
    Command, DiskState, Force, Gap, LogLevel, Refusal, Resource, Role, VolumeNumber,
};
use crate::wire::Packet;

fn primary_there(peer: &str, name: &str) -> String {
    format!("{peer} is Primary. Demote it first (`tandemadm secondary {name}` on {peer}).")
}

/// The danger that an order to promote accepts.
fn force_of(command: &Command) -> Option<Force> {
    match command {
        Command::Primary { force } => *force,
        _ => None,
    }
}

impl Resource {
    /// `Command::Primary` or `Command::AutoPromote`.
    pub(crate) fn primary(&mut self, id: u64, command: Command) {
        let auto = command == Command::AutoPromote;
        if self.role == Role::Primary && self.gap == Gap::Closed {
            let name = &self.config.name;
            let hint = format!(
                "The peer went on while this node was frozen, and its data may be newer. Demote this \
                 node (`tandemadm secondary {name}`), then connect; `tandemadm why {name}`."
            );
            return self.reply(id, Err(refuse(-2, &hint)));
        }
        if self.role == Role::Primary {
            match auto {
                true => self.expect_client(false),
                // Now it is meant to stay.
                false => self.auto_promoted = None,
            }
            return self.reply(id, Ok(String::new()));
        }
        let primary = |c: &&Connection| c.peer_role == Role::Primary && c.stage == Stage::Open;
        let plain = command == Command::Primary { force: None };
        if plain && self.connections.iter().any(|c| primary(&c)) {
            // It may be dead since a moment ago: the peer is asked, and if it is lost instead, the
            // order is judged anew (`promote_unanswered`). Not for a client that knocks, nor by force: a
            // link that is silent for a moment shall not make a second Primary by their hand.
            self.run(id, command, Step::AskPeer);
            return self.ask_peers();
        }
        let unfenced = self.unfenced();
        if let Err(refusal) = self.may_promote_fenced(force_of(&command), !unfenced.is_empty()) {
            return self.reply(id, Err(refusal));
        }
        self.run(id, command, Step::AskPeer);
        match unfenced.is_empty() {
            true => self.ask_peers(),
            false => self.fence_for_promotion(unfenced),
        }
    }

    /// Every peer that was away is fenced, or it is known that it is not.
    pub(crate) fn promote_fenced(&mut self) {
        let Some(force) = self.running.as_ref().map(|running| force_of(&running.command)) else {
            return;
        };
        let fenced = self.fenced_for_promotion();
        let refusal = match (self.may_promote(force), fenced) {
            (Err(refusal), _) => Some(refusal),
            (Ok(()), Err(refusal)) if force.is_none() => Some(refusal),
            (Ok(()), Err(_)) => {
                let name = &self.config.name;
                let text =
                    format!("{name}: forced into a split brain situation: the peer is not fenced");
                self.log(LogLevel::Warning, text);
                None
            }
            (Ok(()), Ok(())) => None,
        };
        if let Some(refusal) = refusal {
            return self.finish(Err(refusal));
        }
        self.fence_nobody();
        self.step(Step::AskPeer);
        self.ask_peers();
    }

    /// The peers that are connected have to agree. Who does not answer is lost after ping-timeout: nobody
    /// waits for the next ping of the idle connection.
    fn ask_peers(&mut self) {
        let mut asked = 0;
        for c in self.peers() {
            if self.connections[c].stage == Stage::Open {
                let step = self.order_step;
                let sequence = self.track(c, 0, SentKind::Promote, 0, 0, 0, step);
                self.send(c, Packet::PromoteRequest { sequence }, None);
                self.ping(c);
                asked += 1;
            }
        }
        self.step_waits(asked);
        if asked == 0 {
            self.promote_force();
        }
    }

    /// What the refusal of the peer that was asked means.
    fn promotion_refused(&self, peer: &str, code: i32) -> String {
        let name = &self.config.name;
        match code {
            -1 => primary_there(peer, name),
            -10 => format!(
                "{peer} is being promoted at the same moment: `tandemadm role {name}` there; if it \
                 is Secondary, try again."
            ),
            _ => format!("{peer} is in a handshake: try again in a moment."),
        }
    }

    /// As [`Self::may_promote`], where `fencing` a peer may make a Consistent disk the newest.
    fn may_promote_fenced(&self, force: Option<Force>, fencing: bool) -> Result<(), Refusal> {
        let may = self.may_promote(force);
        let others = |volume: &VolumeNumber| !fencing || !self.fencing_would_do(*volume);
        let mut others = self.devices.keys().copied().filter(others);
        let peer = self.connections.iter().any(|c| c.peer_role == Role::Primary);
        match may {
            Err(_) if !peer && others.all(|v| self.may_promote_volume(v, force).is_ok()) => Ok(()),
            may => may,
        }
    }

    fn may_promote(&self, force: Option<Force>) -> Result<(), Refusal> {
        let name = &self.config.name;
        for connection in &self.connections {
            if connection.peer_role == Role::Primary {
                return Err(refuse(-1, &primary_there(&connection.name, name)));
            }
        }
        for volume in self.devices.keys() {
            self.may_promote_volume(*volume, force)?;
        }
        Ok(())
    }

    fn may_promote_volume(&self, v: VolumeNumber, force: Option<Force>) -> Result<(), Refusal> {
        let device = &self.devices[&v];
        let name = &self.config.name;
        if device.disk == DiskState::UpToDate {
            return Ok(());
        }
        if !device.writable() {
            if self.has_a_peer_that_stays(v) {
                return Ok(());
            }
            let hint = format!(
                "{name}/{v} has no disk here and no UpToDate peer is connected that is not about to leave."
            );
            return Err(refuse(-2, &hint));
        }
        let created = self.is_created(v);
        let overwritten = self.data_that_a_blank_disk_would_overwrite(v).filter(|_| created);
        let needed = self.danger_of(v).unwrap_or(Force::Plain);
        let danger = match needed {
            Force::Plain if created => {
                "this disk was never synced: forcing declares its content to be the data"
            }
            Force::Plain => {
                "the peer may have newer data. A forced disk starts a history of its own: the \
                 peer's is never overwritten by itself, it then needs create-md and a full sync"
            }
            Force::Blank => {
                "create-md found this disk blank, and the peer's not: forcing overwrites what is \
                 there with nothing. Force the peer's instead"
            }
            Force::Outdated => {
                "this disk is known to be old: writes that the peer has would be lost"
            }
            _ => "this disk is a mix of old and new blocks: its file system may be broken",
        };
        let is_named = force.is_some_and(|force| force.names(needed));
        if let Some(source) = self.source_of(v).filter(|_| !is_named) {
            let hint = format!(
                "{name}/{v} is {}, and is being copied from {source}: wait for the end (`tandemadm \
                 wait-sync {name}`), then promote.",
                device.disk
            );
            return Err(refuse(-2, &hint));
        }
        // Its danger may be named before the peer is met.
        let early =
            force.is_some_and(|force| force.names(Force::Blank)) && self.is_blank_and_alone(v);
        if !is_named && !early {
            let found = overwritten.map(|found| format!(" ({found})")).unwrap_or_default();
            let first = self.before_force(v, created);
            // Of the other volumes too, or they would refuse it.
            let all = Force::of(self.devices.keys().filter_map(|v| self.danger_of(*v)));
            let option = all.unwrap_or(needed).option();
            let hint = format!(
                "{name}/{v} is {}; {danger}{found}. {first}tandemadm primary {option} {name}",
                device.disk
            );
            return Err(refuse(-2, &hint));
        }
        for connection in self.connections.iter().filter(|c| c.stage == Stage::Open) {
            let peer = &connection.peer_devices[&v];
            if peer.peer_disk > DiskState::Inconsistent && peer.peer_disk != DiskState::DUnknown {
                let hint = format!(
                    "{} has {} data and is connected: nothing is forced over it.",
                    connection.name, peer.peer_disk
                );
                return Err(refuse(-2, &hint));
            }
        }
        Ok(())
    }

    fn is_created(&self, v: VolumeNumber) -> bool {
        self.devices[&v].backing.as_ref().is_some_and(Backing::is_just_created)
    }

    /// What a promotion with the own disk as it is risks; `None`: nothing, or there is none.
    fn danger_of(&self, v: VolumeNumber) -> Option<Force> {
        let device = &self.devices[&v];
        if device.disk == DiskState::UpToDate || !device.writable() {
            return None;
        }
        let created = self.is_created(v);
        let overwritten = created && self.data_that_a_blank_disk_would_overwrite(v).is_some();
        Some(match device.disk {
            _ if overwritten => Force::Blank,
            _ if created => Force::Plain,
            DiskState::Consistent => Force::Plain,
            DiskState::Outdated => Force::Outdated,
            _ => Force::Inconsistent,
        })
    }

    /// The peer that the own disk is being copied from.
    fn source_of(&self, v: VolumeNumber) -> Option<&str> {
        let copies = |c: &&Connection| c.peer_devices[&v].target.is_some();
        self.connections.iter().find(copies).map(|c| c.name.as_str())
    }

    /// What is to be tried before force, or when force is right.
    fn before_force(&self, v: VolumeNumber, created: bool) -> String {
        let Some(open) = self.connections.iter().find(|c| c.stage == Stage::Open) else {
            return "Connect the peer, or: ".to_owned();
        };
        let (peer, state) = (&open.name, open.peer_devices[&v].peer_disk);
        match state {
            DiskState::Inconsistent if created => {
                format!("{peer} is connected and has no data either. The first use of both is: ")
            }
            DiskState::Inconsistent => {
                format!("{peer} is connected, and its disk is no better. Or: ")
            }
            state if state > DiskState::Inconsistent && state != DiskState::DUnknown => format!(
                "Nothing is forced over the {state} data of {peer}, which is connected. Apart from it: "
            ),
            _ => format!("{peer} is connected, and its disk is {state}: attach it there, or: "),
        }
    }

    /// What create-md found on a connected peer's fresh disk, where it found nothing on this one.
    fn data_that_a_blank_disk_would_overwrite(&self, v: VolumeNumber) -> Option<String> {
        let own = &self.devices[&v].backing.as_ref()?.superblock.created_found;
        let open = self.connections.iter().filter(|c| c.stage == Stage::Open);
        let mut infos = open.filter_map(|c| c.peer_devices[&v].peer_info.as_ref());
        let other = infos.find(|info| !matches!(info.created_found.as_str(), "" | BLANK))?;
        (own == BLANK).then(|| other.created_found.clone())
    }

    /// A peer wants to become Primary.
    pub(crate) fn peer_promotes(&mut self, c: usize, sequence: u64) -> bool {
        let contest = self.running.as_ref().is_some_and(|running| {
            matches!(running.command, Command::Primary { .. } | Command::AutoPromote)
                // Once it has the answer it asked for it is as good as Primary.
                && (running.step != Step::AskPeer
                    || self.config.node_id < self.connections[c].peer)
        });
        let code = if self.role == Role::Primary {
            -1
        } else if self.connections[c].stage != Stage::Open || self.connections[c].leaving.is_some()
        {
            -18
        } else if contest {
            -10
        } else {
            0
        };
        self.send(c, Packet::PromoteAnswer { sequence, code }, None);
        true
    }

    pub(crate) fn promote_answered(&mut self, c: usize, sequence: u64, code: i32) -> bool {
        let promote = |kind: &SentKind| matches!(kind, SentKind::Promote);
        let Some(sent) = self.take_sent(c, 0, sequence, promote) else { return false };
        let asking = self.running.as_ref().is_some_and(|running| running.step == Step::AskPeer);
        if !asking || sent.epoch != self.order_step {
            return true;
        }
        if code != 0 {
            let hint = self.promotion_refused(&self.connections[c].name, code);
            self.finish(Err(refuse(code, &hint)));
            return true;
        }
        let running = self.running.as_mut().expect("just seen");
        running.waiting = running.waiting.saturating_sub(1);
        if running.waiting == 0 {
            self.promote_force();
        }
        true
    }

    /// The peer was lost while it was asked: with the loss dealt with, the order is judged anew.
    pub(crate) fn promote_unanswered(&mut self) {
        let Some(running) = self.running.take_if(|running| running.step == Step::AskPeer) else {
            return;
        };
        let since = running.since;
        self.orders.push_front(Order { id: running.id, command: running.command, since });
    }

    fn forced(&self, volume: VolumeNumber) -> bool {
        let device = &self.devices[&volume];
        device.writable() && device.disk != DiskState::UpToDate
    }

    /// Disks that are forced are flushed first.
    fn promote_force(&mut self) {
        self.step(Step::ForceFlush);
        let forced: Vec<_> = self.volumes().into_iter().filter(|v| self.forced(*v)).collect();
        if forced.is_empty() {
            return self.promote_save();
        }
        self.step_waits(u32::try_from(forced.len()).expect("few volumes"));
        for volume in forced {
            let then = self.then_order();
            self.flush_disk(volume, then);
        }
    }

    /// The disks as they are now: one may have failed, or the peer be lost, since the order began.
    fn still_may_promote(&mut self) -> bool {
        let Some(force) = self.running.as_ref().map(|running| force_of(&running.command)) else {
            return false;
        };
        let refusal =
            self.volumes().into_iter().find_map(|v| self.may_promote_volume(v, force).err());
        let may = refusal.is_none();
        if let Some(refusal) = refusal {
            self.finish(Err(refusal));
        }
        may
    }

    pub(crate) fn promote_save(&mut self) {
        if !self.still_may_promote() {
            return;
        }
        self.step(Step::PromoteSave);
        let volumes: Vec<_> =
            self.volumes().into_iter().filter(|v| self.devices[v].backing.is_some()).collect();
        self.step_waits(u32::try_from(volumes.len()).expect("few volumes"));
        if volumes.is_empty() {
            return self.promoted();
        }
        for volume in volumes {
            if self.forced(volume) {
                self.force_identity(volume);
            }
            self.save_as_primary(volume);
        }
    }

    /// R13: a fresh current UUID; the old one is not remembered. A blank disk whose danger was not
    /// named, with no peer in sight that could hold data, is marked: the first handshake sees it.
    fn force_identity(&mut self, volume: VolumeNumber) {
        let named = self.running.as_ref().and_then(|running| force_of(&running.command));
        let unseen = named.is_some_and(|force| !force.names(Force::Blank))
            && self.is_blank_and_alone(volume);
        let own = self.device(volume).backing.as_ref();
        let own = own.map(|backing| (backing.superblock.effective_size, backing.data_size));
        if let Some((0, room)) = own {
            // It has no size yet. What is known of the volume may be of a disk before it, and larger.
            let known = self.device(volume).size;
            self.set_size(volume, if (1..=room).contains(&known) { known } else { room });
        }
        let uuid = self.prng.uuid() | 1;
        self.start_generation(volume, uuid, BitmapState::AllSet);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            let unseen = if unseen { DeviceFlags::FORCED_BLANK } else { 0 };
            backing.flags(DeviceFlags::SURVIVED | unseen, 0);
        }
        let prefix = self.of_volume(volume);
        self.log(LogLevel::Warning, format!("{prefix}forced: current UUID {uuid:016X}"));
    }

    /// In memory: the data of the own disk are a generation of their own, which no ancestor has.
    /// `bits`: every peer's whole slot. The caller saves the superblock.
    pub(crate) fn start_generation(&mut self, volume: VolumeNumber, uuid: u64, bits: BitmapState) {
        for c in self.peers() {
            self.slot_whole(c, volume, bits);
        }
        let (wall, node) = (self.wall(), self.config.node_id);
        let device = self.device(volume);
        device.exposed_uuid = uuid;
        let Some(backing) = device.backing.as_mut() else { return };
        let superblock = &mut backing.superblock;
        superblock.current_uuid = uuid;
        superblock.generation_time = wall;
        superblock.generation_node = node;
        for slot in &mut superblock.peers {
            slot.bitmap_uuid = 0;
        }
        backing.crashed = false;
        backing.flags(
            DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE | DeviceFlags::SIZE_USED,
            DeviceFlags::OUTDATED
                | DeviceFlags::INVALIDATED
                | DeviceFlags::SURVIVED
                | DeviceFlags::FORCED_BLANK,
        );
    }

    /// A new disk on which create-md has found nothing, and no peer is connected.
    fn is_blank_and_alone(&self, volume: VolumeNumber) -> bool {
        let backing = self.devices[&volume].backing.as_ref();
        let blank =
            backing.is_some_and(|b| b.is_just_created() && b.superblock.created_found == BLANK);
        blank && !self.connections.iter().any(|c| c.stage == Stage::Open)
    }

    /// What becomes of the disks of peers that were not there when a new disk was forced.
    fn peers_that_will_be_overwritten(&self, volume: VolumeNumber) -> Option<String> {
        let backing = self.devices[&volume].backing.as_ref()?;
        let first = backing.superblock.history.iter().all(|uuid| *uuid == 0);
        let away = self.connections.iter().filter(|c| c.stage != Stage::Open);
        let away: Vec<&str> = away.map(|c| c.name.as_str()).collect();
        if !first || away.is_empty() {
            return None;
        }
        let marked = backing.has(DeviceFlags::FORCED_BLANK);
        let but = match marked {
            true => " (but not one on which create-md has found something: this one was blank)",
            false => "",
        };
        let name = &self.config.name;
        Some(format!(
            "{} is not connected. A new disk of {name}/{volume} there will be overwritten at the first \
             connection{but}; one with data of its own is refused.",
            away.join(", ")
        ))
    }

    pub(crate) fn promoted(&mut self) {
        for volume in self.volumes() {
            // A disk that was forced has a fresh identity by now: only its failure matters.
            if !self.devices[&volume].writable() && !self.has_a_peer_that_stays(volume) {
                let hint = "The disk failed meanwhile, or the peer that has the other one leaves: `tandemadm why` \
                            names the error; attach a good one.";
                return self.finish(Err(refuse(-2, hint)));
            }
        }
        let mut again = false;
        let mut texts = Vec::new();
        for volume in self.volumes() {
            if self.forced(volume) {
                texts.extend(self.peers_that_will_be_overwritten(volume));
                self.set_disk(volume, DiskState::UpToDate);
                again = true;
            }
            let own = self.devices[&volume].backing.as_ref().map(|b| b.superblock.current_uuid);
            let own = own.filter(|_| self.devices[&volume].writable());
            let read = own.or_else(|| self.generation_read(volume));
            again |= read == Some(0);
            let device = self.device(volume);
            device.new_stint = true;
            device.asked_uuid = 0;
            if let Some(uuid) = read {
                device.exposed_uuid = uuid;
            }
        }
        self.set_role(Role::Primary);
        if self.running.as_ref().is_some_and(|order| order.command == Command::AutoPromote) {
            self.expect_client(true);
        }
        self.fence_after_promotion();
        for volume in self.volumes() {
            self.send_state(volume);
        }
        if again {
            self.renegotiate();
        }
        self.finish(Ok(texts.join("\n")));
    }

    /// The generation that clients read at a peer, while there is no own disk; 0: it is not known, for the peer
    /// was Primary in this session and may have begun one. It is asked at once.
    fn generation_read(&self, volume: VolumeNumber) -> Option<u64> {
        let connection = &self.connections[self.reading_peer(volume)?];
        let said = connection.peer_devices[&volume].peer_info.as_ref()?.current_uuid;
        Some(if connection.was_primary { 0 } else { said })
    }

    /// A peer that was lost while this node was promoted is fenced now, unless it was to be gone over
    /// by force.
    fn fence_after_promotion(&mut self) {
        let forced = self.running.as_ref().is_some_and(|order| force_of(&order.command).is_some());
        for c in self.unfenced() {
            if !forced {
                self.begin_fencing(c);
            }
        }
    }
}

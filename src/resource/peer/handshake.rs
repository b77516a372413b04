//! Quiescing, the exchange of handshakes, and the verdict.
//!
//! Invariants (model.md R6; DESIGN 5):
//! - A handshake is sent only when the loss sequence is over and no request is under way; from then
//!   until the session opens nothing that it says changes.
//! - Both nodes decide from the same two handshakes, as sent: the verdicts are mirror images.
//! - A refusal that needs a person is sent to the peer, and both end StandAlone with a reason.
//! - A new handshake in an open session (attach, invalidate, force) goes the same way.

use crate::meta::{DeviceFlags, HISTORY};
use crate::resource::disk::device::CutOff;
use crate::resource::orders::order::Step;
use crate::resource::peer::connection::{Opening, Side, Stage};
use crate::resource::peer::generation::{Side as GenerationSide, same};
use crate::resource::peer::split_brain::{Party, Resolution};
use crate::resource::peer::verdict::{
    Judged, Judgement, Situation, judge, peer_went_on, refused_disk,
};
use crate::resource::{
    BLOCK_SIZE, ConnectionState, DiskState, Gap, Handler, HandshakeStatus, LogLevel, Payload,
    Reason, Resource, Role, SideStatus, SocketId, VolumeNumber,
};
use crate::wire::{Handshake, Packet, Refused, VolumeInfo};

impl Resource {
    /// A session is open and a new handshake was asked for.
    pub(crate) fn is_renegotiating(&self, c: usize) -> bool {
        let connection = &self.connections[c];
        connection.state == ConnectionState::Connected && connection.stage != Stage::Open
    }

    /// It opens, or is open, if only until it is left or negotiated anew. Before the own handshake there is nothing
    /// that the peer could have agreed to.
    fn has_session(&self, c: usize) -> bool {
        let connection = &self.connections[c];
        connection.stage >= Stage::Opening
            || connection.leaving.is_some()
            || self.is_renegotiating(c)
    }

    /// Asks for a new handshake in every open session.
    pub(crate) fn renegotiate(&mut self) {
        for c in self.peers() {
            self.renegotiate_with(c);
        }
    }

    pub(crate) fn renegotiate_with(&mut self, c: usize) {
        if self.connections[c].stage == Stage::Open {
            self.connections[c].stage = Stage::Quiescing;
            self.connections[c].stage_since = self.now;
            self.changed();
        }
    }

    /// Sends the handshake where everything is quiet.
    pub(crate) fn pump_handshakes(&mut self) {
        for c in self.peers() {
            self.waits_no_more(c);
            if self.connections[c].stage != Stage::Quiescing {
                continue;
            }
            self.hold_no_space();
            self.hold_frozen();
            self.take_back_from(c);
            if !self.is_quiet(c) {
                continue;
            }
            if self.connections[c].leaving.is_some() {
                continue;
            }
            // An order that is changing a disk or the role comes first; while one only waits for
            // clients to leave, they are served.
            let hangs = self.order_volumes().iter().all(|v| self.devices[v].abandoned());
            let order = self.running.as_ref().map(|running| running.step).filter(|_| !hangs);
            if order.is_some_and(|step| !waits_beside_handshakes(step)) {
                continue;
            }
            let open = self.is_renegotiating(c);
            let unflushed = self.volumes().into_iter().find(|volume| {
                open && !self.connections[c].peer_devices[volume].transfer_log.is_empty()
            });
            if let Some(volume) = unflushed {
                self.flush_for(volume, None, None);
                continue;
            }
            self.send_handshake(c);
        }
    }

    fn is_quiet(&self, c: usize) -> bool {
        self.is_idle()
            && self.devices.values().all(|device| {
                device.abandoned()
                    || device.parts()
                    || !matches!(
                        device.disk,
                        DiskState::Attaching | DiskState::Detaching | DiskState::Failed
                    ) && device
                        .backing
                        .as_ref()
                        .is_none_or(|backing| backing.saving.is_none() && backing.unsaved.is_none())
            })
            && self.target_is_quiet(c)
    }

    fn send_handshake(&mut self, c: usize) {
        for volume in self.volumes() {
            // What it rests on is in question now.
            self.pump_verify(c, volume);
            self.set_differing(c, volume, false);
        }
        let tie = self.prng.next_u64();
        self.connections[c].tie = tie;
        let volumes =
            self.volumes().into_iter().map(|volume| self.volume_info(c, volume)).collect();
        let connection = &self.connections[c];
        let window = u64::from(self.config.options.max_buffers) * 4096;
        let handshake = Handshake {
            role: self.role,
            window: u32::try_from(window.max(2 << 20)).unwrap_or(u32::MAX),
            tie,
            tentative: connection.tentative.is_some(),
            must_equal: self.config.options.must_equal(),
            should_equal: self.config.options.should_equal(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            volumes,
        };
        self.connections[c].stage = Stage::Handshake;
        self.connections[c].bitmap_packets = 0;
        self.connections[c].fencing.met = true;
        self.connections[c].stage_since = self.now;
        for peer in self.connections[c].peer_devices.values_mut() {
            peer.opening = Opening::default();
        }
        let infos: Vec<VolumeInfo> = handshake.volumes.clone();
        self.own_infos(c, infos);
        self.send(c, Packet::Handshake(Box::new(handshake)), None);
        self.changed();
        if self.connections[c].peer_handshake.is_some() {
            self.decide_all(c);
        }
    }

    fn own_infos(&mut self, c: usize, infos: Vec<VolumeInfo>) {
        for info in infos {
            let volume = info.volume;
            self.peer_device(c, volume).own_info = Some(info);
        }
    }

    /// What the handshake says of a volume here.
    fn volume_info(&self, c: usize, volume: VolumeNumber) -> VolumeInfo {
        let device = &self.devices[&volume];
        let peer = &self.connections[c].peer_devices[&volume];
        let asked = device.writable() || device.disk == DiskState::Negotiating;
        let Some(backing) = device.backing.as_ref().filter(|_| asked) else {
            return VolumeInfo {
                volume,
                disk: DiskState::Diskless,
                data_size: 0,
                effective_size: device.size,
                size_used: device.size != 0,
                logical_block_size: 0,
                device_uuid: 0,
                peer_device_uuid: 0,
                current_uuid: device.exposed_uuid,
                bitmap_uuid: device.asked_uuid,
                history: [0; HISTORY],
                flags: 0,
                crashed_primary: false,
                bits: 0,
                number: None,
                seen_number: None,
                created_found: String::new(),
                generation_time: 0,
                alone_time: 0,
                discard_my_data_for: None,
                resize_to: 0,
                assume_clean: false,
            };
        };
        let (resize_to, assume_clean) = self.resize_asks(c, volume);
        let superblock = &backing.superblock;
        let slot = peer.slot.map(|slot| &superblock.peers[slot as usize]);
        let losses = backing.has(DeviceFlags::VERIFY_MARKS) && peer.bitmap.losses();
        let losses = if losses { DeviceFlags::LOSS_BITS } else { 0 };
        VolumeInfo {
            volume,
            disk: device.asked_state(),
            data_size: backing.data_size,
            effective_size: superblock.effective_size,
            size_used: backing.has(DeviceFlags::SIZE_USED),
            logical_block_size: backing.logical_block_size,
            device_uuid: superblock.device_uuid,
            peer_device_uuid: slot.map_or(0, |slot| slot.device_uuid),
            current_uuid: superblock.current_uuid,
            bitmap_uuid: slot.map_or(0, |slot| slot.bitmap_uuid),
            history: superblock.history,
            flags: superblock.flags | losses,
            crashed_primary: backing.crashed,
            bits: peer.bitmap.count(),
            number: device.number(),
            seen_number: peer.seen_number,
            created_found: superblock.created_found.clone(),
            generation_time: self.generation_time(superblock),
            alone_time: device.alone_time,
            discard_my_data_for: self.discards(c, volume, superblock.current_uuid),
            resize_to,
            assume_clean,
        }
    }

    /// The generation of the peer that the own data may be thrown away for; 0: any.
    fn discards(&self, c: usize, volume: VolumeNumber, current: u64) -> Option<u64> {
        let connection = &self.connections[c];
        match connection.peer_devices[&volume].split_pair {
            _ if !connection.discard_my_data => None,
            None => Some(0),
            Some((own, peer)) => same(own, current).then_some(peer),
        }
    }

    /// A packet of the peer, past Features.
    pub(crate) fn peer_packet(
        &mut self,
        c: usize,
        socket: SocketId,
        packet: Packet,
        payload: Option<Payload>,
    ) {
        let unknown = packet.volume().is_some_and(|volume| !self.devices.contains_key(&volume));
        let ok = match packet {
            _ if unknown => {
                self.release(payload);
                false
            }
            Packet::Handshake(handshake) => self.handshake_received(c, *handshake),
            Packet::Refused(refused) => self.refused_by_peer(c, &refused),
            Packet::State { volume, role, disk, paused } => {
                self.peer_pauses(c, volume, paused);
                self.peer_state(c, volume, role, disk);
                true
            }
            Packet::Leave { kind } => self.peer_leaves(c, kind),
            Packet::LeaveAnswer => self.leave_answered(c),
            Packet::PromoteRequest { sequence } => self.peer_promotes(c, sequence),
            Packet::PromoteAnswer { sequence, code } => self.promote_answered(c, sequence, code),
            Packet::HandOver { sequence, cancel } => self.hand_over_asked(c, sequence, cancel),
            Packet::HandOverAnswer { sequence, outcome } => {
                self.hand_over_answered(c, sequence, outcome)
            }
            packet @ (Packet::Bitmap { .. }
            | Packet::BitmapEnd { .. }
            | Packet::Adopted { .. }
            | Packet::Opened { .. }) => self.opening_packet(c, packet),
            packet if self.has_session(c) => self.session_packet(c, packet, payload),
            _ => {
                self.release(payload);
                false
            }
        };
        if !ok && self.is_current(c, socket) {
            self.protocol_error(c, socket, "a packet that does not fit the state");
        }
    }

    fn handshake_received(&mut self, c: usize, handshake: Handshake) -> bool {
        let stage = self.connections[c].stage;
        if self.connections[c].peer_handshake.is_some() || stage == Stage::Opening {
            return false;
        }
        self.connections[c].window = u64::from(handshake.window);
        self.connections[c].peer_handshake = Some(Box::new(handshake));
        match stage {
            Stage::Open => self.quiesce(c),
            Stage::Handshake => self.decide_all(c),
            _ => {}
        }
        true
    }

    /// Both handshakes are known: every volume's verdict, or one refusal for all.
    fn decide_all(&mut self, c: usize) {
        if self.is_tried_by_peer(c) {
            return;
        }
        let peer = self.connections[c].peer_handshake.take().expect("both are known");
        let renegotiating = self.is_renegotiating(c);
        self.connections[c].last_handshake.clear();
        let differs = self.compare_options(c, &peer).err();
        match &differs {
            Some(refused) if !renegotiating => {
                self.note_generations(c, &peer);
                return self.refuse(c, refused.clone());
            }
            Some(Refused { text, .. }) => {
                let text = format!(
                    "{}{text}: the next connection is refused unless that is equal again",
                    self.of_peer(c)
                );
                self.log(LogLevel::Warning, text);
            }
            None => {}
        }
        let (mut verdicts, mut tried, mut compared) = (Vec::new(), Vec::new(), Vec::new());
        // The first refusal stands; the other volumes are compared all the same, for people.
        let (mut refusal_of_one, mut retry) = (None, None);
        for volume in self.volumes() {
            let Some(info) = peer.volumes.iter().find(|info| info.volume == volume) else {
                let text = format!("the peer has no volume {volume}");
                refusal_of_one.get_or_insert(refusal(Reason::ConfigDiffers, "volumes", text));
                continue;
            };
            let own = self.peer_device(c, volume).own_info.clone().expect("sent before");
            let Judged { judgement, resolution, lines, primary_lost } =
                self.decide_volume(c, &own, info, &peer, renegotiating);
            // What the two options say differently, neither decides.
            let judgement = match &differs {
                Some(refused) if resolution.because.is_an_option() => {
                    Judgement::Refuse(refused.clone())
                }
                _ => judgement,
            };
            for line in &lines {
                let text = format!("{}{line}", self.of_both(volume, c));
                self.log(LogLevel::Info, text);
            }
            let mut found = self.found(&own, info, peer.role, resolution);
            if let Judgement::Refuse(refused) = &judgement
                && refused.rule != found.rule
            {
                // The size: whatever the generations say.
                found.rule.clone_from(&refused.rule);
                found.meaning.clone_from(&refused.text);
                found.outcome = refused.reason.to_string();
                found.because = String::new();
            }
            if self.connections[c].tentative.is_none() {
                compared.push((volume, own, info.clone(), resolution));
                self.tell_of_verdict(c, volume, resolution, &judgement);
                if primary_lost {
                    self.tell(Handler::PriLostAfterSb, Some(volume), Some(c));
                }
            }
            tried.push(self.would(c, &found, &judgement));
            self.connections[c].last_handshake.push(found);
            match judgement {
                Judgement::Refuse(refused) => {
                    refusal_of_one.get_or_insert(refused);
                }
                Judgement::Retry(text) => {
                    retry.get_or_insert(text);
                }
                other => verdicts.push((volume, info.clone(), other)),
            }
        }
        let opens = refusal_of_one.is_none() && retry.is_none();
        for (volume, own, info, resolution) in compared {
            if !opens || self.device(volume).disk == DiskState::Negotiating {
                self.note_refused(volume, &own, &info, resolution);
            }
        }
        match (refusal_of_one, retry) {
            (None, None) => {}
            (Some(refused), _) => return self.refuse(c, refused),
            (None, Some(text)) if self.connections[c].tentative.is_some() => {
                return self.refuse(c, refusal(Reason::ResyncRefused, "rr-conflict", text));
            }
            (None, Some(text)) => {
                let state = ConnectionState::Unconnected;
                return self.drop_connection(c, state, Reason::ResyncRefused, text);
            }
        }
        let target = |judgement: &Judgement| matches!(judgement, Judgement::Target { .. });
        // A resync that goes on says nothing of that: its target has the generation of its source.
        let went_on = peer.role == Role::Primary
            || verdicts.iter().any(|(volume, info, judgement)| {
                let own = self.connections[c].peer_devices[volume].own_info.as_ref();
                let known = own.is_some_and(|own| same(own.current_uuid, info.current_uuid));
                target(judgement) && !known
            });
        if self.connections[c].tentative.is_some() {
            self.gap_answered(went_on);
            return self.tried(c, tried.join("\n"));
        }
        self.bind_discard(c);
        for peer in self.connections[c].peer_devices.values_mut() {
            // What it was given for is known now.
            peer.promised = None;
        }
        self.connections[c].stage = Stage::Opening;
        self.connections[c].stage_since = self.now;
        self.set_peer_role(c, peer.role);
        self.connections[c].was_primary = peer.role == Role::Primary;
        self.gap_answered(went_on);
        let stays = !verdicts.iter().any(|(.., judgement)| target(judgement));
        if stays && peer.role != Role::Primary && self.gap == Gap::Closed {
            // It was settled whose data stays: this node's.
            self.gap = Gap::None;
            self.forget_unheard();
            let text = format!("{}: the exports are open again", self.config.name);
            self.log(LogLevel::Info, text);
        }
        self.changed();
        for (volume, info, resolution) in verdicts {
            self.carry_out(c, volume, info, &resolution);
        }
    }

    /// What was compared and decided, for people.
    fn found(
        &self,
        own: &VolumeInfo,
        peer: &VolumeInfo,
        peer_role: Role,
        resolution: Resolution,
    ) -> HandshakeStatus {
        let side = |info: &VolumeInfo, role| SideStatus {
            role,
            disk: info.disk,
            current_uuid: info.current_uuid,
            bitmap_uuid: info.bitmap_uuid,
            out_of_sync: info.bits * BLOCK_SIZE,
            data_size: info.data_size,
            generation_time: info.generation_time,
            alone_time: info.alone_time,
            created_found: info.created_found.clone(),
        };
        HandshakeStatus {
            volume: own.volume,
            time: self.wall(),
            rule: resolution.verdict.rule.name().to_owned(),
            meaning: resolution.verdict.rule.explain().to_owned(),
            outcome: resolution.outcome.to_string(),
            because: resolution.because.explain().to_owned(),
            own: side(own, self.role),
            peer: side(peer, peer_role),
        }
    }

    fn compare_options(&mut self, c: usize, peer: &Handshake) -> Result<(), Refused> {
        let own = self.config.options.must_equal();
        for (name, value) in &own {
            let theirs = peer.must_equal.iter().find(|(other, _)| other == name);
            if theirs.is_none_or(|(_, theirs)| theirs != value) {
                let theirs = theirs.map_or("nothing", |(_, theirs)| theirs);
                let text = format!(
                    "{name}: {value} on {}, {theirs} on {}",
                    self.config.node_name, self.connections[c].name
                );
                return Err(refusal(Reason::ConfigDiffers, name, text));
            }
        }
        for (name, value) in self.config.options.should_equal() {
            let theirs = peer.should_equal.iter().find(|(other, _)| *other == name);
            if let Some((_, theirs)) = theirs.filter(|(_, theirs)| *theirs != value) {
                let text =
                    format!("{}{name} differs: {value} here, {theirs} there", self.of_peer(c));
                self.log(LogLevel::Warning, text);
            }
        }
        Ok(())
    }

    pub(super) fn decide_volume(
        &self,
        c: usize,
        own: &VolumeInfo,
        info: &VolumeInfo,
        peer: &Handshake,
        renegotiating: bool,
    ) -> Judged {
        // A disk attached in an open session is never source (model.md R15).
        let before = self.connections[c].peer_devices[&info.volume].peer_disk;
        let attaching_own = self.devices[&info.volume].disk == DiskState::Negotiating;
        let attaching_peer = renegotiating
            && before < DiskState::Inconsistent
            && info.disk >= DiskState::Inconsistent;
        let connection = &self.connections[c];
        let volumes = || self.devices.keys().map(|volume| &connection.peer_devices[volume]);
        let own_changes = volumes().filter_map(|one| Some(one.own_info.as_ref()?.bits)).sum();
        let known = |one: &&VolumeInfo| self.devices.contains_key(&one.volume);
        let peer_changes = peer.volumes.iter().filter(known).map(|one| one.bits).sum();
        let situation = Situation {
            own: Party {
                side: GenerationSide { info: own, role: self.role, tie: connection.tie },
                node_id: self.config.node_id,
                discard_my_data: discards(own, info),
                changes: own_changes,
            },
            peer: Party {
                side: GenerationSide { info, role: peer.role, tie: peer.tie },
                node_id: connection.peer,
                discard_my_data: discards(info, own),
                changes: peer_changes,
            },
            attaching_own,
            attaching_peer,
        };
        judge(&situation, &self.config.options)
    }

    /// This node refuses the connection: the peer is told, both end StandAlone.
    pub(crate) fn refuse(&mut self, c: usize, refused: Refused) {
        if self.connections[c].tentative.is_some() {
            let Refused { reason, rule, text } = refused;
            self.gap_answered(peer_went_on(reason));
            let text =
                format!("{}would be refused: {reason} (rule {rule}): {text}", self.of_peer(c));
            return self.tried(c, text);
        }
        let packet = Packet::Refused(Box::new(refused.clone()));
        self.send(c, packet, None);
        self.stand_alone(c, &refused);
    }

    /// It has said what it goes by.
    fn refused_by_peer(&mut self, c: usize, refused: &Refused) -> bool {
        let connection = &self.connections[c];
        if connection.peer_handshake.is_none() && !self.has_session(c) {
            return false;
        }
        if !self.was_tried(c, refused) {
            self.stand_alone(c, refused);
        }
        true
    }

    pub(crate) fn stand_alone(&mut self, c: usize, refused: &Refused) {
        let text = match refused.reason {
            Reason::SplitBrain => format!(
                "{}Split-Brain detected but unresolved, dropping connection! rule {}{}; \
                 see `tandemadm why {}`",
                self.of_peer(c),
                refused.rule,
                self.both_sides(c),
                self.config.name
            ),
            _ => format!(
                "{}handshake refused: {} (rule {}): {}; see `tandemadm why {}`",
                self.of_peer(c),
                refused.reason,
                refused.rule,
                refused.text,
                self.config.name
            ),
        };
        self.log(LogLevel::Error, text);
        self.connections[c].detail = format!("rule {}: {}", refused.rule, refused.text);
        if refused.reason == Reason::SplitBrain {
            let volume = self.connections[c].last_handshake.last().map(|found| found.volume);
            self.tell(Handler::SplitBrain, volume, Some(c));
            self.remember_split(c);
        }
        self.connections[c].discard_my_data = false;
        self.gap_answered(peer_went_on(refused.reason));
        self.end_connection(c, refused.reason);
    }

    /// `, self 5435911CABE7ED03 bits:12 peer 77A0C6D2140F98E1 bits:3`: of the volume that decided.
    fn both_sides(&self, c: usize) -> String {
        let Some(found) = self.connections[c].last_handshake.last() else { return String::new() };
        let side = |side: &SideStatus| {
            format!("{:016X} bits:{}", side.current_uuid, side.out_of_sync / BLOCK_SIZE)
        };
        let volume = match self.devices.len() {
            1 => String::new(),
            _ => format!(", volume {}", found.volume),
        };
        format!("{volume}, self {} peer {}", side(&found.own), side(&found.peer))
    }

    /// An order to discard is for the generations that have met. It stands until the volumes are open:
    /// the session may end before.
    fn bind_discard(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        let asked = connection.discard_my_data;
        for found in &connection.last_handshake {
            let Some(peer) = connection.peer_devices.get_mut(&found.volume) else { continue };
            let met = (found.own.current_uuid, found.peer.current_uuid);
            peer.split_pair = asked.then(|| peer.split_pair.unwrap_or(met));
        }
    }

    /// What a person sees of a split brain, and decides on, is what this handshake has found.
    fn remember_split(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        let asked = connection.discard_my_data;
        let mut lapsed = false;
        for found in &connection.last_handshake {
            let Some(peer) = connection.peer_devices.get_mut(&found.volume) else { continue };
            let pair = (found.own.current_uuid, found.peer.current_uuid);
            let old = peer.split_pair.replace(pair);
            lapsed |= old.is_some_and(|old| !same(old.0, pair.0) || !same(old.1, pair.1));
        }
        if asked && lapsed {
            let text = format!(
                "{}--discard-my-data has lapsed: there is a newer generation than when it was ordered",
                self.of_peer(c)
            );
            self.log(LogLevel::Warning, text);
        }
    }

    /// StandAlone, with everything that the session carried settled as after a loss.
    pub(crate) fn end_connection(&mut self, c: usize, reason: Reason) {
        self.close_sockets(c, true);
        self.session_over(c, true);
        self.set_connection(c, ConnectionState::StandAlone, reason);
        // Nobody is left to be asked after a gap.
        self.gap_answered(false);
    }

    /// What an opening volume does first.
    fn carry_out(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        info: VolumeInfo,
        resolution: &Judgement,
    ) {
        let mut info = info;
        // The peer lives, and it is said what becomes of the own disk.
        if self.device(volume).disk == DiskState::Negotiating {
            self.has_not_only_hung(volume);
        }
        if let Judgement::RefuseDisk { own } = resolution {
            if *own {
                let verdicts = &self.connections[c].last_handshake;
                let rule = verdicts.iter().find(|one| one.volume == volume).map(|one| &*one.rule);
                let note = refused_disk(rule);
                self.give_disk_up(volume, note, "detached");
            } else {
                // Nothing of it is remembered: the right disk comes in its place. Nor is the own
                // number raised above what that disk has seen: it would hide that this one was set
                // back, from the next attach.
                info.disk = DiskState::Diskless;
                (info.device_uuid, info.number, info.seen_number) = (0, None, None);
            }
        } else if self.device(volume).disk == DiskState::Negotiating {
            let state = self.device(volume).asked_state();
            self.set_disk(volume, state);
        }
        let (side, full) = match resolution {
            Judgement::Source { full } => (Side::Source, *full),
            Judgement::Target { full } => (Side::Target, *full),
            _ => (Side::NoSync, false),
        };
        if side == Side::Target {
            self.note_newer_peer(volume, &info);
        }
        let peer = self.peer_device(c, volume);
        let peer_open = peer.opening.peer_open;
        peer.opening = Opening { side, full, peer_open, ..Opening::default() };
        let (disk, uuid) = (info.disk, info.current_uuid);
        let survived = info.flags & DeviceFlags::SURVIVED != 0;
        peer.peer_info = Some(info);
        let primary = self.role == Role::Primary;
        let reads = primary && disk == DiskState::UpToDate;
        // A copy that is to be overwritten vouches for nothing.
        let counts = side != Side::Source;
        let device = self.device(volume);
        device.cut_off = match (device.cut_off, disk) {
            // It has lost nothing, or would have said that it is Consistent.
            (CutOff::Perhaps, DiskState::UpToDate) if reads && counts => CutOff::No,
            (CutOff::Perhaps, DiskState::Consistent) if survived && primary && counts => CutOff::No,
            // It has said so: a resync from it, or what it says later, makes that no better.
            (CutOff::Perhaps, DiskState::Consistent) => CutOff::Yes,
            (as_before, _) => as_before,
        };
        if reads && device.backing.is_none() {
            // What clients read from now on.
            (device.exposed_uuid, device.asked_uuid) = (uuid, 0);
        }
        self.set_peer_disk(c, volume, disk);
        self.set_differing(c, volume, true);
        self.begin_opening(c, volume);
    }
}

/// An order in this step changes nothing that a handshake says.
fn waits_beside_handshakes(step: Step) -> bool {
    matches!(step, Step::Leave | Step::Clients | Step::Resize | Step::Fence)
}

/// The data of `own` may be thrown away for those of `peer`.
fn discards(own: &VolumeInfo, peer: &VolumeInfo) -> bool {
    own.discard_my_data_for.is_some_and(|uuid| uuid == 0 || same(uuid, peer.current_uuid))
}

/// A refusal.
pub(crate) fn refusal(reason: Reason, rule: &str, text: String) -> Refused {
    Refused { reason, rule: rule.to_owned(), text }
}

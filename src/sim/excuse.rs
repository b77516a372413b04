//! Who may lose what of a volume, and since when: what a force or a handler's word has put aside, what
//! persons have ordered to be thrown away, and what a policy has.
//!
//! Invariants:
//! - An excuse ends where its reason does: an order that was refused excuses nothing, and what was
//!   answered after a force or a word is not excused by it.

use crate::resource::{
    AdminResult, AfterSb0Pri, AfterSb1Pri, Command, ConnectionState, HandshakeStatus, Reason,
    Status, VolumeNumber,
};
use crate::wire::Packet;

use super::cluster::Cluster;

/// What is known of both disks of a volume together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    /// Both were found or made equal, and neither has become a target since.
    pub synced: bool,
    /// The step of the history at which a node was forced last since then; 0: it was not.
    pub forced: [u64; 2],
    /// That at which a handler has said of a node's peer that it is fenced, and so its disk counts.
    pub spoken: [u64; 2],
    /// Somebody gave up a node's data.
    pub given_up: [bool; 2],
    /// And its superblock says so, or is about to.
    pub resigned: [bool; 2],
    /// A node's disk was set back to an older image, and has not been in sync since.
    pub behind: [bool; 2],
    /// A node's disk was taken away, and nothing has been in sync with the one in its place.
    pub taken: [bool; 2],
}

impl Pair {
    /// Until when what the other node must hold was put aside, as this one was to serve without it.
    pub(super) fn put_aside_for(&self, node: usize) -> u64 {
        self.forced[node].max(self.spoken[node])
    }
}

/// An order that is not answered gives a disk up.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivesUp {
    volume: VolumeNumber,
    victim: usize,
    /// The peer was asked: it may do it, though nobody hears of that.
    asked: bool,
    /// Nothing but orders that are not answered says that the disk was given up.
    sole: bool,
}

/// Who has chosen a victim of a split brain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Nobody.
    No,
    /// A person, or a policy that says nothing of what the victim has.
    Yes,
    /// A policy, as it had changed nothing.
    Unchanged,
}

impl Cluster {
    /// The node is the victim of a split brain, as a policy or a person has chosen: the verdict says so.
    pub(super) fn chosen(&self, node: usize, volume: VolumeNumber) -> Chosen {
        let verdicts = self.nodes[node].connection().map(|c| &c.last_handshake);
        let verdict = verdicts.and_then(|all| all.iter().find(|one| one.volume == volume));
        let because = verdict.map_or("", |one| one.because.as_str());
        let core = &self.options.core;
        if because.contains("manually solved: the node with --discard-my-data") {
            let met = verdict.is_some_and(|one| self.is_discard_for(node, one));
            return if self.discards(node) && met { Chosen::Yes } else { Chosen::No };
        }
        if !because.contains("automatically solved by after-sb") || !self.options.policies() {
            return Chosen::No;
        }
        let secondary = because.contains("after-sb-1pri")
            && core.after_sb_1pri == AfterSb1Pri::DiscardSecondary;
        match core.after_sb_0pri {
            AfterSb0Pri::DiscardZeroChanges if !secondary => Chosen::Unchanged,
            _ => Chosen::Yes,
        }
    }

    /// `connect --discard-my-data` waits on this node, or is about to.
    pub(super) fn discards(&self, node: usize) -> bool {
        let asks = |order: &super::admin::PendingOrder| {
            matches!(order.command, Command::Connect { discard_my_data: true, .. })
        };
        self.discard[node] || self.nodes[node].orders.values().any(asks)
    }

    /// The order to discard was given for the generations of this verdict, or before any were known.
    fn is_discard_for(&self, node: usize, verdict: &HandshakeStatus) -> bool {
        let mut known = self.discard_for[node].iter();
        let known = known.find(|(volume, ..)| *volume == verdict.volume);
        known.is_none_or(|(_, own, peer)| {
            let now = (verdict.own.current_uuid & !1, verdict.peer.current_uuid & !1);
            (own & !1, peer & !1) == now
        })
    }

    /// A person orders `connect --discard-my-data`, and sees a split brain, or none.
    fn watch_discard(&mut self, node: usize) {
        let awake = self.nodes[node].is_awake();
        let connection = self.nodes[node].connection().filter(|c| {
            let split = c.reason == Reason::SplitBrain;
            awake && split && c.connection_state == ConnectionState::StandAlone
        });
        let sides =
            |one: &HandshakeStatus| (one.volume, one.own.current_uuid, one.peer.current_uuid);
        match connection {
            Some(c) => self.discard_for[node] = c.last_handshake.iter().map(sides).collect(),
            None if !self.discard[node] => self.discard_for[node].clear(),
            None => {}
        }
    }

    /// An order to throw the own data away ends with the connection that it was given for, and a session that
    /// was open has carried it out.
    pub(super) fn discard_lapses(&mut self, node: usize, old: &Status) {
        let state = |status: &Status| status.connections.first().map(|c| c.connection_state);
        let ends = |state: Option<ConnectionState>| {
            matches!(state, Some(ConnectionState::StandAlone | ConnectionState::Disconnecting))
        };
        let open = |state| state == Some(ConnectionState::Connected);
        let (old, new) = (state(old), self.nodes[node].status.as_ref().and_then(state));
        if ends(new) && !ends(old) || open(old) && !open(new) {
            self.discard[node] = false;
        }
    }

    /// A person has invalidated the disk, and it says so, or is about to.
    pub(super) fn is_given_up(&self, node: usize, volume: VolumeNumber) -> bool {
        self.pairs.get(&volume).is_some_and(|pair| pair.resigned[node])
    }

    /// A disk that is attached says that it is whole. If a person had given it up, that was on its way
    /// when the node crashed or the disk failed, and is lost with the order: the disk counts. What
    /// another order does yet, that still runs on the other node, is excused as before.
    pub(super) fn found_whole(&mut self, node: usize, volume: VolumeNumber) {
        if let Some(pair) = self.pairs.get_mut(&volume) {
            pair.resigned[node] = false;
        }
    }

    /// An order that gives up somebody's data.
    pub(super) fn watch_order(&mut self, node: usize, command: &Command) -> Option<GivesUp> {
        self.watch_vouching(node, command);
        if let Command::Connect { discard_my_data: true, .. } = command {
            self.watch_discard(node);
        }
        let (volume, victim) = match command {
            Command::Invalidate { volume } => (*volume, node),
            Command::InvalidateRemote { volume, .. } => (*volume, 1 - node),
            Command::Repair { volume, from, .. } => (*volume, usize::from(*from == 0)),
            _ => return None,
        };
        let asked = self.is_asked_alone(volume, victim);
        let pair = self.pairs.get_mut(&volume)?;
        let sole = !pair.given_up[victim] || asked;
        pair.given_up[victim] = true;
        Some(GivesUp { volume, victim, asked: false, sole })
    }

    /// That a disk is given up rests on an order that is not answered, and on nothing else.
    fn is_asked_alone(&self, volume: VolumeNumber, victim: usize) -> bool {
        let orders = self.nodes.iter().flat_map(|node| node.orders.values());
        let mut given = orders.filter_map(|order| order.gives_up);
        given.any(|one| (one.volume, one.victim) == (volume, victim) && one.sole)
    }

    /// A node asks its peer: to be the source (`source`: the target).
    pub(super) fn watch_question(&mut self, node: usize, packet: &Packet) {
        let Packet::StartResync { volume, source: true, .. } = packet else { return };
        let of_it = |one: &GivesUp| one.volume == *volume && one.victim != node;
        let orders = self.nodes[node].orders.values_mut();
        let mut given = orders.filter_map(|order| order.gives_up.as_mut()).filter(|o| of_it(o));
        if let Some(one) = given.find(|one| !one.asked) {
            one.asked = true;
        }
    }

    /// An order that gives a disk up is answered: the excuse ends with one that was refused, and will not be
    /// carried out.
    pub(super) fn give_up_answered(&mut self, node: usize, given: GivesUp, result: &AdminResult) {
        let GivesUp { volume, victim, asked, sole } = given;
        let done = match result {
            // Else it says that there was nothing to do.
            Ok(text) => text.is_empty(),
            // The disk failed in the middle of that: it may say either.
            Err(refusal) if refusal.code == 118 => true,
            Err(refusal) => [-15, -23].contains(&refusal.code) && victim != node && asked,
        };
        if done {
            let orders = self.nodes.iter_mut().flat_map(|node| node.orders.values_mut());
            let others = orders.filter_map(|order| order.gives_up.as_mut());
            for other in others.filter(|one| (one.volume, one.victim) == (volume, victim)) {
                other.sole = false;
            }
        } else if sole
            && !self.is_asked_alone(volume, victim)
            && let Some(pair) = self.pairs.get_mut(&volume)
        {
            (pair.given_up[victim], pair.resigned[victim]) = (false, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::in_sync;
    use super::super::faults::{Order, node_id};
    use super::*;

    fn given_up(c: &Cluster) -> [bool; 2] {
        c.pairs[&0].given_up
    }

    #[test]
    fn an_order_that_is_refused_gives_nothing_up() {
        let (mut c, primary) = in_sync();
        let secondary = 1 - primary;
        for (node, order) in [
            (primary, Order::Invalidate),
            (secondary, Order::InvalidateRemote),
            // Nothing is out of sync.
            (primary, Order::Repair),
        ] {
            c.give(node, order, 0);
            assert!(c.nodes[node].orders.is_empty(), "{:?}", c.nodes[node].orders);
            assert_eq!(given_up(&c), [false; 2], "{order:?}");
        }
        let peer = node_id(secondary);
        let disconnect = Command::Disconnect { peer, force: true, for_ms: None };
        c.command(primary, disconnect);
        c.run_until(c.in_ms(5_000), |_| false);
        c.give(primary, Order::InvalidateRemote, 0);
        assert_eq!(given_up(&c), [false; 2], "apart");
        // One that is carried out stays, whatever is refused beside it.
        c.give(secondary, Order::Invalidate, 0);
        c.run_until(c.in_ms(5_000), |_| false);
        c.give(primary, Order::InvalidateRemote, 0);
        assert_eq!(given_up(&c).map(usize::from)[secondary], 1);
        assert!(c.violation.is_none(), "{:?}", c.violation);
    }

    #[test]
    fn what_a_lost_peer_was_asked_it_may_do_yet() {
        for asked in [false, true] {
            let (mut c, primary) = in_sync();
            let given = GivesUp { volume: 0, victim: 1 - primary, asked, sole: true };
            if let Some(pair) = c.pairs.get_mut(&0) {
                pair.given_up[1 - primary] = true;
            }
            let (text, hint) = (String::new(), String::new());
            let refusal = crate::resource::Refusal { code: -15, text, hint };
            c.give_up_answered(primary, given, &Err(refusal));
            assert_eq!(given_up(&c)[1 - primary], asked);
        }
        let (mut c, primary) = in_sync();
        c.give(primary, Order::InvalidateRemote, 0);
        let order = c.nodes[primary].orders.values().next();
        assert!(order.is_some_and(|order| order.gives_up.is_some_and(|given| given.asked)));
    }

    #[test]
    fn an_order_to_discard_ends_with_its_connection() {
        let (mut c, primary) = in_sync();
        let secondary = 1 - primary;
        let peer = node_id(primary);
        for force in [false, true] {
            let disconnect = Command::Disconnect { peer, force, for_ms: None };
            c.command(secondary, disconnect.clone());
            c.run_until(c.in_ms(5_000), |_| false);
            c.net.cut_until = [c.in_ms(60_000); 2];
            c.give(secondary, Order::ConnectDiscard, 0);
            assert!(c.discards(secondary));
            c.command(secondary, disconnect);
            assert!(!c.discards(secondary));
        }
    }

    #[test]
    fn an_order_to_discard_is_for_the_generations_that_were_seen() {
        let (mut c, primary) = in_sync();
        let verdict = c.nodes[primary].connection().map(|c| c.last_handshake[0].clone());
        let mut verdict = verdict.expect("they have met");
        assert!(c.is_discard_for(primary, &verdict), "none was known");
        let (own, peer) = (verdict.own.current_uuid, verdict.peer.current_uuid);
        c.discard_for[primary] = vec![(0, own ^ 1, peer)];
        assert!(c.is_discard_for(primary, &verdict), "but for the role");
        verdict.peer.current_uuid ^= 1 << 8;
        assert!(!c.is_discard_for(primary, &verdict));
        verdict.volume = 1;
        assert!(c.is_discard_for(primary, &verdict), "of that one nothing was known");
    }

    #[test]
    fn a_policy_or_a_person_chooses_only_whom_the_verdict_names() {
        use crate::resource::split_brain::Because;
        let (mut c, _) = in_sync();
        for (because, policies, discards, expected) in [
            (Because::Verdict, true, true, Chosen::No),
            (Because::Unresolved, true, true, Chosen::No),
            (Because::DiscardMyData, true, false, Chosen::No),
            (Because::DiscardMyData, false, true, Chosen::Yes),
            (Because::AfterSb0Pri, true, false, Chosen::Unchanged),
            (Because::AfterSb1Pri, true, false, Chosen::Yes),
            (Because::AfterSb0Pri, false, false, Chosen::No),
        ] {
            if !policies {
                c.options.core = Default::default();
            } else {
                c.options.core.after_sb_0pri = AfterSb0Pri::DiscardZeroChanges;
                c.options.core.after_sb_1pri = AfterSb1Pri::DiscardSecondary;
            }
            c.discard[0] = discards;
            if let Some(status) = c.nodes[0].status.as_mut() {
                status.connections[0].last_handshake[0].because = because.explain().to_owned();
            }
            assert_eq!(c.chosen(0, 0), expected, "{because:?}");
        }
    }
}

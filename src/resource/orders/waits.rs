//! What the running order waits for: for `status` and `why` while it does, and for its refusal.
//!
//! Invariant: who is named owes something just now, and where nobody does nobody is blamed.

use crate::resource::orders::order::{OWN_ORDER, Order, Running, Step};
use crate::resource::status::OrderStatus;
use crate::resource::{Command, Resource, Time};

/// From when on a peer that owes an answer is named, ms.
const SILENT_MS: u64 = 2_000;

/// What an order waits for while the daemon detaches the devices of the resource: its cue.
pub const DETACHES: &str = "devices to be detached (device-attach)";

impl Resource {
    /// The order that runs, for people.
    pub(crate) fn order_status(&self, now: Time) -> Option<OrderStatus> {
        let running = self.running.as_ref()?;
        let left = |limit: u64| Some(limit.saturating_sub(now.ms_since(running.since)));
        let left_ms = match (&running.command, running.step) {
            (Command::Secondary { wait_ms, .. }, Step::Clients) => left(*wait_ms),
            (Command::HandOver, _) if running.id == OWN_ORDER => {
                left(self.config.options.hand_over_timeout_ms)
            }
            _ => Self::refused_at(running).map(|at| at.ms_since(now)),
        };
        Some(OrderStatus {
            verb: verb(running).to_owned(),
            for_ms: now.ms_since(running.since),
            left_ms,
            waits_for: self.order_waits_for(now),
            behind: u32::try_from(self.orders.len()).unwrap_or(u32::MAX),
        })
    }

    /// Disks, peers and people that the running order waits for; never empty.
    pub(crate) fn order_waits_for(&self, now: Time) -> String {
        let Some(running) = self.running.as_ref() else { return "nothing".to_owned() };
        let name = &self.config.name;
        if running.step == Step::Clients {
            return "clients to leave; new ones are refused".to_owned();
        }
        if running.step == Step::Devices {
            return DETACHES.to_owned();
        }
        let mut found = Vec::new();
        for (volume, device) in &self.devices {
            if let Some(since) = device.hung_since.filter(|_| !device.abandoned()) {
                let seconds = now.ms_since(since) / 1000;
                found.push(format!(
                    "the disk of {name}/{volume}, which has not answered for {seconds} s"
                ));
            }
            if !device.starved.is_empty() {
                found.push(format!("space on the backing disk of {name}/{volume}"));
            }
        }
        for connection in &self.connections {
            for (volume, _) in connection.peer_devices.iter().filter(|p| !p.1.starved.is_empty()) {
                let peer = &connection.name;
                found.push(format!("space on the backing disk of {name}/{volume} on {peer}"));
            }
            let silent = connection.oldest_unanswered().map(|since| now.ms_since(since));
            if let Some(ms) = silent.filter(|ms| *ms >= SILENT_MS) {
                let peer = &connection.name;
                found.push(format!("{peer}, which has not answered for {} s", ms / 1000));
            } else if connection.leaving.is_some() {
                let peer = &connection.name;
                found.push(format!("{peer}, to end the connection in order"));
            }
        }
        if self.suspended && self.requests.iter().next().is_some() {
            found.push("`resume-io`: I/O is frozen by order".to_owned());
        }
        if self.io_frozen() && self.requests.iter().next().is_some() {
            found.push("the peer to be fenced: I/O is frozen".to_owned());
        }
        match (found.is_empty(), running.step) {
            (false, _) => found.join("; "),
            (true, Step::Fence) if self.connections.iter().any(|c| c.fencing.unfencing) => {
                "the handler unfence-peer, which runs yet, then fence-peer".to_owned()
            }
            (true, Step::Fence) => "the handler fence-peer".to_owned(),
            (true, Step::Hush | Step::Drain) => "requests of clients that are under way".to_owned(),
            (
                true,
                Step::AskPeer
                | Step::AskHandOver
                | Step::AskVerify
                | Step::AskResync
                | Step::PeerGrows
                | Step::PeerClears,
            ) => "the answer of the peer".to_owned(),
            (true, _) => "what is being written and flushed".to_owned(),
        }
    }

    /// Somebody who has heard nothing of the running order means this node to be Secondary, or down.
    pub(crate) fn a_later_order_demotes(&self) -> bool {
        let demotes = |order: &Order| {
            matches!(order.command, Command::Down { .. } | Command::Secondary { .. })
        };
        self.orders.iter().any(demotes)
    }

    /// What the running order is refused with when its time is over.
    pub(crate) fn late_refusal(&self) -> String {
        let name = &self.config.name;
        let waits = self.order_waits_for(self.now);
        let since = self.running.as_ref().map_or(self.now, |running| running.since);
        let waited = self.now.ms_since(since) / 1000;
        let mut next = Vec::new();
        for (volume, device) in &self.devices {
            if device.hung_since.is_some() && !device.abandoned() {
                next.push(format!(
                    "`tandemadm detach --force {name}/{volume}` gives the disk up; a `down`, and the \
                     end of tandemd, do so by themselves once no client waits"
                ));
            }
            if self.space_is_short(*volume) {
                next.push("make room there".to_owned());
            }
        }
        for connection in &self.connections {
            let silent = connection.oldest_unanswered().map(|since| self.now.ms_since(since));
            if silent.is_some_and(|ms| ms >= SILENT_MS) {
                let peer = &connection.name;
                next.push(format!(
                    "`tandemadm why {name}` on {peer}, whose disk may hang (`tandemadm detach --force` \
                     there gives it up); `tandemadm disconnect --force {name}` goes on without {peer}"
                ));
            }
        }
        if self.io_frozen() {
            next.push(format!(
                "`tandemadm why {name}` says what the handler fence-peer does; `tandemadm secondary --force \
                 {name}` fails what clients wait for"
            ));
        }
        if next.is_empty() {
            next.push("try again".to_owned());
        }
        format!(
            "It has waited {waited} s for {waits}, and nothing has changed. Next: {}.",
            next.join("; or ")
        )
    }
}

fn verb(running: &Running) -> &'static str {
    match &running.command {
        Command::Secondary { .. } if running.id == OWN_ORDER => "auto-promote",
        Command::HandOver if running.id == OWN_ORDER => "hand-over",
        // The attach has another one as its carrier.
        _ if running.step == Step::Attach => "attach",
        command => command.verb(),
    }
}

//! Mutants of parts of rules of model.md, each seen by a story of its own: mostly it takes two losses
//! one after the other until something is missing.

use super::list::{By, Mutant};

/// A story for each.
const RULES: By = By::Tests(&["--lib", "resource::tests::rules"]);
/// The source of a resync whose process ends.
const SOURCE: By = By::Tests(&["--lib", "resource::tests::source"]);
/// Two orders that end a session at once.
const LEAVES: By = By::Tests(&["--lib", "resource::tests::leaves"]);

/// What a refusal says of the own disk.
const REFUSALS: By = By::Tests(&["--lib", "resource::tests::newer_peer"]);
/// What becomes of disks that fail, and come back.
const ENDS: By = By::Tests(&["--lib", "resource::tests::ends"]);

/// Disks and peers that are lost while something waits.
const LOST: By = By::Tests(&["--lib", "resource::tests::lost_disk"]);
/// Flushes that have nothing to do.
const COMMITS: By = By::Tests(&["--lib", "resource::tests::commits"]);

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "refused-image-forgotten",
        breaks: "promise 6: a disk that was set back, and refused for it, is promoted when its peer is fenced",
        by: REFUSALS,
        file: "src/resource/peer/newer_peer.rs",
        old: "older && side(peer).usable()",
        new: "!older && side(peer).usable()",
    },
    Mutant {
        name: "refused-target-forgotten",
        breaks: "promise 6: a disk that is behind, and refused for its size, is promoted when its peer is fenced",
        by: REFUSALS,
        file: "src/resource/peer/newer_peer.rs",
        old: "Outcome::Target { .. } if !attaching && !split =>",
        new: "Outcome::Target { .. } if attaching && !split =>",
    },
    Mutant {
        name: "survivor-outdated",
        breaks: "promise 1: a survivor whose first write alone fails counts as older than a disk that has lost its cache",
        by: ENDS,
        file: "src/resource/orders/attach.rs",
        old: "lacks && !survived && ",
        new: "lacks && ",
    },
    Mutant {
        name: "flush-before-loss",
        breaks: "R2b: a flush is answered before the loss was dealt with",
        by: RULES,
        file: "src/resource/data/flush.rs",
        old: "if flush.local || flush.peers != 0 || device.loss != Loss::None || device.bumping {",
        new: "if flush.local || flush.peers != 0 || device.bumping {",
    },
    Mutant {
        name: "stays-unsaid",
        breaks: "R3b: who stays when the other one leaves does not say that it survived",
        by: RULES,
        file: "src/resource/peer/leave.rs",
        old: "                Mark::Survived => backing.flags(DeviceFlags::SURVIVED, 0),",
        new: "                Mark::Survived => {}",
    },
    Mutant {
        name: "leaver-old-early",
        breaks: "R3b: who leaves is Outdated before the Primary has answered",
        by: RULES,
        file: "src/resource/peer/leave.rs",
        old: "                if first && marked.is_none() {\n                    return self.mark(c, Mark::Survived);",
        new: "                if marked.is_none() {\n                    return self.mark(c, if first { Mark::Survived } else { Mark::Outdated });",
    },
    Mutant {
        name: "flush-before-uuid",
        breaks: "R4: a flush, and with it a demotion, does not wait for a new UUID that is being written",
        by: By::Tests(&["--lib", "resource::tests::crossing"]),
        file: "src/resource/data/flush.rs",
        old: "if flush.local || flush.peers != 0 || device.loss != Loss::None || device.bumping {",
        new: "if flush.local || flush.peers != 0 || device.loss != Loss::None {",
    },
    Mutant {
        name: "opened-early",
        breaks: "R5: Opened is said before SURVIVED is durably gone",
        by: RULES,
        file: "src/resource/peer/session.rs",
        old: "        self.save_superblock(volume, Then::OpenSaved { c, socket });",
        new: "        let _ = socket;\n        self.save_superblock(volume, Then::Log);\n        self.opened(c, volume);",
    },
    Mutant {
        name: "crash-outlives-session",
        breaks: "R5: a session opens and the crash of a former Primary still counts",
        by: RULES,
        file: "src/resource/peer/session.rs",
        old: "            backing.mark_role(role);\n            backing.crashed = false;\n            if !primary {\n                backing.flags(0, DeviceFlags::PRIMARY_IND);\n            }\n            let slot",
        new: "            backing.mark_role(role);\n            let _ = primary;\n            let slot",
    },
    Mutant {
        name: "adopted-early",
        breaks: "R7: Adopted is said before the target is durably Inconsistent",
        by: RULES,
        file: "src/resource/peer/session.rs",
        old: "        self.save_superblock(volume, Then::AdoptSaved { c, socket });",
        new: "        let _ = socket;\n        self.save_superblock(volume, Then::Log);\n        self.adopted(c, volume);",
    },
    Mutant {
        name: "source-unflushed",
        breaks: "R9: a source does not flush before it sends",
        by: RULES,
        file: "src/resource/peer/session.rs",
        old: "                self.flush_disk(volume, Then::SourceFlushed { c, socket });",
        new: "                let _ = socket;\n                self.source_flushed(c, volume);",
    },
    Mutant {
        name: "attach-unflushed",
        breaks: "R12: an attach does not flush what the process before has left in the cache",
        by: RULES,
        file: "src/resource/orders/attach.rs",
        old: "        self.flush_disk(volume, Then::AttachFlushed { id });",
        new: "        self.attach_flushed(volume, id);",
    },
    Mutant {
        name: "force-remembers",
        breaks: "R13: the generation that a disk had before it was forced is in its history",
        by: RULES,
        file: "src/resource/orders/promote.rs",
        old: "        superblock.current_uuid = uuid;\n        superblock.generation_time = wall;",
        new: "        let old = superblock.current_uuid;\n        superblock.remember(old);\n        superblock.current_uuid = uuid;\n        superblock.generation_time = wall;",
    },
    Mutant {
        name: "ack-before-number",
        breaks: "R14: a write is acknowledged before the number that came with it is durable",
        by: RULES,
        file: "src/resource/data/peer_io.rs",
        old: "(durable < write.number && !write.failed && disk)",
        new: "(durable < write.number && !write.failed && disk && self.suspended)",
    },
    Mutant {
        name: "stand-in-unflushed",
        breaks: "R15: the disk that stands in begins its generation without a flush",
        by: RULES,
        file: "src/resource/peer/loss.rs",
        old: "        self.flush_disk(volume, Then::PeerUuidFlushed { c, socket, uuid });",
        new: "        let _ = socket;\n        self.peer_uuid_flushed(c, volume, uuid);",
    },
    Mutant {
        name: "detached-not-old",
        breaks: "R15: a disk that is detached while the peer's goes on is not Outdated",
        by: RULES,
        file: "src/resource/orders/attach.rs",
        old: "                && !backing.is_just_created()\n            {\n                backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED);",
        new: "                && !backing.is_just_created()\n            {\n                backing.flags(0, DeviceFlags::SURVIVED);",
    },
    Mutant {
        name: "source-vouches-not",
        breaks: "promise 4: a Primary that is a target stops for ever where the process of its source has ended",
        by: SOURCE,
        file: "src/resource/peer/session.rs",
        old: "                | DeviceFlags::STANDS_IN\n                | DeviceFlags::IN_DOUBT,\n",
        new: ",\n",
    },
    Mutant {
        name: "source-undoubted",
        breaks: "promise 6: a source that has not heard of the end of its resync is promoted beside the target that goes on",
        by: SOURCE,
        file: "src/resource/peer/session.rs",
        old: "                | DeviceFlags::STANDS_IN\n                | DeviceFlags::IN_DOUBT,\n",
        new: "                | DeviceFlags::STANDS_IN,\n",
    },
    Mutant {
        name: "crossing-leave-unmarked",
        breaks: "promise 6: of two leaves at once the Secondary answers the Primary's before its disk is Outdated",
        by: LEAVES,
        file: "src/resource/peer/leave.rs",
        old: "                if !first && !old && self.connections[c].peer_leaves_too {",
        new: "                if !first && !old && self.connections[c].peer_leaves_too && self.suspended {",
    },
    Mutant {
        name: "promoted-leave-survives",
        breaks: "promise 6: what leaves one of two Secondaries that is promoted meanwhile is promoted beside it",
        by: LEAVES,
        file: "src/resource/peer/leave.rs",
        old: "                if !first && marked == Some(Mark::Survived) {",
        new: "                if !first && marked == Some(Mark::Survived) && self.suspended {",
    },
    Mutant {
        name: "returning-source-forgets",
        breaks: "promise 4: a source whose link is lost as it comes back has not survived any more",
        by: SOURCE,
        file: "src/resource/peer/loss.rs",
        old: "        let established = established || was_source;\n",
        new: "",
    },
    Mutant {
        name: "due-pass-spins",
        breaks: "resync: a pass that is due and has nothing left asks for a time that is over, for ever",
        by: SOURCE,
        file: "src/resource/sync/resync.rs",
        old: "                    .filter(|_| peer.bitmap.count() > 0)\n",
        new: "",
    },
    Mutant {
        name: "asked-leave-unmarked",
        breaks: "promise 6: a Secondary that has asked to leave answers its Primary's Leave before its disk is Outdated",
        by: LEAVES,
        file: "src/resource/peer/leave.rs",
        old: "Some(Leaving::Asked { .. }) if self.is_left_by_a_primary(c) => {",
        new: "Some(Leaving::Asked { .. }) if self.is_left_by_a_primary(c) && self.suspended => {",
    },
    Mutant {
        name: "draining-disk-untold",
        breaks: "promise 1: a disk that fails while its session drains is not told, and the peer marks nothing of what it is sent",
        by: LOST,
        file: "src/resource/mod.rs",
        old: "|| self.is_renegotiating(c)\n            {\n                self.send_state_to(c, volume);",
        new: "|| self.suspended\n            {\n                self.send_state_to(c, volume);",
    },
    Mutant {
        name: "draining-disk-unheard",
        breaks: "promise 1: a peer's disk that fails while the session drains is not heard of",
        by: LOST,
        file: "src/resource/data/peer_io.rs",
        old: "stage < Stage::Opening && !self.is_renegotiating(c)",
        new: "stage < Stage::Opening",
    },
    Mutant {
        name: "disk-told-behind-writes",
        breaks: "promise 1: what waited for a verify is written before the peer hears that the own disk is gone",
        by: LOST,
        file: "src/resource/peer/loss.rs",
        old: "        self.send_state(volume);\n        for c in self.peers() {\n            let peer = self.peer_device(c, volume);\n            peer.target = None;",
        new: "        for c in self.peers() {\n            let peer = self.peer_device(c, volume);\n            peer.target = None;",
    },
    Mutant {
        name: "older-copy-vouches",
        breaks: "promise 1: a flush of a client whose only copy failed is answered, as an older copy has come back",
        by: LOST,
        file: "src/resource/peer/handshake.rs",
        old: "let counts = side != Side::Source;",
        new: "let counts = side != Side::Source || disk == DiskState::UpToDate;",
    },
    Mutant {
        name: "detach-unmarked",
        breaks: "promise 6: a detach is answered before its disk is durably Outdated",
        by: By::Tests(&["--lib", "resource::tests::disks"]),
        file: "src/resource/orders/attach.rs",
        old: "        self.detach_volumes(&marked);",
        new: "        self.detach_volumes(&marked[marked.len()..]);",
    },
    Mutant {
        name: "flush-beside-write",
        breaks: "promise 1: a flush counts for a write that was under way when it began",
        by: COMMITS,
        file: "src/resource/data/flush.rs",
        old: "let covers = (!self.writes_are_under_way(volume))",
        new: "let covers = (!self.writes_are_under_way(volume) || self.role == Role::Primary)",
    },
    Mutant {
        name: "flush-of-peer-forgotten",
        breaks: "promise 1: a flush asks nobody though the peer's cache holds a write",
        by: COMMITS,
        file: "src/resource/data/write.rs",
        old: "        let (kind, payload) = (request.kind, request.payload);\n        if !fua {",
        new: "        let (kind, payload) = (request.kind, request.payload);\n        if !fua && kind != RequestKind::Write {",
    },
    Mutant {
        name: "flush-of-former-state",
        breaks: "promise 1: a flush asks nobody though a disk has come since the last one",
        by: COMMITS,
        file: "src/resource/data/cache.rs",
        old: "self.flushed == Some(self.covered_now(state))",
        new: "self.flushed.is_some_and(|last| last.volatile == self.volatile && state > 0)",
    },
];

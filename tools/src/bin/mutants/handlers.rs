//! Mutants of handlers and fencing.

use super::list::{By, Mutant};

/// The stories of fencing.
const FENCING: By = By::Tests(&["--lib", "resource::tests::fencing"]);

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "lone-reply-while-frozen",
        breaks: "R16: a write that rests on this disk alone is answered before fence-peer has answered",
        by: FENCING,
        file: "src/resource/peer/loss.rs",
        old: "        if self.io_frozen() {\n            return false;\n        }\n",
        new: "",
    },
    Mutant {
        name: "doubt-forgets-survived",
        breaks: "R2: a Primary that is demoted while its peer loses its power passes for one that has lost as much",
        by: FENCING,
        file: "src/resource/orders/demote.rs",
        old: "backing.flags(DeviceFlags::IN_DOUBT, DeviceFlags::STANDS_IN);",
        new: "backing.flags(0, DeviceFlags::SURVIVED);",
    },
    Mutant {
        name: "promotion-outlasts-demotion",
        breaks: "orders: a demotion waits for the fence-peer of a promotion that nobody wants any more",
        by: FENCING,
        file: "src/resource/orders/order.rs",
        old: "            Step::Fence if self.a_later_order_demotes() => {",
        new: "            Step::Fence if self.a_later_order_demotes() && waited >= PATIENCE_MS => {",
    },
    Mutant {
        name: "frozen-request-starts",
        breaks: "fencing: requests start while I/O is frozen",
        by: FENCING,
        file: "src/resource/data/request.rs",
        old: "            && !self.io_frozen()\n",
        new: "",
    },
    Mutant {
        name: "fence-answer-after-return",
        breaks: "fencing: an answer counts that came after the peer was back",
        by: FENCING,
        file: "src/resource/peer/fencing.rs",
        old: "        if fencing.phase != Phase::Asked || fencing.met || !away {",
        new: "        if false {",
    },
    Mutant {
        name: "fence-before-survived",
        breaks: "R16: fence-peer is started before SURVIVED is durable",
        by: FENCING,
        file: "src/resource/peer/fencing.rs",
        old: "        if !away || !settled || self.gap != Gap::None {",
        new: "        if !away || self.gap != Gap::None {",
    },
    Mutant {
        name: "broken-fence-is-an-answer",
        breaks: "fencing: a handler that fails has fenced the peer",
        by: By::Seeds,
        file: "src/resource/peer/fencing.rs",
        old: "            _ => (\"broken\", None),",
        new: "            _ => (\"broken\", Some(DiskState::Outdated)),",
    },
    Mutant {
        name: "promotion-unfenced",
        breaks: "fencing: a node is promoted though its peer could not be fenced",
        by: FENCING,
        file: "src/resource/orders/promote.rs",
        old: "            (Ok(()), Err(refusal)) if force.is_none() => Some(refusal),",
        new: "            (Ok(()), Err(_)) if force.is_none() => None,",
    },
    Mutant {
        name: "resync-asks-no-handler",
        breaks: "before-resync-target and -source: the resync does not wait for them",
        by: By::Tests(&["--lib", "resource::tests::handlers"]),
        file: "src/resource/peer/handlers.rs",
        old: "        if !self.has_handler(handler) {",
        new: "        if true {",
    },
];

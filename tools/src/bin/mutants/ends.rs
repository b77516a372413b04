//! Mutants of what ends, and comes back: disks that part, resources that go down, processes that did
//! not run, daemons that are replaced.

use super::list::{By, Mutant};

const PARTING: By = By::Tests(&["--lib", "resource::tests::parting"]);
const BETWEEN: By = By::Tests(&["--lib", "resource::tests::between"]);

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "parting-unsaid",
        breaks: "parting: a disk that fails while the peer's goes on does not say so",
        by: PARTING,
        file: "src/resource/disk/parting.rs",
        old: "        let Some(c) = goes_on else { return };",
        new: "        let Some(c) = goes_on.filter(|_| self.suspended) else { return };",
    },
    Mutant {
        name: "parting-unanswered",
        breaks: "parting: a failed disk is Outdated before the peer has flushed its own",
        by: PARTING,
        file: "src/resource/disk/parting.rs",
        old: "        if !answered {\n            return false;",
        new: "        if !answered && self.suspended {\n            return false;",
    },
    Mutant {
        name: "parting-of-both",
        breaks: "parting: of two disks that fail at once both are Outdated",
        by: PARTING,
        file: "src/resource/disk/parting.rs",
        old: "        if late || self.reading_peer(volume) != Some(c) {",
        new: "        if late || c > 31 {",
    },
    Mutant {
        name: "parting-flush-failed",
        breaks: "parting: a peer whose flush has failed passes for one that goes on",
        by: PARTING,
        file: "src/resource/disk/parting.rs",
        old: "                false => backing.parting = Parting::None,",
        new: "                false => *answered = true,",
    },
    Mutant {
        name: "down-takes-orders",
        breaks: "down: an order that comes later starts on a resource that the shell lets go of",
        by: BETWEEN,
        file: "src/resource/orders/order.rs",
        old: "        if self.is_down {\n            return self.reply(id, Err(taken_down()));",
        new: "        if self.is_down && self.suspended {\n            return self.reply(id, Err(taken_down()));",
    },
    Mutant {
        name: "down-keeps-orders",
        breaks: "down: an order that has waited behind it starts then",
        by: BETWEEN,
        file: "src/resource/orders/order.rs",
        old: "            let behind = self.is_down.then(|| std::mem::take(&mut self.orders));",
        new: "            let behind =\n                (self.is_down && self.suspended).then(|| std::mem::take(&mut self.orders));",
    },
    Mutant {
        name: "failed-order-done",
        breaks: "orders: done is said of what the disk that failed has not stored",
        by: By::Tests(&["--lib", "resource::tests::give_up"]),
        file: "src/resource/orders/order.rs",
        old: "        if !saves || step != self.order_step {",
        new: "        if !saves || step <= self.order_step {",
    },
    Mutant {
        name: "gap-told-late",
        breaks: "gap: clients are closed first, and the core takes the gap for the silence of disks and peers",
        by: By::Tests(&["--lib", "io::thread::tests::clients"]),
        file: "src/io/thread.rs",
        old: "        self.io.events.push_back(Event::ClockGap { gap_ms });\n        self.clients.drop_all(&mut self.io);",
        new: "        self.clients.drop_all(&mut self.io);\n        self.io.events.push_back(Event::ClockGap { gap_ms });",
    },
    Mutant {
        name: "gap-target-serves",
        breaks: "gap: a frozen Primary whose peer has gone on serves again while its own disk is overwritten",
        by: By::Tests(&["--lib", "resource::tests::crossing"]),
        file: "src/resource/peer/handshake.rs",
        old: "                target(judgement) && !known\n",
        new: "                target(judgement) && !known && self.suspended\n",
    },
    Mutant {
        name: "restart-uuid-unchecked",
        breaks: "restart: a node is Primary again though its data was written on the other one meanwhile",
        by: By::Tests(&["--lib", "restart::again"]),
        file: "src/io/control/restart/again.rs",
        old: "        was.is_some_and(|was| *was != data(device))",
        new: "        was.is_some_and(|was| *was != data(device) && *was == u64::MAX)",
    },
    Mutant {
        name: "restart-primary-unseen",
        breaks: "restart: a node asks to be Primary again beside another one",
        by: By::Tests(&["--lib", "restart::again"]),
        file: "src/io/control/restart/again.rs",
        old: "if let Some(peer) = status.connections.iter().find(|one| one.peer_role == Role::Primary) {",
        new: "if let Some(peer) = status.connections.iter().find(|one| one.peer_role == Role::Unknown) {",
    },
    Mutant {
        name: "restart-specimen-unread",
        breaks: "restart: the next program says that it can follow without a look at what it would be left",
        by: By::Tests(&["--test", "daemon", "replaced::a_program"]),
        file: "src/io/control/daemon.rs",
        old: "&restart::specimen())",
        new: "&restart::specimen()[..0])",
    },
    Mutant {
        name: "restart-doors-open",
        breaks: "restart: who connects in the middle of it is let in by the program that ends",
        by: By::Tests(&["--test", "daemon", "replaced::who_connects"]),
        file: "src/io/control/restart.rs",
        old: "        doors.close().await;\n",
        new: "",
    },
    Mutant {
        name: "restart-question-lost",
        breaks: "restart: a question of tandemadm that it cuts off is not asked once more",
        by: By::Tests(&["--lib", "adm::client"]),
        file: "src/io/control/adm/client.rs",
        old: "                Err(error) if has_ended(&error) && !anew => {",
        new: "                Err(error) if has_ended(&error) && anew => {",
    },
];

//! The end of an episode: what an administrator does until the pair is in sync, and the comparison
//! of both disks with each other and with the book.
//!
//! Invariants:
//! - Every refusal that needs a person has a name, and is answered as OPERATIONS says.
//! - What is given up is given up by an order that the book knows of. Nothing is forced, but for one
//!   case: the newest disk was invalidated without the peer, so that it is no source for the other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::book::{Counts, Mode, SECTOR, value_of};
use crate::client::SPAN;
use crate::driver::Driver;
use crate::node::{NAMES, State};
use crate::orders::{Order, give};

/// In sync by then, with fine weather and an administrator.
const IN_SYNC: Duration = Duration::from_secs(120);
/// Every request is answered by then, in a pair that is in sync.
const ANSWERED: Duration = Duration::from_secs(30);

impl Driver {
    /// Faults off; in sync within a bound; both disks equal, and equal to the book.
    pub(crate) fn mend_and_compare(&mut self) {
        self.calm_down();
        let began = Instant::now();
        let mut said = String::new();
        loop {
            if self.world.violation().is_some() {
                return;
            }
            self.look_at_daemons();
            let states = [0, 1].map(|at: usize| self.nodes[at].state());
            if began.elapsed() > IN_SYNC {
                let text = format!("not in sync within {IN_SYNC:?}: {states:?}");
                return self.world.violate(None, text);
            }
            if let [Some(alice), Some(bob)] = &states {
                let both = [alice, bob];
                if both.iter().all(|state| state.at_rest()) {
                    if self.somebody_serves(both) {
                        break;
                    }
                } else if let Some(done) = self.mend(both, began.elapsed()) {
                    if said != done {
                        self.line(&format!("  {done}"));
                    }
                    said = done;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.world.calm.store(true, Ordering::SeqCst);
        self.compare(began);
    }

    fn somebody_serves(&self, states: [&State; 2]) -> bool {
        match states.iter().filter(|state| state.is_primary()).count() {
            0 => {
                let node = usize::from(states[0].out_of_sync > 0);
                give(Order::Primary, &self.nodes[node], &self.world);
                false
            }
            1 => true,
            _ => {
                self.world.violate(None, "both are Primary, and in sync".to_owned());
                false
            }
        }
    }

    /// One step of an administrator, if there is one to do.
    fn mend(&mut self, states: [&State; 2], since: Duration) -> Option<String> {
        if states.iter().any(|state| state.reason == "split-brain") {
            let victim = self.chance.index(2);
            Counts::add(&self.world.counts.split_brains, 1);
            give(Order::Secondary, &self.nodes[victim], &self.world);
            // Both stand alone by now, or will in a moment.
            give(Order::Discard, &self.nodes[victim], &self.world);
            give(Order::Connect, &self.nodes[1 - victim], &self.world);
            std::thread::sleep(Duration::from_millis(500));
            return Some(format!("split brain: {} is the victim", NAMES[victim]));
        }
        for (node, state) in states.into_iter().enumerate() {
            let name = NAMES[node];
            if state.disk == "Diskless" {
                give(Order::Attach, &self.nodes[node], &self.world);
                return Some(format!("{name}'s disk is attached"));
            }
            if state.connection != "StandAlone" {
                continue;
            }
            match &*state.reason {
                "stopped-by-admin" | "none" | "never-connected" | "lost" | "timeout" => {
                    give(Order::Connect, &self.nodes[node], &self.world);
                    return Some(format!("{name} is connected"));
                }
                "resync-refused" => return Some(self.refused(states)),
                other => {
                    let text = format!("{name} stands alone: {other}, which no fault here can do");
                    self.world.violate(None, text);
                    return None;
                }
            }
        }
        // A Primary that waits for a person.
        let waits = states.iter().position(|state| state.is_primary() && state.gap);
        if let Some(node) = waits.filter(|_| since > Duration::from_secs(8)) {
            give(Order::Secondary, &self.nodes[node], &self.world);
            return Some(format!("{} is demoted after its gap", NAMES[node]));
        }
        None
    }

    /// A resync that is needed would overwrite what is in use, or come from a disk that is no source.
    fn refused(&mut self, states: [&State; 2]) -> String {
        let primaries: Vec<usize> = (0..2).filter(|at| states[*at].is_primary()).collect();
        let bad = |at: &usize| states[*at].disk == "Inconsistent";
        let given_up = (0..2).find(|at| bad(at) && self.world.given_up[*at].load(Ordering::SeqCst));
        if let (true, Some(lost)) = (primaries.is_empty(), given_up) {
            // As the refusal says: force the one to keep, discard the other.
            let kept = 1 - lost;
            let force = match &*states[kept].disk {
                "Outdated" => Order::ForceOutdated,
                _ => Order::Force,
            };
            give(force, &self.nodes[kept], &self.world);
            give(Order::Discard, &self.nodes[lost], &self.world);
            give(Order::Connect, &self.nodes[kept], &self.world);
            return format!("{} was invalidated alone: the other is kept by force", NAMES[lost]);
        }
        let any = self.chance.index(2);
        let demoted = if primaries.len() == 1 { primaries[0] } else { any };
        give(Order::Secondary, &self.nodes[demoted], &self.world);
        for node in 0..2 {
            give(Order::Connect, &self.nodes[node], &self.world);
        }
        format!("a resync is refused: {} is demoted", NAMES[demoted])
    }

    fn compare(&mut self, began: Instant) {
        self.world.set_mode(Mode::Rest);
        let asked = Instant::now();
        while !self.world.resting.iter().all(|one| one.load(Ordering::SeqCst)) {
            if self.world.violation().is_some() {
                return;
            }
            if asked.elapsed() > ANSWERED {
                let text = format!("a request is not answered within {ANSWERED:?} in sync");
                return self.world.violate(None, text);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let states = [0, 1].map(|at: usize| self.nodes[at].state());
        for (name, state) in NAMES.iter().zip(&states) {
            let state = state.clone().unwrap_or_default();
            if !state.at_rest() || state.out_of_sync != 0 {
                let text = format!("{name} in calm times: {state:?}");
                return self.world.violate(None, text);
            }
        }
        match [self.nodes[0].data(), self.nodes[1].data()] {
            [Ok(alice), Ok(bob)] => self.judge(&alice, &bob),
            [Err(text), _] | [_, Err(text)] => self.world.violate(None, text),
        }
        let victims = self.world.book().victims;
        self.line(&format!(
            "  in sync and equal after {:.1} s; given up so far: {victims} sectors",
            began.elapsed().as_secs_f64()
        ));
        self.turn_recordings();
        for one in &self.world.given_up {
            one.store(false, Ordering::SeqCst);
        }
    }

    fn judge(&self, alice: &[u8], bob: &[u8]) {
        let sectors = alice.chunks(SECTOR).zip(bob.chunks(SECTOR)).zip(0u64..);
        if alice.len() != bob.len() {
            let text = format!("{} and {} bytes of data", alice.len(), bob.len());
            return self.world.violate(None, text);
        }
        let mut values = Vec::new();
        for ((here, there), sector) in sectors {
            if here != there {
                let [here, there] = [here, there].map(|bytes| value_of(bytes, sector));
                let text =
                    format!("in sync, and sector {sector} differs: alice {here:?}, bob {there:?}");
                return self.world.violate(Some(sector), text);
            }
            match value_of(here, sector) {
                Err(text) => return self.world.violate(Some(sector), text),
                Ok(value) if sector >= SPAN && value != 0 => {
                    let text = format!("nobody writes to sector {sector}, and it holds {value}");
                    return self.world.violate(Some(sector), text);
                }
                Ok(value) => values.push(value),
            }
        }
        values.truncate(usize::try_from(SPAN).unwrap_or(usize::MAX));
        let mut book = self.world.book();
        let held = book.disk_holds(0, &values);
        let step = book.step();
        if held.is_ok() {
            for node in 0..2 {
                book.shared(node, step);
            }
        }
        drop(book);
        if let Err((sector, text)) = held {
            self.world.violate(Some(sector), text);
        }
    }
}

//! Connections that are not held here, for another guard has made them: how many are dead is learned by a look.
//!
//! Invariants:
//! - A look asks no server. What the kernel takes leads nowhere and ends at once, and nothing else is begun
//!   before the kernel has let go of it again.
//! - An end that the kernel tells of right after a look or a hand-over may have been counted by that one: it
//!   makes the guard look again.

use std::time::Duration;

use super::{Action, Guard, PAUSE, Place, WORD};

/// How often it is looked which connections are dead, where they are not held: the kernel's word may be
/// lost.
const LOOK: Duration = Duration::from_secs(5);
/// The same where some are dead: requests that go to nowhere meanwhile wait for their time-out.
const LOOK_RARELY: Duration = Duration::from_secs(30);

/// A look at what the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    None,
    /// The kernel is being asked.
    Asked,
    /// It took so many that lead nowhere. It tells of each when it has let go of it.
    Clearing {
        taken: usize,
        left: usize,
        until: Duration,
    },
}

impl Guard {
    pub(super) fn has_blind(&self) -> bool {
        self.places.contains(&Place::Blind)
    }

    /// Whether the kernel can be looked at. One that has hung up may be dead for it or not.
    pub(super) fn may_look(&self) -> bool {
        let hangs = self.places.iter().any(|place| matches!(place, Place::HungUp(_)));
        (self.has_blind() || self.is_in_doubt) && !self.is_busy() && !hangs
    }

    pub(super) fn link_dead(&mut self, now: Duration) {
        if let Look::Clearing { taken, left, until } = self.look {
            match left {
                ..=1 => self.conclude(now, taken),
                _ => self.look = Look::Clearing { taken, left: left - 1, until },
            }
            return;
        }
        let hung_up = |place: &Place| matches!(place, Place::HungUp(_));
        if let Some(place) = self.places.iter().position(hung_up) {
            return self.die(now, place);
        }
        self.deaths += 1;
        self.death_at = now;
        // It may be the word of one that is held, and that is about to hang up.
        if !self.places.contains(&Place::Live) {
            self.blind_dead(now);
        }
    }

    /// The kernel has told of ends that are of none that is held.
    pub(super) fn blind_dead(&mut self, now: Duration) {
        for _ in 0..std::mem::take(&mut self.deaths) {
            let Some(place) = self.places.iter().position(|place| *place == Place::Blind) else {
                return;
            };
            // It may have been counted by the last look.
            if self.death_at < self.quiet_at {
                self.look_at = now;
                return;
            }
            self.ask_anew(now);
            self.die(now, place);
        }
    }

    /// What was not taken may be taken now.
    pub(super) fn ask_anew(&mut self, now: Duration) {
        for candidate in &mut self.candidates {
            candidate.next_at = candidate.next_at.min(now);
            candidate.pause = PAUSE;
        }
    }

    /// The kernel took so many connections that lead nowhere, and has let go of them again.
    pub(super) fn conclude(&mut self, now: Duration, taken: usize) {
        self.look = Look::None;
        self.quiet_at = now + WORD;
        self.deaths = 0;
        let of = |places: &[Place], kind| -> Vec<usize> {
            let all = places.iter().enumerate();
            all.filter(|(_, place)| **place == kind).map(|(number, _)| number).collect()
        };
        let mut not_held = of(&self.places, Place::Dead);
        let were_dead = not_held.len();
        if self.is_in_doubt && taken > were_dead {
            self.places
                .iter_mut()
                .filter(|place| **place == Place::Live)
                .for_each(|place| *place = Place::Blind);
        }
        self.is_in_doubt = false;
        // Those that are known to be dead are among them.
        not_held.extend(of(&self.places, Place::Blind));
        for (number, place) in not_held.into_iter().enumerate() {
            self.places[place] = if number < taken { Place::Dead } else { Place::Blind };
        }
        self.look_at = now + if taken > 0 { LOOK_RARELY } else { LOOK };
        if taken > were_dead {
            self.ask_anew(now);
        }
        if self.places.iter().all(|place| *place == Place::Dead) {
            self.lose(now);
        } else if self.lost_at.take().is_some() {
            self.log("the kernel has a connection that lives".to_owned());
            self.actions.push_back(Action::Changed);
        }
    }

    pub(super) fn looked(&mut self, now: Duration, result: Result<usize, String>) {
        match result {
            Ok(0) => self.conclude(now, 0),
            Ok(taken) => self.look = Look::Clearing { taken, left: taken, until: now + WORD },
            Err(error) => {
                self.look = Look::None;
                self.look_at = now + LOOK;
                if self.look_said != error {
                    self.log(format!("the kernel does not tell what is connected: {error}"));
                    self.look_said = error;
                }
            }
        }
    }

    /// The kernel has told of an end, and every connection that is held is in use. Where the word is not
    /// that of an earlier end, it is of one that is not held.
    pub(super) fn has_stranger(&self) -> bool {
        let is_idle = self.handing.is_none() && self.look == Look::None;
        self.deaths > 0 && is_idle && self.places.contains(&Place::Live)
    }

    /// What time has made of them.
    pub(super) fn settle_blind(&mut self, now: Duration) {
        if self.has_stranger() && self.death_at + WORD <= now {
            if !self.has_blind() {
                self.log("the kernel has lost a connection that is not known here".to_owned());
                self.deaths = 0;
                self.is_in_doubt = true;
                self.look_at = now;
            }
            self.blind_dead(now);
        }
        match self.look {
            Look::Clearing { taken, until, .. } if until <= now => self.conclude(now, taken),
            _ => {}
        }
        if self.may_look() && self.look_at <= now {
            self.look = Look::Asked;
            self.actions.push_back(Action::Look(self.places.len()));
        }
    }
}

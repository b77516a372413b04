//! The guard of one device: which servers are asked, and which one the kernel gets.
//!
//! Events in, actions out; the time is an argument. All servers are asked at once when a connection
//! has ended, for only the Primary lets anybody in, and who that is may have changed. The first one
//! that fits gets the device.
//!
//! Invariants:
//! - At most one attempt per server is under way.
//! - The connections of a device go to one server: before a device moves to another one, those
//!   that live are closed, and the kernel has said so. Two servers would each have a part of the
//!   writes.
//! - A connection counts as dead when it has hung up and the kernel has told that it let go of one.
//!   A socket that is handed over before is thrown away by the kernel without a word, and the shell says so.
//! - A device gets only a server that has all that it was answered: one of the systems whose caches held
//!   it has run on since, or the server is in sync with one that has. A flush would else succeed over what
//!   a power loss has taken. A device that cannot have that any more is let go of.
//! - The device of a node itself (its own daemon's socket is the only server) is let go of where another
//!   node is Primary: what is written there is not known to whoever has it mounted.
//! - After a guard was killed, the next one does not hold the connections, and cannot close them. How many
//!   are dead it learns by a look: the kernel takes a socket only where one is dead, and one that leads
//!   nowhere tells as much, at no server's cost. As long as one of them may live, only its server replaces others.

mod look;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

use nbd::client::Description;
use nbd::constants::NOBODY;

use super::record::AFTER_LET_GO;
use super::{Server, Terms, primary_named};

use look::Look;
pub use words::{Action, DialError, Event, Keeper, Progress};

/// Between two attempts at a server that answers.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two attempts at a server that does not answer, at most.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Until a server whose export does not fit is asked again, and after an error of the kernel.
const PAUSE_UNFIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to tell that it let go of a connection that has hung up. Its word may
/// be lost.
const WORD: Duration = Duration::from_millis(300);
/// How long a device without a server looks for one as fast as it can.
const URGENT: Duration = Duration::from_secs(60);

/// How often the server is asked, and while not every server has all that was answered.
const ASK: Duration = Duration::from_secs(5);
const ASK_OFTEN: Duration = Duration::from_secs(1);

/// A connection of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Live,
    /// It has hung up, at that time; the kernel has not told yet.
    HungUp(Duration),
    Dead,
    /// It was given to the kernel by another guard, and lives as far as the kernel has told. It cannot be
    /// closed, and nothing hangs up here when it ends.
    Blind,
}

/// A server, and when it is asked again.
struct Candidate {
    server: Server,
    under_way: bool,
    /// The connections of the attempt.
    ordered: usize,
    next_at: Duration,
    pause: Duration,
    /// What it said last that could not be used; empty: nothing.
    said: String,
}

/// The guard of one device.
pub struct Guard {
    candidates: Vec<Candidate>,
    places: Vec<Place>,
    terms: Terms,
    /// The server of the connections that live, or that the kernel got last. `None`: it is none of ours.
    current: Option<usize>,
    dead_conn_timeout: Duration,
    lost_at: Option<Duration>,
    /// It has been said that I/O fails.
    is_failing: bool,
    /// Live connections are being closed, for the device moves.
    is_closing: bool,
    /// The server and the places of the hand-over that the kernel has not answered.
    handing: Option<(usize, Vec<usize>)>,
    /// The size that the kernel is being told.
    resizing: Option<u64>,
    look: Look,
    /// The kernel has told of an end of none that is held: they are looked at too.
    is_in_doubt: bool,
    /// With blind connections: when the kernel is looked at.
    look_at: Duration,
    /// The last error of a look.
    look_said: String,
    /// Until then an end that the kernel tells of may be of before the last look or hand-over.
    quiet_at: Duration,
    /// The server of the blind connections did not take us: all are asked.
    asks_all: bool,
    /// Ends that the kernel has told of, and that are not known to be of which connection.
    deaths: usize,
    /// Empty: nobody has told.
    keepers: Vec<Keeper>,
    failed: Option<String>,
    /// When it told the last one.
    death_at: Duration,
    has_ended: bool,
    actions: VecDeque<Action>,
}

impl Guard {
    /// The guard of a device that has just been attached, with connections to `current`.
    #[must_use]
    pub fn attached(
        servers: Vec<Server>,
        current: usize,
        terms: Terms,
        connections: usize,
        dead_conn_timeout: Duration,
    ) -> Self {
        let candidate = |server| Candidate {
            server,
            under_way: false,
            ordered: 0,
            next_at: Duration::ZERO,
            pause: PAUSE,
            said: String::new(),
        };
        Self {
            candidates: servers.into_iter().map(candidate).collect(),
            places: vec![Place::Live; connections],
            terms,
            current: Some(current),
            dead_conn_timeout,
            lost_at: None,
            is_failing: false,
            is_closing: false,
            handing: None,
            resizing: None,
            look: Look::None,
            is_in_doubt: false,
            look_at: Duration::ZERO,
            look_said: String::new(),
            quiet_at: Duration::ZERO,
            asks_all: false,
            deaths: 0,
            keepers: Vec::new(),
            failed: None,
            death_at: Duration::ZERO,
            has_ended: false,
            actions: VecDeque::new(),
        }
    }

    /// The guard of a device that another guard has attached, and left. `current`: the server that the kernel
    /// got last, if it is one of these; `lost_at`: without a server, since when.
    #[must_use]
    pub fn adopted(
        servers: Vec<Server>,
        current: Option<usize>,
        terms: Terms,
        connections: usize,
        dead_conn_timeout: Duration,
        lost_at: Option<Duration>,
    ) -> Self {
        let mut guard = Self::attached(servers, 0, terms, connections, dead_conn_timeout);
        guard.current = current;
        // Of the ends that are known already the kernel does not tell again. Where the guard before it has
        // replaced one since, the kernel throws ours away, and that is said.
        guard.places.fill(if lost_at.is_some() { Place::Dead } else { Place::Blind });
        guard.lost_at = lost_at;
        guard
    }

    /// With what a server, or an earlier guard, has told of its keepers.
    #[must_use]
    pub fn kept_by(mut self, keepers: Vec<Keeper>) -> Self {
        self.keepers = keepers;
        self
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Tick => {}
            Event::LinkDead => self.link_dead(now),
            Event::Closed(place) => self.closed(now, place),
            Event::Dialled { server, result: Ok(export) } => self.dialled(now, server, &export),
            Event::Dialled { server, result: Err(error) } => self.refused(now, server, &error),
            Event::Described { server, export } => self.described(server, &export),
            Event::Resized(result) => self.resized(result),
            Event::Handed(result) => self.handed(now, result),
            Event::Looked(result) => self.looked(now, result),
            Event::Missed => self.look_at = now,
            Event::Gone(why) => {
                if !self.has_ended {
                    self.log(why);
                    self.actions.push_back(Action::End);
                }
                self.has_ended = true;
            }
        }
        self.settle(now);
    }

    /// What is to be done next; asked until there is nothing.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When a `Tick` is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.has_ended {
            return None;
        }
        let failing = self.fails_at().filter(|_| !self.is_failing);
        let look = match self.look {
            Look::Clearing { until, .. } => Some(until),
            _ => Some(self.look_at).filter(|_| self.may_look()),
        };
        let dials = (0..self.candidates.len())
            .filter(|server| self.is_asked(*server))
            .map(|server| self.candidates[server].next_at);
        let wanted = self.wanted() > 0;
        let words = self.places.iter().filter_map(|place| match place {
            Place::HungUp(at) => Some(*at + WORD),
            _ => None,
        });
        let stranger = Some(self.death_at + WORD).filter(|_| self.has_stranger());
        dials.filter(|_| wanted).chain(failing).chain(look).chain(words).chain(stranger).min()
    }

    /// How the device is doing.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let said = self.candidates.iter().enumerate().filter(|(_, one)| !one.said.is_empty());
        Progress {
            server: self.current,
            lost_at: self.lost_at,
            size: self.terms.size,
            refusals: said.map(|(number, one)| (number, one.said.clone())).collect(),
            failed: self.failed.clone(),
            keepers: self.keepers.clone(),
        }
    }

    fn log(&mut self, text: String) {
        self.actions.push_back(Action::Log(text));
    }

    fn fails_at(&self) -> Option<Duration> {
        self.lost_at.map(|lost_at| lost_at + self.dead_conn_timeout)
    }

    /// How many connections are to be made.
    fn wanted(&self) -> usize {
        match self.is_busy() {
            true => 0,
            false => self.places.iter().filter(|place| **place == Place::Dead).count(),
        }
    }

    /// Whether nothing is begun, for something else has to end first, or all is over.
    fn is_busy(&self) -> bool {
        let is_over = self.has_ended || self.failed.is_some();
        self.handing.is_some() || self.is_closing || is_over || self.look != Look::None
    }

    /// Whether a connection lives, or may live, that is held here.
    fn has_held(&self) -> bool {
        self.places.iter().any(|place| matches!(place, Place::Live | Place::HungUp(_)))
    }

    /// Whether a server is one to ask now, and is not being asked. Another one than that of the blind
    /// connections might be promoted by being asked.
    fn is_asked(&self, server: usize) -> bool {
        let all = self.asks_all || self.current.is_none() || !self.has_blind();
        !self.candidates[server].under_way && (all || self.current == Some(server))
    }

    /// The device is of this node's own daemon.
    fn is_local(&self) -> bool {
        matches!(&self.candidates[..], [one] if matches!(one.server, Server::Unix(_)))
    }

    fn name(&self, server: usize) -> String {
        self.candidates[server].server.to_string()
    }

    fn current_name(&self) -> String {
        self.current.map_or_else(|| "its server".to_owned(), |server| self.name(server))
    }

    fn closed(&mut self, now: Duration, place: usize) {
        if self.places.get(place) != Some(&Place::Live) {
            return;
        }
        if self.deaths > 0 {
            self.deaths -= 1;
            return self.die(now, place);
        }
        self.places[place] = Place::HungUp(now);
    }

    /// The kernel has let go of a connection.
    fn die(&mut self, now: Duration, place: usize) {
        self.places[place] = Place::Dead;
        self.is_closing &= self.has_held();
        if self.places.iter().all(|place| *place == Place::Dead) {
            self.lose(now);
        }
    }

    /// There is no connection any more.
    fn lose(&mut self, now: Duration) {
        let is_known = self.lost_at.is_some();
        self.lost_at.get_or_insert(now);
        for candidate in &mut self.candidates {
            candidate.next_at = now;
            candidate.pause = PAUSE;
            candidate.said.clear();
        }
        if is_known {
            return;
        }
        self.is_failing = false;
        let name = self.current_name();
        let wait = self.dead_conn_timeout.as_secs();
        self.log(format!("the connection to {name} has ended; I/O waits, {wait} s at most"));
        self.actions.push_back(Action::Changed);
    }

    fn dialled(&mut self, now: Duration, server: usize, export: &Description) {
        let asked = &mut self.candidates[server];
        asked.under_way = false;
        asked.pause = PAUSE;
        let ordered = asked.ordered;
        if self.wanted() == 0 {
            return self.actions.push_back(Action::Drop { server });
        }
        // A new size waits until the server is asked for it. The kernel stops all requests to set one, and
        // those that wait for this very connection would never end.
        if let Err(unfit) = self.terms.replace(export) {
            self.actions.push_back(Action::Drop { server });
            self.candidates[server].next_at = now + PAUSE_UNFIT;
            return self.say(server, &format!("not taken: {unfit}"));
        }
        if self.has_lost(export) {
            self.actions.push_back(Action::Drop { server });
            let name = self.name(server);
            let why = format!(
                "{name} may lack what was answered and not flushed: no system that had it in its cache has \
                 run on"
            );
            if self.lost_at.is_some() {
                return self.fail(&why);
            }
            self.candidates[server].next_at = now + PAUSE_UNFIT;
            return self.say(server, &format!("not taken: {why}"));
        }
        let moves = self.current != Some(server);
        if moves && self.has_blind() {
            self.actions.push_back(Action::Drop { server });
            self.candidates[server].next_at = now + PAUSE_UNFIT;
            let old = self.current_name();
            return self.say(server, &format!(
                "not taken: a connection to {old} lives that an earlier guard has made. It cannot be closed \
                 here, and no device has two servers"
            ));
        }
        if moves && self.has_held() {
            self.actions.push_back(Action::Drop { server });
            let (old, new) = (self.current_name(), self.name(server));
            self.log(format!("{new} is Primary: the connections to {old} are closed"));
            self.is_closing = true;
            return self.actions.push_back(Action::Close);
        }
        let dead = |place: &usize| self.places[*place] == Place::Dead;
        let places: Vec<usize> = (0..self.places.len()).filter(dead).take(ordered).collect();
        self.keep(export);
        self.handing = Some((server, places.clone()));
        self.actions.push_back(Action::HandOver { server, places });
    }

    /// How often the server is asked for the size, and for who has all that was answered: often while that is not every
    /// server. One that has just been resynced may be the only one a moment later, and has to be known then.
    #[must_use]
    pub fn asks_every(&self) -> Duration {
        let some_lack_it = (1..self.candidates.len()).contains(&self.keepers.len());
        if some_lack_it { ASK_OFTEN } else { ASK }
    }

    /// Whether an export may lack what was answered: none of those that had it is among its keepers.
    fn has_lost(&self, export: &Description) -> bool {
        let is_told = !self.keepers.is_empty() && !export.keepers.is_empty();
        export.keepers.contains(&NOBODY)
            || is_told && !export.keepers.iter().any(|keeper| self.keepers.contains(keeper))
    }

    /// Who has all that was answered, from now on. A server that does not tell changes nothing.
    fn keep(&mut self, export: &Description) {
        if !export.keepers.is_empty() && self.keepers != export.keepers {
            self.keepers.clone_from(&export.keepers);
            self.actions.push_back(Action::Changed);
        }
    }

    /// The device is of no use any more.
    fn fail(&mut self, why: &str) {
        self.log(format!("the device is let go of, and its I/O fails: {why}; {AFTER_LET_GO}"));
        self.failed = Some(why.to_owned());
        self.is_failing = true;
        self.actions.push_back(Action::Fail);
        self.actions.push_back(Action::Changed);
    }

    fn refused(&mut self, now: Duration, server: usize, error: &DialError) {
        let is_urgent = self.lost_at.is_some_and(|lost_at| now < lost_at + URGENT);
        let pause = match error {
            DialError::Refused(_) if is_urgent => PAUSE,
            _ => self.candidates[server].pause,
        };
        let longest = if self.lost_at.is_some() { PAUSE_MAX } else { PAUSE_UNFIT };
        let asked = &mut self.candidates[server];
        asked.under_way = false;
        asked.next_at = now + pause;
        asked.pause = (pause * 2).min(longest);
        if self.wanted() == 0 {
            return;
        }
        self.say(server, error.text());
        self.asks_all = true;
        if let (DialError::Refused(text), true) = (error, self.lost_at.is_some())
            && self.is_local()
            && let Some(host) = primary_named(text)
        {
            let host = host.to_owned();
            return self.fail(&format!("{host} is Primary, and may have written since"));
        }
        if let (DialError::Refused(text), true) = (error, self.lost_at.is_some())
            && let Some(host) = primary_named(text)
        {
            let other = |(number, one): &(usize, &mut Candidate)| {
                *number != server && one.server.is_on(host)
            };
            if let Some((_, primary)) = self.candidates.iter_mut().enumerate().find(other) {
                primary.next_at = primary.next_at.min(now + PAUSE / 4);
            }
        }
    }

    /// Remembers what a server said, and logs it if it is something new.
    fn say(&mut self, server: usize, text: &str) {
        if self.candidates[server].said != text {
            text.clone_into(&mut self.candidates[server].said);
            let name = self.name(server);
            self.log(format!("{name}: {text}"));
            self.actions.push_back(Action::Changed);
        }
    }

    fn handed(&mut self, now: Duration, result: Result<usize, String>) {
        let Some((server, places)) = self.handing.take() else { return };
        let taken = match result {
            Ok(taken) => taken.min(places.len()),
            Err(error) => {
                self.candidates[server].next_at = now + PAUSE_UNFIT;
                let why = format!("the kernel did not take its connection: {error}");
                return self.say(server, &why);
            }
        };
        self.deaths = 0;
        self.quiet_at = now + WORD;
        let (live, others) = places.split_at(taken);
        live.iter().for_each(|place| self.places[*place] = Place::Live);
        others.iter().for_each(|place| self.places[*place] = Place::Blind);
        let is_mixed = !others.is_empty() && self.current != Some(server);
        if !others.is_empty() {
            self.log("the kernel has a connection that is not known here".to_owned());
            self.look_at = now;
        }
        if is_mixed && taken > 0 {
            // What it has is of whoever had the device before.
            self.is_closing = true;
            self.actions.push_back(Action::Close);
        }
        if taken == 0 || is_mixed {
            return;
        }
        let name = self.name(server);
        if let Some(lost_at) = self.lost_at.take() {
            let seconds = now.saturating_sub(lost_at).as_secs_f32();
            self.log(format!("goes on with {name} after {seconds:.1} s"));
        } else if self.current != Some(server) {
            self.log(format!("goes on with {name}"));
        }
        self.current = Some(server);
        self.asks_all = false;
        for candidate in &mut self.candidates {
            candidate.said.clear();
        }
        self.actions.push_back(Action::Changed);
    }

    /// A volume that has grown: its server takes requests behind the old end at once.
    fn described(&mut self, server: usize, export: &Description) {
        let is_well = self.lost_at.is_none() && self.handing.is_none() && !self.has_ended;
        if !is_well || self.current != Some(server) || self.has_lost(export) {
            return;
        }
        self.keep(export);
        // One that is under way comes to its end first.
        if self.resizing.is_none()
            && let Ok(Some(size)) = self.terms.replace(export)
        {
            self.resizing = Some(size);
            self.actions.push_back(Action::Resize(size));
        }
    }

    fn resized(&mut self, result: Result<(), String>) {
        let Some(size) = self.resizing.take() else { return };
        match result {
            Ok(()) => {
                self.terms.size = size;
                self.log(format!("the device has grown to {size} bytes"));
                self.actions.push_back(Action::Changed);
            }
            // The next look at the server has it tried again.
            Err(error) => self.log(format!("the kernel does not take {size} bytes: {error}")),
        }
    }

    fn settle(&mut self, now: Duration) {
        if self.has_ended {
            return;
        }
        if !self.is_failing && self.fails_at().is_some_and(|at| at <= now) {
            self.is_failing = true;
            let wait = self.dead_conn_timeout.as_secs();
            self.log(format!("no server for {wait} s: I/O fails"));
        }
        for place in 0..self.places.len() {
            if matches!(self.places[place], Place::HungUp(at) if at + WORD <= now) {
                self.die(now, place);
            }
        }
        self.settle_blind(now);
        let connections = self.wanted();
        if connections == 0 {
            return;
        }
        for server in 0..self.candidates.len() {
            if self.is_asked(server) && self.candidates[server].next_at <= now {
                self.candidates[server].under_way = true;
                self.candidates[server].ordered = connections;
                self.actions.push_back(Action::Dial { server, connections });
            }
        }
    }
}

#[cfg(test)]
mod tests;

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
//!   A socket that is handed over before is thrown away by the kernel without a word.
//! - A device gets only a server that has all that it was answered: one of the systems whose caches held
//!   it has run on since, or the server is in sync with one that has. A flush would else succeed over what
//!   a power loss has taken. A device that cannot have that any more is let go of.
//! - The device of a node itself (its own daemon's socket is the only server) is let go of where another
//!   node is Primary: what is written there is not known to whoever has it mounted.
//! - After a guard was killed, the next one does not hold the connections. It cannot see them end, so
//!   it also hands over a socket every few seconds: the kernel takes it only where one is dead.

use std::collections::VecDeque;
use std::time::Duration;

use nbd::client::Description;

use super::{Server, Terms, primary_named};

/// Between two attempts at a server that answers.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two attempts at a server that does not answer, at most.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Until a server whose export does not fit is asked again, and after an error of the kernel.
const PAUSE_UNFIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to tell that it let go of a connection that has hung up. Its word may
/// be lost.
const WORD: Duration = Duration::from_millis(300);
/// How often a socket is handed over while the connections are not known.
const CHECK: Duration = Duration::from_secs(5);

/// Why an attempt at a server came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// It answers, and lets nobody in: its sentence.
    Refused(String),
    /// It does not answer, or not as it should.
    Failed(String),
}

impl DialError {
    fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Failed(text) => text,
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The kernel says that a connection of the device has ended.
    LinkDead,
    /// The connection in this place has hung up.
    Closed(usize),
    /// An attempt is over. Its connections are kept by the shell, under the server's number.
    Dialled {
        /// The server's number.
        server: usize,
        /// What it said of the export.
        result: Result<Description, DialError>,
    },
    /// A server was asked, while all is well, what its export is like.
    Described {
        /// The server's number.
        server: usize,
        /// What it said.
        export: Description,
    },
    /// The kernel has answered the last `Resize`.
    Resized(Result<(), String>),
    /// The kernel has answered the last hand-over.
    Handed(Result<(), String>),
    /// The device is not, or no longer, attached under our identifier.
    Gone(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a server for so many connections. Answered by `Dialled`.
    Dial {
        /// The server's number.
        server: usize,
        /// Connections.
        connections: usize,
    },
    /// Close the connections of an attempt: they are not needed.
    Drop {
        /// The server's number.
        server: usize,
    },
    /// Shut down the connections that live. Each is answered by `Closed`.
    Close,
    /// Give the kernel the connections of an attempt, one for each place. Answered by `Handed`.
    HandOver {
        /// The server's number.
        server: usize,
        /// The places of the connections that they replace.
        places: Vec<usize>,
        /// Whether the kernel takes them for certain: then they are watched.
        watch: bool,
    },
    /// Tell the kernel a new size, bytes. Answered by `Resized`.
    Resize(u64),
    /// A line for the log.
    Log(String),
    /// Let go of the device: its I/O fails from now on. Nothing is handed over any more.
    Fail,
    /// `progress` is another one.
    Changed,
    /// The device is no longer ours.
    End,
}

/// How a device is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The server that the kernel got last: its number.
    pub server: usize,
    /// Since when there is no connection.
    pub lost_at: Option<Duration>,
    /// Bytes.
    pub size: u64,
    /// What each server said last that could not be used: number and sentence.
    pub refusals: Vec<(usize, String)>,
    /// Why the device was let go of.
    pub failed: Option<String>,
    /// The runs of systems whose caches held all that was answered when it was asked last.
    pub keepers: Vec<Keeper>,
}

/// What a server calls the run of a system.
pub type Keeper = [u8; 16];

/// A connection of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Live,
    /// It has hung up, at that time; the kernel has not told yet.
    HungUp(Duration),
    Dead,
    /// It was given to the kernel by another guard.
    Unknown,
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
    current: usize,
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
    /// With unknown connections: when a socket is handed over in any case.
    check_at: Duration,
    /// The server of the unknown connections did not take us: all are asked.
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
            current,
            dead_conn_timeout,
            lost_at: None,
            is_failing: false,
            is_closing: false,
            handing: None,
            resizing: None,
            check_at: Duration::ZERO,
            asks_all: false,
            deaths: 0,
            keepers: Vec::new(),
            failed: None,
            death_at: Duration::ZERO,
            has_ended: false,
            actions: VecDeque::new(),
        }
    }

    /// The guard of a device that another guard has attached, and left; `lost_at`: without a server, since
    /// when.
    #[must_use]
    pub fn adopted(
        servers: Vec<Server>,
        current: usize,
        terms: Terms,
        connections: usize,
        dead_conn_timeout: Duration,
        lost_at: Option<Duration>,
    ) -> Self {
        let mut guard = Self::attached(servers, current, terms, connections, dead_conn_timeout);
        guard.places.fill(Place::Unknown);
        guard.lost_at = lost_at;
        // Whoever had it last need not be the one that has it next.
        guard.asks_all = lost_at.is_some();
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
        let check = Some(self.check_at);
        let check = check.filter(|_| self.places.contains(&Place::Unknown) && !self.checks());
        let dials = (0..self.candidates.len())
            .filter(|server| self.is_asked(*server))
            .map(|server| self.candidates[server].next_at);
        let wanted = self.wanted() > 0;
        let words = self.places.iter().filter_map(|place| match place {
            Place::HungUp(at) => Some(*at + WORD),
            _ => None,
        });
        let stranger = Some(self.death_at + WORD).filter(|_| self.has_stranger());
        dials.filter(|_| wanted).chain(failing).chain(check).chain(words).chain(stranger).min()
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
        let is_over = self.has_ended || self.failed.is_some();
        if self.handing.is_some() || self.is_closing || is_over {
            return 0;
        }
        let of = |kind| self.places.iter().filter(|place| **place == kind).count();
        match of(Place::Unknown) {
            0 => of(Place::Dead),
            // One for each: the kernel throws away what it does not need.
            _ if self.checks() => self.places.len(),
            _ => 0,
        }
    }

    /// Whether the unknown connections are looked into: it was time, or the kernel told of an end.
    fn checks(&self) -> bool {
        self.check_at == Duration::ZERO
    }

    /// Whether a server is one to ask now, and is not being asked.
    fn is_asked(&self, server: usize) -> bool {
        let all = self.asks_all || !self.places.contains(&Place::Unknown);
        !self.candidates[server].under_way && (all || server == self.current)
    }

    /// The device is of this node's own daemon.
    fn is_local(&self) -> bool {
        matches!(&self.candidates[..], [one] if matches!(one.server, Server::Unix(_)))
    }

    fn name(&self, server: usize) -> String {
        self.candidates[server].server.to_string()
    }

    fn link_dead(&mut self, now: Duration) {
        let hung_up = |place: &Place| matches!(place, Place::HungUp(_));
        if let Some(place) = self.places.iter().position(hung_up) {
            return self.die(now, place);
        }
        self.deaths += 1;
        self.death_at = now;
        if !self.places.contains(&Place::Unknown) {
            return;
        }
        self.check_at = Duration::ZERO;
        if self.deaths >= self.places.len() {
            self.places.fill(Place::Dead);
            self.lose(now);
        }
    }

    /// The kernel has told of an end, and every connection that is watched is in use. Where the word is not
    /// that of an earlier end, the kernel did not take what it was given: what it has is not known.
    fn has_stranger(&self) -> bool {
        let is_watched = |place: &Place| matches!(place, Place::Live);
        self.deaths > 0 && self.handing.is_none() && self.places.iter().any(is_watched)
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
        if self.places.iter().all(|place| *place == Place::Dead) {
            self.is_closing = false;
            self.lose(now);
        }
    }

    /// There is no connection any more.
    fn lose(&mut self, now: Duration) {
        self.lost_at = Some(now);
        self.is_failing = false;
        for candidate in &mut self.candidates {
            candidate.next_at = now;
            candidate.pause = PAUSE;
            candidate.said.clear();
        }
        let name = self.name(self.current);
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
        let lives = |place: &Place| matches!(place, Place::Live | Place::HungUp(_));
        if server != self.current && self.places.iter().any(lives) {
            self.actions.push_back(Action::Drop { server });
            let (old, new) = (self.name(self.current), self.name(server));
            self.log(format!("{new} is Primary: the connections to {old} are closed"));
            self.is_closing = true;
            return self.actions.push_back(Action::Close);
        }
        let watch = !self.places.contains(&Place::Unknown);
        let dead = |place: &usize| matches!(self.places[*place], Place::Dead | Place::Unknown);
        let places: Vec<usize> = (0..self.places.len()).filter(dead).take(ordered).collect();
        self.keep(export);
        self.handing = Some((server, places.clone()));
        self.actions.push_back(Action::HandOver { server, places, watch });
    }

    /// Whether an export may lack what was answered: none of those that had it is among its keepers.
    fn has_lost(&self, export: &Description) -> bool {
        let is_told = !self.keepers.is_empty() && !export.keepers.is_empty();
        is_told && !export.keepers.iter().any(|keeper| self.keepers.contains(keeper))
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
        self.log(format!(
            "the device is let go of, and its I/O fails: {why}. Unmount it, check the file system, and \
             attach it again"
        ));
        self.failed = Some(why.to_owned());
        self.is_failing = true;
        self.actions.push_back(Action::Fail);
        self.actions.push_back(Action::Changed);
    }

    fn refused(&mut self, now: Duration, server: usize, error: &DialError) {
        let pause = match error {
            DialError::Refused(_) => PAUSE,
            DialError::Failed(_) => self.candidates[server].pause,
        };
        let asked = &mut self.candidates[server];
        asked.under_way = false;
        asked.next_at = now + pause;
        asked.pause = (pause * 2).min(PAUSE_MAX);
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

    fn handed(&mut self, now: Duration, result: Result<(), String>) {
        let Some((server, places)) = self.handing.take() else { return };
        if let Err(error) = result {
            self.candidates[server].next_at = now + PAUSE_UNFIT;
            return self.say(server, &format!("the kernel did not take its connection: {error}"));
        }
        let name = self.name(server);
        let is_known = !self.places.contains(&Place::Unknown);
        if let Some(lost_at) = self.lost_at.take() {
            let seconds = now.saturating_sub(lost_at).as_secs_f32();
            self.log(format!("goes on with {name} after {seconds:.1} s"));
        } else if server != self.current {
            self.log(format!("goes on with {name}"));
        }
        self.current = server;
        match is_known {
            true => places.into_iter().for_each(|place| self.places[place] = Place::Live),
            false => self.check_at = now + CHECK,
        }
        self.asks_all = false;
        self.deaths = 0;
        for candidate in &mut self.candidates {
            candidate.said.clear();
        }
        self.actions.push_back(Action::Changed);
    }

    /// A volume that has grown: its server takes requests behind the old end at once.
    fn described(&mut self, server: usize, export: &Description) {
        let is_well = self.lost_at.is_none() && self.handing.is_none() && !self.has_ended;
        if !is_well || server != self.current || self.has_lost(export) {
            return;
        }
        self.keep(export);
        if let Ok(Some(size)) = self.terms.replace(export) {
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
        if self.has_stranger() && self.death_at + WORD <= now {
            self.log("the kernel has lost a connection that is not known here".to_owned());
            self.deaths = 0;
            self.places.fill(Place::Unknown);
            self.check_at = Duration::ZERO;
        }
        if self.places.contains(&Place::Unknown) && self.check_at <= now {
            self.check_at = Duration::ZERO;
        }
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

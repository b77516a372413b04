//! Places for clients that negotiate: few, and never locked by clients that do not go on.
//!
//! Invariants:
//! - At most [`PLACES_MAX`] clients of one kind of socket negotiate at once, so that strangers on
//!   TCP never stand in the way of clients on this host.
//! - Who comes when all places are taken gets the place of the one that negotiates longest and has
//!   not asked to enter; only while all are being let in does a new one wait.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::warn;

/// Clients that negotiate at once over one kind of socket.
pub(crate) const PLACES_MAX: usize = 64;
/// One line in the log for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Ends the connection of a client; its negotiation notices by itself.
type Close = Box<dyn Fn()>;

struct Client {
    name: String,
    close: Close,
    /// It has asked to enter and is being answered.
    enters: bool,
}

/// The places of one kind of socket.
#[derive(Default)]
pub(crate) struct Places {
    taken: RefCell<BTreeMap<u64, Client>>,
    last: Cell<u64>,
    left: Notify,
    logged: Cell<Option<Instant>>,
}

impl Places {
    /// Returns when a new client can have a place.
    pub(crate) async fn room(&self) {
        while self.is_full() && self.oldest().is_none() {
            self.left.notified().await;
        }
    }

    /// Nobody negotiates.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.borrow().is_empty()
    }

    fn is_full(&self) -> bool {
        self.taken.borrow().len() >= PLACES_MAX
    }

    fn oldest(&self) -> Option<u64> {
        let taken = self.taken.borrow();
        taken.iter().find(|(_, client)| !client.enters).map(|(number, _)| *number)
    }

    /// Takes a place; if there is none, the one of the client that negotiates longest, whose
    /// connection is closed.
    pub(crate) fn take(self: &Rc<Self>, name: &str, close: impl Fn() + 'static) -> Place {
        if self.is_full()
            && let Some(oldest) = self.oldest()
            && let Some(client) = self.taken.borrow_mut().remove(&oldest)
        {
            if self.logged.get().is_none_or(|at| at.elapsed() > QUIET) {
                warn!("NBD: {PLACES_MAX} clients negotiate; the oldest is closed: {}", client.name);
                self.logged.set(Some(Instant::now()));
            }
            (client.close)();
        }
        let number = self.last.get() + 1;
        self.last.set(number);
        let client = Client { name: name.to_owned(), close: Box::new(close), enters: false };
        self.taken.borrow_mut().insert(number, client);
        Place { places: Rc::clone(self), number }
    }
}

/// A client's place, until it is dropped.
pub(crate) struct Place {
    places: Rc<Places>,
    number: u64,
}

impl Place {
    /// Whether the client is being let in: then nobody gets its place.
    pub(crate) fn enters(&self, enters: bool) {
        if let Some(client) = self.places.taken.borrow_mut().get_mut(&self.number) {
            client.enters = enters;
        }
        self.places.left.notify_waiters();
    }

    /// Nobody has got it.
    pub(crate) fn is_held(&self) -> bool {
        self.places.taken.borrow().contains_key(&self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.number);
        self.places.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place, and whether it was taken away.
    fn take(places: &Rc<Places>) -> (Place, Rc<Cell<bool>>) {
        let closed = Rc::new(Cell::new(false));
        let tell = closed.clone();
        (places.take("somebody", move || tell.set(true)), closed)
    }

    fn has_room(places: &Places) -> bool {
        use std::task::{Context, Poll, Waker};
        let room = std::pin::pin!(places.room());
        room.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn the_oldest_that_does_not_enter_gives_its_place_up() {
        let places = Rc::new(Places::default());
        let clients: Vec<_> = (0..PLACES_MAX).map(|_| take(&places)).collect();
        assert!(clients.iter().all(|(_, closed)| !closed.get()));
        clients[0].0.enters(true);
        assert!(has_room(&places));
        let _new = take(&places);
        let closed: Vec<_> = (0..PLACES_MAX).filter(|n| clients[*n].1.get()).collect();
        assert_eq!(closed, [1]);
        assert_eq!(places.taken.borrow().len(), PLACES_MAX);
    }

    #[test]
    fn only_while_all_are_being_let_in_a_new_one_waits() {
        let places = Rc::new(Places::default());
        let mut clients: Vec<_> = (0..PLACES_MAX).map(|_| take(&places)).collect();
        clients.iter().for_each(|(place, _)| place.enters(true));
        assert!(!has_room(&places));
        clients[7].0.enters(false);
        assert!(has_room(&places));
        clients[7].0.enters(true);
        clients.pop();
        assert!(has_room(&places));
        assert!(clients.iter().all(|(_, closed)| !closed.get()));
    }
}

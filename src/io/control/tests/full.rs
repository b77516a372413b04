//! A data thread that takes no order for a while, and clients that come back to it.

use std::sync::atomic::Ordering;

use super::*;

impl Daemon {
    fn finds_no_room(&self, orders: usize) {
        self.moods.full.store(orders, Ordering::SeqCst);
    }
}

#[test]
fn a_thread_that_has_no_room_for_an_order_is_told_to_stop_all_the_same() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    daemon.finds_no_room(3);
    client.order(&Request::Down { resource: "r0".to_owned() }).unwrap().unwrap();
    let seen: Vec<_> = daemon.seen.try_iter().collect();
    assert!(matches!(seen.last(), Some(Seen::Stopped)));
}

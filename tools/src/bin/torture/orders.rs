//! Orders of administrators, and what each one means for the book.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::book::{Counts, World};
use crate::node::{NAMES, Node, Said};
use crate::tally::Kind;

/// How long an order may take before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(40);

/// An order to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Primary,
    /// `primary --force`, of a disk that is Consistent or was never synced.
    Force,
    /// The disk to keep is Outdated: it takes that word.
    ForceOutdated,
    Secondary,
    Connect,
    Disconnect,
    /// `connect --discard-my-data`: this node is the victim of a split brain.
    Discard,
    Invalidate,
    Verify,
    Detach,
    Attach,
    Up,
    /// `daemon restart`: the daemon is replaced under its clients.
    Restart,
}

impl Order {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Primary => &["primary", "r0"],
            Self::Force => &["primary", "--force", "r0"],
            Self::ForceOutdated => &["primary", "--force=outdated", "r0"],
            Self::Secondary => &["secondary", "--force", "r0"],
            Self::Connect => &["connect", "r0"],
            Self::Disconnect => &["disconnect", "r0"],
            Self::Discard => &["connect", "--discard-my-data", "r0"],
            Self::Invalidate => &["invalidate", "r0"],
            Self::Verify => &["verify", "r0"],
            Self::Detach => &["detach", "r0"],
            Self::Attach => &["attach", "r0"],
            Self::Up => &["up", "r0"],
            Self::Restart => &["daemon", "restart", "--timeout", "3"],
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words().iter().copied().filter(|word| *word != "r0");
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

/// So long an order that needs a pair in sync waits for that, if it waits at all.
const IN_SYNC: Duration = Duration::from_secs(3);

/// Waits until a node says that both are in sync, but not for ever.
pub(crate) fn await_sync(node: &Node) {
    let deadline = Instant::now() + IN_SYNC;
    while Instant::now() < deadline && !node.state().is_some_and(|state| state.at_rest()) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives an order and waits for its end.
pub(crate) fn give(order: Order, node: &Node, world: &World) -> Said {
    let before = match order {
        Order::Primary | Order::Invalidate => node.state(),
        _ => None,
    };
    if order == Order::Discard {
        // Whatever this node has alone is given up from here on.
        world.book().discarded(node.index);
    }
    let said = node.adm(order.words(), PATIENCE);
    match order {
        Order::Primary if said.code == 0 => {
            Counts::add(&world.counts.promotions, 1);
            let after = node.state();
            let half = |state: &Option<crate::node::State>| {
                state.as_ref().is_some_and(|state| {
                    state.disk == "Inconsistent" && state.connection != "Connected"
                })
            };
            let was = before.as_ref().is_some_and(|state| !state.is_primary());
            if was && half(&before) && half(&after) {
                let text = format!(
                    "{} was promoted without force on an Inconsistent disk: {before:?}, {after:?}",
                    NAMES[node.index]
                );
                world.violate(None, text);
            }
        }
        // In sync, the peer has to agree, and has it all. Else a person gives it up. Who did not wait
        // for the end does not know, and takes it as done.
        Order::Invalidate if said.code <= 0 && !before.is_some_and(|state| state.in_sync()) => {
            world.given_up[node.index].store(true, Ordering::SeqCst);
            world.book().discarded(node.index);
        }
        _ => {}
    }
    if said.code != 0 {
        Counts::add(&world.counts.refused, 1);
    }
    let kind = match order {
        Order::Disconnect => Kind::Disconnect,
        Order::Verify => Kind::Verify,
        Order::Invalidate => Kind::Invalidate,
        Order::Detach => Kind::Detach,
        Order::Restart => Kind::Restart,
        _ => return said,
    };
    world.tally.add(kind, 1, u64::from(said.code == 0));
    said
}

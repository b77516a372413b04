//! Faults strike: what the driver does for each of them, and what of it is done later.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::book::FIRST_FAR;
use crate::driver::{Driver, Follow};
use crate::faults::{Fault, Then};
use crate::link::{ClientWeather, Weather};
use crate::orders::{Order, await_sync, give};
use crate::tally::Kind;

/// A node that was silent for so long, ms, was given up by its peer: ping-int and ping-timeout.
const TIMED_OUT: u64 = 2000;

impl Driver {
    pub(crate) fn strike(&mut self, fault: Fault) {
        let world = self.world.clone();
        let tally = &world.tally;
        match fault {
            Fault::Weather(weather, ms) => self.bad_weather(weather, ms),
            Fault::Clients(weather, ms) => {
                self.client_weather(Some(weather));
                tally.add(weather.kind(), 1, 0);
                if let ClientWeather::Silent(_) = weather {
                    for vanish in &self.world.vanish[FIRST_FAR..] {
                        vanish.store(true, Ordering::SeqCst);
                    }
                }
                self.after(ms, Follow::FineForClients);
            }
            Fault::Part { weather, length, promoted } => {
                self.bad_weather(weather, length);
                // By then each has lost the other.
                self.promotion(length / 2, promoted);
            }
            Fault::Kill { node, silent, then, after } => {
                if silent {
                    // What says "it is over" is said again and again.
                    self.bad_weather(Weather::Silent(node), after.max(1500));
                }
                tally.add(Kind::Kill, 1, u64::from(self.daemons[node].is_some()));
                self.kill(node);
                match then {
                    Then::Start => self.after(after, Follow::Start(node)),
                    Then::Failover => {
                        self.promotion(after, 1 - node);
                        self.after(after + 1500, Follow::Start(node));
                    }
                    Then::StartAndPromote => {
                        self.after(after, Follow::Start(node));
                        self.after(after, Follow::Promote(node, None));
                    }
                }
            }
            Fault::KillBoth { after } => {
                let first = self.chance.index(2);
                let run = self.daemons.iter().flatten().count() as u64;
                tally.add(Kind::KillBoth, 1, run);
                for node in [first, 1 - first] {
                    self.kill(node);
                    self.after(after[node], Follow::Start(node));
                }
            }
            Fault::Terminate { node, after } => {
                self.wake(node);
                tally.add(Kind::Terminate, 1, u64::from(self.daemons[node].is_some()));
                self.terminate(node);
                self.after(after, Follow::Start(node));
            }
            Fault::Loop { node, times } => {
                tally.add(Kind::Loop, 1, 0);
                for _ in 0..times {
                    tally.add(Kind::Loop, 0, u64::from(self.daemons[node].is_some()));
                    self.kill(node);
                    self.start_up(node);
                    std::thread::sleep(Duration::from_millis(self.chance.below(400)));
                }
            }
            Fault::Freeze { node, length, promote } => {
                if let Some(daemon) = &self.daemons[node] {
                    daemon.freeze();
                    match length > TIMED_OUT {
                        true => tally.add(Kind::LongFreeze, 1, 0),
                        false => tally.add(Kind::Freeze, 1, 1),
                    }
                    self.frozen[node] = true;
                    if promote {
                        self.promotion(length / 2, 1 - node);
                    }
                    self.after(length, Follow::Wake(node));
                }
            }
            Fault::Order(node, order) => {
                if matches!(order, Order::Restart)
                    && let Err(text) = self.choose_version(node)
                {
                    return world.violate(None, text);
                }
                // Most of the time something else has just gone wrong.
                let waits = matches!(order, Order::Verify | Order::Invalidate | Order::Detach);
                if waits && self.chance.percent(60) {
                    let (nodes, world) = (self.nodes.clone(), self.world.clone());
                    return self.orders.push(std::thread::spawn(move || {
                        await_sync(&nodes[node]);
                        give(order, &nodes[node], &world);
                    }));
                }
                self.order(None, vec![(node, order)]);
            }
            Fault::Race(orders) => {
                tally.add(Kind::Race, 1, 0);
                (0..2).for_each(|node| self.order(Some(Kind::Race), vec![(node, orders[node])]));
            }
            Fault::Move => {
                tally.add(Kind::Move, 1, 0);
                let from = self.primary().unwrap_or(0);
                let orders = vec![(from, Order::Secondary), (1 - from, Order::Primary)];
                self.order(Some(Kind::Move), orders);
            }
        }
    }

    /// The node that does not serve is promoted later.
    fn promotion(&mut self, ms: u64, node: usize) {
        self.world.tally.add(Kind::Failover, 1, 0);
        self.after(ms, Follow::Promote(node, Some(Kind::Failover)));
    }
}

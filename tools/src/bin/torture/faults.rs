//! What goes wrong, drawn from the seed.

use std::fmt;

use tandem::sim::Prng;

use crate::link::{ClientWeather, Weather};
use crate::node::NAMES;
use crate::orders::Order;

/// Something that goes wrong. Times in ms.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Bad weather for a while.
    Weather(Weather, u64),
    /// Bad weather for the clients on the third host.
    Clients(ClientWeather, u64),
    /// Neither hears of the other, and in the middle of that the one that does not serve is promoted.
    Part { weather: Weather, length: u64, promoted: usize },
    /// kill -9; then, after a while, what the administrator does.
    Kill { node: usize, silent: bool, then: Then, after: u64 },
    /// kill -9 of both, and a start of both after a while each.
    KillBoth { after: [u64; 2] },
    /// SIGTERM, and a start after a while.
    Terminate { node: usize, after: u64 },
    /// kill -9 and a start, again and again.
    Loop { node: usize, times: u64 },
    /// SIGSTOP; in the middle of it the other node may be promoted; SIGCONT.
    Freeze { node: usize, length: u64, promote: bool },
    /// An order to one node.
    Order(usize, Order),
    /// An order to each node at once.
    Race([Order; 2]),
    /// The roles change, as far as they can.
    Move,
}

/// What is done about a node that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is started again.
    Start,
    /// The other one is promoted; this one is started later.
    Failover,
    /// It is started again and promoted.
    StartAndPromote,
}

impl Fault {
    /// The next one. `primary`: who serves, if somebody does.
    pub(crate) fn draw(chance: &mut Prng, primary: Option<usize>) -> Self {
        let any = chance.index(2);
        // Whoever serves is the better target.
        let node = if chance.percent(60) { primary.unwrap_or(any) } else { any };
        match chance.below(100) {
            0..7 => {
                let weather = if chance.percent(60) { Weather::Cut } else { Weather::Deaf(any) };
                let promoted = primary.map_or(any, |primary| 1 - primary);
                Self::Part { weather, length: chance.range(3000, 5000), promoted }
            }
            7..13 => {
                let loss = chance.range(2, 40);
                let all = [
                    ClientWeather::Cut(node),
                    ClientWeather::Loss(node, loss),
                    ClientWeather::Silent(node),
                ];
                Self::Clients(*chance.choose(&all), chance.range(200, 4000))
            }
            13..32 => {
                let weather = draw_weather(chance);
                let length = match weather {
                    Weather::Cut | Weather::Deaf(_) => chance.range(100, 4000),
                    _ => chance.range(500, 4000),
                };
                Self::Weather(weather, length)
            }
            32..36 => Self::Order(node, Order::Restart),
            36..52 => {
                let then = *chance.choose(&[Then::Start, Then::Failover, Then::StartAndPromote]);
                let silent = chance.percent(30);
                Self::Kill { node, silent, then, after: chance.range(0, 2500) }
            }
            52..56 => {
                let after = [chance.range(0, 2000), chance.range(0, 2000)];
                Self::KillBoth { after }
            }
            56..60 => Self::Terminate { node, after: chance.range(0, 1500) },
            60..64 => Self::Loop { node, times: chance.range(2, 5) },
            64..74 => {
                let promote = chance.percent(50);
                Self::Freeze { node, length: chance.range(200, 5000), promote }
            }
            74..79 => Self::Move,
            79..86 => {
                let orders = [
                    Order::Primary,
                    Order::Primary,
                    Order::Secondary,
                    Order::Disconnect,
                    Order::Connect,
                ];
                Self::Race([*chance.choose(&orders), *chance.choose(&orders)])
            }
            86..90 => Self::Order(node, Order::Disconnect),
            90..93 => Self::Order(node, Order::Verify),
            // Whoever serves refuses that mostly.
            93..96 => Self::Order(if chance.one_in(2) { any } else { 1 - node }, Order::Invalidate),
            96..98 => Self::Order(node, Order::Detach),
            _ => Self::Order(1 - node, Order::Primary),
        }
    }
}

fn draw_weather(chance: &mut Prng) -> Weather {
    let node = chance.index(2);
    match chance.below(17) {
        0..3 => Weather::Cut,
        3..5 => Weather::Deaf(node),
        5..7 => Weather::Loss(node, chance.range(2, 40)),
        7..9 => Weather::Silent(node),
        9..11 => Weather::Rate(chance.range(500, 20_000)),
        11..13 => Weather::Delay(chance.range(1, 80), chance.range(0, 60)),
        13..15 => Weather::Reorder(chance.range(5, 50)),
        _ => Weather::Hole(usize::try_from(chance.range(120, 1400)).unwrap_or(600)),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Weather(weather, ms) => write!(f, "{weather} for {ms} ms"),
            Self::Clients(weather, ms) => write!(f, "{weather} for {ms} ms"),
            Self::Part { weather, length, promoted } => {
                write!(f, "{weather} for {length} ms, and {} is promoted", NAMES[promoted])
            }
            Self::Kill { node, silent, then, after } => {
                let (name, other) = (NAMES[node], NAMES[1 - node]);
                let how = if silent { ", and its end is not told" } else { "" };
                write!(f, "kill -9 {name}{how}; after {after} ms ")?;
                match then {
                    Then::Start => write!(f, "{name} is started"),
                    Then::Failover => write!(f, "{other} is promoted, {name} started later"),
                    Then::StartAndPromote => write!(f, "{name} is started and promoted"),
                }
            }
            Self::KillBoth { after: [alice, bob] } => {
                write!(f, "kill -9 both; started after {alice} and {bob} ms")
            }
            Self::Terminate { node, after } => {
                write!(f, "SIGTERM {}; started after {after} ms", NAMES[node])
            }
            Self::Loop { node, times } => {
                write!(f, "kill -9 and start {} {times} times", NAMES[node])
            }
            Self::Freeze { node, length, promote } => {
                write!(f, "SIGSTOP {} for {length} ms", NAMES[node])?;
                if promote { write!(f, ", and {} is promoted", NAMES[1 - node]) } else { Ok(()) }
            }
            Self::Order(node, order) => write!(f, "{}# {order}", NAMES[node]),
            Self::Race([alice, bob]) => write!(f, "at once: alice# {alice}, bob# {bob}"),
            Self::Move => f.write_str("the roles change"),
        }
    }
}

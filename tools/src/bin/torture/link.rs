//! The link between the two nodes, and its weather: the relay's, and what nftables and tbf do at
//! each end. And a third host with a link to each node, for clients, whose weather is nftables'.
//!
//! Invariant: what a weather has done is counted when it ends.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::book::World;
use crate::namespace::{Namespace, plain};
use crate::relay::{Cable, Relay};
use crate::tally::Kind;
use crate::tap::tap;

/// The nodes' addresses on it.
pub(crate) const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// The same nodes' addresses for the third host, and its own there.
pub(crate) const FOR_CLIENTS: [&str; 2] = ["10.78.0.1", "10.78.1.1"];
const OF_CLIENTS: [&str; 2] = ["10.78.0.2", "10.78.1.2"];
/// The third host's interfaces.
const TO_NODES: [&str; 2] = ["to-alice", "to-bob"];

/// A kind of bad weather.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weather {
    /// Nothing passes.
    Cut,
    /// A node hears nothing; what it sends arrives.
    Deaf(usize),
    /// A node loses so many of 100 packets that come.
    Loss(usize, u64),
    /// Nothing that says "the connection is over" leaves a node: the other end stays half-open.
    Silent(usize),
    /// So many kbit/s, both ways.
    Rate(u64),
    /// Frames take so long, and up to so much longer, ms.
    Delay(u64, u64),
    /// So many of 100 frames are overtaken.
    Reorder(u64),
    /// Frames longer than this vanish.
    Hole(usize),
}

/// Bad weather between the third host and a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientWeather {
    /// Nothing passes.
    Cut(usize),
    /// The third host loses so many of 100 packets that come.
    Loss(usize, u64),
    /// Nothing that says "the connection is over" leaves the third host.
    Silent(usize),
}

impl ClientWeather {
    /// How it is counted.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Cut(_) => Kind::ClientCut,
            Self::Loss(..) => Kind::ClientLoss,
            Self::Silent(_) => Kind::ClientHalfOpen,
        }
    }
}

impl fmt::Display for ClientWeather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: usize| crate::node::NAMES[node];
        match *self {
            Self::Cut(node) => write!(f, "the third host is cut off from {}", name(node)),
            Self::Loss(node, percent) => {
                write!(f, "the third host loses {percent} % of the packets of {}", name(node))
            }
            Self::Silent(node) => {
                write!(f, "clients vanish; no FIN and no RST goes to {}", name(node))
            }
        }
    }
}

impl Weather {
    /// How it is counted.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Cut => Kind::Cut,
            Self::Deaf(_) => Kind::OneWay,
            Self::Loss(..) => Kind::Loss,
            Self::Silent(_) => Kind::HalfOpen,
            Self::Rate(_) => Kind::Rate,
            Self::Delay(..) => Kind::Delay,
            Self::Reorder(_) => Kind::Reorder,
            Self::Hole(_) => Kind::Hole,
        }
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cut => f.write_str("the cable is cut"),
            Self::Deaf(node) => write!(f, "{} hears nothing", crate::node::NAMES[node]),
            Self::Loss(node, percent) => {
                write!(f, "{} loses {percent} % of the packets", crate::node::NAMES[node])
            }
            Self::Silent(node) => {
                write!(f, "no FIN and no RST leaves {}", crate::node::NAMES[node])
            }
            Self::Rate(kbit) => write!(f, "{kbit} kbit/s"),
            Self::Delay(ms, jitter) => write!(f, "frames take {ms} to {} ms", ms + jitter),
            Self::Reorder(percent) => write!(f, "{percent} % of the frames are overtaken"),
            Self::Hole(bytes) => write!(f, "frames above {bytes} bytes vanish"),
        }
    }
}

/// Two namespaces, joined by two taps and the relay; and the clients', with a link to each.
pub(crate) struct Link {
    pub(crate) namespaces: [Namespace; 2],
    pub(crate) third: Namespace,
    relay: Relay,
    world: Arc<World>,
    now: Mutex<Option<Weather>>,
    clients_now: Mutex<Option<ClientWeather>>,
}

impl Link {
    /// A link in fine weather.
    ///
    /// # Errors
    /// What this system lacks.
    pub(crate) fn new(seed: u64, world: Arc<World>) -> Result<Self, String> {
        plain("ip link set lo up")?;
        let namespaces = [Namespace::new()?, Namespace::new()?];
        let third = Namespace::new()?;
        for node in 0..2 {
            plain("ip link add veth-node type veth peer name veth-third")?;
            namespaces[node].take("veth-node", "clients", FOR_CLIENTS[node])?;
            third.take("veth-third", TO_NODES[node], OF_CLIENTS[node])?;
        }
        let taps = [("tapa", 0), ("tapb", 1)].map(|(name, at)| {
            let file = tap(name).map_err(|error| format!("a tap (/dev/net/tun): {error}"))?;
            namespaces[at].take(name, "link0", ADDRESSES[at])?;
            Ok::<_, String>(file)
        });
        let [alice, bob] = taps;
        let relay = Relay::new([alice?, bob?], seed).map_err(|error| error.to_string())?;
        let (now, clients_now) = (Mutex::default(), Mutex::default());
        Ok(Self { namespaces, third, relay, world, now, clients_now })
    }

    /// Changes the weather; what was before is over.
    ///
    /// # Errors
    /// What `nft` or `tc` said.
    pub(crate) fn set(&self, weather: Option<Weather>) -> Result<(), String> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cable = Cable::default();
        match weather {
            Some(Weather::Cut) => cable.cut = true,
            Some(Weather::Delay(delay_ms, jitter_ms)) => {
                cable = Cable { delay_ms, jitter_ms, ..cable };
            }
            Some(Weather::Reorder(reorder)) => cable.reorder = reorder,
            Some(Weather::Hole(hole)) => cable.hole = hole,
            _ => {}
        }
        let mut effect = self.relay.set(cable);
        if let Some(before) = now.take() {
            for namespace in &self.namespaces {
                match before {
                    Weather::Deaf(_) | Weather::Loss(..) | Weather::Silent(_) => {
                        effect += namespace.clear_filters()?;
                    }
                    Weather::Rate(_) => effect += namespace.clear_rate()?,
                    _ => {}
                }
            }
            self.world.tally.add(before.kind(), 0, effect);
        }
        match weather {
            Some(Weather::Deaf(node)) => self.filter(node, "input", "")?,
            Some(Weather::Loss(node, percent)) => {
                self.filter(node, "input", &format!("numgen random mod 100 < {percent}"))?;
            }
            Some(Weather::Silent(node)) => self.filter(node, "output", OVER)?,
            Some(Weather::Rate(kbit)) => {
                for namespace in &self.namespaces {
                    namespace.run(&format!(
                        "tc qdisc add dev link0 root tbf rate {kbit}kbit burst 16k latency 100ms"
                    ))?;
                }
            }
            _ => {}
        }
        *now = weather;
        Ok(())
    }

    /// One rule for what comes in or goes out by the link; the clients' loopback is left alone.
    fn filter(&self, node: usize, hook: &str, rule: &str) -> Result<(), String> {
        self.namespaces[node].drop_where(hook, "link0", rule)
    }

    /// Changes the weather between the third host and the nodes.
    ///
    /// # Errors
    /// What `nft` said.
    pub(crate) fn set_clients(&self, weather: Option<ClientWeather>) -> Result<(), String> {
        let mut now = self.clients_now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = now.take() {
            self.world.tally.add(before.kind(), 0, self.third.clear_filters()?);
        }
        match weather {
            None => {}
            Some(ClientWeather::Cut(node)) => {
                self.third.drop_where("input", TO_NODES[node], "")?;
                self.third.drop_where("output", TO_NODES[node], "")?;
            }
            Some(ClientWeather::Loss(node, percent)) => {
                let rule = format!("numgen random mod 100 < {percent}");
                self.third.drop_where("input", TO_NODES[node], &rule)?;
            }
            Some(ClientWeather::Silent(node)) => {
                self.third.drop_where("output", TO_NODES[node], OVER)?;
            }
        }
        *now = weather;
        Ok(())
    }
}

/// What says that a connection is over.
const OVER: &str = "tcp flags & (fin | rst) != 0";

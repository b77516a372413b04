//! The link between the two nodes, and its weather: the relay's, and what nftables and tbf do at
//! each end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::namespace::{Namespace, plain};
use crate::relay::{Cable, Relay};
use crate::tap::tap;

/// The nodes' addresses on it.
pub(crate) const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

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

/// Two namespaces, joined by two taps and the relay.
pub(crate) struct Link {
    pub(crate) namespaces: [Namespace; 2],
    relay: Relay,
    /// Some weather is not the relay's.
    dirty: AtomicBool,
}

impl Link {
    /// A link in fine weather.
    ///
    /// # Errors
    /// What this system lacks.
    pub(crate) fn new(seed: u64) -> Result<Self, String> {
        plain("ip link set lo up")?;
        let namespaces = [Namespace::new()?, Namespace::new()?];
        let taps = [("tapa", 0), ("tapb", 1)].map(|(name, at)| {
            let file = tap(name).map_err(|error| format!("a tap (/dev/net/tun): {error}"))?;
            namespaces[at].take(name, ADDRESSES[at])?;
            Ok::<_, String>(file)
        });
        let [alice, bob] = taps;
        let relay = Relay::new([alice?, bob?], seed).map_err(|error| error.to_string())?;
        Ok(Self { namespaces, relay, dirty: AtomicBool::new(false) })
    }

    /// Changes the weather; what was before is over.
    ///
    /// # Errors
    /// What `nft` or `tc` said.
    pub(crate) fn set(&self, weather: Option<Weather>) -> Result<(), String> {
        let mut cable = Cable::default();
        if self.dirty.swap(false, Ordering::SeqCst) {
            for namespace in &self.namespaces {
                namespace.nft("flush ruleset")?;
                // There may be none.
                let _ = namespace.run("tc qdisc del dev link0 root");
            }
        }
        match weather {
            None => {}
            Some(Weather::Cut) => cable.cut = true,
            Some(Weather::Delay(delay_ms, jitter_ms)) => {
                cable = Cable { delay_ms, jitter_ms, ..cable };
            }
            Some(Weather::Reorder(reorder)) => cable.reorder = reorder,
            Some(Weather::Hole(hole)) => cable.hole = hole,
            Some(Weather::Deaf(node)) => self.filter(node, "input", "drop")?,
            Some(Weather::Loss(node, percent)) => {
                let rule = format!("numgen random mod 100 < {percent} drop");
                self.filter(node, "input", &rule)?;
            }
            Some(Weather::Silent(node)) => {
                self.filter(node, "output", "tcp flags & (fin | rst) != 0 drop")?;
            }
            Some(Weather::Rate(kbit)) => {
                self.dirty.store(true, Ordering::SeqCst);
                for namespace in &self.namespaces {
                    namespace.run(&format!(
                        "tc qdisc add dev link0 root tbf rate {kbit}kbit burst 16k latency 100ms"
                    ))?;
                }
            }
        }
        self.relay.set(cable);
        Ok(())
    }

    /// One rule for what comes in or goes out by the link; the clients' loopback is left alone.
    fn filter(&self, node: usize, hook: &str, rule: &str) -> Result<(), String> {
        self.dirty.store(true, Ordering::SeqCst);
        let namespace = &self.namespaces[node];
        let side = if hook == "input" { "iifname" } else { "oifname" };
        namespace.nft("add table inet torture")?;
        namespace.nft(&format!(
            "add chain inet torture {hook} {{ type filter hook {hook} priority 0 ; }}"
        ))?;
        namespace.nft(&format!("add rule inet torture {hook} {side} link0 {rule}"))
    }
}

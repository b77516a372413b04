//! `ping`: asks a peer over a connection of its own, and changes nothing on either node.
//!
//! Invariants:
//! - The daemons' connection is not used and not touched: this one says that it only asks, and takes
//!   the same path.
//! - Nothing that comes is believed before the secret is proved, where there is one; every wait ends.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket, sockopt,
};

use super::{Failure, Outcome, Session, for_each, names_of_peers, no_such_peer, print};
use crate::config::{Definition, Host, same_host};
use crate::control::Report;
use crate::control::target::Target;
use crate::resource::{NodeId, Reason};
use crate::secret::{CHALLENGE_SIZE, Exchange, Failure as Refusal, Party, SecretError};
use crate::wire::{
    BODY_MAX, Description, FEATURE_INQUIRY, FEATURE_SECRET, Features, HEADER_SIZE, Packet,
    VERSIONS, decode, decode_header, encode_header,
};

/// Small echoes, for the round trip.
const ROUNDS: u64 = 10;
/// Bytes of the large one; it goes in pieces of [`BODY_MAX`], one after the other.
const LARGE: usize = 1 << 20;
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
enum Wrong {
    /// None came in time: what was waited for.
    Late(String),
    /// Something else: what, and what to do.
    Other(String, String),
}

type Asked<T> = Result<T, Wrong>;

fn other<T>(what: impl Into<String>, next: impl Into<String>) -> Asked<T> {
    Err(Wrong::Other(what.into(), next.into()))
}

impl Session {
    /// Asks each peer that the targets mean.
    pub(super) fn ping(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        configuration.for_each(targets, |target, definition, own| {
            let name = &definition.name;
            // What runs is what the peer has to do with; without a daemon, the file.
            let client = self.client().ok();
            let up = client.and_then(|mut client| {
                let report = client.reports(Some(name)).ok()?.into_iter().next()?;
                let running = client.running(name).ok()??;
                Some((report, running))
            });
            let report = up.as_ref().map(|(report, _)| report);
            let definition = up.as_ref().map_or(definition, |(_, running)| running);
            let own = definition.local(&own.name).unwrap_or(own);
            let others = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
            let is_meant =
                |host: &&Host| target.peer().is_none_or(|peer| same_host(&host.name, peer));
            let peers: Vec<&Host> = others.filter(is_meant).collect();
            if peers.is_empty() {
                return Err(no_such_peer(target, names_of_peers(definition, own)));
            }
            for_each(peers, |peer| ask(definition, own, peer, report))
        })
    }
}

/// Tries the paths to a peer, that of the connection first, until one answers.
fn ask(definition: &Definition, own: &Host, peer: &Host, report: Option<&Report>) -> Outcome {
    let name = format!("{} {}", definition.name, peer.name);
    let mut paths: Vec<(SocketAddr, SocketAddr)> = own.addresses().zip(peer.addresses()).collect();
    let is_established = |(_, remote): &(SocketAddr, SocketAddr)| {
        let known = report
            .and_then(|report| report.paths_to(peer.node_id).find(|path| path.remote == *remote));
        known.is_some_and(|path| report.is_some_and(|report| report.is_established(path)))
    };
    paths.sort_by_key(|path| !is_established(path));
    let mut failure = None;
    for (local, remote) in paths {
        let asking = Asking { definition, own: own.node_id, peer, local, remote };
        match asking.run() {
            Ok((text, fits)) => {
                let connected = is_established(&(local, remote));
                let beside = if connected {
                    "beside the connection, which goes on"
                } else {
                    "not connected"
                };
                print(&format!("{name}: {remote} from {}, {beside}\n{text}", local.ip()))?;
                return match fits {
                    true => Ok(()),
                    false => Err(Failure::new(
                        10,
                        format!(
                            "{name}: they cannot connect like this.\nMake these options equal in \
                         both configs, then `tandemadm adjust {}` where it was changed.",
                            definition.name
                        ),
                    )),
                };
            }
            Err(wrong) => {
                let (code, text) = match wrong {
                    Wrong::Late(what) => (
                        5,
                        format!(
                            "{name}: {remote}: {what}\nIs the host up, and does no firewall drop \
                         packets to port {}?",
                            remote.port()
                        ),
                    ),
                    Wrong::Other(what, next) => (10, format!("{name}: {remote}: {what}\n{next}")),
                };
                failure.get_or_insert(Failure::new(code, text));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// One attempt on one path.
struct Asking<'a> {
    definition: &'a Definition,
    own: NodeId,
    peer: &'a Host,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Asking<'_> {
    /// What is to be printed, and whether the two can connect.
    fn run(&self) -> Asked<(String, bool)> {
        let mut text = String::new();
        let begun = Instant::now();
        let mut link = Link { stream: self.connect()? };
        let _ = writeln!(text, "  tcp:     connected in {}", ms(begun.elapsed()));
        let features = self.greet(&mut link)?;
        let secret = self.prove(&mut link, &features)?;
        let Packet::Description(about) = link.next("its description")? else {
            return other("it answers with another packet", "is it the same version?");
        };
        let (low, high, mean) = rounds(&mut link)?;
        let _ = writeln!(
            text,
            "  rtt:     min/avg/max {} / {} / {}, {ROUNDS} packets",
            ms(low),
            ms(mean),
            ms(high)
        );
        let took = self.large(&mut link)?;
        let _ = writeln!(text, "  large:   1 MiB there and back in {}", ms(took));
        let role = if features.primary { "Primary" } else { "Secondary" };
        let _ = writeln!(
            text,
            "  node:    {}, node-id {}, {role}, tandem {}, protocol {} to {}",
            about.node,
            features.node_id,
            about.software,
            features.version_min,
            features.version_max
        );
        let _ = writeln!(text, "  secret:  {secret}");
        let (fits, lines) = self.compare(&about);
        text.push_str(&lines);
        Ok((text, fits))
    }

    /// From the own address, as the peer takes no other; in time.
    fn connect(&self) -> Asked<TcpStream> {
        let family = match self.remote {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let open = || -> nix::Result<TcpStream> {
            let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // A connect under way ends with it, too.
            let limit = nix::sys::time::TimeVal::new(PATIENCE.as_secs() as i64, 0);
            nix::sys::socket::setsockopt(&fd, sockopt::SendTimeout, &limit)?;
            if self.local.is_ipv4() == self.remote.is_ipv4() && !self.local.ip().is_unspecified() {
                let source = SocketAddr::new(self.local.ip(), 0);
                bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
            }
            connect(fd.as_raw_fd(), &SockaddrStorage::from(self.remote))?;
            Ok(TcpStream::from(fd))
        };
        let stream = open().map_err(|errno| match errno {
            nix::Error::EINPROGRESS | nix::Error::EAGAIN | nix::Error::ETIMEDOUT => {
                Wrong::Late("no answer to the attempt to connect".to_owned())
            }
            nix::Error::ECONNREFUSED => Wrong::Other(
                "connection refused: the host answers, nothing listens there".to_owned(),
                format!("on {}: `tandemadm up {}`", self.peer.name, self.definition.name),
            ),
            nix::Error::EADDRNOTAVAIL => Wrong::Other(
                format!("this host does not have the address {}", self.local.ip()),
                "correct the address in the config, or bring the interface up.".to_owned(),
            ),
            errno => Wrong::Other(
                format!("cannot connect: {}", errno.desc()),
                "check addresses and routes of both hosts.".to_owned(),
            ),
        })?;
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|error| Wrong::Other(error.to_string(), String::new()))?;
        Ok(stream)
    }

    fn greet(&self, link: &mut Link) -> Asked<Features> {
        let name = &self.definition.name;
        let secret = if self.definition.secrets.is_some() { FEATURE_SECRET } else { 0 };
        link.send(&Packet::Features(Features {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            features: FEATURE_INQUIRY | secret,
            node_id: self.own,
            peer_node_id: self.peer.node_id,
            resource: name.clone(),
            dialled: true,
            primary: false,
            system: [0; 16],
        }))?;
        let Packet::Features(said) = link.next("its first packet")? else {
            return other("it does not say who it is", "is it a tandemd?");
        };
        if said.resource != *name {
            return other(
                format!("it calls the resource {:?} (wrong-resource)", said.resource),
                "two ports are swapped in one of the configs: correct it.",
            );
        }
        if (said.node_id, said.peer_node_id) != (self.peer.node_id, self.own) {
            return other(
                format!(
                    "it says it is node-id {} and takes us for {}; here it is {} and {} \
                     (wrong-node)",
                    said.node_id, said.peer_node_id, self.peer.node_id, self.own
                ),
                "compare node-id in both configs.",
            );
        }
        if said.version_min > *VERSIONS.end() || said.version_max < *VERSIONS.start() {
            return other(
                format!(
                    "it speaks protocol {} to {}, this node {} to {} (bad-version)",
                    said.version_min,
                    said.version_max,
                    VERSIONS.start(),
                    VERSIONS.end()
                ),
                "upgrade the older of the two nodes.",
            );
        }
        Ok(said)
    }

    fn prove(&self, link: &mut Link, features: &Features) -> Asked<String> {
        let there = features.features & FEATURE_SECRET != 0;
        let name = &self.definition.name;
        let adjust = format!("make it equal in both configs, then `tandemadm adjust {name}`.");
        let secrets = match (&self.definition.secrets, there) {
            (None, false) => return Ok("none: anybody at the peer's address is trusted".to_owned()),
            (None, true) => {
                let what = format!("it has a shared-secret, {} has none here (bad-secret)", name);
                return other(what, adjust);
            }
            (Some(_), false) => {
                let what = format!("it has no shared-secret, {} has one here (bad-secret)", name);
                return other(what, adjust);
            }
            (Some(secrets), true) => Arc::new(secrets.clone()),
        };
        let algorithm = secrets.cram_hmac_alg.name();
        let party =
            Party { resource: name.clone(), own: self.own, peer: self.peer.node_id, dialled: true };
        let mut challenge = [0; CHALLENGE_SIZE];
        let random =
            std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut challenge));
        random
            .map_err(|error| Wrong::Other(format!("no random numbers: {error}"), String::new()))?;
        let mut exchange = Exchange::new(secrets, party, challenge);
        link.send(&exchange.challenge())?;
        loop {
            let packet = link.next("its proof of the shared-secret")?;
            let refused = matches!(&packet, Packet::Refused(r) if r.reason == Reason::BadSecret);
            let step = match refused {
                true => Err(Refusal::Secret(SecretError::Wrong)),
                false => exchange.received(&packet),
            };
            match step {
                Ok(next) => {
                    if let Some(packet) = next.send {
                        link.send(&packet)?;
                    }
                    if next.proved {
                        return Ok(format!("proved by both, {algorithm}"));
                    }
                }
                Err(Refusal::Secret(SecretError::Algorithm { here, there })) => {
                    let (here, there) = (here.name(), there.name());
                    let what = format!("cram-hmac-alg is {here} here, {there} there (bad-secret)");
                    return other(what, adjust);
                }
                Err(Refusal::Secret(_)) => {
                    return other("it has another shared-secret (bad-secret)", adjust);
                }
                Err(Refusal::Protocol) => {
                    return other("it answers with another packet", "is it the same version?");
                }
            }
        }
    }

    /// Full segments there and back: what a wrong MTU on the way swallows.
    fn large(&self, link: &mut Link) -> Asked<Duration> {
        let begun = Instant::now();
        for sequence in 0..(LARGE / BODY_MAX as usize) as u64 {
            link.echo(1000 + sequence, BODY_MAX as usize).map_err(|wrong| match wrong {
                Wrong::Late(_) => Wrong::Late(
                    "small packets come back, large ones do not: the MTU of something on the way \
                     is smaller than that of the interfaces, and ICMP is filtered"
                        .to_owned(),
                ),
                other => other,
            })?;
        }
        Ok(begun.elapsed())
    }

    /// Whether what must be equal is; and a line for each option that is not.
    fn compare(&self, about: &Description) -> (bool, String) {
        let options = &self.definition.options;
        let differences = |own: Vec<(String, String)>, theirs: &[(String, String)]| {
            let lines = own.into_iter().filter_map(|(name, here)| {
                let there = theirs.iter().find(|(other, _)| *other == name);
                let there = there.map_or("unknown", |(_, value)| value);
                (here != there)
                    .then(|| format!("{name} is {here} here, {there} on {}", self.peer.name))
            });
            lines.collect::<Vec<_>>()
        };
        let must = differences(options.must_equal(), &about.must_equal);
        let should = differences(options.should_equal(), &about.should_equal);
        let mut text = String::new();
        for line in &must {
            let _ = writeln!(text, "  config:  {line}: must be equal");
        }
        for line in &should {
            let _ = writeln!(text, "  config:  {line}");
        }
        if text.is_empty() {
            "  config:  the same options\n".clone_into(&mut text);
        }
        (must.is_empty(), text)
    }
}

/// Small echoes one after the other: the shortest, the longest, the mean.
fn rounds(link: &mut Link) -> Asked<(Duration, Duration, Duration)> {
    let mut times = Vec::new();
    for sequence in 0..ROUNDS {
        times.push(link.echo(sequence, 1)?);
    }
    let sum: Duration = times.iter().sum();
    let (low, high) = (times.iter().min(), times.iter().max());
    let of = |time: Option<&Duration>| time.copied().unwrap_or_default();
    Ok((of(low), of(high), sum / u32::try_from(ROUNDS).unwrap_or(1)))
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

/// A connection, packet by packet.
struct Link {
    stream: TcpStream,
}

impl Link {
    fn send(&mut self, packet: &Packet) -> Asked<()> {
        let mut bytes = Vec::new();
        encode_header(packet, &mut bytes);
        self.stream.write_all(&bytes).map_err(|error| failed(&error, "the packet to be taken"))
    }

    fn next(&mut self, what: &str) -> Asked<Packet> {
        let mut header = [0; HEADER_SIZE];
        self.stream.read_exact(&mut header).map_err(|error| failed(&error, what))?;
        let nonsense = |error: crate::wire::WireError| {
            Wrong::Other(format!("not our protocol: {error}"), "is it a tandemd?".to_owned())
        };
        let header = decode_header(&header).map_err(nonsense)?;
        let mut body = vec![0; header.body_length() as usize];
        self.stream.read_exact(&mut body).map_err(|error| failed(&error, what))?;
        decode(&header, &body).map_err(nonsense)
    }

    /// There and back.
    fn echo(&mut self, sequence: u64, length: usize) -> Asked<Duration> {
        let bytes: Vec<u8> = (0..length).map(|at| (at as u64 + sequence) as u8).collect();
        let begun = Instant::now();
        self.send(&Packet::Echo { sequence, bytes: bytes.clone() })?;
        match self.next("the answer to an echo")? {
            Packet::EchoReply { sequence: s, bytes: b } if s == sequence && b == bytes => {
                Ok(begun.elapsed())
            }
            _ => other("the bytes came back changed", "test the network cards and cables."),
        }
    }
}

fn failed(error: &std::io::Error, what: &str) -> Wrong {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Wrong::Late(format!("connected, but waited {} s for {what}", PATIENCE.as_secs()))
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            Wrong::Other(
                format!("it closed the connection instead of {what}"),
                "is the resource StandAlone there (`tandemadm connect`), and does its config have \
                 this host's address and node-id? See tandemd's log there."
                    .to_owned(),
            )
        }
        _ => Wrong::Other(format!("the connection broke: {error}"), String::new()),
    }
}

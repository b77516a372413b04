//! What a daemon leaves to the one that follows it: a record, and descriptors in its order.
//!
//! ```text
//! "TNDMHAND"  version u32  JSON length u32  unread length u64 | JSON | unread bytes | CRC-32 of all before
//! descriptors: the lock, the listeners, the clients, who gave the order
//! ```
//! Invariants:
//! - The record is read like anything else from outside: it fits whole, or nothing of it is used.
//! - A program that knows another version of it, or not all that is in it, refuses; it is asked before
//!   anything is stopped, with a specimen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use nbd::constants::SIBLINGS_LIMIT;
use nbd::{BlockSizes, Device, SessionParameters};
use serde::{Deserialize, Serialize};

use crate::config::Definition;
use crate::io::HeldClient;
use crate::resource::{NodeId, VolumeNumber};

/// The form of the record, and what it means.
pub(in crate::io::control) const VERSION: u32 = 4;
const MAGIC: &[u8; 8] = b"TNDMHAND";
/// Bytes before the JSON.
const HEAD: usize = 24;
/// A record may have so many bytes.
pub(super) const RECORD_MAX: usize = 256 << 20;
/// And pass so many descriptors.
const DESCRIPTORS_MAX: usize = 60_000;
/// The name of a client, or of its export, may have so many bytes.
const TEXT_MAX: usize = 4096;

/// Why a record is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("it has {0} bytes, {RECORD_MAX} at most")]
    Long(usize),
    #[error("it is no record of a tandemd")]
    Foreign,
    #[error("it is of version {0}, and this tandemd knows {VERSION}")]
    Version(u32),
    #[error("it is cut off or has bytes behind its end")]
    Length,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("{0}")]
    Json(String),
    #[error("{0}")]
    Content(String),
}

/// A socket that clients or administrators connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::io::control) enum Listener {
    /// `control.sock`.
    Admin,
    /// `nbd.sock`.
    Nbd,
    /// `--nbd-listen`, as it was given.
    NbdTcp(SocketAddr),
    /// `--metrics-listen`, as it was given.
    Metrics(SocketAddr),
}

/// What a resource was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Was {
    Secondary,
    /// By order.
    Primary,
    /// For its clients, until the last has gone (`auto-promote`).
    AutoPromoted,
}

/// A resource that comes up again as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Left {
    /// What it runs with.
    pub(super) definition: Definition,
    /// Peers that are not dialled, by order.
    pub(super) apart: BTreeSet<NodeId>,
    /// Of them, those that are dialled again in so long, ms (`disconnect --for`).
    pub(super) back_in_ms: BTreeMap<NodeId, u64>,
    /// Peers that were connected.
    pub(super) connected: BTreeSet<NodeId>,
    /// Volumes whose disk was attached, and the current UUID of its data.
    pub(super) attached: BTreeMap<VolumeNumber, u64>,
    /// Volumes of a Primary without a disk, and the current UUID of what its clients have read at a peer.
    pub(super) exposed: BTreeMap<VolumeNumber, u64>,
    pub(super) was: Was,
    /// `suspend-io`.
    pub(super) suspended: bool,
    /// `pause-sync`.
    pub(super) paused: BTreeSet<(VolumeNumber, NodeId)>,
}

impl Left {
    pub(super) fn name(&self) -> &str {
        &self.definition.name
    }
}

/// A client, but for its descriptor and its unread bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    resource: String,
    volume: VolumeNumber,
    description: String,
    export: String,
    structured: bool,
    extended: bool,
    base_allocation: bool,
    flags: u16,
    size: u64,
    asked_block_size: bool,
    /// Minimum, preferred, maximum.
    block: [u32; 3],
    /// Its device: token, connection, siblings.
    device: Option<(u64, u64, Vec<u64>)>,
    fresh: bool,
    unread: u32,
}

/// A client and its resource.
#[derive(Debug)]
pub(super) struct Passenger {
    pub(super) resource: String,
    pub(super) client: HeldClient,
}

/// A client without its descriptor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seat {
    pub(super) resource: String,
    pub(super) volume: VolumeNumber,
    pub(super) description: String,
    pub(super) parameters: SessionParameters,
    pub(super) is_fresh: bool,
    pub(super) unread: Vec<u8>,
}

/// The record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The program that has written it.
    pub(super) program: String,
    /// Since when clients wait, ns of CLOCK_BOOTTIME.
    pub(super) since_ns: u64,
    pub(super) listeners: Vec<Listener>,
    pub(super) left: Vec<Left>,
    pub(super) seats: Vec<Seat>,
    /// Somebody waits for the outcome.
    pub(super) caller: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    program: String,
    since_ns: u64,
    listeners: Vec<Listener>,
    left: Vec<Left>,
    guests: Vec<Guest>,
    caller: bool,
}

impl Seat {
    pub(super) fn of(passenger: &Passenger) -> Self {
        let client = &passenger.client;
        Self {
            resource: passenger.resource.clone(),
            volume: client.volume,
            description: client.description.clone(),
            parameters: client.parameters.clone(),
            is_fresh: client.is_fresh,
            unread: client.unread.clone(),
        }
    }

    fn guest(&self) -> Guest {
        let SessionParameters {
            export,
            structured,
            extended,
            base_allocation,
            flags,
            size,
            client_asked_block_size,
            block,
            device,
        } = &self.parameters;
        let device = device.as_ref();
        Guest {
            resource: self.resource.clone(),
            volume: self.volume,
            description: self.description.clone(),
            export: export.clone(),
            structured: *structured,
            extended: *extended,
            base_allocation: *base_allocation,
            flags: *flags,
            size: *size,
            asked_block_size: *client_asked_block_size,
            block: [block.minimum(), block.preferred(), block.maximum()],
            device: device.map(|one| (one.token, one.connection, one.siblings.clone())),
            fresh: self.is_fresh,
            // At most HeldClient::UNREAD_MAX.
            unread: self.unread.len() as u32,
        }
    }

    fn from_guest(guest: Guest, left: &[Left], unread: &[u8]) -> Result<Self, RecordError> {
        let wrong = |why: String| RecordError::Content(format!("{}: {why}", guest.resource));
        let known = left.iter().find(|one| one.name() == guest.resource);
        let known = known.ok_or_else(|| wrong("a client of what is not there".to_owned()))?;
        if known.was == Was::Secondary {
            return Err(wrong("a client of a Secondary".to_owned()));
        }
        if [&guest.description, &guest.export].into_iter().any(|text| text.len() > TEXT_MAX) {
            return Err(wrong("a client with a very long name".to_owned()));
        }
        if guest.extended && !guest.structured {
            return Err(wrong("extended headers without structured replies".to_owned()));
        }
        if unread.len() > HeldClient::UNREAD_MAX {
            return Err(wrong(format!("{} bytes are left of a client", unread.len())));
        }
        let [minimum, preferred, maximum] = guest.block;
        let block = BlockSizes::new(minimum, preferred, maximum);
        let block = block.map_err(|error| wrong(error.to_string()))?;
        let device = guest.device.map(|(token, connection, siblings)| Device {
            token,
            connection,
            siblings,
        });
        if device.as_ref().is_some_and(|one| one.siblings.len() > SIBLINGS_LIMIT) {
            return Err(RecordError::Content("a device with very many connections".to_owned()));
        }
        Ok(Self {
            resource: guest.resource,
            volume: guest.volume,
            description: guest.description,
            parameters: SessionParameters {
                export: guest.export,
                structured: guest.structured,
                extended: guest.extended,
                base_allocation: guest.base_allocation,
                flags: guest.flags,
                size: guest.size,
                client_asked_block_size: guest.asked_block_size,
                block,
                device,
            },
            is_fresh: guest.fresh,
            unread: unread.to_vec(),
        })
    }
}

impl Record {
    /// With these resources, and something in each of its parts: what the next program is asked about.
    /// What runs may have options that another version has not.
    pub(super) fn specimen(definitions: Vec<Definition>) -> Self {
        let left = |definition| Left {
            definition,
            apart: BTreeSet::from([0]),
            back_in_ms: BTreeMap::from([(0, 1)]),
            connected: BTreeSet::from([0]),
            attached: BTreeMap::from([(0, 1)]),
            exposed: BTreeMap::from([(1, 1)]),
            was: Was::AutoPromoted,
            suspended: true,
            paused: BTreeSet::from([(0, 0)]),
        };
        let left: Vec<Left> = definitions.into_iter().map(left).collect();
        let seat = |one: &Left| Seat {
            resource: one.name().to_owned(),
            volume: 0,
            description: "specimen".to_owned(),
            parameters: SessionParameters {
                export: one.name().to_owned(),
                structured: true,
                extended: true,
                base_allocation: true,
                flags: 1,
                size: 4096,
                client_asked_block_size: true,
                block: BlockSizes::default(),
                device: Some(Device { token: 1, connection: 1, siblings: vec![1] }),
            },
            is_fresh: true,
            unread: vec![0],
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            program: crate::control::version::VERSION.to_owned(),
            since_ns: 1,
            listeners: vec![
                Listener::Admin,
                Listener::Nbd,
                Listener::NbdTcp(any),
                Listener::Metrics(any),
            ],
            seats: left.iter().map(seat).collect(),
            left,
            caller: true,
        }
    }

    /// So many descriptors belong to it.
    pub(super) fn descriptors(&self) -> usize {
        1 + self.listeners.len() + self.seats.len() + usize::from(self.caller)
    }

    /// The bytes.
    ///
    /// # Errors
    /// They would be too many.
    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let text = Text {
            program: self.program.clone(),
            since_ns: self.since_ns,
            listeners: self.listeners.clone(),
            left: self.left.clone(),
            guests: self.seats.iter().map(Seat::guest).collect(),
            caller: self.caller,
        };
        let json = serde_json::to_vec(&text).map_err(|e| RecordError::Json(e.to_string()))?;
        let unread: usize = self.seats.iter().map(|seat| seat.unread.len()).sum();
        let length = HEAD + json.len() + unread + 4;
        if length > RECORD_MAX {
            return Err(RecordError::Long(length));
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        // Both are below RECORD_MAX.
        bytes.extend_from_slice(&(json.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&(unread as u64).to_be_bytes());
        bytes.extend_from_slice(&json);
        self.seats.iter().for_each(|seat| bytes.extend_from_slice(&seat.unread));
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        Ok(bytes)
    }

    /// Reads and checks a record.
    ///
    /// # Errors
    /// It is not whole, of another version, or says what cannot be.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_MAX {
            return Err(RecordError::Long(bytes.len()));
        }
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(RecordError::Foreign)?;
        if magic != MAGIC {
            return Err(RecordError::Foreign);
        }
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Length)?;
        let version = u32::from_be_bytes(*version);
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let (json, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Length)?;
        let (unread, rest) = rest.split_first_chunk::<8>().ok_or(RecordError::Length)?;
        let json = usize::try_from(u32::from_be_bytes(*json)).map_err(|_| RecordError::Length)?;
        let unread = usize::try_from(u64::from_be_bytes(*unread));
        let unread = unread.map_err(|_| RecordError::Length)?;
        let whole = json.checked_add(unread).and_then(|both| both.checked_add(4));
        if whole != Some(rest.len()) {
            return Err(RecordError::Length);
        }
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(RecordError::Length)?;
        if crc32fast::hash(body) != u32::from_be_bytes(*sum) {
            return Err(RecordError::Checksum);
        }
        let (json, unread) = (&rest[..json], &rest[json..json + unread]);
        let text: Text =
            serde_json::from_slice(json).map_err(|error| RecordError::Json(error.to_string()))?;
        Self::checked(text, unread)
    }

    fn checked(text: Text, mut unread: &[u8]) -> Result<Self, RecordError> {
        let Text { program, since_ns, listeners, left, guests, caller } = text;
        let wrong = |why: &str| Err(RecordError::Content(why.to_owned()));
        if listeners.len() + guests.len() > DESCRIPTORS_MAX {
            return wrong("more clients than there can be");
        }
        let count = |kind: &Listener| listeners.iter().filter(|one| *one == kind).count();
        if count(&Listener::Admin) != 1 || count(&Listener::Nbd) != 1 {
            return wrong("its sockets are not those of a tandemd");
        }
        let mut names = BTreeSet::new();
        for one in &left {
            let checked = one.definition.check();
            checked.map_err(|why| RecordError::Content(format!("{}: {why}", one.name())))?;
            if !names.insert(one.name()) {
                return wrong("a resource is there twice");
            }
        }
        let mut seats = Vec::new();
        for guest in guests {
            let length = usize::try_from(guest.unread).map_err(|_| RecordError::Length)?;
            let (own, rest) = unread.split_at_checked(length).ok_or(RecordError::Length)?;
            unread = rest;
            seats.push(Seat::from_guest(guest, &left, own)?);
        }
        if !unread.is_empty() {
            return Err(RecordError::Length);
        }
        Ok(Self { program, since_ns, listeners, left, seats, caller })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn definition(name: &str) -> Definition {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "resource {name} {{ volume 0 {{ device minor 0; disk /dev/x; meta-disk internal; }} \
             on alice {{ node-id 0; address 127.0.0.1:7789; }} \
             on bob {{ node-id 1; address 127.0.0.2:7789; }} }}"
        );
        let file = dir.path().join("one.res");
        std::fs::write(&file, text).unwrap();
        let files = crate::io::config_files::ConfigFiles;
        crate::config::load(&files, &file.display().to_string()).resources[0].clone()
    }

    pub(in super::super) fn left(name: &str, was: Was) -> Left {
        Left {
            definition: definition(name),
            apart: BTreeSet::from([1]),
            back_in_ms: BTreeMap::from([(1, 5000)]),
            connected: BTreeSet::new(),
            attached: BTreeMap::from([(0, 0xdead_beef_dead_beee)]),
            exposed: BTreeMap::new(),
            was,
            suspended: true,
            paused: BTreeSet::from([(0, 1)]),
        }
    }

    fn seat(unread: &[u8]) -> Seat {
        Seat {
            resource: "r0".to_owned(),
            volume: 0,
            description: "qemu pid 7 uid 0".to_owned(),
            parameters: SessionParameters {
                export: "r0/0".to_owned(),
                structured: true,
                extended: true,
                base_allocation: true,
                flags: 0x1234,
                size: 1 << 40,
                client_asked_block_size: true,
                block: BlockSizes::new(512, 4096, 1 << 20).unwrap(),
                device: Some(Device { token: u64::MAX, connection: 5, siblings: vec![6, 7] }),
            },
            is_fresh: false,
            unread: unread.to_vec(),
        }
    }

    fn record() -> Record {
        Record {
            program: "0.1.0".to_owned(),
            since_ns: u64::MAX,
            listeners: vec![
                Listener::Admin,
                Listener::Nbd,
                Listener::NbdTcp("[::1]:10809".parse().unwrap()),
                Listener::Metrics("127.0.0.1:0".parse().unwrap()),
            ],
            left: vec![left("r0", Was::Primary), left("r1", Was::AutoPromoted)],
            seats: vec![seat(b"half a request"), seat(b""), seat(&[0xff; 70_000])],
            caller: true,
        }
    }

    #[test]
    fn what_is_written_is_read_back_whole() {
        let record = record();
        assert_eq!(record.descriptors(), 1 + 4 + 3 + 1);
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn a_specimen_is_a_record_and_has_something_in_each_part() {
        let specimen = Record::specimen(vec![definition("r0"), definition("r1")]);
        assert_eq!(Record::decode(&specimen.encode().unwrap()).unwrap(), specimen);
        for one in &specimen.left {
            let sets = [&one.apart, &one.connected].map(BTreeSet::len);
            let maps = [one.back_in_ms.len(), one.attached.len(), one.exposed.len()];
            assert!(!sets.contains(&0) && !maps.contains(&0) && !one.paused.is_empty(), "{one:?}");
        }
        assert_eq!(specimen.listeners.len(), 4);
        assert_eq!((specimen.seats.len(), specimen.left.len()), (2, 2));
        // Without resources there are no clients.
        let bare = Record::specimen(Vec::new());
        assert_eq!(Record::decode(&bare.encode().unwrap()).unwrap(), bare);
    }

    #[test]
    fn the_head_is_as_drawn() {
        let bytes = record().encode().unwrap();
        assert_eq!(bytes[..8], *b"TNDMHAND");
        assert_eq!(bytes[8..12], [0, 0, 0, 4]);
        assert_eq!(bytes[16..24], (70_014_u64).to_be_bytes());
    }

    #[test]
    fn each_damage_is_found_and_none_panics() {
        let whole = record().encode().unwrap();
        for cut in [0, 1, 7, 8, 12, 23, 24, 40, whole.len() - 1] {
            assert!(Record::decode(&whole[..cut]).is_err(), "{cut} bytes");
        }
        for at in (0..whole.len()).step_by(97).chain(0..64) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            assert!(Record::decode(&bytes).is_err(), "byte {at}");
        }
        let mut newer = whole.clone();
        newer[11] = 5;
        assert_eq!(Record::decode(&newer), Err(RecordError::Version(5)));
        let mut more = whole;
        more.push(0);
        assert_eq!(Record::decode(&more), Err(RecordError::Length));
        assert_eq!(Record::decode(b"\x7fELF----"), Err(RecordError::Foreign));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |change: &dyn Fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            Record::decode(&record.encode().unwrap()).unwrap_err()
        };
        let content = |change: &dyn Fn(&mut Record), says: &str| {
            let error = refused(change);
            assert!(error.to_string().contains(says), "{error}");
        };
        content(&|r| r.seats[0].resource = "r9".to_owned(), "of what is not there");
        content(&|r| r.left[0].was = Was::Secondary, "of a Secondary");
        content(&|r| r.seats[0].parameters.structured = false, "extended headers");
        content(&|r| r.seats[0].description = "x".repeat(5000), "long name");
        content(
            &|r| r.seats[0].unread = vec![0; HeldClient::UNREAD_MAX + 1],
            "are left of a client",
        );
        content(&|r| r.left[1].definition.name = "r0".to_owned(), "twice");
        content(&|r| r.listeners.retain(|one| *one != Listener::Nbd), "its sockets");
        content(&|r| r.listeners.push(Listener::Admin), "its sockets");
        content(&|r| r.left[0].definition.name = "../r0".to_owned(), "../r0");
    }

    #[test]
    fn a_field_that_is_not_known_is_not_passed_over() {
        let bytes = record().encode().unwrap();
        let json = u32::from_be_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let text = String::from_utf8(bytes[HEAD..HEAD + json].to_vec()).unwrap();
        let text = text.replacen("\"caller\":true", "\"caller\":true,\"more\":1", 1);
        let mut other = bytes[..12].to_vec();
        other.extend_from_slice(&(text.len() as u32).to_be_bytes());
        other.extend_from_slice(&bytes[16..HEAD]);
        other.extend_from_slice(text.as_bytes());
        other.extend_from_slice(&bytes[HEAD + json..bytes.len() - 4]);
        other.extend_from_slice(&crc32fast::hash(&other).to_be_bytes());
        let error = Record::decode(&other).unwrap_err();
        assert!(matches!(&error, RecordError::Json(why) if why.contains("more")), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), sum in any::<bool>()
        ) {
            prop_assert!(Record::decode(&bytes).is_err());
            // With a head and a checksum that fit.
            let mut made = MAGIC.to_vec();
            made.extend_from_slice(&VERSION.to_be_bytes());
            made.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            made.extend_from_slice(&0_u64.to_be_bytes());
            made.extend_from_slice(&bytes);
            let crc = crc32fast::hash(&made) ^ u32::from(sum);
            made.extend_from_slice(&crc.to_be_bytes());
            prop_assert!(Record::decode(&made).is_err());
        }
    }
}

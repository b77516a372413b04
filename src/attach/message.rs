//! The messages of the kernel's NBD driver on generic netlink: `linux/nbd-netlink.h`.
//!
//! Framing and attributes are those of the netlink crates; here is what they mean. Integers are in
//! the machine's own byte order, as everywhere in netlink.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NlaBuffer, NlasIterator, ParseableParametrized, emit_u32,
    emit_u64, parse_u32,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use super::{Terms, Times};

/// The driver's name in the directory of families.
const FAMILY: &str = "nbd";
/// The group that hears of dead links.
pub(crate) const GROUP: &str = "nbd_mc_group";

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const LINK_DEAD: u8 = 4;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
/// Inside of `SOCKETS`, and inside of that.
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;
/// The bit of an attribute that holds attributes.
const NESTED: u16 = 1 << 15;

/// What the driver is told at an attach.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    /// N of `/dev/nbdN`; `None`: any that is free.
    pub index: Option<u32>,
    /// Of the export.
    pub terms: Terms,
    /// The identifier that later messages must repeat.
    pub backend: &'a str,
    /// Seconds after which an unanswered request ends its connection and is sent again.
    pub timeout: u64,
    /// Seconds that requests wait without any connection before they fail.
    pub dead_conn_timeout: u64,
    /// Descriptors of connections right after GO.
    pub sockets: &'a [u32],
}

/// A message to the driver or from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl Message {
    /// Attaches a device.
    #[must_use]
    pub fn connect(connect: &Connect<'_>) -> Self {
        let Terms { size, flags, block } = connect.terms;
        let mut attributes: Vec<DefaultNla> =
            connect.index.map(|index| number(INDEX, index)).into_iter().collect();
        attributes.extend([
            large(SIZE_BYTES, size),
            large(BLOCK_SIZE_BYTES, u64::from(block)),
            large(SERVER_FLAGS, u64::from(flags)),
            large(TIMEOUT, connect.timeout),
            large(DEAD_CONN_TIMEOUT, connect.dead_conn_timeout),
            text(BACKEND_IDENTIFIER, connect.backend),
            sockets(connect.sockets),
        ]);
        Self { command: CONNECT, attributes }
    }

    /// Gives an attached device new sockets in place of dead ones. Never with a size: the kernel (6.9 and
    /// later) sets that first, and waits with it for the requests that wait for the sockets.
    #[must_use]
    pub fn reconfigure(index: u32, backend: &str, fds: &[u32]) -> Self {
        let attributes =
            vec![number(INDEX, index), text(BACKEND_IDENTIFIER, backend), sockets(fds)];
        Self { command: RECONFIGURE, attributes }
    }

    /// Tells an attached device a new size, bytes.
    #[must_use]
    pub fn resize(index: u32, backend: &str, size: u64) -> Self {
        let attributes =
            vec![number(INDEX, index), text(BACKEND_IDENTIFIER, backend), large(SIZE_BYTES, size)];
        Self { command: RECONFIGURE, attributes }
    }

    /// Tells an attached device other times, in seconds. The kernel waits for nothing with that.
    #[must_use]
    pub fn times(index: u32, backend: &str, times: Times) -> Self {
        let mut attributes = vec![number(INDEX, index), text(BACKEND_IDENTIFIER, backend)];
        attributes.extend(times.timeout.map(|seconds| large(TIMEOUT, seconds)));
        attributes.extend(times.dead_conn_timeout.map(|seconds| large(DEAD_CONN_TIMEOUT, seconds)));
        Self { command: RECONFIGURE, attributes }
    }

    /// Detaches a device.
    #[must_use]
    pub fn disconnect(index: u32) -> Self {
        Self { command: DISCONNECT, attributes: vec![number(INDEX, index)] }
    }

    /// N of the `/dev/nbdN` that it is about.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        let index = self.attributes.iter().find(|one| one_kind(one) == INDEX)?;
        parse_u32(&value(index)).ok()
    }

    /// Whether the driver says that a connection of a device has ended.
    #[must_use]
    pub fn is_link_dead(&self) -> bool {
        self.command == LINK_DEAD
    }
}

fn one_kind(attribute: &DefaultNla) -> u16 {
    netlink_packet_core::Nla::kind(attribute) & 0x3fff
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    use netlink_packet_core::Nla as _;
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn number(kind: u16, number: u32) -> DefaultNla {
    let mut bytes = vec![0; 4];
    // It fails only where there is no room.
    let _ = emit_u32(&mut bytes, number);
    DefaultNla::new(kind, bytes)
}

fn large(kind: u16, number: u64) -> DefaultNla {
    let mut bytes = vec![0; 8];
    let _ = emit_u64(&mut bytes, number);
    DefaultNla::new(kind, bytes)
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inside.buffer_len()];
    inside.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

fn sockets(fds: &[u32]) -> DefaultNla {
    let item = |fd: &u32| nested(SOCKET_ITEM, &[number(SOCKET_FD, *fd)]);
    nested(SOCKETS, &fds.iter().map(item).collect::<Vec<_>>())
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let keep = |one: NlaBuffer<&[u8]>| DefaultNla::new(one.kind(), one.value().to_vec());
        let attributes =
            NlasIterator::new(bytes).map(|one| one.map(keep)).collect::<Result<_, _>>()?;
        Ok(Self { command: header.cmd, attributes })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_generic::GenlMessage;

    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        let mut whole = NetlinkMessage::from(GenlMessage::from_payload(message));
        whole.finalize();
        let mut bytes = vec![0; whole.buffer_len()];
        whole.serialize(&mut bytes);
        // Without the two headers, whose bytes are those of the crates.
        bytes.split_off(20)
    }

    /// Compared with what a C program of `linux/nbd-netlink.h` sends.
    #[cfg(target_endian = "little")]
    #[test]
    fn an_attach_has_these_bytes() {
        let terms = Terms { size: 0x0102_0304_0506, flags: 0x17d, block: 512 };
        let message = Message::connect(&Connect {
            index: Some(3),
            terms,
            backend: "ab",
            timeout: 5,
            dead_conn_timeout: 300,
            sockets: &[7, 8],
        });
        let expected: &[&[u8]] = &[
            &[8, 0, 1, 0, 3, 0, 0, 0],
            &[12, 0, 2, 0, 6, 5, 4, 3, 2, 1, 0, 0],
            &[12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            &[12, 0, 5, 0, 0x7d, 1, 0, 0, 0, 0, 0, 0],
            &[12, 0, 4, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 8, 0, 0x2c, 1, 0, 0, 0, 0, 0, 0],
            &[7, 0, 10, 0, b'a', b'b', 0, 0],
            &[28, 0, 7, 0x80],
            &[12, 0, 1, 0x80, 8, 0, 1, 0, 7, 0, 0, 0],
            &[12, 0, 1, 0x80, 8, 0, 1, 0, 8, 0, 0, 0],
        ];
        assert_eq!(bytes(message), expected.concat());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_hand_over_repeats_the_identifier() {
        let expected: &[&[u8]] = &[
            &[8, 0, 1, 0, 3, 0, 0, 0],
            &[7, 0, 10, 0, b'a', b'b', 0, 0],
            &[12, 0, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
        ];
        let sockets = [expected[0], expected[1], expected[3]].concat();
        assert_eq!(bytes(Message::reconfigure(3, "ab", &[9])), sockets);
        assert_eq!(bytes(Message::resize(3, "ab", 512)), expected[..3].concat());
        let times = |timeout, dead_conn_timeout| {
            bytes(Message::times(3, "ab", Times { timeout, dead_conn_timeout }))
        };
        let two: &[u8] =
            &[12, 0, 4, 0, 7, 0, 0, 0, 0, 0, 0, 0, 12, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(times(Some(7), Some(9)), [&expected[..2].concat(), two].concat());
        assert_eq!(times(None, Some(9)), [&expected[..2].concat(), &two[12..]].concat());
        assert_eq!(bytes(Message::disconnect(3)), [8, 0, 1, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn an_event_is_read_and_what_is_cut_off_is_an_error() {
        let event = |bytes: &[u8]| {
            Message::parse_with_param(bytes, GenlHeader { cmd: LINK_DEAD, version: 1 })
        };
        let dead = Message::disconnect(5);
        let dead = event(&bytes(dead)).unwrap();
        assert_eq!((dead.is_link_dead(), dead.index()), (true, Some(5)));
        assert_eq!(event(&[]).unwrap().index(), None);
        assert!(event(&[8, 0, 1, 0, 3, 0]).is_err());
        assert!(event(&[0, 0, 0, 0, 0, 0]).is_err());
        let short = bytes(Message { command: LINK_DEAD, attributes: vec![text(INDEX, "x")] });
        assert_eq!(event(&short).unwrap().index(), None);
    }
}

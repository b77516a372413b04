//! The kernel's NBD driver on generic netlink: orders with their answers, and the events of dead
//! links.
//!
//! Two sockets, so that an event never stands between an order and its answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use crate::attach::{GROUP, Message};

use super::Trouble;

/// Largest message that is taken, bytes: those of the driver have a few hundred.
const RECEIVE: usize = 64 << 10;

/// The driver, for orders.
pub(super) struct Driver {
    socket: Socket,
    family: u16,
    group: Option<u32>,
    sequence: u32,
}

impl Driver {
    /// Finds the driver.
    ///
    /// # Errors
    /// There is none, or the system has no generic netlink for us.
    pub(super) fn open() -> Result<Self, Trouble> {
        let cannot = |error: io::Error| Trouble::failed(format!("netlink: {error}"));
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(cannot)?;
        socket.bind_auto().map_err(cannot)?;
        let mut driver = Self { socket, family: 0, group: None, sequence: 0 };
        let name = <Message as netlink_packet_generic::GenlFamily>::family_name().to_owned();
        let ask =
            GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name)] };
        let answers = driver.call(GenlMessage::from_payload(ask)).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOENT) => Trouble::failed(
                    "the kernel has no NBD driver loaded: `modprobe nbd`. Where there is no such \
                     module: Debian has it in linux-image-amd64, a container uses that of its host. \
                     `device attach --fuse` does without it",
                ),
                _ => cannot(error),
            }
        })?;
        for attribute in answers.into_iter().flat_map(|answer| answer.payload.nlas) {
            match attribute {
                GenlCtrlAttrs::FamilyId(family) => driver.family = family,
                GenlCtrlAttrs::McastGroups(groups) => driver.group = group(&groups),
                _ => {}
            }
        }
        match driver.family {
            0 => Err(Trouble::failed("netlink: the kernel's NBD driver has no number")),
            _ => Ok(driver),
        }
    }

    /// Sends an order and waits for its end; what the driver has answered.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn order(&mut self, message: Message) -> io::Result<Vec<Message>> {
        let mut order = GenlMessage::from_payload(message);
        order.set_resolved_family_id(self.family);
        let answers = self.call(order)?;
        Ok(answers.into_iter().map(|answer| answer.payload).collect())
    }

    fn call<T>(&mut self, order: T) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<T>>,
    {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(order);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        loop {
            for message in messages::<T>(&receive(&self.socket)?) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io()),
                    },
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    _ => {}
                }
            }
        }
    }

    /// Joins those who hear of dead links.
    ///
    /// # Errors
    /// The system does not let us.
    pub(super) fn events(&self) -> Result<Events, Trouble> {
        let cannot = |error: io::Error| {
            Trouble::failed(format!(
                "netlink: the events of the NBD driver cannot be heard: {error}"
            ))
        };
        let group = self.group.ok_or_else(|| cannot(io::ErrorKind::NotFound.into()))?;
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(cannot)?;
        socket.bind_auto().map_err(cannot)?;
        socket.add_membership(group).map_err(cannot)?;
        socket.set_non_blocking(true).map_err(cannot)?;
        Ok(Events { socket })
    }
}

/// The number of the group of events.
fn group(groups: &[Vec<McastGrpAttrs>]) -> Option<u32> {
    let ours = |group: &&Vec<McastGrpAttrs>| {
        group.iter().any(|one| matches!(one, McastGrpAttrs::Name(name) if name == GROUP))
    };
    groups.iter().find(ours)?.iter().find_map(|one| match one {
        McastGrpAttrs::Id(id) => Some(*id),
        McastGrpAttrs::Name(_) => None,
    })
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(RECEIVE);
    loop {
        match socket.recv(&mut bytes, 0) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of one datagram; each begins at a multiple of four.
fn messages<T: NetlinkDeserializable>(
    mut bytes: &[u8],
) -> impl Iterator<Item = io::Result<NetlinkMessage<T>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<T>::deserialize(bytes).map_err(io::Error::other);
        let length = message.as_ref().map_or(bytes.len(), |message| {
            usize::try_from(message.header.length).unwrap_or(bytes.len())
        });
        bytes = bytes.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
        Some(message)
    })
}

/// What the driver tells everybody.
pub(super) struct Events {
    socket: Socket,
}

impl Events {
    /// To wait for.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How often the driver has told since the last call that a connection of this device ended, and
    /// whether events were lost.
    pub(super) fn dead_links(&self, index: u32) -> (usize, bool) {
        let (mut count, mut is_missed) = (0, false);
        loop {
            match receive(&self.socket) {
                Ok(bytes) => {
                    let dead = messages::<GenlMessage<Message>>(&bytes).flatten().filter(|one| {
                        matches!(&one.payload, NetlinkPayload::InnerMessage(event)
                            if event.payload.is_link_dead()
                                && event.payload.index() == Some(index))
                    });
                    count += dead.count();
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_missed = true,
                Err(_) => return (count, is_missed),
            }
        }
    }
}

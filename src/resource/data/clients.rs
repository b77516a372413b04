//! Who has a volume open: identities, and `nbd-clients`.
//!
//! Invariants:
//! - An identity is a device, a process and its user, or a host: however many connections it makes.
//! - A second identity on a volume is told in the log, once when it comes; with `nbd-clients
//!   exclusive` it is not let in, and whoever is in stays.
//! - Nobody has a volume open that is not served: who comes too late is closed.

use crate::resource::disk::device::{Client, CutOff};
use crate::resource::orders::order::Step;
use crate::resource::{
    Action, ClientStatus, Command, DiskState, Gap, LogLevel, Resource, Role, SessionId,
    VolumeNumber,
};

/// What stays the same over the connections of a client: its device, if it has said that it is one; of
/// an address, its host.
fn identity(client: &str) -> &str {
    let is_name = |name: &str| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some((_, name)) = client.rsplit_once(" device ").filter(|(_, name)| is_name(name)) {
        return name;
    }
    match client.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => client,
    }
}

impl Resource {
    /// Whether this client may open the volume beside those that have.
    ///
    /// # Errors
    /// The sentence for the client: who has it open.
    pub fn admits(&self, volume: VolumeNumber, client: &str) -> Result<(), String> {
        let other = self.other_client(volume, client);
        match other.filter(|_| self.config.options.nbd_clients_exclusive) {
            None => Ok(()),
            Some(other) => Err(format!(
                "{}/{volume} is open by {}, and nbd-clients is exclusive",
                self.config.name, other.name
            )),
        }
    }

    /// Who else has it open.
    fn other_client(&self, volume: VolumeNumber, client: &str) -> Option<&Client> {
        let clients = &self.devices.get(&volume)?.clients;
        clients.iter().find(|one| identity(&one.name) != identity(client))
    }

    pub(crate) fn session_opened(
        &mut self,
        session: SessionId,
        volume: VolumeNumber,
        client: String,
    ) {
        if !self.devices.contains_key(&volume) {
            return;
        }
        // Between the answer to it, that it may enter, and its coming the clients were closed.
        if self.role != Role::Primary || self.gap != Gap::None || self.lets_nobody_in() {
            let text = format!(
                "{}{client} has entered too late: this node does not serve any more",
                self.of_volume(volume)
            );
            self.log(LogLevel::Warning, text);
            return self.emit(Action::CloseSessions { volume, lost: false });
        }
        let device = &self.devices[&volume];
        let is_new = device.clients.iter().all(|one| identity(&one.name) != identity(&client));
        if let Some(other) = self.other_client(volume, &client).filter(|_| is_new) {
            let text = format!(
                "{}{client} has opened it for writing too; {} has it open (nbd-clients exclusive \
                 would refuse that)",
                self.of_volume(volume),
                other.name
            );
            self.log(LogLevel::Warning, text);
        }
        self.sessions.insert(session, volume);
        self.client_entered();
        let since = self.wall();
        self.device(volume).clients.push(Client { session, name: client, since });
        self.changed();
    }

    /// A demotion drains: the clients have been closed. A detach drains too, and goes on serving.
    pub(crate) fn lets_nobody_in(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let demotes =
                matches!(running.command, Command::Secondary { .. } | Command::Down { .. });
            demotes && running.step != Step::Clients
        })
    }

    /// The copy at a peer cannot be read any more: was it the only one?
    pub(crate) fn a_copy_is_lost(&mut self, volume: VolumeNumber) {
        let primary = self.role == Role::Primary;
        let device = self.device(volume);
        if primary && device.disk != DiskState::UpToDate && device.cut_off == CutOff::No {
            device.cut_off = CutOff::Perhaps;
        }
    }

    /// There is a copy to read again. If it is not known to have all that was answered, the clients have to know.
    pub(crate) fn there_is_a_copy(&mut self, volume: VolumeNumber) {
        if std::mem::take(&mut self.device(volume).cut_off) != CutOff::No {
            self.cut_clients_off(volume);
        }
    }

    /// The only copy was lost, and one is back: what a client had not flushed may be gone, and no flush may
    /// be answered as if it were there. Its connection ends, as the device has ended.
    pub(crate) fn cut_clients_off(&mut self, volume: VolumeNumber) {
        let of_volume =
            |(session, of): (&SessionId, &VolumeNumber)| (*of == volume).then_some(*session);
        let sessions: Vec<SessionId> = self.sessions.iter().filter_map(of_volume).collect();
        // Also of a device that has no connection at the moment.
        self.emit(Action::CloseSessions { volume, lost: true });
        if sessions.is_empty() {
            return;
        }
        let text = format!(
            "{}its clients are disconnected: what they had not flushed when the only copy was lost may be gone",
            self.of_volume(volume)
        );
        self.log(LogLevel::Warning, text);
        for session in sessions {
            self.session_closed(session, false);
        }
    }

    /// For `status` and `why`.
    pub(crate) fn client_statuses(&self, volume: VolumeNumber) -> Vec<ClientStatus> {
        let clients = self.devices[&volume].clients.iter();
        clients.map(|one| ClientStatus { name: one.name.clone(), since: one.since }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::identity;
    use crate::resource::tests::pair::{Pair, synced_pair};
    use crate::resource::*;

    fn open(pair: &mut Pair, session: u64, client: &str) {
        let session = SessionId(session);
        pair.event(0, Event::SessionOpened { session, volume: 0, client: client.to_owned() });
    }

    #[test]
    fn an_identity_is_a_process_or_a_host() {
        for (one, other, same) in [
            ("fio pid 7 uid 0", "fio pid 7 uid 0", true),
            ("fio pid 7 uid 0", "fio pid 8 uid 0", false),
            ("fio pid 7 uid 0", "fio pid 7 uid 1", false),
            ("10.0.0.7:51234", "10.0.0.7:51235", true),
            ("10.0.0.7:51234", "10.0.0.8:51234", false),
            ("[::1]:1", "[::1]:2", true),
            ("10.0.0.7:1 device 00000000000000ab", "10.0.0.8:2 device 00000000000000ab", true),
            (
                "a pid 7 uid 0 device 00000000000000ab",
                "a pid 9 uid 0 device 00000000000000ab",
                true,
            ),
            (
                "a pid 7 uid 0 device 00000000000000ab",
                "a pid 7 uid 0 device 00000000000000ac",
                false,
            ),
            ("10.0.0.7:1 device 00000000000000ab", "10.0.0.7:2", false),
        ] {
            assert_eq!(identity(one) == identity(other), same, "{one} {other}");
        }
    }

    #[test]
    fn a_second_identity_is_told_once_and_refused_where_clients_are_exclusive() {
        let mut pair = synced_pair();
        let other = "qemu pid 9 uid 107";
        let own = pair.status(0).devices[0].clients[0].name.clone();
        for session in 701..704 {
            open(&mut pair, session, other);
        }
        let said = pair.nodes[0].log.join("\n");
        let text = format!("r0/0: {other} has opened it for writing too; {own} has it open");
        assert_eq!(said.matches(&text).count(), 1, "{said}");
        assert_eq!(pair.core(0).admits(0, "a third"), Ok(()), "shared is the default");
        let mut options = pair.core(0).config.options.clone();
        options.nbd_clients_exclusive = true;
        let (options, volumes) = (Box::new(options), std::collections::BTreeMap::new());
        pair.admin(0, Command::SetOptions { options, volumes }).unwrap();
        let refused = pair.core(0).admits(0, "a third").unwrap_err();
        assert_eq!(refused, format!("r0/0 is open by {own}, and nbd-clients is exclusive"));
        assert_eq!(pair.status(0).devices[0].clients.len(), 4, "who is in stays");
        for session in 701..704 {
            pair.event(0, Event::SessionClosed { session: SessionId(session), disconnect: true });
        }
        assert_eq!(pair.core(0).admits(0, &own), Ok(()), "more connections of the same");
        assert!(pair.core(0).admits(0, other).is_err());
    }
}

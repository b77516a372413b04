//! `verify --repair`: from which node the blocks come, and who is asked.

use crate::control::target::Target;
use crate::control::{Report, human};
use crate::resource::{Command, Role};

use super::orders::{Wide, told};
use super::{Failure, Outcome, Session, terminal};

impl Session {
    /// Copies what is out of sync from the node that is named, or from the Primary.
    pub(super) fn repair(&self, targets: &[Target], from: Option<&str>) -> Outcome {
        self.each_step(targets, Wide::PeerDevice, |client, report, (name, volume, peer)| {
            let (volume, Some((peer, _))) = (volume.unwrap_or_default(), peer) else {
                return Ok(());
            };
            let repair = repair_of(report, volume, peer, from)
                .map_err(|text| Failure::new(1, format!("{name}: {text}")))?;
            let whose = "the node whose blocks are overwritten";
            terminal::confirm(&repair.what, whose, repair.victim)?;
            let command = Command::Repair { volume, peer, from: repair.from };
            told(&name, client.command(&report.status.name, command)?)
        })
    }
}

/// Which way a repair goes.
struct Repair<'a> {
    /// The node id of the good data.
    from: u8,
    /// The other node.
    victim: &'a str,
    /// What is overwritten, and with what.
    what: String,
}

fn repair_of<'a>(
    report: &'a Report,
    volume: u16,
    peer: u8,
    from: Option<&str>,
) -> Result<Repair<'a>, String> {
    let status = &report.status;
    let found = status.connections.iter().find(|one| one.peer_node_id == peer);
    let one = found.ok_or("there is no such peer")?;
    let primary = match (status.role, one.peer_role) {
        (Role::Primary, _) => Some(status.node_name.as_str()),
        (_, Role::Primary) => Some(one.name.as_str()),
        _ => None,
    };
    let Some(from) = from.or(primary) else {
        return Err(format!(
            "nobody is Primary: say whose data is good, --from {} or --from {}",
            status.node_name, one.name
        ));
    };
    let (from, good, victim) = if crate::config::same_host(&status.node_name, from) {
        (status.node_id, &status.node_name, &one.name)
    } else if crate::config::same_host(&one.name, from) {
        (peer, &one.name, &status.node_name)
    } else {
        return Err(format!("{from} is neither {} nor {}", status.node_name, one.name));
    };
    let marked = one.peer_devices.iter().find(|device| device.volume == volume);
    let what = format!(
        "This overwrites what is out of sync of {}/{volume} on {victim} ({}) with {good}'s data; \
         {victim}'s disk is Inconsistent until it is done.",
        status.name,
        human(marked.map_or(0, |device| device.out_of_sync)),
    );
    Ok(Repair { from, victim, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    #[test]
    fn a_repair_goes_from_the_primary_or_from_the_node_that_is_named() {
        let report = fixtures::healthy();
        let repair = repair_of(&report, 0, 1, None).ok().unwrap();
        assert_eq!((repair.from, repair.victim), (0, "bob"));
        assert!(repair.what.contains("on bob") && repair.what.contains("alice's data"));
        let mut report = fixtures::mirrored(report);
        let repair = repair_of(&report, 0, 0, None).ok().unwrap();
        assert_eq!((repair.from, repair.victim), (0, "bob"));
        report.status.connections[0].peer_role = Role::Secondary;
        assert!(repair_of(&report, 0, 0, None).is_err_and(|text| text.contains("--from alice")));
        let repair = repair_of(&report, 0, 0, Some("bob")).ok().unwrap();
        assert_eq!((repair.from, repair.victim), (1, "alice"));
        assert!(repair_of(&report, 0, 0, Some("carol")).is_err());
    }
}

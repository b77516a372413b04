//! `events2`, `wait-connect`, `wait-sync`: what follows the daemon's reports.

use std::time::{Duration, Instant};

use crate::config::Waits;
use crate::control::events::{END_OF_EXISTS, Follower};
use crate::control::target::Target;
use crate::control::{ATTACH_FAILED, Report, Response};
use crate::meta::DeviceFlags;
use crate::resource::{
    ConnectionState, ConnectionStatus, DeviceStatus, DiskState, Reason, ReplicationState,
};

use super::{Failure, Outcome, Session, connections, gone, print, volumes};

/// How long `up` may take to dial, after a crash of tandemd.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The peers are connected.
    Connected,
    /// They are, no resync runs, and every disk that there should be is UpToDate.
    InSync,
}

impl Session {
    /// The first snapshot, then every change until the output is closed or the daemon ends.
    pub(super) fn events2(&self, targets: &[Target], now: bool, statistics: bool) -> Outcome {
        let wanted: Vec<&str> = targets.iter().filter_map(Target::resource).collect();
        let is_wanted = |name: &str| wanted.len() < targets.len().max(1) || wanted.contains(&name);
        let mut follower = Follower::new(statistics);
        let mut client = self.client()?;
        let up = client.reports(None)?;
        for name in &wanted {
            // What is defined may come up while it is followed.
            let is_up = up.iter().any(|report| report.status.name == *name);
            if !is_up && (now || !self.is_defined(name)) {
                return Err(self.no_such_resource(name, &up));
            }
        }
        if now {
            for report in up {
                if is_wanted(&report.status.name) {
                    print(&follower.exists(&report))?;
                }
            }
            return print(END_OF_EXISTS);
        }
        let single = if let [one] = wanted.as_slice() { Some(*one) } else { None };
        client.watch_on(single.filter(|_| targets.len() == 1))?;
        let mut complete = false;
        while let Some(response) = client.next(None)? {
            let lines = match response {
                Response::Report(report) if !is_wanted(&report.status.name) => String::new(),
                Response::Report(report) if complete => follower.update(&report),
                Response::Report(report) => follower.exists(&report),
                // Of a daemon that was replaced: what is up is known already.
                Response::Complete if complete => String::new(),
                Response::Complete => {
                    complete = true;
                    END_OF_EXISTS.to_owned()
                }
                Response::Gone(name) => follower.gone(&name),
                Response::Done(_)
                | Response::Refused(_)
                | Response::Reports(_)
                | Response::Running(_)
                | Response::Error(_) => String::new(),
            };
            if !lines.is_empty() {
                print(&lines)?;
            }
        }
        Ok(())
    }

    /// Waits for each target in turn, whatever else is wrong with it: exit 5 when the time is
    /// over, and at once where a connection is StandAlone: nobody dials it. What `given` leaves open is
    /// as in the `startup` section of the resource, as far as the configuration can be read.
    pub(super) fn wait(&self, targets: &[Target], until: Until, given: Waits) -> Outcome {
        let begun = Instant::now();
        let configuration = self.configuration().ok();
        for (target, report) in self.reports(targets)? {
            let name = &report.status.name;
            let definition = configuration.as_ref().and_then(|all| all.config().resource(name));
            let waits = given.or(definition.map(|one| one.waits).unwrap_or_default());
            let seconds = seconds(&report, waits);
            let limit = Duration::from_secs(u64::from(seconds));
            let deadline = (seconds > 0).then(|| begun + limit);
            let after_sb = waits.wait_after_sb.unwrap_or(false);
            self.wait_for(&target, name, until, deadline, after_sb)?;
        }
        Ok(())
    }

    fn wait_for(
        &self,
        target: &Target,
        resource: &str,
        until: Until,
        deadline: Option<Instant>,
        after_sb: bool,
    ) -> Outcome {
        let mut client = self.client()?;
        client.watch_on(Some(resource))?;
        let mut missing = None;
        // Who is being brought up is dialled in a moment.
        let grace = Instant::now() + ON_ITS_WAY;
        let mut on_its_way = None;
        loop {
            let next = match on_its_way.is_some() {
                true => Some(deadline.map_or(grace, |deadline| deadline.min(grace))),
                false => deadline,
            };
            match client.next(next)? {
                Some(Response::Report(report)) => {
                    missing = self::missing(&report, target, until)?;
                    if missing.is_none() {
                        return Ok(());
                    }
                    let left = left(&report, target)?.filter(|_| !after_sb);
                    match left {
                        Some(left) if is_on_its_way(&report) && Instant::now() < grace => {
                            on_its_way = Some(left);
                        }
                        Some(left) => return Err(Failure::new(5, left)),
                        None => on_its_way = None,
                    }
                }
                Some(Response::Gone(_)) => return Err(gone(resource)),
                Some(Response::Complete) if missing.is_none() => return Err(gone(resource)),
                Some(_) => {}
                None if on_its_way.is_some() && Instant::now() >= grace => {
                    return Err(Failure::new(5, on_its_way.unwrap_or_default()));
                }
                None => {
                    let what = missing.unwrap_or_default();
                    let text = format!(
                        "{resource}: timed out: {what}; `tandemadm why {resource}` says why."
                    );
                    return Err(Failure::new(5, text));
                }
            }
        }
    }
}

/// How long a wait may last, s; 0: for ever.
fn seconds(report: &Report, waits: Waits) -> u32 {
    let alone = |device: &DeviceStatus| device.flags & DeviceFlags::SURVIVED != 0;
    let outdated = |one: &ConnectionStatus| {
        let mut disks = one.peer_devices.iter().map(|peer| peer.peer_disk_state);
        one.connection_state == ConnectionState::Connected
            || disks.any(|disk| disk == DiskState::Outdated)
    };
    let status = &report.status;
    let special = if !status.connections.is_empty() && status.connections.iter().all(outdated) {
        waits.outdated_wfc_timeout
    } else if status.devices.iter().any(alone) {
        waits.degr_wfc_timeout
    } else {
        None
    };
    special.or(waits.wfc_timeout).unwrap_or(0)
}

/// A connection that nobody dials: a split brain, a refusal, an order.
fn left(report: &Report, target: &Target) -> Result<Option<String>, Failure> {
    let all = connections(report, target)?;
    let left = all.iter().find(|one| one.connection_state == ConnectionState::StandAlone);
    Ok(left.map(|one| {
        let (resource, peer, reason) = (&report.status.name, &one.name, one.reason);
        format!(
            "{resource}: not waited for: the connection to {peer} is StandAlone ({reason}); \
             `tandemadm why {resource}` says why; --wait-after-sb waits all the same."
        )
    }))
}

/// `up` has not come to its end: no connection was dialled yet, and no disk was refused, which ends it.
fn is_on_its_way(report: &Report) -> bool {
    let status = &report.status;
    let mut standalone =
        status.connections.iter().filter(|one| one.connection_state == ConnectionState::StandAlone);
    standalone.all(|one| one.reason == Reason::NeverConnected)
        && !status.devices.iter().any(|device| device.disk_note.starts_with(ATTACH_FAILED))
}

/// What is not as it is waited for; `None`: all is.
fn missing(report: &Report, target: &Target, until: Until) -> Result<Option<String>, Failure> {
    let (devices, all) = (volumes(report, target)?, connections(report, target)?);
    for connection in &all {
        if connection.connection_state != ConnectionState::Connected {
            let (peer, state) = (&connection.name, connection.connection_state);
            let reason = connection.reason;
            return Ok(Some(format!("the connection to {peer} is {state} ({reason})")));
        }
    }
    if until == Until::Connected {
        return Ok(None);
    }
    for device in devices {
        let (volume, disk) = (device.volume, device.disk_state);
        let is_client = device.backing_disk == "none";
        if disk != DiskState::UpToDate && !is_client {
            return Ok(Some(format!("the disk of volume {volume} is {disk}")));
        }
        for connection in &all {
            let peer = connection.peer_devices.iter().find(|peer| peer.volume == volume);
            let Some(peer) = peer else { continue };
            let (name, state) = (&connection.name, peer.replication_state);
            // `Connected` is shown with the replication state, so that no resync can still begin.
            if state != ReplicationState::Established {
                return Ok(Some(format!("volume {volume} is {state} with {name}")));
            }
            let disk = peer.peer_disk_state;
            let is_client = report.is_client(connection.peer_node_id, volume);
            if disk != DiskState::UpToDate && !is_client {
                return Ok(Some(format!("{name}'s disk of volume {volume} is {disk}")));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    fn reached(report: &Report, target: &str, until: Until) -> bool {
        missing(report, &target.parse().unwrap(), until).unwrap().is_none()
    }

    #[test]
    fn connected_is_enough_for_one_and_not_for_the_other() {
        let resync = fixtures::resync_source();
        assert!(reached(&resync, "r0", Until::Connected));
        assert!(!reached(&resync, "r0", Until::InSync));
        assert!(reached(&fixtures::healthy(), "r0:bob/0", Until::InSync));
        assert!(!reached(&fixtures::peer_down(), "all", Until::Connected));
    }

    #[test]
    fn the_time_is_that_of_the_situation() {
        let waits = Waits {
            wfc_timeout: Some(10),
            degr_wfc_timeout: Some(20),
            outdated_wfc_timeout: Some(30),
            wait_after_sb: None,
        };
        let plain = Waits { wfc_timeout: Some(10), ..Waits::default() };
        let mut report = fixtures::peer_down();
        report.status.devices[0].flags = 0;
        assert_eq!((seconds(&report, waits), seconds(&report, Waits::default())), (10, 0));
        report.status.devices[0].flags = DeviceFlags::SURVIVED;
        assert_eq!((seconds(&report, waits), seconds(&report, plain)), (20, 10));
        report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Outdated;
        assert_eq!((seconds(&report, waits), seconds(&report, plain)), (30, 10));
    }

    #[test]
    fn who_is_standalone_is_not_waited_for() {
        let target = Target::All;
        assert_eq!(left(&fixtures::peer_down(), &target).unwrap(), None);
        let text = left(&fixtures::split_brain(), &target).unwrap().unwrap();
        assert!(text.contains("bob is StandAlone (split-brain)"), "{text}");
        assert!(!is_on_its_way(&fixtures::split_brain()));
    }

    #[test]
    fn who_is_being_brought_up_is_waited_for_unless_a_disk_was_refused() {
        let mut report = fixtures::refused(Reason::NeverConnected);
        assert!(left(&report, &Target::All).unwrap().is_some() && is_on_its_way(&report));
        report.status.devices[0].disk_state = DiskState::Diskless;
        assert!(is_on_its_way(&report));
        report.status.devices[0].disk_note = format!("{ATTACH_FAILED}(119) No valid meta-data");
        assert!(!is_on_its_way(&report));
    }

    #[test]
    fn a_peer_or_volume_that_is_not_there_is_a_failure() {
        let report = fixtures::healthy();
        for target in ["r0:carol", "r0/7"] {
            let target = target.parse().unwrap();
            let failure = missing(&report, &target, Until::Connected).unwrap_err();
            assert_eq!(failure.exit_code, 10);
        }
    }

    #[test]
    fn in_sync_are_disks_that_are_there_and_up_to_date() {
        let in_sync = |own, peer, change: &dyn Fn(&mut Report)| {
            let mut report = fixtures::healthy();
            report.status.devices[0].disk_state = own;
            report.status.connections[0].peer_devices[0].peer_disk_state = peer;
            change(&mut report);
            let missing = missing(&report, &Target::All, Until::InSync).unwrap();
            let named = missing.as_ref().is_none_or(|what| what.contains("volume 0 is"));
            assert!(named, "{missing:?}");
            missing.is_none()
        };
        use DiskState::{Diskless, Inconsistent, Outdated, UpToDate};
        let as_it_is = |_: &mut Report| {};
        assert!(in_sync(UpToDate, UpToDate, &as_it_is));
        for bad in [Diskless, Inconsistent, Outdated] {
            assert!(!in_sync(bad, UpToDate, &as_it_is));
            assert!(!in_sync(UpToDate, bad, &as_it_is));
        }
        let peer_has_none = |report: &mut Report| report.peer_clients.push((1, 0));
        assert!(in_sync(UpToDate, Diskless, &peer_has_none));
        assert!(!in_sync(Diskless, UpToDate, &peer_has_none));
        let this_node_has_none =
            |report: &mut Report| report.status.devices[0].backing_disk = "none".to_owned();
        assert!(in_sync(Diskless, UpToDate, &this_node_has_none));
        assert!(!in_sync(UpToDate, Diskless, &as_it_is));
    }
}

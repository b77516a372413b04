//! `events2`, `wait-connect`, `wait-sync`: what follows the daemon's reports.

use std::time::{Duration, Instant};

use crate::control::events::{END_OF_EXISTS, Follower};
use crate::control::target::Target;
use crate::control::{Report, Response};
use crate::resource::{ConnectionState, ReplicationState};

use super::{Failure, Outcome, Session, connections, no_such_resource, print, volumes};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The peers are connected.
    Connected,
    /// They are, and no resync runs.
    InSync,
}

impl Session {
    /// The first snapshot, then every change until the output is closed or the daemon ends.
    pub(super) fn events2(&self, targets: &[Target], now: bool, statistics: bool) -> Outcome {
        let wanted: Vec<&str> = targets.iter().filter_map(Target::resource).collect();
        let is_wanted = |name: &str| wanted.len() < targets.len().max(1) || wanted.contains(&name);
        let mut follower = Follower::new(statistics);
        let mut client = self.client()?;
        if now {
            for report in client.reports(None)? {
                if is_wanted(&report.status.name) {
                    print(&follower.exists(&report))?;
                }
            }
            return print(END_OF_EXISTS);
        }
        let single = if let [one] = wanted.as_slice() { Some(*one) } else { None };
        client.watch(single.filter(|_| targets.len() == 1))?;
        let mut complete = false;
        while let Some(response) = client.next(None)? {
            let lines = match response {
                Response::Report(report) if !is_wanted(&report.status.name) => String::new(),
                Response::Report(report) if complete => follower.update(&report),
                Response::Report(report) => follower.exists(&report),
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

    /// Waits for each target in turn. `seconds` is the time for each, from now on; 0: for ever;
    /// `None`: the `wfc-timeout` of its resource, as far as the configuration can be read.
    pub(super) fn wait(&self, targets: &[Target], until: Until, seconds: Option<u32>) -> Outcome {
        let begun = Instant::now();
        let configuration = match seconds {
            Some(_) => None,
            None => self.configuration().ok(),
        };
        for (target, report) in self.reports(targets)? {
            let name = &report.status.name;
            let definition = configuration.as_ref().and_then(|all| all.config().resource(name));
            let seconds = seconds.or_else(|| definition.map(|one| one.wfc_timeout)).unwrap_or(0);
            let limit = Duration::from_secs(u64::from(seconds));
            let deadline = (seconds > 0).then(|| begun + limit);
            self.wait_for(&target, name, until, deadline)?;
        }
        Ok(())
    }

    fn wait_for(
        &self,
        target: &Target,
        resource: &str,
        until: Until,
        deadline: Option<Instant>,
    ) -> Outcome {
        let mut client = self.client()?;
        client.watch(Some(resource))?;
        let mut reported = false;
        loop {
            match client.next(deadline)? {
                Some(Response::Report(report)) if is_reached(&report, target, until)? => {
                    return Ok(());
                }
                Some(Response::Report(_)) => reported = true,
                Some(Response::Gone(_)) => return Err(no_such_resource(resource)),
                Some(Response::Complete) if !reported => return Err(no_such_resource(resource)),
                Some(_) => {}
                None => {
                    let what = match until {
                        Until::Connected => "not connected",
                        Until::InSync => "not in sync",
                    };
                    let text = format!(
                        "{resource}: timed out: {what}; `tandemadm why {resource}` says why."
                    );
                    return Err(Failure::new(5, text));
                }
            }
        }
    }
}

fn is_reached(report: &Report, target: &Target, until: Until) -> Result<bool, Failure> {
    let wanted: Vec<u16> = volumes(report, target)?.iter().map(|device| device.volume).collect();
    let mut all = connections(report, target)?.into_iter();
    Ok(all.all(|connection| {
        let connected = connection.connection_state == ConnectionState::Connected;
        let mut peers = connection.peer_devices.iter().filter(|peer| wanted.contains(&peer.volume));
        // `Connected` is shown with the replication state, so that no resync can still begin.
        let mut idle = || peers.all(|peer| peer.replication_state == ReplicationState::Established);
        connected && (until == Until::Connected || idle())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    fn reached(report: &Report, target: &str, until: Until) -> bool {
        is_reached(report, &target.parse().unwrap(), until).unwrap()
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
    fn a_peer_or_volume_that_is_not_there_is_a_failure() {
        let report = fixtures::healthy();
        for target in ["r0:carol", "r0/7"] {
            let target = target.parse().unwrap();
            assert_eq!(is_reached(&report, &target, Until::Connected).unwrap_err().exit_code, 10);
        }
    }
}

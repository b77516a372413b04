//! `down` and `secondary`: orders that must come to their end, whatever the daemon does.
//!
//! Invariant: they succeed when the daemon says so, or when nobody holds its lock.

use std::time::Duration;

use super::super::adm::orders::told;
use super::super::adm::{Failure, Outcome, complain, for_each};
use super::super::remembered::Remembered;
use super::presence::{PATIENCE, Presence, is_held, kill_holder, settle};
use super::{AGENT, Compat, not_up, silent};
use crate::compat::Tool;
use crate::control::Request;
use crate::resource::Command;

/// How long a silent daemon has before it is killed, where no agent has told its own limit.
const KILL_AFTER: Duration = Duration::from_secs(20);
/// How long clients have to leave, likewise.
const CLIENTS_LEAVE: Duration = Duration::from_secs(10);

/// A share of the time that the cluster gives its agent; `usual` at most.
fn share(of: u32, usual: Duration) -> Duration {
    let limit = std::env::var("OCF_RESKEY_CRM_meta_timeout").ok();
    let limit = limit.and_then(|text| text.parse::<u64>().ok()).map(Duration::from_millis);
    limit.map_or(usual, |limit| (limit / of).min(usual))
}

impl Compat {
    /// The daemon, or that it is gone: a silent one is killed.
    fn settle_or_kill(&self) -> Result<Presence, Failure> {
        let run_dir = self.run_dir();
        if let Some(presence) = settle(run_dir, share(2, KILL_AFTER))? {
            return Ok(presence);
        }
        kill_holder(run_dir, PATIENCE);
        settle(run_dir, PATIENCE)?.ok_or_else(silent)
    }

    /// The resources that are named; `all`: those of the configuration.
    fn resources(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for target in self.targets()? {
            match target.resource() {
                Some(name) => names.push(name.to_owned()),
                None => {
                    let configuration = self.configuration()?;
                    let all = configuration.all_names();
                    names.extend(all.into_iter().map(str::to_owned));
                }
            }
        }
        Ok(names)
    }

    /// Takes resources down. What is not up is down.
    pub(super) fn down(&mut self) -> Outcome {
        self.line.end(1..=usize::MAX)?;
        if self.line.dry_run {
            return self.as_tandemadm(self.line.operands.clone());
        }
        if self.tool() == Tool::Drbdadm {
            // A name that nobody knows is a slip; one that runs is known, whatever the file says.
            let configuration = self.configuration()?;
            let known =
                |name: &String| configuration.names(name) || configuration.config().has_errors();
            let names = self.resources()?;
            if let Some(name) = names.iter().find(|name| !known(name)) {
                let presence = self.settle_or_kill()?;
                let Presence::There(mut client) = presence else {
                    return Err(not_defined(name));
                };
                if client.running(name)?.is_none() {
                    return Err(not_defined(name));
                }
            }
        }
        for_each(self.resources()?, |name| self.down_one(&name))
    }

    fn down_one(&self, name: &str) -> Outcome {
        loop {
            match self.settle_or_kill()? {
                Presence::There(mut client) => {
                    match client.order(&Request::Down { resource: name.to_owned() }) {
                        Ok(answer) => return told(name, answer),
                        // It has ended, or fallen silent.
                        Err(failure) => complain(&failure.text),
                    }
                }
                Presence::Absent => {
                    // A daemon that is started later must not bring it up.
                    Remembered::new(self.run_dir()).forget(name);
                    if !is_held(self.run_dir()) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Demotes. For the agent the cluster has decided: clients are given time, and then closed.
    pub(super) fn secondary(&mut self) -> Outcome {
        let force = ["--force", "--force=yes", "-f"].iter().any(|option| self.line.take(option));
        self.line.take("--force=no");
        self.line.end(1..=usize::MAX)?;
        if self.line.dry_run {
            return self.as_tandemadm(self.line.operands.clone());
        }
        let agent = std::env::var_os(AGENT).is_some();
        let wait = if agent { share(3, CLIENTS_LEAVE) } else { Duration::ZERO };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or_default();
        let command = Command::Secondary { force: force || agent, wait_ms };
        for_each(self.resources()?, |name| self.secondary_one(&name, &command))
    }

    fn secondary_one(&self, name: &str, command: &Command) -> Outcome {
        let mut was_there = false;
        loop {
            let held = is_held(self.run_dir());
            match self.settle_or_kill()? {
                Presence::There(mut client) => match client.command(name, command.clone()) {
                    Ok(answer) => return told(name, answer),
                    Err(failure) => {
                        was_there = true;
                        complain(&failure.text);
                    }
                },
                // The daemon that served it has ended: it serves no more.
                Presence::Absent if held || was_there => return Ok(()),
                Presence::Absent => return Err(not_up(Some(name))),
            }
        }
    }
}

fn not_defined(name: &str) -> Failure {
    Failure::new(10, format!("'{name}' not defined in your config (for this host), and not up."))
}

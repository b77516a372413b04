//! `down` and `secondary`: orders that must come to their end, whatever the daemon does.
//!
//! Invariants:
//! - They succeed when the daemon says so, or when nobody holds its lock.
//! - One that is silent is asked for as long as it takes; what one has answered is its answer after a few tries.

use std::time::Duration;

use super::super::adm::client::Client;
use super::super::adm::orders::told;
use super::super::adm::{Failure, Outcome, complain, for_each};
use super::super::remembered::Remembered;
use super::presence::{PATIENCE, Presence, is_held, kill_holder, settle};
use super::{AGENT, Compat, TRIES, not_up, silent};
use crate::compat::Tool;
use crate::control::Request;
use crate::control::target::Target;
use crate::resource::Command;

/// How long a silent daemon has before it is killed, where no agent has told its own limit.
const KILL_AFTER: Duration = Duration::from_secs(20);
/// How long clients have to leave, likewise.
const CLIENTS_LEAVE: Duration = Duration::from_secs(10);

/// Seconds that clients may be given at most.
const WAIT_MAX: u32 = 86_400;
/// Between two tries of what the daemon answers with an error.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is still asked again what it answers with an error.
struct Tries(u32);

impl Tries {
    /// After a failure: whether to ask again, which is told. One that has ended or fallen silent meanwhile is asked
    /// for ever; an error that it answers (it is of another version) would stay the same.
    fn again(&mut self, client: &Client, failure: Failure) -> Outcome {
        if client.has_answered() {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 {
                return Err(failure);
            }
            std::thread::sleep(PAUSE);
        }
        complain(&failure.text);
        Ok(())
    }
}

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

    /// The resources that are named, and what is wrong with the configuration. `all` is what is up, whatever the
    /// configuration says; for drbdadm with what the configuration has for this node.
    fn resources(&self) -> Result<(Vec<String>, Outcome), Failure> {
        let targets = self.targets()?;
        let mut names: Vec<String> =
            targets.iter().filter_map(|target| target.resource().map(str::to_owned)).collect();
        if names.len() == targets.len() {
            return Ok((names, Ok(())));
        }
        let mut add = |all: Vec<String>| {
            for name in all {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        };
        add(self.names_up()?);
        let wrong = match (self.tool(), self.configuration()) {
            (Tool::Drbdsetup, _) => Ok(()),
            (Tool::Drbdadm, Err(failure)) => Err(failure),
            (Tool::Drbdadm, Ok(configuration)) => {
                add(configuration.own_names());
                // Tells the findings, and makes them the exit code.
                configuration.for_each(&[Target::All], |_, _, _| Ok(()))
            }
        };
        Ok((names, wrong))
    }

    /// What is up: nothing without a daemon.
    fn names_up(&self) -> Result<Vec<String>, Failure> {
        let mut tries = Tries(TRIES);
        loop {
            match self.settle_or_kill()? {
                Presence::There(mut client) => match client.reports(None) {
                    Ok(up) => return Ok(up.into_iter().map(|one| one.status.name).collect()),
                    Err(failure) => tries.again(&client, failure)?,
                },
                Presence::Absent => return Ok(Vec::new()),
            }
        }
    }

    /// Takes resources down. What is not up is down.
    pub(super) fn down(&mut self) -> Outcome {
        self.line.end(1..=usize::MAX)?;
        if self.line.dry_run {
            return self.as_tandemadm(self.line.operands.clone());
        }
        if self.tool() == Tool::Drbdadm {
            // A name that nobody knows is a slip; one that runs is known, whatever the file says.
            let configuration = self.configuration();
            let known = |name: &&str| {
                configuration.as_ref().is_ok_and(|all| all.names(name) || all.config().has_errors())
            };
            let targets = self.targets()?;
            let mut named = targets.iter().filter_map(Target::resource);
            if let Some(name) = named.find(|name| !known(name)) {
                let presence = self.settle_or_kill()?;
                let Presence::There(mut client) = presence else {
                    return Err(not_defined(name));
                };
                if client.running(name)?.is_none() {
                    return Err(not_defined(name));
                }
            }
        }
        let (mut names, wrong) = self.resources()?;
        if self.targets()?.contains(&Target::All) {
            // A daemon that is started later must not bring them up.
            let remembered = Remembered::new(self.run_dir()).names();
            names.extend(
                remembered.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>(),
            );
        }
        for_each(names, |name| self.down_one(&name)).and(wrong)
    }

    fn down_one(&self, name: &str) -> Outcome {
        let mut tries = Tries(TRIES);
        loop {
            match self.settle_or_kill()? {
                Presence::There(mut client) => {
                    match client.order(&Request::Down { resource: name.to_owned() }) {
                        Ok(answer) => return told(name, answer),
                        Err(failure) => tries.again(&client, failure)?,
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
        let given = self.line.take_value("--wait");
        self.line.end(1..=usize::MAX)?;
        let given = given.map(|text| {
            text.parse::<u32>().ok().filter(|seconds| *seconds <= WAIT_MAX).ok_or(text)
        });
        let given = given.transpose().map_err(|text| {
            let (tool, code) = (self.tool().name(), self.tool().usage_code());
            let why = format!("{tool} secondary: --wait={text}: seconds, {WAIT_MAX} at most");
            Failure::new(code, why)
        })?;
        if self.line.dry_run {
            return self.as_tandemadm(self.line.operands.clone());
        }
        let agent = std::env::var_os(AGENT).is_some();
        let wait = match given {
            Some(seconds) => Duration::from_secs(u64::from(seconds)),
            None if agent => share(3, CLIENTS_LEAVE),
            None => Duration::ZERO,
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or_default();
        let command = Command::Secondary { force: force || agent, wait_ms };
        let held = is_held(self.run_dir());
        let (names, wrong) = self.resources()?;
        for_each(names, |name| self.secondary_one(&name, &command, held)).and(wrong)
    }

    /// `held`: there was a daemon before the names were known.
    fn secondary_one(&self, name: &str, command: &Command, held: bool) -> Outcome {
        let (mut was_there, mut tries) = (held, Tries(TRIES));
        loop {
            let held = is_held(self.run_dir());
            match self.settle_or_kill()? {
                Presence::There(mut client) => match client.command(name, command.clone()) {
                    Ok(answer) => return told(name, answer),
                    Err(failure) => {
                        was_there = true;
                        tries.again(&client, failure)?;
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

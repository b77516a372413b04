//! `-d`: what an order would do, a line a step, and nothing else; an `up` that would be refused is.

use crate::config::Definition;
use crate::control::arguments::Verb;
use crate::control::{Report, Request, dry_run};
use crate::resource::Refusal;

use super::client::Client;
use super::{Failure, Outcome, Session, names_of_peers, no_such_peer, no_such_volume, print};

/// The refusal that an `up` would meet. A daemon of an older version does not know.
pub(super) fn refusal_of_up(client: &mut Client, definition: &Definition) -> Option<Refusal> {
    let definition = Box::new(definition.clone());
    client.order(&Request::CheckUp { definition }).ok()?.err()
}

impl Session {
    /// What would be done, a line a step.
    pub(super) fn dry_run(&self, verb: Verb) -> Outcome {
        // Without a daemon nothing is up.
        let mut client = self.client().ok();
        let up = client.as_mut().and_then(|client| client.reports(None).ok());
        let report_of = |name: &str| {
            up.as_ref().and_then(|up| up.iter().find(|report| report.status.name == name))
        };
        let (targets, attach, connect) = match &verb {
            Verb::Up(targets) => (&targets.targets, true, true),
            Verb::Attach(targets) => (&targets.targets, true, false),
            Verb::Connect { targets, discard_my_data: false, tentative: false } => {
                (&targets.targets, false, true)
            }
            _ => return self.dry_run_other(&verb, up.as_deref()),
        };
        let configuration = self.configuration()?;
        configuration.for_each(targets, |target, definition, own| {
            if target.volume().is_some_and(|number| !own.volumes.contains_key(&number)) {
                return Err(no_such_volume(target, own.volumes.keys().copied()));
            }
            let mut peers = definition.peers(configuration.node());
            if let Some(peer) = target.peer()
                && !peers.any(|host| crate::config::same_host(&host.name, peer))
            {
                return Err(no_such_peer(target, names_of_peers(definition, own)));
            }
            let running = report_of(&definition.name);
            let mut steps = dry_run::Steps::new(definition, own, running);
            if matches!(verb, Verb::Up(_)) {
                let refused = client.as_mut().filter(|_| up.is_some());
                if let Some(refusal) = refused.and_then(|one| refusal_of_up(one, definition)) {
                    return Err(Failure::refused(&definition.name, &refusal));
                }
                steps.resource();
            }
            if attach {
                steps.attach(target.volume());
            }
            if connect {
                steps.connect(target.peer());
            }
            print(&steps.finish())
        })
    }

    fn dry_run_other(&self, verb: &Verb, up: Option<&[Report]>) -> Outcome {
        let Some((word, targets)) = dry_run::word(verb) else {
            return Err(Failure::new(1, "tandemadm: -d is for verbs that change something"));
        };
        // Without a daemon nothing is up; but what would be ordered of a named resource is known.
        let up = up.unwrap_or_default();
        for target in targets {
            let is_up = |name: &str| up.iter().any(|report| report.status.name == name);
            if let Some(name) = target.resource()
                && !is_up(name)
                && !self.is_defined(name)
            {
                return Err(self.not_up(name, up));
            }
            let names: Vec<String> = match target.resource() {
                None => up.iter().map(|report| report.status.name.clone()).collect(),
                Some(name) if matches!(verb, Verb::Down(_)) && !is_up(name) => Vec::new(),
                Some(name) => vec![name.to_owned()],
            };
            for name in names {
                print(&dry_run::line(&word, target, &name))?;
            }
        }
        Ok(())
    }
}

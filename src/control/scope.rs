//! What a verb's target may name: a verb for whole resources refuses a volume or a peer, as drbdadm
//! does, instead of doing more than was asked, or saying something else.

use super::arguments::{DeviceVerb, Verb};
use super::target::Target;

/// What a target may name beside the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) peer: bool,
    pub(crate) volume: bool,
}

impl Scope {
    pub(crate) const RESOURCE: Self = Self { peer: false, volume: false };
    pub(crate) const PEER: Self = Self { peer: true, volume: false };
    pub(crate) const VOLUME: Self = Self { peer: false, volume: true };
    pub(crate) const BOTH: Self = Self { peer: true, volume: true };

    /// Whether every target names only what is acted on.
    ///
    /// # Errors
    /// The sentence for the user.
    pub(crate) fn check(self, targets: &[Target]) -> Result<(), String> {
        for target in targets {
            let one = target.resource().unwrap_or("all");
            let what = match (target.volume(), target.peer()) {
                (Some(_), _) if !self.volume => "volume",
                (_, Some(_)) if !self.peer => "peer",
                _ => continue,
            };
            let on = match self {
                Self::RESOURCE => "operates on whole resources",
                Self::PEER => "operates on connections",
                _ => "acts on this node alone",
            };
            return Err(format!(
                "'{target}': this verb {on}, but you specified a specific {what}; say {one}"
            ));
        }
        Ok(())
    }
}

/// The targets of a verb, and what they may name. `None`: it has none, or finds them by itself.
fn scope(verb: &Verb) -> Option<(&[Target], Scope)> {
    Some(match verb {
        Verb::Up(targets)
        | Verb::Down(targets)
        | Verb::Adjust(targets)
        | Verb::SuspendIo(targets)
        | Verb::ResumeIo(targets)
        | Verb::Role(targets) => (&targets.targets, Scope::RESOURCE),
        Verb::Primary { targets, .. } | Verb::Secondary { targets, .. } => {
            (&targets.targets, Scope::RESOURCE)
        }
        Verb::Status { targets, .. }
        | Verb::Events2 { targets, .. }
        | Verb::Why { targets, .. }
        | Verb::Check(targets)
        | Verb::Dump(targets)
        | Verb::DumpXml(targets) => (&targets.targets, Scope::RESOURCE),
        Verb::Connect { targets, .. }
        | Verb::Disconnect { targets, .. }
        | Verb::ForgetPeer { targets, .. } => (&targets.targets, Scope::PEER),
        Verb::Cstate(targets)
        | Verb::PeerRole(targets)
        | Verb::Ping(targets)
        | Verb::UnfencePeer(targets) => (&targets.targets, Scope::PEER),
        Verb::Attach(targets) | Verb::Outdate(targets) | Verb::Invalidate(targets) => {
            (&targets.targets, Scope::VOLUME)
        }
        Verb::RestoreMd { target, .. } => (std::slice::from_ref(target), Scope::VOLUME),
        Verb::CreateMd { targets, .. }
        | Verb::DumpMd { targets, .. }
        | Verb::WipeMd { targets, .. }
        | Verb::Detach { targets, .. }
        | Verb::Resize { targets, .. }
        | Verb::CheckResize(targets)
        | Verb::NewCurrentUuid { targets, .. } => (&targets.targets, Scope::VOLUME),
        Verb::Verify { targets, .. } => (&targets.targets, Scope::BOTH),
        Verb::InvalidateRemote(targets)
        | Verb::PauseSync(targets)
        | Verb::ResumeSync(targets)
        | Verb::Dstate(targets)
        | Verb::ShowGi(targets)
        | Verb::GetGi(targets) => (&targets.targets, Scope::BOTH),
        Verb::WaitConnect { targets, .. } | Verb::WaitSync { targets, .. } => {
            (&targets.targets, Scope::BOTH)
        }
        Verb::Device { verb: DeviceVerb::Detach { targets, .. } } => {
            (&targets.targets, Scope::VOLUME)
        }
        Verb::Device { verb: DeviceVerb::Status { targets, .. } } => {
            (&targets.targets, Scope::VOLUME)
        }
        Verb::Device { verb: DeviceVerb::Attach { .. } }
        | Verb::NetOptions(_)
        | Verb::DiskOptions(_)
        | Verb::ResourceOptions(_)
        | Verb::PeerDeviceOptions(_)
        | Verb::Daemon { .. }
        | Verb::Probe { .. }
        | Verb::Other(_) => return None,
    })
}

/// Whether every target of the verb names only what the verb acts on.
///
/// # Errors
/// The sentence for the user.
pub(crate) fn check_scope(verb: &Verb) -> Result<(), String> {
    scope(verb).map_or(Ok(()), |(targets, scope)| scope.check(targets))
}

#[cfg(test)]
mod tests {
    use super::super::arguments::parse;
    use super::check_scope;

    fn said(words: &str) -> Result<(), String> {
        check_scope(&parse(format!("tandemadm {words}").split_whitespace()).unwrap().verb)
    }

    #[test]
    fn what_a_verb_does_not_act_on_is_refused_by_name() {
        for (words, what) in [
            ("status r0/0", "volume"),
            ("status r0:bob", "peer"),
            ("events2 --now r0:bob", "peer"),
            ("why r0/0", "volume"),
            ("check r0:bob", "peer"),
            ("role r0:bob", "peer"),
            ("role r0/0", "volume"),
            ("dump r0/0", "volume"),
            ("cstate r0:bob/0", "volume"),
            ("disconnect r0/0", "volume"),
            ("invalidate r0:bob", "peer"),
            ("detach r0:bob/0", "peer"),
        ] {
            let why = said(words).unwrap_err();
            assert!(why.contains(&format!("you specified a specific {what}; say r0")), "{why}");
        }
        for words in [
            "get-gi r0:bob/0",
            "dstate r0:bob",
            "cstate r0:bob",
            "wait-sync r0:bob/0",
            "invalidate r0/1",
            "invalidate-remote r0:bob/0",
        ] {
            assert_eq!(said(words), Ok(()), "{words}");
        }
    }
}

//! What a verb's target may name: a verb for whole resources refuses a volume or a peer, as drbdadm
//! does, instead of doing more than was asked.

use super::arguments::Verb;
use super::target::Target;

/// The targets of a verb, and whether they may name a peer and a volume. `None`: any form.
fn scope(verb: &Verb) -> Option<(&[Target], bool, bool)> {
    let (targets, peer, volume) = match verb {
        Verb::Up(targets) | Verb::Down(targets) | Verb::Adjust(targets) => (targets, false, false),
        Verb::Primary { targets, .. } | Verb::Secondary { targets, .. } => (targets, false, false),
        Verb::Connect { targets, .. } | Verb::Disconnect { targets, .. } => (targets, true, false),
        Verb::Attach(targets) | Verb::Outdate(targets) | Verb::DumpMd(targets) => {
            (targets, false, true)
        }
        Verb::CreateMd { targets, .. }
        | Verb::Detach { targets, .. }
        | Verb::NewCurrentUuid { targets, .. } => (targets, false, true),
        _ => return None,
    };
    Some((&targets.targets, peer, volume))
}

/// Whether every target of the verb names only what the verb acts on.
///
/// # Errors
/// The sentence for the user.
pub(crate) fn check_scope(verb: &Verb) -> Result<(), String> {
    let Some((targets, peer, volume)) = scope(verb) else { return Ok(()) };
    for target in targets {
        let one = target.resource().unwrap_or("all");
        if target.volume().is_some() && !volume {
            return Err(format!(
                "'{target}': this verb operates on whole resources, but you specified a specific \
                 volume; say {one}"
            ));
        }
        if target.peer().is_some() && !peer {
            return Err(format!(
                "'{target}': this verb acts on this node alone, but you specified a peer; say {one}"
            ));
        }
    }
    Ok(())
}

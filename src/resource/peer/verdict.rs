//! What this node does with a volume after a handshake: [`crate::resource::peer::generation`] decides,
//! [`crate::resource::peer::split_brain`] resolves, and here the two meet the session.

use crate::resource::ONLY_A_NEW_CONNECTION;
use crate::resource::peer::generation::{
    Side, agree_size, decide, grows_from_own, growth, log_lines, taken_back,
};
use crate::resource::peer::split_brain::{
    Because, Outcome, Party, Resolution, primary_has_lost, resolve, resolve_attach,
};
use crate::resource::{DiskState, Options, Reason, Role};
use crate::wire::Refused;

/// What is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The session opens at once.
    NoSync,
    /// The peer is brought up to date.
    Source { full: bool },
    /// This node is brought up to date.
    Target { full: bool },
    /// Both end StandAlone.
    Refuse(Refused),
    /// The connection is dropped and tried again.
    Retry(String),
    /// The disk that is being attached is refused, here or there; the session goes on without it.
    RefuseDisk { own: bool },
}

/// Both sides of a volume at a handshake.
#[derive(Clone, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) own: Party<'a>,
    pub(crate) peer: Party<'a>,
    /// The own disk is being attached to an open session.
    pub(crate) attaching_own: bool,
    /// The peer's disk is.
    pub(crate) attaching_peer: bool,
}

/// A judgement, and why.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) judgement: Judgement,
    pub(crate) resolution: Resolution,
    /// The lines for the log.
    pub(crate) lines: Vec<String>,
    /// This node is Primary and has lost a split brain, and a handler is to be called.
    pub(crate) primary_lost: bool,
}

/// What this node does with a volume.
pub(crate) fn judge(situation: &Situation<'_>, options: &Options) -> Judged {
    let Situation { own, peer, attaching_own, attaching_peer } = situation;
    let attaching = attaching_own != attaching_peer;
    let (own_info, peer_info) = (own.side.info, peer.side.info);
    let own_back = taken_back(own_info, peer_info);
    let peer_back = taken_back(peer_info, own_info);
    let back = own_back.is_some() || peer_back.is_some();
    let (mut own, mut peer) = (*own, *peer);
    own.side.info = own_back.as_ref().unwrap_or(own_info);
    peer.side.info = peer_back.as_ref().unwrap_or(peer_info);
    let (a, b): (&Side<'_>, &Side<'_>) = (&own.side, &peer.side);
    let mut verdict = decide(a.info, a.role, a.tie, b.info, b.role, b.tie);
    if back {
        // The bits say nothing since they were all set.
        verdict.strategy = verdict.strategy.in_full();
    }
    let mut lines = log_lines(a, b, verdict).to_vec();
    // Nobody has read the other disk in this session, nor could: nothing speaks against the usual table.
    let other = if *attaching_own { peer_info.disk } else { own_info.disk };
    let unread = other != DiskState::UpToDate && [a.role, b.role] == [Role::Secondary; 2];
    let mut resolution = if attaching && !unread {
        resolve_attach(verdict, a, b, *attaching_own)
    } else {
        resolve(verdict, options, &own, &peer)
    };
    if back && resolution.because == Because::Verdict {
        resolution.because = Because::TakenBack;
    }
    if let Some(line) = lines.last_mut() {
        *line = resolution.to_string();
    }
    let judgement = match resolution.outcome {
        Outcome::NoSync | Outcome::Diskless => Judgement::NoSync,
        Outcome::Source { full } => Judgement::Source { full },
        Outcome::Target { full } => Judgement::Target { full },
        Outcome::Retry => Judgement::Retry(resolution.because.explain().to_owned()),
        Outcome::Refuse { reason } => Judgement::Refuse(resolution.refused().unwrap_or(Refused {
            reason,
            rule: String::new(),
            text: String::new(),
        })),
    };
    let judgement = match (judgement, agree_size(a.info, b.info)) {
        (Judgement::Refuse(refused), _) => Judgement::Refuse(refused),
        (_, Err(refused)) => Judgement::Refuse(refused),
        (judgement, Ok(_)) => judgement,
    };
    let judgement = match judgement {
        Judgement::NoSync if resolution.outcome == Outcome::NoSync => {
            new_blocks(situation, &mut lines).unwrap_or(Judgement::NoSync)
        }
        judgement => judgement,
    };
    let refused = matches!(judgement, Judgement::Refuse(_) | Judgement::Retry(_));
    let primary_lost = refused && !attaching && primary_has_lost(verdict, options, &own, &peer);
    if refused && attaching {
        let judgement = Judgement::RefuseDisk { own: *attaching_own };
        return Judged { judgement, resolution, lines, primary_lost };
    }
    Judged { judgement, resolution, lines, primary_lost }
}

/// Why a disk that was to be attached in an open session is not, and what to do, by the rule.
pub(super) fn refused_disk(rule: Option<&str>) -> String {
    match rule {
        Some("outdated-both") => "attach refused: both disks are Outdated, and neither can be the \
             source (rule outdated-both); on the node to keep: disconnect, attach, primary \
             --force=outdated; on the other one: down, create-md --force, up; here: connect"
            .to_owned(),
        Some(rule) if rule.starts_with("rolled-back-") => format!(
            "attach refused: of the two disks one is older than the other node has seen it (rule {rule}): \
             put the right one back in its place, or create-md on it"
        ),
        Some(rule) if rule.starts_with("unproven-") || rule.starts_with("forced-blank-") => {
            format!(
                "attach refused: one of the two disks is new, and create-md has found something on it that \
             the other one may lack (rule {rule}); if it is not needed: disconnect, attach, invalidate \
             the new one, connect"
            )
        }
        _ => format!(
            "attach refused: in an open session this disk could only be the source, which \
             {ONLY_A_NEW_CONNECTION} (disconnect, attach, connect)"
        ),
    }
}

/// Nothing else is copied, and the volume grows: the new blocks are.
fn new_blocks(situation: &Situation<'_>, lines: &mut Vec<String>) -> Option<Judgement> {
    let Situation { own, peer, attaching_own, attaching_peer } = situation;
    let growth = growth(own.side.info, peer.side.info).filter(|growth| !growth.clean)?;
    let source = grows_from_own((&own.side, *attaching_own), (&peer.side, *attaching_peer));
    lines.push(format!(
        "resize: the bytes from {} to {} are copied from the {}",
        growth.from,
        growth.to,
        if source { "own disk" } else { "peer's disk" }
    ));
    Some(match source {
        true => Judgement::Source { full: false },
        false => Judgement::Target { full: false },
    })
}

/// Whether a refusal leaves no doubt that the peer went on alone.
pub(crate) fn peer_went_on(reason: Reason) -> bool {
    matches!(reason, Reason::SplitBrain | Reason::ResyncRefused | Reason::UnrelatedData)
}

//! From a verdict to what a node does: after-sb policies, discard-my-data, rr-conflict.
//!
//! Invariants: both nodes come to mirror images; nothing is overwritten until a policy or a person
//! has chosen the victim (promise 5).
use super::*;
use crate::wire::{Refused, VolumeInfo};

/// What this node does with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    NoSync,
    Source {
        full: bool,
    },
    Target {
        full: bool,
    },
    Refuse(Refused),
    Retry(String),
    /// The disk that is being attached is refused, here or there; the session goes on without it.
    RefuseDisk {
        own: bool,
    },
}

/// Both handshakes of a volume.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) own: &'a VolumeInfo,
    pub(crate) own_role: Role,
    pub(crate) own_tie: u64,
    pub(crate) own_discard: bool,
    pub(crate) own_node: NodeId,
    pub(crate) peer: &'a VolumeInfo,
    pub(crate) peer_role: Role,
    pub(crate) peer_tie: u64,
    pub(crate) peer_discard: bool,
    pub(crate) peer_node: NodeId,
    pub(crate) attaching_own: bool,
    pub(crate) attaching_peer: bool,
}

/// The verdict, and its words for the log.
pub(crate) fn judge(s: &Situation<'_>, _o: &Options) -> (Resolution, String) {
    let (a, b) = (s.own, s.peer);
    let tie = s.own_tie > s.peer_tie;
    let refuse = |reason: Reason, rule: &str, text: &str| {
        (
            Resolution::Refuse(crate::resource::handshake::refusal(reason, rule, text.to_owned())),
            rule.to_owned(),
        )
    };
    let src = |full| Resolution::Source { full };
    let tgt = |full| Resolution::Target { full };
    let d = |info: &VolumeInfo| info.disk < DiskState::Inconsistent;
    if d(a) || d(b) {
        return (Resolution::NoSync, "diskless".into());
    }
    let jc = |info: &VolumeInfo| info.current_uuid == crate::meta::JUST_CREATED;
    let surv = |info: &VolumeInfo| info.flags & crate::meta::DeviceFlags::SURVIVED != 0;
    let inc = |info: &VolumeInfo| info.disk == DiskState::Inconsistent;
    let out = |info: &VolumeInfo| info.disk == DiskState::Outdated;
    if s.attaching_own != s.attaching_peer {
        let (x, y) = if s.attaching_own { (a, b) } else { (b, a) };
        let ina = y.history.iter().any(|h| h & !1 == x.current_uuid & !1);
        let full = if x.current_uuid & !1 == y.current_uuid & !1
            || x.current_uuid & !1 == y.bitmap_uuid & !1
        {
            false
        } else if jc(x) || ina {
            true
        } else {
            return refuse(
                Reason::ResyncRefused,
                "attach-source",
                "the attached disk would be the source",
            );
        };
        let v = if s.attaching_own { tgt(full) } else { src(full) };
        return (v, "attach".to_owned());
    }
    let any = a.bits + b.bits > 0;
    let same = |x: u64, y: u64| x & !1 == y & !1 && x & !1 != 0;
    let (v, rule) = if jc(a) && jc(b) {
        (Resolution::NoSync, "just-created-both")
    } else if jc(a) {
        (tgt(true), "just-created-self")
    } else if jc(b) {
        (src(true), "just-created-peer")
    } else if same(a.current_uuid, b.current_uuid) {
        if inc(a) && inc(b) {
            return refuse(
                Reason::ResyncRefused,
                "both-inconsistent",
                "both disks are Inconsistent",
            );
        }
        if inc(a) {
            (tgt(false), "inconsistent")
        } else if inc(b) {
            (src(false), "inconsistent")
        } else if out(a) && out(b) {
            return refuse(Reason::ResyncRefused, "both-outdated", "both Outdated");
        } else if out(a) {
            (tgt(false), "outdated")
        } else if out(b) {
            (src(false), "outdated")
        } else if !any {
            (Resolution::NoSync, "no-bits")
        } else if surv(a) != surv(b) {
            (if surv(a) { src(false) } else { tgt(false) }, "survived")
        } else if s.own_role == Role::Primary && s.peer_role == Role::Primary {
            return refuse(Reason::SplitBrain, "two-primaries", "");
        } else if s.own_role == Role::Primary {
            (src(false), "primary")
        } else if s.peer_role == Role::Primary {
            (tgt(false), "primary")
        } else if !surv(a) && a.crashed_primary != b.crashed_primary {
            (if a.crashed_primary { src(false) } else { tgt(false) }, "crashed-primary")
        } else if (a.bits > 0) != (b.bits > 0) {
            (if a.bits > 0 { src(false) } else { tgt(false) }, "bits")
        } else {
            (if tie { src(false) } else { tgt(false) }, "tie")
        }
    } else {
        let ina = |x: u64, i: &VolumeInfo| i.history.iter().any(|h| same(*h, x));
        let sb = |union: bool| {
            if s.own_discard != s.peer_discard {
                Some(if s.own_discard { tgt(!union) } else { src(!union) })
            } else {
                None
            }
        };
        if same(a.current_uuid, b.bitmap_uuid) && same(b.current_uuid, a.bitmap_uuid) {
            return refuse(Reason::SplitBrain, "crossed", "");
        }
        if same(a.current_uuid, b.bitmap_uuid) {
            (tgt(false), "bitmap-peer")
        } else if same(b.current_uuid, a.bitmap_uuid) {
            (src(false), "bitmap-self")
        } else if same(a.bitmap_uuid, b.bitmap_uuid) {
            match sb(true) {
                Some(v) => (v, "bitmap-both"),
                None => return refuse(Reason::SplitBrain, "bitmap-both", ""),
            }
        } else if ina(b.current_uuid, a) && !ina(a.current_uuid, b) {
            (src(true), "history-self")
        } else if ina(a.current_uuid, b) && !ina(b.current_uuid, a) {
            (tgt(true), "history-peer")
        } else if a
            .history
            .iter()
            .chain([&a.bitmap_uuid])
            .any(|h| ina(*h, b) || same(*h, b.bitmap_uuid))
        {
            match sb(false) {
                Some(v) => (v, "history-both"),
                None => return refuse(Reason::SplitBrain, "history-both", ""),
            }
        } else {
            return refuse(Reason::UnrelatedData, "unrelated-data", "");
        }
    };
    match &v {
        Resolution::Source { .. }
            if (inc(a) && !jc(a)) || out(a) || s.peer_role == Role::Primary && !jc(b) =>
        {
            return refuse(Reason::ResyncRefused, "primary-target", "");
        }
        Resolution::Target { .. }
            if (inc(b) && !jc(b)) || out(b) || s.own_role == Role::Primary && !jc(a) =>
        {
            return refuse(Reason::ResyncRefused, "primary-target", "");
        }
        Resolution::NoSync if s.own_role == Role::Primary && s.peer_role == Role::Primary => {
            return refuse(Reason::SplitBrain, "two-primaries", "");
        }
        _ => {}
    }
    (v, rule.to_owned())
}

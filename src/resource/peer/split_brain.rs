//! From a verdict to what is done: the after-sb policies, `--discard-my-data`, `rr-conflict`, and
//! the last checks that nothing unusable is a source and no Primary is overwritten.
//!
//! Invariants, tested over all small states:
//! - [`resolve`] gives mirror images on both nodes, provided that the options which it reads
//!   (after-sb-0pri, -1pri, -2pri, always-asbp, rr-conflict) are equal on both: the handshake makes
//!   sure of it.
//! - No source is Inconsistent or Outdated, and no Primary is a target, but by `violently`.
//! - Unrelated data, a rolled back disk and every other refusal is resolved by no option.

use crate::resource::ids::NodeId;
use crate::resource::options::{AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, Options, RrConflict};
use crate::resource::peer::generation::{
    Rule, Side, Strategy, Verdict, restrict_for_open_session, was_primary,
};
use crate::resource::state::{DiskState, Reason};
use crate::wire::Refused;

/// One side, as the policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// What was compared.
    pub side: Side<'a>,
    /// Its node id, for discard-node.
    pub node_id: NodeId,
    /// `connect --discard-my-data` waits there.
    pub discard_my_data: bool,
    /// The set bits of all its volumes: they have one victim.
    pub changes: u64,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The session opens at once.
    NoSync,
    /// The session opens; a side has no disk.
    Diskless,
    /// This node is the source.
    Source {
        /// Of a full sync, else of the set bits of both sides.
        full: bool,
    },
    /// This node is the target.
    Target {
        /// Of a full sync, else of the set bits of both sides.
        full: bool,
    },
    /// Both nodes end StandAlone; a person must act.
    Refuse {
        /// The class.
        reason: Reason,
    },
    /// Drop the connection and try again (rr-conflict retry-connect).
    Retry,
}

impl Outcome {
    /// The outcome on the other node.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::Source { full } => Self::Target { full },
            Self::Target { full } => Self::Source { full },
            same => same,
        }
    }

    fn target(own: bool, full: bool) -> Self {
        if own { Self::Target { full } } else { Self::Source { full } }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NoSync => "no-sync",
            Self::Diskless => "diskless",
            Self::Source { full: false } => "source-use-bitmap",
            Self::Source { full: true } => "source-set-bitmap",
            Self::Target { full: false } => "target-use-bitmap",
            Self::Target { full: true } => "target-set-bitmap",
            Self::Refuse { reason } => reason.name(),
            Self::Retry => "retry-connect",
        })
    }
}

/// What made the outcome of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Because {
    /// The verdict as it is.
    Verdict,
    /// A split brain: one side has --discard-my-data.
    DiscardMyData,
    /// A split brain: one side was invalidated.
    Invalidated,
    /// A split brain, solved by after-sb-0pri.
    AfterSb0Pri,
    /// A split brain, solved by after-sb-1pri.
    AfterSb1Pri,
    /// A split brain, solved by after-sb-2pri.
    AfterSb2Pri,
    /// A split brain that no policy solves.
    Unresolved,
    /// An invalidation is void: the other disk is no better.
    TakenBack,
    /// The source would be Inconsistent or Outdated.
    SourceNotUsable,
    /// The target is Primary.
    TargetIsPrimary,
    /// Nothing to sync, and both are Primary.
    TwoPrimaries,
    /// rr-conflict violently lets a Primary be the target.
    Violently,
}

impl Because {
    /// A `net` option has decided, on which both nodes must agree.
    #[must_use]
    pub fn is_an_option(self) -> bool {
        matches!(self, Self::AfterSb0Pri | Self::AfterSb1Pri | Self::AfterSb2Pri | Self::Violently)
    }
}

impl Because {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::Verdict,
        Self::DiscardMyData,
        Self::Invalidated,
        Self::AfterSb0Pri,
        Self::AfterSb1Pri,
        Self::AfterSb2Pri,
        Self::Unresolved,
        Self::TakenBack,
        Self::SourceNotUsable,
        Self::TargetIsPrimary,
        Self::TwoPrimaries,
        Self::Violently,
    ];

    /// A sentence for logs, `why` and the refusal; empty for [`Because::Verdict`].
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Verdict => "",
            Self::DiscardMyData => {
                "Split-Brain detected, manually solved: the node with --discard-my-data is the \
                 target."
            }
            Self::Invalidated => {
                "Split-Brain detected, manually solved: the invalidated disk is the target."
            }
            Self::AfterSb0Pri => {
                "Split-Brain detected, 0 primaries, automatically solved by after-sb-0pri."
            }
            Self::AfterSb1Pri => {
                "Split-Brain detected, 1 primary, automatically solved by after-sb-1pri."
            }
            Self::AfterSb2Pri => {
                "Split-Brain detected, 2 primaries, automatically solved by after-sb-2pri."
            }
            Self::Unresolved => {
                "No policy chooses the victim. A person does: connect --discard-my-data there, \
                 connect on the other node."
            }
            Self::TakenBack => {
                "A disk that was invalidated is taken back: the other one is Inconsistent as well, and \
                 nothing has been copied over this one yet."
            }
            Self::SourceNotUsable => {
                "The disk that would be the source is Inconsistent or Outdated. On the disk to \
                 keep: primary --force=inconsistent or --force=outdated; then create-md on the other."
            }
            Self::TargetIsPrimary => {
                "A Primary would have to be overwritten under its clients (rr-conflict). Stop its \
                 users, demote it, then connect."
            }
            Self::TwoPrimaries => {
                "Both nodes are Primary. Demote one of them before both write, then connect."
            }
            Self::Violently => "A Primary is the target of the resync (rr-conflict violently).",
        }
    }
}

/// What is done about a verdict, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resolution {
    /// What the identifiers said.
    pub verdict: Verdict,
    /// What is done.
    pub outcome: Outcome,
    /// What lies between the two.
    pub because: Because,
}

impl Resolution {
    /// The resolution of the other node, which is the mirror image.
    #[must_use]
    pub fn mirrored(self) -> Self {
        Self {
            verdict: self.verdict.mirrored(),
            outcome: self.outcome.mirrored(),
            because: self.because,
        }
    }

    /// What the peer is told, if the connection is refused.
    #[must_use]
    pub fn refused(self) -> Option<Refused> {
        let Outcome::Refuse { reason } = self.outcome else { return None };
        let rule = self.verdict.rule.name().to_owned();
        let text = match self.because {
            Because::Verdict => self.verdict.rule.explain(),
            other => other.explain(),
        };
        Some(Refused { reason, rule, text: text.to_owned() })
    }
}

impl std::fmt::Display for Resolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.verdict)?;
        if self.because != Because::Verdict {
            write!(f, " -> {}: {}", self.outcome, self.because.explain())?;
        }
        Ok(())
    }
}

/// What is done about the verdict of a handshake.
#[must_use]
pub fn resolve(
    verdict: Verdict,
    options: &Options,
    own: &Party<'_>,
    peer: &Party<'_>,
) -> Resolution {
    let (outcome, because) = match verdict.strategy {
        Strategy::SplitBrain { auto, full } => split_brain(auto, full, options, own, peer),
        strategy => (plain(strategy), Because::Verdict),
    };
    let resolution = Resolution { verdict, outcome, because };
    two_primaries(primary_target(resolution, options, own, peer), own, peer)
}

/// What is done about a disk that is attached while the session is open: the restricted verdict
/// ([`restrict_for_open_session`]), and never an unusable source. That the target is Primary is no
/// hindrance: its clients are served from the other disk already.
#[must_use]
pub fn resolve_attach(
    verdict: Verdict,
    own: &Side<'_>,
    peer: &Side<'_>,
    attaching_own: bool,
) -> Resolution {
    let verdict = restrict_for_open_session(verdict, attaching_own);
    let outcome = plain(verdict.strategy);
    usable_source(Resolution { verdict, outcome, because: Because::Verdict }, own, peer)
}

/// A strategy that needs no choice any more. A split brain is nobody's to choose here.
fn plain(strategy: Strategy) -> Outcome {
    match strategy {
        Strategy::NoSync => Outcome::NoSync,
        Strategy::Diskless => Outcome::Diskless,
        Strategy::SourceUseBitmap => Outcome::Source { full: false },
        Strategy::SourceSetBitmap => Outcome::Source { full: true },
        Strategy::TargetUseBitmap => Outcome::Target { full: false },
        Strategy::TargetSetBitmap => Outcome::Target { full: true },
        Strategy::SplitBrain { .. } => Outcome::Refuse { reason: Reason::SplitBrain },
        Strategy::Refuse { reason } => Outcome::Refuse { reason },
    }
}

/// Who is the victim. A person's word goes before the policies: --discard-my-data (or an
/// invalidation) on exactly one side. Then the policy for the number of Primaries, for a split
/// brain without equal bitmap UUIDs only with always-asbp.
fn split_brain(
    auto: bool,
    full: bool,
    options: &Options,
    own: &Party<'_>,
    peer: &Party<'_>,
) -> (Outcome, Because) {
    if own.discard_my_data != peer.discard_my_data {
        return (Outcome::target(own.discard_my_data, full), Because::DiscardMyData);
    }
    let given_up = |party: &Party<'_>| party.side.invalidated();
    if given_up(own) != given_up(peer) {
        return (Outcome::target(given_up(own), full), Because::Invalidated);
    }
    let unresolved = (Outcome::Refuse { reason: Reason::SplitBrain }, Because::Unresolved);
    if !auto && !options.always_asbp {
        return unresolved;
    }
    let (victim, because) = match (own.side.primary(), peer.side.primary()) {
        (false, false) => (after_sb_0pri(options, own, peer), Because::AfterSb0Pri),
        (true, true) => (after_sb_2pri(options, own, peer), Because::AfterSb2Pri),
        _ => (after_sb_1pri(options, own, peer), Because::AfterSb1Pri),
    };
    match victim {
        Some(own_loses) => (Outcome::target(own_loses, full), because),
        None => unresolved,
    }
}

/// Whether this node is the victim, `None`: undecided.
fn after_sb_0pri(options: &Options, own: &Party<'_>, peer: &Party<'_>) -> Option<bool> {
    // Who was Primary when the common generation ended became Primary first.
    let was = |party: &Party<'_>| was_primary(party.side.info.bitmap_uuid);
    let own_younger = (was(own) != was(peer)).then(|| !was(own));
    match options.after_sb_0pri {
        AfterSb0Pri::Disconnect => None,
        AfterSb0Pri::DiscardYoungerPrimary => {
            own_younger.or_else(|| Some(least_changes(own, peer)))
        }
        AfterSb0Pri::DiscardOlderPrimary => {
            own_younger.map(|own| !own).or_else(|| Some(least_changes(own, peer)))
        }
        AfterSb0Pri::DiscardZeroChanges => zero_changes(own, peer),
        AfterSb0Pri::DiscardLeastChanges => Some(least_changes(own, peer)),
        AfterSb0Pri::DiscardNode(node) if node == own.node_id => Some(true),
        AfterSb0Pri::DiscardNode(node) if node == peer.node_id => Some(false),
        AfterSb0Pri::DiscardNode(_) => None,
    }
}

/// The side without a change loses nothing; neither has one: the holder of the tie bit.
fn zero_changes(own: &Party<'_>, peer: &Party<'_>) -> Option<bool> {
    match (own.changes, peer.changes) {
        (0, 0) => Some(own.side.holds_tie(&peer.side)),
        (0, _) => Some(true),
        (_, 0) => Some(false),
        _ => None,
    }
}

/// The side with fewer set bits loses; as many: the holder of the tie bit.
fn least_changes(own: &Party<'_>, peer: &Party<'_>) -> bool {
    match own.changes.cmp(&peer.changes) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => own.side.holds_tie(&peer.side),
    }
}

fn after_sb_1pri(options: &Options, own: &Party<'_>, peer: &Party<'_>) -> Option<bool> {
    let secondary_is_own = !own.side.primary();
    match options.after_sb_1pri {
        AfterSb1Pri::Disconnect => None,
        // No Primary is demoted in a handshake: its handler is called ([`primary_has_lost`]).
        AfterSb1Pri::Consensus | AfterSb1Pri::CallPriLostAfterSb => {
            after_sb_0pri(options, own, peer).filter(|own_loses| *own_loses == secondary_is_own)
        }
        AfterSb1Pri::ViolentlyAs0p => after_sb_0pri(options, own, peer),
        AfterSb1Pri::DiscardSecondary => Some(secondary_is_own),
    }
}

fn after_sb_2pri(options: &Options, own: &Party<'_>, peer: &Party<'_>) -> Option<bool> {
    match options.after_sb_2pri {
        AfterSb2Pri::Disconnect | AfterSb2Pri::CallPriLostAfterSb => None,
        AfterSb2Pri::ViolentlyAs0p => after_sb_0pri(options, own, peer),
    }
}

/// Whether this node is Primary, and would be the victim of a split brain by a policy that calls the
/// handler pri-lost-after-sb then.
#[must_use]
pub fn primary_has_lost(
    verdict: Verdict,
    options: &Options,
    own: &Party<'_>,
    peer: &Party<'_>,
) -> bool {
    let Strategy::SplitBrain { auto, .. } = verdict.strategy else { return false };
    let calls = match peer.side.primary() {
        false => options.after_sb_1pri == AfterSb1Pri::CallPriLostAfterSb,
        true => options.after_sb_2pri == AfterSb2Pri::CallPriLostAfterSb,
    };
    calls
        && own.side.primary()
        && (auto || options.always_asbp)
        && after_sb_0pri(options, own, peer) == Some(true)
}

/// D9, a direction: the source is usable, and the target is not Primary unless rr-conflict says so.
fn primary_target(
    resolution: Resolution,
    options: &Options,
    own: &Party<'_>,
    peer: &Party<'_>,
) -> Resolution {
    let checked = usable_source(resolution, &own.side, &peer.side);
    let target = match checked.outcome {
        Outcome::Target { .. } => own,
        Outcome::Source { .. } => peer,
        _ => return checked,
    };
    let source = if std::ptr::eq(target, own) { peer } else { own };
    if !target.side.primary() || goes_on_under_clients(&checked, &target.side, &source.side) {
        return checked;
    }
    let refused = Resolution {
        outcome: Outcome::Refuse { reason: Reason::ResyncRefused },
        because: Because::TargetIsPrimary,
        ..checked
    };
    match options.rr_conflict {
        // What a crashed Primary wrote last is discarded for the Primary of now by the verdict itself
        // (`primary-self`, `primary-peer`): there is nothing left for auto-discard.
        RrConflict::Disconnect | RrConflict::CallPriLost | RrConflict::AutoDiscard => refused,
        RrConflict::RetryConnect => Resolution { outcome: Outcome::Retry, ..refused },
        RrConflict::Violently => Resolution { because: Because::Violently, ..checked },
    }
}

/// A Primary that was brought up to date under its clients, and lost the connection on the way: they
/// have seen nothing but the source's data, and could not go on without it. A source that has not survived
/// has started anew, and may have lost what was written and not flushed: then the clients have to know.
fn goes_on_under_clients(resolution: &Resolution, target: &Side<'_>, source: &Side<'_>) -> bool {
    matches!(resolution.verdict.rule, Rule::Inconsistent(_))
        && target.disk() == DiskState::Inconsistent
        && (source.disk() == DiskState::UpToDate
            || source.disk() == DiskState::Consistent && source.survived())
        && !source.primary()
}

fn usable_source(resolution: Resolution, own: &Side<'_>, peer: &Side<'_>) -> Resolution {
    let usable = match resolution.outcome {
        Outcome::Source { .. } => own.usable(),
        Outcome::Target { .. } => peer.usable(),
        _ => true,
    };
    if usable {
        return resolution;
    }
    Resolution {
        outcome: Outcome::Refuse { reason: Reason::ResyncRefused },
        because: Because::SourceNotUsable,
        ..resolution
    }
}

/// D9, no direction: two Primaries are never "no sync".
fn two_primaries(resolution: Resolution, own: &Party<'_>, peer: &Party<'_>) -> Resolution {
    let open = matches!(resolution.outcome, Outcome::NoSync | Outcome::Diskless);
    if open && own.side.primary() && peer.side.primary() {
        return Resolution {
            outcome: Outcome::Refuse { reason: Reason::ResyncRefused },
            because: Because::TwoPrimaries,
            ..resolution
        };
    }
    resolution
}

//! Generation identifiers, and the decision of the handshake: whose data is newer.
//!
//! [`decide`] is one pure function of what both sides said. docs/GENERATIONS.md has the table, with
//! the reason of each rule. Invariants, tested over all small states:
//! - `decide(a, b)` and `decide(b, a)` are mirror images ([`Verdict::mirrored`]).
//! - "No sync" only if no block may differ but those that an online verify has marked (or if both
//!   disks are fresh).
//! - Nothing is overwritten where both sides may hold what the other lacks: that is a split brain,
//!   and [`crate::resource::peer::split_brain`] asks policies and people.
//! - The lowest bit of a UUID is never compared ([`same`]).

mod rule;
mod size;
#[cfg(test)]
mod tests;
mod uuid;

pub use rule::{Rule, Who};
pub use size::{Growth, agree_block, agree_size, grows_from_own, growth};
pub use uuid::{fresh, is_empty, is_just_created, is_real, marked, same, was_primary};

use crate::meta::{BLANK, DeviceFlags};
use crate::resource::state::{DiskState, Reason, Role};
use crate::wire::{Refused, VolumeInfo};

/// What a verdict asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The disks are equal (or both fresh): the session opens at once. What a verify has marked stays
    /// marked.
    NoSync,
    /// A side has no disk: the session opens without anything to decide.
    Diskless,
    /// This node is the source for the blocks whose bits are set on either side.
    SourceUseBitmap,
    /// This node is the target for the blocks whose bits are set on either side.
    TargetUseBitmap,
    /// This node is the source of a full sync.
    SourceSetBitmap,
    /// This node is the target of a full sync.
    TargetSetBitmap,
    /// Both went on alone.
    SplitBrain {
        /// The after-sb policies are asked; otherwise only with always-asbp.
        auto: bool,
        /// The bits do not cover what differs: the victim is synced in full.
        full: bool,
    },
    /// No sync in any direction, until a person has acted.
    Refuse {
        /// The class of the refusal.
        reason: Reason,
    },
}

impl Strategy {
    /// DRBD's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSync => "no-sync",
            Self::Diskless => "diskless",
            Self::SourceUseBitmap => "source-use-bitmap",
            Self::TargetUseBitmap => "target-use-bitmap",
            Self::SourceSetBitmap => "source-set-bitmap",
            Self::TargetSetBitmap => "target-set-bitmap",
            Self::SplitBrain { auto: true, .. } => "split-brain-auto-recover",
            Self::SplitBrain { auto: false, .. } => "split-brain-disconnect",
            Self::Refuse { reason: Reason::UnrelatedData } => "unrelated-data",
            Self::Refuse { .. } => "refuse",
        }
    }

    /// The strategy as the other node sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::SourceUseBitmap => Self::TargetUseBitmap,
            Self::TargetUseBitmap => Self::SourceUseBitmap,
            Self::SourceSetBitmap => Self::TargetSetBitmap,
            Self::TargetSetBitmap => Self::SourceSetBitmap,
            same => same,
        }
    }

    /// The same with everything set instead of bits.
    pub(crate) fn in_full(self) -> Self {
        match self {
            Self::SourceUseBitmap => Self::SourceSetBitmap,
            Self::TargetUseBitmap => Self::TargetSetBitmap,
            Self::SplitBrain { auto, .. } => Self::SplitBrain { auto, full: true },
            same => same,
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What [`decide`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The rule that decided.
    pub rule: Rule,
    /// What follows.
    pub strategy: Strategy,
}

impl Verdict {
    /// The verdict of the other node, which is the mirror image.
    #[must_use]
    pub fn mirrored(self) -> Self {
        Self { rule: self.rule.mirrored(), strategy: self.strategy.mirrored() }
    }

    /// What the peer is told, if the verdict is a refusal.
    #[must_use]
    pub fn refused(self) -> Option<Refused> {
        let Strategy::Refuse { reason } = self.strategy else { return None };
        let rule = self.rule.name().to_owned();
        Some(Refused { reason, rule, text: self.rule.explain().to_owned() })
    }
}

/// As DRBD logs it: `uuid_compare()=source-use-bitmap by rule=bitmap-self`.
impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uuid_compare()={} by rule={}", self.strategy, self.rule)
    }
}

/// One side of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What it said about the volume.
    pub info: &'a VolumeInfo,
    /// Its role.
    pub role: Role,
    /// Its random number of this handshake.
    pub tie: u64,
}

/// Every generation of a disk before its current one, the newest first.
pub(crate) fn past(info: &VolumeInfo) -> impl Iterator<Item = u64> {
    std::iter::once(info.bitmap_uuid).chain(info.history).filter(|uuid| is_real(*uuid))
}

/// The disk has gone on from this generation to another one.
pub(crate) fn went_on_from(info: &VolumeInfo, uuid: u64) -> bool {
    !same(info.current_uuid, uuid) && past(info).any(|old| same(old, uuid))
}

impl Side<'_> {
    /// The state of the disk; one that is being attached to an open session (Negotiating) by what
    /// its metadata says.
    #[must_use]
    pub fn disk(&self) -> DiskState {
        let flag = |flag: u32| self.info.flags & flag != 0;
        match self.info.disk {
            DiskState::Negotiating if !flag(DeviceFlags::CONSISTENT) => DiskState::Inconsistent,
            DiskState::Negotiating if flag(DeviceFlags::OUTDATED) => DiskState::Outdated,
            DiskState::Negotiating => DiskState::Consistent,
            other => other,
        }
    }

    /// Whether there is a disk to compare.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        matches!(
            self.disk(),
            DiskState::Inconsistent
                | DiskState::Outdated
                | DiskState::Consistent
                | DiskState::UpToDate
        )
    }

    /// Whether the disk may be a source: consistent, and not known to be old.
    #[must_use]
    pub fn usable(&self) -> bool {
        matches!(self.disk(), DiskState::Consistent | DiskState::UpToDate)
    }

    /// A person has given this disk up: Inconsistent, every bit set.
    #[must_use]
    pub fn invalidated(&self) -> bool {
        self.disk() == DiskState::Inconsistent && self.info.flags & DeviceFlags::INVALIDATED != 0
    }

    /// Whether the node holds the role that only one may.
    #[must_use]
    pub fn primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// Whether this side holds the tie bit: its random number is the larger one. The identities of
    /// the disks, which differ, decide where the numbers do not.
    #[must_use]
    pub fn holds_tie(&self, other: &Self) -> bool {
        (self.tie, self.info.device_uuid) > (other.tie, other.info.device_uuid)
    }

    /// What both have acknowledged is on the disk, flushed.
    #[must_use]
    pub fn survived(&self) -> bool {
        self.info.flags & DeviceFlags::SURVIVED != 0
    }

    /// A verify has set bits that are still set.
    fn marked(&self) -> bool {
        self.info.bits != 0 && self.info.flags & DeviceFlags::VERIFY_MARKS != 0
    }

    /// Bits that no verify has set: what a loss or a crash has left.
    fn has_losses(&self) -> bool {
        let among = self.info.flags & DeviceFlags::LOSS_BITS != 0;
        self.info.bits != 0 && (among || !self.marked())
    }

    fn just_created(&self) -> bool {
        is_just_created(self.info.current_uuid)
    }

    /// Its content was declared to be the data while it was blank, and no other disk was in sight.
    fn forced_blank(&self) -> bool {
        self.info.flags & DeviceFlags::FORCED_BLANK != 0
    }

    /// create-md has found something on it.
    fn created_over_data(&self) -> bool {
        !matches!(self.info.created_found.as_str(), "" | BLANK)
    }

    /// The other node has seen a higher number of this disk. Unknown numbers prove nothing, nor
    /// does a number that was seen of another disk.
    fn rolled_back(&self, other: &Self) -> bool {
        let seen = other.info.seen_number;
        !self.replaced(other) && self.info.number.zip(seen).is_some_and(|(own, seen)| own < seen)
    }

    /// The other node remembers another disk of this node.
    fn replaced(&self, other: &Self) -> bool {
        let remembered = other.info.peer_device_uuid;
        remembered != 0 && remembered != self.info.device_uuid
    }

    fn in_history(&self, uuid: u64) -> bool {
        is_real(uuid) && self.info.history.iter().any(|old| same(*old, uuid))
    }

    /// Every generation before the current one.
    fn past(&self) -> impl Iterator<Item = u64> {
        past(self.info)
    }

    /// DRBD's line: current, bitmap UUID, two of the history, bits, flags.
    fn line(&self) -> String {
        let info = self.info;
        format!(
            "{:016X}:{:016X}:{:016X}:{:016X} bits:{} flags:{:X}",
            info.current_uuid,
            info.bitmap_uuid,
            info.history[0],
            info.history[1],
            info.bits,
            info.flags
        )
    }
}

/// A disk as it would be had nobody invalidated it: where the other one is Inconsistent as well
/// (invalidated, to be repaired, or in mid-resync), and nothing has been copied over this one yet.
/// Giving a disk up says that the other one is better; with no other one it says nothing.
#[must_use]
pub fn taken_back(own: &VolumeInfo, peer: &VolumeInfo) -> Option<VolumeInfo> {
    let side = |info| Side { info, role: Role::Secondary, tie: 0 };
    // Adopting clears both flags before anything is overwritten.
    let whole = own.flags & DeviceFlags::WAS_UP_TO_DATE != 0 && side(own).invalidated();
    if !whole || side(peer).disk() != DiskState::Inconsistent {
        return None;
    }
    let flags = own.flags & !DeviceFlags::INVALIDATED | DeviceFlags::CONSISTENT;
    let disk = match own.disk {
        DiskState::Negotiating => DiskState::Negotiating,
        _ if flags & DeviceFlags::OUTDATED != 0 => DiskState::Outdated,
        _ if flags & DeviceFlags::SURVIVED != 0 => DiskState::UpToDate,
        _ => DiskState::Consistent,
    };
    Some(VolumeInfo { flags, disk, ..own.clone() })
}

/// The lines that a handshake leaves in the log.
#[must_use]
pub fn log_lines(own: &Side<'_>, peer: &Side<'_>, verdict: Verdict) -> [String; 4] {
    [
        "drbd_sync_handshake:".to_owned(),
        format!("self {}", own.line()),
        format!("peer {}", peer.line()),
        verdict.to_string(),
    ]
}

/// Whose data is newer, and what to do about it: the first rule that fits, in the order of
/// docs/GENERATIONS.md. The roles are those of now, the ties the random numbers of this handshake.
#[must_use]
pub fn decide(
    own: &VolumeInfo,
    own_role: Role,
    own_tie: u64,
    peer: &VolumeInfo,
    peer_role: Role,
    peer_tie: u64,
) -> Verdict {
    let own = Side { info: own, role: own_role, tie: own_tie };
    let peer = Side { info: peer, role: peer_role, tie: peer_tie };
    let verdict = diskless(&own, &peer)
        .or_else(|| cloned(&own, &peer))
        .or_else(|| just_created(&own, &peer))
        .or_else(|| rolled_back(&own, &peer));
    if let Some(verdict) = verdict {
        return verdict;
    }
    let mut verdict = if same(own.info.current_uuid, peer.info.current_uuid) {
        equal_unusable(&own, &peer).unwrap_or_else(|| equal(&own, &peer))
    } else {
        different(&own, &peer)
    };
    if own.replaced(&peer) || peer.replaced(&own) {
        // The bits were kept against another disk.
        verdict.strategy = verdict.strategy.in_full();
    }
    verdict
}

fn verdict(rule: Rule, strategy: Strategy) -> Option<Verdict> {
    Some(Verdict { rule, strategy })
}

fn refuse(rule: Rule, reason: Reason) -> Option<Verdict> {
    verdict(rule, Strategy::Refuse { reason })
}

/// A rule about exactly one side: which one, `None` if it holds for neither or both.
fn only(own: bool, peer: bool) -> Option<Who> {
    match (own, peer) {
        (true, false) => Some(Who::Own),
        (false, true) => Some(Who::Peer),
        _ => None,
    }
}

fn source_with_bits(who: Who) -> Strategy {
    match who {
        Who::Own => Strategy::SourceUseBitmap,
        Who::Peer => Strategy::TargetUseBitmap,
    }
}

fn target_with_bits(who: Who) -> Strategy {
    source_with_bits(who.mirrored())
}

fn target_in_full(who: Who) -> Strategy {
    target_with_bits(who).in_full()
}

/// Nothing to compare. But clients never read into the past, nor go on over what somebody else has written
/// meanwhile: a Primary without a disk takes only a disk of the generation that its clients have seen, or of
/// the one that it has asked for itself and had no answer.
fn diskless(own: &Side<'_>, peer: &Side<'_>) -> Option<Verdict> {
    if own.has_disk() && peer.has_disk() {
        return None;
    }
    let is_other = |server: &Side<'_>, disk: &Side<'_>| {
        let (exposed, asked) = (server.info.current_uuid, server.info.bitmap_uuid);
        let current = disk.info.current_uuid;
        server.primary()
            && !server.has_disk()
            && disk.has_disk()
            && is_real(exposed)
            && !same(current, exposed)
            && !(is_real(asked) && same(current, asked))
    };
    if is_other(own, peer) || is_other(peer, own) {
        return refuse(Rule::ExposedData, Reason::ResyncRefused);
    }
    verdict(Rule::Diskless, Strategy::Diskless)
}

fn cloned(own: &Side<'_>, peer: &Side<'_>) -> Option<Verdict> {
    if own.info.device_uuid == peer.info.device_uuid {
        return refuse(Rule::Clone, Reason::WrongNode);
    }
    None
}

/// Dj of the model.
fn just_created(own: &Side<'_>, peer: &Side<'_>) -> Option<Verdict> {
    if own.just_created() && peer.just_created() {
        return verdict(Rule::JustCreatedBoth, Strategy::NoSync);
    }
    let who = only(own.just_created(), peer.just_created())?;
    let (fresh, other) = if who == Who::Own { (own, peer) } else { (peer, own) };
    if other.forced_blank() && fresh.created_over_data() && !fresh.invalidated() {
        return refuse(Rule::ForcedBlank(who.mirrored()), Reason::ResyncRefused);
    }
    // It could not be promoted without a force either.
    let unproven = other.disk() == DiskState::Consistent && !other.primary();
    if unproven && fresh.created_over_data() && !fresh.invalidated() {
        return refuse(Rule::Unproven(who.mirrored()), Reason::ResyncRefused);
    }
    verdict(Rule::JustCreated(who), target_in_full(who))
}

/// D0.
fn rolled_back(own: &Side<'_>, peer: &Side<'_>) -> Option<Verdict> {
    let (own_is, peer_is) = (own.rolled_back(peer), peer.rolled_back(own));
    if own_is && peer_is {
        return match only(own.invalidated(), peer.invalidated()) {
            Some(who) => verdict(Rule::RolledBackBoth, target_in_full(who)),
            None => refuse(Rule::RolledBackBoth, Reason::RolledBack),
        };
    }
    let who = only(own_is, peer_is)?;
    let back = if who == Who::Own { own } else { peer };
    if back.invalidated() {
        return verdict(Rule::RolledBack(who), target_in_full(who));
    }
    refuse(Rule::RolledBack(who), Reason::RolledBack)
}

/// Equal identifiers: D1 and D2, and a disk that came back in the place of another one.
fn equal_unusable(own: &Side<'_>, peer: &Side<'_>) -> Option<Verdict> {
    let refused = |rule| refuse(rule, Reason::ResyncRefused);
    let inconsistent = |side: &Side<'_>| side.disk() == DiskState::Inconsistent;
    let repaired = |side: &Side<'_>, other| {
        inconsistent(side)
            && side.marked()
            && !side.has_losses()
            && !side.primary()
            && !side.replaced(other)
    };
    if repaired(own, peer) && repaired(peer, own) {
        // Both were to be the target of the other, and neither has become it.
        return verdict(Rule::VerifyMarks, Strategy::NoSync);
    }
    if inconsistent(own) && inconsistent(peer) {
        return refused(Rule::InconsistentBoth);
    }
    // A new disk that had adopted the identifiers when its source crashed is both.
    let came_back = |side: &Side<'_>, other| side.replaced(other) && !inconsistent(side);
    let (own_back, peer_back) = (came_back(own, peer), came_back(peer, own));
    if own_back && peer_back {
        return refuse(Rule::ReplacedBoth, Reason::RolledBack);
    }
    if let Some(who) = only(own_back, peer_back) {
        return refuse(Rule::Replaced(who), Reason::RolledBack);
    }
    if let Some(who) = only(inconsistent(own), inconsistent(peer)) {
        return verdict(Rule::Inconsistent(who), target_with_bits(who));
    }
    let outdated = |side: &Side<'_>| side.disk() == DiskState::Outdated;
    if outdated(own) && outdated(peer) {
        return refused(Rule::OutdatedBoth);
    }
    let who = only(outdated(own), outdated(peer))?;
    if only(own.survived(), peer.survived()) == Some(who) {
        return refused(Rule::OutdatedSurvivor(who));
    }
    verdict(Rule::Outdated(who), target_with_bits(who))
}

/// D3 to D7: equal identifiers, both disks usable.
fn equal(own: &Side<'_>, peer: &Side<'_>) -> Verdict {
    let found = |rule, strategy| Verdict { rule, strategy };
    let (own_bits, peer_bits) = (own.info.bits != 0, peer.info.bits != 0);
    if !own_bits && !peer_bits {
        return found(Rule::BothOff, Strategy::NoSync);
    }
    let losses = (own.has_losses(), peer.has_losses());
    if losses == (false, false) && !own.primary() && !peer.primary() {
        // Nothing was lost, as above; nobody knows which of the blocks is right.
        return found(Rule::VerifyMarks, Strategy::NoSync);
    }
    if let Some(who) = only(own.survived(), peer.survived()) {
        return found(Rule::Survived(who), source_with_bits(who));
    }
    if own.primary() && peer.primary() {
        return found(Rule::BothPrimary, Strategy::SplitBrain { auto: false, full: false });
    }
    if let Some(who) = only(own.primary(), peer.primary()) {
        return found(Rule::PrimaryNow(who), source_with_bits(who));
    }
    // Both have SURVIVED: each was in a session after its crash.
    let both_survived = own.survived() && peer.survived();
    let crashed = only(own.info.crashed_primary, peer.info.crashed_primary);
    if let Some(who) = crashed.filter(|_| !both_survived) {
        return found(Rule::CrashedPrimary, source_with_bits(who));
    }
    if let Some(who) = only(losses.0, losses.1) {
        return found(Rule::EqualBits(who), source_with_bits(who));
    }
    if own.marked() || peer.marked() {
        let strategy = Strategy::Refuse { reason: Reason::ResyncRefused };
        return found(Rule::VerifyMarksTie, strategy);
    }
    let who = if own.holds_tie(peer) { Who::Own } else { Who::Peer };
    found(Rule::EqualBitsTie, source_with_bits(who))
}

/// D8: different identifiers, both real.
fn different(own: &Side<'_>, peer: &Side<'_>) -> Verdict {
    let found = |rule, strategy| Verdict { rule, strategy };
    let (own_current, peer_current) = (own.info.current_uuid, peer.info.current_uuid);
    let (own_bitmap, peer_bitmap) = (own.info.bitmap_uuid, peer.info.bitmap_uuid);
    let own_started = same(own_bitmap, peer_current);
    let peer_started = same(peer_bitmap, own_current);
    if own_started && peer_started {
        let strategy = Strategy::SplitBrain { auto: false, full: true };
        return found(Rule::BitmapCrossed, strategy);
    }
    if let Some(who) = only(own_started, peer_started) {
        return found(Rule::Bitmap(who), source_with_bits(who));
    }
    if same(own_bitmap, peer_bitmap) && is_real(own_bitmap) {
        return found(Rule::BitmapBoth, Strategy::SplitBrain { auto: true, full: false });
    }
    let own_knows = own.in_history(peer_current);
    let peer_knows = peer.in_history(own_current);
    if let Some(who) = only(own_knows, peer_knows) {
        return found(Rule::History(who), source_with_bits(who).in_full());
    }
    let both_know = own_knows && peer_knows;
    if both_know || own.past().any(|uuid| peer.past().any(|other| same(uuid, other))) {
        return found(Rule::HistoryBoth, Strategy::SplitBrain { auto: false, full: true });
    }
    found(Rule::UnrelatedData, Strategy::Refuse { reason: Reason::UnrelatedData })
}

/// The verdict for a disk that is attached while the session is open (R15): it is never the source,
/// for clients already see the other disk. `attaching_own`: it is the disk of this node.
///
/// Bits or a full sync remain as decided; "no sync" becomes a sync of the bits that are set, if
/// any, and so the identifiers of both are one again; a verdict that would make it the source, or
/// asks a person, refuses the attach.
#[must_use]
pub fn restrict_for_open_session(verdict: Verdict, attaching_own: bool) -> Verdict {
    let seen = if attaching_own { verdict } else { verdict.mirrored() };
    let strategy = match seen.strategy {
        Strategy::NoSync if seen.rule != Rule::JustCreatedBoth => Strategy::TargetUseBitmap,
        Strategy::SourceUseBitmap | Strategy::SourceSetBitmap => {
            Strategy::Refuse { reason: Reason::ResyncRefused }
        }
        Strategy::SplitBrain { .. } => Strategy::Refuse { reason: Reason::SplitBrain },
        other => other,
    };
    let restricted = Verdict { rule: seen.rule, strategy };
    if attaching_own { restricted } else { restricted.mirrored() }
}

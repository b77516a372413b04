//! The rules of the decision, by the names that logs and `why` print. Where a rule is DRBD 9's it has
//! DRBD's name.

/// Which side a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// This node.
    Own,
    /// The peer.
    Peer,
}

impl Who {
    /// The other one.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::Own => Self::Peer,
            Self::Peer => Self::Own,
        }
    }
}

/// The rule that decided. docs/GENERATIONS.md is the table, with what is lost without each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A side has no disk: nothing is decided.
    Diskless,
    /// A Primary without a disk meets a disk that does not know the data its clients have seen.
    ExposedData,
    /// Both disks carry one identity.
    Clone,
    /// Both disks are fresh.
    JustCreatedBoth,
    /// This disk alone is fresh.
    JustCreated(Who),
    /// Both disks are older than what the other node has seen of them.
    RolledBackBoth,
    /// This disk is older than what the other node has seen of it.
    RolledBack(Who),
    /// Equal identifiers, but each disk is another one than the other node remembers.
    ReplacedBoth,
    /// Equal identifiers, but this disk is another one than the other node remembers.
    Replaced(Who),
    /// Equal identifiers, both Inconsistent.
    InconsistentBoth,
    /// Equal identifiers, this one is Inconsistent.
    Inconsistent(Who),
    /// Equal identifiers, both Outdated.
    OutdatedBoth,
    /// Equal identifiers, this one is Outdated.
    Outdated(Who),
    /// Equal identifiers, this one is Outdated, and yet the only one that has SURVIVED.
    OutdatedSurvivor(Who),
    /// Equal identifiers, no bits.
    BothOff,
    /// Equal identifiers, bits, only this one has SURVIVED.
    Survived(Who),
    /// Equal identifiers, bits, both are Primary.
    BothPrimary,
    /// Equal identifiers, bits, this one is Primary now.
    PrimaryNow(Who),
    /// Equal identifiers, bits, exactly one was Primary and crashed.
    CrashedPrimary,
    /// Equal identifiers, only this one has bits.
    EqualBits(Who),
    /// Equal identifiers, both have bits, and nothing but the tie bit tells them apart.
    EqualBitsTie,
    /// Each current UUID is the other's bitmap UUID.
    BitmapCrossed,
    /// The bitmap UUID of this one is the other's current UUID.
    Bitmap(Who),
    /// Equal bitmap UUIDs, different current ones.
    BitmapBoth,
    /// The history of this one holds the other's current UUID.
    History(Who),
    /// Some older generation in common.
    HistoryBoth,
    /// No generation in common.
    UnrelatedData,
}

impl Rule {
    /// Every rule.
    pub const ALL: &'static [Self] = &[
        Self::Diskless,
        Self::ExposedData,
        Self::Clone,
        Self::JustCreatedBoth,
        Self::JustCreated(Who::Own),
        Self::JustCreated(Who::Peer),
        Self::RolledBackBoth,
        Self::RolledBack(Who::Own),
        Self::RolledBack(Who::Peer),
        Self::ReplacedBoth,
        Self::Replaced(Who::Own),
        Self::Replaced(Who::Peer),
        Self::InconsistentBoth,
        Self::Inconsistent(Who::Own),
        Self::Inconsistent(Who::Peer),
        Self::OutdatedBoth,
        Self::Outdated(Who::Own),
        Self::Outdated(Who::Peer),
        Self::OutdatedSurvivor(Who::Own),
        Self::OutdatedSurvivor(Who::Peer),
        Self::BothOff,
        Self::Survived(Who::Own),
        Self::Survived(Who::Peer),
        Self::BothPrimary,
        Self::PrimaryNow(Who::Own),
        Self::PrimaryNow(Who::Peer),
        Self::CrashedPrimary,
        Self::EqualBits(Who::Own),
        Self::EqualBits(Who::Peer),
        Self::EqualBitsTie,
        Self::BitmapCrossed,
        Self::Bitmap(Who::Own),
        Self::Bitmap(Who::Peer),
        Self::BitmapBoth,
        Self::History(Who::Own),
        Self::History(Who::Peer),
        Self::HistoryBoth,
        Self::UnrelatedData,
    ];

    /// The name that logs print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Diskless => "diskless",
            Self::ExposedData => "exposed-data",
            Self::Clone => "clone",
            Self::JustCreatedBoth => "just-created-both",
            Self::JustCreated(Who::Own) => "just-created-self",
            Self::JustCreated(Who::Peer) => "just-created-peer",
            Self::RolledBackBoth => "rolled-back-both",
            Self::RolledBack(Who::Own) => "rolled-back-self",
            Self::RolledBack(Who::Peer) => "rolled-back-peer",
            Self::ReplacedBoth => "replaced-both",
            Self::Replaced(Who::Own) => "replaced-self",
            Self::Replaced(Who::Peer) => "replaced-peer",
            Self::InconsistentBoth => "inconsistent-both",
            Self::Inconsistent(Who::Own) => "inconsistent-self",
            Self::Inconsistent(Who::Peer) => "inconsistent-peer",
            Self::OutdatedBoth => "outdated-both",
            Self::Outdated(Who::Own) => "outdated-self",
            Self::Outdated(Who::Peer) => "outdated-peer",
            Self::OutdatedSurvivor(Who::Own) => "outdated-survivor-self",
            Self::OutdatedSurvivor(Who::Peer) => "outdated-survivor-peer",
            Self::BothOff => "both-off",
            Self::Survived(Who::Own) => "survived-self",
            Self::Survived(Who::Peer) => "survived-peer",
            Self::BothPrimary => "both-primary",
            Self::PrimaryNow(Who::Own) => "primary-self",
            Self::PrimaryNow(Who::Peer) => "primary-peer",
            Self::CrashedPrimary => "crashed-primary",
            Self::EqualBits(Who::Own) => "equal-bits-self",
            Self::EqualBits(Who::Peer) => "equal-bits-peer",
            Self::EqualBitsTie => "equal-bits-tie",
            Self::BitmapCrossed => "bitmap-crossed",
            Self::Bitmap(Who::Own) => "bitmap-self",
            Self::Bitmap(Who::Peer) => "bitmap-peer",
            Self::BitmapBoth => "bitmap-both",
            Self::History(Who::Own) => "history-self",
            Self::History(Who::Peer) => "history-peer",
            Self::HistoryBoth => "history-both",
            Self::UnrelatedData => "unrelated-data",
        }
    }

    /// The rule as the other node sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::JustCreated(who) => Self::JustCreated(who.mirrored()),
            Self::RolledBack(who) => Self::RolledBack(who.mirrored()),
            Self::Replaced(who) => Self::Replaced(who.mirrored()),
            Self::Inconsistent(who) => Self::Inconsistent(who.mirrored()),
            Self::Outdated(who) => Self::Outdated(who.mirrored()),
            Self::OutdatedSurvivor(who) => Self::OutdatedSurvivor(who.mirrored()),
            Self::Survived(who) => Self::Survived(who.mirrored()),
            Self::PrimaryNow(who) => Self::PrimaryNow(who.mirrored()),
            Self::EqualBits(who) => Self::EqualBits(who.mirrored()),
            Self::Bitmap(who) => Self::Bitmap(who.mirrored()),
            Self::History(who) => Self::History(who.mirrored()),
            same => same,
        }
    }

    /// One paragraph for people: what was found, and what follows from it. "Self" is the node that
    /// says it.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Diskless => {
                "At least one side has no disk, so there is nothing to compare. Reads and writes \
                 go to the disk that is there."
            }
            Self::ExposedData => {
                "The node that serves clients without a disk of its own has shown them data of a \
                 generation that the other node's disk does not know: that disk is older or holds \
                 something else. Its clients would read into the past, so the connection is \
                 refused. Connect the disk that served last, or stop the clients, demote, and \
                 connect again."
            }
            Self::Clone => {
                "Both disks carry the same identity, so one is a copy of the other (dd, a cloned \
                 volume, a restored image) with its metadata. Which of them is the real one cannot \
                 be told. Run create-md on the copy."
            }
            Self::JustCreatedBoth => {
                "Both disks are fresh and neither holds data yet. Nothing is synced; both stay \
                 Inconsistent until one is made the source by a forced promotion, or both are \
                 declared equal (new-current-uuid --clear-bitmap)."
            }
            Self::JustCreated(Who::Own) => {
                "Self has fresh metadata, the peer has data: self becomes the target of a full \
                 sync."
            }
            Self::JustCreated(Who::Peer) => {
                "The peer has fresh metadata, self has data: the peer becomes the target of a full \
                 sync."
            }
            Self::RolledBackBoth => {
                "Each disk carries a lower number than the other node has seen of it before: both \
                 were set back to an older image, and neither can be trusted to be the newer. \
                 Choose one: invalidate or create-md on the other."
            }
            Self::RolledBack(Who::Own) => {
                "The disk of self carries a lower number than the peer has seen of it before: it \
                 was set back to an older image, a snapshot or a copy, behind Tandem. Its \
                 identifiers and bits speak of the past and must not be believed. Unless it has \
                 been invalidated since (then it is the target of a full sync), the connection is \
                 refused: invalidate self, or create-md on it."
            }
            Self::RolledBack(Who::Peer) => {
                "The disk of the peer carries a lower number than self has seen of it before: it \
                 was set back to an older image, a snapshot or a copy, behind Tandem. Its \
                 identifiers and bits speak of the past and must not be believed. Unless it has \
                 been invalidated since (then it is the target of a full sync), the connection is \
                 refused: invalidate the peer's disk on the peer, or create-md there."
            }
            Self::ReplacedBoth => {
                "Both disks carry the same generation, but neither is the one that the other node \
                 was connected with: older disks have come back, or the metadata was copied. What \
                 was written since is in no bitmap. Refused: run create-md on one of them."
            }
            Self::Replaced(Who::Own) => {
                "Both disks carry the same generation, but the disk of self is not the one that \
                 the peer was connected with: an older disk of self has come back. What was \
                 written since to the other one is in no bitmap. Refused: run create-md on self, \
                 or bring the right disk back."
            }
            Self::Replaced(Who::Peer) => {
                "Both disks carry the same generation, but the disk of the peer is not the one \
                 that self was connected with: an older disk of the peer has come back. What was \
                 written since to the other one is in no bitmap. Refused: run create-md on the \
                 peer, or bring the right disk back."
            }
            Self::InconsistentBoth => {
                "Both disks are a mix of old and new blocks; neither can be the source. Choose the \
                 better one with primary --force=inconsistent, then create-md or \
                 --discard-my-data on the other."
            }
            Self::Inconsistent(Who::Own) => {
                "Self was in the middle of a resync from this generation, or was invalidated: it \
                 goes on as the target, with the bits of both sides."
            }
            Self::Inconsistent(Who::Peer) => {
                "The peer was in the middle of a resync from this generation, or was invalidated: \
                 it goes on as the target, with the bits of both sides."
            }
            Self::OutdatedBoth => {
                "Both disks know that they are outdated, so a newer one existed; neither can be \
                 the source. Choose one with primary --force=outdated, then create-md or \
                 --discard-my-data on the other."
            }
            Self::Outdated(Who::Own) => {
                "Self left in order and knows that it is outdated: it is the target, with the bits \
                 of both sides, even if there are none."
            }
            Self::Outdated(Who::Peer) => {
                "The peer left in order and knows that it is outdated: it is the target, with the \
                 bits of both sides, even if there are none."
            }
            Self::OutdatedSurvivor(Who::Own) => {
                "Self was marked Outdated, but it is the one that outlived the other with \
                 everything flushed: as the target it would lose writes that the other may lack. \
                 Refused: choose with primary --force=outdated on self, or invalidate self."
            }
            Self::OutdatedSurvivor(Who::Peer) => {
                "The peer was marked Outdated, but it is the one that outlived the other with \
                 everything flushed: as the target it would lose writes that the other may lack. \
                 Refused: choose with primary --force=outdated on the peer, or invalidate it."
            }
            Self::BothOff => {
                "Both disks carry the same generation and no block may differ: there is nothing to \
                 sync, whoever crashed."
            }
            Self::Survived(Who::Own) => {
                "Same generation, and some blocks may differ. Self outlived the peer and has \
                 flushed all that it had; the peer crashed and may have lost what was in its \
                 cache. Self is the source."
            }
            Self::Survived(Who::Peer) => {
                "Same generation, and some blocks may differ. The peer outlived self and has \
                 flushed all that it had; self crashed and may have lost what was in its cache. \
                 The peer is the source."
            }
            Self::BothPrimary => {
                "Same generation, some blocks may differ, and both nodes are Primary: whichever \
                 were the source, the clients of the other would see their data change. This is a \
                 split brain."
            }
            Self::PrimaryNow(Who::Own) => {
                "Same generation, and some blocks may differ. Self is Primary now and its clients \
                 have seen its data: self is the source."
            }
            Self::PrimaryNow(Who::Peer) => {
                "Same generation, and some blocks may differ. The peer is Primary now and its \
                 clients have seen its data: the peer is the source."
            }
            Self::CrashedPrimary => {
                "Same generation, and some blocks may differ. Exactly one of the nodes was Primary \
                 when it crashed, and may have written what the other never received: it is the \
                 source."
            }
            Self::EqualBits(Who::Own) => {
                "Same generation, and only self remembers blocks that may differ. Self is the \
                 source for these blocks."
            }
            Self::EqualBits(Who::Peer) => {
                "Same generation, and only the peer remembers blocks that may differ. The peer is \
                 the source for these blocks."
            }
            Self::EqualBitsTie => {
                "Same generation, both remember blocks that may differ, and nothing says which \
                 side is better: no write that was acknowledged is at stake. A random number of \
                 this handshake decides; both nodes come to the same answer."
            }
            Self::BitmapCrossed => {
                "Each node's current generation is the one that the other started from. That does \
                 not come about in order; both have gone on alone. This is a split brain, and the \
                 bitmaps do not cover it: the victim needs a full sync."
            }
            Self::Bitmap(Who::Own) => {
                "Self went on alone, starting from the generation that the peer still has. Self is \
                 the source; its bitmap says what the peer lacks."
            }
            Self::Bitmap(Who::Peer) => {
                "The peer went on alone, starting from the generation that self still has. The \
                 peer is the source; its bitmap says what self lacks."
            }
            Self::BitmapBoth => {
                "Both nodes went on alone, starting from the same generation: a split brain. Both \
                 bitmaps together say what differs, so the victim needs only those blocks."
            }
            Self::History(Who::Own) => {
                "Self is more than one generation ahead of the peer: the bitmap no longer starts \
                 where the peer stopped, so the peer is the target of a full sync."
            }
            Self::History(Who::Peer) => {
                "The peer is more than one generation ahead of self: its bitmap no longer starts \
                 where self stopped, so self is the target of a full sync."
            }
            Self::HistoryBoth => {
                "Both nodes went on alone, several generations ago: a split brain whose bitmaps do \
                 not reach back to the common past. The victim needs a full sync."
            }
            Self::UnrelatedData => {
                "The two disks have no generation in common: they have never been copies of each \
                 other, or not for 32 generations. Nothing is synced by any option; if one of them \
                 is the new or the wrong disk, run create-md on it."
            }
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

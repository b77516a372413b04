//! The rules of the decision, by the names that logs and `why` print. Where a rule is DRBD 9's it
//! has DRBD's name.

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
    /// This disk was forced while it was blank; the other one is fresh, and was not blank.
    ForcedBlank(Who),
    /// Nobody has said that this disk is the newest; the other one is fresh, and was not blank.
    Unproven(Who),
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
    /// Equal identifiers, two Secondaries, no bits but those that a verify has set.
    VerifyMarks,
    /// Equal identifiers, only this one has bits that no verify has set.
    EqualBits(Who),
    /// Equal identifiers, both have bits that no verify has set, and there are such that one has.
    VerifyMarksTie,
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
    /// The rule as the other node sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::JustCreated(who) => Self::JustCreated(who.mirrored()),
            Self::RolledBack(who) => Self::RolledBack(who.mirrored()),
            Self::Replaced(who) => Self::Replaced(who.mirrored()),
            Self::ForcedBlank(who) => Self::ForcedBlank(who.mirrored()),
            Self::Unproven(who) => Self::Unproven(who.mirrored()),
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
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

macro_rules! rules {
    ($($rule:ident $(($who:path))? = $name:literal, $text:literal;)*) => {
        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$rule $(($who))?,)*];

            /// The name that logs print.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$rule $(($who))? => $name,)* }
            }

            /// One paragraph for people: what was found, and what follows from it. "Self" is the
            /// node that says it.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Self::$rule $(($who))? => $text,)* }
            }
        }
    };
}

rules! {
    Diskless = "diskless",
        "At least one side has no disk, so there is nothing to compare. Reads and writes go to \
         the disk that is there.";
    ExposedData = "exposed-data",
        "The node that serves clients without a disk of its own has shown them data of another \
         generation than the other node's disk is of: that disk is older, was written to by \
         others meanwhile, or holds something else. Its clients would read into the past or \
         write over what is newer, so the connection is refused. \
         Connect the disk that served last, or stop the clients, demote, and connect again.";
    Clone = "clone",
        "Both disks carry the same identity, so one is a copy of the other (dd, a cloned \
         volume, a restored image) with its metadata. Which of them is the real one cannot be \
         told. Run create-md on the copy.";
    JustCreatedBoth = "just-created-both",
        "Both disks are fresh and neither holds data yet. Nothing is synced; both stay \
         Inconsistent until one is made the source by a forced promotion, or both are declared \
         equal (new-current-uuid --clear-bitmap).";
    JustCreated(Who::Own) = "just-created-self",
        "Self has fresh metadata, the peer has data: self becomes the target of a full sync.";
    JustCreated(Who::Peer) = "just-created-peer",
        "The peer has fresh metadata, self has data: the peer becomes the target of a full \
         sync.";
    ForcedBlank(Who::Own) = "forced-blank-self",
        "Self was promoted by force while its disk was blank and no disk of the peer had been met. \
         The peer's disk is new as well, but create-md has found something on it: a full sync would \
         overwrite that. Refused: invalidate the peer's disk on the peer, or, where that one holds \
         the data, primary --force there and create-md on self.";
    ForcedBlank(Who::Peer) = "forced-blank-peer",
        "The peer was promoted by force while its disk was blank and no disk of self had been met. \
         The disk of self is new as well, but create-md has found something on it: a full sync would \
         overwrite that. Refused: invalidate self, or, where this disk holds the data, primary \
         --force on self and create-md on the peer.";
    Unproven(Who::Own) = "unproven-self",
        "Self is Consistent: nobody has said that it is the newest copy. The peer's disk is new, but \
         create-md has found something on it, which may be what was written last: a full sync would \
         overwrite that. Refused: invalidate the peer's disk on the peer, or, where that one holds \
         the data, primary --force there and create-md on self.";
    Unproven(Who::Peer) = "unproven-peer",
        "The peer is Consistent: nobody has said that it is the newest copy. The disk of self is new, \
         but create-md has found something on it, which may be what was written last: a full sync \
         would overwrite that. Refused: invalidate self, or, where this disk holds the data, primary \
         --force on self and create-md on the peer.";
    RolledBackBoth = "rolled-back-both",
        "Each disk carries a lower number than the other node has seen of it before: both were \
         set back to an older image, and neither can be trusted to be the newer. Choose one: \
         primary --force=outdated on it, and invalidate the other.";
    RolledBack(Who::Own) = "rolled-back-self",
        "The disk of self carries a lower number than the peer has seen of it before: it was \
         set back to an older image, a snapshot or a copy, behind Tandem. Its identifiers and \
         bits speak of the past and must not be believed. Unless it has been invalidated since \
         (then it is the target of a full sync), the connection is refused: invalidate self, or \
         create-md on it.";
    RolledBack(Who::Peer) = "rolled-back-peer",
        "The disk of the peer carries a lower number than self has seen of it before: it was \
         set back to an older image, a snapshot or a copy, behind Tandem. Its identifiers and \
         bits speak of the past and must not be believed. Unless it has been invalidated since \
         (then it is the target of a full sync), the connection is refused: invalidate the \
         peer's disk on the peer, or create-md there.";
    ReplacedBoth = "replaced-both",
        "Both disks carry the same generation, but neither is the one that the other node was \
         connected with: older disks have come back, or the metadata was copied. What was \
         written since is in no bitmap. Refused: run create-md on one of them.";
    Replaced(Who::Own) = "replaced-self",
        "Both disks carry the same generation, but the disk of self is not the one that the \
         peer was connected with: an older disk of self has come back. What was written since \
         to the other one is in no bitmap. Refused: run create-md on self, or bring the right \
         disk back.";
    Replaced(Who::Peer) = "replaced-peer",
        "Both disks carry the same generation, but the disk of the peer is not the one that \
         self was connected with: an older disk of the peer has come back. What was written \
         since to the other one is in no bitmap. Refused: run create-md on the peer, or bring \
         the right disk back.";
    InconsistentBoth = "inconsistent-both",
        "Both disks are a mix of old and new blocks; neither can be the source. Choose the \
         better one with primary --force=inconsistent, then create-md on the other.";
    Inconsistent(Who::Own) = "inconsistent-self",
        "Self was in the middle of a resync from this generation, or was invalidated: it goes \
         on as the target, with the bits of both sides.";
    Inconsistent(Who::Peer) = "inconsistent-peer",
        "The peer was in the middle of a resync from this generation, or was invalidated: it \
         goes on as the target, with the bits of both sides.";
    OutdatedBoth = "outdated-both",
        "Both disks know that they are outdated, so a newer one existed; neither can be the \
         source. Choose one with primary --force=outdated, then create-md on the other.";
    Outdated(Who::Own) = "outdated-self",
        "Self left in order and knows that it is outdated: it is the target, with the bits of \
         both sides, even if there are none.";
    Outdated(Who::Peer) = "outdated-peer",
        "The peer left in order and knows that it is outdated: it is the target, with the bits \
         of both sides, even if there are none.";
    OutdatedSurvivor(Who::Own) = "outdated-survivor-self",
        "Self was marked Outdated, but it is the one that outlived the other with everything \
         flushed: as the target it would lose writes that the other may lack. Refused: choose \
         with primary --force=outdated on self, or invalidate self.";
    OutdatedSurvivor(Who::Peer) = "outdated-survivor-peer",
        "The peer was marked Outdated, but it is the one that outlived the other with \
         everything flushed: as the target it would lose writes that the other may lack. \
         Refused: choose with primary --force=outdated on the peer, or invalidate it.";
    BothOff = "both-off",
        "Both disks carry the same generation and no block may differ: there is nothing to \
         sync, whoever crashed.";
    Survived(Who::Own) = "survived-self",
        "Same generation, and some blocks may differ. Self outlived the peer and has flushed \
         all that it had; the peer crashed and may have lost what was in its cache. Self is the \
         source.";
    Survived(Who::Peer) = "survived-peer",
        "Same generation, and some blocks may differ. The peer outlived self and has flushed \
         all that it had; self crashed and may have lost what was in its cache. The peer is the \
         source.";
    BothPrimary = "both-primary",
        "Same generation, some blocks may differ, and both nodes are Primary: whichever were \
         the source, the clients of the other would see their data change. This is a split \
         brain.";
    PrimaryNow(Who::Own) = "primary-self",
        "Same generation, and some blocks may differ. Self is Primary now and its clients have \
         seen its data: self is the source.";
    PrimaryNow(Who::Peer) = "primary-peer",
        "Same generation, and some blocks may differ. The peer is Primary now and its clients \
         have seen its data: the peer is the source.";
    CrashedPrimary = "crashed-primary",
        "Same generation, and some blocks may differ. Exactly one of the nodes was Primary when \
         it crashed, and may have written what the other never received: it is the source.";
    VerifyMarks = "verify-marks",
        "Same generation, and the only blocks that differ are those that an online verify has \
         found. Nothing says which of the two is right: nothing is copied, and the marks stay. \
         Choose with verify --repair, while connected.";
    VerifyMarksTie = "verify-marks-tie",
        "Same generation, both remember blocks that may differ after a crash, nothing says which \
         side is better, and among them are blocks that an online verify has found: a random \
         choice could overwrite the good ones. Refused: invalidate the disk whose blocks are \
         to be overwritten.";
    EqualBits(Who::Own) = "equal-bits-self",
        "Same generation, and only self remembers blocks that may differ (those that an online \
         verify has found aside). Self is the source for these blocks.";
    EqualBits(Who::Peer) = "equal-bits-peer",
        "Same generation, and only the peer remembers blocks that may differ (those that an \
         online verify has found aside). The peer is the source for these blocks.";
    EqualBitsTie = "equal-bits-tie",
        "Same generation, both remember blocks that may differ, and nothing says which side is \
         better: no write that was acknowledged is at stake. A random number of this handshake \
         decides; both nodes come to the same answer.";
    BitmapCrossed = "bitmap-crossed",
        "Each node's current generation is the one that the other started from. That does not \
         come about in order; both have gone on alone. This is a split brain, and the bitmaps \
         do not cover it: the victim needs a full sync.";
    Bitmap(Who::Own) = "bitmap-self",
        "Self went on alone, starting from the generation that the peer still has. Self is the \
         source; its bitmap says what the peer lacks.";
    Bitmap(Who::Peer) = "bitmap-peer",
        "The peer went on alone, starting from the generation that self still has. The peer is \
         the source; its bitmap says what self lacks.";
    BitmapBoth = "bitmap-both",
        "Both nodes went on alone, starting from the same generation: a split brain. Both \
         bitmaps together say what differs, so the victim needs only those blocks.";
    History(Who::Own) = "history-self",
        "Self is more than one generation ahead of the peer: the bitmap no longer starts where \
         the peer stopped, so the peer is the target of a full sync.";
    History(Who::Peer) = "history-peer",
        "The peer is more than one generation ahead of self: its bitmap no longer starts where \
         self stopped, so self is the target of a full sync.";
    HistoryBoth = "history-both",
        "Both nodes went on alone, several generations ago: a split brain whose bitmaps do not \
         reach back to the common past. The victim needs a full sync.";
    UnrelatedData = "unrelated-data",
        "The two disks have no generation in common: they have never been copies of each other, \
         not for 32 generations, or one was forced while the other was away. Nothing is synced by any option; if one of them is the new \
         or the wrong disk, run create-md on it.";
}

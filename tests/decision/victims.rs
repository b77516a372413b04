//! Who loses a split brain: by policy, and by a person's word.

use tandem::resource::generation::*;
use tandem::resource::split_brain::*;
use tandem::resource::*;

use crate::party;
use crate::small::{BASE, Small, real, role};

/// A split brain with equal bitmap UUIDs: who loses, by policy. `own` and `peer` are (bits, was
/// Primary when the split began, is Primary).
fn victim(options: &Options, own: (u8, bool, bool), peer: (u8, bool, bool)) -> &'static str {
    let state = |(bits, was, primary): (u8, bool, bool), node: u64| {
        let current = 1 + u8::try_from(node).expect("0 or 1");
        let s = Small { current, bitmap: 3, bits, primary, ..BASE };
        let mut info = real(&s, node);
        info.bitmap_uuid = marked(info.bitmap_uuid, was);
        (info, role(&s))
    };
    let ((a, a_role), (b, b_role)) = (state(own, 0), state(peer, 1));
    let verdict = decide(&a, a_role, 3, &b, b_role, 4);
    assert_eq!(verdict.rule, Rule::BitmapBoth);
    let party = |info, role, tie, node_id| party(Side { info, role, tie }, node_id, false);
    let done = resolve(verdict, options, &party(&a, a_role, 3, 0), &party(&b, b_role, 4, 1));
    match (done.outcome, done.because) {
        (Outcome::Target { .. }, _) => "self",
        (Outcome::Source { .. }, _) => "peer",
        (Outcome::Refuse { .. }, Because::TargetIsPrimary) => "primary",
        (Outcome::Refuse { .. }, Because::Unresolved) => "nobody",
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_is_primary() {
    use AfterSb0Pri::*;
    let victim = |after_sb_0pri: AfterSb0Pri, own: (u8, bool), peer: (u8, bool)| {
        let options = Options { after_sb_0pri, ..Options::default() };
        victim(&options, (own.0, own.1, false), (peer.0, peer.1, false))
    };
    let (was, was_not) = (true, false);
    assert_eq!(victim(Disconnect, (0, was), (9, was_not)), "nobody");
    assert_eq!(victim(DiscardYoungerPrimary, (1, was), (9, was_not)), "peer");
    assert_eq!(victim(DiscardYoungerPrimary, (9, was_not), (1, was)), "self");
    assert_eq!(victim(DiscardOlderPrimary, (9, was), (1, was_not)), "self");
    assert_eq!(victim(DiscardOlderPrimary, (1, was_not), (9, was)), "peer");
    // Undecided: as discard-least-changes, and with as many the holder of the tie bit (the peer).
    assert_eq!(victim(DiscardYoungerPrimary, (1, was), (9, was)), "self");
    assert_eq!(victim(DiscardOlderPrimary, (9, was_not), (1, was_not)), "peer");
    assert_eq!(victim(DiscardOlderPrimary, (2, was), (2, was)), "peer");
    assert_eq!(victim(DiscardZeroChanges, (0, was), (9, was)), "self");
    assert_eq!(victim(DiscardZeroChanges, (9, was), (0, was)), "peer");
    assert_eq!(victim(DiscardZeroChanges, (0, was), (0, was)), "peer");
    assert_eq!(victim(DiscardZeroChanges, (1, was), (1, was)), "nobody");
    assert_eq!(victim(DiscardLeastChanges, (1, was), (2, was)), "self");
    assert_eq!(victim(DiscardLeastChanges, (3, was), (2, was)), "peer");
    assert_eq!(victim(DiscardLeastChanges, (2, was), (2, was)), "peer");
    assert_eq!(victim(DiscardNode(0), (9, was), (0, was)), "self");
    assert_eq!(victim(DiscardNode(1), (0, was), (9, was)), "peer");
    assert_eq!(victim(DiscardNode(7), (0, was), (9, was)), "nobody");
}

#[test]
fn one_is_primary() {
    let victim = |after_sb_1pri, rr_conflict, own_bits, peer_bits| {
        let options = Options {
            after_sb_0pri: AfterSb0Pri::DiscardLeastChanges,
            after_sb_1pri,
            rr_conflict,
            ..Options::default()
        };
        // This node is the Primary.
        victim(&options, (own_bits, true, true), (peer_bits, false, false))
    };
    use AfterSb1Pri::*;
    let disconnect = || RrConflict::Disconnect;
    assert_eq!(victim(Disconnect, disconnect(), 9, 1), "nobody");
    assert_eq!(victim(Consensus, disconnect(), 9, 1), "peer");
    assert_eq!(victim(Consensus, disconnect(), 1, 9), "nobody");
    assert_eq!(victim(CallPriLostAfterSb, disconnect(), 9, 1), "peer");
    assert_eq!(victim(CallPriLostAfterSb, RrConflict::Violently, 1, 9), "nobody");
    assert_eq!(victim(DiscardSecondary, disconnect(), 1, 9), "peer");
    assert_eq!(victim(ViolentlyAs0p, disconnect(), 9, 1), "peer");
    assert_eq!(victim(ViolentlyAs0p, disconnect(), 1, 9), "primary");
    assert_eq!(victim(ViolentlyAs0p, RrConflict::Violently, 1, 9), "self");
}

#[test]
fn both_are_primary() {
    let victim = |after_sb_2pri, rr_conflict| {
        let options = Options {
            after_sb_0pri: AfterSb0Pri::DiscardLeastChanges,
            after_sb_2pri,
            rr_conflict,
            ..Options::default()
        };
        victim(&options, (1, true, true), (9, false, true))
    };
    assert_eq!(victim(AfterSb2Pri::Disconnect, RrConflict::Violently), "nobody");
    assert_eq!(victim(AfterSb2Pri::CallPriLostAfterSb, RrConflict::Violently), "nobody");
    assert_eq!(victim(AfterSb2Pri::ViolentlyAs0p, RrConflict::Disconnect), "primary");
    assert_eq!(victim(AfterSb2Pri::ViolentlyAs0p, RrConflict::Violently), "self");
}

#[test]
fn a_primary_is_overwritten_only_where_rr_conflict_says_so() {
    let (a, b) = (Small { primary: true, ..BASE }, Small { current: 2, bitmap: 1, ..BASE });
    let (ia, ib) = (real(&a, 0), real(&b, 1));
    let verdict = decide(&ia, role(&a), 3, &ib, role(&b), 4);
    let own = party(Side { info: &ia, role: role(&a), tie: 3 }, 0, false);
    let peer = party(Side { info: &ib, role: role(&b), tie: 4 }, 1, false);
    let refused = Outcome::Refuse { reason: Reason::ResyncRefused };
    let target = Outcome::Target { full: false };
    for (rr_conflict, outcome, because, word) in [
        (RrConflict::Disconnect, refused, Because::TargetIsPrimary, "resync-refused"),
        (RrConflict::AutoDiscard, refused, Because::TargetIsPrimary, "resync-refused"),
        (RrConflict::CallPriLost, refused, Because::TargetIsPrimary, "resync-refused"),
        (RrConflict::RetryConnect, Outcome::Retry, Because::TargetIsPrimary, "retry-connect"),
        (RrConflict::Violently, target, Because::Violently, "target-use-bitmap"),
    ] {
        let options = Options { rr_conflict, ..Options::default() };
        let done = resolve(verdict, &options, &own, &peer);
        assert_eq!((done.outcome, done.because), (outcome, because));
        assert_eq!(resolve(verdict.mirrored(), &options, &peer, &own), done.mirrored());
        let found = "uuid_compare()=target-use-bitmap by rule=bitmap-peer";
        assert_eq!(done.to_string(), format!("{found} -> {word}: {}", because.explain()));
    }
    let refused = resolve(verdict, &Options::default(), &own, &peer).refused();
    assert_eq!(refused.expect("a refusal").reason, Reason::ResyncRefused);
}

/// The checks behind the verdict, with the reason that a person reads.
#[test]
fn what_cannot_be_a_source_or_a_target_is_refused_with_its_reason() {
    use DiskState::{Consistent, Inconsistent, Outdated, UpToDate};
    let outcome = |a: Small, b: Small| {
        let (ia, ib) = (real(&a, 0), real(&b, 1));
        let verdict = decide(&ia, role(&a), 3, &ib, role(&b), 4);
        let own = party(Side { info: &ia, role: role(&a), tie: 3 }, 0, false);
        let peer = party(Side { info: &ib, role: role(&b), tie: 4 }, 1, false);
        let done = resolve(verdict, &Options::default(), &own, &peer);
        (done.outcome, done.because)
    };
    let refused = |because| (Outcome::Refuse { reason: Reason::ResyncRefused }, because);
    let newer = Small { current: 2, bitmap: 1, ..BASE };
    for disk in [Inconsistent, Outdated] {
        let source = Small { disk, ..newer };
        assert_eq!(outcome(source, BASE), refused(Because::SourceNotUsable));
    }
    let primary = Small { primary: true, ..BASE };
    assert_eq!(outcome(primary, primary), refused(Because::TwoPrimaries));
    // A Primary that was brought up to date under its clients goes on, from the same source.
    let target = Small { disk: Inconsistent, ..primary };
    let goes_on = (Outcome::Target { full: false }, Because::Verdict);
    assert_eq!(outcome(target, Small { disk: UpToDate, ..BASE }), goes_on);
    // Also where the source was restarted meanwhile and has lost nothing.
    assert_eq!(outcome(target, Small { disk: Consistent, survived: true, ..BASE }), goes_on);
    for source in [Small { disk: Consistent, ..BASE }, primary] {
        assert_eq!(outcome(target, source), refused(Because::TargetIsPrimary));
    }
    let old = Small { disk: Outdated, ..primary };
    assert_eq!(outcome(old, BASE), refused(Because::TargetIsPrimary), "of another rule");
    assert_eq!(outcome(target, newer), refused(Because::TargetIsPrimary), "of another generation");
}

/// A split brain that the bitmaps do not cover is left to policies only with always-asbp, and then
/// the victim takes everything.
#[test]
fn always_asbp_lets_the_policies_decide() {
    let (a, b) = (Small { history: 8, ..BASE }, Small { current: 2, history: 8, ..BASE });
    let (ia, ib) = (real(&a, 0), real(&b, 1));
    let verdict = decide(&ia, role(&a), 3, &ib, role(&b), 4);
    assert_eq!(verdict.rule, Rule::HistoryBoth);
    let party = |info, tie, node_id| {
        let side = Side { info, role: Role::Secondary, tie };
        party(side, node_id, false)
    };
    let outcome = |always_asbp| {
        let after_sb_0pri = AfterSb0Pri::DiscardNode(0);
        let options = Options { after_sb_0pri, always_asbp, ..Options::default() };
        resolve(verdict, &options, &party(&ia, 3, 0), &party(&ib, 4, 1)).outcome
    };
    assert_eq!(outcome(false), Outcome::Refuse { reason: Reason::SplitBrain });
    assert_eq!(outcome(true), Outcome::Target { full: true });
}

/// --discard-my-data on one side goes before every policy, on both sides it says nothing, and it
/// never touches unrelated data.
#[test]
fn a_person_has_the_last_word() {
    let options = Options { after_sb_0pri: AfterSb0Pri::DiscardNode(1), ..Options::default() };
    let outcome = |a: Small, b: Small, discard: (bool, bool)| {
        let (ia, ib) = (real(&a, 0), real(&b, 1));
        let own = Side { info: &ia, role: role(&a), tie: 3 };
        let peer = Side { info: &ib, role: role(&b), tie: 4 };
        let verdict = decide(&ia, own.role, 3, &ib, peer.role, 4);
        let own = party(own, 0, discard.0);
        let peer = party(peer, 1, discard.1);
        let done = resolve(verdict, &options, &own, &peer);
        (done.outcome, done.because)
    };
    let (a, b) = (Small { bitmap: 3, ..BASE }, Small { current: 2, bitmap: 3, ..BASE });
    let solved = (Outcome::Target { full: false }, Because::DiscardMyData);
    assert_eq!(outcome(a, b, (true, false)), solved);
    let by_policy = (Outcome::Source { full: false }, Because::AfterSb0Pri);
    assert_eq!(outcome(a, b, (false, false)), by_policy);
    assert_eq!(outcome(a, b, (true, true)), by_policy);

    // Split brain that the bitmaps do not cover: full.
    let (old_a, old_b) = (Small { history: 8, ..BASE }, Small { current: 2, history: 8, ..BASE });
    let solved = (Outcome::Target { full: true }, Because::DiscardMyData);
    assert_eq!(outcome(old_a, old_b, (true, false)), solved);
    let unresolved = (Outcome::Refuse { reason: Reason::SplitBrain }, Because::Unresolved);
    assert_eq!(outcome(old_a, old_b, (false, false)), unresolved);

    // An invalidated disk is given up too; a Primary is not overwritten for it.
    let given_up = Small { disk: DiskState::Inconsistent, invalidated: true, ..old_a };
    let solved = (Outcome::Target { full: true }, Because::Invalidated);
    assert_eq!(outcome(given_up, old_b, (false, false)), solved);
    let conflict = (Outcome::Refuse { reason: Reason::ResyncRefused }, Because::TargetIsPrimary);
    assert_eq!(outcome(Small { primary: true, ..a }, b, (true, false)), conflict);

    let unrelated = (Outcome::Refuse { reason: Reason::UnrelatedData }, Because::Verdict);
    assert_eq!(outcome(BASE, Small { current: 2, ..BASE }, (true, false)), unrelated);

    // The identifiers have decided: there is nothing to discard.
    let newer = Small { current: 2, bitmap: 1, ..BASE };
    let decided = (Outcome::Source { full: false }, Because::Verdict);
    assert_eq!(outcome(newer, BASE, (true, false)), decided);
}

#[test]
fn every_reason_has_its_sentence() {
    for because in Because::ALL {
        assert_eq!(because.explain().is_empty(), *because == Because::Verdict);
        assert!(!because.explain().contains("  "), "{because:?}");
    }
}

/// The volumes of a resource have one victim: what counts is what was written to all of them.
#[test]
fn the_changes_of_all_volumes_choose_the_victim() {
    let few = Small { current: 1, bitmap: 3, bits: 1, ..BASE };
    let many = Small { current: 2, bitmap: 3, bits: 2, ..BASE };
    let (ia, ib) = (real(&few, 0), real(&many, 1));
    let (a, b) = (role(&few), role(&many));
    let verdict = decide(&ia, a, 3, &ib, b, 4);
    let own = party(Side { info: &ia, role: a, tie: 3 }, 0, false);
    let peer = party(Side { info: &ib, role: b, tie: 4 }, 1, false);
    for (policy, own_changes, outcome) in [
        (AfterSb0Pri::DiscardLeastChanges, 9, Outcome::Source { full: false }),
        (AfterSb0Pri::DiscardLeastChanges, 1, Outcome::Target { full: false }),
        (AfterSb0Pri::DiscardZeroChanges, 0, Outcome::Target { full: false }),
        (AfterSb0Pri::DiscardZeroChanges, 9, Outcome::Refuse { reason: Reason::SplitBrain }),
    ] {
        let options = Options { after_sb_0pri: policy, ..Options::default() };
        let own = Party { changes: own_changes, ..own };
        assert_eq!(resolve(verdict, &options, &own, &peer).outcome, outcome, "{options:?}");
    }
}

//! Every pair of states: the verdict is the oracle's, and what is made of it keeps the promises.

use tandem::resource::generation::*;
use tandem::resource::split_brain::*;
use tandem::resource::*;
use tandem::wire::VolumeInfo;

use crate::oracle::{answer, oracle};
use crate::party;
use crate::small::{BASE, DISKS, Small, real, role};

/// Everything that must hold for one pair of states.
fn check_pair(a: (&Small, &VolumeInfo), b: (&Small, &VolumeInfo), ties: (u64, u64), o: &Options) {
    let ((sa, ia), (sb, ib)) = (a, b);
    let (own, peer) = (
        Side { info: ia, role: role(sa), tie: ties.0 },
        Side { info: ib, role: role(sb), tie: ties.1 },
    );
    let verdict = decide(ia, own.role, own.tie, ib, peer.role, peer.tie);
    let mirror = decide(ib, peer.role, peer.tie, ia, own.role, own.tie);
    let context = || format!("{sa:?}\n{sb:?}\n{verdict} {mirror}");
    assert_eq!(mirror, verdict.mirrored(), "{}", context());
    assert_eq!(answer(verdict.strategy), oracle(sa, sb, ties.0 > ties.1), "{}", context());
    let bits = sa.bits != 0 || sb.bits != 0;
    let marks_only = |s: &Small| s.bits == 0 || s.marks == 2;
    if verdict.rule == Rule::VerifyMarks {
        assert!(bits && marks_only(sa) && marks_only(sb), "{}", context());
        assert!(!sa.primary && !sb.primary, "{}", context());
    }
    let marked = |s: &Small| s.bits != 0 && s.marks > 0;
    if verdict.rule == Rule::EqualBitsTie {
        assert!(!marked(sa) && !marked(sb), "{}", context());
    }
    if verdict.strategy == Strategy::NoSync {
        let nothing_lost = matches!(verdict.rule, Rule::JustCreatedBoth | Rule::VerifyMarks);
        assert!(!bits || nothing_lost, "{}", context());
    }

    let party = |side, node_id| party(side, node_id, false);
    let (own_party, peer_party) = (party(own, 0), party(peer, 1));
    let done = resolve(verdict, o, &own_party, &peer_party);
    assert_eq!(resolve(mirror, o, &peer_party, &own_party), done.mirrored(), "{}", context());
    check_outcome(&done, &own, &peer, o, &context);

    for attaching_own in [true, false] {
        let done = resolve_attach(verdict, &own, &peer, attaching_own);
        let mirrored = resolve_attach(mirror, &peer, &own, !attaching_own);
        assert_eq!(mirrored, done.mirrored(), "{}", context());
        let attached_is_source = matches!(done.outcome, Outcome::Source { .. }) == attaching_own;
        let sync = matches!(done.outcome, Outcome::Source { .. } | Outcome::Target { .. });
        assert!(!(sync && attached_is_source), "{}", context());
        assert!(done.outcome != Outcome::NoSync || done.verdict.rule == Rule::JustCreatedBoth);
        check_source(&done, &own, &peer, &context);
    }
}

fn check_source(done: &Resolution, own: &Side<'_>, peer: &Side<'_>, context: &dyn Fn() -> String) {
    let source = match done.outcome {
        Outcome::Source { .. } => own,
        Outcome::Target { .. } => peer,
        _ => return,
    };
    let usable = matches!(source.info.disk, DiskState::Consistent | DiskState::UpToDate);
    assert!(usable, "a source that is {}: {}", source.info.disk, context());
}

pub(crate) fn check_outcome(
    done: &Resolution,
    own: &Side<'_>,
    peer: &Side<'_>,
    options: &Options,
    context: &dyn Fn() -> String,
) {
    let two_primaries = own.primary() && peer.primary();
    let violently = options.rr_conflict == RrConflict::Violently;
    check_source(done, own, peer, context);
    match done.outcome {
        Outcome::NoSync | Outcome::Diskless => assert!(!two_primaries, "{}", context()),
        Outcome::Source { .. } => {
            assert!(!peer.primary() || violently || was_target(done, peer, own), "{}", context());
        }
        Outcome::Target { .. } => {
            assert!(!own.primary() || violently || was_target(done, own, peer), "{}", context());
        }
        Outcome::Retry => {
            assert_eq!(options.rr_conflict, RrConflict::RetryConnect, "{}", context());
        }
        Outcome::Refuse { reason } => {
            let refused = done.refused().expect("a refusal has a text");
            assert_eq!(refused.reason, reason);
            assert!(refused.text.len() > 40, "{}", context());
        }
    }
    if matches!(done.verdict.strategy, Strategy::Refuse { .. }) {
        assert!(matches!(done.outcome, Outcome::Refuse { .. }), "{}", context());
    }
}

/// A Primary whose clients have read and written the source's data only, before they parted.
fn was_target(done: &Resolution, target: &Side<'_>, source: &Side<'_>) -> bool {
    let same = (target.info.current_uuid ^ source.info.current_uuid) & !1 == 0;
    // One that has SURVIVED has all of it, also where nobody knows whether the other one went on.
    let has_all = source.info.disk == DiskState::UpToDate
        || source.info.disk == DiskState::Consistent && source.survived();
    let parted = target.info.disk == DiskState::Inconsistent && has_all && same;
    parted && !source.primary() && done.because == Because::Verdict
}

/// Both orders of every pair, and both holders of the tie bit.
fn check_all(states: &[Small]) {
    let own: Vec<_> = states.iter().map(|s| (s, real(s, 0))).collect();
    let peer: Vec<_> = states.iter().map(|s| (s, real(s, 1))).collect();
    let options = Options { always_asbp: true, ..Options::default() };
    for (i, a) in own.iter().enumerate() {
        for (j, b) in peer.iter().enumerate() {
            let ties = if (i + j) % 2 == 0 { (7, 3) } else { (3, 7) };
            check_pair((a.0, &a.1), (b.0, &b.1), ties, &options);
        }
    }
}

pub(crate) const BOTH: [bool; 2] = [false, true];

#[test]
fn all_flags_with_equal_identifiers() {
    let mut states = Vec::new();
    for disk in DISKS {
        for n in 0..32u8 {
            for number in [None, Some(4), Some(5)] {
                for more in 0..3u8 {
                    let bit = |i: u8| n >> i & 1 == 1;
                    let (primary, survived, crashed) = (bit(0), bit(1), bit(2));
                    let (replaced, invalidated) = (more == 1, more == 2);
                    let bits = u8::from(n >> 3 > 0);
                    let marks = (n >> 3).saturating_sub(1);
                    states.push(Small {
                        disk,
                        primary,
                        survived,
                        crashed,
                        replaced,
                        invalidated,
                        bits,
                        marks,
                        number,
                        ..BASE
                    });
                }
            }
        }
    }
    check_all(&states);
}

#[test]
fn all_identifiers() {
    let mut states = Vec::new();
    for ids in 0..128u8 {
        for disk in [DiskState::Inconsistent, DiskState::Outdated, DiskState::UpToDate] {
            for primary in BOTH {
                let (current, bitmap, history) = (ids & 3, ids >> 2 & 3, ids >> 4 << 1);
                let bits = (current ^ bitmap ^ history >> 1) & 1;
                states.push(Small { current, bitmap, history, disk, primary, bits, ..BASE });
            }
        }
    }
    check_all(&states);
}

/// The tie bit: the same pair, the other holder.
#[test]
fn the_tie_bit_decides_alike_on_both_nodes() {
    let states = [1u8, 2].map(|bits| Small { bits, ..BASE });
    let options = Options::default();
    for a in &states {
        for b in &states {
            for ties in [(1, 2), (2, 1), (2, 2)] {
                let (ia, ib) = (real(a, 0), real(b, 1));
                let verdict = decide(&ia, role(a), ties.0, &ib, role(b), ties.1);
                let mirror = decide(&ib, role(b), ties.1, &ia, role(a), ties.0);
                assert_eq!(verdict.rule, Rule::EqualBitsTie);
                assert_eq!(mirror, verdict.mirrored());
                if ties.0 != ties.1 {
                    check_pair((a, &ia), (b, &ib), ties, &options);
                }
            }
        }
    }
}

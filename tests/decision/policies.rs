//! Every policy, over every strategy.

use tandem::resource::generation::*;
use tandem::resource::split_brain::*;
use tandem::resource::*;

use crate::pairs::{BOTH, check_outcome};
use crate::party;
use crate::small::{BASE, Small, real, role};

fn all_options() -> Vec<Options> {
    use {AfterSb0Pri::*, AfterSb1Pri as One, RrConflict as Rr};
    let zero = [
        Disconnect,
        DiscardYoungerPrimary,
        DiscardOlderPrimary,
        DiscardZeroChanges,
        DiscardLeastChanges,
        DiscardNode(0),
        DiscardNode(9),
    ];
    let one = [One::Disconnect, One::Consensus, One::ViolentlyAs0p, One::DiscardSecondary];
    let two = [AfterSb2Pri::Disconnect, AfterSb2Pri::ViolentlyAs0p];
    let conflict = [Rr::Disconnect, Rr::Violently, Rr::RetryConnect, Rr::AutoDiscard];
    (0..zero.len() * 64)
        .map(|i| Options {
            after_sb_0pri: zero[i / 64].clone(),
            after_sb_1pri: one[i / 16 % 4].clone(),
            after_sb_2pri: two[i / 8 % 2].clone(),
            rr_conflict: conflict[i / 2 % 4].clone(),
            always_asbp: i % 2 == 1,
            ..Options::default()
        })
        .collect()
}

/// Every policy, over every strategy, role, disk, bits, remark of the bitmap UUID, and order to
/// discard.
#[test]
fn all_policies() {
    let strategies = [
        Strategy::NoSync,
        Strategy::Diskless,
        Strategy::SourceUseBitmap,
        Strategy::TargetSetBitmap,
        Strategy::SplitBrain { auto: true, full: false },
        Strategy::SplitBrain { auto: false, full: true },
        Strategy::Refuse { reason: Reason::UnrelatedData },
    ];
    let options = all_options();
    let mut states = Vec::new();
    for disk in [DiskState::Inconsistent, DiskState::UpToDate] {
        for primary in BOTH {
            for bits in [0, 2] {
                states.push(Small { disk, primary, bits, bitmap: 3, ..BASE });
            }
        }
    }
    for (a, b) in states.iter().flat_map(|a| states.iter().map(move |b| (a, b))) {
        for remarks in 0..4u64 {
            let (mut ia, mut ib) = (real(a, 0), real(b, 1));
            ia.bitmap_uuid = marked(ia.bitmap_uuid, remarks & 1 != 0);
            ib.bitmap_uuid = marked(ib.bitmap_uuid, remarks & 2 != 0);
            let own = Side { info: &ia, role: role(a), tie: 3 };
            let peer = Side { info: &ib, role: role(b), tie: 4 };
            for discard in 0..4u8 {
                let own = party(own, 0, discard & 1 != 0);
                let peer = party(peer, 1, discard & 2 != 0);
                for strategy in strategies {
                    for o in &options {
                        check_policy(strategy, o, &own, &peer);
                    }
                }
            }
        }
    }
}

fn check_policy(strategy: Strategy, options: &Options, own: &Party<'_>, peer: &Party<'_>) {
    let verdict = Verdict { rule: Rule::CrashedPrimary, strategy };
    let done = resolve(verdict, options, own, peer);
    let mirror = resolve(verdict.mirrored(), options, peer, own);
    let context = || format!("{strategy:?} {options:?}\n{own:?}\n{peer:?}\n{done:?}");
    assert_eq!(mirror, done.mirrored(), "{}", context());
    check_outcome(&done, &own.side, &peer.side, options, &context);
    if let Strategy::SplitBrain { full, auto } = strategy {
        if let Outcome::Source { full: done } | Outcome::Target { full: done } = done.outcome {
            assert_eq!(done, full, "{}", context());
        }
        let asked = own.discard_my_data != peer.discard_my_data;
        if !asked && !auto && !options.always_asbp {
            assert_eq!(done.because, Because::Unresolved, "{}", context());
        }
        assert!(!asked || done.because != Because::Unresolved, "{}", context());
    }
}

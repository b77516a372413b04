//! The decision of the handshake over all small states: identifiers 0 to 3 in every place, flags,
//! bits, roles and disks on both sides, all policies. An oracle, written on small numbers from the
//! rules of docs/GENERATIONS.md alone, must come to the same verdict.

use tandem::meta::{DeviceFlags, HISTORY, JUST_CREATED};
use tandem::resource::generation::*;
use tandem::resource::split_brain::*;
use tandem::resource::*;
use tandem::wire::VolumeInfo;

/// One side in small numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Small {
    /// 0: JUST_CREATED, else a generation.
    current: u8,
    /// 0: empty.
    bitmap: u8,
    /// A set of generations: 2 for generation 1, 4 for 2, 8 for 3.
    history: u8,
    disk: DiskState,
    primary: bool,
    survived: bool,
    crashed: bool,
    invalidated: bool,
    bits: u8,
    /// The peer has seen 5 of this disk.
    number: Option<u8>,
    /// The peer remembers another disk.
    replaced: bool,
}

const BASE: Small = Small {
    current: 1,
    bitmap: 0,
    history: 0,
    disk: DiskState::UpToDate,
    primary: false,
    survived: false,
    crashed: false,
    invalidated: false,
    bits: 0,
    number: Some(5),
    replaced: false,
};

const DISKS: [DiskState; 4] =
    [DiskState::Inconsistent, DiskState::Outdated, DiskState::Consistent, DiskState::UpToDate];

/// Every second UUID carries the remark in its lowest bit, which must not matter.
fn uuid(n: u8, remark: bool) -> u64 {
    if n == 0 { 0 } else { u64::from(n) << 40 | u64::from(remark) }
}

/// The real thing, for node 0 or 1.
fn real(s: &Small, node: u64) -> VolumeInfo {
    let mut history = [0; HISTORY];
    for n in 1..4u8 {
        if s.history & 1 << n != 0 {
            history[usize::from(n) * 7] = uuid(n, node == 1);
        }
    }
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    VolumeInfo {
        volume: 0,
        disk: s.disk,
        data_size: 1 << 30,
        effective_size: 1 << 30,
        size_used: true,
        logical_block_size: 512,
        device_uuid: if s.replaced { 110 + node } else { 10 + node },
        peer_device_uuid: 11 - node,
        current_uuid: if s.current == 0 { JUST_CREATED } else { uuid(s.current, node == 0) },
        bitmap_uuid: uuid(s.bitmap, s.primary),
        history,
        flags: flag(s.survived, DeviceFlags::SURVIVED)
            | flag(s.invalidated, DeviceFlags::INVALIDATED),
        crashed_primary: s.crashed,
        bits: u64::from(s.bits),
        number: s.number.map(u64::from),
        seen_number: Some(5),
        created_found: String::new(),
        generation_time: 0,
        alone_time: 0,
    }
}

fn role(s: &Small) -> Role {
    if s.primary { Role::Primary } else { Role::Secondary }
}

/// What the oracle answers, from node 0's side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    NoSync,
    Source(bool),
    Target(bool),
    SplitBrain { auto: bool, full: bool },
    Refuse(Reason),
}
use Answer::{NoSync, Refuse, Source, SplitBrain, Target};

/// The rules Dj and D0 to D8, on small numbers. `tie`: node 0 holds the tie bit.
fn oracle(a: &Small, b: &Small, tie: bool) -> Answer {
    let inconsistent = |s: &Small| s.disk == DiskState::Inconsistent;
    let given_up = |s: &Small| inconsistent(s) && s.invalidated;
    match (a.current, b.current) {
        (0, 0) => return NoSync,
        (0, _) => return Target(true),
        (_, 0) => return Source(true),
        _ => {}
    }
    let back = |s: &Small| !s.replaced && s.number.is_some_and(|n| n < 5);
    match (back(a), back(b)) {
        (true, false) if given_up(a) => return Target(true),
        (false, true) if given_up(b) => return Source(true),
        (false, false) => {}
        _ => return Refuse(Reason::RolledBack),
    }
    let full = a.replaced || b.replaced;
    if a.current != b.current {
        return different(a, b, full);
    }
    if inconsistent(a) && inconsistent(b) {
        return Refuse(Reason::ResyncRefused);
    }
    if [a, b].iter().any(|s| s.replaced && !inconsistent(s)) {
        return Refuse(Reason::RolledBack);
    }
    if inconsistent(a) || inconsistent(b) {
        return if inconsistent(a) { Target(full) } else { Source(full) };
    }
    let outdated = |s: &Small| s.disk == DiskState::Outdated;
    let survivor = |s: &Small, other: &Small| s.survived && !other.survived;
    match (outdated(a), outdated(b)) {
        (true, true) => return Refuse(Reason::ResyncRefused),
        (true, _) if survivor(a, b) => return Refuse(Reason::ResyncRefused),
        (_, true) if survivor(b, a) => return Refuse(Reason::ResyncRefused),
        (true, _) => return Target(full),
        (_, true) => return Source(full),
        _ => {}
    }
    let by = |a_is_source: bool| if a_is_source { Source(full) } else { Target(full) };
    if a.bits == 0 && b.bits == 0 {
        NoSync
    } else if a.survived != b.survived {
        by(a.survived)
    } else if a.primary && b.primary {
        SplitBrain { auto: false, full }
    } else if a.primary != b.primary {
        by(a.primary)
    } else if !a.survived && a.crashed != b.crashed {
        by(a.crashed)
    } else if (a.bits == 0) != (b.bits == 0) {
        by(a.bits != 0)
    } else {
        by(tie)
    }
}

fn different(a: &Small, b: &Small, full: bool) -> Answer {
    let knows = |s: &Small, n: u8| s.history & 1 << n != 0;
    let past = |s: &Small| (s.history | 1 << s.bitmap) & !1;
    match (a.bitmap == b.current, b.bitmap == a.current) {
        (true, true) => return SplitBrain { auto: false, full: true },
        (true, false) => return Source(full),
        (false, true) => return Target(full),
        _ => {}
    }
    if a.bitmap == b.bitmap && a.bitmap != 0 {
        return SplitBrain { auto: true, full };
    }
    match (knows(a, b.current), knows(b, a.current)) {
        (true, false) => Source(true),
        (false, true) => Target(true),
        (true, true) => SplitBrain { auto: false, full: true },
        _ if past(a) & past(b) != 0 => SplitBrain { auto: false, full: true },
        _ => Refuse(Reason::UnrelatedData),
    }
}

fn answer(strategy: Strategy) -> Answer {
    match strategy {
        Strategy::NoSync => NoSync,
        Strategy::Diskless => panic!("both have disks"),
        Strategy::SourceUseBitmap => Source(false),
        Strategy::SourceSetBitmap => Source(true),
        Strategy::TargetUseBitmap => Target(false),
        Strategy::TargetSetBitmap => Target(true),
        Strategy::SplitBrain { auto, full } => SplitBrain { auto, full },
        Strategy::Refuse { reason } => Refuse(reason),
    }
}

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
    if verdict.strategy == Strategy::NoSync {
        assert!(!bits || verdict.rule == Rule::JustCreatedBoth, "{}", context());
    }

    let party = |side, node_id| Party { side, node_id, discard_my_data: false };
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

fn check_outcome(
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
        Outcome::Source { .. } => assert!(!peer.primary() || violently, "{}", context()),
        Outcome::Target { .. } => assert!(!own.primary() || violently, "{}", context()),
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

const BOTH: [bool; 2] = [false, true];

#[test]
fn all_flags_with_equal_identifiers() {
    let mut states = Vec::new();
    for disk in DISKS {
        for n in 0..16u8 {
            for number in [None, Some(4), Some(5)] {
                for more in 0..3u8 {
                    let bit = |i: u8| n >> i & 1 == 1;
                    let (primary, survived, crashed) = (bit(0), bit(1), bit(2));
                    let (replaced, invalidated) = (more == 1, more == 2);
                    let bits = n >> 3;
                    states.push(Small {
                        disk,
                        primary,
                        survived,
                        crashed,
                        replaced,
                        invalidated,
                        bits,
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
                let own = Party { side: own, node_id: 0, discard_my_data: discard & 1 != 0 };
                let peer = Party { side: peer, node_id: 1, discard_my_data: discard & 2 != 0 };
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
    let party = |info, role, tie, node_id| Party {
        side: Side { info, role, tie },
        node_id,
        discard_my_data: false,
    };
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
    assert_eq!(victim(AfterSb2Pri::ViolentlyAs0p, RrConflict::Disconnect), "primary");
    assert_eq!(victim(AfterSb2Pri::ViolentlyAs0p, RrConflict::Violently), "self");
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
        Party { side, node_id, discard_my_data: false }
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
        let own = Party { side: own, node_id: 0, discard_my_data: discard.0 };
        let peer = Party { side: peer, node_id: 1, discard_my_data: discard.1 };
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

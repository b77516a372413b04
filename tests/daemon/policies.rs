//! The after-sb and rr-conflict policies between two daemons: each one chooses its victim, or
//! nobody, and both disks are equal afterwards.

use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

/// What alice and bob write into the blocks that each has written alone.
const TAGS: [u8; 2] = [0xA1, 0xB0];

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Alice = 0,
    Bob = 1,
}

/// A split brain, and what a policy makes of it.
struct Round {
    options: &'static str,
    /// Blocks that alice and bob write alone; 0: only a new current UUID.
    blocks: [u64; 2],
    primaries: &'static [Who],
    /// Whose data stays, or the reason of the refusal.
    stays: Result<Who, &'static str>,
}

fn node(pair: &Pair, who: Who) -> &Node {
    [&pair.alice, &pair.bob][who as usize]
}

/// The link is cut: both lose each other.
fn cut(pair: &Pair) {
    pair.alice.ok(&["disconnect", "--force", "r0"]);
    pair.bob.ok(&["disconnect", "--force", "r0"]);
}

/// A node goes on alone, from Primary or to be.
fn goes_on(node: &Node, tag: u8, blocks: u64) {
    if blocks == 0 {
        node.ok(&["new-current-uuid", "r0/0"]);
        return;
    }
    node.ok(&["primary", "r0"]);
    let mut client = node.client();
    let bytes = vec![tag; usize::try_from(blocks * 4096).expect("it fits")];
    client.write(0, &bytes, 0).expect("it is written alone");
    client.flush().expect("a flush");
    client.disconnect().expect("a clean end of the client");
}

fn set(pair: &Pair, options: &str) {
    for node in [&pair.alice, &pair.bob] {
        let mut words = vec!["net-options"];
        words.extend(options.split_whitespace());
        words.push("r0");
        node.ok(&words);
    }
}

/// Both disks hold what `who` has written.
fn assert_stays(pair: &Pair, who: Who, what: &str) {
    pair.wait_connected();
    pair.wait_synced();
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.read_disk(1)[0], TAGS[who as usize], "{} of {what}", node.name);
    }
}

fn play(pair: &Pair, round: &Round) {
    let what = format!("{} {:?} {:?}", round.options, round.blocks, round.primaries);
    pair.bob.ok(&["secondary", "r0"]);
    pair.alice.ok(&["primary", "r0"]);
    cut(pair);
    for who in [Who::Alice, Who::Bob] {
        let node = node(pair, who);
        goes_on(node, TAGS[who as usize], round.blocks[who as usize]);
        if !round.primaries.contains(&who) {
            node.ok(&["secondary", "r0"]);
        }
    }
    set(pair, round.options);
    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    match round.stays {
        Ok(who) => assert_stays(pair, who, &what),
        Err("retry") => {
            // It is dropped and dialled again, until a person demotes the target.
            until(&format!("{what}: it is tried again"), || {
                let log = pair.bob.log_text();
                (log.matches("by rule=bitmap-both").count() > 3).then_some(())
            });
            let bob = pair.bob.connection();
            assert_ne!(bob["connection-state"], "StandAlone", "{what}: {bob}");
            pair.bob.ok(&["secondary", "r0"]);
            assert_stays(pair, Who::Alice, &what);
        }
        Err(reason) => {
            for node in [&pair.alice, &pair.bob] {
                node.wait_connection("StandAlone", reason);
                assert!(node.log_text().contains("by rule=bitmap-both"), "{what}");
            }
            // A person chooses.
            set(pair, "--rr-conflict=disconnect");
            pair.bob.ok(&["secondary", "r0"]);
            pair.bob.ok(&["connect", "--discard-my-data", "r0"]);
            pair.alice.ok(&["connect", "r0"]);
            assert_stays(pair, Who::Alice, &what);
        }
    }
}

const NOBODY: &[Who] = &[];
const BOTH: &[Who] = &[Who::Alice, Who::Bob];

#[test]
fn without_a_primary_after_sb_0pri_chooses() {
    let pair = Plan::new().calm().in_sync();
    let round = |options, blocks, stays| Round { options, blocks, primaries: NOBODY, stays };
    for round in [
        round("--after-sb-0pri=disconnect", [3, 2], Err("split-brain")),
        round("--after-sb-0pri=discard-zero-changes", [3, 2], Err("split-brain")),
        round("--after-sb-0pri=discard-zero-changes", [3, 0], Ok(Who::Alice)),
        round("--after-sb-0pri=discard-zero-changes", [0, 2], Ok(Who::Bob)),
        round("--after-sb-0pri=discard-least-changes", [9, 40], Ok(Who::Bob)),
        round("--after-sb-0pri=discard-least-changes", [40, 9], Ok(Who::Alice)),
        // alice was Primary when they parted.
        round("--after-sb-0pri=discard-younger-primary", [2, 30], Ok(Who::Alice)),
        round("--after-sb-0pri=discard-older-primary", [30, 2], Ok(Who::Bob)),
        round("--after-sb-0pri=discard-node-alice", [30, 2], Ok(Who::Bob)),
    ] {
        play(&pair, &round);
    }
    eprintln!("{}", pair.alice.log_text());
    pair.assert_equal_disks();
}

#[test]
fn with_primaries_after_sb_1pri_2pri_and_rr_conflict_choose() {
    let pair = Plan::new().calm().net("connect-int 1;").in_sync();
    let round = |options, blocks, primaries, stays| Round { options, blocks, primaries, stays };
    let (alice, bob): (&[Who], &[Who]) = (&[Who::Alice], &[Who::Bob]);
    let least = "--after-sb-0pri=discard-least-changes";
    for (options, rest, blocks, primaries, stays) in [
        ("--after-sb-1pri=disconnect", least, [9, 3], alice, Err("split-brain")),
        ("--after-sb-1pri=discard-secondary", least, [3, 9], alice, Ok(Who::Alice)),
        ("--after-sb-1pri=discard-secondary", least, [9, 3], bob, Ok(Who::Bob)),
        // 0pri would discard the Primary: no consensus.
        ("--after-sb-1pri=consensus", least, [3, 9], alice, Err("split-brain")),
        ("--after-sb-1pri=consensus", least, [9, 3], alice, Ok(Who::Alice)),
        // As 0pri chooses, but a Primary is not overwritten.
        ("--after-sb-1pri=violently-as0p", least, [9, 3], bob, Err("resync-refused")),
        ("--after-sb-1pri=violently-as0p", "--rr-conflict=violently", [9, 3], bob, Ok(Who::Alice)),
        (
            "--after-sb-2pri=disconnect",
            "--rr-conflict=disconnect",
            [9, 3],
            BOTH,
            Err("split-brain"),
        ),
        ("--after-sb-2pri=violently-as0p", least, [9, 3], BOTH, Err("resync-refused")),
        // It is about what a crashed Primary wrote last, and this one has not crashed.
        (
            "--after-sb-2pri=violently-as0p",
            "--rr-conflict=auto-discard",
            [9, 3],
            BOTH,
            Err("resync-refused"),
        ),
        (
            "--after-sb-2pri=violently-as0p",
            "--rr-conflict=retry-connect",
            [9, 3],
            BOTH,
            Err("retry"),
        ),
    ] {
        let options: &'static str = Box::leak(format!("{options} {rest}").into_boxed_str());
        play(&pair, &round(options, blocks, primaries, stays));
    }
    pair.assert_equal_disks();
}

/// Only history is common: a disk was forced. The policies choose where always-asbp says so.
#[test]
fn where_only_history_is_common_always_asbp_lets_the_policies_choose() {
    let pair = Plan::new().calm().filled().in_sync();
    // A generation that both have in their history.
    cut(&pair);
    goes_on(&pair.alice, 1, 1);
    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    pair.bob.ok(&["disconnect", "r0"]);
    assert_eq!(pair.bob.dstate(), "Outdated/DUnknown");
    goes_on(&pair.alice, TAGS[0], 3);
    pair.alice.ok(&["secondary", "r0"]);
    pair.bob.ok(&["primary", "--force=outdated", "r0"]);
    goes_on(&pair.bob, TAGS[1], 2);
    pair.bob.ok(&["secondary", "r0"]);
    set(&pair, "--after-sb-0pri=discard-node-alice");
    for asbp in ["no", "yes"] {
        set(&pair, &format!("--always-asbp={asbp}"));
        pair.alice.ok(&["connect", "r0"]);
        pair.bob.ok(&["connect", "r0"]);
        if asbp == "no" {
            pair.alice.wait_connection("StandAlone", "split-brain");
            pair.bob.wait_connection("StandAlone", "split-brain");
            let why = pair.alice.ok(&["why", "r0"]);
            assert!(why.contains("rule history-both"), "{why}");
        }
    }
    assert_stays(&pair, Who::Bob, "always-asbp");
    assert_eq!(pair.alice.full_syncs(), 1);
    pair.assert_equal_disks();
}

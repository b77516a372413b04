//! The daemon has the cluster told of a node's score when what it depends on changes; no monitor runs.

use super::{Agent, NOT_RUNNING};
use crate::pair::Node;
use crate::wait::until;

fn gets(agent: &Agent, node: &Node, score: Option<u32>) {
    let what = format!("the score {score:?} of {}", node.name);
    until(&what, || (agent.score(node) == score).then_some(()));
}

#[test]
fn the_score_follows_the_disks_and_the_peer_without_a_monitor() {
    let Some(agent) = Agent::or_skip("the_score_follows_the_disks_and_the_peer_without_a_monitor")
    else {
        return;
    };
    let line = agent.handler("score");
    let plan = agent.plan().sections(&format!("handlers {{ promotion-score \"{line}\"; }}"));
    let pair = agent.promoted(plan);
    let (alice, bob) = (&pair.alice, &pair.bob);
    for node in [alice, bob] {
        gets(&agent, node, Some(10_000));
    }
    // Its clients are served by the peer's disk from here on.
    alice.ok(&["detach", "r0/0"]);
    gets(&agent, alice, Some(10));
    gets(&agent, bob, Some(1_000));
    alice.ok(&["attach", "r0/0"]);
    for node in [alice, bob] {
        gets(&agent, node, Some(10_000));
    }
    bob.ok(&["detach", "r0/0"]);
    gets(&agent, bob, None);
    bob.ok(&["attach", "r0/0"]);
    gets(&agent, bob, Some(10_000));
    // Stopped: what was the resource's own is gone, and a handler that comes late tells nothing.
    agent.is(bob, "stop", 0);
    assert_eq!(agent.score(bob), None);
    assert!(!bob.run_dir.join("crm-r0.agent").exists());
    let late = agent.run(bob, "tell", &[]);
    assert_eq!((late.code, agent.score(bob)), (0, None), "{late:?}");
    assert_eq!(agent.probe(bob), NOT_RUNNING);
}

//! A stop that says "stopped" is a fact: whatever the parameters, the run folder or a handler that is left over.

use std::fs;
use std::time::{Duration, Instant};

use super::{Agent, NOT_RUNNING};

#[test]
fn a_tandemd_whose_folder_was_emptied_is_silent_and_not_stopped() {
    let Some(agent) =
        Agent::or_skip("a_tandemd_whose_folder_was_emptied_is_silent_and_not_stopped")
    else {
        return;
    };
    let pair = agent.promoted_pair();
    for file in ["lock", "control.sock"] {
        fs::remove_file(pair.alice.run_dir.join(file)).expect("it is there");
    }
    let short = [("OCF_RESKEY_CRM_meta_timeout", "8000")];
    agent.refuses(&pair.alice, "monitor", &short, 1, "does not answer");
    let said = agent.run(&pair.alice, "stop", &short);
    assert!(said.code == 0 && said.stderr.contains("it is killed"), "{said:?}");
    assert_eq!(agent.probe(&pair.alice), NOT_RUNNING);
}

#[test]
fn a_stop_fails_while_a_fence_peer_may_mark_the_peer() {
    let Some(agent) = Agent::or_skip("a_stop_fails_while_a_fence_peer_may_mark_the_peer") else {
        return;
    };
    let pair = agent.promoted_pair();
    agent.is(&pair.alice, "demote", 0);
    let lock = fs::File::create(pair.alice.run_dir.join("crm-r0.lock")).expect("a file");
    lock.lock().expect("nobody has it");
    let short = [("OCF_RESKEY_CRM_meta_timeout", "6000")];
    agent.refuses(&pair.alice, "stop", &short, 1, "may mark its peer");
    drop(lock);
    agent.is(&pair.alice, "stop", 0);
    assert_eq!(agent.probe(&pair.alice), NOT_RUNNING);
}

#[test]
fn a_cluster_that_is_slow_with_the_mark_takes_neither_the_demotions_time_nor_the_stops() {
    let test =
        "a_cluster_that_is_slow_with_the_mark_takes_neither_the_demotions_time_nor_the_stops";
    let Some(agent) = Agent::or_skip(test) else { return };
    let pair = agent.promoted_pair();
    let alice = &pair.alice;
    agent.put("slow", "");
    let begun = Instant::now();
    let short = [("OCF_RESKEY_CRM_meta_timeout", "8000")];
    agent.refuses(alice, "demote", &short, 1, "crm-store-uuid has not answered in time");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(alice.ok(&["role", "r0"]), "Secondary\n");
    agent.remove("slow");
    agent.is(alice, "demote", 0);

    // What it says of the mark belongs to a demotion. A stop has more to do, and is done.
    agent.is(alice, "promote", 0);
    agent.put("slow", "");
    let begun = Instant::now();
    let said = agent.run(alice, "stop", &[("OCF_RESKEY_CRM_meta_timeout", "16000")]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    assert_eq!(agent.probe(alice), NOT_RUNNING);
}

#[test]
fn parameters_that_are_no_numbers_are_refused_at_the_start_and_stop_nobody_from_stopping() {
    let test =
        "parameters_that_are_no_numbers_are_refused_at_the_start_and_stop_nobody_from_stopping";
    let Some(agent) = Agent::or_skip(test) else { return };
    let pair = agent.promoted_pair();
    for (name, value) in [("client_wait", "soon"), ("wait_connect", "1m"), ("scores", "10 x")] {
        let name = format!("OCF_RESKEY_{name}");
        let given = [(name.as_str(), value)];
        agent.refuses(&pair.bob, "validate-all", &given, 6, &format!("'{value}'"));
    }
    let given = [("OCF_RESKEY_client_wait", "10s"), ("OCF_RESKEY_wait_connect", "08")];
    assert_eq!(agent.run(&pair.bob, "validate-all", &given).code, 0);
    let mut client = pair.alice.client();
    let said = agent.run(&pair.alice, "stop", &[("OCF_RESKEY_client_wait", "1m")]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(client.flush().is_err(), "its client is closed");
}

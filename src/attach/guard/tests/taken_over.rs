//! Stories of a guard whose device has connections that it does not hold.

use std::time::Duration;

use super::{Guard, LOST, SERVERS, attached, ms, story, terms};

fn adopted(connections: usize) -> Guard {
    let servers = SERVERS.map(|server| server.parse().unwrap()).to_vec();
    Guard::adopted(servers, Some(0), terms(), connections, Duration::from_secs(30), None)
}

/// The kernel tells of an end once: what the guard before it has heard is not heard again.
#[test]
fn an_adopted_device_without_a_server_stays_one_until_a_connection_is_taken() {
    let lost = || {
        let servers = SERVERS.map(|server| server.parse().unwrap()).to_vec();
        let wait = Duration::from_secs(30);
        Guard::adopted(servers, Some(0), terms(), 1, wait, Some(ms(1000)))
    };
    let mut guard = lost();
    assert_eq!(guard.progress().lost_at, Some(ms(1000)));
    story(
        &mut guard,
        &[
            (20_000, "tick", "dial alice 1; dial bob 1", Some(31_000)),
            (20_010, "alice silent", "\"alice:10809: silent\"", Some(20_210)),
            (31_000, "tick", "\"no server for 30 s: I/O fails\"; dial alice 1", None),
            (31_010, "bob serves", "hand bob [0]", None),
            (31_011, "taken", "\"goes on with bob:10809 after 30.0 s\"", None),
        ],
    );
    assert_eq!(guard.progress().lost_at, None);
    // The guard before it was killed right after a hand-over: the kernel takes nothing, for what it has lives.
    let mut guard = lost();
    story(
        &mut guard,
        &[
            (20_000, "tick", "dial alice 1; dial bob 1", Some(31_000)),
            (20_010, "bob serves", "hand bob [0]", Some(31_000)),
            (20_011, "taken 0", &format!("{UNKNOWN}; look 1"), Some(31_000)),
            (20_012, "looked 0", "\"the kernel has a connection that lives\"", Some(25_012)),
        ],
    );
    assert_eq!(guard.progress().lost_at, None);
}

const UNKNOWN: &str = "\"the kernel has a connection that is not known here\"";

/// No server is asked: it would say "connected" and "gone" each time, and may be one that promotes itself.
#[test]
fn a_guard_that_takes_over_looks_at_the_kernel_now_and_then_and_at_no_server() {
    let mut guard = adopted(1);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 1", None),
            (1001, "looked 0", "", Some(6001)),
            (6001, "tick", "look 1", None),
            (
                6002,
                "looked EINVAL",
                "\"the kernel does not tell what is connected: EINVAL\"",
                Some(11_002),
            ),
            (11_002, "tick", "look 1", None),
            (11_003, "looked EINVAL", "", Some(16_003)),
            (12_000, "missed", "look 1", None),
            (12_001, "looked 0", "", Some(17_001)),
            // Its server ended while there was no guard, or its word was lost.
            (17_001, "tick", "look 1", None),
            (17_002, "looked 1", "", Some(17_302)),
            (17_003, "dead", LOST, Some(47_003)),
            (17_010, "bob serves", "hand bob [0]", Some(47_003)),
            (17_011, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
    // The kernel's last word may be lost too.
    let mut guard = adopted(1);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 1", None),
            (1001, "looked 1", "", Some(1301)),
            (1301, "tick", LOST, Some(31_301)),
        ],
    );
}

#[test]
fn an_event_makes_what_was_taken_over_known() {
    let mut guard = adopted(1);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 1", None),
            (1001, "looked 0", "", Some(6001)),
            // It may be of before the look.
            (1002, "dead", "look 1", None),
            (1003, "looked 0", "", Some(6003)),
            (2000, "dead", LOST, Some(32_000)),
            (2001, "bob serves", "hand bob [0]", Some(32_000)),
            (2002, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
}

/// Two of three have ended, and the third lives at alice, where it cannot be closed.
#[test]
fn a_device_that_was_taken_over_is_not_split_over_two_servers() {
    let not_taken = "drop bob; \"bob:10809: not taken: a connection to alice:10809 lives that an earlier guard \
                     has made. It cannot be closed here, and no device has two servers\"";
    let mut guard = adopted(3);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 3", None),
            (1001, "looked 2", "", Some(1301)),
            (1002, "dead", "", Some(1301)),
            // Only the server that it had: another one might be promoted by being asked.
            (1003, "dead", "dial alice 2", Some(31_003)),
            (
                1010,
                "alice r0: bob is Primary",
                "\"alice:10809: r0: bob is Primary\"; dial bob 2",
                Some(1210),
            ),
            (1011, "bob serves", not_taken, Some(1210)),
            (1210, "tick", "dial alice 2", Some(6011)),
            (1220, "alice r0: bob is Primary", "", Some(1620)),
            // The last one ends: all of them have, and nothing is refused any more.
            (
                2000,
                "dead",
                "\"the connection to alice:10809 has ended; I/O waits, 30 s at most\"; dial alice 3; dial bob 3",
                Some(32_000),
            ),
            (2010, "bob serves", "hand bob [0, 1, 2]", Some(32_000)),
            (2011, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
    // Where the kernel's word is lost, a look tells.
    let mut guard = adopted(2);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 2", None),
            (1001, "looked 1", "", Some(1301)),
            (1002, "dead", "dial alice 1", Some(31_002)),
            (1010, "alice silent", "\"alice:10809: silent\"; dial bob 1", Some(1210)),
            (1011, "bob serves", not_taken, Some(1210)),
            (1210, "tick", "dial alice 1", Some(6011)),
            (31_002, "tick", "look 2", None),
            (31_003, "looked 2", "", Some(31_303)),
            (31_004, "dead", "", Some(31_303)),
            (
                31_005,
                "dead",
                "\"the connection to alice:10809 has ended; I/O waits, 30 s at most\"; dial bob 2",
                Some(61_005),
            ),
            // What was asked for before is too little, and its own server may take it.
            (31_006, "alice silent", "\"alice:10809: silent\"", Some(31_206)),
            (31_010, "bob serves", "hand bob [0, 1]", Some(61_005)),
            (31_011, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
    // What has ended is replaced at the same server, and watched.
    let mut guard = adopted(2);
    story(
        &mut guard,
        &[
            (1000, "tick", "look 2", None),
            (1001, "looked 1", "", Some(1301)),
            (1002, "dead", "dial alice 1", Some(31_002)),
            (1010, "alice serves", "hand alice [0]", None),
            (1011, "taken", "", Some(31_002)),
            // An end that is not of the one that is held.
            (2000, "dead", "", Some(2300)),
            (2300, "tick", "dial alice 1; dial bob 1", None),
            (2301, "bob silent", "\"bob:10809: silent\"", Some(2501)),
            (2302, "alice serves", "hand alice [1]", None),
            (2303, "taken", "", None),
        ],
    );
}

/// The guard was told of an end too much, and the kernel's connection lives at alice.
#[test]
fn what_another_server_was_given_beside_one_that_lives_is_closed_again() {
    let mut guard = attached(2);
    let lost = "\"the connection to alice:10809 has ended; I/O waits, 30 s at most\"; dial alice 2; dial bob 2";
    story(
        &mut guard,
        &[
            (1000, "closed 0", "dial alice 1; dial bob 1", None),
            (1001, "bob silent", "\"bob:10809: silent\"", Some(1201)),
            (1002, "alice silent", "\"alice:10809: silent\"", Some(1201)),
            (1003, "closed 1", lost, Some(31_003)),
            (1010, "bob serves", "hand bob [0, 1]", Some(31_003)),
            (1011, "taken 1", &format!("{UNKNOWN}; close"), Some(31_003)),
            (1012, "closed 0", "look 2", Some(31_003)),
            (1013, "looked 2", "", Some(1313)),
            (1014, "dead", "", Some(1313)),
            (1015, "dead", "dial bob 2", Some(31_003)),
            (1016, "bob serves", "hand bob [0, 1]", Some(31_003)),
            (1017, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
}

#[test]
fn whose_server_is_none_of_these_goes_to_one_of_them_when_all_has_ended() {
    let servers = SERVERS.map(|server| server.parse().unwrap()).to_vec();
    let mut guard = Guard::adopted(servers, None, terms(), 2, Duration::from_secs(30), None);
    assert_eq!(guard.progress().server, None);
    let not_taken = "drop alice; \"alice:10809: not taken: a connection to its server lives that an earlier \
                     guard has made. It cannot be closed here, and no device has two servers\"";
    story(
        &mut guard,
        &[
            (1000, "tick", "look 2", None),
            (1001, "looked 1", "", Some(1301)),
            (1002, "dead", "dial alice 1; dial bob 1", Some(31_002)),
            (1010, "alice serves", not_taken, Some(6010)),
            (
                2000,
                "dead",
                "\"the connection to its server has ended; I/O waits, 30 s at most\"; dial alice 2",
                Some(32_000),
            ),
            (2001, "alice serves", "hand alice [0, 1]", Some(32_000)),
            (2002, "taken", "\"goes on with alice:10809 after 0.0 s\"", None),
        ],
    );
    assert_eq!(guard.progress().server, Some(0));
}

/// The kernel throws away a connection that comes before it has noticed the end of the old one.
#[test]
fn an_end_of_none_that_is_held_makes_the_guard_look_into_all() {
    let lost = "\"the kernel has lost a connection that is not known here\"; look 1";
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (1000, "dead", "", Some(1300)),
            (1299, "tick", "", Some(1300)),
            (1300, "tick", lost, None),
            // The kernel has let go of what it took when it says so.
            (1310, "looked 1", "", Some(1610)),
            (1320, "dead", LOST, Some(31_320)),
            (1330, "alice serves", "hand alice [0]", Some(31_320)),
            (1331, "taken", "\"goes on with alice:10809 after 0.0 s\"", None),
        ],
    );
    // It was the late word of an earlier end: nothing has changed, and the connections can be closed.
    let mut guard = attached(2);
    story(
        &mut guard,
        &[
            (1000, "dead", "", Some(1300)),
            (1300, "tick", &lost.replace('1', "2"), None),
            (1310, "looked 0", "", None),
            (9000, "closed 0", "dial alice 1; dial bob 1", None),
            (
                9001,
                "bob serves",
                "drop bob; \"bob:10809 is Primary: the connections to alice:10809 are closed\"; close",
                None,
            ),
        ],
    );
    // Its own end comes right after the word.
    let mut guard = attached(1);
    story(&mut guard, &[(1000, "dead", "", Some(1300)), (1001, "hang-up 0", LOST, Some(31_001))]);
}

//! Stories of a guard: what happens at which time, and what it does about it.

mod taken_over;

use std::time::Duration;

use nbd::client::Description;

use super::{Action, DialError, Event, Guard};
use crate::attach::Terms;

const SERVERS: [&str; 2] = ["alice:10809", "bob:10809"];
const SIZE: u64 = 1 << 20;
const FLAGS: u16 = 0x17d;

fn terms() -> Terms {
    Terms { size: SIZE, flags: FLAGS, block: 512 }
}

fn export(size: u64) -> Description {
    Description { size, flags: FLAGS, block: Some((1, 4096, 1 << 25)), ..Default::default() }
}

fn attached(connections: usize) -> Guard {
    let servers = SERVERS.map(|server| server.parse().unwrap()).to_vec();
    Guard::attached(servers, 0, terms(), connections, Duration::from_secs(30))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An event in a word or two; `alice` and `bob` are attempts; `closed` is a hang-up that the kernel has
/// told of before.
fn event(words: &str) -> Event {
    let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
    let server = usize::from(word == "bob");
    let dialled = |result| Event::Dialled { server, result };
    match (word, rest) {
        ("tick", _) => Event::Tick,
        ("dead", _) => Event::LinkDead,
        ("closed" | "hang-up", place) => Event::Closed(place.parse().unwrap()),
        ("taken", "") => Event::Handed(Ok(usize::MAX)),
        ("taken", number) => Event::Handed(Ok(number.parse().unwrap())),
        ("looked", number) => match number.parse() {
            Ok(number) => Event::Looked(Ok(number)),
            Err(_) => Event::Looked(Err(number.to_owned())),
        },
        ("missed", _) => Event::Missed,
        ("error", text) => Event::Handed(Err(text.to_owned())),
        ("described" | "elsewhere", size) => {
            let server = usize::from(word == "elsewhere");
            Event::Described { server, export: export(size.parse().unwrap()) }
        }
        ("resized", "") => Event::Resized(Ok(())),
        ("resized", text) => Event::Resized(Err(text.to_owned())),
        ("gone", _) => Event::Gone("it is detached".to_owned()),
        (_, "serves") => dialled(Ok(export(SIZE))),
        (_, "grown") => dialled(Ok(export(2 * SIZE))),
        (_, "shrunk") => dialled(Ok(export(SIZE / 2))),
        (_, "silent") => dialled(Err(DialError::Failed("silent".to_owned()))),
        (_, refusal) => dialled(Err(DialError::Refused(refusal.to_owned()))),
    }
}

/// Everything that the guard does now, in words; its log in quotes.
fn actions(guard: &mut Guard) -> String {
    let name = |server: usize| SERVERS[server].split(':').next().unwrap();
    let mut words = Vec::new();
    while let Some(action) = guard.next_action() {
        words.push(match action {
            Action::Dial { server, connections } => format!("dial {} {connections}", name(server)),
            Action::Drop { server } => format!("drop {}", name(server)),
            Action::Close => "close".to_owned(),
            Action::HandOver { server, places } => format!("hand {} {places:?}", name(server)),
            Action::Look(connections) => format!("look {connections}"),
            Action::Log(text) => format!("\"{text}\""),
            Action::Resize(size) => format!("resize {size}"),
            Action::Changed => continue,
            Action::Fail => "fail".to_owned(),
            Action::End => "end".to_owned(),
        });
    }
    words.join("; ")
}

/// Milliseconds, the event, what the guard does, and the milliseconds of its next tick.
type Step<'a> = (u64, &'a str, &'a str, Option<u64>);

fn story(guard: &mut Guard, steps: &[Step<'_>]) {
    for (at, what, expected, next) in steps {
        if what.starts_with("closed") {
            guard.handle(ms(*at), Event::LinkDead);
        }
        guard.handle(ms(*at), event(what));
        assert_eq!(actions(guard), *expected, "at {at} ms: {what}");
        assert_eq!(guard.next_timeout(), next.map(ms), "after {at} ms: {what}");
    }
}

const LOST: &str = "\"the connection to alice:10809 has ended; I/O waits, 30 s at most\"; dial alice 1; dial bob 1";

#[test]
fn a_crash_ends_with_the_server_that_is_promoted() {
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (0, "tick", "", None),
            (1000, "closed 0", LOST, Some(31_000)),
            (1010, "bob r0: Secondary", "\"bob:10809: r0: Secondary\"", Some(1210)),
            (1020, "alice silent", "\"alice:10809: silent\"", Some(1210)),
            (1210, "tick", "dial bob 1", Some(1220)),
            (1220, "tick", "dial alice 1", Some(31_000)),
            // The same words again are not logged again; a server that is silent is asked less often.
            (1230, "alice silent", "", Some(1630)),
            (1240, "bob r0: Secondary", "", Some(1440)),
            (1440, "tick", "dial bob 1", Some(1630)),
            (1500, "bob serves", "hand bob [0]", Some(31_000)),
            (1501, "taken", "\"goes on with bob:10809 after 0.5 s\"", None),
            (1502, "hang-up 7", "", None),
        ],
    );
    assert_eq!(guard.progress().server, Some(1));
    assert!(guard.progress().refusals.is_empty());
}

/// A socket that is handed over before the kernel has let go of the old one is lost.
#[test]
fn nothing_is_handed_over_before_the_kernel_has_told() {
    let mut guard = attached(1);
    story(&mut guard, &[(1000, "hang-up 0", "", Some(1300)), (1005, "dead", LOST, Some(31_005))]);
    // Its word can be lost.
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (1000, "hang-up 0", "", Some(1300)),
            (1299, "tick", "", Some(1300)),
            (1300, "tick", LOST, Some(31_300)),
        ],
    );
    // Nor of the second one before its own word.
    let mut guard = attached(2);
    story(
        &mut guard,
        &[
            (1000, "hang-up 1", "", Some(1300)),
            (1001, "dead", "dial alice 1; dial bob 1", None),
            (1002, "hang-up 0", "", Some(1302)),
            (1003, "alice serves", "hand alice [1]", Some(1302)),
            (1004, "taken", "", Some(1302)),
            (1302, "tick", "dial alice 1", None),
        ],
    );
}

#[test]
fn the_server_that_a_refusal_names_is_asked_at_once() {
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (1000, "closed 0", LOST, Some(31_000)),
            (1010, "bob silent", "\"bob:10809: silent\"", Some(1210)),
            (
                1020,
                "alice r0: bob is Primary; connect there",
                "\"alice:10809: r0: bob is Primary; connect there\"",
                Some(1070),
            ),
            (1070, "tick", "dial bob 1", Some(1220)),
        ],
    );
}

#[test]
fn of_two_servers_that_answer_the_first_is_taken() {
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (1000, "closed 0", LOST, Some(31_000)),
            (1010, "alice serves", "hand alice [0]", Some(31_000)),
            // While the kernel has not answered, and after it.
            (1011, "bob serves", "drop bob", Some(31_000)),
            (1012, "taken", "\"goes on with alice:10809 after 0.0 s\"", None),
            (1013, "tick", "", None),
        ],
    );
}

#[test]
fn without_any_server_it_is_said_when_io_fails_and_the_search_goes_on() {
    let mut guard = attached(1);
    let mut now = 1000;
    story(&mut guard, &[(now, "closed 0", LOST, Some(31_000))]);
    let mut said = Vec::new();
    for _ in 0..200 {
        for server in ["alice silent", "bob silent"] {
            guard.handle(ms(now), event(server));
        }
        said.extend(actions(&mut guard).split("; ").map(str::to_owned));
        let next = guard.next_timeout().unwrap();
        assert!(next > ms(now) && next <= ms(now + 1000), "{next:?} after {now}");
        now = u64::try_from(next.as_millis()).unwrap();
        guard.handle(ms(now), Event::Tick);
        said.extend(actions(&mut guard).split("; ").map(str::to_owned));
    }
    assert!(now > 100_000, "{now}");
    let logged: Vec<&String> = said.iter().filter(|word| word.starts_with('"')).collect();
    assert_eq!(
        logged,
        ["\"alice:10809: silent\"", "\"bob:10809: silent\"", "\"no server for 30 s: I/O fails\""]
    );
    let progress = guard.progress();
    assert_eq!(progress.lost_at, Some(ms(1000)));
    assert_eq!(progress.refusals.len(), 2);
    story(
        &mut guard,
        &[
            (200_000, "bob serves", "hand bob [0]", None),
            (200_001, "taken", "\"goes on with bob:10809 after 199.0 s\"", None),
        ],
    );
}

#[test]
fn an_export_that_does_not_fit_is_never_handed_over() {
    let mut guard = attached(1);
    let unfit = "not taken: it has 524288 bytes, and the device has 1048576: it is another \
                 volume, or has shrunk";
    story(
        &mut guard,
        &[
            (1000, "closed 0", LOST, Some(31_000)),
            (1010, "bob shrunk", &format!("drop bob; \"bob:10809: {unfit}\""), Some(6010)),
            (1020, "alice silent", "\"alice:10809: silent\"", Some(1220)),
            (6010, "tick", "dial alice 1; dial bob 1", Some(31_000)),
            (6020, "bob shrunk", "drop bob", Some(11_020)),
            // Its size is told when requests are answered again.
            (6030, "alice grown", "hand alice [0]", Some(31_000)),
            (6040, "taken", "\"goes on with alice:10809 after 5.0 s\"", None),
            (6050, "described 2097152", "resize 2097152", None),
            (6060, "resized", "\"the device has grown to 2097152 bytes\"", None),
            // From now on the larger size counts.
            (7000, "closed 0", LOST, Some(37_000)),
        ],
    );
    assert_eq!(guard.progress().size, 2 * SIZE);
}

#[test]
fn an_error_of_the_kernel_is_said_and_tried_again() {
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (1000, "closed 0", LOST, Some(31_000)),
            (1010, "alice serves", "hand alice [0]", Some(31_000)),
            (
                1020,
                "error EINVAL",
                "\"alice:10809: the kernel did not take its connection: EINVAL\"",
                Some(6020),
            ),
            (6020, "tick", "dial alice 1", Some(31_000)),
            (6021, "gone", "\"it is detached\"; end", None),
            (6022, "alice serves", "drop alice", None),
            (6023, "gone", "", None),
        ],
    );
}

#[test]
fn of_several_connections_only_those_that_ended_are_replaced_on_the_same_server() {
    let mut guard = attached(3);
    story(
        &mut guard,
        &[
            (1000, "closed 1", "dial alice 1; dial bob 1", None),
            // One more ends while the attempt is under way: it brings one connection.
            (1005, "closed 2", "", None),
            (1010, "alice serves", "hand alice [1]", None),
            (1011, "taken", "dial alice 1", None),
            (1012, "alice serves", "hand alice [2]", None),
            (1013, "taken", "", None),
            (1014, "bob r0: alice is Primary", "", None),
        ],
    );
    assert_eq!(guard.progress().lost_at, None);
}

#[test]
fn no_device_has_connections_to_two_servers() {
    let mut guard = attached(2);
    story(
        &mut guard,
        &[
            (1000, "closed 0", "dial alice 1; dial bob 1", None),
            (
                1010,
                "bob serves",
                "drop bob; \"bob:10809 is Primary: the connections to alice:10809 are closed\"; \
                 close",
                None,
            ),
            // Nothing is handed over before the kernel has let go of the other one.
            (1011, "alice silent", "", None),
            (
                1020,
                "closed 1",
                "\"the connection to alice:10809 has ended; I/O waits, 30 s at most\"; dial alice \
                 2; dial bob 2",
                Some(31_020),
            ),
            (1030, "bob serves", "hand bob [0, 1]", Some(31_020)),
            (1031, "taken", "\"goes on with bob:10809 after 0.0 s\"", None),
        ],
    );
}

/// A refusal that nothing changes: `nbd-clients exclusive`, or another server's.
#[test]
fn who_refuses_is_asked_less_and_less_often() {
    let asked = |guard: &mut Guard, from: u64, to: u64| {
        let (mut now, mut count) = (from, 0);
        while now < to {
            guard.handle(ms(now), event("alice no"));
            guard.handle(ms(now), event("bob no"));
            while let Some(action) = guard.next_action() {
                count += usize::from(matches!(action, Action::Dial { server: 0, .. }));
            }
            now = u64::try_from(guard.next_timeout().unwrap().as_millis()).unwrap();
            guard.handle(ms(now), Event::Tick);
        }
        count
    };
    // One of two connections is replaced by nobody.
    let mut guard = attached(2);
    story(&mut guard, &[(0, "closed 0", "dial alice 1; dial bob 1", None)]);
    assert!((20..=26).contains(&asked(&mut guard, 0, 100_000)));
    // Without a server a promotion is not to be waited for: five times a second, and later once.
    let mut guard = attached(1);
    story(&mut guard, &[(0, "closed 0", LOST, Some(30_000))]);
    let (first, later) = (asked(&mut guard, 0, 60_000), asked(&mut guard, 60_000, 120_000));
    assert!((290..=302).contains(&first) && (58..=63).contains(&later), "{first} {later}");
}

#[test]
fn a_volume_that_grows_makes_the_device_grow_while_it_is_in_use() {
    let mut guard = attached(1);
    story(
        &mut guard,
        &[
            (0, "described 1048576", "", None),
            (0, "described 524288", "", None),
            // Only what serves the device tells its size.
            (0, "elsewhere 2097152", "", None),
            (1, "described 2097152", "resize 2097152", None),
            (2, "resized EINVAL", "\"the kernel does not take 2097152 bytes: EINVAL\"", None),
            (3, "described 2097152", "resize 2097152", None),
            // It takes its time.
            (3, "described 2097152", "", None),
            (4, "resized", "\"the device has grown to 2097152 bytes\"", None),
            (5, "described 2097152", "", None),
            (1000, "closed 0", LOST, Some(31_000)),
            (1001, "described 4194304", "", Some(31_000)),
        ],
    );
    assert_eq!(guard.progress().size, 2 * SIZE);
}

fn kept(keepers: &[u8]) -> Description {
    Description { keepers: keepers.iter().map(|one| [*one; 16]).collect(), ..export(SIZE) }
}

/// A device that systems 1 and 2 have told all of, and has lost its server.
fn lost() -> Guard {
    let mut guard = attached(1).kept_by(kept(&[1, 2]).keepers);
    story(&mut guard, &[(0, "tick", "", None), (1000, "closed 0", LOST, Some(31_000))]);
    guard
}

/// A server that is in sync again is known soon: the other one may fail next.
#[test]
fn who_has_all_is_asked_for_often_while_that_is_not_every_server() {
    for (keepers, seconds) in [(&[][..], 5), (&[1], 1), (&[1, 2], 5), (&[1, 2, 3], 5)] {
        let guard = attached(1).kept_by(kept(keepers).keepers);
        assert_eq!(guard.asks_every(), Duration::from_secs(seconds), "{keepers:?}");
    }
}

fn serves(guard: &mut Guard, at: u64, server: usize, keepers: &[u8]) -> String {
    guard.handle(ms(at), Event::Dialled { server, result: Ok(kept(keepers)) });
    actions(guard)
}

#[test]
fn a_server_that_has_all_that_was_answered_takes_the_place() {
    // Itself; in sync with one; one that does not tell.
    for (keepers, now) in [(&[2][..], &[2][..]), (&[3, 1], &[3, 1]), (&[], &[1, 2])] {
        let mut guard = lost();
        assert_eq!(serves(&mut guard, 1010, 1, keepers), "hand bob [0]");
        assert_eq!(guard.progress().keepers, kept(now).keepers);
    }
}

#[test]
fn a_server_that_may_lack_what_was_answered_ends_the_device() {
    let mut guard = lost();
    assert_eq!(
        serves(&mut guard, 1010, 1, &[3, 4]),
        "drop bob; \"the device is let go of, and its I/O fails: bob:10809 may lack what was answered and \
         not flushed: no system that had it in its cache has run on; unmount it, have `tandemadm device \
         detach --force` remove what is left of it, attach it again, and check the file system before it \
         is mounted\"; fail"
    );
    assert!(guard.progress().failed.unwrap().contains("bob:10809 may lack"));
    // Whoever comes later does not change that.
    assert_eq!(serves(&mut guard, 1020, 0, &[1]), "drop alice");
    story(&mut guard, &[(2000, "tick", "", None), (40_000, "tick", "", None)]);
}

#[test]
fn a_server_that_says_that_it_is_lost_ends_also_a_device_that_was_told_of_nobody() {
    let mut guard = attached(1);
    guard.handle(ms(0), Event::LinkDead);
    guard.handle(ms(0), Event::Closed(0));
    actions(&mut guard);
    assert!(serves(&mut guard, 1010, 1, &[0xff]).ends_with("; fail"));
}

#[test]
fn who_has_all_that_was_answered_is_asked_again_and_again() {
    let mut guard = attached(1).kept_by(kept(&[1, 2]).keepers);
    let mut described = |server, keepers: &[u8]| {
        guard.handle(ms(1), Event::Described { server, export: kept(keepers) });
        assert_eq!(actions(&mut guard), "");
        guard.progress().keepers
    };
    assert_eq!(described(0, &[1]), kept(&[1]).keepers);
    assert_eq!(described(0, &[]), kept(&[1]).keepers, "nothing is told");
    assert_eq!(described(1, &[1, 2]), kept(&[1]).keepers, "it is not asked");
    assert_eq!(described(0, &[3]), kept(&[1]).keepers, "it has started anew");
    assert_eq!(described(0, &[3, 1]), kept(&[3, 1]).keepers);
}

#[test]
fn the_device_of_a_node_itself_ends_where_another_node_is_primary() {
    let refused = |servers: &[&str], text: &str| {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        let mut guard = Guard::attached(servers, 0, terms(), 1, Duration::from_secs(30));
        guard.handle(ms(0), Event::LinkDead);
        guard.handle(ms(0), Event::Closed(0));
        actions(&mut guard);
        let result = Err(DialError::Refused(text.to_owned()));
        guard.handle(ms(10), Event::Dialled { server: 0, result });
        while guard.next_action().is_some() {}
        guard.progress().failed
    };
    let primary = "r0: bob is Primary; connect there";
    let own = "unix:/run/tandem/nbd.sock";
    assert_eq!(refused(&[own], primary).unwrap(), "bob is Primary, and may have written since");
    assert_eq!(refused(&[own], "r0: Secondary; `tandemadm primary r0` serves it here"), None);
    assert_eq!(refused(&["alice:10809"], primary), None, "its server has moved");
    assert_eq!(refused(&[own, "bob:10809"], primary), None, "it can go there");
}

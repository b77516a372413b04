//! Real processes, short ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::*;
use crate::io::SocketBuffers;
use crate::resource::{
    ConnectionState, DiskState, Handler, Options, PeerConfig, Resource, Time, VolumeConfig,
};

fn setup() -> Setup {
    let disk = |number, minor| VolumeConfig {
        number,
        minor,
        disk: format!("/disk{number}"),
        disk_options: None,
    };
    let config = ResourceConfig {
        name: "r0".into(),
        node_id: 0,
        node_name: "alice".into(),
        peers: vec![PeerConfig { node_id: 1, name: "bob".into(), address: "x".into() }],
        volumes: vec![disk(0, 7), disk(1, 8)],
        options: Options::default(),
    };
    Setup {
        buffers: SocketBuffers::of(&config.options),
        config,
        local: "10.0.0.1:7789".parse().unwrap(),
        peers: vec![(1, "[fd00::2]:7789".parse().unwrap())],
        secrets: None,
        record: None,
        seed: 1,
        state_dir: "/nowhere".into(),
        places: HandlerPlaces {
            config: "/etc/tandem.conf".into(),
            node: "alice".into(),
            run_dir: "/run/x".into(),
        },
    }
}

fn runs() -> HandlerRuns {
    let setup = setup();
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let status = Resource::new(setup.config.clone(), 1, Time(1), 0).status(Time(1));
    HandlerRuns::new(&setup, Arc::new(Shared::new(wake, status.clone())), &status)
}

fn call(handler: Handler, line: &str) -> Box<HandlerCall> {
    Box::new(HandlerCall {
        handler,
        line: line.to_owned(),
        volume: None,
        peer: Some(1),
        connection_state: Some(ConnectionState::Connecting),
        up_to_date_nodes: 1,
        limit_ms: 20_000,
    })
}

impl HandlerRuns {
    /// The ends of so many, in their order.
    fn wait(&mut self, count: usize) -> Vec<Ended> {
        let until = Instant::now() + Duration::from_secs(20);
        let mut all = Vec::new();
        while all.len() < count && Instant::now() < until {
            all.extend(self.ended());
            let mut woken = [PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
            if poll(&mut woken, PollTimeout::from(1_000_u16)).unwrap() > 0 {
                self.shared.wake.read().unwrap();
            }
        }
        all
    }

    fn outcome(&mut self, line: &str) -> HandlerOutcome {
        self.run(1, call(Handler::FencePeer, line));
        self.wait(1)[0].1
    }
}

#[test]
fn a_handler_is_told_what_drbd_tells_it_and_nothing_else() {
    let (config, origin) = (setup().config, environment::Origin::of(&setup()));
    let all = environment::environment(&config, &origin, &call(Handler::FencePeer, "true"));
    let all: BTreeMap<&str, &str> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for (name, value) in [
        ("DRBD_RESOURCE", "r0"),
        ("DRBD_MY_NODE_ID", "0"),
        ("DRBD_NODE_ID_0", "alice"),
        ("DRBD_NODE_ID_1", "bob"),
        ("DRBD_PEER_NODE_ID", "1"),
        ("DRBD_PEER", "bob"),
        ("DRBD_PEERS", "bob"),
        ("DRBD_MY_ADDRESS", "10.0.0.1"),
        ("DRBD_MY_AF", "ipv4"),
        ("DRBD_PEER_ADDRESS", "fd00::2"),
        ("DRBD_PEER_AF", "ipv6"),
        ("DRBD_CSTATE", "Connecting"),
        ("UP_TO_DATE_NODES", "0x1"),
        ("DRBD_VOLUME", "0 1"),
        ("DRBD_MINOR", "7 8"),
        ("DRBD_LL_DISK", "/disk0 /disk1"),
        ("DRBD_BACKING_DEV", "/disk0 /disk1"),
        ("DRBD_CONF", "/etc/tandem.conf"),
        ("TANDEM_RUN_DIR", "/run/x"),
    ] {
        assert_eq!(all.get(name), Some(&value), "{name}");
    }
    let mut one = call(Handler::BeforeResyncTarget, "true");
    one.volume = Some(1);
    let all = environment::environment(&config, &origin, &one);
    assert!(all.contains(&("DRBD_MINOR".into(), "8".into())), "{all:?}");
}

#[test]
fn the_line_runs_in_a_shell_with_a_clean_environment_and_no_input() {
    let mut runs = runs();
    // Cargo's variables are the daemon's in this test.
    let line = "test -z \"$CARGO_MANIFEST_DIR\" && test \"$DRBD_RESOURCE\" = r0 && \
                ! read word && exit 4; exit 1";
    assert_eq!(runs.outcome(line), HandlerOutcome::Exited(4));
    assert_eq!(runs.outcome("exit 7"), HandlerOutcome::Exited(7));
    assert_eq!(runs.outcome("kill -9 $$"), HandlerOutcome::Signalled(9));
    assert_eq!(runs.outcome("/nowhere/x"), HandlerOutcome::Exited(127));
    let signals = "test \"$(grep SigBlk /proc/self/status | tr -dc 1-9)\" = ''";
    assert_eq!(runs.outcome(signals), HandlerOutcome::Exited(0), "no signal is blocked");
    assert!(locked(&runs.processes).is_empty(), "all are reaped");
}

#[test]
fn the_whole_group_is_killed_at_the_limit_and_the_end_is_told_once() {
    let mut runs = runs();
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut slow =
        call(Handler::FencePeer, &format!("sleep 60 & echo $! > {}; wait", pid.display()));
    slow.limit_ms = 300;
    let started = Instant::now();
    runs.run(5, slow);
    assert_eq!(runs.wait(1), [(5, HandlerOutcome::TimedOut)]);
    assert!(started.elapsed() < Duration::from_secs(10));
    let child = std::fs::read_to_string(pid).unwrap();
    let child = format!("/proc/{}/stat", child.trim());
    let gone = || std::fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z "));
    let until = Instant::now() + Duration::from_secs(10);
    while !gone() && Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(gone(), "its child is killed as well");
    assert!(runs.ended().is_empty(), "told once");
}

#[test]
fn who_only_tells_waits_for_his_turn_and_who_is_awaited_does_not() {
    let mut runs = runs();
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let hold = format!("until test -e {}; do sleep 0.01; done", go.display());
    runs.run(1, call(Handler::SplitBrain, &hold));
    for number in 2..70 {
        runs.run(number, call(Handler::Disconnected, "true"));
    }
    runs.run(100, call(Handler::FencePeer, "exit 4"));
    let mut first = runs.wait(5);
    first.sort_unstable_by_key(|ended| ended.0);
    let full = |number| (number, HandlerOutcome::NotStarted(0));
    let expected = [full(66), full(67), full(68), full(69), (100, HandlerOutcome::Exited(4))];
    assert_eq!(first, expected, "64 wait, the others are refused");
    std::fs::write(go, "").unwrap();
    let order: Vec<u64> = runs.wait(65).iter().map(|ended| ended.0).collect();
    assert_eq!(order, (1..66).collect::<Vec<_>>());
}

#[test]
fn a_child_that_keeps_the_output_open_does_not_keep_the_answer() {
    let mut runs = runs();
    let dir = tempfile::tempdir().unwrap();
    // It ends with the folder.
    let hold = format!("(while test -e {}; do sleep 0.01; done) & exit 5", dir.path().display());
    assert_eq!(runs.outcome(&hold), HandlerOutcome::Exited(5));
}

#[test]
fn the_end_of_a_resource_ends_what_somebody_has_waited_for() {
    let mut runs = runs();
    runs.run(1, call(Handler::FencePeer, "sleep 60"));
    let until = Instant::now() + Duration::from_secs(10);
    while locked(&runs.processes).is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    runs.end();
    assert_eq!(runs.wait(1), [(1, HandlerOutcome::Signalled(15))]);
}

#[test]
fn what_makes_a_node_fit_is_told_one_at_a_time_and_once_for_all_that_changed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let line = format!(
        "echo $UP_TO_DATE_NODES >>{}; while ! test -e {}; do sleep 0.01; done",
        path("told"),
        path("go"),
    );
    let mut runs = runs();
    let mut options = Options::default();
    let mut status = (*runs.shared.latest()).clone();
    let told = || std::fs::read_to_string(path("told")).unwrap_or_default();
    // Without a line nobody is told; nor of what is as it was, or of no concern.
    runs.state_changed(&status);
    options.handlers.insert(Handler::PromotionScore, line);
    runs.set_options(&options);
    runs.state_changed(&status);
    status.connections[0].connection_state = ConnectionState::Connecting;
    runs.state_changed(&status);
    assert_eq!(runs.fitness.next(), None);
    status.role = crate::resource::Role::Primary;
    runs.state_changed(&status);
    let until = Instant::now() + Duration::from_secs(20);
    while told().is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    for state in [DiskState::Inconsistent, DiskState::Consistent, DiskState::UpToDate] {
        status.connections[0].peer_devices.iter_mut().for_each(|one| one.peer_disk_state = state);
        runs.state_changed(&status);
    }
    assert_eq!(told(), "0x1\n");
    std::fs::write(path("go"), "").unwrap();
    while told().lines().count() < 2 && Instant::now() < until {
        // Its end is nobody else's.
        assert_eq!(runs.ended(), []);
    }
    while runs.fitness.is_running() && Instant::now() < until {
        assert_eq!(runs.ended(), []);
    }
    assert_eq!((told().as_str(), runs.fitness.next()), ("0x1\n0x3\n", None));
}

#[test]
fn a_handler_is_told_the_addresses_and_disks_of_now() {
    let mut runs = runs();
    let path = |remote: &str| PeerPath {
        peer: 1,
        local: "10.0.1.1:7789".parse().unwrap(),
        remote: remote.parse().unwrap(),
    };
    runs.set_paths(&[path("10.0.1.2:7789"), path("10.0.2.2:7789")]);
    runs.set_disk(1, "/other");
    let environment =
        environment::environment(&runs.config, &runs.setup, &call(Handler::FencePeer, "true"));
    for (name, wanted) in [
        ("DRBD_MY_ADDRESS", "10.0.1.1"),
        ("DRBD_PEER_ADDRESS", "10.0.1.2"),
        ("DRBD_PEER_AF", "ipv4"),
        ("DRBD_BACKING_DEV", "/disk0 /other"),
    ] {
        let value =
            environment.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str());
        assert_eq!(value, Some(wanted), "{name}");
    }
}

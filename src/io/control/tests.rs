//! The daemon in this process, with data threads that only obey.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::adm::client::Client;
use super::admin_socket::WATCHERS_MAX;
use super::daemon::{Sockets, serve};
use super::doors::Listeners;
use super::fake::{FakeDevices, Moods, Seen, device, shell};
use super::places::PLACES_MAX;
use super::registry::Settings;
use super::remembered::Remembered;
use super::startup;
use crate::attach::Guarded;
use crate::config::Definition;
use crate::control::protocol::LINE_MAX;
use crate::control::{Report, Request, Response};
use crate::io::backing::{self, CreateOptions, Identity, MetaDisk};
use crate::resource::{Command, ConnectionState, DiskState, Role};

mod crashes;
mod frozen;
mod full;
mod names;

/// Nothing takes so long but a defect.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    dir: tempfile::TempDir,
    seen: mpsc::Receiver<Seen>,
    signal: Option<oneshot::Sender<Signal>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    tcp: SocketAddr,
    devices: Arc<FakeDevices>,
    moods: Arc<Moods>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (signal, came) = oneshot::channel();
        let (tell, seen) = mpsc::channel();
        let nbd_socket = dir.path().join("nbd.sock");
        let tcp = startup::bind_tcp("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = tcp.local_addr().unwrap();
        let sockets = Sockets {
            listeners: Listeners {
                admin: startup::bind_unix(&dir.path().join("control.sock"), None).unwrap(),
                nbd: startup::bind_unix(&nbd_socket, None).unwrap(),
                tcp: vec![(address, tcp)],
                metrics: Vec::new(),
            },
            signal: came,
            lock: -1,
            inherited: None,
        };
        let settings = Settings {
            config: "/etc/tandem.conf".into(),
            node: "alice".to_owned(),
            record: None,
            state_dir: dir.path().join("state"),
            run_dir: dir.path().to_owned(),
            remembered: Remembered::new(dir.path()),
            nbd_socket,
            program: dir.path().join("tandemd"),
            max_parallel_resyncs: 0,
        };
        std::fs::create_dir(&settings.state_dir).unwrap();
        let devices = Arc::<FakeDevices>::default();
        let moods = Arc::<Moods>::default();
        let (hands, of_thread) = (devices.clone(), moods.clone());
        let thread = std::thread::spawn(move || {
            tokio_uring::start(serve(settings, shell(tell, hands, of_thread), sockets))
        });
        Self { dir, seen, signal: Some(signal), thread: Some(thread), tcp: address, devices, moods }
    }

    fn client(&self) -> Client {
        Client::connect(self.dir.path(), PATIENCE).unwrap()
    }

    fn nbd(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("nbd.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn definition(&self, options: &str) -> Definition {
        let disk = self.dir.path().join("r0.img");
        let text = format!(
            "resource r0 {{ options {{ {options} }} volume 0 {{ device minor 0; disk {}; \
             meta-disk internal; }} on alice {{ node-id 0; address 127.0.0.1:7789; }} on bob {{ \
             node-id 1; address 127.0.0.2:7789; }} }}",
            disk.display()
        );
        let file = self.dir.path().join("r0.res");
        std::fs::write(&file, text).unwrap();
        let files = crate::io::config_files::ConfigFiles;
        let config = crate::config::load(&files, &file.display().to_string());
        assert!(!config.has_errors(), "{:?}", config.findings);
        config.resources[0].clone()
    }

    fn create_disk(&self) {
        let disk = self.dir.path().join("r0.img");
        std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        let who = Identity { resource: "r0".to_owned(), node_id: 0, volume: 0 };
        let options = CreateOptions {
            force: false,
            max_peers: 1,
            preallocate: false,
            seed: 7,
            wall_clock: 0,
            boot_id: [0; 16],
            state_dir: self.dir.path().join("state"),
            lock_wait: Duration::ZERO,
        };
        backing::create_md(&disk, &MetaDisk::Internal, &who, &options).unwrap();
    }

    fn up(&self, options: &str) -> Client {
        self.create_disk();
        let definition = Box::new(self.definition(options));
        let mut client = self.client();
        client.order(&Request::Up { definition }).unwrap().unwrap();
        client
    }

    fn end(&mut self) {
        if let (Some(signal), Some(thread)) = (self.signal.take(), self.thread.take()) {
            let _ = signal.send(Signal::SIGTERM);
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

fn report(client: &mut Client) -> Report {
    client.reports(Some("r0")).unwrap().pop().unwrap()
}

#[test]
fn up_attaches_and_dials_and_is_done_the_second_time() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let first = report(&mut client);
    assert_eq!(first.status.devices[0].disk_state, DiskState::UpToDate);
    assert_eq!(first.status.connections[0].connection_state, ConnectionState::Connecting);
    assert_eq!(first.paths[0].remote.to_string(), "127.0.0.2:7789");
    let definition = Box::new(daemon.definition(""));
    client.order(&Request::Up { definition }).unwrap().unwrap();
    let again = report(&mut client);
    assert_eq!((again.status, again.paths), (first.status, first.paths));
    let changed = Box::new(daemon.definition("auto-promote yes;"));
    let refused = client.order(&Request::Up { definition: changed }).unwrap().unwrap_err();
    assert_eq!((refused.code, refused.exit_code()), (174, 10));
}

#[test]
fn a_file_that_is_replaced_or_removed_while_it_is_in_use_is_told() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let path = daemon.dir.path().join("r0.img");
    let (aside, other) = (path.with_extension("aside"), path.with_extension("other"));
    std::fs::write(&other, "another one").unwrap();
    // An attach of what is attached looks at once; by itself the daemon looks now and then.
    let mut attach = || {
        let definition = Box::new(daemon.definition(""));
        let refused =
            client.order(&Request::Attach { definition, volume: 0 }).unwrap().unwrap_err();
        assert_eq!(refused.code, 124);
        (refused.hint, report(&mut client))
    };
    let (hint, fine) = attach();
    assert!(hint.contains("lets go of it") && fine.path_differs.is_empty(), "{hint}");
    std::fs::rename(&path, &aside).unwrap();
    let (hint, gone) = attach();
    assert!(hint.contains("r0.img is not there any more"), "{hint}");
    assert_eq!(gone.path_differs.len(), 1);
    std::fs::rename(&other, &path).unwrap();
    let (hint, replaced) = attach();
    assert!(hint.contains("r0.img is another file now"), "{hint}");
    assert!(replaced.path_differs[0].1.contains("another file"), "{:?}", replaced.path_differs);
    std::fs::rename(&aside, &path).unwrap();
    let (hint, back) = attach();
    assert!(hint.contains("lets go of it") && back.path_differs.is_empty(), "{hint}");
}

#[test]
fn a_disk_that_cannot_be_attached_leaves_the_resource_up_and_unconnected() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let definition = Box::new(daemon.definition(""));
    let request = Request::Up { definition };
    let refused = client.order(&request).unwrap().unwrap_err();
    assert_eq!(refused.exit_code(), 10);
    let left = report(&mut client);
    assert_eq!(left.status.devices[0].disk_state, DiskState::Diskless);
    assert_eq!(left.status.connections[0].connection_state, ConnectionState::StandAlone);
    // `why` can still say it.
    let note = &left.status.devices[0].disk_note;
    assert!(note.starts_with("attach failed: (104) Can not open backing device. "), "{note}");
    daemon.create_disk();
    client.order(&request).unwrap().unwrap();
    let device = &report(&mut client).status.devices[0];
    assert_eq!((device.disk_state, device.disk_note.as_str()), (DiskState::UpToDate, ""));
}

#[test]
fn a_definition_of_other_hosts_is_put_in_force_by_no_order() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let good = daemon.definition("");
    let running = |client: &mut Client| *client.running("r0").unwrap().unwrap();
    assert_eq!(running(&mut client), good);
    let mut exchanged = good.clone();
    exchanged.hosts.swap(0, 1);
    for (id, host) in (0..).zip(&mut exchanged.hosts) {
        host.node_id = id;
    }
    let mut other_minor = good.clone();
    for host in &mut other_minor.hosts {
        host.volumes.get_mut(&0).unwrap().minor = 3;
    }
    for bad in [exchanged, other_minor] {
        let definition = || Box::new(bad.clone());
        for request in [
            Request::CheckDisk { definition: definition(), volume: 0 },
            Request::Paths { definition: definition() },
        ] {
            let refusal = client.order(&request).unwrap().unwrap_err();
            assert_eq!(refusal.code, 162, "{refusal:?}");
        }
        assert_eq!(running(&mut client), good);
    }
}

#[test]
fn down_is_done_also_where_nothing_is_up() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let kept = daemon.dir.path().join("up/r0.json");
    let text = std::fs::read(&kept).unwrap();
    for _ in 0..2 {
        client.order(&Request::Down { resource: "r0".to_owned() }).unwrap().unwrap();
        assert!(client.reports(None).unwrap().is_empty());
        assert!(!kept.exists());
        // As if it could not have been brought up after a crash.
        std::fs::write(&kept, &text).unwrap();
    }
    let refused =
        client.command("r0", Command::Secondary { force: false, wait_ms: 0 }).unwrap().unwrap_err();
    assert_eq!((refused.code, refused.exit_code()), (158, 10));
}

#[test]
fn a_refusal_comes_through_word_for_word() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let definition = Box::new(daemon.definition(""));
    client.order(&Request::Up { definition }).unwrap().unwrap_err();
    let refused = client.command("r0", Command::Primary { force: None }).unwrap().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "State change failed: (-2) Need access to UpToDate data\nattach a disk."
    );
}

#[test]
fn a_watcher_sees_changes_and_the_end() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let mut watcher = daemon.client();
    watcher.watch(Some("r0")).unwrap();
    let deadline = Some(Instant::now() + PATIENCE);
    assert!(matches!(watcher.next(deadline).unwrap(), Some(Response::Report(_))));
    assert!(matches!(watcher.next(deadline).unwrap(), Some(Response::Complete)));
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    match watcher.next(deadline).unwrap() {
        Some(Response::Report(report)) => assert_eq!(report.status.role, Role::Primary),
        other => panic!("{other:?}"),
    }
    client.order(&Request::Down { resource: "r0".to_owned() }).unwrap().unwrap();
    assert!(matches!(watcher.next(deadline).unwrap(), Some(Response::Gone(_))));
}

#[test]
fn who_has_watched_and_gone_takes_no_place() {
    let daemon = Daemon::start();
    let _client = daemon.up("");
    for look in 0..3 * WATCHERS_MAX {
        let mut watcher = daemon.client();
        watcher.watch(Some("r0")).unwrap();
        let first = watcher.next(Some(Instant::now() + PATIENCE)).unwrap();
        assert!(matches!(first, Some(Response::Report(_))), "{look}: {first:?}");
    }
}

#[test]
fn garbage_is_an_error_line_and_a_long_line_ends_the_connection() {
    let daemon = Daemon::start();
    let mut stream =
        BufReader::new(UnixStream::connect(daemon.dir.path().join("control.sock")).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |bytes: &[u8]| {
        stream.get_mut().write_all(bytes).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line
    };
    for garbage in ["x\n", "{}\n", "{\"order\":{\"resource\":1}}\n", "[[[[[[\n", "\n"] {
        assert!(ask(garbage.as_bytes()).starts_with("{\"error\":"), "{garbage}");
    }
    assert_eq!(ask(b"{\"status\":{\"resource\":null}}\n"), "{\"reports\":[]}\n");
    // What a newer tandemadm asks for is not ignored.
    let known = serde_json::to_string(&Request::Up { definition: Box::new(daemon.definition("")) });
    for (here, newer) in [
        ("\"up\":{", "\"up\":{\"later\":1,"),
        ("\"options\":{", "\"options\":{\"later\":1,"),
        ("\"secrets\":null", "\"secrets\":null,\"later\":1"),
    ] {
        let asked = known.as_ref().unwrap().replacen(here, newer, 1) + "\n";
        assert!(ask(asked.as_bytes()).contains("unknown field `later`"), "{asked}");
    }
    assert!(ask(&vec![b'x'; LINE_MAX]).contains("at most"));
    let mut rest = Vec::new();
    // The daemon has closed with bytes unread: an end, or a reset.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn watchers_leave_room_for_orders() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let deadline = Instant::now() + PATIENCE;
    let watch = || {
        let mut watcher = daemon.client();
        watcher.watch(None).unwrap();
        let first = watcher.next(Some(deadline));
        (watcher, first)
    };
    let mut watching: Vec<_> = (0..WATCHERS_MAX).map(|_| watch()).collect();
    assert!(watching.iter().all(|(_, first)| matches!(first, Ok(Some(Response::Report(_))))));
    let (_, refused) = watch();
    assert_eq!(refused.unwrap_err().exit_code, 20);
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    // The place of one that hangs up is free again.
    watching.pop();
    while watch().1.is_err() {
        assert!(deadline > Instant::now());
    }
}

const IHAVEOPT: &[u8] = b"IHAVEOPT";

fn greet(stream: &mut UnixStream) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    stream.write_all(&3u32.to_be_bytes()).unwrap();
}

/// Sends NBD_OPT_GO; see [`describe`].
fn go(stream: &mut UnixStream, export: &str) -> Vec<(u32, Vec<u8>)> {
    describe(stream, 7, export)
}

/// Sends NBD_OPT_GO or NBD_OPT_INFO (6) and returns the types and payloads of the replies up to ACK
/// or an error.
fn describe(stream: &mut UnixStream, option: u32, export: &str) -> Vec<(u32, Vec<u8>)> {
    let code = option;
    let mut data = u32::try_from(export.len()).unwrap().to_be_bytes().to_vec();
    data.extend_from_slice(export.as_bytes());
    data.extend_from_slice(&[0, 0]);
    let mut option = IHAVEOPT.to_vec();
    option.extend_from_slice(&code.to_be_bytes());
    option.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    option.extend_from_slice(&data);
    stream.write_all(&option).unwrap();
    let mut replies = Vec::new();
    loop {
        let mut header = [0; 20];
        stream.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(16) as usize];
        stream.read_exact(&mut payload).unwrap();
        replies.push((word(12), payload));
        if word(12) == 1 || word(12) >= 1 << 31 {
            return replies;
        }
    }
}

#[test]
fn a_secondary_answers_go_with_policy_and_what_to_do() {
    let daemon = Daemon::start();
    let _client = daemon.up("");
    let mut stream = daemon.nbd();
    greet(&mut stream);
    let replies = go(&mut stream, "r0");
    assert_eq!(replies[0].0, (1 << 31) + 2);
    let text = String::from_utf8_lossy(&replies[0].1).into_owned();
    assert!(text.contains("tandemadm primary r0"), "{text}");
    assert_eq!(go(&mut stream, "r0/7")[0].0, (1 << 31) + 6);
    assert_eq!(go(&mut stream, "r0/00")[0].0, (1 << 31) + 6);
}

#[test]
fn the_descriptor_moves_with_nothing_read_too_far() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    let mut stream = daemon.nbd();
    greet(&mut stream);
    let replies = go(&mut stream, "r0/0");
    assert_eq!(replies.last().unwrap().0, 1);
    stream.write_all(b"the first request").unwrap();
    let moved = loop {
        match daemon.seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Client(fd, description, parameters) => {
                assert!(description.contains(&format!(" pid {} uid ", std::process::id())));
                assert_eq!(parameters.export, "r0/0");
                break fd;
            }
            Seen::Command(..) | Seen::Stopped => {}
        }
    };
    let mut moved = UnixStream::from(moved);
    let mut first = [0; 17];
    moved.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"the first request");
    moved.write_all(b"reply").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
}

#[test]
fn silent_clients_do_not_lock_others_out() {
    let daemon = Daemon::start();
    let _client = daemon.up("");
    let mut greeting = [0; 18];
    // Strangers on TCP, greeted and silent: they have places of their own.
    let strangers: Vec<_> = (0..PLACES_MAX)
        .map(|_| {
            let mut stream = TcpStream::connect(daemon.tcp).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut greeting).unwrap();
            stream
        })
        .collect();
    let silent: Vec<_> = (0..PLACES_MAX)
        .map(|_| {
            let mut stream = daemon.nbd();
            stream.read_exact(&mut greeting).unwrap();
            stream
        })
        .collect();
    for number in 0..3 {
        let mut stream = daemon.nbd();
        greet(&mut stream);
        assert_eq!(go(&mut stream, "r0")[0].0, (1 << 31) + 2, "it is served at once");
        // The longest silent one had to go for it, and its place is free again after it.
        assert_eq!((&silent[0]).read(&mut greeting).unwrap(), 0, "{number}");
    }
    let is_open = |read: std::io::Result<usize>| {
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    for mut stream in &silent[4..] {
        stream.set_nonblocking(true).unwrap();
        assert!(is_open(stream.read(&mut greeting)));
    }
    for mut stream in &strangers {
        stream.set_nonblocking(true).unwrap();
        assert!(is_open(stream.read(&mut greeting)));
    }
}

#[test]
fn auto_promote_promotes_who_enters_and_not_who_asks() {
    let daemon = Daemon::start();
    let mut client = daemon.up("auto-promote yes;");
    let mut stream = daemon.nbd();
    greet(&mut stream);
    assert_eq!(describe(&mut stream, 6, "r0").last().unwrap().0, 1);
    assert_eq!(report(&mut client).status.role, Role::Secondary);
    assert_eq!(go(&mut stream, "").last().unwrap().0, 1);
    assert_eq!(report(&mut client).status.role, Role::Primary);
}

#[test]
fn a_client_that_hangs_up_in_mid_negotiation_leaves_nothing() {
    let daemon = Daemon::start();
    for length in 0..20 {
        let mut stream = daemon.nbd();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        let bytes = [&3u32.to_be_bytes()[..], IHAVEOPT, &[0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]];
        stream.write_all(&bytes.concat()[..length]).unwrap();
    }
    assert!(daemon.client().reports(None).unwrap().is_empty());
}

#[test]
fn a_signal_takes_everything_down_in_order() {
    let mut daemon = Daemon::start();
    drop(daemon.up(""));
    daemon.end();
    let mut seen = Vec::new();
    while let Ok(one) = daemon.seen.try_recv() {
        seen.push(one);
    }
    let mut last = seen.iter().rev();
    assert!(matches!(last.next(), Some(Seen::Stopped)));
    assert!(matches!(last.next(), Some(Seen::Command(Command::Down { shutdown: true }, true))));
}

/// The devices that are attached: volume, number, and whether a guard runs.
fn devices(daemon: &Daemon) -> Vec<(String, u32, bool)> {
    let attached = daemon.devices.attached.lock().unwrap();
    let line = |one: &crate::io::attach::Listed| {
        (one.backend.volume.to_string(), one.index, one.guard != Guarded::Nobody)
    };
    attached.iter().map(line).collect()
}

/// Primary, with its device; and one of volume 1, which the definition does not have.
fn primary_with_devices() -> (Daemon, Client) {
    let daemon = Daemon::start();
    let mut client = daemon.up("device-attach auto;");
    let own = format!("unix:{}", daemon.dir.path().join("nbd.sock").display());
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    assert_eq!(devices(&daemon), [("r0/0".to_owned(), 0, true)]);
    daemon.devices.attached.lock().unwrap().push(device("r0/1", 1, Some(own)));
    (daemon, client)
}

#[test]
fn a_demotion_that_a_device_refuses_attaches_again_what_was_detached() {
    let (daemon, mut client) = primary_with_devices();
    *daemon.devices.mounted.lock().unwrap() = Some(1);
    let secondary = Request::Order {
        resource: "r0".to_owned(),
        command: Command::Secondary { force: false, wait_ms: 0 },
    };
    let both = [("r0/1".to_owned(), 1, true), ("r0/0".to_owned(), 0, true)];
    for order in [secondary.clone(), Request::Down { resource: "r0".to_owned() }] {
        let refused = client.order(&order).unwrap().unwrap_err();
        assert!(refused.code == -12 && refused.hint.contains("r0/1: mounted"), "{refused:?}");
        assert_eq!(devices(&daemon), both);
        assert_eq!(report(&mut client).status.role, Role::Primary);
    }
    *daemon.devices.mounted.lock().unwrap() = None;
    client.order(&secondary).unwrap().unwrap();
    assert_eq!(devices(&daemon), []);
}

#[test]
fn a_demotion_leaves_devices_of_others_alone() {
    let (daemon, mut client) = primary_with_devices();
    let others = [device("r0/2", 2, None), device("r0/3", 3, Some("alice:10809".to_owned()))];
    daemon.devices.attached.lock().unwrap().extend(others);
    let secondary = Command::Secondary { force: false, wait_ms: 0 };
    client.command("r0", secondary).unwrap().unwrap();
    assert_eq!(devices(&daemon), [("r0/2".to_owned(), 2, true), ("r0/3".to_owned(), 3, true)]);
}

#[test]
fn a_guard_that_has_died_is_replaced_but_not_a_device_that_was_detached() {
    let (daemon, mut client) = primary_with_devices();
    {
        let mut attached = daemon.devices.attached.lock().unwrap();
        attached.retain(|one| one.index == 0);
        attached[0].guard = Guarded::Nobody;
    }
    let until = Instant::now() + PATIENCE;
    while devices(&daemon) != [("r0/0".to_owned(), 0, true)] {
        assert!(Instant::now() < until, "{:?}", devices(&daemon));
        std::thread::yield_now();
    }
    // As `device detach` does: nothing is left of it to take over.
    daemon.devices.attached.lock().unwrap().clear();
    let secondary = Command::Secondary { force: false, wait_ms: 0 };
    client.command("r0", secondary).unwrap().unwrap();
    assert_eq!(devices(&daemon), []);
}

#[test]
fn a_device_that_was_detached_by_force_is_not_attached_until_it_is_closed() {
    let (daemon, mut client) = primary_with_devices();
    {
        let mut attached = daemon.devices.attached.lock().unwrap();
        attached.retain(|one| one.index == 0);
        attached[0].is_let_go = true;
    }
    let said = client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    assert!(said.contains("r0/0 is not attached as a device: /dev/nbd0 was detached"), "{said}");
    assert_eq!(report(&mut client).device_failed.len(), 1);
    daemon.devices.attached.lock().unwrap().clear();
    let until = Instant::now() + PATIENCE;
    while !report(&mut client).device_failed.is_empty() {
        assert!(Instant::now() < until);
    }
    assert_eq!(devices(&daemon), [("r0/0".to_owned(), 0, true)]);
}

#[test]
fn a_resource_that_has_failed_is_no_primary_and_can_be_taken_down() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let resize = Command::Resize { volume: 0, size: None, assume_clean: false };
    let order = Request::Order { resource: "r0".to_owned(), command: resize };
    let _ = client.order(&order).unwrap();
    let status = client.reports(Some("r0")).unwrap().remove(0).status;
    assert!(status.failed.is_some() && status.role == Role::Unknown, "{status:?}");
    let said = client.order(&Request::Down { resource: "r0".to_owned() }).unwrap();
    assert!(said.unwrap().contains("restart tandemd"));
    assert!(client.reports(Some("r0")).unwrap().is_empty());
}

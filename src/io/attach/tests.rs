//! What a guard leaves in the run folder, and attempts at servers that are not what they should be.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nbd::constants::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::dial::{Answer, Dialers, Dialling, is_taken};
use super::{first, system};
use crate::attach::{Backend, DialError, Guarded, Record, Server, a_record};

fn record() -> Record {
    let of_none = Record { index: 1_000_000, lost_at: Some(7), ..a_record() };
    Record { keepers: Vec::new(), ..of_none }
}

#[test]
fn what_a_guard_writes_down_is_found_again_and_nonsense_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert_eq!(system::record(dir, 1_000_000), None);
    system::write_record(dir, &record()).unwrap();
    assert_eq!(system::record(dir, 1_000_000), Some(record()));
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
    std::fs::write(dir.join("nbd1000000.device"), "{\"volume\":").unwrap();
    assert_eq!(system::record(dir, 1_000_000), None);
    system::remove_record(dir, 1_000_000);
    system::remove_record(dir, 1_000_000);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

/// Killed between the attach and its first record, a guard leaves a device that the next one knows.
#[test]
fn what_an_attach_is_about_to_do_is_remembered_by_its_token() {
    let (folder, wait) = (tempfile::tempdir().unwrap(), Duration::ZERO);
    let dir = folder.path().join("run");
    let backend: Backend = record().backend.parse().unwrap();
    let mut attaching = system::Attaching::begin(&dir, &backend.volume, wait).unwrap();
    assert_eq!(system::record_of(&dir, 5, &backend), None);
    let long = Record { server: "a".repeat(100), ..record() };
    attaching.remember(&long).unwrap();
    attaching.remember(&Record { index: 0, ..record() }).unwrap();
    drop(attaching);
    assert_eq!(system::record_of(&dir, 5, &backend), Some(Record { index: 5, ..record() }));
    let other = Backend { token: 2, ..backend.clone() };
    assert_eq!(system::record_of(&dir, 5, &other), None);
    // The guard has written its own.
    system::write_record(&dir, &Record { index: 5, connections: 3, ..record() }).unwrap();
    assert_eq!(system::record_of(&dir, 5, &backend).unwrap().connections, 3);
}

#[test]
fn a_device_is_let_go_of_by_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, backend) = (folder.path(), record().backend);
    assert!(!system::is_detached(dir, 3, &backend));
    system::mark_detached(dir, 3, &backend).unwrap();
    assert!(system::is_detached(dir, 3, &backend));
    assert!(!system::is_detached(dir, 3, "tandem:r0/0:0000000000000002"));
    assert!(!system::is_detached(dir, 4, &backend));
    system::unmark_detached(dir, 3);
    assert!(!system::is_detached(dir, 3, &backend));
}

#[test]
fn one_attach_of_a_volume_waits_for_the_other() {
    let (folder, wait) = (tempfile::tempdir().unwrap(), Duration::from_millis(500));
    let volume: crate::attach::Volume = "r0/0".parse().unwrap();
    let first = system::Attaching::begin(folder.path(), &volume, wait).unwrap();
    let _other = system::Attaching::begin(folder.path(), &"r0/1".parse().unwrap(), wait).unwrap();
    let (begun, begins) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            begun.send(()).unwrap();
            let second =
                system::Attaching::begin(folder.path(), &volume, Duration::from_secs(60)).unwrap();
            (Instant::now(), second)
        });
        begins.recv().unwrap();
        let let_go = Instant::now();
        drop(first);
        assert!(second.join().unwrap().0 >= let_go);
    });
    let _held = system::Attaching::begin(folder.path(), &volume, wait).unwrap();
    let trouble = system::Attaching::begin(folder.path(), &volume, wait).err().unwrap();
    assert!(trouble.text.contains("another attach of it is under way"), "{}", trouble.text);
}

#[test]
fn a_guard_is_known_by_its_lock_and_not_by_what_a_dead_one_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    assert_eq!(system::guard(&dir, 3), Guarded::Nobody);
    let lock = system::become_guard(&dir, 3).unwrap();
    assert_eq!(system::guard(&dir, 3), Guarded::By(std::process::id()));
    assert!(system::is_guard(&dir, "nbd3", std::process::id()));
    // Its parent, whose number might be what a file names.
    assert!(!system::is_guard(&dir, "nbd3", std::os::unix::process::parent_id()));
    assert_eq!(system::guard(&dir, 4), Guarded::Nobody);
    drop(lock);
    assert_eq!(
        std::fs::read_to_string(dir.join("nbd3.guard")).unwrap(),
        std::process::id().to_string()
    );
    assert_eq!(system::guard(&dir, 3), Guarded::Nobody);
}

/// A server that negotiates as far as GO, and answers it with these replies: type and payload.
fn server(replies: &'static [(u32, &[u8])]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), replies);
        }
    });
    Server::Tcp("127.0.0.1".to_owned(), port)
}

fn serve(mut stream: TcpStream, replies: &[(u32, &[u8])]) {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    if stream.read_exact(&mut [0; 4]).is_err() {
        return;
    }
    let unknown: &[(u32, &[u8])] = &[(NBD_REP_ERR_UNSUP, b"")];
    for (option, replies) in [(TANDEM_OPT_DEVICE, unknown), (NBD_OPT_GO, replies)] {
        let mut asked = [0; 16];
        stream.read_exact(&mut asked).unwrap();
        let number =
            |at: usize| asked[at..at + 4].iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        assert_eq!(number(8), option);
        stream.read_exact(&mut vec![0; number(12) as usize]).unwrap();
        for (kind, data) in replies {
            let mut reply = NBD_REP_MAGIC.to_be_bytes().to_vec();
            reply.extend(option.to_be_bytes());
            reply.extend(kind.to_be_bytes());
            reply.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(*data);
            stream.write_all(&reply).unwrap();
        }
    }
}

const SERVES: &[(u32, &[u8])] =
    &[(NBD_REP_INFO, &[0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0x7d]), (NBD_REP_ACK, &[])];
const REFUSES: &[(u32, &[u8])] = &[(NBD_REP_ERR_POLICY, b"r0: bob is\x1b Primary; connect there")];
const NONSENSE: &[(u32, &[u8])] = &[(NBD_REP_INFO, &[0, 0, 1]), (NBD_REP_ACK, &[])];

#[test]
fn the_one_server_that_lets_us_in_is_found_among_others() {
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = Server::Tcp("127.0.0.1".to_owned(), gone);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let silent_one = Server::Tcp("127.0.0.1".to_owned(), silent_port);
    let servers = [silent_one, gone.clone(), server(REFUSES), server(NONSENSE), server(SERVES)];
    let begun = Instant::now();
    let dialers = Dialers::start(&servers, "r0/0", dialling()).unwrap();
    let (number, export, sockets) = first(&servers, &dialers, 3).unwrap();
    assert_eq!((number, export.size, export.flags, sockets.len()), (4, 1 << 20, 0x17d, 3));
    // TCP gives up before the kernel sends a request elsewhere, and no two have the same number.
    let limits = sockets.iter().map(|link| getsockopt(&link.socket, sockopt::TcpUserTimeout));
    assert!(limits.into_iter().all(|limit| limit == Ok(4000)));
    let numbers: BTreeSet<u64> = sockets.iter().map(|link| link.number).collect();
    assert_eq!(numbers.len(), 3);
    // One that the kernel's driver takes has a limit to its sends.
    assert!(!sockets.iter().any(is_taken));
    setsockopt(&sockets[1].socket, sockopt::SendTimeout, &TimeVal::new(5, 0)).unwrap();
    assert!(is_taken(&sockets[1]));
    // The silent one is not waited for.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());

    // Nobody: each one's reason; whoever answers at all makes it a refusal.
    let servers = [gone.clone(), server(REFUSES), server(NONSENSE)];
    let dialers = Dialers::start(&servers, "r0/0", dialling()).unwrap();
    let trouble = first(&servers, &dialers, 1).unwrap_err();
    assert_eq!(trouble.exit_code, 10);
    for what in ["refused (os error", "r0: bob is Primary; connect there", "malformed"] {
        assert!(trouble.text.contains(what), "{}", trouble.text);
    }
    let servers = [gone];
    let dialers = Dialers::start(&servers, "r0/0", dialling()).unwrap();
    assert_eq!(first(&servers, &dialers, 1).unwrap_err().exit_code, 20);
}

fn dialling() -> Dialling {
    Dialling::new(1, Duration::from_secs(5)).unwrap()
}

/// The next answer, which may take so long.
fn next(dialers: &Dialers, within: Duration) -> Answer {
    loop {
        if let Some(answer) = dialers.answer() {
            return answer;
        }
        let mut bell = [PollFd::new(dialers.bell.as_fd(), PollFlags::POLLIN)];
        let rings = poll(&mut bell, PollTimeout::try_from(within).unwrap());
        assert_eq!(rings, Ok(1), "no answer in {within:?}");
        dialers.bell.read().unwrap();
    }
}

fn is_made(answer: &Answer) -> bool {
    matches!(answer, Answer::Dialled(_, Ok(_)))
}

const SOON: Duration = Duration::from_secs(3);
/// An attempt has ended by then.
const LATE: Duration = Duration::from_secs(7);

#[test]
fn a_silent_name_service_holds_up_no_server_that_was_found_before() {
    let Server::Tcp(_, port) = server(SERVES) else { unreachable!() };
    let named = |name: &str| Server::Tcp(name.to_owned(), port);
    let servers = [named("alice.test"), named("bob.test"), server(SERVES)];
    // It knows alice, once, and is silent from then on.
    let (asked, under_way) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (silence, silent) = mpsc::channel::<()>();
    let silent = Mutex::new(silent);
    let counts = (asked.clone(), under_way.clone());
    let look_up = move |name: &str| {
        let (asked, under_way) = &counts;
        if name.starts_with("alice") && asked.fetch_add(1, Ordering::SeqCst) == 0 {
            return Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
        }
        under_way.fetch_add(1, Ordering::SeqCst);
        let _ = silent.lock().unwrap().recv();
        Err(std::io::Error::other("gone"))
    };
    let dialers = Dialers::start_with(&servers, "r0/0", dialling(), Arc::new(look_up)).unwrap();
    dialers.dial(0, 1, Vec::new());
    assert!(is_made(&next(&dialers, SOON)));
    // What was found is the answer, several times, and no second look-up is begun.
    for _ in 0..3 {
        dialers.dial(0, 1, Vec::new());
        assert!(is_made(&next(&dialers, SOON)));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // A server that was never found holds up no other one, and its attempt ends.
    dialers.dial(1, 1, Vec::new());
    dialers.describe(1);
    dialers.dial(2, 1, Vec::new());
    assert!(matches!(next(&dialers, SOON), Answer::Dialled(2, Ok(_))));
    for _ in 0..2 {
        let answer = next(&dialers, LATE);
        let (Answer::Dialled(1, Err(why)) | Answer::Described(1, Err(why))) = answer else {
            panic!("an answer of another one");
        };
        let silent = DialError::Failed("the name service does not answer".to_owned());
        assert_eq!(why, silent);
    }
    assert_eq!(under_way.load(Ordering::SeqCst), 2, "one of each name");
    drop(silence);
}

#[test]
fn a_look_that_is_not_answered_is_one_and_holds_up_no_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = [Server::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port())];
    let dialers = Dialers::start(&servers, "r0/0", dialling()).unwrap();
    dialers.describe(0);
    let silent = listener.accept().unwrap();
    for _ in 0..10 {
        dialers.describe(0);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| serve(listener.accept().unwrap().0, SERVES));
        dialers.dial(0, 1, Vec::new());
        assert!(is_made(&next(&dialers, SOON)));
    });
    // It has an answer too, and then there may be another one.
    assert!(matches!(next(&dialers, LATE), Answer::Described(0, Err(_))));
    drop(silent);
    dialers.describe(0);
    drop(listener.accept().unwrap());
    assert!(matches!(next(&dialers, SOON), Answer::Described(0, Err(_))));
    // Those were all.
    std::thread::scope(|scope| {
        scope.spawn(|| serve(listener.accept().unwrap().0, SERVES));
        dialers.dial(0, 1, Vec::new());
        assert!(is_made(&next(&dialers, SOON)));
    });
}

/// An address that takes no connection and refuses none.
fn black_hole() -> (SocketAddr, TcpStream, std::os::fd::OwnedFd) {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
    };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    use std::os::fd::AsRawFd as _;
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let port = getsockname::<SockaddrIn>(fd.as_raw_fd()).unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Its queue has room for one, and the handshake of another one is never finished.
    let first = TcpStream::connect(address).unwrap();
    (address, first, fd)
}

#[test]
fn several_addresses_of_a_server_share_the_time_of_an_attempt() {
    let Server::Tcp(_, port) = server(SERVES) else { unreachable!() };
    let (hole, _stream, _fd) = black_hole();
    let serves = SocketAddr::from(([127, 0, 0, 1], port));
    let limit = Duration::from_millis(300);
    assert!(TcpStream::connect_timeout(&hole, limit).is_err(), "it is one");
    let servers = [Server::Tcp("alice.test".to_owned(), port)];
    let look_up = move |_: &str| Ok(vec![hole, hole, serves]);
    let dialers = Dialers::start_with(&servers, "r0/0", dialling(), Arc::new(look_up)).unwrap();
    dialers.dial(0, 1, Vec::new());
    assert!(is_made(&next(&dialers, LATE)));
}

//! Two data threads, and one against a socket of the test.

use super::*;
use std::io::Write;
use std::net::TcpStream;

use crate::resource::SocketError;
use crate::wire::encode_header;

/// Two nodes that know each other.
fn pair() -> (Node, Node) {
    let b_address = free_address("127.0.0.2");
    let a = Node::start(config("r0", 0), vec![(1, b_address)]);
    a.is_listening();
    let mut b_config = config("r0", 1);
    b_config.node_name = "bob".to_owned();
    let b = Node::start(b_config, vec![(0, a.address)]);
    (a, b)
}

fn dial(from: &Node, socket: u64) {
    let socket = SocketId(socket);
    from.inject([Action::Connect { peer: 0, socket, timeout_ms: 5000 }]);
    from.wait_event("connected", |event| matches!(event, Event::Connected { .. }).then_some(()));
}

fn accepted(node: &Node) -> SocketId {
    node.wait_event("accepted", |event| match event {
        Event::Accepted { socket, .. } => Some(*socket),
        _ => None,
    })
}

fn lost(node: &Node, wanted: SocketId) -> SocketError {
    node.wait_event("the socket is lost", |event| match event {
        Event::SocketLost { socket, error } if *socket == wanted => Some(*error),
        _ => None,
    })
}

fn packets(script: &Script) -> Vec<&Packet> {
    let packet = |event: &'_ Event| matches!(event, Event::Packet { .. });
    script
        .events
        .iter()
        .filter(|event| packet(event))
        .filter_map(|event| match event {
            Event::Packet { packet, .. } => Some(packet),
            _ => None,
        })
        .collect()
}

fn write_ack(sequence: u64) -> Packet {
    Packet::WriteAck { volume: 0, sequence }
}

fn encoded(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(packet, &mut bytes);
    bytes
}

/// A stream from a peer's address to the node, as its socket.
fn stranger(node: &Node, from: &str) -> TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let source: SocketAddr = format!("{from}:0").parse().unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    let mut last = None;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(node.address)) {
            Ok(()) => {
                let stream = TcpStream::from(fd);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => last = Some(error),
        }
    }
    panic!("{last:?}");
}

/// The other side has closed it; perhaps with a reset, because there was more to read.
fn ended(mut stream: &TcpStream) -> bool {
    match std::io::Read::read(&mut stream, &mut [0; 1]) {
        Ok(0) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        Ok(_) => false,
    }
}

fn listening_for_b() -> Node {
    Node::start(config("r0", 0), vec![(1, free_address("127.0.0.2"))])
}

#[test]
fn packets_arrive_in_order_and_a_ping_may_go_first() {
    let (a, b) = pair();
    dial(&b, 2);
    let socket = accepted(&a);
    assert_eq!(socket, SocketId(1));
    let count = 3000;
    let mut actions: Vec<_> = (0..count)
        .map(|sequence| Action::Send {
            socket: SocketId(2),
            packet: write_ack(sequence),
            payload: None,
        })
        .collect();
    actions.push(Action::Send { socket: SocketId(2), packet: Packet::Ping, payload: None });
    b.inject(actions);
    a.wait("all packets", |script| (packets(script).len() == count as usize + 1).then_some(()));
    let script = a.script.0.lock().unwrap();
    let (pings, acks): (Vec<_>, Vec<_>) =
        packets(&script).into_iter().partition(|packet| **packet == Packet::Ping);
    assert_eq!(pings.len(), 1);
    let expected: Vec<_> = (0..count).map(write_ack).collect();
    assert!(acks.into_iter().eq(expected.iter()));
    drop(script);
    a.stop();
    b.stop();
}

#[test]
fn payload_goes_from_the_disk_of_one_node_to_the_other_unchanged() {
    let (mut a, mut b) = pair();
    a.attach(&MetaDisk::Internal);
    b.attach(&MetaDisk::Internal);
    // It stores what arrives.
    a.release();
    dial(&b, 2);
    let image = pattern(4, 4 << 20);
    let mut client = b.client(Mode::Simple);
    client.write(0, &image, 0).unwrap();
    b.script.0.lock().unwrap().send_to = Some(SocketId(2));
    let spans = [(0u64, 4096u32), (4096, (1 << 20) - 4096), (1 << 20, 1 << 20), (2 << 20, 2 << 19)]
        .into_iter()
        .chain((0..64).map(|n| ((3 << 20) + n * 16384, 16384)));
    let reads: Vec<_> = spans
        .map(|(offset, length)| {
            let tag = Tag(offset + 1);
            Action::DiskRead { tag, volume: 0, offset, length, find_zeroes: false }
        })
        .collect();
    let count = reads.len();
    b.inject(reads);
    a.wait("everything is stored", |script| {
        let stored = |event: &&Event| matches!(event, Event::DiskDone { result: Ok(None), .. });
        (script.events.iter().filter(stored).count() == count).then_some(())
    });
    assert!(std::fs::read(a.path()).unwrap()[..4 << 20] == image);
    a.stop();
    b.stop();
}

#[test]
fn packets_cut_at_every_byte_are_the_same_packets() {
    let node = listening_for_b();
    let mut stream = stranger(&node, "127.0.0.2");
    stream.set_nodelay(true).unwrap();
    accepted(&node);
    let words: Vec<u64> = (1..=40).collect();
    let sent = [
        Packet::Ping,
        Packet::Bitmap { volume: 1, first_block: 64, words },
        Packet::Data { volume: 0, sequence: 1, offset: 4096, length: 4096, fua: true },
        write_ack(9),
    ];
    let mut cuts = 0;
    for packet in &sent {
        let mut bytes = encoded(packet);
        bytes.extend(std::iter::repeat_n(7u8, packet.payload_length() as usize));
        for byte in bytes.chunks(if bytes.len() > 2000 { 11 } else { 1 }) {
            stream.write_all(byte).unwrap();
            // Each cut is received by itself, however slow the node is: a packet, a sign of life.
            cuts += 1;
            node.wait("the cut is received", |script| {
                let of_socket =
                    |event: &&Event| matches!(event, Event::Packet { .. } | Event::Received { .. });
                (script.events.iter().filter(of_socket).count() == cuts).then_some(())
            });
        }
    }
    assert!(packets(&node.script.0.lock().unwrap()).into_iter().eq(sent.iter()));
    let signs = node.count(|event| matches!(event, Event::Received { .. }));
    assert_eq!(signs, cuts - sent.len(), "signs of life");
    node.stop();
}

#[test]
fn bytes_that_are_not_our_protocol_end_the_connection() {
    let node = listening_for_b();
    let mut torn = encoded(&write_ack(1));
    torn[9] ^= 1;
    let mut socket = 1;
    for bytes in [vec![0u8; 32], b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(), torn] {
        let mut stream = stranger(&node, "127.0.0.2");
        stream.write_all(&bytes).unwrap();
        assert_eq!(lost(&node, SocketId(socket)), SocketError::Protocol);
        assert!(ended(&stream));
        socket += 2;
    }
    node.stop();
}

#[test]
fn a_connection_from_elsewhere_is_closed_and_the_core_never_hears_of_it() {
    let node = listening_for_b();
    assert!(ended(&stranger(&node, "127.0.0.9")));
    let _peer = stranger(&node, "127.0.0.2");
    accepted(&node);
    assert_eq!(node.count(|event| matches!(event, Event::Accepted { .. })), 1);
    node.stop();
}

#[test]
fn at_most_sixteen_accepted_connections_are_unknown() {
    let node = listening_for_b();
    let streams: Vec<_> = (0..20).map(|_| stranger(&node, "127.0.0.2")).collect();
    assert!(streams.iter().skip(16).all(ended));
    assert_eq!(node.count(|event| matches!(event, Event::Accepted { .. })), 16);
    node.stop();
}

#[test]
fn a_closed_socket_is_silent_and_sends_its_last_words() {
    let (a, b) = pair();
    dial(&b, 2);
    let socket = accepted(&a);
    let words = Action::Send { socket: SocketId(2), packet: write_ack(5), payload: None };
    b.inject([words, Action::CloseSocket { socket: SocketId(2), linger: true }]);
    a.wait("the last words", |script| (packets(script).len() == 1).then_some(()));
    assert_eq!(lost(&a, socket), SocketError::Closed);
    assert_eq!(b.count(|event| matches!(event, Event::SocketLost { .. })), 0);
    a.stop();
    b.stop();
}

#[test]
fn an_attempt_ends_refused_timed_out_or_unreachable() {
    let node = listening_for_b();
    let connect = |socket| Action::Connect { peer: 1, socket, timeout_ms: 5000 };
    node.inject([connect(SocketId(2))]);
    assert_eq!(lost(&node, SocketId(2)), SocketError::Refused);
    let unknown = Action::Connect { peer: 9, socket: SocketId(4), timeout_ms: 5000 };
    node.inject([unknown]);
    assert!(matches!(lost(&node, SocketId(4)), SocketError::Unreachable(_)));
    node.stop();
    // A listener whose queue is full does not answer.
    let silent = TcpListener::bind("127.0.0.2:0").unwrap();
    nix::sys::socket::listen(&silent, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let address = silent.local_addr().unwrap();
    let node = Node::start(config("r0", 0), vec![(1, address)]);
    let waiting: Vec<_> =
        (0..2).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    let socket = SocketId(6);
    node.inject([Action::Connect { peer: 1, socket, timeout_ms: 100 }]);
    assert_eq!(lost(&node, socket), SocketError::TimedOut);
    drop(waiting);
    // An attempt that the core gives up is silent.
    let socket = SocketId(8);
    node.inject([Action::Connect { peer: 1, socket, timeout_ms: 60_000 }]);
    node.inject([Action::CloseSocket { socket, linger: false }]);
    node.inject([]);
    assert_eq!(node.count(|event| matches!(event, Event::SocketLost { .. })), 1);
    node.stop();
}

#[test]
fn a_port_that_is_taken_is_listened_on_when_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut node_config = config("r0", 0);
    node_config.node_id = 0;
    let address = taken.local_addr().unwrap();
    let setup = Setup {
        config: node_config.clone(),
        local: address,
        peers: vec![(1, free_address("127.0.0.2"))],
        buffers: SocketBuffers { send: Some(1 << 20), receive: Some(1 << 20) },
        secrets: None,
        record: None,
        seed: 1,
        state_dir: "/nowhere".into(),
        places: Default::default(),
    };
    let handle = spawn(setup).unwrap();
    drop(taken);
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let (reply, answer) = oneshot::channel();
    handle.send(Order::Stop { reply }).unwrap();
    answer.blocking_recv().unwrap();
    TcpListener::bind(address).unwrap();
}

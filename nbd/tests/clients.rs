//! Clients against a server of this crate: our own, and those of libnbd and QEMU where they are
//! installed.

mod server;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Command as Process, Output};
use std::time::Duration;

use nbd::client::{Address, Client, ClientError, Handshake, Mode};
use nbd::constants::*;
use nbd::{Command, Errno};
use server::{SIZE, Server};

const TIMEOUT: Duration = Duration::from_secs(20);
const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];

fn address(server: &Server) -> Address {
    Address::Unix(server.socket())
}

fn open(server: &Server, export: &str, mode: Mode) -> Client {
    Client::open(&address(server), export, mode, TIMEOUT).unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 + 1).collect()
}

#[test]
fn every_command_works_in_every_form() {
    let server = Server::start();
    for mode in MODES {
        let mut client = open(&server, "r0", mode);
        assert_eq!(client.description().block, Some((1, 4096, 32 << 20)));
        client.write_zeroes(0, SIZE as u64, 0).unwrap();
        let data = pattern((3 << 20) + 17);
        client.write(4095, &data, NBD_CMD_FLAG_FUA).unwrap();
        assert_eq!(client.read(4095, data.len() as u32).unwrap(), data);
        assert_eq!(client.read(0, 4095).unwrap(), [0; 4095]);
        client.flush().unwrap();
        client.cache(0, SIZE as u64).unwrap();
        if mode != Mode::Simple {
            let extents = client.block_status(0, SIZE as u64, 0).unwrap();
            let kinds: Vec<u32> = extents.iter().map(|extent| extent.flags).collect();
            assert_eq!(kinds, [0, 3]);
            assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), SIZE as u64);
            let one = client.block_status(0, SIZE as u64, NBD_CMD_FLAG_REQ_ONE).unwrap();
            assert_eq!(one, extents[..1]);
        }
        client.trim(0, SIZE as u64, NBD_CMD_FLAG_FUA).unwrap();
        assert!(client.read(0, SIZE as u32).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(client.read(0, 0).unwrap(), []);
        client.write(0, &[], 0).unwrap();
        client.disconnect().unwrap();
    }
}

#[test]
fn large_reads_come_in_chunks_unless_df_forbids() {
    let server = Server::start();
    for mode in [Mode::Structured, Mode::Extended] {
        let mut client = open(&server, "r0", mode);
        client.write(1 << 20, &pattern(1 << 20), 0).unwrap();
        let call = |client: &mut Client, flags| {
            client.call(Command::Read, flags, 0, 3 << 20, &[]).unwrap()
        };
        let pieces = call(&mut client, 0);
        assert_eq!((pieces.chunks, pieces.holes.len()), (3, 2));
        let whole = call(&mut client, NBD_CMD_FLAG_DF);
        assert_eq!((whole.chunks, whole.holes.len()), (1, 0));
        assert_eq!(whole.data, pieces.data);
    }
}

#[test]
fn errors_leave_the_stream_in_step_in_every_form() {
    let server = Server::start();
    let end = SIZE as u64;
    for mode in MODES {
        let mut client = open(&server, "r0", mode);
        let large = vec![1; (32 << 20) + 1];
        type Case<'a> = (Command, u16, u64, u64, &'a [u8], Errno);
        let cases: [Case<'_>; 7] = [
            (Command::Write, 0, end - 1, 2, &[1, 2], Errno::ENOSPC),
            (Command::Write, 0, 0, large.len() as u64, &large, Errno::EINVAL),
            (Command::Read, 0, end, 1, &[], Errno::EINVAL),
            (Command::Trim, 0, 1, end, &[], Errno::EINVAL),
            (Command::WriteZeroes, 0, 1, end, &[], Errno::ENOSPC),
            (Command::WriteZeroes, NBD_CMD_FLAG_FAST_ZERO, 0, 1, &[], Errno::ENOTSUP),
            (Command::Other(77), 0, 0, 0, &[], Errno::EINVAL),
        ];
        for (command, flags, offset, length, payload, errno) in cases {
            let error = client.call(command, flags, offset, length, payload).unwrap_err();
            assert_eq!(error.errno(), Some(errno), "{mode:?} {command:?}");
            let ClientError::Failed { message, .. } = error else { panic!("{error}") };
            assert_eq!(message.is_empty(), mode == Mode::Simple);
        }
        client.flush().unwrap();
        let mut read_only = open(&server, "ro", mode);
        assert_ne!(read_only.flags() & NBD_FLAG_READ_ONLY, 0);
        let error = read_only.write(0, &[1; 4096], 0).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EPERM));
        read_only.flush().unwrap();
    }
}

#[test]
fn a_wrong_magic_closes_the_connection() {
    let server = Server::start();
    let mut client = open(&server, "r0", Mode::Simple);
    client.send_raw(&[0x5a; 28]).unwrap();
    assert!(client.at_end().unwrap());
}

#[test]
fn requests_can_be_pipelined() {
    let server = Server::start();
    for mode in MODES {
        let mut client = open(&server, "r0", mode);
        let mut cookies = Vec::new();
        for at in 0..64_u64 {
            let data = [at as u8 + 1; 4096];
            cookies.push(client.send_request(Command::Write, 0, at * 4096, 4096, &data).unwrap());
        }
        for cookie in &cookies {
            assert_eq!(client.read_reply().unwrap().ok().unwrap().cookie, *cookie);
        }
        assert_eq!(client.in_flight(), 0);
        assert_eq!(client.read(63 * 4096, 4096).unwrap(), [64; 4096]);
    }
}

#[test]
fn negotiation_step_by_step() {
    let server = Server::start();
    let mut shake = Handshake::connect(&address(&server), TIMEOUT).unwrap();
    let listed = |name: &str| (name.to_owned(), "in memory".to_owned());
    assert_eq!(shake.list().unwrap(), [listed("r0"), listed("ro"), listed("other")]);
    let refused = |error: ClientError| match error {
        ClientError::Refused { kind, message, .. } => (kind, message),
        other => panic!("{other}"),
    };
    let (kind, _) = refused(shake.option(NBD_OPT_STARTTLS, &[]).unwrap_err());
    assert_eq!(kind, NBD_REP_ERR_UNSUP);
    shake.structured_replies().unwrap();
    assert_eq!(shake.list_meta_context("r0", &[]).unwrap(), [(0, BASE_ALLOCATION.to_owned())]);
    let info = shake.info("r0", &[NBD_INFO_NAME, NBD_INFO_DESCRIPTION]).unwrap();
    assert_eq!((info.size, info.name.as_deref()), (SIZE as u64, Some("r0")));
    assert_eq!(info.description.as_deref(), Some("a disk in memory"));
    let (shake, error) = shake.try_go("other", &[]).unwrap_err();
    assert_eq!(refused(error), (NBD_REP_ERR_POLICY, "bob is Primary; connect there".to_owned()));
    // A refused GO leaves the negotiation open.
    let mut client = shake.go("r0", &[]).unwrap();
    client.flush().unwrap();

    Handshake::connect(&address(&server), TIMEOUT).unwrap().abort().unwrap();
}

#[test]
fn export_name_works_with_and_without_zeroes_and_closes_on_refusal() {
    let server = Server::start();
    for flags in [0, 1, 3] {
        let connect = || Handshake::connect_with_flags(&address(&server), TIMEOUT, flags).unwrap();
        let mut client = connect().export_name("r0").unwrap();
        assert_eq!(client.size(), SIZE as u64);
        client.flush().unwrap();
        client.disconnect().unwrap();
        assert!(matches!(connect().export_name("other"), Err(ClientError::Io(_))));
    }
}

#[test]
fn the_client_speaks_tcp() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let thread = std::thread::spawn(move || {
        let disk = std::sync::Mutex::new(vec![0; SIZE]);
        server::serve(listener.accept().unwrap().0, &disk, &Default::default());
    });
    let mut client = Client::open(&address, "r0", Mode::Extended, TIMEOUT).unwrap();
    client.write(7, b"over tcp", 0).unwrap();
    assert_eq!(client.read(7, 8).unwrap(), b"over tcp");
    client.disconnect().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_silent_server_is_a_time_out_and_not_a_hang() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let error = Handshake::connect(&address, Duration::from_millis(50)).unwrap_err();
    let ClientError::Io(error) = error else { panic!("{error}") };
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
}

/// Runs an installed client, or says that it is not there.
fn tool(name: &str, arguments: &[&str]) -> Option<Output> {
    match Process::new(name).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("SKIPPED: {name} does not run here: {error}");
            None
        }
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn uri(server: &Server, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", server.socket().display())
}

#[test]
fn nbdinfo_sees_exports_flags_and_map() {
    let server = Server::start();
    let mut client = open(&server, "r0", Mode::Structured);
    client.write(1 << 20, &pattern(65536), 0).unwrap();
    let uri_r0 = uri(&server, "r0");
    let Some(list) = tool("nbdinfo", &["--list", &uri(&server, "")]) else { return };
    let list = text(&list);
    for word in ["export=\"r0\"", "export=\"ro\"", "base:allocation", "is_read_only: true"] {
        assert!(list.contains(word), "{word} in {list}");
    }
    let words = [
        "can_multi_conn: true",
        "can_fast_zero: true",
        "can_df: true",
        "block_size_maximum: 33554432",
    ];
    let info = text(&tool("nbdinfo", &[&uri_r0]).unwrap());
    for word in words {
        assert!(info.contains(word), "{word} in {info}");
    }
    let map = text(&tool("nbdinfo", &["--map", "--totals", &uri_r0]).unwrap());
    assert!(map.contains("65536") && map.contains("hole,zero"), "{map}");
    let refused = tool("nbdinfo", &[&uri(&server, "other")]).unwrap();
    // libnbd keeps the sentence for its debug log.
    assert!(!refused.status.success());
}

#[test]
fn qemu_nbd_lists_every_export() {
    let server = Server::start();
    let socket = server.socket();
    let arguments = ["--list", "-k", socket.to_str().unwrap()];
    let Some(output) = tool("qemu-nbd", &arguments) else { return };
    let list = text(&output);
    assert!(output.status.success(), "{list}");
    for name in ["'r0'", "'ro'", "'other'"] {
        assert!(list.contains(name), "{name} in {list}");
    }
}

#[test]
fn nbdcopy_takes_a_file_there_and_back() {
    let server = Server::start();
    let (source, copy) = (server.folder().join("source"), server.folder().join("copy"));
    let mut data = vec![0; SIZE];
    data[5 << 20..7 << 20].copy_from_slice(&pattern(2 << 20));
    std::fs::write(&source, &data).unwrap();
    let (source, target) = (source.to_str().unwrap(), copy.to_str().unwrap());
    let Some(there) = tool("nbdcopy", &[source, &uri(&server, "r0")]) else { return };
    assert!(there.status.success(), "{}", text(&there));
    let back = tool("nbdcopy", &[&uri(&server, "r0"), target]).unwrap();
    assert!(back.status.success(), "{}", text(&back));
    assert!(std::fs::read(&copy).unwrap() == data);
}

#[test]
fn qemu_io_runs_every_command_with_the_newest_headers_it_knows() {
    let server = Server::start();
    let commands = [
        "write -P 7 -f 4096 1M",
        "read -P 7 4096 1M",
        "write -z -u 8192 4096",
        "read -P 0 8192 4096",
        "discard 1M 1M",
        "write -P 9 511 3",
        "read -P 9 511 3",
        "flush",
        "map",
    ];
    let uri = uri(&server, "r0");
    let mut arguments = vec!["-f", "raw", "-d", "unmap"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let Some(output) = tool("qemu-io", &arguments) else { return };
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for bad in ["failed", "rror", "mismatch"] {
        assert!(!said.contains(bad), "{said}");
    }
    let session = server.sessions().pop().unwrap();
    assert!(session.structured && session.base_allocation);
    println!("qemu-io uses extended headers: {}", session.extended);
}

#[test]
fn qemu_io_prints_the_sentence_of_a_refusal() {
    let server = Server::start();
    let arguments = ["-f", "raw", "-c", "read 0 512", &uri(&server, "other")];
    let Some(output) = tool("qemu-io", &arguments) else { return };
    assert!(!output.status.success());
    assert!(text(&output).contains("bob is Primary; connect there"), "{}", text(&output));
}

/// What the kernel's driver gets: the stream right after GO, on which a simple reply follows a
/// request, however long it takes.
#[test]
fn a_connection_can_be_given_away_after_go() {
    let server = Server::start();
    let handshake = Handshake::connect_within(&address(&server), TIMEOUT).unwrap();
    let client = handshake.go("r0", &[NBD_INFO_BLOCK_SIZE]).unwrap();
    assert_eq!(client.size(), SIZE as u64);
    let mut stream = UnixStream::from(client.into_descriptor().unwrap());
    assert_eq!((stream.read_timeout().unwrap(), stream.write_timeout().unwrap()), (None, None));
    let mut flush = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    flush.extend([0, 0]);
    flush.extend(NBD_CMD_FLUSH.to_be_bytes());
    flush.extend(*b"a cookie");
    flush.extend([0; 12]);
    stream.write_all(&flush).unwrap();
    let mut reply = [0; SIMPLE_REPLY_LENGTH];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
    assert_eq!(reply[8..], *b"a cookie");
}

#[test]
fn only_a_connection_that_is_as_after_go_is_given_away() {
    let server = Server::start();
    let structured = open(&server, "r0", Mode::Structured);
    assert!(matches!(structured.into_descriptor(), Err(ClientError::Protocol(_))));
    let mut busy = open(&server, "r0", Mode::Simple);
    busy.send_request(Command::Flush, 0, 0, 0, &[]).unwrap();
    assert!(matches!(busy.into_descriptor(), Err(ClientError::Protocol(_))));
}

/// A server that sends a byte now and then keeps every read busy, and the whole from its end.
#[test]
fn a_negotiation_ends_in_time_with_a_server_that_drips() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let dripping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut drop = [0; 64];
        // The end of the stream, or an error of writing: the client has gone.
        while !matches!(stream.read(&mut drop), Ok(0)) && stream.write_all(&[0]).is_ok() {}
    });
    let limit = Duration::from_millis(200);
    let handshake = Handshake::connect_within(&address, limit).unwrap();
    let begun = std::time::Instant::now();
    assert!(matches!(handshake.go("r0", &[]), Err(ClientError::Io(_))));
    assert!(begun.elapsed() < Duration::from_secs(10));
    dripping.join().unwrap();
}

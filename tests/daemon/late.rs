//! A write that has been on its way for too long, and that its device has sent again over another connection, does
//! not land any more when it arrives: what was written there since stays.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nbd::Device;
use nbd::client::{Address, Client, Handshake};
use nbd::request::Command;

use crate::fuse::is_possible;
use crate::pair::Pair;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Road {
    /// Connections that there have been.
    connections: usize,
    /// Of so many of them nothing arrives for now.
    blocked: usize,
    /// Bytes of those that wait.
    waiting: usize,
}

/// A network between clients and a server, on which what clients have sent may be long on its way.
struct Network {
    port: u16,
    road: Arc<(Mutex<Road>, Condvar)>,
}

impl Network {
    fn to(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let road = Arc::<(Mutex<Road>, Condvar)>::default();
        let shared = road.clone();
        // The threads end with their sockets, or with the test.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let (Ok(mut back), Ok(mut forth)) = (server.try_clone(), client.try_clone()) else {
                    continue;
                };
                let number = shared.0.lock().expect("the road").connections;
                shared.0.lock().expect("the road").connections += 1;
                let shared = shared.clone();
                std::thread::spawn(move || carry(client, server, number, &shared));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut forth);
                    let _ = forth.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { port, road }
    }

    fn address(&self) -> Address {
        Address::Tcp(format!("127.0.0.1:{}", self.port))
    }

    /// Nothing arrives any more of the connections that there are.
    fn block(&self) {
        let mut road = self.road.0.lock().expect("the road");
        road.blocked = road.connections;
    }

    fn wait_for_traffic(&self) {
        until("something is on its way", || {
            (self.road.0.lock().expect("the road").waiting > 0).then_some(())
        });
    }

    /// All that is on its way arrives; it does so before this returns.
    fn heal(&self) {
        self.road.0.lock().expect("the road").blocked = 0;
        self.road.1.notify_all();
        until("it has arrived", || {
            (self.road.0.lock().expect("the road").waiting == 0).then_some(())
        });
    }
}

fn carry(mut from: TcpStream, mut to: UnixStream, number: usize, shared: &(Mutex<Road>, Condvar)) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut road = shared.0.lock().expect("the road");
        road.waiting += count;
        while number < road.blocked {
            road = shared.1.wait(road).expect("the road");
        }
        drop(road);
        let written = to.write_all(&bytes[..count]);
        shared.0.lock().expect("the road").waiting -= count;
        if written.is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// A connection of a device; `None`: a client that does not know the word.
fn connect(address: &Address, device: Option<(u64, u64, &[u64])>) -> Client {
    let mut handshake = Handshake::connect(address, PATIENCE).expect("a server");
    if let Some((token, connection, siblings)) = device {
        let device = Device { token, connection, siblings: siblings.to_vec() };
        assert!(handshake.device(&device).expect("an answer"), "it knows the word");
    }
    handshake.go("r0", &[]).expect("it lets us in")
}

/// What is in the first block when a write of 1s was on its way for long, and 2s were answered meanwhile.
fn first_block(names_its_device: bool) -> Vec<u8> {
    let pair = Pair::in_sync();
    let network = Network::to(pair.alice.run_dir.join("nbd.sock"));
    let device = |connection: u64, siblings: &'static [u64]| {
        names_its_device.then_some((77, connection, siblings))
    };
    let mut old = connect(&network.address(), device(1, &[]));
    let mut sibling = connect(&network.address(), device(2, &[1]));
    old.write(4096, &[9; 4096], 0).expect("all is well");
    network.block();
    old.send_request(Command::Write, 0, 0, 4096, &[1; 4096]).expect("it goes out");
    network.wait_for_traffic();
    // Given up, and sent again; then a newer one.
    let mut new = connect(&network.address(), device(3, &[2]));
    new.write(0, &[1; 4096], 0).expect("sent again");
    new.write(0, &[2; 4096], 0).expect("a newer one");
    network.heal();
    // Whoever is served behind it is served after it.
    let late = old.read_reply();
    assert_eq!(late.is_err(), names_its_device, "the old connection has ended");
    sibling.write(8192, &[3; 4096], 0).expect("a connection that lives is let be");
    new.read(0, 4096).expect("it is served")
}

#[test]
fn a_write_that_arrives_when_its_device_has_gone_on_does_not_land() {
    assert_eq!(first_block(true), vec![2; 4096]);
    // This is why: a client that does not say what it is of is not helped.
    assert_eq!(first_block(false), vec![1; 4096], "the network of this test carries late writes");
}

/// Detaches whatever is left when the test fails.
struct Attached<'a>(&'a Pair);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let _ = self.0.alice.adm(&["device", "detach", "--force", "r0"]);
    }
}

/// The same with the whole of `device attach --fuse`.
#[test]
fn a_device_over_fuse_sends_nothing_late() {
    if !is_possible("a_device_over_fuse_sends_nothing_late") {
        return;
    }
    let pair = Pair::in_sync();
    let network = Network::to(pair.alice.run_dir.join("nbd.sock"));
    let servers = format!("--servers=127.0.0.1:{}", network.port);
    let attach = ["device", "attach", "--fuse", "--no-loop", &servers, "--timeout=2", "r0"];
    let said = pair.alice.ok(&attach);
    let path = said.split(' ').nth(2).expect("a file").to_owned();
    let attached = Attached(&pair);
    let write = |offset: u64, byte: u8| {
        let file = File::options().write(true).open(&path).expect("the file");
        file.write_all_at(&[byte; 4096], offset).and_then(|()| file.sync_all()).expect("written");
    };
    write(0, 9);
    network.block();
    // It returns when it has been sent again over another connection.
    write(0, 1);
    write(0, 2);
    network.heal();
    let log = pair.alice.log_text();
    assert!(log.contains("its device goes on with"), "{log}");
    assert!(!log.contains("opened it for writing too"), "it is the same device: {log}");
    assert_eq!(pair.alice.client().read(0, 4096).expect("it is served"), vec![2; 4096]);
    drop(attached);
}

/// Its process ends, its socket does so only when all that it has written has gone out.
#[test]
fn a_guard_over_fuse_that_was_killed_has_nothing_land_late() {
    if !is_possible("a_guard_over_fuse_that_was_killed_has_nothing_land_late") {
        return;
    }
    let pair = Pair::in_sync();
    let network = Network::to(pair.alice.run_dir.join("nbd.sock"));
    let servers = format!("--servers=127.0.0.1:{}", network.port);
    let attach = ["device", "attach", "--fuse", "--no-loop", &servers, "r0"];
    let token = pair.alice.run_dir.join("fuse-r0-0.token");
    let write = |byte: u8| {
        let said = pair.alice.ok(&["device", "status", "--json", "r0"]);
        let said: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
        let path = said[0]["file"].as_str().expect("a file").to_owned();
        File::options().write(true).open(path)?.write_all_at(&[byte; 4096], 0)
    };
    pair.alice.ok(&attach);
    let attached = Attached(&pair);
    write(9).expect("all is well");
    std::thread::scope(|scope| {
        network.block();
        let writer = scope.spawn(|| write(1));
        network.wait_for_traffic();
        pair.alice.ok(&["device", "detach", "--force", "r0"]);
        writer.join().expect("it ends").expect_err("nobody has answered it");
    });
    assert!(token.exists(), "the next guard is to have it");
    pair.alice.ok(&attach);
    write(2).expect("it is served");
    network.heal();
    let log = pair.alice.log_text();
    assert!(log.contains("its device goes on with"), "{log}");
    assert_eq!(pair.alice.client().read(0, 4096).expect("it is served"), vec![2; 4096]);
    pair.alice.ok(&["device", "detach", "r0"]);
    assert!(!token.exists(), "a device that was detached has left nothing");
    drop(attached);
}

//! Orders, and their end.

use super::*;

/// The last one who could give it an order has gone.
#[test]
fn a_thread_that_nobody_can_give_orders_to_ends_and_gives_back_its_port_and_its_disk() {
    let node = Node::with_disk(Limits::default());
    node.is_listening();
    let Node { handle, address, folder, .. } = node;
    assert!(TcpListener::bind(address).is_err(), "it listens there");
    let other = handle.clone();
    drop(handle);
    let (reply, answer) = oneshot::channel();
    other.send(Order::Statistics { reply }).unwrap();
    answer.blocking_recv().unwrap();
    drop(other);
    let who = Identity { resource: "r0".to_owned(), node_id: 0, volume: 0 };
    let boot_id = host_boot_id().unwrap();
    let options = OpenOptions { lock_wait: PATIENCE, ..OpenOptions::default() };
    let path = folder.path().join("disk");
    open_disk(&path, &MetaDisk::Internal, &who, boot_id, &options).unwrap();
    // Sockets go before disks.
    TcpListener::bind(address).unwrap();
}

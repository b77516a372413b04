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

/// The order is given; its answer comes there.
fn give(node: &Node, command: Command) -> oneshot::Receiver<AdminResult> {
    let (reply, answer) = oneshot::channel();
    node.handle.send(Order::Admin { command, reply }).unwrap();
    answer
}

fn answered(what: &str, answer: &mut oneshot::Receiver<AdminResult>) -> AdminResult {
    let started = Instant::now();
    loop {
        match answer.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Empty) => {}
            Err(oneshot::error::TryRecvError::Closed) => panic!("{what}: lost"),
        }
        assert!(started.elapsed() < PATIENCE, "{what}: no answer");
        std::thread::yield_now();
    }
}

#[test]
fn only_orders_that_close_a_disk_wait_until_it_is_closed() {
    let node = Node::with_disk(Limits::default());
    let shared = Arc::clone(&node.handle.shared);
    let hangs = shared.may_close.lock().unwrap();
    let detach = |volume| Command::Detach { volume, force: false };
    let mut closing = [detach(0), Command::Down { shutdown: false }].map(|one| give(&node, one));
    for other in [Command::Primary { force: None }, Command::Outdate { volume: 0 }, detach(1)] {
        let what = format!("{other:?}");
        assert_eq!(answered(&what, &mut give(&node, other)), Ok(String::new()));
    }
    for answer in &mut closing {
        answer.try_recv().unwrap_err();
    }
    drop(hangs);
    for mut answer in closing {
        assert_eq!(answered("it is closed", &mut answer), Ok(String::new()));
    }
    // Its lock was given back before that.
    node.open(&MetaDisk::Internal);
    node.stop();
}

#[test]
fn a_disk_that_hangs_while_it_is_closed_holds_no_order_up_for_ever() {
    let node = Node::with_disk(Limits { close_ms: 50, ..Limits::default() });
    let shared = Arc::clone(&node.handle.shared);
    let hangs = shared.may_close.lock().unwrap();
    for command in [Command::Detach { volume: 0, force: false }, Command::Down { shutdown: false }]
    {
        let what = format!("{command:?}");
        let said = answered(&what, &mut give(&node, command)).unwrap();
        assert!(said.starts_with("r0/0: the disk is still being closed"), "{what}: {said}");
    }
    drop(hangs);
    node.stop();
}

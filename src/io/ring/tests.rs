//! Operations end exactly once and give back what they owned.

use super::*;
use crate::io::buffer::{Part, Pool};
use crate::io::outbox::{Outbox, Sent};
use std::io::Write;
use std::os::unix::net::UnixStream;

fn wait<T>(ring: &mut Ring<T>) -> Completion<T> {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.submit_and_wait(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn more_operations_than_entries_all_complete() {
    let file: Descriptor = Rc::new(tempfile::tempfile().unwrap());
    let mut ring = Ring::new().unwrap();
    for number in 0..ENTRIES * 3 {
        let bytes = Memory::Bytes(Bytes::from(vec![number as u8; 512]));
        ring.write(&file, bytes, 0, u64::from(number) * 512, false, number);
    }
    let mut seen = vec![false; ENTRIES as usize * 3];
    while ring.outstanding() > 0 {
        let completion = wait(&mut ring);
        assert_eq!(completion.result, 512);
        assert!(!std::mem::replace(&mut seen[completion.purpose as usize], true));
    }
    assert!(seen.into_iter().all(|seen| seen));
}

#[test]
fn a_message_goes_out_whole_in_order_also_after_a_short_send() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd: Descriptor = Rc::new(ours);
    let mut pool = Pool::default();
    let payload = pool.take(Part::Client, 3);
    pool.bytes_mut(payload).unwrap().copy_from_slice(b"def");
    let mut message = Box::new(Message::default());
    message.push_bytes(|out| out.extend_from_slice(b"ab"));
    message.push_bytes(|out| out.extend_from_slice(b"c"));
    message.push_payload(pool.lease(payload, Direction::Source).unwrap());
    message.push_bytes(|out| out.extend_from_slice(b"gh"));
    assert_eq!(message.left(), 8);
    // As if two bytes, and with the second round the middle of the payload, had gone before.
    message.advance(2);
    let mut ring = Ring::new().unwrap();
    ring.send(&fd, message, ());
    let completion = wait(&mut ring);
    assert_eq!(completion.result, 6);
    let Memory::Message(mut message) = completion.memory else { panic!("no message") };
    message.advance(6);
    assert_eq!(message.left(), 0);
    let leases: Vec<_> = message.recycle().collect();
    leases.into_iter().for_each(|lease| pool.end(lease));
    pool.release(payload).unwrap();
    assert_eq!(pool.live_buffers(), 0);
    let mut got = [0; 6];
    std::io::Read::read_exact(&mut &theirs, &mut got).unwrap();
    assert_eq!(&got, b"cdefgh");
}

#[test]
fn a_cancelled_receive_gives_its_buffer_back() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fd: Descriptor = Rc::new(ours);
    let mut pool = Pool::default();
    let payload = pool.take(Part::Shell, 4096);
    let mut ring = Ring::new().unwrap();
    let lease = pool.lease(payload, Direction::Sink).unwrap();
    let operation = ring.receive(&fd, lease, false, "receive");
    ring.cancel(operation, "cancel");
    let mut results = Vec::new();
    while ring.outstanding() > 0 {
        let completion = wait(&mut ring);
        results.push((completion.purpose, completion.result));
        if let Memory::Lease(lease) = completion.memory {
            pool.end(lease);
        }
    }
    results.sort_unstable();
    assert_eq!(results, [("cancel", 0), ("receive", -libc::ECANCELED)]);
    pool.release(payload).unwrap();
    assert_eq!(pool.live_buffers(), 0);
}

#[test]
fn waiting_ends_when_its_time_has_passed() {
    let mut ring = Ring::<()>::new().unwrap();
    ring.submit_and_wait(Duration::from_millis(3)).unwrap();
    assert!(ring.next_completion().is_none());
    assert_eq!(ring.enters(), 1);
}

#[test]
fn polling_sees_what_comes_and_ends_when_its_time_has_passed() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let fd: Descriptor = Rc::new(ours);
    let mut pool = Pool::default();
    let payload = pool.take(Part::Shell, 4096);
    let mut ring = Ring::new().unwrap();
    ring.receive(&fd, pool.lease(payload, Direction::Sink).unwrap(), false, "receive");
    let (start, time) = (std::time::Instant::now(), Duration::from_millis(3));
    ring.poll(time).unwrap();
    assert!(start.elapsed() >= time, "nothing has come");
    assert_eq!(ring.enters(), 1, "what was queued is under way");
    theirs.write_all(b"bytes").unwrap();
    let start = std::time::Instant::now();
    ring.poll(Duration::from_secs(60)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(50), "it has been seen");
    assert_eq!(ring.enters(), 1, "by no system call");
    ring.submit_and_wait(Duration::from_secs(60)).unwrap();
    assert_eq!(ring.next_completion().unwrap().result, 5);
    ring.poll(Duration::from_secs(60)).unwrap();
    assert_eq!(ring.enters(), 2, "nothing is under way that could be waited for");
}

#[test]
fn a_send_that_completes_at_once_does_not_end_the_wait() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd: Descriptor = Rc::new(ours);
    let mut pool = Pool::default();
    let payload = pool.take(Part::Shell, 4096);
    let mut ring = Ring::new().unwrap();
    ring.receive(&fd, pool.lease(payload, Direction::Sink).unwrap(), false, "receive");
    let mut message = Box::new(Message::default());
    message.push_bytes(|out| out.extend_from_slice(b"reply"));
    message.at_once = true;
    ring.send(&fd, message, "send");
    let (start, wait) = (std::time::Instant::now(), Duration::from_millis(20));
    ring.submit_and_wait(wait).unwrap();
    assert!(start.elapsed() >= wait, "nothing else has happened");
    let sent = ring.next_completion().unwrap();
    assert_eq!((sent.purpose, sent.result), ("send", 5));
    assert!(ring.next_completion().is_none());
    drop(theirs);
    ring.submit_and_wait(wait).unwrap();
    assert_eq!(ring.next_completion().unwrap().purpose, "receive");
    assert_eq!(ring.enters(), 2);
}

#[test]
fn what_a_full_socket_does_not_take_at_once_is_sent_when_there_is_room() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut before = 0;
    while let Ok(count) = std::io::Write::write(&mut &ours, &[0; 1000]) {
        before += count;
    }
    ours.set_nonblocking(false).unwrap();
    let fd: Descriptor = Rc::new(ours);
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    let mut ring = Ring::new().unwrap();
    outbox.push(|out| out.extend_from_slice(b"reply"), None, 7);
    ring.send(&fd, outbox.next(true).unwrap(), ());
    let mut go_on = |outbox: &mut Outbox, ring: &mut Ring<()>| {
        let completion = wait(ring);
        let Memory::Message(message) = completion.memory else { panic!("no message") };
        outbox.returned(message, completion.result, &mut pool)
    };
    assert_eq!(go_on(&mut outbox, &mut ring), Sent::Failed(libc::EAGAIN));
    ring.send(&fd, outbox.next(true).unwrap(), ());
    ring.submit_and_wait(Duration::ZERO).unwrap();
    assert!(ring.next_completion().is_none(), "it waits for room");
    std::io::Read::read_exact(&mut theirs, &mut vec![0; before]).unwrap();
    assert_eq!(go_on(&mut outbox, &mut ring), Sent::Some { note: 7 });
    assert!(outbox.is_empty());
}

/// What the kernel says of it comes behind all that the queue had no room for, some turns later.
#[test]
fn a_send_at_once_that_took_nothing_is_not_done_while_completions_wait_outside_the_queue() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &ours, &[0; 1000]).is_ok() {}
    ours.set_nonblocking(false).unwrap();
    let fd: Descriptor = Rc::new(ours);
    let mut ring = Ring::new().unwrap();
    let mut message = Box::new(Message::default());
    message.push_bytes(|out| out.extend_from_slice(b"reply"));
    message.at_once = true;
    let nothing = OperationId(u64::MAX);
    // As many as one turn puts beside the queue: each of them ends as it is submitted.
    for _ in 0..2 * COMPLETION_ENTRIES + ENTRIES {
        let (_, entry) =
            ring.enlist(opcode::AsyncCancel::new(nothing.0).build(), None, Memory::None, "cancel");
        ring.backlog.push_back(entry);
        ring.fill();
        if !ring.backlog.is_empty() {
            ring.ring.submit().unwrap();
            ring.fill();
        }
    }
    ring.send(&fd, message, "send");
    let mut sent = None;
    while ring.outstanding() > 0 {
        let completion = wait(&mut ring);
        if completion.purpose == "send" {
            assert_eq!(sent.replace(completion.result), None);
        }
    }
    assert_eq!(sent, Some(-libc::EAGAIN));
}

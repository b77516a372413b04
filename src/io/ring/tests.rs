//! Operations end exactly once and give back what they owned.

use super::*;
use crate::io::buffer::{Part, Pool};
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

//! The two counts, generations and classes of the pool.

use super::*;

#[test]
fn a_buffer_is_free_only_when_hold_and_uses_are_gone() {
    let mut pool = Pool::default();
    let payload = pool.take(Part::Client, 8192);
    let disk = pool.lease(payload, Direction::Source).unwrap();
    let send = pool.lease(payload, Direction::Source).unwrap();
    pool.release(payload).unwrap();
    assert_eq!(pool.live_buffers(), 1);
    pool.end(disk);
    assert_eq!((pool.live_buffers(), pool.charged(Part::Client)), (1, 8192));
    pool.end(send);
    assert_eq!((pool.live_buffers(), pool.charged(Part::Client)), (0, 0));
}

#[test]
fn a_double_release_and_a_stale_handle_are_refused() {
    let mut pool = Pool::default();
    let first = pool.take(Part::Peer, 1);
    pool.release(first).unwrap();
    assert_eq!(pool.release(first), Err(stale(first)));
    let second = pool.take(Part::Peer, 1);
    assert_eq!(second.slot, first.slot);
    assert_eq!(pool.release(first), Err(stale(first)));
    assert!(pool.bytes(first).is_err() && pool.lease(first, Direction::Sink).is_err());
    let lease = pool.lease(second, Direction::Source).unwrap();
    pool.release(second).unwrap();
    assert_eq!(pool.release(second), Err(stale(second)));
    pool.end(lease);
    assert_eq!(pool.live_buffers(), 0);
}

#[test]
fn a_range_outside_its_buffer_is_refused() {
    let mut pool = Pool::default();
    let payload = pool.take(Part::Client, 4096);
    let long = Payload { length: 4097, ..payload };
    let wild = Payload { offset: u32::MAX, ..payload };
    assert!(matches!(pool.bytes(long), Err(PoolError::Range { .. })));
    assert!(matches!(pool.lease(wild, Direction::Source), Err(PoolError::Range { .. })));
    pool.release(payload).unwrap();
}

#[test]
fn bytes_are_not_lent_while_the_kernel_writes_them() {
    let mut pool = Pool::default();
    let payload = pool.take(Part::Read, 4096);
    let sink = pool.lease(payload, Direction::Sink).unwrap();
    assert_eq!(pool.bytes(payload), Err(PoolError::InUse(payload.slot)));
    assert!(pool.lease(payload, Direction::Source).is_err());
    pool.end(sink);
    let source = pool.lease(payload, Direction::Source).unwrap();
    assert!(pool.bytes(payload).is_ok());
    assert!(pool.bytes_mut(payload).is_err());
    assert!(pool.lease(payload, Direction::Sink).is_err());
    pool.end(source);
    pool.bytes_mut(payload).unwrap().fill(7);
    assert!(pool.bytes(payload).unwrap().iter().all(|byte| *byte == 7));
    pool.release(payload).unwrap();
}

#[test]
fn buffers_are_aligned_and_of_the_next_class() {
    let mut pool = Pool::default();
    for length in [1, 4096, 4097, 65_537, BUFFER_MAX] {
        let payload = pool.take(Part::Shell, length);
        let lease = pool.lease(payload, Direction::Sink).unwrap();
        assert_eq!(lease.pointer() as usize % PAGE, 0);
        assert_eq!((lease.length(), payload.length as usize), (length, length));
        pool.end(lease);
        pool.release(payload).unwrap();
    }
    assert_eq!(class_of(BUFFER_MAX), CLASSES - 1);
    assert_eq!(class_of(4097), 1);
}

#[test]
fn idle_memory_goes_back_when_nobody_needed_it_between_two_trims() {
    let mut pool = Pool::default();
    let payloads: Vec<_> = (0..4).map(|_| pool.take(Part::Client, BUFFER_MAX)).collect();
    for payload in payloads {
        pool.release(payload).unwrap();
    }
    pool.trim();
    assert_eq!(pool.memory(), 4 * BUFFER_MAX as u64);
    let payload = pool.take(Part::Client, BUFFER_MAX);
    pool.release(payload).unwrap();
    pool.trim();
    assert_eq!(pool.memory(), BUFFER_MAX as u64);
    pool.trim();
    assert_eq!(pool.memory(), 0);
}

#[test]
fn a_copy_stays_inside_both_buffers() {
    let mut pool = Pool::default();
    let from = pool.take(Part::Read, 4096);
    let into = pool.take(Part::Client, 4096);
    pool.bytes_mut(from).unwrap().fill(9);
    pool.copy(part_of(from, 0, 100), part_of(into, 50, 100)).unwrap();
    let bytes = pool.bytes(into).unwrap();
    assert_eq!((bytes[49], bytes[50], bytes[149], bytes[150]), (0, 9, 9, 0));
    assert!(pool.copy(from, from).is_err());
    assert!(pool.copy(part_of(from, 0, 1), into).is_err());
}

#[test]
fn the_largest_buffers_come_in_pairs_of_one_huge_page_that_lives_as_long_as_either() {
    let mut pool = Pool::default();
    let [one, other] = [(); 2].map(|()| pool.take(Part::Client, BUFFER_MAX));
    let at = |pool: &mut Pool, payload| {
        let lease = pool.lease(payload, Direction::Source).unwrap();
        let at = lease.pointer() as usize;
        pool.end(lease);
        at
    };
    let (first, second) = (at(&mut pool, one), at(&mut pool, other));
    assert_eq!(first.abs_diff(second), BUFFER_MAX);
    assert_eq!(first.min(second) % HUGE_PAGE, 0);
    assert!(pool.bytes(one).unwrap().iter().all(|byte| *byte == 0));
    pool.bytes_mut(other).unwrap().fill(7);
    pool.release(one).unwrap();
    pool.trim();
    pool.trim();
    assert_eq!(pool.memory(), BUFFER_MAX as u64);
    assert!(pool.bytes(other).unwrap().iter().all(|byte| *byte == 7));
    pool.release(other).unwrap();
}

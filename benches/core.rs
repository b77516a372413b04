//! What the core costs for one replicated 4 KiB write: two resources, disks and a network that answer
//! at once. Nothing but `Resource::handle` and the draining of its actions is in it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

// Public for the tools.
#[allow(unreachable_pub)]
#[path = "../tools/src/core_pair.rs"]
mod core_pair;

use core_pair::Pair;

fn writes(c: &mut Criterion) {
    let mut pair = Pair::in_sync();
    let mut block = 0;
    let mut next = move || {
        block = (block + 7919) % 10_000;
        block
    };
    c.bench_function("replicated 4 KiB write, both cores", |b| {
        b.iter(|| pair.write(black_box(next())));
    });
    let before = (pair.events, pair.replies);
    for block in 0..1000 {
        pair.write(block);
    }
    assert_eq!(pair.replies - before.1, 1000, "every write is answered");
    println!("events of both cores per write: {:.2}", (pair.events - before.0) as f64 / 1000.0);
    c.bench_function("flush of both disks, both cores", |b| b.iter(|| pair.flush()));
}

criterion_group!(benches, writes);
criterion_main!(benches);

//! What the core's data structures cost per operation: the quick-resync bitmap of a 1 TiB disk, and
//! the ranges in flight at queue depth 128 and 2048.
//!
//! The structures are private to the core, so their sources are compiled into this bench.

// Under `cargo test` their tests come along, and are left out again for want of a harness.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, clippy::duplicate_mod)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../src/resource/disk/bitmap.rs"]
mod bitmap;
mod ids {
    pub(crate) use tandem::resource::{PAYLOAD_MAX, ZEROES_MAX};
}
#[path = "../src/resource/data/interval.rs"]
mod interval;
mod meta {
    pub(crate) use tandem::meta::{BitmapPage, JUST_CREATED, PAGE_BITS, PAGE_WORDS};

    pub(crate) use crate::set_blocks::{Piece, SetBlocks};
}
#[path = "../src/resource/prng.rs"]
mod prng;
#[path = "../src/meta/set_blocks.rs"]
mod set_blocks;
#[path = "../src/resource/sorted.rs"]
mod sorted;
mod resource {
    pub(crate) use super::{ids, prng, sorted};
}

use bitmap::Bitmap;
use interval::{Intervals, Kind, LockId};
use meta::{PAGE_BITS, PAGE_WORDS};
use prng::Prng;

/// Blocks of a 1 TiB disk.
const BLOCKS: u64 = 1 << 28;

fn bitmaps(c: &mut Criterion) {
    let mut group = c.benchmark_group("bitmap");
    let mut prng = Prng::new(1);
    let mut bits = Bitmap::new(BLOCKS);
    group.bench_function("set and clear one random block", |b| {
        b.iter(|| {
            let block = prng.below(BLOCKS);
            black_box(bits.set(block, 1) + bits.clear(block, 1))
        });
    });
    group.bench_function("set and clear 64 MiB", |b| {
        b.iter(|| black_box(bits.set(1_000_003, 16_384) + bits.clear(1_000_003, 16_384)));
    });
    bits.clear_all();
    bits.set(BLOCKS - 1, 1);
    group.bench_function("find the only set bit of 1 TiB", |b| {
        b.iter(|| black_box(bits.next_run(0, 256)));
    });
    bits.set_all();
    let mut from = 0;
    group.bench_function("next 1 MiB of a full resync", |b| {
        b.iter(|| {
            let (first, count) = bits.next_run(from, 256).expect("all bits are set");
            from = (first + count) % BLOCKS;
            black_box(count)
        });
    });
    group.bench_function("image of a page", |b| b.iter(|| black_box(bits.take_page(77))));
    group.finish();
}

fn intervals(c: &mut Criterion) {
    let mut group = c.benchmark_group("intervals");
    for depth in [128, 2048_u64] {
        let mut prng = Prng::new(2);
        let mut ranges = Intervals::new();
        let mut next = 0;
        let mut write = |ranges: &mut Intervals| {
            // A free 4 KiB of 1 TiB, every other one a read.
            next += 1;
            let kind = if next % 2 == 0 { Kind::Shared } else { Kind::Exclusive };
            loop {
                let start = prng.below(BLOCKS) * 4096;
                if ranges.try_acquire(LockId(next), start, start + 4096, kind) {
                    break next;
                }
            }
        };
        while write(&mut ranges) < depth {}
        let mut oldest = 1;
        group.bench_function(format!("acquire and release, {depth} in flight"), |b| {
            b.iter(|| {
                write(&mut ranges);
                ranges.release(LockId(oldest));
                oldest += 1;
            });
        });
    }
    let mut ranges = Intervals::new();
    let mut next = 0;
    for _ in 0..128 {
        ranges.acquire(LockId(next), 0, 4096, Kind::Exclusive);
        next += 1;
    }
    group.bench_function("128 writes in line for one block", |b| {
        b.iter(|| {
            ranges.release(LockId(next - 128));
            black_box(ranges.next_granted());
            ranges.acquire(LockId(next), 0, 4096, Kind::Exclusive);
            next += 1;
        });
    });
    group.finish();
}

criterion_group!(micro, bitmaps, intervals);
criterion_main!(micro);

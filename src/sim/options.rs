//! What a seed makes of a run. Each seed switches some faults off (swarm testing): a run without
//! power losses finds other bugs than one with everything.

use crate::meta::PAGE_BITS;
use crate::resource::{
    AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, BLOCK_SIZE, CsumsAlg, OnIoError, Options, RrConflict,
    VerifyAlg,
};

use super::faults::{Fault, Order, Planned};
use super::plan::{
    at_the_worst_moment, both_full, both_sides, crossing, flaky, hand_overs, held_back,
    out_of_patience, plan, rarer, secrets, strike_any,
};
use super::prng::Prng;
use super::situations::situation;
use super::verify::verifies;

/// One of so many seeds has a bitmap of several pages: their disks are large, and cost time.
const WIDE_IN: u64 = 1_000;

/// The whole plan of a run.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The seed that everything follows from.
    pub seed: u64,
    /// Volumes of the resource.
    pub volumes: u16,
    /// Bytes of each node's data area.
    pub sizes: [u64; 2],
    /// Bytes of an activity log block on each node.
    pub al_block_sizes: [u32; 2],
    /// The core's options, the same on both nodes.
    pub core: Options,
    /// Both start with a full sync; otherwise they are declared equal.
    pub initial_sync: bool,
    /// Client connections.
    pub workers: usize,
    /// Requests that a client has under way at most.
    pub depth: usize,
    /// Blocks that most requests fall on.
    pub hot: Vec<u64>,
    /// Requests at the full rate; then clients are slow, so that a run ends soon.
    pub requests: u64,
    /// Pause between two requests of a client, up to µs.
    pub think_us: u64,
    /// Of 100 requests: writes.
    pub writes: u64,
    /// Of 100 requests: flushes.
    pub flushes: u64,
    /// The first client of each volume flushes each write before it does anything else, as databases do,
    /// and the others mostly read.
    pub commits: bool,
    /// Of 100 requests: zeroes.
    pub zeroes: u64,
    /// Of 100 writes: FUA.
    pub fua: u64,
    /// Of 100 reads and writes: not in whole blocks.
    pub unaligned: u64,
    /// Slowest disk operation, µs.
    pub disk_us: u64,
    /// Slowest flush, µs.
    pub flush_us: u64,
    /// Slowest packet, µs.
    pub net_us: u64,
    /// A daemon of cluster software promotes somebody where nobody is Primary.
    pub failover: bool,
    /// That daemon does not know whether the old Primary still runs.
    pub careless: bool,
    /// Pacemaker promotes and fences, with the mark on the stale node ([`SimOptions::under_pacemaker`]).
    pub pacemaker: bool,
    /// Somebody resolves a split brain by hand.
    pub resolve: bool,
    /// Clients that lose their connection send again what was not answered.
    pub resend: bool,
    /// Length of the phase with faults, ms.
    pub length_ms: u64,
    /// A sector of one disk is changed behind everybody's back, to see that it is noticed.
    pub sabotage: bool,
    /// The faults and orders, in order of time.
    pub plan: Vec<Planned>,
}

impl SimOptions {
    /// The plan of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut prng = Prng::new(seed, 1);
        let p = &mut prng;
        let blocks = p.range(300, 2600);
        let size = blocks * BLOCK_SIZE;
        let larger = if p.one_in(5) { p.range(1, 64) * BLOCK_SIZE } else { 0 };
        let sizes = if p.percent(50) { [size, size + larger] } else { [size + larger, size] };
        let count = p.range(2, 24);
        let hot = (0..count).map(|_| p.below(blocks)).collect();
        let policies = p.one_in(4);
        let careless = p.one_in(3);
        let length_ms = *p.choose(&[3_000, 10_000, 30_000, 60_000]);
        let mut options = Self {
            seed,
            volumes: if p.one_in(4) { 2 } else { 1 },
            sizes,
            al_block_sizes: [*p.choose(&[512, 4096]), *p.choose(&[512, 4096])],
            core: core_options(p, policies),
            initial_sync: p.one_in(4),
            workers: p.index(4) + 1,
            depth: p.index(4) + 1,
            hot,
            requests: *p.choose(&[300, 300, 1_000, 4_000]),
            think_us: *p.choose(&[500, 5_000, 50_000]),
            writes: *p.choose(&[20, 50, 80]),
            flushes: *p.choose(&[0, 5, 20]),
            commits: Prng::new(seed, 34).one_in(5),
            zeroes: *p.choose(&[0, 0, 10]),
            fua: *p.choose(&[0, 10, 50]),
            unaligned: *p.choose(&[0, 10, 50]),
            disk_us: *p.choose(&[200, 2_000, 20_000]),
            flush_us: *p.choose(&[500, 10_000, 50_000]),
            net_us: *p.choose(&[100, 1_000, 10_000]),
            failover: p.percent(80),
            careless,
            pacemaker: false,
            resolve: p.percent(50),
            resend: Prng::new(seed, 20).one_in(3),
            length_ms,
            sabotage: false,
            plan: plan(p, length_ms),
        };
        rarer(&mut Prng::new(seed, 7), length_ms, &mut options.plan);
        held_back(&mut Prng::new(seed, 11), length_ms, &mut options.plan);
        at_the_worst_moment(&mut Prng::new(seed, 9), length_ms, &mut options.plan);
        secrets(&mut Prng::new(seed, 10), length_ms, &mut options.plan);
        verifies(&mut Prng::new(seed, 12), length_ms, &mut options.plan);
        both_sides(&mut Prng::new(seed, 13), length_ms, &mut options.plan);
        crossing(&mut Prng::new(seed, 15), length_ms, &mut options.plan);
        both_full(&mut Prng::new(seed, 17), length_ms, &mut options.plan);
        flaky(&mut Prng::new(seed, 21), length_ms, &mut options.plan);
        hand_overs(&mut Prng::new(seed, 23), length_ms, &mut options.plan);
        options.narrow_the_log(&mut Prng::new(seed, 8));
        options.widen_the_bitmap(&mut Prng::new(seed, 32));
        super::fencing::handlers(&mut Prng::new(seed, 22), &mut options.core);
        options.compare(&mut Prng::new(seed, 26));
        let p = &mut Prng::new(seed, 14);
        options.core.disk_timeout_ms = *p.choose(&[0, 0, 2_000, 6_000]);
        let waits = out_of_patience(&mut Prng::new(seed, 16), &mut options.plan);
        let built = !waits && situation(&mut Prng::new(seed, 18), &mut options.plan);
        // Nobody is promoted but by the plan.
        options.failover &= !built;
        if waits || built {
            // Nobody gives the disk or the peer up before.
            (options.core.disk_timeout_ms, options.core.ko_count) = (0, 0);
            options.length_ms = 60_000;
        }
        strike_any(&mut Prng::new(seed, 30), options.volumes, &mut options.plan);
        options
    }

    /// In some seeds the activity log holds less than the disk has, nobody flushes, and hosts lose
    /// power: extents leave the log all the time, with writes in them that only caches hold.
    fn narrow_the_log(&mut self, p: &mut Prng) {
        if !p.one_in(8) {
            return;
        }
        let blocks = p.range(2_100, 2_600);
        self.sizes = [blocks * BLOCK_SIZE; 2];
        self.hot = (0..p.range(6, 24)).map(|_| p.below(blocks)).collect();
        self.core.al_extents = *p.choose(&[1, 1, 2]);
        self.core.max_epoch_size = 2048;
        (self.flushes, self.fua) = (0, 0);
        self.writes = 80;
        self.requests = 4_000;
        for _ in 0..p.range(1, 3) {
            let fault = Fault::PowerLoss { node: p.index(2), off_ms: p.skewed(10, 8_000) };
            let at_ms = p.below(self.length_ms.min(10_000));
            self.plan.push(Planned::new(at_ms, None, fault));
        }
        self.plan.sort_by_key(|planned| planned.at_ms);
    }

    /// In a few seeds the bitmap has several pages, sparsely used: most requests fall on the ends of pages; or the
    /// disk ends a little before the end of one, and grows over it.
    fn widen_the_bitmap(&mut self, p: &mut Prng) {
        if !p.one_in(WIDE_IN) || self.volumes > 1 {
            return;
        }
        let whole = p.range(1, 2) * PAGE_BITS;
        let blocks = if p.one_in(3) { whole - p.range(0, 64) } else { whole + p.range(1, 2_000) };
        self.sizes = [blocks * BLOCK_SIZE; 2];
        let ends = (1..3).map(|page| page * PAGE_BITS).filter(|end| *end < blocks);
        self.hot = ends.flat_map(|end| [end - 2, end - 1, end, end + 1]).collect();
        self.hot.retain(|block| *block < blocks);
        self.hot.extend((0..p.range(2, 8)).map(|_| p.below(blocks)));
        // All of it is copied or compared now and then, under load too.
        self.initial_sync = false;
        (self.core.resync_rate, self.core.c_min_rate) = (102_400, 4_096);
        if blocks <= whole {
            self.plan.push(Planned::new(p.below(self.length_ms), None, grow(p)));
        }
        // Bits of all pages are exchanged, and read back.
        for _ in 0..p.range(1, 3) {
            let (node, off_ms) = (p.index(2), p.skewed(100, 8_000));
            let fault = match p.below(3) {
                0 => Fault::PowerLoss { node, off_ms },
                1 => Fault::Crash { node, off_ms },
                _ => Fault::Cut { for_ms: 12_000 },
            };
            self.plan.push(Planned::new(p.below(self.length_ms), None, fault));
        }
        self.plan.sort_by_key(|planned| planned.at_ms);
    }

    /// Whether a resync compares before it copies.
    fn compare(&mut self, p: &mut Prng) {
        (self.core.csums_alg, self.core.csums_after_crash_only) = match p.below(8) {
            0 | 1 => (CsumsAlg::None, false),
            2 | 3 => (CsumsAlg::Digest(VerifyAlg::Crc32c), false),
            4 => (CsumsAlg::Digest(VerifyAlg::Sha256), true),
            _ => (CsumsAlg::Default, false),
        };
    }

    /// A split brain may be resolved by a policy.
    #[must_use]
    pub fn policies(&self) -> bool {
        self.core.after_sb_0pri != AfterSb0Pri::Disconnect
            || self.core.after_sb_1pri != AfterSb1Pri::Disconnect
            || self.core.after_sb_2pri != AfterSb2Pri::Disconnect
            || self.core.rr_conflict != RrConflict::Disconnect
    }

    /// A disk may report errors.
    #[must_use]
    pub fn disk_errors(&self) -> bool {
        let hangs =
            |fault: &Fault| matches!(fault, Fault::StallDisk { .. } | Fault::SlowDisk { .. });
        self.core.disk_timeout_ms > 0 && self.has(hangs)
            || self.plan.iter().any(|planned| planned.fault.hurts_a_disk())
    }

    /// The plan without one of its faults.
    #[must_use]
    pub fn without(&self, index: usize) -> Self {
        let mut less = self.clone();
        less.plan.remove(index);
        less
    }

    /// The plan holds this fault.
    #[must_use]
    pub fn has(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        self.plan.iter().any(|planned| wanted(&planned.fault))
    }
}

/// The disks are made larger.
fn grow(p: &mut Prng) -> Fault {
    Fault::Order { node: p.index(2), order: Order::Resize }
}

fn core_options(p: &mut Prng, policies: bool) -> Options {
    let mut core = Options {
        timeout_ms: *p.choose(&[1_500, 3_000, 6_000]),
        ping_int_ms: *p.choose(&[500, 2_000, 10_000]),
        ping_timeout_ms: *p.choose(&[200, 500]),
        connect_int_ms: *p.choose(&[1_000, 3_000, 10_000]),
        ko_count: *p.choose(&[0, 2, 7]),
        max_buffers: *p.choose(&[512, 2048]),
        max_epoch_size: *p.choose(&[4, 32, 2048]),
        al_extents: *p.choose(&[7, 67, 1237]),
        resync_rate: *p.choose(&[250, 4_096, 102_400]),
        c_max_rate: *p.choose(&[4_096, 102_400, 0]),
        on_io_error: OnIoError::Detach,
        auto_promote: true,
        ..Options::default()
    };
    if policies {
        core.after_sb_0pri = p
            .choose(&[
                AfterSb0Pri::DiscardYoungerPrimary,
                AfterSb0Pri::DiscardOlderPrimary,
                AfterSb0Pri::DiscardZeroChanges,
                AfterSb0Pri::DiscardLeastChanges,
                AfterSb0Pri::DiscardNode(1),
            ])
            .clone();
        core.after_sb_1pri = p
            .choose(&[
                AfterSb1Pri::Consensus,
                AfterSb1Pri::DiscardSecondary,
                AfterSb1Pri::ViolentlyAs0p,
            ])
            .clone();
    }
    core
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BITS, SimOptions};
    use crate::sim::faults::{Fault, Order};

    #[test]
    fn a_few_seeds_have_bitmaps_of_several_pages_and_some_grow_over_the_end_of_one() {
        let wide = |seed| {
            let options = SimOptions::of_seed(seed);
            (options.sizes[0] > (PAGE_BITS - 100) * 4096).then_some(options)
        };
        let all: Vec<_> = (0..20_000).filter_map(wide).collect();
        assert!((5..40).contains(&all.len()), "{}", all.len());
        let pages = |options: &SimOptions| options.sizes[0].div_ceil(PAGE_BITS * 4096);
        for count in [2, 3] {
            assert!(all.iter().any(|options| pages(options) == count), "{count}");
        }
        let resize = |fault: &Fault| matches!(fault, Fault::Order { order: Order::Resize, .. });
        assert!(all.iter().any(|options| pages(options) == 1 && options.has(resize)));
    }
}

//! Counters for monitoring: plain numbers beside what they count, copied with the snapshot.
//!
//! Invariant: to count costs an addition or two. No clock is read for it: times are those of the
//! events, so a latency is as fine as a turn of the shell's loop.

use serde::{Deserialize, Serialize};

use super::ids::Time;

/// Buckets of a histogram that have a bound.
pub const BUCKETS: usize = 20;
/// The bound of the first bucket is 2 to this power, ns; each further one is twice as wide.
const FIRST: u32 = 14;

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counts by bucket, each for itself; the last one has no bound.
    pub counts: [u64; BUCKETS + 1],
    /// All of it together, ns.
    pub sum_ns: u64,
}

impl Histogram {
    /// The upper bound of a bucket, ns: 16.4 us to 8.6 s.
    #[must_use]
    pub fn bound_ns(bucket: usize) -> u64 {
        1 << (FIRST + u32::try_from(bucket.min(BUCKETS)).expect("few buckets"))
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Something that began at `since` has ended.
    pub(crate) fn note(&mut self, since: Time, now: Time) {
        let took = now.0.saturating_sub(since.0);
        // Those that took exactly the bound are in its bucket, as Prometheus counts.
        let bits = u64::BITS - (took.saturating_sub(1) >> FIRST).leading_zeros();
        self.counts[(bits as usize).min(BUCKETS)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(took);
    }
}

/// Of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMetrics {
    /// Writes, zeroes and trims of clients, from their coming to their answer.
    pub write: Histogram,
    /// Flushes of clients.
    pub flush: Histogram,
    /// Writes that found their extents hot in the activity log.
    pub al_hits: u64,
    /// Writes that waited for the activity log.
    pub al_misses: u64,
}

/// Of a volume toward a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDeviceMetrics {
    /// Writes, from their sending to the peer's acknowledgement.
    pub write: Histogram,
    /// Resyncs that were begun.
    pub resyncs: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_first_bucket_that_holds_it() {
        for (took, bucket) in [
            (0, 0),
            (1, 0),
            (1 << 14, 0),
            ((1 << 14) + 1, 1),
            (1 << 15, 1),
            ((1 << 15) + 1, 2),
            (1 << 33, 19),
            ((1 << 33) + 1, 20),
            (u64::MAX, 20),
        ] {
            let mut histogram = Histogram::default();
            histogram.note(Time(0), Time(took));
            assert_eq!(histogram.counts[bucket], 1, "{took}");
            assert!(bucket == BUCKETS || took <= Histogram::bound_ns(bucket));
            assert!(bucket == 0 || took > Histogram::bound_ns(bucket - 1));
            assert_eq!((histogram.count(), histogram.sum_ns), (1, took));
        }
        let mut histogram = Histogram::default();
        histogram.note(Time(5), Time(3));
        assert_eq!(histogram.sum_ns, 0, "a clock that went back counts as nothing");
    }
}

//! The jobs, and what each of them has to reach.

/// What a job does to an export.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) about: &'static str,
    /// Bytes of a request.
    pub(crate) size: usize,
    /// Requests of one connection that are under way.
    pub(crate) depth: usize,
    pub(crate) connections: usize,
    /// Reads among the requests, percent.
    pub(crate) reads: u64,
    pub(crate) order: Order,
    /// How a write becomes durable.
    pub(crate) durable: Durable,
    /// What the copies are on.
    pub(crate) disk: Disk,
    pub(crate) targets: &'static [Target],
}

/// The files below an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Disk {
    /// Fully written.
    Full,
    /// Nothing is written yet but the metadata inside.
    Sparse,
    /// Nothing is written yet; the metadata is in a fully written file of its own.
    SparseApart,
}

/// Where the requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anywhere.
    Random,
    /// One behind the other.
    Sequential,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// With a later flush, which is not measured.
    Later,
    /// A flush behind each write: both are one operation.
    Flush,
    /// NBD_CMD_FLAG_FUA.
    Fua,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Operations a second, against the quorum's.
    Quorum,
    /// The same with the spin option.
    QuorumSpinning,
    /// Operations a second, against one copy of qemu-nbd.
    QemuNbd,
    /// Operations a second, against two raw files at once.
    Floor,
    /// CPU time of both nodes an operation, against the quorum's.
    Cpu,
    /// p99 / p50.
    Tail,
    /// io_uring_enter of the Primary an operation.
    Enters,
    /// The slowest connection against the fastest.
    Fairness,
}

impl Measure {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Quorum => "x quorum",
            Self::QuorumSpinning => "x quorum, with busy-poll",
            Self::QemuNbd => "x one copy of qemu-nbd",
            Self::Floor => "x mirror floor",
            Self::Cpu => "CPU of both nodes, x quorum",
            Self::Tail => "p99 / p50",
            Self::Enters => "io_uring_enter of the Primary, each",
            Self::Fairness => "slowest / fastest connection",
        }
    }
}

/// A bound of a measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) measure: Measure,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

const fn at_least(measure: Measure, bound: f64) -> Target {
    Target { measure, bound: Bound::AtLeast(bound) }
}

const fn at_most(measure: Measure, bound: f64) -> Target {
    Target { measure, bound: Bound::AtMost(bound) }
}

const KIB: usize = 1 << 10;

const WRITE: Job = Job {
    name: "w1",
    about: "4 KiB random write, depth 1",
    size: 4 * KIB,
    depth: 1,
    connections: 1,
    reads: 0,
    order: Order::Random,
    durable: Durable::Later,
    disk: Disk::Full,
    targets: &[
        at_least(Measure::Quorum, 1.6),
        at_least(Measure::QuorumSpinning, 1.8),
        at_most(Measure::Cpu, 0.6),
        at_most(Measure::Enters, 5.0),
    ],
};

const STREAM: Job = Job {
    name: "s64",
    about: "64 KiB sequential write, depth 8",
    size: 64 * KIB,
    depth: 8,
    order: Order::Sequential,
    targets: &[at_least(Measure::Quorum, 1.6)],
    ..WRITE
};

/// All jobs, in the order of the issue that set the targets.
pub(crate) const JOBS: &[Job] = &[
    WRITE,
    Job {
        name: "w4",
        about: "4 KiB random write, depth 4",
        depth: 4,
        targets: &[at_least(Measure::Quorum, 2.2)],
        ..WRITE
    },
    Job {
        name: "w32",
        about: "4 KiB random write, depth 32",
        depth: 32,
        targets: &[
            at_least(Measure::Quorum, 3.2),
            at_least(Measure::QemuNbd, 1.4),
            at_most(Measure::Cpu, 0.25),
            at_most(Measure::Enters, 0.4),
            at_most(Measure::Tail, 3.0),
        ],
        ..WRITE
    },
    Job {
        name: "wf1",
        about: "4 KiB random write and a flush, depth 1",
        durable: Durable::Flush,
        targets: &[at_least(Measure::Quorum, 1.55)],
        ..WRITE
    },
    Job {
        name: "fua1",
        about: "4 KiB random write with FUA, depth 1",
        durable: Durable::Fua,
        targets: &[at_least(Measure::Quorum, 2.0)],
        ..WRITE
    },
    Job {
        name: "r1",
        about: "4 KiB random read, depth 1",
        reads: 100,
        targets: &[at_least(Measure::Quorum, 1.2)],
        ..WRITE
    },
    Job {
        name: "r32",
        about: "4 KiB random read, depth 32",
        reads: 100,
        depth: 32,
        targets: &[at_least(Measure::Quorum, 1.6)],
        ..WRITE
    },
    STREAM,
    Job {
        name: "s1m",
        about: "1 MiB sequential write, depth 8",
        size: KIB * KIB,
        targets: &[at_least(Measure::Quorum, 1.6), at_least(Measure::Floor, 0.85)],
        ..STREAM
    },
    Job {
        name: "sr1m",
        about: "1 MiB sequential read, depth 8",
        size: KIB * KIB,
        reads: 100,
        ..STREAM
    },
    Job {
        name: "w1-8g",
        about: "w1 all over 8 GiB, sparse; 7.5 % of the extents are hot",
        disk: Disk::Sparse,
        targets: &[at_least(Measure::Quorum, 1.1)],
        ..WRITE
    },
    Job {
        name: "w32-8g",
        about: "w32 all over 8 GiB, sparse; 7.5 % of the extents are hot",
        disk: Disk::Sparse,
        depth: 32,
        targets: &[at_least(Measure::Quorum, 2.4)],
        ..WRITE
    },
    Job {
        name: "w1-8g-ext",
        about: "w1 all over 8 GiB, sparse, 7.5 % hot; metadata in a file of its own",
        disk: Disk::SparseApart,
        targets: &[at_least(Measure::Quorum, 1.1)],
        ..WRITE
    },
    Job {
        name: "w32-8g-ext",
        about: "w32 all over 8 GiB, sparse, 7.5 % hot; metadata in a file of its own",
        disk: Disk::SparseApart,
        depth: 32,
        targets: &[at_least(Measure::Quorum, 2.4)],
        ..WRITE
    },
    Job {
        name: "clients4",
        about: "4 clients, each 4 KiB random writes at depth 8 in its own quarter",
        depth: 8,
        connections: 4,
        targets: &[at_least(Measure::Quorum, 2.5), at_least(Measure::Fairness, 0.8)],
        ..WRITE
    },
    Job {
        name: "multi4",
        about: "4 connections of one client, 4 KiB random writes at depth 8 each, all over",
        depth: 8,
        connections: 4,
        targets: &[at_least(Measure::Quorum, 2.5)],
        ..WRITE
    },
    Job {
        name: "mixed16",
        about: "4 KiB, 70 % reads and 30 % writes, depth 16",
        depth: 16,
        reads: 70,
        targets: &[at_least(Measure::Quorum, 1.5)],
        ..WRITE
    },
];

impl Job {
    /// Whether each connection has a part of the export for itself.
    pub(crate) fn is_parted(&self) -> bool {
        self.name == "clients4"
    }

    /// Whether fio can do it to raw files in the same way.
    pub(crate) fn has_raw(&self) -> bool {
        self.disk == Disk::Full && self.connections == 1
    }

    /// The same for fio.
    pub(crate) fn fio_arguments(&self) -> Vec<String> {
        let kind = match (self.order, self.reads) {
            (Order::Random, 0) => "randwrite",
            (Order::Random, 100) => "randread",
            (Order::Random, _) => "randrw",
            (Order::Sequential, 0) => "write",
            (Order::Sequential, _) => "read",
        };
        let mut arguments = vec![
            format!("--rw={kind}"),
            format!("--bs={}", self.size),
            format!("--iodepth={}", self.depth),
        ];
        if !matches!(self.reads, 0 | 100) {
            arguments.push(format!("--rwmixread={}", self.reads));
        }
        match self.durable {
            Durable::Later => {}
            Durable::Flush => arguments.push("--fsync=1".to_owned()),
            Durable::Fua => arguments.push("--sync=dsync".to_owned()),
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_a_name_of_its_own_and_a_target_against_the_quorum() {
        for (index, job) in JOBS.iter().enumerate() {
            assert!(JOBS[..index].iter().all(|other| other.name != job.name), "{}", job.name);
            assert!(job.targets.iter().any(|target| target.measure == Measure::Quorum));
            assert!(job.size.is_multiple_of(4096) && job.depth > 0 && job.connections > 0);
        }
    }
}

//! What was measured, and what follows from it.

use std::collections::BTreeMap;

use crate::cost::Used;
use crate::fio;
use crate::jobs::{Bound, Job, Measure};
use crate::load::Slice;
use crate::servers::Who;
use crate::statistics::{median, percentile};

/// A slice, in figures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Operations a second.
    pub(crate) rate: f64,
    pub(crate) operations: f64,
    /// us.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) used: Used,
    /// The slowest connection against the fastest.
    pub(crate) fairness: f64,
}

impl Sample {
    pub(crate) fn of(mut slice: Slice, used: Used) -> Self {
        let least = slice.operations.iter().min().copied().unwrap_or_default();
        let most = slice.operations.iter().max().copied().unwrap_or_default();
        Self {
            rate: slice.rate(),
            operations: (slice.total() as f64).max(1.0),
            p50: f64::from(percentile(&mut slice.latencies, 0.5)) / 10.0,
            p99: f64::from(percentile(&mut slice.latencies, 0.99)) / 10.0,
            used,
            fairness: least as f64 / most.max(1) as f64,
        }
    }
}

impl From<fio::Run> for Sample {
    fn from(run: fio::Run) -> Self {
        Self { rate: run.rate, p50: run.p50, p99: run.p99, ..Self::default() }
    }
}

/// Whether a target is met.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) job: &'static str,
    pub(crate) measure: Measure,
    pub(crate) bound: Bound,
    pub(crate) value: Option<f64>,
    /// `None`: it was not measured.
    pub(crate) is_met: Option<bool>,
}

/// By the job's name.
type Key = (&'static str, Who);

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// By round.
    samples: BTreeMap<Key, BTreeMap<usize, Sample>>,
    fio: BTreeMap<Key, Vec<fio::Run>>,
    /// io_uring_enter an operation, of each process.
    enters: BTreeMap<(Key, usize), f64>,
    pub(crate) versions: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) commit: String,
    pub(crate) setting: String,
}

impl Results {
    pub(crate) fn add(&mut self, job: &Job, who: Who, round: usize, sample: Sample) {
        self.samples.entry((job.name, who)).or_default().insert(round, sample);
    }

    pub(crate) fn add_fio(&mut self, job: &Job, who: Who, run: fio::Run) {
        self.fio.entry((job.name, who)).or_default().push(run);
    }

    pub(crate) fn counted(&mut self, job: &Job, who: Who, process: usize, each: f64) {
        self.enters.insert(((job.name, who), process), each);
    }

    /// The median of a figure over all rounds.
    pub(crate) fn figure(
        &self,
        job: &Job,
        who: Who,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        let samples = self.samples.get(&(job.name, who))?;
        Some(median(&samples.values().map(figure).collect::<Vec<_>>()))
    }

    /// The median of the ratios of rates in the same round.
    pub(crate) fn ratio(&self, job: &Job, who: Who, to: Who) -> Option<f64> {
        let ours = self.samples.get(&(job.name, who))?;
        let theirs = self.samples.get(&(job.name, to))?;
        let pairs = ours
            .iter()
            .filter_map(|(round, sample)| theirs.get(round).map(|other| sample.rate / other.rate));
        let ratios: Vec<_> = pairs.collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// What all rounds have used, for each operation: us of CPU time, and switches.
    pub(crate) fn used(&self, job: &Job, who: Who) -> Option<(f64, f64)> {
        let samples = self.samples.get(&(job.name, who))?.values();
        let used = samples.clone().fold(Used::default(), |sum, one| sum.plus(one.used));
        let operations: f64 = samples.map(|sample| sample.operations).sum();
        (operations > 0.0).then(|| (used.cpu_ns / 1000.0 / operations, used.switches / operations))
    }

    /// io_uring_enter an operation of the first process (0) or the second.
    pub(crate) fn enters(&self, job: &Job, who: Who, process: usize) -> Option<f64> {
        self.enters.get(&((job.name, who), process)).copied()
    }

    /// Median rate and p50 (us) with fio as the client.
    pub(crate) fn fio(&self, job: &Job, who: Who) -> Option<(f64, f64)> {
        let runs = self.fio.get(&(job.name, who))?;
        let of =
            |figure: fn(&fio::Run) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
        Some((of(|run| run.rate), of(|run| run.p50)))
    }

    fn value(&self, job: &Job, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Quorum => self.ratio(job, Who::Tandem, Who::Quorum),
            Measure::QuorumSpinning => self.ratio(job, Who::Spinning, Who::Quorum),
            Measure::QemuNbd => self.ratio(job, Who::Tandem, Who::QemuNbd),
            Measure::Floor => self.ratio(job, Who::Tandem, Who::Floor),
            Measure::Cpu => Some(self.used(job, Who::Tandem)?.0 / self.used(job, Who::Quorum)?.0),
            Measure::Tail => self.figure(job, Who::Tandem, |sample| sample.p99 / sample.p50),
            Measure::Enters => self.enters(job, Who::Tandem, 0),
            Measure::Fairness => self.figure(job, Who::Tandem, |sample| sample.fairness),
        }
    }

    /// Each target of the jobs.
    pub(crate) fn verdicts(&self, jobs: &[&Job]) -> Vec<Verdict> {
        let of_job = |job: &&Job| {
            let judge = |target: &crate::jobs::Target| {
                let value = self.value(job, target.measure).filter(|value| value.is_finite());
                Verdict {
                    job: job.name,
                    measure: target.measure,
                    bound: target.bound,
                    value,
                    is_met: value.map(|value| target.bound.is_met(value)),
                }
            };
            job.targets.iter().map(judge).collect::<Vec<_>>()
        };
        jobs.iter().flat_map(of_job).collect()
    }
}

/// One with some rounds of the first job, for tests.
#[cfg(test)]
pub(crate) fn example() -> Results {
    let mut results = Results::default();
    let job = &crate::jobs::JOBS[0];
    for (round, (ours, theirs)) in
        [(300.0, 100.0), (200.0, 100.0), (100.0, 100.0)].iter().enumerate()
    {
        let used = Used { cpu_ns: 1000.0, switches: 2.0 };
        let sample =
            Sample { rate: *ours, operations: 1.0, p50: 1.0, p99: 2.0, used, fairness: 1.0 };
        results.add(job, Who::Tandem, round, sample);
        results.add(job, Who::Quorum, round, Sample { rate: *theirs, ..sample });
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JOBS;

    #[test]
    fn ratios_are_those_of_the_same_round_and_what_is_missing_is_not_met() {
        let results = example();
        let job = &JOBS[0];
        assert_eq!(results.ratio(job, Who::Tandem, Who::Quorum), Some(2.0));
        assert_eq!(results.ratio(job, Who::Tandem, Who::Floor), None);
        assert_eq!(results.used(job, Who::Tandem), Some((1.0, 2.0)));
        let verdicts = results.verdicts(&[job]);
        let met =
            |measure| verdicts.iter().find(|verdict| verdict.measure == measure).unwrap().is_met;
        assert_eq!(met(Measure::Quorum), Some(true));
        assert_eq!(met(Measure::Cpu), Some(false), "as much as the quorum");
        assert_eq!(met(Measure::Enters), None);
    }

    #[test]
    fn a_sample_knows_the_slowest_connection() {
        let slice = Slice { operations: vec![10, 5], seconds: 3.0, latencies: vec![10, 20, 30] };
        let sample = Sample::of(slice, Used::default());
        assert_eq!((sample.rate, sample.p50, sample.p99, sample.fairness), (5.0, 2.0, 3.0, 0.5));
    }
}

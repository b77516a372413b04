//! What many seeds came to, and the file in which it waits for the next piece of a long run.
//!
//! ```text
//! first 20001          the first seed of the run
//! next 31250           every seed before this one is counted
//! count runs 11249     a number
//! end 11102 in sync    how many ended so
//! row 17 conn Connecting -> Timeout
//! failed 20417 what a checker found
//! ```
//!
//! Invariants:
//! - Seeds are counted in order, each once, however the threads finish them: two runs over the same
//!   seeds have the same totals, in one piece or in many.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use tandem::sim::{Coverage, Report};

/// The numbers that are added up.
pub(super) const COUNTS: &[&str] = &[
    "runs",
    "events",
    "answers",
    "errors",
    "virtual-ms",
    "alone",
    "both-caches",
    "victims",
    "forced",
    "replaced",
    "set-back",
    "refused",
    "waited",
    "seeded",
];

/// Counts of the seeds from `first` to the one before `next`.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) first: u64,
    pub(super) next: u64,
    counts: BTreeMap<String, u64>,
    pub(super) ends: BTreeMap<String, u64>,
    pub(super) coverage: Coverage,
    pub(super) failures: BTreeMap<u64, String>,
    /// Of seeds that are done, while one before them is not.
    early: BTreeMap<u64, Result<Report, String>>,
}

impl Totals {
    /// Nothing is counted yet.
    pub(super) fn new(first: u64) -> Self {
        Self { first, next: first, ..Self::default() }
    }

    /// One of [`COUNTS`].
    pub(super) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// A seed is done.
    pub(super) fn add(&mut self, seed: u64, result: Result<Report, String>) {
        self.early.insert(seed, result);
        while let Some(result) = self.early.remove(&self.next) {
            match result {
                Ok(report) => self.add_report(&report),
                Err(text) => {
                    *self.counts.entry("runs".to_owned()).or_default() += 1;
                    self.failures.insert(self.next, text);
                }
            }
            self.next += 1;
        }
    }

    fn add_report(&mut self, report: &Report) {
        let excused = &report.excused;
        let numbers = [
            1,
            report.events,
            report.answered,
            report.errors,
            report.virtual_ms,
            excused.lone,
            excused.both,
            excused.victim,
            excused.forced,
            excused.replaced,
            excused.set_back,
            excused.refused,
            excused.waited,
            excused.seeded,
        ];
        for (name, number) in COUNTS.iter().zip(numbers) {
            *self.counts.entry((*name).to_owned()).or_default() += number;
        }
        *self.ends.entry(report.end.to_string()).or_default() += 1;
        self.coverage.add(&report.coverage);
    }

    /// Saves what is counted: the old file stays whole until the new one is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, file: &Path) -> std::io::Result<()> {
        let mut text = format!("first {}\nnext {}\n", self.first, self.next);
        for (name, count) in &self.counts {
            let _ = writeln!(text, "count {name} {count}");
        }
        for (end, count) in &self.ends {
            let _ = writeln!(text, "end {count} {end}");
        }
        for row in self.coverage.rows().iter().filter(|row| row.count > 0) {
            let _ = writeln!(text, "row {} {} {}", row.count, row.table.name(), row.name);
        }
        for (seed, found) in &self.failures {
            let _ = writeln!(text, "failed {seed} {}", found.replace('\n', " "));
        }
        let new = file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, file)
    }

    /// What an earlier piece has saved.
    ///
    /// # Errors
    /// A line that is none of ours.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut totals = Self::default();
        for line in text.lines() {
            totals.parse_line(line).ok_or_else(|| format!("not a line of a saved run: {line}"))?;
        }
        if totals.first == 0 || totals.next < totals.first {
            return Err("the file does not say which seeds it is of".to_owned());
        }
        Ok(totals)
    }

    fn parse_line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "first" => self.first = rest.parse().ok()?,
            "next" => self.next = rest.parse().ok()?,
            "count" => {
                let (name, count) = rest.split_once(' ')?;
                COUNTS.contains(&name).then_some(())?;
                self.counts.insert(name.to_owned(), count.parse().ok()?);
            }
            "end" => {
                let (count, end) = rest.split_once(' ')?;
                self.ends.insert(end.to_owned(), count.parse().ok()?);
            }
            "row" => {
                let (count, rest) = rest.split_once(' ')?;
                let (table, name) = rest.split_once(' ')?;
                self.coverage.add_row(table, name, count.parse().ok()?).then_some(())?;
            }
            "failed" => {
                let (seed, found) = rest.split_once(' ')?;
                self.failures.insert(seed.parse().ok()?, found.to_owned());
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;
    use tandem::sim::{SimOptions, run};

    #[test]
    fn a_run_in_two_pieces_counts_what_a_whole_one_does() {
        let folder = std::env::temp_dir().join(format!("simulate-{}", std::process::id()));
        let result = |seed| {
            let mut options = SimOptions::of_seed(seed);
            options.requests = 10;
            options.plan.clear();
            run(options, 0).map_err(|failure| failure.violation.text)
        };
        let mut whole = Totals::new(5);
        let mut piece = Totals::new(5);
        for seed in [6, 5] {
            whole.add(seed, result(seed));
            piece.add(seed, result(seed));
        }
        piece.add(8, Err("not in order yet".to_owned()));
        piece.save(&folder).unwrap();
        let mut piece = Totals::parse(&std::fs::read_to_string(&folder).unwrap()).unwrap();
        assert_eq!((piece.first, piece.next), (5, 7));
        for totals in [&mut whole, &mut piece] {
            totals.add(7, Err("it broke".to_owned()));
            totals.save(&folder).unwrap();
        }
        let saved = std::fs::read_to_string(&folder).unwrap();
        whole.save(&folder).unwrap();
        assert_eq!(saved, std::fs::read_to_string(&folder).unwrap());
        std::fs::remove_file(&folder).unwrap();
        assert!(saved.contains("failed 7 it broke\n") && saved.contains("count runs 3\n"));
        assert!(Totals::parse("first 1\nnext 2\nrow 1 nothing x\n").is_err());
        assert!(Totals::parse("").is_err());
    }
}

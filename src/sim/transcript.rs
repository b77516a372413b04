//! What happened, in lines, for a person who looks at a failed run.

use std::collections::VecDeque;

/// The last lines of a run.
#[derive(Clone, Debug)]
pub(super) struct Transcript {
    lines: VecDeque<String>,
    /// Lines that are kept; 0: nothing is recorded.
    keep: usize,
}

impl Transcript {
    /// Keeps so many lines.
    #[must_use]
    pub(super) fn new(keep: usize) -> Self {
        Self { lines: VecDeque::new(), keep }
    }

    /// Whether anything is recorded: formatting costs more than the rest of a run.
    #[must_use]
    pub(super) fn is_on(&self) -> bool {
        self.keep > 0
    }

    /// Adds a line.
    pub(super) fn push(&mut self, line: String) {
        if self.keep == 0 {
            return;
        }
        if self.lines.len() == self.keep {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Takes the lines.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.lines.drain(..).collect()
    }

    /// Everything that is kept.
    #[must_use]
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// The `Debug` text of plain data, with long runs of one item shortened.
#[must_use]
pub(super) fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.len() < 400 {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut repeated = 0;
    let mut last = "";
    for item in text.split_inclusive(", ") {
        if item == last && item.len() < 24 {
            repeated += 1;
            continue;
        }
        if repeated > 0 {
            out.push_str(&format!("({repeated} more), "));
        }
        repeated = 0;
        last = item;
        out.push_str(item);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Transcript, brief};

    #[test]
    fn the_last_lines_are_kept() {
        let mut transcript = Transcript::new(2);
        for line in ["a", "b", "c"] {
            transcript.push(line.to_owned());
        }
        assert_eq!(transcript.text(), "b\nc\n");
    }

    #[test]
    fn long_runs_are_shortened() {
        let text = brief(&vec![0; 500]);
        assert!(text.len() < 50, "{text}");
    }
}

//! The way to a state: what two histories have in common is played once.

use super::super::cluster::Cluster;
use super::super::coverage::Coverage;
use super::{Known, Move, Start, base};

/// The states along the history that was played last.
#[derive(Default)]
pub(super) struct Path {
    start: Option<Start>,
    /// What led to each, but the first.
    moves: Vec<Move>,
    states: Vec<Cluster>,
}

impl Path {
    /// The cluster after a history, with nothing counted.
    ///
    /// # Errors
    /// What a checker found on the way.
    pub(super) fn to(&mut self, known: &Known) -> Result<&Cluster, String> {
        if self.start != Some(known.start) {
            *self = Self { start: Some(known.start), ..Self::default() };
            let mut first = base(known.start, 0)?;
            first.coverage = Coverage::default();
            self.states.push(first);
        }
        let both = self.moves.iter().zip(&known.history);
        let common = both.take_while(|(a, b)| a == b).count();
        self.moves.truncate(common);
        self.states.truncate(common + 1);
        for one in &known.history[common..] {
            let mut cluster = self.states[self.moves.len()].clone();
            cluster.play(one);
            cluster.coverage = Coverage::default();
            if let Some(violation) = &cluster.violation {
                return Err(violation.text.clone());
            }
            self.moves.push(*one);
            self.states.push(cluster);
        }
        Ok(&self.states[self.moves.len()])
    }
}

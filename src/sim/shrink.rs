//! From a plan that fails to the shortest one that still fails.

use super::run::{Failure, run};

/// Runs that shrinking may cost.
const TRIES_MAX: usize = 200;

/// Takes faults out of the plan of a failed run, one after the other, as long as it fails; then runs
/// what is left with a transcript of so many lines.
#[must_use]
pub fn shrink(failure: &Failure, keep: usize) -> Box<Failure> {
    let mut options = failure.options.clone();
    let mut tries = 0;
    let mut index = options.plan.len();
    while index > 0 && tries < TRIES_MAX {
        index -= 1;
        let less = options.without(index);
        tries += 1;
        if run(less.clone(), 0).is_err() {
            options = less;
        }
    }
    match run(options, keep) {
        Err(failure) => failure,
        Ok(_) => Box::new(failure.clone()),
    }
}

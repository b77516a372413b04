//! The usage that is shown beside a misuse.

use clap::error::{ContextKind, ContextValue};

/// The usage of the program, or of its verb, as its help has it. Left to itself it shows what was given as if it were
/// needed, and options of the environment count as given.
pub(crate) fn whole_usage(error: &mut clap::Error, mut root: clap::Command) {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return };
    let usage = usage.to_string();
    root.build();
    // Behind `Usage:` and the program.
    for word in usage.split_whitespace().skip(2) {
        let Some(verb) = root.find_subcommand(word).cloned() else { break };
        root = verb;
    }
    let usage = root.render_usage();
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
}

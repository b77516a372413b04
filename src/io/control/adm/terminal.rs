//! Questions before something is destroyed. Only a person is asked: without a terminal on standard
//! input and standard error nothing is.

use std::io::{BufRead, IsTerminal};

use super::{Failure, Outcome, complain};

/// Whether a person sits there.
pub(super) fn is_person() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Says what will be lost and asks for a name; anything else stops.
///
/// # Errors
/// Another answer: exit 1, nothing was done.
pub(super) fn confirm(what: &str, meaning: &str, name: &str) -> Outcome {
    if !is_person() {
        return Ok(());
    }
    complain(&format!("{what}\nType the name of {meaning} ({name}), or nothing to stop:"));
    let mut answer = String::new();
    let read = std::io::Read::take(std::io::stdin().lock(), 4096).read_line(&mut answer);
    match read {
        Ok(_) if answer.trim() == name => Ok(()),
        Ok(_) | Err(_) => Err(Failure::new(1, "Stopped; nothing was done.")),
    }
}

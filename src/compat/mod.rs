//! DRBD's tools on Tandem, as far as no daemon and no file is asked: `drbdadm` and `drbdsetup`, under
//! which names the program `tandem-drbd-compat` answers what agents, drbd-reactor and scripts ask.
//!
//! Invariants:
//! - pure: its shell is `io::control::compat`;
//! - what is not supported is refused by name, and nothing is read and ignored.

mod aim;
mod line;
mod shell;
mod show;
mod version;

pub use aim::{Aim, aim, resolve};
pub use line::{Asked, Line, Misuse, Tool, command, parse};
pub use shell::{is_shell_verb, shell_lines};
pub use show::{show_json, show_text};
pub use version::version;

//! The dangers that `primary --force` accepts by name.

use clap::ValueEnum;

use crate::resource::Force;

/// `--force` and its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForceWord {
    /// A new or a Consistent disk.
    #[value(name = "yes")]
    Plain,
    /// A disk in mid-resync.
    Inconsistent,
    /// A disk that is known to be old.
    Outdated,
    /// This disk is blank, the peer's holds a file system.
    Blank,
    /// No danger: as without the option.
    #[value(name = "no", hide = true)]
    Not,
}

impl ForceWord {
    /// The danger that is accepted, if one is.
    #[must_use]
    pub fn danger(self) -> Option<Force> {
        match self {
            Self::Plain => Some(Force::Plain),
            Self::Inconsistent => Some(Force::Inconsistent),
            Self::Outdated => Some(Force::Outdated),
            Self::Blank => Some(Force::Blank),
            Self::Not => None,
        }
    }
}

//! DRBD's `.res` grammar to checked definitions: text in, findings out.
//!
//! ```text
//! load: read, token, syntax   draft (+ volume, connection, setting)   define (+ judge, claims)
//!   words and sections         what is written, with its place        Definition, or why not
//! ```
//!
//! Invariants:
//! - pure: files are read by the caller's [`Files`]; the same text gives the same findings;
//! - all findings come in one run, sorted; nothing that is written is ignored without one, unless
//!   it says what Tandem does anyway;
//! - a resource with an error is not among [`Config::resources`] but among [`Config::refused`];
//!   a syntax error refuses the resources of its file; where what is in force for all is unknown
//!   (a broken `common`, an unreadable `include`), every resource is refused;
//! - no text, of any size or nesting, panics or runs away: files, their sizes, includes, nesting
//!   and findings are bounded.

mod address;
mod claims;
mod connection;
mod define;
mod definition;
mod draft;
mod dump;
mod dump_xml;
mod finding;
mod glob;
mod judge;
mod load;
mod manual;
mod nearest;
mod option_table;
mod overrides;
mod resync_after;
mod setting;
mod syntax;
#[cfg(test)]
mod tests;
mod token;
mod volume;

use serde::{Deserialize, Serialize};

pub use definition::{
    Definition, Host, HostVolume, MINOR_MAX, MetaDisk, NAME_MAX, NODE_ID_MAX, PATHS_MAX, Place,
    VOLUME_MAX, Waits, nbd_device, same_host,
};
pub use dump::dump;
pub use dump_xml::dump_xml;
pub use finding::{Finding, Severity};
pub use glob::{is_pattern, matches};
pub use load::{FILE_MAX, load};
pub use manual::{ManualOption, manual};
pub use overrides::{option_named, override_option};
pub use resync_after::{Dependencies, ResyncAfter, cycle};

/// Where the text of config files comes from.
pub trait Files {
    /// The text of a file; bytes of it that are not UTF-8 are U+FFFD. At most [`FILE_MAX`] bytes are
    /// used: longer files are an error.
    ///
    /// # Errors
    /// Why it cannot be read, e.g. `No such file or directory`.
    fn read(&self, path: &str) -> Result<String, String>;

    /// The files whose paths match a pattern (see [`matches`]), in any order. None: no error.
    ///
    /// # Errors
    /// Why it is not known what matches, e.g. a folder that may not be read.
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String>;

    /// The one name of the file that a path leads to, by whatever links; the path where that is not
    /// known.
    fn canonical(&self, path: &str) -> String {
        path.to_owned()
    }

    /// Whether everybody on the host can read a file: then it is no place for a secret.
    fn is_public(&self, _path: &str) -> bool {
        false
    }
}

/// One file, for tests.
#[cfg(test)]
pub(crate) struct OneFile<'a>(pub(crate) &'a str);

#[cfg(test)]
impl Files for OneFile<'_> {
    fn read(&self, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn glob(&self, _: &str) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}

/// A config with all that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The resources that can be used, in the order of the files.
    pub resources: Vec<Definition>,
    /// The names of the resources that are refused, in the order of the files.
    pub refused: Vec<String>,
    /// All findings, sorted by file (in the order of reading), line and column.
    pub findings: Vec<Finding>,
}

impl Config {
    /// The resource of that name, if it can be used.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<&Definition> {
        self.resources.iter().find(|definition| definition.name == name)
    }

    /// Whether a resource of that name is written, and refused.
    #[must_use]
    pub fn is_refused(&self, name: &str) -> bool {
        self.refused.iter().any(|refused| refused == name)
    }

    /// Whether any finding is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The findings that concern a resource: its own, and those of no resource.
    pub fn findings_of(&self, name: &str) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.resource.as_deref().is_none_or(|of| of == name))
    }
}

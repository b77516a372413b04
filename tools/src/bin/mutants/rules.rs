//! Mutants of the rules of model.md: each rule is taken out once. docs/TESTING.md, "The rules of the
//! model", says which of them sees which rule.

use super::list::{By, Mutant};

/// `tools/explore` for most: long histories of the metadata, with one blow in their midst.
const LONG: By = By::Histories(&["--metadata", "--turns", "5", "--blows", "1", "--heal", "64"]);

pub(crate) const MUTANTS: &[Mutant] = &[];

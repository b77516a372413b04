//! DRBD's `.res` grammar to checked definitions.

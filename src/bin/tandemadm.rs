//! tandemadm.
fn main() {}

//! The gateway daemon and its CLI.
fn main() {}

//! The gateway daemon as a library, so that tests and tools drive the same code.

pub mod dataplane;

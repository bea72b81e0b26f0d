//! What the tests that need more than one crate share.

pub mod frames;
pub mod kernel;
pub mod vectors;

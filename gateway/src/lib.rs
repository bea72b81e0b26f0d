//! The gateway daemon as a library, so that tests and the CLI drive the same parts.
pub mod config;
pub mod core;
pub mod store;

//! The gateway daemon as a library, so that tests and tools drive the same code.
//!
//! `config` reads the operator's files; `core` decides, without I/O; `runtime` owns sockets, timers and the data plane
//! and feeds `core` and the IKE endpoint; `dataplane` loads the XDP programs and runs the ESP workers; `nexthop` follows
//! routes and neighbours; `log` is what it says meanwhile; `api` and `cli` are how people and machines talk to it.
pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod dataplane;
pub mod dns;
pub mod log;
pub mod nexthop;
pub mod runtime;
pub mod store;

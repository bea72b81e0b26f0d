//! The gateway in the lab (the map is in `xtask/src/lab/topology.rs`): what it lets through, what it does not, and what
//! it counts. The lab is one, so tests run one by one: `cargo xtask test netns`.

mod conntrack;
mod control;
mod directions;
mod engines;
mod errors;
mod fail_closed;
mod filter;
mod fragments;
mod hostile;
mod names;
mod narrow_path;
mod path_mtu;
mod restart;
mod rules;
mod service;
mod trace;
mod transfers;
mod vectors;

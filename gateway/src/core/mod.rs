//! What the controller knows and decides, without I/O: rule compiler, sites and their addresses, installed SAs.
pub mod analysis;
pub mod blocks;
pub mod classifier;
pub mod coverage;
pub mod directions;
pub mod explain;
pub mod generations;
pub mod journal;
pub mod names;
pub mod nat_log;
pub mod path_mtu;
pub mod policy;
pub mod pools;
pub mod rejudge;

pub mod sadb;
pub mod schedule;
pub mod sites;

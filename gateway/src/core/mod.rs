//! What the controller knows and decides, without I/O: rule compiler, sites and their addresses, installed SAs.
pub mod journal;
pub mod policy;
pub mod pools;

pub mod sadb;
pub mod sites;

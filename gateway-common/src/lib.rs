//! The packet core and the kernel/user-space ABI of the gateway.
//!
//! `abi` is the contract of every BPF map; `packet` holds checked views of the protocols, one a file; `path` holds
//! the way of a packet through the three XDP programs as pure functions over [`packet::Packet`] and
//! [`tables::Tables`]. The crate is `no_std`, does not allocate and does not panic; it is compiled for BPF in
//! `gateway-ebpf` and for the host in the daemon and in every test.
//!
//! **Architecture invariant:** nothing here touches a map, a clock or packet memory except through the two traits.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
pub mod drop;
pub mod packet;
pub mod path;
pub mod tables;

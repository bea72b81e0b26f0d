//! Packet core and kernel/user-space ABI of the gateway, `no_std`.
#![cfg_attr(not(feature = "std"), no_std)]

//! The DNS proxy: sites that may reach Internet sites by name ask it for addresses, and it opens those that it tells.
//!
//! | file | subject |
//! |---|---|
//! | `message` | DNS messages as far as the proxy needs them (RFC 1035, 6891) |
//! | `private` | addresses that no name may lead to |
//! | `rate` | how often a site or an address may ask |
//! | `lookups` | what upstream servers are asked, each name once at a time |
//! | `proxy` | one question after another, without I/O |
//! | `server` | its sockets and clock |
//!
//! **Architecture invariant:** an address is open in the packet path before the answer that names it leaves, and no answer
//! names one that is not.
mod lookups;
pub mod message;
pub mod private;
pub mod proxy;
pub mod rate;
pub mod server;

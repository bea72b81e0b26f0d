//! Next hops: who is to get a frame that the kernel does not send itself.
//!
//! ESP and forwarded frames leave through AF_XDP and XDP, so their Ethernet header is ours to write. The kernel keeps
//! routes and neighbours as ever; this module asks it, has it resolve what is unknown, and hears of changes.
//!
//! | file | subject |
//! |---|---|
//! | `netlink` | questions to the kernel |
//! | `peer` | the way to the peer of a tunnel |
//! | `core_side` | the routes of the core side |

mod core_side;
mod netlink;
mod peer;

pub use self::core_side::CoreHops;
pub use self::netlink::{Counts, News, ResolveError, Resolver, Watcher};
pub use self::peer::PeerHop;

//! The way of a packet through each XDP program: it ends in a [`Verdict`] or a [`DropReason`], and the shell acts on it.
//!
//! A function that is not inlined has five arguments at most. The compiler leaves out what it can derive, but BTF keeps the
//! arguments of the source, and Linux 7.2 and later look for a sixth on the stack: they refuse the program with `EFAULT`.

pub mod answer;
pub mod back;
pub mod clear;
pub mod core;
pub mod direct;
pub mod enter;
pub mod error;
pub mod filter;
pub mod fragment;
pub mod hairpin;
pub mod icmp;
pub mod inner;
pub mod limits;
pub mod mss;
pub mod nat;
pub mod open;
pub mod pmtu;
pub mod rules;
pub mod tcp;
pub mod trace;
pub mod wan;

use crate::abi::{interface::Interface, stats::Path};
use crate::drop::DropReason;
use crate::tables::Tables;

/// What becomes of a packet that is not dropped, and the counter it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the kernel's own stack.
    Pass(Path),
    /// To the AF_XDP socket in this slot of `XSKS`.
    Worker {
        /// Slot.
        slot: u32,
        /// Counter.
        path: Path,
    },
    /// Out of this interface.
    Egress {
        /// Interface.
        ifindex: u32,
        /// Counter.
        path: Path,
    },
    /// Back out of the interface it came from.
    Reflect(Path),
}

impl Verdict {
    /// The counter that the packet belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn path(self) -> Path {
        match self {
            Self::Pass(path)
            | Self::Reflect(path)
            | Self::Worker { path, .. }
            | Self::Egress { path, .. } => path,
        }
    }
}

/// End of a packet's way.
pub type Outcome = Result<Verdict, DropReason>;

/// The worker's slot for the queue that the frame came in by.
#[inline(always)]
fn worker<T: Tables>(tables: &T, interface: &Interface, path: Path) -> Outcome {
    let queue = tables.queue();
    if queue >= interface.queues {
        return Err(DropReason::NoWorker);
    }
    Ok(Verdict::Worker {
        slot: interface.xsk_base.wrapping_add(queue),
        path,
    })
}

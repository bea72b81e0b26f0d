//! Packet memory behind one trait, and the headers that are read from it, one protocol a file.

pub mod checksum;
pub mod esp;
pub mod ethernet;
pub mod icmp;
pub mod ike;
pub mod ipv4;
pub mod ipv6;
mod slice;
pub mod tcp;
pub mod udp;

#[cfg(any(test, feature = "std"))]
mod buffer;

#[cfg(any(test, feature = "std"))]
pub use buffer::Buffer;
pub use slice::Slice;

use checksum::Sum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header as it lies in a packet: any bytes are a valid value, no padding, alignment 1.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy> Wire for T {}

/// Largest offset that [`Packet::load`] and [`Packet::store`] take: the verifier wants a bound on variable offsets.
pub const OFFSET_MAX: u32 = 255;

/// A frame, from its link header on. Loads and stores copy whole headers and are bounds-checked each time.
pub trait Packet {
    /// Length of the frame in bytes.
    fn len(&self) -> u32;

    /// Whether the frame holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the header at `offset`; `None` if the frame ends before it does.
    fn load<T: Wire>(&self, offset: u32) -> Option<T>;

    /// Copies the header at `offset` to where it stays; `None` (and nothing copied) if the frame ends before it does. A
    /// header that is read again elsewhere is best copied this way in BPF: it is stored in words. Stored in octets and read in
    /// words, it would have to wait for the stores.
    #[must_use = "a header that was not copied is none"]
    fn load_into<T: Wire>(&self, offset: u32, to: &mut T) -> Option<()> {
        *to = self.load(offset)?;
        Some(())
    }

    /// The words at `offset`, as they lie in memory; `None` if the frame ends before they do. What BPF is to take apart in registers
    /// is best loaded this way: of a header's fields it would make octets.
    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let words: [[u8; 4]; N] = self.load(offset)?;
        Some(words.map(u32::from_ne_bytes))
    }

    /// Writes the header at `offset`; `None` (and no byte written) if the frame ends before it does.
    #[must_use = "a header that was not written must not be sent"]
    fn store<T: Wire>(&mut self, offset: u32, value: &T) -> Option<()>;

    /// Sum of the `length` bytes at `offset`, which is even; `None` if the frame ends before they do. The one access that
    /// goes beyond [`OFFSET_MAX`].
    fn sum(&self, offset: u32, length: u32) -> Option<Sum>;

    /// Puts `bytes` of unspecified content in front of the frame; `None` if there is no headroom.
    #[must_use = "a frame whose head did not move must not be sent"]
    fn grow_head(&mut self, bytes: u32) -> Option<()>;

    /// The value, of which compiler and verifier are to know nothing: ways that differ in it alone become one again.
    fn hide(value: u32) -> u32 {
        value
    }

    /// Cuts the frame down to `len` bytes; `None` if it is shorter.
    #[must_use = "a frame that was not cut must not be sent"]
    fn truncate(&mut self, len: u32) -> Option<()>;
}

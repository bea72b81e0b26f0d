//! Sites, and the port blocks that they are translated to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Port blocks of one site at most.
pub const BLOCKS_MAX: usize = 8;

/// Bits of [`Site::flags`].
pub mod flag {
    /// The controller is to be told when the site's ports run short: it gives it another block, or tells the operator.
    pub const MORE_BLOCKS: u32 = 1;
    /// Any remote endpoint may send to the site's mappings, if a rule lets it: endpoint-independent filtering (RFC 4787
    /// section 5). Without this flag and the next: address- and port-dependent.
    pub const FILTER_NOTHING: u32 = 2;
    /// Any port of an address that a mapping has sent to may send to it: address-dependent filtering.
    pub const FILTER_ADDRESS: u32 = 4;
    /// Some address of the site has an outside address of its own.
    pub const ONE_TO_ONE: u32 = 8;
}

/// A run of ports (and of ICMP query identifiers) of an address that one site alone is translated to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Block {
    /// The address.
    pub address: [u8; 4],
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}
abi_assert!(Block, size = 8, align = 2);

impl Block {
    /// A whole address, with every port there is.
    #[must_use]
    pub const fn whole(address: [u8; 4]) -> Self {
        Self {
            address,
            first: 0,
            last: u16::MAX,
        }
    }

    /// Whether nobody else has a part of the address, so that protocols without ports may use it.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }
}

/// A site as the packet path sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Site {
    /// Its number. A program that has found an element while it is replaced may read another site's: it looks here
    /// afterwards.
    pub id: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Bitmap of site groups; bit n is the n-th group of the configuration.
    pub groups: u64,
    /// Its port blocks, those of one address together; the first [`Site::blocks_count`] count.
    pub blocks: [Block; BLOCKS_MAX],
    /// Blocks in use, 1 to [`BLOCKS_MAX`]; with none the site gets no mapping.
    pub blocks_count: u16,
    /// Blocks, from the first on, that are of the first one's address. Paired pooling (RFC 6888 REQ-2): as long as
    /// they have room, the site is seen by this one address.
    pub blocks_paired: u16,
    /// Blocks behind those in use that are closed: what is mapped to them stays, and nothing new is.
    pub blocks_closed: u16,
    /// Zero.
    pub pad: [u8; 2],
}
abi_assert!(Site, size = 88, align = 8);

impl Site {
    /// A site with an address of its own, without a number.
    #[must_use]
    pub const fn whole(groups: u64, address: [u8; 4]) -> Self {
        let mut blocks = [Block::whole([0; 4]); BLOCKS_MAX];
        blocks[0] = Block::whole(address);
        Self {
            id: 0,
            flags: 0,
            groups,
            blocks,
            blocks_count: 1,
            blocks_paired: 1,
            blocks_closed: 0,
            pad: [0; 2],
        }
    }

    /// The same with this number, as it stands in the map.
    #[must_use]
    pub const fn numbered(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// A site with these blocks, those of one address together, without a number; what is beyond [`BLOCKS_MAX`] is left out.
    #[must_use]
    pub fn with_blocks(groups: u64, given: &[Block], flags: u32) -> Self {
        let mut blocks = [Block::whole([0; 4]); BLOCKS_MAX];
        let count = given.len().min(BLOCKS_MAX);
        for (slot, block) in blocks.iter_mut().zip(given) {
            *slot = *block;
        }
        let of_first = |block: &&Block| Some(block.address) == given.first().map(|first| first.address);
        let paired = given.iter().take(count).take_while(of_first).count();
        Self {
            id: 0,
            flags,
            groups,
            blocks,
            blocks_count: count as u16,
            blocks_paired: paired as u16,
            blocks_closed: 0,
            pad: [0; 2],
        }
    }

    /// The same with blocks that are closed, as many as fit.
    #[must_use]
    pub fn with_closed(mut self, closed: &[Block]) -> Self {
        let free = self.blocks.iter_mut().skip(self.blocks_count as usize);
        let mut count = 0;
        for (slot, block) in free.zip(closed) {
            *slot = *block;
            count += 1;
        }
        self.blocks_closed = count;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_the_first_address_are_counted_apart() {
        let block = |last_octet, first| Block {
            address: [198, 51, 100, last_octet],
            first,
            last: first + 63,
        };
        let site = Site::with_blocks(1, &[block(1, 1024), block(1, 2048), block(2, 1024)], 0);
        assert_eq!((site.blocks_count, site.blocks_paired), (3, 2));
        let nothing = Site::with_blocks(1, &[], 0);
        assert_eq!((nothing.blocks_count, nothing.blocks_paired), (0, 0));
        let many = std::vec![block(1, 1024); BLOCKS_MAX + 1];
        let full = Site::with_blocks(1, &many, 0);
        assert_eq!((full.blocks_count, full.blocks_paired), (8, 8));
        assert!(Site::whole(1, [198, 51, 100, 1]).blocks[0].is_whole());
        let closed = site.with_closed(&[block(3, 1024)]);
        assert_eq!((closed.blocks_count, closed.blocks_closed), (3, 1));
        assert_eq!(closed.blocks[3], block(3, 1024));
        assert_eq!(full.with_closed(&[block(3, 1024)]), full, "no room is left");
    }
}

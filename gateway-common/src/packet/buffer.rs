//! A frame in ordinary memory: for tests and simulations.

use std::vec::Vec;

use super::checksum::Sum;
use super::{OFFSET_MAX, Packet, Wire};

/// Headroom that XDP gives: `XDP_PACKET_HEADROOM` less the kernel's own frame structure.
const HEADROOM: usize = 192;

/// An owned frame with the headroom of an XDP frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    memory: Vec<u8>,
    head: usize,
}

impl Buffer {
    /// Copies a frame.
    #[must_use]
    pub fn new(frame: &[u8]) -> Self {
        let mut memory = std::vec![0; HEADROOM];
        memory.extend_from_slice(frame);
        Self {
            memory,
            head: HEADROOM,
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.head..).unwrap_or_default()
    }
}

impl Packet for Buffer {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes().len()).unwrap_or(u32::MAX)
    }

    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        if offset > OFFSET_MAX {
            return None;
        }
        let (value, _) = T::read_from_prefix(self.bytes().get(offset as usize..)?).ok()?;
        Some(value)
    }

    fn store<T: Wire>(&mut self, offset: u32, value: &T) -> Option<()> {
        if offset > OFFSET_MAX {
            return None;
        }
        value
            .write_to_prefix(self.memory.get_mut(self.head + offset as usize..)?)
            .ok()
    }

    fn sum(&self, offset: u32, length: u32) -> Option<Sum> {
        let end = offset.checked_add(length)?;
        Some(Sum::default().bytes(self.bytes().get(offset as usize..end as usize)?))
    }

    fn grow_head(&mut self, bytes: u32) -> Option<()> {
        self.head = self.head.checked_sub(bytes as usize)?;
        Some(())
    }

    fn truncate(&mut self, len: u32) -> Option<()> {
        if len > self.len() {
            return None;
        }
        self.memory.truncate(self.head + len as usize);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_stop_at_the_end() {
        let mut buffer = Buffer::new(&[1, 2, 3, 4]);
        assert_eq!(buffer.load::<[u8; 2]>(2), Some([3, 4]));
        assert_eq!(buffer.load::<[u8; 2]>(3), None);
        assert_eq!(buffer.load::<[u8; 1]>(OFFSET_MAX + 1), None);
        assert_eq!(buffer.store(3, &[9u8, 9]), None);
        assert_eq!(buffer.bytes(), [1, 2, 3, 4]);
        assert_eq!(buffer.store(2, &[9u8, 8]), Some(()));
        assert_eq!(buffer.bytes(), [1, 2, 9, 8]);
    }

    #[test]
    fn head_grows_within_the_headroom_only() {
        let mut buffer = Buffer::new(&[7]);
        assert_eq!(buffer.grow_head(28), Some(()));
        assert_eq!(buffer.len(), 29);
        assert_eq!(buffer.load::<[u8; 1]>(28), Some([7]));
        assert_eq!(buffer.truncate(30), None);
        assert_eq!(buffer.truncate(28), Some(()));
        assert_eq!(buffer.len(), 28);
        assert_eq!(Buffer::new(&[]).grow_head(1000), None);
    }
}

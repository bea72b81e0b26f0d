//! A frame that lies in somebody's memory: for workers that run the packet core themselves.

use super::checksum::Sum;
use super::{OFFSET_MAX, Packet, Wire};

/// A frame without headroom.
#[derive(Debug)]
pub struct Slice<'a>(&'a mut [u8]);

impl<'a> Slice<'a> {
    /// The frame in these bytes.
    #[must_use]
    pub const fn new(frame: &'a mut [u8]) -> Self {
        Self(frame)
    }
}

impl Packet for Slice<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        if offset > OFFSET_MAX {
            return None;
        }
        let (value, _) = T::read_from_prefix(self.0.get(offset as usize..)?).ok()?;
        Some(value)
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: u32, value: &T) -> Option<()> {
        if offset > OFFSET_MAX {
            return None;
        }
        value.write_to_prefix(self.0.get_mut(offset as usize..)?).ok()
    }

    fn sum(&self, offset: u32, length: u32) -> Option<Sum> {
        let end = offset.checked_add(length)?;
        Some(Sum::default().bytes(self.0.get(offset as usize..end as usize)?))
    }

    fn grow_head(&mut self, _: u32) -> Option<()> {
        None
    }

    fn truncate(&mut self, len: u32) -> Option<()> {
        let frame = core::mem::take(&mut self.0);
        let is_shorter = len as usize > frame.len();
        self.0 = if is_shorter {
            frame
        } else {
            frame.get_mut(..len as usize)?
        };
        (!is_shorter).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_stop_at_the_end() {
        let mut bytes = [1, 2, 3, 4];
        let mut slice = Slice::new(&mut bytes);
        assert_eq!(slice.load::<[u8; 2]>(2), Some([3, 4]));
        assert_eq!(slice.load::<[u8; 2]>(3), None);
        assert_eq!(slice.store(3, &[9u8, 9]), None);
        assert_eq!(slice.store(2, &[9u8, 8]), Some(()));
        assert_eq!(slice.grow_head(1), None);
        assert_eq!((slice.truncate(5), slice.len()), (None, 4));
        assert_eq!((slice.truncate(3), slice.len()), (Some(()), 3));
        assert_eq!(slice.load::<[u8; 2]>(2), None);
        assert_eq!(bytes, [1, 2, 9, 8]);
    }
}

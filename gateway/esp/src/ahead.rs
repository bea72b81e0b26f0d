//! What an SA's next packet will read of memory, for a caller that has it fetched ahead.
//!
//! A center has tens of thousands of SAs, whose keys alone are more than a cache holds, and each packet may be of another
//! one. What lies behind a pointer can be on its way only when the pointer is known: a [`Span`] is one such piece.

/// Octets of a cache line, or less.
const LINE: usize = 64;

/// A piece of memory by its address; nothing is read through it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: *const u8,
    len: usize,
}

impl Span {
    /// What a value fills.
    #[inline(always)]
    pub const fn of<T: ?Sized>(value: &T) -> Self {
        Self {
            start: core::ptr::from_ref(value).cast(),
            len: size_of_val(value),
        }
    }

    /// What begins at an address.
    #[cfg(feature = "ipsec-mb")]
    pub(crate) const fn at(start: *const u8, len: usize) -> Self {
        Self { start, len }
    }

    /// An address in each of its cache lines.
    #[inline(always)]
    pub fn lines(self) -> impl Iterator<Item = *const u8> {
        let skew = self.start.addr() % LINE;
        let first = self.start.wrapping_sub(skew);
        let count = (skew + self.len).div_ceil(LINE);
        (0..count).map(move |line| first.wrapping_add(line * LINE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Aligned([u8; 256]);

    #[test]
    fn a_span_has_an_address_in_each_line_that_it_touches() {
        let aligned = Aligned([0; 256]);
        let base = core::ptr::from_ref(&aligned).addr();
        for (from, to, lines) in [
            (0, 64, 0..1),
            (0, 65, 0..2),
            (63, 65, 0..2),
            (64, 256, 1..4),
            (10, 10, 0..1),
            (0, 0, 0..0),
        ] {
            let found: Vec<_> = Span::of(&aligned.0[from..to])
                .lines()
                .map(|line| (line.addr() - base) / LINE)
                .collect();
            assert_eq!(found, lines.collect::<Vec<_>>(), "{from}..{to}");
        }
    }
}

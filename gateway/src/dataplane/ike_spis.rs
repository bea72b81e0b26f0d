//! Our SPIs of the IKE SAs that stand, as the `wan` program and the workers know them.

use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use aya::Ebpf;
use gateway_common::abi::{ike, limit, map};

use super::shared::SharedArray;

/// The places of [`map::IKE_SPIS`].
pub(crate) struct IkeSpis(SharedArray<1>);

impl IkeSpis {
    /// Maps the places of a loaded object; all are empty.
    ///
    /// # Errors
    /// The map is missing or has another shape.
    pub(crate) fn new(ebpf: &Ebpf) -> io::Result<Self> {
        let map = ebpf
            .map(map::IKE_SPIS)
            .ok_or_else(|| io::Error::other("the object has no such map"))?;
        Self::with_all_places(SharedArray::new(map)?)
    }

    /// The same without programs, in this process's memory: for tests.
    ///
    /// # Errors
    /// There is no memory.
    #[cfg(test)]
    pub(crate) fn in_memory() -> io::Result<Self> {
        Self::with_all_places(SharedArray::in_memory(limit::SA_PLACES as usize)?)
    }

    fn with_all_places(array: SharedArray<1>) -> io::Result<Self> {
        let places = array.values().len();
        if places == limit::SA_PLACES as usize {
            return Ok(Self(array));
        }
        let message = format!("there are {places} places, not {}", limit::SA_PLACES);
        Err(io::Error::other(message))
    }

    /// Has an SPI stand; false if its place is another's, or it is none.
    pub(crate) fn put(&self, spi: u64) -> bool {
        spi != ike::NONE && self.change(spi, ike::NONE, spi)
    }

    /// Has it stand no more; false if it did not.
    pub(crate) fn take(&self, spi: u64) -> bool {
        spi != ike::NONE && self.change(spi, spi, ike::NONE)
    }

    fn change(&self, spi: u64, from: u64, to: u64) -> bool {
        let place = self.0.values().get(ike::place(spi) as usize);
        place.is_some_and(|[word]| word.compare_exchange(from, to, AcqRel, Acquire).is_ok())
    }

    /// Whether an SPI stands.
    pub(crate) fn has(&self, spi: u64) -> bool {
        let place = self.0.values().get(ike::place(spi) as usize);
        spi != ike::NONE && place.is_some_and(|[word]| word.load(Acquire) == spi)
    }

    /// None stands any more.
    pub(crate) fn clear(&self) {
        for [word] in self.0.values() {
            word.store(ike::NONE, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_ike_sa_s_until_it_gives_it_up() {
        const SPI: u64 = 0x1234_5678_9abc_def0;
        const OTHER: u64 = SPI ^ 1 << 63;
        let spis = IkeSpis::in_memory().unwrap();
        assert_eq!(ike::place(SPI), ike::place(OTHER));
        assert!(spis.put(SPI) && spis.has(SPI));
        assert!(!spis.put(OTHER) && !spis.has(OTHER));
        assert!(!spis.take(OTHER) && spis.has(SPI), "another's is not taken");
        assert!(spis.take(SPI) && !spis.has(SPI) && !spis.take(SPI));
        assert!(spis.put(OTHER) && spis.has(OTHER));
        spis.clear();
        assert!(!spis.has(OTHER));
    }

    /// It is what stands in places that are empty: a request of IKE_SA_INIT has it.
    #[test]
    fn zero_never_stands() {
        let spis = IkeSpis::in_memory().unwrap();
        assert!(!spis.has(0) && !spis.put(0) && !spis.has(0) && !spis.take(0));
    }
}

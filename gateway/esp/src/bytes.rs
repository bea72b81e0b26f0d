//! Loads and stores that answer `None` instead of panicking.

/// The `N` octets at `at`, or `None` past the end.
#[inline]
pub(crate) fn load<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Writes `value` at `at`, or answers `None` past the end.
#[inline]
pub(crate) fn store<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}

#[inline]
pub(crate) fn load_u8(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

#[inline]
pub(crate) fn load_u16(bytes: &[u8], at: usize) -> Option<u16> {
    load(bytes, at).map(u16::from_be_bytes)
}

#[inline]
pub(crate) fn load_u32(bytes: &[u8], at: usize) -> Option<u32> {
    load(bytes, at).map(u32::from_be_bytes)
}

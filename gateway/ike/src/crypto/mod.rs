//! The cryptography of IKEv2: pseudo-random functions, key agreement, protection of the SK payload and
//! AUTH signatures. Identifiers are those of the IANA registry "IKEv2 Parameters".
//!
//! Primitives come from `ring`, except the MODP groups (`crypto-bigint`), AES-CBC and ML-KEM (RustCrypto), which
//! `ring` does not have. Secrets that pass through this module are held in [`zeroize::Zeroizing`].

mod algorithm;
pub mod cipher;
pub(crate) mod der;
pub mod dh;
pub mod kem;
pub mod prf;
pub mod random;
pub mod sign;

#[cfg(test)]
pub(crate) mod testing {
    use super::random::Random;

    /// Gives the same bytes over and over.
    pub(crate) struct Repeat(pub(crate) Vec<u8>);

    impl Random for Repeat {
        fn fill(&mut self, buf: &mut [u8]) {
            buf.iter_mut()
                .zip(self.0.iter().cycle())
                .for_each(|(to, from)| *to = *from);
        }
    }

    pub(crate) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .filter_map(|c| c.to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    pub(crate) fn sha256(bytes: &[u8]) -> String {
        hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
    }
}

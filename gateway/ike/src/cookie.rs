//! Cookies (RFC 7296 section 2.6): proof that an initiator receives at the address it claims, kept
//! nowhere.
//!
//! ```text
//!  | bits of the puzzle that went with it, 0 for none | HMAC-SHA-256(secret, bits | Ni | address | SPIi) |
//! ```
//! RFC 8019 section 7.1.1.3: what puzzle was asked is read out of the cookie again.

use ring::hmac;

use crate::{context::Path, crypto::random::Random};

/// A secret serves this long, and as the one before for as long again.
const ROTATE_AFTER_MS: u64 = 60_000;
/// Octets of a cookie; RFC 7296 section 2.6 allows 1 to 64.
pub(crate) const COOKIE_LEN: usize = 33;

pub(crate) struct CookieJar {
    current: hmac::Key,
    previous: hmac::Key,
    made_at_ms: u64,
}

fn secret(random: &mut dyn Random) -> hmac::Key {
    let mut secret = zeroize::Zeroizing::new([0; 32]);
    random.fill(&mut *secret);
    hmac::Key::new(hmac::HMAC_SHA256, &*secret)
}

impl CookieJar {
    pub(crate) fn new(random: &mut dyn Random) -> Self {
        Self {
            current: secret(random),
            previous: secret(random),
            made_at_ms: 0,
        }
    }

    /// A secret that was in force for one period stays good for the next; after a longer pause neither is.
    fn rotate(&mut self, now_ms: u64, random: &mut dyn Random) {
        let age_ms = now_ms.saturating_sub(self.made_at_ms);
        if age_ms < ROTATE_AFTER_MS {
            return;
        }
        let fresh = secret(random);
        let outgoing = std::mem::replace(&mut self.current, fresh);
        self.previous = if age_ms < 2 * ROTATE_AFTER_MS {
            outgoing
        } else {
            secret(random)
        };
        self.made_at_ms = now_ms;
    }

    /// The cookie for an initiator, who has to solve a puzzle of so many bits as well (0: none).
    pub(crate) fn bake(
        &mut self,
        now_ms: u64,
        random: &mut dyn Random,
        nonce: &[u8],
        path: Path,
        (spi_i, bits): (u64, u8),
    ) -> Vec<u8> {
        self.rotate(now_ms, random);
        let tag = hmac::sign(&self.current, &bound(bits, nonce, path, spi_i));
        let mut cookie = Vec::with_capacity(COOKIE_LEN);
        cookie.push(bits);
        cookie.extend_from_slice(tag.as_ref());
        cookie
    }

    /// The bits of the puzzle that went with the cookie, if it was ours for this initiator, not long ago.
    pub(crate) fn accepts(
        &mut self,
        now_ms: u64,
        random: &mut dyn Random,
        given: &[u8],
        nonce: &[u8],
        path: Path,
        spi_i: u64,
    ) -> Option<u8> {
        self.rotate(now_ms, random);
        let (bits, tag) = given.split_first()?;
        let bound = bound(*bits, nonce, path, spi_i);
        // `verify` takes the same time wherever the octets differ.
        [&self.current, &self.previous]
            .iter()
            .any(|secret| hmac::verify(secret, &bound, tag).is_ok())
            .then_some(*bits)
    }
}

fn bound(bits: u8, nonce: &[u8], path: Path, spi_i: u64) -> Vec<u8> {
    let address = path.remote.to_string();
    [&[bits], nonce, address.as_bytes(), &spi_i.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SystemRandom;

    #[test]
    fn cookies_are_bound_to_the_initiator_and_age() {
        let mut random = SystemRandom::new();
        let mut jar = CookieJar::new(&mut random);
        let path = |remote: &str| Path {
            local: "[::1]:500".parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let here = path("192.0.2.1:500");
        let cookie = jar.bake(1_000, &mut random, b"nonce", here, (7, 3));
        assert_eq!(cookie.len(), COOKIE_LEN);
        let accepts = |jar: &mut CookieJar, now_ms, cookie: &[u8], nonce: &[u8], path, spi| {
            jar.accepts(now_ms, &mut SystemRandom::new(), cookie, nonce, path, spi)
        };
        assert_eq!(accepts(&mut jar, 1_000, &cookie, b"nonce", here, 7), Some(3));
        let mut easier = cookie.clone();
        easier[0] = 0;
        assert_eq!(accepts(&mut jar, 1_000, &easier, b"nonce", here, 7), None);
        let elsewhere = path("192.0.2.2:500");
        assert_eq!(accepts(&mut jar, 1_000, &cookie, b"nonce", elsewhere, 7), None);
        assert_eq!(accepts(&mut jar, 1_000, &cookie, b"other", here, 7), None);
        assert_eq!(accepts(&mut jar, 1_000, &cookie, b"nonce", here, 8), None);
        for end in 0..cookie.len() {
            assert_eq!(accepts(&mut jar, 1_000, &cookie[..end], b"nonce", here, 7), None);
        }
        assert_eq!(accepts(&mut jar, 70_000, &cookie, b"nonce", here, 7), Some(3));
        assert_eq!(accepts(&mut jar, 140_000, &cookie, b"nonce", here, 7), None);
    }

    #[test]
    fn an_old_cookie_is_not_good_after_a_pause() {
        let mut random = SystemRandom::new();
        let mut jar = CookieJar::new(&mut random);
        let here = Path {
            local: "[::1]:500".parse().unwrap(),
            remote: "[2001:db8::1]:500".parse().unwrap(),
        };
        let cookie = jar.bake(1_000, &mut random, b"nonce", here, (7, 0));
        assert_eq!(
            jar.accepts(9_000_000, &mut random, &cookie, b"nonce", here, 7),
            None
        );
    }
}

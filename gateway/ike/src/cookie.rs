//! Cookies (RFC 7296 section 2.6): proof that an initiator receives at the address it claims, kept
//! nowhere.

use crate::{
    context::Path,
    crypto::{prf::PrfAlgorithm, random::Random},
};

/// A secret serves this long, and as the one before for as long again.
const ROTATE_AFTER_MS: u64 = 60_000;

pub(crate) struct CookieJar {
    current: [u8; 32],
    previous: [u8; 32],
    made_at_ms: u64,
}

impl CookieJar {
    pub(crate) fn new(random: &mut dyn Random) -> Self {
        let (mut current, mut previous) = ([0; 32], [0; 32]);
        random.fill(&mut current);
        random.fill(&mut previous);
        Self {
            current,
            previous,
            made_at_ms: 0,
        }
    }

    fn rotate(&mut self, now_ms: u64, random: &mut dyn Random) {
        if now_ms.saturating_sub(self.made_at_ms) >= ROTATE_AFTER_MS {
            self.previous = self.current;
            random.fill(&mut self.current);
            self.made_at_ms = now_ms;
        }
    }

    /// The cookie for an initiator.
    pub(crate) fn bake(
        &mut self,
        now_ms: u64,
        random: &mut dyn Random,
        nonce: &[u8],
        path: Path,
        spi_i: u64,
    ) -> Vec<u8> {
        self.rotate(now_ms, random);
        cookie(&self.current, nonce, path, spi_i)
    }

    /// Whether the cookie was ours for this initiator, not long ago.
    pub(crate) fn accepts(&self, given: &[u8], nonce: &[u8], path: Path, spi_i: u64) -> bool {
        // A timing difference would tell an attacker octets of a cookie for its own address only.
        [&self.current, &self.previous]
            .iter()
            .any(|secret| cookie(secret, nonce, path, spi_i) == given)
    }
}

fn cookie(secret: &[u8; 32], nonce: &[u8], path: Path, spi_i: u64) -> Vec<u8> {
    let address = path.remote.to_string();
    PrfAlgorithm::HmacSha256
        .prf(secret, &[nonce, address.as_bytes(), &spi_i.to_be_bytes()])
        .to_vec()
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
        let cookie = jar.bake(1_000, &mut random, b"nonce", here, 7);
        assert!(jar.accepts(&cookie, b"nonce", here, 7));
        assert!(!jar.accepts(&cookie, b"nonce", path("192.0.2.2:500"), 7));
        assert!(!jar.accepts(&cookie, b"other", here, 7));
        assert!(!jar.accepts(&cookie, b"nonce", here, 8));
        jar.bake(70_000, &mut random, b"nonce", here, 7);
        assert!(jar.accepts(&cookie, b"nonce", here, 7));
        jar.bake(140_000, &mut random, b"nonce", here, 7);
        assert!(!jar.accepts(&cookie, b"nonce", here, 7));
    }
}

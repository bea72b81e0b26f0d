//! Cookies (RFC 7296 section 2.6): proof that an initiator receives at the address it claims, kept
//! nowhere.
//!
//! ```text
//!  | bits of the puzzle that went with it, 0 for none | HMAC-SHA-256(secret, bits | SPIi | IP | interface | port | Ni) |
//!                                                                            1      8     16      4        2    16 to 256
//! ```
//! Of what is authenticated only the last part has no fixed length, so that no two initiators come to the same octets.
//!
//! RFC 8019 section 7.1.1.3: what puzzle was asked is read out of the cookie again.

use std::net::SocketAddr;

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

/// What a cookie is bound to: see the head of this file.
fn bound(bits: u8, nonce: &[u8], path: Path, spi_i: u64) -> Vec<u8> {
    let (ip, interface) = match path.remote {
        SocketAddr::V4(remote) => (remote.ip().to_ipv6_mapped(), 0),
        // A link-local address is another on each interface.
        SocketAddr::V6(remote) => (*remote.ip(), remote.scope_id()),
    };
    [
        &[bits],
        &spi_i.to_be_bytes()[..],
        &ip.octets(),
        &interface.to_be_bytes(),
        &path.remote.port().to_be_bytes(),
        nonce,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

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

    /// Regression: what is authenticated was nonce and address one after the other, the address as text. An octet moved from
    /// the one to the other made a cookie for 203.0.113.7 good for 3.0.113.7, where its owner receives nothing.
    #[test]
    fn a_cookie_is_for_one_nonce_and_one_address() {
        let mut random = SystemRandom::new();
        let mut jar = CookieJar::new(&mut random);
        let path = |remote: &str| Path {
            local: "[::1]:500".parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let (nonce, here) = (b"0123456789abcdef", path("203.0.113.7:500"));
        let cookie = jar.bake(1_000, &mut random, nonce, here, (7, 0));
        let mut accepts =
            |nonce: &[u8], path| jar.accepts(1_000, &mut SystemRandom::new(), &cookie, nonce, path, 7);
        assert_eq!(accepts(b"0123456789abcdef20", path("3.0.113.7:500")), None);
        assert_eq!(accepts(b"0123456789abcde", here), None);
        // Octets of the address are none of the nonce, in whatever form they are.
        let mapped = [&nonce[..], &[0; 10], &[0xff; 2], &[203, 0, 113, 7, 1, 0xf4]].concat();
        assert_eq!(accepts(&mapped, path("[::]:0")), None);
        assert_eq!(accepts(nonce, path("203.0.113.7:501")), None);
        assert_eq!(accepts(nonce, here), Some(0));
    }

    #[test]
    fn link_local_addresses_of_two_interfaces_are_two() {
        let mut random = SystemRandom::new();
        let mut jar = CookieJar::new(&mut random);
        let on = |interface| Path {
            local: "[::1]:500".parse().unwrap(),
            remote: SocketAddrV6::new("fe80::1".parse().unwrap(), 500, 0, interface).into(),
        };
        let cookie = jar.bake(1_000, &mut random, b"nonce", on(2), (7, 0));
        let mut accepts = |path| jar.accepts(1_000, &mut SystemRandom::new(), &cookie, b"nonce", path, 7);
        assert_eq!(accepts(on(3)), None);
        assert_eq!(accepts(on(2)), Some(0));
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

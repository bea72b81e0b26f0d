//! Tickets of session resumption (RFC 5723): what a gateway knows of an IKE SA, sealed, and kept by the peer.
//!
//! ```text
//!  | version | key id | nonce | AES-256-GCM( flags, ends, authenticated, identity, proof, algorithms, SK_d ) | tag |
//!     1         8        12                                                                                  16
//! ```
//! The keys that seal are in the memory of this endpoint alone, and change; with them all tickets are gone after a
//! restart. So the times are those of the monotonic clock, and a wall clock that is set back prolongs nothing. A peer's
//! verified certificates are not in the ticket, only their fingerprint: the endpoint remembers the chains, and verifies
//! them again before a session goes on.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use ring::{aead, digest};
use zeroize::Zeroizing;

use crate::{
    config::{AuthenticatedPeer, EndpointConfig, Proof},
    crypto::{prf::PrfAlgorithm, random::Random},
    keys::Secret,
    pki::{identity::Identity, trust::VerifiedPeer},
    proposal::IkeProposal,
    shared_key::{AuthKind, SharedKey},
    wire::{WireError, reader::Reader},
};

/// Whatever is resumed from whatever: after this the peer is authenticated in full again.
pub(crate) const RESUMED_MAX_S: u64 = 24 * 3600;
/// Tickets that were used and have not expired. When there is room for no further one, no session is resumed: peers set up anew.
const USED_MAX: usize = 32_768;
/// As many of them are of one peer, so that one does not fill the memory for all.
const USED_MAX_OF_ONE: usize = 64;
/// Chains that are remembered.
const PEERS_MAX: usize = 16_384;
/// A ticket of another gateway that we keep is no longer.
const TICKET_LEN_MAX: usize = 2_048;
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const LABEL: &[u8] = b"IKEv2 session ticket";

const FLAG_PPK: u8 = 1;
const FLAG_SHARED_KEY: u8 = 2;

struct Key {
    id: [u8; KEY_ID_LEN],
    key: aead::LessSafeKey,
    made_ms: u64,
}

impl Key {
    fn new(random: &mut dyn Random, made_ms: u64) -> Option<Self> {
        let (mut id, mut octets) = ([0; KEY_ID_LEN], Zeroizing::new([0; 32]));
        random.fill(&mut id);
        random.fill(&mut *octets);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &*octets).ok()?;
        Some(Self {
            id,
            key: aead::LessSafeKey::new(key),
            made_ms,
        })
    }
}

/// Names a ticket: its tag.
pub(crate) type TicketId = [u8; 16];

/// What a ticket holds.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) identity: Identity,
    /// Fingerprint of the peer's certificate, or what [`bound_to`] makes of its shared key.
    pub(crate) proof: [u8; 32],
    pub(crate) by: AuthKind,
    pub(crate) suite: IkeProposal,
    pub(crate) sk_d: Secret,
    pub(crate) ppk: bool,
    /// When the peer proved itself in full.
    pub(crate) authenticated_ms: u64,
    pub(crate) ends_ms: u64,
}

/// The tickets of one endpoint.
#[derive(Default)]
pub(crate) struct Tickets {
    current: Option<Key>,
    previous: Option<Key>,
    used: Used,
    peers: HashMap<[u8; 32], Arc<VerifiedPeer>>,
}

/// The tickets that were used and have not expired, with the time that they do.
#[derive(Default)]
struct Used {
    of: HashMap<Identity, HashMap<TicketId, u64>>,
    count: usize,
    /// None expires before.
    first_end_ms: u64,
}

/// Why a ticket cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSpent {
    #[error("its ticket was used before")]
    Before,
    #[error(
        "it has used many tickets, or all have, and there is no room to remember one more: it has to set up anew"
    )]
    NoRoom,
}

impl Tickets {
    /// Seals a session.
    pub(crate) fn seal(
        &mut self,
        random: &mut dyn Random,
        now_ms: u64,
        lifetime_s: u64,
        session: &Session,
    ) -> Option<Vec<u8>> {
        self.rotate(random, now_ms, lifetime_s.saturating_mul(1000));
        let key = self.current.as_ref()?;
        let mut nonce = [0; aead::NONCE_LEN];
        random.fill(&mut nonce);
        let mut content = session.to_octets();
        let nonce_of_aead = aead::Nonce::assume_unique_for_key(nonce);
        let tag = key
            .key
            .seal_in_place_separate_tag(nonce_of_aead, aead::Aad::from(LABEL), &mut content)
            .ok()?;
        Some([&[VERSION], &key.id[..], &nonce, &content, tag.as_ref()].concat())
    }

    /// A key seals for as long as a ticket is good, and opens for as long again.
    fn rotate(&mut self, random: &mut dyn Random, now_ms: u64, lifetime_ms: u64) {
        let old = |key: &Key| now_ms.saturating_sub(key.made_ms) >= lifetime_ms;
        if self.current.as_ref().is_none_or(old) {
            self.previous = self.current.take();
            self.current = Key::new(random, now_ms);
        }
    }

    /// The session of a ticket that is ours, not expired and not used. Nothing here costs much: who asks is not known.
    pub(crate) fn open(&self, now_ms: u64, ticket: &[u8]) -> Option<(TicketId, Session)> {
        let (version, rest) = ticket.split_first()?;
        let (id, rest) = rest.split_first_chunk::<KEY_ID_LEN>()?;
        let (nonce, rest) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        let (_, tag) = rest.split_last_chunk::<16>()?;
        let key = [&self.current, &self.previous].into_iter().flatten();
        let key = key
            .into_iter()
            .find(|key| key.id == *id)
            .filter(|_| *version == VERSION)?;
        let mut content = Zeroizing::new(rest.to_vec());
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let plain = key
            .key
            .open_in_place(nonce, aead::Aad::from(LABEL), &mut content)
            .ok()?;
        let session = Session::from_octets(plain).ok()?;
        let good = session.ends_ms > now_ms && !self.used.has(&session.identity, tag);
        good.then_some((*tag, session))
    }

    /// Whether it can be remembered that a peer used one more.
    pub(crate) fn has_room(&mut self, now_ms: u64, peer: &Identity) -> bool {
        self.used.has_room(now_ms, peer)
    }

    /// RFC 5723 section 4.3: a ticket is for one use; and for none if it cannot be remembered that it was used.
    pub(crate) fn spend(
        &mut self,
        now_ms: u64,
        peer: &Identity,
        id: TicketId,
        ends_ms: u64,
    ) -> Result<(), NotSpent> {
        if self.used.has(peer, &id) {
            return Err(NotSpent::Before);
        }
        if !self.used.has_room(now_ms, peer) {
            return Err(NotSpent::NoRoom);
        }
        self.used.insert(peer, id, ends_ms);
        Ok(())
    }

    /// Remembers the chain of a peer that gets a ticket. False when there is no room.
    pub(crate) fn remember(&mut self, now_unix_s: u64, peer: &Arc<VerifiedPeer>) -> bool {
        let fingerprint = peer.certificate().fingerprint_sha256();
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&fingerprint) {
            let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
            self.peers.retain(|_, peer| peer.valid_until_unix_s() > now);
            if self.peers.len() >= PEERS_MAX {
                return false;
            }
        }
        self.peers.insert(fingerprint, Arc::clone(peer));
        true
    }

    /// The peer of a session, if what it proved itself with is still what it would.
    pub(crate) fn peer(&self, config: &EndpointConfig, session: &Session) -> Option<AuthenticatedPeer> {
        let proof = match session.by {
            AuthKind::SharedKey => Proof::SharedKey,
            AuthKind::Certificate => Proof::Certificate(Arc::clone(self.peers.get(&session.proof)?)),
        };
        let peer = AuthenticatedPeer {
            identity: session.identity.clone(),
            proof,
        };
        still_proves(config, &peer, &session.proof).then_some(peer)
    }
}

impl Used {
    fn has(&self, peer: &Identity, id: &TicketId) -> bool {
        self.of.get(peer).is_some_and(|tickets| tickets.contains_key(id))
    }

    fn is_full(&self, peer: &Identity) -> bool {
        let of_peer = self.of.get(peer).map_or(0, HashMap::len);
        self.count >= USED_MAX || of_peer >= USED_MAX_OF_ONE
    }

    fn has_room(&mut self, now_ms: u64, peer: &Identity) -> bool {
        // Who asks may have read a ticket from the wire: all are not gone through as often as somebody likes.
        if self.is_full(peer) && self.first_end_ms <= now_ms {
            self.forget_expired(now_ms);
        }
        !self.is_full(peer)
    }

    fn forget_expired(&mut self, now_ms: u64) {
        self.of.retain(|_, tickets| {
            tickets.retain(|_, ends_ms| *ends_ms > now_ms);
            !tickets.is_empty()
        });
        self.count = self.of.values().map(HashMap::len).sum();
        let ends = self.of.values().flat_map(HashMap::values);
        self.first_end_ms = ends.copied().min().unwrap_or(u64::MAX);
    }

    fn insert(&mut self, peer: &Identity, id: TicketId, ends_ms: u64) {
        let of_peer = self.of.entry(peer.clone()).or_default();
        self.count += usize::from(of_peer.insert(id, ends_ms).is_none());
        self.first_end_ms = self.first_end_ms.min(ends_ms);
    }
}

/// Whether a peer would prove itself today in the way it did, and, if that was by a shared key, by the same: `proof` is that
/// of its [`Session`].
pub(crate) fn still_proves(config: &EndpointConfig, peer: &AuthenticatedPeer, proof: &[u8; 32]) -> bool {
    let agreed = config.shared_keys.get(&peer.identity);
    let shared_key = agreed.filter(|agreed| agreed.peer == AuthKind::SharedKey);
    match (&peer.proof, shared_key) {
        (Proof::SharedKey, Some(agreed)) => bound_to(&agreed.key) == *proof,
        (Proof::Certificate(_), None) => true,
        (Proof::SharedKey, None) | (Proof::Certificate(_), Some(_)) => false,
    }
}

/// What shows that a shared key is the same as before, and nothing of it.
pub(crate) fn bound_to(key: &SharedKey) -> [u8; 32] {
    let mac = key.authenticate(PrfAlgorithm::HmacSha256, LABEL);
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &mac).as_ref());
    out
}

impl Session {
    fn to_octets(&self) -> Zeroizing<Vec<u8>> {
        let flags = u8::from(self.ppk) * FLAG_PPK
            + match self.by {
                AuthKind::SharedKey => FLAG_SHARED_KEY,
                AuthKind::Certificate => 0,
            };
        let (suite, identity) = (self.suite.to_string(), self.identity.data());
        // Room for all at once: growing would leave copies of SK_d behind.
        let mut out = Zeroizing::new(Vec::with_capacity(
            128 + suite.len() + identity.len() + self.sk_d.len(),
        ));
        out.push(flags);
        out.extend_from_slice(&self.ends_ms.to_be_bytes());
        out.extend_from_slice(&self.authenticated_ms.to_be_bytes());
        out.extend_from_slice(&self.proof);
        out.push(self.identity.id_type());
        for part in [identity.as_slice(), suite.as_bytes(), &self.sk_d] {
            // None is longer: identities fit a payload.
            out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    fn from_octets(octets: &[u8]) -> Result<Self, WireError> {
        let wrong = WireError::BadValue("ticket");
        let mut reader = Reader::new(octets, "ticket");
        let flags = reader.u8()?;
        let (ends_ms, authenticated_ms) = (reader.u64()?, reader.u64()?);
        let proof = reader.array::<32>()?;
        let id_type = reader.u8()?;
        let mut part = || -> Result<&[u8], WireError> {
            let len = reader.u16()?;
            reader.take(usize::from(len))
        };
        let (identity, suite, sk_d) = (part()?, part()?, part()?);
        let suite = std::str::from_utf8(suite).map_err(|_| wrong)?;
        Ok(Self {
            identity: Identity::from_wire(id_type, identity).map_err(|_| wrong)?,
            proof,
            by: if flags & FLAG_SHARED_KEY == 0 {
                AuthKind::Certificate
            } else {
                AuthKind::SharedKey
            },
            suite: suite.parse().map_err(|_| wrong)?,
            sk_d: Zeroizing::new(sk_d.to_vec()),
            ppk: flags & FLAG_PPK != 0,
            authenticated_ms,
            ends_ms,
        })
    }
}

/// A ticket that a gateway gave us, and what we need beside it.
#[derive(Clone)]
pub(crate) struct ClientTicket {
    pub(crate) opaque: Vec<u8>,
    /// When the gateway will not take it any more.
    pub(crate) ends_ms: u64,
    /// The gateway, as it proved itself.
    pub(crate) peer: AuthenticatedPeer,
    pub(crate) remote: IpAddr,
    pub(crate) suite: IkeProposal,
    pub(crate) sk_d: Secret,
    pub(crate) ppk: bool,
    pub(crate) authenticated_ms: u64,
}

impl fmt::Debug for ClientTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTicket(..)")
    }
}

/// Lifetime in seconds and ticket of a TICKET_LT_OPAQUE (RFC 5723 section 7.2).
pub(crate) fn lifetime_and_ticket(data: &[u8]) -> Option<(u32, &[u8])> {
    let (lifetime, ticket) = data.split_first_chunk::<4>()?;
    let lifetime_s = u32::from_be_bytes(*lifetime);
    (lifetime_s > 0 && (1..=TICKET_LEN_MAX).contains(&ticket.len())).then_some((lifetime_s, ticket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SystemRandom;

    fn session(ends_ms: u64) -> Session {
        Session {
            identity: "clinic-7.example".parse().unwrap(),
            proof: [7; 32],
            by: AuthKind::Certificate,
            suite: "aes256gcm16-prfsha384-ecp384".parse().unwrap(),
            sk_d: Zeroizing::new(vec![9; 48]),
            ppk: true,
            authenticated_ms: 900,
            ends_ms,
        }
    }

    #[test]
    fn a_ticket_holds_the_session_and_shows_nothing_of_it() {
        let (mut tickets, mut random) = (Tickets::default(), SystemRandom::new());
        let before = session(2_000_000);
        let ticket = tickets.seal(&mut random, 1_000_000, 3_600, &before).unwrap();
        let (_, after) = tickets.open(1_999_000, &ticket).unwrap();
        assert_eq!(after.to_octets(), before.to_octets());
        assert!(!ticket.windows(6).any(|part| part == b"clinic" || part == [9; 6]));
        assert!(tickets.open(2_000_000, &ticket).is_none(), "expired");
        // Two of one session are told apart by nobody but us.
        assert_ne!(
            ticket,
            tickets.seal(&mut random, 1_000_000, 3_600, &before).unwrap()
        );
        let lengths = lifetime_and_ticket(&[&[0, 0, 0x0e, 0x10], ticket.as_slice()].concat())
            .map(|(s, t)| (s, t.len()));
        assert_eq!(lengths, Some((3_600, ticket.len())));
    }

    #[test]
    fn every_changed_octet_is_noticed() {
        let (mut tickets, mut random) = (Tickets::default(), SystemRandom::new());
        let ticket = tickets
            .seal(&mut random, 1_000_000, 3_600, &session(2_000_000))
            .unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert!(tickets.open(1_000_000, &changed).is_none(), "octet {index}");
            assert!(tickets.open(1_000_000, &ticket[..index]).is_none());
        }
        assert!(
            Tickets::default().open(1_000_000, &ticket).is_none(),
            "of another endpoint"
        );
    }

    #[test]
    fn keys_change_and_the_one_before_is_good_for_what_it_sealed() {
        let (mut tickets, mut random) = (Tickets::default(), SystemRandom::new());
        let first = tickets.seal(&mut random, 0, 100, &session(1_000_000)).unwrap();
        let second = tickets
            .seal(&mut random, 100_000, 100, &session(1_000_000))
            .unwrap();
        assert_ne!(first[1..9], second[1..9]);
        assert!(tickets.open(150_000, &first).is_some() && tickets.open(150_000, &second).is_some());
        tickets
            .seal(&mut random, 200_000, 100, &session(1_000_000))
            .unwrap();
        assert!(tickets.open(200_000, &first).is_none() && tickets.open(200_000, &second).is_some());
    }

    fn site(number: usize) -> Identity {
        format!("site{number}.example").parse().unwrap()
    }

    fn ticket(number: usize) -> TicketId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    }

    /// RFC 5723 section 4.3: one use; when it cannot be remembered, none. Regression: one peer could fill the memory, and that it
    /// was full was told as a ticket that had been used.
    #[test]
    fn a_ticket_is_spent_once_in_bounded_memory() {
        let mut tickets = Tickets::default();
        let full = Err(NotSpent::NoRoom);
        assert_eq!(tickets.spend(0, &site(0), ticket(0), 100), Ok(()));
        assert_eq!(tickets.spend(0, &site(0), ticket(0), 100), Err(NotSpent::Before));
        for number in 1..USED_MAX_OF_ONE {
            assert!(tickets.has_room(0, &site(0)));
            assert_eq!(tickets.spend(0, &site(0), ticket(number), 100), Ok(()));
        }
        assert!(!tickets.has_room(99, &site(0)));
        assert_eq!(
            tickets.spend(99, &site(0), ticket(USED_MAX), 200),
            full,
            "its share"
        );
        for number in USED_MAX_OF_ONE..USED_MAX {
            let site = site(number / USED_MAX_OF_ONE);
            assert_eq!(tickets.spend(0, &site, ticket(number), 150), Ok(()), "another's");
        }
        let last = site(USED_MAX);
        assert_eq!(tickets.spend(99, &last, ticket(USED_MAX), 200), full);
        assert_eq!(tickets.used.count, USED_MAX);
        assert_eq!(
            tickets.spend(0, &site(1), ticket(USED_MAX_OF_ONE), 150),
            Err(NotSpent::Before)
        );
        assert_eq!(
            tickets.spend(100, &last, ticket(USED_MAX), 200),
            Ok(()),
            "expired ones make room"
        );
        assert_eq!(tickets.used.count, USED_MAX - USED_MAX_OF_ONE + 1);
        assert!(tickets.has_room(100, &site(0)) && !tickets.has_room(100, &site(1)));
        assert!(tickets.has_room(150, &site(1)));
        assert_eq!((tickets.used.count, tickets.used.of.len()), (1, 1));
    }

    #[test]
    fn a_spent_ticket_does_not_open() {
        let (mut tickets, mut random) = (Tickets::default(), SystemRandom::new());
        let ticket = tickets.seal(&mut random, 0, 100, &session(50_000)).unwrap();
        let (id, _) = tickets.open(0, &ticket).unwrap();
        assert_eq!(tickets.spend(0, &session(50_000).identity, id, 50), Ok(()));
        assert!(tickets.open(0, &ticket).is_none());
    }

    #[test]
    fn odd_notifications_are_no_tickets() {
        assert!(lifetime_and_ticket(&[]).is_none() && lifetime_and_ticket(&[0, 0, 0, 1]).is_none());
        assert!(lifetime_and_ticket(&[0, 0, 0, 0, 1]).is_none());
        assert!(lifetime_and_ticket(&vec![1; 4 + TICKET_LEN_MAX]).is_some());
        assert!(lifetime_and_ticket(&vec![1; 5 + TICKET_LEN_MAX]).is_none());
    }
}

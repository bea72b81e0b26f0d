//! What the handling of one input may touch beside the IKE SA it concerns.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    allowance::Allowances,
    child_sa::ChildSa,
    config::{EndpointConfig, Time},
    counters::Counters,
    crypto::random::Random,
    endpoint::Entry,
    ids::{ChildId, IkeSaId},
    ike_sa::{Established, IkeSa, Task},
    networks::Networks,
    output::{CloseReason, Direction, Event, Output},
    pki::identity::Identity,
    redirect::OtherGateway,
    ticket::{ClientTicket, Tickets},
};

/// UDP port of IKE behind NAT, where the non-ESP marker stands in front (RFC 7296 section 2.23).
pub(crate) const NAT_PORT: u16 = 4500;
/// Four zero octets where ESP would have its SPI.
pub(crate) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The last part of the room for Child SAs, and for networks, is for peers below their share: one in so many.
const RESERVE: usize = 8;

/// Whether something takes of that part when with it `used` of `max` are taken.
pub(crate) fn is_reserved(used: usize, max: usize) -> bool {
    used > max - max / RESERVE
}

/// Where messages come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// Draws before an SPI with an index of its own is given up: with half of the indexes taken, one in 2^64 attempts is.
const SPI_DRAWS_MAX: u32 = 64;

/// Hands out names and SPIs.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    ike_sas: u64,
    children: u64,
    /// Bits of an SPI that are no part of its index.
    beside_index: u32,
    /// Indexes of ESP SPIs in use.
    esp_indexes: HashSet<u32>,
    /// Bits of our SPI of an IKE SA that are no part of its index.
    beside_ike_index: u64,
    /// Indexes of our SPIs of IKE SAs that are here.
    ike_indexes: HashSet<u64>,
}

impl Allocator {
    /// No two ESP SPIs at a time agree in their lowest `esp_index_bits`; no two of our SPIs of IKE SAs in their lowest
    /// `ike_index_bits`, as long as such can be drawn.
    pub(crate) fn new(esp_index_bits: u32, ike_index_bits: u32) -> Self {
        Self {
            beside_index: u32::MAX.checked_shl(esp_index_bits).unwrap_or(0),
            beside_ike_index: u64::MAX.checked_shl(ike_index_bits).unwrap_or(0),
            ..Self::default()
        }
    }

    pub(crate) fn ike_sa(&mut self) -> IkeSaId {
        self.ike_sas += 1;
        IkeSaId(self.ike_sas)
    }

    pub(crate) fn child(&mut self) -> ChildId {
        self.children += 1;
        ChildId(self.children)
    }

    /// An SPI of ESP whose index is in use nowhere; 1 to 255 are reserved (RFC 4303 section 2.1). `None` if nearly all
    /// indexes are in use.
    pub(crate) fn esp_spi(&mut self, random: &mut dyn Random) -> Option<u32> {
        (0..SPI_DRAWS_MAX).find_map(|_| {
            let mut bytes = [0; 4];
            random.fill(&mut bytes);
            let spi = u32::from_be_bytes(bytes);
            (spi > 255 && self.esp_indexes.insert(self.index_of(spi))).then_some(spi)
        })
    }

    /// Inbound SAs that are there, agreed on, or asked for.
    pub(crate) fn esp_spis_in_use(&self) -> usize {
        self.esp_indexes.len()
    }

    pub(crate) fn release(&mut self, spi: u32) {
        self.esp_indexes.remove(&self.index_of(spi));
    }

    fn index_of(&self, spi: u32) -> u32 {
        spi & !self.beside_index
    }

    /// An SPI for an IKE SA, never zero; with an index that none here has, if one is drawn in time. One without is as good to
    /// the peer. A collision of all 64 bits does not happen.
    pub(crate) fn ike_spi(&self, random: &mut dyn Random) -> u64 {
        let mut draw = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_be_bytes(bytes).max(1)
        };
        let mut spi = draw();
        for _ in 1..SPI_DRAWS_MAX {
            if !self.ike_indexes.contains(&self.ike_index_of(spi)) {
                break;
            }
            spi = draw();
        }
        spi
    }

    /// Takes the index of an IKE SA that is here from now on; false: another has it.
    pub(crate) fn take_ike_index(&mut self, spi: u64) -> bool {
        self.ike_indexes.insert(self.ike_index_of(spi))
    }

    /// Gives up what was taken.
    pub(crate) fn release_ike_index(&mut self, spi: u64) {
        self.ike_indexes.remove(&self.ike_index_of(spi));
    }

    fn ike_index_of(&self, spi: u64) -> u64 {
        spi & !self.beside_ike_index
    }
}

/// An IKE SA whose Child SAs another one takes over.
pub(crate) struct Predecessor {
    pub(crate) id: IkeSaId,
    pub(crate) peer: Arc<Identity>,
    pub(crate) connection: Option<Arc<str>>,
    /// It was being closed: so is the one that takes over.
    pub(crate) closing: Option<CloseReason>,
}

/// What concerns another IKE SA than the one at hand, done after it.
pub(crate) enum Deferred {
    /// A new IKE SA, made by rekeying.
    Spawn(Box<IkeSa>),
    /// Hand Child SAs, and what is to be done with them, to the IKE SA with this SPI of ours.
    Adopt {
        to: u64,
        children: Vec<ChildSa>,
        tasks: Vec<Task>,
        before: Box<Predecessor>,
    },
    /// A peer has come to us: it may have too many IKE SAs now.
    Limit { peer: Arc<Identity> },
    /// A peer has rekeyed an IKE SA: it may have left too many of those before undeleted.
    LimitSuperseded { peer: Arc<Identity> },
    /// A Child SA is gone; others with the peer may carry its traffic.
    ChildGone {
        child: Box<ChildSa>,
        peer: Arc<Identity>,
    },
    /// The peer of a connection of ours is authenticated, on the IKE SA with this SPI of ours.
    Authenticated { connection: Arc<str>, spi: u64 },
    /// The peer of a connection is to be authenticated anew.
    Reauthenticate { connection: Arc<str> },
    /// An IKE SA of a connection, or an attempt at one, is no more.
    Ended {
        connection: Arc<str>,
        was_up: bool,
        reason: CloseReason,
    },
    /// The gateway of a connection sends us to another (RFC 5685): in place of the IKE SA that was being set up, or of
    /// one that stands.
    Redirected {
        connection: Arc<str>,
        to: OtherGateway,
        from: IpAddr,
        established: bool,
    },
    /// The gateway of a connection gave us a ticket (RFC 5723).
    Ticket {
        connection: Arc<str>,
        ticket: Box<ClientTicket>,
    },
    /// Close all IKE SAs of this peer but one (INITIAL_CONTACT).
    CloseOthers { peer: Arc<Identity>, except: IkeSaId },
}

/// The other IKE SAs of the endpoint, to look at.
#[derive(Clone, Copy, Default)]
pub(crate) struct Neighbours<'a>(Option<(&'a Entries, &'a ByPeer)>);

type Entries = HashMap<u64, Entry>;
pub(crate) type ByPeer = HashMap<Arc<Identity>, BTreeSet<u64>>;

impl<'a> Neighbours<'a> {
    pub(crate) fn new(entries: &'a Entries, by_peer: &'a ByPeer) -> Self {
        Self(Some((entries, by_peer)))
    }

    /// How many peers they are with.
    fn peers(self) -> usize {
        self.0.map_or(0, |(_, by_peer)| by_peer.len())
    }

    /// Those with this peer.
    pub(crate) fn with(self, peer: &Identity) -> impl Iterator<Item = &'a Established> {
        let found = self.0.and_then(|(entries, by_peer)| {
            let spis = by_peer.get(peer)?;
            Some(spis.iter().filter_map(|spi| match entries.get(spi) {
                Some(Entry::Sa(ike_sa)) => ike_sa.established(),
                Some(Entry::Initiating(_)) | None => None,
            }))
        });
        found.into_iter().flatten()
    }
}

pub(crate) struct Context<'a> {
    pub(crate) config: &'a EndpointConfig,
    pub(crate) now: Time,
    pub(crate) random: &'a mut (dyn Random + Send),
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) allocator: &'a mut Allocator,
    pub(crate) counters: &'a mut Counters,
    /// Inbound SAs that are to go at a later time: due in ms, name, SPI.
    pub(crate) lingering: &'a mut BTreeSet<(u64, ChildId, u32)>,
    pub(crate) deferred: &'a mut Vec<Deferred>,
    pub(crate) neighbours: Neighbours<'a>,
    pub(crate) tickets: &'a mut Tickets,
    pub(crate) allowances: &'a mut Allowances,
    pub(crate) networks: &'a mut Networks,
}

impl Context<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Takes one of the SAs that a peer may have set up or rekeyed; false: it has had too many.
    pub(crate) fn may_have_sa(&mut self, peer: &Arc<Identity>) -> bool {
        let may = self.allowances.take(self.config, peer, self.now.mono_ms);
        self.counters.over_allowance += u64::from(!may);
        may
    }

    /// Room for Child SAs runs short, and the peer has its share of it: what is left is for peers that have less, so that
    /// few that hoard do not keep all others from rekeying.
    pub(crate) fn has_its_share(&self, established: &Established) -> bool {
        let (used, max) = (self.allocator.esp_spis_in_use(), self.config.children_in_all_max);
        if !is_reserved(used.saturating_add(1), max) {
            return false;
        }
        let neighbours = self.neighbours.with(&established.peer_identity);
        let of_neighbours: usize = neighbours.map(|other| other.children.len()).sum();
        let of_peer = established.children.len() + of_neighbours;
        let peers = self.neighbours.peers().max(self.config.sites_max).max(1);
        of_peer.saturating_mul(peers) >= max
    }

    /// Queues datagrams, with the marker where the port asks for it.
    pub(crate) fn transmit(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            let payload = if path.local.port() == NAT_PORT {
                [&NON_ESP_MARKER[..], datagram].concat()
            } else {
                datagram.clone()
            };
            self.outputs.push_back(Output::Transmit {
                local: path.local,
                remote: path.remote,
                payload,
            });
        }
    }

    /// A nonce of 32 octets: at least half the key of every PRF here (RFC 7296 section 2.10).
    pub(crate) fn nonce(&mut self) -> Vec<u8> {
        let mut nonce = vec![0; 32];
        self.random.fill(&mut nonce);
        nonce
    }

    pub(crate) fn ike_spi(&mut self) -> u64 {
        self.allocator.ike_spi(self.random)
    }

    pub(crate) fn esp_spi(&mut self) -> Option<u32> {
        self.allocator.esp_spi(self.random)
    }

    /// An age in milliseconds from now, shortened by up to a tenth so that two sides, and many SAs, do
    /// not act at once.
    pub(crate) fn jittered_deadline(&mut self, lifetime_s: u64) -> u64 {
        let mut bytes = [0; 2];
        self.random.fill(&mut bytes);
        let lifetime_ms = lifetime_s.saturating_mul(1000);
        let less =
            (lifetime_ms / 10).saturating_mul(u64::from(u16::from_be_bytes(bytes))) / u64::from(u16::MAX);
        self.now.mono_ms.saturating_add(lifetime_ms - less)
    }

    /// Removes a Child SA that another replaced: the outbound SA now, the inbound one when stragglers are in.
    pub(crate) fn remove_replaced(&mut self, child: &ChildSa) {
        if !child.outbound_gone {
            self.networks.let_go(child.id);
            self.outputs.push_back(Output::RemoveChildSa {
                child: child.id,
                direction: Direction::Outbound,
            });
        }
        let due = self
            .now
            .mono_ms
            .saturating_add(self.config.linger_s.saturating_mul(1000));
        self.lingering.insert((due, child.id, child.spi_in));
    }

    /// Removes a Child SA with its IKE SA. When another with the peer carries its traffic, packets may be on their
    /// way on this one.
    pub(crate) fn remove_closed(&mut self, child: &ChildSa, peer: &Arc<Identity>) {
        let neighbours = &mut self.neighbours.with(peer).flat_map(Established::live_children);
        if neighbours.any(|heir| heir.overlaps(&child.ts_local, &child.ts_remote)) {
            self.remove_replaced(child);
        } else {
            self.remove(child);
        }
        self.deferred.push(Deferred::ChildGone {
            child: Box::new(child.clone()),
            peer: Arc::clone(peer),
        });
    }

    /// Removes a Child SA at once, unless another has taken over already.
    pub(crate) fn remove(&mut self, child: &ChildSa) {
        if child.outbound_gone {
            return self.remove_replaced(child);
        }
        self.networks.let_go(child.id);
        self.outputs.push_back(Output::RemoveChildSa {
            child: child.id,
            direction: Direction::Both,
        });
        self.allocator.release(child.spi_in);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up from a first SPI.
    struct Counting(u32);

    impl Random for Counting {
        fn fill(&mut self, buf: &mut [u8]) {
            let (high, low) = buf.split_at_mut(buf.len() - 4);
            high.fill(0);
            low.copy_from_slice(&self.0.to_be_bytes());
            self.0 = self.0.wrapping_add(1);
        }
    }

    #[test]
    fn spis_differ_in_their_index() {
        let mut allocator = Allocator::new(10, 64);
        assert_eq!(allocator.esp_spi(&mut Counting(0x1_0004)), Some(0x1_0004));
        // The next draw is of the same index, and the one after is not.
        assert_eq!(allocator.esp_spi(&mut Counting(0x2_0004)), Some(0x2_0005));
        allocator.release(0x1_0004);
        assert_eq!(allocator.esp_spi(&mut Counting(0x2_0004)), Some(0x2_0004));
    }

    #[test]
    fn without_an_index_spis_merely_differ_and_none_is_reserved() {
        let mut allocator = Allocator::new(32, 64);
        let drawn: Vec<_> = (0..3).map(|_| allocator.esp_spi(&mut Counting(254))).collect();
        assert_eq!(drawn, [Some(256), Some(257), Some(258)]);
    }

    #[test]
    fn no_spi_is_drawn_for_ever_when_all_indexes_are_taken() {
        let mut allocator = Allocator::new(4, 64);
        let mut random = Counting(0x1000);
        (0..16).for_each(|_| assert!(allocator.esp_spi(&mut random).is_some()));
        assert_eq!(allocator.esp_spi(&mut random), None);
        allocator.release(0x1007);
        assert_eq!(allocator.esp_spi(&mut random).map(|spi| spi & 0xf), Some(7));
    }

    #[test]
    fn ike_sas_that_are_here_differ_in_the_index_of_our_spi() {
        let mut allocator = Allocator::new(32, 10);
        assert!(allocator.take_ike_index(0x1_0004));
        assert!(!allocator.take_ike_index(0x2_0004), "another's");
        assert_eq!(allocator.ike_spi(&mut Counting(0x2_0004)), 0x2_0005);
        // Drawn is not here yet.
        assert_eq!(allocator.ike_spi(&mut Counting(0x2_0005)), 0x2_0005);
        allocator.release_ike_index(0x1_0004);
        assert_eq!(allocator.ike_spi(&mut Counting(0x2_0004)), 0x2_0004);
        assert_eq!(allocator.ike_spi(&mut Counting(0)), 1, "zero is none");
    }

    #[test]
    fn an_ike_sa_has_an_spi_when_all_indexes_are_taken() {
        let mut allocator = Allocator::new(32, 4);
        (0..16).for_each(|spi| assert!(allocator.take_ike_index(spi)));
        let mut random = Counting(0x100);
        assert!(allocator.ike_spi(&mut random) >= 0x100);
        assert_eq!(random.0, 0x100 + SPI_DRAWS_MAX, "draws");
        allocator.release_ike_index(7);
        assert_eq!(allocator.ike_spi(&mut random) & 0xf, 7);
    }
}

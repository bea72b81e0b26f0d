//! MOBIKE (RFC 4555): the initiator of an IKE SA moves it to other addresses, with its Child SAs.
//!
//! ```text
//!   initiator, new address                                   responder
//!     UPDATE_SA_ADDRESSES, NAT_DETECTION_*, COOKIE2  ----->   IKE SA moves
//!                      <-----  NAT_DETECTION_*, COOKIE2
//!     Child SAs move   <-----  COOKIE2                        does the initiator receive there?
//!                      COOKIE2  ----->                        Child SAs move
//! ```
//! Both sides move the Child SAs only after the other has shown that it receives on the new path (section
//! 3.7): an authenticated site that is not behind a NAT cannot have the center's traffic sent to somebody else.

use std::net::{IpAddr, SocketAddr};

use crate::{
    config::EndpointConfig,
    context::{Context, NAT_PORT, Path},
    ike_sa::{Core, Established, IkeSa, Pending, State, Task},
    nat,
    output::{Event, Output},
    retransmit::Retransmission,
    wire::{
        Message, Payload,
        notify::{Notify, error_name, kind},
    },
};

/// Further addresses of a peer that are remembered.
const ADDRESSES_MAX: usize = 8;
/// A request that was repeated so often without an answer goes to another address of the peer, if it has one.
pub(crate) const OTHER_ADDRESS_AFTER: u32 = 3;
/// Octets of a COOKIE2 of ours; RFC 4555 section 4.2.5 allows 8 to 64.
const COOKIE2_LEN: usize = 16;

/// What an IKE SA knows of MOBIKE.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mobike {
    /// Both sides announced it.
    enabled: bool,
    /// We began the first IKE SA: we move, the other side follows.
    moves: bool,
    /// Where the peer says it can be reached as well.
    peer_addresses: Vec<IpAddr>,
    /// How many of them were tried since the peer was last heard.
    tried: usize,
    /// How the peer last saw us (its NAT_DETECTION_DESTINATION_IP).
    seen_as: Option<Vec<u8>>,
}

/// Our request with UPDATE_SA_ADDRESSES waits for its response.
pub(crate) struct ExpectUpdate {
    path: Path,
    /// Where to go back to if the peer does not like it.
    before: Path,
    cookie: Vec<u8>,
    /// See [`Established::void_proof`].
    void: bool,
}

/// Our request with COOKIE2 waits for its response.
pub(crate) struct ExpectPathCheck {
    /// Where the Child SAs are.
    before: Path,
    cookie: Vec<u8>,
    /// See [`Established::void_proof`].
    void: bool,
}

/// The COOKIE2 came back with other octets: RFC 4555 section 3.7 has the IKE SA closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieMismatch;

impl Mobike {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// After IKE_AUTH: `message` is the peer's, `initiator` tells our role.
    pub(crate) fn negotiated(config: &EndpointConfig, message: &Message, initiator: bool) -> Self {
        let mut this = Self {
            enabled: config.mobike && message.notify(kind::MOBIKE_SUPPORTED).is_some(),
            moves: initiator,
            ..Self::default()
        };
        this.note_addresses(message);
        this
    }

    /// RFC 4555 section 3.6: each list replaces the one before.
    fn note_addresses(&mut self, message: &Message) {
        let list: Vec<_> = message.notifies().filter_map(address).collect();
        if !list.is_empty() || message.notify(kind::NO_ADDITIONAL_ADDRESSES).is_some() {
            self.peer_addresses = list.into_iter().take(ADDRESSES_MAX).collect();
            self.tried = 0;
        }
    }
}

/// What IKE_AUTH carries for MOBIKE: that we speak it, and where else we are.
pub(crate) fn announcement(config: &EndpointConfig, path: Path) -> Vec<Payload> {
    if !config.mobike {
        return Vec::new();
    }
    let others = config
        .additional_addresses
        .iter()
        .filter(|address| **address != path.local.ip());
    let additional = others.take(ADDRESSES_MAX).map(|address| match address {
        IpAddr::V4(address) => Notify::new(kind::ADDITIONAL_IP4_ADDRESS, address.octets()),
        IpAddr::V6(address) => Notify::new(kind::ADDITIONAL_IP6_ADDRESS, address.octets()),
    });
    let supported = Notify::new(kind::MOBIKE_SUPPORTED, []);
    std::iter::once(supported)
        .chain(additional)
        .map(Payload::Notify)
        .collect()
}

fn address(notify: &Notify) -> Option<IpAddr> {
    match notify.kind {
        kind::ADDITIONAL_IP4_ADDRESS => <[u8; 4]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from),
        kind::ADDITIONAL_IP6_ADDRESS => <[u8; 16]>::try_from(notify.data.as_slice())
            .ok()
            .map(IpAddr::from),
        _ => None,
    }
}

/// Answers what an INFORMATIONAL request has of MOBIKE.
pub(crate) fn respond(
    established: &mut Established,
    core: &mut Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Vec<Payload> {
    if !established.mobike.enabled {
        return Vec::new();
    }
    established.mobike.note_addresses(message);
    let mut answer: Vec<Notify> = message.notify(kind::COOKIE2).cloned().into_iter().collect();
    if message.notify(kind::UPDATE_SA_ADDRESSES).is_some()
        && let Err(refusal) = follow(established, core, ctx, message)
    {
        answer.push(Notify::new(refusal, []));
        return answer.into_iter().map(Payload::Notify).collect();
    }
    let mut payloads: Vec<_> = answer.into_iter().map(Payload::Notify).collect();
    // RFC 4555 section 3.8: so that the peer sees whether its NAT has another mapping by now.
    if message.notify(kind::NAT_DETECTION_SOURCE_IP).is_some() {
        let (spi_i, spi_r) = core.channel.spis();
        payloads.extend(nat::notifications(spi_i, spi_r, core.arrived));
    }
    payloads
}

/// RFC 4555 section 3.9: the peer forbids NATs, and its message did not come from and to where it says.
pub(crate) fn unexpected_nat(message: &Message, arrived: Path) -> bool {
    // As the sender sees it.
    let sent = Path {
        local: arrived.remote,
        remote: arrived.local,
    };
    message
        .notify(kind::NO_NATS_ALLOWED)
        .is_some_and(|claimed| claimed.data != no_nats_data(sent))
}

/// RFC 4555 section 3.5, as responder: the IKE SA moves at once, the Child SAs when the peer is known to
/// receive at the new address. The number of a notification says why not.
fn follow(
    established: &mut Established,
    core: &mut Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Result<(), u16> {
    let to = core.arrived;
    if unexpected_nat(message, to) {
        return Err(kind::UNEXPECTED_NAT_DETECTED);
    }
    if established.mobike.moves || !is_acceptable(to) {
        return Err(kind::UNACCEPTABLE_ADDRESSES);
    }
    let before = established.child_path(core);
    core.path = to;
    established.void_proof();
    if message.notify(kind::NAT_DETECTION_SOURCE_IP).is_some() {
        let (spi_i, spi_r) = core.channel.spis();
        core.nat = nat::detect(message, spi_i, spi_r, to);
    }
    let is_check = |task: &Task| matches!(task, Task::CheckPath { .. });
    established.tasks.retain(|task| !is_check(task));
    if before.remote.ip() == to.remote.ip() {
        move_children(established, core, ctx, before);
    } else {
        established.tasks.push_front(Task::CheckPath { before });
    }
    Ok(())
}

/// The addresses as their sender sees them (RFC 4555 section 4.2.6).
fn no_nats_data(path: Path) -> Vec<u8> {
    let mut data = Vec::new();
    for address in [path.local, path.remote] {
        match address.ip() {
            IpAddr::V4(address) => data.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => data.extend_from_slice(&address.octets()),
        }
    }
    data.extend_from_slice(&path.local.port().to_be_bytes());
    data.extend_from_slice(&path.remote.port().to_be_bytes());
    data
}

/// An address that a site can have: one host, not this one.
fn is_acceptable(path: Path) -> bool {
    let ip = path.remote.ip();
    let one_host = match ip {
        IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    one_host && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && ip != path.local.ip()
}

/// The Child SAs go where the IKE SA is.
pub(crate) fn move_children(established: &Established, core: &Core, ctx: &mut Context<'_>, before: Path) {
    send_children_to(established, core, ctx, core.path);
    if before != core.path {
        ctx.event(Event::PeerMoved {
            ike_sa: core.id,
            peer: established.peer_identity.to_string(),
            from: before.remote,
            to: core.path.remote,
        });
    }
}

/// Tells the data plane where the Child SAs go.
pub(crate) fn send_children_to(established: &Established, core: &Core, ctx: &mut Context<'_>, path: Path) {
    let updates = established.children.iter().map(|child| Output::UpdateChildSa {
        child: child.id,
        local: path.local,
        remote: path.remote,
        udp_encap: core.nat.any(),
    });
    ctx.outputs.extend(updates);
}

impl IkeSa {
    /// RFC 7296 section 2.23: a message that is authentic and was not there before came on `path`. The initiator
    /// moves to port 4500 with IKE_AUTH; later on only a peer behind a NAT is followed, and with MOBIKE not even
    /// that (RFC 4555 section 3.8).
    pub(crate) fn follow(&mut self, ctx: &mut Context<'_>, path: Path) {
        self.core.arrived = path;
        let behind_nat = self.core.nat.remote && !self.core.nat.local;
        if self.established().is_none() {
            if self.half_open().is_some() || behind_nat {
                self.core.path = path;
            }
            return;
        }
        let before = self.core.path;
        let Some(established) = self.established_mut() else {
            return;
        };
        established.mobike.tried = 0;
        if !behind_nat || established.mobike.enabled || before == path {
            return;
        }
        self.core.path = path;
        let core = &self.core;
        if let Some(established) = self.established() {
            move_children(established, core, ctx, before);
        }
    }

    /// An authentic ESP packet came from another address or port. Only the side that is not behind a NAT follows
    /// one that is (RFC 7296 section 2.23); with MOBIKE the IKE SA itself stays (RFC 4555 section 3.8).
    pub(crate) fn follow_esp(&mut self, ctx: &mut Context<'_>, remote: SocketAddr) {
        let core = &mut self.core;
        let State::Established(established) = &mut self.state else {
            return;
        };
        let to = Path { remote, ..core.path };
        let behind_nat = core.nat.remote && !core.nat.local && core.path.local.port() == NAT_PORT;
        if !behind_nat || !is_acceptable(to) || remote.is_ipv4() != core.path.local.is_ipv4() {
            ctx.counters.moves_refused += 1;
            return;
        }
        if established.mobike.enabled {
            send_children_to(established, core, ctx, to);
            return;
        }
        let before = std::mem::replace(&mut core.path, to);
        move_children(established, core, ctx, before);
    }

    /// As initiator: goes to other addresses of ours or the peer's.
    pub(crate) fn move_to(&mut self, ctx: &mut Context<'_>, local: SocketAddr, remote: SocketAddr) {
        let path = Path {
            local: SocketAddr::new(local.ip(), NAT_PORT),
            remote: SocketAddr::new(remote.ip(), NAT_PORT),
        };
        let ike_sa = self.core.id;
        let refused = |ctx: &mut Context<'_>, reason| {
            ctx.event(Event::MoveRefused {
                ike_sa,
                to: path.remote,
                reason,
            });
        };
        let core = &mut self.core;
        let State::Established(established) = &mut self.state else {
            return refused(ctx, "there is no IKE SA yet");
        };
        if !established.mobike.enabled || !established.mobike.moves || established.is_ending() {
            return refused(ctx, "MOBIKE is not in use, or we are not its initiator");
        }
        established.go_to(core, path);
        self.pump(ctx);
    }
}

impl Established {
    /// Where Child SAs go: the path of the IKE SA, or the one before while it is not known whether the peer
    /// receives on this one.
    pub(crate) fn child_path(&self, core: &Core) -> Path {
        let queued = self.tasks.iter().find_map(|task| match task {
            Task::CheckPath { before } => Some(*before),
            _ => None,
        });
        let pending = match self.pending() {
            Some(Pending::CheckPath(awaited)) if !awaited.void => Some(awaited.before),
            _ => None,
        };
        queued.or(pending).unwrap_or(core.path)
    }

    /// RFC 4555 section 3.5, as initiator: requests go to the new path from now on, the first of them says so.
    fn go_to(&mut self, core: &mut Core, path: Path) {
        let mut before = std::mem::replace(&mut core.path, path);
        self.void_proof();
        self.tasks.retain(|task| match task {
            Task::UpdateAddresses { before: first } => {
                before = *first;
                false
            }
            _ => true,
        });
        self.tasks.push_front(Task::UpdateAddresses { before });
    }

    /// The path is another from now on, and a request that waits for its response is repeated there: whoever is there learns the
    /// octets that were to show that the peer receives on the path before.
    fn void_proof(&mut self) {
        match self
            .outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.pending)
        {
            Some(Pending::UpdateAddresses(awaited)) => awaited.void = true,
            Some(Pending::CheckPath(awaited)) => awaited.void = true,
            _ => {}
        }
    }

    /// What an IKE SA that takes over has to finish: an update that was not answered, a check likewise.
    pub(crate) fn unfinished_move(&self) -> Option<Task> {
        let is_move = |task: &&Task| matches!(task, Task::UpdateAddresses { .. } | Task::CheckPath { .. });
        let pending = || match self.pending()? {
            Pending::UpdateAddresses(awaited) if !awaited.void => Some(Task::UpdateAddresses {
                before: awaited.before,
            }),
            Pending::CheckPath(awaited) if !awaited.void => Some(Task::CheckPath {
                before: awaited.before,
            }),
            _ => None,
        };
        self.tasks.iter().find(is_move).cloned().or_else(pending)
    }

    /// The peer is silent: as initiator with MOBIKE we try where else it said to be, in turn.
    pub(crate) fn try_other_address(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        let first = core.path.remote.ip();
        let mobike = &mut self.mobike;
        if !mobike.enabled || !mobike.moves || mobike.peer_addresses.is_empty() {
            return;
        }
        if !mobike.peer_addresses.contains(&first) {
            mobike.peer_addresses.push(first);
        }
        // Each once; then the request ends like any other.
        let usable = |address: &IpAddr| address.is_ipv4() == first.is_ipv4() && *address != first;
        let mut others = mobike
            .peer_addresses
            .iter()
            .copied()
            .enumerate()
            .skip(mobike.tried);
        let next = others.find(|(_, address)| usable(address));
        mobike.tried = next.map_or(usize::MAX, |(index, _)| index + 1);
        let (Some((_, address)), false) = (next, self.is_ending()) else {
            return;
        };
        let path = Path {
            local: SocketAddr::new(core.path.local.ip(), NAT_PORT),
            remote: SocketAddr::new(address, NAT_PORT),
        };
        self.go_to(core, path);
        if let Some(outstanding) = &mut self.outstanding {
            ctx.transmit(core.path, &outstanding.datagrams);
            outstanding.clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
        }
    }

    /// What a liveness request carries: behind a NAT, the question how the peer sees us (RFC 4555 section 3.8).
    pub(crate) fn liveness_payloads(&self, core: &Core) -> Vec<Payload> {
        if !(self.mobike.enabled && self.mobike.moves && core.nat.local) {
            return Vec::new();
        }
        let (spi_i, spi_r) = core.channel.spis();
        nat::notifications(spi_i, spi_r, core.path).to_vec()
    }

    /// Our NAT has another mapping than when the peer last saw us: tell the peer.
    pub(crate) fn liveness_answered(&mut self, core: &Core, message: &Message) {
        let Some(seen) = message.notify(kind::NAT_DETECTION_DESTINATION_IP) else {
            return;
        };
        if self.mobike.enabled && self.mobike.moves && self.mobike.seen_as.as_ref() != Some(&seen.data) {
            self.push_new(Task::UpdateAddresses { before: core.path });
        }
    }
}

impl ExpectUpdate {
    pub(crate) fn start(core: &Core, ctx: &mut Context<'_>, before: Path) -> (Vec<Payload>, Self) {
        let (spi_i, spi_r) = core.channel.spis();
        let cookie = cookie2(ctx);
        let mut payloads = vec![Payload::Notify(Notify::new(kind::UPDATE_SA_ADDRESSES, []))];
        payloads.extend(nat::notifications(spi_i, spi_r, core.path));
        payloads.push(Payload::Notify(Notify::new(kind::COOKIE2, cookie.clone())));
        let awaited = Self {
            path: core.path,
            before,
            cookie,
            void: false,
        };
        (payloads, awaited)
    }

    pub(crate) fn handle(
        self,
        established: &mut Established,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Result<(), CookieMismatch> {
        // The path changed again while we waited: another request says so.
        if self.void {
            return Ok(());
        }
        if let Some(error) = message.error() {
            core.path = self.before;
            ctx.event(Event::MoveRefused {
                ike_sa: core.id,
                to: self.path.remote,
                reason: error_name(error.kind),
            });
            return Ok(());
        }
        check_cookie2(message, &self.cookie)?;
        if let Some(seen) = message.notify(kind::NAT_DETECTION_DESTINATION_IP) {
            let (spi_i, spi_r) = core.channel.spis();
            core.nat = nat::detect(message, spi_i, spi_r, core.path);
            established.mobike.seen_as = Some(seen.data.clone());
        }
        move_children(established, core, ctx, self.before);
        Ok(())
    }
}

impl ExpectPathCheck {
    /// RFC 4555 section 3.7: a request to the new path with octets that only its receiver can return.
    pub(crate) fn start(ctx: &mut Context<'_>, before: Path) -> (Vec<Payload>, Self) {
        let cookie = cookie2(ctx);
        let payloads = vec![Payload::Notify(Notify::new(kind::COOKIE2, cookie.clone()))];
        let awaited = Self {
            before,
            cookie,
            void: false,
        };
        (payloads, awaited)
    }

    pub(crate) fn handle(
        self,
        established: &mut Established,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Result<(), CookieMismatch> {
        check_cookie2(message, &self.cookie)?;
        // If the path changed again meanwhile, another check is queued, or none is needed.
        if !self.void && established.superseded.is_none() {
            move_children(established, core, ctx, self.before);
        }
        Ok(())
    }
}

fn cookie2(ctx: &mut Context<'_>) -> Vec<u8> {
    let mut cookie = vec![0; COOKIE2_LEN];
    ctx.random.fill(&mut cookie);
    cookie
}

fn check_cookie2(message: &Message, cookie: &[u8]) -> Result<(), CookieMismatch> {
    let returned = message
        .notify(kind::COOKIE2)
        .is_some_and(|notify| notify.data == cookie);
    returned.then_some(()).ok_or(CookieMismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(local: &str, remote: &str) -> Path {
        Path {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn only_addresses_of_one_host_are_acceptable() {
        for good in ["192.0.2.1:4500", "[2001:db8::1]:4500", "10.0.0.1:1024"] {
            assert!(is_acceptable(path("198.51.100.1:4500", good)), "{good}");
        }
        for bad in [
            "0.0.0.0:4500",
            "127.0.0.1:4500",
            "224.0.0.1:4500",
            "255.255.255.255:4500",
            "169.254.1.1:4500",
            "198.51.100.1:4500",
            "[::1]:4500",
            "[::]:4500",
            "[ff02::1]:4500",
            "[fe80::1]:4500",
        ] {
            assert!(!is_acceptable(path("198.51.100.1:4500", bad)), "{bad}");
        }
    }

    /// RFC 4555 section 4.2.6: source address, destination address, source port, destination port.
    #[test]
    fn golden_no_nats_allowed() {
        let data = no_nats_data(path("192.0.2.1:4500", "198.51.100.1:500"));
        assert_eq!(data, [192, 0, 2, 1, 198, 51, 100, 1, 0x11, 0x94, 0x01, 0xf4]);
        assert_eq!(no_nats_data(path("[::1]:1", "[::2]:2")).len(), 36);
    }

    #[test]
    fn each_list_of_addresses_replaces_the_one_before() {
        let list = |notifies: Vec<Notify>| Message(notifies.into_iter().map(Payload::Notify).collect());
        let mut mobike = Mobike::default();
        mobike.note_addresses(&list(vec![
            Notify::new(kind::ADDITIONAL_IP4_ADDRESS, [192, 0, 2, 7]),
            Notify::new(kind::ADDITIONAL_IP4_ADDRESS, [192, 0, 2]),
            Notify::new(kind::ADDITIONAL_IP6_ADDRESS, [0; 16]),
        ]));
        assert_eq!(mobike.peer_addresses.len(), 2, "the malformed one is ignored");
        mobike.note_addresses(&list(vec![Notify::new(kind::COOKIE2, [1; 8])]));
        assert_eq!(mobike.peer_addresses.len(), 2);
        mobike.note_addresses(&list(vec![Notify::new(kind::NO_ADDITIONAL_ADDRESSES, [])]));
        assert!(mobike.peer_addresses.is_empty());
        let many = (0..100).map(|last| Notify::new(kind::ADDITIONAL_IP4_ADDRESS, [192, 0, 2, last]));
        mobike.note_addresses(&list(many.collect()));
        assert_eq!(mobike.peer_addresses.len(), ADDRESSES_MAX);
    }
}

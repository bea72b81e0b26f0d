//! From the center: packets of flows are translated back and handed to a worker. What belongs to no flow goes to
//! [`super::enter`], which lets in little.

use crate::abi::event::kind as event_kind;
use crate::abi::flow::{self, halves, pair, word};
use crate::abi::interface::{Interface, role};
use crate::abi::rule::direction;
use crate::abi::sa::{LinkHeader, SaOutbound, SaOutboundKey};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{self, Ethernet, ether_type};
use crate::packet::icmp::{Icmp, kind};
use crate::packet::ipv4::{self, Ipv4, protocol};
use crate::packet::tcp::flag;
use crate::tables::Tables;
use crate::tables::flows::Entry;
use crate::tables::words::Words;

use super::clear::{self, Next};
use super::filter::{self, Direction};
use super::inner::{IP, Inner, TRANSPORT};
use super::open::Stage;
use super::{Outcome, Verdict, back, fragment, icmp, limits, mss, worker};

/// Hands a frame of the core side to a worker, translated back, or answers that it is too big: all stages, one after
/// another.
///
/// # Errors
/// The reason to drop it.
pub fn core_through<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    clear::through(packet, tables, Stage::Core)
}

/// The first stage: what belongs to a flow.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn core<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let kind: [u8; 2] = packet
        .load(ethernet::ETHER_TYPE)
        .ok_or(DropReason::TruncatedLink)?;
    match kind {
        ether_type::IPV4 => {}
        ether_type::ARP => return passed(),
        _ => return Err(DropReason::UnknownEtherType),
    }
    if is_ping(packet, interface) {
        return passed();
    }
    let mut inner = Inner::NONE;
    match inner.read(packet, Direction::In) {
        Ok(()) => {}
        // No answer to a query: perhaps an error.
        Err(DropReason::IcmpType) => return Ok(Next::Stage(Stage::CenterError)),
        Err(DropReason::InnerFragment) => {
            return fragment::wait(packet, tables, interface).map(Next::Decided);
        }
        Err(reason) => return Err(reason),
    }
    of_its_side(tables, interface, inner.ip.source)?;
    let outside = inner.outside();
    let found = tables
        .flows()
        .find_answer(&outside, inner.ip.source, inner.ports.source());
    let Some(Entry { record, .. }) = found else {
        return no_flow(&inner, interface);
    };
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let (now_s, epochs) = tables.clock();
    let (state, last_seen_s) = filter::state_and_last_seen_s(record);
    if !filter::is_alive(state, last_seen_s, settings, now_s) || filter::reopens(state, &inner) {
        return Ok(Next::Stage(Stage::Enter));
    }
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let sa = outbound(tables, record, epochs.sa)?;
    if inner.length() > sa.mtu && inner.ip.dont_fragment() {
        let link: Ethernet = packet.load(0).ok_or(DropReason::Internal)?;
        icmp::answer_too_big(packet, &link, &inner.ip, interface.ipv4, sa.mtu)?;
        return Ok(Next::Decided(Verdict::Reflect(Path::CoreTooBig)));
    }
    let verdict = worker(tables, interface, Path::CoreForwarded)?;
    let (site, source) = halves(record.load(word::SITE_SOURCE));
    if filter::follow::<_, false>(record, &inner, now_s)? {
        limits::give_half_open(tables, site);
    }
    let [s0, s1, _, _] = halves(record.load(word::DESTINATION_PORTS)).1.to_ne_bytes();
    inner.translate(packet, Direction::In, source.to_ne_bytes(), [s0, s1])?;
    if inner.segment.flags & flag::SYN != 0 {
        mss::clamp(packet, mss::limit(settings, sa.mtu))?;
    }
    packet
        .store(0, &LinkHeader::new(site, back::share(tables, sa)))
        .ok_or(DropReason::Internal)?;
    Ok(Next::Decided(verdict))
}

#[inline(always)]
pub(super) const fn passed() -> Result<Next, DropReason> {
    Ok(Next::Decided(Verdict::Pass(Path::CorePassed)))
}

/// Nobody in the Internet speaks for the center or for a site (RFC 3704).
#[inline(always)]
pub(super) fn of_its_side<T: Tables>(
    tables: &T,
    interface: &Interface,
    source: [u8; 4],
) -> Result<(), DropReason> {
    if interface.role == role::INTERNET && tables.direction_to(source) != direction::SITE_TO_INTERNET {
        return Err(DropReason::WrongSide);
    }
    Ok(())
}

/// Whether this is an echo request to the gateway's own address, which the kernel answers.
#[inline(always)]
fn is_ping<P: Packet>(packet: &P, interface: &Interface) -> bool {
    // Hardly any packet is for the gateway itself: no more is read of one that is not.
    if packet.load(IP + ipv4::DESTINATION) != Some(interface.ipv4) {
        return false;
    }
    interface.ipv4 != [0; 4] && is_echo_request(packet)
}

/// The same of the addresses that the interface has beside its first: no flow is like such a packet, so that this is asked of
/// what the first stage does not know.
#[inline(never)]
pub(super) fn is_further_ping<P: Packet>(packet: &P, interface: &Interface) -> bool {
    let Some(destination) = packet.load::<[u8; 4]>(IP + ipv4::DESTINATION) else {
        return false;
    };
    let mut further = interface.further_ipv4.iter();
    destination != [0; 4] && further.any(|address| *address == destination) && is_echo_request(packet)
}

#[inline(always)]
fn is_echo_request<P: Packet>(packet: &P) -> bool {
    let (Some(ip), Some(header)) = (packet.load::<Ipv4>(IP), packet.load::<Icmp>(TRANSPORT)) else {
        return false;
    };
    ip.version_length == 0x45
        && ip.protocol == protocol::ICMP
        && !ip.is_fragment()
        && header.kind == kind::ECHO
}

/// No flow: the answer to a ping of the gateway's own, or what may open one.
#[inline(always)]
fn no_flow(inner: &Inner, interface: &Interface) -> Result<Next, DropReason> {
    if is_own(&inner.ip, interface) && inner.ip.protocol == protocol::ICMP {
        return passed();
    }
    Ok(Next::Stage(Stage::Enter))
}

#[inline(always)]
pub(super) fn is_own(ip: &Ipv4, interface: &Interface) -> bool {
    interface.ipv4 != [0; 4] && ip.destination == interface.ipv4
}

/// The SA to the site, which the flow has used before as long as SAs are what they were; the controller hears of its
/// absence.
#[inline(always)]
pub(super) fn outbound<V: Words, T: Tables>(
    tables: &T,
    record: V,
    epoch: u32,
) -> Result<&SaOutbound, DropReason> {
    let (number, looked_up) = halves(record.load(word::SA));
    if looked_up == epoch
        && let Some(sa) = tables.sa_outbound(number)
    {
        return Ok(sa);
    }
    look_up_outbound(tables, record, epoch)
}

/// The same by the SAs' routes. Apart from its caller, which has little stack.
#[inline(never)]
fn look_up_outbound<V: Words, T: Tables>(
    tables: &T,
    record: V,
    epoch: u32,
) -> Result<&SaOutbound, DropReason> {
    let (site, source) = halves(record.load(word::SITE_SOURCE));
    let key = SaOutboundKey {
        site: site.to_be_bytes(),
        destination: source.to_ne_bytes(),
    };
    if let Some(number) = tables.sa_route(&key)
        && let Some(sa) = tables.sa_outbound(number)
    {
        record.store(word::SA, pair(number, epoch));
        return Ok(sa);
    }
    super::clear::tell(tables, event_kind::NO_SA, &flow::read_key(record), 0, 0);
    Err(DropReason::NoSa)
}

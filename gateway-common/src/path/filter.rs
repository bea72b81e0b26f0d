//! The stateful filter: what may open a flow, and what each packet makes of its state. The site always opens.

use crate::abi::flow::{Flow, state};
use crate::abi::interface::Settings;
use crate::drop::DropReason;
use crate::packet::ipv4::protocol;
use crate::packet::tcp::flag::{ACK, FIN, RST, SYN};

use super::inner::Inner;

/// Direction of a packet in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the site to the center.
    Out,
    /// From the center to the site.
    In,
}

/// What a packet makes of a flow's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// One of [`state`].
    pub state: u8,
    /// [`Flow::fins`].
    pub fins: u8,
}

/// Bit of [`Flow::fins`] for a FIN of the site.
const FIN_OUT: u8 = 1;
/// Bit of [`Flow::fins`] for a FIN of the center.
const FIN_IN: u8 = 2;

/// State of a flow that this packet of the site opens.
///
/// # Errors
/// [`DropReason::TcpState`] if TCP does not begin with a SYN alone (RFC 9293 section 3.5).
#[inline(always)]
pub fn open(inner: &Inner) -> Result<Progress, DropReason> {
    if inner.ip.protocol != protocol::TCP {
        return Ok(Progress {
            state: state::UNREPLIED,
            fins: 0,
        });
    }
    if !is_first_syn(inner.flags) {
        return Err(DropReason::TcpState);
    }
    Ok(Progress {
        state: state::TCP_SYN_SENT,
        fins: 0,
    })
}

/// Seconds without a packet after which a flow is dead.
#[inline(always)]
#[must_use]
pub const fn idle_limit_s(settings: &Settings, protocol: u8, state: u8) -> u32 {
    match (protocol, state) {
        (protocol::TCP, state::TCP_SYN_SENT | state::TCP_SYN_RECEIVED) => settings.tcp_opening_s,
        (protocol::TCP, state::TCP_ESTABLISHED) => settings.tcp_established_s,
        (protocol::TCP, _) => settings.tcp_closing_s,
        (protocol::ICMP, _) => settings.icmp_s,
        _ => settings.udp_s,
    }
}

/// Whether a flow is still alive.
#[inline(always)]
#[must_use]
pub const fn is_alive(flow: &Flow, protocol: u8, settings: &Settings, now_s: u32) -> bool {
    // Another CPU may have stored a second that this one has not reached: the difference is then negative.
    let idle_s = now_s.wrapping_sub(flow.last_seen_s).cast_signed();
    idle_s < 0 || idle_s.cast_unsigned() <= idle_limit_s(settings, protocol, flow.state)
}

/// Whether a packet of the site begins a new connection on the ports of a closed one; the rules decide on it anew.
#[inline(always)]
#[must_use]
pub const fn reopens(flow: &Flow, inner: &Inner) -> bool {
    flow.state == state::TCP_CLOSED && is_first_syn(inner.flags)
}

/// Moves a flow's state on.
///
/// # Errors
/// [`DropReason::TcpState`] if the segment does not fit.
#[inline(always)]
pub fn advance(flow: &Flow, inner: &Inner, direction: Direction) -> Result<Progress, DropReason> {
    if inner.ip.protocol == protocol::TCP {
        return match direction {
            Direction::Out => tcp_out(flow, inner.flags),
            Direction::In => tcp_in(flow, inner.flags),
        };
    }
    let state = match direction {
        Direction::Out => flow.state,
        Direction::In => state::REPLIED,
    };
    Ok(Progress {
        state,
        fins: flow.fins,
    })
}

/// A segment of the site, which opened the connection.
#[inline(always)]
fn tcp_out(flow: &Flow, flags: u8) -> Result<Progress, DropReason> {
    let next = |state| {
        Ok(Progress {
            state,
            fins: flow.fins,
        })
    };
    if flags & RST != 0 {
        return next(state::TCP_CLOSED);
    }
    if flags & SYN != 0 {
        // A retransmitted SYN, or one after a crash: the center answers it with a challenge ACK, and the RST that
        // follows closes the flow (RFC 9293 section 3.5.1). SYN+ACK belongs to a server.
        return if flags & ACK == 0 {
            next(flow.state)
        } else {
            Err(DropReason::TcpState)
        };
    }
    match flow.state {
        state::TCP_SYN_SENT => Err(DropReason::TcpState),
        state::TCP_SYN_RECEIVED | state::TCP_ESTABLISHED | state::TCP_FIN => Ok(data(flow, flags, FIN_OUT)),
        _ => next(state::TCP_CLOSED),
    }
}

/// A segment of the center, which was called.
#[inline(always)]
fn tcp_in(flow: &Flow, flags: u8) -> Result<Progress, DropReason> {
    let next = |state| {
        Ok(Progress {
            state,
            fins: flow.fins,
        })
    };
    if flags & RST != 0 {
        return next(state::TCP_CLOSED);
    }
    if flags & SYN != 0 {
        return match (flags & ACK != 0, flow.state) {
            // A SYN alone would open a connection to the site.
            (false, _) => Err(DropReason::TcpState),
            (true, state::TCP_SYN_SENT) => next(state::TCP_SYN_RECEIVED),
            (true, state) => next(state),
        };
    }
    match flow.state {
        // Challenge ACK of a server that remembers an older connection (RFC 9293 section 3.10.7.4).
        state::TCP_SYN_SENT => {
            if flags & FIN != 0 {
                Err(DropReason::TcpState)
            } else {
                next(state::TCP_SYN_SENT)
            }
        }
        // Only the site's ACK completes the handshake.
        state::TCP_SYN_RECEIVED if flags & FIN == 0 => next(state::TCP_SYN_RECEIVED),
        state::TCP_SYN_RECEIVED | state::TCP_ESTABLISHED | state::TCP_FIN => Ok(data(flow, flags, FIN_IN)),
        _ => next(state::TCP_CLOSED),
    }
}

/// A segment of an open connection: a FIN half-closes it, the second one closes it.
#[inline(always)]
const fn data(flow: &Flow, flags: u8, fin: u8) -> Progress {
    let fins = if flags & FIN != 0 {
        flow.fins | fin
    } else {
        flow.fins
    };
    let state = match fins {
        0 => state::TCP_ESTABLISHED,
        FIN_OUT | FIN_IN => state::TCP_FIN,
        _ => state::TCP_CLOSED,
    };
    Progress { state, fins }
}

#[inline(always)]
const fn is_first_syn(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        tcp_opening_s: 1,
        tcp_established_s: 2,
        tcp_closing_s: 3,
        udp_s: 4,
        icmp_s: 5,
        ike_per_source_per_s: 0,
        port_low: 0,
        port_high: 0,
    };

    fn flow(state: u8, last_seen_s: u32) -> Flow {
        Flow {
            packets_out: 0,
            bytes_out: 0,
            packets_in: 0,
            bytes_in: 0,
            last_seen_s,
            created_s: 0,
            generation: 0,
            rule: 0,
            nat_address: [0; 4],
            nat_port: [0; 2],
            state,
            fins: 0,
        }
    }

    #[test]
    fn each_state_has_its_limit() {
        let limits = [
            (protocol::TCP, state::TCP_SYN_SENT, 1),
            (protocol::TCP, state::TCP_SYN_RECEIVED, 1),
            (protocol::TCP, state::TCP_ESTABLISHED, 2),
            (protocol::TCP, state::TCP_FIN, 3),
            (protocol::TCP, state::TCP_CLOSED, 3),
            (protocol::UDP, state::REPLIED, 4),
            (protocol::UDP, state::UNREPLIED, 4),
            (protocol::ICMP, state::UNREPLIED, 5),
        ];
        for (protocol, state, limit_s) in limits {
            assert_eq!(idle_limit_s(&SETTINGS, protocol, state), limit_s);
            assert!(is_alive(&flow(state, 100), protocol, &SETTINGS, 100 + limit_s));
            assert!(!is_alive(&flow(state, 100), protocol, &SETTINGS, 101 + limit_s));
        }
    }

    #[test]
    fn a_clock_that_is_behind_or_wraps_does_not_expire_a_flow() {
        assert!(is_alive(
            &flow(state::REPLIED, 101),
            protocol::UDP,
            &SETTINGS,
            100
        ));
        assert!(is_alive(
            &flow(state::REPLIED, u32::MAX),
            protocol::UDP,
            &SETTINGS,
            1
        ));
        assert!(!is_alive(
            &flow(state::REPLIED, u32::MAX),
            protocol::UDP,
            &SETTINGS,
            9
        ));
    }
}

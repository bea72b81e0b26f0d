//! Redirect (RFC 5685): a gateway that is to be empty sends its peers to another.
//!
//! | when | the gateway says REDIRECT in | |
//! |---|---|---|
//! | a peer comes | IKE_SA_INIT, with the peer's nonce | nothing is kept of it |
//! | it had come before | IKE_AUTH, beside the gateway's own proof | no Child SA is made |
//! | its IKE SA stands | INFORMATIONAL | the new one is up before the old one goes |
//!
//! Only peers that said that they know it are sent away, and we follow only where a connection says so, and only to
//! a gateway that proves the identity which the connection wants. So who forges a REDIRECT in IKE_SA_INIT, for which
//! he must be on the path, gains what he has: he can keep the two sides apart.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::{
    config::EndpointConfig,
    connection::Connection,
    wire::{
        Message, Payload,
        notify::{Notify, kind},
    },
};

/// RFC 5685 section 7: more redirects than this in [`LOOP_DETECT_PERIOD_MS`] are a loop.
pub(crate) const REDIRECTS_MAX: usize = 5;
/// And for so long.
pub(crate) const LOOP_DETECT_PERIOD_MS: u64 = 300_000;
/// RFC 1035 section 2.3.4.
const NAME_LEN_MAX: usize = 253;

/// Gateway identity types (RFC 5685 section 9.2).
const IDENT_IPV4: u8 = 1;
const IDENT_IPV6: u8 = 2;
const IDENT_FQDN: u8 = 3;

/// Where a peer is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtherGateway {
    /// Its address.
    Address(IpAddr),
    /// Its DNS name.
    Name(String),
}

/// A text that names no gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is neither the address of a host nor a DNS name")]
pub struct NoGateway(String);

impl FromStr for OtherGateway {
    type Err = NoGateway;

    fn from_str(text: &str) -> Result<Self, NoGateway> {
        let wrong = || NoGateway(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return is_host(address)
                .then_some(Self::Address(address))
                .ok_or_else(wrong);
        }
        is_name(text)
            .then(|| Self::Name(text.to_owned()))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for OtherGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

/// Letters, digits, hyphens and points, and not an address gone wrong.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.len() <= NAME_LEN_MAX && !all_digits && text.split('.').all(label)
}

impl OtherGateway {
    /// The notification data, without the nonce (RFC 5685 section 9.2).
    fn to_wire(&self) -> Vec<u8> {
        let (kind, ident) = match self {
            Self::Address(IpAddr::V4(address)) => (IDENT_IPV4, address.octets().to_vec()),
            Self::Address(IpAddr::V6(address)) => (IDENT_IPV6, address.octets().to_vec()),
            Self::Name(name) => (IDENT_FQDN, name.as_bytes().to_vec()),
        };
        let len = u8::try_from(ident.len()).unwrap_or(u8::MAX);
        [&[kind, len], ident.as_slice()].concat()
    }

    /// The gateway, and the nonce behind it. What is no gateway that we could go to is none.
    fn from_wire(data: &[u8]) -> Option<(Self, &[u8])> {
        let ([kind, len], rest) = data.split_first_chunk::<2>()?;
        let (ident, nonce) = rest.split_at_checked(usize::from(*len))?;
        let gateway = match *kind {
            IDENT_IPV4 => Self::Address(Ipv4Addr::from(<[u8; 4]>::try_from(ident).ok()?).into()),
            IDENT_IPV6 => Self::Address(Ipv6Addr::from(<[u8; 16]>::try_from(ident).ok()?).into()),
            IDENT_FQDN => {
                let name = std::str::from_utf8(ident).ok()?;
                Self::Name(is_name(name).then(|| name.to_owned())?)
            }
            _ => return None,
        };
        match gateway {
            Self::Address(address) if !is_host(address) => None,
            gateway @ (Self::Address(_) | Self::Name(_)) => Some((gateway, nonce)),
        }
    }

    /// REDIRECT under protection, where no nonce is needed.
    pub(crate) fn notification(&self) -> Payload {
        Payload::Notify(Notify::new(kind::REDIRECT, self.to_wire()))
    }
}

/// What the initiator of a connection says in IKE_SA_INIT (RFC 5685 section 3): that it can be redirected, or that
/// it was, by whom.
pub(crate) fn announcement(connection: &Connection, redirected_from: Option<IpAddr>) -> Option<Payload> {
    connection.redirects.then(|| {
        Payload::Notify(match redirected_from {
            Some(from) => Notify::new(kind::REDIRECTED_FROM, OtherGateway::Address(from).to_wire()),
            None => Notify::new(kind::REDIRECT_SUPPORTED, []),
        })
    })
}

/// Whether an initiator can be redirected.
pub(crate) fn is_supported(message: &Message) -> bool {
    message.notify(kind::REDIRECT_SUPPORTED).is_some() || message.notify(kind::REDIRECTED_FROM).is_some()
}

/// The gateway that sent an initiator to us.
pub(crate) fn redirected_from(message: &Message) -> Option<IpAddr> {
    let notify = message.notify(kind::REDIRECTED_FROM)?;
    match OtherGateway::from_wire(&notify.data)?.0 {
        OtherGateway::Address(from) => Some(from),
        OtherGateway::Name(_) => None,
    }
}

/// The answer to IKE_SA_INIT of a gateway that is to be empty. Who was sent here by the gateway that it would be sent to
/// is served: the two would send it back and forth.
pub(crate) fn answer(config: &EndpointConfig, message: &Message) -> Option<Notify> {
    let to = config.redirect_to.as_ref()?;
    let sent_by_it = redirected_from(message).is_some_and(|from| *to == OtherGateway::Address(from));
    let nonce = message.nonce().filter(|_| is_supported(message) && !sent_by_it)?;
    Some(Notify::new(
        kind::REDIRECT,
        [to.to_wire(), nonce.0.clone()].concat(),
    ))
}

/// Where a REDIRECT under protection sends us.
pub(crate) fn protected(message: &Message) -> Option<OtherGateway> {
    let notify = message.notify(kind::REDIRECT)?;
    OtherGateway::from_wire(&notify.data).map(|(to, _)| to)
}

/// Where an unprotected REDIRECT sends us, which must hold our nonce (RFC 5685 section 3).
pub(crate) fn unprotected(notify: &Notify, nonce_i: &[u8]) -> Option<OtherGateway> {
    let (to, nonce) = OtherGateway::from_wire(&notify.data)?;
    (nonce == nonce_i).then_some(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5685 section 9.2.
    #[test]
    fn golden() {
        for (text, bytes) in [
            ("192.0.2.1", &[1, 4, 192, 0, 2, 1][..]),
            (
                "2001:db8::1",
                &[2, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ),
            ("gw.example", b"\x03\x0agw.example"),
        ] {
            let gateway: OtherGateway = text.parse().unwrap();
            assert_eq!(gateway.to_wire(), bytes);
            assert_eq!(gateway.to_string(), text);
            let with_nonce = [bytes, b"nonce"].concat();
            assert_eq!(
                OtherGateway::from_wire(&with_nonce),
                Some((gateway, &b"nonce"[..]))
            );
        }
    }

    #[test]
    fn what_is_no_gateway_is_none() {
        for text in [
            "",
            ".",
            "a..b",
            "0.0.0.0",
            "224.0.0.1",
            "::",
            "ff02::1",
            "127.0.0.1",
            "::1",
            "256.0.0.1",
            "-a.b",
            "a b",
        ] {
            assert!(text.parse::<OtherGateway>().is_err(), "{text}");
        }
        for bytes in [
            &[][..],
            &[1],
            &[1, 4, 192, 0, 2],
            &[1, 3, 192, 0, 2],
            &[1, 16, 192, 0, 2, 1],
            &[1, 4, 0, 0, 0, 0],
            &[1, 4, 224, 0, 0, 1],
            &[4, 4, 192, 0, 2, 1],
            &[3, 0],
            &[3, 3, b'a', 0, b'b'],
            &[3, 2, 0xff, 0xfe],
        ] {
            assert_eq!(OtherGateway::from_wire(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_written_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some((gateway, nonce)) = OtherGateway::from_wire(&bytes) {
                prop_assert_eq!([gateway.to_wire(), nonce.to_vec()].concat(), bytes);
                prop_assert_eq!(gateway.to_string().parse::<OtherGateway>(), Ok(gateway));
            }
        }
    }
}

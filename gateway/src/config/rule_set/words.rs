//! The words of a rule.
use std::fmt;
use std::str::FromStr;

use gateway_common::abi::rule::direction;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::address::{AddressRange, Prefix, serde_as_word};

/// An IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// No condition; the packet path's own word for it, no rule file can write it.
    pub const ANY: Self = Self(0);
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether it has ports that the packet path reads.
    #[must_use]
    pub fn has_ports(self) -> bool {
        self == Self::TCP || self == Self::UDP
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => formatter.write_str("icmp"),
            Self::TCP => formatter.write_str("tcp"),
            Self::UDP => formatter.write_str("udp"),
            Self(number) => number.fmt(formatter),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "icmp" => Ok(Self::ICMP),
            "tcp" => Ok(Self::TCP),
            "udp" => Ok(Self::UDP),
            word => word.parse().ok().filter(|number| *number != 0).map(Self).ok_or_else(|| {
                format!("\"{word}\" is no protocol; write \"tcp\", \"udp\", \"icmp\", \"any\" or a number from 1 to 255")
            }),
        }
    }
}

/// A run of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest.
    pub low: u16,
    /// Highest.
    pub high: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        low: 0,
        high: u16::MAX,
    };
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low == self.high {
            true => self.low.fmt(formatter),
            false => write!(formatter, "{}-{}", self.low, self.high),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        let port = |end: &str| {
            let fault =
                || format!("\"{word}\" is no port or range of ports; write it like \"443\" or \"8000-8010\"");
            end.trim().parse::<u16>().map_err(|_| fault())
        };
        let range = Self {
            low: port(low)?,
            high: port(high)?,
        };
        match range.low <= range.high {
            true => Ok(range),
            false => Err(format!(
                "ports \"{word}\" end before they begin; write \"{}-{}\"",
                range.high, range.low
            )),
        }
    }
}

/// An ICMP type, with a code or with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpType {
    /// Type.
    pub kind: u8,
    /// Code; `None`: every one.
    pub code: Option<u8>,
}

/// Names of ICMP types that have one (IANA, "ICMP Type Numbers").
const ICMP_NAMES: [(&str, u8); 7] = [
    ("echo-reply", 0),
    ("unreachable", 3),
    ("echo-request", 8),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

impl IcmpType {
    /// A query that opens a flow.
    pub const ECHO_REQUEST: u8 = 8;
    /// Another one.
    pub const TIMESTAMP_REQUEST: u8 = 13;

    /// As ports of the packet path: type and code.
    #[must_use]
    pub fn range(self) -> (u16, u16) {
        let kind = u16::from(self.kind) << 8;
        match self.code {
            Some(code) => (kind | u16::from(code), kind | u16::from(code)),
            None => (kind, kind | 0xff),
        }
    }
}

impl fmt::Display for IcmpType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ICMP_NAMES.iter().find(|(_, kind)| *kind == self.kind) {
            Some((name, _)) => formatter.write_str(name)?,
            None => self.kind.fmt(formatter)?,
        }
        match self.code {
            Some(code) => write!(formatter, "/{code}"),
            None => Ok(()),
        }
    }
}

impl FromStr for IcmpType {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "\"{word}\" is no ICMP type; write it like \"echo-request\", \"8\" or, with a code, \"3/13\""
            )
        };
        let (kind, code) = match word.split_once('/') {
            Some((kind, code)) => (kind, Some(code.parse().map_err(|_| fault())?)),
            None => (word, None),
        };
        let named = ICMP_NAMES.iter().find(|(name, _)| *name == kind);
        let kind = match named {
            Some((_, kind)) => *kind,
            None => kind.parse().map_err(|_| fault())?,
        };
        Ok(Self { kind, code })
    }
}

/// An address, a prefix, a range, or the name of an `[[address]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressWord {
    /// A prefix, or one address.
    Prefix(Prefix),
    /// From one address to another.
    Range(AddressRange),
    /// An `[[address]]`.
    Name(String),
}

impl fmt::Display for AddressWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(formatter),
            Self::Range(range) => range.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl FromStr for AddressWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if is_name(word) {
            return Ok(Self::Name(word.to_owned()));
        }
        match word.contains('-') {
            true => word.parse().map(Self::Range),
            false => word.parse().map(Self::Prefix),
        }
    }
}

/// Whether a word may be the name of an object: it begins with a letter, so that no address reads like one.
pub(crate) fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic())
        && word
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Which way a flow is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From a site to the center.
    #[default]
    SiteToCenter,
    /// From the center to a site.
    CenterToSite,
    /// From one site to another, through the center.
    SiteToSite,
    /// From a site to the Internet.
    SiteToInternet,
}

impl Direction {
    /// The packet path's number ([`gateway_common::abi::rule::direction`]).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::SiteToCenter => direction::SITE_TO_CENTER,
            Self::CenterToSite => direction::CENTER_TO_SITE,
            Self::SiteToSite => direction::SITE_TO_SITE,
            Self::SiteToInternet => direction::SITE_TO_INTERNET,
        }
    }

    const ALL: [(Self, &'static str); 4] = [
        (Self::SiteToCenter, "site-to-center"),
        (Self::CenterToSite, "center-to-site"),
        (Self::SiteToSite, "site-to-site"),
        (Self::SiteToInternet, "site-to-internet"),
    ];
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(direction, _)| direction == self);
        formatter.write_str(found.map_or("", |(_, word)| word))
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(direction, _)| *direction).ok_or_else(|| {
            format!("\"{word}\" is no direction; write \"site-to-center\", \"center-to-site\", \"site-to-site\" or \"site-to-internet\"")
        })
    }
}

serde_as_word!(Protocol, PortRange, IcmpType, AddressWord, Direction);

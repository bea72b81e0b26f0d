//! Inner IPv4 addresses as operators write them: prefixes and ranges.
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 prefix without host bits; a bare address is a prefix of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(ipnet::Ipv4Net);

impl Prefix {
    /// `0.0.0.0/0`.
    #[must_use]
    pub fn everything() -> Self {
        Self(ipnet::Ipv4Net::default())
    }

    /// Network address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.0.network()
    }

    /// Netmask.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        self.0.netmask()
    }

    /// Prefix length in bits, 0 to 32.
    #[must_use]
    pub fn length(self) -> u8 {
        self.0.prefix_len()
    }

    /// Lowest and highest address.
    #[must_use]
    pub fn bounds(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.0.network(), self.0.broadcast())
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() {
            32 => self.0.addr().fmt(formatter),
            _ => self.0.fmt(formatter),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if let Ok(address) = word.parse::<Ipv4Addr>() {
            return Ok(Self(ipnet::Ipv4Net::from(address)));
        }
        let net: ipnet::Ipv4Net = word.parse().map_err(|_| {
            format!("\"{word}\" is not an IPv4 address or prefix; write it like \"192.168.1.10\" or \"192.168.1.0/24\"")
        })?;
        if net.trunc() != net {
            return Err(format!(
                "\"{word}\" has bits set to the right of its prefix; write \"{}\"",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

/// A contiguous run of IPv4 addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Lowest.
    pub first: Ipv4Addr,
    /// Highest.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// The hosts of a prefix: its first and last address stay out, which some hosts and firewalls take for the
    /// network and its broadcast; prefixes of 31 and 32 bits have none such.
    #[must_use]
    pub fn hosts(prefix: Prefix) -> Self {
        let (first, last) = prefix.bounds();
        if prefix.length() > 30 {
            return Self { first, last };
        }
        let (first, last) = (
            u32::from(first).saturating_add(1),
            u32::from(last).saturating_sub(1),
        );
        Self {
            first: first.into(),
            last: last.into(),
        }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses.
    #[must_use]
    pub fn size(self) -> u64 {
        u64::from(u32::from(self.last)).saturating_sub(u64::from(u32::from(self.first))) + 1
    }

    /// All addresses in order.
    pub fn iter(self) -> impl Iterator<Item = Ipv4Addr> {
        self.iter_from(0)
    }

    /// All addresses in order, without the first `skip`.
    pub fn iter_from(self, skip: u64) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = (u64::from(u32::from(self.first)), u64::from(u32::from(self.last)));
        let after = first.saturating_add(skip)..=last;
        after.filter_map(|address| u32::try_from(address).ok().map(Ipv4Addr::from))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let Some((first, last)) = word.split_once('-') else {
            return Ok(Self::hosts(word.parse()?));
        };
        let parse = |end: &str| {
            end.trim().parse::<Ipv4Addr>().map_err(|_| {
                format!(
                    "\"{word}\" is not a range of IPv4 addresses; write it like \"10.200.0.1-10.200.0.99\""
                )
            })
        };
        let range = Self {
            first: parse(first)?,
            last: parse(last)?,
        };
        if range.first > range.last {
            return Err(format!(
                "\"{word}\" ends before it begins; write \"{}-{}\"",
                range.last, range.first
            ));
        }
        Ok(range)
    }
}

/// Derives serde through `FromStr` and `Display`, so that a parser's fault carries the file's line.
macro_rules! serde_as_word {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                word.parse().map_err(D::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(crate) use serde_as_word;
serde_as_word!(Prefix, AddressRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_shows_as_it_is_written() {
        for word in ["10.0.0.0/8", "192.168.1.10", "0.0.0.0/0"] {
            assert_eq!(word.parse::<Prefix>().expect(word).to_string(), word);
        }
        assert_eq!(
            "192.168.1.10/32".parse::<Prefix>().expect("host").to_string(),
            "192.168.1.10"
        );
    }

    #[test]
    fn prefix_with_host_bits_names_the_right_one() {
        let fault = "192.168.1.5/24".parse::<Prefix>().expect_err("host bits");
        assert!(fault.ends_with("write \"192.168.1.0/24\""), "{fault}");
    }

    #[test]
    fn range_of_the_whole_space_has_a_size() {
        let all: AddressRange = "0.0.0.0/0".parse().expect("prefix");
        assert_eq!(all.size(), (1 << 32) - 2);
        let three: AddressRange = "10.0.0.254-10.0.1.0".parse().expect("range");
        assert_eq!(three.iter().count() as u64, three.size());
        let hosts =
            ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.7"].map(|word| word.parse::<AddressRange>().expect(word));
        let words = hosts.map(|range| range.to_string());
        assert_eq!(
            words,
            ["10.0.0.1-10.0.0.2", "10.0.0.0-10.0.0.1", "10.0.0.7-10.0.0.7"]
        );
        assert!("10.0.0.2-10.0.0.1".parse::<AddressRange>().is_err());
    }
}

//! The log of who was given which addresses and ports (RFC 6888 REQ-12, RFC 7422): its records, and what they mean.
//!
//! One record for each address or block that a site is given or loses, not for each flow. A file of the log begins with all
//! that is held, so that older ones can be deleted. Records are in the order of their numbers; their times are those of a
//! clock that may be set back, which is why [`who`] may have more than one answer.
mod who;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::journal::utc;
use super::pools::Change;
use super::sites::Sites;
use crate::config::{PortBlock, Protocol, Publication};

pub use who::{Answer, Found, Question, who};

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1; a missing number is a lost record.
    pub sequence: u64,
    /// When.
    pub time: Time,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A file of the log begins; so many [`Event::Held`] follow, and nothing else is held.
    File {
        /// How many.
        held: u64,
    },
    /// What a site holds still, from an earlier file.
    Held(Holding),
    /// A site was given something, and may use it from now on.
    Assigned(Holding),
    /// A site has lost something; nothing of it is in use any more.
    Released(Holding),
    /// The daemon started.
    Started {
        /// Its version.
        version: String,
    },
    /// The daemon stopped.
    Stopped,
    /// The clock was set.
    ClockSet {
        /// What it showed just before.
        before: Time,
    },
}

/// Who holds what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Number of the site.
    pub site: u32,
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub block: Block,
}

/// [`PortBlock`] among other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// The address.
    pub address: std::net::Ipv4Addr,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// Number of the only protocol whose ports they are, where they are published; otherwise all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
}

impl Block {
    /// Whether some port of some protocol is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        PortBlock::from(*self).overlaps(&PortBlock::from(*other))
            && (self.protocol.is_none() || other.protocol.is_none() || self.protocol == other.protocol)
    }
}

/// `10.200.0.1:2048-4095`, `10.201.255.1:8443/tcp`.
impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = PortBlock::from(*self);
        match self.protocol {
            None => ports.fmt(formatter),
            Some(protocol) => {
                let (address, port) = (self.address, self.first_port);
                write!(formatter, "{address}:{port}/{}", Protocol(protocol))
            }
        }
    }
}

impl From<PortBlock> for Block {
    fn from(block: PortBlock) -> Self {
        Self {
            address: block.address,
            first_port: block.first_port,
            last_port: block.last_port,
            protocol: None,
        }
    }
}

impl From<Block> for PortBlock {
    fn from(block: Block) -> Self {
        Self {
            address: block.address,
            first_port: block.first_port,
            last_port: block.last_port,
        }
    }
}

/// Milliseconds since 1970, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&utc(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let timestamp: Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(u64::try_from(timestamp.as_millisecond()).unwrap_or(0)))
    }
}

impl From<&Change> for Event {
    fn from(change: &Change) -> Self {
        let holding = Holding {
            site: change.site,
            name: change.name.clone(),
            block: change.block.into(),
        };
        match change.given {
            true => Self::Assigned(holding),
            false => Self::Released(holding),
        }
    }
}

/// What sites hold, and what of them is published: it has an outside address of its own.
pub fn holdings(sites: &Sites) -> impl Iterator<Item = Holding> {
    let assigned = sites.assignments().iter().flat_map(|(name, held)| {
        held.blocks.iter().map(move |block| Holding {
            site: held.site,
            name: name.to_owned(),
            block: (*block).into(),
        })
    });
    assigned.chain(
        sites
            .publications()
            .map(|(_, site, publication)| published(site, publication)),
    )
}

/// What a publication gives a site.
#[must_use]
pub fn published(site: u32, publication: &Publication) -> Holding {
    let address = publication.on.address;
    let block = match (publication.port, publication.on.port) {
        (Some((transport, _)), Some(port)) => Block {
            address,
            first_port: port,
            last_port: port,
            protocol: Some(transport.number()),
        },
        (Some(_) | None, _) => PortBlock::whole(address).into(),
    };
    Holding {
        site,
        name: publication.site.clone(),
        block,
    }
}

/// What is held after some records.
#[derive(Clone, Debug, Default)]
pub struct Held {
    open: BTreeMap<Block, Holding>,
    /// Of the file that has just begun: what it says of what was held, and how many it is still to name.
    beginning: Option<(BTreeMap<Block, Holding>, u64)>,
    /// Number of the last record.
    pub sequence: u64,
}

impl Held {
    /// Takes the next record.
    pub fn apply(&mut self, record: &Record) {
        self.sequence = record.sequence;
        match &record.event {
            Event::File { held } => self.begin(*held),
            Event::Held(holding) => {
                if let Some((named, left)) = &mut self.beginning {
                    named.insert(holding.block, holding.clone());
                    *left = left.saturating_sub(1);
                }
                self.end_of_beginning();
            }
            Event::Assigned(holding) => {
                self.open.insert(holding.block, holding.clone());
            }
            Event::Released(holding) => {
                self.open.remove(&holding.block);
            }
            Event::Started { .. } | Event::Stopped | Event::ClockSet { .. } => {}
        }
    }

    fn begin(&mut self, held: u64) {
        self.beginning = Some((BTreeMap::new(), held));
        self.end_of_beginning();
    }

    fn end_of_beginning(&mut self) {
        if let Some((named, _)) = self.beginning.take_if(|(_, left)| *left == 0) {
            self.open = named;
        }
    }

    /// What is held.
    pub fn iter(&self) -> impl Iterator<Item = &Holding> {
        self.open.values()
    }

    /// What has to be logged so that the log says that this is held and nothing else: after a crash between log and state,
    /// after a change of the configuration, or when there was no log before. What is taken away comes first.
    #[must_use]
    pub fn reconcile(&self, holdings: impl IntoIterator<Item = Holding>) -> Vec<Event> {
        let held: BTreeMap<Block, Holding> = holdings
            .into_iter()
            .map(|holding| (holding.block, holding))
            .collect();
        let gone = self.open.values().filter(|old| held.get(&old.block) != Some(old));
        let come = held.values().filter(|new| self.open.get(&new.block) != Some(new));
        gone.cloned()
            .map(Event::Released)
            .chain(come.cloned().map(Event::Assigned))
            .collect()
    }
}

#[cfg(test)]
mod tests;

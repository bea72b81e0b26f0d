//! Both ends of what is measured: where load comes from, and where arrivals are counted.

use anyhow::Result;
use xtask::lab::line::Line;
use xtask::lab::topology::{Node, Site as Place};
use xtask::traffic;

use crate::live::Live;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generator {
    /// A program of ours, of live frames.
    Live,
    /// Packet sockets.
    Line,
}

/// The site's router and the center.
pub(crate) struct Ends {
    place: Place,
    pub(crate) generator: Generator,
    pub(crate) live: Live,
    pub(crate) to_center: Line,
    pub(crate) to_site: Line,
    /// Ethernet addresses from the center to the gateway.
    pub(crate) center_link: [u8; 12],
}

impl Ends {
    pub(crate) fn open(place: Place, generator: Generator) -> Result<Self> {
        let to_site = Line::open(Node::Center, "eth0")?;
        let gateway = Line::open(Node::Gateway, "core")?.address();
        let mut center_link = [0; 12];
        center_link[..6].copy_from_slice(&gateway);
        center_link[6..].copy_from_slice(&to_site.address());
        Ok(Self {
            place,
            generator,
            live: Live::load(&[(place.router(), "wan"), (Node::Center, "eth0")])?,
            to_center: Line::open(place.router(), "wan")?,
            to_site,
            center_link,
        })
    }

    /// Packets that have arrived so far: in the center, and at the site's router.
    pub(crate) fn arrived(&self) -> Result<[u64; 2]> {
        Ok([
            traffic::received(Node::Center, "eth0")?,
            traffic::received(self.place.router(), "wan")?,
        ])
    }
}

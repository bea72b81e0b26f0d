//! The way to the peer of a tunnel.

use std::net::IpAddr;

use super::netlink::{ResolveError, Resolver};

/// Where the packets of a tunnel leave to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHop {
    /// Egress interface.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Its MTU, in octets of IP.
    pub mtu: u16,
    /// Its MAC address.
    pub source_mac: [u8; 6],
    /// MAC address of the peer, or of the router to it.
    pub destination_mac: [u8; 6],
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
}

impl Resolver {
    /// Finds the way to `remote`. A neighbour that is not known yet is asked for, which may take seconds.
    ///
    /// # Errors
    /// [`ResolveError`] says what is missing.
    pub async fn resolve(&self, remote: IpAddr) -> Result<PeerHop, ResolveError> {
        let route = self.route(remote).await?;
        let link = self.link(route.ifindex).await?;
        let ifindex = route.ifindex;
        let source_mac = link.mac.ok_or(ResolveError::NotEthernet { remote, ifindex })?;
        let destination_mac = self.mac(ifindex, route.neighbour).await?;
        Ok(PeerHop {
            ifindex,
            interface: link.name,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            source_mac,
            destination_mac,
            source: route.source,
        })
    }
}

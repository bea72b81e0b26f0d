//! What the controller asks of the data plane. XDP with AF_XDP workers is behind it today (`super::xdp`).
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::MutexGuard;

use gateway_common::abi::event::Event;
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::site::Site;
use gateway_ike::{ChildSaInstall, Direction};

use crate::api::view;
use crate::core::classifier::Generation;
use crate::core::names::Write;
use crate::dataplane::{LostInterface, Published, Traces};

/// Traffic of a pair of SAs since it was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaTraffic {
    /// Received, authentic and inside the selectors.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Sent.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Received and refused by the replay window.
    pub replayed: u64,
    /// Received with a wrong ICV.
    pub unauthentic: u64,
    /// Received and refused for another reason.
    pub refused: u64,
    /// Sequence numbers left to send with.
    pub sequence_left: u64,
}

/// Counters and sizes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Tracked connections.
    pub flows: u64,
    /// NAT mappings.
    pub mappings: u64,
    /// Reason number and packets, of reasons that occurred.
    pub drops: Vec<(u32, u64)>,
    /// What happened to packets that were not dropped.
    pub paths: Vec<view::PathCounter>,
    /// Interfaces with a role, as they are attached.
    pub interfaces: Vec<view::Interface>,
    /// ESP workers.
    pub workers: usize,
    /// Packets that workers forwarded by themselves.
    pub forwarded_directly: u64,
}

/// The tables on whatever thread, as they are while they are read: what comes or goes meanwhile is seen or not.
pub trait Reader: Send {
    /// Sees every flow.
    fn flows(&self, see: &mut dyn FnMut(FlowKey, Flow));

    /// Sees every NAT mapping.
    fn mappings(&self, see: &mut dyn FnMut(InsideKey, Mapping));

    /// Every outside that is not free for a new mapping, those of mappings that have ended but are held too.
    fn outsides(&self) -> Vec<OutsideKey>;

    /// Ends the flows that are refused, some of all in each turn. Those that a sweep takes back are among them. Answers how
    /// many; they are not all, if there was no turn any more.
    ///
    /// # Errors
    /// If the table cannot be written.
    fn end_refused<'a>(
        &self,
        is_refused: &dyn Fn(&FlowKey, &Flow) -> bool,
        turn: &dyn Fn() -> Option<MutexGuard<'a, ()>>,
    ) -> anyhow::Result<usize>;
}

/// The data plane.
#[expect(
    async_fn_in_trait,
    reason = "the controller runs on one task and is generic over its engine"
)]
pub trait Engine {
    /// Its name of an installed Child SA.
    type Handle: Copy + Eq + std::hash::Hash;

    /// Replaces what is known of sites.
    ///
    /// # Errors
    /// If the tables cannot hold them; what was known stays.
    fn set_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()>;

    /// Adds sites to those that are known.
    ///
    /// # Errors
    /// If the tables cannot hold them.
    fn add_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()>;

    /// Publishes these as well; what is published already stays.
    ///
    /// # Errors
    /// If the tables cannot hold them.
    fn publish(&mut self, published: &[Published]) -> anyhow::Result<()>;

    /// Puts a generation of rules in force: a packet sees the old one or the new one, and none the old one once this
    /// returns. Next hops to `hosts` are resolved ahead.
    ///
    /// # Errors
    /// If the kernel refuses it; the old generation stays.
    fn load_rules(&mut self, generation: &Generation, hosts: BTreeSet<Ipv4Addr>) -> anyhow::Result<()>;

    /// Sets `rules` counters from `base` on to zero; the generation in force does not count there.
    ///
    /// # Errors
    /// If the counters cannot be written.
    fn reset_rule_hits(&mut self, base: u32, rules: u32) -> anyhow::Result<()>;

    /// Installs both directions of a Child SA, with the names of those beside it; when it returns, packets on it are
    /// accepted.
    ///
    /// # Errors
    /// If there is no way to the peer or no room.
    async fn install(
        &mut self,
        install: &ChildSaInstall,
        beside: Vec<Self::Handle>,
    ) -> anyhow::Result<Self::Handle>;

    /// Sends on this Child SA from now on, and on those beside it which it has sent on until now.
    ///
    /// # Errors
    /// If the kernel refuses it.
    fn activate_outbound(&mut self, handle: Self::Handle, beside: &[Self::Handle]) -> anyhow::Result<()>;

    /// Sends a Child SA between other outer addresses from now on, and receives it there. Where the way to the peer
    /// has yet to be found, it follows as soon as it is.
    ///
    /// # Errors
    /// If the data plane is stopped.
    fn update(
        &mut self,
        handle: Self::Handle,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> anyhow::Result<()>;

    /// Removes one or both directions.
    ///
    /// # Errors
    /// If the kernel refuses it.
    fn remove(&mut self, handle: Self::Handle, direction: Direction) -> anyhow::Result<()>;

    /// Messages to this SPI of ours, which stands on an IKE SA now or does no more, pass whatever else comes in the name of the
    /// peer's address.
    ///
    /// # Errors
    /// If it has no place: they pass as long as the address has not sent too much.
    fn set_ike_spi(&mut self, spi: u64, stands: bool) -> anyhow::Result<()>;

    /// Traffic of a Child SA; `None` if it is not installed.
    fn traffic(&self, handle: Self::Handle) -> Option<SaTraffic>;

    /// The tables for another thread, however long that takes.
    ///
    /// # Errors
    /// If there are none (any more).
    fn reader(&self) -> anyhow::Result<Box<dyn Reader>>;

    /// Opens addresses to rules that name Internet sites, or closes them (`None`). When it returns, packets to an open
    /// address pass; it is closed at its time whether or not somebody says so.
    ///
    /// # Errors
    /// If the table cannot be written.
    fn write_names(&mut self, writes: &[Write]) -> anyhow::Result<()>;

    /// The site that has a flow of this protocol from a translated address and port to a server.
    fn site_of(&self, protocol: u8, client: SocketAddrV4, server: SocketAddrV4) -> Option<u32>;

    /// Every outside that is not free for a new mapping, those of mappings that have ended but are held too.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn outsides(&self) -> anyhow::Result<Vec<OutsideKey>>;

    /// Hits of `rules` rules whose counters begin at `base`.
    ///
    /// # Errors
    /// If the counters cannot be read.
    fn rule_hits(&self, base: u32, rules: u32) -> anyhow::Result<Vec<u64>>;

    /// Counters and sizes.
    ///
    /// # Errors
    /// If they cannot be read.
    fn tables(&self) -> anyhow::Result<Tables>;

    /// The clock of flows and mappings, in seconds.
    fn now_s(&self) -> u32;

    /// Forgets flows and mappings that timed out, without waiting for it; called once a second.
    ///
    /// # Errors
    /// If the kernel refuses it.
    async fn tend(&mut self) -> anyhow::Result<()>;

    /// The number of a worker that has stood still for ten seconds; asked once a second.
    fn standing_worker(&self) -> Option<usize>;

    /// Interfaces that are gone, or have a successor of their name; asked once a second.
    fn lost_interfaces(&self) -> Vec<LostInterface>;

    /// What happened since the last call; asked ten times a second.
    async fn poll(&mut self) -> Vec<Happening<Self::Handle>>;

    /// Traces packets of this site, of every site ([`EVERY_SITE`](gateway_common::abi::trace::EVERY_SITE)), or with zero of
    /// none.
    ///
    /// # Errors
    /// If the kernel refuses it.
    fn set_trace(&mut self, site: u32) -> anyhow::Result<()>;

    /// What was traced since the last call, and the present time on its clock.
    fn traces(&mut self) -> (Traces, u64);

    /// Detaches and frees everything.
    async fn stop(&mut self);
}

/// What the data plane has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening<H> {
    /// Of the packet path.
    Packet(Event),
    /// The first authentic packet on a Child SA: the peer uses it.
    FirstInbound(H),
    /// An authentic packet, newer than all before, came from another outer address or port.
    PeerMoved(H, SocketAddr),
    /// Sequence numbers run out.
    SequenceNear(H),
}

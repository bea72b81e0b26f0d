//! The engine that is there today: XDP programs with AF_XDP workers, which may forward by themselves.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use anyhow::{Context as _, bail};
use gateway_common::abi::event::kind;
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::site::Site;
use gateway_common::abi::usage;
use gateway_esp::{
    KeyMaterial, LinkHeader, OuterDf, PortRange, REPLAY_WINDOW_DEFAULT, Suite, Tunnel, UdpEncap,
};
use gateway_ike::crypto::cipher::Integrity;
use gateway_ike::{ChildSaInstall, Direction, EspSuite, TrafficSelector};

use super::engine::{Engine, Happening, Reader, SaTraffic, Tables};
use super::sockets::{Datagram, DatagramQueue};
use super::sweeper::Sweeper;
use super::ways::{Way, Ways};
use crate::api::view;
use crate::config::{self, Config, Role};
use crate::core::classifier::Generation;
use crate::core::directions::Directions;
use crate::core::names::Write;
use crate::dataplane::{
    self, AttachMode, Dataplane, DataplaneConfig, DataplaneEvent, HoldDown, IkeDatagram, InterfaceConfig,
    LostInterface, Published, SaHandle, SaInstall, ServiceLink, ServiceSockets, TableSizes, Traces,
    WorkerReport, monotonic_s,
};

/// Where the pins of gateways stand, a folder each.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Flows and mappings are swept every so many ticks.
const SWEEP_TICKS: u32 = 5;

/// XDP programs, workers and the ways out.
pub(super) struct Xdp {
    /// `None` once stopped.
    dataplane: Option<Arc<Dataplane>>,
    ways: Ways,
    ticks: u32,
    sweeper: Sweeper,
    service: Option<Service>,
}

/// What leads to the DNS proxy.
struct Service {
    link: ServiceLink,
    /// Until the proxy takes them.
    sockets: Option<ServiceSockets>,
}

impl Xdp {
    /// Attaches to the configured interfaces; nothing passes until sites and rules are set. IKE that comes in IP fragments
    /// goes to `datagrams`.
    ///
    /// # Errors
    /// What is missing and where.
    pub(super) async fn start(config: &Config, datagrams: DatagramQueue) -> anyhow::Result<Self> {
        let service = match &config.dns {
            Some(dns) => {
                let (link, sockets) = ServiceLink::create(DataplaneConfig::SERVICE_LINK, dns.listen)?;
                Some(Service {
                    link,
                    sockets: Some(sockets),
                })
            }
            None => None,
        };
        let mut dataplane = dataplane_config(config);
        // To the packet path, the proxy is a host of the center behind an interface of its own.
        dataplane
            .interfaces
            .extend(service.iter().map(|service| InterfaceConfig {
                name: service.link.outer.clone(),
                role: dataplane::Role::Core,
            }));
        let dataplane = Arc::new(Dataplane::start(&dataplane)?);
        dataplane.receive_ike(move |datagram| {
            let IkeDatagram {
                local,
                remote,
                payload,
            } = datagram;
            datagrams.push(Datagram {
                local,
                remote,
                payload,
            });
        });
        let ranges: Vec<_> = Directions::new(config)
            .ranges()
            .into_iter()
            .map(|(first, last, direction)| (first, last, direction.number()))
            .collect();
        dataplane.set_directions(&ranges)?;
        let core = dataplane
            .attached()
            .iter()
            .filter(|attached| attached.role != dataplane::Role::Wan)
            .map(|attached| attached.index)
            .collect();
        let fixed = config.dns.iter().zip(&service);
        let fixed = fixed.map(|(dns, service)| (dns.listen, service.link.hop));
        let ways =
            Ways::follow(Arc::clone(&dataplane), core, fixed.collect()).context("routes and neighbours")?;
        Ok(Self {
            dataplane: Some(dataplane),
            ways,
            ticks: 0,
            sweeper: Sweeper::default(),
            service,
        })
    }

    /// The sockets that sites reach the DNS proxy at; `None` if there is none, or they were taken.
    pub(super) fn take_service(&mut self) -> Option<ServiceSockets> {
        self.service.as_mut()?.sockets.take()
    }

    fn dataplane(&self) -> anyhow::Result<&Arc<Dataplane>> {
        self.dataplane.as_ref().context("the data plane is stopped")
    }
}

impl Engine for Xdp {
    type Handle = SaHandle;

    fn set_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()> {
        Ok(self.dataplane()?.set_sites(sites)?)
    }

    fn add_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()> {
        Ok(self.dataplane()?.add_sites(sites)?)
    }

    fn publish(&mut self, published: &[Published]) -> anyhow::Result<()> {
        Ok(self.dataplane()?.publish(published)?)
    }

    fn load_rules(&mut self, generation: &Generation, hosts: BTreeSet<Ipv4Addr>) -> anyhow::Result<()> {
        self.dataplane()?.load_rules(generation.chunks())?;
        self.ways.want(hosts);
        Ok(())
    }

    fn reset_rule_hits(&mut self, base: u32, rules: u32) -> anyhow::Result<()> {
        Ok(self.dataplane()?.reset_rule_hits(base, rules)?)
    }

    async fn install(&mut self, install: &ChildSaInstall, beside: Vec<SaHandle>) -> anyhow::Result<SaHandle> {
        let remote = install.remote.ip();
        let hop = self.ways.to(remote).await?;
        let udp = install.udp_encap.then(|| UdpEncap {
            local_port: install.local.port(),
            remote_port: install.remote.port(),
        });
        let way = Way {
            site: install.site,
            interface: hop.interface.clone(),
            tunnel: Tunnel {
                local: install.local.ip(),
                remote,
                udp,
                link: LinkHeader {
                    // Until the neighbour answers, frames go to our own address: no switch forwards them back to the
                    // port that they came from.
                    destination: hop.destination_mac.unwrap_or(hop.source_mac),
                    source: hop.source_mac,
                },
                mtu: self
                    .ways
                    .mtu(install.site, (install.local.ip(), remote), udp, hop.mtu),
                df: OuterDf::Set,
            },
            stale: hop.destination_mac.is_none(),
        };
        let sa = sa_install(install, beside, &way)?;
        let handle = self.dataplane()?.install_sa(sa)?;
        self.ways.add(handle, way);
        Ok(handle)
    }

    fn activate_outbound(&mut self, handle: SaHandle, beside: &[SaHandle]) -> anyhow::Result<()> {
        Ok(self.dataplane()?.activate_outbound(handle, beside)?)
    }

    fn update(
        &mut self,
        handle: SaHandle,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> anyhow::Result<()> {
        self.dataplane()?;
        let udp = udp_encap.then(|| UdpEncap {
            local_port: local.port(),
            remote_port: remote.port(),
        });
        self.ways.move_peer_to(handle, local.ip(), remote.ip(), udp);
        Ok(())
    }

    fn remove(&mut self, handle: SaHandle, direction: Direction) -> anyhow::Result<()> {
        let dataplane = self.dataplane()?;
        if direction != Direction::Inbound {
            self.ways.remove(handle);
        }
        let direction = match direction {
            Direction::Inbound => dataplane::Direction::Inbound,
            Direction::Outbound => dataplane::Direction::Outbound,
            Direction::Both => dataplane::Direction::Both,
        };
        Ok(dataplane.remove_sa(handle, direction)?)
    }

    fn set_ike_spi(&mut self, spi: u64, stands: bool) -> anyhow::Result<()> {
        Ok(self.dataplane()?.set_ike_spi(spi, stands)?)
    }

    fn traffic(&self, handle: SaHandle) -> Option<SaTraffic> {
        let stats = self.dataplane.as_ref()?.sa_stats(handle)?;
        Some(SaTraffic {
            packets_in: stats.packets_in,
            bytes_in: stats.bytes_in,
            packets_out: stats.packets_out,
            bytes_out: stats.bytes_out,
            replayed: stats.replayed,
            unauthentic: stats.unauthentic,
            refused: stats.refused,
            sequence_left: stats.sequence_left,
        })
    }

    fn reader(&self) -> anyhow::Result<Box<dyn Reader>> {
        Ok(Box::new(self.dataplane()?.reader()))
    }

    fn write_names(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        self.dataplane()?.write_names(writes)?;
        // The first packet follows at once: its next hop is looked for now.
        for (address, _) in writes.iter().filter(|(_, open)| open.is_some()) {
            self.ways.ask(*address, 0);
        }
        Ok(())
    }

    fn site_of(&self, protocol: u8, client: SocketAddrV4, server: SocketAddrV4) -> Option<u32> {
        self.dataplane.as_ref()?.site_of(protocol, client, server)
    }

    fn outsides(&self) -> anyhow::Result<Vec<OutsideKey>> {
        Ok(self.dataplane()?.outsides())
    }

    fn rule_hits(&self, base: u32, rules: u32) -> anyhow::Result<Vec<u64>> {
        let counters = self.dataplane()?.rule_hits(base, rules);
        Ok(counters.iter().map(|counter| counter.packets).collect())
    }

    fn tables(&self) -> anyhow::Result<Tables> {
        let dataplane = self.dataplane()?;
        let path = |(path, counter): (&'static str, gateway_common::abi::stats::Counter)| view::PathCounter {
            path: path.to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
        };
        // As the programs count them: the tables are not gone through for it.
        let [flows, _, mappings] = dataplane.used(usage::TOTAL);
        Ok(Tables {
            flows,
            mappings,
            drops: dataplane
                .drops()
                .into_iter()
                .map(|(reason, packets)| (reason as u32, packets))
                .collect(),
            paths: dataplane.paths().into_iter().map(path).collect(),
            interfaces: dataplane.attached().iter().map(interface_view).collect(),
            workers: dataplane.worker_stats().len(),
            forwarded_directly: dataplane.forwarded_directly().packets,
        })
    }

    fn now_s(&self) -> u32 {
        u32::try_from(monotonic_s()).unwrap_or(u32::MAX)
    }

    fn standing_worker(&self) -> Option<usize> {
        self.dataplane.as_ref()?.standing_worker()
    }

    fn lost_interfaces(&self) -> Vec<LostInterface> {
        self.dataplane
            .as_ref()
            .map_or_else(Vec::new, |dataplane| dataplane.lost_interfaces())
    }

    async fn tend(&mut self) -> anyhow::Result<()> {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            let now_s = self.now_s();
            let dataplane = Arc::clone(self.dataplane()?);
            if let Err(error) = dataplane.keep_forwarding_off() {
                tracing::error!(%error, "the kernel forwards between the gateway's interfaces");
            }
            self.sweeper.begin(move || {
                if let Err(error) = dataplane.expire(now_s) {
                    tracing::error!(%error, "flows and mappings not swept");
                }
            })?;
        }
        Ok(())
    }

    async fn poll(&mut self) -> Vec<Happening<SaHandle>> {
        let Some(dataplane) = &self.dataplane else {
            return Vec::new();
        };
        let mut happened = Vec::new();
        for event in dataplane.events() {
            match event {
                DataplaneEvent::Packet(event) => {
                    if event.kind == kind::NEXT_HOP_MISSING {
                        self.ways.ask(Ipv4Addr::from(event.destination), event.site);
                    }
                    if event.kind == kind::PATH_MTU
                        && let Some(handle) = dataplane.sa_of_path(event.rule, event.source)
                        && let Ok(mtu) = u16::try_from(event.generation)
                    {
                        self.ways.lower(dataplane, handle, mtu);
                    }
                    happened.push(Happening::Packet(event));
                }
                DataplaneEvent::Worker(WorkerReport::FirstInbound(handle)) => {
                    happened.push(Happening::FirstInbound(handle));
                }
                DataplaneEvent::Worker(WorkerReport::SequenceNear(handle)) => {
                    happened.push(Happening::SequenceNear(handle));
                }
                DataplaneEvent::Worker(WorkerReport::PeerMoved { handle, source, port }) => {
                    happened.push(Happening::PeerMoved(handle, SocketAddr::new(source, port)));
                }
            }
        }
        happened
    }

    fn set_trace(&mut self, site: u32) -> anyhow::Result<()> {
        Ok(self.dataplane()?.set_trace(site)?)
    }

    fn traces(&mut self) -> (Traces, u64) {
        self.dataplane
            .as_ref()
            .map_or_else(Default::default, |dataplane| {
                (dataplane.traces(), dataplane.trace_clock_ns())
            })
    }

    async fn stop(&mut self) {
        self.ways.stop().await;
        self.sweeper.finish();
        let Some(dataplane) = self.dataplane.take() else {
            return;
        };
        match Arc::try_unwrap(dataplane) {
            Ok(dataplane) => dataplane.stop(),
            // The programs stay attached and drop: closed all the same.
            Err(_) => tracing::error!("the data plane is still in use and stays attached"),
        }
        if let Some(service) = self.service.take() {
            service.link.remove();
        }
    }
}

impl Reader for dataplane::Reader {
    fn flows(&self, see: &mut dyn FnMut(FlowKey, Flow)) {
        Self::flows(self).for_each(|(key, flow)| see(key, flow));
    }

    fn mappings(&self, see: &mut dyn FnMut(InsideKey, Mapping)) {
        Self::mappings(self).for_each(|(key, mapping)| see(key, mapping));
    }

    fn outsides(&self) -> Vec<OutsideKey> {
        Self::outsides(self)
    }

    fn end_refused<'a>(
        &self,
        is_refused: &dyn Fn(&FlowKey, &Flow) -> bool,
        turn: &dyn Fn() -> Option<MutexGuard<'a, ()>>,
    ) -> anyhow::Result<usize> {
        Ok(Self::end_refused(self, is_refused, turn))
    }
}

fn dataplane_config(config: &Config) -> DataplaneConfig {
    let interface = |interface: &crate::config::Interface| InterfaceConfig {
        name: interface.name.clone(),
        role: match interface.role {
            Role::Wan => dataplane::Role::Wan,
            Role::Core => dataplane::Role::Core,
            Role::Internet => dataplane::Role::Internet,
        },
    };
    let (timeouts, nat, limits) = (&config.timeouts, &config.nat, &config.limits);
    DataplaneConfig {
        interfaces: config.interfaces.iter().map(interface).collect(),
        bpffs_dir: Path::new(BPF_FILE_SYSTEM)
            .join(dataplane::bpffs_name(&format!("gateway-{}", config.name))),
        clear_link_prefix: DataplaneConfig::CLEAR_LINK_PREFIX.to_owned(),
        workers: config.workers,
        pin_cores: Vec::new(),
        settings: Settings {
            idle_s: timeouts.by_state(),
            ike_per_source_per_s: limits.ike_per_source_per_s,
            port_low: nat.port_low,
            port_high: nat.port_high,
            nat_flags: nat.flags(),
            flows_max: limits.flows,
            site_flows_max: limits.site_flows,
            site_new_flows_per_s: limits.site_new_flows_per_s,
            site_half_open_max: limits.site_half_open,
            site_mappings_max: limits.site_mappings,
            mss_max: config.network.mss_max(),
            pad: 0,
            trace_site: 0,
            site_answers_per_s: limits.site_answers_per_s,
        },
        tables: TableSizes {
            flows: limits.flows,
            mappings: limits.mappings,
        },
        hold_down: HoldDown {
            hold_s: nat.hold_down_s,
            site_ports_max: nat.hold_down_ports,
        },
        engine: match config.engine {
            config::Engine::Xdp => dataplane::Engine::Xdp,
            config::Engine::Direct => dataplane::Engine::Direct,
        },
        frames_per_worker: DataplaneConfig::FRAMES_PER_WORKER,
    }
}

fn interface_view(attached: &dataplane::Attached) -> view::Interface {
    let role = match attached.role {
        dataplane::Role::Wan => "wan",
        dataplane::Role::Core => "core",
        dataplane::Role::Internet => "internet",
    };
    let xdp = match attached.mode {
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
    };
    view::Interface {
        name: attached.name.clone(),
        role: role.to_owned(),
        xdp: xdp.to_owned(),
        queues: attached.queues,
        zero_copy: attached.zero_copy,
    }
}

fn sa_install(install: &ChildSaInstall, beside: Vec<SaHandle>, way: &Way) -> anyhow::Result<SaInstall> {
    let keys = |keys: &gateway_ike::KeyMaterial| KeyMaterial::new(&keys.encryption, &keys.integrity);
    let selectors =
        |selectors: &[TrafficSelector]| selectors.iter().map(selector).collect::<anyhow::Result<_>>();
    Ok(SaInstall {
        site: install.site,
        spi_in: install.spi_in,
        spi_out: install.spi_out,
        suite: suite(install.suite)?,
        keys_in: keys(&install.keys_in),
        keys_out: keys(&install.keys_out),
        esn: install.esn,
        replay_window: REPLAY_WINDOW_DEFAULT,
        udp_encap: way.tunnel.udp,
        local: way.tunnel.local,
        remote: way.tunnel.remote,
        interface: way.interface.clone(),
        link: way.tunnel.link,
        ts_local: selectors(&install.ts_local)?,
        ts_remote: selectors(&install.ts_remote)?,
        outbound_active: install.outbound_active,
        beside,
        path_mtu: way.tunnel.mtu,
    })
}

fn suite(suite: EspSuite) -> anyhow::Result<Suite> {
    Ok(match suite {
        EspSuite::AesGcm16 { key_bits: 128 } => Suite::AesGcm16_128,
        EspSuite::AesGcm16 { key_bits: 256 } => Suite::AesGcm16_256,
        EspSuite::AesCbcHmac {
            key_bits: 128,
            integrity,
        } => match integrity {
            Integrity::HmacSha256 => Suite::AesCbc128HmacSha256_128,
            Integrity::HmacSha384 => Suite::AesCbc128HmacSha384_192,
            Integrity::HmacSha512 => Suite::AesCbc128HmacSha512_256,
        },
        EspSuite::AesCbcHmac {
            key_bits: 256,
            integrity,
        } => match integrity {
            Integrity::HmacSha256 => Suite::AesCbc256HmacSha256_128,
            Integrity::HmacSha384 => Suite::AesCbc256HmacSha384_192,
            Integrity::HmacSha512 => Suite::AesCbc256HmacSha512_256,
        },
        EspSuite::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        EspSuite::AesGcm16 { key_bits } | EspSuite::AesCbcHmac { key_bits, .. } => {
            bail!("AES keys of {key_bits} bits are not supported")
        }
    })
}

fn selector(selector: &TrafficSelector) -> anyhow::Result<gateway_esp::TrafficSelector> {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (selector.start, selector.end) else {
        bail!("traffic selector {selector} is not IPv4");
    };
    Ok(gateway_esp::TrafficSelector {
        protocol: selector.protocol,
        ports: PortRange::from_wire(selector.start_port, selector.end_port),
        first,
        last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_that_ike_may_choose_has_its_esp() {
        for words in [
            "aes128gcm16",
            "aes256gcm16",
            "aes128-sha256",
            "aes256-sha256",
            "aes128-sha384",
            "aes256-sha384",
            "aes128-sha512",
            "aes256-sha512",
            "chacha20poly1305",
        ] {
            let proposal: gateway_ike::EspProposal = words.parse().expect(words);
            assert_eq!(suite(proposal.suite).expect(words).name(), words);
        }
        assert!(suite(EspSuite::AesGcm16 { key_bits: 192 }).is_err());
        for proposal in gateway_ike::proposal::default_esp_proposals() {
            assert_eq!(
                suite(proposal.suite).expect("negotiated by default").name(),
                proposal.suite.to_string()
            );
        }
    }

    #[test]
    fn an_ipv6_selector_is_refused() {
        let any_v6 = TrafficSelector {
            protocol: 0,
            start: "::".parse().expect("address"),
            end: "ffff::".parse().expect("address"),
            start_port: 0,
            end_port: u16::MAX,
        };
        assert!(selector(&any_v6).is_err());
        assert!(selector(&TrafficSelector::any_v4()).is_ok());
    }
}

//! The engine of XDP programs and AF_XDP workers.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::nat::{InsideKey, Mapping};
use gateway_common::abi::rule::Rule;
use gateway_common::abi::site::Site;
use gateway_esp::{KeyMaterial, LinkHeader, OuterDf, PortRange, Suite, TrafficSelector, Tunnel, UdpEncap};
use gateway_ike::{ChildSaInstall, Direction, EspSuite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::engine::{Engine, Happening, SaTraffic, Tables};
use crate::api::view;
use crate::config::{self, Config};
use crate::dataplane::{
    self, Dataplane, DataplaneConfig, DataplaneEvent, InterfaceConfig, SaHandle, SaInstall, WorkerReport,
    monotonic_s,
};
use crate::nexthop::{PeerHop, Resolver, Watcher};

/// Packets in the replay window; a busy tunnel is reordered by many queues on its way.
const REPLAY_WINDOW: u32 = 4096;
/// Flows are looked through so often; timeouts are minutes.
const EXPIRE_S: u32 = 5;
/// Routes and neighbours are read again after so long even if the kernel said nothing.
const REFRESH_S: u64 = 30;
/// Core-side neighbours that packets asked for and that did not answer yet.
const WANTED_MAX: usize = 1024;
/// Prefix of the pin folder of each gateway.
const BPFFS: &str = "/sys/fs/bpf/gateway";

/// Way of an installed SA.
struct Way {
    tunnel: Tunnel,
    interface: String,
}

/// What the controller and the task that follows routes share.
struct Shared {
    dataplane: Dataplane,
    resolver: Resolver,
    ways: Mutex<BTreeMap<SaHandle, Way>>,
    /// Destinations on the core side without a next hop.
    wanted: Mutex<BTreeSet<Ipv4Addr>>,
    wake: Notify,
}

/// The engine.
pub(super) struct XdpEngine {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
    expired_s: u32,
}

/// What the data plane is started with.
pub(super) fn dataplane_config(config: &Config) -> anyhow::Result<DataplaneConfig> {
    let role = |role| match role {
        config::Role::Wan => dataplane::Role::Wan,
        config::Role::Core => dataplane::Role::Core,
    };
    let interface = |own: &config::Interface| InterfaceConfig {
        name: own.name.clone(),
        role: role(own.role),
    };
    // One pin folder a configuration: two gateways of one machine live in two network namespaces, but in one
    // BPF file system.
    let socket = std::path::absolute(&config.socket).context("path of the API socket")?;
    let id: String = socket
        .to_string_lossy()
        .chars()
        .map(|letter| if letter.is_alphanumeric() { letter } else { '_' })
        .collect();
    Ok(DataplaneConfig {
        interfaces: config.interfaces.iter().map(interface).collect(),
        bpffs_dir: std::path::Path::new(BPFFS).join(id.trim_start_matches('_')),
        clear_link_prefix: DataplaneConfig::CLEAR_LINK_PREFIX.to_owned(),
        workers: config.workers,
        pin_cores: Vec::new(),
        settings: settings(config),
        frames_per_worker: DataplaneConfig::FRAMES_PER_WORKER,
    })
}

fn settings(config: &Config) -> Settings {
    let config::Timeouts {
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        udp_s,
        icmp_s,
    } = config.timeouts;
    Settings {
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        udp_s,
        icmp_s,
        ike_per_source_per_s: config.limits.ike_per_source_per_s,
        port_low: config.nat.port_low,
        port_high: config.nat.port_high,
    }
}

impl XdpEngine {
    /// Takes a started data plane and begins to follow routes and neighbours; the first next hops of the core side
    /// stand on return.
    pub(super) async fn new(dataplane: Dataplane) -> anyhow::Result<Self> {
        for attached in dataplane.attached() {
            let (name, mode) = (&attached.name, attached.mode);
            match mode {
                dataplane::AttachMode::Native => tracing::info!(interface = name, "XDP attached natively"),
                dataplane::AttachMode::Generic => {
                    tracing::warn!(
                        interface = name,
                        "XDP attached in generic mode: the driver has no native XDP, it is slower"
                    );
                }
            }
        }
        let shared = Arc::new(Shared {
            dataplane,
            resolver: Resolver::new().context("netlink")?,
            ways: Mutex::default(),
            wanted: Mutex::default(),
            wake: Notify::new(),
        });
        let watcher = Watcher::new().context("netlink")?;
        shared.refresh_core().await;
        let follower = tokio::spawn(follow(shared.clone(), watcher));
        Ok(Self {
            shared,
            follower,
            expired_s: 0,
        })
    }
}

/// Keeps addresses, next hops and the ways of SAs as the kernel has them.
async fn follow(shared: Arc<Shared>, mut watcher: Watcher) {
    loop {
        tokio::select! {
            () = watcher.changed(Duration::from_secs(REFRESH_S)) => {
                if let Err(error) = shared.dataplane.refresh_addresses() {
                    tracing::error!(%error, "addresses of interfaces");
                }
                shared.refresh_ways().await;
            }
            () = shared.wake.notified() => {}
        }
        shared.refresh_core().await;
    }
}

impl Shared {
    fn ways(&self) -> MutexGuard<'_, BTreeMap<SaHandle, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<Ipv4Addr>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh_core(&self) {
        let attached = self.dataplane.attached().iter();
        let core: Vec<_> = attached
            .filter(|one| one.role == dataplane::Role::Core)
            .map(|one| one.index)
            .collect();
        // One that does not answer is asked for again by its next packet.
        let wanted = std::mem::take(&mut *self.wanted());
        match self.resolver.core_next_hops(&core, &wanted).await {
            Ok(hops) => {
                if let Err(error) = self.dataplane.set_next_hops(&hops) {
                    tracing::error!(%error, "next hops of the core side");
                }
            }
            Err(error) => tracing::error!(%error, "next hops of the core side"),
        }
    }

    /// Resolves the ways of all SAs again; an SA whose way changed takes the new one.
    async fn refresh_ways(&self) {
        let handles: Vec<_> = self
            .ways()
            .iter()
            .map(|(handle, way)| (*handle, way.tunnel))
            .collect();
        for (handle, tunnel) in handles {
            match self.resolver.resolve(tunnel.remote).await {
                Ok(hop) => self.take_way(
                    handle,
                    Tunnel {
                        link: link(&hop),
                        mtu: hop.mtu,
                        ..tunnel
                    },
                    hop.interface,
                ),
                // The old way may be as good as any until there is another.
                Err(error) => tracing::debug!(remote = %tunnel.remote, %error, "way to a peer"),
            }
        }
    }

    fn take_way(&self, handle: SaHandle, tunnel: Tunnel, interface: String) {
        let mut ways = self.ways();
        let Some(way) = ways.get_mut(&handle) else { return };
        if way.tunnel == tunnel && way.interface == interface {
            return;
        }
        match self.dataplane.update_path(handle, &interface, tunnel) {
            Ok(()) => *way = Way { tunnel, interface },
            Err(error) => tracing::warn!(remote = %tunnel.remote, %error, "SA keeps its old way"),
        }
    }

    /// Sends to where the peer's authentic packets come from now (RFC 7296 section 2.23).
    async fn follow_peer(&self, handle: SaHandle, source: IpAddr, port: u16) {
        let Some(tunnel) = self.ways().get(&handle).map(|way| way.tunnel) else {
            return;
        };
        // Without a NAT on the way an address that changes is not followed.
        let Some(udp) = tunnel.udp else { return };
        match self.resolver.resolve(source).await {
            Ok(hop) => {
                let udp = Some(UdpEncap {
                    remote_port: port,
                    ..udp
                });
                tracing::info!(peer = %SocketAddr::new(source, port), "peer behind a NAT has moved");
                let tunnel = Tunnel {
                    remote: source,
                    udp,
                    link: link(&hop),
                    mtu: hop.mtu,
                    ..tunnel
                };
                self.take_way(handle, tunnel, hop.interface);
            }
            Err(error) => tracing::warn!(%source, %error, "peer behind a NAT has moved out of reach"),
        }
    }
}

fn link(hop: &PeerHop) -> LinkHeader {
    LinkHeader {
        destination: hop.destination_mac,
        source: hop.source_mac,
    }
}

fn suite(suite: EspSuite) -> anyhow::Result<Suite> {
    Ok(match suite {
        EspSuite::AesGcm16 { key_bits: 128 } => Suite::AesGcm16_128,
        EspSuite::AesGcm16 { key_bits: 256 } => Suite::AesGcm16_256,
        EspSuite::AesCbcHmacSha256_128 { key_bits: 128 } => Suite::AesCbc128HmacSha256_128,
        EspSuite::AesCbcHmacSha256_128 { key_bits: 256 } => Suite::AesCbc256HmacSha256_128,
        EspSuite::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        EspSuite::AesGcm16 { .. } | EspSuite::AesCbcHmacSha256_128 { .. } => {
            anyhow::bail!("workers have no suite {suite}")
        }
    })
}

/// The IPv4 selectors of a list: inside the tunnel there is nothing else.
fn selectors(list: &[gateway_ike::TrafficSelector]) -> Vec<TrafficSelector> {
    let selector = |own: &gateway_ike::TrafficSelector| match (own.start, own.end) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some(TrafficSelector {
            protocol: own.protocol,
            ports: PortRange::from_wire(own.start_port, own.end_port),
            first,
            last,
        }),
        _ => None,
    };
    list.iter().filter_map(selector).collect()
}

fn keys(keys: &gateway_ike::KeyMaterial) -> KeyMaterial {
    KeyMaterial::new(&keys.encryption, &keys.integrity)
}

impl Engine for XdpEngine {
    type Handle = SaHandle;

    fn set_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()> {
        Ok(self.shared.dataplane.set_sites(sites)?)
    }

    fn load_rules(&mut self, generation: u32, rules: &[Rule]) -> anyhow::Result<()> {
        Ok(self.shared.dataplane.load_rules(generation, rules)?)
    }

    async fn install(&mut self, install: &ChildSaInstall) -> anyhow::Result<SaHandle> {
        let hop = self.shared.resolver.resolve(install.remote.ip()).await?;
        let udp = install.udp_encap.then(|| UdpEncap {
            local_port: install.local.port(),
            remote_port: install.remote.port(),
        });
        let link = link(&hop);
        let handle = self.shared.dataplane.install_sa(SaInstall {
            site: install.site,
            spi_in: install.spi_in,
            spi_out: install.spi_out,
            suite: suite(install.suite)?,
            keys_in: keys(&install.keys_in),
            keys_out: keys(&install.keys_out),
            esn: install.esn,
            replay_window: REPLAY_WINDOW,
            udp_encap: udp,
            local: install.local.ip(),
            remote: install.remote.ip(),
            interface: hop.interface.clone(),
            link,
            ts_local: selectors(&install.ts_local),
            ts_remote: selectors(&install.ts_remote),
            outbound_active: install.outbound_active,
            path_mtu: hop.mtu,
        })?;
        let (local, remote) = (install.local.ip(), install.remote.ip());
        let tunnel = Tunnel {
            local,
            remote,
            udp,
            link,
            mtu: hop.mtu,
            df: OuterDf::default(),
        };
        self.shared.ways().insert(
            handle,
            Way {
                tunnel,
                interface: hop.interface,
            },
        );
        Ok(handle)
    }

    fn activate_outbound(&mut self, handle: SaHandle) -> anyhow::Result<()> {
        Ok(self.shared.dataplane.activate_outbound(handle)?)
    }

    fn remove(&mut self, handle: SaHandle, direction: Direction) -> anyhow::Result<()> {
        let directions = match direction {
            Direction::Inbound => &[dataplane::Direction::Inbound][..],
            Direction::Outbound => &[dataplane::Direction::Outbound],
            // Outbound first: nothing is sent any more when nothing is received any more.
            Direction::Both => &[dataplane::Direction::Outbound, dataplane::Direction::Inbound],
        };
        if direction != Direction::Inbound {
            self.shared.ways().remove(&handle);
        }
        for direction in directions {
            self.shared.dataplane.remove_sa(handle, *direction)?;
        }
        Ok(())
    }

    fn traffic(&self) -> BTreeMap<SaHandle, SaTraffic> {
        let counters = self.shared.dataplane.sa_counters().into_iter();
        let traffic = |(handle, stats): (SaHandle, dataplane::SaStats)| {
            let dataplane::SaStats {
                packets_in,
                bytes_in,
                packets_out,
                bytes_out,
                ..
            } = stats;
            (
                handle,
                SaTraffic {
                    packets_in,
                    bytes_in,
                    packets_out,
                    bytes_out,
                },
            )
        };
        counters.map(traffic).collect()
    }

    fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.shared.dataplane.flows()
    }

    fn mappings(&self) -> Vec<(InsideKey, Mapping)> {
        self.shared.dataplane.mappings()
    }

    fn rule_hits(&self, rules: u32) -> Vec<u64> {
        self.shared
            .dataplane
            .rule_hits(rules)
            .into_iter()
            .map(|counter| counter.packets)
            .collect()
    }

    fn tables(&self) -> Tables {
        let dataplane = &self.shared.dataplane;
        let role = |role| match role {
            dataplane::Role::Wan => "wan",
            dataplane::Role::Core => "core",
        };
        let interface = |attached: &dataplane::Attached| view::Interface {
            name: attached.name.clone(),
            role: role(attached.role).to_owned(),
            xdp: attached.mode.name().to_owned(),
            queues: attached.queues,
        };
        let path = |(path, counter): (&'static str, gateway_common::abi::stats::Counter)| view::PathCounter {
            path: path.to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
        };
        Tables {
            flows: dataplane.flows().len() as u64,
            mappings: dataplane.mappings().len() as u64,
            drops: dataplane.drops(),
            paths: dataplane.paths().into_iter().map(path).collect(),
            interfaces: dataplane.attached().iter().map(interface).collect(),
            workers: dataplane.worker_stats().len(),
        }
    }

    fn drops(&self) -> Vec<(gateway_common::drop::DropReason, u64)> {
        self.shared.dataplane.drops()
    }

    fn now_s(&self) -> u32 {
        u32::try_from(monotonic_s()).unwrap_or(u32::MAX)
    }

    async fn poll(&mut self) -> Vec<Happening<SaHandle>> {
        let mut happened = Vec::new();
        for event in self.shared.dataplane.events() {
            match event {
                DataplaneEvent::Packet(event) => {
                    self.want_next_hop(&event);
                    happened.push(Happening::Packet(event));
                }
                DataplaneEvent::Worker(WorkerReport::FirstInbound(handle)) => {
                    happened.push(Happening::FirstInbound(handle));
                }
                DataplaneEvent::Worker(WorkerReport::SequenceNear(handle)) => {
                    happened.push(Happening::SequenceNear(handle));
                }
                DataplaneEvent::Worker(WorkerReport::PeerMoved { handle, source, port }) => {
                    self.shared.follow_peer(handle, source, port).await;
                }
            }
        }
        happened
    }

    fn expire(&mut self) -> anyhow::Result<()> {
        let now_s = self.now_s();
        if now_s.saturating_sub(self.expired_s) < EXPIRE_S {
            return Ok(());
        }
        self.expired_s = now_s;
        let (flows, mappings) = self.shared.dataplane.expire(now_s)?;
        if flows + mappings > 0 {
            tracing::debug!(flows, mappings, "expired");
        }
        Ok(())
    }

    async fn stop(self) {
        self.follower.abort();
        // Aborted or ended, it has let go of what is shared.
        let _ = self.follower.await;
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => shared.dataplane.stop(),
            Err(_) => tracing::error!("data plane is still in use; its programs stay attached and drop"),
        }
    }
}

impl XdpEngine {
    fn want_next_hop(&self, event: &Event) {
        if event.kind != kind::NEXT_HOP_MISSING {
            return;
        }
        let mut wanted = self.shared.wanted();
        if wanted.len() < WANTED_MAX && wanted.insert(Ipv4Addr::from(event.destination)) {
            self.shared.wake.notify_one();
        }
    }
}

//! A site of the bench: it makes its tunnel by IKE with a certificate, seals and opens by itself, and is as fast as it must
//! be to load a gateway.
//!
//! It pretends to sit behind a NAT, by naming an address to the peer that is not the one its packets come from: ESP is then in UDP
//! with every peer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use gateway_esp::{
    HEADROOM_MAX, InboundConfig, InboundSa, IvKey, KeyMaterial, LinkHeader, Opened, OutboundConfig,
    OutboundSa, OuterDf, REPLAY_WINDOW_MAX, Selectors, Suite, TAILROOM_MAX, Tunnel, UdpEncap,
};
use gateway_ike::crypto::random::SystemRandom;
use gateway_ike::pki::credential::Credential;
use gateway_ike::pki::trust::TrustAnchors;
use gateway_ike::{
    AuthenticatedPeer, Authorizer, ChildId, ChildSaInstall, Command, Connection, Direction, Endpoint,
    EndpointConfig, Event, Output, Remote, SitePolicy, Time, TrafficSelector,
};
use xtask::lab::Lab;
use xtask::lab::pki::{Auth, Pki, fqdn};
use xtask::lab::topology::{self, CENTER_NETS, Node, Options};
use xtask::traffic;

/// How long a tunnel may take.
const UP_MAX: Duration = Duration::from_secs(15);
/// A try that has had no answer is given up for a new one.
const TRY: Duration = Duration::from_millis(200);
const IKE: &str = "aes256-sha256-modp2048";
const PORTS: [u16; 2] = [500, 4500];

struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        None
    }
}

/// The site.
pub(crate) struct Site {
    site: topology::Site,
    pki: Pki,
    suite: Suite,
    endpoint: Endpoint,
    /// Of ports 500 and 4500.
    sockets: [UdpSocket; 2],
    begun: Instant,
    tried: Instant,
    link: LinkHeader,
    outbound: Option<OutboundSa>,
    /// Installed, but not to be sent on yet.
    waiting: Vec<(ChildId, OutboundSa)>,
    inbound: HashMap<u32, (ChildId, InboundSa)>,
}

impl Site {
    /// Makes the tunnel to what stands in the gateway's place.
    pub(crate) fn connect(lab: &Lab, site: topology::Site, suite: Suite) -> Result<Self> {
        let bind = |port| {
            let socket = traffic::bind(site.router(), site.router_address(lab.options()), port)?;
            traffic::stamp(&socket)?;
            anyhow::Ok(socket)
        };
        let mut connected = Self {
            site,
            suite,
            endpoint: endpoint(lab.pki(), site, suite)?,
            pki: Pki::ready()?,
            sockets: [bind(PORTS[0])?, bind(PORTS[1])?],
            begun: Instant::now(),
            tried: Instant::now(),
            link: link(site)?,
            outbound: None,
            waiting: Vec::new(),
            inbound: HashMap::new(),
        };
        connected.initiate()?;
        connected.wait_until_up()?;
        Ok(connected)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.outbound.is_some()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let started = Instant::now();
        while !self.is_up() {
            if started.elapsed() > UP_MAX {
                bail!("no tunnel with {} in {UP_MAX:?}", self.suite.name());
            }
            self.serve(|_, _| {})?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn initiate(&mut self) -> Result<()> {
        self.endpoint = endpoint(&self.pki, self.site, self.suite)?;
        self.tried = Instant::now();
        let initiate = Command::Initiate {
            connection: "c".to_owned(),
        };
        self.endpoint.handle_command(self.now()?, initiate);
        self.drain()
    }

    /// Does what is due: IKE, and ESP that has arrived, which is opened and given to `each` with the time of its arrival.
    pub(crate) fn serve(&mut self, mut each: impl FnMut(u64, &[u8])) -> Result<()> {
        let mut messages = Vec::new();
        for (socket, port) in self.sockets.iter().zip(PORTS) {
            let inbound = &mut self.inbound;
            traffic::drain(socket, |stamp, from, payload| {
                let is_esp = port == PORTS[1] && payload.get(..4).is_some_and(|spi| spi != [0; 4]);
                if !is_esp {
                    messages.extend(from.map(|from| (port, from, payload.to_vec())));
                } else if let Some(packet) = open(inbound, payload) {
                    each(stamp, packet);
                }
            })?;
        }
        let now = self.now()?;
        for (port, from, payload) in messages {
            self.endpoint
                .handle_datagram(now, named(self.site, port), from, &payload);
            self.drain()?;
        }
        if self
            .endpoint
            .poll_timeout()
            .is_some_and(|(due, _)| due <= now.mono_ms)
        {
            self.endpoint.handle_timeout(now);
            self.drain()?;
        }
        if !self.is_up() && self.tried.elapsed() > TRY {
            self.initiate()?;
        }
        Ok(())
    }

    /// Forgets what has arrived.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.serve(|_, _| {})
    }

    /// The frame that carries `inner` to the gateway.
    pub(crate) fn seal(&mut self, inner: &[u8]) -> Result<Vec<u8>> {
        let outbound = self.outbound.as_mut().context("the site has no tunnel")?;
        let place = HEADROOM_MAX..HEADROOM_MAX + inner.len();
        let mut frame = vec![0; place.end + TAILROOM_MAX];
        frame
            .get_mut(place.clone())
            .context("the packet's place")?
            .copy_from_slice(inner);
        let sealed = outbound.seal(&mut frame, place)?;
        frame.truncate(sealed.end);
        frame.drain(..sealed.start);
        Ok(frame)
    }

    fn now(&self) -> Result<Time> {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Time {
            mono_ms: u64::try_from(self.begun.elapsed().as_millis())?,
            unix_s: unix.as_secs(),
        })
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    let [ike, nat] = &self.sockets;
                    let socket = if local.port() == PORTS[1] { nat } else { ike };
                    // Nobody may be there at the moment.
                    let _refused = socket.send_to(&payload, remote);
                }
                Output::InstallChildSa(install) => self.install(&install)?,
                Output::ActivateOutbound { child, .. } => {
                    if let Some(at) = self.waiting.iter().position(|(id, _)| *id == child) {
                        self.outbound = Some(self.waiting.swap_remove(at).1);
                    }
                }
                Output::RemoveChildSa { child, direction } => {
                    if direction != Direction::Outbound {
                        self.inbound.retain(|_, (id, _)| *id != child);
                    }
                }
                Output::Event(Event::Closed { .. } | Event::ConnectionDown { .. }) => self.outbound = None,
                Output::UpdateChildSa { .. } | Output::IkeSpi { .. } | Output::Event(_) => {}
            }
        }
        Ok(())
    }

    fn install(&mut self, install: &ChildSaInstall) -> Result<()> {
        if !install.udp_encap {
            bail!("the peer has seen no NAT");
        }
        // The only one that was proposed.
        let suite = self.suite;
        let keys = |keys: &gateway_ike::KeyMaterial| KeyMaterial::new(&keys.encryption, &keys.integrity);
        let inbound = InboundSa::new(InboundConfig {
            spi: install.spi_in,
            suite,
            keys: keys(&install.keys_in),
            esn: install.esn,
            // What overload reorders or delays is to be counted too.
            replay_window: REPLAY_WINDOW_MAX,
            selectors: Selectors::any(),
        })?;
        let outbound = OutboundSa::new(OutboundConfig {
            spi: install.spi_out,
            suite,
            keys: keys(&install.keys_out),
            esn: install.esn,
            first_sequence: 1,
            iv_key: IvKey::new([7; 16]),
            selectors: Selectors::any(),
            tunnel: Tunnel {
                local: self.site.router_address(&Options::default()).parse()?,
                remote: install.remote.ip(),
                udp: Some(UdpEncap {
                    local_port: PORTS[1],
                    remote_port: install.remote.port(),
                }),
                link: self.link,
                mtu: 1500,
                df: OuterDf::Set,
            },
        })?;
        self.inbound.insert(install.spi_in, (install.child, inbound));
        if install.outbound_active {
            self.outbound = Some(outbound);
        } else {
            self.waiting.push((install.child, outbound));
        }
        Ok(())
    }
}

/// The inner packet of ESP in UDP, if it is of an SA that is there and good.
fn open<'a>(inbound: &mut HashMap<u32, (ChildId, InboundSa)>, payload: &'a mut [u8]) -> Option<&'a [u8]> {
    let spi = u32::from_be_bytes(*payload.first_chunk()?);
    let (_, sa) = inbound.get_mut(&spi)?;
    match sa.open(payload, 0) {
        Ok(Opened::Packet { inner, .. }) => payload.get(inner),
        Ok(Opened::Dummy) | Err(_) => None,
    }
}

/// What the site calls itself.
fn named(site: topology::Site, port: u16) -> SocketAddr {
    let address = match site {
        topology::Site::One => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)),
        topology::Site::Two => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2)),
    };
    SocketAddr::new(address, port)
}

fn endpoint(pki: &Pki, site: topology::Site, suite: Suite) -> Result<Endpoint> {
    let authority = Auth::Rsa.authority();
    let read = |path: std::path::PathBuf| std::fs::read(&path).with_context(|| path.display().to_string());
    let mut config = EndpointConfig::new(
        Credential::from_pem(
            &read(pki.certificate(authority, site.name()))?,
            &read(pki.key(authority, site.name()))?,
        )?,
        fqdn(site.name()).parse()?,
        TrustAnchors::from_pem(&read(pki.authority(authority))?)?,
        Box::new(Nobody),
    );
    config.ike_proposals = vec![IKE.parse()?];
    config.esp_proposals = vec![suite.name().parse()?];
    config.dpd_after_s = 86_400;
    config.ike_lifetime_s = 86_400;
    config.child_lifetime_s = 86_400;
    let subnet = |text: &str| {
        let (address, length) = text.split_once('/').context("a prefix")?;
        TrafficSelector::subnet(address.parse()?, length.parse()?).context("a prefix")
    };
    let policy = SitePolicy {
        site: 1,
        name: "gateway".to_owned(),
        ts_local: vec![subnet(topology::SITE_LAN)?],
        ts_remote: CENTER_NETS.into_iter().map(subnet).collect::<Result<_>>()?,
        esp_proposals: None,
    };
    let remote = Remote {
        local: named(site, PORTS[0]),
        address: SocketAddr::new(site.gateway_address().parse()?, PORTS[0]),
    };
    config
        .connections
        .push(Connection::new("c", remote, fqdn("gateway").parse()?, policy));
    Ok(Endpoint::new(config, Box::new(SystemRandom::new())))
}

/// The Ethernet addresses of the line between the site's router and the gateway.
fn link(site: topology::Site) -> Result<LinkHeader> {
    let interface = match site {
        topology::Site::One => "wan4",
        topology::Site::Two => "wan6",
    };
    let address = |node, interface| anyhow::Ok(xtask::lab::line::Line::open(node, interface)?.address());
    Ok(LinkHeader {
        destination: address(Node::Gateway, interface)?,
        source: address(site.router(), "wan")?,
    })
}

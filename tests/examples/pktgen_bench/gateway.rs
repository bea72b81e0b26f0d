//! The gateway's packet path by itself: the real object, with the tables that the daemon would have filled for one site.
//!
//! No worker and no daemon run: packets come in by [`IN`](crate::lane::IN) as a worker hands them to the clear link, with the link header in
//! the place of the Ethernet header, which pktgen writes as two MAC addresses.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use gateway::dataplane::TableSizes;
use gateway::dataplane::object::{EBPF, program};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::sa::LinkHeader;
use gateway_common::tables::host::HostTables;
use gateway_tests::fresh;
use gateway_tests::kernel::{Kernel, Links, monotonic};
use gateway_tests::vectors::world;
use zerocopy::IntoBytes as _;

use crate::lane::{Ends, IN, Lane, OUT, Relay};
use crate::live::{GENERATE, Live};
use crate::namespace::Namespace;
use crate::step;

/// What a site's first packet of a flow and those after it go through. The verifier takes long in a guest, and by what it
/// looks at least that can be.
const PATH: [&str; 4] = [program::CLEAR, "clear_judge", "clear_map", "clear_add"];
/// The forwarder, the relay and the sink.
const COMPARE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/compare"));
const FORWARD: &str = "compare_forward";
const RELAY: &str = "compare_relay";
const SINK: &str = "compare_sink";
const HARNESS: [&str; 3] = [FORWARD, RELAY, SINK];
/// Room for several times the flows of a case.
const SIZES: TableSizes = TableSizes {
    flows: 1 << 16,
    mappings: 1 << 16,
};
/// Room for twice the flows of a round of new ones.
const SIZES_NEW: TableSizes = TableSizes {
    flows: 1 << 18,
    mappings: 1 << 18,
};
/// Rules of the active generation; the last one allows what is generated.
const RULES: u32 = 16;
/// UDP port that is sent to.
pub(crate) const PORT: u16 = 9;
/// Which is sent to.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Which sends.
pub(crate) const TERMINAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);

/// The programs, loaded and attached.
pub(crate) struct Programs {
    path: Kernel,
    /// What stands around what is measured.
    pub(crate) harness: Harness,
    world: HostTables,
    /// The path again, with tables and sites for new flows.
    fresh: Kernel,
    fresh_world: HostTables,
}

/// The forwarder to compare with, the relay and the sink.
pub(crate) struct Harness {
    bare: Kernel,
    /// The relay again: a map has no room for all interfaces that frames are relayed to.
    lines: Kernel,
}

impl Harness {
    pub(crate) fn load() -> Result<Self> {
        let load = |wanted: &[&str]| Kernel::load_some(COMPARE, SIZES, |name| wanted.contains(&name));
        let harness = Self {
            bare: load(&HARNESS).context("the object to compare with")?,
            lines: load(&[RELAY]).context("the relay of lines")?,
        };
        step("the programs to compare with are loaded");
        Ok(harness)
    }

    /// Makes frames in memory of what a generator sends. All are in one namespace: the program knows them by their indices.
    pub(crate) fn relay(&mut self, generator: &Namespace, relay: &Relay) -> Result<()> {
        attach_relay(&mut self.bare, generator, &relay.from, &relay.to)
    }

    /// Makes frames in memory of what either end of a line sends to the other; `ends` are in the generator's namespace.
    pub(crate) fn relay_line(&mut self, generator: &Namespace, [one, other]: [&str; 2]) -> Result<()> {
        attach_relay(&mut self.lines, generator, one, other)?;
        attach_relay(&mut self.lines, generator, other, one)
    }

    /// Puts the program that drops on a sink's interface.
    pub(crate) fn end_sink(&mut self, sink: &Namespace, interface: &str) -> Result<()> {
        let index = sink.index(interface)?;
        sink.inside(|| self.bare.attach(SINK, index))?;
        Ok(())
    }
}

/// Lanes of XDP.
pub(crate) struct Lanes {
    /// Through a program that only forwards.
    pub(crate) forward: Lane,
    /// Through the gateway's `clear`.
    pub(crate) clear: Lane,
    /// The same for new flows.
    pub(crate) fresh: Lane,
}

/// What packets have left in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) flows: u64,
    pub(crate) mappings: u64,
}

impl Programs {
    /// Loads them.
    pub(crate) fn load() -> Result<Self> {
        let path = |sizes| {
            Kernel::load_some(EBPF, sizes, |name| PATH.contains(&name)).context("the gateway's object")
        };
        let (path, fresh) = (path(SIZES)?, path(SIZES_NEW)?);
        step("the gateway's programs are loaded");
        Ok(Self {
            path,
            harness: Harness::load()?,
            world: the_world()?,
            fresh,
            fresh_world: fresh::world(the_world()?),
        })
    }

    /// The generator for a kernel without pktgen, by an object of its own.
    pub(crate) fn live(generator: &Namespace, home: &str) -> Result<Live> {
        let kernel = Kernel::load_some(COMPARE, SIZES, |name| name == GENERATE).context("the generator")?;
        Live::new(kernel, generator, home)
    }

    /// Lays a lane through the forwarder and one through the gateway.
    pub(crate) fn lay(&mut self, ends: &Ends, first_number: usize) -> Result<Lanes> {
        let lay = |number, name, (kernel, world): (&mut Kernel, &HostTables), program| {
            ends.lay(number, name, |lane| {
                let index = lane.namespace.index(IN)?;
                kernel.set_links(Links {
                    ingress: index,
                    egress: lane.namespace.index(OUT)?,
                    worker: -1,
                });
                lane.namespace.inside(|| {
                    kernel.fill(world)?;
                    kernel.attach(program, index)
                })?;
                Ok(())
            })
        };
        let forward = lay(
            first_number,
            "xdp",
            (&mut self.harness.bare, &self.world),
            FORWARD,
        )?;
        let path = (&mut self.path, &self.world);
        let clear = lay(first_number + 1, "gateway", path, program::CLEAR)?;
        let path = (&mut self.fresh, &self.fresh_world);
        let fresh = lay(first_number + 2, "gateway-new", path, program::CLEAR)?;
        for lane in [&forward, &clear, &fresh] {
            self.harness.end_sink(&ends.sink, &lane.to)?;
        }
        Ok(Lanes {
            forward,
            clear,
            fresh,
        })
    }

    /// Forgets flows and mappings.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.path.refill(&self.world)?;
        self.tick()
    }

    /// Sets the programs' clock, as the daemon does.
    pub(crate) fn tick(&self) -> Result<()> {
        let now_s = u32::try_from(monotonic().as_secs())?;
        for kernel in [&self.path, &self.harness.bare, &self.fresh] {
            kernel.tables().set_now_s(now_s);
        }
        Ok(())
    }

    /// Flows in the table.
    pub(crate) fn flows(&self) -> Result<u64> {
        Ok(self.path.state().flows.len() as u64)
    }

    /// Every flow has a mapping of its own, to the address that the site has at the center.
    pub(crate) fn expect_translated(&self, flows: u64) -> Result<()> {
        let outsides = self.path.state().outsides;
        let translated = outsides.keys().filter(|outside| outside.address == world::NAT);
        let translated = translated.count() as u64;
        ensure!(
            translated == flows,
            "{flows} flows have {translated} translations"
        );
        Ok(())
    }

    /// Nothing was dropped for any reason.
    pub(crate) fn expect_no_drops(&mut self) -> Result<()> {
        for kernel in [&mut self.path, &mut self.fresh] {
            let drops = kernel.drops()?;
            ensure!(drops.is_empty(), "the gateway dropped packets: {drops:?}");
        }
        Ok(())
    }

    /// Forgets the flows and mappings of new flows.
    pub(crate) fn forget_new(&mut self) -> Result<()> {
        self.fresh.refill(&self.fresh_world)?;
        self.tick()
    }

    /// New flows in the table, and mappings.
    pub(crate) fn made(&self) -> Made {
        let state = self.fresh.state();
        Made {
            flows: state.flows.len() as u64,
            mappings: state.mappings.len() as u64,
        }
    }
}

fn attach_relay(kernel: &mut Kernel, namespace: &Namespace, from: &str, to: &str) -> Result<()> {
    let (from, to) = (namespace.index(from)?, namespace.index(to)?);
    namespace.inside(|| {
        kernel.add_egress(from, to)?;
        kernel.attach(RELAY, from)
    })?;
    Ok(())
}

/// One site, whose terminals may send to the server by the last rule.
fn the_world() -> Result<HostTables> {
    let mut tables = world::world(u32::try_from(monotonic().as_secs())?);
    // No worker: nothing is redirected to an AF_XDP socket.
    if let Some(interface) = &mut tables.interface {
        interface.queues = 0;
    }
    tables.settings = Some(Settings {
        idle_s: world::IDLE.by_state(),
        port_low: 1024,
        port_high: 65535,
        ..Settings::UNLIMITED
    });
    let mut rules: Vec<_> = (0..RULES - 1)
        .map(|rule| world::allow(rule, world::FORBIDDEN, 6, 443))
        .collect();
    rules.push(world::allow(RULES - 1, SERVER.octets(), 17, PORT));
    tables.rules = Some((world::GENERATION, rules));
    Ok(tables)
}

/// The link header of the first site, as pktgen is told it: as destination and source address.
pub(crate) fn link_header() -> Result<[[u8; 6]; 2]> {
    let header = LinkHeader::new(world::SITE, 0);
    let bytes = header.as_bytes();
    let mac = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<6>().copied());
    Ok([mac(0).context("a destination")?, mac(6).context("a source")?])
}

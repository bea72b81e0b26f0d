//! New flows: every packet is the first of one, beside nftables with connection tracking and masquerading.
//!
//! No packet comes again within a round ([`gateway_tests::fresh`]). To the kernel it is one terminal with many ports: what it masquerades as has a port for each, and destinations enough. Both
//! sides begin with empty tables and get the same packets, until the sink has had as many as are meant. Before a figure counts, there
//! are as many flows (connections) as packets, none of them of a flow that was there; nothing was dropped; and tables are far from full.
//!
//! Two cases: each flow comes from an endpoint of its own, and so needs a mapping too; and endpoints that have their mappings open
//! flows to other destinations.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::bench::pktgen::control::Stream;

use gateway_tests::fresh::{DESTINATIONS, PORT, PORTS_FEW, PORTS_MANY, SERVER, SERVERS, SITES};

use crate::gateway::{self, Made, TERMINAL};
use crate::lane::{self, Ends, Lane, MAC_IN, OUT};
use crate::{Bench, FRAME_OCTETS, Figures, MAC_STRANGER, WARM_UP_MAX, expect_few_lost, linux, say};

/// Flows of a round on a machine, and in a guest, where all takes longer. A stock conntrack table holds more.
const FLOWS: u64 = 200_000;
const FLOWS_EMULATED: u64 = 40_000;
/// Packets a second: as [`crate::RATE`], for what takes longer.
const RATE: u32 = 150_000;
const RATE_EMULATED: u32 = 8_000;
/// How often it is looked how far a round is, and how long nothing may come until it has ended.
const LOOK: Duration = Duration::from_millis(5);
const QUIET: Duration = Duration::from_millis(200);

/// The lane of nftables, to all of [`SERVERS`].
pub(crate) fn nftables(ends: &Ends, number: usize) -> Result<Lane> {
    let servers = format!("{SERVERS}/16");
    let lane = linux::nftables(ends, number, "nftables-new", &servers)?;
    let route = format!("route add {servers} via 203.0.113.10 dev {OUT}\n");
    lane.namespace.ip(&route)?;
    Ok(lane)
}

impl Bench {
    /// Both cases of both sides.
    pub(crate) fn new_flows(&mut self) -> Result<()> {
        for (case, sites, ports) in [
            ("new flows, each of a new endpoint", SITES, PORTS_MANY),
            ("new flows of 997 endpoints", 1, PORTS_FEW),
        ] {
            let endpoints = (sites > 1)
                .then_some(())
                .map_or(u64::from(ports.1), |()| u64::MAX);
            say(
                case,
                true,
                "gateway",
                self.new_by_gateway(sites, ports, endpoints)?,
            );
            say(case, false, "nftables", self.new_by_kernel(ports)?);
        }
        Ok(())
    }

    /// The gateway's figures; `endpoints` is how many mappings there are at most.
    fn new_by_gateway(&mut self, sites: u16, ports: (u16, u16), endpoints: u64) -> Result<Figures> {
        self.programs.forget_new()?;
        let stream = Stream {
            macs: gateway::link_header()?,
            sites,
            ..self.to_servers(&self.xdp.fresh, ports)
        };
        let figures = self.burst(&self.xdp.fresh, &stream);
        // That it dropped something says more than that nothing arrived.
        self.programs.expect_no_drops()?;
        let figures = figures?;
        let Made { flows, mappings } = self.programs.made();
        ensure!(
            flows == figures.packets,
            "{} packets made {flows} flows",
            figures.packets
        );
        ensure!(
            mappings == flows.min(endpoints),
            "{flows} flows of {endpoints} endpoints have {mappings} mappings"
        );
        Ok(figures)
    }

    /// The figures of nftables.
    fn new_by_kernel(&self, ports: (u16, u16)) -> Result<Figures> {
        let lane = &self.nftables_new;
        linux::forget(lane)?;
        let [room, buckets] = linux::room()?;
        let flows = self.flows();
        ensure!(
            room >= flows + flows / 5 && buckets >= flows / 2,
            "nf_conntrack_max is {room} and nf_conntrack_buckets {buckets}: too few for {flows} connections"
        );
        let count = || {
            let translated = linux::counted(lane, "nat", "translated")?;
            let established = linux::counted(lane, "filter", "established")?;
            anyhow::Ok((translated, established))
        };
        let before = count()?;
        let figures = self.burst(lane, &self.to_servers(lane, ports))?;
        let (tracked, after) = (linux::tracked(lane)?, count()?);
        let (translated, established) = (after.0 - before.0, after.1 - before.1);
        ensure!(
            tracked == figures.packets && translated == tracked && established == 0,
            "{} packets made {tracked} connections, of which {translated} were translated; {established} were of one that was there",
            figures.packets
        );
        Ok(figures)
    }

    /// From the terminal's ports to all servers.
    fn to_servers(&self, lane: &Lane, source_ports: (u16, u16)) -> Stream {
        Stream {
            interface: lane.from.clone(),
            macs: [MAC_IN, MAC_STRANGER],
            sites: 1,
            addresses: [TERMINAL, SERVER],
            destinations: DESTINATIONS,
            source_ports,
            destination_ports: (PORT, 1),
            frame_octets: FRAME_OCTETS,
            packets_per_s: Some(if self.live.is_some() { RATE } else { RATE_EMULATED }),
        }
    }

    fn flows(&self) -> u64 {
        if self.live.is_some() {
            FLOWS
        } else {
            FLOWS_EMULATED
        }
    }

    /// Packets that the sink receives until it has had as many as are meant, and what CPU time all of that took.
    fn burst(&self, lane: &Lane, stream: &Stream) -> Result<Figures> {
        let received = || self.ends.sink.received(&lane.to);
        let look = || {
            anyhow::Ok((
                lane::cpu_time_ns(&lane::MEASURED)?,
                lane::cpu_time_ns(&lane::SINKING)?,
            ))
        };
        let (started, (cpu, sink)) = (Instant::now(), look()?);
        let (at_first, wanted) = (received()?, self.flows());
        let lost = lane.namespace.not_sent(OUT)?;
        self.while_sending(&self.ends.generator, stream, || {
            while received()? < at_first + wanted {
                ensure!(
                    started.elapsed() < WARM_UP_MAX,
                    "{} of {wanted} packets reached the sink {}:\n{}",
                    received()? - at_first,
                    lane.to,
                    self.counters(lane)?
                );
                sleep(LOOK);
            }
            Ok(())
        })?;
        let elapsed = started.elapsed();
        let mut last = received()?;
        loop {
            sleep(QUIET);
            let now = received()?;
            if now == last {
                break;
            }
            last = now;
        }
        let (cpu_after, sink_after) = look()?;
        let (packets, lost) = (last - at_first, lane.namespace.not_sent(OUT)? - lost);
        expect_few_lost(packets, lost)?;
        Ok(Figures {
            packets: packets + lost,
            cpu: Duration::from_nanos(cpu_after - cpu),
            beside: Duration::from_nanos(sink_after - sink),
            had: packets + lost,
            lost,
            elapsed,
        })
    }
}

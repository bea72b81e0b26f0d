//! Who traces what. A trace is on in the kernel as long as somebody reads it, and no longer than was asked for.
use std::net::Ipv4Addr;

use anyhow::{Context as _, bail, ensure};
use gateway_common::abi::stats::Path;
use gateway_common::abi::trace::{EVERY_SITE, TraceEvent, known, outcome, point};
use gateway_common::drop::DropReason;
use gateway_common::packet::tcp::flag;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::controller::Controller;
use super::engine::Engine;
use super::events::rule_name;
use super::requests::{site_name, site_number, state_word};
use crate::api::message::{Reply, Trace};
use crate::api::view::{self, TraceLine, TracedPacket};
use crate::config::Protocol;
use crate::core::journal::utc;

/// Traces at a time.
const TRACERS_MAX: usize = 4;
/// Longest trace.
const SECONDS_MAX: u64 = 86_400;

/// Traces that run.
#[derive(Debug, Default)]
pub(super) struct Tracers {
    all: Vec<Tracer>,
    /// What the data plane was told.
    site: u32,
}

/// A trace and its reader.
#[derive(Debug)]
struct Tracer {
    site: u32,
    protocol: Option<u8>,
    address: Option<Ipv4Addr>,
    port: Option<u16>,
    left: Option<u64>,
    until_ms: u64,
    lines: mpsc::Sender<String>,
    told: u64,
    lost: u64,
    /// Of these the reader knows.
    lost_told: u64,
}

impl Tracer {
    fn wants(&self, event: &TraceEvent) -> bool {
        let has = |bit: u8| event.known & bit != 0;
        let addresses = [event.source, event.destination, event.nat_address].map(Ipv4Addr::from);
        let ports = [event.source_port, event.destination_port, event.nat_port].map(u16::from_be_bytes);
        event.site == self.site
            && self
                .protocol
                .is_none_or(|protocol| has(known::ADDRESSES) && event.protocol == protocol)
            && self.address.is_none_or(|address| addresses.contains(&address))
            && self
                .port
                .is_none_or(|port| has(known::PORTS) && ports.contains(&port))
    }

    /// Whether it goes on.
    fn tell(&mut self, event: &TraceEvent, line: impl FnOnce() -> TracedPacket) -> bool {
        if !self.wants(event) {
            return true;
        }
        self.tell_gap();
        if self.send(&TraceLine::Packet(Box::new(line()))) {
            self.told += 1;
        } else {
            self.lost += 1;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        self.left != Some(0)
    }

    /// Tells how many were lost since the last line.
    fn tell_gap(&mut self) {
        let lost = self.lost - self.lost_told;
        if lost > 0 && self.send(&TraceLine::Gap { lost }) {
            self.lost_told = self.lost;
        }
    }

    fn end(&mut self, why: &str) {
        self.tell_gap();
        self.send(&TraceLine::End {
            why: why.to_owned(),
            packets: self.told,
            lost: self.lost,
        });
    }

    /// Whether there was room for the line.
    fn send(&self, line: &TraceLine) -> bool {
        let Ok(json) = serde_json::to_string(line) else {
            return false;
        };
        !matches!(self.lines.try_send(json), Err(TrySendError::Full(_)))
    }
}

impl<E: Engine> Controller<E> {
    /// Begins a trace whose lines go to `lines`.
    pub(super) fn begin_trace(&mut self, wanted: &Trace, lines: Option<mpsc::Sender<String>>) -> Reply {
        let begun = lines
            .context("packets are traced on a connection of their own")
            .and_then(|lines| self.try_begin_trace(wanted, lines));
        match begun {
            Ok(view) => Reply::view(&view),
            Err(error) => Reply::Error(format!("{error:#}")),
        }
    }

    fn try_begin_trace(
        &mut self,
        wanted: &Trace,
        lines: mpsc::Sender<String>,
    ) -> anyhow::Result<view::Tracing> {
        let Trace {
            site,
            protocol,
            address,
            port,
            count,
            seconds,
        } = wanted;
        if self.tracers.all.len() >= TRACERS_MAX {
            bail!("{TRACERS_MAX} traces run already; end one of them");
        }
        ensure!(
            (1..=SECONDS_MAX).contains(seconds),
            "a trace takes 1 to {SECONDS_MAX} seconds, not {seconds}"
        );
        ensure!(*count != Some(0), "a trace of 0 lines shows nothing");
        let protocol = protocol.as_deref().map(str::parse::<Protocol>).transpose();
        let tracer = Tracer {
            site: site_number(&self.sites.get(), site)?,
            protocol: protocol.map_err(anyhow::Error::msg)?.map(|protocol| protocol.0),
            address: *address,
            port: *port,
            left: *count,
            until_ms: self.clock.now().mono_ms + seconds * 1000,
            lines,
            told: 0,
            lost: 0,
            lost_told: 0,
        };
        self.tracers.all.push(tracer);
        if let Err(error) = self.set_trace() {
            self.tracers.all.pop();
            return Err(error);
        }
        // What it shows is who spoke with whom: it is kept who wanted to see that.
        self.record_command(&format!("trace {site} for {seconds} s"), &[]);
        Ok(view::Tracing {
            site: site.clone(),
            seconds: *seconds,
        })
    }

    /// Tells those who trace what there is, ends what is over, and turns tracing off when nobody reads any more.
    pub(super) fn tell_traces(&mut self) {
        if self.tracers.all.is_empty() && self.tracers.site == 0 {
            return;
        }
        let now_ms = self.clock.now().mono_ms;
        let (traces, clock_ns) = self.engine.traces();
        let mut tracers = std::mem::take(&mut self.tracers.all);
        for tracer in &mut tracers {
            tracer.lost += traces.lost;
        }
        for event in &traces.events {
            tracers.retain_mut(|tracer| {
                let goes_on = tracer.tell(event, || self.traced_packet(event, clock_ns));
                if !goes_on {
                    tracer.end("count");
                }
                goes_on
            });
        }
        tracers.retain_mut(|tracer| {
            if now_ms < tracer.until_ms {
                tracer.tell_gap();
                return !tracer.lines.is_closed();
            }
            tracer.end("time");
            false
        });
        self.tracers.all = tracers;
        if let Err(error) = self.set_trace() {
            tracing::error!(
                error = format!("{error:#}"),
                "tracing is not as it should be; tried again"
            );
        }
    }

    /// Tells the data plane which site to trace.
    fn set_trace(&mut self) -> anyhow::Result<()> {
        let mut sites = self.tracers.all.iter().map(|tracer| tracer.site);
        let wanted = match sites.next() {
            None => 0,
            Some(first) if sites.all(|site| site == first) => first,
            Some(_) => EVERY_SITE,
        };
        if wanted != self.tracers.site {
            self.engine.set_trace(wanted)?;
            self.tracers.site = wanted;
        }
        Ok(())
    }

    fn traced_packet(&self, event: &TraceEvent, clock_ns: u64) -> TracedPacket {
        let has = |bit: u8| event.known & bit != 0;
        let end = |address: [u8; 4], port: [u8; 2]| {
            let address = Ipv4Addr::from(address);
            match has(known::PORTS) {
                true => format!("{address}:{}", u16::from_be_bytes(port)),
                false => address.to_string(),
            }
        };
        let rules = self
            .rules
            .as_ref()
            .map(|(generation, compiled)| (*generation, &**compiled));
        // Without a flow, a packet of the center has but the translated end.
        let has_source = has(known::ADDRESSES) && event.source != [0; 4];
        let (outcome, what, words) = outcome_words(event);
        TracedPacket {
            time: time(self.clock.unix_ms(), clock_ns, event.at_ns),
            site: site_name(&self.sites.get(), event.site),
            point: point_name(event.point).to_owned(),
            direction: direction(event.point).to_owned(),
            outcome: outcome.to_owned(),
            what: what.to_owned(),
            words: words.map(str::to_owned),
            protocol: has(known::ADDRESSES).then(|| Protocol(event.protocol).to_string()),
            source: has_source.then(|| end(event.source, event.source_port)),
            destination: has(known::ADDRESSES).then(|| end(event.destination, event.destination_port)),
            nat: has(known::NAT).then(|| end(event.nat_address, event.nat_port)),
            state: has(known::FLOW).then(|| state_word(event.state).to_owned()),
            mapping: has(known::FLOW).then_some(event.mapping),
            rule: has(known::RULE).then(|| rule_name(event.generation, event.rule, rules)),
            tcp: (has(known::PORTS) && event.protocol == Protocol::TCP.0).then(|| tcp_flags(event.tcp_flags)),
            spi: has(known::SPI).then(|| format!("{:08x}", u32::from_be_bytes(event.spi))),
            bytes: event.length,
        }
    }
}

/// When a packet was seen, by the wall clock's and the monotonic clock's present time.
fn time(unix_ms: u64, clock_ns: u64, at_ns: u64) -> String {
    let age_ns = clock_ns.saturating_sub(at_ns);
    let unix_us = (unix_ms * 1000).saturating_sub(age_ns / 1000);
    let second = utc(unix_us / 1000);
    let second = second.get(..19).unwrap_or(&second);
    format!("{second}.{:06}Z", unix_us % 1_000_000)
}

fn point_name(number: u32) -> &'static str {
    let found = point::ALL.iter().find(|(point, _)| *point == number);
    found.map_or("unknown", |(_, name)| name)
}

fn direction(number: u32) -> &'static str {
    match number {
        point::CORE | point::ENTER | point::ENTER_ADD | point::CENTER_ANSWER | point::WORKER_OUT => "in",
        _ => "out",
    }
}

/// What became of a packet, by what or why, and the reason in words.
fn outcome_words(event: &TraceEvent) -> (&'static str, &'static str, Option<&'static str>) {
    match event.outcome {
        outcome::DROPPED => {
            let reason = DropReason::ALL
                .iter()
                .find(|reason| **reason as u32 == event.value);
            let name = reason.map_or("unknown", |reason| reason.name());
            ("dropped", name, reason.map(|reason| reason.words()))
        }
        outcome::SENT => {
            let path = Path::ALL.iter().find(|(path, _)| *path as u32 == event.value);
            ("sent", path.map_or("unknown", |(_, name)| name), None)
        }
        outcome::STAGE => ("stage", stage_name(event.value), None),
        outcome::WORKED => {
            let what = if event.point == point::WORKER_IN {
                "opened"
            } else {
                "sealed"
            };
            ("sent", what, None)
        }
        outcome::WAITS => ("waits", "for_other_fragments", None),
        _ => ("unknown", "unknown", None),
    }
}

fn stage_name(number: u32) -> &'static str {
    point_name(point::of_stage(number))
}

fn tcp_flags(flags: u8) -> String {
    let names = [
        (flag::SYN, "SYN"),
        (flag::FIN, "FIN"),
        (flag::RST, "RST"),
        (flag::PSH, "PSH"),
        (flag::ACK, "ACK"),
        (flag::URG, "URG"),
    ];
    let set = names.iter().filter(|(flag, _)| flags & flag != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_packet_is_that_of_the_wall_clock_less_its_age() {
        assert_eq!(
            time(1_700_000_000_123, 5_000_000_000, 4_999_000_000),
            "2023-11-14T22:13:20.122000Z"
        );
        // An event that is newer than the clock that was read before it.
        assert_eq!(time(1_700_000_000_000, 1, 2), "2023-11-14T22:13:20.000000Z");
    }

    #[test]
    fn every_place_and_stage_has_a_name() {
        for (number, name) in point::ALL {
            assert_eq!(point_name(number), name);
        }
        for stage in 0..gateway_common::path::open::STAGES {
            assert_ne!(stage_name(stage), "unknown", "stage {stage}");
        }
        assert_eq!(tcp_flags(flag::SYN | flag::ACK), "SYN,ACK");
    }
}

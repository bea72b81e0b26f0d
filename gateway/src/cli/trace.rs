//! `gateway trace`
use std::net::Ipv4Addr;
use std::ops::ControlFlow;

use super::Common;
use crate::api::client::{Client, ClientError};
use crate::api::message::{Request, Trace};
use crate::api::view::{TraceLine, TracedPacket};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Of this site.
    #[arg(long)]
    site: String,
    /// Of this protocol: tcp, udp, icmp or a number.
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<String>,
    /// From or to this address, on either side of the translation.
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// From or to this port, on either side of the translation.
    #[arg(long)]
    port: Option<u16>,
    /// End after so many lines.
    #[arg(long)]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(super) fn run(common: &Common, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        site,
        proto,
        address,
        port,
        count,
        seconds,
    } = arguments;
    let mut client = Client::connect(&common.socket)?;
    client.call(&Request::Trace(Trace {
        site,
        protocol: proto,
        address,
        port,
        count,
        seconds,
    }))?;
    client.follow_until(|text| {
        let line: TraceLine = serde_json::from_str(text).map_err(ClientError::Answer)?;
        if common.json {
            println!("{text}");
        } else {
            println!("{}", words(&line));
        }
        Ok(match line {
            TraceLine::End { .. } => ControlFlow::Break(()),
            TraceLine::Packet(_) | TraceLine::Gap { .. } => ControlFlow::Continue(()),
        })
    })?;
    Ok(())
}

fn words(line: &TraceLine) -> String {
    match line {
        TraceLine::Packet(packet) => of_packet(packet),
        TraceLine::Gap { lost } => format!("... {lost} more were not told: too many at a time"),
        TraceLine::End { why, packets, lost } => {
            format!("end ({why}): {packets} lines, {lost} lost")
        }
    }
}

/// A packet in one line: when, where, from where to where, what became of it, and by what.
fn of_packet(packet: &TracedPacket) -> String {
    let mut line = format!(
        "{}  {:<11}  {:<3}",
        packet.time.get(11..26).unwrap_or(&packet.time),
        packet.point,
        packet.direction
    );
    let mut add = |text: String| {
        line.push_str("  ");
        line.push_str(&text);
    };
    if let Some(spi) = &packet.spi {
        add(format!("ESP {spi}"));
    }
    if let (Some(protocol), Some(destination)) = (&packet.protocol, &packet.destination) {
        let source = packet.source.as_deref().unwrap_or("?");
        let nat = packet
            .nat
            .as_ref()
            .map_or(String::new(), |nat| format!(" [{nat}]"));
        let arrow = if packet.direction == "in" { "<-" } else { "->" };
        add(format!("{protocol} {source}{nat} {arrow} {destination}"));
    }
    if let Some(flags) = &packet.tcp {
        add(flags.clone());
    }
    add(format!("{} bytes", packet.bytes));
    add(match packet.outcome.as_str() {
        "dropped" => format!("DROPPED {}", packet.what),
        "stage" => format!("to {}", packet.what),
        _ => packet.what.clone(),
    });
    if let Some(words) = &packet.words {
        add(format!("({words})"));
    }
    if let Some(rule) = &packet.rule {
        add(format!("rule {rule}"));
    }
    if let Some(state) = &packet.state {
        add(state.clone());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_whose_what_and_why() {
        let packet = TracedPacket {
            time: "2026-01-02T03:04:05.000006Z".into(),
            point: "core".into(),
            direction: "in".into(),
            outcome: "dropped".into(),
            what: "tcp_window".into(),
            words: Some("outside".into()),
            protocol: Some("tcp".into()),
            source: Some("192.168.1.10:50000".into()),
            destination: Some("10.100.0.10:443".into()),
            nat: Some("10.200.0.1:50000".into()),
            state: Some("established".into()),
            rule: Some("web".into()),
            tcp: Some("RST".into()),
            bytes: 40,
            ..TracedPacket::default()
        };
        assert_eq!(
            words(&TraceLine::Packet(Box::new(packet))),
            "03:04:05.000006  core         in   tcp 192.168.1.10:50000 [10.200.0.1:50000] <- 10.100.0.10:443  RST  \
             40 bytes  DROPPED tcp_window  (outside)  rule web  established"
        );
    }
}

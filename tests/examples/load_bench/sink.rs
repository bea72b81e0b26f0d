//! Ends that throw away what their interfaces have counted: what a far end of a virtual cable does on receiving is done on the core that sends,
//! which is the measured one, and a whole way through its stack took half of a worker's time.
//!
//! What is left of it there (an interrupt's work for each packet) is a third of what is measured. It was tried elsewhere: by threads on the
//! generator's core it makes that the limit, and put off by a timer it makes both sides 20 to 50 % slower.

use anyhow::Result;
use xtask::cmd;
use xtask::lab::gateway::BENCH_PORT;
use xtask::lab::topology::{Node, Site};

const TABLE: &str = "bench";

/// What is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surplus {
    /// What packets of the bench have become: the server's datagrams, and ESP in UDP (RFC 3948 section 2.2: IKE has four zero
    /// octets in front).
    Load,
    /// All there is.
    All,
}

/// Both ends as they are, until dropped.
pub(crate) struct Sinks([Node; 2]);

impl Sinks {
    pub(crate) fn open(place: Site, surplus: Surplus) -> Result<Self> {
        let sinks = Self([Node::Center, place.router()]);
        let (at_center, at_site) = match surplus {
            Surplus::Load => (
                format!("udp dport {BENCH_PORT} drop"),
                "udp dport 4500 @th,64,32 != 0 drop".to_owned(),
            ),
            Surplus::All => ("drop".to_owned(), "drop".to_owned()),
        };
        for (node, interface, rule) in [
            (Node::Center, "eth0", at_center),
            (place.router(), "wan", at_site),
        ] {
            let rules = format!(
                "table netdev {TABLE} {{\nchain sink {{\ntype filter hook ingress device {interface} priority 0\n{rule}\n}}\n}}\n"
            );
            cmd::feed(node.command("nft").args(["-f", "-"]), &rules)?;
        }
        Ok(sinks)
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        for node in self.0 {
            // With the lab's namespaces all of it goes anyway.
            let _gone = cmd::output(node.command("nft").args(["delete", "table", "netdev", TABLE]));
        }
    }
}

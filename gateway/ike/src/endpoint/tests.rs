//! A peer that does what no endpoint of ours does: it authenticates itself as it should, then sends whatever a
//! test wants on the IKE SA, and answers whatever a test wants.

use std::{collections::BTreeSet, net::SocketAddr};

use super::*;
use crate::{
    AuthenticatedPeer, Authorizer, Connection, Remote, SitePolicy,
    channel::Opened,
    crypto::random::SystemRandom,
    pki::{credential::Credential, trust::TrustAnchors},
    proposal::{KeyExchangeOffer, answer_esp, select_esp},
    wire::{Message, delete::Delete, nonce::Nonce, ts::TrafficSelectors},
};

mod additional;
mod collisions;
mod hoarding;
mod messages;
mod selectors;
mod standing;

struct Everybody(SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

fn net(text: &str) -> TrafficSelector {
    let (address, prefix_len) = text.split_once('/').unwrap();
    TrafficSelector::subnet(address.parse().unwrap(), prefix_len.parse().unwrap()).unwrap()
}

fn policy(local: &[&str], remote: &[&str]) -> SitePolicy {
    let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect();
    SitePolicy {
        site: 1,
        name: "site".to_owned(),
        ts_local: nets(local),
        ts_remote: nets(remote),
        esp_proposals: None,
    }
}

fn endpoint(identity: &str, [leaf, key]: [&[u8]; 2], policy: SitePolicy) -> EndpointConfig {
    let authorities = [
        &include_bytes!("../../tests/data/ec-ca.crt")[..],
        include_bytes!("../../tests/data/rsa-ca.crt"),
    ];
    let mut config = EndpointConfig::new(
        Credential::from_pem(leaf, key).unwrap(),
        identity.parse().unwrap(),
        TrustAnchors::from_pem(&authorities.concat()).unwrap(),
        Box::new(Everybody(policy)),
    );
    // Without it IKE stays on port 500, and no marker stands in front of messages.
    config.mobike = false;
    config.fragment_size = None;
    config.ike_proposals = vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()];
    config.esp_proposals = vec!["aes256gcm16-x25519-modpnone-noesn".parse().unwrap()];
    config
}

/// `ours` is the endpoint under test; `peer` is driven by hand once the IKE SA stands.
struct Pair {
    ours: Endpoint,
    peer: Endpoint,
    events: Vec<Event>,
    outputs: Vec<Output>,
    /// SPIs of `ours` that stand.
    standing: BTreeSet<u64>,
    /// What `ours` sent and nobody took yet.
    sent: Vec<Vec<u8>>,
    now_ms: u64,
}

const OURS: &str = "198.51.100.1:500";
const PEER: &str = "192.0.2.1:500";

impl Pair {
    /// `we_begin` says who initiates the IKE SA. `ours` has the identity gw.lab.test.
    fn new(we_begin: bool, change: impl FnOnce(&mut EndpointConfig)) -> Self {
        let (ours, peer): (SocketAddr, SocketAddr) = (OURS.parse().unwrap(), PEER.parse().unwrap());
        let rsa_chain = [
            &include_bytes!("../../tests/data/rsa-leaf.crt")[..],
            include_bytes!("../../tests/data/rsa-mid.crt"),
        ]
        .concat();
        let (local, remote) = (["10.1.0.0/16", "172.16.5.0/24"], ["192.168.1.0/24"]);
        let mut config = endpoint(
            "gw.lab.test",
            [&rsa_chain, include_bytes!("../../tests/data/rsa-leaf.key")],
            policy(&local, &remote),
        );
        let mut peers = endpoint(
            "site1.lab.test",
            [
                include_bytes!("../../tests/data/ec-leaf.crt"),
                include_bytes!("../../tests/data/ec-leaf.key"),
            ],
            policy(&remote, &local),
        );
        let connection = |local, address, identity: &str, policy| {
            let remote = Remote { local, address };
            Connection::new("it", remote, identity.parse().unwrap(), policy)
        };
        config.connections = vec![connection(ours, peer, "site1.lab.test", policy(&local, &remote))];
        peers.connections = vec![connection(peer, ours, "gw.lab.test", policy(&remote, &local))];
        change(&mut config);
        let mut pair = Self {
            ours: Endpoint::new(config, Box::new(SystemRandom::new())),
            peer: Endpoint::new(peers, Box::new(SystemRandom::new())),
            events: Vec::new(),
            outputs: Vec::new(),
            standing: BTreeSet::new(),
            sent: Vec::new(),
            now_ms: 1_000,
        };
        let begin = Command::Initiate {
            connection: "it".to_owned(),
        };
        let now = pair.now();
        if we_begin { &mut pair.ours } else { &mut pair.peer }.handle_command(now, begin);
        for _ in 0..4 {
            pair.carry();
        }
        assert_eq!(
            pair.ours.ike_sas().next().map(|info| info.state),
            Some("established")
        );
        pair
    }

    fn now(&self) -> Time {
        Time {
            mono_ms: self.now_ms,
            unix_s: 1_798_761_600,
        }
    }

    /// Both endpoints talk to each other as they are.
    fn carry(&mut self) {
        let now = self.now();
        self.drain();
        for datagram in std::mem::take(&mut self.sent) {
            self.peer
                .handle_datagram(now, PEER.parse().unwrap(), OURS.parse().unwrap(), &datagram);
        }
        while let Some(output) = self.peer.poll_output() {
            if let Output::Transmit { payload, .. } = output {
                self.ours
                    .handle_datagram(now, OURS.parse().unwrap(), PEER.parse().unwrap(), &payload);
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.ours.poll_output() {
            match output {
                Output::Transmit { payload, .. } => self.sent.push(payload),
                Output::Event(event) => self.events.push(event),
                Output::IkeSpi { spi, stands: true } => {
                    assert!(self.standing.insert(spi), "{spi:#x} told twice")
                }
                Output::IkeSpi { spi, stands: false } => {
                    assert!(self.standing.remove(&spi), "{spi:#x} did not stand")
                }
                other @ (Output::InstallChildSa(_)
                | Output::ActivateOutbound { .. }
                | Output::UpdateChildSa { .. }
                | Output::RemoveChildSa { .. }) => self.outputs.push(other),
            }
        }
    }

    /// The peer's end of the IKE SA.
    fn hand(&mut self) -> &mut IkeSa {
        let entry = self.peer.entries.values_mut().find_map(|entry| match entry {
            Entry::Sa(ike_sa) if ike_sa.established().is_some() => Some(ike_sa),
            Entry::Sa(_) | Entry::Initiating(_) => None,
        });
        entry.unwrap()
    }

    fn deliver(&mut self, datagram: &[u8]) {
        let now = self.now();
        self.ours
            .handle_datagram(now, OURS.parse().unwrap(), PEER.parse().unwrap(), datagram);
        self.drain();
    }

    /// The peer's request, and the answer of `ours` to it.
    fn ask(&mut self, exchange: Exchange, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let mut random = SystemRandom::new();
        let request = self.hand().core.channel.request(exchange, payloads, &mut random);
        self.sent.clear();
        self.deliver(&request.unwrap_or_default()[0]);
        self.answer()
    }

    fn ask_informational(&mut self, payloads: &[Payload]) -> Option<Vec<Payload>> {
        self.ask(Exchange::Informational, payloads)
    }

    fn answer(&mut self) -> Option<Vec<Payload>> {
        let sent = std::mem::take(&mut self.sent);
        sent.iter().find_map(|datagram| {
            let header = Header::parse(datagram).unwrap();
            match self.hand().core.channel.open(&header, datagram) {
                Ok(Opened::Response(first, content)) => Some(Message::parse(first, &content).unwrap().0),
                Ok(Opened::Request(..) | Opened::Repeated | Opened::Partial | Opened::Stale) | Err(_) => None,
            }
        })
    }

    /// The request that `ours` has sent.
    fn asked(&mut self) -> Option<(Exchange, Message)> {
        // Repetitions are the same.
        let datagram = std::mem::take(&mut self.sent).pop()?;
        let header = Header::parse(&datagram).unwrap();
        match self.hand().core.channel.open(&header, &datagram) {
            Ok(Opened::Request(first, content)) => {
                Some((header.exchange, Message::parse(first, &content).unwrap()))
            }
            Ok(Opened::Response(..) | Opened::Repeated | Opened::Partial | Opened::Stale) | Err(_) => None,
        }
    }

    fn reply(&mut self, exchange: Exchange, payloads: &[Payload]) {
        let mut random = SystemRandom::new();
        let answer = self.hand().core.channel.respond(exchange, payloads, &mut random);
        let datagram = answer.map(|datagrams| datagrams[0].clone());
        self.deliver(&datagram.unwrap_or_default());
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        self.ours.handle_command(now, command);
        self.drain();
    }

    fn wait(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while let Some((due_ms, _)) = self.ours.poll_timeout().filter(|(due_ms, _)| *due_ms <= until) {
            self.now_ms = self.now_ms.max(due_ms);
            let now = self.now();
            self.ours.handle_timeout(now);
            self.drain();
        }
        self.now_ms = until;
    }

    fn child(&self) -> ChildId {
        self.ours.ike_sas().next().unwrap().children[0].id
    }

    fn children(&self) -> usize {
        self.ours.ike_sas().map(|info| info.children.len()).sum()
    }

    fn ike_sa(&self) -> IkeSaId {
        self.ours.ike_sas().next().unwrap().id
    }

    fn standing(&self) -> Option<&'static str> {
        self.ours.ike_sas().next().map(|info| info.state)
    }

    fn said(&self, words: &str) -> bool {
        self.events.iter().any(|event| event.to_string().contains(words))
    }
}

fn notify(kind: u16) -> Payload {
    Payload::Notify(Notify::new(kind, []))
}

fn kinds(payloads: &[Payload]) -> Vec<u16> {
    let notifies = payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify.kind),
        _ => None,
    });
    notifies.collect()
}

//! The DNS proxy between a site and an upstream server, neither of whom can be trusted.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use gateway::dns::private::Private;
use gateway::dns::proxy::{Admission, Ask, Client, Output, Proxy, Settings, Shares, Transport};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use super::Input;

const QUESTIONS_MAX: usize = 32;

/// Pieces of the input are messages: of a site, or (every second one) of the server that was asked last, whose ID and
/// question are put in front if the piece begins with an odd octet.
///
/// # Panics
/// When the site is told of an address that is not open, an address is open that may not be, or a question never ends.
pub fn dns(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World {
        proxy: Proxy::new(Settings {
            shares: Shares::default(),
            upstream: vec![SocketAddr::from(([192, 0, 2, 53], 53))],
            site_queries_per_s: 1_000,
            outstanding_max: 16,
            site_outstanding_max: 16,
            ttl_max_s: 300,
            private: Private::new(vec![]),
        }),
        now_ms: 0,
        asked: None,
        opened: vec![],
    };
    for turn in 0..QUESTIONS_MAX {
        let Some(piece) = input.piece() else { break };
        world.now_ms += 10;
        match (turn % 2, world.asked.clone()) {
            (1, Some((ask, question))) => {
                let message = match piece.split_first() {
                    Some((octet, rest)) if octet % 2 == 1 => [question.as_slice(), rest].concat(),
                    _ => piece.to_vec(),
                };
                world.proxy.handle_answer(world.now_ms, ask, &message, 7);
            }
            _ => {
                let client = Client {
                    address: SocketAddrV4::new(Ipv4Addr::new(10, 201, 0, 1), 4000),
                    transport: if piece.len() % 3 == 0 {
                        Transport::Tcp
                    } else {
                        Transport::Udp
                    },
                    connection: 1,
                };
                world.proxy.handle_query(world.now_ms, client, piece);
            }
        }
        world.act();
    }
    while let Some(at) = world.proxy.poll_timeout() {
        world.now_ms = world.now_ms.max(at);
        assert!(world.now_ms < 60_000, "a question that never ends");
        world.proxy.handle_timeout(world.now_ms, || 7);
        world.act();
    }
    assert_eq!(world.proxy.outstanding(), 0);
}

struct World {
    proxy: Proxy,
    now_ms: u64,
    /// The last question upstream: as an answer begins that has no records yet.
    asked: Option<(Ask, Vec<u8>)>,
    opened: Vec<Ipv4Addr>,
}

impl World {
    fn act(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::Admit { token, .. } => {
                    let admission = Admission {
                        site: 1,
                        sets: vec![1],
                    };
                    self.proxy
                        .handle_admission(self.now_ms, token, Some(admission), 7);
                }
                Output::Ask { ask, message, .. } => self.asked = Some((ask, message)),
                Output::Open {
                    token,
                    addresses,
                    ttl_s,
                    ..
                } => {
                    let private = Private::new(vec![]);
                    assert!(ttl_s <= 300 && addresses.iter().all(|address| !private.contains(*address)));
                    self.opened.extend(addresses);
                    self.proxy.handle_opened(token, true);
                }
                Output::Answer { message, .. } => self.told(&message),
                Output::Close { .. } | Output::Report(_) => {}
            }
        }
    }

    fn told(&self, message: &[u8]) {
        let message = Message::from_vec(message).expect("the proxy writes DNS");
        for record in &message.answers {
            match &record.data {
                RData::A(address) => assert!(self.opened.contains(&address.0), "told and not open"),
                RData::CNAME(_) => {}
                other => panic!("{other:?} is told"),
            }
        }
    }
}

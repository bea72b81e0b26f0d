//! Names that sites ask for while rule sets come and go.
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use gateway::api::message::{HowToLoad, Request};
use gateway::dns::server::Sockets;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::node::Node;
use super::sockets::{newest, one_port_of_both, waiting};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
/// Longer than an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn load(node: &Node, name: &str) {
    let text = format!(
        "[[rule]]\nname = \"by-name\"\naction = \"allow\"\ndirection = \"site-to-internet\"\n\
         fqdn = \"{name}\"\nprotocol = \"tcp\"\ndestination_ports = 443\n"
    );
    node.ask(Request::RulesLoad {
        file: "rules.toml".to_owned(),
        text,
        how: HowToLoad::default(),
    });
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(
        Name::from_ascii(name).expect("a name"),
        RecordType::A,
    ));
    message.to_vec().expect("a message")
}

fn answer(asked: &[u8]) -> Vec<u8> {
    let asked = Message::from_vec(asked).expect("DNS");
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    let owner = asked.queries[0].name.clone();
    message.queries = asked.queries;
    message.add_answer(Record::from_rdata(owner, 60, RData::A(A(ADDRESS))));
    message.to_vec().expect("a message")
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut octets = [0; 1500];
    let (length, from) = socket.recv_from(&mut octets).expect("a message");
    (octets[..length].to_vec(), from)
}

/// The set of the old rules has the number that the new rules give to theirs: what is asked for by the old ones must not be
/// opened to whoever the new ones let reach other names.
#[test]
fn a_name_that_was_asked_for_by_old_rules_is_not_opened_by_new_ones() {
    let upstream = socket();
    let (udp, tcp, proxy) = one_port_of_both();
    udp.set_nonblocking(true).expect("not blocking");
    tcp.set_nonblocking(true).expect("not blocking");
    let tables = format!(
        "[[interface]]\nname = \"i\"\nrole = \"internet\"\n[internet]\nnetworks = [\"0.0.0.0/0\"]\n\
         [dns]\nlisten = \"10.100.255.53\"\nupstream = [\"{}\"]\n\
         [[site]]\nname = \"s\"\nidentity = \"s.lab.test\"\nnetworks = [\"192.168.1.0/24\"]\nnat_address = \"10.200.0.1\"\n",
        upstream.local_addr().expect("bound")
    );
    let node = Node::with_dns(&tables, Sockets { udp, tcp });
    let site = socket();
    let ask = |between: &dyn Fn()| {
        // What an earlier one was asked once more is nobody's question any more.
        newest(&upstream);
        site.send_to(&query("a.example."), proxy).expect("sent");
        let mut question = Some(receive(&upstream));
        between();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((asked, from)) = newest(&upstream).or(question.take()) {
                upstream.send_to(&answer(&asked), from).expect("sent");
            }
            if let Some((told, _)) = waiting(&site) {
                break Message::from_vec(&told).expect("DNS").metadata.response_code;
            }
            assert!(Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    load(&node, "a.example");
    assert_eq!(ask(&|| load(&node, "c.example")), ResponseCode::ServFail);
    assert!(node.engine().names.is_empty(), "{:?}", node.engine().names);
    // Where the rules stay, it is opened.
    load(&node, "a.example");
    assert_eq!(ask(&|| {}), ResponseCode::NoError);
    assert!(node.engine().names.contains_key(&ADDRESS));
}

//! The DNS proxy's sockets on loopback, with an upstream server and a controller of the test's own.
mod sockets;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use gateway::dns::private::Private;
use gateway::dns::proxy::{Admission, Settings, Shares, Transport};
use gateway::dns::server::{Call, Server, Sockets};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sockets::{newest, one_port_of_both, waiting};
use tokio::sync::mpsc;

const UPDATE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
/// Longer than any of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

fn query(id: u16, text: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(text), RecordType::A));
    message.to_vec().expect("a message")
}

fn answer(asked: &[u8], address: Ipv4Addr) -> Message {
    let asked = Message::from_vec(asked).expect("the proxy asks in DNS");
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    let owner = asked.queries[0].name.clone();
    message.queries = asked.queries;
    message.add_answer(Record::from_rdata(owner, 60, RData::A(A(address))));
    message
}

/// What the controller was asked, in order.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Admit(Transport, String),
    Open(String, Vec<Ipv4Addr>),
}

struct World {
    server: Server,
    address: SocketAddr,
    upstream: UdpSocket,
    upstream_tcp: TcpListener,
    asked: Receiver<Asked>,
}

/// Names below av.example may be reached; everything is opened.
fn controller(mut calls: mpsc::Receiver<Call>, asked: &Sender<Asked>) {
    while let Some(call) = calls.blocking_recv() {
        match call {
            Call::Admit {
                transport,
                name,
                reply,
                ..
            } => {
                let sets = if name.ends_with("av.example") {
                    vec![1]
                } else {
                    vec![]
                };
                let _ = asked.send(Asked::Admit(transport, name));
                let _ = reply.send(Some(Admission { site: 1, sets }));
            }
            Call::Open {
                name,
                addresses,
                reply,
                ..
            } => {
                let _ = asked.send(Asked::Open(name, addresses));
                let _ = reply.send(true);
            }
            Call::Report(_) => {}
        }
    }
}

impl World {
    fn new() -> Self {
        let (upstream, upstream_tcp, at) = one_port_of_both();
        upstream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (udp, tcp, address) = one_port_of_both();
        udp.set_nonblocking(true).expect("not blocking");
        tcp.set_nonblocking(true).expect("not blocking");
        let settings = Settings {
            shares: Shares::default(),
            upstream: vec![at],
            site_queries_per_s: 1_000,
            outstanding_max: 100,
            site_outstanding_max: 100,
            ttl_max_s: 300,
            private: Private::new(vec![]),
        };
        let (sender, calls) = mpsc::channel(100);
        let (told, asked) = channel();
        thread::spawn(move || controller(calls, &told));
        let server = Server::start(settings, Sockets { udp, tcp }, sender).expect("it starts");
        Self {
            server,
            address,
            upstream,
            upstream_tcp,
            asked,
        }
    }

    fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client.connect(self.address).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    fn connection(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Has a client ask, and answers what is asked upstream for it.
    fn ask(
        &self,
        client: &UdpSocket,
        question: &[u8],
        answer: impl FnMut(&UdpSocket, &[u8], SocketAddr),
    ) -> Message {
        // What an earlier one was asked once more is nobody's question any more.
        newest(&self.upstream);
        client.send(question).expect("sent");
        self.answer_until(answer, || {
            let (told, _) = waiting(client)?;
            Some(Message::from_vec(&told).expect("DNS"))
        })
    }

    /// Answers what is asked upstream until somebody is told what he asked. On a busy machine it is asked again, and the proxy
    /// hears no other answer then.
    fn answer_until<T>(
        &self,
        mut answer: impl FnMut(&UdpSocket, &[u8], SocketAddr),
        mut told: impl FnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((question, from)) = newest(&self.upstream) {
                answer(&self.upstream, &question, from);
            }
            if let Some(told) = told() {
                return told;
            }
            assert!(Instant::now() < deadline, "no answer");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// As the upstream server knows it.
fn answer_honestly(upstream: &UdpSocket, question: &[u8], from: SocketAddr) {
    let honest = answer(question, UPDATE).to_vec().expect("a message");
    upstream.send_to(&honest, from).expect("sent");
}

fn receive(client: &UdpSocket) -> Message {
    let mut octets = [0; 1500];
    let length = client.recv(&mut octets).expect("an answer");
    Message::from_vec(&octets[..length]).expect("DNS")
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes()[..], message].concat()
}

fn read_framed(stream: &mut impl std::io::Read) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut octets = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut octets).expect("a message");
    Message::from_vec(&octets).expect("DNS")
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

/// RFC 5452 section 9.2: each question from another port, with another ID. Sixteen of each that were all equal would be no
/// coincidence.
#[test]
fn a_question_over_udp_is_asked_from_a_port_of_its_own_and_opened_before_it_is_answered() {
    let world = World::new();
    let client = world.client();
    let (mut ports, mut ids) = (vec![], vec![]);
    for id in 0..16 {
        let told = world.ask(
            &client,
            &query(id, "update.av.example"),
            |upstream, question, from| {
                ports.push(from.port());
                ids.push([question[0], question[1]]);
                answer_honestly(upstream, question, from);
            },
        );
        assert_eq!((told.metadata.id, addresses(&told)), (id, vec![UPDATE]));
        let asked = world.asked.recv_timeout(PATIENCE).expect("asked");
        assert_eq!(
            asked,
            Asked::Admit(Transport::Udp, "update.av.example".to_owned())
        );
        // It was opened by the time that the answer was there.
        let opened = world.asked.try_recv().expect("opened before it was told");
        assert_eq!(opened, Asked::Open("update.av.example".to_owned(), vec![UPDATE]));
    }
    for list in [
        ports.iter().map(|port| u32::from(*port)).collect::<Vec<_>>(),
        ids.iter().map(|id| u32::from(u16::from_be_bytes(*id))).collect(),
    ] {
        let mut different = list.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 8, "{list:?}");
    }
    assert_eq!(world.server.counters().opened, 16);
}

/// Who is not the upstream server is not heard, whatever ID it hits.
#[test]
fn an_answer_from_another_address_is_not_heard() {
    let world = World::new();
    let client = world.client();
    let forger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let told = world.ask(
        &client,
        &query(1, "update.av.example"),
        |upstream, question, from| {
            let forged = answer(question, Ipv4Addr::new(198, 51, 100, 66));
            for _ in 0..10 {
                // The kernel may tell the forger that nobody takes it.
                let _ = forger.send_to(&forged.to_vec().expect("a message"), from);
            }
            answer_honestly(upstream, question, from);
        },
    );
    assert_eq!(addresses(&told), [UPDATE]);
    assert_eq!(world.server.counters().spoofed, 0);
}

#[test]
fn an_answer_that_was_cut_is_fetched_over_tcp() {
    let world = World::new();
    let client = world.client();
    client.send(&query(1, "update.av.example")).expect("sent");
    world.upstream_tcp.set_nonblocking(true).expect("not blocking");
    let cut = |upstream: &UdpSocket, question: &[u8], from| {
        let mut cut = answer(question, UPDATE);
        cut.answers.clear();
        cut.metadata.truncation = true;
        let cut = cut.to_vec().expect("a message");
        upstream.send_to(&cut, from).expect("sent");
    };
    let mut fetched = 0;
    let told = world.answer_until(cut, || {
        if let Ok((mut stream, _)) = world.upstream_tcp.accept() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let again = read_framed(&mut stream).to_vec().expect("a message");
            let honest = answer(&again, UPDATE).to_vec().expect("a message");
            // Where it took too long there is another connection.
            let _ = stream.write_all(&framed(&honest));
            fetched += 1;
        }
        let (told, _) = waiting(&client)?;
        Some(Message::from_vec(&told).expect("DNS"))
    });
    assert_eq!(addresses(&told), [UPDATE]);
    assert!(fetched > 0, "it was there without TCP");
}

/// RFC 7766 section 6.2.1: questions come one upon the other, even in one segment, and answers as they are ready; a
/// message may come in pieces.
#[test]
fn a_connection_carries_many_questions() {
    let world = World::new();
    let mut stream = world.connection();
    let mut both = framed(&query(1, "update.av.example"));
    both.extend(framed(&query(2, "www.other.example")));
    let (first, rest) = both.split_at(5);
    stream.write_all(first).expect("sent");
    stream.flush().expect("sent");
    stream.write_all(rest).expect("sent");
    // The second one is refused without asking anybody, while the first one waits.
    let told = read_framed(&mut stream);
    assert_eq!(
        (told.metadata.id, told.metadata.response_code),
        (2, ResponseCode::Refused)
    );
    stream.set_nonblocking(true).expect("not blocking");
    world.answer_until(answer_honestly, || {
        stream.peek(&mut [0]).is_ok_and(|length| length > 0).then_some(())
    });
    stream.set_nonblocking(false).expect("blocking");
    let told = read_framed(&mut stream);
    assert_eq!((told.metadata.id, addresses(&told)), (1, vec![UPDATE]));
}

#[test]
fn one_address_has_few_connections_and_others_are_served_all_the_same() {
    let world = World::new();
    let mut held: Vec<TcpStream> = (0..8).map(|_| world.connection()).collect();
    for stream in &mut held {
        stream
            .write_all(&framed(&query(3, "www.other.example")))
            .expect("sent");
        assert_eq!(read_framed(stream).metadata.response_code, ResponseCode::Refused);
    }
    // The ninth is closed at once, not when it has been idle for long.
    let mut ninth = world.connection();
    ninth
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let _ = ninth.write_all(&framed(&query(4, "www.other.example")));
    let mut octet = [0; 1];
    match ninth.read(&mut octet) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("it is not closed: {other:?}"),
    }
    // A place that is given up is free again, when the proxy has seen it.
    drop(held.pop());
    let served = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(20));
        let mut again = world.connection();
        let sent = again.write_all(&framed(&query(5, "www.other.example")));
        sent.is_ok() && again.read(&mut octet).is_ok_and(|length| length == 1)
    });
    assert!(served);
    // Datagrams are none of this limit's business.
    let client = world.client();
    client.send(&query(6, "www.other.example")).expect("sent");
    assert_eq!(receive(&client).metadata.response_code, ResponseCode::Refused);
}

/// A connection with half a message, or with a message of no length, costs no other one anything.
#[test]
fn strange_connections_are_borne() {
    let world = World::new();
    let mut half = world.connection();
    half.write_all(&[0, 40, 1, 2]).expect("sent");
    let mut empty = world.connection();
    empty.write_all(&[0, 0, 0, 0]).expect("sent");
    let mut wild = world.connection();
    wild.write_all(&[0xff; 4096]).expect("sent");
    let mut good = world.connection();
    good.write_all(&framed(&query(7, "www.other.example")))
        .expect("sent");
    assert_eq!(
        read_framed(&mut good).metadata.response_code,
        ResponseCode::Refused
    );
}

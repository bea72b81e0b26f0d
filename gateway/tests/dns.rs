//! The DNS proxy on a virtual clock, with an upstream server that answers, is silent, or is somebody else.
#[path = "dns/shared.rs"]
mod shared;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use gateway::dns::message::{ADDRESSES_MAX, PAYLOAD_MAX};
use gateway::dns::private::Private;
use gateway::dns::proxy::{
    ASK_MS, Admission, Ask, Client, Output, Proxy, QUESTION_MS, Report, Settings, Shares, Transport,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

const SITE: u32 = 7;
/// Another site that may reach the same names, by another set.
const OTHER_SITE: u32 = 8;
/// A site that may reach none.
const POOR_SITE: u32 = 9;
const UPDATE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const MIRROR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 81);

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

fn settings() -> Settings {
    Settings {
        shares: Shares::default(),
        upstream: vec![server(1), server(2)],
        site_queries_per_s: 10,
        outstanding_max: 20,
        site_outstanding_max: 8,
        ttl_max_s: 300,
        private: Private::new(vec!["203.0.113.0/24".parse().expect("a network")]),
    }
}

/// The number of the site that an address belongs to, and the set of names that it may reach.
fn site_at(address: Ipv4Addr) -> Option<(u32, Vec<u32>)> {
    match address.octets() {
        [10, 201, 0, 1] => Some((SITE, vec![3])),
        [10, 201, 0, 2] => Some((OTHER_SITE, vec![4, 5])),
        [10, 201, 0, 3] => Some((POOR_SITE, vec![])),
        _ => None,
    }
}

/// Somebody who asks over UDP.
fn asker(address: &str) -> Client {
    Client {
        address: address.parse().expect("an address"),
        ..client(Transport::Udp)
    }
}

fn client(transport: Transport) -> Client {
    Client {
        address: SocketAddrV4::new(Ipv4Addr::new(10, 201, 0, 1), 40_000),
        transport,
        connection: u64::from(transport == Transport::Tcp),
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

fn query(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

fn a(owner: &str, address: Ipv4Addr, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(address)))
}

fn alias(owner: &str, to: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
}

/// The answer of an honest server to a message of the proxy.
fn answer(asked: &[u8], records: Vec<Record>) -> Message {
    let asked = Message::from_vec(asked).expect("the proxy asks in DNS");
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.queries = asked.queries;
    message.add_answers(records);
    message
}

/// The proxy, the controller and the clock.
struct World {
    proxy: Proxy,
    now_ms: u64,
    /// Names of the rule that the site may reach end so.
    allowed: &'static str,
    /// Whether addresses can be opened.
    opens: bool,
    opened: Vec<(String, Vec<Ipv4Addr>, u32)>,
    /// Sites that addresses were opened for.
    opened_for: Vec<u32>,
    asked: Vec<(Ask, SocketAddr, Transport, Vec<u8>)>,
    answers: Vec<Message>,
    /// To whom each of them went.
    told: Vec<Client>,
    reports: Vec<Report>,
    closed: Vec<Ask>,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            proxy: Proxy::new(settings),
            now_ms: 1_000,
            allowed: "av.example",
            opens: true,
            opened: Vec::new(),
            opened_for: Vec::new(),
            asked: Vec::new(),
            answers: Vec::new(),
            told: Vec::new(),
            reports: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// A question of the site, over UDP.
    fn ask(&mut self, message: &Message) {
        self.send(client(Transport::Udp), &message.to_vec().expect("a message"));
    }

    fn send(&mut self, client: Client, octets: &[u8]) {
        self.proxy.handle_query(self.now_ms, client, octets);
        self.act();
    }

    /// A message on the socket of the last attempt.
    fn upstream(&mut self, message: &Message) {
        let ask = self.asked.last().expect("upstream was asked").0;
        self.on(ask, &message.to_vec().expect("a message"));
    }

    fn on(&mut self, ask: Ask, octets: &[u8]) {
        self.proxy.handle_answer(self.now_ms, ask, octets, 0x4242);
        self.act();
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            self.proxy.handle_timeout(self.now_ms, || 0x4243);
            self.act();
        }
        self.now_ms = until;
    }

    fn act(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::Admit { token, client, name } => {
                    let admission = site_at(*client.address.ip()).map(|(site, mut sets)| {
                        sets.retain(|_| name.ends_with(self.allowed));
                        Admission { site, sets }
                    });
                    self.proxy.handle_admission(self.now_ms, token, admission, 0x4241);
                }
                Output::Open {
                    token,
                    site,
                    sets,
                    name,
                    addresses,
                    ttl_s,
                } => {
                    let own = [SITE, OTHER_SITE].iter().position(|known| *known == site);
                    let own = own.map(|place| [vec![3], vec![4, 5]][place].clone());
                    assert_eq!(Some(sets), own, "each site's own sets");
                    let before = self.answers.len();
                    if self.opens {
                        self.opened.push((name, addresses, ttl_s));
                        self.opened_for.push(site);
                    }
                    assert_eq!(self.answers.len(), before, "nothing is told before it is open");
                    self.proxy.handle_opened(token, self.opens);
                }
                Output::Ask {
                    ask,
                    server,
                    transport,
                    message,
                } => self.asked.push((ask, server, transport, message)),
                Output::Close { ask } => self.closed.push(ask),
                Output::Answer { client, message } => {
                    self.told.push(client);
                    self.answers
                        .push(Message::from_vec(&message).expect("the proxy answers in DNS"));
                }
                Output::Report(report) => self.reports.push(report),
            }
        }
    }

    fn asked_last(&self) -> &[u8] {
        &self.asked.last().expect("upstream was asked").3
    }

    fn answered(&self) -> &Message {
        self.answers.last().expect("an answer")
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        let address = |record: &Record| match record.data {
            RData::A(A(address)) => Some(address),
            _ => None,
        };
        self.answered().answers.iter().filter_map(address).collect()
    }
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[test]
fn an_allowed_name_is_opened_and_then_told() {
    let mut world = World::new(settings());
    world.ask(&query("Update.AV.example", RecordType::A));
    assert_eq!((world.asked.len(), world.answers.len()), (1, 0));
    let asked = Message::from_vec(world.asked_last()).expect("a message");
    // RFC 5452 section 9.2: an ID of its own. The name goes out in lower case.
    assert_eq!(asked.metadata.id, 0x4241);
    assert!(asked.metadata.recursion_desired);
    assert_eq!(asked.queries[0].name.to_ascii(), "update.av.example.");
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 120)]);
    world.upstream(&honest);
    assert_eq!(
        world.opened,
        [("update.av.example".to_owned(), vec![UPDATE], 120)]
    );
    let told = world.answered();
    assert_eq!((told.metadata.id, code(told)), (0x1234, ResponseCode::NoError));
    assert!(told.metadata.recursion_available && told.metadata.message_type == MessageType::Response);
    // The question comes back as it was asked.
    assert!(told.queries[0].name.eq_case(&name("Update.AV.example")));
    assert_eq!((world.addresses(), told.answers[0].ttl), (vec![UPDATE], 120));
    assert_eq!(world.closed, [world.asked[0].0]);
    assert_eq!(world.proxy.outstanding(), 0);
    assert_eq!(world.proxy.counters().opened, 1);
}

#[test]
fn another_name_is_refused_and_nobody_upstream_hears_of_it() {
    let mut world = World::new(settings());
    world.ask(&query("exfiltrate.evil.example", RecordType::A));
    world.ask(&query("exfiltrate.evil.example", RecordType::TXT));
    assert!(world.asked.is_empty() && world.opened.is_empty());
    assert!(
        world
            .answers
            .iter()
            .all(|told| code(told) == ResponseCode::Refused)
    );
    assert_eq!(world.answers.len(), 2);
    let refused = Report::Refused {
        site: SITE,
        name: "exfiltrate.evil.example".to_owned(),
    };
    assert_eq!(world.reports[0], refused);
    assert_eq!(world.proxy.counters().refused, 2);
}

/// Only IPv4 passes, and only what was told as an address is open: there is nothing else to tell.
#[test]
fn other_kinds_of_records_are_empty() {
    let mut world = World::new(settings());
    for kind in [
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::SVCB,
        RecordType::TXT,
        RecordType::ANY,
    ] {
        world.ask(&query("update.av.example", kind));
        let told = world.answered();
        assert_eq!(
            (code(told), told.answers.len()),
            (ResponseCode::NoError, 0),
            "{kind}"
        );
    }
    assert!(world.asked.is_empty());
}

#[test]
fn who_is_no_site_hears_nothing() {
    let mut world = World::new(settings());
    let stranger = Client {
        address: "10.201.0.99:40000".parse().expect("an address"),
        ..client(Transport::Udp)
    };
    world.send(
        stranger,
        &query("update.av.example", RecordType::A)
            .to_vec()
            .expect("a message"),
    );
    assert!(world.answers.is_empty() && world.asked.is_empty());
    assert_eq!(world.proxy.counters().unknown_client, 1);
}

/// Regression: a query was read to its last record before anything was decided, and names that lead through thousands of
/// others had one message of a site keep the proxy from all others for most of a second.
#[test]
fn a_query_is_not_read_beyond_what_a_query_has() {
    let mut world = World::new(settings());
    let mut refused = |message: &Message| {
        world.ask(message);
        assert_eq!(code(world.answered()), ResponseCode::FormErr);
        world.pass(1_000);
    };
    let usual = query("update.av.example", RecordType::A);
    let record = || a("update.av.example", UPDATE, 60);
    let mut with_answer = usual.clone();
    with_answer.add_answer(record());
    refused(&with_answer);
    let mut with_authority = usual.clone();
    with_authority.add_authority(record());
    refused(&with_authority);
    let mut with_additional = usual.clone();
    (0..3).for_each(|_| {
        with_additional.add_additional(record());
    });
    refused(&with_additional);
    let padded = |octets: usize| {
        let mut edns = Edns::new();
        edns.options_mut()
            .insert(EdnsOption::Unknown(12, vec![0; octets]));
        let mut message = usual.clone();
        message.set_edns(edns);
        message
    };
    let short = padded(0).to_vec().expect("a message").len();
    refused(&padded(usize::from(PAYLOAD_MAX) - short + 1));
    assert!(world.asked.is_empty());
    assert_eq!(world.proxy.counters().malformed, 4);
    // RFC 7830: clients pad.
    world.ask(&padded(usize::from(PAYLOAD_MAX) - short));
    assert_eq!(world.asked.len(), 1);
}

/// RFC 1034 section 3.6.2: aliases are followed within the answer; what lies beside the way is neither told nor opened.
#[test]
fn aliases_lead_to_the_addresses_that_are_opened() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    let honest = answer(
        world.asked_last(),
        vec![
            a("edge.cdn.example", UPDATE, 30),
            alias("update.av.example", "av.cdn.example", 3_600),
            a("unrelated.example", Ipv4Addr::new(198, 51, 100, 99), 3_600),
            alias("AV.cdn.example", "Edge.cdn.example", 60),
            a("edge.cdn.example", MIRROR, 60),
            Record::from_rdata(
                name("edge.cdn.example"),
                60,
                RData::TXT(TXT::new(vec!["x".to_owned()])),
            ),
        ],
    );
    world.upstream(&honest);
    assert_eq!(
        world.opened,
        [("update.av.example".to_owned(), vec![UPDATE, MIRROR], 30)]
    );
    assert_eq!(world.addresses(), [UPDATE, MIRROR]);
    let kinds: Vec<_> = world.answered().answers.iter().map(Record::record_type).collect();
    assert_eq!(
        kinds,
        [RecordType::CNAME, RecordType::CNAME, RecordType::A, RecordType::A]
    );
}

#[test]
fn aliases_in_a_circle_are_no_answer() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    for _ in 0..4 {
        let circle = answer(
            world.asked_last(),
            vec![
                alias("update.av.example", "b.example", 60),
                alias("b.example", "update.av.example", 60),
            ],
        );
        world.upstream(&circle);
    }
    assert_eq!(code(world.answered()), ResponseCode::ServFail);
    assert!(world.opened.is_empty());
}

/// RFC 5452 section 3 and 4: a forger has to hit the ID and the question; one that misses does not end the wait either.
#[test]
fn forged_answers_are_not_believed_and_the_true_one_still_is() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    let evil = Ipv4Addr::new(198, 51, 100, 66);
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    let forged = answer(world.asked_last(), vec![a("update.av.example", evil, 60)]);
    let mut forgeries = Vec::new();
    let mut other_id = forged.clone();
    other_id.metadata.id ^= 1;
    forgeries.push(other_id);
    let mut other_name = forged.clone();
    other_name.queries = vec![Query::query(name("www.av.example"), RecordType::A)];
    forgeries.push(other_name);
    let mut other_kind = forged.clone();
    other_kind.queries[0].query_type = RecordType::AAAA;
    forgeries.push(other_kind);
    let mut other_class = forged.clone();
    other_class.queries[0].query_class = DNSClass::CH;
    forgeries.push(other_class);
    let mut no_question = forged.clone();
    no_question.queries.clear();
    forgeries.push(no_question);
    let mut a_query = forged.clone();
    a_query.metadata.message_type = MessageType::Query;
    forgeries.push(a_query);
    let count = forgeries.len() as u64 + 1;
    for forgery in forgeries {
        world.upstream(&forgery);
    }
    let ask = world.asked[0].0;
    world.on(ask, b"no DNS at all");
    assert!(world.answers.is_empty() && world.opened.is_empty() && world.closed.is_empty());
    world.upstream(&honest);
    assert_eq!(world.addresses(), [UPDATE]);
    assert_eq!(world.proxy.counters().spoofed, count);
    // The race is over: nothing that comes late changes what was told or opened.
    world.on(ask, &forged.to_vec().expect("a message"));
    assert_eq!((world.answers.len(), world.opened.len()), (1, 1));
}

#[test]
fn a_silent_server_gives_way_to_the_next_and_all_silent_is_a_failure() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    world.pass(ASK_MS);
    let servers: Vec<_> = world.asked.iter().map(|asked| asked.1).collect();
    assert_eq!(servers, [server(1), server(2)]);
    // The first one's answer comes too late: its socket is closed, and the second one's ID is another.
    let (late, _, _, message) = world.asked[0].clone();
    let answer_late = answer(&message, vec![a("update.av.example", UPDATE, 60)]);
    world.on(late, &answer_late.to_vec().expect("a message"));
    assert!(world.answers.is_empty());
    world.pass(QUESTION_MS);
    assert_eq!(code(world.answered()), ResponseCode::ServFail);
    assert_eq!((world.answers.len(), world.proxy.outstanding()), (1, 0));
    assert_eq!(world.closed.len(), world.asked.len());
}

#[test]
fn a_server_that_fails_or_refuses_gives_way_to_the_next() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    let mut failed = answer(world.asked_last(), vec![]);
    failed.metadata.response_code = ResponseCode::ServFail;
    world.upstream(&failed);
    assert_eq!(world.asked[1].1, server(2));
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(world.addresses(), [UPDATE]);
}

/// RFC 2181 section 9, RFC 7766 section 5: an answer that was cut is fetched over TCP, from the same server.
#[test]
fn an_answer_that_was_cut_is_fetched_over_tcp() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    let mut cut = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    cut.metadata.truncation = true;
    world.upstream(&cut);
    let (_, at, transport, _) = world.asked[1].clone();
    assert_eq!((at, transport), (server(1), Transport::Tcp));
    assert!(world.opened.is_empty());
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(world.addresses(), [UPDATE]);
}

/// DNS rebinding: a name must not open the center, a site, or the gateway itself.
#[test]
fn a_name_that_leads_inside_opens_nothing() {
    for inside in [
        "10.100.0.10",
        "127.0.0.1",
        "192.168.1.10",
        "203.0.113.5",
        "169.254.169.254",
        "0.0.0.0",
    ] {
        let inside: Ipv4Addr = inside.parse().expect("an address");
        let mut world = World::new(settings());
        world.ask(&query("update.av.example", RecordType::A));
        let records = vec![
            a("update.av.example", UPDATE, 60),
            a("update.av.example", inside, 60),
        ];
        let honest = answer(world.asked_last(), records);
        world.upstream(&honest);
        assert_eq!(code(world.answered()), ResponseCode::Refused, "{inside}");
        assert!(world.opened.is_empty() && world.addresses().is_empty());
        let report = Report::Private {
            site: SITE,
            name: "update.av.example".to_owned(),
            address: inside,
        };
        assert_eq!(world.reports, [report]);
    }
}

#[test]
fn what_cannot_be_opened_is_not_told() {
    let mut world = World::new(settings());
    world.opens = false;
    world.ask(&query("update.av.example", RecordType::A));
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(
        (code(world.answered()), world.addresses()),
        (ResponseCode::ServFail, vec![])
    );
}

/// RFC 2181 section 8: a TTL with the highest bit set is zero.
#[test]
fn long_ttls_are_cut_and_impossible_ones_are_zero() {
    for (ttl, told) in [(299, 299), (86_400, 300), (0, 0), (0x8000_0000, 0)] {
        let mut world = World::new(settings());
        world.ask(&query("update.av.example", RecordType::A));
        let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, ttl)]);
        world.upstream(&honest);
        assert_eq!(
            (world.opened[0].2, world.answered().answers[0].ttl),
            (told, told),
            "{ttl}"
        );
    }
}

#[test]
fn no_such_name_is_told_as_it_is() {
    let mut world = World::new(settings());
    world.ask(&query("gone.av.example", RecordType::A));
    let mut none = answer(world.asked_last(), vec![]);
    none.metadata.response_code = ResponseCode::NXDomain;
    world.upstream(&none);
    assert_eq!(code(world.answered()), ResponseCode::NXDomain);
    assert!(world.opened.is_empty());
}

/// RFC 1035 section 4.2.1, RFC 6891 section 6.2.5: an answer fits what the client can take, or is marked as cut.
#[test]
fn an_answer_that_does_not_fit_is_cut_over_udp_and_whole_over_tcp() {
    let long = format!(
        "{}.av.example",
        ["a".repeat(60), "b".repeat(60), "c".repeat(60)].join(".")
    );
    let records = |count: u8| {
        (1..=count)
            .map(|last| a(&long, Ipv4Addr::new(198, 51, 100, last), 60))
            .collect()
    };
    let mut plain = World::new(settings());
    plain.ask(&query(&long, RecordType::A));
    let many: Vec<Record> = records(40);
    let honest = answer(plain.asked_last(), many.clone());
    plain.upstream(&honest);
    assert_eq!(plain.opened[0].1.len(), ADDRESSES_MAX);
    assert!(
        !plain.answered().metadata.truncation,
        "names are compressed: sixteen fit"
    );
    // A chain of long aliases does not.
    let aliases = |ask: &[u8]| {
        let hop = |number: usize| {
            format!(
                "h{number}.{}.example",
                ["x".repeat(50), "y".repeat(50)].join(".z.")
            )
        };
        let mut records = vec![alias(&long, &hop(0), 60)];
        let far = |number: usize| format!("{}.{number}.test", "w".repeat(60));
        records.push(alias(&hop(0), &far(1), 60));
        records.extend((1..9).map(|number| alias(&far(number), &far(number + 1), 60)));
        records.push(a(&far(9), UPDATE, 60));
        answer(ask, records)
    };
    for (edns, transport, is_cut) in [
        (None, Transport::Udp, true),
        (Some(PAYLOAD_MAX), Transport::Udp, false),
        (None, Transport::Tcp, false),
    ] {
        let mut world = World::new(settings());
        let mut asked = query(&long, RecordType::A);
        if let Some(size) = edns {
            let mut option = Edns::new();
            option.set_max_payload(size);
            asked.set_edns(option);
        }
        world.send(client(transport), &asked.to_vec().expect("a message"));
        let honest = aliases(world.asked_last());
        world.upstream(&honest);
        let told = world.answered();
        assert_eq!(
            (told.metadata.truncation, told.answers.is_empty()),
            (is_cut, is_cut),
            "{edns:?} {transport:?}"
        );
        assert_eq!(told.edns.is_some(), edns.is_some());
    }
}

/// RFC 6891 section 6.1.3.
#[test]
fn another_version_of_edns_is_refused_by_number() {
    let mut world = World::new(settings());
    let mut asked = query("update.av.example", RecordType::A);
    let mut option = Edns::new();
    option.set_version(1);
    asked.set_edns(option);
    world.ask(&asked);
    let told = world.answered();
    // BADVERS; hickory reads it by its other name.
    assert_eq!(u16::from(code(told)), 16);
    assert_eq!(told.edns.as_ref().map(Edns::version), Some(0));
}

#[test]
fn what_is_no_query_is_answered_as_such_or_not_at_all() {
    let mut world = World::new(settings());
    let mut response = query("update.av.example", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    world.ask(&response);
    world.send(client(Transport::Udp), b"\x12\x34\x00");
    world.send(client(Transport::Udp), b"");
    assert!(world.answers.is_empty(), "an answer is never answered");
    let mut update = query("update.av.example", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    world.ask(&update);
    assert_eq!(code(world.answered()), ResponseCode::NotImp);
    let mut two = query("update.av.example", RecordType::A);
    two.add_query(Query::query(name("b.av.example"), RecordType::A));
    world.ask(&two);
    assert_eq!(code(world.answered()), ResponseCode::FormErr);
    let mut chaos = query("update.av.example", RecordType::A);
    chaos.queries[0].query_class = DNSClass::CH;
    world.ask(&chaos);
    assert_eq!(code(world.answered()), ResponseCode::Refused);
    // A label that holds a dot must not read like two.
    let mut dotted = query("x.example", RecordType::A);
    dotted.queries[0].name =
        Name::from_labels([&b"evil.av"[..], b"example"]).expect("labels may hold any octet");
    world.ask(&dotted);
    assert_eq!(code(world.answered()), ResponseCode::Refused);
    assert!(world.asked.is_empty());
}

#[test]
fn a_site_that_asks_too_often_or_too_much_at_once_waits() {
    let mut world = World::new(settings());
    for number in 0..30 {
        world.ask(&query(&format!("{number}.av.example"), RecordType::A));
    }
    // Ten a second, of which eight wait upstream.
    let counters = world.proxy.counters();
    assert_eq!(
        (world.asked.len(), counters.no_room, counters.over_rate),
        (8, 2, 20)
    );
    assert!(world.answers.is_empty());
    world.pass(QUESTION_MS + ASK_MS);
    assert_eq!((world.answers.len(), world.proxy.outstanding()), (8, 0));
    world.ask(&query("update.av.example", RecordType::A));
    assert_eq!(world.proxy.outstanding(), 1, "there is room again");
}

/// A flood of one address is not even read, and another site is served meanwhile.
#[test]
fn a_flood_of_one_site_does_not_silence_another() {
    let mut world = World::new(settings());
    let flooder = Client {
        address: "10.201.0.66:1".parse().expect("an address"),
        ..client(Transport::Udp)
    };
    let octets = query("update.av.example", RecordType::A)
        .to_vec()
        .expect("a message");
    for _ in 0..100_000 {
        world.send(flooder, &octets);
    }
    let counters = world.proxy.counters();
    assert_eq!((counters.over_rate, counters.unknown_client), (99_990, 10));
    world.ask(&query("update.av.example", RecordType::A));
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(world.addresses(), [UPDATE]);
}

/// Regression: all port blocks of an address had one bucket, which the first to flood emptied.
#[test]
fn a_flood_from_one_port_block_does_not_silence_the_other_sites_of_its_address() {
    let address = Ipv4Addr::new(10, 201, 0, 66);
    // A pool beside it has smaller blocks, which is nothing to this one.
    let other = Ipv4Addr::new(10, 202, 0, 1);
    let pools = [(other, other, 64), (address, address, 2_048)];
    let mut world = World::new(Settings {
        shares: Shares::new(pools),
        ..settings()
    });
    let octets = query("update.av.example", RecordType::A)
        .to_vec()
        .expect("a message");
    let at_port = |port| Client {
        // Nobody has it: what comes through is counted by itself.
        address: SocketAddrV4::new(address, port),
        ..client(Transport::Udp)
    };
    let counted = |world: &World| {
        let counters = world.proxy.counters();
        (counters.over_rate, counters.unknown_client)
    };
    for port in (2_048..4_096).cycle().take(100_000) {
        world.send(at_port(port), &octets);
    }
    assert_eq!(counted(&world), (99_990, 10));
    for port in [2_047, 4_096] {
        world.send(at_port(port), &octets);
    }
    assert_eq!(counted(&world), (99_990, 12));
    // Many blocks together do not ask without an end.
    let shares = 100_u16;
    let mut crowd = World::new(Settings {
        shares: Shares::new([(address, address, 64)]),
        ..settings()
    });
    for number in 0..shares * 20 {
        crowd.send(at_port(1_024 + number % shares * 64), &octets);
    }
    assert_eq!(counted(&crowd), (1_500, 500));
}

#[test]
fn no_more_questions_wait_than_there_is_room_for() {
    let mut world = World::new(Settings {
        outstanding_max: 3,
        ..settings()
    });
    for _ in 0..5 {
        world.ask(&query("update.av.example", RecordType::A));
    }
    assert_eq!(
        (world.proxy.outstanding(), world.proxy.counters().no_room),
        (3, 2)
    );
}

/// What an upstream server may send, right and wrong.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let owner = || prop::sample::select(&["update.av.example", "b.example", "c.example", "evil.example"][..]);
    let address = prop::sample::select(
        &[
            [198, 51, 100, 80],
            [198, 51, 100, 81],
            [10, 0, 0, 1],
            [127, 0, 0, 1],
        ][..],
    );
    let record = prop_oneof![
        2 => (owner(), address, any::<u32>()).prop_map(|(owner, to, ttl)| a(owner, Ipv4Addr::from(to), ttl)),
        1 => (owner(), owner(), any::<u32>()).prop_map(|(owner, to, ttl)| alias(owner, to, ttl)),
    ];
    prop::collection::vec(record, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// Whatever comes from upstream: what is told is open, what is open was told by a record on the way from the name, and
    /// nothing inside is ever open. Every question ends.
    #[test]
    fn nothing_is_told_that_is_not_open(
        answers in prop::collection::vec((records(), any::<bool>(), any::<(u8, usize)>(), any::<bool>()), 1..6),
    ) {
        let mut world = World::new(settings());
        world.ask(&query("update.av.example", RecordType::A));
        for (records, cut, (flip, at), mutate) in answers {
            let Some((ask, _, _, asked)) = world.asked.last().cloned() else { break };
            let mut message = answer(&asked, records.clone());
            message.metadata.truncation = cut;
            let mut octets = message.to_vec().expect("a message");
            if mutate {
                let place = at % octets.len();
                octets[place] ^= flip;
            }
            let before = world.opened.len();
            world.on(ask, &octets);
            if !mutate && world.opened.len() > before {
                for address in &world.opened[before].1 {
                    let told = |record: &Record| matches!(record.data, RData::A(A(found)) if found == *address);
                    prop_assert!(records.iter().any(told));
                }
                break;
            }
        }
        let private = settings().private;
        for (_, addresses, ttl_s) in &world.opened {
            prop_assert!(addresses.iter().all(|address| !private.contains(*address)));
            prop_assert!(*ttl_s <= 300);
        }
        world.pass(QUESTION_MS + 2 * ASK_MS);
        prop_assert_eq!(world.answers.len(), 1);
        prop_assert_eq!(world.proxy.outstanding(), 0);
        let opened: Vec<Ipv4Addr> = world.opened.iter().flat_map(|opened| opened.1.clone()).collect();
        prop_assert!(world.addresses().iter().all(|address| opened.contains(address)));
    }

    /// Whatever comes from a site.
    #[test]
    fn no_octets_of_a_site_are_too_strange(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut world = World::new(settings());
        world.send(client(Transport::Udp), &octets);
        world.pass(QUESTION_MS + 2 * ASK_MS);
        prop_assert!(world.opened.is_empty());
        prop_assert_eq!(world.proxy.outstanding(), 0);
    }
}

//! DNS messages, as far as the proxy needs them: the question of a site, the question to an upstream server, its answer,
//! and the answer to the site. Reading and writing is hickory's; what is believed is decided here.
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query as Entry, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::config::host_name;

/// Octets of a UDP payload that no path fragments (the DNS Flag Day 2020 value), ours and upstream.
pub const PAYLOAD_MAX: u16 = 1_232;
/// Octets of a UDP answer to who says nothing of its size (RFC 1035 section 4.2.1).
const PAYLOAD_PLAIN: u16 = 512;
/// Aliases that are followed from a name to its addresses.
const CHAIN_MAX: usize = 12;
/// Addresses of one answer that are told and opened.
pub const ADDRESSES_MAX: usize = 16;
/// Octets of a header (RFC 1035 section 4.1.1): what is shorter is not answered.
const HEADER: usize = 12;
/// Octets of a query that is read, over TCP too: no more is announced for UDP.
const QUERY_MAX: usize = PAYLOAD_MAX as usize;
/// Records behind the question: EDNS and a signature.
const ADDITIONAL_MAX: u16 = 2;

/// What a site asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Header of the query.
    metadata: Metadata,
    /// The question as it was asked: the case of its letters comes back.
    entry: Entry,
    /// The name as rules have it.
    pub name: String,
    /// Octets that the answer may have over UDP.
    payload_max: u16,
    /// It came with EDNS, and so does the answer.
    edns: bool,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    Addresses,
    /// Something else that a name may have: there is none, since the packet path carries IPv4 alone and opens addresses
    /// that are told as such alone.
    Other,
}

/// Why a query is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no query that could be answered: it is dropped.
    Silently,
    /// This is the answer.
    With(Vec<u8>),
}

impl Question {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Refused`], with the answer that tells why where there is one.
    pub fn read(octets: &[u8]) -> Result<Self, Refused> {
        let (id, flags) = match octets {
            [i0, i1, f0, ..] if octets.len() >= HEADER => (u16::from_be_bytes([*i0, *i1]), *f0),
            _ => return Err(Refused::Silently),
        };
        // An answer is never answered: two proxies would go on for ever.
        if flags & 0x80 != 0 {
            return Err(Refused::Silently);
        }
        let refuse = |code| Refused::With(written(&Message::error_msg(id, OpCode::Query, code)));
        if !is_short(octets) {
            return Err(refuse(ResponseCode::FormErr));
        }
        let Ok(mut message) = Message::from_vec(octets) else {
            return Err(refuse(ResponseCode::FormErr));
        };
        if message.metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Err(Refused::With(bad_version(&message)));
        }
        let (Some(entry), true) = (message.queries.pop(), message.queries.is_empty()) else {
            return Err(refuse(ResponseCode::FormErr));
        };
        let mut question = Self {
            metadata: message.metadata,
            name: String::new(),
            payload_max: message.edns.as_ref().map_or(PAYLOAD_PLAIN, |edns| {
                edns.max_payload().clamp(PAYLOAD_PLAIN, PAYLOAD_MAX)
            }),
            edns: message.edns.is_some(),
            entry,
        };
        match (question.entry.query_class, host_name(question.entry.name.iter())) {
            (DNSClass::IN, Some(name)) => question.name = name,
            // No rule names it, whatever it is.
            _ => return Err(Refused::With(question.answer(ResponseCode::Refused))),
        }
        Ok(question)
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.entry.query_type {
            RecordType::A => Kind::Addresses,
            _ => Kind::Other,
        }
    }

    /// An answer without records.
    #[must_use]
    pub fn answer(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.response();
        message.metadata.response_code = code;
        written(&message)
    }

    /// The answer to a question that is not for addresses.
    #[must_use]
    pub fn nothing(&self) -> Vec<u8> {
        self.answer(ResponseCode::NoError)
    }

    /// The name may not be asked for.
    #[must_use]
    pub fn refused(&self) -> Vec<u8> {
        self.answer(ResponseCode::Refused)
    }

    /// No upstream server has a usable answer.
    #[must_use]
    pub fn failed(&self) -> Vec<u8> {
        self.answer(ResponseCode::ServFail)
    }

    /// What an upstream server has answered, with this TTL in seconds. Over UDP, one that is too long is cut: the site
    /// asks again over TCP (RFC 2181 section 9).
    #[must_use]
    pub fn answered(&self, answer: &Answer, ttl_s: u32, udp: bool) -> Vec<u8> {
        let mut message = self.response();
        let mut owner = self.entry.name.clone();
        message.metadata.response_code = answer.code;
        for alias in &answer.aliases {
            let data = RData::CNAME(CNAME(alias.clone()));
            message.add_answer(Record::from_rdata(owner, ttl_s, data));
            owner = alias.clone();
        }
        for address in &answer.addresses {
            let data = RData::A(A(*address));
            message.add_answer(Record::from_rdata(owner.clone(), ttl_s, data));
        }
        let whole = written(&message);
        if !udp || whole.len() <= usize::from(self.payload_max) {
            return whole;
        }
        let mut cut = self.response();
        cut.metadata.truncation = true;
        written(&cut)
    }

    fn response(&self) -> Message {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.recursion_available = true;
        // Nothing here is checked by DNSSEC.
        message.metadata.checking_disabled = false;
        message.add_query(self.entry.clone());
        if self.edns {
            message.set_edns(edns());
        }
        message
    }

    /// The same question for an upstream server, under another ID and in lower case.
    #[must_use]
    pub fn forward(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let name = self.entry.name.to_lowercase();
        message.add_query(Entry::query(name, RecordType::A));
        message.set_edns(edns());
        written(&message)
    }

    /// Reads the answer of an upstream server to [`Question::forward`].
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn read_answer(&self, id: u16, octets: &[u8]) -> Result<Answer, Unusable> {
        let message = Message::from_vec(octets).map_err(|_| Unusable::NotAnAnswer)?;
        let metadata = &message.metadata;
        let ours = metadata.id == id
            && metadata.message_type == MessageType::Response
            && metadata.op_code == OpCode::Query
            && matches!(message.queries.as_slice(), [asked]
                if asked.name.eq_ignore_root(&self.entry.name)
                    && asked.query_type == RecordType::A
                    && asked.query_class == DNSClass::IN);
        if !ours {
            return Err(Unusable::NotAnAnswer);
        }
        if metadata.truncation {
            return Err(Unusable::Truncated);
        }
        match metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => self.follow(&message),
            code => Err(Unusable::Failed(code)),
        }
    }

    /// Follows the aliases of an answer (RFC 1034 section 3.6.2) from the name that was asked for to its addresses.
    /// Records beside the way are not believed.
    fn follow(&self, message: &Message) -> Result<Answer, Unusable> {
        let mut answer = Answer {
            code: message.metadata.response_code,
            aliases: Vec::new(),
            addresses: Vec::new(),
            ttl_s: u32::MAX,
        };
        let mut owner = self.entry.name.to_lowercase();
        owner.set_fqdn(true);
        let of = |record: &Record, owner: &Name| {
            record.dns_class == DNSClass::IN && record.name.eq_ignore_root(owner)
        };
        loop {
            let alias = message.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(CNAME(alias)) if of(record, &owner) => Some((alias, record.ttl)),
                _ => None,
            });
            let Some((alias, ttl_s)) = alias else { break };
            if answer.aliases.len() == CHAIN_MAX {
                return Err(Unusable::Chain);
            }
            answer.ttl_s = answer.ttl_s.min(ttl(ttl_s));
            owner = alias.to_lowercase();
            answer.aliases.push(owner.clone());
        }
        for record in &message.answers {
            if let RData::A(A(address)) = record.data
                && of(record, &owner)
                && !answer.addresses.contains(&address)
            {
                if answer.addresses.len() == ADDRESSES_MAX {
                    break;
                }
                answer.addresses.push(address);
                answer.ttl_s = answer.ttl_s.min(ttl(record.ttl));
            }
        }
        if answer.addresses.is_empty() {
            // No such name, or none with addresses: told, but not for long (without an SOA there is no negative TTL,
            // RFC 2308 section 5).
            answer.ttl_s = 0;
            answer.aliases.clear();
        } else {
            answer.code = ResponseCode::NoError;
        }
        Ok(answer)
    }
}

/// A usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NOERROR or NXDOMAIN.
    pub code: ResponseCode,
    /// Aliases from the name that was asked for to the one that has the addresses.
    pub aliases: Vec<Name>,
    /// Addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Lowest TTL on the way, in seconds.
    pub ttl_s: u32,
}

/// Why an upstream server's message is no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is malformed, or answers another question: whoever sent it, the true answer may still come.
    NotAnAnswer,
    /// It did not fit: the server is to be asked over TCP.
    Truncated,
    /// The server has none.
    Failed(ResponseCode),
    /// Aliases in a circle, or too many.
    Chain,
}

/// RFC 2181 section 8: the highest bit is zero, else the TTL is to be taken for zero.
fn ttl(ttl_s: u32) -> u32 {
    if ttl_s > i32::MAX.cast_unsigned() {
        0
    } else {
        ttl_s
    }
}

/// Whether a message is no longer than a query has to be: one question, no answers. Not every site is its own master, and
/// thousands of records whose names lead through thousands of others keep the reader busy for most of a second.
fn is_short(octets: &[u8]) -> bool {
    let counts = octets.get(4..HEADER).unwrap_or_default().as_chunks::<2>().0;
    let counts = counts.iter().map(|count| u16::from_be_bytes(*count));
    let most = [1, 0, 0, ADDITIONAL_MAX];
    octets.len() <= QUERY_MAX && counts.zip(most).all(|(count, most)| count <= most)
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_MAX).set_version(0);
    edns
}

/// RFC 6891 section 6.1.3: BADVERS, with our version.
fn bad_version(query: &Message) -> Vec<u8> {
    let mut message = Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::BADVERS);
    let mut edns = edns();
    edns.set_rcode_high(ResponseCode::BADVERS.high());
    message.set_edns(edns);
    written(&message)
}

/// A message that was built here fits its format; were it not so, an empty one is no message and is not sent.
fn written(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

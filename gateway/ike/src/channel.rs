//! The protected message channel of an IKE SA: sealing, opening, fragments, and the window of one message
//! in each direction (RFC 7296 sections 2.1 to 2.3).

use zeroize::Zeroizing;

use crate::{
    crypto::{
        cipher::{SkOpener, SkSealer},
        random::Random,
    },
    exchange::ike_intermediate::HEAD_LEN,
    pmtu::{self, Plain},
    wire::{
        Chain, Exchange, Header, Payload, WireError,
        encrypted::{self, ProtectError},
        fragment::{self, Added, FragmentFields, Reassembly},
        header::HEADER_LEN,
        payload_type,
    },
};

/// So many message IDs are left for the rekeying of the IKE SA, its repetitions after refusals, and its end.
const IDS_RESERVED: u32 = 1_000;
/// When smaller fragments would be no more than before, they are made smaller by this, down to the other.
const CUT_STEP: usize = 64;
const CUT_MIN: usize = 256;

/// Sealed datagrams of one message, without the non-ESP marker.
pub(crate) type Datagrams = Vec<Vec<u8>>;

/// What an authentic datagram turned out to be.
pub(crate) enum Opened {
    /// A request that was not seen before: type of its first payload, and all of them.
    Request(u8, Zeroizing<Vec<u8>>),
    /// The response that is waited for.
    Response(u8, Zeroizing<Vec<u8>>),
    /// The request before, which was answered: answer again.
    Repeated,
    /// A fragment that was not seen before; more are needed.
    Partial,
    /// A fragment that came before, or is of the request that was answered; nothing is to be done.
    Stale,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    Malformed,
    BadIntegrity,
    Unexpected,
}

impl From<WireError> for Dropped {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

impl From<ProtectError> for Dropped {
    fn from(error: ProtectError) -> Self {
        match error {
            ProtectError::Wire(_) => Self::Malformed,
            ProtectError::Cipher(_) => Self::BadIntegrity,
        }
    }
}

/// Where in the window a datagram stands.
enum Place {
    NewRequest,
    OldRequest,
    Response,
}

pub(crate) struct Channel {
    spi_i: u64,
    spi_r: u64,
    /// We are the original initiator of this IKE SA.
    initiator: bool,
    sealer: SkSealer,
    opener: SkOpener,
    /// The keys before the request answered last changed them: its repetitions and their answers have these.
    before: Option<(SkSealer, SkOpener)>,
    /// ID of our next request.
    next_request: u32,
    /// ID of our request that waits for its response.
    awaited_response: Option<u32>,
    /// ID of the peer's next request.
    expected_request: u32,
    /// The answer to the peer's request before that.
    answered: Datagrams,
    requests: Reassembly,
    responses: Reassembly,
    /// Messages longer than this are sent in fragments.
    message_max: usize,
    /// What waits for its response, if it may be too long for the path.
    asked: Option<Plain>,
    /// The answer to the peer's request before, likewise.
    answer: Option<Plain>,
    /// How often the peer asked for that answer again, and in how many fragments it had asked at first.
    asked_again: (u32, u16),
    /// Longest fragment of the request that is being put together.
    longest_fragment: usize,
}

impl Channel {
    /// The channel of an IKE SA whose next messages have ID `first_id` (1 after IKE_SA_INIT, 0 after a
    /// rekey).
    pub(crate) fn new(
        spis: (u64, u64),
        initiator: bool,
        sealer: SkSealer,
        opener: SkOpener,
        (first_request, first_expected): (u32, u32),
        message_max: usize,
    ) -> Self {
        Self {
            spi_i: spis.0,
            spi_r: spis.1,
            initiator,
            sealer,
            opener,
            before: None,
            next_request: first_request,
            awaited_response: None,
            expected_request: first_expected,
            answered: Vec::new(),
            requests: Reassembly::default(),
            responses: Reassembly::default(),
            message_max,
            asked: None,
            answer: None,
            asked_again: (0, 0),
            longest_fragment: 0,
        }
    }

    pub(crate) fn spis(&self) -> (u64, u64) {
        (self.spi_i, self.spi_r)
    }

    pub(crate) fn initiator(&self) -> bool {
        self.initiator
    }

    pub(crate) fn message_max(&self) -> usize {
        self.message_max
    }

    /// Memory that fragments take, in octets.
    pub(crate) fn octets(&self) -> usize {
        let answered: usize = self.answered.iter().map(Vec::capacity).sum();
        let answer = self.answer.as_ref().map_or(0, |plain| plain.content.capacity());
        self.requests.octets() + self.responses.octets() + answered + answer
    }

    /// The SPI that the peer addresses us by.
    pub(crate) fn own_spi(&self) -> u64 {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    /// The message IDs come to their end (RFC 7296 section 2.2): the IKE SA is to be rekeyed.
    pub(crate) fn exhausted(&self) -> bool {
        self.next_request.max(self.expected_request) >= u32::MAX - IDS_RESERVED
    }

    /// No message ID is left for a request.
    pub(crate) fn used_up(&self) -> bool {
        self.next_request == u32::MAX
    }

    #[cfg(test)]
    pub(crate) fn jump_to(&mut self, message_id: u32) {
        self.next_request = message_id;
    }

    fn header(&self, exchange: Exchange, response: bool, message_id: u32) -> Header {
        Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            next_payload: payload_type::NONE,
            exchange,
            from_initiator: self.initiator,
            response,
            message_id,
        }
    }

    fn seal(
        &mut self,
        header: Header,
        payloads: &[Payload],
        random: &mut dyn Random,
    ) -> Result<Datagrams, ProtectError> {
        let chain = Payload::chain(payloads);
        #[cfg(any(test, fuzzing))]
        let chain = crate::fuzzing::tampered(chain);
        fragment::seal(header, chain, self.message_max, &mut self.sealer, random)
    }

    /// Changes the keys of both directions in the middle of a handshake (RFC 9370 section 2.2.2).
    pub(crate) fn rekey(&mut self, sealer: SkSealer, opener: SkOpener) {
        let sealer = std::mem::replace(&mut self.sealer, sealer);
        let opener = std::mem::replace(&mut self.opener, opener);
        self.before = (!self.initiator).then_some((sealer, opener));
    }

    fn head(&self, exchange: Exchange, response: bool, message_id: u32) -> [u8; HEAD_LEN] {
        let mut out = Vec::new();
        self.header(exchange, response, message_id).emit(0, &mut out);
        out.first_chunk().copied().unwrap_or_default()
    }

    /// The IKE header, up to its length, of the request that is sealed next.
    pub(crate) fn head_of_next_request(&self, exchange: Exchange) -> [u8; HEAD_LEN] {
        self.head(exchange, false, self.next_request)
    }

    /// The IKE header, up to its length, of the response that was sealed last.
    pub(crate) fn head_of_last_answer(&self, exchange: Exchange) -> [u8; HEAD_LEN] {
        self.head(exchange, true, self.expected_request.saturating_sub(1))
    }

    /// Seals a request; the next response is awaited for it.
    pub(crate) fn request(
        &mut self,
        exchange: Exchange,
        payloads: &[Payload],
        random: &mut dyn Random,
    ) -> Result<Datagrams, ProtectError> {
        let message_id = self.next_request;
        let header = self.header(exchange, false, message_id);
        let datagrams = self.seal(header, payloads, random)?;
        self.asked = self.plain(header, payloads, &datagrams);
        self.next_request = message_id.saturating_add(1);
        self.awaited_response = Some(message_id);
        Ok(datagrams)
    }

    /// Seals a request whose content is given as octets.
    #[cfg(test)]
    pub(crate) fn request_raw(
        &mut self,
        exchange: Exchange,
        first: u8,
        content: &[u8],
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, ProtectError> {
        let message_id = self.next_request;
        let header = self.header(exchange, false, message_id);
        self.next_request = message_id.saturating_add(1);
        self.awaited_response = Some(message_id);
        encrypted::seal_payload(
            header,
            payload_type::SK,
            first,
            &[],
            content,
            &mut self.sealer,
            random,
        )
    }

    /// Seals the response to the request opened last, and remembers it.
    pub(crate) fn respond(
        &mut self,
        exchange: Exchange,
        payloads: &[Payload],
        random: &mut dyn Random,
    ) -> Result<&Datagrams, ProtectError> {
        let message_id = self.expected_request;
        let header = self.header(exchange, true, message_id);
        let datagrams = self.seal(header, payloads, random)?;
        self.answer = self.plain(header, payloads, &datagrams);
        self.asked_again.0 = 0;
        self.expected_request = message_id.saturating_add(1);
        self.before = None;
        self.answered = datagrams;
        Ok(&self.answered)
    }

    /// The message as it was before sealing, if a path may be too narrow for it and fragments are understood.
    fn plain(&self, header: Header, payloads: &[Payload], datagrams: &Datagrams) -> Option<Plain> {
        let longest = datagrams.iter().map(Vec::len).max()?;
        let narrowest = pmtu::next_smaller(pmtu::next_smaller(usize::MAX, false)?, false)?;
        if !self.fragments() || longest <= narrowest {
            return None;
        }
        let (first, content) = Payload::chain(payloads).finish().ok()?;
        Some(Plain {
            header,
            first,
            content: Zeroizing::new(content),
        })
    }

    /// RFC 7383 section 2.3: both sides announced fragments.
    fn fragments(&self) -> bool {
        self.message_max != usize::MAX
    }

    /// The request that waits for its response, in smaller fragments than before; `None` when it is short
    /// enough for any path.
    pub(crate) fn request_cut_smaller(
        &mut self,
        ipv6: bool,
        before: usize,
        random: &mut dyn Random,
    ) -> Option<Datagrams> {
        let plain = self.asked.take()?;
        let message_max = self.message_max;
        let smaller = cut_smaller(&plain, (ipv6, message_max, before), &mut self.sealer, random);
        let datagrams = smaller.map(|(message_max, datagrams)| {
            self.message_max = message_max;
            datagrams
        });
        self.asked = Some(plain);
        datagrams
    }

    /// The answer to the request before, which the peer asks for again; in smaller fragments if it does so
    /// often, or has itself gone over to smaller ones.
    pub(crate) fn answer_again(&mut self, ipv6: bool, random: &mut dyn Random) -> &Datagrams {
        self.asked_again.0 = self.asked_again.0.saturating_add(1);
        if self.asked_again.0 >= pmtu::ANSWER_SUSPECT_AFTER
            && let Some(plain) = self.answer.take()
        {
            let sealer = self
                .before
                .as_mut()
                .map_or(&mut self.sealer, |(sealer, _)| sealer);
            let (message_max, before) = (self.message_max, self.answered.len());
            if let Some((message_max, datagrams)) =
                cut_smaller(&plain, (ipv6, message_max, before), sealer, random)
            {
                self.message_max = message_max;
                self.answered = datagrams;
            }
            self.answer = Some(plain);
        }
        &self.answered
    }

    /// Forgets fragments that waited too long for the rest of their message.
    pub(crate) fn forget_stale_fragments(&mut self, now_ms: u64) {
        self.requests.forget_stale(now_ms);
        self.responses.forget_stale(now_ms);
    }

    fn place(&self, header: &Header) -> Option<Place> {
        let own = (header.spi_i, header.spi_r) == (self.spi_i, self.spi_r)
            && header.from_initiator != self.initiator;
        match (own, header.response) {
            (false, _) => None,
            (true, true) => (self.awaited_response == Some(header.message_id)).then_some(Place::Response),
            (true, false) if header.message_id == self.expected_request => Some(Place::NewRequest),
            (true, false) => {
                let last = self.expected_request.checked_sub(1);
                (last == Some(header.message_id) && !self.answered.is_empty()).then_some(Place::OldRequest)
            }
        }
    }

    /// Opens a datagram whose header was parsed. Nothing changes unless it is authentic.
    pub(crate) fn open(&mut self, header: &Header, datagram: &[u8]) -> Result<Opened, Dropped> {
        let place = self.place(header).ok_or(Dropped::Unexpected)?;
        let opener = match place {
            Place::OldRequest => self.before.as_ref().map_or(&self.opener, |(_, opener)| opener),
            Place::NewRequest | Place::Response => &self.opener,
        };
        let body = datagram.get(HEADER_LEN..).unwrap_or_default();
        for raw in Chain::new(header.next_payload, body) {
            let raw = raw?;
            let offset = HEADER_LEN.saturating_add(raw.offset);
            match raw.kind {
                payload_type::SK => {
                    let content = encrypted::open(datagram, offset, opener)?;
                    return Ok(self.complete(&place, raw.next, content));
                }
                // RFC 7383 section 2.3: not between peers that did not both announce it.
                payload_type::SKF if !self.fragments() => return Err(Dropped::Unexpected),
                payload_type::SKF => {
                    let fields = FragmentFields::parse(raw.body)?;
                    let offset = offset.saturating_add(fragment::FIELDS_LEN);
                    let content = encrypted::open(datagram, offset, opener)?;
                    if matches!(place, Place::NewRequest) {
                        self.longest_fragment = self.longest_fragment.max(datagram.len());
                    }
                    return Ok(self.fragment(&place, header.message_id, fields, raw.next, content));
                }
                // RFC 7296 section 3.14 lets unprotected payloads stand before; they mean nothing here.
                _ => {}
            }
        }
        Err(Dropped::Malformed)
    }

    fn complete(&mut self, place: &Place, first: u8, content: Zeroizing<Vec<u8>>) -> Opened {
        match place {
            Place::NewRequest => Opened::Request(first, content),
            Place::OldRequest => Opened::Repeated,
            Place::Response => {
                self.awaited_response = None;
                // The peer goes on: it has our answer to its last request.
                (self.asked, self.answer) = (None, None);
                Opened::Response(first, content)
            }
        }
    }

    fn fragment(
        &mut self,
        place: &Place,
        message_id: u32,
        fields: FragmentFields,
        next: u8,
        content: Zeroizing<Vec<u8>>,
    ) -> Opened {
        let added = match place {
            Place::NewRequest => self.requests.add(message_id, fields, next, content),
            Place::Response => self.responses.add(message_id, fields, next, content),
            // RFC 7383 section 2.6.1: only the first fragment is answered again.
            Place::OldRequest if fields.number == 1 => {
                // Section 2.5.2: the peer found the path to be narrower than it had thought.
                if fields.total > self.asked_again.1 {
                    self.asked_again = (pmtu::ANSWER_SUSPECT_AFTER, fields.total);
                }
                return Opened::Repeated;
            }
            Place::OldRequest => Added::Old,
        };
        match added {
            Added::Joined(first, content) => {
                if matches!(place, Place::NewRequest) {
                    self.asked_again.1 = fields.total;
                    // What the peer found to come through this way is the best guess for the other.
                    let longest = std::mem::take(&mut self.longest_fragment).max(CUT_MIN);
                    if fields.total > 1 {
                        self.message_max = self.message_max.min(longest);
                    }
                }
                self.complete(place, first, content)
            }
            Added::New => Opened::Partial,
            Added::Old => Opened::Stale,
        }
    }
}

/// The message in smaller fragments than `before`, and the length that each keeps below.
fn cut_smaller(
    plain: &Plain,
    (ipv6, message_max, before): (bool, usize, usize),
    sealer: &mut SkSealer,
    random: &mut dyn Random,
) -> Option<(usize, Datagrams)> {
    let mut message_max = pmtu::next_smaller(message_max, ipv6)?;
    let content = (plain.first, plain.content.as_slice());
    loop {
        let sealed = fragment::seal_content(plain.header, content, message_max, sealer, random).ok()?;
        // RFC 7383 section 2.5.2: the peer tells the sets apart by their totals, so this one has to be larger.
        if sealed.len() > before {
            return Some((message_max, sealed));
        }
        message_max = message_max.checked_sub(CUT_STEP).filter(|max| *max >= CUT_MIN)?;
    }
}

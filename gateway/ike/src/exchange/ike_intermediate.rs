//! IKE_INTERMEDIATE (RFC 9242) with the additional key exchanges of RFC 9370: between IKE_SA_INIT and IKE_AUTH, one
//! exchange for each mechanism that was negotiated. Each changes the keys of the IKE SA, and AUTH covers what both
//! sides said.

use std::collections::VecDeque;

use super::{
    Refusal,
    ike_auth::{ExpectAuthRequest, Handshake},
    ike_sa_init::{Attempt, attempt_failed},
};
use crate::{
    connection::Connection,
    context::Context,
    crypto::{
        kem::{Kem, KemPrivate},
        prf::PrfAlgorithm,
    },
    ike_sa::{Core, State, closed},
    keys::{KeyError, Secret, Seeds, derive_ike, skeyseed_rekey},
    output::CloseReason,
    retransmit::{Due, Retransmission},
    wire::{Exchange, Message, Payload, WireError, ke::KeyExchange, notify::error_name, payload_type},
};

/// Octets of the IKE header before its length.
pub(crate) const HEAD_LEN: usize = 24;

/// One message of an exchange, as AUTH covers it: opened, and as if it had come in one piece.
pub(crate) struct Plain<'a> {
    /// The IKE header up to its length.
    pub(crate) head: [u8; HEAD_LEN],
    /// Type of the first payload.
    pub(crate) first: u8,
    /// The payloads, without padding.
    pub(crate) content: &'a [u8],
}

impl<'a> Plain<'a> {
    /// A message that was received as `datagram`, or in several of which this is one. `None` if payloads stand before
    /// the encrypted one: they have no place in these exchanges, and would have to be covered, too.
    pub(crate) fn received(datagram: &[u8], first: u8, content: &'a [u8]) -> Option<Self> {
        let head = *datagram.first_chunk::<HEAD_LEN>()?;
        let encrypted = matches!(head.get(16), Some(&(payload_type::SK | payload_type::SKF)));
        encrypted.then_some(Self { head, first, content })
    }

    /// RFC 9242 section 3.3.2, figure 1: IKE header, generic header of the Encrypted payload and inner payloads. Both
    /// lengths count neither IV nor padding nor ICV.
    fn covered(&self) -> Vec<u8> {
        let length = u32::try_from(HEAD_LEN + 4 + 4 + self.content.len()).unwrap_or(u32::MAX);
        let payload_length = u16::try_from(4 + self.content.len()).unwrap_or(u16::MAX);
        let mut covered = self.head.to_vec();
        if let Some(next_payload) = covered.get_mut(16) {
            *next_payload = payload_type::SK;
        }
        covered.extend(length.to_be_bytes());
        covered.extend([self.first, 0]);
        covered.extend(payload_length.to_be_bytes());
        covered.extend(self.content);
        covered
    }
}

/// What AUTH covers of the exchanges so far (RFC 9242 section 3.3.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IntAuth {
    initiator: Vec<u8>,
    responder: Vec<u8>,
    rounds: u32,
}

impl IntAuth {
    /// `IntAuth_iN = prf(SK_piN, IntAuth_iN-1 | IntAuth_iNA | IntAuth_iNP)`, with the keys from before the exchange;
    /// for the responder's messages with r in place of i.
    pub(crate) fn cover(&mut self, prf: PrfAlgorithm, sk_p: &[u8], by_initiator: bool, message: &Plain<'_>) {
        self.rounds += u32::from(by_initiator);
        let chain = if by_initiator {
            &mut self.initiator
        } else {
            &mut self.responder
        };
        *chain = prf.prf(sk_p, &[chain, &message.covered()]).to_vec();
    }

    /// `IntAuth_iN | IntAuth_rN | IKE_AUTH_MID`; nothing if there was no exchange. The first IKE_AUTH request has the
    /// message ID after those of IKE_SA_INIT (0) and of the exchanges.
    pub(crate) fn octets(&self) -> Vec<u8> {
        if self.rounds == 0 {
            return Vec::new();
        }
        let ike_auth_mid = (self.rounds + 1).to_be_bytes();
        [&self.initiator, &self.responder, &ike_auth_mid[..]].concat()
    }
}

impl Handshake {
    /// RFC 9370 section 2.2.2: `SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)`, and from it all keys anew.
    fn advance(&mut self, core: &mut Core, secret: &Secret) -> Result<(), KeyError> {
        let (spi_i, spi_r) = core.channel.spis();
        let seeds = Seeds {
            nonce_i: &self.nonce_i,
            nonce_r: &self.nonce_r,
            spi_i,
            spi_r,
        };
        let seed = skeyseed_rekey(self.prf, &self.sk_d, &seeds, secret, &[]);
        let keys = derive_ike(&core.suite, &seed, &seeds, core.channel.initiator())?;
        (self.sk_d, self.sk_pi, self.sk_pr) = (keys.sk_d, keys.sk_pi, keys.sk_pr);
        core.channel.rekey(keys.sealer, keys.opener);
        Ok(())
    }

    fn cover(&mut self, by_initiator: bool, message: &Plain<'_>) {
        let sk_p = if by_initiator { &self.sk_pi } else { &self.sk_pr };
        self.int_auth.cover(self.prf, sk_p, by_initiator, message);
    }
}

fn key_exchange(kem: Kem, data: Vec<u8>) -> Payload {
    Payload::Ke(KeyExchange {
        group: kem.id(),
        data,
    })
}

/// The data of the KE payload, if it is of the mechanism whose turn it is.
fn data_of(message: &Message, kem: Kem) -> Option<&[u8]> {
    let ke = message.ke().filter(|ke| ke.group == kem.id())?;
    Some(&ke.data)
}

/// A half-open IKE SA waits for the initiator's next IKE_INTERMEDIATE.
pub(crate) struct ExpectIntermediateRequest {
    pub(crate) handshake: Handshake,
    /// The mechanism of this exchange, and those after it.
    kem: Kem,
    rest: VecDeque<Kem>,
}

impl ExpectIntermediateRequest {
    /// What is awaited after IKE_SA_INIT.
    pub(crate) fn after_init(handshake: Handshake, core: &Core) -> State {
        Self::next(handshake, core.suite.additional.methods().collect())
    }

    fn next(handshake: Handshake, mut rest: VecDeque<Kem>) -> State {
        match rest.pop_front() {
            Some(kem) => State::ExpectIntermediateRequest(Box::new(Self { handshake, kem, rest })),
            None => State::ExpectAuthRequest(Box::new(ExpectAuthRequest { handshake })),
        }
    }

    /// Answers the request, and changes the keys when the answer is sealed.
    pub(crate) fn handle(mut self, core: &mut Core, ctx: &mut Context<'_>, request: &Plain<'_>) -> State {
        let exchanged = self.exchange(ctx, request);
        let (payload, secret) = match exchanged {
            Ok((ciphertext, secret)) => (key_exchange(self.kem, ciphertext), Some(secret)),
            Err(Refusal(notify)) => (Payload::Notify(notify), None),
        };
        let payloads = [payload];
        let answered = Payload::chain(&payloads).finish();
        let (Ok((first, content)), Ok(datagrams)) = (
            answered,
            core.channel
                .respond(Exchange::IkeIntermediate, &payloads, ctx.random)
                .cloned(),
        ) else {
            return closed(ctx);
        };
        ctx.transmit(core.arrived, &datagrams);
        let Some(secret) = secret else {
            return closed(ctx);
        };
        let head = core.channel.head_of_last_answer(Exchange::IkeIntermediate);
        let response = Plain {
            head,
            first,
            content: &content,
        };
        self.handshake.cover(true, request);
        self.handshake.cover(false, &response);
        match self.handshake.advance(core, &secret) {
            Ok(()) => Self::next(self.handshake, self.rest),
            Err(KeyError) => closed(ctx),
        }
    }

    fn exchange(&self, ctx: &mut Context<'_>, request: &Plain<'_>) -> Result<(Vec<u8>, Secret), Refusal> {
        let message = Message::parse(request.first, request.content)?;
        let data = data_of(&message, self.kem).ok_or_else(Refusal::syntax)?;
        self.kem
            .encapsulate(ctx.random, data)
            .map_err(|_| Refusal::syntax())
    }
}

/// Our IKE_INTERMEDIATE request waits for its response.
pub(crate) struct ExpectIntermediateResponse {
    handshake: Handshake,
    private: KemPrivate,
    rest: VecDeque<Kem>,
    connection: Connection,
    attempt: Attempt,
    datagrams: Vec<Vec<u8>>,
    pub(crate) clock: Retransmission,
}

impl ExpectIntermediateResponse {
    /// Goes on after IKE_SA_INIT: with the first additional key exchange, or with IKE_AUTH when there is none. `None`
    /// when our own configuration or keys let us not.
    pub(crate) fn after_init(
        handshake: Handshake,
        ctx: &mut Context<'_>,
        core: &mut Core,
        connection: Connection,
        attempt: Attempt,
    ) -> Option<State> {
        let methods = core.suite.additional.methods().collect();
        Self::next(handshake, ctx, core, (connection, attempt), methods)
    }

    fn next(
        mut handshake: Handshake,
        ctx: &mut Context<'_>,
        core: &mut Core,
        (connection, attempt): (Connection, Attempt),
        mut rest: VecDeque<Kem>,
    ) -> Option<State> {
        let Some(kem) = rest.pop_front() else {
            return handshake.start_auth(ctx, core, connection, attempt);
        };
        let private = KemPrivate::generate(kem, ctx.random);
        let payloads = [key_exchange(kem, private.encapsulation_key())];
        let (first, content) = Payload::chain(&payloads).finish().ok()?;
        let head = core.channel.head_of_next_request(Exchange::IkeIntermediate);
        let datagrams = core
            .channel
            .request(Exchange::IkeIntermediate, &payloads, ctx.random)
            .ok()?;
        let request = Plain {
            head,
            first,
            content: &content,
        };
        handshake.cover(true, &request);
        ctx.transmit(core.path, &datagrams);
        let clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
        Some(State::ExpectIntermediateResponse(Box::new(Self {
            handshake,
            private,
            rest,
            connection,
            attempt,
            datagrams,
            clock,
        })))
    }

    /// Repeats the request when it is due; false when the peer does not answer.
    pub(crate) fn handle_timeout(&mut self, core: &mut Core, ctx: &mut Context<'_>) -> bool {
        match self.clock.poll(ctx.now.mono_ms) {
            Due::Wait => true,
            Due::Repeat => {
                ctx.counters.retransmitted += 1;
                core.cut_smaller(ctx, &self.clock, &mut self.datagrams);
                ctx.transmit(core.path, &self.datagrams);
                true
            }
            Due::GiveUp => {
                self.abandon(core, ctx, CloseReason::PeerUnresponsive);
                false
            }
        }
    }

    pub(crate) fn connection_name(&self) -> &str {
        &self.connection.name
    }

    pub(crate) fn abandon(&self, core: &Core, ctx: &mut Context<'_>, reason: CloseReason) {
        attempt_failed(ctx, core.id, &self.connection, reason);
    }

    /// Takes the secret out of the response and goes on.
    pub(crate) fn handle(
        mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        response: Option<&Plain<'_>>,
    ) -> State {
        let went_on = self.exchange(response).and_then(|(response, secret)| {
            self.handshake.cover(false, response);
            let advanced = self.handshake.advance(core, &secret);
            advanced.map_err(|KeyError| CloseReason::ProtocolViolation)
        });
        if let Err(reason) = went_on {
            self.abandon(core, ctx, reason);
            return closed(ctx);
        }
        let id = core.id;
        let (connection, attempt) = (self.connection, self.attempt);
        let next = Self::next(
            self.handshake,
            ctx,
            core,
            (connection.clone(), attempt),
            self.rest,
        );
        next.unwrap_or_else(|| {
            attempt_failed(ctx, id, &connection, CloseReason::ProtocolViolation);
            closed(ctx)
        })
    }

    fn exchange<'a>(&self, response: Option<&'a Plain<'a>>) -> Result<(&'a Plain<'a>, Secret), CloseReason> {
        let response = response.ok_or(CloseReason::ProtocolViolation)?;
        let message = Message::parse(response.first, response.content)
            .map_err(|_: WireError| CloseReason::ProtocolViolation)?;
        if let Some(error) = message.error() {
            return Err(CloseReason::PeerRefused(error_name(error.kind)));
        }
        let data = data_of(&message, self.private.kem()).ok_or(CloseReason::ProtocolViolation)?;
        let secret = self.private.decapsulate(data);
        let secret = secret.map_err(|_| CloseReason::ProtocolViolation)?;
        Ok((response, secret))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        channel::Channel,
        config::{AuthenticatedPeer, Authorizer, EndpointConfig, SitePolicy, Time},
        context::{Allocator, Neighbours, Path},
        counters::Counters,
        crypto::{random::SystemRandom, testing::hex},
        nat::NatStatus,
        pki::{credential::Credential, trust::TrustAnchors},
        proposal::IkeProposal,
    };

    /// RFC 9242 section 3.3.2: `tests/data/ike_keys.py` builds the same chains by itself.
    #[test]
    fn int_auth_matches_the_second_implementation() {
        let expected = |name: &str| {
            let mut lines = include_str!("../../tests/data/ike_keys.txt").lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap().to_owned()
        };
        let head = |exchange: u8, response: bool, message_id: u32| {
            let mut head = [0; HEAD_LEN];
            head[..8].copy_from_slice(&0x0102_0304_0506_0708u64.to_be_bytes());
            head[8..16].copy_from_slice(&0x1112_1314_1516_1718u64.to_be_bytes());
            head[16..20].copy_from_slice(&[53, 0x20, exchange, if response { 0x20 } else { 0x08 }]);
            head[20..].copy_from_slice(&message_id.to_be_bytes());
            head
        };
        let (request, response) = ((0..100).collect::<Vec<u8>>(), (100..180).collect::<Vec<u8>>());
        let mut int_auth = IntAuth::default();
        assert!(int_auth.octets().is_empty());
        for round in 1..=2u8 {
            let keys = [[round; 32], [round + 100; 32]];
            for (by_initiator, content) in [(true, &request), (false, &response)] {
                let message = Plain {
                    head: head(43, !by_initiator, round.into()),
                    first: 34,
                    content,
                };
                let key = &keys[usize::from(!by_initiator)];
                int_auth.cover(PrfAlgorithm::HmacSha256, key, by_initiator, &message);
            }
            assert_eq!(hex(&int_auth.octets()), expected(&format!("int_auth_{round}")));
        }
    }

    struct Nobody;

    impl Authorizer for Nobody {
        fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
            None
        }
    }

    /// What a responder makes of a request with these payloads.
    fn answered(payloads: &[Payload]) -> State {
        let config = EndpointConfig::new(
            Credential::from_pem(
                include_bytes!("../../tests/data/ec-leaf.crt"),
                include_bytes!("../../tests/data/ec-leaf.key"),
            )
            .unwrap(),
            "site1.lab.test".parse().unwrap(),
            TrustAnchors::from_pem(include_bytes!("../../tests/data/ec-ca.crt")).unwrap(),
            Box::new(Nobody),
        );
        let (mut random, mut outputs, mut allocator) =
            (SystemRandom::new(), VecDeque::new(), Allocator::default());
        let (mut counters, mut lingering, mut deferred) = (Counters::default(), BTreeSet::new(), Vec::new());
        let mut ctx = Context {
            config: &config,
            now: Time {
                mono_ms: 0,
                unix_s: 0,
            },
            random: &mut random,
            outputs: &mut outputs,
            allocator: &mut allocator,
            counters: &mut counters,
            lingering: &mut lingering,
            deferred: &mut deferred,
            neighbours: Neighbours::default(),
            tickets: &mut Default::default(),
            allowances: &mut Default::default(),
            networks: &mut Default::default(),
        };
        let suite: IkeProposal = "aes256gcm16-prfsha256-x25519-ke1_mlkem768".parse().unwrap();
        let seeds = Seeds {
            nonce_i: &[1; 32],
            nonce_r: &[2; 32],
            spi_i: 3,
            spi_r: 4,
        };
        let keys = derive_ike(&suite, &[5; 32], &seeds, false).unwrap();
        let handshake = Handshake {
            init_request: Vec::new(),
            init_response: Vec::new(),
            nonce_i: vec![1; 32],
            nonce_r: vec![2; 32],
            prf: keys.prf,
            sk_d: keys.sk_d,
            sk_pi: keys.sk_pi,
            sk_pr: keys.sk_pr,
            int_auth: IntAuth::default(),
            peer_hashes: Vec::new(),
            said: crate::exchange::announced::Announced::default(),
            resumed: None,
            deadline_ms: 0,
            address_proven: false,
            answers_left: 0,
        };
        let address = "192.0.2.1:500".parse().unwrap();
        let mut core = Core {
            id: ctx.allocator.ike_sa(),
            path: Path {
                local: address,
                remote: address,
            },
            arrived: Path {
                local: address,
                remote: address,
            },
            nat: NatStatus::default(),
            channel: Channel::new((3, 4), false, keys.sealer, keys.opener, (0, 1), usize::MAX),
            suite,
        };
        let State::ExpectIntermediateRequest(awaited) =
            ExpectIntermediateRequest::after_init(handshake, &core)
        else {
            panic!("a hybrid proposal awaits IKE_INTERMEDIATE")
        };
        let (first, content) = Payload::chain(payloads).finish().unwrap();
        let request = Plain {
            head: [0; HEAD_LEN],
            first,
            content: &content,
        };
        awaited.handle(&mut core, &mut ctx, &request)
    }

    /// RFC 9242 section 3.4: an error in the exchange ends the handshake.
    #[test]
    fn only_the_awaited_key_exchange_goes_on() {
        let private = KemPrivate::generate(Kem::MlKem768, &mut SystemRandom::new());
        let key = private.encapsulation_key();
        let good = answered(&[key_exchange(Kem::MlKem768, key.clone())]);
        assert!(matches!(good, State::ExpectAuthRequest(_)));
        for bad in [
            vec![],
            vec![key_exchange(Kem::MlKem1024, key.clone())],
            vec![key_exchange(Kem::MlKem768, key[1..].to_vec())],
            // FIPS 203 section 7.2: coefficients that are not reduced.
            vec![key_exchange(Kem::MlKem768, vec![0xff; 1184])],
        ] {
            assert!(matches!(answered(&bad), State::Closed { .. }), "{bad:?}");
        }
    }

    #[test]
    fn unprotected_payloads_before_the_encrypted_one_are_refused() {
        let mut datagram = [0; 40];
        for (next_payload, taken) in [(46, true), (53, true), (41, false), (0, false)] {
            datagram[16] = next_payload;
            assert_eq!(Plain::received(&datagram, 34, &[]).is_some(), taken);
        }
        assert!(Plain::received(&datagram[..20], 34, &[]).is_none());
    }
}

//! IKE messages and decrypted payloads: parsing, and the way back.

use gateway_ike::pki::certreq;
use gateway_ike::pki::identity::Identity;
use gateway_ike::wire::header::HEADER_LEN;
use gateway_ike::wire::{Chain, Header, Message, Payload};

/// A datagram without its non-ESP marker: header, chain of payloads, each payload.
///
/// # Panics
/// When what was parsed is not what it says when it is sent on.
pub fn ike_message(datagram: &[u8]) {
    let Ok(header) = Header::parse(datagram) else {
        return;
    };
    let mut again = Vec::new();
    header.emit(u32::try_from(datagram.len()).expect("a datagram"), &mut again);
    assert_eq!(
        Header::parse(&[&again, &datagram[HEADER_LEN..]].concat()),
        Ok(header)
    );
    let body = &datagram[HEADER_LEN..];
    let mut end = 0;
    for payload in Chain::new(header.next_payload, body) {
        let Ok(payload) = payload else { break };
        assert_eq!(payload.offset, end + 4, "payloads overlap or leave a gap");
        end = payload.offset + payload.body.len();
        assert!(end <= body.len());
    }
    chain(header.next_payload, body);
}

/// Type of the first payload, and what was in an Encrypted payload.
///
/// # Panics
/// As [`ike_message`].
pub fn ike_payloads(input: &[u8]) {
    if let Some((first, bytes)) = input.split_first() {
        chain(*first, bytes);
    }
}

fn chain(first: u8, bytes: &[u8]) {
    let Ok(message) = Message::parse(first, bytes) else {
        return;
    };
    let (first, again) = Payload::chain(&message.0)
        .finish()
        .expect("no longer than it was");
    assert!(
        again.len() <= bytes.len() + 16 * message.0.len(),
        "longer than it was"
    );
    // An attribute that nobody here knows refuses its transform, and is not sent on.
    let is_whole = message.0.iter().all(|payload| {
        let Payload::Sa(sa) = payload else { return true };
        let mut transforms = sa.proposals.iter().flat_map(|proposal| &proposal.transforms);
        transforms.all(|transform| !transform.unknown_attribute)
    });
    if is_whole {
        assert_eq!(Message::parse(first, &again).as_ref(), Ok(&message));
    }
    for payload in &message.0 {
        meaning(payload);
    }
}

/// What the exchanges make of a payload.
fn meaning(payload: &Payload) {
    match payload {
        Payload::IdI(id) | Payload::IdR(id) => {
            if let Ok(identity) = Identity::from_wire(id.kind, &id.data) {
                let again = Identity::from_wire(identity.id_type(), &identity.data());
                assert_eq!(again.as_ref(), Ok(&identity));
                assert!(!identity.to_string().contains('\n'), "a log line that breaks");
            }
        }
        Payload::CertReq(request) => {
            let field = request.authorities.concat();
            assert!(certreq::authority_hashes(&field).eq(request.authorities.iter().copied()));
        }
        Payload::Sa(_)
        | Payload::Ke(_)
        | Payload::Cert(_)
        | Payload::Auth(_)
        | Payload::Nonce(_)
        | Payload::Notify(_)
        | Payload::Delete(_)
        | Payload::PuzzleSolution(_)
        | Payload::Vendor(_)
        | Payload::TsI(_)
        | Payload::TsR(_) => {}
    }
}

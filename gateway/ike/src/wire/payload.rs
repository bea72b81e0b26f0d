//! A payload of any type, parsed.

use super::{
    Chain, ChainBuilder, WireError, auth::Authentication, cert::Certificate, certreq::CertificateRequest,
    delete::Delete, id::Identification, ke::KeyExchange, nonce::Nonce, notify::Notify, payload_type as kind,
    puzzle::PuzzleSolution, sa::SecurityAssociation, ts::TrafficSelectors, vendor::VendorId,
};

/// What a message is made of; the encrypted payloads are opened before and do not appear.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the payload its file describes
pub enum Payload {
    Sa(SecurityAssociation),
    Ke(KeyExchange),
    IdI(Identification),
    IdR(Identification),
    Cert(Certificate),
    CertReq(CertificateRequest),
    Auth(Authentication),
    Nonce(Nonce),
    Notify(Notify),
    Delete(Delete),
    Vendor(VendorId),
    TsI(TrafficSelectors),
    TsR(TrafficSelectors),
    PuzzleSolution(PuzzleSolution),
}

impl Payload {
    /// Parses a chain whose first payload has type `first`. Unknown payloads without the critical bit,
    /// and known ones that this crate has no use for, are left out.
    ///
    /// # Errors
    /// The first fault; [`WireError::UnsupportedCritical`] for an unknown critical payload.
    pub fn parse_chain(first: u8, bytes: &[u8]) -> Result<Vec<Self>, WireError> {
        let mut payloads = Vec::new();
        for raw in Chain::new(first, bytes) {
            let raw = raw?;
            let body = raw.body;
            payloads.push(match raw.kind {
                kind::SA => Self::Sa(SecurityAssociation::parse(body)?),
                kind::KE => Self::Ke(KeyExchange::parse(body)?),
                kind::ID_I => Self::IdI(Identification::parse(body)?),
                kind::ID_R => Self::IdR(Identification::parse(body)?),
                kind::CERT => Self::Cert(Certificate::parse(body)?),
                kind::CERTREQ => Self::CertReq(CertificateRequest::parse(body)?),
                kind::AUTH => Self::Auth(Authentication::parse(body)?),
                kind::NONCE => Self::Nonce(Nonce::parse(body)?),
                kind::NOTIFY => Self::Notify(Notify::parse(body)?),
                kind::DELETE => Self::Delete(Delete::parse(body)?),
                kind::VENDOR => Self::Vendor(VendorId::parse(body)),
                kind::TS_I => Self::TsI(TrafficSelectors::parse(body)?),
                kind::TS_R => Self::TsR(TrafficSelectors::parse(body)?),
                kind::PUZZLE_SOLUTION => Self::PuzzleSolution(PuzzleSolution::parse(body)?),
                kind::SK | kind::SKF | kind::CP | kind::EAP => continue,
                unknown if raw.critical => return Err(WireError::UnsupportedCritical(unknown)),
                _ => continue,
            });
        }
        Ok(payloads)
    }

    /// Appends this payload to `chain`.
    pub fn push_to(&self, chain: &mut ChainBuilder) {
        match self {
            Self::Sa(payload) => chain.push(kind::SA, |out| payload.emit(out)),
            Self::Ke(payload) => chain.push(kind::KE, |out| payload.emit(out)),
            Self::IdI(payload) => chain.push(kind::ID_I, |out| payload.emit(out)),
            Self::IdR(payload) => chain.push(kind::ID_R, |out| payload.emit(out)),
            Self::Cert(payload) => chain.push(kind::CERT, |out| payload.emit(out)),
            Self::CertReq(payload) => chain.push(kind::CERTREQ, |out| payload.emit(out)),
            Self::Auth(payload) => chain.push(kind::AUTH, |out| payload.emit(out)),
            Self::Nonce(payload) => chain.push(kind::NONCE, |out| payload.emit(out)),
            Self::Notify(payload) => chain.push(kind::NOTIFY, |out| payload.emit(out)),
            Self::Delete(payload) => chain.push(kind::DELETE, |out| payload.emit(out)),
            Self::Vendor(payload) => chain.push(kind::VENDOR, |out| payload.emit(out)),
            Self::TsI(payload) => chain.push(kind::TS_I, |out| payload.emit(out)),
            Self::TsR(payload) => chain.push(kind::TS_R, |out| payload.emit(out)),
            Self::PuzzleSolution(payload) => chain.push(kind::PUZZLE_SOLUTION, |out| payload.emit(out)),
        };
    }

    /// A chain of `payloads`.
    pub fn chain(payloads: &[Self]) -> ChainBuilder {
        let mut chain = ChainBuilder::new();
        payloads.iter().for_each(|payload| payload.push_to(&mut chain));
        chain
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_payloads_are_ignored_unless_critical() {
        let chain = |critical: u8| {
            [
                40, critical, 0, 5, 9, 0, 0, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
            ]
        };
        let parsed = Payload::parse_chain(200, &chain(0)).unwrap();
        assert!(matches!(parsed.as_slice(), [Payload::Nonce(_)]));
        assert_eq!(
            Payload::parse_chain(200, &chain(0x80)),
            Err(WireError::UnsupportedCritical(200))
        );
    }

    proptest! {
        /// Arbitrary octets never panic, and what parses round-trips to the same meaning.
        #[test]
        fn parse_never_panics_and_round_trips(first in 33u8..54, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(payloads) = Payload::parse_chain(first, &bytes) {
                let (first, bytes) = Payload::chain(&payloads).finish().unwrap();
                prop_assert_eq!(Payload::parse_chain(first, &bytes), Ok(payloads));
            }
        }

        /// The same behind a generic header whose length is right, so that bodies are reached.
        #[test]
        fn bodies_never_panic(kind in 33u8..54, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut chain = ChainBuilder::new();
            chain.push(kind, |out| out.extend_from_slice(&body));
            let (first, bytes) = chain.finish().unwrap();
            if let Ok(payloads) = Payload::parse_chain(first, &bytes) {
                let (first, bytes) = Payload::chain(&payloads).finish().unwrap();
                prop_assert_eq!(Payload::parse_chain(first, &bytes), Ok(payloads));
            }
        }
    }
}

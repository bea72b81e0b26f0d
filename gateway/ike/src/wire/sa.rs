//! Security Association payload: proposals and their transforms (RFC 7296 section 3.3).

use super::{WireError, protocol, reader::Reader};

/// Transform types (RFC 7296 section 3.3.2).
pub mod transform_type {
    /// Encryption algorithm.
    pub const ENCR: u8 = 1;
    /// Pseudorandom function.
    pub const PRF: u8 = 2;
    /// Integrity algorithm.
    pub const INTEG: u8 = 3;
    /// Key exchange method (Diffie-Hellman group).
    pub const DH: u8 = 4;
    /// Extended sequence numbers.
    pub const ESN: u8 = 5;
    /// Additional key exchange 1 (RFC 9370 section 4).
    pub const ADDITIONAL_FIRST: u8 = 6;
    /// Additional key exchange 7.
    pub const ADDITIONAL_LAST: u8 = 12;
}

/// Algorithms in all proposals of an offer: real ones have a few dozen, and the choice compares each with ours.
const TRANSFORMS_MAX: usize = 1000;
/// Proposals in an offer: real ones have up to about twenty. Without algorithms one takes eight octets.
const PROPOSALS_MAX: usize = 64;

/// The only attribute in use: key length in bits, in the short (TV) format.
const ATTRIBUTE_KEY_LENGTH: u16 = 14;
const ATTRIBUTE_SHORT: u16 = 0x8000;

/// One algorithm of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transform {
    /// See [`transform_type`].
    pub kind: u8,
    /// IANA number of the algorithm, meaningful within `kind`.
    pub id: u16,
    /// Key length in bits, for ciphers with keys of several lengths.
    pub key_bits: Option<u16>,
    /// The peer attached an attribute that this crate does not know, so the transform cannot be chosen.
    pub unknown_attribute: bool,
}

impl Transform {
    /// A transform without attributes.
    pub const fn new(kind: u8, id: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: None,
            unknown_attribute: false,
        }
    }

    /// A transform with a key length.
    pub const fn with_key_bits(kind: u8, id: u16, key_bits: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: Some(key_bits),
            unknown_attribute: false,
        }
    }
}

/// One proposal: a protocol, the SPI its sender wants to receive on, and algorithms to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Counts from 1.
    pub number: u8,
    /// See [`protocol`].
    pub protocol: u8,
    /// Empty in the first exchange of an IKE SA; 8 octets when one is rekeyed; 4 for ESP.
    pub spi: Vec<u8>,
    /// In the order received.
    pub transforms: Vec<Transform>,
}

/// The payload: proposals in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// Never empty once parsed.
    pub proposals: Vec<Proposal>,
}

impl SecurityAssociation {
    /// Parses the body of an SA payload.
    ///
    /// # Errors
    /// What is malformed, including SPI sizes that the protocol does not have.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "proposal");
        let mut proposals: Vec<Proposal> = Vec::new();
        let mut transforms = 0;
        loop {
            let more = reader.u8()?;
            reader.u8()?;
            let length = reader.u16()?;
            if proposals.len() == PROPOSALS_MAX {
                return Err(WireError::BadValue("number of proposals"));
            }
            let proposal = Proposal::parse(reader.take_body(length, 4)?)?;
            transforms += proposal.transforms.len();
            proposals.push(proposal);
            if transforms > TRANSFORMS_MAX {
                return Err(WireError::BadValue("number of transforms"));
            }
            match (more, reader.is_empty()) {
                (0, true) => return Ok(Self { proposals }),
                (2, false) => {}
                _ => return Err(WireError::BadLength("last proposal")),
            }
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let last = self.proposals.len().saturating_sub(1);
        for (index, proposal) in self.proposals.iter().enumerate() {
            let start = out.len();
            out.extend_from_slice(&[if index == last { 0 } else { 2 }, 0, 0, 0]);
            proposal.emit(out);
            patch_length(out, start);
        }
    }
}

impl Proposal {
    fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "proposal");
        let number = reader.u8()?;
        let protocol = reader.u8()?;
        let spi_len = usize::from(reader.u8()?);
        let count = usize::from(reader.u8()?);
        let allowed: &[usize] = match protocol {
            protocol::IKE => &[0, 8],
            protocol::ESP | protocol::AH => &[4],
            _ => &[spi_len],
        };
        if !allowed.contains(&spi_len) {
            return Err(WireError::BadValue("SPI size"));
        }
        let spi = reader.take(spi_len)?.to_vec();
        let mut transforms = Vec::with_capacity(count.min(64));
        for index in (0..count).rev() {
            let more = reader.u8()?;
            reader.u8()?;
            let length = reader.u16()?;
            if (more == 0) != (index == 0) {
                return Err(WireError::BadLength("transform count"));
            }
            transforms.push(Transform::parse(reader.take_body(length, 4)?)?);
        }
        if !reader.is_empty() {
            return Err(WireError::BadLength("proposal"));
        }
        Ok(Self {
            number,
            protocol,
            spi,
            transforms,
        })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let spi_len = u8::try_from(self.spi.len()).unwrap_or(0);
        let count = u8::try_from(self.transforms.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[self.number, self.protocol, spi_len, count]);
        out.extend_from_slice(&self.spi);
        for (index, transform) in self.transforms.iter().take(usize::from(count)).enumerate() {
            let start = out.len();
            let last = index + 1 == usize::from(count);
            out.extend_from_slice(&[if last { 0 } else { 3 }, 0, 0, 0]);
            transform.emit(out);
            patch_length(out, start);
        }
    }

    /// The transforms of one type.
    pub fn of_kind(&self, kind: u8) -> impl Iterator<Item = &Transform> {
        self.transforms
            .iter()
            .filter(move |transform| transform.kind == kind)
    }
}

impl Transform {
    fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "transform");
        let kind = reader.u8()?;
        reader.u8()?;
        let mut transform = Self::new(kind, reader.u16()?);
        while !reader.is_empty() {
            let attribute = reader.u16()?;
            let value = reader.u16()?;
            if attribute == ATTRIBUTE_SHORT | ATTRIBUTE_KEY_LENGTH {
                transform.key_bits = Some(value);
            } else {
                // RFC 7296 section 3.3.6: a transform with an unknown attribute must not be chosen.
                transform.unknown_attribute = true;
                if attribute & ATTRIBUTE_SHORT == 0 {
                    reader.take(usize::from(value))?;
                }
            }
        }
        Ok(transform)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, 0]);
        out.extend_from_slice(&self.id.to_be_bytes());
        if let Some(key_bits) = self.key_bits {
            out.extend_from_slice(&(ATTRIBUTE_SHORT | ATTRIBUTE_KEY_LENGTH).to_be_bytes());
            out.extend_from_slice(&key_bits.to_be_bytes());
        }
    }
}

/// Writes the 16-bit length of the structure that began at `start`, two octets into it.
fn patch_length(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AES-CBC-256, HMAC-SHA2-256-128, PRF-HMAC-SHA2-256, MODP-2048, as strongSwan sends
    /// `aes256-sha256-modp2048`.
    const GOLDEN: [u8; 44] = [
        0, 0, 0, 44, 1, 1, 0, 4, // last proposal, number 1, IKE, no SPI, 4 transforms
        3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 1, 0, // ENCR 12, key length 256
        3, 0, 0, 8, 3, 0, 0, 12, // INTEG 12
        3, 0, 0, 8, 2, 0, 0, 5, // PRF 5
        0, 0, 0, 8, 4, 0, 0, 14, // DH 14
    ];

    #[test]
    fn golden() {
        let parsed = SecurityAssociation::parse(&GOLDEN).unwrap();
        assert_eq!(parsed.proposals.len(), 1);
        assert_eq!(
            parsed.proposals[0].transforms,
            [
                Transform::with_key_bits(transform_type::ENCR, 12, 256),
                Transform::new(transform_type::INTEG, 12),
                Transform::new(transform_type::PRF, 5),
                Transform::new(transform_type::DH, 14),
            ]
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, GOLDEN);
    }

    #[test]
    fn two_proposals_with_spi_round_trip() {
        let proposal = |number| Proposal {
            number,
            protocol: protocol::ESP,
            spi: vec![1, 2, 3, 4],
            transforms: vec![
                Transform::new(transform_type::ESN, 0),
                Transform::new(transform_type::ESN, 1),
            ],
        };
        let sa = SecurityAssociation {
            proposals: vec![proposal(1), proposal(2)],
        };
        let mut out = Vec::new();
        sa.emit(&mut out);
        assert_eq!(SecurityAssociation::parse(&out), Ok(sa));
    }

    #[test]
    fn an_unknown_attribute_is_seen() {
        let mut bytes = GOLDEN;
        bytes[17] = 99;
        let parsed = SecurityAssociation::parse(&bytes).unwrap();
        assert!(parsed.proposals[0].transforms[0].unknown_attribute);
    }

    /// An offer of thousands of algorithms is made to keep us comparing.
    #[test]
    fn the_number_of_algorithms_is_bounded() {
        let offer = |count| SecurityAssociation {
            proposals: vec![
                Proposal {
                    number: 1,
                    protocol: protocol::ESP,
                    spi: vec![1, 2, 3, 4],
                    transforms: vec![Transform::new(transform_type::DH, 14); 200],
                };
                count
            ],
        };
        for (count, fits) in [(5, true), (6, false)] {
            let mut out = Vec::new();
            offer(count).emit(&mut out);
            assert_eq!(SecurityAssociation::parse(&out).is_ok(), fits);
        }
    }

    /// Proposals without algorithms are short: hundreds fit a datagram.
    #[test]
    fn the_number_of_proposals_is_bounded() {
        let offer = |count| SecurityAssociation {
            proposals: vec![
                Proposal {
                    number: 1,
                    protocol: protocol::IKE,
                    spi: Vec::new(),
                    transforms: Vec::new(),
                };
                count
            ],
        };
        for (count, fits) in [(64, true), (65, false), (170, false)] {
            let mut out = Vec::new();
            offer(count).emit(&mut out);
            assert_eq!(SecurityAssociation::parse(&out).is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(
            SecurityAssociation::parse(&[]),
            Err(WireError::Truncated("proposal"))
        );
        for (at, value) in [(0, 2), (3, 43), (7, 3), (7, 5), (6, 3), (8, 0), (11, 200)] {
            let mut bytes = GOLDEN;
            bytes[at] = value;
            assert!(
                SecurityAssociation::parse(&bytes).is_err(),
                "octet {at} set to {value}"
            );
        }
    }
}

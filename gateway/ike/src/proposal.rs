//! What algorithms this side accepts, and the choice among what the peer offers (RFC 7296 sections 2.7
//! and 3.3).
//!
//! Proposals are written as strongSwan writes them: `aes256gcm16-prfsha256-x25519`,
//! `aes256-sha256-modp2048`, and for ESP `aes256gcm16-modp2048-modpnone-esn-noesn`.

use std::{fmt, str::FromStr};

use crate::{
    crypto::{
        cipher::{Encryption, IkeCipherSuite, Integrity},
        dh::DhGroup,
        prf::PrfAlgorithm,
    },
    wire::{
        protocol,
        sa::{Proposal, SecurityAssociation, Transform, transform_type},
    },
};

/// The algorithms of an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeProposal {
    /// Protection of IKE messages.
    pub cipher: IkeCipherSuite,
    /// Key derivation and authentication.
    pub prf: PrfAlgorithm,
    /// Key exchange.
    pub group: DhGroup,
}

/// The algorithms of an ESP SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EspSuite {
    /// AES-GCM with a 16-octet ICV (RFC 4106).
    AesGcm16 {
        /// 128 or 256.
        key_bits: u16,
    },
    /// AES-CBC (RFC 3602) with HMAC-SHA2-256-128 (RFC 4868).
    AesCbcHmacSha256_128 {
        /// 128 or 256.
        key_bits: u16,
    },
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// What Child SAs may use: one suite, with the groups and sequence numbers that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspProposal {
    /// Encryption and integrity.
    pub suite: EspSuite,
    /// Groups for perfect forward secrecy when a Child SA is made by CREATE_CHILD_SA, preferred first.
    pub groups: Vec<DhGroup>,
    /// A CREATE_CHILD_SA without a key exchange will do, too. Means nothing when `groups` is empty.
    pub pfs_optional: bool,
    /// Accept 64-bit extended sequence numbers.
    pub esn: bool,
    /// Accept 32-bit sequence numbers.
    pub no_esn: bool,
}

impl EspSuite {
    /// Octets of encryption key material, including the salt of the AEAD algorithms.
    pub fn encryption_key_len(self) -> usize {
        match self {
            Self::AesGcm16 { key_bits } => usize::from(key_bits) / 8 + 4,
            Self::AesCbcHmacSha256_128 { key_bits } => usize::from(key_bits) / 8,
            Self::ChaCha20Poly1305 => 36,
        }
    }

    /// Octets of integrity key; 0 for the AEAD algorithms.
    pub fn integrity_key_len(self) -> usize {
        match self {
            Self::AesCbcHmacSha256_128 { .. } => 32,
            Self::AesGcm16 { .. } | Self::ChaCha20Poly1305 => 0,
        }
    }

    fn transforms(self) -> Vec<Transform> {
        match self {
            Self::AesGcm16 { key_bits } => vec![Transform::with_key_bits(transform_type::ENCR, 20, key_bits)],
            Self::ChaCha20Poly1305 => vec![Transform::new(transform_type::ENCR, 28)],
            Self::AesCbcHmacSha256_128 { key_bits } => vec![
                Transform::with_key_bits(transform_type::ENCR, 12, key_bits),
                Transform::new(transform_type::INTEG, 12),
            ],
        }
    }
}

/// A choice of IKE algorithms, and what of the peer's proposal the answer must repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IkeChoice {
    pub(crate) proposal: IkeProposal,
    pub(crate) number: u8,
    /// The peer's SPI when an IKE SA is rekeyed.
    pub(crate) peer_spi: Option<u64>,
}

/// A choice of ESP algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EspChoice {
    pub(crate) suite: EspSuite,
    pub(crate) group: Option<DhGroup>,
    pub(crate) esn: bool,
    pub(crate) number: u8,
    /// The SPI the peer receives on.
    pub(crate) peer_spi: u32,
}

impl IkeProposal {
    fn transforms(&self) -> Vec<Transform> {
        let encryption = self.cipher.encryption();
        let mut transforms = vec![Transform {
            kind: transform_type::ENCR,
            id: encryption.id(),
            key_bits: encryption.key_bits(),
            unknown_attribute: false,
        }];
        transforms.extend(
            self.cipher
                .integrity()
                .map(|integ| Transform::new(transform_type::INTEG, integ.id())),
        );
        transforms.push(Transform::new(transform_type::PRF, self.prf.id()));
        transforms.push(Transform::new(transform_type::DH, self.group.id()));
        transforms
    }

    /// The proposal as it goes into a payload; `spi` is ours when an IKE SA is rekeyed.
    pub(crate) fn to_wire(self, number: u8, spi: Option<u64>) -> Proposal {
        let spi = spi.map(|spi| spi.to_be_bytes().to_vec()).unwrap_or_default();
        Proposal {
            number,
            protocol: protocol::IKE,
            spi,
            transforms: self.transforms(),
        }
    }

    fn matches(&self, offered: &Proposal) -> bool {
        offered.protocol == protocol::IKE
            && only_known_types(offered)
            && offers(offered, &self.transforms())
            && (self.cipher.integrity().is_some() || integrity_may_be_absent(offered))
    }
}

/// RFC 7296 section 3.3.6: a proposal with a transform type that we do not know cannot be accepted.
fn only_known_types(offered: &Proposal) -> bool {
    offered
        .transforms
        .iter()
        .all(|transform| (transform_type::ENCR..=transform_type::ESN).contains(&transform.kind))
}

fn offers(offered: &Proposal, wanted: &[Transform]) -> bool {
    wanted
        .iter()
        .all(|transform| offered.transforms.contains(transform))
}

/// RFC 7296 section 3.3: with an AEAD, integrity is absent or NONE is among the choices.
fn integrity_may_be_absent(offered: &Proposal) -> bool {
    let mut integrity = offered.of_kind(transform_type::INTEG).peekable();
    integrity.peek().is_none() || integrity.any(|transform| transform.id == 0)
}

/// The whole offer of an initiator of an IKE SA.
pub(crate) fn offer_ike(configured: &[IkeProposal], spi: Option<u64>) -> SecurityAssociation {
    let numbered = configured.iter().zip(1u8..);
    SecurityAssociation {
        proposals: numbered
            .map(|(proposal, number)| proposal.to_wire(number, spi))
            .collect(),
    }
}

/// Chooses by our order of preference; among what is acceptable, a proposal with the group that the peer
/// already sent a public value for goes first, which spares a round trip.
pub(crate) fn select_ike(
    offer: &SecurityAssociation,
    configured: &[IkeProposal],
    sent_group: u16,
) -> Option<IkeChoice> {
    let pairs = configured.iter().flat_map(|own| {
        offer
            .proposals
            .iter()
            .filter(|offered| own.matches(offered))
            .map(move |offered| (own, offered))
    });
    let mut acceptable = pairs.collect::<Vec<_>>();
    acceptable.sort_by_key(|(own, _)| own.group.id() != sent_group);
    let (own, offered) = acceptable.first()?;
    let peer_spi = <[u8; 8]>::try_from(offered.spi.as_slice())
        .ok()
        .map(u64::from_be_bytes);
    Some(IkeChoice {
        proposal: **own,
        number: offered.number,
        peer_spi,
    })
}

/// Checks that the answer is one of the proposals offered (RFC 7296 section 2.7).
pub(crate) fn accept_ike(answer: &SecurityAssociation, configured: &[IkeProposal]) -> Option<IkeChoice> {
    let [chosen] = answer.proposals.as_slice() else {
        return None;
    };
    // Four transforms of four types, or three for an AEAD: more would be no choice.
    select_ike(answer, configured, 0).filter(|choice| {
        let optional_none = chosen
            .of_kind(transform_type::INTEG)
            .filter(|transform| transform.id == 0)
            .count();
        chosen.transforms.len() == choice.proposal.transforms().len() + optional_none
    })
}

impl EspProposal {
    /// The proposal as it goes into a payload. `with_groups` is false in IKE_AUTH, whose Child SA has no
    /// key exchange of its own (RFC 7296 section 1.2).
    fn to_wire(&self, number: u8, spi: u32, with_groups: bool) -> Proposal {
        let mut transforms = self.suite.transforms();
        if with_groups {
            transforms.extend(
                self.groups
                    .iter()
                    .map(|group| Transform::new(transform_type::DH, group.id())),
            );
            if self.pfs_optional && !self.groups.is_empty() {
                transforms.push(Transform::new(transform_type::DH, 0));
            }
        }
        let esn = [(self.esn, 1), (self.no_esn, 0)];
        let esn = esn.iter().filter(|(accepted, _)| *accepted);
        transforms.extend(esn.map(|(_, id)| Transform::new(transform_type::ESN, *id)));
        Proposal {
            number,
            protocol: protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            transforms,
        }
    }

    fn select(&self, offered: &Proposal, key_exchange: KeyExchangeOffer) -> Option<EspChoice> {
        let aead = self.suite.integrity_key_len() == 0;
        let acceptable = offered.protocol == protocol::ESP
            && only_known_types(offered)
            && offers(offered, &self.suite.transforms())
            && (!aead || integrity_may_be_absent(offered));
        acceptable.then_some(())?;
        let peer_spi = u32::from_be_bytes(<[u8; 4]>::try_from(offered.spi.as_slice()).ok()?);
        let esn = self.select_esn(offered)?;
        let group = self.select_group(offered, key_exchange)?;
        Some(EspChoice {
            suite: self.suite,
            group,
            esn,
            number: offered.number,
            peer_spi,
        })
    }

    /// Some initiators leave the transform out when they mean 32-bit numbers.
    fn select_esn(&self, offered: &Proposal) -> Option<bool> {
        let offers = |id| {
            offered
                .of_kind(transform_type::ESN)
                .any(|transform| transform.id == id)
        };
        let none = offered.of_kind(transform_type::ESN).next().is_none();
        if self.esn && offers(1) {
            Some(true)
        } else {
            (self.no_esn && (offers(0) || none)).then_some(false)
        }
    }

    fn select_group(&self, offered: &Proposal, key_exchange: KeyExchangeOffer) -> Option<Option<DhGroup>> {
        let sent = match key_exchange {
            // Routers list their PFS groups here too; they have no meaning yet.
            KeyExchangeOffer::NotInThisExchange => return Some(None),
            KeyExchangeOffer::Sent(group) => Some(group),
            KeyExchangeOffer::Absent => None,
        };
        let offers = |id| {
            offered
                .of_kind(transform_type::DH)
                .any(|transform| transform.id == id)
        };
        let none_offered = offered.of_kind(transform_type::DH).next().is_none() || offers(0);
        let none = none_offered && (self.groups.is_empty() || self.pfs_optional);
        let shared = || self.groups.iter().copied().filter(|group| offers(group.id()));
        let sent_and_shared = shared().find(|group| Some(group.id()) == sent);
        match (sent_and_shared, sent) {
            (Some(group), _) => Some(Some(group)),
            (None, None) if none => Some(None),
            (None, _) => shared().next().map(Some).or(none.then_some(None)),
        }
    }
}

/// Whether the exchange that carries an ESP offer has a KE payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyExchangeOffer {
    /// IKE_AUTH.
    NotInThisExchange,
    /// CREATE_CHILD_SA without KE.
    Absent,
    /// CREATE_CHILD_SA with KE of this group.
    Sent(u16),
}

/// The whole offer of an initiator of a Child SA that will receive on `spi`.
pub(crate) fn offer_esp(configured: &[EspProposal], spi: u32, with_groups: bool) -> SecurityAssociation {
    let numbered = configured.iter().zip(1u8..);
    let proposals = numbered
        .map(|(proposal, number)| proposal.to_wire(number, spi, with_groups))
        .collect();
    SecurityAssociation { proposals }
}

/// Chooses by our order of preference, first among what fits the key exchange that was sent.
pub(crate) fn select_esp(
    offer: &SecurityAssociation,
    configured: &[EspProposal],
    key_exchange: KeyExchangeOffer,
) -> Option<EspChoice> {
    let choices = configured.iter().flat_map(|own| {
        offer
            .proposals
            .iter()
            .filter_map(move |offered| own.select(offered, key_exchange))
    });
    let mut choices = choices.collect::<Vec<_>>();
    let fits = |choice: &EspChoice| match (key_exchange, choice.group) {
        (KeyExchangeOffer::Sent(sent), Some(group)) => group.id() == sent,
        (KeyExchangeOffer::Sent(_), None) => false,
        (KeyExchangeOffer::Absent | KeyExchangeOffer::NotInThisExchange, group) => group.is_none(),
    };
    choices.sort_by_key(|choice| !fits(choice));
    choices.first().copied()
}

/// Checks that the answer is one of the proposals offered.
pub(crate) fn accept_esp(
    answer: &SecurityAssociation,
    configured: &[EspProposal],
    key_exchange: KeyExchangeOffer,
) -> Option<EspChoice> {
    let [chosen] = answer.proposals.as_slice() else {
        return None;
    };
    let one_each = (transform_type::ENCR..=transform_type::ESN).all(|kind| chosen.of_kind(kind).count() <= 1);
    one_each
        .then(|| select_esp(answer, configured, key_exchange))
        .flatten()
}

/// The answer to an ESP offer.
pub(crate) fn answer_esp(choice: &EspChoice, spi: u32) -> SecurityAssociation {
    let proposal = EspProposal {
        suite: choice.suite,
        groups: choice.group.into_iter().collect(),
        pfs_optional: false,
        esn: choice.esn,
        no_esn: !choice.esn,
    };
    SecurityAssociation {
        proposals: vec![proposal.to_wire(choice.number, spi, true)],
    }
}

/// What this side speaks when nothing is configured, strongest first.
pub fn default_ike_proposals() -> Vec<IkeProposal> {
    let ciphers = [
        (Encryption::AesGcm256, None),
        (Encryption::AesGcm128, None),
        (Encryption::ChaCha20Poly1305, None),
        (Encryption::AesCbc256, Some(Integrity::HmacSha256)),
        (Encryption::AesCbc128, Some(Integrity::HmacSha256)),
    ];
    let ciphers = ciphers
        .into_iter()
        .filter_map(|(encryption, integrity)| IkeCipherSuite::new(encryption, integrity).ok());
    ciphers
        .flat_map(|cipher| {
            DhGroup::ALL.map(|group| IkeProposal {
                cipher,
                prf: PrfAlgorithm::HmacSha256,
                group,
            })
        })
        .collect()
}

/// What Child SAs may use when nothing is configured: any suite, PFS when the peer wants it.
pub fn default_esp_proposals() -> Vec<EspProposal> {
    let suites = [
        EspSuite::AesGcm16 { key_bits: 256 },
        EspSuite::AesGcm16 { key_bits: 128 },
        EspSuite::ChaCha20Poly1305,
        EspSuite::AesCbcHmacSha256_128 { key_bits: 256 },
        EspSuite::AesCbcHmacSha256_128 { key_bits: 128 },
    ];
    let groups = DhGroup::ALL.to_vec();
    suites
        .map(|suite| EspProposal {
            suite,
            groups: groups.clone(),
            pfs_optional: true,
            esn: true,
            no_esn: true,
        })
        .into()
}

/// A proposal in words was not understood; which word, and what is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proposal {proposal:?}: {reason}")]
pub struct ProposalSyntax {
    /// The whole text.
    pub proposal: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ProposalSyntax {
    fn new(proposal: &str, reason: impl Into<String>) -> Self {
        Self {
            proposal: proposal.to_owned(),
            reason: reason.into(),
        }
    }
}

fn encryption_from_word(word: &str) -> Option<Encryption> {
    Some(match word {
        "aes128" => Encryption::AesCbc128,
        "aes256" => Encryption::AesCbc256,
        "aes128gcm16" => Encryption::AesGcm128,
        "aes256gcm16" => Encryption::AesGcm256,
        "chacha20poly1305" => Encryption::ChaCha20Poly1305,
        _ => return None,
    })
}

fn encryption_word(encryption: Encryption) -> &'static str {
    match encryption {
        Encryption::AesCbc128 => "aes128",
        Encryption::AesCbc256 => "aes256",
        Encryption::AesGcm128 => "aes128gcm16",
        Encryption::AesGcm256 => "aes256gcm16",
        Encryption::ChaCha20Poly1305 => "chacha20poly1305",
    }
}

const HASHES: [(&str, Integrity, PrfAlgorithm); 3] = [
    ("sha256", Integrity::HmacSha256, PrfAlgorithm::HmacSha256),
    ("sha384", Integrity::HmacSha384, PrfAlgorithm::HmacSha384),
    ("sha512", Integrity::HmacSha512, PrfAlgorithm::HmacSha512),
];

fn group_from_word(word: &str) -> Option<DhGroup> {
    let word = if word == "curve25519" { "x25519" } else { word };
    DhGroup::ALL.into_iter().find(|group| group_word(*group) == word)
}

/// The name of a group as proposals spell it.
pub fn group_word(group: DhGroup) -> &'static str {
    match group {
        DhGroup::Modp2048 => "modp2048",
        DhGroup::Ecp256 => "ecp256",
        DhGroup::X25519 => "x25519",
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalSyntax;

    fn from_str(text: &str) -> Result<Self, ProposalSyntax> {
        let (mut encryption, mut integrity, mut prf, mut group) = (None, None, None, None);
        for word in text.trim().split('-') {
            let hash = HASHES
                .iter()
                .find(|(name, ..)| word.strip_prefix("prf").unwrap_or(word) == *name);
            let known = match (encryption_from_word(word), hash, group_from_word(word)) {
                (Some(found), ..) => encryption.replace(found).is_none(),
                (_, Some((_, _, found)), _) if word.starts_with("prf") => prf.replace(*found).is_none(),
                (_, Some((_, found, _)), _) => integrity.replace(*found).is_none(),
                (_, _, Some(found)) => group.replace(found).is_none(),
                (None, None, None) => false,
            };
            if !known {
                return Err(ProposalSyntax::new(
                    text,
                    format!("{word:?} is unknown or comes twice"),
                ));
            }
        }
        let encryption =
            encryption.ok_or_else(|| ProposalSyntax::new(text, "no encryption, such as aes256gcm16"))?;
        let group = group.ok_or_else(|| ProposalSyntax::new(text, "no group, such as x25519"))?;
        let implied = || {
            HASHES
                .iter()
                .find(|(_, own, _)| Some(*own) == integrity)
                .map(|(_, _, prf)| *prf)
        };
        let prf = prf
            .or_else(implied)
            .ok_or_else(|| ProposalSyntax::new(text, "no PRF, such as prfsha256"))?;
        // strongSwan takes `aes256gcm16-sha256-x25519` as naming the PRF.
        let integrity = integrity.filter(|_| !encryption.is_aead());
        let cipher = IkeCipherSuite::new(encryption, integrity)
            .map_err(|error| ProposalSyntax::new(text, error.to_string()))?;
        Ok(Self { cipher, prf, group })
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(encryption_word(self.cipher.encryption()))?;
        let integrity = self.cipher.integrity();
        let implied = HASHES.iter().find(|(_, own, _)| Some(*own) == integrity);
        if let Some((name, ..)) = implied {
            write!(f, "-{name}")?;
        }
        if implied.map(|(_, _, prf)| *prf) != Some(self.prf) {
            let name = HASHES
                .iter()
                .find(|(_, _, prf)| *prf == self.prf)
                .map_or("?", |(name, ..)| *name);
            write!(f, "-prf{name}")?;
        }
        write!(f, "-{}", group_word(self.group))
    }
}

impl FromStr for EspProposal {
    type Err = ProposalSyntax;

    fn from_str(text: &str) -> Result<Self, ProposalSyntax> {
        let mut words = text.trim().split('-').peekable();
        let unknown = |word: &str| ProposalSyntax::new(text, format!("{word:?} is unknown or misplaced"));
        let first = words.next().unwrap_or_default();
        let suite = match encryption_from_word(first).ok_or_else(|| unknown(first))? {
            Encryption::AesGcm128 => EspSuite::AesGcm16 { key_bits: 128 },
            Encryption::AesGcm256 => EspSuite::AesGcm16 { key_bits: 256 },
            Encryption::ChaCha20Poly1305 => EspSuite::ChaCha20Poly1305,
            cbc @ (Encryption::AesCbc128 | Encryption::AesCbc256) => {
                words.next_if_eq(&"sha256").ok_or_else(|| {
                    ProposalSyntax::new(
                        text,
                        format!("{first} needs an integrity algorithm: {first}-sha256"),
                    )
                })?;
                EspSuite::AesCbcHmacSha256_128 {
                    key_bits: cbc.key_bits().unwrap_or(256),
                }
            }
        };
        let mut proposal = Self {
            suite,
            groups: Vec::new(),
            pfs_optional: false,
            esn: false,
            no_esn: false,
        };
        for word in words {
            match (word, group_from_word(word)) {
                (_, Some(group)) => proposal.groups.push(group),
                ("modpnone" | "none", None) => proposal.pfs_optional = true,
                ("esn", None) => proposal.esn = true,
                ("noesn", None) => proposal.no_esn = true,
                _ => return Err(unknown(word)),
            }
        }
        proposal.no_esn |= !proposal.esn;
        Ok(proposal)
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesGcm16 { key_bits } => write!(f, "aes{key_bits}gcm16"),
            Self::AesCbcHmacSha256_128 { key_bits } => write!(f, "aes{key_bits}-sha256"),
            Self::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
        }
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.suite)?;
        for group in &self.groups {
            write!(f, "-{}", group_word(*group))?;
        }
        let words = [
            (self.pfs_optional, "-modpnone"),
            (self.esn, "-esn"),
            (self.esn && self.no_esn, "-noesn"),
        ];
        words
            .iter()
            .filter(|(said, _)| *said)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

/// An offer in words, for the event that says why nothing was chosen.
pub(crate) fn describe(offer: &SecurityAssociation) -> String {
    let proposals = offer.proposals.iter().map(|proposal| {
        let transforms = proposal
            .transforms
            .iter()
            .map(describe_transform)
            .collect::<Vec<_>>();
        transforms.join("-")
    });
    proposals.collect::<Vec<_>>().join(", ")
}

fn describe_transform(transform: &Transform) -> String {
    let number = || {
        let kind = match transform.kind {
            transform_type::ENCR => "encr",
            transform_type::PRF => "prf",
            transform_type::INTEG => "integ",
            transform_type::DH => "group",
            _ => "transform",
        };
        match transform.key_bits {
            Some(bits) => format!("{kind}{}/{bits}", transform.id),
            None => format!("{kind}{}", transform.id),
        }
    };
    let hash = |id: u16, prefix: &str| {
        let found = HASHES.iter().find(|(_, integrity, prf)| {
            if prefix.is_empty() {
                integrity.id() == id
            } else {
                prf.id() == id
            }
        });
        found.map(|(name, ..)| format!("{prefix}{name}"))
    };
    let named = match transform.kind {
        transform_type::ENCR => Encryption::from_id(transform.id, transform.key_bits)
            .map(|found| encryption_word(found).to_owned()),
        transform_type::PRF => hash(transform.id, "prf"),
        transform_type::INTEG => hash(transform.id, ""),
        transform_type::DH => DhGroup::from_id(transform.id).map(|group| group_word(group).to_owned()),
        transform_type::ESN if transform.id < 2 => {
            Some(["noesn", "esn"][usize::from(transform.id == 1)].to_owned())
        }
        _ => None,
    };
    named.unwrap_or_else(number)
}

/// A list of our proposals in words.
pub(crate) fn join<T: fmt::Display>(proposals: &[T]) -> String {
    proposals.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    fn esp(text: &str) -> EspProposal {
        text.parse().unwrap()
    }

    #[test]
    fn words_round_trip() {
        for text in [
            "aes256-sha256-modp2048",
            "aes256gcm16-prfsha256-ecp256",
            "aes128-sha256-prfsha384-x25519",
        ] {
            assert_eq!(ike(text).to_string(), text);
        }
        for text in [
            "aes256gcm16",
            "aes128-sha256-modp2048",
            "chacha20poly1305-x25519-ecp256-modpnone-esn-noesn",
        ] {
            assert_eq!(esp(text).to_string(), text);
        }
        for text in [
            "aes256",
            "aes256-modp2048",
            "aes256gcm16-x25519",
            "3des-sha256-modp2048",
            "",
            "aes256-sha256-sha256-x25519",
        ] {
            assert!(text.parse::<IkeProposal>().is_err(), "{text}");
        }
        for text in ["aes256", "aes256gcm16-sha256", "aes256gcm16-foo"] {
            assert!(text.parse::<EspProposal>().is_err(), "{text}");
        }
    }

    #[test]
    fn our_order_decides_unless_the_group_was_sent() {
        let offer = offer_ike(
            &[ike("aes256-sha256-modp2048"), ike("aes256gcm16-prfsha256-x25519")],
            None,
        );
        let configured = [ike("aes256gcm16-prfsha256-x25519"), ike("aes256-sha256-modp2048")];
        assert_eq!(
            select_ike(&offer, &configured, 31).map(|choice| choice.number),
            Some(2)
        );
        assert_eq!(
            select_ike(&offer, &configured, 14).map(|choice| choice.number),
            Some(1)
        );
        assert_eq!(
            select_ike(&offer, &configured, 19).map(|choice| choice.number),
            Some(2)
        );
        assert_eq!(select_ike(&offer, &[ike("aes128-sha256-modp2048")], 14), None);
    }

    #[test]
    fn unknown_transform_types_and_attributes_refuse_a_proposal() {
        let configured = [ike("aes256-sha256-modp2048")];
        let mut offer = offer_ike(&configured, None);
        offer.proposals[0].transforms.push(Transform::new(6, 35));
        assert_eq!(select_ike(&offer, &configured, 14), None);
        let mut offer = offer_ike(&configured, None);
        offer.proposals[0].transforms[0].unknown_attribute = true;
        assert_eq!(select_ike(&offer, &configured, 14), None);
    }

    #[test]
    fn an_answer_must_be_one_choice() {
        let configured = default_ike_proposals();
        let mut answer = SecurityAssociation {
            proposals: vec![configured[3].to_wire(4, None)],
        };
        assert_eq!(
            accept_ike(&answer, &configured).map(|choice| choice.proposal),
            Some(configured[3])
        );
        answer.proposals[0]
            .transforms
            .push(Transform::new(transform_type::DH, 19));
        assert_eq!(accept_ike(&answer, &configured), None);
        let esp = [esp("aes256gcm16-x25519-modp2048")];
        let both = offer_esp(&esp, 1, true);
        assert_eq!(accept_esp(&both, &esp, KeyExchangeOffer::Sent(31)), None);
    }

    #[test]
    fn pfs_is_taken_required_or_left() {
        let select = |own: &str, offered: &str, key_exchange| {
            select_esp(&offer_esp(&[esp(offered)], 7, true), &[esp(own)], key_exchange)
                .map(|choice| choice.group)
        };
        let (absent, modp) = (KeyExchangeOffer::Absent, KeyExchangeOffer::Sent(14));
        assert_eq!(
            select("aes256gcm16-modp2048", "aes256gcm16-modp2048", modp),
            Some(Some(DhGroup::Modp2048))
        );
        assert_eq!(select("aes256gcm16-modp2048", "aes256gcm16", absent), None);
        assert_eq!(
            select("aes256gcm16-modp2048-modpnone", "aes256gcm16", absent),
            Some(None)
        );
        assert_eq!(select("aes256gcm16", "aes256gcm16-modp2048", modp), None);
        assert_eq!(
            select("aes256gcm16-ecp256", "aes256gcm16-modp2048-ecp256", modp),
            Some(Some(DhGroup::Ecp256))
        );
        assert_eq!(
            select(
                "aes256gcm16-x25519",
                "aes256gcm16-modp2048",
                KeyExchangeOffer::NotInThisExchange
            ),
            Some(None)
        );
    }

    #[test]
    fn sequence_numbers_are_negotiated() {
        let select = |own: &str, offered: &str| {
            let offer = offer_esp(&[esp(offered)], 7, false);
            select_esp(&offer, &[esp(own)], KeyExchangeOffer::NotInThisExchange).map(|choice| choice.esn)
        };
        assert_eq!(
            select("aes256gcm16-esn-noesn", "aes256gcm16-esn-noesn"),
            Some(true)
        );
        assert_eq!(select("aes256gcm16", "aes256gcm16-esn-noesn"), Some(false));
        assert_eq!(select("aes256gcm16-esn", "aes256gcm16"), None);
    }

    #[test]
    fn offers_in_words() {
        let mut offer = offer_esp(&[esp("aes256gcm16-modp2048")], 7, true);
        offer.proposals[0]
            .transforms
            .push(Transform::with_key_bits(1, 3, 192));
        assert_eq!(describe(&offer), "aes256gcm16-modp2048-noesn-encr3/192");
    }
}

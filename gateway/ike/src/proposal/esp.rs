//! Proposals for a Child SA.

use super::{AdditionalKeyExchanges, additional::Declined, integrity_may_be_absent, only_known_types};
use crate::{
    crypto::{cipher::Integrity, dh::DhGroup, kem::Kem},
    wire::{
        protocol,
        sa::{Proposal, SecurityAssociation, Transform, transform_type},
    },
};

/// The algorithms of an ESP SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EspSuite {
    /// AES-GCM with a 16-octet ICV (RFC 4106).
    AesGcm16 {
        /// 128 or 256.
        key_bits: u16,
    },
    /// AES-CBC (RFC 3602) with HMAC-SHA2 (RFC 4868).
    AesCbcHmac {
        /// 128 or 256.
        key_bits: u16,
        /// The hash.
        integrity: Integrity,
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
    /// Key exchanges that follow the one of the group (RFC 9370). Means nothing when `groups` is empty.
    pub additional: AdditionalKeyExchanges,
    /// A CREATE_CHILD_SA without a key exchange will do, too. Means nothing when `groups` is empty.
    pub pfs_optional: bool,
    /// Accept 64-bit extended sequence numbers.
    pub esn: bool,
    /// Accept 32-bit sequence numbers.
    pub no_esn: bool,
}

/// Perfect forward secrecy of Child SAs: whether CREATE_CHILD_SA has a key exchange of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pfs {
    /// A peer that proposes none is refused.
    Required,
    /// As the peer wants.
    Optional,
    /// None is proposed, and a peer that insists on one is refused.
    Off,
}

impl std::str::FromStr for Pfs {
    type Err = super::ProposalSyntax;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            "off" => Ok(Self::Off),
            _ => Err(super::ProposalSyntax {
                proposal: text.to_owned(),
                reason: "perfect forward secrecy is required, optional or off".to_owned(),
            }),
        }
    }
}

impl EspSuite {
    /// Octets of encryption key material, including the salt of the AEAD algorithms.
    pub fn encryption_key_len(self) -> usize {
        match self {
            Self::AesGcm16 { key_bits } => usize::from(key_bits) / 8 + 4,
            Self::AesCbcHmac { key_bits, .. } => usize::from(key_bits) / 8,
            Self::ChaCha20Poly1305 => 36,
        }
    }

    /// Octets of integrity key; 0 for the AEAD algorithms.
    pub fn integrity_key_len(self) -> usize {
        match self {
            Self::AesCbcHmac { integrity, .. } => integrity.key_len(),
            Self::AesGcm16 { .. } | Self::ChaCha20Poly1305 => 0,
        }
    }

    fn transforms(self) -> Vec<Transform> {
        match self {
            Self::AesGcm16 { key_bits } => vec![Transform::with_key_bits(transform_type::ENCR, 20, key_bits)],
            Self::ChaCha20Poly1305 => vec![Transform::new(transform_type::ENCR, 28)],
            Self::AesCbcHmac { key_bits, integrity } => vec![
                Transform::with_key_bits(transform_type::ENCR, 12, key_bits),
                Transform::new(transform_type::INTEG, integrity.id()),
            ],
        }
    }
}

/// All proposals with another rule about perfect forward secrecy.
pub fn with_pfs(proposals: &[EspProposal], pfs: Pfs) -> Vec<EspProposal> {
    let changed = proposals.iter().map(|proposal| proposal.clone().with_pfs(pfs));
    changed.collect()
}

/// A choice of ESP algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EspChoice {
    pub(crate) suite: EspSuite,
    pub(crate) group: Option<DhGroup>,
    pub(crate) additional: AdditionalKeyExchanges,
    declined: Declined,
    pub(crate) esn: bool,
    pub(crate) number: u8,
    /// The SPI the peer receives on.
    pub(crate) peer_spi: u32,
}

impl EspProposal {
    /// The same with another rule about perfect forward secrecy; all groups serve where none was named.
    #[must_use]
    pub fn with_pfs(mut self, pfs: Pfs) -> Self {
        match pfs {
            Pfs::Off => {
                self.groups.clear();
                self.additional = AdditionalKeyExchanges::NONE;
                self.pfs_optional = false;
            }
            Pfs::Required | Pfs::Optional => {
                if self.groups.is_empty() {
                    self.groups = DhGroup::ALL.to_vec();
                }
                self.pfs_optional = pfs == Pfs::Optional;
            }
        }
        self
    }

    /// The rule about perfect forward secrecy that it is.
    pub fn pfs(&self) -> Pfs {
        match (self.groups.is_empty(), self.pfs_optional) {
            (true, _) => Pfs::Off,
            (false, true) => Pfs::Optional,
            (false, false) => Pfs::Required,
        }
    }

    /// The proposal as it goes into a payload: two, when additional key exchanges go with the key exchange but
    /// neither is needed, because one proposal cannot say "both or none". `with_groups` is false in IKE_AUTH, whose
    /// Child SA has no key exchange of its own (RFC 7296 section 1.2).
    fn transforms(&self, with_groups: bool) -> Vec<Vec<Transform>> {
        let optional = Transform::new(transform_type::DH, 0);
        let key_exchanges: Vec<Vec<Transform>> = match (with_groups, self.pfs()) {
            (false, _) | (true, Pfs::Off) => vec![Vec::new()],
            (true, Pfs::Required) => vec![self.key_exchange().collect()],
            (true, Pfs::Optional) if self.additional.is_empty() => {
                vec![self.key_exchange().chain([optional]).collect()]
            }
            (true, Pfs::Optional) => vec![self.key_exchange().collect(), Vec::new()],
        };
        let esn = [(self.esn, 1), (self.no_esn, 0)];
        let esn = esn
            .into_iter()
            .filter(|(accepted, _)| *accepted)
            .map(|(_, id)| Transform::new(transform_type::ESN, id));
        let whole = |key_exchange: Vec<Transform>| {
            let mut transforms = self.suite.transforms();
            transforms.extend(key_exchange);
            transforms.extend(esn.clone());
            transforms
        };
        key_exchanges.into_iter().map(whole).collect()
    }

    fn key_exchange(&self) -> impl Iterator<Item = Transform> {
        let groups = self.groups.iter();
        groups
            .map(|group| Transform::new(transform_type::DH, group.id()))
            .chain(self.additional.transforms())
    }

    fn select(&self, offered: &Proposal, key_exchange: KeyExchangeOffer) -> Option<EspChoice> {
        let aead = self.suite.integrity_key_len() == 0;
        let acceptable = offered.protocol == protocol::ESP
            && only_known_types(offered)
            && self
                .suite
                .transforms()
                .iter()
                .all(|wanted| offered.transforms.contains(wanted))
            && (!aead || integrity_may_be_absent(offered));
        acceptable.then_some(())?;
        let peer_spi = u32::from_be_bytes(<[u8; 4]>::try_from(offered.spi.as_slice()).ok()?);
        let esn = self.select_esn(offered)?;
        let group = self.select_group(offered, key_exchange)?;
        let additional = match group {
            Some(_) => self.additional,
            None => AdditionalKeyExchanges::NONE,
        };
        let declined = match key_exchange {
            // Peers list theirs here too, as they do with the groups.
            KeyExchangeOffer::NotInThisExchange => Declined::default(),
            KeyExchangeOffer::Absent | KeyExchangeOffer::Sent(_) => additional.select(offered)?,
        };
        Some(EspChoice {
            suite: self.suite,
            group,
            additional,
            declined,
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
    let mut choices: Vec<Vec<Transform>> = Vec::new();
    for transforms in configured.iter().flat_map(|own| own.transforms(with_groups)) {
        if !choices.contains(&transforms) {
            choices.push(transforms);
        }
    }
    let proposals = (1u8..).zip(choices).map(|(number, transforms)| Proposal {
        number,
        protocol: protocol::ESP,
        spi: spi.to_be_bytes().to_vec(),
        transforms,
    });
    SecurityAssociation {
        proposals: proposals.collect(),
    }
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
    let one_each = (transform_type::ENCR..=transform_type::ADDITIONAL_LAST)
        .all(|kind| chosen.of_kind(kind).count() <= 1);
    one_each
        .then(|| select_esp(answer, configured, key_exchange))
        .flatten()
        .filter(|choice| choice.declined.is_empty())
}

/// The answer to an ESP offer.
pub(crate) fn answer_esp(choice: &EspChoice, spi: u32) -> SecurityAssociation {
    let mut transforms = choice.suite.transforms();
    transforms.extend(
        choice
            .group
            .map(|group| Transform::new(transform_type::DH, group.id())),
    );
    transforms.extend(choice.additional.transforms());
    transforms.extend(choice.declined.transforms());
    transforms.push(Transform::new(transform_type::ESN, choice.esn.into()));
    SecurityAssociation {
        proposals: vec![Proposal {
            number: choice.number,
            protocol: protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            transforms,
        }],
    }
}

/// What Child SAs may use when nothing is configured: any suite, PFS when the peer wants it, with ML-KEM-768 after it
/// where the peer can.
pub fn default_esp_proposals() -> Vec<EspProposal> {
    let cbc = |key_bits, integrity| EspSuite::AesCbcHmac { key_bits, integrity };
    let suites = [
        EspSuite::AesGcm16 { key_bits: 256 },
        EspSuite::AesGcm16 { key_bits: 128 },
        EspSuite::ChaCha20Poly1305,
        cbc(256, Integrity::HmacSha256),
        cbc(256, Integrity::HmacSha384),
        cbc(256, Integrity::HmacSha512),
        cbc(128, Integrity::HmacSha256),
        cbc(128, Integrity::HmacSha384),
        cbc(128, Integrity::HmacSha512),
    ];
    let proposal = |suite, additional| EspProposal {
        suite,
        groups: DhGroup::ALL.to_vec(),
        additional,
        pfs_optional: true,
        esn: true,
        no_esn: true,
    };
    let aeads = suites.into_iter().filter(|suite| suite.integrity_key_len() == 0);
    let hybrid = aeads.map(|suite| proposal(suite, AdditionalKeyExchanges::one(Kem::MlKem768)));
    let plain = suites
        .into_iter()
        .map(|suite| proposal(suite, AdditionalKeyExchanges::NONE));
    hybrid.chain(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp(text: &str) -> EspProposal {
        text.parse().unwrap()
    }

    const ABSENT: KeyExchangeOffer = KeyExchangeOffer::Absent;
    const MODP: KeyExchangeOffer = KeyExchangeOffer::Sent(14);

    fn select(own: &str, offered: &str, key_exchange: KeyExchangeOffer) -> Option<EspChoice> {
        select_esp(&offer_esp(&[esp(offered)], 7, true), &[esp(own)], key_exchange)
    }

    #[test]
    fn an_answer_must_be_one_choice() {
        let own = [esp("aes256gcm16-x25519-modp2048")];
        let both = offer_esp(&own, 1, true);
        assert_eq!(accept_esp(&both, &own, KeyExchangeOffer::Sent(31)), None);
    }

    #[test]
    fn pfs_is_taken_required_or_left() {
        let group =
            |own, offered, key_exchange| select(own, offered, key_exchange).map(|choice| choice.group);
        assert_eq!(
            group("aes256gcm16-modp2048", "aes256gcm16-modp2048", MODP),
            Some(Some(DhGroup::Modp2048))
        );
        assert_eq!(group("aes256gcm16-modp2048", "aes256gcm16", ABSENT), None);
        assert_eq!(
            group("aes256gcm16-modp2048-modpnone", "aes256gcm16", ABSENT),
            Some(None)
        );
        assert_eq!(group("aes256gcm16", "aes256gcm16-modp2048", MODP), None);
        assert_eq!(
            group("aes256gcm16-ecp256", "aes256gcm16-modp2048-ecp256", MODP),
            Some(Some(DhGroup::Ecp256))
        );
        assert_eq!(
            group(
                "aes256gcm16-x25519",
                "aes256gcm16-modp2048",
                KeyExchangeOffer::NotInThisExchange
            ),
            Some(None)
        );
    }

    #[test]
    fn the_rule_about_pfs_replaces_the_words() {
        let proposal = esp("aes256gcm16-ecp384-ke1_mlkem768-modpnone");
        assert_eq!(proposal.pfs(), Pfs::Optional);
        let required = proposal.clone().with_pfs(Pfs::Required);
        assert_eq!(required.to_string(), "aes256gcm16-ecp384-ke1_mlkem768");
        assert_eq!(proposal.with_pfs(Pfs::Off).to_string(), "aes256gcm16");
        let all = esp("aes128-sha512").with_pfs(Pfs::Required);
        assert_eq!((all.pfs(), all.groups.len()), (Pfs::Required, DhGroup::ALL.len()));
        assert_eq!("required".parse(), Ok(Pfs::Required));
        assert!("yes".parse::<Pfs>().is_err());
    }

    /// RFC 9370 section 2.2.4: additional exchanges follow the one of CREATE_CHILD_SA.
    #[test]
    fn additional_exchanges_go_with_the_key_exchange() {
        let additional = |own, offered, key_exchange| {
            select(own, offered, key_exchange)
                .map(|choice| (choice.group.is_some(), choice.additional.methods().next()))
        };
        let hybrid = "aes256gcm16-modp2048-ke1_mlkem768";
        let optional = "aes256gcm16-modp2048-ke1_mlkem768-modpnone";
        let both = Some((true, Some(Kem::MlKem768)));
        assert_eq!(additional(hybrid, hybrid, MODP), both);
        assert_eq!(additional(hybrid, "aes256gcm16-modp2048", MODP), None);
        assert_eq!(additional("aes256gcm16-modp2048", hybrid, MODP), None);
        assert_eq!(additional(optional, optional, MODP), both);
        assert_eq!(additional(optional, "aes256gcm16", ABSENT), Some((false, None)));
        assert_eq!(
            additional(hybrid, hybrid, KeyExchangeOffer::NotInThisExchange),
            Some((false, None))
        );
        // An initiator of "both or none" takes both or none, and not one of two.
        let own = [esp(optional)];
        assert_eq!(offer_esp(&own, 7, true).proposals.len(), 2);
        assert_eq!(offer_esp(&own, 7, false).proposals.len(), 1);
        let half = offer_esp(&[esp("aes256gcm16-modp2048")], 7, true);
        assert_eq!(accept_esp(&half, &own, MODP), None);
        let whole = offer_esp(&[esp(hybrid)], 7, true);
        assert!(accept_esp(&whole, &own, MODP).is_some());
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

    /// Each suite of RFC 4868 and RFC 4106 that is offered is told apart from the others.
    #[test]
    fn every_suite_matches_itself_only() {
        let all = default_esp_proposals();
        for (index, own) in all.iter().enumerate() {
            let offer = offer_esp(std::slice::from_ref(own), 7, true);
            let others: Vec<_> = all
                .iter()
                .filter(|other| other.suite != own.suite)
                .cloned()
                .collect();
            assert!(others.len() < all.len());
            assert_eq!(select_esp(&offer, &others, ABSENT), None, "{index}");
            let chosen = select_esp(&offer, &all, ABSENT).unwrap();
            assert_eq!(chosen.suite, own.suite);
            let answer = answer_esp(&chosen, 9);
            assert_eq!(
                accept_esp(&answer, &all, ABSENT).map(|choice| choice.suite),
                Some(own.suite)
            );
        }
    }
}

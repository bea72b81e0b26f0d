//! Proposals for an IKE SA.

use super::{AdditionalKeyExchanges, additional::Declined, integrity_may_be_absent, only_known_types};
use crate::{
    crypto::{
        cipher::{Encryption, IkeCipherSuite, Integrity},
        dh::DhGroup,
        kem::Kem,
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
    /// Key exchanges that follow (RFC 9370).
    pub additional: AdditionalKeyExchanges,
}

/// A choice of IKE algorithms, and what of the peer's proposal the answer must repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IkeChoice {
    pub(crate) proposal: IkeProposal,
    pub(crate) number: u8,
    /// The peer's SPI when an IKE SA is rekeyed.
    pub(crate) peer_spi: Option<u64>,
    declined: Declined,
}

impl IkeChoice {
    /// The answer; `spi` is ours when an IKE SA is rekeyed.
    pub(crate) fn to_wire(&self, spi: Option<u64>) -> Proposal {
        let mut proposal = self.proposal.to_wire(self.number, spi);
        proposal.transforms.extend(self.declined.transforms());
        proposal
    }
}

fn encr(cipher: IkeCipherSuite) -> Transform {
    Transform {
        kind: transform_type::ENCR,
        id: cipher.encryption().id(),
        key_bits: cipher.encryption().key_bits(),
        unknown_attribute: false,
    }
}

fn integ(integrity: Integrity) -> Transform {
    Transform::new(transform_type::INTEG, integrity.id())
}

fn prf(prf: PrfAlgorithm) -> Transform {
    Transform::new(transform_type::PRF, prf.id())
}

fn dh(group: DhGroup) -> Transform {
    Transform::new(transform_type::DH, group.id())
}

impl IkeProposal {
    fn transforms(&self) -> Vec<Transform> {
        let mut transforms = vec![encr(self.cipher)];
        transforms.extend(self.cipher.integrity().map(integ));
        transforms.extend([prf(self.prf), dh(self.group)]);
        transforms.extend(self.additional.transforms());
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

    fn select(&self, offered: &Proposal) -> Option<IkeChoice> {
        let offers = |transform| offered.transforms.contains(&transform);
        let integrity = match self.cipher.integrity() {
            Some(integrity) => offers(integ(integrity)),
            None => integrity_may_be_absent(offered),
        };
        let acceptable = offered.protocol == protocol::IKE
            && offers(dh(self.group))
            && offers(encr(self.cipher))
            && integrity
            && offers(prf(self.prf))
            && only_known_types(offered);
        acceptable.then_some(())?;
        let declined = self.additional.select(offered)?;
        let peer_spi = <[u8; 8]>::try_from(offered.spi.as_slice()).ok();
        Some(IkeChoice {
            proposal: *self,
            number: offered.number,
            peer_spi: peer_spi.map(u64::from_be_bytes),
            declined,
        })
    }
}

/// The whole offer of an initiator of an IKE SA. Proposals that are every combination of some algorithms go into one
/// with all of them to choose from, which keeps the request small.
pub(crate) fn offer_ike(configured: &[IkeProposal], spi: Option<u64>) -> SecurityAssociation {
    let mut proposals: Vec<Proposal> = Vec::new();
    let mut rest = configured;
    while let Some(first) = rest.first() {
        let number = u8::try_from(proposals.len() + 1).unwrap_or(u8::MAX);
        let alike = |other: &&IkeProposal| {
            other.additional == first.additional
                && other.cipher.integrity().is_some() == first.cipher.integrity().is_some()
        };
        let run = rest.iter().take_while(alike).count();
        let (run, after) = rest.split_at(run);
        match product(run) {
            Some(transforms) => {
                let mut proposal = first.to_wire(number, spi);
                proposal.transforms = transforms;
                proposals.push(proposal);
                rest = after;
            }
            None => {
                proposals.push(first.to_wire(number, spi));
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    SecurityAssociation { proposals }
}

/// The transforms of all proposals, if these are every combination of them. What they must have alike are the
/// additional key exchanges.
fn product(proposals: &[IkeProposal]) -> Option<Vec<Transform>> {
    let mut transforms: Vec<Transform> = Vec::new();
    for kind in transform_type::ENCR..=transform_type::ADDITIONAL_LAST {
        for own in proposals.iter().flat_map(IkeProposal::transforms) {
            if own.kind == kind && !transforms.contains(&own) {
                transforms.push(own);
            }
        }
    }
    let count = |kind| transforms.iter().filter(|one| one.kind == kind).count();
    let combinations: usize = (transform_type::ENCR..=transform_type::DH)
        .map(|kind| count(kind).max(1))
        .product();
    let distinct = (1..)
        .zip(proposals)
        .all(|(next, one)| !proposals.iter().skip(next).any(|other| other == one));
    (distinct && combinations == proposals.len()).then_some(transforms)
}

/// Chooses by our order of preference; among what is acceptable, a proposal with the group that the peer
/// already sent a public value for goes first, which spares a round trip. Without `additional`, what needs further
/// key exchanges is not acceptable.
pub(crate) fn select_ike(
    offer: &SecurityAssociation,
    configured: &[IkeProposal],
    sent_group: u16,
    additional: bool,
) -> Option<IkeChoice> {
    let usable = configured
        .iter()
        .filter(|own| additional || own.additional.is_empty());
    let mut choices = usable.flat_map(|own| offer.proposals.iter().filter_map(|offered| own.select(offered)));
    let first = choices.next()?;
    if first.proposal.group.id() == sent_group {
        return Some(first);
    }
    let fits = choices.find(|choice| choice.proposal.group.id() == sent_group);
    Some(fits.unwrap_or(first))
}

/// Checks that the answer is one of the proposals offered (RFC 7296 section 2.7).
pub(crate) fn accept_ike(answer: &SecurityAssociation, configured: &[IkeProposal]) -> Option<IkeChoice> {
    let [chosen] = answer.proposals.as_slice() else {
        return None;
    };
    // One transform of each type: more would be no choice. NONE beside an AEAD is not wrong.
    select_ike(answer, configured, 0, true).filter(|choice| {
        let optional_none = chosen
            .of_kind(transform_type::INTEG)
            .filter(|transform| transform.id == 0)
            .count();
        choice.declined.is_empty()
            && chosen.transforms.len() == choice.proposal.transforms().len() + optional_none
    })
}

const PRFS: [PrfAlgorithm; 3] = [
    PrfAlgorithm::HmacSha256,
    PrfAlgorithm::HmacSha384,
    PrfAlgorithm::HmacSha512,
];

const AEADS: [Encryption; 3] = [
    Encryption::AesGcm256,
    Encryption::AesGcm128,
    Encryption::ChaCha20Poly1305,
];

fn combinations(ciphers: &[IkeCipherSuite], additional: AdditionalKeyExchanges) -> Vec<IkeProposal> {
    let of_cipher = |cipher: &IkeCipherSuite| {
        let cipher = *cipher;
        PRFS.into_iter().flat_map(move |prf| {
            DhGroup::ALL.map(|group| IkeProposal {
                cipher,
                prf,
                group,
                additional,
            })
        })
    };
    ciphers.iter().flat_map(of_cipher).collect()
}

fn aeads() -> Vec<IkeCipherSuite> {
    let suites = AEADS.map(|encryption| IkeCipherSuite::new(encryption, None).ok());
    suites.into_iter().flatten().collect()
}

/// What this side speaks when nothing is configured, preferred first.
pub fn default_ike_proposals() -> Vec<IkeProposal> {
    let hashes = [
        Integrity::HmacSha256,
        Integrity::HmacSha384,
        Integrity::HmacSha512,
    ];
    let cbc = [Encryption::AesCbc256, Encryption::AesCbc128]
        .into_iter()
        .flat_map(|encryption| hashes.map(|hash| IkeCipherSuite::new(encryption, Some(hash)).ok()));
    let cbc: Vec<_> = cbc.flatten().collect();
    let mut proposals = combinations(&aeads(), AdditionalKeyExchanges::NONE);
    proposals.extend(combinations(&cbc, AdditionalKeyExchanges::NONE));
    proposals
}

/// What a responder accepts besides when nothing is configured: ML-KEM-768 after Diffie-Hellman. It is not offered
/// unasked, because there are peers that do not pass over transform types they do not know.
pub fn hybrid_ike_proposals() -> Vec<IkeProposal> {
    combinations(&aeads(), AdditionalKeyExchanges::one(Kem::MlKem768))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    fn select(offer: &SecurityAssociation, configured: &[IkeProposal], sent: u16) -> Option<IkeChoice> {
        select_ike(offer, configured, sent, true)
    }

    #[test]
    fn our_order_decides_unless_the_group_was_sent() {
        let offer = offer_ike(
            &[ike("aes256-sha256-modp2048"), ike("aes256gcm16-prfsha256-x25519")],
            None,
        );
        let configured = [ike("aes256gcm16-prfsha256-x25519"), ike("aes256-sha256-modp2048")];
        for (sent, number) in [(31, 2), (14, 1), (19, 2)] {
            assert_eq!(
                select(&offer, &configured, sent).map(|choice| choice.number),
                Some(number)
            );
        }
        assert_eq!(select(&offer, &[ike("aes128-sha256-modp2048")], 14), None);
    }

    #[test]
    fn unknown_transform_types_and_attributes_refuse_a_proposal() {
        let configured = [ike("aes256-sha256-modp2048")];
        let mut offer = offer_ike(&configured, None);
        offer.proposals[0].transforms.push(Transform::new(13, 35));
        assert_eq!(select(&offer, &configured, 14), None);
        let mut offer = offer_ike(&configured, None);
        offer.proposals[0].transforms[0].unknown_attribute = true;
        assert_eq!(select(&offer, &configured, 14), None);
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
    }

    /// RFC 9370 section 2.2.1 and its appendix A.1: each additional exchange is chosen or declined by NONE.
    #[test]
    fn additional_exchanges_are_chosen_or_declined() {
        let hybrid = ike("aes256gcm16-prfsha256-x25519-ke1_mlkem768");
        let plain = ike("aes256gcm16-prfsha256-x25519");
        let offer = |ids: &[(u8, u16)]| {
            let mut offer = offer_ike(&[plain], None);
            let more = ids.iter().map(|(kind, id)| Transform::new(*kind, *id));
            offer.proposals[0].transforms.extend(more);
            offer
        };
        let chosen = |offer: &SecurityAssociation, own| {
            let choice = select(offer, &[own], 31)?;
            let transforms = choice.to_wire(None).transforms;
            let more = transforms.iter().filter(|one| one.kind > transform_type::ESN);
            Some(more.map(|one| (one.kind, one.id)).collect::<Vec<_>>())
        };
        let optional = offer(&[(6, 36), (6, 0), (7, 37), (7, 0)]);
        assert_eq!(chosen(&optional, hybrid), Some(vec![(6, 36), (7, 0)]));
        assert_eq!(chosen(&optional, plain), Some(vec![(6, 0), (7, 0)]));
        let required = offer(&[(6, 36)]);
        assert_eq!(chosen(&required, hybrid), Some(vec![(6, 36)]));
        assert_eq!(chosen(&required, plain), None, "the peer insists");
        assert_eq!(chosen(&offer(&[]), hybrid), None, "we insist");
        assert_eq!(chosen(&offer(&[(6, 36), (7, 37)]), hybrid), None);
        assert_eq!(chosen(&offer(&[(7, 36)]), hybrid), None, "another place");
        // Without INTERMEDIATE_EXCHANGE_SUPPORTED there is no exchange to make them in.
        assert_eq!(select_ike(&required, &[hybrid], 31, false), None);
        // An answer may not decline what was not offered as optional.
        assert_eq!(accept_ike(&offer(&[(6, 0)]), &[hybrid, plain]), None);
        assert_eq!(
            accept_ike(&required, &[plain, hybrid]).map(|choice| choice.proposal),
            Some(hybrid)
        );
    }

    #[test]
    fn all_combinations_make_one_proposal() {
        let all = default_ike_proposals();
        assert_eq!(all.len(), 3 * 3 * 6 + 6 * 3 * 6);
        let mut offered = all.clone();
        offered.extend(hybrid_ike_proposals());
        let offer = offer_ike(&offered, None);
        assert_eq!(offer.proposals.len(), 3);
        let mut bytes = Vec::new();
        offer.emit(&mut bytes);
        assert!(bytes.len() < 450, "{} octets", bytes.len());
        for own in &offered {
            let choice = select(&offer, &[*own], own.group.id());
            assert_eq!(choice.map(|choice| choice.proposal), Some(*own));
        }
    }

    /// What is not configured must not come out of the combination.
    #[test]
    fn what_is_no_product_stays_apart() {
        let configured = [
            ike("aes256gcm16-prfsha384-x25519"),
            ike("aes128gcm16-prfsha256-modp2048"),
        ];
        let offer = offer_ike(&configured, None);
        assert_eq!(offer.proposals.len(), 2);
        assert_eq!(select(&offer, &[ike("aes128gcm16-prfsha256-x25519")], 31), None);
        let twice = [configured[0], configured[0]];
        assert_eq!(offer_ike(&twice, None).proposals.len(), 2);
    }
}

//! Why nothing was chosen, in words: what was offered, what of it is refused as weak, and what would have matched.

use super::{
    EspProposal, IkeProposal, KeyExchangeOffer, offer_esp, offer_ike,
    registry::{self, by_transform},
    words::{encryption_word, group_word, integrity_word, kem_word, prf_word},
};
use crate::{
    crypto::{
        cipher::{Encryption, Integrity},
        dh::DhGroup,
        kem::Kem,
        prf::PrfAlgorithm,
    },
    output::Event,
    wire::{
        protocol,
        sa::{Proposal, SecurityAssociation, Transform, transform_type},
    },
};

/// More proposals than this are only counted: a peer must not fill our logs.
const TOLD_MAX: usize = 8;
/// Likewise for the algorithms of one proposal.
const TRANSFORMS_TOLD_MAX: usize = 40;
/// The nearest to ours is looked for among so many: each is compared with each of ours, in words.
const COMPARED_MAX: usize = 16;

/// The event of an IKE offer that holds nothing acceptable. `additional` is false when the peer cannot make additional
/// key exchanges.
pub(crate) fn refused_ike(
    remote: std::net::SocketAddr,
    offer: &SecurityAssociation,
    configured: &[IkeProposal],
    additional: bool,
) -> Event {
    let own = offer_ike(configured, None).proposals;
    let mut reason = reason(protocol::IKE, &offer.proposals, &own);
    if !additional && configured.iter().any(|own| !own.additional.is_empty()) {
        reason.push_str("; it does not support IKE_INTERMEDIATE (RFC 9242), which ML-KEM needs");
    }
    Event::ProposalRefused {
        remote,
        offered: describe(&offer.proposals),
        configured: told(configured, &own),
        reason,
    }
}

/// The event of an ESP offer that holds nothing acceptable.
pub(crate) fn refused_esp(
    remote: std::net::SocketAddr,
    offer: &SecurityAssociation,
    configured: &[EspProposal],
    key_exchange: KeyExchangeOffer,
) -> Event {
    let with_groups = key_exchange != KeyExchangeOffer::NotInThisExchange;
    let own = offer_esp(configured, 0, with_groups).proposals;
    let mut offered = offer.proposals.clone();
    if !with_groups {
        let groups = |kind| kind == transform_type::DH || kind > transform_type::ESN;
        for proposal in &mut offered {
            proposal.transforms.retain(|transform| !groups(transform.kind));
        }
    }
    Event::ProposalRefused {
        remote,
        offered: describe(&offer.proposals),
        configured: told(configured, &own),
        reason: reason(protocol::ESP, &offered, &own),
    }
}

fn reason(of: u8, offered: &[Proposal], own: &[Proposal]) -> String {
    let offered = offered.get(..COMPARED_MAX).unwrap_or(offered);
    let mut parts = Vec::new();
    let weak = weak(of, offered);
    if !weak.is_empty() {
        parts.push(format!("refused by name: {}", weak.join(", ")));
    }
    let pairs = own
        .iter()
        .flat_map(|own| offered.iter().map(move |offered| (own, offered)));
    let differences = pairs
        .filter(|(own, offered)| own.protocol == offered.protocol)
        .map(|(own, offered)| (offered.number, differences(of, own, offered)));
    if let Some((number, differences)) = differences.min_by_key(|(_, differences)| differences.len()) {
        parts.push(format!(
            "nearest is its proposal {number}, where {}",
            differences.join(" and ")
        ));
    }
    parts.join("; ")
}

/// The algorithms on offer that are known and not used here, each once.
fn weak(of: u8, offered: &[Proposal]) -> Vec<String> {
    let mut weak = Vec::new();
    for transform in offered.iter().flat_map(|proposal| &proposal.transforms) {
        let known = by_transform(transform).filter(|algorithm| !algorithm.accepted());
        if let Some(name) = known.map(|algorithm| algorithm.named(of))
            && !weak.contains(&name)
        {
            weak.push(name);
        }
    }
    weak
}

/// What keeps an offered proposal from one of ours, transform type by transform type.
fn differences(of: u8, own: &Proposal, offered: &Proposal) -> Vec<String> {
    let mut differences = Vec::new();
    for kind in transform_type::ENCR..=transform_type::ADDITIONAL_LAST {
        let (ours, theirs) = (list(own, kind), list(offered, kind));
        let what = kind_name(kind);
        let shared = own.of_kind(kind).any(|one| offered.transforms.contains(one));
        let theirs_optional = offered.of_kind(kind).any(|one| one.id == 0);
        let difference = match (ours.is_empty(), theirs.is_empty()) {
            (true, true) => continue,
            (false, false) if shared => continue,
            (false, false) => format!("{what} is {theirs}, but we want {ours}"),
            (true, false) if theirs_optional => continue,
            (true, false) if kind == transform_type::DH => {
                format!("it insists on a key exchange ({theirs}), but perfect forward secrecy is off")
            }
            (true, false) => format!("{what} {theirs} is asked for, which ours does without"),
            // 32-bit numbers are what an absent transform means.
            (false, true) if kind == transform_type::ESN && own.of_kind(kind).any(|one| one.id == 0) => {
                continue;
            }
            (false, true) if of == protocol::ESP && kind == transform_type::DH => {
                if own.of_kind(kind).any(|one| one.id == 0) {
                    continue;
                }
                format!("there is no key exchange, but perfect forward secrecy is required ({ours})")
            }
            (false, true) => format!("{what} is missing, but we want {ours}"),
        };
        differences.push(difference);
    }
    let unknown =
        |transform: &&Transform| transform.kind > transform_type::ADDITIONAL_LAST || transform.kind == 0;
    if let Some(unknown) = offered.transforms.iter().find(unknown) {
        differences.push(format!("transform type {} is unknown", unknown.kind));
    }
    if offered.transforms.iter().any(|one| one.unknown_attribute) {
        differences.push("an algorithm has an attribute that is unknown".to_owned());
    }
    if differences.is_empty() {
        differences.push("what is shared makes no whole proposal".to_owned());
    }
    differences
}

fn kind_name(kind: u8) -> String {
    match kind {
        transform_type::ENCR => "encryption".to_owned(),
        transform_type::PRF => "the PRF".to_owned(),
        transform_type::INTEG => "integrity".to_owned(),
        transform_type::DH => "the key exchange".to_owned(),
        transform_type::ESN => "the kind of sequence numbers".to_owned(),
        other => format!(
            "additional key exchange {}",
            other.saturating_sub(transform_type::ESN)
        ),
    }
}

/// The algorithms of one type, in words.
fn list(proposal: &Proposal, kind: u8) -> String {
    let words = proposal.of_kind(kind).take(TRANSFORMS_TOLD_MAX).map(word);
    words.collect::<Vec<_>>().join("/")
}

/// Our proposals as the configuration has them, or, when these are many, as they are offered.
fn told<T: ToString>(configured: &[T], own: &[Proposal]) -> String {
    if configured.len() > TOLD_MAX {
        return describe(own);
    }
    configured.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// An offer in words.
fn describe(proposals: &[Proposal]) -> String {
    let mut told: Vec<_> = proposals
        .iter()
        .take(TOLD_MAX)
        .map(|proposal| {
            let mut transforms: Vec<_> = proposal.transforms.iter().collect();
            transforms.sort_by_key(|transform| place(transform.kind));
            let words = transforms.into_iter().take(TRANSFORMS_TOLD_MAX).map(word);
            words.collect::<Vec<_>>().join("-")
        })
        .collect();
    let more = proposals.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join(", ")
}

/// Where an algorithm stands in a proposal: as people write them, integrity goes before the PRF.
fn place(kind: u8) -> u8 {
    match kind {
        transform_type::INTEG => transform_type::PRF,
        transform_type::PRF => transform_type::INTEG,
        other => other,
    }
}

fn word(transform: &Transform) -> String {
    let id = transform.id;
    let own = match transform.kind {
        transform_type::ENCR => Encryption::from_id(id, transform.key_bits).map(encryption_word),
        transform_type::PRF => PrfAlgorithm::from_id(id).map(prf_word),
        transform_type::INTEG => Integrity::from_id(id).map(integrity_word),
        transform_type::DH => DhGroup::from_id(id).map(group_word),
        transform_type::ESN if id == 0 => Some("noesn"),
        transform_type::ESN if id == 1 => Some("esn"),
        _ => None,
    };
    let number = transform.kind.saturating_sub(transform_type::ESN);
    match (own, transform.kind) {
        (Some(word), _) => word.to_owned(),
        (None, transform_type::DH) if id == 0 => "modpnone".to_owned(),
        (None, transform_type::ADDITIONAL_FIRST..=transform_type::ADDITIONAL_LAST) => {
            let method = match (Kem::from_id(id), by_transform(transform)) {
                (Some(kem), _) => kem_word(kem).to_owned(),
                (None, _) if id == 0 => "none".to_owned(),
                (None, Some(known)) => known.word.to_owned(),
                (None, None) => id.to_string(),
            };
            format!("ke{number}_{method}")
        }
        (None, kind) => by_transform(transform)
            .filter(|known| known.key_bits == transform.key_bits || fixed_key(known))
            .map_or_else(|| numbers(kind, transform), |known| known.word.to_owned()),
    }
}

/// The word tells the whole algorithm: either there is no key length, or the word has none.
fn fixed_key(known: &registry::Algorithm) -> bool {
    !known.word.contains("128")
}

fn numbers(kind: u8, transform: &Transform) -> String {
    let kind = match kind {
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

    fn remote() -> std::net::SocketAddr {
        ([192, 0, 2, 1], 500).into()
    }

    fn reason_of(event: Event) -> String {
        match event {
            Event::ProposalRefused { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn offer(of: u8, transforms: &[(u8, u16, Option<u16>)]) -> SecurityAssociation {
        let transforms = transforms.iter().map(|(kind, id, key_bits)| Transform {
            kind: *kind,
            id: *id,
            key_bits: *key_bits,
            unknown_attribute: false,
        });
        SecurityAssociation {
            proposals: vec![Proposal {
                number: 1,
                protocol: of,
                spi: vec![0; 4],
                transforms: transforms.collect(),
            }],
        }
    }

    #[test]
    fn an_old_router_is_told_by_name() {
        let old = offer(
            protocol::IKE,
            &[(1, 3, None), (2, 2, None), (3, 2, None), (4, 2, None)],
        );
        let event = refused_ike(remote(), &old, &[ike("aes256-sha256-modp2048")], false);
        let Event::ProposalRefused { offered, reason, .. } = event else {
            panic!()
        };
        assert_eq!(offered, "3des-sha1-prfsha1-modp1024");
        for part in [
            "ENCR_3DES (RFC 8247: MAY)",
            "PRF_HMAC_SHA1 (RFC 8247: MUST-)",
            "AUTH_HMAC_SHA1_96 (RFC 8247: MUST-)",
            "group 2, 1024-bit MODP (RFC 8247: SHOULD NOT)",
            "encryption is 3des, but we want aes256",
            "the key exchange is modp1024, but we want modp2048",
        ] {
            assert!(reason.contains(part), "{reason}: {part}");
        }
    }

    #[test]
    fn the_nearest_proposal_is_found() {
        let offered = offer_ike(
            &[ike("aes128-sha512-modp4096"), ike("aes256-sha256-modp3072")],
            None,
        );
        let configured = [ike("aes256gcm16-prfsha384-x25519"), ike("aes256-sha256-modp2048")];
        let reason = reason_of(refused_ike(remote(), &offered, &configured, false));
        assert_eq!(
            reason,
            "nearest is its proposal 2, where the key exchange is modp3072, but we want modp2048"
        );
    }

    /// An offer made long on purpose costs little more than a real one.
    #[test]
    fn only_so_many_proposals_are_compared() {
        let far = offer_ike(&[ike("aes128-sha512-modp4096")], None)
            .proposals
            .remove(0);
        let near = offer_ike(&[ike("aes256-sha256-modp3072")], None)
            .proposals
            .remove(0);
        let configured = [ike("aes256-sha256-modp2048")];
        for (before, found) in [(COMPARED_MAX - 1, true), (COMPARED_MAX, false)] {
            let mut proposals = vec![far.clone(); before];
            proposals.push(near.clone());
            let offered = SecurityAssociation { proposals };
            let reason = reason_of(refused_ike(remote(), &offered, &configured, false));
            let nearest = "where the key exchange is modp3072, but we want modp2048";
            assert_eq!(reason.contains(nearest), found, "{reason}");
        }
    }

    #[test]
    fn missing_hybrids_are_told() {
        let configured = [ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")];
        let plain = offer_ike(&[ike("aes256gcm16-prfsha384-x25519")], None);
        let reason = reason_of(refused_ike(remote(), &plain, &configured, false));
        assert!(
            reason.contains("additional key exchange 1 is missing, but we want ke1_mlkem768"),
            "{reason}"
        );
        assert!(reason.contains("IKE_INTERMEDIATE"), "{reason}");
    }

    #[test]
    fn missing_forward_secrecy_is_told() {
        let plain = offer_esp(&[esp("aes256gcm16")], 7, true);
        let absent = KeyExchangeOffer::Absent;
        let reason = |own: &str, offered: &SecurityAssociation| {
            reason_of(refused_esp(remote(), offered, &[esp(own)], absent))
        };
        let told = reason("aes256gcm16-modp2048", &plain);
        assert!(
            told.contains("perfect forward secrecy is required (modp2048)"),
            "{told}"
        );
        let insists = offer_esp(&[esp("aes256gcm16-modp2048")], 7, true);
        let told = reason("aes256gcm16", &insists);
        assert!(told.contains("perfect forward secrecy is off"), "{told}");
        let null = offer(protocol::ESP, &[(1, 11, None), (3, 12, None), (5, 0, None)]);
        let told = reason("aes256-sha256", &null);
        assert!(told.contains("ENCR_NULL (RFC 8221: MUST)"), "{told}");
    }

    /// In IKE_AUTH groups have no meaning, so they are no reason either.
    #[test]
    fn groups_are_no_reason_in_ike_auth() {
        let offered = offer_esp(&[esp("aes128-sha256-modp2048")], 7, true);
        let event = refused_esp(
            remote(),
            &offered,
            &[esp("aes256-sha256-x25519")],
            KeyExchangeOffer::NotInThisExchange,
        );
        assert_eq!(
            reason_of(event),
            "nearest is its proposal 1, where encryption is aes128, but we want aes256"
        );
    }

    #[test]
    fn offers_in_words() {
        let mut offered = offer_esp(&[esp("aes256gcm16-modp2048")], 7, true);
        let more = [
            Transform::with_key_bits(1, 3, 192),
            Transform::with_key_bits(1, 23, 256),
            Transform::new(7, 35),
            Transform::new(8, 0),
            Transform::new(6, 99),
            Transform::new(4, 0),
            Transform::new(4, 99),
        ];
        offered.proposals[0].transforms.extend(more);
        assert_eq!(
            describe(&offered.proposals),
            "aes256gcm16-3des-encr23/256-modp2048-modpnone-group99-noesn-ke1_99-ke2_mlkem512-ke3_none"
        );
        let many = vec![offered.proposals[0].clone(); 300];
        assert!(describe(&many).ends_with("and 292 more"));
    }
}

//! What algorithms this side accepts, and the choice among what the peer offers (RFC 7296 sections 2.7
//! and 3.3; RFC 9370 for additional key exchanges).
//!
//! Proposals are written as strongSwan writes them: `aes256gcm16-prfsha256-x25519`,
//! `aes256-sha256-modp2048`, `aes256gcm16-prfsha384-x25519-ke1_mlkem768`, and for ESP
//! `aes256gcm16-modp2048-modpnone-esn-noesn`. Words that name a weak algorithm are known and refused by name.

mod additional;
mod esp;
mod ike;
mod refusal;
pub mod registry;
mod words;

pub use additional::AdditionalKeyExchanges;
pub use esp::{EspProposal, EspSuite, Pfs, default_esp_proposals, with_pfs};
pub use ike::{IkeProposal, default_ike_proposals, hybrid_ike_proposals};
pub use words::{ProposalSyntax, group_word};

pub(crate) use esp::{EspChoice, KeyExchangeOffer, accept_esp, answer_esp, offer_esp, select_esp};
pub(crate) use ike::{IkeChoice, accept_ike, offer_ike, select_ike};
pub(crate) use refusal::{refused_esp, refused_ike};

use crate::wire::sa::{Proposal, transform_type};

/// RFC 7296 section 3.3.6: a proposal with a transform type that we do not know cannot be accepted.
fn only_known_types(offered: &Proposal) -> bool {
    offered
        .transforms
        .iter()
        .all(|transform| (transform_type::ENCR..=transform_type::ADDITIONAL_LAST).contains(&transform.kind))
}

/// RFC 7296 section 3.3: with an AEAD, integrity is absent or NONE is among the choices.
fn integrity_may_be_absent(offered: &Proposal) -> bool {
    let mut integrity = offered.of_kind(transform_type::INTEG).peekable();
    integrity.peek().is_none() || integrity.any(|transform| transform.id == 0)
}

//! The revocation lists in use: which of them speaks for a certificate, and what it says (RFC 5280 section 6.3.3).
//!
//! A list counts for the certificates of the key that signed it, whatever name it bears: an authority that takes a new key
//! keeps its name and has a list for each, and what its authority did not sign is nobody's. webpki takes the first of a name
//! and refuses where its signature does not fit, so it gets none; this is asked for each path that webpki finds.

use super::certificate::Certificate;
use super::error::{ChainError, TrustError};
use super::revocation::{RevocationList, RevocationPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A SubjectPublicKeyInfo.
pub(super) type Key = Box<[u8]>;

/// Newest first.
#[derive(Default)]
pub(super) struct RevocationLists {
    lists: Vec<Arc<RevocationList>>,
    policy: RevocationPolicy,
}

/// What is known of one certificate.
enum Status {
    NotRevoked,
    Revoked,
    /// And why.
    Unknown(String),
}

impl RevocationLists {
    pub(super) fn new(mut lists: Vec<Arc<RevocationList>>, policy: RevocationPolicy) -> Self {
        lists.sort_by_key(|list| std::cmp::Reverse(list.this_update_unix_s()));
        Self { lists, policy }
    }

    pub(super) fn all(&self) -> &[Arc<RevocationList>] {
        &self.lists
    }

    /// Takes these in place of those in use.
    pub(super) fn replace(&mut self, lists: Vec<Arc<RevocationList>>) {
        *self = Self::new(lists, self.policy);
    }

    /// Looks at each certificate of a path but the last: from the peer's own to the authority's, each issued by the one
    /// after it. That one is revoked counts more than that of another nothing is known.
    pub(super) fn check(&self, path: &[&Certificate], unix_s: u64) -> Result<(), ChainError> {
        let mut unknown = None;
        for (i, pair) in path.windows(2).enumerate() {
            let [one, issuer] = pair else { continue };
            // What an authority may do that the operator trusts, the operator knows: as webpki has it.
            let may_sign = i + 2 == path.len() || issuer.may_sign_lists();
            match self.status(one, issuer, may_sign, unix_s) {
                Status::NotRevoked => {}
                Status::Revoked => {
                    return Err(ChainError::Revoked {
                        subject: one.subject().to_string(),
                        serial: one.serial().iter().map(|byte| format!("{byte:02x}")).collect(),
                        issuer: one.issuer().to_string(),
                    });
                }
                Status::Unknown(reason) => {
                    let subject = path.first().unwrap_or(one).subject().to_string();
                    unknown.get_or_insert(ChainError::RevocationUnknown { subject, reason });
                }
            }
        }
        unknown.map_or(Ok(()), Err)
    }

    fn status(&self, one: &Certificate, issuer: &Certificate, may_sign: bool, unix_s: u64) -> Status {
        let name = one.issuer();
        let unknown = |reason: &str| Status::Unknown(format!("{reason} {name}"));
        if !self.lists.iter().any(|list| list.issuer() == name) {
            return match self.policy {
                RevocationPolicy::WhereListed => Status::NotRevoked,
                RevocationPolicy::Always => unknown("no revocation list is loaded of its issuer"),
            };
        }
        let covering = self.lists.iter().filter(|list| list.covers(one));
        // Lists for other certificates of the issuer say nothing of this one, and are no absence of lists.
        if covering.clone().next().is_none() {
            return unknown("no revocation list is for it (distribution point), of those of its issuer");
        }
        let signed = covering.filter(|list| list.is_signed_by(issuer.spki_der()));
        let deciding = newest_of_each_scope(signed, unix_s);
        if deciding.is_empty() {
            return unknown("its issuer's key signed none of the revocation lists that bear the name of");
        }
        // A list that is out of date says less than a current one, but what it lists is revoked.
        if deciding.iter().any(|list| list.lists(one.serial())) {
            return Status::Revoked;
        }
        let fault = |list: &&RevocationList| {
            if list.is_not_yet_valid(unix_s) {
                Some("the revocation list is of a time to come; look at the clocks, ours and that of")
            } else if list.is_expired(unix_s) {
                Some("the revocation list is out of date; load a new one of")
            } else if !may_sign {
                Some("the key usage allows no signatures of revocation lists (cRLSign) to")
            } else {
                None
            }
        };
        // Where the certificate names a distribution point, each of them is the whole of what is said of it. Where it does
        // not, the whole list is; and if there are lists of parts alone, it may be on any.
        let names_point = one.crl_uris().is_some();
        let any_part = !names_point && !deciding.iter().any(|list| list.is_whole());
        let relevant = deciding
            .iter()
            .filter(|list| names_point || any_part || list.is_whole());
        let faults: Vec<_> = relevant.map(fault).collect();
        let is_known = match names_point {
            true => faults.contains(&None),
            false => faults.iter().all(Option::is_none),
        };
        match faults.into_iter().flatten().next() {
            Some(reason) if !is_known => unknown(reason),
            Some(_) | None => Status::NotRevoked,
        }
    }

    /// That a list is not of a time to come, unless there is a current one beside it or one in force: whose revocation is not
    /// asked for, or known by another list, must not be unknown for that.
    pub(super) fn is_awaited_by_none(
        &self,
        list: &RevocationList,
        before: &Self,
        unix_s: u64,
    ) -> Result<(), TrustError> {
        let is_current = |one: &Arc<RevocationList>| one.is_like(list) && !one.is_not_yet_valid(unix_s);
        let stands_alone = list.is_not_yet_valid(unix_s)
            && !self.lists.iter().any(is_current)
            && !before.lists.iter().any(|one| one.is_like(list));
        if stands_alone {
            Err(not_yet_valid(list))
        } else {
            Ok(())
        }
    }

    /// That of the key which signed `old`, a list in force, there is one no older. `keys`: all that are known of the issuer's name,
    /// and whether they are of authorities in use. `all_there`: no authority was taken away.
    pub(super) fn follow(
        &self,
        old: &RevocationList,
        keys: &BTreeMap<Key, bool>,
        all_there: bool,
        unix_s: u64,
    ) -> Result<(), TrustError> {
        let issuer = || old.issuer().to_string();
        let signer = keys.iter().find(|(key, _)| old.is_signed_by(key));
        if signer.is_none() && !keys.is_empty() {
            // It is nobody's.
            return Ok(());
        }
        // Where no chain came that could have shown whose it is, the name is all there is.
        let of_name = || self.lists.iter().filter(|list| list.issuer() == old.issuer());
        let of_key = || of_name().filter(|list| signer.is_none_or(|(key, _)| list.is_signed_by(key)));
        let like = || of_key().filter(|list| list.is_like(old));
        match like().find(|list| !list.is_not_yet_valid(unix_s)) {
            Some(list) if list.this_update_unix_s() < old.this_update_unix_s() => {
                return Err(TrustError::OlderList { issuer: issuer() });
            }
            Some(_) => {}
            None => like().next().map_or(Ok(()), |list| Err(not_yet_valid(list)))?,
        }
        // Of an authority in use there must be one, and of an intermediate, unless what it was below may be gone.
        let must_be = all_there || signer.is_some_and(|(_, of_authority)| *of_authority);
        if !must_be || like().next().is_some() {
            return Ok(());
        }
        // The whole list has all that an older part has, and no part has all that is on another.
        let whole = || of_key().filter(|list| list.is_whole() && !list.is_not_yet_valid(unix_s));
        if whole().any(|list| list.this_update_unix_s() >= old.this_update_unix_s()) {
            return Ok(());
        }
        if whole().next().is_some() {
            return Err(TrustError::OlderList { issuer: issuer() });
        }
        if of_key().next().is_some() {
            return Err(TrustError::OtherScope { issuer: issuer() });
        }
        if of_name().next().is_none() {
            return Err(TrustError::NoListAnyMore { issuer: issuer() });
        }
        // An intermediate takes a new key, and nothing that we are told says that the old one is over.
        let is_known = |list: &Arc<RevocationList>| {
            !list.is_not_yet_valid(unix_s) && keys.keys().any(|key| list.is_signed_by(key))
        };
        match signer {
            Some((_, false)) if of_name().any(is_known) => Ok(()),
            Some(_) | None => Err(TrustError::OtherSigner { issuer: issuer() }),
        }
    }
}

/// Those that decide of a certificate, of lists that are for it and come newest first: lists for others beside it replace none
/// that is for less or more. One that is to come decides nothing while there is another.
fn newest_of_each_scope<'a>(
    lists: impl Iterator<Item = &'a Arc<RevocationList>>,
    unix_s: u64,
) -> Vec<&'a RevocationList> {
    let (to_come, present): (Vec<_>, Vec<_>) = lists.partition(|list| list.is_not_yet_valid(unix_s));
    let mut deciding: Vec<&RevocationList> = Vec::new();
    for list in present.into_iter().chain(to_come) {
        if !deciding.iter().any(|one| one.is_like(list)) {
            deciding.push(list);
        }
    }
    deciding
}

fn not_yet_valid(list: &RevocationList) -> TrustError {
    TrustError::ListNotYetValid {
        issuer: list.issuer().to_string(),
        this_update_unix_s: list.this_update_unix_s(),
    }
}

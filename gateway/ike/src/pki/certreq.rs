//! Certification Authority data of CERTREQ payloads with encoding 4 (RFC 7296 section 3.7): SHA-1 hashes of the
//! authorities' public keys. The hash only names an authority; nothing is believed because of it.

use ring::digest;

/// Length of one hash in bytes.
pub const AUTHORITY_HASH_LEN: usize = 20;

/// The hash by which CERTREQ names the authority with this SubjectPublicKeyInfo (DER).
pub fn authority_hash(spki_der: &[u8]) -> [u8; AUTHORITY_HASH_LEN] {
    let mut out = [0; AUTHORITY_HASH_LEN];
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, spki_der);
    out.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

/// The hashes in the authority field of a received CERTREQ; an incomplete one at the end is left out.
pub fn authority_hashes(field: &[u8]) -> impl Iterator<Item = [u8; AUTHORITY_HASH_LEN]> {
    field.as_chunks().0.iter().copied()
}

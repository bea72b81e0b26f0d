//! Why authorities, revocation lists or a peer's chain are not accepted, in words.

use super::certificate::CertificateError;
use super::credential::CredentialError;
use super::trust::{INTERMEDIATES_MAX, SAME_SUBJECT_MAX};
use x509_parser::time::ASN1Time;

/// Why authorities or revocation lists were not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] CredentialError),
    /// A certificate that may not issue others.
    #[error(
        "{subject} is no certification authority: basicConstraints or keyUsage forbid it to issue certificates"
    )]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// The library's reason against a certificate.
    #[error("the certificate of {subject} cannot be a trust anchor: {reason}")]
    Anchor {
        /// Its subject.
        subject: String,
        /// What the library says.
        reason: String,
    },
    /// A revocation list that is none.
    #[error("certificate revocation list {index} of the file (counted from 1): {reason}")]
    Crl {
        /// Which list.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A revocation list in the name of an authority that did not sign it.
    #[error(
        "the revocation list of {issuer}, of {}, was not signed by the authority of that name in [ike] ca, or by an algorithm that is not accepted (SHA-1, RSA below 2048 bits): it is damaged, or somebody else's\n  to mend it: fetch it again, or add the certificate of the authority's new key to ca",
        utc(*.this_update_unix_s)
    )]
    NotItsList {
        /// Whose name it bears.
        issuer: String,
        /// When it was made, unix time.
        this_update_unix_s: i64,
    },
    /// A revocation list that is of a time to come.
    #[error(
        "the revocation list of {issuer} is not valid before {}\n  to mend it: set the clock, the gateway's or the authority's; at that time the gateway takes it by itself",
        utc(*.this_update_unix_s)
    )]
    ListNotYetValid {
        /// Whose list.
        issuer: String,
        /// When it is made, unix time.
        this_update_unix_s: i64,
    },
    /// A revocation list from before the one in force.
    #[error(
        "the revocation list of {issuer} is older than the one in force\n  to mend it: load the newest, or restart the gateway if the older one is meant"
    )]
    OlderList {
        /// Whose list.
        issuer: String,
    },
    /// Lists of the name alone, none of the key that signed the one in force.
    #[error(
        "of the revocation lists of {issuer} none is signed by the key that signed the one in force\n  to mend it: fetch the list again, beside that of another key, or restart the gateway if none of this key is meant"
    )]
    OtherSigner {
        /// Whose list.
        issuer: String,
    },
    /// Lists of the key alone that are for other certificates than the one in force.
    #[error(
        "no revocation list of {issuer} is for all certificates that the one in force is for (issuing distribution point)\n  to mend it: load the list of the same distribution point, or the one of all certificates; if its authority has others now, `gateway reload` takes them"
    )]
    OtherScope {
        /// Whose list.
        issuer: String,
    },
    /// An issuer that had a list has none.
    #[error(
        "there is no revocation list of {issuer} any more, which had one\n  to mend it: load one, or restart the gateway if none is meant"
    )]
    NoListAnyMore {
        /// Whose list.
        issuer: String,
    },
}

/// Why a peer's certificate is not believed. Each text names the certificate and the check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A certificate that cannot be read.
    #[error("certificate {index} of the peer (counted from 1): {error}")]
    Certificate {
        /// Which one.
        index: usize,
        /// What is wrong.
        error: CertificateError,
    },
    /// More than [`INTERMEDIATES_MAX`].
    #[error("the peer sent {0} certificates beside its own; at most {INTERMEDIATES_MAX} are looked at")]
    TooMany(usize),
    /// More than [`SAME_SUBJECT_MAX`] of one name.
    #[error(
        "the peer sent more than {SAME_SUBJECT_MAX} certificates of {subject} beside its own; let it send those of its path alone"
    )]
    SameSubject {
        /// The name.
        subject: String,
    },
    /// Before its time.
    #[error("the certificate of {subject} is not valid before {}", utc(*.not_before_unix_s))]
    NotYetValid {
        /// Its subject.
        subject: String,
        /// First second of validity, unix time.
        not_before_unix_s: i64,
    },
    /// After its time.
    #[error("the certificate of {subject} expired on {}", utc(*.not_after_unix_s))]
    Expired {
        /// Its subject.
        subject: String,
        /// Last second of validity, unix time.
        not_after_unix_s: i64,
    },
    /// No path to an authority that is trusted.
    #[error("the certificate of {subject} does not lead to a trusted authority: its issuer is {issuer}")]
    UnknownIssuer {
        /// The peer's subject.
        subject: String,
        /// The name that is missing.
        issuer: String,
    },
    /// A signature in the chain does not verify: another key under the authority's name, or a forgery.
    #[error("the certificate of {subject} was not signed by the trusted authority of the name {issuer}")]
    Signature {
        /// The peer's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The peer's certificate may not sign.
    #[error("the key usage of the certificate of {subject} allows no digital signatures")]
    KeyUsage {
        /// Its subject.
        subject: String,
    },
    /// The extended key usage has nothing for IKE.
    #[error(
        "the extended key usage in the chain of {subject} allows neither IKE nor client or server authentication"
    )]
    ExtendedKeyUsage {
        /// The peer's subject.
        subject: String,
    },
    /// A certificate of an authority in the place of the peer's own, or the reverse.
    #[error("in the chain of {subject}, {wrong}")]
    Authority {
        /// The peer's subject.
        subject: String,
        /// Which rule.
        wrong: &'static str,
    },
    /// On a revocation list.
    #[error("the certificate of {subject} (serial {serial}) is revoked by its issuer {issuer}")]
    Revoked {
        /// Its subject: the peer's own, or an authority's of its chain.
        subject: String,
        /// Its serial number in hex.
        serial: String,
        /// Whose list it is on.
        issuer: String,
    },
    /// No current revocation list.
    #[error("the revocation of the chain of {subject} is not known: {reason}")]
    RevocationUnknown {
        /// The peer's subject.
        subject: String,
        /// What is missing.
        reason: String,
    },
    /// A key that AUTH cannot be verified with.
    #[error("the certificate of {subject}: {error}")]
    Key {
        /// Its subject.
        subject: String,
        /// Which algorithm.
        error: crate::crypto::sign::KeyError,
    },
    /// Anything else the library refuses, in its words.
    #[error("the chain of {subject} is refused: {reason}")]
    Refused {
        /// The peer's subject.
        subject: String,
        /// What the library says.
        reason: String,
    },
}

/// A time of a certificate, for people.
pub(crate) fn utc(unix_s: i64) -> String {
    match ASN1Time::from_timestamp(unix_s) {
        Ok(time) => {
            let time = time.to_datetime();
            let (hour, minute, second) = time.to_hms();
            format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
        }
        Err(_) => format!("unix time {unix_s}"),
    }
}

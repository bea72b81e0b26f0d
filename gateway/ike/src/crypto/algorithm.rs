//! AlgorithmIdentifiers of RFC 7427 signatures (its appendix A, RFC 8420 appendix A, RFC 4055 for RSASSA-PSS).

use super::der::{element, tag};
use super::sign::{HashAlgorithm, SignatureScheme, VerifyError};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

/// id-mgf1 (RFC 8017 appendix A.2.1), which the registry of the parser lacks.
const MGF1_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
/// ecdsa-with-SHA1 (RFC 3279 section 2.2.3), which it lacks too.
const ECDSA_WITH_SHA1_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const DER_NULL: &[u8] = &[0x05, 0x00];

fn hash_oid(hash: HashAlgorithm) -> Option<oid::Oid<'static>> {
    match hash {
        HashAlgorithm::Sha256 => Some(oid::OID_NIST_HASH_SHA256),
        HashAlgorithm::Sha384 => Some(oid::OID_NIST_HASH_SHA384),
        HashAlgorithm::Sha512 => Some(oid::OID_NIST_HASH_SHA512),
        HashAlgorithm::Identity => None,
    }
}

/// Salt of RSASSA-PSS in bytes: that of the hash.
fn salt_len(hash: HashAlgorithm) -> u8 {
    match hash {
        HashAlgorithm::Sha256 => 32,
        HashAlgorithm::Sha384 => 48,
        HashAlgorithm::Sha512 => 64,
        HashAlgorithm::Identity => 0,
    }
}

/// The AlgorithmIdentifier of a scheme in DER (RFC 7427 appendix A, RFC 8420 appendix A).
pub(super) fn algorithm_identifier(scheme: SignatureScheme) -> Option<Vec<u8>> {
    use HashAlgorithm::{Identity, Sha256, Sha384, Sha512};
    let identifier = |algorithm: &oid::Oid<'_>, parameters: &[u8]| {
        element(
            tag::SEQUENCE,
            &[&element(tag::OID, &[algorithm.as_bytes()]), parameters],
        )
    };
    match scheme {
        SignatureScheme::RsaPkcs1(Sha256) => Some(identifier(&oid::OID_PKCS1_SHA256WITHRSA, DER_NULL)),
        SignatureScheme::RsaPkcs1(Sha384) => Some(identifier(&oid::OID_PKCS1_SHA384WITHRSA, DER_NULL)),
        SignatureScheme::RsaPkcs1(Sha512) => Some(identifier(&oid::OID_PKCS1_SHA512WITHRSA, DER_NULL)),
        SignatureScheme::RsaPss(hash) => {
            let hash_identifier = identifier(&hash_oid(hash)?, DER_NULL);
            let mgf = element(
                tag::SEQUENCE,
                &[&element(tag::OID, &[MGF1_OID]), &hash_identifier],
            );
            let salt = element(tag::INTEGER, &[&[salt_len(hash)]]);
            let parameters = element(
                tag::SEQUENCE,
                &[
                    &element(0xa0, &[&hash_identifier]),
                    &element(0xa1, &[&mgf]),
                    &element(0xa2, &[&salt]),
                ],
            );
            Some(identifier(&oid::OID_PKCS1_RSASSAPSS, &parameters))
        }
        SignatureScheme::Ecdsa(Sha256) => Some(identifier(&oid::OID_SIG_ECDSA_WITH_SHA256, &[])),
        SignatureScheme::Ecdsa(Sha384) => Some(identifier(&oid::OID_SIG_ECDSA_WITH_SHA384, &[])),
        SignatureScheme::Ed25519 => Some(identifier(&oid::OID_SIG_ED25519, &[])),
        SignatureScheme::RsaPkcs1(Identity) | SignatureScheme::Ecdsa(Sha512 | Identity) => None,
    }
}

pub(super) fn parse_algorithm_identifier(der: &[u8]) -> Result<SignatureScheme, VerifyError> {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    const FIXED: [SignatureScheme; 6] = [
        SignatureScheme::RsaPkcs1(Sha256),
        SignatureScheme::RsaPkcs1(Sha384),
        SignatureScheme::RsaPkcs1(Sha512),
        SignatureScheme::Ecdsa(Sha256),
        SignatureScheme::Ecdsa(Sha384),
        SignatureScheme::Ed25519,
    ];
    if let Some(scheme) = FIXED
        .into_iter()
        .find(|scheme| algorithm_identifier(*scheme).as_deref() == Some(der))
    {
        return Ok(scheme);
    }
    let (rest, identifier) = AlgorithmIdentifier::from_der(der).map_err(|_| VerifyError::Malformed)?;
    if !rest.is_empty() {
        return Err(VerifyError::Malformed);
    }
    let name = &identifier.algorithm;
    if *name == oid::OID_PKCS1_SHA1WITHRSA || name.as_bytes() == ECDSA_WITH_SHA1_OID {
        return Err(VerifyError::Sha1);
    }
    if *name == oid::OID_SIG_ECDSA_WITH_SHA512 {
        return Err(VerifyError::EcdsaSha512);
    }
    if *name == oid::OID_PKCS1_RSASSAPSS {
        return parse_pss(&identifier);
    }
    Err(VerifyError::Algorithm(name.to_string()))
}

/// PSS parameters are compared by meaning: a NULL or the default trailer may stand there or not (RFC 4055).
fn parse_pss(identifier: &AlgorithmIdentifier<'_>) -> Result<SignatureScheme, VerifyError> {
    let parameters = identifier.parameters.as_ref().ok_or(VerifyError::Sha1)?;
    let parameters = RsaSsaPssParams::try_from(parameters).map_err(|_| VerifyError::Malformed)?;
    let name = parameters.hash_algorithm_oid();
    if *name == oid::OID_HASH_SHA1 {
        return Err(VerifyError::Sha1);
    }
    let hash = [
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
        HashAlgorithm::Sha512,
    ]
    .into_iter()
    .find(|hash| hash_oid(*hash).as_ref() == Some(name))
    .ok_or_else(|| VerifyError::Algorithm(format!("RSASSA-PSS with hash {name}")))?;
    let mask = parameters
        .mask_gen_algorithm()
        .map_err(|_| VerifyError::Malformed)?;
    let usual = mask.mgf.as_bytes() == MGF1_OID
        && hash_oid(hash).as_ref() == Some(&mask.hash)
        && parameters.salt_length() == u32::from(salt_len(hash))
        && parameters.trailer_field() == 1;
    if usual {
        Ok(SignatureScheme::RsaPss(hash))
    } else {
        Err(VerifyError::Algorithm(
            "RSASSA-PSS with another MGF1 hash, salt length or trailer".to_owned(),
        ))
    }
}

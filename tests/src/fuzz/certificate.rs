//! What a peer sends as certificates, against the authorities that are trusted.

use std::sync::OnceLock;

use gateway_ike::pki::certificate::Certificate;
use gateway_ike::pki::credential::Credential;
use gateway_ike::pki::trust::TrustAnchors;

use super::Input;

/// 1 January 2027, when the certificates are valid.
const UNIX_S: u64 = 1_798_761_600;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../../gateway/ike/tests/data/", $name))
    };
}

/// The peer's certificate and others, each with its length in front. Whatever is accepted must be one that the
/// authorities have signed: same key, same names.
///
/// # Panics
/// When another is accepted.
pub fn certificate(input: &[u8]) {
    static TRUST: OnceLock<TrustAnchors> = OnceLock::new();
    let trust = TRUST.get_or_init(|| {
        let authorities = [&data!("rsa-ca.crt")[..], data!("ec-ca.crt")].concat();
        TrustAnchors::from_pem(&authorities).expect("the authorities")
    });
    let mut input = Input(input);
    let pieces: Vec<_> = std::iter::from_fn(|| input.piece()).collect();
    let Some((leaf, others)) = pieces.split_first() else {
        return;
    };
    let others: Vec<_> = others.iter().map(|other| other.to_vec()).collect();
    match trust.verify_chain(leaf, &others, UNIX_S) {
        Ok(peer) => {
            let found = peer.certificate();
            let signed = known().iter().any(|known| {
                (known.spki_der(), known.subject(), known.issuer(), known.serial())
                    == (found.spki_der(), found.subject(), found.issuer(), found.serial())
                    && known.san_dns() == found.san_dns()
                    && known.san_addresses() == found.san_addresses()
                    && known.san_emails() == found.san_emails()
            });
            assert!(signed, "nobody signed {found:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Every certificate of the two authorities that there is.
fn known() -> &'static [Certificate] {
    static KNOWN: OnceLock<Vec<Certificate>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let credentials = [
            Credential::from_pem(data!("ec-leaf.crt"), data!("ec-leaf.key")),
            Credential::from_pem(data!("rsa-leaf.crt"), data!("rsa-leaf.key")),
        ];
        let mut known: Vec<_> = credentials
            .into_iter()
            .flat_map(|credential| {
                credential
                    .expect("a certificate")
                    .chain()
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect();
        for pem in [
            &data!("ec-revoked.crt")[..],
            data!("eku-leaf.crt"),
            data!("ike-leaf.crt"),
            data!("rsa-mid.crt"),
        ] {
            known.push(Certificate::from_der(&der(pem)).expect("a certificate"));
        }
        known
    })
}

/// The DER of a PEM file's first section.
fn der(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1);
    let base64: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
    let (mut der, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for symbol in base64.bytes().filter(|symbol| *symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            der.push((bits >> count) as u8);
        }
    }
    der
}

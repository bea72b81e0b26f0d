//! Certificates made on the spot by rcgen, for what the files of tests/data do not hold: odd chains, lives of seconds,
//! revocation lists.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::{net::IpAddr, time::Duration};

use gateway_ike::pki::{credential::Credential, trust::TrustAnchors};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CrlIssuingDistributionPoint, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

/// 1 January 2027, the time of the tests.
pub const NOW: u64 = 1_798_761_600;

pub struct Authority {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub certificate: Certificate,
}

pub struct Leaf {
    pub certificate: Certificate,
    pub key: KeyPair,
    pub serial: SerialNumber,
}

pub fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Lab");
    name.push(DnType::CommonName, common_name);
    name
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn email(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

pub fn ip(address: &str) -> SanType {
    SanType::IpAddress(address.parse::<IpAddr>().unwrap())
}

/// `s` seconds after [`NOW`], as certificates write it.
pub fn after_now_s(s: u64) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.not_after = date_time_ymd(2027, 1, 1) + Duration::from_secs(s)
}

pub fn nothing(_: &mut CertificateParams) {}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2046, 1, 1);
    params
}

fn authority_params(common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    params
}

impl Authority {
    pub fn root(common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = (
            authority_params(common_name, change),
            KeyPair::generate().unwrap(),
        );
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    /// The same root once more, with the same name and key.
    pub fn again(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = self.params.clone();
        change(&mut params);
        let key = KeyPair::from_pem(&self.key.serialize_pem()).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    /// An intermediate below this one.
    pub fn below(&self, common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = authority_params(common_name, change);
        self.certify(params, &KeyPair::generate().unwrap())
    }

    /// An intermediate below this one, of a key that there is already.
    pub fn certify(&self, params: CertificateParams, key: &KeyPair) -> Self {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub fn issue(
        &self,
        common_name: &str,
        alternative_names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        self.issue_for(
            &rcgen::PKCS_ECDSA_P256_SHA256,
            common_name,
            alternative_names,
            change,
        )
    }

    pub fn issue_for(
        &self,
        algorithm: &'static SignatureAlgorithm,
        common_name: &str,
        alternative_names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        self.issue_key(
            KeyPair::generate_for(algorithm).unwrap(),
            common_name,
            alternative_names,
            change,
        )
    }

    pub fn issue_key(
        &self,
        key: KeyPair,
        common_name: &str,
        alternative_names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = params(common_name);
        params.subject_alt_names = alternative_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Small and positive: rcgen would draw it from the key.
        let serial = SerialNumber::from_slice(&[0x40, key.public_key_raw()[5], key.public_key_raw()[9], 1]);
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Leaf {
            certificate,
            key,
            serial,
        }
    }

    /// A list of this authority's, made in 2026 at the start of `month` and good until the start of 2045 or, with
    /// `expired`, until the end of 2026.
    pub fn crl(
        &self,
        revoked: &[&SerialNumber],
        month: u8,
        expired: bool,
    ) -> rcgen::CertificateRevocationList {
        self.crl_of(revoked, month, expired, None)
    }

    /// The same, for what its issuing distribution point says.
    pub fn crl_of(
        &self,
        revoked: &[&SerialNumber],
        month: u8,
        expired: bool,
        point: Option<CrlIssuingDistributionPoint>,
    ) -> rcgen::CertificateRevocationList {
        self.crl_with(revoked, month, |list| {
            if expired {
                list.next_update = date_time_ymd(2026, 12, 31);
            }
            list.issuing_distribution_point = point;
        })
    }

    /// A list that is made `s` seconds after [`NOW`].
    pub fn crl_after_now_s(&self, revoked: &[&SerialNumber], s: u64) -> rcgen::CertificateRevocationList {
        self.crl_with(revoked, 1, |list| {
            list.this_update = date_time_ymd(2027, 1, 1) + Duration::from_secs(s);
        })
    }

    fn crl_with(
        &self,
        revoked: &[&SerialNumber],
        month: u8,
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> rcgen::CertificateRevocationList {
        let revoked_certs = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).clone(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, month, 1),
            next_update: date_time_ymd(2045, 1, 1),
            crl_number: SerialNumber::from(u64::from(month)),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        list.signed_by(&self.issuer()).unwrap()
    }

    pub fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    pub fn trust(&self) -> TrustAnchors {
        TrustAnchors::from_pem(self.certificate.pem().as_bytes()).unwrap()
    }
}

impl Leaf {
    pub fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    /// With the intermediates to send along, from the issuer on.
    pub fn credential(&self, intermediates: &[&Authority]) -> Credential {
        let chain = intermediates.iter().map(|one| one.certificate.pem());
        let chain: String = std::iter::once(self.certificate.pem()).chain(chain).collect();
        Credential::from_pem(chain.as_bytes(), self.key.serialize_pem().as_bytes()).unwrap()
    }
}

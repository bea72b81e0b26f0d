//! Name constraints (RFC 5280 section 4.2.1.10) of the authorities that we are told to trust.
//!
//! rustls-webpki evaluates constraints on DNS names and addresses, and refuses every certificate below an authority that
//! constrains directory names or e-mail addresses. For the configured authorities these two forms are evaluated here,
//! and webpki gets the constraints without them. For an intermediate that a peer sends, webpki's refusal stands: its
//! constraints are inside what its issuer signed and cannot be taken out.

use super::certificate::{Certificate, CertificateError};
use super::name::DistinguishedName;
use crate::crypto::der::{element, split};
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// GeneralName's context tags (RFC 5280 section 4.2.1.6) of the forms that are evaluated here.
const RFC822_NAME: u8 = 0x81;
const DIRECTORY_NAME: u8 = 0xa4;

/// Constraints of one authority on directory names and e-mail addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameConstraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Subtrees {
    names: Vec<DistinguishedName>,
    emails: Vec<String>,
}

impl NameConstraints {
    /// Those of an authority's certificate.
    pub(super) fn of(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed;
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_| malformed("not an X.509 certificate"))?;
        let mut all = Self::default();
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::NameConstraints(constraints) => {
                    all.permitted.read(constraints.permitted_subtrees.as_deref())?;
                    all.excluded.read(constraints.excluded_subtrees.as_deref())?;
                }
                ParsedExtension::ParseError { .. } if is_name_constraints(&extension.oid) => {
                    return Err(malformed("unreadable name constraints"));
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// Whether a certificate below the authority keeps to them.
    pub(super) fn allow(&self, certificate: &Certificate) -> bool {
        let subject = (!certificate.subject().is_empty()).then_some(certificate.subject());
        let mut names = subject.into_iter().chain(certificate.san_directory_names());
        // An e-mail address in the subject counts only where there is no subjectAltName.
        let in_subject = match certificate.has_alternative_names() {
            true => Vec::new(),
            false => certificate.subject().email_addresses(),
        };
        let mut emails = certificate
            .san_emails()
            .iter()
            .map(String::as_str)
            .chain(in_subject);
        names.all(|name| self.allow_name(name)) && emails.all(|email| self.allow_email(email))
    }

    fn allow_name(&self, name: &DistinguishedName) -> bool {
        let within = |bases: &[DistinguishedName]| bases.iter().any(|base| name.is_within(base));
        let permitted = &self.permitted.names;
        (permitted.is_empty() || within(permitted)) && !within(&self.excluded.names)
    }

    fn allow_email(&self, email: &str) -> bool {
        let within = |bases: &[String]| bases.iter().any(|base| email_within(email, base));
        let permitted = &self.permitted.emails;
        (permitted.is_empty() || within(permitted)) && !within(&self.excluded.emails)
    }
}

fn is_name_constraints(oid: &x509_parser::asn1_rs::Oid<'_>) -> bool {
    *oid == x509_parser::oid_registry::OID_X509_EXT_NAME_CONSTRAINTS
}

impl Subtrees {
    fn read(&mut self, subtrees: Option<&[GeneralSubtree<'_>]>) -> Result<(), CertificateError> {
        let unreadable = CertificateError::Malformed("unreadable name constraints");
        for subtree in subtrees.unwrap_or_default() {
            match &subtree.base {
                GeneralName::DirectoryName(name) => {
                    let name = DistinguishedName::from_der(name.as_raw()).map_err(|_| unreadable.clone())?;
                    self.names.push(name);
                }
                GeneralName::RFC822Name(base) => self.emails.push((*base).to_owned()),
                GeneralName::Invalid(..) => return Err(unreadable),
                // The other forms are webpki's.
                _ => {}
            }
        }
        Ok(())
    }
}

/// `user@host` stands for that mailbox, `host` for all on it, `.domain` for all on hosts below it.
fn email_within(email: &str, base: &str) -> bool {
    let Some((local, host)) = email.rsplit_once('@') else {
        return false;
    };
    if let Some((base_local, base_host)) = base.rsplit_once('@') {
        return local == base_local && host.eq_ignore_ascii_case(base_host);
    }
    if !base.starts_with('.') {
        return host.eq_ignore_ascii_case(base);
    }
    let (host, base) = (host.to_ascii_lowercase(), base.to_ascii_lowercase());
    host.len() > base.len() && host.ends_with(&base)
}

/// The content of a NameConstraints SEQUENCE without the subtrees that are evaluated here; `None` if it cannot be read.
/// Empty when nothing is left.
pub(super) fn without_own_forms(mut content: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !content.is_empty() {
        let (list_tag, mut list, rest) = split(content)?;
        content = rest;
        let mut kept = Vec::new();
        while !list.is_empty() {
            let (subtree_tag, subtree, rest) = split(list)?;
            list = rest;
            let (form, ..) = split(subtree)?;
            if form != RFC822_NAME && form != DIRECTORY_NAME {
                kept.extend(element(subtree_tag, &[subtree]));
            }
        }
        if !kept.is_empty() {
            out.extend(element(list_tag, &[&kept]));
        }
    }
    Some(out)
}

/// Whether a certificate carries constraints of the forms that only [`NameConstraints`] evaluates.
pub(super) fn has_own_forms(certificate: &Certificate) -> bool {
    NameConstraints::of(certificate.der()).is_ok_and(|constraints| constraints != NameConstraints::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::der::tag;

    /// The examples of RFC 5280 section 4.2.1.10.
    #[test]
    fn mailboxes_hosts_and_domains() {
        for (email, base, within) in [
            ("root@example.com", "root@example.com", true),
            ("Root@example.com", "root@example.com", false),
            ("root@EXAMPLE.com", "root@example.com", true),
            ("anyone@example.com", "example.com", true),
            ("anyone@my.example.com", "example.com", false),
            ("anyone@my.example.com", ".example.com", true),
            ("anyone@example.com", ".example.com", false),
            ("anyone@badexample.com", ".example.com", false),
            ("no address", "example.com", false),
        ] {
            assert_eq!(email_within(email, base), within, "{email} {base}");
        }
    }

    #[test]
    fn only_the_own_forms_are_taken_out() {
        let dns = element(tag::SEQUENCE, &[&element(0x82, &[b"example"])]);
        let name = element(tag::SEQUENCE, &[&element(DIRECTORY_NAME, &[&[0x30, 0]])]);
        let email = element(tag::SEQUENCE, &[&element(RFC822_NAME, &[b"example"])]);
        let permitted = element(0xa0, &[&name, &dns, &email]);
        let excluded = element(0xa1, &[&email]);
        let left = without_own_forms(&[permitted, excluded].concat()).unwrap();
        assert_eq!(left, element(0xa0, &[&dns]));
        assert_eq!(without_own_forms(&[]), Some(Vec::new()));
        assert_eq!(without_own_forms(&[0xa0, 5, 0x30]), None);
    }
}

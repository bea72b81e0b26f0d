//! Identities of the ID payloads (RFC 7296 section 3.5) and how certificates prove them (RFC 4945).

use super::certificate::Certificate;
use super::name::{DistinguishedName, NameError};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Who an IKE endpoint says it is. Text keeps the case it came in; equality ignores it where DNS does.
#[derive(Clone, Debug)]
pub enum Identity {
    /// ID_IPV4_ADDR (1).
    Ipv4(Ipv4Addr),
    /// ID_FQDN (2): ASCII without control characters.
    Fqdn(String),
    /// ID_RFC822_ADDR (3): ASCII without control characters.
    Email(String),
    /// ID_IPV6_ADDR (5).
    Ipv6(Ipv6Addr),
    /// ID_DER_ASN1_DN (9).
    Dn(DistinguishedName),
    /// ID_KEY_ID (11): opaque bytes.
    KeyId(Vec<u8>),
}

/// Why an identity was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// An ID type that is not ours.
    #[error("identification type {0} is not supported (addresses, FQDN, e-mail, DN or key id)")]
    Type(u8),
    /// Data that does not fit the type.
    #[error("identification data of type {id_type} is malformed ({len} bytes)")]
    Data {
        /// The ID type.
        id_type: u8,
        /// Bytes of data.
        len: usize,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Text that is no identity of any kind.
    #[error(
        "{0:?} is no identity: write a host name, an e-mail or IP address, a DN (O=Lab, CN=x), keyid:text or @#hex for a key id"
    )]
    Text(String),
}

impl Identity {
    /// Reads the type and data of an ID payload.
    ///
    /// # Errors
    /// If the type is not ours or the data does not fit it. Names must be printable ASCII, so that they can be
    /// logged as they are.
    pub fn from_wire(id_type: u8, data: &[u8]) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Data {
            id_type,
            len: data.len(),
        };
        let text = || {
            let text = std::str::from_utf8(data).map_err(|_| bad())?;
            if is_plain_text(text) {
                Ok(text.to_owned())
            } else {
                Err(bad())
            }
        };
        match id_type {
            1 => <[u8; 4]>::try_from(data)
                .map(|octets| Self::Ipv4(octets.into()))
                .map_err(|_| bad()),
            2 => text().map(Self::Fqdn),
            3 => text().map(Self::Email),
            5 => <[u8; 16]>::try_from(data)
                .map(|octets| Self::Ipv6(octets.into()))
                .map_err(|_| bad()),
            9 => Ok(Self::Dn(DistinguishedName::from_der(data)?)),
            11 if !data.is_empty() => Ok(Self::KeyId(data.to_vec())),
            11 => Err(bad()),
            other => Err(IdentityError::Type(other)),
        }
    }

    /// The ID type of the payload.
    pub fn id_type(&self) -> u8 {
        match self {
            Self::Ipv4(_) => 1,
            Self::Fqdn(_) => 2,
            Self::Email(_) => 3,
            Self::Ipv6(_) => 5,
            Self::Dn(_) => 9,
            Self::KeyId(_) => 11,
        }
    }

    /// The identification data of the payload: for an identity read by [`Self::from_wire`], the bytes it was
    /// read from.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Self::Ipv4(address) => address.octets().to_vec(),
            Self::Fqdn(text) | Self::Email(text) => text.clone().into_bytes(),
            Self::Ipv6(address) => address.octets().to_vec(),
            Self::Dn(name) => name.der().to_vec(),
            Self::KeyId(id) => id.clone(),
        }
    }

    /// Whether the certificate may speak for this identity: an FQDN, e-mail or IP address must be one of its
    /// subjectAltNames, a DN its subject. The common name proves nothing, a wildcard in the certificate neither,
    /// and no certificate proves a key id (RFC 4945 section 3.1).
    pub fn matches_certificate(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Ipv4(address) => certificate.san_addresses().contains(&IpAddr::V4(*address)),
            Self::Ipv6(address) => certificate.san_addresses().contains(&IpAddr::V6(*address)),
            Self::Fqdn(name) => certificate.san_dns().iter().any(|san| same_host(san, name)),
            Self::Email(name) => certificate.san_emails().iter().any(|san| same_email(san, name)),
            Self::Dn(name) => !name.is_empty() && name == certificate.subject(),
            Self::KeyId(_) => false,
        }
    }
}

/// RFC 7296 section 3.5 has no terminator or white space in names; empty ones name nobody.
fn is_plain_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn same_host(a: &str, b: &str) -> bool {
    // An asterisk is a pattern in a certificate and no host in an ID payload: it is equal to nothing.
    !a.contains('*') && a.eq_ignore_ascii_case(b)
}

/// RFC 5280 section 7.5: the local part as it is, the host without regard to case.
fn same_email(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((a_local, a_host)), Some((b_local, b_host))) => {
            a_local == b_local && a_host.eq_ignore_ascii_case(b_host)
        }
        (None, _) | (_, None) => a == b,
    }
}

fn folded_email(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((local, host)) => format!("{local}@{}", host.to_ascii_lowercase()),
        None => text.to_owned(),
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ipv4(a), Self::Ipv4(b)) => a == b,
            (Self::Ipv6(a), Self::Ipv6(b)) => a == b,
            (Self::Fqdn(a), Self::Fqdn(b)) => a.eq_ignore_ascii_case(b),
            (Self::Email(a), Self::Email(b)) => same_email(a, b),
            (Self::Dn(a), Self::Dn(b)) => a == b,
            (Self::KeyId(a), Self::KeyId(b)) => a == b,
            (
                Self::Ipv4(_) | Self::Ipv6(_) | Self::Fqdn(_) | Self::Email(_) | Self::Dn(_) | Self::KeyId(_),
                _,
            ) => false,
        }
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id_type().hash(state);
        match self {
            Self::Ipv4(address) => address.hash(state),
            Self::Ipv6(address) => address.hash(state),
            Self::Fqdn(text) => text.to_ascii_lowercase().hash(state),
            Self::Email(text) => folded_email(text).hash(state),
            Self::Dn(name) => name.hash(state),
            Self::KeyId(id) => id.hash(state),
        }
    }
}

/// Words in front of a text that say its kind, where the text alone does not.
mod kind {
    pub(super) const FQDN: &str = "fqdn:";
    pub(super) const EMAIL: &str = "email:";
    pub(super) const DN: &str = "dn:";
    pub(super) const KEY_ID: &str = "keyid:";
}

impl fmt::Display for Identity {
    /// Text that [`FromStr`] reads as this identity and no other. Sites, logs and INITIAL_CONTACT tell peers apart by
    /// it: a host name that looks like an address must not read like that address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind_unless_clear = |text: &str, kind| match text.parse::<Self>().as_ref() == Ok(self) {
            true => "",
            false => kind,
        };
        match self {
            Self::Ipv4(address) => write!(f, "{address}"),
            Self::Ipv6(address) => write!(f, "{address}"),
            Self::Fqdn(text) => write!(f, "{}{text}", kind_unless_clear(text, kind::FQDN)),
            Self::Email(text) => write!(f, "{}{text}", kind_unless_clear(text, kind::EMAIL)),
            Self::Dn(name) if name.is_empty() => f.write_str(kind::DN),
            Self::Dn(name) => write!(f, "{name}"),
            Self::KeyId(id) if id.iter().all(u8::is_ascii_graphic) => {
                f.write_str(kind::KEY_ID)?;
                id.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
            }
            Self::KeyId(id) => {
                f.write_str("@#")?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads configuration text. The kind shows in the text: `192.0.2.1`, `2001:db8::1`, `O=Lab, CN=x`,
    /// `keyid:router-7`, `@#0badcafe` (a key id in hex), `admin@gw.example`, `gw.example`. Or it is written in front:
    /// `fqdn:`, `email:`, `dn:`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let bad = || IdentityError::Text(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(match address {
                IpAddr::V4(address) => Self::Ipv4(address),
                IpAddr::V6(address) => Self::Ipv6(address),
            });
        }
        if let Some(hex) = text.strip_prefix("@#") {
            return super::name::bytes_from_hex(hex).map(Self::KeyId).ok_or_else(bad);
        }
        if let Some(identity) = Self::of_kind(text) {
            return identity;
        }
        if text.contains('=') {
            return Ok(Self::Dn(DistinguishedName::from_text(text)?));
        }
        if !is_plain_text(text) {
            return Err(bad());
        }
        match text.split_once('@') {
            Some(("", _) | (_, "")) => Err(bad()),
            Some(_) => Ok(Self::Email(text.to_owned())),
            None if is_host_name(text) => Ok(Self::Fqdn(text.to_owned())),
            None => Err(bad()),
        }
    }
}

impl Identity {
    /// Reads text with its kind in front; `None` without.
    fn of_kind(text: &str) -> Option<Result<Self, IdentityError>> {
        let plain = |rest: &str| match is_plain_text(rest) {
            true => Ok(rest.to_owned()),
            false => Err(IdentityError::Text(text.to_owned())),
        };
        if let Some(rest) = text.strip_prefix(kind::FQDN) {
            return Some(plain(rest).map(Self::Fqdn));
        }
        if let Some(rest) = text.strip_prefix(kind::EMAIL) {
            return Some(plain(rest).map(Self::Email));
        }
        if let Some(rest) = text.strip_prefix(kind::KEY_ID) {
            return Some(plain(rest).map(|id| Self::KeyId(id.into_bytes())));
        }
        let name = text.strip_prefix(kind::DN)?;
        let name = match name.trim() {
            "" => DistinguishedName::from_der(&[0x30, 0]),
            name => DistinguishedName::from_text(name),
        };
        Some(name.map(Self::Dn).map_err(IdentityError::from))
    }

    /// The one spelling of all that are equal to this identity, as far as it does not take a certificate to say.
    #[must_use]
    pub fn folded(self) -> Self {
        match self {
            Self::Fqdn(name) => Self::Fqdn(name.to_ascii_lowercase()),
            Self::Email(text) => Self::Email(folded_email(&text)),
            other @ (Self::Ipv4(_) | Self::Ipv6(_) | Self::Dn(_) | Self::KeyId(_)) => other,
        }
    }
}

/// Labels of letters, digits, hyphens and underscores. The last is no number: `192.0.2.300` is a mistyped address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Which identities a configuration line admits: any, one, or a pattern.
///
/// In a host name an asterisk stands for exactly one label (`*.clinic.example`), in an e-mail address for the
/// local part (`*@clinic.example`), in a DN for one attribute's value (`O=Lab, CN=*`). `*` alone admits whoever
/// holds a certificate of a trusted authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Host(String),
    EmailOf(String),
    Dn(DistinguishedName),
    Exactly(Identity),
}

impl IdentityPattern {
    /// Whether `identity` is admitted.
    pub fn admits(&self, identity: &Identity) -> bool {
        match (&self.0, identity) {
            (Pattern::Any, _) => true,
            (Pattern::Exactly(wanted), identity) => wanted == identity,
            (Pattern::Host(wanted), Identity::Fqdn(name)) => host_fits(name, wanted),
            (Pattern::EmailOf(host), Identity::Email(text)) => text
                .rsplit_once('@')
                .is_some_and(|(local, own)| !local.is_empty() && own.eq_ignore_ascii_case(host)),
            (Pattern::Dn(wanted), Identity::Dn(name)) => name.fits(wanted),
            (Pattern::Host(_) | Pattern::EmailOf(_) | Pattern::Dn(_), _) => false,
        }
    }
}

fn host_fits(name: &str, pattern: &str) -> bool {
    name.split('.').count() == pattern.split('.').count()
        && name.split('.').zip(pattern.split('.')).all(|(label, wanted)| {
            if wanted == "*" {
                !label.is_empty() && label != "*"
            } else {
                label.eq_ignore_ascii_case(wanted)
            }
        })
}

impl FromStr for IdentityPattern {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let bad = || IdentityError::Text(text.to_owned());
        if text == "*" {
            return Ok(Self(Pattern::Any));
        }
        if let Some(identity) = Identity::of_kind(text) {
            return identity.map(|identity| Self(Pattern::Exactly(identity)));
        }
        if text.contains('=') {
            return Ok(Self(Pattern::Dn(DistinguishedName::from_text(text)?)));
        }
        if let Some(host) = text.strip_prefix("*@") {
            return match host.parse()? {
                Identity::Fqdn(host) => Ok(Self(Pattern::EmailOf(host))),
                _ => Err(bad()),
            };
        }
        if text.contains('*') {
            let whole_labels = text.split('.').all(|label| label == "*" || !label.contains('*'));
            // Read with a letter for each asterisk it must be a host name. One at the end admits every domain.
            let fits = whole_labels && !text.ends_with('*') && is_host_name(&text.replace('*', "x"));
            return if fits {
                Ok(Self(Pattern::Host(text.to_owned())))
            } else {
                Err(bad())
            };
        }
        text.parse().map(|identity| Self(Pattern::Exactly(identity)))
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Any => f.write_str("*"),
            Pattern::Host(text) => f.write_str(text),
            Pattern::EmailOf(host) => write!(f, "*@{host}"),
            Pattern::Dn(name) => write!(f, "{name}"),
            Pattern::Exactly(identity) => write!(f, "{identity}"),
        }
    }
}

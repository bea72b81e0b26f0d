//! Distinguished names (RFC 5280 section 4.1.2.4) as DER and as text.
//!
//! Text follows RFC 4514 in its escapes and attribute names, but stands in the order of the encoding, the
//! most general part first (`C=JP, O=Lab, CN=x`): so write openssl and strongSwan, and so do operators.

use crate::crypto::der::{element, tag};
use std::fmt;
use std::hash::{Hash, Hasher};
use x509_parser::asn1_rs::{Any, Class, Oid, Tag};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// A distinguished name. It keeps its encoding; equality is that of RFC 5280 section 7.1, simplified: attribute
/// by attribute, without regard to case, string type and repeated blanks.
#[derive(Clone)]
pub struct DistinguishedName {
    der: Vec<u8>,
    rdns: Vec<Vec<Attribute>>,
}

/// One attribute of a name.
#[derive(Clone)]
struct Attribute {
    /// Content octets of the object identifier.
    oid: Vec<u8>,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Text(String),
    /// The DER of a value that is no string we can read.
    Der(Vec<u8>),
}

/// Why a name was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not the DER of a name.
    #[error("the distinguished name is malformed")]
    Malformed,
    /// A part of the text without `=`.
    #[error("{0:?} is no attribute: write TYPE=value, with a backslash before a comma in a value")]
    NotAnAttribute(String),
    /// An attribute type that has no short name here.
    #[error("attribute type {0:?} is unknown; use CN, O, OU, C, ST, L, ... or a dotted object identifier")]
    UnknownType(String),
    /// A backslash that escapes nothing, or a bad `#hex` value.
    #[error("{0:?} has a bad escape")]
    Escape(String),
}

/// Short names with their object identifiers (RFC 4514 section 3, RFC 4519, and those openssl prints).
const TYPES: [(&str, &[u8]); 16] = [
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("T", &[0x55, 4, 12]),
    ("G", &[0x55, 4, 42]),
    ("dnQualifier", &[0x55, 4, 46]),
    ("organizationIdentifier", &[0x55, 4, 97]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("emailAddress", EMAIL_OID),
];
const EMAIL_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
const DC_OID: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25];

impl DistinguishedName {
    /// Reads the DER of a Name, which must be all of `der`.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn from_der(der: &[u8]) -> Result<Self, NameError> {
        let (rest, name) = X509Name::from_der(der).map_err(|_| NameError::Malformed)?;
        if !rest.is_empty() {
            return Err(NameError::Malformed);
        }
        let attributes = |rdn: &x509_parser::x509::RelativeDistinguishedName<'_>| {
            rdn.iter()
                .map(|attribute| Attribute {
                    oid: attribute.attr_type().as_bytes().to_vec(),
                    value: Value::read(attribute.attr_value()),
                })
                .collect()
        };
        Ok(Self {
            der: der.to_vec(),
            rdns: name.iter_rdn().map(attributes).collect(),
        })
    }

    /// Reads text such as `C=JP, O=Clinic\, East, CN=gw`, the most general attribute first; `+` joins attributes of
    /// one relative name. Values are encoded as PrintableString where their characters allow, else UTF8String.
    ///
    /// # Errors
    /// If a part is no attribute, its type is unknown or an escape is bad.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        let rdns = split_unescaped(text, ',')
            .into_iter()
            .map(|rdn| {
                split_unescaped(rdn, '+')
                    .into_iter()
                    .map(Attribute::from_text)
                    .collect()
            })
            .collect::<Result<Vec<Vec<Attribute>>, _>>()?;
        Ok(Self {
            der: encode(&rdns),
            rdns,
        })
    }

    /// The encoding: as received, or as made from text.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether the name has no attribute at all, as some certificates have that rely on their SAN.
    pub fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// Whether this name fits `pattern`: equal, but a value `*` in the pattern fits any one value.
    pub fn fits(&self, pattern: &DistinguishedName) -> bool {
        self.rdns.len() == pattern.rdns.len()
            && self.rdns.iter().zip(&pattern.rdns).all(|(own, wanted)| {
                own.len() == wanted.len()
                    && sorted(own).iter().zip(sorted(wanted)).all(|(own, wanted)| {
                        own.oid == wanted.oid
                            && (wanted.value.is_star() || own.value.folded() == wanted.value.folded())
                    })
            })
    }

    /// Whether this name is `base` or below it: its first relative names are those of `base`.
    pub fn is_within(&self, base: &DistinguishedName) -> bool {
        self.folded().starts_with(&base.folded())
    }

    /// Values of its emailAddress attributes.
    pub fn email_addresses(&self) -> Vec<&str> {
        let attributes = self.rdns.iter().flatten();
        attributes
            .filter(|attribute| attribute.oid == EMAIL_OID)
            .filter_map(|attribute| match &attribute.value {
                Value::Text(text) => Some(text.as_str()),
                Value::Der(_) => None,
            })
            .collect()
    }

    fn folded(&self) -> Vec<Vec<(&[u8], String)>> {
        self.rdns
            .iter()
            .map(|rdn| {
                sorted(rdn)
                    .into_iter()
                    .map(|a| (&a.oid[..], a.value.folded()))
                    .collect()
            })
            .collect()
    }
}

/// A relative name is a set: its order means nothing. Sorted by type, then folded value.
fn sorted(rdn: &[Attribute]) -> Vec<&Attribute> {
    let mut attributes: Vec<_> = rdn.iter().collect();
    attributes.sort_by_cached_key(|attribute| (attribute.oid.clone(), attribute.value.folded()));
    attributes
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der || self.folded() == other.folded()
    }
}

impl Eq for DistinguishedName {}

impl Hash for DistinguishedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rdn) in self.rdns.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            for (j, attribute) in rdn.iter().enumerate() {
                f.write_str(if j > 0 { "+" } else { "" })?;
                write!(f, "{attribute}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinguishedName({self})")
    }
}

impl Attribute {
    fn from_text(text: &str) -> Result<Self, NameError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| NameError::NotAnAttribute(text.trim().to_owned()))?;
        let name = name.trim();
        let unknown = || NameError::UnknownType(name.to_owned());
        let known = TYPES.iter().find(|(short, _)| short.eq_ignore_ascii_case(name));
        let oid = match (known, name.to_ascii_lowercase().as_str()) {
            (Some((_, oid)), _) => oid.to_vec(),
            (None, "e" | "email") => EMAIL_OID.to_vec(),
            (None, _) => oid_from_dotted(name).ok_or_else(unknown)?,
        };
        Ok(Self {
            oid,
            value: Value::from_text(value)?,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let value = match &self.value {
            Value::Der(der) => der.clone(),
            Value::Text(text) => element(string_tag(&self.oid, text), &[text.as_bytes()]),
        };
        element(tag::SEQUENCE, &[&element(tag::OID, &[&self.oid]), &value])
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(_, oid)| *oid == self.oid) {
            Some((short, _)) => f.write_str(short)?,
            None => write!(f, "{}", Oid::new((&self.oid[..]).into()))?,
        }
        match &self.value {
            Value::Text(text) => write!(f, "={}", escape(text)),
            Value::Der(der) => {
                f.write_str("=#")?;
                der.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl Value {
    fn read(value: &Any<'_>) -> Self {
        let text = match value.tag() {
            Tag::Utf8String
            | Tag::PrintableString
            | Tag::Ia5String
            | Tag::NumericString
            | Tag::VisibleString => std::str::from_utf8(value.data).ok().map(str::to_owned),
            // Latin-1 is what implementations put there, whatever T.61 says.
            Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
            Tag::BmpString if value.data.len().is_multiple_of(2) => {
                let units = value
                    .data
                    .chunks_exact(2)
                    .map(|pair| pair.iter().fold(0, |sum, b| sum << 8 | u16::from(*b)));
                String::from_utf16(&units.collect::<Vec<_>>()).ok()
            }
            _ => None,
        };
        match text {
            Some(text) if value.class() == Class::Universal => Self::Text(text),
            _ => {
                let class = (value.class() as u8) << 6 | u8::from(value.header.is_constructed()) << 5;
                // Tags above 30 have no place in a name; they are kept apart from all others by their content.
                let tag = class | u8::try_from(value.tag().0).unwrap_or(31).min(31);
                Self::Der(element(tag, &[value.data]))
            }
        }
    }

    fn from_text(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Escape(text.to_owned());
        let trimmed = trim_unescaped(text);
        if let Some(hex) = trimmed.strip_prefix('#') {
            return Ok(Self::Der(bytes_from_hex(hex).ok_or_else(bad)?));
        }
        let mut bytes = Vec::with_capacity(trimmed.len());
        let mut rest = trimmed.chars();
        while let Some(c) = rest.next() {
            let mut push = |c: char| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            match (c, if c == '\\' { rest.next() } else { None }) {
                ('\\', Some(hex)) if hex.is_ascii_hexdigit() => {
                    let pair = [Some(hex), rest.next()].into_iter().flatten().collect::<String>();
                    bytes.extend(bytes_from_hex(&pair).ok_or_else(bad)?);
                }
                ('\\', Some(special)) if SPECIAL.contains(special) || special == '#' || special == ' ' => {
                    push(special)
                }
                ('\\', _) => return Err(bad()),
                (plain, _) => push(plain),
            }
        }
        String::from_utf8(bytes).map(Self::Text).map_err(|_| bad())
    }

    fn is_star(&self) -> bool {
        matches!(self, Self::Text(text) if text == "*")
    }

    /// What equality compares.
    fn folded(&self) -> String {
        match self {
            Self::Text(text) => {
                let words: Vec<_> = text.split_whitespace().collect();
                words.join(" ").to_lowercase()
            }
            // NUL keeps undecoded values apart from any text.
            Self::Der(der) => der
                .iter()
                .fold("\0#".to_owned(), |text, byte| text + &format!("{byte:02x}")),
        }
    }
}

/// Characters that RFC 4514 section 2.4 escapes anywhere in a value.
const SPECIAL: &str = "\",+;<>\\=";

fn escape(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        let at_edge = (c == ' ' && (i == 0 || i == last)) || (c == '#' && i == 0);
        if SPECIAL.contains(c) || at_edge {
            out.push('\\');
            out.push(c);
        } else if is_unprintable(c) {
            // A name from the network must not move the cursor of whoever reads the log.
            c.encode_utf8(&mut [0; 4])
                .bytes()
                .for_each(|byte| out.push_str(&format!("\\{byte:02x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, other blanks than the space, and the marks that turn the direction of text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(move |c| {
        let splits = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
    .filter(|part| !part.trim().is_empty())
    .collect()
}

/// Drops blanks around a value, but not one that a backslash protects.
fn trim_unescaped(text: &str) -> &str {
    let text = text.trim_start();
    let trimmed = text.trim_end();
    let escapes = trimmed.chars().rev().take_while(|c| *c == '\\').count();
    if escapes % 2 == 1 && text.len() > trimmed.len() {
        text.get(..trimmed.len() + 1).unwrap_or(text)
    } else {
        trimmed
    }
}

pub(super) fn bytes_from_hex(hex: &str) -> Option<Vec<u8>> {
    if hex.is_empty() || !hex.len().is_multiple_of(2) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len())
        .step_by(2)
        .map(|i| {
            hex.get(i..i + 2)
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect()
}

fn oid_from_dotted(text: &str) -> Option<Vec<u8>> {
    let arcs = text
        .split('.')
        .map(|arc| arc.parse().ok())
        .collect::<Option<Vec<u64>>>()?;
    if arcs.len() < 2 {
        return None;
    }
    Oid::from(&arcs).ok().map(|oid| oid.as_bytes().to_vec())
}

/// RFC 5280 appendix A: emailAddress and domainComponent are IA5String; the rest is a choice.
fn string_tag(oid: &[u8], text: &str) -> u8 {
    let printable = |byte: u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte);
    if (oid == EMAIL_OID || oid == DC_OID) && text.is_ascii() {
        tag::IA5_STRING
    } else if text.bytes().all(printable) {
        tag::PRINTABLE_STRING
    } else {
        tag::UTF8_STRING
    }
}

fn encode(rdns: &[Vec<Attribute>]) -> Vec<u8> {
    let sets = rdns.iter().map(|rdn| {
        let mut attributes: Vec<_> = rdn.iter().map(Attribute::encode).collect();
        // DER orders the elements of a SET OF by their encodings (X.690 section 11.6).
        attributes.sort();
        element(tag::SET, &[&attributes.concat()])
    });
    element(tag::SEQUENCE, &[&sets.collect::<Vec<_>>().concat()])
}

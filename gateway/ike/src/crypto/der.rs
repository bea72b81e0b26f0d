//! Just enough DER to write what the libraries only read: key wrappers, algorithm identifiers, names. And to take
//! an element apart that they give whole.

use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;

/// Universal and context tags that are written here (X.690 section 8).
pub(crate) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
}

/// One element: tag, definite length, and the concatenation of `parts`.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(len + 10);
    out.push(tag);
    match u8::try_from(len) {
        Ok(short @ 0..=127) => out.push(short),
        _ => {
            let bytes = len.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count();
            // At most 8 length bytes follow.
            out.push(0x80 | (bytes.len() - skip) as u8);
            out.extend(bytes.iter().skip(skip));
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// The first element of `der`: its tag (one octet), its content, and what follows it.
pub(crate) fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((*der.first()?, any.data, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X.690 section 8.1.3: short form up to 127, then as many length bytes as needed.
    #[test]
    fn lengths_are_minimal() {
        assert_eq!(element(tag::OCTET_STRING, &[&[1], &[2, 3]]), [4, 3, 1, 2, 3]);
        assert_eq!(element(tag::OCTET_STRING, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(element(tag::OCTET_STRING, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(element(tag::OCTET_STRING, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn what_is_put_together_comes_apart() {
        let two = [element(0xa1, &[&[7; 200]]), element(tag::OID, &[&[1]])].concat();
        let (first, content, rest) = split(&two).unwrap();
        assert_eq!((first, content), (0xa1, &[7; 200][..]));
        assert_eq!(split(rest), Some((tag::OID, &[1][..], &[][..])));
        assert_eq!((split(&[]), split(&[4, 2, 0])), (None, None));
    }
}

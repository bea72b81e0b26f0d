//! Delete payload (RFC 7296 section 3.11).

use super::{WireError, protocol, reader::Reader};

/// The SAs that their receiving side has deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that carries the message.
    Ike,
    /// Child SAs, by the SPIs that the sender of the payload receives on.
    Esp(Vec<u32>),
    /// Child SAs of a protocol that this crate does not speak.
    Other(u8),
}

impl Delete {
    /// Parses the body.
    ///
    /// # Errors
    /// When SPI size and count do not fit protocol and length.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "delete");
        let protocol = reader.u8()?;
        let spi_len = reader.u8()?;
        let count = usize::from(reader.u16()?);
        match (protocol, spi_len) {
            (protocol::IKE, 0) if reader.is_empty() => Ok(Self::Ike),
            (protocol::ESP, 4) => {
                let mut spis = Vec::new();
                while !reader.is_empty() {
                    spis.push(reader.u32()?);
                }
                if spis.len() == count {
                    Ok(Self::Esp(spis))
                } else {
                    Err(WireError::BadLength("delete"))
                }
            }
            (protocol::IKE | protocol::ESP, _) => Err(WireError::BadValue("SPI size")),
            (other, _) => Ok(Self::Other(other)),
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ike => out.extend_from_slice(&[protocol::IKE, 0, 0, 0]),
            Self::Other(protocol) => out.extend_from_slice(&[*protocol, 0, 0, 0]),
            Self::Esp(spis) => {
                out.extend_from_slice(&[protocol::ESP, 4]);
                out.extend_from_slice(&u16::try_from(spis.len()).unwrap_or(u16::MAX).to_be_bytes());
                for spi in spis.iter().take(usize::from(u16::MAX)) {
                    out.extend_from_slice(&spi.to_be_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        for (bytes, delete) in [
            (&[1, 0, 0, 0][..], Delete::Ike),
            (
                &[3, 4, 0, 2, 0, 0, 1, 0, 0xff, 0, 0, 1],
                Delete::Esp(vec![0x100, 0xff00_0001]),
            ),
        ] {
            assert_eq!(Delete::parse(bytes), Ok(delete.clone()));
            let mut out = Vec::new();
            delete.emit(&mut out);
            assert_eq!(out, bytes);
        }
        assert_eq!(Delete::parse(&[2, 4, 0, 0]), Ok(Delete::Other(2)));
        assert!(Delete::parse(&[3, 4, 0, 3, 0, 0, 1, 0]).is_err());
        assert!(Delete::parse(&[3, 8, 0, 0]).is_err());
        assert!(Delete::parse(&[1, 0, 0, 0, 9]).is_err());
    }
}

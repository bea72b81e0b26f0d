//! The way of a received packet through an inbound SA (RFC 4303 section 3.4, RFC 4301 section 5.2).

use crate::bytes::load_u32;
use crate::engine::{Done, Job, Refused, Task, Way};
use crate::tunnel::ecn;
use crate::{ESP_HEADER_LEN, ESP_TRAILER_LEN, InboundSa, InnerIpv4, OpenError, Opened, ReplayError, Suite};

/// IPv4 as next header: tunnel mode.
pub(crate) const NEXT_HEADER_IPV4: u8 = 4;
/// No next header: a dummy packet (RFC 4303 section 2.6).
const NEXT_HEADER_NONE: u8 = 59;

/// A packet that was found worth its cryptography.
#[derive(Debug)]
pub struct Admitted {
    /// Its whole sequence number.
    sequence: u64,
}

impl InboundSa {
    /// Opens one ESP packet in place: `esp` goes from the SPI to the end of the ICV, `outer_tos` is the DSCP
    /// and ECN octet of the outer header.
    ///
    /// In this order: length, SPI, replay window, integrity and decryption, window update, padding, next
    /// header, inner IPv4 header (what follows the inner packet is padding and cut off), traffic selectors,
    /// ECN by RFC 6040. The inner TTL is left alone: the packet core, which forwards, decrements it.
    ///
    /// # Errors
    /// [`OpenError`]; the buffer's content is then of no use. The replay window has moved if and only if the
    /// packet was authentic.
    #[inline]
    pub fn open(&mut self, esp: &mut [u8], outer_tos: u8) -> Result<Opened, OpenError> {
        let admitted = self.admit(esp)?;
        let outcome = self.task(&admitted, esp).alone();
        self.finish(admitted, outcome, esp, outer_tos)
    }

    /// The first part of [`InboundSa::open`], up to the cryptography.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn admit(&self, esp: &[u8]) -> Result<Admitted, OpenError> {
        self.check(esp).map(|sequence| Admitted { sequence })
    }

    /// The cryptography of a packet that was admitted.
    #[inline]
    pub fn task<'a>(&'a self, admitted: &Admitted, esp: &'a mut [u8]) -> Task<'a> {
        let sequence_high = self.esn.then_some((admitted.sequence >> 32) as u32);
        Task::new(&*self.engine, Job { esp, sequence_high }, Way::Open)
    }

    /// The last part of [`InboundSa::open`], with what came of the task. A packet whose like was finished since it was admitted
    /// is refused as replayed.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn finish(
        &mut self,
        admitted: Admitted,
        outcome: Result<Done, Refused>,
        esp: &mut [u8],
        outer_tos: u8,
    ) -> Result<Opened, OpenError> {
        let Done { .. } = outcome.map_err(|Refused| OpenError::AuthenticationFailed)?;
        // Now, and not after the checks below: an authentic packet that they refuse must not come again.
        self.window.accept(admitted.sequence)?;
        self.examine(esp, admitted.sequence, outer_tos)
    }

    /// What can be said before any cryptography; the whole sequence number if the packet is worth it.
    #[inline]
    fn check(&self, esp: &[u8]) -> Result<u64, OpenError> {
        let overhead = ESP_HEADER_LEN + self.suite.iv_len() + self.suite.icv_len();
        let ciphertext_len = esp.len().checked_sub(overhead).ok_or(OpenError::TooShort)?;
        if ciphertext_len < ESP_TRAILER_LEN {
            return Err(OpenError::TooShort);
        }
        if !ciphertext_len.is_multiple_of(self.suite.alignment()) {
            return Err(OpenError::Misaligned);
        }
        if load_u32(esp, 0) != Some(self.spi) {
            return Err(OpenError::SpiMismatch);
        }
        let low = load_u32(esp, 4).ok_or(OpenError::TooShort)?;
        Ok(self.window.check(low)?)
    }

    /// What can be said once the text is authentic and plain.
    #[inline]
    fn examine(&mut self, esp: &mut [u8], sequence: u64, outer_tos: u8) -> Result<Opened, OpenError> {
        let start = ESP_HEADER_LEN + self.suite.iv_len();
        let (payload, next_header) = payload(esp, self.suite)?;
        match next_header {
            NEXT_HEADER_IPV4 => {}
            NEXT_HEADER_NONE => return Ok(Opened::Dummy),
            _ => return Err(OpenError::NextHeader),
        }
        let inner = InnerIpv4::parse(payload).ok_or(OpenError::InnerMalformed)?;
        if !self.selectors.admits_inbound(&inner.flow) {
            return Err(OpenError::SelectorMismatch);
        }
        let tos = ecn::decapsulate(inner.tos, outer_tos).ok_or(OpenError::EcnNotCapable)?;
        if tos != inner.tos {
            ecn::set_ipv4_tos(payload, tos).ok_or(OpenError::InnerMalformed)?;
        }
        self.counters.count(inner.total_len);
        Ok(Opened::Packet {
            inner: start..start + inner.total_len,
            sequence,
        })
    }
}

/// Payload and next header of a decrypted packet, once its padding has been checked.
#[inline]
fn payload(esp: &mut [u8], suite: Suite) -> Result<(&mut [u8], u8), OpenError> {
    let text_end = esp
        .len()
        .checked_sub(suite.icv_len())
        .ok_or(OpenError::TooShort)?;
    let text = esp
        .get_mut(ESP_HEADER_LEN + suite.iv_len()..text_end)
        .ok_or(OpenError::TooShort)?;
    let (text, [pad_len, next_header]) = text
        .split_last_chunk_mut::<ESP_TRAILER_LEN>()
        .ok_or(OpenError::TooShort)?;
    let payload_len = text
        .len()
        .checked_sub(usize::from(*pad_len))
        .ok_or(OpenError::BadPadding)?;
    let (payload, padding) = text
        .split_at_mut_checked(payload_len)
        .ok_or(OpenError::BadPadding)?;
    if !padding.iter().zip(1..=u8::MAX).all(|(have, want)| *have == want) {
        return Err(OpenError::BadPadding);
    }
    Ok((payload, *next_header))
}

impl From<ReplayError> for OpenError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::OutsideWindow => Self::OutsideWindow,
            ReplayError::Replayed => Self::Replayed,
        }
    }
}

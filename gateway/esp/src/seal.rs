//! The way of an inner packet through an outbound SA (RFC 4303 section 3.3, RFC 4301 section 5.1).

use crate::bytes::store;
use crate::engine::{Done, Job, Refused, Task, Way};
use crate::mtu::ciphertext_len;
use crate::open::NEXT_HEADER_IPV4;
use crate::{ConfigError, ESP_HEADER_LEN, ESP_TRAILER_LEN, InnerIpv4, IvKey, OutboundSa, SealError, Suite};
use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use core::ops::Range;

/// A packet in its place in the frame, with a sequence number, that is not encrypted yet.
#[derive(Debug)]
pub struct Prepared {
    sequence: u64,
    /// Where in the buffer the frame will begin, its ESP packet will begin, and both will end.
    start: u32,
    esp_start: u32,
    end: u32,
    packet: Carried,
}

impl Prepared {
    fn frame(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn esp(&self) -> Range<usize> {
        self.esp_start as usize..self.end as usize
    }
}

/// What the outer header and the counters say of the inner packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) total_len: u16,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    pub(crate) dont_fragment: bool,
}

impl OutboundSa {
    /// Writes a whole Ethernet frame around an inner packet, in place, and answers where the frame lies.
    ///
    /// `frame` is the whole buffer; the inner IPv4 packet begins at `inner.start` and ends at or before
    /// `inner.end` (its total length says; what follows is link padding). In front of it
    /// [`crate::HEADROOM_MAX`] octets are always enough, behind it [`crate::TAILROOM_MAX`].
    /// DSCP and ECN of the outer header are the inner packet's.
    ///
    /// # Errors
    /// [`SealError`]; nothing may be sent then. No sequence number is lost except by [`SealError::Engine`].
    #[inline]
    pub fn seal(&mut self, frame: &mut [u8], inner: Range<usize>) -> Result<Range<usize>, SealError> {
        let prepared = self.prepare(frame, inner)?;
        let task = self.task(&prepared, frame).ok_or(SealError::NoTailroom)?;
        let outcome = task.alone();
        self.finish(prepared, outcome, frame)
    }

    /// The first part of [`OutboundSa::seal`], up to the cryptography.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn prepare(&mut self, frame: &mut [u8], inner: Range<usize>) -> Result<Prepared, SealError> {
        let packet = frame.get(inner.clone()).ok_or(SealError::InnerMalformed)?;
        let packet = InnerIpv4::parse(packet).ok_or(SealError::InnerMalformed)?;
        if !self.selectors.admits_outbound(&packet.flow) {
            return Err(SealError::SelectorMismatch);
        }
        if packet.total_len > usize::from(self.inner_mtu) {
            return Err(SealError::TooBig {
                inner_mtu: self.inner_mtu,
            });
        }
        let range = self.place(frame.len(), inner.start, packet.total_len)?;
        let sequence = self.sequence.take()?;
        let esp_start = range.start + self.outer.len();
        let esp = frame.get_mut(esp_start..range.end).ok_or(SealError::NoTailroom)?;
        self.fill(esp, packet.total_len, sequence)
            .ok_or(SealError::NoTailroom)?;
        Ok(Prepared {
            sequence,
            start: range.start as u32,
            esp_start: esp_start as u32,
            end: range.end as u32,
            packet: Carried {
                total_len: packet.total_len as u16,
                tos: packet.tos,
                dont_fragment: packet.dont_fragment,
            },
        })
    }

    /// The cryptography of a packet that was prepared in this frame; `None` if it was prepared in a longer one.
    #[inline(always)]
    pub fn task<'a>(&'a self, prepared: &Prepared, frame: &'a mut [u8]) -> Option<Task<'a>> {
        let esp = frame.get_mut(prepared.esp())?;
        let sequence_high = self.esn.then_some((prepared.sequence >> 32) as u32);
        Some(Task::new(&*self.engine, Job { esp, sequence_high }, Way::Seal))
    }

    /// The last part of [`OutboundSa::seal`], with what came of the task.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn finish(
        &mut self,
        prepared: Prepared,
        outcome: Result<Done, Refused>,
        frame: &mut [u8],
    ) -> Result<Range<usize>, SealError> {
        let Done { .. } = outcome.map_err(|Refused| SealError::Engine)?;
        let range = prepared.frame();
        let (outer, esp) = frame
            .get_mut(range.clone())
            .and_then(|sealed| sealed.split_at_mut_checked(prepared.esp().start - range.start))
            .ok_or(SealError::NoTailroom)?;
        self.outer
            .write(outer, esp, prepared.packet, prepared.sequence)
            .ok_or(SealError::NoHeadroom)?;
        self.counters.count(prepared.packet.total_len.into());
        Ok(range)
    }

    /// Where the frame will lie, if the buffer has room for it.
    #[inline]
    fn place(&self, frame_len: usize, start: usize, inner_len: usize) -> Result<Range<usize>, SealError> {
        let front = self.outer.len() + ESP_HEADER_LEN + self.suite.iv_len();
        let first = start.checked_sub(front).ok_or(SealError::NoHeadroom)?;
        let end = start + ciphertext_len(inner_len, self.suite) + self.suite.icv_len();
        if end > frame_len || u32::try_from(end).is_err() {
            return Err(SealError::NoTailroom);
        }
        Ok(first..end)
    }

    /// Header, IV, padding and trailer around the inner packet in `esp`.
    #[inline]
    fn fill(&self, esp: &mut [u8], inner_len: usize, sequence: u64) -> Option<()> {
        store(esp, 0, self.spi.to_be_bytes())?;
        store(esp, 4, (sequence as u32).to_be_bytes())?;
        self.iv.write(esp.get_mut(ESP_HEADER_LEN..)?, sequence)?;
        let text_end = esp.len().checked_sub(self.suite.icv_len())?;
        let tail_start = ESP_HEADER_LEN + self.suite.iv_len() + inner_len;
        let (padding, trailer) = esp
            .get_mut(tail_start..text_end)?
            .split_last_chunk_mut::<ESP_TRAILER_LEN>()?;
        for (octet, value) in padding.iter_mut().zip(1..=u8::MAX) {
            *octet = value;
        }
        *trailer = [padding.len() as u8, NEXT_HEADER_IPV4];
        Some(())
    }
}

/// Where IVs come from.
pub(crate) enum IvSource {
    /// An AEAD's IV need only be unique under its key; the sequence number is (RFC 4106 section 3.1, RFC 7634
    /// section 2).
    Sequence,
    /// AES-CBC's IV must be unpredictable to whoever chooses plaintexts (RFC 3602 section 3). The sequence
    /// number is public, but encrypted under a key of its own it cannot be told from random, never repeats, and
    /// needs neither a random generator nor a system call per packet. (NIST SP 800-38A appendix C does the same
    /// under the data key; a separate key leaves the data key's block inputs alone.)
    EncryptedSequence(Box<Aes128>),
}

impl IvSource {
    pub(crate) fn new(suite: Suite, iv_key: &IvKey) -> Result<Self, ConfigError> {
        if suite.is_aead() {
            return Ok(Self::Sequence);
        }
        if iv_key.octets() == &[0; 16] {
            return Err(ConfigError::IvKeyMissing);
        }
        Ok(Self::EncryptedSequence(Box::new(Aes128::new(
            iv_key.octets().into(),
        ))))
    }

    #[inline]
    fn write(&self, iv: &mut [u8], sequence: u64) -> Option<()> {
        match self {
            Self::Sequence => store(iv, 0, sequence.to_be_bytes()),
            Self::EncryptedSequence(cipher) => {
                let mut block = Array(u128::from(sequence).to_be_bytes());
                cipher.encrypt_block(&mut block);
                store(iv, 0, block.0)
            }
        }
    }
}

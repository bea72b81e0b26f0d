//! One AF_XDP socket that only receives: what the XDP programs hand to workers, to be looked at.

use std::os::fd::RawFd;

use super::error::DataplaneError;
use super::worker::rings::RingPort as _;
use super::xsk::{Use, XskRings};

/// Frames of its memory.
const FRAMES: u32 = 1024;

/// The socket, bound to one queue of one interface.
pub struct Receiver {
    rings: XskRings,
    port: usize,
    descriptor: RawFd,
}

impl Receiver {
    /// Binds to a queue of an interface of this network namespace.
    ///
    /// # Errors
    /// The kernel refuses memory or socket.
    pub fn bind(interface: &str, queue: u32) -> Result<Self, DataplaneError> {
        let mut rings = XskRings::new(FRAMES)?;
        let (port, descriptor) = rings.bind(interface, queue, Use::ReceiveAndSend)?;
        rings.cards_are_bound();
        // Gives the kernel frames to receive into.
        rings.flush();
        Ok(Self {
            rings,
            port,
            descriptor,
        })
    }

    /// The socket's descriptor, for the XSK map; open as long as `self`.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// Frames that came since the last call; does not wait.
    #[must_use]
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        self.rings.receive(self.port, &mut arrived);
        let mut frames = Vec::with_capacity(arrived.len());
        for mut frame in arrived {
            let (bytes, len) = self.rings.bytes(&mut frame);
            frames.push(bytes.get(..len).unwrap_or_default().to_vec());
            self.rings.recycle(frame);
        }
        self.rings.flush();
        frames
    }
}

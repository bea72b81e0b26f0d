//! A forwarder over a worker's rings that looks at nothing: for measurements of what any worker could reach at most.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::config::DataplaneConfig;
use super::error::DataplaneError;
use super::worker::IDLE_ROUNDS;
use super::worker::rings::RingPort as _;
pub use super::xsk::Census;
use super::xsk::{Frame, Use, XskRings};

/// As many as a worker has by default.
const FRAMES: u32 = DataplaneConfig::FRAMES_PER_WORKER;
/// How long it sleeps at most: so often it looks whether it is to stop.
const SLEEP_MS: u16 = 10;

/// What comes by one of two interfaces leaves by the other.
pub struct Forwarder {
    rings: XskRings,
    /// Ports with the port that their frames leave by.
    ways: [(usize, usize); 2],
    sockets: [RawFd; 2],
    batch: Vec<Frame>,
}

impl Forwarder {
    /// Binds to queue 0 of both interfaces, which are of the calling thread's namespace.
    ///
    /// # Errors
    /// As a worker's sockets.
    pub fn new([one, other]: [&str; 2]) -> Result<Self, DataplaneError> {
        let mut rings = XskRings::new(FRAMES)?;
        let (one, of_one) = rings.bind(one, 0, Use::ReceiveAndSend)?;
        let (other, of_other) = rings.bind(other, 0, Use::ReceiveAndSend)?;
        rings.cards_are_bound();
        Ok(Self {
            rings,
            ways: [(one, other), (other, one)],
            sockets: [of_one, of_other],
            batch: Vec::new(),
        })
    }

    /// Sockets of both interfaces, for a program that redirects to them. They are open for as long as the forwarder is there.
    #[must_use]
    pub fn sockets(&self) -> [RawFd; 2] {
        self.sockets
    }

    /// Which of the two has zero copy.
    #[must_use]
    pub fn zero_copy(&self) -> [bool; 2] {
        self.ways.map(|(port, _)| self.rings.has_zero_copy(port))
    }

    /// Where its frames are.
    #[must_use]
    pub fn census(&self) -> Census {
        self.rings.census()
    }

    /// Forwards until asked to stop, and until all has left.
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut idle_rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            if self.round() > 0 {
                idle_rounds = 0;
                continue;
            }
            idle_rounds += 1;
            if idle_rounds > IDLE_ROUNDS {
                let sockets = self.rings.receiving();
                let mut descriptors: Vec<PollFd<'_>> = sockets
                    .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
                    .collect();
                // A signal ends the wait early, which is harmless.
                let _ = poll(&mut descriptors, PollTimeout::from(SLEEP_MS));
            }
        }
        self.rings.drain();
    }

    fn round(&mut self) -> usize {
        let mut forwarded = 0;
        for (from, to) in self.ways {
            self.rings.receive(from, &mut self.batch);
            forwarded += self.batch.len();
            for frame in self.batch.drain(..) {
                self.rings.transmit(to, frame);
            }
        }
        self.rings.flush();
        forwarded
    }
}

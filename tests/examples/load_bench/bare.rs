//! The limit: a forwarder on the measured core that receives by AF_XDP and sends by AF_XDP, by the gateway's own rings and in the same lab, without
//! cryptography and look-ups. No gateway of this kind can be quicker over virtual cables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use gateway::dataplane::bare::Forwarder;
use nix::unistd::gettid;
use xtask::bench::machine::Core;
use xtask::lab::Lab;
use xtask::lab::topology::{Node, Options, Site as Place};

use crate::busy::Measured;
use crate::ends::{Ends, Generator};
use crate::load::{Ready, Way};
use crate::packet::{self, Mix};
use crate::sink::{Sinks, Surplus};

/// Its name beside the others.
pub(crate) const NAME: &str = "bare AF_XDP";
const INTERFACES: [&str; 2] = ["wan4", "core"];
/// What a tunnel adds to a packet: IPv4, UDP, ESP with its IV, padding to four octets and AES-GCM's check value (RFC 4106).
const OVERHEAD: usize = 20 + 8 + 8 + 8 + 4 + 16;

/// A lab with the forwarder in it.
pub(crate) struct Bare {
    pub(crate) ends: Ends,
    pub(crate) measured: Measured,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    _sinks: Sinks,
    _lab: Lab,
}

impl Bare {
    pub(crate) fn start(generator: Generator) -> Result<Self> {
        let lab = Lab::up(Options::default())?;
        let mut ends = Ends::open(Place::One, generator)?;
        let mut forwarder = Node::Gateway.enter(|| Ok(Forwarder::new(INTERFACES)?))?;
        let [wan, core] = forwarder.sockets();
        ends.live
            .receive(Node::Gateway, [(INTERFACES[0], wan), (INTERFACES[1], core)])?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        let thread = Core::Measured.run(|| {
            let stop = Arc::clone(&stop);
            Ok(std::thread::spawn(move || {
                // Nobody asks any more, if this fails.
                let _ = tell.send(gettid().as_raw());
                forwarder.run(&stop);
            }))
        })?;
        Ok(Self {
            ends,
            measured: Measured::Thread(told.recv().context("the forwarder's thread")?),
            thread: Some(thread),
            stop,
            _sinks: Sinks::open(Place::One, Surplus::All)?,
            _lab: lab,
        })
    }

    /// Frames as long as those that a gateway would get.
    pub(crate) fn ready(&self, way: Way, mix: Mix, count: usize) -> Ready {
        let frames = |added: usize, count: usize| {
            let sizes = mix.sizes.iter().copied().cycle().take(count);
            let frame = |size| packet::framed(self.ends.center_link, &packet::to_center(size + added, 0));
            sizes.map(frame).collect()
        };
        let [to_center, to_site] = way.shares(count);
        Ready {
            to_center: frames(OVERHEAD, to_center),
            to_site: frames(0, to_site),
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no end but the one it was asked for.
            let _ended = thread.join();
        }
    }
}

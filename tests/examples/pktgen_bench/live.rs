//! A generator for a kernel that lacks pktgen: frames that a program of ours writes and redirects, run again and again by
//! `BPF_PROG_TEST_RUN` with live frames. They come to a veth's other end as those of a network card: as frames in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use anyhow::{Result, anyhow};
use aya::maps::Array;
use gateway_tests::fresh;
use gateway_tests::kernel::Kernel;
use xtask::bench::pktgen::control::Stream;

use crate::lane::{CPU_GENERATOR, pin_thread};
use crate::namespace::Namespace;

/// The program.
pub(crate) const GENERATE: &str = "compare_generate";
/// Number by which the program redirects (`GENERATED` of the program).
const LEAVES_BY: u32 = 100;
/// Frames of one system call, in batches of which each is flushed by itself.
const REPEAT: u32 = 1 << 16;
const BATCH: u32 = 64;

/// The loaded program.
pub(crate) struct Live(Mutex<Kernel>);

impl Live {
    /// `home` has the program attached, which spares the kernel work at each call.
    pub(crate) fn new(mut kernel: Kernel, generator: &Namespace, home: &str) -> Result<Self> {
        let index = generator.index(home)?;
        generator.inside(|| kernel.attach(GENERATE, index))?;
        Ok(Self(Mutex::new(kernel)))
    }

    fn kernel(&self) -> Result<MutexGuard<'_, Kernel>> {
        self.0
            .lock()
            .map_err(|_| anyhow!("the generator's thread panicked"))
    }

    /// Makes this what is generated, from `generator`.
    pub(crate) fn configure(&self, generator: &Namespace, stream: &Stream) -> Result<()> {
        let index = generator.index(&stream.interface)?;
        let mut kernel = self.kernel()?;
        generator.inside(|| kernel.add_egress(LEAVES_BY, index))?;
        let mut told: Array<_, [u8; fresh::TOLD_OCTETS]> = Array::try_from(kernel.map(fresh::TOLD)?)?;
        Ok(told.set(0, fresh::told(stream), 0)?)
    }

    /// Generates until `stop`, from the calling thread, which moves to the generator's CPU and namespace.
    pub(crate) fn run(&self, generator: &Namespace, stream: &Stream, stop: &AtomicBool) -> Result<()> {
        generator.enter()?;
        pin_thread(0, CPU_GENERATOR)?;
        let Some(rate) = stream.packets_per_s else {
            while !stop.load(Ordering::Relaxed) {
                self.send(stream, REPEAT)?;
            }
            return Ok(());
        };
        let (started, mut sent) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let due = started.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000;
            if due < sent + u128::from(BATCH) {
                std::hint::spin_loop();
                continue;
            }
            self.send(stream, BATCH)?;
            // What could not be sent in time is left out: a burst would find no room.
            sent = due
                .saturating_sub(u128::from(BATCH))
                .max(sent + u128::from(BATCH));
        }
        Ok(())
    }

    fn send(&self, stream: &Stream, frames: u32) -> Result<()> {
        let index = nix::net::if_::if_nametoindex(stream.interface.as_str())?;
        self.kernel()?
            .generate(GENERATE, stream.frame_octets.into(), index, frames, BATCH)
    }
}

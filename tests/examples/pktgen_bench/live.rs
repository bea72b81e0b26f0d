//! A generator for a kernel that lacks pktgen: frames that a program of ours writes and redirects, run again and again by
//! `BPF_PROG_TEST_RUN` with live frames. They come to a veth's other end as those of a network card: as frames in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use anyhow::{Result, anyhow};
use aya::maps::Array;
use gateway_tests::kernel::Kernel;
use xtask::bench::pktgen::control::Stream;

use crate::lane::{CPU_GENERATOR, pin_thread};
use crate::namespace::Namespace;

/// The program, and what it is told.
pub(crate) const GENERATE: &str = "compare_generate";
const STREAM: &str = "COMPARE_STREAM";
const STREAM_OCTETS: usize = 84;
/// Number by which the program redirects (`GENERATED` of the program).
const LEAVES_BY: u32 = 100;
/// Frames of one system call, in batches of which each is flushed by itself.
const REPEAT: u32 = 1 << 16;
const BATCH: u32 = 64;
/// Offsets of UDP's ports in a frame.
const SOURCE_PORT: u32 = 34;
const DESTINATION_PORT: u32 = 36;

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
        let mut told: Array<_, [u8; STREAM_OCTETS]> = Array::try_from(kernel.map(STREAM)?)?;
        Ok(told.set(0, words(stream), 0)?)
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

/// What the program is told: 42 octets of headers, at 44 the place of the port that varies, and at 48 for sites, destinations
/// and that port the lowest value, their number, and zero for the next.
fn words(stream: &Stream) -> [u8; STREAM_OCTETS] {
    let [source, destination] = stream.addresses.map(|address| address.octets());
    let length = stream.frame_octets - 14;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 32, 17, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let mut ip = [&ip[..], &source, &destination].concat();
    let mut sum: u32 = ip
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |word, octet| word << 8 | u32::from(*octet)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let (low, high) = (stream.source_ports.0, stream.destination_ports.0);
    let frame = [
        &stream.macs.concat()[..],
        &[8, 0],
        &ip,
        &low.to_be_bytes(),
        &high.to_be_bytes(),
        &(length - 20).to_be_bytes(),
        &[0, 0],
    ]
    .concat();
    let (place, (lowest, number)) = if stream.destination_ports.1 > 1 {
        (DESTINATION_PORT, stream.destination_ports)
    } else {
        (SOURCE_PORT, stream.source_ports)
    };
    let mut words = [0; STREAM_OCTETS];
    words[..frame.len()].copy_from_slice(&frame);
    let [_, _, s0, s1, s2, s3] = stream.macs[0];
    let told = [
        [place, u32::from_be_bytes([s0, s1, s2, s3]), stream.sites.into()],
        [0, u32::from_be_bytes(destination), stream.destinations.into()],
        [0, lowest.into(), number.into()],
    ];
    for (to, word) in words[44..].chunks_mut(4).zip(told.as_flattened()) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    words
}

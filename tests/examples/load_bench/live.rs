//! The generator: frames that were made ahead of time, which a program of ours writes and redirects (`gateway-ebpf/src/load.rs`), run by
//! `BPF_PROG_TEST_RUN` with live frames. It costs a part of what a packet socket does, on a core that receives for the gateway too.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, DevMapHash, MapData, XskMap};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, Pod};
use rustix::time::{ClockId, clock_gettime};
use xtask::lab::topology::Node;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/load"));
const GENERATE: &str = "load_generate";
const RECEIVE: &str = "load_receive";
// Of the program:
const TOLD: &str = "LOAD_TOLD";
const SENT: &str = "LOAD_SENT";
const SMALL_PLACES: &str = "LOAD_SMALL";
const LARGE_PLACES: &str = "LOAD_LARGE";
const LEAVES: &str = "LOAD_LEAVES";
const SOCKETS: &str = "LOAD_SOCKETS";
const SMALL: usize = 192;
const LARGE: usize = 1600;
const HEAD: usize = 8;
/// Frames that can lie ready in the program's small places, and in its large ones: a fifth of a second at more than a million a second, and a
/// tenth. More memory than the program asks for by itself.
const SMALL_FRAMES_MAX: u32 = 1 << 18;
const LARGE_FRAMES_MAX: u32 = 1 << 17;
/// Places of its words in what it is told, and their number.
const NEXT: usize = 0;
const BEGUN_NS: usize = 5;
const NOW_NS: usize = 6;
const WORDS: usize = 8;

/// How many frames of packets of so many octets can lie ready, whatever a tunnel adds to them.
pub(crate) fn frames_max(octets: usize) -> usize {
    const TUNNEL_MAX: usize = 14 + 40 + 8 + 8 + 16 + 18 + 16;
    let most = if octets + TUNNEL_MAX + HEAD > SMALL {
        LARGE_FRAMES_MAX
    } else {
        SMALL_FRAMES_MAX
    };
    most as usize
}

/// When frames left.
pub(crate) struct Sent {
    /// The first and the last, by the monotonic clock.
    pub(crate) begun_ns: u64,
    pub(crate) ended_ns: u64,
    /// Each, since 1970; empty if nobody asked.
    pub(crate) at: Vec<u64>,
}

/// The loaded programs.
pub(crate) struct Live {
    ebpf: Ebpf,
}

impl Live {
    /// Sends by these interfaces, which are known by their places from then on.
    pub(crate) fn load(leaves: &[(Node, &str)]) -> Result<Self> {
        let mut ebpf = aya::EbpfLoader::new()
            .map_max_entries(SMALL_PLACES, SMALL_FRAMES_MAX)
            .map_max_entries(LARGE_PLACES, LARGE_FRAMES_MAX)
            .map_max_entries(SENT, SMALL_FRAMES_MAX)
            .load(OBJECT)
            .context("the load's object")?;
        for name in [GENERATE, RECEIVE] {
            xdp(&mut ebpf, name)?.load().context(name)?;
        }
        // A program that is attached nowhere is made ready for running and put away again at each call, which takes
        // 25 ms. Nothing comes by this interface.
        Node::Site1Term.enter(|| {
            xdp(&mut ebpf, GENERATE)?.attach("lo", XdpMode::Skb)?;
            Ok(())
        })?;
        let mut map: DevMapHash<_> = DevMapHash::try_from(map(&mut ebpf, LEAVES)?)?;
        for (number, (node, interface)) in (0..).zip(leaves) {
            node.enter(|| {
                let index = nix::net::if_::if_nametoindex(*interface)?;
                Ok(map.insert(number, index, None, 0)?)
            })?;
        }
        Ok(Self { ebpf })
    }

    /// Has AF_XDP sockets receive from interfaces of a node.
    pub(crate) fn receive(&mut self, node: Node, sockets: [(&str, i32); 2]) -> Result<()> {
        for (interface, socket) in sockets {
            let index = node.enter(|| Ok(nix::net::if_::if_nametoindex(interface)?))?;
            XskMap::try_from(map(&mut self.ebpf, SOCKETS)?)?.set(index, socket, 0)?;
            let program = xdp(&mut self.ebpf, RECEIVE)?;
            node.enter(|| Ok(program.attach(interface, XdpMode::Driver)?))?;
        }
        Ok(())
    }

    /// Sends each of `frames`, which go in bursts of `burst`, by the interface beside it: at `kpps`, or as fast as it goes. The
    /// calling thread does it all, and what follows on its core.
    pub(crate) fn send(&mut self, frames: &[(u32, &[u8])], burst: usize, kpps: Option<f64>) -> Result<Sent> {
        let longest = frames.iter().map(|(_, frame)| frame.len()).max();
        let longest = longest.context("no frame is to be sent")?;
        let is_large = longest + HEAD > SMALL;
        let most = if is_large {
            LARGE_FRAMES_MAX
        } else {
            SMALL_FRAMES_MAX
        };
        ensure!(frames.len() <= most as usize, "more than {most} frames");
        if is_large {
            self.lay::<LARGE>(LARGE_PLACES, frames)?;
        } else {
            self.lay::<SMALL>(SMALL_PLACES, frames)?;
        }
        let interval_ns = kpps.map_or(0.0, |kpps| burst as f64 * 1e6 / kpps) as u64;
        let (count, burst) = (frames.len() as u64, burst as u64);
        let told = [0, count, burst, interval_ns, is_large.into(), 0, 0, 0];
        self.told()?.set(0, told, 0)?;
        self.run(longest, u32::try_from(count)?, u32::try_from(burst)?)?;
        let told = self.told()?.get(&0, 0)?;
        ensure!(told[NEXT] == count, "{} of {count} frames were sent", told[NEXT]);
        let at = if kpps.is_some() {
            self.sent_at(frames.len())?
        } else {
            Vec::new()
        };
        let (begun_ns, ended_ns) = (told[BEGUN_NS], told[NOW_NS]);
        Ok(Sent {
            begun_ns,
            ended_ns,
            at,
        })
    }

    fn lay<const ROOM: usize>(&mut self, places: &str, frames: &[(u32, &[u8])]) -> Result<()>
    where
        [u8; ROOM]: Pod,
    {
        let mut places: Array<_, [u8; ROOM]> = Array::try_from(map(&mut self.ebpf, places)?)?;
        let mut place = [0; ROOM];
        for (number, (leaves, frame)) in (0..).zip(frames) {
            let length = u32::try_from(frame.len())?.to_ne_bytes();
            let parts = [&length[..], &leaves.to_ne_bytes(), frame];
            let mut at = 0;
            for part in parts {
                let room = place.get_mut(at..at + part.len());
                room.context("a frame is too long")?.copy_from_slice(part);
                at += part.len();
            }
            places.set(number, place, 0)?;
        }
        Ok(())
    }

    fn told(&mut self) -> Result<Array<&mut MapData, [u64; WORDS]>> {
        Ok(Array::try_from(map(&mut self.ebpf, TOLD)?)?)
    }

    fn run(&mut self, octets: usize, repeat: u32, batch: u32) -> Result<()> {
        xdp(&mut self.ebpf, GENERATE)?.test_run(TestRunOptions {
            data_in: Some(&vec![0; octets]),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        })?;
        Ok(())
    }

    fn sent_at(&mut self, count: usize) -> Result<Vec<u64>> {
        let since_1970 = now_ns(ClockId::Realtime) - now_ns(ClockId::Monotonic);
        let sent: Array<_, u64> = Array::try_from(map(&mut self.ebpf, SENT)?)?;
        (0..u32::try_from(count)?)
            .map(|number| Ok(sent.get(&number, 0)? + since_1970))
            .collect()
    }
}

/// What a clock shows.
pub(crate) fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    Ok(program
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map> {
    ebpf.map_mut(name).with_context(|| format!("no map {name}"))
}

//! AF_XDP sockets of one worker over shared frame memory (UMEM). With `shared`, the only unsafe code of the daemon.
//!
//! The kernel gives all sockets of a memory the mode of the first: zero copy, where the card writes into the frames itself, or
//! copy mode. It refuses a socket without zero copy in a memory with it (`xp_assign_dev_shared`). So there is a second memory
//! for interfaces in copy mode where others have zero copy: virtual links never have it. A frame that is to leave by an interface of
//! the other memory is copied there.
//!
//! **Architecture invariant:** a [`Frame`] is the one owner of its memory while user space has it. It comes from the
//! pool or from a receive ring, is neither cloned nor made from numbers, and is consumed when it is given to the
//! kernel; it comes back as another `Frame` through a receive or completion ring.
#![allow(
    unsafe_code,
    reason = "rings shared with the kernel; every block says why it is sound"
)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::error::DataplaneError;
use super::shared::fetch;
use super::worker::rings::{BATCH, RingPort};

/// Octets of one frame, with 256 of headroom in front that XDP keeps.
pub(crate) const FRAME_SIZE: u32 = 4096;
/// Entries of each ring.
const RING_SIZE: u32 = 2048;
/// How long a queue that was just closed may stay busy.
const BUSY_MAX: Duration = Duration::from_secs(3);
const BUSY_STEP: Duration = Duration::from_millis(20);
/// Octets of a cache line.
const CACHE_LINE: usize = 64;
/// Lines of a frame that are fetched ahead: the headers and a small packet. What follows the processor sees coming.
const FETCHED_LINES: usize = 3;
/// The kernel's copy mode sends at most this many frames a wake-up. A driver with zero copy goes on by itself.
const TX_PER_WAKEUP: usize = 32;

/// How long frames that are being sent are waited for when no more come.
const DRAIN_MAX: Duration = Duration::from_millis(100);
const DRAIN_STEP: Duration = Duration::from_millis(1);

/// One frame of a worker's memory.
pub(crate) struct Frame {
    desc: FrameDesc,
    /// Whether it is of the second memory.
    second: bool,
}

/// Frame memory, and those of its frames that user space has and does not use.
struct Memory {
    umem: Umem,
    free: Vec<FrameDesc>,
    /// Frames that each receiving port is given.
    fill_target: usize,
}

/// Where the frames of a worker are, both memories together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All of them.
    pub all: usize,
    /// Unused ones.
    pub free: usize,
    /// In fill rings, cards and receive rings.
    pub filled: usize,
    /// On their way out.
    pub in_flight: usize,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Receives and sends.
    ReceiveAndSend,
    /// Sends only: its fill ring stays empty.
    SendOnly,
}

struct Port {
    send: TxQueue,
    receive: RxQueue,
    fill: FillQueue,
    completed: CompQueue,
    usage: Use,
    /// Whether its frames are of the second memory.
    second: bool,
    /// Whether the card reads and writes frames itself.
    zero_copy: bool,
    queued: Vec<FrameDesc>,
    /// Frames that lie in the fill ring or a receive ring.
    filled: usize,
    /// Frames that the kernel has and has not completed.
    in_flight: usize,
    /// Received frames that the kernel had no room for, as far as they were told.
    missed: u64,
}

/// The sockets of one worker.
pub(crate) struct XskRings {
    /// With zero copy, if any interface has it.
    first: Memory,
    /// In copy mode, beside one with zero copy.
    second: Option<Memory>,
    /// Frames of a memory.
    frames: u32,
    /// By number; `None` where this worker has no queue.
    ports: Vec<Option<Port>>,
    scratch: Vec<FrameDesc>,
    /// Queued frames that found no free frame in the memory that they were to be copied to, since the last flush.
    lost: usize,
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

impl Memory {
    fn new(frames: u32) -> Result<Self, DataplaneError> {
        let fault = |error: &dyn std::fmt::Display| DataplaneError::FrameMemory {
            frames,
            reason: error.to_string(),
        };
        let ring = QueueSize::new(RING_SIZE).map_err(|error| fault(&error))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_SIZE).map_err(|error| fault(&error))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|error| fault(&error))?;
        let count = NonZeroU32::new(frames).unwrap_or(NonZeroU32::MIN);
        let (umem, free) = Umem::new(config, count, false).map_err(|error| fault(&error))?;
        Ok(Self {
            umem,
            free,
            fill_target: 0,
        })
    }

    /// Binds a socket of this memory to a queue. Waits while a predecessor's socket goes away.
    fn socket(&self, interface: &str, queue: u32, mode: BindFlags) -> Result<Rings, DataplaneError> {
        let fault = |reason: String| DataplaneError::Bind {
            interface: interface.to_owned(),
            queue,
            reason,
        };
        let name: Interface = interface
            .parse()
            .map_err(|_| fault("name holds a zero octet".into()))?;
        let ring = QueueSize::new(RING_SIZE).map_err(|error| fault(error.to_string()))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            // The kernel looks at these for the first socket of a memory alone.
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | mode)
            .build();
        let begin = Instant::now();
        loop {
            // SAFETY: no program is loaded by libxdp (the flag above), which is what the contract asks for.
            let created = unsafe { Socket::new(config, &self.umem, &name, queue) };
            match created {
                Ok((send, receive, Some((fill, completed)))) => return Ok((send, receive, fill, completed)),
                Ok((_, _, None)) => return Err(fault("this worker has bound the queue already".into())),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let busy = std::error::Error::source(&error)
                        .and_then(|cause| cause.downcast_ref::<io::Error>())
                        .is_some_and(|cause| cause.raw_os_error() == Some(nix::libc::EBUSY));
                    if !busy || begin.elapsed() > BUSY_MAX {
                        return Err(fault(cause.unwrap_or_else(|| error.to_string())));
                    }
                    sleep(BUSY_STEP);
                }
            }
        }
    }
}

impl XskRings {
    /// Frame memory of `frames` frames (rounded up to a power of two) and no socket yet; as much again if only some of the
    /// interfaces have zero copy.
    ///
    /// # Errors
    /// What the kernel says: too little locked memory, as a rule.
    pub(crate) fn new(frames: u32) -> Result<Self, DataplaneError> {
        let frames = frames.max(1024).next_power_of_two();
        Ok(Self {
            first: Memory::new(frames)?,
            second: None,
            frames,
            ports: Vec::new(),
            scratch: vec![FrameDesc::default(); BATCH],
            lost: 0,
        })
    }

    /// Binds a socket to a queue, with zero copy if that can be; answers its port and descriptor. Waits while a predecessor's
    /// socket goes away.
    ///
    /// # Errors
    /// [`DataplaneError::Bind`] names interface and queue.
    pub(crate) fn bind(
        &mut self,
        interface: &str,
        queue: u32,
        usage: Use,
    ) -> Result<(usize, RawFd), DataplaneError> {
        let (second, (send, receive, fill, completed)) =
            match self.first.socket(interface, queue, BindFlags::XDP_ZEROCOPY) {
                Ok(rings) => (false, rings),
                Err(error) => {
                    tracing::debug!(interface, queue, %error, "no zero copy");
                    let second = match self.second.take() {
                        Some(memory) => memory,
                        None => Memory::new(self.frames)?,
                    };
                    let second = self.second.insert(second);
                    (true, second.socket(interface, queue, BindFlags::XDP_COPY)?)
                }
            };
        let descriptor = send.fd().as_raw_fd();
        self.ports.push(Some(Port {
            zero_copy: has_zero_copy(descriptor),
            send,
            receive,
            fill,
            completed,
            usage,
            second,
            queued: Vec::with_capacity(BATCH),
            filled: 0,
            in_flight: 0,
            missed: 0,
        }));
        self.share();
        Ok((self.ports.len() - 1, descriptor))
    }

    /// No interface that may have zero copy is bound any more: if none has it, one memory is enough.
    pub(crate) fn cards_are_bound(&mut self) {
        if self.ports.iter().flatten().any(|port| !port.second) {
            return;
        }
        if let Some(memory) = self.second.take() {
            self.first = memory;
            for port in self.ports.iter_mut().flatten() {
                port.second = false;
            }
        }
    }

    /// Half of a memory waits for frames, the other half is for those under way.
    fn share(&mut self) {
        for (second, memory) in [(false, Some(&mut self.first)), (true, self.second.as_mut())] {
            let bound = self.ports.iter().flatten().filter(|port| port.second == second);
            let receiving = bound.filter(|port| port.usage == Use::ReceiveAndSend).count();
            if let Some(memory) = memory {
                let share = memory.free.len() / (2 * receiving.max(1));
                memory.fill_target = share.min(RING_SIZE as usize / 2);
            }
        }
    }

    /// Leaves a port number without socket: the interface has fewer queues than there are workers.
    pub(crate) fn skip(&mut self) {
        self.ports.push(None);
    }

    /// Whether the card behind a port reads and writes frames itself.
    pub(crate) fn has_zero_copy(&self, port: usize) -> bool {
        let port = self.ports.get(port).and_then(Option::as_ref);
        port.is_some_and(|port| port.zero_copy)
    }

    /// Waits until what is under way has left, for a while: a socket that is closed takes with it what its card has not sent.
    pub(crate) fn drain(&mut self) {
        let begin = Instant::now();
        loop {
            self.flush();
            let in_flight = self.ports.iter().flatten().any(|port| port.in_flight > 0);
            if !in_flight || begin.elapsed() > DRAIN_MAX {
                return;
            }
            sleep(DRAIN_STEP);
        }
    }

    /// Where all frames are, apart from those that are held as [`Frame`].
    pub(crate) fn census(&self) -> Census {
        let memories = [Some(&self.first), self.second.as_ref()];
        let ports = || self.ports.iter().flatten();
        Census {
            all: memories.iter().flatten().count() * self.frames as usize,
            free: memories.iter().flatten().map(|memory| memory.free.len()).sum(),
            filled: ports().map(|port| port.filled).sum(),
            in_flight: ports().map(|port| port.in_flight).sum(),
        }
    }

    fn memory(&mut self, second: bool) -> &mut Memory {
        match &mut self.second {
            Some(memory) if second => memory,
            Some(_) | None => &mut self.first,
        }
    }

    fn umem(&self, second: bool) -> &Umem {
        match &self.second {
            Some(memory) if second => &memory.umem,
            Some(_) | None => &self.first.umem,
        }
    }

    /// The same octets in a frame of the other memory; none if it has none.
    fn copied(&mut self, mut from: Frame) -> Option<Frame> {
        let second = !from.second;
        let desc = self.memory(second).free.pop();
        let copy = desc.map(|desc| {
            let mut to = Frame { desc, second };
            let len = from.desc.lengths().data();
            let source = memory(self.umem(from.second), &mut from);
            let place = memory(self.umem(second), &mut to);
            let len = len.min(source.len()).min(place.len());
            if let (Some(place), Some(source)) = (place.get_mut(..len), source.get(..len)) {
                place.copy_from_slice(source);
            }
            self.set_len(&mut to, len);
            to
        });
        self.recycle(from);
        copy
    }

    /// The receiving sockets, to wait for.
    pub(crate) fn receiving(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ports = self.ports.iter().flatten();
        let receiving = ports.filter(|port| port.usage == Use::ReceiveAndSend);
        // SAFETY: the socket is open for as long as `self`, which the result borrows.
        receiving.map(|port| unsafe { BorrowedFd::borrow_raw(port.receive.fd().as_raw_fd()) })
    }

    /// Whether a worker with nothing to do should look again soon: frames lie in a ring and are not sent yet, or those that the kernel
    /// has not given back are needed to receive more.
    pub(crate) fn pending(&mut self) -> bool {
        let targets =
            [&self.first, self.second.as_ref().unwrap_or(&self.first)].map(|memory| memory.fill_target);
        let under_way = |port: &mut Port| {
            // Its driver may have asked just after it was last told.
            port.wake_receiver();
            let target = targets[usize::from(port.second)];
            let needed = port.usage == Use::ReceiveAndSend && port.filled < target / 2;
            needed || port.in_flight > 0 && port.unsent()
        };
        let mut pending = false;
        for port in self.ports.iter_mut().flatten() {
            pending |= under_way(port);
        }
        pending
    }
}

/// What the kernel says of a bound socket's mode.
fn has_zero_copy(socket: RawFd) -> bool {
    let mut options = nix::libc::xdp_options { flags: 0 };
    let mut len = size_of_val(&options) as nix::libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets to `options`, which is as long.
    let answer = unsafe {
        nix::libc::getsockopt(
            socket,
            nix::libc::SOL_XDP,
            nix::libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    answer == 0 && options.flags & nix::libc::XDP_OPTIONS_ZEROCOPY != 0
}

/// The memory behind a frame's first octet.
fn memory<'a>(umem: &'a Umem, frame: &'a mut Frame) -> &'a mut [u8] {
    let len = frame.desc.lengths().data();
    // SAFETY: a `Frame` is the one owner of its memory (see the module), which is of this `umem`.
    let mut data = unsafe { umem.data_mut(&mut frame.desc) };
    // The view shows as much as the frame's length says: all of the memory, while the pointer is taken.
    data.cursor().set_pos(usize::MAX);
    let (start, capacity) = (data.contents_mut().as_mut_ptr(), data.len());
    data.cursor().set_pos(len);
    // SAFETY: start and capacity are those of a live slice of the frame memory; nobody else refers to it for as long as the
    // frame is borrowed, which is `'a`, and the memory is there for as long.
    unsafe { core::slice::from_raw_parts_mut(start, capacity) }
}

impl RingPort for XskRings {
    type Frame = Frame;

    fn receive(&mut self, port: usize, into: &mut Vec<Frame>) {
        let Some(Some(port)) = self.ports.get_mut(port) else {
            return;
        };
        // SAFETY: the frames of this ring are of the port's memory, and from here on user space alone has them.
        let received = unsafe { port.receive.consume(&mut self.scratch) };
        port.filled = port.filled.saturating_sub(received);
        let second = port.second;
        let frame = |desc: &FrameDesc| Frame { desc: *desc, second };
        into.extend(self.scratch.iter().take(received).map(frame));
    }

    fn fetch(&self, frame: &Frame) {
        // SAFETY: the frame is of this memory, and nobody writes there while it is borrowed.
        let data = unsafe { self.umem(frame.second).data(&frame.desc) };
        let lines = data.contents().chunks(CACHE_LINE).take(FETCHED_LINES);
        lines.filter_map(<[u8]>::first).for_each(fetch);
    }

    fn bytes<'a>(&'a mut self, frame: &'a mut Frame) -> (&'a mut [u8], usize) {
        let len = frame.desc.lengths().data();
        (memory(self.umem(frame.second), frame), len)
    }

    fn each_bytes<'a>(&'a mut self, frames: &'a mut [Frame]) -> impl Iterator<Item = &'a mut [u8]> {
        let rings = &*self;
        frames
            .iter_mut()
            .map(move |frame| memory(rings.umem(frame.second), frame))
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        // SAFETY: as in `bytes`.
        let mut data = unsafe { self.umem(frame.second).data_mut(&mut frame.desc) };
        data.cursor().set_pos(len);
    }

    fn transmit(&mut self, port: usize, frame: Frame) {
        let frame = match self.ports.get(port) {
            Some(Some(port)) if port.second == frame.second => Some(frame),
            Some(Some(_)) => self.copied(frame),
            Some(None) | None => return self.recycle(frame),
        };
        match (self.ports.get_mut(port), frame) {
            (Some(Some(port)), Some(frame)) => port.queued.push(frame.desc),
            _ => self.lost += 1,
        }
    }

    fn flush(&mut self) -> usize {
        let mut lost = core::mem::take(&mut self.lost);
        for port in self.ports.iter_mut().flatten() {
            let memory = match &mut self.second {
                Some(memory) if port.second => memory,
                Some(_) | None => &mut self.first,
            };
            port.complete(&mut memory.free, &mut self.scratch);
            lost += port.send_queued(&mut memory.free);
            port.complete(&mut memory.free, &mut self.scratch);
            port.refill(&mut memory.free, memory.fill_target);
        }
        lost
    }

    fn missed(&mut self) -> u64 {
        self.ports.iter_mut().flatten().map(Port::missed).sum()
    }

    fn allocate(&mut self) -> Option<Frame> {
        // Of the cards' memory first: most of what is made here leaves by one.
        let of = |second| move |desc| Frame { desc, second };
        let first = self.first.free.pop().map(of(false));
        first.or_else(|| self.second.as_mut()?.free.pop().map(of(true)))
    }

    fn recycle(&mut self, frame: Frame) {
        self.memory(frame.second).free.push(frame.desc);
    }
}

impl Port {
    /// Frames that found the receive ring full, or no free frame to lie in, since the last call.
    fn missed(&mut self) -> u64 {
        // Without an answer now, the next one has all of them.
        let Ok(statistics) = self.receive.fd().xdp_statistics() else {
            return 0;
        };
        let all = statistics.rx_dropped().saturating_add(statistics.rx_ring_full());
        let since = all.saturating_sub(self.missed);
        self.missed = all;
        since
    }

    fn complete(&mut self, free: &mut Vec<FrameDesc>, scratch: &mut [FrameDesc]) {
        while self.in_flight > 0 {
            // SAFETY: the frames of this ring are of the shared memory, and the kernel gave them back.
            let completed = unsafe { self.completed.consume(scratch) };
            if completed == 0 {
                break;
            }
            free.extend(scratch.iter().take(completed));
            self.in_flight = self.in_flight.saturating_sub(completed);
        }
    }

    /// Hands the queued frames to the kernel; those without room in the ring are dropped and counted.
    fn send_queued(&mut self, free: &mut Vec<FrameDesc>) -> usize {
        let mut lost = 0;
        if !self.queued.is_empty() {
            // `produce` takes all or nothing, so ask for what fits.
            let room = self.send.nb_free(RING_SIZE) as usize;
            let count = self.queued.len().min(room);
            let (now, over) = self.queued.split_at(count);
            // SAFETY: these frames are owned (they came as `Frame`s) and are not touched until completed.
            let sent = unsafe { self.send.produce(now) };
            self.in_flight += sent;
            lost = over.len() + (now.len() - sent);
            free.extend(self.queued.iter().skip(sent));
            self.queued.clear();
        }
        self.push();
        lost
    }

    /// Makes the kernel send what is in the ring.
    fn push(&mut self) {
        let most = if self.zero_copy {
            1
        } else {
            self.in_flight.div_ceil(TX_PER_WAKEUP)
        };
        for _ in 0..most {
            if !self.unsent() {
                break;
            }
            // An error (the interface is down) leaves the frames in the ring for a later round.
            if !self.send.needs_wakeup() || self.send.wakeup().is_err() {
                break;
            }
        }
    }

    /// Whether frames lie in the ring. What the kernel has taken, and not completed yet, it sends by itself.
    fn unsent(&mut self) -> bool {
        self.send.nb_free(RING_SIZE) != RING_SIZE
    }

    fn refill(&mut self, free: &mut Vec<FrameDesc>, target: usize) {
        if self.usage == Use::SendOnly {
            return;
        }
        let wanted = target.saturating_sub(self.filled).min(free.len());
        if wanted == 0 {
            return;
        }
        let Some(give) = free.get(free.len() - wanted..) else {
            return;
        };
        // SAFETY: frames of the free list are owned by user space, and leave the list when the ring takes them.
        let given = unsafe { self.fill.produce(give) };
        // `produce` takes all or nothing.
        free.truncate(free.len() - given);
        self.filled += given;
        self.wake_receiver();
    }

    /// Tells a driver that waits for frames to receive into that there are some. With zero copy it takes them by itself only while
    /// it receives: one that has run out of them, or had none when the socket was bound, would never receive again.
    fn wake_receiver(&mut self) {
        if self.usage == Use::ReceiveAndSend && self.filled > 0 && self.fill.needs_wakeup() {
            // An error (the interface is down) leaves the flag for a later round.
            let _ = self.fill.wakeup(self.receive.fd_mut(), 0);
        }
    }
}

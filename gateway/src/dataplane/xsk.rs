//! AF_XDP sockets of one worker over one shared frame memory (UMEM). With `shared`, the only unsafe code of the daemon.
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
/// The kernel's copy mode sends at most this many frames a wake-up.
const TX_PER_WAKEUP: usize = 32;

/// One frame of a worker's memory.
pub(crate) struct Frame(FrameDesc);

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
    umem: Umem,
    /// By number; `None` where this worker has no queue.
    ports: Vec<Option<Port>>,
    free: Vec<FrameDesc>,
    scratch: Vec<FrameDesc>,
    /// Frames that each receiving port is given.
    fill_target: usize,
}

impl XskRings {
    /// Frame memory of `frames` frames (rounded up to a power of two) and no socket yet.
    ///
    /// # Errors
    /// What the kernel says: too little locked memory, as a rule.
    pub(crate) fn new(frames: u32) -> Result<Self, DataplaneError> {
        let frames = frames.max(1024).next_power_of_two();
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
            ports: Vec::new(),
            free,
            scratch: vec![FrameDesc::default(); BATCH],
            fill_target: 0,
        })
    }

    /// Binds a socket to a queue; answers its port and descriptor. Waits while a predecessor's socket goes away.
    ///
    /// # Errors
    /// [`DataplaneError::Bind`] names interface and queue.
    pub(crate) fn bind(
        &mut self,
        interface: &str,
        queue: u32,
        usage: Use,
    ) -> Result<(usize, RawFd), DataplaneError> {
        let (send, receive, fill, completed) = self.socket(interface, queue)?;
        let descriptor = send.fd().as_raw_fd();
        self.ports.push(Some(Port {
            send,
            receive,
            fill,
            completed,
            usage,
            queued: Vec::with_capacity(BATCH),
            filled: 0,
            in_flight: 0,
            missed: 0,
        }));
        let bound = self.ports.iter().flatten();
        let receiving = bound.filter(|port| port.usage == Use::ReceiveAndSend);
        // Half of the memory waits for frames, the other half is for those under way.
        let share = self.free.len() / (2 * receiving.count().max(1));
        self.fill_target = share.min(RING_SIZE as usize / 2);
        Ok((self.ports.len() - 1, descriptor))
    }

    /// Leaves a port number without socket: the interface has fewer queues than there are workers.
    pub(crate) fn skip(&mut self) {
        self.ports.push(None);
    }

    fn socket(
        &self,
        interface: &str,
        queue: u32,
    ) -> Result<(TxQueue, RxQueue, FillQueue, CompQueue), DataplaneError> {
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
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
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
        let target = self.fill_target;
        let under_way = |port: &mut Port| {
            let needed = port.usage == Use::ReceiveAndSend && port.filled < target / 2;
            needed || port.in_flight > 0 && port.unsent()
        };
        self.ports.iter_mut().flatten().any(under_way)
    }
}

/// The memory behind a frame's first octet.
fn memory<'a>(umem: &'a Umem, frame: &'a mut Frame) -> &'a mut [u8] {
    let len = frame.0.lengths().data();
    // SAFETY: a `Frame` is the one owner of its memory (see the module), which is of this `umem`.
    let mut data = unsafe { umem.data_mut(&mut frame.0) };
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
        // SAFETY: the frames of this ring are of `self.umem`, and from here on user space alone has them.
        let received = unsafe { port.receive.consume(&mut self.scratch) };
        port.filled = port.filled.saturating_sub(received);
        into.extend(self.scratch.iter().take(received).map(|desc| Frame(*desc)));
    }

    fn fetch(&self, frame: &Frame) {
        // SAFETY: the frame is of this memory, and nobody writes there while it is borrowed.
        let data = unsafe { self.umem.data(&frame.0) };
        let lines = data.contents().chunks(CACHE_LINE).take(FETCHED_LINES);
        lines.filter_map(<[u8]>::first).for_each(fetch);
    }

    fn bytes<'a>(&'a mut self, frame: &'a mut Frame) -> (&'a mut [u8], usize) {
        let len = frame.0.lengths().data();
        (memory(&self.umem, frame), len)
    }

    fn each_bytes<'a>(&'a mut self, frames: &'a mut [Frame]) -> impl Iterator<Item = &'a mut [u8]> {
        let umem = &self.umem;
        frames.iter_mut().map(move |frame| memory(umem, frame))
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        // SAFETY: as in `bytes`.
        let mut data = unsafe { self.umem.data_mut(&mut frame.0) };
        data.cursor().set_pos(len);
    }

    fn transmit(&mut self, port: usize, frame: Frame) {
        match self.ports.get_mut(port) {
            Some(Some(port)) => port.queued.push(frame.0),
            Some(None) | None => self.free.push(frame.0),
        }
    }

    fn flush(&mut self) -> usize {
        let mut lost = 0;
        for port in self.ports.iter_mut().flatten() {
            port.complete(&mut self.free, &mut self.scratch);
            lost += port.send_queued(&mut self.free);
            port.complete(&mut self.free, &mut self.scratch);
            port.refill(&mut self.free, self.fill_target);
        }
        lost
    }

    fn missed(&mut self) -> u64 {
        self.ports.iter_mut().flatten().map(Port::missed).sum()
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop().map(Frame)
    }

    fn recycle(&mut self, frame: Frame) {
        self.free.push(frame.0);
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
        for _ in 0..self.in_flight.div_ceil(TX_PER_WAKEUP) {
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
    }
}

//! What a worker sees of its sockets: frames in, frames out. AF_XDP stands behind it in the daemon, vectors in tests.

/// Frames taken from one port at a time.
pub(crate) const BATCH: usize = 64;

/// The rings of one worker. A frame begins at its first octet of link header; frames move, they are not copied.
pub(crate) trait RingPort {
    /// One frame's memory, owned by the holder.
    type Frame;

    /// Appends up to [`BATCH`] frames received on `port`.
    fn receive(&mut self, port: usize, into: &mut Vec<Self::Frame>);

    /// Has a frame's first octets on their way to this core, of which they are needed soon.
    fn fetch(&self, _: &Self::Frame) {}

    /// The whole memory behind a frame's first octet, and how much of it the frame fills.
    fn bytes<'a>(&'a mut self, frame: &'a mut Self::Frame) -> (&'a mut [u8], usize);

    /// The whole memory behind the first octet of each of these.
    fn each_bytes<'a>(&'a mut self, frames: &'a mut [Self::Frame]) -> impl Iterator<Item = &'a mut [u8]>;

    /// Says how long the frame has become.
    fn set_len(&mut self, frame: &mut Self::Frame, len: usize);

    /// Queues a frame for `port`; it leaves at the next [`RingPort::flush`].
    fn transmit(&mut self, port: usize, frame: Self::Frame);

    /// Sends what is queued, takes back what was sent, and gives the receiving side frames to fill.
    /// Answers how many frames found no room and were dropped.
    fn flush(&mut self) -> usize;

    /// Frames that were lost before they came, as no room was left for them, since this was last asked.
    fn missed(&mut self) -> u64;

    /// An empty frame, if there is one.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back.
    fn recycle(&mut self, frame: Self::Frame);
}

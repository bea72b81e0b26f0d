//! How a worker waits: until one of its sockets has a frame, or another thread wakes it.
//!
//! The kernel keeps the list of what is waited for (`epoll`), so that to sleep is one system call that looks at nothing but what
//! is ready. Where packets come in small batches, that call is much of what they cost.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::worker::handover::Inbox;

/// Milliseconds that a worker sleeps at most: stale sockets and clocks are looked at that often.
const SLEEP_MS: u16 = 100;
/// Milliseconds that it sleeps while it has to look at its rings again soon.
const SLEEP_PENDING_MS: u16 = 1;
/// Pause of a worker one of whose sockets has failed.
const BROKEN_PAUSE: Duration = Duration::from_millis(10);
/// What the events of the inbox have for a number, and those of sockets.
const INBOX: u64 = 0;
const SOCKET: u64 = 1;
/// Events that are taken at a time. Others are there at the next sleep, which ends at once then.
const EVENTS: usize = 16;

/// What a worker waits for. The sockets are open for as long as it waits.
pub(super) struct Sleeper(Epoll);

impl Sleeper {
    /// For these sockets and this inbox.
    ///
    /// # Errors
    /// The kernel has no memory or no descriptor left.
    pub(super) fn new<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>, inbox: &Inbox) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = |number| EpollEvent::new(EpollFlags::EPOLLIN, number);
        epoll.add(inbox.wake_fd().as_fd(), event(INBOX))?;
        for socket in sockets {
            epoll.add(socket, event(SOCKET))?;
        }
        Ok(Self(epoll))
    }

    /// Waits for a frame, a command or a handed frame, not for long if something is `pending`; answers whether somebody woke
    /// the worker by its inbox.
    pub(super) fn sleep(&self, pending: bool) -> bool {
        let timeout = if pending { SLEEP_PENDING_MS } else { SLEEP_MS };
        let mut events = [EpollEvent::empty(); EVENTS];
        // A signal ends the wait early, which is harmless.
        let ready = self.0.wait(&mut events, EpollTimeout::from(timeout)).unwrap_or(0);
        let ready = events.get(..ready).unwrap_or_default();
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        if ready.iter().any(|event| event.events().intersects(broken)) {
            // The interface is gone or down, and the kernel says so at once each time.
            thread::sleep(BROKEN_PAUSE);
        }
        ready.iter().any(|event| event.data() == INBOX)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A worker's, with one socket, and that socket's other end.
    fn sleeper() -> (Sleeper, Inbox, UnixDatagram, UnixDatagram) {
        let inbox = Inbox::new().unwrap();
        let (socket, other) = UnixDatagram::pair().unwrap();
        let sleeper = Sleeper::new([socket.as_fd()].into_iter(), &inbox).unwrap();
        (sleeper, inbox, socket, other)
    }

    /// What is ready now, without waiting for long.
    fn ready(sleeper: &Sleeper) -> usize {
        let mut events = [EpollEvent::empty(); EVENTS];
        sleeper.0.wait(&mut events, EpollTimeout::ZERO).unwrap()
    }

    #[test]
    fn a_frame_ends_the_sleep_until_it_is_taken_and_is_not_the_inbox() {
        let (sleeper, inbox, socket, other) = sleeper();
        other.send(&[1]).unwrap();
        assert!(inbox.try_sleep());
        assert!(!sleeper.sleep(false));
        inbox.awake(false);
        assert_eq!(ready(&sleeper), 1, "it still has to be taken");
        socket.recv(&mut [0]).unwrap();
        assert_eq!(ready(&sleeper), 0);
    }

    #[test]
    fn who_is_woken_takes_the_wake_up() {
        let (sleeper, inbox, ..) = sleeper();
        assert!(inbox.try_sleep());
        inbox.wake();
        assert!(sleeper.sleep(false));
        inbox.awake(true);
        assert_eq!(ready(&sleeper), 0);
    }

    #[test]
    fn a_wake_up_that_comes_after_the_sleep_has_ended_ends_the_next_one() {
        let (sleeper, inbox, socket, other) = sleeper();
        other.send(&[1]).unwrap();
        assert!(inbox.try_sleep());
        let woken = sleeper.sleep(false);
        // Between the end of the sleep and what the worker says of it.
        inbox.wake();
        inbox.awake(woken);
        socket.recv(&mut [0]).unwrap();
        assert!(inbox.try_sleep());
        assert!(sleeper.sleep(false), "the wake-up is not lost");
        inbox.awake(true);
        assert_eq!(ready(&sleeper), 0);
    }
}

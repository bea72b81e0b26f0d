//! What a service manager hears of the daemon, if one has started it (sd_notify(3)): that it serves, that its control task
//! and its workers still come round, that it stops.
//!
//! Without the second a control task that hangs would go unnoticed: SAs would carry traffic on that nobody rekeys, revokes
//! or expires; and a worker that hangs, by whose queues nothing passes. A service manager with a watchdog ends such a process, nothing passes, and another one begins.
//!
//! A service manager that does not listen is not waited for: a thread of its own tells it.
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// What waits to be told; a sign of life more says nothing new.
const WAITING_MAX: usize = 4;
/// How long the end of the gateway waits until that is told.
const STOPPING: Duration = Duration::from_secs(1);

/// What there is to tell.
enum Word {
    Ready,
    Alive,
    Stopping(String),
}

/// Tells the service manager; does nothing where there is none.
#[derive(Debug)]
pub(super) struct ServiceManager {
    wants_signs_of_life: bool,
    teller: Option<Teller>,
}

#[derive(Debug)]
struct Teller {
    words: SyncSender<Word>,
    /// Closed when all is told.
    ended: Receiver<()>,
}

impl ServiceManager {
    /// The one that has started this process, by its environment.
    ///
    /// # Errors
    /// The kernel refuses a thread.
    pub(super) fn of_environment() -> io::Result<Self> {
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
        Ok(Self {
            wants_signs_of_life: sd_notify::watchdog_enabled().is_some(),
            teller: is_there.then(Teller::start).transpose()?,
        })
    }

    /// IKE, API and data plane serve.
    pub(super) fn ready(&self) {
        self.tell(Word::Ready);
    }

    /// The control task has come round, and the workers have; to be told each second.
    pub(super) fn alive(&self) {
        if self.wants_signs_of_life {
            self.tell(Word::Alive);
        }
    }

    /// The daemon ends in order.
    pub(super) fn stopping(&mut self, reason: &str) {
        self.tell(Word::Stopping(reason.to_owned()));
        if let Some(Teller { words, ended }) = self.teller.take() {
            drop(words);
            // It ends by itself, without a word.
            let _ = ended.recv_timeout(STOPPING);
        }
    }

    fn tell(&self, word: Word) {
        if let Some(teller) = &self.teller {
            // Where there is no room, nobody listens.
            let _ = teller.words.try_send(word);
        }
    }
}

impl Teller {
    fn start() -> io::Result<Self> {
        let (words, to_tell) = sync_channel(WAITING_MAX);
        let (ending, ended) = channel::<()>();
        thread::Builder::new().name("notify".to_owned()).spawn(move || {
            to_tell.into_iter().for_each(|word| tell(&word));
            drop(ending);
        })?;
        Ok(Self { words, ended })
    }
}

fn tell(word: &Word) {
    let states = match word {
        Word::Ready => vec![NotifyState::Ready],
        Word::Alive => vec![NotifyState::Watchdog],
        Word::Stopping(reason) => vec![NotifyState::Stopping, NotifyState::Status(reason)],
    };
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager was not told {states:?}");
    }
}

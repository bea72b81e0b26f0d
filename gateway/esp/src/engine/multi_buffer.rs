//! AES-GCM and AES-CBC with HMAC-SHA2 in bursts, by Intel's multi-buffer library.
//!
//! Where the library does not do a suite or does not like the CPU, nothing changes. What comes alone goes the usual way, with
//! the same keys.

use super::burst::Task;
use super::{Burst, Engine, Job, Refused};
use crate::{Span, Suite};
use gateway_ipsec_mb::{Key, Manager};

/// An engine and the same key for bursts.
struct Beside {
    alone: Box<dyn Engine>,
    burst: Key,
}

/// `engine`, and the library beside it if it does this suite here.
pub(super) fn beside(
    engine: Box<dyn Engine>,
    suite: Suite,
    encryption: &[u8],
    integrity: &[u8],
) -> Box<dyn Engine> {
    let key = match suite {
        Suite::AesGcm16_128 | Suite::AesGcm16_256 => encryption
            .split_last_chunk()
            .and_then(|(key, salt)| Key::gcm(key, salt)),
        Suite::AesCbc128HmacSha256_128
        | Suite::AesCbc128HmacSha384_192
        | Suite::AesCbc128HmacSha512_256
        | Suite::AesCbc256HmacSha256_128
        | Suite::AesCbc256HmacSha384_192
        | Suite::AesCbc256HmacSha512_256 => Key::cbc_hmac(encryption, integrity),
        // The library does them one by one, no faster than ring.
        Suite::ChaCha20Poly1305 => None,
    };
    match key {
        Some(burst) => Box::new(Beside { alone: engine, burst }),
        None => engine,
    }
}

impl Engine for Beside {
    fn span(&self) -> Span {
        let (start, len) = self.burst.place();
        Span::at(start, len)
    }

    fn seal(&self, job: Job<'_>) -> Result<(), Refused> {
        self.alone.seal(job)
    }

    fn open(&self, job: Job<'_>) -> Result<(), Refused> {
        self.alone.open(job)
    }

    fn burst_key(&self) -> Option<&Key> {
        Some(&self.burst)
    }
}

/// The library's state, made at the first burst.
#[derive(Default)]
pub(super) struct Library {
    manager: Option<Manager>,
}

impl Library {
    /// Does the tasks that it can do. Without memory for its state they are refused: no packet goes on unprotected.
    pub(super) fn run(&mut self, tasks: &mut [Option<Task<'_>>]) {
        if self.manager.is_none() {
            self.manager = Manager::new();
        }
        let Some(manager) = &mut self.manager else { return };
        for tasks in tasks.chunks_mut(Burst::WIDTH) {
            let done = at_once(manager, tasks);
            for (task, done) in tasks.iter_mut().zip(done) {
                task.iter_mut().for_each(|task| task.settle(done));
            }
        }
    }
}

/// Which of the tasks, as many as one burst takes, were done.
fn at_once(manager: &mut Manager, tasks: &mut [Option<Task<'_>>]) -> [bool; Burst::WIDTH] {
    let mut jobs = [const { None }; Burst::WIDTH];
    for (job, task) in jobs.iter_mut().zip(tasks) {
        *job = task.as_mut().and_then(Task::gather);
    }
    manager.run(&mut jobs);
    jobs.map(|job| job.is_some_and(|job| job.is_good()))
}

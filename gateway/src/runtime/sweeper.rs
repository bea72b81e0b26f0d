//! The regular sweep of flows and mappings, on a thread of its own: a large table takes its time, and IKE must not wait for
//! it.
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// One sweep at a time.
#[derive(Debug, Default)]
pub(super) struct Sweeper(Mutex<Option<JoinHandle<()>>>);

impl Sweeper {
    /// Begins a sweep, unless one is under way still; whether it did. Nobody waits for it.
    ///
    /// # Errors
    /// The kernel refuses a thread.
    pub(super) fn begin(&self, sweep: impl FnOnce() + Send + 'static) -> io::Result<bool> {
        let mut running = self.running();
        if running.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(false);
        }
        running.take().into_iter().for_each(tell_of_panic);
        *running = Some(Builder::new().name("sweep".to_owned()).spawn(sweep)?);
        Ok(true)
    }

    /// Waits for the sweep that is under way. None begins before the caller says so.
    pub(super) fn finish(&self) {
        self.running().take().into_iter().for_each(tell_of_panic);
    }

    fn running(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_of_panic(ended: JoinHandle<()>) {
    if ended.join().is_err() {
        tracing::error!("a sweep of flows and mappings had panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn who_begins_a_sweep_does_not_wait_for_it() {
        let sweeper = Sweeper::default();
        let (go_on, may_go_on) = channel::<()>();
        let (done, is_done) = channel();
        let sweep = move || {
            may_go_on.recv().expect("the test lets it go on");
            done.send(()).expect("awaited");
        };
        assert!(sweeper.begin(sweep).expect("a thread"));
        assert!(is_done.try_recv().is_err(), "it has not ended");
        assert!(
            !sweeper.begin(|| {}).expect("skipped"),
            "the first one is under way"
        );
        go_on.send(()).expect("it waits");
        sweeper.finish();
        assert!(is_done.try_recv().is_ok(), "it has ended");
        assert!(sweeper.begin(|| {}).expect("a thread"));
        sweeper.finish();
    }
}

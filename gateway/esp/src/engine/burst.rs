//! Many packets' cryptography, one after another or at once.

use super::{Engine, Job, Refused};

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// [`Engine::seal`].
    Seal,
    /// [`Engine::open`].
    Open,
}

/// A task's engine has done it: nothing else makes one.
#[derive(Debug)]
pub struct Done(());

/// One packet of a burst.
pub struct Task<'a> {
    engine: &'a dyn Engine,
    job: Job<'a>,
    way: Way,
    /// Refused until it was done.
    is_done: bool,
}

impl<'a> Task<'a> {
    #[inline]
    pub(crate) fn new(engine: &'a dyn Engine, job: Job<'a>, way: Way) -> Self {
        Self {
            engine,
            job,
            way,
            is_done: false,
        }
    }

    /// Does it by itself.
    ///
    /// # Errors
    /// As [`Task::outcome`].
    #[inline]
    pub fn alone(mut self) -> Result<Done, Refused> {
        self.run();
        self.outcome()
    }

    /// What came of it in a burst.
    ///
    /// # Errors
    /// [`Refused`]: what is in the buffer now must not be used or sent.
    #[inline]
    pub fn outcome(self) -> Result<Done, Refused> {
        if self.is_done { Ok(Done(())) } else { Err(Refused) }
    }

    #[inline]
    fn run(&mut self) {
        let job = Job {
            esp: &mut *self.job.esp,
            sequence_high: self.job.sequence_high,
        };
        let outcome = match self.way {
            Way::Seal => self.engine.seal(job),
            Way::Open => self.engine.open(job),
        };
        self.is_done = outcome.is_ok();
    }
}

/// Does tasks; one for each thread.
#[derive(Default)]
pub struct Burst {
    #[cfg(feature = "ipsec-mb")]
    library: super::multi_buffer::Library,
}

impl Burst {
    /// As many tasks at once are worth gathering.
    pub const WIDTH: usize = if cfg!(feature = "ipsec-mb") { 64 } else { 1 };

    /// Does these tasks; places without one are left.
    #[inline]
    pub fn run(&mut self, tasks: &mut [Option<Task<'_>>]) {
        #[cfg(feature = "ipsec-mb")]
        self.library.run(tasks);
        let alone = tasks.iter_mut().flatten().filter(|task| !task.is_gathered());
        alone.for_each(Task::run);
    }
}

#[cfg(not(feature = "ipsec-mb"))]
impl Task<'_> {
    #[expect(clippy::unused_self, reason = "the same as with the library")]
    fn is_gathered(&self) -> bool {
        false
    }
}

#[cfg(feature = "ipsec-mb")]
impl Task<'_> {
    fn is_gathered(&self) -> bool {
        self.engine.burst_key().is_some()
    }

    /// The same for the library, if it does this one.
    pub(super) fn gather(&mut self) -> Option<gateway_ipsec_mb::Job<'_>> {
        let way = match self.way {
            Way::Seal => gateway_ipsec_mb::Way::Seal,
            Way::Open => gateway_ipsec_mb::Way::Open,
        };
        let key = self.engine.burst_key()?;
        let high = self.job.sequence_high;
        Some(gateway_ipsec_mb::Job::new(key, &mut *self.job.esp, high, way))
    }

    pub(super) fn settle(&mut self, is_done: bool) {
        self.is_done = is_done;
    }
}

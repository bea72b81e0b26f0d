//! The log on standard error: whoever tells something never waits for the reader of it. Lines wait in a bounded queue for a
//! thread that writes them; what finds no room is lost and counted, and told of once there is room again.
//!
//! Were it otherwise, a journal that stands still would stop the control task, and with it IKE, while packets are
//! forwarded by a state that nobody tends.
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tracing::{Dispatch, dispatcher};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that wait to be written: some MiB at most.
const LINES_MAX: usize = 16_384;
/// How long the end of the process waits for lines to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What ends the log in order; `None` before it begins and after it ended.
static GUARD: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Words.
    Text,
    /// A JSON object a line.
    Json,
}

/// The log goes to standard error, of what `filter` lets through (tracing-subscriber's `EnvFilter`), until this is
/// dropped.
///
/// # Errors
/// The filter says nothing that could be meant.
pub fn to_stderr(filter: &str, format: Format) -> anyhow::Result<Log> {
    let (dispatch, guard) = begin(io::stderr, EnvFilter::try_new(filter)?, format);
    dispatch.init();
    *GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    Ok(Log)
}

/// The log, which ends with this: lines that wait are written, if their reader takes them.
#[derive(Debug)]
pub struct Log;

impl Drop for Log {
    fn drop(&mut self) {
        flush();
    }
}

/// A thread that panics must not leave the others forwarding by a state that nobody tends: the process ends, the
/// kernel closes its sockets and detaches its programs, and nothing passes. What is left to be said does not put that off
/// for long.
pub fn fail_closed_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_any_case = thread::Builder::new().spawn(|| {
            thread::sleep(LAST_WORDS);
            std::process::abort();
        });
        if in_any_case.is_ok() {
            flush();
            report(panic);
        }
        std::process::abort();
    }));
}

/// Ends the log.
fn flush() {
    let guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(guard) = guard else { return };
    let (ending, ended) = mpsc::channel::<()>();
    // To end it may take as long as its reader likes.
    let end = move || {
        drop(guard);
        drop(ending);
    };
    if thread::Builder::new()
        .name("log-end".to_owned())
        .spawn(end)
        .is_ok()
    {
        let _ = ended.recv_timeout(LAST_WORDS);
    }
}

/// A log whose lines a thread writes, until the guard is dropped.
fn begin<M>(to: M, filter: EnvFilter, format: Format) -> (Dispatch, WorkerGuard)
where
    M: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let counter = Arc::<OnceLock<ErrorCounter>>::default();
    let writer = Writer {
        notices: dispatch(to.clone(), EnvFilter::new("warn"), format),
        to,
        counter: Arc::clone(&counter),
        told: 0,
    };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX);
    let (lines, guard) = builder.lossy(true).thread_name("log").finish(writer);
    counter.get_or_init(|| lines.error_counter());
    (dispatch(lines, filter, format), guard)
}

fn dispatch<M>(to: M, filter: EnvFilter, format: Format) -> Dispatch
where
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to);
    match format {
        Format::Text => builder.with_ansi(false).finish().into(),
        Format::Json => builder.json().finish().into(),
    }
}

/// What the thread writes to.
struct Writer<M> {
    to: M,
    /// A log of the thread's own, past the queue.
    notices: Dispatch,
    counter: Arc<OnceLock<ErrorCounter>>,
    /// Lines whose loss has been told.
    told: usize,
}

impl<M: for<'a> MakeWriter<'a>> Write for Writer<M> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.to.make_writer().write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.make_writer().flush()
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.to.make_writer().write_all(line)?;
        // It was taken: there is room again.
        let lost = self.counter.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told {
            let lines = lost - self.told;
            self.told = lost;
            dispatcher::with_default(&self.notices, || {
                tracing::warn!(
                    lines,
                    "lines of the log were lost: nobody took them from standard error"
                );
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead as _, BufReader};

    use super::*;

    /// Both ends of a pipe.
    fn pipe() -> (BufReader<File>, Arc<File>) {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        (BufReader::new(File::from(reader)), Arc::new(File::from(writer)))
    }

    /// Says `count` lines; a writer that waited for its reader would never end.
    fn say(dispatch: &Dispatch, lines: std::ops::Range<usize>) {
        dispatcher::with_default(dispatch, || {
            for line in lines {
                tracing::info!(line, "said");
            }
        });
    }

    fn number(line: &str, of: &str) -> Option<usize> {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let number = line["fields"][of].as_u64()?;
        usize::try_from(number).ok()
    }

    /// Regression: the control task waited for whoever reads standard error.
    #[test]
    fn who_tells_something_does_not_wait_and_what_is_lost_is_counted() {
        let (reader, writer) = pipe();
        let (dispatch, guard) = begin(writer, EnvFilter::new("info"), Format::Json);
        let all = 3 * LINES_MAX;
        say(&dispatch, 0..all);
        drop(dispatch);
        let reader = thread::spawn(move || reader.lines().collect::<io::Result<Vec<_>>>());
        drop(guard);
        let said = reader.join().expect("no panic").expect("text");
        let lines: Vec<usize> = said.iter().filter_map(|line| number(line, "line")).collect();
        let lost: usize = said.iter().filter_map(|line| number(line, "lines")).sum();
        assert!(lines.is_sorted() && lines.len() >= LINES_MAX, "{}", lines.len());
        assert!(lost > 0);
        assert_eq!(lines.len() + lost, all);
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let (reader, writer) = pipe();
        let (dispatch, guard) = begin(writer, EnvFilter::new("info"), Format::Text);
        say(&dispatch, 0..100);
        drop(dispatch);
        drop(guard);
        let said: Vec<String> = reader.lines().collect::<io::Result<_>>().expect("text");
        assert_eq!(said.len(), 100);
        assert!(said[99].ends_with("said line=99"), "{}", said[99]);
    }
}

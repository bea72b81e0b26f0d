//! `[events] file`: events as JSON lines, by a thread of its own, so that a slow disk holds nothing up.
//!
//! A line is in the file as a whole or not at all; what is not, the next line that is tells of.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::api::server::gap;
use crate::core::journal::EventLine;

/// How long the end of the gateway waits for the last events to be written.
const FINISH_S: u64 = 5;

/// The thread that writes.
#[derive(Debug)]
pub(super) struct EventFile {
    ended: mpsc::Receiver<()>,
}

impl EventFile {
    /// Waits until all is written, now that nobody sends events any more; not for ever: a disk may hang.
    pub(super) fn finish(self) {
        if self.ended.recv_timeout(Duration::from_secs(FINISH_S)) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the last events are not written: the disk is too slow");
        }
    }
}

/// Appends what comes until the gateway ends. The file is for root alone; one that was moved away (log rotation) is
/// made anew.
///
/// # Errors
/// If the file cannot be opened.
pub(super) fn write_to(path: &Path, events: Receiver<EventLine>) -> io::Result<EventFile> {
    let (end, ended) = mpsc::channel();
    let writer = Writer {
        path: path.to_owned(),
        file: open(path)?,
        lost: 0,
    };
    std::thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || {
            writer.run(events);
            let _ = end.send(());
        })?;
    Ok(EventFile { ended })
}

struct Writer {
    path: PathBuf,
    file: File,
    /// Events that could not be written since the last that could.
    lost: u64,
}

impl Writer {
    fn run(mut self, mut events: Receiver<EventLine>) {
        loop {
            match events.blocking_recv() {
                Ok(event) => self.write(&event),
                Err(RecvError::Lagged(lost)) => self.lost += lost,
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn write(&mut self, event: &EventLine) {
        let before = self.lost;
        match self.try_write(event) {
            Ok(()) => self.lost = 0,
            Err(error) => {
                self.lost += 1;
                // Once for each time that it begins to fail.
                if before == 0 {
                    tracing::error!(path = %self.path.display(), %error, "events cannot be written");
                }
            }
        }
    }

    fn try_write(&mut self, event: &EventLine) -> io::Result<()> {
        let (at, is) = (fs::metadata(&self.path).ok(), self.file.metadata()?);
        if at.is_none_or(|at| (at.dev(), at.ino()) != (is.dev(), is.ino())) {
            self.file = open(&self.path)?;
        }
        let mut lines = String::new();
        if self.lost > 0 {
            lines += &gap(self.lost, event.sequence);
            lines.push('\n');
        }
        lines += &event.json;
        lines.push('\n');
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines.as_bytes());
        if written.is_err() {
            // A full disk took a part of it, behind which the next line would be none.
            self.file.set_len(before)?;
        }
        written
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn event(sequence: u64) -> EventLine {
        EventLine {
            sequence,
            json: format!("{{\"sequence\":{sequence}}}").into(),
        }
    }

    fn read_until(path: &Path, done: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if done(&text) || Instant::now() > deadline {
                return text;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_rotated_file_is_made_anew_and_nothing_is_lost() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.jsonl");
        let (sender, receiver) = tokio::sync::broadcast::channel(16);
        write_to(&path, receiver).expect("opened");
        sender.send(event(1)).expect("subscribed");
        assert_eq!(
            read_until(&path, |text| text.ends_with('\n')),
            "{\"sequence\":1}\n"
        );
        fs::rename(&path, folder.path().join("events.jsonl.1")).expect("rotated");
        sender.send(event(2)).expect("subscribed");
        assert_eq!(
            read_until(&path, |text| text.ends_with('\n')),
            "{\"sequence\":2}\n"
        );
        assert_eq!(fs::metadata(&path).expect("file").mode() & 0o777, 0o600);
    }

    #[test]
    fn the_last_events_are_in_the_file_when_the_gateway_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.jsonl");
        let (sender, receiver) = tokio::sync::broadcast::channel(4_096);
        let file = write_to(&path, receiver).expect("opened");
        for sequence in 1..=4_000 {
            sender.send(event(sequence)).expect("subscribed");
        }
        drop(sender);
        file.finish();
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().count(), 4_000);
    }

    /// In a file system of four pages, which a thread with mounts of its own makes; two of them are somebody else's.
    #[test]
    fn a_full_disk_leaves_whole_lines_and_the_loss_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path().to_owned();
        let full = move || {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("own mounts");
            mount(
                Some("small"),
                &at,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("size=16k"),
            )
            .expect("tmpfs");
            let (path, other) = (at.join("events.jsonl"), at.join("other"));
            fs::write(&other, [0; 8 << 10]).expect("written");
            let mut writer = Writer {
                file: open(&path).expect("opened"),
                path: path.clone(),
                lost: 0,
            };
            let long = |sequence: u64| EventLine {
                sequence,
                json: format!("{{\"sequence\":{sequence},\"text\":\"{}\"}}", "x".repeat(3_000)).into(),
            };
            (1..=5).for_each(|sequence| writer.write(&long(sequence)));
            assert_eq!(writer.lost, 3, "two of them have room");
            fs::remove_file(&other).expect("room again");
            writer.write(&long(6));
            fs::read_to_string(&path).expect("read")
        };
        let text = std::thread::spawn(full).join().expect("no panic");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a whole line"))
            .collect();
        let said: Vec<_> = lines
            .iter()
            .map(|line| (&line["lost"], &line["sequence"]))
            .collect();
        let (none, line) = (&serde_json::Value::Null, |sequence: u64| {
            serde_json::Value::from(sequence)
        });
        let whole = [1, 2, 6].map(line);
        assert_eq!(
            said,
            [
                (none, &whole[0]),
                (none, &whole[1]),
                (&line(3), none),
                (none, &whole[2])
            ]
        );
    }

    #[test]
    fn what_a_slow_disk_loses_is_counted() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.jsonl");
        let (sender, receiver) = tokio::sync::broadcast::channel(4);
        for sequence in 1..=10 {
            sender.send(event(sequence)).expect("subscribed");
        }
        write_to(&path, receiver).expect("opened");
        let text = read_until(&path, |text| text.lines().count() == 5);
        let gap: serde_json::Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!(
            (&gap["event"], &gap["lost"], &gap["before"]),
            (&"gap".into(), &6.into(), &7.into())
        );
        assert!(text.ends_with("{\"sequence\":10}\n"), "{text}");
    }
}

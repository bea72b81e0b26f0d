//! The files of the log of addresses and ports: `nat-log/0000000001.jsonl` and so on in the state folder, the last one written
//! to. What [`NatLog::append`] has taken is on the disk when it returns.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::core::nat_log::{Event, Held, Record, Time};
use crate::store;

/// Folder of the files in the state folder.
const FOLDER: &str = "nat-log";
/// A file ends when so many bytes were added to what it began with.
const FILE_MAX: u64 = 8 << 20;
/// A file ends at this age, so that old records can be deleted.
const FILE_MAX_MS: u64 = 30 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

/// The log, open for writing.
#[derive(Debug)]
pub struct NatLog {
    folder: PathBuf,
    keep_ms: u64,
    /// Number of the file that is written to.
    number: u64,
    file: File,
    /// Its length, and what it began with.
    length: u64,
    length_at_first: u64,
    begun_ms: u64,
    held: Held,
    /// Part of a record may be at its end that could not be taken back.
    is_spoilt: bool,
}

/// What a reader gets.
#[derive(Debug, Default)]
pub struct Read {
    /// Records in their order.
    pub records: Vec<Record>,
    /// Lines that are no records: the file, the line's number, what is wrong.
    pub faults: Vec<String>,
}

impl NatLog {
    /// Opens the log of a state folder, and begins one if there is none. What a crash left of a last line goes: nobody was
    /// told anything that hung on it. A damaged file is left as it is and another one begun.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn open(state_dir: &Path, keep_days: u32, now_ms: u64) -> anyhow::Result<Self> {
        let folder = state_dir.join(FOLDER);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .and_then(|()| File::open(state_dir)?.sync_all())
            .with_context(|| folder.display().to_string())?;
        let numbers = numbers(&folder)?;
        let keep_ms = u64::from(keep_days) * DAY_MS;
        let Some(number) = numbers.last().copied() else {
            return Self::begin(folder, keep_ms, 1, Held::default(), now_ms);
        };
        let path = path(&folder, number);
        cut_incomplete_line(&path).with_context(|| path.display().to_string())?;
        let read = read_file(&path)?;
        let mut held = Held::default();
        read.records.iter().for_each(|record| held.apply(record));
        if let Some(fault) = read.faults.first() {
            tracing::error!(
                fault,
                "the log of addresses is damaged; it goes on in another file"
            );
            return Self::begin(folder, keep_ms, number + 1, held, now_ms);
        }
        let file = append_to(&path).with_context(|| path.display().to_string())?;
        let length = file.metadata()?.len();
        Ok(Self {
            folder,
            keep_ms,
            number,
            file,
            length,
            length_at_first: 0,
            begun_ms: read.records.first().map_or(now_ms, |record| record.time.0),
            held,
            is_spoilt: false,
        })
    }

    /// A file that begins with all that is held; it is there as a whole or not at all.
    fn begin(
        folder: PathBuf,
        keep_ms: u64,
        number: u64,
        mut held: Held,
        now_ms: u64,
    ) -> anyhow::Result<Self> {
        let holdings: Vec<_> = held.iter().cloned().collect();
        let first = Event::File {
            held: holdings.len() as u64,
        };
        let events = std::iter::once(first).chain(holdings.into_iter().map(Event::Held));
        let mut bytes = Vec::new();
        for event in events {
            let record = Record {
                sequence: held.sequence + 1,
                time: Time(now_ms),
                event,
            };
            write_line(&mut bytes, &record)?;
            held.apply(&record);
        }
        let path = path(&folder, number);
        store::replace(&path, &bytes)?;
        let length = bytes.len() as u64;
        Ok(Self {
            file: append_to(&path).with_context(|| path.display().to_string())?,
            folder,
            keep_ms,
            number,
            length,
            length_at_first: length,
            begun_ms: now_ms,
            held,
            is_spoilt: false,
        })
    }

    /// What is held, as the log says.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Adds events of this moment, all or none, and returns when they are on the disk.
    ///
    /// # Errors
    /// If they cannot be written; no part of them is left then.
    pub fn append(&mut self, now_ms: u64, events: impl IntoIterator<Item = Event>) -> io::Result<()> {
        if self.is_spoilt {
            self.begin_another(now_ms).map_err(io::Error::other)?;
        }
        let records: Vec<_> = (self.held.sequence + 1..)
            .zip(events)
            .map(|(sequence, event)| Record {
                sequence,
                time: Time(now_ms),
                event,
            })
            .collect();
        let mut bytes = Vec::new();
        for record in &records {
            write_line(&mut bytes, record)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            self.is_spoilt = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        records.iter().for_each(|record| self.held.apply(record));
        Ok(())
    }

    /// Begins another file if this one is long or old.
    ///
    /// # Errors
    /// If the folder cannot be written; the log goes on in the file that it has.
    pub fn tend(&mut self, now_ms: u64) -> anyhow::Result<()> {
        let is_long = self.length.saturating_sub(self.length_at_first) > FILE_MAX;
        let is_old = now_ms.saturating_sub(self.begun_ms) > FILE_MAX_MS.min(self.keep_ms);
        match is_long || is_old {
            true => self.begin_another(now_ms),
            false => Ok(()),
        }
    }

    fn begin_another(&mut self, now_ms: u64) -> anyhow::Result<()> {
        let (folder, held) = (self.folder.clone(), self.held.clone());
        *self = Self::begin(folder, self.keep_ms, self.number + 1, held, now_ms)?;
        Ok(())
    }

    /// Deletes files that are older than they are kept for. Whoever calls this trusts the clock as it is now, not as it was
    /// when they were written: a file goes when its newest record is too old, and the first one of the next file.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn delete_old(&self, now_ms: u64) -> anyhow::Result<()> {
        let all = numbers(&self.folder)?;
        for pair in all.windows(2) {
            let [old, next] = pair else { continue };
            let is_kept = |time_ms: u64| now_ms.saturating_sub(time_ms) <= self.keep_ms;
            let old = path(&self.folder, *old);
            let ended_ms = first_time(&path(&self.folder, *next))?;
            if ended_ms.is_none_or(is_kept) || newest_time(&old)?.is_some_and(is_kept) {
                break;
            }
            store::remove(&old)?;
        }
        Ok(())
    }
}

/// Reads the whole log of a state folder, also while the daemon writes to it.
///
/// # Errors
/// If the folder or a file cannot be read. Damaged lines are told in [`Read::faults`].
pub fn read(state_dir: &Path) -> anyhow::Result<Read> {
    let folder = state_dir.join(FOLDER);
    let mut all = Read::default();
    for number in numbers(&folder)? {
        let read = read_file(&path(&folder, number))?;
        all.records.extend(read.records);
        all.faults.extend(read.faults);
    }
    Ok(all)
}

fn read_file(path: &Path) -> anyhow::Result<Read> {
    let bytes = match fs::read(path) {
        // Deleted for its age between listing and reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.with_context(|| path.display().to_string())?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut read = Read::default();
    // A line without its end is being written, or was when the machine went down.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for (line, number) in whole.zip(1..) {
        match serde_json::from_str(line) {
            Ok(record) => read.records.push(record),
            Err(error) => read
                .faults
                .push(format!("{}, line {number}: {error}", path.display())),
        }
    }
    Ok(read)
}

/// Time of the first record of a file, if there is one.
fn first_time(path: &Path) -> anyhow::Result<Option<u64>> {
    let mut line = String::new();
    let file = File::open(path).with_context(|| path.display().to_string())?;
    io::BufReader::new(file)
        .read_line(&mut line)
        .with_context(|| path.display().to_string())?;
    let record: Option<Record> = serde_json::from_str(&line).ok();
    Ok(record.map(|record| record.time.0))
}

/// Time of the newest record of a file, if there is one.
fn newest_time(path: &Path) -> anyhow::Result<Option<u64>> {
    let read = read_file(path)?;
    Ok(read.records.iter().map(|record| record.time.0).max())
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.jsonl"))
}

/// Numbers of the files, rising.
fn numbers(folder: &Path) -> anyhow::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        numbers.extend(number.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).mode(0o600).open(path)
}

fn cut_incomplete_line(path: &Path) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    if whole < bytes.len() {
        let file = append_to(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

fn write_line(bytes: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *bytes, record)?;
    bytes.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::core::nat_log::{Block, Holding, Question, who};

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn holding(name: &str, block: u16) -> Holding {
        Holding {
            site: 1,
            name: name.to_owned(),
            block: Block {
                address: ADDRESS,
                first_port: block * 64,
                last_port: block * 64 + 63,
                protocol: None,
            },
        }
    }

    fn who_had(folder: &Path, block: u16, at_ms: Option<u64>) -> Vec<String> {
        let read = read(folder).expect("read");
        let question = Question {
            address: ADDRESS,
            port: Some(block * 64),
            at: at_ms.map(Time),
        };
        let found = who(&read.records, &question);
        found
            .answers
            .into_iter()
            .map(|answer| answer.holding.name)
            .collect()
    }

    fn files(folder: &Path) -> Vec<u64> {
        numbers(&folder.join(FOLDER)).expect("folder")
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        log.append(
            2_000,
            [
                Event::Assigned(holding("a", 16)),
                Event::Assigned(holding("b", 17)),
            ],
        )
        .expect("written");
        drop(log);
        let mut log = NatLog::open(folder.path(), 30, 5_000).expect("opened");
        assert_eq!((log.held().iter().count(), log.held().sequence), (2, 3));
        log.append(6_000, [Event::Released(holding("a", 16))])
            .expect("written");
        assert_eq!(who_had(folder.path(), 16, Some(5_500)), ["a"]);
        assert_eq!(who_had(folder.path(), 16, None), [""; 0]);
        assert_eq!(who_had(folder.path(), 17, None), ["b"]);
        assert_eq!(files(folder.path()), [1], "the same file goes on");
    }

    /// Every place at which a crash can cut the last line.
    #[test]
    fn a_truncated_last_line_was_never_said() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        log.append(2_000, [Event::Assigned(holding("a", 16))])
            .expect("written");
        let before = log.length;
        log.append(3_000, [Event::Released(holding("a", 16))])
            .expect("written");
        let path = path(&folder.path().join(FOLDER), 1);
        let whole = fs::read(&path).expect("read");
        for cut in before as usize..whole.len() {
            fs::write(&path, &whole[..cut]).expect("written");
            assert_eq!(who_had(folder.path(), 16, None), ["a"], "cut at {cut}");
            let mut log = NatLog::open(folder.path(), 30, 4_000).expect("opened");
            assert_eq!(log.held().iter().count(), 1);
            log.append(5_000, [Event::Assigned(holding("b", 17))])
                .expect("written");
            let read = read(folder.path()).expect("read");
            assert_eq!((read.records.len(), read.faults.len()), (3, 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_line_is_told_and_the_log_goes_on_in_another_file() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        for block in 16..20 {
            log.append(2_000, [Event::Assigned(holding("a", block))])
                .expect("written");
        }
        let path = path(&folder.path().join(FOLDER), 1);
        let text = fs::read_to_string(&path)
            .expect("read")
            .replacen("17", "\u{0}7", 1);
        let text = text.replacen("\"sequence\":3", "\"sequence:3", 1);
        fs::write(&path, &text).expect("written");
        let mut log = NatLog::open(folder.path(), 30, 3_000).expect("opened");
        assert_eq!(files(folder.path()), [1, 2]);
        assert_eq!(fs::read_to_string(&path).expect("read"), text, "left as it is");
        log.append(4_000, [Event::Assigned(holding("b", 30))])
            .expect("written");
        let read = read(folder.path()).expect("read");
        assert!(
            read.faults[0].contains("0000000001.jsonl, line 3"),
            "{:?}",
            read.faults
        );
        assert_eq!(who_had(folder.path(), 16, None), ["a"]);
        assert_eq!(who_had(folder.path(), 30, None), ["b"]);
    }

    /// A record that could not be written and not be taken back is in nobody's way.
    #[test]
    fn a_spoilt_file_is_followed_by_another() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        log.append(2_000, [Event::Assigned(holding("a", 16))])
            .expect("written");
        log.file.write_all(b"{\"sequence\":3,\"ti").expect("written");
        log.is_spoilt = true;
        log.append(3_000, [Event::Assigned(holding("b", 17))])
            .expect("written");
        assert_eq!(files(folder.path()), [1, 2]);
        let read = read(folder.path()).expect("read");
        assert_eq!(read.faults, [""; 0], "a line without its end is none");
        assert_eq!(who_had(folder.path(), 16, None), ["a"]);
        assert_eq!(who_had(folder.path(), 17, None), ["b"]);
    }

    #[test]
    fn a_long_file_is_followed_by_one_that_says_what_is_held() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        log.append(1_000, [Event::Assigned(holding("a", 16))])
            .expect("written");
        let there_and_back = [
            Event::Assigned(holding("b", 17)),
            Event::Released(holding("b", 17)),
        ];
        let many = std::iter::repeat_with(|| there_and_back.clone())
            .take(35_000)
            .flatten();
        log.append(2_000, many).expect("written");
        log.tend(3_000).expect("tended");
        assert_eq!(files(folder.path()), [1, 2]);
        log.tend(3_000).expect("tended");
        assert_eq!(files(folder.path()), [1, 2], "what it begins with does not count");
        // The first one gone, the second one still knows who holds what.
        fs::remove_file(path(&folder.path().join(FOLDER), 1)).expect("removed");
        assert_eq!(who_had(folder.path(), 16, Some(3_000)), ["a"]);
        let log = NatLog::open(folder.path(), 30, 4_000).expect("opened");
        assert_eq!(log.held().iter().count(), 1);
    }

    #[test]
    fn records_are_kept_as_long_as_said() {
        let folder = tempfile::tempdir().expect("folder");
        let day = |days: u64| days * DAY_MS + 1_000;
        let mut log = NatLog::open(folder.path(), 100, day(0)).expect("opened");
        log.append(day(1), [Event::Assigned(holding("a", 16))])
            .expect("written");
        for days in 2..=220 {
            log.tend(day(days)).expect("tended");
            log.delete_old(day(days)).expect("deleted");
        }
        // A file of 31 days each; the first ended on day 31 and went on day 132, the second on day 62 and went on day 163.
        assert_eq!(files(folder.path()), [4, 5, 6, 7, 8]);
        let first = read(folder.path()).expect("read").records.remove(0).time.0;
        assert!(
            day(220) - first > 100 * DAY_MS,
            "all of the last 100 days are there"
        );
        assert_eq!(who_had(folder.path(), 16, Some(day(121))), ["a"]);
    }

    /// A machine without a battery comes back in 1970, and its file is damaged: the next one begins then.
    #[test]
    fn a_file_that_begins_with_a_wrong_clock_does_not_delete_the_one_before() {
        let folder = tempfile::tempdir().expect("folder");
        let today = 20_000 * DAY_MS;
        let mut log = NatLog::open(folder.path(), 30, today).expect("opened");
        log.append(today, [Event::Assigned(holding("a", 16))])
            .expect("written");
        drop(log);
        let path = path(&folder.path().join(FOLDER), 1);
        let mut bytes = fs::read(&path).expect("read");
        bytes.extend(b"\0\0\0\n");
        fs::write(&path, bytes).expect("damaged");
        let log = NatLog::open(folder.path(), 30, 1_000).expect("opened");
        assert_eq!(files(folder.path()), [1, 2]);
        log.delete_old(today + DAY_MS).expect("looked at");
        assert_eq!(files(folder.path()), [1, 2]);
        assert_eq!(who_had(folder.path(), 16, Some(today + 1)), ["a"]);
        log.delete_old(today + 31 * DAY_MS).expect("deleted");
        assert_eq!(files(folder.path()), [2], "it goes when it is old indeed");
    }

    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        NatLog::open(folder.path(), 30, 1_000).expect("opened");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let nat_log = folder.path().join(FOLDER);
        assert_eq!((mode(&nat_log), mode(&path(&nat_log, 1))), (0o700, 0o600));
    }
}

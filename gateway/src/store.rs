//! Files that must survive a restart: written beside their place, synced, then renamed over it.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file of the state folder that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", .path.display())]
pub struct StoreError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub error: io::Error,
}

impl StoreError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self {
            path: path.to_owned(),
            error,
        }
    }
}

/// Replaces a file as a whole: after a crash at any moment it holds the old bytes or the new ones.
///
/// # Errors
/// With the path, if the folder cannot be written; the file is unchanged then. If the folder's own sync fails, the file holds
/// the new bytes already: put the old ones back, if they are what counts.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary(path);
    write_synced(&temporary, bytes).map_err(StoreError::at(&temporary))?;
    fs::rename(&temporary, path).map_err(StoreError::at(path))?;
    // The rename itself is durable once the folder is.
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::at(folder))
}

/// The bytes of a file, or `None` if there is none.
///
/// # Errors
/// With the path, if it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::at(path)(error)),
    }
}

/// [`replace`] with JSON.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| StoreError::at(path)(error.into()))?;
    replace(path, &bytes)
}

/// [`read`] with JSON.
///
/// # Errors
/// As [`read`], and if the file is no such JSON: what it held is not guessed.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| StoreError::at(path)(error.into()))
}

/// A file that lines of JSON are added to.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    /// Part of a line may be behind these bytes that could not be taken back: another one behind it would make the file
    /// unreadable.
    spoilt_from: Option<u64>,
}

impl Lines {
    /// A file that holds whole lines, or is not there yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            spoilt_from: None,
        }
    }

    /// Whether part of a line may be at its end.
    #[must_use]
    pub const fn is_spoilt(&self) -> bool {
        self.spoilt_from.is_some()
    }

    /// Adds a line, synced: after a crash at any moment the line is there as a whole or does not count.
    ///
    /// # Errors
    /// With the path, if it cannot be written, or what an earlier line has left cannot be taken back. No part of the line is
    /// left then, or it is taken back before the next one is added.
    pub fn append(&mut self, value: &impl Serialize) -> Result<(), StoreError> {
        if let Some(length) = self.spoilt_from {
            cut(&self.path, length).map_err(StoreError::at(&self.path))?;
            self.spoilt_from = None;
        }
        self.write(value).map_err(StoreError::at(&self.path))
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// With the path, if it stays.
    pub fn remove(&mut self) -> Result<(), StoreError> {
        remove(&self.path)?;
        self.spoilt_from = None;
        Ok(())
    }

    fn write(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let before = file.metadata()?.len();
        let mut written = file.write_all(&line).and_then(|()| file.sync_all());
        if before == 0 {
            // A file that is new is there for good once its folder is.
            let folder = self.path.parent().unwrap_or(Path::new("."));
            written = written.and_then(|()| File::open(folder)?.sync_all());
        }
        if written.is_err() && file.set_len(before).is_err() {
            self.spoilt_from = Some(before);
        }
        written
    }
}

/// The lines of [`Lines`]; one without its end was never promised to anybody.
///
/// # Errors
/// As [`read`], and if a whole line is no such JSON: what it held is not guessed.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StoreError> {
    let text = read(path)?.unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).map_err(|error| StoreError::at(path)(error.into())))
        .collect()
}

/// Removes a file, if it is there.
///
/// # Errors
/// With the path, if it stays.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::at(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes away what is behind the first bytes of a file.
fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    file.sync_all()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.json");
        replace(&path, b"[1]").expect("write");
        // What a crash between write and rename leaves behind, half written at that.
        fs::write(temporary(&path), b"[2").expect("write");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("read"), Some(vec![1]));
        replace(&path, b"[3]").expect("write over the leftover");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("read"), Some(vec![3]));
        assert!(!temporary(&path).exists());
    }

    #[test]
    fn nothing_is_guessed_from_a_damaged_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("absent"), None);
        fs::write(&path, b"{").expect("write");
        let error = read_json::<Vec<u8>>(&path).expect_err("damaged").to_string();
        assert!(error.contains("state.json"), "{error}");
    }

    #[test]
    fn a_line_counts_once_it_is_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.jsonl");
        let mut lines = Lines::new(path.clone());
        lines.append(&1).expect("written");
        lines.append(&2).expect("written");
        assert_eq!(read_json_lines::<u8>(&path).expect("read"), [1, 2]);
        // What a crash in the middle of a write leaves.
        let mut text = fs::read_to_string(&path).expect("read");
        text.push('3');
        fs::write(&path, &text).expect("written");
        assert_eq!(read_json_lines::<u8>(&path).expect("read"), [1, 2]);
        fs::write(&path, "1\n{\n2\n").expect("written");
        assert!(
            read_json_lines::<u8>(&path).is_err(),
            "a damaged line is not skipped"
        );
        remove(&path).expect("gone");
        remove(&path).expect("gone already");
        assert_eq!(read_json_lines::<u8>(&path).expect("absent"), [0; 0]);
    }

    #[test]
    fn what_could_not_be_taken_back_goes_before_the_next_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.jsonl");
        let mut lines = Lines::new(path.clone());
        lines.append(&1).expect("written");
        // What a write leaves that failed in the middle, or whose sync failed.
        for left in ["1", "17\n"] {
            lines.spoilt_from = Some(fs::metadata(&path).expect("there").len());
            fs::write(&path, fs::read_to_string(&path).expect("read") + left).expect("written");
            lines.append(&2).expect("written");
            assert!(!lines.is_spoilt());
        }
        assert_eq!(read_json_lines::<u8>(&path).expect("read"), [1, 2, 2]);
        // It is gone meanwhile.
        lines.spoilt_from = Some(6);
        fs::remove_file(&path).expect("removed");
        lines.append(&3).expect("written");
        assert_eq!(read_json_lines::<u8>(&path).expect("read"), [3]);
    }

    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.json");
        replace(&path, b"1").expect("write");
        assert_eq!(
            fs::metadata(&path).expect("file").permissions().mode() & 0o777,
            0o600
        );
    }
}

//! Files that hold a secret: one that others may read holds none.
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Reads a file of a secret.
///
/// # Errors
/// It is not for its owner alone, is longer than `length_max` bytes, or cannot be read. No secret is in it.
pub(super) fn read(path: &Path, length_max: u32) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let credentials = std::env::var_os(CREDENTIALS_DIRECTORY);
    read_with(path, length_max, credentials.as_ref().map(Path::new))
}

fn read_with(path: &Path, length_max: u32, credentials: Option<&Path>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path).context("cannot be read")?;
    // Of the open file: what was looked at is what is read.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("is no regular file");
    }
    let mode = metadata.mode() & 0o7777;
    let is_credential = || credentials.is_some_and(|folder| lies_in(path, folder));
    if mode & 0o077 != 0 && !(is_of_systemd(&metadata) && is_credential()) {
        bail!(
            "others may read or write it (mode {mode:04o})\n  to mend it: chmod 600, and make a new key if others had the time to read it"
        );
    }
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        bail!("belongs to uid {owner}\n  to mend it: chown root");
    }
    if metadata.len() > length_max.into() {
        bail!("has {} bytes; {length_max} at most are expected", metadata.len());
    }
    // Room for all at once, and for what tells that it was all: growing would leave copies of the secret behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(2 * length_max as usize));
    file.take(length_max.into()).read_to_end(&mut octets)?;
    Ok(octets)
}

/// As systemd makes a credential for a unit with `User=`: an access list lets that user read it, which shows as the
/// group's right; owner and group are root.
fn is_of_systemd(metadata: &Metadata) -> bool {
    metadata.mode() & 0o037 == 0 && metadata.uid() == 0 && metadata.gid() == 0
}

fn lies_in(path: &Path, folder: &Path) -> bool {
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        (folder, path)
    }

    #[test]
    fn a_secret_is_for_its_owner_alone() {
        for (mode, taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o440, false),
            (0o604, false),
            (0o620, false),
            (0o601, false),
        ] {
            let (_folder, path) = written("secret", mode);
            let result = read_with(&path, 100, None);
            assert_eq!(result.is_ok(), taken, "{mode:o} {result:?}");
            if let Err(error) = result {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
        let (folder, _) = written("secret", 0o600);
        assert!(read_with(folder.path(), 100, None).is_err(), "a folder");
    }

    /// systemd.exec(5): read-only, and what it lies in is for root, or by an access list for the unit's user.
    #[test]
    fn a_credential_of_systemd_may_have_an_access_list_for_its_user() {
        let (folder, path) = written("secret", 0o440);
        let owner = std::fs::metadata(&path).expect("there");
        let is_root = owner.uid() == 0 && owner.gid() == 0;
        assert_eq!(read_with(&path, 100, Some(folder.path())).is_ok(), is_root);
        // Another folder's files are judged as all others are.
        let elsewhere = tempfile::tempdir().expect("folder");
        assert!(read_with(&path, 100, Some(elsewhere.path())).is_err());
        assert!(read_with(&path, 100, Some(Path::new(""))).is_err());
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(read_with(&link, 100, Some(elsewhere.path())).is_err());
        for mode in [0o444, 0o460, 0o450] {
            let (folder, path) = written("secret", mode);
            assert!(read_with(&path, 100, Some(folder.path())).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_by_its_length_alone() {
        let (_folder, path) = written(&"x".repeat(5000), 0o600);
        let error = read_with(&path, 4999, None).expect_err("long").to_string();
        assert!(error.contains("5000 bytes") && !error.contains("xx"), "{error}");
        assert_eq!(read_with(&path, 5000, None).expect("fits").len(), 5000);
    }
}

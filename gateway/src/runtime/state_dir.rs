//! The state folder: one daemon's, and nobody's to write to but root.
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;

/// Keeps other daemons off the folder until it is dropped, or the process ends.
#[derive(Debug)]
pub(super) struct StateDir {
    _locked: File,
}

impl StateDir {
    /// Makes the folder, for root alone, if it is missing, and takes it.
    ///
    /// # Errors
    /// If another daemon has it, or others may write to it: what is in it decides who passes.
    pub(super) fn take(folder: &Path) -> anyhow::Result<Self> {
        let taken = || {
            make(folder)?;
            let opened = File::open(folder)?;
            owned_by_root_alone(&opened)?;
            match opened.try_lock() {
                Ok(()) => Ok(Self { _locked: opened }),
                Err(TryLockError::WouldBlock) => {
                    bail!("another gateway has it; each needs a state_dir of its own")
                }
                Err(TryLockError::Error(error)) => Err(error.into()),
            }
        };
        taken().with_context(|| folder.display().to_string())
    }
}

fn make(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn owned_by_root_alone(folder: &File) -> anyhow::Result<()> {
    let metadata = folder.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != geteuid().as_raw() && owner != 0 {
        bail!("belongs to uid {owner}\n  to mend it: chown root, once you know what is in it");
    }
    if mode & 0o022 != 0 {
        bail!(
            "others may write to it (mode {mode:04o})\n  to mend it: chmod 700, once you know what is in it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_state_folder_has_one_daemon_at_a_time() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a/state");
        let first = StateDir::take(&path).expect("free");
        let mode = fs::metadata(&path).expect("made").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let error = format!("{:#}", StateDir::take(&path).expect_err("taken"));
        assert!(
            error.contains("a/state") && error.contains("another gateway"),
            "{error}"
        );
        drop(first);
        StateDir::take(&path).expect("free again");
    }

    #[test]
    fn a_state_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        for (mode, taken) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o757, false),
            (0o1777, false),
        ] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(StateDir::take(folder.path()).is_ok(), taken, "{mode:o}");
        }
    }
}

//! Secrets of this gateway that outlive a restart, in the state folder, for root alone.
use std::path::Path;

use anyhow::Context as _;
use gateway_ike::CrashSecret;
use gateway_ike::crypto::random::{Random as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::config::Config;
use crate::store;

/// As it is stored.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    secret: [u8; 32],
}

/// The secret of the tokens of quick crash detection (RFC 6290), made on the first start; `None` if it is turned off.
///
/// # Errors
/// If the file can be neither read nor made. A damaged one is named, and not replaced.
pub(super) fn crash_secret(config: &Config) -> anyhow::Result<Option<CrashSecret>> {
    if !config.ike.crash_detection {
        return Ok(None);
    }
    let stored = kept(&config.state_dir.join("crash-detection.json"))?;
    Ok(Some(CrashSecret::new(&stored.secret)))
}

fn kept(path: &Path) -> anyhow::Result<Stored> {
    if let Some(stored) = store::read_json(path)? {
        return Ok(stored);
    }
    let mut stored = Stored { secret: [0; 32] };
    SystemRandom::new().fill(&mut stored.secret);
    store::replace_json(path, &stored).context("a new secret cannot be stored")?;
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_outlives_a_restart_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret.json");
        let first = kept(&path).expect("made").secret;
        assert_eq!(kept(&path).expect("read").secret, first);
        let mode = std::fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = kept(&folder.path().join("other.json")).expect("made").secret;
        assert_ne!(other, first);
        std::fs::write(&path, "{\"secret\":[1,2]}").expect("damaged");
        let error = kept(&path).err().expect("refused").to_string();
        assert!(error.contains("secret.json"), "{error}");
    }
}

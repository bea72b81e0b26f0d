//! What proves who is who: our certificate and key, authorities, revocation lists, shared keys; and its files.
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use gateway_ike::pki::credential::Credential;
use gateway_ike::pki::revocation::RevocationList;
use gateway_ike::pki::trust::TrustAnchors;
use gateway_ike::{PeerSharedKey, Ppk, Ppks, SharedKey, SharedKeys};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::reload::{Stamp, stamps, watched};
use crate::config::Config;

/// A file with a shared key holds one line.
const SHARED_KEY_FILE_MAX: u64 = 4096;

/// All of it, read and checked.
pub struct Credentials {
    /// The gateway's certificate and key.
    pub credential: Credential,
    /// CAs of sites, with their revocation lists.
    pub trust: TrustAnchors,
    /// Shared keys of sites.
    pub shared_keys: SharedKeys,
    /// Post-quantum preshared keys of sites.
    pub ppks: Ppks,
    /// What the files of authorities and revocation lists were before they were read: one that is replaced at that moment
    /// counts as changed.
    pub(super) stamps: Vec<Stamp>,
}

impl Credentials {
    /// Reads all that the configuration names.
    ///
    /// # Errors
    /// What is wrong, with the file's name. No secret is in it.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let stamps = stamps(&watched(config));
        Ok(Self {
            stamps,
            credential: credential(config)?,
            trust: trust(config)?,
            shared_keys: shared_keys(config)?,
            ppks: ppks(config)?,
        })
    }
}

/// Authorities and revocation lists.
pub(super) fn trust(config: &Config) -> anyhow::Result<TrustAnchors> {
    let mut trust = authorities(&config.ike.ca)?;
    let mut lists = Vec::new();
    for file in &config.ike.crl {
        let found = RevocationList::read_file(&read(file)?).with_context(|| file.display().to_string())?;
        if found.is_empty() {
            // A download that failed must not look like a list without entries.
            bail!("{}: holds no X509 CRL section and is no DER", file.display());
        }
        lists.extend(found);
    }
    trust.set_revocation(lists, config.ike.crl_policy);
    Ok(trust)
}

fn authorities(files: &[PathBuf]) -> anyhow::Result<TrustAnchors> {
    let mut bundle = Vec::new();
    for file in files {
        let pem = read(file)?;
        // Each by itself first, so that the fault names its file.
        TrustAnchors::from_pem(&pem).with_context(|| file.display().to_string())?;
        bundle.extend_from_slice(&pem);
        bundle.push(b'\n');
    }
    Ok(TrustAnchors::from_pem(&bundle)?)
}

fn credential(config: &Config) -> anyhow::Result<Credential> {
    let (certificate, key) = (&config.ike.certificate, &config.ike.private_key);
    let chain = read(certificate)?;
    warn_if_others_may_read(key);
    let key_pem = Zeroizing::new(read(key)?);
    let credential = Credential::from_pem(&chain, &key_pem)
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))?
        .with_rsa_padding(config.ike.rsa_signatures);
    if !credential.proves(&config.ike.identity) {
        let (path, identity) = (certificate.display(), &config.ike.identity);
        bail!(
            "{path}: the certificate does not speak for [ike] identity {identity}; it does for {}",
            credential.default_identity()
        );
    }
    Ok(credential)
}

fn shared_keys(config: &Config) -> anyhow::Result<SharedKeys> {
    let mut keys = SharedKeys::default();
    for site in &config.sites {
        let Some(shared) = &site.shared_key else { continue };
        let key = shared_key(&shared.file)
            .with_context(|| format!("{}: shared key of site \"{}\"", shared.file.display(), site.name))?;
        let key = PeerSharedKey {
            key,
            peer: shared.site,
            own: shared.gateway,
            own_identity: shared.gateway_identity.clone(),
        };
        keys.insert(site.identity.clone(), key);
    }
    Ok(keys)
}

fn ppks(config: &Config) -> anyhow::Result<Ppks> {
    let mut ppks = Ppks::default();
    for site in &config.sites {
        let Some(ppk) = &site.ppk else { continue };
        let read = shared_key(&ppk.file).and_then(|key| Ok(Ppk::new(ppk.id.as_str(), key, ppk.required)?));
        let read = read.with_context(|| {
            let file = ppk.file.display();
            format!("{file}: post-quantum preshared key of site \"{}\"", site.name)
        })?;
        ppks.insert(site.identity.clone(), read);
    }
    Ok(ppks)
}

fn shared_key(path: &Path) -> anyhow::Result<SharedKey> {
    let file = File::open(path)?;
    // Of the open file: what was looked at is what is read.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("is no regular file");
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        bail!(
            "others may read or write it (mode {mode:04o})\n  to mend it: chmod 600, and make a new key if others had the time to read it"
        );
    }
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        bail!("belongs to uid {owner}\n  to mend it: chown root");
    }
    if metadata.len() > SHARED_KEY_FILE_MAX {
        bail!("has {} bytes; one line is expected", metadata.len());
    }
    // Room for all at once: growing would leave copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(8192));
    file.take(SHARED_KEY_FILE_MAX).read_to_end(&mut text)?;
    Ok(SharedKey::from_text(&text)?)
}

/// Many tools make keys that a group may read. It is told, and not refused: a gateway that does not start helps nobody.
fn warn_if_others_may_read(key: &Path) {
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %key.display(),
            mode = format!("{mode:04o}"),
            "others may read or write the gateway's private key: chmod 600, and make a new one if they had the time to"
        );
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("site.psk");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        (folder, path)
    }

    #[test]
    fn a_shared_key_is_for_its_owner_alone() {
        let good = "0x000102030405060708090a0b0c0d0e0f\n";
        for (mode, taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            let (_folder, path) = written(good, mode);
            let result = shared_key(&path);
            assert_eq!(result.is_ok(), taken, "{mode:o} {result:?}");
        }
        let (folder, _) = written(good, 0o600);
        assert!(shared_key(folder.path()).is_err(), "a folder");
    }

    #[test]
    fn a_refusal_does_not_show_the_secret() {
        for secret in ["hunter2", "0xdeadbeefdeadbeef", "hunter2hunter2hunter2"] {
            let (_folder, path) = written(secret, 0o600);
            let error = format!("{:#}", shared_key(&path).expect_err("weak"));
            assert!(!error.contains(secret) && !error.contains("hunter2"), "{error}");
        }
        let (_folder, path) = written(&"x".repeat(5000), 0o600);
        assert!(
            shared_key(&path)
                .expect_err("long")
                .to_string()
                .contains("5000 bytes")
        );
    }
}

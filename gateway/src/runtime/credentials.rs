//! What proves who is who: our certificate and key, authorities, revocation lists, shared keys; and its files.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use gateway_ike::pki::credential::Credential;
use gateway_ike::pki::revocation::RevocationList;
use gateway_ike::pki::trust::TrustAnchors;
use gateway_ike::{PeerSharedKey, Ppk, Ppks, SharedKey, SharedKeys};

use super::reload::{Stamp, stamps, watched};
use super::secret_file;
use crate::config::Config;

/// Bytes of a file with a shared key, which holds one line.
const SHARED_KEY_FILE_MAX: u32 = 4096;
/// Bytes of a file with a private key: RSA with 16,384 bits has 13,000, and certificates may stand beside it.
const PRIVATE_KEY_FILE_MAX: u32 = 65_536;

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

/// Authorities and revocation lists, all of them.
fn trust(config: &Config) -> anyhow::Result<TrustAnchors> {
    let (trust, faults) = readable_trust(config)?;
    match faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(trust),
    }
}

/// Authorities, and the revocation lists of the files that can be read; and what is wrong with the others.
pub(super) fn readable_trust(config: &Config) -> anyhow::Result<(TrustAnchors, Vec<anyhow::Error>)> {
    let mut trust = authorities(&config.ike.ca)?;
    let (mut lists, mut faults) = (Vec::new(), Vec::new());
    for file in &config.ike.crl {
        match revocation_lists(file) {
            Ok(found) => lists.extend(found),
            Err(fault) => faults.push(fault),
        }
    }
    for list in &lists {
        // Remembered with the list: who asks later does not wait for that.
        let _outcome = trust.check_signer(list);
    }
    trust.set_revocation(lists, config.ike.crl_policy);
    Ok((trust, faults))
}

fn revocation_lists(file: &Path) -> anyhow::Result<Vec<RevocationList>> {
    let found = RevocationList::read_file(&read(file)?).with_context(|| file.display().to_string())?;
    if found.is_empty() {
        // A download that failed must not look like a list without entries.
        bail!("{}: holds no X509 CRL section and is no DER", file.display());
    }
    Ok(found)
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
    let key_pem = secret_file::read(key, PRIVATE_KEY_FILE_MAX)
        .with_context(|| key.display().to_string())
        .context("private key of [ike]")?;
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
    let text = secret_file::read(path, SHARED_KEY_FILE_MAX)?;
    Ok(SharedKey::from_text(&text)?)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("site.psk");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        (folder, path)
    }

    /// It is read, so that its issuer's peers alone are refused, and told of.
    #[test]
    fn a_list_that_is_damaged_is_known_as_such() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
        let folder = tempfile::tempdir().expect("folder");
        let crl = folder.path().join("ec.crl");
        let text = format!(
            "[gateway]\nname = \"test\"\n[[interface]]\nname = \"w\"\nrole = \"wan\"\n\
             [[interface]]\nname = \"c\"\nrole = \"core\"\n[ike]\ncertificate = \"rsa-leaf.crt\"\n\
             private_key = \"rsa-leaf.pkcs8.key\"\nca = \"ec-ca.crt\"\ncrl = {crl:?}\nidentity = \"gw.lab.test\"\n\
             [center]\nnetworks = [\"10.100.0.0/16\"]\n[[site]]\nname = \"s\"\nidentity = \"s.lab.test\"\n\
             networks = [\"192.168.1.0/24\"]\nnat_address = \"10.200.0.1\"\n"
        );
        let config = Config::parse("gateway.toml", &text, &data).expect("right");
        let mut list = std::fs::read_to_string(data.join("ec.crl")).expect("read");
        std::fs::write(&crl, &list).expect("written");
        assert_eq!(trust(&config).expect("right").revocation_lists().len(), 1);
        // Within the signature, which comes last.
        let at = list.find("\n-----END").expect("PEM") - 8;
        let other = if &list[at..=at] == "A" { "B" } else { "A" };
        list.replace_range(at..=at, other);
        std::fs::write(&crl, &list).expect("written");
        let trust = trust(&config).expect("its issuer's peers alone are refused");
        let faults = trust.wrong_lists(u64::MAX);
        let [fault] = &faults[..] else {
            panic!("{faults:?}")
        };
        let fault = fault.to_string();
        for word in ["O=Lab, CN=EC CA", "it is damaged", "to mend it"] {
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn a_refusal_does_not_show_the_secret() {
        for secret in ["hunter2", "0xdeadbeefdeadbeef", "hunter2hunter2hunter2"] {
            let (_folder, path) = written(secret);
            let error = format!("{:#}", shared_key(&path).expect_err("weak"));
            assert!(!error.contains(secret) && !error.contains("hunter2"), "{error}");
        }
        let (_folder, path) = written(&"x".repeat(5000));
        assert!(
            shared_key(&path)
                .expect_err("long")
                .to_string()
                .contains("5000 bytes")
        );
    }
}

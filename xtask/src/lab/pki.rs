//! The lab's certificates, made once by strongSwan's `pki` and kept in the build folder.
//!
//! Two authorities (`rsa`: RSA-2048 with SHA-256, `ecdsa`: P-256) each certify the gateway, both sites and a stranger
//! whom no configuration knows; a third, `rogue`, which nobody trusts, certifies the same names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cmd, paths};

/// What signs, and with what kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// RSA-2048 with SHA-256.
    Rsa,
    /// ECDSA over P-256.
    Ecdsa,
}

impl Auth {
    /// Both kinds.
    pub const BOTH: [Auth; 2] = [Auth::Rsa, Auth::Ecdsa];

    /// The name of the authority with this kind of key.
    #[must_use]
    pub fn authority(self) -> &'static str {
        match self {
            Auth::Rsa => "rsa",
            Auth::Ecdsa => "ecdsa",
        }
    }
}

/// An authority that nobody in the lab trusts; it certifies the same names with RSA keys.
pub const ROGUE: &str = "rogue";
/// The name on a certificate of a trusted authority that no configuration knows.
pub const STRANGER: &str = "stranger";

const AUTHORITIES: [(&str, Auth); 3] = [("rsa", Auth::Rsa), ("ecdsa", Auth::Ecdsa), (ROGUE, Auth::Rsa)];
const HOLDERS: [&str; 4] = ["gateway", "site1", "site2", STRANGER];

/// The DNS name in a holder's certificate: `site1.lab.test`.
#[must_use]
pub fn fqdn(holder: &str) -> String {
    format!("{holder}.lab.test")
}

/// The subject of a holder's certificate.
#[must_use]
pub fn distinguished_name(holder: &str) -> String {
    format!("C=JP, O=Lab, CN={}", fqdn(holder))
}

/// The certificates' folder.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The certificates, made now if they are not there yet.
    pub fn ready() -> Result<Self> {
        let folder = paths::target().join("lab-pki");
        if !folder.join("complete").exists() {
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            make(&folder).context("making the lab's certificates")?;
            fs::write(folder.join("complete"), "")?;
        }
        Ok(Self { folder })
    }

    /// An authority's certificate (PEM).
    #[must_use]
    pub fn authority(&self, authority: &str) -> PathBuf {
        self.folder.join(format!("{authority}-ca.crt"))
    }

    /// A holder's certificate (PEM) from that authority.
    #[must_use]
    pub fn certificate(&self, authority: &str, holder: &str) -> PathBuf {
        self.folder.join(format!("{authority}-{holder}.crt"))
    }

    /// The key (PEM, PKCS#8) to that certificate.
    #[must_use]
    pub fn key(&self, authority: &str, holder: &str) -> PathBuf {
        self.folder.join(format!("{authority}-{holder}.key"))
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::write(
        folder.join("pki.conf"),
        "pki { load = random pem pkcs1 pkcs8 x509 pubkey openssl }\n",
    )?;
    std::thread::scope(|scope| {
        let makers: Vec<_> = AUTHORITIES
            .map(|(name, auth)| scope.spawn(move || authority(folder, name, auth)))
            .into();
        for maker in makers {
            maker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

fn authority(folder: &Path, name: &str, auth: Auth) -> Result<()> {
    let file = |name: String| folder.join(name).display().to_string();
    let (ca_key, ca) = (file(format!("{name}-ca.key")), file(format!("{name}-ca.crt")));
    key(&ca_key, auth)?;
    let subject = format!("C=JP, O=Lab, CN={name} CA");
    let args = [
        "--self",
        "--ca",
        "--in",
        &ca_key,
        "--digest",
        "sha256",
        "--dn",
        &subject,
        "--outform",
        "pem",
    ];
    fs::write(&ca, pki(folder, &args)?)?;
    for holder in HOLDERS {
        let holder_key = file(format!("{name}-{holder}.key"));
        key(&holder_key, auth)?;
        let (san, subject) = (fqdn(holder), distinguished_name(holder));
        let mut args = vec![
            "--issue",
            "--cacert",
            &ca,
            "--cakey",
            &ca_key,
            "--type",
            "priv",
            "--in",
            &holder_key,
        ];
        args.extend([
            "--digest",
            "sha256",
            "--dn",
            &subject,
            "--san",
            &san,
            "--outform",
            "pem",
        ]);
        fs::write(file(format!("{name}-{holder}.crt")), pki(folder, &args)?)?;
    }
    Ok(())
}

/// PKCS#8 by openssl: the one form of private key that every TLS and IKE library reads.
fn key(path: &str, auth: Auth) -> Result<()> {
    let kind = match auth {
        Auth::Rsa => ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        Auth::Ecdsa => ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    };
    cmd::output(
        Command::new("openssl")
            .arg("genpkey")
            .args(kind)
            .args(["-out", path]),
    )?;
    Ok(())
}

fn pki(folder: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("pki");
    command.args(args).env("STRONGSWAN_CONF", folder.join("pki.conf"));
    Ok(cmd::output(&mut command)?.stdout)
}

//! The lab's certificates, made once by strongSwan's `pki` and kept in the build folder.
//!
//! Two authorities (`rsa`: RSA-2048 with SHA-256, `ecdsa`: P-256) each certify the gateway, both sites and a stranger
//! whom no configuration knows; a third, `rogue`, which nobody trusts, certifies the same names. Under each of the two
//! stands an intermediate one (`rsa-mid`, `ecdsa-mid`) with certificates for the same, and a revocation list with a
//! certificate of site 1 on it.

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

    /// The name of the intermediate authority under that one.
    #[must_use]
    pub fn intermediate(self) -> &'static str {
        match self {
            Auth::Rsa => "rsa-mid",
            Auth::Ecdsa => "ecdsa-mid",
        }
    }
}

/// An authority that nobody in the lab trusts; it certifies the same names with RSA keys.
pub const ROGUE: &str = "rogue";
/// The name on a certificate of a trusted authority that no configuration knows.
pub const STRANGER: &str = "stranger";

/// The holder of a certificate with site 1's name, of an intermediate authority that has revoked it.
pub const REVOKED: &str = "revoked";

/// Name, kind of key, and the authority under it.
const AUTHORITIES: [(&str, Auth, Option<&str>); 3] = [
    ("rsa", Auth::Rsa, Some("rsa-mid")),
    ("ecdsa", Auth::Ecdsa, Some("ecdsa-mid")),
    (ROGUE, Auth::Rsa, None),
];
const HOLDERS: [&str; 4] = ["gateway", "site1", "site2", STRANGER];
/// Certificates and revocation lists are valid so long; they are made anew with the build folder.
const LIFETIME_DAYS: &str = "1095";
/// Written last. Another name than before makes everything anew.
const MARKER: &str = "complete-2";

/// The DNS name in a holder's certificate: `site1.lab.test`.
#[must_use]
pub fn fqdn(holder: &str) -> String {
    let name = if holder == REVOKED { "site1" } else { holder };
    format!("{name}.lab.test")
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
        if !folder.join(MARKER).exists() {
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            make(&folder).context("making the lab's certificates")?;
            fs::write(folder.join(MARKER), "")?;
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

    /// That certificate with those that lead from it to the authority that is trusted (PEM).
    #[must_use]
    pub fn chain(&self, authority: &str, holder: &str) -> PathBuf {
        self.folder.join(format!("{authority}-{holder}.chain"))
    }

    /// The certificates of both authorities that are trusted (PEM).
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.folder.join("trusted-ca.crt")
    }

    /// The revocation list (PEM) of an intermediate authority: [`REVOKED`] is on it.
    #[must_use]
    pub fn revocation_list(&self, intermediate: &str) -> PathBuf {
        self.folder.join(format!("{intermediate}.crl"))
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
            .map(|(name, auth, under)| scope.spawn(move || hierarchy(folder, name, auth, under)))
            .into();
        for maker in makers {
            maker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let trusted =
        Auth::BOTH.map(|auth| fs::read_to_string(folder.join(format!("{}-ca.crt", auth.authority()))));
    let [rsa, ecdsa] = trusted;
    fs::write(folder.join("trusted-ca.crt"), rsa? + &ecdsa?)?;
    Ok(())
}

/// An authority and, if there is to be one, the intermediate authority under it.
fn hierarchy(folder: &Path, name: &str, auth: Auth, under: Option<&str>) -> Result<()> {
    let root = Issuer::new(folder, name);
    key(&root.key, auth)?;
    let subject = format!("C=JP, O=Lab, CN={name} CA");
    let certificate = ["--self", "--ca", "--in", &root.key, "--dn", &subject];
    fs::write(&root.certificate, root.pki(&certificate)?)?;
    for holder in HOLDERS {
        root.certify(holder, auth)?;
    }
    let Some(under) = under else { return Ok(()) };
    let intermediate = Issuer::new(folder, under);
    key(&intermediate.key, auth)?;
    let subject = format!("C=JP, O=Lab, CN={under} CA");
    let certificate = ["--ca", "--in", &intermediate.key, "--dn", &subject];
    fs::write(&intermediate.certificate, root.issue(&certificate)?)?;
    for holder in HOLDERS.into_iter().chain([REVOKED]) {
        let chain = intermediate.certify(holder, auth)? + &fs::read_to_string(&intermediate.certificate)?;
        fs::write(folder.join(format!("{under}-{holder}.chain")), chain)?;
    }
    let revoked = intermediate.file(&format!("-{REVOKED}.crt"));
    let list = [
        "--signcrl",
        "--cacert",
        &intermediate.certificate,
        "--cakey",
        &intermediate.key,
        "--cert",
        &revoked,
        "--reason",
        "key-compromise",
    ];
    fs::write(intermediate.file(".crl"), intermediate.pki(&list)?)?;
    Ok(())
}

/// An authority in the making.
struct Issuer<'a> {
    folder: &'a Path,
    name: &'a str,
    key: String,
    certificate: String,
}

impl<'a> Issuer<'a> {
    fn new(folder: &'a Path, name: &'a str) -> Self {
        let file = |part: &str| folder.join(format!("{name}{part}")).display().to_string();
        Self {
            folder,
            name,
            key: file("-ca.key"),
            certificate: file("-ca.crt"),
        }
    }

    fn file(&self, part: &str) -> String {
        self.folder
            .join(format!("{}{part}", self.name))
            .display()
            .to_string()
    }

    /// A key and a certificate for `holder`; answers the certificate (PEM).
    fn certify(&self, holder: &str, auth: Auth) -> Result<String> {
        let holder_key = self.file(&format!("-{holder}.key"));
        key(&holder_key, auth)?;
        let (san, subject) = (fqdn(holder), distinguished_name(holder));
        let certificate = self.issue(&["--in", &holder_key, "--dn", &subject, "--san", &san])?;
        fs::write(self.file(&format!("-{holder}.crt")), &certificate)?;
        fs::write(self.file(&format!("-{holder}.chain")), &certificate)?;
        Ok(String::from_utf8(certificate)?)
    }

    fn issue(&self, args: &[&str]) -> Result<Vec<u8>> {
        let issuer = [
            "--issue",
            "--cacert",
            &self.certificate,
            "--cakey",
            &self.key,
            "--type",
            "priv",
        ];
        self.pki(&[&issuer, args].concat())
    }

    /// strongSwan's `pki`, for something signed that lasts as long as everything here and comes as PEM.
    fn pki(&self, args: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new("pki");
        command.args(args).args([
            "--digest",
            "sha256",
            "--lifetime",
            LIFETIME_DAYS,
            "--outform",
            "pem",
        ]);
        command.env("STRONGSWAN_CONF", self.folder.join("pki.conf"));
        Ok(cmd::output(&mut command)?.stdout)
    }
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

//! How a site and the gateway prove who they are to each other: by certificate, or by a shared key.
use std::path::{Path, PathBuf};

use gateway_ike::AuthKind;
use gateway_ike::pki::identity::Identity;
use gateway_ike::ppk::PPK_ID_LEN_MAX;
use serde::Deserialize;
use toml::Spanned;

use super::super::diagnostic::Checker;
use super::check::identity;
use super::file;

/// The shared key of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteSharedKey {
    /// File with the secret, readable for root alone.
    pub file: PathBuf,
    /// How the site proves itself.
    pub site: AuthKind,
    /// How the gateway proves itself to the site.
    pub gateway: AuthKind,
    /// Who the gateway says it is where it uses the shared key; `None`: `[ike] identity`.
    pub gateway_identity: Option<Identity>,
}

/// A method as it is written.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Method {
    Certificate,
    Psk,
}

impl Method {
    fn kind(self) -> AuthKind {
        match self {
            Self::Certificate => AuthKind::Certificate,
            Self::Psk => AuthKind::SharedKey,
        }
    }
}

/// Checks what a site says of it.
pub(super) fn shared_key(
    checker: &mut Checker<'_>,
    site: &file::Site,
    peer: &Identity,
    folder: &Path,
) -> Option<SiteSharedKey> {
    let Some(file) = &site.psk_file else {
        without_key(checker, site, peer);
        return None;
    };
    let kind = |method: &Option<Spanned<Method>>| {
        method
            .as_ref()
            .map_or(AuthKind::SharedKey, |method| method.get_ref().kind())
    };
    let (by_site, by_gateway) = (kind(&site.site_auth), kind(&site.gateway_auth));
    if by_site == AuthKind::Certificate && by_gateway == AuthKind::Certificate {
        checker.fault(
            file.span(),
            format!(
                "site \"{}\" has a psk_file that neither side uses",
                site.name.get_ref()
            ),
            "leave it out, or write site_auth = \"psk\"",
        );
    }
    if by_site == AuthKind::Certificate {
        provable(checker, site, peer);
    }
    let gateway_identity = site.gateway_identity.as_ref().map(|text| {
        if by_gateway == AuthKind::Certificate {
            checker.fault(
                text.span(),
                "gateway_identity is for a gateway that proves itself by the shared key",
                "leave it out: with a certificate the gateway is [ike] identity",
            );
        }
        identity(checker, text)
    });
    Some(SiteSharedKey {
        file: folder.join(file.get_ref()),
        site: by_site,
        gateway: by_gateway,
        gateway_identity,
    })
}

/// The post-quantum preshared key of a site (RFC 8784).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePpk {
    /// How both sides name it.
    pub id: String,
    /// File with the secret, readable for root alone.
    pub file: PathBuf,
    /// The site is refused without it.
    pub required: bool,
}

/// Checks what a site says of its post-quantum preshared key.
pub(super) fn ppk(checker: &mut Checker<'_>, site: &file::Site, folder: &Path) -> Option<SitePpk> {
    match (&site.ppk_id, &site.ppk_file) {
        (Some(id), Some(file)) => {
            if !(1..=PPK_ID_LEN_MAX).contains(&id.get_ref().len()) {
                checker.fault(
                    id.span(),
                    "this ppk_id is empty or too long",
                    format!("write 1 to {PPK_ID_LEN_MAX} characters, the same as on the site's router"),
                );
            }
            let required = site.ppk_required.as_ref();
            Some(SitePpk {
                id: id.get_ref().clone(),
                file: folder.join(file.get_ref()),
                required: required.is_none_or(|required| *required.get_ref()),
            })
        }
        (Some(id), None) => {
            checker.fault(
                id.span(),
                "ppk_id without a ppk_file",
                "add ppk_file = \"FILE\", readable for root alone",
            );
            None
        }
        (None, Some(file)) => {
            let remedy = "add ppk_id = \"NAME\", the same as on the site's router";
            checker.fault(file.span(), "ppk_file without a ppk_id", remedy);
            None
        }
        (None, None) => {
            if let Some(required) = &site.ppk_required {
                let remedy = "add ppk_id and ppk_file, or leave it out";
                checker.fault(
                    required.span(),
                    "ppk_required without a post-quantum preshared key",
                    remedy,
                );
            }
            None
        }
    }
}

fn without_key(checker: &mut Checker<'_>, site: &file::Site, peer: &Identity) {
    let remedy = "add psk_file = \"FILE\", readable for root alone";
    let methods = [
        ("site_auth", &site.site_auth),
        ("gateway_auth", &site.gateway_auth),
    ];
    for (name, method) in methods {
        if let Some(method) = method
            && matches!(method.get_ref(), Method::Psk)
        {
            checker.fault(
                method.span(),
                format!("{name} = \"psk\" without a psk_file"),
                remedy,
            );
        }
    }
    if let Some(text) = &site.gateway_identity {
        checker.fault(text.span(), "gateway_identity without a psk_file", remedy);
    }
    provable(checker, site, peer);
}

/// RFC 4945 section 3.1: no field of a certificate is a key id.
fn provable(checker: &mut Checker<'_>, site: &file::Site, peer: &Identity) {
    if matches!(peer, Identity::KeyId(_)) {
        checker.fault(
            site.identity.span(),
            format!("no certificate proves the key id {peer}"),
            "add a psk_file, or write the DNS name, e-mail address, IP address or subject of its certificate",
        );
    }
}

//! Every suite over both families with both kinds of certificate: set-up, traffic, a rekey with PFS, traffic.

use anyhow::{Context, Result, ensure};
use gateway_tests::transfer::{Direction, Transfer};
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::Connection;
use xtask::lab::topology::{Options, Site};
use xtask::lab::{Lab, center};

/// IKE proposal, ESP proposal, and how strongSwan names the negotiated ESP transform.
const SUITES: [(&str, &str, &str); 6] = [
    ("aes256-sha256-modp2048", "aes256gcm16-modp2048", "AES_GCM_16-256"),
    ("aes256-sha256-ecp256", "aes128gcm16-ecp256", "AES_GCM_16-128"),
    (
        "aes256gcm16-prfsha256-x25519",
        "aes256-sha256-x25519",
        "AES_CBC-256/HMAC_SHA2_256_128",
    ),
    (
        "aes128gcm16-prfsha256-ecp256",
        "aes128-sha256-ecp256",
        "AES_CBC-128/HMAC_SHA2_256_128",
    ),
    (
        "aes128-sha256-modp2048",
        "chacha20poly1305-x25519",
        "CHACHA20_POLY1305",
    ),
    ("aes256-sha384-x25519", "aes256gcm16-x25519", "AES_GCM_16-256"),
];

fn every_suite(site: Site, auth: Auth) -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let config = Config {
        ike: SUITES.map(|(ike, _, _)| ike.to_owned()).to_vec(),
        esp: SUITES.map(|(_, esp, _)| esp.to_owned()).to_vec(),
        ..Config::usual(auth)
    };
    let gateway = lab.start_gateway(&config)?;
    let usual = Connection::of_site(site, auth, lab.options());
    let router = lab.start_site_with(site, &usual)?;
    for (ike, esp, negotiated) in SUITES {
        let case = || format!("{ike}, {esp}; the gateway's log:\n{}", gateway.log());
        router.load(
            lab.pki(),
            &Connection {
                ike: ike.to_owned(),
                esp: esp.to_owned(),
                ..usual.clone()
            },
        )?;
        let tunnel = router.initiate().with_context(case)?;
        ensure!(
            tunnel.algorithms.contains(negotiated),
            "{ike}, {esp}: {}",
            tunnel.algorithms
        );
        center::fetch(site.terminal(), "/page").with_context(case)?;
        let rekeyed = router.rekey_child().with_context(case)?;
        ensure!(rekeyed.spi_in != tunnel.spi_in);
        for direction in Direction::BOTH {
            Transfer::start(site.terminal(), direction, None)?
                .finish()
                .with_context(case)?;
        }
        router.terminate().with_context(case)?;
    }
    Ok(())
}

#[test]
fn every_suite_over_ipv4_with_rsa() -> Result<()> {
    every_suite(Site::One, Auth::Rsa)
}

#[test]
fn every_suite_over_ipv4_with_ecdsa() -> Result<()> {
    every_suite(Site::One, Auth::Ecdsa)
}

#[test]
fn every_suite_over_ipv6_with_rsa() -> Result<()> {
    every_suite(Site::Two, Auth::Rsa)
}

#[test]
fn every_suite_over_ipv6_with_ecdsa() -> Result<()> {
    every_suite(Site::Two, Auth::Ecdsa)
}

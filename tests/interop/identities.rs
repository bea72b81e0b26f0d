//! Who is let in: by which name, through which network, and who is not.

use anyhow::{Context, Result, ensure};
use xtask::lab::gateway::{Config, Gateway};
use xtask::lab::pki::{Auth, REVOKED, ROGUE, STRANGER};
use xtask::lab::strongswan::{Connection, IdKind};
use xtask::lab::topology::{Options, Site};
use xtask::lab::{Lab, center};

fn lab_and_gateway(options: Options, config: &Config) -> Result<(Lab, Gateway)> {
    let lab = Lab::up(options)?;
    let gateway = lab.start_gateway(config)?;
    Ok((lab, gateway))
}

fn is_let_in(lab: &Lab, gateway: &Gateway, site: Site, connection: &Connection) -> Result<()> {
    let router = lab.start_site_with(site, connection)?;
    router
        .initiate()
        .with_context(|| format!("the gateway's log:\n{}", gateway.log()))?;
    center::fetch(site.terminal(), "/whoami")?;
    router.terminate()
}

fn is_refused(site: Site, change: impl Fn(Connection) -> Connection) -> Result<()> {
    let (lab, gateway) = lab_and_gateway(Options::default(), &Config::usual(Auth::Rsa))?;
    let usual = Connection::of_site(site, Auth::Rsa, lab.options());
    is_refused_for(&lab, &gateway, site, &usual, change)
}

fn is_refused_for(
    lab: &Lab,
    gateway: &Gateway,
    site: Site,
    usual: &Connection,
    change: impl Fn(Connection) -> Connection,
) -> Result<()> {
    let router = lab.start_site_with(site, &change(usual.clone()))?;
    ensure!(router.initiate().is_err(), "it was let in");
    let log = router.log();
    ensure!(
        log.contains("AUTHENTICATION_FAILED") || log.contains("N(AUTH_FAILED)"),
        "refused, but not so:\n{log}"
    );
    // The refusal must come from the change: the same router with its usual connection is let in.
    router.load(lab.pki(), usual)?;
    router
        .initiate()
        .with_context(|| format!("the gateway's log:\n{}", gateway.log()))?;
    router.terminate()?;
    router.stop();
    Ok(())
}

#[test]
fn distinguished_names() -> Result<()> {
    for auth in Auth::BOTH {
        let config = Config {
            ids: IdKind::Dn,
            ..Config::usual(auth)
        };
        let (lab, gateway) = lab_and_gateway(Options::default(), &config)?;
        for site in Site::BOTH {
            let usual = Connection::of_site(site, auth, lab.options());
            is_let_in(
                &lab,
                &gateway,
                site,
                &Connection {
                    ids: IdKind::Dn,
                    ..usual
                },
            )?;
        }
    }
    Ok(())
}

#[test]
fn a_site_behind_nat() -> Result<()> {
    let (lab, gateway) = lab_and_gateway(
        Options {
            nat: true,
            ..Options::default()
        },
        &Config::usual(Auth::Rsa),
    )?;
    let usual = Connection::of_site(Site::One, Auth::Rsa, lab.options());
    is_let_in(&lab, &gateway, Site::One, &usual)
}

#[test]
fn ike_with_and_without_fragmentation() -> Result<()> {
    let (lab, gateway) = lab_and_gateway(Options::default(), &Config::usual(Auth::Rsa))?;
    for fragmentation in ["force", "no"] {
        for site in Site::BOTH {
            let usual = Connection::of_site(site, Auth::Rsa, lab.options());
            let connection = Connection {
                fragmentation,
                ..usual
            };
            let router = lab.start_site_with(site, &connection)?;
            router
                .initiate()
                .with_context(|| format!("fragmentation = {fragmentation}:\n{}", gateway.log()))?;
            center::fetch(site.terminal(), "/whoami")?;
            router.terminate()?;
            router.stop();
        }
    }
    Ok(())
}

#[test]
fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    is_refused(Site::One, |usual| Connection {
        authority: ROGUE,
        ..usual
    })
}

#[test]
fn a_certificate_whose_name_is_not_configured_is_refused() -> Result<()> {
    is_refused(Site::Two, |usual| Connection {
        holder: STRANGER,
        ..usual
    })
}

#[test]
fn a_revoked_certificate_is_refused_whoever_begins() -> Result<()> {
    for auth in Auth::BOTH {
        let config = Config {
            intermediate: true,
            revocation_list: true,
            connections: true,
            ..Config::usual(auth)
        };
        let (lab, gateway) = lab_and_gateway(Options::default(), &config)?;
        let usual = Connection {
            authority: auth.intermediate(),
            ..Connection::of_site(Site::One, auth, lab.options())
        };
        let revoked = |usual| Connection {
            holder: REVOKED,
            ..usual
        };
        is_refused_for(&lab, &gateway, Site::One, &usual, revoked)?;
        ensure!(
            gateway.logs("revoked"),
            "refused, but for another reason:\n{}",
            gateway.log()
        );

        let router = lab.start_site_with(Site::One, &revoked(usual.clone()))?;
        let up = gateway.try_cli(&["connection", "up", "site1"])?;
        let words = String::from_utf8_lossy(&up.stderr).into_owned();
        ensure!(!up.status.success(), "the gateway brought the tunnel up");
        ensure!(
            words.contains("revoked"),
            "refused, but for another reason: {words}"
        );
        ensure!(router.tunnel()?.is_none(), "the router has an SA");
    }
    Ok(())
}

#[test]
fn the_router_refuses_a_gateway_of_another_authority() -> Result<()> {
    // The other direction: strongSwan must find our certificate wrong when it trusts somebody else only.
    let (lab, _gateway) = lab_and_gateway(Options::default(), &Config::usual(Auth::Rsa))?;
    let usual = Connection::of_site(Site::One, Auth::Rsa, lab.options());
    let router = lab.start_site_with(
        Site::One,
        &Connection {
            peer_authority: ROGUE,
            ..usual
        },
    )?;
    ensure!(
        router.initiate().is_err(),
        "strongSwan trusted a certificate of an authority it does not know"
    );
    Ok(())
}

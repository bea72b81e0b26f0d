//! The control experiment: the same lab and transfers with strongSwan in the gateway's place. When this fails, the lab
//! is at fault and not the gateway.

use anyhow::Result;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::cmd;
use xtask::lab::pki::Auth;
use xtask::lab::topology::{Options, Site};
use xtask::lab::{Lab, center};

fn through_strongswan(site: Site, auth: Auth, nat: bool) -> Result<()> {
    let lab = Lab::up(Options {
        nat,
        kernel_forwards_in_gateway: true,
        ..Options::default()
    })?;
    let _gateway = lab.start_strongswan_gateway(site, auth)?;
    let router = lab.start_site(site, auth)?;
    let direct = cmd::output(&mut center::curl(site.terminal(), &center::url("/whoami"), 1));
    assert!(
        direct.is_err(),
        "the server must be out of reach without a tunnel"
    );
    router.initiate()?;
    assert_eq!(center::fetch(site.terminal(), "/whoami")?, "192.168.1.10\n");
    for direction in Direction::BOTH {
        Transfer::start(site.terminal(), direction, None)?.finish()?;
    }
    router.rekey_child()?;
    router.rekey_ike()?;
    assert_eq!(center::fetch(site.terminal(), "/whoami")?, "192.168.1.10\n");
    router.terminate()
}

#[test]
fn strongswan_over_ipv4_with_rsa() -> Result<()> {
    through_strongswan(Site::One, Auth::Rsa, false)
}

#[test]
fn strongswan_over_ipv4_behind_nat_with_ecdsa() -> Result<()> {
    through_strongswan(Site::One, Auth::Ecdsa, true)
}

#[test]
fn strongswan_over_ipv6_with_ecdsa() -> Result<()> {
    through_strongswan(Site::Two, Auth::Ecdsa, false)
}

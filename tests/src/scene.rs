//! The lab as most tests want it: gateway up, a router at each site.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::lab::Lab;
use xtask::lab::gateway::{Config, Gateway};
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::StrongSwan;
use xtask::lab::topology::{Options, Site};

/// How long a rekey may take, with one more try of whoever found the other side busy.
const REKEY_S: u64 = 40;

/// A lab with the gateway and both sites' routers running. Dropping it takes everything down.
#[derive(Debug)]
pub struct Scene {
    /// The gateway under test.
    pub gateway: Gateway,
    /// Site 1's router.
    pub site1: StrongSwan,
    /// Site 2's router.
    pub site2: StrongSwan,
    /// The lab itself.
    pub lab: Lab,
}

impl Scene {
    /// Gateway and routers run; no tunnel is up.
    pub fn without_tunnels(options: Options, config: &Config) -> Result<Self> {
        let lab = Lab::up(options)?;
        let gateway = lab.start_gateway(config)?;
        let site1 = lab.start_site(Site::One, config.auth)?;
        let site2 = lab.start_site(Site::Two, config.auth)?;
        Ok(Self {
            gateway,
            site1,
            site2,
            lab,
        })
    }

    /// Both tunnels are up, with RSA certificates and AES-256-GCM.
    pub fn with_tunnels() -> Result<Self> {
        let scene = Self::without_tunnels(Options::default(), &Config::usual(Auth::Rsa))?;
        for site in Site::BOTH {
            let log = || {
                format!(
                    "{}: no tunnel; the gateway's log:\n{}",
                    site.name(),
                    scene.gateway.log()
                )
            };
            scene.router(site).initiate().with_context(log)?;
        }
        Ok(scene)
    }

    /// A site's router.
    #[must_use]
    pub fn router(&self, site: Site) -> &StrongSwan {
        match site {
            Site::One => &self.site1,
            Site::Two => &self.site2,
        }
    }

    /// Has the gateway rekey a site's Child SA, or its IKE SA, and waits until the site's router has the new one.
    pub fn rekey_by_gateway(&self, site: Site, ike: bool) -> Result<()> {
        let router = self.router(site);
        let old = router.tunnel()?.context("no tunnel to rekey")?;
        let mut verb = vec!["sa", "rekey", "--site", site.name()];
        verb.extend(ike.then_some("--ike"));
        self.gateway.cli(&verb)?;
        let deadline = Instant::now() + Duration::from_secs(REKEY_S);
        loop {
            let replaced = router.tunnel()?.is_some_and(|new| match ike {
                true => new.ike_spis != old.ike_spis,
                false => new.spi_in != old.spi_in,
            });
            if replaced {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{}: no new SA in {REKEY_S} s; the gateway's log:\n{}",
                    site.name(),
                    self.gateway.log()
                );
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Packets dropped so far for the reason of this name.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.gateway.drops()?.get(reason).copied().unwrap_or(0))
    }

    /// Waits until `expected` more packets than `before` were dropped for this reason.
    ///
    /// # Errors
    /// When fewer or more were, with all counters.
    pub fn expect_dropped(&self, reason: &str, before: u64, expected: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let more = self.dropped(reason)?.saturating_sub(before);
            if more == expected {
                return Ok(());
            }
            if more > expected || Instant::now() > deadline {
                bail!(
                    "{more} packets dropped as {reason}, not {expected}; all drops: {:?}",
                    self.gateway.drops()?
                );
            }
            sleep(Duration::from_millis(20));
        }
    }
}

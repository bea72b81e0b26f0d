//! A path to a site that gets narrower than its first link: a router on it says so by ICMP (RFC 1191, RFC 8201), and the
//! tunnel follows (RFC 4301 section 8.2). Each site's line has the tap that the router's word comes from.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::frames::{checksum, ethernet, ipv4, ipv6};
use gateway_tests::scene::Scene;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::lab::center::fetch;
use xtask::lab::tap::{Outer, Tap};
use xtask::lab::topology::Site;

const ETHERNET: usize = 14;

/// What the path carries from now on; IPv6 paths carry 1280 at least.
const fn narrow(site: Site) -> u16 {
    match site {
        Site::One => 1000,
        Site::Two => 1300,
    }
}

/// ESP that the gateway sent to the site.
fn sent_by_gateway(site: Site, tap: &Tap) -> Result<Vec<u8>> {
    fetch(site.terminal(), "/whoami")?;
    let own = tap.address();
    let frame = tap.wait_for(Duration::from_secs(2), |frame| {
        frame.get(..6) == Some(&own) && Outer::parse(frame).is_some_and(|outer| outer.esp_at().is_some())
    })?;
    frame.context("the gateway sent no ESP")
}

/// A router's word about a frame of the gateway.
fn too_big(about: &[u8], mtu: u16) -> Result<Vec<u8>> {
    let (macs, quote) = about.split_at_checked(ETHERNET).context("no frame")?;
    let quote = quote.get(..quote.len().min(128)).context("length")?;
    let mac = |at: usize| -> Result<[u8; 6]> { Ok(macs.get(at..at + 6).context("MAC")?.try_into()?) };
    let mtu = mtu.to_be_bytes();
    let (ether_type, packet) = if quote.first().context("empty")? >> 4 == 4 {
        let address = |at: usize| -> Result<[u8; 4]> { Ok(quote.get(at..at + 4).context("IP")?.try_into()?) };
        let mut icmp = [&[3, 4, 0, 0, 0, 0][..], &mtu, quote].concat();
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum);
        (0x0800, ipv4(1, address(16)?, address(12)?, &icmp))
    } else {
        let address =
            |at: usize| -> Result<[u8; 16]> { Ok(quote.get(at..at + 16).context("IP")?.try_into()?) };
        let mut icmp = [&[2, 0, 0, 0, 0, 0][..], &mtu, quote].concat();
        let length = (icmp.len() as u32).to_be_bytes();
        let (router, gateway) = (address(24)?, address(8)?);
        let sum = checksum(&[&router[..], &gateway, &length, &[0, 0, 0, 58], &icmp].concat());
        icmp[2..4].copy_from_slice(&sum);
        (0x86dd, ipv6(58, router, gateway, &icmp))
    };
    Ok(ethernet(mac(6)?, mac(0)?, ether_type, &packet))
}

/// Downloads, and answers the length of the longest packet that the gateway sent to the site meanwhile.
fn longest_of_a_download(site: Site, tap: &Tap) -> Result<usize> {
    // What is left of the one before is not this one's.
    drop(tap.frames()?);
    let mut transfer = Transfer::start(site.terminal(), Direction::Download, None)?;
    let own = tap.address();
    let mut longest = 0;
    while transfer.is_running()? {
        let to_site = tap
            .frames()?
            .into_iter()
            .filter(|frame| frame.get(..6) == Some(&own));
        longest = to_site.map(|frame| frame.len()).fold(longest, usize::max);
    }
    transfer.finish()?;
    Ok(longest.saturating_sub(ETHERNET))
}

#[test]
fn a_tunnel_follows_what_a_router_of_its_path_says() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let tap = Tap::open(site.router(), "wan")?;
        let about = sent_by_gateway(site, &tap)?;
        let mtu = narrow(site);
        let before = longest_of_a_download(site, &tap)?;
        ensure!(before > usize::from(mtu), "{site:?}: {before} octets at most");

        let forged = {
            let mut frame = about.clone();
            let at = Outer::parse(&frame)
                .and_then(|outer| outer.esp_at())
                .context("no ESP")?;
            *frame.get_mut(at).context("SPI")? ^= 1;
            too_big(&frame, mtu)?
        };
        let (heeded, refused) = (scene.dropped("path_mtu")?, scene.dropped("path_mtu_refused")?);
        tap.send(&forged)?;
        tap.send(&too_big(&about, 500)?)?;
        scene.expect_dropped("path_mtu_refused", refused, 2)?;
        let forged = longest_of_a_download(site, &tap)?;
        ensure!(
            forged == before,
            "{site:?}: {forged}, not {before} octets after a forged one"
        );

        tap.send(&too_big(&about, mtu)?)?;
        scene.expect_dropped("path_mtu", heeded, 1)?;
        let until = Instant::now() + Duration::from_secs(5);
        let says = format!("now={mtu}");
        while !scene.gateway.log().contains(&says) {
            ensure!(Instant::now() < until, "{}", scene.gateway.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = longest_of_a_download(site, &tap)?;
        ensure!(
            after <= usize::from(mtu),
            "{site:?}: {after} octets on a path of {mtu}"
        );
        // A rekeyed SA goes the same way.
        scene.rekey_by_gateway(site, false)?;
        let rekeyed = longest_of_a_download(site, &tap)?;
        ensure!(
            rekeyed <= usize::from(mtu),
            "{site:?}: {rekeyed} octets after a rekey"
        );
    }
    Ok(())
}

//! Packets from outside that no honest router sends: each is dropped and counted under its reason, and the tunnel that
//! they imitate goes on.

use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use gateway_tests::scene::Scene;
use xtask::lab::center::fetch;
use xtask::lab::line::Line;
use xtask::lab::tap::{Outer, Tap, mend_udp_checksum};
use xtask::lab::topology::{GATEWAY_WAN4, GATEWAY_WAN6, Site};

/// A frame with ESP that the site's router sent, and the tap that saw it.
fn genuine(site: Site) -> Result<(Tap, Vec<u8>)> {
    let tap = Tap::open(site.router(), "wan")?;
    fetch(site.terminal(), "/whoami")?;
    let own = tap.address();
    let frame = tap.wait_for(Duration::from_secs(2), |frame| {
        frame.get(6..12) == Some(&own) && Outer::parse(frame).is_some_and(|outer| outer.esp_at().is_some())
    })?;
    Ok((tap, frame.context("the router sent no ESP")?))
}

fn esp_at(frame: &[u8]) -> Result<usize> {
    Outer::parse(frame)
        .and_then(|outer| outer.esp_at())
        .context("no ESP")
}

/// Sets one octet and mends the UDP checksum, so that only ESP can find fault.
fn with_octet(frame: &[u8], at: usize, change: impl Fn(u8) -> u8) -> Result<Vec<u8>> {
    let mut frame = frame.to_vec();
    let octet = frame.get_mut(at).context("offset")?;
    *octet = change(*octet);
    mend_udp_checksum(&mut frame);
    Ok(frame)
}

#[test]
fn replayed_packets_are_counted_and_not_delivered() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let (tap, frame) = genuine(site)?;
        let before = scene.dropped("esp_replay")?;
        for _ in 0..5 {
            tap.send(&frame)?;
        }
        scene.expect_dropped("esp_replay", before, 5)?;
        fetch(site.terminal(), "/whoami")?;
    }
    Ok(())
}

#[test]
fn forged_packets_are_counted_and_do_not_move_the_window() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let (tap, frame) = genuine(site)?;
        let at = esp_at(&frame)?;
        let before = scene.dropped("esp_authentication")?;
        // A sequence number far ahead: accepted, it would push every honest packet out of the window.
        let ahead = with_octet(&frame, at + 5, |octet| octet.wrapping_add(1))?;
        tap.send(&ahead)?;
        let last = frame.len().checked_sub(1).context("empty")?;
        tap.send(&with_octet(&ahead, last, |octet| octet ^ 1)?)?;
        tap.send(&with_octet(&ahead, at + 20, |octet| octet ^ 0x80)?)?;
        scene.expect_dropped("esp_authentication", before, 3)?;
        fetch(site.terminal(), "/whoami")?;
    }
    Ok(())
}

/// More than a worker's receive queue takes, while nobody empties it: the kernel loses the rest, which no program sees.
#[test]
fn packets_that_find_the_worker_s_queue_full_are_counted() -> Result<()> {
    const SENT: u64 = 4_000;
    /// What else may be lost, or may come, on the way there.
    const MARGIN: u64 = 100;
    let scene = Scene::with_tunnels()?;
    let (tap, frame) = genuine(Site::One)?;
    let frames = vec![frame.clone(); SENT as usize];
    let mut line = Line::open(Site::One.router(), "wan")?;
    let reasons = ["worker_queue_full", "esp_replay"];
    let counted = || anyhow::Ok([scene.dropped(reasons[0])?, scene.dropped(reasons[1])?]);
    let before = counted()?;
    scene.gateway.while_stopped(|| {
        line.send(&frames)?;
        // On a busy machine the kernel delivers later what was sent.
        sleep(Duration::from_secs(1));
        Ok(())
    })?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let now = counted()?;
        let [full, replayed] = [now[0] - before[0], now[1] - before[1]];
        let all = full + replayed;
        if (SENT - MARGIN..=SENT + MARGIN).contains(&all) && full > SENT / 4 && replayed > 0 {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "of {SENT} packets {full} were counted as {}, {replayed} as {}",
            reasons[0],
            reasons[1]
        );
        // A worker asks the kernel once a second, if it is awake.
        tap.send(&frame)?;
        sleep(Duration::from_millis(200));
    }
    fetch(Site::One.terminal(), "/whoami")?;
    Ok(())
}

#[test]
fn unknown_spis_are_counted() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let (tap, frame) = genuine(site)?;
        let at = esp_at(&frame)?;
        let before = scene.dropped("unknown_spi")?;
        for change in 1..=8 {
            tap.send(&with_octet(&frame, at + 2, |octet| octet ^ change)?)?;
        }
        scene.expect_dropped("unknown_spi", before, 8)?;
    }
    Ok(())
}

#[test]
fn malformed_outer_packets_are_counted() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let (tap, frame) = genuine(Site::One)?;
    let cut = |length: usize| frame.get(..length).map(<[u8]>::to_vec).context("length");
    let first_fragment = with_octet(&frame, 14 + 6, |octet| octet | 0x20)?;
    let cases: [(&str, Vec<u8>); 6] = [
        ("truncated_ip", cut(14 + 12)?),
        ("malformed_ip", mended_ip4(with_octet(&frame, 14, |_| 0x44)?)),
        (
            "outer_fragment",
            mended_ip4(with_octet(&first_fragment, 14 + 9, |_| 47)?),
        ),
        // RFC 791 section 3.2: all but the last one are multiples of eight.
        ("fragment_malformed", of_odd_length(&first_fragment)?),
        ("outer_protocol", mended_ip4(with_octet(&frame, 14 + 9, |_| 47)?)),
        (
            "sa_destination",
            mended_ip4(with_octet(&frame, 14 + 19, |octet| octet ^ 0x40)?),
        ),
    ];
    for (reason, bad) in cases {
        let before = scene.dropped(reason)?;
        tap.send(&bad)?;
        scene.expect_dropped(reason, before, 1)?;
    }
    fetch(Site::One.terminal(), "/whoami")?;
    Ok(())
}

/// The frame with nine octets behind its IP header.
fn of_odd_length(frame: &[u8]) -> Result<Vec<u8>> {
    let mut frame = frame.get(..14 + 29).context("too short")?.to_vec();
    frame[16..18].copy_from_slice(&29u16.to_be_bytes());
    Ok(mended_ip4(frame))
}

/// Sends payloads to the gateway's IKE port from the site's router.
fn send_ike(site: Site, port: u16, payloads: &[Vec<u8>]) -> Result<()> {
    let (local, gateway) = match site {
        Site::One => ("0.0.0.0:0", GATEWAY_WAN4),
        Site::Two => ("[::]:0", GATEWAY_WAN6),
    };
    site.router().enter(|| {
        let socket = UdpSocket::bind(local)?;
        for payload in payloads {
            socket.send_to(payload, (gateway, port))?;
        }
        Ok(())
    })
}

/// An IKE header (RFC 7296 section 3.1) with SPIs that nobody has, of an INFORMATIONAL request.
fn ike_header(version: u8, length: u32) -> Vec<u8> {
    let mut header = vec![0x5a; 16];
    header.extend([46, version, 37, 0x08, 0, 0, 0, 1]);
    header.extend(length.to_be_bytes());
    header
}

#[test]
fn hostile_ike_messages_are_counted() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let cases: [(&str, Vec<u8>); 4] = [
        ("ike_malformed", vec![0x25; 200]),
        ("ike_malformed", ike_header(0x20, 4000)),
        ("ike_version", ike_header(0x30, 28)),
        ("ike_unknown_spi", ike_header(0x20, 28)),
    ];
    for site in Site::BOTH {
        for (reason, payload) in &cases {
            let before = scene.dropped(reason)?;
            let marked = [vec![0; 4], payload.clone()].concat();
            send_ike(site, 500, std::slice::from_ref(payload))?;
            send_ike(site, 4500, &[marked])?;
            scene
                .expect_dropped(reason, before, 2)
                .with_context(|| format!("{}: {:02x?}", site.name(), &payload[..20]))?;
        }
        fetch(site.terminal(), "/whoami")?;
        scene.router(site).rekey_child()?;
    }
    Ok(())
}

#[test]
fn a_flood_of_ike_from_one_source_is_limited_and_counted() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let flood = vec![ike_header(0x20, 28); 2_000];
    send_ike(Site::One, 500, &flood)?;
    let deadline = Instant::now() + Duration::from_secs(3);
    while scene.dropped("ike_rate_limit")? == 0 {
        ensure!(Instant::now() < deadline, "none of {} was refused", flood.len());
    }
    let passed = scene.dropped("ike_unknown_spi")?;
    let limited = scene.dropped("ike_rate_limit")?;
    ensure!(limited > passed, "{passed} passed, {limited} were refused");
    // The other site is not touched.
    scene.router(Site::Two).rekey_child()?;
    fetch(Site::Two.terminal(), "/whoami")?;
    Ok(())
}

/// Sends IKE that is on no IKE SA in a site's name, several thousand messages a second, for as long as `act` takes.
fn while_ike_is_forged<T>(site: Site, act: impl FnOnce() -> Result<T>) -> Result<T> {
    const A_BURST: usize = 50;
    const PAUSE: Duration = Duration::from_millis(8);
    let is_over = AtomicBool::new(false);
    let burst = vec![ike_header(0x20, 28); A_BURST];
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                send_ike(site, 500, &burst)?;
                sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let done = act();
        is_over.store(true, Relaxed);
        let flooded = flood.join().map_err(|_| anyhow!("the flood panicked"))?;
        flooded.and(done)
    })
}

/// Regression: they used up what the site's address may send, so that `wan` dropped the site's own.
#[test]
fn ike_that_is_forged_in_a_sites_name_keeps_none_of_its_own_from_passing() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let router = scene.router(site);
        let limited = || scene.dropped("ike_rate_limit");
        let at_first = limited()?;
        while_ike_is_forged(site, || {
            let deadline = Instant::now() + Duration::from_secs(5);
            while limited()? == at_first {
                ensure!(Instant::now() < deadline, "nothing was too much");
            }
            for _ in 0..2 {
                let before = limited()?;
                router.rekey_child()?;
                router.rekey_ike()?;
                scene.rekey_by_gateway(site, false)?;
                scene.rekey_by_gateway(site, true)?;
                let during = limited()? - before;
                ensure!(during > 0, "the flood had ended");
            }
            Ok(())
        })
        .with_context(|| {
            format!(
                "{}; {} dropped",
                site.name(),
                scene.dropped("ike_rate_limit").unwrap_or(0)
            )
        })?;
        fetch(site.terminal(), "/whoami")?;
    }
    Ok(())
}

/// Recomputes the IPv4 header checksum over 20 octets, so that only the altered field is wrong.
fn mended_ip4(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(header) = frame.get_mut(14..34) {
        header[10..12].fill(0);
        let mut sum: u32 = header
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    frame
}

//! Nanoseconds a packet that `seal` and `open` take on one core, replay window, selectors and headers included:
//! the median of many batches. Run with `--release`.

use anyhow::{Context, Result};
use core::net::Ipv4Addr;
use core::ops::Range;
use gateway_esp::tunnel::Received;
use gateway_esp::{
    HEADROOM_MAX, InboundConfig, InboundSa, IvKey, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa,
    OuterDf, REPLAY_WINDOW_DEFAULT, Selectors, Suite, TAILROOM_MAX, Tunnel,
};
use std::time::Instant;

const SPI: u32 = 0x1000;
const BATCH: usize = 64;
const ROUNDS: usize = 501;
const SIZES: [usize; 4] = [64, 256, 512, 1400];

fn main() -> Result<()> {
    println!("ns per packet, seal / open; inner packets of {SIZES:?} octets");
    for suite in Suite::ALL {
        print!("{:18}", suite.name());
        for size in SIZES {
            let (seal_ns, open_ns) = measure(suite, size)?;
            print!("{seal_ns:8} /{open_ns:5}");
        }
        println!();
    }
    Ok(())
}

/// Medians of sealing and opening one packet of `size` octets, in nanoseconds.
fn measure(suite: Suite, size: usize) -> Result<(u128, u128)> {
    let (mut sender, mut receiver) = pair(suite)?;
    let place = HEADROOM_MAX..HEADROOM_MAX + size;
    let inner = inner_packet(size);
    let mut frames = vec![vec![0; place.end + TAILROOM_MAX]; BATCH];
    let mut sealed: Vec<Range<usize>> = Vec::with_capacity(BATCH);
    let (mut seal_ns, mut open_ns) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for frame in &mut frames {
            frame
                .get_mut(place.clone())
                .context("inner packet's place")?
                .copy_from_slice(&inner);
        }
        sealed.clear();
        let start = Instant::now();
        for frame in &mut frames {
            sealed.push(sender.seal(frame, place.clone())?);
        }
        seal_ns.push(start.elapsed().as_nanos() / BATCH as u128);
        let start = Instant::now();
        for (frame, range) in frames.iter_mut().zip(&sealed) {
            let frame = frame.get_mut(range.clone()).context("sealed frame's place")?;
            let received = Received::parse(frame)?;
            receiver.open(
                frame.get_mut(received.esp).context("ESP packet's place")?,
                received.tos,
            )?;
        }
        open_ns.push(start.elapsed().as_nanos() / BATCH as u128);
    }
    Ok((median(seal_ns)?, median(open_ns)?))
}

fn median(mut values: Vec<u128>) -> Result<u128> {
    values.sort_unstable();
    values.get(values.len() / 2).copied().context("no rounds")
}

fn pair(suite: Suite) -> Result<(OutboundSa, InboundSa)> {
    let keys = || {
        KeyMaterial::new(
            &vec![7; suite.encryption_key_len()],
            &vec![9; suite.integrity_key_len()],
        )
    };
    let sender = OutboundSa::new(OutboundConfig {
        spi: SPI,
        suite,
        keys: keys(),
        esn: true,
        first_sequence: 1,
        iv_key: IvKey::new([5; 16]),
        selectors: Selectors::any(),
        tunnel: Tunnel {
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
            remote: Ipv4Addr::new(198, 51, 100, 7).into(),
            udp: None,
            link: LinkHeader {
                destination: [2, 0, 0, 0, 0, 2],
                source: [2, 0, 0, 0, 0, 1],
            },
            mtu: 1500,
            df: OuterDf::Set,
        },
    })?;
    let receiver = InboundSa::new(InboundConfig {
        spi: SPI,
        suite,
        keys: keys(),
        esn: true,
        replay_window: REPLAY_WINDOW_DEFAULT,
        selectors: Selectors::any(),
    })?;
    Ok((sender, receiver))
}

fn inner_packet(size: usize) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 192, 168, 1, 10, 10, 1, 0, 80,
    ];
    packet.splice(2..4, (size as u16).to_be_bytes());
    packet.resize(size, 0x61);
    packet
}

//! The kernel's packet generator, driven through the files of `/proc/net/pktgen` (Linux, Documentation/networking/pktgen.rst).
//!
//! There is one such folder in each network namespace: the thread that uses it has moved into the generator's.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Where the calling thread's namespace has it.
const FOLDER: &str = "/proc/thread-self/net/pktgen";
/// The file of all threads of the generator.
const ALL: &str = "pgctrl";

/// What ends a run that nobody stops. No run that is measured lasts as long.
const PACKETS_MAX: u64 = 200_000_000;

/// What is generated: UDP in IPv4, until it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The interface it goes out of.
    pub interface: String,
    /// Destination and source address of the Ethernet header. The link header of the clear link has its shape.
    pub macs: [[u8; 6]; 2],
    /// How many such headers there are from it on, counted in the destination's last octets, where the link header has the
    /// site: 1, or 3 and more. They take turns, as all that follows does; together they are as many as the numbers' least
    /// common multiple.
    pub sites: u16,
    /// Source and destination.
    pub addresses: [Ipv4Addr; 2],
    /// How many destinations there are from it on.
    pub destinations: u16,
    /// Lowest source port, and how many there are from it on; they take turns.
    pub source_ports: (u16, u16),
    /// The same of destination ports.
    pub destination_ports: (u16, u16),
    /// Octets of a frame, without the four of its check sequence.
    pub frame_octets: u16,
    /// How fast; as fast as it goes, if nothing is said.
    pub packets_per_s: Option<u32>,
}

impl Stream {
    /// The lines that the interface's file is told.
    fn commands(&self) -> Vec<String> {
        let [destination_mac, source_mac] = self.macs.map(mac);
        let [source, destination] = self.addresses;
        let ports = |name: &str, (lowest, number): (u16, u16)| {
            let last = lowest.saturating_add(number.saturating_sub(1));
            // One above the last: it is not reached, except where both are the same.
            let limit = u32::from(last) + u32::from(number > 1);
            [format!("{name}_min {lowest}"), format!("{name}_max {limit}")]
        };
        let [source_low, source_high] = ports("udp_src", self.source_ports);
        let [destination_low, destination_high] = ports("udp_dst", self.destination_ports);
        // The generator counts from zero to this, inclusive, and takes 1 for one.
        let last_site = self.sites.saturating_sub(1);
        let last_destination = Ipv4Addr::from(u32::from(destination) + u32::from(self.destinations) - 1);
        vec![
            format!("count {PACKETS_MAX}"),
            self.packets_per_s
                .map_or_else(|| "delay 0".to_owned(), |rate| format!("ratep {rate}")),
            "clone_skb 0".to_owned(),
            format!("pkt_size {}", self.frame_octets),
            format!("dst_mac {destination_mac}"),
            format!("src_mac {source_mac}"),
            format!("dst_mac_count {last_site}"),
            format!("src_min {source}"),
            format!("src_max {source}"),
            format!("dst_min {destination}"),
            format!("dst_max {last_destination}"),
            source_low,
            source_high,
            destination_low,
            destination_high,
        ]
    }
}

/// Whether the kernel has it, perhaps after loading the module.
#[must_use]
pub fn is_there() -> bool {
    Path::new(FOLDER).exists()
        || (crate::cmd::output(&mut crate::cmd::cmd("modprobe", ["pktgen"])).is_ok()
            && Path::new(FOLDER).exists())
}

/// Gives the thread of CPU `cpu` this stream, and no other.
///
/// # Errors
/// What the generator refused.
pub fn configure(cpu: usize, stream: &Stream) -> Result<()> {
    let thread = file(&format!("kpktgend_{cpu}"));
    tell(&thread, "rem_device_all")?;
    tell(&thread, &format!("add_device {}", stream.interface))?;
    for command in stream.commands() {
        tell(&file(&stream.interface), &command)?;
    }
    Ok(())
}

/// Generates until [`stop`], which another thread calls.
///
/// # Errors
/// The generator is not there.
pub fn run() -> Result<()> {
    tell_all("start")
}

/// Ends what [`run`] began.
///
/// # Errors
/// The generator is not there.
pub fn stop() -> Result<()> {
    tell_all("stop")
}

/// The file of all threads takes the last octet for the end of the line, whatever it is.
fn tell_all(command: &str) -> Result<()> {
    let all = file(ALL);
    fs::write(&all, format!("{command}\n")).with_context(|| format!("{}: {command}", all.display()))
}

/// What the last run on an interface came to; waits until it has ended.
///
/// # Errors
/// It does not end, or says something else.
pub fn result(interface: &str, limit: Duration) -> Result<Sent> {
    let path = file(interface);
    let deadline = Instant::now() + limit;
    loop {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        match Sent::parse(&text) {
            Some(sent) => return Ok(sent),
            None if Instant::now() > deadline => bail!("{}: no result:\n{text}", path.display()),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What a run came to, as the generator counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Packets handed to the interface, taken or not.
    pub packets: u64,
    /// Packets in a second.
    pub per_s: u64,
    /// Packets that the interface did not take.
    pub errors: u64,
}

impl Sent {
    /// Reads the last two lines of an interface's file; none if the run has not ended.
    fn parse(text: &str) -> Option<Self> {
        let (_, result) = text.split_once("Result: OK: ")?;
        // `41(c40+d1) usec, 1000 (60byte,0frags)`, then `243486pps 116Mb/sec (116873280bps) errors: 0`
        let (_, packets) = result.lines().next()?.split_once("usec, ")?;
        let rates = result.lines().nth(1)?.trim();
        Some(Self {
            packets: packets.split_whitespace().next()?.parse().ok()?,
            per_s: rates.split_once("pps ")?.0.parse().ok()?,
            errors: rates.split_once("errors: ")?.1.trim().parse().ok()?,
        })
    }
}

/// Writes a command and reads what became of it. The generator reads a word until the end of the line, and past the end of
/// what was written where there is none.
fn tell(path: &Path, command: &str) -> Result<()> {
    fs::write(path, format!("{command}\n")).with_context(|| format!("{}: {command}", path.display()))?;
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let refusal = refusal(&text);
    ensure!(
        refusal.is_none(),
        "{}: {command}: {}",
        path.display(),
        refusal.unwrap_or_default()
    );
    Ok(())
}

/// The result that a file of the generator shows, unless all is well.
fn refusal(text: &str) -> Option<&str> {
    let (_, result) = text.rsplit_once("Result:")?;
    let result = result.trim();
    (!result.starts_with("OK") && !result.starts_with("NA") && result != "Idle").then_some(result)
}

fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// A MAC address as people write it.
#[must_use]
pub fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface's file as a run leaves it (Linux 6.12), shortened.
    const ENDED: &str = "\
Params: count 0  min_pkt_size: 60  max_pkt_size: 60
     frags: 0  delay: 0  clone_skb: 0  ifname: g0
Current:
     pkts-sofar: 1000  errors: 3
     started: 12us  stopped: 4119us idle: 8us
Result: OK: 4107(c4098+d8) usec, 1000 (60byte,0frags)
  243486pps 116Mb/sec (116873280bps) errors: 3
";

    #[test]
    fn the_result_of_a_run_is_read() {
        let sent = Sent {
            packets: 1000,
            per_s: 243_486,
            errors: 3,
        };
        assert_eq!(Sent::parse(ENDED), Some(sent));
    }

    #[test]
    fn a_run_that_goes_on_has_no_result() {
        for line in [
            "Result: Running",
            "Result: Idle",
            "Result: OK: dst_mac",
            "Result: OK: ",
        ] {
            let (before, _) = ENDED.split_once("Result").unwrap();
            assert_eq!(Sent::parse(&format!("{before}{line}\n")), None, "{line}");
        }
    }

    #[test]
    fn a_refused_command_is_told_from_one_that_was_taken() {
        assert_eq!(refusal("Params: x\nResult: OK: dst_mac 020000000001\n"), None);
        assert_eq!(refusal("Running: \nStopped: g0\nResult: NA\n"), None);
        assert_eq!(refusal(ENDED), None);
        assert_eq!(
            refusal("Result: No such parameter \"x\"\n"),
            Some("No such parameter \"x\"")
        );
        assert_eq!(
            refusal("Result: Error: can not add device g9"),
            Some("Error: can not add device g9")
        );
    }

    #[test]
    fn the_upper_end_of_source_ports_is_told_as_the_generator_reads_it() {
        let mut stream = Stream {
            interface: "g0".to_owned(),
            macs: [[2, 0, 0, 0, 0, 1], [2, 1, 0, 0, 0, 0]],
            sites: 1,
            addresses: [Ipv4Addr::new(192, 168, 1, 10), Ipv4Addr::new(203, 0, 113, 10)],
            destinations: 1,
            source_ports: (2000, 1),
            destination_ports: (9, 1),
            frame_octets: 60,
            packets_per_s: None,
        };
        let said = |stream: &Stream, line: &str| stream.commands().contains(&line.to_owned());
        assert!(said(&stream, "udp_src_max 2000"));
        assert!(said(&stream, "dst_mac 02:00:00:00:00:01"));
        stream.source_ports = (2000, 10_000);
        assert!(said(&stream, "udp_src_min 2000") && said(&stream, "udp_src_max 12000"));
    }

    #[test]
    fn sites_and_destinations_are_told_by_their_last_ones() {
        let stream = Stream {
            interface: "g0".to_owned(),
            macs: [[2, 0, 0, 0, 0, 1], [2, 1, 0, 0, 0, 0]],
            sites: 1009,
            addresses: [Ipv4Addr::new(192, 168, 1, 10), Ipv4Addr::new(198, 19, 0, 1)],
            destinations: 4093,
            source_ports: (2000, 1),
            destination_ports: (9, 1),
            frame_octets: 60,
            packets_per_s: None,
        };
        let commands = stream.commands();
        assert!(commands.contains(&"delay 0".to_owned()));
        for line in [
            "dst_mac_count 1008",
            "dst_min 198.19.0.1",
            "dst_max 198.19.15.253",
        ] {
            assert!(
                commands.contains(&line.to_owned()),
                "{line} is not in {commands:?}"
            );
        }
    }
}

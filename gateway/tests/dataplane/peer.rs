//! A site's router, which is this test.

use super::*;

/// A site's router: ESP by the crate, carried by a raw socket of the site's namespace.
pub(crate) struct Peer {
    socket: Socket,
    outbound: OutboundSa,
    inbound: InboundSa,
}

impl Peer {
    pub(crate) fn new(lab: &Lab, site: u32) -> Self {
        let socket = lab.within("site", || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP))).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        let selectors = Selectors::any();
        let outbound = OutboundSa::new(OutboundConfig {
            spi: spi_to_gateway(site),
            suite: SUITE,
            keys: keys(site),
            esn: true,
            first_sequence: 1,
            iv_key: gateway_esp::IvKey::new([0; 16]),
            selectors: selectors.clone(),
            tunnel: Tunnel {
                local: PEER.into(),
                remote: GATEWAY.into(),
                udp: None,
                link: LinkHeader {
                    destination: [0; 6],
                    source: [0; 6],
                },
                mtu: 1500,
                df: OuterDf::Set,
            },
        });
        let inbound = InboundSa::new(InboundConfig {
            spi: spi_to_site(site),
            suite: SUITE,
            keys: keys(0x80 + site),
            esn: true,
            replay_window: 1024,
            selectors,
        });
        Self {
            socket,
            outbound: outbound.unwrap(),
            inbound: inbound.unwrap(),
        }
    }

    /// The ESP packet around a UDP datagram of the terminal.
    pub(crate) fn seal(&mut self, source_port: u16, payload: &[u8]) -> Vec<u8> {
        self.seal_packet(&udp(source_port, ECHO_PORT, payload))
    }

    /// The ESP packet around a packet.
    pub(crate) fn seal_packet(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 256 + packet.len()];
        let inner = 128..128 + packet.len();
        frame[inner.clone()].copy_from_slice(packet);
        let sealed = self.outbound.seal(&mut frame, inner).unwrap();
        frame[sealed][OUTER_LEN..].to_vec()
    }

    pub(crate) fn send(&self, esp: &[u8]) {
        let gateway = SockAddr::from(SocketAddrV4::new(GATEWAY, 0));
        self.socket.send_to(esp, &gateway).unwrap();
    }

    /// The next inner packet for this SA, whole.
    pub(crate) fn receive_packet(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let Ok(len) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let octets: Vec<u8> = buffer[..len].iter().map(read).collect();
            let mut esp = octets[20..].to_vec();
            if let Ok(Opened::Packet { inner, .. }) = self.inbound.open(&mut esp, octets[1]) {
                return Some(esp[inner].to_vec());
            }
        }
        None
    }

    pub(crate) fn receive(&mut self, wait: Duration) -> Option<String> {
        let packet = self.receive_packet(wait)?;
        assert_eq!(packet[12..16], SERVER.octets(), "source");
        assert_eq!(packet[16..20], TERMINAL.octets(), "destination");
        Some(String::from_utf8_lossy(&packet[28..]).into_owned())
    }

    pub(crate) fn echo(&mut self, source_port: u16, payload: &str) -> Option<String> {
        let esp = self.seal(source_port, payload.as_bytes());
        self.send(&esp);
        self.receive(Duration::from_secs(2))
    }
}

/// `recv` filled the octets that it answered the number of.
#[allow(unsafe_code, reason = "socket2 reads into uninitialized memory")]
pub(crate) fn read(octet: &MaybeUninit<u8>) -> u8 {
    // SAFETY: only octets below the length that `recv` answered are read.
    unsafe { octet.assume_init() }
}

pub(crate) fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&TERMINAL.octets());
    packet.extend_from_slice(&SERVER.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&source_port.to_be_bytes());
    packet.extend_from_slice(&destination_port.to_be_bytes());
    packet.extend_from_slice(&udp_len.to_be_bytes());
    // No UDP checksum: lawful in IPv4.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

pub(crate) fn internet_checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

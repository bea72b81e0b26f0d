//! Sockets that several tests open.
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Sockets of one port over UDP and TCP. A port that is free over UDP may be a connection's over TCP at that moment: other tests
/// run beside.
pub(crate) fn one_port_of_both() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = udp.local_addr().expect("an address");
        match TcpListener::bind(address) {
            Ok(tcp) => return (udp, tcp, address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!("the same port over TCP: {error}"),
        }
    }
    panic!("of 100 ports that are free over UDP none is over TCP")
}

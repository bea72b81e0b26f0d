//! Sockets that several tests open.
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// A datagram that waits at a socket, and from where.
pub(crate) fn waiting(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut octets = [0; 1500];
    socket.set_nonblocking(true).expect("not blocking");
    let received = socket.recv_from(&mut octets);
    socket.set_nonblocking(false).expect("blocking");
    match received {
        Ok((length, from)) => Some((octets[..length].to_vec(), from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("a datagram: {error}"),
    }
}

/// The last of the datagrams that wait at a socket: a question that is asked again waits for its answer at another port.
pub(crate) fn newest(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    std::iter::from_fn(|| waiting(socket)).last()
}

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

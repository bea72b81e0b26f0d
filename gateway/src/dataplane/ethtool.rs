//! Offloads and queues of an interface, by the kernel's ethtool netlink family (Documentation/networking/ethtool-netlink.rst).
//!
//! XDP sees a packet before a checksum that is left to the device is filled in, so the sender has to do it; and a veth end
//! takes redirected frames only with NAPI on, which GRO turns on.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `GENL_ID_CTRL`, which tells the numbers of the other families.
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;
const CHANNELS_HEADER: u16 = 1;
const CHANNELS_RX_COUNT: u16 = 6;
const CHANNELS_COMBINED_COUNT: u16 = 9;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEVICE_INDEX: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_ACK: u16 = 0x5;
/// `NLMSG_ERROR`, which is also what acknowledges.
const ERROR: u16 = 2;
/// Octets of the headers of netlink, of the generic family, and of an attribute.
const NETLINK_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// Switches features of the interface with this index, in the calling thread's network namespace. Names are those of
/// `ethtool -k` as the kernel has them.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn set_features(index: u32, features: &[(&str, bool)]) -> io::Result<()> {
    let (socket, family) = connect()?;
    let bits: Vec<u8> = features
        .iter()
        .flat_map(|(name, on)| {
            let mut named = name.as_bytes().to_vec();
            named.push(0);
            let mut bit = attribute(BIT_NAME, &named);
            if *on {
                bit.extend(attribute(BIT_VALUE, &[]));
            }
            attribute(BIT | NESTED, &bit)
        })
        .collect();
    let mut body = device(FEATURES_HEADER, index);
    body.extend(attribute(
        FEATURES_WANTED | NESTED,
        &attribute(BITSET_BITS | NESTED, &bits),
    ));
    ask(&socket, family, FEATURES_SET, &body).map(|_| ())
}

/// Receive queues in use of the interface with this index, in the calling thread's network namespace; `None` if its driver does
/// not tell.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn receive_queues(index: u32) -> io::Result<Option<u32>> {
    let (socket, family) = connect()?;
    let answer = ask(&socket, family, CHANNELS_GET, &device(CHANNELS_HEADER, index))?;
    let count = |kind: u16| {
        let value = answer.iter().find_map(|message| find(message, kind));
        let count = value.and_then(|value| value.first_chunk().copied());
        count.map_or(0, u32::from_ne_bytes)
    };
    let queues = count(CHANNELS_RX_COUNT).saturating_add(count(CHANNELS_COMBINED_COUNT));
    Ok((queues > 0).then_some(queues))
}

/// A socket, and the number of the ethtool family.
fn connect() -> io::Result<(Socket, u16)> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = attribute(CONTROL_FAMILY_NAME, b"ethtool\0");
    let answer = ask(&socket, CONTROL, CONTROL_GET_FAMILY, &name)?;
    let family = answer.iter().find_map(|message| family_id(message));
    let family = family.ok_or_else(|| io::Error::other("this kernel has no ethtool netlink family"))?;
    Ok((socket, family))
}

/// The header of a command that names the interface.
fn device(header: u16, index: u32) -> Vec<u8> {
    attribute(
        header | NESTED,
        &attribute(HEADER_DEVICE_INDEX, &index.to_ne_bytes()),
    )
}

/// An attribute, padded to four octets.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    let mut octets = length.to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// Sends a command and reads the answers up to its acknowledgement.
fn ask(socket: &Socket, family: u16, command: u8, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let length = u32::try_from(NETLINK_HEADER + GENERIC_HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    // Sequence number, and the port, which the kernel knows.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(body);
    socket.send(&message, 0)?;
    let mut answers = Vec::new();
    loop {
        let (octets, _) = socket.recv_from_full()?;
        let mut rest = octets.as_slice();
        while let Some((message, next)) = first(rest) {
            rest = next;
            let payload = message.get(NETLINK_HEADER..).unwrap_or_default();
            if kind(message) != Some(ERROR) {
                answers.push(payload.to_vec());
                continue;
            }
            let code = payload.first_chunk().map_or(-1, |code| i32::from_ne_bytes(*code));
            return match code {
                0 => Ok(answers),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            };
        }
    }
}

/// The first netlink message of several, and the others.
fn first(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*octets.first_chunk()?) as usize;
    let message = octets.get(..length).filter(|_| length >= NETLINK_HEADER)?;
    Some((
        message,
        octets.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]))
}

/// The number of the family in an answer of the control family.
fn family_id(payload: &[u8]) -> Option<u16> {
    find(payload, CONTROL_FAMILY_ID)?
        .first_chunk()
        .copied()
        .map(u16::from_ne_bytes)
}

/// The value of the first attribute of this kind in an answer.
fn find(payload: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = payload.get(GENERIC_HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let found = rest.get(..length).filter(|_| length >= ATTRIBUTE_HEADER)?;
        if u16::from_ne_bytes([*found.get(2)?, *found.get(3)?]) == kind {
            return found.get(ATTRIBUTE_HEADER..);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let mut payload = vec![1, 2, 0, 0];
        payload.extend(attribute(CONTROL_FAMILY_NAME, b"ethtool\0"));
        assert_eq!(payload.len(), 16);
        payload.extend(attribute(7, &[1]));
        payload.extend(attribute(CONTROL_FAMILY_ID, &21u16.to_ne_bytes()));
        assert_eq!(family_id(&payload), Some(21));
        assert_eq!(family_id(&payload[..16]), None);
        // An attribute that says it is longer than what is there, or shorter than its header.
        assert_eq!(family_id(&[0, 0, 0, 0, 200, 0, 1, 0, 1, 0]), None);
        assert_eq!(family_id(&[0, 0, 0, 0, 0, 0, 1, 0, 1, 0]), None);
    }

    /// Any Linux has a loopback interface; switching nothing is allowed to everyone who may ask.
    #[test]
    fn the_kernel_knows_the_family_and_refuses_what_is_not_there() {
        let missing = set_features(u32::MAX, &[("rx-gro", true)]).expect_err("no such interface");
        assert!(missing.raw_os_error().is_some(), "{missing}");
        let missing = receive_queues(u32::MAX).expect_err("no such interface");
        assert!(missing.raw_os_error().is_some(), "{missing}");
    }
}

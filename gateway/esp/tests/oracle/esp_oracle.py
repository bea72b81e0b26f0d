"""What scapy says an ESP packet is, given the description that our vectors use.

scapy's ESP (scapy.layers.ipsec, over the `cryptography` package) shares no code with ours.
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether

# Our name for a suite: scapy's encryption, scapy's integrity, octets of encryption key.
SUITES = {
    "aes128gcm16": ("AES-GCM", "NULL", 20),
    "aes256gcm16": ("AES-GCM", "NULL", 36),
    "chacha20poly1305": ("CHACHA20-POLY1305", "NULL", 36),
    "aes128-sha256": ("AES-CBC", "SHA2-256-128", 16),
    "aes256-sha256": ("AES-CBC", "SHA2-256-128", 32),
    "aes128-sha384": ("AES-CBC", "SHA2-384-192", 16),
    "aes256-sha384": ("AES-CBC", "SHA2-384-192", 32),
    "aes128-sha512": ("AES-CBC", "SHA2-512-256", 16),
    "aes256-sha512": ("AES-CBC", "SHA2-512-256", 32),
}

LINK_DESTINATION = "02:00:00:00:00:02"
LINK_SOURCE = "02:00:00:00:00:01"


def security_association(vector, tunnel_header):
    """scapy's SA for a vector."""
    encryption, integrity, _ = SUITES[vector["suite"]]
    return SecurityAssociation(
        ESP,
        spi=vector["spi"],
        crypt_algo=encryption,
        crypt_key=bytes.fromhex(vector["encryption"]),
        auth_algo=integrity,
        auth_key=bytes.fromhex(vector["integrity"]) or None,
        tunnel_header=tunnel_header,
        nat_t_header=UDP(sport=4500, dport=4500) if vector["udp"] else None,
        esn_en=vector["esn"],
        esn=vector["sequence"] >> 32,
    )


def initialization_vector(vector):
    """The IV that our sender uses: the sequence number, for AES-CBC encrypted under the IV key."""
    if SUITES[vector["suite"]][1] == "NULL":
        return vector["sequence"].to_bytes(8, "big")
    encryptor = Cipher(algorithms.AES(bytes.fromhex(vector["iv_key"])), modes.ECB()).encryptor()
    return encryptor.update(vector["sequence"].to_bytes(16, "big"))


def outer_header(vector, tos):
    """The outer IP header that our sender writes, lengths and checksums left to scapy."""
    if vector["ipv6"]:
        label = (vector["spi"] ^ vector["spi"] >> 20) & 0xFFFFF
        return IPv6(src=vector["local"], dst=vector["remote"], tc=tos, fl=label, hlim=64)
    identification = vector["sequence"] & 0xFFFF
    return IP(src=vector["local"], dst=vector["remote"], tos=tos, id=identification, flags="DF", ttl=64)


def sealed_frame(vector):
    """The whole Ethernet frame for the vector's inner packet, as bytes."""
    inner = IP(bytes.fromhex(vector["inner"]))
    association = security_association(vector, outer_header(vector, inner.tos))
    packet = association.encrypt(
        inner,
        seq_num=vector["sequence"] & 0xFFFFFFFF,
        iv=initialization_vector(vector),
    )
    if vector["ipv6"] and vector["udp"]:
        # scapy leaves the checksum zero; over IPv6 it has to be there (RFC 8200 section 8.1).
        del packet[UDP].chksum
    return bytes(Ether(dst=LINK_DESTINATION, src=LINK_SOURCE) / packet)


def opened_packet(vector):
    """The inner packet that scapy finds in the vector's frame; raises if its integrity check fails."""
    frame = Ether(bytes.fromhex(vector["frame"]))
    outer = frame[IPv6] if vector["ipv6"] else frame[IP]
    if not vector["ipv6"]:
        recomputed = outer.copy()
        del recomputed.chksum
        if IP(bytes(recomputed)).chksum != outer.chksum:
            raise ValueError("outer IPv4 checksum is wrong")
    if vector["udp"] and vector["ipv6"]:
        recomputed = outer.copy()
        del recomputed[UDP].chksum
        if IPv6(bytes(recomputed))[UDP].chksum != outer[UDP].chksum:
            raise ValueError("UDP checksum over IPv6 is wrong")
    association = security_association(vector, outer_header(vector, 0))
    return bytes(association.decrypt(outer))

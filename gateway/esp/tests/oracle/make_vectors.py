#!/usr/bin/env python3
"""Writes ESP test vectors made by scapy to standard output, as JSON.

    make_vectors.py > ../data/scapy.json     make the committed file
    make_vectors.py --check FILE             fail if FILE is not what scapy makes today

Needs scapy and cryptography. The output depends on nothing but this file and scapy.
"""

import argparse
import hashlib
import json
import sys

from scapy.layers.inet import IP, UDP

from esp_oracle import SUITES, sealed_frame

ADDRESSES = {
    False: ("192.0.2.1", "198.51.100.7"),
    True: ("2001:db8::1", "2001:db8:1:2:3:4:5:6"),
}
# Every remainder of the padding's alignments, and one packet of a full link.
SMALL_SIZES = [28, 29, 30, 31, 39, 45, 84]
LARGE_SIZE = 1380
# As many octets as the hash gives (RFC 4868 section 2.1.1).
INTEGRITY_KEY_LEN = {"NULL": 0, "SHA2-256-128": 32, "SHA2-384-192": 48, "SHA2-512-256": 64}


def octets(label, count):
    """Octets that look random and are the same every time."""
    return hashlib.shake_256(label.encode()).digest(count)


def inner_packet(label, size, tos):
    header = IP(src="192.168.1.10", dst="10.1.0.80", tos=tos, id=0x1234, flags="DF", ttl=64)
    payload = octets(label, size - 28)
    return bytes(header / UDP(sport=40000, dport=53) / payload)


def sequences(esn):
    """Sequence numbers worth a look: the first, one with every octet set, and for ESN all halves."""
    return [1, 0x0A0B0C0D, 0xFFFFFFFF] + ([0x1_0000_0005, 0xFEDC_BA98_7654_3210] if esn else [])


def vectors():
    count = 0
    for suite, (_, integrity, key_len) in SUITES.items():
        for esn in (False, True):
            for ipv6 in (False, True):
                for udp in (False, True):
                    numbers = sequences(esn)
                    for sequence in numbers:
                        largest = not ipv6 and not udp and sequence == numbers[-1]
                        size = LARGE_SIZE if largest else SMALL_SIZES[count % len(SMALL_SIZES)]
                        name = f"{suite} esn={esn} ipv6={ipv6} udp={udp} sequence={sequence:#x} size={size}"
                        local, remote = ADDRESSES[ipv6]
                        vector = {
                            "name": name,
                            "suite": suite,
                            "esn": esn,
                            "sequence": sequence,
                            "spi": int.from_bytes(octets(name + " spi", 4), "big") | 0x100,
                            "encryption": octets(name + " encryption", key_len).hex(),
                            "integrity": octets(name + " integrity", INTEGRITY_KEY_LEN[integrity]).hex(),
                            "iv_key": octets(name + " iv", 16).hex(),
                            "ipv6": ipv6,
                            "local": local,
                            "remote": remote,
                            "udp": udp,
                            "inner": inner_packet(name, size, tos=(count * 37) & 0xFF).hex(),
                        }
                        vector["frame"] = sealed_frame(vector).hex()
                        count += 1
                        yield vector


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FILE", help="compare with FILE instead of writing")
    arguments = parser.parse_args()
    made = list(vectors())
    if arguments.check is None:
        json.dump(made, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    with open(arguments.check, encoding="utf-8") as file:
        if json.load(file) != made:
            print(f"{arguments.check} is not what scapy makes: regenerate it with make_vectors.py", file=sys.stderr)
            return 1
    print(f"{arguments.check}: scapy makes the same {len(made)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
